//! `rttscope load`: what is sent comes back as it was sent, at the rate that was asked for or as
//! fast as it can; what does not is counted by its kind, and told even if the load is cut short.

use std::io::Write;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;

use crate::lines::check_key_order;
use crate::run::{Ending, Run};
use crate::servers::{self, Connection, Server};
use crate::site::Site;

everywhere! {
    every_size_comes_back,
}

on_each_io! {
    an_open_loop_accounts_for_every_slot,
    a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one,
    a_peer_that_changes_a_byte_is_found_out,
    each_way_to_fail_has_its_kind,
    a_peer_that_reads_whole_messages_is_sent_them,
    connections_are_made_and_closed,
    many_connections_share_the_threads,
    a_signal_tells_what_was_measured,
    scenarios_come_from_the_seeds_file,
    the_latencies_are_drawn,
}

/// The keys of a run's line, in the order of the contract.
const KEYS: [&str; 32] = [
    "scenario",
    "target",
    "mode",
    "connections",
    "rate",
    "size",
    "warm_up_ns",
    "duration_ns",
    "complete",
    "requests",
    "answered",
    "in_flight",
    "skipped",
    "late",
    "rps",
    "sent_bytes",
    "received_bytes",
    "sent_bytes_per_second",
    "received_bytes_per_second",
    "latency_ns_min",
    "latency_ns_mean",
    "latency_ns_p50",
    "latency_ns_p90",
    "latency_ns_p95",
    "latency_ns_p99",
    "latency_ns_p999",
    "latency_ns_max",
    "connects",
    "dropped",
    "errors",
    "error_percent",
    "errors_by_kind",
];

fn every_size_comes_back(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    // Without a warm-up the first requests count, however busy this machine is.
    let words = "-c 1 -c 4 --size 1 --size 1000 --size 64K -d 100ms --warm-up 0 --json";
    let ending = load(site, &format!("{target} {words}")).wait();
    assert_eq!(ending.code, Some(0), "{:#?}\n{:?}", ending.stdout, ending.stderr);
    let (runs, summary) = parse(&ending);
    let names: Vec<_> = runs.iter().map(|run| run["scenario"].as_str().unwrap()).collect();
    assert_eq!(names, ["1x1", "1x1000", "1x64K", "4x1", "4x1000", "4x64K"]);
    let mut received = 0;
    for run in &runs {
        assert!(number(run, "answered") > 0, "{run}");
        assert_eq!(number(run, "requests"), number(run, "answered"), "{run}");
        assert_eq!((number(run, "errors"), run["complete"].as_bool()), (0, Some(true)), "{run}");
        assert_eq!((run["mode"].as_str(), number(run, "skipped")), (Some("closed"), 0), "{run}");
        let quantiles = ["min", "p50", "p90", "p95", "p99", "p999", "max"];
        let quantiles = quantiles.map(|name| number(run, &format!("latency_ns_{name}")));
        // The shortest is exact, quantiles are as wide as a bucket.
        assert!(quantiles.is_sorted_by(|low, high| low * 97 / 100 <= *high), "{run}");
        assert_eq!(number(run, "duration_ns"), 100_000_000, "{run}");
        received += number(run, "received_bytes");
    }
    assert_eq!(
        number(&summary, "requests"),
        runs.iter().map(|run| number(run, "requests")).sum::<u64>()
    );
    // An independent count: the peer's own. It has seen what came after the measured time, too.
    let counted = serve.scrape().sum("tcp_responder_received_bytes_total", &[]);
    assert!(counted >= f64::from(u32::try_from(received).unwrap()), "{counted} < {received}");
}

fn an_open_loop_accounts_for_every_slot(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let words = "--rate 2000 -c 3 --threads 2 -s 200 -d 300ms --warm-up 50ms --json";
    let ending = load(site, &format!("{target} {words}")).wait();
    assert_eq!(ending.code, Some(0), "{:?}", ending.stderr);
    let (runs, _) = parse(&ending);
    let [run] = &runs[..] else { panic!("{runs:?}") };
    assert_eq!(run["mode"].as_str(), Some("open"));
    // Two threads begin a moment apart, and each connection has its turn.
    let slots = number(run, "requests") + number(run, "skipped");
    assert!((597..=603).contains(&slots), "{run}");
    assert_eq!(number(run, "answered"), number(run, "requests"), "{run}");
}

/// Coordinated omission: a peer that says nothing for a third of the time.
fn a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one(site: &Site) {
    let stalls = || {
        // The first connection asks only whether somebody is there.
        let behaviour = |connection: &mut Connection| {
            if connection.number == 1 {
                for _ in 0..100 {
                    let frame = connection.read_frame(64)?;
                    connection.reply(&frame)?;
                }
                connection.pause(STALL)?;
            }
            connection.echo_on()
        };
        Server::start(&site.responder_place(), site.responder_ip(), behaviour)
    };
    let run = |words: &str| {
        let server = stalls();
        let words = format!("{} -c 1 -s 64 -d 1s --warm-up 0s --json {words}", server.address);
        let ending = load(site, &words).wait();
        assert_eq!(ending.code, Some(0), "{:?}", ending.stderr);
        parse(&ending).0.remove(0)
    };
    let open = run("--rate 1000");
    let stall_ns = u64::try_from(STALL.as_nanos()).unwrap();
    // A third of all requests were due meanwhile.
    assert!(number(&open, "latency_ns_p99") > stall_ns * 8 / 10, "{open}");
    assert!(number(&open, "latency_ns_p90") > stall_ns / 2, "{open}");
    let closed = run("");
    assert!(number(&closed, "latency_ns_max") > stall_ns * 8 / 10, "one was there: {closed}");
    // However busy this machine is, few of them were.
    for quantile in ["latency_ns_p90", "latency_ns_p95"] {
        assert!(number(&closed, quantile) < number(&open, quantile), "{closed}\n{open}");
    }
}

fn a_peer_that_changes_a_byte_is_found_out(site: &Site) {
    let server = Server::start(
        &site.responder_place(),
        site.responder_ip(),
        servers::answer_frames(500, |number, mut frame| {
            frame[number % 500] ^= u8::from(number == 20);
            frame
        }),
    );
    let ending =
        load(site, &format!("{} -c 2 -s 500 -d 200ms --warm-up 0s", server.address)).wait();
    assert_eq!(ending.code, Some(1), "what was measured failed");
    let text = ending.stdout.join("\n");
    assert!(text.contains("\n  corrupt "), "{text}");
    assert!(text.starts_with("Load of "), "nothing before the end: {text}");
    assert!(!text.contains('\x1b'), "no terminal, no escapes: {text}");
}

fn each_way_to_fail_has_its_kind(site: &Site) {
    let (place, ip) = (site.responder_place(), site.responder_ip());
    let words = "-c 2 -s 16 -d 300ms --warm-up 0s --json";
    let run = |server: &Server, more: &str| {
        let ending = load(site, &format!("{} {words} {more}", server.address)).wait();
        assert_eq!(ending.code, Some(1), "{:?}", ending.stderr);
        parse(&ending).0.remove(0)
    };
    let silent = run(&Server::start(&place, ip, servers::never_reply), "--timeout 100ms");
    assert!(number(&silent["errors_by_kind"], "timeout") >= 2, "{silent}");
    assert_eq!((number(&silent, "answered"), &silent["latency_ns_p50"]), (0, &Value::Null));
    let leaves = run(&Server::start(&place, ip, servers::close_after(16, 5)), "");
    let kinds = &leaves["errors_by_kind"];
    let gone = number(kinds, "closed") + number(kinds, "reset");
    assert!(gone > 0 && gone == number(&leaves, "errors"), "{leaves}");
    assert!(number(&leaves, "answered") > 0 && number(&leaves, "dropped") > 0, "{leaves}");
    let (_held, closed) = servers::refusing_address(&place, ip);
    let ending = load(site, &format!("{closed} {words}")).wait();
    assert_eq!((ending.code, ending.stdout.len()), (Some(1), 0), "{:?}", ending.stdout);
    let told = ending.stderr.join("\n");
    assert!(told.contains("cannot connect") && told.contains(&closed.to_string()), "{told}");
}

/// Such a peer reads nothing more until it is read from: who sends must not wait for that.
fn a_peer_that_reads_whole_messages_is_sent_them(site: &Site) {
    const BYTES: usize = 1 << 20;
    let whole = servers::answer_frames(BYTES, |_, frame| frame);
    let server = Server::start(&site.responder_place(), site.responder_ip(), whole);
    for words in ["", "--rate 20"] {
        let words = format!("{} -c 2 -s 1M -d 300ms --warm-up 0s --json {words}", server.address);
        let ending = load(site, &words).wait();
        assert_eq!(ending.code, Some(0), "{:?}", ending.stdout);
        assert!(number(&parse(&ending).0[0], "answered") > 0);
    }
    // A peer that returns what it has at once, through a small window.
    let serve = site.serve("");
    let words = format!("{} -c 2 -s 1M -d 300ms --warm-up 0s", serve.responder_address());
    assert_eq!(load(site, &words).wait().code, Some(0));
}

fn connections_are_made_and_closed(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    for (words, mode) in [("", "closed"), ("--rate 500", "open")] {
        let words = format!("{target} --connect -c 4 -d 300ms --warm-up 0s --json {words}");
        let before = serve.scrape().sum("tcp_responder_connections_total", &[]);
        let ending = load(site, &words).wait();
        assert_eq!(ending.code, Some(0), "{:?}", ending.stdout);
        let run = parse(&ending).0.remove(0);
        assert_eq!((run["mode"].as_str(), &run["size"]), (Some(mode), &Value::Null), "{run}");
        let answered = number(&run, "answered");
        assert!(answered > 0 && number(&run, "sent_bytes") == 0, "{run}");
        // One that was reset before it was accepted may never be seen.
        let floor = f64::from(u32::try_from(answered).unwrap()) * 0.9;
        serve.scrape_until("it has seen them", |exposition| {
            exposition.sum("tcp_responder_connections_total", &[]) - before >= floor
        });
        serve.scrape_until("none is left", |exposition| {
            exposition.sum("tcp_responder_connections_active", &[]) == 0.0
        });
    }
}

fn many_connections_share_the_threads(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let words = "-c 1000 --threads 2 -s 32 -d 300ms --warm-up 0s --json";
    let ending = load(site, &format!("{target} {words}")).wait();
    assert_eq!(ending.code, Some(0), "{:?}\n{:?}", ending.stdout, ending.stderr);
    let run = parse(&ending).0.remove(0);
    assert_eq!((number(&run, "connects"), number(&run, "dropped")), (1_000, 0), "{run}");
    assert!(number(&run, "answered") > 0, "{run}");
    assert_eq!(number(&run, "answered"), number(&run, "requests"), "{run}");
}

fn a_signal_tells_what_was_measured(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let family = "tcp_responder_received_bytes_total";
    let loaded = || {
        let serve = &serve;
        let before = serve.scrape().sum(family, &[]);
        move || {
            serve.scrape_until("it is loaded", |exposition| {
                exposition.sum(family, &[]) > before + 10_000.0
            })
        }
    };
    for (signal, json) in [(Signal::INT, ""), (Signal::TERM, "--json")] {
        let words = format!("{target} -c 2 -c 3 --rate 1000 -d 60s --warm-up 0s {json}");
        let wait_for_load = loaded();
        let mut run = load(site, &words);
        wait_for_load();
        run.signal(signal);
        let ending = run.wait();
        assert_eq!(ending.code, Some(0), "what was measured is good: {:?}", ending.stdout);
        if json.is_empty() {
            let text = ending.stdout.join("\n");
            assert!(text.contains("2x1K: ended early"), "{text}");
            assert!(text.contains("Not run: 1 of 2"), "{text}");
            continue;
        }
        let (runs, summary) = parse(&ending);
        let [run] = &runs[..] else { panic!("{runs:?}") };
        assert_eq!(run["complete"].as_bool(), Some(false));
        assert!(number(run, "answered") > 0 && number(run, "duration_ns") > 0, "{run}");
        assert_eq!((number(&summary, "scenarios"), number(&summary, "complete")), (2, 0));
    }
    // Alone, a run has no table.
    let wait_for_load = loaded();
    let mut run = load(site, &format!("{target} -c 2 --rate 1000 -d 60s --warm-up 0s"));
    wait_for_load();
    run.signal(Signal::INT);
    let text = run.wait().stdout.join("\n");
    assert!(text.contains("ended early") && text.contains("\nRPS: "), "{text}");
}

fn scenarios_come_from_the_seeds_file(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let scenario = |name: &str, connections: u32, size: u32| {
        format!(
            "[[scenarios]]\nname = \"{name}\"\nconnections = {connections}\n\
             duration_secs = 1\nmessage_size = {size}\n"
        )
    };
    let text = [scenario("baseline", 10, 1_024), scenario("small", 5, 64)].concat();
    write!(file, "target_addr = \"{target}\"\n{text}").unwrap();
    let words = format!("--scenario {} --warm-up 0s", file.path().display());
    let ending = load(site, &words).wait();
    assert_eq!(ending.code, Some(0), "{:?}", ending.stderr);
    let [title, columns, baseline, small] = &ending.stdout[..] else {
        panic!("{:#?}", ending.stdout)
    };
    assert!(title.starts_with(&format!("Load of {target}, io={}", site.io.name())), "{title}");
    let words = |line: &str| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    assert_eq!(
        words(columns),
        ["Scenario", "Conns", "MsgSize", "Requests", "RPS", "p50", "p95", "p99", "Err%"]
    );
    assert_eq!(words(baseline)[..3], ["baseline", "10", "1024"]);
    assert_eq!(words(small)[..3], ["small", "5", "64"]);
    assert_eq!(words(small).last().map(String::as_str), Some("0%"));
    writeln!(file, "conections = 3").unwrap();
    let ending = load(site, &format!("--scenario {}", file.path().display())).wait();
    assert_eq!(ending.code, Some(2));
    let [line] = &ending.stderr[..] else { panic!("{:#?}", ending.stderr) };
    assert!(line.contains("line 12: there is no key conections; write connections"), "{line}");
}

fn the_latencies_are_drawn(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("latency.svg");
    let words = format!("{target} -s 64 -s 1K -d 100ms --warm-up 0s --plot {}", path.display());
    // What stood there before is replaced, however long it was.
    std::fs::write(&path, "x".repeat(200_000)).unwrap();
    assert_eq!(load(site, &words).wait().code, Some(0));
    let svg = std::fs::read_to_string(&path).unwrap();
    assert!(svg.starts_with("<svg xmlns=") && svg.ends_with("</svg>\n"), "{svg}");
    assert_eq!((svg.matches("<polyline ").count(), svg.contains("xxx")), (2, false));
    assert!(svg.contains(&format!("Latency by percentile: {target}")), "{svg}");
    let nowhere = folder.path().join("no/latency.svg");
    let words = format!("{target} -d 60s --plot {}", nowhere.display());
    let ending = load(site, &words).wait();
    assert_eq!((ending.code, ending.stdout.len()), (Some(2), 0), "before anything is loaded");
    assert!(ending.stderr.join("\n").contains("write another path"), "{:?}", ending.stderr);
}

fn load(site: &Site, words: &str) -> Run {
    Run::start(&site.prober_place(), &format!("load --io={} {words}", site.io.name()))
}

/// The runs of `--json`, and the summary.
fn parse(ending: &Ending) -> (Vec<Value>, Value) {
    let (summary, runs) = ending.stdout.split_last().expect("a load has a last line");
    let parsed = runs.iter().map(|line| {
        check_key_order(line, &KEYS);
        serde_json::from_str(line).unwrap()
    });
    let mut summary: Value = serde_json::from_str(summary).unwrap();
    (parsed.collect(), summary["summary"].take())
}

fn number(object: &Value, key: &str) -> u64 {
    object[key].as_u64().unwrap_or_else(|| panic!("{key} of {object}"))
}

const STALL: Duration = Duration::from_millis(350);
