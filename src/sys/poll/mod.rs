//! The readiness backend: epoll, kqueue or Windows' completion ports through the `polling` crate,
//! level-triggered. On Linux it takes the same kernel stamps as io_uring, by recvmsg(2): precision
//! does not depend on the backend, only the number of system calls does.

mod bulk;
mod check;
mod join;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use polling::{Event as Interest, Events, PollMode, Poller};
use socket2::Socket;

use self::check::RAW_KEYS;
use self::join::Joined;
use super::checks::Attempt;
use super::io::{Pending, Ready, Waker};
use super::platform::pipe::Pipes;
use super::platform::syn::SynChecks;
use super::{Buffers, Checks, Completion, IoOptions, clock, failure, platform, socket};
use crate::event::{Failure, FlowId, TxStamp};
use crate::time::Mono;

/// Readiness I/O of one thread.
#[derive(Debug)]
pub struct Poll {
    poller: Arc<Poller>,
    events: Events,
    /// What the last wait reported and is not worked off yet, last first.
    ready: Vec<Interest>,
    /// How often the system is asked for more before the next wait: one wait tells so many events.
    asks_left: u32,
    /// A flow whose error queue is to be drained next.
    drain: Option<FlowId>,
    pending: Pending,
    entries: Vec<Option<Entry>>,
    buffer: Box<[u8]>,
    buffers: Buffers,
    /// What joined connections are read into; empty before the first two are joined.
    reads: Vec<u8>,
    /// What passes from one joined connection to the other uncopied.
    pipes: Pipes,
    stamps: bool,
    busy_poll: bool,
    checks: Option<Checks>,
    /// Checks by SYNs of our own, if that is the method.
    syn: Option<Box<SynChecks>>,
}

/// What a flow has open.
#[derive(Debug)]
struct Entry {
    socket: Socket,
    state: State,
    /// Waiting for the kernel to take it.
    queued: Vec<u8>,
    /// What to subtract from stamp keys; `None` while stamps are off.
    stamp_base: Option<u32>,
    /// The half-open check that this connection is for.
    check: Option<Attempt>,
    /// Received from only when it is asked for.
    held: bool,
    /// What it has if what it sends goes to another.
    joined: Option<Joined>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Listening,
    Paused,
    Connecting,
    Open,
    /// Not received from, unless once.
    Held {
        once: bool,
    },
    Joined,
}

impl Entry {
    const fn new(socket: Socket, state: State) -> Self {
        let (held, joined) = (false, None);
        Self { socket, state, queued: Vec::new(), stamp_base: None, check: None, held, joined }
    }

    /// What the entry waits for in its present state.
    fn interest(&self, key: usize, buffers: &Buffers) -> Interest {
        match self.state {
            State::Paused => Interest::none(key),
            State::Connecting => Interest::writable(key),
            State::Listening => Interest::readable(key),
            State::Open => {
                let readable = self.queued.len() <= buffers.backlog_bytes;
                Interest::new(key, readable, !self.queued.is_empty())
            }
            State::Held { once } => Interest::new(key, once, false),
            State::Joined => {
                let wanted = self.joined.as_ref().map_or((false, false), |joined| joined.wanted);
                Interest::new(key, wanted.0, wanted.1)
            }
        }
    }

    /// Gives the kernel what it takes of the queue.
    fn flush(&mut self) -> io::Result<()> {
        while !self.queued.is_empty() {
            match self.socket.send(&self.queued) {
                Ok(bytes) => drop(self.queued.drain(..bytes)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

impl Poll {
    /// Opens the system's poller.
    ///
    /// # Errors
    /// Those of epoll_create1(2) and its kin.
    pub fn open(options: &IoOptions) -> io::Result<Self> {
        Ok(Self {
            poller: Arc::new(Poller::new()?),
            events: Events::new(),
            ready: Vec::new(),
            asks_left: 0,
            drain: None,
            pending: Pending::new(),
            entries: Vec::new(),
            buffer: vec![0; options.buffers.receive_bytes].into(),
            buffers: options.buffers,
            reads: Vec::new(),
            pipes: Pipes::default(),
            stamps: options.stamps,
            busy_poll: options.busy_poll,
            checks: None,
            syn: None,
        })
    }

    /// See [`super::Io::waker`].
    #[must_use]
    pub fn waker(&self) -> Waker {
        Waker::Poller(Arc::clone(&self.poller))
    }

    /// See [`super::Io::listen`].
    ///
    /// # Errors
    /// Those of registering the socket.
    pub fn listen(&mut self, flow: FlowId, socket: Socket) -> io::Result<()> {
        socket.set_nonblocking(true)?;
        self.insert(flow, Entry::new(socket, State::Listening))
    }

    /// See [`super::Io::resume_accepting`].
    pub fn resume_accepting(&mut self, flow: FlowId) {
        self.set_listening(flow, State::Listening);
    }

    /// See [`super::Io::attach`].
    pub fn attach(&mut self, flow: FlowId, socket: Socket) {
        let prepared = socket.set_nonblocking(true).and_then(|()| socket::tune(&socket));
        let added = prepared.and_then(|()| self.insert(flow, Entry::new(socket, State::Open)));
        if let Err(error) = added {
            self.pending.push_back((flow, Ready::Closed(failure(&error))));
        }
    }

    /// See [`super::Io::connect`].
    pub fn connect(&mut self, flow: FlowId, socket: Socket, to: SocketAddr) {
        self.start_connecting(flow, Entry::new(socket, State::Connecting), to);
    }

    fn start_connecting(&mut self, flow: FlowId, entry: Entry, to: SocketAddr) {
        let socket = &entry.socket;
        let started =
            socket.set_nonblocking(true).and_then(|()| match socket.connect(&to.into()) {
                Err(error) if !platform::connect_in_progress(&error) => Err(error),
                _ => Ok(()),
            });
        let added = started.and_then(|()| self.insert(flow, entry));
        if let Err(error) = added {
            self.pending.push_back((flow, Ready::Closed(failure(&error))));
        }
    }

    /// See [`super::Io::stamp`].
    pub fn stamp(&mut self, flow: FlowId) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        match platform::enable_stamps(&entry.socket) {
            // Keys count from the next byte given to us; the kernel has not seen the queue yet.
            Ok(base) => {
                let queued = u32::try_from(entry.queued.len()).expect("bounded");
                entry.stamp_base = Some(base.wrapping_add(queued));
            }
            Err(error) => tracing::debug!(%error, "the kernel gives no stamps for a connection"),
        }
    }

    /// See [`super::Io::send`].
    pub fn send(&mut self, flow: FlowId, bytes: &[u8]) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        let mut rest = bytes;
        if entry.queued.is_empty() {
            match entry.socket.send(bytes) {
                Ok(taken) => rest = &bytes[taken..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return self.fail(flow, failure(&error)),
            }
        }
        if rest.is_empty() {
            return;
        }
        if entry.queued.len() + rest.len() > self.buffers.send_bytes {
            return self.fail(flow, Failure::Stalled);
        }
        entry.queued.extend_from_slice(rest);
        self.update(flow);
    }

    /// See [`super::Io::close`].
    pub fn close(&mut self, flow: FlowId) {
        if let Some(syn) = &mut self.syn {
            syn.withdraw(flow);
        }
        // An answer that waits has nothing open any more.
        if let Some(entry) = self.remove(flow)
            && let (Some(checks), Some(attempt)) = (&mut self.checks, entry.check)
        {
            drop(entry.socket);
            checks.abandon(attempt);
        }
        self.pending.retain(|(owner, _)| *owner != flow);
        self.ready.retain(|event| event.key != flow.index());
    }

    /// SYNs after the first of a check by SYNs of our own.
    pub(super) fn syn_retransmits(&self, flow: FlowId) -> Option<u32> {
        self.syn.as_ref()?.retransmits(flow)
    }

    /// The socket of a flow's connection.
    pub(super) fn socket(&mut self, flow: FlowId) -> Option<&Socket> {
        entry_mut(&mut self.entries, flow).map(|entry| &entry.socket)
    }

    /// See [`super::Io::wait`].
    ///
    /// # Errors
    /// Those of the poller.
    pub fn wait(&mut self, deadline: Option<Mono>) -> io::Result<()> {
        self.submit();
        let resend_at = self.syn.as_ref().and_then(|syn| syn.deadline());
        let deadline = deadline.into_iter().chain(resend_at).min();
        let answered = self.syn.as_ref().is_some_and(|syn| syn.has_answers());
        let at_hand = answered || !self.pending.is_empty() || self.drain.is_some();
        let left = deadline
            .map(|at| Duration::from_nanos(u64::try_from(at.since_ns(clock::mono())).unwrap_or(0)));
        // Even with something at hand: what has happened is handed over in this turn.
        let timeout = if self.busy_poll || at_hand { Some(Duration::ZERO) } else { left };
        self.asks_left = ASKS_MAX;
        self.look(timeout)
    }

    /// Asks the system what is ready. More than one answer has room for is asked for again, or what
    /// is there would be taken for missing.
    fn look(&mut self, timeout: Option<Duration>) -> io::Result<()> {
        self.events.clear();
        match self.poller.wait(&mut self.events, timeout) {
            Err(error) if error.kind() != io::ErrorKind::Interrupted => return Err(error),
            _ => self.ready.extend(self.events.iter()),
        }
        // A wake-up takes room, too.
        let full = self.ready.len() + 1 >= self.events.capacity().get();
        self.asks_left = if full { self.asks_left.saturating_sub(1) } else { 0 };
        self.ready.reverse();
        Ok(())
    }

    /// See [`super::Io::next_completion`].
    pub fn next_completion(&mut self) -> Option<Completion<'_>> {
        let (flow, ready, bytes) = self.advance()?;
        Some(ready.complete(flow, &self.buffer[..bytes]))
    }

    /// Works off readiness until something came of it; the number is how many bytes of the buffer
    /// were received.
    fn advance(&mut self) -> Option<(FlowId, Ready, usize)> {
        loop {
            if let Some((flow, ready)) = self.pending.pop_front() {
                return Some((flow, ready, 0));
            }
            if let Some(flow) = self.drain.take() {
                self.drain_stamps(flow);
                continue;
            }
            if let Some((flow, ready)) = self.next_raw_answer() {
                return Some((flow, ready, 0));
            }
            let Some(event) = self.ready.pop() else {
                if self.asks_left == 0 {
                    return None;
                }
                if let Err(error) = self.look(Some(Duration::ZERO)) {
                    // The next wait tells.
                    tracing::debug!(%error, "the poller could not be asked for more");
                    return None;
                }
                continue;
            };
            if RAW_KEYS.contains(&event.key) {
                self.receive_raw_answers();
                continue;
            }
            let flow = FlowId(u32::try_from(event.key).ok()?);
            let Some(entry) = entry_mut(&mut self.entries, flow) else { continue };
            match entry.state {
                State::Paused => {}
                State::Listening => self.accept(flow),
                State::Connecting if entry.check.is_some() => self.finish_checking(flow),
                State::Connecting => self.finish_connecting(flow),
                State::Held { once } => {
                    if let Some(received) = self.receive_held(flow, once) {
                        return Some(received);
                    }
                }
                State::Joined => self.pass_on(flow, event),
                State::Open => {
                    let flushed = entry.flush();
                    if let Err(error) = flushed {
                        self.fail(flow, failure(&error));
                        continue;
                    }
                    if event.writable {
                        self.update(flow);
                    }
                    if let Some(received) = self.receive(flow) {
                        return Some(received);
                    }
                }
            }
        }
    }

    /// One receive, if the backlog allows it. One per readiness keeps flows fair to each other;
    /// level-triggering reports again what is left.
    fn receive(&mut self, flow: FlowId) -> Option<(FlowId, Ready, usize)> {
        let entry = entry_mut(&mut self.entries, flow)?;
        self.drain = entry.stamp_base.map(|_| flow);
        if entry.queued.len() > self.buffers.backlog_bytes {
            return None;
        }
        match platform::receive(&entry.socket, &mut self.buffer[..]) {
            Ok((0, _)) => self.fail(flow, Failure::Eof),
            Ok((bytes, stamps)) => return Some((flow, Ready::Received(stamps), bytes)),
            Err(error) => match error.kind() {
                io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted => {}
                _ => self.fail(flow, failure(&error)),
            },
        }
        None
    }

    fn drain_stamps(&mut self, flow: FlowId) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        let Some(base) = entry.stamp_base else { return };
        while let Some(stamp) = platform::next_tx_stamp(&entry.socket) {
            let stamp = TxStamp { key: stamp.key.wrapping_sub(base), ..stamp };
            self.pending.push_back((flow, Ready::Stamped(stamp)));
        }
    }

    /// Accepts several at once: a queue of handshakes that is full refuses whoever comes next,
    /// while connections that talk take the rest of the turn.
    fn accept(&mut self, flow: FlowId) {
        for _ in 0..ACCEPTS_MAX {
            let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
            match entry.socket.accept() {
                Ok((socket, _)) => self.pending.push_back((flow, Ready::Accepted(socket))),
                // Nobody waits any more, among others.
                Err(error) if platform::accept_is_transient(&error) => return,
                Err(error) => {
                    self.set_listening(flow, State::Paused);
                    return self.pending.push_back((flow, Ready::AcceptFailed(error)));
                }
            }
        }
    }

    fn set_listening(&mut self, flow: FlowId, state: State) {
        if let Some(entry) = entry_mut(&mut self.entries, flow) {
            entry.state = state;
            self.update(flow);
        }
    }

    fn finish_connecting(&mut self, flow: FlowId) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        match entry.socket.take_error() {
            Ok(None) if entry.socket.peer_addr().is_err() => return,
            Ok(None) if entry.held => entry.state = State::Held { once: false },
            Ok(None) => entry.state = State::Open,
            Ok(Some(error)) | Err(error) => return self.fail(flow, failure(&error)),
        }
        if self.stamps && entry.state == State::Open {
            self.stamp(flow);
        }
        self.update(flow);
        self.pending.push_back((flow, Ready::Connected));
    }

    fn fail(&mut self, flow: FlowId, failure: Failure) {
        // What was received or stamped before the end still counts.
        self.drain_stamps(flow);
        let (told, others): (Pending, Pending) =
            std::mem::take(&mut self.pending).into_iter().partition(|(owner, _)| *owner == flow);
        self.pending = others;
        self.close(flow);
        self.pending.extend(told);
        self.pending.push_back((flow, Ready::Closed(failure)));
    }

    /// Takes a flow's entry away, and its socket from the poller. What the last wait reported of it
    /// is left.
    fn remove(&mut self, flow: FlowId) -> Option<Entry> {
        let mut entry = self.entries.get_mut(flow.index())?.take()?;
        if let Some(joined) = &mut entry.joined {
            if let Some(pipe) = joined.pipe.take() {
                self.pipes.give_back(pipe);
            }
            let watched = joined.watched;
            self.part(joined.peer);
            if !watched {
                return Some(entry);
            }
        }
        if let Err(error) = self.poller.delete(&entry.socket) {
            tracing::debug!(%error, "a closed socket was not registered");
        }
        Some(entry)
    }

    fn insert(&mut self, flow: FlowId, entry: Entry) -> io::Result<()> {
        self.register(flow, &entry)?;
        self.entries[flow.index()] = Some(entry);
        Ok(())
    }

    /// Has the poller watch an entry that is about to be the flow's.
    fn register(&mut self, flow: FlowId, entry: &Entry) -> io::Result<()> {
        let slot = flow.index();
        if self.entries.len() <= slot {
            self.entries.resize_with(slot + 1, || None);
        }
        let interest = entry.interest(slot, &self.buffers);
        // SAFETY: every entry that is registered is put into `entries`, and leaves it by `remove`,
        // which deletes it from the poller before its socket is dropped; `drop` removes them all.
        unsafe { self.poller.add_with_mode(&entry.socket, interest, PollMode::Level) }
    }

    fn update(&mut self, flow: FlowId) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        let interest = entry.interest(flow.index(), &self.buffers);
        if let Err(error) = self.poller.modify_with_mode(&entry.socket, interest, PollMode::Level) {
            self.fail(flow, failure(&error));
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        for slot in 0..self.entries.len() {
            self.close(FlowId(u32::try_from(slot).expect("slots are flow ids")));
        }
        self.forget_raw_sockets();
    }
}

fn entry_mut(entries: &mut [Option<Entry>], flow: FlowId) -> Option<&mut Entry> {
    entries.get_mut(flow.index())?.as_mut()
}

/// Whether an error says only that there is nothing to do yet.
fn passes(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

/// What one turn hands over is bounded, so that a flood keeps no timer waiting for ever.
const ASKS_MAX: u32 = 64;
/// Connections that one turn accepts of each listener.
const ACCEPTS_MAX: u32 = 16;
