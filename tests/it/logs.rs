//! What the log says, how often, and what it keeps to itself: nothing at info level repeats with
//! each probe, and a target that flaps is told of now and then.

use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;
use socket2::{Domain, Socket, Type};

use crate::run::{PATIENCE, Run};
use crate::servers;
use crate::site::{Place, Site};

on_each_io! {
    no_line_repeats_with_each_probe,
    a_target_that_flaps_does_not_flood_the_log,
}

fn no_line_repeats_with_each_probe(site: &Site) {
    let serve = site.serve("");
    let open = serve.responder_address();
    let (_held, closed) = servers::refusing_address(&Place::Here, IpAddr::V4(Ipv4Addr::LOCALHOST));
    for words in [
        format!("{open}"),
        format!("{open} --wire=v1 --tcp-info=all --slo=100us:99%"),
        format!("{closed} --timeout=50ms"),
        format!("{open} --check"),
        format!("{closed} --check --method=dial --timeout=50ms"),
    ] {
        let lines = |count: u32| {
            let words = format!("{words} --interval=2ms --count={count} --json");
            let ending = site.probe(&words).wait();
            assert!(ending.stdout.len() > usize::try_from(count).unwrap(), "{words}");
            ending.stderr.len()
        };
        let (few, many) = (lines(20), lines(200));
        assert!(few >= 1, "{words}: the start is told");
        // Being told of a slow reader or a lost connection is news, once; ten times as many
        // probes are none.
        assert!(many <= few + 3, "{words}: {few} lines for 20 probes, {many} for 200");
    }
    let serving = serve.stderr();
    let connections = serving.iter().filter(|line| !line.contains("listening")).count();
    assert!(connections <= 5, "the responder tells of each client: {serving:#?}");
}

fn a_target_that_flaps_does_not_flood_the_log(site: &Site) {
    let (held, address) = servers::refusing_address(&Place::Here, IpAddr::V4(Ipv4Addr::LOCALHOST));
    // Only a port that was asked for by its number outlives the end of listening.
    drop(held);
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.bind(&address.into()).unwrap();
    let words = format!(
        "{address} --check --method=dial --interval=5ms --timeout=100ms --json --log.format=json"
    );
    let started = Instant::now();
    let mut probe = site.probe(&words);
    for _ in 0..FLAPS {
        socket.listen(128).unwrap();
        wait_for_outcome(&probe, "open");
        // Ends listening and keeps the port (net/ipv4/af_inet.c, inet_shutdown).
        socket.shutdown(Shutdown::Read).unwrap();
        wait_for_outcome(&probe, "refused");
    }
    let turns = usize::try_from(started.elapsed().as_secs() / 10 + 1).unwrap();
    probe.signal(Signal::INT);
    let ending = probe.wait();
    let lines: Vec<Value> =
        ending.stderr.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    for outcome in ["open", "refused"] {
        let told: Vec<&Value> = lines.iter().filter(|line| line["outcome"] == outcome).collect();
        let stands_for = |line: &&Value| 1 + line["more_like_this"].as_u64().unwrap_or(0);
        let changes: u64 = told.iter().map(stands_for).sum();
        assert!(changes >= FLAPS, "{outcome}: every change is told or counted: {lines:#?}");
        // Five at once, one in ten seconds, and one at the end.
        assert!(told.len() <= 5 + turns + 1, "{outcome}: {changes} changes: {told:#?}");
        assert!(told.iter().any(|line| line["more_like_this"].is_u64()), "{told:#?}");
    }
}

/// Waits for a check with this outcome that is not on standard output yet.
fn wait_for_outcome(probe: &Run, outcome: &str) {
    let part = format!("\"outcome\":\"{outcome}\"");
    let seen = probe.stdout().len();
    let started = Instant::now();
    while !probe.stdout()[seen..].iter().any(|line| line.contains(&part)) {
        assert!(started.elapsed() < PATIENCE, "never {outcome}");
        thread::sleep(Duration::from_millis(2));
    }
}

/// How often the target comes and goes.
const FLAPS: u64 = 30;
