//! What one worker's responder is measured into, and how that looks at one moment.

use std::sync::Arc;

use super::LazyHistogram;
use super::published::Published;
use crate::histogram::{Boundaries, HistogramSnapshot};
use crate::sample::EchoCounters;

/// What one worker's responder measures into for one listener.
#[derive(Debug)]
pub struct EchoSeries {
    listener: String,
    boundaries: Arc<Boundaries>,
    counters: Published<{ EchoCounters::WORDS }>,
    residence: LazyHistogram,
}

/// One listener at one moment, summed over its workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EchoSnapshot {
    /// The `listener` label.
    pub listener: String,
    /// What was counted.
    pub counters: EchoCounters,
    /// Kernel receive to kernel send; `None` while there is none.
    pub residence: Option<HistogramSnapshot>,
}

impl EchoSeries {
    /// An empty series of this listener.
    #[must_use]
    pub fn new(listener: impl Into<String>) -> Self {
        Self {
            listener: listener.into(),
            boundaries: Arc::new(Boundaries::new(&[])),
            counters: Published::default(),
            residence: LazyHistogram::default(),
        }
    }

    /// Shows these counters to readers from now on.
    pub fn publish(&self, counters: &EchoCounters) {
        self.counters.publish(counters.to_words());
    }

    /// Records a reply's residence: kernel receive to kernel send.
    pub fn record_residence(&self, ns: u64) {
        self.residence.record(&self.boundaries, ns);
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> EchoSnapshot {
        EchoSnapshot {
            listener: self.listener.clone(),
            counters: EchoCounters::from_words(self.counters.read()),
            residence: self.residence.snapshot(),
        }
    }
}

impl EchoSnapshot {
    /// Adds what another worker of the same listener counted.
    fn add(&mut self, other: &Self) {
        let (mine, theirs) = (self.counters.to_words(), other.counters.to_words());
        let sum = std::array::from_fn(|word| mine[word] + theirs[word]);
        self.counters = EchoCounters::from_words(sum);
        let both = self.residence.iter().chain(&other.residence);
        self.residence = HistogramSnapshot::merged(both);
    }
}

/// The listeners of these series; those of all workers of a listener are one.
pub(super) fn listeners(echoes: &[Arc<EchoSeries>]) -> Vec<EchoSnapshot> {
    let mut listeners: Vec<EchoSnapshot> = Vec::new();
    for echo in echoes {
        let worker = echo.snapshot();
        match listeners.iter_mut().find(|known| known.listener == worker.listener) {
            Some(known) => known.add(&worker),
            None => listeners.push(worker),
        }
    }
    listeners
}
