//! Logs: tracing events to a writer (standard error, or the live view's, which keeps its table
//! whole), as text or JSON lines. Settings in; the process's one subscriber is set.
//!
//! A thread of its own writes. Whoever logs hands the line over and goes on: a reader of standard
//! error that has stopped must hold up neither a probe nor the control plane.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use anyhow::Context;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::MakeWriter;

use crate::config::LogSection;

/// The running writer of the log.
#[derive(Debug)]
pub struct Drain(Sender<Message>);

/// Where a line is handed over; each use is one whole line.
#[derive(Clone)]
struct Intake {
    messages: Sender<Message>,
    /// Lines that wait to be written.
    waiting: Arc<AtomicUsize>,
    count_lost: Arc<dyn Fn() + Send + Sync>,
}

#[derive(Debug)]
enum Message {
    Line(Vec<u8>),
    /// Everything before was written.
    Flush(SyncSender<()>),
}

/// Sets the subscriber of this process. `colour` should be true only for a terminal that wants it
/// ([`colour_on_stderr`]); JSON has none. `count_lost` is called for each line that `out` was too
/// slow for, or refused. Fails if there is a subscriber already.
pub fn install(
    section: &LogSection,
    out: impl Write + Send + 'static,
    colour: bool,
    count_lost: impl Fn() + Send + Sync + 'static,
) -> anyhow::Result<Drain> {
    let (intake, drain) = start(out, Arc::new(count_lost))?;
    tracing::subscriber::set_global_default(subscriber(section, move || intake.clone(), colour))?;
    Ok(drain)
}

/// Whether standard error is a terminal that wants colours (`NO_COLOR`, `CLICOLOR`).
#[must_use]
pub fn colour_on_stderr() -> bool {
    console::colors_enabled_stderr()
}

impl Drain {
    /// Waits until everything logged so far was written, but not longer than `limit`.
    pub fn flush(&self, limit: Duration) {
        let (done, written) = sync_channel(1);
        if self.0.send(Message::Flush(done)).is_ok() {
            // Past the limit nobody reads; that is what the limit is for.
            let _ = written.recv_timeout(limit);
        }
    }
}

impl Write for Intake {
    /// One call a log line: `tracing_subscriber` formats the whole line first.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < LINES_MAX {
            // The receiver lives as long as the process.
            let _ = self.messages.send(Message::Line(line.to_vec()));
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            (self.count_lost)();
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Starts the thread that writes.
fn start(
    out: impl Write + Send + 'static,
    count_lost: Arc<dyn Fn() + Send + Sync>,
) -> anyhow::Result<(Intake, Drain)> {
    let (messages, incoming) = channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let intake = Intake { messages: messages.clone(), waiting: Arc::clone(&waiting), count_lost };
    let count_lost = Arc::clone(&intake.count_lost);
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || write_lines(&incoming, out, &waiting, &*count_lost))
        .context("the log's thread")?;
    Ok((intake, Drain(messages)))
}

fn write_lines(
    incoming: &Receiver<Message>,
    mut out: impl Write,
    waiting: &AtomicUsize,
    count_lost: &dyn Fn(),
) {
    for message in incoming {
        match message {
            Message::Line(line) => {
                // A reader that left is no reason to end: the measuring goes on.
                if out.write_all(&line).is_err() {
                    count_lost();
                }
                waiting.fetch_sub(1, Ordering::Relaxed);
            }
            Message::Flush(done) => {
                // Whoever asked may have given up.
                let _ = done.send(());
            }
        }
    }
}

fn subscriber<W>(
    section: &LogSection,
    writer: W,
    colour: bool,
) -> Box<dyn tracing::Subscriber + Send + Sync>
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(section.level))
        .with_writer(writer)
        // It would print to standard error, and panic where that is closed.
        .log_internal_errors(false)
        .with_target(false);
    if section.json {
        Box::new(builder.json().flatten_event(true).finish())
    } else {
        Box::new(builder.with_ansi(colour).finish())
    }
}

/// Lines that may wait for the writer: the start of a run with many unresolved names fits.
const LINES_MAX: usize = 4_096;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::sync::Mutex;

    use super::*;

    /// A writer that waits before each line until it is let go.
    struct Stuck(Receiver<()>, Memory);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.recv().map_err(io::Error::other)?;
            self.1.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_writer_loses_lines_and_holds_up_nobody() {
        let (let_go, stuck) = channel();
        let memory = Memory::default();
        let lost = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&lost);
        let count_lost = move || {
            count.fetch_add(1, Ordering::Relaxed);
        };
        let (mut intake, drain) =
            start(Stuck(stuck, memory.clone()), Arc::new(count_lost)).unwrap();
        for _ in 0..LINES_MAX + 7 {
            intake.write_all(b"line\n").unwrap();
        }
        assert_eq!(lost.load(Ordering::Relaxed), 7);
        drain.flush(Duration::from_millis(1));
        assert!(memory.0.lock().unwrap().is_empty(), "the flush gave up");
        for _ in 0..LINES_MAX {
            let_go.send(()).unwrap();
        }
        drain.flush(Duration::from_secs(60));
        assert_eq!(memory.0.lock().unwrap().len(), 5 * LINES_MAX);
        // A writer that fails loses lines too, and there is room again.
        drop(let_go);
        intake.write_all(b"line\n").unwrap();
        drain.flush(Duration::from_secs(60));
        assert_eq!(lost.load(Ordering::Relaxed), 8);
    }

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(level: tracing::Level, json: bool, colour: bool) -> String {
        let memory = Memory::default();
        let writer = memory.clone();
        let section = LogSection { level, json };
        let subscriber = subscriber(&section, move || writer.clone(), colour);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target_name = "db", "connection lost");
            tracing::debug!("detail");
        });
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_is_plain_unless_colour_is_wanted() {
        let text = logged(tracing::Level::INFO, false, false);
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with(" WARN connection lost target_name=\"db\"\n"), "{text:?}");
        assert!(!text.contains('\x1b'));
        assert!(logged(tracing::Level::INFO, false, true).contains('\x1b'));
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(tracing::Level::DEBUG, true, true);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"], "connection lost");
        assert_eq!(lines[0]["target_name"], "db");
        assert_eq!(lines[1]["level"], "DEBUG");
    }

    #[test]
    fn the_level_is_the_least_severe_one_written() {
        assert_eq!(logged(tracing::Level::ERROR, false, false), "");
    }
}
