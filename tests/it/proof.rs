//! The infrastructure, proven without the product: if one of these fails, no other result counts.

use std::net::{SocketAddr, ToSocketAddrs};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::capture::{self, Capture};
use crate::clients;
use crate::exposition::Exposition;
use crate::frames;
use crate::hogs::Hogs;
use crate::lab::PROBER_INTERFACE;
use crate::names::{self, NameServer};
use crate::run::Run;
use crate::servers::{self, Server};
use crate::site::{Family, Io, Path, Place, Site, report_skip};
use crate::turn::{self, Turn};

#[test]
fn capture_sees_every_ping_in_both_directions_v4() {
    check_capture("proof::capture_v4", Family::V4);
}

#[test]
fn capture_sees_every_ping_in_both_directions_v6() {
    check_capture("proof::capture_v6", Family::V6);
}

fn check_capture(name: &str, family: Family) {
    on_veth(name, family, |site| {
        let echo = Server::start(&site.responder_place(), site.responder_ip(), servers::raw_echo);
        let capture = Capture::start(&site.prober_place(), PROBER_INTERFACE);
        let stream = clients::connect(&site.prober_place(), echo.address);
        let before = unix_ns();
        (1..=50).for_each(|sequence| clients::ping(&stream, &frames::v2(sequence, 7)));
        let after = unix_ns();
        drop(stream);
        let segments = capture.stop();

        let syns = segments.iter().filter(|segment| segment.flags & capture::SYN != 0);
        assert_eq!(syns.map(|segment| segment.outgoing).collect::<Vec<_>>(), [true, false]);
        let trips = capture::round_trips(&segments, echo.address);
        assert_eq!(trips.len(), 50);
        let mut last_ns = before;
        for sequence in 1..=50 {
            let trip = trips[&(2, sequence)];
            // Strictly one after the other: each stamp lies between its neighbours.
            assert!(trip.sent_ns >= last_ns && trip.received_ns > trip.sent_ns, "{trip:?}");
            last_ns = trip.received_ns;
        }
        assert!(segments.iter().all(|segment| segment.hops == 64 && segment.traffic_class == 0));
        assert!(last_ns <= after);
    });
}

#[test]
fn capture_times_what_lies_on_the_wire_and_not_in_the_client() {
    on_veth("proof::capture_times", Family::V4, |site| {
        let delay = Duration::from_millis(30);
        let behaviour = servers::split_replies(16, vec![8; 3], delay);
        let server = Server::start(&site.responder_place(), site.responder_ip(), behaviour);
        let capture = Capture::start(&site.prober_place(), PROBER_INTERFACE);
        let stream = clients::connect(&site.prober_place(), server.address);
        (1..=4).for_each(|sequence| clients::ping(&stream, &frames::v1(sequence, 0)));
        let trips = capture::round_trips(&capture.stop(), server.address);
        // A reply in two parts arrives with its last byte.
        let rtts = trips.values().map(|trip| Duration::from_nanos(trip.rtt_ns()));
        let waited: Vec<bool> = rtts.map(|rtt| rtt >= delay).collect();
        assert_eq!(waited[..3], [true; 3]);
    });
}

#[test]
fn namespaces_are_apart_and_leave_with_the_lab() {
    on_veth("proof::namespaces", Family::V4, |site| {
        let echo = Server::start(&site.responder_place(), site.responder_ip(), servers::raw_echo);
        let outside =
            std::net::TcpStream::connect_timeout(&echo.address, Duration::from_millis(200));
        outside.unwrap_err();
        let inside = clients::connect(&site.prober_place(), echo.address);
        assert_eq!(inside.local_addr().unwrap().ip(), site.prober_ip());
        let scoped = format!("[fe80::87:2%{PROBER_INTERFACE}]:9");
        let refused = site.prober_place().run(|| {
            let index = crate::lab::interface_index(PROBER_INTERFACE).unwrap();
            let address = std::net::SocketAddrV6::new("fe80::87:2".parse().unwrap(), 9, 0, index);
            std::net::TcpStream::connect(address).unwrap_err().kind()
        });
        assert_eq!(refused, std::io::ErrorKind::ConnectionRefused, "{scoped}");
    });
}

#[test]
fn a_process_starts_inside_its_place_and_ends_with_its_run() {
    on_veth("proof::process", Family::V4, |site| {
        let mut command = Command::new("sh");
        command.args(["-c", "ip -o link show; echo at=$$ >&2; exec sleep 30"]);
        let run = Run::spawn(&site.prober_place(), command, "sh".to_owned());
        let links = run.wait_for_stdout(2);
        assert!(links.iter().any(|line| line.contains(PROBER_INTERFACE)), "{links:?}");
        let line = run.wait_for_stderr("at=");
        let process = format!("/proc/{}", line.trim_start_matches("at="));
        assert!(std::fs::exists(&process).unwrap());
        drop(run);
        assert!(!std::fs::exists(&process).unwrap());
    });
}

#[test]
fn an_ending_tells_code_signal_lines_and_cpu_time() {
    let _turn = turn::wait_for(Turn::Shared);
    let mut command = Command::new("sh");
    command.args(["-c", "echo one; echo two; echo three >&2; exit 7"]);
    let ending = Run::spawn(&Place::Here, command, "sh".to_owned()).wait();
    assert_eq!((ending.code, ending.signal), (Some(7), None));
    assert_eq!(
        (ending.stdout, ending.stderr),
        (vec!["one".into(), "two".into()], vec!["three".into()])
    );

    let mut command = Command::new("sh");
    command.args(["-c", "while :; do :; done"]);
    let mut busy = Run::spawn(&Place::Here, command, "sh".to_owned());
    assert!(!busy.ends_within(Duration::from_millis(300)));
    assert!(busy.cpu_time() > Duration::ZERO);
    busy.signal(Signal::TERM);
    assert_eq!(busy.wait().signal, Some(Signal::TERM.as_raw()));
}

#[test]
fn servers_behave_as_they_are_told() {
    let _turn = turn::wait_for(Turn::Shared);
    let ip = SocketAddr::from(([127, 0, 0, 1], 0)).ip();
    let here = &Place::Here;

    let server = Server::start(here, ip, servers::like_v02);
    let stream = clients::connect(here, server.address);
    clients::exchange(&stream, &clients::noise(1, 16 * 20), &[1, 2, 40], Duration::ZERO);
    // The server counts a reply after it was written.
    while server.replies() < 20 {
        std::thread::yield_now();
    }
    assert_eq!((server.accepted(), server.replies()), (1, 20));
    assert_eq!(server.received(), [clients::noise(1, 16 * 20)]);

    let server = Server::start(here, ip, servers::strict_v2);
    let stream = clients::connect(here, server.address);
    clients::ping(&stream, &frames::v2(1, 2));
    std::io::Write::write_all(&mut &stream, &[0; 24]).unwrap();
    assert!(clients::is_closed_within(&stream, crate::run::PATIENCE));

    let server = Server::start(here, ip, servers::accept_then_close);
    let stream = clients::connect(here, server.address);
    assert!(clients::is_closed_within(&stream, crate::run::PATIENCE));

    let server = Server::start(here, ip, servers::never_reply);
    let stream = clients::connect(here, server.address);
    assert!(!clients::is_closed_within(&stream, capture::PAUSE));

    let (_held, address) = servers::refusing_address(here, ip);
    let error = std::net::TcpStream::connect(address).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn frames_of_every_version_are_found_behind_their_negotiation() {
    let frames_of = |requests: &[Vec<u8>], replies: &[Vec<u8>]| {
        let (requests, replies) = frames::parse(&requests.concat(), &replies.concat());
        [requests, replies].map(|frames| {
            frames.iter().map(|frame| (frame.version, frame.sequence)).collect::<Vec<_>>()
        })
    };
    let [hello, answer] = [frames::HELLO, frames::HELLO_REPLY].map(|seq| frames::v2(seq, 1));
    let v3 = |sequence: u64, flags: u64, padding: usize| {
        let words = [sequence, 1, 2, 3, 4, flags | u64::try_from(padding).unwrap() << 16];
        let words = words.map(u64::to_le_bytes).concat();
        [frames::V2_MAGIC.to_vec(), words, vec![9; padding]].concat()
    };
    let (one, two) = (frames::v1(1, 5), frames::v1(2, 5));
    let expected = [vec![(1, 1), (1, 2)], vec![(1, 1)]];
    assert_eq!(frames_of(&[one.clone(), two.clone()], std::slice::from_ref(&one)), expected);
    let filled = [hello.clone(), vec![0; 8], one.clone()];
    let held_back = vec![hello[..16].to_vec()];
    assert_eq!(frames_of(&filled, &held_back), [vec![(1, 1)], vec![]]);
    let second = [hello.clone(), frames::v2(1, 5)];
    assert_eq!(frames_of(&second, &second), [vec![(2, 1)], vec![(2, 1)]]);
    let third = [hello, v3(1, 0, 0), v3(1, 1, 0), v3(2, 0, 100), v3(3, 0, 0)];
    let replies = [answer, v3(1, 0, 0), v3(1, 1, 0), v3(2, 0, 100)[..155].to_vec()];
    let expected = [vec![(3, 1), (3, 2), (3, 3)], vec![(3, 1)]];
    assert_eq!(frames_of(&third, &replies), expected);
}

#[test]
fn a_name_gets_the_address_that_the_test_gives_it() {
    on_veth("proof::names", Family::V4, |site| {
        let names = match NameServer::start(&site.lab().prober) {
            Ok(names) => names,
            Err(reason) => return report_skip("proof::names", &reason),
        };
        let resolve = || {
            let target = (names::NAME, 4_000);
            let found = site.prober_place().run(|| target.to_socket_addrs().ok()?.next());
            found.map(|address| address.ip().to_string())
        };
        assert_eq!(resolve(), None);
        names.set(Some([10, 1, 2, 3].into()));
        assert_eq!(resolve().as_deref(), Some("10.1.2.3"));
        names.set(Some([10, 1, 2, 4].into()));
        assert_eq!(resolve().as_deref(), Some("10.1.2.4"));
        assert!(names.questions() >= 3);
    });
}

#[test]
fn slow_servers_take_the_time_they_are_told() {
    let _turn = turn::wait_for(Turn::Shared);
    let ip = SocketAddr::from(([127, 0, 0, 1], 0)).ip();
    let delay = Duration::from_millis(100);
    let server = Server::start(&Place::Here, ip, servers::delay_line(delay));
    let stream = clients::connect(&Place::Here, server.address);
    let started = Instant::now();
    // Forty frames 20 ms apart come back 100 ms late each; one after the other it would be 4 s.
    let frames: Vec<u8> = (1..=40).flat_map(|sequence| frames::v1(sequence, 0)).collect();
    clients::exchange(&stream, &frames, &[16], Duration::from_millis(20));
    assert!((delay + Duration::from_millis(780)..delay * 40).contains(&started.elapsed()));

    let server = Server::start(&Place::Here, ip, servers::stall_once(16, 1, delay));
    let stream = clients::connect(&Place::Here, server.address);
    clients::ping(&stream, &frames::v1(1, 0));
    let started = Instant::now();
    clients::ping(&stream, &frames::v1(2, 0));
    assert!(started.elapsed() >= delay / 2);

    let server = Server::start(&Place::Here, ip, servers::close_after(16, 2));
    let stream = clients::connect(&Place::Here, server.address);
    clients::exchange(&stream, &frames[..32], &[32], Duration::ZERO);
    assert!(clients::is_closed_within(&stream, crate::run::PATIENCE));

    let odd = servers::answer_frames(16, |number, frame| frame.repeat(number % 2));
    let server = Server::start(&Place::Here, ip, odd);
    let stream = clients::connect(&Place::Here, server.address);
    std::io::Write::write_all(&mut &stream, &frames[..32]).unwrap();
    clients::exchange(&stream, &[], &[1], Duration::ZERO);
    server.wait_for_bytes(32, crate::run::PATIENCE);
    let mut echoed = [0; 16];
    std::io::Read::read_exact(&mut &stream, &mut echoed).unwrap();
    assert_eq!(echoed, frames[..16]);
    assert!(!clients::is_closed_within(&stream, capture::PAUSE));
}

#[test]
fn hogs_take_the_cpu_and_go() {
    let _turn = turn::wait_for(Turn::Alone);
    let hogs = match Hogs::start(2, -10) {
        Ok(hogs) => hogs,
        Err(error) => return report_skip("proof::hogs", &format!("no nice -10: {error}")),
    };
    let before = own_cpu_ms();
    std::thread::sleep(Duration::from_millis(300));
    let burnt_ms = own_cpu_ms() - before;
    drop(hogs);
    assert!(burnt_ms >= 150, "hogs burnt {burnt_ms} ms in 300 ms");
}

#[test]
fn expositions_are_read_as_prometheus_reads_them() {
    let exposition = Exposition::parse(
        "# HELP a Some \"text\".\n# TYPE a counter\n\
         a_total{target=\"x,\\\"y\\\\\",address=\"[::1]:4\"} 3 # {id=\"7\"} 1.5\n\
         a_total{target=\"z\",address=\"b\"} 4\n\
         h_bucket{le=\"0.001\"} 2\nh_bucket{le=\"+Inf\"} 5\nplain 1e-3\n# EOF\n",
    );
    assert_eq!(exposition.count("a_total", &[]), 7);
    assert_eq!(exposition.count("a_total", &[("target", "x,\"y\\")]), 3);
    assert_eq!(exposition.one("plain", &[]).to_bits(), 0.001_f64.to_bits());
    assert_eq!(exposition.buckets("h", &[]), [(0.001, 2.0), (f64::INFINITY, 5.0)]);
    assert_eq!(exposition.types["a"], "counter");
    assert!(!exposition.has("a_total", &[("target", "y")]));
}

/// Infrastructure does not depend on the product's backend: any will do for the site.
fn on_veth(name: &str, family: Family, test: impl FnOnce(&Site)) {
    crate::mount::run(name, (Io::Poll, Path::Veth, family), Turn::Shared, test);
}

fn own_cpu_ms() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

fn unix_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}
