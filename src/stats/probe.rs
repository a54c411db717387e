//! What one target's echo probes are measured into, and how that looks at one moment.

use std::sync::Arc;

use super::published::Published;
use super::slo::{Objectives, SloSnapshot, Times};
use super::target::{RoundTrips, TargetSeries};
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
    target: TargetSeries,
    counters: Published<{ ProbeCounters::WORDS }>,
    /// By the index in [`Clock::ALL`].
    rtt: RoundTrips<{ Clock::ALL.len() }>,
    app_rtt: LazyHistogram,
    stages: [LazyHistogram; Stage::ALL.len()],
    tcp_info: TcpInfoSeries,
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
            target: TargetSeries::new(target.into(), address.into(), labels, objectives),
            counters: Published::default(),
            rtt: RoundTrips::default(),
            app_rtt: LazyHistogram::default(),
            stages: Default::default(),
            tcp_info: TcpInfoSeries::new(Members::default()),
        }
    }

    /// The same, which also remembers its newest probes, at most so many.
    #[must_use]
    pub fn with_history(self, probes_max: usize) -> Self {
        Self { target: self.target.with_history(probes_max), ..self }
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

    /// What it has in common with the series of checks.
    #[must_use]
    pub const fn target(&self) -> &TargetSeries {
        &self.target
    }

    /// Shows these counters to readers from now on.
    pub fn publish(&self, counters: &ProbeCounters) {
        self.counters.publish(counters.to_words());
    }

    /// Records a finished probe.
    pub fn record(&self, sample: &Sample) {
        let boundaries = self.target.boundaries();
        let received = sample.outcome == Outcome::Received;
        if let (Some(clock), Some(rtt_ns)) = (sample.clock, sample.rtt_ns) {
            self.rtt.record(boundaries, clock as usize, rtt_ns);
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
        self.target.judge(received.then_some(times));
        if let Some(history) = self.target.history() {
            history.record(sample);
        }
    }

    pub(super) fn counters(&self) -> ProbeCounters {
        ProbeCounters::from_words(self.counters.read())
    }

    pub(super) const fn rtt(&self) -> &RoundTrips<{ Clock::ALL.len() }> {
        &self.rtt
    }

    /// The state now. The counters are one consistent set, each histogram and each objective is
    /// consistent in itself; between those, samples of the last moment may be missing.
    #[must_use]
    pub fn snapshot(&self) -> ProbeSnapshot {
        ProbeSnapshot {
            app_rtt: self.app_rtt.snapshot(),
            stages: snapshots(Stage::ALL, &self.stages),
            slos: self.target.slos(),
            tcp_info: self.tcp_info.snapshot(),
            ..self.glance()
        }
    }

    /// The same without objectives and TCP_INFO, and with round trips as the only histograms.
    #[must_use]
    pub fn glance(&self) -> ProbeSnapshot {
        ProbeSnapshot {
            target: self.target.name().to_owned(),
            address: self.target.address().to_owned(),
            labels: self.target.labels().to_vec(),
            counters: self.counters(),
            up: self.target.is_up(),
            newest_clock: self.rtt.newest(Clock::ALL),
            rtt: self.rtt.snapshots(Clock::ALL),
            app_rtt: None,
            stages: Vec::new(),
            slos: Vec::new(),
            resolve_failures: self.target.resolve_failures(),
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
