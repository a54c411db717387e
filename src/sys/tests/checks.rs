//! Half-open checks, as scripts that every backend must pass with every method and clock.

#![expect(clippy::disallowed_methods, reason = "the kernel's delays are real ones")]
#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};

use socket2::{Domain, Type};

use super::*;
use crate::event::Ending;
use crate::sample::{CheckClock, Method};

const LOCAL: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];

/// One way to check.
#[derive(Clone, Copy, Debug)]
struct Way {
    io: IoOptions,
    method: Method,
    clock: ClockChoice,
}

impl Way {
    fn bench(self) -> Bench {
        let mut bench = Bench::open(self.io);
        let settings = CheckSettings {
            method: MethodChoice::Only(self.method),
            clock: self.clock,
            checks_max: 64,
            ..CheckSettings::default()
        };
        let checks = Checks::open(&settings).unwrap();
        if let Some(follower) = checks.follower() {
            for ip in LOCAL {
                follower.follow((ip, 1).into()).unwrap();
            }
        }
        bench.io.enable_checks(checks).unwrap();
        bench
    }
}

/// Runs a script in every way that exists here, at once: most of them wait for the kernel.
fn in_every_way(script: impl Fn(Way) + Sync) {
    in_ways(|_| true, script);
}

/// The same for kernel sockets only.
fn by_kernel_sockets(script: impl Fn(Way) + Sync) {
    in_ways(|way| way.method != Method::Syn, script);
}

fn in_ways(wanted: impl Fn(&Way) -> bool, script: impl Fn(Way) + Sync) {
    std::thread::scope(|scope| {
        for way in ways().into_iter().filter(wanted) {
            let script = &script;
            scope.spawn(move || script(way));
        }
    });
}

fn ways() -> Vec<Way> {
    let mut ways = Vec::new();
    for backend in [IoChoice::Poll, IoChoice::Uring] {
        let io = IoOptions { backend, ..IoOptions::default() };
        if Io::open(&io).is_err() {
            continue;
        }
        let works = |method: &Method| {
            let method = MethodChoice::Only(*method);
            Checks::open(&CheckSettings { method, ..CheckSettings::default() })
                .inspect_err(|error| eprintln!("skipped: {error}"))
                .is_ok()
        };
        for method in Method::ALL.into_iter().filter(works) {
            for clock in [ClockChoice::Auto, ClockChoice::Application] {
                ways.push(Way { io, method, clock });
            }
        }
    }
    ways
}

impl Bench {
    fn check(&mut self, to: SocketAddr) -> Answer {
        self.check_ending(to, Ending::Reset)
    }

    fn check_ending(&mut self, to: SocketAddr, ending: Ending) -> Answer {
        self.seen.clear();
        self.io.check(CLIENT, to, ending);
        self.io.submit().unwrap();
        self.answer()
    }

    /// The one answer that comes.
    fn answer(&mut self) -> Answer {
        self.run_until(|seen| !seen.is_empty());
        let [(CLIENT, Seen::Answered(answer))] = self.seen[..] else {
            panic!("not one answer: {:?}", self.seen)
        };
        answer
    }

    fn expect_silence(&mut self) {
        self.seen.clear();
        self.step(Some(clock::mono().after(Duration::from_millis(20))));
        assert_eq!(self.seen, []);
    }
}

/// A port that answers SYN by SYN-ACK, by RST, or not at all.
struct Targets {
    open: TcpListener,
    /// Bound and not listening, so that nobody else can open it.
    closed: Socket,
    /// Its queue is full, so the kernel drops SYNs (`tcp_conn_request`, net/ipv4/tcp_input.c).
    black_hole: Socket,
    _queued: Vec<Socket>,
}

impl Targets {
    fn at(ip: IpAddr) -> Self {
        let socket = |backlog: Option<i32>| {
            let socket = stream(ip);
            socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
            if let Some(backlog) = backlog {
                socket.listen(backlog).unwrap();
            }
            socket
        };
        let open = socket(Some(1_024));
        open.set_nonblocking(true).unwrap();
        let black_hole = socket(Some(0));
        let queued = stream(ip);
        queued.connect(&black_hole.local_addr().unwrap()).unwrap();
        Self { open: open.into(), closed: socket(None), black_hole, _queued: vec![queued] }
    }

    fn open(&self) -> SocketAddr {
        self.open.local_addr().unwrap()
    }

    fn closed(&self) -> SocketAddr {
        self.closed.local_addr().unwrap().as_socket().unwrap()
    }

    fn black_hole(&self) -> SocketAddr {
        self.black_hole.local_addr().unwrap().as_socket().unwrap()
    }

    /// How many connections the server sees.
    fn accepted(&self) -> usize {
        std::iter::from_fn(|| self.open.accept().ok()).count()
    }
}

fn stream(ip: IpAddr) -> Socket {
    Socket::new(Domain::for_address((ip, 0).into()), Type::STREAM, None).unwrap()
}

#[test]
fn every_outcome_is_told_as_it_is() {
    in_every_way(|way| {
        let mut bench = way.bench();
        for ip in LOCAL {
            let targets = Targets::at(ip);
            let open = bench.check(targets.open());
            assert_eq!(open.result, Ok(()), "{way:?}");
            assert_eq!(open.syn_retransmits, 0, "{way:?}");
            assert_eq!(open.completed, way.method == Method::Dial, "{way:?}: {open:?}");
            let timed = cfg!(target_os = "linux") && way.clock != ClockChoice::Application;
            assert_eq!(open.rtt.is_some(), timed, "{way:?}: {open:?}");
            assert!(open.rtt.is_none_or(|(_, ns)| ns > 0), "{way:?}: {open:?}");

            let refused = bench.check(targets.closed());
            assert_eq!((refused.result, refused.completed), (Err(Failure::Refused), false));

            bench.expect_silence();
            if way.method == Method::Syn {
                // The addresses below are errors of another kind for raw sockets.
                continue;
            }
            let nowhere = match ip {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::BROADCAST),
                IpAddr::V6(_) => "ff02::1".parse().unwrap(),
            };
            let unreachable = bench.check((nowhere, 1).into());
            assert_eq!(unreachable.result, Err(Failure::Unreachable), "{way:?}");
            bench.expect_silence();
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn the_ebpf_programs_time_open_and_refused_checks() {
    in_every_way(|way| {
        let mut bench = Bench::open(way.io);
        let method = MethodChoice::Only(way.method);
        let settings = CheckSettings { method, checks_max: 4, ..CheckSettings::default() };
        let checks = Checks::open(&settings).unwrap();
        let Some(follower) = checks.follower() else {
            let reason = &checks.capabilities[1].reason;
            return eprintln!("skipped: {reason}");
        };
        bench.io.enable_checks(checks).unwrap();
        for ip in LOCAL {
            let targets = Targets::at(ip);
            follower.follow(targets.open()).unwrap();
            // More than there are ports.
            for _ in 0..40 {
                for to in [targets.open(), targets.closed()] {
                    let answer = bench.check(to);
                    let Some((CheckClock::Ebpf, ns)) = answer.rtt else {
                        panic!("{way:?} {to}: {answer:?}")
                    };
                    assert!(ns > 0 && answer.syn_retransmits == 0, "{way:?} {to}: {answer:?}");
                }
            }
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn the_server_sees_no_connection_unless_it_was_dialled() {
    in_every_way(|way| {
        let mut bench = way.bench();
        for ip in LOCAL {
            let targets = Targets::at(ip);
            let completed = (0..300).filter(|_| bench.check(targets.open()).completed).count();
            let expected = if way.method == Method::Dial { 300 } else { 0 };
            // A machine that stalls for 200 ms completes a handshake, and says so.
            assert_eq!(targets.accepted(), completed, "{way:?}");
            assert!(completed.abs_diff(expected) < 3, "{way:?}: {completed}");
        }
    });
}

/// What a server does with a connection that it accepts.
#[derive(Clone, Copy, Debug)]
enum Server {
    Waits,
    Closes,
    Resets,
}

#[test]
fn a_stalled_check_counts_the_handshake_that_it_completed() {
    by_kernel_sockets(|way| {
        let mut bench = way.bench();
        for server in [Server::Waits, Server::Closes, Server::Resets] {
            let targets = Targets::at(LOCAL[0]);
            targets.open.set_nonblocking(false).unwrap();
            bench.seen.clear();
            bench.io.check(CLIENT, targets.open(), Ending::Reset);
            bench.io.submit().unwrap();
            // The kernel acknowledges after 200 ms (`TCP_DELACK_MAX`).
            let peer = Socket::from(targets.open.accept().unwrap().0);
            if matches!(server, Server::Resets) {
                peer.set_linger(Some(Duration::ZERO)).unwrap();
            }
            let _waits = matches!(server, Server::Waits).then_some(peer);
            let answer = bench.answer();
            let told = (answer.result, answer.completed, answer.syn_retransmits);
            assert_eq!(told, (Ok(()), true, 0), "{way:?} {server:?}: {answer:?}");
        }
    });
}

#[test]
fn an_orderly_end_shows_the_server_a_short_connection() {
    by_kernel_sockets(|way| {
        let mut bench = way.bench();
        for ip in LOCAL {
            let targets = Targets::at(ip);
            let answer = bench.check_ending(targets.open(), Ending::Orderly);
            assert_eq!((answer.result, answer.completed), (Ok(()), true), "{way:?}");
            targets.open.set_nonblocking(false).unwrap();
            let (mut peer, _) = targets.open.accept().unwrap();
            peer.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
            assert_eq!(peer.read(&mut [0; 8]).unwrap(), 0, "{way:?}");
        }
    });
}

#[test]
fn a_check_given_up_says_nothing_and_its_flow_checks_again_at_once() {
    in_every_way(|way| {
        let mut bench = way.bench();
        for ip in LOCAL {
            let targets = Targets::at(ip);
            for (to, result) in
                [(targets.open(), Ok(())), (targets.closed(), Err(Failure::Refused))]
            {
                for given_up in [targets.black_hole(), targets.open(), targets.closed()] {
                    // Before the kernel knows of it, and after.
                    for submit in [false, true] {
                        bench.io.check(CLIENT, given_up, Ending::Reset);
                        if submit {
                            bench.io.submit().unwrap();
                        }
                        bench.io.close(CLIENT);
                        assert_eq!(bench.check(to).result, result, "{way:?}: {given_up}, {to}");
                        bench.expect_silence();
                    }
                }
            }
        }
    });
}

#[cfg(target_os = "linux")]
#[test]
fn giving_up_an_answered_check_completes_no_handshake() {
    in_every_way(|way| {
        if way.method == Method::Dial {
            return;
        }
        let mut bench = way.bench();
        let targets = Targets::at(LOCAL[0]);
        // A machine that stalls for 200 ms in between completes one; not each time.
        let accepted = (0..5).map(|_| {
            // Its socket is used again.
            assert_eq!(bench.check(targets.open()).result, Ok(()), "{way:?}");
            bench.io.check(CLIENT, targets.open(), Ending::Reset);
            bench.io.submit().unwrap();
            std::thread::sleep(Duration::from_millis(5));
            bench.io.close(CLIENT);
            bench.expect_silence();
            std::thread::sleep(Duration::from_millis(250));
            targets.accepted()
        });
        assert_eq!(accepted.min(), Some(0), "{way:?}");
    });
}

#[cfg(target_os = "linux")]
#[test]
fn a_lost_syn_is_counted_and_the_answer_still_comes() {
    in_every_way(|way| {
        let mut bench = way.bench();
        let targets = Targets::at(LOCAL[0]);
        let room = targets.black_hole.try_clone().unwrap();
        bench.io.check(CLIENT, targets.black_hole(), Ending::Reset);
        bench.io.submit().unwrap();
        bench.expect_silence();
        // The kernel sends its SYN again after a second; then there is room for it.
        drop(room.accept().unwrap());
        let answer = bench.answer();
        assert_eq!(answer.result, Ok(()), "{way:?}");
        assert!(answer.syn_retransmits >= 1, "{way:?}: {answer:?}");
        // Only who has seen the packets knows which SYN was answered.
        let guessed = matches!(answer.rtt, Some((CheckClock::TcpInfo, _)));
        assert!(!guessed, "{way:?}: {answer:?}");
        assert!(answer.rtt.is_none_or(|(_, ns)| ns < 900_000_000), "{way:?}: {answer:?}");
    });
}

/// A flow that waits no longer than until now takes what was not told for missing.
#[cfg(target_os = "linux")]
#[test]
fn one_turn_tells_everything_that_has_happened() {
    const AT_ONCE: u32 = 1_500;
    raise_descriptor_limit();
    let targets = Targets::at(LOCAL[0]);
    // One after the other, or they would run out of descriptors.
    for way in ways() {
        let mut bench = way.bench();
        for flow in (0..AT_ONCE).map(FlowId) {
            bench.io.check(flow, targets.open(), Ending::Reset);
        }
        bench.io.submit().unwrap();
        std::thread::sleep(Duration::from_millis(100));
        bench.step(Some(clock::mono()));
        let told = bench.seen.iter().filter(|(_, seen)| matches!(seen, Seen::Answered(_))).count();
        let now = Some(clock::mono());
        for _ in 0..10 {
            bench.step(now);
        }
        assert_eq!(bench.seen.len(), told, "{way:?}: told later, although it had happened");
        let at_once = usize::try_from(AT_ONCE).unwrap();
        // What the kernel dropped because the server's queue was full comes a second later.
        assert!(told > at_once / 2, "{way:?}: {told} of {at_once}");
        targets.accepted();
    }
}

/// Defect C-1 of the checker that this replaces: descriptors and ports are used again as fast as
/// they can be, while many checks are given up just when their answers come.
#[test]
fn no_answer_ever_reaches_another_check() {
    const AT_ONCE: u32 = 48;
    const CHECKS: u32 = 6_000;
    in_every_way(|way| {
        let mut bench = way.bench();
        let targets = LOCAL.map(Targets::at);
        let choices: Vec<(SocketAddr, Option<Result<(), Failure>>)> = targets
            .iter()
            .flat_map(|targets| {
                [
                    (targets.open(), Some(Ok(()))),
                    (targets.closed(), Some(Err(Failure::Refused))),
                    (targets.black_hole(), None),
                ]
            })
            .collect();
        let mut running: HashMap<FlowId, usize> = HashMap::new();
        let (mut begun, mut answered, mut random) = (0, 0, 1_u32);
        let mut next_random = move || {
            // xorshift32 (Marsaglia 2003).
            random ^= random << 13;
            random ^= random >> 17;
            random ^= random << 5;
            usize::try_from(random >> 8).unwrap()
        };
        let deadline = clock::mono().after(Duration::from_secs(60));
        while begun < CHECKS {
            assert!(clock::mono() < deadline, "{way:?}: {begun} in a minute");
            for flow in (0..AT_ONCE).map(FlowId) {
                // A black hole is given up sooner or later, others now and then.
                if let Some(&choice) = running.get(&flow) {
                    let patience = if choices[choice].1.is_none() { 3 } else { 40 };
                    if next_random() % patience == 0 {
                        bench.io.close(flow);
                        running.remove(&flow);
                    }
                }
                running.entry(flow).or_insert_with(|| {
                    let choice = next_random() % choices.len();
                    bench.io.check(flow, choices[choice].0, Ending::Reset);
                    begun += 1;
                    choice
                });
            }
            bench.step(Some(clock::mono()));
            for (flow, seen) in bench.seen.drain(..) {
                let Seen::Answered(answer) = seen else { panic!("{way:?}: {seen:?}") };
                let choice = running.remove(&flow).expect("a check that runs");
                assert_eq!(Some(answer.result), choices[choice].1, "{way:?} {:?}", choices[choice]);
                answered += 1;
            }
        }
        assert!(answered > CHECKS / 4, "{way:?}: {answered} answers");
    });
}
