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
#[repr(C, align(4))]
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
///
/// Aligned to eight bytes, so that the program copies it by words: a call of `memcpy` compares
/// pointers, which the verifier allows to holders of `CAP_PERFMON` only.
#[repr(C, align(8))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Our end.
    pub local: Endpoint,
    /// The checked end.
    pub remote: Endpoint,
}

/// What is known of the SYNs of one attempt.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SynSent {
    /// When the first SYN left, `CLOCK_MONOTONIC` (`bpf_ktime_get_ns`).
    pub first_ns: u64,
    /// When the last SYN left: the same unless it was retransmitted.
    pub last_ns: u64,
    /// Their sequence number, host byte order; an answer acknowledges it plus one.
    pub sequence: u32,
    /// How many SYNs left, the first included.
    pub syns: u32,
}

/// An attempt under way: the value of the map [`names::ATTEMPTS`].
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// Its SYNs.
    pub sent: SynSent,
    /// [`stage::WAITING`] or [`stage::OPEN`].
    pub stage: u32,
    /// The sequence number of the SYN-ACK, host byte order; zero before it came.
    pub answer_sequence: u32,
}

/// Something that happened to an attempt, as the ring buffer carries it.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AttemptEvent {
    /// Which attempt.
    pub key: FlowKey,
    /// Its SYNs until then.
    pub sent: SynSent,
    /// When it happened, `CLOCK_MONOTONIC`.
    pub at_ns: u64,
    /// What happened: one of [`kind`].
    pub kind: u32,
    /// The packet's TCP flags byte (RFC 9293 section 3.1).
    pub tcp_flags: u32,
}

impl AttemptEvent {
    /// Bytes of an event in the ring buffer.
    pub const BYTES: usize = size_of::<Self>();

    /// Reads an entry of the ring buffer, field by field; `None` if it has another length.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let bytes: &[u8; Self::BYTES] = bytes.try_into().ok()?;
        let mut rest = &bytes[..];
        Some(Self {
            key: FlowKey { local: endpoint(&mut rest)?, remote: endpoint(&mut rest)? },
            sent: SynSent {
                first_ns: u64::from_ne_bytes(take(&mut rest)?),
                last_ns: u64::from_ne_bytes(take(&mut rest)?),
                sequence: u32::from_ne_bytes(take(&mut rest)?),
                syns: u32::from_ne_bytes(take(&mut rest)?),
            },
            at_ns: u64::from_ne_bytes(take(&mut rest)?),
            kind: u32::from_ne_bytes(take(&mut rest)?),
            tcp_flags: u32::from_ne_bytes(take(&mut rest)?),
        })
    }

    /// From the last SYN to the event, in nanoseconds: the round trip of an answer.
    ///
    /// An answer to an earlier SYN that overtakes the last one's answer looks shorter than it is:
    /// TCP alone cannot tell them apart (Karn's ambiguity), so a reader distrusts the round trip
    /// of a retransmitted attempt when it needs certainty.
    #[must_use]
    pub const fn rtt_ns(&self) -> u64 {
        self.at_ns.saturating_sub(self.sent.last_ns)
    }

    /// From the first SYN to the event, in nanoseconds.
    #[must_use]
    pub const fn elapsed_ns(&self) -> u64 {
        self.at_ns.saturating_sub(self.sent.first_ns)
    }

    /// How many SYNs left after the first.
    #[must_use]
    pub const fn retransmits(&self) -> u32 {
        self.sent.syns.saturating_sub(1)
    }
}

/// What an [`AttemptEvent`] tells.
pub mod kind {
    /// The SYN was answered by SYN-ACK: the port is open.
    pub const OPEN: u32 = 1;
    /// The SYN was answered by RST: the port is closed.
    pub const REFUSED: u32 = 2;
    /// Our side acknowledged the SYN-ACK: the handshake that should stay half-open is complete.
    pub const COMPLETED: u32 = 3;
}

/// How far an [`Attempt`] got.
pub mod stage {
    /// No answer yet.
    pub const WAITING: u32 = 0;
    /// Answered by SYN-ACK; our side has said nothing since.
    pub const OPEN: u32 = 1;
}

/// Indices of the per-CPU map [`names::COUNTERS`], whose values are `u64`.
pub mod counter {
    /// Events that found the ring buffer full.
    pub const EVENTS_LOST: u32 = 0;
    /// SYNs that could not be remembered: their attempts have no events.
    pub const ATTEMPTS_LOST: u32 = 1;
    /// How many there are.
    pub const COUNT: usize = 2;
}

/// Names in the object, by which a loader finds its parts.
pub mod names {
    /// The program for packets that leave; a `classifier` that always says `TCX_NEXT`.
    pub const EGRESS: &str = "rtt_egress";
    /// The program for packets that arrive; likewise.
    pub const INGRESS: &str = "rtt_ingress";
    /// Array of `u64`: the local ports to watch, as a bitmap; see [`super::port_bit`].
    pub const PORTS: &str = "RTT_PORTS";
    /// LRU hash from [`super::FlowKey`] to [`super::Attempt`].
    pub const ATTEMPTS: &str = "RTT_ATTEMPTS";
    /// Ring buffer of [`super::AttemptEvent`].
    pub const EVENTS: &str = "RTT_EVENTS";
    /// Per-CPU array of `u64`, indexed by [`super::counter`].
    pub const COUNTERS: &str = "RTT_COUNTERS";
}

/// Words of the bitmap in [`names::PORTS`]: one bit a port.
pub const PORT_WORDS: usize = 65_536 / 64;

/// Where a port's bit is in [`names::PORTS`]: the index of its word, and the mask inside.
#[must_use]
pub const fn port_bit(port: u16) -> (u32, u64) {
    // `as` widens; `From` is not const.
    ((port >> 6) as u32, 1 << (port & 63))
}

fn endpoint(rest: &mut &[u8]) -> Option<Endpoint> {
    Some(Endpoint { address_be: take(rest)?, port_be: take(rest)?, zero: take(rest)? })
}

/// The next bytes.
fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (taken, after) = rest.split_first_chunk()?;
    *rest = after;
    Some(*taken)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use core::mem::offset_of;

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
            4,
            &[
                (offset_of!(Endpoint, address_be), 0),
                (offset_of!(Endpoint, port_be), 16),
                (offset_of!(Endpoint, zero), 18),
            ],
        );
        check::<FlowKey>(
            40,
            8,
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
        check::<Attempt>(
            32,
            8,
            &[
                (offset_of!(Attempt, sent), 0),
                (offset_of!(Attempt, stage), 24),
                (offset_of!(Attempt, answer_sequence), 28),
            ],
        );
        check::<AttemptEvent>(
            80,
            8,
            &[
                (offset_of!(AttemptEvent, key), 0),
                (offset_of!(AttemptEvent, sent), 40),
                (offset_of!(AttemptEvent, at_ns), 64),
                (offset_of!(AttemptEvent, kind), 72),
                (offset_of!(AttemptEvent, tcp_flags), 76),
            ],
        );
    }

    #[test]
    fn every_port_has_a_bit_of_its_own() {
        let mut words = [0_u64; PORT_WORDS];
        for port in 0..=u16::MAX {
            let (word, mask) = port_bit(port);
            let word = &mut words[usize::try_from(word).unwrap()];
            assert_eq!(*word & mask, 0, "port {port}");
            *word |= mask;
        }
        assert_eq!(words, [u64::MAX; PORT_WORDS]);
    }

    #[test]
    fn a_round_trip_starts_at_the_last_syn() {
        let end = Endpoint::v4([192, 0, 2, 1], [0, 80]);
        let event = AttemptEvent {
            key: FlowKey { local: end, remote: end },
            sent: SynSent { first_ns: 100, last_ns: 1_100, sequence: 7, syns: 2 },
            at_ns: 1_400,
            kind: kind::OPEN,
            tcp_flags: 0x12,
        };
        assert_eq!((event.rtt_ns(), event.elapsed_ns(), event.retransmits()), (300, 1_300, 1));
    }

    #[test]
    fn an_event_is_read_as_it_was_written() {
        let mut bytes = [0_u8; AttemptEvent::BYTES];
        for (byte, value) in bytes.iter_mut().zip(1..) {
            *byte = value;
        }
        let event = AttemptEvent::from_bytes(&bytes).unwrap();
        let ends = [event.key.local, event.key.remote];
        let mut written = [0_u8; AttemptEvent::BYTES];
        let mut rest = &mut written[..];
        let mut write = |field: &[u8]| {
            let (start, after) = core::mem::take(&mut rest).split_at_mut(field.len());
            start.copy_from_slice(field);
            rest = after;
        };
        for end in ends {
            write(&end.address_be);
            write(&end.port_be);
            write(&end.zero);
        }
        write(&event.sent.first_ns.to_ne_bytes());
        write(&event.sent.last_ns.to_ne_bytes());
        write(&event.sent.sequence.to_ne_bytes());
        write(&event.sent.syns.to_ne_bytes());
        write(&event.at_ns.to_ne_bytes());
        write(&event.kind.to_ne_bytes());
        write(&event.tcp_flags.to_ne_bytes());
        assert_eq!(written, bytes);
        for length in [0, 1, AttemptEvent::BYTES - 1] {
            assert_eq!(AttemptEvent::from_bytes(&bytes[..length]), None, "{length}");
        }
        assert_eq!(AttemptEvent::from_bytes(&[0; AttemptEvent::BYTES + 1]), None);
    }

    #[test]
    fn an_ipv4_end_equals_its_mapped_form() {
        let mapped = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];
        let port = 443_u16.to_be_bytes();
        assert_eq!(Endpoint::v4([192, 0, 2, 1], port), Endpoint::v6(mapped, port));
    }
}
