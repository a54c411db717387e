//! A packet capture with the kernel's own times: an interface in, TCP segments out, and the round
//! trips they show for each probe. Nothing of the product takes part, so it can be its judge.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::channel;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::frames;
use crate::kernel;
use crate::lab::interface_index;
use crate::site::Place;

/// A running capture.
#[derive(Debug)]
pub(crate) struct Capture {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Vec<Segment>>,
}

/// One TCP segment on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    /// Kernel time, `CLOCK_REALTIME` ns.
    pub(crate) at_ns: u64,
    /// True if this end sent it.
    pub(crate) outgoing: bool,
    pub(crate) source: SocketAddr,
    pub(crate) destination: SocketAddr,
    /// TCP sequence number of the first payload byte (of the SYN if it is one).
    pub(crate) number: u32,
    /// The flags byte of the TCP header.
    pub(crate) flags: u8,
    /// Type of service or traffic class: the code point and two bits of congestion notification.
    pub(crate) traffic_class: u8,
    /// Time to live or hop limit.
    pub(crate) hops: u8,
    pub(crate) payload: Vec<u8>,
}

/// One probe as the wire saw it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RoundTrip {
    /// When the request's last byte left, Unix ns.
    pub(crate) sent_ns: u64,
    /// When the reply's last byte arrived, Unix ns.
    pub(crate) received_ns: u64,
}

/// SYN in [`Segment::flags`] (RFC 9293).
pub(crate) const SYN: u8 = 0x02;

impl Capture {
    /// Starts to capture; every segment from now on is seen.
    pub(crate) fn start(place: &Place, interface: &'static str) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let socket = place.run(|| {
            let index = interface_index(interface).unwrap();
            kernel::packet_socket(index).unwrap()
        });
        let (ready, started) = channel();
        let thread = thread::spawn(move || {
            let mut segments = Vec::new();
            let mut buffer = vec![0; FRAME_BYTES_MAX];
            ready.send(()).unwrap();
            loop {
                // Read before waiting: what arrived before the stop is still delivered.
                let last = stopped.load(Ordering::Acquire);
                match kernel::receive_frame(&socket, &mut buffer).unwrap() {
                    Some(frame) => {
                        assert!(frame.length < FRAME_BYTES_MAX, "a frame was cut");
                        segments.extend(parse(&buffer[..frame.length], frame));
                    }
                    None if last => break,
                    None => thread::sleep(PAUSE),
                }
            }
            assert_eq!(kernel::dropped_frames(&socket).unwrap(), 0, "the capture lost frames");
            segments
        });
        started.recv().unwrap();
        Self { stop, thread }
    }

    /// Every segment since the start, in the kernel's order.
    pub(crate) fn stop(self) -> Vec<Segment> {
        self.stop.store(true, Ordering::Release);
        self.thread.join().unwrap()
    }
}

impl RoundTrip {
    /// From the request's last byte to the reply's.
    pub(crate) fn rtt_ns(self) -> u64 {
        self.received_ns - self.sent_ns
    }
}

/// The round trip of each probe to `responder`, by wire version and sequence number. A probe that
/// was retransmitted counts from its first transmission.
pub(crate) fn round_trips(
    segments: &[Segment],
    responder: SocketAddr,
) -> BTreeMap<(u8, u64), RoundTrip> {
    let mut trips = BTreeMap::new();
    let probers: std::collections::BTreeSet<SocketAddr> = segments
        .iter()
        .filter(|segment| segment.destination == responder)
        .map(|segment| segment.source)
        .collect();
    for prober in probers {
        let requests = Stream::assemble(segments, prober, responder);
        let replies = Stream::assemble(segments, responder, prober);
        let (probes, answers) = frames::parse(&requests.bytes, &replies.bytes);
        let answered: BTreeMap<(u8, u64), u64> = answers
            .iter()
            .map(|frame| ((frame.version, frame.sequence), replies.passed_ns(frame.end)))
            .collect();
        for frame in probes {
            let probe = (frame.version, frame.sequence);
            if let Some(&received_ns) = answered.get(&probe) {
                let sent_ns = requests.passed_ns(frame.end);
                trips.insert(probe, RoundTrip { sent_ns, received_ns });
            }
        }
    }
    trips
}

/// The bytes of one direction of a connection, each once, and when they passed.
struct Stream {
    bytes: Vec<u8>,
    /// For each segment with new bytes, the stream's length behind it, and its time.
    reached: Vec<(usize, u64)>,
}

impl Stream {
    fn assemble(segments: &[Segment], source: SocketAddr, destination: SocketAddr) -> Self {
        let mut stream = Self { bytes: Vec::new(), reached: Vec::new() };
        let mut origin: Option<u32> = None;
        for segment in segments {
            if (segment.source, segment.destination) != (source, destination) {
                continue;
            }
            if segment.flags & SYN != 0 {
                origin = Some(segment.number.wrapping_add(1));
                continue;
            }
            if segment.payload.is_empty() {
                continue;
            }
            let origin = *origin.get_or_insert(segment.number);
            let offset = usize::try_from(segment.number.wrapping_sub(origin)).unwrap();
            assert!(offset <= stream.bytes.len(), "a hole in the captured stream");
            // What is there already is a retransmission.
            let known = stream.bytes.len() - offset;
            if let Some(new) = segment.payload.get(known..).filter(|new| !new.is_empty()) {
                stream.bytes.extend_from_slice(new);
                stream.reached.push((stream.bytes.len(), segment.at_ns));
            }
        }
        stream
    }

    /// When the byte before `end` passed.
    fn passed_ns(&self, end: usize) -> u64 {
        self.reached[self.reached.partition_point(|(length, _)| *length < end)].1
    }
}

/// What an IP packet says about the TCP segment in it.
struct IpPacket<'a> {
    source: IpAddr,
    destination: IpAddr,
    traffic_class: u8,
    hops: u8,
    tcp: &'a [u8],
}

/// The TCP segment in an Ethernet frame, if it carries one and is stamped.
fn parse(bytes: &[u8], frame: kernel::StampedFrame) -> Option<Segment> {
    let at_ns = frame.at_ns?;
    let packet = bytes.get(ETHERNET_BYTES..)?;
    let ip = match number16(bytes, 12)? {
        ETHERTYPE_V4 => parse_v4(packet)?,
        ETHERTYPE_V6 => parse_v6(packet)?,
        _ => return None,
    };
    let tcp = ip.tcp;
    let header_bytes = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        at_ns,
        outgoing: frame.outgoing,
        source: SocketAddr::new(ip.source, number16(tcp, 0)?),
        destination: SocketAddr::new(ip.destination, number16(tcp, 2)?),
        number: u32::from_be_bytes(tcp.get(4..8)?.try_into().unwrap()),
        flags: *tcp.get(13)?,
        traffic_class: ip.traffic_class,
        hops: ip.hops,
        payload: tcp.get(header_bytes..)?.to_vec(),
    })
}

/// An IPv4 packet that carries TCP (RFC 791).
fn parse_v4(packet: &[u8]) -> Option<IpPacket<'_>> {
    let header_bytes = usize::from(packet.first()? & 0x0f) * 4;
    let total_bytes = usize::from(number16(packet, 2)?);
    if packet.get(9) != Some(&PROTOCOL_TCP) {
        return None;
    }
    let source: [u8; 4] = packet.get(12..16)?.try_into().unwrap();
    let destination: [u8; 4] = packet.get(16..20)?.try_into().unwrap();
    // Short packets are padded to Ethernet's minimum: the header's length counts.
    Some(IpPacket {
        source: Ipv4Addr::from(source).into(),
        destination: Ipv4Addr::from(destination).into(),
        traffic_class: *packet.get(1)?,
        hops: *packet.get(8)?,
        tcp: packet.get(header_bytes..total_bytes)?,
    })
}

/// An IPv6 packet that carries TCP and no extension headers (RFC 8200).
fn parse_v6(packet: &[u8]) -> Option<IpPacket<'_>> {
    let payload_bytes = usize::from(number16(packet, 4)?);
    if packet.get(6) != Some(&PROTOCOL_TCP) {
        return None;
    }
    let source: [u8; 16] = packet.get(8..24)?.try_into().unwrap();
    let destination: [u8; 16] = packet.get(24..40)?.try_into().unwrap();
    Some(IpPacket {
        source: Ipv6Addr::from(source).into(),
        destination: Ipv6Addr::from(destination).into(),
        // Version, traffic class, flow label: 4, 8 and 20 bits.
        traffic_class: packet.first()? << 4 | packet.get(1)? >> 4,
        hops: *packet.get(7)?,
        tcp: packet.get(40..40 + payload_bytes)?,
    })
}

/// A number in network order.
fn number16(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().unwrap()))
}

/// Between two looks for frames: how soon a capture notices that it shall stop.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);
const FRAME_BYTES_MAX: usize = 1 << 17;
const ETHERNET_BYTES: usize = 14;
const ETHERTYPE_V4: u16 = 0x0800;
const ETHERTYPE_V6: u16 = 0x86dd;
const PROTOCOL_TCP: u8 = 6;
