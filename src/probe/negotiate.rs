//! Finding out what a peer speaks from what it sends back for a hello (see `wire`). The bytes that
//! come back go in, the version comes out; older peers are told apart without being disturbed.

use crate::dial::later;
use crate::time::{Mono, Now, Wall};
use crate::wire::{self, Version};

/// A hello that waits for its answer.
#[derive(Debug)]
pub(super) struct Hello {
    sent: [u8; wire::V2_BYTES],
    sent_at: Mono,
    give_up_at: Mono,
    answer: [u8; 2 * wire::V1_BYTES],
    answer_bytes: usize,
    /// When a peer that still holds back the rest of the echo is taken for one with v1 frames.
    fill_at: Option<Mono>,
    fill_sent: bool,
}

/// What the bytes so far say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Not enough yet.
    Incomplete,
    /// The peer speaks this; for v3, whether its stamps are its kernel's.
    Speaks(Version, bool),
    /// Neither an echo nor an answer.
    Nonsense,
}

impl Hello {
    /// A hello to be sent now.
    pub(super) fn new(at: Now) -> Self {
        Self {
            sent: wire::encode_hello(at.wall),
            sent_at: at.mono,
            give_up_at: later(at.mono, ANSWER_NS_MAX),
            answer: [0; 2 * wire::V1_BYTES],
            answer_bytes: 0,
            fill_at: None,
            fill_sent: false,
        }
    }

    /// What to send.
    pub(super) const fn bytes(&self) -> &[u8] {
        &self.sent
    }

    /// Takes bytes of the answer from the front of `input`, no more than belong to it.
    pub(super) fn read(&mut self, input: &mut &[u8], at: Mono) -> Answer {
        let wanted = if self.fill_sent { self.answer.len() } else { wire::V2_BYTES };
        let (taken, rest) = input.split_at(input.len().min(wanted - self.answer_bytes));
        self.answer[self.answer_bytes..self.answer_bytes + taken.len()].copy_from_slice(taken);
        self.answer_bytes += taken.len();
        *input = rest;
        let answer = &self.answer[..self.answer_bytes];
        if let Some(reply) = wire::decode_hello_reply(answer) {
            return Answer::Speaks(Version::V3, reply.kernel_stamps);
        }
        if !self.may_become_answer(answer) {
            return Answer::Nonsense;
        }
        let held_back = self.is_echo(answer) && answer.len() == wire::V1_BYTES && !self.fill_sent;
        self.fill_at = held_back.then(|| {
            // The rest of an echo in two pieces comes within about the time of the first.
            let elapsed_ns = at.as_ns().saturating_sub(self.sent_at.as_ns());
            later(at, elapsed_ns.clamp(FILL_DELAY_NS_MIN, FILL_DELAY_NS_MAX))
        });
        match (answer.len(), self.fill_sent) {
            (wire::V2_BYTES, false) => Answer::Speaks(Version::V2, false),
            (length, true) if length == wanted => Answer::Speaks(Version::V1, false),
            _ => Answer::Incomplete,
        }
    }

    /// The fill, if it is time for it.
    pub(super) fn take_fill(&mut self, at: Mono) -> Option<&'static [u8]> {
        self.fill_at.take_if(|fill_at| at >= *fill_at)?;
        self.fill_sent = true;
        Some(&wire::FILL)
    }

    /// Whether the peer has had its time.
    pub(super) fn is_over(&self, at: Mono) -> bool {
        at >= self.give_up_at
    }

    /// When to look again.
    pub(super) fn deadline(&self) -> Mono {
        self.fill_at.map_or(self.give_up_at, |fill_at| fill_at.min(self.give_up_at))
    }

    /// Whether `answer` is the beginning of what was sent, the fill included.
    fn is_echo(&self, answer: &[u8]) -> bool {
        let (hello, fill) = answer.split_at(answer.len().min(wire::V2_BYTES));
        self.sent.starts_with(hello) && wire::FILL.starts_with(fill)
    }

    fn may_become_answer(&self, answer: &[u8]) -> bool {
        // The third word of a reply is judged when it is complete.
        let reserved = wire::encode_v2(wire::HELLO_REPLY_SEQ, Wall::default());
        let known = answer.len().min(wire::V1_BYTES);
        let is_reply = answer.len() < wire::V2_BYTES && reserved.starts_with(&answer[..known]);
        is_reply || self.is_echo(answer)
    }
}

/// How long an answer may take.
const ANSWER_NS_MAX: u64 = 3_000_000_000;
/// Bounds of the wait for the rest of an echo whose first 16 bytes came alone.
const FILL_DELAY_NS_MIN: u64 = 5_000_000;
const FILL_DELAY_NS_MAX: u64 = 200_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Now = Now { mono: Mono::from_ns(1_000), wall: Wall::from_ns(77) };

    /// Feeds pieces; before each, the fill is sent if its time has come after `wait_ns`.
    fn check(pieces: &[(u64, &[u8])], expected: Answer, left: usize) {
        let mut hello = Hello::new(SENT);
        let mut now = SENT.mono;
        let mut answer = Answer::Incomplete;
        let mut rest = 0;
        for (wait_ns, piece) in pieces {
            assert_eq!(answer, Answer::Incomplete);
            now = later(now, *wait_ns);
            let _ = hello.take_fill(now);
            let mut input = *piece;
            answer = hello.read(&mut input, now);
            rest = input.len();
        }
        assert_eq!((answer, rest), (expected, left));
    }

    #[test]
    fn peers_are_told_apart_by_their_first_bytes() {
        let echo = wire::encode_hello(SENT.wall);
        let reply = wire::encode_hello_reply(wire::HelloReply { kernel_stamps: true });
        let old = wire::encode_v2(wire::HELLO_REPLY_SEQ, Wall::from_ns(1));
        check(&[(1, &reply)], Answer::Speaks(Version::V3, true), 0);
        check(&[(1, &reply[..16]), (1 << 40, &reply[16..])], Answer::Speaks(Version::V3, true), 0);
        check(&[(1, &echo)], Answer::Speaks(Version::V2, false), 0);
        check(&[(1, &[&echo[..], b"xyz"].concat())], Answer::Speaks(Version::V2, false), 3);
        check(&[(1, &echo[..16]), (1, &echo[16..])], Answer::Speaks(Version::V2, false), 0);
        check(&[(1, &echo[..9]), (1 << 40, &echo[9..])], Answer::Speaks(Version::V2, false), 0);
        let rest = [&echo[16..], &wire::FILL].concat();
        check(&[(1, &echo[..16]), (1 << 30, &rest)], Answer::Speaks(Version::V1, false), 0);
        check(&[(1, &echo[..16]), (1 << 30, &rest[..8])], Answer::Incomplete, 0);
        check(&[(1, &echo[..16]), (1 << 30, b"x")], Answer::Nonsense, 0);
        check(&[(1, &old)], Answer::Nonsense, 0);
        check(&[(1, b"HTTP/1.1 400 Bad Request")], Answer::Nonsense, 0);
        check(&[(1, b"T")], Answer::Incomplete, 0);
    }

    #[test]
    fn fill_is_sent_once_and_only_when_the_rest_is_held_back() {
        let echo = wire::encode_hello(SENT.wall);
        let mut hello = Hello::new(SENT);
        let answered = later(SENT.mono, 20_000_000);
        assert_eq!(hello.read(&mut &echo[..16], answered), Answer::Incomplete);
        assert_eq!(hello.take_fill(answered), None);
        let fill_at = hello.deadline();
        assert_eq!(fill_at.since_ns(answered), 20_000_000);
        assert_eq!(hello.take_fill(fill_at), Some(&[0_u8; 8][..]));
        assert_eq!(hello.take_fill(fill_at), None);
        assert!(!hello.is_over(fill_at));
        assert!(hello.is_over(hello.deadline()));
    }
}
