//! One test for each defect of the replaced system, named after it; each would fail
//! on the seed's behaviour. A-1 (user-space time taken for the wire's) is in `truth`, A-9 (no
//! limits) in `limits`.

use std::thread;
use std::time::{Duration, Instant};

use crate::catalogue::{self, ProbeCounts};
use crate::frames::{V1_BYTES, V2_BYTES};
use crate::lab::RESPONDER_INTERFACE;
use crate::lines::{ProbeLine, Report};
use crate::run::Run;
use crate::servers::{self, Server};
use crate::site::Site;

on_each_io! {
    a2_dead_target_is_all_loss,
    a2_probes_in_flight_at_a_drop_are_lost,
    a3_split_reply_does_not_desync,
    a3_split_v2_reply_does_not_desync,
    a3_bytes_between_replies_do_not_desync,
    a5_reply_before_a_drop_is_received,
    a6_stall_is_counted_in_full,
    a8_counters_reconcile_while_the_peer_misbehaves,
    a8_counters_reconcile_while_the_peer_drops_connections,
    a10_buckets_resolve_microseconds,
}

on_each_io_over_veth! {
    a4_prober_recovers_from_a_peer_that_read_nothing,
    a7_retransmission_shows_in_the_time_and_not_as_loss,
}

fn a2_dead_target_is_all_loss(site: &Site) {
    let place = site.responder_place();
    let (_held, address) = servers::refusing_address(&place, site.responder_ip());
    let mut probe = site.probe(&format!("{address} --interval=10ms --duration=1500ms --json"));
    let exposition = probe.scrape_until("a few probes lost", |exposition| {
        exposition.has(catalogue::TIMEOUTS, &[]) && exposition.count(catalogue::TIMEOUTS, &[]) >= 20
    });
    let counts = ProbeCounts::reconciled(&exposition, &[]);
    assert_eq!(counts.received, 0);
    assert_eq!(exposition.one(catalogue::LOSS_PERCENT, &[]).to_bits(), 100.0_f64.to_bits());
    assert_eq!(exposition.count(catalogue::CONNECTED, &[]), 0);
    assert!(exposition.count(catalogue::DROPPED, &[]) >= 1);
    let ending = probe.wait();
    assert_eq!(ending.code, Some(1), "nothing was received");
    let report = Report::parse(&ending.stdout);
    // Lost at the full rate: 150 slots of 10 ms, of which a busy machine may skip some.
    assert!(report.probes.len() >= 75, "{}", report.probes.len());
    assert_eq!(report.count("refused"), report.probes.len(), "{:?}", report.probes[0]);
    assert!(report.probes.iter().all(|probe| probe.rtt_ns.is_none() && probe.clock.is_none()));
}

fn a2_probes_in_flight_at_a_drop_are_lost(site: &Site) {
    // Reads twenty probes, answers none, and closes; on every connection.
    let behaviour = |connection: &mut servers::Connection| {
        (0..20).try_for_each(|_| connection.read_frame(V1_BYTES).map(drop))
    };
    let server = Server::start(&site.responder_place(), site.responder_ip(), behaviour);
    let words =
        format!("{} --wire=v1 --interval=5ms --timeout=5s --count=60 --json", server.address);
    let ending = site.probe(&words).wait();
    assert_eq!(ending.code, Some(1));
    let report = Report::parse(&ending.stdout);
    assert_eq!((report.probes.len(), report.count("received")), (60, 0));
    // They were lost when the connection went, not when their 5 s were over.
    assert!(report.count("closed") + report.count("reset") >= 20, "{report:#?}");
}

fn a3_split_reply_does_not_desync(site: &Site) {
    check_split_replies(site, "v1", V1_BYTES, (1..V1_BYTES).step_by(3).collect());
}

fn a3_split_v2_reply_does_not_desync(site: &Site) {
    check_split_replies(site, "v2", V2_BYTES, (1..V2_BYTES).step_by(5).collect());
}

/// The two halves of the first replies come further apart than the timeout. Those probes are
/// lost; the connection and every later probe must not be.
fn check_split_replies(site: &Site, wire: &str, frame_bytes: usize, splits: Vec<usize>) {
    let slow = splits.len();
    let behaviour = servers::split_replies(frame_bytes, splits, Duration::from_millis(200));
    let server = Server::start(&site.responder_place(), site.responder_ip(), behaviour);
    let words = format!("{} --wire={wire} --interval=20ms --timeout=100ms --json", server.address);
    let probe = site.probe(&words);
    let lines = lines_until_last_received(&probe, 20);
    let report = Report::parse(&lines);
    assert!(report.count("timeout") >= slow, "{report:#?}");
    assert_eq!(report.count("timeout") + report.count("received"), report.probes.len());
    assert_eq!(server.accepted(), 1, "no reconnect was needed");
    let exposition = probe.scrape();
    assert_eq!(exposition.count(catalogue::CONNECTED, &[]), 1);
}

fn a3_bytes_between_replies_do_not_desync(site: &Site) {
    // HEAD's "ignore bad magic; continue" never found a frame again.
    let behaviour = servers::answer_frames(V2_BYTES, |number, frame| match number {
        5 => [&b"NONSENSE and TCPPI"[..], &frame].concat(),
        10 => [&b"TCPPING\0"[..], &frame].concat(),
        15 => frame[3..].to_vec(),
        _ => frame,
    });
    let server = Server::start(&site.responder_place(), site.responder_ip(), behaviour);
    let words = format!("{} --wire=v2 --interval=20ms --timeout=100ms --json", server.address);
    let probe = site.probe(&words);
    probe.wait_for_stdout(20);
    let report = Report::parse(&lines_until_last_received(&probe, 20));
    // At most the probes whose own bytes were touched, and one beside each, are lost.
    assert!(report.count("received") + 8 >= report.probes.len(), "{report:#?}");
}

/// v0.2 kept its first write error for ever, so that a peer which once read nothing for a while
/// was never probed again.
fn a4_prober_recovers_from_a_peer_that_read_nothing(site: &Site) {
    // Small buffers fill within the stall.
    for namespace in [&site.lab().prober, &site.lab().responder] {
        for name in ["net/ipv4/tcp_wmem", "net/ipv4/tcp_rmem"] {
            namespace.set_sysctl(name, "4096 4096 4096").unwrap();
        }
    }
    let behaviour = servers::stall_once(V1_BYTES, 20, Duration::from_millis(1_500));
    let ip = site.responder_ip();
    let address = std::net::SocketAddr::new(ip, 0);
    let server = Server::start_on(&site.responder_place(), address, 2_048, behaviour);
    let words = format!("{} --wire=v1 --interval=2ms --timeout=200ms --json", server.address);
    let probe = site.probe(&words);
    probe.wait_for_stdout(200);
    let report = Report::parse(&lines_until_last_received(&probe, 100));
    assert!(report.probes.len() - report.count("received") >= 200, "the stall is not hidden");
    ProbeCounts::reconciled(&probe.scrape(), &[]);
    assert_eq!(probe.scrape().count(catalogue::CONNECTED, &[]), 1);
}

fn a5_reply_before_a_drop_is_received(site: &Site) {
    // One probe a connection: answered, then closed at once. HEAD counted such replies as lost.
    let behaviour = servers::close_after(V1_BYTES, 1);
    let server = Server::start(&site.responder_place(), site.responder_ip(), behaviour);
    let words = format!(
        "{} --wire=v1 --interval=100ms --timeout=400ms --duration=3s --json",
        server.address
    );
    let ending = site.probe(&words).wait();
    let report = Report::parse(&ending.stdout);
    assert_eq!(ending.code, Some(0), "something was received");
    assert_eq!(report.count("received"), server.replies(), "{report:#?}");
    assert!(server.replies() >= 2, "{}", server.replies());
}

fn a6_stall_is_counted_in_full(site: &Site) {
    // Of 150 slots in 1.5 s those of the first 1.3 s cannot be answered within 200 ms. HEAD's
    // doubling timeout showed 12 of them.
    let behaviour = servers::stall_once(V1_BYTES, 20, Duration::from_millis(1_500));
    let server = Server::start(&site.responder_place(), site.responder_ip(), behaviour);
    let words = format!(
        "{} --wire=v1 --interval=10ms --timeout=200ms --json --duration=4s",
        server.address
    );
    let ending = site.probe(&words).wait();
    let report = Report::parse(&ending.stdout);
    let lost = report.count("timeout");
    assert!((90..=160).contains(&lost), "{lost} timeouts of about 130");
    assert!(report.count("received") >= 100, "{}", report.count("received"));
}

/// TCP hides loss by sending again: the probe is not lost, so its time must show it.
fn a7_retransmission_shows_in_the_time_and_not_as_loss(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let probe = site.probe(&format!("{target} --interval=5ms --timeout=2s --json"));
    probe.wait_for_stdout(50);
    // While its end is down, the responder loses what arrives and what it sends.
    site.lab().responder.ip(&format!("link set {RESPONDER_INTERFACE} down")).unwrap();
    thread::sleep(Duration::from_millis(300));
    site.lab().responder.ip(&format!("link set {RESPONDER_INTERFACE} up")).unwrap();
    let lines = lines_until(&probe, "a retransmitted probe and twenty good ones", |probes| {
        let slow = probes.iter().position(is_retransmitted);
        slow.is_some_and(|at| {
            probes[at..].iter().filter(|probe| !is_retransmitted(probe)).count() >= 20
        })
    });
    let report = Report::parse(&lines);
    assert_eq!(report.count("received"), report.probes.len(), "none is lost");
    let exposition = probe.scrape();
    let buckets = exposition.buckets(catalogue::APP_RTT, &[]);
    let slower: f64 =
        buckets.last().unwrap().1 - buckets.iter().rfind(|(bound, _)| *bound <= 0.1).unwrap().1;
    assert!(slower >= 1.0, "the metrics show it too");
}

/// Who was sent when the link had just gone waits for the link, 300 ms; nothing else takes a third.
fn is_retransmitted(probe: &ProbeLine) -> bool {
    probe.app_rtt_ns.is_some_and(|ns| ns > 100_000_000)
}

fn a8_counters_reconcile_while_the_peer_misbehaves(site: &Site) {
    let behaviour = servers::answer_frames(V1_BYTES, |number, mut frame| {
        if number % 60 == 9 {
            // Late; the server has caught up again thirty probes later.
            thread::sleep(Duration::from_millis(60));
        }
        match number % 12 {
            // Lost, doubled, for a probe never sent, for a probe long gone.
            3 => return Vec::new(),
            5 => return [&frame[..], &frame].concat(),
            7 => frame[6] ^= 0xff,
            8 => frame[..8].copy_from_slice(&1_u64.to_le_bytes()),
            _ => {}
        }
        frame
    });
    let server = Server::start(&site.responder_place(), site.responder_ip(), behaviour);
    let words = format!("{} --wire=v1 --interval=2ms --timeout=50ms", server.address);
    let probe = site.probe(&words);
    let counts = scrape_for(&probe, Duration::from_millis(1_500));
    assert!(counts.received >= 20 && counts.timeouts >= 20, "{counts:?}");
    assert!(counts.received <= u64::try_from(server.replies()).unwrap(), "{counts:?}");
}

fn a8_counters_reconcile_while_the_peer_drops_connections(site: &Site) {
    let behaviour = |connection: &mut servers::Connection| {
        // Every second connection ends with probes unanswered.
        for _ in 0..10 {
            let frame = connection.read_frame(V1_BYTES)?;
            connection.reply(&frame)?;
        }
        (0..5 * (connection.number % 2)).try_for_each(|_| connection.read_frame(V1_BYTES).map(drop))
    };
    let server = Server::start(&site.responder_place(), site.responder_ip(), behaviour);
    let words = format!("{} --wire=v1 --interval=2ms --timeout=50ms", server.address);
    let probe = site.probe(&words);
    let counts = scrape_for(&probe, Duration::from_millis(2_500));
    assert!(counts.received >= 20 && counts.timeouts >= 5, "{counts:?}");
    assert!(server.accepted() >= 2);
}

/// HEAD's lowest bucket was 500 µs, so that every probe in a datacenter fell into it.
fn a10_buckets_resolve_microseconds(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let probe = site.probe(&format!("{target} --interval=5ms --json"));
    probe.wait_for_stdout(100);
    let exposition = probe.scrape();
    for family in [catalogue::RTT, catalogue::APP_RTT] {
        let buckets = exposition.buckets(family, &[]);
        let below_ms = buckets.iter().filter(|(bound, _)| *bound <= 0.001).count();
        assert!(below_ms >= 9, "{family}: {buckets:?}");
        assert!(buckets[0].0 <= 1e-6 && buckets[0].1 == 0.0, "{family}: {buckets:?}");
        let finite = buckets.iter().rfind(|(bound, _)| bound.is_finite()).unwrap();
        assert!(finite.0 >= 10.0, "{family} ends at {}", finite.0);
        let bounds: Vec<f64> = buckets.iter().map(|(bound, _)| *bound).collect();
        assert!(bounds.windows(2).take(below_ms - 1).all(|pair| pair[1] <= pair[0] * 2.6));
    }
}

/// Scrapes without a pause for this long; every scrape must reconcile and no counter fall.
fn scrape_for(probe: &Run, time: Duration) -> ProbeCounts {
    probe.scrape_until("the first probe", |exposition| {
        exposition.has(catalogue::SENT, &[]) && exposition.count(catalogue::SENT, &[]) > 0
    });
    let started = Instant::now();
    let mut last = ProbeCounts::reconciled(&probe.scrape(), &[]);
    let mut scrapes = 0;
    while started.elapsed() < time {
        let counts = ProbeCounts::reconciled(&probe.scrape(), &[]);
        assert!(
            counts.sent >= last.sent
                && counts.received >= last.received
                && counts.timeouts >= last.timeouts,
            "{last:?} then {counts:?}"
        );
        last = counts;
        scrapes += 1;
    }
    assert!(scrapes >= 10, "{scrapes}");
    last
}

/// Waits until the last `count` probes were received, and gives all lines.
fn lines_until_last_received(probe: &Run, count: usize) -> Vec<String> {
    lines_until(probe, "a run of received probes", |probes| {
        probes.len() >= count
            && probes.iter().rev().take(count).all(|probe| probe.outcome == "received")
            && probes.iter().any(|probe| probe.outcome != "received")
    })
}

/// Waits until the probes reported so far satisfy `met`, and gives all lines.
fn lines_until(probe: &Run, what: &str, met: impl Fn(&[ProbeLine]) -> bool) -> Vec<String> {
    let started = Instant::now();
    loop {
        let lines = probe.stdout();
        let report = Report::parse(&lines);
        if met(&report.probes) {
            return lines;
        }
        assert!(started.elapsed() < crate::run::PATIENCE, "never: {what}");
        probe.wait_for_stdout(lines.len() + 10);
    }
}
