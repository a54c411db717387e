//! The flows of a load as scripts: no socket, no clock, a peer that answers when the script says.

use proptest::prelude::*;

use super::*;
use crate::event::{Action, Event, Failure, Outbox, RxStamps};
use crate::time::Wall;

const MS: u64 = 1_000_000;

/// Some connections, and what their peer has got of each.
struct Script {
    load: Generator,
    connections: Vec<Connection>,
    /// Bytes that the peer has got and not returned.
    got: Vec<Vec<u8>>,
    connects: Vec<u32>,
    closes: Vec<u32>,
    latencies_ns: Vec<u64>,
    now_ns: u64,
}

fn settings(request: Request, rate: Option<u64>, connections: u64) -> LoadSettings {
    LoadSettings {
        to: "127.0.0.1:1".parse().expect("an address"),
        request,
        rate,
        connections: 0..connections,
        connections_all: connections,
        warm_up_ns: 0,
        duration_ns: 1_000 * MS,
        timeout_ns: 500 * MS,
    }
}

impl Script {
    /// Every connection was tried, and the load has started, at 0 ms, if `connected`.
    fn start(settings: LoadSettings, connected: bool) -> Self {
        let mut script = Self::new(settings);
        if connected && !script.load.resets_connections() {
            for index in 0..script.connections.len() {
                script.event(index, Event::Connected);
            }
            script.begin();
        }
        script
    }

    fn new(settings: LoadSettings) -> Self {
        let mut script = Self {
            load: Generator::new(settings),
            connections: Vec::new(),
            got: Vec::new(),
            connects: Vec::new(),
            closes: Vec::new(),
            latencies_ns: Vec::new(),
            now_ns: 0,
        };
        while let Some(connection) = script.load.next_connection() {
            script.connections.push(connection);
            script.got.push(Vec::new());
            script.connects.push(0);
            script.closes.push(0);
            let index = script.connections.len() - 1;
            script.event(index, Event::Due(Mono::default()));
        }
        script
    }

    fn begin(&mut self) {
        assert!(self.load.starts(self.at().mono), "every connection was tried");
        self.wake_all();
    }

    fn at(&self) -> Now {
        Now { mono: Mono::from_ns(self.now_ns), wall: Wall::from_ns(self.now_ns) }
    }

    fn wake_all(&mut self) {
        for index in 0..self.connections.len() {
            self.event(index, Event::Due(Mono::default()));
        }
    }

    fn event(&mut self, index: usize, event: Event<'_>) {
        let at = self.at();
        if matches!(event, Event::Closed(_)) {
            self.got[index].clear();
        }
        let mut out = Outbox::default();
        self.connections[index].on(&mut self.load, event, at, &mut out);
        for action in &out.actions {
            match action {
                Action::Connect(_) => self.connects[index] += 1,
                Action::Close => {
                    self.closes[index] += 1;
                    self.got[index].clear();
                }
                Action::Send(range) => self.got[index].extend(&out.bytes[range.clone()]),
                other => panic!("a load never asks for {other:?}"),
            }
        }
        self.latencies_ns.extend(self.load.drain_latencies_ns());
        let counters = self.load.counters();
        let ended = counters.answered + counters.failed() + counters.in_flight;
        assert_eq!(counters.sent, ended, "the books balance: {counters:?}");
    }

    /// The soonest deadline of all.
    fn deadline(&self) -> Option<Mono> {
        self.connections.iter().filter_map(|connection| connection.deadline(&self.load)).min()
    }

    /// Lets time pass, and wakes whoever is due.
    fn pass_until(&mut self, ms: u64) {
        let end = Mono::from_ns(ms * MS);
        while let Some(deadline) = self.deadline().filter(|&deadline| deadline <= end) {
            let before = self.now_ns;
            self.now_ns = self.now_ns.max(deadline.as_ns());
            for index in 0..self.connections.len() {
                let due = self.connections[index].deadline(&self.load);
                if due.is_some_and(|due| due <= self.at().mono) {
                    self.event(index, Event::Due(self.at().mono));
                }
            }
            let again = self.deadline() == Some(deadline);
            assert!(!again || self.now_ns > before, "it wants to be woken for ever");
        }
        self.now_ns = end.as_ns();
    }

    /// The peer returns all that it has got on this connection.
    fn answer(&mut self, index: usize) {
        let bytes = std::mem::take(&mut self.got[index]);
        if !bytes.is_empty() {
            self.receive(index, &bytes);
        }
    }

    fn receive(&mut self, index: usize, bytes: &[u8]) {
        self.event(index, Event::Received { bytes, stamps: RxStamps::default() });
    }

    /// One closed loop after the other, so many rounds, each of which takes a millisecond.
    fn rounds(&mut self, rounds: u64) {
        for _ in 0..rounds {
            let ms = self.now_ns / MS;
            self.pass_until(ms + 1);
            (0..self.connections.len()).for_each(|index| self.answer(index));
        }
    }

    fn quantile(&self, percent: usize) -> u64 {
        let mut sorted = self.latencies_ns.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() * percent).div_ceil(100) - 1]
    }
}

#[test]
fn a_closed_loop_has_one_request_in_flight() {
    let mut script = Script::start(settings(Request::Echo(100), None, 2), true);
    assert_eq!(script.got.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100]);
    script.rounds(10);
    assert_eq!(script.got.iter().map(Vec::len).collect::<Vec<_>>(), [100, 100]);
    let counters = script.load.counters();
    assert_eq!((counters.sent, counters.answered, counters.in_flight), (22, 20, 2));
    assert_eq!((counters.sent_bytes, counters.received_bytes), (2_200, 2_000));
    assert_eq!(script.latencies_ns, [MS; 20]);
    assert_eq!(counters.latency_ns_min, MS);
    // Messages differ, or one that is doubled would not be seen.
    assert_ne!(script.got[0], script.got[1]);
}

#[test]
fn after_the_measured_time_what_is_in_flight_is_awaited() {
    let mut script = Script::start(settings(Request::Echo(8), None, 2), true);
    script.rounds(900);
    script.pass_until(1_200);
    assert!(!script.load.is_finished());
    script.answer(0);
    script.pass_until(1_399);
    assert!(!script.load.is_finished());
    script.pass_until(1_400);
    assert!(script.load.is_finished());
    let counters = script.load.counters();
    assert_eq!((counters.answered, counters.answered_within), (1_801, 1_800));
    assert_eq!((counters.timeout, counters.measured_ns), (1, 1_000 * MS));
    assert_eq!((counters.connected, script.deadline()), (0, None));
    assert_eq!((script.connects, script.closes), (vec![1, 1], vec![1, 1]));
}

#[test]
fn nothing_of_the_warm_up_is_counted() {
    let warm_up_ns = 10 * MS;
    for rate in [None, Some(1_000)] {
        let load = LoadSettings { warm_up_ns, ..settings(Request::Echo(8), rate, 1) };
        let mut script = Script::start(load, true);
        script.rounds(9);
        let counters = *script.load.counters();
        assert_eq!((counters.sent, counters.sent_bytes, counters.measured_ns), (0, 0, 0));
        assert!(script.latencies_ns.is_empty());
        script.rounds(11);
        let counters = script.load.counters();
        assert!((9..=11).contains(&counters.answered), "{counters:?}");
        assert_eq!(counters.measured_ns, 10 * MS);
    }
}

#[test]
fn an_open_loop_does_not_ask_whether_the_peer_keeps_up() {
    let mut script = Script::start(settings(Request::Echo(10), Some(1_000), 2), true);
    script.pass_until(99);
    assert_eq!(script.got.iter().map(Vec::len).collect::<Vec<_>>(), [500, 500]);
    script.answer(0);
    script.answer(1);
    let counters = script.load.counters();
    assert_eq!((counters.sent, counters.answered, counters.late), (100, 100, 0));
    let mut sorted = script.latencies_ns.clone();
    sorted.sort_unstable();
    let expected: Vec<u64> = (0..100).map(|ms| ms * MS).collect();
    assert_eq!(sorted, expected, "each from its own due time");
}

#[test]
fn being_held_up_at_the_end_makes_the_last_requests_late_and_skips_none() {
    let mut script = Script::start(settings(Request::Echo(8), Some(100), 1), true);
    script.rounds(945);
    script.now_ns = 1_020 * MS;
    script.event(0, Event::Due(script.at().mono));
    let counters = *script.load.counters();
    assert_eq!((counters.sent, counters.skipped, counters.late), (100, 0, 5), "{counters:?}");
    assert!(!script.load.is_finished(), "the last ones are awaited");
    script.answer(0);
    assert!(script.load.is_finished());
    // A connection is one request at a time: there is room for one more.
    let mut script = Script::start(settings(Request::Connect, Some(100), 1), false);
    script.begin();
    for slot in 1..=95 {
        script.event(0, Event::Connected);
        script.pass_until(slot * 10);
    }
    script.event(0, Event::Connected);
    script.now_ns = 1_020 * MS;
    script.event(0, Event::Due(script.at().mono));
    let counters = *script.load.counters();
    assert_eq!((counters.sent, counters.skipped), (97, 3), "{counters:?}");
    script.event(0, Event::Connected);
    assert!(script.load.is_finished());
}

/// Coordinated omission: a peer that stalls for 200 ms of 1 s.
#[test]
fn a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one() {
    let stalled = |rate| {
        let mut script = Script::start(settings(Request::Echo(16), rate, 1), true);
        script.rounds(400);
        script.pass_until(600);
        script.answer(0);
        script.rounds(390);
        script
    };
    let open = stalled(Some(1_000));
    assert!(open.quantile(99) >= 180 * MS, "{}", open.quantile(99));
    assert!(open.quantile(90) >= 90 * MS, "{}", open.quantile(90));
    let closed = stalled(None);
    assert_eq!(closed.quantile(99), MS);
    assert_eq!(closed.latencies_ns.iter().filter(|&&ns| ns > 2 * MS).count(), 1);
}

#[test]
fn what_is_in_flight_is_bounded_and_what_waits_is_late_or_skipped() {
    let message = 64 * 1_024;
    let bounded = in_flight_max(message, 1);
    assert_eq!(bounded, 16);
    assert_eq!((in_flight_max(1, 1), in_flight_max(1 << 30, 1)), (1_024, 1));
    assert_eq!(in_flight_max(1_024, 16_384), 64, "ten thousands of them share");
    let mut script = Script::start(settings(Request::Echo(message), Some(100), 1), true);
    script.pass_until(400);
    assert_eq!(script.got[0].len(), bounded * message);
    script.answer(0);
    let counters = *script.load.counters();
    // 41 were due; the rest is sent as soon as there is room.
    assert_eq!((counters.sent, counters.in_flight, counters.skipped), (32, 16, 0));
    assert_eq!(counters.late, 16);
    script.pass_until(899);
    script.answer(0);
    // Slots due before 399 ms had waited longer than an answer may take: 32 to 39.
    let counters = *script.load.counters();
    assert_eq!((counters.sent, counters.skipped), (48, 8));
    script.pass_until(2_000);
    let counters = *script.load.counters();
    assert_eq!(counters.sent + counters.skipped, 100, "every slot is accounted for: {counters:?}");
    assert_eq!((counters.answered, counters.timeout), (32, 16));
    assert!(script.load.is_finished());
}

#[test]
fn damage_is_found_wherever_it_is() {
    type Harm = fn(&mut Vec<u8>);
    let harms: [(&str, Harm); 6] = [
        ("a bit", |bytes| bytes[999] ^= 1),
        ("a byte lost", |bytes| {
            bytes.remove(500);
        }),
        ("a byte doubled", |bytes| bytes.insert(500, bytes[499])),
        ("8 bytes lost", |bytes| drop(bytes.drain(16..24))),
        ("halves exchanged", |bytes| bytes.rotate_left(500)),
        ("too much", |bytes| bytes.push(0)),
    ];
    for (name, harm) in harms {
        let mut script = Script::start(settings(Request::Echo(1_000), None, 1), true);
        script.rounds(3);
        script.now_ns += MS;
        let mut bytes = std::mem::take(&mut script.got[0]);
        harm(&mut bytes);
        script.receive(0, &bytes);
        let counters = script.load.counters();
        assert_eq!((counters.corrupt, counters.failed()), (1, 1), "{name}");
        assert_eq!((script.closes[0], counters.connected), (1, 0), "{name}");
        script.pass_until(100);
        assert_eq!(script.connects[0], 2, "{name}: it goes on with a new connection");
        script.event(0, Event::Connected);
        script.rounds(3);
        assert_eq!(script.load.counters().failed(), 1, "{name}");
    }
}

#[test]
fn an_answer_of_an_earlier_connection_or_of_another_one_is_none() {
    let mut script = Script::start(settings(Request::Echo(64), None, 2), true);
    let old = script.got[0].clone();
    let other = script.got[1].clone();
    script.event(0, Event::Closed(Failure::Reset));
    script.pass_until(100);
    script.event(0, Event::Connected);
    script.receive(0, &old);
    script.pass_until(200);
    script.event(0, Event::Connected);
    script.receive(0, &other);
    let counters = script.load.counters();
    assert_eq!((counters.reset, counters.corrupt, counters.answered), (1, 2, 0));
}

#[test]
fn each_failure_is_counted_by_its_kind() {
    for (failure, expected) in [
        (Failure::Eof, LoadFailure::Closed),
        (Failure::Reset, LoadFailure::Reset),
        (Failure::TimedOut, LoadFailure::Timeout),
        (Failure::Unreachable, LoadFailure::Unreachable),
        (Failure::Other(5), LoadFailure::Error),
    ] {
        let mut script = Script::start(settings(Request::Echo(8), Some(1_000), 1), true);
        script.pass_until(4);
        script.event(0, Event::Closed(failure));
        let counters = script.load.counters();
        assert_eq!(counters.failures()[expected as usize], 5, "{failure:?}");
        assert_eq!((counters.failed(), counters.dropped, counters.connected), (5, 1, 0));
    }
}

#[test]
fn without_a_connection_an_open_loop_fails_at_the_full_rate() {
    let mut script = Script::start(settings(Request::Echo(8), Some(1_000), 1), false);
    script.event(0, Event::Closed(Failure::Refused));
    assert_eq!(script.load.counters().failed(), 0, "it has not started");
    script.begin();
    for ms in (100..=1_500).step_by(100) {
        script.pass_until(ms);
        script.event(0, Event::Closed(Failure::Refused));
    }
    let counters = script.load.counters();
    assert_eq!((counters.refused, counters.sent, counters.skipped), (1_000, 1_000, 0));
    assert!(script.load.is_finished());
    assert!(script.connects[0] < 12, "{} attempts", script.connects[0]);
}

#[test]
fn a_closed_loop_counts_attempts_that_fail_and_makes_few() {
    let mut script = Script::start(settings(Request::Echo(8), None, 1), true);
    script.event(0, Event::Closed(Failure::Reset));
    for ms in 1..=1_000 {
        script.pass_until(ms);
        script.event(0, Event::Closed(Failure::Refused));
    }
    let counters = script.load.counters();
    assert_eq!(counters.reset, 1);
    assert!((3..=10).contains(&counters.refused), "{counters:?}");
    assert_eq!(u64::from(script.connects[0]), counters.refused + 1);
}

#[test]
fn a_silent_peer_and_a_silent_way_run_into_the_timeout() {
    let mut script = Script::start(settings(Request::Echo(8), None, 1), true);
    script.pass_until(499);
    assert_eq!(script.load.counters().timeout, 0);
    script.pass_until(500);
    assert_eq!((script.load.counters().timeout, script.closes[0]), (1, 1));
    script.pass_until(900);
    assert_eq!(script.connects[0], 2);
    // Nor does the new connection come.
    script.pass_until(3_000);
    assert!(script.load.is_finished());
    assert_eq!(script.load.counters().connected, 0);
    // What was held up on our side is no timeout: everything that happened must have been told.
    let mut script = Script::start(settings(Request::Echo(8), None, 1), true);
    script.now_ns = 700 * MS;
    script.event(0, Event::Due(Mono::from_ns(400 * MS)));
    assert_eq!(script.load.counters().timeout, 0);
}

#[test]
fn few_connections_are_made_at_once_and_all_begin_together() {
    let connections = u64::try_from(OPENING_MAX).expect("few") + 10;
    let mut script = Script::new(settings(Request::Echo(8), None, connections));
    assert_eq!(script.connections.len(), OPENING_MAX);
    assert!(script.load.next_connection().is_none());
    script.event(0, Event::Closed(Failure::Refused));
    script.event(1, Event::Connected);
    let more: Vec<_> = std::iter::from_fn(|| script.load.next_connection()).collect();
    assert_eq!(more.len(), 2, "as many as were tried to the end");
    assert!(!script.load.starts(script.at().mono), "not all were tried");
    assert!(script.got[1].is_empty(), "nobody begins before the others");
}

#[test]
fn connecting_is_a_request_of_its_own() {
    let mut script = Script::start(settings(Request::Connect, None, 1), false);
    assert_eq!(script.connects[0], 0, "none is made beforehand");
    script.begin();
    for _ in 0..5 {
        script.now_ns += MS;
        script.event(0, Event::Connected);
    }
    assert_eq!((script.connects[0], script.closes[0]), (6, 5));
    assert_eq!(script.latencies_ns, [MS; 5]);
    script.event(0, Event::Closed(Failure::Refused));
    script.pass_until(2_000);
    let counters = script.load.counters();
    assert_eq!((counters.answered, counters.refused), (5, 1));
    assert_eq!(counters.timeout, 2, "one after the other, to the end: {counters:?}");
    assert!(script.load.is_finished() && script.load.resets_connections());
}

#[test]
fn connections_at_a_rate_are_late_if_the_peer_is() {
    let mut script = Script::start(settings(Request::Connect, Some(100), 1), false);
    script.begin();
    script.pass_until(100);
    assert_eq!(script.connects[0], 1, "one at a time");
    for _ in 0..11 {
        script.event(0, Event::Connected);
    }
    let expected: Vec<u64> = (0..11).rev().map(|slot| slot * 10 * MS).collect();
    assert_eq!(script.latencies_ns, expected);
    assert_eq!(script.load.counters().late, 9);
    script.pass_until(110);
    script.event(0, Event::Closed(Failure::Refused));
    script.pass_until(120);
    assert_eq!(script.connects[0], 13, "the rate is in charge, whatever fails");
}

#[test]
fn a_load_that_is_stopped_tells_what_was_measured() {
    for (stop_ms, measured_ms) in [(300, 290), (5, 0)] {
        let load = LoadSettings { warm_up_ns: 10 * MS, ..settings(Request::Echo(8), None, 2) };
        let mut script = Script::start(load, true);
        script.rounds(stop_ms);
        script.load.stop(script.at().mono);
        script.wake_all();
        assert!(!script.load.is_finished(), "two are in flight");
        script.answer(0);
        script.answer(1);
        assert!(script.load.is_finished());
        assert_eq!(script.load.counters().measured_ns, measured_ms * MS);
    }
    let mut script = Script::new(settings(Request::Echo(8), None, 2));
    script.load.stop(script.at().mono);
    script.wake_all();
    assert!(script.load.is_finished(), "connections that are being made are no work");
    assert_eq!(script.closes, [1, 1]);
}

proptest! {
    /// Whatever is cut, answered late, lost or refused, every slot and every request has one end.
    #[test]
    fn every_request_has_one_end(
        rate in prop::option::of(1_u64..3_000),
        bytes in 1_usize..200,
        steps in prop::collection::vec((0_usize..3, 0_u8..8, 0_u64..40), 1..150),
    ) {
        let load = LoadSettings { warm_up_ns: 3 * MS, ..settings(Request::Echo(bytes), rate, 3) };
        let mut script = Script::start(load, true);
        for (index, kind, pass_ms) in steps {
            let ms = script.now_ns / MS + pass_ms;
            script.pass_until(ms);
            match kind {
                0 => script.event(index, Event::Closed(Failure::Reset)),
                1..=3 => {
                    let cut = script.got[index].len() / 3;
                    let part: Vec<u8> = script.got[index].drain(..cut).collect();
                    if !part.is_empty() {
                        script.receive(index, &part);
                    }
                }
                _ => script.answer(index),
            }
            if script.connections[index].is_connecting() && kind > 1 {
                script.event(index, Event::Connected);
            }
        }
        script.pass_until(20_000);
        let counters = script.load.counters();
        prop_assert!(script.load.is_finished());
        prop_assert_eq!((counters.in_flight, counters.connected, counters.corrupt), (0, 0, 0));
        if let Some(rate) = rate {
            let due = Slots::new(Mono::default(), rate, 1, 0);
            let window = due.count_before(Mono::from_ns(1_003 * MS))
                - due.count_before(Mono::from_ns(3 * MS));
            prop_assert_eq!(counters.sent + counters.skipped, window);
        }
        prop_assert_eq!(u64::try_from(script.latencies_ns.len()).ok(), Some(counters.answered));
    }
}
