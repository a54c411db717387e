//! What `rttscope load` says: JSON lines for scripts; a progress line, a report or a table for
//! people. Runs of a load in, text out; pure.

use std::time::Duration;

use serde::Serialize;

use super::json::append;
use super::table::cut;
use super::units::{percent_text, time_text};
use crate::sample::LoadFailure;
use crate::stats::LoadSnapshot;
use crate::time::{duration_ns, seconds};

/// What all runs of a load have in common.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// `host:port`, as it was asked for.
    pub target: String,
    /// The backend.
    pub io: String,
    /// Measuring threads.
    pub threads: usize,
    /// Of each run.
    pub warm_up: Duration,
    /// Runs that were asked for.
    pub scenarios: usize,
}

/// One run as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Its name.
    pub name: String,
    /// Connections at once.
    pub connections: usize,
    /// Requests per second of an open loop.
    pub rate: Option<u64>,
    /// Bytes of a request; `None` if it is a connection.
    pub message_bytes: Option<usize>,
    /// How long it is to count.
    pub duration: Duration,
}

/// One run, finished or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// As it was asked for.
    pub asked: Asked,
    /// What was measured.
    pub measured: LoadSnapshot,
    /// Whether it ran to its end.
    pub complete: bool,
}

/// One run's line.
#[derive(Serialize)]
struct Line<'a> {
    scenario: &'a str,
    target: &'a str,
    mode: &'static str,
    connections: usize,
    rate: Option<u64>,
    size: Option<usize>,
    warm_up_ns: u64,
    duration_ns: u64,
    complete: bool,
    requests: u64,
    answered: u64,
    in_flight: u64,
    skipped: u64,
    late: u64,
    rps: Option<f64>,
    sent_bytes: u64,
    received_bytes: u64,
    sent_bytes_per_second: Option<f64>,
    received_bytes_per_second: Option<f64>,
    latency_ns_min: Option<u64>,
    latency_ns_mean: Option<u64>,
    latency_ns_p50: Option<u64>,
    latency_ns_p90: Option<u64>,
    latency_ns_p95: Option<u64>,
    latency_ns_p99: Option<u64>,
    latency_ns_p999: Option<u64>,
    latency_ns_max: Option<u64>,
    connects: u64,
    dropped: u64,
    errors: u64,
    error_percent: Option<f64>,
    errors_by_kind: Kinds,
}

/// Failed requests, in the order of [`LoadFailure::ALL`].
#[derive(Serialize)]
struct Kinds {
    timeout: u64,
    refused: u64,
    reset: u64,
    closed: u64,
    corrupt: u64,
    unreachable: u64,
    local_error: u64,
    error: u64,
}

#[derive(Serialize)]
struct SummaryLine {
    summary: Summary,
}

#[derive(Serialize)]
struct Summary {
    scenarios: usize,
    complete: usize,
    requests: u64,
    answered: u64,
    errors: u64,
    error_percent: Option<f64>,
}

impl Run {
    /// Whether every request was answered as it was sent.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let counters = &self.measured.counters;
        counters.answered > 0 && counters.failed() == 0
    }

    /// Answers per second of the measured time; `None` while there is no time.
    fn rps(&self) -> Option<f64> {
        self.per_second(self.measured.counters.answered_within)
    }

    fn per_second(&self, count: u64) -> Option<f64> {
        let measured_ns = self.measured.counters.measured_ns;
        (measured_ns > 0).then(|| float(count) / seconds(measured_ns))
    }

    fn error_percent(&self) -> Option<f64> {
        let counters = &self.measured.counters;
        percent(counters.failed(), counters.answered + counters.failed())
    }

    fn quantile(&self, q: f64) -> Option<u64> {
        self.measured.latency.quantile(q)
    }

    fn min_ns(&self) -> Option<u64> {
        let counters = &self.measured.counters;
        (counters.answered > 0).then_some(counters.latency_ns_min)
    }

    fn max_ns(&self) -> Option<u64> {
        (self.measured.latency.count > 0).then_some(self.measured.latency.max_ns)
    }

    fn mode(&self) -> &'static str {
        if self.asked.rate.is_some() { "open" } else { "closed" }
    }

    /// Where a run is, as a bar and numbers, in at most `width` characters. `number` counts the
    /// runs from 1.
    #[must_use]
    pub fn progress_line(&self, setting: &Setting, number: usize, width: usize) -> String {
        let (asked, counters) = (&self.asked, &self.measured.counters);
        let of = match setting.scenarios {
            1 => String::new(),
            scenarios => format!("{number}/{scenarios} {}  ", asked.name),
        };
        if counters.started == 0 {
            let (made, dropped) = (counters.connected, counters.dropped);
            let line = format!("{of}connecting  {made}/{}  failed {dropped}", asked.connections);
            return cut(&line, width);
        }
        let duration_ns = duration_ns(asked.duration);
        if counters.measured_ns == 0 {
            return cut(&format!("{of}warming up"), width);
        }
        let part = u128::from(BAR_CHARS) * u128::from(counters.measured_ns)
            / u128::from(duration_ns.max(1));
        let part = usize::try_from(part).unwrap_or(usize::MAX).min(usize::from(BAR_CHARS));
        let rest = usize::from(BAR_CHARS) - part;
        let line = format!(
            "{of}[{}{}] {}/{}  {}/s  p50 {}  p99 {}  errors {}",
            "#".repeat(part),
            ".".repeat(rest),
            time_text(Some(counters.measured_ns)),
            time_text(Some(duration_ns)),
            rate_text(self.rps()),
            time_text(self.quantile(0.5)),
            time_text(self.quantile(0.99)),
            counters.failed(),
        );
        cut(&line, width)
    }

    /// A run by itself, for people.
    fn lines(&self, setting: &Setting) -> Vec<String> {
        let (asked, counters) = (&self.asked, &self.measured.counters);
        let what = match asked.message_bytes {
            Some(bytes) => format!("{bytes} bytes a request"),
            None => "connecting and closing".to_owned(),
        };
        let pace = match asked.rate {
            Some(rate) => format!("open loop at {rate}/s"),
            None => "closed loop".to_owned(),
        };
        let Setting { target, io, threads, warm_up, .. } = setting;
        let measured = time_text(Some(counters.measured_ns));
        let after = match duration_ns(*warm_up) {
            0 => String::new(),
            ns => format!(" after {} of warm-up", time_text(Some(ns))),
        };
        let early = if self.complete { "" } else { ", ended early" };
        let mut lines = vec![
            format!("Load of {target}: {what}, {pace}, io={io}, threads={threads}"),
            format!("Duration: {measured}{after}{early}"),
            format!(
                "Connections: {} (made {}, failed or lost {})",
                asked.connections, counters.connects, counters.dropped
            ),
            format!("Requests: {}, answered {}", counters.sent, counters.answered),
            format!("RPS: {}", rate_text(self.rps())),
        ];
        if asked.message_bytes.is_some() {
            lines.push(format!(
                "Throughput: {} sent, {} received",
                bytes_text(self.per_second(counters.sent_bytes)),
                bytes_text(self.per_second(counters.received_bytes)),
            ));
        }
        lines.push(format!(
            "Latency: min {}, avg {}, p50 {}, p95 {}, p99 {}, p99.9 {}, max {}",
            time_text(self.min_ns()),
            time_text(self.measured.latency.mean_ns()),
            time_text(self.quantile(0.5)),
            time_text(self.quantile(0.95)),
            time_text(self.quantile(0.99)),
            time_text(self.quantile(0.999)),
            time_text(self.max_ns()),
        ));
        lines.push(format!(
            "Errors: {} ({})",
            counters.failed(),
            percent_text(self.error_percent())
        ));
        lines.extend(self.kinds());
        if counters.in_flight > 0 {
            lines.push(format!("Not answered yet: {}", counters.in_flight));
        }
        if counters.skipped + counters.late > 0 {
            lines.push(format!(
                "Behind the rate: {} skipped, {} sent more than 1 ms late",
                counters.skipped, counters.late
            ));
        }
        lines
    }

    /// The kinds of errors that there are.
    fn kinds(&self) -> impl Iterator<Item = String> {
        let counters = self.measured.counters;
        let finished = counters.answered + counters.failed();
        let kinds = LoadFailure::ALL.into_iter().zip(counters.failures());
        kinds.filter(|(_, count)| *count > 0).map(move |(kind, count)| {
            format!("  {} {count} ({})", kind.name(), percent_text(percent(count, finished)))
        })
    }

    fn cells(&self) -> [String; COLUMNS.len()] {
        let (asked, counters) = (&self.asked, &self.measured.counters);
        [
            asked.name.clone(),
            asked.connections.to_string(),
            asked.message_bytes.map_or_else(|| "-".to_owned(), |bytes| bytes.to_string()),
            counters.sent.to_string(),
            rate_text(self.rps()),
            time_text(self.quantile(0.5)),
            time_text(self.quantile(0.95)),
            time_text(self.quantile(0.99)),
            percent_text(self.error_percent()),
        ]
    }
}

/// The end of a load, for people: one run by itself, or a table of several. No line is wider than
/// `width` characters.
#[must_use]
pub fn summary_lines(setting: &Setting, runs: &[Run], width: usize) -> Vec<String> {
    let mut lines = Vec::new();
    if let ([run], 1) = (runs, setting.scenarios) {
        lines = run.lines(setting);
    } else {
        let Setting { target, io, threads, scenarios, .. } = setting;
        lines.push(format!("Load of {target}, io={io}, threads={threads}"));
        lines.extend(table(runs));
        for run in runs {
            let name = &run.asked.name;
            lines.extend(run.kinds().map(|kind| format!("{name}:{kind}")));
            if !run.complete {
                lines.push(format!("{name}: ended early"));
            }
            let skipped = run.measured.counters.skipped;
            if skipped > 0 {
                lines.push(format!("{name}: skipped {skipped}, behind the rate"));
            }
        }
        if runs.len() < *scenarios {
            lines.push(format!("Not run: {} of {scenarios}", scenarios - runs.len()));
        }
    }
    lines.iter().map(|line| cut(line, width)).collect()
}

/// Appends the line of one run to `buffer`, newline included.
pub fn append_run(buffer: &mut Vec<u8>, setting: &Setting, run: &Run) {
    let (asked, counters) = (&run.asked, &run.measured.counters);
    let [timeout, refused, reset, closed, corrupt, unreachable, local_error, error] =
        counters.failures();
    append(
        buffer,
        &Line {
            scenario: &asked.name,
            target: &setting.target,
            mode: run.mode(),
            connections: asked.connections,
            rate: asked.rate,
            size: asked.message_bytes,
            warm_up_ns: duration_ns(setting.warm_up),
            duration_ns: counters.measured_ns,
            complete: run.complete,
            requests: counters.sent,
            answered: counters.answered,
            in_flight: counters.in_flight,
            skipped: counters.skipped,
            late: counters.late,
            rps: run.rps(),
            sent_bytes: counters.sent_bytes,
            received_bytes: counters.received_bytes,
            sent_bytes_per_second: run.per_second(counters.sent_bytes),
            received_bytes_per_second: run.per_second(counters.received_bytes),
            latency_ns_min: run.min_ns(),
            latency_ns_mean: run.measured.latency.mean_ns(),
            latency_ns_p50: run.quantile(0.5),
            latency_ns_p90: run.quantile(0.9),
            latency_ns_p95: run.quantile(0.95),
            latency_ns_p99: run.quantile(0.99),
            latency_ns_p999: run.quantile(0.999),
            latency_ns_max: run.max_ns(),
            connects: counters.connects,
            dropped: counters.dropped,
            errors: counters.failed(),
            error_percent: run.error_percent(),
            errors_by_kind: Kinds {
                timeout,
                refused,
                reset,
                closed,
                corrupt,
                unreachable,
                local_error,
                error,
            },
        },
    );
}

/// Appends the last line of a load.
pub fn append_summary(buffer: &mut Vec<u8>, setting: &Setting, runs: &[Run]) {
    let sum = |part: fn(&LoadSnapshot) -> u64| runs.iter().map(|run| part(&run.measured)).sum();
    let answered: u64 = sum(|measured| measured.counters.answered);
    let errors: u64 = sum(|measured| measured.counters.failed());
    let summary = Summary {
        scenarios: setting.scenarios,
        complete: runs.iter().filter(|run| run.complete).count(),
        requests: sum(|measured| measured.counters.sent),
        answered,
        errors,
        error_percent: percent(errors, answered + errors),
    };
    append(buffer, &SummaryLine { summary });
}

/// The seed's table.
fn table(runs: &[Run]) -> Vec<String> {
    let mut rows = vec![COLUMNS.map(str::to_owned)];
    rows.extend(runs.iter().map(Run::cells));
    let chars = |text: &str| text.chars().count();
    let width = |column: usize| rows.iter().map(|row| chars(&row[column])).max().unwrap_or(0);
    let widths: [usize; COLUMNS.len()] = std::array::from_fn(width);
    let line = |row: &[String; COLUMNS.len()]| {
        let cells = row.iter().zip(widths).enumerate();
        let cells = cells.map(|(column, (cell, width))| match column {
            0 => format!("{cell:width$}"),
            _ => format!("{cell:>width$}"),
        });
        cells.collect::<Vec<_>>().join("  ")
    };
    rows.iter().map(line).collect()
}

fn percent(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| float(part) / float(whole) * 100.0)
}

/// A rate with as many digits as mean something.
fn rate_text(rate: Option<f64>) -> String {
    match rate {
        None => "-".to_owned(),
        Some(rate) if rate < 99.95 => format!("{rate:.1}"),
        Some(rate) => format!("{rate:.0}"),
    }
}

/// Bytes per second.
fn bytes_text(rate: Option<f64>) -> String {
    let Some(mut rate) = rate else { return "-".to_owned() };
    let mut unit = "B/s";
    for next in ["KiB/s", "MiB/s", "GiB/s"] {
        if rate < 1_024.0 {
            break;
        }
        rate /= 1_024.0;
        unit = next;
    }
    format!("{rate:.1} {unit}")
}

#[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 do not occur")]
const fn float(count: u64) -> f64 {
    count as f64
}

const COLUMNS: [&str; 9] =
    ["Scenario", "Conns", "MsgSize", "Requests", "RPS", "p50", "p95", "p99", "Err%"];
/// Between the brackets of the bar.
const BAR_CHARS: u8 = 10;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::sync::Arc;

    use super::*;
    use crate::sample::LoadCounters;
    use crate::stats::LoadSeries;

    fn setting(scenarios: usize) -> Setting {
        Setting {
            target: "db:4000".to_owned(),
            io: "uring".to_owned(),
            threads: 2,
            warm_up: Duration::from_millis(500),
            scenarios,
        }
    }

    fn run(name: &str, counters: LoadCounters, latencies_us: &[u64]) -> Run {
        let series = Arc::new(LoadSeries::default());
        latencies_us.iter().for_each(|us| series.record(us * 1_000));
        series.publish(&counters);
        Run {
            asked: Asked {
                name: name.to_owned(),
                connections: 10,
                rate: None,
                message_bytes: Some(1_024),
                duration: Duration::from_secs(2),
            },
            measured: LoadSeries::sum(&[series]),
            complete: true,
        }
    }

    fn good() -> LoadCounters {
        LoadCounters {
            sent: 4,
            answered: 4,
            answered_within: 4,
            sent_bytes: 4_096,
            received_bytes: 4_096,
            latency_ns_min: 100_000,
            connects: 10,
            connected: 10,
            started: 1,
            measured_ns: 2_000_000_000,
            ..LoadCounters::default()
        }
    }

    fn bad() -> LoadCounters {
        LoadCounters { sent: 1_001, refused: 900, corrupt: 97, in_flight: 0, ..good() }
    }

    #[test]
    fn one_run_is_told_by_itself() {
        let lines = summary_lines(&setting(1), &[run("a", good(), &[100, 200, 200, 900])], 120);
        assert_eq!(
            lines.join("\n"),
            "Load of db:4000: 1024 bytes a request, closed loop, io=uring, threads=2\n\
             Duration: 2.00s after 500ms of warm-up\n\
             Connections: 10 (made 10, failed or lost 0)\n\
             Requests: 4, answered 4\n\
             RPS: 2.0\n\
             Throughput: 2.0 KiB/s sent, 2.0 KiB/s received\n\
             Latency: min 100µs, avg 350µs, p50 199µs, p95 900µs, p99 900µs, p99.9 900µs, \
             max 900µs\n\
             Errors: 0 (0%)"
        );
        let counters = LoadCounters { skipped: 7, late: 3, in_flight: 2, sent: 1_003, ..bad() };
        let mut run = run("a", counters, &[100, 200, 200, 900]);
        run.complete = false;
        run.asked.rate = Some(5_000);
        run.asked.message_bytes = None;
        let lines = summary_lines(&setting(1), &[run], 120).join("\n");
        assert!(lines.starts_with(
            "Load of db:4000: connecting and closing, open loop at 5000/s, io=uring, threads=2\n\
             Duration: 2.00s after 500ms of warm-up, ended early\n"
        ));
        assert!(!lines.contains("Throughput"), "{lines}");
        assert!(
            lines.ends_with(
                "Errors: 997 (99.6%)\n  refused 900 (89.9%)\n  corrupt 97 (9.69%)\n\
                 Not answered yet: 2\nBehind the rate: 7 skipped, 3 sent more than 1 ms late"
            ),
            "{lines}"
        );
    }

    #[test]
    fn several_runs_are_the_seeds_table() {
        let runs = [run("baseline", good(), &[100, 200, 200, 900]), run("x", bad(), &[100])];
        let lines = summary_lines(&setting(3), &runs, 120);
        assert_eq!(
            lines.join("\n"),
            "Load of db:4000, io=uring, threads=2\n\
             Scenario  Conns  MsgSize  Requests  RPS    p50    p95    p99   Err%\n\
             baseline     10     1024         4  2.0  199µs  900µs  900µs     0%\n\
             x            10     1024      1001  2.0  100µs  100µs  100µs  99.6%\n\
             x:  refused 900 (89.9%)\n\
             x:  corrupt 97 (9.69%)\n\
             Not run: 1 of 3"
        );
        for width in 0..80 {
            let lines = summary_lines(&setting(3), &runs, width);
            assert!(lines.iter().all(|line| line.chars().count() <= width), "{width}");
        }
    }

    #[test]
    fn progress_tells_the_phase() {
        let line = |counters, scenarios| {
            run("a", counters, &[100, 200]).progress_line(&setting(scenarios), 2, 100)
        };
        let connecting = LoadCounters { connected: 3, dropped: 1, ..LoadCounters::default() };
        assert_eq!(line(connecting, 1), "connecting  3/10  failed 1");
        let warm = LoadCounters { started: 1, ..LoadCounters::default() };
        assert_eq!(line(warm, 3), "2/3 a  warming up");
        let half = LoadCounters { measured_ns: 1_000_000_000, ..good() };
        assert_eq!(
            line(half, 1),
            "[#####.....] 1.00s/2.00s  4.0/s  p50 100µs  p99 200µs  errors 0"
        );
        // A run that lasts longer than asked for does not draw beyond its bar.
        let beyond = LoadCounters { measured_ns: 9_000_000_000, ..good() };
        assert!(line(beyond, 1).starts_with("[##########] 9.00s/2.00s"));
    }

    #[test]
    fn lines_have_their_keys_in_order_and_null_for_what_is_not_known() {
        let mut buffer = Vec::new();
        append_run(&mut buffer, &setting(1), &run("a", good(), &[100, 200, 200, 900]));
        let nothing = run("b", LoadCounters::default(), &[]);
        append_run(&mut buffer, &setting(1), &nothing);
        append_summary(&mut buffer, &setting(2), &[run("a", bad(), &[100]), nothing]);
        let text = String::from_utf8(buffer).unwrap();
        let kinds = "{\"timeout\":0,\"refused\":0,\"reset\":0,\"closed\":0,\"corrupt\":0,\
                     \"unreachable\":0,\"local_error\":0,\"error\":0}";
        let expected = format!(
            "{{\"scenario\":\"a\",\"target\":\"db:4000\",\"mode\":\"closed\",\"connections\":10,\
             \"rate\":null,\"size\":1024,\"warm_up_ns\":500000000,\"duration_ns\":2000000000,\
             \"complete\":true,\"requests\":4,\"answered\":4,\"in_flight\":0,\"skipped\":0,\
             \"late\":0,\"rps\":2.0,\"sent_bytes\":4096,\"received_bytes\":4096,\
             \"sent_bytes_per_second\":2048.0,\"received_bytes_per_second\":2048.0,\
             \"latency_ns_min\":100000,\"latency_ns_mean\":350000,\"latency_ns_p50\":P50,\
             \"latency_ns_p90\":900000,\"latency_ns_p95\":900000,\"latency_ns_p99\":900000,\
             \"latency_ns_p999\":900000,\"latency_ns_max\":900000,\"connects\":10,\"dropped\":0,\
             \"errors\":0,\"error_percent\":0.0,\"errors_by_kind\":{kinds}}}"
        );
        let mut lines = text.lines();
        let first = lines.next().unwrap();
        let p50 = first.split("\"latency_ns_p50\":").nth(1).unwrap().split(',').next().unwrap();
        assert_eq!(first, expected.replace("P50", p50));
        let second = lines.next().unwrap();
        assert!(second.contains("\"rps\":null,"), "{second}");
        assert!(second.contains("\"latency_ns_p50\":null,"), "{second}");
        assert!(second.contains("\"error_percent\":null,"), "{second}");
        let percent = 997.0 / 1_001.0 * 100.0;
        let summary = format!(
            "{{\"summary\":{{\"scenarios\":2,\"complete\":2,\"requests\":1001,\"answered\":4,\
             \"errors\":997,\"error_percent\":{percent}}}}}"
        );
        assert_eq!(lines.next().unwrap(), summary);
    }

    #[test]
    fn a_run_is_good_if_every_answer_was() {
        assert!(run("a", good(), &[1]).is_good());
        assert!(!run("a", bad(), &[1]).is_good());
        assert!(!run("a", LoadCounters::default(), &[]).is_good(), "nothing was answered");
    }

    #[test]
    fn bytes_have_their_unit() {
        for (rate, text) in [
            (None, "-"),
            (Some(0.0), "0.0 B/s"),
            (Some(1_536.0), "1.5 KiB/s"),
            (Some(5_242_880.0), "5.0 MiB/s"),
            (Some(3e12), "2794.0 GiB/s"),
        ] {
            assert_eq!(bytes_text(rate), text);
        }
    }
}
