//! Whether the configuration file could be used when it was last read. Without one there is no such
//! series.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// How reloads went.
#[derive(Debug, Default)]
pub struct ReloadSeries {
    last_good: AtomicBool,
    /// Unix ns.
    good_at_ns: AtomicU64,
}

/// The same at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReloadSnapshot {
    /// Whether the file was good when it was last read.
    pub last_good: bool,
    /// When it was last good, Unix ns.
    pub good_at_ns: u64,
}

impl ReloadSeries {
    /// Notes that the file is in use as it was at this time, in Unix ns.
    pub fn count_good(&self, now_ns: u64) {
        self.good_at_ns.store(now_ns, Ordering::Relaxed);
        self.last_good.store(true, Ordering::Relaxed);
    }

    /// Notes that the file could not be used.
    pub fn count_bad(&self) {
        self.last_good.store(false, Ordering::Relaxed);
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> ReloadSnapshot {
        ReloadSnapshot {
            last_good: self.last_good.load(Ordering::Relaxed),
            good_at_ns: self.good_at_ns.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_file_keeps_the_time_of_the_good_one() {
        let series = ReloadSeries::default();
        series.count_good(7);
        assert_eq!(series.snapshot(), ReloadSnapshot { last_good: true, good_at_ns: 7 });
        series.count_bad();
        assert_eq!(series.snapshot(), ReloadSnapshot { last_good: false, good_at_ns: 7 });
    }
}
