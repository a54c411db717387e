//! A heat map of a quarter of an hour: how many round trips of which length there were in each 15
//! seconds, and how many probes were lost. Made by the control plane from the differences of
//! histograms, so that measuring threads do nothing for it.

use crate::histogram::HistogramSnapshot;

/// How long a column lasts.
pub const COLUMN_SECONDS: u64 = 15;
/// Columns, the one that is being filled included: 15 minutes.
pub const COLUMNS_MAX: usize = 60;

/// What a target's counts are since it is measured, by coarse buckets.
#[derive(Clone, Debug)]
pub struct Levels {
    counts: [u64; BUCKETS],
    lost: u64,
}

/// One column.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Column {
    /// Probes lost.
    pub lost: u64,
    /// Round trips as (upper end of the bucket in ns, count), ascending; never 0.
    pub cells: Vec<(u64, u64)>,
    /// The median, interpolated inside its bucket; `None` without round trips.
    pub rtt_ns_p50: Option<u64>,
}

/// The columns of one target.
#[derive(Debug, Default)]
pub(super) struct HeatMap {
    /// Finished columns, oldest first. Each is: lost, number of cells, and of each cell the bucket
    /// and the count; every number a [`push_number`].
    columns: Vec<u8>,
    finished: usize,
    /// What was counted when the last column ended, by bucket. Wraps: only differences matter.
    seen: Vec<(u8, u32)>,
    seen_lost: u32,
}

impl Levels {
    /// Of these histograms, and of so many lost probes.
    #[must_use]
    pub fn new<'a>(histograms: impl IntoIterator<Item = &'a HistogramSnapshot>, lost: u64) -> Self {
        let mut counts = [0; BUCKETS];
        for histogram in histograms {
            counts[0] += histogram.zero_count;
            for &(index, count) in &histogram.native {
                counts[bucket_of(index)] += count;
            }
        }
        Self { counts, lost }
    }
}

impl HeatMap {
    /// Ends the column that is being filled.
    pub(super) fn turn(&mut self, levels: &Levels) {
        if self.finished == COLUMNS_MAX - 1 {
            let oldest = self.columns.len() - skip_column(&self.columns).len();
            self.columns.drain(..oldest);
            self.finished -= 1;
        }
        let (lost, cells) = self.since_turn(levels);
        push_number(&mut self.columns, lost);
        push_number(&mut self.columns, u32::try_from(cells.len()).unwrap_or(0));
        for &(bucket, count) in &cells {
            push_number(&mut self.columns, u32::from(bucket));
            push_number(&mut self.columns, count);
        }
        self.finished += 1;
        self.seen_lost = wrapped(levels.lost);
        for (bucket, _) in cells {
            let now = wrapped(levels.counts[usize::from(bucket)]);
            match self.seen.iter_mut().find(|(seen, _)| *seen == bucket) {
                Some((_, count)) => *count = now,
                None => self.seen.push((bucket, now)),
            }
        }
    }

    /// All columns, oldest first; the last one is still being filled.
    pub(super) fn columns(&self, levels: &Levels) -> Vec<Column> {
        let mut columns = Vec::with_capacity(self.finished + 1);
        let mut rest = self.columns.as_slice();
        while !rest.is_empty() {
            let lost = take_number(&mut rest);
            let cells = take_number(&mut rest);
            let cells = (0..cells).map(|_| {
                let bucket = u8::try_from(take_number(&mut rest)).unwrap_or(0);
                (bucket, take_number(&mut rest))
            });
            let cells: Vec<_> = cells.collect();
            columns.push(Column::new(lost, &cells));
        }
        columns.push(self.current(levels));
        columns
    }

    /// The column that is being filled.
    pub(super) fn current(&self, levels: &Levels) -> Column {
        let (lost, cells) = self.since_turn(levels);
        Column::new(lost, &cells)
    }

    fn since_turn(&self, levels: &Levels) -> (u32, Vec<(u8, u32)>) {
        let mut cells = Vec::new();
        for (bucket, &count) in (0_u8..).zip(&levels.counts) {
            // Most are empty for ever.
            if count == 0 {
                continue;
            }
            let seen = self.seen.iter().find(|(seen, _)| *seen == bucket);
            let new = wrapped(count).wrapping_sub(seen.map_or(0, |&(_, count)| count));
            if new > 0 {
                cells.push((bucket, new));
            }
        }
        (wrapped(levels.lost).wrapping_sub(self.seen_lost), cells)
    }
}

impl Column {
    fn new(lost: u32, cells: &[(u8, u32)]) -> Self {
        let count: u64 = cells.iter().map(|&(_, count)| u64::from(count)).sum();
        let cells_ns = cells.iter().map(|&(bucket, count)| (end_ns(bucket), u64::from(count)));
        Self { lost: u64::from(lost), cells: cells_ns.collect(), rtt_ns_p50: median(cells, count) }
    }
}

/// The middle round trip, as if those of a bucket were spread evenly over it.
fn median(cells: &[(u8, u32)], count: u64) -> Option<u64> {
    let rank = count.div_ceil(2);
    let mut below = 0;
    for &(bucket, count) in cells {
        let count = u64::from(count);
        if rank <= below + count {
            let start_ns = bucket.checked_sub(1).map_or(0, end_ns);
            let width_ns = end_ns(bucket) - start_ns;
            return Some(start_ns + width_ns.saturating_mul(rank - below) / (count + 1));
        }
        below += count;
    }
    None
}

/// The coarse bucket of a native one: each holds 8 of them, a quarter of an octave. The first one
/// is the zero bucket.
fn bucket_of(index: i32) -> usize {
    let above_zero = index.saturating_sub(ZERO_INDEX).max(0);
    let bucket = usize::try_from(above_zero).unwrap_or(0).div_ceil(NATIVE_PER_BUCKET);
    bucket.min(BUCKETS - 1)
}

/// Upper end of a coarse bucket, rounded to the ns.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between 60 and 4e10, where whole numbers are exact"
)]
fn end_ns(bucket: u8) -> u64 {
    (1e9 * ((f64::from(bucket) - ZERO_BUCKETS) / PER_OCTAVE).exp2()).round() as u64
}

fn wrapped(count: u64) -> u32 {
    u32::try_from(count & u64::from(u32::MAX)).unwrap_or(0)
}

/// Seven bits a byte, lowest first; the top bit says that more follow (LEB128).
fn push_number(bytes: &mut Vec<u8>, mut number: u32) {
    while number >= 0x80 {
        let [low, ..] = number.to_le_bytes();
        bytes.push(low | 0x80);
        number >>= 7;
    }
    let [low, ..] = number.to_le_bytes();
    bytes.push(low);
}

fn take_number(bytes: &mut &[u8]) -> u32 {
    let (mut number, mut shift) = (0, 0);
    while let Some((&byte, rest)) = bytes.split_first() {
        *bytes = rest;
        number |= u32::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
        shift += 7;
        if byte < 0x80 {
            break;
        }
    }
    number
}

/// What follows the first column.
fn skip_column(mut bytes: &[u8]) -> &[u8] {
    take_number(&mut bytes);
    for _ in 0..2 * u64::from(take_number(&mut bytes)) {
        take_number(&mut bytes);
    }
    bytes
}

/// The native index of the zero bucket, which ends at 2^−24 s.
const ZERO_INDEX: i32 = -24 * 32;
const NATIVE_PER_BUCKET: usize = 8;
const PER_OCTAVE: f64 = 4.0;
/// Coarse buckets that end at or below a second, the zero bucket apart.
const ZERO_BUCKETS: f64 = 24.0 * PER_OCTAVE;
/// From the zero bucket to the one beyond 2^5 s.
const BUCKETS: usize = 29 * 4 + 2;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::histogram::{Boundaries, Histogram};

    fn levels(histogram: &Histogram, lost: u64) -> Levels {
        Levels::new(&[histogram.snapshot()], lost)
    }

    fn histogram() -> Histogram {
        Histogram::new(Arc::new(Boundaries::new(&[])))
    }

    #[test]
    fn a_column_holds_what_came_since_the_last_one() {
        let (histogram, mut map) = (histogram(), HeatMap::default());
        let counts = |column: &Column| -> Vec<u64> {
            column.cells.iter().map(|&(_, count)| count).collect()
        };
        histogram.record(80_000);
        histogram.record(81_000);
        histogram.record(2_000_000);
        let columns = map.columns(&levels(&histogram, 1));
        assert_eq!((columns.len(), counts(&columns[0]), columns[0].lost), (1, vec![2, 1], 1));
        map.turn(&levels(&histogram, 1));
        assert_eq!(map.current(&levels(&histogram, 1)), Column::default());
        histogram.record(2_000_000);
        let columns = map.columns(&levels(&histogram, 300));
        assert_eq!((columns.len(), counts(&columns[1]), columns[1].lost), (2, vec![1], 299));
        let (end_ns, _) = columns[1].cells[0];
        assert!((2_000_000..2_400_000).contains(&end_ns), "{end_ns}");
    }

    #[test]
    fn only_a_quarter_of_an_hour_is_remembered_in_little_memory() {
        let (histogram, mut map) = (histogram(), HeatMap::default());
        for turn in 0..200_u64 {
            // Five probes a second, over three octaves.
            (0..75).for_each(|probe| histogram.record(50_000 + 5_000 * probe));
            map.turn(&levels(&histogram, turn));
        }
        let columns = map.columns(&levels(&histogram, 200));
        assert_eq!(columns.len(), COLUMNS_MAX);
        let finished = &columns[..COLUMNS_MAX - 1];
        let total = |column: &Column| column.cells.iter().map(|&(_, count)| count).sum::<u64>();
        assert!(finished.iter().all(|column| total(column) == 75 && column.lost == 1));
        assert!(map.columns.capacity() < 4_096, "{} bytes", map.columns.capacity());
    }

    #[test]
    fn a_bucket_ends_where_its_native_ones_do() {
        assert_eq!((bucket_of(ZERO_INDEX), end_ns(0)), (0, 60));
        assert_eq!((bucket_of(0), end_ns(96)), (96, 1_000_000_000));
        assert_eq!((bucket_of(-7), bucket_of(-8), bucket_of(1)), (96, 95, 97));
        assert_eq!(bucket_of(i32::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn a_round_trip_lies_in_its_bucket(ns in 60_u64..32_000_000_000) {
            let histogram = histogram();
            histogram.record(ns);
            let column = HeatMap::default().current(&levels(&histogram, 0));
            let (end_ns, count) = column.cells[0];
            prop_assert_eq!(count, 1);
            // A quarter of an octave is 19 % wide.
            prop_assert!(ns <= end_ns + 1 && end_ns < ns + ns / 4 + 2, "{} in {}", ns, end_ns);
            let median = column.rtt_ns_p50.unwrap_or(0);
            prop_assert!(median.abs_diff(ns) <= ns / 8 + 1, "{} for {}", median, ns);
        }

        #[test]
        fn numbers_come_back(numbers in prop::collection::vec(any::<u32>(), 0..20)) {
            let mut bytes = Vec::new();
            numbers.iter().for_each(|&number| push_number(&mut bytes, number));
            let mut rest = bytes.as_slice();
            let told: Vec<u32> = numbers.iter().map(|_| take_number(&mut rest)).collect();
            prop_assert!(rest.is_empty());
            prop_assert_eq!(told, numbers);
        }
    }
}
