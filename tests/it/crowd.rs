//! Ten thousand connections through the relay at once, or as many as a process may have descriptors
//! for: the load generator checks every byte, the relay and the responder count, and all three
//! tell one story. Each is a process of its own, since each connection is two descriptors of the
//! relay.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Resource, Signal, getrlimit};
use serde_json::Value;

use crate::relay::{ACCEPTED, ACTIVE, CONNECT_FAILURES, REFUSED, relay};
use crate::run::{PATIENCE, Run};
use crate::site::Site;

crate::mount::mount_one!(uring, Uring, Loopback, V4, Alone, nobody_of_ten_thousand_is_lost);
crate::mount::mount_one!(poll, Poll, Loopback, V4, Alone, nobody_of_ten_thousand_is_lost);

fn nobody_of_ten_thousand_is_lost(site: &Site) {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let connections = 10_000.min(limit.saturating_sub(OTHER_DESCRIPTORS) / 2);
    let serve = site.serve("");
    let relay = relay(site, &[serve.responder_address()], "");
    let mut load = start_load(site, relay.relay_address(), connections);
    // A queue of handshakes that is full lets clients come back after seconds.
    let started = Instant::now();
    while relay.scrape().count(ACTIVE, &[]) < connections {
        assert!(started.elapsed() < 3 * PATIENCE, "{}", relay.scrape().count(ACTIVE, &[]));
        thread::sleep(Duration::from_millis(100));
    }
    load.signal(Signal::INT);
    let ending = load.wait();
    assert_eq!(ending.code, Some(0), "{:?}\n{:?}", ending.stdout, ending.stderr);
    let run: Value = serde_json::from_str(&ending.stdout[0]).unwrap();
    let number = |key: &str| run[key].as_u64().unwrap();
    assert_eq!((number("connects"), number("dropped"), number("errors")), (connections, 0, 0));
    assert!(number("answered") > 0, "{run}");
    let now = relay.scrape_until("all are over", |now| now.count(ACTIVE, &[]) == 0);
    // One more asked whether somebody is there.
    assert_eq!(now.count(ACCEPTED, &[]), connections + 1);
    assert_eq!((now.count(REFUSED, &[]), now.count(CONNECT_FAILURES, &[])), (0, 0));
    // From the client to the responder and back: nobody gets what the one before did not have.
    let moved = |family, side| now.count(family, &[("side", side)]);
    let served = serve.scrape().count("tcp_responder_received_bytes_total", &[]);
    let way = [
        moved(READ, "client"),
        moved(WRITTEN, "upstream"),
        served,
        moved(READ, "upstream"),
        moved(WRITTEN, "client"),
        number("received_bytes"),
    ];
    assert!(way.is_sorted_by(|before, after| before >= after), "{way:?}");
}

fn start_load(site: &Site, to: SocketAddr, connections: u64) -> Run {
    let words = "-s 64 --rate 2000 -d 90s --warm-up 0 --timeout 60s --threads 2 --json";
    let line = format!("load --io={} {to} -c {connections} {words}", site.io.name());
    Run::start(&site.prober_place(), &line)
}

const READ: &str = "tcp_relay_read_bytes_total";
const WRITTEN: &str = "tcp_relay_written_bytes_total";
/// Descriptors of the relay that are no connections, with room to spare.
const OTHER_DESCRIPTORS: u64 = 200;
