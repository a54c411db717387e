//! How the catalogue becomes text: every family reads its part of a [`Snapshot`] and writes it
//! through the official client, which knows the formats, the escaping and the order of things.

use std::collections::HashMap;
use std::fmt::{self, Write};
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, MetricEncoder, NativeHistogram,
    NativeHistogramBuckets, NoLabelSet, text,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::histogram::{HistogramSnapshot, ZERO_THRESHOLD_SECONDS};
use crate::stats::{CheckSnapshot, EchoSnapshot, ProbeSnapshot, Snapshot};
use crate::time::seconds;

use super::{Family, Kind, Read, Value, families};

/// The text format to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// OpenMetrics 1.0.0.
    OpenMetrics,
    /// Prometheus 0.0.4. A counter's family is named like its samples, with `_total`, an info is a
    /// gauge, and units have no line of their own.
    Prometheus,
}

/// Where the samples of one family go.
pub(super) struct Out<'a, 'e> {
    kind: Kind,
    format: Format,
    encoder: &'a mut MetricEncoder<'e>,
    /// Labels of the target, listener or thread, as text.
    labels: &'a str,
    scratch: &'a mut Scratch,
}

/// Memory for what is put together for each sample.
#[derive(Default)]
pub(super) struct Scratch {
    labels: String,
    classic: Vec<(f64, u64)>,
    spans: Vec<(i32, u32)>,
    deltas: Vec<i64>,
}

/// The snapshot as text.
pub(super) fn text(snapshot: Arc<Snapshot>, format: Format) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition::new(snapshot, format)));
    let mut encoded = String::new();
    let encode = match format {
        Format::OpenMetrics => text::encode,
        Format::Prometheus => text::encode_registry,
    };
    encode(&mut encoded, &registry).expect("a string takes any text");
    encoded
}

impl<'e> Out<'_, 'e> {
    /// Writes an integer.
    pub(super) fn whole(&mut self, extra: &[(&str, &str)], value: u64) -> fmt::Result {
        let suffixed = self.is_suffixed();
        self.write(extra, |encoder, _| match suffixed {
            true => encoder.encode_counter(&value, NO_EXEMPLAR),
            false => encoder.encode_gauge(&value),
        })
    }

    /// Writes a number.
    pub(super) fn real(&mut self, extra: &[(&str, &str)], value: f64) -> fmt::Result {
        let suffixed = self.is_suffixed();
        self.write(extra, |encoder, _| match suffixed {
            true => encoder.encode_counter(&value, NO_EXEMPLAR),
            false => encoder.encode_gauge(&value),
        })
    }

    /// Writes a number if there is one.
    pub(super) fn maybe(&mut self, value: Option<f64>) -> fmt::Result {
        value.map_or(Ok(()), |value| self.real(&[], value))
    }

    /// Writes labels, and the 1 that they need to be a metric.
    pub(super) fn info(&mut self, labels: &[(&str, &str)]) -> fmt::Result {
        match self.format {
            Format::OpenMetrics => {
                self.scratch.labels.clear();
                append_labels(&mut self.scratch.labels, labels);
                self.encoder.encode_info(&Rendered(&self.scratch.labels))
            }
            Format::Prometheus => self.whole(labels, 1),
        }
    }

    /// Writes native and classic buckets; a format that has no native ones leaves them out.
    pub(super) fn histogram(
        &mut self,
        extra: &[(&str, &str)],
        histogram: &HistogramSnapshot,
    ) -> fmt::Result {
        let mut below = 0;
        self.scratch.classic.clear();
        for &(end_ns, at_most) in &histogram.classic {
            self.scratch.classic.push((seconds(end_ns), at_most - below));
            below = at_most;
        }
        self.scratch.classic.push((f64::INFINITY, histogram.count - below));
        spans_and_deltas(&histogram.native, &mut self.scratch.spans, &mut self.scratch.deltas);
        self.write(extra, |encoder, Scratch { classic, spans, deltas, .. }| {
            let native = NativeHistogram {
                schema: histogram.schema,
                zero_threshold: ZERO_THRESHOLD_SECONDS,
                zero_count: histogram.zero_count,
                negative: NativeHistogramBuckets { spans: &[], deltas: &[] },
                positive: NativeHistogramBuckets { spans, deltas },
                created: None,
            };
            let (sum, count) = (seconds(histogram.sum_ns), histogram.count);
            let exemplars = None::<&HashMap<usize, Exemplar<NoLabelSet, f64>>>;
            encoder.encode_histogram_with_native(sum, count, classic, exemplars, native)
        })
    }

    /// Whether the encoder appends a counter's suffix: else it is in the family's name already.
    fn is_suffixed(&self) -> bool {
        self.kind == Kind::Counter && self.format == Format::OpenMetrics
    }

    fn write(
        &mut self,
        extra: &[(&str, &str)],
        write: impl FnOnce(&mut MetricEncoder<'_>, &Scratch) -> fmt::Result,
    ) -> fmt::Result {
        self.scratch.labels.clear();
        self.scratch.labels.push_str(self.labels);
        append_labels(&mut self.scratch.labels, extra);
        let labels = Rendered(&self.scratch.labels);
        if labels.0.is_empty() {
            // An empty label set would be written as `{}`.
            return write(self.encoder, self.scratch);
        }
        write(&mut self.encoder.encode_family(&labels)?, self.scratch)
    }

    fn labelled<'b>(&'b mut self, labels: &'b str) -> Out<'b, 'e> {
        let Self { kind, format, encoder, scratch, .. } = self;
        Out { kind: *kind, format: *format, encoder, labels, scratch }
    }
}

/// The labels of one sample, comma-separated and escaped.
///
/// The text encoder asks for them again for every bucket of a histogram, and writes each in five
/// pieces. It writes a label's name as it gets it: so we hand it all of them as one.
struct Rendered<'a>(&'a str);

impl EncodeLabelSet for Rendered<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        encoder.encode_label().encode_label_key()?.write_str(self.0)
    }
}

/// A snapshot on its way out: the client's encoders are reached through a registry only.
#[derive(Debug)]
struct Exposition {
    snapshot: Arc<Snapshot>,
    format: Format,
    /// The labels of each probed target, which all its families share.
    labels: Vec<String>,
    /// The same of each checked target.
    check_labels: Vec<String>,
}

impl Exposition {
    fn new(snapshot: Arc<Snapshot>, format: Format) -> Self {
        let labels = snapshot.probes.iter().map(|probe| {
            let mut labels = String::new();
            append_labels(&mut labels, &[("target", &probe.target), ("address", &probe.address)]);
            for (name, value) in &probe.labels {
                append_labels(&mut labels, &[(name, value)]);
            }
            labels
        });
        let check_labels = snapshot.checks.iter().map(|check| {
            let mut labels = String::new();
            let method = check.method.name();
            let pairs = [("target", &*check.target), ("address", &check.address)];
            append_labels(&mut labels, &pairs);
            append_labels(&mut labels, &[("method", method)]);
            labels
        });
        Self { labels: labels.collect(), check_labels: check_labels.collect(), snapshot, format }
    }

    fn encode_family(
        &self,
        family: &Family,
        encoder: &mut DescriptorEncoder<'_>,
        scratch: &mut Scratch,
    ) -> fmt::Result {
        let Self { snapshot, format, .. } = self;
        if !self.is_announced(family) {
            return Ok(());
        }
        let unit = family.unit.map(|unit| Unit::Other(unit.to_owned()));
        let (name, unit) = match format {
            Format::OpenMetrics => (family.stem(), unit.as_ref()),
            Format::Prometheus => (family.name, None),
        };
        let kind = match (family.kind, format) {
            (Kind::Counter, _) => MetricType::Counter,
            (Kind::Histogram, _) => MetricType::Histogram,
            (Kind::Info, Format::OpenMetrics) => MetricType::Info,
            (Kind::Gauge | Kind::Info, _) => MetricType::Gauge,
        };
        let mut encoder = encoder.encode_descriptor(name, family.help, unit, kind)?;
        let encoder = &mut encoder;
        let mut out = Out { kind: family.kind, format: *format, encoder, labels: "", scratch };
        match family.read {
            Read::Probe(read) => self.probes(&mut out, read),
            Read::ProbeCounter(read) => {
                self.probes(&mut out, |probe, out| out.whole(&[], read(&probe.counters)))
            }
            Read::Check(read) => self.checks(&mut out, read),
            Read::CheckCounter(read) => {
                self.checks(&mut out, |check, out| out.whole(&[], read(&check.counters)))
            }
            Read::TcpInfo(member) => {
                self.probes(&mut out, |probe, out| match probe.tcp_info.number(member) {
                    Some(number) if member.unit.is_whole() => out.whole(&[], number),
                    number => out.maybe(number.map(|number| member.unit.base(number))),
                })
            }
            Read::Slo(read) => self.probes(&mut out, |probe, out| {
                probe.slos.iter().try_for_each(|slo| read(slo, out))
            }),
            Read::Echo(read) => self.echoes(&mut out, read),
            Read::EchoCounter(read) => {
                self.echoes(&mut out, |echo, out| out.whole(&[], read(&echo.counters)))
            }
            Read::Worker(read) => snapshot.workers.iter().try_for_each(|worker| {
                read(worker, &mut out.labelled(&rendered("thread", &worker.thread)))
            }),
            Read::Program(read) => read(snapshot, &mut out),
            Read::Process(read) => match read(&snapshot.process) {
                Some(Value::Whole(value)) => out.whole(&[], value),
                Some(Value::Real(value)) => out.real(&[], value),
                None => Ok(()),
            },
        }
    }

    /// Whether a family stands there even without a sample. Of `TCP_INFO` only what this kernel
    /// fills, and was chosen.
    fn is_announced(&self, family: &Family) -> bool {
        match family.read {
            Read::TcpInfo(member) => {
                self.snapshot.probes.iter().any(|probe| probe.tcp_info.number(member).is_some())
            }
            _ => true,
        }
    }

    fn probes(
        &self,
        out: &mut Out<'_, '_>,
        read: impl Fn(&ProbeSnapshot, &mut Out<'_, '_>) -> fmt::Result,
    ) -> fmt::Result {
        let mut probes = self.snapshot.probes.iter().zip(&self.labels);
        probes.try_for_each(|(probe, labels)| read(probe, &mut out.labelled(labels)))
    }

    fn checks(
        &self,
        out: &mut Out<'_, '_>,
        read: impl Fn(&CheckSnapshot, &mut Out<'_, '_>) -> fmt::Result,
    ) -> fmt::Result {
        let mut checks = self.snapshot.checks.iter().zip(&self.check_labels);
        checks.try_for_each(|(check, labels)| read(check, &mut out.labelled(labels)))
    }

    fn echoes(
        &self,
        out: &mut Out<'_, '_>,
        read: impl Fn(&EchoSnapshot, &mut Out<'_, '_>) -> fmt::Result,
    ) -> fmt::Result {
        self.snapshot.echoes.iter().try_for_each(|echo| {
            read(echo, &mut out.labelled(&rendered("listener", &echo.listener)))
        })
    }
}

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut scratch = Scratch::default();
        let mut families = families();
        families.try_for_each(|family| self.encode_family(family, &mut encoder, &mut scratch))
    }
}

impl Family {
    /// The name without unit and suffix, which the encoder appends.
    fn stem(&self) -> &'static str {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        let name = self.name.strip_suffix(suffix).unwrap_or(self.name);
        let unit = self.unit.and_then(|unit| name.strip_suffix(unit)?.strip_suffix('_'));
        unit.unwrap_or(name)
    }
}

fn rendered(name: &str, value: &str) -> String {
    let mut labels = String::new();
    append_labels(&mut labels, &[(name, value)]);
    labels
}

/// Appends labels as both text formats have them: backslashes, quotes and line feeds of values are
/// escaped.
fn append_labels(text: &mut String, labels: &[(&str, &str)]) {
    for (name, value) in labels {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(name);
        text.push_str("=\"");
        let mut rest = *value;
        while let Some(at) = rest.find(['\\', '"', '\n']) {
            let (plain, special) = rest.split_at(at);
            text.push_str(plain);
            text.push_str(match special.as_bytes()[0] {
                b'\n' => "\\n",
                b'"' => "\\\"",
                _ => "\\\\",
            });
            rest = &special[1..];
        }
        text.push_str(rest);
        text.push('"');
    }
}

/// Native buckets as the protocol has them: runs of neighbouring buckets, each with its distance
/// to the run before it, and the count of each bucket as the difference to the bucket before it.
fn spans_and_deltas(native: &[(i32, u64)], spans: &mut Vec<(i32, u32)>, deltas: &mut Vec<i64>) {
    spans.clear();
    deltas.clear();
    let (mut next_index, mut last_count) = (0, 0);
    for &(index, count) in native {
        match spans.last_mut() {
            Some((_, length)) if index == next_index => *length += 1,
            _ => spans.push((index - next_index, 1)),
        }
        deltas.push(count.wrapping_sub(last_count).cast_signed());
        (next_index, last_count) = (index + 1, count);
    }
}

const NO_EXEMPLAR: Option<&Exemplar<NoLabelSet, f64>> = None;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::collections::HashSet;

    use crate::histogram::{Boundaries, Histogram};
    use crate::host::{Capability, ProcessUsage};
    use crate::sample::{
        CheckClock, CheckCounters, Clock, EchoCounters, Method, ProbeCounters, Stage,
    };
    use crate::stats::{
        BuildInfo, CheckSeries, ProbeSeries, Stats, TcpInfoSeries, TcpInfoSnapshot, TcpInfoWriter,
        WebSnapshot, WorkerSnapshot,
    };
    use crate::tcp_info::{MEMBERS, Members, Place, Raw};

    use crate::stats::slo::{Objective, ObjectiveClock, Objectives, SloSnapshot};

    use super::*;

    /// A sample line: name, labels without `le`, `le`, value.
    #[derive(Debug, PartialEq)]
    struct Line {
        name: String,
        labels: Vec<(String, String)>,
        le: Option<String>,
        value: f64,
    }

    fn histogram(values_ns: &[u64]) -> HistogramSnapshot {
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

    fn probe() -> ProbeSnapshot {
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

    fn check() -> CheckSnapshot {
        let words = std::array::from_fn(|word| 700 + u64::try_from(word).unwrap());
        CheckSnapshot {
            target: "web".to_owned(),
            address: "192.0.2.7:443".to_owned(),
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

    fn snapshot() -> Arc<Snapshot> {
        let words = std::array::from_fn(|word| 500 + u64::try_from(word).unwrap());
        Arc::new(Snapshot {
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
            web: Some(WebSnapshot {
                refused: [7, 2, 1],
                handshakes_failed: 6,
                last_reload_good: true,
            }),
            probes: vec![probe(), unused_probe()],
            checks: vec![check(), unused_check()],
            echoes: vec![EchoSnapshot {
                listener: "0.0.0.0:4000".to_owned(),
                counters: EchoCounters::from_words(words),
                residence: Some(histogram(&[12_000, 13_000])),
            }],
            workers: vec![WorkerSnapshot {
                thread: "probe-0".to_owned(),
                lateness: histogram(&[55_000]),
            }],
        })
    }

    fn line(text: &str) -> Line {
        let (series, value) = text.rsplit_once(' ').unwrap();
        let (name, pairs) = series.split_once('{').unwrap_or((series, "}"));
        let mut rest = pairs.strip_suffix('}').unwrap();
        let (mut labels, mut le) = (Vec::new(), None);
        while let Some((label, quoted)) = rest.split_once("=\"") {
            let mut value = String::new();
            let mut chars = quoted.char_indices();
            let end = loop {
                match chars.next().unwrap() {
                    (end, '"') => break end,
                    (_, '\\') => value.push(match chars.next().unwrap().1 {
                        'n' => '\n',
                        other => other,
                    }),
                    (_, other) => value.push(other),
                }
            };
            match label {
                "le" => le = Some(value),
                _ => labels.push((label.to_owned(), value)),
            }
            rest = quoted[end + 1..].trim_start_matches(',');
        }
        Line { name: name.to_owned(), labels, le, value: value.parse().unwrap() }
    }

    fn lines(text: &str) -> Vec<Line> {
        text.lines().filter(|text| !text.starts_with('#')).map(line).collect()
    }

    /// The values of the series of this name whose labels hold all of these.
    fn values(text: &str, name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
        let holds = |line: &Line| {
            let has = |&(name, value): &(&str, &str)| {
                line.labels.contains(&(name.to_owned(), value.to_owned()))
            };
            line.name == name && line.le.is_none() && labels.iter().all(has)
        };
        lines(text).iter().filter(|line| holds(line)).map(|line| line.value).collect()
    }

    #[test]
    fn the_exposition_is_the_golden_file() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/metrics.txt");
        let text = text(snapshot(), Format::OpenMetrics);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let golden = std::fs::read_to_string(path).unwrap();
        for (number, (written, wanted)) in text.lines().zip(golden.lines()).enumerate() {
            assert_eq!(written, wanted, "line {}; UPDATE_GOLDEN=1 rewrites the file", number + 1);
        }
        assert_eq!(text.lines().count(), golden.lines().count());
    }

    #[test]
    fn the_text_parses_back_to_the_snapshot() {
        let text = text(snapshot(), Format::OpenMetrics);
        let target = [("target", "db \"main\""), ("rack", "a\\b\nc")];
        let check = |name, extra: &[(&str, &str)], expected: &[f64]| {
            let labels: Vec<_> = target.iter().chain(extra).copied().collect();
            assert_eq!(values(&text, name, &labels), expected, "{name} {extra:?}");
        };
        check("tcp_echo_sent_total", &[], &[203.0]);
        check("tcp_echo_received_total", &[], &[101.0]);
        check("tcp_echo_timeouts_total", &[], &[102.0]);
        check("tcp_echo_in_flight", &[], &[103.0]);
        check("tcp_echo_samples_rejected_total", &[("reason", "late_reply")], &[108.0]);
        check("tcp_echo_samples_rejected_total", &[("reason", "unknown_reply")], &[110.0]);
        check("tcp_echo_up", &[], &[1.0]);
        check("tcp_echo_last_rtt_seconds", &[], &[81.25e-6]);
        check("tcp_echo_loss_percent", &[], &[12.5]);
        check("tcp_echo_estimated_timeout_seconds", &[], &[0.8]);
        check("tcp_echo_rtt_seconds_count", &[("clock", "kernel")], &[5.0]);
        check("tcp_echo_rtt_seconds_sum", &[("clock", "application")], &[40.0]);
        check("tcp_echo_rtt_seconds_count", &[("clock", "hardware")], &[]);
        check("tcp_echo_stage_seconds_sum", &[("stage", "lag")], &[999e-9]);
        check("tcp_echo_slo_probes_total", &[("slo", "gold")], &[1000.0]);
        check("tcp_echo_slo_good_total", &[("slo", "gold")], &[998.0]);
        check("tcp_echo_slo_threshold_seconds", &[("slo", "gold")], &[150e-6]);
        check("tcp_echo_resolve_failures_total", &[], &[9.0]);
        let capability = [("name", "hardware_timestamps")];
        assert_eq!(values(&text, "rttscope_capability", &capability), [0.0]);
        assert_eq!(values(&text, "rttscope_build_info", &[("version", "1.2.3")]), [1.0]);
        assert_eq!(values(&text, "process_cpu_seconds_total", &[]), [1.25]);
        assert!(values(&text, "process_threads", &[]).is_empty(), "unknown is absent");
    }

    #[test]
    fn an_unused_target_has_every_counter_at_zero_and_nothing_unknown() {
        let text = text(snapshot(), Format::OpenMetrics);
        let idle = [("target", "idle")];
        for family in families().filter(|family| family.name.starts_with("tcp_echo_")) {
            let shown = values(&text, family.name, &idle);
            let sets = match family.name {
                "tcp_echo_stamps_missing_total" => 5,
                "tcp_echo_samples_rejected_total" => 6,
                "tcp_echo_last_rtt_seconds" | "tcp_echo_loss_percent" => 0,
                "tcp_echo_estimated_timeout_seconds" => 0,
                _ if family.kind == Kind::Histogram => 0,
                _ => 1,
            };
            assert_eq!(shown.len(), sets, "{}", family.name);
            if family.kind == Kind::Counter {
                assert!(shown.iter().all(|value| *value == 0.0), "{}", family.name);
            }
        }
        assert!(values(&text, "tcp_echo_rtt_seconds_count", &idle).is_empty());
    }

    #[test]
    fn every_sample_stands_under_its_family_with_its_labels_once() {
        let open_metrics = text(snapshot(), Format::OpenMetrics);
        assert!(open_metrics.ends_with("\n# EOF\n"));
        let mut families = families();
        let mut family = None::<&Family>;
        let mut seen = HashSet::new();
        for text in text(snapshot(), Format::Prometheus).lines() {
            if text.starts_with("# HELP ") {
                let next = families.next().unwrap();
                assert_eq!(text, format!("# HELP {} {}", next.name, next.help));
                family = Some(next);
                continue;
            }
            let family = family.unwrap();
            if text.starts_with('#') {
                let kind = match family.kind {
                    Kind::Counter => "counter",
                    Kind::Gauge | Kind::Info => "gauge",
                    Kind::Histogram => "histogram",
                };
                assert_eq!(text, format!("# TYPE {} {kind}", family.name));
                continue;
            }
            let line = line(text);
            let suffix = line.name.strip_prefix(family.name).unwrap();
            match family.kind {
                Kind::Histogram => assert!(["_sum", "_count", "_bucket"].contains(&suffix)),
                _ => assert_eq!(suffix, ""),
            }
            let names: Vec<_> = line.labels.iter().map(|(name, _)| &**name).collect();
            let names: Vec<_> = names.into_iter().filter(|name| *name != "rack").collect();
            assert_eq!(names, family.labels, "{text}");
            assert!(line.value.is_finite(), "{text}");
            assert!(seen.insert(text.rsplit_once(' ').unwrap().0.to_owned()), "twice: {text}");
        }
        assert!(families.next().is_none(), "every family is announced");
    }

    #[test]
    fn classic_buckets_add_up() {
        let text = text(snapshot(), Format::OpenMetrics);
        let kernel = |line: &Line| line.labels.iter().any(|(_, value)| value == "kernel");
        let buckets: Vec<Line> = lines(&text)
            .into_iter()
            .filter(|line| line.name == "tcp_echo_rtt_seconds_bucket" && kernel(line))
            .collect();
        let at = |end: f64| {
            let same = |line: &&Line| line.le.as_ref().unwrap().parse::<f64>().unwrap() == end;
            buckets.iter().find(same).unwrap().value
        };
        assert!(buckets.is_sorted_by(|one, next| one.value <= next.value));
        assert_eq!((at(1e-6), at(50e-6), at(100e-6)), (1.0, 1.0, 3.0));
        assert_eq!((at(150e-6), at(200e-6), at(f64::INFINITY)), (4.0, 5.0, 5.0));
        assert_eq!(buckets.last().unwrap().le.as_deref(), Some("+Inf"));
    }

    #[test]
    fn an_empty_program_has_only_its_own_families() {
        let text = text(Arc::new(Stats::default().snapshot()), Format::OpenMetrics);
        assert!(lines(&text).iter().all(|line| line.name.starts_with("rttscope_")), "{text}");
    }

    #[test]
    fn the_catalogue_follows_the_naming_rules() {
        let mut names = HashSet::new();
        for family in families() {
            let Family { name, kind, unit, help, labels, .. } = family;
            assert!(names.insert(name), "{name} twice");
            assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
            assert_eq!(name.ends_with("_info"), *kind == Kind::Info, "{name}");
            let stem = family.stem();
            assert!(unit.is_none_or(|unit| name.starts_with(&format!("{stem}_{unit}"))), "{name}");
            assert!(help.ends_with('.') && !help.contains('\n'), "{name}: {help}");
            assert!(labels.len() <= 4, "{name}");
            if name.starts_with("tcp_echo_") {
                assert!(labels.iter().all(|label| super::super::RESERVED_LABELS.contains(label)));
            }
        }
    }

    #[test]
    fn native_buckets_become_runs() {
        let check = |native: &[(i32, u64)], spans: &[(i32, u32)], deltas: &[i64]| {
            let (mut found_spans, mut found_deltas) = (vec![(7, 7)], vec![7]);
            spans_and_deltas(native, &mut found_spans, &mut found_deltas);
            assert_eq!((&*found_spans, &*found_deltas), (spans, deltas), "{native:?}");
        };
        check(&[], &[], &[]);
        check(&[(-5, 7)], &[(-5, 1)], &[7]);
        check(&[(0, 7), (1, 2), (2, 2)], &[(0, 3)], &[7, -5, 0]);
        check(&[(-3, 1), (-2, 4), (1, 2), (3, 9)], &[(-3, 2), (2, 1), (1, 1)], &[1, 3, -2, 7]);
    }
}
