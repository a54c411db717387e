//! Sockets of checks that are over, kept for the next ones: a socket that has disconnected, by the
//! same RST that closing it would send, is as good as new, and spares its making, its options, its
//! port and its end. Sockets flow in when their check is over and out when another begins.

use std::collections::VecDeque;
use std::net::SocketAddr;

use socket2::Socket;

use super::super::platform;
use crate::sys::socket::SocketOptions;

/// Sockets that wait, the one that has rested longest first.
#[derive(Debug)]
pub(super) struct Spares {
    waiting: VecDeque<Spare>,
    /// Whether a disconnected socket is known to be as good as new; `None` until one was looked at.
    renewable: Option<bool>,
}

#[derive(Debug)]
struct Spare {
    socket: Socket,
    ipv6: bool,
    port: Option<u16>,
}

impl Spares {
    pub(super) fn new(options: &SocketOptions) -> Self {
        // An interface or an address may go and come back as another; a socket that was bound to
        // it would not.
        let bound = options.interface.is_some() || options.source.is_some();
        Self { waiting: VecDeque::new(), renewable: bound.then_some(false) }
    }

    /// Ends the connection of a socket by RST, and keeps the socket if it may be used again.
    pub(super) fn retire(&mut self, socket: Socket, to: SocketAddr, port: Option<u16>) {
        let wanted = self.renewable != Some(false) && self.waiting.len() < WAITING_MAX;
        // Dropping it sends the same.
        if !wanted || !leaves_nothing_behind(to) || !platform::disconnect(&socket) {
            return;
        }
        let renewable =
            *self.renewable.get_or_insert_with(|| platform::has_forgotten_handshake(&socket));
        if renewable {
            self.waiting.push_back(Spare { socket, ipv6: to.is_ipv6(), port });
        }
    }

    /// A socket for this address, and the port that it is bound to.
    pub(super) fn take(&mut self, to: SocketAddr) -> Option<(Socket, Option<u16>)> {
        if self.waiting.is_empty() || !leaves_nothing_behind(to) {
            return None;
        }
        // They are of one family in most runs, so the first one does.
        let at = self.waiting.iter().position(|spare| spare.ipv6 == to.is_ipv6())?;
        self.waiting.remove(at).map(|spare| (spare.socket, spare.port))
    }
}

/// Whether connecting there changes no more of a socket than disconnecting mends: an address with a
/// zone binds it to an interface, and a mapped one makes an IPv6 socket speak IPv4.
fn leaves_nothing_behind(to: SocketAddr) -> bool {
    match to {
        SocketAddr::V4(_) => true,
        SocketAddr::V6(to) => to.scope_id() == 0 && to.ip().to_ipv4_mapped().is_none(),
    }
}

/// Sockets that wait: each is a descriptor and a few KiB of the kernel's memory.
const WAITING_MAX: usize = 256;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

    use socket2::{Domain, Type};

    use super::*;

    /// A socket that is connected to a listener.
    fn connected(listener: &TcpListener) -> Socket {
        let to = listener.local_addr().unwrap();
        let socket = Socket::new(Domain::for_address(to), Type::STREAM, None).unwrap();
        socket.set_linger(Some(std::time::Duration::ZERO)).unwrap();
        socket.connect(&to.into()).unwrap();
        socket
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_socket_comes_back_for_its_family_and_connects_again() {
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        let to = |listener: &TcpListener| listener.local_addr().unwrap();
        let mut spares = Spares::new(&SocketOptions::default());
        spares.retire(connected(&v4), to(&v4), Some(7));
        assert!(spares.take(to(&v6)).is_none());
        spares.retire(connected(&v6), to(&v6), None);
        let (again, port) = spares.take(to(&v6)).unwrap();
        assert_eq!(port, None);
        again.connect(&to(&v6).into()).unwrap();
        let (again, port) = spares.take(to(&v4)).unwrap();
        assert_eq!(port, Some(7));
        again.connect(&to(&v4).into()).unwrap();
        assert!(spares.take(to(&v4)).is_none());
    }

    #[test]
    fn what_would_stay_with_a_socket_is_not_kept() {
        let check = |options: &SocketOptions, asked: &str, kept: bool| {
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
            let mut spares = Spares::new(options);
            let asked: SocketAddr = asked.parse().unwrap();
            spares.retire(connected(&listener), asked, None);
            assert_eq!(spares.take(asked).is_some(), kept && cfg!(target_os = "linux"), "{asked}");
        };
        let plain = SocketOptions::default();
        check(&plain, "127.0.0.1:1", true);
        check(&plain, "[2001:db8::1]:1", true);
        check(&plain, "[fe80::1%1]:1", false);
        check(&plain, "[::ffff:127.0.0.1]:1", false);
        let interface = SocketOptions { interface: Some("lo".to_owned()), ..plain.clone() };
        check(&interface, "127.0.0.1:1", false);
        let source = SocketOptions { source: Some(Ipv4Addr::LOCALHOST.into()), ..plain };
        check(&source, "127.0.0.1:1", false);
    }
}
