//! What `rttscope check` says: JSON lines for scripts; a progress line, failures and a summary for
//! people. Finished checks in, text out; pure.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::ip_text;
use super::json::append;
use super::table::cut;
use super::units::time_text;
use crate::event::Failure;
use crate::histogram::{Boundaries, Histogram, HistogramSnapshot};
use crate::sample::{CheckClock, CheckOutcome, CheckSample, Method};
use crate::time::duration_ns;

/// An address as it was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `host:port`.
    pub address: String,
    /// The port alone.
    pub port: u16,
}

/// What all finished checks amount to.
#[derive(Debug)]
pub struct Tally {
    asked: Arc<[Asked]>,
    method: Method,
    /// Checks that were asked for.
    requested: u64,
    by_address: Vec<AddressTally>,
    /// Index as in [`CheckOutcome::NAMES`].
    outcomes: [u64; CheckOutcome::NAMES.len()],
    rtt: [Option<Histogram>; CheckClock::ALL.len()],
    boundaries: Arc<Boundaries>,
    syn_retransmits: u64,
    completed: u64,
}

/// One address.
#[derive(Clone, Copy, Debug, Default)]
struct AddressTally {
    finished: u64,
    open: u64,
    /// The newest outcome that was not open.
    failure: Option<&'static str>,
    rtts: u64,
    rtt_ns_sum: u64,
    rtt_ns_min: u64,
    rtt_ns_max: u64,
    syn_retransmits: u64,
}

/// How checks are made, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// The backend.
    pub io: String,
    /// Checks of each address.
    pub requests: u64,
    /// At once.
    pub concurrency: usize,
    /// Of each check.
    pub timeout: Duration,
}

/// One check.
#[derive(Serialize)]
struct Line<'a> {
    address: &'a str,
    ip: Option<String>,
    port: u16,
    method: &'static str,
    outcome: &'static str,
    clock: Option<&'static str>,
    rtt_ns: Option<u64>,
    elapsed_ns: u64,
    syn_retransmits: u32,
    completed: bool,
    error: Option<String>,
}

#[derive(Serialize)]
struct SummaryLine {
    summary: Summary,
}

#[derive(Serialize)]
struct Summary {
    duration_ns: u64,
    addresses: usize,
    requested: u64,
    finished: u64,
    unfinished: u64,
    open: u64,
    refused: u64,
    timeout: u64,
    unreachable: u64,
    local_error: u64,
    error: u64,
    unresolved: u64,
    method: &'static str,
    syn_retransmits: u64,
    completed: u64,
    rtt: Vec<RttSummary>,
}

#[derive(Serialize)]
struct RttSummary {
    clock: &'static str,
    count: u64,
    rtt_ns_p50: Option<u64>,
    rtt_ns_p90: Option<u64>,
    rtt_ns_p99: Option<u64>,
    rtt_ns_p999: Option<u64>,
    rtt_ns_max: u64,
}

/// Appends the line of one check to `buffer`, newline included. `why` is what the resolver said, if
/// the name has no address.
pub fn append_check(buffer: &mut Vec<u8>, asked: &Asked, check: &CheckSample, why: Option<&str>) {
    append(
        buffer,
        &Line {
            address: &asked.address,
            ip: check.to.map(ip_text),
            port: asked.port,
            method: check.method.name(),
            outcome: check.outcome.name(),
            clock: check.clock.map(CheckClock::name),
            rtt_ns: check.rtt_ns,
            elapsed_ns: check.elapsed_ns,
            syn_retransmits: check.syn_retransmits,
            completed: check.completed,
            error: error_text(check.outcome, why),
        },
    );
}

/// A check that is not open as a line for people; `None` if it is.
#[must_use]
pub fn failure_line(asked: &Asked, check: &CheckSample, why: Option<&str>) -> Option<String> {
    let error = error_text(check.outcome, why)?;
    let ip = check.to.map(ip_text).filter(|ip| !asked.address.contains(ip.as_str()));
    let ip = ip.map_or_else(String::new, |ip| format!(" ({ip})"));
    let (address, outcome) = (&asked.address, check.outcome.name());
    let elapsed = time_text(Some(check.elapsed_ns));
    Some(format!("{address}{ip}: {outcome} after {elapsed}: {error}"))
}

impl Tally {
    /// Nothing yet, of `requests` checks of each address.
    #[must_use]
    pub fn new(asked: Arc<[Asked]>, requests: u64, method: Method) -> Self {
        let addresses = u64::try_from(asked.len()).unwrap_or(u64::MAX);
        Self {
            by_address: vec![AddressTally::default(); asked.len()],
            asked,
            method,
            requested: requests.saturating_mul(addresses),
            outcomes: Default::default(),
            rtt: Default::default(),
            boundaries: Arc::new(Boundaries::new(&[])),
            syn_retransmits: 0,
            completed: 0,
        }
    }

    /// Counts a finished check of the address at this index.
    pub fn record(&mut self, index: usize, check: &CheckSample) {
        let name = check.outcome.name();
        for (known, count) in CheckOutcome::NAMES.iter().zip(&mut self.outcomes) {
            *count += u64::from(*known == name);
        }
        self.syn_retransmits += u64::from(check.syn_retransmits);
        self.completed += u64::from(check.completed);
        if let (Some(clock), Some(ns)) = (check.clock, check.rtt_ns) {
            let boundaries = &self.boundaries;
            self.rtt[clock as usize]
                .get_or_insert_with(|| Histogram::new(Arc::clone(boundaries)))
                .record(ns);
        }
        if let Some(tally) = self.by_address.get_mut(index) {
            tally.record(check);
        }
    }

    /// Checks that are over.
    #[must_use]
    pub fn finished(&self) -> u64 {
        self.outcomes.iter().sum()
    }

    /// Checks that were open.
    #[must_use]
    pub fn open(&self) -> u64 {
        self.count("open")
    }

    fn count(&self, outcome: &str) -> u64 {
        let mut counts = CheckOutcome::NAMES.iter().zip(self.outcomes);
        counts.find(|(name, _)| **name == outcome).map_or(0, |(_, count)| count)
    }

    fn unfinished(&self) -> u64 {
        self.requested.saturating_sub(self.finished())
    }

    /// Round trips by clock, best first.
    fn rtts(&self) -> impl Iterator<Item = (CheckClock, HistogramSnapshot)> {
        let histograms = CheckClock::ALL.into_iter().zip(&self.rtt);
        histograms.filter_map(|(clock, rtt)| Some((clock, rtt.as_ref()?.snapshot())))
    }

    /// How it is checked, for `--verbose`.
    #[must_use]
    pub fn setting_line(&self, setting: &Setting) -> String {
        let Setting { io, requests, concurrency, timeout } = setting;
        let (addresses, method) = (self.asked.len(), self.method.name());
        let timeout = time_text(Some(duration_ns(*timeout)));
        format!(
            "checking addresses={addresses} requests={requests} concurrency={concurrency} \
             timeout={timeout} method={method} io={io}"
        )
    }

    /// Where a run is, as a bar and numbers, in at most `width` characters.
    #[must_use]
    pub fn progress_line(&self, elapsed: Duration, width: usize) -> String {
        let (finished, requested) = (self.finished(), self.requested);
        let part = u128::from(BAR_CHARS) * u128::from(finished) / u128::from(requested.max(1));
        let part = usize::try_from(part).unwrap_or(usize::MAX);
        let full = usize::try_from(BAR_CHARS).unwrap_or(part).max(part) - part;
        let bar = format!("[{}{}]", "#".repeat(part), ".".repeat(full));
        let line = format!(
            "{bar} {finished}/{requested}  {}/s  open {}  failed {}  {}",
            self.rate(elapsed),
            self.open(),
            finished - self.open(),
            time_text(Some(duration_ns(elapsed))),
        );
        cut(&line, width)
    }

    /// Where a run is, where there is no terminal, as `key=value` words.
    #[must_use]
    pub fn plain_line(&self, elapsed: Duration) -> String {
        let (finished, open) = (self.finished(), self.open());
        format!(
            "finished={finished} requested={} open={open} failed={} rate={}/s elapsed={}",
            self.requested,
            finished - open,
            self.rate(elapsed),
            time_text(Some(duration_ns(elapsed))),
        )
    }

    fn rate(&self, elapsed: Duration) -> u128 {
        u128::from(self.finished()) * 1_000_000_000 / elapsed.as_nanos().max(1)
    }

    /// The end of a run, for people: a table of the addresses if there are several, then what all
    /// of it amounts to. No line is wider than `width` characters.
    #[must_use]
    pub fn summary_lines(&self, elapsed: Duration, width: usize) -> Vec<String> {
        let mut lines = if self.asked.len() > 1 { self.address_table() } else { Vec::new() };
        let (finished, requested) = (self.finished(), self.requested);
        let took = time_text(Some(duration_ns(elapsed)));
        lines.push(format!("Finished {finished}/{requested} checks in {took}"));
        if self.unfinished() > 0 {
            lines.push(format!("Not finished: {}", self.unfinished()));
        }
        lines.push(format!("Succeed: {}", self.open()));
        let connect = self.count("refused") + self.count("unreachable") + self.count("error");
        let other = self.count("local_error") + self.count("unresolved");
        let timeout = self.count("timeout");
        lines.push(format!("Errors: connect {connect}, timeout {timeout}, other {other}"));
        let outcomes = CheckOutcome::NAMES.iter().zip(self.outcomes).filter(|(_, n)| *n > 0);
        let outcomes: Vec<_> = outcomes.map(|(name, count)| format!("{name} {count}")).collect();
        if !outcomes.is_empty() {
            lines.push(format!("Outcomes: {}", outcomes.join(", ")));
        }
        lines.push(format!(
            "Method: {}, SYN retransmits {}, completed handshakes {}",
            self.method.name(),
            self.syn_retransmits,
            self.completed
        ));
        for (clock, rtt) in self.rtts() {
            let quantile = |q| time_text(rtt.quantile(q));
            lines.push(format!(
                "RTT by {} ({}): p50 {}, p90 {}, p99 {}, p99.9 {}, max {}",
                clock.name(),
                rtt.count,
                quantile(0.5),
                quantile(0.9),
                quantile(0.99),
                quantile(0.999),
                time_text(Some(rtt.max_ns)),
            ));
        }
        lines.iter().map(|line| cut(line, width)).collect()
    }

    /// The addresses that did worst, worst first.
    fn address_table(&self) -> Vec<String> {
        let mut order: Vec<usize> = (0..self.by_address.len()).collect();
        order.sort_by_key(|&index| {
            let tally = &self.by_address[index];
            std::cmp::Reverse((tally.failed_millionths(), tally.rtt_ns_max))
        });
        let shown = &order[..order.len().min(ROWS_MAX)];
        let title = ["address", "result", "open", "min", "mean", "max", "retransmits"];
        let mut rows = vec![title.map(str::to_owned)];
        rows.extend(shown.iter().map(|&index| {
            self.by_address[index].cells(&cut(&self.asked[index].address, ADDRESS_CHARS_MAX))
        }));
        let mut lines = aligned(&rows);
        let (more, rest) = (order.len() - shown.len(), &order[shown.len()..]);
        if more > 0 {
            let bad = rest.iter().filter(|&&index| self.by_address[index].failed() > 0).count();
            let how = if bad == 0 { "none failed".to_owned() } else { format!("{bad} failed") };
            lines.push(format!("… and {more} more addresses, of which {how}"));
        }
        lines.push(String::new());
        lines
    }

    /// Appends the last line of a run.
    pub fn append_summary(&self, buffer: &mut Vec<u8>, elapsed: Duration) {
        let rtt = self.rtts().map(|(clock, rtt)| RttSummary {
            clock: clock.name(),
            count: rtt.count,
            rtt_ns_p50: rtt.quantile(0.5),
            rtt_ns_p90: rtt.quantile(0.9),
            rtt_ns_p99: rtt.quantile(0.99),
            rtt_ns_p999: rtt.quantile(0.999),
            rtt_ns_max: rtt.max_ns,
        });
        let summary = Summary {
            duration_ns: duration_ns(elapsed),
            addresses: self.asked.len(),
            requested: self.requested,
            finished: self.finished(),
            unfinished: self.unfinished(),
            open: self.open(),
            refused: self.count("refused"),
            timeout: self.count("timeout"),
            unreachable: self.count("unreachable"),
            local_error: self.count("local_error"),
            error: self.count("error"),
            unresolved: self.count("unresolved"),
            method: self.method.name(),
            syn_retransmits: self.syn_retransmits,
            completed: self.completed,
            rtt: rtt.collect(),
        };
        append(buffer, &SummaryLine { summary });
    }
}

impl AddressTally {
    fn record(&mut self, check: &CheckSample) {
        self.finished += 1;
        self.syn_retransmits += u64::from(check.syn_retransmits);
        if check.outcome == CheckOutcome::Open {
            self.open += 1;
        } else {
            self.failure = Some(check.outcome.name());
        }
        if let Some(ns) = check.rtt_ns {
            self.rtt_ns_min = if self.rtts == 0 { ns } else { self.rtt_ns_min.min(ns) };
            self.rtt_ns_max = self.rtt_ns_max.max(ns);
            self.rtt_ns_sum = self.rtt_ns_sum.saturating_add(ns);
            self.rtts += 1;
        }
    }

    const fn failed(&self) -> u64 {
        self.finished - self.open
    }

    fn failed_millionths(&self) -> u128 {
        u128::from(self.failed()) * 1_000_000 / u128::from(self.finished.max(1))
    }

    fn cells(&self, address: &str) -> [String; 7] {
        let rtt = |ns: u64| time_text((self.rtts > 0).then_some(ns));
        let result = match (self.failure, self.finished) {
            (Some(failure), _) => failure,
            (None, 0) => "-",
            (None, _) => "open",
        };
        [
            address.to_owned(),
            result.to_owned(),
            format!("{}/{}", self.open, self.finished),
            rtt(self.rtt_ns_min),
            rtt(self.rtt_ns_sum / self.rtts.max(1)),
            rtt(self.rtt_ns_max),
            self.syn_retransmits.to_string(),
        ]
    }
}

/// Why a check is not open, in words; `None` if it is.
fn error_text(outcome: CheckOutcome, why: Option<&str>) -> Option<String> {
    let errno = |errno: i32, otherwise: &str| match errno {
        0 => otherwise.to_owned(),
        errno => std::io::Error::from_raw_os_error(errno).to_string(),
    };
    Some(match outcome {
        CheckOutcome::Open => return None,
        CheckOutcome::Timeout => "no answer in time".to_owned(),
        CheckOutcome::Unresolved => why.unwrap_or("the name has no address").to_owned(),
        CheckOutcome::Failed(failure) => match failure {
            Failure::Refused => "connection refused".to_owned(),
            Failure::Reset => "connection reset".to_owned(),
            Failure::Unreachable => "no route to it".to_owned(),
            Failure::TimedOut => "the kernel gave up waiting".to_owned(),
            Failure::Eof => "closed at once".to_owned(),
            Failure::Stalled => "it does not read".to_owned(),
            Failure::Local(number) => errno(number, "no socket to check with"),
            Failure::Other(number) => errno(number, "an unknown error"),
        },
    })
}

/// Rows with their columns aligned: the first two to the left, numbers to the right.
fn aligned<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let mut widths = [0; N];
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |row: &[String; N]| {
        let mut line = String::new();
        for (index, (cell, &width)) in row.iter().zip(&widths).enumerate() {
            match index {
                0 => line.push_str(&format!("{cell:width$}")),
                1 => line.push_str(&format!("  {cell:width$}")),
                _ => line.push_str(&format!("  {cell:>width$}")),
            }
        }
        line.trim_end().to_owned()
    };
    rows.iter().map(line).collect()
}

/// Addresses in the table at the end.
const ROWS_MAX: usize = 20;
/// Of an address in the table.
const ADDRESS_CHARS_MAX: usize = 48;
/// Between the brackets of the bar.
const BAR_CHARS: u64 = 20;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::net::SocketAddr;

    use super::*;
    use crate::time::{Mono, Now};

    const US: u64 = 1_000;

    fn asked(addresses: &[&str]) -> Arc<[Asked]> {
        let asked = |address: &&str| Asked {
            address: (*address).to_owned(),
            port: address.rsplit_once(':').unwrap().1.parse().unwrap(),
        };
        addresses.iter().map(asked).collect()
    }

    fn check(outcome: CheckOutcome, rtt: Option<(CheckClock, u64)>) -> CheckSample {
        CheckSample {
            seq: 1,
            to: Some("10.0.0.1:80".parse().unwrap()),
            method: Method::Quickack,
            outcome,
            due: Mono::default(),
            tx_app: Now::default(),
            clock: rtt.map(|(clock, _)| clock),
            rtt_ns: rtt.map(|(_, ns)| ns),
            elapsed_ns: 70 * US,
            syn_retransmits: 0,
            completed: false,
        }
    }

    fn open(us: u64) -> CheckSample {
        check(CheckOutcome::Open, Some((CheckClock::TcpInfo, us * US)))
    }

    fn check_line(address: &str, sample: &CheckSample, why: Option<&str>, expected: &str) {
        let mut buffer = b"kept\n".to_vec();
        append_check(&mut buffer, &asked(&[address])[0], sample, why);
        assert_eq!(String::from_utf8(buffer).unwrap(), format!("kept\n{expected}\n"));
    }

    #[test]
    fn json_lines_have_every_key_in_order() {
        check_line(
            "db:80",
            &CheckSample { syn_retransmits: 1, completed: true, ..open(43) },
            None,
            "{\"address\":\"db:80\",\"ip\":\"10.0.0.1\",\"port\":80,\"method\":\"quickack\",\
             \"outcome\":\"open\",\"clock\":\"tcp_info\",\"rtt_ns\":43000,\"elapsed_ns\":70000,\
             \"syn_retransmits\":1,\"completed\":true,\"error\":null}",
        );
        let zoned = SocketAddr::V6("[fe80::1%3]:443".parse().unwrap());
        let refused = CheckOutcome::Failed(Failure::Refused);
        check_line(
            "[fe80::1%eth0]:443",
            &CheckSample { to: Some(zoned), method: Method::Syn, ..check(refused, None) },
            None,
            "{\"address\":\"[fe80::1%eth0]:443\",\"ip\":\"fe80::1%3\",\"port\":443,\
             \"method\":\"syn\",\"outcome\":\"refused\",\"clock\":null,\"rtt_ns\":null,\
             \"elapsed_ns\":70000,\"syn_retransmits\":0,\"completed\":false,\
             \"error\":\"connection refused\"}",
        );
        check_line(
            "nowhere:1",
            &CheckSample { to: None, ..check(CheckOutcome::Unresolved, None) },
            Some("no such \"name\""),
            "{\"address\":\"nowhere:1\",\"ip\":null,\"port\":1,\"method\":\"quickack\",\
             \"outcome\":\"unresolved\",\"clock\":null,\"rtt_ns\":null,\"elapsed_ns\":70000,\
             \"syn_retransmits\":0,\"completed\":false,\"error\":\"no such \\\"name\\\"\"}",
        );
    }

    #[test]
    fn every_failure_has_words_of_its_own() {
        let failed = CheckOutcome::Failed;
        let outcomes = [
            CheckOutcome::Timeout,
            CheckOutcome::Unresolved,
            failed(Failure::Refused),
            failed(Failure::Reset),
            failed(Failure::Unreachable),
            failed(Failure::TimedOut),
            failed(Failure::Eof),
            failed(Failure::Stalled),
            failed(Failure::Local(24)),
            failed(Failure::Local(0)),
            failed(Failure::Other(71)),
            failed(Failure::Other(0)),
        ];
        let mut texts: Vec<_> =
            outcomes.iter().map(|outcome| error_text(*outcome, None).unwrap()).collect();
        texts.sort_unstable();
        texts.dedup();
        assert_eq!(texts.len(), outcomes.len());
        assert_eq!(error_text(CheckOutcome::Open, None), None);
        let address = &asked(&["db:80"])[0];
        let line = failure_line(address, &check(failed(Failure::Refused), None), None).unwrap();
        assert_eq!(line, "db:80 (10.0.0.1): refused after 70.0µs: connection refused");
        assert_eq!(failure_line(address, &open(1), None), None);
    }

    /// Three addresses, four checks each, one of them not finished.
    fn tally() -> Tally {
        let mut tally = Tally::new(asked(&["a:1", "slow.example:2", "c:3"]), 4, Method::Quickack);
        let refused = check(
            CheckOutcome::Failed(Failure::Refused),
            Some((CheckClock::Application, 100 * US)),
        );
        for us in [40, 50, 60, 70] {
            tally.record(0, &open(us));
        }
        for us in [400, 500] {
            tally.record(1, &CheckSample { syn_retransmits: 1, ..open(us) });
        }
        tally.record(1, &check(CheckOutcome::Timeout, None));
        for _ in 0..3 {
            tally.record(2, &refused);
        }
        tally.record(2, &CheckSample { completed: true, ..open(45) });
        tally
    }

    #[test]
    fn the_summary_for_people() {
        let lines = tally().summary_lines(Duration::from_millis(1_500), 100);
        let expected = "\
address         result   open     min    mean     max  retransmits
c:3             refused   1/4  45.0µs  86.3µs   100µs            0
slow.example:2  timeout   2/3   400µs   450µs   500µs            2
a:1             open      4/4  40.0µs  55.0µs  70.0µs            0

Finished 11/12 checks in 1.50s
Not finished: 1
Succeed: 7
Errors: connect 3, timeout 1, other 0
Outcomes: open 7, refused 3, timeout 1
Method: quickack, SYN retransmits 2, completed handshakes 1
RTT by tcp_info (7): p50 61.0µs, p90 500µs, p99 500µs, p99.9 500µs, max 500µs
RTT by application (3): p50 99.7µs, p90 100µs, p99 100µs, p99.9 100µs, max 100µs";
        let text = lines.join("\n");
        assert_eq!(text, expected, "\n{text}\n");
    }

    #[test]
    fn one_address_needs_no_table_and_many_are_bounded() {
        let one = Tally::new(asked(&["a:1"]), 1, Method::Dial);
        let lines = one.summary_lines(Duration::ZERO, 80);
        assert_eq!(lines[0], "Finished 0/1 checks in 0ns");
        let names: Vec<String> = (1..100).map(|port| format!("a:{port}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let mut many = Tally::new(asked(&names), 1, Method::Dial);
        for index in 0..99 {
            many.record(index, &open(10));
        }
        many.record(98, &check(CheckOutcome::Timeout, None));
        let lines = many.summary_lines(Duration::from_secs(1), 80);
        assert!(lines[1].starts_with("a:99"), "{}", lines[1]);
        assert_eq!(lines[ROWS_MAX + 1], "… and 79 more addresses, of which none failed");
        for width in 0..120 {
            for line in many.summary_lines(Duration::from_secs(1), width) {
                assert!(line.chars().count() <= width, "{width}: {line}");
            }
            let line = many.progress_line(Duration::from_secs(1), width);
            assert!(line.chars().count() <= width, "{width}: {line}");
        }
    }

    #[test]
    fn where_a_run_is() {
        let elapsed = Duration::from_millis(500);
        assert_eq!(
            tally().progress_line(elapsed, 100),
            "[##################..] 11/12  22/s  open 7  failed 4  500ms"
        );
        assert_eq!(
            tally().plain_line(elapsed),
            "finished=11 requested=12 open=7 failed=4 rate=22/s elapsed=500ms"
        );
        let setting = Setting {
            io: "uring".to_owned(),
            requests: 4,
            concurrency: 2,
            timeout: Duration::from_secs(1),
        };
        assert_eq!(
            tally().setting_line(&setting),
            "checking addresses=3 requests=4 concurrency=2 timeout=1.00s method=quickack io=uring"
        );
    }

    #[test]
    fn the_summary_for_scripts() {
        let mut buffer = Vec::new();
        tally().append_summary(&mut buffer, Duration::from_secs(1));
        let text = String::from_utf8(buffer).unwrap();
        let start = "{\"summary\":{\"duration_ns\":1000000000,\"addresses\":3,\"requested\":12,\
                     \"finished\":11,\"unfinished\":1,\"open\":7,\"refused\":3,\"timeout\":1,\
                     \"unreachable\":0,\"local_error\":0,\"error\":0,\"unresolved\":0,\
                     \"method\":\"quickack\",\"syn_retransmits\":2,\"completed\":1,\
                     \"rtt\":[{\"clock\":\"tcp_info\",\"count\":7,\"rtt_ns_p50\":";
        assert!(text.starts_with(start), "{text}");
        assert!(text.ends_with(",\"rtt_ns_max\":100000}]}}\n"), "{text}");
    }
}
