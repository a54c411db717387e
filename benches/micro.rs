//! The parts that run for every probe and for every scrape, one by one: recording, encoding,
//! decoding, reading the clock, taking a snapshot and writing the exposition.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]

#[path = "common/report.rs"]
mod report;
#[path = "common/rounds.rs"]
mod rounds;
#[path = "common/sample.rs"]
mod sample;

use std::hint::black_box;
use std::sync::Arc;

use rttscope::histogram::{Boundaries, Histogram};
use rttscope::host::ProcessUsage;
use rttscope::metrics::{Exposition, Format};
use rttscope::sample::Sample;
use rttscope::stats::slo::{Objective, ObjectiveClock, Objectives};
use rttscope::stats::{ProbeSeries, Stats};
use rttscope::sys::clock;
use rttscope::time::{Wall, seconds};
use rttscope::wire::{self, Frame, PreviousTx, Version};

use report::{print_table, row};
use rounds::median;
use sample::sample;

/// What a recording may cost, ns.
const RECORD_NS_WANTED: f64 = 25.0;
/// Targets of the snapshot and the exposition.
const TARGETS: u16 = 1_000;
/// Probes of each of them.
const PROBES: u64 = 200;
/// Different round trips, in random order.
const ROUND_TRIPS: usize = 4_096;

fn main() {
    let rounds = if report::quick() { 5 } else { 51 };
    let mut rows = vec![row(["what", "median", "unit", "wanted"])];
    small(rounds, &mut rows);
    print_table(&format!("For every probe, {rounds} rounds of {ROUND_TRIPS}"), &rows);

    let mut rows = vec![row(["what", "median", "unit", "wanted"])];
    large(rounds.div_ceil(8), &mut rows);
    print_table(&format!("For every scrape of {TARGETS} targets, {PROBES} probes each"), &rows);
}

/// What costs nanoseconds.
fn small(rounds: usize, rows: &mut Vec<Vec<String>>) {
    let round_trips_ns = round_trips_ns();
    let histogram = Histogram::new(Arc::new(Boundaries::new(&[])));
    let record_ns = per_item_ns(rounds, &round_trips_ns, |&ns| histogram.record(ns));
    let verdict = if record_ns <= RECORD_NS_WANTED { "≤ 25" } else { "≤ 25 missed" };
    rows.push(row(["Histogram::record", &format!("{record_ns:.1}"), "ns", verdict]));
    let mut add = |what: &str, ns: f64| rows.push(row([what, &format!("{ns:.1}"), "ns", ""]));

    let samples: Vec<Sample> = round_trips_ns.iter().map(|&ns| sample(ns)).collect();
    let series = ProbeSeries::new("a", "b", Vec::new(), objectives());
    add(
        "ProbeSeries::record (7 histograms, 1 objective)",
        per_item_ns(rounds, &samples, |sample| series.record(sample)),
    );
    let series = ProbeSeries::new("a", "b", Vec::new(), objectives()).with_history(1_000);
    add(
        "the same, and remembered for the status page",
        per_item_ns(rounds, &samples, |sample| series.record(sample)),
    );
    let sent = Wall::from_ns(1 << 60);
    add(
        "wire::encode_v1",
        per_item_ns(rounds, &round_trips_ns, |&seq| black_box(wire::encode_v1(seq, sent))),
    );
    let frame = |seq: u64| Frame {
        seq,
        sent,
        rx: Some(sent),
        previous: Some(PreviousTx { seq, tx: sent }),
        ..Frame::default()
    };
    add(
        "wire::encode_v3",
        per_item_ns(rounds, &round_trips_ns, |&seq| black_box(wire::encode_v3(&frame(seq)))),
    );
    let v1: Vec<_> = round_trips_ns.iter().map(|&seq| wire::encode_v1(seq, sent)).collect();
    add(
        "wire::decode v1",
        per_item_ns(rounds, &v1, |bytes| black_box(wire::decode(Version::V1, bytes))),
    );
    let v3: Vec<_> = round_trips_ns.iter().map(|&seq| wire::encode_v3(&frame(seq))).collect();
    add(
        "wire::decode v3",
        per_item_ns(rounds, &v3, |bytes| black_box(wire::decode(Version::V3, bytes))),
    );
    add("clock::now", per_item_ns(rounds, &round_trips_ns, |_| black_box(clock::now())));
}

/// What costs milliseconds.
fn large(rounds: usize, rows: &mut Vec<Vec<String>>) {
    let stats = filled_stats();
    let mut add = |what: &str, ns: f64, bytes: usize| {
        rows.push(row([what, &format!("{:.1}", ns / 1e6), "ms", ""]));
        if bytes > 0 {
            let mib = real(bytes) / f64::from(1 << 20);
            rows.push(row(["  bytes", &format!("{mib:.1}"), "MiB", ""]));
        }
    };
    let once = [()];
    add("Stats::snapshot", per_item_ns(rounds, &once, |()| black_box(stats.snapshot())), 0);
    for format in Format::ALL {
        let mut bytes = 0;
        let expose = || {
            let mut exposition = Exposition::new(&stats, ProcessUsage::default(), format, &[]);
            let (mut part, mut more, mut written) = (Vec::new(), true, 0);
            while more {
                more = exposition.write(&mut part, 64 * 1_024);
                written += part.len();
                part.clear();
            }
            written
        };
        let ns = per_item_ns(rounds, &once, |()| bytes = expose());
        add(&format!("metrics::Exposition, {format:?}"), ns, bytes);
    }
}

/// The median over the rounds of the time for one item.
fn per_item_ns<T, R>(rounds: usize, items: &[T], mut each: impl FnMut(&T) -> R) -> f64 {
    let mut times = Vec::with_capacity(rounds);
    for _ in 0..rounds {
        let from = clock::mono();
        for item in items {
            black_box(each(black_box(item)));
        }
        let ns = u64::try_from(clock::mono().since_ns(from)).unwrap_or(0);
        times.push(seconds(ns) * 1e9 / real(items.len()));
    }
    median(&times).unwrap_or(f64::NAN)
}

/// From 5 µs to 5 ms, evenly over the octaves, by a fixed sequence of Marsaglia's xorshift.
fn round_trips_ns() -> Vec<u64> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let octave = state >> 32 & 7;
        (5_000 + state % 5_000) << octave
    };
    std::iter::repeat_with(next).take(ROUND_TRIPS).collect()
}

fn objectives() -> Arc<Objectives> {
    Arc::new(Objectives::new(vec![Objective {
        name: "fast".to_owned(),
        threshold_ns: 100_000,
        objective_ratio: 0.999,
        clock: ObjectiveClock::Best,
    }]))
}

/// A program that probed for a while.
fn filled_stats() -> Stats {
    let stats = Stats::default();
    let objectives = objectives();
    let mut round_trips_ns = round_trips_ns().into_iter().cycle();
    for number in 0..TARGETS {
        let (name, address) = (format!("target-{number}"), format!("10.0.0.1:{number}"));
        let series = ProbeSeries::new(name, address, Vec::new(), Arc::clone(&objectives));
        for ns in round_trips_ns.by_ref().take(usize::try_from(PROBES).expect("small")) {
            series.record(&sample(ns));
        }
        stats.add_probe(series);
    }
    stats
}

fn real(count: usize) -> f64 {
    f64::from(u32::try_from(count).expect("a few MiB"))
}
