//! Probing responders that are not ours: offering v3 never costs a probe, whatever answers.

use crate::catalogue;
use crate::lines::Report;
use crate::servers::{self, Connection, Server};
use crate::site::Site;

everywhere! {
    offering_v3_to_the_seeds_loses_no_probe,
}

on_each_io! {
    insisting_on_v3_fails_where_it_is_not_spoken,
    our_responder_serves_every_version_at_once,
}

fn offering_v3_to_the_seeds_loses_no_probe(site: &Site) {
    check_version(site, 1.0, servers::like_v02);
    check_version(site, 2.0, servers::strict_v2);
    check_version(site, 2.0, servers::raw_echo);
    // An echo that holds back nothing but sends in pieces.
    check_version(site, 2.0, |connection: &mut Connection| {
        let mut byte = [0];
        loop {
            connection.read(&mut byte)?;
            connection.reply(&byte)?;
        }
    });
}

fn check_version(
    site: &Site,
    version: f64,
    behaviour: impl Fn(&mut Connection) -> Option<()> + Send + Sync + 'static,
) {
    let server = Server::start(&site.responder_place(), site.responder_ip(), behaviour);
    let probe = site.probe(&format!("{} --interval=10ms --json", server.address));
    let report = Report::parse(&probe.wait_for_stdout(40));
    assert_eq!(report.count("received"), report.probes.len(), "{report:#?}");
    let exposition = probe.scrape();
    let spoken = exposition.one(catalogue::WIRE_VERSION, &[]);
    assert_eq!(spoken.to_bits(), version.to_bits(), "spoke v{spoken}");
    assert_eq!(exposition.count(catalogue::CONNECTS, &[]), 1);
    assert!(report.probes.iter().all(|probe| probe.peer_ns.is_none()));
    assert!(report.probes.iter().any(|probe| probe.clock.as_deref() == Some("kernel")));
}

fn insisting_on_v3_fails_where_it_is_not_spoken(site: &Site) {
    let place = site.responder_place();
    let server = Server::start(&place, site.responder_ip(), servers::raw_echo);
    let words = format!("{} --wire=v3 --interval=20ms --duration=1s --json", server.address);
    let ending = site.probe(&words).wait();
    assert_eq!(ending.code, Some(1));
    assert_eq!(Report::parse(&ending.stdout).count("received"), 0);
    assert!(server.accepted() <= 15, "{} connections in 1 s", server.accepted());
}

fn our_responder_serves_every_version_at_once(site: &Site) {
    let serve = site.serve("");
    let address = serve.responder_address();
    let probes: Vec<_> = ["v1", "v2", "v3", "auto"]
        .iter()
        .map(|wire| {
            site.probe(&format!("{address} --wire={wire} --count=50 --interval=5ms --json"))
        })
        .collect();
    for (mut probe, version) in probes.into_iter().zip([1, 2, 3, 3]) {
        let report = Report::parse(&probe.wait().stdout);
        assert_eq!(report.count("received"), 50, "v{version}");
        let told = report.probes.iter().filter(|probe| probe.peer_ns.is_some()).count();
        assert!(if version == 3 { told >= 40 } else { told == 0 }, "v{version}: {told}");
    }
}
