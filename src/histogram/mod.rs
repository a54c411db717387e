//! A histogram of durations that one thread writes and any thread reads, without locks: ns in,
//! [`HistogramSnapshot`]s out. It holds Prometheus' native buckets (exponential, 2.2 % wide) and
//! classic buckets (1-2-5 steps and the thresholds of objectives, exact) at once.
//!
//! Both kinds are views of one set of cells: a cell is a native bucket, or the part of one that a
//! classic boundary cuts off. A recording increments exactly one cell, so that in every snapshot,
//! at whatever moment it was taken, the counts of both kinds have the same sum.

mod cells;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use self::cells::Cells;
use crate::time::{duration_ns, seconds};

/// Resolution of the native buckets: 2^5 of them an octave, each 2^(1/32) times as wide as the one
/// before it. Bucket `i` covers (2^((i−1)/32), 2^(i/32)] seconds.
pub const SCHEMA: i32 = 5;

/// Upper end of the zero bucket in seconds: 2^−24, 59.6 ns. What is not longer is counted there.
pub const ZERO_THRESHOLD_SECONDS: f64 = 1.0 / 16_777_216.0;

/// Index of the native bucket that holds everything beyond its range, which ends at 2^5 = 32 s.
/// Its nominal upper end is 32.7 s; the longest duration is known exactly all the same.
pub const OVERFLOW_INDEX: i32 = 5 * PER_OCTAVE_I32 + 1;

/// Where the classic buckets end; shared by the histograms of a program, since it never changes.
#[derive(Debug)]
pub struct Boundaries {
    /// Inclusive upper ends, ns, ascending, without duplicates.
    ends_ns: Box<[u64]>,
    /// The native bucket that each of them cuts in two.
    positions: Box<[usize]>,
    /// Which native buckets are cut at all: a bit each, a word an octave.
    cut: [u32; CHUNKS],
}

/// About 280 bytes, and 272 bytes more for every four octaves that were ever hit.
#[derive(Debug)]
pub struct Histogram {
    boundaries: Arc<Boundaries>,
    cells: Cells,
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HistogramSnapshot {
    /// See [`SCHEMA`].
    pub schema: i32,
    /// Native buckets that are not empty, as (index, count), ascending by index.
    pub native: Vec<(i32, u64)>,
    /// Durations not longer than [`ZERO_THRESHOLD_SECONDS`].
    pub zero_count: u64,
    /// Classic buckets as (inclusive upper end in ns, durations not longer than it), ascending.
    /// The bucket without an end is `count`.
    pub classic: Vec<(u64, u64)>,
    /// All durations: the sum of `zero_count` and the native buckets.
    pub count: u64,
    /// Sum of all counted durations. It may already hold one that `count` does not.
    pub sum_ns: u64,
    /// The longest duration, exact; 0 while there is none.
    pub max_ns: u64,
}

impl Boundaries {
    /// The 1-2-5 steps from 1 µs to 10 s, and these.
    #[must_use]
    pub fn new(extra_ns: &[u64]) -> Self {
        Self::only(&[&STEPS_NS, extra_ns].concat())
    }

    /// These, in any order.
    #[must_use]
    pub fn only(ends_ns: &[u64]) -> Self {
        let mut ends_ns = ends_ns.to_vec();
        ends_ns.sort_unstable();
        ends_ns.dedup();
        let positions: Box<[usize]> = ends_ns.iter().map(|&ns| position_of(ns)).collect();
        let mut cut = [0; CHUNKS];
        for position in &positions {
            cut[position / PER_OCTAVE] |= 1 << (position % PER_OCTAVE);
        }
        Self { ends_ns: ends_ns.into(), positions, cut }
    }

    /// Which boundary's cell counts `ns`, if not its native bucket's own.
    fn split_of(&self, position: usize, ns: u64) -> Option<usize> {
        if self.cut[position / PER_OCTAVE] & (1 << (position % PER_OCTAVE)) == 0 {
            return None;
        }
        let above = self.ends_ns.partition_point(|&end_ns| end_ns < ns);
        (self.positions.get(above) == Some(&position)).then_some(above)
    }
}

impl Histogram {
    /// An empty histogram.
    #[must_use]
    pub fn new(boundaries: Arc<Boundaries>) -> Self {
        Self {
            cells: Cells::new(boundaries.ends_ns.len()),
            boundaries,
            sum_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
        }
    }

    /// Counts one duration. Only one thread may call this; a second writer would lose counts.
    ///
    /// Allocates when an octave is hit for the first time (every fourth time of those), and when
    /// the first cell of an octave reaches 2^16; see [`Self::allocations`].
    pub fn record(&self, ns: u64) {
        // Nobody else stores, so a load and a store lose nothing and cost no locked instruction.
        // The cell comes last and with Release: whoever sees the count sees its sum and maximum.
        self.sum_ns.store(self.sum_ns.load(Ordering::Relaxed).wrapping_add(ns), Ordering::Relaxed);
        if ns > self.max_ns.load(Ordering::Relaxed) {
            self.max_ns.store(ns, Ordering::Relaxed);
        }
        let position = position_of(ns);
        match self.boundaries.split_of(position, ns) {
            Some(boundary) => self.cells.count_split(boundary),
            None => self.cells.count(position / PER_OCTAVE, position % PER_OCTAVE),
        }
    }

    /// The state now, consistent in itself: `count` is the sum of the native buckets and the last
    /// classic bucket. Successive snapshots of one reader never go down.
    #[must_use]
    pub fn snapshot(&self) -> HistogramSnapshot {
        let Boundaries { ends_ns, positions, .. } = &*self.boundaries;
        let mut native = Vec::new();
        let mut classic = Vec::with_capacity(ends_ns.len());
        let (mut zero_count, mut count) = (0, 0);
        for octave in 0..CHUNKS {
            let cells = self.cells.octave(octave);
            // The buckets that may hold something, as bits.
            let mut buckets =
                if cells.is_allocated() { u32::MAX } else { self.boundaries.cut[octave] };
            while buckets != 0 {
                let bucket = usize::try_from(buckets.trailing_zeros()).expect("below 32");
                buckets &= buckets - 1;
                let position = octave * PER_OCTAVE + bucket;
                let before = count;
                while positions.get(classic.len()) == Some(&position) {
                    let boundary = classic.len();
                    count += self.cells.split(boundary);
                    classic.push((ends_ns[boundary], count));
                }
                count += cells.count(bucket);
                if position == ZERO_POSITION {
                    zero_count = count - before;
                } else if count > before {
                    native.push((index_at(position), count - before));
                }
            }
        }
        HistogramSnapshot {
            schema: SCHEMA,
            native,
            zero_count,
            classic,
            count,
            sum_ns: self.sum_ns.load(Ordering::Relaxed),
            max_ns: self.max_ns.load(Ordering::Relaxed),
        }
    }

    /// How many allocations recording has made. As long as it stays, nothing was allocated.
    #[must_use]
    pub fn allocations(&self) -> usize {
        self.cells.allocations()
    }
}

impl HistogramSnapshot {
    /// Adds what `other` counted. Classic boundaries that only one of both has are dropped, as
    /// their counts would be too low; so merging commutes and associates.
    pub fn merge(&mut self, other: &Self) {
        let mut native = Vec::with_capacity(self.native.len().max(other.native.len()));
        let mut theirs = other.native.iter().copied().peekable();
        for &(index, count) in &self.native {
            while let Some(lower) = theirs.next_if(|&(their_index, _)| their_index < index) {
                native.push(lower);
            }
            let same = theirs.next_if(|&(their_index, _)| their_index == index);
            native.push((index, count + same.map_or(0, |(_, their_count)| their_count)));
        }
        native.extend(theirs);
        self.native = native;
        self.classic.retain_mut(|(end_ns, count)| {
            let theirs = other.classic_count(*end_ns);
            *count += theirs.unwrap_or(0);
            theirs.is_some()
        });
        self.zero_count += other.zero_count;
        self.count += other.count;
        self.sum_ns = self.sum_ns.wrapping_add(other.sum_ns);
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// Everything that these counted; `None` if there are none.
    pub fn merged<'a>(snapshots: impl IntoIterator<Item = &'a Self>) -> Option<Self> {
        let mut snapshots = snapshots.into_iter();
        let mut merged = snapshots.next()?.clone();
        for other in snapshots {
            merged.merge(other);
        }
        Some(merged)
    }

    /// The duration that a share `q` of all durations does not exceed, in ns; `None` while there
    /// is none. By nearest rank: the exact answer is the ⌈q·count⌉-th shortest duration, and what
    /// is returned lies in the same native bucket, interpolated linearly by rank, so it is off by
    /// less than 2.2 %. The last rank is the exact maximum.
    #[must_use]
    pub fn quantile(&self, q: f64) -> Option<u64> {
        if self.count == 0 {
            return None;
        }
        let rank = rank_of(q, self.count);
        if rank == self.count {
            return Some(self.max_ns);
        }
        let mut below = 0;
        for (index, count) in self.buckets() {
            if rank <= below + count {
                let (first_ns, last_ns) = self.span_ns(index);
                let ns = first_ns + share(last_ns - first_ns, rank - below, count);
                return Some(ns.min(self.max_ns));
            }
            below += count;
        }
        Some(self.max_ns)
    }

    /// How many durations are not longer than `ns`: exact if `ns` is a classic boundary or not
    /// below the maximum, else interpolated linearly inside one native bucket.
    #[must_use]
    pub fn count_at_most(&self, ns: u64) -> u64 {
        if ns >= self.max_ns {
            return self.count;
        }
        if let Some(count) = self.classic_count(ns) {
            return count;
        }
        let index = index_at(position_of(ns));
        let mut below = 0;
        for (bucket, count) in self.buckets() {
            if bucket == index {
                let (first_ns, last_ns) = self.span_ns(index);
                let width = last_ns - first_ns + 1;
                below += share(count, (ns + 1).saturating_sub(first_ns).min(width), width);
            } else if bucket < index {
                below += count;
            }
        }
        below
    }

    /// The mean in ns, rounded down; `None` while there is none.
    #[must_use]
    pub const fn mean_ns(&self) -> Option<u64> {
        self.sum_ns.checked_div(self.count)
    }

    /// The zero bucket and the native ones, ascending.
    fn buckets(&self) -> impl Iterator<Item = (i32, u64)> {
        std::iter::once((ZERO_INDEX, self.zero_count)).chain(self.native.iter().copied())
    }

    /// The shortest and the longest duration that a bucket counts.
    fn span_ns(&self, index: i32) -> (u64, u64) {
        let first_ns = if index == ZERO_INDEX { 0 } else { last_ns(index - 1) + 1 };
        let last_ns = if index == OVERFLOW_INDEX { self.max_ns } else { last_ns(index) };
        (first_ns, last_ns.max(first_ns))
    }

    fn classic_count(&self, end_ns: u64) -> Option<u64> {
        let found = self.classic.binary_search_by_key(&end_ns, |&(ns, _)| ns).ok()?;
        Some(self.classic[found].1)
    }
}

/// The native bucket's place among the cells. Places are numbered so that an octave fills one
/// chunk; what is below or above the range takes the neighbouring place.
///
/// This is where client_golang puts the observation `ns / 1e9`: it compares the float's fraction
/// with a table, too. Its table is up to 1 ulp off the true powers of two that stand here, but no
/// whole number of ns lies in between.
fn position_of(ns: u64) -> usize {
    let bits = seconds(ns).to_bits();
    let mantissa = bits & MANTISSA_MASK;
    let slot = usize::try_from(mantissa >> SLOT_SHIFT).expect("six bits remain");
    let (fraction, steps) = STEPS_IN_SLOT[slot];
    // The sign bit is 0, so this is 32 times the biased exponent, plus the step in the octave.
    let raw = (bits >> MANTISSA_BITS) * 32 + steps + u64::from(mantissa > fraction);
    let position = raw.clamp(RAW_ZERO, RAW_OVERFLOW) - RAW_ZERO;
    usize::try_from(position).expect("at most 929 after clamping") + ZERO_POSITION
}

fn index_at(position: usize) -> i32 {
    i32::try_from(position - ZERO_POSITION).expect("at most 929") + ZERO_INDEX
}

/// The longest duration in ns that is not beyond bucket `index`.
fn last_ns(index: i32) -> u64 {
    let step = usize::try_from(index.rem_euclid(PER_OCTAVE_I32)).expect("a remainder");
    let end_seconds = FRACTIONS[step] * 2.0_f64.powi(index.div_euclid(PER_OCTAVE_I32));
    // Rounded to the nearest ns, so it is the one wanted, or the one after it.
    let ns = duration_ns(Duration::from_secs_f64(end_seconds));
    if index_at(position_of(ns)) > index { ns - 1 } else { ns }
}

/// ⌈whole · part / parts⌉ where `part ≤ parts`.
fn share(whole: u64, part: u64, parts: u64) -> u64 {
    let share = (u128::from(whole) * u128::from(part)).div_ceil(u128::from(parts));
    u64::try_from(share).expect("a share is not more than the whole")
}

/// ⌈q·count⌉, at least 1 and at most `count`.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts beyond 2^53 do not occur, and the result is clamped"
)]
fn rank_of(q: f64, count: u64) -> u64 {
    ((q * count as f64).ceil() as u64).clamp(1, count)
}

/// For each 64th of an octave: the first step that is not below it, and how many are below.
const fn steps_in_slots() -> [(u64, u64); SLOTS] {
    let mut slots = [(u64::MAX, 0); SLOTS];
    let (mut slot, mut slot_start) = (0, 0);
    while slot < SLOTS {
        let (mut step, mut below) = (0, 0);
        while step < PER_OCTAVE && FRACTIONS[step].to_bits() & MANTISSA_MASK < slot_start {
            step += 1;
            below += 1;
        }
        let fraction =
            if step == PER_OCTAVE { u64::MAX } else { FRACTIONS[step].to_bits() & MANTISSA_MASK };
        slots[slot] = (fraction, below);
        slot += 1;
        slot_start += 1 << SLOT_SHIFT;
    }
    slots
}

/// Native buckets of one octave, 2^[`SCHEMA`].
const PER_OCTAVE: usize = 32;
const PER_OCTAVE_I32: i32 = 32;
/// Octaves from 2^−24 s to 2^5 s, and one chunk each for what is below and above.
const CHUNKS: usize = 29 + 2;
/// The zero bucket is the last place of the first chunk.
const ZERO_POSITION: usize = PER_OCTAVE - 1;
const ZERO_INDEX: i32 = -24 * PER_OCTAVE_I32;

const MANTISSA_BITS: u32 = 52;
const MANTISSA_MASK: u64 = (1 << MANTISSA_BITS) - 1;
/// Exponents are stored plus 1023 (IEEE 754).
const RAW_ZERO: u64 = (1023 - 24) * 32;
const RAW_OVERFLOW: u64 = (1023 + 5) * 32 + 1;

/// The steps of an octave are at least 2.2 % of its start apart, more than a 64th: so a slot holds
/// at most one, and one comparison decides.
const SLOTS: usize = 64;
const SLOT_SHIFT: u32 = MANTISSA_BITS - 6;
static STEPS_IN_SLOT: [(u64, u64); SLOTS] = steps_in_slots();

/// 2^(k/32), correctly rounded.
const FRACTIONS: [f64; PER_OCTAVE] = [
    1.0,
    1.0218971486541166,
    1.0442737824274138,
    1.0671404006768237,
    1.0905077326652577,
    1.1143867425958924,
    1.1387886347566916,
    1.1637248587775775,
    1.189207115002721,
    1.215247359980469,
    1.241857812073484,
    1.2690509571917332,
    1.2968395546510096,
    1.3252366431597413,
    1.3542555469368927,
    1.383909881963832,
    std::f64::consts::SQRT_2,
    1.4451808069770467,
    1.4768261459394993,
    1.5091644275934228,
    1.5422108254079407,
    1.5759808451078865,
    1.6104903319492543,
    1.645755478153965,
    1.681792830507429,
    1.718619298122478,
    1.7562521603732995,
    1.7947090750031072,
    1.8340080864093424,
    1.8741676341103,
    1.9152065613971474,
    1.9571441241754002,
];

/// 1-2-5 steps from 1 µs to 10 s.
const STEPS_NS: [u64; 22] = [
    1_000,
    2_000,
    5_000,
    10_000,
    20_000,
    50_000,
    100_000,
    200_000,
    500_000,
    1_000_000,
    2_000_000,
    5_000_000,
    10_000_000,
    20_000_000,
    50_000_000,
    100_000_000,
    200_000_000,
    500_000_000,
    1_000_000_000,
    2_000_000_000,
    5_000_000_000,
    10_000_000_000,
];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use proptest::prelude::*;

    use super::*;

    fn empty() -> Histogram {
        Histogram::new(Arc::new(Boundaries::new(&[])))
    }

    fn filled(values_ns: &[u64]) -> HistogramSnapshot {
        let histogram = empty();
        values_ns.iter().for_each(|&ns| histogram.record(ns));
        histogram.snapshot()
    }

    /// Where one duration is counted: `None` for the zero bucket.
    fn check(ns: u64, expected: Option<i32>) {
        let snapshot = filled(&[ns]);
        match expected {
            Some(index) => {
                assert_eq!(snapshot.native, [(index, 1)], "{ns} ns");
                assert_eq!(snapshot.zero_count, 0, "{ns} ns");
            }
            None => assert_eq!((snapshot.native.len(), snapshot.zero_count), (0, 1), "{ns} ns"),
        }
        assert_eq!((snapshot.count, snapshot.sum_ns, snapshot.max_ns), (1, ns, ns));
    }

    #[test]
    fn native_buckets_are_those_of_client_golang() {
        // Upper ends belong to the bucket; 2^0 s is the end of bucket 0.
        check(1_000_000_000, Some(0));
        check(1_000_000_001, Some(1));
        check(999_999_999, Some(0));
        check(500_000_000, Some(-32));
        check(500_000_001, Some(-31));
        check(250_000_000, Some(-64));
        check(2_000_000_000, Some(32));
        check(1_953_125, Some(-9 * 32));
        check(1_953_126, Some(-9 * 32 + 1));
        check(1_953_124, Some(-9 * 32));
        // 2^(1/32) s = 1.02189714865… s, 2^(−1/2) s = 0.70710678118… s.
        check(1_021_897_148, Some(1));
        check(1_021_897_149, Some(2));
        check(707_106_781, Some(-16));
        check(707_106_782, Some(-15));
        // 2^−24 s = 59.6 ns ends the zero bucket; 2^5 s ends the range.
        check(0, None);
        check(1, None);
        check(59, None);
        check(60, Some(-767));
        check(64, Some(-764));
        check(32_000_000_000, Some(160));
        check(32_000_000_001, Some(OVERFLOW_INDEX));
        check(u64::MAX, Some(OVERFLOW_INDEX));
    }

    #[test]
    fn classic_boundaries_are_inclusive_and_exact() {
        // Two thresholds that share a native bucket with each other, one in the zero bucket, one
        // beyond the range.
        let boundaries = Boundaries::new(&[150_000, 150_001, 150_000, 10, 60_000_000_000]);
        let histogram = Histogram::new(Arc::new(boundaries));
        let values_ns =
            [9, 10, 11, 1_000, 1_001, 149_999, 150_000, 150_001, 150_002, 60_000_000_000];
        values_ns.iter().for_each(|&ns| histogram.record(ns));
        histogram.record(60_000_000_001);
        let snapshot = histogram.snapshot();
        let at = |ns| snapshot.classic.iter().find(|&&(end_ns, _)| end_ns == ns).unwrap().1;
        assert_eq!(snapshot.classic.len(), 22 + 4);
        assert_eq!((at(10), at(1_000), at(2_000), at(100_000)), (2, 4, 5, 5));
        assert_eq!((at(150_000), at(150_001), at(200_000)), (7, 8, 9));
        assert_eq!((at(10_000_000_000), at(60_000_000_000), snapshot.count), (9, 10, 11));
        assert_eq!(snapshot.zero_count, 3);
        assert_eq!(snapshot.native.last(), Some(&(OVERFLOW_INDEX, 2)));
        assert_eq!(snapshot.max_ns, 60_000_000_001);
    }

    #[test]
    fn memory_grows_by_octaves_only() {
        let histogram = empty();
        assert_eq!(histogram.allocations(), 0);
        for ns in 130_000..230_000 {
            histogram.record(ns);
        }
        assert_eq!(histogram.allocations(), 1, "122 µs to 244 µs is one octave");
        for octave in 0..4 {
            histogram.record(130_000 << octave);
        }
        assert_eq!(histogram.allocations(), 1, "four octaves");
        histogram.record(1_100);
        assert_eq!(histogram.allocations(), 2, "the fifth octave");
        for octave in 0..36 {
            histogram.record(15 << octave);
        }
        assert_eq!(histogram.allocations(), CHUNKS.div_ceil(4), "all octaves");
        assert!(size_of::<Histogram>() <= 232, "{}", size_of::<Histogram>());
    }

    #[test]
    fn quantiles_of_few_values() {
        assert_eq!(filled(&[]).quantile(0.5), None);
        assert_eq!(filled(&[]).mean_ns(), None);
        let one = filled(&[777]);
        for q in [0.0, 0.5, 1.0] {
            assert_eq!(one.quantile(q), Some(777));
        }
        let many = filled(&[50, 100_000, 100_000, 40_000_000_000, 50_000_000_000]);
        assert!(many.quantile(0.2).unwrap() <= 59);
        assert_eq!(many.count_at_most(100_000), 3);
        assert!((40_000_000_000..=50_000_000_000).contains(&many.quantile(0.8).unwrap()));
        assert_eq!(many.quantile(1.0), Some(50_000_000_000));
    }

    #[test]
    fn snapshots_are_consistent_while_the_writer_runs() {
        let histogram = empty();
        let progress_seen = AtomicU64::new(0);
        let mut recorded = 0_u64;
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut last = histogram.snapshot();
                while progress_seen.load(Ordering::Relaxed) < 50 {
                    let now = histogram.snapshot();
                    let native: u64 = now.native.iter().map(|&(_, count)| count).sum();
                    assert_eq!(native + now.zero_count, now.count);
                    assert!(now.classic.is_sorted_by_key(|&(_, count)| count));
                    assert!(now.classic.last().unwrap().1 <= now.count);
                    assert!(now.count >= last.count);
                    for (earlier, later) in last.classic.iter().zip(&now.classic) {
                        assert!(later.1 >= earlier.1);
                    }
                    // Every duration is at least 1 ns, and summed up before it is counted.
                    assert!(now.sum_ns >= now.count);
                    if now.count > last.count {
                        progress_seen.fetch_add(1, Ordering::Relaxed);
                    }
                    last = now;
                }
            });
            while !reader.is_finished() {
                recorded += 1;
                histogram.record(1 + recorded.wrapping_mul(0x9E37_79B9_7F4A_7C15) % 40_000_000_000);
            }
        });
        assert_eq!(histogram.snapshot().count, recorded);
    }

    fn duration() -> impl Strategy<Value = u64> {
        // Log-uniform over the range and somewhat beyond it, and the zero bucket.
        (0_u32..37, any::<u64>()).prop_map(|(octave, bits)| (1 << octave) | bits >> (63 - octave))
    }

    fn durations() -> impl Strategy<Value = Vec<u64>> {
        prop::collection::vec(duration(), 0..200)
    }

    proptest! {
        #[test]
        fn a_bucket_holds_what_its_bounds_say(ns in 60_u64..32_000_000_000) {
            let index = index_at(position_of(ns));
            let end = |index: i32| 2.0_f64.powf(f64::from(index) / 32.0);
            // `powf` may be an ulp off, so the reference allows a relative 1e-14.
            prop_assert!(seconds(ns) > end(index - 1) * (1.0 - 1e-14));
            prop_assert!(seconds(ns) <= end(index) * (1.0 + 1e-14));
            prop_assert!(ns <= last_ns(index) && ns > last_ns(index - 1));
            prop_assert_eq!(index_at(position_of(last_ns(index))), index);
            prop_assert_eq!(index_at(position_of(last_ns(index) + 1)), index + 1);
        }

        #[test]
        fn counts_are_conserved(values_ns in durations()) {
            let snapshot = filled(&values_ns);
            let native: u64 = snapshot.native.iter().map(|&(_, count)| count).sum();
            prop_assert_eq!(usize::try_from(snapshot.count).unwrap(), values_ns.len());
            prop_assert_eq!(native + snapshot.zero_count, snapshot.count);
            prop_assert_eq!(snapshot.sum_ns, values_ns.iter().sum::<u64>());
            prop_assert_eq!(snapshot.max_ns, values_ns.iter().copied().max().unwrap_or(0));
            for &(end_ns, count) in &snapshot.classic {
                let exact = values_ns.iter().filter(|&&ns| ns <= end_ns).count();
                prop_assert_eq!(usize::try_from(count).unwrap(), exact);
                prop_assert_eq!(snapshot.count_at_most(end_ns), count);
            }
        }

        #[test]
        fn merging_is_recording_together(a in durations(), b in durations(), c in durations()) {
            let all = filled(&[a.clone(), b.clone(), c.clone()].concat());
            let [a, b, c] = [a, b, c].map(|values_ns| filled(&values_ns));
            let left = HistogramSnapshot::merged([&a, &b, &c]).unwrap();
            let mut right = c;
            right.merge(&b);
            let mut other = a;
            other.merge(&right);
            prop_assert_eq!(&left, &other);
            prop_assert_eq!(left, all);
        }

        #[test]
        fn quantiles_lie_in_the_bucket_of_the_exact_one(
            values_ns in prop::collection::vec(duration(), 1..200),
            q in 0.0..=1.0_f64,
        ) {
            let snapshot = filled(&values_ns);
            let mut sorted = values_ns;
            sorted.sort_unstable();
            let rank = usize::try_from(rank_of(q, snapshot.count)).unwrap();
            let exact = sorted[rank - 1];
            let estimate = snapshot.quantile(q).unwrap();
            prop_assert_eq!(position_of(estimate), position_of(exact), "{} {}", estimate, exact);
            prop_assert!(estimate <= snapshot.max_ns);
        }

        #[test]
        fn counting_at_most_never_goes_down(values_ns in durations(), a in duration(),
                                            b in duration()) {
            let snapshot = filled(&values_ns);
            let (low, high) = (a.min(b), a.max(b));
            prop_assert!(snapshot.count_at_most(low) <= snapshot.count_at_most(high));
        }
    }
}
