//! Measuring threads, one after the other: what they all have in common in, running ones out.

use anyhow::Result;

use crate::config::{MeasuringSection, limits};
use crate::stats::{Stats, WorkerSeries};
use crate::sys::{Buffers, Checks, IoOptions};
use crate::worker::{Outlets, Worker, WorkerOptions};

/// What workers are made from.
pub(super) struct Workshop<'a> {
    pub(super) measuring: &'a MeasuringSection,
    pub(super) stamps: bool,
    pub(super) outlets: Outlets,
    pub(super) stats: &'a Stats,
    /// CPUs handed out so far.
    pub(super) pinned: usize,
    /// What each connection may hold.
    pub(super) buffers: Buffers,
}

impl Workshop<'_> {
    /// Starts one more measuring thread.
    pub(super) fn make(&mut self, name: String, checks: Option<Checks>) -> Result<Worker> {
        let pin = &self.measuring.pin;
        let cpu = pin.get(self.pinned % pin.len().max(1)).copied();
        self.pinned += 1;
        let options = WorkerOptions {
            name: name.clone(),
            io: IoOptions {
                backend: self.measuring.io,
                stamps: self.stamps,
                busy_poll: self.measuring.busy_poll,
                buffers: self.buffers,
                ..IoOptions::default()
            },
            cpu,
            priority: self.measuring.priority,
            checks,
            changes_max: limits::CHANGES_MAX,
        };
        let series = self.stats.add_worker(WorkerSeries::new(name));
        Ok(Worker::start(options, self.outlets.clone(), series)?)
    }
}
