//! Logs: tracing events to a writer (standard error, or the live view's, which keeps its table
//! whole), as text or JSON lines. Settings in; the process's one subscriber is set.
//!
//! A thread of its own writes. Whoever logs hands the line over and goes on: a reader of standard
//! error that has stopped must hold up neither a probe nor the control plane. The thread also sees
//! to it that a target that flaps does not flood the log (`limit`); debug and trace lines are
//! not limited: who asks for them wants them all.

mod limit;

use std::fmt::{self, Debug, Write as _};
use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, SyncSender, channel, sync_channel};
use std::time::Duration;

use anyhow::Context;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use self::limit::{Limiter, Told, Topic};
use crate::config::LogSection;
use crate::sys::{self, Kept, clock};

/// The running writer of the log.
#[derive(Debug)]
pub struct Drain(Sender<Message>);

/// Where lines are handed over.
#[derive(Clone)]
struct Intake {
    messages: Sender<Message>,
    /// Lines that wait to be written.
    waiting: Arc<AtomicUsize>,
    count_lost: Arc<dyn Fn() + Send + Sync>,
}

#[derive(Debug)]
enum Message {
    /// Of a topic if it may be held back.
    Line(Option<Topic>, Vec<u8>),
    /// Everything before was written.
    Flush(SyncSender<()>),
}

/// Formats an event as a whole line and hands it over; what it is asked to write to gets nothing.
struct HandOver<F> {
    format: F,
    intake: Intake,
}

/// The thread that writes.
struct Scribe<W> {
    out: W,
    json: bool,
    limiter: Limiter,
    waiting: Arc<AtomicUsize>,
    count_lost: Arc<dyn Fn() + Send + Sync>,
}

/// Whom or what an event is about.
#[derive(Default)]
struct Subject(String);

/// Sets the subscriber of this process. `colour` should be true only for a terminal that wants it
/// ([`colour_on_stderr`]); JSON has none. `count_lost` is called for each line that `out` was too
/// slow for, or refused. Fails if there is a subscriber already.
pub fn install(
    section: &LogSection,
    out: impl Write + Send + 'static,
    colour: bool,
    count_lost: impl Fn() + Send + Sync + 'static,
) -> anyhow::Result<Drain> {
    let (intake, drain) = start(out, section.json, Arc::new(count_lost))?;
    tracing::subscriber::set_global_default(subscriber(section, intake, colour))?;
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

impl Intake {
    fn hand_over(&self, topic: Option<Topic>, line: Vec<u8>) {
        if self.waiting.fetch_add(1, Ordering::Relaxed) < LINES_MAX {
            // The receiver lives as long as the process.
            let _ = self.messages.send(Message::Line(topic, line));
        } else {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            (self.count_lost)();
        }
    }
}

impl<S, N, F> FormatEvent<S, N> for HandOver<F>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
    F: FormatEvent<S, N>,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        _unused: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut line = String::new();
        self.format.format_event(context, Writer::new(&mut line), event)?;
        let kind = event.metadata();
        let topic = (*kind.level() <= Level::INFO).then(|| {
            let mut subject = Subject::default();
            event.record(&mut subject);
            // The name is the place in the source.
            Topic { kind: kind.name(), subject: subject.0 }
        });
        self.intake.hand_over(topic, line.into_bytes());
        Ok(())
    }
}

impl Visit for Subject {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        if SUBJECTS.contains(&field.name()) {
            // A string takes everything.
            let _ = write!(self.0, "{value:?} ");
        }
    }
}

impl<W: Write> Scribe<W> {
    fn write_lines(&mut self, incoming: &Receiver<Message>) {
        loop {
            let message = match self.limiter.next_due() {
                Some(due) => incoming.recv_timeout(due.duration_since(clock::mono())),
                None => incoming.recv().map_err(|_| RecvTimeoutError::Disconnected),
            };
            while let Some(told) = self.limiter.release(clock::mono()) {
                self.write_told(told);
            }
            match message {
                Ok(Message::Line(topic, line)) => {
                    let line = match topic {
                        Some(topic) => self.limiter.admit(topic, line, clock::mono()),
                        None => Some(line),
                    };
                    if let Some(line) = line {
                        self.write(&line);
                    }
                    self.waiting.fetch_sub(1, Ordering::Relaxed);
                }
                Ok(Message::Flush(done)) => {
                    self.write_held();
                    // Whoever asked may have given up.
                    let _ = done.send(());
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return self.write_held(),
            }
        }
    }

    fn write_held(&mut self) {
        while let Some(told) = self.limiter.release_early() {
            self.write_told(told);
        }
    }

    /// A line with the number of those that it stands for, at its end.
    fn write_told(&mut self, Told { mut line, more }: Told) {
        if more > 0 {
            let (end, note) = if self.json {
                ("}\n", format!(",\"more_like_this\":{more}}}\n"))
            } else {
                ("\n", format!(" ({more} more like this)\n"))
            };
            if line.ends_with(end.as_bytes()) {
                line.truncate(line.len() - end.len());
            }
            line.extend_from_slice(note.as_bytes());
        }
        self.write(&line);
    }

    fn write(&mut self, line: &[u8]) {
        // A reader that left is no reason to end: the measuring goes on.
        if self.out.write_all(line).is_err() {
            (self.count_lost)();
        }
    }
}

/// Starts the thread that writes.
fn start(
    out: impl Write + Send + 'static,
    json: bool,
    count_lost: Arc<dyn Fn() + Send + Sync>,
) -> anyhow::Result<(Intake, Drain)> {
    let (messages, incoming) = channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let limiter = Limiter::default();
    let mut scribe = Scribe {
        out,
        json,
        limiter,
        waiting: Arc::clone(&waiting),
        count_lost: Arc::clone(&count_lost),
    };
    let intake = Intake { messages: messages.clone(), waiting, count_lost };
    std::thread::Builder::new()
        .name("log".to_owned())
        .spawn(move || {
            // Kept is what the kernel refuses to take, and that is nothing.
            let _ = sys::drop_all_capabilities_but(Kept::Nothing);
            scribe.write_lines(&incoming);
        })
        .context("the log's thread")?;
    Ok((intake, Drain(messages)))
}

fn subscriber(
    section: &LogSection,
    intake: Intake,
    colour: bool,
) -> Box<dyn Subscriber + Send + Sync> {
    let builder = tracing_subscriber::fmt()
        .with_max_level(LevelFilter::from_level(section.level))
        .with_writer(io::sink)
        // It would print to standard error, and panic where that is closed.
        .log_internal_errors(false)
        .with_target(false);
    if section.json {
        let builder = builder.json().flatten_event(true);
        Box::new(builder.map_event_format(|format| HandOver { format, intake }).finish())
    } else {
        let coloured = |format: tracing_subscriber::fmt::format::Format| HandOver {
            format: format.with_ansi(colour),
            intake,
        };
        Box::new(builder.map_event_format(coloured).finish())
    }
}

/// Lines that may wait for the writer: the start of a run with many unresolved names fits.
const LINES_MAX: usize = 4_096;
/// Fields that say whom or what an event is about.
const SUBJECTS: [&str; 6] = ["name", "address", "to", "host", "capability", "signal"];

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
        let (intake, drain) =
            start(Stuck(stuck, memory.clone()), false, Arc::new(count_lost)).unwrap();
        for _ in 0..LINES_MAX + 7 {
            intake.hand_over(None, b"line\n".to_vec());
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
        intake.hand_over(None, b"line\n".to_vec());
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

    fn logged(level: Level, json: bool, colour: bool) -> String {
        logged_of(level, json, colour, || {
            tracing::warn!(target_name = "db", "connection lost");
            tracing::debug!("detail");
        })
    }

    fn logged_of(level: Level, json: bool, colour: bool, work: impl FnOnce()) -> String {
        let memory = Memory::default();
        let (intake, drain) = start(memory.clone(), json, Arc::new(|| ())).unwrap();
        let section = LogSection { level, json };
        tracing::subscriber::with_default(subscriber(&section, intake, colour), work);
        drain.flush(Duration::from_secs(60));
        let bytes = memory.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn text_is_plain_unless_colour_is_wanted() {
        let text = logged(Level::INFO, false, false);
        assert_eq!(text.lines().count(), 1);
        assert!(text.ends_with(" WARN connection lost target_name=\"db\"\n"), "{text:?}");
        assert!(!text.contains('\x1b'));
        assert!(logged(Level::INFO, false, true).contains('\x1b'));
    }

    #[test]
    fn json_is_one_object_a_line() {
        let text = logged(Level::DEBUG, true, true);
        let lines: Vec<serde_json::Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 2);
        assert_eq!(lines[0]["message"], "connection lost");
        assert_eq!(lines[0]["target_name"], "db");
        assert_eq!(lines[1]["level"], "DEBUG");
    }

    #[test]
    fn the_level_is_the_least_severe_one_written() {
        assert_eq!(logged(Level::ERROR, false, false), "");
    }

    #[test]
    fn a_target_that_flaps_is_told_with_the_number_of_its_flaps() {
        let burst = usize::try_from(limit::BURST).unwrap();
        let flap = || {
            for turn in 0..limit::BURST + 38 {
                tracing::warn!(name = "db", turn, "no connection");
                tracing::debug!(name = "db", "not limited");
            }
            tracing::warn!(name = "web", "no connection");
        };
        let text = logged_of(Level::INFO, false, false, flap);
        let about = |name: &str| text.lines().filter(|line| line.contains(name)).count();
        assert_eq!((about("db"), about("web")), (burst + 1, 1), "{text}");
        let last = text.lines().last().unwrap();
        assert!(last.ends_with("turn=42 (37 more like this)"), "{last}");

        let text = logged_of(Level::INFO, true, false, flap);
        let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
        assert_eq!((&last["turn"], &last["more_like_this"]), (&42.into(), &37.into()), "{text}");

        let text = logged_of(Level::DEBUG, false, false, flap);
        assert_eq!(text.matches("not limited").count(), burst + 38);
    }
}
