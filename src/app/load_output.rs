//! What a load says on standard output, by a thread of its own: runs that begin and end in, lines
//! out. On a terminal the run is shown while it lasts; elsewhere nothing is said before the end.

use std::io::{self, BufWriter, Stdout, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};

use super::output::{Screen, locked};
use crate::report::live::{PLAIN_WIDTH, REDRAW_INTERVAL, Size, View};
use crate::report::load::{Asked, Run, Setting, append_run, append_summary, summary_lines};
use crate::stats::LoadSeries;

/// What the thread is told.
pub(super) enum News {
    /// A run begins, and is measured into these.
    Begins(Asked, Vec<Arc<LoadSeries>>),
    /// A run is over.
    Ends(Box<Run>),
}

/// What the thread works with.
pub(super) struct Writer {
    pub(super) screen: Screen,
    pub(super) setting: Setting,
    /// Grows while the reader reads.
    pub(super) progress: Arc<AtomicU64>,
    pub(super) incoming: Receiver<News>,
}

impl Writer {
    /// Writes until the load is over.
    pub(super) fn run(self) -> io::Result<()> {
        match &self.screen {
            Screen::Live(view) => {
                let view = Arc::clone(view);
                self.run_live(&view)
            }
            Screen::Json => self.run_json(),
            Screen::Quiet => Ok(()),
        }
    }

    fn run_live(&self, view: &Mutex<View<Stdout>>) -> io::Result<()> {
        let mut runs = Vec::new();
        let mut running = None;
        loop {
            match self.incoming.recv_timeout(REDRAW_INTERVAL) {
                Ok(News::Begins(asked, series)) => running = Some((asked, series)),
                Ok(News::Ends(run)) => {
                    running = None;
                    runs.push(*run);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => {
                    let width = Size::of_stdout().map_or(PLAIN_WIDTH, |size| size.columns);
                    return locked(view).end(&summary_lines(&self.setting, &runs, width));
                }
            }
            self.progress.fetch_add(1, Ordering::Relaxed);
            if let (Some((asked, series)), Some(size)) = (&running, Size::of_stdout()) {
                let measured = LoadSeries::sum(series);
                let run = Run { asked: asked.clone(), measured, complete: false };
                // The last column stays free: some terminals wrap when it is written.
                let width = size.columns.saturating_sub(1);
                let line = run.progress_line(&self.setting, runs.len() + 1, width);
                locked(view).draw(vec![line])?;
            }
        }
    }

    /// A line a run, as soon as it is over.
    fn run_json(&self) -> io::Result<()> {
        let mut out = BufWriter::new(io::stdout().lock());
        let mut runs = Vec::new();
        let mut line = Vec::new();
        while let Ok(news) = self.incoming.recv() {
            let News::Ends(run) = news else { continue };
            line.clear();
            append_run(&mut line, &self.setting, &run);
            runs.push(*run);
            out.write_all(&line)?;
            out.flush()?;
            self.progress.fetch_add(1, Ordering::Relaxed);
        }
        line.clear();
        append_summary(&mut line, &self.setting, &runs);
        out.write_all(&line)?;
        out.flush()
    }
}
