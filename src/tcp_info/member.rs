//! What is known of one member of `struct tcp_info`, and sets of members. Rows of the table flow
//! in; places, units and names flow out.

use super::Kernel;
use super::table::{
    MEMBERS, delivery_rate, lost, min_rtt, retransmits, rto, rtt, rttvar, snd_cwnd, total_retrans,
    total_rto,
};

/// One member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// The kernel's name without `tcpi_`.
    pub name: &'static str,
    /// What it is, in a sentence.
    pub help: &'static str,
    /// Where it is, or was at first.
    pub place: Place,
    /// Where it is since this Linux: then the version must be known, and as new as the member.
    pub moved: Option<(Kernel, Place)>,
    /// What the kernel counts in.
    pub unit: Unit,
    /// Whether it only grows.
    pub kind: Kind,
    /// Name of the metric, in base units.
    pub metric: &'static str,
    /// The first Linux that has it.
    pub since: Kernel,
    /// The number that stands for none, and a word for what it means.
    pub none: Option<(u64, &'static str)>,
    pub(super) index: usize,
}

/// Where a member is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// Whole bytes. The kernel fills them if they end within the length that it returns.
    Bytes {
        /// Of the first byte.
        offset: usize,
        /// How many.
        width: usize,
    },
    /// Bits of bytes that were there before they were used, so that the length alone does not
    /// tell.
    Bits {
        /// Of the first byte.
        offset: usize,
        /// Bits below.
        shift: u32,
        /// How many.
        width: u32,
        /// The least length of a kernel that may have them: there, its version decides.
        length_min: usize,
        /// From this length on every kernel has them, whatever its version says: distributions
        /// add to old kernels, and personality(2) and sandboxes make versions up.
        length_sure: usize,
    },
}

/// What the kernel counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// A [`State`](super::State).
    State,
    /// A [`CaState`](super::CaState).
    CaState,
    /// Bits of [`Options`](super::Options).
    Options,
    /// A [`FastOpenFailure`](super::FastOpenFailure).
    FastOpenFailure,
    /// Yes or no.
    Flag,
    /// Another number that stands for something, or an exponent.
    Code,
    /// How often.
    Count,
    /// Segments.
    Segments,
    /// Bytes.
    Bytes,
    /// Bytes per second.
    BytesPerSecond,
    /// Microseconds.
    Micros,
    /// Milliseconds.
    Millis,
}

/// How a number changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Up and down.
    Gauge,
    /// Up only, while the connection lives.
    Counter,
}

/// A set of members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Members(u128);

impl Member {
    /// Where a kernel of this version has it; `None` if that depends on a version that is not
    /// known, or is older than the member and so not the true one.
    #[must_use]
    #[inline]
    pub const fn place_in(&self, kernel: Option<Kernel>) -> Option<Place> {
        match (self.moved, kernel) {
            (None, _) => Some(self.place),
            (Some((since, moved)), Some(kernel)) if kernel.is_at_least(since) => Some(moved),
            (Some(_), Some(kernel)) if kernel.is_at_least(self.since) => Some(self.place),
            (Some(_), _) => None,
        }
    }

    /// Whether a kernel of this version that returned `length` bytes has filled it.
    #[must_use]
    pub const fn is_filled(&self, length: usize, kernel: Option<Kernel>) -> bool {
        match self.place_in(kernel) {
            None => false,
            Some(Place::Bytes { offset, width }) => offset + width <= length,
            Some(Place::Bits { length_min, length_sure, .. }) => {
                let new_enough = match kernel {
                    Some(kernel) => kernel.is_at_least(self.since),
                    None => false,
                };
                length >= length_sure || (length >= length_min && new_enough)
            }
        }
    }
}

impl Place {
    /// The least length of a struct that has room for it.
    #[must_use]
    pub const fn end(self) -> usize {
        match self {
            Self::Bytes { offset, width } => offset + width,
            Self::Bits { offset, shift, width, .. } => {
                offset + (shift + width).div_ceil(u8::BITS) as usize
            }
        }
    }
}

impl Unit {
    /// How many of the base unit (seconds, or itself) one is, as a fraction: `1 / this`.
    const fn per_base(self) -> u32 {
        match self {
            Self::Micros => 1_000_000,
            Self::Millis => 1_000,
            _ => 1,
        }
    }

    /// A number in base units: seconds, bytes, counts. Correctly rounded.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "beyond 2^53 a byte is noise")]
    pub fn base(self, number: u64) -> f64 {
        number as f64 / f64::from(self.per_base())
    }

    /// Whether numbers in base units are whole.
    #[must_use]
    pub const fn is_whole(self) -> bool {
        self.per_base() == 1
    }

    /// Nanoseconds, if it is a time; saturating.
    #[must_use]
    pub const fn ns(self, number: u64) -> Option<u64> {
        match self {
            Self::Micros => Some(number.saturating_mul(1_000)),
            Self::Millis => Some(number.saturating_mul(1_000_000)),
            _ => None,
        }
    }

    /// How the names of metrics in this unit end.
    #[must_use]
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Bytes => "_bytes",
            Self::BytesPerSecond => "_bytes_per_second",
            Self::Micros | Self::Millis => "_seconds",
            _ => "",
        }
    }
}

impl Members {
    /// All of them: some seventy series of each connection.
    pub const ALL: Self = Self((1 << MEMBERS.len()) - 1);

    /// The few that tell most of how a connection does.
    pub const DEFAULT: Self = Self::of(&[
        retransmits,
        lost,
        rto,
        rtt,
        rttvar,
        min_rtt,
        snd_cwnd,
        total_retrans,
        delivery_rate,
        total_rto,
    ]);

    /// These.
    #[must_use]
    pub const fn of(members: &[Member]) -> Self {
        let mut set = 0;
        let mut at = 0;
        while at < members.len() {
            set |= 1 << members[at].index;
            at += 1;
        }
        Self(set)
    }

    /// Those that a kernel of this version fills if it returns so many bytes. Cheap where the
    /// length tells it all.
    #[must_use]
    pub fn filled(length: usize, kernel: Option<Kernel>) -> Self {
        let length = length.min(KNOWN_BYTES);
        let mut filled = SURELY_FILLED[length];
        let mut open = POSSIBLY_FILLED[length].0 & !filled.0;
        while open != 0 {
            let member = &MEMBERS[open.trailing_zeros() as usize];
            open &= open - 1;
            if member.is_filled(length, kernel) {
                filled.insert(member);
            }
        }
        filled
    }

    /// Whether it is one of them.
    #[must_use]
    pub const fn contains(self, member: &Member) -> bool {
        self.0 >> member.index & 1 == 1
    }

    /// Its place among them; `None` if it is none of them.
    #[must_use]
    pub const fn place_of(self, member: &Member) -> Option<usize> {
        let before = self.0 & ((1 << member.index) - 1);
        if self.contains(member) { Some(before.count_ones() as usize) } else { None }
    }

    /// Those of both sets.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// In the order of the kernel's struct.
    pub fn iter(self) -> impl Iterator<Item = &'static Member> {
        MEMBERS.iter().filter(move |member| self.contains(member))
    }

    /// Adds one.
    pub const fn insert(&mut self, member: &Member) {
        self.0 |= 1 << member.index;
    }

    /// How many they are.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.0.count_ones()
    }
}

/// Whole bytes of the struct.
pub(super) const fn bytes(offset: usize, width: usize) -> Place {
    Place::Bytes { offset, width }
}

/// Bits of a byte of the struct; `lengths` are those of [`Place::Bits`].
pub(super) const fn bits(offset: usize, shift: u32, width: u32, lengths: [usize; 2]) -> Place {
    let [length_min, length_sure] = lengths;
    Place::Bits { offset, shift, width, length_min, length_sure }
}

/// The only element, or none.
pub(super) const fn moved(list: &[(Kernel, Place)]) -> Option<(Kernel, Place)> {
    match list {
        [only] => Some(*only),
        _ => None,
    }
}

/// The only element, or none.
pub(super) const fn optional(list: &[(u64, &'static str)]) -> Option<(u64, &'static str)> {
    match list {
        [only] => Some(*only),
        _ => None,
    }
}

/// For each length what is filled whatever the kernel's version.
static SURELY_FILLED: [Members; KNOWN_BYTES + 1] = filled_by_length(None);
/// For each length what a kernel of the right version fills. Nothing is ever taken away.
static POSSIBLY_FILLED: [Members; KNOWN_BYTES + 1] = filled_by_length(Some(Kernel::NEWEST));

const fn filled_by_length(kernel: Option<Kernel>) -> [Members; KNOWN_BYTES + 1] {
    let mut all = [Members(0); KNOWN_BYTES + 1];
    let mut length = 0;
    while length <= KNOWN_BYTES {
        let mut at = 0;
        while at < MEMBERS.len() {
            if MEMBERS[at].is_filled(length, kernel) {
                all[length].insert(&MEMBERS[at]);
            }
            at += 1;
        }
        length += 1;
    }
    all
}

/// The length of the struct that the table describes.
pub const KNOWN_BYTES: usize = {
    let mut known = 0;
    let mut at = 0;
    while at < MEMBERS.len() {
        let end = MEMBERS[at].place.end();
        if end > known {
            known = end;
        }
        at += 1;
    }
    known
};
