//! Prober and responder flows against each other over a simulated connection: no socket, no clock,
//! any split of the bytes. What the prober reports of the peer must be what the simulation did.

use proptest::prelude::*;
use rttscope::echo::{Echo, Responder, ResponderSettings};
use rttscope::event::{Action, Event, Outbox, RxStamps, TxStage, TxStamp};
use rttscope::probe::{Probe, ProbeSettings, Wire};
use rttscope::sample::{Outcome, Sample};
use rttscope::time::{Mono, Now, Wall};

const MS: u64 = 1_000_000;
/// One way, driver to driver.
const TRIP_NS: u64 = 150_000;
/// Kernel in to kernel out of the responder.
const RESIDENCE_NS: u64 = 70_000;
/// Application to driver, and driver to application.
const STACK_NS: u64 = 5_000;
/// The responder's wall clock is ahead by this.
const AHEAD_NS: u64 = 3_600_000_000_000;

/// What travels.
enum Coming {
    ToProbe(Vec<u8>, Option<Wall>),
    ToEcho(Vec<u8>, Option<Wall>),
    ProbeTx(TxStamp),
    EchoTx(TxStamp),
    Connected,
}

struct World {
    now_ns: u64,
    probe: Probe,
    responder: Responder,
    echo: Echo,
    coming: Vec<(u64, Coming)>,
    /// Bytes sent since each side's stamps were switched on.
    probe_bytes: u32,
    echo_bytes: Option<u32>,
    /// Bytes a piece, in turn; the kernel's stamp is on the last piece only.
    cuts: Vec<usize>,
    /// How long after the send the responder learns its transmit stamp.
    stamp_delay_ns: u64,
    samples: Vec<Sample>,
}

impl World {
    fn new(settings: ProbeSettings, cuts: Vec<usize>, stamp_delay_ns: u64) -> Self {
        let mut responder = Responder::new(ResponderSettings {
            idle_timeout_ns: 60_000 * MS,
            connections_max: 1,
            stamps_wanted: true,
        });
        assert!(responder.admit());
        Self {
            now_ns: 0,
            probe: Probe::new(settings, at(0).mono),
            echo: Echo::new(&responder, at(0)),
            responder,
            coming: Vec::new(),
            probe_bytes: 0,
            echo_bytes: None,
            cuts,
            stamp_delay_ns,
            samples: Vec::new(),
        }
    }

    fn run(&mut self) {
        let mut out = Outbox::default();
        while !self.probe.is_finished() {
            let next = self.coming.iter().enumerate().min_by_key(|(_, (at, _))| *at);
            let next = next.map(|(index, (at, _))| (*at, index));
            let due = self.probe.deadline().map(|due| due.as_ns() - at(0).mono.as_ns());
            match next.filter(|(at, _)| due.is_none_or(|due| *at <= due)) {
                Some((at, index)) => {
                    self.now_ns = at;
                    let (_, coming) = self.coming.remove(index);
                    self.deliver(coming, &mut out);
                }
                None => {
                    self.now_ns = due.expect("a run that is not over waits for something");
                    let now = at(self.now_ns);
                    self.probe.on(Event::Due(now.mono), now, &mut out);
                    self.act_for_probe(&mut out);
                }
            }
        }
    }

    fn deliver(&mut self, coming: Coming, out: &mut Outbox) {
        let now = at(self.now_ns);
        let there = Now { wall: Wall::from_ns(now.wall.as_ns() + AHEAD_NS), ..now };
        match coming {
            Coming::Connected => self.probe.on(Event::Connected, now, out),
            Coming::ProbeTx(stamp) => self.probe.on(Event::Stamped(stamp), now, out),
            Coming::ToProbe(bytes, sw) => {
                let stamps = RxStamps { sw, hw: None };
                self.probe.on(Event::Received { bytes: &bytes, stamps }, now, out);
            }
            Coming::EchoTx(stamp) => {
                return self.echo.on(&mut self.responder, Event::Stamped(stamp), there, out);
            }
            Coming::ToEcho(bytes, sw) => {
                let stamps = RxStamps { sw, hw: None };
                let event = Event::Received { bytes: &bytes, stamps };
                self.echo.on(&mut self.responder, event, there, out);
                return self.act_for_echo(out);
            }
        }
        self.act_for_probe(out);
    }

    fn act_for_probe(&mut self, out: &mut Outbox) {
        self.samples.append(&mut out.samples);
        for action in std::mem::take(&mut out.actions) {
            match action {
                Action::Connect(_) => self.coming.push((self.now_ns + MS, Coming::Connected)),
                Action::Send(range) => {
                    let bytes = &out.bytes[range];
                    self.probe_bytes += u32::try_from(bytes.len()).expect("small");
                    let key = self.probe_bytes - 1;
                    let left_ns = self.now_ns + STACK_NS;
                    let stages = [
                        TxStage::Sched(at(left_ns - 1_000).wall),
                        TxStage::Software(at(left_ns).wall),
                    ];
                    for stage in stages {
                        let coming = Coming::ProbeTx(TxStamp { key, stage });
                        self.coming.push((left_ns + STACK_NS, coming));
                    }
                    let arrived_ns = left_ns + TRIP_NS;
                    let sw = Wall::from_ns(at(arrived_ns).wall.as_ns() + AHEAD_NS);
                    for (last, piece) in pieces(bytes, &mut self.cuts) {
                        let coming = Coming::ToEcho(piece, last.then_some(sw));
                        self.coming.push((arrived_ns + STACK_NS, coming));
                    }
                    let ack = TxStage::Ack(at(arrived_ns + TRIP_NS).wall);
                    let coming = Coming::ProbeTx(TxStamp { key, stage: ack });
                    self.coming.push((arrived_ns + TRIP_NS + RESIDENCE_NS, coming));
                }
                Action::Close => {}
                Action::Stamp
                | Action::Resolve
                | Action::Check { .. }
                | Action::Withdraw(_)
                | Action::TimeOut(_) => panic!("not the prober's to ask here"),
            }
        }
        out.clear();
    }

    fn act_for_echo(&mut self, out: &mut Outbox) {
        for action in std::mem::take(&mut out.actions) {
            match action {
                Action::Stamp => self.echo_bytes = Some(0),
                Action::Send(range) => {
                    let bytes = &out.bytes[range];
                    let left_ns = self.now_ns - STACK_NS + RESIDENCE_NS;
                    if let Some(sent) = &mut self.echo_bytes {
                        *sent += u32::try_from(bytes.len()).expect("small");
                        let wall = Wall::from_ns(at(left_ns).wall.as_ns() + AHEAD_NS);
                        let stage = TxStage::Software(wall);
                        let coming = Coming::EchoTx(TxStamp { key: *sent - 1, stage });
                        self.coming.push((left_ns + self.stamp_delay_ns, coming));
                    }
                    let arrived_ns = left_ns + TRIP_NS;
                    for (last, piece) in pieces(bytes, &mut self.cuts) {
                        let coming = Coming::ToProbe(piece, last.then(|| at(arrived_ns).wall));
                        self.coming.push((arrived_ns + STACK_NS, coming));
                    }
                }
                other => panic!("a healthy prober is not answered by {other:?}"),
            }
        }
        out.clear();
    }
}

fn at(ns: u64) -> Now {
    Now { mono: Mono::from_ns(1_000 * MS + ns), wall: Wall::from_ns((1 << 60) + ns) }
}

fn pieces(bytes: &[u8], cuts: &mut [usize]) -> Vec<(bool, Vec<u8>)> {
    cuts.rotate_left(1);
    let cut = cuts.first().copied().unwrap_or(bytes.len());
    let count = bytes.len().div_ceil(cut);
    (1..).zip(bytes.chunks(cut)).map(|(i, piece)| (i == count, piece.to_vec())).collect()
}

fn settings() -> ProbeSettings {
    ProbeSettings {
        interval_ns: 10 * MS,
        phase_ns: 3 * MS,
        timeout_ns: 100 * MS,
        adaptive: false,
        window: 10,
        count: Some(30),
        stop_at: None,
        wire: Wire::Auto,
        padding_bytes: 0,
        stamps_wanted: true,
        resolve_interval_ns: None,
        in_flight_max: 100,
        addresses: vec![([127, 0, 0, 1], 4_000).into()],
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn the_prober_reports_what_the_network_and_the_responder_did(
        cuts in proptest::collection::vec(24_usize..200, 1..20),
        padding_bytes in 0_u16..200,
        stamp_delay_ns in 0_u64..2 * TRIP_NS,
    ) {
        let run = ProbeSettings { padding_bytes, ..settings() };
        let mut world = World::new(run, cuts, stamp_delay_ns);
        world.run();
        let counters = *world.probe.counters();
        prop_assert_eq!((counters.sent, counters.received, counters.wire_version), (30, 30, 3));
        prop_assert_eq!((counters.missing_peer, counters.missing_tx_ack), (0, 0));
        prop_assert_eq!(world.samples.len(), 30);
        for sample in &world.samples {
            prop_assert_eq!((sample.outcome, sample.rejection), (Outcome::Received, None));
            prop_assert_eq!(sample.peer_ns, Some(RESIDENCE_NS));
            prop_assert_eq!(sample.network_ns, Some(2 * TRIP_NS));
            prop_assert_eq!(sample.send_ns, Some(STACK_NS));
            prop_assert_eq!(sample.wakeup_ns, Some(STACK_NS));
            prop_assert_eq!(sample.app_rtt_ns, Some(2 * TRIP_NS + RESIDENCE_NS + 2 * STACK_NS));
        }
        let echo = *world.responder.counters();
        prop_assert_eq!((echo.missing_rx_sw, echo.missing_tx_sw, echo.closed_protocol), (0, 0, 0));
    }

    /// A hello that arrives in pieces is no hello; the connection is then a plain echo.
    #[test]
    fn plain_echo_serves_every_version(
        wire in prop_oneof![Just(Wire::V1), Just(Wire::V2), Just(Wire::Auto)],
        cut in 1_usize..24,
    ) {
        let run = ProbeSettings { wire, ..settings() };
        let mut world = World::new(run, vec![cut], 0);
        world.run();
        let counters = *world.probe.counters();
        prop_assert_eq!((counters.received, counters.connects, counters.dropped), (30, 1, 0));
        let version = if wire == Wire::V1 { 1 } else { 2 };
        prop_assert_eq!(counters.wire_version, version);
        prop_assert!(world.samples.iter().all(|sample| sample.peer_ns.is_none()));
    }
}
