//! Packet fixtures against the committed eBPF object: scripts of packets flow in through
//! `BPF_PROG_TEST_RUN`, and the ring buffer's events must be exactly the expected ones. libbpf
//! loads the object here, the product's own loader elsewhere: two opinions of one file.
//!
//! Nothing is attached to any interface. Without the right to load programs, tests are skipped.

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

mod behaviour;
mod damage;
mod frames;
mod limits;
mod loaded;
mod shapes;
