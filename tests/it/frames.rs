//! Probe frames of every wire version in a stream of bytes, read without the product's own
//! decoder: bytes in, versions, sequence numbers and positions out.

/// One probe or reply in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) version: u8,
    pub(crate) sequence: u64,
    /// Offset of the byte after its last.
    pub(crate) end: usize,
}

/// Bytes of a v1 frame.
pub(crate) const V1_BYTES: usize = 16;
/// Bytes of a v2 frame.
pub(crate) const V2_BYTES: usize = 24;
/// Bytes of a v3 frame before its padding.
pub(crate) const V3_BYTES: usize = 56;
/// The sequence of the frame with which a prober offers v3.
pub(crate) const HELLO: u64 = 0xFFFF_FFFF_5254_5403;
/// The sequence of the answer that accepts v3.
pub(crate) const HELLO_REPLY: u64 = 0xFFFF_FFFF_5254_5483;
/// How v2 and v3 frames begin.
pub(crate) const V2_MAGIC: [u8; 8] = *b"TCPPING\0";

/// A v1 frame as the seed v0.2 sends it.
pub(crate) fn v1(sequence: u64, unix_ns: u64) -> Vec<u8> {
    [sequence.to_le_bytes(), unix_ns.to_le_bytes()].concat()
}

/// A v2 frame as the seed's HEAD sends it.
pub(crate) fn v2(sequence: u64, unix_ns: u64) -> Vec<u8> {
    [V2_MAGIC, sequence.to_le_bytes(), unix_ns.to_le_bytes()].concat()
}

/// The probes of one connection and their replies, whole frames in order. What belongs to the
/// negotiation of v3, or only fetches a stamp, is left out.
pub(crate) fn parse(requests: &[u8], replies: &[u8]) -> (Vec<Frame>, Vec<Frame>) {
    let (version, skipped) = negotiated(requests, replies);
    (parse_from(skipped, version, requests), parse_from(skipped, version, replies))
}

/// The little-endian number at an offset.
pub(crate) fn word(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at + 8)?.try_into().unwrap()))
}

/// The version spoken, and how many bytes of each direction come before it.
fn negotiated(requests: &[u8], replies: &[u8]) -> (u8, usize) {
    let magic = |at: usize| requests.get(at..at + 8) == Some(&V2_MAGIC);
    if !magic(0) {
        return (1, 0);
    }
    if word(requests, 8) != Some(HELLO) {
        return (2, 0);
    }
    match word(replies, 8) {
        Some(HELLO_REPLY) => (3, V2_BYTES),
        _ if magic(V2_BYTES) => (2, V2_BYTES),
        // A server of 16-byte frames gets the hello filled up to two of them.
        _ => (1, 2 * V1_BYTES),
    }
}

fn parse_from(mut start: usize, version: u8, bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    loop {
        let rest = bytes.get(start..).unwrap_or_default();
        let tail = word(rest, V3_BYTES - 8).unwrap_or(0);
        let (length, sequence_at) = match version {
            1 => (V1_BYTES, 0),
            2 => (V2_BYTES, 8),
            // Flags are the tail's low 16 bits, the padding's length the next 16.
            _ => (V3_BYTES + usize::try_from(tail >> 16 & 0xFFFF).unwrap(), 8),
        };
        if rest.len() < length {
            return frames;
        }
        assert!(version == 1 || rest.starts_with(&V2_MAGIC), "no frame at byte {start}");
        start += length;
        let follow_up = version == 3 && tail & 1 == 1;
        if !follow_up {
            let sequence = word(rest, sequence_at).unwrap();
            frames.push(Frame { version, sequence, end: start });
        }
    }
}
