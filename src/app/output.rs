//! What a prober says on standard output, in a thread of its own: a reader that is slow, or gone,
//! must never hold up the control plane, let alone a probe.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::oneshot;

use super::confine;
use crate::config::{Config, ReportMode, limits};
use crate::histogram::HistogramSnapshot;
use crate::log;
use crate::report::live::{AboveView, REDRAW_INTERVAL, Size, View};
use crate::report::{Counts, Header, Quantiles, Row, json};
use crate::sample::{CheckClock, Clock};
use crate::stats::{CheckSnapshot, ProbeSnapshot, Stats};
use crate::sys::clock;
use crate::time::Mono;
use crate::worker::{Finished, Samples, TargetId};

/// What standard output is for in this run.
pub(super) enum Screen {
    Live(Arc<Mutex<View<Stdout>>>),
    Json,
    Quiet,
}

/// The running writer.
pub(super) struct Output {
    thread: JoinHandle<()>,
    /// Ends the live view when it is dropped; the JSON writer ends when all workers are gone.
    running: Option<Samples>,
    /// Grows while the JSON writer gets on.
    progress: Arc<AtomicU64>,
    closed: Option<oneshot::Receiver<()>>,
}

/// What the thread works with.
struct Writer {
    screen: Screen,
    stats: Arc<Stats>,
    metrics_url: Option<String>,
    started: Mono,
    progress: Arc<AtomicU64>,
    incoming: Receiver<(TargetId, Finished)>,
}

impl Screen {
    /// Decides what goes where and installs the log: on standard error, above the live table if
    /// both are the same terminal.
    pub(super) fn open(config: &Config, stats: &Arc<Stats>) -> Result<(Self, log::Drain)> {
        let probe = config.probe.as_ref().map(|probe| probe.report);
        let check = config.check.as_ref().map(|check| check.report);
        let info = config.info.as_ref().map(|info| info.report);
        let load = config.load.as_ref().map(|load| load.report);
        let screen = match probe.or(check).or(info).or(load) {
            Some(ReportMode::Live) => Self::Live(Arc::new(Mutex::new(View::new(io::stdout())))),
            Some(ReportMode::Json) => Self::Json,
            Some(ReportMode::Quiet) | None => Self::Quiet,
        };
        let colour = log::colour_on_stderr();
        let stats = Arc::clone(stats);
        let count_lost = move || stats.count_log_line_dropped();
        let drain = match &screen {
            Self::Live(view) if Size::of_stdout().is_some() && console::user_attended_stderr() => {
                let above = AboveView::new(Arc::clone(view));
                log::install(&config.log, above, colour, count_lost)?
            }
            _ => log::install(&config.log, io::stderr(), colour, count_lost)?,
        };
        Ok((screen, drain))
    }
}

impl Output {
    /// Starts the writer; the second value is where workers put samples, if they are wanted.
    pub(super) fn start(
        screen: Screen,
        stats: Arc<Stats>,
        metrics_url: Option<String>,
    ) -> Result<(Option<Self>, Option<Samples>)> {
        let (running, samples) = match screen {
            Screen::Quiet => return Ok((None, None)),
            Screen::Json => (false, true),
            Screen::Live(_) => (true, false),
        };
        let (sender, incoming) = sync_channel(limits::REPORT_SAMPLES_MAX);
        let progress = Arc::<AtomicU64>::default();
        let writer = Writer {
            screen,
            stats,
            metrics_url,
            started: clock::mono(),
            progress: Arc::clone(&progress),
            incoming,
        };
        let running = running.then(|| sender.clone());
        let output = Self::spawn(progress, running, move || writer.run())?;
        Ok((Some(output), samples.then_some(sender)))
    }

    /// Starts a thread that writes, and counts in `progress` what it has written.
    pub(super) fn spawn(
        progress: Arc<AtomicU64>,
        running: Option<Samples>,
        write: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> Result<Self> {
        let (tell_closed, closed) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("output".to_owned())
            .spawn(move || {
                confine::drop_all();
                if let Err(error) = write() {
                    tracing::debug!(%error, "standard output cannot be written");
                    // An app that has ended does not listen.
                    let _ = tell_closed.send(());
                }
            })
            .context("the output thread")?;
        Ok(Self { thread, running, progress, closed: Some(closed) })
    }

    /// Completes with `Ok` when the reader of standard output has left. Once.
    pub(super) fn take_closed(&mut self) -> Option<oneshot::Receiver<()>> {
        self.closed.take()
    }

    /// Writes the last word and ends. Workers must have ended before. A reader that does not read
    /// is waited for until `patient` completes, if it is given, and then for a moment only: the
    /// thread is left behind in its write.
    pub(super) async fn finish(
        mut self,
        stats: &Stats,
        patient: Option<oneshot::Receiver<&'static str>>,
    ) {
        self.running = None;
        if let Some(signal) = patient {
            tokio::select! {
                () = self.ended() => {}
                _ = signal => {}
            }
        }
        if !self.thread.is_finished() && !self.ends_while_it_is_read().await {
            tracing::warn!("standard output is not read; its last lines are lost");
        } else if self.thread.join().is_err() {
            tracing::error!("the output thread panicked");
        }
        let dropped = stats.report_samples_dropped();
        if dropped > 0 {
            tracing::warn!(dropped, "lines are missing: the reader of standard output was slow");
        }
    }

    /// Completes when the thread has ended.
    async fn ended(&self) {
        while !self.thread.is_finished() {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Waits for the thread as long as its reader takes something; true if it ended.
    async fn ends_while_it_is_read(&self) -> bool {
        for _ in 0..STUCK_AFTER_LIMIT {
            let written = self.progress.load(Ordering::Relaxed);
            if tokio::time::timeout(STUCK_AFTER, self.ended()).await.is_ok() {
                return true;
            }
            if self.progress.load(Ordering::Relaxed) == written {
                return false;
            }
        }
        false
    }
}

impl Writer {
    fn run(&self) -> io::Result<()> {
        match &self.screen {
            Screen::Live(view) => self.run_live(view),
            Screen::Json => self.run_json(),
            Screen::Quiet => Ok(()),
        }
    }

    fn run_live(&self, view: &Mutex<View<Stdout>>) -> io::Result<()> {
        loop {
            let ended = match self.incoming.recv_timeout(REDRAW_INTERVAL) {
                Err(RecvTimeoutError::Disconnected) => true,
                Err(RecvTimeoutError::Timeout) | Ok(_) => false,
            };
            let rows = self.stats.lines(probe_row, check_row);
            let header = self.header(&rows);
            if ended {
                return locked(view).finish(Size::of_stdout(), &header, &rows);
            }
            let size = Size::of_stdout();
            locked(view).update(
                size,
                clock::mono().duration_since(self.started),
                &header,
                &rows,
            )?;
        }
    }

    /// Samples until every worker is gone, then the summary. Lines are flushed whenever the queue
    /// is empty, so that a pipe's reader sees each probe at once.
    fn run_json(&self) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        let mut line = Vec::new();
        let mut names = Vec::new();
        while let Ok(first) = self.incoming.recv() {
            let mut next = Some(first);
            while let Some((target, finished)) = next {
                let index = target.index();
                if index >= names.len() {
                    let rows = self.stats.lines(probe_row, check_row);
                    names = rows.into_iter().map(|row| (row.target, row.address)).collect();
                }
                if let Some((target, address)) = names.get(index) {
                    line.clear();
                    match &finished {
                        Finished::Probe(sample) => {
                            json::append_sample(&mut line, target, address, sample);
                        }
                        Finished::Check(check) => {
                            json::append_check(&mut line, target, address, check);
                        }
                        // The relay tells of these in the log.
                        Finished::Connection(_) => {}
                    }
                    out.write_all(&line)?;
                    self.progress.fetch_add(1, Ordering::Relaxed);
                }
                next = self.incoming.try_recv().ok();
            }
            out.flush()?;
        }
        let (rows, all): (Vec<Row>, Vec<_>) = self
            .stats
            .lines(
                |probe| (probe_row(probe), probe.rtt_merged()),
                |check| (check_row(check), check.rtt_merged()),
            )
            .into_iter()
            .unzip();
        let merged = quantiles(HistogramSnapshot::merged(all.iter().flatten()).as_ref());
        line.clear();
        let elapsed = clock::mono().duration_since(self.started);
        json::append_summary(&mut line, elapsed, &rows, &merged);
        out.write_all(&line)?;
        out.flush()
    }

    fn header(&self, rows: &[Row]) -> Header {
        let capabilities = self.stats.capabilities();
        let uring = capabilities.iter().find(|found| found.name == "io_uring");
        // Best first; checks have every clock of probes but one.
        let known = CheckClock::ALL.map(CheckClock::name);
        let known = std::iter::once(Clock::Hardware.name()).chain(known);
        let clocks: Vec<_> =
            known.filter(|name| rows.iter().any(|row| row.clock == Some(name))).collect();
        Header {
            io: if uring.is_some_and(|found| found.available) { "uring" } else { "poll" }
                .to_owned(),
            clock: if clocks.is_empty() { "none yet".to_owned() } else { clocks.join(", ") },
            metrics_url: self.metrics_url.clone(),
        }
    }
}

/// One target as the table and the summary show it.
fn probe_row(probe: &ProbeSnapshot) -> Row {
    let counters = &probe.counters;
    Row {
        target: probe.target.clone(),
        address: probe.address.clone(),
        clock: probe.newest_clock.map(Clock::name),
        connected: counters.connected == 1,
        last_ns: probe.last_rtt_ns(),
        rtt: quantiles(probe.rtt_merged().as_ref()),
        window_loss_percent: probe.loss_percent(),
        counts: Counts {
            sent: counters.sent,
            received: counters.received,
            timeouts: counters.timeouts,
            in_flight: counters.in_flight,
            skipped: counters.skipped,
            late: counters.late,
        },
    }
}

/// One target of half-open checks: what is not open is lost.
fn check_row(check: &CheckSnapshot) -> Row {
    let counters = &check.counters;
    Row {
        target: check.target.clone(),
        address: check.address.clone(),
        clock: check.newest_clock.map(CheckClock::name),
        connected: check.up,
        last_ns: check.last_rtt_ns(),
        rtt: quantiles(check.rtt_merged().as_ref()),
        window_loss_percent: check.loss_percent(),
        counts: Counts {
            sent: counters.sent,
            received: counters.open,
            timeouts: counters.sent - counters.open - counters.in_flight,
            in_flight: counters.in_flight,
            skipped: counters.skipped,
            late: counters.late,
        },
    }
}

fn quantiles(rtt: Option<&HistogramSnapshot>) -> Quantiles {
    rtt.map_or_else(Quantiles::default, |rtt| Quantiles {
        p50_ns: rtt.quantile(0.5),
        p99_ns: rtt.quantile(0.99),
        p999_ns: rtt.quantile(0.999),
        max_ns: Some(rtt.max_ns),
    })
}

pub(super) fn locked(view: &Mutex<View<Stdout>>) -> MutexGuard<'_, View<Stdout>> {
    // A view is valid after every write; a panic elsewhere does not spoil it.
    view.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Between two looks at a thread that is about to end.
const LOOK_AGAIN: Duration = Duration::from_millis(2);
/// A reader that takes nothing for this long has stopped.
const STUCK_AFTER: Duration = Duration::from_millis(200);
/// A reader that takes a little each time is waited for this often.
const STUCK_AFTER_LIMIT: usize = 10;
