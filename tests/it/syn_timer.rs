//! SYNs timed in the kernel, on real interfaces: connections of kernel sockets flow in, the events
//! of the timer must tell what became of each. Needs root, and is skipped without.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use aya::programs::{ProgramError, SchedClassifier, TcAttachType};
use rttscope::sys::{AttachChoice, Attachment, Followed, Follower, Lost, SynTimer, SynTimerError};
use rttscope_ebpf::{AttemptEvent, Endpoint, kind, names};
use socket2::{Domain, Socket, Type};

use crate::kernel;
use crate::lab::{
    Lab, Namespace, PROBER_INTERFACE, PROBER_IPS, RESPONDER_INTERFACE, RESPONDER_IPS,
    interface_index, ip_of,
};
use crate::segment::{self, Segment};
use crate::site::report_skip;
use crate::turn::{self, Turn};

/// The block of local ports that timers here are opened for; below every ephemeral port.
const FIRST_PORT: u16 = 20_000;
const LAST_PORT: u16 = 20_063;

/// Nobody listens there.
const CLOSED_PORT: u16 = 9;

/// For what must happen, however busy the machine is.
const PATIENCE: Duration = Duration::from_secs(20);

#[test]
fn outcomes_by_the_best_way_and_ipv4() {
    let attachment = if has_tcx() { Attachment::Tcx } else { Attachment::Clsact };
    check_outcomes(AttachChoice::Auto, attachment, false);
}

#[test]
fn outcomes_over_tcx_and_ipv6() {
    if is_possible("outcomes", AttachChoice::Tcx) {
        check_outcomes(AttachChoice::Tcx, Attachment::Tcx, true);
    }
}

#[test]
fn outcomes_over_clsact_and_ipv4() {
    check_outcomes(AttachChoice::Clsact, Attachment::Clsact, false);
}

#[test]
fn outcomes_over_clsact_and_ipv6() {
    check_outcomes(AttachChoice::Clsact, Attachment::Clsact, true);
}

fn check_outcomes(choice: AttachChoice, attachment: Attachment, v6: bool) {
    let _turn = turn::wait_for(Turn::Shared);
    let Some((lab, mut timer)) = lab_and_timer("outcomes", choice) else { return };
    assert_eq!(timer.attachment(), None);
    let remote = ip_of(RESPONDER_IPS, v6);
    let listener = lab.responder.run(|| TcpListener::bind((remote, 0)).unwrap());
    let silent = silent_address(&lab, v6);
    for to in [remote, silent, ip_of(PROBER_IPS, v6)] {
        timer.follower().follow(SocketAddr::new(to, 0)).unwrap();
    }
    assert_eq!(timer.attachment(), Some(attachment));

    let open = listener.local_addr().unwrap();
    let closed = SocketAddr::new(remote, CLOSED_PORT);
    // An own address is reached over lo.
    let own = SocketAddr::new(ip_of(PROBER_IPS, v6), CLOSED_PORT);
    let mut expected = Vec::new();
    for (port, to, kinds) in [
        (FIRST_PORT, open, &[kind::OPEN, kind::COMPLETED][..]),
        (FIRST_PORT - 1, open, &[]),
        (FIRST_PORT + 1, SocketAddr::new(silent, CLOSED_PORT), &[]),
        (FIRST_PORT + 2, closed, &[kind::REFUSED]),
        (LAST_PORT + 1, closed, &[]),
        (FIRST_PORT, closed, &[kind::REFUSED]),
        (LAST_PORT, own, &[kind::REFUSED]),
        (LAST_PORT, open, &[kind::OPEN, kind::COMPLETED]),
    ] {
        let connected = lab.prober.run(|| connect(port, to));
        assert_eq!(connected.is_ok(), to == open, "{to}: {connected:?}");
        expected.extend(kinds.iter().map(|kind| (port, to, *kind)));
    }

    let events = events(&mut timer, expected.len());
    let mut last_ns = 0;
    for (event, (port, to, kind)) in events.iter().zip(expected) {
        assert_eq!(event.kind, kind, "{event:?}");
        assert_eq!(event.key.local.port_be, port.to_be_bytes(), "{event:?}");
        assert_eq!(event.key.remote, endpoint(to), "{event:?}");
        assert_eq!(event.retransmits(), 0, "{event:?}");
        assert!(event.sent.first_ns >= last_ns || kind == kind::COMPLETED, "{event:?}");
        assert!(event.rtt_ns() > 0 && event.rtt_ns() == event.elapsed_ns(), "{event:?}");
        last_ns = event.at_ns;
    }
    assert_eq!(timer.next_event(), None);
    assert_eq!(timer.lost(), Lost::default());
}

#[test]
fn a_retransmitted_syn_is_counted_and_the_answered_one_is_timed() {
    let _turn = turn::wait_for(Turn::Shared);
    let Some((lab, mut timer)) = lab_and_timer("retransmit", AttachChoice::Auto) else { return };
    let silent = silent_address(&lab, false);
    let to = SocketAddr::new(silent, CLOSED_PORT);
    timer.follower().follow(to).unwrap();
    let ended = std::thread::scope(|scope| {
        let attempt = scope.spawn(|| lab.prober.run(|| connect_within(FIRST_PORT, to, PATIENCE)));
        // The first SYN has left when its port is taken; then somebody comes to answer the next.
        wait_until("a SYN is under way", || {
            let table = lab.prober.run(|| std::fs::read_to_string("/proc/thread-self/net/tcp"));
            // The state, 02: SYN_SENT (include/net/tcp_states.h).
            table.unwrap().contains(&format!(":{CLOSED_PORT:04X} 02 "))
        });
        lab.responder.ip(&format!("link set {RESPONDER_INTERFACE} address {SILENT_MAC}")).unwrap();
        lab.responder.ip(&format!("address add {silent}/24 dev {RESPONDER_INTERFACE}")).unwrap();
        // Or it would ask for the prober's.
        attempt.join().unwrap()
    });
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    let [event] = events(&mut timer, 1)[..] else { panic!("one attempt, one event") };
    assert_eq!(event.kind, kind::REFUSED);
    assert!(event.retransmits() >= 1, "{event:?}");
    // Linux sends a SYN again after a second at the earliest (RFC 6298 section 2.1).
    assert!(event.elapsed_ns() - event.rtt_ns() >= 900_000_000, "{event:?}");
}

#[test]
fn an_interface_that_comes_back_is_followed() {
    let _turn = turn::wait_for(Turn::Shared);
    for choice in [AttachChoice::Tcx, AttachChoice::Clsact] {
        if !is_possible("comes_back", choice) {
            continue;
        }
        let Some((lab, mut timer)) = lab_and_timer("comes_back", choice) else { return };
        let to = SocketAddr::new(ip_of(RESPONDER_IPS, false), CLOSED_PORT);
        timer.follower().follow(to).unwrap();
        for _ in 0..3 {
            refused_with_an_event(&lab.prober, &mut timer, to);
            // It gets the same number again: the old one must have been forgotten.
            lab.prober.ip(&format!("link delete {PROBER_INTERFACE}")).unwrap();
            lab.join().unwrap();
        }
        refused_with_an_event(&lab.prober, &mut timer, to);
    }
}

#[test]
fn a_route_that_moves_is_followed() {
    let _turn = turn::wait_for(Turn::Shared);
    if !is_possible("moves", AttachChoice::Tcx) {
        return;
    }
    let Some((lab, timer)) = lab_and_timer("moves", AttachChoice::Tcx) else { return };
    lab.prober.ip("link add side0 type veth peer name side1").unwrap();
    for interface in ["side0", "side1"] {
        lab.prober.ip(&format!("link set {interface} up")).unwrap();
    }
    let far = SocketAddr::from(([10, 99, 0, 1], 80));
    let follower = timer.follower();
    let unreachable = follower.follow(far).unwrap_err();
    assert_eq!(unreachable.kind(), io::ErrorKind::NetworkUnreachable, "{unreachable}");

    let carries = |interface: &str| tcx_programs(&lab.prober, interface).len() == 2;
    let check = |route: &str, expected: [bool; 3]| {
        lab.prober.ip(&format!("route replace 10.99.0.0/24 {route}")).unwrap();
        let found = || [carries(PROBER_INTERFACE), carries("side0"), carries("side1")];
        wait_until(route, || found() == expected);
    };
    assert!(!carries(PROBER_INTERFACE));
    check("dev side0", [false, true, false]);
    // Where it was attached it stays so.
    check("nexthop dev side0 nexthop dev side1", [false, true, true]);
    check(&format!("via {} dev {PROBER_INTERFACE}", RESPONDER_IPS[0]), [true, true, true]);
    drop(timer);
    // A process that another test starts has every descriptor until it executes its program.
    wait_until("nothing carries the programs", || {
        [carries(PROBER_INTERFACE), carries("side0"), carries("side1")] == [false; 3]
    });
    assert_eq!(follower.follow(far).unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

/// A name that moves from address to address must not fill the keeper.
#[test]
fn an_address_that_a_name_has_left_is_followed_no_longer() {
    let _turn = turn::wait_for(Turn::Shared);
    if !is_possible("left", AttachChoice::Tcx) {
        return;
    }
    let Some((lab, timer)) = lab_and_timer("left", AttachChoice::Tcx) else { return };
    lab.prober.ip("link add side0 type veth peer name side1").unwrap();
    for interface in ["side0", "side1"] {
        lab.prober.ip(&format!("link set {interface} up")).unwrap();
    }
    let carries = |interface: &str| tcx_programs(&lab.prober, interface).len() == 2;
    let [left, kept] = [98, 99].map(|net| SocketAddr::from(([10, net, 0, 1], 80)));
    for net in ["10.98.0.0/24", "10.99.0.0/24"] {
        lab.prober.ip(&format!("route add {net} dev side0")).unwrap();
    }
    let followed = Followed::new(Some(timer.follower()));
    // Told of once, however often it is asked for, and whatever the port.
    followed.also([left, SocketAddr::new(left.ip(), 81)]);
    followed.also([left]);
    assert!(carries("side0"));
    followed.only(&[kept]);
    lab.prober.ip("route replace 10.98.0.0/24 dev side1").unwrap();
    let via = format!("via {} dev {PROBER_INTERFACE}", RESPONDER_IPS[0]);
    lab.prober.ip(&format!("route replace 10.99.0.0/24 {via}")).unwrap();
    wait_until("the address that is kept moves", || carries(PROBER_INTERFACE));
    // An answer comes after the round that has found it.
    timer.follower().follow(kept).unwrap();
    assert!(!carries("side1"), "the address that was left is still followed");
}

#[test]
fn many_addresses_are_followed_at_once_and_each_has_its_result() {
    let Some((lab, timer)) = lab_and_timer("many_addresses", AttachChoice::Auto) else { return };
    // More than are asked for in one go, on both families, every third without a route.
    let to: Vec<SocketAddr> = (0..300_u16)
        .map(|number| match number % 3 {
            0 => SocketAddr::from(([192, 0, 2, 1], number)),
            1 => SocketAddr::from(([10, 87, 0, 2], number)),
            _ => format!("[fd87::{number:x}]:1").parse().unwrap(),
        })
        .collect();
    let followed = timer.follower().follow_all(&to).unwrap();
    assert_eq!(followed.len(), to.len());
    for (to, followed) in to.iter().zip(followed) {
        let routed = to.ip() != IpAddr::from([192, 0, 2, 1]);
        assert_eq!(followed.is_ok(), routed, "{to}: {followed:?}");
        let kind = followed.err().map(|error| error.kind());
        assert!(
            kind.is_none_or(|kind| kind == io::ErrorKind::NetworkUnreachable),
            "{to}: {kind:?}"
        );
    }
    assert_eq!(timer.follower().follow_all(&[]).unwrap().len(), 0);
    drop(lab);
}

#[test]
fn the_zone_of_a_link_local_address_counts() {
    let _turn = turn::wait_for(Turn::Shared);
    let Some((lab, mut timer)) = lab_and_timer("zone", AttachChoice::Auto) else { return };
    let zone = lab.prober.run(|| interface_index(PROBER_INTERFACE).unwrap());
    let ip: Ipv6Addr = RESPONDER_IPS[2].parse().unwrap();
    let to = std::net::SocketAddrV6::new(ip, CLOSED_PORT, 0, zone).into();
    timer.follower().follow(to).unwrap();
    refused_with_an_event(&lab.prober, &mut timer, to);
}

/// A device without Ethernet headers, with a peer that refuses every connection.
#[test]
fn packets_without_ethernet_header_are_read() {
    let _turn = turn::wait_for(Turn::Shared);
    for choice in [AttachChoice::Tcx, AttachChoice::Clsact] {
        if !is_possible("tun", choice) {
            continue;
        }
        let Some((namespace, mut timer)) = namespace_and_timer("tun", choice) else { return };
        let mut tun = match namespace.run(|| kernel::tun("tun0")) {
            Ok(tun) => tun,
            Err(error) => return report_skip("syn_timer::tun", &format!("no tun: {error}")),
        };
        namespace.ip("address add 10.88.0.1/24 dev tun0").unwrap();
        namespace.ip("link set tun0 up").unwrap();
        let to = SocketAddr::from(([10, 88, 0, 2], CLOSED_PORT));
        timer.follower().follow(to).unwrap();
        std::thread::scope(|scope| {
            let connected =
                scope.spawn(|| namespace.run(|| connect_within(FIRST_PORT, to, PATIENCE)));
            let mut packet = [0; 2_048];
            let syn = loop {
                let length = tun.read(&mut packet).unwrap();
                if let Some(syn) = Segment::read(&packet[..length]) {
                    break syn;
                }
            };
            assert_eq!((syn.flags, syn.to.into()), (segment::SYN, to));
            tun.write_all(&syn.answer(segment::RST | segment::ACK).packet()).unwrap();
            let error = connected.join().unwrap().unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
        });
        let [event] = events(&mut timer, 1)[..] else { panic!("one attempt, one event") };
        assert_eq!((event.kind, event.key.remote), (kind::REFUSED, endpoint(to)), "{choice:?}");
    }
}

/// A tag of a VLAN arrives beside the packet, never in it: the kernel moves it there before
/// anybody looks (`skb_vlan_untag`). Only a real interface shows that.
#[test]
fn an_answer_with_a_vlan_tag_is_read() {
    let _turn = turn::wait_for(Turn::Shared);
    let Some((lab, mut timer)) = lab_and_timer("vlan", AttachChoice::Auto) else { return };
    timer.follower().follow(SocketAddr::new(ip_of(RESPONDER_IPS, false), 0)).unwrap();
    let packet_socket = |namespace: &Namespace, interface: &str| {
        namespace.run(|| kernel::packet_socket(interface_index(interface).unwrap()).unwrap())
    };
    let prober = packet_socket(&lab.prober, PROBER_INTERFACE);
    let responder = packet_socket(&lab.responder, RESPONDER_INTERFACE);
    // Addresses that no host here has: no stack joins in.
    let syn = Segment {
        from: SocketAddrV4::new([192, 0, 2, 1].into(), FIRST_PORT),
        to: SocketAddrV4::new([192, 0, 2, 2].into(), 443),
        sequence: 7,
        acknowledgement: 0,
        flags: segment::SYN,
    };
    let frame = |tag: &[u8], segment: Segment| {
        let ethernet = [[2, 0, 0, 0, 0, 9], [2, 0, 0, 0, 0, 8]].concat();
        [&ethernet[..], tag, &[8, 0], &segment.packet()].concat()
    };
    rustix::io::write(&prober, &frame(&[], syn)).unwrap();
    // IEEE 802.1Q: the tag's protocol, and VLAN 5.
    let answer = frame(&[0x81, 0, 0, 5], syn.answer(segment::SYN | segment::ACK));
    rustix::io::write(&responder, &answer).unwrap();
    let [event] = events(&mut timer, 1)[..] else { panic!("one attempt, one event") };
    assert_eq!((event.kind, event.sent.sequence), (kind::OPEN, 7));
    assert_eq!(event.key.remote, endpoint(syn.to.into()));
}

#[test]
fn timers_at_one_interface_leave_each_other_alone() {
    let _turn = turn::wait_for(Turn::Shared);
    for choice in [AttachChoice::Tcx, AttachChoice::Clsact] {
        if !is_possible("two_timers", choice) {
            continue;
        }
        let Some((lab, mut first)) = lab_and_timer("two_timers", choice) else { return };
        let to = SocketAddr::new(ip_of(RESPONDER_IPS, false), CLOSED_PORT);
        first.follower().follow(to).unwrap();
        let mut second =
            lab.prober.run(|| SynTimer::open_with(FIRST_PORT..=LAST_PORT, choice).unwrap());
        second.follower().follow(to).unwrap();
        lab.prober.run(|| connect(FIRST_PORT, to).unwrap_err());
        for timer in [&mut first, &mut second] {
            assert_eq!(events(timer, 1)[0].kind, kind::REFUSED, "{choice:?}");
        }
        drop(second);
        refused_with_an_event(&lab.prober, &mut first, to);
    }
}

#[test]
fn events_without_room_are_counted() {
    let _turn = turn::wait_for(Turn::Shared);
    let name = "full";
    let Some((namespace, mut timer)) = namespace_and_timer(name, AttachChoice::Auto) else {
        return;
    };
    // The ring has room for some 12,000.
    let attempts = 14_000;
    namespace.run(|| {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, CLOSED_PORT));
        timer.follower().follow(to).unwrap();
        for (_, port) in (0..attempts).zip((FIRST_PORT..=LAST_PORT).cycle()) {
            connect(port, to).unwrap_err();
        }
    });
    wait_until("the sum is known", || timer.lost().events > 0);
    let mut told = 0;
    while timer.next_event().is_some() {
        told += 1;
    }
    assert!(told > 1_000, "{told}");
    assert_eq!(timer.close(), Lost { events: attempts - told, attempts: 0 });
}

#[test]
fn a_killed_process_leaves_nothing_of_tcx() {
    let _turn = turn::wait_for(Turn::Shared);
    let choice = AttachChoice::Tcx;
    if !is_possible("killed", choice) {
        return;
    }
    let Some((namespace, timer)) = namespace_and_timer("killed", choice) else { return };
    drop(timer);
    let mut holder = Role::HoldTcx.holder(&namespace);
    assert_eq!(tcx_programs(&namespace, "lo"), [names::EGRESS, names::INGRESS]);
    holder.kill().unwrap();
    holder.wait().unwrap();
    wait_until("tcx lets go", || tcx_programs(&namespace, "lo").is_empty());
}

#[test]
fn filters_of_killed_processes_are_removed_by_the_next() {
    let _turn = turn::wait_for(Turn::Shared);
    let choice = AttachChoice::Clsact;
    let Some((namespace, timer)) = namespace_and_timer("killed", choice) else { return };
    drop(timer);
    namespace.ip("link add side0 type veth peer name side1").unwrap();
    namespace.ip("link set side0 up").unwrap();
    namespace.ip(&format!("route add {SIDE}/32 dev side0")).unwrap();
    let mut killed = [Role::HoldClsact.holder(&namespace), Role::HoldClsact.holder(&namespace)];
    let mut living = Role::HoldClsact.holder(&namespace);
    let filters = || [clsact_filters(&namespace, "lo"), clsact_filters(&namespace, "side0")];
    assert_eq!(filters(), [6, 6]);
    for holder in &mut killed {
        holder.kill().unwrap();
        holder.wait().unwrap();
    }
    assert_eq!(filters(), [6, 6], "what this test is about");
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, CLOSED_PORT));
    let mut next = namespace.run(|| SynTimer::open_with(FIRST_PORT..=LAST_PORT, choice).unwrap());
    next.follower().follow(to).unwrap();
    assert_eq!(filters(), [4, 2]);
    refused_with_an_event(&namespace, &mut next, to);
    drop(next);
    assert_eq!(filters(), [2, 2]);
    // Told to end, it takes its own along.
    drop(living.stdin.take());
    assert!(living.wait().unwrap().success());
    assert_eq!(filters(), [0, 0]);
}

#[test]
fn filters_of_others_stay() {
    let _turn = turn::wait_for(Turn::Shared);
    let choice = AttachChoice::Clsact;
    let Some((namespace, timer)) = namespace_and_timer("others", choice) else { return };
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, CLOSED_PORT));
    timer.follower().follow(to).unwrap();
    drop(timer);
    assert_eq!(clsact_filters(&namespace, "lo"), 0);

    // An underscore is a space inside a word.
    let tc = |words: &str| {
        let words = words.split(' ').map(|word| word.replace('_', " "));
        let output = namespace.run(|| Command::new("tc").args(words.clone()).output().unwrap());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    // Classic programs, which have no name: one in front of ours, one at our very place.
    let add = "filter add dev lo egress protocol all";
    tc(&format!("{add} prio 1 handle 1 bpf bytecode 1,6_0_0_0,"));
    tc(&format!("{add} prio 7 handle 0x72730001 bpf bytecode 1,6_0_0_0,"));
    let theirs = || tc("filter show dev lo egress").matches("bytecode").count();
    assert_eq!(theirs(), 2);
    let timer = namespace.run(|| SynTimer::open_with(FIRST_PORT..=LAST_PORT, choice).unwrap());
    let refused = timer.follower().follow(to).unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AlreadyExists, "{refused}");
    tc("filter delete dev lo egress protocol all prio 7 handle 0x72730001 bpf");
    // Tried again by itself.
    wait_until("the place is free", || clsact_filters(&namespace, "lo") == 2);
    assert_eq!(theirs(), 1);
    drop(timer);
    assert_eq!((clsact_filters(&namespace, "lo"), theirs()), (0, 1));
}

#[test]
fn two_capabilities_are_enough_and_only_the_keeper_keeps_them() {
    let _turn = turn::wait_for(Turn::Shared);
    let name = "two_capabilities";
    let Some((namespace, timer)) = namespace_and_timer(name, AttachChoice::Auto) else { return };
    drop(timer);
    for role in [Role::DropTcx, Role::DropClsact] {
        if role == Role::DropTcx && !is_possible(name, AttachChoice::Tcx) {
            continue;
        }
        let said = namespace.run(|| as_nobody(role, "-all,+bpf,+net_admin"));
        let Ok(said) = said else { return report_skip(name, "no `setpriv` on the search path") };
        assert!(said.contains(FOLLOWED_WITHOUT), "{said}");
    }
}

#[test]
fn without_capabilities_the_remedy_is_named() {
    let _turn = turn::wait_for(Turn::Shared);
    let name = "no_capabilities";
    if !rustix::process::geteuid().is_root() {
        return report_skip(name, "only root can become somebody else");
    }
    for (capabilities, missing) in [
        ("-all", "CAP_BPF and CAP_NET_ADMIN:"),
        ("-all,+bpf", "needs CAP_NET_ADMIN:"),
        ("-all,+net_admin", "needs CAP_BPF:"),
    ] {
        let Ok(said) = as_nobody(Role::Refused, capabilities) else {
            return report_skip(name, "no `setpriv` on the search path");
        };
        assert!(said.contains(missing), "{capabilities}: {said}");
        assert!(said.contains("setcap cap_bpf,cap_net_admin+ep"), "{capabilities}: {said}");
    }
}

/// What this test program does when it is started again by one of its tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    HoldTcx,
    HoldClsact,
    DropTcx,
    DropClsact,
    Refused,
}

const ROLE: &str = "RTTSCOPE_SYN_TIMER_ROLE";
/// An address that holders follow besides their own.
const SIDE: Ipv4Addr = Ipv4Addr::new(10, 98, 0, 1);
const HELD: &str = "held until killed";
const FOLLOWED_WITHOUT: &str = "followed without capabilities";

/// Not a test of its own: the other process of those that need one.
#[test]
fn another_process() {
    let Some(role) = Role::of_this_process() else { return };
    let choice = match role {
        Role::HoldTcx | Role::DropTcx => AttachChoice::Tcx,
        Role::HoldClsact | Role::DropClsact => AttachChoice::Clsact,
        Role::Refused => AttachChoice::Auto,
    };
    let opened = SynTimer::open_with(FIRST_PORT..=LAST_PORT, choice);
    if role == Role::Refused {
        let error = opened.err().unwrap();
        assert!(matches!(error, SynTimerError::NotPermitted { .. }), "{error:?}");
        return say(&error.to_string());
    }
    let mut timer = opened.unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, CLOSED_PORT));
    if matches!(role, Role::HoldTcx | Role::HoldClsact) {
        timer.follower().follow(to).unwrap();
        // If the test has made a route to it.
        let _unreachable = timer.follower().follow(SocketAddr::from((SIDE, CLOSED_PORT)));
        say(HELD);
        // Until killed, or told to end by the end of its input.
        let _end = io::stdin().read(&mut [0]);
        return;
    }
    rttscope::sys::drop_capabilities().unwrap();
    let held = rustix::thread::capabilities(None).unwrap();
    assert!(held.effective.is_empty() && held.permitted.is_empty(), "{held:?}");
    assert!(held.inheritable.is_empty(), "{held:?}");
    assert!(SynTimer::open(FIRST_PORT..=LAST_PORT).is_err(), "they are gone");
    timer.follower().follow(to).unwrap();
    connect(FIRST_PORT, to).unwrap_err();
    assert_eq!(events(&mut timer, 1)[0].kind, kind::REFUSED);
    drop(timer);
    say(FOLLOWED_WITHOUT);
}

impl Role {
    const ALL: [Self; 5] =
        [Self::HoldTcx, Self::HoldClsact, Self::DropTcx, Self::DropClsact, Self::Refused];

    fn of_this_process() -> Option<Self> {
        let name = std::env::var(ROLE).ok()?;
        Self::ALL.into_iter().find(|role| format!("{role:?}") == name)
    }

    /// A process that has a timer and holds it.
    fn holder(self, namespace: &Namespace) -> Child {
        let program = Command::new(std::env::current_exe().unwrap());
        let mut child = namespace.run(|| self.start(program).unwrap());
        let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap() == HELD), "{self:?} never held anything");
        child
    }

    fn start(self, mut command: Command) -> io::Result<Child> {
        command
            .args(["--exact", "syn_timer::another_process", "--nocapture"])
            .env(ROLE, format!("{self:?}"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
    }
}

/// Plays a role as a user without a name who has these capabilities only; what it said.
fn as_nobody(role: Role, capabilities: &str) -> io::Result<String> {
    let folder = tempfile::tempdir()?;
    // Another user may not reach the build folder.
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o755))?;
    let program = folder.path().join("it");
    std::fs::copy(std::env::current_exe()?, &program)?;
    let mut command = Command::new("setpriv");
    command
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"])
        .arg(format!("--inh-caps={capabilities}"))
        .arg(format!("--ambient-caps={capabilities}"))
        .arg(format!("--bounding-set={capabilities}"))
        .arg(&program)
        .current_dir("/");
    let output = role.start(command)?.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(output.status.success(), "{role:?} {capabilities}: {said}");
    Ok(said)
}

#[expect(clippy::print_stdout, reason = "what another process tells the test")]
fn say(line: &str) {
    println!("\n{line}");
}

fn lab_and_timer(test: &str, choice: AttachChoice) -> Option<(Lab, SynTimer)> {
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(error) => return skip(test, &format!("no namespaces: {error}")),
    };
    let timer = timer_in(&lab.prober, test, choice)?;
    Some((lab, timer))
}

fn namespace_and_timer(test: &str, choice: AttachChoice) -> Option<(Namespace, SynTimer)> {
    let namespace = match Namespace::new() {
        Ok(namespace) => namespace,
        Err(error) => return skip(test, &format!("no namespaces: {error}")),
    };
    let timer = timer_in(&namespace, test, choice)?;
    Some((namespace, timer))
}

/// Where somebody forbids eBPF there is nothing to test; any other refusal is a failure.
fn timer_in(namespace: &Namespace, test: &str, choice: AttachChoice) -> Option<SynTimer> {
    match namespace.run(|| SynTimer::open_with(FIRST_PORT..=LAST_PORT, choice)) {
        Ok(timer) => Some(timer),
        Err(error @ (SynTimerError::NotPermitted { .. } | SynTimerError::Refused(_))) => {
            skip(test, &error.to_string())
        }
        Err(error) => panic!("{error}"),
    }
}

/// Whether this kernel can attach like this; says so if it cannot.
fn is_possible(test: &str, choice: AttachChoice) -> bool {
    let possible = choice != AttachChoice::Tcx || has_tcx();
    if !possible {
        report_skip(&format!("syn_timer::{test}"), "no tcx before Linux 6.6");
    }
    possible
}

/// Whoever may not ask is told elsewhere.
fn has_tcx() -> bool {
    let asked = SchedClassifier::query_tcx("lo", TcAttachType::Egress);
    let refused = asked.err().and_then(|error| match error {
        ProgramError::SyscallError(error) => error.io_error.raw_os_error(),
        _ => None,
    });
    refused != Some(libc::EINVAL)
}

fn skip<T>(test: &str, reason: &str) -> Option<T> {
    report_skip(&format!("syn_timer::{test}"), reason);
    None
}

/// A neighbour whom every packet reaches by its hardware address, and who does not exist.
fn silent_address(lab: &Lab, v6: bool) -> IpAddr {
    let silent: IpAddr = if v6 { "fd87::99" } else { "10.87.0.99" }.parse().unwrap();
    let words = format!("neighbour add {silent} lladdr {SILENT_MAC} dev {PROBER_INTERFACE}");
    lab.prober.ip(&words).unwrap();
    silent
}

const SILENT_MAC: &str = "02:00:00:00:00:99";

/// Connects from a port, and resets the connection at once.
fn connect(port: u16, to: SocketAddr) -> io::Result<()> {
    connect_within(port, to, Duration::from_millis(300))
}

fn connect_within(port: u16, to: SocketAddr, timeout: Duration) -> io::Result<()> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    socket.set_linger(Some(Duration::ZERO))?;
    socket.set_reuse_address(true)?;
    let any: IpAddr = match to {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    socket.bind(&SocketAddr::new(any, port).into())?;
    socket.connect_timeout(&to.into(), timeout)
}

/// Connects until there is an event, and takes all.
fn refused_with_an_event(place: &Namespace, timer: &mut SynTimer, to: SocketAddr) {
    wait_until("an event", || {
        place.run(|| connect(FIRST_PORT, to).unwrap_err());
        let event = timer.next_event();
        assert!(event.is_none_or(|event| event.kind == kind::REFUSED), "{event:?}");
        event.is_some()
    });
    while timer.next_event().is_some() {}
}

/// So many events, no more and no less at that moment.
fn events(timer: &mut SynTimer, count: usize) -> Vec<AttemptEvent> {
    let mut events = Vec::new();
    wait_until(&format!("{count} events"), || {
        events.extend(std::iter::from_fn(|| timer.next_event()));
        events.len() >= count
    });
    assert_eq!(events.len(), count, "{events:#?}");
    events
}

fn endpoint(at: SocketAddr) -> Endpoint {
    let port_be = at.port().to_be_bytes();
    match at.ip() {
        IpAddr::V4(ip) => Endpoint::v4(ip.octets(), port_be),
        IpAddr::V6(ip) => Endpoint::v6(ip.octets(), port_be),
    }
}

/// The programs of ours at an interface by tcx: at egress, then at ingress.
fn tcx_programs(namespace: &Namespace, interface: &str) -> Vec<String> {
    namespace.run(|| {
        let at = |direction| {
            let (_, programs) = SchedClassifier::query_tcx(interface, direction).unwrap();
            programs.into_iter().map(|program| program.name_as_str().unwrap().to_owned())
        };
        at(TcAttachType::Egress).chain(at(TcAttachType::Ingress)).collect()
    })
}

/// How many filters of ours there are at an interface by clsact.
fn clsact_filters(namespace: &Namespace, interface: &str) -> usize {
    let count = |direction: &str, program: &str| {
        let words = ["filter", "show", "dev", interface, direction];
        let output = namespace.run(|| Command::new("tc").args(words).output().unwrap());
        assert!(output.status.success(), "{output:?}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.lines().filter(|line| line.contains(program)).count()
    };
    count("egress", names::EGRESS) + count("ingress", names::INGRESS)
}

fn wait_until(what: &str, mut done: impl FnMut() -> bool) {
    let started = Instant::now();
    while !done() {
        assert!(started.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The control plane hands these to its tasks.
#[test]
fn handles_may_travel() {
    fn check<T: Send>() {}
    check::<SynTimer>();
    check::<(Follower, Lost)>();
}
