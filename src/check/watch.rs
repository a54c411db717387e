//! One target, checked again and again by the open-loop schedule, for ever or until a count is
//! reached. Events and the time go in; actions, finished checks and counters come out.
//!
//! # Accounting
//! `sent` is the sum of every outcome and of `in_flight` after every step. A slot of the schedule
//! becomes a check whether or not earlier ones are answered: a target that is down is checked, and
//! counted, at the full rate. A check is given up when it has not been answered by its timeout,
//! judged by what the kernel had told by then.

use std::collections::VecDeque;
use std::net::SocketAddr;

use super::{judge, round_trip};
use crate::dial::{Dialer, JITTER_ONE, later};
use crate::event::{Action, Answer, Ending, Event, Failure, Outbox};
use crate::loss::LossWindow;
use crate::sample::{CheckCounters, CheckOutcome, CheckSample, Method};
use crate::schedule::{SEND_LATE_NS, Schedule};
use crate::time::{Mono, Now};

/// How one target is checked.
#[derive(Clone, Debug)]
pub struct WatchSettings {
    /// Time between two slots.
    pub interval_ns: u64,
    /// This target's place in the interval.
    pub phase_ns: u64,
    /// How long an answer may take, from the due time. May exceed the interval.
    pub timeout_ns: u64,
    /// Outcomes in the loss window.
    pub window: usize,
    /// Stop after this many checks.
    pub count: Option<u64>,
    /// Stop then.
    pub stop_at: Option<Mono>,
    /// The method that the I/O uses, for the samples.
    pub method: Method,
    /// How a kernel socket is closed.
    pub ending: Ending,
    /// How often the name is resolved again; `None` for a literal address.
    pub resolve_interval_ns: Option<u64>,
    /// Most checks in flight, however long the timeout.
    pub in_flight_max: usize,
    /// Addresses known at start; none asks for them first.
    pub addresses: Vec<SocketAddr>,
}

/// The checks of one target.
#[derive(Debug)]
pub struct Watch {
    settings: WatchSettings,
    dialer: Dialer,
    /// Runs once an address is known, or known not to be had.
    schedule: Option<Schedule>,
    /// When the schedule starts although the resolver has not answered.
    start_by: Mono,
    /// When the name is to be resolved again because its addresses do not answer.
    ask_at: Option<Mono>,
    places: Box<[Option<Running>]>,
    /// Places of checks in the order of their deadlines; those that are over are passed over.
    order: VecDeque<(u32, u64)>,
    free: Vec<u32>,
    counters: CheckCounters,
    window: LossWindow,
    draining: bool,
    finished: bool,
}

/// A check that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Running {
    seq: u64,
    to: SocketAddr,
    due: Mono,
    tx_app: Now,
    deadline: Mono,
    /// Nothing came in time; what is known of it is about to.
    timed_out: bool,
}

impl Watch {
    /// A target to be checked from `at` on. The first [`Event::Due`] begins.
    #[must_use]
    pub fn new(settings: WatchSettings, at: Mono) -> Self {
        let interval_ns = settings.interval_ns.max(1);
        let limit = usize::try_from(settings.timeout_ns / interval_ns + 1).unwrap_or(usize::MAX);
        let limit = limit.min(settings.in_flight_max).max(1);
        let places = u32::try_from(limit).unwrap_or(u32::MAX);
        let jitter = settings.phase_ns / (interval_ns / JITTER_ONE).max(1);
        let addresses = settings.addresses.clone();
        let mut watch = Self {
            dialer: Dialer::new(addresses, settings.resolve_interval_ns, jitter, at),
            schedule: None,
            start_by: later(at, settings.timeout_ns),
            ask_at: Some(at).filter(|_| settings.addresses.is_empty()),
            places: vec![None; limit].into(),
            order: VecDeque::new(),
            free: (0..places).rev().collect(),
            counters: CheckCounters::default(),
            window: LossWindow::new(settings.window),
            draining: false,
            finished: false,
            settings: WatchSettings { interval_ns, ..settings },
        };
        if !watch.settings.addresses.is_empty() {
            watch.start_schedule(at);
        }
        watch
    }

    /// Takes one step. `at` never goes backwards. Events that have happened come before
    /// [`Event::Due`], so that an answer that waits to be read is not taken for a missing one.
    pub fn on(&mut self, event: Event<'_>, at: Now, out: &mut Outbox) {
        if self.finished {
            return;
        }
        let mut seen_until = UNSEEN;
        match event {
            Event::Due(seen) => seen_until = seen,
            Event::Answered { place, answer } => self.answered(place, &answer, at, out),
            Event::Resolved(addresses) => {
                self.dialer.resolved(addresses);
                self.start_schedule(at.mono);
            }
            // Checks have no connection of the flow's own.
            Event::Connected
            | Event::Received { .. }
            | Event::Stamped(_)
            | Event::Moved { .. }
            | Event::Ended
            | Event::Closed(_) => {}
        }
        self.advance(at, seen_until, out);
    }

    /// Begins no more checks. What is in flight is awaited until its timeout.
    pub fn finish(&mut self, at: Now, out: &mut Outbox) {
        self.draining = true;
        if !self.finished {
            self.advance(at, UNSEEN, out);
        }
    }

    /// Stops now: what is in flight is given up and stays so in the counters.
    pub fn abandon(&mut self, out: &mut Outbox) {
        for (place, running) in (0_u32..).zip(&mut self.places) {
            if running.take().is_some() {
                out.push(Action::Withdraw(place));
            }
        }
        self.finished = true;
    }

    /// When [`Event::Due`] is wanted at the latest; `None` if only other events matter.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        if self.finished {
            return None;
        }
        let timeout = self.oldest().map(|(_, running)| running.deadline);
        let WatchSettings { stop_at, .. } = self.settings;
        let slot = self.schedule.as_ref().map_or(self.start_by, Schedule::due);
        let running = [Some(slot), stop_at, self.ask_at, self.dialer.resolve_at()];
        let running = running.into_iter().flatten().filter(|_| !self.draining);
        timeout.into_iter().chain(running).min()
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> &CheckCounters {
        &self.counters
    }

    /// Whether everything is over; no event matters any more.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.finished
    }

    /// The first slot is due a phase from now, unless slots run already.
    fn start_schedule(&mut self, at: Mono) {
        if self.schedule.is_none() {
            let WatchSettings { interval_ns, phase_ns, .. } = self.settings;
            self.schedule = Some(Schedule::new(at, interval_ns, phase_ns));
        }
    }

    fn answered(&mut self, place: u32, answer: &Answer, at: Now, out: &mut Outbox) {
        let Some(running) = self.take(place) else { return };
        let (outcome, answer) = judge(answer, running.tx_app.mono, running.deadline);
        let outcome = if running.timed_out { CheckOutcome::Timeout } else { outcome };
        self.end(running, outcome, &answer, at, out);
    }

    /// What time alone brings, after every event.
    fn advance(&mut self, at: Now, seen_until: Mono, out: &mut Outbox) {
        let freeing = self.expire(seen_until, out);
        self.end_run(at.mono);
        // A place that is about to be free may be the one that the next slot needs.
        if !self.draining && !freeing {
            self.resolve(at.mono, out);
            self.take_slot(at, out);
            self.end_run(at.mono);
        }
        self.counters.window_checks = self.window.probes();
        self.counters.window_lost = self.window.lost();
        self.finished = self.draining && self.counters.in_flight == 0;
    }

    /// Gives up what was not answered in time; whether there was anything.
    fn expire(&mut self, seen_until: Mono, out: &mut Outbox) -> bool {
        let mut any = false;
        while let Some(&(place, _)) = self.order.front()
            && let Some(running) = &mut self.places[index(place)]
            && seen_until >= running.deadline
        {
            running.timed_out = true;
            out.push(Action::TimeOut(place));
            self.order.pop_front();
            self.pass_over();
            any = true;
        }
        any
    }

    fn end_run(&mut self, at: Mono) {
        let WatchSettings { count, stop_at, .. } = self.settings;
        self.draining |= count.is_some_and(|count| self.counters.sent >= count)
            || stop_at.is_some_and(|stop_at| at >= stop_at);
    }

    fn resolve(&mut self, at: Mono, out: &mut Outbox) {
        let again = self.ask_at.is_some_and(|ask_at| at >= ask_at);
        if again {
            self.ask_at = None;
        }
        if self.dialer.asks_by_interval(at) || again && self.dialer.asks_before_dial(at) {
            out.push(Action::Resolve);
        }
    }

    fn take_slot(&mut self, at: Now, out: &mut Outbox) {
        if at.mono >= self.start_by {
            self.start_schedule(at.mono);
        }
        let Some(slot) = self.schedule.as_mut().and_then(|schedule| schedule.take(at.mono)) else {
            return;
        };
        self.counters.skipped += slot.skipped;
        let Some(&place) = self.free.last() else {
            self.counters.skipped += 1;
            return;
        };
        self.counters.sent += 1;
        let seq = self.counters.sent;
        let lag_ns = u64::try_from(at.mono.since_ns(slot.due)).unwrap_or(0);
        self.counters.late += u64::from(lag_ns > SEND_LATE_NS);
        let Some(to) = self.dialer.dial(at.mono) else {
            self.ask_later(at.mono);
            self.counters.unresolved += 1;
            self.window.record(true);
            out.checks.push(self.lost_for_want_of_an_address(seq, slot.due, at));
            return;
        };
        self.free.pop();
        let deadline = later(slot.due, self.settings.timeout_ns);
        let running = Running { seq, to, due: slot.due, tx_app: at, deadline, timed_out: false };
        self.places[index(place)] = Some(running);
        self.order.push_back((place, seq));
        self.counters.in_flight += 1;
        out.push(Action::Check { place, to, ending: self.settings.ending });
    }

    const fn lost_for_want_of_an_address(&self, seq: u64, due: Mono, at: Now) -> CheckSample {
        CheckSample {
            seq,
            to: None,
            method: self.settings.method,
            outcome: CheckOutcome::Unresolved,
            due,
            tx_app: at,
            clock: None,
            rtt_ns: None,
            elapsed_ns: 0,
            syn_retransmits: 0,
            completed: false,
        }
    }

    /// Counts a check that is over, and tells of it.
    fn end(
        &mut self,
        running: Running,
        outcome: CheckOutcome,
        answer: &Answer,
        at: Now,
        out: &mut Outbox,
    ) {
        let elapsed_ns = u64::try_from(at.mono.since_ns(running.tx_app.mono)).unwrap_or(0);
        let rtt = round_trip(answer, elapsed_ns);
        let open = outcome == CheckOutcome::Open;
        let counters = &mut self.counters;
        counters.in_flight -= 1;
        *match outcome {
            CheckOutcome::Open => &mut counters.open,
            CheckOutcome::Timeout | CheckOutcome::Failed(Failure::TimedOut) => {
                &mut counters.timeout
            }
            CheckOutcome::Failed(Failure::Refused) => &mut counters.refused,
            CheckOutcome::Failed(Failure::Unreachable) => &mut counters.unreachable,
            CheckOutcome::Failed(Failure::Local(_)) => &mut counters.local_error,
            CheckOutcome::Failed(_) => &mut counters.error,
            CheckOutcome::Unresolved => &mut counters.unresolved,
        } += 1;
        let Answer { syn_retransmits, completed, .. } = *answer;
        counters.syn_retransmits += u64::from(syn_retransmits);
        counters.completed_handshakes += u64::from(completed);
        if let (true, Some((_, rtt_ns))) = (open, rtt) {
            counters.last_rtt_ns = rtt_ns;
        }
        self.window.record(!open);
        if open {
            self.dialer.replied();
            self.ask_at = None;
        } else {
            self.dialer.pass_on();
            self.ask_later(at.mono);
        }
        out.checks.push(CheckSample {
            seq: running.seq,
            to: Some(running.to),
            method: self.settings.method,
            outcome,
            due: running.due,
            tx_app: running.tx_app,
            clock: rtt.map(|(clock, _)| clock),
            rtt_ns: rtt.map(|(_, ns)| ns),
            elapsed_ns,
            syn_retransmits,
            completed,
        });
    }

    /// Resolves the name again, each time after a longer while; a literal address needs it not.
    fn ask_later(&mut self, at: Mono) {
        if self.settings.resolve_interval_ns.is_some() && self.ask_at.is_none() {
            self.ask_at = Some(self.dialer.back_off(at));
        }
    }

    /// Frees a place.
    fn take(&mut self, place: u32) -> Option<Running> {
        let running = self.places.get_mut(index(place))?.take()?;
        self.free.push(place);
        self.pass_over();
        Some(running)
    }

    /// Passes over those that are over.
    fn pass_over(&mut self) {
        while let Some(&(place, seq)) = self.order.front()
            && !self.is_running(place, seq)
        {
            self.order.pop_front();
        }
    }

    /// The running check with the earliest deadline.
    fn oldest(&self) -> Option<(u32, Running)> {
        let &(place, _) = self.order.front()?;
        self.places[index(place)].map(|running| (place, running))
    }

    fn is_running(&self, place: u32, seq: u64) -> bool {
        self.places[index(place)].is_some_and(|running| running.seq == seq)
    }
}

fn index(place: u32) -> usize {
    usize::try_from(place).expect("32 bits fit")
}

/// Before everything: nobody is judged at an event that is not [`Event::Due`], since the answer may
/// be the next event of the same turn.
const UNSEEN: Mono = Mono::from_ns(0);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::FlowId;
    use crate::sample::CheckClock;
    use crate::time::Wall;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;
    /// Of every check that is not answered.
    const SENT_AGAIN: u32 = 2;

    /// What comes back of a check: after so many ns, this; or never anything.
    type Reply = Option<(u64, Answer)>;

    /// One target and a network that answers as it is told.
    struct Script {
        watch: Watch,
        now_ns: u64,
        out: Outbox,
        coming: Vec<(u64, u32, Answer)>,
        asked: Vec<(u64, SocketAddr)>,
        withdrawn: usize,
        resolves: usize,
        checks: Vec<CheckSample>,
    }

    fn settings() -> WatchSettings {
        WatchSettings {
            interval_ns: 100 * MS,
            phase_ns: 0,
            timeout_ns: 250 * MS,
            window: 10,
            count: None,
            stop_at: None,
            method: Method::Quickack,
            ending: Ending::Reset,
            resolve_interval_ns: None,
            in_flight_max: 1_024,
            addresses: vec![address(80)],
        }
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, 1], port))
    }

    fn open() -> Answer {
        let rtt = Some((CheckClock::Ebpf, 7_000));
        Answer { result: Ok(()), rtt, syn_retransmits: 0, completed: false }
    }

    fn failed(failure: Failure) -> Answer {
        Answer { result: Err(failure), rtt: None, syn_retransmits: 0, completed: false }
    }

    fn at(ns: u64) -> Now {
        Now { mono: Mono::from_ns(ns), wall: Wall::from_ns(ns) }
    }

    impl Script {
        fn new(settings: WatchSettings) -> Self {
            Self {
                watch: Watch::new(settings, Mono::from_ns(0)),
                now_ns: 0,
                out: Outbox::default(),
                coming: Vec::new(),
                asked: Vec::new(),
                withdrawn: 0,
                resolves: 0,
                checks: Vec::new(),
            }
        }

        /// Runs until `end_ns`; the network answers each check as `reply` says.
        fn run(&mut self, end_ns: u64, mut reply: impl FnMut(SocketAddr, u64) -> Reply) {
            loop {
                self.coming.sort_by_key(|(ns, ..)| *ns);
                let answer_ns = self.coming.first().map(|(ns, ..)| *ns);
                let due_ns = self.watch.deadline().map(|at| at.as_ns().max(self.now_ns));
                let Some(next_ns) = [answer_ns, due_ns].into_iter().flatten().min() else { break };
                if next_ns > end_ns {
                    break;
                }
                self.now_ns = next_ns;
                let event = if answer_ns == Some(next_ns) {
                    let (_, place, answer) = self.coming.remove(0);
                    Event::Answered { place, answer }
                } else {
                    Event::Due(Mono::from_ns(next_ns))
                };
                self.watch.on(event, at(next_ns), &mut self.out);
                self.apply(&mut reply);
            }
            self.now_ns = end_ns;
        }

        fn apply(&mut self, reply: &mut impl FnMut(SocketAddr, u64) -> Reply) {
            while !self.out.actions.is_empty() {
                match self.out.actions.remove(0) {
                    Action::Check { place, to, .. } => {
                        let running = self.coming.iter().any(|(_, running, _)| *running == place);
                        assert!(!running, "place {place} is taken");
                        self.asked.push((self.now_ns / MS, to));
                        if let Some((after_ns, answer)) = reply(to, self.now_ns) {
                            self.coming.push((self.now_ns + after_ns, place, answer));
                        }
                    }
                    Action::Withdraw(place) => {
                        self.withdrawn += 1;
                        self.coming.retain(|(_, running, _)| *running != place);
                    }
                    Action::TimeOut(place) => {
                        self.withdrawn += 1;
                        self.coming.retain(|(_, running, _)| *running != place);
                        let answer = Answer::timed_out(SENT_AGAIN);
                        let event = Event::Answered { place, answer };
                        self.watch.on(event, at(self.now_ns), &mut self.out);
                    }
                    Action::Resolve => self.resolves += 1,
                    other => panic!("a check asks for {other:?} of {:?}", FlowId(0)),
                }
            }
            self.checks.append(&mut self.out.checks);
            self.out.clear();
            balances(self.watch.counters());
        }

        fn outcomes(&self) -> Vec<&'static str> {
            self.checks.iter().map(|check| check.outcome.name()).collect()
        }
    }

    fn balances(c: &CheckCounters) {
        let ended = c.open + c.refused + c.timeout + c.unreachable + c.local_error + c.error;
        assert_eq!(c.sent, ended + c.unresolved + c.in_flight, "{c:?}");
    }

    #[test]
    fn an_open_port_is_checked_in_every_slot() {
        let mut script = Script::new(settings());
        script.run(1_000 * MS, |_, _| Some((MS, open())));
        let expected: Vec<_> = (0..=10).map(|slot| (slot * 100, address(80))).collect();
        assert_eq!(script.asked, expected);
        let counters = script.watch.counters();
        assert_eq!((counters.open, counters.in_flight, counters.last_rtt_ns), (10, 1, 7_000));
        let check = script.checks[0];
        assert_eq!((check.clock, check.rtt_ns), (Some(CheckClock::Ebpf), Some(7_000)));
        assert_eq!((check.seq, check.elapsed_ns), (1, MS));
    }

    #[test]
    fn a_black_hole_is_checked_at_the_full_rate_and_lost_entirely() {
        let mut script = Script::new(settings());
        script.run(1_049 * MS, |_, _| None);
        let counters = *script.watch.counters();
        assert_eq!((counters.sent, counters.timeout, counters.in_flight), (11, 8, 3));
        assert_eq!((counters.window_lost, counters.window_checks), (8, 8));
        assert_eq!(script.withdrawn, 8);
        assert!(script.checks.iter().all(|check| check.rtt_ns.is_none()));
        assert!(script.checks.iter().all(|check| check.syn_retransmits == SENT_AGAIN));
        assert_eq!(counters.syn_retransmits, 8 * u64::from(SENT_AGAIN));
    }

    #[test]
    fn an_answer_after_the_timeout_is_none() {
        let mut script = Script::new(settings());
        // The answer comes to the next check of the same place, if it came at all.
        script.run(700 * MS, |_, now_ns| Some((if now_ns == 0 { 260 * MS } else { MS }, open())));
        assert_eq!(script.outcomes()[..3], ["open", "open", "timeout"]);
        assert_eq!(script.watch.counters().timeout, 1);
    }

    #[test]
    fn each_failure_is_counted_as_what_it_is() {
        let failures = [
            Failure::Refused,
            Failure::Unreachable,
            Failure::TimedOut,
            Failure::Local(24),
            Failure::Reset,
        ];
        let mut script = Script::new(settings());
        script.run(499 * MS, |_, now_ns| {
            let slot = usize::try_from(now_ns / (100 * MS)).expect("small");
            Some((MS, failed(failures[slot])))
        });
        let expected = ["refused", "unreachable", "timeout", "local_error", "error"];
        assert_eq!(script.outcomes(), expected);
        let clocks: Vec<_> = script.checks.iter().map(|check| check.clock).collect();
        assert_eq!(clocks[0], Some(CheckClock::Application), "a RST is a round trip");
        assert_eq!(clocks[1..], [None; 4], "nothing else is the peer's answer");
    }

    #[test]
    fn our_own_clock_is_not_trusted_after_a_retransmission() {
        let mut script = Script::new(settings());
        let retransmitted = Answer { rtt: None, syn_retransmits: 1, ..open() };
        script.run(50 * MS, |_, _| Some((20 * MS, retransmitted)));
        let check = script.checks[0];
        assert_eq!((check.rtt_ns, check.elapsed_ns, check.syn_retransmits), (None, 20 * MS, 1));
        assert_eq!(script.watch.counters().syn_retransmits, 1);
    }

    #[test]
    fn more_than_may_be_in_flight_is_skipped_and_counted() {
        let mut script = Script::new(WatchSettings { in_flight_max: 2, ..settings() });
        script.run(949 * MS, |_, _| None);
        let counters = script.watch.counters();
        assert!(counters.skipped > 0);
        assert_eq!(counters.sent + counters.skipped, 10);
        assert!(counters.in_flight <= 2);
    }

    #[test]
    fn the_count_ends_the_run_when_its_last_check_is_over() {
        let mut script = Script::new(WatchSettings { count: Some(3), ..settings() });
        script.run(60_000 * MS, |_, now_ns| (now_ns < 200 * MS).then_some((MS, open())));
        assert_eq!(script.outcomes(), ["open", "open", "timeout"]);
        assert!(script.watch.is_finished());
        assert_eq!(script.watch.deadline(), None);
    }

    #[test]
    fn finishing_awaits_what_is_in_flight_and_abandoning_withdraws_it() {
        let mut script = Script::new(settings());
        script.run(110 * MS, |_, _| None);
        script.watch.finish(at(110 * MS), &mut script.out);
        assert!(!script.watch.is_finished());
        script.run(1_000 * MS, |_, _| None);
        assert!(script.watch.is_finished());
        assert_eq!(script.watch.counters().timeout, 2);

        let mut script = Script::new(settings());
        script.run(110 * MS, |_, _| None);
        script.watch.abandon(&mut script.out);
        script.apply(&mut |_, _| None);
        assert_eq!((script.withdrawn, script.watch.counters().in_flight), (2, 2));
        assert!(script.watch.is_finished());
    }

    #[test]
    fn a_name_is_resolved_first_and_again_while_it_fails() {
        let named = WatchSettings {
            addresses: Vec::new(),
            resolve_interval_ns: Some(60_000 * MS),
            ..settings()
        };
        let mut script = Script::new(named);
        script.run(40 * MS, |_, _| None);
        assert_eq!((script.resolves, script.asked.len()), (1, 0));
        let addresses = [address(1), address(2)];
        script.watch.on(Event::Resolved(Some(&addresses)), at(40 * MS), &mut script.out);
        let reply =
            |to: SocketAddr, _| Some((MS, failed(Failure::Refused))).filter(|_| to.port() < 3);
        script.apply(&mut { reply });
        script.run(260 * MS, reply);
        let asked: Vec<_> = script.asked.iter().map(|(_, to)| to.port()).collect();
        assert_eq!(asked, [1, 2, 1], "one after the other");
        script.run(2_000 * MS, reply);
        assert_eq!(script.resolves, 2, "one question at a time");
    }

    #[test]
    fn a_name_without_an_address_loses_checks() {
        let named = WatchSettings {
            addresses: Vec::new(),
            resolve_interval_ns: Some(60_000 * MS),
            ..settings()
        };
        let mut script = Script::new(named);
        script.run(10 * MS, |_, _| None);
        script.watch.on(Event::Resolved(None), at(10 * MS), &mut script.out);
        script.apply(&mut |_, _| None);
        script.run(3_009 * MS, |_, _| None);
        let counters = script.watch.counters();
        assert_eq!((counters.unresolved, counters.sent), (30, 30));
        assert!(script.resolves >= 2, "asked again");
        assert!(script.checks.iter().all(|check| check.to.is_none()));
    }

    proptest! {
        #[test]
        fn every_check_ends_once_whatever_the_network_does(
            replies in proptest::collection::vec((0_u64..400, 0_u8..4), 1..60),
            interval_ms in 1_u64..200,
            timeout_ms in 1_u64..500,
            in_flight_max in 1_usize..20,
        ) {
            let count = u64::try_from(replies.len()).expect("a few");
            let mut script = Script::new(WatchSettings {
                interval_ns: interval_ms * MS,
                timeout_ns: timeout_ms * MS,
                in_flight_max,
                count: Some(count),
                ..settings()
            });
            let mut next = replies.into_iter();
            script.run(600_000 * MS, |_, _| match next.next() {
                Some((_, 0)) | None => None,
                Some((ms, 1)) => Some((ms * MS, open())),
                Some((ms, 2)) => Some((ms * MS, failed(Failure::Refused))),
                Some((ms, _)) => Some((ms * MS, failed(Failure::Unreachable))),
            });
            prop_assert!(script.watch.is_finished());
            let mut seqs: Vec<_> = script.checks.iter().map(|check| check.seq).collect();
            seqs.sort_unstable();
            let expected: Vec<_> = (1..=count).collect();
            prop_assert_eq!(seqs, expected);
            for check in &script.checks {
                let late = check.elapsed_ns > timeout_ms * MS;
                prop_assert!(!late || check.outcome == CheckOutcome::Timeout);
            }
        }
    }
}
