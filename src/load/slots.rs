//! When the requests of one connection are due in an open loop. The whole load has an even rate,
//! and its connections take turns; the times are fixed by the start alone. Moments go in, slots
//! come out; each is taken, or left out and counted, once.

use crate::time::{Mono, NS_PER_SECOND};

/// The slots of one connection.
#[derive(Clone, Debug)]
pub(super) struct Slots {
    origin: Mono,
    /// Requests per second of all connections.
    rate: u128,
    /// Connections.
    stride: u128,
    /// The number of this one, below `stride`.
    offset: u128,
    /// The slot to take next.
    next: u64,
    next_due: Mono,
}

impl Slots {
    /// Those of connection number `offset` of `stride`; the load's first slot is due at `origin`.
    pub(super) fn new(origin: Mono, rate: u64, stride: u64, offset: u64) -> Self {
        let mut slots = Self {
            origin,
            rate: rate.max(1).into(),
            stride: stride.max(1).into(),
            offset: offset.into(),
            next: 0,
            next_due: origin,
        };
        slots.go_to(0);
        slots
    }

    /// When the next slot is due.
    pub(super) const fn due(&self) -> Mono {
        self.next_due
    }

    /// Takes the next slot.
    pub(super) fn take(&mut self) -> Mono {
        let due = self.next_due;
        self.go_to(self.next + 1);
        due
    }

    /// Leaves every slot out that is due before this moment. Returns the range of them.
    pub(super) fn skip_before(&mut self, at: Mono) -> std::ops::Range<u64> {
        let from = self.next;
        self.go_to(self.count_before(at).max(from));
        from..self.next
    }

    /// How many slots there are that are due before this moment.
    pub(super) fn count_before(&self, at: Mono) -> u64 {
        let Ok(since_ns) = u128::try_from(at.since_ns(self.origin)) else { return 0 };
        // Slot `m` of the whole load is due before `at` if m·s < since·rate, where s is a second.
        let all = (since_ns * self.rate).div_ceil(NS_PER_SECOND.into());
        let mine = all.saturating_sub(self.offset).div_ceil(self.stride);
        u64::try_from(mine).unwrap_or(u64::MAX)
    }

    fn go_to(&mut self, slot: u64) {
        self.next = slot;
        let number = u128::from(slot) * self.stride + self.offset;
        let ns = u64::try_from(number * u128::from(NS_PER_SECOND) / self.rate);
        let ns = self.origin.as_ns().saturating_add(ns.unwrap_or(u64::MAX));
        self.next_due = Mono::from_ns(ns);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ORIGIN: Mono = Mono::from_ns(1_000_000);

    fn dues(rate: u64, stride: u64, offset: u64, count: usize) -> Vec<u64> {
        let mut slots = Slots::new(ORIGIN, rate, stride, offset);
        (0..count).map(|_| slots.take().as_ns() - ORIGIN.as_ns()).collect()
    }

    #[test]
    fn connections_take_turns() {
        assert_eq!(dues(1_000, 2, 0, 3), [0, 2_000_000, 4_000_000]);
        assert_eq!(dues(1_000, 2, 1, 3), [1_000_000, 3_000_000, 5_000_000]);
        // A rate that is no divisor of a second does not drift.
        assert_eq!(dues(3, 1, 0, 7).last(), Some(&2_000_000_000));
        assert_eq!(dues(7, 3, 2, 8).last(), Some(&(23 * NS_PER_SECOND / 7)));
    }

    proptest! {
        #[test]
        fn all_connections_together_keep_the_rate(rate in 1_u64..2_000_000, stride in 1_u64..20) {
            let at = Mono::from_ns(ORIGIN.as_ns() + NS_PER_SECOND);
            let all = (0..stride).map(|offset| Slots::new(ORIGIN, rate, stride, offset));
            prop_assert_eq!(all.map(|slots| slots.count_before(at)).sum::<u64>(), rate);
        }

        #[test]
        fn counting_agrees_with_taking(
            rate in 1_u64..2_000_000,
            (stride, offset) in (1_u64..20).prop_flat_map(|stride| (Just(stride), 0..stride)),
            after_ns in 0_u64..3_000_000,
        ) {
            let at = Mono::from_ns(ORIGIN.as_ns() + after_ns);
            let mut slots = Slots::new(ORIGIN, rate, stride, offset);
            let counted = slots.count_before(at);
            let mut skipping = slots.clone();
            prop_assert_eq!(skipping.skip_before(at), 0..counted);
            while slots.due() < at {
                slots.take();
            }
            prop_assert_eq!(slots.next, counted);
            prop_assert_eq!(skipping.due(), slots.due());
            prop_assert_eq!(skipping.skip_before(ORIGIN), counted..counted);
        }
    }
}
