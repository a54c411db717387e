//! Networks that delay, lose, reorder and double (netem): what a bridge between prober and
//! responder does to packets goes in; floors of time, counts and the order of stamps must come out.

use crate::catalogue::{self, ProbeCounts};
use crate::check_lines::CheckLine;
use crate::half_open::{self, HALF_OPEN, Listener};
use crate::lab::{PROBER_INTERFACE, TOWARD_PROBER, TOWARD_RESPONDER};
use crate::lines::{ProbeLine, Report};
use crate::probing::check_adds_up;
use crate::servers;
use crate::site::Site;

over_a_bad_way! {
    a_delay_on_the_way_is_the_networks,
    a_delay_before_the_driver_is_the_senders,
    probes_that_were_lost_are_sent_again_and_counted,
    a_bad_way_spoils_no_time,
    a_check_takes_as_long_as_the_way,
    a_lost_syn_is_sent_again_and_no_round_trip_is_made_up,
    answers_out_of_order_and_doubled_spoil_no_check,
}

fn a_delay_on_the_way_is_the_networks(site: &Site) {
    let target = site.serve("");
    let target = target.responder_address();
    both_ways(site, "delay 30ms");
    for wire in ["v1", "v3"] {
        let words = format!("{target} --wire={wire} --count=30 --interval=20ms --timeout=5s");
        let probes = probes(site, &words, 3);
        for probe in &probes {
            assert!(probe.rtt_ns >= Some(ROUND_TRIP_NS), "{probe:#?}");
            if wire == "v3" && probe.network_ns.is_some() {
                assert!(probe.network_ns >= Some(ROUND_TRIP_NS), "{probe:#?}");
            }
        }
        if wire == "v3" {
            let ends = |probe: &ProbeLine| {
                [probe.lag_ns, probe.send_ns, probe.peer_ns, probe.wakeup_ns].iter().flatten().sum()
            };
            let split: Vec<_> = probes.iter().filter(|probe| probe.network_ns.is_some()).collect();
            assert!(split.len() >= 5, "{probes:#?}");
            let network = median(split.iter().filter_map(|probe| probe.network_ns));
            let ends = median(split.iter().map(|probe| ends(probe)));
            assert!(network > ends, "network {network} ns, at both ends {ends} ns");
        }
    }
}

/// A queue of this host holds packets back before the driver stamps them: it is no network's time.
fn a_delay_before_the_driver_is_the_senders(site: &Site) {
    let serve = site.serve("");
    let words = format!("qdisc replace dev {PROBER_INTERFACE} root netem delay 60ms");
    site.lab().prober.tc(&words).unwrap();
    let words = format!("{} --count=30 --interval=20ms --timeout=5s", serve.responder_address());
    let probes = probes(site, &words, 3);
    for probe in &probes {
        assert!(probe.send_ns >= Some(ROUND_TRIP_NS), "{probe:#?}");
        let stamps = &probe.stamps;
        if let (Some(queued), Some(left)) = (stamps.tx_sched, stamps.tx_sw) {
            assert!(left - queued >= ROUND_TRIP_NS, "{probe:#?}");
        }
    }
    let send = median(probes.iter().filter_map(|probe| probe.send_ns));
    let rtt = median(probes.iter().filter_map(|probe| probe.rtt_ns));
    assert!(rtt < send, "round trip {rtt} ns, sending {send} ns");
}

fn probes_that_were_lost_are_sent_again_and_counted(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let probe = site.probe(&format!("{target} --interval=20ms --timeout=20s --tcp-info=all"));
    probe.scrape_until("the connection's numbers", |exposition| {
        exposition.has("tcp_info_retrans_total", &[])
    });
    both_ways(site, "loss 10%");
    let exposition = probe.scrape_until("segments sent again", |exposition| {
        ProbeCounts::reconciled(exposition, &[]);
        exposition.one("tcp_info_retrans_total", &[]) >= 5.0
    });
    assert!(exposition.one("tcp_info_retrans_bytes_total", &[]) > 0.0, "{exposition}");
    assert!(dropped(site, TOWARD_RESPONDER) >= 1);
    both_ways(site, "delay 1ms");
    // TCP has hidden every loss but for the time that it took.
    let sent = probe.scrape().count(catalogue::SENT, &[]);
    let exposition = probe.scrape_until("all of them received", |exposition| {
        exposition.count(catalogue::RECEIVED, &[]) > sent
    });
    let counts = ProbeCounts::reconciled(&exposition, &[]);
    assert_eq!(counts.timeouts, 0, "{exposition}");
    assert_eq!(exposition.count(catalogue::CONNECTS, &[]), 1);
}

fn a_bad_way_spoils_no_time(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let ways = ["loss 10%", "delay 20ms reorder 40%", "delay 20ms 15ms", "duplicate 40%"];
    for way in ways {
        both_ways(site, way);
        let before = out_of_order(site);
        let words = format!("{target} --wire=v3 --count=150 --interval=4ms --timeout=4s");
        // What comes out of order is received together, and only the last of it has a stamp.
        for probe in probes(site, &words, 0) {
            assert!(probe.rtt_ns > Some(0), "{way}: {probe:#?}");
        }
        let reordered = out_of_order(site) - before;
        assert!(reordered > 0 || !way.contains("delay"), "{way}: nothing came out of order");
    }
}

fn a_check_takes_as_long_as_the_way(site: &Site) {
    let listener = Listener::start(site, 128);
    let (_held, closed) = servers::refusing_address(&site.responder_place(), site.responder_ip());
    both_ways(site, "delay 30ms");
    for method in HALF_OPEN {
        let words = format!(
            "open={} closed={closed} --count=20 --interval=20ms --timeout=5s",
            listener.address
        );
        let checks = half_open::check(site, method, &words);
        assert_eq!(checks.len(), 40);
        let mut completed = 0;
        for check in checks {
            let expected = if check.target == "open" { "open" } else { "refused" };
            assert_eq!((check.outcome.as_str(), check.syn_retransmits), (expected, 0), "{check:?}");
            assert_eq!(check.clock.as_deref(), Some("ebpf"), "{check:?}");
            assert!(check.rtt_ns >= Some(ROUND_TRIP_NS), "{check:?}");
            assert!(check.elapsed_ns >= ROUND_TRIP_NS, "{check:?}");
            completed += usize::from(check.completed);
        }
        // A prober that an emulated CPU holds up acknowledges, and says so.
        assert!(listener.accepted() <= completed, "{method}: handshakes that nobody told");
        assert!(method != "syn" || completed == 0, "a SYN of our own was acknowledged");
    }
}

/// Either of SYN and SYN-ACK is lost, or the RST. Only a SYN of our own tells which of several was
/// answered; of a kernel socket's, eBPF takes it for the last one, so there it may be too short.
fn a_lost_syn_is_sent_again_and_no_round_trip_is_made_up(site: &Site) {
    let listener = Listener::start(site, 128);
    both_ways(site, "delay 30ms loss 20%");
    for method in HALF_OPEN {
        let words = format!("{} --count=40 --interval=50ms --timeout=5s", listener.address);
        let checks = half_open::check(site, method, &words);
        let open: Vec<&CheckLine> = checks.iter().filter(|it| it.outcome == "open").collect();
        assert!(open.len() >= 20, "{method}: {checks:#?}");
        assert!(open.iter().any(|check| check.syn_retransmits >= 1), "{method}: {checks:#?}");
        let timed = open.iter().filter(|check| check.rtt_ns.is_some()).count();
        assert!(timed >= 10, "{method}: {checks:#?}");
        assert!(checks.iter().all(|it| ["open", "timeout"].contains(&it.outcome.as_str())));
        for check in open {
            assert!(check.elapsed_ns >= ROUND_TRIP_NS, "{check:?}");
            let mut waited_ns = 0;
            if method == "syn" {
                // Again after one second at the earliest (RFC 6298).
                waited_ns = 900_000_000 * u64::from(check.syn_retransmits);
            }
            if method == "syn" || check.syn_retransmits == 0 {
                assert!(check.rtt_ns.is_none_or(|ns| ns >= ROUND_TRIP_NS), "{check:?}");
            }
            let rtt_ns = check.rtt_ns.unwrap_or(0);
            assert!(waited_ns + rtt_ns <= check.elapsed_ns + 1_000, "{check:?}");
        }
        let completed = checks.iter().filter(|check| check.completed).count();
        assert!(listener.accepted() <= completed, "{method}: handshakes that nobody told");
    }
}

fn answers_out_of_order_and_doubled_spoil_no_check(site: &Site) {
    let listener = Listener::start(site, 128);
    let (_held, closed) = servers::refusing_address(&site.responder_place(), site.responder_ip());
    both_ways(site, "delay 20ms 15ms reorder 30% duplicate 40%");
    for method in HALF_OPEN {
        let words = format!(
            "open={} closed={closed} --count=150 --interval=4ms --timeout=4s",
            listener.address
        );
        let checks = half_open::check(site, method, &words);
        for check in &checks {
            let expected = if check.target == "open" { "open" } else { "refused" };
            assert_eq!(check.outcome, expected, "{check:?}");
            assert!(check.rtt_ns.is_some_and(|ns| ns > 0), "{check:?}");
            assert!(check.rtt_ns <= Some(check.elapsed_ns + 1_000), "{check:?}");
        }
        // The kernel acknowledges the second copy of a SYN-ACK at once.
        let completed = checks.iter().filter(|check| check.completed).count();
        assert!(listener.accepted() <= completed, "{method}: handshakes that nobody told");
        assert!(method != "syn" || completed == 0, "a SYN of our own was acknowledged");
    }
}

/// The probes of a run with these words that the kernel has timed, so many tenths of them at least.
/// All are received, and add up.
fn probes(site: &Site, words: &str, share_min: usize) -> Vec<ProbeLine> {
    let ending = site.probe(&format!("{words} --json")).wait();
    assert_eq!(ending.code, Some(0), "{:?}", ending.stderr);
    let report = Report::parse(&ending.stdout);
    assert_eq!(report.count("received"), report.probes.len(), "{report:#?}");
    report.probes.iter().for_each(check_adds_up);
    let all = report.probes.len();
    let by_kernel = |probe: &ProbeLine| probe.clock.as_deref() == Some("kernel");
    let timed: Vec<_> = report.probes.into_iter().filter(by_kernel).collect();
    assert!(timed.len() * 10 >= all * share_min, "{} of {all} by the kernel", timed.len());
    timed
}

/// What happens to each packet, whichever way it goes.
fn both_ways(site: &Site, way: &str) {
    for interface in [TOWARD_PROBER, TOWARD_RESPONDER] {
        let middle = site.lab().middle.as_ref().unwrap();
        middle.tc(&format!("qdisc replace dev {interface} root netem {way}")).unwrap();
    }
}

/// Packets that were lost there since that way was told to lose some.
fn dropped(site: &Site, interface: &str) -> u64 {
    let middle = site.lab().middle.as_ref().unwrap();
    let said = middle.tc(&format!("-s qdisc show dev {interface}")).unwrap();
    let (_, rest) = said.split_once("dropped ").unwrap();
    rest.split(|it: char| !it.is_ascii_digit()).next().unwrap().parse().unwrap()
}

/// Segments that the responder's host received before others sent earlier.
fn out_of_order(site: &Site) -> u64 {
    let read = || std::fs::read_to_string("/proc/thread-self/net/netstat").unwrap();
    let text = site.responder_place().run(read);
    let mut lines = text.lines().filter(|line| line.starts_with("TcpExt:"));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let at = names.split(' ').position(|name| name == "TCPOFOQueue").unwrap();
    values.split(' ').nth(at).unwrap().parse().unwrap()
}

fn median(values: impl Iterator<Item = u64>) -> u64 {
    let mut values: Vec<u64> = values.collect();
    values.sort_unstable();
    values[values.len() / 2]
}

/// What the delays of these tests come to. Queues let nothing through early, but count in units
/// of 64 ns.
const ROUND_TRIP_NS: u64 = 60_000_000 - 1_000;
