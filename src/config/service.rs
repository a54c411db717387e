//! What a service manager is asked for: a command line's words in, the platform's manager does it.

use std::ffi::OsString;

use super::{BadFile, Config};

/// A service by its name, and what to do with it.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// By which the service manager knows it.
    pub name: String,
    /// What to do.
    pub order: ServiceOrder,
}

/// What to do with a service.
#[derive(Clone, Debug, PartialEq)]
pub enum ServiceOrder {
    /// Record these arguments, which are good, and start with the system from now on.
    Install(Vec<OsString>),
    /// Forget it.
    Uninstall,
    /// Start it now.
    Start,
    /// Stop it now.
    Stop,
    /// Be it: the service manager starts this. If what it recorded is good no longer, because a
    /// file has changed, it is to be told why.
    Run(Result<Box<Config>, BadFile>),
}
