//! What Linux can do for half-open checks by kernel sockets: connect without acknowledging, and
//! tell how the handshake went. Sockets flow in, results flow out.

use std::io;

use socket2::{Domain, Protocol, Socket, Type};

use super::tcp_info;
use crate::sys::checks::Handshake;
use crate::tcp_info::{Raw, State, members};

/// The kernel times a handshake by itself (`tcpi_rtt`) and counts its segments.
pub(in crate::sys) const TELLS_HANDSHAKES: bool = true;

/// A TCP socket that never blocks.
pub(in crate::sys) fn nonblocking_stream(domain: Domain) -> io::Result<Socket> {
    Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))
}

/// Puts the acknowledgement of a SYN-ACK off, by up to 200 ms (`TCP_DELACK_MAX`): whoever closes
/// before by RST has never acknowledged it. Off means "in pingpong mode", in which the kernel
/// expects that data will carry it (`tcp_rcv_synsent_state_process`, net/ipv4/tcp_input.c).
pub(in crate::sys) fn delay_acknowledgement(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_quickack(false)
}

/// Ends a connection by RST and makes the socket as good as new: what closing a socket that lingers
/// for no time does to a connection (`__tcp_close` calls `tcp_disconnect`, net/ipv4/tcp.c).
pub(in crate::sys) fn disconnect(socket: &Socket) -> bool {
    rustix::net::connect_unspec(socket).is_ok()
}

/// Whether a disconnected socket counts from zero again. Before Linux 5.6 it did not.
pub(in crate::sys) fn has_forgotten_handshake(socket: &Socket) -> bool {
    let is_zero = |info: Raw| {
        info.number(&members::segs_out) == Some(0)
            && info.number(&members::total_retrans) == Some(0)
    };
    tcp_info(socket).is_ok_and(is_zero)
}

/// How connecting ended, if it has, and how the handshake went. To be read before the socket is
/// closed, or connected again by io_uring, which forgets what a failed one has counted.
pub(in crate::sys) fn connected(socket: &Socket) -> Option<(io::Result<()>, Handshake)> {
    let info = match tcp_info(socket) {
        Ok(info) => info,
        Err(error) => return Some((Err(error), Handshake::default())),
    };
    let result = match info.state() {
        Some(State::SynSent | State::SynReceived) => return None,
        Some(State::Close) | None => match socket.take_error() {
            Ok(None) => Err(io::ErrorKind::NotConnected.into()),
            Ok(Some(error)) | Err(error) => Err(error),
        },
        // Established, or beyond because the peer has closed already.
        Some(_) => Ok(()),
    };
    Some((result, told(&info)))
}

/// How the handshake of a connected socket went.
pub(super) fn handshake(socket: &Socket) -> Handshake {
    tcp_info(socket).map_or_else(|_| Handshake::default(), |info| told(&info))
}

fn told(info: &Raw) -> Handshake {
    let total_retransmits = info.number(&members::total_retrans);
    let sent_again = total_retransmits.unwrap_or(0);
    // After a retransmission nobody knows which SYN was answered (RFC 6298, section 3). Zero is a
    // connection without an answer.
    let rtt_us = info.number(&members::rtt).filter(|&us| us > 0 && total_retransmits == Some(0));
    Handshake {
        rtt_ns: rtt_us.map(|us| us * NS_PER_US),
        syn_retransmits: u32::try_from(sent_again).unwrap_or(u32::MAX),
        answered_back: info.number(&members::segs_out).map(|sent| sent > sent_again + 1),
    }
}

const NS_PER_US: u64 = 1_000;
