//! Memory of the prober for one more idle target: the resident size of the real binary with many
//! targets, less that with one, divided. What the kernel keeps for the sockets is not in there.
//! Every target has finished its share of probes when the size is read, so histograms have the
//! buckets that a steady target needs. The responder is a process of its own.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]

#[path = "common/process.rs"]
mod process;
#[path = "common/program.rs"]
mod program;
#[path = "common/report.rs"]
mod report;
#[path = "common/targets.rs"]
mod targets;

use std::io;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use process::{raise_descriptors, resident_bytes};
use program::Program;
use report::{print_table, row};
use targets::targets_file;

/// Idle targets.
const TARGETS: usize = 10_000;
/// Finished probes of each before the size is read.
const PROBES: usize = 20;
/// What one target may take, bytes.
const BYTES_WANTED: u64 = 16 * 1024;

/// A target keeps as many probes in mind as its timeout has intervals: as many as by default.
const IDLE: Pace = Pace { interval: "500ms", timeout: "2s" };
/// For a few targets.
const FAST: Pace = Pace { interval: "100ms", timeout: "400ms" };

/// How often a target is probed.
#[derive(Clone, Copy)]
struct Pace {
    interval: &'static str,
    timeout: &'static str,
}

/// What a run showed, bytes.
struct Sizes {
    idle: u64,
    scraped: u64,
}

fn main() -> io::Result<()> {
    let descriptors = raise_descriptors(u64::try_from(2 * TARGETS).expect("it fits"));
    let wanted = if report::quick() { 500 } else { TARGETS };
    let possible = usize::try_from(descriptors.saturating_sub(100)).unwrap_or(usize::MAX);
    let targets = wanted.min(possible);
    if targets < wanted {
        println!("only {descriptors} descriptors are allowed: {targets} targets, not {wanted}");
    }
    let ways = [
        ("uring v3, stamps on (default)", ["--io=uring", "--wire=v3", "--clock=auto"]),
        ("poll v3, stamps on", ["--io=poll", "--wire=v3", "--clock=auto"]),
        ("uring v1, stamps off", ["--io=uring", "--wire=v1", "--clock=application"]),
    ];
    let ways = if report::quick() { &ways[..1] } else { &ways[..] };
    let mut rows = vec![row([
        "way",
        "1 target MiB",
        "all MiB",
        "KiB a target",
        "wanted",
        "after a scrape MiB",
    ])];
    for (name, flags) in ways {
        let one = measure(flags, 1, FAST)?;
        let all = measure(flags, targets, if report::quick() { FAST } else { IDLE })?;
        let others = u64::try_from(targets - 1).expect("it fits");
        let each = all.idle.saturating_sub(one.idle) / others;
        rows.push(row([
            name,
            &format!("{:.1}", mib(one.idle)),
            &format!("{:.1}", mib(all.idle)),
            &format!("{:.1}", mib(1024 * each)),
            if each <= BYTES_WANTED { "≤ 16" } else { "≤ 16 missed" },
            &format!("{:.1}", mib(all.scraped)),
        ]));
    }
    print_table(
        &format!("Resident memory of the prober, {targets} targets after {PROBES} probes each"),
        &rows,
    );
    Ok(())
}

fn measure(flags: &[&str], targets: usize, pace: Pace) -> io::Result<Sizes> {
    let serve = ["serve", "--listen", "0.0.0.0:0", "--max-connections", "100000"];
    let (responder, at) = Program::start(&serve, Stdio::null(), "responder listening")?;
    let at = at.ok_or_else(|| io::Error::other("the responder logged no address"))?;
    let file = targets_file(targets, at.port())?;
    let path = file.path().to_string_lossy();
    let Pace { interval, timeout } = pace;
    let mut probe = vec!["probe", "--targets", &*path];
    probe.extend(["--interval", interval, "--timeout", timeout]);
    probe.extend(flags);
    let (prober, _) = Program::start(&probe, Stdio::null(), "\"probing\"")?;
    // The responder's counters tell what the prober did: asking the prober would fill its memory.
    let bytes_of_probe = if flags.contains(&"--wire=v1") { 16 } else { 56 };
    let enough = u64::try_from(targets * PROBES * bytes_of_probe).expect("it fits");
    for _ in 0..600 {
        if received_bytes(&responder)? > enough {
            let pid = prober.child.id();
            let idle = resident_bytes(pid)?;
            prober.scrape()?;
            return Ok(Sizes { idle, scraped: resident_bytes(pid)? });
        }
        pause(Duration::from_millis(100));
    }
    Err(io::Error::other("the probes did not come in a minute"))
}

/// What the responder received over all connections.
fn received_bytes(responder: &Program) -> io::Result<u64> {
    let scrape = responder.scrape()?;
    let text = String::from_utf8_lossy(&scrape.head);
    let line = text.lines().find(|line| line.starts_with("tcp_responder_received_bytes_total"));
    let value = line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok());
    value.ok_or_else(|| io::Error::other("no tcp_responder_received_bytes_total in the scrape"))
}

#[expect(clippy::disallowed_methods, reason = "another process works meanwhile")]
fn pause(duration: Duration) {
    thread::sleep(duration);
}

fn mib(bytes: u64) -> f64 {
    f64::from(u32::try_from(bytes / 1024).expect("below 4 TiB")) / 1024.0
}
