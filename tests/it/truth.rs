//! Is it true? A packet capture at the prober's interface judges each probe by its sequence
//! number (defect A-1 of the seed, whose user-space times were twice the wire's). These tests run
//! alone, and compare medians and ratios: single values on a busy machine prove nothing.

use std::collections::BTreeMap;

use crate::capture::{Capture, RoundTrip, round_trips};
use crate::hogs::Hogs;
use crate::lab::{PROBER_INTERFACE, RESPONDER_INTERFACE};
use crate::lines::{ProbeLine, Report};
use crate::run::Run;
use crate::site::{Site, report_skip};

alone_over_veth! {
    a1_kernel_time_is_the_wires_time,
    a1_kernel_time_is_the_wires_time_for_every_wire_version,
    a1_cpu_hogs_do_not_reach_the_network_time,
}

/// How far the median may be from the capture's: the promise of the project.
const ERROR_NS_MAX: u64 = 5_000;

fn a1_kernel_time_is_the_wires_time(site: &Site) {
    let serve = site.serve("");
    let judged = Judged::probe(site, &serve, "--interval=5ms --count=200");
    assert_eq!(judged.report.count("received"), 200);
    judged.check_kernel_time(100);

    // The stages against the capture: what left and arrived, and how long the peer really took.
    let mut network_errors = Vec::new();
    for probe in judged.report.received() {
        let Some(network_ns) = probe.network_ns else { continue };
        let (here, there) = judged.trips_of(probe);
        let wire_ns = here.rtt_ns() - (there.received_ns - there.sent_ns);
        network_errors.push(network_ns.abs_diff(wire_ns));
    }
    assert!(network_errors.len() >= 100, "{}", network_errors.len());
    let error_ns = quantile(&mut network_errors, 0.5);
    assert!(error_ns <= ERROR_NS_MAX, "network differs from the wire by {error_ns} ns");
}

fn a1_kernel_time_is_the_wires_time_for_every_wire_version(site: &Site) {
    let serve = site.serve("");
    for wire in ["v1", "v2", "v3"] {
        let words = format!("--interval=5ms --count=100 --wire={wire}");
        Judged::probe(site, &serve, &words).check_kernel_time(50);
    }
}

/// With every CPU taken by others, what an application sees is the scheduler; what the network
/// did must still be told apart.
fn a1_cpu_hogs_do_not_reach_the_network_time(site: &Site) {
    let serve = site.serve("");
    let mut ratios = Vec::new();
    for _ in 0..HOG_RUNS {
        let hogs = match Hogs::start(2, -10) {
            Ok(hogs) => hogs,
            Err(error) => return report_skip("truth::hogs", &format!("no nice -10: {error}")),
        };
        let judged = Judged::probe(site, &serve, "--interval=5ms --timeout=2s --count=300");
        drop(hogs);
        let split: Vec<&ProbeLine> =
            judged.report.received().filter(|probe| probe.network_ns.is_some()).collect();
        assert!(split.len() >= 150, "{} of 300 are split", split.len());
        let mut network: Vec<u64> = split.iter().filter_map(|probe| probe.network_ns).collect();
        let mut application: Vec<u64> = split.iter().filter_map(|probe| probe.app_rtt_ns).collect();
        let network_ns = quantile(&mut network, 0.99);
        let application_ns = quantile(&mut application, 0.99);
        if application_ns >= 5 * network_ns {
            judged.check_kernel_time(150);
            return;
        }
        ratios.push((network_ns, application_ns));
    }
    panic!("p99 of network and application in {HOG_RUNS} runs: {ratios:?}");
}

/// One run of the prober with a capture at both ends.
struct Judged {
    report: Report,
    prober: BTreeMap<(u8, u64), RoundTrip>,
    responder: BTreeMap<(u8, u64), RoundTrip>,
}

impl Judged {
    fn probe(site: &Site, serve: &Run, words: &str) -> Self {
        let target = serve.responder_address();
        let here = Capture::start(&site.prober_place(), PROBER_INTERFACE);
        let there = Capture::start(&site.responder_place(), RESPONDER_INTERFACE);
        let ending = site.probe(&format!("{target} {words} --json")).wait();
        assert_eq!(ending.code, Some(0), "{:?}", ending.stderr);
        Self {
            report: Report::parse(&ending.stdout),
            prober: round_trips(&here.stop(), target),
            responder: round_trips(&there.stop(), target),
        }
    }

    /// The probe as captured at the prober's end and at the responder's.
    fn trips_of(&self, probe: &ProbeLine) -> (RoundTrip, RoundTrip) {
        let find = |trips: &BTreeMap<(u8, u64), RoundTrip>| {
            let found = (1..=3).find_map(|version| trips.get(&(version, probe.seq)));
            *found.unwrap_or_else(|| panic!("probe {} was never on the wire", probe.seq))
        };
        (find(&self.prober), find(&self.responder))
    }

    /// Where others keep the CPU busy, replies are read together, and then only the last has a
    /// stamp of its own; half of the probes are enough for a median.
    fn check_kernel_time(&self, judged_min: usize) {
        let mut errors = Vec::new();
        for probe in self.report.received() {
            if probe.clock.as_deref() != Some("kernel") {
                continue;
            }
            let (here, _) = self.trips_of(probe);
            errors.push(probe.rtt_ns.unwrap().abs_diff(here.rtt_ns()));
            // The application's time can only be longer.
            assert!(probe.app_rtt_ns.unwrap() + ERROR_NS_MAX >= here.rtt_ns(), "{probe:?}");
        }
        assert!(errors.len() >= judged_min, "{} kernel times", errors.len());
        let error_ns = quantile(&mut errors, 0.5);
        assert!(error_ns <= ERROR_NS_MAX, "the median differs by {error_ns} ns");
    }
}

/// The value that this share of values does not exceed.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "an index into a few hundred values"
)]
fn quantile(values: &mut [u64], share: f64) -> u64 {
    values.sort_unstable();
    let rank = (values.len() as f64 * share).ceil() as usize;
    values[rank.clamp(1, values.len()) - 1]
}

/// The scheduler's moods are not ours: the ratio must hold in one of these runs.
const HOG_RUNS: usize = 3;
