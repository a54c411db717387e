//! The programs that time half-open checks in the kernel. Every packet of an interface flows in,
//! at egress and at ingress; out flow events of attempts from registered ports, into a ring
//! buffer. No packet is ever changed, dropped or delayed: the answer is always `TCX_NEXT`.
//!
//! The program at egress remembers when a SYN left, the one at ingress finds its answer. A
//! retransmitted SYN restarts the time: the round trip is that of the answered SYN. Everything
//! else is `rttscope_ebpf`'s, the layouts that the reader shares.
//!
//! `cargo xtask build-ebpf` builds this into `rttscope.bpf.o`, which is committed.

#![no_std]
#![no_main]
#![expect(missing_docs, reason = "the attribute of a program drops its documentation")]
#![expect(unreachable_pub, reason = "a program must be visible to the linker")]
#![expect(unsafe_code, reason = "kernel helpers and map values are raw pointers")]
#![expect(
    clippy::needless_borrows_for_generic_args,
    reason = "a key by value is a second copy on a stack of 512 bytes"
)]

mod packet;

use aya_ebpf::bindings::{__sk_buff, BPF_RB_NO_WAKEUP};
use aya_ebpf::btf_maps::{Array, LruHashMap, PerCpuArray, RingBuf};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use rttscope_ebpf::{Attempt, AttemptEvent, FlowKey, PORT_WORDS, counter, kind, port_bit, stage};

use packet::{ACK, FIN, RST, SYN, Segment, Side, word};

/// "Go on": `TCX_NEXT` of tcx and `TC_ACT_UNSPEC` of clsact (`include/uapi/linux/bpf.h`).
const TCX_NEXT: i32 = -1;

/// Attempts remembered at once; beyond that the oldest are forgotten. A loader may change it.
const ATTEMPTS_MAX: usize = 16_384;

/// Bytes of the ring buffer: about 12,000 events. A loader may change it.
const EVENT_BYTES: usize = 1 << 20;

// The names are `rttscope_ebpf::names`; the tests of `tests/ebpf` find every part by them.

#[btf_map]
static RTT_PORTS: Array<u64, PORT_WORDS> = Array::new();

#[btf_map]
static RTT_ATTEMPTS: LruHashMap<FlowKey, Attempt, ATTEMPTS_MAX> = LruHashMap::new();

// libbpf refuses a ring buffer whose value has a size.
#[btf_map]
static RTT_EVENTS: RingBuf<(), EVENT_BYTES> = RingBuf::new();

#[btf_map]
static RTT_COUNTERS: PerCpuArray<u64, { counter::COUNT }> = PerCpuArray::new();

/// Packets that leave.
#[classifier]
pub fn rtt_egress(context: TcContext) -> i32 {
    leaves(context.skb.skb);
    TCX_NEXT
}

/// Packets that arrive.
#[classifier]
pub fn rtt_ingress(context: TcContext) -> i32 {
    arrives(context.skb.skb);
    TCX_NEXT
}

#[inline(always)]
fn leaves(skb: *mut __sk_buff) -> Option<()> {
    let segment = packet::read(skb, Side::Egress, is_registered)?;
    match segment.flags & (SYN | ACK | RST | FIN) {
        SYN => syn_leaves(&segment),
        flags if flags & SYN == 0 && flags & (ACK | RST) != 0 => after_answer(&segment),
        _ => None,
    }
}

#[inline(always)]
fn syn_leaves(segment: &Segment) -> Option<()> {
    // SAFETY: reads a clock.
    let now_ns = unsafe { bpf_ktime_get_ns() };
    if let Some(attempt) = RTT_ATTEMPTS.get_ptr_mut(&segment.key) {
        // SAFETY: the kernel keeps the value's memory until the program ends; other CPUs may
        // write it at the same time, which can garble one attempt's numbers but nothing else.
        let attempt = unsafe { &mut *attempt };
        if attempt.sent.sequence == segment.sequence {
            // A SYN that crosses its answer changes nothing any more.
            if attempt.stage == stage::WAITING {
                attempt.sent.last_ns = now_ns;
                attempt.sent.syns = attempt.sent.syns.wrapping_add(1);
            }
            return Some(());
        }
    }
    // By whole words: see `packet::key`.
    let words = [now_ns, now_ns, word(segment.sequence, 1), word(stage::WAITING, 0)];
    // SAFETY: an attempt is these 32 bytes in this order, aligned alike; any pattern is valid.
    let attempt = unsafe { core::mem::transmute::<[u64; 4], Attempt>(words) };
    if RTT_ATTEMPTS.insert(&segment.key, &attempt, 0).is_err() {
        count(counter::ATTEMPTS_LOST);
    }
    Some(())
}

/// What our side says after a SYN-ACK: RST as it should, or the ACK that completes the handshake.
#[inline(always)]
fn after_answer(segment: &Segment) -> Option<()> {
    let attempt = RTT_ATTEMPTS.get_ptr_mut(&segment.key)?;
    // SAFETY: as in `syn_leaves`.
    let attempt = unsafe { &mut *attempt };
    if attempt.stage != stage::OPEN {
        return None;
    }
    if segment.flags & RST == 0 {
        // Serial numbers (RFC 1982): anything above the SYN-ACK's own number acknowledges it.
        let ahead = segment.acknowledgement.wrapping_sub(attempt.answer_sequence);
        if ahead == 0 || ahead > u32::MAX / 2 {
            return None;
        }
        emit(segment, attempt, kind::COMPLETED);
    }
    let _gone_already = RTT_ATTEMPTS.remove(&segment.key);
    Some(())
}

#[inline(always)]
fn arrives(skb: *mut __sk_buff) -> Option<()> {
    let segment = packet::read(skb, Side::Ingress, is_registered)?;
    // A RST that acknowledges nothing is no answer to a SYN (RFC 9293 section 3.10.7.3).
    let kind = match segment.flags & (SYN | ACK | RST | FIN) {
        flags if flags == SYN | ACK => kind::OPEN,
        flags if flags == RST | ACK => kind::REFUSED,
        _ => return None,
    };
    let attempt = RTT_ATTEMPTS.get_ptr_mut(&segment.key)?;
    // SAFETY: as in `syn_leaves`.
    let attempt = unsafe { &mut *attempt };
    let expected = attempt.sent.sequence.wrapping_add(1);
    if attempt.stage != stage::WAITING || segment.acknowledgement != expected {
        return None;
    }
    emit(&segment, attempt, kind);
    if kind == kind::OPEN {
        attempt.stage = stage::OPEN;
        attempt.answer_sequence = segment.sequence;
    } else {
        let _gone_already = RTT_ATTEMPTS.remove(&segment.key);
    }
    Some(())
}

#[inline(always)]
fn emit(segment: &Segment, attempt: &Attempt, kind: u32) {
    // SAFETY: reads a clock.
    let at_ns = unsafe { bpf_ktime_get_ns() };
    let Some(mut entry) = RTT_EVENTS.reserve_untyped::<AttemptEvent>(0) else {
        count(counter::EVENTS_LOST);
        return;
    };
    entry.write(AttemptEvent {
        key: segment.key,
        sent: attempt.sent,
        at_ns,
        kind,
        tcp_flags: u32::from(segment.flags),
    });
    // The reader looks when it has an answer to explain and never sleeps on the ring: an interrupt
    // to wake nobody would cost more than everything else here.
    entry.submit(u64::from(BPF_RB_NO_WAKEUP));
}

#[inline(always)]
fn is_registered(port: u16) -> bool {
    let (word, mask) = port_bit(port);
    RTT_PORTS.get(word).is_some_and(|bits| bits & mask != 0)
}

#[inline(always)]
fn count(index: u32) {
    if let Some(value) = RTT_COUNTERS.get_ptr_mut(index) {
        // SAFETY: the slot belongs to this CPU, and no program interrupts this one here.
        let value = unsafe { &mut *value };
        *value = value.wrapping_add(1);
    }
}

/// Some helpers are lent to GPL-compatible programs only.
#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// The verifier refuses a program that could get here.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
