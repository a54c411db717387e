//! Half-open checks per second of one core, and the CPU time of one: our methods and backends
//! against a plain loop over epoll that does the same by the book. Then what a check costs with
//! 1,000 targets and with 100,000, each checked once, and each ten times. Everything shares one
//! CPU, the server's kernel included; the server is a listening socket of this process on loopback
//! that nobody accepts from.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]

#[path = "common/report.rs"]
mod report;
#[path = "common/rounds.rs"]
mod rounds;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use rttscope::check::sweep::{RESULT_AGE_NS_MAX, SweepSettings, SweepTarget};
use rttscope::config::limits;
use rttscope::sample::{CheckClock, CheckOutcome, Method};
use rttscope::stats::{Stats, WorkerSeries};
use rttscope::sys::socket::SocketOptions;
use rttscope::sys::{
    self, CheckSettings, Checks, ClockChoice, IoChoice, IoOptions, MethodChoice, clock,
};
use rttscope::time::{NS_PER_SECOND, duration_ns};
use rttscope::worker::{Change, NewSweep, Outlets, Report, TargetId, Worker, WorkerOptions};
use rustix::event::{Timespec, epoll};
use rustix::time::{ClockId, clock_gettime};
use socket2::{Domain, Socket, Type};

use report::{print_table, row};
use rounds::median;

/// Checks at once.
const CONCURRENCIES: [usize; 4] = [1, 16, 64, 256];
/// How long a round is meant to take; the number of its checks follows from a short one.
const ROUND: Duration = Duration::from_millis(700);
const ROUND_QUICK: Duration = Duration::from_millis(100);
/// Checks of the round that finds out.
const TRIAL: u64 = 2_000;
/// Targets of the second table.
const TARGETS: [u32; 2] = [1_000, 100_000];
/// Checks of each of them: what only the first costs shows in the difference.
const REQUESTS: [u64; 2] = [1, 10];
/// Checks of all of them that a figure comes from, in as many runs as that takes.
const CHECKS: u64 = 100_000;
const TIMEOUT: Duration = Duration::from_secs(5);
/// The CPU of everything.
const CPU: usize = 0;

/// One way of checking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    Ours(Method, IoChoice, ClockChoice),
    Plain,
}

const WAYS: [Way; 6] = [
    Way::Plain,
    Way::Ours(Method::Syn, IoChoice::Uring, ClockChoice::Auto),
    Way::Ours(Method::Syn, IoChoice::Uring, ClockChoice::Application),
    Way::Ours(Method::Quickack, IoChoice::Uring, ClockChoice::Auto),
    Way::Ours(Method::Quickack, IoChoice::Uring, ClockChoice::Application),
    Way::Ours(Method::Quickack, IoChoice::Poll, ClockChoice::Application),
];

/// What a round showed.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    checks: u64,
    wall_ns: u64,
    cpu_ns: u64,
    /// Checks that were not open. There must be none.
    wrong: u64,
    /// Checks with a time by eBPF.
    by_ebpf: u64,
}

fn main() -> io::Result<()> {
    sys::raise_descriptor_limit();
    sys::pin(CPU)?;
    let (round, rounds) = if report::quick() { (ROUND_QUICK, 1) } else { (ROUND, 3) };
    let at = listen()?;
    let mut rows =
        vec![row(["way", "at once", "checks/s", "÷ plain", "CPU µs a check", "by eBPF"])];
    for concurrency in CONCURRENCIES {
        let mut seen: Vec<Vec<Seen>> = vec![Vec::new(); WAYS.len()];
        let mut counts = Vec::new();
        for way in WAYS {
            let trial = way.round(&[at.0], TRIAL, concurrency);
            counts.push(trial.map(|trial| as_many_as_fit(trial, round)));
        }
        for _ in 0..rounds {
            for ((way, count), seen) in WAYS.iter().zip(&counts).zip(&mut seen) {
                let Ok(count) = count else { continue };
                seen.push(way.round(&[at.0], *count, concurrency)?);
            }
        }
        let plain = seen[0].iter().map(|seen| seen.per_second()).collect::<Vec<_>>();
        let plain = median(&plain).unwrap_or(f64::NAN);
        for ((way, runs), count) in WAYS.iter().zip(&seen).zip(&counts) {
            if let Err(error) = count {
                // Without the privilege, for example.
                rows.push(row([&way.name(), &concurrency.to_string(), &error.to_string()]));
                continue;
            }
            let middle = |value: fn(&Seen) -> f64| {
                median(&runs.iter().map(value).collect::<Vec<_>>()).unwrap_or(f64::NAN)
            };
            let rate = middle(Seen::per_second);
            rows.push(row([
                &way.name(),
                &concurrency.to_string(),
                &format!("{rate:.0}"),
                &format!("{:.2}", rate / plain),
                &format!("{:.1}", middle(Seen::cpu_us)),
                &format!("{:.0} %", middle(Seen::ebpf_percent)),
            ]));
            let wrong: u64 = runs.iter().map(|seen| seen.wrong).sum();
            assert_eq!(wrong, 0, "{}: checks that were not open", way.name());
        }
    }
    print_table("half-open checks of one open port", &rows);
    targets(at.0)
}

/// A check's cost by the number of targets: as many addresses of this host.
fn targets(at: SocketAddr) -> io::Result<()> {
    let mut rows = vec![row(["way", "checks of each", "1,000 targets", "100,000 targets", "÷"])];
    for way in WAYS.into_iter().skip(1) {
        for requests in REQUESTS {
            let mut costs = [0.0; TARGETS.len()];
            for (targets, cost) in TARGETS.into_iter().zip(&mut costs) {
                let Ok(seen) = way.all_of(at, targets, requests) else { continue };
                assert_eq!(seen.wrong, 0, "{}: checks that were not open", way.name());
                *cost = seen.cpu_us();
            }
            let [few, many] = costs;
            let ratio = format!("{:.2}", many / few);
            let [few, many] = [few, many].map(|cost| format!("{cost:.1}"));
            rows.push(row([&way.name(), &requests.to_string(), &few, &many, &ratio]));
        }
    }
    print_table("CPU µs of a check of one of many targets, 64 at once", &rows);
    Ok(())
}

impl Way {
    fn name(self) -> String {
        match self {
            Self::Plain => "plain epoll loop".to_owned(),
            Self::Ours(method, io, clock) => {
                let io = if io == IoChoice::Poll { "poll" } else { "uring" };
                let ebpf = if clock == ClockChoice::Auto { "eBPF" } else { "no kernel time" };
                format!("{} {io}, {ebpf}", method.name())
            }
        }
    }

    /// Checks each address so often, this many at once.
    fn round(
        self,
        addresses: &[SocketAddr],
        requests: u64,
        concurrency: usize,
    ) -> io::Result<Seen> {
        match self {
            Self::Plain => plain(addresses[0], requests, concurrency),
            Self::Ours(method, io, clock) => {
                ours(method, io, clock, addresses, requests, concurrency)
            }
        }
    }
}

impl Way {
    /// Checks so many addresses of this host so often each, time and again until that is enough.
    fn all_of(self, at: SocketAddr, targets: u32, requests: u64) -> io::Result<Seen> {
        // 127.1.0.1 and what follows: all of 127.0.0.0/8 is this host.
        let first = u32::from(Ipv4Addr::new(127, 1, 0, 1));
        let ips = (first..first + targets).map(Ipv4Addr::from);
        let addresses: Vec<SocketAddr> = ips.map(|ip| (ip, at.port()).into()).collect();
        let enough = if report::quick() { 1 } else { CHECKS };
        let mut all = Seen::default();
        while all.checks < enough {
            let seen = self.round(&addresses, requests, 64)?;
            all.checks += seen.checks;
            all.wall_ns += seen.wall_ns;
            all.cpu_ns += seen.cpu_ns;
            all.wrong += seen.wrong;
        }
        Ok(all)
    }
}

impl Seen {
    #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
    fn per_second(&self) -> f64 {
        self.checks as f64 * 1e9 / self.wall_ns as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "a few seconds")]
    fn cpu_us(&self) -> f64 {
        self.cpu_ns as f64 / 1e3 / self.checks as f64
    }

    #[expect(clippy::cast_precision_loss, reason = "a few millions")]
    fn ebpf_percent(&self) -> f64 {
        100.0 * self.by_ebpf as f64 / self.checks as f64
    }
}

/// So many checks as a round of this length has room for.
fn as_many_as_fit(trial: Seen, round: Duration) -> u64 {
    let each_ns = (trial.wall_ns / trial.checks).max(1);
    (duration_ns(round) / each_ns).max(TRIAL)
}

/// A socket that listens on every address of this host.
fn listen() -> io::Result<(SocketAddr, Socket)> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)).into())?;
    socket.listen(4_096)?;
    let port = socket.local_addr()?.as_socket().map_or(0, |address| address.port());
    Ok((SocketAddr::from((Ipv4Addr::LOCALHOST, port)), socket))
}

fn ours(
    method: Method,
    io: IoChoice,
    clock_choice: ClockChoice,
    addresses: &[SocketAddr],
    requests: u64,
    concurrency: usize,
) -> io::Result<Seen> {
    let settings = CheckSettings {
        method: MethodChoice::Only(method),
        clock: clock_choice,
        socket: SocketOptions::default(),
        checks_max: concurrency,
    };
    let checks = Checks::open(&settings)?;
    if let Some(follower) = checks.follower() {
        follower.follow(addresses[0])?;
    }
    let (reports, mut told) = tokio::sync::mpsc::channel(16);
    let outlets = Outlets { reports, samples: None, stats: Arc::new(Stats::default()) };
    let options = WorkerOptions {
        name: "bench-check".to_owned(),
        io: IoOptions { backend: io, ..IoOptions::default() },
        cpu: Some(CPU),
        priority: None,
        checks: Some(checks),
        changes_max: limits::CHANGES_MAX,
    };
    let worker = Worker::start(options, outlets, Arc::new(WorkerSeries::new("bench-check")))?;
    let (results, incoming) = sync_channel(1_024);
    worker.change(Change::Sweep(Box::new(NewSweep {
        sweep: TargetId(0),
        settings: SweepSettings {
            requests,
            concurrency,
            timeout_ns: duration_ns(TIMEOUT),
            method,
            result_age_ns_max: RESULT_AGE_NS_MAX,
        },
        results,
    })));
    let targets = (0..).zip(addresses).map(|(target, &address)| SweepTarget {
        target,
        addresses: Arc::new([address]),
        ..SweepTarget::default()
    });
    let targets: Vec<SweepTarget> = targets.collect();
    let total = requests * u64::try_from(addresses.len()).expect("64 bits");
    let mut seen = Seen::default();
    let (began, cpu_before) = (clock::mono(), cpu_ns());
    worker.change(Change::SweepTargets(TargetId(0), targets, true));
    while seen.checks < total {
        let Ok(results) = incoming.recv() else {
            return Err(io::Error::other("the measuring thread ended"));
        };
        for result in results {
            seen.checks += 1;
            seen.wrong += u64::from(result.sample.outcome != CheckOutcome::Open);
            seen.by_ebpf += u64::from(result.sample.clock == Some(CheckClock::Ebpf));
        }
    }
    seen.wall_ns = duration_ns(clock::mono().duration_since(began));
    seen.cpu_ns = cpu_ns() - cpu_before;
    worker.stop();
    match told.try_recv() {
        Ok(Report::Died) => Err(io::Error::other("the measuring thread died")),
        _ => Ok(seen),
    }
}

/// What a careful programmer writes in an afternoon: one thread, one epoll, sockets that reset.
fn plain(to: SocketAddr, requests: u64, concurrency: usize) -> io::Result<Seen> {
    let poller = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    let begin = |key: usize| -> io::Result<Socket> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM.nonblocking(), None)?;
        socket.set_tcp_quickack(false)?;
        socket.set_linger(Some(Duration::ZERO))?;
        match socket.connect(&to.into()) {
            Err(error) if error.raw_os_error() != Some(EINPROGRESS) => return Err(error),
            _ => {}
        }
        let key = epoll::EventData::new_u64(u64::try_from(key).expect("64 bits"));
        epoll::add(&poller, &socket, key, epoll::EventFlags::OUT)?;
        Ok(socket)
    };
    let (mut begun, mut seen) = (0, Seen::default());
    let (began, cpu_before) = (clock::mono(), cpu_ns());
    let mut sockets = Vec::with_capacity(concurrency);
    for key in 0..concurrency {
        sockets.push(Some(begin(key)?));
        begun += 1;
    }
    let mut events = Vec::with_capacity(EVENTS);
    while seen.checks < requests {
        let timeout = Timespec { tv_sec: 5, tv_nsec: 0 };
        let _ = epoll::wait(&poller, rustix::buffer::spare_capacity(&mut events), Some(&timeout))?;
        for event in events.drain(..) {
            let key = usize::try_from(event.data.u64()).expect("a key of ours");
            seen.checks += 1;
            let Some(socket) = sockets[key].take() else { continue };
            seen.wrong += u64::from(socket.take_error()?.is_some());
            drop(socket);
            if begun < requests {
                sockets[key] = Some(begin(key)?);
                begun += 1;
            }
        }
    }
    seen.wall_ns = duration_ns(clock::mono().duration_since(began));
    seen.cpu_ns = cpu_ns() - cpu_before;
    Ok(seen)
}

/// CPU time of this process.
fn cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let [seconds, nanoseconds] =
        [time.tv_sec, time.tv_nsec].map(|it| u64::try_from(it).unwrap_or(0));
    seconds * NS_PER_SECOND + nanoseconds
}

/// `EINPROGRESS`.
const EINPROGRESS: i32 = 115;
/// Events of one wait, as many as libevent takes.
const EVENTS: usize = 64;
