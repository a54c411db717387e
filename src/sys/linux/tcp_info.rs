//! What the kernel knows of one connection: `struct tcp_info` (include/uapi/linux/tcp.h), read by
//! offset. A socket flows in, numbers flow out, and `None` for what this kernel is too old to tell:
//! it copies as much as it has and we ask for, and says how much that was.

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::AsRawFd;

use socket2::Socket;

/// The beginning of `struct tcp_info`.
#[derive(Clone, Copy, Debug)]
pub struct TcpInfo {
    bytes: [u8; BYTES],
    /// How much of it the kernel has filled.
    length: usize,
}

/// Reads it by getsockopt(2).
///
/// # Errors
/// Those of getsockopt(2); for a TCP socket there are none.
pub fn read(socket: &Socket) -> io::Result<TcpInfo> {
    let mut bytes = MaybeUninit::<[u8; BYTES]>::zeroed();
    let mut length = libc::socklen_t::try_from(BYTES).expect("a few hundred bytes");
    // SAFETY: the pointers are to `length` writable bytes and to their number, both alive until
    // after the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zeroed before, and any byte is a valid u8.
    let bytes = unsafe { bytes.assume_init() };
    Ok(TcpInfo { bytes, length: usize::try_from(length).map_or(0, |length| length.min(BYTES)) })
}

impl TcpInfo {
    /// The connection's state, a number of include/net/tcp_states.h.
    #[must_use]
    pub fn state(&self) -> Option<u8> {
        self.field(0).map(|[state]| state)
    }

    /// The smoothed round-trip time, µs (Linux 2.4). After a handshake and nothing else it is the
    /// handshake's.
    #[must_use]
    pub fn rtt_us(&self) -> Option<u32> {
        self.number(68)
    }

    /// Segments sent again, SYNs among them (Linux 2.6.10).
    #[must_use]
    pub fn total_retransmits(&self) -> Option<u32> {
        self.number(100)
    }

    /// Segments sent, those sent again and bare acknowledgements among them (Linux 4.2).
    #[must_use]
    pub fn segments_sent(&self) -> Option<u32> {
        self.number(136)
    }

    fn number(&self, offset: usize) -> Option<u32> {
        self.field(offset).map(u32::from_ne_bytes)
    }

    fn field<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.bytes[..self.length].get(offset..offset + N)?.try_into().ok()
    }
}

/// `TCP_SYN_SENT` of [`TcpInfo::state`].
pub const SYN_SENT: u8 = 2;
/// `TCP_SYN_RECV`.
pub const SYN_RECEIVED: u8 = 3;
/// `TCP_CLOSE`.
pub const CLOSED: u8 = 7;
/// Up to and with `tcpi_segs_out`: the kernel copies no more than it is asked for.
const BYTES: usize = 140;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::io::{Read, Write};
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use super::*;

    /// `TCP_ESTABLISHED`.
    const ESTABLISHED: u8 = 1;

    #[test]
    fn a_connection_counts_its_segments() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        client.write_all(b"one").unwrap();
        server.read_exact(&mut [0; 3]).unwrap();
        let info = read(&Socket::from(client)).unwrap();
        assert_eq!(info.state(), Some(ESTABLISHED));
        assert_eq!(info.total_retransmits(), Some(0));
        // SYN, ACK, data.
        assert_eq!(info.segments_sent(), Some(3));
        assert!(info.rtt_us().unwrap() > 0);
    }

    #[test]
    fn what_an_old_kernel_does_not_fill_is_unknown() {
        let mut bytes = [0; BYTES];
        bytes[0] = ESTABLISHED;
        bytes[68..72].copy_from_slice(&7_u32.to_ne_bytes());
        let old = TcpInfo { bytes, length: 104 };
        assert_eq!((old.state(), old.rtt_us()), (Some(1), Some(7)));
        assert_eq!((old.total_retransmits(), old.segments_sent()), (Some(0), None));
        assert_eq!(TcpInfo { bytes, length: 70 }.rtt_us(), None);
    }
}
