//! The cells of one histogram: which cell counts one more goes in, what it holds comes out. Few
//! octaves are ever hit and few counts are large, and a program holds seven histograms for each of
//! thousands of targets: so cells are allocated when they are needed, and have 16 bits first.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};

use super::{CHUNKS, PER_OCTAVE};

/// The cells of one histogram. One thread counts, any thread reads.
#[derive(Debug)]
pub(super) struct Cells {
    /// One a native bucket, without what `split` counts.
    octaves: Octaves<AtomicU16>,
    /// One a classic boundary: what lies in the boundary's native bucket, not above it, and above
    /// the boundary before it.
    split: Box<[AtomicU16]>,
    /// What those could not count, if any.
    carried: OnceLock<Box<Carried>>,
}

/// The cells of one octave.
#[derive(Clone, Copy, Debug)]
pub(super) struct Octave<'a> {
    cells: Option<&'a [AtomicU16; PER_OCTAVE]>,
    carried: Option<&'a [AtomicU64; PER_OCTAVE]>,
}

/// Cells by octaves, in blocks of a few, in the order in which octaves were first hit.
#[derive(Debug)]
struct Octaves<C> {
    /// The place of each octave plus 1; 0 before it is hit.
    places: [AtomicU8; CHUNKS],
    blocks: [OnceLock<Box<Block<C>>>; BLOCKS],
}

/// The cells of a few octaves.
type Block<C> = [[C; PER_OCTAVE]; PER_BLOCK];

/// What cells of 16 bits could not count.
#[derive(Debug)]
struct Carried {
    octaves: Octaves<AtomicU64>,
    split: Box<[AtomicU64]>,
}

impl Cells {
    /// Cells that hold nothing, for so many classic boundaries.
    pub(super) fn new(boundaries: usize) -> Self {
        Self {
            octaves: Octaves::default(),
            split: (0..boundaries).map(|_| AtomicU16::new(0)).collect(),
            carried: OnceLock::new(),
        }
    }

    /// Counts one in a native bucket. For the one writer.
    pub(super) fn count(&self, octave: usize, bucket: usize) {
        let cell = &self.octaves.cells(octave)[bucket];
        increment(cell, || &self.carried().octaves.cells(octave)[bucket]);
    }

    /// Counts one at a classic boundary. For the one writer.
    pub(super) fn count_split(&self, boundary: usize) {
        increment(&self.split[boundary], || &self.carried().split[boundary]);
    }

    /// What native buckets hold.
    pub(super) fn octave(&self, octave: usize) -> Octave<'_> {
        Octave {
            cells: self.octaves.allocated(octave),
            carried: self.carried.get().and_then(|carried| carried.octaves.allocated(octave)),
        }
    }

    /// What a classic boundary's cell holds.
    pub(super) fn split(&self, boundary: usize) -> u64 {
        let carried = self.carried.get().map(|carried| &carried.split[boundary]);
        counted(&self.split[boundary], carried)
    }

    /// How many allocations counting has made.
    pub(super) fn allocations(&self) -> usize {
        let carried = self.carried.get().map_or(0, |carried| 2 + carried.octaves.allocations());
        self.octaves.allocations() + carried
    }

    fn carried(&self) -> &Carried {
        self.carried.get_or_init(|| {
            let split = self.split.iter().map(|_| AtomicU64::new(0)).collect();
            Box::new(Carried { octaves: Octaves::default(), split })
        })
    }
}

impl Octave<'_> {
    /// Whether it was ever hit.
    pub(super) const fn is_allocated(&self) -> bool {
        self.cells.is_some()
    }

    /// What a bucket's cell holds.
    pub(super) fn count(&self, bucket: usize) -> u64 {
        let carried = self.carried.map(|cells| &cells[bucket]);
        self.cells.map_or(0, |cells| counted(&cells[bucket], carried))
    }
}

impl<C> Default for Octaves<C> {
    fn default() -> Self {
        Self {
            places: [const { AtomicU8::new(0) }; CHUNKS],
            blocks: [const { OnceLock::new() }; BLOCKS],
        }
    }
}

impl<C: Default> Octaves<C> {
    /// The cells of an octave, allocated if need be. For the one writer.
    fn cells(&self, octave: usize) -> &[C; PER_OCTAVE] {
        let taken = self.places[octave].load(Ordering::Relaxed);
        let place = usize::from(taken).checked_sub(1).unwrap_or_else(|| self.take_place(octave));
        &self.blocks[place / PER_BLOCK].get_or_init(Box::default)[place % PER_BLOCK]
    }

    /// Gives an octave the next place.
    #[cold]
    fn take_place(&self, octave: usize) -> usize {
        let taken = self.places.iter().filter(|place| place.load(Ordering::Relaxed) > 0);
        let place = taken.count();
        self.blocks[place / PER_BLOCK].get_or_init(Box::default);
        // Release: whoever sees the place finds the block.
        let stored = u8::try_from(place + 1).expect("at most one for each octave");
        self.places[octave].store(stored, Ordering::Release);
        place
    }

    /// The cells of an octave, if it was ever hit.
    fn allocated(&self, octave: usize) -> Option<&[C; PER_OCTAVE]> {
        let place = usize::from(self.places[octave].load(Ordering::Acquire)).checked_sub(1)?;
        Some(&self.blocks[place / PER_BLOCK].get()?[place % PER_BLOCK])
    }

    /// How many blocks are allocated.
    fn allocations(&self) -> usize {
        self.blocks.iter().filter(|block| block.get().is_some()).count()
    }
}

/// Counts one in `cell`, or in the one that it is carried into.
fn increment<'a>(cell: &AtomicU16, carried: impl FnOnce() -> &'a AtomicU64) {
    match cell.load(Ordering::Relaxed).checked_add(1) {
        Some(count) => cell.store(count, Ordering::Release),
        None => {
            let cell = carried();
            cell.store(cell.load(Ordering::Relaxed) + 1, Ordering::Release);
        }
    }
}

/// What a cell and the one that it is carried into hold together. `carried` was looked up before:
/// it only begins to count when the other has stopped, so that a later look never finds less.
fn counted(cell: &AtomicU16, carried: Option<&AtomicU64>) -> u64 {
    let beyond = carried.map_or(0, |cell| cell.load(Ordering::Acquire));
    beyond + u64::from(cell.load(Ordering::Acquire))
}

/// Octaves whose cells are allocated together.
const PER_BLOCK: usize = 4;
const BLOCKS: usize = CHUNKS.div_ceil(PER_BLOCK);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_go_beyond_16_bits() {
        let cells = Cells::new(3);
        cells.count(17, 5);
        cells.count_split(2);
        assert_eq!(cells.allocations(), 1);
        let octave = cells.octaves.allocated(17).expect("just hit");
        for cell in [&octave[5], &cells.split[2]] {
            assert_eq!(cell.swap(u16::MAX - 1, Ordering::Relaxed), 1);
        }
        for more in 0..4 {
            let expected = u64::from(u16::MAX) - 1 + more;
            assert_eq!((cells.octave(17).count(5), cells.split(2)), (expected, expected));
            cells.count(17, 5);
            cells.count_split(2);
        }
        assert_eq!((cells.octave(17).count(4), cells.split(1)), (0, 0));
        assert_eq!(cells.allocations(), 4, "the block, and the carry's three");
    }

    #[test]
    fn octaves_have_cells_of_their_own_in_any_order() {
        let cells = Cells::new(0);
        for octave in (0..CHUNKS).rev() {
            assert!(!cells.octave(octave).is_allocated());
            (0..=octave).for_each(|_| cells.count(octave, octave));
        }
        for octave in 0..CHUNKS {
            let expected = u64::try_from(octave + 1).expect("small");
            assert_eq!(cells.octave(octave).count(octave), expected);
        }
        assert_eq!(cells.allocations(), BLOCKS);
    }
}
