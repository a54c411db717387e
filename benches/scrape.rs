//! Whether being scraped disturbs the schedule: how late the real binary sends the probes of 1,000
//! targets with a scrape every 100 ms, and without, in alternating periods of one run. The lag is
//! each probe's own, from the JSON lines.
//!
//! The scraper runs on the same CPUs as the prober, which it usually does not, and so does the
//! kernel's copying for both ends. How much of the disturbance is theirs shows in periods in which
//! as many bytes are downloaded from a thread that has them ready, and the prober is left alone.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]

#[path = "common/program.rs"]
mod program;
#[path = "common/report.rs"]
mod report;
#[path = "common/rounds.rs"]
mod rounds;
#[path = "common/targets.rs"]
mod targets;

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{ChildStdout, Stdio};
use std::thread;
use std::time::Duration;

use rttscope::sys::clock;
use rttscope::time::seconds;

use program::{Program, download};
use report::{print_table, row};
use rounds::median;
use targets::targets_file;

/// Probed targets.
const TARGETS: usize = 1_000;
/// From the beginning of one scrape to that of the next, unless one takes longer.
const SCRAPE_INTERVAL: Duration = Duration::from_millis(100);
/// Between periods. A probe is written when its peer's stamp has come, one interval later.
const SETTLE: Duration = Duration::from_millis(400);

/// What happens in a period.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Alone,
    /// Bytes are downloaded that are no metrics.
    Download,
    Scrape,
}

/// The scrapes of one period.
#[derive(Clone, Copy, Default)]
struct Scrapes {
    count: u32,
    longest: Duration,
    bytes: usize,
}

/// What one period showed.
struct Period {
    kind: Kind,
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
        if report::quick() { (1, Duration::from_secs(1)) } else { (9, Duration::from_secs(1)) };
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
    let plain = serve_bytes(prober.scrape()?.bytes)?;
    let mut spent = Vec::new();
    for _ in 0..rounds {
        for (kind, from) in
            [(Kind::Alone, None), (Kind::Download, Some(plain)), (Kind::Scrape, Some(prober.http))]
        {
            let from_ns = clock::now().wall.as_ns();
            let scrapes = spend(from, length)?;
            spent.push((kind, from_ns..clock::now().wall.as_ns(), scrapes));
            pause(SETTLE);
        }
    }
    drop(prober);
    let lags = reader.join().expect("it does not panic")?;
    let periods = spent.into_iter().map(|(kind, within, scrapes)| {
        let inside = lags.iter().filter(|lag| within.contains(&lag.due_ns));
        Period::new(kind, inside.map(|lag| lag.lag_ns).collect(), scrapes)
    });
    Ok(periods.collect())
}

impl Period {
    fn new(kind: Kind, mut lags_ns: Vec<u64>, scrapes: Scrapes) -> Self {
        lags_ns.sort_unstable();
        let at = |percent: usize| lags_ns.get(lags_ns.len() * percent / 100).copied().unwrap_or(0);
        Self { kind, probes: lags_ns.len(), p50_ns: at(50), p99_ns: at(99), scrapes }
    }
}

/// Answers everybody with so many bytes that cost nothing to make.
fn serve_bytes(bytes: usize) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let at = listener.local_addr()?;
    let mut response = b"HTTP/1.1 200 OK\r\n\r\n".to_vec();
    response.resize(bytes, b'0');
    thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 1024];
            // A client that leaves early leaves early.
            let _ = stream
                .read(&mut request)
                .and_then(|_| response.chunks(1 << 16).try_for_each(|part| stream.write_all(part)));
        }
    });
    Ok(at)
}

/// Lets the time of a period pass, downloading from there or from nowhere.
fn spend(from: Option<SocketAddr>, length: Duration) -> io::Result<Scrapes> {
    let mut scrapes = Scrapes::default();
    let until = clock::mono().after(length);
    let mut next = clock::mono();
    while clock::mono() < until {
        if let Some(from) = from {
            let began = clock::mono();
            let bytes = download(from)?.bytes;
            scrapes.count += 1;
            scrapes.bytes = bytes;
            scrapes.longest = scrapes.longest.max(clock::mono().duration_since(began));
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
    let middle = |kind: Kind, part: fn(&Period) -> u64| {
        let parts = periods.iter().filter(|period| period.kind == kind).map(part);
        seconds(median(&parts.collect::<Vec<_>>()).unwrap_or(0)) * 1e6
    };
    let alone_us = middle(Kind::Alone, |period| period.p99_ns);
    for (name, kind) in [
        ("without scrapes", Kind::Alone),
        ("as many bytes from elsewhere every 100 ms", Kind::Download),
        ("a scrape every 100 ms", Kind::Scrape),
    ] {
        let probes = periods.iter().filter(|period| period.kind == kind);
        let p99_us = middle(kind, |period| period.p99_ns);
        rows.push(row([
            name,
            &probes.map(|period| period.probes).sum::<usize>().to_string(),
            &format!("{:.0}", middle(kind, |period| period.p50_ns)),
            &format!("{p99_us:.0}"),
            &format!("{:.2}", p99_us / alone_us),
        ]));
    }
    let each = periods.len() / 3;
    print_table(
        &format!("Lag of {TARGETS} targets every 200 ms, {title}, medians of {each} periods each"),
        &rows,
    );
    let scrapes = || periods.iter().filter(|period| period.kind == Kind::Scrape);
    let count: u32 = scrapes().map(|period| period.scrapes.count).sum();
    let longest = scrapes().map(|period| period.scrapes.longest).max().unwrap_or_default();
    let bytes = scrapes().map(|period| period.scrapes.bytes).max().unwrap_or(0);
    println!("{count} scrapes of {bytes} bytes, the longest took {longest:.1?}");
}

#[expect(clippy::disallowed_methods, reason = "another process works meanwhile")]
fn pause(duration: Duration) {
    thread::sleep(duration);
}
