//! What a scrape costs: CPU time, bytes and memory of an exposition of 10,000 targets with all
//! families, in each format, plain and compressed; against the same series exported by the plain
//! `Family` of the official client, in alternating rounds of one run. The client is given the time
//! that it does not need to keep up to date: its counters and histograms stand there already.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]

#[path = "common/report.rs"]
mod report;
#[path = "common/rounds.rs"]
mod rounds;
#[path = "common/sample.rs"]
mod sample;

use std::alloc::{GlobalAlloc, Layout, System};
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use rustix::time::{ClockId, clock_gettime};

use rttscope::histogram::{self, Boundaries};
use rttscope::host::ProcessUsage;
use rttscope::metrics::{Exposition, Format};
use rttscope::sample::{Method, ProbeCounters};
use rttscope::stats::slo::{Objective, ObjectiveClock, Objectives};
use rttscope::stats::{CheckSeries, EchoSeries, ProbeSeries, Stats, TcpInfoWriter, WorkerSeries};
use rttscope::tcp_info::{MEMBERS, Members, Raw};
use rttscope::time::{duration_ns, seconds};

use report::{print_table, row};
use rounds::median;
use sample::sample;

/// Probes of each target.
const PROBES: usize = 200;
/// Of the objective: its histograms have a boundary more.
const THRESHOLD_NS: u64 = 123_000;
/// As in the HTTP server.
const PART_BYTES: usize = 64 * 1_024;
/// How many times faster than the official client we want to be.
const RATIO_WANTED: f64 = 3.0;

/// The system's allocator, which remembers how much was in use at most.
struct Counting;

static IN_USE: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static ALLOCATOR: Counting = Counting;

// SAFETY: every call goes unchanged to the system's allocator, which keeps the contract.
#[expect(unsafe_code, reason = "an allocator cannot be written without")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let now = IN_USE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, bytes: usize) -> *mut u8 {
        // Large blocks grow in place or by moving pages: the old one does not stay meanwhile.
        IN_USE.fetch_sub(layout.size(), Ordering::Relaxed);
        let now = IN_USE.fetch_add(bytes, Ordering::Relaxed) + bytes;
        PEAK.fetch_max(now, Ordering::Relaxed);
        // SAFETY: the caller's promises are those that `System` asks for.
        unsafe { System.realloc(pointer, layout, bytes) }
    }
}

/// One way to make a body.
struct Way<'a> {
    name: String,
    make: Box<dyn Fn() -> usize + 'a>,
    times_ns: Vec<u64>,
    bytes: usize,
    peak_bytes: usize,
}

fn main() {
    let (targets, rounds) = if report::quick() { (200, 1) } else { (10_000, 5) };
    let stats = filled_stats(targets);
    let registry = plain(&stats);
    let mut ways = ways(&stats, &registry);
    for _ in 0..rounds {
        for way in &mut ways {
            way.measure();
        }
    }
    let time = |way: &Way<'_>| seconds(median(&way.times_ns).unwrap_or(0)) * 1e3;
    let (theirs, theirs_gzip) = (time(&ways[0]), time(&ways[1]));
    let mut rows = vec![row(["way", "CPU ms", "MB", "peak MB", "times faster", "wanted"])];
    for (number, way) in ways.iter().enumerate() {
        let ratio = if number % 2 == 0 { theirs } else { theirs_gzip } / time(way);
        let wanted = if ratio >= RATIO_WANTED { "≥ 3" } else { "≥ 3 missed" };
        rows.push(row([
            &way.name,
            &format!("{:.0}", time(way)),
            &format!("{:.1}", mb(way.bytes)),
            &format!("{:.1}", mb(way.peak_bytes)),
            &format!("{ratio:.1}"),
            if number < 2 { "" } else { wanted },
        ]));
    }
    let title = format!("A scrape of {targets} targets, {PROBES} probes each, {rounds} rounds");
    print_table(&title, &rows);
}

/// The official client first; then ours, plain and compressed in turn.
fn ways<'a>(stats: &'a Stats, registry: &'a Registry) -> Vec<Way<'a>> {
    let mut ways = vec![
        Way::new("prometheus-client, OpenMetrics".to_owned(), || theirs(registry).len()),
        Way::new("prometheus-client, OpenMetrics, gzip".to_owned(), || {
            let mut gzip = compressor();
            gzip.write_all(theirs(registry).as_bytes()).expect("a vector takes any bytes");
            gzip.finish().expect("a vector takes any bytes").len()
        }),
    ];
    for format in [Format::OpenMetrics, Format::PrometheusText, Format::Protobuf] {
        ways.push(Way::new(format!("{format:?}"), move || ours(stats, format, None)));
        let make = move || ours(stats, format, Some(compressor()));
        ways.push(Way::new(format!("{format:?}, gzip"), make));
    }
    ways
}

impl<'a> Way<'a> {
    fn new(name: String, make: impl Fn() -> usize + 'a) -> Self {
        Self { name, make: Box::new(make), times_ns: Vec::new(), bytes: 0, peak_bytes: 0 }
    }

    fn measure(&mut self) {
        let before = IN_USE.load(Ordering::Relaxed);
        PEAK.store(before, Ordering::Relaxed);
        let began = cpu_time();
        self.bytes = black_box((self.make)());
        self.times_ns.push(duration_ns(cpu_time() - began));
        let peak = PEAK.load(Ordering::Relaxed).saturating_sub(before);
        self.peak_bytes = self.peak_bytes.max(peak);
    }
}

/// Of this thread: other programs of this machine do not count.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(now).expect("it is not negative")
}

fn theirs(registry: &Registry) -> String {
    let mut body = String::new();
    text::encode(&mut body, registry).expect("a string takes any text");
    body
}

/// The bytes of the body, of which no more than a part is kept; as the HTTP server does.
fn ours(stats: &Stats, format: Format, mut gzip: Option<GzEncoder<Vec<u8>>>) -> usize {
    let mut exposition = Exposition::new(stats, ProcessUsage::default(), format, &[]);
    let (mut part, mut bytes, mut more) = (Vec::new(), 0, true);
    while more {
        part.clear();
        more = exposition.write(&mut part, PART_BYTES);
        let Some(gzip) = &mut gzip else {
            bytes += part.len();
            continue;
        };
        gzip.write_all(&part).expect("a vector takes any bytes");
        bytes += std::mem::take(gzip.get_mut()).len();
    }
    bytes + gzip.map_or(0, |gzip| gzip.finish().expect("a vector takes any bytes").len())
}

fn compressor() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::fast())
}

/// A program that has probed for a while, and has done a little of everything else.
fn filled_stats(targets: usize) -> Stats {
    let stats = Stats::default();
    let objectives = Arc::new(Objectives::new(vec![Objective {
        name: "fast".to_owned(),
        threshold_ns: THRESHOLD_NS,
        objective_ratio: 0.999,
        clock: ObjectiveClock::Best,
    }]));
    let mut raw = Raw::empty(0);
    MEMBERS.iter().for_each(|member| raw.set(member, 1));
    let mut times_ns = times_ns();
    for number in 0..targets {
        let (name, address) = (format!("target-{number}"), format!("10.0.0.1:{number}"));
        let series = ProbeSeries::new(name, address, Vec::new(), Arc::clone(&objectives));
        let series = series.with_tcp_info(Members::ALL);
        for ns in times_ns.by_ref().take(PROBES) {
            series.record(&sample(ns));
        }
        let sent = u64::try_from(PROBES).expect("small");
        series.publish(&ProbeCounters { sent, received: sent, ..ProbeCounters::default() });
        if let Some(shown) = series.tcp_info() {
            TcpInfoWriter::new(shown).record(shown, &raw);
        }
        stats.add_probe(series);
    }
    stats.add_check(CheckSeries::new("web", "10.0.0.2:443", Method::Syn, objectives));
    stats.add_echo(EchoSeries::new("0.0.0.0:4000"));
    stats.add_worker(WorkerSeries::new("probe-0"));
    stats
}

/// Round trips from 20 µs to 320 µs, most of them short, by Marsaglia's xorshift.
fn times_ns() -> impl Iterator<Item = u64> {
    let mut state = 0x2545_F491_4F6C_DD1D_u64;
    std::iter::repeat_with(move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        let octave = (state >> 32 & 0xff).leading_zeros() - 56;
        (20_000 + state % 20_000) << octave.min(3)
    })
}

type Labels = Vec<(String, String)>;
type Line<'a> = (&'a str, Labels, &'a str);
type Gauges = Family<Labels, Gauge<f64, AtomicU64>>;

/// The same series, family by family, in the client's own registry.
fn plain(stats: &Stats) -> Registry {
    let mut registry = Registry::default();
    let mut exposition = Exposition::new(stats, ProcessUsage::default(), Format::OpenMetrics, &[]);
    let mut text = Vec::new();
    let mut more = true;
    while more {
        more = exposition.write(&mut text, usize::MAX);
    }
    let text = String::from_utf8(text).expect("it is text");
    for family in text.split("# HELP ").skip(1) {
        let mut lines = family.lines();
        let (name, help) = lines.next().and_then(|line| line.split_once(' ')).expect("a family");
        let kind = lines.next().and_then(|line| line.rsplit_once(' ')).map(|(_, kind)| kind);
        let samples = lines.filter(|line| !line.starts_with('#')).map(line_of);
        match kind {
            Some("counter") if name.ends_with("_seconds") => {
                let counters = Family::<Labels, Counter<f64, AtomicU64>>::default();
                for (_, labels, value) in samples {
                    counters.get_or_create(&labels).inc_by(value.parse().expect("a number"));
                }
                register(&mut registry, name, help, counters);
            }
            Some("counter") => {
                let counters = Family::<Labels, Counter>::default();
                for (_, labels, value) in samples {
                    counters.get_or_create(&labels).inc_by(value.parse().expect("a count"));
                }
                register(&mut registry, name, help, counters);
            }
            Some("histogram") => register(&mut registry, name, help, histograms(samples)),
            _ => {
                let gauges = Gauges::default();
                for (_, labels, value) in samples {
                    gauges.get_or_create(&labels).set(value.parse().expect("a number"));
                }
                register(&mut registry, name, help, gauges);
            }
        }
    }
    registry
}

fn register(registry: &mut Registry, name: &str, help: &str, metric: impl Metric) {
    // The client ends a help text with a full stop of its own.
    registry.register(name, help.trim_end_matches('.'), metric);
}

/// Observes as many durations in each bucket as were counted there.
fn histograms<'a>(samples: impl Iterator<Item = Line<'a>>) -> Family<Labels, Histogram> {
    let family = Family::<Labels, Histogram>::new_with_constructor(empty_histogram);
    let (mut of, mut below) = (Labels::new(), 0);
    for (name, mut labels, value) in samples.filter(|(name, ..)| name.ends_with("_bucket")) {
        let (_, le) = labels.pop().unwrap_or_else(|| panic!("{name} without labels"));
        if labels != of {
            (of, below) = (labels, 0);
        }
        let at_most: u64 = value.parse().expect("a count");
        let end = le.parse().expect("a number");
        let histogram = family.get_or_create(&of);
        (below..at_most).for_each(|_| histogram.observe(end));
        below = at_most;
    }
    family
}

/// With the boundaries that the targets' histograms have.
fn empty_histogram() -> Histogram {
    let ours = histogram::Histogram::new(Arc::new(Boundaries::new(&[THRESHOLD_NS])));
    let classic = ours.snapshot().classic;
    Histogram::new(classic.iter().map(|&(end_ns, _)| seconds(end_ns)).collect::<Vec<_>>())
}

/// A line of text in parts: name, labels, value. No value of a label has anything escaped.
fn line_of(line: &str) -> Line<'_> {
    let (series, value) = line.rsplit_once(' ').expect("a value");
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let labels = labels.trim_end_matches("\"}").split("\",").filter_map(|pair| {
        let (name, value) = pair.split_once("=\"")?;
        Some((name.to_owned(), value.to_owned()))
    });
    (name, labels.collect(), value)
}

fn mb(bytes: usize) -> f64 {
    f64::from(u32::try_from(bytes / 1_000).expect("a few GB")) / 1e3
}
