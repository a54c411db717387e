//! What the log says, how often, and what it keeps to itself: nothing at info level repeats with
//! each probe, and a target that flaps is told of now and then.

use std::net::{IpAddr, Ipv4Addr, Shutdown};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;
use socket2::{Domain, Socket, Type};

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
    let flapping = thread::spawn(move || {
        let started = Instant::now();
        while started.elapsed() < Duration::from_secs(3) {
            socket.listen(128).unwrap();
            thread::sleep(Duration::from_millis(20));
            // Ends listening and keeps the port (net/ipv4/af_inet.c, inet_shutdown).
            socket.shutdown(Shutdown::Read).unwrap();
            thread::sleep(Duration::from_millis(20));
        }
    });
    let words = format!(
        "{address} --check --method=dial --interval=5ms --timeout=100ms --duration=2500ms --json \
         --log.format=json"
    );
    let ending = site.probe(&words).wait();
    flapping.join().unwrap();
    let lines: Vec<Value> =
        ending.stderr.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let checked: Vec<&Value> = lines.iter().filter(|line| line["message"] == "checked").collect();
    let stands_for = |line: &&Value| 1 + line["more_like_this"].as_u64().unwrap_or(0);
    let changes: u64 = checked.iter().map(stands_for).sum();
    assert!(changes > 20, "it has flapped: {lines:#?}");
    // Open and not open are two lines of the source, with five at once each and one at the end;
    // a slow machine may take long enough for another one.
    assert!(checked.len() <= 14, "{changes} changes, {} lines: {checked:#?}", checked.len());
    assert!(checked.iter().any(|line| line["more_like_this"].is_u64()), "{checked:#?}");
}
