//! The contract in the parent module, as scripts that every backend must pass.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

mod checks;
#[cfg(target_os = "linux")]
mod closing;
mod join;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use super::socket::{self, SocketOptions};
use super::*;
use crate::event::{RxStamps, TxStage, TxStamp};
use crate::time::Mono;

const CLIENT: FlowId = FlowId(3);
const LISTENER: FlowId = FlowId(0);
const SERVER: FlowId = FlowId(1);

/// What a completion was, without borrows.
#[derive(Debug, PartialEq)]
enum Seen {
    Connected,
    Received(Vec<u8>, RxStamps),
    Stamped(TxStamp),
    Moved(u64, u64),
    Ended,
    Closed(Failure),
    Accepted,
    AcceptFailed,
    Answered(Answer),
}

/// An `Io` that remembers what it saw.
struct Bench {
    io: Io,
    seen: Vec<(FlowId, Seen)>,
}

impl Bench {
    fn open(options: IoOptions) -> Self {
        Self { io: Io::open(&options).unwrap().0, seen: Vec::new() }
    }

    /// A client that is connected, and its peer.
    fn connected(options: IoOptions) -> (Self, TcpStream) {
        let mut bench = Self::open(options);
        let (listener, to) = local_listener();
        bench.connect(to);
        let (peer, _) = listener.accept().unwrap();
        bench.run_until(|seen| !seen.is_empty());
        (bench, peer)
    }

    /// Runs until `done` says so; a minute is for ever here.
    fn run_until(&mut self, mut done: impl FnMut(&[(FlowId, Seen)]) -> bool) {
        let deadline = clock::mono().after(Duration::from_secs(60));
        while !done(&self.seen) {
            assert!(clock::mono() < deadline, "saw only {:?}", self.seen);
            self.step(Some(deadline));
        }
    }

    fn step(&mut self, deadline: Option<Mono>) {
        self.io.wait(deadline).unwrap();
        let mut accepted = Vec::new();
        while let Some(completion) = self.io.next_completion() {
            let seen = match completion.event {
                IoEvent::Flow(Event::Connected) => Seen::Connected,
                IoEvent::Flow(Event::Received { bytes, stamps }) => {
                    Seen::Received(bytes.to_vec(), stamps)
                }
                IoEvent::Flow(Event::Stamped(stamp)) => Seen::Stamped(stamp),
                IoEvent::Flow(Event::Moved { read, written }) => Seen::Moved(read, written),
                IoEvent::Flow(Event::Ended) => Seen::Ended,
                IoEvent::Flow(Event::Closed(failure)) => Seen::Closed(failure),
                IoEvent::Flow(event) => panic!("not an I/O event: {event:?}"),
                IoEvent::AcceptFailed(_) => Seen::AcceptFailed,
                IoEvent::Answered(answer) => Seen::Answered(answer),
                IoEvent::Accepted(socket) => {
                    accepted.push(socket);
                    Seen::Accepted
                }
            };
            self.seen.push((completion.flow, seen));
        }
        for socket in accepted {
            self.io.attach(SERVER, socket);
        }
    }

    fn connect(&mut self, to: SocketAddr) {
        let socket = socket::prober(to, &SocketOptions::default()).unwrap();
        self.io.connect(CLIENT, socket, to);
        self.io.submit().unwrap();
    }

    fn received(&self, flow: FlowId) -> Vec<u8> {
        let chunks = self.seen.iter().filter(|(owner, _)| *owner == flow);
        chunks
            .filter_map(|(_, seen)| match seen {
                Seen::Received(bytes, _) => Some(bytes.as_slice()),
                _ => None,
            })
            .collect::<Vec<_>>()
            .concat()
    }
}

/// Runs a script on every backend that exists here, twice on io_uring: once for each source of
/// transmit stamps.
fn on_every_backend(script: impl Fn(IoOptions)) {
    // Waits until the kernel stamps, and keeps it at that.
    let _stamping = detect(IoChoice::Poll, ClockChoice::Auto).unwrap();
    let poll = IoOptions {
        backend: IoChoice::Poll,
        stamps: cfg!(target_os = "linux"),
        ..IoOptions::default()
    };
    script(poll);
    let uring = IoOptions { backend: IoChoice::Uring, ..poll };
    if Io::open(&uring).is_ok() {
        script(uring);
        script(IoOptions { tx_stamps: TxStampSource::ErrorQueue, ..uring });
        script(IoOptions { busy_poll: true, ..uring });
    }
}

fn local_listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let to = listener.local_addr().unwrap();
    (listener, to)
}

/// io_uring accepts one a turn, which costs it no system call; here each turn costs one for every
/// flow that has something, so that a queue of handshakes would stay full while others talk.
#[test]
fn several_that_wait_are_accepted_in_a_turn_by_readiness() {
    let (listener, to) = local_listener();
    let clients: Vec<_> = (0..64).map(|_| TcpStream::connect(to).unwrap()).collect();
    let options = IoOptions { backend: IoChoice::Poll, ..IoOptions::default() };
    let mut io = Io::open(&options).unwrap().0;
    io.listen(LISTENER, listener.into()).unwrap();
    let deadline = clock::mono().after(Duration::from_secs(60));
    let mut accepted = Vec::new();
    let mut turns = 0;
    while accepted.len() < clients.len() {
        assert!(clock::mono() < deadline, "{} accepted", accepted.len());
        io.wait(Some(deadline)).unwrap();
        turns += 1;
        while let Some(completion) = io.next_completion() {
            if let IoEvent::Accepted(socket) = completion.event {
                accepted.push(socket);
            }
        }
    }
    assert!(turns <= clients.len() / 4, "{turns} turns");
}

#[cfg(target_os = "linux")]
#[test]
fn a_socket_that_cannot_be_made_names_the_option_and_keeps_the_errno() {
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let check = |options: SocketOptions, option: &str, errno: i32| {
        let error = socket::prober(to, &options).unwrap_err();
        assert_eq!((error.option.as_deref(), error.errno()), (Some(option), errno), "{error}");
        assert!(error.to_string().starts_with(&format!("{option}: ")), "{error}");
    };
    let interface = Some("nosuch0".to_owned());
    check(
        SocketOptions { interface, ..SocketOptions::default() },
        "--interface nosuch0",
        libc::ENODEV,
    );
    // Nobody's address (RFC 5737).
    let source = Some("192.0.2.1".parse().unwrap());
    let options = SocketOptions { source, ..SocketOptions::default() };
    check(options, "--source 192.0.2.1", libc::EADDRNOTAVAIL);
}

#[test]
fn bytes_arrive_in_order_with_stamps_that_belong_to_them() {
    on_every_backend(|options| {
        let mut bench = Bench::open(options);
        let listener = socket::listener((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
        let to = listener.local_addr().unwrap().as_socket().unwrap();
        bench.io.listen(LISTENER, listener).unwrap();
        bench.connect(to);
        bench.run_until(|seen| seen.len() >= 2);
        let before = clock::now().wall;
        for round in 1..=3_u8 {
            bench.io.send(CLIENT, &[round; 16]);
            bench.run_until(|seen| {
                seen.iter().filter(|(flow, _)| *flow == SERVER).count() >= usize::from(round)
            });
            bench.io.send(SERVER, &[round; 16]);
            bench.run_until(|seen| {
                let replies = |(flow, seen): &&(FlowId, Seen)| {
                    *flow == CLIENT && matches!(seen, Seen::Received(..))
                };
                seen.iter().filter(replies).count() >= usize::from(round)
            });
        }
        assert_eq!(bench.received(CLIENT), [[1; 16], [2; 16], [3; 16]].concat());
        if !options.stamps {
            return;
        }
        let software = |seen: &[(FlowId, Seen)]| -> Vec<(u32, crate::time::Wall)> {
            let stamps = seen.iter().filter_map(|(_, seen)| match seen {
                Seen::Stamped(TxStamp { key, stage: TxStage::Software(at) }) => Some((*key, *at)),
                _ => None,
            });
            stamps.collect()
        };
        bench.run_until(|seen| software(seen).len() >= 3);
        let sent = software(&bench.seen);
        assert_eq!(sent.iter().map(|(key, _)| *key).collect::<Vec<_>>(), [15, 31, 47]);
        let replies = bench.seen.iter().filter_map(|(flow, seen)| match seen {
            Seen::Received(_, stamps) if *flow == CLIENT => stamps.sw,
            _ => None,
        });
        let replies: Vec<_> = replies.collect();
        assert_eq!(replies.len(), 3, "every reply has a receive stamp: {options:?}");
        for ((_, sent), received) in sent.iter().zip(&replies) {
            assert!(before <= *sent && sent < received && *received <= clock::now().wall);
        }
    });
}

#[test]
fn the_end_of_a_connection_is_told_once_and_with_its_reason() {
    on_every_backend(|options| {
        let mut bench = Bench::open(options);
        let (listener, to) = local_listener();
        bench.connect(to);
        let (mut peer, _) = listener.accept().unwrap();
        peer.write_all(b"last words").unwrap();
        drop(peer);
        bench.run_until(|seen| matches!(seen.last(), Some((_, Seen::Closed(_)))));
        assert_eq!(bench.received(CLIENT), b"last words");
        assert_eq!(bench.seen.last(), Some(&(CLIENT, Seen::Closed(Failure::Eof))));

        bench.seen.clear();
        drop(listener);
        bench.connect(to);
        bench.run_until(|seen| !seen.is_empty());
        assert_eq!(bench.seen, [(CLIENT, Seen::Closed(Failure::Refused))]);

        bench.seen.clear();
        bench.step(Some(clock::mono().after(Duration::from_millis(5))));
        assert_eq!(bench.seen, []);
    });
}

#[test]
fn a_reset_is_told_as_one() {
    on_every_backend(|options| {
        let (mut bench, peer) = Bench::connected(options);
        let peer = Socket::from(peer);
        peer.set_linger(Some(Duration::ZERO)).unwrap();
        drop(peer);
        bench.run_until(|seen| seen.len() >= 2);
        assert_eq!(bench.seen.last(), Some(&(CLIENT, Seen::Closed(Failure::Reset))));
    });
}

#[test]
fn nothing_arrives_after_close_and_the_peer_sees_the_end() {
    on_every_backend(|options| {
        let mut bench = Bench::open(options);
        let (listener, to) = local_listener();
        bench.connect(to);
        let (mut peer, _) = listener.accept().unwrap();
        bench.run_until(|seen| !seen.is_empty());
        peer.write_all(b"too late").unwrap();
        bench.io.send(CLIENT, b"goodbye");
        bench.io.submit().unwrap();
        bench.io.close(CLIENT);
        bench.seen.clear();
        bench.step(Some(clock::mono().after(Duration::from_millis(20))));
        assert_eq!(bench.seen, []);
        let mut rest = Vec::new();
        peer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        // The unread "too late" may turn the end into a reset; either is an end.
        let _ = peer.read_to_end(&mut rest);

        bench.connect(to);
        bench.run_until(|seen| !seen.is_empty());
        assert_eq!(bench.seen, [(CLIENT, Seen::Connected)]);
    });
}

/// A ring of completions has 8,192 places and each exchange takes at least five, so this goes
/// round more than six times.
#[test]
fn a_ring_that_goes_round_repeats_nothing() {
    on_every_backend(|options| {
        let (mut bench, mut peer) = Bench::connected(options);
        peer.set_nodelay(true).unwrap();
        let echo = std::thread::spawn(move || {
            let mut bytes = [0; 8];
            while peer.read_exact(&mut bytes).is_ok() && peer.write_all(&bytes).is_ok() {}
        });
        for number in 1..=10_000_u64 {
            bench.seen.clear();
            bench.io.send(CLIENT, &number.to_le_bytes());
            let received = |seen: &[(FlowId, Seen)]| {
                seen.iter().any(|(_, seen)| matches!(seen, Seen::Received(..)))
            };
            bench.run_until(received);
            assert_eq!(bench.received(CLIENT), number.to_le_bytes(), "{options:?}");
            let ended = bench.seen.iter().any(|(_, seen)| matches!(seen, Seen::Closed(_)));
            assert!(!ended, "{options:?} at {number}: {:?}", bench.seen);
        }
        bench.io.close(CLIENT);
        drop(bench);
        echo.join().unwrap();
    });
}

#[test]
fn a_peer_that_does_not_read_stops_being_read_and_a_flood_is_stalled() {
    on_every_backend(|options| {
        let mut bench = Bench::open(options);
        let listener = socket::listener((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
        listener.set_send_buffer_size(4_096).unwrap();
        let to = listener.local_addr().unwrap().as_socket().unwrap();
        bench.io.listen(LISTENER, listener).unwrap();
        let peer = socket::prober(to, &SocketOptions::default()).unwrap();
        peer.set_recv_buffer_size(4_096).unwrap();
        peer.connect(&to.into()).unwrap();
        peer.set_nonblocking(true).unwrap();
        bench.run_until(|seen| !seen.is_empty());

        // The peer writes as much as it can and never reads; we echo all that arrives.
        let mut echoed = 0;
        let mut quiet = 0;
        while quiet < 20 {
            let written = (&peer).write(&[7; 4_096]).unwrap_or(0);
            let before = bench.received(SERVER).len();
            bench.step(Some(clock::mono().after(Duration::from_millis(2))));
            let fresh = bench.received(SERVER).len() - before;
            bench.io.send(SERVER, &vec![7; fresh]);
            echoed += fresh;
            quiet = if fresh == 0 && written == 0 { quiet + 1 } else { 0 };
            assert!(echoed < 64 << 20, "never stops reading");
        }
        assert!(!bench.seen.iter().any(|(_, seen)| matches!(seen, Seen::Closed(_))));

        // Whoever sends without regard for the backlog loses the connection instead.
        for _ in 0..SEND_BUFFER_BYTES / 1_024 + 1 {
            bench.io.send(SERVER, &[7; 1_024]);
        }
        bench.run_until(|seen| matches!(seen.last(), Some((_, Seen::Closed(_)))));
        assert_eq!(bench.seen.last(), Some(&(SERVER, Seen::Closed(Failure::Stalled))));
    });
}

#[test]
fn a_backlog_drains_when_the_peer_reads_again() {
    on_every_backend(|options| {
        let (mut bench, mut peer) = Bench::connected(options);
        let sent: Vec<u8> =
            (0..SEND_BUFFER_BYTES).map(|at| u8::try_from(at % 251).unwrap()).collect();
        for part in sent.chunks(1_000) {
            bench.io.send(CLIENT, part);
        }
        let reader = std::thread::spawn(move || {
            let mut got = vec![0; SEND_BUFFER_BYTES];
            peer.read_exact(&mut got).unwrap();
            peer.write_all(b"all").unwrap();
            got
        });
        bench.run_until(|seen| seen.iter().any(|(_, seen)| matches!(seen, Seen::Received(..))));
        assert_eq!(reader.join().unwrap(), sent);
    });
}

#[test]
fn a_waker_ends_a_wait_from_another_thread() {
    on_every_backend(|options| {
        let mut bench = Bench::open(options);
        for _ in 0..3 {
            let waker = bench.io.waker();
            let thread = std::thread::spawn(move || waker.wake());
            bench.step(Some(clock::mono().after(Duration::from_secs(60))));
            thread.join().unwrap();
        }
    });
}

#[test]
fn a_deadline_ends_a_wait_and_never_early() {
    on_every_backend(|options| {
        let mut bench = Bench::open(options);
        for wait in [0, 300, 2_000] {
            let deadline = clock::mono().after(Duration::from_micros(wait));
            bench.step(Some(deadline));
            assert!(options.busy_poll || clock::mono() >= deadline, "{wait} µs");
        }
    });
}

#[test]
fn keys_count_from_the_first_byte_after_stamping_was_asked_for() {
    on_every_backend(|options| {
        if !options.stamps {
            return;
        }
        let (mut bench, mut peer) = Bench::connected(IoOptions { stamps: false, ..options });
        bench.io.send(CLIENT, &[0; 24]);
        bench.io.stamp(CLIENT);
        bench.io.send(CLIENT, &[1; 10]);
        peer.set_nonblocking(true).unwrap();
        let mut arrived = 0;
        while arrived < 34 {
            bench.step(Some(clock::mono().after(Duration::from_millis(1))));
            arrived += peer.read(&mut [0; 64]).unwrap_or(0);
        }
        bench.seen.clear();
        bench.io.send(CLIENT, &[2; 10]);
        // The receive that was armed before may lack a stamp; the next one has it.
        for word in [b"!", b"?"] {
            peer.write_all(word).unwrap();
            let before = bench.received(CLIENT).len();
            while bench.received(CLIENT).len() == before {
                bench.step(Some(clock::mono().after(Duration::from_millis(1))));
            }
        }
        let software = |(_, seen): &(FlowId, Seen)| match seen {
            Seen::Stamped(TxStamp { key, stage: TxStage::Software(_) }) => Some(*key),
            _ => None,
        };
        bench.run_until(|seen| seen.iter().filter_map(software).any(|key| key == 19));
        bench.run_until(|seen| {
            seen.iter()
                .any(|(_, seen)| matches!(seen, Seen::Received(_, stamps) if stamps.sw.is_some()))
        });
    });
}
