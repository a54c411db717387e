//! The live view: a table redrawn in place on a terminal, a line a target every ten seconds
//! elsewhere, and a summary table at the end. Rows in, bytes to a writer; an error of the writer
//! (`EPIPE` when the reader left) goes to the caller, who ends the run.

use std::io::{self, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::table::{cut, header_line, live_table, plain_line, summary_table};
use super::{Header, Row};

/// How often a plain line is written.
pub const PLAIN_INTERVAL: Duration = Duration::from_secs(10);
/// How often a terminal is worth redrawing.
pub const REDRAW_INTERVAL: Duration = Duration::from_millis(250);
/// The width of a summary where there is no terminal.
pub const PLAIN_WIDTH: usize = 160;
/// ECMA-48: erase from the cursor to the end of the screen.
const ERASE_BELOW: &str = "\x1b[J";

/// The size of a terminal, in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size {
    /// Characters in a line.
    pub columns: usize,
    /// Lines.
    pub lines: usize,
}

impl Size {
    /// That of standard output; `None` if it is no terminal that can be redrawn.
    #[must_use]
    pub fn of_stdout() -> Option<Self> {
        let terminal = console::Term::stdout();
        // On Windows the question about colours also switches escape sequences on. `TERM=dumb`
        // cannot move its cursor.
        let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
        let redrawable = terminal.features().is_attended() && !dumb;
        let _ = terminal.features().colors_supported();
        let (lines, columns) = terminal.size_checked().unwrap_or((24, 80));
        redrawable.then(|| Self { columns: columns.into(), lines: lines.into() })
    }
}

/// What is on the screen now, and how to replace it.
#[derive(Debug)]
pub struct View<W> {
    out: W,
    /// The frame on the terminal, without the final newline of each line.
    drawn: Vec<String>,
    /// When the next plain lines are due, since the start.
    plain_due: Duration,
    /// Whether the header line was written as plain text.
    headed: bool,
}

/// Standard error for logs while a view owns the same terminal: each write lands above the table.
/// Takes the view's lock for each write, as standard error itself has one.
#[derive(Debug)]
pub struct AboveView<W>(Arc<Mutex<View<W>>>);

impl<W> AboveView<W> {
    /// Writes above this view.
    pub const fn new(view: Arc<Mutex<View<W>>>) -> Self {
        Self(view)
    }
}

impl<W> Clone for AboveView<W> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<W: Write> Write for AboveView<W> {
    /// One call a log line: `tracing_subscriber` formats the whole line first.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut view = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        view.write_above(&mut io::stderr().lock(), bytes)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> View<W> {
    /// A view that has written nothing yet.
    pub const fn new(out: W) -> Self {
        Self { out, drawn: Vec::new(), plain_due: PLAIN_INTERVAL, headed: false }
    }

    /// Shows the newest rows. `size` is the terminal's now, `None` where there is none; `elapsed`
    /// counts since the start.
    pub fn update(
        &mut self,
        size: Option<Size>,
        elapsed: Duration,
        header: &Header,
        rows: &[Row],
    ) -> io::Result<()> {
        let Some(size) = size else { return self.update_plain(elapsed, header, rows) };
        self.draw(frame(size, header, rows))
    }

    /// Shows these lines in the place of the last ones, on a terminal.
    pub fn draw(&mut self, frame: Vec<String>) -> io::Result<()> {
        let mut text = self.rewind();
        append_lines(&mut text, &frame);
        self.drawn = frame;
        self.write(&text)
    }

    /// Writes these lines for good, above what is shown.
    pub fn print(&mut self, lines: &[String]) -> io::Result<()> {
        let mut text = self.rewind();
        append_lines(&mut text, lines);
        append_lines(&mut text, &self.drawn);
        self.write(&text)
    }

    /// Writes these lines for good, in the place of what is shown.
    pub fn end(&mut self, lines: &[String]) -> io::Result<()> {
        let mut text = self.rewind();
        self.drawn.clear();
        append_lines(&mut text, lines);
        self.write(&text)
    }

    /// Replaces the live table by the summary.
    pub fn finish(&mut self, size: Option<Size>, header: &Header, rows: &[Row]) -> io::Result<()> {
        let width = size.map_or(PLAIN_WIDTH, |size| size.columns);
        let mut lines = Vec::new();
        if !self.headed {
            lines.push(header_line(header));
        }
        lines.extend(summary_table(rows, width));
        self.end(&lines)
    }

    /// Writes whole lines of something else (a log) to `other`, on the same terminal, without
    /// leaving half a table behind.
    pub fn write_above(&mut self, other: &mut impl Write, lines: &[u8]) -> io::Result<()> {
        if self.drawn.is_empty() {
            return other.write_all(lines);
        }
        let erase = self.rewind();
        self.write(&erase)?;
        other.write_all(lines)?;
        other.flush()?;
        let frame = self.drawn.join("\n") + "\n";
        self.write(&frame)
    }

    /// What moves the cursor to where the frame begins and erases it.
    fn rewind(&self) -> String {
        match self.drawn.len() {
            0 => String::new(),
            lines => format!("\x1b[{lines}A\r{ERASE_BELOW}"),
        }
    }

    fn update_plain(&mut self, elapsed: Duration, header: &Header, rows: &[Row]) -> io::Result<()> {
        let mut text = String::new();
        if !self.headed {
            self.headed = true;
            text.push_str(&header_line(header));
            text.push('\n');
        }
        if elapsed >= self.plain_due {
            // A late update is not made up for.
            while self.plain_due <= elapsed {
                self.plain_due += PLAIN_INTERVAL;
            }
            for row in rows {
                text.push_str(&plain_line(row));
                text.push('\n');
            }
        }
        self.write(&text)
    }

    fn write(&mut self, text: &str) -> io::Result<()> {
        if text.is_empty() {
            return Ok(());
        }
        self.out.write_all(text.as_bytes())?;
        self.out.flush()
    }
}

fn append_lines(text: &mut String, lines: &[String]) {
    for line in lines {
        text.push_str(line);
        text.push('\n');
    }
}

/// The header, the table, and how many targets did not fit. One line stays free for the cursor:
/// a frame as tall as the terminal would scroll, and then not be found again.
fn frame(size: Size, header: &Header, rows: &[Row]) -> Vec<String> {
    let mut lines = vec![cut(&header_line(header), size.columns)];
    let room = size.lines.saturating_sub(lines.len() + 2).max(1);
    if rows.len() <= room {
        lines.extend(live_table(rows, size.columns));
        return lines;
    }
    let shown = room.saturating_sub(1).max(1);
    lines.extend(live_table(&rows[..shown], size.columns));
    let more = format!("… and {} more targets", rows.len() - shown);
    lines.push(cut(&more, size.columns));
    lines
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;
    use crate::report::Counts;

    const SIZE: Size = Size { columns: 80, lines: 24 };

    fn rows(count: u64) -> Vec<Row> {
        let row = |number: u64| Row {
            target: format!("t{number}"),
            counts: Counts { sent: number, ..Counts::default() },
            ..Row::default()
        };
        (1..=count).map(row).collect()
    }

    fn text(view: &mut View<Vec<u8>>) -> String {
        String::from_utf8(std::mem::take(&mut view.out)).unwrap()
    }

    #[test]
    fn a_terminal_is_redrawn_in_place() {
        let (mut view, header) = (View::new(Vec::new()), Header::default());
        view.update(Some(SIZE), Duration::ZERO, &header, &rows(2)).unwrap();
        let first = text(&mut view);
        assert_eq!(first.lines().count(), 4);
        assert!(!first.contains('\x1b'));
        view.update(Some(SIZE), REDRAW_INTERVAL, &header, &rows(3)).unwrap();
        let second = text(&mut view);
        assert!(second.starts_with("\x1b[4A\r\x1b[Jrttscope "), "{second:?}");
        view.write_above(&mut Vec::new(), b"log\n").unwrap();
        assert_eq!(text(&mut view), second.replace("[4A", "[5A"));
        view.finish(Some(SIZE), &header, &rows(3)).unwrap();
        let last = text(&mut view);
        assert!(last.starts_with("\x1b[5A\r\x1b[J"), "{last:?}");
        assert!(last.ends_with("3 targets: 6 sent, 0 received, 0 lost (-), 0 late\n"), "{last:?}");
    }

    #[test]
    fn what_is_printed_stays_above_what_is_drawn() {
        let lines = |text: &str| vec![text.to_owned()];
        let mut view = View::new(Vec::new());
        view.print(&lines("first")).unwrap();
        view.draw(lines("50 %")).unwrap();
        assert_eq!(text(&mut view), "first\n50 %\n");
        view.print(&lines("second")).unwrap();
        assert_eq!(text(&mut view), "\x1b[1A\r\x1b[Jsecond\n50 %\n");
        view.draw(lines("90 %")).unwrap();
        view.end(&lines("all")).unwrap();
        let erase = "\x1b[1A\r\x1b[J";
        assert_eq!(text(&mut view), format!("{erase}90 %\n{erase}all\n"));
    }

    #[test]
    fn a_frame_leaves_a_line_for_the_cursor() {
        for lines in 5..40 {
            let frame = frame(Size { lines, ..SIZE }, &Header::default(), &rows(20));
            assert!(frame.len() < lines, "{lines}: {}", frame.len());
            let listed = frame.iter().filter(|line| line.starts_with('t')).count() - 1;
            let more = frame.last().filter(|line| line.starts_with('…'));
            assert_eq!(more.is_none(), listed == 20, "{lines}");
        }
    }

    #[test]
    fn elsewhere_there_is_a_line_a_target_every_ten_seconds() {
        let (mut view, header) = (View::new(Vec::new()), Header::default());
        let mut lines_at = |seconds| {
            view.update(None, Duration::from_secs(seconds), &header, &rows(2)).unwrap();
            text(&mut view).lines().count()
        };
        let counts: Vec<usize> =
            [0, 9, 10, 11, 19, 20, 47, 49, 50].into_iter().map(&mut lines_at).collect();
        assert_eq!(counts, [1, 0, 2, 0, 0, 2, 2, 0, 2]);
        view.finish(None, &header, &rows(2)).unwrap();
        let summary = text(&mut view);
        assert!(summary.starts_with("target  clock  sent"), "{summary}");
    }

    #[test]
    fn a_reader_that_left_is_told() {
        struct Gone;
        impl Write for Gone {
            fn write(&mut self, _: &[u8]) -> io::Result<usize> {
                Err(io::ErrorKind::BrokenPipe.into())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let error =
            View::new(Gone).update(None, Duration::ZERO, &Header::default(), &rows(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
