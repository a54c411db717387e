//! How half-open checks are made here: what was asked for goes in, the best method and the best
//! clock that work come out, with everything that needs a privilege already open.

use std::io;

use super::platform::ports::PortBlock;
use super::platform::syn::SynChecks;
use super::socket::SocketOptions;
use super::{ClockChoice, Follower};
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
    /// What [`Method::Syn`] needs.
    pub(super) syn: Option<Box<SynChecks>>,
}

impl Checks {
    /// Opens what the best wanted method needs.
    ///
    /// # Errors
    /// If the one method that was asked for does not work here; the message names the remedy.
    pub fn open(settings: &CheckSettings) -> io::Result<Self> {
        let syn = match settings.method {
            MethodChoice::Only(Method::Syn) => Some(Box::new(open_syn(settings)?)),
            _ => None,
        };
        let method = if syn.is_some() { Method::Syn } else { Method::Dial };
        Ok(Self { method, capabilities: Vec::new(), syn })
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

fn open_syn(settings: &CheckSettings) -> io::Result<SynChecks> {
    let ports = PortBlock::reserve(256)?;
    let stamps = settings.clock != ClockChoice::Application;
    SynChecks::open(ports, &settings.socket, None, stamps)
}
