//! The sliding loss window: outcomes of probes in the order they were settled go in, how many of
//! the last `n` were lost comes out.

/// The last `n` outcomes.
#[derive(Clone, Debug)]
pub struct LossWindow {
    outcomes: Box<[bool]>,
    next: usize,
    probes: u64,
    lost: u64,
}

impl LossWindow {
    /// An empty window over the last `n` outcomes, at least one.
    #[must_use]
    pub fn new(n: usize) -> Self {
        let outcomes = vec![false; n.max(1)].into_boxed_slice();
        Self { outcomes, next: 0, probes: 0, lost: 0 }
    }

    /// Adds one outcome; the oldest one leaves a full window.
    pub fn record(&mut self, lost: bool) {
        let Some(slot) = self.outcomes.get_mut(self.next) else { return };
        let left = std::mem::replace(slot, lost);
        self.next = (self.next + 1) % self.outcomes.len();
        if usize::try_from(self.probes).is_ok_and(|probes| probes == self.outcomes.len()) {
            self.lost -= u64::from(left);
        } else {
            self.probes += 1;
        }
        self.lost += u64::from(lost);
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
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_outcome_leaves() {
        let mut window = LossWindow::new(2);
        for (lost, expected) in [(true, (1, 1)), (false, (2, 1)), (false, (2, 0))] {
            window.record(lost);
            assert_eq!((window.probes(), window.lost()), expected);
        }
    }
}
