//! What a load counts: plain numbers of one measuring thread's share of it, and the ways in which
//! a request can fail.

use super::counters::counters;
use crate::event::Failure;

/// How a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoadFailure {
    /// No answer in time, or no connection.
    Timeout,
    /// Nobody listens.
    Refused,
    /// The peer reset the connection.
    Reset,
    /// The peer ended the connection in an orderly way before it had answered.
    Closed,
    /// What came back is not what was sent.
    Corrupt,
    /// No route, or a network error on the way.
    Unreachable,
    /// We had no socket: descriptors, ports, an address that is not ours.
    LocalError,
    /// Anything else.
    Error,
}

impl LoadFailure {
    /// Every one of them; the index of each is its discriminant.
    pub const ALL: [Self; 8] = [
        Self::Timeout,
        Self::Refused,
        Self::Reset,
        Self::Closed,
        Self::Corrupt,
        Self::Unreachable,
        Self::LocalError,
        Self::Error,
    ];

    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Timeout => "timeout",
            Self::Refused => "refused",
            Self::Reset => "reset",
            Self::Closed => "closed",
            Self::Corrupt => "corrupt",
            Self::Unreachable => "unreachable",
            Self::LocalError => "local_error",
            Self::Error => "error",
        }
    }
}

impl From<Failure> for LoadFailure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Eof => Self::Closed,
            Failure::Refused => Self::Refused,
            Failure::Reset => Self::Reset,
            Failure::Unreachable => Self::Unreachable,
            Failure::TimedOut => Self::Timeout,
            Failure::Local(_) => Self::LocalError,
            Failure::Stalled | Failure::Other(_) => Self::Error,
        }
    }
}

counters! {
    /// What one measuring thread's share of a load counted. Requests are those that were due after
    /// the warm-up: `sent = answered + failed() + in_flight` at every moment.
    LoadCounters {
        /// Requests begun.
        sent,
        /// Requests answered, whenever.
        answered,
        /// Those of them answered before the end of the measured time.
        answered_within,
        /// Neither answered nor failed yet.
        in_flight,
        /// Due requests of an open loop that were never begun: the target was too slow for the
        /// rate, as many as may be were in flight, and their own time was over.
        skipped,
        /// Requests of an open loop begun more than `SEND_LATE_NS` after they were due.
        late,
        /// Message bytes sent in the measured time.
        sent_bytes,
        /// Message bytes received in the measured time.
        received_bytes,
        /// The shortest latency, ns; 0 while there is none (see `answered`).
        latency_ns_min,
        /// Connections established, during the warm-up as well.
        connects,
        /// Attempts that failed, and connections lost.
        dropped,
        /// Connections that stand.
        connected,
        /// 1 once requests are sent: before that, connections are made.
        started,
        /// The time measured so far, ns.
        measured_ns,
        /// Failed requests, by [`LoadFailure`].
        timeout,
        /// See [`LoadFailure::Refused`].
        refused,
        /// See [`LoadFailure::Reset`].
        reset,
        /// See [`LoadFailure::Closed`].
        closed,
        /// See [`LoadFailure::Corrupt`].
        corrupt,
        /// See [`LoadFailure::Unreachable`].
        unreachable,
        /// See [`LoadFailure::LocalError`].
        local_error,
        /// See [`LoadFailure::Error`].
        error,
    }
}

impl LoadCounters {
    /// Counts requests that failed in this way.
    pub const fn fail(&mut self, failure: LoadFailure, requests: u64) {
        let counter = match failure {
            LoadFailure::Timeout => &mut self.timeout,
            LoadFailure::Refused => &mut self.refused,
            LoadFailure::Reset => &mut self.reset,
            LoadFailure::Closed => &mut self.closed,
            LoadFailure::Corrupt => &mut self.corrupt,
            LoadFailure::Unreachable => &mut self.unreachable,
            LoadFailure::LocalError => &mut self.local_error,
            LoadFailure::Error => &mut self.error,
        };
        *counter += requests;
    }

    /// Failed requests, in the order of [`LoadFailure::ALL`].
    #[must_use]
    pub const fn failures(&self) -> [u64; LoadFailure::ALL.len()] {
        [
            self.timeout,
            self.refused,
            self.reset,
            self.closed,
            self.corrupt,
            self.unreachable,
            self.local_error,
            self.error,
        ]
    }

    /// All failed requests.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.failures().iter().sum()
    }

    /// Adds what another thread counted of the same load.
    pub fn add(&mut self, other: &Self) {
        let (mine, theirs) = (self.to_words(), other.to_words());
        let sum = Self::from_words(std::array::from_fn(|word| mine[word] + theirs[word]));
        let shortest = [self, other].into_iter().filter(|counters| counters.answered > 0);
        *self = Self {
            latency_ns_min: shortest.map(|counters| counters.latency_ns_min).min().unwrap_or(0),
            // It has started when all have.
            started: self.started.min(other.started),
            measured_ns: self.measured_ns.max(other.measured_ns),
            ..sum
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_failure_has_its_own_counter() {
        let mut counters = LoadCounters::default();
        for (requests, failure) in (1..).zip(LoadFailure::ALL) {
            counters.fail(failure, requests);
        }
        assert_eq!(counters.failures(), [1, 2, 3, 4, 5, 6, 7, 8]);
        assert_eq!(counters.failed(), 36);
        for (index, failure) in LoadFailure::ALL.into_iter().enumerate() {
            assert_eq!(failure as usize, index, "{failure:?}");
        }
    }

    #[test]
    fn threads_add_up() {
        let thread = |answered, latency_ns_min, measured_ns| LoadCounters {
            sent: 9,
            answered,
            latency_ns_min,
            measured_ns,
            started: 1,
            ..LoadCounters::default()
        };
        let sum = |a: LoadCounters, b| {
            let mut sum = a;
            sum.add(&b);
            (sum.sent, sum.answered, sum.latency_ns_min, sum.measured_ns, sum.started)
        };
        assert_eq!(sum(thread(1, 50, 7), thread(2, 40, 5)), (18, 3, 40, 7, 1));
        assert_eq!(
            sum(thread(0, 0, 7), thread(2, 40, 9)),
            (18, 2, 40, 9, 1),
            "no latency is not 0"
        );
        assert_eq!(sum(thread(0, 0, 7), LoadCounters::default()), (9, 0, 0, 7, 0));
    }
}
