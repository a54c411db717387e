//! When a worker asks the kernel about its probes' connections: each at most once a second, evenly
//! spread, a few in a turn, and only while somebody has scraped lately. The time and the number of
//! scrapes flow in, places in the list of connections flow out.

use crate::time::{Mono, NS_PER_SECOND};

/// Whose turn it is.
#[derive(Debug, Default)]
pub(super) struct Sampling {
    connections: usize,
    /// The next one's place.
    next: usize,
    /// Up to when turns were given out.
    given_until: Mono,
    /// Nobody wants to know any more, unless there is a scrape.
    wanted_until: Mono,
    scrapes: u64,
}

impl Sampling {
    /// One connection more.
    pub(super) fn add(&mut self, now: Mono) {
        self.connections += 1;
        if self.connections == 1 {
            self.given_until = now;
            self.wanted_until = now.offset_ns(WANTED_NS);
        }
    }

    /// One connection less.
    pub(super) fn remove(&mut self) {
        self.connections -= 1;
        if self.next >= self.connections {
            self.next = 0;
        }
    }

    /// How many connections to ask about now, at most [`AT_ONCE_MAX`].
    pub(super) fn due(&mut self, now: Mono, scrapes: u64) -> usize {
        if scrapes != self.scrapes {
            self.scrapes = scrapes;
            self.wanted_until = now.offset_ns(WANTED_NS);
        }
        let connections = u64::try_from(self.connections).unwrap_or(u64::MAX);
        if connections == 0 || now > self.wanted_until {
            return 0;
        }
        let elapsed_ns = u64::try_from(now.since_ns(self.given_until)).unwrap_or(0);
        // A thread that slept owes nobody more than one look.
        let due = elapsed_ns.min(NS_PER_SECOND).saturating_mul(connections) / NS_PER_SECOND;
        if due > 0 {
            self.given_until = now;
        }
        usize::try_from(due).unwrap_or(AT_ONCE_MAX).min(AT_ONCE_MAX)
    }

    /// Whether anybody wants to know.
    pub(super) fn is_wanted(&self, now: Mono) -> bool {
        self.connections > 0 && now <= self.wanted_until
    }

    /// The place of the next connection.
    pub(super) fn next(&mut self) -> usize {
        let next = self.next;
        self.next = (next + 1) % self.connections.max(1);
        next
    }
}

/// Connections in one turn of the loop: some µs.
pub(super) const AT_ONCE_MAX: usize = 16;
/// How long a scrape keeps the numbers fresh: longer than two usual scrape intervals.
const WANTED_NS: i64 = 150 * 1_000_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Mono {
        Mono::from_ns(NS_PER_SECOND + ms * 1_000_000)
    }

    fn sampling(connections: usize) -> Sampling {
        let mut sampling = Sampling::default();
        (0..connections).for_each(|_| sampling.add(at(0)));
        sampling
    }

    #[test]
    fn each_connection_has_a_turn_a_second() {
        for connections in [1, 3, 1_000] {
            let mut sampling = sampling(connections);
            let mut turns = vec![0; connections];
            for ms in 1..=10_000 {
                for _ in 0..sampling.due(at(ms), 0) {
                    turns[sampling.next()] += 1;
                }
            }
            let fewest = turns.iter().min().copied();
            assert!(turns.iter().all(|&turns| turns <= 10), "{connections}: {turns:?}");
            assert!(fewest >= Some(9), "{connections}: {fewest:?}");
        }
    }

    #[test]
    fn no_turn_has_many_and_a_sleeper_catches_up_with_nothing() {
        let mut many = sampling(100_000);
        assert_eq!(many.due(at(500), 0), AT_ONCE_MAX);
        assert_eq!(many.due(at(500), 0), 0);
        let mut few = sampling(4);
        assert_eq!(few.due(at(60_000), 0), 4);
        assert_eq!(few.due(at(60_000), 0), 0);
        assert_eq!(sampling(0).due(at(60_000), 0), 0);
    }

    #[test]
    fn the_place_of_a_connection_is_always_one_that_there_is() {
        let mut sampling = sampling(3);
        assert_eq!([sampling.next(), sampling.next()], [0, 1]);
        sampling.remove();
        assert_eq!([sampling.next(), sampling.next(), sampling.next()], [0, 1, 0]);
        sampling.remove();
        sampling.remove();
        assert_eq!(sampling.due(at(60_000), 0), 0);
        sampling.add(at(60_000));
        assert_eq!((sampling.due(at(61_000), 0), sampling.next()), (1, 0));
    }

    #[test]
    fn without_a_scrape_it_ends_and_with_one_it_begins_again() {
        let mut sampling = sampling(1);
        assert_eq!(sampling.due(at(149_000), 0), 1);
        assert_eq!(sampling.due(at(151_000), 0), 0);
        assert_eq!(sampling.due(at(200_000), 1), 1);
        assert_eq!(sampling.due(at(349_000), 1), 1);
        assert_eq!(sampling.due(at(351_000), 1), 0);
    }
}
