//! `rttscope check`: many addresses, once or often, from the command line, a file or standard
//! input. Every check has one outcome and one line, and the exit code tells whether all are open.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;

use crate::half_open::{FullQueue, Listener};
use crate::lab::{PROBER_INTERFACE, RESPONDER_IPS};
use crate::lines;
use crate::names::{NAME, NameServer};
use crate::run::{Ending, Run};
use crate::servers;
use crate::site::{Place, Site, report_skip};

everywhere! {
    each_address_has_its_outcome,
}

on_each_io! {
    the_summary_is_for_people_unless_scripts_ask,
    addresses_come_from_files_and_bad_ones_are_left_out,
    addresses_come_from_standard_input,
    a_slow_reader_slows_the_run_and_loses_nothing,
    a_reader_that_leaves_ends_the_run,
    threads_share_the_work,
    a_name_with_two_addresses_is_open_if_one_is,
    what_cannot_work_says_so,
}

on_each_io_over_veth! {
    a_timeout_is_told_in_time_and_holds_nobody_up,
    a_signal_tells_what_is_done,
    the_timeout_covers_the_name,
    a_zone_is_kept,
    no_answer_is_taken_for_anothers,
}

/// One check of `--json`.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    address: String,
    ip: Option<String>,
    port: u16,
    method: String,
    outcome: String,
    clock: Option<String>,
    rtt_ns: Option<u64>,
    elapsed_ns: u64,
    syn_retransmits: u32,
    completed: bool,
    error: Option<String>,
}

/// The keys of a check's line, in the order of the contract.
const KEYS: [&str; 11] = [
    "address",
    "ip",
    "port",
    "method",
    "outcome",
    "clock",
    "rtt_ns",
    "elapsed_ns",
    "syn_retransmits",
    "completed",
    "error",
];

fn each_address_has_its_outcome(site: &Site) {
    let listener = Listener::start(site, 128);
    let open = listener.address;
    let (_held, closed) = servers::refusing_address(&site.responder_place(), site.responder_ip());
    let ending = check(site, &format!("{open} -a {open} -n 20 -c 4 --json")).wait();
    let (lines, summary) = parse(&ending);
    assert_eq!(ending.code, Some(0), "{:?}", ending.stderr);
    assert_eq!((lines.len(), summary["open"].as_u64()), (40, Some(40)));
    for line in lines {
        assert_eq!((line.address.as_str(), line.ip.clone()), (open.to_string().as_str(), ip(open)));
        assert_eq!((line.port, line.outcome.as_str()), (open.port(), "open"));
        assert_eq!((line.syn_retransmits, &line.error), (0, &None));
        let rtt_ns = line.rtt_ns.expect("an open check has a round trip");
        assert!(rtt_ns > 0 && rtt_ns <= line.elapsed_ns + 1_000, "{line:?}");
        assert!(line.clock.is_some() && line.method != "dial" && !line.completed, "{line:?}");
    }
    assert_eq!(listener.accepted(), 0, "the server saw a connection");
    let words = format!("{open} {closed} no.such.name.invalid:80 --json --method=dial");
    let ending = check(site, &words).wait();
    assert_eq!(ending.code, Some(1), "one of them is not open: {:?}", ending.stderr);
    let (mut lines, summary) = parse(&ending);
    lines.sort_by(|a, b| a.outcome.cmp(&b.outcome));
    let [open, refused, unresolved] = lines.try_into().expect("a line each");
    assert_eq!((open.outcome.as_str(), open.completed), ("open", true));
    assert_eq!(open.method, "dial");
    assert_eq!(refused.outcome, "refused");
    assert_eq!(refused.error.as_deref(), Some("connection refused"));
    assert_eq!(refused.ip, ip(closed));
    assert_eq!((unresolved.outcome.as_str(), unresolved.port), ("unresolved", 80));
    assert_eq!((unresolved.ip, unresolved.rtt_ns, unresolved.clock), (None, None, None));
    assert!(unresolved.error.is_some());
    for (key, count) in [("finished", 3), ("open", 1), ("refused", 1), ("unresolved", 1)] {
        assert_eq!(summary[key].as_u64(), Some(count), "{key} in {summary}");
    }
}

fn the_summary_is_for_people_unless_scripts_ask(site: &Site) {
    let listener = Listener::start(site, 128);
    let open = listener.address;
    let (_held, closed) = servers::refusing_address(&Place::Here, site.responder_ip());
    // As tcp-checker, but that its exit code tells.
    let mut run = check(site, &format!("-a {open} -t 1000 -n 10 -c 2"));
    let ending = run.wait();
    assert_eq!(ending.code, Some(0));
    let [finished, succeed, errors, outcomes, method, rtt] = &ending.stdout[..] else {
        panic!("{:#?}", ending.stdout)
    };
    assert!(finished.starts_with("Finished 10/10 checks in "), "{finished}");
    assert_eq!(succeed, "Succeed: 10");
    assert_eq!(errors, "Errors: connect 0, timeout 0, other 0");
    assert_eq!(outcomes, "Outcomes: open 10");
    assert!(method.contains("completed handshakes 0"), "{method}");
    assert!(rtt.starts_with("RTT by ") && rtt.contains(" (10): p50 "), "{rtt}");
    let ending = check(site, &format!("{open} {closed} -n 3 -v")).wait();
    assert_eq!(ending.code, Some(1));
    let text = ending.stdout.join("\n");
    assert!(ending.stdout[0].starts_with("checking addresses=2 requests=3 "), "{text}");
    let failures = ending.stdout.iter().filter(|line| line.contains(": connection refused"));
    assert_eq!(failures.count(), 3, "{text}");
    let rows: Vec<&String> =
        ending.stdout.iter().filter(|line| line.split_whitespace().nth(2) == Some("0/3")).collect();
    assert!(rows.len() == 1 && rows[0].starts_with(&closed.to_string()), "{text}");
    assert!(text.contains("Errors: connect 3, timeout 0, other 0"), "{text}");
    assert!(!text.contains('\x1b'), "no terminal, no escapes: {text}");
}

fn addresses_come_from_files_and_bad_ones_are_left_out(site: &Site) {
    let listener = Listener::start(site, 128);
    let open = listener.address;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, "# ours\n{open}\n\nhost:0\n  {open} # again\n[::1\n").unwrap();
    let path = file.path().to_str().unwrap();
    let ending = check(site, &format!("--file {path} a:65536 --json --log.level=error")).wait();
    // All that was checked is open, but not all was checked.
    assert_eq!(ending.code, Some(2), "{:?}", ending.stderr);
    let (lines, _) = parse(&ending);
    assert_eq!(lines.iter().filter(|line| line.outcome == "open").count(), 2);
    let [a, b, c] = &ending.stderr[..] else { panic!("{:#?}", ending.stderr) };
    assert!(a.contains("a:65536: ") && a.contains("write e.g. a:"), "{a}");
    assert!(b.contains("line 4: host:0: ") && b.contains("write e.g. host:"), "{b}");
    assert!(c.contains("line 6: [::1: ") && c.contains("write e.g. [::1]:"), "{c}");
    let (_held, closed) = servers::refusing_address(&Place::Here, site.responder_ip());
    let ending = check(site, &format!("{closed} a:65536")).wait();
    assert_eq!(ending.code, Some(1), "what was checked and failed comes first");
}

fn addresses_come_from_standard_input(site: &Site) {
    let listener = Listener::start(site, 128);
    let open = listener.address;
    let mut command = Command::new(env!("CARGO_BIN_EXE_rttscope"));
    let io = format!("--io={}", site.io.name());
    command.args(["check", "--file", "-", "--json", "-n", "2", &io]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let text = format!("{open}\n{open}");
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().filter(|line| line.contains("\"outcome\":\"open\"")).count(), 4);
}

fn a_slow_reader_slows_the_run_and_loses_nothing(site: &Site) {
    const CHECKS: usize = 30_000;
    let listener = Listener::start(site, 128);
    let open = listener.address;
    let (mut reader, stdout) = std::io::pipe().unwrap();
    let words = format!("check --io={} {open} -n {CHECKS} -c 64 --json", site.io.name());
    let mut run = Run::start_into(&Place::Here, &words, stdout.into(), Stdio::piped());
    run.wait_for_stderr("checking");
    // Longer than the run would take, and the queues are full before.
    assert!(!run.ends_within(Duration::from_secs(2)), "it did not wait for its reader");
    let mut text = String::new();
    reader.read_to_string(&mut text).unwrap();
    assert_eq!(run.wait().code, Some(0));
    assert_eq!(text.lines().count(), CHECKS + 1);
    let summary: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(summary["summary"]["open"].as_u64(), u64::try_from(CHECKS).ok());
}

fn a_reader_that_leaves_ends_the_run(site: &Site) {
    let listener = Listener::start(site, 128);
    let open = listener.address;
    let (mut reader, stdout) = std::io::pipe().unwrap();
    let words = format!("check --io={} {open} -n 1000000000 -c 4 --json", site.io.name());
    let mut run = Run::start_into(&Place::Here, &words, stdout.into(), Stdio::piped());
    reader.read_exact(&mut [0; 1_000]).unwrap();
    drop(reader);
    assert_eq!(run.wait().code, Some(0), "what was checked is open");
}

fn threads_share_the_work(site: &Site) {
    let listener = Listener::start(site, 128);
    let open = listener.address;
    let words = format!("{open} {open} {open} -n 50 -c 5 --threads=2 --json");
    let ending = check(site, &words).wait();
    assert_eq!(ending.code, Some(0), "{:?}", ending.stderr);
    assert_eq!(parse(&ending).0.len(), 150);
    assert!(ending.stderr.join("\n").contains("threads=2"), "{:?}", ending.stderr);
    // No more threads than there is to do.
    let ending = check(site, &format!("{open} --threads=8 --json")).wait();
    assert!(ending.stderr.join("\n").contains("threads=1"), "{:?}", ending.stderr);
}

/// On most machines `localhost` is `::1` and `127.0.0.1`; somebody listens on the latter only.
fn a_name_with_two_addresses_is_open_if_one_is(site: &Site) {
    let port = Listener::start(site, 128);
    let ending = check(site, &format!("localhost:{} -n 5 --json", port.address.port())).wait();
    assert_eq!(ending.code, Some(0), "{:?}", ending.stdout);
    let (lines, _) = parse(&ending);
    assert!(lines.iter().all(|line| line.ip == ip(port.address)), "{lines:?}");
}

fn what_cannot_work_says_so(site: &Site) {
    for (words, option) in [
        ("127.0.0.1:1 --interface=nosuch0", "--interface nosuch0: No such device"),
        // Nobody's address (RFC 5737).
        ("127.0.0.1:1 --source=192.0.2.1", "--source 192.0.2.1: Cannot assign"),
    ] {
        let ending = check(site, &format!("{words} --log.level=error")).wait();
        assert_eq!((ending.code, ending.stderr.len()), (Some(3), 1), "{:?}", ending.stderr);
        let line = &ending.stderr[0];
        assert!(line.contains(option) && line.contains("; write"), "{line}");
    }
}

fn a_timeout_is_told_in_time_and_holds_nobody_up(site: &Site) {
    let listener = Listener::start(site, 128);
    let open = listener.address;
    let full = FullQueue::start(site);
    let ending = check(site, &format!("{} {open} -t 300 -n 2 -c 2 --json", full.address)).wait();
    assert_eq!(ending.code, Some(1), "{:?}", ending.stderr);
    let (lines, summary) = parse(&ending);
    let of =
        |address: SocketAddr| lines.iter().filter(move |line| line.address == address.to_string());
    assert_eq!(of(open).filter(|line| line.outcome == "open").count(), 2);
    assert_eq!(of(full.address).count(), 2);
    for line in of(full.address) {
        assert_eq!((line.outcome.as_str(), line.rtt_ns), ("timeout", None), "{line:?}");
        assert_eq!(line.error.as_deref(), Some("no answer in time"));
        assert!(line.elapsed_ns >= 300_000_000, "{line:?}");
    }
    assert_eq!(summary["timeout"].as_u64(), Some(2), "{summary}");
}

fn a_signal_tells_what_is_done(site: &Site) {
    let listener = Listener::start(site, 128);
    let open = listener.address;
    let full = FullQueue::start(site);
    for signal in [Signal::INT, Signal::TERM] {
        let mut run = check(site, &format!("{open} {} -t 600000 -c 2 --json", full.address));
        run.wait_for_stdout(1);
        run.signal(signal);
        let ending = run.wait();
        assert_eq!(ending.code, Some(0), "what is done is open: {:?}", ending.stderr);
        let (lines, summary) = parse(&ending);
        assert_eq!(lines.len(), 1);
        for (key, count) in [("requested", 2), ("finished", 1), ("unfinished", 1)] {
            assert_eq!(summary[key].as_u64(), Some(count), "{key} in {summary}");
        }
    }
    let mut run = check(site, &format!("{} -t 600000", full.address));
    run.wait_for_stderr("checking");
    // Nothing is done, so nothing is known to be open.
    thread::sleep(Duration::from_millis(50));
    run.signal(Signal::INT);
    let ending = run.wait();
    assert_eq!(ending.code, Some(1));
    assert!(ending.stdout.contains(&"Not finished: 1".to_owned()), "{:?}", ending.stdout);
}

fn the_timeout_covers_the_name(site: &Site) {
    let names = match NameServer::start(&site.lab().prober) {
        Ok(names) => names,
        Err(reason) => return report_skip("the_timeout_covers_the_name", &reason),
    };
    let listener = Listener::start(site, 128);
    let open = listener.address;
    names.set(Some("10.87.0.2".parse().unwrap()));
    let named = format!("{NAME}:{}", open.port());
    let ending = check(site, &format!("{named} {named} --json")).wait();
    assert_eq!(ending.code, Some(0), "{:?}", ending.stdout);
    assert_eq!(parse(&ending).0.len(), 2);
    names.fall_silent();
    let ending = check(site, &format!("{named} {open} -t 400 --json")).wait();
    assert_eq!(ending.code, Some(1), "{:?}", ending.stdout);
    let (lines, _) = parse(&ending);
    let outcomes: Vec<&str> = lines.iter().map(|line| line.outcome.as_str()).collect();
    assert_eq!(outcomes, ["open", "unresolved"], "nobody waits for the name");
    assert!(lines[1].elapsed_ns >= 400_000_000, "{lines:?}");
    let error = lines[1].error.as_deref().unwrap();
    assert!(error.contains("did not answer within 400ms"), "{error}");
}

/// A link-local address means nothing without its interface.
fn a_zone_is_kept(site: &Site) {
    let place = site.responder_place();
    let listener = place.run(|| TcpListener::bind("[::]:0")).unwrap();
    let port = listener.local_addr().unwrap().port();
    let address = format!("[{}%{PROBER_INTERFACE}]:{port}", RESPONDER_IPS[2]);
    for method in ["syn", "quickack", "dial"] {
        let ending = check(site, &format!("{address} --json --method={method}")).wait();
        assert_eq!(ending.code, Some(0), "{method}: {:?} {:?}", ending.stdout, ending.stderr);
        let (lines, _) = parse(&ending);
        assert_eq!((lines.len(), lines[0].address.as_str()), (1, address.as_str()));
        // The interface's number, which the lab chose.
        let expected = format!("{}%11", RESPONDER_IPS[2]);
        assert_eq!(lines[0].ip.as_deref(), Some(expected.as_str()));
    }
}

/// Open, closed and silent addresses, many at once: descriptors and ports are used again as fast
/// as they can, and a late answer must not land on another check.
fn no_answer_is_taken_for_anothers(site: &Site) {
    let listener = Listener::start(site, 128);
    let full = FullQueue::start(site);
    let place = site.responder_place();
    let (_held, closed) = servers::refusing_address(&place, site.responder_ip());
    for method in ["syn", "quickack"] {
        // The silent one holds its places for the timeout, the others take turns in the rest.
        let silent = vec![full.address.to_string(); 8].join(" ");
        let words = format!(
            "{} {closed} {silent} -n 300 -c 200 -t 50 --json --method={method}",
            listener.address
        );
        let ending = check(site, &words).wait();
        let (lines, _) = parse(&ending);
        assert_eq!((ending.code, lines.len()), (Some(1), 3_000), "{method}");
        for line in lines {
            let expected = match &line.address {
                open if *open == listener.address.to_string() => "open",
                refused if *refused == closed.to_string() => "refused",
                _ => "timeout",
            };
            // An answer may take longer than 50 ms on a busy machine; that is no false one.
            let right = line.outcome == expected || line.outcome == "timeout";
            assert!(right, "{method}: {line:?} is {expected}");
        }
    }
}

/// As the lines show it.
fn ip(address: SocketAddr) -> Option<String> {
    Some(address.ip().to_string())
}

fn check(site: &Site, words: &str) -> Run {
    Run::start(&site.prober_place(), &format!("check --io={} {words}", site.io.name()))
}

/// Every line and the summary, which must be the last one and count what the lines show.
fn parse(ending: &Ending) -> (Vec<Line>, Value) {
    let (last, lines) = ending.stdout.split_last().expect("a summary");
    let summary: Value = serde_json::from_str(last).unwrap();
    let summary = summary["summary"].clone();
    let lines: Vec<Line> = lines.iter().map(|line| parse_line(line)).collect();
    assert_eq!(summary["finished"].as_u64(), u64::try_from(lines.len()).ok(), "{last}");
    let outcomes =
        ["open", "refused", "timeout", "unreachable", "local_error", "error", "unresolved"];
    for outcome in outcomes {
        let count = lines.iter().filter(|line| line.outcome == outcome).count();
        assert_eq!(summary[outcome].as_u64(), u64::try_from(count).ok(), "{outcome} in {last}");
    }
    let rtts = summary["rtt"].as_array().unwrap().iter();
    let rtts: u64 = rtts.map(|rtt| rtt["count"].as_u64().unwrap()).sum();
    let told = lines.iter().filter(|line| line.rtt_ns.is_some()).count();
    assert_eq!(Some(rtts), u64::try_from(told).ok(), "{last}");
    (lines, summary)
}

fn parse_line(line: &str) -> Line {
    lines::check_key_order(line, &KEYS);
    serde_json::from_str(line).unwrap()
}
