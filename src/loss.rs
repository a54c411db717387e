//! Loss over the last N probes: outcomes go in as they become known, a percentage comes out.

/// A sliding window over outcomes in the order of their completion.
///
/// Probes in flight are not in it. A target that is down keeps losing probes, because those due
/// without a connection complete as lost at once; so its window fills with losses and shows 100 %.
#[derive(Clone, Debug)]
pub struct LossWindow {
    /// A ring of bits, set where the probe was lost.
    bits: Box<[u64]>,
    size: usize,
    /// The place that the next outcome takes; the oldest outcome's, once the window is full.
    next: usize,
    probes: u64,
    lost: u64,
}

impl LossWindow {
    /// An empty window for `size` outcomes; 0 is taken as 1.
    #[must_use]
    pub fn new(size: usize) -> Self {
        let size = size.max(1);
        let bits = vec![0; size.div_ceil(WORD_BITS)].into();
        Self { bits, size, next: 0, probes: 0, lost: 0 }
    }

    /// Adds an outcome, and forgets the oldest one if the window is full.
    pub fn record(&mut self, lost: bool) {
        let word = &mut self.bits[self.next / WORD_BITS];
        let bit = 1 << (self.next % WORD_BITS);
        // A place that was never used holds 0, a probe not lost.
        self.lost -= u64::from(*word & bit != 0);
        self.lost += u64::from(lost);
        if lost {
            *word |= bit;
        } else {
            *word &= !bit;
        }
        self.next = if self.next + 1 == self.size { 0 } else { self.next + 1 };
        if self.probes < u64::try_from(self.size).unwrap_or(u64::MAX) {
            self.probes += 1;
        }
    }

    /// Outcomes in the window.
    #[must_use]
    pub const fn probes(&self) -> u64 {
        self.probes
    }

    /// Lost ones among them.
    #[must_use]
    pub const fn lost(&self) -> u64 {
        self.lost
    }

    /// Percentage of lost probes; `None` while the window is empty, which is neither good nor bad.
    #[must_use]
    pub fn percent(&self) -> Option<f64> {
        percent(self.lost, self.probes)
    }
}

/// `lost` of `probes` in percent; `None` without probes.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "windows are far smaller than 2^53")]
pub fn percent(lost: u64, probes: u64) -> Option<f64> {
    (probes > 0).then(|| 100.0 * lost as f64 / probes as f64)
}

const WORD_BITS: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A window of `size` after these outcomes, `x` for lost: its probes, lost ones and percentage.
    fn check(size: usize, outcomes: &str, expected: (u64, u64, Option<f64>)) {
        let mut window = LossWindow::new(size);
        outcomes.chars().for_each(|outcome| window.record(outcome == 'x'));
        assert_eq!((window.probes(), window.lost(), window.percent()), expected, "{outcomes}");
    }

    #[test]
    fn the_window_slides_in_order_of_completion() {
        check(4, "", (0, 0, None));
        check(4, ".", (1, 0, Some(0.0)));
        check(4, "x", (1, 1, Some(100.0)));
        check(4, "x...", (4, 1, Some(25.0)));
        check(4, "x....", (4, 0, Some(0.0)));
        check(4, "xx..xx.", (4, 2, Some(50.0)));
        check(0, "x.x", (1, 1, Some(100.0)));
    }

    #[test]
    fn a_dead_target_shows_all_lost() {
        check(4, "....xxxx", (4, 4, Some(100.0)));
        check(3, "xxxxxxx", (3, 3, Some(100.0)));
    }

    proptest! {
        #[test]
        fn equals_the_tail_of_the_list(size in 1_usize..200,
                                       outcomes in prop::collection::vec(any::<bool>(), 0..500)) {
            let mut window = LossWindow::new(size);
            outcomes.iter().for_each(|&lost| window.record(lost));
            let tail = &outcomes[outcomes.len().saturating_sub(size)..];
            prop_assert_eq!(window.probes(), tail.len() as u64);
            prop_assert_eq!(window.lost(), tail.iter().filter(|&&lost| lost).count() as u64);
        }
    }
}
