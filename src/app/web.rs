//! The HTTP server's thread: listeners in, pages out, until the app stops it. It has a runtime of
//! its own: a scrape of many targets copies many MB, for which neither the control plane nor a
//! measuring thread should wait.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;

use anyhow::{Context, Result, bail};
use socket2::Socket;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::{confine, reachable, step_back};
use crate::config::{BadFile, WebListen, WebSection};
use crate::http::{self, Guard, HttpState, ProbeRequests, ReloadRequests};
use crate::stats::Stats;
use crate::sys::{self, clock, socket};
use crate::time::Wall;

/// The running server.
pub(super) struct Web {
    stop: oneshot::Sender<()>,
    stopped: oneshot::Receiver<()>,
}

impl Web {
    /// Starts it; the second value is where the metrics are.
    pub(super) fn start(
        web: &WebSection,
        stats: &Arc<Stats>,
        ready: &Arc<AtomicBool>,
        (reload, probes): (Option<ReloadRequests>, Option<ProbeRequests>),
    ) -> Result<(Self, String)> {
        let guard = guard(web, stats)?;
        let scheme = guard.scheme();
        let listeners = listeners(&web.listen)?;
        let mut first = None;
        for listener in &listeners {
            let address = listener.local_addr()?.as_socket().context("a TCP address")?;
            tracing::info!(%address, scheme, "http listening");
            first.get_or_insert(address);
        }
        let first: SocketAddr = first.context("the HTTP server has no address")?;
        let state = HttpState::new(Arc::clone(stats), Arc::clone(ready), sys::process_usage, wall)
            .with_reload(reload)
            .with_probes(probes);
        let turning = http::turn_heat_maps(Arc::clone(stats));
        let (stop, told) = oneshot::channel();
        let (tell_stopped, stopped) = oneshot::channel();
        let (opened, opening) = sync_channel(1);
        let files = confine::web_files(web);
        let serve = move || {
            confine::drop_all_but_reading(&files);
            step_back();
            let told = async {
                // An app that is gone stops its server too.
                let _ = told.await;
            };
            match open(listeners) {
                Ok((runtime, listeners)) => {
                    let _ = opened.send(Ok(()));
                    runtime.spawn(turning);
                    runtime.block_on(http::serve(listeners, guard, state, told));
                    runtime.shutdown_background();
                }
                Err(error) => drop(opened.send(Err(error))),
            }
            // An app that is gone does not listen.
            let _ = tell_stopped.send(());
        };
        let name = "http".to_owned();
        std::thread::Builder::new().name(name).spawn(serve).context("the HTTP server's thread")?;
        opening.recv().context("the HTTP server's thread ended")?.context("the HTTP server")?;
        Ok((Self { stop, stopped }, format!("{scheme}://{}/metrics", reachable(first))))
    }

    /// Stops it and waits for requests under way.
    pub(super) async fn stop(self) {
        // The server may be gone already.
        let _ = self.stop.send(());
        let _ = tokio::time::timeout(2 * http::SHUTDOWN_GRACE, self.stopped).await;
    }
}

fn wall() -> Wall {
    clock::now().wall
}

/// Who may connect and ask, by the file if there is one.
fn guard(web: &WebSection, stats: &Stats) -> Result<Guard> {
    let Some(file) = &web.config_file else { return Ok(Guard::open()) };
    let clock_ns = || clock::mono().as_ns();
    Guard::from_file(file, stats, clock_ns)
        .map_err(|why| BadFile(format!("--web.config.file {}: {why}", file.display())).into())
}

fn listeners(listen: &WebListen) -> Result<Vec<Socket>> {
    let listeners = match listen {
        WebListen::Systemd => {
            let passed = socket::activated().context("--web.systemd-socket")?;
            if passed.is_empty() {
                bail!(
                    "--web.systemd-socket: no socket was passed; start this by a systemd socket \
                     unit, or write --web.listen-address instead"
                );
            }
            passed
        }
        WebListen::Addresses(addresses) => {
            let open = |&at| {
                socket::listener(at, false)
                    .with_context(|| format!("--web.listen-address {at}: cannot listen there"))
            };
            addresses.iter().map(open).collect::<Result<_>>()?
        }
    };
    for listener in &listeners {
        listener.set_nonblocking(true).context("the HTTP server's socket")?;
    }
    Ok(listeners)
}

/// The runtime, and the listeners inside it.
fn open(listeners: Vec<Socket>) -> io::Result<(Runtime, Vec<TcpListener>)> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(METRICS_THREADS + PASSWORD_THREADS)
        .on_thread_start(step_back)
        .build()?;
    let inside = runtime.enter();
    let listeners = listeners.into_iter().map(|listener| TcpListener::from_std(listener.into()));
    let listeners = listeners.collect::<io::Result<_>>()?;
    drop(inside);
    Ok((runtime, listeners))
}

/// Threads that encode metrics; one of them does, at any time.
const METRICS_THREADS: usize = 2;
/// Threads that check a password; one does, at any time.
const PASSWORD_THREADS: usize = 1;
