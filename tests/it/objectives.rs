//! Objectives of echo probes and of half-open checks: each counted exactly, by the clock it names.

use crate::catalogue;
use crate::exposition::Exposition;
use crate::run::Run;
use crate::site::{Place, Site};

on_each_io! {
    objectives_of_probes_are_exact,
    objectives_of_checks_are_exact,
}

/// A threshold that no histogram has by itself, and two that everything and nothing meets.
const SLOS: &str = "--slo=odd=123us:99% --slo=all=700ms:99.9%:application --slo=none=1ns:50% \
                    --slo=seen=700ms:90%:kernel --interval=10ms --web.listen-address=127.0.0.1:0";
const ODD: f64 = 0.000_123;

fn objectives_of_probes_are_exact(site: &Site) {
    let io = site.io.name();
    let both = Run::start(&Place::Here, &format!("both --io={io} --listen=127.0.0.1:0 {SLOS}"));
    check_objectives(&both, "tcp_echo", |exposition| {
        exposition.sum(catalogue::RECEIVED, &[]) + exposition.sum(catalogue::TIMEOUTS, &[])
    });
}

fn objectives_of_checks_are_exact(site: &Site) {
    let io = site.io.name();
    let words = format!("serve --io={io} --listen=127.0.0.1:0 --web.listen-address=127.0.0.1:0");
    let serve = Run::start(&Place::Here, &words);
    let target = serve.responder_address();
    let probe = Run::start(&Place::Here, &format!("probe --check {target} --io={io} {SLOS}"));
    check_objectives(&probe, "tcp_check", |exposition| exposition.sum("tcp_check_total", &[]));
    drop(serve);
    // A port that refuses is not good, however quick it is.
    let refused = [("outcome", "refused")];
    let counted = |exposition: &Exposition, what: &str| {
        exposition.one(&format!("tcp_check_slo_{what}_total"), &[("slo", "all")])
    };
    probe.scrape_until("twenty refusals", |exposition| {
        exposition.sum("tcp_check_total", &refused) >= 20.0
            && counted(exposition, "good") + 20.0 <= counted(exposition, "probes")
    });
}

/// Everything is answered here.
fn check_objectives(run: &Run, prefix: &str, finished: impl Fn(&Exposition) -> f64) {
    let family = |what: &str| format!("{prefix}_slo_{what}");
    let count = |exposition: &Exposition, what: &str, slo: &str| {
        exposition.one(&family(what), &[("slo", slo)])
    };
    let good = |exposition: &Exposition, slo: &str| count(exposition, "good_total", slo);
    let within = |exposition: &Exposition| {
        let buckets = exposition.buckets(&format!("{prefix}_rtt_seconds"), &[]);
        buckets.iter().find(|(end, _)| *end == ODD).map(|(_, count)| *count)
    };
    // Counters and histograms are read one after the other: what one scrape has, the next one has.
    let first = run.scrape_until("fifty measurements", |exposition| {
        exposition.has(&family("good_total"), &[]) && good(exposition, "all") >= 50.0
    });
    let second = run.scrape_until("the objectives know of what is counted", |exposition| {
        count(exposition, "probes_total", "odd") >= finished(&first)
    });
    let total = count(&second, "probes_total", "odd");
    let third = run.scrape_until("what the objectives know of is counted", |exposition| {
        finished(exposition) >= total
    });
    let in_bucket = within(&second).expect("a bucket ends at the threshold");
    assert!(good(&first, "odd") <= in_bucket && in_bucket <= good(&third, "odd"));
    // Nothing is counted twice: all three have seen the same.
    for slo in ["all", "none"] {
        let total = count(&second, "probes_total", slo);
        assert!(total >= finished(&first) && total <= count(&third, "probes_total", "odd"));
    }
    assert!(total <= finished(&third) && finished(&third) <= total + 200.0, "{total}");
    assert_eq!(good(&third, "none"), 0.0);
    // By the kernel's clocks, what has no stamps does not count; the rest of it is good.
    assert!(good(&second, "seen") <= count(&third, "probes_total", "all"));
    let seen = (good(&second, "seen"), count(&second, "probes_total", "seen"));
    assert!(seen.0 > 0.0 && seen.0 <= seen.1, "{seen:?}");
    assert_eq!(count(&second, "threshold_seconds", "odd"), ODD);
    assert_eq!(count(&second, "objective_ratio", "all"), 0.999);
}
