//! Pipes that move what arrived at one socket on to another without copying it: pages in from one,
//! the same pages out to the other (splice(2)). Both sockets do not block: for a socket it is its
//! own flag that counts, not splice's.
//!
//! A pipe is taken when something has arrived, and is free again as soon as the other side's socket
//! has taken all of it: a few serve any number of connections.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::sys::RELAY_PIPE_BYTES;

/// A pipe, and how many bytes it holds.
#[derive(Debug)]
pub(in crate::sys) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    filled: usize,
    /// Most that it takes at once.
    capacity: usize,
}

impl Pipe {
    /// A pipe that takes `capacity` bytes at once, or less if they come in small pieces.
    ///
    /// # Errors
    /// Those of pipe2(2): no descriptor is left.
    fn open(capacity: usize) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A user whose pipes have used up their share of memory gets the usual 64 KiB.
        let _smaller = fcntl_setpipe_size(&write, capacity);
        Ok(Self { read, write, filled: 0, capacity })
    }

    /// Takes what has arrived at a socket, as much as there is room for; 0 bytes are its end.
    ///
    /// # Errors
    /// Those of splice(2); `EINVAL` if a socket of this kind cannot be spliced.
    pub(in crate::sys) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let bytes = splice(from, None, &self.write, None, self.capacity, FLAGS)?;
        self.filled += bytes;
        Ok(bytes)
    }

    /// Gives a socket as much as it takes at once.
    ///
    /// # Errors
    /// Those of splice(2).
    pub(in crate::sys) fn empty(&mut self, to: impl AsFd) -> io::Result<usize> {
        let bytes = splice(&self.read, None, to, None, self.filled, FLAGS)?;
        self.filled -= bytes;
        Ok(bytes)
    }

    pub(in crate::sys) const fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

/// The pipes of a thread.
#[derive(Debug, Default)]
pub(in crate::sys) struct Pipes {
    free: Vec<Pipe>,
    /// Those that are free, and those in use.
    open: usize,
}

impl Pipes {
    /// An empty pipe; none if there are too many, or no descriptors.
    pub(in crate::sys) fn take(&mut self) -> Option<Pipe> {
        if let Some(pipe) = self.free.pop() {
            return Some(pipe);
        }
        if self.open == PIPES_MAX {
            return None;
        }
        let pipe = Pipe::open(RELAY_PIPE_BYTES)
            .inspect_err(|error| tracing::debug!(%error, "relaying goes on by copies"));
        let pipe = pipe.ok()?;
        self.open += 1;
        Some(pipe)
    }

    /// Takes a pipe back. One that still holds what nobody will read is closed.
    pub(in crate::sys) fn give_back(&mut self, pipe: Pipe) {
        if pipe.is_empty() {
            self.free.push(pipe);
        } else {
            self.open -= 1;
        }
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);
/// Pipes of a thread at most, twice as many descriptors. Beyond, bytes are copied.
const PIPES_MAX: usize = 32;
