//! The layouts that an eBPF program and its reader in user space must agree on, byte by byte:
//! keys and values of maps, and the events of the ring buffer. Nothing flows here; it is the
//! wire format between the kernel's side and ours.
//!
//! Each type is `#[repr(C)]` without implicit padding: the verifier refuses a program that copies
//! uninitialised bytes to user space, and a key with undefined bytes never matches itself. Fields
//! are in host byte order unless their name says `be`.

#![no_std]

/// One end of a connection as the wire has it.
///
/// An IPv4 address is stored mapped (`::ffff:a.b.c.d`, RFC 4291 section 2.5.5.2), so that one map
/// serves both families and equal flows have equal bytes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// The address in network byte order, IPv4 mapped.
    pub address_be: [u8; 16],
    /// The port in network byte order.
    pub port_be: [u8; 2],
    /// Explicit padding to a multiple of four bytes; always zero.
    pub zero: [u8; 2],
}

impl Endpoint {
    /// An IPv4 end; both arguments in network byte order.
    #[must_use]
    pub const fn v4(address_be: [u8; 4], port_be: [u8; 2]) -> Self {
        let [a, b, c, d] = address_be;
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d];
        Self::v6(mapped, port_be)
    }

    /// An IPv6 end; both arguments in network byte order.
    #[must_use]
    pub const fn v6(address_be: [u8; 16], port_be: [u8; 2]) -> Self {
        Self { address_be, port_be, zero: [0; 2] }
    }
}

/// A connection attempt, seen from our side. The key under which the time of a SYN is kept until
/// its answer comes: the program reverses the answer's ends to find it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Our end.
    pub local: Endpoint,
    /// The checked end.
    pub remote: Endpoint,
}

/// What is remembered of a SYN until its answer comes.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynSent {
    /// When the first SYN left, `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`).
    pub first_ns: u64,
    /// When the last SYN left: the same unless it was retransmitted.
    pub last_ns: u64,
    /// Its sequence number, host byte order; an answer acknowledges it plus one.
    pub sequence: u32,
    /// How many SYNs left, the first included.
    pub syns: u32,
}

/// One answered connection attempt, as the ring buffer carries it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynEvent {
    /// Which attempt.
    pub key: FlowKey,
    /// What was remembered of its SYN.
    pub sent: SynSent,
    /// When the answer arrived, `CLOCK_MONOTONIC`.
    pub answered_ns: u64,
    /// The answer's TCP flags byte (RFC 9293 section 3.1): SYN and ACK, or RST.
    pub tcp_flags: u8,
    /// Explicit padding to a multiple of eight bytes; always zero.
    pub zero: [u8; 7],
}

#[cfg(test)]
mod tests {
    use core::mem::{align_of, offset_of, size_of};

    use super::*;

    fn check<T>(size: usize, align: usize, offsets: &[(usize, usize)]) {
        assert_eq!((size_of::<T>(), align_of::<T>()), (size, align));
        for (found, expected) in offsets {
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn layouts_are_fixed_and_without_hidden_padding() {
        check::<Endpoint>(
            20,
            1,
            &[
                (offset_of!(Endpoint, address_be), 0),
                (offset_of!(Endpoint, port_be), 16),
                (offset_of!(Endpoint, zero), 18),
            ],
        );
        check::<FlowKey>(
            40,
            1,
            &[(offset_of!(FlowKey, local), 0), (offset_of!(FlowKey, remote), 20)],
        );
        check::<SynSent>(
            24,
            8,
            &[
                (offset_of!(SynSent, first_ns), 0),
                (offset_of!(SynSent, last_ns), 8),
                (offset_of!(SynSent, sequence), 16),
                (offset_of!(SynSent, syns), 20),
            ],
        );
        check::<SynEvent>(
            80,
            8,
            &[
                (offset_of!(SynEvent, key), 0),
                (offset_of!(SynEvent, sent), 40),
                (offset_of!(SynEvent, answered_ns), 64),
                (offset_of!(SynEvent, tcp_flags), 72),
                (offset_of!(SynEvent, zero), 73),
            ],
        );
    }

    #[test]
    fn an_ipv4_end_equals_its_mapped_form() {
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
        let port = 443_u16.to_be_bytes();
        assert_eq!(Endpoint::v4([192, 0, 2, 1], port), Endpoint::v6(mapped, port));
    }
}
