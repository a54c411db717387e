//! What the kernel may hold pointers to while an operation runs, and how a completion finds its
//! way back: connections, message headers, and the operations in user data.

use std::os::fd::AsRawFd;

use io_uring::types::Fd;
use socket2::{SockAddr, Socket};

use super::join::Joined;
use crate::event::FlowId;
use crate::sys::checks::Attempt;
use crate::sys::linux::stamp::{self, CONTROL_BYTES};
use crate::sys::linux::{control_bytes, offer_control};

/// An open socket and everything of it that the kernel may hold pointers to. Boxed, and freed only
/// when no operation is outstanding.
pub(super) struct Connection {
    pub(super) socket: Socket,
    pub(super) flow: FlowId,
    /// Operations whose last completion has not come yet.
    pub(super) outstanding: u32,
    /// The number of the newest operation of each kind, by [`Op`].
    pub(super) armed: [u32; Op::ALL.len()],
    /// Closed by us: completions only count down.
    pub(super) closing: bool,
    pub(super) receiving: bool,
    /// Received from only when it is asked for.
    pub(super) held: bool,
    /// Closed by RST.
    pub(super) resetting: bool,
    /// What it has if what it sends goes to another.
    pub(super) joined: Option<Joined>,
    /// What the kernel is sending, from `sent` on.
    pub(super) sending: Vec<u8>,
    pub(super) sent: usize,
    /// What follows.
    pub(super) queued: Vec<u8>,
    /// Receives ask for control messages.
    pub(super) stamped: bool,
    /// What to subtract from stamp keys; `None` while transmit stamps are off.
    pub(super) stamp_base: Option<u32>,
    /// Transmit stamps are to be switched on when this many more bytes are in the kernel.
    pub(super) stamp_after_bytes: Option<usize>,
    pub(super) address: Option<Box<SockAddr>>,
    /// The half-open check that it is for.
    pub(super) check: Option<Attempt>,
    pub(super) receive_header: Option<Box<Header>>,
    pub(super) error_header: Option<Box<Header>>,
}

/// A `msghdr` with room for control messages. Points into itself, so it stays where it is.
pub(super) struct Header {
    message: libc::msghdr,
    part: libc::iovec,
    control: Control,
}

#[repr(align(8))]
struct Control([u8; CONTROL_BYTES]);

/// What a completion belongs to: in its user data, between the connection's key (32 bits) and the
/// operation's number (24 bits).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum Op {
    Wake,
    Cancel,
    Accept,
    Connect,
    Receive,
    Send,
    Stamp,
    ErrorQueue,
    /// Waits for a raw socket; the key is its place.
    Raw,
    /// Sends by a raw socket; the key is the place of what it sends.
    RawSend,
    /// Waits for something to read.
    Readable,
    /// Waits for room to write.
    Writable,
    /// Waits for the end of a connection that is not read.
    Hangup,
}

impl Op {
    pub(super) const ALL: [Self; 13] = [
        Self::Wake,
        Self::Cancel,
        Self::Accept,
        Self::Connect,
        Self::Receive,
        Self::Send,
        Self::Stamp,
        Self::ErrorQueue,
        Self::Raw,
        Self::RawSend,
        Self::Readable,
        Self::Writable,
        Self::Hangup,
    ];

    pub(super) const fn user_data(self, key: u32, number: u32) -> u64 {
        ((number as u64) << 40) | ((self as u64) << 32) | key as u64
    }

    /// The place in [`Connection::armed`].
    pub(super) const fn index(self) -> usize {
        self as usize
    }

    /// The inverse of [`Self::user_data`], for user data that we made.
    pub(super) fn parse(user_data: u64) -> (Self, u32, u32) {
        let op = usize::try_from((user_data >> 32) & 0xff).expect("masked to 8 bits");
        let key = u32::try_from(user_data & u64::from(u32::MAX)).expect("masked to 32 bits");
        let number = u32::try_from(user_data >> 40).expect("24 bits are left");
        (Self::ALL.get(op).copied().unwrap_or(Self::Cancel), key, number)
    }
}

impl Connection {
    pub(super) fn new(socket: Socket, flow: FlowId) -> Box<Self> {
        Box::new(Self {
            socket,
            flow,
            outstanding: 0,
            armed: [0; Op::ALL.len()],
            closing: false,
            receiving: false,
            held: false,
            resetting: false,
            joined: None,
            sending: Vec::new(),
            sent: 0,
            queued: Vec::new(),
            stamped: false,
            stamp_base: None,
            stamp_after_bytes: None,
            address: None,
            check: None,
            receive_header: None,
            error_header: None,
        })
    }

    pub(super) fn fd(&self) -> Fd {
        Fd(self.socket.as_raw_fd())
    }

    pub(super) fn backlog_bytes(&self) -> usize {
        self.sending.len() - self.sent + self.queued.len()
    }
}

impl Header {
    /// A header for `bytes` bytes of data, placed by the kernel in a provided buffer.
    pub(super) fn new(bytes: usize) -> Box<Self> {
        let mut header = Box::new(Self {
            // SAFETY: msghdr is plain data for which zero is valid.
            message: unsafe { std::mem::zeroed() },
            part: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: bytes },
            control: Control([0; CONTROL_BYTES]),
        });
        header.message.msg_iov = &raw mut header.part;
        header.message.msg_iovlen = 1;
        header.message.msg_control = header.control.0.as_mut_ptr().cast();
        header
    }

    /// The pointer for the kernel, with the whole control buffer free again.
    pub(super) fn arm(&mut self) -> *mut libc::msghdr {
        offer_control(&mut self.message, CONTROL_BYTES);
        &raw mut self.message
    }

    pub(super) fn decode(&self) -> stamp::Decoded {
        let bytes = control_bytes(&self.message);
        stamp::decode(&self.control.0[..bytes])
    }
}
