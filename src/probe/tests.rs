//! The prober as scripts: a simulated peer answers actions with events at simulated times. After
//! every step the counters reconcile and the deadline lies ahead.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::event::{RxStamps, TxStage, TxStamp};
use crate::sample::Clock;
use crate::time::{Phc, Wall};
use crate::wire::{HelloReply, PreviousTx};

const MS: u64 = 1_000_000;
/// The simulated clocks start here.
const START: Now = Now { mono: Mono::from_ns(1_000_000 * MS), wall: Wall::from_ns(1 << 60) };

/// What the simulated world sends to the prober.
#[derive(Clone, Debug)]
enum Incoming {
    Connected,
    Bytes(Vec<u8>),
    /// With the kernel's receive stamp, so many ns before it is read.
    Stamped(Vec<u8>, u64),
    Tx(TxStamp),
    Closed(Failure),
    Resolved(Option<Vec<SocketAddr>>),
}

/// What the prober does to the world.
enum Outgoing<'a> {
    Connect(SocketAddr),
    Bytes(&'a [u8]),
    Resolve,
}

/// When, after now, what comes back.
type Replies = Vec<(u64, Incoming)>;

/// The world: the ns since the start, what the prober did, what comes of it.
type World<'a> = Box<dyn FnMut(u64, Outgoing<'_>, &mut Replies) + 'a>;

struct Script<'a> {
    probe: Probe,
    now: Now,
    out: Outbox,
    peer: World<'a>,
    coming: Vec<(Mono, Incoming)>,
    samples: Vec<Sample>,
    dials: Vec<(u64, SocketAddr)>,
    steps: u64,
}

fn settings() -> ProbeSettings {
    ProbeSettings {
        interval_ns: 10 * MS,
        phase_ns: 0,
        timeout_ns: 200 * MS,
        adaptive: false,
        window: 100,
        count: None,
        stop_at: None,
        wire: Wire::Auto,
        padding_bytes: 0,
        stamps_wanted: false,
        resolve_interval_ns: None,
        in_flight_max: 1_024,
        addresses: vec![address(1)],
    }
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], port))
}

fn after(now: Now, ns: u64) -> Now {
    now.after(std::time::Duration::from_nanos(ns))
}

impl<'a> Script<'a> {
    /// The peer gets the ns since the start.
    fn new(
        settings: ProbeSettings,
        peer: impl FnMut(u64, Outgoing<'_>, &mut Replies) + 'a,
    ) -> Self {
        Self {
            probe: Probe::new(settings, START.mono),
            now: START,
            out: Outbox::default(),
            peer: Box::new(peer),
            coming: Vec::new(),
            samples: Vec::new(),
            dials: Vec::new(),
            steps: 0,
        }
    }

    fn elapsed(&self) -> u64 {
        self.now.mono.as_ns() - START.mono.as_ns()
    }

    fn counters(&self) -> ProbeCounters {
        *self.probe.counters()
    }

    fn on(&mut self, event: Event<'_>) {
        self.probe.on(event, self.now, &mut self.out);
        self.after_step();
    }

    /// Plays the world until so many ms after the start.
    fn run_to(&mut self, ms: u64) {
        let end = START.mono.offset_ns(i64::try_from(ms * MS).unwrap());
        loop {
            let coming = self.coming.iter().enumerate().min_by_key(|(_, (at, _))| *at);
            let coming = coming.map(|(index, (at, _))| (*at, index));
            let due = self.probe.deadline();
            // The kernel's news come before the timer's, as the worker has them.
            let event_first = coming.is_some_and(|(at, _)| due.is_none_or(|due| at <= due));
            let next = if event_first { coming.map(|(at, _)| at) } else { due };
            let Some(next) = next.filter(|next| *next <= end) else { break };
            self.advance_to(next);
            match coming.filter(|_| event_first) {
                Some((_, index)) => {
                    let (_, incoming) = self.coming.remove(index);
                    self.deliver(&incoming);
                }
                None => self.due(),
            }
        }
        self.advance_to(end);
    }

    fn advance_to(&mut self, to: Mono) {
        self.now = after(self.now, u64::try_from(to.since_ns(self.now.mono)).unwrap_or(0));
    }

    fn due(&mut self) {
        self.on(Event::Due(self.now.mono));
        let deadline = self.probe.deadline();
        assert!(deadline.is_none_or(|at| at > self.now.mono), "a busy loop at {:?}", self.now);
    }

    fn deliver(&mut self, incoming: &Incoming) {
        match incoming {
            Incoming::Connected => self.on(Event::Connected),
            Incoming::Bytes(bytes) => {
                self.on(Event::Received { bytes, stamps: RxStamps::default() });
            }
            Incoming::Stamped(bytes, ago) => {
                let sw = Some(self.now.wall.offset_ns(-i64::try_from(*ago).unwrap()));
                self.on(Event::Received { bytes, stamps: RxStamps { sw, hw: None } });
            }
            Incoming::Tx(stamp) => self.on(Event::Stamped(*stamp)),
            Incoming::Closed(failure) => {
                self.forget_connection();
                self.on(Event::Closed(*failure));
            }
            Incoming::Resolved(addresses) => self.on(Event::Resolved(addresses.as_deref())),
        }
    }

    fn forget_connection(&mut self) {
        self.coming.retain(|(_, incoming)| matches!(incoming, Incoming::Resolved(_)));
    }

    /// Invariants, and the world's reactions.
    fn after_step(&mut self) {
        self.steps += 1;
        let counters = self.counters();
        assert_eq!(counters.sent, counters.received + counters.timeouts + counters.in_flight);
        assert!(counters.window_lost <= counters.window_probes);
        self.samples.append(&mut self.out.samples);
        let elapsed = self.elapsed();
        let actions = std::mem::take(&mut self.out.actions);
        for action in &actions {
            let mut replies = Replies::new();
            match action {
                Action::Connect(address) => {
                    self.dials.push((elapsed / MS, *address));
                    (self.peer)(elapsed, Outgoing::Connect(*address), &mut replies);
                }
                Action::Send(range) => {
                    let bytes = self.out.bytes[range.clone()].to_vec();
                    (self.peer)(elapsed, Outgoing::Bytes(&bytes), &mut replies);
                }
                Action::Close => self.forget_connection(),
                Action::Resolve => (self.peer)(elapsed, Outgoing::Resolve, &mut replies),
                Action::Stamp => panic!("the prober's stamps are switched on before Connected"),
                Action::Check { .. } | Action::Withdraw(_) | Action::TimeOut(_) => {
                    panic!("a prober checks nothing")
                }
            }
            for (ns, incoming) in replies {
                self.coming.push((after(self.now, ns).mono, incoming));
            }
        }
        self.out.clear();
    }

    /// The samples' outcomes: each sequence once.
    fn outcomes(&self) -> Vec<Outcome> {
        let seqs: BTreeSet<_> = self.samples.iter().map(|sample| sample.seq).collect();
        assert_eq!(seqs.len(), self.samples.len(), "a sample was finished twice");
        self.samples.iter().map(|sample| sample.outcome).collect()
    }
}

/// Bytes come back as they went, after `ns`.
fn raw_echo(ns: u64) -> impl FnMut(u64, Outgoing<'_>, &mut Replies) {
    move |_, outgoing, replies| match outgoing {
        Outgoing::Connect(_) => replies.push((MS, Incoming::Connected)),
        Outgoing::Bytes(bytes) => replies.push((ns, Incoming::Bytes(bytes.to_vec()))),
        Outgoing::Resolve => {}
    }
}

/// A server that reads whole frames of `frame_bytes`, and closes when `accepts` says no.
fn framed(
    frame_bytes: usize,
    accepts: fn(&[u8]) -> bool,
) -> impl FnMut(u64, Outgoing<'_>, &mut Replies) {
    let mut held = Vec::new();
    move |_, outgoing, replies| match outgoing {
        Outgoing::Connect(_) => {
            held.clear();
            replies.push((MS, Incoming::Connected));
        }
        Outgoing::Bytes(bytes) => {
            held.extend_from_slice(bytes);
            while held.len() >= frame_bytes {
                let frame: Vec<u8> = held.drain(..frame_bytes).collect();
                if accepts(&frame) {
                    replies.push((MS, Incoming::Bytes(frame)));
                } else {
                    replies.push((MS, Incoming::Closed(Failure::Eof)));
                }
            }
        }
        Outgoing::Resolve => {}
    }
}

/// A v3 responder: the trip takes 3 ms, 1 ms of them inside it. With kernel stamps everywhere.
fn v3_peer(kernel_stamps: bool) -> impl FnMut(u64, Outgoing<'_>, &mut Replies) {
    let mut offset = 0_u32;
    let mut previous = None;
    move |elapsed, outgoing, replies| match outgoing {
        Outgoing::Connect(_) => {
            (offset, previous) = (0, None);
            replies.push((MS, Incoming::Connected));
        }
        Outgoing::Bytes(bytes) => {
            offset += u32::try_from(bytes.len()).unwrap();
            if wire::is_hello(bytes) {
                let reply = wire::encode_hello_reply(HelloReply { kernel_stamps });
                replies.push((MS, Incoming::Bytes(reply.to_vec())));
                return;
            }
            let request = wire::decode(Version::V3, bytes).unwrap();
            assert_eq!(bytes.len(), wire::V3_HEADER_BYTES + usize::from(request.padding_bytes));
            let wall = |ns: u64| Wall::from_ns(START.wall.as_ns() + elapsed + ns);
            // The peer's clock is a second ahead.
            let peer = |ns: u64| Wall::from_ns(wall(ns).as_ns() + 1_000 * MS);
            let rx = kernel_stamps.then(|| peer(MS));
            let reply = Frame { rx, previous: previous.take(), ..request };
            if kernel_stamps {
                previous = Some(PreviousTx { seq: request.seq, tx: peer(2 * MS) });
            }
            let mut bytes = wire::encode_v3(&reply).to_vec();
            bytes.resize(bytes.len() + usize::from(reply.padding_bytes), 0);
            let key = offset - 1;
            for stage in [TxStage::Sched(wall(500)), TxStage::Software(wall(1_000))] {
                replies.push((2_000, Incoming::Tx(TxStamp { key, stage })));
            }
            replies.push((3 * MS, Incoming::Stamped(bytes, 4_000)));
            let stage = TxStage::Ack(wall(3 * MS));
            replies.push((3 * MS + 1_000, Incoming::Tx(TxStamp { key, stage })));
        }
        Outgoing::Resolve => {}
    }
}

#[test]
fn every_kind_of_peer_is_spoken_to_in_its_own_language() {
    let peers: [(u64, Wire, World<'_>); 8] = [
        (2, Wire::Auto, Box::new(raw_echo(MS))),
        (2, Wire::Auto, Box::new(framed(24, |frame| frame.starts_with(&wire::MAGIC)))),
        (1, Wire::Auto, Box::new(framed(16, |_| true))),
        (3, Wire::Auto, Box::new(v3_peer(true))),
        (3, Wire::V3, Box::new(v3_peer(false))),
        (1, Wire::V1, Box::new(framed(16, |_| true))),
        (1, Wire::V1, Box::new(raw_echo(MS))),
        (2, Wire::V2, Box::new(framed(24, |frame| frame.starts_with(&wire::MAGIC)))),
    ];
    for (version, wire, peer) in peers {
        let count = Some(50);
        let padding_bytes = 9;
        let mut script =
            Script::new(ProbeSettings { wire, count, padding_bytes, ..settings() }, peer);
        script.run_to(2_000);
        let counters = script.counters();
        assert_eq!((counters.wire_version, counters.sent, counters.received), (version, 50, 50));
        assert_eq!((counters.connects, counters.dropped, counters.late), (1, 0, 0));
        assert_eq!((counters.unknown_replies, counters.garbage_bytes), (0, 0));
        assert!(script.probe.is_finished());
        assert_eq!(script.outcomes(), [Outcome::Received; 50]);
    }
}

#[test]
fn a_run_is_open_loop_from_the_first_connection_on() {
    let phase_ns = 3 * MS;
    let mut script = Script::new(ProbeSettings { phase_ns, ..settings() }, raw_echo(7 * MS));
    script.run_to(1_000);
    let due: Vec<_> = script.samples.iter().map(|sample| sample.stamps.due.as_ns()).collect();
    assert!(due.len() > 90);
    assert!(due.windows(2).all(|pair| pair[1] - pair[0] == 10 * MS));
    // Connected after 1 ms, the hello's answer after 7 ms more.
    assert_eq!(due[0], START.mono.as_ns() + 8 * MS + phase_ns);
    assert_eq!(script.samples[0].app_rtt_ns, Some(7 * MS));
    assert_eq!(script.counters().last_rtt_ns, 7 * MS);
}

#[test]
fn peer_residence_comes_with_the_next_reply_and_the_last_one_with_a_follow_up() {
    let run = ProbeSettings { stamps_wanted: true, count: Some(20), ..settings() };
    let mut script = Script::new(run, v3_peer(true));
    script.run_to(2_000);
    assert_eq!(script.outcomes(), [Outcome::Received; 20]);
    for sample in &script.samples {
        assert_eq!((sample.clock, sample.rejection), (Some(Clock::Kernel), None), "{sample:?}");
        assert_eq!(sample.peer_ns, Some(MS));
        assert_eq!(sample.rtt_ns, Some(3 * MS - 5_000));
        assert_eq!(sample.network_ns, Some(2 * MS - 5_000));
        assert_eq!(sample.send_ns, Some(1_000));
        assert_eq!(sample.wakeup_ns, Some(4_000));
        assert!(sample.stamps.tx_ack.is_some());
    }
    let counters = script.counters();
    assert_eq!((counters.sent, counters.missing_peer, counters.missing_tx_ack), (20, 0, 0));
    assert_eq!((counters.last_rtt_ns, counters.rtt_ns_max), (3 * MS - 5_000, 3 * MS - 5_000));
    assert!(script.probe.is_finished());
}

#[test]
fn a_peer_without_kernel_stamps_costs_no_waiting() {
    let run = ProbeSettings { stamps_wanted: true, ..settings() };
    let mut script = Script::new(run, v3_peer(false));
    script.run_to(1_000);
    let counters = script.counters();
    assert!(counters.received > 90);
    assert!(counters.received - u64::try_from(script.samples.len()).unwrap() <= 1);
    assert!(script.samples.iter().all(|sample| sample.clock == Some(Clock::Kernel)));
    assert!(script.samples.iter().all(|sample| sample.peer_ns.is_none()));
    assert_eq!(counters.missing_peer, u64::try_from(script.samples.len()).unwrap());
}

#[test]
fn missing_stamps_are_counted_and_hold_nothing_up_for_ever() {
    let run = ProbeSettings { stamps_wanted: true, wire: Wire::V2, count: Some(30), ..settings() };
    let mut script = Script::new(run, raw_echo(MS));
    script.run_to(2_000);
    assert_eq!(script.outcomes(), [Outcome::Received; 30]);
    let counters = script.counters();
    let missing = [
        counters.missing_tx_sched,
        counters.missing_tx_sw,
        counters.missing_tx_ack,
        counters.missing_rx_sw,
    ];
    assert_eq!((missing, counters.missing_peer), ([30; 4], 0));
    assert!(script.samples.iter().all(|sample| sample.clock == Some(Clock::Application)));
}

/// Stamps of one v2 probe, in any order around its reply.
#[test]
fn stamps_may_come_before_or_after_the_reply() {
    let sent = |stage| Incoming::Tx(TxStamp { key: 23, stage });
    let wall = |ns: u64| Wall::from_ns(START.wall.as_ns() + MS + ns);
    let reply = Incoming::Stamped(wire::encode_v2(1, wall(0)).to_vec(), 100);
    let mut parts = vec![
        sent(TxStage::Sched(wall(500))),
        sent(TxStage::Software(wall(1_000))),
        reply,
        sent(TxStage::Ack(wall(2_000))),
    ];
    for order in 0..24 {
        parts.rotate_left(1);
        if order % 4 == 3 {
            parts.swap(0, 1 + order / 4 % 3);
        }
        let run =
            ProbeSettings { stamps_wanted: true, wire: Wire::V2, count: Some(1), ..settings() };
        let mut script = Script::new(run, |_, outgoing, replies| match outgoing {
            Outgoing::Connect(_) => replies.push((MS, Incoming::Connected)),
            Outgoing::Bytes(_) => {
                for (ns, part) in (5_000..).step_by(1_000).zip(&parts) {
                    replies.push((ns, part.clone()));
                }
            }
            Outgoing::Resolve => {}
        });
        script.run_to(5);
        let sample = script.samples[0];
        let stamps = sample.stamps;
        assert_eq!(sample.clock, Some(Clock::Kernel), "{parts:?}");
        assert_eq!(stamps.tx_sw, Some(wall(1_000)));
        // Only what came two steps after the last one of the essential stamps is missed.
        let counters = script.counters();
        let missing = counters.missing_tx_sched + counters.missing_tx_ack;
        let kept = [stamps.tx_sched, stamps.tx_ack].iter().flatten().count();
        assert_eq!((missing, kept), if kept == 2 { (0, 2) } else { (1, 1) }, "{parts:?}");
        assert!(script.probe.is_finished());
    }
}

#[test]
fn a_card_that_stamps_is_waited_for() {
    let run = ProbeSettings { stamps_wanted: true, wire: Wire::V1, count: Some(1), ..settings() };
    let mut script = Script::new(run, raw_echo(1 << 40));
    script.run_to(1);
    let now = script.now.wall;
    let (sw, hw) = (Some(now.offset_ns(2_000)), Some(Phc::from_ns(5_900)));
    script.on(Event::Stamped(TxStamp { key: 15, stage: TxStage::Sched(now.offset_ns(5)) }));
    script.on(Event::Stamped(TxStamp { key: 15, stage: TxStage::Software(now.offset_ns(10)) }));
    script.advance_to(script.now.mono.offset_ns(3_000));
    let reply = wire::encode_v1(1, now);
    script.on(Event::Received { bytes: &reply, stamps: RxStamps { sw, hw } });
    script.on(Event::Stamped(TxStamp { key: 15, stage: TxStage::Ack(now.offset_ns(2_000)) }));
    assert_eq!(script.samples, []);
    script.on(Event::Stamped(TxStamp { key: 15, stage: TxStage::Hardware(Phc::from_ns(5_000)) }));
    let sample = script.samples[0];
    assert_eq!((sample.clock, sample.rtt_ns), (Some(Clock::Hardware), Some(900)));
}

#[test]
fn a_retransmission_does_not_hide_the_time_that_the_network_took() {
    let run = ProbeSettings {
        stamps_wanted: true,
        wire: Wire::V1,
        count: Some(1),
        timeout_ns: 800 * MS,
        ..settings()
    };
    let mut script = Script::new(run, raw_echo(1 << 40));
    script.run_to(1);
    let sent = script.now.wall;
    for copy_ns in [0, 200_000_000] {
        let sched = TxStage::Sched(sent.offset_ns(copy_ns + 5));
        let software = TxStage::Software(sent.offset_ns(copy_ns + 10));
        script.advance_to(script.now.mono.offset_ns(copy_ns));
        script.on(Event::Stamped(TxStamp { key: 15, stage: sched }));
        script.on(Event::Stamped(TxStamp { key: 15, stage: software }));
    }
    script.advance_to(script.now.mono.offset_ns(100_000));
    let rx = script.now.wall;
    let reply = wire::encode_v1(1, sent);
    script.on(Event::Received { bytes: &reply, stamps: RxStamps { sw: Some(rx), hw: None } });
    script.on(Event::Stamped(TxStamp { key: 15, stage: TxStage::Ack(rx) }));
    let sample = script.samples[0];
    assert_eq!((sample.clock, sample.send_ns), (Some(Clock::Kernel), Some(10)));
    assert_eq!(sample.rtt_ns, Some(200_100_000 - 10));
}

#[test]
fn our_own_stall_loses_nothing_that_had_arrived_by_then() {
    let run = ProbeSettings { wire: Wire::V2, ..settings() };
    let mut script = Script::new(run, raw_echo(1 << 40));
    script.run_to(15);
    assert_eq!(script.counters().in_flight, 2);
    script.advance_to(script.now.mono.offset_ns(500_000_000));
    for seq in [1, 2] {
        let reply = wire::encode_v2(seq, Wall::default()).to_vec();
        script.deliver(&Incoming::Stamped(reply, 480 * MS));
    }
    assert_eq!((script.counters().received, script.counters().timeouts), (2, 0));
    // What had not been looked for since its deadline is not judged either.
    let before = script.counters();
    script.advance_to(script.now.mono.offset_ns(500_000_000));
    script.on(Event::Due(script.now.mono.offset_ns(-500_000_000)));
    assert_eq!(script.counters().timeouts, before.timeouts);
    script.on(Event::Due(script.now.mono));
    assert!(script.counters().timeouts > before.timeouts);
}

#[test]
fn only_the_last_frame_of_a_chunk_has_the_chunks_stamp() {
    let run = ProbeSettings { stamps_wanted: true, wire: Wire::V2, count: Some(3), ..settings() };
    let mut script = Script::new(run, raw_echo(1 << 40));
    script.run_to(25);
    let frames = [1, 2, 3].map(|seq| wire::encode_v2(seq, Wall::default())).concat();
    script.deliver(&Incoming::Stamped(frames[..60].to_vec(), 10));
    script.deliver(&Incoming::Stamped(frames[60..].to_vec(), 10));
    script.run_to(1_000);
    let stamped: Vec<_> =
        script.samples.iter().map(|sample| sample.stamps.rx.sw.is_some()).collect();
    assert_eq!(stamped, [false, false, true]);
    assert_eq!(script.counters().missing_rx_sw, 2);
}

#[test]
fn a_dead_target_loses_everything_at_the_full_rate_without_tight_dialing() {
    let refuse = |_: u64, outgoing: Outgoing<'_>, replies: &mut Replies| {
        if let Outgoing::Connect(_) = outgoing {
            replies.push((MS, Incoming::Closed(Failure::Refused)));
        }
    };
    let mut script = Script::new(settings(), refuse);
    script.run_to(10_001);
    let counters = script.counters();
    assert_eq!((counters.sent, counters.timeouts, counters.received), (1_001, 1_001, 0));
    assert_eq!((counters.window_probes, counters.window_lost), (100, 100));
    assert_eq!((counters.connects, counters.connected), (0, 0));
    assert_eq!(script.outcomes(), vec![Outcome::Lost(Failure::Refused); 1_001]);
    assert!(script.samples.iter().all(|sample| sample.lag_ns.is_none()));
    // After 0, 0.5, 1.5, 3.5 and 7.5 s.
    assert_eq!((script.dials.len(), counters.dropped), (5, 5));
}

#[test]
fn accept_then_close_is_no_tight_loop() {
    let close = |_: u64, outgoing: Outgoing<'_>, replies: &mut Replies| {
        if let Outgoing::Connect(_) = outgoing {
            replies.push((MS, Incoming::Connected));
            replies.push((2 * MS, Incoming::Closed(Failure::Eof)));
        }
    };
    for wire in [Wire::Auto, Wire::V1] {
        let mut script = Script::new(ProbeSettings { wire, ..settings() }, close);
        script.run_to(10_000);
        let counters = script.counters();
        assert_eq!((counters.connects, counters.dropped, script.dials.len()), (5, 5, 5));
        assert!(counters.sent > 990);
        assert_eq!(counters.timeouts, counters.sent);
        let eof = Outcome::Lost(Failure::Eof);
        assert!(script.outcomes().iter().all(|outcome| *outcome == eof));
    }
}

#[test]
fn one_reply_a_connection_is_no_tight_loop_either() {
    let mut script = Script::new(ProbeSettings { wire: Wire::V1, ..settings() }, {
        |_, outgoing, replies| match outgoing {
            Outgoing::Connect(_) => replies.push((MS, Incoming::Connected)),
            Outgoing::Bytes(bytes) => {
                replies.push((MS, Incoming::Bytes(bytes.to_vec())));
                replies.push((2 * MS, Incoming::Closed(Failure::Reset)));
            }
            Outgoing::Resolve => {}
        }
    });
    script.run_to(10_000);
    assert!((15..=21).contains(&script.dials.len()), "{:?}", script.dials);
    assert!(script.dials.windows(2).all(|pair| pair[1].0 - pair[0].0 >= 500));
}

#[test]
fn an_adaptive_timeout_does_not_hide_a_stall() {
    let stall = 2_000 * MS..3_500 * MS;
    let run = ProbeSettings { adaptive: true, ..settings() };
    let mut script = Script::new(run, |elapsed, outgoing, replies| match outgoing {
        Outgoing::Connect(_) => replies.push((MS, Incoming::Connected)),
        Outgoing::Bytes(bytes) => {
            let resumed = if stall.contains(&elapsed) { stall.end - elapsed } else { 0 };
            replies.push((resumed + MS, Incoming::Bytes(bytes.to_vec())));
        }
        Outgoing::Resolve => {}
    });
    script.run_to(1_900);
    assert_eq!(script.counters().timeout_ns, 100 * MS);
    assert_eq!(script.counters().timeouts, 0);
    script.run_to(8_000);
    let counters = script.counters();
    // 150 slots fall into the stall; those of its last 100 ms are answered in time.
    assert!((138..=142).contains(&counters.timeouts), "{counters:?}");
    assert_eq!(counters.late_replies, counters.timeouts);
    assert_eq!((counters.connects, counters.timeout_ns), (1, 100 * MS));
}

#[test]
fn a_reply_in_two_pieces_further_apart_than_the_timeout_disturbs_no_later_one() {
    for wire in [Wire::V1, Wire::V2, Wire::V3] {
        let mut v3 = v3_peer(true);
        let mut count = 0;
        let run = ProbeSettings { wire, ..settings() };
        let mut script = Script::new(run, move |elapsed, outgoing, replies: &mut Replies| {
            let Outgoing::Bytes(bytes) = outgoing else {
                return v3(elapsed, outgoing, replies);
            };
            let mut whole = Replies::new();
            if wire == Wire::V3 {
                v3(elapsed, Outgoing::Bytes(bytes), &mut whole);
                whole.retain(|(_, incoming)| !matches!(incoming, Incoming::Tx(_)));
            } else {
                whole.push((MS, Incoming::Bytes(bytes.to_vec())));
            }
            count += 1;
            let (Incoming::Bytes(bytes) | Incoming::Stamped(bytes, _)) = whole.remove(0).1 else {
                unreachable!("only bytes were kept")
            };
            if count != 20 {
                // Everything behind the piece that is missing waits for it.
                let freed = 1_000 * MS;
                let wait = if count > 20 { freed.saturating_sub(elapsed).max(MS) } else { MS };
                return replies.push((wait, Incoming::Bytes(bytes)));
            }
            replies.push((MS, Incoming::Bytes(bytes[..11].to_vec())));
            replies.push((1_000 * MS - elapsed, Incoming::Bytes(bytes[11..].to_vec())));
        });
        script.run_to(1_100);
        let stalled = script.counters();
        assert!(stalled.timeouts > 40 && stalled.late_replies == stalled.timeouts, "{stalled:?}");
        script.run_to(3_000);
        let counters = script.counters();
        assert_eq!((counters.timeouts, counters.connects), (stalled.timeouts, 1));
        assert!(counters.received > stalled.received + 180, "{counters:?}");
        assert_eq!((counters.unknown_replies, counters.garbage_bytes), (0, 0));
    }
}

#[test]
fn a_connection_that_stays_silent_is_recycled() {
    let mut connections = 0;
    let run = ProbeSettings { timeout_ns: 100 * MS, ..settings() };
    let mut script =
        Script::new(run, move |elapsed, outgoing, replies: &mut Replies| match outgoing {
            Outgoing::Connect(_) => {
                connections += 1;
                replies.push((MS, Incoming::Connected));
            }
            Outgoing::Bytes(bytes) if connections > 1 || elapsed < 1_000 * MS => {
                replies.push((MS, Incoming::Bytes(bytes.to_vec())));
            }
            Outgoing::Bytes(_) | Outgoing::Resolve => {}
        });
    script.run_to(5_900);
    assert_eq!((script.counters().connects, script.counters().connected), (1, 1));
    script.run_to(6_500);
    let counters = script.counters();
    assert_eq!((counters.connects, counters.dropped, counters.connected), (2, 1, 1));
    assert!((500..=520).contains(&counters.timeouts), "{counters:?}");
    assert!(counters.received > 130);
    assert!(script.outcomes().contains(&Outcome::Lost(Failure::Stalled)));
}

#[test]
fn a_peer_slower_than_the_timeout_is_lost_but_not_recycled() {
    let mut script = Script::new(settings(), raw_echo(300 * MS));
    script.run_to(20_000);
    let counters = script.counters();
    assert_eq!((counters.received, counters.connects), (0, 1));
    assert!(counters.late_replies > 1_900);
    // The estimate learns from late replies.
    let adaptive = ProbeSettings { adaptive: true, ..settings() };
    let mut script = Script::new(adaptive, raw_echo(300 * MS));
    script.run_to(20_000);
    assert!(script.counters().timeouts < 60, "{:?}", script.counters());
}

#[test]
fn late_double_unknown_and_reordered_replies_are_told_apart() {
    let mut script = Script::new(ProbeSettings { wire: Wire::V2, ..settings() }, raw_echo(1 << 40));
    let reply = |seq| Incoming::Bytes(wire::encode_v2(seq, Wall::default()).to_vec());
    script.run_to(205);
    assert_eq!((script.counters().sent, script.counters().timeouts), (21, 1));
    let steps = [
        (1, [0, 1, 0, 0]),
        (1, [0, 1, 1, 0]),
        (4, [1, 1, 1, 0]),
        (3, [2, 1, 1, 0]),
        (3, [2, 1, 2, 0]),
        (22, [2, 1, 2, 1]),
        (0, [2, 1, 2, 2]),
        (u64::MAX, [2, 1, 2, 3]),
        (2, [3, 1, 2, 3]),
    ];
    for (seq, expected) in steps {
        script.deliver(&reply(seq));
        let ProbeCounters { received, late_replies, duplicate_replies, unknown_replies, .. } =
            script.counters();
        assert_eq!(
            [received, late_replies, duplicate_replies, unknown_replies],
            expected,
            "after {seq}"
        );
    }
    assert_eq!(script.outcomes().len(), 4);
    script.deliver(&Incoming::Bytes(b"no frame".to_vec()));
    assert_eq!(script.counters().garbage_bytes, 8);
}

#[test]
fn a_reply_that_came_in_time_and_was_read_late_is_received() {
    let mut script = Script::new(ProbeSettings { wire: Wire::V2, ..settings() }, raw_echo(1 << 40));
    script.run_to(1);
    script.advance_to(script.now.mono.offset_ns(500_000_000));
    let reply = wire::encode_v2(1, Wall::default()).to_vec();
    script.deliver(&Incoming::Stamped(reply, 400 * MS));
    let counters = script.counters();
    assert_eq!((counters.received, counters.late_replies, counters.timeouts), (1, 0, 0));
    // We slept over 49 slots; the most recent is sent, the others are skipped.
    assert_eq!((counters.sent, counters.skipped), (2, 49));
}

#[test]
fn losing_the_connection_loses_what_was_in_flight() {
    let mut script = Script::new(ProbeSettings { wire: Wire::V2, ..settings() }, raw_echo(1 << 40));
    script.run_to(55);
    assert_eq!(script.counters().in_flight, 6);
    script.deliver(&Incoming::Closed(Failure::Reset));
    let counters = script.counters();
    assert_eq!((counters.in_flight, counters.timeouts, counters.dropped), (0, 6, 1));
    assert_eq!(script.outcomes(), [Outcome::Lost(Failure::Reset); 6]);
    assert!(script.samples.iter().all(|sample| sample.lag_ns == Some(0)));
}

#[test]
fn a_long_negotiation_holds_probes_and_loses_none() {
    // The second connection's hello takes 150 ms.
    let mut connections = 0;
    let mut script =
        Script::new(settings(), move |_, outgoing, replies: &mut Replies| match outgoing {
            Outgoing::Connect(_) => {
                connections += 1;
                replies.push((MS, Incoming::Connected));
            }
            Outgoing::Bytes(bytes) => {
                let slow = connections == 2 && wire::is_hello(bytes);
                let ns = if slow { 150 * MS } else { MS };
                replies.push((ns, Incoming::Bytes(bytes.to_vec())));
            }
            Outgoing::Resolve => {}
        });
    script.run_to(1_005);
    assert_eq!(script.counters().timeouts, 0);
    script.deliver(&Incoming::Closed(Failure::Reset));
    script.run_to(1_100);
    let held = script.counters();
    assert!(held.in_flight >= 9 && held.timeouts <= 2, "{held:?}");
    script.run_to(2_000);
    let counters = script.counters();
    assert_eq!(counters.timeouts, held.timeouts);
    assert!((14..=16).contains(&counters.late), "{counters:?}");
    assert!(counters.received > 190);
}

#[test]
fn silence_after_a_hello_is_answered_by_speaking_v1() {
    // A server that never answers a hello, and echoes everything else.
    let mut greeted = false;
    let mut script =
        Script::new(settings(), move |_, outgoing, replies: &mut Replies| match outgoing {
            Outgoing::Connect(_) => {
                greeted = false;
                replies.push((MS, Incoming::Connected));
            }
            Outgoing::Bytes(bytes) => {
                greeted |= wire::is_hello(bytes);
                if !greeted {
                    replies.push((MS, Incoming::Bytes(bytes.to_vec())));
                }
            }
            Outgoing::Resolve => {}
        });
    script.run_to(20_000);
    let counters = script.counters();
    assert_eq!((counters.wire_version, counters.connects, counters.dropped), (1, 3, 2));
    assert!(counters.received > 1_000, "{counters:?}");
    assert_eq!(counters.timeouts + counters.received + counters.in_flight, counters.sent);
}

#[test]
fn insisting_on_v3_fails_on_a_peer_that_lacks_it() {
    for peer in [0, 1] {
        let run = ProbeSettings { wire: Wire::V3, ..settings() };
        let mut script = match peer {
            0 => Script::new(run, raw_echo(MS)),
            _ => Script::new(run, framed(16, |_| true)),
        };
        script.run_to(5_000);
        let counters = script.counters();
        assert_eq!((counters.received, counters.connected), (0, 0));
        assert_eq!((counters.connects, counters.dropped), (4, 4));
        assert!(counters.timeouts > 480);
    }
}

#[test]
fn attempts_that_hang_go_round_the_addresses() {
    let addresses = vec![address(1), address(2)];
    let run = ProbeSettings { addresses, ..settings() };
    let mut script = Script::new(run, |_, outgoing, replies: &mut Replies| match outgoing {
        Outgoing::Connect(to) if to == address(2) => replies.push((MS, Incoming::Connected)),
        Outgoing::Bytes(bytes) => replies.push((MS, Incoming::Bytes(bytes.to_vec()))),
        Outgoing::Connect(_) | Outgoing::Resolve => {}
    });
    script.run_to(5_000);
    assert_eq!(script.dials, [(0, address(1)), (3_500, address(2))]);
    let counters = script.counters();
    assert_eq!((counters.connects, counters.dropped, counters.connected), (1, 1, 1));
    // Slots run from the first timeout, 200 ms, on: an address that hangs is loss, and soon.
    assert_eq!((counters.timeouts, counters.sent), (331, 481));
}

#[test]
fn a_name_without_an_address_loses_probes_until_it_has_one() {
    let mut asked = 0;
    let run = ProbeSettings {
        addresses: Vec::new(),
        resolve_interval_ns: Some(60_000 * MS),
        ..settings()
    };
    let mut script = Script::new(run, move |_, outgoing, replies: &mut Replies| match outgoing {
        Outgoing::Resolve => {
            asked += 1;
            let answer = (asked == 3).then(|| vec![address(7)]);
            replies.push((10 * MS, Incoming::Resolved(answer)));
        }
        Outgoing::Connect(_) => replies.push((MS, Incoming::Connected)),
        Outgoing::Bytes(bytes) => replies.push((MS, Incoming::Bytes(bytes.to_vec()))),
    });
    script.run_to(1_400);
    assert!(script.outcomes().len() > 130);
    assert!(script.outcomes().iter().all(|outcome| *outcome == Outcome::Unresolved));
    script.run_to(3_000);
    assert_eq!(script.dials, [(1_510, address(7))]);
    assert!(script.counters().received > 140);
    assert!((150..=153).contains(&script.counters().timeouts), "{:?}", script.counters());
}

#[test]
fn names_are_resolved_again_on_reconnect_and_by_the_clock() {
    let asked = std::cell::RefCell::new(Vec::new());
    let run = ProbeSettings { resolve_interval_ns: Some(5_000 * MS), ..settings() };
    let mut script = Script::new(run, |elapsed, outgoing, replies: &mut Replies| match outgoing {
        Outgoing::Resolve => {
            asked.borrow_mut().push(elapsed / MS);
            replies.push((MS, Incoming::Resolved(Some(vec![address(9)]))));
        }
        Outgoing::Connect(_) => replies.push((MS, Incoming::Connected)),
        Outgoing::Bytes(bytes) => replies.push((MS, Incoming::Bytes(bytes.to_vec()))),
    });
    script.run_to(6_000);
    assert_eq!(script.counters().connects, 1, "a new address leaves the connection alone");
    script.deliver(&Incoming::Closed(Failure::Eof));
    script.run_to(7_000);
    assert_eq!(script.dials, [(0, address(1)), (6_000, address(9))]);
    drop(script);
    assert_eq!(asked.into_inner(), [5_000, 6_000]);
}

#[test]
fn too_many_in_flight_skips_slots() {
    let run = ProbeSettings { in_flight_max: 3, wire: Wire::V1, ..settings() };
    let mut script = Script::new(run, raw_echo(1 << 40));
    script.run_to(100);
    let counters = script.counters();
    assert_eq!((counters.sent, counters.in_flight, counters.skipped), (3, 3, 7));
    script.run_to(300);
    assert_eq!(script.counters().sent + script.counters().skipped, 30);
}

#[test]
fn a_timeout_longer_than_the_interval_keeps_several_in_flight() {
    let mut script = Script::new(settings(), raw_echo(150 * MS));
    script.run_to(1_000);
    let counters = script.counters();
    assert_eq!((counters.timeouts, counters.skipped, counters.in_flight), (0, 0, 15));
    assert!(counters.received > 60);
}

#[test]
fn runs_end_by_count_by_time_and_on_demand() {
    let mut script = Script::new(ProbeSettings { count: Some(5), ..settings() }, raw_echo(MS));
    script.run_to(1_000);
    assert_eq!((script.counters().sent, script.probe.deadline()), (5, None));
    assert!(script.probe.is_finished());

    let stop_at = Some(START.mono.offset_ns(505_000_000));
    let mut script = Script::new(ProbeSettings { stop_at, ..settings() }, raw_echo(30 * MS));
    script.run_to(510);
    assert!(!script.probe.is_finished() && script.counters().in_flight > 0);
    script.run_to(540);
    assert!(script.probe.is_finished());
    assert_eq!(script.counters().sent, script.counters().received);

    let mut script = Script::new(settings(), raw_echo(1 << 40));
    script.run_to(100);
    script.probe.finish(script.now, &mut script.out);
    assert!(script.probe.is_finished(), "nothing was ever sent but a hello");

    let mut script = Script::new(ProbeSettings { wire: Wire::V1, ..settings() }, raw_echo(1 << 40));
    script.run_to(100);
    script.probe.finish(script.now, &mut script.out);
    script.run_to(1_000);
    assert!(script.probe.is_finished());
    assert_eq!((script.counters().sent, script.counters().timeouts), (10, 10));
}

#[test]
fn abandoning_leaves_what_was_in_flight_in_flight() {
    let run = ProbeSettings { stamps_wanted: true, ..settings() };
    let mut script = Script::new(run, v3_peer(true));
    script.run_to(104);
    let before = script.counters();
    let samples = u64::try_from(script.samples.len()).unwrap();
    assert!(before.received > samples, "the last sample waits for its peer's stamp");
    script.probe.abandon(script.now, &mut script.out);
    assert_eq!(script.out.actions, [Action::Close]);
    script.after_step();
    assert!(script.probe.is_finished());
    assert_eq!(script.counters().received, u64::try_from(script.samples.len()).unwrap());
    assert_eq!((script.counters().in_flight, script.counters().connected), (before.in_flight, 0));
}

#[test]
fn only_late_sends_are_late() {
    let mut script = Script::new(ProbeSettings { wire: Wire::V1, ..settings() }, raw_echo(MS));
    script.run_to(100);
    for (lag_ns, late) in [(900_000, 0), (1_000_001, 1), (9_000_000, 2)] {
        let due = script.probe.schedule.as_ref().unwrap().due();
        script.run_to((due.as_ns() - START.mono.as_ns()) / MS - 1);
        script.advance_to(due.offset_ns(lag_ns));
        script.due();
        assert_eq!(script.counters().late, late);
    }
}

/// One arbitrary thing that happens.
#[derive(Clone, Debug)]
enum Happening {
    Wait(u64),
    Due,
    Connected,
    Reply(u64, bool),
    Garbage(Vec<u8>),
    Frames(Vec<(u64, u64, u16)>, usize),
    HelloAnswer(u8, usize),
    Tx(u32, u8, u64),
    Closed,
    Resolved(Option<Vec<u16>>),
    Finish,
}

fn happenings() -> impl Strategy<Value = Happening> {
    let seq = prop_oneof![9 => 0_u64..60, 1 => any::<u64>()];
    prop_oneof![
        6 => (0_u64..30 * MS).prop_map(Happening::Wait),
        1 => (0_u64..20_000 * MS).prop_map(Happening::Wait),
        6 => Just(Happening::Due),
        3 => Just(Happening::Connected),
        6 => (seq.clone(), any::<bool>()).prop_map(|(seq, stamp)| Happening::Reply(seq, stamp)),
        1 => proptest::collection::vec(any::<u8>(), 1..80).prop_map(Happening::Garbage),
        3 => (proptest::collection::vec((seq, 0_u64..9, 0_u16..3), 1..5), 1_usize..60)
            .prop_map(|(frames, cut)| Happening::Frames(frames, cut)),
        4 => (0_u8..3, 1_usize..33).prop_map(|(kind, cut)| Happening::HelloAnswer(kind, cut)),
        4 => (0_u32..4_000, 0_u8..4, 0_u64..1 << 61)
            .prop_map(|(key, stage, ns)| Happening::Tx(key, stage, ns)),
        1 => Just(Happening::Closed),
        1 => proptest::option::of(proptest::collection::vec(1_u16..4, 0..3))
            .prop_map(Happening::Resolved),
        1 => Just(Happening::Finish),
    ]
}

fn some_settings() -> impl Strategy<Value = ProbeSettings> {
    let wires = prop_oneof![Just(Wire::Auto), Just(Wire::V1), Just(Wire::V2), Just(Wire::V3)];
    let runs = (proptest::option::weighted(0.1, 0_u64..50), any::<[bool; 3]>(), 0_u16..3);
    (1_u64..40 * MS, 0_u64..300 * MS, wires, 1_usize..20, runs).prop_map(
        |(interval_ns, timeout_ns, wire, in_flight_max, (count, flags, addresses))| ProbeSettings {
            interval_ns: if flags[2] { interval_ns } else { interval_ns + MS },
            timeout_ns,
            wire,
            in_flight_max,
            count,
            adaptive: flags[0],
            stamps_wanted: flags[1],
            addresses: (0..addresses).map(address).collect(),
            resolve_interval_ns: flags[2].then_some(7_000 * MS),
            ..settings()
        },
    )
}

impl Script<'_> {
    fn happen(&mut self, happening: &Happening, hello: &[u8]) {
        match happening {
            Happening::Wait(ns) => self.now = after(self.now, *ns),
            Happening::Due => self.due(),
            Happening::Connected => self.on(Event::Connected),
            Happening::Reply(seq, stamp) => {
                let wall = self.now.wall;
                let bytes = match self.counters().wire_version {
                    1 => wire::encode_v1(*seq, wall).to_vec(),
                    2 => wire::encode_v2(*seq, wall).to_vec(),
                    _ => {
                        let previous = Some(PreviousTx { seq: seq.wrapping_sub(1), tx: wall });
                        let rx = Some(wall.offset_ns(-1_000));
                        wire::encode_v3(&Frame { seq: *seq, rx, previous, ..Frame::default() })
                            .to_vec()
                    }
                };
                let incoming =
                    if *stamp { Incoming::Stamped(bytes, 100) } else { Incoming::Bytes(bytes) };
                self.deliver(&incoming);
            }
            Happening::Garbage(bytes) => self.deliver(&Incoming::Bytes(bytes.clone())),
            Happening::Frames(frames, cut) => {
                let mut bytes = Vec::new();
                for (seq, tx, flags) in frames {
                    let previous = Some(PreviousTx { seq: *seq, tx: Wall::from_ns(1 << *tx) });
                    let frame = Frame {
                        seq: *seq,
                        previous,
                        flags: *flags,
                        padding_bytes: flags * 10,
                        ..Frame::default()
                    };
                    bytes.extend(wire::encode_v3(&frame));
                    bytes.resize(bytes.len() + usize::from(frame.padding_bytes), 0);
                }
                for chunk in bytes.chunks(*cut) {
                    self.deliver(&Incoming::Stamped(chunk.to_vec(), 50));
                }
            }
            Happening::HelloAnswer(kind, cut) => {
                let reply = wire::encode_hello_reply(HelloReply { kernel_stamps: true });
                let whole = match kind {
                    0 => reply.to_vec(),
                    1 => hello.to_vec(),
                    _ => [hello, &wire::FILL].concat(),
                };
                for chunk in whole.chunks(*cut) {
                    self.deliver(&Incoming::Bytes(chunk.to_vec()));
                    self.now = after(self.now, 6 * MS);
                    self.due();
                }
            }
            Happening::Tx(key, stage, ns) => {
                let wall = Wall::from_ns(*ns);
                let stage = match stage {
                    0 => TxStage::Sched(wall),
                    1 => TxStage::Software(wall),
                    2 => TxStage::Hardware(Phc::from_ns(*ns)),
                    _ => TxStage::Ack(wall),
                };
                self.on(Event::Stamped(TxStamp { key: *key, stage }));
            }
            Happening::Closed => self.deliver(&Incoming::Closed(Failure::Reset)),
            Happening::Resolved(ports) => {
                let addresses = ports.as_ref().map(|p| p.iter().map(|p| address(*p)).collect());
                self.deliver(&Incoming::Resolved(addresses));
            }
            Happening::Finish => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// The invariants are asserted after every step, by the script itself.
    #[test]
    fn counters_reconcile_whatever_happens(
        run in some_settings(),
        script in proptest::collection::vec(happenings(), 1..200),
        finishes: bool,
    ) {
        let hello = std::cell::RefCell::new(vec![0; wire::V2_BYTES]);
        let mut world = Script::new(run, |_, outgoing, _: &mut Replies| {
            if let Outgoing::Bytes(bytes) = outgoing && wire::is_hello(bytes) {
                *hello.borrow_mut() = bytes.to_vec();
            }
        });
        world.due();
        for happening in &script {
            let sent = hello.borrow().clone();
            world.happen(happening, &sent);
            if finishes && matches!(happening, Happening::Finish) {
                world.probe.finish(world.now, &mut world.out);
                world.after_step();
            }
        }
        world.probe.finish(world.now, &mut world.out);
        world.after_step();
        let now = world.now.mono.as_ns() - START.mono.as_ns();
        world.run_to(now / MS + 60_000);
        prop_assert!(world.probe.is_finished());
        let counters = world.counters();
        prop_assert_eq!(counters.in_flight, 0);
        prop_assert_eq!(u64::try_from(world.outcomes().len()).unwrap(), counters.sent);
    }

    /// However the peer cuts its replies, a healthy run loses nothing.
    #[test]
    fn any_split_of_replies_is_the_same_run(
        wire in prop_oneof![Just(Wire::Auto), Just(Wire::V1), Just(Wire::V2)],
        cuts in proptest::collection::vec(1_usize..40, 1..50),
    ) {
        let mut cut = cuts.iter().cycle();
        let run = ProbeSettings { wire, count: Some(20), ..settings() };
        let mut script = Script::new(run, |_, outgoing, replies: &mut Replies| match outgoing {
            Outgoing::Connect(_) => replies.push((MS, Incoming::Connected)),
            Outgoing::Bytes(mut bytes) => {
                let mut ns = MS;
                while !bytes.is_empty() {
                    let (piece, rest) = bytes.split_at(bytes.len().min(*cut.next().unwrap()));
                    replies.push((ns, Incoming::Bytes(piece.to_vec())));
                    bytes = rest;
                    ns += 10_000;
                }
            }
            Outgoing::Resolve => {}
        });
        script.run_to(1_000);
        prop_assert_eq!(script.counters().received, 20);
        prop_assert_eq!(script.counters().connects, 1);
        let version = if wire == Wire::V1 { 1 } else { 2 };
        prop_assert_eq!(script.counters().wire_version, version);
    }
}
