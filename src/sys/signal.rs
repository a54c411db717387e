//! Being asked to end. Runs on the control plane's runtime.

use std::future::Future;
use std::io;

/// Catches what asks the program to end, from now on; the future completes at the first one, with
/// its name. To be called inside the runtime, before anybody is told that the program is up.
///
/// # Errors
/// If the handlers cannot be installed.
#[cfg(unix)]
pub fn end_signal() -> io::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
        }
    })
}

/// Catches Ctrl-C from now on.
///
/// # Errors
/// If the handler cannot be installed.
#[cfg(windows)]
pub fn end_signal() -> io::Result<impl Future<Output = &'static str>> {
    let mut pressed = tokio::signal::windows::ctrl_c()?;
    Ok(async move {
        pressed.recv().await;
        "Ctrl-C"
    })
}
