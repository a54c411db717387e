//! Both text formats: what Prometheus has read since its beginning (0.0.4), and OpenMetrics 1.0.0.
//! Their samples are the same, character for character; they differ in what surrounds them.

use std::io::Write;

use super::packed::Packed;
use super::writer::{Sizes, Value, Writer};
use super::{Family, Kind};
use crate::time::seconds;

/// A text format. In the older one a counter's family is named like its samples, with `_total`, an
/// info is a gauge, units have no line of their own, and the end is not said.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) is_open_metrics: bool,
}

impl Writer for Text {
    fn labels(&self, pairs: &[(&str, &str)], into: &mut Vec<u8>) {
        for (name, value) in pairs {
            if !into.is_empty() {
                into.push(b',');
            }
            into.extend_from_slice(name.as_bytes());
            into.extend_from_slice(b"=\"");
            append_escaped(value, into);
            into.push(b'"');
        }
    }

    fn family(&self, family: &Family, _: usize, into: &mut Vec<u8>) {
        let (name, kind) = match (family.kind, self.is_open_metrics) {
            (Kind::Counter, true) => (family.stem(), "counter"),
            (Kind::Counter, false) => (family.name, "counter"),
            (Kind::Info, true) => (family.stem(), "info"),
            (Kind::Gauge, _) | (Kind::Info, false) => (family.name, "gauge"),
            (Kind::Histogram, _) => (family.name, "histogram"),
        };
        let unit = family.unit.filter(|_| self.is_open_metrics);
        let written = write!(into, "# HELP {name} {}\n# TYPE {name} {kind}\n", family.help)
            .and_then(|()| unit.map_or(Ok(()), |unit| writeln!(into, "# UNIT {name} {unit}")));
        written.expect("a vector takes any bytes");
    }

    fn number(&self, family: &Family, labels: &[u8], value: Value, into: &mut Vec<u8>) {
        append_series(family.name, "", labels, into);
        match value {
            Value::Whole(value) => append_whole(value, into),
            Value::Real(value) => append_real(value, into),
        }
    }

    fn histogram(&self, family: &Family, labels: &[u8], histogram: &Packed, into: &mut Vec<u8>) {
        let histogram = histogram.unpacked();
        append_series(family.name, "_sum", labels, into);
        append_real(seconds(histogram.sum_ns), into);
        append_series(family.name, "_count", labels, into);
        append_whole(histogram.count, into);
        let last = (f64::INFINITY, histogram.last_label(), histogram.count);
        // All buckets begin alike, so the first one's beginning is copied to the others.
        let mut beginning = None;
        for (_, le, at_most) in histogram.classic().chain([last]) {
            let begins = into.len();
            match beginning.clone() {
                Some(bytes) => into.extend_from_within(bytes),
                None => {
                    into.extend_from_slice(family.name.as_bytes());
                    into.extend_from_slice(b"_bucket{");
                    into.extend_from_slice(labels);
                    into.extend_from_slice(if labels.is_empty() { b"le=\"" } else { b",le=\"" });
                    beginning = Some(begins..into.len());
                }
            }
            into.extend_from_slice(le.as_bytes());
            into.extend_from_slice(b"\"} ");
            append_whole(at_most, into);
        }
    }

    fn end(&self, into: &mut Vec<u8>) {
        if self.is_open_metrics {
            into.extend_from_slice(b"# EOF\n");
        }
    }

    fn sizes(&self) -> Option<&dyn Sizes> {
        None
    }
}

impl Family {
    /// The name without the suffix that OpenMetrics appends to samples of this kind.
    pub(super) fn stem(&self) -> &'static str {
        let suffix = match self.kind {
            Kind::Counter => "_total",
            Kind::Info => "_info",
            Kind::Gauge | Kind::Histogram => "",
        };
        self.name.strip_suffix(suffix).unwrap_or(self.name)
    }
}

/// Name and labels, up to the value.
fn append_series(name: &str, suffix: &str, labels: &[u8], into: &mut Vec<u8>) {
    into.extend_from_slice(name.as_bytes());
    into.extend_from_slice(suffix.as_bytes());
    if !labels.is_empty() {
        into.push(b'{');
        into.extend_from_slice(labels);
        into.push(b'}');
    }
    into.push(b' ');
}

fn append_whole(value: u64, into: &mut Vec<u8>) {
    into.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
    into.push(b'\n');
}

/// The shortest text that reads back as the same number.
fn append_real(value: f64, into: &mut Vec<u8>) {
    let written = if value.is_infinite() {
        let sign = if value < 0.0 { '-' } else { '+' };
        writeln!(into, "{sign}Inf")
    } else {
        writeln!(into, "{value:?}")
    };
    written.expect("a vector takes any bytes");
}

/// Backslashes, quotes and line feeds of a label's value are escaped.
fn append_escaped(value: &str, into: &mut Vec<u8>) {
    for part in value.split_inclusive(['\\', '"', '\n']) {
        let (plain, escape): (&str, &[u8]) = match part.as_bytes().last() {
            Some(b'\\') => (&part[..part.len() - 1], br"\\"),
            Some(b'"') => (&part[..part.len() - 1], br#"\""#),
            Some(b'\n') => (&part[..part.len() - 1], br"\n"),
            _ => (part, b""),
        };
        into.extend_from_slice(plain.as_bytes());
        into.extend_from_slice(escape);
    }
}
