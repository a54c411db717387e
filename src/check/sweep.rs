//! A finite closed loop of half-open checks: every target so many times, at most so many requests
//! at once. Targets, events and the time go in; actions and one result a request come out.
//!
//! # Accounting
//! `requested = finished + withdrawn + in flight + waiting` after every step. Every request ends
//! exactly once, by its result; those that run when the sweep is stopped are withdrawn and have
//! none. Results are never dropped: while the reader is behind, no request begins.
//!
//! A step costs the logarithm of the requests at once, whatever the number of targets; a target
//! that waits is one queue entry, however often it is to be checked.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;

use super::race::{LANES, Race};
use crate::dial::later;
use crate::event::{Action, Answer, Ending, Event, Outbox};
use crate::sample::{CheckSample, Method};
use crate::time::{Mono, Now};
use crate::timers::Timers;

/// A result's usual patience, see [`SweepSettings::result_age_ns_max`]: what people notice.
pub const RESULT_AGE_NS_MAX: u64 = 10_000_000;

/// How a sweep works.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SweepSettings {
    /// Requests to each target.
    pub requests: u64,
    /// Requests at once.
    pub concurrency: usize,
    /// How long a request may take.
    pub timeout_ns: u64,
    /// The method that the I/O uses, for the samples.
    pub method: Method,
    /// How long a result may wait for company: 0 hands each over at once.
    pub result_age_ns_max: u64,
}

/// Whom to ask.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SweepTarget {
    /// The caller's number of it.
    pub target: u32,
    /// Its addresses in the order in which they are tried; none if its name has none.
    pub addresses: Arc<[SocketAddr]>,
    /// What resolving its name took off the first request's timeout.
    pub lookup_ns: u64,
    /// How long each request may take, if not as long as the settings say.
    pub timeout_ns: Option<u64>,
    /// How a kernel socket is closed.
    pub ending: Ending,
}

/// One finished request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckResult {
    /// The caller's number of the target.
    pub target: u32,
    /// How it went.
    pub sample: CheckSample,
}

/// What a sweep counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepCounters {
    /// Requests of all targets known so far.
    pub requested: u64,
    /// Those that have a result.
    pub finished: u64,
    /// Those that ran, or had not begun, when the sweep was stopped.
    pub withdrawn: u64,
}

/// The loop.
#[derive(Debug)]
pub struct Sweep {
    settings: SweepSettings,
    /// Targets with requests to come, in turn: all targets once, then again.
    waiting: VecDeque<Waiting>,
    /// No target will be added.
    complete: bool,
    stopped: bool,
    slots: Vec<Option<Request>>,
    free: Vec<u32>,
    /// By slot. A slot's entry stays when its request ends: the next one's is rarely earlier.
    timers: Timers,
    begun: u64,
    counters: SweepCounters,
    results: Vec<CheckResult>,
    /// When results that wait are to be handed over at the latest.
    hand_over_at: Option<Mono>,
    /// The moment of the latest step.
    now: Mono,
}

#[derive(Debug)]
struct Waiting {
    target: SweepTarget,
    remaining: u64,
}

/// A request that runs.
#[derive(Debug)]
struct Request {
    target: u32,
    seq: u64,
    ending: Ending,
    race: Race,
}

impl Sweep {
    /// A sweep without targets yet.
    #[must_use]
    pub fn new(settings: SweepSettings) -> Self {
        let concurrency = settings.concurrency.clamp(1, CONCURRENCY_MAX);
        Self {
            settings: SweepSettings { concurrency, ..settings },
            waiting: VecDeque::new(),
            complete: false,
            stopped: false,
            slots: Vec::new(),
            free: Vec::new(),
            timers: Timers::default(),
            begun: 0,
            counters: SweepCounters::default(),
            results: Vec::new(),
            hand_over_at: None,
            now: Mono::default(),
        }
    }

    /// More targets; `complete` promises that these are the last. They begin with the next
    /// [`Event::Due`], which is wanted at once.
    pub fn add(&mut self, targets: impl IntoIterator<Item = SweepTarget>, complete: bool) {
        for target in targets {
            self.counters.requested += self.settings.requests;
            if self.stopped {
                self.counters.withdrawn += self.settings.requests;
            } else if self.settings.requests > 0 {
                self.waiting.push_back(Waiting { target, remaining: self.settings.requests });
            }
        }
        self.complete |= complete;
    }

    /// Takes one step. `at` never goes backwards. Events that have happened come before
    /// [`Event::Due`], so that an answer that waits to be read is not taken for a missing one.
    pub fn on(&mut self, event: Event<'_>, at: Now, out: &mut Outbox) {
        self.now = at.mono;
        match event {
            Event::Due(seen_until) => self.expire(seen_until, at, out),
            Event::Answered { place, answer } => self.answered(place, &answer, at, out),
            // Checks have no connection of the flow's own, and names are resolved before.
            Event::Connected
            | Event::Received { .. }
            | Event::Stamped(_)
            | Event::Closed(_)
            | Event::Moved { .. }
            | Event::Ended
            | Event::Resolved(_) => {}
        }
        self.begin(at, out);
    }

    /// Stops: withdraws what runs, begins nothing more. Results that wait are still to be taken.
    pub fn finish(&mut self, at: Now, out: &mut Outbox) {
        self.now = at.mono;
        self.stopped = true;
        for slot in 0..self.slots.len() {
            if let Some(request) = self.slots[slot].take() {
                withdraw(slot_number(slot), &request.race, out);
                self.free.push(slot_number(slot));
                self.counters.withdrawn += 1;
            }
        }
        let waiting: u64 = self.waiting.drain(..).map(|waiting| waiting.remaining).sum();
        self.counters.withdrawn += waiting;
    }

    /// When [`Event::Due`] is wanted at the latest; `None` if only other events matter.
    #[must_use]
    pub fn deadline(&mut self) -> Option<Mono> {
        let begins = self.can_begin().then_some(self.now);
        let running = if self.in_flight() > 0 { self.timers.soonest() } else { None };
        [begins, running, self.hand_over_at].into_iter().flatten().min()
    }

    /// The results that wait, once they are many, or the first of them is old, or nothing more
    /// will come. Every result is taken once.
    pub fn take_results(&mut self, at: Mono) -> Option<Vec<CheckResult>> {
        let ripe = self.hand_over_at.is_some_and(|hand_over_at| at >= hand_over_at);
        let ripe = ripe || self.is_over();
        if !ripe || self.results.is_empty() {
            return None;
        }
        self.hand_over_at = None;
        Some(std::mem::take(&mut self.results))
    }

    /// Results that nobody could take; to be tried again after a moment.
    pub fn give_back(&mut self, mut results: Vec<CheckResult>, at: Mono) {
        results.append(&mut self.results);
        self.results = results;
        self.hand_over_at = Some(later(at, READER_PAUSE_NS));
    }

    /// Whether every request has ended, and every result was taken.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        self.is_over() && self.results.is_empty()
    }

    /// Requests that run.
    #[must_use]
    pub const fn in_flight(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> &SweepCounters {
        &self.counters
    }

    fn is_over(&self) -> bool {
        (self.stopped || self.complete && self.waiting.is_empty()) && self.in_flight() == 0
    }

    fn can_begin(&self) -> bool {
        !self.waiting.is_empty()
            && self.in_flight() < self.settings.concurrency
            && self.results.len() < RESULTS_MAX
    }

    /// Begins what there is room for, a few at a time: what was answered meanwhile comes first,
    /// because a kernel socket must be closed soon after its SYN-ACK.
    fn begin(&mut self, at: Now, out: &mut Outbox) {
        for _ in 0..BEGIN_AT_ONCE {
            if !self.can_begin() {
                return;
            }
            let Some(Waiting { mut target, remaining }) = self.waiting.pop_front() else { return };
            let lookup_ns = std::mem::take(&mut target.lookup_ns);
            let timeout_ns = target.timeout_ns.unwrap_or(self.settings.timeout_ns);
            let timeout_ns = timeout_ns.saturating_sub(lookup_ns);
            let race = Race::new(Arc::clone(&target.addresses), timeout_ns, at);
            self.begun += 1;
            let (number, ending) = (target.target, target.ending);
            let request = Request { target: number, seq: self.begun, ending, race };
            if remaining > 1 {
                self.waiting.push_back(Waiting { target, remaining: remaining - 1 });
            }
            if request.race.is_hopeless() {
                self.end_unresolved(request, lookup_ns, at);
            } else {
                let slot = self.occupy(request);
                self.advance(slot, at, out);
            }
        }
    }

    fn occupy(&mut self, request: Request) -> u32 {
        if let Some(slot) = self.free.pop() {
            self.slots[index(slot)] = Some(request);
            return slot;
        }
        self.slots.push(Some(request));
        slot_number(self.slots.len() - 1)
    }

    /// Begins the attempts of a request whose time has come, and sets its timer.
    fn advance(&mut self, slot: u32, at: Now, out: &mut Outbox) {
        let Some(Some(request)) = self.slots.get_mut(index(slot)) else { return };
        while let Some((lane, to)) = request.race.begin(at) {
            let place = slot * LANES + lane;
            out.push(Action::Check { place, to, ending: request.ending });
        }
        self.timers.set(slot, Some(request.race.deadline()));
    }

    fn answered(&mut self, place: u32, answer: &Answer, at: Now, out: &mut Outbox) {
        let (slot, lane) = (place / LANES, place % LANES);
        let Some(Some(request)) = self.slots.get_mut(index(slot)) else { return };
        match request.race.answered(lane, answer, at) {
            Some(finish) => {
                let sample = finish.sample(request.seq, self.settings.method);
                self.end(slot, sample, at, out);
            }
            None => self.advance(slot, at, out),
        }
    }

    /// Wakes every request whose time had come when everything that had happened was told.
    fn expire(&mut self, seen_until: Mono, at: Now, out: &mut Outbox) {
        while let Some(slot) = self.timers.pop(seen_until) {
            // The entry may be that of a request that is over.
            let Some(Some(request)) = self.slots.get_mut(index(slot)) else { continue };
            if let Some(lane) = request.race.overdue(seen_until) {
                out.push(Action::TimeOut(slot * LANES + lane));
                continue;
            }
            match request.race.expired(seen_until, at) {
                Some(finish) => {
                    let sample = finish.sample(request.seq, self.settings.method);
                    self.end(slot, sample, at, out);
                }
                None => self.advance(slot, at, out),
            }
        }
    }

    /// The slot is free at once: a withdrawn check is not answered.
    fn end(&mut self, slot: u32, sample: CheckSample, at: Now, out: &mut Outbox) {
        let Some(request) = self.slots[index(slot)].take() else { return };
        withdraw(slot, &request.race, out);
        self.free.push(slot);
        self.push_result(CheckResult { target: request.target, sample }, at.mono);
    }

    /// A request to a name without an address; what it took was the lookup.
    fn end_unresolved(&mut self, mut request: Request, lookup_ns: u64, at: Now) {
        let Some(finish) = request.race.expired(Mono::from_ns(u64::MAX), at) else { return };
        let sample = finish.sample(request.seq, self.settings.method);
        let sample = CheckSample { elapsed_ns: lookup_ns, ..sample };
        self.push_result(CheckResult { target: request.target, sample }, at.mono);
    }

    fn push_result(&mut self, result: CheckResult, at: Mono) {
        self.counters.finished += 1;
        self.results.push(result);
        if self.results.len() == BATCH {
            self.hand_over_at = Some(at);
        }
        self.hand_over_at.get_or_insert_with(|| later(at, self.settings.result_age_ns_max));
    }
}

/// Gives up every attempt of a request that still runs.
fn withdraw(slot: u32, race: &Race, out: &mut Outbox) {
    for lane in race.running() {
        out.push(Action::Withdraw(slot * LANES + lane));
    }
}

fn index(slot: u32) -> usize {
    usize::try_from(slot).expect("32 bits fit")
}

fn slot_number(index: usize) -> u32 {
    u32::try_from(index).expect("no more slots than CONCURRENCY_MAX")
}

/// Requests at once, whatever was asked for: places are 32-bit numbers.
const CONCURRENCY_MAX: usize = 1 << 24;
/// Requests begun in one step.
const BEGIN_AT_ONCE: usize = 64;
/// Results that are worth a hand-over.
const BATCH: usize = 256;
/// Results that wait for a slow reader while requests still begin.
const RESULTS_MAX: usize = 4_096;
/// How long a reader that is behind is left alone.
const READER_PAUSE_NS: u64 = 2_000_000;

#[cfg(test)]
mod tests;
