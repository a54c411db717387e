//! SIGINT and SIGTERM: the end comes within a second, listeners are closed, and what was measured
//! last is still told.

use std::io::{PipeWriter, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Stdio;
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
    a_reader_that_has_stopped_does_not_hold_up_the_end,
    the_second_signal_ends_the_process_at_once,
    standard_error_that_is_closed_or_full_changes_nothing,
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

fn a_reader_that_has_stopped_does_not_hold_up_the_end(site: &Site) {
    let serve = site.serve("");
    let words = format!(
        "probe {} --io={} --interval=200us --timeout=100ms --json \
         --web.listen-address=127.0.0.1:0",
        serve.responder_address(),
        site.io.name()
    );
    let (_never_read, stdout) = std::io::pipe().unwrap();
    let place = site.prober_place();
    let mut probe = Run::start_into(&place, &words, stdout.into(), Stdio::piped());
    // The pipe is full, and so is the queue before it.
    probe.scrape_until("dropped lines", |exposition| {
        exposition.count("rttscope_report_samples_dropped_total", &[]) > 0
    });
    probe.signal(Signal::TERM);
    let ending = probe.wait();
    assert_eq!(ending.code, Some(0), "something was received");
    let log = ending.stderr.join("\n");
    assert!(log.contains("standard output is not read"), "{log}");
    assert!(log.contains("lines are missing") && log.contains("dropped="), "{log}");
}

fn the_second_signal_ends_the_process_at_once(site: &Site) {
    let silent = Server::start(&site.responder_place(), site.responder_ip(), servers::never_reply);
    let mut codes = Vec::new();
    // The first signal's end takes a moment only; the second one has to come within it.
    for _ in 0..ATTEMPTS {
        let words = format!("{} --interval=10ms --timeout=10s --json", silent.address);
        let mut probe = site.probe(&words);
        probe.http_address();
        silent.wait_for_bytes(16, PATIENCE);
        probe.signal(Signal::TERM);
        probe.wait_for_stderr("stopping");
        probe.signal(Signal::INT);
        codes.push(probe.wait().code);
        if codes.last() == Some(&Some(3)) {
            return;
        }
    }
    panic!("ended with {codes:?}");
}

fn standard_error_that_is_closed_or_full_changes_nothing(site: &Site) {
    let serve = site.serve("");
    let words = format!(
        "probe {} --io={} --interval=5ms --count=20 --json",
        serve.responder_address(),
        site.io.name()
    );
    let (reader, closed) = std::io::pipe().unwrap();
    drop(reader);
    let (_never_read, full) = std::io::pipe().unwrap();
    fill(full.try_clone().unwrap());
    for (name, stderr) in [("closed", closed), ("full", full)] {
        let mut probe =
            Run::start_into(&site.prober_place(), &words, Stdio::piped(), stderr.into());
        let ending = probe.wait();
        assert_eq!((ending.code, ending.signal), (Some(0), None), "{name}");
        let report = Report::parse(&ending.stdout);
        assert_eq!(report.probes.len(), 20, "{name}");
        assert!(report.summary.is_some(), "{name}");
    }
}

/// Writes until the pipe takes nothing more, and then waits for its reader, in the background.
fn fill(mut pipe: PipeWriter) {
    let (written, writing) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        while pipe.write_all(&[b'\n'; 4_096]).is_ok() {
            let _ = written.send(());
        }
    });
    // Nothing more for a while: it is full. A machine that paused the thread loses a true failure
    // of the test, and gets no false one.
    while writing.recv_timeout(Duration::from_millis(300)).is_ok() {}
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
