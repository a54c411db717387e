//! Relays as a worker runs them, with real clients and upstreams, on every backend. A binary of its
//! own: thousands of relayed connections take all descriptors that a process may have.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

mod behaviour;
mod faults;

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use rttscope::relay::balance::Policy;
use rttscope::relay::{RelaySettings, Upstream};
use rttscope::sample::{CloseReason, RelayCounters, UpstreamCounters, UpstreamId};
use rttscope::stats::{RelaySeries, RelaySnapshot, Stats, WorkerSeries};
use rttscope::sys::{Io, IoChoice, IoOptions, clock, socket};
use rttscope::worker::{
    Change, Finished, NewRelay, Outlets, Report, TargetId, Worker, WorkerOptions,
};

/// A worker that relays.
struct Rig {
    worker: Worker,
    series: Arc<RelaySeries>,
    reports: tokio::sync::mpsc::Receiver<Report>,
    samples: Receiver<(TargetId, Finished)>,
    stats: Arc<Stats>,
    to: SocketAddr,
}

const RELAY: TargetId = TargetId(7);

impl Rig {
    fn start(backend: IoChoice, settings: RelaySettings) -> Self {
        let stats = Arc::new(Stats::default());
        let (reports, told) = tokio::sync::mpsc::channel(16);
        let (samples, finished) = sync_channel(100_000);
        let outlets = Outlets { reports, samples: Some(samples), stats: Arc::clone(&stats) };
        let options = WorkerOptions {
            name: "relay".to_owned(),
            io: IoOptions { backend, ..IoOptions::default() },
            cpu: None,
            priority: None,
            checks: None,
            changes_max: 16,
        };
        let worker = Worker::start(options, outlets, Arc::new(WorkerSeries::new("0"))).unwrap();
        let socket = socket::listener((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
        let to = socket.local_addr().unwrap().as_socket().unwrap();
        let names = (0..settings.upstreams.len()).map(|number| number.to_string());
        let series = stats.add_relay(RelaySeries::new("relay", names));
        worker.change(Change::Relay(Box::new(NewRelay {
            relay: RELAY,
            socket,
            is_only_ours: true,
            settings,
            options: Arc::default(),
            series: Arc::clone(&series),
        })));
        Self { worker, series, reports: told, samples: finished, stats, to }
    }

    fn connect(&self) -> TcpStream {
        patient(TcpStream::connect(self.to).unwrap())
    }

    fn snapshot(&self) -> RelaySnapshot {
        self.series.snapshot()
    }

    fn counters(&self) -> RelayCounters {
        self.snapshot().counters
    }

    fn upstream(&self, number: usize) -> UpstreamCounters {
        self.snapshot().upstreams[number].counters
    }

    /// Waits until the relay shows something; a minute is for ever here.
    fn wait_until(&self, what: &str, done: impl Fn(&RelaySnapshot) -> bool) -> RelaySnapshot {
        let patience = clock::mono().after(Duration::from_secs(60));
        loop {
            let snapshot = self.snapshot();
            if done(&snapshot) {
                return snapshot;
            }
            assert!(clock::mono() < patience, "never {what}: {snapshot:?}");
            std::thread::park_timeout(Duration::from_millis(1));
        }
    }
}

/// One upstream at each of these addresses, and nothing unusual.
fn settings(upstreams: &[SocketAddr]) -> RelaySettings {
    let upstream = |to: &SocketAddr| Upstream { addresses: vec![*to], draining: false };
    RelaySettings {
        upstreams: upstreams.iter().map(upstream).collect(),
        policy: Policy::RoundRobin,
        connections_max: 100_000,
        connect_timeout_ns: 60_000_000_000,
        attempts_max: 3,
        idle_timeout_ns: None,
        proxy_in: false,
        proxy_out: None,
        failures_max: 3,
        failed_hold_ns: 1_000_000_000,
        seed: 1,
    }
}

fn on_every_backend(script: impl Fn(IoChoice)) {
    script(IoChoice::Poll);
    let uring = IoOptions { backend: IoChoice::Uring, ..IoOptions::default() };
    if Io::open(&uring).is_ok() {
        script(IoChoice::Uring);
    }
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    (listener, to)
}

/// Waits for ever, as far as a test is concerned.
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

/// Accepts in time.
fn accept(listener: &TcpListener) -> TcpStream {
    patient(listener.accept().unwrap().0)
}

/// The sum of everything that ended.
fn closed(counters: &RelayCounters) -> u64 {
    CloseReason::ALL.iter().map(|reason| counters.closed(*reason)).sum()
}
