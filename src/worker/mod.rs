//! One measuring thread: owns its I/O and its flows, and is the only loop of the data plane. It
//! takes no lock, and allocates nothing for a probe. Changes come in and reports go out by bounded
//! channels; measurements go to the series of [`crate::stats`].
//!
//! One turn: take changes, wait, hand completions to flows, then wake flows that are due.
//! Completions come first, so that a reply that waits to be read is not taken for a lost one.

mod accepting;
mod loading;
pub mod noise;
mod paths;
mod relaying;
mod sampling;
mod sweeping;
mod table;
mod turn;

use std::io;
use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use socket2::Socket;

use self::turn::Turn;
use crate::check::WatchSettings;
use crate::check::sweep::{CheckResult, SweepSettings, SweepTarget};
use crate::echo::ResponderSettings;
use crate::load::LoadSettings;
use crate::probe::ProbeSettings;
use crate::relay::{RelaySettings, UpstreamNews};
use crate::sample::{CheckSample, CloseReason, ConnectionSample, Sample, UpstreamId};
use crate::stats::{
    CheckSeries, EchoSeries, LoadSeries, ProbeSeries, RelaySeries, Stats, WorkerSeries,
};
use crate::sys::socket::SocketOptions;
use crate::sys::{self, Checks, Io, IoOptions, Kept, Priority, Waker};

/// How a worker runs.
#[derive(Debug)]
pub struct WorkerOptions {
    /// The thread's name.
    pub name: String,
    /// Its I/O.
    pub io: IoOptions,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    /// Its scheduling priority.
    pub priority: Option<Priority>,
    /// Everything that its half-open checks need, if it is to check.
    pub checks: Option<Checks>,
    /// Changes that may wait.
    pub changes_max: usize,
}

/// A finished measurement of one target.
#[derive(Clone, Copy, Debug)]
pub enum Finished {
    /// An echo probe.
    Probe(Sample),
    /// A half-open check.
    Check(CheckSample),
    /// A relayed connection, when it was accepted and when it was over.
    Connection(ConnectionSample),
}

/// Finished measurements on their way to a writer.
pub type Samples = SyncSender<(TargetId, Finished)>;

/// Where a worker's reports go.
#[derive(Clone, Debug)]
pub struct Outlets {
    /// Requests and news for the control plane.
    pub reports: tokio::sync::mpsc::Sender<Report>,
    /// Finished measurements for the JSON writer, if there is one.
    pub samples: Option<Samples>,
    /// Counts what the JSON writer was too slow for.
    pub stats: Arc<Stats>,
}

/// The control plane's number of a target. None is used twice, and they grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TargetId(pub u32);

impl TargetId {
    /// The target's place in a list of all of them.
    #[must_use]
    pub fn index(self) -> usize {
        usize::try_from(self.0).expect("32 bits fit")
    }
}

/// What the control plane wants of a worker.
#[derive(Debug)]
pub enum Change {
    /// Probe one more target.
    Probe(Box<NewProbe>),
    /// Check one more target.
    Watch(Box<NewWatch>),
    /// Begin a sweep, without targets yet.
    Sweep(Box<NewSweep>),
    /// More targets of a sweep; `true` promises that these are the last.
    SweepTargets(TargetId, Vec<SweepTarget>, bool),
    /// Take a share of a load. One for each worker.
    Load(Box<NewLoad>),
    /// Answer on this listening socket. One for each worker.
    Serve(Socket, ResponderSettings, Arc<EchoSeries>),
    /// Relay what is accepted on a listening socket. [`Self::Finish`] stops accepting, lets the
    /// connections that there are finish and reports that; [`Self::Stop`] closes them.
    Relay(Box<NewRelay>),
    /// Something was learnt of an upstream of a relay.
    Upstream(TargetId, UpstreamId, UpstreamNews),
    /// A relay accepts no more; it has finished once the connections that it has are over.
    DrainRelay(TargetId),
    /// A relay accepts no more and ends the connections that it has, for this reason.
    EndRelay(TargetId, CloseReason),
    /// A target's name was resolved (`None`: it could not be).
    Resolved(TargetId, Option<Vec<SocketAddr>>),
    /// Probe or check this target no longer: its connection is closed at once.
    Remove(TargetId),
    /// Send no more probes; settle what is in flight.
    Finish,
    /// Stop now.
    Stop,
}

/// A target to be probed.
#[derive(Debug)]
pub struct NewProbe {
    /// Its number.
    pub target: TargetId,
    /// How.
    pub settings: ProbeSettings,
    /// By how many connections, which take turns.
    pub paths: NonZeroU8,
    /// Options of its sockets.
    pub options: Arc<SocketOptions>,
    /// Where its measurements go.
    pub series: Arc<ProbeSeries>,
}

/// A target to be checked.
#[derive(Debug)]
pub struct NewWatch {
    /// Its number.
    pub target: TargetId,
    /// How.
    pub settings: WatchSettings,
    /// Where its measurements go.
    pub series: Arc<CheckSeries>,
}

/// A listener to be relayed from. One for each worker.
#[derive(Debug)]
pub struct NewRelay {
    /// Its number; the same on every worker.
    pub relay: TargetId,
    /// Where clients connect to.
    pub socket: Socket,
    /// Nobody else accepts from this socket: whoever waits there is accepted before it is closed.
    pub is_only_ours: bool,
    /// How they are relayed.
    pub settings: RelaySettings,
    /// Options of the sockets to upstreams.
    pub options: Arc<SocketOptions>,
    /// Where its measurements go.
    pub series: Arc<RelaySeries>,
}

/// A sweep of half-open checks.
#[derive(Debug)]
pub struct NewSweep {
    /// Its number.
    pub sweep: TargetId,
    /// How.
    pub settings: SweepSettings,
    /// Where its results go; it pauses while this is full.
    pub results: Results,
}

/// A share of a load.
#[derive(Debug)]
pub struct NewLoad {
    /// Its number.
    pub load: TargetId,
    /// How.
    pub settings: LoadSettings,
    /// Options of its sockets.
    pub options: SocketOptions,
    /// Where its measurements go.
    pub series: Arc<LoadSeries>,
}

/// Results of a sweep on their way to their reader, many at a time. None is dropped.
pub type Results = SyncSender<Vec<CheckResult>>;

/// What a worker tells the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A target's name is to be resolved again.
    Resolve(TargetId),
    /// A target sent its last probe, and all of them are settled; or a sweep is over, and all of
    /// its results were handed over; or a relay accepts no more, and its last connection is over;
    /// or every connection of a share of a load is finished.
    Finished(TargetId),
    /// A worker died; its error was logged.
    Died,
}

/// Hands changes to a worker, from anywhere.
#[derive(Clone, Debug)]
pub struct Remote {
    changes: SyncSender<Change>,
    waker: Waker,
}

impl Remote {
    /// Hands a change over; waits while the worker has `changes_max` of them unread.
    pub fn change(&self, change: Change) {
        // A worker that died has said so itself.
        if self.changes.send(change).is_ok() {
            self.waker.wake();
        }
    }
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    remote: Remote,
    thread: JoinHandle<()>,
    /// The backend it runs on.
    pub io_name: &'static str,
}

impl Worker {
    /// Starts a thread. Its I/O is opened there, because a ring belongs to one thread.
    ///
    /// # Errors
    /// If the thread, its I/O, its CPU or its priority cannot be had; the message names the flag.
    pub fn start(
        options: WorkerOptions,
        outlets: Outlets,
        series: Arc<WorkerSeries>,
    ) -> io::Result<Self> {
        let (changes, incoming) = sync_channel(options.changes_max);
        let (opened, opening) = sync_channel(1);
        let thread = std::thread::Builder::new().name(options.name.clone()).spawn(move || {
            let busy_poll = options.io.busy_poll;
            let io = match prepare_thread(options) {
                Ok(io) => io,
                Err(error) => return drop(opened.send(Err(error))),
            };
            if opened.send(Ok((io.waker(), io.name()))).is_ok() {
                turn::run(Turn::new(io, outlets, incoming), &series, busy_poll);
            }
        })?;
        let gone = || io::Error::other("the measuring thread ended while it started");
        let (waker, io_name) = opening.recv().map_err(|_| gone())??;
        Ok(Self { remote: Remote { changes, waker }, thread, io_name })
    }

    /// See [`Remote::change`].
    pub fn change(&self, change: Change) {
        self.remote.change(change);
    }

    /// Something that hands changes over after this value was moved.
    #[must_use]
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Stops the worker and waits for it.
    pub fn stop(self) {
        self.change(Change::Stop);
        if self.thread.join().is_err() {
            tracing::error!("a measuring thread panicked");
        }
    }
}

/// Makes the calling thread a measuring thread.
fn prepare_thread(options: WorkerOptions) -> io::Result<Io> {
    let named = |flag: String, remedy: &str| {
        let remedy = remedy.to_owned();
        move |error: io::Error| io::Error::new(error.kind(), format!("{flag}: {error}; {remedy}"))
    };
    if let Some(cpu) = options.cpu {
        let remedy = "name a CPU that this process may use (nproc, taskset -p $$)";
        sys::pin(cpu).map_err(named(format!("--pin {cpu}"), remedy))?;
    }
    if let Some(priority) = options.priority {
        let remedy = "grant CAP_SYS_NICE (setcap cap_sys_nice+ep) or leave the flag out";
        sys::set_priority(priority).map_err(named(format!("--priority {priority}"), remedy))?;
    }
    sys::precise_sleep();
    if let Err(error) = sys::wake_promptly() {
        tracing::debug!(%error, "the measuring thread keeps its time slice");
    }
    let (mut io, refused) = Io::open(&options.io)?;
    if let Some(error) = refused {
        tracing::debug!(%error, "io_uring is not available; using readiness");
    }
    if let Some(checks) = options.checks {
        io.enable_checks(checks)?;
    }
    // Ring, priority and CPU are had.
    sys::drop_all_capabilities_but(Kept::Interfaces)?;
    Ok(io)
}
