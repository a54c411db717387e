//! Half-open checks that cannot lie: what the wire saw, what the server saw, and what the prober
//! said must be one story, for every method, backend and address family.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use socket2::{Domain, Socket, Type};

use crate::capture::{Capture, Segment};
use crate::check_lines::{self, CheckLine};
use crate::exposition::Exposition;
use crate::hogs::Hogs;
use crate::lab::PROBER_INTERFACE;
use crate::servers;
use crate::site::{Place, Site, report_skip};

everywhere! {
    each_method_tells_open_from_refused,
}

on_each_io_over_veth! {
    the_books_of_checks_balance_at_every_scrape,
    a_syn_that_was_dropped_once_is_no_slow_answer,
    a_full_accept_queue_is_a_timeout,
    a_timeout_tells_of_the_syns_that_were_sent_again,
    a_stalled_prober_counts_the_handshake_that_it_completed,
    checks_bound_to_an_interface_are_timed_there,
}

alone_over_veth! {
    the_wire_sees_syn_synack_rst_and_nothing_else,
    ebpf_time_is_the_wires_time,
    cpu_hogs_do_not_reach_the_ebpf_time,
}

/// The methods that leave a handshake half-open.
pub(crate) const HALF_OPEN: [&str; 2] = ["syn", "quickack"];

fn each_method_tells_open_from_refused(site: &Site) {
    let listener = Listener::start(site, 128);
    let (_held, closed) = servers::refusing_address(&site.responder_place(), site.responder_ip());
    for method in ["syn", "quickack", "dial"] {
        let open = listener.address;
        let words = format!("open={open} closed={closed} --count=20 --interval=20ms");
        let checks = check(site, method, &words);
        assert_eq!(checks.len(), 40);
        for check in checks {
            assert_eq!(check.method, method);
            let expected = if check.target == "open" { "open" } else { "refused" };
            assert_eq!(check.outcome, expected, "{check:?}");
            assert_eq!(check.completed, method == "dial" && expected == "open", "{check:?}");
            assert_eq!(check.syn_retransmits, 0, "{check:?}");
            assert!(check.rtt_ns.is_some_and(|rtt_ns| rtt_ns > 0), "{check:?}");
            assert!(check.rtt_ns <= Some(check.elapsed_ns + 1_000), "{check:?}");
            let to = if check.target == "open" { open } else { closed };
            assert_eq!((check.ip, check.port), (Some(to.ip()), Some(to.port())));
        }
        let accepted = listener.accepted();
        if method == "dial" {
            assert_eq!(accepted, 20, "a dial is a connection");
        } else {
            assert_eq!(accepted, 0, "{method}: the server saw a connection");
        }
    }
}

fn the_books_of_checks_balance_at_every_scrape(site: &Site) {
    let listener = Listener::start(site, 128);
    let full = FullQueue::start(site);
    for method in HALF_OPEN {
        let words = format!(
            "open={} full={} --check --method={method} --interval=5ms --timeout=100ms",
            listener.address, full.address
        );
        let probe = site.probe(&words);
        let mut last = 0;
        for _ in 0..10 {
            let exposition = probe.scrape_until("more checks", |exposition| {
                exposition.has("tcp_check_sent_total", &[("target", "full")])
                    && exposition.count("tcp_check_sent_total", &[]) > last + 20
            });
            last = exposition.count("tcp_check_sent_total", &[]);
            balances(&exposition, &["open", "full"]);
        }
        let exposition = probe.scrape();
        let open = exposition.count("tcp_check_total", &[("outcome", "open")]);
        let timeouts = exposition.count("tcp_check_total", &[("outcome", "timeout")]);
        assert!(open > 50 && timeouts > 20, "{exposition}");
        assert_eq!(exposition.count("tcp_check_up", &[("target", "open")]), 1);
        assert_eq!(exposition.count("tcp_check_up", &[("target", "full")]), 0);
        let loss = exposition.one("tcp_check_loss_percent", &[("target", "full")]);
        assert_eq!(loss.to_bits(), 100.0_f64.to_bits());
        let rtts = exposition.count("tcp_check_rtt_seconds_count", &[("target", "open")]);
        assert!(rtts > 50, "{exposition}");
        assert!(!exposition.has("tcp_check_rtt_seconds_count", &[("target", "full")]));
    }
    assert_eq!(listener.accepted(), 0);
}

/// `sent` is the sum of all outcomes and of what is in flight.
fn balances(exposition: &Exposition, targets: &[&str]) {
    for target in targets {
        let labels = [("target", *target)];
        let sent = exposition.count("tcp_check_sent_total", &labels);
        let ended = exposition.count("tcp_check_total", &labels);
        let in_flight = exposition.count("tcp_check_in_flight", &labels);
        assert_eq!(sent, ended + in_flight, "{target}\n{exposition}");
    }
}

/// A SYN is dropped where the accept queue is full; the one sent a second later finds room.
fn a_syn_that_was_dropped_once_is_no_slow_answer(site: &Site) {
    for method in HALF_OPEN {
        let mut full = FullQueue::start(site);
        let words =
            format!("{} --check --method={method} --count=1 --timeout=5s --json", full.address);
        let mut probe = site.probe(&words);
        probe.wait_for_stderr("checking");
        thread::sleep(Duration::from_millis(500));
        full.drain();
        let ending = probe.wait();
        assert_eq!(ending.code, Some(0), "{method}: {:?}", ending.stderr);
        let [check] = check_lines::parse(&ending.stdout).try_into().expect("one check");
        assert_eq!((check.outcome.as_str(), check.syn_retransmits), ("open", 1), "{check:?}");
        assert!(check.elapsed_ns > 900_000_000, "the wait is told apart: {check:?}");
        // Only clocks that know which SYN was answered have a round trip here.
        if let Some(rtt_ns) = check.rtt_ns {
            assert!(rtt_ns < 500_000_000, "{check:?}");
        }
        assert!(check.rtt_ns.is_some() || check.clock.is_none(), "{check:?}");
        if has_ebpf(&ending.stderr) {
            assert_eq!(check.clock.as_deref(), Some("ebpf"), "{check:?}");
        }
    }
}

fn a_full_accept_queue_is_a_timeout(site: &Site) {
    let full = FullQueue::start(site);
    for method in HALF_OPEN {
        let words = format!("{} --count=5 --interval=20ms --timeout=300ms", full.address);
        for check in check(site, method, &words) {
            assert_eq!(check.outcome, "timeout", "{check:?}");
            assert_eq!((check.rtt_ns, check.clock), (None, None));
        }
    }
}

/// The second SYN leaves after a second, whoever sends it.
fn a_timeout_tells_of_the_syns_that_were_sent_again(site: &Site) {
    let full = FullQueue::start(site);
    for method in ["syn", "quickack", "dial"] {
        let words = format!("{} --count=1 --timeout=1500ms", full.address);
        let [check] = check(site, method, &words).try_into().expect("one check");
        assert_eq!(check.outcome, "timeout", "{check:?}");
        assert!(check.syn_retransmits >= 1, "{method}: {check:?}");
    }
}

/// The kernel acknowledges a SYN-ACK after 200 ms, if the socket is still open then: a prober that
/// was held up for so long has completed the handshake, and says so.
fn a_stalled_prober_counts_the_handshake_that_it_completed(site: &Site) {
    let mut full = FullQueue::start(site);
    let words = format!("{} --check --method=quickack --interval=1h --timeout=20s", full.address);
    let probe = site.probe(&words);
    probe.scrape_until("the first SYN", |exposition| {
        exposition.has("tcp_check_sent_total", &[])
            && exposition.count("tcp_check_in_flight", &[]) == 1
    });
    probe.signal(Signal::STOP);
    full.drain();
    // The second SYN leaves a second after the first, the acknowledgement 200 ms after its answer.
    let completed = full.wait_for_a_connection();
    probe.signal(Signal::CONT);
    assert!(completed, "the server saw no connection");
    let exposition = probe.scrape_until("the check's end", |exposition| {
        exposition.count("tcp_check_total", &[("outcome", "open")]) == 1
    });
    assert_eq!(exposition.count("tcp_check_completed_handshakes_total", &[]), 1, "{exposition}");
    assert_eq!(exposition.count("tcp_check_syn_retransmits_total", &[]), 1, "{exposition}");
}

/// The routes lead elsewhere; `--interface` does not ask them.
fn checks_bound_to_an_interface_are_timed_there(site: &Site) {
    let listener = Listener::start(site, 128);
    let prober = &site.lab().prober;
    let words = "link add decoy0 type veth peer name decoy1";
    if let Err(error) = prober.ip(words) {
        return report_skip("half_open::interface", &error.to_string());
    }
    prober.ip("link set decoy0 up").unwrap();
    prober.ip("link set decoy1 up").unwrap();
    let bits = if site.responder_ip().is_ipv6() { 128 } else { 32 };
    prober.ip(&format!("route add {}/{bits} dev decoy0", site.responder_ip())).unwrap();
    for method in HALF_OPEN {
        let words = format!(
            "{} --check --method={method} --interface={PROBER_INTERFACE} --count=20 \
             --interval=10ms --json",
            listener.address
        );
        let ending = site.probe(&words).wait();
        assert_eq!(ending.code, Some(0), "{method}: {:?}", ending.stderr);
        if !has_ebpf(&ending.stderr) {
            return report_skip("half_open::interface", "no eBPF timer here");
        }
        let checks = check_lines::parse(&ending.stdout);
        let timed = checks.iter().filter(|check| check.clock.as_deref() == Some("ebpf")).count();
        assert_eq!(timed, checks.len(), "{method}: {checks:#?}");
    }
}

fn the_wire_sees_syn_synack_rst_and_nothing_else(site: &Site) {
    let listener = Listener::start(site, 1_024);
    for method in HALF_OPEN {
        let capture = Capture::start(&site.prober_place(), PROBER_INTERFACE);
        let words = format!("{} --count=300 --interval=2ms", listener.address);
        let checks = check(site, method, &words);
        let segments = capture.stop();
        let open = checks.iter().filter(|check| check.outcome == "open").count();
        assert_eq!(open, 300 - skipped(&checks), "{method}");
        let seen: Vec<&Segment> = segments
            .iter()
            .filter(|it| it.source == listener.address || it.destination == listener.address)
            .collect();
        assert_eq!(seen.len(), 3 * open, "{method}: {:?}", flags(&seen));
        let mut ports: Vec<u16> = seen.iter().map(|segment| local(segment).port()).collect();
        ports.sort_unstable();
        ports.dedup();
        for port in ports {
            let of_port: Vec<&Segment> =
                seen.iter().copied().filter(|segment| local(segment).port() == port).collect();
            for handshake in of_port.chunks(3) {
                let kinds: Vec<u8> = handshake.iter().map(|it| it.flags & 0x17).collect();
                // RST with or without ACK: a socket that is reset acknowledges, none does not.
                assert_eq!(kinds[..2], [0x02, 0x12], "{method}: {:?}", flags(handshake));
                assert!(matches!(kinds[2], 0x04 | 0x14), "{method}: {:?}", flags(handshake));
            }
        }
        assert_eq!(listener.accepted(), 0, "{method}: the server saw a connection");
    }
}

fn ebpf_time_is_the_wires_time(site: &Site) {
    let listener = Listener::start(site, 1_024);
    for method in HALF_OPEN {
        let capture = Capture::start(&site.prober_place(), PROBER_INTERFACE);
        let words = format!(
            "{} --check --method={method} --count=200 --interval=5ms --json",
            listener.address
        );
        let ending = site.probe(&words).wait();
        let segments = capture.stop();
        if !has_ebpf(&ending.stderr) {
            return report_skip("half_open::ebpf", "no eBPF timer here");
        }
        let checks = check_lines::parse(&ending.stdout);
        let mut errors: Vec<u64> = Vec::new();
        let mut wire = round_trips(&segments, listener.address).into_iter();
        // Checks are 5 ms apart and each is over before the next: they stand in one order.
        for check in checks.iter().filter(|check| check.outcome == "open") {
            let wire_ns = wire.next().expect("a round trip on the wire");
            if check.clock.as_deref() == Some("ebpf") {
                errors.push(check.rtt_ns.unwrap().abs_diff(wire_ns));
            }
        }
        assert!(errors.len() >= 150, "{method}: {} of 200 by eBPF", errors.len());
        let error_ns = quantile(&mut errors, 50);
        assert!(error_ns <= 5_000, "{method}: the median differs by {error_ns} ns");
    }
}

fn cpu_hogs_do_not_reach_the_ebpf_time(site: &Site) {
    let listener = Listener::start(site, 1_024);
    // Among hogs a check may have its turn every 50 ms only: fewer of them must do then.
    let settings = "--count=400 --duration=8s --interval=5ms --timeout=2s";
    let words = format!("{} {settings}", listener.address);
    let mut seen = Vec::new();
    for _ in 0..HOG_RUNS {
        let idle = check(site, "syn", &words);
        let hogs = match Hogs::start(2, -10) {
            Ok(hogs) => hogs,
            Err(error) => return report_skip("half_open::hogs", &format!("no nice -10: {error}")),
        };
        let busy = check(site, "syn", &words);
        drop(hogs);
        assert!(busy.iter().all(|check| check.outcome == "open"));
        let [idle_ebpf, busy_ebpf] = [&idle, &busy].map(|checks| {
            let mut times: Vec<u64> = checks
                .iter()
                .filter(|check| check.clock.as_deref() == Some("ebpf"))
                .filter_map(|check| check.rtt_ns)
                .collect();
            if times.is_empty() { None } else { Some(quantile(&mut times, 99)) }
        });
        let (Some(idle_ebpf), Some(busy_ebpf)) = (idle_ebpf, busy_ebpf) else {
            return report_skip("half_open::hogs", "no eBPF timer here");
        };
        let [idle_app, busy_app] = [&idle, &busy].map(|checks| {
            // Over veth the answer comes while the SYN is sent: what the scheduler does to an
            // application is that it sends too late.
            let waits = checks.iter().map(|check| check.lag_ns + check.elapsed_ns);
            quantile(&mut waits.collect::<Vec<_>>(), 99)
        });
        if busy_ebpf <= 2 * idle_ebpf && busy_app > 2 * idle_app {
            return;
        }
        seen.push((idle_ebpf, busy_ebpf, idle_app, busy_app));
    }
    panic!("p99 by eBPF idle and busy, by the application idle and busy: {seen:?}");
}

/// Checks by `--json` with these further words; the summary is checked, too.
pub(crate) fn check(site: &Site, method: &str, words: &str) -> Vec<CheckLine> {
    let ending = site.probe(&format!("{words} --check --method={method} --json")).wait();
    assert!(matches!(ending.code, Some(0 | 1)), "{method}: {:?}", ending.stderr);
    check_lines::parse(&ending.stdout)
}

/// Whether the prober timed its checks by eBPF.
fn has_ebpf(stderr: &[String]) -> bool {
    !stderr.iter().any(|line| line.contains("ebpf_syn_timer"))
}

/// Slots that passed without a check on a busy machine.
fn skipped(checks: &[CheckLine]) -> usize {
    300 - checks.len()
}

/// From each SYN to its SYN-ACK, in the order of the SYNs.
fn round_trips(segments: &[Segment], server: SocketAddr) -> Vec<u64> {
    let mut trips = Vec::new();
    for (at, syn) in segments.iter().enumerate() {
        if syn.destination != server || syn.flags & 0x17 != 0x02 {
            continue;
        }
        let answer = segments[at..].iter().find(|segment| {
            segment.source == server
                && segment.destination == syn.source
                && segment.flags & 0x17 == 0x12
        });
        trips.extend(answer.map(|answer| answer.at_ns - syn.at_ns));
    }
    trips
}

/// The prober's end.
fn local(segment: &Segment) -> SocketAddr {
    if segment.outgoing { segment.source } else { segment.destination }
}

fn flags(segments: &[&Segment]) -> Vec<(u16, u8)> {
    segments.iter().map(|segment| (local(segment).port(), segment.flags)).collect()
}

fn quantile(values: &mut [u64], percent: usize) -> u64 {
    values.sort_unstable();
    values[(values.len() * percent).div_ceil(100).clamp(1, values.len()) - 1]
}

/// A socket that listens, and counts what it could accept.
pub(crate) struct Listener {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
}

impl Listener {
    pub(crate) fn start(site: &Site, backlog: i32) -> Self {
        let listener = listen(&site.responder_place(), site, backlog);
        listener.set_nonblocking(true).unwrap();
        Self { address: listener.local_addr().unwrap(), listener }
    }

    /// Connections since the last call. A reset one stays in the queue and is counted, too.
    pub(crate) fn accepted(&self) -> usize {
        std::iter::from_fn(|| self.listener.accept().ok()).count()
    }
}

/// A server that has stopped accepting: its queue is full, and it drops SYNs.
pub(crate) struct FullQueue {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    place: Place,
    clients: Vec<TcpStream>,
}

impl FullQueue {
    pub(crate) fn start(site: &Site) -> Self {
        let place = site.responder_place();
        let listener = listen(&place, site, 0);
        let address = listener.local_addr().unwrap();
        let mut full = Self { address, listener, place, clients: Vec::new() };
        full.fill();
        full
    }

    /// Connects until nothing is answered any more.
    fn fill(&mut self) {
        for _ in 0..10 {
            let connect = || TcpStream::connect_timeout(&self.address, Duration::from_millis(200));
            match self.place.run(connect) {
                Ok(client) => self.clients.push(client),
                Err(_) => return,
            }
        }
        panic!("an accept queue of length 0 takes ten connections");
    }

    /// Accepts everything that waits.
    fn drain(&mut self) {
        self.listener.set_nonblocking(true).unwrap();
        while self.listener.accept().is_ok() {}
        self.clients.clear();
    }

    /// Waits for the next connection; false if none comes.
    fn wait_for_a_connection(&self) -> bool {
        let started = Instant::now();
        while started.elapsed() < crate::run::PATIENCE {
            if self.listener.accept().is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(5));
        }
        false
    }
}

fn listen(place: &Place, site: &Site, backlog: i32) -> TcpListener {
    place.run(|| {
        let address = SocketAddr::new(site.responder_ip(), 0);
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None).unwrap();
        socket.bind(&address.into()).unwrap();
        socket.listen(backlog).unwrap();
        socket.into()
    })
}

/// The scheduler's moods are not ours: the ratio must hold in one of these runs.
const HOG_RUNS: usize = 3;
