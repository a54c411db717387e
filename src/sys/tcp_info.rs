//! Reading what the kernel knows of a connection, the same way on every platform: a socket flows
//! in, [`Raw`] or [`TcpInfo`] flows out.

use std::io;

use socket2::{SockRef, Socket};

use super::platform;
use crate::tcp_info::{Raw, TcpInfo};

#[cfg(not(windows))]
pub use std::os::fd::AsFd as AsTcpSocket;
/// Something with a socket inside, as this platform says it.
#[cfg(windows)]
pub use std::os::windows::io::AsSocket as AsTcpSocket;

/// A connection held by a descriptor of its own: closing the others neither invalidates it nor
/// lets another connection take its place. The connection lives as long as this does.
#[derive(Debug)]
pub struct Held(Socket);

impl TcpInfo {
    /// Asks the kernel about a connection, by one system call.
    ///
    /// # Errors
    /// If it is no TCP socket, or the platform does not tell.
    pub fn of(socket: &impl AsTcpSocket) -> io::Result<Self> {
        Raw::of(socket).map(|raw| Self::from(&raw))
    }
}

impl Raw {
    /// The same, not decoded: the cheapest way to a few members of many connections.
    ///
    /// # Errors
    /// If it is no TCP socket, or the platform does not tell.
    pub fn of(socket: &impl AsTcpSocket) -> io::Result<Self> {
        platform::tcp_info(&SockRef::from(socket))
    }
}

impl Held {
    /// Duplicates the socket's descriptor.
    ///
    /// # Errors
    /// If there are no more descriptors.
    pub fn new(socket: &impl AsTcpSocket) -> io::Result<Self> {
        SockRef::from(socket).try_clone().map(Self)
    }

    /// What the kernel knows of it now.
    ///
    /// # Errors
    /// If it is no TCP socket, or the platform does not tell.
    pub fn read(&self) -> io::Result<Raw> {
        platform::tcp_info(&self.0)
    }
}

/// The running kernel, as it calls itself: `6.18.44` on Linux.
#[must_use]
pub fn kernel_release() -> String {
    platform::kernel_release()
}
