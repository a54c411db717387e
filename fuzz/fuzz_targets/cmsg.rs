//! Any bytes as a control buffer: decoding is total, and only an error-queue message is a
//! transmit stamp.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rttscope::sys::linux::stamp;

fuzz_target!(|control: &[u8]| {
    let decoded = stamp::decode(control);
    assert!(decoded.transmit.is_some() || decoded.tx_stamp().is_none());
    // A message that was cut off by a short buffer is never read beyond its end.
    for cut in [control.len() / 2, control.len().saturating_sub(1)] {
        let _ = stamp::decode(&control[..cut]);
    }
});
