//! What every Unix has: errors of sockets by their numbers, and sockets passed by a starter.

use std::io;

use listenfd::ListenFd;
use socket2::{Socket, Type};

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

/// See [`crate::sys::socket::activated`].
pub(super) fn activated() -> io::Result<Vec<Socket>> {
    let mut passed = ListenFd::from_env();
    let taken = (0..passed.len()).filter_map(|index| passed.take_tcp_listener(index).transpose());
    let sockets: Vec<Socket> =
        taken.map(|taken| taken.map(Socket::from)).collect::<Result<_, _>>()?;
    for socket in &sockets {
        if !listens(socket)? {
            let message = "a socket that was passed does not listen; write ListenStream= with TCP";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, message));
        }
    }
    Ok(sockets)
}

/// Where the system does not say (`SO_ACCEPTCONN`), a stream socket is taken for a listener.
fn listens(socket: &Socket) -> io::Result<bool> {
    cfg_if::cfg_if! {
        if #[cfg(any(target_os = "linux", target_os = "freebsd"))] {
            Ok(socket.r#type()? == Type::STREAM && socket.is_listener()?)
        } else {
            Ok(socket.r#type()? == Type::STREAM)
        }
    }
}
