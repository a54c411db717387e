//! Joined connections by readiness: what each sends goes to the other. All are read into one
//! buffer and written from it; only what the other side's socket does not take at once is kept, in
//! memory of its own, and nothing more is read until it is gone.
//!
//! Where much comes, [`super::bulk`] moves it without copying.

use std::net::{Shutdown, SocketAddr};
use std::time::Duration;

use polling::Event as Interest;
use socket2::Socket;

use super::{Entry, Poll, State, entry_mut, passes};
use crate::event::{Failure, FlowId, RxStamps};
use crate::sys::bulk::Bulk;
use crate::sys::io::Ready;
use crate::sys::platform::pipe::Pipe;
use crate::sys::{RELAY_BUFFER_BYTES, failure, platform, socket};

/// The side of a joined connection: what the other sent is written to it, and waits in
/// `Entry::queued` from `written` on.
#[derive(Debug)]
pub(super) struct Joined {
    /// The other connection's flow, until that is closed.
    pub(super) peer: Option<FlowId>,
    written: usize,
    /// What the other sent on its way here, if it is not copied.
    pub(super) pipe: Option<Pipe>,
    /// What is known of how much this one sends.
    pub(super) bulk: Bulk,
    /// FIN was read.
    pub(super) read_ended: bool,
    /// FIN was written.
    write_ended: bool,
    /// Whether the poller is to tell of reading, of writing.
    pub(super) wanted: (bool, bool),
    /// The poller watches the socket.
    pub(super) watched: bool,
}

impl Joined {
    fn new(peer: FlowId) -> Self {
        Self {
            peer: Some(peer),
            written: 0,
            pipe: None,
            bulk: Bulk::default(),
            read_ended: false,
            write_ended: false,
            wanted: (false, false),
            watched: true,
        }
    }
}

impl Entry {
    /// Whether something that the other side sent waits to be written here.
    fn owes(&self) -> bool {
        let holds = self.joined.as_ref().is_some_and(|joined| joined.pipe.is_some());
        holds || !self.queued.is_empty()
    }
}

impl Poll {
    /// See [`crate::sys::Io::hold`].
    pub fn hold(&mut self, flow: FlowId, socket: Socket) {
        let prepared = socket.set_nonblocking(true).and_then(|()| socket::tune(&socket));
        let entry = Entry::new(socket, State::Held { once: false });
        if let Err(error) = prepared.and_then(|()| self.insert(flow, entry)) {
            self.pending.push_back((flow, Ready::Closed(failure(&error))));
        }
    }

    /// See [`crate::sys::Io::connect_held`].
    pub fn connect_held(&mut self, flow: FlowId, socket: Socket, to: SocketAddr) {
        let entry = Entry { held: true, ..Entry::new(socket, State::Connecting) };
        self.start_connecting(flow, entry, to);
    }

    /// See [`crate::sys::Io::receive_once`].
    pub fn receive_once(&mut self, flow: FlowId) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        if entry.state == (State::Held { once: false }) {
            entry.state = State::Held { once: true };
            self.update(flow);
        }
    }

    /// See [`crate::sys::Io::join`].
    pub fn join(&mut self, one: FlowId, other: FlowId, first: &[u8]) {
        if self.socket(one).is_none() || self.socket(other).is_none() {
            return;
        }
        self.reads.resize(RELAY_BUFFER_BYTES, 0);
        for (side, peer) in [(one, other), (other, one)] {
            if let Some(entry) = entry_mut(&mut self.entries, side) {
                entry.state = State::Joined;
                entry.joined = Some(Joined::new(peer));
            }
        }
        if let Some(entry) = entry_mut(&mut self.entries, other) {
            entry.queued.extend_from_slice(first);
        }
        self.watch(one);
        self.watch(other);
    }

    /// See [`crate::sys::Io::reset`].
    pub fn reset(&mut self, flow: FlowId) {
        if let Some(socket) = self.socket(flow)
            && let Err(error) = socket.set_linger(Some(Duration::ZERO))
        {
            tracing::debug!(%error, "a connection is closed in an orderly way instead");
        }
        self.close(flow);
    }

    /// A connection is closed: the other one has nobody to write to any more.
    pub(super) fn part(&mut self, peer: Option<FlowId>) {
        let Some(peer) = peer else { return };
        let entry = entry_mut(&mut self.entries, peer);
        if let Some(joined) = entry.and_then(|entry| entry.joined.as_mut()) {
            joined.peer = None;
        }
        self.watch(peer);
    }

    /// Something is to be received from a held connection, or it has ended.
    pub(super) fn receive_held(
        &mut self,
        flow: FlowId,
        once: bool,
    ) -> Option<(FlowId, Ready, usize)> {
        let entry = entry_mut(&mut self.entries, flow)?;
        if !once {
            // Whatever is waited for, an error is told; and told again until it is heard.
            if let Ok(Some(error)) = entry.socket.take_error() {
                self.fail(flow, failure(&error));
            }
            return None;
        }
        match platform::receive(&entry.socket, &mut self.buffer[..]) {
            Ok((0, _)) => self.fail(flow, Failure::Eof),
            Ok((bytes, _)) => {
                entry.state = State::Held { once: false };
                self.update(flow);
                return Some((flow, Ready::Received(RxStamps::default()), bytes));
            }
            Err(error) if passes(&error) => {}
            Err(error) => self.fail(flow, failure(&error)),
        }
        None
    }

    /// A joined connection is ready: for what waits to be written, for reading, or with an error.
    pub(super) fn pass_on(&mut self, flow: FlowId, ready: Interest) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        let Some(joined) = &entry.joined else { return };
        let (peer, wanted) = (joined.peer, joined.wanted);
        if wanted.1 && ready.writable {
            self.write_rest(flow);
        }
        if wanted.0 && ready.readable {
            self.read(flow);
        }
        if let Some(entry) = entry_mut(&mut self.entries, flow)
            && (wanted == (false, false) || !ready.readable && !ready.writable)
            && let Ok(Some(error)) = entry.socket.take_error()
        {
            self.fail(flow, failure(&error));
        }
        self.watch(flow);
        if let Some(peer) = peer {
            self.watch(peer);
        }
    }

    /// Reads what is there and writes it to the other connection.
    fn read(&mut self, flow: FlowId) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        let Some(joined) = &mut entry.joined else { return };
        if joined.bulk.is_piped() {
            match self.pipes.take() {
                Some(pipe) => return self.move_on(flow, pipe),
                None => joined.bulk.give_up(),
            }
        }
        let peer = joined.peer;
        let read = match platform::receive(&entry.socket, &mut self.reads) {
            Ok((0, _)) => {
                joined.read_ended = true;
                return self.pass_end_on(flow);
            }
            Ok((bytes, _)) => {
                joined.bulk.note(bytes);
                bytes
            }
            Err(error) if passes(&error) => return,
            Err(error) => return self.fail(flow, failure(&error)),
        };
        self.pending.push_back((flow, Ready::Moved { read, written: 0 }));
        if let Some(peer) = peer {
            let reads = std::mem::take(&mut self.reads);
            self.write_fresh(peer, &reads[..read]);
            self.reads = reads;
        }
    }

    /// Writes what was just read from the other connection; keeps what the socket does not take.
    fn write_fresh(&mut self, flow: FlowId, bytes: &[u8]) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        match entry.socket.send(bytes) {
            Ok(written) => {
                entry.queued.extend_from_slice(&bytes[written..]);
                self.wrote(flow, written);
            }
            Err(error) if passes(&error) => entry.queued.extend_from_slice(bytes),
            Err(error) => self.fail(flow, failure(&error)),
        }
    }

    /// Writes what is kept, as far as the socket takes it.
    fn write_rest(&mut self, flow: FlowId) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        let Some(joined) = &mut entry.joined else { return };
        if joined.pipe.is_some() {
            return self.empty_pipe(flow);
        }
        match entry.socket.send(&entry.queued[joined.written..]) {
            Ok(written) => {
                joined.written += written;
                if joined.written == entry.queued.len() {
                    (joined.written, entry.queued) = (0, Vec::new());
                }
                self.wrote(flow, written);
            }
            Err(error) if passes(&error) => {}
            Err(error) => self.fail(flow, failure(&error)),
        }
    }

    pub(super) fn wrote(&mut self, flow: FlowId, written: usize) {
        if written > 0 {
            self.pending.push_back((flow, Ready::Moved { read: 0, written }));
        }
        let entry = entry_mut(&mut self.entries, flow);
        if let Some(peer) = entry.and_then(|entry| entry.joined.as_ref()?.peer) {
            self.pass_end_on(peer);
        }
    }

    /// Once all that a connection sent before its FIN was written, FIN is.
    pub(super) fn pass_end_on(&mut self, flow: FlowId) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        let Some(joined) = entry.joined.as_ref().filter(|joined| joined.read_ended) else { return };
        let Some(peer) = joined.peer else { return };
        let Some(entry) = entry_mut(&mut self.entries, peer) else { return };
        if entry.owes() {
            return;
        }
        let Some(joined) = entry.joined.as_mut().filter(|joined| !joined.write_ended) else {
            return;
        };
        joined.write_ended = true;
        // If it is not connected any more, its own end is about to be told.
        let _ = entry.socket.shutdown(Shutdown::Write);
        self.pending.push_back((flow, Ready::Ended));
    }

    /// Has the poller tell what a joined connection now waits for. Once both sides have sent FIN
    /// the poller would tell that for ever, and there is nothing more to learn.
    fn watch(&mut self, flow: FlowId) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        let writes = entry.owes();
        let Some(joined) = &entry.joined else { return };
        let (peer, read_ended) = (joined.peer, joined.read_ended);
        let reads = !read_ended
            && peer.is_some_and(|peer| {
                entry_mut(&mut self.entries, peer).is_some_and(|peer| !peer.owes())
            });
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        let Some(joined) = &mut entry.joined else { return };
        if read_ended && joined.write_ended && joined.watched {
            joined.watched = false;
            if let Err(error) = self.poller.delete(&entry.socket) {
                tracing::debug!(%error, "a connection that has ended was not registered");
            }
            return;
        }
        if joined.watched && joined.wanted != (reads, writes) {
            joined.wanted = (reads, writes);
            self.update(flow);
        }
    }
}
