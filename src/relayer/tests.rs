//! A relay as a program that embeds it meets it.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A server that echoes on one connection after the other until each ends.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let stream = stream.unwrap();
            std::thread::spawn(move || {
                let mut buffer = [0; 4096];
                while let Ok(length @ 1..) = (&stream).read(&mut buffer) {
                    if (&stream).write_all(&buffer[..length]).is_err() {
                        break;
                    }
                }
            });
        }
    });
    address
}

fn connect(at: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(at).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn ping(mut stream: &TcpStream) {
    stream.write_all(b"ping").unwrap();
    let mut echoed = [0; 4];
    stream.read_exact(&mut echoed).unwrap();
    assert_eq!(&echoed, b"ping");
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(future)
}

/// Watches until the listener is so.
fn wait_until(relay: &Relay, is_so: impl Fn(&RelaySnapshot) -> bool) {
    let mut snapshots = relay.snapshots();
    let seen = async {
        while !is_so(&snapshots.borrow_and_update()[0]) {
            snapshots.changed().await.unwrap();
        }
    };
    block_on(async { tokio::time::timeout(PATIENCE, seen).await }).unwrap();
}

fn bind(builder: Builder) -> Relay {
    block_on(builder.bind()).unwrap()
}

#[test]
fn live_connections_finish_and_the_others_are_counted() {
    for io in [IoChoice::Auto, IoChoice::Poll] {
        let relay = bind(Relay::builder().io(io).upstream(echo()).unwrap());
        let at = relay.local_addr();
        assert_ne!(at.port(), 0);
        let (finishes, stays) = (connect(at), connect(at));
        ping(&finishes);
        ping(&stays);
        // What a turn of the thread moved is counted at its end.
        wait_until(&relay, |listener| {
            let counters = listener.upstreams[0].counters;
            (counters.connections_active, counters.client_written_bytes) == (2, 8)
        });
        relay.stopper().shutdown_within(Duration::from_millis(300));
        // While it ends, it relays.
        ping(&finishes);
        drop(finishes);
        let ended = block_on(relay.run()).unwrap();
        assert_eq!((ended.connections, ended.cut), (2, 1));
        assert_eq!((ended.upstream_bytes, ended.downstream_bytes), (12, 12));
        let mut rest = Vec::new();
        // By a reset or in an orderly way, but at once.
        drop((&stays).read_to_end(&mut rest));
        assert!(rest.is_empty() && TcpStream::connect(at).is_err());
    }
}

#[test]
fn every_connection_has_a_reason_to_end() {
    let relay = bind(Relay::builder().upstream(echo()).unwrap());
    let stays = connect(relay.local_addr());
    ping(&stays);
    let (stats, stopper) = (Arc::clone(&relay.stats), relay.stopper());
    stopper.shutdown_within(Duration::ZERO);
    block_on(relay.run()).unwrap();
    assert_eq!(stats.relays()[0].counters.closed(CloseReason::GraceOver), 1);

    let relay = bind(Relay::builder().upstream(echo()).unwrap());
    let stays = connect(relay.local_addr());
    ping(&stays);
    let stats = Arc::clone(&relay.stats);
    drop(relay);
    let counters = stats.relays()[0].counters;
    assert_eq!((counters.closed(CloseReason::Stopped), counters.connections_active), (1, 0));
}

#[test]
fn snapshots_are_watched_while_something_changes() {
    let relay = bind(Relay::builder().upstream(echo()).unwrap());
    let stream = connect(relay.local_addr());
    ping(&stream);
    wait_until(&relay, |listener| listener.counters.connections == 1);
    let clients = relay.clients();
    assert_eq!(clients[0].1[0].client, Some(stream.local_addr().unwrap().ip()));
    assert_eq!(clients[0].1[0].counters.read_bytes, 4);
}

#[test]
fn a_drained_upstream_gets_nobody() {
    let (kept, drained) = (echo(), echo());
    let relay = bind(Relay::builder().upstream(kept).unwrap().upstream(drained).unwrap());
    relay.set_draining(drained, true).unwrap();
    assert!(relay.set_draining("nobody:1", true).is_err());
    wait_until(&relay, |listener| listener.upstreams[1].counters.draining == 1);
    for _ in 0..4 {
        ping(&connect(relay.local_addr()));
    }
    let connections = |at: usize| relay.snapshot()[0].upstreams[at].counters.connections;
    assert_eq!((connections(0), connections(1)), (4, 0));
}

#[test]
fn what_cannot_be_is_told() {
    let refused = |builder: Builder| block_on(builder.bind()).unwrap_err().to_string();
    assert!(refused(Relay::builder()).contains("no upstream"));
    let one = || Relay::builder().upstream("127.0.0.1:1").unwrap();
    assert!(refused(one().threads(0)).contains("threads"));
    assert!(refused(one().upstream("127.0.0.1:1").unwrap()).contains("twice"));
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = taken.local_addr().unwrap();
    assert!(refused(one().listen(at).unwrap()).contains("cannot listen there"));
    assert!(Relay::builder().listen("nowhere").is_err());
    assert!(Relay::builder().upstream("nowhere").is_err());
}
