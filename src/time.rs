//! Points in time, one type per clock: a difference exists only inside one clock, so stamps of
//! different clocks cannot be mixed by accident. This file reads no clock; `sys::clock` does.
//!
//! Kernel software stamps are `CLOCK_REALTIME` (`Documentation/networking/timestamping.rst`), the
//! schedule is `CLOCK_MONOTONIC`, a network card's stamps are its own PTP hardware clock.

use std::num::NonZeroU64;
use std::time::Duration;

/// Nanoseconds in a second.
pub const NS_PER_SECOND: u64 = 1_000_000_000;

// One more than the nanoseconds is stored, never 0: so an `Option` of a point takes no more room
// than the point, and probes in flight hold many.
macro_rules! clock_point {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(NonZeroU64);

        impl $name {
            /// A point `ns` nanoseconds after this clock's origin, at most 584 years.
            #[must_use]
            pub const fn from_ns(ns: u64) -> Self {
                Self(NonZeroU64::MIN.saturating_add(ns))
            }

            /// Nanoseconds since this clock's origin.
            #[must_use]
            pub const fn as_ns(self) -> u64 {
                self.0.get() - 1
            }

            /// Signed nanoseconds from `earlier` to this point; negative if `earlier` is later.
            /// Saturates beyond ±292 years.
            #[must_use]
            pub const fn since_ns(self, earlier: Self) -> i64 {
                // Two's complement: the wrapped difference is the signed one.
                self.0.get().wrapping_sub(earlier.0.get()).cast_signed()
            }

            /// The point `ns` nanoseconds away, saturating at the clock's ends.
            #[must_use]
            pub const fn offset_ns(self, ns: i64) -> Self {
                Self::from_ns(self.as_ns().saturating_add_signed(ns))
            }

            /// How long after `earlier` this point is; zero if it is before.
            #[must_use]
            pub fn duration_since(self, earlier: Self) -> Duration {
                Duration::from_nanos(u64::try_from(self.since_ns(earlier)).unwrap_or(0))
            }

            /// The point `duration` later, saturating at the clock's end.
            #[must_use]
            pub fn after(self, duration: Duration) -> Self {
                Self(self.0.saturating_add(duration_ns(duration)))
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::from_ns(0)
            }
        }

        impl std::fmt::Debug for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.debug_tuple(stringify!($name)).field(&self.as_ns()).finish()
            }
        }
    };
}

clock_point! {
    /// `CLOCK_MONOTONIC`: never steps. Schedules, timeouts and intervals live here.
    /// The origin is arbitrary (boot on Linux).
    Mono
}
clock_point! {
    /// `CLOCK_REALTIME`: nanoseconds since the Unix epoch. Kernel software stamps live here.
    /// May step; see [`Now::step_ns`].
    Wall
}
clock_point! {
    /// A network card's PTP hardware clock. Only stamps of the same card compare.
    Phc
}

/// The monotonic and the wall clock read together.
///
/// The two readings are taken within one narrow bracket (`sys::clock::now`), so the difference
/// between them changes only when the wall clock is stepped: NTP slews both clocks alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// The monotonic reading.
    pub mono: Mono,
    /// The wall reading.
    pub wall: Wall,
}

impl Now {
    /// By how many ns the wall clock moved against the monotonic one since `earlier`.
    #[must_use]
    pub const fn step_ns(self, earlier: Self) -> i64 {
        self.wall.since_ns(earlier.wall).wrapping_sub(self.mono.since_ns(earlier.mono))
    }

    /// This moment `duration` later, on both clocks. For scripts in tests and for planning.
    #[must_use]
    pub fn after(self, duration: Duration) -> Self {
        Self { mono: self.mono.after(duration), wall: self.wall.after(duration) }
    }
}

/// A `Duration` as whole nanoseconds, saturating at `u64::MAX` (584 years).
#[must_use]
pub fn duration_ns(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds as seconds, correctly rounded: the one conversion for exposition.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "2^53 ns is 104 days; beyond it a ns is noise")]
pub fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_are_signed_and_inside_one_clock() {
        let early = Wall::from_ns(1_000);
        let late = Wall::from_ns(1_250);
        assert_eq!(late.since_ns(early), 250);
        assert_eq!(early.since_ns(late), -250);
        assert_eq!(early.offset_ns(-2_000), Wall::from_ns(0));
        assert_eq!(early.after(Duration::from_nanos(5)).as_ns(), 1_005);
    }

    #[test]
    fn a_step_is_what_the_wall_clock_moved_beyond_the_monotonic_one() {
        let before = Now { mono: Mono::from_ns(10), wall: Wall::from_ns(1_000) };
        let slewed = before.after(Duration::from_millis(3));
        assert_eq!(slewed.step_ns(before), 0);
        let stepped = Now { wall: slewed.wall.offset_ns(-7_000), ..slewed };
        assert_eq!(stepped.step_ns(before), -7_000);
    }

    #[test]
    fn seconds_are_exact_at_powers_of_two() {
        assert_eq!(seconds(500_000_000).to_bits(), 0.5_f64.to_bits());
        assert_eq!(seconds(31_250_000).to_bits(), 0.03125_f64.to_bits());
    }
}
