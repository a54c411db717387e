//! Words flow in, words that look random flow out: hashes of small keys of our own, such as ports
//! and addresses that were asked for, and dice that fall the same way for the same seed. Nobody
//! outside chooses the keys to do harm, so a hash need not resist that, and a lookup costs a few ns
//! instead of a few ten.

use std::hash::{BuildHasherDefault, Hasher};

/// For [`std::collections::HashMap`].
pub type BuildMix = BuildHasherDefault<Mix>;

/// A hash that takes one multiplication a word.
#[derive(Clone, Copy, Debug, Default)]
pub struct Mix(u64);

impl Mix {
    fn word(&mut self, word: u64) {
        // All bits of both halves of the product meet, so low ones depend on high ones, too.
        let product = u128::from(self.0.rotate_left(23) ^ word).wrapping_mul(FACTOR);
        let low = product & u128::from(u64::MAX);
        let folded = low ^ (product >> 64);
        self.0 = u64::try_from(folded).expect("both halves have 64 bits");
    }
}

impl Hasher for Mix {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.word(u64::from_le_bytes(word));
        }
        self.word(u64::try_from(bytes.len()).unwrap_or(u64::MAX));
    }

    fn write_u8(&mut self, value: u8) {
        self.word(value.into());
    }

    fn write_u16(&mut self, value: u16) {
        self.word(value.into());
    }

    fn write_u32(&mut self, value: u32) {
        self.word(value.into());
    }

    fn write_u64(&mut self, value: u64) {
        self.word(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.word(u64::try_from(value).unwrap_or(u64::MAX));
    }
}

/// `SplitMix64` (Steele, Lea and Flood, 2014), from this seed.
#[derive(Clone, Copy, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next word.
    pub const fn roll(&mut self) -> u64 {
        let rolled = scramble(self.0);
        self.0 = self.0.wrapping_add(STEP);
        rolled
    }

    /// The next number below `limit`; 0 if nothing is.
    pub fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit.max(1)
    }
}

/// What [`Dice`] of this seed roll first: every bit depends on every other. It stays the same for
/// all versions, so that hosts with different ones agree.
#[must_use]
pub const fn scramble(seed: u64) -> u64 {
    let bits = seed.wrapping_add(STEP);
    let bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// 2^64 divided by the golden ratio, odd (Knuth, TAOCP 6.4).
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;
/// The same for a product of twice the length.
const FACTOR: u128 = 0x9e37_79b9_7f4a_7c15;

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::hash::{BuildHasher, Hash};
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn hash(key: impl Hash) -> u64 {
        BuildMix::default().hash_one(key)
    }

    #[test]
    fn dice_fall_as_published() {
        // The first words of the reference implementation from seed 1234567.
        let mut dice = Dice(1_234_567);
        let rolled: Vec<u64> = std::iter::repeat_with(|| dice.roll()).take(3).collect();
        assert_eq!(
            rolled,
            [6_457_827_717_110_365_317, 3_203_168_211_198_807_973, 9_817_491_932_198_370_423]
        );
    }

    #[test]
    fn neighbours_fall_into_different_places() {
        // Low bits choose the bucket, the top seven tell entries of one apart (hashbrown).
        let check = |hashes: Vec<u64>| {
            let buckets: HashSet<u64> = hashes.iter().map(|hash| hash & 0xffff).collect();
            let tags: HashSet<u64> = hashes.iter().map(|hash| hash >> 57).collect();
            // 4,096 balls in 65,536 bins at random share about 124.
            assert!(buckets.len() > hashes.len() * 9 / 10, "{} buckets", buckets.len());
            assert!(tags.len() > 120, "{} tags", tags.len());
        };
        let to = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1));
        check((0..4_096_u16).map(|port| hash((61_000 + port, to, 80_u16))).collect());
        check((0..4_096_u32).map(|place| hash((7_u32, 4 * place))).collect());
        let host = |number: u32| IpAddr::V4(Ipv4Addr::from(0x0a00_0000 + number));
        check((0..4_096).map(|number| hash((61_000_u16, host(number), 80_u16))).collect());
    }
}
