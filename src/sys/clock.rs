//! The only file that reads a clock. Everything else is told the time.

use super::platform;
use crate::time::{Mono, Now};

/// A reading whose bracket is at most this wide is accepted at once.
const BRACKET_NS: i64 = 250;
/// How often a reading is tried for a narrow bracket before the narrowest is taken.
const TRIES: u32 = 4;

/// Reads the monotonic clock.
#[must_use]
pub fn mono() -> Mono {
    platform::mono()
}

/// Reads the wall clock between two readings of the monotonic clock and pairs it with the earlier
/// one. Preemption between the readings would look like a step of the wall clock, so a wide
/// bracket is read again, and the narrowest of a few is taken. About 75 ns on a vDSO clock.
#[must_use]
pub fn now() -> Now {
    let mut best = Now::default();
    let mut best_ns = i64::MAX;
    for _ in 0..TRIES {
        let before = platform::mono();
        let wall = platform::wall();
        let bracket_ns = platform::mono().since_ns(before);
        if bracket_ns < best_ns {
            best_ns = bracket_ns;
            best = Now { mono: before, wall };
        }
        if bracket_ns <= BRACKET_NS {
            break;
        }
    }
    best
}

/// What a reading of the monotonic clock costs: the best of some, each of many readings.
#[must_use]
pub fn reading_ns() -> u64 {
    const BATCHES: u32 = 16;
    const READINGS: u32 = 256;
    let batch_ns = || {
        let start = mono();
        for _ in 0..READINGS {
            std::hint::black_box(mono());
        }
        mono().since_ns(start)
    };
    let best_ns = (0..BATCHES).map(|_| batch_ns()).min().unwrap_or(0);
    // A clock too coarse to be measured this way costs next to nothing.
    u64::try_from(best_ns).unwrap_or(0).div_ceil(u64::from(READINGS)).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::CLOCK_STEP_NS;

    #[test]
    fn paired_readings_agree_far_below_the_step_threshold() {
        let first = now();
        let steady = (0..1_000).filter(|_| now().step_ns(first).abs() < CLOCK_STEP_NS).count();
        assert!(steady > 900, "only {steady} of 1000 readings were narrow");
    }

    #[test]
    fn the_monotonic_clock_never_goes_back() {
        let mut last = mono();
        for _ in 0..1_000 {
            let next = now().mono;
            assert!(next >= last);
            last = next;
        }
    }
}
