//! What one measuring thread's share of a load is measured into, and how all of it looks at one
//! moment.

use std::sync::Arc;

use super::published::Published;
use crate::histogram::{Boundaries, Histogram, HistogramSnapshot};
use crate::sample::LoadCounters;

/// What one measuring thread's share of a load is measured into.
#[derive(Debug)]
pub struct LoadSeries {
    counters: Published<{ LoadCounters::WORDS }>,
    latency: Histogram,
}

/// A load at one moment, summed over its threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadSnapshot {
    /// What was counted.
    pub counters: LoadCounters,
    /// Latencies of answered requests, from when they were due.
    pub latency: HistogramSnapshot,
}

impl Default for LoadSeries {
    fn default() -> Self {
        let latency = Histogram::new(Arc::new(Boundaries::new(&[])));
        Self { counters: Published::default(), latency }
    }
}

impl LoadSeries {
    /// Shows these counters to readers from now on. For the measuring thread alone, as is
    /// [`Self::record`].
    pub fn publish(&self, counters: &LoadCounters) {
        self.counters.publish(counters.to_words());
    }

    /// Records a request's latency.
    pub fn record(&self, latency_ns: u64) {
        self.latency.record(latency_ns);
    }

    /// All threads' shares together.
    #[must_use]
    pub fn sum(threads: &[Arc<Self>]) -> LoadSnapshot {
        let mut shares = threads.iter().map(|thread| thread.snapshot());
        let mut sum = shares.next().unwrap_or_else(|| Self::default().snapshot());
        for share in shares {
            sum.counters.add(&share.counters);
            sum.latency.merge(&share.latency);
        }
        sum
    }

    fn snapshot(&self) -> LoadSnapshot {
        LoadSnapshot {
            counters: LoadCounters::from_words(self.counters.read()),
            latency: self.latency.snapshot(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_are_summed() {
        assert_eq!(LoadSeries::sum(&[]).latency.count, 0);
        let threads = [(); 3].map(|()| Arc::new(LoadSeries::default()));
        for (thread, latency_ns) in threads.iter().zip([100_000, 300_000, 200_000]) {
            thread.record(latency_ns);
            let latency_ns_min = latency_ns;
            thread.publish(&LoadCounters { answered: 1, latency_ns_min, ..Default::default() });
        }
        let LoadSnapshot { counters, latency } = LoadSeries::sum(&threads);
        assert_eq!((counters.answered, counters.latency_ns_min), (3, 100_000));
        assert_eq!((latency.count, latency.max_ns), (3, 300_000));
    }
}
