//! What all YAML files of ours have in common: text in, raw structures whose words know their place
//! out, or the mistake with line, column and what was probably meant.

use std::fmt;

use serde::de::DeserializeOwned;
use serde_saphyr::{Budget, Error, Location, Spanned};

use super::nearest::nearest;

/// A scalar and where it stands.
pub(super) type Word = Spanned<String>;

/// What is wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mistake {
    /// From 1; 0 if the place is not known.
    pub(super) line: u64,
    /// From 1.
    pub(super) column: u64,
    /// One line: what is wrong and what to write instead.
    pub(super) why: String,
}

impl Mistake {
    pub(super) fn at(place: Location, why: impl Into<String>) -> Self {
        Self { line: place.line(), column: place.column(), why: why.into() }
    }
}

impl fmt::Display for Mistake {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(out, "{}", self.why),
            line => write!(out, "line {line}, column {}: {}", self.column, self.why),
        }
    }
}

/// Reads a text; `None` if it says nothing. `nodes_max` limits its words, lists and maps.
pub(super) fn parse<T: DeserializeOwned>(
    text: &str,
    nodes_max: usize,
) -> Result<Option<T>, Mistake> {
    let mut budget = Budget::default();
    budget.max_nodes = nodes_max;
    budget.max_events = nodes_max.saturating_mul(4);
    // A snippet of the file in a message could show a key.
    let options = serde_saphyr::options! { with_snippet: false, budget: Some(budget) };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| mistake(&error))
}

fn mistake(error: &Error) -> Mistake {
    let place = error.location().unwrap_or(Location::UNKNOWN);
    let why = match error.without_snippet() {
        Error::SerdeUnknownField { field, expected, .. } => {
            let instead = nearest(field, expected);
            let instead = instead.map_or_else(|| expected.join(", "), str::to_owned);
            format!("there is no key {}; write {instead}", shown(field))
        }
        // The text repeats the place.
        other => other.to_string().lines().next().unwrap_or_default().to_owned(),
    };
    Mistake::at(place, why)
}

/// `word` is none of the `known` values of `what`.
pub(super) fn unknown(what: &str, word: &Word, known: &[&str]) -> Mistake {
    let instead = nearest(&word.value, known).map_or_else(|| known.join(", "), str::to_owned);
    let why = format!("{what}: {} is unknown; write {instead}", shown(&word.value));
    Mistake::at(word.referenced, why)
}

/// Fit for one line.
pub(super) fn shown(text: &str) -> String {
    let short: String = text.chars().take(80).collect();
    let plain = !short.is_empty() && short.chars().all(|c| c.is_ascii_graphic() && c != '"');
    if plain { short } else { format!("{short:?}") }
}
