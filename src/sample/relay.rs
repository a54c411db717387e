//! What a relay counts and tells: plain numbers of a listener and of each upstream behind it, and
//! one relayed connection at its beginning and its end.
//!
//! Bytes are the payload that was passed on: a PROXY header is none, on neither side. "Read" and
//! "written" are always as seen by us, at the side in question.

use std::net::SocketAddr;

use super::counters::counters;
use crate::time::Now;

/// An upstream's number inside one relay: its place in the list of the configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UpstreamId(pub u16);

impl UpstreamId {
    /// The upstream's place in a list of all of them.
    #[must_use]
    pub fn index(self) -> usize {
        usize::from(self.0)
    }

    /// The upstream in this place of a list.
    #[must_use]
    pub fn at(index: usize) -> Self {
        Self(u16::try_from(index).expect("a relay has fewer upstreams than 65,536"))
    }
}

/// One end of a relayed connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Side {
    /// Whoever connected to us.
    Client,
    /// Whom we connected to.
    Upstream,
}

impl Side {
    /// Both; the index of a side is its discriminant.
    pub const ALL: [Self; 2] = [Self::Client, Self::Upstream];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
        }
    }
}

/// Why a relayed connection is over. Every accepted connection ends by exactly one of these.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// Both ended in an orderly way, and everything was passed on; the client ended first.
    Client,
    /// The same, but the upstream ended first.
    Upstream,
    /// The client reset its connection.
    ClientReset,
    /// The upstream reset its connection.
    UpstreamReset,
    /// The client's connection failed otherwise: its network, or no answer for too long.
    ClientFailed,
    /// The upstream's connection failed otherwise.
    UpstreamFailed,
    /// Nothing moved for the idle timeout.
    Idle,
    /// No upstream that was tried could be connected to.
    ConnectFailed,
    /// There was no upstream to try: none has an address, or all are drained.
    NoUpstream,
    /// What should have been a PROXY header was none, or did not come in time.
    BadHeader,
    /// The client went away before there was an upstream.
    ClientGone,
    /// We are ending, and the grace period was over.
    GraceOver,
    /// We ended at once.
    Stopped,
    /// We had no descriptor or memory for it.
    Local,
}

impl CloseReason {
    /// Every reason; the index of a reason is its discriminant.
    pub const ALL: [Self; 14] = [
        Self::Client,
        Self::Upstream,
        Self::ClientReset,
        Self::UpstreamReset,
        Self::ClientFailed,
        Self::UpstreamFailed,
        Self::Idle,
        Self::ConnectFailed,
        Self::NoUpstream,
        Self::BadHeader,
        Self::ClientGone,
        Self::GraceOver,
        Self::Stopped,
        Self::Local,
    ];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Upstream => "upstream",
            Self::ClientReset => "client_reset",
            Self::UpstreamReset => "upstream_reset",
            Self::ClientFailed => "client_failed",
            Self::UpstreamFailed => "upstream_failed",
            Self::Idle => "idle",
            Self::ConnectFailed => "connect_failed",
            Self::NoUpstream => "no_upstream",
            Self::BadHeader => "bad_header",
            Self::ClientGone => "client_gone",
            Self::GraceOver => "grace_over",
            Self::Stopped => "stopped",
            Self::Local => "local",
        }
    }

    /// Whether everything that either side sent reached the other.
    #[must_use]
    pub const fn is_orderly(self) -> bool {
        matches!(self, Self::Client | Self::Upstream)
    }
}

counters! {
    /// What one worker counted of one listener. `connections` is the sum of `connections_active`
    /// and of every `closed_…` at every moment.
    RelayCounters {
        /// Connections accepted and not refused.
        connections,
        /// Connections of clients that are open now, with or without an upstream.
        connections_active,
        /// Connections closed at once: the limit was reached.
        refused_limit,
        /// Failed accepts (descriptors or memory ran out); accepting pauses after each.
        accept_errors,
        /// By [`CloseReason::Client`].
        closed_client,
        /// By [`CloseReason::Upstream`].
        closed_upstream,
        /// By [`CloseReason::ClientReset`].
        closed_client_reset,
        /// By [`CloseReason::UpstreamReset`].
        closed_upstream_reset,
        /// By [`CloseReason::ClientFailed`].
        closed_client_failed,
        /// By [`CloseReason::UpstreamFailed`].
        closed_upstream_failed,
        /// By [`CloseReason::Idle`].
        closed_idle,
        /// By [`CloseReason::ConnectFailed`].
        closed_connect_failed,
        /// By [`CloseReason::NoUpstream`].
        closed_no_upstream,
        /// By [`CloseReason::BadHeader`].
        closed_bad_header,
        /// By [`CloseReason::ClientGone`].
        closed_client_gone,
        /// By [`CloseReason::GraceOver`].
        closed_grace_over,
        /// By [`CloseReason::Stopped`].
        closed_stopped,
        /// By [`CloseReason::Local`].
        closed_local,
    }
}

counters! {
    /// What one worker counted of one upstream of a listener.
    UpstreamCounters {
        /// Connections made to it.
        connections,
        /// Those that are open now.
        connections_active,
        /// Attempts that failed or took too long; the client may have got another upstream.
        connect_failures,
        /// Attempts that are under way.
        connecting,
        /// Payload bytes read from clients of its connections.
        client_read_bytes,
        /// Payload bytes written to clients of its connections.
        client_written_bytes,
        /// Payload bytes read from it.
        upstream_read_bytes,
        /// Payload bytes written to it.
        upstream_written_bytes,
        /// Segments that our kernel sent again to clients of its connections, where it tells.
        client_retransmits,
        /// Segments that our kernel sent again to it, where it tells.
        upstream_retransmits,
        /// 1 while checks and connections say that it works.
        up,
        /// 1 while it gets no new connections by request.
        draining,
    }
}

counters! {
    /// What one client, by its address without port, did on one listener.
    ClientCounters {
        /// Connections that it made.
        connections,
        /// Those that are open now.
        connections_active,
        /// Payload bytes read from it.
        read_bytes,
        /// Payload bytes written to it.
        written_bytes,
        /// The kernel's smoothed round trip of one of its connections, ns; 0 before the first.
        rtt_ns,
    }
}

impl RelayCounters {
    /// The counter of connections that ended so.
    pub const fn closed_mut(&mut self, reason: CloseReason) -> &mut u64 {
        match reason {
            CloseReason::Client => &mut self.closed_client,
            CloseReason::Upstream => &mut self.closed_upstream,
            CloseReason::ClientReset => &mut self.closed_client_reset,
            CloseReason::UpstreamReset => &mut self.closed_upstream_reset,
            CloseReason::ClientFailed => &mut self.closed_client_failed,
            CloseReason::UpstreamFailed => &mut self.closed_upstream_failed,
            CloseReason::Idle => &mut self.closed_idle,
            CloseReason::ConnectFailed => &mut self.closed_connect_failed,
            CloseReason::NoUpstream => &mut self.closed_no_upstream,
            CloseReason::BadHeader => &mut self.closed_bad_header,
            CloseReason::ClientGone => &mut self.closed_client_gone,
            CloseReason::GraceOver => &mut self.closed_grace_over,
            CloseReason::Stopped => &mut self.closed_stopped,
            CloseReason::Local => &mut self.closed_local,
        }
    }

    /// How many connections ended so.
    #[must_use]
    pub const fn closed(mut self, reason: CloseReason) -> u64 {
        *self.closed_mut(reason)
    }
}

/// One relayed connection, told twice: when it was accepted, and when it was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionSample {
    /// Who connected; what a PROXY header said, if one was expected and is known by now.
    pub client: SocketAddr,
    /// Where it went, once that is known.
    pub upstream: Option<UpstreamId>,
    /// When it was accepted.
    pub accepted: Now,
    /// What became of it; `None` while it is open.
    pub end: Option<ConnectionEnd>,
}

/// The end of a relayed connection. Durations are ns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionEnd {
    /// Why.
    pub reason: CloseReason,
    /// Since it was accepted.
    pub duration_ns: u64,
    /// How long the successful attempt to connect took.
    pub connect_ns: Option<u64>,
    /// From the upstream's connection until its first byte.
    pub first_byte_ns: Option<u64>,
    /// Payload bytes read from the client.
    pub client_read_bytes: u64,
    /// Payload bytes read from the upstream.
    pub upstream_read_bytes: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_a_counter_and_a_name_of_its_own() {
        let mut counters = RelayCounters::default();
        for (number, reason) in (1_u64..).zip(CloseReason::ALL) {
            *counters.closed_mut(reason) += number;
            assert_eq!(CloseReason::ALL[reason as usize], reason);
        }
        for (number, reason) in (1_u64..).zip(CloseReason::ALL) {
            assert_eq!(counters.closed(reason), number, "{reason:?}");
        }
        let sum: u64 = counters.to_words().iter().sum();
        assert_eq!(sum, (1..=14).sum::<u64>());
        let mut names = CloseReason::ALL.map(CloseReason::name).to_vec();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), CloseReason::ALL.len());
    }
}
