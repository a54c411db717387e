//! A sweep of half-open checks in its worker: its results go to their reader in batches, and wait
//! in the sweep while the reader is behind.

use std::sync::mpsc::TrySendError;

use tokio::sync::mpsc::Sender;

use super::{NewSweep, Report, Results, TargetId};
use crate::check::sweep::Sweep;
use crate::time::Mono;

/// A sweep and its reader.
pub(super) struct Sweeping {
    number: TargetId,
    pub(super) sweep: Sweep,
    results: Results,
    told_finished: bool,
}

impl Sweeping {
    pub(super) fn new(new: NewSweep) -> Self {
        let NewSweep { sweep, settings, results } = new;
        Self { number: sweep, sweep: Sweep::new(settings), results, told_finished: false }
    }

    /// Hands over what waits, if it is time, and says once that the sweep is finished.
    pub(super) fn hand_over(&mut self, reports: &Sender<Report>, at: Mono) {
        if let Some(results) = self.sweep.take_results(at)
            && let Err(TrySendError::Full(results)) = self.results.try_send(results)
        {
            self.sweep.give_back(results, at);
        }
        // A reader that left wants no results; that the run ends is the control plane's decision.
        if self.sweep.is_finished() && !self.told_finished {
            self.told_finished = reports.try_send(Report::Finished(self.number)).is_ok();
        }
    }
}
