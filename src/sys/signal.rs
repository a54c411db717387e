//! Being asked to end, by a signal or a console's event. Runs on a tokio runtime.

use std::io;

/// What asks the program to end, caught from the moment of [`EndSignals::catch`] on.
#[derive(Debug)]
pub struct EndSignals {
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(windows)]
    pressed: tokio::signal::windows::CtrlC,
    #[cfg(windows)]
    broken: tokio::signal::windows::CtrlBreak,
    #[cfg(windows)]
    closed: tokio::signal::windows::CtrlClose,
    #[cfg(windows)]
    shutdown: tokio::signal::windows::CtrlShutdown,
}

#[cfg(unix)]
impl EndSignals {
    /// To be called inside a runtime, before anybody is told that the program is up.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn catch() -> io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        let interrupt = signal(SignalKind::interrupt())?;
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { interrupt, terminate })
    }

    /// The name of the next one.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.interrupt.recv() => "SIGINT",
            _ = self.terminate.recv() => "SIGTERM",
        }
    }
}

#[cfg(windows)]
impl EndSignals {
    /// To be called inside a runtime, before anybody is told that the program is up.
    ///
    /// # Errors
    /// If the handlers cannot be installed.
    pub fn catch() -> io::Result<Self> {
        use tokio::signal::windows::{ctrl_break, ctrl_c, ctrl_close, ctrl_shutdown};
        Ok(Self {
            pressed: ctrl_c()?,
            broken: ctrl_break()?,
            closed: ctrl_close()?,
            shutdown: ctrl_shutdown()?,
        })
    }

    /// The name of the next one. After a close or a shutdown the system waits a few seconds only.
    pub async fn next(&mut self) -> &'static str {
        use super::windows::service;
        tokio::select! {
            _ = self.pressed.recv() => "Ctrl-C",
            _ = self.broken.recv() => "Ctrl-Break",
            _ = self.closed.recv() => "console closed",
            () = service::stop_asked() => "service stop",
            // A service is told by its manager, and a second word would end it at once.
            _ = self.shutdown.recv(), if !service::is_service() => "shutdown",
        }
    }
}

/// What asks the program to read its configuration again, caught from the moment of
/// [`ReloadSignal::catch`] on. Windows has no such signal.
#[derive(Debug)]
pub struct ReloadSignal {
    #[cfg(unix)]
    hangup: tokio::signal::unix::Signal,
}

impl ReloadSignal {
    /// To be called inside a runtime, before anybody is told that the program is up.
    ///
    /// # Errors
    /// If the handler cannot be installed.
    pub fn catch() -> io::Result<Self> {
        Ok(Self {
            #[cfg(unix)]
            hangup: tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup())?,
        })
    }

    /// Completes at the next one.
    pub async fn next(&mut self) {
        #[cfg(unix)]
        self.hangup.recv().await;
        #[cfg(not(unix))]
        std::future::pending::<()>().await;
    }
}
