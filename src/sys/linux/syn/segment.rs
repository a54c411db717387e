//! TCP segments byte by byte, without any I/O: what a SYN is to say goes in and its bytes come
//! out; the bytes of an answer, of a packet that an ICMP error quotes, or of our own SYN as the
//! kernel shows it with its transmit stamp go in, and what identifies them comes out. Reading is
//! total: any input is safe, and what is cut off or no such segment is `None`.
//!
//! Sources: RFC 9293 section 3.1 (header), RFC 7323 (window scale, timestamps), RFC 2018 (SACK),
//! RFC 791 and RFC 8200 (what stands around it, and the pseudo headers of the checksum).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// What a SYN says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Syn {
    /// Our end. Not unspecified: it is part of the checksum.
    pub source: SocketAddr,
    /// The other end, of the same family.
    pub destination: SocketAddr,
    /// Initial sequence number.
    pub sequence: u32,
    /// `TSval`; an answer repeats it, and so tells which SYN it answers.
    pub timestamp: u32,
    /// Largest segment that we could receive.
    pub segment_bytes_max: u16,
}

/// What a segment says, as far as an answer to a SYN is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Port of who sent it.
    pub source_port: u16,
    /// Port that it is for.
    pub destination_port: u16,
    /// What it acknowledges; only with [`ACK`].
    pub acknowledgment: u32,
    /// The flags byte.
    pub flags: u8,
    /// `TSecr`: the timestamp of the segment that it answers, if it has that option.
    pub echoed_timestamp: Option<u32>,
}

/// The beginning of a TCP header: as much as an ICMP error quotes at least (RFC 792).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Port of who sent it.
    pub source_port: u16,
    /// Port that it was for.
    pub destination_port: u16,
    /// Sequence number.
    pub sequence: u32,
}

/// One of our own SYNs, as the kernel shows it together with its transmit stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentSyn {
    /// Whom it was for.
    pub destination: IpAddr,
    /// Ports and sequence number.
    pub quote: Quote,
    /// Its `TSval`.
    pub timestamp: u32,
}

/// SYN in [`Segment::flags`].
pub const SYN: u8 = 0x02;
/// RST in [`Segment::flags`].
pub const RST: u8 = 0x04;
/// ACK in [`Segment::flags`].
pub const ACK: u8 = 0x10;
/// Length of a SYN of ours: the header and [`Syn::bytes`]'s options.
pub const SYN_BYTES: usize = 40;

impl Syn {
    /// The segment, checksum included. Options, their order and the window are those of Linux, so
    /// that whatever is on the way treats it like any other connection.
    #[must_use]
    pub fn bytes(&self) -> [u8; SYN_BYTES] {
        let mut bytes = [0; SYN_BYTES];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.source.port().to_be_bytes());
        put(&self.destination.port().to_be_bytes());
        put(&self.sequence.to_be_bytes());
        put(&[0; 4]);
        put(&[HEADER_WORDS << 4, SYN]);
        put(&WINDOW.to_be_bytes());
        // Checksum and urgent pointer.
        put(&[0; 4]);
        put(&[OPTION_SEGMENT_BYTES_MAX, 4]);
        put(&self.segment_bytes_max.to_be_bytes());
        put(&[OPTION_SACK_PERMITTED, 2]);
        put(&[OPTION_TIMESTAMPS, TIMESTAMPS_BYTES]);
        put(&self.timestamp.to_be_bytes());
        put(&[0; 4]);
        put(&[OPTION_PADDING]);
        put(&[OPTION_WINDOW_SCALE, 3, WINDOW_SCALE]);
        let sum = checksum(self.source.ip(), self.destination.ip(), &bytes);
        bytes[CHECKSUM_AT..CHECKSUM_AT + 2].copy_from_slice(&sum.to_be_bytes());
        bytes
    }
}

/// Reads a segment, TCP header first, as a raw IPv6 socket receives it.
#[must_use]
pub fn parse(tcp: &[u8]) -> Option<Segment> {
    let header_bytes = usize::from(*tcp.get(12)? >> 4) * 4;
    if header_bytes < HEADER_BYTES {
        return None;
    }
    let header = tcp.get(..header_bytes)?;
    Some(Segment {
        source_port: number16(header, 0)?,
        destination_port: number16(header, 2)?,
        acknowledgment: number32(header, 8)?,
        flags: *header.get(13)?,
        echoed_timestamp: echoed_timestamp(header.get(HEADER_BYTES..)?),
    })
}

/// Reads an IPv4 packet with a whole segment, as a raw IPv4 socket receives it.
#[must_use]
pub fn parse_ipv4(packet: &[u8]) -> Option<Segment> {
    let first = *packet.first()?;
    let header_bytes = usize::from(first & 0x0f) * 4;
    let fragment = number16(packet, 6)? & FRAGMENT_OFFSET;
    let protocol = *packet.get(9)?;
    if first >> 4 != 4 || header_bytes < IPV4_BYTES || fragment != 0 || protocol != PROTOCOL_TCP {
        return None;
    }
    parse(packet.get(header_bytes..)?)
}

/// Reads what an ICMP error quotes, from the TCP header on.
#[must_use]
pub fn parse_quote(tcp: &[u8]) -> Option<Quote> {
    Some(Quote {
        source_port: number16(tcp, 0)?,
        destination_port: number16(tcp, 2)?,
        sequence: number32(tcp, 4)?,
    })
}

/// Reads a frame that ends with a [`Syn::bytes`]. It is read from its end: what stands before the
/// IP header depends on the interface.
#[must_use]
pub fn parse_sent(frame: &[u8], ipv6: bool) -> Option<SentSyn> {
    let (before, tcp) = frame.split_last_chunk::<SYN_BYTES>()?;
    let destination: IpAddr = if ipv6 {
        let header = before.last_chunk::<IPV6_BYTES>()?;
        Ipv6Addr::from(*header.last_chunk::<16>()?).into()
    } else {
        let header = before.last_chunk::<IPV4_BYTES>()?;
        Ipv4Addr::from(*header.last_chunk::<4>()?).into()
    };
    let ours = tcp[12] == HEADER_WORDS << 4 && tcp[13] == SYN;
    let timestamp = number32(tcp, TIMESTAMP_AT)?;
    ours.then_some(SentSyn { destination, quote: parse_quote(tcp)?, timestamp })
}

/// The internet checksum (RFC 1071) of a segment and its pseudo header; 0 if the segment holds a
/// right one. The pseudo headers of both families add up alike: addresses, length and protocol.
#[must_use]
pub fn checksum(source: IpAddr, destination: IpAddr, tcp: &[u8]) -> u16 {
    let length = u64::try_from(tcp.len()).expect("a segment is at most 64 KiB");
    let mut sum = length + u64::from(PROTOCOL_TCP) + sum16(tcp);
    for ip in [source, destination] {
        sum += match ip {
            IpAddr::V4(ip) => sum16(&ip.octets()),
            IpAddr::V6(ip) => sum16(&ip.octets()),
        };
    }
    while sum > u64::from(u16::MAX) {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).expect("folded until it fits")
}

/// The sum of 16-bit words; an odd last byte is the high half of a word.
fn sum16(bytes: &[u8]) -> u64 {
    let words = bytes.chunks(2).map(|word| {
        let low = word.get(1).copied().unwrap_or(0);
        u64::from(u16::from_be_bytes([word[0], low]))
    });
    words.sum()
}

/// `TSecr` of the timestamps option.
fn echoed_timestamp(mut options: &[u8]) -> Option<u32> {
    loop {
        match *options.first()? {
            OPTION_END => return None,
            OPTION_PADDING => options = options.get(1..)?,
            kind => {
                let length = *options.get(1)?;
                let option = options.get(..usize::from(length))?;
                if kind == OPTION_TIMESTAMPS && length == TIMESTAMPS_BYTES {
                    return number32(option, 6);
                }
                // A length below 2 would never end.
                options = options.get(usize::from(length.max(2))..)?;
            }
        }
    }
}

/// A number in network order.
fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

/// A number in network order.
fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.get(at..)?.first_chunk()?))
}

const HEADER_BYTES: usize = 20;
/// [`SYN_BYTES`] in words of 32 bits.
const HEADER_WORDS: u8 = 10;
const CHECKSUM_AT: usize = 16;
/// `TSval`: behind the header, MSS, SACK permitted, and the option's kind and length.
const TIMESTAMP_AT: usize = HEADER_BYTES + 4 + 2 + 2;
const IPV4_BYTES: usize = 20;
const IPV6_BYTES: usize = 40;
const FRAGMENT_OFFSET: u16 = 0x1fff;
const PROTOCOL_TCP: u8 = 6;

const OPTION_END: u8 = 0;
const OPTION_PADDING: u8 = 1;
const OPTION_SEGMENT_BYTES_MAX: u8 = 2;
const OPTION_WINDOW_SCALE: u8 = 3;
const OPTION_SACK_PERMITTED: u8 = 4;
const OPTION_TIMESTAMPS: u8 = 8;
const TIMESTAMPS_BYTES: u8 = 10;

/// What Linux offers first on Ethernet (44 segments of 1,460 bytes), and the scale that it chooses
/// for its default of 6 MiB of receive buffer.
const WINDOW: u16 = 64_240;
const WINDOW_SCALE: u8 = 7;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use proptest::prelude::*;

    use super::*;

    fn syn(source: &str, destination: &str) -> Syn {
        Syn {
            source: source.parse().unwrap(),
            destination: destination.parse().unwrap(),
            sequence: 0x0102_0304,
            timestamp: 0xa0b0_c0d0,
            segment_bytes_max: 1_460,
        }
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: String = hex.split_whitespace().collect();
        let pairs = digits.as_bytes().chunks(2);
        pairs
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    }

    fn check(tcp: &[u8], expected: Option<Segment>) {
        assert_eq!(parse(tcp), expected);
        let mut packet = bytes("4500 003c 0000 4000 4006 0000 0a00 0001 0a00 0002");
        packet.extend(tcp);
        assert_eq!(parse_ipv4(&packet), expected);
        // With IPv4 options.
        let mut packet = bytes("4600 0040 0000 4000 4006 0000 0a00 0001 0a00 0002 0101 0101");
        packet.extend(tcp);
        assert_eq!(parse_ipv4(&packet), expected);
    }

    /// Checksums computed by another program.
    #[test]
    fn a_syn_is_what_the_rfcs_say() {
        let v4 = syn("10.87.0.1:61000", "10.87.0.2:443").bytes();
        let expected = bytes(
            "ee48 01bb 0102 0304 0000 0000 a002 faf0 e2d3 0000
             0204 05b4 0402 080a a0b0 c0d0 0000 0000 0103 0307",
        );
        assert_eq!(v4.as_slice(), expected);
        let v6 = syn("[fd87::1]:61000", "[fd87::2]:443").bytes();
        let expected = bytes(
            "ee48 01bb 0102 0304 0000 0000 a002 faf0 fc71 0000
             0204 05b4 0402 080a a0b0 c0d0 0000 0000 0103 0307",
        );
        assert_eq!(v6.as_slice(), expected);
    }

    #[test]
    fn answers_are_read() {
        let syn_ack = "01bb ee48 aaaa bbbb 0102 0305 a012 fe88 0000 0000
             0204 05b4 0402 080a 1111 2222 a0b0 c0d0 0103 0307";
        let expected = Segment {
            source_port: 443,
            destination_port: 61_000,
            acknowledgment: 0x0102_0305,
            flags: SYN | ACK,
            echoed_timestamp: Some(0xa0b0_c0d0),
        };
        check(&bytes(syn_ack), Some(expected));
        let reset = "01bb ee48 0000 0000 0102 0305 5014 0000 0000 0000";
        let expected = Segment { flags: RST | ACK, echoed_timestamp: None, ..expected };
        check(&bytes(reset), Some(expected));
        // Data may follow.
        check(&bytes(&format!("{reset} dead beef")), Some(expected));
        // Options that are cut off, have no length, or come after the end are none.
        for options in ["080a 1111", "0800 0000", "0008 0a11", "0101 0108", "08ff ffff"] {
            let segment = reset.replace("5014", "6014");
            check(&bytes(&format!("{segment} {options}")), Some(expected));
        }
    }

    #[test]
    fn what_is_cut_off_or_something_else_is_nothing() {
        let whole = syn("10.0.0.1:1", "10.0.0.2:2").bytes();
        for length in 0..whole.len() {
            check(&whole[..length], None);
        }
        check(&bytes("01bb ee48 0000 0000 0102 0305 4014 0000 0000 0000"), None);
        let segment = "01bb ee48 0000 0000 0102 0305 5014 0000 0000 0000";
        for header in [
            "6500 0028 0000 4000 4006 0000 0a00 0001 0a00 0002",
            "4400 0028 0000 4000 4006 0000 0a00 0001 0a00 0002",
            "4500 0028 0000 4001 4006 0000 0a00 0001 0a00 0002",
            "4500 0028 0000 4000 4011 0000 0a00 0001 0a00 0002",
        ] {
            assert_eq!(parse_ipv4(&bytes(&format!("{header} {segment}"))), None, "{header}");
        }
        assert_eq!(parse_quote(&whole[..7]), None);
        assert_eq!(parse_sent(&whole, false), None);
    }

    #[test]
    fn our_own_syn_is_known_again_behind_any_link_layer() {
        let quote = Quote { source_port: 61_000, destination_port: 443, sequence: 0x0102_0304 };
        for (ends, ip) in [
            (
                ["10.87.0.1:61000", "10.87.0.2:443"],
                "4500 003c 0000 4000 4006 2600 0a57 0001 0a57 0002",
            ),
            (
                ["[fd87::1]:61000", "[fd87::2]:443"],
                "6000 0000 0028 0640 fd87 0000 0000 0000 0000 0000 0000 0001
                 fd87 0000 0000 0000 0000 0000 0000 0002",
            ),
        ] {
            let syn = syn(ends[0], ends[1]);
            let ipv6 = syn.destination.is_ipv6();
            for link in ["", "0200 0000 0001 0200 0000 0002 0800"] {
                let mut frame = bytes(link);
                frame.extend(bytes(ip));
                frame.extend(syn.bytes());
                let expected =
                    SentSyn { destination: syn.destination.ip(), quote, timestamp: 0xa0b0_c0d0 };
                assert_eq!(parse_sent(&frame, ipv6), Some(expected));
                frame[bytes(link).len() + bytes(ip).len() + 13] |= ACK;
                assert_eq!(parse_sent(&frame, ipv6), None);
            }
        }
    }

    prop_compose! {
        fn any_syn()(
            v6 in any::<bool>(),
            ips in any::<([u8; 16], [u8; 16])>(),
            ports in any::<(u16, u16)>(),
            numbers in any::<(u32, u32, u16)>(),
        ) -> Syn {
            let ip = |octets: [u8; 16]| match v6 {
                true => IpAddr::from(octets),
                false => IpAddr::from([octets[0], octets[1], octets[2], octets[3]]),
            };
            Syn {
                source: (ip(ips.0), ports.0).into(),
                destination: (ip(ips.1), ports.1).into(),
                sequence: numbers.0,
                timestamp: numbers.1,
                segment_bytes_max: numbers.2,
            }
        }
    }

    proptest! {
        #[test]
        fn a_checksum_verifies_and_damage_shows(syn in any_syn(), bit in 0..SYN_BYTES * 8) {
            let mut bytes = syn.bytes();
            let (source, destination) = (syn.source.ip(), syn.destination.ip());
            prop_assert_eq!(checksum(source, destination, &bytes), 0);
            bytes[bit / 8] ^= 1 << (bit % 8);
            prop_assert_ne!(checksum(source, destination, &bytes), 0);
        }

        #[test]
        fn what_was_built_is_read(syn in any_syn()) {
            let read = parse(&syn.bytes()).unwrap();
            prop_assert_eq!(read.source_port, syn.source.port());
            prop_assert_eq!(read.destination_port, syn.destination.port());
            prop_assert_eq!((read.flags, read.echoed_timestamp), (SYN, Some(0)));
            let quote = parse_quote(&syn.bytes()).unwrap();
            prop_assert_eq!(quote.sequence, syn.sequence);
        }

        #[test]
        fn any_bytes_are_read(bytes in proptest::collection::vec(any::<u8>(), 0..128)) {
            let _ = (parse(&bytes), parse_ipv4(&bytes), parse_quote(&bytes));
            let _ = (parse_sent(&bytes, false), parse_sent(&bytes, true));
        }
    }
}
