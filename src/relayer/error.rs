//! Why a relay could not be started, or has ended.

use std::io;
use std::net::SocketAddr;

use crate::config::BadValue;

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The address is taken, or none of this machine.
    #[error("--listen {at}: cannot listen there: {source}")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// Systemd passed no socket, or too few.
    #[error(
        "--systemd-socket: no socket was passed; start this by a systemd socket unit, or write \
         --listen instead"
    )]
    NotPassed,
    /// What systemd passed is of no use.
    #[error("--systemd-socket: {0}")]
    Passed(io::Error),
    /// No measuring thread can be had; the message names the option.
    #[error("a thread of the relay: {0}")]
    Thread(io::Error),
    /// No half-open checks can be made.
    #[error("checks of upstreams: {0}; turn them off by --check-interval off")]
    Checks(io::Error),
    /// This is no address.
    #[error("{address}: {source}")]
    BadAddress {
        /// The text.
        address: String,
        /// What is wrong with it.
        source: BadValue,
    },
    /// The settings contradict each other.
    #[error("{0}")]
    BadSettings(String),
    /// A measuring thread died; the log says why.
    #[error("a thread of the relay died; its error is in the log")]
    Died,
}
