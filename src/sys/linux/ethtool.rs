//! The interfaces of this network namespace and the stamps that their drivers can give, by the
//! ioctls of netdevice(7) and ethtool (include/uapi/linux/ethtool.h): none of them needs a
//! privilege. `/sys/class/net` would show those of the namespace that mounted it.

use std::ffi::CStr;
use std::io;
use std::os::fd::AsRawFd;

use socket2::{Domain, Socket, Type};

use crate::host::{Interface, InterfaceStamps};

/// `struct ethtool_ts_info`.
#[repr(C)]
#[derive(Default)]
struct TsInfo {
    command: u32,
    so_timestamping: u32,
    phc_index: i32,
    tx_types: u32,
    tx_reserved: [u32; 3],
    rx_filters: u32,
    rx_reserved: [u32; 3],
}

/// `struct ethtool_drvinfo`.
#[repr(C)]
struct DriverInfo {
    command: u32,
    driver: [u8; 32],
    rest: [u8; 160],
}

/// `struct hwtstamp_config` (include/uapi/linux/net_tstamp.h).
#[repr(C)]
#[derive(Default)]
struct StampConfig {
    flags: i32,
    tx_type: i32,
    rx_filter: i32,
}

/// The first [`INTERFACES_MAX`], and how many more there are.
pub(super) fn interfaces() -> (Vec<Interface>, usize) {
    let names = names();
    let left_out = names.len().saturating_sub(INTERFACES_MAX);
    let Ok(socket) = Socket::new(Domain::IPV4, Type::DGRAM, None) else {
        return (Vec::new(), names.len());
    };
    let shown = names.into_iter().take(INTERFACES_MAX);
    (shown.map(|name| interface(&socket, name)).collect(), left_out)
}

/// Names by their numbers' order.
fn names() -> Vec<String> {
    // SAFETY: takes nothing, and gives a list that is ours to free, or null.
    let list = unsafe { libc::if_nameindex() };
    let mut names = Vec::new();
    if list.is_null() {
        return names;
    }
    let mut next = list;
    loop {
        // SAFETY: the list ends with an entry whose name is null, and we have not gone beyond it.
        let entry = unsafe { &*next };
        if entry.if_name.is_null() {
            break;
        }
        // SAFETY: every other entry's name is a string with its nul, alive until the list is freed.
        let name = unsafe { CStr::from_ptr(entry.if_name) };
        names.push(name.to_string_lossy().into_owned());
        // SAFETY: there is at least the last entry behind this one.
        next = unsafe { next.add(1) };
    }
    // SAFETY: it is the list from above, freed once, and nothing refers to it any more.
    unsafe { libc::if_freenameindex(list) };
    names
}

fn interface(socket: &Socket, name: String) -> Interface {
    let flags = flags(socket, &name).unwrap_or(0);
    let mut driver = DriverInfo { command: ETHTOOL_GDRVINFO, driver: [0; 32], rest: [0; 160] };
    let driver = ask(socket, &name, SIOCETHTOOL, &mut driver).ok().and_then(|()| {
        let text = CStr::from_bytes_until_nul(&driver.driver).ok()?.to_str().ok()?;
        (!text.is_empty()).then(|| text.to_owned())
    });
    let mut info = TsInfo { command: ETHTOOL_GET_TS_INFO, ..TsInfo::default() };
    let stamps = ask(socket, &name, SIOCETHTOOL, &mut info).ok().map(|()| stamps(&info));
    let mut config = StampConfig::default();
    let hardware_on = ask(socket, &name, SIOCGHWTSTAMP, &mut config)
        .ok()
        .map(|()| (config.tx_type, config.rx_filter) == (HWTSTAMP_TX_ON, HWTSTAMP_FILTER_ALL));
    Interface {
        name,
        up: flags & libc::IFF_UP != 0,
        loopback: flags & libc::IFF_LOOPBACK != 0,
        driver,
        stamps,
        hardware_on,
    }
}

fn stamps(info: &TsInfo) -> InterfaceStamps {
    let can = |flag: u32| info.so_timestamping & flag != 0;
    let named = |names: &[&'static str], bits: u32| {
        let numbered = names.iter().zip(0_u32..);
        numbered.filter(|(_, bit)| bits & (1 << bit) != 0).map(|(name, _)| *name).collect()
    };
    InterfaceStamps {
        tx_software: can(libc::SOF_TIMESTAMPING_TX_SOFTWARE),
        rx_software: can(libc::SOF_TIMESTAMPING_RX_SOFTWARE),
        tx_hardware: can(libc::SOF_TIMESTAMPING_TX_HARDWARE),
        rx_hardware: can(libc::SOF_TIMESTAMPING_RX_HARDWARE),
        // −1 is none.
        phc: u32::try_from(info.phc_index).ok(),
        tx_types: named(&TX_TYPES, info.tx_types),
        rx_filters: named(&RX_FILTERS, info.rx_filters),
    }
}

/// A request with the interface's name in it; `None` if the name is too long to be one.
fn request(name: &str) -> Option<libc::ifreq> {
    // SAFETY: ifreq is characters, numbers and pointers, for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // The last byte stays 0.
    if name.len() >= request.ifr_name.len() {
        return None;
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    Some(request)
}

/// `SIOCGIFFLAGS`.
fn flags(socket: &Socket, name: &str) -> Option<i32> {
    let mut request = request(name)?;
    // SAFETY: the kernel reads the name and writes the flags of a request that is ours.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), SIOCGIFFLAGS as _, &raw mut request) };
    // SAFETY: after success the kernel has written this member, and before it was zero.
    (result == 0).then(|| i32::from(unsafe { request.ifr_ifru.ifru_flags }))
}

/// An ioctl(2) whose request points to `data`, which the kernel reads and writes.
fn ask<T>(socket: &Socket, name: &str, number: u32, data: &mut T) -> io::Result<()> {
    let mut request = request(name).ok_or(io::ErrorKind::InvalidInput)?;
    request.ifr_ifru.ifru_data = std::ptr::from_mut(data).cast();
    // SAFETY: the request points to `data`, which is borrowed until after the call and is the
    // whole structure that this number's handler reads and writes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), number as _, &raw mut request) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Interfaces that are asked: a host with thousands of containers has thousands.
const INTERFACES_MAX: usize = 1_024;
/// include/uapi/linux/sockios.h.
const SIOCGIFFLAGS: u32 = 0x8913;
const SIOCETHTOOL: u32 = 0x8946;
const SIOCGHWTSTAMP: u32 = 0x89b1;
const ETHTOOL_GDRVINFO: u32 = 0x03;
const ETHTOOL_GET_TS_INFO: u32 = 0x41;
/// `enum hwtstamp_tx_types` by number.
const TX_TYPES: [&str; 4] = ["off", "on", "onestep_sync", "onestep_p2p"];
const HWTSTAMP_TX_ON: i32 = 1;
/// `enum hwtstamp_rx_filters` by number.
const RX_FILTERS: [&str; 16] = [
    "none",
    "all",
    "some",
    "ptpv1_l4_event",
    "ptpv1_l4_sync",
    "ptpv1_l4_delay_req",
    "ptpv2_l4_event",
    "ptpv2_l4_sync",
    "ptpv2_l4_delay_req",
    "ptpv2_l2_event",
    "ptpv2_l2_sync",
    "ptpv2_l2_delay_req",
    "ptpv2_event",
    "ptpv2_sync",
    "ptpv2_delay_req",
    "ntp_all",
];
const HWTSTAMP_FILTER_ALL: i32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structures_are_as_long_as_the_kernels() {
        assert_eq!(size_of::<TsInfo>(), 44);
        assert_eq!(size_of::<DriverInfo>(), 196);
        assert_eq!(size_of::<StampConfig>(), 12);
    }

    #[test]
    fn bits_become_names() {
        let info = TsInfo {
            so_timestamping: libc::SOF_TIMESTAMPING_TX_HARDWARE
                | libc::SOF_TIMESTAMPING_RX_HARDWARE
                | libc::SOF_TIMESTAMPING_RX_SOFTWARE,
            phc_index: 3,
            tx_types: 0b11,
            rx_filters: 1 << 1 | 1 << 12,
            ..TsInfo::default()
        };
        let expected = InterfaceStamps {
            tx_software: false,
            rx_software: true,
            tx_hardware: true,
            rx_hardware: true,
            phc: Some(3),
            tx_types: vec!["off", "on"],
            rx_filters: vec!["all", "ptpv2_event"],
        };
        assert_eq!(stamps(&info), expected);
        assert_eq!(stamps(&TsInfo { phc_index: -1, ..TsInfo::default() }).phc, None);
    }

    #[test]
    fn loopback_is_known_and_a_name_that_is_too_long_is_nobodys() {
        let (interfaces, left_out) = interfaces();
        assert_eq!(left_out, 0);
        let loopback = interfaces.iter().find(|interface| interface.name == "lo");
        let loopback = loopback.expect("every namespace has one");
        assert!(loopback.loopback);
        assert!(loopback.stamps.as_ref().is_some_and(|stamps| stamps.rx_software));
        assert!(request("a-name-of-17-bytes").is_none());
        assert!(request("fifteen-bytes-x").is_some());
    }
}
