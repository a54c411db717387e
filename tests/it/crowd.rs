//! Ten thousand connections through the relay at once, or as many as a process may have descriptors
//! for: the load generator checks every byte, the relay and the responder count, and all three
//! agree. Each is a process of its own, since each connection is two descriptors of the relay.

use std::net::SocketAddr;

use rustix::process::{Resource, getrlimit};
use serde_json::Value;

use crate::relay::{ACCEPTED, ACTIVE, CONNECT_FAILURES, REFUSED, relay};
use crate::run::Run;
use crate::site::Site;

crate::mount::mount_one!(uring, Uring, Loopback, V4, Alone, nobody_of_ten_thousand_is_lost);
crate::mount::mount_one!(poll, Poll, Loopback, V4, Alone, nobody_of_ten_thousand_is_lost);

fn nobody_of_ten_thousand_is_lost(site: &Site) {
    let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
    let connections = 10_000.min(limit.saturating_sub(OTHER_DESCRIPTORS) / 2);
    let serve = site.serve("--web.listen-address=127.0.0.1:0");
    let relay = relay(site, &[serve.responder_address()], "");
    let mut load = start_load(site, relay.relay_address(), connections);
    relay.scrape_until("all are there at once", |now| now.count(ACTIVE, &[]) == connections);
    let ending = load.wait();
    assert_eq!(ending.code, Some(0), "{:?}\n{:?}", ending.stdout, ending.stderr);
    let run: Value = serde_json::from_str(&ending.stdout[0]).unwrap();
    let number = |key: &str| run[key].as_u64().unwrap();
    assert_eq!((number("connects"), number("dropped"), number("errors")), (connections, 0, 0));
    assert!(number("answered") > 0 && number("answered") == number("requests"), "{run}");
    let now = relay.scrape_until("all are over", |now| now.count(ACTIVE, &[]) == 0);
    assert_eq!(now.count(ACCEPTED, &[]), connections);
    assert_eq!((now.count(REFUSED, &[]), now.count(CONNECT_FAILURES, &[])), (0, 0));
    let moved = |family, side| now.count(family, &[("side", side)]);
    let (there, back) = (moved(READ, "client"), moved(READ, "upstream"));
    assert_eq!((moved(WRITTEN, "upstream"), moved(WRITTEN, "client")), (there, back));
    assert_eq!(there, back, "an echo is as long as what it answers");
    let served = serve.scrape().count("tcp_responder_received_bytes_total", &[]);
    assert_eq!(served, there, "the responder's own count");
}

fn start_load(site: &Site, to: SocketAddr, connections: u64) -> Run {
    let words = "-s 64 -d 3s --warm-up 0 --timeout 60s --threads 2 --json";
    let line = format!("load --io={} {to} -c {connections} {words}", site.io.name());
    Run::start(&site.prober_place(), &line)
}

const READ: &str = "tcp_relay_read_bytes_total";
const WRITTEN: &str = "tcp_relay_written_bytes_total";
/// Descriptors of the relay that are no connections, with room to spare.
const OTHER_DESCRIPTORS: u64 = 200;
