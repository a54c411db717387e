//! The Prometheus protobuf format: delimited messages `io.prometheus.client.MetricFamily`, the only
//! format that has native buckets. The schema is metrics.proto of prometheus/client_model; only the
//! fields are written that a scraper needs, and `created_timestamp` is not known.

use super::packed::{Packed, Unpacked};
use super::varint::{self, append, zigzag};
use super::writer::{Sizes, Value, Writer};
use super::{Family, Kind};
use crate::histogram::{SCHEMA, ZERO_THRESHOLD_SECONDS};
use crate::time::seconds;

/// The format.
#[derive(Debug)]
pub(super) struct Protobuf;

impl Writer for Protobuf {
    fn labels(&self, pairs: &[(&str, &str)], into: &mut Vec<u8>) {
        for (name, value) in pairs {
            begin_message(into, METRIC_LABEL, framed(name.len()) + framed(value.len()));
            append_text(into, LABEL_NAME, name);
            append_text(into, LABEL_VALUE, value);
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
        begin_message(into, FAMILY_METRIC, labels.len() + framed(REAL_BYTES));
        into.extend_from_slice(labels);
        begin_message(into, field, REAL_BYTES);
        append_real(into, NUMBER_VALUE, value);
    }

    fn histogram(&self, _: &Family, labels: &[u8], histogram: &Packed, into: &mut Vec<u8>) {
        let bytes = histogram.content_bytes;
        begin_message(into, FAMILY_METRIC, labels.len() + framed(bytes));
        into.extend_from_slice(labels);
        begin_message(into, METRIC_HISTOGRAM, bytes);
        append_content(into, &histogram.unpacked());
    }

    fn end(&self, _: &mut Vec<u8>) {}

    fn sizes(&self) -> Option<&dyn Sizes> {
        Some(self)
    }
}

impl Sizes for Protobuf {
    fn number(&self, labels_bytes: usize) -> usize {
        framed(labels_bytes + framed(REAL_BYTES))
    }

    fn histogram(&self, labels_bytes: usize, histogram: &Packed) -> usize {
        framed(labels_bytes + framed(histogram.content_bytes))
    }

    /// As [`append_content`] writes it.
    fn content(&self, histogram: &Unpacked<'_>) -> usize {
        let numbers = [histogram.count, zigzag(SCHEMA.into()), histogram.zero_count];
        let mut bytes = numbers.map(number_bytes).iter().sum::<usize>() + 2 * REAL_BYTES;
        let mut classic = histogram.classic();
        for (_, _, at_most) in &mut classic {
            bytes += framed(number_bytes(at_most) + REAL_BYTES);
        }
        bytes + classic.native().len()
    }

    fn native(&self, buckets: &[(i32, u64)], into: &mut Vec<u8>) {
        runs(buckets, |offset, buckets| {
            begin_message(into, POSITIVE_SPAN, span_bytes(offset, buckets));
            append_number(into, SPAN_OFFSET, zigzag(offset));
            append_number(into, SPAN_LENGTH, buckets);
        });
        if !buckets.is_empty() {
            begin_message(into, POSITIVE_DELTA, deltas(buckets).map(varint::length).sum());
            deltas(buckets).for_each(|delta| append(into, delta));
        }
    }
}

fn append_content(into: &mut Vec<u8>, histogram: &Unpacked<'_>) {
    append_number(into, SAMPLE_COUNT, histogram.count);
    append_real(into, SAMPLE_SUM, seconds(histogram.sum_ns));
    // The bucket without an end is the sample count, and left to the reader.
    let mut classic = histogram.classic();
    for (end, _, at_most) in &mut classic {
        begin_message(into, BUCKET, number_bytes(at_most) + REAL_BYTES);
        append_number(into, BUCKET_COUNT, at_most);
        append_real(into, BUCKET_END, end);
    }
    append_number(into, SCHEMA_FIELD, zigzag(SCHEMA.into()));
    append_real(into, ZERO_THRESHOLD, ZERO_THRESHOLD_SECONDS);
    append_number(into, ZERO_COUNT, histogram.zero_count);
    into.extend_from_slice(classic.native());
}

/// Calls for each run of neighbouring buckets: how far it is from the run before it, how many.
fn runs(buckets: &[(i32, u64)], mut run: impl FnMut(i64, u64)) {
    let mut next = 0;
    for neighbours in buckets.chunk_by(|(before, _), (after, _)| before + 1 == *after) {
        let first = i64::from(neighbours[0].0);
        let count = length(neighbours.len());
        run(first - next, count);
        next = first + count.cast_signed();
    }
    // It stands for a histogram without any: else it would be taken for a classic one.
    if buckets.is_empty() {
        run(0, 0);
    }
}

/// The count of each bucket as the difference to the bucket before it.
fn deltas(buckets: &[(i32, u64)]) -> impl Iterator<Item = u64> {
    buckets.iter().scan(0_u64, |last, &(_, count)| {
        let delta = count.wrapping_sub(std::mem::replace(last, count));
        Some(zigzag(delta.cast_signed()))
    })
}

/// Of a message or text with its field and length.
fn framed(bytes: usize) -> usize {
    FIELD_BYTES + varint::length(length(bytes)) + bytes
}

fn number_bytes(number: u64) -> usize {
    FIELD_BYTES + varint::length(number)
}

fn span_bytes(offset: i64, buckets: u64) -> usize {
    number_bytes(zigzag(offset)) + number_bytes(buckets)
}

/// A message of so many bytes follows, or packed numbers.
fn begin_message(into: &mut Vec<u8>, field: u64, bytes: usize) {
    append(into, field << 3 | WIRE_LENGTH);
    append(into, length(bytes));
}

fn append_text(into: &mut Vec<u8>, field: u64, text: &str) {
    begin_message(into, field, text.len());
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

/// Of a field with its wire type, if it is below 16, which all are here.
const FIELD_BYTES: usize = 1;
/// Of a field that is a real number.
const REAL_BYTES: usize = FIELD_BYTES + 8;

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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::super::packed::Packer;
    use super::*;
    use crate::histogram::{Boundaries, Histogram};

    proptest! {
        #[test]
        fn sizes_are_those_of_what_is_written(
            values_ns in proptest::collection::vec((0_u64..100_000_000_000, 1..300), 0..100),
        ) {
            let histogram = Histogram::new(Arc::new(Boundaries::new(&[])));
            for (ns, times) in values_ns {
                (0..times).for_each(|_| histogram.record(ns));
            }
            let packed = Packer::new(Some(&Protobuf)).pack(&histogram.snapshot());
            let mut written = Vec::new();
            append_content(&mut written, &packed.unpacked());
            prop_assert_eq!(packed.content_bytes, written.len());
        }
    }
}
