//! Whether being scraped disturbs the schedule: how late the real binary sends the probes of 1,000
//! targets with a scrape every 100 ms, and without, in alternating periods of one run. The lag is
//! each probe's own, from the JSON lines.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]

#[path = "common/program.rs"]
mod program;
#[path = "common/report.rs"]
mod report;
#[path = "common/rounds.rs"]
mod rounds;

use std::io::{self, BufRead, BufReader};
use std::process::{ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use rttscope::sys::clock;
use rttscope::time::seconds;

use program::{Program, targets_file};
use report::{print_table, row};
use rounds::median;

/// Probed targets.
const TARGETS: usize = 1_000;
/// From the beginning of one scrape to that of the next, unless one takes longer.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(100);
/// Between periods. A probe is written when its peer's stamp has come, one interval later.
const SETTLE: Duration = Duration::from_millis(400);

/// The scrapes of one period.
#[derive(Clone, Copy, Default)]
struct Scrapes {
    count: u32,
    longest: Duration,
    bytes: usize,
}

/// What one period showed.
struct Period {
    scraping: bool,
    probes: usize,
    p50_ns: u64,
    p99_ns: u64,
    scrapes: Scrapes,
}

/// The lag of one probe, and its due time on the wall clock.
#[derive(Clone, Copy)]
struct Lag {
    due_ns: u64,
    lag_ns: u64,
}

fn main() -> io::Result<()> {
    let (rounds, length) =
        if report::quick() { (1, Duration::from_secs(1)) } else { (4, Duration::from_secs(3)) };
    let serve = ["serve", "--listen", "0.0.0.0:0"];
    let (_responder, at) = Program::start(&serve, Stdio::null(), "responder listening")?;
    let at = at.ok_or_else(|| io::Error::other("the responder logged no address"))?;
    let file = targets_file(TARGETS, at.port())?;
    let path = file.path().to_string_lossy();
    let mut probe = vec!["probe", "--targets", &*path, "--interval", "200ms", "--json"];
    print("as by default", &measure(&probe, rounds, length)?);
    probe.push("--priority=fifo:10");
    match measure(&probe, rounds, length) {
        Ok(periods) => print("--priority=fifo:10", &periods),
        Err(error) => println!("\n--priority=fifo:10 is not permitted here: {error}"),
    }
    Ok(())
}

/// Alternates between scraping and leaving alone.
fn measure(probe: &[&str], rounds: usize, length: Duration) -> io::Result<Vec<Period>> {
    let (mut prober, _) = Program::start(probe, Stdio::piped(), "\"probing\"")?;
    let lines = prober.child.stdout.take().expect("it is piped");
    let reader = thread::spawn(move || read_lags(lines));
    pause(3 * SETTLE);
    let mut spent = Vec::new();
    for _ in 0..rounds {
        for scraping in [false, true] {
            let from_ns = clock::now().wall.as_ns();
            let scrapes = spend(&prober, length, scraping)?;
            spent.push((scraping, from_ns..clock::now().wall.as_ns(), scrapes));
            pause(SETTLE);
        }
    }
    drop(prober);
    let lags = reader.join().expect("it does not panic")?;
    let periods = spent.into_iter().map(|(scraping, within, scrapes)| {
        let inside = lags.iter().filter(|lag| within.contains(&lag.due_ns));
        Period::new(scraping, inside.map(|lag| lag.lag_ns).collect(), scrapes)
    });
    Ok(periods.collect())
}

impl Period {
    fn new(scraping: bool, mut lags_ns: Vec<u64>, scrapes: Scrapes) -> Self {
        lags_ns.sort_unstable();
        let at = |percent: usize| lags_ns.get(lags_ns.len() * percent / 100).copied().unwrap_or(0);
        Self { scraping, probes: lags_ns.len(), p50_ns: at(50), p99_ns: at(99), scrapes }
    }
}

/// Lets the time of a period pass, scraping or not.
fn spend(prober: &Program, length: Duration, scraping: bool) -> io::Result<Scrapes> {
    let mut scrapes = Scrapes::default();
    let until = clock::mono().after(length);
    let mut next = clock::mono();
    while clock::mono() < until {
        if scraping {
            let from = clock::mono();
            let bytes = prober.scrape()?.bytes;
            scrapes.count += 1;
            scrapes.bytes = bytes;
            scrapes.longest = scrapes.longest.max(clock::mono().duration_since(from));
        }
        next = next.after(SCRAPE_INTERVAL);
        pause(next.duration_since(clock::mono()));
    }
    Ok(scrapes)
}

/// Reads the JSON lines to their end.
fn read_lags(lines: ChildStdout) -> io::Result<Vec<Lag>> {
    let mut reader = BufReader::with_capacity(1 << 16, lines);
    let mut lags = Vec::with_capacity(1 << 18);
    let mut line = String::new();
    while reader.read_line(&mut line)? > 0 {
        let number = |key: &str| {
            let (_, rest) = line.split_once(key)?;
            let end = rest.find(|byte: char| !byte.is_ascii_digit())?;
            rest[..end].parse().ok()
        };
        if let (Some(lag_ns), Some(due_ns)) = (number("\"lag_ns\":"), number("\"due\":")) {
            lags.push(Lag { due_ns, lag_ns });
        }
        line.clear();
    }
    Ok(lags)
}

fn print(title: &str, periods: &[Period]) {
    let mut rows = vec![row(["period", "probes", "lag p50 µs", "lag p99 µs", "÷ without"])];
    let middle = |scraping: bool, part: fn(&Period) -> u64| {
        let parts = periods.iter().filter(|period| period.scraping == scraping).map(part);
        seconds(median(&parts.collect::<Vec<_>>()).unwrap_or(0)) * 1e6
    };
    let plain_us = middle(false, |period| period.p99_ns);
    for (name, scraping) in [("without scrapes", false), ("a scrape every 100 ms", true)] {
        let probes = periods.iter().filter(|period| period.scraping == scraping);
        let p99_us = middle(scraping, |period| period.p99_ns);
        rows.push(row([
            name,
            &probes.map(|period| period.probes).sum::<usize>().to_string(),
            &format!("{:.0}", middle(scraping, |period| period.p50_ns)),
            &format!("{p99_us:.0}"),
            &format!("{:.2}", p99_us / plain_us),
        ]));
    }
    let half = periods.len() / 2;
    print_table(
        &format!("Lag of {TARGETS} targets every 200 ms, {title}, medians of {half} periods each"),
        &rows,
    );
    let count: u32 = periods.iter().map(|period| period.scrapes.count).sum();
    let longest = periods.iter().map(|period| period.scrapes.longest).max().unwrap_or_default();
    let bytes = periods.iter().map(|period| period.scrapes.bytes).max().unwrap_or(0);
    println!("{count} scrapes of {bytes} bytes, the longest took {longest:.1?}");
}

#[expect(clippy::disallowed_methods, reason = "another process works meanwhile")]
fn pause(duration: Duration) {
    thread::sleep(duration);
}
