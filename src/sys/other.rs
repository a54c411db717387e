//! Any other Unix: the portable backend, without binding to interfaces.

pub(super) use super::portable::*;
pub(super) use super::unix::{
    activated, connect_in_progress, family_unsupported, out_of_descriptors,
};

use std::io;

use socket2::Socket;

use crate::tcp_info::Raw;

/// Every kernel has a struct of its own.
pub(super) fn tcp_info(_socket: &Socket) -> io::Result<Raw> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "TCP_INFO is not read on this platform"))
}

/// Not known here.
pub(super) fn bind_interface(_socket: &Socket, _name: &str, _ipv6: bool) -> io::Result<()> {
    let message = "not supported on this platform; use --source with the interface's address";
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}

/// `IP_TOS`; the IPv6 option is not the same everywhere.
pub(super) fn set_traffic_class(socket: &Socket, ipv6: bool, class: u32) -> io::Result<()> {
    if ipv6 {
        return Err(io::Error::new(io::ErrorKind::Unsupported, "not supported for IPv6 here"));
    }
    socket.set_tos_v4(class)
}

/// A restarted responder may bind at once; ports are not shared by threads here.
pub(super) fn allow_rebinding(socket: &Socket, share_port: bool) -> io::Result<()> {
    if share_port {
        let message = "a responder has one thread on this platform; use --threads 1";
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    socket.set_reuse_address(true)
}
