//! Raw TCP sockets, one a family: our SYNs leave by them, and of all segments that arrive they get
//! the possible answers only, by a filter in the kernel. Ports and options go in; sockets come
//! out, with `CAP_NET_RAW` needed for nothing else afterwards.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::os::fd::AsRawFd;

use socket2::{Domain, Protocol, Socket, Type};

use super::batch::Batch;
use super::segment::{ACK, RST, SYN};
use crate::sys::linux::{bind_interface, family_unsupported, set_traffic_class};
use crate::sys::socket::SocketOptions;

/// A raw socket and room for what goes through it.
#[derive(Debug)]
pub(super) struct Raw {
    pub(super) socket: Socket,
    pub(super) ipv6: bool,
    pub(super) outgoing: Batch,
    pub(super) answers: Batch,
    /// What the error queue gave: transmit stamps and ICMP errors.
    pub(super) notices: Batch,
}

/// Opens a socket for each family that there is.
///
/// # Errors
/// Without `CAP_NET_RAW`, with the remedy; or if an option cannot be set.
pub(super) fn open_all(
    ports: &RangeInclusive<u16>,
    options: &SocketOptions,
) -> io::Result<Vec<Raw>> {
    let mut all = Vec::new();
    for ipv6 in [false, true] {
        // From an address of the other family nothing can be sent.
        if options.source.is_some_and(|source| source.is_ipv6() != ipv6) {
            continue;
        }
        match open(ipv6, ports, options) {
            Ok(raw) => all.push(raw),
            Err(error) if family_unsupported(&error) => {}
            Err(error) => return Err(with_remedy(error)),
        }
    }
    if all.is_empty() {
        let message = "raw sockets exist for no address family here";
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    Ok(all)
}

fn open(ipv6: bool, ports: &RangeInclusive<u16>, options: &SocketOptions) -> io::Result<Raw> {
    let domain = if ipv6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::RAW, Some(Protocol::TCP))?;
    // First of all: until then it receives every segment that reaches this host.
    attach_filter(&socket, &answers_filter(ipv6, ports))?;
    socket.set_nonblocking(true)?;
    apply(options, &socket, ipv6)?;
    if let Some(source) = options.source {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    report_errors(&socket, ipv6)?;
    make_room(&socket);
    let [outgoing, answers, notices] = [(); 3].map(|()| Batch::new());
    Ok(Raw { socket, ipv6, outgoing, answers, notices })
}

/// Interface, class and time to live, as for the sockets of probers.
pub(super) fn apply(options: &SocketOptions, socket: &Socket, ipv6: bool) -> io::Result<()> {
    let named = |option: String| {
        move |error: io::Error| io::Error::new(error.kind(), format!("{option}: {error}"))
    };
    if let Some(name) = &options.interface {
        bind_interface(socket, name, ipv6).map_err(named(format!("--interface {name}")))?;
    }
    if let Some(dscp) = options.dscp {
        set_traffic_class(socket, ipv6, u32::from(dscp) << 2)
            .map_err(named(format!("--dscp {dscp}")))?;
    }
    if let Some(ttl) = options.ttl {
        let hops = u32::from(ttl);
        let set = if ipv6 { socket.set_unicast_hops_v6(hops) } else { socket.set_ttl_v4(hops) };
        set.map_err(named(format!("--ttl {ttl}")))?;
    }
    Ok(())
}

/// Whatever the kernel has no room for is lost, and costs a check a retransmission. More than the
/// system's limit needs `CAP_NET_ADMIN`.
fn make_room(socket: &Socket) {
    for (forced, limited, bytes) in [
        (libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, RECEIVE_BUFFER_BYTES),
        (libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, SEND_BUFFER_BYTES),
    ] {
        let set = set_number(socket, libc::SOL_SOCKET, forced, bytes)
            .or_else(|_| set_number(socket, libc::SOL_SOCKET, limited, bytes));
        if let Err(error) = set {
            tracing::debug!(%error, "a raw socket keeps the default size of its buffers");
        }
    }
}

/// `IP_RECVERR` or `IPV6_RECVERR`: ICMP errors come with the packet that they quote.
fn report_errors(socket: &Socket, ipv6: bool) -> io::Result<()> {
    let (level, name) = match ipv6 {
        false => (libc::SOL_IP, libc::IP_RECVERR),
        true => (libc::SOL_IPV6, libc::IPV6_RECVERR),
    };
    set_number(socket, level, name, 1)
}

fn set_number(socket: &Socket, level: i32, name: i32, value: i32) -> io::Result<()> {
    set_option(socket, level, name, &value)
}

fn attach_filter(socket: &Socket, filter: &[libc::sock_filter]) -> io::Result<()> {
    let length = u16::try_from(filter.len()).expect("a few instructions");
    let program = libc::sock_fprog { len: length, filter: filter.as_ptr().cast_mut() };
    set_option(socket, libc::SOL_SOCKET, libc::SO_ATTACH_FILTER, &program)
}

fn set_option<T>(socket: &Socket, level: i32, name: i32, value: &T) -> io::Result<()> {
    let length = size_of::<T>().try_into().expect("a few bytes");
    let pointer = std::ptr::from_ref(value).cast();
    // SAFETY: `value` is a live reference to a type of this length, and what a filter program
    // points to lives in the caller.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, pointer, length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Classic BPF (`Documentation/networking/filter.rst`): passes SYN-ACK and RST-ACK to our ports. A
/// raw IPv4 socket sees the packet from its IP header on, a raw IPv6 socket from TCP's.
fn answers_filter(ipv6: bool, ports: &RangeInclusive<u16>) -> [libc::sock_filter; 10] {
    let step = |code: u32, k: u32| instruction(code, 0, 0, k);
    let jump = |code: u32, k: u32, then: u8, otherwise: u8| {
        instruction(libc::BPF_JMP | libc::BPF_K | code, then, otherwise, k)
    };
    // X is where the TCP header begins.
    let load_x = if ipv6 {
        step(libc::BPF_LDX | libc::BPF_W | libc::BPF_IMM, 0)
    } else {
        step(libc::BPF_LDX | libc::BPF_B | libc::BPF_MSH, 0)
    };
    let [syn, rst, ack] = [SYN, RST, ACK].map(u32::from);
    [
        load_x,
        step(libc::BPF_LD | libc::BPF_H | libc::BPF_IND, 2),
        jump(libc::BPF_JGE, u32::from(*ports.start()), 0, 6),
        jump(libc::BPF_JGT, u32::from(*ports.end()), 5, 0),
        step(libc::BPF_LD | libc::BPF_B | libc::BPF_IND, 13),
        step(libc::BPF_ALU | libc::BPF_AND | libc::BPF_K, syn | rst | ack),
        jump(libc::BPF_JEQ, syn | ack, 1, 0),
        jump(libc::BPF_JEQ, rst | ack, 0, 1),
        step(libc::BPF_RET | libc::BPF_K, u32::MAX),
        step(libc::BPF_RET | libc::BPF_K, 0),
    ]
}

fn instruction(code: u32, then: u8, otherwise: u8, k: u32) -> libc::sock_filter {
    let code = u16::try_from(code).expect("codes are 16 bits");
    libc::sock_filter { code, jt: then, jf: otherwise, k }
}

fn with_remedy(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::PermissionDenied {
        return error;
    }
    let message = format!(
        "raw sockets need CAP_NET_RAW ({error}): run `setcap cap_net_raw+ep` on the program, or \
         add it to its service or container"
    );
    io::Error::new(io::ErrorKind::PermissionDenied, message)
}

/// Thousands of answers and stamps: a small packet takes about 1 KiB.
const RECEIVE_BUFFER_BYTES: i32 = 8 << 20;
const SEND_BUFFER_BYTES: i32 = 4 << 20;
