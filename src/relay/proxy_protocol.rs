//! The PROXY protocol, which tells an upstream whom it really serves: bytes that a client began
//! with go in and a header comes out, or the other way round. Versions 1 (a line of text) and 2
//! (binary), as `proxy-protocol.txt` of HAProxy has them, revision 2020/03/05; sections are its.
//!
//! A header is only ever expected where it was configured: bytes of an unknown origin are never
//! searched for one (§2, "the receiver MUST be configured to only receive the protocol").

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Which of the two forms is written; both are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

/// What the first bytes of a connection are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// So far they could be a header; more are needed.
    Incomplete,
    /// A header of so many bytes; what follows is the client's.
    Header(usize, Source),
}

/// Whom a header is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A client at the first address connected to the second.
    Proxied(SocketAddr, SocketAddr),
    /// Nobody in particular: the sender speaks for itself (`LOCAL`), or does not know (`UNKNOWN`,
    /// `UNSPEC`, or what is no TCP over IP). The connection's own addresses count.
    Unspecified,
}

/// Why bytes cannot become a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// They begin as neither version does.
    #[error("it begins like no PROXY header")]
    Signature,
    /// A line that is too long, or not as §2.1 has it.
    #[error("the line of a version 1 header is malformed")]
    Line,
    /// A version or a command that §2.2 does not know.
    #[error("the version or command of a version 2 header is unknown")]
    Command,
    /// Addresses that do not fit into the stated length, or more than [`HEADER_BYTES_MAX`].
    #[error("the length of a version 2 header is wrong")]
    Length,
    /// The bytes after the header's addresses do not match its checksum.
    #[error("the checksum of a version 2 header is wrong")]
    Checksum,
}

/// Most bytes of a header that are accepted: addresses, and room for extensions (TLVs), which are
/// passed over.
pub const HEADER_BYTES_MAX: usize = 2_048;

/// Looks for a header at the start of `bytes`; needs at most [`HEADER_BYTES_MAX`] of them.
///
/// # Errors
/// As soon as no further byte can make it one.
pub fn parse(bytes: &[u8]) -> Result<Found, Malformed> {
    if begins_like(bytes, V2_SIGNATURE) {
        return parse_v2(bytes);
    }
    if begins_like(bytes, V1_SIGNATURE) {
        return parse_v1(bytes);
    }
    Err(Malformed::Signature)
}

/// Appends the header for a client that connected from `source` to `destination`. Addresses of
/// different families are written as IPv6.
pub fn encode(version: Version, source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let (source, destination) = alike(source, destination);
    match version {
        Version::V1 => encode_v1(source, destination, out),
        Version::V2 => encode_v2(source, destination, out),
    }
}

/// Whether one is a prefix of the other.
fn begins_like(bytes: &[u8], signature: &[u8]) -> bool {
    let common = bytes.len().min(signature.len());
    bytes[..common] == signature[..common]
}

fn parse_v1(bytes: &[u8]) -> Result<Found, Malformed> {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        // The line, its end included, has at most 107 bytes (§2.1).
        let may_grow = bytes.len() < V1_BYTES_MAX;
        return if may_grow { Ok(Found::Incomplete) } else { Err(Malformed::Line) };
    };
    let line = std::str::from_utf8(&window[..end]).map_err(|_| Malformed::Line)?;
    let mut words = line.split(' ');
    let (_, family) = (words.next(), words.next());
    let source = match family {
        // "the receiver must ignore anything presented before the CRLF".
        Some("UNKNOWN") => Source::Unspecified,
        Some(family @ ("TCP4" | "TCP6")) => {
            let mut word = || words.next().ok_or(Malformed::Line);
            let (source, destination) = (word()?, word()?);
            let (source_port, destination_port) = (word()?, word()?);
            let address = |ip: &str, port: &str| v1_address(family, ip, port);
            let source = address(source, source_port)?;
            let destination = address(destination, destination_port)?;
            if words.next().is_some() {
                return Err(Malformed::Line);
            }
            Source::Proxied(source, destination)
        }
        _ => return Err(Malformed::Line),
    };
    Ok(Found::Header(end + 2, source))
}

fn v1_address(family: &str, ip: &str, port: &str) -> Result<SocketAddr, Malformed> {
    let ip: IpAddr = match family {
        "TCP4" => ip.parse().map(IpAddr::V4).map_err(|_| Malformed::Line)?,
        _ => ip.parse().map(IpAddr::V6).map_err(|_| Malformed::Line)?,
    };
    // "without any leading zero", and digits only, where Rust would take a sign.
    let canonical = port.bytes().all(|byte| byte.is_ascii_digit())
        && (port.len() == 1 || !port.starts_with('0'));
    let port = port.parse().ok().filter(|_| canonical).ok_or(Malformed::Line)?;
    Ok(SocketAddr::new(ip, port))
}

fn parse_v2(bytes: &[u8]) -> Result<Found, Malformed> {
    let Some((fixed, rest)) = bytes.split_at_checked(V2_FIXED_BYTES) else {
        // What is known may be wrong already.
        return match bytes.get(12) {
            Some(byte) if !matches!(byte, 0x20 | 0x21) => Err(Malformed::Command),
            _ => Ok(Found::Incomplete),
        };
    };
    let length = usize::from(u16::from_be_bytes([fixed[14], fixed[15]]));
    if !matches!(fixed[12], 0x20 | 0x21) {
        return Err(Malformed::Command);
    }
    if V2_FIXED_BYTES + length > HEADER_BYTES_MAX {
        return Err(Malformed::Length);
    }
    // Over STREAM only (0x1); "UNSPEC", UDP and local sockets are accepted and not used (§2.2).
    let (local, family) = (fixed[12] == 0x20, fixed[13]);
    let addresses_bytes = match family {
        0x11 if !local => V2_INET_BYTES,
        0x21 if !local => V2_INET6_BYTES,
        _ => 0,
    };
    if length < addresses_bytes {
        return Err(Malformed::Length);
    }
    let Some(body) = rest.get(..length) else { return Ok(Found::Incomplete) };
    let (addresses, extensions) = body.split_at(addresses_bytes);
    check_extensions(&bytes[..V2_FIXED_BYTES + length], extensions, local || addresses_bytes == 0)?;
    let source = match addresses_bytes {
        V2_INET_BYTES => v2_inet(addresses),
        V2_INET6_BYTES => v2_inet6(addresses),
        _ => Source::Unspecified,
    };
    Ok(Found::Header(V2_FIXED_BYTES + length, source))
}

fn v2_inet(bytes: &[u8]) -> Source {
    let ip = |at: usize| Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]);
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    Source::Proxied((ip(0), port(8)).into(), (ip(4), port(10)).into())
}

fn v2_inet6(bytes: &[u8]) -> Source {
    let ip = |at: usize| {
        let octets: [u8; 16] = bytes[at..at + 16].try_into().expect("sixteen bytes");
        Ipv6Addr::from(octets)
    };
    let port = |at: usize| u16::from_be_bytes([bytes[at], bytes[at + 1]]);
    Source::Proxied((ip(0), port(32)).into(), (ip(16), port(34)).into())
}

/// Extensions are passed over, but for the checksum, which has to be right if it is there (§2.2.3).
/// Where the addresses are none that we know, nobody can say where extensions begin.
fn check_extensions(header: &[u8], extensions: &[u8], opaque: bool) -> Result<(), Malformed> {
    let mut rest = if opaque { &[] } else { extensions };
    while !rest.is_empty() {
        let [kind, high, low, tail @ ..] = rest else { return Err(Malformed::Length) };
        let length = usize::from(u16::from_be_bytes([*high, *low]));
        let Some((value, next)) = tail.split_at_checked(length) else {
            return Err(Malformed::Length);
        };
        if *kind == TLV_CRC32C {
            let stated: [u8; 4] = value.try_into().map_err(|_| Malformed::Length)?;
            let at = header.len() - next.len() - length;
            let without = [&header[..at], &[0; 4], &header[at + length..]];
            if crc32c(without.into_iter().flatten().copied()) != u32::from_be_bytes(stated) {
                return Err(Malformed::Checksum);
            }
        }
        rest = next;
    }
    Ok(())
}

/// CRC-32C (RFC 4960, appendix B), bit by bit: a header has few bytes, and few have a checksum.
fn crc32c(bytes: impl Iterator<Item = u8>) -> u32 {
    !bytes.fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            if crc & 1 == 1 { (crc >> 1) ^ CRC32C_REVERSED } else { crc >> 1 }
        })
    })
}

fn alike(source: SocketAddr, destination: SocketAddr) -> (SocketAddr, SocketAddr) {
    let plain = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
    let (source, destination) = (plain(source), plain(destination));
    if source.is_ipv4() == destination.is_ipv4() {
        return (source, destination);
    }
    let v6 = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    (v6(source), v6(destination))
}

fn encode_v1(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    let ports = (source.port(), destination.port());
    write!(out, "PROXY {family} {from} {to} {} {}\r\n", ports.0, ports.1)
        .expect("memory takes everything");
}

fn encode_v2(source: SocketAddr, destination: SocketAddr, out: &mut Vec<u8>) {
    out.extend_from_slice(V2_SIGNATURE);
    out.push(0x21);
    match (source.ip(), destination.ip()) {
        (IpAddr::V4(from), IpAddr::V4(to)) => {
            out.extend_from_slice(&[0x11, 0, 12]);
            out.extend_from_slice(&from.octets());
            out.extend_from_slice(&to.octets());
        }
        (from, to) => {
            let octets = |ip: IpAddr| match ip {
                IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
                IpAddr::V6(ip) => ip.octets(),
            };
            out.extend_from_slice(&[0x21, 0, 36]);
            out.extend_from_slice(&octets(from));
            out.extend_from_slice(&octets(to));
        }
    }
    out.extend_from_slice(&source.port().to_be_bytes());
    out.extend_from_slice(&destination.port().to_be_bytes());
}

const V1_SIGNATURE: &[u8] = b"PROXY ";
/// The longest line, CR LF included.
const V1_BYTES_MAX: usize = 107;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Signature, version and command, family, length.
const V2_FIXED_BYTES: usize = 16;
/// Two addresses and two ports.
const V2_INET_BYTES: usize = 12;
const V2_INET6_BYTES: usize = 36;
/// `PP2_TYPE_CRC32C`.
const TLV_CRC32C: u8 = 0x03;
/// The polynomial 0x1edc6f41, its bits turned round.
const CRC32C_REVERSED: u32 = 0x82f6_3b78;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use proptest::prelude::*;

    use super::*;

    fn address(text: &str) -> SocketAddr {
        text.parse().unwrap()
    }

    fn proxied(from: &str, to: &str) -> Source {
        Source::Proxied(address(from), address(to))
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [V2_SIGNATURE, &[command, family], &length, body].concat()
    }

    #[test]
    fn lines_of_version_1() {
        let longest = format!("PROXY UNKNOWN {}\r\n", "f".repeat(91));
        assert_eq!(longest.len(), V1_BYTES_MAX);
        let header = |text: &str, source| Ok(Found::Header(text.len(), source));
        let check = |text: &str, expected: Result<Found, Malformed>| {
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        };
        let line = "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n";
        check(line, header(line, proxied("192.168.0.1:56324", "192.168.0.11:443")));
        let six = "PROXY TCP6 fd00::1 ::1 1 65535\r\n";
        check(six, header(six, proxied("[fd00::1]:1", "[::1]:65535")));
        check("PROXY UNKNOWN\r\n", header("PROXY UNKNOWN\r\n", Source::Unspecified));
        check(&longest, header(&longest, Source::Unspecified));
        check(&longest[..V1_BYTES_MAX - 1], Ok(Found::Incomplete));
        check(&longest.replace('\r', "x"), Err(Malformed::Line));
        let malformed = [
            "PROXY \r\n",
            "PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 ::1 ::1 1 2\r\n",
            "PROXY TCP6 1.2.3.4 1.2.3.4 1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
            "PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
            "PROXY TCP4 1.2.3.4  1.2.3.4 1 2\r\n",
            "PROXY  TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
        ];
        for text in malformed {
            check(text, Err(Malformed::Line));
        }
        for text in ["GET / HTTP/1.1\r\n", "PROXZ", "proxy ", "\r\n\r\n\0\r\nQUIX"] {
            check(text, Err(Malformed::Signature));
        }
        for text in ["", "P", "PROXY", "PROXY TCP4 1.2.3.4", "\r\n\r"] {
            check(text, Ok(Found::Incomplete));
        }
    }

    #[test]
    fn headers_of_version_2() {
        let inet = [10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0, 80];
        let check = |bytes: &[u8], expected: Result<Found, Malformed>| {
            assert_eq!(parse(bytes), expected, "{bytes:x?}");
        };
        let known = proxied("10.0.0.1:4660", "10.0.0.2:80");
        check(&v2(0x21, 0x11, &inet), Ok(Found::Header(28, known)));
        let extended = [&inet[..], &[0x04, 0, 2, 7, 7]].concat();
        check(&v2(0x21, 0x11, &extended), Ok(Found::Header(33, known)));
        check(&v2(0x20, 0x00, &[]), Ok(Found::Header(16, Source::Unspecified)));
        check(&v2(0x20, 0x11, &inet), Ok(Found::Header(28, Source::Unspecified)));
        check(&v2(0x21, 0x12, &inet), Ok(Found::Header(28, Source::Unspecified)));
        check(&v2(0x21, 0x31, &[0; 216]), Ok(Found::Header(232, Source::Unspecified)));
        check(&v2(0x21, 0x11, &inet[1..]), Err(Malformed::Length));
        check(&v2(0x21, 0x21, &[0; 35]), Err(Malformed::Length));
        check(&v2(0x21, 0x11, &[0; 2_033])[..16], Err(Malformed::Length));
        check(&v2(0x21, 0x11, &[&inet[..], &[4, 0]].concat()), Err(Malformed::Length));
        check(&v2(0x21, 0x11, &[&inet[..], &[4, 0, 9, 1]].concat()), Err(Malformed::Length));
        check(&v2(0x11, 0x11, &inet), Err(Malformed::Command));
        check(&v2(0x22, 0x11, &inet)[..13], Err(Malformed::Command));
        let whole = v2(0x21, 0x11, &inet);
        (0..whole.len()).for_each(|end| check(&whole[..end], Ok(Found::Incomplete)));
    }

    #[test]
    fn a_checksum_has_to_be_right() {
        assert_eq!(crc32c(b"123456789".iter().copied()), 0xe306_9283, "RFC 3720, B.4");
        let inet = [10, 0, 0, 1, 10, 0, 0, 2, 0x12, 0x34, 0, 80];
        let body = [&inet[..], &[TLV_CRC32C, 0, 4, 0, 0, 0, 0], &[4, 0, 1, 9]].concat();
        let mut header = v2(0x21, 0x11, &body);
        let crc = crc32c(header.iter().copied());
        header[31..35].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(parse(&header), Ok(Found::Header(39, proxied("10.0.0.1:4660", "10.0.0.2:80"))));
        header[17] ^= 1;
        assert_eq!(parse(&header), Err(Malformed::Checksum));
    }

    #[test]
    fn families_that_differ_are_written_as_ipv6() {
        let mut out = Vec::new();
        encode(Version::V1, address("10.0.0.1:1"), address("[fd00::1]:2"), &mut out);
        assert_eq!(out, b"PROXY TCP6 ::ffff:10.0.0.1 fd00::1 1 2\r\n");
        out.clear();
        encode(Version::V1, address("[::ffff:10.0.0.1]:1"), address("10.0.0.2:2"), &mut out);
        assert_eq!(out, b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n");
    }

    fn any_address() -> impl Strategy<Value = SocketAddr> {
        let v4 = any::<([u8; 4], u16)>().prop_map(|(ip, port)| (ip, port).into());
        // Scopes and flow labels are no part of a header.
        let v6 = any::<([u8; 16], u16)>().prop_map(|(ip, port)| (ip, port).into());
        prop_oneof![v4, v6]
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_parsed_again(
            from in any_address(),
            to in any_address(),
            v1 in any::<bool>(),
            rest in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let mut bytes = Vec::new();
            encode(if v1 { Version::V1 } else { Version::V2 }, from, to, &mut bytes);
            let length = bytes.len();
            let (from, to) = alike(from, to);
            for end in 0..length {
                prop_assert_eq!(parse(&bytes[..end]), Ok(Found::Incomplete));
            }
            bytes.extend(rest);
            let Ok(Found::Header(found, Source::Proxied(source, destination))) = parse(&bytes)
            else {
                return Err(TestCaseError::fail("no header"));
            };
            let mapped = |address: SocketAddr| match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            prop_assert_eq!(found, length);
            prop_assert_eq!(mapped(source), mapped(from));
            prop_assert_eq!(mapped(destination), mapped(to));
            prop_assert_eq!((source.port(), destination.port()), (from.port(), to.port()));
        }

        #[test]
        fn more_bytes_never_take_a_verdict_back(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..64),
                prop::collection::vec(any::<u8>(), 0..64)
                    .prop_map(|tail| [V2_SIGNATURE, &[0x21, 0x11, 0, 30], &tail].concat()),
                "PROXY (TCP4|TCP6|UNKNOWN) [0-9a-f.: ]{0,60}(\r\n)?".prop_map(String::into_bytes),
            ],
        ) {
            let mut verdict = Ok(Found::Incomplete);
            for end in 0..=bytes.len() {
                let now = parse(&bytes[..end]);
                if verdict != Ok(Found::Incomplete) {
                    prop_assert_eq!(now, verdict);
                }
                if let Ok(Found::Header(length, _)) = now {
                    prop_assert!(length <= end && length <= HEADER_BYTES_MAX);
                }
                verdict = now;
            }
        }
    }
}
