//! The newest records of one target: one writer, many readers, no lock. A reader copies what is
//! there and keeps what was not overwritten meanwhile.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use super::{Record, words};
use crate::sample::Stage;
use crate::time::Wall;

/// A ring of records, which takes its memory with the first one.
#[derive(Debug)]
pub(super) struct Ring {
    places: OnceLock<Box<[Place]>>,
    /// Records that can be read. There is one place more: the one that is being written.
    records_max: usize,
    /// Records ever written.
    written: AtomicU64,
}

/// One record, packed; see [`Entry::pack`].
type Place = [AtomicU64; WORDS];

/// One finished probe as it is remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) due: Wall,
    /// A place among the ends of [`words`].
    pub(super) end: u8,
    /// A place among the clocks of [`words`].
    pub(super) clock: u8,
    pub(super) is_check: bool,
    pub(super) rtt_ns: Option<u64>,
    pub(super) lag_ns: Option<u64>,
    /// Of a check: handed over until the outcome was known.
    pub(super) send_ns: Option<u64>,
    pub(super) network_ns: Option<u64>,
    pub(super) peer_ns: Option<u64>,
    pub(super) wakeup_ns: Option<u64>,
}

impl Ring {
    pub(super) fn new(records_max: usize) -> Self {
        Self {
            places: OnceLock::new(),
            records_max: records_max.max(1),
            written: AtomicU64::new(0),
        }
    }

    /// How many records it can hold.
    pub(super) const fn records_max(&self) -> usize {
        self.records_max
    }

    /// Records ever written.
    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    /// Adds a record; the oldest one goes. Only one thread may call this.
    pub(super) fn push(&self, entry: &Entry) {
        let places = self.places.get_or_init(|| {
            (0..=self.records_max).map(|_| [const { AtomicU64::new(0) }; WORDS]).collect()
        });
        let number = self.written.load(Ordering::Relaxed);
        let Some(place) = places.get(place_of(number, places.len())) else { return };
        // Orders the count that this thread stored last before the words: a reader that sees one
        // of them, and then passes its own fence, sees at least that count, and drops the record
        // that is being overwritten.
        fence(Ordering::Release);
        for (cell, word) in place.iter().zip(entry.pack()) {
            cell.store(word, Ordering::Relaxed);
        }
        // Release orders the words before the count that promises them.
        self.written.store(number + 1, Ordering::Release);
    }

    /// Those after the first `seen` ones that are still there, oldest first, and how many were
    /// written by then.
    pub(super) fn since(&self, seen: u64) -> (Vec<Record>, u64) {
        let end = self.written.load(Ordering::Acquire);
        let Some(places) = self.places.get() else { return (Vec::new(), end) };
        let length = u64::try_from(self.records_max).unwrap_or(u64::MAX);
        let start = end.saturating_sub(length).max(seen.min(end));
        let copied: Vec<[u64; WORDS]> = (start..end)
            .filter_map(|number| places.get(place_of(number, places.len())))
            .map(|place| std::array::from_fn(|word| place[word].load(Ordering::Relaxed)))
            .collect();
        // Orders the words before this second look; see the writer's fence.
        fence(Ordering::Acquire);
        let now = self.written.load(Ordering::Relaxed);
        let lost = usize::try_from(now.saturating_sub(length).saturating_sub(start));
        let kept = copied.into_iter().skip(lost.unwrap_or(usize::MAX));
        (kept.map(|words| Entry::unpack(words).record()).collect(), end)
    }
}

/// Where a record lies.
fn place_of(number: u64, places: usize) -> usize {
    let places = u64::try_from(places).unwrap_or(u64::MAX);
    usize::try_from(number % places).unwrap_or(usize::MAX)
}

impl Entry {
    fn pack(&self) -> [u64; WORDS] {
        let clock = self.clock & 0x7f | u8::from(self.is_check) << 7;
        let facts = u64::from_be_bytes([clock, self.end, 0, 0, 0, 0, 0, 0]);
        [
            self.due.as_ns(),
            self.seq & SEQ_MASK | facts,
            pair(self.rtt_ns, self.lag_ns),
            pair(self.send_ns, self.network_ns),
            pair(self.peer_ns, self.wakeup_ns),
        ]
    }

    fn unpack([due, facts, times, more, rest]: [u64; WORDS]) -> Self {
        let [_, _, _, _, _, _, end, clock] = facts.to_le_bytes();
        Self {
            seq: facts & SEQ_MASK,
            due: Wall::from_ns(due),
            end,
            clock: clock & 0x7f,
            is_check: clock & 0x80 != 0,
            rtt_ns: duration(times >> 32),
            lag_ns: duration(times & HALF),
            send_ns: duration(more >> 32),
            network_ns: duration(more & HALF),
            peer_ns: duration(rest >> 32),
            wakeup_ns: duration(rest & HALF),
        }
    }

    fn record(&self) -> Record {
        let good = words::is_good(self.end);
        let Self { lag_ns, send_ns, rtt_ns, network_ns, peer_ns, wakeup_ns, .. } = *self;
        let (elapsed_ns, stages_ns) = if self.is_check {
            (send_ns, [lag_ns, None, None, None, None])
        } else {
            let parts = [lag_ns, send_ns, rtt_ns, wakeup_ns];
            let whole = good.then(|| parts.into_iter().flatten().sum());
            (whole, [lag_ns, send_ns, network_ns, peer_ns, wakeup_ns])
        };
        Record {
            seq: self.seq,
            due: self.due,
            outcome: words::end(self.end),
            good,
            clock: words::clock(self.clock),
            rtt_ns,
            elapsed_ns,
            stages_ns,
        }
    }
}

/// Two durations in a word.
const fn pair(high: Option<u64>, low: Option<u64>) -> u64 {
    half(high) << 32 | half(low)
}

/// A duration in 32 bits: ns below 2^31, else the top bit and units of 1,024 ns, rounded down.
const fn half(ns: Option<u64>) -> u64 {
    match ns {
        None => ABSENT,
        Some(ns) if ns < COARSE => ns,
        Some(ns) if ns >> COARSE_SHIFT < COARSE - 1 => COARSE | ns >> COARSE_SHIFT,
        Some(_) => ABSENT - 1,
    }
}

const fn duration(half: u64) -> Option<u64> {
    match half {
        ABSENT => None,
        ns if ns < COARSE => Some(ns),
        coarse => Some((coarse - COARSE) << COARSE_SHIFT),
    }
}

/// Words of a record.
const WORDS: usize = 5;
/// Bytes of a record.
pub(super) const PLACE_BYTES: usize = 8 * WORDS;
/// One number in 2^48 is enough to find a probe in a log.
const SEQ_MASK: u64 = (1 << 48) - 1;
const HALF: u64 = 0xffff_ffff;
const ABSENT: u64 = HALF;
const COARSE: u64 = 1 << 31;
const COARSE_SHIFT: u32 = 10;

// The order of `stages_ns`.
const _: () = assert!(Stage::Lag as usize == 0 && Stage::Wakeup as usize == 4);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(seq: u64) -> Entry {
        let ns = Some(seq);
        Entry {
            seq,
            due: Wall::from_ns(seq),
            end: 0,
            clock: 2,
            is_check: false,
            rtt_ns: ns,
            lag_ns: ns,
            send_ns: ns,
            network_ns: ns,
            peer_ns: ns,
            wakeup_ns: ns,
        }
    }

    fn seqs(ring: &Ring, seen: u64) -> Vec<u64> {
        ring.since(seen).0.iter().map(|record| record.seq).collect()
    }

    #[test]
    fn the_newest_stay_and_a_reader_goes_on_where_it_was() {
        let ring = Ring::new(3);
        assert_eq!((seqs(&ring, 0), seqs(&ring, 9)), (vec![], vec![]));
        (0..2).for_each(|seq| ring.push(&entry(seq)));
        assert_eq!((seqs(&ring, 0), seqs(&ring, 1)), (vec![0, 1], vec![1]));
        (2..10).for_each(|seq| ring.push(&entry(seq)));
        assert_eq!((seqs(&ring, 0), seqs(&ring, 9)), (vec![7, 8, 9], vec![9]));
        assert_eq!((seqs(&ring, 10), ring.written()), (vec![], 10));
    }

    #[test]
    fn readers_see_whole_records_in_order() {
        let ring = Ring::new(8);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let (mut seen, mut read) = (0, 0);
                while read < 2_000 {
                    let (records, now) = ring.since(seen);
                    for record in &records {
                        let whole = record.stages_ns.iter().all(|ns| *ns == Some(record.seq));
                        assert!(whole && record.due.as_ns() == record.seq, "{record:?}");
                    }
                    assert!(records.is_sorted_by_key(|record| record.seq));
                    read += records.len();
                    seen = now;
                }
            });
            let mut seq = 0;
            while !reader.is_finished() {
                ring.push(&entry(seq));
                seq += 1;
                // As in a worker, there is time between two probes.
                (0..50).for_each(|_| std::hint::spin_loop());
            }
        });
    }

    fn six_times() -> impl Strategy<Value = [Option<u64>; 6]> {
        prop::array::uniform6(prop::option::of(0..COARSE))
    }

    proptest! {
        #[test]
        fn what_was_packed_is_unpacked(seq in 0_u64..1 << 48, due: u32, is_check: bool,
                                       end in 0_u8..12, clock in 0_u8..6, times in six_times()) {
            let [rtt_ns, lag_ns, send_ns, network_ns, peer_ns, wakeup_ns] = times;
            let due = Wall::from_ns(u64::from(due));
            let entry = Entry { seq, due, end, clock, is_check,
                                rtt_ns, lag_ns, send_ns, network_ns, peer_ns, wakeup_ns };
            prop_assert_eq!(Entry::unpack(entry.pack()), entry);
        }

        #[test]
        fn a_long_duration_keeps_its_microseconds(ns in COARSE..1 << 41) {
            let told = duration(half(Some(ns)));
            prop_assert!(told.is_some_and(|told| told <= ns && ns - told < 1 << 10), "{told:?}");
        }
    }

    #[test]
    fn no_duration_is_taken_for_none() {
        assert!(duration(half(Some(u64::MAX))).is_some_and(|ns| ns > 2_000_000_000_000));
        assert_eq!(duration(half(None)), None);
    }
}
