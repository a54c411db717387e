//! What the messages of a load are made of: bytes that depend on the connection, on the message
//! and on the place in it, so that what is lost, doubled, moved or changed on the way is seen. A
//! few operations make eight of them.

/// The bytes of one message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pattern {
    key: u64,
}

impl Pattern {
    /// The message of this number on a connection, which is the so many-th of its kind.
    pub(super) const fn new(connection: u64, made: u64, message: u64) -> Self {
        Self { key: mix(mix(mix(connection) ^ made) ^ message) }
    }

    /// Appends a message.
    pub(super) fn append(self, to: &mut Vec<u8>, bytes: usize) {
        let start = to.len();
        to.resize(start + bytes, 0);
        let mut words = to[start..].chunks_exact_mut(WORD_BYTES);
        let mut word = self.key;
        for chunk in &mut words {
            chunk.copy_from_slice(&word.to_le_bytes());
            word = word.wrapping_add(STEP);
        }
        let rest = words.into_remainder();
        rest.copy_from_slice(&word.to_le_bytes()[..rest.len()]);
    }

    /// Whether these are the message's bytes from `offset` on.
    pub(super) fn matches(self, offset: usize, bytes: &[u8]) -> bool {
        let (skipped, index) = (offset % WORD_BYTES, offset / WORD_BYTES);
        let index = u64::try_from(index).expect("64 bits hold a length");
        let mut word = self.key.wrapping_add(STEP.wrapping_mul(index));
        let mut rest = bytes;
        if skipped > 0 {
            let (head, tail) = bytes.split_at(bytes.len().min(WORD_BYTES - skipped));
            if head != &word.to_le_bytes()[skipped..skipped + head.len()] {
                return false;
            }
            word = word.wrapping_add(STEP);
            rest = tail;
        }
        let (words, tail) = rest.as_chunks::<WORD_BYTES>();
        for chunk in words {
            if u64::from_le_bytes(*chunk) != word {
                return false;
            }
            word = word.wrapping_add(STEP);
        }
        tail == &word.to_le_bytes()[..tail.len()]
    }
}

/// The finalizer of SplitMix64: every bit of the result depends on every bit of `value`.
const fn mix(value: u64) -> u64 {
    let value = value.wrapping_add(STEP);
    let value = (value ^ (value >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    value ^ (value >> 31)
}

const WORD_BYTES: usize = 8;
/// The golden ratio's fraction, made odd: from one word to the next every byte changes.
const STEP: u64 = 0x9E37_79B9_7F4A_7C15;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(pattern: Pattern, bytes: usize) -> Vec<u8> {
        let mut message = vec![1, 2, 3];
        pattern.append(&mut message, bytes);
        message.split_off(3)
    }

    #[test]
    fn what_was_moved_or_belongs_to_another_message_does_not_match() {
        let pattern = Pattern::new(3, 1, 7);
        let whole = message(pattern, 4_096);
        assert!(pattern.matches(0, &whole));
        for other in [Pattern::new(4, 1, 7), Pattern::new(3, 2, 7), Pattern::new(3, 1, 8)] {
            assert!(!other.matches(0, &whole));
            assert!(!other.matches(4_088, &whole[4_088..]));
        }
        for moved in [1, 7, 8, 9, 64, 256, 2_048] {
            assert!(!pattern.matches(moved, &whole[..2_048]), "{moved}");
        }
    }

    proptest! {
        #[test]
        fn any_cut_matches_and_any_changed_byte_does_not(
            length in 1_usize..300,
            cuts in prop::collection::vec(0_usize..300, 0..6),
            changed in any::<prop::sample::Index>(),
            by in 1_u8..,
            number in any::<u64>(),
        ) {
            let pattern = Pattern::new(number, 0, number);
            let mut whole = message(pattern, length);
            let mut ends: Vec<usize> = cuts.into_iter().filter(|&cut| cut < length).collect();
            ends.push(length);
            ends.sort_unstable();
            let parts = |whole: &[u8]| {
                let mut offset = 0;
                ends.iter().all(|&end| {
                    let matches = pattern.matches(offset, &whole[offset..end]);
                    offset = end;
                    matches
                })
            };
            prop_assert!(parts(&whole));
            whole[changed.index(length)] ^= by;
            prop_assert!(!parts(&whole));
        }
    }
}
