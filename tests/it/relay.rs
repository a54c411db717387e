//! `rttscope relay` end to end: what it relays, whom it chooses, what it tells of itself, and that
//! every number is what the test itself counted.

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::clients::{connect, exchange, is_closed_within, noise, ping};
use crate::exposition::Exposition;
use crate::run::{PATIENCE, Run};
use crate::servers::{self, Server, raw_echo};
use crate::site::{Place, Site};

on_each_io! {
    bytes_come_through_as_they_are,
    every_moment_agrees_with_an_independent_count,
    clients_go_round_the_upstreams,
    a_drained_upstream_gets_nobody,
    checks_take_an_upstream_out_and_bring_it_back,
    headers_tell_upstreams_of_the_client,
    a_client_without_a_header_is_closed,
    a_restart_with_a_shared_port_refuses_nobody,
    systemd_s_socket_is_taken,
    a_second_signal_ends_at_once,
    several_listeners_from_a_file,
    a_reload_drains_an_upstream,
    the_heaviest_clients_are_told,
    the_log_tells_of_connections_and_sums_up,
    both_sides_round_trips_are_sampled,
}

pub(crate) const ACCEPTED: &str = "tcp_relay_accepted_total";
pub(crate) const ACTIVE: &str = "tcp_relay_clients_active";
pub(crate) const CLOSED: &str = "tcp_relay_closed_total";
pub(crate) const REFUSED: &str = "tcp_relay_refused_total";
pub(crate) const CONNECT_FAILURES: &str = "tcp_relay_connect_failures_total";
const CONNECTIONS: &str = "tcp_relay_connections_total";
const READ: &str = "tcp_relay_read_bytes_total";
const WRITTEN: &str = "tcp_relay_written_bytes_total";
const UPSTREAM_UP: &str = "tcp_relay_upstream_up";

/// A relay to these upstreams, which nobody checks.
pub(crate) fn relay(site: &Site, upstreams: &[SocketAddr], words: &str) -> Run {
    checking_relay(site, upstreams, &format!("--check-interval=off {words}"))
}

fn checking_relay(site: &Site, upstreams: &[SocketAddr], words: &str) -> Run {
    let upstreams: Vec<String> =
        upstreams.iter().map(|upstream| format!("--upstream={upstream}")).collect();
    let line = format!(
        "relay --io={} --listen={} {} --web.listen-address=127.0.0.1:0 {words}",
        site.io.name(),
        SocketAddr::new(site.responder_ip(), 0),
        upstreams.join(" ")
    );
    Run::start(&Place::Here, &line)
}

fn echo() -> Server {
    Server::start(&Place::Here, LOCALHOST, raw_echo)
}

fn bytes_come_through_as_they_are(site: &Site) {
    let server = echo();
    let run = relay(site, &[server.address], "");
    thread::scope(|scope| {
        for seed in 1..=8 {
            let at = run.relay_address();
            scope.spawn(move || {
                let stream = connect(&Place::Here, at);
                let parts = [1, 2, 1_000, 64 << 10, 3 * seed];
                let bytes = noise(u64::try_from(seed).unwrap(), 1 << 20);
                exchange(&stream, &bytes, &parts, Duration::ZERO);
            });
        }
    });
    let now = run.scrape_until("all are over", |now| now.count(ACTIVE, &[]) == 0);
    for side in ["client", "upstream"] {
        for family in [READ, WRITTEN] {
            assert_eq!(now.count(family, &[("side", side)]), 8 << 20, "{family} {side}");
        }
    }
    assert_eq!(now.count("tcp_relay_connect_seconds_count", &[]), 8);
    assert_eq!(now.count("tcp_relay_first_byte_seconds_count", &[]), 8);
}

fn every_moment_agrees_with_an_independent_count(site: &Site) {
    let server = echo();
    let run = relay(site, &[server.address], "");
    let at = run.relay_address();
    let (echoed, over) = (AtomicU64::new(0), AtomicBool::new(false));
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 1..=40_u64 {
                let stream = connect(&Place::Here, at);
                for part in 1..=25 {
                    let bytes = noise(round * part, 1_000);
                    ping(&stream, &bytes);
                    echoed.fetch_add(1_000, Ordering::AcqRel);
                }
            }
            over.store(true, Ordering::Release);
        });
        let mut moments = 0;
        while !over.load(Ordering::Acquire) {
            let before = echoed.load(Ordering::Acquire);
            let now = run.scrape();
            let after = echoed.load(Ordering::Acquire);
            // One message may be on its way, or its turn of the thread is not over yet.
            let counts = |family, side| now.count(family, &[("side", side)]);
            let (read, read_back) = (counts(READ, "client"), counts(READ, "upstream"));
            let lower = before.saturating_sub(1_000);
            assert!(lower <= read_back && read_back <= read, "{lower} {read_back} {read}");
            assert!(read <= after + 1_000, "{read} {after}");
            let (written, written_back) = (counts(WRITTEN, "upstream"), counts(WRITTEN, "client"));
            assert!(written <= read && written + 1_000 >= read, "{written} {read}");
            assert!(written_back <= read_back && written_back + 1_000 >= read_back);
            reconcile(&now);
            moments += 1;
        }
        assert!(moments >= 3, "{moments} looks");
    });
    let now = run.scrape_until("all are over", |now| now.count(ACTIVE, &[]) == 0);
    assert_eq!((now.count(ACCEPTED, &[]), now.count(CONNECTIONS, &[])), (40, 40));
    assert_eq!(now.count(WRITTEN, &[("side", "client")]), 1_000_000);
}

/// Whoever was accepted is there, or has a reason to be gone.
fn reconcile(now: &Exposition) {
    let gone: f64 = now.select(CLOSED, &[]).map(|sample| sample.value).sum();
    assert!((now.sum(ACCEPTED, &[]) - now.sum(ACTIVE, &[]) - gone).abs() < 0.5, "{now}");
}

fn clients_go_round_the_upstreams(site: &Site) {
    let servers = [echo(), echo(), echo()];
    let addresses = servers.each_ref().map(|server| server.address);
    for (policy, exact) in
        [("round-robin", true), ("least-connections", true), ("lowest-latency", false)]
    {
        let run = relay(site, &addresses, &format!("--balance={policy}"));
        let streams: Vec<_> = (0..30).map(|_| connect(&Place::Here, run.relay_address())).collect();
        streams.iter().for_each(|stream| ping(stream, b"here"));
        let now = run.scrape();
        let got = addresses.map(|at| now.count(CONNECTIONS, &[("upstream", &at.to_string())]));
        assert_eq!(got.iter().sum::<u64>(), 30);
        assert!(!exact || got == [10, 10, 10], "{policy}: {got:?}");
        assert!(got.iter().all(|got| *got >= 1), "{policy}: {got:?}");
    }
}

fn a_drained_upstream_gets_nobody(site: &Site) {
    let (kept, drained) = (echo(), echo());
    let words = format!("--drain={}", drained.address);
    let run = relay(site, &[kept.address, drained.address], &words);
    for _ in 0..6 {
        ping(&connect(&Place::Here, run.relay_address()), b"here");
    }
    assert_eq!((kept.accepted(), drained.accepted()), (6, 0));
    let label = drained.address.to_string();
    assert_eq!(run.scrape().count("tcp_relay_upstream_draining", &[("upstream", &label)]), 1);
}

fn checks_take_an_upstream_out_and_bring_it_back(site: &Site) {
    let (held, address) = servers::refusing_address(&Place::Here, LOCALHOST);
    let server = echo();
    let words = "--check-interval=20ms --check-timeout=200ms --rise=2 --fall=2";
    let run = checking_relay(site, &[address, server.address], words);
    let label = address.to_string();
    let of = [("upstream", label.as_str())];
    let up = |up: u64| {
        move |now: &Exposition| now.has(UPSTREAM_UP, &of) && now.count(UPSTREAM_UP, &of) == up
    };
    run.scrape_until("it is down", up(0));
    for _ in 0..10 {
        ping(&connect(&Place::Here, run.relay_address()), b"to the other one");
    }
    assert_eq!(run.scrape().count(CONNECT_FAILURES, &[]), 0, "nobody tried the one that is down");
    drop(held);
    let back = Server::start_on(&Place::Here, address, 0, raw_echo);
    run.scrape_until("it is up", up(1));
    for _ in 0..4 {
        ping(&connect(&Place::Here, run.relay_address()), b"to either");
    }
    assert!(back.received().iter().filter(|bytes| !bytes.is_empty()).count() >= 1);
    run.wait_for_stderr("upstream is up");
}

fn headers_tell_upstreams_of_the_client(site: &Site) {
    let server = echo();
    // One relay writes the header, the next one reads and writes it again, the server sees it.
    for (first, second) in [("v1", "v2"), ("v2", "v1")] {
        let inner = relay(
            site,
            &[server.address],
            &format!("--proxy-in --proxy-out={second} --log.level=debug"),
        );
        let outer = relay(site, &[inner.relay_address()], &format!("--proxy-out={first}"));
        let stream = connect(&Place::Here, outer.relay_address());
        let (from, to) = (stream.local_addr().unwrap(), outer.relay_address());
        let (from_ip, to_ip) = (from.ip(), to.ip());
        let line = format!("PROXY TCP4 {from_ip} {to_ip} {} {}\r\n", from.port(), to.port());
        let header = if second == "v1" { line.into_bytes() } else { v2_header(from, to) };
        (&stream).write_all(b"payload").unwrap();
        let mut echoed = vec![0; header.len() + 7];
        (&stream).read_exact(&mut echoed).unwrap();
        assert_eq!(echoed, [&header[..], b"payload"].concat());
        let now = inner.scrape();
        assert_eq!(now.count(READ, &[("side", "client")]), 7, "a header is no payload");
        drop(stream);
        inner.wait_for_stderr(&format!("client={from}"));
    }
}

fn v2_header(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    for address in [from, to] {
        let IpAddr::V4(ip) = address.ip() else { panic!("{address}") };
        header.extend(ip.octets());
    }
    header.extend(from.port().to_be_bytes());
    header.extend(to.port().to_be_bytes());
    header
}

fn a_client_without_a_header_is_closed(site: &Site) {
    let server = echo();
    let run = relay(site, &[server.address], "--proxy-in --connect-timeout=300ms");
    let at = run.relay_address();
    let wrong = connect(&Place::Here, at);
    (&wrong).write_all(b"GET / HTTP/1.1\r\n").unwrap();
    let silent = connect(&Place::Here, at);
    assert!(is_closed_within(&wrong, PATIENCE) && is_closed_within(&silent, PATIENCE));
    run.scrape_until("both have a reason", |now| {
        now.count(CLOSED, &[("reason", "bad_header")]) == 2
    });
    assert_eq!(server.accepted(), 0);
}

fn a_restart_with_a_shared_port_refuses_nobody(site: &Site) {
    let server = echo();
    let free = TcpListener::bind((LOCALHOST, 0)).unwrap().local_addr().unwrap();
    let start = || {
        let line = format!(
            "relay --io={} --listen={free} --reuse-port --upstream={} --check-interval=off \
             --web.listen-address=127.0.0.1:0",
            site.io.name(),
            server.address
        );
        let run = Run::start(&Place::Here, &line);
        run.relay_address();
        run
    };
    let mut old = start();
    let (over, served) = (AtomicBool::new(false), AtomicU64::new(0));
    let _new = thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                while !over.load(Ordering::Acquire) {
                    // Refused or reset is a failure.
                    ping(&connect(&Place::Here, free), b"is anybody there, always?");
                    served.fetch_add(1, Ordering::AcqRel);
                }
            });
        }
        let wait_for_more = |count: u64| {
            let (from, started) = (served.load(Ordering::Acquire), Instant::now());
            while served.load(Ordering::Acquire) < from + count {
                assert!(started.elapsed() < PATIENCE, "nobody is served");
                thread::sleep(Duration::from_millis(1));
            }
        };
        wait_for_more(50);
        let new = start();
        wait_for_more(50);
        old.signal(Signal::TERM);
        assert_eq!(old.wait().code, Some(0));
        wait_for_more(50);
        over.store(true, Ordering::Release);
        assert!(new.scrape().count(ACCEPTED, &[]) >= 50);
        // It outlives its last clients.
        new
    });
}

fn systemd_s_socket_is_taken(site: &Site) {
    let server = echo();
    let listener = TcpListener::bind((LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    // A shell knows its own number, which is that of the program it becomes.
    let line = format!(
        "LISTEN_FDS=1 LISTEN_PID=$$ exec \"$0\" relay --io={} --systemd-socket \
         --upstream={} --check-interval=off --threads=2 \
         --web.listen-address=127.0.0.1:0",
        site.io.name(),
        server.address
    );
    let mut command = Command::new("sh");
    command.args(["-c", &line, env!("CARGO_BIN_EXE_rttscope")]).env("NO_COLOR", "1");
    crate::kernel::pass_as_first(&mut command, listener.into());
    let run = Run::spawn(&Place::Here, command, line);
    assert_eq!(run.relay_address(), at);
    for _ in 0..10 {
        ping(&connect(&Place::Here, at), b"here");
    }
    assert_eq!(run.scrape().count(ACCEPTED, &[]), 10);
}

fn a_second_signal_ends_at_once(site: &Site) {
    let server = echo();
    let mut run = relay(site, &[server.address], "--grace=10m");
    let stream = connect(&Place::Here, run.relay_address());
    ping(&stream, b"here");
    run.signal(Signal::TERM);
    run.wait_for_stderr("accepting no more");
    assert!(!run.ends_within(Duration::from_millis(100)));
    run.signal(Signal::TERM);
    assert_eq!(run.wait().code, Some(3));
    assert!(is_closed_within(&stream, PATIENCE));
}

fn several_listeners_from_a_file(site: &Site) {
    let servers = [echo(), echo()];
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let [one, two] = servers.each_ref().map(|server| server.address);
    write!(
        file,
        "relay:\n  listeners:\n  - {{listen: '127.0.0.1:0', upstreams: '{one}'}}\n  \
         - {{listen: '127.0.0.1:0', upstreams: '{two}', health: {{interval: off}}}}\n\
         measuring: {{io: {}, threads: 2}}\nweb: {{listen: '127.0.0.1:0'}}\n",
        site.io.name()
    )
    .unwrap();
    let mut run = Run::start(&Place::Here, &format!("run --config.file={}", file.path().display()));
    run.scrape_until("both listen", |now| now.select(ACTIVE, &[]).count() == 2);
    let now = run.scrape();
    let listeners: Vec<SocketAddr> = now
        .select(ACTIVE, &[])
        .map(|sample| sample.labels.iter().find(|(key, _)| *key == "listener").unwrap())
        .map(|(_, listener)| listener.parse().unwrap())
        .collect();
    for (listener, count) in listeners.iter().zip([3, 5]) {
        for _ in 0..count {
            ping(&connect(&Place::Here, *listener), b"here");
        }
    }
    let carried = |server: &Server| {
        server.received().iter().filter(|bytes| bytes.as_slice() == b"here").count()
    };
    assert_eq!(servers.each_ref().map(carried), [3, 5]);
    let now = run.scrape();
    for (listener, count) in listeners.iter().zip([3, 5]) {
        assert_eq!(now.count(ACCEPTED, &[("listener", &listener.to_string())]), count);
    }
    run.signal(Signal::TERM);
    assert_eq!(run.wait().code, Some(0));
}

fn a_reload_drains_an_upstream(site: &Site) {
    let (kept, drained) = (echo(), echo());
    let file = tempfile::NamedTempFile::new().unwrap();
    let write = |drain: &str| {
        let text = format!(
            "relay:\n  listeners:\n  - {{listen: '127.0.0.1:0', upstreams: ['{}', '{}'], \
             health: {{interval: off}}{drain}}}\nmeasuring: {{io: {}}}\n\
             web: {{listen: '127.0.0.1:0'}}\n",
            kept.address,
            drained.address,
            site.io.name()
        );
        std::fs::write(file.path(), text).unwrap();
    };
    write("");
    let run = Run::start(&Place::Here, &format!("run --config.file={}", file.path().display()));
    let stream = connect(&Place::Here, run.relay_address());
    let other = connect(&Place::Here, run.relay_address());
    ping(&stream, b"to one");
    ping(&other, b"to the other");
    for (drain, draining) in [(format!(", drain: '{}'", drained.address), 1), (String::new(), 0)] {
        write(&drain);
        let response = crate::http::post(run.http_address(), "/-/reload");
        assert_eq!(response.status, 200, "{}", response.body);
        assert!(!response.body.contains("restart"), "{}", response.body);
        let label = drained.address.to_string();
        run.scrape_until("the reload counts", |now| {
            now.count("tcp_relay_upstream_draining", &[("upstream", &label)]) == draining
        });
        let before = drained.accepted();
        for _ in 0..6 {
            ping(&connect(&Place::Here, run.relay_address()), b"here");
        }
        assert_eq!(drained.accepted() - before, if draining == 1 { 0 } else { 3 });
        // Whoever is there may stay.
        ping(&stream, b"still there");
        ping(&other, b"still there");
    }
}

fn the_heaviest_clients_are_told(site: &Site) {
    let server = echo();
    let run = relay(site, &[server.address], "");
    let from = |last: u8, bytes: usize| {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        let source = SocketAddr::from(([127, 0, 0, last], 0));
        socket.bind(&source.into()).unwrap();
        socket.connect(&run.relay_address().into()).unwrap();
        let stream = TcpStream::from(socket);
        ping(&stream, &noise(1, bytes));
        stream
    };
    let _light = from(2, 10);
    drop(from(3, 100_000));
    let _heavy = from(3, 1_000);
    run.scrape_until("one of three is over", |now| now.count(ACTIVE, &[]) == 2);
    let told: Value = serde_json::from_str(&run.fetch("/api/v1/relay/clients").body).unwrap();
    let clients = &told["listeners"][0]["clients"];
    let summed = |at: usize| {
        let client = &clients[at];
        let number = |key: &str| client[key].as_u64().unwrap();
        let counts = ["connections", "connections_active", "read_bytes", "written_bytes"];
        (client["client"].as_str().unwrap().to_owned(), counts.map(number))
    };
    assert_eq!(summed(0), ("127.0.0.3".to_owned(), [2, 1, 101_000, 101_000]), "{told:#}");
    assert_eq!(summed(1), ("127.0.0.2".to_owned(), [1, 1, 10, 10]), "{told:#}");
    assert!(told["listeners"][0]["others"].is_null());
}

fn the_log_tells_of_connections_and_sums_up(site: &Site) {
    let server = echo();
    let words = "--log.level=debug --log.format=json --summary-interval=100ms";
    let run = Run::start(
        &Place::Here,
        &format!(
            "relay --io={} --listen=127.0.0.1:0 --upstream={} --check-interval=off \
             --web.listen-address=127.0.0.1:0 {words}",
            site.io.name(),
            server.address
        ),
    );
    let line: Value = serde_json::from_str(&run.wait_for_stderr("relay listening")).unwrap();
    let at: SocketAddr = line["address"].as_str().unwrap().parse().unwrap();
    ping(&connect(&Place::Here, at), b"hello");
    let line: Value = serde_json::from_str(&run.wait_for_stderr("connection closed")).unwrap();
    assert_eq!((&line["reason"], &line["client_bytes"]), (&"client".into(), &5.into()), "{line}");
    assert_eq!(line["upstream"], server.address.to_string());
    let line: Value = serde_json::from_str(&run.wait_for_stderr("\"relayed\"")).unwrap();
    assert_eq!(line["total"], 1, "{line}");
    // Where nothing happens, nothing is said.
    thread::sleep(Duration::from_millis(300));
    let lines = || run.stderr().iter().filter(|line| line.contains("\"relayed\"")).count();
    let before = lines();
    thread::sleep(Duration::from_millis(500));
    assert_eq!(lines(), before);
}

fn both_sides_round_trips_are_sampled(site: &Site) {
    let server = echo();
    let run = relay(site, &[server.address], "");
    let stream = connect(&Place::Here, run.relay_address());
    run.scrape_until("a round trip of each side", |now| {
        ping(&stream, b"there and back");
        ["client", "upstream"]
            .iter()
            .all(|side| now.has("tcp_relay_rtt_seconds_count", &[("side", side)]))
    });
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
