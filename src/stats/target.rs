//! What the series of probed and of checked targets have in common: who it is, how it is, what was
//! promised, and what it went through. Finished probes in, what [`super::watched`] and the
//! snapshots show of every target out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::history::History;
use super::slo::{Objectives, SloCounters, SloSnapshot, Times};
use super::{LazyHistogram, snapshots};
use crate::histogram::{Boundaries, HistogramSnapshot};

/// The common part of a target's series.
#[derive(Debug)]
pub struct TargetSeries {
    name: String,
    address: String,
    labels: Vec<(String, String)>,
    objectives: Arc<Objectives>,
    slos: Box<[SloCounters]>,
    /// Whether the newest finished probe was answered as it should be.
    up: AtomicBool,
    resolve_failures: AtomicU64,
    /// Kept if somebody can look at it.
    history: Option<Box<History>>,
}

/// Round trips, each by the best clock that it had. A clock is its index among `CLOCKS`.
#[derive(Debug)]
pub(super) struct RoundTrips<const CLOCKS: usize> {
    by_clock: [LazyHistogram; CLOCKS],
    /// The newest one's clock; beyond the end while there is none.
    newest: AtomicUsize,
}

impl TargetSeries {
    pub(super) fn new(
        name: String,
        address: String,
        labels: Vec<(String, String)>,
        objectives: Arc<Objectives>,
    ) -> Self {
        Self {
            name,
            address,
            labels,
            slos: objectives.counters(),
            objectives,
            up: AtomicBool::new(false),
            resolve_failures: AtomicU64::new(0),
            history: None,
        }
    }

    pub(super) fn with_labels(self, labels: Vec<(String, String)>) -> Self {
        Self { labels, ..self }
    }

    pub(super) fn with_history(self, newest_max: usize) -> Self {
        Self { history: Some(Box::new(History::new(newest_max))), ..self }
    }

    /// The `target` label; empty for a probe on demand, of which only who asked is told.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The `address` label.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Counts a failed resolution of the target's name. For the control plane.
    pub fn count_resolve_failure(&self) {
        self.resolve_failures.fetch_add(1, Ordering::Relaxed);
    }

    /// Judges a finished probe; `None` unless it was answered as it should be.
    pub(super) fn judge(&self, answered: Option<Times>) {
        self.objectives.record(&self.slos, answered);
        self.up.store(answered.is_some(), Ordering::Relaxed);
    }

    pub(super) fn labels(&self) -> &[(String, String)] {
        &self.labels
    }

    pub(super) fn boundaries(&self) -> &Arc<Boundaries> {
        &self.objectives.boundaries
    }

    pub(super) fn slos(&self) -> Vec<SloSnapshot> {
        self.objectives.snapshots(&self.slos)
    }

    pub(super) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(super) fn resolve_failures(&self) -> u64 {
        self.resolve_failures.load(Ordering::Relaxed)
    }

    pub(super) fn history(&self) -> Option<&History> {
        self.history.as_deref()
    }
}

impl<const CLOCKS: usize> Default for RoundTrips<CLOCKS> {
    fn default() -> Self {
        let by_clock = std::array::from_fn(|_| LazyHistogram::default());
        Self { by_clock, newest: AtomicUsize::new(usize::MAX) }
    }
}

impl<const CLOCKS: usize> RoundTrips<CLOCKS> {
    pub(super) fn record(&self, boundaries: &Arc<Boundaries>, clock: usize, ns: u64) {
        self.by_clock[clock].record(boundaries, ns);
        self.newest.store(clock, Ordering::Relaxed);
    }

    /// The clock of the newest one.
    pub(super) fn newest<C: Copy>(&self, clocks: [C; CLOCKS]) -> Option<C> {
        clocks.get(self.newest.load(Ordering::Relaxed)).copied()
    }

    /// Those of the clocks that were in use.
    pub(super) fn snapshots<C: Copy>(&self, clocks: [C; CLOCKS]) -> Vec<(C, HistogramSnapshot)> {
        snapshots(clocks, &self.by_clock)
    }

    /// The same, whatever the clocks.
    pub(super) fn histograms(&self) -> Vec<HistogramSnapshot> {
        self.by_clock.iter().filter_map(LazyHistogram::snapshot).collect()
    }
}
