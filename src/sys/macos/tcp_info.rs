//! `TCP_CONNECTION_INFO` of Darwin (bsd/netinet/tcp.h) as the members that Linux has for the same
//! thing. What Darwin counts otherwise (windows in bytes that Linux counts in segments) is absent.

use std::io;
use std::os::fd::AsRawFd;

use socket2::Socket;

use crate::sys::tcp_info::Foreign;
use crate::tcp_info::{Raw, State, members};

/// Reads it by getsockopt(2).
pub(in crate::sys) fn tcp_info(socket: &Socket) -> io::Result<Raw> {
    let mut bytes = [0; BYTES];
    let mut length = libc::socklen_t::try_from(BYTES).expect("a hundred bytes");
    // SAFETY: the pointers are to `length` writable bytes and to their number, both alive until
    // after the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_CONNECTION_INFO,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    let length = usize::try_from(length).map_or(0, |length| length.min(BYTES));
    Ok(translated(&Foreign(&bytes[..length])))
}

/// Read by offset: the bit-fields at 52 share one word, which the struct of the libc crate does not
/// know.
fn translated(darwin: &Foreign<'_>) -> Raw {
    let state = darwin.byte(0).and_then(state).map(|state| u64::from(state.number()));
    // The four options that there are have the same bits.
    let options = darwin.word(4).map(|options| options & 0b1111);
    darwin.as_members([
        (&members::state, state),
        (&members::options, options),
        (&members::snd_wscale, darwin.byte(1)),
        (&members::rcv_wscale, darwin.byte(2)),
        (&members::rto, darwin.time(12)),
        (&members::snd_mss, darwin.word(16)),
        (&members::snd_wnd, darwin.word(28)),
        (&members::rcv_wnd, darwin.word(36)),
        (&members::rtt, darwin.time(44)),
        (&members::rttvar, darwin.time(48)),
        (&members::segs_out, darwin.long(56)),
        (&members::bytes_sent, darwin.long(64)),
        (&members::bytes_retrans, darwin.long(72)),
        (&members::segs_in, darwin.long(80)),
        (&members::bytes_received, darwin.long(88)),
        (&members::total_retrans, darwin.long(104)),
    ])
}

/// `TCPS_…` (bsd/netinet/tcp_fsm.h).
fn state(number: u64) -> Option<State> {
    Some(match number {
        0 => State::Close,
        1 => State::Listen,
        2 => State::SynSent,
        3 => State::SynReceived,
        4 => State::Established,
        5 => State::CloseWait,
        6 => State::FinWait1,
        7 => State::Closing,
        8 => State::LastAck,
        9 => State::FinWait2,
        10 => State::TimeWait,
        _ => return None,
    })
}

/// `sizeof(struct tcp_connection_info)`.
const BYTES: usize = 112;
