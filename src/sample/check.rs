//! One finished half-open check: how it ended, how long the answered SYN took and by which clock.

use std::net::SocketAddr;

use crate::event::Failure;
use crate::time::{Mono, Now};

/// How a half-open check is made, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Method {
    /// A SYN of our own on a raw socket; our kernel answers the SYN-ACK with RST, because no
    /// socket is there. Needs `CAP_NET_RAW`.
    Syn,
    /// A kernel socket that must not acknowledge at once and resets when it is closed.
    Quickack,
    /// A kernel socket that connects and resets when it is closed: the handshake is completed.
    Dial,
}

impl Method {
    /// Every method, best first; the index of a method is its discriminant.
    pub const ALL: [Self; 3] = [Self::Syn, Self::Quickack, Self::Dial];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Syn => "syn",
            Self::Quickack => "quickack",
            Self::Dial => "dial",
        }
    }
}

/// Where a check's round-trip time comes from, best first. All but the last are the kernel's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum CheckClock {
    /// The eBPF programs at the interface: the answered SYN left until its answer arrived.
    Ebpf,
    /// Stamps of the raw socket (`SO_TIMESTAMPING`): driver out to driver in.
    Kernel,
    /// `tcpi_rtt` of a kernel socket, in whole microseconds: some 5 to 9 µs longer than `Ebpf`,
    /// because it begins and ends inside the TCP layer. Never of a retransmitted SYN.
    TcpInfo,
    /// Ours, around the system calls. Never of a SYN that is known to be retransmitted.
    Application,
}

impl CheckClock {
    /// Every clock, best first; the index of a clock is its discriminant.
    pub const ALL: [Self; 4] = [Self::Ebpf, Self::Kernel, Self::TcpInfo, Self::Application];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Kernel => "kernel",
            Self::TcpInfo => "tcp_info",
            Self::Application => "application",
        }
    }
}

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckOutcome {
    /// SYN-ACK: somebody listens.
    Open,
    /// No answer in time.
    Timeout,
    /// Anything else that was answered, or why we could not ask.
    Failed(Failure),
    /// No address was known for the name.
    Unresolved,
}

impl CheckOutcome {
    /// Every label value.
    pub const NAMES: [&str; 7] =
        ["open", "refused", "timeout", "unreachable", "local_error", "error", "unresolved"];

    /// The label value, one of [`Self::NAMES`].
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Timeout | Self::Failed(Failure::TimedOut) => "timeout",
            Self::Failed(Failure::Refused) => "refused",
            Self::Failed(Failure::Unreachable) => "unreachable",
            Self::Failed(Failure::Local(_)) => "local_error",
            Self::Failed(_) => "error",
            Self::Unresolved => "unresolved",
        }
    }
}

/// One finished check. Durations are ns; `None` where it could not be measured, never 0 instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckSample {
    /// The check's number, from 1, unique within one flow.
    pub seq: u64,
    /// Whom it asked; `None` if no address was known.
    pub to: Option<SocketAddr>,
    /// How it asked.
    pub method: Method,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// When the schedule wanted it sent.
    pub due: Mono,
    /// When it was handed to the kernel.
    pub tx_app: Now,
    /// The clock of `rtt_ns`.
    pub clock: Option<CheckClock>,
    /// From the answered SYN to its answer. `None` without an answer, or if the SYN was
    /// retransmitted and no clock can tell which one was answered.
    pub rtt_ns: Option<u64>,
    /// From `tx_app` until we knew the outcome: what an application waits, retransmissions
    /// included.
    pub elapsed_ns: u64,
    /// SYNs after the first.
    pub syn_retransmits: u32,
    /// Our side acknowledged the SYN-ACK: the server saw a connection.
    pub completed: bool,
}
