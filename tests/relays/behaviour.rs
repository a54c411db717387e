//! What a relay promises, one promise after the other.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use super::*;
use rttscope::relay::proxy_protocol::{self, Version};
use rttscope::sys::RELAY_BUFFER_BYTES;
use socket2::Socket;

/// Writes at one end, and reads that at the other.
fn pass(mut from: &TcpStream, mut to: &TcpStream, bytes: &[u8]) {
    from.write_all(bytes).unwrap();
    let mut got = vec![0; bytes.len()];
    to.read_exact(&mut got).unwrap();
    assert!(got == bytes);
}

fn read_to_end(mut stream: &TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).unwrap();
    all
}

/// Nobody listens here, and nobody else will while the socket is kept.
fn nobody() -> (Socket, SocketAddr) {
    let socket = Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let at = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, at)
}

/// Reads until a reset.
fn assert_reset(mut stream: &TcpStream) {
    let mut rest = Vec::new();
    let error = stream.read_to_end(&mut rest).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset);
}

#[test]
fn every_byte_is_counted_while_the_connection_lives() {
    on_every_backend(|backend| {
        let (listener, to) = listener();
        let mut rig = Rig::start(backend, settings(&[to]));
        let client = rig.connect();
        let upstream = accept(&listener);
        let (mut up, mut down) = (0, 0);
        for size in [1, 64, 1_000, 65_536, 300_000, 7] {
            let bytes = vec![7; size];
            let (from, to) =
                if size % 2 == 0 { (&client, &upstream) } else { (&upstream, &client) };
            std::thread::scope(|scope| {
                scope.spawn(|| pass(from, to, &bytes));
            });
            *if size % 2 == 0 { &mut up } else { &mut down } += u64::try_from(size).unwrap();
            let words = |snapshot: &RelaySnapshot| {
                let moved = snapshot.upstreams[0].counters;
                let up = [moved.client_read_bytes, moved.upstream_written_bytes];
                (up, [moved.upstream_read_bytes, moved.client_written_bytes])
            };
            let wanted = ([up, up], [down, down]);
            let shown = rig.wait_until("counted", |snapshot| words(snapshot) == wanted);
            assert_eq!((shown.counters.connections, shown.counters.connections_active), (1, 1));
            assert_eq!(shown.upstreams[0].counters.connections_active, 1);
            let clients = rig.stats.relay_clients();
            let (_, clients) = &clients[0];
            assert_eq!(clients[0].client, Some(Ipv4Addr::LOCALHOST.into()));
            assert_eq!(clients[0].counters.read_bytes, up);
        }
        // The client ends first; half of it closed is not all of it.
        client.shutdown(Shutdown::Write).unwrap();
        assert_eq!(read_to_end(&upstream), b"");
        pass(&upstream, &client, b"the answer to what was asked before");
        assert_eq!(closed(&rig.counters()), 0);
        drop(upstream);
        assert_eq!(read_to_end(&client), b"");
        let over = rig.wait_until("over", |snapshot| snapshot.counters.closed_client == 1);
        assert_eq!((over.counters.connections_active, closed(&over.counters)), (0, 1));
        assert_eq!(over.upstreams[0].connect.as_ref().unwrap().count, 1);
        assert_eq!(over.upstreams[0].first_byte.as_ref().unwrap().count, 1);
        let told: Vec<_> = rig.samples.try_iter().collect();
        let [(RELAY, Finished::Connection(opened)), (RELAY, Finished::Connection(ended))] =
            &told[..]
        else {
            panic!("{told:?}");
        };
        assert_eq!((opened.client, opened.end), (client.local_addr().unwrap(), None));
        let end = ended.end.unwrap();
        assert_eq!((end.reason, end.client_read_bytes), (CloseReason::Client, up));
        assert_eq!(ended.upstream, Some(UpstreamId(0)));
        assert!(end.connect_ns.is_some() && end.first_byte_ns.is_some());
        assert!(rig.reports.try_recv().is_err());
        rig.worker.stop();
    });
}

#[test]
fn an_upstream_that_refuses_is_replaced_and_nobody_notices() {
    on_every_backend(|backend| {
        let (listener, to) = listener();
        let (_kept, dead) = nobody();
        let rig = Rig::start(backend, settings(&[dead, to]));
        for number in 1..=4 {
            let client = rig.connect();
            let upstream = accept(&listener);
            pass(&client, &upstream, b"through");
            rig.wait_until("counted", |shown| shown.upstreams[1].counters.connections == number);
        }
        let snapshot = rig.snapshot();
        assert!(snapshot.upstreams[0].counters.connect_failures >= 2, "{snapshot:?}");
        assert_eq!(snapshot.upstreams[0].counters.connections, 0);
        assert_eq!(snapshot.counters.closed_connect_failed, 0);
        rig.worker.stop();
    });
}

#[test]
fn without_any_upstream_the_client_is_told_and_it_is_counted() {
    on_every_backend(|backend| {
        let kept = [nobody(), nobody()];
        let rig = Rig::start(backend, settings(&kept.each_ref().map(|(_, at)| *at)));
        assert_reset(&rig.connect());
        let over = rig.wait_until("over", |snapshot| closed(&snapshot.counters) == 1);
        assert_eq!(over.counters.closed_connect_failed, 1);
        let failures = over.upstreams.iter().map(|known| known.counters.connect_failures);
        assert_eq!(failures.sum::<u64>(), 2);
        rig.worker.stop();
    });
}

/// A listener whose queue is full does not answer: the kernel drops what comes.
#[test]
fn an_upstream_that_does_not_answer_is_replaced_and_holds_up_nobody() {
    on_every_backend(|backend| {
        let (silent, to_silent) = nobody();
        silent.listen(0).unwrap();
        let _fills_the_queue = TcpStream::connect(to_silent).unwrap();
        let (listener, to) = listener();
        let settings =
            RelaySettings { connect_timeout_ns: 300_000_000, ..settings(&[to_silent, to]) };
        let rig = Rig::start(backend, settings);
        // The first waits for the silent one; those behind it do not wait for the first.
        let first = rig.connect();
        let connecting = |snapshot: &RelaySnapshot| snapshot.upstreams[0].counters.connecting == 1;
        rig.wait_until("trying", connecting);
        let second = rig.connect();
        let upstream = accept(&listener);
        pass(&second, &upstream, b"at once");
        assert_eq!(rig.upstream(0).connect_failures, 0);
        let upstream = accept(&listener);
        pass(&first, &upstream, b"in the end");
        assert_eq!(rig.upstream(0).connect_failures, 1);
        rig.worker.stop();
    });
}

#[test]
fn a_flood_above_the_limit_is_refused_and_disturbs_nobody() {
    on_every_backend(|backend| {
        let (listener, to) = listener();
        let rig = Rig::start(backend, RelaySettings { connections_max: 2, ..settings(&[to]) });
        let pairs = [(); 2].map(|()| {
            let client = rig.connect();
            (client, accept(&listener))
        });
        for flood in 1..=200 {
            let refused = rig.connect();
            assert!(matches!((&refused).read(&mut [0; 8]), Ok(0) | Err(_)));
            let told = rig.wait_until("refused", |now| now.counters.refused_limit >= flood);
            assert_eq!((told.counters.refused_limit, told.counters.connections), (flood, 2));
            let (client, upstream) = &pairs[usize::try_from(flood % 2).unwrap()];
            pass(client, upstream, b"undisturbed");
        }
        // Whoever leaves makes room.
        let [(client, upstream), _other] = pairs;
        drop((client, upstream));
        rig.wait_until("room", |snapshot| snapshot.counters.connections_active == 1);
        let client = rig.connect();
        pass(&client, &accept(&listener), b"welcome");
        rig.worker.stop();
    });
}

#[test]
fn a_client_that_never_reads_costs_one_buffer_until_it_is_idle() {
    on_every_backend(|backend| {
        let (listener, to) = listener();
        let idle_timeout_ns = Some(700_000_000);
        let rig = Rig::start(backend, RelaySettings { idle_timeout_ns, ..settings(&[to]) });
        let client = rig.connect();
        let upstream = accept(&listener);
        upstream.set_nonblocking(true).unwrap();
        let moved = || rig.upstream(0);
        while closed(&rig.counters()) == 0 {
            let _ = (&upstream).write(&[1; 70_000]);
            let moved = moved();
            let waits = moved.upstream_read_bytes - moved.client_written_bytes;
            assert!(waits <= u64::try_from(RELAY_BUFFER_BYTES).unwrap(), "{moved:?}");
        }
        assert_eq!(rig.counters().closed_idle, 1);
        // What it reads now is cut off, and looks so.
        assert_reset(&client);
        rig.worker.stop();
    });
}

#[test]
fn a_drained_relay_finishes_what_there_is_and_says_so() {
    on_every_backend(|backend| {
        let (listener, to) = listener();
        let mut rig = Rig::start(backend, settings(&[to]));
        let client = rig.connect();
        let upstream = accept(&listener);
        rig.worker.change(Change::Finish);
        // Those who still get in are served, too.
        while TcpStream::connect(rig.to).is_ok() {}
        pass(&client, &upstream, b"still served");
        assert!(rig.reports.try_recv().is_err());
        drop((client, upstream));
        listener.set_nonblocking(true).unwrap();
        while rig.counters().connections_active > 0 {
            drop(listener.accept());
        }
        assert_eq!(rig.reports.blocking_recv(), Some(Report::Finished(RELAY)));
        assert_eq!(rig.counters().connections_active, 0);
        rig.worker.stop();
    });
}

#[test]
fn when_the_grace_is_over_the_rest_is_closed_with_a_count() {
    on_every_backend(|backend| {
        let (listener, to) = listener();
        let mut rig = Rig::start(backend, settings(&[to]));
        let pairs = [(); 3].map(|()| {
            let client = rig.connect();
            (client, accept(&listener))
        });
        rig.worker.change(Change::DrainRelay(RELAY));
        rig.worker.change(Change::EndRelay(RELAY, CloseReason::GraceOver));
        assert_eq!(rig.reports.blocking_recv(), Some(Report::Finished(RELAY)));
        let counters = rig.counters();
        assert_eq!((counters.closed_grace_over, counters.connections_active), (3, 0));
        for (client, upstream) in &pairs {
            // Nothing was under way, so nothing looks cut off.
            assert_eq!((read_to_end(client), read_to_end(upstream)), (vec![], vec![]));
        }
        rig.worker.stop();
    });
}

#[test]
fn proxy_headers_are_read_and_written_and_counted_as_nothing() {
    on_every_backend(|backend| {
        for version in [Version::V1, Version::V2] {
            let (listener, to) = listener();
            let settings =
                RelaySettings { proxy_in: true, proxy_out: Some(version), ..settings(&[to]) };
            let rig = Rig::start(backend, settings);
            let client = rig.connect();
            let told = SocketAddr::from(([192, 0, 2, 7], 4_711));
            let mut header = Vec::new();
            proxy_protocol::encode(Version::V2, told, rig.to, &mut header);
            // In pieces, the last of which is not only header.
            let (one, rest) = header.split_at(9);
            (&client).write_all(one).unwrap();
            std::thread::park_timeout(Duration::from_millis(20));
            (&client).write_all(&[rest, b"early"].concat()).unwrap();
            let upstream = accept(&listener);
            let mut expected = Vec::new();
            proxy_protocol::encode(version, told, rig.to, &mut expected);
            expected.extend_from_slice(b"early");
            let mut got = vec![0; expected.len()];
            (&upstream).read_exact(&mut got).unwrap();
            assert_eq!(got, expected);
            let moved = rig.wait_until("counted", |snapshot| {
                snapshot.upstreams[0].counters.upstream_written_bytes == 5
            });
            assert_eq!(moved.upstreams[0].counters.client_read_bytes, 5);
            let clients = rig.stats.relay_clients();
            assert_eq!(clients[0].1[0].client, Some(told.ip()));
            assert_eq!(clients[0].1[0].counters.read_bytes, 5);
            // What is no header is not relayed.
            let liar = rig.connect();
            (&liar).write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
            rig.wait_until("refused", |snapshot| snapshot.counters.closed_bad_header == 1);
            assert!(matches!((&liar).read(&mut [0; 8]), Ok(0) | Err(_)));
            rig.worker.stop();
        }
    });
}

#[test]
fn the_kernels_numbers_of_both_sides_are_sampled_while_somebody_looks() {
    if !cfg!(target_os = "linux") {
        return;
    }
    on_every_backend(|backend| {
        let (listener, to) = listener();
        let rig = Rig::start(backend, settings(&[to]));
        let client = rig.connect();
        let upstream = accept(&listener);
        let sampled = |snapshot: &RelaySnapshot| snapshot.upstreams[0].rtt.len() == 2;
        while !sampled(&rig.snapshot()) {
            pass(&client, &upstream, b"ping");
            pass(&upstream, &client, b"pong");
        }
        rig.worker.stop();
    });
}
