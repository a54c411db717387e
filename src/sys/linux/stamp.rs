//! `SO_TIMESTAMPING` on TCP: switching it on, and decoding what comes back as control messages.
//! Decoding is separate from receiving, reads bytes only, and is total: any input is safe.
//!
//! Sources: `Documentation/networking/timestamping.rst`, `include/uapi/linux/errqueue.h`,
//! cmsg(3). Observed on 6.18: receive stamps arrive as one 64-byte `SCM_TIMESTAMPING`, transmit
//! stamps on the error queue as `SCM_TIMESTAMPING` plus `IP_RECVERR` with `ee_info` = stage and
//! `ee_data` = key.

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, RawFd};

use socket2::Socket;

use crate::event::{RxStamps, TxStage, TxStamp};
use crate::time::{NS_PER_SECOND, Phc, Wall};

/// Room for the control messages of one receive: `SCM_TIMESTAMPING` (64 bytes) and
/// `IP(V6)_RECVERR` with an offender address (at most 64), with slack.
pub const CONTROL_BYTES: usize = 160;

/// Everything that one control buffer said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoded {
    /// The stamps, whichever direction they are of.
    pub stamps: RxStamps,
    /// Stage (`ee_info`) and key (`ee_data`) if this came from the error queue.
    pub transmit: Option<(u32, u32)>,
}

impl Decoded {
    /// As a transmit stamp, if it is one.
    #[must_use]
    pub fn tx_stamp(self) -> Option<TxStamp> {
        let (stage, key) = self.transmit?;
        tx_stage(stage, self.stamps).map(|stage| TxStamp { key, stage })
    }
}

/// The stamp of a transmit stage by its `SCM_TSTAMP_*` number.
#[must_use]
pub fn tx_stage(stage: u32, stamps: RxStamps) -> Option<TxStage> {
    match (stage, stamps.sw, stamps.hw) {
        (SCM_TSTAMP_SND, None, Some(hw)) => Some(TxStage::Hardware(hw)),
        (SCM_TSTAMP_SND, Some(sw), _) => Some(TxStage::Software(sw)),
        (SCM_TSTAMP_SCHED, Some(sw), _) => Some(TxStage::Sched(sw)),
        (SCM_TSTAMP_ACK, Some(sw), _) => Some(TxStage::Ack(sw)),
        _ => None,
    }
}

/// Decodes a control buffer as recvmsg(2) filled it (`msg_controllen` bytes of it).
#[must_use]
pub fn decode(control: &[u8]) -> Decoded {
    let mut decoded = Decoded::default();
    let mut rest = control;
    while let Some((level, kind, data, next)) = next_message(rest) {
        match (level, kind) {
            (libc::SOL_SOCKET, SCM_TIMESTAMPING_OLD | SCM_TIMESTAMPING_NEW) => {
                decoded.stamps = decode_stamps(data, kind == SCM_TIMESTAMPING_NEW);
            }
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR) => {
                decoded.transmit = decode_error(data).or(decoded.transmit);
            }
            _ => {}
        }
        rest = next;
    }
    decoded
}

/// An ICMP error as the error queue tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IcmpError {
    /// Whether it is one of ICMPv6.
    pub v6: bool,
    /// Its type.
    pub kind: u8,
    /// Its code.
    pub code: u8,
}

/// The ICMP error in a control buffer, if that is what it holds.
#[must_use]
pub fn decode_icmp(control: &[u8]) -> Option<IcmpError> {
    let mut rest = control;
    while let Some((level, kind, data, next)) = next_message(rest) {
        if matches!(
            (level, kind),
            (libc::SOL_IP, libc::IP_RECVERR) | (libc::SOL_IPV6, libc::IPV6_RECVERR)
        ) {
            let v6 = match *data.get(4)? {
                libc::SO_EE_ORIGIN_ICMP => false,
                libc::SO_EE_ORIGIN_ICMP6 => true,
                _ => return None,
            };
            return Some(IcmpError { v6, kind: *data.get(5)?, code: *data.get(6)? });
        }
        rest = next;
    }
    None
}

/// Splits the first control message off: level, type, data, and what follows it.
fn next_message(bytes: &[u8]) -> Option<(i32, i32, &[u8], &[u8])> {
    let length = usize::from_ne_bytes(field(bytes, 0)?);
    let level = i32::from_ne_bytes(field(bytes, size_of::<usize>())?);
    let kind = i32::from_ne_bytes(field(bytes, size_of::<usize>() + 4)?);
    if length < HEADER_BYTES {
        return None;
    }
    let data = bytes.get(HEADER_BYTES..length)?;
    let aligned = length.checked_next_multiple_of(size_of::<usize>())?;
    Some((level, kind, data, bytes.get(aligned..).unwrap_or(&[])))
}

/// `struct scm_timestamping`: software, (deprecated), hardware; zero means none.
fn decode_stamps(data: &[u8], always_64_bit: bool) -> RxStamps {
    let word = if always_64_bit { 8 } else { size_of::<libc::c_long>() };
    let stamp_ns = |index: usize| {
        let seconds = signed_word(data, index * 2 * word, word)?;
        let nanos = signed_word(data, (index * 2 + 1) * word, word)?;
        let seconds = u64::try_from(seconds).ok()?;
        let nanos = u64::try_from(nanos).ok().filter(|&ns| ns < NS_PER_SECOND)?;
        seconds.checked_mul(NS_PER_SECOND)?.checked_add(nanos).filter(|&ns| ns != 0)
    };
    RxStamps { sw: stamp_ns(0).map(Wall::from_ns), hw: stamp_ns(2).map(Phc::from_ns) }
}

/// `struct sock_extended_err`: stage and key of a timestamp, nothing for real errors.
fn decode_error(data: &[u8]) -> Option<(u32, u32)> {
    let errno = u32::from_ne_bytes(field(data, 0)?);
    let origin = *data.get(4)?;
    let info = u32::from_ne_bytes(field(data, 8)?);
    let key = u32::from_ne_bytes(field(data, 12)?);
    let timestamping = origin == libc::SO_EE_ORIGIN_TIMESTAMPING;
    (timestamping && errno == libc::ENOMSG.cast_unsigned()).then_some((info, key))
}

fn signed_word(data: &[u8], at: usize, width: usize) -> Option<i64> {
    if width == 8 {
        field(data, at).map(i64::from_ne_bytes)
    } else {
        field(data, at).map(|bytes| i64::from(i32::from_ne_bytes(bytes)))
    }
}

fn field<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Switches receive and transmit stamps on for a connected TCP socket. Returns what to subtract
/// from a key so that it counts from the next byte sent.
///
/// `OPT_ID` needs an established connection. `OPT_ID_TCP` (Linux 6.2, commit b534dc46c8ae) counts
/// from the write queue's end; older kernels count from the first unacknowledged byte.
///
/// # Errors
/// The errno of setsockopt(2): `EINVAL` where the kernel lacks TCP stamps (before 4.1).
pub fn enable(socket: &Socket) -> io::Result<u32> {
    let fd = socket.as_raw_fd();
    if set_timestamping(fd, STAMP_FLAGS | libc::SOF_TIMESTAMPING_OPT_ID_TCP).is_ok() {
        return Ok(0);
    }
    let mut queued_bytes = 0;
    for _ in 0..ENABLE_TRIES {
        queued_bytes = unacknowledged_bytes(fd)?;
        set_timestamping(fd, STAMP_FLAGS)?;
        // An acknowledgement in between would shift all keys. The kernel counts afresh only when
        // the option is switched off and on.
        if unacknowledged_bytes(fd)? == queued_bytes {
            break;
        }
        set_timestamping(fd, RECEIVE_FLAGS)?;
    }
    set_timestamping(fd, STAMP_FLAGS)?;
    Ok(queued_bytes)
}

/// Switches receive stamps on, in any state of the connection.
///
/// # Errors
/// The errno of setsockopt(2).
pub fn enable_receive(socket: &Socket) -> io::Result<()> {
    set_timestamping(socket.as_raw_fd(), RECEIVE_FLAGS)
}

/// Switches stamps on for a socket whose sends are packets: each stamp comes with the packet.
///
/// # Errors
/// The errno of setsockopt(2).
pub fn enable_datagrams(socket: &Socket) -> io::Result<()> {
    let flags = libc::SOF_TIMESTAMPING_SOFTWARE
        | libc::SOF_TIMESTAMPING_RX_SOFTWARE
        | libc::SOF_TIMESTAMPING_TX_SOFTWARE;
    set_timestamping(socket.as_raw_fd(), flags)
}

/// setsockopt(`SO_TIMESTAMPING`) with these `SOF_TIMESTAMPING_*` bits.
fn set_timestamping(fd: RawFd, flags: u32) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<u32>()).expect("4 fits");
    // SAFETY: the option is an int; the pointer is valid for the 4 bytes during the call.
    let result = unsafe {
        libc::setsockopt(
            fd,
            libc::SOL_SOCKET,
            libc::SO_TIMESTAMPING,
            (&raw const flags).cast(),
            length,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Bytes sent and not yet acknowledged (tcp(7), `SIOCOUTQ`).
fn unacknowledged_bytes(fd: RawFd) -> io::Result<u32> {
    let mut bytes: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int through a pointer that is valid during the call.
    let result = unsafe { libc::ioctl(fd, libc::TIOCOUTQ, &raw mut bytes) };
    if result == 0 { Ok(bytes.cast_unsigned()) } else { Err(io::Error::last_os_error()) }
}

/// How often an acknowledgement may come at the wrong moment.
const ENABLE_TRIES: u32 = 8;
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();
const SCM_TIMESTAMPING_OLD: i32 = libc::SCM_TIMESTAMPING;
/// `SO_TIMESTAMPING_NEW`: the same with 64-bit times on every architecture.
const SCM_TIMESTAMPING_NEW: i32 = 65;

/// `ee_info` of a transmit stamp (`include/uapi/linux/errqueue.h`).
const SCM_TSTAMP_SND: u32 = 0;
const SCM_TSTAMP_SCHED: u32 = 1;
const SCM_TSTAMP_ACK: u32 = 2;

/// Hardware stamps are asked for as well: a card that was told to make them (by ptp4l or
/// hwstamp_ctl) then gives both kinds (`OPT_TX_SWHW`), any other ignores the request.
const STAMP_FLAGS: u32 = RECEIVE_FLAGS
    | libc::SOF_TIMESTAMPING_TX_SCHED
    | libc::SOF_TIMESTAMPING_TX_SOFTWARE
    | libc::SOF_TIMESTAMPING_TX_ACK
    | libc::SOF_TIMESTAMPING_TX_HARDWARE
    | libc::SOF_TIMESTAMPING_OPT_TX_SWHW
    | libc::SOF_TIMESTAMPING_OPT_ID
    | libc::SOF_TIMESTAMPING_OPT_TSONLY
    | libc::SOF_TIMESTAMPING_OPT_CMSG;

const RECEIVE_FLAGS: u32 = libc::SOF_TIMESTAMPING_SOFTWARE
    | libc::SOF_TIMESTAMPING_RX_SOFTWARE
    | libc::SOF_TIMESTAMPING_RAW_HARDWARE
    | libc::SOF_TIMESTAMPING_RX_HARDWARE;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn message(level: i32, kind: i32, data: &[u8]) -> Vec<u8> {
        let mut bytes = (HEADER_BYTES + data.len()).to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(data);
        bytes.resize(bytes.len().next_multiple_of(size_of::<usize>()), 0);
        bytes
    }

    fn times(sw: (i64, i64), hw: (i64, i64)) -> Vec<u8> {
        [sw.0, sw.1, 0, 0, hw.0, hw.1].iter().flat_map(|word| word.to_ne_bytes()).collect()
    }

    fn error(errno: i32, origin: u8, info: u32, key: u32) -> Vec<u8> {
        let mut bytes = errno.to_ne_bytes().to_vec();
        bytes.extend([origin, 0, 0, 0]);
        bytes.extend(info.to_ne_bytes());
        bytes.extend(key.to_ne_bytes());
        bytes
    }

    fn check(control: &[u8], expected: Decoded) {
        assert_eq!(decode(control), expected);
    }

    #[test]
    fn receive_stamps() {
        let sw = Some(Wall::from_ns(5_000_000_007));
        let control = message(libc::SOL_SOCKET, 37, &times((5, 7), (0, 0)));
        check(&control, Decoded { stamps: RxStamps { sw, hw: None }, transmit: None });
        let control = message(libc::SOL_SOCKET, 65, &times((5, 7), (1, 2)));
        let hw = Some(Phc::from_ns(1_000_000_002));
        check(&control, Decoded { stamps: RxStamps { sw, hw }, transmit: None });
    }

    #[test]
    fn transmit_stamps_of_both_families() {
        for (level, kind) in [(libc::SOL_IP, 11), (libc::SOL_IPV6, 25)] {
            let mut control = message(libc::SOL_SOCKET, 37, &times((1, 0), (0, 0)));
            control.extend(message(level, kind, &error(libc::ENOMSG, 4, 1, 47)));
            let stamp = decode(&control).tx_stamp();
            let stage = TxStage::Sched(Wall::from_ns(1_000_000_000));
            assert_eq!(stamp, Some(TxStamp { key: 47, stage }));
        }
    }

    #[test]
    fn real_errors_and_nonsense_are_no_stamps() {
        check(&message(libc::SOL_IP, 11, &error(libc::ECONNREFUSED, 2, 0, 0)), Decoded::default());
        check(&message(libc::SOL_SOCKET, 37, &times((-1, 0), (0, 1 << 40))), Decoded::default());
        check(&[], Decoded::default());
        check(&[0; 64], Decoded::default());
        check(&[0xff; 64], Decoded::default());
        let whole = message(libc::SOL_SOCKET, 37, &times((5, 7), (0, 0)));
        for cut in 0..whole.len() {
            check(&whole[..cut], Decoded::default());
        }
    }

    #[test]
    fn icmp_errors_are_known_from_the_others() {
        let of = |origin: u8| {
            let mut error = error(libc::EHOSTUNREACH, origin, 0, 0);
            [error[5], error[6]] = [3, 13];
            error
        };
        let found = |v6| Some(IcmpError { v6, kind: 3, code: 13 });
        for (level, kind, origin, expected) in [
            (libc::SOL_IP, 11, 2, found(false)),
            (libc::SOL_IPV6, 25, 3, found(true)),
            // Local, and a stamp.
            (libc::SOL_IP, 11, 1, None),
            (libc::SOL_IP, 11, 4, None),
            (libc::SOL_SOCKET, 37, 2, None),
        ] {
            let mut control = message(libc::SOL_SOCKET, 37, &times((1, 0), (0, 0)));
            control.extend(message(level, kind, &of(origin)));
            assert_eq!(decode_icmp(&control), expected, "{level} {kind} {origin}");
        }
        assert_eq!(decode_icmp(&message(libc::SOL_IP, 11, &[0; 4])), None);
        assert_eq!(decode_icmp(&[]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_decode(bytes in proptest::collection::vec(any::<u8>(), 0..512)) {
            let _ = (decode(&bytes).tx_stamp(), decode_icmp(&bytes));
        }
    }
}
