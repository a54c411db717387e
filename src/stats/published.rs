//! A set of numbers that one thread writes and others read as a set, without a lock: what makes
//! counters reconcile at every scrape.

use std::sync::atomic::{AtomicU64, Ordering, fence};

/// `N` words that one thread writes as a set and others read as a set: a seqlock.
#[derive(Debug)]
pub(super) struct Published<const N: usize> {
    /// Odd while the words are being written.
    sequence: AtomicU64,
    words: [AtomicU64; N],
}

impl<const N: usize> Default for Published<N> {
    fn default() -> Self {
        Self { sequence: AtomicU64::new(0), words: [const { AtomicU64::new(0) }; N] }
    }
}

impl<const N: usize> Published<N> {
    /// Replaces all words. Only one thread may call this.
    pub(super) fn publish(&self, words: [u64; N]) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.sequence.store(sequence.wrapping_add(1), Ordering::Relaxed);
        // Orders the odd number before the words: a reader that sees one of the new words, and
        // then passes its own fence, sees at least the odd number.
        fence(Ordering::Release);
        for (cell, word) in self.words.iter().zip(words) {
            cell.store(word, Ordering::Relaxed);
        }
        // Release orders the words before the even number.
        self.sequence.store(sequence.wrapping_add(2), Ordering::Release);
    }

    /// The words of one [`Self::publish`]. Waits while one is under way, a few ns, or until the
    /// scheduler lets the writer go on.
    #[must_use]
    pub(super) fn read(&self) -> [u64; N] {
        let mut attempts = 0_u32;
        loop {
            // Acquire: the words read below are not older than this number.
            let before = self.sequence.load(Ordering::Acquire);
            let words = std::array::from_fn(|word| self.words[word].load(Ordering::Relaxed));
            // Orders the words before the second look at the number; see the writer's fence.
            fence(Ordering::Acquire);
            let after = self.sequence.load(Ordering::Relaxed);
            if before == after && before.is_multiple_of(2) {
                return words;
            }
            attempts += 1;
            if attempts.is_multiple_of(SPINS_MAX) {
                std::thread::yield_now();
            } else {
                std::hint::spin_loop();
            }
        }
    }
}

/// Looks at a seqlock before the reader offers its CPU to a writer that may be waiting for it.
const SPINS_MAX: u32 = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readers_see_whole_sets_only() {
        let published = Published::<8>::default();
        let sets_seen = AtomicU64::new(0);
        let mut value = 0_u64;
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = 0;
                while sets_seen.load(Ordering::Relaxed) < 200 {
                    let words = published.read();
                    assert!(words.iter().all(|word| *word == words[0]), "{words:?}");
                    assert!(words[0] >= last, "went back from {last} to {}", words[0]);
                    if words[0] > last {
                        sets_seen.fetch_add(1, Ordering::Relaxed);
                    }
                    last = words[0];
                }
            });
            while !reader.is_finished() {
                value += 1;
                published.publish([value; 8]);
                // As in a worker, there is time between two publications.
                (0..100).for_each(|_| std::hint::spin_loop());
            }
        });
        assert_eq!(published.read(), [value; 8]);
    }
}
