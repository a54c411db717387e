//! SIGINT and SIGTERM: the end comes within a second, listeners are closed, and what was measured
//! last is still told.

use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use rustix::process::Signal;

use crate::clients::{connect, is_closed_within, ping};
use crate::frames;
use crate::lines::Report;
use crate::run::{Ending, PATIENCE, Run};
use crate::servers::{self, Server};
use crate::site::Site;

on_each_io! {
    a_prober_tells_its_last_probes_and_ends,
    a_responder_closes_its_connections_and_ends,
    both_end_together,
    a_prober_that_waits_for_anything_ends_as_soon,
}

/// The promise. A machine may be busy for a moment, so that one of [`ATTEMPTS`] has to keep it.
const PROMISE: Duration = Duration::from_secs(1);
const ATTEMPTS: usize = 3;

fn a_prober_tells_its_last_probes_and_ends(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    check_prompt(Signal::INT, || {
        let probe = site.probe(&format!("{target} --interval=5ms --json"));
        probe.wait_for_stdout(20);
        probe
    })
    .into_iter()
    .chain(check_prompt(Signal::TERM, || {
        let probe = site.probe(&format!("{target} --interval=5ms --json"));
        probe.wait_for_stdout(20);
        probe
    }))
    .for_each(|ending| {
        assert_eq!(ending.code, Some(0), "something was received");
        let report = Report::parse(&ending.stdout);
        assert!(report.summary.is_some(), "the summary is the last line");
        let sequences: Vec<u64> = report.probes.iter().map(|probe| probe.seq).collect();
        let expected: Vec<u64> = (1..).take(sequences.len()).collect();
        assert_eq!(sequences, expected, "every probe is told, the last ones too");
    });
}

fn a_responder_closes_its_connections_and_ends(site: &Site) {
    for signal in [Signal::INT, Signal::TERM] {
        let endings = check_prompt(signal, || {
            let serve = site.serve("");
            ping(&connect(&site.prober_place(), serve.responder_address()), &frames::v1(1, 1));
            serve
        });
        assert!(endings.iter().all(|ending| ending.code == Some(0)), "{endings:?}");
    }
    let mut serve = site.serve("");
    let addresses = [serve.responder_address(), serve.http_address()];
    let stream = connect(&site.prober_place(), addresses[0]);
    ping(&stream, &frames::v1(1, 1));
    serve.signal(Signal::TERM);
    serve.wait();
    assert!(is_closed_within(&stream, PATIENCE));
    assert!(addresses.iter().all(is_refused), "a listener is still there");
}

fn both_end_together(site: &Site) {
    let io = site.io.name();
    let words = format!(
        "both --io={io} --listen=127.0.0.1:0 --web.listen-address=127.0.0.1:0 --interval=5ms --json"
    );
    for signal in [Signal::INT, Signal::TERM] {
        let endings = check_prompt(signal, || {
            let both = Run::start(&crate::site::Place::Here, &words);
            both.wait_for_stdout(20);
            both
        });
        for ending in endings {
            assert_eq!(ending.code, Some(0));
            let report = Report::parse(&ending.stdout);
            // The responder goes after the prober: its last probes are not lost to the shutdown.
            assert_eq!(report.received().count(), report.probes.len(), "{report:#?}");
        }
    }
}

/// Nothing that is under way may hold the end up: a connect, a reply, a scrape.
fn a_prober_that_waits_for_anything_ends_as_soon(site: &Site) {
    let silent = Server::start(&site.responder_place(), site.responder_ip(), servers::never_reply);
    let (_held, refusing) = servers::refusing_address(&site.responder_place(), site.responder_ip());
    let words = format!(
        "silent={} refusing={refusing} far=192.0.2.1:4000 unknown=no.such.name.invalid:1 \
         --interval=10ms --timeout=10s --json",
        silent.address
    );
    let endings = check_prompt(Signal::TERM, || {
        let probe = site.probe(&words);
        silent.wait_for_bytes(16, PATIENCE);
        probe.wait_for_stdout(20);
        // A client that asks for nothing keeps an HTTP connection open.
        let idle = TcpStream::connect(probe.http_address()).unwrap();
        std::mem::forget(idle);
        probe
    });
    for ending in endings {
        assert_eq!(ending.code, Some(1), "nothing was received");
        assert!(Report::parse(&ending.stdout).summary.is_some());
    }
}

/// Starts, signals, waits; once or more, until one end came within the promised time.
fn check_prompt(signal: Signal, start: impl Fn() -> Run) -> Vec<Ending> {
    let mut endings = Vec::new();
    for _ in 0..ATTEMPTS {
        let mut run = start();
        run.signal(signal);
        let ending = run.wait();
        let took = ending.took;
        endings.push(ending);
        if took < PROMISE {
            return endings;
        }
    }
    let times: Vec<Duration> = endings.iter().map(|ending| ending.took).collect();
    panic!("{signal:?}: ended after {times:?}");
}

fn is_refused(address: &SocketAddr) -> bool {
    TcpStream::connect(address).is_err()
}
