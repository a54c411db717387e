//! The io_uring backend: one ring a thread. Receives pick provided buffers, receive stamps come as
//! control messages, transmit stamps by the socket command of Linux 6.17 or else from the error
//! queue, both on the ring.
//!
//! Receives are single-shot: a connection whose backlog is large is simply not armed again, whereas
//! a multishot receive would go on filling the whole pool of buffers with what nobody can send.
//! Arming again costs no system call: it leaves with the next wait.
//!
//! Every operation has a number, and a completion with any other than the newest of its kind is
//! passed over: when the ring of completions goes round, a kernel that posts 32-byte completions
//! of commands may step over the last slot without filling it, and what is read there once more
//! is what was there a round ago (Linux 6.18, io_cqe_cache_refill: the filler for rings of mixed
//! sizes). So accepts are single-shot too. Only stamps may repeat, which harms nobody.

mod buffers;
mod bulk;
mod check;
mod close;
mod complete;
mod connection;
pub(super) mod features;
mod join;
mod raw;
mod restrict;
mod submit;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use io_uring::types::{SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, squeue};
use rustix::event::EventfdFlags;
use socket2::Socket;

use self::buffers::{BufferRing, Group};
use self::connection::Connection;
use self::join::Reads;
use self::raw::RawSends;
use super::pipe::Pipes;
use super::stamp;
use super::syn::SynChecks;
use crate::event::{Failure, FlowId};
use crate::sys::checks::unasked;
use crate::sys::io::{Pending, Ready, Waker};
use crate::sys::{Buffers, Checks, Completion, IoOptions, TxStampSource, clock, failure, socket};
use crate::time::{Mono, NS_PER_SECOND};

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
    /// Connections to receive from again, once the next wait submits.
    rearm: Vec<u32>,
    /// Connections that found no buffer, armed before the others: else, under overload, those
    /// that were served would be served again, and again.
    starved: Vec<u32>,
    wake: Arc<OwnedFd>,
    wake_count: Box<[u8; 8]>,
    /// The number of the read that waits for a wake-up.
    wake_armed: u32,
    /// How often the kernel is asked for withheld completions until the next wait.
    asks_left: u32,
    /// Operations submitted, modulo their numbers.
    numbered: u32,
    /// What each connection may hold.
    limits: Buffers,
    stamps: bool,
    tx_stamps: TxStampSource,
    busy_poll: bool,
    checks: Option<Checks>,
    /// Checks by SYNs of our own, if that is the method.
    syn: Option<Box<SynChecks>>,
    /// The number of the wait for each raw socket; 0 while none is armed.
    raw_armed: [u32; 2],
    raw_sends: RawSends,
    /// What joined connections read into; `None` before the first two are joined.
    reads: Option<Reads>,
    /// What joined connections that send much go through.
    pipes: Pipes,
}

impl Uring {
    /// Opens a ring: with deferred task work (Linux 6.1), which spares interruptions of this
    /// thread, else with cooperative task work (5.19).
    ///
    /// # Errors
    /// `ENOSYS`, `EPERM` or `EINVAL` where io_uring is absent, forbidden or too old.
    pub fn open(options: &IoOptions) -> io::Result<Self> {
        let deferred = Ring::builder()
            .setup_r_disabled()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_cqsize(COMPLETIONS)
            .build(SUBMISSIONS);
        let (ring, is_deferred) = match deferred {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
                let mut cooperative = Ring::builder();
                cooperative.setup_r_disabled().setup_coop_taskrun().setup_taskrun_flag();
                cooperative.setup_cqsize(COMPLETIONS);
                (cooperative.build(SUBMISSIONS)?, false)
            }
            deferred => (deferred?, true),
        };
        tracing::debug!(deferred = is_deferred, "a ring is open");
        let group = Group { buffer_bytes: options.buffers.receive_bytes, ..GROUP };
        let buffers = BufferRing::register(&ring.submitter(), group)?;
        restrict::enable(&ring.submitter())?;
        let mut uring = Self {
            ring,
            buffers,
            connections: Vec::new(),
            free: Vec::new(),
            by_flow: Vec::new(),
            pending: Pending::new(),
            lent: None,
            rearm: Vec::new(),
            starved: Vec::new(),
            wake: Arc::new(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?),
            wake_count: Box::new([0; 8]),
            wake_armed: 0,
            asks_left: 0,
            numbered: 0,
            limits: options.buffers,
            stamps: options.stamps,
            tx_stamps: options.tx_stamps,
            busy_poll: options.busy_poll,
            checks: None,
            syn: None,
            raw_armed: [0; 2],
            raw_sends: RawSends::new(),
            reads: None,
            pipes: Pipes::default(),
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
        self.push_connect(Connection::new(socket, flow), to);
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
        let armed_before = connection.stamp_base.is_some();
        match stamp::enable(&connection.socket) {
            Ok(base) => {
                let late = u32::try_from(late_bytes).expect("bounded by Buffers");
                connection.stamp_base = Some(base.wrapping_sub(late));
            }
            Err(error) => {
                tracing::debug!(%error, "the kernel gives no stamps for a connection");
                return;
            }
        }
        if armed_before {
            return;
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
        let send_bytes = self.limits.send_bytes;
        let Some(connection) = self.connection(key) else { return };
        if connection.backlog_bytes() + bytes.len() > send_bytes {
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
        if let Some(syn) = &mut self.syn {
            syn.withdraw(flow);
        }
        if let Some(key) = self.key(flow) {
            self.release(key);
        }
        self.pending.retain(|(owner, _)| *owner != flow);
    }

    /// SYNs after the first of a check by SYNs of our own.
    pub(in crate::sys) fn syn_retransmits(&self, flow: FlowId) -> Option<u32> {
        self.syn.as_ref()?.retransmits(flow)
    }

    /// The socket of a flow's connection.
    pub(in crate::sys) fn socket(&mut self, flow: FlowId) -> Option<&Socket> {
        let key = self.key(flow)?;
        self.connection(key).map(|connection| &connection.socket)
    }

    /// See [`crate::sys::Io::submit`].
    ///
    /// # Errors
    /// Those of io_uring_enter(2).
    pub fn submit(&mut self) -> io::Result<()> {
        self.flush_raw_sockets()?;
        self.submit_ring()
    }

    /// See [`crate::sys::Io::wait`].
    ///
    /// # Errors
    /// Those of io_uring_enter(2).
    pub fn wait(&mut self, deadline: Option<Mono>) -> io::Result<()> {
        self.settle();
        self.arm_again();
        self.asks_left = ASKS_MAX;
        let (answered, resend_at) = self.flush_raw_sockets()?;
        let deadline = deadline.into_iter().chain(resend_at).min();
        // Even with completions at hand this must enter the kernel and ask for more: deferred work,
        // receives among it, runs only then.
        let at_hand = answered || !self.pending.is_empty() || !self.ring.completion().is_empty();
        let left_ns = match deadline {
            _ if self.busy_poll || at_hand => Some(0),
            Some(at) => Some(u64::try_from(at.since_ns(clock::mono())).unwrap_or(0)),
            None => None,
        };
        let waited = match left_ns {
            // To wait for no time at all would be to sleep until a timer wakes this thread.
            Some(0) => {
                let count = self.ring.submission().len();
                self.ask(count)
            }
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
    }

    /// Receives again where the last turn received, and first where it found no buffer.
    fn arm_again(&mut self) {
        let mut waiting = std::mem::take(&mut self.starved);
        waiting.append(&mut self.rearm);
        for &key in &waiting {
            let armed = self.arm_receive(key);
            self.fail_on_error(key, armed);
        }
        waiting.clear();
        self.starved = waiting;
        self.read_where_starved();
    }

    fn insert(&mut self, connection: Box<Connection>) -> u32 {
        let flow = connection.flow.index();
        let key = self.free.pop().unwrap_or_else(|| {
            self.connections.push(None);
            u32::try_from(self.connections.len() - 1).expect("bounded by descriptors")
        });
        self.connections[place(key)] = Some(connection);
        if self.by_flow.len() <= flow {
            self.by_flow.resize(flow + 1, NONE);
        }
        self.by_flow[flow] = key;
        key
    }

    fn key(&self, flow: FlowId) -> Option<u32> {
        self.by_flow.get(flow.index()).copied().filter(|&key| key != NONE)
    }

    /// A connection that is not closed.
    fn connection(&mut self, key: u32) -> Option<&mut Connection> {
        let connection = self.connections.get_mut(place(key))?.as_deref_mut()?;
        (!connection.closing).then_some(connection)
    }

    fn fail_on_error(&mut self, key: u32, result: io::Result<()>) {
        if let Err(error) = result {
            self.fail(key, failure(&error));
        }
    }

    /// Ends a connection and tells its flow.
    fn fail(&mut self, key: u32, failure: Failure) {
        if self.puts_off(key, failure) {
            return;
        }
        if let Some(connection) = self.connection(key) {
            let flow = connection.flow;
            let told = match connection.check {
                Some(_) => Ready::Answered(unasked(failure), clock::now()),
                None => Ready::Closed(failure),
            };
            self.release(key);
            self.pending.push_back((flow, told));
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

/// A connection's place in the table.
fn place(key: u32) -> usize {
    usize::try_from(key).expect("32 bits fit")
}

/// How often a turn asks for 20 withheld completions: a flood must not keep timers waiting.
const ASKS_MAX: u32 = 4_096;
/// No connection.
const NONE: u32 = u32::MAX;
/// The buffers of all connections but joined ones.
const GROUP: Group = Group { number: 0, buffers: 256, buffer_bytes: crate::sys::RECEIVE_BYTES };
/// Submission entries; when they are used up, they are submitted early.
const SUBMISSIONS: u32 = 1_024;
/// Completion entries; the kernel keeps what overflows.
const COMPLETIONS: u32 = 8_192;
