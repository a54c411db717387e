//! How a relay of a program is asked for: one setting after the other in, a running relay out.

use std::fmt::Display;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Relay, RelayError};
use crate::config::address::parse_listen;
use crate::config::{
    Balance, HealthSection, MeasuringSection, ProxyHeader, RelayListen, RelayListener,
    RelaySection, RelayUpstream, limits,
};
use crate::stats::Stats;
use crate::sys::sandbox::SandboxChoice;
use crate::sys::{ClockChoice, IoChoice};

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

impl Builder {
    pub(super) fn new() -> Self {
        Self {
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

    /// How long connections may finish after [`shutdown`](super::Stopper::shutdown); 30 s unless
    /// this is called.
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
            // That is for whoever embeds this.
            sandbox: SandboxChoice::Off,
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

const fn health() -> HealthSection {
    let (interval, timeout) = (Duration::from_secs(2), Duration::from_secs(1));
    HealthSection { interval, timeout, rise: 2, fall: 3 }
}
