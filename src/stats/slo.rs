//! Objectives and their exact counters: finished samples in, total and good probes out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::Boundaries;

/// One objective, counted exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// The `slo` label.
    pub name: String,
    /// A probe is good if it was received and took at most this.
    pub threshold_ns: u64,
    /// Wanted share of good probes, in (0, 1).
    pub objective_ratio: f64,
    /// Which of its times is held against the threshold.
    pub clock: ObjectiveClock,
}

/// Which time of a probe or check an objective is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ObjectiveClock {
    /// The round trip by the best clock that the probe had.
    #[default]
    Best,
    /// The round trip by the kernel's clocks or the network card's. A probe that was answered but
    /// has none of these is neither good nor bad: it is not counted.
    Kernel,
    /// What an application waits, counted from the due time.
    Application,
}

/// The times that a finished probe or check can be judged by, in ns.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// By the best clock.
    pub(super) best_ns: Option<u64>,
    /// By the best clock, unless that is the application's.
    pub(super) kernel_ns: Option<u64>,
    /// From the due time until the application knew the answer.
    pub(super) application_ns: Option<u64>,
}

/// The objectives of a prober, and the histogram boundaries that hold their thresholds; shared by
/// all its series.
#[derive(Debug)]
pub struct Objectives {
    pub(super) list: Box<[Objective]>,
    pub(super) boundaries: Arc<Boundaries>,
}

/// One objective of one target at one moment; `good ≤ total`.
#[derive(Clone, Debug, PartialEq)]
pub struct SloSnapshot {
    /// Which one.
    pub objective: Objective,
    /// Finished probes that count (see [`ObjectiveClock::Kernel`]).
    pub total: u64,
    /// Those answered within the threshold.
    pub good: u64,
}

/// Exact counters of one objective of one target, with a single writer.
#[derive(Debug, Default)]
pub(super) struct SloCounters {
    total: AtomicU64,
    good: AtomicU64,
}

impl Objectives {
    /// These, with a classic bucket that ends at each threshold.
    #[must_use]
    pub fn new(list: Vec<Objective>) -> Self {
        let thresholds_ns: Vec<u64> = list.iter().map(|slo| slo.threshold_ns).collect();
        Self { boundaries: Arc::new(Boundaries::new(&thresholds_ns)), list: list.into() }
    }

    /// The same, but classic buckets end only at these and at the thresholds.
    #[must_use]
    pub fn with_buckets(self, ends_ns: &[u64]) -> Self {
        let thresholds_ns = self.list.iter().map(|slo| slo.threshold_ns);
        let ends_ns: Vec<u64> = ends_ns.iter().copied().chain(thresholds_ns).collect();
        Self { boundaries: Arc::new(Boundaries::only(&ends_ns)), ..self }
    }

    /// Counts one finished probe in each of `counters`; `answered` is `None` unless it was answered
    /// as it should.
    pub(super) fn record(&self, counters: &[SloCounters], answered: Option<Times>) {
        for (slo, objective) in counters.iter().zip(&self.list) {
            if let Some(good) = answered.map_or(Some(false), |times| objective.judge(&times)) {
                slo.record(good);
            }
        }
    }

    /// Unused counters, one for each objective.
    pub(super) fn counters(&self) -> Box<[SloCounters]> {
        self.list.iter().map(|_| SloCounters::default()).collect()
    }

    /// What these counted, in the order of the configuration.
    pub(super) fn snapshots(&self, counters: &[SloCounters]) -> Vec<SloSnapshot> {
        let slos = counters.iter().zip(&self.list);
        slos.map(|(counters, objective)| counters.snapshot(objective)).collect()
    }
}

impl Objective {
    /// Whether a probe that was answered is good; `None` if it does not count.
    fn judge(&self, times: &Times) -> Option<bool> {
        let within = |ns: u64| ns <= self.threshold_ns;
        match self.clock {
            ObjectiveClock::Best => Some(times.best_ns.is_some_and(within)),
            ObjectiveClock::Kernel => times.kernel_ns.map(within),
            ObjectiveClock::Application => Some(times.application_ns.is_some_and(within)),
        }
    }
}

impl SloCounters {
    fn record(&self, good: bool) {
        // Load and store suffice, as nobody else stores. Whoever sees a probe as good (Release)
        // also sees it in the total, which is stored before.
        self.total.store(self.total.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let good = self.good.load(Ordering::Relaxed) + u64::from(good);
        self.good.store(good, Ordering::Release);
    }

    fn snapshot(&self, objective: &Objective) -> SloSnapshot {
        // `good` first: the total read afterwards can only be larger.
        let good = self.good.load(Ordering::Acquire);
        let total = self.total.load(Ordering::Relaxed);
        SloSnapshot { objective: objective.clone(), total, good }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_of_ones_own_take_the_place_of_the_steps_but_not_of_thresholds() {
        let objective = Objective {
            name: "a".to_owned(),
            threshold_ns: 100,
            objective_ratio: 0.9,
            clock: ObjectiveClock::Best,
        };
        let ends = |objectives: Objectives| {
            let histogram = crate::histogram::Histogram::new(objectives.boundaries);
            histogram.record(150);
            histogram.snapshot().classic
        };
        let objectives = || Objectives::new(vec![objective.clone()]);
        let only = objectives().with_buckets(&[200, 50, 100]);
        assert_eq!(ends(only), [(50, 0), (100, 0), (200, 1)]);
        assert_eq!(ends(objectives().with_buckets(&[])), [(100, 0)]);
        assert_eq!(ends(Objectives::new(Vec::new()).with_buckets(&[])), []);
        assert!(ends(objectives()).len() > 20);
    }

    fn times(best_ns: u64, kernel: bool, application_ns: u64) -> Option<Times> {
        Some(Times {
            best_ns: Some(best_ns),
            kernel_ns: kernel.then_some(best_ns),
            application_ns: Some(application_ns),
        })
    }

    /// `(total, good)` of an objective of 100 ns after these.
    fn check(clock: ObjectiveClock, finished: &[Option<Times>], expected: (u64, u64)) {
        let objective =
            Objective { name: "a".to_owned(), threshold_ns: 100, objective_ratio: 0.9, clock };
        let objectives = Objectives::new(vec![objective]);
        let counters = objectives.counters();
        finished.iter().for_each(|&times| objectives.record(&counters, times));
        let snapshot = &objectives.snapshots(&counters)[0];
        assert_eq!((snapshot.total, snapshot.good), expected, "{clock:?} {finished:?}");
    }

    #[test]
    fn each_clock_judges_by_its_own_time() {
        use ObjectiveClock::{Application, Best, Kernel};
        let fast_below_slow_above = times(100, true, 101);
        for (clock, good) in [(Best, 1), (Kernel, 1), (Application, 0)] {
            check(clock, &[fast_below_slow_above], (1, good));
        }
        for clock in [Best, Kernel, Application] {
            check(clock, &[times(101, true, 101)], (1, 0));
            check(clock, &[None, times(100, true, 100), None], (3, 1));
        }
    }

    #[test]
    fn what_no_kernel_clock_saw_is_neither_good_nor_bad_by_it() {
        let unstamped = times(100, false, 100);
        check(ObjectiveClock::Kernel, &[unstamped, None], (1, 0));
        check(ObjectiveClock::Best, &[unstamped, None], (2, 1));
        let without_any = Some(Times { best_ns: None, kernel_ns: None, application_ns: Some(50) });
        check(ObjectiveClock::Kernel, &[without_any], (0, 0));
        check(ObjectiveClock::Best, &[without_any], (1, 0));
        check(ObjectiveClock::Application, &[without_any], (1, 1));
    }
}
