//! The last failures of one target, as spells: the same failure again and again is one line with a
//! count, or a target that is down would push everything else out within seconds.

use std::sync::OnceLock;

use super::super::published::Published;
use super::words;
use crate::time::Wall;

/// The same failure, once or often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failures {
    /// When the first of them was due.
    pub first: Wall,
    /// When the last of them was due.
    pub last: Wall,
    /// How they ended.
    pub outcome: &'static str,
    /// What the system said, where `outcome` does not say it all.
    pub errno: Option<i32>,
    /// How many they are.
    pub count: u64,
}

/// The last spells; takes its memory with the first failure.
#[derive(Debug, Default)]
pub(super) struct FailureLog(OnceLock<Box<Published<WORDS>>>);

impl FailureLog {
    /// Remembers a failure. Only one thread may call this.
    pub(super) fn record(&self, due: Wall, end: u8, errno: Option<i32>) {
        let published = self.0.get_or_init(Box::default);
        // Nobody else writes, so this is what was written last.
        let mut words = published.read();
        let what = pack(end, errno);
        let due_ns = due.as_ns();
        let newest = &mut words[..SPELL_WORDS];
        let again = newest[COUNT] > 0
            && newest[WHAT] == what
            && due_ns.saturating_sub(newest[LAST]) <= GAP_NS_MAX;
        if again {
            newest[LAST] = newest[LAST].max(due_ns);
            newest[COUNT] += 1;
        } else {
            words.copy_within(..WORDS - SPELL_WORDS, SPELL_WORDS);
            words[FIRST] = due_ns;
            words[LAST] = due_ns;
            words[WHAT] = what;
            words[COUNT] = 1;
        }
        published.publish(words);
    }

    /// The spells, newest first.
    pub(super) fn read(&self) -> Vec<Failures> {
        let Some(published) = self.0.get() else { return Vec::new() };
        let words = published.read();
        let spells = words.chunks_exact(SPELL_WORDS).filter(|spell| spell[COUNT] > 0);
        let spells = spells.map(|spell| {
            let (outcome, errno) = unpack(spell[WHAT]);
            let (first, last) = (Wall::from_ns(spell[FIRST]), Wall::from_ns(spell[LAST]));
            Failures { first, last, outcome, errno, count: spell[COUNT] }
        });
        spells.collect()
    }
}

fn pack(end: u8, errno: Option<i32>) -> u64 {
    let said = errno.map_or(0, |errno| u64::from(errno.cast_unsigned()) << 32 | HAS_ERRNO);
    said | u64::from(end)
}

fn unpack(what: u64) -> (&'static str, Option<i32>) {
    let [end, ..] = what.to_le_bytes();
    let errno = u32::try_from(what >> 32).ok().filter(|_| what & HAS_ERRNO != 0);
    (words::end(end), errno.map(u32::cast_signed))
}

/// Spells that are remembered.
const SPELLS_MAX: usize = 8;
/// The words of a spell, in this order.
const FIRST: usize = 0;
const LAST: usize = 1;
const WHAT: usize = 2;
const COUNT: usize = 3;
const SPELL_WORDS: usize = 4;
const WORDS: usize = SPELLS_MAX * SPELL_WORDS;
const HAS_ERRNO: u64 = 1 << 8;
/// The same failure after a longer pause is news.
const GAP_NS_MAX: u64 = 10_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Failure;
    use crate::sample::Outcome;

    const SECOND: u64 = 1_000_000_000;

    /// Failures at these seconds, as spells of (outcome, errno, count), newest first.
    fn check(failures: &[(u64, Outcome)], expected: &[(&str, Option<i32>, u64)]) {
        let log = FailureLog::default();
        for (seconds, outcome) in failures {
            let errno = match outcome {
                Outcome::Lost(failure) => words::errno(*failure),
                _ => None,
            };
            log.record(Wall::from_ns(seconds * SECOND), words::of_outcome(*outcome), errno);
        }
        let spells = log.read();
        let told: Vec<_> = spells.iter().map(|it| (it.outcome, it.errno, it.count)).collect();
        assert_eq!(told, expected);
        assert!(spells.iter().all(|spell| spell.first <= spell.last));
    }

    #[test]
    fn the_same_again_is_one_spell() {
        let refused = Outcome::Lost(Failure::Refused);
        check(&[], &[]);
        check(&[(1, refused), (2, refused), (9, refused)], &[("refused", None, 3)]);
        check(&[(1, refused), (12, refused)], &[("refused", None, 1), ("refused", None, 1)]);
        check(
            &[(1, refused), (2, Outcome::Timeout), (3, refused)],
            &[("refused", None, 1), ("timeout", None, 1), ("refused", None, 1)],
        );
        check(
            &[(1, Outcome::Lost(Failure::Local(24))), (2, Outcome::Lost(Failure::Other(-7)))],
            &[("error", Some(-7), 1), ("local_error", Some(24), 1)],
        );
        // A probe that finishes late was due early.
        check(&[(5, Outcome::Timeout), (3, Outcome::Timeout)], &[("timeout", None, 2)]);
    }

    #[test]
    fn only_the_last_spells_are_remembered() {
        let log = FailureLog::default();
        for number in 0..20 {
            log.record(Wall::from_ns(number * 100 * SECOND), 2, None);
        }
        let spells = log.read();
        assert_eq!(spells.len(), SPELLS_MAX);
        assert_eq!(spells[0].first, Wall::from_ns(1_900 * SECOND));
    }
}
