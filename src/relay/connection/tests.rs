//! Connections as scripts: what happened and when goes in, what is asked for comes out.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use super::*;
use crate::event::RxStamps;
use crate::relay::balance::Policy;
use crate::relay::{RelaySettings, Upstream};
use crate::time::Wall;

const SECOND: u64 = 1_000_000_000;
const HERE: ([u8; 4], u16) = ([127, 0, 0, 1], 1);

fn at(seconds: u64) -> Now {
    let ns = (1_000 + seconds) * SECOND;
    Now { mono: Mono::from_ns(ns), wall: Wall::from_ns(ns << 20) }
}

fn upstream(number: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 1_000 + number))
}

fn settings(upstreams: u16) -> RelaySettings {
    let one = |number| Upstream { addresses: vec![upstream(number)], draining: false };
    RelaySettings {
        upstreams: (0..upstreams).map(one).collect(),
        policy: Policy::RoundRobin,
        connections_max: 2,
        connect_timeout_ns: 5 * SECOND,
        attempts_max: 2,
        idle_timeout_ns: Some(60 * SECOND),
        proxy_in: false,
        proxy_out: None,
        failures_max: 3,
        failed_hold_ns: SECOND,
        seed: 1,
    }
}

/// One connection and what it shares.
struct Script {
    shared: Relay,
    connection: Connection,
    out: Out,
}

impl Script {
    /// Accepted at 0 s.
    fn start(settings: RelaySettings) -> (Self, Vec<Action>) {
        let mut shared = Relay::new(settings);
        assert!(shared.admit());
        let connection = Connection::new(SocketAddr::from(HERE), SocketAddr::from(HERE), at(0));
        let mut script = Self { shared, connection, out: Out::default() };
        script.connection.start(&mut script.shared, &mut script.out);
        let actions = script.taken();
        (script, actions)
    }

    /// Connected after a second.
    fn joined(settings: RelaySettings) -> Self {
        let (mut script, actions) = Self::start(settings);
        assert_eq!(actions, [Action::Connect(upstream(0))]);
        assert_eq!(script.on(Side::Upstream, Event::Connected, 1), [Action::Join]);
        script
    }

    fn on(&mut self, side: Side, event: Event<'_>, seconds: u64) -> Vec<Action> {
        self.connection.on(&mut self.shared, side, event, at(seconds), &mut self.out);
        self.taken()
    }

    fn due(&mut self, seconds: u64) -> Vec<Action> {
        self.on(Side::Client, Event::Due(at(seconds).mono), seconds)
    }

    fn receive(&mut self, bytes: &[u8]) -> Vec<Action> {
        let stamps = RxStamps::default();
        self.on(Side::Client, Event::Received { bytes, stamps }, 1)
    }

    fn taken(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.out.actions)
    }

    fn reason(&self) -> Option<CloseReason> {
        self.out.over.and_then(|over| over.end).map(|end| end.reason)
    }

    fn upstream(&mut self, number: u16) -> crate::sample::UpstreamCounters {
        *self.shared.change(UpstreamId(number))
    }
}

/// What ends a joined connection, why, and how both sides are closed.
#[test]
fn every_end_has_its_reason_and_only_an_orderly_one_looks_like_one() {
    let check = |side, event: Event<'_>, reason, action| {
        let mut script = Script::joined(settings(1));
        let moved = Event::Moved { read: 5, written: 0 };
        script.on(side, moved, 2);
        assert_eq!(script.on(side, event, 3), [action]);
        assert_eq!(script.reason(), Some(reason));
        assert!(script.connection.is_over());
        assert_eq!(script.connection.deadline(), None);
        let counters = *script.shared.counters();
        assert_eq!((counters.connections, counters.connections_active), (1, 0));
        assert_eq!(counters.closed(reason), 1);
        let upstream = script.upstream(0);
        assert_eq!((upstream.connections, upstream.connections_active), (1, 0));
        assert_eq!(script.on(side, Event::Closed(Failure::Reset), 4), [], "it is over once");
    };
    let (client, upstream, reset) = (Side::Client, Side::Upstream, Action::Reset);
    check(client, Event::Closed(Failure::Reset), CloseReason::ClientReset, reset);
    check(upstream, Event::Closed(Failure::Reset), CloseReason::UpstreamReset, reset);
    check(client, Event::Closed(Failure::TimedOut), CloseReason::ClientFailed, reset);
    check(upstream, Event::Closed(Failure::Unreachable), CloseReason::UpstreamFailed, reset);
    check(client, Event::Closed(Failure::Local(24)), CloseReason::Local, reset);
    // Five bytes were read and not written.
    let long_after = at(1_000).mono;
    check(client, Event::Due(long_after), CloseReason::Idle, reset);
}

#[test]
fn both_sides_end_in_either_order_and_the_first_one_names_the_reason() {
    for (first, second, reason) in [
        (Side::Client, Side::Upstream, CloseReason::Client),
        (Side::Upstream, Side::Client, CloseReason::Upstream),
    ] {
        let mut script = Script::joined(settings(1));
        assert_eq!(script.on(first, Event::Ended, 2), []);
        assert_eq!(script.on(second, Event::Moved { read: 3, written: 0 }, 3), []);
        assert_eq!(script.on(first, Event::Moved { read: 0, written: 3 }, 3), []);
        assert_eq!(script.on(second, Event::Ended, 4), [Action::Close]);
        assert_eq!(script.reason(), Some(reason));
    }
}

#[test]
fn attempts_go_on_until_they_are_used_up_and_no_byte_was_passed_on_by_then() {
    let (mut script, actions) = Script::start(settings(3));
    assert_eq!(actions, [Action::Connect(upstream(0))]);
    let refused = || Event::Closed(Failure::Refused);
    assert_eq!(script.on(Side::Upstream, refused(), 1), [Action::Connect(upstream(1))]);
    assert_eq!(script.upstream(0).connect_failures, 1);
    assert_eq!(script.connection.deadline(), Some(at(6).mono));
    assert_eq!(script.due(5), [], "a deadline of an attempt is its own");
    // The third upstream is one attempt too many.
    assert_eq!(script.due(6), [Action::Reset]);
    assert_eq!(script.reason(), Some(CloseReason::ConnectFailed));
    assert_eq!((script.upstream(1).connecting, script.upstream(1).connect_failures), (0, 1));

    let (script, actions) = Script::start(settings(0));
    assert_eq!((actions, script.reason()), (vec![Action::Reset], Some(CloseReason::NoUpstream)));
}

#[test]
fn a_client_that_goes_before_there_is_an_upstream_is_no_failure_of_that() {
    let (mut script, _) = Script::start(settings(1));
    assert_eq!(script.on(Side::Client, Event::Closed(Failure::Reset), 1), [Action::Reset]);
    assert_eq!(script.reason(), Some(CloseReason::ClientGone));
    let upstream = script.upstream(0);
    assert_eq!((upstream.connecting, upstream.connect_failures), (0, 0));
    // Nor is it one that we have no descriptor for it.
    let (mut script, _) = Script::start(settings(1));
    assert_eq!(script.on(Side::Upstream, Event::Closed(Failure::Local(24)), 1), [Action::Reset]);
    assert_eq!(script.reason(), Some(CloseReason::Local));
    assert_eq!(script.upstream(0).connect_failures, 0);
}

#[test]
fn whatever_moves_keeps_a_connection_and_counts_once_on_its_side() {
    let mut script = Script::joined(settings(1));
    assert_eq!(script.out.measured, [Measured::Connect(UpstreamId(0), SECOND)]);
    script.out.measured.clear();
    let moves = [
        (Side::Client, 10, 0, vec![Measured::Client(10, 0)]),
        (Side::Upstream, 0, 10, vec![]),
        (Side::Upstream, 7, 0, vec![Measured::FirstByte(UpstreamId(0), 52 * SECOND)]),
        (Side::Upstream, 1, 0, vec![]),
        (Side::Client, 0, 8, vec![Measured::Client(0, 8)]),
    ];
    for (seconds, (side, read, written, measured)) in (51..).zip(moves) {
        assert_eq!(script.on(side, Event::Moved { read, written }, seconds), []);
        assert_eq!(std::mem::take(&mut script.out.measured), measured);
        assert_eq!(script.connection.deadline(), Some(at(seconds + 60).mono));
    }
    let moved = script.upstream(0);
    assert_eq!((moved.client_read_bytes, moved.upstream_written_bytes), (10, 10));
    assert_eq!((moved.upstream_read_bytes, moved.client_written_bytes), (8, 8));
    assert_eq!(script.due(60), [], "it is not idle");
    // Nothing waits here: nobody is cut off.
    assert_eq!(script.due(115), [Action::Close]);
    assert_eq!(script.reason(), Some(CloseReason::Idle));
    let end = script.out.over.unwrap().end.unwrap();
    assert_eq!((end.client_read_bytes, end.upstream_read_bytes), (10, 8));
    assert_eq!((end.duration_ns, end.connect_ns), (115 * SECOND, Some(SECOND)));
}

#[test]
fn a_header_comes_in_pieces_names_the_client_and_is_no_payload() {
    let with_header = RelaySettings { proxy_in: true, ..settings(1) };
    let told = SocketAddr::from(([192, 0, 2, 1], 7));
    let mut header = Vec::new();
    proxy_protocol::encode(proxy_protocol::Version::V1, told, upstream(5), &mut header);
    let proxy_out = Some(proxy_protocol::Version::V2);
    let (mut script, actions) = Script::start(RelaySettings { proxy_out, ..with_header.clone() });
    assert_eq!(actions, [Action::Receive]);
    for byte in &header[..header.len() - 1] {
        assert_eq!(script.receive(&[*byte]), [Action::Receive]);
    }
    assert_eq!(script.receive(b"\nearly"), [Action::Connect(upstream(0))]);
    assert_eq!(script.connection.client(), told);
    assert_eq!(script.on(Side::Upstream, Event::Connected, 2), [Action::Join]);
    let mut first = Vec::new();
    proxy_protocol::encode(proxy_protocol::Version::V2, told, upstream(5), &mut first);
    let header_bytes = u64::try_from(first.len()).unwrap();
    first.extend_from_slice(b"early");
    assert_eq!(script.out.first, first);
    // The header and one byte more.
    let parts = [header_bytes - 1, 2, 4];
    for written in parts {
        script.on(Side::Upstream, Event::Moved { read: 0, written }, 3);
    }
    let moved = script.upstream(0);
    assert_eq!((moved.client_read_bytes, moved.upstream_written_bytes), (5, 5));

    for (bytes, reason) in [
        (&b"GET / HTTP/1.1\r\n"[..], CloseReason::BadHeader),
        (&[b'P'; 3_000][..], CloseReason::BadHeader),
    ] {
        let (mut script, _) = Script::start(with_header.clone());
        assert_eq!(script.receive(bytes), [Action::Close]);
        assert_eq!(script.reason(), Some(reason));
    }
    let (mut script, _) = Script::start(with_header);
    assert_eq!(script.due(4), []);
    assert_eq!(script.due(5), [Action::Close], "a header that does not come");
    assert_eq!(script.reason(), Some(CloseReason::BadHeader));
}

#[test]
fn more_than_the_limit_is_refused_and_leaving_makes_room() {
    let mut script = Script::joined(settings(1));
    let admitted = [(); 3].map(|()| script.shared.admit());
    assert_eq!(admitted, [true, false, false]);
    script.connection.end(&mut script.shared, CloseReason::Stopped, at(9), &mut script.out);
    assert_eq!(script.taken(), [Action::Close]);
    assert!(script.shared.admit());
    let counters = script.shared.counters();
    assert_eq!((counters.connections, counters.connections_active), (3, 2));
    assert_eq!((counters.refused_limit, counters.closed_stopped), (2, 1));
}
