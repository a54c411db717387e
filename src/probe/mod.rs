//! The prober flow: one target. Events and the time go in; actions, finished samples and counters
//! come out. It connects, finds out what the peer speaks, sends probes by the open-loop schedule,
//! matches replies and stamps to them, and recycles connections that have died silently.
//!
//! # Accounting
//! `sent = received + timeouts + in_flight` after every step. A slot of the schedule becomes a
//! probe even if there is no connection to send it on; it is then lost at once, so a dead target
//! loses probes at the full rate. A slot that is due while the hello waits for its answer is held
//! until then, or until its own timeout; its lag shows. Slots are fixed from the moment when the
//! first connection was ready or the first attempt had failed.
//!
//! A reply is counted when it comes. Its sample is finished, once, when its stamps are complete:
//! on v3 the peer's transmit stamp comes with the *next* reply.

mod in_flight;
mod link;
mod negotiate;
mod reply;
mod tally;
mod timeout;
mod wind_down;

#[cfg(test)]
mod tests;

use std::net::SocketAddr;

use self::in_flight::{Fate, InFlight, Sweep};
use self::link::{Link, Sending, Session};
use self::negotiate::Hello;
use self::tally::Tally;
use self::timeout::Timeout;
use self::wind_down::{FOLLOW_UP_TRIES, FollowUp};
use crate::dial::{Dialer, JITTER_ONE, later};
use crate::event::{Action, Event, Failure, Outbox};
use crate::sample::{Outcome, ProbeCounters, Sample, Stamps};
use crate::schedule::{SEND_LATE_NS, Schedule};
use crate::time::{Mono, Now};
use crate::wire::{self, Frame, Framer, Version};

/// Which wire format to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// Offer v3; take what the peer understands.
    Auto,
    /// 16-byte frames.
    V1,
    /// 24-byte frames.
    V2,
    /// v3; a peer that lacks it is a failed connection.
    V3,
}

/// How one target is probed.
#[derive(Clone, Debug)]
pub struct ProbeSettings {
    /// Time between two slots.
    pub interval_ns: u64,
    /// This target's place in the interval.
    pub phase_ns: u64,
    /// How long a reply may take, from the due time. May exceed the interval.
    pub timeout_ns: u64,
    /// Replace the timeout by an estimate once there are replies.
    pub adaptive: bool,
    /// Outcomes in the loss window.
    pub window: usize,
    /// Stop after this many probes.
    pub count: Option<u64>,
    /// Stop then.
    pub stop_at: Option<Mono>,
    /// Wire format.
    pub wire: Wire,
    /// Bytes behind a v3 header, at most `wire::V3_PADDING_BYTES_MAX`.
    pub padding_bytes: u16,
    /// The kernel's stamps are switched on: wait for them, count missing ones.
    pub stamps_wanted: bool,
    /// How often the name is resolved again; `None` for a literal address.
    pub resolve_interval_ns: Option<u64>,
    /// Most probes in flight, however long the timeout.
    pub in_flight_max: usize,
    /// Addresses known at start; none asks for them first.
    pub addresses: Vec<SocketAddr>,
}

/// The prober of one target.
#[derive(Debug)]
pub struct Probe {
    settings: ProbeSettings,
    tally: Tally,
    timeout: Timeout,
    in_flight: InFlight,
    schedule: Option<Schedule>,
    /// When the schedule starts although the first attempt has not ended: a peer that does not
    /// answer within a probe's timeout loses probes from then on.
    start_by: Mono,
    dialer: Dialer,
    link: Link,
    /// What becomes of a probe that is due without a connection.
    outage: Outcome,
    /// Connections in a row that ended before the hello was answered.
    hellos_failed: u32,
    draining: bool,
    follow_up: FollowUp,
    finished: bool,
}

impl Probe {
    /// A target to be probed from `at` on. The first [`Event::Due`] connects.
    #[must_use]
    pub fn new(settings: ProbeSettings, at: Mono) -> Self {
        let settings = ProbeSettings {
            interval_ns: settings.interval_ns.max(1),
            padding_bytes: settings.padding_bytes.min(wire::V3_PADDING_BYTES_MAX),
            ..settings
        };
        let timeout = Timeout::new(settings.timeout_ns, settings.adaptive);
        let start_by = later(at, timeout.timeout_ns().min(CONNECT_TIMEOUT_NS));
        let limit = timeout.timeout_ns_max() / settings.interval_ns + 2;
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(settings.in_flight_max);
        let in_flight = InFlight::new(limit, settings.stamps_wanted);
        let addresses = settings.addresses.clone();
        let jitter = settings.phase_ns / (settings.interval_ns / JITTER_ONE).max(1);
        let mut probe = Self {
            dialer: Dialer::new(addresses, settings.resolve_interval_ns, jitter, at),
            tally: Tally::new(settings.window, settings.stamps_wanted),
            settings,
            timeout,
            in_flight,
            schedule: None,
            start_by,
            link: Link::Down { retry_at: at },
            outage: Outcome::Unresolved,
            hellos_failed: 0,
            draining: false,
            follow_up: FollowUp::Unsent { tries: FOLLOW_UP_TRIES },
            finished: false,
        };
        probe.refresh_gauges();
        probe
    }

    /// Takes one step. `at` never goes backwards. Events that have happened come before
    /// [`Event::Due`], so that a reply that waits to be read is not taken for a lost one.
    pub fn on(&mut self, event: Event<'_>, at: Now, out: &mut Outbox) {
        if self.finished {
            return;
        }
        let mut seen_until = UNSEEN;
        match event {
            Event::Due(seen) => seen_until = seen,
            Event::Connected => self.connected(at, out),
            Event::Received { bytes, stamps } => self.received(bytes, stamps, at, out),
            Event::Stamped(stamp) => self.in_flight.stamped(stamp),
            Event::Closed(failure) => {
                if !matches!(self.link, Link::Down { .. }) {
                    self.fail(failure, at, out);
                }
            }
            Event::Resolved(addresses) => self.resolved(addresses, at, out),
            // A prober makes no checks and relays nothing.
            Event::Answered { .. } | Event::Moved { .. } | Event::Ended => {}
        }
        self.advance(at, seen_until, out);
    }

    /// Stops sending. What is in flight is awaited until its timeout.
    pub fn finish(&mut self, at: Now, out: &mut Outbox) {
        if self.finished {
            return;
        }
        self.drain(at);
        self.advance(at, UNSEEN, out);
    }

    /// Stops now: closes the connection, and what is in flight stays so in the counters.
    pub fn abandon(&mut self, at: Now, out: &mut Outbox) {
        if self.finished {
            return;
        }
        self.sweep(Sweep::Received, at, out);
        self.close(at, out);
        self.refresh_gauges();
    }

    /// When [`Event::Due`] is wanted at the latest; `None` if only other events matter.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        if self.finished {
            return None;
        }
        let link = match &self.link {
            Link::Down { retry_at } => (!self.draining).then_some(*retry_at),
            Link::Connecting { give_up_at } => Some(*give_up_at),
            Link::Negotiating(hello, _) => Some(hello.deadline()),
            Link::Open(..) => None,
        };
        let slot = self.schedule.as_ref().map_or(self.start_by, Schedule::due);
        let running = [Some(slot), self.settings.stop_at, self.dialer.resolve_at()];
        let running = running.into_iter().flatten().filter(|_| !self.draining);
        [link, self.in_flight.wake_at()].into_iter().flatten().chain(running).min()
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> &ProbeCounters {
        &self.tally.counters
    }

    /// Whether everything is over; no event matters any more.
    #[must_use]
    pub const fn is_finished(&self) -> bool {
        self.finished
    }

    fn connected(&mut self, at: Now, out: &mut Outbox) {
        if !matches!(self.link, Link::Connecting { .. }) {
            return;
        }
        self.tally.counters.connects += 1;
        let mut sending = Sending::default();
        let offers = match self.settings.wire {
            Wire::Auto => self.hellos_failed < HELLOS_FAILED_MAX,
            Wire::V3 => true,
            Wire::V1 | Wire::V2 => false,
        };
        if offers {
            let hello = Hello::new(at);
            sending.send(hello.bytes(), out);
            self.link = Link::Negotiating(hello, sending);
        } else {
            let is_v2 = self.settings.wire == Wire::V2;
            let version = if is_v2 { Version::V2 } else { Version::V1 };
            self.open(version, false, sending, at, out);
        }
    }

    /// Probes can be sent: those that were held are.
    fn open(
        &mut self,
        version: Version,
        kernel_stamps: bool,
        sending: Sending,
        at: Now,
        out: &mut Outbox,
    ) {
        self.tally.counters.wire_version = version.number();
        let session = Session {
            version,
            peer_told: kernel_stamps && self.settings.stamps_wanted,
            framer: Framer::new(version),
            replied: false,
            silent_since: None,
        };
        self.link = Link::Open(session, sending);
        self.start_schedule(at);
        for seq in self.in_flight.live() {
            if self.in_flight.find(seq).is_some_and(|entry| entry.fate == Fate::Held) {
                self.transmit(seq, at, out);
            }
        }
    }

    fn resolved(&mut self, addresses: Option<&[SocketAddr]>, at: Now, out: &mut Outbox) {
        self.dialer.resolved(addresses);
        if let Link::Down { .. } = self.link
            && self.outage == Outcome::Unresolved
            && !self.draining
        {
            if addresses.is_some_and(|addresses| !addresses.is_empty()) {
                self.dial(at, out);
            } else {
                self.start_schedule(at);
            }
        }
    }

    /// What time alone brings, after every event. Whoever did not answer is judged by what the
    /// kernel had told us by `seen_until`.
    fn advance(&mut self, at: Now, seen_until: Mono, out: &mut Outbox) {
        self.expire(at, seen_until, out);
        self.end_run(at);
        self.advance_link(at, seen_until, out);
        if !self.draining {
            self.take_slot(at, out);
            self.end_run(at);
        }
        // Expired ones again: a probe may have been sent after its own timeout.
        if self.in_flight.settling() > 0 || self.has_expired(seen_until) {
            self.sweep(Sweep::Settled(seen_until), at, out);
        }
        if self.draining {
            self.wind_down(at, out);
        }
        self.refresh_gauges();
    }

    fn advance_link(&mut self, at: Now, seen_until: Mono, out: &mut Outbox) {
        if !self.draining && self.dialer.asks_by_interval(at.mono) {
            out.push(Action::Resolve);
        }
        match &mut self.link {
            Link::Down { retry_at } => {
                if !self.draining && at.mono >= *retry_at {
                    self.dial(at, out);
                }
            }
            Link::Connecting { give_up_at } => {
                if seen_until >= *give_up_at {
                    self.drop_connection(Failure::TimedOut, at, out);
                }
            }
            Link::Negotiating(hello, sending) => {
                if let Some(fill) = hello.take_fill(at.mono) {
                    sending.send(fill, out);
                }
                if hello.is_over(seen_until) {
                    self.drop_connection(Failure::Stalled, at, out);
                }
            }
            Link::Open(..) => {}
        }
    }

    fn dial(&mut self, at: Now, out: &mut Outbox) {
        if self.dialer.asks_before_dial(at.mono) {
            out.push(Action::Resolve);
        }
        self.link = match self.dialer.dial(at.mono) {
            Some(address) => {
                if self.outage == Outcome::Unresolved {
                    self.outage = Outcome::Lost(Failure::TimedOut);
                }
                out.push(Action::Connect(address));
                Link::Connecting { give_up_at: later(at.mono, CONNECT_TIMEOUT_NS) }
            }
            None => {
                self.outage = Outcome::Unresolved;
                Link::Down { retry_at: self.dialer.back_off(at.mono) }
            }
        };
    }

    /// The first slot is due a phase from now, unless slots run already.
    fn start_schedule(&mut self, at: Now) {
        if self.schedule.is_none() {
            let ProbeSettings { interval_ns, phase_ns, .. } = self.settings;
            self.schedule = Some(Schedule::new(at.mono, interval_ns, phase_ns));
        }
    }

    fn take_slot(&mut self, at: Now, out: &mut Outbox) {
        if at.mono >= self.start_by {
            self.start_schedule(at);
        }
        let Some(slot) = self.schedule.as_mut().and_then(|schedule| schedule.take(at.mono)) else {
            return;
        };
        self.tally.counters.skipped += slot.skipped;
        if !matches!(self.link, Link::Negotiating(..) | Link::Open(..)) {
            self.tally.counters.sent += 1;
            let stamps = Stamps { due: slot.due, tx_app: at, ..Stamps::default() };
            let seq = self.in_flight.next_seq();
            self.tally.lose(Sample::lost(seq, self.outage, stamps, false), out);
        } else if self.in_flight.has_room() {
            self.tally.counters.sent += 1;
            if let Some(entry) = self.in_flight.make_place() {
                self.tally.settle(&entry, out);
            }
            let deadline = later(slot.due, self.timeout.timeout_ns());
            let seq = self.in_flight.hold(slot.due, deadline, at);
            self.transmit(seq, at, out);
        } else {
            self.tally.counters.skipped += 1;
        }
    }

    /// Sends a held probe, if the peer's language is known.
    fn transmit(&mut self, seq: u64, at: Now, out: &mut Outbox) {
        let Link::Open(session, sending) = &mut self.link else { return };
        let Some(entry) = self.in_flight.find(seq) else { return };
        match session.version {
            Version::V1 => sending.send(&wire::encode_v1(seq, at.wall), out),
            Version::V2 => sending.send(&wire::encode_v2(seq, at.wall), out),
            Version::V3 => {
                let padding_bytes = self.settings.padding_bytes;
                let frame = Frame { seq, sent: at.wall, padding_bytes, ..Frame::default() };
                sending.send_v3(&frame, out);
            }
        }
        entry.fate = Fate::Sent;
        entry.stamps.tx_app = at;
        entry.key = sending.key();
        let lag_ns = at.mono.since_ns(entry.stamps.due);
        self.tally.counters.late +=
            u64::from(u64::try_from(lag_ns).is_ok_and(|ns| ns > SEND_LATE_NS));
    }

    /// Gives up what had its time; recycles a connection that stays silent.
    fn expire(&mut self, at: Now, seen_until: Mono, out: &mut Outbox) {
        if !self.has_expired(seen_until) {
            return;
        }
        let before = self.tally.counters.timeouts;
        self.sweep(Sweep::Expired(seen_until), at, out);
        let recycle_ns = self.timeout.timeout_ns().saturating_mul(3).max(RECYCLE_NS_MIN);
        if self.tally.counters.timeouts > before
            && let Link::Open(session, _) = &self.link
            && session.silent_since.is_some_and(|since| at.mono >= later(since, recycle_ns))
        {
            self.drop_connection(Failure::Stalled, at, out);
        }
    }

    fn has_expired(&self, seen_until: Mono) -> bool {
        self.in_flight.wake_at().is_some_and(|wake_at| seen_until >= wake_at)
    }

    /// Accounts for every probe that is over.
    fn sweep(&mut self, sweep: Sweep, at: Now, out: &mut Outbox) {
        let mut cursor = 0;
        while let Some(entry) = self.in_flight.take_over(&mut cursor, sweep) {
            if entry.fate == Fate::Received {
                self.tally.settle(&entry, out);
                continue;
            }
            let expired = at.mono >= entry.deadline;
            let outcome = if expired { Outcome::Timeout } else { self.outage };
            if let (true, Link::Open(session, _)) = (expired, &mut self.link) {
                session.silent_since.get_or_insert(entry.stamps.due);
            }
            let sent = entry.fate == Fate::Sent;
            self.tally.lose(Sample::lost(entry.seq, outcome, entry.stamps, sent), out);
        }
    }

    /// Closes the connection ourselves, for this reason.
    fn drop_connection(&mut self, failure: Failure, at: Now, out: &mut Outbox) {
        out.push(Action::Close);
        self.fail(failure, at, out);
    }

    /// The connection is gone, and with it what was in flight.
    fn fail(&mut self, failure: Failure, at: Now, out: &mut Outbox) {
        self.tally.counters.dropped += 1;
        self.outage = Outcome::Lost(failure);
        let replied = match &self.link {
            Link::Open(session, _) => {
                // After v1 unasked, v3 is offered again: once if v1 worked, else as at first.
                let again = if session.replied { HELLOS_FAILED_MAX - 1 } else { 0 };
                self.hellos_failed = self.hellos_failed.min(again);
                session.replied
            }
            Link::Negotiating(..) => {
                self.hellos_failed += 1;
                false
            }
            Link::Down { .. } | Link::Connecting { .. } => false,
        };
        self.link = Link::Down { retry_at: self.dialer.failed(at.mono, replied) };
        self.sweep(Sweep::All, at, out);
        self.start_schedule(at);
    }

    fn refresh_gauges(&mut self) {
        let connected = matches!(self.link, Link::Negotiating(..) | Link::Open(..));
        self.tally.set_gauges(connected, self.in_flight.open(), self.timeout.timeout_ns());
    }
}

/// Before everything: nobody is judged at an event that is not [`Event::Due`], since the answer may
/// be the next event of the same turn.
const UNSEEN: Mono = Mono::from_ns(0);
/// How long an attempt to connect may take.
const CONNECT_TIMEOUT_NS: u64 = 3_000_000_000;
/// A connection that has been silent for this long, or for three timeouts, is recycled.
const RECYCLE_NS_MIN: u64 = 5_000_000_000;
/// After so many hellos without an answer the next connection speaks v1 unasked.
const HELLOS_FAILED_MAX: u32 = 2;
