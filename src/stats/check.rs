//! What one target's half-open checks are measured into, and how that looks at one moment.

use std::sync::Arc;

use super::LazyHistogram;
use super::published::Published;
use super::slo::{Objectives, SloSnapshot, Times};
use super::target::{RoundTrips, TargetSeries};
use crate::histogram::HistogramSnapshot;
use crate::loss;
use crate::sample::{CheckClock, CheckCounters, CheckOutcome, CheckSample, Method};

/// What one checked target is measured into. The worker that owns the target is the only one to
/// call [`Self::record`] and [`Self::publish`].
#[derive(Debug)]
pub struct CheckSeries {
    target: TargetSeries,
    method: Method,
    counters: Published<{ CheckCounters::WORDS }>,
    /// By the index in [`CheckClock::ALL`].
    rtt: RoundTrips<{ CheckClock::ALL.len() }>,
    elapsed: LazyHistogram,
    lag: LazyHistogram,
}

/// One checked target at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSnapshot {
    /// The `target` label.
    pub target: String,
    /// The `address` label.
    pub address: String,
    /// The user's labels.
    pub labels: Vec<(String, String)>,
    /// The `method` label.
    pub method: Method,
    /// One consistent set: `sent` is the sum of the outcomes and of `in_flight`.
    pub counters: CheckCounters,
    /// Whether the newest finished check was open; `false` before any.
    pub up: bool,
    /// The clock of the newest round trip.
    pub newest_clock: Option<CheckClock>,
    /// From the answered SYN to SYN-ACK or RST; clocks in use, best first.
    pub rtt: Vec<(CheckClock, HistogramSnapshot)>,
    /// From handing the SYN over until the answer was known; `None` while there is none.
    pub elapsed: Option<HistogramSnapshot>,
    /// From the due time until the SYN was handed over; `None` before any check.
    pub lag: Option<HistogramSnapshot>,
    /// The objectives, in the order of the configuration.
    pub slos: Vec<SloSnapshot>,
    /// Failed resolutions of the name.
    pub resolve_failures: u64,
}

impl CheckSeries {
    /// An empty series. Target, address and method together must be unique among all series.
    #[must_use]
    pub fn new(
        target: impl Into<String>,
        address: impl Into<String>,
        method: Method,
        objectives: Arc<Objectives>,
    ) -> Self {
        Self {
            target: TargetSeries::new(target.into(), address.into(), Vec::new(), objectives),
            method,
            counters: Published::default(),
            rtt: RoundTrips::default(),
            elapsed: LazyHistogram::default(),
            lag: LazyHistogram::default(),
        }
    }

    /// The same with the user's labels, as those of [`super::ProbeSeries::new`].
    #[must_use]
    pub fn with_labels(self, labels: Vec<(String, String)>) -> Self {
        Self { target: self.target.with_labels(labels), ..self }
    }

    /// The same, which also remembers its newest checks, at most so many.
    #[must_use]
    pub fn with_history(self, checks_max: usize) -> Self {
        Self { target: self.target.with_history(checks_max), ..self }
    }

    /// What it has in common with the series of echo probes.
    #[must_use]
    pub const fn target(&self) -> &TargetSeries {
        &self.target
    }

    /// Shows these counters to readers from now on.
    pub fn publish(&self, counters: &CheckCounters) {
        self.counters.publish(counters.to_words());
    }

    /// Records a finished check.
    pub fn record(&self, check: &CheckSample) {
        let boundaries = self.target.boundaries();
        let open = check.outcome == CheckOutcome::Open;
        if let (Some(clock), Some(rtt_ns)) = (check.clock, check.rtt_ns) {
            self.rtt.record(boundaries, clock as usize, rtt_ns);
        }
        // Where nobody answered, the time is our own timeout.
        if check.rtt_ns.is_some() || open {
            self.elapsed.record(boundaries, check.elapsed_ns);
        }
        let lag_ns = u64::try_from(check.tx_app.mono.since_ns(check.due)).unwrap_or(0);
        self.lag.record(boundaries, lag_ns);
        let by_the_kernel = check.clock.is_some_and(|clock| clock != CheckClock::Application);
        let times = Times {
            best_ns: check.rtt_ns,
            kernel_ns: check.rtt_ns.filter(|_| by_the_kernel),
            application_ns: Some(lag_ns.saturating_add(check.elapsed_ns)),
        };
        self.target.judge(open.then_some(times));
        if let Some(history) = self.target.history() {
            history.record_check(check);
        }
    }

    /// How it is checked.
    pub(super) const fn method(&self) -> Method {
        self.method
    }

    pub(super) fn counters(&self) -> CheckCounters {
        CheckCounters::from_words(self.counters.read())
    }

    pub(super) const fn rtt(&self) -> &RoundTrips<{ CheckClock::ALL.len() }> {
        &self.rtt
    }

    /// The state now; consistent as [`super::ProbeSeries::snapshot`] is.
    #[must_use]
    pub fn snapshot(&self) -> CheckSnapshot {
        CheckSnapshot {
            elapsed: self.elapsed.snapshot(),
            lag: self.lag.snapshot(),
            slos: self.target.slos(),
            ..self.glance()
        }
    }

    /// The same without objectives, and with round trips as the only histograms.
    #[must_use]
    pub fn glance(&self) -> CheckSnapshot {
        CheckSnapshot {
            target: self.target.name().to_owned(),
            address: self.target.address().to_owned(),
            labels: self.target.labels().to_vec(),
            method: self.method,
            counters: self.counters(),
            up: self.target.is_up(),
            newest_clock: self.rtt.newest(CheckClock::ALL),
            rtt: self.rtt.snapshots(CheckClock::ALL),
            elapsed: None,
            lag: None,
            slos: Vec::new(),
            resolve_failures: self.target.resolve_failures(),
        }
    }
}

impl CheckSnapshot {
    /// The last open check's round trip by its best clock; `None` before any.
    #[must_use]
    pub fn last_rtt_ns(&self) -> Option<u64> {
        (self.counters.last_rtt_ns > 0).then_some(self.counters.last_rtt_ns)
    }

    /// The share of checks in the window that were not open, in percent; `None` before any.
    #[must_use]
    pub fn loss_percent(&self) -> Option<f64> {
        loss::percent(self.counters.window_lost, self.counters.window_checks)
    }

    /// Round trips by every clock; `None` without any.
    #[must_use]
    pub fn rtt_merged(&self) -> Option<HistogramSnapshot> {
        HistogramSnapshot::merged(self.rtt.iter().map(|(_, histogram)| histogram))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::event::Failure;
    use crate::stats::slo::{Objective, ObjectiveClock};
    use crate::time::{Mono, Now, Wall};

    /// Sent 10 µs after its due time; the answer was known 60 µs later.
    fn sample(outcome: CheckOutcome, rtt_us: u64) -> CheckSample {
        let due = Mono::from_ns(1_000_000);
        let mono = due.after(Duration::from_micros(10));
        CheckSample {
            seq: 1,
            to: None,
            method: Method::Syn,
            outcome,
            due,
            tx_app: Now { mono, wall: Wall::from_ns(5) },
            clock: Some(CheckClock::Ebpf),
            rtt_ns: Some(rtt_us * 1_000),
            elapsed_ns: 60_000,
            syn_retransmits: 0,
            completed: false,
        }
    }

    #[test]
    fn a_check_is_good_if_it_is_open_and_quick_enough() {
        let objective = |threshold_us: u64, clock| Objective {
            name: format!("{threshold_us}us"),
            threshold_ns: threshold_us * 1_000,
            objective_ratio: 0.99,
            clock,
        };
        let objectives = Objectives::new(vec![
            objective(30, ObjectiveClock::Best),
            objective(70, ObjectiveClock::Application),
            objective(69, ObjectiveClock::Application),
        ]);
        let series = CheckSeries::new("t", "a:1", Method::Syn, Arc::new(objectives));
        for check in [
            sample(CheckOutcome::Open, 30),
            sample(CheckOutcome::Open, 31),
            sample(CheckOutcome::Failed(Failure::Refused), 5),
        ] {
            series.record(&check);
        }
        let snapshot = series.snapshot();
        let counts: Vec<_> = snapshot.slos.iter().map(|slo| (slo.total, slo.good)).collect();
        assert_eq!(counts, [(3, 1), (3, 2), (3, 0)]);
        // The bucket that ends at the threshold counts the same, and whoever refused besides.
        let classic = &snapshot.rtt[0].1.classic;
        assert!(classic.contains(&(30_000, 2)), "{classic:?}");
        assert!(classic.iter().any(|bucket| bucket.0 == 69_000), "{classic:?}");
        assert_eq!(series.glance().slos, []);
    }
}
