//! Linux: kernel stamps, io_uring, and everything else that only this kernel has.

mod checking;
mod ethtool;
mod facts;
pub(super) mod pipe;
pub mod ports;
pub mod process;
pub(super) mod sandbox;
pub mod stamp;
pub mod syn;
pub mod syn_timer;
mod tcp_info;
pub mod thread;
pub mod uring;

pub(super) use self::checking::{
    TELLS_HANDSHAKES, connected, delay_acknowledgement, disconnect, has_forgotten_handshake,
    nonblocking_stream,
};
pub(super) use self::facts::facts;
pub(super) use self::tcp_info::{kernel_release, tcp_info};
pub(super) use super::unix::{
    activated, connect_in_progress, family_unsupported, out_of_descriptors,
};

use std::io;
use std::os::fd::AsRawFd;

use rustix::time::{ClockId, Timespec};
use socket2::Socket;

use crate::event::{RxStamps, TxStamp};
use crate::time::{Mono, NS_PER_SECOND, Wall};

/// `CLOCK_MONOTONIC`, the clock of `bpf_ktime_get_ns` as well.
pub(super) fn mono() -> Mono {
    Mono::from_ns(timespec_ns(rustix::time::clock_gettime(ClockId::Monotonic)))
}

/// `CLOCK_REALTIME`, the clock of kernel software stamps.
pub(super) fn wall() -> Wall {
    Wall::from_ns(timespec_ns(rustix::time::clock_gettime(ClockId::Realtime)))
}

/// A reading before the clock's origin counts as the origin.
fn timespec_ns(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanos = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds.saturating_mul(NS_PER_SECOND).saturating_add(nanos)
}

/// Receives what is there, with the stamps of its last byte. 0 bytes are an end of stream.
pub(super) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, RxStamps)> {
    let mut control = Control([0; stamp::CONTROL_BYTES]);
    let (bytes, control_bytes) = recvmsg(socket, buffer, &mut control, 0)?;
    Ok((bytes, stamp::decode(&control.0[..control_bytes]).stamps))
}

/// Takes the next transmit stamp off the error queue; `None` when it is empty. An entry that is
/// no stamp is skipped: real errors also arrive as the socket's own.
pub(super) fn next_tx_stamp(socket: &Socket) -> Option<TxStamp> {
    loop {
        let mut control = Control([0; stamp::CONTROL_BYTES]);
        // The queue is never waited for, whatever the socket's mode.
        let flags = libc::MSG_ERRQUEUE | libc::MSG_DONTWAIT;
        let (_, control_bytes) = recvmsg(socket, &mut [], &mut control, flags).ok()?;
        let stamp = stamp::decode(&control.0[..control_bytes]).tx_stamp();
        if stamp.is_some() {
            return stamp;
        }
    }
}

/// A control buffer aligned as `struct cmsghdr` wants it.
#[repr(align(8))]
struct Control([u8; stamp::CONTROL_BYTES]);

/// recvmsg(2): bytes received, and bytes of control data.
fn recvmsg(
    socket: &Socket,
    buffer: &mut [u8],
    control: &mut Control,
    flags: i32,
) -> io::Result<(usize, usize)> {
    let mut part = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    // SAFETY: msghdr is plain data for which zero is valid (null pointers with zero lengths).
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut part;
    message.msg_iovlen = 1;
    message.msg_control = control.0.as_mut_ptr().cast();
    offer_control(&mut message, control.0.len());
    // SAFETY: every pointer in `message` is to memory that is borrowed until after the call.
    let received = unsafe { libc::recvmsg(socket.as_raw_fd(), &raw mut message, flags) };
    match usize::try_from(received) {
        Ok(bytes) => Ok((bytes, control_bytes(&message))),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Tells the kernel how much room there is for control messages.
#[allow(clippy::unnecessary_cast, reason = "the field is a u32 with musl and a usize with glibc")]
#[allow(clippy::cast_possible_truncation, reason = "control buffers are a few hundred bytes")]
const fn offer_control(message: &mut libc::msghdr, bytes: usize) {
    message.msg_controllen = bytes as _;
}

/// How much the kernel filled of a control buffer that was at most `CONTROL_BYTES` long.
#[allow(clippy::unnecessary_cast, reason = "the field is a u32 with musl and a usize with glibc")]
fn control_bytes(message: &libc::msghdr) -> usize {
    (message.msg_controllen as usize).min(stamp::CONTROL_BYTES)
}

/// Switches kernel stamps on; what to subtract from the keys of transmit stamps.
pub(super) fn enable_stamps(socket: &Socket) -> io::Result<u32> {
    stamp::enable(socket)
}

/// A socket for which the kernel stamps every received packet. Stamping starts some time after the
/// first socket in the system asks for it, by a work item (`net_enable_timestamp`,
/// net/core/dev.c), and stops with the last: whoever holds one gets stamps from the first probe on.
pub(super) fn keep_stamping() -> io::Result<Socket> {
    let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    stamp::enable_receive(&socket)?;
    Ok(socket)
}

/// `SO_BINDTODEVICE`: unprivileged since Linux 5.7, as long as nothing was bound before.
pub(super) fn bind_interface(socket: &Socket, name: &str, _ipv6: bool) -> io::Result<()> {
    socket.bind_device(Some(name.as_bytes()))
}

/// `IP_TOS` or `IPV6_TCLASS`.
pub(super) fn set_traffic_class(socket: &Socket, ipv6: bool, class: u32) -> io::Result<()> {
    if ipv6 { socket.set_tclass_v6(class) } else { socket.set_tos_v4(class) }
}

/// BBR, the default of many hosts, paces bursts *before* the first stamp; reno does not and is
/// always allowed. A kernel built without it keeps its default, which changes no single probe.
pub(super) fn keep_bursts_unpaced(socket: &Socket) {
    if let Err(error) = socket.set_tcp_congestion(b"reno") {
        tracing::debug!(%error, "congestion control stays the system's default");
    }
}

/// A restarted responder may bind at once; several threads may share one port.
pub(super) fn allow_rebinding(socket: &Socket, share_port: bool) -> io::Result<()> {
    socket.set_reuse_address(true)?;
    if share_port { socket.set_reuse_port(true) } else { Ok(()) }
}

/// Whether accept(2) failed for the one connection only: it was gone already, or the network had
/// an error to report (accept(2), "Error handling").
pub(super) fn accept_is_transient(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(
            libc::EAGAIN
                | libc::EINTR
                | libc::ECONNABORTED
                | libc::EPROTO
                | libc::ENETDOWN
                | libc::ENOPROTOOPT
                | libc::EHOSTDOWN
                | libc::ENONET
                | libc::EHOSTUNREACH
                | libc::EOPNOTSUPP
                | libc::ENETUNREACH
        )
    )
}

/// Why io_uring is refused, and what to change.
pub(super) fn uring_remedy(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => format!("{error}: the kernel has no io_uring, or seccomp hides it"),
        Some(libc::EPERM) => {
            let path = "/proc/sys/kernel/io_uring_disabled";
            match std::fs::read_to_string(path).as_deref().map(str::trim) {
                Ok("0") | Err(_) => format!("{error}: seccomp forbids io_uring; allow it there"),
                Ok(value) => {
                    format!("{error}: sysctl kernel.io_uring_disabled={value}; set it to 0")
                }
            }
        }
        Some(libc::EINVAL) => format!("{error}: the kernel is older than 5.19"),
        _ => error.to_string(),
    }
}

/// What to say where an exchange brought no stamps.
pub(super) const STAMPS_REMEDY: &str =
    "this kernel or sandbox gives no TCP stamps (Linux 4.1 or newer does); use --clock auto";
