//! Finds the TCP header of a packet. A packet flows in; a segment with its flow as our side sees
//! it flows out, if its port is wanted. The cheapest test comes first: most packets leave at the
//! protocol or at the port.
//!
//! Offsets count from the network header, never from the frame's start: tun and WireGuard have no
//! Ethernet header. A VLAN tag that the kernel keeps beside the packet never shows; one inside
//! stands at the network header, and `skb->protocol` names it.

use core::mem::MaybeUninit;

use aya_ebpf::bindings::__sk_buff;
use aya_ebpf::bindings::bpf_hdr_start_off::BPF_HDR_START_NET;
use aya_ebpf::helpers::generated::bpf_skb_load_bytes_relative;
use rttscope_ebpf::FlowKey;

/// What the programs need of a segment.
pub(crate) struct Segment {
    /// Its flow: our end and the other, wherever it travels.
    pub(crate) key: FlowKey,
    /// Its sequence number, host byte order.
    pub(crate) sequence: u32,
    /// Its acknowledgement number, host byte order; meaningless without `ACK`.
    pub(crate) acknowledgement: u32,
    /// The flags byte.
    pub(crate) flags: u8,
}

/// Which way packets travel.
#[derive(Clone, Copy)]
pub(crate) enum Side {
    /// From us.
    Egress,
    /// To us.
    Ingress,
}

// Flags, RFC 9293 section 3.1.
pub(crate) const FIN: u8 = 0x01;
pub(crate) const SYN: u8 = 0x02;
pub(crate) const RST: u8 = 0x04;
pub(crate) const ACK: u8 = 0x10;

/// The segment, if the packet is TCP over IP, whole enough to have a header, and our side's port
/// is wanted. Checksums are not verified: the receiver's stack does.
#[inline(always)]
pub(crate) fn read(
    skb: *mut __sk_buff,
    side: Side,
    is_wanted: impl FnOnce(u16) -> bool,
) -> Option<Segment> {
    let (ether_type, network) = ether_type(skb)?;
    let transport = match ether_type {
        ETHER_IPV4 => ipv4(skb, network)?,
        ETHER_IPV6 => ipv6(skb, network)?,
        _ => return None,
    };
    if transport.length < TCP_BYTES {
        return None;
    }
    let [ports, sequence, acknowledgement, rest, _] = load(skb, transport.offset)?;
    let ports = u32::from_be(ports);
    let source = End { address: transport.source, port: low_half(ports >> 16) };
    let destination = End { address: transport.destination, port: low_half(ports) };
    let (local, remote) = match side {
        Side::Egress => (source, destination),
        Side::Ingress => (destination, source),
    };
    if !is_wanted(local.port) {
        return None;
    }
    let [data_offset, flags, _, _] = rest.to_ne_bytes();
    let header_bytes = u32::from(data_offset >> 4) * 4;
    if header_bytes < TCP_BYTES || header_bytes > transport.length {
        return None;
    }
    Some(Segment {
        key: key(&local, &remote),
        sequence: u32::from_be(sequence),
        acknowledgement: u32::from_be(acknowledgement),
        flags,
    })
}

/// Where the TCP segment is, how long the IP header says it is, and between whom it travels.
struct Transport {
    offset: u32,
    length: u32,
    source: [u32; 4],
    destination: [u32; 4],
}

/// An endpoint in registers: an address as the wire has it, a port in host byte order.
struct End {
    address: [u32; 4],
    port: u16,
}

/// Writes both ends by whole words of eight bytes: older verifiers (that of Linux 6.1) forbid those
/// who lack `CAP_PERFMON` to write a part of a word of the stack after its first half
/// ("attempt to corrupt spilled pointer").
#[inline(always)]
fn key(local: &End, remote: &End) -> FlowKey {
    let [l0, l1, l2, l3] = local.address;
    let [r0, r1, r2, r3] = remote.address;
    let port = |end: &End| low_first(end.port.to_be());
    let words =
        [word(l0, l1), word(l2, l3), word(port(local), r0), word(r1, r2), word(r3, port(remote))];
    // SAFETY: a key is these 40 bytes in this order, aligned alike, and every pattern is valid.
    unsafe { core::mem::transmute::<[u64; 5], FlowKey>(words) }
}

/// Two bytes, and behind them two that are zero, as the memory of a number.
#[inline(always)]
fn low_first(bytes: u16) -> u32 {
    u32::from(bytes) << if cfg!(target_endian = "little") { 0 } else { 16 }
}

/// Two numbers one behind the other in memory.
#[inline(always)]
pub(crate) fn word(first: u32, second: u32) -> u64 {
    let (low, high) =
        if cfg!(target_endian = "little") { (first, second) } else { (second, first) };
    u64::from(high) << 32 | u64::from(low)
}

/// The protocol after any VLAN tags, and the offset of its header.
#[inline(always)]
fn ether_type(skb: *mut __sk_buff) -> Option<(u16, u32)> {
    // SAFETY: the kernel passes a valid context; the verifier rewrites the read.
    let protocol = unsafe { (*skb).protocol };
    // The low half holds the two bytes of the wire, in network byte order.
    let ether_type = u16::from_be((protocol & 0xffff) as u16);
    // Twice: the kernel keeps the outermost tag beside the packet, and more than three are not
    // IEEE 802.1Q's. No loop: see `ipv6`.
    let (ether_type, offset) = behind_tag(skb, ether_type, 0)?;
    behind_tag(skb, ether_type, offset)
}

/// The protocol behind a VLAN tag and its offset; both as they are if there is no tag.
#[inline(always)]
fn behind_tag(skb: *mut __sk_buff, ether_type: u16, offset: u32) -> Option<(u16, u32)> {
    if ether_type != ETHER_VLAN && ether_type != ETHER_SERVICE_VLAN {
        return Some((ether_type, offset));
    }
    let [tag] = load(skb, offset)?;
    Some((low_half(u32::from_be(tag)), offset + 4))
}

/// RFC 791 section 3.1.
#[inline(always)]
fn ipv4(skb: *mut __sk_buff, offset: u32) -> Option<Transport> {
    let [versions, fragment, protocol, from, to] = load(skb, offset)?;
    let [versions, fragment, protocol] = [versions, fragment, protocol].map(u32::from_be);
    let [_, ip_protocol, _, _] = protocol.to_be_bytes();
    // The lower 13 bits are the offset: only a first fragment has the TCP header.
    if ip_protocol != PROTOCOL_TCP || fragment & 0x1fff != 0 || versions >> 28 != 4 {
        return None;
    }
    let header_bytes = (versions >> 24 & 0xf) * 4;
    if header_bytes < IPV4_BYTES {
        return None;
    }
    let total = u32::from(low_half(versions));
    Some(Transport {
        offset: offset + header_bytes,
        length: total.checked_sub(header_bytes)?,
        source: [0, 0, MAPPED.to_be(), from],
        destination: [0, 0, MAPPED.to_be(), to],
    })
}

/// RFC 8200 sections 3 and 4.
#[inline(always)]
fn ipv6(skb: *mut __sk_buff, offset: u32) -> Option<Transport> {
    let [version, rest] = load(skb, offset)?.map(u32::from_be);
    let [_, _, next, _] = rest.to_be_bytes();
    if version >> 28 != 6 || !(next == PROTOCOL_TCP || is_extension(next)) {
        return None;
    }
    let start = offset + IPV6_BYTES;
    // Six times (RFC 8504 section 5.3 lets a node stop earlier than at eight), and in no loop:
    // for a loader without CAP_PERFMON the verifier also follows branches that a processor could
    // mispredict, and that way it finds no end of a loop.
    let walk = (next, 0);
    let walk = behind_extension(skb, start, walk)?;
    let walk = behind_extension(skb, start, walk)?;
    let walk = behind_extension(skb, start, walk)?;
    let walk = behind_extension(skb, start, walk)?;
    let walk = behind_extension(skb, start, walk)?;
    let (next, skipped) = behind_extension(skb, start, walk)?;
    if next != PROTOCOL_TCP {
        return None;
    }
    let payload = rest >> 16;
    Some(Transport {
        offset: start + skipped,
        length: payload.checked_sub(skipped)?,
        source: load(skb, offset + 8)?,
        destination: load(skb, offset + 24)?,
    })
}

/// The header behind an extension header, and how many bytes all of them have; both as they are
/// if there is none.
#[inline(always)]
fn behind_extension(
    skb: *mut __sk_buff,
    start: u32,
    (next, skipped): (u8, u32),
) -> Option<(u8, u32)> {
    if !is_extension(next) {
        return Some((next, skipped));
    }
    let [extension] = load(skb, start + skipped)?.map(u32::from_be);
    let [after, eights, _, _] = extension.to_be_bytes();
    if next != EXTENSION_FRAGMENT {
        return Some((after, skipped + (u32::from(eights) + 1) * 8));
    }
    // The upper 13 bits are the offset.
    (low_half(extension) >> 3 == 0).then_some((after, skipped + 8))
}

#[inline(always)]
fn is_extension(next: u8) -> bool {
    // Hop-by-hop options, routing, fragment, destination options.
    matches!(next, 0 | 43 | EXTENSION_FRAGMENT | 60)
}

/// Words of the packet's linear part in network byte order; none if it is shorter.
#[inline(always)]
fn load<const N: usize>(skb: *mut __sk_buff, offset: u32) -> Option<[u32; N]> {
    let mut words = MaybeUninit::<[u32; N]>::uninit();
    #[expect(clippy::cast_possible_truncation, reason = "N is at most five")]
    let bytes = (N * 4) as u32;
    // SAFETY: the helper writes that many bytes: the packet's, or zeros if it has fewer there.
    let status = unsafe {
        let to = words.as_mut_ptr().cast();
        bpf_skb_load_bytes_relative(skb.cast(), offset, to, bytes, BPF_HDR_START_NET)
    };
    // SAFETY: written just now, and every pattern is a number.
    (status == 0).then_some(unsafe { words.assume_init() })
}

#[inline(always)]
fn low_half(word: u32) -> u16 {
    (word & 0xffff) as u16
}

/// What stands before an IPv4 address in its mapped form.
const MAPPED: u32 = 0xffff;

/// Headers without options.
const IPV4_BYTES: u32 = 20;
const IPV6_BYTES: u32 = 40;
const TCP_BYTES: u32 = 20;

const PROTOCOL_TCP: u8 = 6;
const EXTENSION_FRAGMENT: u8 = 44;

// include/uapi/linux/if_ether.h
const ETHER_IPV4: u16 = 0x0800;
const ETHER_IPV6: u16 = 0x86dd;
const ETHER_VLAN: u16 = 0x8100;
const ETHER_SERVICE_VLAN: u16 = 0x88a8;
