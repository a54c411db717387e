//! Why a check is not "open".

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::config::{BadValue, HostPort};
use crate::event::Failure;
use crate::sample::CheckOutcome;

/// Why a check found no open port. `source()` is the system's error where there is one, so that
/// `error.source()` of a refused check is an [`io::Error`] of kind `ConnectionRefused`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CheckError {
    /// Nobody answered in time: the host is gone, the packets are dropped, or the server's accept
    /// queue is full.
    #[error("{address}: no answer within {timeout:?}")]
    Timeout {
        /// What was asked for.
        address: HostPort,
        /// How long.
        timeout: Duration,
    },
    /// Answered by RST: nobody listens on the port.
    #[error("{to}: nobody listens there")]
    Refused {
        /// The address that refused.
        to: SocketAddr,
        /// Of kind `ConnectionRefused`.
        source: io::Error,
    },
    /// There is no way, or somebody on the way said so.
    #[error("{to}: cannot be reached")]
    Unreachable {
        /// The address.
        to: SocketAddr,
        /// Of kind `HostUnreachable`.
        source: io::Error,
    },
    /// The name has no address, or none was found in time.
    #[error("{host}: cannot be resolved")]
    Resolve {
        /// The name.
        host: String,
        /// The resolver's error; of kind `TimedOut` if it took too long.
        source: io::Error,
    },
    /// This is no address.
    #[error("{address}: {source}")]
    BadAddress {
        /// The text.
        address: String,
        /// What is wrong with it.
        source: BadValue,
    },
    /// *We* cannot work: descriptors, ports, privileges.
    #[error("cannot check from here: {0}")]
    Local(#[from] io::Error),
    /// The network answered with something else.
    #[error("{to}: {source}")]
    Other {
        /// The address.
        to: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// More checks at once than the checker may have.
    #[error("more than {limit} checks at once; allow more by Builder::in_flight_max")]
    TooMany {
        /// How many it may have.
        limit: usize,
    },
    /// The checker was dropped, or its thread died, before the outcome was known.
    #[error("the checker was stopped")]
    Stopped,
}

impl CheckError {
    /// Whether time ran out: for the answer, or for the resolver's.
    #[must_use]
    pub fn is_timeout(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Resolve { source, .. } => source.kind() == io::ErrorKind::TimedOut,
            _ => false,
        }
    }

    /// The error that an outcome other than "open" means.
    pub(super) fn of(
        outcome: CheckOutcome,
        to: Option<SocketAddr>,
        address: &HostPort,
        timeout: Duration,
    ) -> Self {
        let kind = |kind| io::Error::from(kind);
        let silence = || Self::Timeout { address: address.clone(), timeout };
        let Some(to) = to else { return silence() };
        match outcome {
            CheckOutcome::Failed(Failure::Refused) => {
                Self::Refused { to, source: kind(io::ErrorKind::ConnectionRefused) }
            }
            CheckOutcome::Failed(Failure::Unreachable) => {
                Self::Unreachable { to, source: kind(io::ErrorKind::HostUnreachable) }
            }
            CheckOutcome::Failed(Failure::Local(errno)) => {
                Self::Local(io::Error::from_raw_os_error(errno))
            }
            CheckOutcome::Failed(Failure::Other(errno)) => {
                Self::Other { to, source: io::Error::from_raw_os_error(errno) }
            }
            CheckOutcome::Failed(Failure::Reset | Failure::Eof | Failure::Stalled) => {
                Self::Other { to, source: kind(io::ErrorKind::ConnectionReset) }
            }
            CheckOutcome::Open
            | CheckOutcome::Timeout
            | CheckOutcome::Unresolved
            | CheckOutcome::Failed(Failure::TimedOut) => silence(),
        }
    }
}
