//! The defects of Monkey D. TCP, each by its number, held against `rttscope relay`: what a client
//! of it would have met, this relay must not do.

use std::io::{PipeReader, Read, Write};
use std::net::{IpAddr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::clients::{connect, exchange, is_closed_within, noise, ping};
use crate::http;
use crate::prometheus::is_installed;
use crate::relay::{ACCEPTED, ACTIVE, CLOSED, CONNECT_FAILURES, REFUSED, relay};
use crate::run::{PATIENCE, Run};
use crate::servers::{self, Server, raw_echo};
use crate::site::{Place, Site, report_skip};

on_each_io! {
    d1_old_readers_and_prometheus_read_the_same_text,
    d2_no_exchange_waits_for_a_delayed_acknowledgement,
    d3_an_answer_after_the_end_of_the_question_arrives,
    d4_sigterm_lets_connections_finish,
    d4_the_end_of_the_grace_period_closes_and_counts,
    d5_a_log_that_nobody_reads_stalls_nothing,
    d6_an_upstream_that_does_not_answer_blocks_nobody_else,
    d7_connections_that_are_over_leave_nothing_behind,
    d7_without_descriptors_it_relays_on_and_recovers,
    d8_an_upstream_that_refuses_is_counted,
    d9_idle_connections_are_closed,
    d9_clients_beyond_the_limit_are_refused,
    d9_ipv6_is_relayed_to_ipv4_and_back,
    d10_both_documents_have_one_value_for_each_name,
}

fn echo(site: &Site) -> Server {
    Server::start(&Place::Here, site.responder_ip(), raw_echo)
}

fn d1_old_readers_and_prometheus_read_the_same_text(site: &Site) {
    let server = echo(site);
    let run = relay(site, &[server.address], "");
    ping(&connect(&Place::Here, run.relay_address()), b"hello");
    let response = run.fetch("/metrics?format=text");
    assert!(response.header("content-type").unwrap().contains("version=0.0.4"));
    let names: Vec<&str> =
        response.body.lines().map(|line| line.split(' ').next().unwrap()).collect();
    let known = ["connections_active", "connections_total", "bytes_upstream", "bytes_downstream"];
    assert_eq!(names, known);
    assert!(response.body.ends_with('\n'), "the last line ends");
    let address = run.http_address();
    for path in ["/metrics?format=text", "/metrics"] {
        let text = http::fetch_as(address, path, "text/plain").body;
        check_by_promtool("relay_defects::d1", path, &text);
    }
}

/// Prometheus' own tool parses the text; what it thinks of the old names is no matter.
fn check_by_promtool(test: &str, path: &str, text: &str) {
    if !is_installed("promtool") {
        return report_skip(test, "no `promtool` on the search path");
    }
    let mut command = std::process::Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut tool = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    tool.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = tool.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!said.contains("error while linting") && !said.contains("parsing"), "{path}: {said}");
    // 3: it parses, but a name could be better.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{path}: {:?} {said}", output.status);
}

fn d2_no_exchange_waits_for_a_delayed_acknowledgement(site: &Site) {
    let server = echo(site);
    let run = relay(site, &[server.address], "");
    let stream = connect(&Place::Here, run.relay_address());
    for bytes in [64, 1_000, 8 << 10, 64 << 10] {
        let message = noise(7, bytes);
        let one = || {
            let started = Instant::now();
            ping(&stream, &message);
            started.elapsed()
        };
        // The quickest of many: noise makes some slow, Nagle's algorithm against a delayed
        // acknowledgement makes every one of them.
        let quickest = (0..30).map(|_| one()).min().unwrap();
        assert!(quickest < DELAYED_ACKNOWLEDGEMENT, "{bytes} bytes take {quickest:?}");
    }
}

fn d3_an_answer_after_the_end_of_the_question_arrives(site: &Site) {
    let server = Server::start(&Place::Here, site.responder_ip(), |connection| {
        let mut question = Vec::new();
        let mut buffer = [0; 4096];
        while let Some(length) = connection.read(&mut buffer) {
            question.extend_from_slice(&buffer[..length]);
        }
        connection.pause(Duration::from_millis(50))?;
        question.reverse();
        connection.write(&question)
    });
    let run = relay(site, &[server.address], "");
    let mut stream = connect(&Place::Here, run.relay_address());
    let mut question = noise(9, 300_000);
    stream.write_all(&question).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    question.reverse();
    assert!(answer == question, "{} of {} bytes came back", answer.len(), question.len());
    run.scrape_until("closed by the client's end", |now| {
        now.count(CLOSED, &[("reason", "client")]) == 1
    });
}

fn d4_sigterm_lets_connections_finish(site: &Site) {
    for signal in [Signal::TERM, Signal::INT] {
        let server = echo(site);
        let mut run = relay(site, &[server.address], "--grace=60s");
        let at = run.relay_address();
        let stream = connect(&Place::Here, at);
        ping(&stream, b"before");
        run.signal(signal);
        run.wait_for_stderr("accepting no more");
        for _ in 0..20 {
            ping(&stream, b"while it ends");
            thread::sleep(Duration::from_millis(10));
        }
        assert!(refuses_soon(at), "it still accepts");
        assert!(!run.ends_within(Duration::from_millis(50)), "a connection is still there");
        drop(stream);
        let ending = run.wait();
        assert_eq!(ending.code, Some(0), "{ending:?}");
        let said = ending.stderr.join("\n");
        assert!(said.contains("relay stopped") && said.contains("cut=0"), "{said}");
    }
}

fn d4_the_end_of_the_grace_period_closes_and_counts(site: &Site) {
    let server = echo(site);
    let mut run = relay(site, &[server.address], "--grace=300ms");
    let streams: Vec<_> = (0..3).map(|_| connect(&Place::Here, run.relay_address())).collect();
    streams.iter().for_each(|stream| ping(stream, b"here"));
    let started = Instant::now();
    run.signal(Signal::TERM);
    for stream in &streams {
        assert!(is_closed_within(stream, PATIENCE));
    }
    assert!(started.elapsed() >= Duration::from_millis(300), "they had their time");
    let ending = run.wait();
    let said = ending.stderr.join("\n");
    assert_eq!(ending.code, Some(0), "{said}");
    assert!(said.contains("cut=3"), "{said}");
}

/// Whether connecting is refused, at the latest after our patience.
fn refuses_soon(at: SocketAddr) -> bool {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if TcpStream::connect_timeout(&at, PATIENCE).is_err() {
            return true;
        }
        thread::sleep(Duration::from_millis(10));
    }
    false
}

fn d5_a_log_that_nobody_reads_stalls_nothing(site: &Site) {
    let server = echo(site);
    // Its address cannot be read from a log that nobody reads.
    let free = TcpListener::bind((site.responder_ip(), 0)).unwrap().local_addr().unwrap();
    let (_unread, stdout) = full_pipe();
    let (_unread_too, stderr) = full_pipe();
    let words = format!(
        "relay --io={} --listen={free} --upstream={} --check-interval=off --summary-interval=100ms \
         --log.level=debug --web.listen-address=127.0.0.1:0",
        site.io.name(),
        server.address
    );
    let _run = Run::start_into(&Place::Here, &words, stdout, stderr);
    let started = Instant::now();
    while TcpStream::connect(free).is_err() {
        assert!(started.elapsed() < PATIENCE, "it never listens");
        thread::sleep(Duration::from_millis(10));
    }
    for _ in 0..300 {
        let stream = connect(&Place::Here, free);
        ping(&stream, b"a line for each connection, and more");
    }
    let stream = connect(&Place::Here, free);
    for number in 0..2_000 {
        ping(&stream, &noise(number + 1, 500));
    }
}

/// A pipe without room, which its reader does not empty.
fn full_pipe() -> (PipeReader, Stdio) {
    let (reader, mut writer) = std::io::pipe().unwrap();
    let flags = rustix::fs::fcntl_getfl(&writer).unwrap();
    rustix::fs::fcntl_setfl(&writer, flags | rustix::fs::OFlags::NONBLOCK).unwrap();
    while writer.write(&[b'x'; 4096]).is_ok() {}
    rustix::fs::fcntl_setfl(&writer, flags).unwrap();
    (reader, writer.into())
}

fn d6_an_upstream_that_does_not_answer_blocks_nobody_else(site: &Site) {
    let server = echo(site);
    let (_held, silent) = silent_address(site.responder_ip());
    // In turns: every second client is first sent to the one that does not answer.
    let words = "--connect-timeout=30s --attempts=1";
    let run = relay(site, &[silent, server.address], words);
    let at = run.relay_address();
    let waiting: Vec<_> = (0..8).map(|_| connect(&Place::Here, at)).collect();
    let served = |stream: &TcpStream| {
        (&*stream).write_all(b"anybody there?").unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
        (&*stream).read_exact(&mut [0; 14]).is_ok()
    };
    // Half of them connected, although the others wait for as long as they may.
    let answered = waiting.iter().filter(|stream| served(stream)).count();
    assert_eq!(answered, 4, "every second one");
    let now = run.scrape();
    assert_eq!(now.count("tcp_relay_connecting", &[]), 4);
    drop(run);
    // With another attempt nobody is lost.
    let run = relay(site, &[silent, server.address], "--connect-timeout=200ms");
    for _ in 0..4 {
        ping(&connect(&Place::Here, run.relay_address()), b"who is there?");
    }
    let now = run.scrape();
    let label = silent.to_string();
    assert!(now.count(CONNECT_FAILURES, &[("upstream", &label)]) >= 1);
    assert_eq!(now.count(CLOSED, &[("reason", "connect_failed")]), 0);
}

/// An address that drops SYNs: its accept queue is full, and stays so while the sockets live.
fn silent_address(ip: IpAddr) -> (Vec<Socket>, SocketAddr) {
    let domain = if ip.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
    let listener = Socket::new(domain, Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::new(ip, 0).into()).unwrap();
    listener.listen(0).unwrap();
    let address = listener.local_addr().unwrap();
    let mut held = vec![listener];
    for _ in 0..4 {
        let filler = Socket::new(domain, Type::STREAM, None).unwrap();
        filler.set_nonblocking(true).unwrap();
        drop(filler.connect(&address));
        held.push(filler);
    }
    thread::sleep(Duration::from_millis(50));
    (held, address.as_socket().unwrap())
}

fn d7_connections_that_are_over_leave_nothing_behind(site: &Site) {
    let server = echo(site);
    let run = relay(site, &[server.address], "");
    let at = run.relay_address();
    let settled = |count: u64| {
        run.scrape_until("all are over", |now| {
            now.count(ACCEPTED, &[]) == count && now.count(ACTIVE, &[]) == 0
        })
    };
    let rounds = |count: usize| {
        for _ in 0..count {
            ping(&connect(&Place::Here, at), b"in and out");
        }
    };
    rounds(200);
    let before = settled(200);
    rounds(2_000);
    let after = settled(2_200);
    let fds = |now: &crate::exposition::Exposition| now.one("process_open_fds", &[]);
    assert!(fds(&after) <= fds(&before) + 8.0, "{} fds, then {}", fds(&before), fds(&after));
    let bytes = |now: &crate::exposition::Exposition| now.one("process_resident_memory_bytes", &[]);
    let grown = bytes(&after) - bytes(&before);
    // Less than half a page for each of them would still be more.
    assert!(grown < 2_000.0 * 2_048.0, "{grown} bytes more after 2,000 connections");
    assert_eq!(after.count(CLOSED, &[]), 2_200, "each has a reason");
}

fn d7_without_descriptors_it_relays_on_and_recovers(site: &Site) {
    let server = echo(site);
    let run = relay(site, &[server.address], "");
    let at = run.relay_address();
    run.http_address();
    // The program raises its limit at the start, so it is lowered afterwards.
    run.limit_descriptors(DESCRIPTORS);
    let first = connect(&Place::Here, at);
    ping(&first, b"one");
    // The kernel completes these handshakes; most cannot be accepted, or get no upstream, which is
    // told by a reset: it may come so soon that connecting fails.
    let try_to_connect = || TcpStream::connect_timeout(&at, PATIENCE);
    let waiting: Vec<_> = (0..2 * DESCRIPTORS).map(|_| try_to_connect()).collect();
    let before = (run.cpu_time(), Instant::now());
    thread::sleep(Duration::from_secs(2));
    let (cpu, wall) = (run.cpu_time() - before.0, before.1.elapsed());
    assert!(cpu < wall / 3, "{cpu:?} of CPU in {wall:?} without a descriptor");
    ping(&first, b"still there");
    run.limit_descriptors(4_000);
    drop(waiting);
    let started = Instant::now();
    loop {
        let again = try_to_connect().and_then(|mut stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.write_all(b"again")?;
            stream.read_exact(&mut [0; 5])
        });
        if again.is_ok() {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "it never recovers: {again:?}");
        thread::sleep(Duration::from_millis(20));
    }
    let errors = run.scrape().count("tcp_relay_accept_errors_total", &[]);
    let local = run.scrape().count(CLOSED, &[("reason", "local")])
        + run.scrape().count(CLOSED, &[("reason", "connect_failed")]);
    assert!(errors + local >= 1, "nobody was told of it");
}

fn d8_an_upstream_that_refuses_is_counted(site: &Site) {
    let (_held, closed) = servers::refusing_address(&Place::Here, site.responder_ip());
    let run = relay(site, &[closed], "--log.level=debug");
    for _ in 0..3 {
        // The reset may come so soon that connecting fails.
        let client = TcpStream::connect(run.relay_address());
        assert!(client.is_err() || is_closed_within(&client.unwrap(), PATIENCE));
    }
    let label = closed.to_string();
    let now = run.scrape_until("three reasons", |now| {
        now.count(CLOSED, &[("reason", "connect_failed")]) == 3
    });
    assert_eq!(now.count(CONNECT_FAILURES, &[("upstream", &label)]), 3);
    assert_eq!(now.count("tcp_relay_upstream_up", &[("upstream", &label)]), 0);
    run.wait_for_stderr("reason=\"connect_failed\"");
}

fn d9_idle_connections_are_closed(site: &Site) {
    let server = echo(site);
    let run = relay(site, &[server.address], "--idle-timeout=500ms");
    let (idle, active) =
        (connect(&Place::Here, run.relay_address()), connect(&Place::Here, run.relay_address()));
    ping(&idle, b"once");
    let started = Instant::now();
    while !is_closed_within(&idle, Duration::from_millis(50)) {
        ping(&active, b"again");
        assert!(started.elapsed() < PATIENCE, "an idle connection stays open");
    }
    assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
    ping(&active, b"and again");
    assert_eq!(run.scrape().count(CLOSED, &[("reason", "idle")]), 1);
}

fn d9_clients_beyond_the_limit_are_refused(site: &Site) {
    let server = echo(site);
    let run = relay(site, &[server.address], "--max-connections=5");
    let at = run.relay_address();
    let mut kept: Vec<_> = (0..5).map(|_| connect(&Place::Here, at)).collect();
    kept.iter().for_each(|stream| ping(stream, b"kept"));
    for _ in 0..50 {
        assert!(is_closed_within(&connect(&Place::Here, at), PATIENCE), "one too many is served");
    }
    kept.iter().for_each(|stream| ping(stream, b"undisturbed"));
    let now = run.scrape();
    assert_eq!((now.count(REFUSED, &[]), now.count(ACTIVE, &[])), (50, 5));
    assert_eq!(now.count(ACCEPTED, &[]), 5);
    // Room again as soon as one has gone.
    drop(kept.pop());
    run.scrape_until("room", |now| now.count(ACTIVE, &[]) == 4);
    ping(&connect(&Place::Here, at), b"next");
}

fn d9_ipv6_is_relayed_to_ipv4_and_back(site: &Site) {
    let v6 = Server::start(&Place::Here, Ipv6Addr::LOCALHOST.into(), raw_echo);
    let v4 = echo(site);
    for (listen, upstream) in
        [("[::1]:0", v4.address), ("127.0.0.1:0", v6.address), ("[::1]:0", v6.address)]
    {
        let words = format!(
            "relay --io={} --listen={listen} --upstream={upstream} --check-interval=off \
             --web.listen-address=127.0.0.1:0",
            site.io.name()
        );
        let run = Run::start(&Place::Here, &words);
        let stream = connect(&Place::Here, run.relay_address());
        exchange(&stream, &noise(5, 200_000), &[1, 7_000], Duration::ZERO);
    }
}

fn d10_both_documents_have_one_value_for_each_name(site: &Site) {
    let server = echo(site);
    let run = relay(site, &[server.address], "");
    let stream = connect(&Place::Here, run.relay_address());
    ping(&stream, &noise(3, 1_234));
    run.scrape_until("all bytes", |now| {
        now.count("tcp_relay_written_bytes_total", &[("side", "client")]) == 1_234
    });
    let text = run.fetch("/metrics?format=text").body;
    let response = run.fetch("/metrics?format=json");
    assert_eq!(response.header("content-type"), Some("application/json"));
    let json: Value = serde_json::from_str(&response.body).unwrap();
    for line in text.lines() {
        let (name, value) = line.split_once(' ').unwrap();
        assert_eq!(json[name].to_string(), value, "{name}: {json}");
    }
    // The names that readers of the JSON know.
    let known = ["active_connections", "total_connections", "bytes_upstream", "bytes_downstream"];
    assert_eq!(known.map(|name| json[name].as_u64()), [1, 1, 1_234, 1_234].map(Some));
}

/// The shortest that Linux delays an acknowledgement (`TCP_DELACK_MIN`).
const DELAYED_ACKNOWLEDGEMENT: Duration = Duration::from_millis(40);
/// Enough to start with, and less than the connections.
const DESCRIPTORS: u64 = 60;
