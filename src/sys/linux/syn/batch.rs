//! Many messages in one system call, sendmmsg(2) and recvmmsg(2): bytes, addresses and control
//! messages of each stand in memory of ours that is used again and again. Everything is kept as
//! bytes, so only the two calls need `unsafe`.

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsRawFd;

use socket2::Socket;

use crate::sys::linux::offer_control;
use crate::sys::linux::stamp::CONTROL_BYTES;

/// Up to [`MESSAGES_MAX`] messages.
#[derive(Debug)]
pub(super) struct Batch {
    messages: Box<[Message]>,
    /// Of the messages to be sent.
    filled: usize,
}

/// Messages in one call at most.
pub(in crate::sys::linux) const MESSAGES_MAX: usize = 64;

/// One message. An address is a `struct sockaddr_in` or `sockaddr_in6` in its first bytes.
#[derive(Clone, Debug)]
#[repr(C, align(8))]
pub(in crate::sys::linux) struct Message {
    control: [u8; CONTROL_BYTES],
    address: [u8; ADDRESS_BYTES],
    bytes: [u8; BYTES_MAX],
    control_bytes: usize,
    address_bytes: usize,
    byte_count: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self { messages: vec![Message::new(); MESSAGES_MAX].into_boxed_slice(), filled: 0 }
    }

    /// Adds a message to be sent from one address to another; the batch is not full.
    pub(super) fn push(&mut self, source: IpAddr, destination: SocketAddr, bytes: &[u8]) {
        self.messages[self.filled].set(source, destination, bytes);
        self.filled += 1;
    }

    /// Sends what was pushed, until the kernel refuses one: how many it took. The batch is empty
    /// then. An error concerns the message behind those.
    pub(super) fn send(&mut self, socket: &Socket) -> (usize, Option<io::Error>) {
        let count = std::mem::take(&mut self.filled);
        let sent = self.call(count, |headers, length| {
            // SAFETY: `headers` points to `length` headers, whose pointers are to messages that
            // are borrowed until after the call.
            unsafe { libc::sendmmsg(socket.as_raw_fd(), headers, length, NO_SIGNAL) }
        });
        match sent {
            Ok(sent) => (sent, None),
            Err(error) => (0, Some(error)),
        }
    }

    /// Receives up to `count` messages without waiting.
    pub(super) fn receive(
        &mut self,
        socket: &Socket,
        count: usize,
        flags: i32,
    ) -> io::Result<usize> {
        for message in &mut self.messages[..count] {
            message.control_bytes = CONTROL_BYTES;
            message.address_bytes = ADDRESS_BYTES;
            message.byte_count = BYTES_MAX;
        }
        self.call(count, |headers, length| {
            let (flags, timeout) = (flags | libc::MSG_DONTWAIT, std::ptr::null_mut());
            #[allow(clippy::useless_conversion, reason = "flags are unsigned with musl")]
            let flags = flags.try_into().expect("a few small bits");
            // SAFETY: as above; a null timeout is none.
            unsafe { libc::recvmmsg(socket.as_raw_fd(), headers, length, flags, timeout) }
        })
    }

    /// The bytes of a received message.
    pub(super) fn bytes(&self, at: usize) -> &[u8] {
        let message = &self.messages[at];
        &message.bytes[..message.byte_count.min(BYTES_MAX)]
    }

    /// The control messages of a received message.
    pub(super) fn control(&self, at: usize) -> &[u8] {
        let message = &self.messages[at];
        &message.control[..message.control_bytes.min(CONTROL_BYTES)]
    }

    /// The address of a received message.
    pub(super) fn ip(&self, at: usize) -> Option<IpAddr> {
        let message = &self.messages[at];
        let address = message.address.get(..message.address_bytes)?;
        let family = u16::from_ne_bytes(*address.first_chunk()?);
        if family == FAMILY_V4 {
            let octets: [u8; 4] = *address.get(V4_AT..)?.first_chunk()?;
            return Some(Ipv4Addr::from(octets).into());
        }
        let octets: [u8; 16] = *address.get(V6_AT..)?.first_chunk()?;
        (family == FAMILY_V6).then(|| Ipv6Addr::from(octets).into())
    }

    /// Makes headers for the first `count` messages, has `system_call` use them, and takes the
    /// lengths that it wrote.
    fn call(
        &mut self,
        count: usize,
        system_call: impl FnOnce(*mut libc::mmsghdr, libc::c_uint) -> libc::c_int,
    ) -> io::Result<usize> {
        let nothing = libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 };
        let mut parts = [nothing; MESSAGES_MAX];
        // SAFETY: mmsghdr is plain data for which zero is valid (null pointers, zero lengths).
        let mut headers: [libc::mmsghdr; MESSAGES_MAX] = unsafe { std::mem::zeroed() };
        let messages = &mut self.messages[..count];
        for ((message, part), header) in messages.iter_mut().zip(&mut parts).zip(&mut headers) {
            message.point(&mut header.msg_hdr, part);
        }
        let length = count.try_into().expect("at most MESSAGES_MAX");
        let done = system_call(headers.as_mut_ptr(), length);
        let Ok(done) = usize::try_from(done) else { return Err(io::Error::last_os_error()) };
        for (message, header) in self.messages[..count].iter_mut().zip(&headers).take(done) {
            message.byte_count = header.msg_len.try_into().expect("32 bits fit");
            message.address_bytes = header.msg_hdr.msg_namelen.try_into().expect("32 bits fit");
            message.control_bytes = control_bytes(&header.msg_hdr);
        }
        Ok(done)
    }
}

impl Message {
    pub(in crate::sys::linux) const fn new() -> Self {
        Self {
            control: [0; CONTROL_BYTES],
            address: [0; ADDRESS_BYTES],
            bytes: [0; BYTES_MAX],
            control_bytes: 0,
            address_bytes: 0,
            byte_count: 0,
        }
    }

    /// Becomes a message to be sent from one address to another.
    pub(in crate::sys::linux) fn set(
        &mut self,
        source: IpAddr,
        destination: SocketAddr,
        bytes: &[u8],
    ) {
        self.set_destination(destination);
        self.set_source(source, destination);
        self.bytes[..bytes.len()].copy_from_slice(bytes);
        self.byte_count = bytes.len();
    }

    /// Has a header point to this message, which must stay where it is while the kernel uses it.
    pub(in crate::sys::linux) fn point(
        &mut self,
        header: &mut libc::msghdr,
        part: &mut libc::iovec,
    ) {
        part.iov_base = self.bytes.as_mut_ptr().cast();
        part.iov_len = self.byte_count;
        header.msg_name = self.address.as_mut_ptr().cast();
        header.msg_namelen = self.address_bytes.try_into().expect("a few bytes");
        header.msg_iov = part;
        header.msg_iovlen = 1;
        header.msg_control = self.control.as_mut_ptr().cast();
        offer_control(header, self.control_bytes);
    }

    /// `struct sockaddr_in` or `sockaddr_in6` (ip(7), ipv6(7)). The port of a raw socket is a
    /// protocol number and may be zero; TCP's own port is in the segment.
    fn set_destination(&mut self, to: SocketAddr) {
        self.address.fill(0);
        match to {
            SocketAddr::V4(to) => {
                self.address[..2].copy_from_slice(&FAMILY_V4.to_ne_bytes());
                self.address[V4_AT..V4_AT + 4].copy_from_slice(&to.ip().octets());
                self.address_bytes = size_of::<libc::sockaddr_in>();
            }
            SocketAddr::V6(to) => {
                self.address[..2].copy_from_slice(&FAMILY_V6.to_ne_bytes());
                self.address[V6_AT..V6_AT + 16].copy_from_slice(&to.ip().octets());
                self.address[ZONE_AT..ZONE_AT + 4].copy_from_slice(&to.scope_id().to_ne_bytes());
                self.address_bytes = size_of::<libc::sockaddr_in6>();
            }
        }
    }

    /// `IP_PKTINFO` (interface, source, unused) or `IPV6_PKTINFO` (source, interface): from which
    /// address to send. The interface is the kernel's choice, except in a zone.
    fn set_source(&mut self, source: IpAddr, destination: SocketAddr) {
        let mut data = [0; 20];
        let (level, kind, length) = match (source, destination) {
            (IpAddr::V6(source), SocketAddr::V6(to)) => {
                data[..16].copy_from_slice(&source.octets());
                data[16..].copy_from_slice(&to.scope_id().to_ne_bytes());
                (libc::SOL_IPV6, libc::IPV6_PKTINFO, 20)
            }
            (IpAddr::V4(source), _) => {
                data[4..8].copy_from_slice(&source.octets());
                (libc::SOL_IP, libc::IP_PKTINFO, 12)
            }
            (IpAddr::V6(_), SocketAddr::V4(_)) => unreachable!("a route is of one family"),
        };
        let word = size_of::<usize>();
        let total = CONTROL_HEADER_BYTES + length;
        self.control[..word].copy_from_slice(&total.to_ne_bytes());
        self.control[word..word + 4].copy_from_slice(&level.to_ne_bytes());
        self.control[word + 4..word + 8].copy_from_slice(&kind.to_ne_bytes());
        let target = &mut self.control[CONTROL_HEADER_BYTES..total];
        target.copy_from_slice(&data[..length]);
        self.control_bytes = total.next_multiple_of(word);
    }
}

/// How much of a control buffer the kernel filled.
#[allow(clippy::unnecessary_cast, reason = "the field is a u32 with musl and a usize with glibc")]
const fn control_bytes(header: &libc::msghdr) -> usize {
    header.msg_controllen as usize
}

/// An answer with all IP and TCP options, or a SYN of ours behind the longest link-layer header.
const BYTES_MAX: usize = 160;
const ADDRESS_BYTES: usize = size_of::<libc::sockaddr_in6>();
const CONTROL_HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
#[expect(clippy::cast_possible_truncation, reason = "2")]
const FAMILY_V4: u16 = libc::AF_INET as u16;
#[expect(clippy::cast_possible_truncation, reason = "10")]
const FAMILY_V6: u16 = libc::AF_INET6 as u16;
/// Where the addresses are in their structs: behind family and port, and the flow label.
const V4_AT: usize = 4;
const V6_AT: usize = 8;
/// `sin6_scope_id`.
const ZONE_AT: usize = 24;

/// `MSG_NOSIGNAL`, as sendmmsg(2) takes it: a signed number with glibc, an unsigned one with musl.
#[cfg(not(target_env = "musl"))]
const NO_SIGNAL: i32 = libc::MSG_NOSIGNAL;
#[cfg(target_env = "musl")]
const NO_SIGNAL: u32 = libc::MSG_NOSIGNAL.unsigned_abs();
