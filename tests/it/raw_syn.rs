//! Half-open checks by SYNs of our own, on real interfaces: addresses go in, answers come out, and
//! the wire is looked at. The library's I/O is used directly, on both backends.

use std::collections::BTreeMap;
use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::panic::resume_unwind;
use std::thread;
use std::time::{Duration, Instant};

use rttscope::event::{Answer, Ending, Failure, FlowId};
use rttscope::sample::{CheckClock, Method};
use rttscope::sys::socket::SocketOptions;
use rttscope::sys::{
    CheckSettings, Checks, ClockChoice, IoChoice, IoEvent, IoOptions, MethodChoice, clock,
};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};
use socket2::{Domain, Socket, Type};

use crate::capture::{Capture, SYN};
use crate::lab::{PROBER_INTERFACE, RESPONDER_IPS};
use crate::site::{Io, Place, Site, report_skip};
use crate::turn::{self, Turn};

everywhere! {
    open_and_closed_ports_are_told_apart_and_timed_by_the_kernel,
    a_silent_target_is_given_up_and_its_flow_used_again_at_once,
    a_syn_dropped_once_is_sent_again_and_the_second_is_timed,
    thousands_of_mixed_checks_have_no_wrong_answer,
}

on_each_io_over_veth! {
    errors_on_the_way_are_told,
    link_local_targets_are_asked_in_their_zone,
    more_checks_than_ports_ask_one_target_at_once,
}

alone_over_veth! {
    the_wire_shows_syn_syn_ack_and_reset_and_nothing_is_accepted,
    a_late_answer_reaches_nobody,
    options_shape_the_packets,
}

/// An I/O that checks.
struct Checker {
    io: rttscope::sys::Io,
    answers: Vec<(FlowId, Answer)>,
}

impl Checker {
    /// Opens in the calling thread's namespace; or says why it cannot, having reported the skip.
    fn open(io: Io, test: &str) -> Option<Self> {
        Self::open_towards(io, test, None, SocketOptions::default())
    }

    /// The same; the eBPF programs follow this target.
    fn open_towards(
        io: Io,
        test: &str,
        to: Option<SocketAddr>,
        socket: SocketOptions,
    ) -> Option<Self> {
        let settings = CheckSettings {
            method: MethodChoice::Only(Method::Syn),
            checks_max: 64,
            socket,
            ..CheckSettings::default()
        };
        let checks = match Checks::open(&settings) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                report_skip(test, &error.to_string());
                return None;
            }
            other => other.unwrap(),
        };
        assert_eq!(checks.method(), Method::Syn);
        let follower = checks.follower();
        if let Some(to) = to {
            let Some(follower) = &follower else {
                let gap = checks.capabilities.iter().find(|found| found.name == "ebpf_syn_timer");
                report_skip(test, &gap.unwrap().reason);
                return None;
            };
            follower.follow(to).unwrap();
        }
        let backend = match io {
            Io::Uring => IoChoice::Uring,
            Io::Poll => IoChoice::Poll,
        };
        let options = IoOptions { backend, ..IoOptions::default() };
        let (mut io, _) = rttscope::sys::Io::open(&options).unwrap();
        io.enable_checks(checks).unwrap();
        Some(Self { io, answers: Vec::new() })
    }

    fn check(&mut self, flow: u32, to: SocketAddr) {
        self.io.check(FlowId(flow), to, Ending::Reset);
    }

    /// Runs until so many answers are there, or the time is up.
    fn run(&mut self, answers: usize, patience: Duration) {
        let deadline = clock::mono().after(patience);
        while self.answers.len() < answers && clock::mono() < deadline {
            self.io.wait(Some(deadline)).unwrap();
            self.take();
        }
    }

    fn take(&mut self) {
        while let Some(completion) = self.io.next_completion() {
            match completion.event {
                IoEvent::Answered(answer) => self.answers.push((completion.flow, answer)),
                other => panic!("not an answer: {other:?}"),
            }
        }
    }

    /// What came of one check.
    fn ask(&mut self, to: SocketAddr) -> Answer {
        self.answers.clear();
        self.check(7, to);
        self.run(1, FOR_EVER);
        assert_eq!(self.answers.len(), 1, "{to}");
        assert_eq!(self.answers[0].0, FlowId(7));
        self.answers[0].1
    }
}

/// A listener with room for one connection that nobody has accepted.
struct Narrow {
    socket: Socket,
    address: SocketAddr,
    /// Fills that room.
    _waiting: TcpStream,
}

impl Narrow {
    fn new(site: &Site) -> Self {
        let at = SocketAddr::new(site.responder_ip(), 0);
        site.responder_place().run(|| {
            let socket = Socket::new(Domain::for_address(at), Type::STREAM, None).unwrap();
            socket.bind(&at.into()).unwrap();
            socket.listen(0).unwrap();
            let address = socket.local_addr().unwrap().as_socket().unwrap();
            let waiting = TcpStream::connect(address).unwrap();
            Self { socket, address, _waiting: waiting }
        })
    }
}

fn listen(site: &Site) -> TcpListener {
    let at = SocketAddr::new(site.responder_ip(), 0);
    site.responder_place().run(|| TcpListener::bind(at).unwrap())
}

/// A port at which nobody listens.
fn closed_port(site: &Site) -> SocketAddr {
    let listener = listen(site);
    listener.local_addr().unwrap()
}

fn nobody_was_accepted(listener: &TcpListener) {
    listener.set_nonblocking(true).unwrap();
    let error = listener.accept().unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

/// Does `work` there on a thread without these capabilities.
fn run_without<T: Send>(place: &Place, lost: CapabilitySet, work: impl FnOnce() -> T + Send) -> T {
    let on_thread = || {
        let held = capabilities(None).unwrap();
        let fewer = CapabilitySets {
            effective: held.effective & !lost,
            permitted: held.permitted & !lost,
            inheritable: held.inheritable & !lost,
        };
        set_capabilities(None, fewer).unwrap();
        work()
    };
    let done = place.run(|| thread::scope(|scope| scope.spawn(on_thread).join()));
    done.unwrap_or_else(|panic| resume_unwind(panic))
}

/// Runs a script by either clock: with a checker that the eBPF programs time, or without them.
fn by_each_clock(
    site: &Site,
    test: &str,
    to: SocketAddr,
    script: impl Fn(&mut Checker, CheckClock) + Sync,
) {
    site.prober_place().run(|| {
        if let Some(mut checker) =
            Checker::open_towards(site.io, test, Some(to), SocketOptions::default())
        {
            script(&mut checker, CheckClock::Ebpf);
        }
    });
    let no_ebpf = CapabilitySet::BPF | CapabilitySet::SYS_ADMIN;
    run_without(&site.prober_place(), no_ebpf, || {
        if let Some(mut checker) = Checker::open(site.io, test) {
            // Stamping begins some time after the first socket asks for it.
            let begun = Instant::now();
            while checker.ask(to).rtt.is_none() {
                assert!(begun.elapsed() < FOR_EVER, "the kernel never stamps");
            }
            script(&mut checker, CheckClock::Kernel);
        }
    });
}

fn rtt(answer: &Answer, clock: CheckClock) -> Duration {
    let (by, ns) = answer.rtt.expect("the kernel times it");
    assert_eq!(by, clock);
    Duration::from_nanos(ns)
}

fn open_and_closed_ports_are_told_apart_and_timed_by_the_kernel(site: &Site) {
    let listener = listen(site);
    let (open, closed) = (listener.local_addr().unwrap(), closed_port(site));
    by_each_clock(site, "raw_syn::open", open, |checker, clock| {
        for (to, result) in [(open, Ok(())), (closed, Err(Failure::Refused))] {
            for _ in 0..20 {
                let started = Instant::now();
                let answer = checker.ask(to);
                let elapsed = started.elapsed();
                let expected = Answer { result, rtt: answer.rtt, ..PLAIN };
                assert_eq!(answer, expected, "{to}");
                let rtt = rtt(&answer, clock);
                assert!(!rtt.is_zero() && rtt < elapsed, "{rtt:?} of {elapsed:?}");
            }
        }
    });
    nobody_was_accepted(&listener);
}

fn a_silent_target_is_given_up_and_its_flow_used_again_at_once(site: &Site) {
    let listener = listen(site);
    let open = listener.local_addr().unwrap();
    let narrow = Narrow::new(site);
    site.prober_place().run(|| {
        let Some(mut checker) = Checker::open(site.io, "raw_syn::silent") else { return };
        for round in 0..50 {
            checker.answers.clear();
            checker.check(3, narrow.address);
            if round % 2 == 0 {
                // Half of them before, half after the SYN has left.
                checker.io.submit().unwrap();
                checker.run(1, Duration::from_millis(2));
            }
            assert_eq!(checker.answers, []);
            checker.io.close(FlowId(3));
            checker.check(3, open);
            checker.run(1, FOR_EVER);
            checker.run(2, Duration::from_millis(1));
            let [(FlowId(3), answer)] = checker.answers[..] else {
                panic!("{:?}", checker.answers);
            };
            assert_eq!((answer.result, answer.syn_retransmits), (Ok(()), 0));
        }
    });
    nobody_was_accepted(&listener);
}

fn a_syn_dropped_once_is_sent_again_and_the_second_is_timed(site: &Site) {
    let narrows = [Narrow::new(site), Narrow::new(site)];
    let closed = closed_port(site);
    by_each_clock(site, "raw_syn::dropped", closed, |checker, clock| {
        checker.answers.clear();
        let narrow = &narrows[usize::from(clock == CheckClock::Ebpf)];
        let started = Instant::now();
        checker.check(1, narrow.address);
        checker.run(1, Duration::from_millis(300));
        assert_eq!(checker.answers, [], "the first SYN is dropped");
        narrow.socket.accept().unwrap();
        checker.run(1, FOR_EVER);
        let elapsed = started.elapsed();
        let [(FlowId(1), answer)] = checker.answers[..] else { panic!() };
        assert_eq!((answer.result, answer.syn_retransmits), (Ok(()), 1));
        assert!(elapsed >= Duration::from_secs(1));
        assert!(rtt(&answer, clock) < Duration::from_millis(500), "{answer:?}");
    });
}

fn thousands_of_mixed_checks_have_no_wrong_answer(site: &Site) {
    let listener = listen(site);
    let narrow = Narrow::new(site);
    let targets = [listener.local_addr().unwrap(), closed_port(site), narrow.address];
    site.prober_place().run(|| {
        let Some(mut checker) = Checker::open(site.io, "raw_syn::mixed") else { return };
        let mut asked = [0_usize; CONCURRENCY];
        let (mut begun, mut answered) = (0, [0_usize; 3]);
        let mut begin = |checker: &mut Checker, flow: usize, asked: &mut [usize]| {
            // As many silent ones at once as the listener has half-open places for, and more.
            asked[flow] = begun % 3;
            begun += 1;
            checker.check(u32::try_from(flow).unwrap(), targets[asked[flow]]);
        };
        for flow in 0..CONCURRENCY {
            begin(&mut checker, flow, &mut asked);
        }
        while answered.iter().sum::<usize>() < CHECKS {
            checker.run(1, Duration::from_millis(5));
            for (flow, answer) in std::mem::take(&mut checker.answers) {
                let target = asked[flow.index()];
                let expected = [Ok(()), Err(Failure::Refused)].get(target).copied();
                assert_eq!(Some(answer.result), expected, "target {target}: {answer:?}");
                answered[target] += 1;
                begin(&mut checker, flow.index(), &mut asked);
            }
            // The silent ones are given up, and their flows used for others.
            for flow in 0..CONCURRENCY {
                if asked[flow] == 2 {
                    checker.io.close(FlowId(u32::try_from(flow).unwrap()));
                    begin(&mut checker, flow, &mut asked);
                }
            }
        }
        assert!(answered[0] > 0 && answered[1] > 0 && answered[2] == 0, "{answered:?}");
    });
    nobody_was_accepted(&listener);
}

fn errors_on_the_way_are_told(site: &Site) {
    let lab = site.lab();
    lab.responder.set_sysctl("net/ipv4/ip_forward", "1").unwrap();
    lab.responder.set_sysctl("net/ipv6/conf/all/forwarding", "1").unwrap();
    // Else a second error would be kept back for a second. For IPv4 the mask it is: before Linux
    // 6.13 a limit of 0 empties the tokens of the peer, which unreachable routes need as well.
    lab.responder.set_sysctl("net/ipv4/icmp_ratemask", "0").unwrap();
    lab.responder.set_sysctl("net/ipv6/icmp/ratelimit", "0").unwrap();
    for (prefix, via) in [("10.98.0.0/24", RESPONDER_IPS[0]), ("fd98::/64", RESPONDER_IPS[1])] {
        lab.prober.ip(&format!("route add {prefix} via {via}")).unwrap();
    }
    for (kind, prefixes) in [
        ("unreachable", ["10.98.0.0/28", "fd98::0/124"]),
        ("prohibit", ["10.98.0.16/28", "fd98::10/124"]),
        ("blackhole", ["10.98.0.32/28", "fd98::20/124"]),
    ] {
        for prefix in prefixes {
            lab.responder.ip(&format!("route add {kind} {prefix}")).unwrap();
        }
    }
    site.prober_place().run(|| {
        let Some(mut checker) = Checker::open(site.io, "raw_syn::errors") else { return };
        let unreachable = Answer { result: Err(Failure::Unreachable), ..PLAIN };
        for to in ["10.98.0.1:80", "[fd98::1]:80", "10.98.0.17:80", "[fd98::11]:80", "192.0.2.1:80"]
        {
            // Twice: an error of before must not be another's.
            for _ in 0..2 {
                assert_eq!(checker.ask(to.parse().unwrap()), unreachable, "{to}");
            }
        }
        for to in ["10.98.0.33:80", "[fd98::21]:80"] {
            checker.answers.clear();
            checker.check(7, to.parse().unwrap());
            checker.run(1, Duration::from_millis(200));
            assert_eq!(checker.answers, [], "{to}");
            checker.io.close(FlowId(7));
        }
    });
}

fn link_local_targets_are_asked_in_their_zone(site: &Site) {
    let at: SocketAddr = "[::]:0".parse().unwrap();
    let listener = site.responder_place().run(|| TcpListener::bind(at).unwrap());
    let port = listener.local_addr().unwrap().port();
    site.prober_place().run(|| {
        let Some(mut checker) = Checker::open(site.io, "raw_syn::link_local") else { return };
        let zone = crate::lab::interface_index(PROBER_INTERFACE).unwrap();
        let ip = RESPONDER_IPS[2].parse().unwrap();
        let to = std::net::SocketAddrV6::new(ip, port, 0, zone);
        assert_eq!(checker.ask(to.into()).result, Ok(()));
        // IPv4 in IPv6's clothes is IPv4.
        let mapped = format!("[::ffff:{}]:{port}", RESPONDER_IPS[0]);
        assert_eq!(checker.ask(mapped.parse().unwrap()).result, Ok(()));
    });
    nobody_was_accepted(&listener);
}

fn the_wire_shows_syn_syn_ack_and_reset_and_nothing_is_accepted(site: &Site) {
    let listener = listen(site);
    let to = listener.local_addr().unwrap();
    let capture = Capture::start(&site.prober_place(), PROBER_INTERFACE);
    let checked = site.prober_place().run(|| {
        let Some(mut checker) = Checker::open(site.io, "raw_syn::wire") else { return 0 };
        for flow in 0..200 {
            checker.check(flow, to);
        }
        checker.run(200, FOR_EVER);
        assert!(checker.answers.iter().all(|(_, answer)| answer.result == Ok(())));
        checker.answers.len()
    });
    nobody_was_accepted(&listener);
    let segments = capture.stop();
    let seen: Vec<_> = segments
        .iter()
        .filter(|segment| segment.source == to || segment.destination == to)
        .collect();
    for [syn, answer, reset] in by_connection(&seen, to, checked) {
        assert_eq!((syn.flags, syn.outgoing), (SYN, true));
        assert_eq!((answer.flags, answer.outgoing), (SYN | 0x10, false));
        assert_eq!((reset.flags, reset.outgoing), (0x04, true));
        assert_eq!(reset.number, syn.number.wrapping_add(1));
        assert!(syn.payload.is_empty() && syn.source.ip() == site.prober_ip());
    }
}

fn options_shape_the_packets(site: &Site) {
    let listener = listen(site);
    let to = listener.local_addr().unwrap();
    let ipv6 = to.is_ipv6();
    let second = if ipv6 { "fd87::9" } else { "10.87.0.9" };
    let (length, more) = if ipv6 { ("/64", " nodad") } else { ("/24", "") };
    site.lab()
        .prober
        .ip(&format!("address add {second}{length} dev {PROBER_INTERFACE}{more}"))
        .unwrap();
    let options = SocketOptions {
        source: Some(second.parse().unwrap()),
        interface: Some(PROBER_INTERFACE.to_owned()),
        dscp: Some(46),
        ttl: Some(7),
    };
    let capture = Capture::start(&site.prober_place(), PROBER_INTERFACE);
    let asked = site.prober_place().run(|| {
        let checker = Checker::open_towards(site.io, "raw_syn::options", None, options);
        let Some(mut checker) = checker else { return false };
        assert_eq!(checker.ask(to).result, Ok(()));
        // From there nothing leads to the other family.
        let other = if ipv6 { "10.87.0.2:80" } else { "[fd87::2]:80" };
        let answer = checker.ask(other.parse().unwrap());
        assert!(matches!(answer.result, Err(Failure::Other(_) | Failure::Local(_))), "{answer:?}");
        true
    });
    let segments = capture.stop();
    let syn = segments.iter().find(|segment| segment.outgoing && segment.flags == SYN);
    let seen = syn.map(|syn| (syn.source.ip(), syn.traffic_class, syn.hops));
    assert_eq!(seen, asked.then(|| (second.parse().unwrap(), 46 << 2, 7)));
    nobody_was_accepted(&listener);
}

fn more_checks_than_ports_ask_one_target_at_once(site: &Site) {
    let narrow = Narrow::new(site);
    site.prober_place().run(|| {
        let Some(mut checker) = Checker::open(site.io, "raw_syn::ports") else { return };
        for flow in 0..200 {
            checker.check(flow, narrow.address);
        }
        checker.run(200, Duration::from_millis(50));
        // The block has 128 ports. The others are told at once, and nobody hears of another's.
        let local = Err(Failure::Local(libc::EADDRNOTAVAIL));
        let mut refused: Vec<u32> = checker.answers.iter().map(|(flow, _)| flow.0).collect();
        refused.sort_unstable();
        assert_eq!(refused, (128..200).collect::<Vec<_>>());
        assert!(checker.answers.iter().all(|(_, answer)| answer.result == local));
    });
}

/// The segments of each connection, which are three. Ports are used again, but not at once.
fn by_connection<'a>(
    segments: &[&'a crate::capture::Segment],
    to: SocketAddr,
    connections: usize,
) -> Vec<[&'a crate::capture::Segment; 3]> {
    assert_eq!(segments.len(), 3 * connections);
    let mut by_port: BTreeMap<u16, Vec<_>> = BTreeMap::new();
    for segment in segments {
        let ours = if segment.source == to { segment.destination } else { segment.source };
        by_port.entry(ours.port()).or_default().push(*segment);
    }
    let triples = by_port.values().flat_map(|segments| segments.chunks(3));
    triples.map(|triple| triple.try_into().unwrap()).collect()
}

/// The neighbour is not there yet: the kernel keeps the SYNs, and they all leave when it is.
fn a_late_answer_reaches_nobody(site: &Site) {
    let ipv6 = site.responder_ip().is_ipv6();
    let late = if ipv6 { "fd87::3" } else { "10.87.0.3" };
    let at: SocketAddr = if ipv6 { "[::]:0" } else { "0.0.0.0:0" }.parse().unwrap();
    let listener = site.responder_place().run(|| TcpListener::bind(at).unwrap());
    let to = SocketAddr::new(late.parse().unwrap(), listener.local_addr().unwrap().port());
    let capture = Capture::start(&site.prober_place(), PROBER_INTERFACE);
    let checked = site.prober_place().run(|| {
        let Some(mut checker) = Checker::open(site.io, "raw_syn::late") else { return false };
        for _ in 0..3 {
            checker.check(5, to);
            checker.run(1, Duration::from_millis(20));
            checker.io.close(FlowId(5));
        }
        checker.check(5, to);
        checker.run(1, Duration::from_millis(20));
        assert_eq!(checker.answers, []);
        let (length, more) = if ipv6 { (64, " nodad") } else { (24, "") };
        site.lab()
            .responder
            .ip(&format!("address add {late}/{length} dev responder0{more}"))
            .unwrap();
        checker.run(1, FOR_EVER);
        // What else could come is given time to.
        checker.run(2, Duration::from_millis(200));
        let [(FlowId(5), answer)] = checker.answers[..] else { panic!("{:?}", checker.answers) };
        assert_eq!(answer.result, Ok(()));
        true
    });
    let answers = capture.stop().into_iter().filter(|segment| segment.source == to).count();
    assert!(!checked || answers >= 4, "{answers} late answers");
    nobody_was_accepted(&listener);
}

#[test]
fn without_the_capability_the_remedy_is_told() {
    let _turn = turn::wait_for(Turn::Shared);
    run_without(&Place::Here, CapabilitySet::NET_RAW, || {
        let settings = CheckSettings {
            method: MethodChoice::Only(Method::Syn),
            clock: ClockChoice::Auto,
            checks_max: 1,
            ..CheckSettings::default()
        };
        let error = Checks::open(&settings).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        assert!(error.to_string().contains("setcap cap_net_raw+ep"), "{error}");
    });
}

/// An answer of which only the result and the time differ.
const PLAIN: Answer = Answer { result: Ok(()), rtt: None, syn_retransmits: 0, completed: false };
const CONCURRENCY: usize = 60;
const CHECKS: usize = 6_000;
const FOR_EVER: Duration = Duration::from_secs(60);
