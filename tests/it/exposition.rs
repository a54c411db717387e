//! OpenMetrics text into numbers: samples with name, labels and value, and sums over those that
//! carry given labels. It refuses what a Prometheus server would refuse, as far as tests need it.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::{self, Display, Formatter};

/// One scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Exposition {
    /// Every sample in order.
    pub(crate) samples: Vec<Sample>,
    /// Type of each family, by its name.
    pub(crate) types: BTreeMap<String, String>,
}

/// One line of a scrape.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

impl Exposition {
    /// Parses a whole scrape; panics on what is no OpenMetrics text.
    pub(crate) fn parse(text: &str) -> Self {
        assert!(text.ends_with("# EOF\n"), "a scrape ends with `# EOF` and a newline:\n{text}");
        let mut exposition = Self::default();
        let mut seen = BTreeSet::new();
        for line in text.lines() {
            if let Some(comment) = line.strip_prefix("# ") {
                if let Some((name, kind)) =
                    comment.strip_prefix("TYPE ").and_then(|rest| rest.split_once(' '))
                {
                    let before = exposition.types.insert(name.to_owned(), kind.to_owned());
                    assert_eq!(before, None, "family {name} appears twice");
                }
                continue;
            }
            let sample = Sample::parse(line);
            let identity = (sample.name.clone(), sample.labels.clone());
            assert!(seen.insert(identity), "sample appears twice: {line}");
            exposition.samples.push(sample);
        }
        exposition
    }

    /// Samples of this name that carry all of these labels.
    pub(crate) fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.samples.iter().filter(move |sample| {
            sample.name == name
                && labels
                    .iter()
                    .all(|(key, value)| sample.labels.get(*key).is_some_and(|v| v == value))
        })
    }

    /// Whether there is any sample of this name with these labels.
    pub(crate) fn has(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        self.select(name, labels).next().is_some()
    }

    /// The sum over the samples of this name with these labels; there must be one.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        assert!(self.has(name, labels), "no {name} {labels:?} in\n{self}");
        self.select(name, labels).map(|sample| sample.value).sum()
    }

    /// The value of the only sample of this name with these labels.
    pub(crate) fn one(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let found: Vec<_> = self.select(name, labels).collect();
        assert_eq!(found.len(), 1, "one {name} {labels:?} in\n{self}");
        found[0].value
    }

    /// A sum that counts things.
    pub(crate) fn count(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let sum = self.sum(name, labels);
        assert!(sum >= 0.0 && sum.fract() == 0.0 && sum < 9e15, "{name} is {sum}");
        format!("{sum:.0}").parse().unwrap()
    }

    /// Cumulative buckets of a classic histogram, by upper bound: `(bound, count)`.
    pub(crate) fn buckets(&self, family: &str, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let name = format!("{family}_bucket");
        let mut buckets: Vec<(f64, f64)> = Vec::new();
        for sample in self.select(&name, labels) {
            let bound = parse_number(&sample.labels["le"]);
            match buckets.iter_mut().find(|(found, _)| *found == bound) {
                Some((_, count)) => *count += sample.value,
                None => buckets.push((bound, sample.value)),
            }
        }
        buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
        buckets
    }
}

impl Display for Exposition {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        for sample in &self.samples {
            if !sample.labels.contains_key("le") {
                writeln!(formatter, "{} {:?} {}", sample.name, sample.labels, sample.value)?;
            }
        }
        Ok(())
    }
}

impl Sample {
    fn parse(line: &str) -> Self {
        let name_end = line.find(['{', ' ']).unwrap_or_else(|| panic!("no value: {line}"));
        let (name, rest) = line.split_at(name_end);
        let legal = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
        assert!(!name.is_empty() && name.chars().all(legal), "bad name: {line}");
        let (labels, rest) = match rest.strip_prefix('{') {
            Some(rest) => parse_labels(rest),
            None => (BTreeMap::new(), rest),
        };
        let value = rest.trim_start().split(' ').next().unwrap();
        Self { name: name.to_owned(), labels, value: parse_number(value) }
    }
}

/// Labels up to the closing brace, and what follows it.
fn parse_labels(mut rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut labels = BTreeMap::new();
    loop {
        rest = rest.trim_start_matches(',');
        if let Some(after) = rest.strip_prefix('}') {
            return (labels, after);
        }
        let (key, after) = rest.split_once("=\"").unwrap_or_else(|| panic!("bad label: {rest}"));
        let (value, after) = parse_quoted(after);
        assert_eq!(labels.insert(key.to_owned(), value), None, "label {key} appears twice");
        rest = after;
    }
}

/// A value up to its closing quote, unescaped, and what follows it.
fn parse_quoted(text: &str) -> (String, &str) {
    let mut value = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &text[at + 1..]),
            '\\' => match chars.next().unwrap().1 {
                'n' => value.push('\n'),
                escaped => value.push(escaped),
            },
            c => value.push(c),
        }
    }
    panic!("no closing quote: {text}")
}

fn parse_number(text: &str) -> f64 {
    text.parse().unwrap_or_else(|_| panic!("no number: {text}"))
}
