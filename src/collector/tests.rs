//! Registration and pages, on connections over loopback; defects of go-tcpinfo's exporter by their
//! numbers.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::io::Write;
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use prometheus_client::registry::Registry;

use super::*;
use crate::tcp_info::{Kernel, MEMBERS, members};

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

fn collector(members: Members) -> TcpInfoCollector {
    let labels = vec!["id".to_owned()];
    TcpInfoCollector::new(CollectorOptions { labels, members, ..CollectorOptions::default() })
        .unwrap()
}

/// The page of the official client.
fn page(collector: &TcpInfoCollector) -> String {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collector.clone()));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

/// The page of the official client for a connection as another kernel would tell of it.
fn page_of(collector: &TcpInfoCollector, raw: Raw) -> String {
    #[derive(Debug)]
    struct Fixed(TcpInfoCollector, Vec<Reading>);
    impl prometheus_client::collector::Collector for Fixed {
        fn encode(
            &self,
            encoder: prometheus_client::encoding::DescriptorEncoder<'_>,
        ) -> fmt::Result {
            self.0.encode_readings(&self.1, encoder)
        }
    }
    let reading = Reading { labels: labels_of(&["a"]), raw };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Fixed(collector.clone(), vec![reading])));
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
    text
}

fn value(page: &str, series: &str) -> Option<f64> {
    let line = page.lines().find(|line| line.starts_with(&format!("{series} ")))?;
    line[series.len()..].trim().parse().ok()
}

/// Ones in every byte, as a kernel of this version would return so many of them.
fn ones(length: usize, release: &str) -> Raw {
    Raw::decode(&vec![1; length], Kernel::parse(release))
}

#[test]
fn a_connection_is_exported_with_its_labels() {
    let (client, mut server) = pair();
    let collector = collector(Members::DEFAULT);
    let registration = collector.add(&client, &["a\"b\n"]).unwrap();
    server.write_all(b"data").unwrap();
    let page = page(&collector);
    assert!(value(&page, "tcp_info_rtt_seconds{id=\"a\\\"b\\n\"}").unwrap() > 0.0, "{page}");
    assert!(page.contains("# UNIT tcp_info_rtt_seconds seconds\n"), "{page}");
    assert!(page.contains("# TYPE tcp_info_retrans counter\n"), "{page}");
    assert!(page.ends_with("# EOF\n"));
    drop(registration);
    assert!(collector.is_empty());
}

#[test]
fn without_labels_there_is_one_connection() {
    let (client, server) = pair();
    let collector = TcpInfoCollector::new(CollectorOptions::default()).unwrap();
    collector.add(&client, &[]).unwrap().detach();
    assert!(matches!(collector.add(&server, &[]), Err(AddError::Duplicate(_))));
    assert!(value(&page(&collector), "tcp_info_rtt_seconds").is_some());
}

#[test]
fn bad_names_and_connections_are_refused() {
    let refused = |prefix: &str, labels: &[&str]| {
        let labels = labels.iter().map(|&label| label.to_owned()).collect();
        let options =
            CollectorOptions { prefix: prefix.to_owned(), labels, ..CollectorOptions::default() };
        TcpInfoCollector::new(options).is_err()
    };
    assert!(refused("", &[]) && refused("1a", &[]) && refused("a b", &[]));
    assert!(refused("a", &["1"]) && refused("a", &["__x"]) && refused("a", &["é"]));
    assert!(refused("a", &["x", "x"]) && refused("a", &[""]));
    assert!(!refused("app:tcp", &["id", "remote_host"]));
    let (client, _server) = pair();
    let labels = vec!["id".to_owned()];
    let options = CollectorOptions { labels, connections_max: 1, ..CollectorOptions::default() };
    let collector = TcpInfoCollector::new(options).unwrap();
    assert!(matches!(collector.add(&client, &[]), Err(AddError::LabelCount { .. })));
    let udp = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    assert!(matches!(collector.add(&udp, &["a"]), Err(AddError::Io(_))));
    let _first = collector.add(&client, &["a"]).unwrap();
    assert!(matches!(collector.add(&client, &["b"]), Err(AddError::Full(1))));
    assert_eq!(collector.len(), 1);
}

#[test]
fn a_lent_connection_ends_with_its_owner() {
    let (client, _server) = pair();
    let client = Arc::new(client);
    let collector = collector(Members::DEFAULT);
    collector.add_weak(&client, &["a"]).unwrap().detach();
    assert_eq!(collector.read().len(), 1);
    drop(client);
    assert!(collector.read().is_empty() && collector.is_empty());
}

#[test]
fn b1_what_a_kernel_does_not_fill_is_left_out_and_nothing_fails() {
    let collector = collector(Members::ALL);
    for (length, release) in [
        (0, "2.4"),
        (104, "2.6"),
        (168, "4.9"),
        (232, "5.10"),
        (248, "6.12"),
        (280, "6.18"),
        (280, "7.0"),
    ] {
        let raw = ones(length, release);
        let page = page_of(&collector, raw);
        for member in MEMBERS {
            let sample = format!("\n{}{{id=\"a\"}} ", member.metric);
            assert_eq!(page.contains(&sample), raw.fills(member), "{release}: {page}");
        }
        assert_eq!(page.matches("# TYPE").count(), raw.members().count() as usize);
    }
}

#[test]
fn b6_counters_are_counters_and_infinite_values_are_absent() {
    let collector = collector(Members::ALL);
    let mut raw = ones(280, "6.18");
    raw.set(&members::pacing_rate, u64::MAX);
    raw.set(&members::snd_ssthresh, 0x7fff_ffff);
    raw.set(&members::busy_time, 2_500_000);
    let page = page_of(&collector, raw);
    assert!(value(&page, "tcp_info_pacing_rate_bytes_per_second{id=\"a\"}").is_none());
    assert!(value(&page, "tcp_info_snd_ssthresh{id=\"a\"}").is_none());
    let busy = value(&page, "tcp_info_busy_seconds_total{id=\"a\"}").unwrap();
    assert_eq!(busy.to_bits(), 2.5_f64.to_bits());
    assert!(page.contains("# TYPE tcp_info_busy_seconds counter"), "{page}");
    assert!(page.contains("# TYPE tcp_info_fackets gauge"), "{page}");
}

#[test]
fn b7_a_closed_descriptor_never_shows_another_connection() {
    let collector = collector(Members::ALL);
    let (client, server) = pair();
    let port = client.local_addr().unwrap().port();
    collector.add(&client, &["old"]).unwrap().detach();
    // Both ends are over; a new connection takes the lowest free descriptor, the old one's.
    client.shutdown(Shutdown::Both).unwrap();
    drop((client, server));
    let (mut client, _server) = pair();
    assert_ne!(client.local_addr().unwrap().port(), port);
    client.write_all(&[0; 1_000]).unwrap();
    let sent = |readings: &[Reading]| {
        readings.iter().filter_map(|it| it.raw.number(&members::bytes_sent)).max().unwrap_or(0)
    };
    assert_eq!(sent(&collector.read()), 0, "the old labels show the new connection");
    assert!(collector.add(&client, &["new"]).is_ok());
    // And a registration that is dropped late does not remove the next one with its labels.
    let late = collector.add(&client, &["x"]).unwrap();
    assert!(collector.remove(&["x"]) && !collector.remove(&["x"]));
    collector.add(&client, &["x"]).unwrap().detach();
    drop(late);
    assert!(collector.remove(&["x"]));
}

#[test]
fn b7_duplicate_labels_are_refused_and_the_page_stays_good() {
    let (client, server) = pair();
    let collector = collector(Members::DEFAULT);
    let _kept = collector.add(&client, &["a"]).unwrap();
    let error = collector.add(&server, &["a"]).unwrap_err();
    assert!(error.to_string().contains("[\"a\"]"), "{error}");
    assert_eq!(page(&collector).matches("tcp_info_rtt_seconds{").count(), 1);
}

#[test]
fn b8_connections_come_and_go_during_scrapes() {
    let collector = collector(Members::ALL);
    let ended = AtomicBool::new(false);
    // A source that blocks until somebody else was added: no lock is held while one is read.
    let (client, _server) = pair();
    let other = collector.clone();
    let block = move || {
        let added = other.insert(&["during"], Source::Lent(Box::new(|| None)));
        added.is_ok().then_some(()).map(|()| {
            added.unwrap().detach();
            Raw::of(&client)
        })
    };
    collector.insert(&["blocking"], Source::Lent(Box::new(block))).unwrap().detach();
    assert_eq!(collector.read().len(), 1, "adding while reading would have hung");
    thread::scope(|scope| {
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                let _ = collector.read();
            }
        });
        let (client, _server) = pair();
        for number in 0..200 {
            let registration = collector.add(&client, &[&number.to_string()]).unwrap();
            drop(registration);
        }
        ended.store(true, Ordering::Relaxed);
    });
    // Names, units and help are made once: a family of a scrape is the one of the collector.
    assert_eq!(collector.shared.families.len(), MEMBERS.len());
}

#[cfg(feature = "prometheus")]
#[test]
fn the_other_registry_shows_the_same() {
    use prometheus::core::Collector;
    use prometheus::{Registry, TextEncoder};

    let (client, _server) = pair();
    let collector = collector(Members::ALL);
    let _kept = collector.add(&client, &["a"]).unwrap();
    let registry = Registry::new();
    registry.register(Box::new(collector.clone())).unwrap();
    let text = TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
    assert!(value(&text, "tcp_info_rtt_seconds{id=\"a\"}").unwrap() > 0.0, "{text}");
    assert!(text.contains("# TYPE tcp_info_retrans_total counter"), "{text}");
    for (length, release) in [(0, "2.4"), (104, "2.6"), (232, "5.10"), (280, "6.18")] {
        let raw = ones(length, release);
        let families = collector.families_of(&[Reading { labels: labels_of(&["a"]), raw }]);
        let names: Vec<&str> = families.iter().map(|family| family.name()).collect();
        let filled: Vec<&str> = raw.members().iter().map(|member| member.metric).collect();
        assert_eq!(names, filled, "{release}");
    }
    assert_eq!(collector.desc().len(), MEMBERS.len());
    assert!(registry.register(Box::new(collector)).is_err(), "one collector, one registration");
}
