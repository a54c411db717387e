//! Which joined connections send so much that moving it through pipes pays: how many bytes each
//! read brought goes in, whether the next one is copied or moved comes out.

use std::io;

use super::RELAY_BUFFER_BYTES;

/// Whether what a connection sends goes through pipes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Bulk {
    /// Reads that were large, less those that were not; at [`LARGE_READS`] pipes begin.
    large: u8,
    piped: bool,
}

impl Bulk {
    /// Whether pipes are used.
    pub(super) const fn is_piped(self) -> bool {
        self.piped
    }

    /// Takes a read of so many bytes into account; one that fills a buffer is large.
    pub(super) fn note(&mut self, bytes: usize) {
        if bytes >= RELAY_BUFFER_BYTES {
            self.large = (self.large + 1).min(LARGE_READS);
        } else if bytes < SMALL_BYTES {
            self.large = self.large.saturating_sub(1);
        }
        self.piped = if self.piped { self.large > 0 } else { self.large == LARGE_READS };
    }

    /// Pipes cannot be had.
    pub(super) fn give_up(&mut self) {
        *self = Self::default();
    }
}

/// Whether an error says that a socket of this kind, or on this system, cannot be spliced: `EINVAL`
/// or `ENOSYS`.
pub(super) fn is_refused(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported)
}

/// Large reads in a row, or nearly, after which pipes pay.
const LARGE_READS: u8 = 4;
/// What is below this is cheaper to copy than to move.
const SMALL_BYTES: usize = 16 << 10;
