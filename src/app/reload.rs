//! Reads the configuration file again: after SIGHUP, on a wish that came by HTTP, and when the file
//! changes. Wishes in, the file's new content out to the app, one after the other. Reading is done
//! by a thread of its own: a file system that hangs holds nobody up.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};
use tokio::sync::{mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use crate::config::Config;
use crate::config::file::{self, BadConfigFile};
use crate::http::{ReloadRequest, ReloadRequests};
use crate::sys::{self, ReloadSignal};

/// The file as it was read.
pub(super) struct Reread {
    pub(super) config: Result<Config, BadConfigFile>,
    /// Who asked for it, for the log.
    pub(super) by: &'static str,
    /// Where to say what was done, or why not.
    pub(super) answer: ReloadRequest,
}

/// Follows the file from now on; what comes by HTTP goes into the second value. Runs on the
/// runtime that it is called on.
pub(super) fn follow(path: &Path) -> Result<(mpsc::Receiver<Reread>, ReloadRequests)> {
    let (tell, rereads) = mpsc::channel(1);
    let (requests, asked) = mpsc::channel(REQUESTS_MAX);
    let signal = ReloadSignal::catch().context("catching SIGHUP")?;
    tokio::spawn(Follower { path: path.to_owned(), asked, signal, tell }.run());
    Ok((rereads, requests))
}

/// Without a file, a service manager's wish to reload must not be the end, as it is of programs
/// that do not know SIGHUP. A terminal's, which closes, still is.
pub(super) fn ignore() -> Result<()> {
    if sys::supervisor::is_present() {
        let mut signal = ReloadSignal::catch().context("catching SIGHUP")?;
        tokio::spawn(async move {
            loop {
                signal.next().await;
                tracing::info!("SIGHUP: there is no configuration file to read again");
            }
        });
    }
    Ok(())
}

struct Follower {
    path: PathBuf,
    asked: mpsc::Receiver<ReloadRequest>,
    signal: ReloadSignal,
    tell: mpsc::Sender<Reread>,
}

impl Follower {
    async fn run(mut self) {
        let mut looks = interval(LOOK_AGAIN);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut used = stamp(&self.path).await;
        let mut seen = used.clone();
        loop {
            let (by, request) = tokio::select! {
                () = self.signal.next() => ("SIGHUP", None),
                Some(request) = self.asked.recv() => ("HTTP", Some(request)),
                _ = looks.tick() => {
                    let now = stamp(&self.path).await;
                    // Whoever writes the file may not be done yet.
                    let settled = now == seen;
                    seen = now;
                    if !settled || seen == used {
                        continue;
                    }
                    ("a change of the file", None)
                }
            };
            // Before it is read: what changes meanwhile is a change afterwards.
            used = stamp(&self.path).await;
            seen = used.clone();
            let path = self.path.clone();
            let Ok(config) = spawn_blocking(move || file::read(&path)).await else { return };
            let (answer, answered) = oneshot::channel();
            if self.tell.send(Reread { config, by, answer }).await.is_err() {
                return;
            }
            let Ok(result) = answered.await else { return };
            if let Some(request) = request {
                // A client that has left does not listen.
                let _ = request.send(result);
            }
        }
    }
}

/// What tells one content of a file from the next, without reading it; `None` if there is no file.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    /// Symbolic links that are turned, as Kubernetes does, lead to another file.
    real: PathBuf,
    modified: Option<SystemTime>,
    bytes: u64,
}

async fn stamp(path: &Path) -> Option<Stamp> {
    let path = path.to_owned();
    let look = move || {
        let real = path.canonicalize().ok()?;
        let metadata = real.metadata().ok()?;
        Some(Stamp { real, modified: metadata.modified().ok(), bytes: metadata.len() })
    };
    spawn_blocking(look).await.ok().flatten()
}

/// Between two looks at the file. A change is read when two of them see the same.
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Wishes that wait.
const REQUESTS_MAX: usize = 16;
