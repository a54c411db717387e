//! The open-loop schedule: when probes are due is fixed in advance and moves neither with replies
//! nor with our own lateness, so that coordinated omission cannot hide. Start, interval and phase
//! go in, slots come out; no clock is read here.

use crate::time::Mono;

/// What is sent more than this after it was due is late.
pub const SEND_LATE_NS: u64 = 1_000_000;

/// Fixed due times `start + phase + k * interval`.
#[derive(Clone, Debug)]
pub struct Schedule {
    first: Mono,
    interval_ns: u64,
    next: u64,
}

/// A slot whose time has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot {
    /// When it was due: at or before the moment it was taken, by less than one interval.
    pub due: Mono,
    /// How many older slots passed without being taken. They are never made up for.
    pub skipped: u64,
}

impl Schedule {
    /// A schedule whose first slot is due `phase_ns` after `start`. An interval of 0 counts as 1.
    #[must_use]
    pub fn new(start: Mono, interval_ns: u64, phase_ns: u64) -> Self {
        let first = Mono::from_ns(start.as_ns().saturating_add(phase_ns));
        Self { first, interval_ns: interval_ns.max(1), next: 0 }
    }

    /// When the next slot is due.
    #[must_use]
    pub const fn due(&self) -> Mono {
        self.slot(self.next)
    }

    /// Takes the most recent slot that is due at `now`, if any is.
    ///
    /// If several have passed, the most recent keeps its own due time and the older ones are
    /// skipped: sending them too would be a burst that no application would make, and would
    /// measure our own burst.
    pub fn take(&mut self, now: Mono) -> Option<Slot> {
        if now < self.due() {
            return None;
        }
        let latest = (now.as_ns() - self.first.as_ns()) / self.interval_ns;
        // Beyond the clock's end `due` saturates; there is no slot after the last one.
        let skipped = latest.checked_sub(self.next)?;
        self.next = latest + 1;
        Some(Slot { due: self.slot(latest), skipped })
    }

    const fn slot(&self, index: u64) -> Mono {
        let offset_ns = index.saturating_mul(self.interval_ns);
        Mono::from_ns(self.first.as_ns().saturating_add(offset_ns))
    }
}

/// The phase of target number `index`: multiples of the golden ratio modulo one interval.
///
/// Any number of consecutive indices is spread evenly to within a small factor (three-distance
/// theorem), so targets that are added later fall between those that are there.
#[must_use]
pub fn phase_ns(index: usize, interval_ns: u64) -> u64 {
    let index = u64::try_from(index).unwrap_or(u64::MAX);
    let turn = u128::from(index.wrapping_mul(GOLDEN_TURN));
    let phase_ns = (turn * u128::from(interval_ns)) >> u64::BITS;
    u64::try_from(phase_ns).expect("a fraction of an interval is shorter than the interval")
}

/// The golden ratio's fraction as a 64-bit fixed-point number, made odd.
const GOLDEN_TURN: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;
    use proptest::prelude::*;

    /// Takes at each moment (ns after the start) and compares with `(due, skipped)`.
    fn check(interval_ns: u64, phase_ns: u64, moments: &[u64], expected: &[Option<(u64, u64)>]) {
        let mut schedule = Schedule::new(Mono::from_ns(1_000), interval_ns, phase_ns);
        let taken: Vec<_> = moments
            .iter()
            .map(|at| schedule.take(Mono::from_ns(1_000 + at)))
            .map(|slot| slot.map(|slot| (slot.due.as_ns() - 1_000, slot.skipped)))
            .collect();
        assert_eq!(taken, expected);
    }

    #[test]
    fn slots_stay_where_they_were_planned() {
        check(
            100,
            30,
            &[0, 29, 30, 31, 130, 190, 231, 229],
            &[None, None, Some((30, 0)), None, Some((130, 0)), None, Some((230, 0)), None],
        );
    }

    #[test]
    fn lateness_skips_all_but_the_most_recent_slot() {
        check(
            100,
            0,
            &[0, 399, 400, 1_000],
            &[Some((0, 0)), Some((300, 2)), Some((400, 0)), Some((1_000, 5))],
        );
    }

    #[test]
    fn the_end_of_the_clock_is_no_trap() {
        let mut schedule = Schedule::new(Mono::from_ns(u64::MAX - 5), 4, 0);
        assert_eq!(schedule.take(Mono::from_ns(u64::MAX)).unwrap().skipped, 1);
        assert_eq!(schedule.take(Mono::from_ns(u64::MAX)), None);
    }

    #[test]
    fn phases_leave_no_wide_gap_however_many_targets_there_are() {
        let interval_ns = 1_000_000_u64;
        for total in [1_usize, 2, 3, 7, 50, 1_000] {
            let mut phases: Vec<_> = (0..total).map(|i| phase_ns(i, interval_ns)).collect();
            phases.sort_unstable();
            phases.push(phases[0] + interval_ns);
            let widest = phases.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
            let even = interval_ns / u64::try_from(total).unwrap();
            assert!(widest <= even * 2 + 1, "{total} targets: gap {widest}, even {even}");
        }
    }

    proptest! {
        #[test]
        fn never_early_and_every_slot_is_taken_or_skipped(
            start in 0_u64..1 << 60,
            interval_ns in 1_u64..1 << 40,
            phase_ns in 0_u64..1 << 40,
            steps in proptest::collection::vec(0_u64..1 << 42, 1..100),
        ) {
            let mut schedule = Schedule::new(Mono::from_ns(start), interval_ns, phase_ns);
            let mut now = start;
            let (mut taken, mut skipped) = (0, 0);
            let mut last_due = None;
            for step in steps {
                now += step;
                let before = schedule.due();
                if let Some(slot) = schedule.take(Mono::from_ns(now)) {
                    taken += 1;
                    skipped += slot.skipped;
                    prop_assert!(slot.due.as_ns() <= now);
                    prop_assert!(now - slot.due.as_ns() < interval_ns);
                    prop_assert!(slot.due >= before);
                    prop_assert!(Some(slot.due) > last_due);
                    last_due = Some(slot.due);
                }
                prop_assert!(schedule.due().as_ns() > now || taken == 0 && now < start + phase_ns);
                let passed = (now + 1).saturating_sub(start + phase_ns).div_ceil(interval_ns);
                prop_assert_eq!(taken + skipped, passed);
            }
        }

        #[test]
        fn a_phase_is_inside_the_interval(index in 0_usize..1 << 40, interval_ns in 1_u64..) {
            prop_assert!(phase_ns(index, interval_ns) < interval_ns);
        }
    }
}
