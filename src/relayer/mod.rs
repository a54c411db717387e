//! A TCP relay for programs that embed rttscope, and for `rttscope relay` itself: where to listen
//! and whom to pass connections on to goes in; an address, snapshots of what is counted, and an
//! orderly end come out.
//!
//! ```
//! use std::io::{Read, Write};
//! use std::net::{TcpListener, TcpStream};
//!
//! use rttscope::relayer::Relay;
//!
//! # let server = TcpListener::bind("127.0.0.1:0")?;
//! # let upstream = server.local_addr()?;
//! # std::thread::spawn(move || {
//! #     let (mut client, _) = server.accept().unwrap();
//! #     client.write_all(b"hello").unwrap();
//! # });
//! # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
//! # runtime.block_on(async {
//! let relay = Relay::builder().listen("127.0.0.1:0")?.upstream(upstream)?.bind().await?;
//! let stop = relay.stopper();
//! let mut snapshots = relay.snapshots();
//!
//! # let at = relay.local_addr();
//! # let told = std::thread::spawn(move || {
//! let mut client = TcpStream::connect(at)?;
//! let mut hello = [0; 5];
//! client.read_exact(&mut hello)?;
//! # drop(client);
//! # std::io::Result::Ok(())
//! # });
//! snapshots.changed().await?;
//! println!("{} connections", snapshots.borrow()[0].counters.connections);
//! # told.join().unwrap().unwrap();
//!
//! stop.shutdown(); // from anywhere; connections may finish
//! let ended = relay.run().await?;
//! assert_eq!((ended.connections, ended.cut), (1, 0));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! # }).unwrap();
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No signal handler is installed, nothing is printed (events are `tracing`'s, of the target
//! `rttscope::relay`), and a relay that is dropped leaves nothing behind.

mod builder;
mod control;
mod crew;
mod error;
mod names;
mod news;

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

pub use self::builder::Builder;
use self::control::Control;
use self::crew::Crew;
pub use self::error::RelayError;
pub use crate::config::{Balance, ProxyHeader};
use crate::config::{HostPort, MeasuringSection, RelayListener, RelaySection, limits, relay};
use crate::sample::UpstreamId;
pub use crate::sample::{CloseReason, RelayCounters, Side, UpstreamCounters};
use crate::stats::Stats;
pub use crate::stats::{ClientSnapshot, RelaySnapshot, UpstreamSnapshot};
pub use crate::sys::IoChoice;
use crate::worker::TargetId;

/// A relay that listens. It accepts from the moment it was bound.
#[derive(Debug)]
pub struct Relay {
    addresses: Vec<SocketAddr>,
    grace: Duration,
    stats: Arc<Stats>,
    wishes: watch::Sender<Wish>,
    orders: mpsc::UnboundedSender<Order>,
    /// The upstreams of each listener.
    upstreams: Vec<Vec<HostPort>>,
    snapshots: watch::Receiver<Snapshots>,
    ended: Option<oneshot::Receiver<Ended>>,
    thread: Option<JoinHandle<()>>,
}

/// The listeners, at one moment.
pub type Snapshots = Arc<[RelaySnapshot]>;

/// Ends a relay, from anywhere.
#[derive(Clone, Debug)]
pub struct Stopper {
    wishes: watch::Sender<Wish>,
    grace: Duration,
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Clients that it had.
    pub connections: u64,
    /// Payload bytes that upstreams were sent.
    pub upstream_bytes: u64,
    /// Payload bytes that clients were sent.
    pub downstream_bytes: u64,
    /// Connections that had not finished when the grace period was over, or it was stopped.
    pub cut: u64,
    died: bool,
}

/// An upstream is to be drained, or is to get clients again.
#[derive(Clone, Copy, Debug)]
struct Order {
    relay: TargetId,
    upstream: UpstreamId,
    draining: bool,
}

/// What somebody wants of a running relay.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    Run,
    /// Accept no more, and end when all connections are over, or after this time.
    Finish(Duration),
    Stop,
}

impl Relay {
    /// A relay of one listener, which has no upstream yet.
    #[must_use]
    pub fn builder() -> Builder {
        Builder::new()
    }

    /// Starts what the section says; measures into `stats`.
    ///
    /// # Errors
    /// As [`Builder::bind`].
    pub fn start(
        section: &RelaySection,
        measuring: &MeasuringSection,
        stats: Arc<Stats>,
    ) -> Result<Self, RelayError> {
        for listener in &section.listeners {
            relay::check(listener).map_err(RelayError::BadSettings)?;
        }
        let mut crew = Crew::start(section, measuring, &stats)?;
        let addresses = crew.addresses.clone();
        let (mut news, finished) = crew.take_news();
        std::thread::Builder::new()
            .name("relay-news".to_owned())
            .spawn(move || news.take_all(&finished))
            .map_err(RelayError::Thread)?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(limits::LOOKUPS_MAX)
            .thread_name("relay-lookup")
            .build()
            .map_err(RelayError::Thread)?;
        let (wishes, wished) = watch::channel(Wish::Run);
        let (orders, ordered) = mpsc::unbounded_channel();
        let (show, snapshots) = watch::channel(stats.relays().into());
        let (tell, ended) = oneshot::channel();
        let control = Control {
            crew,
            stats: Arc::clone(&stats),
            wishes: wished,
            orders: ordered,
            snapshots: show,
            summary_interval: section.summary_interval,
        };
        let run = move || {
            let ended = runtime.block_on(control.run());
            // A lookup that hangs must not hold up the end.
            runtime.shutdown_background();
            // Whoever wanted the end may not wait for it.
            let _ = tell.send(ended);
        };
        let thread = std::thread::Builder::new().name("relay-control".to_owned());
        let thread = thread.spawn(run).map_err(RelayError::Thread)?;
        let (ended, thread) = (Some(ended), Some(thread));
        let upstreams_of = |listener: &RelayListener| {
            listener.upstreams.iter().map(|upstream| upstream.address.clone()).collect()
        };
        let upstreams = section.listeners.iter().map(upstreams_of).collect();
        let grace = section.grace;
        Ok(Self { addresses, grace, stats, wishes, orders, upstreams, snapshots, ended, thread })
    }

    /// Where clients connect; of several listeners the first one's.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.addresses[0]
    }

    /// Where the clients of each listener connect.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// What was counted so far.
    #[must_use]
    pub fn snapshot(&self) -> Snapshots {
        self.stats.relays().into()
    }

    /// The same a few times a second, whenever it is another.
    #[must_use]
    pub fn snapshots(&self) -> watch::Receiver<Snapshots> {
        self.snapshots.clone()
    }

    /// The clients of each listener that moved the most, most first; everybody else last.
    #[must_use]
    pub fn clients(&self) -> Vec<(String, Vec<ClientSnapshot>)> {
        self.stats.relay_clients()
    }

    /// Gives an upstream no new clients from now on, or gives it them again. Those that it has may
    /// finish.
    ///
    /// # Errors
    /// If this is no upstream.
    pub fn set_draining(&self, upstream: impl Display, draining: bool) -> Result<(), RelayError> {
        let address = upstream.to_string();
        let wanted: HostPort = address
            .parse()
            .map_err(|source| RelayError::BadAddress { address: address.clone(), source })?;
        let mut found = false;
        for (listener, upstreams) in self.upstreams.iter().enumerate() {
            if let Some(place) = upstreams.iter().position(|known| *known == wanted) {
                found = true;
                self.drain(listener, place, draining);
            }
        }
        let unknown = || RelayError::BadSettings(format!("{address} is no upstream"));
        found.then_some(()).ok_or_else(unknown)
    }

    /// Drains whom this section drains, which is that of the start otherwise.
    pub fn drain_as(&self, section: &RelaySection) {
        for (listener, wanted) in section.listeners.iter().enumerate() {
            for (place, upstream) in wanted.upstreams.iter().enumerate() {
                self.drain(listener, place, upstream.drain);
            }
        }
    }

    fn drain(&self, listener: usize, place: usize, draining: bool) {
        let Ok(listener) = u32::try_from(listener) else { return };
        let order = Order { relay: TargetId(listener), upstream: UpstreamId::at(place), draining };
        // A relay that has ended has no new clients either.
        let _ = self.orders.send(order);
    }

    /// Something that ends this relay, from anywhere.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        Stopper { wishes: self.wishes.clone(), grace: self.grace }
    }

    /// Waits for the end, which somebody wants by a [`Stopper`]. Dropping this future stops the
    /// relay at once.
    ///
    /// # Errors
    /// If a thread died.
    pub async fn run(mut self) -> Result<Ended, RelayError> {
        self.wait().await.filter(|ended| !ended.died).ok_or(RelayError::Died)
    }

    /// Waits for the end; `None` if the thread that keeps it running is gone. May be given up and
    /// called again.
    pub async fn wait(&mut self) -> Option<Ended> {
        let ended = match &mut self.ended {
            Some(ended) => ended.await.ok(),
            None => None,
        };
        self.ended = None;
        ended
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.wishes.send_replace(Wish::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic there was logged by its hook; there is nothing left to stop.
            drop(thread.join());
        }
    }
}

impl Stopper {
    /// Accepts no more, lets connections finish for the grace period, then closes them.
    pub fn shutdown(&self) {
        self.shutdown_within(self.grace);
    }

    /// The same with another grace period.
    pub fn shutdown_within(&self, grace: Duration) {
        self.wishes.send_if_modified(|wish| {
            let goes_on = *wish != Wish::Stop;
            if goes_on {
                *wish = Wish::Finish(grace);
            }
            goes_on
        });
    }

    /// Closes everything now.
    pub fn stop(&self) {
        self.wishes.send_replace(Wish::Stop);
    }
}

impl Ended {
    /// Whether it ended because a thread of it died.
    #[must_use]
    pub const fn has_died(&self) -> bool {
        self.died
    }
}

#[cfg(test)]
mod tests;
