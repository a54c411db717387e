//! What came of probes on demand. Without their section in the configuration file there is no such
//! series.

use std::sync::atomic::{AtomicU64, Ordering};

/// What came of a wish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnDemandResult {
    /// The target answered as it should.
    Success,
    /// It did not.
    Failure,
    /// A bad wish, or a target that may not be probed.
    Refused,
    /// Too many were under way.
    Busy,
}

impl OnDemandResult {
    /// Every one of them; the index of a result is its discriminant.
    pub const ALL: [Self; 4] = [Self::Success, Self::Failure, Self::Refused, Self::Busy];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Refused => "refused",
            Self::Busy => "busy",
        }
    }
}

/// How often each came.
#[derive(Debug, Default)]
pub struct OnDemandSeries([AtomicU64; OnDemandResult::ALL.len()]);

impl OnDemandSeries {
    /// Counts one.
    pub fn count(&self, result: OnDemandResult) {
        self.0[result as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The counts now, in the order of [`OnDemandResult::ALL`].
    #[must_use]
    pub fn snapshot(&self) -> [u64; OnDemandResult::ALL.len()] {
        self.0.each_ref().map(|count| count.load(Ordering::Relaxed))
    }
}
