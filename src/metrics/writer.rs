//! The formats, what each has to know, and how the catalogue reaches it: the numbers and histograms
//! of one target, listener or thread in, bytes in the format out.

use super::Family;
use super::packed::{Packed, Unpacked};
use super::protobuf::Protobuf;
use super::text::Text;

/// The formats of an exposition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// The Prometheus text format 0.0.4: no units, and no native buckets.
    PrometheusText,
    /// The OpenMetrics text format 1.0.0: no native buckets.
    OpenMetrics,
    /// The Prometheus protobuf format, delimited: native buckets beside the classic ones.
    Protobuf,
}

impl Format {
    /// All, those first that are easier to read for people.
    pub const ALL: [Self; 3] = [Self::PrometheusText, Self::OpenMetrics, Self::Protobuf];

    /// What the body is called in HTTP.
    #[must_use]
    pub const fn content_type(self) -> &'static str {
        match self {
            Self::PrometheusText => "text/plain; version=0.0.4; charset=utf-8",
            Self::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
            Self::Protobuf => concat!(
                "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; ",
                "encoding=delimited"
            ),
        }
    }

    pub(super) fn writer(self) -> &'static dyn Writer {
        match self {
            Self::PrometheusText => &Text { is_open_metrics: false },
            Self::OpenMetrics => &Text { is_open_metrics: true },
            Self::Protobuf => &Protobuf,
        }
    }
}

/// One format. It keeps nothing from one metric to the next, so a body may be written in parts.
pub(super) trait Writer: Sync {
    /// Appends labels to others of the same metric.
    fn labels(&self, pairs: &[(&str, &str)], into: &mut Vec<u8>);

    /// Begins a family whose metrics take so many bytes.
    fn family(&self, family: &Family, metrics_bytes: usize, into: &mut Vec<u8>);

    /// Writes a metric that is one number.
    fn number(&self, family: &Family, labels: &[u8], value: Value, into: &mut Vec<u8>);

    /// Writes a metric that is a histogram.
    fn histogram(&self, family: &Family, labels: &[u8], histogram: &Packed, into: &mut Vec<u8>);

    /// Ends the exposition.
    fn end(&self, into: &mut Vec<u8>);

    /// For a format in which lengths go first: [`Self::family`] needs to be told the bytes, and is
    /// not called without metrics.
    fn sizes(&self) -> Option<&dyn Sizes>;
}

/// How many bytes a format takes, known without writing them.
pub(super) trait Sizes {
    /// Of a metric that is one number, with labels of so many bytes.
    fn number(&self, labels_bytes: usize) -> usize;

    /// Of a metric that is a histogram.
    fn histogram(&self, labels_bytes: usize, histogram: &Packed) -> usize;

    /// Of a histogram alone, without what is around it: [`Packed::content_bytes`].
    fn content(&self, histogram: &Unpacked<'_>) -> usize;

    /// Writes native buckets (index, count), once for all that is asked of them later.
    fn native(&self, buckets: &[(i32, u64)], into: &mut Vec<u8>);
}

/// A number that is exact as an integer, or is none.
#[derive(Clone, Copy, Debug)]
pub(super) enum Value {
    Whole(u64),
    Real(f64),
}

/// Where the metrics of one family go.
pub(super) struct Out<'a> {
    pub(super) writer: &'static dyn Writer,
    pub(super) family: &'static Family,
    /// What all metrics of a target, listener or thread have.
    pub(super) shared: &'a [u8],
    /// Memory to put labels together.
    pub(super) labels: &'a mut Vec<u8>,
    pub(super) into: Target<'a>,
}

/// What becomes of metrics.
pub(super) enum Target<'a> {
    /// They are written.
    Written(&'a mut Vec<u8>),
    /// Their bytes are counted.
    Counted(&'a dyn Sizes, &'a mut usize),
}

impl Out<'_> {
    /// Writes an integer.
    pub(super) fn whole(&mut self, extra: &[(&str, &str)], value: u64) {
        self.number(extra, Value::Whole(value));
    }

    /// Writes a number.
    pub(super) fn real(&mut self, extra: &[(&str, &str)], value: f64) {
        self.number(extra, Value::Real(value));
    }

    /// Writes a number if there is one.
    pub(super) fn maybe(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.real(&[], value);
        }
    }

    /// Writes labels, and the 1 that they need to be a metric.
    pub(super) fn info(&mut self, labels: &[(&str, &str)]) {
        self.whole(labels, 1);
    }

    /// Writes native and classic buckets; a format that has no native ones leaves them out.
    pub(super) fn histogram(&mut self, extra: &[(&str, &str)], histogram: &Packed) {
        self.put_labels_together(extra);
        match &mut self.into {
            Target::Written(into) => {
                self.writer.histogram(self.family, self.labels, histogram, into);
            }
            Target::Counted(sizes, bytes) => {
                **bytes += sizes.histogram(self.labels.len(), histogram);
            }
        }
    }

    fn number(&mut self, extra: &[(&str, &str)], value: Value) {
        self.put_labels_together(extra);
        match &mut self.into {
            Target::Written(into) => self.writer.number(self.family, self.labels, value, into),
            Target::Counted(sizes, bytes) => **bytes += sizes.number(self.labels.len()),
        }
    }

    fn put_labels_together(&mut self, extra: &[(&str, &str)]) {
        self.labels.clear();
        self.labels.extend_from_slice(self.shared);
        self.writer.labels(extra, self.labels);
    }
}
