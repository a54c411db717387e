//! Signals to end: the first one goes to the app, which stops in order; the second one ends the
//! process at once. A thread of its own catches them, so that nothing that hangs can hold up the
//! second.

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use super::confine;
use crate::sys::EndSignals;

/// Catches signals from now on; the receiver gets the name of the first one.
pub(super) fn catch() -> Result<oneshot::Receiver<&'static str>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("the signals' runtime")?;
    let mut signals = {
        let _inside = runtime.enter();
        EndSignals::catch().context("catching signals")?
    };
    let (tell_first, first) = oneshot::channel();
    std::thread::Builder::new()
        .name("signals".to_owned())
        .spawn(move || {
            confine::drop_all();
            runtime.block_on(async move {
                // An app that has ended does not listen; its process is gone in a moment.
                let _ = tell_first.send(signals.next().await);
                signals.next().await;
                std::process::exit(ENDED_AT_ONCE);
            });
        })
        .context("the signals' thread")?;
    Ok(first)
}

/// The exit code of an end without order: 3, we could not work.
const ENDED_AT_ONCE: i32 = 3;
