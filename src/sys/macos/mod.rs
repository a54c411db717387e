//! macOS: kqueue through the portable backend; interfaces are bound by index.

mod tcp_info;

pub(super) use self::tcp_info::tcp_info;
pub(super) use super::portable::*;
pub(super) use super::unix::{
    activated, connect_in_progress, family_unsupported, out_of_descriptors,
};

use std::ffi::CString;
use std::io;
use std::num::NonZeroU32;

use socket2::Socket;

/// `IP_BOUND_IF` or `IPV6_BOUND_IF`.
pub(super) fn bind_interface(socket: &Socket, name: &str, ipv6: bool) -> io::Result<()> {
    let c_name = CString::new(name).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    // SAFETY: the pointer is to a nul-terminated string that lives until after the call.
    let index = unsafe { libc::if_nametoindex(c_name.as_ptr()) };
    let index = NonZeroU32::new(index).ok_or_else(io::Error::last_os_error)?;
    if ipv6 {
        socket.bind_device_by_index_v6(Some(index))
    } else {
        socket.bind_device_by_index_v4(Some(index))
    }
}

/// `IP_TOS` or `IPV6_TCLASS`.
pub(super) fn set_traffic_class(socket: &Socket, ipv6: bool, class: u32) -> io::Result<()> {
    if ipv6 { socket.set_tclass_v6(class) } else { socket.set_tos_v4(class) }
}

/// A restarted responder may bind at once; several threads may share one port.
pub(super) fn allow_rebinding(socket: &Socket, share_port: bool) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    if share_port { socket.set_reuse_port(true) } else { Ok(()) }
}
