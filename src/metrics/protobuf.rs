//! The Prometheus protobuf format: delimited messages `io.prometheus.client.MetricFamily`, the only
//! format that has native buckets. The schema is metrics.proto of prometheus/client_model; only the
//! fields are written that a scraper needs, and `created_timestamp` is not known.

use super::packed::{Packed, Unpacked};
use super::varint::{append, zigzag};
use super::writer::{Value, Writer};
use super::{Family, Kind};
use crate::histogram::{SCHEMA, ZERO_THRESHOLD_SECONDS};
use crate::time::seconds;

/// The format.
#[derive(Debug)]
pub(super) struct Protobuf;

impl Writer for Protobuf {
    fn labels(&self, pairs: &[(&str, &str)], into: &mut Vec<u8>) {
        for (name, value) in pairs {
            append_message(into, METRIC_LABEL, |pair| {
                append_text(pair, LABEL_NAME, name);
                append_text(pair, LABEL_VALUE, value);
            });
        }
    }

    fn family(&self, family: &Family, metrics_bytes: usize, into: &mut Vec<u8>) {
        let begins = into.len();
        append_text(into, FAMILY_NAME, family.name);
        append_text(into, FAMILY_HELP, family.help);
        append_number(
            into,
            FAMILY_TYPE,
            match family.kind {
                Kind::Counter => TYPE_COUNTER,
                Kind::Gauge | Kind::Info => TYPE_GAUGE,
                Kind::Histogram => TYPE_HISTOGRAM,
            },
        );
        if let Some(unit) = family.unit {
            append_text(into, FAMILY_UNIT, unit);
        }
        let bytes = into.len() - begins + metrics_bytes;
        let ends = into.len();
        append(into, length(bytes));
        let bytes = into.len() - ends;
        into[begins..].rotate_right(bytes);
    }

    fn number(&self, family: &Family, labels: &[u8], value: Value, into: &mut Vec<u8>) {
        let field = match family.kind {
            Kind::Counter => METRIC_COUNTER,
            _ => METRIC_GAUGE,
        };
        let value = match value {
            Value::Whole(value) => nearest(value),
            Value::Real(value) => value,
        };
        append_message(into, FAMILY_METRIC, |metric| {
            metric.extend_from_slice(labels);
            append_message(metric, field, |number| append_real(number, NUMBER_VALUE, value));
        });
    }

    fn histogram(&self, _: &Family, labels: &[u8], histogram: &Packed, into: &mut Vec<u8>) {
        let unpacked = histogram.unpacked();
        append_message(into, FAMILY_METRIC, |metric| {
            metric.extend_from_slice(labels);
            append_message(metric, METRIC_HISTOGRAM, |histogram| {
                append_number(histogram, SAMPLE_COUNT, unpacked.count);
                append_real(histogram, SAMPLE_SUM, seconds(unpacked.sum_ns));
                // The bucket without an end is the sample count, and left to the reader.
                for (end, _, at_most) in unpacked.classic() {
                    append_message(histogram, BUCKET, |bucket| {
                        append_number(bucket, BUCKET_COUNT, at_most);
                        append_real(bucket, BUCKET_END, end);
                    });
                }
                append_native(histogram, &unpacked);
            });
        });
    }

    fn end(&self, _: &mut Vec<u8>) {}

    fn is_framed(&self) -> bool {
        true
    }
}

/// Runs of neighbouring buckets, each with its distance to the run before it, and the count of
/// each bucket as the difference to the bucket before it.
fn append_native(into: &mut Vec<u8>, histogram: &Unpacked<'_>) {
    append_number(into, SCHEMA_FIELD, zigzag(i64::from(SCHEMA)));
    append_real(into, ZERO_THRESHOLD, ZERO_THRESHOLD_SECONDS);
    append_number(into, ZERO_COUNT, histogram.zero_count);
    let mut span = |offset: i64, buckets: u64| {
        append_message(into, POSITIVE_SPAN, |span| {
            append_number(span, SPAN_OFFSET, zigzag(offset));
            append_number(span, SPAN_LENGTH, buckets);
        });
    };
    let native = histogram.native();
    // (0, 0) stands for a histogram without any: else it would be taken for a classic one.
    let (mut run_offset, mut run_buckets) = (0, 0);
    for (offset, _) in native.clone() {
        if offset != 0 || run_buckets == 0 {
            if run_buckets > 0 {
                span(run_offset, run_buckets);
            }
            (run_offset, run_buckets) = (offset, 0);
        }
        run_buckets += 1;
    }
    span(run_offset, run_buckets);
    if run_buckets == 0 {
        return;
    }
    append_message(into, POSITIVE_DELTA, |deltas| {
        let mut last = 0_u64;
        for (_, count) in native {
            append(deltas, zigzag(count.wrapping_sub(last).cast_signed()));
            last = count;
        }
    });
}

/// A message, or packed numbers: their length goes before them.
fn append_message(into: &mut Vec<u8>, field: u64, content: impl FnOnce(&mut Vec<u8>)) {
    append(into, field << 3 | WIRE_LENGTH);
    let begins = into.len();
    into.push(0);
    content(into);
    let bytes = into.len() - begins - 1;
    let ends = into.len();
    append(into, length(bytes));
    // Nearly every length is one byte, for which there is room; a longer one makes itself room.
    into[begins] = into[ends];
    into.remove(ends);
    let others = into.len() - ends;
    into[begins + 1..].rotate_right(others);
}

fn append_text(into: &mut Vec<u8>, field: u64, text: &str) {
    append(into, field << 3 | WIRE_LENGTH);
    append(into, length(text.len()));
    into.extend_from_slice(text.as_bytes());
}

fn append_number(into: &mut Vec<u8>, field: u64, number: u64) {
    append(into, field << 3 | WIRE_VARINT);
    append(into, number);
}

fn append_real(into: &mut Vec<u8>, field: u64, number: f64) {
    append(into, field << 3 | WIRE_64_BITS);
    into.extend_from_slice(&number.to_le_bytes());
}

fn length(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("64 bits are enough for any length")
}

/// The format has no whole numbers: beyond 2^53 they are rounded, as a server's own are.
#[expect(clippy::cast_precision_loss, reason = "there is nothing better in the format")]
const fn nearest(whole: u64) -> f64 {
    whole as f64
}

/// Wire types.
const WIRE_VARINT: u64 = 0;
const WIRE_64_BITS: u64 = 1;
const WIRE_LENGTH: u64 = 2;

/// Fields of `MetricFamily`, and values of its type.
const FAMILY_NAME: u64 = 1;
const FAMILY_HELP: u64 = 2;
const FAMILY_TYPE: u64 = 3;
const FAMILY_METRIC: u64 = 4;
const FAMILY_UNIT: u64 = 5;
const TYPE_COUNTER: u64 = 0;
const TYPE_GAUGE: u64 = 1;
const TYPE_HISTOGRAM: u64 = 4;

/// Fields of `Metric`.
const METRIC_LABEL: u64 = 1;
const METRIC_GAUGE: u64 = 2;
const METRIC_COUNTER: u64 = 3;
const METRIC_HISTOGRAM: u64 = 7;

/// Fields of `LabelPair`.
const LABEL_NAME: u64 = 1;
const LABEL_VALUE: u64 = 2;

/// Field of `Gauge` and of `Counter`.
const NUMBER_VALUE: u64 = 1;

/// Fields of `Histogram`.
const SAMPLE_COUNT: u64 = 1;
const SAMPLE_SUM: u64 = 2;
const BUCKET: u64 = 3;
const SCHEMA_FIELD: u64 = 5;
const ZERO_THRESHOLD: u64 = 6;
const ZERO_COUNT: u64 = 7;
const POSITIVE_SPAN: u64 = 12;
const POSITIVE_DELTA: u64 = 13;

/// Fields of `Bucket`.
const BUCKET_COUNT: u64 = 1;
const BUCKET_END: u64 = 2;

/// Fields of `BucketSpan`.
const SPAN_OFFSET: u64 = 1;
const SPAN_LENGTH: u64 = 2;
