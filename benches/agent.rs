//! An agent of 10,000 targets on one core: whether it keeps its schedule, also while it is scraped
//! and reloaded, what a reload takes in which one target of a hundred has changed, whether the
//! others are left alone, and what it takes to end. The real binary with one measuring thread on
//! one CPU; the responder is a process of its own on another. Lags are the agent's own metrics:
//! buckets of `tcp_echo_stage_seconds` over all targets, within which quantiles are interpolated.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]

#[path = "common/process.rs"]
mod process;
#[path = "common/program.rs"]
mod program;
#[path = "common/report.rs"]
mod report;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use rttscope::sys::clock;
use rustix::process::{Pid, Signal, kill_process};

use process::{raise_descriptors, resident_bytes};
use program::Program;
use report::{print_table, row};

/// Probed targets, each once a second.
const TARGETS: usize = 10_000;
/// One of so many is another one after the reload.
const CHANGED: usize = 100;
/// What a reload may take.
const RELOAD_WANTED: Duration = Duration::from_secs(1);
/// Far more than anything takes here.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one scrape says of all echo targets.
#[derive(Default)]
struct Seen {
    sent: HashMap<String, u64>,
    connects: HashMap<String, u64>,
    skipped: u64,
    late: u64,
    timeouts: u64,
    /// Probes by the end of the bucket of their lag, ns; `u64::MAX` for the last one.
    lags: BTreeMap<u64, u64>,
}

/// An agent, its file, and the responder that its targets are.
struct Scene {
    responder: Program,
    agent: Program,
    file: tempfile::NamedTempFile,
    at: SocketAddr,
    targets: usize,
    io: &'static str,
}

/// What one window of time showed.
struct Window {
    name: &'static str,
    probes: u64,
    skipped: u64,
    late: u64,
    timeouts: u64,
    /// Connections that the responder accepted.
    accepted: usize,
    p50_us: f64,
    p99_us: f64,
    cpu_percent: f64,
}

fn main() -> io::Result<()> {
    let wanted = if report::quick() { 1_000 } else { TARGETS };
    let descriptors = raise_descriptors(u64::try_from(2 * wanted).expect("it fits"));
    let possible = usize::try_from(descriptors.saturating_sub(200)).unwrap_or(usize::MAX);
    let targets = wanted.min(possible);
    let length = Duration::from_secs(if report::quick() { 2 } else { 20 });
    let ways = if report::quick() { &["uring"][..] } else { &["uring", "poll"] };
    for io in ways {
        measure(io, targets, length)?;
    }
    Ok(())
}

fn measure(io: &'static str, targets: usize, length: Duration) -> io::Result<()> {
    let scene = Scene::start(io, targets)?;
    let bytes = resident_bytes(scene.agent.child.id())?;
    pause(length / 4);
    let first = scene.look()?;
    let (quiet, second) = scene.window("nothing else", &first, || Ok(()), length)?;
    let (scraped, steady) = scene.window(
        "a scrape of everything",
        &second,
        || scene.agent.scrape().map(drop),
        length,
    )?;
    let ports = scene.local_ports()?;
    let mut took = Duration::ZERO;
    let reload = || {
        took = scene.reload()?;
        Ok(())
    };
    let (reloaded, after) = scene.window("a reload", &steady, reload, length)?;
    let kept = scene.local_ports()?.intersection(&ports).count();
    let accepted = reloaded.accepted;
    let (changed, untouched) = (targets / CHANGED, targets - targets / CHANGED);
    let counts_kept = (0..targets)
        .filter(|number| !number.is_multiple_of(CHANGED))
        .map(|number| format!("target-{number}"))
        .filter(|target| after.connects[target] == 1 && after.sent[target] > steady.sent[target])
        .count();
    print(
        &format!("{targets} targets once a second on one CPU, {io}"),
        &[quiet, scraped, reloaded],
    );
    let verdict = if took < RELOAD_WANTED { "< 1 s" } else { "< 1 s missed" };
    println!("reload, {changed} changed: {took:.0?}, {verdict}");
    println!("untouched of {untouched}: {kept} local ports, {counts_kept} counts");
    let each = bytes / u64::try_from(targets).expect("it fits");
    println!("memory before the first scrape: {bytes} bytes, {each} a target");
    println!("from SIGTERM to the end: {:.0?}", scene.stop()?);
    if (kept, counts_kept) != (untouched, untouched) || accepted != changed {
        return Err(io::Error::other("a target was touched that had not changed"));
    }
    Ok(())
}

impl Scene {
    /// Returns once every target is connected.
    fn start(io: &'static str, targets: usize) -> io::Result<Self> {
        let most = (2 * targets).to_string();
        let serve = ["serve", "--listen", "0.0.0.0:0", "--max-connections", &most, "--pin", "1"];
        let (responder, at) = Program::start(&serve, Stdio::null(), "responder listening")?;
        let at = at.ok_or_else(|| io::Error::other("the responder logged no address"))?;
        let file = tempfile::NamedTempFile::with_suffix(".yaml")?;
        write_config(file.path(), io, targets, at, "before")?;
        let path = file.path().to_string_lossy();
        let began = clock::mono();
        let run = ["run", "--config.file", &*path];
        let (agent, _) = Program::start(&run, Stdio::null(), "\"probing\"")?;
        let scene = Self { responder, agent, file, at, targets, io };
        while scene.local_ports()?.len() < targets {
            if clock::mono().duration_since(began) > PATIENCE {
                return Err(io::Error::other("the targets were not connected in a minute"));
            }
            pause(Duration::from_millis(50));
        }
        println!("\nfrom the start to {targets} connections: {:.1?}", elapsed(began));
        Ok(scene)
    }

    /// From the look that `from` is to another one; `then` happens in the middle.
    fn window(
        &self,
        name: &'static str,
        from: &Seen,
        then: impl FnOnce() -> io::Result<()>,
        length: Duration,
    ) -> io::Result<(Window, Seen)> {
        let accepted = self.accepted()?;
        let (began, cpu_before) = (clock::mono(), self.measuring_cpu()?);
        pause(length / 2);
        then()?;
        pause(length / 2);
        let cpu = self.measuring_cpu()?.saturating_sub(cpu_before);
        let cpu_percent = 100.0 * cpu.as_secs_f64() / elapsed(began).as_secs_f64();
        let seen = self.look()?;
        // Whoever began again begins at 0.
        let sent = |seen: &Seen| seen.sent.values().sum::<u64>();
        let lags: Vec<(u64, u64)> = seen
            .lags
            .iter()
            .map(|(end, count)| {
                (*end, count.saturating_sub(from.lags.get(end).copied().unwrap_or(0)))
            })
            .collect();
        let window = Window {
            name,
            probes: sent(&seen).saturating_sub(sent(from)),
            skipped: seen.skipped.saturating_sub(from.skipped),
            late: seen.late.saturating_sub(from.late),
            timeouts: seen.timeouts.saturating_sub(from.timeouts),
            accepted: self.accepted()? - accepted,
            p50_us: quantile_us(&lags, 50),
            p99_us: quantile_us(&lags, 99),
            cpu_percent,
        };
        Ok((window, seen))
    }

    /// Changes some targets of the file, and asks for a reload; what that took until its answer.
    fn reload(&self) -> io::Result<Duration> {
        write_config(self.file.path(), self.io, self.targets, self.at, "after")?;
        let began = clock::mono();
        let mut stream = TcpStream::connect(self.agent.http)?;
        stream.write_all(
            b"POST /-/reload HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        )?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer)?;
        let took = elapsed(began);
        let wanted = format!("{} changed, {} untouched", self.targets / CHANGED, {
            self.targets - self.targets / CHANGED
        });
        if answer.contains(&wanted) { Ok(took) } else { Err(io::Error::other(answer)) }
    }

    /// Of the connections that stand from here to the responder, with the address of it (proc(5),
    /// `net/tcp`): connections to several addresses may share a port.
    fn local_ports(&self) -> io::Result<BTreeSet<String>> {
        let table = fs::read_to_string("/proc/net/tcp")?;
        let to = format!(":{:04X}", self.at.port());
        let local = table.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            let (local, remote, state) = (words.next()?, words.next()?, words.next()?);
            (remote.ends_with(&to) && state == ESTABLISHED).then(|| format!("{local} {remote}"))
        });
        Ok(local.collect())
    }

    /// Connections that the responder has accepted so far.
    fn accepted(&self) -> io::Result<usize> {
        let scrape = self.responder.scrape()?;
        let text = String::from_utf8_lossy(&scrape.head);
        let line = text.lines().find(|line| line.starts_with("tcp_responder_connections_total"));
        let value = line.and_then(|line| line.rsplit_once(' ')?.1.parse().ok());
        value.ok_or_else(|| io::Error::other("no tcp_responder_connections_total in the scrape"))
    }

    /// CPU time of the measuring thread (`schedstat`, in ns).
    fn measuring_cpu(&self) -> io::Result<Duration> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.agent.child.id()))? {
            let folder = thread?.path();
            if fs::read_to_string(folder.join("comm"))?.starts_with("probe-") {
                let text = fs::read_to_string(folder.join("schedstat"))?;
                let ns = text.split(' ').next().and_then(|word| word.parse().ok());
                return Ok(Duration::from_nanos(ns.unwrap_or(0)));
            }
        }
        Err(io::Error::other("the agent has no measuring thread"))
    }

    /// What the agent's metrics are now. Only a few of them: a scrape of all is a load of its own.
    fn look(&self) -> io::Result<Seen> {
        let mut stream = TcpStream::connect(self.agent.http)?;
        let names: Vec<String> = SEEN.iter().map(|name| format!("name[]={name}")).collect();
        // By the older version, whose bodies have no chunks.
        write!(stream, "GET /metrics?{} HTTP/1.0\r\n\r\n", names.join("&"))?;
        let mut reader = BufReader::with_capacity(1 << 18, stream);
        let (mut seen, mut line, mut below) = (Seen::default(), String::new(), 0);
        while reader.read_line(&mut line)? > 0 {
            seen.take(&line, &mut below);
            line.clear();
        }
        if seen.sent.len() == self.targets {
            return Ok(seen);
        }
        Err(io::Error::other(format!("a scrape of {} targets", seen.sent.len())))
    }

    /// Ends the agent; what that took.
    fn stop(mut self) -> io::Result<Duration> {
        let pid = i32::try_from(self.agent.child.id()).ok().and_then(Pid::from_raw);
        let began = clock::mono();
        kill_process(pid.expect("a process has a number"), Signal::TERM)?;
        let status = self.agent.child.wait()?;
        if status.success() { Ok(elapsed(began)) } else { Err(io::Error::other("it failed")) }
    }
}

impl Seen {
    /// One line of a scrape; `below` is what the bucket before this one had.
    fn take(&mut self, line: &str, below: &mut u64) {
        let Some((name, rest)) = line.split_once('{') else { return };
        let Some((labels, value)) = rest.rsplit_once("} ") else { return };
        let count = || value.trim_end().parse::<u64>().unwrap_or(0);
        let label = |key: &str| labels.split_once(key).and_then(|(_, rest)| rest.split_once('"'));
        let target = || label("target=\"").map(|(target, _)| target.to_owned()).unwrap_or_default();
        match name {
            "tcp_echo_sent_total" => drop(self.sent.insert(target(), count())),
            "tcp_echo_connects_total" => drop(self.connects.insert(target(), count())),
            "tcp_echo_skipped_total" => self.skipped += count(),
            "tcp_echo_late_total" => self.late += count(),
            "tcp_echo_timeouts_total" => self.timeouts += count(),
            "tcp_echo_stage_seconds_bucket" if labels.contains("stage=\"lag\"") => {
                let Some((end, _)) = label("le=\"") else { return };
                let end = end.parse::<f64>().unwrap_or(f64::INFINITY);
                let end_ns = Duration::try_from_secs_f64(end)
                    .map_or(u64::MAX, |end| u64::try_from(end.as_nanos()).unwrap_or(u64::MAX));
                *self.lags.entry(end_ns).or_default() += count().saturating_sub(*below);
                *below = if end_ns == u64::MAX { 0 } else { count() };
            }
            _ => {}
        }
    }
}

/// Everything else about the changed targets stays: the same name and address, another label.
fn write_config(
    path: &Path,
    io: &str,
    targets: usize,
    at: SocketAddr,
    changed: &str,
) -> io::Result<()> {
    let port = at.port();
    let mut text = format!(
        "web: {{listen: '127.0.0.1:0'}}\nlog: {{format: json}}\nmeasuring: {{io: {io}, threads: \
         1, pin: 0}}\nmodules: {{echo: {{interval: 1s}}}}\ntargets:\n"
    );
    for number in 0..targets {
        // Over a few addresses: the ports of one pair of them would not be enough for all.
        let host = number % 4 + 1;
        let zone = if number.is_multiple_of(CHANGED) { changed } else { "same" };
        text.push_str(&format!(
            "- {{name: target-{number}, address: '127.0.0.{host}:{port}', labels: {{zone: \
             {zone}}}}}\n"
        ));
    }
    let new = path.with_extension("new");
    fs::write(&new, text)?;
    fs::rename(new, path)
}

/// Interpolated within its bucket.
fn quantile_us(lags: &[(u64, u64)], percent: u64) -> f64 {
    let all: u64 = lags.iter().map(|(_, count)| count).sum();
    let (mut below, mut from_ns) = (0, 0);
    for &(end_ns, count) in lags {
        if count > 0 && 100 * (below + count) >= percent * all {
            let share = (percent * all / 100).saturating_sub(below);
            let inside_ns = if end_ns == u64::MAX { 0 } else { (end_ns - from_ns) * share / count };
            return Duration::from_nanos(from_ns + inside_ns).as_secs_f64() * 1e6;
        }
        below += count;
        from_ns = end_ns;
    }
    0.0
}

fn print(title: &str, windows: &[Window]) {
    let mut rows = vec![row([
        "within",
        "probes",
        "skipped",
        "late",
        "timeouts",
        "new connections",
        "lag p50 µs",
        "lag p99 µs",
        "CPU %",
    ])];
    for window in windows {
        rows.push(row([
            window.name,
            &window.probes.to_string(),
            &window.skipped.to_string(),
            &window.late.to_string(),
            &window.timeouts.to_string(),
            &window.accepted.to_string(),
            &format!("{:.0}", window.p50_us),
            &format!("{:.0}", window.p99_us),
            &format!("{:.0}", window.cpu_percent),
        ]));
    }
    print_table(title, &rows);
}

fn elapsed(since: rttscope::time::Mono) -> Duration {
    clock::mono().duration_since(since)
}

#[expect(clippy::disallowed_methods, reason = "another process works meanwhile")]
fn pause(duration: Duration) {
    thread::sleep(duration);
}

/// Families that a look asks for.
const SEEN: [&str; 6] = [
    "tcp_echo_sent",
    "tcp_echo_connects",
    "tcp_echo_skipped",
    "tcp_echo_late",
    "tcp_echo_timeouts",
    "tcp_echo_stage_seconds",
];
/// The state of a connection in `net/tcp`.
const ESTABLISHED: &str = "01";
