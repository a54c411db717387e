//! What the guarded HTTP server counts: requests that it refused, handshakes that failed, and
//! whether its files could be read. Without a web configuration file there is no such series.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Counters of a server that has a web configuration file.
#[derive(Debug)]
pub struct WebSeries {
    refused: [AtomicU64; Refusal::ALL.len()],
    handshakes_failed: AtomicU64,
    last_reload_good: AtomicBool,
}

/// Why a request was not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// User or password are not known, or missing.
    Credentials,
    /// Too many passwords wait to be checked.
    Busy,
    /// The rate limit.
    Rate,
}

/// The counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSnapshot {
    /// Requests refused, by the reason in [`Refusal::ALL`].
    pub refused: [u64; Refusal::ALL.len()],
    /// TLS handshakes that failed or took too long.
    pub handshakes_failed: u64,
    /// Whether the files could be used as they were last read.
    pub last_reload_good: bool,
}

impl Refusal {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Credentials, Self::Busy, Self::Rate];

    /// The `reason` label.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Credentials => "credentials",
            Self::Busy => "busy",
            Self::Rate => "rate",
        }
    }
}

impl Default for WebSeries {
    fn default() -> Self {
        Self {
            refused: Default::default(),
            handshakes_failed: AtomicU64::new(0),
            last_reload_good: AtomicBool::new(true),
        }
    }
}

impl WebSeries {
    /// Counts a refused request.
    pub fn count_refused(&self, why: Refusal) {
        for (counter, refusal) in self.refused.iter().zip(Refusal::ALL) {
            if refusal == why {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Counts a handshake that failed or took too long.
    pub fn count_handshake_failed(&self) {
        self.handshakes_failed.fetch_add(1, Ordering::Relaxed);
    }

    /// Notes how the last reading of the files went.
    pub fn set_last_reload_good(&self, good: bool) {
        self.last_reload_good.store(good, Ordering::Relaxed);
    }

    /// The counters now.
    #[must_use]
    pub fn snapshot(&self) -> WebSnapshot {
        WebSnapshot {
            refused: [0, 1, 2].map(|index: usize| self.refused[index].load(Ordering::Relaxed)),
            handshakes_failed: self.handshakes_failed.load(Ordering::Relaxed),
            last_reload_good: self.last_reload_good.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_refusal_has_its_counter() {
        let series = WebSeries::default();
        for (times, refusal) in (1_u64..).zip(Refusal::ALL) {
            for _ in 0..times {
                series.count_refused(refusal);
            }
        }
        series.count_handshake_failed();
        let counted =
            WebSnapshot { refused: [1, 2, 3], handshakes_failed: 1, last_reload_good: true };
        assert_eq!(series.snapshot(), counted);
        series.set_last_reload_good(false);
        assert!(!series.snapshot().last_reload_good);
    }
}
