//! What the program shows of itself: what was built, and how late its threads wake up.

use std::sync::Arc;

use crate::histogram::{Boundaries, Histogram, HistogramSnapshot};

/// What a measuring thread measures about itself.
#[derive(Debug)]
pub struct WorkerSeries {
    thread: String,
    lateness: Histogram,
}

/// What was built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BuildInfo {
    /// Version of the package.
    pub version: &'static str,
    /// Operating system it was built for.
    pub os: &'static str,
    /// Processor architecture it was built for.
    pub arch: &'static str,
}

/// One measuring thread at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkerSnapshot {
    /// Its name.
    pub thread: String,
    /// How late it woke up from timed waits.
    pub lateness: HistogramSnapshot,
}

impl WorkerSeries {
    /// An empty series of this thread.
    #[must_use]
    pub fn new(thread: impl Into<String>) -> Self {
        let lateness = Histogram::new(Arc::new(Boundaries::new(&[])));
        Self { thread: thread.into(), lateness }
    }

    /// Records by how much a timed wait ended later than asked for.
    pub fn record_lateness(&self, ns: u64) {
        self.lateness.record(ns);
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> WorkerSnapshot {
        WorkerSnapshot { thread: self.thread.clone(), lateness: self.lateness.snapshot() }
    }
}

impl BuildInfo {
    /// This program.
    #[must_use]
    pub const fn current() -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION"),
            os: std::env::consts::OS,
            arch: std::env::consts::ARCH,
        }
    }
}
