//! How half-open checks are made here: what was asked for goes in, the best method and the best
//! clock that work come out, with everything that needs a privilege already open.

use std::io;
use std::net::SocketAddr;

use super::ClockChoice;
use super::socket::SocketOptions;
use crate::host::Capability;
use crate::sample::Method;

/// Which method to check by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MethodChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// This one, or fail.
    Only(Method),
}

/// What checks are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckSettings {
    /// By which method.
    pub method: MethodChoice,
    /// By which clocks.
    pub clock: ClockChoice,
    /// Source, interface, DSCP and TTL of what is sent.
    pub socket: SocketOptions,
    /// How many checks run at once at most, on one [`super::Io`].
    pub checks_max: usize,
}

/// Everything that the checks of one [`super::Io`] need, opened with the privileges at hand.
#[derive(Debug)]
pub struct Checks {
    method: Method,
    /// What works here and what does not, for the metric and the log.
    pub capabilities: Vec<Capability>,
    settings: CheckSettings,
}

/// Tells the eBPF programs where checks will leave. Cheap to clone, usable from any thread.
#[derive(Clone, Debug)]
pub struct Follower {}

impl Checks {
    /// Opens what the best wanted method needs.
    ///
    /// # Errors
    /// If the one method that was asked for does not work here; the message names the remedy.
    pub fn open(settings: &CheckSettings) -> io::Result<Self> {
        Ok(Self { method: Method::Dial, capabilities: Vec::new(), settings: settings.clone() })
    }

    /// Says once what would have been better and does not work here.
    pub fn log_missing(&self) {
        for Capability { name, reason, .. } in self.capabilities.iter().filter(|it| !it.available) {
            tracing::info!(capability = name, reason, "not available; checking without");
        }
    }

    /// The method in use.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// Something that [`Follower::follow`]s; `None` where no eBPF program times the checks.
    #[must_use]
    pub fn follower(&self) -> Option<Follower> {
        None
    }
}

impl Follower {
    /// Makes sure that the interface towards this address carries the eBPF programs. Blocks for
    /// some ten microseconds; what fails costs the better clock, not the check.
    ///
    /// # Errors
    /// No route, or the interface takes no program.
    pub fn follow(&self, _to: SocketAddr) -> io::Result<()> {
        Ok(())
    }
}
