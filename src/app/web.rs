//! The HTTP server's thread: a listener in, pages out, until the app stops it. It has a runtime of
//! its own: a scrape of many targets copies many MB, for which neither the control plane nor a
//! measuring thread should wait.

use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::mpsc::sync_channel;

use anyhow::{Context, Result};
use socket2::Socket;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use super::{reachable, step_back};
use crate::config::WebSection;
use crate::http::{self, HttpState};
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
    ) -> Result<(Self, String)> {
        let flag = || format!("--web.listen-address {}: cannot listen there", web.listen);
        let listener = socket::listener(web.listen, false).with_context(flag)?;
        listener.set_nonblocking(true).with_context(flag)?;
        let address = listener.local_addr()?.as_socket().context("a TCP address")?;
        tracing::info!(%address, "http listening");
        let state = HttpState::new(Arc::clone(stats), Arc::clone(ready), sys::process_usage, wall);
        let turning = http::turn_heat_maps(Arc::clone(stats));
        let (stop, told) = oneshot::channel();
        let (tell_stopped, stopped) = oneshot::channel();
        let (opened, opening) = sync_channel(1);
        let serve = move || {
            step_back();
            let told = async {
                // An app that is gone stops its server too.
                let _ = told.await;
            };
            match open(listener) {
                Ok((runtime, listener)) => {
                    let _ = opened.send(Ok(()));
                    runtime.spawn(turning);
                    runtime.block_on(http::serve(listener, state, told));
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
        Ok((Self { stop, stopped }, format!("http://{}/metrics", reachable(address))))
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

/// The runtime, and the listener inside it.
fn open(listener: Socket) -> io::Result<(Runtime, TcpListener)> {
    let runtime = Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(METRICS_THREADS)
        .on_thread_start(step_back)
        .build()?;
    let inside = runtime.enter();
    let listener = TcpListener::from_std(listener.into())?;
    drop(inside);
    Ok((runtime, listener))
}

/// Threads that encode metrics; one of them does, at any time.
const METRICS_THREADS: usize = 2;
