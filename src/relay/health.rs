//! Whether an upstream is up, by checks: the outcome of one after the other goes in, news for the
//! balancers come out. A few in a row are needed to change its state, either way.

use super::settings::UpstreamNews;
use crate::event::Failure;
use crate::sample::{CheckOutcome, CheckSample};

/// What checks say of one upstream.
#[derive(Clone, Copy, Debug)]
pub struct Health {
    rise: u32,
    fall: u32,
    up: bool,
    /// Checks in a row that say otherwise.
    against: u32,
}

impl Health {
    /// Up until checks say otherwise. `rise` open ones in a row make a down upstream up, `fall`
    /// others in a row make it down.
    #[must_use]
    pub fn new(rise: u32, fall: u32) -> Self {
        Self { rise: rise.max(1), fall: fall.max(1), up: true, against: 0 }
    }

    /// Takes a finished check. `None` if nobody needs to know of it. Where *we* could not check,
    /// or no address is known, that says nothing of the upstream.
    pub fn take(&mut self, check: &CheckSample) -> Option<UpstreamNews> {
        let open = match check.outcome {
            CheckOutcome::Open => true,
            CheckOutcome::Unresolved | CheckOutcome::Failed(Failure::Local(_)) => return None,
            CheckOutcome::Timeout | CheckOutcome::Failed(_) => false,
        };
        if open == self.up {
            self.against = 0;
            return open.then_some(UpstreamNews::Up(check.rtt_ns));
        }
        self.against += 1;
        if self.against < if self.up { self.fall } else { self.rise } {
            return None;
        }
        self.up = open;
        self.against = 0;
        Some(if open { UpstreamNews::Up(check.rtt_ns) } else { UpstreamNews::Down })
    }

    /// Whether it is up.
    #[must_use]
    pub const fn is_up(&self) -> bool {
        self.up
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::Method;
    use crate::time::{Mono, Now};

    fn check(outcome: CheckOutcome) -> CheckSample {
        CheckSample {
            seq: 1,
            to: None,
            method: Method::Quickack,
            outcome,
            due: Mono::default(),
            tx_app: Now::default(),
            clock: None,
            rtt_ns: Some(7),
            elapsed_ns: 9,
            syn_retransmits: 0,
            completed: false,
        }
    }

    #[test]
    fn a_few_in_a_row_are_needed_either_way() {
        let mut health = Health::new(2, 3);
        let (open, refused) = (CheckOutcome::Open, CheckOutcome::Failed(Failure::Refused));
        let up = Some(UpstreamNews::Up(Some(7)));
        for (outcome, news) in [
            (open, up.clone()),
            (refused, None),
            (CheckOutcome::Timeout, None),
            (open, up.clone()),
            (refused, None),
            (refused, None),
            (CheckOutcome::Failed(Failure::Local(24)), None),
            (CheckOutcome::Unresolved, None),
            (refused, Some(UpstreamNews::Down)),
            (refused, None),
            (open, None),
            (refused, None),
            (open, None),
            (open, up.clone()),
            (open, up),
        ] {
            assert_eq!(health.take(&check(outcome)), news, "{outcome:?}");
        }
        assert!(health.is_up());
    }
}
