//! What alternating rounds come down to: values flow in, the middle one flows out, so that a round
//! that was disturbed does not count.

use std::cmp::Ordering;

/// The middle value; of an even number of values the upper one of both in the middle.
pub(crate) fn median<T: Copy + PartialOrd>(values: &[T]) -> Option<T> {
    let mut sorted = values.to_vec();
    sorted.sort_by(|a, b| a.partial_cmp(b).unwrap_or(Ordering::Equal));
    sorted.get(sorted.len() / 2).copied()
}
