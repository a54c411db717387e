//! Tables and lines as text: rows in, lines out that fit a width. Pure; `live` writes them.

use super::units::{percent_text, time_text};
use super::{Header, Row, total_counts};

/// Between two columns.
const GAP: &str = "  ";
/// A target's name is not cut below this many characters while a column can be left out instead.
const NAME_CHARS_MIN: usize = 12;

/// One column of a table.
struct Column {
    title: &'static str,
    /// Columns with the highest rank are left out first where the terminal is narrow.
    rank: u8,
    text: fn(&Row) -> String,
}

const LIVE: [Column; 8] = [
    Column { title: "clock", rank: 6, text: |row| state_text(row).to_owned() },
    Column { title: "last", rank: 3, text: |row| time_text(row.last_ns) },
    Column { title: "p50", rank: 1, text: |row| time_text(row.rtt.p50_ns) },
    Column { title: "p99", rank: 0, text: |row| time_text(row.rtt.p99_ns) },
    Column { title: "p99.9", rank: 4, text: |row| time_text(row.rtt.p999_ns) },
    Column { title: "max", rank: 5, text: |row| time_text(row.rtt.max_ns) },
    Column { title: "loss", rank: 2, text: |row| percent_text(row.window_loss_percent) },
    Column { title: "late", rank: 7, text: |row| row.counts.late_or_skipped().to_string() },
];

const SUMMARY: [Column; 10] = [
    Column { title: "clock", rank: 7, text: |row| clock_text(row).to_owned() },
    Column { title: "sent", rank: 3, text: |row| row.counts.sent.to_string() },
    Column { title: "received", rank: 4, text: |row| row.counts.received.to_string() },
    Column { title: "lost", rank: 8, text: |row| row.counts.timeouts.to_string() },
    Column { title: "loss", rank: 2, text: |row| percent_text(row.counts.loss_percent()) },
    Column { title: "p50", rank: 1, text: |row| time_text(row.rtt.p50_ns) },
    Column { title: "p99", rank: 0, text: |row| time_text(row.rtt.p99_ns) },
    Column { title: "p99.9", rank: 5, text: |row| time_text(row.rtt.p999_ns) },
    Column { title: "max", rank: 6, text: |row| time_text(row.rtt.max_ns) },
    Column { title: "late", rank: 9, text: |row| row.counts.late_or_skipped().to_string() },
];

/// The line above the table.
#[must_use]
pub fn header_line(header: &Header) -> String {
    let Header { io, clock, metrics_url } = header;
    let metrics = metrics_url.as_deref().unwrap_or("no metrics (--web.listen-address)");
    let version = env!("CARGO_PKG_VERSION");
    format!("rttscope {version}{GAP}io={io} clock={clock}{GAP}{metrics}")
}

/// The live table, no line wider than `width` characters. Loss is that of the sliding window.
#[must_use]
pub fn live_table(rows: &[Row], width: usize) -> Vec<String> {
    table(&LIVE, rows, width)
}

/// The table at the end of a run, and the totals of several targets. Loss is that of the run.
#[must_use]
pub fn summary_table(rows: &[Row], width: usize) -> Vec<String> {
    let mut lines = table(&SUMMARY, rows, width);
    if rows.len() > 1 {
        let total = total_counts(rows);
        let line = format!(
            "{} targets: {} sent, {} received, {} lost ({}), {} late",
            rows.len(),
            total.sent,
            total.received,
            total.timeouts,
            percent_text(total.loss_percent()),
            total.late_or_skipped(),
        );
        lines.push(cut(&line, width));
    }
    lines
}

/// One target's line where there is no terminal, as `key=value` words.
#[must_use]
pub fn plain_line(row: &Row) -> String {
    let name = if row.target.contains(|c: char| c.is_whitespace() || c == '"' || c == '=') {
        format!("{:?}", row.target)
    } else {
        row.target.clone()
    };
    format!(
        "target={name} address={} connected={} clock={} last={} p50={} p99={} p99.9={} max={} \
         loss={} late={} sent={} received={} timeouts={} in_flight={}",
        row.address,
        row.connected,
        clock_text(row),
        time_text(row.last_ns),
        time_text(row.rtt.p50_ns),
        time_text(row.rtt.p99_ns),
        time_text(row.rtt.p999_ns),
        time_text(row.rtt.max_ns),
        percent_text(row.window_loss_percent),
        row.counts.late_or_skipped(),
        row.counts.sent,
        row.counts.received,
        row.counts.timeouts,
        row.counts.in_flight,
    )
}

/// `text` in at most `width` characters; what was cut is an ellipsis.
#[must_use]
pub fn cut(text: &str, width: usize) -> String {
    if chars(text) <= width {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(width.saturating_sub(1)).collect();
    if width > 0 {
        short.push('…');
    }
    short
}

fn table(columns: &[Column], rows: &[Row], width: usize) -> Vec<String> {
    let mut cells: Vec<(&Column, Vec<String>)> = columns
        .iter()
        .map(|column| (column, rows.iter().map(|row| (column.text)(row)).collect()))
        .collect();
    let name_chars = rows.iter().map(|row| chars(&row.target)).max().unwrap_or(0).max(6);
    let name_room = loop {
        let taken: usize =
            cells.iter().map(|(column, texts)| chars(GAP) + column_chars(column, texts)).sum();
        let room = width.saturating_sub(taken);
        if room >= name_chars.min(NAME_CHARS_MIN) || cells.is_empty() {
            break room.min(name_chars);
        }
        let widest = cells.iter().map(|(column, _)| column.rank).max();
        cells.retain(|(column, _)| Some(column.rank) != widest);
    };
    let line = |name: &str, texts: &mut dyn Iterator<Item = (usize, &str)>| {
        let mut line = format!("{:name_room$}", cut(name, name_room));
        for (column_width, text) in texts {
            line.push_str(GAP);
            line.push_str(&format!("{text:>column_width$}"));
        }
        line.trim_end().to_owned()
    };
    let widths: Vec<usize> =
        cells.iter().map(|(column, texts)| column_chars(column, texts)).collect();
    let titles = cells.iter().map(|(column, _)| column.title);
    let mut lines = vec![line("target", &mut widths.iter().copied().zip(titles))];
    for (index, row) in rows.iter().enumerate() {
        let texts = cells.iter().map(|(_, texts)| texts[index].as_str());
        lines.push(line(&row.target, &mut widths.iter().copied().zip(texts)));
    }
    lines
}

fn column_chars(column: &Column, texts: &[String]) -> usize {
    texts.iter().map(|text| chars(text)).max().unwrap_or(0).max(chars(column.title))
}

fn chars(text: &str) -> usize {
    text.chars().count()
}

/// The clock, or that there is no connection.
fn state_text(row: &Row) -> &'static str {
    if row.connected { clock_text(row) } else { "down" }
}

fn clock_text(row: &Row) -> &'static str {
    row.clock.unwrap_or("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Counts, Quantiles};

    fn rows() -> Vec<Row> {
        let up = Row {
            target: "db".to_owned(),
            address: "10.0.0.1:4000".to_owned(),
            clock: Some("kernel"),
            connected: true,
            last_ns: Some(12_345),
            rtt: Quantiles {
                p50_ns: Some(12_000),
                p99_ns: Some(45_600),
                p999_ns: Some(1_230_000),
                max_ns: Some(2_000_000_000),
            },
            window_loss_percent: Some(1.0),
            counts: Counts {
                sent: 1_000,
                received: 990,
                timeouts: 9,
                in_flight: 1,
                skipped: 2,
                late: 3,
            },
        };
        let down = Row {
            target: "a-long-name.example:4000".to_owned(),
            address: "a-long-name.example:4000".to_owned(),
            window_loss_percent: Some(100.0),
            counts: Counts { sent: 10, timeouts: 10, ..Counts::default() },
            ..Row::default()
        };
        vec![up, down]
    }

    fn check(lines: &[String], expected: &str) {
        let text = lines.join("\n");
        assert_eq!(text, expected, "\n{text}\n");
    }

    #[test]
    fn a_wide_terminal_shows_everything() {
        check(
            &live_table(&rows(), 120),
            "\
target                     clock    last     p50     p99   p99.9    max   loss  late
db                        kernel  12.3µs  12.0µs  45.6µs  1.23ms  2.00s  1.00%     5
a-long-name.example:4000    down       -       -       -       -      -   100%     0",
        );
    }

    #[test]
    fn a_narrow_terminal_keeps_what_matters() {
        check(
            &live_table(&rows(), 40),
            "\
target                p50     p99   loss
db                 12.0µs  45.6µs  1.00%
a-long-name.exam…       -       -   100%",
        );
    }

    #[test]
    fn the_summary_counts_the_whole_run() {
        check(
            &summary_table(&rows(), 120),
            "\
target                     clock  sent  received  lost   loss     p50     p99   p99.9    max  late
db                        kernel  1000       990     9  0.90%  12.0µs  45.6µs  1.23ms  2.00s     5
a-long-name.example:4000       -    10         0    10   100%       -       -       -      -     0
2 targets: 1010 sent, 990 received, 19 lost (1.88%), 5 late",
        );
    }

    #[test]
    fn plain_lines_are_key_value_words() {
        assert_eq!(
            plain_line(&rows()[0]),
            "target=db address=10.0.0.1:4000 connected=true clock=kernel last=12.3µs p50=12.0µs \
             p99=45.6µs p99.9=1.23ms max=2.00s loss=1.00% late=5 sent=1000 received=990 \
             timeouts=9 in_flight=1"
        );
        let odd = Row { target: "a b".to_owned(), ..Row::default() };
        assert!(plain_line(&odd).starts_with("target=\"a b\" address= connected=false clock=- "));
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in 0..130 {
            for lines in [live_table(&rows(), width), summary_table(&rows(), width)] {
                assert!(lines.len() >= 3);
                for line in lines {
                    assert!(line.chars().count() <= width, "{width}: {line:?}");
                }
            }
        }
    }

    #[test]
    fn the_header_says_where_the_metrics_are() {
        let header = |metrics_url| Header {
            io: "uring".to_owned(),
            clock: "kernel".to_owned(),
            metrics_url,
        };
        let version = env!("CARGO_PKG_VERSION");
        assert_eq!(
            header_line(&header(Some("http://127.0.0.1:2112/metrics".to_owned()))),
            format!("rttscope {version}  io=uring clock=kernel  http://127.0.0.1:2112/metrics")
        );
        assert!(header_line(&header(None)).ends_with("no metrics (--web.listen-address)"));
    }
}
