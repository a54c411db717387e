//! The word that somebody meant: a misspelt flag, command or key in, the nearest known one out.

/// The candidate that a misspelt word most likely means.
#[must_use]
pub fn nearest<'a>(word: &str, candidates: &[&'a str]) -> Option<&'a str> {
    let distances = candidates.iter().map(|candidate| (edits(word, candidate), *candidate));
    let (distance, candidate) = distances.min()?;
    // Beyond a third of its letters a word is another word, not a slip.
    (distance <= candidate.len().div_ceil(3)).then_some(candidate)
}

/// How many letters to insert, delete or replace to get from one word to the other (Levenshtein).
fn edits(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    // Nothing that long is a slip; the bound keeps the work small for any input.
    for (line, letter) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = line + 1;
        for (column, other) in to.iter().enumerate() {
            let replaced = diagonal + usize::from(letter != *other);
            diagonal = row[column + 1];
            row[column + 1] = replaced.min(row[column] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_find_their_word_and_other_words_do_not() {
        let words = ["interval", "timeout", "target", "targets"];
        for (word, expected) in [
            ("intervall", Some("interval")),
            ("intreval", Some("interval")),
            ("tiemout", Some("timeout")),
            ("target", Some("target")),
            ("targetss", Some("targets")),
            ("port", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, &words), expected, "{word}");
        }
    }
}
