//! Any bytes as the first ones of a connection that must begin with a PROXY header: reading is
//! total, what is decided by some bytes is not taken back by more, and whom a header names is named
//! again by the header that we would write.

#![no_main]

use std::net::IpAddr;

use libfuzzer_sys::fuzz_target;
use rttscope::relay::proxy_protocol::{Found, HEADER_BYTES_MAX, Source, Version, encode, parse};

fuzz_target!(|bytes: &[u8]| {
    let whole = parse(bytes);
    for cut in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let shorter = parse(&bytes[..cut]);
        let stands = shorter == Ok(Found::Incomplete) || shorter == whole;
        assert!(stands, "{shorter:?}, then {whole:?}");
    }
    if bytes.len() >= HEADER_BYTES_MAX {
        assert_ne!(whole, Ok(Found::Incomplete), "a header has an end");
    }
    let Ok(Found::Header(length, source)) = whole else { return };
    assert!(length <= bytes.len() && length <= HEADER_BYTES_MAX);
    let Source::Proxied(from, to) = source else { return };
    for version in [Version::V1, Version::V2] {
        let mut written = Vec::new();
        encode(version, from, to, &mut written);
        let read = parse(&written);
        let Ok(Found::Header(length, Source::Proxied(again, _))) = read else {
            panic!("{written:?}: {read:?}")
        };
        assert_eq!(length, written.len());
        assert_eq!((v6(again.ip()), again.port()), (v6(from.ip()), from.port()));
    }
});

/// Families that differ are written as one.
fn v6(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().into(),
        IpAddr::V6(_) => ip,
    }
}
