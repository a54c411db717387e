//! The flows of a load: connections that send messages and want them back, or that are only made
//! and closed, as fast as the peer answers (closed loop) or at a rate that does not ask whether it
//! does (open loop). Events and the time go in; actions, latencies and counters come out.
//!
//! # Latency
//! It counts from the moment when a request was *due*. In an open loop that moment is fixed
//! beforehand: a peer that stalls makes every request late that was due meanwhile, whether or not
//! it could be sent, so that coordinated omission cannot hide. In a closed loop a request is due
//! when the one before it is answered.
//!
//! # Accounting
//! `sent = answered + failed + in flight` after every step, of the requests that were due after the
//! warm-up. A request of an open loop that found no room is sent when there is some, late; if its
//! own time is over before, or the load is, it is skipped and counted. While there is no connection
//! at all, requests fail with the reason of that, at the full rate.
//!
//! # Time
//! Connections are made first, few at once. When each has been tried, the load starts for all of
//! them: first the warm-up, of which nothing is counted, then the measured time. Then nothing more
//! is sent; what is in flight is awaited until its timeout.

mod connection;
mod pattern;
mod slots;
#[cfg(test)]
mod tests;

pub use self::connection::Connection;

use std::net::SocketAddr;
use std::ops::Range;
use std::vec::Drain;

use self::slots::Slots;
use crate::dial::later;
use crate::sample::{LoadCounters, LoadFailure};
use crate::time::{Mono, Now};

/// What a request is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// So many bytes, which are to come back.
    Echo(usize),
    /// A connection, which is closed when it is there.
    Connect,
}

/// One measuring thread's share of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadSettings {
    /// The peer.
    pub to: SocketAddr,
    /// What is asked of it.
    pub request: Request,
    /// Requests per second of all connections; `None` is a closed loop, with one request in flight
    /// on each connection.
    pub rate: Option<u64>,
    /// The numbers of this share's connections among all.
    pub connections: Range<u64>,
    /// Connections of all shares.
    pub connections_all: u64,
    /// From the start to the measured time.
    pub warm_up_ns: u64,
    /// The measured time.
    pub duration_ns: u64,
    /// How long an answer may take, and how long a request may wait for its turn.
    pub timeout_ns: u64,
}

/// What the connections of one measuring thread share.
#[derive(Debug)]
pub struct Generator {
    settings: LoadSettings,
    in_flight_max: usize,
    counters: LoadCounters,
    latencies_ns: Vec<u64>,
    /// The number of the next connection.
    next_connection: u64,
    /// Connections that were not tried to the end yet.
    opening: usize,
    finished: u64,
    run: Option<Run>,
}

/// A load that has started.
#[derive(Clone, Copy, Debug)]
struct Run {
    origin: Mono,
    /// What is due from here on is counted.
    from: Mono,
    /// Nothing is due from here on.
    until: Mono,
}

/// Requests of one connection that may be in flight in an open loop of so many connections.
#[must_use]
pub fn in_flight_max(message_bytes: usize, connections: u64) -> usize {
    let share = IN_FLIGHT_BYTES_ALL_MAX / connections.max(1);
    let bytes = usize::try_from(share).unwrap_or(usize::MAX).min(IN_FLIGHT_BYTES_MAX);
    (bytes / message_bytes.max(1)).clamp(1, IN_FLIGHT_MAX)
}

impl Generator {
    /// A load without connections yet.
    #[must_use]
    pub fn new(settings: LoadSettings) -> Self {
        let in_flight_max = match (settings.request, settings.rate) {
            (Request::Echo(bytes), Some(_)) => in_flight_max(bytes, settings.connections_all),
            (Request::Echo(_), None) | (Request::Connect, _) => 1,
        };
        Self {
            in_flight_max,
            counters: LoadCounters::default(),
            latencies_ns: Vec::with_capacity(in_flight_max),
            next_connection: settings.connections.start,
            opening: 0,
            finished: 0,
            run: None,
            settings,
        }
    }

    /// The next connection, if it is time to make one. Its first step is to be taken at once, by
    /// [`Event::Due`](crate::event::Event::Due).
    pub fn next_connection(&mut self) -> Option<Connection> {
        let room = self.run.is_none() && self.opening < OPENING_MAX;
        if !room || self.next_connection >= self.settings.connections.end {
            return None;
        }
        let connection = Connection::new(self.next_connection);
        self.next_connection += 1;
        // Connections that are the requests themselves are not made beforehand.
        self.opening += usize::from(self.settings.request != Request::Connect);
        Some(connection)
    }

    /// Starts the load once every connection was tried; true if that was now. Then each is to take
    /// a step.
    pub fn starts(&mut self, at: Mono) -> bool {
        let ready = self.opening == 0 && self.next_connection >= self.settings.connections.end;
        if self.run.is_some() || !ready {
            return false;
        }
        let from = later(at, self.settings.warm_up_ns);
        let until = later(from, self.settings.duration_ns);
        self.run = Some(Run { origin: at, from, until });
        self.counters.started = 1;
        true
    }

    /// Ends the measured time now. Then each connection is to take a step.
    pub fn stop(&mut self, at: Mono) {
        let run = self.run.get_or_insert(Run { origin: at, from: at, until: at });
        // What is counted stays so: the beginning does not move.
        run.until = run.until.min(at);
    }

    /// Whether every connection is finished; nothing more happens.
    #[must_use]
    pub fn is_finished(&self) -> bool {
        let made = self.next_connection - self.settings.connections.start;
        self.run.is_some() && self.finished == made
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> &LoadCounters {
        &self.counters
    }

    /// Latencies of what was answered since they were last drained, ns. To be drained after every
    /// step.
    pub fn drain_latencies_ns(&mut self) -> Drain<'_, u64> {
        self.latencies_ns.drain(..)
    }

    /// Whether connections are to be closed by RST: tens of thousands a second, each of which would
    /// keep a port for a minute, would soon have used up all of them.
    #[must_use]
    pub fn resets_connections(&self) -> bool {
        self.settings.request == Request::Connect
    }

    /// Passes the time: how much of it was measured.
    fn see(&mut self, at: Now) {
        if let Some(Run { from, until, .. }) = self.run {
            let measured_ns = at.mono.min(until).since_ns(from);
            let measured_ns = u64::try_from(measured_ns).unwrap_or(0);
            self.counters.measured_ns = self.counters.measured_ns.max(measured_ns);
        }
    }

    fn counts(&self, due: Mono) -> bool {
        self.run.is_some_and(|run| due >= run.from)
    }

    /// Whether bytes that pass now belong to the measured time.
    fn measures(&self, at: Now) -> bool {
        self.run.is_some_and(|run| at.mono >= run.from && at.mono < run.until)
    }

    fn begin(&mut self, due: Mono) {
        if self.counts(due) {
            self.counters.sent += 1;
            self.counters.in_flight += 1;
        }
    }

    fn answer(&mut self, due: Mono, at: Now) {
        if !self.counts(due) {
            return;
        }
        let latency_ns = u64::try_from(at.mono.since_ns(due)).unwrap_or(0);
        let counters = &mut self.counters;
        if counters.answered == 0 || latency_ns < counters.latency_ns_min {
            counters.latency_ns_min = latency_ns;
        }
        counters.answered += 1;
        counters.answered_within += u64::from(self.run.is_some_and(|run| at.mono <= run.until));
        counters.in_flight -= 1;
        self.latencies_ns.push(latency_ns);
    }

    fn fail(&mut self, due: Mono, failure: LoadFailure) {
        if self.counts(due) {
            self.counters.in_flight -= 1;
            self.counters.fail(failure, 1);
        }
    }

    /// Those of these slots that are counted.
    fn counted(&self, slots: &Slots, range: &Range<u64>) -> u64 {
        let Some(run) = self.run else { return 0 };
        range.end.saturating_sub(range.start.max(slots.count_before(run.from)))
    }
}

/// Requests of one connection in flight in an open loop.
const IN_FLIGHT_MAX: usize = 1_024;
/// Bytes of them, but for one request that is larger.
const IN_FLIGHT_BYTES_MAX: usize = 1 << 20;
/// The same of all connections together.
const IN_FLIGHT_BYTES_ALL_MAX: u64 = 1 << 30;
/// Connections of one thread that are being made at the start. More at once would overflow the
/// peer's queue, and SYNs that are lost are sent again after a second.
const OPENING_MAX: usize = 128;
