//! Command lines as tcp_ping_prometheus took them run for real, with its meanings,
//! its defaults and its metric names.

use std::io::Write;
use std::time::Duration;

use rustix::process::Signal;

use crate::catalogue::{self, ProbeCounts};
use crate::frames::V1_BYTES;
use crate::run::Run;
use crate::servers::{self, Server};
use crate::site::Place;
use crate::turn::{self, Turn};

#[test]
fn both_in_the_seeds_form() {
    let _turn = turn::wait_for(Turn::Shared);
    let server = Run::start(&Place::Here, "-mode=server -listen=127.0.0.1:0 -metrics=127.0.0.1:0");
    let target = server.responder_address();
    let words = format!(
        "-mode both --listen 127.0.0.1:0 -target={target} -interval=10ms -timeout=500ms \
         -window=50 -metrics 127.0.0.1:0 -adaptive=false"
    );
    let mut both = Run::start(&Place::Here, &words);
    let exposition = received(&both, 20);
    let address = target.to_string();
    let labels = [("target", "default"), ("address", address.as_str())];
    let counts = ProbeCounts::reconciled(&exposition, &labels);
    assert!(counts.received >= 20 && counts.timeouts == 0, "{counts:?}");
    // Every family that the seed's dashboards and rules read.
    for name in [
        catalogue::SENT,
        catalogue::RECEIVED,
        catalogue::TIMEOUTS,
        catalogue::CONNECTS,
        catalogue::DROPPED,
        catalogue::CONNECTED,
        catalogue::UP,
        catalogue::LAST_RTT,
        catalogue::LOSS_PERCENT,
        "tcp_echo_estimated_timeout_seconds",
    ] {
        assert!(exposition.has(name, &labels), "{name}");
    }
    assert!(!exposition.buckets(catalogue::RTT, &labels).is_empty());
    both.signal(Signal::INT);
    let ending = both.wait();
    assert_eq!(ending.code, Some(0), "{:?}", ending.stderr);
    assert!(ending.took < Duration::from_secs(5));
}

#[test]
fn a_client_with_a_file_of_targets_in_the_seeds_form() {
    let _turn = turn::wait_for(Turn::Shared);
    let ip = std::net::Ipv4Addr::LOCALHOST.into();
    let (one, two) = (
        Server::start(&Place::Here, ip, servers::like_v02),
        Server::start(&Place::Here, ip, servers::strict_v2),
    );
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let json = format!(
        r#"[{{"name":"old","address":"{}"}},{{"name":"new","address":"{}"}}]"#,
        one.address, two.address
    );
    file.write_all(json.as_bytes()).unwrap();
    let path = file.path().to_str().unwrap();
    // The file wins over `-target`.
    let words = format!(
        "-mode=client -target=192.0.2.1:1 -targets={path} -interval=10ms -metrics=127.0.0.1:0 \
         -json-logs"
    );
    let client = Run::start(&Place::Here, &words);
    let line = client.wait_for_stderr("http listening");
    let log: serde_json::Value = serde_json::from_str(&line).unwrap();
    let address = find(&log, "address").and_then(|value| value.as_str().map(str::to_owned));
    let address: std::net::SocketAddr = address.unwrap().parse().unwrap();
    let started = std::time::Instant::now();
    loop {
        let body = crate::http::fetch(address, "/metrics").body;
        let exposition = crate::exposition::Exposition::parse(&body);
        let got = |target| {
            let labels = [("target", target)];
            exposition.has(catalogue::RECEIVED, &labels)
                && exposition.count(catalogue::RECEIVED, &labels) >= 20
        };
        if got("old") && got("new") {
            assert_eq!(exposition.sum(catalogue::TIMEOUTS, &[]).to_bits(), 0.0_f64.to_bits());
            break;
        }
        assert!(started.elapsed() < crate::run::PATIENCE, "{exposition}");
    }
}

/// The seed's adaptive timeout hid a stall of 1.5 s behind 12 timeouts (defect A-6).
#[test]
fn adaptive_timeouts_do_not_hide_a_stall() {
    let _turn = turn::wait_for(Turn::Shared);
    let ip = std::net::Ipv4Addr::LOCALHOST.into();
    let stall = servers::stall_once(V1_BYTES, 30, Duration::from_millis(1_500));
    let server = Server::start(&Place::Here, ip, stall);
    let words = format!(
        "probe {} --wire=v1 --interval=10ms --timeout=200ms --adaptive --duration=4s --json",
        server.address
    );
    let report = crate::lines::Report::parse(&Run::start(&Place::Here, &words).wait().stdout);
    // Lost or late, each of the roughly 130 probes due in the stall says so.
    let told = report.probes.iter().filter(|probe| {
        probe.outcome == "timeout" || probe.app_rtt_ns.is_some_and(|ns| ns > 150_000_000)
    });
    let told = told.count();
    assert!(told >= 90, "{told} probes tell of the stall");
}

#[test]
fn a_service_in_the_seeds_form_says_what_to_do() {
    let _turn = turn::wait_for(Turn::Shared);
    let ending = Run::start(&Place::Here, "-svc=install -mode=both").wait();
    // Here services are the system's own: what to use instead is said in one line.
    assert_eq!((ending.code, ending.stderr.len()), (Some(3), 1), "{ending:?}");
    assert!(ending.stderr[0].contains("systemd unit"), "{ending:?}");
}

fn received(run: &Run, count: u64) -> crate::exposition::Exposition {
    run.scrape_until("probes received", |exposition| {
        exposition.has(catalogue::RECEIVED, &[])
            && exposition.count(catalogue::RECEIVED, &[]) >= count
    })
}

/// A key anywhere in a log line: formats differ in where they put fields.
fn find<'a>(value: &'a serde_json::Value, key: &str) -> Option<&'a serde_json::Value> {
    let object = value.as_object()?;
    object.get(key).or_else(|| object.values().find_map(|inner| find(inner, key)))
}
