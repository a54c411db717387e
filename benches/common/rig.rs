//! Our responder and our prober in this process, as `app` wires them, without its control plane.
//! Settings flow in; running workers, their samples and their series flow out.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use rttscope::config::limits;
use rttscope::echo::ResponderSettings;
use rttscope::probe::{ProbeSettings, Wire};
use rttscope::sample::Sample;
use rttscope::schedule;
use rttscope::stats::slo::Objectives;
use rttscope::stats::{EchoSeries, ProbeSeries, Stats, WorkerSeries};
use rttscope::sys::socket::{self, SocketOptions};
use rttscope::sys::{IoChoice, IoOptions};
use rttscope::time::{NS_PER_SECOND, duration_ns};
use rttscope::worker::{
    Change, Finished, NewProbe, Outlets, Report, TargetId, Worker, WorkerOptions,
};
use tokio::sync::mpsc;

/// The CPU of the measuring side, and of its peers.
pub(crate) const PROBER_CPU: usize = 0;
/// See [`PROBER_CPU`]; the same one on a machine with a single CPU.
pub(crate) const PEER_CPU: usize = 1;

/// One way of measuring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) io: IoChoice,
    pub(crate) wire: Wire,
    /// Kernel stamps at both ends; a responder takes none for v1.
    pub(crate) stamps: bool,
}

impl Way {
    pub(crate) fn name(self) -> String {
        let io = if self.io == IoChoice::Poll { "poll" } else { "uring" };
        let wire = if self.wire == Wire::V1 { "v1" } else { "v3" };
        format!("{io} {wire}, stamps {}", if self.stamps { "on" } else { "off" })
    }
}

/// A worker, and the far ends of its channels.
pub(crate) struct Running {
    worker: Worker,
    pub(crate) reports: mpsc::Receiver<Report>,
    samples: Receiver<(TargetId, Finished)>,
}

impl Running {
    fn start(
        name: &str,
        way: Way,
        cpu: usize,
        reports_max: usize,
        samples_max: usize,
    ) -> io::Result<Self> {
        let (to_reports, reports) = mpsc::channel(reports_max);
        let (to_samples, samples) = sync_channel(samples_max.max(1));
        let samples_wanted = (samples_max > 0).then_some(to_samples);
        let stats = Arc::new(Stats::default());
        let outlets = Outlets { reports: to_reports, samples: samples_wanted, stats };
        let cpus = std::thread::available_parallelism()?.get();
        let options = WorkerOptions {
            name: name.to_owned(),
            io: IoOptions { backend: way.io, stamps: way.stamps, ..IoOptions::default() },
            cpu: Some(cpu.min(cpus - 1)),
            priority: None,
            checks: None,
            changes_max: limits::CHANGES_MAX,
        };
        let worker = Worker::start(options, outlets, Arc::new(WorkerSeries::new(name)))?;
        Ok(Self { worker, reports, samples })
    }

    /// Stops the thread; the samples that it sent.
    pub(crate) fn stop(mut self) -> io::Result<Vec<Sample>> {
        self.worker.stop();
        while let Ok(report) = self.reports.try_recv() {
            if report == Report::Died {
                return Err(io::Error::other("a measuring thread died"));
            }
        }
        let probes = self.samples.try_iter().filter_map(|(_, finished)| match finished {
            Finished::Probe(sample) => Some(sample),
            Finished::Check(_) | Finished::Connection(_) => None,
        });
        Ok(probes.collect())
    }
}

/// Starts a responder on a free port of the loopback interface.
pub(crate) fn respond(way: Way) -> io::Result<(Running, SocketAddr)> {
    let responder = Running::start("bench-echo", way, PEER_CPU, 16, 0)?;
    let listener = socket::listener((Ipv4Addr::LOCALHOST, 0).into(), false)?;
    let at = listener.local_addr()?.as_socket().expect("it was bound to one");
    let settings = ResponderSettings {
        idle_timeout_ns: 600 * NS_PER_SECOND,
        connections_max: limits::CONNECTIONS_MAX,
        stamps_wanted: way.stamps,
    };
    let series = Arc::new(EchoSeries::new(at.to_string()));
    responder.worker.change(Change::Serve(listener, settings, series));
    Ok((responder, at))
}

/// What is probed and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    pub(crate) targets: usize,
    pub(crate) interval_ns: u64,
    pub(crate) timeout: Duration,
    /// Stop after this many probes of each target, and keep their samples.
    pub(crate) count: Option<u64>,
}

/// Starts a prober of that many targets, all of them this responder.
pub(crate) fn probe(
    way: Way,
    at: SocketAddr,
    load: Load,
) -> io::Result<(Running, Vec<Arc<ProbeSeries>>)> {
    let samples_max = usize::try_from(load.count.unwrap_or(0)).expect("a short bench");
    let prober =
        Running::start("bench-probe", way, PROBER_CPU, 2 * load.targets + 16, samples_max)?;
    let objectives = Arc::new(Objectives::new(Vec::new()));
    let options = Arc::new(SocketOptions::default());
    let mut all = Vec::with_capacity(load.targets);
    for number in 0..load.targets {
        let name = number.to_string();
        let series = ProbeSeries::new(name, at.to_string(), Vec::new(), Arc::clone(&objectives));
        let series = Arc::new(series);
        all.push(Arc::clone(&series));
        prober.worker.change(Change::Probe(Box::new(NewProbe {
            target: TargetId(u32::try_from(number).expect("at most a few thousand")),
            settings: settings(way, at, load, number),
            paths: std::num::NonZeroU8::MIN,
            options: Arc::clone(&options),
            series,
        })));
    }
    Ok((prober, all))
}

fn settings(way: Way, at: SocketAddr, load: Load, number: usize) -> ProbeSettings {
    ProbeSettings {
        interval_ns: load.interval_ns,
        phase_ns: schedule::phase_ns(number, load.interval_ns),
        timeout_ns: duration_ns(load.timeout),
        adaptive: false,
        window: 100,
        count: load.count,
        stop_at: None,
        wire: way.wire,
        padding_bytes: 0,
        stamps_wanted: way.stamps,
        resolve_interval_ns: None,
        in_flight_max: limits::IN_FLIGHT_MAX,
        addresses: vec![at],
    }
}
