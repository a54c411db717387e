//! Packets as bytes. A shape and a TCP segment flow in, an Ethernet frame flows out.

/// Our port, which is registered.
pub(crate) const LOCAL_PORT: u16 = 40_000;
/// The checked port.
pub(crate) const REMOTE_PORT: u16 = 443;

pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const PSH: u8 = 0x08;
pub(crate) const ACK: u8 = 0x10;
pub(crate) const ECE: u8 = 0x40;
pub(crate) const CWR: u8 = 0x80;

pub(crate) const HOP_BY_HOP: u8 = 0;
pub(crate) const ROUTING: u8 = 43;
pub(crate) const FRAGMENT: u8 = 44;
pub(crate) const DESTINATION: u8 = 60;

/// A TCP segment from the view of our side.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tcp {
    pub(crate) local_port: u16,
    pub(crate) remote_port: u16,
    pub(crate) sequence: u32,
    pub(crate) acknowledgement: u32,
    pub(crate) flags: u8,
}

impl Tcp {
    /// A segment of the usual flow.
    pub(crate) const fn new(flags: u8, sequence: u32, acknowledgement: u32) -> Self {
        let (local_port, remote_port) = (LOCAL_PORT, REMOTE_PORT);
        Self { local_port, remote_port, sequence, acknowledgement, flags }
    }
}

/// Which way a packet goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Out,
    In,
}

/// Everything around a TCP segment.
#[derive(Clone, Debug)]
pub(crate) struct Shape {
    pub(crate) v6: bool,
    /// Tag protocols, outermost first.
    pub(crate) tags: Vec<u16>,
    /// IPv4: version and header length, where they lie.
    pub(crate) version_and_words: Option<u8>,
    /// IPv4: bytes of options.
    pub(crate) ip_options: usize,
    /// IPv4: flags and offset. IPv6: the same field of every fragment header.
    pub(crate) fragment: u16,
    /// IPv6: extension headers, by number, with their units of eight bytes beyond the first.
    pub(crate) extensions: Vec<(u8, u8)>,
    /// The protocol number, or the last next-header.
    pub(crate) protocol: u8,
    /// Bytes by which the IP header's length is wrong.
    pub(crate) length_error: i32,
    /// TCP: bytes of options.
    pub(crate) tcp_options: u8,
    /// TCP: the data offset, where it lies.
    pub(crate) data_offset: Option<u8>,
    /// TCP: bytes of data.
    pub(crate) data: usize,
    /// The protocol of the frame, where it is not IP's.
    pub(crate) ether_type: Option<u16>,
}

impl Shape {
    /// The plainest packet.
    pub(crate) const fn plain(v6: bool) -> Self {
        Self {
            v6,
            tags: Vec::new(),
            version_and_words: None,
            ip_options: 0,
            fragment: 0,
            extensions: Vec::new(),
            protocol: 6,
            length_error: 0,
            tcp_options: 0,
            data_offset: None,
            data: 0,
            ether_type: None,
        }
    }

    /// The frame.
    pub(crate) fn frame(&self, way: Way, tcp: Tcp) -> Vec<u8> {
        let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2];
        for (index, tag) in self.tags.iter().enumerate() {
            frame.extend(tag.to_be_bytes());
            frame.extend((7 + u16::try_from(index).unwrap()).to_be_bytes());
        }
        let ip_type = if self.v6 { 0x86dd_u16 } else { 0x0800 };
        frame.extend(self.ether_type.unwrap_or(ip_type).to_be_bytes());
        let segment = self.segment(way, tcp);
        let packet = if self.v6 { self.ipv6(way, &segment) } else { self.ipv4(way, &segment) };
        frame.extend(packet);
        frame
    }

    fn segment(&self, way: Way, tcp: Tcp) -> Vec<u8> {
        let (from, to) = ordered(way, tcp.local_port, tcp.remote_port);
        let mut segment = Vec::new();
        segment.extend(from.to_be_bytes());
        segment.extend(to.to_be_bytes());
        segment.extend(tcp.sequence.to_be_bytes());
        segment.extend(tcp.acknowledgement.to_be_bytes());
        let words = self.data_offset.unwrap_or(5 + self.tcp_options / 4);
        segment.extend([words << 4, tcp.flags, 0xff, 0xff, 0, 0, 0, 0]);
        // Option 1 is "no operation".
        segment.extend(vec![1; usize::from(self.tcp_options)]);
        segment.extend(vec![0xaa; self.data]);
        segment
    }

    fn ipv4(&self, way: Way, segment: &[u8]) -> Vec<u8> {
        let header = 20 + self.ip_options;
        let words = 0x40 | u8::try_from(header / 4).unwrap();
        let mut packet = vec![self.version_and_words.unwrap_or(words), 0];
        packet.extend(self.length(header + segment.len()).to_be_bytes());
        packet.extend([0, 1]);
        packet.extend(self.fragment.to_be_bytes());
        packet.extend([64, self.protocol, 0, 0]);
        let (from, to) = ordered(way, LOCAL_V4, REMOTE_V4);
        packet.extend(from);
        packet.extend(to);
        packet.extend(vec![1; self.ip_options]);
        packet.extend(segment);
        packet
    }

    fn ipv6(&self, way: Way, segment: &[u8]) -> Vec<u8> {
        let numbers = self.extensions.iter().map(|(number, _)| *number);
        let mut next = numbers.chain([self.protocol]);
        let first = next.next().unwrap();
        let mut payload = Vec::new();
        for ((number, eights), after) in self.extensions.iter().zip(next) {
            let start = payload.len();
            if *number == FRAGMENT {
                payload.extend([after, 0]);
                payload.extend(self.fragment.to_be_bytes());
                payload.extend([0; 4]);
            } else {
                payload.extend([after, *eights]);
                payload.resize(start + (usize::from(*eights) + 1) * 8, 0);
            }
        }
        payload.extend(segment);
        let mut packet = vec![0x60, 0, 0, 0];
        packet.extend(self.length(payload.len()).to_be_bytes());
        packet.extend([first, 64]);
        let (from, to) = ordered(way, LOCAL_V6, REMOTE_V6);
        packet.extend(from);
        packet.extend(to);
        packet.extend(payload);
        packet
    }

    fn length(&self, right: usize) -> u16 {
        u16::try_from(i32::try_from(right).unwrap() + self.length_error).unwrap()
    }
}

fn ordered<T>(way: Way, local: T, remote: T) -> (T, T) {
    match way {
        Way::Out => (local, remote),
        Way::In => (remote, local),
    }
}

pub(crate) const LOCAL_V4: [u8; 4] = [192, 0, 2, 1];
pub(crate) const REMOTE_V4: [u8; 4] = [198, 51, 100, 2];
pub(crate) const LOCAL_V6: [u8; 16] = [0x20, 1, 0xd, 0xb8, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11];
pub(crate) const REMOTE_V6: [u8; 16] =
    [0x20, 1, 0xd, 0xb8, 0xff, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31];
