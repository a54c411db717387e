//! The prober against our own responder: everything sent is received, every line adds up, and the
//! options of its sockets are seen on the wire.

use rustix::process::Signal;

use crate::capture::{Capture, SYN};
use crate::catalogue::{self, ProbeCounts};
use crate::lab::PROBER_INTERFACE;
use crate::lines::{ProbeLine, Report};
use crate::run::Run;
use crate::servers::{self, Server};
use crate::site::{Family, Place, Site};

everywhere! {
    fifty_probes_are_received_and_each_adds_up,
    frames_of_v1_and_v2_are_those_of_the_seed,
}

on_each_io! {
    without_kernel_stamps_nothing_is_made_up,
    both_starts_a_responder_and_probes_it,
    several_targets_are_told_apart,
    a_duration_ends_the_run,
    without_json_the_output_is_plain_lines,
    metrics_say_what_the_lines_say,
    times_and_replies_are_equal_in_number_at_the_end,
    wire_padding_makes_frames_larger,
    several_probes_may_be_in_flight,
    a_prober_that_was_stopped_counts_what_it_missed,
}

on_each_io_over_veth! {
    code_point_hop_limit_and_source_are_on_the_wire,
    a_scoped_address_is_probed_through_its_interface,
}

fn fifty_probes_are_received_and_each_adds_up(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let ending = site.probe(&format!("{target} --count=50 --interval=10ms --json")).wait();
    assert_eq!(ending.code, Some(0), "{:?}", ending.stderr);
    let report = Report::parse(&ending.stdout);
    assert!(report.summary.is_some());
    assert_eq!(report.probes.len(), 50);
    assert_eq!(report.count("received"), 50, "{report:#?}");
    let sequences: Vec<u64> = report.probes.iter().map(|probe| probe.seq).collect();
    assert_eq!(sequences, (1..=50).collect::<Vec<_>>());
    for probe in &report.probes {
        assert_eq!(probe.target, target.to_string());
        assert_eq!(probe.address.as_deref(), Some(probe.target.as_str()));
        check_adds_up(probe);
    }
    // Loopback and veth stamp every packet; the peer's last transmit stamps may come too late.
    let kernel = report.probes.iter().filter(|probe| probe.clock.as_deref() == Some("kernel"));
    assert!(kernel.count() >= 45, "{report:#?}");
    let split = report.probes.iter().filter(|probe| probe.network_ns.is_some());
    assert!(split.count() >= 45, "{report:#?}");
}

/// What holds for every received probe: stamps in path order, and stages whose sum is the
/// application's round trip to the nanosecond.
pub(crate) fn check_adds_up(probe: &ProbeLine) {
    let stamps = &probe.stamps;
    let due = stamps.due.unwrap();
    let (tx_app, rx_app) = (stamps.tx_app.unwrap(), stamps.rx_app.unwrap());
    let app_rtt = probe.app_rtt_ns.unwrap();
    let rtt = probe.rtt_ns.unwrap();
    if probe.clock.as_deref() != Some("kernel") {
        assert_eq!((probe.send_ns, probe.network_ns, probe.wakeup_ns), (None, None, None));
        return;
    }
    let (tx_sw, rx_sw) = (stamps.tx_sw.unwrap(), stamps.rx_sw.unwrap());
    let mut path = vec![due, tx_app];
    path.extend(stamps.tx_sched);
    path.extend([tx_sw, rx_sw, rx_app]);
    assert!(path.is_sorted(), "{probe:#?}");
    assert_eq!(rx_app - due, app_rtt, "{probe:#?}");
    assert_eq!(rx_sw - tx_sw, rtt, "{probe:#?}");
    let (lag, send, wakeup) =
        (probe.lag_ns.unwrap(), probe.send_ns.unwrap(), probe.wakeup_ns.unwrap());
    assert_eq!(lag + send + rtt + wakeup, app_rtt, "{probe:#?}");
    if let (Some(network), Some(peer)) = (probe.network_ns, probe.peer_ns) {
        assert_eq!(lag + send + network + peer + wakeup, app_rtt, "{probe:#?}");
    }
    assert_eq!(probe.network_ns.is_some(), probe.peer_ns.is_some(), "{probe:#?}");
}

fn frames_of_v1_and_v2_are_those_of_the_seed(site: &Site) {
    for (wire, magic, frame_bytes) in [("v1", &b""[..], 16), ("v2", &b"TCPPING\0"[..], 24)] {
        let place = site.responder_place();
        let server = Server::start(&place, site.responder_ip(), servers::raw_echo);
        let before_ns = unix_ns();
        let target = server.address;
        let words = format!("{target} --wire={wire} --count=5 --interval=10ms --json");
        let ending = site.probe(&words).wait();
        let after_ns = unix_ns();
        assert_eq!(Report::parse(&ending.stdout).count("received"), 5);
        let received = server.received().concat();
        assert_eq!(received.len(), 5 * frame_bytes, "nothing but five frames: {received:?}");
        for (frame, sequence) in received.chunks(frame_bytes).zip(1_u64..) {
            let (head, time) = frame.split_at(frame_bytes - 8);
            assert_eq!(head, [magic, &sequence.to_le_bytes()].concat());
            let sent_ns = u64::from_le_bytes(time.try_into().unwrap());
            assert!((before_ns..=after_ns).contains(&sent_ns), "{sent_ns}");
        }
    }
}

fn without_kernel_stamps_nothing_is_made_up(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let words = format!("{target} --clock=application --count=10 --interval=10ms --json");
    let report = Report::parse(&site.probe(&words).wait().stdout);
    assert_eq!(report.count("received"), 10);
    for probe in &report.probes {
        assert_eq!(probe.clock.as_deref(), Some("application"));
        assert!(probe.rtt_ns.is_some() && probe.app_rtt_ns.is_some() && probe.lag_ns.is_some());
        let stages = [probe.send_ns, probe.network_ns, probe.peer_ns, probe.wakeup_ns];
        assert_eq!(stages, [None; 4]);
        let stamps = &probe.stamps;
        assert_eq!([stamps.tx_sched, stamps.tx_sw, stamps.tx_ack, stamps.rx_sw], [None; 4]);
        let due_to_sent = stamps.tx_app.unwrap() - stamps.due.unwrap();
        assert_eq!(due_to_sent, probe.lag_ns.unwrap());
    }
}

fn both_starts_a_responder_and_probes_it(site: &Site) {
    let io = site.io.name();
    let words = format!(
        "both --io={io} --listen=127.0.0.1:0 --web.listen-address=127.0.0.1:0 --interval=10ms"
    );
    let both = Run::start(&Place::Here, &words);
    let exposition = both.scrape_until("twenty probes received", |exposition| {
        exposition.has(catalogue::RECEIVED, &[]) && exposition.count(catalogue::RECEIVED, &[]) >= 20
    });
    let address = both.responder_address().to_string();
    let labels = [("address", address.as_str())];
    let counts = ProbeCounts::reconciled(&exposition, &labels);
    assert_eq!(counts.timeouts, 0);
    assert_eq!(exposition.one(catalogue::UP, &labels).to_bits(), 1.0_f64.to_bits());
    // Responders are read before probers are, so what they have counted of these probes may be
    // younger than this page.
    assert!(both.scrape().count(catalogue::RECEIVED_BYTES, &[]) > 20 * 56);
    let kind = both.fetch("/metrics").header("content-type").map(str::to_owned).unwrap();
    assert!(kind.starts_with("application/openmetrics-text"), "{kind}");
    assert_eq!(both.fetch("/-/healthy").status, 200);
    assert_eq!(both.fetch("/-/ready").status, 200);
    assert_eq!(both.fetch("/nothing/here").status, 404);
}

fn several_targets_are_told_apart(site: &Site) {
    let (one, two) = (site.serve(""), site.serve(""));
    let (first, second) = (one.responder_address(), two.responder_address());
    let words = format!(
        "left={first} right={second} localhost:{} --count=10 --interval=10ms --json",
        first.port()
    );
    let report = Report::parse(&site.probe(&words).wait().stdout);
    let named = format!("localhost:{}", first.port());
    for (target, address) in [
        ("left", Some(first.to_string())),
        ("right", Some(second.to_string())),
        (named.as_str(), None),
    ] {
        let own: Vec<_> = report.probes.iter().filter(|probe| probe.target == target).collect();
        assert_eq!(own.len(), 10, "{target}");
        if let Some(address) = address {
            assert!(own.iter().all(|probe| probe.address.as_ref() == Some(&address)));
            assert!(own.iter().all(|probe| probe.outcome == "received"));
        }
    }
}

fn a_duration_ends_the_run(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let words = format!("{target} --duration=1s --interval=20ms --json");
    let ending = site.probe(&words).wait();
    assert_eq!(ending.code, Some(0));
    let report = Report::parse(&ending.stdout);
    assert!(report.summary.is_some());
    // A second has 50 slots of 20 ms; a busy machine may skip some but cannot add any.
    assert!((25..=51).contains(&report.probes.len()), "{}", report.probes.len());
    assert!(report.count("received") >= 25);
}

fn without_json_the_output_is_plain_lines(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let ending = site.probe(&format!("{target} --count=10 --interval=10ms")).wait();
    assert_eq!(ending.code, Some(0));
    let text = ending.stdout.join("\n");
    assert!(text.contains(&target.to_string()), "{text}");
    assert!(!text.contains('\u{1b}') && !text.contains('\r'), "no terminal, no escapes: {text:?}");
}

fn metrics_say_what_the_lines_say(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address().to_string();
    let probe = site.probe(&format!("{target} --interval=10ms --json"));
    probe.wait_for_stdout(30);
    // A reply is counted when it comes, its times when they are complete: with v3 by the next
    // reply. So the times may lag behind, by the replies in flight between the two and no more.
    let exposition = probe.scrape();
    let labels = [("target", target.as_str()), ("address", target.as_str())];
    let counts = ProbeCounts::reconciled(&exposition, &labels);
    assert!(counts.received >= 30 && counts.timeouts == 0, "{counts:?}");
    let one = |name: &str| exposition.one(name, &labels);
    assert_eq!([one(catalogue::CONNECTED), one(catalogue::UP)], [1.0, 1.0]);
    assert_eq!([one(catalogue::CONNECTS), one(catalogue::DROPPED)], [1.0, 0.0]);
    assert_eq!([one(catalogue::LOSS_PERCENT), one(catalogue::WIRE_VERSION)], [0.0, 3.0]);
    assert!(one(catalogue::LAST_RTT) > 0.0);
    let by_kernel = [("target", target.as_str()), ("clock", "kernel")];
    let count = |family: &str, labels: &[(&str, &str)]| {
        exposition.count(&format!("{family}_count"), labels)
    };
    assert!(count(catalogue::RTT, &by_kernel) >= 25);
    for family in [catalogue::RTT, catalogue::APP_RTT] {
        let timed = count(family, &labels);
        assert!((counts.received - SETTLING_MAX..=counts.received).contains(&timed), "{timed}");
    }
    for stage in ["lag", "send", "network", "peer", "wakeup"] {
        assert!(count(catalogue::STAGE, &[("stage", stage)]) >= 25, "{stage}");
    }
    // Kernel time lies inside the application's.
    let sum = |family: &str| exposition.sum(&format!("{family}_sum"), &labels);
    assert!(sum(catalogue::RTT) < sum(catalogue::APP_RTT));
}

/// Nothing settles any more: probes have stopped, the process is still scraped.
fn times_and_replies_are_equal_in_number_at_the_end(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address().to_string();
    // The second target keeps the process alive when the first is done.
    let silent = Server::start(&site.responder_place(), site.responder_ip(), servers::never_reply);
    let words = format!(
        "good={target} silent={} --wire=v3 --interval=10ms --timeout=2s --count=40 --json",
        silent.address
    );
    let probe = site.probe(&words);
    let labels = [("target", "good")];
    let exposition = probe.scrape_until("forty replies", |exposition| {
        exposition.has(catalogue::RECEIVED, &labels)
            && exposition.count(catalogue::RECEIVED, &labels) == 40
            && exposition.count(&format!("{}_count", catalogue::RTT), &labels) == 40
    });
    let counts = ProbeCounts::reconciled(&exposition, &labels);
    assert_eq!((counts.sent, counts.in_flight), (40, 0), "{counts:?}");
    for family in [catalogue::RTT, catalogue::APP_RTT] {
        assert_eq!(exposition.count(&format!("{family}_count"), &labels), 40, "{family}");
    }
    for stage in ["lag", "send", "network", "peer", "wakeup"] {
        let split = exposition
            .count(&format!("{}_count", catalogue::STAGE), &[("target", "good"), ("stage", stage)]);
        assert!((36..=40).contains(&split), "{stage}: {split}");
    }
}

fn wire_padding_makes_frames_larger(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let words = format!("{target} --wire=v3 --padding=1000 --count=20 --interval=5ms --json");
    let report = Report::parse(&site.probe(&words).wait().stdout);
    assert_eq!(report.count("received"), 20);
    assert!(serve.scrape().count(catalogue::RECEIVED_BYTES, &[]) >= 20 * 1_056);
}

fn several_probes_may_be_in_flight(site: &Site) {
    // Every reply comes 100 ms late; at 10 ms a probe, about ten are under way at any time.
    let delay = std::time::Duration::from_millis(100);
    let behaviour = servers::delay_line(delay);
    let server = Server::start(&site.responder_place(), site.responder_ip(), behaviour);
    let target = server.address;
    let words = format!("{target} --wire=v1 --interval=10ms --timeout=2s --count=60 --json");
    let report = Report::parse(&site.probe(&words).wait().stdout);
    assert_eq!(report.count("received"), 60);
    for probe in &report.probes {
        let rtt = std::time::Duration::from_nanos(probe.app_rtt_ns.unwrap());
        assert!(rtt >= delay, "{probe:?}");
    }
    // A prober that waits for each reply would need 6 s; the schedule does not wait.
    let due = |probe: &ProbeLine| probe.stamps.due.unwrap();
    let whole_ns = due(&report.probes[59]) - due(&report.probes[0]);
    assert!(whole_ns < 3_000_000_000, "{whole_ns}");
}

/// Coordinated omission: slots that passed while nobody could send are not forgotten.
fn a_prober_that_was_stopped_counts_what_it_missed(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let probe = site.probe(&format!("{target} --interval=10ms --json"));
    probe.wait_for_stdout(10);
    let slots = |exposition: &crate::exposition::Exposition| {
        exposition.count(catalogue::SENT, &[]) + exposition.count(catalogue::SKIPPED, &[])
    };
    let (before, started) = (slots(&probe.scrape()), std::time::Instant::now());
    probe.signal(Signal::STOP);
    std::thread::sleep(std::time::Duration::from_millis(700));
    probe.signal(Signal::CONT);
    let stopped = u64::try_from(started.elapsed().as_millis()).unwrap() / 10;
    let exposition = probe.scrape_until("every slot accounted for", |exposition| {
        slots(exposition) >= before + stopped
    });
    let missed = exposition.count(catalogue::SKIPPED, &[]);
    let late = Report::parse(&probe.stdout())
        .probes
        .iter()
        .filter(|probe| probe.lag_ns.is_some_and(|ns| ns > 50_000_000))
        .count();
    let told = missed + u64::try_from(late).unwrap();
    assert!(told + 10 >= stopped, "{missed} skipped and {late} late of {stopped} slots");
}

fn code_point_hop_limit_and_source_are_on_the_wire(site: &Site) {
    site.lab().prober.ip(&format!("address add 10.87.0.77/24 dev {PROBER_INTERFACE}")).unwrap();
    let serve = site.serve("");
    let target = serve.responder_address();
    let capture = Capture::start(&site.prober_place(), PROBER_INTERFACE);
    let words = format!(
        "{target} --count=5 --interval=10ms --dscp=46 --ttl=9 --source=10.87.0.77 \
         --interface={PROBER_INTERFACE} --json"
    );
    let ending = site.probe(&words).wait();
    assert_eq!(Report::parse(&ending.stdout).count("received"), 5, "{:?}", ending.stderr);
    let segments = capture.stop();
    let ours: Vec<_> = segments.iter().filter(|segment| segment.outgoing).collect();
    assert!(ours.iter().any(|segment| segment.flags & SYN != 0));
    for segment in ours {
        assert_eq!(segment.source.ip().to_string(), "10.87.0.77");
        assert_eq!((segment.traffic_class >> 2, segment.hops), (46, 9), "{segment:?}");
    }
}

fn a_scoped_address_is_probed_through_its_interface(site: &Site) {
    let site = match Site::new(site.io, crate::site::Path::Veth, Family::V6) {
        Ok(site) => site,
        Err(reason) => return crate::site::report_skip("probing::scoped", &reason),
    };
    let io = site.io.name();
    let words = format!("serve --io={io} --listen=[::]:0 --web.listen-address=127.0.0.1:0");
    let serve = Run::start(&site.responder_place(), &words);
    let port = serve.responder_address().port();
    let target = format!("[fe80::87:2%{PROBER_INTERFACE}]:{port}");
    let ending = site.probe(&format!("{target} --count=10 --interval=10ms --json")).wait();
    let report = Report::parse(&ending.stdout);
    assert_eq!(report.count("received"), 10, "{:?}", ending.stderr);
    assert_eq!(report.probes[0].target, target);
}

/// Replies of this interval and the next that a scrape may fall between.
const SETTLING_MAX: u64 = 3;

fn unix_ns() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    u64::try_from(now.as_nanos()).unwrap()
}
