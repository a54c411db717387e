//! Joined connections that send much: what one sends is moved to the other through a pipe instead
//! of being copied. A completion says that there is something to read, or room to write; the moving
//! itself does not wait and is done here, since a ring would run each splice in a thread of its own
//! (io_uring/splice.c, `io_splice_prep`).

use std::io;

use super::connection::Op;
use super::{Uring, place};
use crate::sys::bulk::is_refused;
use crate::sys::failure;
use crate::sys::io::Ready;

impl Uring {
    /// Waits until a connection has something to read for the other.
    pub(super) fn arm_readable(&mut self, key: u32, peer: u32) -> io::Result<()> {
        for side in [key, peer] {
            let Some(connection) = self.connection(side) else { return Ok(()) };
            let Some(joined) = &mut connection.joined else { return Ok(()) };
            if !joined.nonblocking {
                joined.nonblocking = true;
                // The ring's own operations wait all the same.
                connection.socket.set_nonblocking(true)?;
            }
        }
        self.push_poll(Op::Readable, key, libc::POLLIN | libc::POLLRDHUP)
    }

    /// A connection has something to read: as much as fits into a pipe goes to the other.
    pub(super) fn readable(&mut self, key: u32, result: i32) {
        let Some(mut pipe) = self.pipes.take() else { return self.copy_again(key) };
        let Some(connection) = self.connection(key) else { return self.pipes.give_back(pipe) };
        connection.receiving = false;
        let flow = connection.flow;
        let filled = match result {
            0.. => pipe.fill(&connection.socket),
            _ => Err(io::Error::from_raw_os_error(-result)),
        };
        let Some(joined) = &mut connection.joined else { return self.pipes.give_back(pipe) };
        match filled {
            Ok(bytes @ 1..) => {
                joined.bulk.note(bytes);
                let peer = joined.peer;
                self.pending.push_back((flow, Ready::Moved { read: bytes, written: 0 }));
                match self.connection(peer).and_then(|peer| peer.joined.as_mut()) {
                    Some(joined) => {
                        joined.pipe = Some(pipe);
                        self.empty_pipe(peer);
                    }
                    // Its flow is about to learn that the other one has gone.
                    None => self.pipes.give_back(pipe),
                }
                return;
            }
            Ok(0) => joined.read_ended = true,
            Err(error) if is_refused(&error) => joined.bulk.give_up(),
            Err(error) => match error.raw_os_error() {
                Some(libc::EAGAIN | libc::EINTR) => {}
                _ => self.fail(key, failure(&error)),
            },
        }
        self.pipes.give_back(pipe);
        self.pass_end_on(key);
        let armed = self.arm_read(key);
        self.fail_on_error(key, armed);
    }

    /// There is no pipe: the next read is copied.
    fn copy_again(&mut self, key: u32) {
        let Some(connection) = self.connection(key) else { return };
        connection.receiving = false;
        if let Some(joined) = &mut connection.joined {
            joined.bulk.give_up();
        }
        let armed = self.arm_read(key);
        self.fail_on_error(key, armed);
    }

    /// Writes what a connection's pipe holds, as far as its socket takes it.
    pub(super) fn empty_pipe(&mut self, key: u32) {
        let Some(connection) = self.connections[place(key)].as_deref_mut() else { return };
        let flow = connection.flow;
        let Some(joined) = &mut connection.joined else { return };
        let (peer, Some(pipe)) = (joined.peer, &mut joined.pipe) else { return };
        match pipe.empty(&connection.socket) {
            Ok(written) => self.pending.push_back((flow, Ready::Moved { read: 0, written })),
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            Err(error) => return self.fail(key, failure(&error)),
        }
        let Some(pipe) = joined.pipe.take_if(|pipe| pipe.is_empty()) else {
            let armed = self.push_poll(Op::Writable, key, libc::POLLOUT);
            self.fail_on_error(key, armed);
            return self.arm_hangup(peer);
        };
        self.pipes.give_back(pipe);
        self.pass_end_on(peer);
        let armed = self.arm_read(peer);
        self.fail_on_error(peer, armed);
    }
}
