//! What a request costs the load generator, beside Debian's sockperf on the same responder:
//! requests per second, and per second of the client's own CPU time. The client has one CPU, the
//! responder another one. sockperf ping-pong waits for each answer, as our closed loop on one
//! connection does; sockperf throughput only sends and wants no answers, so that our sixteen
//! connections, which check every byte of theirs, do more than it.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]

#[path = "common/report.rs"]
mod report;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::thread;

use report::{print_table, row};
use rttscope::sys;

/// Bytes of a request.
const BYTES: usize = 64;
/// The CPU of the clients, and of the responder.
const CLIENT_CPU: &str = "0";
const RESPONDER_CPU: usize = 1;

/// What one run of a client showed.
#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Per second of the run.
    rate: f64,
    /// Per second of the client's CPU time.
    per_core: f64,
    /// `None` without answers.
    p50_us: Option<f64>,
}

/// What a responder does with a message.
#[derive(Clone, Copy, Debug)]
enum Manners {
    /// Returns it.
    Echo,
    /// Returns it as sockperf's server does, if it is a request at all.
    Sockperf,
}

/// Our own clients.
const OURS: [(&str, &str); 5] = [
    ("rttscope, io_uring, 1 connection", "--io uring -c 1"),
    ("rttscope, readiness, 1 connection", "--io poll -c 1"),
    ("rttscope, io_uring, 16 connections", "--io uring -c 16"),
    ("rttscope, readiness, 16 connections", "--io poll -c 16"),
    ("rttscope, io_uring, open loop at 20,000/s on 16", "--io uring -c 16 --rate 20000"),
];

fn main() -> io::Result<()> {
    let seconds = if report::quick() { 1 } else { 2 };
    let rounds = if report::quick() { 1 } else { 3 };
    let echo = respond(Manners::Echo)?;
    let peer = respond(Manners::Sockperf)?;
    let mut seen: Vec<Vec<Seen>> = vec![Vec::new(); OURS.len() + 2];
    for _ in 0..rounds {
        for ((_, words), seen) in OURS.iter().zip(&mut seen) {
            seen.push(run_ours(words, echo, seconds)?);
        }
        for (mode, seen) in ["ping-pong", "throughput"].into_iter().zip(&mut seen[OURS.len()..]) {
            match run_sockperf(mode, peer, seconds) {
                Ok(run) => seen.push(run),
                Err(error) => println!("sockperf {mode}: {error}; `cargo xtask bench` installs it"),
            }
        }
    }
    let names = OURS.iter().map(|(name, _)| *name);
    let names = names.chain(["sockperf ping-pong", "sockperf throughput, no answers"]);
    let best: Vec<Option<Seen>> = seen.iter().map(|runs| best(runs)).collect();
    let peer = best[OURS.len()];
    let ratio = |part: Option<f64>| part.map_or_else(|| "-".to_owned(), |it| format!("{it:.2}"));
    let mut rows =
        vec![row(["client", "per second", "÷ ping-pong", "per core", "÷ ping-pong", "p50 µs"])];
    for (name, seen) in names.zip(&best) {
        let Some(seen) = seen else { continue };
        rows.push(row([
            name,
            &format!("{:.0}", seen.rate),
            &ratio(peer.map(|peer| seen.rate / peer.rate)),
            &format!("{:.0}", seen.per_core),
            &ratio(peer.map(|peer| seen.per_core / peer.per_core)),
            &seen.p50_us.map_or_else(|| "-".to_owned(), |us| format!("{us:.1}")),
        ]));
    }
    print_table(&format!("Requests of {BYTES} bytes, best of {rounds} rounds"), &rows);
    Ok(())
}

fn run_ours(words: &str, to: SocketAddr, seconds: u32) -> io::Result<Seen> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rttscope"));
    command.args(["load", &to.to_string(), "--json", "--warm-up", "0", "--pin", CLIENT_CPU]);
    command.args(["--size", &BYTES.to_string(), "--duration", &format!("{seconds}s")]);
    command.args(words.split(' '));
    let (output, cpu_s) = run(&mut command)?;
    let number = |key: &str| {
        let (_, rest) = output.split_once(&format!("\"{key}\":"))?;
        rest.split([',', '}']).next()?.parse::<f64>().ok()
    };
    let found = number("answered").zip(number("latency_ns_p50"));
    let (answered, p50_ns) = found.ok_or_else(|| io::Error::other(output.clone()))?;
    Ok(Seen {
        rate: answered / f64::from(seconds),
        per_core: answered / cpu_s,
        p50_us: Some(p50_ns / 1e3),
    })
}

fn run_sockperf(mode: &str, to: SocketAddr, seconds: u32) -> io::Result<Seen> {
    let mut command = Command::new("taskset");
    command.args(["-c", CLIENT_CPU, "sockperf", mode, "--tcp"]);
    command.args(["-i", &to.ip().to_string(), "-p", &to.port().to_string()]);
    command.args(["-m", &BYTES.to_string(), "-t", &seconds.to_string()]);
    if mode == "ping-pong" {
        command.arg("--full-rtt");
    }
    let (output, cpu_s) = run(&mut command)?;
    let number = |before: &str| {
        let (_, rest) = output.split_once(before)?;
        let rest = rest.trim_start();
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        rest[..end].parse::<f64>().ok()
    };
    let answered = match mode {
        "throughput" => number("Message Rate is ").map(|rate| rate * f64::from(seconds)),
        _ => number("ReceivedMessages="),
    };
    let answered = answered.ok_or_else(|| io::Error::other(output.clone()))?;
    Ok(Seen {
        rate: answered / f64::from(seconds),
        per_core: answered / cpu_s,
        p50_us: number("percentile 50.000 ="),
    })
}

/// What a command wrote, and the CPU time that it took in s.
fn run(command: &mut Command) -> io::Result<(String, f64)> {
    let before = children_cpu_s()?;
    let output = command.stdin(Stdio::null()).output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    if !output.status.success() {
        return Err(io::Error::other(format!("{text}{errors}")));
    }
    Ok((text, children_cpu_s()? - before))
}

/// CPU time of the children that have ended (proc(5), fields 16 and 17 of `stat`).
fn children_cpu_s() -> io::Result<f64> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let (_, rest) = stat.rsplit_once(')').ok_or(io::ErrorKind::InvalidData)?;
    let ticks = |field: usize| rest.split_ascii_whitespace().nth(field - 3)?.parse::<u32>().ok();
    let ticks = ticks(16).zip(ticks(17)).ok_or(io::ErrorKind::InvalidData)?;
    // USER_HZ, which is 100 on every architecture that this runs on.
    Ok(f64::from(ticks.0 + ticks.1) / 100.0)
}

/// A responder with a blocking thread for each connection, all on one CPU.
fn respond(manners: Manners) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || answer(stream, manners));
        }
    });
    Ok(address)
}

fn answer(mut stream: TcpStream, manners: Manners) -> io::Result<()> {
    let cpus = thread::available_parallelism()?.get();
    sys::pin(RESPONDER_CPU.min(cpus - 1))?;
    stream.set_nodelay(true)?;
    let mut message = [0; BYTES];
    loop {
        stream.read_exact(&mut message)?;
        if let Manners::Sockperf = manners {
            // Behind 8 bytes of number are 2 of flags: 1 is a client's, 2 wants an answer.
            let flags = &mut message[9];
            if *flags & 2 == 0 {
                continue;
            }
            *flags &= !1;
        }
        stream.write_all(&message)?;
    }
}

/// Others that share the machine only ever slow a client down.
fn best(runs: &[Seen]) -> Option<Seen> {
    runs.iter().copied().max_by(|a, b| a.per_core.total_cmp(&b.per_core))
}
