//! Windows: completion ports through the portable backend.

pub(super) mod service;
mod tcp_info;

pub(super) use self::tcp_info::tcp_info;
pub(super) use super::portable::*;

use std::io;

use socket2::Socket;

/// Winsock has no such option for TCP.
pub(super) fn bind_interface(_socket: &Socket, _name: &str, _ipv6: bool) -> io::Result<()> {
    let message = "not supported on Windows; use --source with the interface's address";
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}

/// `IP_TOS` is ignored by Windows unless a policy allows it, so it is refused instead.
pub(super) fn set_traffic_class(_socket: &Socket, _ipv6: bool, _class: u32) -> io::Result<()> {
    let message = "not supported on Windows; use a QoS policy (New-NetQosPolicy)";
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}

/// `SO_REUSEADDR` on Windows lets others steal the port, so it is never set; a port cannot be
/// shared by threads.
pub(super) fn allow_rebinding(_socket: &Socket, share_port: bool) -> io::Result<()> {
    if share_port {
        let message = "a responder has one thread on Windows; use --threads 1";
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    Ok(())
}

/// See [`crate::sys::socket::activated`].
pub(super) fn activated() -> io::Result<Vec<Socket>> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "there is no systemd on Windows"))
}

/// Whether an error says that the host has no such address family (`WSAEAFNOSUPPORT`).
pub(super) fn family_unsupported(error: &io::Error) -> bool {
    error.raw_os_error() == Some(10_047)
}

/// Whether connect goes on in the background.
pub(super) fn connect_in_progress(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::WouldBlock
}

/// Whether the process or the system ran out of handles or buffers (`WSAEMFILE`, `WSAENOBUFS`).
pub(super) fn out_of_descriptors(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(10_024 | 10_055))
}
