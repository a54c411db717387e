//! TCP segments as bytes of IPv4 packets, for peers that no kernel plays. Addresses, numbers and
//! flags flow in; packets with right checksums flow out.

use std::net::SocketAddrV4;

pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// A TCP segment without data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) from: SocketAddrV4,
    pub(crate) to: SocketAddrV4,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
}

impl Segment {
    /// The packet around it (RFC 791, RFC 9293).
    pub(crate) fn packet(self) -> Vec<u8> {
        let addresses = [self.from.ip().octets(), self.to.ip().octets()].concat();
        let mut ip = vec![0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, TCP, 0, 0];
        ip.extend(&addresses);
        let sum = checksum(&ip);
        ip[10..12].copy_from_slice(&sum);
        let mut tcp = Vec::new();
        tcp.extend(self.from.port().to_be_bytes());
        tcp.extend(self.to.port().to_be_bytes());
        tcp.extend(self.sequence.to_be_bytes());
        tcp.extend(self.acknowledgement.to_be_bytes());
        tcp.extend([0x50, self.flags, 0xff, 0xff, 0, 0, 0, 0]);
        let sum = checksum(&[&addresses[..], &[0, TCP, 0, 20], &tcp].concat());
        tcp[16..18].copy_from_slice(&sum);
        [ip, tcp].concat()
    }

    /// Reads a packet; `None` if it is something else.
    pub(crate) fn read(packet: &[u8]) -> Option<Self> {
        if packet.len() < 40 || packet[0] != 0x45 || packet[9] != TCP {
            return None;
        }
        let word = |at: usize| u32::from_be_bytes(packet[at..at + 4].try_into().unwrap());
        let port = |at: usize| u16::from_be_bytes(packet[at..at + 2].try_into().unwrap());
        Some(Self {
            from: SocketAddrV4::new(word(12).into(), port(20)),
            to: SocketAddrV4::new(word(16).into(), port(22)),
            sequence: word(24),
            acknowledgement: word(28),
            flags: packet[33],
        })
    }

    /// What acknowledges it, from the other end.
    pub(crate) fn answer(self, flags: u8) -> Self {
        let acknowledgement = self.sequence.wrapping_add(1);
        Self { from: self.to, to: self.from, sequence: 0, acknowledgement, flags }
    }
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> [u8; 2] {
    let words = bytes.chunks_exact(2).map(|two| u32::from(u16::from_be_bytes([two[0], two[1]])));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    (!u16::try_from(sum).unwrap()).to_be_bytes()
}

const TCP: u8 = 6;
