//! What one target's echo probes are measured into, and how that looks at one moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::history::History;
use super::published::Published;
use super::slo::{Objectives, SloCounters, SloSnapshot, Times};
use super::tcp_info::{TcpInfoSeries, TcpInfoSnapshot};
use super::{LazyHistogram, snapshots};
use crate::histogram::HistogramSnapshot;
use crate::loss;
use crate::sample::{Clock, Outcome, ProbeCounters, Sample, Stage};
use crate::tcp_info::Members;

/// What one probed target is measured into. The worker that owns the target is the only one to
/// call [`Self::record`] and [`Self::publish`].
#[derive(Debug)]
pub struct ProbeSeries {
    target: String,
    address: String,
    labels: Vec<(String, String)>,
    objectives: Arc<Objectives>,
    counters: Published<{ ProbeCounters::WORDS }>,
    /// Whether the newest finished probe was received.
    up: AtomicBool,
    /// Index in [`Clock::ALL`] of the newest round trip; beyond the end while there is none.
    newest_clock: AtomicUsize,
    rtt: [LazyHistogram; Clock::ALL.len()],
    app_rtt: LazyHistogram,
    stages: [LazyHistogram; Stage::ALL.len()],
    slos: Box<[SloCounters]>,
    resolve_failures: AtomicU64,
    tcp_info: TcpInfoSeries,
    /// Kept if somebody can look at it.
    history: Option<Box<History>>,
}

/// One target at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeSnapshot {
    /// The `target` label.
    pub target: String,
    /// The `address` label.
    pub address: String,
    /// The user's labels.
    pub labels: Vec<(String, String)>,
    /// One consistent set: `sent = received + timeouts + in_flight`.
    pub counters: ProbeCounters,
    /// Whether the newest finished probe was received; `false` before any.
    pub up: bool,
    /// The clock of the newest round trip.
    pub newest_clock: Option<Clock>,
    /// Round trips, each by the best clock it had; clocks in use, best first.
    pub rtt: Vec<(Clock, HistogramSnapshot)>,
    /// Round trips from the due time on; `None` while there is none.
    pub app_rtt: Option<HistogramSnapshot>,
    /// Stages that were ever measured, in path order.
    pub stages: Vec<(Stage, HistogramSnapshot)>,
    /// The objectives, in the order of the configuration.
    pub slos: Vec<SloSnapshot>,
    /// Failed resolutions of the name.
    pub resolve_failures: u64,
    /// What the kernel knows of the connection.
    pub tcp_info: TcpInfoSnapshot,
}

impl ProbeSeries {
    /// An empty series. Target, address and labels together must be unique among all series, and
    /// labels must not use a name of `metrics::RESERVED_LABELS`.
    #[must_use]
    pub fn new(
        target: impl Into<String>,
        address: impl Into<String>,
        labels: Vec<(String, String)>,
        objectives: Arc<Objectives>,
    ) -> Self {
        Self {
            target: target.into(),
            address: address.into(),
            labels,
            slos: objectives.counters(),
            objectives,
            counters: Published::default(),
            up: AtomicBool::new(false),
            newest_clock: AtomicUsize::new(usize::MAX),
            rtt: Default::default(),
            app_rtt: LazyHistogram::default(),
            stages: Default::default(),
            resolve_failures: AtomicU64::new(0),
            tcp_info: TcpInfoSeries::new(Members::default()),
            history: None,
        }
    }

    /// The same, which also remembers its newest probes, at most so many.
    #[must_use]
    pub fn with_history(self, probes_max: usize) -> Self {
        Self { history: Some(Box::new(History::new(probes_max))), ..self }
    }

    /// The same, which also shows these members of `TCP_INFO`.
    #[must_use]
    pub fn with_tcp_info(self, members: Members) -> Self {
        Self { tcp_info: TcpInfoSeries::new(members), ..self }
    }

    /// What the kernel knows of the connection; `None` if none of it is to be shown.
    #[must_use]
    pub fn tcp_info(&self) -> Option<&TcpInfoSeries> {
        Some(&self.tcp_info).filter(|series| !series.is_empty())
    }

    /// The `target` label.
    #[must_use]
    pub fn target(&self) -> &str {
        &self.target
    }

    /// The `address` label.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Shows these counters to readers from now on.
    pub fn publish(&self, counters: &ProbeCounters) {
        self.counters.publish(counters.to_words());
    }

    /// Records a finished probe.
    pub fn record(&self, sample: &Sample) {
        let boundaries = &self.objectives.boundaries;
        let received = sample.outcome == Outcome::Received;
        if let (Some(clock), Some(rtt_ns)) = (sample.clock, sample.rtt_ns) {
            self.rtt[clock as usize].record(boundaries, rtt_ns);
            self.newest_clock.store(clock as usize, Ordering::Relaxed);
        }
        if let Some(app_rtt_ns) = sample.app_rtt_ns {
            self.app_rtt.record(boundaries, app_rtt_ns);
        }
        for (histogram, stage) in self.stages.iter().zip(Stage::ALL) {
            if let Some(ns) = sample.stage_ns(stage) {
                histogram.record(boundaries, ns);
            }
        }
        let by_the_kernel = sample.clock.is_some_and(|clock| clock != Clock::Application);
        let times = Times {
            best_ns: sample.rtt_ns,
            kernel_ns: sample.rtt_ns.filter(|_| by_the_kernel),
            application_ns: sample.app_rtt_ns,
        };
        self.objectives.record(&self.slos, received.then_some(times));
        self.up.store(received, Ordering::Relaxed);
        if let Some(history) = &self.history {
            history.record(sample);
        }
    }

    /// Counts a failed resolution of the target's name. For the control plane.
    pub fn count_resolve_failure(&self) {
        self.resolve_failures.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn counters(&self) -> ProbeCounters {
        ProbeCounters::from_words(self.counters.read())
    }

    pub(super) fn labels(&self) -> &[(String, String)] {
        &self.labels
    }

    pub(super) fn newest_clock(&self) -> Option<Clock> {
        Clock::ALL.get(self.newest_clock.load(Ordering::Relaxed)).copied()
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn history(&self) -> Option<&History> {
        self.history.as_deref()
    }

    /// Round trips, by the index of their clock.
    pub(super) fn rtt_snapshots(&self) -> Vec<Option<HistogramSnapshot>> {
        self.rtt.iter().map(LazyHistogram::snapshot).collect()
    }

    pub(super) fn slos(&self) -> Vec<SloSnapshot> {
        self.objectives.snapshots(&self.slos)
    }

    pub(super) fn resolve_failures(&self) -> u64 {
        self.resolve_failures.load(Ordering::Relaxed)
    }

    /// The state now. The counters are one consistent set, each histogram and each objective is
    /// consistent in itself; between those, samples of the last moment may be missing.
    #[must_use]
    pub fn snapshot(&self) -> ProbeSnapshot {
        ProbeSnapshot {
            app_rtt: self.app_rtt.snapshot(),
            stages: snapshots(Stage::ALL, &self.stages),
            slos: self.slos(),
            tcp_info: self.tcp_info.snapshot(),
            ..self.glance()
        }
    }

    /// The same without objectives and TCP_INFO, and with round trips as the only histograms.
    #[must_use]
    pub fn glance(&self) -> ProbeSnapshot {
        ProbeSnapshot {
            target: self.target.clone(),
            address: self.address.clone(),
            labels: self.labels.clone(),
            counters: self.counters(),
            up: self.is_up(),
            newest_clock: self.newest_clock(),
            rtt: snapshots(Clock::ALL, &self.rtt),
            app_rtt: None,
            stages: Vec::new(),
            slos: Vec::new(),
            resolve_failures: self.resolve_failures(),
            tcp_info: TcpInfoSnapshot::default(),
        }
    }
}

impl ProbeSnapshot {
    /// The last reply's round trip by its best clock; `None` while nothing was received.
    #[must_use]
    pub fn last_rtt_ns(&self) -> Option<u64> {
        (self.counters.received > 0).then_some(self.counters.last_rtt_ns)
    }

    /// Loss over the window in percent; `None` before any probe finished.
    #[must_use]
    pub fn loss_percent(&self) -> Option<f64> {
        loss::percent(self.counters.window_lost, self.counters.window_probes)
    }

    /// Round trips of all received probes, each by the best clock it had; `None` without any.
    #[must_use]
    pub fn rtt_merged(&self) -> Option<HistogramSnapshot> {
        HistogramSnapshot::merged(self.rtt.iter().map(|(_, histogram)| histogram))
    }

    /// One stage, if it was ever measured.
    #[must_use]
    pub fn stage(&self, wanted: Stage) -> Option<&HistogramSnapshot> {
        self.stages.iter().find(|(stage, _)| *stage == wanted).map(|(_, histogram)| histogram)
    }
}
