//! How much slower a probe is than a bare blocking write and read: the application's round trip on
//! loopback against the floor, side by side in one run. Both sides are paced alike and pinned to
//! the same CPUs; rounds alternate, so that a noisy machine is noisy for all of them.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]

#[path = "common/report.rs"]
mod report;
#[path = "common/rig.rs"]
mod rig;
#[path = "common/rounds.rs"]
mod rounds;

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use rttscope::probe::Wire;
use rttscope::sys::{self, IoChoice, clock};
use rttscope::wire::{V1_BYTES, V3_HEADER_BYTES};
use rttscope::worker::Report;

use report::{print_table, row};
use rig::{Load, PEER_CPU, PROBER_CPU, Way};
use rounds::median;

/// Between two probes.
const INTERVAL: Duration = Duration::from_millis(1);
/// Long enough to lose nothing on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(1);
/// The first probes of a run warm caches and are not counted.
const WARM_UP: usize = 50;
/// What the ratio is to stay below.
const TARGET: f64 = 1.3;

/// The medians of one run, µs.
#[derive(Clone, Copy, Default)]
struct Medians {
    /// From sending on.
    sent_us: f64,
    /// From the due time on.
    due_us: f64,
}

fn main() -> io::Result<()> {
    let (rounds, probes) = if report::quick() { (1, 200) } else { (9, 400) };
    let ways = ways();
    let mut floors = [const { Vec::new() }; 2];
    let mut ours = vec![Vec::new(); ways.len()];
    for _ in 0..rounds {
        let mut floor = Medians::default();
        let mut frame_bytes = 0;
        for (way, runs) in ways.iter().zip(&mut ours) {
            if frame_bytes != bytes_of(*way) {
                frame_bytes = bytes_of(*way);
                floor = measure_floor(frame_bytes, probes)?;
                floors[usize::from(frame_bytes == V3_HEADER_BYTES)].push(floor);
            }
            runs.push((measure(*way, probes)?, floor));
        }
    }
    let mut rows = vec![row(["way", "p50 µs", "÷ floor", "from due µs", "÷ floor", "wanted"])];
    for (name, runs) in ["floor, 16 bytes", "floor, 56 bytes"].into_iter().zip(&floors) {
        let sent = middle(runs, |run| run.sent_us);
        let due = middle(runs, |run| run.due_us);
        rows.push(row([name, &format!("{sent:.1}"), "1.00", &format!("{due:.1}"), "1.00", ""]));
    }
    for (way, runs) in ways.iter().zip(&ours) {
        let sent = middle(runs, |(run, _)| run.sent_us);
        let due = middle(runs, |(run, _)| run.due_us);
        let by_sent = middle(runs, |(run, floor)| run.sent_us / floor.sent_us);
        let by_due = middle(runs, |(run, floor)| run.due_us / floor.due_us);
        let verdict =
            if by_sent <= TARGET && by_due <= TARGET { "≤ 1.3" } else { "≤ 1.3 missed" };
        rows.push(row([
            &way.name(),
            &format!("{sent:.1}"),
            &format!("{by_sent:.2}"),
            &format!("{due:.1}"),
            &format!("{by_due:.2}"),
            verdict,
        ]));
    }
    print_table(
        &format!("Round trip on loopback, one probe a ms, {rounds} rounds of {probes}, medians"),
        &rows,
    );
    Ok(())
}

/// Every way, those with the same frame size together.
fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    for wire in [Wire::V1, Wire::V3] {
        for stamps in [false, true] {
            for io in [IoChoice::Uring, IoChoice::Poll] {
                ways.push(Way { io, wire, stamps });
            }
        }
    }
    ways
}

fn bytes_of(way: Way) -> usize {
    if way.wire == Wire::V1 { V1_BYTES } else { V3_HEADER_BYTES }
}

/// Our prober against our responder.
fn measure(way: Way, probes: usize) -> io::Result<Medians> {
    let (responder, at) = rig::respond(way)?;
    let count = u64::try_from(probes).ok();
    let interval_ns = rttscope::time::duration_ns(INTERVAL);
    let (mut prober, _) =
        rig::probe(way, at, Load { targets: 1, interval_ns, timeout: TIMEOUT, count })?;
    while !matches!(prober.reports.blocking_recv(), Some(Report::Finished(_) | Report::Died)) {}
    let samples = prober.stop()?;
    responder.stop()?;
    let times = samples.iter().filter_map(|sample| {
        let app_rtt_ns = sample.app_rtt_ns?;
        Some((app_rtt_ns - sample.lag_ns?, app_rtt_ns))
    });
    Ok(medians(times.collect()))
}

/// A plain program: sleep, write, read; its peer reads and writes.
fn measure_floor(frame_bytes: usize, probes: usize) -> io::Result<Medians> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let at = listener.local_addr()?;
    let peer = thread::spawn(move || -> io::Result<()> {
        pin(PEER_CPU)?;
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut buffer = [0; 2_048];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                bytes => stream.write_all(&buffer[..bytes])?,
            }
        }
    });
    let pinger = thread::spawn(move || -> io::Result<Medians> {
        pin(PROBER_CPU)?;
        sys::precise_sleep();
        let mut stream = TcpStream::connect(at)?;
        stream.set_nodelay(true)?;
        ping(&mut stream, frame_bytes, probes)
    });
    let medians = pinger.join().expect("the floor does not panic")?;
    peer.join().expect("the floor does not panic")?;
    Ok(medians)
}

#[expect(clippy::disallowed_methods, reason = "the floor sleeps as a plain program would")]
fn ping(stream: &mut TcpStream, frame_bytes: usize, probes: usize) -> io::Result<Medians> {
    let mut frame = vec![7; frame_bytes];
    let mut times = Vec::with_capacity(probes);
    let mut due = clock::mono();
    for _ in 0..probes {
        due = due.after(INTERVAL);
        thread::sleep(due.duration_since(clock::mono()));
        let sent = clock::mono();
        stream.write_all(&frame)?;
        stream.read_exact(&mut frame)?;
        let received = clock::mono();
        let ns = [sent, due].map(|from| u64::try_from(received.since_ns(from)).unwrap_or(0));
        times.push((ns[0], ns[1]));
    }
    Ok(medians(times))
}

fn pin(cpu: usize) -> io::Result<()> {
    sys::pin(cpu.min(thread::available_parallelism()?.get() - 1))
}

fn medians(times: Vec<(u64, u64)>) -> Medians {
    let counted = times.get(WARM_UP.min(times.len() / 2)..).unwrap_or_default();
    let us = |part: fn(&(u64, u64)) -> u64| {
        let parts: Vec<u64> = counted.iter().map(part).collect();
        rttscope::time::seconds(median(&parts).unwrap_or(0)) * 1e6
    };
    Medians { sent_us: us(|&(sent, _)| sent), due_us: us(|&(_, due)| due) }
}

/// The median over the rounds of something.
fn middle<T>(runs: &[T], part: impl Fn(&T) -> f64) -> f64 {
    median(&runs.iter().map(part).collect::<Vec<_>>()).unwrap_or(f64::NAN)
}
