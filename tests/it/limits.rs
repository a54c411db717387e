//! The responder under pressure (defect A-9 of the seed): too many connections, no descriptors,
//! readers that do not read, peers that send nonsense or nothing. Each is bounded and counted, and
//! nobody else notices.

use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use crate::catalogue;
use crate::clients::{connect, is_closed_within, noise, ping, write_until_stalled};
use crate::frames;
use crate::lines::Report;
use crate::run::PATIENCE;
use crate::site::Site;

on_each_io! {
    a9_connections_beyond_the_limit_are_closed_and_counted,
    a9_without_descriptors_it_serves_on_and_recovers,
    a9_a_reader_that_does_not_read_disturbs_nobody,
    a9_an_idle_connection_is_closed_and_an_active_one_is_not,
    a9_nonsense_and_resets_disturb_nobody,
    a9_nonsense_after_a_hello_closes_that_connection_only,
    connections_and_bytes_are_counted_while_they_last,
}

fn a9_connections_beyond_the_limit_are_closed_and_counted(site: &Site) {
    let serve = site.serve("--max-connections=5");
    let address = serve.responder_address();
    let place = site.prober_place();
    let mut kept: Vec<_> = (0..5).map(|_| connect(&place, address)).collect();
    kept.iter().for_each(|stream| ping(stream, &frames::v1(1, 1)));
    for _ in 0..10 {
        assert!(is_closed_within(&connect(&place, address), PATIENCE), "one too many is served");
    }
    let exposition = serve.scrape();
    assert_eq!(exposition.count(catalogue::REFUSED, &[]), 10);
    assert_eq!(exposition.count(catalogue::CONNECTIONS_ACTIVE, &[]), 5);
    kept.iter().for_each(|stream| ping(stream, &frames::v1(2, 2)));
    // Room again as soon as one has gone.
    drop(kept.pop());
    serve.scrape_until("four connections", |exposition| {
        exposition.count(catalogue::CONNECTIONS_ACTIVE, &[]) == 4
    });
    ping(&connect(&place, address), &frames::v1(3, 3));
}

fn a9_without_descriptors_it_serves_on_and_recovers(site: &Site) {
    let serve = site.serve("");
    let address = serve.responder_address();
    // The program raises its limit at the start, so it is lowered afterwards.
    serve.limit_descriptors(DESCRIPTORS);
    let place = site.prober_place();
    let first = connect(&place, address);
    ping(&first, &frames::v1(1, 1));
    serve.http_address();
    // The kernel completes these handshakes; some cannot be accepted.
    let waiting: Vec<_> = (0..2 * DESCRIPTORS).map(|_| connect(&place, address)).collect();
    let before = (serve.cpu_time(), Instant::now());
    thread::sleep(Duration::from_secs(2));
    let (cpu, wall) = (serve.cpu_time() - before.0, before.1.elapsed());
    assert!(cpu < wall / 3, "{cpu:?} of CPU in {wall:?} without a descriptor");
    ping(&first, &frames::v1(2, 2));

    serve.limit_descriptors(1_000);
    waiting.iter().for_each(|stream| ping(stream, &frames::v1(3, 3)));
    let exposition = serve.scrape();
    let errors = exposition.count(catalogue::ACCEPT_ERRORS, &[]);
    assert!((1..=1_000).contains(&errors), "{errors} failed accepts");
    ping(&connect(&place, address), &frames::v1(4, 4));
}

fn a9_a_reader_that_does_not_read_disturbs_nobody(site: &Site) {
    let serve = site.serve("");
    let address = serve.responder_address();
    let place = site.prober_place();
    let lazy: Vec<_> = (0..3).map(|_| connect(&place, address)).collect();
    for stream in &lazy {
        let taken = write_until_stalled(stream, Duration::from_millis(150), TAKEN_BYTES_MAX);
        assert!(taken < TAKEN_BYTES_MAX, "the responder stores without end");
    }
    let words = format!("{address} --interval=5ms --count=100 --json");
    let report = Report::parse(&site.probe(&words).wait().stdout);
    assert_eq!(report.count("received"), 100);
    let before = serve.cpu_time();
    thread::sleep(Duration::from_millis(500));
    let cpu = serve.cpu_time() - before;
    assert!(cpu < Duration::from_millis(250), "{cpu:?} of CPU for readers that do not read");
}

fn a9_an_idle_connection_is_closed_and_an_active_one_is_not(site: &Site) {
    let serve = site.serve("--idle-timeout=1s");
    let address = serve.responder_address();
    let place = site.prober_place();
    let (idle, active) = (connect(&place, address), connect(&place, address));
    ping(&idle, &frames::v1(1, 1));
    let started = Instant::now();
    let mut sequence = 0;
    while !is_closed_within(&idle, Duration::from_millis(50)) {
        sequence += 1;
        ping(&active, &frames::v1(sequence, 0));
        assert!(started.elapsed() < PATIENCE, "an idle connection stays open");
    }
    assert!(
        started.elapsed() >= Duration::from_millis(900),
        "closed after {:?}",
        started.elapsed()
    );
    ping(&active, &frames::v1(sequence + 1, 0));
    assert_eq!(serve.scrape().count(catalogue::CLOSED, &[("reason", "idle")]), 1);
}

fn a9_nonsense_and_resets_disturb_nobody(site: &Site) {
    let serve = site.serve("");
    let address = serve.responder_address();
    let place = site.prober_place();
    let good = connect(&place, address);
    for (number, seed) in (1_u64..=60).zip(1_000..) {
        let stream = connect(&place, address);
        // Whoever closes with unread bytes resets the connection.
        (&stream).write_all(&noise(seed, 1 << (number % 17))).unwrap();
        if number % 3 == 0 {
            socket2::SockRef::from(&stream).set_linger(Some(Duration::ZERO)).unwrap();
        }
        drop(stream);
        ping(&good, &frames::v1(number, 0));
    }
    serve.scrape_until("only the good connection", |exposition| {
        exposition.count(catalogue::CONNECTIONS_ACTIVE, &[]) == 1
    });
    assert_eq!(serve.scrape().count(catalogue::CONNECTIONS, &[]), 61);
}

fn a9_nonsense_after_a_hello_closes_that_connection_only(site: &Site) {
    let serve = site.serve("");
    let address = serve.responder_address();
    let place = site.prober_place();
    let good = connect(&place, address);
    for seed in 1..=5 {
        let stream = connect(&place, address);
        (&stream).write_all(&frames::v2(frames::HELLO, 1)).unwrap();
        let mut answer = [0; 24];
        std::io::Read::read_exact(&mut &stream, &mut answer).unwrap();
        assert_eq!(frames::word(&answer, 8), Some(frames::HELLO_REPLY));
        (&stream).write_all(&noise(seed, 200)).unwrap();
        assert!(is_closed_within(&stream, PATIENCE), "nonsense after a hello is tolerated");
        ping(&good, &frames::v1(seed, 0));
    }
    assert_eq!(serve.scrape().count(catalogue::CLOSED, &[("reason", "protocol")]), 5);
}

fn connections_and_bytes_are_counted_while_they_last(site: &Site) {
    let serve = site.serve("");
    let place = site.prober_place();
    let streams: Vec<_> = (0..4).map(|_| connect(&place, serve.responder_address())).collect();
    streams.iter().for_each(|stream| ping(stream, &noise(5, 1_000)));
    let exposition = serve.scrape_until("all bytes counted", |exposition| {
        exposition.count(catalogue::SENT_BYTES, &[]) == 4_000
    });
    assert_eq!(exposition.count(catalogue::RECEIVED_BYTES, &[]), 4_000);
    assert_eq!(exposition.count(catalogue::CONNECTIONS, &[]), 4);
    assert_eq!(exposition.count(catalogue::CONNECTIONS_ACTIVE, &[]), 4);
    drop(streams);
    let exposition = serve.scrape_until("no connection left", |exposition| {
        exposition.count(catalogue::CONNECTIONS_ACTIVE, &[]) == 0
    });
    assert_eq!(exposition.count(catalogue::CONNECTIONS, &[]), 4);
}

/// Enough to start with, and less than the connections.
const DESCRIPTORS: u64 = 40;
/// More than socket buffers hold by default (tcp_wmem and tcp_rmem end at 4 and 32 MiB here).
const TAKEN_BYTES_MAX: usize = 128 << 20;
