//! Joined connections on the ring: what each sends goes to the other. A read picks a buffer of a
//! pool only when data is there, a send empties it, and the pool has it back: an idle connection
//! costs none. Where the other side's socket is full, what is left moves to memory of its own, so
//! that those who do not read empty the pool for nobody else.
//!
//! Where much comes, [`super::bulk`] moves it without copying.

use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use io_uring::{cqueue, opcode, squeue};
use socket2::Socket;

use super::buffers::{BufferRing, Group};
use super::connection::{Connection, Op};
use super::{NONE, Uring, place};
use crate::event::{Failure, FlowId};
use crate::sys::bulk::Bulk;
use crate::sys::io::Ready;
use crate::sys::linux::pipe::Pipe;
use crate::sys::{RELAY_BUFFER_BYTES, failure, socket};

/// What joined connections read into.
#[derive(Debug)]
pub(super) struct Reads {
    buffers: BufferRing,
    /// Buffers that the kernel has, as far as we know.
    free: u16,
    /// Connections that found no buffer, in the order in which they are to get one.
    starved: VecDeque<u32>,
}

/// The side of a joined connection: what the other sent is written to it.
#[derive(Debug)]
pub(super) struct Joined {
    /// The other connection's key, or `NONE` once that is closed.
    pub(super) peer: u32,
    /// The pool's buffer that is being written, and how many bytes it holds. While there is none,
    /// `Connection::sending` is.
    lent: Option<(u16, usize)>,
    /// What the other one sent on its way here, if it is not copied.
    pub(super) pipe: Option<Pipe>,
    /// What is known of how much this one sends.
    pub(super) bulk: Bulk,
    /// Its socket does not block.
    pub(super) nonblocking: bool,
    /// FIN was read.
    pub(super) read_ended: bool,
    /// FIN was written.
    write_ended: bool,
    /// It has ended, which is told once the kernel has said how much of `lent` the other one got.
    failed: Option<Failure>,
}

impl Joined {
    fn new(peer: u32) -> Self {
        Self {
            peer,
            lent: None,
            pipe: None,
            bulk: Bulk::default(),
            nonblocking: false,
            read_ended: false,
            write_ended: false,
            failed: None,
        }
    }

    /// The pool's buffer that it has.
    pub(super) fn buffer(&self) -> Option<u16> {
        self.lent.map(|(buffer, _)| buffer)
    }
}

impl Connection {
    /// Whether something that the other side sent waits to be written here.
    fn owes(&self) -> bool {
        let holds = |joined: &Joined| joined.lent.is_some() || joined.pipe.is_some();
        self.joined.as_ref().is_some_and(holds) || !self.sending.is_empty()
    }
}

impl Uring {
    /// See [`crate::sys::Io::hold`].
    pub fn hold(&mut self, flow: FlowId, socket: Socket) {
        if let Err(error) = socket::tune(&socket) {
            self.pending.push_back((flow, Ready::Closed(failure(&error))));
            return;
        }
        let mut connection = Connection::new(socket, flow);
        connection.held = true;
        self.insert(connection);
    }

    /// See [`crate::sys::Io::connect_held`].
    pub fn connect_held(&mut self, flow: FlowId, socket: Socket, to: SocketAddr) {
        let mut connection = Connection::new(socket, flow);
        connection.held = true;
        self.push_connect(connection, to);
    }

    /// See [`crate::sys::Io::receive_once`].
    pub fn receive_once(&mut self, flow: FlowId) {
        if let Some(key) = self.key(flow) {
            let armed = self.arm_receive(key);
            self.fail_on_error(key, armed);
        }
    }

    /// See [`crate::sys::Io::join`].
    pub fn join(&mut self, one: FlowId, other: FlowId, first: &[u8]) {
        let (Some(one), Some(other)) = (self.key(one), self.key(other)) else { return };
        if let Err(error) = self.open_reads() {
            return self.fail(one, failure(&error));
        }
        for (side, peer) in [(one, other), (other, one)] {
            if let Some(connection) = self.connection(side) {
                connection.joined = Some(Joined::new(peer));
            }
        }
        if let Some(connection) = self.connection(other).filter(|_| !first.is_empty()) {
            connection.sending = first.to_vec();
            let pushed = self.push_send(other);
            self.fail_on_error(other, pushed);
        }
        for side in [one, other] {
            let armed = self.arm_read(side);
            self.fail_on_error(side, armed);
        }
    }

    /// See [`crate::sys::Io::reset`].
    pub fn reset(&mut self, flow: FlowId) {
        if let Some(key) = self.key(flow)
            && let Some(connection) = self.connection(key)
        {
            if let Err(error) = connection.socket.set_linger(Some(Duration::ZERO)) {
                tracing::debug!(%error, "a connection is closed in an orderly way instead");
            } else {
                connection.resetting = true;
            }
        }
        self.close(flow);
    }

    fn open_reads(&mut self) -> io::Result<()> {
        if self.reads.is_none() {
            let buffers = BufferRing::register(&self.ring.submitter(), READS)?;
            self.reads = Some(Reads { buffers, free: READS.buffers, starved: VecDeque::new() });
        }
        Ok(())
    }

    /// Reads next from a joined connection, unless the other one still owes what was read before.
    pub(super) fn arm_read(&mut self, key: u32) -> io::Result<()> {
        let Some(connection) = self.connection(key) else { return Ok(()) };
        let Some(joined) = &connection.joined else { return Ok(()) };
        if connection.receiving || joined.read_ended || joined.failed.is_some() {
            return Ok(());
        }
        let (peer, piped) = (joined.peer, joined.bulk.is_piped());
        if self.connection(peer).is_none_or(|peer| peer.owes()) {
            return Ok(());
        }
        let Some(connection) = self.connection(key) else { return Ok(()) };
        connection.receiving = true;
        if piped {
            return self.arm_readable(key, peer);
        }
        let length = u32::try_from(RELAY_BUFFER_BYTES).expect("some KiB");
        let read = opcode::Recv::new(connection.fd(), std::ptr::null_mut(), length)
            .buf_group(READS.number)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(Op::Receive, key, read)
    }

    /// A read of a joined connection has ended: what came goes to the other.
    pub(super) fn read(&mut self, key: u32, result: i32, flags: u32) -> Option<(Ready, usize)> {
        let buffer = cqueue::buffer_select(flags);
        if buffer.is_some()
            && let Some(reads) = &mut self.reads
        {
            reads.free = reads.free.saturating_sub(1);
        }
        let joined = self.connection(key)?.joined.as_mut()?;
        let bytes = usize::try_from(result).unwrap_or(0);
        let (Some(buffer), 1..) = (buffer, bytes) else {
            joined.read_ended |= result == 0;
            if let Some(buffer) = buffer {
                self.give_back_read(buffer);
            }
            match -result {
                0 => self.pass_end_on(key),
                libc::ENOBUFS | libc::EINTR | libc::EAGAIN => {
                    self.reads.as_mut()?.starved.push_back(key);
                }
                errno => self.fail(key, failure(&io::Error::from_raw_os_error(errno))),
            }
            return None;
        };
        joined.bulk.note(bytes);
        let peer = joined.peer;
        let Some(joined) = self.connection(peer).and_then(|peer| peer.joined.as_mut()) else {
            // Its flow is about to learn that the other one has gone.
            self.give_back_read(buffer);
            return None;
        };
        joined.lent = Some((buffer, bytes));
        let pushed = self.push_lent(peer);
        self.fail_on_error(peer, pushed);
        Some((Ready::Moved { read: bytes, written: 0 }, 0))
    }

    /// A send to a joined connection has ended.
    pub(super) fn written(&mut self, key: u32, result: i32) -> Option<(Ready, usize)> {
        if result < 0 && !matches!(-result, libc::EINTR | libc::EAGAIN) {
            self.fail(key, failure(&io::Error::from_raw_os_error(-result)));
            return None;
        }
        let bytes = usize::try_from(result).unwrap_or(0);
        let connection = self.connections[place(key)].as_deref_mut()?;
        let joined = connection.joined.as_mut()?;
        connection.sent += bytes;
        if let Some((buffer, filled)) = joined.lent.take() {
            let reads = self.reads.as_ref()?;
            let rest = reads.buffers.filled(buffer, filled).get(bytes..).unwrap_or(&[]);
            // The socket is full; what follows waits for it, and has to wait elsewhere.
            connection.sending = rest.to_vec();
            connection.sent = 0;
            self.give_back_read(buffer);
        }
        let connection = self.connection(key)?;
        let peer = connection.joined.as_ref()?.peer;
        self.fail_at_last(peer);
        let connection = self.connection(key)?;
        if connection.sent < connection.sending.len() {
            let pushed = self.push_send(key);
            self.fail_on_error(key, pushed);
            self.arm_hangup(peer);
        } else {
            connection.sending = Vec::new();
            connection.sent = 0;
            self.pass_end_on(peer);
            let armed = self.arm_read(peer);
            self.fail_on_error(peer, armed);
        }
        (bytes > 0).then_some((Ready::Moved { read: 0, written: bytes }, 0))
    }

    /// The other side's socket is full, and this connection is not read: a reset of it would be
    /// learnt no sooner than the other side reads again. Armed once, since only the end ends it.
    pub(super) fn arm_hangup(&mut self, key: u32) {
        let Some(connection) = self.connection(key) else { return };
        if connection.armed[Op::Hangup.index()] == 0 {
            let armed = self.push_poll(Op::Hangup, key, 0);
            self.fail_on_error(key, armed);
        }
    }

    /// A connection has ended both ways, in good order or not.
    pub(super) fn hung_up(&mut self, key: u32) {
        let Some(connection) = self.connection(key) else { return };
        if let Ok(Some(error)) = connection.socket.take_error() {
            self.fail(key, failure(&error));
        }
    }

    /// Puts the news off that a connection has ended, while the kernel sends to the other one what
    /// it had sent: that takes no time, and is to be counted.
    pub(super) fn puts_off(&mut self, key: u32, failure: Failure) -> bool {
        let joined = self.connection(key).and_then(|connection| connection.joined.as_ref());
        let Some(peer) = joined.map(|joined| joined.peer) else { return false };
        let joined = self.connection(peer).and_then(|connection| connection.joined.as_ref());
        let waits = joined.is_some_and(|joined| joined.lent.is_some() && joined.failed.is_none());
        if waits && let Some(joined) = self.connection(key).and_then(|it| it.joined.as_mut()) {
            joined.failed.get_or_insert(failure);
        }
        waits
    }

    /// Tells what was put off, if something was.
    fn fail_at_last(&mut self, key: u32) {
        let joined = self.connection(key).and_then(|connection| connection.joined.as_ref());
        if let Some(failure) = joined.and_then(|joined| joined.failed) {
            self.fail(key, failure);
        }
    }

    /// Once all that a connection sent before its FIN was written, FIN is.
    pub(super) fn pass_end_on(&mut self, key: u32) {
        let Some(connection) = self.connection(key) else { return };
        let flow = connection.flow;
        let Some(joined) = connection.joined.as_ref().filter(|joined| joined.read_ended) else {
            return;
        };
        let peer = joined.peer;
        let Some(connection) = self.connection(peer).filter(|peer| !peer.owes()) else { return };
        let Some(joined) = connection.joined.as_mut().filter(|joined| !joined.write_ended) else {
            return;
        };
        joined.write_ended = true;
        // If it is not connected any more, its own end is about to be told.
        let _ = connection.socket.shutdown(Shutdown::Write);
        self.pending.push_back((flow, Ready::Ended));
    }

    /// Sends what a buffer of the pool holds, as far as the socket takes it at once.
    fn push_lent(&mut self, key: u32) -> io::Result<()> {
        let Some(connection) = self.connections[place(key)].as_deref() else { return Ok(()) };
        let lent = connection.joined.as_ref().and_then(|joined| joined.lent);
        let (Some((buffer, filled)), Some(reads)) = (lent, &self.reads) else { return Ok(()) };
        let bytes = reads.buffers.filled(buffer, filled);
        let length = u32::try_from(bytes.len()).expect("some KiB");
        let send = opcode::Send::new(connection.fd(), bytes.as_ptr(), length)
            .flags(libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT)
            .build();
        self.push(Op::Send, key, send)
    }

    /// Lends a buffer of the pool to the kernel again.
    pub(super) fn give_back_read(&mut self, buffer: u16) {
        if let Some(reads) = &mut self.reads {
            reads.buffers.give_back(buffer);
            reads.free = (reads.free + 1).min(READS.buffers);
        }
    }

    /// Reads again where there was no buffer: for as many as there are buffers now. More would find
    /// none again, and ten thousand of them would be asked for nothing in every turn.
    pub(super) fn read_where_starved(&mut self) {
        let Some(reads) = &mut self.reads else { return };
        let count = reads.starved.len().min(usize::from(reads.free.max(1)));
        for _ in 0..count {
            let Some(key) = self.reads.as_mut().and_then(|reads| reads.starved.pop_front()) else {
                return;
            };
            let armed = self.arm_read(key);
            self.fail_on_error(key, armed);
        }
    }

    /// A connection is closed: the other one has nobody to write to any more.
    pub(super) fn part(&mut self, key: u32) {
        let Some(joined) = self.connections[place(key)].as_ref().and_then(|it| it.joined.as_ref())
        else {
            return;
        };
        let peer = joined.peer;
        if let Some(joined) = self.connection(peer).and_then(|peer| peer.joined.as_mut()) {
            joined.peer = NONE;
        }
        if let Some(reads) = &mut self.reads {
            reads.starved.retain(|&waiting| waiting != key);
        }
    }
}

/// The pool: 4 MiB for each worker that relays, touched only as far as it is used at once.
const READS: Group = Group { number: 1, buffers: 64, buffer_bytes: RELAY_BUFFER_BYTES };
