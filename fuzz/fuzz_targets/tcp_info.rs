//! Any bytes as a kernel's TCP_INFO, of any length and any version: nothing panics, and a field is
//! there only if the kernel has returned all of its bytes.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rttscope::tcp_info::{Kernel, MEMBERS, Raw, TcpInfo};

fuzz_target!(|data: (u8, u8, &[u8])| {
    let (major, minor, bytes) = data;
    let kernel = Kernel::parse(&format!("{major}.{minor}"));
    let bytes = &bytes[..bytes.len().min(1_024)];
    let raw = Raw::decode(bytes, kernel);
    assert_eq!(TcpInfo::from(&raw).length, bytes.len());
    for member in MEMBERS {
        assert!(!raw.fills(member) || member.place.end() <= bytes.len());
        assert!(raw.number(member).is_none() || raw.fills(member));
        // A number that was read can be written, and is read again.
        let mut copy = Raw::empty(0);
        if let Some(number) = raw.number(member) {
            copy.set(member, number);
            assert_eq!(copy.number(member), Some(number));
        }
    }
    let _ = Kernel::parse(&String::from_utf8_lossy(bytes));
});
