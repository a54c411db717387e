//! Reading what the kernel knows of a connection, the same way on every platform: a socket flows
//! in, [`Raw`] or [`TcpInfo`] flows out.

use std::io;

use socket2::{SockRef, Socket};

use super::platform;
#[cfg(any(test, windows, target_os = "macos"))]
use crate::tcp_info::Member;
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

/// The bytes of another system's struct, read by offset: what they do not reach is absent.
#[cfg(any(test, windows, target_os = "macos"))]
pub(super) struct Foreign<'a>(pub(super) &'a [u8]);

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

#[cfg(any(test, windows, target_os = "macos"))]
impl Foreign<'_> {
    pub(super) fn byte(&self, offset: usize) -> Option<u64> {
        self.0.get(offset).copied().map(u64::from)
    }

    pub(super) fn word(&self, offset: usize) -> Option<u64> {
        let bytes = self.0.get(offset..offset + 4)?.try_into().ok()?;
        Some(u64::from(u32::from_ne_bytes(bytes)))
    }

    pub(super) fn long(&self, offset: usize) -> Option<u64> {
        let bytes = self.0.get(offset..offset + 8)?.try_into().ok()?;
        Some(u64::from_ne_bytes(bytes))
    }

    /// A time told in ms, in µs.
    pub(super) fn time(&self, offset: usize) -> Option<u64> {
        self.word(offset).map(|ms| ms * 1_000)
    }

    /// Linux's members with these numbers; what is absent stays unfilled.
    pub(super) fn as_members<'m>(
        &self,
        numbers: impl IntoIterator<Item = (&'m Member, Option<u64>)>,
    ) -> Raw {
        let mut raw = Raw::empty(self.0.len());
        for (member, number) in numbers {
            if let Some(number) = number {
                raw.set(member, number);
            }
        }
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp_info::members;

    #[test]
    fn what_the_bytes_do_not_reach_is_absent() {
        let mut bytes = [0; 13];
        bytes[..4].copy_from_slice(&7_u32.to_ne_bytes());
        bytes[4..12].copy_from_slice(&0x1_0000_0002_u64.to_ne_bytes());
        bytes[12] = 9;
        let foreign = Foreign(&bytes);
        assert_eq!((foreign.word(0), foreign.word(10)), (Some(7), None));
        assert_eq!((foreign.long(4), foreign.long(6)), (Some(0x1_0000_0002), None));
        assert_eq!((foreign.byte(12), foreign.byte(13)), (Some(9), None));
        assert_eq!((foreign.time(0), foreign.time(13)), (Some(7_000), None));
        let raw = foreign.as_members([
            (&members::rtt, foreign.time(0)),
            (&members::bytes_sent, foreign.long(4)),
            (&members::snd_mss, foreign.word(10)),
        ]);
        let found = [&members::rtt, &members::bytes_sent, &members::snd_mss];
        let found = found.map(|member| raw.number(member));
        assert_eq!(found, [Some(7_000), Some(0x1_0000_0002), None]);
    }
}
