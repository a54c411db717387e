//! Errors of sockets as every Unix numbers them.

use std::io;

/// Whether an error says that the host has no such address family.
pub(super) fn family_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

/// Whether connect(2) goes on in the background.
pub(super) fn connect_in_progress(error: &io::Error) -> bool {
    error.raw_os_error() == Some(libc::EINPROGRESS)
}

/// Whether the process or the system ran out of descriptors or socket memory.
pub(super) fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EMFILE | libc::ENFILE | libc::ENOBUFS))
}
