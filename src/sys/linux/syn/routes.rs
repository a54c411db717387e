//! Which of our addresses the kernel would send from, and how large its segments could be: an
//! address goes in, a route comes out. The kernel is asked by connecting a UDP socket, which sends
//! nothing; what it says is remembered for a while, so that most checks ask nobody.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use socket2::{Domain, Socket, Type};

use super::attempts::Route;
use super::raw;
use crate::mix::BuildMix;
use crate::sys::linux::family_unsupported;
use crate::sys::socket::SocketOptions;
use crate::time::Mono;

/// Routes by address.
#[derive(Debug)]
pub(super) struct Routes {
    /// What is connected to find out, for IPv4 and IPv6.
    askers: [Option<Socket>; 2],
    known: HashMap<(IpAddr, u32), (Route, Mono), BuildMix>,
}

impl Routes {
    /// Prepares to ask for routes of sockets with these options.
    pub(super) fn open(options: &SocketOptions) -> io::Result<Self> {
        let mut askers = [None, None];
        for (asker, ipv6) in askers.iter_mut().zip([false, true]) {
            if options.source.is_some_and(|source| source.is_ipv6() != ipv6) {
                continue;
            }
            let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
            let socket = match Socket::new(domain, Type::DGRAM, None) {
                Err(error) if family_unsupported(&error) => continue,
                other => other?,
            };
            raw::apply(options, &socket, ipv6)?;
            if let Some(source) = options.source {
                socket.bind(&SocketAddr::new(source, 0).into())?;
            }
            *asker = Some(socket);
        }
        Ok(Self { askers, known: HashMap::default() })
    }

    /// The route to an address, at most [`KEEP`] old.
    ///
    /// # Errors
    /// The kernel's, if no route leads there.
    pub(super) fn find(&mut self, to: SocketAddr, now: Mono) -> io::Result<Route> {
        match self.known.get(&key(to)) {
            Some((route, until)) if now < *until => Ok(*route),
            _ => self.ask(to, now),
        }
    }

    /// Asks the kernel whatever is known.
    ///
    /// # Errors
    /// As above.
    pub(super) fn ask(&mut self, to: SocketAddr, now: Mono) -> io::Result<Route> {
        let asker = self.askers[usize::from(to.is_ipv6())].as_ref();
        let asker = asker.ok_or_else(|| io::Error::from_raw_os_error(libc::EAFNOSUPPORT))?;
        // Without this the address of the last answer would be kept.
        rustix::net::connect_unspec(asker)?;
        let asked = asker.connect(&to.into()).and_then(|()| {
            let source = asker.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
            let packet_bytes_max = packet_bytes_max(asker, to.is_ipv6())?;
            let headers_bytes = if to.is_ipv6() { 60 } else { 40 };
            let bytes = packet_bytes_max.saturating_sub(headers_bytes).clamp(536, 65_495);
            let segment_bytes_max = u16::try_from(bytes).expect("clamped to 16 bits");
            Ok(Route { source: source.ip(), segment_bytes_max })
        });
        match asked {
            Ok(route) => {
                if self.known.len() >= KNOWN_MAX {
                    self.known.clear();
                }
                self.known.insert(key(to), (route, now.after(KEEP)));
                Ok(route)
            }
            Err(error) => {
                self.known.remove(&key(to));
                Err(error)
            }
        }
    }
}

/// As [`asked_packet_bytes_max`]; where the kernel does not tell (qemu's user emulation), what
/// every host takes (RFC 9293, section 3.7.1): a check sends no segment that is larger.
fn packet_bytes_max(socket: &Socket, ipv6: bool) -> io::Result<u32> {
    match asked_packet_bytes_max(socket, ipv6) {
        Err(error) if error.raw_os_error() == Some(libc::ENOPROTOOPT) => {
            Ok(if ipv6 { 1_280 } else { 576 })
        }
        other => other,
    }
}

/// `IP_MTU` or `IPV6_MTU` of a connected socket (ip(7), ipv6(7)).
fn asked_packet_bytes_max(socket: &Socket, ipv6: bool) -> io::Result<u32> {
    let (level, name) =
        if ipv6 { (libc::SOL_IPV6, libc::IPV6_MTU) } else { (libc::SOL_IP, libc::IP_MTU) };
    let mut bytes: libc::c_int = 0;
    let mut length = size_of::<libc::c_int>().try_into().expect("4 bytes");
    let value = (&raw mut bytes).cast();
    // SAFETY: the kernel writes one int to a live local and its length to another.
    let result =
        unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, value, &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    u32::try_from(bytes).map_err(io::Error::other)
}

fn key(to: SocketAddr) -> (IpAddr, u32) {
    let zone = match to {
        SocketAddr::V4(_) => 0,
        SocketAddr::V6(to) => to.scope_id(),
    };
    (to.ip(), zone)
}

/// How long an answer is believed. A source address that is gone is noticed at once: sending from
/// it fails, and the kernel is asked again.
const KEEP: Duration = Duration::from_secs(10);
/// Addresses remembered at most, some 10 MB of them; then it begins anew.
const KNOWN_MAX: usize = 1 << 17;
