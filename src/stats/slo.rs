//! Objectives and their exact counters: finished samples in, total and good probes out.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::histogram::Boundaries;

/// One objective, counted exactly.
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// The `slo` label.
    pub name: String,
    /// A probe is good if it was received and its RTT by the best clock is at most this.
    pub threshold_ns: u64,
    /// Wanted share of good probes, in (0, 1).
    pub objective_ratio: f64,
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
    /// Finished probes.
    pub total: u64,
    /// Those received within the threshold.
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
}

impl SloCounters {
    pub(super) fn record(&self, good: bool) {
        // Load and store suffice, as nobody else stores. Whoever sees a probe as good (Release)
        // also sees it in the total, which is stored before.
        self.total.store(self.total.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let good = self.good.load(Ordering::Relaxed) + u64::from(good);
        self.good.store(good, Ordering::Release);
    }

    pub(super) fn snapshot(&self, objective: &Objective) -> SloSnapshot {
        // `good` first: the total read afterwards can only be larger.
        let good = self.good.load(Ordering::Acquire);
        let total = self.total.load(Ordering::Relaxed);
        SloSnapshot { objective: objective.clone(), total, good }
    }
}
