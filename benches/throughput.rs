//! Probes per second that one core sustains over 1,000 connections: our worker on io_uring, on
//! readiness, and a program with one blocking thread for each connection. Then the CPU time of one
//! probe at fixed rates, with stamps and without. The prober has one CPU, its peer another one;
//! the peer is our responder on io_uring for all of them.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]

#[path = "common/report.rs"]
mod report;
#[path = "common/rig.rs"]
mod rig;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use rttscope::probe::Wire;
use rttscope::stats::ProbeSeries;
use rttscope::sys::{self, IoChoice, clock};
use rttscope::time::{NS_PER_SECOND, seconds};
use rttscope::wire::V1_BYTES;

use report::{print_table, row};
use rig::{Load, PROBER_CPU, Way};

/// Connections.
const TARGETS: u32 = 1_000;
/// Between which rates the highest one is searched, probes per second.
const RATES_TRIED: Range<f64> = 20_000.0..320_000.0;
/// How often the range is halved, on a logarithmic scale: the result is 9 % fine.
const HALVINGS: u32 = 5;
/// The same for a quick run.
const HALVINGS_QUICK: u32 = 1;
/// A probe that got no reply by then is lost; also how long a run settles.
const TIMEOUT: Duration = Duration::from_millis(300);
/// Slots skipped at a rate that counts as sustained.
const SKIPPED_MAX: f64 = 0.01;
/// Fixed rates: the default interval, and a tenth of it.
const RATES: [f64; 2] = [5_000.0, 50_000.0];

/// What one window of a run showed.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Received probes per second.
    rate: f64,
    skipped_ratio: f64,
    /// CPU time of the measuring thread(s) for one probe.
    cpu_us: f64,
    /// Shares of a CPU that both sides used.
    prober_busy: f64,
    peer_busy: f64,
}

/// Sums over all targets at one moment.
#[derive(Clone, Copy, Debug)]
struct Counted {
    at_ns: u64,
    received: u64,
    skipped: u64,
    prober_ns: u64,
    peer_ns: u64,
}

fn main() -> io::Result<()> {
    let quick = report::quick();
    let (window, rounds) =
        if quick { (Duration::from_millis(100), 1) } else { (Duration::from_millis(350), 2) };
    highest_rates(window, rounds)?;
    let mut rows = vec![row(["way", "probes/s", "CPU µs a probe", "skipped"])];
    for &rate in if quick { &RATES[..1] } else { &RATES[..] } {
        let mut seen = vec![Vec::new(); ways().len()];
        for _ in 0..rounds {
            for (way, seen) in ways().into_iter().zip(&mut seen) {
                seen.push(measure(way, rate, window)?);
            }
        }
        for (way, runs) in ways().into_iter().zip(seen) {
            let Some(seen) = best(&runs, |seen| -seen.cpu_us) else { continue };
            rows.push(row([
                &way.name(),
                &format!("{:.0}", seen.rate),
                &format!("{:.1}", seen.cpu_us),
                &format!("{:.1} %", 100.0 * seen.skipped_ratio),
            ]));
        }
    }
    print_table(&format!("CPU time of the prober's thread, {TARGETS} targets"), &rows);
    Ok(())
}

/// Searches with both backends in turn, and runs the blocking threads beside them.
fn highest_rates(window: Duration, rounds: usize) -> io::Result<()> {
    let mut searched = [const { Vec::new() }; 2];
    let mut blocking = Vec::new();
    for _ in 0..rounds {
        for (io, found) in [IoChoice::Uring, IoChoice::Poll].into_iter().zip(&mut searched) {
            blocking.push(measure_blocking(window)?);
            found.extend(highest_rate(Way { io, wire: Wire::V1, stamps: false }, window)?);
        }
    }
    let floor = best(&blocking, |seen| seen.rate).map_or(f64::NAN, |seen| seen.rate);
    let mut rows = vec![row([
        "prober",
        "probes/s",
        "÷ blocking",
        "CPU µs a probe",
        "prober busy",
        "peer busy",
    ])];
    let names = ["a blocking thread for each", "uring v1, stamps off", "poll v1, stamps off"];
    for (name, runs) in names.into_iter().zip(std::iter::once(&blocking).chain(&searched)) {
        let Some(seen) = best(runs, |seen| seen.rate) else {
            rows.push(row([name, "none sustained", "", "", "", ""]));
            continue;
        };
        rows.push(row([
            name,
            &format!("{:.0}", seen.rate),
            &format!("{:.2}", seen.rate / floor),
            &format!("{:.1}", seen.cpu_us),
            &format!("{:.0} %", 100.0 * seen.prober_busy),
            &format!("{:.0} %", 100.0 * seen.peer_busy),
        ]));
    }
    let skipped = 100.0 * SKIPPED_MAX;
    let title = format!(
        "Highest rate of one core over {TARGETS} connections, < {skipped:.0} % skipped, \
         best of {rounds} rounds"
    );
    print_table(&title, &rows);
    Ok(())
}

fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    for io in [IoChoice::Uring, IoChoice::Poll] {
        for wire in [Wire::V1, Wire::V3] {
            ways.extend([false, true].map(|stamps| Way { io, wire, stamps }));
        }
    }
    ways
}

/// What was seen at the highest rate that was sustained.
fn highest_rate(way: Way, window: Duration) -> io::Result<Option<Seen>> {
    let Range { start: mut good, end: mut bad } = RATES_TRIED;
    let mut best = None;
    for _ in 0..if report::quick() { HALVINGS_QUICK } else { HALVINGS } {
        let rate = (good * bad).sqrt();
        let mut sustained = sustain(way, rate, window)?;
        if sustained.is_none() {
            // One hiccup of a shared machine is no limit of the prober.
            sustained = sustain(way, rate, window)?;
        }
        if sustained.is_some() {
            (best, good) = (sustained, rate);
        } else {
            bad = rate;
        }
    }
    Ok(best)
}

/// What was seen at this rate if it was sustained.
fn sustain(way: Way, rate: f64, window: Duration) -> io::Result<Option<Seen>> {
    let seen = measure(way, rate, window)?;
    let sustained = seen.skipped_ratio < SKIPPED_MAX && seen.rate > rate * (1.0 - SKIPPED_MAX);
    Ok(sustained.then_some(seen))
}

/// Our prober at this rate.
fn measure(way: Way, rate: f64, window: Duration) -> io::Result<Seen> {
    let (responder, at) = rig::respond(Way { io: IoChoice::Uring, ..way })?;
    let interval = Duration::from_secs_f64(f64::from(TARGETS) / rate);
    let load = Load {
        targets: usize::try_from(TARGETS).expect("32 bits fit"),
        interval_ns: rttscope::time::duration_ns(interval),
        timeout: TIMEOUT,
        count: None,
    };
    let (prober, series) = rig::probe(way, at, load)?;
    let sum = |part: fn(&rttscope::sample::ProbeCounters) -> u64| -> u64 {
        series.iter().map(|series: &Arc<ProbeSeries>| part(&series.snapshot().counters)).sum()
    };
    let give_up_at = clock::mono().after(Duration::from_secs(2));
    while sum(|counters| u64::from(counters.received > 0)) < u64::from(TARGETS) {
        if clock::mono() > give_up_at {
            // Some starve: the rate will tell.
            break;
        }
        pause(Duration::from_millis(20));
    }
    let seen =
        watch(window, || (sum(|counters| counters.received), sum(|counters| counters.skipped)));
    prober.stop()?;
    responder.stop()?;
    Ok(seen)
}

/// One blocking thread for each connection, writing and reading without a pause.
fn measure_blocking(window: Duration) -> io::Result<Seen> {
    let way = Way { io: IoChoice::Uring, wire: Wire::V1, stamps: false };
    let (responder, at) = rig::respond(way)?;
    let stop = Arc::new(AtomicBool::new(false));
    let mut counts = Vec::new();
    let mut threads = Vec::new();
    for _ in 0..TARGETS {
        let count = Arc::new(AtomicU64::new(0));
        counts.push(Arc::clone(&count));
        let stop = Arc::clone(&stop);
        let builder = thread::Builder::new().name("bench-probe".to_owned()).stack_size(64 * 1024);
        threads.push(builder.spawn(move || ping(at, &count, &stop))?);
    }
    let sum = || counts.iter().map(|count| count.load(Ordering::Relaxed)).sum();
    while counts.iter().any(|count| count.load(Ordering::Relaxed) == 0) {
        pause(Duration::from_millis(20));
        if let Some(failed) = threads.iter().position(thread::JoinHandle::is_finished) {
            threads.swap_remove(failed).join().expect("it does not panic")?;
        }
    }
    let seen = watch(window, || (sum(), 0));
    stop.store(true, Ordering::Relaxed);
    for thread in threads {
        thread.join().expect("it does not panic")?;
    }
    responder.stop()?;
    Ok(seen)
}

fn ping(at: SocketAddr, count: &AtomicU64, stop: &AtomicBool) -> io::Result<()> {
    sys::pin(PROBER_CPU)?;
    let mut stream = TcpStream::connect(at)?;
    stream.set_nodelay(true)?;
    let mut frame = [7; V1_BYTES];
    while !stop.load(Ordering::Relaxed) {
        stream.write_all(&frame)?;
        stream.read_exact(&mut frame)?;
        count.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

/// Lets a run settle, then watches it.
fn watch(window: Duration, sums: impl Fn() -> (u64, u64)) -> Seen {
    pause(window.min(TIMEOUT) + TIMEOUT / 5);
    let count = || {
        let (received, skipped) = sums();
        Counted {
            at_ns: clock::mono().as_ns(),
            received,
            skipped,
            prober_ns: thread_cpu_ns("bench-probe").unwrap_or(0),
            peer_ns: thread_cpu_ns("bench-echo").unwrap_or(0),
        }
    };
    let first = count();
    pause(window);
    let last = count();
    let elapsed = seconds(last.at_ns - first.at_ns);
    let received = seconds((last.received - first.received) * NS_PER_SECOND);
    let skipped = seconds((last.skipped - first.skipped) * NS_PER_SECOND);
    let busy = seconds(last.prober_ns - first.prober_ns);
    Seen {
        rate: received / elapsed,
        skipped_ratio: skipped / (received + skipped).max(1.0),
        cpu_us: busy * 1e6 / received.max(1.0),
        prober_busy: busy / elapsed,
        peer_busy: seconds(last.peer_ns - first.peer_ns) / elapsed,
    }
}

/// CPU time so far of the threads whose names begin like this (proc(5), `schedstat`), ns.
fn thread_cpu_ns(prefix: &str) -> Option<u64> {
    let mut sum_ns = 0;
    for task in fs::read_dir("/proc/self/task").ok()?.flatten() {
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if name.starts_with(prefix) {
            let stat = fs::read_to_string(task.path().join("schedstat")).ok()?;
            sum_ns += stat.split_ascii_whitespace().next()?.parse::<u64>().ok()?;
        }
    }
    Some(sum_ns)
}

#[expect(clippy::disallowed_methods, reason = "nothing happens to wait for: time must pass")]
fn pause(duration: Duration) {
    thread::sleep(duration);
}

/// The round with the highest figure of merit: others that share the machine only ever lower it.
fn best(runs: &[Seen], merit: impl Fn(&Seen) -> f64) -> Option<Seen> {
    runs.iter().copied().max_by(|a, b| merit(a).total_cmp(&merit(b)))
}
