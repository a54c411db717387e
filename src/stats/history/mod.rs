//! What one target went through lately, for whoever looks at it: its newest probes one by one, its
//! last failures, and a heat map of a quarter of an hour. Finished measurements flow in from the
//! measuring thread, which pays a few stores for each; turns of the heat map come from the control
//! plane. Kept only if somebody can look.

mod failures;
mod heat;
mod ring;
mod words;

use std::sync::{Mutex, MutexGuard, PoisonError};

pub use self::failures::Failures;
pub use self::heat::{COLUMN_SECONDS, COLUMNS_MAX, Column, Levels};

use self::failures::FailureLog;
use self::heat::HeatMap;
use self::ring::{Entry, Ring};
use crate::sample::{CheckOutcome, CheckSample, Outcome, Sample, Stage};
use crate::time::Wall;

/// The newest probes of one target are at most this many.
pub const PROBES_MAX: usize = 1_000;

/// What the newest probes of all targets may take together. With many targets each remembers
/// fewer: 838 targets have [`PROBES_MAX`] each, 10,000 have 82.
pub const BUDGET_BYTES: usize = 32 * 1_024 * 1_024;

/// One target's recent past.
#[derive(Debug)]
pub struct History {
    ring: Ring,
    failures: FailureLog,
    /// Touched by the control plane and by readers, never by the measuring thread.
    heat: Mutex<HeatMap>,
}

/// One finished probe or check. Durations are exact below 2.1 s, to the µs beyond.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// Its number; the low 48 bits.
    pub seq: u64,
    /// When the schedule wanted it sent.
    pub due: Wall,
    /// How it ended.
    pub outcome: &'static str,
    /// Whether it was answered as it should be.
    pub good: bool,
    /// The clock of `rtt_ns`.
    pub clock: Option<&'static str>,
    /// The round trip.
    pub rtt_ns: Option<u64>,
    /// Of a probe: due until the application had the reply. Of a check: handed over until the
    /// outcome was known.
    pub elapsed_ns: Option<u64>,
    /// The parts of it, by [`Stage`].
    pub stages_ns: [Option<u64>; Stage::ALL.len()],
}

impl History {
    /// Nothing yet, and room for this many probes.
    #[must_use]
    pub fn new(probes_max: usize) -> Self {
        Self {
            ring: Ring::new(probes_max),
            failures: FailureLog::default(),
            heat: Mutex::default(),
        }
    }

    /// How many probes each of so many targets may remember.
    #[must_use]
    pub fn probes_max_of(targets: usize) -> usize {
        // One place more than probes: see `Ring`.
        let places = BUDGET_BYTES / ring::PLACE_BYTES / targets.max(1);
        places.saturating_sub(1).clamp(1, PROBES_MAX)
    }

    /// Remembers a finished probe. Only one thread may call this and [`Self::record_check`].
    pub(super) fn record(&self, sample: &Sample) {
        let (due, end) = (sample.stamps.due_wall(), words::of_outcome(sample.outcome));
        self.ring.push(&Entry {
            seq: sample.seq,
            due,
            end,
            clock: words::of_clock(sample.clock),
            is_check: false,
            rtt_ns: sample.rtt_ns,
            lag_ns: sample.lag_ns,
            send_ns: sample.send_ns,
            network_ns: sample.network_ns,
            peer_ns: sample.peer_ns,
            wakeup_ns: sample.wakeup_ns,
        });
        match sample.outcome {
            Outcome::Received => {}
            Outcome::Lost(failure) => self.failures.record(due, end, words::errno(failure)),
            Outcome::Timeout | Outcome::Unresolved => self.failures.record(due, end, None),
        }
    }

    /// Remembers a finished check.
    pub(super) fn record_check(&self, check: &CheckSample) {
        let lag_ns = check.tx_app.mono.since_ns(check.due);
        let (due, end) = (check.tx_app.wall.offset_ns(-lag_ns), words::of_check(check.outcome));
        self.ring.push(&Entry {
            seq: check.seq,
            due,
            end,
            clock: words::of_check_clock(check.clock),
            is_check: true,
            rtt_ns: check.rtt_ns,
            lag_ns: u64::try_from(lag_ns).ok(),
            send_ns: Some(check.elapsed_ns),
            network_ns: None,
            peer_ns: None,
            wakeup_ns: None,
        });
        match check.outcome {
            CheckOutcome::Open => {}
            CheckOutcome::Failed(failure) => {
                self.failures.record(due, end, words::errno(failure));
            }
            CheckOutcome::Timeout | CheckOutcome::Unresolved => {
                self.failures.record(due, end, None);
            }
        }
    }

    /// How many probes it can remember.
    #[must_use]
    pub const fn probes_max(&self) -> usize {
        self.ring.records_max()
    }

    /// How many it has seen: [`Self::since`] goes on from here.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.ring.written()
    }

    /// The newest probes, in the order in which they finished.
    #[must_use]
    pub fn probes(&self) -> Vec<Record> {
        self.since(0).0
    }

    /// Those that finished after the first `seen` ones, as far as they are remembered, and how
    /// many were seen by now.
    #[must_use]
    pub fn since(&self, seen: u64) -> (Vec<Record>, u64) {
        self.ring.since(seen)
    }

    /// The last failures, newest first.
    #[must_use]
    pub fn failures(&self) -> Vec<Failures> {
        self.failures.read()
    }

    /// Ends the heat map's column, where the target's counts stand at `levels`.
    pub(super) fn turn(&self, levels: &Levels) {
        self.lock().turn(levels);
    }

    /// The heat map's columns, oldest first; the last one is still being filled.
    #[must_use]
    pub fn columns(&self, levels: &Levels) -> Vec<Column> {
        self.lock().columns(levels)
    }

    /// The column that is being filled.
    #[must_use]
    pub fn column(&self, levels: &Levels) -> Column {
        self.lock().current(levels)
    }

    fn lock(&self) -> MutexGuard<'_, HeatMap> {
        // After a panic a column may be wrong; the measurement itself is elsewhere.
        self.heat.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
