//! Where the TCP header is: the same two conversations in every shape that a packet can have. A
//! shape flows in; either all events come, with the right key, or none.

use rttscope_ebpf::kind;

use crate::frames::{ACK, DESTINATION, FRAGMENT, HOP_BY_HOP, ROUTING, RST, SYN, Shape, Tcp, Way};
use crate::loaded::{Event, Loaded, key};

const VLAN: u16 = 0x8100;
const SERVICE_VLAN: u16 = 0x88a8;
const MORE_FRAGMENTS_V4: u16 = 0x2000;
const DONT_FRAGMENT: u16 = 0x4000;
const AUTHENTICATION: u8 = 51;
const NO_NEXT_HEADER: u8 = 59;

/// An open port whose handshake is completed, then a closed one.
fn check(loaded: &Loaded, name: &str, shape: &Shape, seen: bool) {
    let script = [
        (Way::Out, Tcp::new(SYN, 1_000, 0)),
        (Way::In, Tcp::new(SYN | ACK, 9_000, 1_001)),
        (Way::Out, Tcp::new(ACK, 1_001, 9_001)),
        (Way::Out, Tcp::new(SYN, 2_000, 0)),
        (Way::In, Tcp::new(RST | ACK, 0, 2_001)),
    ];
    for (way, tcp) in script {
        assert!(loaded.pass(way, &shape.frame(way, tcp)), "{name}: refused");
    }
    let events = loaded.events();
    let found: Vec<(u32, u32)> = events.iter().map(|it| (it.kind, it.sequence)).collect();
    let all = [(kind::OPEN, 1_000), (kind::COMPLETED, 1_000), (kind::REFUSED, 2_000)];
    assert_eq!(found, if seen { all.as_slice() } else { &[] }, "{name}");
    assert!(events.iter().all(|event| event.key == key(shape.v6)), "{name}: {events:?}");
    assert!(events.iter().all(|event| event.syns == 1 && is_ordered(event)), "{name}: {events:?}");
    assert_eq!(loaded.attempts(), 0, "{name}: nothing is left behind");
}

fn is_ordered(event: &Event) -> bool {
    event.first_ns > 0 && event.first_ns <= event.last_ns && event.last_ns < event.at_ns
}

fn v4(change: impl FnOnce(&mut Shape)) -> Shape {
    let mut shape = Shape::plain(false);
    change(&mut shape);
    shape
}

fn v6(change: impl FnOnce(&mut Shape)) -> Shape {
    let mut shape = Shape::plain(true);
    change(&mut shape);
    shape
}

#[test]
fn ipv4_in_every_shape() {
    let Some(loaded) = Loaded::new("ipv4_in_every_shape") else { return };
    let check = |name: &str, shape: Shape, seen: bool| check(&loaded, name, &shape, seen);
    check("plain", v4(|_| ()), true);
    for bytes in (4..=40).step_by(4) {
        check("options", v4(|it| it.ip_options = bytes), true);
    }
    check("do not fragment", v4(|it| it.fragment = DONT_FRAGMENT), true);
    check("first fragment", v4(|it| it.fragment = MORE_FRAGMENTS_V4), true);
    for offset in [1, 2, 185, 0x1fff] {
        check("last fragment", v4(|it| it.fragment = offset), false);
        check("fragment", v4(|it| it.fragment = MORE_FRAGMENTS_V4 | offset), false);
    }
    for protocol in (0..=255).filter(|&it| it != 6) {
        check("other protocol", v4(|it| it.protocol = protocol), false);
    }
    for first in [0x44, 0x40, 0x55, 0x65, 0x05, 0x00] {
        check("version or length", v4(|it| it.version_and_words = Some(first)), false);
    }
    check("header beyond the end", v4(|it| it.version_and_words = Some(0x4f)), false);
    check("too short a length", v4(|it| it.length_error = -1), false);
    check("other frame", v4(|it| it.ether_type = Some(0x0806)), false);
    check("the other IP's frame", v4(|it| it.ether_type = Some(0x86dd)), false);
}

#[test]
fn ipv6_in_every_shape() {
    let Some(loaded) = Loaded::new("ipv6_in_every_shape") else { return };
    let check = |name: &str, shape: Shape, seen: bool| check(&loaded, name, &shape, seen);
    check("plain", v6(|_| ()), true);
    for number in [HOP_BY_HOP, ROUTING, DESTINATION] {
        for eights in [0, 1, 2, 20] {
            check("one extension", v6(|it| it.extensions = vec![(number, eights)]), true);
        }
        let end = u8::MAX;
        check("a long extension", v6(|it| it.extensions = vec![(number, end)]), true);
    }
    let all = vec![(HOP_BY_HOP, 0), (DESTINATION, 1), (ROUTING, 2), (FRAGMENT, 0)];
    check("four extensions", v6(|it| it.extensions.clone_from(&all)), true);
    check("six extensions", v6(|it| it.extensions = vec![(DESTINATION, 0); 6]), true);
    check("seven extensions", v6(|it| it.extensions = vec![(DESTINATION, 0); 7]), false);
    let fragment = |field: u16| {
        v6(|it| {
            it.extensions = vec![(FRAGMENT, 0)];
            it.fragment = field;
        })
    };
    check("whole in one fragment", fragment(0), true);
    check("first fragment", fragment(1), true);
    for field in [1 << 3, 1 << 3 | 1, 185 << 3, 0xfff8] {
        check("later fragment", fragment(field), false);
    }
    for protocol in [AUTHENTICATION, NO_NEXT_HEADER, 17, 58, 255] {
        check("other protocol", v6(|it| it.protocol = protocol), false);
        let behind = v6(|it| {
            it.extensions.clone_from(&all);
            it.protocol = protocol;
        });
        check("other protocol behind extensions", behind, false);
    }
    check("too short a length", v6(|it| it.length_error = -1), false);
    check("other frame", v6(|it| it.ether_type = Some(0x0806)), false);
    check("the other IP's frame", v6(|it| it.ether_type = Some(0x0800)), false);
}

#[test]
fn tagged_frames() {
    let Some(loaded) = Loaded::new("tagged_frames") else { return };
    for base in [false, true] {
        let tagged = |tags: &[u16], seen: bool| {
            let mut shape = Shape::plain(base);
            shape.tags = tags.to_vec();
            check(&loaded, &format!("{tags:04x?}"), &shape, seen);
        };
        tagged(&[VLAN], true);
        tagged(&[SERVICE_VLAN], true);
        tagged(&[SERVICE_VLAN, VLAN], true);
        tagged(&[VLAN, VLAN], true);
        tagged(&[VLAN, VLAN, VLAN], false);
        tagged(&[0x9100], false);
    }
}

#[test]
fn tcp_in_every_shape() {
    let Some(loaded) = Loaded::new("tcp_in_every_shape") else { return };
    for base in [false, true] {
        let check = |name: &str, change: fn(&mut Shape), seen: bool| {
            let mut shape = Shape::plain(base);
            change(&mut shape);
            check(&loaded, name, &shape, seen);
        };
        check("options", |it| it.tcp_options = 4, true);
        check("all options", |it| it.tcp_options = 40, true);
        check("data", |it| it.data = 1_200, true);
        check("options and data", |it| (it.tcp_options, it.data) = (20, 9), true);
        check("data offset below a header", |it| it.data_offset = Some(4), false);
        check("no data offset", |it| it.data_offset = Some(0), false);
        check("data offset beyond the end", |it| it.data_offset = Some(6), false);
    }
}
