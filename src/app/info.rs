//! A look at one connection: connects, reads what the kernel knows of it, once or each second, and
//! hands it to standard output.

use std::io::{self, BufWriter, Stdout, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use socket2::Socket;
use tokio::sync::oneshot;

use super::output::{Output, Screen, locked};
use super::{Verdict, closed};
use crate::config::{HostPort, InfoSection, duration};
use crate::report::info;
use crate::report::live::{Size, View};
use crate::stats::Stats;
use crate::sys::socket::SocketOptions;
use crate::sys::{clock, socket, tcp_info};
use crate::tcp_info::{Raw, State};

/// What the thread of standard output works with.
struct Writer {
    screen: Screen,
    address: String,
    kernel: String,
    watch: bool,
    progress: Arc<AtomicU64>,
    looks: Receiver<Raw>,
}

/// Connects, looks, and ends; or looks each second until a signal or the connection's end.
pub(super) async fn run(
    info: &InfoSection,
    screen: Screen,
    stats: &Stats,
    mut signal: oneshot::Receiver<&'static str>,
) -> Result<Verdict> {
    let connection = tokio::select! {
        Ok(_) = &mut signal => return Ok(Verdict::Unanswered),
        connection = connect(&info.address, info.timeout, &info.socket) => connection?,
    };
    let Some((connection, _)) = connection else { return Ok(Verdict::Unanswered) };
    let first = Raw::of(&connection).context("TCP_INFO")?;
    let (looks, incoming) = sync_channel(LOOKS_MAX);
    let progress = Arc::<AtomicU64>::default();
    let mut writer = Writer {
        screen,
        address: info.address.to_string(),
        kernel: tcp_info::kernel_release(),
        watch: info.watch,
        progress: Arc::clone(&progress),
        looks: incoming,
    };
    let mut output = Output::spawn(progress, None, move || writer.run())?;
    // Room for the first one there is.
    let _ = looks.try_send(first);
    let mut verdict = Verdict::Good;
    let mut signalled = false;
    if info.watch {
        let mut output_closed = std::pin::pin!(closed(Some(&mut output)));
        tokio::select! {
            Ok(_) = &mut signal => signalled = true,
            () = &mut output_closed => {}
            ended = watch(&connection, &looks) => {
                ended?;
                verdict = Verdict::Unanswered;
            }
        }
    }
    drop(looks);
    output.finish(stats, (!signalled).then_some(signal)).await;
    Ok(verdict)
}

/// Looks each second; ends when the connection does.
async fn watch(connection: &Socket, looks: &SyncSender<Raw>) -> Result<()> {
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        let raw = Raw::of(connection).context("TCP_INFO")?;
        // A reader that is slow sees fewer looks, not old ones.
        let _ = looks.try_send(raw);
        if raw.state().is_some_and(|state| state != State::Established) {
            tracing::warn!("the peer has ended the connection");
            return Ok(());
        }
    }
}

/// A connection to one of the address's hosts; `None`, and a word in the log, if there is none.
pub(super) async fn connect(
    to: &HostPort,
    timeout: Duration,
    options: &SocketOptions,
) -> Result<Option<(Socket, SocketAddr)>> {
    let deadline = clock::mono().after(timeout);
    let HostPort { host, port } = to;
    let lookup = tokio::net::lookup_host((host.as_str(), *port));
    let addresses: Vec<SocketAddr> = match tokio::time::timeout(timeout, lookup).await {
        Ok(Ok(addresses)) => addresses.collect(),
        Ok(Err(error)) => {
            tracing::error!(host, %error, "the name cannot be resolved");
            return Ok(None);
        }
        Err(_) => {
            let timeout = duration::to_text(timeout);
            tracing::error!(host, timeout, "the resolver did not answer in time");
            return Ok(None);
        }
    };
    if addresses.is_empty() {
        tracing::error!(host, "the name has no address");
    }
    for address in addresses {
        let left = deadline.duration_since(clock::mono());
        if left.is_zero() {
            break;
        }
        let socket = socket::prober(address, options)?;
        let connecting = tokio::task::spawn_blocking(move || {
            socket.connect_timeout(&address.into(), left).map(|()| socket)
        });
        match connecting.await.context("the connecting thread")? {
            Ok(socket) => return Ok(Some((socket, address))),
            Err(error) => tracing::error!(%address, %error, "cannot connect"),
        }
    }
    Ok(None)
}

impl Writer {
    fn run(&mut self) -> io::Result<()> {
        match &self.screen {
            Screen::Live(view) => self.run_live(view),
            Screen::Json => self.run_json(),
            Screen::Quiet => Ok(()),
        }
    }

    fn run_live(&self, view: &Mutex<View<Stdout>>) -> io::Result<()> {
        while let Ok(raw) = self.looks.recv() {
            match Size::of_stdout().filter(|_| self.watch) {
                Some(Size { columns, lines }) => {
                    // A line and a column stay free for the cursor.
                    let (width, lines) = (columns.saturating_sub(1), lines.saturating_sub(1));
                    let grid = info::grid(&self.address, &self.kernel, &raw, width, lines);
                    locked(view).draw(grid)?;
                }
                None => locked(view).print(&info::table(&self.address, &self.kernel, &raw))?,
            }
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn run_json(&self) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        let mut line = Vec::new();
        while let Ok(raw) = self.looks.recv() {
            line.clear();
            info::append_json(&mut line, &self.address, &self.kernel, &raw);
            out.write_all(&line)?;
            out.flush()?;
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }
}

/// Between two looks.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);
/// Looks that wait for the reader of standard output.
const LOOKS_MAX: usize = 2;
