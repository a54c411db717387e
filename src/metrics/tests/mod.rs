//! What is exposed, in every format: golden files of one snapshot, and what reads back from it.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

mod fixture;
mod reading;

use std::collections::HashSet;
use std::fmt::Write;
use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family as ClientFamily;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram as ClientHistogram;
use prometheus_client::registry::{Registry, Unit};
use proptest::prelude::*;

use crate::histogram::{SCHEMA, ZERO_THRESHOLD_SECONDS};
use crate::sample::{Clock, ProbeCounters};
use crate::stats::slo::Objectives;
use crate::stats::watched::Watched;
use crate::stats::{ProbeSeries, ProbeSnapshot, Snapshot, Stats};

use self::fixture::{probe, snapshot};
use self::reading::{Line, lines, samples};
use super::moment::Moment;
use super::*;

/// The whole body.
fn exposed(snapshot: Snapshot, format: Format) -> Vec<u8> {
    let mut body = Vec::new();
    let more = exposition(snapshot, format, &[]).write(&mut body, usize::MAX);
    assert!(!more);
    body
}

fn exposition(snapshot: Snapshot, format: Format, names: &[&str]) -> Exposition {
    let writer = format.writer();
    let names: Vec<String> = names.iter().map(|&name| name.to_owned()).collect();
    Exposition::of(Moment::new(snapshot, writer, |probe| probe, |check| check), writer, &names)
}

fn text_of(snapshot: Snapshot, format: Format) -> String {
    String::from_utf8(exposed(snapshot, format)).unwrap()
}

/// The samples of a body in any format.
fn samples_of(body: &[u8], format: Format) -> Vec<Line> {
    match format {
        Format::PrometheusText | Format::OpenMetrics => lines(body),
        Format::Protobuf => samples(body),
    }
}

/// The values of the series of this name whose labels hold all of these.
fn values(samples: &[Line], name: &str, labels: &[(&str, &str)]) -> Vec<f64> {
    let holds = |line: &&Line| {
        let has = |&(name, value): &(&str, &str)| {
            line.labels.contains(&(name.to_owned(), value.to_owned()))
        };
        line.name == name && line.le.is_none() && labels.iter().all(has)
    };
    samples.iter().filter(holds).map(|line| line.value).collect()
}

/// Protobuf as text: a line for each family, and one for each metric.
fn readable(body: &[u8]) -> String {
    let mut text = String::new();
    for family in reading::families(body) {
        let kind =
            ["COUNTER", "GAUGE", "", "", "HISTOGRAM"][usize::try_from(family.kind()).unwrap()];
        let head = format!("{} {kind} {:?}: {}", family.name(), family.unit, family.help());
        writeln!(text, "{head}").unwrap();
        for metric in &family.metric {
            let pairs = metric.label.iter().map(|it| format!("{}={:?}", it.name(), it.value()));
            write!(text, "  {{{}}}", pairs.collect::<Vec<_>>().join(",")).unwrap();
            if let Some(number) = metric.counter.as_ref().or(metric.gauge.as_ref()) {
                writeln!(text, " {}", number.value()).unwrap();
            }
            let Some(histogram) = &metric.histogram else { continue };
            let classic = histogram.bucket.iter();
            let classic: Vec<_> =
                classic.map(|it| (it.upper_bound(), it.cumulative_count())).collect();
            let spans = histogram.positive_span.iter();
            let spans: Vec<_> = spans.map(|it| (it.offset(), it.length())).collect();
            writeln!(
                text,
                " count {} sum {}\n    classic {classic:?}\n    schema {} zero {} up to {:e} \
                 spans {spans:?} deltas {:?}",
                histogram.sample_count(),
                histogram.sample_sum(),
                histogram.schema(),
                histogram.zero_count(),
                histogram.zero_threshold(),
                histogram.positive_delta,
            )
            .unwrap();
        }
    }
    text
}

#[test]
fn each_format_is_its_golden_file() {
    let check = |file: &str, text: &str| {
        let path = format!("{}/tests/golden/{file}", env!("CARGO_MANIFEST_DIR"));
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(&path, text).unwrap();
        }
        let golden = std::fs::read_to_string(&path).unwrap();
        for (number, (written, wanted)) in text.lines().zip(golden.lines()).enumerate() {
            let at = number + 1;
            assert_eq!(written, wanted, "{file}, line {at}; UPDATE_GOLDEN=1 rewrites the file");
        }
        assert_eq!(text.lines().count(), golden.lines().count(), "{file}");
    };
    check("metrics_prometheus.txt", &text_of(snapshot(), Format::PrometheusText));
    check("metrics_openmetrics.txt", &text_of(snapshot(), Format::OpenMetrics));
    check("metrics_protobuf.txt", &readable(&exposed(snapshot(), Format::Protobuf)));
}

#[test]
fn each_format_reads_back_as_the_snapshot() {
    for format in Format::ALL {
        let samples = samples_of(&exposed(snapshot(), format), format);
        let target = [("target", "db \"main\""), ("rack", "a\\b\nc")];
        let check = |name, extra: &[(&str, &str)], expected: &[f64]| {
            let labels: Vec<_> = target.iter().chain(extra).copied().collect();
            assert_eq!(values(&samples, name, &labels), expected, "{format:?} {name} {extra:?}");
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
        assert_eq!(values(&samples, "rttscope_capability", &capability), [0.0]);
        assert_eq!(values(&samples, "rttscope_build_info", &[("version", "1.2.3")]), [1.0]);
        assert_eq!(values(&samples, "process_cpu_seconds_total", &[]), [1.25]);
        assert!(values(&samples, "process_threads", &[]).is_empty(), "unknown is absent");
    }
}

#[test]
fn an_unused_target_has_every_counter_at_zero_and_nothing_unknown() {
    let samples = lines(&exposed(snapshot(), Format::OpenMetrics));
    let idle = [("target", "idle")];
    for family in families().filter(|family| family.name.starts_with("tcp_echo_")) {
        let shown = values(&samples, family.name, &idle);
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
    assert!(values(&samples, "tcp_echo_rtt_seconds_count", &idle).is_empty());
}

#[test]
fn every_sample_stands_under_its_family_with_its_labels_once() {
    assert!(text_of(snapshot(), Format::OpenMetrics).ends_with("\n# EOF\n"));
    let mut families = families();
    let mut family = None::<&Family>;
    let mut seen = HashSet::new();
    for text in text_of(snapshot(), Format::PrometheusText).lines() {
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
        let line = lines(text.as_bytes()).remove(0);
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
    let samples = lines(&exposed(snapshot(), Format::OpenMetrics));
    let kernel = |line: &&Line| line.labels.iter().any(|(_, value)| value == "kernel");
    let is_bucket = |line: &&Line| line.name == "tcp_echo_rtt_seconds_bucket";
    let buckets: Vec<&Line> = samples.iter().filter(is_bucket).filter(kernel).collect();
    let at = |le: &str| {
        let same = |line: &&&Line| line.le.as_deref() == Some(le);
        buckets.iter().find(same).unwrap().value
    };
    assert!(buckets.is_sorted_by(|one, next| one.value <= next.value));
    assert_eq!((at("1e-06"), at("5e-05"), at("0.0001")), (1.0, 1.0, 3.0));
    assert_eq!((at("0.00015"), at("0.0002"), at("+Inf")), (4.0, 5.0, 5.0));
    assert_eq!(buckets.last().unwrap().le.as_deref(), Some("+Inf"));
}

#[test]
fn native_buckets_stand_beside_the_classic_ones() {
    let families = reading::families(&exposed(snapshot(), Format::Protobuf));
    let rtt = families.iter().find(|it| it.name() == "tcp_echo_rtt_seconds").unwrap();
    let shown: Vec<_> = rtt.metric.iter().filter_map(|it| it.histogram.as_ref()).collect();
    let wanted = &probe().rtt;
    assert_eq!(shown.len(), wanted.len());
    for (shown, (_, wanted)) in shown.iter().zip(wanted) {
        assert_eq!(shown.native(), wanted.native);
        assert_eq!((shown.schema(), shown.zero_threshold()), (SCHEMA, ZERO_THRESHOLD_SECONDS));
        assert_eq!((shown.zero_count(), shown.sample_count()), (wanted.zero_count, wanted.count));
        let classic = shown.bucket.iter().map(|it| (it.upper_bound(), it.cumulative_count()));
        assert!(classic.eq(wanted.classic.iter().map(|&(ns, at_most)| (seconds(ns), at_most))));
    }
    // One too short for any bucket: the zero bucket alone would look like no native buckets.
    let mut only_zero = probe();
    only_zero.rtt = vec![(Clock::Kernel, fixture::histogram(&[3]))];
    let only_zero = Snapshot { probes: vec![only_zero], ..Stats::default().snapshot() };
    let families = reading::families(&exposed(only_zero, Format::Protobuf));
    let rtt = families.iter().find(|it| it.name() == "tcp_echo_rtt_seconds").unwrap();
    let histogram = rtt.metric[0].histogram.as_ref().unwrap();
    let spans: Vec<_> =
        histogram.positive_span.iter().map(|it| (it.offset(), it.length())).collect();
    assert_eq!((spans, histogram.zero_count()), (vec![(0, 0)], 1));
}

#[test]
fn an_empty_program_has_only_its_own_families() {
    for format in Format::ALL {
        let samples = samples_of(&exposed(Stats::default().snapshot(), format), format);
        assert!(!samples.is_empty());
        assert!(samples.iter().all(|line| line.name.starts_with("rttscope_")), "{samples:?}");
    }
    let empty = exposed(Stats::default().snapshot(), Format::Protobuf);
    assert!(reading::families(&empty).iter().all(|family| !family.metric.is_empty()));
}

#[test]
fn the_catalogue_follows_the_naming_rules() {
    let mut names = HashSet::new();
    for family in families() {
        let Family { name, kind, unit, help, labels, .. } = family;
        assert!(names.insert(name), "{name} twice");
        assert_eq!(name.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert_eq!(name.ends_with("_info"), *kind == Kind::Info, "{name}");
        // Prometheus refuses a family whose unit does not end its name.
        assert!(unit.is_none_or(|unit| family.stem().ends_with(&format!("_{unit}"))), "{name}");
        // Both text formats would escape these, each in its own way.
        assert!(help.ends_with('.') && !help.contains(['\n', '\\', '"']), "{name}: {help}");
        assert!(labels.len() <= 4, "{name}");
        if name.starts_with("tcp_echo_") {
            assert!(labels.iter().all(|label| RESERVED_LABELS.contains(label)));
        }
    }
}

#[test]
fn names_choose_families() {
    let check = |names: &[&str], expected: &[&str]| {
        for format in Format::ALL {
            let mut body = Vec::new();
            assert!(!exposition(snapshot(), format, names).write(&mut body, usize::MAX));
            let mut found: Vec<String> =
                samples_of(&body, format).into_iter().map(|line| line.name).collect();
            found.dedup();
            found.sort();
            found.dedup();
            assert_eq!(found, expected, "{format:?} {names:?}");
        }
    };
    check(&["tcp_echo_up"], &["tcp_echo_up"]);
    check(&["tcp_echo_up", "tcp_echo_sent_total"], &["tcp_echo_sent_total", "tcp_echo_up"]);
    check(&["tcp_echo_sent"], &["tcp_echo_sent_total"]);
    let rtt =
        ["_bucket", "_count", "_sum"].map(|suffix| format!("tcp_echo_app_rtt_seconds{suffix}"));
    let rtt = rtt.each_ref().map(|name| &**name);
    check(&["tcp_echo_app_rtt_seconds"], &rtt);
    check(&["tcp_echo_app_rtt_seconds_count"], &rtt);
    check(&["tcp_echo_up_count", "tcp_echo", "", "TCP_ECHO_UP"], &[]);
}

#[test]
fn a_removed_target_is_gone_and_the_others_keep_their_counts() {
    for format in Format::ALL {
        let stats = Stats::default();
        let add = |name: &str, sent: u64| {
            let objectives = Arc::new(Objectives::new(Vec::new()));
            let series = stats.add_probe(ProbeSeries::new(name, "a:1", Vec::new(), objectives));
            series.publish(&ProbeCounters { sent, timeouts: sent, ..ProbeCounters::default() });
            series
        };
        let (first, second) = (add("first", 3), add("second", 4));
        let sent = || {
            let mut body = Vec::new();
            let mut exposition = Exposition::new(&stats, ProcessUsage::default(), format, &[]);
            assert!(!exposition.write(&mut body, usize::MAX));
            let samples = samples_of(&body, format);
            let of = |target| values(&samples, "tcp_echo_sent_total", &[("target", target)]);
            let any = samples.iter().any(|it| it.labels.iter().any(|(_, name)| name == "first"));
            (any, of("first"), of("second"))
        };
        assert_eq!(sent(), (true, vec![3.0], vec![4.0]), "{format:?}");
        stats.remove(&[Watched::Probe(first)]);
        assert_eq!(sent(), (false, vec![], vec![4.0]), "{format:?}");
        stats.remove(&[Watched::Probe(second)]);
        assert_eq!(sent(), (false, vec![], vec![]), "{format:?}");
    }
}

#[test]
fn parts_are_small_however_many_targets_there_are() {
    let unused = || snapshot().probes.remove(1);
    let many = || Snapshot { probes: (0..500).map(|_| unused()).collect(), ..snapshot() };
    for format in Format::ALL {
        let mut rest = exposition(many(), format, &[]);
        let (mut parts, mut more) = (0, true);
        while more {
            let mut part = Vec::new();
            more = rest.write(&mut part, 4_096);
            // What fits into a part may be known at once, and a histogram is a few KiB.
            assert!(part.len() < 3 * 4_096, "{format:?}: {}", part.len());
            parts += 1;
        }
        assert!(parts > 100, "{format:?}: {parts}");
    }
}

/// The same, exported by the official client.
#[test]
fn the_official_client_writes_the_same() {
    let labels = || {
        let probe = probe();
        let mut labels = vec![("target".to_owned(), probe.target)];
        labels.push(("address".to_owned(), probe.address));
        labels.extend(probe.labels);
        labels
    };
    let mut registry = Registry::default();
    let sent = ClientFamily::<Vec<(String, String)>, Counter>::default();
    sent.get_or_create(&labels()).inc_by(203);
    registry.register("tcp_echo_sent", "Probes sent or due", sent);
    let garbage = ClientFamily::<Vec<(String, String)>, Counter>::default();
    garbage.get_or_create(&labels()).inc_by(111);
    let help = "Bytes received that were no reply";
    registry.register_with_unit("tcp_echo_garbage", help, Unit::Bytes, garbage);
    let up = ClientFamily::<Vec<(String, String)>, Gauge>::default();
    up.get_or_create(&labels()).set(1);
    registry.register("tcp_echo_up", "1 if the newest finished probe was received, else 0", up);
    let app_rtt =
        ClientFamily::<Vec<(String, String)>, ClientHistogram>::new_with_constructor(|| {
            let classic = &probe().app_rtt.unwrap().classic;
            ClientHistogram::new(classic.iter().map(|&(ns, _)| seconds(ns)).collect::<Vec<_>>())
        });
    app_rtt.get_or_create(&labels()).observe(seconds(100_000));
    let help = "From the moment the probe was due until the application had the reply";
    registry.register_with_unit("tcp_echo_app_rtt", help, Unit::Seconds, app_rtt);
    let mut theirs = String::new();
    text::encode(&mut theirs, &registry).unwrap();

    let ours = Snapshot { probes: vec![probe()], ..Stats::default().snapshot() };
    let names =
        ["tcp_echo_sent", "tcp_echo_garbage_bytes", "tcp_echo_up", "tcp_echo_app_rtt_seconds"];
    let mut body = Vec::new();
    assert!(!exposition(ours, Format::OpenMetrics, &names).write(&mut body, usize::MAX));
    let ours = String::from_utf8(body).unwrap();
    let is_bucket = |line: &&str| line.contains("le=");
    let others = |text: &str| -> Vec<String> {
        text.lines().filter(|line| !is_bucket(line)).map(str::to_owned).collect()
    };
    assert_eq!(others(&ours), others(&theirs));
    // Of buckets the client puts `le` first, and writes it without an exponent.
    let buckets = |text: &str| -> Vec<(f64, f64)> {
        let lines = lines(text.as_bytes()).into_iter();
        lines.filter_map(|it| Some((it.le?.parse().unwrap(), it.value))).collect()
    };
    assert_eq!(buckets(&ours), buckets(&theirs));
    assert!(buckets(&ours).len() > 20);
}

/// Any text, those that formats have to escape more often than others.
fn any_text() -> impl Strategy<Value = String> {
    prop_oneof![any::<String>(), "[\\\"\n\r,={} a#]{0,8}", Just(String::new())]
}

prop_compose! {
    fn any_probe()(
        target in any_text(),
        address in any_text(),
        rack in proptest::option::of(any_text()),
        // What a number of 64 bits with 53 digits can hold.
        words: [u64; ProbeCounters::WORDS],
        values_ns in proptest::collection::vec(0_u64..100_000_000_000, 0..50),
        resolve_failures in 0_u64..1 << 53,
    ) -> ProbeSnapshot {
        let counters = ProbeCounters::from_words(words.map(|word| word >> 11));
        let rtt = fixture::histogram(&values_ns);
        ProbeSnapshot {
            target,
            address,
            labels: rack.into_iter().map(|rack| ("rack".to_owned(), rack)).collect(),
            counters,
            rtt: vec![(Clock::Kernel, rtt.clone())],
            app_rtt: Some(rtt),
            resolve_failures,
            ..probe()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn every_format_tells_the_same_story(
        probes in proptest::collection::vec(any_probe(), 0..4),
        bytes_wanted in 1_usize..8_000,
    ) {
        let now = || Snapshot { probes: probes.clone(), ..snapshot() };
        let told = Format::ALL.map(|format| samples_of(&exposed(now(), format), format));
        prop_assert_eq!(&told[0], &told[1]);
        prop_assert_eq!(&told[0], &told[2]);
        // And it is the snapshot's: in the order of targets, which may have the same names.
        let of = |name: &str| -> Vec<(Vec<(String, String)>, f64)> {
            let lines = told[0].iter().filter(|line| line.name == name);
            lines.map(|line| (line.labels.clone(), line.value)).collect()
        };
        let expected = |value: fn(&ProbeSnapshot) -> u64, extra: &[(&str, &str)]| {
            let of = |probe: &ProbeSnapshot| {
                let named = [("target", &*probe.target), ("address", &*probe.address)];
                let own = probe.labels.iter().map(|(name, value)| (&**name, &**value));
                let labels = named.into_iter().chain(own).chain(extra.iter().copied());
                let labels = labels.map(|(name, value)| (name.to_owned(), value.to_owned()));
                (labels.collect::<Vec<_>>(), value(probe).to_string().parse::<f64>().unwrap())
            };
            probes.iter().map(of).collect::<Vec<_>>()
        };
        let check = |name, value, extra: &[(&str, &str)]| {
            prop_assert_eq!(of(name), expected(value, extra));
            Ok(())
        };
        check("tcp_echo_sent_total", |probe| probe.counters.sent, &[])?;
        check("tcp_echo_in_flight", |probe| probe.counters.in_flight, &[])?;
        check("tcp_echo_resolve_failures_total", |probe| probe.resolve_failures, &[])?;
        check("tcp_echo_app_rtt_seconds_count", |it| it.app_rtt.as_ref().unwrap().count, &[])?;
        check("tcp_echo_rtt_seconds_count", |it| it.rtt[0].1.count, &[("clock", "kernel")])?;
        // In parts it is the same, and no part is much longer than it should be.
        for format in Format::ALL {
            let mut rest = exposition(now(), format, &[]);
            let (mut body, mut more) = (Vec::new(), true);
            while more {
                let mut part = Vec::new();
                more = rest.write(&mut part, bytes_wanted);
                prop_assert!(part.len() < bytes_wanted + LONGEST_ITEM_BYTES, "{}", part.len());
                body.append(&mut part);
            }
            prop_assert_eq!(body, exposed(now(), format));
        }
    }

    #[test]
    fn native_buckets_come_back(values_ns in proptest::collection::vec(0_u64..u64::MAX, 1..200)) {
        let mut one = probe();
        one.app_rtt = Some(fixture::histogram(&values_ns));
        let wanted = one.app_rtt.clone().unwrap();
        let now = Snapshot { probes: vec![one], ..Stats::default().snapshot() };
        let families = reading::families(&exposed(now, Format::Protobuf));
        let app_rtt = families.iter().find(|it| it.name() == "tcp_echo_app_rtt_seconds").unwrap();
        let shown = app_rtt.metric[0].histogram.as_ref().unwrap();
        prop_assert_eq!(shown.native(), wanted.native);
        prop_assert_eq!(shown.zero_count(), wanted.zero_count);
    }
}

/// All stages of a target with long labels, or a family that fits into a part as it is.
const LONGEST_ITEM_BYTES: usize = 64 * 1_024;
