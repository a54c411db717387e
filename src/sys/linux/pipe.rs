//! Pipes that move what arrived at one socket on to another without copying it: pages in from one,
//! the same pages out to the other (splice(2)). Both sockets do not block: for a socket it is its
//! own flag that counts, not splice's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

/// A pipe, and how many bytes it holds.
#[derive(Debug)]
pub(super) struct Pipe {
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
    pub(super) fn open(capacity: usize) -> io::Result<Self> {
        let (read, write) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // A user whose pipes have used up their share of memory gets the usual 64 KiB.
        let _smaller = fcntl_setpipe_size(&write, capacity);
        Ok(Self { read, write, filled: 0, capacity })
    }

    /// Takes what has arrived at a socket, as much as there is room for; 0 bytes are its end.
    ///
    /// # Errors
    /// Those of splice(2); `EINVAL` if a socket of this kind cannot be spliced.
    pub(super) fn fill(&mut self, from: impl AsFd) -> io::Result<usize> {
        let bytes = splice(from, None, &self.write, None, self.capacity, FLAGS)?;
        self.filled += bytes;
        Ok(bytes)
    }

    /// Gives a socket as much as it takes at once.
    ///
    /// # Errors
    /// Those of splice(2).
    pub(super) fn empty(&mut self, to: impl AsFd) -> io::Result<usize> {
        let bytes = splice(&self.read, None, to, None, self.filled, FLAGS)?;
        self.filled -= bytes;
        Ok(bytes)
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.filled == 0
    }
}

const FLAGS: SpliceFlags = SpliceFlags::MOVE.union(SpliceFlags::NONBLOCK);
