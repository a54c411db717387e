//! Steady state allocates nothing for a probe. A counting allocator must not be in the product, and
//! must count nobody else, so this is a test binary of its own with one test: it runs measuring
//! threads in this process, wired as `app` wires them, lets buffers grow to their working size,
//! and then counts allocations against probes.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]
#![expect(clippy::disallowed_methods, reason = "a test waits for real clocks")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rttscope::echo::ResponderSettings;
use rttscope::probe::{ProbeSettings, Wire};
use rttscope::stats::slo::Objectives;
use rttscope::stats::{EchoSeries, ProbeSeries, Stats, WorkerSeries};
use rttscope::sys::socket::{self, SocketOptions};
use rttscope::sys::{Io, IoChoice, IoOptions};
use rttscope::tcp_info::Members;
use rttscope::worker::{Change, NewProbe, Outlets, TargetId, Worker, WorkerOptions};

/// The system's allocator, counted.
struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes unchanged to the system's allocator, which keeps the contract.
#[expect(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

#[test]
fn steady_state_allocates_nothing_per_probe() {
    for backend in [IoChoice::Uring, IoChoice::Poll] {
        for stamps in [true, false] {
            if let Err(error) = Io::open(&options(backend, stamps)) {
                report_skip(&format!("alloc::{backend:?}"), &error.to_string());
                continue;
            }
            check(backend, stamps);
        }
    }
}

/// Prober and responder, each in its own measuring thread.
fn check(backend: IoChoice, stamps: bool) {
    let stats = Arc::new(Stats::default());
    // Keeps the other end open; nothing reports anything in a run that never ends.
    let (reports, _incoming) = tokio::sync::mpsc::channel(16);
    let outlets = Outlets { reports, samples: None, stats: Arc::clone(&stats) };
    let start = |name: &str| {
        let options = WorkerOptions {
            name: name.to_owned(),
            io: options(backend, stamps),
            cpu: None,
            priority: None,
            checks: None,
            changes_max: 16,
        };
        let series = stats.add_worker(WorkerSeries::new(name));
        Worker::start(options, outlets.clone(), series).unwrap()
    };

    let listener = socket::listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false).unwrap();
    let address = listener.local_addr().unwrap().as_socket().unwrap();
    let responder = start("echo");
    let settings = ResponderSettings {
        idle_timeout_ns: 60_000_000_000,
        connections_max: 16,
        stamps_wanted: stamps,
    };
    let series = stats.add_echo(EchoSeries::new(address.to_string()));
    responder.change(Change::Serve(listener, settings, series));

    let prober = start("probe");
    let name = address.to_string();
    let objectives = Arc::new(Objectives::new(Vec::new()));
    let series = ProbeSeries::new(&name, &name, Vec::new(), objectives);
    let series = stats.add_probe(series.with_tcp_info(Members::ALL).with_history(1_000));
    prober.change(Change::Probe(Box::new(NewProbe {
        target: TargetId(0),
        settings: settings_of(address, stamps),
        paths: std::num::NonZeroU8::MIN,
        options: Arc::new(SocketOptions::default()),
        series: Arc::clone(&series),
    })));

    let received = || series.snapshot().counters.received;
    wait_until("warmed up", || received() >= WARM_UP_PROBES);
    // Nothing but the measuring threads runs between the two readings of the counter.
    let probes_before = received();
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    thread::sleep(MEASURED);
    let allocations = ALLOCATIONS.load(Ordering::Relaxed) - before;
    let probes = received() - probes_before;

    prober.stop();
    responder.stop();
    assert!(probes >= PROBES_MIN, "{backend:?}, stamps {stamps}: {probes} probes");
    // A histogram allocates when a duration falls into an octave that it has never seen, which is
    // rare, and all there is.
    assert!(
        allocations * PROBES_PER_OCTAVE <= probes,
        "{backend:?}, stamps {stamps}: {allocations} allocations in {probes} probes"
    );
}

fn options(backend: IoChoice, stamps: bool) -> IoOptions {
    IoOptions { backend, stamps, ..IoOptions::default() }
}

fn settings_of(address: SocketAddr, stamps: bool) -> ProbeSettings {
    ProbeSettings {
        interval_ns: 250_000,
        phase_ns: 0,
        timeout_ns: 200_000_000,
        adaptive: false,
        window: 100,
        count: None,
        stop_at: None,
        wire: Wire::V3,
        padding_bytes: 0,
        stamps_wanted: stamps,
        resolve_interval_ns: None,
        in_flight_max: 4_096,
        addresses: vec![address],
    }
}

fn wait_until(what: &str, met: impl Fn() -> bool) {
    let started = Instant::now();
    while !met() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// Says that a backend was not tested, where people and `xtask` look.
#[expect(clippy::print_stderr, reason = "libtest has no way to skip at run time")]
fn report_skip(test: &str, reason: &str) {
    use std::io::Write;
    let line = format!("SKIP {test}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("RTTSCOPE_SKIPS") {
        let mut file = std::fs::OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}

/// Enough for every buffer to have grown and most octaves to have been seen.
const WARM_UP_PROBES: u64 = 3_000;
/// At 4,000 probes a second.
const MEASURED: Duration = Duration::from_millis(1_500);
/// A busy machine skips slots; fewer would prove little.
const PROBES_MIN: u64 = 2_000;
/// Nine histograms; a moment without the CPU shows in a new octave or two of each.
const PROBES_PER_OCTAVE: u64 = 100;
/// A bound for a machine that stands still.
const PATIENCE: Duration = Duration::from_secs(20);
