//! What a run of checks says on standard output, by a thread of its own: results in, lines out. A
//! reader that is slow slows the run down; none of its lines is lost.

use std::collections::HashMap;
use std::io::{self, BufWriter, Stdout, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex, PoisonError};

use super::output::{Screen, locked};
use crate::check::sweep::CheckResult;
use crate::report::check::{Asked, Setting, Tally, append_check, failure_line};
use crate::report::live::{PLAIN_INTERVAL, PLAIN_WIDTH, REDRAW_INTERVAL, Size, View};
use crate::sample::CheckSample;
use crate::sys::clock;
use crate::time::Mono;

/// What names without an address got from the resolver, by the number of their address.
#[derive(Debug, Default)]
pub(super) struct LookupErrors(Mutex<HashMap<u32, String>>);

/// What was found so far, for the exit code.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) finished: AtomicU64,
    pub(super) open: AtomicU64,
}

/// What the thread works with.
pub(super) struct Writer {
    pub(super) screen: Screen,
    pub(super) asked: Arc<[Asked]>,
    pub(super) tally: Tally,
    pub(super) errors: Arc<LookupErrors>,
    pub(super) found: Arc<Found>,
    /// How it is checked, and each failure, are to be shown.
    pub(super) verbose: Option<Setting>,
    pub(super) started: Mono,
    /// Grows while the reader reads.
    pub(super) progress: Arc<AtomicU64>,
    pub(super) incoming: Receiver<Vec<CheckResult>>,
}

impl LookupErrors {
    pub(super) fn set(&self, address: u32, error: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(address, error);
    }

    fn of(&self, address: u32) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&address).cloned()
    }
}

impl Writer {
    /// Writes until every worker is gone.
    pub(super) fn run(mut self) -> io::Result<()> {
        match &self.screen {
            Screen::Live(view) => {
                let view = Arc::clone(view);
                self.run_live(&view)
            }
            Screen::Json => self.run_json(),
            Screen::Quiet => Ok(()),
        }
    }

    fn run_live(&mut self, view: &Mutex<View<Stdout>>) -> io::Result<()> {
        let mut lines = Vec::new();
        if let Some(setting) = &self.verbose {
            lines.push(self.tally.setting_line(setting));
        }
        // A run that is over at once shows its end only.
        let mut draw_at = self.started.after(REDRAW_INTERVAL);
        let mut plain_at = self.started.after(PLAIN_INTERVAL);
        loop {
            let ended = match self.incoming.recv_timeout(REDRAW_INTERVAL) {
                Ok(results) => {
                    self.take(&results, &mut lines);
                    false
                }
                Err(RecvTimeoutError::Timeout) => false,
                Err(RecvTimeoutError::Disconnected) => true,
            };
            let now = clock::mono();
            let size = Size::of_stdout();
            let elapsed = now.duration_since(self.started);
            if ended {
                let width = size.map_or(PLAIN_WIDTH, |size| size.columns);
                lines.extend(self.tally.summary_lines(elapsed, width));
                return locked(view).end(&lines);
            }
            if size.is_none() && now >= plain_at {
                plain_at = now.after(PLAIN_INTERVAL);
                lines.push(self.tally.plain_line(elapsed));
            }
            if !lines.is_empty() {
                locked(view).print(&lines)?;
                lines.clear();
            }
            if let Some(size) = size.filter(|_| now >= draw_at) {
                draw_at = now.after(REDRAW_INTERVAL);
                // The last column stays free: some terminals wrap when it is written.
                let width = size.columns.saturating_sub(1);
                locked(view).draw(vec![self.tally.progress_line(elapsed, width)])?;
            }
        }
    }

    /// Counts results; `lines` gets the failures, if they are to be shown.
    fn take(&mut self, results: &[CheckResult], lines: &mut Vec<String>) {
        for CheckResult { target, sample } in results {
            if self.verbose.is_some()
                && let Some(asked) = self.asked.get(index(*target))
            {
                lines.extend(failure_line(asked, sample, self.why(*target, sample).as_deref()));
            }
        }
        self.record(results);
        self.progress.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines are flushed whenever nothing waits, so that a pipe's reader sees each check soon.
    fn run_json(&mut self) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        let mut line = Vec::new();
        while let Ok(first) = self.incoming.recv() {
            let mut next = Some(first);
            while let Some(results) = next {
                // A reader that leaves changes nothing of what was found.
                self.record(&results);
                for CheckResult { target, sample } in &results {
                    let Some(asked) = self.asked.get(index(*target)) else { continue };
                    line.clear();
                    let why = self.why(*target, sample);
                    append_check(&mut line, asked, sample, why.as_deref());
                    out.write_all(&line)?;
                    self.progress.fetch_add(1, Ordering::Relaxed);
                }
                next = self.incoming.try_recv().ok();
            }
            out.flush()?;
        }
        line.clear();
        self.tally.append_summary(&mut line, clock::mono().duration_since(self.started));
        out.write_all(&line)?;
        out.flush()
    }

    fn why(&self, target: u32, sample: &CheckSample) -> Option<String> {
        // Only a name that has no address has none here.
        if sample.to.is_some() { None } else { self.errors.of(target) }
    }

    fn record(&mut self, results: &[CheckResult]) {
        for CheckResult { target, sample } in results {
            self.tally.record(index(*target), sample);
        }
        self.found.finished.store(self.tally.finished(), Ordering::Relaxed);
        self.found.open.store(self.tally.open(), Ordering::Relaxed);
    }
}

fn index(target: u32) -> usize {
    usize::try_from(target).expect("32 bits fit")
}
