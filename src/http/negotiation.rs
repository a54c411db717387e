//! What a client wants of a body (RFC 9110, section 12): its headers in, a format and a coding
//! out. What cannot be understood is passed over, and a client that wants nothing we have gets
//! what every client can read: a scrape that fails tells nobody anything.

use axum::http::HeaderMap;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, HeaderName};

use crate::metrics::Format;

/// The format that the client likes best, by `Accept`. Of those that it likes equally, the one that
/// it names most exactly, then the one that it names first, then the most readable one.
pub(super) fn format(headers: &HeaderMap) -> Format {
    let ranges: Vec<Item<'_>> = items(headers, ACCEPT).collect();
    let mut best = (Format::PrometheusText, Liking { weight: 0.0, exactness: 0, position: 0 });
    for format in Format::ALL {
        let content_type = Item::parse(format.content_type()).expect("ours is well-formed");
        let matching = ranges.iter().enumerate().filter_map(|(position, range)| {
            let exactness = range.exactness(&content_type)?;
            Some(Liking { weight: range.weight, exactness, position })
        });
        // The most exact range says how much a format is liked; it may also say "not at all".
        let liking = matching.reduce(|a, b| if b.exactness > a.exactness { b } else { a });
        let liked = liking.filter(|liking| liking.weight > 0.0);
        if let Some(liking) = liked.filter(|liking| liking.is_above(&best.1)) {
            best = (format, liking);
        }
    }
    best.0
}

/// Whether to compress, by `Accept-Encoding`: if the client takes gzip, and does not like plain
/// bytes better. A client that refuses both gets plain bytes.
pub(super) fn is_gzip_wanted(headers: &HeaderMap) -> bool {
    let codings: Vec<Item<'_>> = items(headers, ACCEPT_ENCODING).collect();
    let weight = |names: &[&str]| {
        let named = |coding: &&Item<'_>| names.iter().any(|name| coding.is_called(name));
        let any = || codings.iter().find(|coding| coding.name == "*");
        codings.iter().find(named).or_else(any).map(|coding| coding.weight)
    };
    // Plain bytes are always taken, unless they are refused; but who names gzip means it.
    match (weight(&["gzip", "x-gzip"]), weight(&["identity"])) {
        (Some(gzip), identity) => gzip > 0.0 && gzip >= identity.unwrap_or(0.0),
        (None, identity) => identity == Some(0.0),
    }
}

/// How much a client likes a format.
struct Liking {
    weight: f32,
    exactness: usize,
    position: usize,
}

impl Liking {
    fn is_above(&self, other: &Self) -> bool {
        let (mine, theirs) = ((self.weight, self.exactness), (other.weight, other.exactness));
        mine > theirs || mine == theirs && self.position < other.position
    }
}

/// One item of a list: a media range, a coding, or a content type.
#[derive(Debug, PartialEq)]
struct Item<'a> {
    name: &'a str,
    parameters: Vec<(&'a str, &'a str)>,
    /// From 0, "not at all", to 1.
    weight: f32,
}

impl<'a> Item<'a> {
    /// `None` if it is malformed.
    fn parse(text: &'a str) -> Option<Self> {
        let mut parts = split(text, ';');
        let name = parts.next().filter(|name| !name.is_empty())?;
        let mut item = Self { name, parameters: Vec::new(), weight: 1.0 };
        for part in parts.filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=')?;
            let (name, value) = (name.trim(), value.trim().trim_matches('"'));
            if name.eq_ignore_ascii_case("q") {
                item.weight = value.parse().ok().filter(|q| (0.0..=1.0).contains(q))?;
            } else {
                item.parameters.push((name, value));
            }
        }
        Some(item)
    }

    fn is_called(&self, name: &str) -> bool {
        self.name.eq_ignore_ascii_case(name)
    }

    fn parameter(&self, name: &str) -> Option<&'a str> {
        let mut parameters = self.parameters.iter();
        parameters.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|&(_, value)| value)
    }

    /// How exactly a media range names a content type; `None` if it does not. Parameters that the
    /// type does not have, such as Prometheus' `escaping`, are about other formats.
    fn exactness(&self, content_type: &Item<'_>) -> Option<usize> {
        if self.name == "*/*" {
            return Some(0);
        }
        let main = content_type.name.split_once('/').map_or("", |(main, _)| main);
        if self.name.strip_suffix("/*").is_some_and(|range| range.eq_ignore_ascii_case(main)) {
            return Some(1);
        }
        let mut exactness = 2;
        for (name, value) in &content_type.parameters {
            match self.parameter(name) {
                Some(wanted) if !wanted.eq_ignore_ascii_case(value) => return None,
                Some(_) => exactness += 1,
                None => {}
            }
        }
        self.is_called(content_type.name).then_some(exactness)
    }
}

/// The well-formed items of all headers of this name.
fn items(headers: &HeaderMap, name: HeaderName) -> impl Iterator<Item = Item<'_>> {
    let texts = headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
    texts.flat_map(|text| split(text, ',')).filter_map(Item::parse)
}

/// The trimmed parts of a text, which end at this character unless it is quoted.
fn split(text: &str, end: char) -> impl Iterator<Item = &str> {
    let (mut quoted, mut escaped) = (false, false);
    let ends = move |c: char| {
        let here = c == end && !quoted;
        quoted ^= c == '"' && !escaped;
        escaped = quoted && c == '\\' && !escaped;
        here
    };
    text.split(ends).map(str::trim)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    const PROTOBUF: &str = "application/vnd.google.protobuf; \
                            proto=io.prometheus.client.MetricFamily; encoding=delimited";

    fn headers(name: HeaderName, values: &[&str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes());
            headers.append(name.clone(), value.expect("the test writes header values"));
        }
        headers
    }

    fn check_format(accept: &[&str], expected: Format) {
        assert_eq!(format(&headers(ACCEPT, accept)), expected, "{accept:?}");
    }

    #[test]
    fn scrapers_get_what_they_like_best() {
        let check = check_format;
        // Prometheus 2.42, without native histograms and with them.
        let text = "application/openmetrics-text;version=1.0.0,\
                    application/openmetrics-text;version=0.0.1;q=0.75,\
                    text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        check(&[text], Format::OpenMetrics);
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                      encoding=delimited,application/openmetrics-text;version=1.0.0;q=0.8,\
                      application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
        check(&[native], Format::Protobuf);
        // Prometheus 2.53.
        let text = "application/openmetrics-text;version=1.0.0;q=0.5,\
                    application/openmetrics-text;version=0.0.1;q=0.4,\
                    text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        check(&[text], Format::OpenMetrics);
        // Prometheus 3, without native histograms and with them; before 3.0.1 and after.
        let text = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                    application/openmetrics-text;version=0.0.1;q=0.5,\
                    text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                    text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        check(&[text], Format::OpenMetrics);
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                      encoding=delimited;q=0.6,\
                      application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                      application/openmetrics-text;version=0.0.1;q=0.4,\
                      text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                      text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
        check(&[native], Format::Protobuf);
        let native = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;\
                      encoding=delimited;escaping=allow-utf-8;q=0.5,\
                      application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                      */*;q=0.1";
        check(&[native], Format::Protobuf);
        // Prometheus 3 with `scrape_protocols: [PrometheusText1.0.0, PrometheusText0.0.4]`.
        let text = "text/plain;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                    text/plain;version=0.0.4;q=0.5,*/*;q=0.4";
        check(&[text], Format::PrometheusText);
        // VictoriaMetrics.
        check(&["text/plain;version=0.0.4;q=1,*/*;q=0.1"], Format::PrometheusText);
    }

    #[test]
    fn the_rules_of_media_ranges_hold() {
        let check = check_format;
        check(&[], Format::PrometheusText);
        check(&[""], Format::PrometheusText);
        check(&["*/*"], Format::PrometheusText);
        check(&["text/*, application/*;q=0.9"], Format::PrometheusText);
        check(&["image/png"], Format::PrometheusText);
        check(&["text/html,application/xhtml+xml,*/*;q=0.8"], Format::PrometheusText);
        check(&["text/plain", "application/openmetrics-text"], Format::PrometheusText);
        check(&["text/plain;q=0.9", "application/openmetrics-text"], Format::OpenMetrics);
        check(&["application/openmetrics-text, text/plain"], Format::OpenMetrics);
        check(&["application/openmetrics-text;version=0.0.1"], Format::PrometheusText);
        check(&["APPLICATION/OpenMetrics-Text ; Version=\"1.0.0\" ; Q=1"], Format::OpenMetrics);
        check(
            &["application/openmetrics-text;x=\"a,b;c\\\"d\",text/plain;q=0"],
            Format::OpenMetrics,
        );
        check(&["application/openmetrics-text;q=0, */*;q=0.5"], Format::PrometheusText);
        check(&["text/plain;q=0, application/openmetrics-text;q=0.001"], Format::OpenMetrics);
        check(&["text/plain;q=0, */*;q=0.1"], Format::OpenMetrics);
        check(&["application/*;q=0.5, text/plain;q=0.4"], Format::OpenMetrics);
        check(&[PROTOBUF], Format::Protobuf);
        check(&["application/vnd.google.protobuf"], Format::Protobuf);
        check(&[&PROTOBUF.replace("delimited", "text")], Format::PrometheusText);
        check(&[&PROTOBUF.replace("MetricFamily", "Other")], Format::PrometheusText);
        check(&["*/*;q=0"], Format::PrometheusText);
        check(&["application/openmetrics-text;q=0, text/plain;q=0"], Format::PrometheusText);
        check(&["text/plain;q=much, application/openmetrics-text;q=2"], Format::PrometheusText);
        check(&["application/openmetrics-text;q=nan"], Format::PrometheusText);
        check(&[";;;,,,=,\"", "application/openmetrics-text"], Format::OpenMetrics);
        check(&["application/openmetrics-text;version=\u{e4}"], Format::PrometheusText);
    }

    #[test]
    fn bodies_are_compressed_for_those_who_like_it() {
        let check = |accepted: &[&str], expected: bool| {
            let wanted = is_gzip_wanted(&headers(ACCEPT_ENCODING, accepted));
            assert_eq!(wanted, expected, "{accepted:?}");
        };
        check(&[], false);
        check(&[""], false);
        check(&["gzip"], true);
        check(&["X-GZIP"], true);
        check(&["deflate", "gzip"], true);
        check(&["gzip, deflate, br, zstd"], true);
        check(&["gzip;q=0.5, identity"], false);
        check(&["gzip;q=0.5, identity;q=0.4"], true);
        check(&["identity"], false);
        check(&["deflate, br"], false);
        check(&["*"], true);
        check(&["*;q=0"], false);
        check(&["gzip;q=0, *"], false);
        check(&["identity;q=0"], true);
        check(&["identity;q=0, gzip;q=0"], false);
        check(&["identity;q=0, *;q=0.1"], true);
        check(&["gzip;q=0"], false);
        check(&["gzip;q=high"], false);
    }

    proptest! {
        /// Nothing a client sends makes it panic, and nothing it adds for others changes anything.
        #[test]
        fn any_header_is_an_answer(
            garbage in proptest::collection::vec("[ -~]{0,40}", 0..4),
            likely in "[a-z*/;,=q0-9. \"\\\\]{0,60}",
        ) {
            let mut values: Vec<&str> = garbage.iter().map(String::as_str).collect();
            values.push(&likely);
            let _ = format(&headers(ACCEPT, &values));
            let _ = is_gzip_wanted(&headers(ACCEPT_ENCODING, &values));
        }

        /// Whatever the weights are, the highest one wins, in any order.
        #[test]
        fn the_highest_weight_wins(weights: [u16; 3], rotation in 0_usize..3) {
            let weights = weights.map(|weight| weight % 1_000);
            let mut ranges: Vec<String> = Format::ALL
                .iter()
                .zip(weights)
                .map(|(format, weight)| format!("{};q=0.{weight:03}", format.content_type()))
                .collect();
            ranges.rotate_left(rotation);
            let found = format(&headers(ACCEPT, &[&ranges.join(",")]));
            let index = Format::ALL.iter().position(|format| *format == found);
            let highest = weights.iter().max().copied();
            prop_assert_eq!(index.map(|index| weights[index]), highest);
        }
    }
}
