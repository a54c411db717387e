//! The io_uring backend: one ring a thread. Receives pick provided buffers, receive stamps come as
//! control messages, transmit stamps by the socket command of Linux 6.17 or else from the error
//! queue, both on the ring.
//!
//! Receives are single-shot: a connection whose backlog is large is simply not armed again, whereas
//! a multishot receive would go on filling the whole pool of buffers with what nobody can send.
//! Arming again costs no system call: it leaves with the next wait.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::sync::Arc;

use io_uring::types::{CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};
use rustix::event::EventfdFlags;
use socket2::{SockAddr, Socket};

use super::bufring::{BufferRing, GROUP};
use super::stamp::{self, CONTROL_BYTES};
use crate::event::{Failure, FlowId, RxStamps, TxStamp};
use crate::sys::io::{Pending, Ready, Waker};
use crate::sys::{
    BACKLOG_BYTES, Completion, IoOptions, RECEIVE_BYTES, SEND_BUFFER_BYTES, TxStampSource, clock,
    failure, socket,
};
use crate::time::{Mono, NS_PER_SECOND, Phc, Wall};

type Ring = IoUring<squeue::Entry, cqueue::Entry32>;

/// io_uring I/O of one thread.
pub struct Uring {
    /// First, so that it is dropped before any memory that it uses.
    ring: Ring,
    buffers: BufferRing,
    connections: Vec<Option<Box<Connection>>>,
    free: Vec<u32>,
    /// The connection of each flow, or `NONE`.
    by_flow: Vec<u32>,
    pending: Pending,
    /// The buffer that the last completion borrowed.
    lent: Option<u16>,
    /// The connection whose last receive was handed out and that wants to receive again.
    rearm: Option<u32>,
    wake: Arc<OwnedFd>,
    wake_count: Box<[u8; 8]>,
    stamps: bool,
    tx_stamps: TxStampSource,
    busy_poll: bool,
}

/// An open socket and everything of it that the kernel may hold pointers to. Boxed, and freed only
/// when no operation is outstanding.
struct Connection {
    socket: Socket,
    flow: FlowId,
    /// Operations whose last completion has not come yet.
    outstanding: u32,
    /// Closed by us: completions only count down.
    closing: bool,
    receiving: bool,
    /// What the kernel is sending, from `sent` on.
    sending: Vec<u8>,
    sent: usize,
    /// What follows.
    queued: Vec<u8>,
    /// Receives ask for control messages.
    stamped: bool,
    /// What to subtract from stamp keys; `None` while transmit stamps are off.
    stamp_base: Option<u32>,
    /// Transmit stamps are to be switched on when this many more bytes are in the kernel.
    stamp_after_bytes: Option<usize>,
    address: Option<Box<SockAddr>>,
    receive_header: Option<Box<Header>>,
    error_header: Option<Box<Header>>,
}

/// A `msghdr` with room for control messages. Points into itself, so it stays where it is.
struct Header {
    message: libc::msghdr,
    part: libc::iovec,
    control: Control,
}

#[repr(align(8))]
struct Control([u8; CONTROL_BYTES]);

/// What a completion belongs to: the upper 32 bits of its user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
enum Op {
    Wake,
    Cancel,
    Accept,
    Connect,
    Receive,
    Send,
    Stamp,
    ErrorQueue,
}

impl Op {
    const ALL: [Self; 8] = [
        Self::Wake,
        Self::Cancel,
        Self::Accept,
        Self::Connect,
        Self::Receive,
        Self::Send,
        Self::Stamp,
        Self::ErrorQueue,
    ];

    const fn user_data(self, key: u32) -> u64 {
        ((self as u64) << 32) | key as u64
    }

    /// The inverse of [`Self::user_data`], for user data that we made.
    fn parse(user_data: u64) -> (Self, u32) {
        let op = usize::try_from(user_data >> 32).unwrap_or(usize::MAX);
        let key = u32::try_from(user_data & u64::from(u32::MAX)).expect("masked to 32 bits");
        (Self::ALL.get(op).copied().unwrap_or(Self::Cancel), key)
    }
}

impl Connection {
    fn new(socket: Socket, flow: FlowId) -> Box<Self> {
        Box::new(Self {
            socket,
            flow,
            outstanding: 0,
            closing: false,
            receiving: false,
            sending: Vec::new(),
            sent: 0,
            queued: Vec::new(),
            stamped: false,
            stamp_base: None,
            stamp_after_bytes: None,
            address: None,
            receive_header: None,
            error_header: None,
        })
    }

    fn fd(&self) -> Fd {
        Fd(self.socket.as_raw_fd())
    }

    fn backlog_bytes(&self) -> usize {
        self.sending.len() - self.sent + self.queued.len()
    }
}

impl Header {
    /// A header for `bytes` bytes of data, placed by the kernel in a provided buffer.
    fn new(bytes: usize) -> Box<Self> {
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
    fn arm(&mut self) -> *mut libc::msghdr {
        super::offer_control(&mut self.message, CONTROL_BYTES);
        &raw mut self.message
    }

    fn decode(&self) -> stamp::Decoded {
        let bytes = super::control_bytes(&self.message);
        stamp::decode(&self.control.0[..bytes])
    }
}

impl Uring {
    /// Opens a ring: with deferred task work (Linux 6.1), which spares interruptions of this
    /// thread, else with cooperative task work (5.19).
    ///
    /// # Errors
    /// `ENOSYS`, `EPERM` or `EINVAL` where io_uring is absent, forbidden or too old.
    pub fn open(options: &IoOptions) -> io::Result<Self> {
        let ring = Ring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS)
            .or_else(|error| match error.raw_os_error() {
                Some(libc::EINVAL) => Ring::builder()
                    .setup_coop_taskrun()
                    .setup_cqsize(COMPLETIONS)
                    .build(SUBMISSIONS),
                _ => Err(error),
            })?;
        let buffers = BufferRing::register(&ring.submitter(), RECEIVE_BYTES)?;
        let mut uring = Self {
            ring,
            buffers,
            connections: Vec::new(),
            free: Vec::new(),
            by_flow: Vec::new(),
            pending: Pending::new(),
            lent: None,
            rearm: None,
            wake: Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?),
            wake_count: Box::new([0; 8]),
            stamps: options.stamps,
            tx_stamps: options.tx_stamps,
            busy_poll: options.busy_poll,
        };
        uring.arm_wake()?;
        Ok(uring)
    }

    /// See [`crate::sys::Io::waker`].
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker::EventFd(Arc::clone(&self.wake))
    }

    /// See [`crate::sys::Io::listen`].
    ///
    /// # Errors
    /// Those of submitting.
    pub fn listen(&mut self, flow: FlowId, socket: Socket) -> io::Result<()> {
        let key = self.insert(Connection::new(socket, flow));
        self.arm_accept(key)
    }

    /// See [`crate::sys::Io::resume_accepting`].
    pub fn resume_accepting(&mut self, flow: FlowId) {
        if let Some(key) = self.key(flow) {
            let armed = self.arm_accept(key);
            self.fail_on_error(key, armed);
        }
    }

    /// See [`crate::sys::Io::attach`].
    pub fn attach(&mut self, flow: FlowId, socket: Socket) {
        if let Err(error) = socket::tune(&socket) {
            self.pending.push_back((flow, Ready::Closed(failure(&error))));
            return;
        }
        let key = self.insert(Connection::new(socket, flow));
        let armed = self.arm_receive(key);
        self.fail_on_error(key, armed);
    }

    /// See [`crate::sys::Io::connect`].
    pub fn connect(&mut self, flow: FlowId, socket: Socket, to: SocketAddr) {
        let mut connection = Connection::new(socket, flow);
        let address = connection.address.insert(Box::new(to.into()));
        let (pointer, length) = (address.as_ptr().cast(), address.len());
        let connect = opcode::Connect::new(connection.fd(), pointer, length).build();
        let key = self.insert(connection);
        let pushed = self.push(Op::Connect, key, connect);
        self.fail_on_error(key, pushed);
    }

    /// See [`crate::sys::Io::stamp`].
    ///
    /// Receive stamps are on at once. Keys must count from the next byte given to [`Self::send`],
    /// but the kernel counts from the next byte given to *it*: with sends under way, transmit
    /// stamps wait for those.
    pub fn stamp(&mut self, flow: FlowId) {
        let Some(key) = self.key(flow) else { return };
        let Some(connection) = self.connection(key) else { return };
        connection.stamped = true;
        match connection.backlog_bytes() {
            0 => self.stamp_transmits(key, 0),
            waiting => {
                connection.stamp_after_bytes = Some(waiting);
                if let Err(error) = stamp::enable_receive(&connection.socket) {
                    tracing::debug!(%error, "the kernel gives no receive stamps");
                }
            }
        }
    }

    /// Switches both kinds of stamps on; `late_bytes` that should have been stamped are already in
    /// the kernel, so its keys are that much too small.
    fn stamp_transmits(&mut self, key: u32, late_bytes: usize) {
        let Some(connection) = self.connection(key) else { return };
        match stamp::enable(&connection.socket) {
            Ok(base) => {
                let late = u32::try_from(late_bytes).expect("bounded by SEND_BUFFER_BYTES");
                connection.stamp_base = Some(base.wrapping_sub(late));
            }
            Err(error) => {
                tracing::debug!(%error, "the kernel gives no stamps for a connection");
                return;
            }
        }
        let armed = match self.tx_stamps {
            TxStampSource::Auto => self.arm_stamp_command(key),
            TxStampSource::ErrorQueue => self.arm_error_queue(key),
        };
        self.fail_on_error(key, armed);
    }

    /// See [`crate::sys::Io::send`].
    pub fn send(&mut self, flow: FlowId, bytes: &[u8]) {
        let Some(key) = self.key(flow) else { return };
        let Some(connection) = self.connection(key) else { return };
        if connection.backlog_bytes() + bytes.len() > SEND_BUFFER_BYTES {
            self.fail(key, Failure::Stalled);
            return;
        }
        if connection.sending.is_empty() {
            connection.sending.extend_from_slice(bytes);
            let pushed = self.push_send(key);
            self.fail_on_error(key, pushed);
        } else {
            connection.queued.extend_from_slice(bytes);
        }
    }

    /// See [`crate::sys::Io::close`].
    pub fn close(&mut self, flow: FlowId) {
        if let Some(key) = self.key(flow) {
            self.release(key);
        }
        self.pending.retain(|(owner, _)| *owner != flow);
    }

    /// See [`crate::sys::Io::submit`].
    ///
    /// # Errors
    /// Those of io_uring_enter(2).
    pub fn submit(&mut self) -> io::Result<()> {
        match self.ring.submit() {
            Err(error) if !is_transient(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// See [`crate::sys::Io::wait`].
    ///
    /// # Errors
    /// Those of io_uring_enter(2).
    pub fn wait(&mut self, deadline: Option<Mono>) -> io::Result<()> {
        self.settle();
        if !self.pending.is_empty() || !self.ring.completion().is_empty() {
            return self.submit();
        }
        let left_ns = match deadline {
            _ if self.busy_poll => Some(0),
            Some(at) => Some(u64::try_from(at.since_ns(clock::mono())).unwrap_or(0)),
            None => None,
        };
        let waited = match left_ns {
            Some(ns) => {
                let nanos = u32::try_from(ns % NS_PER_SECOND).expect("below a second");
                let timeout = Timespec::new().sec(ns / NS_PER_SECOND).nsec(nanos);
                let arguments = SubmitArgs::new().timespec(&timeout);
                self.ring.submitter().submit_with_args(1, &arguments)
            }
            None => self.ring.submit_and_wait(1),
        };
        match waited {
            Err(error) if !is_transient(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// See [`crate::sys::Io::next_completion`].
    pub fn next_completion(&mut self) -> Option<Completion<'_>> {
        self.settle();
        let (flow, ready, bytes) = self.advance()?;
        let bytes = match self.lent {
            Some(buffer) => self.buffers.filled(buffer, bytes),
            None => &[],
        };
        Some(ready.complete(flow, bytes))
    }

    /// Ends what the last completion borrowed.
    fn settle(&mut self) {
        if let Some(buffer) = self.lent.take() {
            self.buffers.give_back(buffer);
        }
        if let Some(key) = self.rearm.take() {
            let armed = self.arm_receive(key);
            self.fail_on_error(key, armed);
        }
    }

    /// Takes completions off the ring until one means something to a flow; the number is how many
    /// bytes of the lent buffer were received.
    fn advance(&mut self) -> Option<(FlowId, Ready, usize)> {
        loop {
            if let Some((flow, ready)) = self.pending.pop_front() {
                return Some((flow, ready, 0));
            }
            let entry = self.ring.completion().next()?;
            let (op, key) = Op::parse(entry.user_data());
            match op {
                Op::Wake => {
                    if let Err(error) = self.arm_wake() {
                        tracing::error!(%error, "a measuring thread can no longer be woken");
                    }
                }
                Op::Cancel => {}
                _ => {
                    if let Some((ready, bytes)) = self.complete(op, key, &entry) {
                        let flow = self.connection(key).map(|connection| connection.flow);
                        // A failed connection is gone; its flow was remembered by `fail`.
                        if let Some(flow) = flow {
                            return Some((flow, ready, bytes));
                        }
                    }
                }
            }
        }
    }

    /// One completion of a connection's operation.
    fn complete(&mut self, op: Op, key: u32, entry: &cqueue::Entry32) -> Option<(Ready, usize)> {
        let more = cqueue::more(entry.flags());
        let connection = self.connections.get_mut(index(key))?.as_mut()?;
        if !more {
            connection.outstanding -= 1;
        }
        if connection.closing {
            self.discard(op, key, entry);
            return None;
        }
        let result = entry.result();
        match op {
            Op::Accept => self.accepted(key, result, more),
            Op::Connect => self.connected(key, result),
            Op::Receive => self.received(key, result, entry.flags()),
            Op::Send => self.sent(key, result),
            Op::Stamp => self.stamped(key, entry),
            Op::ErrorQueue => self.error_queue(key, result),
            Op::Wake | Op::Cancel => None,
        }
    }

    /// Cleans up after an operation whose connection was closed meanwhile.
    fn discard(&mut self, op: Op, key: u32, entry: &cqueue::Entry32) {
        if let (Op::Receive, Some(buffer)) = (op, cqueue::buffer_select(entry.flags())) {
            self.buffers.give_back(buffer);
        }
        if op == Op::Accept && entry.result() >= 0 {
            // SAFETY: a successful accept hands us a descriptor that nobody else owns.
            drop(unsafe { OwnedFd::from_raw_fd(entry.result()) });
        }
        self.free_if_idle(key);
    }

    fn accepted(&mut self, key: u32, result: i32, more: bool) -> Option<(Ready, usize)> {
        if result < 0 {
            let error = io::Error::from_raw_os_error(-result);
            if !super::accept_is_transient(&error) {
                return Some((Ready::AcceptFailed(error), 0));
            }
        }
        if !more {
            let armed = self.arm_accept(key);
            self.fail_on_error(key, armed);
        }
        if result < 0 {
            return None;
        }
        // SAFETY: a successful accept hands us a descriptor that nobody else owns.
        let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(result) });
        // A peer that is gone already has no address, and no use for a flow.
        let from = socket.peer_addr().ok()?.as_socket()?;
        Some((Ready::Accepted(socket, from), 0))
    }

    fn connected(&mut self, key: u32, result: i32) -> Option<(Ready, usize)> {
        let connection = self.connection(key)?;
        connection.address = None;
        if result < 0 {
            self.fail(key, failure(&io::Error::from_raw_os_error(-result)));
            return None;
        }
        let flow = connection.flow;
        if self.stamps {
            self.stamp(flow);
        }
        let armed = self.arm_receive(key);
        self.fail_on_error(key, armed);
        Some((Ready::Connected, 0))
    }

    fn received(&mut self, key: u32, result: i32, flags: u32) -> Option<(Ready, usize)> {
        let connection = self.connection(key)?;
        connection.receiving = false;
        let buffer = cqueue::buffer_select(flags);
        let bytes = usize::try_from(result).unwrap_or(0);
        if bytes == 0 {
            if let Some(buffer) = buffer {
                self.buffers.give_back(buffer);
            }
            match -result {
                0 => self.fail(key, Failure::Eof),
                libc::ENOBUFS | libc::EINTR | libc::EAGAIN => {
                    let armed = self.arm_receive(key);
                    self.fail_on_error(key, armed);
                }
                errno => self.fail(key, failure(&io::Error::from_raw_os_error(errno))),
            }
            return None;
        }
        let header = connection.receive_header.as_ref();
        let stamps = header.map_or_else(RxStamps::default, |header| header.decode().stamps);
        self.lent = buffer;
        self.rearm = Some(key);
        Some((Ready::Received(stamps), bytes))
    }

    fn sent(&mut self, key: u32, result: i32) -> Option<(Ready, usize)> {
        let connection = self.connection(key)?;
        let bytes = usize::try_from(result).unwrap_or(0);
        match result {
            0.. => connection.sent += bytes,
            _ if matches!(-result, libc::EINTR | libc::EAGAIN) => {}
            _ => {
                self.fail(key, failure(&io::Error::from_raw_os_error(-result)));
                return None;
            }
        }
        let late_bytes = match connection.stamp_after_bytes {
            Some(left) if left > bytes => {
                connection.stamp_after_bytes = Some(left - bytes);
                None
            }
            Some(left) => {
                connection.stamp_after_bytes = None;
                Some(bytes - left)
            }
            None => None,
        };
        if connection.sent == connection.sending.len() {
            connection.sent = 0;
            connection.sending.clear();
            std::mem::swap(&mut connection.sending, &mut connection.queued);
        }
        let (more, starved) = (!connection.sending.is_empty(), !connection.receiving);
        if let Some(late_bytes) = late_bytes {
            self.stamp_transmits(key, late_bytes);
        }
        let pushed = if more { self.push_send(key) } else { Ok(()) };
        let armed = pushed.and_then(|()| match starved && self.rearm != Some(key) {
            true => self.arm_receive(key),
            false => Ok(()),
        });
        self.fail_on_error(key, armed);
        None
    }

    /// A completion of `SOCKET_URING_OP_TX_TIMESTAMP` (io_uring/cmd_net.c): the result is the key,
    /// flags from bit 16 on are hardware and stage, the big completion is seconds and nanoseconds.
    fn stamped(&mut self, key: u32, entry: &cqueue::Entry32) -> Option<(Ready, usize)> {
        let Ok(stamp_key) = u32::try_from(entry.result()) else {
            if matches!(-entry.result(), libc::EOPNOTSUPP | libc::EINVAL) {
                // The kernel is older than the command; from here on the error queue is used.
                self.tx_stamps = TxStampSource::ErrorQueue;
                let armed = self.arm_error_queue(key);
                self.fail_on_error(key, armed);
            }
            return None;
        };
        let base = self.connection(key)?.stamp_base?;
        let [seconds, nanos] = *entry.big_cqe();
        let ns = seconds.checked_mul(NS_PER_SECOND)?.checked_add(nanos)?;
        let stamps = if entry.flags() & STAMP_HARDWARE == 0 {
            RxStamps { sw: Some(Wall::from_ns(ns)), hw: None }
        } else {
            RxStamps { sw: None, hw: Some(Phc::from_ns(ns)) }
        };
        let stage = stamp::tx_stage(entry.flags() >> STAMP_STAGE_SHIFT, stamps)?;
        Some((Ready::Stamped(TxStamp { key: stamp_key.wrapping_sub(base), stage }), 0))
    }

    fn error_queue(&mut self, key: u32, result: i32) -> Option<(Ready, usize)> {
        let connection = self.connection(key)?;
        let base = connection.stamp_base?;
        let stamp = match (&connection.error_header, result >= 0) {
            (Some(header), true) => header.decode().tx_stamp(),
            _ => None,
        };
        if result >= 0 || matches!(-result, libc::EINTR | libc::EAGAIN) {
            let armed = self.arm_error_queue(key);
            self.fail_on_error(key, armed);
        }
        let stamp = stamp?;
        Some((Ready::Stamped(TxStamp { key: stamp.key.wrapping_sub(base), ..stamp }), 0))
    }

    fn arm_wake(&mut self) -> io::Result<()> {
        let target = self.wake_count.as_mut_ptr();
        let read = opcode::Read::new(Fd(self.wake.as_raw_fd()), target, 8).build();
        self.push_entry(read.user_data(Op::Wake.user_data(0)))
    }

    fn arm_accept(&mut self, key: u32) -> io::Result<()> {
        let Some(connection) = self.connection(key) else { return Ok(()) };
        let accept = opcode::AcceptMulti::new(connection.fd()).flags(libc::SOCK_CLOEXEC).build();
        self.push(Op::Accept, key, accept)
    }

    /// Receives next, unless the backlog is too large; the next completed send looks again.
    fn arm_receive(&mut self, key: u32) -> io::Result<()> {
        let Some(connection) = self.connection(key) else { return Ok(()) };
        if connection.receiving || connection.backlog_bytes() > BACKLOG_BYTES {
            return Ok(());
        }
        connection.receiving = true;
        let fd = connection.fd();
        let receive = if connection.stamped {
            let header =
                connection.receive_header.get_or_insert_with(|| Header::new(RECEIVE_BYTES));
            opcode::RecvMsg::new(fd, header.arm()).buf_group(GROUP).build()
        } else {
            let length = u32::try_from(RECEIVE_BYTES).expect("a few KiB");
            opcode::Recv::new(fd, std::ptr::null_mut(), length).buf_group(GROUP).build()
        };
        self.push(Op::Receive, key, receive.flags(squeue::Flags::BUFFER_SELECT))
    }

    fn arm_stamp_command(&mut self, key: u32) -> io::Result<()> {
        let Some(connection) = self.connection(key) else { return Ok(()) };
        let command = opcode::UringCmd16::new(connection.fd(), SOCKET_TX_TIMESTAMP).build();
        self.push(Op::Stamp, key, command)
    }

    fn arm_error_queue(&mut self, key: u32) -> io::Result<()> {
        let Some(connection) = self.connection(key) else { return Ok(()) };
        let fd = connection.fd();
        let header = connection.error_header.get_or_insert_with(|| Header::new(0));
        let flags = libc::MSG_ERRQUEUE.cast_unsigned();
        let receive = opcode::RecvMsg::new(fd, header.arm()).flags(flags).build();
        self.push(Op::ErrorQueue, key, receive)
    }

    fn push_send(&mut self, key: u32) -> io::Result<()> {
        let Some(connection) = self.connection(key) else { return Ok(()) };
        let bytes = &connection.sending[connection.sent..];
        let length = u32::try_from(bytes.len()).expect("bounded by SEND_BUFFER_BYTES");
        let send = opcode::Send::new(connection.fd(), bytes.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL)
            .build();
        self.push(Op::Send, key, send)
    }

    /// Submits an operation of a connection; its memory stays until the completion.
    fn push(&mut self, op: Op, key: u32, entry: squeue::Entry) -> io::Result<()> {
        self.push_entry(entry.user_data(op.user_data(key)))?;
        if let Some(connection) = self.connection(key) {
            connection.outstanding += 1;
        }
        Ok(())
    }

    fn push_entry(&mut self, entry: squeue::Entry) -> io::Result<()> {
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

    fn insert(&mut self, connection: Box<Connection>) -> u32 {
        let flow = index(connection.flow.0);
        let key = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            u32::try_from(self.connections.len() - 1).expect("bounded by descriptors")
        });
        self.connections[index(key)] = Some(connection);
        if self.by_flow.len() <= flow {
            self.by_flow.resize(flow + 1, NONE);
        }
        self.by_flow[flow] = key;
        key
    }

    fn key(&self, flow: FlowId) -> Option<u32> {
        self.by_flow.get(index(flow.0)).copied().filter(|&key| key != NONE)
    }

    /// A connection that is not closed.
    fn connection(&mut self, key: u32) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(index(key))?.as_deref_mut()?;
        (!connection.closing).then_some(connection)
    }

    fn fail_on_error(&mut self, key: u32, result: io::Result<()>) {
        if let Err(error) = result {
            self.fail(key, failure(&error));
        }
    }

    /// Ends a connection and tells its flow.
    fn fail(&mut self, key: u32, failure: Failure) {
        if let Some(flow) = self.connection(key).map(|connection| connection.flow) {
            self.release(key);
            self.pending.push_back((flow, Ready::Closed(failure)));
        }
    }

    /// Closes a connection for its flow. The socket itself goes when the kernel has let go of it:
    /// an armed operation keeps the file open, so close(2) alone would send no FIN.
    fn release(&mut self, key: u32) {
        let Some(connection) = self.connection(key) else { return };
        connection.closing = true;
        let (fd, flow, outstanding) = (connection.fd(), connection.flow, connection.outstanding);
        self.by_flow[index(flow.0)] = NONE;
        if self.rearm == Some(key) {
            self.rearm = None;
        }
        if outstanding == 0 {
            self.free_if_idle(key);
            return;
        }
        if let Some(connection) = self.connections[index(key)].as_deref() {
            // Not connected (yet) is no error here.
            let _ = connection.socket.shutdown(std::net::Shutdown::Both);
        }
        let cancel = opcode::AsyncCancel2::new(CancelBuilder::fd(fd).all()).build();
        if let Err(error) = self.push_entry(cancel.user_data(Op::Cancel.user_data(0))) {
            tracing::error!(%error, "a closed connection's operations could not be cancelled");
        }
    }

    fn free_if_idle(&mut self, key: u32) {
        let slot = &mut self.connections[index(key)];
        if slot.as_ref().is_some_and(|connection| connection.outstanding == 0) {
            *slot = None;
            self.free.push(key);
        }
    }
}

impl Drop for Uring {
    fn drop(&mut self) {
        // The kernel may write into boxes of connections until their operations have ended.
        let patience = Timespec::new().sec(1);
        let cancelled =
            self.ring.submitter().register_sync_cancel(Some(patience), CancelBuilder::any());
        let ended = match cancelled {
            Ok(()) => true,
            Err(error) => error.kind() == io::ErrorKind::NotFound,
        };
        if !ended {
            // Leaking a few KiB at exit is sound; freeing them is not.
            std::mem::forget(std::mem::take(&mut self.connections));
            std::mem::forget(std::mem::take(&mut self.wake_count));
        }
    }
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("connections", &self.connections.len())
            .finish_non_exhaustive()
    }
}

/// A wait that ended by its timeout, by a signal, or because completions must be reaped first.
fn is_transient(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ETIME | libc::EINTR | libc::EBUSY | libc::EAGAIN))
}

fn index(number: u32) -> usize {
    usize::try_from(number).expect("32 bits fit")
}

/// No connection.
const NONE: u32 = u32::MAX;
/// Submission entries; when they are used up, they are submitted early.
const SUBMISSIONS: u32 = 1_024;
/// Completion entries; the kernel keeps what overflows.
const COMPLETIONS: u32 = 8_192;
/// `SOCKET_URING_OP_TX_TIMESTAMP` (include/uapi/linux/io_uring.h, Linux 6.17).
const SOCKET_TX_TIMESTAMP: u32 = 4;
/// `IORING_CQE_F_TSTAMP_HW`.
const STAMP_HARDWARE: u32 = 1 << 16;
/// `IORING_TIMESTAMP_TYPE_SHIFT`.
const STAMP_STAGE_SHIFT: u32 = 17;
