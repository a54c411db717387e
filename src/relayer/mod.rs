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

mod control;
mod crew;
mod names;
mod news;

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::{oneshot, watch};

use self::control::Control;
use self::crew::Crew;
use crate::config::address::parse_listen;
use crate::config::{
    BadValue, HealthSection, MeasuringSection, RelayListen, RelayListener, RelaySection,
    RelayUpstream, limits, relay,
};
pub use crate::config::{Balance, ProxyHeader};
pub use crate::sample::{CloseReason, RelayCounters, Side, UpstreamCounters};
use crate::stats::Stats;
pub use crate::stats::{ClientSnapshot, RelaySnapshot, UpstreamSnapshot};
use crate::sys::ClockChoice;
pub use crate::sys::IoChoice;

/// A relay that listens. It accepts from the moment it was bound.
#[derive(Debug)]
pub struct Relay {
    addresses: Vec<SocketAddr>,
    grace: Duration,
    stats: Arc<Stats>,
    wishes: watch::Sender<Wish>,
    snapshots: watch::Receiver<Snapshots>,
    ended: Option<oneshot::Receiver<Ended>>,
    thread: Option<JoinHandle<()>>,
}

/// The listeners, at one moment.
pub type Snapshots = Arc<[RelaySnapshot]>;

/// How a [`Relay`] is to work; see [`Relay::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    listen: SocketAddr,
    upstreams: Vec<RelayUpstream>,
    balance: Balance,
    connect_timeout: Duration,
    attempts_max: usize,
    idle_timeout: Option<Duration>,
    connections_max: usize,
    proxy_in: bool,
    proxy_out: Option<ProxyHeader>,
    health: Option<HealthSection>,
    reuse_port: bool,
    grace: Duration,
    threads: usize,
    io: IoChoice,
}

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

/// Why there is no relay.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RelayError {
    /// The address is taken, or none of this machine.
    #[error("--listen {at}: cannot listen there: {source}")]
    Listen {
        /// Where.
        at: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// Systemd passed no socket, or too few.
    #[error(
        "--systemd-socket: no socket was passed; start this by a systemd socket unit, or write \
         --listen instead"
    )]
    NotPassed,
    /// What systemd passed is of no use.
    #[error("--systemd-socket: {0}")]
    Passed(io::Error),
    /// No measuring thread can be had; the message names the option.
    #[error("a thread of the relay: {0}")]
    Thread(io::Error),
    /// No half-open checks can be made.
    #[error("checks of upstreams: {0}; turn them off by --check-interval off")]
    Checks(io::Error),
    /// This is no address.
    #[error("{address}: {source}")]
    BadAddress {
        /// The text.
        address: String,
        /// What is wrong with it.
        source: BadValue,
    },
    /// The settings contradict each other.
    #[error("{0}")]
    BadSettings(String),
    /// A measuring thread died; the log says why.
    #[error("a thread of the relay died; its error is in the log")]
    Died,
}

/// What somebody wants of a running relay.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wish {
    Run,
    /// Accept no more, and end when all connections are over, or after this time.
    Finish(Duration),
    Stop,
}

impl Builder {
    /// Listen there; `:8080` is every address, port 0 a free one. A free port of this machine
    /// alone unless this is called.
    ///
    /// # Errors
    /// If it is no address.
    pub fn listen(mut self, at: impl Display) -> Result<Self, RelayError> {
        let address = at.to_string();
        self.listen =
            parse_listen(&address).map_err(|source| RelayError::BadAddress { address, source })?;
        Ok(self)
    }

    /// Pass connections on to this one, too: `host:port`, `[v6]:port`, or a [`SocketAddr`]. Names
    /// are resolved again and again.
    ///
    /// # Errors
    /// If it is no address.
    pub fn upstream(mut self, address: impl Display) -> Result<Self, RelayError> {
        let address = address.to_string();
        let parsed =
            address.parse().map_err(|source| RelayError::BadAddress { address, source })?;
        self.upstreams.push(RelayUpstream { address: parsed, drain: false });
        Ok(self)
    }

    /// Who gets a new client; one after the other unless this is called.
    #[must_use]
    pub const fn balance(mut self, balance: Balance) -> Self {
        self.balance = balance;
        self
    }

    /// How long one attempt to connect may take; 5 s unless this is called.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Attempts to connect for one client; 3 unless this is called.
    #[must_use]
    pub const fn attempts_max(mut self, attempts: usize) -> Self {
        self.attempts_max = attempts;
        self
    }

    /// Close a connection on which nothing moved for this long; an hour unless this is called.
    #[must_use]
    pub const fn idle_timeout(mut self, timeout: Option<Duration>) -> Self {
        self.idle_timeout = timeout;
        self
    }

    /// Close clients beyond this many at once; 10,000 unless this is called.
    #[must_use]
    pub const fn connections_max(mut self, connections: usize) -> Self {
        self.connections_max = connections;
        self
    }

    /// Every client begins with a PROXY header.
    #[must_use]
    pub const fn proxy_in(mut self, expected: bool) -> Self {
        self.proxy_in = expected;
        self
    }

    /// Every upstream is sent a PROXY header.
    #[must_use]
    pub const fn proxy_out(mut self, version: Option<ProxyHeader>) -> Self {
        self.proxy_out = version;
        self
    }

    /// Check upstreams this often; every 2 s unless this is called, `None` not at all.
    #[must_use]
    pub fn check_interval(mut self, interval: Option<Duration>) -> Self {
        self.health = interval.map(|interval| HealthSection { interval, ..health() });
        self
    }

    /// Let other processes listen there, too (`SO_REUSEPORT`).
    #[must_use]
    pub const fn reuse_port(mut self, reuse: bool) -> Self {
        self.reuse_port = reuse;
        self
    }

    /// How long connections may finish after [`Stopper::shutdown`]; 30 s unless this is called.
    #[must_use]
    pub const fn grace(mut self, grace: Duration) -> Self {
        self.grace = grace;
        self
    }

    /// Measuring threads; one unless this is called.
    #[must_use]
    pub const fn threads(mut self, threads: usize) -> Self {
        self.threads = threads;
        self
    }

    /// By which I/O backend; io_uring where it works unless this is called.
    #[must_use]
    pub const fn io(mut self, io: IoChoice) -> Self {
        self.io = io;
        self
    }

    /// Listens and starts to relay. Works on any executor: names are looked up, and everything is
    /// started, on a thread of its own.
    ///
    /// # Errors
    /// If *we* cannot work: an address that is taken, no thread, settings that make no sense. An
    /// upstream that does not answer is no error.
    pub async fn bind(self) -> Result<Relay, RelayError> {
        let (tell, told) = oneshot::channel();
        let start = std::thread::Builder::new().name("relay-start".to_owned());
        // Whoever asked may have given up; the relay is dropped then.
        start.spawn(move || drop(tell.send(self.bind_blocking()))).map_err(RelayError::Thread)?;
        told.await.map_err(|_| RelayError::Died)?
    }

    fn bind_blocking(self) -> Result<Relay, RelayError> {
        if !(1..=limits::THREADS_MAX).contains(&self.threads) {
            let most = limits::THREADS_MAX;
            return Err(RelayError::BadSettings(format!("threads are 1 to {most}")));
        }
        let measuring = MeasuringSection {
            io: self.io,
            clock: ClockChoice::Application,
            threads: self.threads,
            pin: Vec::new(),
            busy_poll: false,
            priority: None,
        };
        let section = RelaySection {
            grace: self.grace,
            summary_interval: None,
            listeners: vec![RelayListener {
                listen: RelayListen::Address(self.listen),
                reuse_port: self.reuse_port,
                upstreams: self.upstreams,
                balance: self.balance,
                connect_timeout: self.connect_timeout,
                attempts_max: self.attempts_max.max(1),
                idle_timeout: self.idle_timeout,
                connections_max: self.connections_max.max(1),
                proxy_in: self.proxy_in,
                proxy_out: self.proxy_out,
                health: self.health,
                socket: Default::default(),
            }],
        };
        Relay::start(&section, &measuring, Arc::new(Stats::default()))
    }
}

impl Relay {
    /// A relay of one listener, which has no upstream yet.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            upstreams: Vec::new(),
            balance: Balance::RoundRobin,
            connect_timeout: Duration::from_secs(5),
            attempts_max: 3,
            idle_timeout: Some(Duration::from_secs(3_600)),
            connections_max: limits::CONNECTIONS_MAX,
            proxy_in: false,
            proxy_out: None,
            health: Some(health()),
            reuse_port: false,
            grace: Duration::from_secs(30),
            threads: 1,
            io: IoChoice::Auto,
        }
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
        let (show, snapshots) = watch::channel(stats.relays().into());
        let (tell, ended) = oneshot::channel();
        let control = Control {
            crew,
            stats: Arc::clone(&stats),
            wishes: wished,
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
        Ok(Self { addresses, grace: section.grace, stats, wishes, snapshots, ended, thread })
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

const fn health() -> HealthSection {
    let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
    HealthSection { interval, timeout, rise: 2, fall: 3 }
}
