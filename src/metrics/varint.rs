//! Whole numbers in as few bytes as they need: seven bits a byte, the lowest first, as protobuf
//! has them. Scrapes keep and send millions of counts, and most are small.

/// Appends a number.
pub(super) fn append(into: &mut Vec<u8>, mut number: u64) {
    loop {
        let [low, ..] = number.to_le_bytes();
        number >>= 7;
        if number == 0 {
            into.push(low & 0x7f);
            return;
        }
        into.push(low | 0x80);
    }
}

/// How many bytes [`append`] appends.
pub(super) fn length(number: u64) -> usize {
    let bits = u64::BITS - (number | 1).leading_zeros();
    usize::try_from(bits.div_ceil(7)).expect("ten at most")
}

/// Takes the number that the bytes begin with. They were written by [`append`].
pub(super) fn take(bytes: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    while let Some((&byte, rest)) = bytes.split_first() {
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            break;
        }
        shift += 7;
    }
    number
}

/// A signed number as an unsigned one: numbers near zero stay small.
pub(super) const fn zigzag(number: i64) -> u64 {
    ((number << 1) ^ (number >> 63)).cast_unsigned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(numbers: Vec<(u64, i64)>) {
            let mut bytes = Vec::new();
            for &(unsigned, signed) in &numbers {
                let begins = bytes.len();
                append(&mut bytes, unsigned);
                prop_assert_eq!(bytes.len() - begins, length(unsigned));
                append(&mut bytes, zigzag(signed));
            }
            let mut rest = &*bytes;
            for (unsigned, signed) in numbers {
                prop_assert_eq!(take(&mut rest), unsigned);
                let taken = take(&mut rest);
                let distance = (taken >> 1).cast_signed();
                prop_assert_eq!(if taken & 1 == 0 { distance } else { !distance }, signed);
            }
            prop_assert!(rest.is_empty());
        }
    }

    #[test]
    fn small_numbers_are_small() {
        let check = |number: u64, expected: &[u8]| {
            let mut bytes = Vec::new();
            append(&mut bytes, number);
            assert_eq!((&*bytes, bytes.len()), (expected, length(number)), "{number}");
        };
        check(0, &[0]);
        check(127, &[0x7f]);
        check(300, &[0xac, 0x02]);
        assert_eq!([0, -1, 1, -2].map(zigzag), [0, 1, 2, 3]);
    }
}
