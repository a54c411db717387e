//! Names instead of addresses: one that nobody knows, and one whose address changes, never stop
//! the prober, nor disturb its other targets.

use crate::catalogue::{self, ProbeCounts};
use crate::lab::RESPONDER_INTERFACE;
use crate::lines::Report;
use crate::names::{NAME, NameServer};
use crate::servers::{self, Server};
use crate::site::{Site, report_skip};

on_each_io_over_veth! {
    an_unknown_name_is_counted_and_does_not_stop_the_prober,
    an_unknown_name_does_not_disturb_a_good_target,
    a_name_that_gets_an_address_is_probed,
    a_name_that_moves_is_followed,
}

fn an_unknown_name_is_counted_and_does_not_stop_the_prober(site: &Site) {
    let _names = NameServer::start(&site.lab().prober);
    let words = format!("{NAME}:4000 --interval=10ms --duration=1s --json");
    let ending = site.probe(&words).wait();
    assert_eq!(ending.code, Some(1), "{:?}", ending.stderr);
    let report = Report::parse(&ending.stdout);
    assert!(report.probes.len() >= 30, "{}", report.probes.len());
    assert_eq!(report.count("unresolved"), report.probes.len(), "{:#?}", report.probes[0]);
    assert!(report.summary.is_some());
}

fn an_unknown_name_does_not_disturb_a_good_target(site: &Site) {
    // No name server at all: each question fails at once or after the resolver's patience.
    let serve = site.serve("");
    let good = serve.responder_address();
    let words = format!("good={good} bad={NAME}:4000 --interval=5ms --count=100 --json");
    let ending = site.probe(&words).wait();
    assert_eq!(ending.code, Some(0), "something was received");
    let report = Report::parse(&ending.stdout);
    let of = |target: &'static str| report.probes.iter().filter(move |p| p.target == target);
    assert_eq!(of("good").filter(|probe| probe.outcome == "received").count(), 100);
    assert_eq!(of("bad").filter(|probe| probe.outcome == "unresolved").count(), 100);
}

fn a_name_that_gets_an_address_is_probed(site: &Site) {
    let Some(names) = name_server(site) else { return };
    let serve = site.serve("");
    let address = serve.responder_address();
    let probe = site.probe(&format!("{NAME}:{} --interval=10ms --json", address.port()));
    probe.wait_for_stdout(20);
    names.set(Some("10.87.0.2".parse().unwrap()));
    let exposition = probe.scrape_until("probes received", |exposition| {
        exposition.count(catalogue::RECEIVED, &[]) >= 20
    });
    let counts = ProbeCounts::reconciled(&exposition, &[]);
    assert!(counts.timeouts >= 20, "{counts:?}");
    assert_eq!(exposition.count(catalogue::CONNECTED, &[]), 1);
}

fn a_name_that_moves_is_followed(site: &Site) {
    let Some(names) = name_server(site) else { return };
    let second = "10.87.0.22";
    site.lab().responder.ip(&format!("address add {second}/24 dev {RESPONDER_INTERFACE}")).unwrap();
    names.set(Some("10.87.0.2".parse().unwrap()));
    let place = site.responder_place();
    let old = Server::start(&place, site.responder_ip(), servers::raw_echo);
    let new_address = format!("{second}:{}", old.address.port()).parse().unwrap();
    let new = Server::start_on(&place, new_address, 0, servers::raw_echo);
    let probe = site.probe(&format!("{NAME}:{} --interval=10ms --json", old.address.port()));
    probe.wait_for_stdout(20);
    assert_eq!((old.accepted(), new.accepted()), (1, 0));
    let questions = names.questions();
    names.set(Some(second.parse().unwrap()));
    // A standing connection may stay where it is; one that is lost goes to the new address.
    drop(old);
    probe.scrape_until("probes at the new address", |_| new.replies() >= 20);
    assert!(names.questions() > questions);
}

fn name_server(site: &Site) -> Option<NameServer> {
    NameServer::start(&site.lab().prober).inspect_err(|reason| report_skip("naming", reason)).ok()
}
