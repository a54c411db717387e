//! The checker against real sockets of this machine.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::error::Error;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, TcpListener};

use super::*;
use crate::sys::IoChoice;

const PATIENCE: Duration = Duration::from_secs(10);

/// Kernel sockets work everywhere and need no privilege.
fn checkers() -> Vec<Checker> {
    let backends = [IoChoice::Poll, IoChoice::Auto];
    let any = Checker::builder().method(MethodChoice::Auto);
    backends.into_iter().map(|io| any.clone().io(io).build().unwrap()).collect()
}

fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// A port that is bound and does not listen.
fn closed() -> (socket2::Socket, SocketAddr) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}

#[test]
fn an_open_port_is_open_and_a_closed_one_refuses_with_a_source() {
    let ((_listener, open), (_closed, closed)) = (listener(), closed());
    for checker in checkers() {
        let found = checker.check(open, PATIENCE).unwrap();
        assert_eq!((found.to, found.method), (open, checker.method()));
        assert!(found.rtt.is_some() && found.rtt <= Some(found.elapsed), "{found:?}");
        assert_eq!(found.completed, checker.method() == Method::Dial);
        let error = checker.check(closed, PATIENCE).unwrap_err();
        assert!(matches!(error, CheckError::Refused { to, .. } if to == closed), "{error:?}");
        let source = error.source().unwrap().downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(source.kind(), ErrorKind::ConnectionRefused);
        assert!(!error.is_timeout());
    }
}

#[test]
fn names_are_resolved_and_every_address_is_tried() {
    let (_listener, open) = listener();
    let checker = Checker::new().unwrap();
    // `localhost` may be ::1 as well, where nobody listens.
    let found = checker.check(format!("localhost:{}", open.port()), PATIENCE).unwrap();
    assert_eq!(found.to, open);
    let error = checker.check("no-such-name.invalid:80", PATIENCE).unwrap_err();
    assert!(matches!(&error, CheckError::Resolve { host, .. } if host == "no-such-name.invalid"));
    assert!(error.source().is_some());
}

#[test]
fn a_bad_address_says_what_would_be_a_good_one() {
    let checker = Checker::new().unwrap();
    for address in ["", "host", "host:0", "host:65536", "::1:80", "[::1]"] {
        let error = checker.check(address, PATIENCE).unwrap_err();
        assert!(matches!(error, CheckError::BadAddress { .. }), "{address}: {error:?}");
        assert!(error.to_string().contains("write e.g."), "{error}");
    }
}

#[test]
fn nobody_waits_longer_than_the_timeout() {
    // TEST-NET-1 (RFC 5737) is routed nowhere, or refused on the way.
    let checker = Checker::new().unwrap();
    let error = checker.check("192.0.2.1:9", Duration::from_millis(50)).unwrap_err();
    match error {
        CheckError::Timeout { timeout, .. } => assert_eq!(timeout, Duration::from_millis(50)),
        CheckError::Unreachable { .. } | CheckError::Local(_) | CheckError::Refused { .. } => {}
        other => panic!("{other:?}"),
    }
}

#[test]
fn many_callers_get_their_own_answers() {
    let ((_listener, open), (_closed, closed)) = (listener(), closed());
    for checker in checkers() {
        std::thread::scope(|scope| {
            for caller in 0..16 {
                let checker = &checker;
                scope.spawn(move || {
                    for round in 0..50 {
                        if (caller + round) % 2 == 0 {
                            assert_eq!(checker.check(open, PATIENCE).unwrap().to, open);
                        } else {
                            let error = checker.check(closed, PATIENCE).unwrap_err();
                            assert!(matches!(error, CheckError::Refused { .. }), "{error:?}");
                        }
                    }
                });
            }
        });
    }
}

#[test]
fn asynchronous_callers_share_one_checker() {
    let ((_listener, open), (_closed, closed)) = (listener(), closed());
    let checker = Arc::new(Checker::new().unwrap());
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, async {
        let tasks: Vec<_> = (0..200)
            .map(|number| {
                let checker = Arc::clone(&checker);
                let address = if number % 2 == 0 { open } else { closed };
                tokio::task::spawn_local(async move {
                    (number, checker.check_async(address, PATIENCE).await)
                })
            })
            .collect();
        for task in tasks {
            let (number, outcome) = task.await.unwrap();
            assert_eq!(outcome.is_ok(), number % 2 == 0, "{number}: {outcome:?}");
        }
    });
}

#[test]
fn beyond_the_limit_a_caller_is_told_so() {
    let pending = Pending::new(2);
    let reply = || Reply::Waiting(sync_channel(1).0);
    let (first, _second) = (pending.add(reply()).unwrap(), pending.add(reply()).unwrap());
    let refused = pending.add(reply()).unwrap_err();
    assert!(matches!(refused, CheckError::TooMany { limit: 2 }), "{refused:?}");
    pending.answer(first, Answered::Unresolved(ErrorKind::NotFound.into()));
    pending.add(reply()).unwrap();
    pending.stop();
    assert!(matches!(pending.add(reply()), Err(CheckError::Stopped)));
}

#[test]
fn a_dropped_checker_leaves_nobody_waiting() {
    let (_listener, open) = listener();
    let checker = Checker::new().unwrap();
    checker.check(open, PATIENCE).unwrap();
    let pending = Arc::clone(&checker.pending);
    let (reply, answer) = sync_channel(1);
    pending.add(Reply::Waiting(reply)).unwrap();
    drop(checker);
    assert!(answer.recv().is_err(), "nobody will answer");
}

#[test]
fn the_shared_checker_is_one() {
    let (one, other) = (Checker::shared().unwrap(), Checker::shared().unwrap());
    assert!(std::ptr::eq(one, other));
}

#[test]
fn an_orderly_ending_is_the_callers_choice() {
    let (listener, open) = listener();
    let checker = Checker::builder().method(MethodChoice::Only(Method::Dial)).build().unwrap();
    checker.check_with(open, PATIENCE, Ending::Orderly).unwrap();
    let (mut connection, _) = listener.accept().unwrap();
    let end = std::io::Read::read(&mut connection, &mut [0]).unwrap();
    assert_eq!(end, 0, "FIN, not RST");
    checker.check_with(open, PATIENCE, Ending::Reset).unwrap();
    let (mut connection, _) = listener.accept().unwrap();
    let end = std::io::Read::read(&mut connection, &mut [0]).unwrap_err();
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
}
