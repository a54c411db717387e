//! Local TCP ports of our own: a contiguous block, held by sockets that are bound and never
//! listen. What we send from there is ours to answer for, so the eBPF programs need to look at no
//! other packet, and no connection of another program is ever hit. In goes how many; out comes
//! which.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;

use socket2::{Domain, Protocol, Socket, Type};

use crate::sys::socket::no_ipv6;

/// Reserved ports; dropping this frees them.
#[derive(Debug)]
pub struct PortBlock {
    range: RangeInclusive<u16>,
    /// One a port. Held for its effect only.
    _holders: Vec<Socket>,
}

impl PortBlock {
    /// Reserves `count` ports (at least one), above the default range of ephemeral ports if there
    /// is room.
    ///
    /// # Errors
    /// `AddrInUse` if nowhere that many neighbours are free, `EMFILE` if there are too few
    /// descriptors.
    pub fn reserve(count: u16) -> io::Result<Self> {
        for candidates in CANDIDATES {
            if let Some(block) = Self::reserve_within(candidates, count)? {
                return Ok(block);
            }
        }
        let message = format!("no {count} neighbouring local TCP ports are free");
        Err(io::Error::new(io::ErrorKind::AddrInUse, message))
    }

    /// The ports, for IPv4 and IPv6 alike.
    #[must_use]
    pub const fn range(&self) -> &RangeInclusive<u16> {
        &self.range
    }

    /// The first run of `count` free ports among the candidates.
    fn reserve_within(candidates: RangeInclusive<u16>, count: u16) -> io::Result<Option<Self>> {
        let wanted = usize::from(count.max(1));
        let mut holders = Vec::new();
        for port in candidates {
            match hold(port) {
                Ok(holder) => holders.push(holder),
                Err(error) if is_taken(&error) => holders.clear(),
                Err(error) => return Err(error),
            }
            if holders.len() == wanted {
                let range = port - (count.max(1) - 1)..=port;
                return Ok(Some(Self { range, _holders: holders }));
            }
        }
        Ok(None)
    }
}

/// Takes one port for both families, or for IPv4 alone where the host has no IPv6.
fn hold(port: u16) -> io::Result<Socket> {
    let everywhere = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match bind_exclusively(everywhere) {
        Err(error) if no_ipv6(&error) => {
            bind_exclusively(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))
        }
        result => result,
    }
}

/// Binds while sharing is off, so that nobody has the port already, not even another of us; then
/// allows sharing, so that sockets of ours with `SO_REUSEADDR` may bind it too. The kernel asks a
/// bound socket for its present setting (`inet_bind_conflict`, net/ipv4/inet_connection_sock.c),
/// and its search for an ephemeral port passes over every port that was bound by number.
fn bind_exclusively(at: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.bind(&at.into())?;
    socket.set_reuse_address(true)?;
    Ok(socket)
}

/// Whether only this port is not to be had: in use, or below what we may bind.
fn is_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::PermissionDenied)
}

/// Where to look: first above Linux's default range of ephemeral ports (32768 to 60999), so that
/// no program loses ports that it could have been given.
const CANDIDATES: [RangeInclusive<u16>; 2] = [61_000..=65_535, 1_025..=60_999];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::net::{IpAddr, TcpListener};
    use std::os::fd::AsRawFd;

    use super::*;

    const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

    /// A block among the ephemeral ports, which is where other programs look for theirs. They may
    /// leave little room there, so it is small, and looked for more than once.
    fn ephemeral_block() -> PortBlock {
        let look = |_| PortBlock::reserve_within(40_000..=60_999, 2).unwrap();
        (0..100).find_map(look).unwrap()
    }

    fn stream(ip: IpAddr) -> Socket {
        Socket::new(Domain::for_address((ip, 0).into()), Type::STREAM, None).unwrap()
    }

    fn bind(ip: IpAddr, port: u16, share: bool) -> io::Result<Socket> {
        let socket = stream(ip);
        socket.set_reuse_address(share)?;
        socket.bind(&SocketAddr::from((ip, port)).into())?;
        Ok(socket)
    }

    /// `IP_LOCAL_PORT_RANGE` (Linux 6.3) has the kernel search these ports only.
    fn restrict(socket: &Socket, range: &RangeInclusive<u16>) -> io::Result<()> {
        let both = u32::from(*range.end()) << 16 | u32::from(*range.start());
        let value = (&raw const both).cast();
        let length = libc::socklen_t::try_from(size_of_val(&both)).unwrap();
        // SAFETY: the value is a u32 that lives until after the call.
        let set = unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_IP, 51, value, length) };
        if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    }

    #[test]
    fn a_block_is_contiguous_and_no_other_block_overlaps_it() {
        let blocks = [1, 7, 32].map(|count| PortBlock::reserve(count).unwrap());
        let lengths = blocks.each_ref().map(|block| block.range().len());
        assert_eq!(lengths, [1, 7, 32]);
        let mut ports: Vec<u16> = blocks.iter().flat_map(|block| block.range().clone()).collect();
        assert!(ports.iter().all(|port| *port >= 1_025));
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 40);
    }

    #[test]
    fn only_who_shares_may_bind_a_port_and_several_may() {
        let block = PortBlock::reserve(4).unwrap();
        for ip in LOCAL {
            for port in block.range().clone() {
                let alone = bind(ip, port, false).unwrap_err();
                assert_eq!(alone.kind(), io::ErrorKind::AddrInUse, "{ip} {port}");
                let first = bind(ip, port, true).unwrap();
                let second = bind(ip, port, true).unwrap();
                drop((first, second));
                let alone = bind(ip, port, false).unwrap_err();
                assert_eq!(alone.kind(), io::ErrorKind::AddrInUse, "{ip} {port}");
            }
        }
        let port = *block.range().start();
        drop(block);
        bind(LOCAL[0], port, false).unwrap();
    }

    #[test]
    fn the_kernel_gives_a_port_of_the_block_to_nobody() {
        let block = ephemeral_block();
        for ip in LOCAL {
            let listener = TcpListener::bind((ip, 0)).unwrap();
            let to = listener.local_addr().unwrap();
            for share in [false, true] {
                // That somebody of ours uses a port must not open it to others.
                let ours = bind(ip, *block.range().start(), true).unwrap();
                ours.set_linger(Some(std::time::Duration::ZERO)).unwrap();
                ours.connect(&to.into()).unwrap();
                for ours in [Some(ours), None] {
                    let binder = stream(ip);
                    binder.set_reuse_address(share).unwrap();
                    // Linux before 6.3 knows no such range; then only this is left to see.
                    if restrict(&binder, block.range()).is_err() {
                        assert!(bind(ip, *block.range().start(), false).is_err());
                        return;
                    }
                    let bound = binder.bind(&SocketAddr::from((ip, 0)).into()).unwrap_err();
                    assert_eq!(bound.kind(), io::ErrorKind::AddrInUse, "{ip} {share}");
                    let dialler = stream(ip);
                    dialler.set_reuse_address(share).unwrap();
                    restrict(&dialler, block.range()).unwrap();
                    let connected = dialler.connect(&to.into()).unwrap_err();
                    assert_eq!(connected.kind(), io::ErrorKind::AddrNotAvailable, "{ip} {share}");
                    drop(ours);
                }
            }
        }
    }

    #[test]
    fn a_port_in_the_way_is_stepped_over() {
        let (taken, range) = {
            let block = PortBlock::reserve_within(20_000..=32_000, 8).unwrap().unwrap();
            (*block.range().start() + 3, block.range().clone())
        };
        let _taken = bind(LOCAL[0], taken, false).unwrap();
        assert!(PortBlock::reserve_within(range.clone(), 8).unwrap().is_none());
        let block = PortBlock::reserve_within(range, 4).unwrap().unwrap();
        assert_eq!(*block.range(), taken + 1..=taken + 4);
    }
}
