//! Making sockets: options that must be set before a connection exists, the same for every
//! backend. A socket leaves here in blocking mode; the readiness backend changes that.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, TcpKeepalive, Type};

use super::platform;
use crate::event::Ending;

/// Options of a prober's socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SocketOptions {
    /// Source address.
    pub source: Option<IpAddr>,
    /// Interface to leave by.
    pub interface: Option<String>,
    /// Differentiated services code point, 0 to 63.
    pub dscp: Option<u8>,
    /// Time to live (hop limit), 1 to 255.
    pub ttl: Option<u8>,
}

/// Why there is no socket for a prober.
#[derive(Debug, thiserror::Error)]
#[error("{}{error}", .option.as_ref().map_or_else(String::new, |option| format!("{option}: ")))]
pub struct ProberError {
    /// The option that failed, as a user writes it; `None` if it was no option.
    pub option: Option<String>,
    error: io::Error,
}

impl ProberError {
    /// The errno; 0 if there was none.
    #[must_use]
    pub fn errno(&self) -> i32 {
        self.error.raw_os_error().unwrap_or(0)
    }
}

impl From<io::Error> for ProberError {
    fn from(error: io::Error) -> Self {
        Self { option: None, error }
    }
}

impl From<ProberError> for io::Error {
    fn from(error: ProberError) -> Self {
        Self::new(error.error.kind(), error)
    }
}

/// How a checker's socket behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Manner {
    /// It does not acknowledge a SYN-ACK at once.
    pub delays_acknowledgement: bool,
    /// How it is closed.
    pub ending: Ending,
    /// The local port, which others of ours may use as well; `None` for whichever is free.
    pub port: Option<u16>,
    /// Whether it blocks: io_uring wants that.
    pub blocking: bool,
}

/// A socket ready to connect to `to`.
///
/// # Errors
/// The system's error, with the option that failed.
pub fn prober(to: SocketAddr, options: &SocketOptions) -> Result<Socket, ProberError> {
    let socket = upstream(to, options)?;
    platform::keep_bursts_unpaced(&socket);
    Ok(socket)
}

/// A socket ready to connect a relayed client to `to`.
///
/// # Errors
/// As those of [`prober`].
pub fn upstream(to: SocketAddr, options: &SocketOptions) -> Result<Socket, ProberError> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, Some(Protocol::TCP))?;
    apply(&socket, to, options)?;
    if let Some(source) = options.source {
        bind_source(&socket, source)?;
    }
    tune(&socket)?;
    Ok(socket)
}

/// A socket ready to check `to` by connecting.
///
/// # Errors
/// The system's error, with the option that failed; `AddrInUse` if the port is not to be had.
pub fn checker(
    to: SocketAddr,
    options: &SocketOptions,
    manner: &Manner,
) -> Result<Socket, ProberError> {
    let domain = Domain::for_address(to);
    let socket = if manner.blocking {
        Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?
    } else {
        platform::nonblocking_stream(domain)?
    };
    apply(&socket, to, options)?;
    if manner.delays_acknowledgement {
        platform::delay_acknowledgement(&socket)?;
    }
    if manner.ending == Ending::Reset {
        socket.set_linger(Some(Duration::ZERO))?;
    }
    match (manner.port, options.source) {
        (Some(port), source) => {
            let any: IpAddr = match to {
                SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
                SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
            };
            socket.set_reuse_address(true)?;
            socket.bind(&SocketAddr::new(source.unwrap_or(any), port).into())?;
        }
        (None, Some(source)) => bind_source(&socket, source)?,
        (None, None) => {}
    }
    Ok(socket)
}

/// What shapes the packets.
fn apply(socket: &Socket, to: SocketAddr, options: &SocketOptions) -> Result<(), ProberError> {
    if let Some(name) = &options.interface {
        platform::bind_interface(socket, name, to.is_ipv6())
            .map_err(named(format!("--interface {name}")))?;
    }
    if let Some(dscp) = options.dscp {
        platform::set_traffic_class(socket, to.is_ipv6(), u32::from(dscp) << 2)
            .map_err(named(format!("--dscp {dscp}")))?;
    }
    if let Some(ttl) = options.ttl {
        let hops = u32::from(ttl);
        let set =
            if to.is_ipv6() { socket.set_unicast_hops_v6(hops) } else { socket.set_ttl_v4(hops) };
        set.map_err(named(format!("--ttl {ttl}")))?;
    }
    Ok(())
}

fn bind_source(socket: &Socket, source: IpAddr) -> Result<(), ProberError> {
    let from = SocketAddr::new(source, 0);
    socket.bind(&from.into()).map_err(named(format!("--source {source}")))
}

fn named(option: String) -> impl FnOnce(io::Error) -> ProberError {
    |error| ProberError { option: Some(option), error }
}

/// A listening socket. `:port` (the IPv6 unspecified address) serves both families, or IPv4 alone
/// where the host has no IPv6.
///
/// # Errors
/// The errno of bind(2) or listen(2).
pub fn listener(at: SocketAddr, share_port: bool) -> io::Result<Socket> {
    match bind_listener(at, share_port) {
        Err(error) if at.ip().is_unspecified() && at.is_ipv6() && no_ipv6(&error) => {
            let any = SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, at.port());
            bind_listener(SocketAddr::V4(any), share_port)
        }
        result => result,
    }
}

/// The listening TCP sockets that whoever started this process passed to it, as systemd does
/// (`LISTEN_FDS`, sd_listen_fds(3)). To be called once: they are taken.
///
/// # Errors
/// If one of them is something else; "unsupported" where there is no such thing.
pub fn activated() -> io::Result<Vec<Socket>> {
    platform::activated()
}

fn bind_listener(at: SocketAddr, share_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    if at.is_ipv6() {
        socket.set_only_v6(!at.ip().is_unspecified())?;
    }
    platform::allow_rebinding(&socket, share_port)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// Options of every connection: no Nagle, and dead peers are found.
///
/// # Errors
/// The errno of setsockopt(2).
pub fn tune(socket: &Socket) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE))
}

/// Whether an error says that this host has no IPv6.
pub(super) fn no_ipv6(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrNotAvailable | io::ErrorKind::Unsupported)
        || platform::family_unsupported(error)
}

/// Connections that the kernel completes before we accept them.
const BACKLOG: i32 = 1_024;
/// Idle time before the kernel asks whether the peer is alive (as the seed).
const KEEPALIVE: Duration = Duration::from_secs(30);
