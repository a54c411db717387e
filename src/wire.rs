//! What probes and replies look like as bytes, all little-endian. Sequence numbers and stamps go
//! in, fixed arrays come out, and the other way round; decoders accept any bytes and never panic.
//!
//! | version | bytes | layout |
//! |---|---|---|
//! | v1 | 16 | sequence u64, Unix ns u64 (tcp_ping_prometheus v0.2) |
//! | v2 | 24 | `TCPPING\0`, sequence u64, Unix ns u64 (tcp_ping_prometheus v0.3.1) |
//! | v3 | 56 + padding | see [`encode_v3`] |
//!
//! A v3 prober opens with a *hello*: one well-formed v2 frame with a reserved sequence, so that
//! every older responder stays in step. What comes back tells what the peer speaks:
//!
//! | back | peer | spoken |
//! |---|---|---|
//! | 24 bytes with the reserved reply sequence | rttscope | v3 |
//! | the hello unchanged | a v2 server, or any raw echo | v2 |
//! | the hello's first 16 bytes, 8 held back | a v1 server | v1, after 8 bytes of fill |

use crate::time::Wall;

/// First bytes of every v2 and v3 frame.
pub const MAGIC: [u8; 8] = *b"TCPPING\0";
/// Bytes of a v1 frame.
pub const V1_BYTES: usize = 16;
/// Bytes of a v2 frame, of a hello and of its answer.
pub const V2_BYTES: usize = 24;
/// Bytes of a v3 frame without padding.
pub const V3_HEADER_BYTES: usize = 56;
/// Most bytes of padding behind a v3 header.
pub const V3_PADDING_BYTES_MAX: u16 = 1_400;
/// Fill sent to a v1 server, so that a hello becomes two of its frames.
pub const FILL: [u8; 2 * V1_BYTES - V2_BYTES] = [0; 2 * V1_BYTES - V2_BYTES];
/// The sequence that makes a v2 frame a hello. Probes count from 1 and never get there.
pub const HELLO_SEQ: u64 = 0xFFFF_FFFF_5254_5403;
/// The sequence of a v3 responder's answer to a hello.
pub const HELLO_REPLY_SEQ: u64 = 0xFFFF_FFFF_5254_5483;
/// v3 flag: no probe, sent to fetch the transmit stamp of the reply before it. Kept in the reply.
pub const FLAG_FOLLOW_UP: u16 = 1;

/// A wire format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// 16-byte frames without a magic.
    V1,
    /// 24-byte frames.
    V2,
    /// Frames with the responder's stamps.
    V3,
}

impl Version {
    /// 1, 2 or 3.
    #[must_use]
    pub const fn number(self) -> u64 {
        match self {
            Self::V1 => 1,
            Self::V2 => 2,
            Self::V3 => 3,
        }
    }

    /// Bytes before the padding.
    #[must_use]
    pub const fn header_bytes(self) -> usize {
        match self {
            Self::V1 => V1_BYTES,
            Self::V2 => V2_BYTES,
            Self::V3 => V3_HEADER_BYTES,
        }
    }
}

/// A decoded frame of any version; what a version lacks is `None` or 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Frame {
    /// The probe's number.
    pub seq: u64,
    /// The prober's wall clock when it sent the probe. For people who read captures; never used.
    pub sent: Wall,
    /// When the responder's kernel received the probe.
    pub rx: Option<Wall>,
    /// When the responder's kernel sent an earlier reply.
    pub previous: Option<PreviousTx>,
    /// `FLAG_*`.
    pub flags: u16,
    /// Bytes that follow the header and mean nothing.
    pub padding_bytes: u16,
}

/// A transmit stamp exists only after sending, so it travels with a later reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreviousTx {
    /// The reply it belongs to.
    pub seq: u64,
    /// When it left.
    pub tx: Wall,
}

/// What a v3 responder says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloReply {
    /// Its stamps are its kernel's. Without, it sends none.
    pub kernel_stamps: bool,
}

/// A v1 frame.
#[must_use]
pub fn encode_v1(seq: u64, sent: Wall) -> [u8; V1_BYTES] {
    encode([seq, sent.as_ns()])
}

/// A v2 frame.
#[must_use]
pub fn encode_v2(seq: u64, sent: Wall) -> [u8; V2_BYTES] {
    encode([u64::from_le_bytes(MAGIC), seq, sent.as_ns()])
}

/// A v3 header: magic, sequence, the prober's Unix ns, the responder's receive stamp, an earlier
/// reply's sequence and transmit stamp (Unix ns, 0 for none), flags u16, padding length u16,
/// four reserved bytes that are sent as 0 and not read.
#[must_use]
pub fn encode_v3(frame: &Frame) -> [u8; V3_HEADER_BYTES] {
    let (previous_seq, previous_tx_ns) =
        frame.previous.map_or((0, 0), |previous| (previous.seq, previous.tx.as_ns()));
    encode([
        u64::from_le_bytes(MAGIC),
        frame.seq,
        frame.sent.as_ns(),
        frame.rx.map_or(0, Wall::as_ns),
        previous_seq,
        previous_tx_ns,
        u64::from(frame.flags) | u64::from(frame.padding_bytes) << 16,
    ])
}

/// The first bytes of a connection on which v3 is offered.
#[must_use]
pub fn encode_hello(sent: Wall) -> [u8; V2_BYTES] {
    encode_v2(HELLO_SEQ, sent)
}

/// A v3 responder's answer: the third word is the version, and bit 16 says whose the stamps are.
#[must_use]
pub fn encode_hello_reply(reply: HelloReply) -> [u8; V2_BYTES] {
    let word = Version::V3.number() | u64::from(reply.kernel_stamps) << 16;
    encode([u64::from_le_bytes(MAGIC), HELLO_REPLY_SEQ, word])
}

/// The frame at the start of `bytes`; `None` if they are too few or no frame of that version.
#[must_use]
pub fn decode(version: Version, bytes: &[u8]) -> Option<Frame> {
    let (words, _) = bytes.as_chunks::<8>();
    match (version, words) {
        (Version::V1, [seq, sent, ..]) => {
            Some(Frame { seq: number(seq), sent: Wall::from_ns(number(sent)), ..Frame::default() })
        }
        (Version::V2, [MAGIC, seq, sent, ..]) => {
            Some(Frame { seq: number(seq), sent: Wall::from_ns(number(sent)), ..Frame::default() })
        }
        (Version::V3, [MAGIC, seq, sent, rx, previous_seq, previous_tx, tail, ..]) => {
            let [flags_low, flags_high, padding_low, padding_high, ..] = *tail;
            let padding_bytes = u16::from_le_bytes([padding_low, padding_high]);
            (padding_bytes <= V3_PADDING_BYTES_MAX).then(|| Frame {
                seq: number(seq),
                sent: Wall::from_ns(number(sent)),
                rx: stamp(rx),
                previous: stamp(previous_tx).map(|tx| PreviousTx { seq: number(previous_seq), tx }),
                flags: u16::from_le_bytes([flags_low, flags_high]),
                padding_bytes,
            })
        }
        _ => None,
    }
}

/// Whether a connection that begins with `bytes` is a v3 prober's.
#[must_use]
pub fn is_hello(bytes: &[u8]) -> bool {
    decode(Version::V2, bytes).is_some_and(|frame| frame.seq == HELLO_SEQ)
}

/// The answer to a hello at the start of `bytes`.
#[must_use]
pub fn decode_hello_reply(bytes: &[u8]) -> Option<HelloReply> {
    let reply = decode(Version::V2, bytes).filter(|frame| frame.seq == HELLO_REPLY_SEQ)?;
    let word = reply.sent.as_ns();
    // A newer responder still speaks what this one offered: the hello's sequence names v3.
    (word & 0xFFFF >= Version::V3.number())
        .then_some(HelloReply { kernel_stamps: word >> 16 & 1 == 1 })
}

/// Cuts a byte stream, however it was split, into frames.
///
/// v1 has no magic, so its framing is by count and never moves: a lost byte cannot happen on TCP,
/// and frames that are not ours show as unknown sequences. v2 and v3 are found again after bad
/// bytes by their magic; what was passed over is counted.
#[derive(Clone, Debug)]
pub struct Framer {
    version: Version,
    header: [u8; V3_HEADER_BYTES],
    filled: usize,
    /// A frame whose padding has not come in whole.
    incomplete: Option<Frame>,
    padding_left: usize,
    garbage_bytes: u64,
}

impl Framer {
    /// A framer at the start of a frame.
    #[must_use]
    pub const fn new(version: Version) -> Self {
        Self {
            version,
            header: [0; V3_HEADER_BYTES],
            filled: 0,
            incomplete: None,
            padding_left: 0,
            garbage_bytes: 0,
        }
    }

    /// The next complete frame; takes its bytes from the front of `input`. After `None`, `input`
    /// is empty.
    pub fn next(&mut self, input: &mut &[u8]) -> Option<Frame> {
        loop {
            if let Some(frame) = self.incomplete {
                let padding = self.padding_left.min(input.len());
                *input = &input[padding..];
                self.padding_left -= padding;
                if self.padding_left > 0 {
                    return None;
                }
                self.incomplete = None;
                return Some(frame);
            }
            let header_bytes = self.version.header_bytes();
            let (taken, rest) = input.split_at(input.len().min(header_bytes - self.filled));
            self.header[self.filled..self.filled + taken.len()].copy_from_slice(taken);
            self.filled += taken.len();
            *input = rest;
            self.pass_over_garbage();
            if self.filled == header_bytes {
                match decode(self.version, &self.header) {
                    Some(frame) => {
                        self.filled = 0;
                        self.padding_left = usize::from(frame.padding_bytes);
                        self.incomplete = Some(frame);
                    }
                    None => {
                        self.discard(1);
                        self.pass_over_garbage();
                    }
                }
            } else if input.is_empty() {
                return None;
            }
        }
    }

    /// How many bytes were no part of any frame since this was last asked.
    pub fn take_garbage_bytes(&mut self) -> u64 {
        std::mem::take(&mut self.garbage_bytes)
    }

    /// Drops bytes that cannot be the start of a frame.
    fn pass_over_garbage(&mut self) {
        if self.version == Version::V1 {
            return;
        }
        let header = &self.header[..self.filled];
        let start = (0..self.filled).find(|&start| {
            let candidate = &header[start..];
            let known = candidate.len().min(MAGIC.len());
            candidate[..known] == MAGIC[..known]
        });
        self.discard(start.unwrap_or(self.filled));
    }

    fn discard(&mut self, bytes: usize) {
        self.header.copy_within(bytes..self.filled, 0);
        self.filled -= bytes;
        self.garbage_bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
    }
}

/// `WORDS` numbers as `BYTES` bytes; `BYTES` is eight times `WORDS`.
fn encode<const WORDS: usize, const BYTES: usize>(words: [u64; WORDS]) -> [u8; BYTES] {
    const { assert!(WORDS * 8 == BYTES) };
    let mut bytes = [0; BYTES];
    for (slot, word) in bytes.as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *slot = word.to_le_bytes();
    }
    bytes
}

const fn number(word: &[u8; 8]) -> u64 {
    u64::from_le_bytes(*word)
}

/// A stamp on the wire; 0 is none.
fn stamp(word: &[u8; 8]) -> Option<Wall> {
    Some(number(word)).filter(|ns| *ns != 0).map(Wall::from_ns)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Frames as `(seq, padding)` and garbage bytes that come out of `chunks`.
    fn check(version: Version, chunks: &[&[u8]], frames: &[(u64, u16)], garbage_bytes: u64) {
        let mut framer = Framer::new(version);
        let mut out = Vec::new();
        for chunk in chunks {
            let mut input = *chunk;
            while let Some(frame) = framer.next(&mut input) {
                out.push((frame.seq, frame.padding_bytes));
            }
            assert!(input.is_empty());
        }
        assert_eq!(out, frames);
        assert_eq!(framer.take_garbage_bytes(), garbage_bytes);
    }

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text
            .chars()
            .filter_map(|digit| digit.to_digit(16))
            .map(|digit| u8::try_from(digit).expect("a digit is below 16"))
            .collect();
        digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
    }

    #[test]
    fn v1_and_v2_are_the_bytes_of_the_systems_replaced() {
        let sent = Wall::from_ns(0x18e9_ef53_3bff_2b4c);
        assert_eq!(encode_v1(1, sent).to_vec(), hex("0100000000000000 4c2bff3b53efe918"));
        // Captured from a v0.3 client.
        let captured = hex("5443505049 4e4700 | 0100000000000000 | 4c2bff3b53efe918");
        assert_eq!(encode_v2(1, sent).to_vec(), captured);
        let frame = Frame { seq: 1, sent, ..Frame::default() };
        assert_eq!(decode(Version::V2, &captured), Some(frame));
        assert_eq!(decode(Version::V1, &captured[8..]), Some(frame));
        assert_eq!(
            encode_v1(u64::MAX - 1, Wall::from_ns(2)).to_vec(),
            hex("feffffffffffffff 0200000000000000")
        );
    }

    #[test]
    fn v3_is_these_bytes() {
        let frame = Frame {
            seq: 0x0102,
            sent: Wall::from_ns(3),
            rx: Some(Wall::from_ns(4)),
            previous: Some(PreviousTx { seq: 5, tx: Wall::from_ns(6) }),
            flags: FLAG_FOLLOW_UP,
            padding_bytes: 0x0203,
        };
        let expected = hex("5443505049 4e4700 0201000000000000 0300000000000000 0400000000000000 \
             0500000000000000 0600000000000000 0100 0302 00000000");
        assert_eq!(encode_v3(&frame).to_vec(), expected);
    }

    #[test]
    fn a_hello_is_a_v2_frame_and_only_a_hello() {
        let hello = encode_hello(Wall::from_ns(7));
        assert_eq!(hello.to_vec(), hex("5443505049 4e4700 0354 5452 ffffffff 0700000000000000"));
        assert!(is_hello(&hello));
        assert!(!is_hello(&hello[..23]));
        assert!(!is_hello(&encode_v2(1, Wall::from_ns(7))));
        for kernel_stamps in [false, true] {
            let reply = HelloReply { kernel_stamps };
            assert_eq!(decode_hello_reply(&encode_hello_reply(reply)), Some(reply));
        }
        assert_eq!(decode_hello_reply(&hello), None);
        let older = encode_v2(HELLO_REPLY_SEQ, Wall::from_ns(2));
        assert_eq!(decode_hello_reply(&older), None);
    }

    #[test]
    fn frames_are_found_again_after_garbage() {
        let one = encode_v2(1, Wall::from_ns(9));
        let two = encode_v2(2, Wall::from_ns(9));
        check(Version::V2, &[&one, &two], &[(1, 0), (2, 0)], 0);
        check(Version::V2, &[b"TCPPIN", &one, b"TC", &two], &[(1, 0), (2, 0)], 8);
        // TCP loses no bytes, but if a peer does: one frame of an unknown sequence, then in step.
        let torn = u64::from_le_bytes(*b"\x01\x00TCPPIN");
        check(Version::V2, &[&one[..10], &two, &one], &[(torn, 0), (1, 0)], 10);
        check(Version::V2, &[&one[..5], &one[5..], &[0; 100], &two], &[(1, 0), (2, 0)], 100);
        check(Version::V1, &[&encode_v1(4, Wall::from_ns(1))[..15], &[0]], &[(4, 0)], 0);
    }

    #[test]
    fn a_padding_beyond_the_limit_is_no_frame() {
        let mut bytes = encode_v3(&Frame { seq: 3, ..Frame::default() });
        bytes[50..52].copy_from_slice(&(V3_PADDING_BYTES_MAX + 1).to_le_bytes());
        check(Version::V3, &[&bytes], &[], 56);
        let padded = Frame { seq: 3, padding_bytes: 2, ..Frame::default() };
        let next = encode_v3(&Frame { seq: 4, ..Frame::default() });
        check(Version::V3, &[&encode_v3(&padded), b"T", b"C", &next], &[(3, 2), (4, 0)], 0);
    }

    fn versions() -> impl Strategy<Value = Version> {
        prop_oneof![Just(Version::V1), Just(Version::V2), Just(Version::V3)]
    }

    proptest! {
        #[test]
        fn v3_round_trips(
            seq: u64, sent: u64, rx in proptest::option::of(1_u64..),
            previous in proptest::option::of((0_u64.., 1_u64..)), flags: u16,
            padding_bytes in 0..=V3_PADDING_BYTES_MAX,
        ) {
            let frame = Frame {
                seq,
                sent: Wall::from_ns(sent),
                rx: rx.map(Wall::from_ns),
                previous: previous.map(|(seq, tx)| PreviousTx { seq, tx: Wall::from_ns(tx) }),
                flags,
                padding_bytes,
            };
            prop_assert_eq!(decode(Version::V3, &encode_v3(&frame)), Some(frame));
        }

        #[test]
        fn any_bytes_are_taken_whole_and_in_any_split(
            version in versions(),
            chunks in vec(vec(any::<u8>(), 0..80), 0..20),
        ) {
            let mut split = Framer::new(version);
            let mut whole = Framer::new(version);
            let (mut by_split, mut by_whole) = (Vec::new(), Vec::new());
            for chunk in &chunks {
                let mut input = chunk.as_slice();
                while let Some(frame) = split.next(&mut input) {
                    by_split.push(frame);
                }
            }
            let joined = chunks.concat();
            let mut input = joined.as_slice();
            while let Some(frame) = whole.next(&mut input) {
                by_whole.push(frame);
            }
            prop_assert_eq!(by_split, by_whole);
            prop_assert_eq!(split.take_garbage_bytes(), whole.take_garbage_bytes());
            let _ = (decode(version, &joined), is_hello(&joined), decode_hello_reply(&joined));
        }

        #[test]
        fn frames_survive_any_split(
            version in prop_oneof![Just(Version::V2), Just(Version::V3)],
            count in 1_u64..20,
            garbage in vec(128_u8.., 0..40),
            cut in 1_usize..100,
        ) {
            let mut bytes = garbage.clone();
            for seq in 1..=count {
                match version {
                    Version::V3 => {
                        let padding_bytes = u16::try_from(seq * 7).expect("small");
                        let frame = Frame { seq, padding_bytes, ..Frame::default() };
                        bytes.extend(encode_v3(&frame));
                        bytes.resize(bytes.len() + usize::from(padding_bytes), 0xA5);
                    }
                    _ => bytes.extend(encode_v2(seq, Wall::from_ns(seq))),
                }
            }
            let mut framer = Framer::new(version);
            let mut seqs = Vec::new();
            for mut input in bytes.chunks(cut) {
                while let Some(frame) = framer.next(&mut input) {
                    seqs.push(frame.seq);
                }
            }
            prop_assert_eq!(seqs, (1..=count).collect::<Vec<_>>());
            let garbage_bytes = u64::try_from(garbage.len()).expect("small");
            prop_assert_eq!(framer.take_garbage_bytes(), garbage_bytes);
        }
    }
}
