//! Half-open checks for programs that embed rttscope: an address and a timeout go in, "open" with
//! its round trip comes out, or an error that says why not.
//!
//! ```
//! use std::time::Duration;
//!
//! use rttscope::checker::Checker;
//!
//! let server = std::net::TcpListener::bind("127.0.0.1:0")?;
//! let checker = Checker::new()?;
//! let open = checker.check(server.local_addr()?, Duration::from_secs(1))?;
//! println!("{} answered after {:?} by the {} clock", open.to, open.rtt, open.clock_name());
//! # assert_eq!(open.to, server.local_addr()?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! The same from asynchronous code, on any executor:
//!
//! ```
//! # use std::time::Duration;
//! # use rttscope::checker::{CheckError, Checker};
//! async fn is_open(checker: &Checker, address: &str) -> Result<bool, CheckError> {
//!     match checker.check_async(address, Duration::from_millis(500)).await {
//!         Ok(_) => Ok(true),
//!         Err(CheckError::Refused { .. } | CheckError::Timeout { .. }) => Ok(false),
//!         Err(error) => Err(error),
//!     }
//! }
//! # let checker = Checker::new()?;
//! # let runtime = tokio::runtime::Builder::new_current_thread().build()?;
//! # let server = std::net::TcpListener::bind("127.0.0.1:0")?;
//! # let address = server.local_addr()?.to_string();
//! # assert!(runtime.block_on(is_open(&checker, &address))?);
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! No signal handler is installed, nothing is printed, and a checker that is dropped leaves
//! nothing behind: no thread, no socket, no eBPF program.

mod error;
mod lookups;
mod pending;

use std::fmt::Display;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::{Receiver, sync_channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

pub use self::error::CheckError;
use self::lookups::Lookups;
use self::pending::{Answered, Pending, Reply};
use crate::check::race::interleave;
use crate::check::sweep::{CheckResult, SweepSettings, SweepTarget};
use crate::config::{HostPort, limits};
pub use crate::event::Ending;
use crate::sample::CheckOutcome;
pub use crate::sample::{CheckClock, Method};
use crate::stats::{Stats, WorkerSeries};
use crate::sys::socket::SocketOptions;
use crate::sys::{CheckSettings, Checks, ClockChoice, Followed, IoOptions, clock};
pub use crate::sys::{IoChoice, MethodChoice};
use crate::time::{Mono, duration_ns};
use crate::worker::{Change, NewSweep, Outlets, Remote, TargetId, Worker, WorkerOptions};

/// Makes half-open checks: as many at once as callers want, up to a limit. Cheap to share by
/// reference or `Arc`; one is enough for a program ([`Checker::shared`]).
#[derive(Debug)]
pub struct Checker {
    remote: Remote,
    method: Method,
    /// Addresses whose checks eBPF programs time.
    followed: Arc<Followed>,
    pending: Arc<Pending>,
    lookups: Lookups,
    worker: Option<Worker>,
    results: Option<JoinHandle<()>>,
}

/// How a [`Checker`] is to work; see [`Checker::builder`].
#[derive(Clone, Debug)]
pub struct Builder {
    method: MethodChoice,
    io: IoChoice,
    clock: ClockChoice,
    socket: SocketOptions,
    in_flight_max: usize,
}

/// A port that somebody listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Open {
    /// The address that answered; of a name with several, the one that answered first.
    pub to: SocketAddr,
    /// How it was asked.
    pub method: Method,
    /// From the answered SYN to its SYN-ACK. `None` if the SYN was retransmitted and no clock
    /// can tell which one was answered.
    pub rtt: Option<Duration>,
    /// The clock of `rtt`.
    pub clock: Option<CheckClock>,
    /// From the call until the answer was known, name resolution and retransmissions included.
    pub elapsed: Duration,
    /// SYNs after the first.
    pub syn_retransmits: u32,
    /// Our side completed the handshake: the server saw a connection. Always so by
    /// [`Method::Dial`].
    pub completed: bool,
}

/// A request on its way: what was asked, and since when.
#[derive(Clone, Debug)]
struct Request {
    address: HostPort,
    asked_at: Mono,
    timeout: Duration,
    ending: Ending,
}

impl Builder {
    /// By which method; the best that works here unless this is called.
    #[must_use]
    pub const fn method(mut self, method: MethodChoice) -> Self {
        self.method = method;
        self
    }

    /// By which I/O backend; io_uring where it works unless this is called.
    #[must_use]
    pub const fn io(mut self, io: IoChoice) -> Self {
        self.io = io;
        self
    }

    /// By which clocks; the best of each check unless this is called.
    #[must_use]
    pub const fn clock(mut self, clock: ClockChoice) -> Self {
        self.clock = clock;
        self
    }

    /// Source address, interface, DSCP and TTL of what is sent.
    #[must_use]
    pub fn socket(mut self, socket: SocketOptions) -> Self {
        self.socket = socket;
        self
    }

    /// How many checks may run at once; 4,096 unless this is called. One beyond it is refused as
    /// [`CheckError::TooMany`]. A kernel socket is a file descriptor, so the process's limit of
    /// them counts as well.
    #[must_use]
    pub const fn in_flight_max(mut self, checks: usize) -> Self {
        self.in_flight_max = checks;
        self
    }

    /// Starts the checker's threads.
    ///
    /// # Errors
    /// [`CheckError::Local`] if we cannot work: a method or backend that was asked for does not
    /// work here, or no thread can be had.
    pub fn build(self) -> Result<Checker, CheckError> {
        let Self { method, io, clock, socket, in_flight_max } = self;
        let in_flight_max = in_flight_max.clamp(1, IN_FLIGHT_LIMIT);
        let settings = CheckSettings { method, clock, socket, checks_max: in_flight_max };
        let checks = Checks::open(&settings)?;
        let (method, follower) = (checks.method(), checks.follower());
        let options = WorkerOptions {
            name: "checker".to_owned(),
            io: IoOptions { backend: io, ..IoOptions::default() },
            cpu: None,
            priority: None,
            checks: Some(checks),
            changes_max: limits::CHANGES_MAX,
        };
        // Nobody listens to reports: a sweep that never ends has none.
        let (reports, _) = tokio::sync::mpsc::channel(1);
        let outlets = Outlets { reports, samples: None, stats: Arc::new(Stats::default()) };
        let worker = Worker::start(options, outlets, Arc::new(WorkerSeries::new("checker")))?;
        let (results, incoming) = sync_channel(RESULTS_WAITING_MAX);
        worker.change(Change::Sweep(Box::new(NewSweep {
            sweep: SWEEP,
            settings: SweepSettings {
                requests: 1,
                concurrency: in_flight_max,
                timeout_ns: u64::MAX,
                method,
                result_age_ns_max: 0,
            },
            results,
        })));
        let pending = Arc::new(Pending::new(in_flight_max));
        let answering = Arc::clone(&pending);
        let results = std::thread::Builder::new()
            .name("checker-results".to_owned())
            .spawn(move || answer(&incoming, &answering))?;
        Ok(Checker {
            remote: worker.remote(),
            method,
            followed: Arc::new(Followed::new(follower)),
            pending,
            lookups: Lookups::start()?,
            worker: Some(worker),
            results: Some(results),
        })
    }
}

impl Checker {
    /// A checker with the best method that works here.
    ///
    /// # Errors
    /// See [`Builder::build`].
    pub fn new() -> Result<Self, CheckError> {
        Self::builder().build()
    }

    /// What can be chosen.
    #[must_use]
    pub fn builder() -> Builder {
        Builder {
            method: MethodChoice::Auto,
            io: IoChoice::Auto,
            clock: ClockChoice::Auto,
            socket: SocketOptions::default(),
            in_flight_max: IN_FLIGHT_MAX,
        }
    }

    /// The checker that a whole program shares, started by its first use. It handles no signal.
    ///
    /// # Errors
    /// See [`Builder::build`]; the next call tries again.
    pub fn shared() -> Result<&'static Self, CheckError> {
        static SHARED: OnceLock<Checker> = OnceLock::new();
        static STARTING: Mutex<()> = Mutex::new(());
        if let Some(checker) = SHARED.get() {
            return Ok(checker);
        }
        let _one_starts_it = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        match SHARED.get() {
            Some(checker) => Ok(checker),
            None => Self::new().map(|checker| SHARED.get_or_init(|| checker)),
        }
    }

    /// The method in use.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// Checks `host:port`, `[v6%zone]:port` or a [`SocketAddr`], and waits for the outcome: no
    /// longer than `timeout`, which covers resolving the name. Every address of a name is tried
    /// by RFC 8305, and the first that is open wins. Must not be called from asynchronous code.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub fn check(&self, address: impl Display, timeout: Duration) -> Result<Open, CheckError> {
        self.check_with(address, timeout, Ending::Reset)
    }

    /// [`Self::check`] with a choice of how a kernel socket is closed. [`Method::Syn`] has none,
    /// and always ends by RST.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub fn check_with(
        &self,
        address: impl Display,
        timeout: Duration,
        ending: Ending,
    ) -> Result<Open, CheckError> {
        let request = Request::parse(&address.to_string(), timeout, ending)?;
        let (reply, answer) = sync_channel(1);
        self.ask(request.clone(), Reply::Waiting(reply))?;
        let answered = answer.recv().map_err(|_| CheckError::Stopped)?;
        request.outcome(answered)
    }

    /// [`Self::check`] for asynchronous code, on any executor. Dropping the future gives the
    /// check's outcome up; the check itself ends by its timeout.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub async fn check_async(
        &self,
        address: impl Display,
        timeout: Duration,
    ) -> Result<Open, CheckError> {
        self.check_with_async(address, timeout, Ending::Reset).await
    }

    /// [`Self::check_with`] for asynchronous code.
    ///
    /// # Errors
    /// See [`CheckError`].
    pub async fn check_with_async(
        &self,
        address: impl Display,
        timeout: Duration,
        ending: Ending,
    ) -> Result<Open, CheckError> {
        let request = Request::parse(&address.to_string(), timeout, ending)?;
        let (reply, answer) = oneshot::channel();
        self.ask(request.clone(), Reply::Polling(reply))?;
        let answered = answer.await.map_err(|_| CheckError::Stopped)?;
        request.outcome(answered)
    }

    fn ask(&self, request: Request, reply: Reply) -> Result<(), CheckError> {
        let number = self.pending.add(reply)?;
        let HostPort { host, port } = &request.address;
        if let Ok(ip) = host.parse::<IpAddr>() {
            let address = SocketAddr::new(ip, *port);
            self.followed.also([address]);
            request.submit(number, &[address], &self.remote);
            return Ok(());
        }
        let (remote, pending) = (self.remote.clone(), Arc::clone(&self.pending));
        let followed = Arc::clone(&self.followed);
        let (address, timeout) = (request.address.clone(), request.timeout);
        self.lookups.look_up(address, timeout, move |found| match found {
            Ok(addresses) => {
                followed.also(addresses.iter().copied());
                request.submit(number, &addresses, &remote);
            }
            Err(error) => pending.answer(number, Answered::Unresolved(error)),
        });
        Ok(())
    }
}

impl Drop for Checker {
    fn drop(&mut self) {
        // Its sweep goes with the worker, and with that the sender of results.
        if let Some(worker) = self.worker.take() {
            worker.stop();
        }
        if let Some(results) = self.results.take() {
            // A panic there has left callers without answers, and they know.
            drop(results.join());
        }
    }
}

impl Open {
    /// The name of the clock that `rtt` was measured with, or `none`.
    #[must_use]
    pub fn clock_name(&self) -> &'static str {
        self.clock.map_or("none", CheckClock::name)
    }
}

impl Request {
    fn parse(text: &str, timeout: Duration, ending: Ending) -> Result<Self, CheckError> {
        let address = text
            .parse()
            .map_err(|source| CheckError::BadAddress { address: text.to_owned(), source })?;
        Ok(Self { address, asked_at: clock::mono(), timeout, ending })
    }

    /// Hands the request to the worker; what passed since it was asked is gone from its timeout.
    fn submit(&self, number: u32, addresses: &[SocketAddr], remote: &Remote) {
        let passed = clock::mono().duration_since(self.asked_at);
        let target = SweepTarget {
            target: number,
            addresses: interleave(addresses),
            lookup_ns: duration_ns(passed),
            timeout_ns: Some(duration_ns(self.timeout)),
            ending: self.ending,
        };
        remote.change(Change::SweepTargets(SWEEP, vec![target], false));
    }

    fn outcome(self, answered: Answered) -> Result<Open, CheckError> {
        let check = match answered {
            Answered::Unresolved(source) => {
                return Err(CheckError::Resolve { host: self.address.host, source });
            }
            Answered::Checked(check) => check,
        };
        match (check.outcome, check.to) {
            (CheckOutcome::Open, Some(to)) => Ok(Open {
                to,
                method: check.method,
                rtt: check.rtt_ns.map(Duration::from_nanos),
                clock: check.clock,
                elapsed: clock::mono().duration_since(self.asked_at),
                syn_retransmits: check.syn_retransmits,
                completed: check.completed,
            }),
            (outcome, to) => Err(CheckError::of(outcome, to, &self.address, self.timeout)),
        }
    }
}

/// Answers callers until the worker is gone.
fn answer(incoming: &Receiver<Vec<CheckResult>>, pending: &Pending) {
    while let Ok(results) = incoming.recv() {
        for CheckResult { target, sample } in results {
            pending.answer(target, Answered::Checked(sample));
        }
    }
    pending.stop();
}

/// The one sweep of a checker's worker.
const SWEEP: TargetId = TargetId(0);
/// Checks at once, unless configured.
const IN_FLIGHT_MAX: usize = 4_096;
/// Checks at once, at most.
const IN_FLIGHT_LIMIT: usize = 1 << 20;
/// Hand-overs of results that wait for the thread that answers.
const RESULTS_WAITING_MAX: usize = 1_024;

#[cfg(test)]
mod tests;
