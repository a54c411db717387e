//! How often the same thing may be said. Lines and the time flow in, lines to write flow out: the
//! first few of a kind about a target at once, then one in [`EVERY`], with the number of those that
//! it stands for. What was held back last is written when its turn comes, so that the log always
//! ends with how things are, not with how they were when the flapping began.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::time::Duration;

use crate::time::{Mono, duration_ns};

/// What a line is about: lines of one kind about one subject count together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Topic {
    /// Which line of the source it comes from.
    pub(super) kind: &'static str,
    /// The target, listener, host or capability; empty if it is about the program.
    pub(super) subject: String,
}

/// A line to write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Told {
    /// As it was handed over.
    pub(super) line: Vec<u8>,
    /// How many like it were left out since the one before.
    pub(super) more: u64,
}

/// The lines of a moment ago.
#[derive(Debug, Default)]
pub(super) struct Limiter {
    topics: HashMap<Topic, Bucket>,
    /// When the held line of a topic is written; one entry for each held line.
    due: BinaryHeap<Reverse<(Mono, Topic)>>,
    /// Topics are not searched for idle ones before this.
    search_after: Mono,
}

/// A topic's right to be heard.
#[derive(Debug)]
struct Bucket {
    /// Lines that may be written at once.
    left: u32,
    /// When [`Self::left`] was right.
    at: Mono,
    held: Option<Told>,
}

impl Limiter {
    /// The line, if it may be written now; else it is held in place of the one held before.
    /// [`Self::release`] comes first.
    pub(super) fn admit(&mut self, mut topic: Topic, line: Vec<u8>, now: Mono) -> Option<Vec<u8>> {
        if !self.topics.contains_key(&topic) && !self.has_room(now) {
            // All topics beyond the limit share one for each kind, and those are few.
            topic.subject.clear();
        }
        let bucket =
            self.topics.entry(topic.clone()).or_insert(Bucket { left: BURST, at: now, held: None });
        bucket.refill(now);
        if let Some(held) = &mut bucket.held {
            *held = Told { line, more: held.more + 1 };
            return None;
        }
        if bucket.left == 0 {
            bucket.held = Some(Told { line, more: 0 });
            self.due.push(Reverse((bucket.at.after(EVERY), topic)));
            return None;
        }
        bucket.left -= 1;
        Some(line)
    }

    /// When the next held line is due.
    pub(super) fn next_due(&self) -> Option<Mono> {
        self.due.peek().map(|Reverse((at, _))| *at)
    }

    /// The next held line whose turn has come.
    pub(super) fn release(&mut self, now: Mono) -> Option<Told> {
        if self.next_due().is_none_or(|at| at > now) {
            return None;
        }
        let Reverse((_, topic)) = self.due.pop()?;
        let bucket = self.topics.get_mut(&topic)?;
        bucket.refill(now);
        bucket.left = bucket.left.saturating_sub(1);
        bucket.held.take()
    }

    /// The next held line, whether its turn has come or not: the end is near.
    pub(super) fn release_early(&mut self) -> Option<Told> {
        let Reverse((_, topic)) = self.due.pop()?;
        self.topics.get_mut(&topic)?.held.take()
    }

    /// Whether one more topic may be remembered; forgets idle ones if need be.
    fn has_room(&mut self, now: Mono) -> bool {
        if self.topics.len() >= TOPICS_MAX && now >= self.search_after {
            self.search_after = now.after(EVERY);
            self.topics.retain(|_, bucket| {
                bucket.refill(now);
                bucket.left < BURST || bucket.held.is_some()
            });
        }
        self.topics.len() < TOPICS_MAX
    }
}

impl Bucket {
    fn refill(&mut self, now: Mono) {
        let every_ns = duration_ns(EVERY);
        let turns = duration_ns(now.duration_since(self.at)) / every_ns;
        self.left = u32::try_from(turns).unwrap_or(BURST).saturating_add(self.left).min(BURST);
        self.at = if self.left == BURST {
            now
        } else {
            self.at.after(Duration::from_nanos(turns * every_ns))
        };
    }
}

/// Lines of one topic that are written at once.
pub(super) const BURST: u32 = 5;
/// Between two more.
pub(super) const EVERY: Duration = Duration::from_secs(10);
/// Topics that are told apart: about 2 MB.
pub(super) const TOPICS_MAX: usize = 8_192;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A limiter, its clock, and what it has written.
    #[derive(Default)]
    struct Log {
        limiter: Limiter,
        now: Mono,
        written: Vec<String>,
    }

    impl Log {
        fn say(&mut self, subject: &str, text: &str) {
            self.pass(Duration::ZERO);
            let topic = Topic { kind: "kind", subject: subject.to_owned() };
            if let Some(line) = self.limiter.admit(topic, text.into(), self.now) {
                self.written.push(String::from_utf8_lossy(&line).into_owned());
            }
        }

        fn pass(&mut self, time: Duration) {
            self.now = self.now.after(time);
            while let Some(told) = self.limiter.release(self.now) {
                self.note(&told);
            }
        }

        fn end(&mut self) {
            while let Some(told) = self.limiter.release_early() {
                self.note(&told);
            }
        }

        fn note(&mut self, Told { line, more }: &Told) {
            self.written.push(format!("{}+{more}", String::from_utf8_lossy(line)));
        }

        fn check(&mut self, expected: &[&str]) {
            assert_eq!(self.written, expected);
            self.written.clear();
        }
    }

    #[test]
    fn what_flaps_is_told_at_first_and_then_now_and_then() {
        let mut log = Log::default();
        for number in 0..43 {
            log.say("db", &number.to_string());
        }
        log.check(&["0", "1", "2", "3", "4"]);
        log.pass(EVERY - Duration::from_nanos(1));
        log.check(&[]);
        // The newest of 38, and how many it stands for.
        log.pass(Duration::from_nanos(1));
        log.check(&["42+37"]);
        log.pass(EVERY);
        log.check(&[]);
        log.say("db", "on time");
        log.say("db", "too soon");
        log.check(&["on time"]);
        log.pass(EVERY);
        log.check(&["too soon+0"]);
    }

    #[test]
    fn who_was_silent_may_speak_again() {
        let mut log = Log::default();
        for number in 0..7 {
            log.say("db", &number.to_string());
        }
        log.pass(EVERY);
        log.pass(EVERY * BURST);
        log.written.clear();
        for number in 0..7 {
            log.say("db", &number.to_string());
        }
        log.check(&["0", "1", "2", "3", "4"]);
    }

    #[test]
    fn targets_do_not_silence_each_other() {
        let mut log = Log::default();
        for _ in 0..20 {
            log.say("db", "flap");
        }
        log.written.clear();
        log.say("web", "hello");
        log.check(&["hello"]);
    }

    #[test]
    fn at_the_end_everything_held_is_told() {
        let mut log = Log::default();
        for number in 0..8 {
            log.say("db", &number.to_string());
            log.say("web", &number.to_string());
        }
        log.written.clear();
        log.end();
        log.check(&["7+2", "7+2"]);
        log.end();
        log.check(&[]);
    }

    #[test]
    fn memory_is_bounded_and_idle_topics_make_room() {
        let mut log = Log::default();
        for number in 0..2 * TOPICS_MAX {
            log.say(&number.to_string(), "once");
        }
        assert_eq!(log.limiter.topics.len(), TOPICS_MAX + 1);
        // Those beyond the limit had one topic together.
        assert_eq!(log.written.len(), TOPICS_MAX + usize::try_from(BURST).expect("small"));
        log.pass(EVERY * (BURST + 1));
        log.written.clear();
        log.say("late", "once");
        log.check(&["once"]);
        assert!(log.limiter.topics.len() < 10, "{}", log.limiter.topics.len());
    }

    proptest! {
        #[test]
        fn every_line_is_written_or_counted(
            steps in prop::collection::vec((0_u8..4, 0_u64..15_000), 0..200),
        ) {
            let mut log = Log::default();
            for (subject, pause_ms) in &steps {
                log.say(&subject.to_string(), "x");
                log.pass(Duration::from_millis(pause_ms / 5));
            }
            log.end();
            let stands_for = |line: &String| {
                line.strip_prefix("x+").map_or(1, |more| more.parse::<usize>().expect("number") + 1)
            };
            prop_assert_eq!(log.written.iter().map(stands_for).sum::<usize>(), steps.len());
            let passed_ns = log.now.as_ns();
            let turns = usize::try_from(passed_ns / duration_ns(EVERY)).expect("small");
            // Four subjects, each with a burst, its turns, and its last word.
            prop_assert!(log.written.len() <= 4 * (5 + turns + 1));
        }
    }
}
