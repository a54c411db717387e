//! `SIO_TCP_INFO` of Windows (mstcpip.h, Windows 10 1703) as the members that Linux has for the
//! same thing. What Windows counts otherwise (its window in bytes, which Linux counts in segments)
//! is absent.

use std::io;
use std::mem::{offset_of, size_of};
use std::os::windows::io::AsRawSocket;
use std::ptr;

use socket2::Socket;
use windows_sys::Win32::Networking::WinSock::{
    SIO_TCP_INFO, TCP_INFO_v0, TCP_INFO_v1, TCPSTATE_CLOSE_WAIT, TCPSTATE_CLOSED, TCPSTATE_CLOSING,
    TCPSTATE_ESTABLISHED, TCPSTATE_FIN_WAIT_1, TCPSTATE_FIN_WAIT_2, TCPSTATE_LAST_ACK,
    TCPSTATE_LISTEN, TCPSTATE_SYN_RCVD, TCPSTATE_SYN_SENT, TCPSTATE_TIME_WAIT, WSAIoctl,
};

use crate::sys::tcp_info::Foreign;
use crate::tcp_info::{Options, Raw, State, members};

/// Reads it by `WSAIoctl`: the struct's second version, or the first of an older Windows.
pub(in crate::sys) fn tcp_info(socket: &Socket) -> io::Result<Raw> {
    let mut bytes = [0; size_of::<TCP_INFO_v1>()];
    let length = ioctl(socket, 1, &mut bytes)
        .or_else(|_| ioctl(socket, 0, &mut bytes[..size_of::<TCP_INFO_v0>()]))?;
    Ok(translated(&Foreign(bytes.get(..length).unwrap_or(&bytes))))
}

/// Bytes written.
fn ioctl(socket: &Socket, version: u32, bytes: &mut [u8]) -> io::Result<usize> {
    let handle = usize::try_from(socket.as_raw_socket()).expect("a handle is a pointer's size");
    let room = u32::try_from(bytes.len()).expect("a hundred bytes");
    let mut written = 0;
    // SAFETY: the input is 4 readable bytes, the output `room` writable ones, and all pointers
    // are to memory that is borrowed until after the call, which is not overlapped.
    let result = unsafe {
        WSAIoctl(
            handle,
            SIO_TCP_INFO,
            (&raw const version).cast(),
            4,
            bytes.as_mut_ptr().cast(),
            room,
            &raw mut written,
            ptr::null_mut(),
            None,
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(usize::try_from(written).unwrap_or(0))
}

fn translated(windows: &Foreign<'_>) -> Raw {
    let state = windows.word(offset_of!(TCP_INFO_v1, State)).and_then(state);
    let timestamps = windows.byte(offset_of!(TCP_INFO_v1, TimestampsEnabled));
    let options = timestamps.map(|on| if on == 0 { 0 } else { Options::TIMESTAMPS.bits() });
    windows.as_members([
        (&members::state, state.map(|state| u64::from(state.number()))),
        (&members::options, options.map(u64::from)),
        (&members::snd_mss, windows.word(offset_of!(TCP_INFO_v1, Mss))),
        (&members::rtt, windows.word(offset_of!(TCP_INFO_v1, RttUs))),
        (&members::min_rtt, windows.word(offset_of!(TCP_INFO_v1, MinRttUs))),
        (&members::snd_wnd, windows.word(offset_of!(TCP_INFO_v1, SndWnd))),
        (&members::rcv_wnd, windows.word(offset_of!(TCP_INFO_v1, RcvWnd))),
        (&members::bytes_sent, windows.long(offset_of!(TCP_INFO_v1, BytesOut))),
        (&members::bytes_received, windows.long(offset_of!(TCP_INFO_v1, BytesIn))),
        (&members::bytes_retrans, windows.word(offset_of!(TCP_INFO_v1, BytesRetrans))),
        (&members::total_rto_recoveries, windows.word(offset_of!(TCP_INFO_v1, TimeoutEpisodes))),
        (&members::rwnd_limited, windows.time(offset_of!(TCP_INFO_v1, SndLimTimeRwin))),
    ])
}

fn state(number: u64) -> Option<State> {
    Some(match i32::try_from(number).ok()? {
        TCPSTATE_CLOSED => State::Close,
        TCPSTATE_LISTEN => State::Listen,
        TCPSTATE_SYN_SENT => State::SynSent,
        TCPSTATE_SYN_RCVD => State::SynReceived,
        TCPSTATE_ESTABLISHED => State::Established,
        TCPSTATE_FIN_WAIT_1 => State::FinWait1,
        TCPSTATE_FIN_WAIT_2 => State::FinWait2,
        TCPSTATE_CLOSE_WAIT => State::CloseWait,
        TCPSTATE_CLOSING => State::Closing,
        TCPSTATE_LAST_ACK => State::LastAck,
        TCPSTATE_TIME_WAIT => State::TimeWait,
        _ => return None,
    })
}
