//! Histograms for the time of a scrape, a few bytes a bucket: snapshots of all histograms of
//! thousands of targets at once would take 100 MB, of which most bytes are zero or said before.

use std::sync::Arc;

use super::varint;
use super::writer::Sizes;
use crate::histogram::HistogramSnapshot;
use crate::time::seconds;

/// What a histogram held at one moment.
#[derive(Debug)]
pub(super) struct Packed {
    bounds: Arc<Bounds>,
    /// See [`Packer::pack`].
    bytes: Box<[u8]>,
    /// By [`Sizes::content`], 0 where nobody needs to know.
    pub(super) content_bytes: usize,
}

/// Where classic buckets end.
#[derive(Debug)]
pub(super) struct Bounds {
    ends_ns: Box<[u64]>,
    /// The same in seconds.
    ends: Box<[f64]>,
    /// The same as the values of the label `le`; one more, for the bucket without an end.
    labels: Box<[String]>,
}

/// Packs histograms, and knows the boundaries that it has seen: usually all have the same ones.
pub(super) struct Packer<'a> {
    sizes: Option<&'a dyn Sizes>,
    known: Vec<Arc<Bounds>>,
    scratch: Vec<u8>,
}

/// The parts of a [`Packed`] histogram, of which the two kinds of buckets are still to be read.
pub(super) struct Unpacked<'a> {
    pub(super) count: u64,
    pub(super) sum_ns: u64,
    pub(super) zero_count: u64,
    bounds: &'a Bounds,
    classic: &'a [u8],
}

/// Classic buckets, the one without an end apart: (its end in seconds, the label, at most that).
pub(super) struct Classic<'a> {
    bounds: &'a Bounds,
    at: usize,
    at_most: u64,
    bytes: &'a [u8],
}

impl<'a> Packer<'a> {
    pub(super) const fn new(sizes: Option<&'a dyn Sizes>) -> Self {
        Self { sizes, known: Vec::new(), scratch: Vec::new() }
    }

    /// Count, sum and zero bucket come first, then what each classic bucket adds to the one before
    /// it, then native buckets as the format has them.
    pub(super) fn pack(&mut self, histogram: &HistogramSnapshot) -> Packed {
        let bounds = self.bounds_of(histogram);
        let bytes = &mut self.scratch;
        bytes.clear();
        for number in [histogram.count, histogram.sum_ns, histogram.zero_count] {
            varint::append(bytes, number);
        }
        let mut below = 0;
        for &(_, at_most) in &histogram.classic {
            varint::append(bytes, at_most - below);
            below = at_most;
        }
        if let Some(sizes) = self.sizes {
            sizes.native(&histogram.native, bytes);
        }
        let mut packed = Packed { bounds, bytes: bytes.as_slice().into(), content_bytes: 0 };
        if let Some(sizes) = self.sizes {
            packed.content_bytes = sizes.content(&packed.unpacked());
        }
        packed
    }

    fn bounds_of(&mut self, histogram: &HistogramSnapshot) -> Arc<Bounds> {
        let ends_ns = || histogram.classic.iter().map(|&(end_ns, _)| end_ns);
        let known = self.known.iter().find(|known| ends_ns().eq(known.ends_ns.iter().copied()));
        if let Some(known) = known {
            return Arc::clone(known);
        }
        let ends = ends_ns().map(seconds);
        let labels = ends.clone().map(le).chain([le(f64::INFINITY)]).collect();
        let bounds = Bounds { ends_ns: ends_ns().collect(), ends: ends.collect(), labels };
        let bounds = Arc::new(bounds);
        self.known.push(Arc::clone(&bounds));
        bounds
    }
}

impl Packed {
    pub(super) fn unpacked(&self) -> Unpacked<'_> {
        let mut bytes = &*self.bytes;
        let count = varint::take(&mut bytes);
        let sum_ns = varint::take(&mut bytes);
        let zero_count = varint::take(&mut bytes);
        Unpacked { count, sum_ns, zero_count, bounds: &self.bounds, classic: bytes }
    }
}

impl<'a> Unpacked<'a> {
    pub(super) const fn classic(&self) -> Classic<'a> {
        Classic { bounds: self.bounds, at: 0, at_most: 0, bytes: self.classic }
    }

    /// The label of the bucket without an end, whose count is that of the histogram.
    pub(super) fn last_label(&self) -> &'a str {
        &self.bounds.labels[self.bounds.ends.len()]
    }
}

impl<'a> Classic<'a> {
    /// Native buckets as the format wrote them. They come after the classic ones, of which those
    /// that are left are passed over.
    pub(super) fn native(mut self) -> &'a [u8] {
        while self.next().is_some() {}
        self.bytes
    }
}

impl<'a> Iterator for Classic<'a> {
    type Item = (f64, &'a str, u64);

    fn next(&mut self) -> Option<Self::Item> {
        let end = *self.bounds.ends.get(self.at)?;
        let label = &self.bounds.labels[self.at];
        self.at += 1;
        self.at_most += varint::take(&mut self.bytes);
        Some((end, label, self.at_most))
    }
}

/// A boundary as Prometheus writes those it reads from protobuf, which is OpenMetrics' canonical
/// form: so a series goes on when the format of the scrapes changes.
pub(super) fn le(end: f64) -> String {
    if end.is_infinite() {
        return "+Inf".to_owned();
    }
    let scientific = format!("{end:e}");
    let (digits, exponent) = scientific.split_once('e').expect("it is asked for");
    let exponent: i32 = exponent.parse().expect("it is a small number");
    if (-4..6).contains(&exponent) {
        return format!("{end:?}");
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::histogram::{Boundaries, Histogram};

    fn check(packer: &mut Packer<'_>, histogram: &HistogramSnapshot) {
        let packed = packer.pack(histogram);
        let unpacked = packed.unpacked();
        let found = (unpacked.count, unpacked.sum_ns, unpacked.zero_count);
        assert_eq!(found, (histogram.count, histogram.sum_ns, histogram.zero_count));
        let classic = unpacked.classic().map(|(end, _, at_most)| (end, at_most));
        let expected =
            histogram.classic.iter().map(|&(end_ns, at_most)| (seconds(end_ns), at_most));
        assert!(classic.eq(expected));
    }

    proptest! {
        #[test]
        fn histograms_come_back(
            values_ns in proptest::collection::vec(0_u64..100_000_000_000, 0..200),
            thresholds_ns in proptest::collection::vec(1_u64..1_000_000_000, 0..3),
        ) {
            let histogram = Histogram::new(Arc::new(Boundaries::new(&thresholds_ns)));
            values_ns.iter().for_each(|&ns| histogram.record(ns));
            let mut packer = Packer::new(None);
            check(&mut packer, &histogram.snapshot());
            check(&mut packer, &Histogram::new(Arc::new(Boundaries::new(&[]))).snapshot());
            check(&mut packer, &histogram.snapshot());
            prop_assert!(packer.known.len() <= 2);
        }
    }

    #[test]
    fn boundaries_are_written_as_prometheus_writes_them() {
        let check = |end, expected: &str| assert_eq!(le(end), expected);
        check(1e-6, "1e-06");
        check(12.5e-6, "1.25e-05");
        check(1.5e-4, "0.00015");
        check(0.1, "0.1");
        check(1.0, "1.0");
        check(10.0, "10.0");
        check(123_456.0, "123456.0");
        check(1e6, "1e+06");
        check(f64::INFINITY, "+Inf");
    }
}
