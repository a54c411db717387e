//! `TCP_INFO` in full: what a kernel knows of one TCP connection. Bytes flow in as a kernel filled
//! them, with their length; typed fields flow out, and `None` for what this kernel does not tell:
//! absent is not zero.
//!
//! [`Raw`] is the kernel's bytes, read one by one; [`TcpInfo`] is all of them, typed. Both follow
//! from one [table](MEMBERS). Reading a socket is the platform's:
//! [`TcpInfo::of`] and [`Raw::of`].

mod member;
mod table;
mod words;

pub use member::{KNOWN_BYTES, Kind, Member, Members, Place, Unit};
pub use table::{MEMBERS, TcpInfo};
pub use words::{CaState, FastOpenFailure, Options, State};

use std::time::Duration;

/// Each member of the struct, by the kernel's name.
pub mod members {
    pub use super::table::*;
}

/// The kernel's bytes about one connection, and which of them it has filled.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Raw {
    bytes: [u8; ROOM],
    length: usize,
    filled: Members,
    /// Where some members are depends on it.
    kernel: Option<Kernel>,
}

/// A kernel's version, as far as what it fills depends on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Kernel {
    major: u16,
    minor: u16,
}

/// Room for the struct: more than any kernel fills, so that the length tells of a newer one.
pub const ROOM: usize = 384;

impl Raw {
    /// What a Linux of this version has returned; `None` for a version that nobody knows. Any
    /// bytes will do.
    #[must_use]
    pub fn decode(returned: &[u8], kernel: Option<Kernel>) -> Self {
        let mut bytes = [0; ROOM];
        let kept = returned.len().min(ROOM);
        bytes[..kept].copy_from_slice(&returned[..kept]);
        Self::filled(bytes, returned.len(), kernel)
    }

    /// The same of a buffer of which `length` bytes were filled, without a copy.
    #[must_use]
    pub fn filled(bytes: [u8; ROOM], length: usize, kernel: Option<Kernel>) -> Self {
        Self { bytes, length, filled: Members::filled(length, kernel), kernel }
    }

    /// Nothing, to be filled by [`Self::set`] on systems with another struct.
    #[must_use]
    pub fn empty(length: usize) -> Self {
        let kernel = Some(members::accecn_fail_mode.since);
        Self { bytes: [0; ROOM], length, filled: Members::default(), kernel }
    }

    /// Fills a member; a number that has no room there leaves it unfilled.
    pub fn set(&mut self, member: &Member, number: u64) {
        let Some(place) = member.place_in(self.kernel) else { return };
        let (offset, shift, width) = match place {
            Place::Bytes { offset, width } => (offset, 0, width * 8),
            Place::Bits { offset, shift, width, .. } => (offset, shift, width as usize),
        };
        if width < 64 && number >> width != 0 {
            return;
        }
        if let Place::Bytes { width, .. } = place {
            let place = &mut self.bytes[offset..offset + width];
            place.copy_from_slice(&number.to_le_bytes()[..width]);
            if cfg!(target_endian = "big") {
                place.reverse();
            }
        } else {
            let mask = ((1_u64 << width) - 1) << shift;
            let others = self.word(offset) & !mask;
            let bytes = (others | number << shift).to_le_bytes();
            self.bytes[offset..place.end()].copy_from_slice(&bytes[..place.end() - offset]);
        }
        self.filled.insert(member);
    }

    /// Bytes that the kernel returned.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.length
    }

    /// Whether this kernel fills the member.
    #[must_use]
    pub const fn fills(&self, member: &Member) -> bool {
        self.filled.contains(member)
    }

    /// Every member that this kernel fills.
    #[must_use]
    pub const fn members(&self) -> Members {
        self.filled
    }

    /// A member in the kernel's unit; `None` if this kernel does not fill it, or has no value.
    #[must_use]
    #[inline]
    pub fn number(&self, member: &Member) -> Option<u64> {
        if !self.fills(member) {
            return None;
        }
        let number = self.stored(member.place_in(self.kernel)?);
        match member.none {
            Some((none, _)) if number == none => None,
            _ => Some(number),
        }
    }

    /// A member in base units: seconds, bytes, counts.
    #[must_use]
    pub fn base(&self, member: &Member) -> Option<f64> {
        self.number(member).map(|number| member.unit.base(number))
    }

    /// The connection's state.
    #[must_use]
    pub fn state(&self) -> Option<State> {
        self.number(&members::state).and_then(|it| State::typed(it, Unit::State))
    }

    #[inline]
    fn stored(&self, place: Place) -> u64 {
        match place {
            Place::Bytes { offset, width: 1 } => {
                self.array(offset).map_or(0, u8::from_ne_bytes).into()
            }
            Place::Bytes { offset, width: 2 } => {
                self.array(offset).map_or(0, u16::from_ne_bytes).into()
            }
            Place::Bytes { offset, width: 4 } => {
                self.array(offset).map_or(0, u32::from_ne_bytes).into()
            }
            Place::Bytes { offset, .. } => self.array(offset).map_or(0, u64::from_ne_bytes),
            // The first bit-field of a word is its lowest bits (x86, Arm, RISC-V).
            Place::Bits { offset, shift, width, .. } => {
                self.word(offset) >> shift & ((1 << width) - 1)
            }
        }
    }

    /// The four bytes from an offset on, the first one lowest.
    fn word(&self, offset: usize) -> u64 {
        self.array(offset).map_or(0, u32::from_le_bytes).into()
    }

    fn array<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes.get(offset..offset + N)?.try_into().ok()
    }
}

impl std::fmt::Debug for Raw {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        TcpInfo::from(self).fmt(f)
    }
}

impl Kernel {
    /// Newer than all.
    pub(crate) const NEWEST: Self = Self { major: u16::MAX, minor: u16::MAX };

    /// The first two numbers of a release such as `6.18.44-custom`; `None` for anything else.
    #[must_use]
    pub const fn parse(release: &str) -> Option<Self> {
        let Some((major, rest)) = leading_number(release.as_bytes()) else { return None };
        let [b'.', rest @ ..] = rest else { return None };
        match leading_number(rest) {
            Some((minor, _)) => Some(Self { major, minor }),
            None => None,
        }
    }

    pub(crate) const fn is_at_least(self, other: Self) -> bool {
        self.major > other.major || (self.major == other.major && self.minor >= other.minor)
    }
}

impl std::fmt::Display for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// A decimal number at the beginning, and what is behind it.
const fn leading_number(mut text: &[u8]) -> Option<(u16, &[u8])> {
    let mut number: u16 = 0;
    let mut digits = 0;
    while let [digit @ b'0'..=b'9', rest @ ..] = text {
        let Some(tens) = number.checked_mul(10) else { return None };
        let Some(sum) = tens.checked_add((*digit - b'0') as u16) else { return None };
        number = sum;
        digits += 1;
        text = rest;
    }
    if digits == 0 { None } else { Some((number, text)) }
}

/// From the kernel's number to the type of a field.
trait Typed: Sized {
    fn typed(number: u64, unit: Unit) -> Option<Self>;
}

impl Typed for u8 {
    fn typed(number: u64, _unit: Unit) -> Option<Self> {
        number.try_into().ok()
    }
}

impl Typed for u16 {
    fn typed(number: u64, _unit: Unit) -> Option<Self> {
        number.try_into().ok()
    }
}

impl Typed for u32 {
    fn typed(number: u64, _unit: Unit) -> Option<Self> {
        number.try_into().ok()
    }
}

impl Typed for u64 {
    fn typed(number: u64, _unit: Unit) -> Option<Self> {
        Some(number)
    }
}

impl Typed for bool {
    fn typed(number: u64, _unit: Unit) -> Option<Self> {
        Some(number != 0)
    }
}

impl Typed for Duration {
    fn typed(number: u64, unit: Unit) -> Option<Self> {
        match unit {
            Unit::Micros => Some(Self::from_micros(number)),
            Unit::Millis => Some(Self::from_millis(number)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
