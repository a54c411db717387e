//! Any bytes as a stream of frames, in any split: nothing panics, the split does not matter, no
//! byte is lost or invented, and what was decoded encodes to the same again.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rttscope::wire::{self, Frame, Framer, Version};

fuzz_target!(|data: &[u8]| {
    let [version, cut, stream @ ..] = data else { return };
    let version = [Version::V1, Version::V2, Version::V3][usize::from(*version) % 3];
    let cut = usize::from(*cut).max(1);
    let (whole, garbage_whole) = frames(version, [stream].into_iter());
    let (split, garbage_split) = frames(version, stream.chunks(cut));
    assert_eq!(whole, split);
    assert_eq!(garbage_whole, garbage_split);

    let header_bytes = version.header_bytes();
    let framed = |frame: &Frame| header_bytes + usize::from(frame.padding_bytes);
    let framed_bytes: usize = whole.iter().map(framed).sum();
    let garbage_bytes = usize::try_from(garbage_whole).expect("no more than came in");
    assert!(framed_bytes + garbage_bytes <= stream.len());

    for frame in &whole {
        let again = match version {
            Version::V1 => wire::decode(version, &wire::encode_v1(frame.seq, frame.sent)),
            Version::V2 => wire::decode(version, &wire::encode_v2(frame.seq, frame.sent)),
            Version::V3 => wire::decode(version, &wire::encode_v3(frame)),
        };
        assert_eq!(again.as_ref(), Some(frame));
    }
    let is_hello = wire::is_hello(stream);
    assert!(!(is_hello && wire::decode_hello_reply(stream).is_some()));
});

/// The frames in a stream that arrives in these pieces, and the bytes that were in none.
fn frames<'a>(version: Version, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<Frame>, u64) {
    let mut framer = Framer::new(version);
    let mut frames = Vec::new();
    for mut piece in pieces {
        while let Some(frame) = framer.next(&mut piece) {
            frames.push(frame);
        }
        assert!(piece.is_empty(), "a framer takes everything");
    }
    (frames, framer.take_garbage_bytes())
}
