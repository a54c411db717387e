//! What a completion of a connection's operation means for its flow.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

use io_uring::cqueue;
use socket2::Socket;

use super::connection::Op;
use super::{Uring, place};
use crate::event::{Failure, FlowId, RxStamps, TxStamp};
use crate::sys::io::Ready;
use crate::sys::linux::{accept_is_transient, stamp};
use crate::sys::{TxStampSource, failure};
use crate::time::{NS_PER_SECOND, Phc, Wall};

impl Uring {
    /// Takes completions off the ring until one means something to a flow; the number is how many
    /// bytes of the lent buffer were received.
    pub(super) fn advance(&mut self) -> Option<(FlowId, Ready, usize)> {
        loop {
            if let Some((flow, ready)) = self.pending.pop_front() {
                return Some((flow, ready, 0));
            }
            if let Some((flow, ready)) = self.next_raw_answer() {
                return Some((flow, ready, 0));
            }
            let entry = self.next_entry()?;
            let (op, key, number) = Op::parse(entry.user_data());
            match op {
                Op::Wake => {
                    if number != self.wake_armed {
                        continue;
                    }
                    if let Err(error) = self.arm_wake() {
                        tracing::error!(%error, "a measuring thread can no longer be woken");
                    }
                }
                Op::Cancel => {}
                Op::Raw | Op::RawSend => {
                    self.complete_raw(op, (key, number), entry.result());
                }
                _ => {
                    if let Some((ready, bytes)) = self.complete(op, (key, number), &entry) {
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

    /// The next completion. The kernel does no more than 20 pieces of deferred work in one wait
    /// (Linux 6.13, `IO_LOCAL_TW_DEFAULT_MAX`): what has happened and is withheld must be asked
    /// for, or an answer that is there would be taken for a missing one. That something is withheld
    /// may be told after it was handed out (`io_req_local_work_add` sets the flag behind the work).
    pub(super) fn next_entry(&mut self) -> Option<cqueue::Entry32> {
        let mut fruitless = 0;
        loop {
            let entry = self.ring.completion().next();
            let queue = self.ring.submission();
            let withheld = queue.taskrun() || queue.cq_overflow();
            drop(queue);
            let tired = self.asks_left == 0 || fruitless == FRUITLESS_ASKS_MAX;
            if entry.is_some() || !withheld || tired {
                return entry;
            }
            self.asks_left -= 1;
            fruitless += 1;
            if let Err(error) = self.ask(0) {
                // The next wait tells.
                tracing::debug!(%error, "withheld completions could not be asked for");
                return None;
            }
        }
    }

    /// Submits `count` operations and takes what has happened, without waiting for more.
    pub(super) fn ask(&self, count: usize) -> io::Result<usize> {
        let count = u32::try_from(count).expect("bounded by the ring");
        // SAFETY: no argument is passed; what is submitted was checked when it was pushed.
        unsafe { self.ring.submitter().enter::<()>(count, 0, GET_EVENTS, None) }
    }

    /// One completion of a connection's operation.
    pub(super) fn complete(
        &mut self,
        op: Op,
        (key, number): (u32, u32),
        entry: &cqueue::Entry32,
    ) -> Option<(Ready, usize)> {
        let more = cqueue::more(entry.flags());
        let connection = self.connections.get_mut(place(key))?.as_mut()?;
        if connection.armed[op.index()] != number {
            return None;
        }
        if !more {
            // Numbers start at 1: the same completion read once more is none. (A stamp that is read
            // once more was not the last of its command either.)
            connection.armed[op.index()] = 0;
            connection.outstanding -= 1;
        }
        if connection.closing {
            self.discard(op, key, entry);
            return None;
        }
        let result = entry.result();
        match op {
            Op::Accept => self.accepted(key, result),
            Op::Connect => self.connected(key, result),
            Op::Receive => self.received(key, result, entry.flags()),
            Op::Send => self.sent(key, result),
            Op::Stamp => self.stamped(key, entry),
            Op::ErrorQueue => self.error_queue(key, result),
            Op::Readable => {
                self.readable(key, result);
                None
            }
            Op::Writable => {
                self.empty_pipe(key);
                None
            }
            Op::Hangup => {
                self.hung_up(key);
                None
            }
            Op::Wake | Op::Cancel | Op::Raw | Op::RawSend => None,
        }
    }

    /// Cleans up after an operation whose connection was closed meanwhile.
    fn discard(&mut self, op: Op, key: u32, entry: &cqueue::Entry32) {
        if let (Op::Receive, Some(buffer)) = (op, cqueue::buffer_select(entry.flags())) {
            let connection = self.connections[place(key)].as_ref();
            if connection.is_some_and(|connection| connection.joined.is_some()) {
                self.give_back_read(buffer);
            } else {
                self.buffers.give_back(buffer);
            }
        }
        if op == Op::Accept && entry.result() >= 0 {
            // SAFETY: a successful accept hands us a descriptor that nobody else owns.
            let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(entry.result()) });
            // Nobody else can accept it any more; whoever closed the listener may still want it.
            if let Some(connection) = &self.connections[place(key)] {
                self.pending.push_back((connection.flow, Ready::Accepted(socket)));
            }
        }
        self.free_if_idle(key);
    }

    fn accepted(&mut self, key: u32, result: i32) -> Option<(Ready, usize)> {
        if result < 0 {
            let error = io::Error::from_raw_os_error(-result);
            if !accept_is_transient(&error) {
                return Some((Ready::AcceptFailed(error), 0));
            }
        }
        let armed = self.arm_accept(key);
        self.fail_on_error(key, armed);
        if result < 0 {
            return None;
        }
        // SAFETY: a successful accept hands us a descriptor that nobody else owns.
        let socket = Socket::from(unsafe { OwnedFd::from_raw_fd(result) });
        Some((Ready::Accepted(socket), 0))
    }

    fn connected(&mut self, key: u32, result: i32) -> Option<(Ready, usize)> {
        let connection = self.connection(key)?;
        if connection.check.is_some() {
            self.checked(key, result);
            return None;
        }
        connection.address = None;
        if result < 0 {
            self.fail(key, failure(&io::Error::from_raw_os_error(-result)));
            return None;
        }
        if connection.held {
            return Some((Ready::Connected, 0));
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
        if connection.joined.is_some() {
            return self.read(key, result, flags);
        }
        let held = connection.held;
        let buffer = cqueue::buffer_select(flags);
        let bytes = usize::try_from(result).unwrap_or(0);
        if bytes == 0 {
            if let Some(buffer) = buffer {
                self.buffers.give_back(buffer);
            }
            match -result {
                0 => self.fail(key, Failure::Eof),
                libc::ENOBUFS | libc::EINTR | libc::EAGAIN => self.starved.push(key),
                errno => self.fail(key, failure(&io::Error::from_raw_os_error(errno))),
            }
            return None;
        }
        let header = connection.receive_header.as_ref();
        let stamps = header.map_or_else(RxStamps::default, |header| header.decode().stamps);
        self.lent = buffer;
        if !held {
            self.rearm.push(key);
        }
        Some((Ready::Received(stamps), bytes))
    }

    fn sent(&mut self, key: u32, result: i32) -> Option<(Ready, usize)> {
        let connection = self.connection(key)?;
        if connection.joined.is_some() {
            return self.written(key, result);
        }
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
        let more = !connection.sending.is_empty();
        if let Some(late_bytes) = late_bytes {
            self.stamp_transmits(key, late_bytes);
        }
        let pushed = if more { self.push_send(key) } else { Ok(()) };
        // A backlog that has shrunk lets the connection receive again.
        let armed = pushed.and_then(|()| self.arm_receive(key));
        self.fail_on_error(key, armed);
        None
    }

    /// A completion of `SOCKET_URING_OP_TX_TIMESTAMP` (io_uring/cmd_net.c): the result is the key,
    /// flags from bit 16 on are hardware and stage, the big completion is seconds and nanoseconds.
    fn stamped(&mut self, key: u32, entry: &cqueue::Entry32) -> Option<(Ready, usize)> {
        let Ok(stamp_key) = u32::try_from(entry.result()) else {
            if matches!(-entry.result(), libc::EOPNOTSUPP | libc::EINVAL) {
                // The kernel is older than the command; from here on the error queue is used.
                if self.tx_stamps != TxStampSource::ErrorQueue {
                    tracing::debug!("transmit stamps come by the error queue");
                }
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
}

/// How often in a row the kernel may have nothing to give although it says so.
const FRUITLESS_ASKS_MAX: u32 = 3;
/// `IORING_ENTER_GETEVENTS`.
const GET_EVENTS: u32 = 1;
/// `IORING_CQE_F_TSTAMP_HW`.
const STAMP_HARDWARE: u32 = 1 << 16;
/// `IORING_TIMESTAMP_TYPE_SHIFT`.
const STAMP_STAGE_SHIFT: u32 = 17;
