//! Operations handed to the kernel.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::connection::{Connection, Header, Op};
use super::{GROUP, Uring};
use crate::sys::Buffers;

impl Uring {
    pub(super) fn arm_wake(&mut self) -> io::Result<()> {
        let target = self.wake_count.as_mut_ptr();
        let read = opcode::Read::new(Fd(self.wake.as_raw_fd()), target, 8).build();
        self.wake_armed = self.next_number();
        self.push_entry(read.user_data(Op::Wake.user_data(0, self.wake_armed)))
    }

    pub(super) fn push_connect(&mut self, mut connection: Box<Connection>, to: SocketAddr) {
        let address = connection.address.insert(Box::new(to.into()));
        let (pointer, length) = (address.as_ptr().cast(), address.len());
        let connect = opcode::Connect::new(connection.fd(), pointer, length).build();
        let key = self.insert(connection);
        let pushed = self.push(Op::Connect, key, connect);
        self.fail_on_error(key, pushed);
    }

    pub(super) fn arm_accept(&mut self, key: u32) -> io::Result<()> {
        let Some(connection) = self.connection(key) else { return Ok(()) };
        let (null, length) = (std::ptr::null_mut(), std::ptr::null_mut());
        let accept =
            opcode::Accept::new(connection.fd(), null, length).flags(libc::SOCK_CLOEXEC).build();
        self.push(Op::Accept, key, accept)
    }

    /// Receives next, unless the backlog is too large; the next completed send looks again.
    pub(super) fn arm_receive(&mut self, key: u32) -> io::Result<()> {
        let Buffers { receive_bytes, backlog_bytes, .. } = self.limits;
        let Some(connection) = self.connection(key) else { return Ok(()) };
        if connection.joined.is_some() {
            return self.arm_read(key);
        }
        if connection.receiving || connection.backlog_bytes() > backlog_bytes {
            return Ok(());
        }
        connection.receiving = true;
        let fd = connection.fd();
        let receive = if connection.stamped {
            let header =
                connection.receive_header.get_or_insert_with(|| Header::new(receive_bytes));
            opcode::RecvMsg::new(fd, header.arm()).buf_group(GROUP.number).build()
        } else {
            let length = u32::try_from(receive_bytes).expect("a few KiB");
            opcode::Recv::new(fd, std::ptr::null_mut(), length).buf_group(GROUP.number).build()
        };
        self.push(Op::Receive, key, receive.flags(squeue::Flags::BUFFER_SELECT))
    }

    pub(super) fn arm_stamp_command(&mut self, key: u32) -> io::Result<()> {
        let Some(connection) = self.connection(key) else { return Ok(()) };
        let command = opcode::UringCmd16::new(connection.fd(), SOCKET_TX_TIMESTAMP).build();
        self.push(Op::Stamp, key, command)
    }

    pub(super) fn arm_error_queue(&mut self, key: u32) -> io::Result<()> {
        let Some(connection) = self.connection(key) else { return Ok(()) };
        let fd = connection.fd();
        let header = connection.error_header.get_or_insert_with(|| Header::new(0));
        let flags = libc::MSG_ERRQUEUE.cast_unsigned();
        let receive = opcode::RecvMsg::new(fd, header.arm()).flags(flags).build();
        self.push(Op::ErrorQueue, key, receive)
    }

    pub(super) fn push_send(&mut self, key: u32) -> io::Result<()> {
        let Some(connection) = self.connection(key) else { return Ok(()) };
        let bytes = &connection.sending[connection.sent..];
        let length = u32::try_from(bytes.len()).expect("bounded by Buffers");
        let send = opcode::Send::new(connection.fd(), bytes.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        self.push(Op::Send, key, send)
    }

    /// Waits for one of these events, besides the errors and the end of everything (poll(2)).
    pub(super) fn push_poll(&mut self, op: Op, key: u32, events: i16) -> io::Result<()> {
        let Some(connection) = self.connection(key) else { return Ok(()) };
        let events = u32::from(events.cast_unsigned());
        let poll = opcode::PollAdd::new(connection.fd(), events).build();
        self.push(op, key, poll)
    }

    /// Submits an operation of a connection; its memory stays until the completion.
    pub(super) fn push(&mut self, op: Op, key: u32, entry: squeue::Entry) -> io::Result<()> {
        let number = self.next_number();
        self.push_entry(entry.user_data(op.user_data(key, number)))?;
        if let Some(connection) = self.connection(key) {
            connection.outstanding += 1;
            connection.armed[op.index()] = number;
        }
        Ok(())
    }

    /// Numbers operations from 1 on, so that zeroed memory is none of them.
    pub(super) fn next_number(&mut self) -> u32 {
        self.numbered = self.numbered % NUMBER_MAX + 1;
        self.numbered
    }

    pub(super) fn push_entry(&mut self, entry: squeue::Entry) -> io::Result<()> {
        loop {
            // SAFETY: what the entry points to is owned by a boxed `Connection` that is kept while
            // operations are outstanding, or by `self` (the wake counter); `drop` cancels all.
            let pushed = unsafe { self.ring.submission().push(&entry) };
            if pushed.is_ok() {
                return Ok(());
            }
            self.ring.submit()?;
        }
    }
}

/// 24 bits of user data. What a ring of completions may repeat is far closer.
const NUMBER_MAX: u32 = (1 << 24) - 1;
/// `SOCKET_URING_OP_TX_TIMESTAMP` (include/uapi/linux/io_uring.h, Linux 6.17).
pub(super) const SOCKET_TX_TIMESTAMP: u32 = 4;
