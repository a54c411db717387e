//! Expositions read back by somebody else's rules: the samples that a server would store. The
//! protobuf schema is written down here once more, for a decoder that shares nothing with us.

use prost::Message;

/// One sample: name, labels without `le`, `le`, value.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Line {
    pub(super) name: String,
    pub(super) labels: Vec<(String, String)>,
    pub(super) le: Option<String>,
    pub(super) value: f64,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct MetricFamily {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) help: Option<String>,
    #[prost(int32, optional, tag = "3")]
    pub(super) kind: Option<i32>,
    #[prost(message, repeated, tag = "4")]
    pub(super) metric: Vec<Metric>,
    #[prost(string, optional, tag = "5")]
    pub(super) unit: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Metric {
    #[prost(message, repeated, tag = "1")]
    pub(super) label: Vec<LabelPair>,
    #[prost(message, optional, tag = "2")]
    pub(super) gauge: Option<Number>,
    #[prost(message, optional, tag = "3")]
    pub(super) counter: Option<Number>,
    #[prost(message, optional, tag = "7")]
    pub(super) histogram: Option<Histogram>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct LabelPair {
    #[prost(string, optional, tag = "1")]
    pub(super) name: Option<String>,
    #[prost(string, optional, tag = "2")]
    pub(super) value: Option<String>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Number {
    #[prost(double, optional, tag = "1")]
    pub(super) value: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Histogram {
    #[prost(uint64, optional, tag = "1")]
    pub(super) sample_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) sample_sum: Option<f64>,
    #[prost(message, repeated, tag = "3")]
    pub(super) bucket: Vec<Bucket>,
    #[prost(sint32, optional, tag = "5")]
    pub(super) schema: Option<i32>,
    #[prost(double, optional, tag = "6")]
    pub(super) zero_threshold: Option<f64>,
    #[prost(uint64, optional, tag = "7")]
    pub(super) zero_count: Option<u64>,
    #[prost(message, repeated, tag = "12")]
    pub(super) positive_span: Vec<Span>,
    #[prost(sint64, repeated, tag = "13")]
    pub(super) positive_delta: Vec<i64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Bucket {
    #[prost(uint64, optional, tag = "1")]
    pub(super) cumulative_count: Option<u64>,
    #[prost(double, optional, tag = "2")]
    pub(super) upper_bound: Option<f64>,
}

#[derive(Clone, PartialEq, Message)]
pub(super) struct Span {
    #[prost(sint32, optional, tag = "1")]
    pub(super) offset: Option<i32>,
    #[prost(uint32, optional, tag = "2")]
    pub(super) length: Option<u32>,
}

impl Histogram {
    /// Native buckets as (index, count): the inverse of what native histograms.md prescribes.
    pub(super) fn native(&self) -> Vec<(i32, u64)> {
        let mut deltas = self.positive_delta.iter();
        let (mut index, mut count, mut native) = (0, 0_i64, Vec::new());
        for span in &self.positive_span {
            index += span.offset.unwrap();
            for _ in 0..span.length.unwrap() {
                count += deltas.next().unwrap();
                native.push((index, count.cast_unsigned()));
                index += 1;
            }
        }
        assert_eq!(deltas.next(), None, "more counts than buckets");
        native
    }
}

/// The samples of a text.
pub(super) fn lines(text: &[u8]) -> Vec<Line> {
    let text = std::str::from_utf8(text).unwrap();
    let lines = text.split('\n').filter(|text| !text.is_empty() && !text.starts_with('#'));
    lines.map(line).collect()
}

/// The families of a delimited body.
pub(super) fn families(mut body: &[u8]) -> Vec<MetricFamily> {
    let mut families = Vec::new();
    while !body.is_empty() {
        let before = body.len();
        let family = MetricFamily::decode_length_delimited(&mut body).unwrap();
        let whole = prost::length_delimiter_len(family.encoded_len()) + family.encoded_len();
        assert_eq!(before - body.len(), whole, "a field that the schema does not have");
        families.push(family);
    }
    families
}

/// The samples of a delimited body, as a server makes them of it.
pub(super) fn samples(body: &[u8]) -> Vec<Line> {
    let families = families(body);
    families.iter().flat_map(|family| family.metric.iter().flat_map(|it| of(family, it))).collect()
}

fn of(family: &MetricFamily, metric: &Metric) -> Vec<Line> {
    let labels: Vec<_> = metric.label.iter().map(|it| (it.name(), it.value())).collect();
    let sample = |suffix: &str, le: Option<&str>, value: f64| Line {
        name: format!("{}{suffix}", family.name()),
        labels: labels.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect(),
        le: le.map(str::to_owned),
        value,
    };
    match (family.kind(), &metric.counter, &metric.gauge, &metric.histogram) {
        (0, Some(number), None, None) | (1, None, Some(number), None) => {
            vec![sample("", None, number.value())]
        }
        (4, None, None, Some(histogram)) => {
            let whole = |count: u64| count.to_string().parse().unwrap();
            let mut samples = vec![
                sample("_sum", None, histogram.sample_sum()),
                sample("_count", None, whole(histogram.sample_count())),
            ];
            for bucket in &histogram.bucket {
                let le = super::super::packed::le(bucket.upper_bound());
                samples.push(sample("_bucket", Some(&le), whole(bucket.cumulative_count())));
            }
            samples.push(sample("_bucket", Some("+Inf"), whole(histogram.sample_count())));
            samples
        }
        other => panic!("{}: {other:?}", family.name()),
    }
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
