//! Several connections to one target. Routers that spread flows over paths of equal cost (ECMP)
//! choose by ports, so each connection may take another path. One probe's settings in, those of
//! each connection out; their counters in, the target's out.

use std::cell::Cell;
use std::num::NonZeroU8;
use std::rc::Rc;

use crate::probe::ProbeSettings;
use crate::sample::{ProbeCounters, Sample};

/// What the connections of one target have counted. They are all of one thread.
#[derive(Debug)]
pub(super) struct Paths {
    each: Box<[Cell<ProbeCounters>]>,
    /// The newest reply's round trip.
    last_rtt_ns: Cell<u64>,
}

/// One of them.
#[derive(Clone, Debug)]
pub(super) struct Path {
    paths: Rc<Paths>,
    number: usize,
}

/// The connections take turns: each is probed once in as many intervals as there are of them.
pub(super) fn split(settings: &ProbeSettings, count: NonZeroU8) -> Vec<(ProbeSettings, Path)> {
    let each = (0..count.get()).map(|_| Cell::default()).collect();
    let paths = Rc::new(Paths { each, last_rtt_ns: Cell::new(0) });
    let paths_of = (0..u64::from(count.get())).zip(0..);
    let path = |(turn, number): (u64, usize)| {
        let count = u64::from(count.get());
        let settings = ProbeSettings {
            interval_ns: settings.interval_ns.saturating_mul(count),
            phase_ns: settings.phase_ns.saturating_add(turn.saturating_mul(settings.interval_ns)),
            window: settings.window.div_ceil(paths.each.len()),
            ..settings.clone()
        };
        (settings, Path { paths: Rc::clone(&paths), number })
    };
    paths_of.map(path).collect()
}

impl Path {
    /// The target's counters when these are the path's.
    pub(super) fn joined(&self, counters: &ProbeCounters) -> ProbeCounters {
        let Paths { each, last_rtt_ns } = &*self.paths;
        if each.len() == 1 {
            return *counters;
        }
        let before = each[self.number].replace(*counters);
        if counters.received > before.received || counters.last_rtt_ns != before.last_rtt_ns {
            last_rtt_ns.set(counters.last_rtt_ns);
        }
        let all = each.iter().map(Cell::get).reduce(sum).unwrap_or(*counters);
        ProbeCounters { last_rtt_ns: last_rtt_ns.get(), ..all }
    }

    /// The same sample, with a number that no other path gives.
    pub(super) fn numbered(&self, sample: &Sample) -> Sample {
        let as_u64 = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
        let (count, number) = (as_u64(self.paths.each.len()), as_u64(self.number));
        // From 1, as each path's own.
        let seq = sample.seq.saturating_sub(1).wrapping_mul(count).wrapping_add(number + 1);
        Sample { seq, ..*sample }
    }
}

/// What two paths count together; of what is no count, the worse.
fn sum(one: ProbeCounters, other: ProbeCounters) -> ProbeCounters {
    let (ours, theirs) = (one.to_words(), other.to_words());
    let words = std::array::from_fn(|word| ours[word].wrapping_add(theirs[word]));
    ProbeCounters {
        connected: one.connected.min(other.connected),
        rtt_ns_max: one.rtt_ns_max.max(other.rtt_ns_max),
        timeout_ns: one.timeout_ns.max(other.timeout_ns),
        wire_version: one.wire_version.min(other.wire_version),
        ..ProbeCounters::from_words(words)
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;
    use crate::probe::Wire;
    use crate::sample::{Outcome, Stamps};

    fn settings() -> ProbeSettings {
        ProbeSettings {
            interval_ns: 1_000,
            phase_ns: 300,
            timeout_ns: 5_000,
            adaptive: false,
            window: 10,
            count: None,
            stop_at: None,
            wire: Wire::Auto,
            padding_bytes: 0,
            stamps_wanted: false,
            resolve_interval_ns: None,
            in_flight_max: 9,
            addresses: Vec::new(),
        }
    }

    #[test]
    fn paths_take_turns_at_the_rate_of_one() {
        let check = |count: u8, expected: &[(u64, u64, usize)]| {
            let split = split(&settings(), NonZeroU8::new(count).unwrap());
            let found: Vec<_> =
                split.iter().map(|(it, _)| (it.interval_ns, it.phase_ns, it.window)).collect();
            assert_eq!(found, expected);
        };
        check(1, &[(1_000, 300, 10)]);
        check(3, &[(3_000, 300, 4), (3_000, 1_300, 4), (3_000, 2_300, 4)]);
    }

    #[test]
    fn counters_are_summed_and_still_reconcile() {
        let split = split(&settings(), NonZeroU8::new(2).unwrap());
        let counters = |sent, received, timeouts, last_rtt_ns| ProbeCounters {
            sent,
            received,
            timeouts,
            in_flight: sent - received - timeouts,
            connected: 1,
            last_rtt_ns,
            rtt_ns_max: last_rtt_ns,
            timeout_ns: 70,
            wire_version: 3,
            ..ProbeCounters::default()
        };
        let [one, other] = [&split[0].1, &split[1].1];
        let all = one.joined(&counters(10, 8, 1, 50));
        assert_eq!((all.sent, all.connected, all.wire_version), (10, 0, 0), "one of two is down");
        let all = other.joined(&counters(5, 2, 0, 90));
        assert_eq!((all.sent, all.received, all.timeouts, all.in_flight), (15, 10, 1, 4));
        assert_eq!((all.connected, all.wire_version, all.timeout_ns), (1, 3, 70));
        assert_eq!((all.last_rtt_ns, all.rtt_ns_max), (90, 90));
        // Nothing new here: the newest reply is still the other one's.
        assert_eq!(one.joined(&counters(11, 8, 2, 50)).last_rtt_ns, 90);
        assert_eq!(one.joined(&counters(12, 9, 2, 50)).last_rtt_ns, 50);
    }

    #[test]
    fn numbers_of_paths_do_not_meet() {
        let split = split(&settings(), NonZeroU8::new(3).unwrap());
        let sample = |seq| Sample::lost(seq, Outcome::Timeout, Stamps::default(), true);
        let mut numbers: Vec<u64> = (1..5)
            .flat_map(|seq| split.iter().map(move |(_, path)| path.numbered(&sample(seq)).seq))
            .collect();
        numbers.sort_unstable();
        assert!(numbers.into_iter().eq(1..13));
    }
}
