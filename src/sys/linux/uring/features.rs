//! What io_uring can do here, found out by trying it on rings of a few entries. Nothing goes in,
//! facts come out.

use std::io;

use io_uring::types::Fd;
use io_uring::{Builder, IoUring, cqueue, opcode, squeue};
use socket2::{Domain, Protocol, Socket, Type};
use std::os::fd::AsRawFd;

use super::buffers::{BufferRing, Group};
use super::submit::SOCKET_TX_TIMESTAMP;
use crate::host::RingFacts;

type Plain = Builder<squeue::Entry, cqueue::Entry>;
type Big = IoUring<squeue::Entry, cqueue::Entry32>;

/// `None` if not even a plain ring opens.
pub(in crate::sys::linux) fn ring() -> Option<RingFacts> {
    IoUring::new(ENTRIES).ok()?;
    let opens = |choose: fn(&mut Plain) -> &mut Plain| {
        let mut builder = IoUring::builder();
        choose(&mut builder);
        builder.build(ENTRIES).is_ok()
    };
    let big: io::Result<Big> = IoUring::builder().build(ENTRIES);
    let tx_timestamp_command = big.as_ref().is_ok_and(|_| takes_stamp_command().unwrap_or(false));
    Some(RingFacts {
        coop_taskrun: opens(|builder| builder.setup_coop_taskrun()),
        single_issuer: opens(|builder| builder.setup_single_issuer()),
        // It demands a single issuer.
        defer_taskrun: opens(|builder| builder.setup_single_issuer().setup_defer_taskrun()),
        cqe32: big.is_ok(),
        provided_buffers: big.is_ok_and(|big| {
            let buffers = BufferRing::register(&big.submitter(), GROUP);
            // Before its buffers.
            drop(big);
            buffers.is_ok()
        }),
        tx_timestamp_command,
    })
}

/// Whether the command is known: it then waits, because a socket that has sent nothing has no
/// stamps, or ends in another way than an older kernel's "not supported".
fn takes_stamp_command() -> io::Result<bool> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    let mut ring: Big = IoUring::builder().build(ENTRIES)?;
    let command = opcode::UringCmd16::new(Fd(socket.as_raw_fd()), SOCKET_TX_TIMESTAMP).build();
    // SAFETY: the command has no memory of ours, and the socket outlives the ring, which is
    // declared behind it.
    unsafe { ring.submission().push(&command) }.map_err(io::Error::other)?;
    ring.submit()?;
    let refused = |entry: cqueue::Entry32| {
        matches!(-entry.result(), libc::EOPNOTSUPP | libc::EINVAL | libc::ENOTTY)
    };
    Ok(!ring.completion().any(refused))
}

const ENTRIES: u32 = 4;
const GROUP: Group = Group { number: 0, buffers: 4, buffer_bytes: 64 };

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::IoOptions;
    use crate::sys::linux::uring::Uring;

    #[test]
    fn a_ring_that_opens_has_what_it_needs() {
        let opened = Uring::open(&IoOptions::default());
        let Some(facts) = ring() else {
            assert!(opened.is_err());
            return;
        };
        if opened.is_ok() {
            assert!(facts.cqe32 && facts.provided_buffers && facts.coop_taskrun, "{facts:?}");
        }
        // Each came later than the one before.
        assert!(facts.single_issuer || !facts.defer_taskrun, "{facts:?}");
        assert!(facts.defer_taskrun || !facts.tx_timestamp_command, "{facts:?}");
    }
}
