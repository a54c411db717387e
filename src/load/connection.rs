//! One connection of a load: sends what is due, checks every byte that comes back, and is made
//! again when it is lost.

use std::collections::VecDeque;
use std::ops::Range;

use super::pattern::Pattern;
use super::slots::Slots;
use super::{Generator, Request, Run};
use crate::dial::later;
use crate::event::{Action, Event, Outbox};
use crate::sample::LoadFailure;
use crate::schedule::{SEND_LATE_NS, phase_ns};
use crate::time::{Mono, Now};

/// One connection.
#[derive(Debug)]
pub struct Connection {
    /// Among all connections of the load.
    number: u64,
    link: Link,
    /// Requests in flight, oldest first.
    in_flight: VecDeque<InFlight>,
    /// Connections made.
    made: u64,
    /// The message whose bytes come next, and how many of them have come.
    message: u64,
    offset: usize,
    slots: Option<Slots>,
    /// Attempts and connections in a row that brought no answer.
    failures: u32,
    /// Whether the first attempt is over.
    tried: bool,
    /// The measured time is over.
    draining: bool,
}

#[derive(Clone, Copy, Debug)]
struct InFlight {
    due: Mono,
    sent_at: Mono,
}

#[derive(Clone, Copy, Debug)]
enum Link {
    /// There is none; why, if one was tried.
    Down {
        retry_at: Mono,
        why: Option<LoadFailure>,
    },
    /// `due` is that of the request that this is, or stands for if it fails.
    Connecting {
        give_up_at: Mono,
        due: Mono,
    },
    Open {
        answered: bool,
    },
    Finished,
}

impl Connection {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            link: Link::Down { retry_at: Mono::default(), why: None },
            in_flight: VecDeque::new(),
            made: 0,
            message: 0,
            offset: 0,
            slots: None,
            failures: 0,
            tried: false,
            draining: false,
        }
    }

    /// Takes one step. `at` never goes backwards. Events that have happened come before
    /// [`Event::Due`], so that an answer that waits to be read is not taken for a missing one.
    pub fn on(&mut self, shared: &mut Generator, event: Event<'_>, at: Now, out: &mut Outbox) {
        shared.see(at);
        match event {
            Event::Due(seen_until) => self.expire(shared, seen_until, at, out),
            Event::Connected => self.connected(shared, at, out),
            Event::Received { bytes, .. } => self.received(shared, bytes, at, out),
            Event::Closed(failure) => self.lose(shared, failure.into(), at),
            Event::Stamped(_)
            | Event::Resolved(_)
            | Event::Answered { .. }
            | Event::Moved { .. }
            | Event::Ended => {}
        }
        match shared.run {
            None => self.open(shared, at, out),
            Some(run) if at.mono >= run.until => self.drain(shared, run, at, out),
            Some(run) => self.work(shared, run, at, out),
        }
    }

    /// When [`Event::Due`] is wanted at the latest; `None` if only other events matter.
    #[must_use]
    pub fn deadline(&self, shared: &Generator) -> Option<Mono> {
        let end = shared.run.filter(|_| !self.draining).map(|run| run.until);
        let sends = end.is_some();
        let slot = self.slots.as_ref().map(Slots::due).filter(|_| sends);
        let own = match self.link {
            Link::Finished => return None,
            Link::Down { retry_at, .. } => {
                let is_request = shared.settings.request == Request::Connect;
                let slot = slot.filter(|_| is_request);
                slot.or(Some(retry_at)).filter(|_| sends)
            }
            Link::Connecting { give_up_at, .. } => Some(give_up_at),
            Link::Open { .. } => {
                let oldest = self.in_flight.front();
                let timeout_ns = shared.settings.timeout_ns;
                let expires = oldest.map(|oldest| later(oldest.sent_at, timeout_ns));
                let room = self.in_flight.len() < shared.in_flight_max;
                slot.filter(|_| room).into_iter().chain(expires).min()
            }
        };
        own.into_iter().chain(end).min()
    }

    /// Whether a connection is being made.
    #[cfg(test)]
    pub(super) const fn is_connecting(&self) -> bool {
        matches!(self.link, Link::Connecting { .. })
    }

    /// Before the load starts: the first attempt.
    fn open(&mut self, shared: &Generator, at: Now, out: &mut Outbox) {
        if !self.tried && shared.settings.request != Request::Connect {
            self.tried = true;
            self.dial(shared, at.mono, at, out);
        }
    }

    fn work(&mut self, shared: &mut Generator, run: Run, at: Now, out: &mut Outbox) {
        if let (None, Some(rate)) = (&self.slots, shared.settings.rate) {
            let stride = shared.settings.connections_all;
            self.slots = Some(Slots::new(run.origin, rate, stride, self.number));
        }
        match (shared.settings.request, self.link) {
            (Request::Connect, Link::Down { retry_at, .. }) => {
                self.skip_stale(shared, at);
                let due = match &mut self.slots {
                    Some(slots) if slots.due() <= at.mono => slots.take(),
                    None if retry_at <= at.mono => at.mono,
                    _ => return,
                };
                begin(shared, due, at);
                self.dial(shared, due, at, out);
            }
            (Request::Echo(_), Link::Down { retry_at, why }) => {
                self.fail_slots(shared, why.unwrap_or(LoadFailure::Error), later(at.mono, 1));
                if retry_at <= at.mono {
                    self.dial(shared, at.mono, at, out);
                }
            }
            (Request::Echo(bytes), Link::Open { .. }) => {
                self.skip_stale(shared, at);
                self.send(shared, bytes, run.until, at, out);
            }
            _ => {}
        }
    }

    /// Sends every request that is due, and before `end`, as far as there is room.
    fn send(&mut self, shared: &mut Generator, bytes: usize, end: Mono, at: Now, out: &mut Outbox) {
        let start = out.bytes.len();
        while self.in_flight.len() < shared.in_flight_max {
            let due = match &mut self.slots {
                Some(slots) if slots.due() <= at.mono && slots.due() < end => slots.take(),
                Some(_) => break,
                None => at.mono,
            };
            begin(shared, due, at);
            let ahead = u64::try_from(self.in_flight.len()).expect("64 bits hold a length");
            let pattern = Pattern::new(self.number, self.made, self.message + ahead);
            pattern.append(&mut out.bytes, bytes);
            self.in_flight.push_back(InFlight { due, sent_at: at.mono });
        }
        let end = out.bytes.len();
        if end > start {
            out.push(Action::Send(start..end));
            if shared.measures(at) {
                shared.counters.sent_bytes += count(end - start);
            }
        }
    }

    fn received(&mut self, shared: &mut Generator, bytes: &[u8], at: Now, out: &mut Outbox) {
        let (Link::Open { .. }, Request::Echo(message_bytes)) =
            (self.link, shared.settings.request)
        else {
            return;
        };
        if shared.measures(at) {
            shared.counters.received_bytes += count(bytes.len());
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let expected = Pattern::new(self.number, self.made, self.message);
            let (part, tail) = rest.split_at(rest.len().min(message_bytes - self.offset));
            let asked = self.in_flight.front();
            let Some(&InFlight { due, .. }) = asked.filter(|_| expected.matches(self.offset, part))
            else {
                return self.distrust(shared, at, out);
            };
            self.offset += part.len();
            if self.offset == message_bytes {
                self.offset = 0;
                self.message += 1;
                self.in_flight.pop_front();
                shared.answer(due, at);
                self.failures = 0;
                self.link = Link::Open { answered: true };
            }
            rest = tail;
        }
    }

    /// Bytes came that were not sent like this, or at all: nothing that follows has a place.
    fn distrust(&mut self, shared: &mut Generator, at: Now, out: &mut Outbox) {
        match self.in_flight.pop_front() {
            Some(InFlight { due, .. }) => shared.fail(due, LoadFailure::Corrupt),
            None => {
                shared.begin(at.mono);
                shared.fail(at.mono, LoadFailure::Corrupt);
            }
        }
        out.push(Action::Close);
        self.lose(shared, LoadFailure::Closed, at);
    }

    fn connected(&mut self, shared: &mut Generator, at: Now, out: &mut Outbox) {
        let Link::Connecting { due, .. } = self.link else { return };
        shared.counters.connects += 1;
        if shared.settings.request == Request::Connect {
            shared.answer(due, at);
            self.failures = 0;
            out.push(Action::Close);
            self.link = Link::Down { retry_at: at.mono, why: None };
            return;
        }
        self.settle(shared);
        shared.counters.connected += 1;
        self.made += 1;
        (self.message, self.offset) = (0, 0);
        self.link = Link::Open { answered: false };
    }

    /// The connection is gone, or cannot be made; so is what was in flight on it.
    fn lose(&mut self, shared: &mut Generator, failure: LoadFailure, at: Now) {
        match self.link {
            Link::Down { .. } | Link::Finished => return,
            Link::Connecting { due, .. } => {
                if shared.settings.request == Request::Connect {
                    shared.fail(due, failure);
                } else {
                    self.settle(shared);
                    // In a closed loop nothing else tells that the peer is gone.
                    if shared.settings.rate.is_none() {
                        shared.begin(due);
                        shared.fail(due, failure);
                    }
                }
                self.failures += 1;
            }
            Link::Open { answered } => {
                shared.counters.connected -= 1;
                for InFlight { due, .. } in self.in_flight.drain(..) {
                    shared.fail(due, failure);
                }
                self.failures += u32::from(!answered);
            }
        }
        shared.counters.dropped += 1;
        self.link = Link::Down { retry_at: self.retry_at(at), why: Some(failure) };
    }

    /// Gives up what has had its time, as far as all that had happened by then was told.
    fn expire(&mut self, shared: &mut Generator, seen_until: Mono, at: Now, out: &mut Outbox) {
        let expires = match self.link {
            Link::Connecting { give_up_at, .. } => Some(give_up_at),
            Link::Open { .. } => {
                let oldest = self.in_flight.front();
                oldest.map(|oldest| later(oldest.sent_at, shared.settings.timeout_ns))
            }
            Link::Down { .. } | Link::Finished => None,
        };
        if expires.is_some_and(|expires| expires <= seen_until) {
            // Answers come in order: those behind the oldest wait in vain, too.
            out.push(Action::Close);
            self.lose(shared, LoadFailure::Timeout, at);
        }
    }

    /// After the measured time: waits for what is in flight, and finishes.
    fn drain(&mut self, shared: &mut Generator, run: Run, at: Now, out: &mut Outbox) {
        if !self.draining {
            self.draining = true;
            self.send_last(shared, run, at, out);
        }
        let waits = match self.link {
            Link::Finished => return,
            Link::Down { .. } => false,
            Link::Connecting { .. } => shared.settings.request == Request::Connect,
            Link::Open { .. } => !self.in_flight.is_empty(),
        };
        if waits {
            return;
        }
        match self.link {
            Link::Open { .. } => {
                shared.counters.connected -= 1;
                out.push(Action::Close);
            }
            Link::Connecting { .. } => {
                self.settle(shared);
                out.push(Action::Close);
            }
            Link::Down { .. } | Link::Finished => {}
        }
        self.link = Link::Finished;
        shared.finished += 1;
    }

    /// What was due before the end while we were held up is late, not skipped: there was room.
    fn send_last(&mut self, shared: &mut Generator, run: Run, at: Now, out: &mut Outbox) {
        let waiting = self.slots.as_mut().filter(|slots| slots.due() < run.until);
        match (shared.settings.request, self.link, waiting) {
            (Request::Echo(bytes), Link::Open { .. }, Some(_)) => {
                self.send(shared, bytes, run.until, at, out);
            }
            (Request::Echo(_), Link::Down { why: Some(why), .. }, Some(_)) => {
                self.fail_slots(shared, why, run.until);
            }
            (Request::Connect, Link::Down { .. }, Some(slots)) => {
                let due = slots.take();
                begin(shared, due, at);
                self.dial(shared, due, at, out);
            }
            _ => {}
        }
        self.skip_before(shared, run.until);
    }

    fn dial(&mut self, shared: &Generator, due: Mono, at: Now, out: &mut Outbox) {
        out.push(Action::Connect(shared.settings.to));
        let give_up_at = later(at.mono, shared.settings.timeout_ns);
        self.link = Link::Connecting { give_up_at, due };
    }

    /// The first attempt is over, whatever came of it.
    fn settle(&self, shared: &mut Generator) {
        if self.made == 0 && self.failures == 0 {
            shared.opening = shared.opening.saturating_sub(1);
        }
    }

    /// When to try again: at once where the rate is in charge, else later after each failure.
    fn retry_at(&self, at: Now) -> Mono {
        let backoff_ns = BACKOFF_NS_MIN << self.failures.min(BACKOFF_DOUBLINGS_MAX);
        let number = usize::try_from(self.number).unwrap_or(usize::MAX);
        later(at.mono, backoff_ns + phase_ns(number, backoff_ns))
    }

    /// Without a connection, what is due before `end` fails.
    fn fail_slots(&mut self, shared: &mut Generator, why: LoadFailure, end: Mono) {
        let failed = self.pass_before(shared, end);
        shared.counters.sent += failed;
        shared.counters.fail(why, failed);
    }

    /// Leaves out what has waited for its turn longer than an answer may take.
    fn skip_stale(&mut self, shared: &mut Generator, at: Now) {
        let oldest_ns = at.mono.as_ns().saturating_sub(shared.settings.timeout_ns);
        self.skip_before(shared, Mono::from_ns(oldest_ns));
    }

    fn skip_before(&mut self, shared: &mut Generator, end: Mono) {
        shared.counters.skipped += self.pass_before(shared, end);
    }

    /// Passes over every slot before `end`; returns how many of them are counted.
    fn pass_before(&mut self, shared: &Generator, end: Mono) -> u64 {
        let Some(slots) = self.slots.as_mut().filter(|slots| slots.due() < end) else { return 0 };
        let passed: Range<u64> = slots.skip_before(end);
        shared.counted(slots, &passed)
    }
}

/// Counts a request that begins.
fn begin(shared: &mut Generator, due: Mono, at: Now) {
    shared.begin(due);
    let late = u64::try_from(at.mono.since_ns(due)).is_ok_and(|ns| ns > SEND_LATE_NS);
    shared.counters.late += u64::from(late && shared.counts(due));
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("64 bits hold a length")
}

/// The shortest pause before a lost connection is made again, and how often it doubles: to 1.28 s,
/// and up to twice that by the connection's phase.
const BACKOFF_NS_MIN: u64 = 10_000_000;
const BACKOFF_DOUBLINGS_MAX: u32 = 7;
