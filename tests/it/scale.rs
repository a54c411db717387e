//! Half-open checks in numbers: in so many of them, nothing may happen that happens once in ten
//! thousand. The real binary checks, the server counts, and both must tell one story.
//!
//! Each run is [`CHECKS`] checks, 100,000 in all runs of a test together. `RTTSCOPE_CHECKS=1000000`
//! makes that many of each run, and 4,000 at once instead of 1,000, for example
//! `RTTSCOPE_CHECKS=1000000 cargo test --release --test it scale::uring_v4 -- --nocapture`.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use rttscope::time::duration_ns;
use rustix::process::Signal;
use serde::Deserialize;

use crate::half_open::{FullQueue, HALF_OPEN, Listener};
use crate::hogs::Hogs;
use crate::late::Late;
use crate::run::Run;
use crate::servers;
use crate::site::{Site, report_skip};

alone_over_veth! {
    no_handshake_is_completed_uncounted,
    no_answer_is_false,
}

/// What is looked at of one check's line.
#[derive(Deserialize)]
struct Line {
    address: String,
    outcome: String,
    completed: bool,
    elapsed_ns: u64,
}

/// Checks by address and outcome. An answer that took longer than [`LATE_BY`] is a late one: its
/// own, read by a prober that was held up, with an elapsed time that says so.
type Outcomes = BTreeMap<(String, String), u64>;

/// Under CPU hogs, and stopped now and then for longer than the kernel waits with an
/// acknowledgement: then a kernel socket completes a handshake, which must be told. A SYN of our
/// own never does.
fn no_handshake_is_completed_uncounted(site: &Site) {
    let listener = Listener::start(site, BACKLOG);
    let checks = checks_of_a_run();
    for method in HALF_OPEN {
        let hogs = match Hogs::start(1, -1) {
            Ok(hogs) => hogs,
            Err(error) => return report_skip("scale::hogs", &format!("no nice -1: {error}")),
        };
        let words = format!(
            "check --io={} {} -n {checks} -c 64 -t 10000 --json --method={method}",
            site.io.name(),
            listener.address
        );
        let (outcomes, completed) = run(site, &words, listener.address, true);
        drop(hogs);
        let accepted = u64::try_from(listener.accepted()).unwrap();
        tell(site, method, &outcomes, &format!("{completed} told, {accepted} accepted"));
        let at = listener.address.to_string();
        let count = |outcome: &str| outcomes.get(&(at.clone(), outcome.to_owned())).copied();
        // Late, if it was stopped.
        let answered = count("open").unwrap_or(0) + count("late").unwrap_or(0);
        assert_eq!(answered, checks, "{method}: {outcomes:?}");
        assert_eq!(completed, accepted, "{method}: handshakes told, and those of the server");
        if method == "syn" {
            assert_eq!(accepted, 0, "a SYN of our own was acknowledged");
        }
    }
}

/// Every kind of target at once, as many checks at a time as there is room for: descriptors, ports
/// and places are used again as fast as they can, and answers come when their check is long over.
fn no_answer_is_false(site: &Site) {
    let listener = Listener::start(site, BACKLOG);
    let full = FullQueue::start(site);
    let (_held, closed) = servers::refusing_address(&site.responder_place(), site.responder_ip());
    let late = Late::start(&site.lab().prober, LATE_BY);
    let targets = [
        (listener.address, "open"),
        (closed, "refused"),
        (full.address, "timeout"),
        (Late::silent(), "timeout"),
        (Late::open(), "timeout"),
        (Late::closed(), "timeout"),
    ];
    let addresses = targets.map(|(address, _)| address.to_string()).join(" ");
    let checks = checks_of_a_run();
    let at_once = if checks > CHECKS { 4_000 } else { 1_000 };
    let each = checks.div_ceil(u64::try_from(targets.len()).unwrap());
    for method in HALF_OPEN {
        let answered_before = late.answered();
        let words = format!(
            "check --io={} {addresses} -n {each} -c {at_once} -t {TIMEOUT_MS} --json \
             --method={method}",
            site.io.name()
        );
        let (outcomes, completed) = run(site, &words, listener.address, false);
        tell(site, method, &outcomes, &format!("{} late", late.answered() - answered_before));
        for (address, truth) in targets {
            let count = |outcome: &str| {
                outcomes.get(&(address.to_string(), outcome.to_owned())).copied().unwrap_or(0)
            };
            // An answer may take too long on a busy machine; that is no false one.
            let late = count("late") + if truth == "timeout" { 0 } else { count("timeout") };
            assert_eq!(count(truth) + late, each, "{method} {address} {truth}: {outcomes:?}");
            let answers = [Late::open(), Late::closed()].contains(&address) || truth != "timeout";
            assert!(answers || late == 0, "{method} {address} {truth}: {outcomes:?}");
            assert!(count(truth) > each / 4, "{method} {address} {truth}: {outcomes:?}");
        }
        assert!(late.answered() > answered_before, "nothing came late");
        // What is completed because of a stall is told, and nothing else is.
        assert_eq!(completed, u64::try_from(listener.accepted()).unwrap(), "{method}");
    }
}

/// Checks; the outcomes, and how many handshakes with this server were told as completed.
fn run(site: &Site, words: &str, server: SocketAddr, stopping: bool) -> (Outcomes, u64) {
    let (reader, stdout) = std::io::pipe().unwrap();
    let mut run = Run::start_into(&site.prober_place(), words, stdout.into(), Stdio::piped());
    run.wait_for_stderr("checking");
    let over = AtomicBool::new(false);
    let (outcomes, completed) = thread::scope(|scope| {
        if stopping {
            scope.spawn(|| stop_now_and_then(&run, &over));
        }
        let read = read(BufReader::new(reader), server);
        over.store(true, Ordering::Release);
        read
    });
    let ending = run.wait();
    assert!(matches!(ending.code, Some(0 | 1)), "{:?}", ending.stderr);
    (outcomes, completed)
}

fn read(lines: impl BufRead, server: SocketAddr) -> (Outcomes, u64) {
    let (mut outcomes, mut completed) = (Outcomes::new(), 0);
    let server = server.to_string();
    for line in lines.lines() {
        let line = line.unwrap();
        if line.starts_with("{\"summary\"") {
            break;
        }
        let line: Line = serde_json::from_str(&line).unwrap();
        let late = line.outcome != "timeout" && line.elapsed_ns >= duration_ns(LATE_BY);
        let outcome = if late { "late".to_owned() } else { line.outcome };
        completed += u64::from(line.completed && line.address == server);
        *outcomes.entry((line.address, outcome)).or_default() += 1;
    }
    (outcomes, completed)
}

/// A few times, each longer than a kernel waits with an acknowledgement.
fn stop_now_and_then(run: &Run, over: &AtomicBool) {
    for _ in 0..STOPS {
        let began = Instant::now();
        while began.elapsed() < BETWEEN_STOPS {
            if over.load(Ordering::Acquire) {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        run.signal(Signal::STOP);
        thread::sleep(STOP);
        run.signal(Signal::CONT);
    }
}

/// What was seen, for whoever runs a million.
#[expect(clippy::print_stderr, reason = "a test's figures are for people")]
fn tell(site: &Site, method: &str, outcomes: &Outcomes, more: &str) {
    eprintln!("{:?} {:?} {method}: {outcomes:?}, {more}", site.io, site.family);
}

fn checks_of_a_run() -> u64 {
    std::env::var("RTTSCOPE_CHECKS").map_or(CHECKS, |checks| checks.parse().unwrap())
}

/// Each test is mounted four times and has two methods.
const CHECKS: u64 = 12_500;
/// Connections that the server never accepts, as far as handshakes are completed.
const BACKLOG: i32 = 4_096;
/// Answers come in far less; late ones come while the next checks run.
const TIMEOUT_MS: u32 = 200;
const LATE_BY: Duration = Duration::from_millis(300);
const STOPS: u32 = 8;
/// `TCP_DELACK_MAX` is 200 ms.
const STOP: Duration = Duration::from_millis(260);
const BETWEEN_STOPS: Duration = Duration::from_millis(150);
