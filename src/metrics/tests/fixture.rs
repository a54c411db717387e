//! One snapshot of everything there can be, the same at every run.

use std::sync::Arc;

use crate::histogram::{Boundaries, Histogram, HistogramSnapshot};
use crate::host::{Capability, ProcessUsage};
use crate::sample::{
    CheckClock, CheckCounters, Clock, EchoCounters, Method, ProbeCounters, RelayCounters, Side,
    Stage, UpstreamCounters,
};
use crate::stats::slo::{Objective, ObjectiveClock, Objectives, SloSnapshot};
use crate::stats::{
    BuildInfo, CheckSeries, CheckSnapshot, DiscoverySnapshot, EchoSnapshot, ListSnapshot,
    ProbeSeries, ProbeSnapshot, RelaySnapshot, ReloadSnapshot, Snapshot, SourceSnapshot,
    TcpInfoSeries, TcpInfoSnapshot, TcpInfoWriter, UpstreamSnapshot, WebSnapshot, WorkerSnapshot,
};
use crate::tcp_info::{MEMBERS, Members, Place, Raw};

pub(super) fn histogram(values_ns: &[u64]) -> HistogramSnapshot {
    let histogram = Histogram::new(Arc::new(Boundaries::new(&[150_000])));
    values_ns.iter().for_each(|&ns| histogram.record(ns));
    histogram.snapshot()
}

/// Every counter another number, so that none can stand in another's place.
fn probe_counters() -> ProbeCounters {
    let words = std::array::from_fn(|word| 100 + u64::try_from(word).unwrap());
    ProbeCounters {
        sent: 203,
        connected: 1,
        timeout_ns: 800_000_000,
        ..ProbeCounters::from_words(words)
    }
}

fn objective() -> Objective {
    Objective {
        name: "gold".to_owned(),
        threshold_ns: 150_000,
        objective_ratio: 0.999,
        clock: ObjectiveClock::Best,
    }
}

pub(super) fn probe() -> ProbeSnapshot {
    ProbeSnapshot {
        target: "db \"main\"".to_owned(),
        address: "[fe80::1%eth0]:4000".to_owned(),
        labels: vec![("rack".to_owned(), "a\\b\nc".to_owned())],
        counters: ProbeCounters {
            last_rtt_ns: 81_250,
            window_probes: 8,
            window_lost: 1,
            wire_version: 3,
            ..probe_counters()
        },
        up: true,
        newest_clock: Some(Clock::Kernel),
        rtt: vec![
            (Clock::Kernel, histogram(&[30, 81_250, 81_251, 150_000, 150_001])),
            (Clock::Application, histogram(&[40_000_000_000])),
        ],
        app_rtt: Some(histogram(&[100_000])),
        stages: vec![(Stage::Lag, histogram(&[999])), (Stage::Peer, histogram(&[2_000]))],
        slos: vec![SloSnapshot { objective: objective(), total: 1_000, good: 998 }],
        resolve_failures: 9,
        tcp_info: tcp_info(),
    }
}

/// Each member its place in the table, and one more.
fn tcp_info() -> TcpInfoSnapshot {
    let series = TcpInfoSeries::new(Members::ALL);
    let mut raw = Raw::empty(0);
    for (member, number) in MEMBERS.iter().zip(1..) {
        let number = if matches!(member.place, Place::Bits { .. }) { 1 } else { number };
        raw.set(member, number);
    }
    TcpInfoWriter::new(&series).record(&series, &raw);
    series.snapshot()
}

fn unused_probe() -> ProbeSnapshot {
    let objectives = Arc::new(Objectives::new(vec![objective()]));
    ProbeSeries::new("idle", "192.0.2.1:4000", Vec::new(), objectives).snapshot()
}

pub(super) fn check() -> CheckSnapshot {
    let words = std::array::from_fn(|word| 700 + u64::try_from(word).unwrap());
    CheckSnapshot {
        target: "web".to_owned(),
        address: "192.0.2.7:443".to_owned(),
        labels: Vec::new(),
        method: Method::Syn,
        counters: CheckCounters::from_words(words),
        up: true,
        newest_clock: Some(CheckClock::Ebpf),
        rtt: vec![
            (CheckClock::Ebpf, histogram(&[13_400, 31_300])),
            (CheckClock::Application, histogram(&[34_100])),
        ],
        elapsed: Some(histogram(&[34_100, 1_000_034_100])),
        lag: Some(histogram(&[500])),
        slos: vec![SloSnapshot { objective: objective(), total: 900, good: 897 }],
        resolve_failures: 0,
    }
}

fn unused_check() -> CheckSnapshot {
    let objectives = Arc::new(Objectives::new(vec![objective()]));
    CheckSeries::new("idle", "192.0.2.8:443", Method::Quickack, objectives).snapshot()
}

fn relay() -> RelaySnapshot {
    let words = std::array::from_fn(|word| 800 + u64::try_from(word).unwrap());
    let upstream_words = std::array::from_fn(|word| 850 + u64::try_from(word).unwrap());
    let counters = UpstreamCounters::from_words(upstream_words);
    RelaySnapshot {
        listener: "0.0.0.0:8080".to_owned(),
        counters: RelayCounters::from_words(words),
        upstreams: vec![
            UpstreamSnapshot {
                upstream: "10.0.0.1:80".to_owned(),
                counters: UpstreamCounters { up: 1, draining: 0, ..counters },
                connect: Some(histogram(&[120_000])),
                first_byte: Some(histogram(&[1_500_000])),
                rtt: vec![(Side::Client, histogram(&[9_000])), (Side::Upstream, histogram(&[8]))],
            },
            UpstreamSnapshot {
                upstream: "db.example:5432".to_owned(),
                counters: UpstreamCounters::default(),
                connect: None,
                first_byte: None,
                rtt: Vec::new(),
            },
        ],
    }
}

fn discovery() -> DiscoverySnapshot {
    let source = |source: &str, error: Option<&str>| SourceSnapshot {
        list: "pods".to_owned(),
        source: source.to_owned(),
        good_at_ns: error.is_none().then_some(1_700_000_001_500_000_000),
        refreshes: 31,
        failures: 32,
        targets: 33,
        error: error.map(str::to_owned),
    };
    DiscoverySnapshot {
        sources: vec![source("file:a.json", None), source("dns:b.example", Some("no answer"))],
        lists: vec![ListSnapshot {
            name: "pods".to_owned(),
            targets: 34,
            bad_addresses: 35,
            bad_labels: 36,
            bad_modules: 37,
            duplicates: 38,
            members: Some(39),
        }],
        duplicates: 40,
        excess: 41,
        excess_at_sources: 0,
    }
}

/// One of everything.
pub(super) fn snapshot() -> Snapshot {
    let words = std::array::from_fn(|word| 500 + u64::try_from(word).unwrap());
    Snapshot {
        build: BuildInfo { version: "1.2.3", os: "linux", arch: "x86_64" },
        capabilities: vec![
            Capability { name: "io_uring", available: true, reason: String::new() },
            Capability {
                name: "hardware_timestamps",
                available: false,
                reason: "EOPNOTSUPP: the driver of eth0 has none".to_owned(),
            },
        ],
        event_losses: Some((2, 1)),
        process: ProcessUsage {
            cpu_ns: Some(1_250_000_000),
            resident_bytes: Some(12_345_678),
            virtual_bytes: Some(23_456_789_012),
            open_fds: Some(17),
            max_fds: Some(1_024),
            start_time_ns: Some(1_700_000_000_500_000_000),
            threads: None,
        },
        report_samples_dropped: 3,
        log_lines_dropped: 5,
        http_connections_refused: 4,
        web: Some(WebSnapshot { refused: [7, 2, 1], handshakes_failed: 6, last_reload_good: true }),
        on_demand: Some([40, 3, 2, 1]),
        reload: Some(ReloadSnapshot { last_good: true, good_at_ns: 1_700_000_000_250_000_000 }),
        discovery: Some(discovery()),
        probes: vec![probe(), unused_probe()],
        checks: vec![check(), unused_check()],
        echoes: vec![EchoSnapshot {
            listener: "0.0.0.0:4000".to_owned(),
            counters: EchoCounters::from_words(words),
            residence: Some(histogram(&[12_000, 13_000])),
        }],
        relays: vec![relay()],
        workers: vec![WorkerSnapshot {
            thread: "probe-0".to_owned(),
            lateness: histogram(&[55_000]),
        }],
    }
}
