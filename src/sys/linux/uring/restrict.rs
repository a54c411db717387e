//! A new ring in, one that works and does only what this backend asks of it out. No filter of
//! system calls sees the operations of a ring; what it was not allowed before its first one, it
//! never is (io_uring_register(2), `IORING_REGISTER_RESTRICTIONS`).

use std::io;

use io_uring::register::Restriction;
use io_uring::{Submitter, opcode};

/// Restricts a ring that was made disabled, and enables it.
pub(super) fn enable(submitter: &Submitter<'_>) -> io::Result<()> {
    let operations = OPERATIONS.map(Restriction::sqe_op).into_iter();
    let flags = [Restriction::sqe_flags_allowed(u8::MAX)];
    let mut rules: Vec<Restriction> = operations
        .chain(flags)
        .chain([PBUF_RING, SYNC_CANCEL].map(Restriction::register_op))
        .collect();
    let restricted = match submitter.register_restrictions(&mut rules) {
        // Linux 5.19 has no such registration, and does not know its number.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            let _newest = rules.pop();
            submitter.register_restrictions(&mut rules)
        }
        done => done,
    };
    if let Err(error) = restricted {
        tracing::debug!(%error, "the ring's operations are not restricted");
    }
    submitter.register_enable_rings()
}

/// What this backend asks for. None of it opens a file or names a path.
const OPERATIONS: [u8; 10] = [
    opcode::Accept::CODE,
    opcode::AsyncCancel::CODE,
    opcode::Connect::CODE,
    opcode::PollAdd::CODE,
    opcode::Read::CODE,
    opcode::Recv::CODE,
    opcode::RecvMsg::CODE,
    opcode::Send::CODE,
    opcode::SendMsg::CODE,
    opcode::UringCmd16::CODE,
];

/// `IORING_REGISTER_PBUF_RING`: what joined connections read into is made when there are some.
const PBUF_RING: u8 = 22;
/// `IORING_REGISTER_SYNC_CANCEL` (include/uapi/linux/io_uring.h): how the ring is emptied at its
/// end.
const SYNC_CANCEL: u8 = 24;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::os::fd::AsRawFd;

    use io_uring::types::Fd;
    use io_uring::{IoUring, cqueue, squeue};

    use super::*;

    #[test]
    fn a_ring_opens_no_file() {
        let mut builder = IoUring::<squeue::Entry, cqueue::Entry>::builder();
        let Ok(mut ring) = builder.setup_r_disabled().build(4) else { return };
        enable(&ring.submitter()).unwrap();
        let path = c"/etc/passwd";
        let open = opcode::OpenAt::new(Fd(libc::AT_FDCWD), path.as_ptr()).build().user_data(1);
        let (_near, far) = std::os::unix::net::UnixStream::pair().unwrap();
        let send = opcode::Send::new(Fd(far.as_raw_fd()), path.as_ptr().cast(), 4).build();
        for (entry, expected) in [(open, -libc::EACCES), (send.user_data(2), 4)] {
            // SAFETY: the path is static and the sockets live until the completion.
            unsafe { ring.submission().push(&entry) }.unwrap();
            ring.submit_and_wait(1).unwrap();
            let completion = ring.completion().next().unwrap();
            assert_eq!(completion.result(), expected);
        }
    }
}
