//! The kernel's `TCP_INFO` of each probe's connection on /metrics: what was chosen and this kernel
//! fills, fresh, and gone with its connection.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use rttscope::tcp_info::{MEMBERS, Members, Raw};
use rustix::process::Signal;

use crate::lab::RESPONDER_INTERFACE;
use crate::site::Site;

on_each_io! {
    all_that_this_kernel_fills_is_shown,
    a_few_are_shown_by_default_and_none_if_off,
    gauges_end_with_the_connection_and_counters_stay,
}

on_each_io_over_veth! {
    retransmissions_show_while_nothing_is_received,
}

/// What this kernel fills and always has a value for.
fn filled() -> Members {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let raw = Raw::of(&client).unwrap();
    let mut filled = Members::default();
    raw.members().iter().filter(|it| it.none.is_none()).for_each(|it| filled.insert(it));
    filled
}

fn all_that_this_kernel_fills_is_shown(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address().to_string();
    let probe = site.probe(&format!("{target} --interval=2ms --tcp-info=all"));
    let labels = [("target", &*target), ("address", &*target)];
    let first = probe.scrape_until("the connection's numbers", |exposition| {
        exposition.has("tcp_info_segs_in_total", &labels)
    });
    for member in filled().iter() {
        assert!(first.has(member.metric, &labels), "{}\n{first}", member.metric);
    }
    for member in MEMBERS {
        assert!(first.select(member.metric, &[]).count() <= 1, "{}", member.metric);
    }
    assert!((1e-6..1.0).contains(&first.one("tcp_info_rtt_seconds", &labels)));
    let sent = first.one("tcp_info_sent_bytes_total", &labels);
    probe.scrape_until("newer numbers", |exposition| {
        exposition.one("tcp_info_sent_bytes_total", &labels) > sent
    });
}

fn a_few_are_shown_by_default_and_none_if_off(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let probe = site.probe(&format!("{target} --interval=5ms"));
    let exposition = probe.scrape_until("the connection's numbers", |exposition| {
        exposition.has("tcp_info_rtt_seconds", &[])
    });
    for member in MEMBERS {
        let shown = Members::DEFAULT.contains(member) && filled().contains(member);
        let found = exposition.has(member.metric, &[]);
        assert!(found == shown || member.none.is_some(), "{}", member.metric);
    }
    let probe = site.probe(&format!("{target} --interval=5ms --tcp-info=off"));
    let exposition = probe.scrape_until("three hundred replies", |exposition| {
        let received = crate::catalogue::RECEIVED;
        exposition.has(received, &[]) && exposition.count(received, &[]) > 300
    });
    assert!(MEMBERS.iter().all(|member| !exposition.has(member.metric, &[])), "{exposition}");
}

fn gauges_end_with_the_connection_and_counters_stay(site: &Site) {
    let mut serve = site.serve("");
    let target = serve.responder_address();
    let probe = site.probe(&format!("{target} --interval=5ms --tcp-info=all"));
    let before = probe.scrape_until("the connection's numbers", |exposition| {
        exposition.has("tcp_info_rtt_seconds", &[])
    });
    serve.signal(Signal::TERM);
    serve.wait();
    let after =
        probe.scrape_until("no gauges", |exposition| !exposition.has("tcp_info_rtt_seconds", &[]));
    assert!(!after.has("tcp_info_snd_cwnd", &[]) && !after.has("tcp_info_state", &[]));
    let name = "tcp_info_sent_bytes_total";
    assert!(after.one(name, &[]) >= before.one(name, &[]), "{after}");
}

fn retransmissions_show_while_nothing_is_received(site: &Site) {
    let serve = site.serve("");
    let target = serve.responder_address();
    let probe = site.probe(&format!("{target} --interval=20ms --timeout=10s"));
    probe.scrape_until("the connection's numbers", |exposition| {
        exposition.has("tcp_info_rtt_seconds", &[])
    });
    site.lab().responder.ip(&format!("link set {RESPONDER_INTERFACE} down")).unwrap();
    probe.scrape_until("retransmissions", |exposition| {
        exposition.has("tcp_info_retransmits", &[])
            && exposition.one("tcp_info_retransmits", &[]) >= 2.0
            && exposition.one("tcp_info_retrans_total", &[]) >= 2.0
    });
}
