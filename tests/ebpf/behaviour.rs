//! What counts as an answer: scripts of segments flow in, exactly the expected events flow out,
//! over IPv4 and IPv6 alike.

use rttscope_ebpf::kind::{COMPLETED, OPEN, REFUSED};

use crate::frames::Way::{In, Out};
use crate::frames::{ACK, CWR, ECE, FIN, LOCAL_PORT, PSH, RST, SYN, Shape, Tcp, Way};
use crate::loaded::{Event, Loaded, key};

/// Kind and number of SYNs of each event.
fn check(name: &str, script: &[(Way, Tcp)], expected: &[(u32, u32)]) {
    for v6 in [false, true] {
        let Some(loaded) = Loaded::new(name) else { return };
        let events = play(&loaded, v6, script);
        let found: Vec<(u32, u32)> = events.iter().map(|it| (it.kind, it.syns)).collect();
        assert_eq!(found, expected, "{name}, IPv6 {v6}: {script:?}");
        assert!(events.iter().all(|it| it.key == key(v6)), "{name}, IPv6 {v6}: {events:?}");
    }
}

fn play(loaded: &Loaded, v6: bool, script: &[(Way, Tcp)]) -> Vec<Event> {
    let shape = Shape::plain(v6);
    for (way, tcp) in script {
        assert!(loaded.pass(*way, &shape.frame(*way, *tcp)));
    }
    loaded.events()
}

/// Our SYN.
fn syn(sequence: u32) -> (Way, Tcp) {
    (Out, Tcp::new(SYN, sequence, 0))
}

/// Their SYN-ACK.
fn syn_ack(sequence: u32, acknowledgement: u32) -> (Way, Tcp) {
    (In, Tcp::new(SYN | ACK, sequence, acknowledgement))
}

/// Their RST, with or without an acknowledgement.
fn reset(flags: u8, acknowledgement: u32) -> (Way, Tcp) {
    (In, Tcp::new(flags, 0, acknowledgement))
}

/// What we say afterwards.
fn say(flags: u8, sequence: u32, acknowledgement: u32) -> (Way, Tcp) {
    (Out, Tcp::new(flags, sequence, acknowledgement))
}

#[test]
fn an_answer_acknowledges_the_syn() {
    let name = "an_answer_acknowledges_the_syn";
    check(name, &[syn(7)], &[]);
    check(name, &[syn_ack(50, 8)], &[]);
    check(name, &[syn(7), syn_ack(50, 8)], &[(OPEN, 1)]);
    for wrong in [0, 6, 7, 9, 50, 0x0800_0000, u32::MAX] {
        check(name, &[syn(7), syn_ack(50, wrong)], &[]);
        check(name, &[syn(7), reset(RST | ACK, wrong)], &[]);
    }
    check(name, &[syn(7), syn_ack(50, 9), syn_ack(50, 8)], &[(OPEN, 1)]);
    check(name, &[syn(u32::MAX), syn_ack(50, 0)], &[(OPEN, 1)]);
    check(name, &[syn(7), syn_ack(50, 8), syn_ack(50, 8)], &[(OPEN, 1)]);
    check(name, &[syn(7), (In, Tcp::new(ACK, 50, 8))], &[]);
    check(name, &[syn(7), (In, Tcp::new(SYN | ACK | FIN, 50, 8))], &[]);
    check(name, &[syn(7), (In, Tcp::new(SYN | ACK | ECE, 50, 8))], &[(OPEN, 1)]);
}

#[test]
fn a_reset_must_acknowledge_too() {
    let name = "a_reset_must_acknowledge_too";
    check(name, &[syn(7), reset(RST | ACK, 8)], &[(REFUSED, 1)]);
    check(name, &[syn(7), reset(RST, 8)], &[]);
    check(name, &[syn(7), reset(RST, 0)], &[]);
    check(name, &[syn(7), reset(RST | ACK, 8), reset(RST | ACK, 8)], &[(REFUSED, 1)]);
    check(name, &[syn(7), reset(RST | ACK, 8), syn_ack(50, 8)], &[(REFUSED, 1)]);
    check(name, &[syn(7), syn_ack(50, 8), reset(RST | ACK, 8)], &[(OPEN, 1)]);
    check(name, &[syn(u32::MAX), reset(RST | ACK, 0)], &[(REFUSED, 1)]);
}

#[test]
fn retransmits_are_counted_and_restart_the_time() {
    let name = "retransmits_are_counted_and_restart_the_time";
    check(name, &[syn(7), syn(7), syn_ack(50, 8)], &[(OPEN, 2)]);
    check(name, &[syn(7), syn(7), syn(7), reset(RST | ACK, 8)], &[(REFUSED, 3)]);
    // Another sequence number is another attempt.
    check(name, &[syn(7), syn(7), syn(90), syn_ack(50, 8), syn_ack(50, 91)], &[(OPEN, 1)]);
    // A SYN that crosses its answer is no retransmit of an attempt under way.
    let late = [syn(7), syn_ack(50, 8), syn(7), say(ACK, 8, 51)];
    check(name, &late, &[(OPEN, 1), (COMPLETED, 1)]);
    check(name, &[syn(7), syn(0), syn_ack(50, 8), syn_ack(50, 1)], &[(OPEN, 1)]);

    let Some(loaded) = Loaded::new(name) else { return };
    let event = play(&loaded, false, &[syn(7), syn(7), syn(7), syn_ack(50, 8)])[0];
    assert!(event.first_ns < event.last_ns && event.last_ns < event.at_ns, "{event:?}");
    assert_eq!((event.sequence, event.tcp_flags), (7, u32::from(SYN | ACK)));
}

#[test]
fn a_completed_handshake_is_told_once() {
    let name = "a_completed_handshake_is_told_once";
    let open = [syn(7), syn_ack(50, 8)];
    let after = |said: &[(Way, Tcp)]| [open.as_slice(), said].concat();
    let completed = [(OPEN, 1), (COMPLETED, 1)];
    check(name, &after(&[say(ACK, 8, 51)]), &completed);
    check(name, &after(&[say(ACK, 8, 51), say(ACK, 8, 51)]), &completed);
    check(name, &after(&[say(ACK | PSH, 8, 51)]), &completed);
    check(name, &after(&[say(ACK | FIN, 8, 51)]), &completed);
    check(name, &after(&[say(ACK, 8, 60)]), &completed);
    check(name, &after(&[say(ACK, 8, 50)]), &[(OPEN, 1)]);
    check(name, &after(&[say(RST, 8, 0)]), &[(OPEN, 1)]);
    check(name, &after(&[say(RST | ACK, 8, 51)]), &[(OPEN, 1)]);
    check(name, &after(&[say(RST, 8, 0), say(ACK, 8, 51)]), &[(OPEN, 1)]);
    // A RST after the ACK aborts a handshake that was complete all the same.
    check(name, &after(&[say(ACK, 8, 51), say(RST | ACK, 8, 51)]), &completed);
    check(name, &[syn(7), say(ACK, 8, 51)], &[]);
    let wrapping = [syn(7), syn_ack(u32::MAX, 8), say(ACK, 8, 0)];
    check(name, &wrapping, &completed);
    let again = after(&[say(RST, 8, 0), syn(20), syn_ack(70, 21)]);
    check(name, &again, &[(OPEN, 1), (OPEN, 1)]);
}

#[test]
fn flags_that_make_no_syn() {
    let name = "flags_that_make_no_syn";
    for flags in [0, FIN, RST, PSH, ACK, SYN | ACK, SYN | FIN, SYN | RST, SYN | ACK | RST] {
        check(name, &[(Out, Tcp::new(flags, 7, 0)), syn_ack(50, 8)], &[]);
    }
    for flags in [SYN | ECE | CWR, SYN | PSH] {
        check(name, &[(Out, Tcp::new(flags, 7, 0)), syn_ack(50, 8)], &[(OPEN, 1)]);
    }
}

#[test]
fn only_registered_ports_and_their_own_flows() {
    let name = "only_registered_ports_and_their_own_flows";
    let with_port = |(way, tcp): (Way, Tcp), local_port| (way, Tcp { local_port, ..tcp });
    for other in [0, 1, LOCAL_PORT - 1, LOCAL_PORT + 1, LOCAL_PORT ^ 0x40, 443, u16::MAX] {
        let script = [syn(7), syn_ack(50, 8)].map(|step| with_port(step, other));
        check(name, &script, &[]);
        // The answer goes to another port than the SYN came from.
        check(name, &[syn(7), with_port(syn_ack(50, 8), other)], &[]);
    }
    let elsewhere = Tcp { remote_port: 444, ..Tcp::new(SYN | ACK, 50, 8) };
    check(name, &[syn(7), (In, elsewhere)], &[]);
    // The wrong way around: a server's own answers, and another's SYN to our port.
    check(name, &[(In, Tcp::new(SYN, 7, 0)), (Out, Tcp::new(SYN | ACK, 50, 8))], &[]);

    let Some(loaded) = Loaded::new(name) else { return };
    for port in [0, 63, 64, u16::MAX] {
        loaded.register(port);
        let script = [syn(7), syn_ack(50, 8)].map(|step| with_port(step, port));
        let events = play(&loaded, true, &script);
        assert_eq!(events.len(), 1, "port {port}");
        assert_eq!(events[0].key.local.port_be, port.to_be_bytes());
    }
}
