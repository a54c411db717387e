//! The relay against HAProxy in TCP mode, without and with splice, and against socat, side by side:
//! latency that each adds to a closed loop, throughput and CPU time of a stream, connections per
//! second, and memory for one more idle connection. Each relay is a process of its own on one CPU;
//! its client and its upstream are threads here, on another. Rounds of all ways take turns, and the
//! middle one counts.
//!
//! HAProxy and socat are Debian's (`apt-get install haproxy socat`); what is not here is left out.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]

#[expect(dead_code, reason = "a relay is not scraped here")]
#[path = "common/program.rs"]
mod program;
#[path = "common/report.rs"]
mod report;
#[path = "common/rounds.rs"]
mod rounds;

use std::fs;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rttscope::sys::{self, clock, socket};
use socket2::SockRef;

use program::Program;
use report::{print_table, row};
use rounds::median;

/// The CPU of every relay, and of both of its peers.
const RELAY_CPU: usize = 0;
const PEER_CPU: usize = 1;
/// Where the peers are now.
static PEERS: AtomicUsize = AtomicUsize::new(PEER_CPU);
/// Bytes of a message and of its echo.
const MESSAGES: [usize; 3] = [64, 1_024, 8_192];
/// Bytes of a write of a stream.
const CHUNK: usize = 65_536;
/// Idle connections of the memory table; every one of socat's is a process.
const IDLE: usize = 2_000;
const IDLE_SOCAT: usize = 100;

/// How much is done.
#[derive(Clone, Copy)]
struct Extent {
    rounds: usize,
    /// Messages of a round.
    messages: usize,
    /// How long a stream flows.
    stream: Duration,
    /// Connections of a round, one after the other.
    connections: u32,
}

const FULL: Extent =
    Extent { rounds: 5, messages: 4_000, stream: Duration::from_millis(1_000), connections: 2_000 };
const QUICK: Extent =
    Extent { rounds: 1, messages: 300, stream: Duration::from_millis(200), connections: 100 };

/// One way from the client to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Direct,
    Ours(&'static str),
    Haproxy { splice: bool },
    Socat,
}

const WAYS: [Way; 6] = [
    Way::Direct,
    Way::Ours("uring"),
    Way::Ours("poll"),
    Way::Haproxy { splice: false },
    Way::Haproxy { splice: true },
    Way::Socat,
];

/// A relay that runs.
struct Running {
    way: Way,
    to: SocketAddr,
    process: Option<Process>,
}

enum Process {
    Ours(Program),
    Other(Child),
}

fn main() -> io::Result<()> {
    let extent = if report::quick() { QUICK } else { FULL };
    let echo = upstream(|stream| {
        let mut buffer = vec![0; CHUNK];
        while let Ok(bytes @ 1..) = stream.read(&mut buffer) {
            if stream.write_all(&buffer[..bytes]).is_err() {
                return;
            }
        }
    })?;
    let source = upstream(|stream| {
        let chunk = vec![7; CHUNK];
        while stream.write_all(&chunk).is_ok() {}
    })?;
    let to_echo = start_all(echo)?;
    for (cpu, place) in [(PEER_CPU, "another CPU"), (RELAY_CPU, "its CPU")] {
        PEERS.store(cpu, Ordering::Relaxed);
        pin_peer();
        latencies(&to_echo, place, extent)?;
    }
    PEERS.store(PEER_CPU, Ordering::Relaxed);
    pin_peer();
    connections(&to_echo, extent)?;
    drop(to_echo);
    awake(echo, source, extent)?;
    let to_source = start_all(source)?;
    streams(&to_source, extent)?;
    drop(to_source);
    memory(echo)
}

/// A server of this process: each connection has a thread.
fn upstream(serve: fn(&mut TcpStream)) -> io::Result<SocketAddr> {
    let listener = TcpListener::from(socket::listener((Ipv4Addr::LOCALHOST, 0).into(), false)?);
    let at = listener.local_addr()?;
    thread::spawn(move || {
        pin_peer();
        while let Ok((mut stream, _)) = listener.accept() {
            thread::spawn(move || {
                pin_peer();
                if stream.set_nodelay(true).is_ok() {
                    serve(&mut stream);
                }
            });
        }
    });
    Ok(at)
}

/// Pins the calling thread, and what it starts; on one CPU everything shares it anyway.
fn pin(cpu: usize) {
    let _ = sys::pin(cpu);
}

fn pin_peer() {
    pin(PEERS.load(Ordering::Relaxed));
}

fn start_all(upstream: SocketAddr) -> io::Result<Vec<Running>> {
    let mut running = Vec::new();
    for way in WAYS {
        running.extend(start(way, upstream, false)?);
    }
    pin_peer();
    Ok(running)
}

/// `None` if the program is not installed.
fn start(way: Way, upstream: SocketAddr, awake: bool) -> io::Result<Option<Running>> {
    pin(RELAY_CPU);
    let to_upstream = upstream.to_string();
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    // It is read by then.
    let mut file = tempfile::NamedTempFile::new()?;
    let other = |command: &mut Command| {
        let command = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        command.spawn().ok().map(|child| (Some(Process::Other(child)), free))
    };
    let started = match way {
        Way::Direct => Some((None, upstream)),
        Way::Ours(io) => {
            let arguments = ["relay", "--listen", "127.0.0.1:0", "--upstream", &to_upstream];
            let more = ["--io", io, "--threads", "1", "--pin", "0", "--check-interval", "off"];
            let mut arguments = [&arguments[..], &more[..]].concat();
            arguments.extend(awake.then_some("--busy-poll"));
            let (program, to) = Program::start(&arguments, Stdio::null(), "relay listening")?;
            let to = to.ok_or_else(|| io::Error::other("the relay logged no address"))?;
            Some((Some(Process::Ours(program)), to))
        }
        Way::Haproxy { splice } => {
            let busy = if awake { "busy-polling\n " } else { "" };
            let splice = if splice { " option splice-auto\n" } else { "" };
            write!(
                file,
                "global\n {busy}nbthread 1\n maxconn 9000\n maxpipes 100\ndefaults\n mode tcp\n \
                 timeout connect 5s\n timeout client 1h\n timeout server 1h\n{splice}\
                 listen relay\n bind {free}\n \
                 server upstream {to_upstream}\n"
            )?;
            file.flush()?;
            other(Command::new("haproxy").arg("-db").arg("-f").arg(file.path()))
        }
        Way::Socat => {
            let listen = format!(
                "TCP4-LISTEN:{},bind=127.0.0.1,fork,nodelay,reuseaddr,backlog=1024",
                free.port()
            );
            let connect = format!("TCP4:{to_upstream},nodelay");
            other(Command::new("socat").args([&listen, &connect]))
        }
    };
    let Some((process, to)) = started else {
        println!("{} is not installed, and left out", way.name());
        return Ok(None);
    };
    let running = Running { way, to, process };
    let patience = clock::mono().after(Duration::from_secs(10));
    while running.connect().is_err() {
        if clock::mono() > patience {
            return Err(io::Error::other(format!("{} does not listen", way.name())));
        }
        thread::park_timeout(Duration::from_millis(10));
    }
    Ok(Some(running))
}

/// Relays that never sleep, one after the other: each would keep the others from its CPU.
fn awake(echo: SocketAddr, source: SocketAddr, extent: Extent) -> io::Result<()> {
    let ways = [Way::Ours("uring"), Way::Ours("poll"), Way::Haproxy { splice: true }];
    let mut rows = vec![row(["way", "p50 µs", "p99 µs", "GiB/s"])];
    for way in ways {
        let Some(to_echo) = start(way, echo, true)? else { continue };
        pin_peer();
        let middle = |values: Vec<f64>| median(&values).unwrap_or(f64::NAN);
        let rounds = (0..extent.rounds).map(|_| round_trips(&to_echo, 64, extent.messages));
        let rounds: Vec<[f64; 2]> = rounds.collect::<io::Result<_>>()?;
        let which = |at: usize| middle(rounds.iter().map(|round| round[at]).collect());
        let (p50, p99) = (which(0), which(1));
        drop(to_echo);
        let Some(to_source) = start(way, source, true)? else { continue };
        pin_peer();
        let rounds = (0..extent.rounds).map(|_| stream(&to_source, extent.stream));
        let rounds: Vec<[f64; 2]> = rounds.collect::<io::Result<_>>()?;
        let gib = middle(rounds.iter().map(|round| round[0]).collect());
        let figures = [format!("{p50:.1}"), format!("{p99:.1}"), format!("{gib:.2}")];
        rows.push(row([&way.name(), &figures[0], &figures[1], &figures[2]]));
    }
    print_table("Never asleep: round trips of 64 bytes, and one stream", &rows);
    Ok(())
}

/// Added latency: round trips of one message after the other, less those without a relay.
fn latencies(ways: &[Running], place: &str, extent: Extent) -> io::Result<()> {
    for bytes in MESSAGES {
        let mut seen = vec![Vec::new(); ways.len()];
        for _ in 0..extent.rounds {
            for (way, seen) in ways.iter().zip(&mut seen) {
                seen.push(round_trips(way, bytes, extent.messages)?);
            }
        }
        let middle = |seen: &[[f64; 2]], which: usize| {
            let values: Vec<f64> = seen.iter().map(|round| round[which]).collect();
            median(&values).unwrap_or(f64::NAN)
        };
        let direct = [middle(&seen[0], 0), middle(&seen[0], 1)];
        let mut rows = vec![row(["way", "p50 µs", "p99 µs", "added p50", "added p99"])];
        for (way, seen) in ways.iter().zip(&seen) {
            let (p50, p99) = (middle(seen, 0), middle(seen, 1));
            rows.push(row([
                &way.way.name(),
                &format!("{p50:.1}"),
                &format!("{p99:.1}"),
                &format!("{:.1}", p50 - direct[0]),
                &format!("{:.1}", p99 - direct[1]),
            ]));
        }
        let title = format!("Round trips of {bytes} bytes, one at a time, peers on {place}");
        print_table(&title, &rows);
    }
    Ok(())
}

/// p50 and p99, µs.
fn round_trips(way: &Running, bytes: usize, count: usize) -> io::Result<[f64; 2]> {
    let mut stream = way.connect()?;
    let (message, mut echo) = (vec![7; bytes], vec![0; bytes]);
    let mut took = Vec::with_capacity(count);
    for number in 0..count + count / 10 {
        let begin = clock::mono();
        stream.write_all(&message)?;
        stream.read_exact(&mut echo)?;
        if number >= count / 10 {
            took.push(clock::mono().duration_since(begin));
        }
    }
    took.sort_unstable();
    let at = |percent: usize| took[(took.len() - 1) * percent / 100].as_secs_f64() * 1e6;
    Ok([at(50), at(99)])
}

/// Connections per second, each for one byte and its echo, one after the other.
fn connections(ways: &[Running], extent: Extent) -> io::Result<()> {
    let mut seen = vec![Vec::new(); ways.len()];
    for _ in 0..extent.rounds {
        for (way, seen) in ways.iter().zip(&mut seen) {
            // A process for each takes its time.
            let share = if way.way == Way::Socat { 10 } else { 1 };
            let count = (extent.connections / share).max(10);
            let begin = clock::mono();
            for _ in 0..count {
                let mut stream = way.connect()?;
                stream.write_all(&[7])?;
                stream.read_exact(&mut [0])?;
                // Ports that wait after their connection would run out.
                SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
            }
            seen.push(f64::from(count) / clock::mono().duration_since(begin).as_secs_f64());
        }
    }
    let mut rows = vec![row(["way", "connections/s"])];
    for (way, seen) in ways.iter().zip(&seen) {
        let middle = median(seen).unwrap_or(f64::NAN);
        rows.push(row([&way.way.name(), &format!("{middle:.0}")]));
    }
    print_table("Connections, one at a time: connect, one byte and its echo, close", &rows);
    Ok(())
}

/// Throughput of one stream from the upstream, and what it costs the relay.
fn streams(ways: &[Running], extent: Extent) -> io::Result<()> {
    let mut seen = vec![Vec::new(); ways.len()];
    for _ in 0..extent.rounds {
        for (way, seen) in ways.iter().zip(&mut seen) {
            seen.push(stream(way, extent.stream)?);
        }
    }
    let mut rows = vec![row(["way", "GiB/s", "CPU s a GiB"])];
    for (way, seen) in ways.iter().zip(&seen) {
        let middle = |which: usize| {
            let values: Vec<f64> = seen.iter().map(|round: &[f64; 2]| round[which]).collect();
            median(&values).unwrap_or(f64::NAN)
        };
        let cpu = if way.process.is_none() { String::new() } else { format!("{:.3}", middle(1)) };
        rows.push(row([&way.way.name(), &format!("{:.2}", middle(0)), &cpu]));
    }
    print_table("One stream, written in pieces of 64 KiB", &rows);
    Ok(())
}

/// GiB/s, and seconds of CPU for a GiB.
fn stream(way: &Running, how_long: Duration) -> io::Result<[f64; 2]> {
    let mut stream = way.connect()?;
    let mut buffer = vec![0; 4 * CHUNK];
    let begin = clock::mono();
    let (mut bytes, cpu) = (0.0, way.cpu_seconds());
    while clock::mono().duration_since(begin) < how_long {
        let read = stream.read(&mut buffer)?;
        bytes += f64::from(u32::try_from(read).expect("a small buffer"));
    }
    let (seconds, cpu) =
        (clock::mono().duration_since(begin).as_secs_f64(), way.cpu_seconds() - cpu);
    let gib = bytes / f64::from(1 << 30);
    Ok([gib / seconds, cpu / gib])
}

/// Memory of the relay's processes for one more idle connection.
fn memory(echo: SocketAddr) -> io::Result<()> {
    sys::raise_descriptor_limit();
    let mut rows = vec![row(["way", "idle connections", "KiB each"])];
    for way in WAYS {
        let Some(running) = start(way, echo, false)? else { continue };
        pin_peer();
        if running.process.is_none() {
            continue;
        }
        let count = if way == Way::Socat { IDLE_SOCAT } else { IDLE };
        let used = |stream: &mut TcpStream| -> io::Result<()> {
            stream.write_all(&[7; 1_024])?;
            stream.read_exact(&mut [0; 1_024])
        };
        // What the first few need is not theirs alone.
        let mut first: Vec<_> = (0..50).map(|_| running.connect()).collect::<Result<_, _>>()?;
        first.iter_mut().try_for_each(used)?;
        let before = running.resident_kib();
        let mut idle: Vec<_> = (0..count).map(|_| running.connect()).collect::<Result<_, _>>()?;
        idle.iter_mut().try_for_each(used)?;
        let each =
            (running.resident_kib() - before) / f64::from(u32::try_from(count).expect("few"));
        rows.push(row([&way.name(), &count.to_string(), &format!("{each:.2}")]));
    }
    print_table("Memory for one more connection that was used once and is idle", &rows);
    Ok(())
}

impl Way {
    fn name(self) -> String {
        match self {
            Self::Direct => "no relay".to_owned(),
            Self::Ours(io) => format!("rttscope, {io}"),
            Self::Haproxy { splice: false } => "HAProxy".to_owned(),
            Self::Haproxy { splice: true } => "HAProxy, splice".to_owned(),
            Self::Socat => "socat".to_owned(),
        }
    }
}

impl Running {
    fn connect(&self) -> io::Result<TcpStream> {
        let stream = TcpStream::connect(self.to)?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }

    /// The process and its children.
    fn processes(&self) -> Vec<u32> {
        let Some(process) = &self.process else { return Vec::new() };
        let first = match process {
            Process::Ours(program) => program.child.id(),
            Process::Other(child) => child.id(),
        };
        let path = format!("/proc/{first}/task/{first}/children");
        let children = fs::read_to_string(path).unwrap_or_default();
        let children = children.split_whitespace().filter_map(|id| id.parse().ok());
        std::iter::once(first).chain(children).collect()
    }

    /// User and system time so far (proc_pid_stat(5), fields 14 and 15).
    fn cpu_seconds(&self) -> f64 {
        let ticks = self.processes().into_iter().map(|process| {
            let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
            let (_, rest) = stat.rsplit_once(')').unwrap_or_default();
            let fields = rest.split_whitespace().skip(11).take(2);
            fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>()
        });
        ticks.sum::<f64>() / 100.0
    }

    /// The proportional share of what is resident: processes of one program share most of it.
    fn resident_kib(&self) -> f64 {
        let sizes = self.processes().into_iter().filter_map(|process| {
            let rollup = fs::read_to_string(format!("/proc/{process}/smaps_rollup")).ok()?;
            let line = rollup.lines().find(|line| line.starts_with("Pss:"))?;
            line.split_whitespace().nth(1)?.parse::<f64>().ok()
        });
        sizes.sum()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Self::Other(child) = self {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
