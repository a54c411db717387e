//! The sweep as scripts: a simulated network answers checks at simulated times. After every step
//! the counters reconcile, no more requests run than may, and the deadline lies ahead.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::check::race::interleave;
use crate::event::Failure;
use crate::sample::{CheckClock, CheckOutcome};

const MS: u64 = 1_000_000;
const START: u64 = 1_000_000 * MS;
const TIMEOUT_NS: u64 = 1_000 * MS;

fn at(ns: u64) -> Now {
    Now::default().after(Duration::from_nanos(ns))
}

/// What a port does: how long it takes, and what it answers; `None` is silence.
type Peer = (u64, Option<Result<(), Failure>>);

fn peer(port: u16) -> Peer {
    match port {
        1 => (2 * MS, Some(Ok(()))),
        2 => (MS, Some(Err(Failure::Refused))),
        3 => (0, None),
        4 => (0, Some(Err(Failure::Local(24)))),
        // Answers just too late.
        5 => (TIMEOUT_NS + 1, Some(Ok(()))),
        _ => (u64::from(port) * 1_000, Some(Ok(()))),
    }
}

fn target(number: u32, ports: &[u16]) -> SweepTarget {
    let addresses: Vec<SocketAddr> =
        ports.iter().map(|port| SocketAddr::from(([10, 0, 0, 1], *port))).collect();
    SweepTarget { target: number, addresses: interleave(&addresses), ..SweepTarget::default() }
}

fn settings(requests: u64, concurrency: usize) -> SweepSettings {
    SweepSettings {
        requests,
        concurrency,
        timeout_ns: TIMEOUT_NS,
        method: Method::Quickack,
        result_age_ns_max: RESULT_AGE_NS_MAX,
    }
}

/// A sweep in a network of [`peer`]s.
struct Script {
    sweep: Sweep,
    now: u64,
    out: Outbox,
    /// Answers on their way: when, to which place, of which check.
    coming: BinaryHeap<Reverse<(u64, u32, u64)>>,
    /// The check that runs in each place, and whom it asks.
    running: BTreeMap<u32, (u64, SocketAddr)>,
    checks: u64,
    withdrawn: u64,
    concurrency: usize,
    results: Vec<CheckResult>,
    /// Whether results are taken.
    reads: bool,
    steps: u64,
    in_flight_max: usize,
}

impl Script {
    fn new(settings: SweepSettings) -> Self {
        Self {
            sweep: Sweep::new(settings),
            now: START,
            out: Outbox::default(),
            coming: BinaryHeap::new(),
            running: BTreeMap::new(),
            checks: 0,
            withdrawn: 0,
            concurrency: settings.concurrency,
            results: Vec::new(),
            reads: true,
            steps: 0,
            in_flight_max: 0,
        }
    }

    fn with(settings: SweepSettings, targets: Vec<SweepTarget>) -> Self {
        let mut script = Self::new(settings);
        script.sweep.add(targets, true);
        script
    }

    fn step(&mut self, event: Event<'_>) {
        self.steps += 1;
        self.sweep.on(event, at(self.now), &mut self.out);
        self.settle();
    }

    fn settle(&mut self) {
        while !self.out.actions.is_empty() {
            match self.out.actions.remove(0) {
                Action::Check { place, to, ending: Ending::Reset } => {
                    self.checks += 1;
                    let check = self.checks;
                    let earlier = self.running.insert(place, (check, to));
                    assert_eq!(earlier, None, "place {place} is taken");
                    if let (after, Some(_)) = peer(to.port()) {
                        self.coming.push(Reverse((self.now + after, place, check)));
                    }
                }
                Action::Withdraw(place) => {
                    self.withdrawn += 1;
                    self.running.remove(&place).expect("something ran there");
                }
                Action::TimeOut(place) => {
                    self.withdrawn += 1;
                    self.running.remove(&place).expect("something ran there");
                    let answer = Answer::timed_out(1);
                    let event = Event::Answered { place, answer };
                    self.sweep.on(event, at(self.now), &mut self.out);
                }
                action => panic!("{action:?}"),
            }
        }
        let (in_flight, counters) = (self.sweep.in_flight(), *self.sweep.counters());
        self.in_flight_max = self.in_flight_max.max(in_flight);
        assert!(in_flight <= self.concurrency);
        assert!(self.running.len() >= in_flight);
        // Not with very many, where adding them up would be all that the test does.
        if self.sweep.waiting.len() < 100 {
            let waiting: u64 = self.sweep.waiting.iter().map(|waiting| waiting.remaining).sum();
            let sum = counters.finished + counters.withdrawn + waiting;
            assert_eq!(counters.requested, sum + u64::try_from(in_flight).unwrap());
        }
        if let Some(results) = self.sweep.take_results(at(self.now).mono) {
            if self.reads {
                self.results.extend(results);
            } else {
                self.sweep.give_back(results, at(self.now).mono);
            }
        }
    }

    /// Runs until it is finished, or time is up.
    fn run(&mut self, until: u64) {
        while !self.sweep.is_finished() {
            let deadline = self.sweep.deadline().map_or(u64::MAX, Mono::as_ns);
            let arrival = self.coming.peek().map_or(u64::MAX, |Reverse((when, ..))| *when);
            let next = deadline.min(arrival).max(self.now);
            if next > until {
                return;
            }
            assert!(next < u64::MAX, "it hangs");
            self.now = next;
            while let Some(Reverse((when, place, check))) = self.coming.peek().copied()
                && when <= next
            {
                self.coming.pop();
                let asked = self.running.get(&place).filter(|(running, _)| *running == check);
                // Nothing arrives for a check that was withdrawn.
                let Some(&(_, to)) = asked else { continue };
                self.running.remove(&place);
                let result = peer(to.port()).1.unwrap();
                let answer = Answer { result, rtt: None, syn_retransmits: 0, completed: false };
                self.step(Event::Answered { place, answer });
            }
            if deadline <= next {
                self.step(Event::Due(at(next).mono));
            }
        }
    }

    fn count(&self, outcome: CheckOutcome) -> usize {
        self.results.iter().filter(|result| result.sample.outcome == outcome).count()
    }
}

#[test]
fn targets_take_turns_and_each_request_has_a_result() {
    let targets = vec![target(7, &[1]), target(8, &[2]), target(9, &[3])];
    let mut script = Script::with(settings(2, 1), targets);
    script.run(u64::MAX);
    let told: Vec<_> =
        script.results.iter().map(|result| (result.target, result.sample.outcome)).collect();
    let refused = CheckOutcome::Failed(Failure::Refused);
    let round = [(7, CheckOutcome::Open), (8, refused), (9, CheckOutcome::Timeout)];
    assert_eq!(told, [round, round].concat());
    let sequences: Vec<u64> = script.results.iter().map(|result| result.sample.seq).collect();
    assert_eq!(sequences, [1, 2, 3, 4, 5, 6]);
    let open = &script.results[0].sample;
    assert_eq!((open.clock, open.rtt_ns), (Some(CheckClock::Application), Some(2 * MS)));
    assert_eq!((open.elapsed_ns, open.method), (2 * MS, Method::Quickack));
    assert_eq!(script.results[2].sample.elapsed_ns, TIMEOUT_NS);
    assert_eq!(script.now - START, 2 * (2 * MS + MS + TIMEOUT_NS));
}

#[test]
fn as_many_run_at_once_as_may() {
    for (concurrency, rounds) in [(1, 12), (5, 3), (12, 1), (100, 1)] {
        let mut script = Script::with(settings(12, concurrency), vec![target(0, &[1])]);
        script.run(u64::MAX);
        assert_eq!(script.count(CheckOutcome::Open), 12);
        assert_eq!(script.now - START, rounds * 2 * MS);
        assert_eq!(script.in_flight_max, concurrency.min(12));
    }
}

#[test]
fn what_came_before_the_timeout_is_no_timeout_however_late_we_are() {
    let mut script = Script::with(settings(1, 1), vec![target(0, &[1])]);
    script.step(Event::Due(at(START).mono));
    script.now += 5 * TIMEOUT_NS;
    script.step(Event::Due(at(START + TIMEOUT_NS - 1).mono));
    assert_eq!((script.results.len(), script.sweep.in_flight()), (0, 1));
    let deadline = script.sweep.deadline().unwrap();
    assert_eq!(deadline, at(START + TIMEOUT_NS).mono, "asked again at once");
    script.step(Event::Due(deadline));
    assert_eq!(script.count(CheckOutcome::Timeout), 1);
    assert_eq!(script.withdrawn, 1);
}

#[test]
fn a_lookup_is_part_of_the_first_requests_timeout() {
    let slow = SweepTarget { lookup_ns: 900 * MS, ..target(0, &[3]) };
    let mut script = Script::with(settings(2, 1), vec![slow]);
    script.run(u64::MAX);
    let elapsed: Vec<u64> =
        script.results.iter().map(|result| result.sample.elapsed_ns / MS).collect();
    assert_eq!(elapsed, [100, 1_000]);
}

#[test]
fn names_without_an_address_do_not_disturb_the_others() {
    let unknown = SweepTarget { lookup_ns: 300 * MS, ..target(0, &[]) };
    let mut script = Script::with(settings(3, 2), vec![unknown, target(1, &[1])]);
    script.run(u64::MAX);
    assert_eq!(script.count(CheckOutcome::Unresolved), 3);
    assert_eq!(script.count(CheckOutcome::Open), 3);
    assert_eq!(script.results[0].sample.elapsed_ns, 300 * MS);
    assert_eq!((script.checks, script.withdrawn), (3, 0));
}

#[test]
fn losers_of_a_race_are_withdrawn() {
    let mut script = Script::with(settings(2, 2), vec![target(0, &[3, 1]), target(1, &[2, 4])]);
    script.run(u64::MAX);
    assert_eq!(script.count(CheckOutcome::Open), 2);
    // Refused tells more than that we had no socket.
    assert_eq!(script.count(CheckOutcome::Failed(Failure::Refused)), 2);
    assert_eq!((script.checks, script.withdrawn, script.running.len()), (8, 2, 0));
}

#[test]
fn a_slow_reader_pauses_the_sweep_and_loses_nothing() {
    let mut script = Script::with(settings(3 * 4_096, 16), vec![target(0, &[7])]);
    script.reads = false;
    script.run(START + 10_000 * MS);
    let held = script.sweep.results.len();
    assert!((RESULTS_MAX..RESULTS_MAX + 16).contains(&held), "{held}");
    assert_eq!((script.sweep.in_flight(), script.results.len()), (0, 0));
    script.reads = true;
    script.run(u64::MAX);
    assert_eq!(script.count(CheckOutcome::Open), 3 * 4_096);
}

#[test]
fn results_are_handed_over_in_time_and_together() {
    // One every 2 ms: at most 10 ms old, so several at once.
    let mut script = Script::with(settings(100, 1), vec![target(0, &[1])]);
    script.run(START + 30 * MS);
    assert!((9..=15).contains(&script.results.len()), "{}", script.results.len());
    assert!(script.sweep.deadline().unwrap() <= at(START + 42 * MS).mono);
}

#[test]
fn stopping_withdraws_what_runs_and_keeps_what_is_done() {
    let mut script = Script::with(settings(10, 4), vec![target(0, &[1]), target(1, &[3])]);
    script.run(START + 50 * MS);
    let Script { sweep, out, now, .. } = &mut script;
    sweep.finish(at(*now), out);
    script.settle();
    assert!(script.sweep.is_finished() && script.sweep.deadline().is_none());
    assert!(script.running.is_empty());
    let counters = script.sweep.counters();
    assert_eq!(counters.requested, 20);
    assert_eq!(counters.finished, u64::try_from(script.results.len()).unwrap());
    assert!(counters.finished > 0 && counters.withdrawn > 4);
    script.sweep.add([target(2, &[1])], true);
    script.step(Event::Due(at(START + 60 * MS).mono));
    assert!(script.sweep.is_finished() && script.running.is_empty());
}

#[test]
fn an_empty_sweep_is_finished_once_it_is_complete() {
    let mut sweep = Sweep::new(settings(1, 1));
    assert!(!sweep.is_finished());
    assert_eq!(sweep.deadline(), None);
    sweep.add([], true);
    assert!(sweep.is_finished());
}

#[test]
fn many_targets_and_requests_cost_little_each() {
    let targets =
        (0..100_000).map(|number| target(number, &[1 + u16::try_from(number % 3).unwrap()]));
    let mut script = Script::with(settings(1, 1_000), targets.collect());
    script.run(u64::MAX);
    assert_eq!(script.results.len(), 100_000);
    assert!(script.sweep.slots.len() <= 1_000);
    // One step an answer, and a few for beginnings and timeouts.
    assert!(script.steps < 110_000, "{}", script.steps);
}

proptest! {
    #[test]
    fn every_request_ends_exactly_once(
        requests in 0_u64..4,
        concurrency in 1_usize..8,
        ports in prop::collection::vec(prop::collection::vec(1_u16..9, 0..4), 0..12),
        stop_ms in prop::option::of(0_u64..3_000),
        feeds in 1_usize..4,
    ) {
        let mut script = Script::new(settings(requests, concurrency));
        let targets: Vec<_> =
            (0..).zip(&ports).map(|(number, ports)| target(number, ports)).collect();
        // Names become known one after the other.
        let feed = targets.len().div_ceil(feeds).max(1);
        for chunk in targets.chunks(feed) {
            script.sweep.add(chunk.to_vec(), false);
            script.step(Event::Due(at(script.now).mono));
            let until = script.now + 40 * MS;
            script.run(until);
            script.now = script.now.max(until);
        }
        script.sweep.add([], true);
        match stop_ms {
            Some(ms) => {
                script.run(script.now + ms * MS);
                let Script { sweep, out, now, .. } = &mut script;
                sweep.finish(at(*now), out);
                script.settle();
            }
            None => script.run(u64::MAX),
        }
        prop_assert!(script.sweep.is_finished());
        prop_assert!(script.running.is_empty());
        let counters = *script.sweep.counters();
        let results = u64::try_from(script.results.len()).unwrap();
        prop_assert_eq!(counters.finished, results);
        prop_assert_eq!(counters.finished + counters.withdrawn, counters.requested);
        let mut sequences: Vec<u64> = script.results.iter().map(|r| r.sample.seq).collect();
        sequences.sort_unstable();
        sequences.dedup();
        prop_assert_eq!(sequences.len(), script.results.len(), "a result came twice");
        if stop_ms.is_none() {
            for (number, ports) in (0_u32..).zip(&ports) {
                let of = script.results.iter().filter(|result| result.target == number);
                prop_assert_eq!(u64::try_from(of.clone().count()).unwrap(), requests);
                let open = ports.iter().any(|&port| {
                    matches!(peer(port), (after, Some(Ok(()))) if after < TIMEOUT_NS)
                });
                for result in of {
                    prop_assert_eq!(result.sample.outcome == CheckOutcome::Open, open);
                    prop_assert!(result.sample.elapsed_ns <= TIMEOUT_NS);
                }
            }
        }
    }
}
