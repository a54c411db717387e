//! Who started this program and watches over it: systemd on Linux (sd_notify(3)), the service
//! manager on Windows, nobody elsewhere. What the program is about flows out; on Windows, orders
//! to the service manager as well.

use std::ffi::OsString;
use std::io;
use std::time::Duration;

cfg_if::cfg_if! {
    if #[cfg(windows)] {
        use super::windows::service as manager;
    } else {
        use unmanaged as manager;
    }
}

/// What a service does until it is stopped, or why it could not.
pub type Work = Box<dyn FnOnce() -> Result<(), String> + Send>;

/// Whether systemd started this program and listens to it.
#[must_use]
pub fn is_present() -> bool {
    std::env::var_os("NOTIFY_SOCKET").is_some()
}

/// Everything is up: sockets listen, threads run.
pub fn ready() {
    manager::ready();
}

/// The end has begun.
pub fn stopping() {
    manager::stopping();
}

/// The control plane still works.
pub fn alive() {
    manager::alive();
}

/// How often [`alive`] has to be called; never if nobody watches.
#[must_use]
pub fn alive_interval() -> Option<Duration> {
    // Half of it, as sd_watchdog_enabled(3) advises.
    manager::watchdog().map(|limit| limit / 2)
}

/// Has this program started with the system from now on, with these arguments.
///
/// # Errors
/// Without the privilege; if there is a service of this name; where this program installs none.
pub fn install(name: &str, arguments: &[OsString]) -> io::Result<()> {
    manager::install(name, arguments)
}

/// Undoes [`install`], stopping it first.
///
/// # Errors
/// Without the privilege; if there is none of this name; where this program installs none.
pub fn uninstall(name: &str) -> io::Result<()> {
    manager::uninstall(name)
}

/// Starts it, and waits until it runs.
///
/// # Errors
/// If it ended at once; if there is none of this name; where this program installs none.
pub fn start(name: &str) -> io::Result<()> {
    manager::start(name)
}

/// Stops it, and waits until it has stopped.
///
/// # Errors
/// If it does not stop; if there is none of this name; where this program installs none.
pub fn stop(name: &str) -> io::Result<()> {
    manager::stop(name)
}

/// Does the work as a service; in the foreground if no service manager started it.
///
/// # Errors
/// If the service manager refuses. What came of the work is inside.
pub fn run(name: &str, work: Work) -> io::Result<Result<(), String>> {
    manager::run(name, work)
}

/// Systems whose service manager starts programs that know nothing of it.
#[cfg(not(windows))]
mod unmanaged {
    use std::ffi::OsString;
    use std::io;
    use std::time::Duration;

    use super::Work;

    pub(super) fn ready() {
        tell(State::Ready);
    }

    pub(super) fn stopping() {
        tell(State::Stopping);
    }

    pub(super) fn alive() {
        tell(State::Alive);
    }

    #[derive(Clone, Copy)]
    enum State {
        Ready,
        Stopping,
        Alive,
    }

    /// Without `NOTIFY_SOCKET` nobody listens, and nothing happens.
    #[cfg(target_os = "linux")]
    fn tell(state: State) {
        let state = match state {
            State::Ready => sd_notify::NotifyState::Ready,
            State::Stopping => sd_notify::NotifyState::Stopping,
            State::Alive => sd_notify::NotifyState::Watchdog,
        };
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::warn!(%error, "the service manager does not listen (NOTIFY_SOCKET)");
        }
    }

    #[cfg(target_os = "linux")]
    pub(super) fn watchdog() -> Option<Duration> {
        std::env::var_os("NOTIFY_SOCKET")?;
        sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero())
    }

    #[cfg(not(target_os = "linux"))]
    fn tell(state: State) {
        let (State::Ready | State::Stopping | State::Alive) = state;
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn watchdog() -> Option<Duration> {
        None
    }

    pub(super) fn install(_name: &str, _arguments: &[OsString]) -> io::Result<()> {
        unsupported()
    }

    pub(super) fn uninstall(_name: &str) -> io::Result<()> {
        unsupported()
    }

    pub(super) fn start(_name: &str) -> io::Result<()> {
        unsupported()
    }

    pub(super) fn stop(_name: &str) -> io::Result<()> {
        unsupported()
    }

    pub(super) fn run(_name: &str, work: Work) -> io::Result<Result<(), String>> {
        Ok(work())
    }

    fn unsupported() -> io::Result<()> {
        let message = if cfg!(target_os = "linux") {
            "only Windows' services are installed by this; use a systemd unit (deploy/systemd)"
        } else {
            "only Windows' services are installed by this; use a launchd plist (deploy/)"
        };
        Err(io::Error::new(io::ErrorKind::Unsupported, message))
    }
}
