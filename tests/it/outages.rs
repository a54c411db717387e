//! Targets that are not there, go away or come back: the loss is full, the outcome says why,
//! the prober neither gives up nor hurries.

use std::net::SocketAddr;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::catalogue::{self, ProbeCounts};
use crate::lines::Report;
use crate::run::{PATIENCE, Run};
use crate::servers::{self, Server};
use crate::site::{Place, Site};

on_each_io! {
    a_server_that_closes_at_once_is_not_hammered,
    a_refused_connect_is_not_repeated_in_a_hurry,
    a_server_that_never_replies_is_all_timeouts,
    a_dead_target_does_not_disturb_a_good_one,
}

on_each_io_over_veth! {
    no_route_and_no_neighbour_are_all_loss,
    a_target_that_comes_up_later_is_found,
    a_restarted_responder_is_found_again,
    a_peer_that_vanishes_without_a_word_is_left,
}

fn a_server_that_closes_at_once_is_not_hammered(site: &Site) {
    let place = site.responder_place();
    let server = Server::start(&place, site.responder_ip(), servers::accept_then_close);
    let probe = site.probe(&format!("{} --interval=1ms --timeout=100ms", server.address));
    probe.http_address();
    let started = Instant::now();
    thread::sleep(Duration::from_secs(3));
    let (accepted, cpu, wall) = (server.accepted(), probe.cpu_time(), started.elapsed());
    // v0.2 made thousands; a pause that starts at 100 ms and grows makes a handful.
    assert!((2..=30).contains(&accepted), "{accepted} connections in {wall:?}");
    assert!(cpu < wall / 3, "{cpu:?} of CPU in {wall:?}");
    let exposition = probe.scrape();
    let counts = ProbeCounts::reconciled(&exposition, &[]);
    assert!(counts.received == 0 && counts.timeouts >= 1_000, "{counts:?}");
    assert_eq!(exposition.one(catalogue::LOSS_PERCENT, &[]).to_bits(), 100.0_f64.to_bits());
}

fn a_refused_connect_is_not_repeated_in_a_hurry(site: &Site) {
    let (_held, address) = servers::refusing_address(&site.responder_place(), site.responder_ip());
    let probe = site.probe(&format!("{address} --interval=1ms --timeout=100ms"));
    probe.http_address();
    thread::sleep(Duration::from_secs(2));
    let attempts = probe.scrape().count(catalogue::DROPPED, &[]);
    assert!((1..=30).contains(&attempts), "{attempts} attempts in 2 s");
}

fn a_server_that_never_replies_is_all_timeouts(site: &Site) {
    let server = Server::start(&site.responder_place(), site.responder_ip(), servers::never_reply);
    // With `auto` the hello is not answered either: probes are lost all the same, and soon.
    for wire in ["v1", "v2", "auto"] {
        let words = format!(
            "{} --wire={wire} --interval=10ms --timeout=50ms --duration=700ms --json",
            server.address
        );
        let ending = site.probe(&words).wait();
        assert_eq!(ending.code, Some(1), "{wire}");
        let report = Report::parse(&ending.stdout);
        assert!(report.probes.len() >= 30, "{wire}: {}", report.probes.len());
        assert_eq!(report.count("received"), 0);
        assert!(report.count("timeout") >= 20, "{wire}: {report:#?}");
    }
}

fn a_dead_target_does_not_disturb_a_good_one(site: &Site) {
    let serve = site.serve("");
    let good = serve.responder_address();
    let (_held, dead) = servers::refusing_address(&site.responder_place(), site.responder_ip());
    let words = format!("good={good} dead={dead} --interval=5ms --count=100 --json");
    let ending = site.probe(&words).wait();
    assert_eq!(ending.code, Some(0), "something was received");
    let report = Report::parse(&ending.stdout);
    let received = report.received().filter(|probe| probe.target == "good").count();
    let lost = report.probes.iter().filter(|probe| probe.target == "dead").count();
    assert_eq!((received, lost), (100, 100));
    assert_eq!(report.received().count(), 100);
}

fn no_route_and_no_neighbour_are_all_loss(site: &Site) {
    let prober = &site.lab().prober;
    prober.ip("route add blackhole 10.90.0.0/24").unwrap();
    prober.ip("route add unreachable 10.91.0.0/24").unwrap();
    prober.ip("route add prohibit 10.92.0.0/24").unwrap();
    // The last one is on the link, but nobody has that address.
    let targets = ["10.90.0.1:4000", "10.91.0.1:4000", "10.92.0.1:4000", "10.87.0.200:4000"];
    // The kernel asks for the neighbour for three seconds; probes are lost long before that.
    let words = targets.join(" ") + " --interval=10ms --timeout=50ms --duration=2s --json";
    let mut probe = site.probe(&words);
    let exposition = probe.scrape_until("loss at every target", |exposition| {
        targets.iter().all(|target| {
            let labels = [("target", *target)];
            exposition.has(catalogue::TIMEOUTS, &labels)
                && exposition.count(catalogue::TIMEOUTS, &labels) >= 10
        })
    });
    for target in targets {
        let labels = [("target", target)];
        let counts = ProbeCounts::reconciled(&exposition, &labels);
        assert_eq!(counts.received, 0, "{target}: {counts:?}");
        let loss = exposition.one(catalogue::LOSS_PERCENT, &labels);
        assert_eq!(loss.to_bits(), 100.0_f64.to_bits(), "{target}");
    }
    let ending = probe.wait();
    assert_eq!(ending.code, Some(1));
    let report = Report::parse(&ending.stdout);
    let unreachable =
        report.probes.iter().filter(|probe| probe.target == targets[1]).collect::<Vec<_>>();
    assert!(unreachable.iter().all(|probe| probe.outcome == "unreachable"), "{unreachable:#?}");
}

fn a_target_that_comes_up_later_is_found(site: &Site) {
    let probe = {
        let target = SocketAddr::new(site.responder_ip(), LATER_PORT);
        site.probe(&format!("{target} --interval=10ms --json"))
    };
    probe.wait_for_stdout(50);
    let place = site.responder_place();
    let target = SocketAddr::new(site.responder_ip(), LATER_PORT);
    let _server = Server::start_on(&place, target, 0, servers::raw_echo);
    let exposition = probe.scrape_until("probes received", |exposition| {
        exposition.count(catalogue::RECEIVED, &[]) >= 20
    });
    let counts = ProbeCounts::reconciled(&exposition, &[]);
    assert!(counts.timeouts >= 50, "what was lost before is not forgotten: {counts:?}");
    assert_eq!(exposition.count(catalogue::CONNECTED, &[]), 1);
}

fn a_restarted_responder_is_found_again(site: &Site) {
    let target = SocketAddr::new(site.responder_ip(), LATER_PORT);
    let start = || {
        let io = site.io.name();
        let words = format!("serve --io={io} --listen={target} --web.listen-address=127.0.0.1:0");
        let serve = Run::start(&site.responder_place(), &words);
        assert_eq!(serve.responder_address(), target);
        serve
    };
    let mut serve = start();
    let probe = site.probe(&format!("{target} --interval=10ms --timeout=200ms --json"));
    probe.wait_for_stdout(20);
    serve.signal(Signal::TERM);
    assert_eq!(serve.wait().code, Some(0));
    let before = probe.scrape_until("the loss of the connection", |exposition| {
        exposition.count(catalogue::CONNECTED, &[]) == 0
    });
    let before = ProbeCounts::reconciled(&before, &[]);
    // The old connections are in TIME_WAIT on this side: listening again must still work.
    let _serve = start();
    let exposition = probe.scrape_until("probes received again", |exposition| {
        exposition.count(catalogue::RECEIVED, &[]) >= before.received + 20
    });
    assert_eq!(exposition.count(catalogue::CONNECTS, &[]), 2);
    assert!(ProbeCounts::reconciled(&exposition, &[]).timeouts >= 1);
}

/// A host that loses its power sends neither FIN nor RST. When it is back it knows nothing of the
/// connection; the prober must not wait for the kernel's fifteen minutes.
fn a_peer_that_vanishes_without_a_word_is_left(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let probe = site.probe(&format!("{target} --interval=10ms --timeout=100ms --json"));
    probe.wait_for_stdout(20);
    let interface = crate::lab::RESPONDER_INTERFACE;
    site.lab().responder.ip(&format!("link set {interface} down")).unwrap();
    // What the dying process sends does not get through the link.
    drop(serve);
    wait_until_free(&site.responder_place(), target);
    let io = site.io.name();
    let words = format!("serve --io={io} --listen={target} --web.listen-address=127.0.0.1:0");
    let _reborn = Run::start(&site.responder_place(), &words);
    let lost = probe
        .scrape_until("full loss", |exposition| exposition.count(catalogue::TIMEOUTS, &[]) >= 100);
    let lost = ProbeCounts::reconciled(&lost, &[]);
    site.lab().responder.ip(&format!("link set {interface} up")).unwrap();
    probe.scrape_until("probes received again", |exposition| {
        exposition.count(catalogue::RECEIVED, &[]) >= lost.received + 20
    });
}

/// The kernel takes a killed process's ring apart in the background, and the ring holds sockets.
fn wait_until_free(place: &Place, address: SocketAddr) {
    let started = Instant::now();
    // The standard library sets SO_REUSEADDR: only a listener is in the way.
    while let Err(error) = place.run(|| std::net::TcpListener::bind(address)) {
        assert!(started.elapsed() < PATIENCE, "{address}: {error}");
        thread::sleep(Duration::from_millis(10));
    }
}

/// A port inside the test's own namespace, which nobody shares.
const LATER_PORT: u16 = 4_444;
