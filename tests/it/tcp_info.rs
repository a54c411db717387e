//! `TCP_INFO` against the kernel's own description of it, and against `ss` (iproute2) on the same
//! socket: the table's offsets, what this kernel fills, and the numbers themselves.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use rttscope::tcp_info::{KNOWN_BYTES, MEMBERS, Place, Raw, State, TcpInfo};

use crate::btf;
use crate::site::report_skip;

/// A connection on loopback: client and server.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// The kernel's `struct tcp_info`, or a reported skip.
fn described(test: &str) -> Option<btf::Struct> {
    let Ok(bytes) = std::fs::read(btf::VMLINUX) else {
        report_skip(test, "this kernel has no BTF");
        return None;
    };
    Some(btf::find(&bytes, "tcp_info").expect("BTF of every kernel has the struct"))
}

#[test]
fn every_offset_is_that_of_this_kernels_btf() {
    let Some(kernels) = described("tcp_info::every_offset") else { return };
    let mut checked = 0;
    for member in MEMBERS {
        let Some(&its) = kernels.members.get(&format!("tcpi_{}", member.name)) else { continue };
        let ours = match member.place {
            Place::Bytes { offset, width } => (8 * offset, 8 * width),
            Place::Bits { offset, shift, width, .. } => {
                (8 * offset + shift as usize, width as usize)
            }
        };
        assert_eq!(ours, (its.0 as usize, its.1 as usize), "{}", member.name);
        checked += 1;
    }
    // A newer kernel may have more than the table.
    assert_eq!(checked, kernels.members.len().min(MEMBERS.len()));
}

#[test]
fn what_this_kernel_fills_is_what_its_btf_says() {
    let Some(kernels) = described("tcp_info::what_this_kernel_fills") else { return };
    let (client, _server) = pair();
    let raw = Raw::of(&client).unwrap();
    assert_eq!(raw.length(), kernels.bytes as usize);
    let known: BTreeSet<String> =
        MEMBERS.iter().map(|member| format!("tcpi_{}", member.name)).collect();
    let theirs: BTreeSet<&String> =
        kernels.members.keys().filter(|name| known.contains(*name)).collect();
    let ours: Vec<String> =
        raw.members().iter().map(|member| format!("tcpi_{}", member.name)).collect();
    assert_eq!(ours.iter().collect::<BTreeSet<_>>(), theirs);
    if raw.length() <= KNOWN_BYTES {
        assert_eq!(theirs.len(), kernels.members.len(), "the table lacks members");
    }
}

#[test]
fn a_connection_tells_its_state_and_a_listener_its_queue() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let waiting = TcpInfo::of(&listener).unwrap();
    assert_eq!((waiting.state, waiting.unacked), (Some(State::Listen), Some(1)));
    let info = TcpInfo::of(&client).unwrap();
    assert_eq!((info.state, info.total_retrans), (Some(State::Established), Some(0)));
    assert!(info.rtt.unwrap() > std::time::Duration::ZERO);
    assert!(info.snd_ssthresh.is_none() && info.max_pacing_rate.is_none(), "unlimited");
}

#[test]
fn what_is_no_tcp_socket_is_an_error() {
    let udp = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    assert!(TcpInfo::of(&udp).is_err());
    assert!(TcpInfo::of(&std::fs::File::open("/dev/null").unwrap()).is_err());
}
