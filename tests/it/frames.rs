//! Probe frames of every wire version in a stream of bytes, read without the product's own
//! decoder: bytes in, versions, sequence numbers and positions out.

/// One frame in a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) version: u8,
    pub(crate) sequence: u64,
    /// Offset of its first byte.
    pub(crate) start: usize,
    /// Offset of the byte after its last.
    pub(crate) end: usize,
}

/// Bytes of a v1 frame.
pub(crate) const V1_BYTES: usize = 16;
/// Bytes of a v2 frame.
pub(crate) const V2_BYTES: usize = 24;
/// How a v2 frame begins (seeds.md A2).
pub(crate) const V2_MAGIC: [u8; 8] = *b"TCPPING\0";

/// A v1 frame as the seed v0.2 sends it.
pub(crate) fn v1(sequence: u64, unix_ns: u64) -> Vec<u8> {
    [sequence.to_le_bytes(), unix_ns.to_le_bytes()].concat()
}

/// A v2 frame as the seed's HEAD sends it.
pub(crate) fn v2(sequence: u64, unix_ns: u64) -> Vec<u8> {
    [V2_MAGIC, sequence.to_le_bytes(), unix_ns.to_le_bytes()].concat()
}

/// Every whole frame, in order.
pub(crate) fn parse(bytes: &[u8]) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut start = 0;
    while let Some((version, length, sequence_at)) = shape(&bytes[start..]) {
        let end = start + length;
        if end > bytes.len() {
            break;
        }
        let sequence = word(&bytes[start + sequence_at..]);
        frames.push(Frame { version, sequence, start, end });
        start = end;
    }
    frames
}

/// The little-endian number that bytes begin with.
pub(crate) fn word(bytes: &[u8]) -> u64 {
    u64::from_le_bytes(bytes[..8].try_into().unwrap())
}

/// Version, length and offset of the sequence number of the frame that begins here; `None` until
/// enough bytes are there to tell.
fn shape(bytes: &[u8]) -> Option<(u8, usize, usize)> {
    let magic: [u8; 8] = bytes.get(..8)?.try_into().unwrap();
    match magic {
        V2_MAGIC => Some((2, V2_BYTES, 8)),
        _ => Some((1, V1_BYTES, 0)),
    }
}
