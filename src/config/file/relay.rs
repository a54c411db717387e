//! The relay's section of the configuration file: words in, a checked section out.

use serde_saphyr::{Location, Spanned};

use super::Complaints;
use super::module::default;
use super::raw::{OneOrMany, RawHealth, RawListener, RawRelay};
use crate::config::address::parse_listen;
use crate::config::relay::{self, LISTENERS_MAX, defaults as unsaid};
use crate::config::yaml::shown;
use crate::config::{
    BadValue, Balance, HealthSection, HostPort, ProxyHeader, RelayListen, RelayListener,
    RelaySection, RelayUpstream, defaults, setting,
};
use crate::sys::socket::SocketOptions;

pub(super) fn section(raw: RawRelay, complaints: &mut Complaints) -> Option<RelaySection> {
    let grace = complaints.value("grace", raw.grace.as_ref(), relay::grace);
    let summary = raw.summary_interval.as_ref();
    let summary = complaints.value("summary_interval", summary, relay::summary_interval);
    let listeners = raw.listeners.unwrap_or_default();
    if listeners.is_empty() || listeners.len() > LISTENERS_MAX {
        let why = format!("relay: listeners are 1 to {LISTENERS_MAX}; write e.g. - listen: :8080");
        complaints.at(Location::UNKNOWN, why);
        return None;
    }
    let listeners = listeners.into_iter().filter_map(|raw| listener(raw, complaints)).collect();
    Some(RelaySection {
        listeners,
        grace: grace.unwrap_or_else(|| default(unsaid::GRACE, relay::grace)),
        summary_interval: summary
            .unwrap_or_else(|| default(unsaid::SUMMARY_INTERVAL, relay::summary_interval)),
    })
}

fn listener(raw: Spanned<RawListener>, complaints: &mut Complaints) -> Option<RelayListener> {
    let place = raw.referenced;
    let raw = raw.value;
    let listen = complaints.value("listen", raw.listen.as_ref(), parse_listen);
    let listen = match (raw.listen.is_some(), raw.systemd_socket.unwrap_or(false)) {
        (true, false) => RelayListen::Address(listen?),
        (false, true) => RelayListen::Systemd,
        _ => {
            let why = "a listener has one of listen and systemd_socket; write e.g. listen: :8080";
            complaints.at(place, why);
            return None;
        }
    };
    let connect = raw.connect_timeout.as_ref();
    let connect = complaints.value("connect_timeout", connect, relay::connect_timeout);
    let attempts = complaints.value("attempts", raw.attempts.as_ref(), relay::attempts_max);
    let idle = complaints.value("idle_timeout", raw.idle_timeout.as_ref(), relay::idle_timeout);
    let most = raw.max_connections.as_ref();
    let most = complaints.value("max_connections", most, relay::connections_max);
    let listener = RelayListener {
        listen,
        reuse_port: raw.reuse_port.unwrap_or(false),
        upstreams: upstreams(raw.upstreams, raw.drain, complaints),
        balance: complaints
            .choice("balance", raw.balance.as_ref(), &Balance::NAMED)
            .unwrap_or_default(),
        connect_timeout: connect
            .unwrap_or_else(|| default(unsaid::CONNECT_TIMEOUT, relay::connect_timeout)),
        attempts_max: attempts.unwrap_or_else(|| default(unsaid::ATTEMPTS, relay::attempts_max)),
        idle_timeout: idle.unwrap_or_else(|| default(unsaid::IDLE_TIMEOUT, relay::idle_timeout)),
        connections_max: most
            .unwrap_or_else(|| default(defaults::CONNECTIONS_MAX, relay::connections_max)),
        proxy_in: raw.proxy_in.unwrap_or(false),
        proxy_out: complaints.choice("proxy_out", raw.proxy_out.as_ref(), &ProxyHeader::NAMED),
        health: health(&raw.health.unwrap_or_default(), complaints),
        socket: SocketOptions {
            source: complaints.value("source", raw.source.as_ref(), setting::source),
            interface: complaints.value("interface", raw.interface.as_ref(), setting::interface),
            dscp: complaints.value("dscp", raw.dscp.as_ref(), setting::dscp),
            ttl: complaints.value("ttl", raw.ttl.as_ref(), setting::ttl),
        },
    };
    if let Err(why) = relay::check(&listener) {
        complaints.at(place, why);
    }
    Some(listener)
}

fn upstreams(
    upstreams: Option<Spanned<OneOrMany>>,
    drain: Option<Spanned<OneOrMany>>,
    complaints: &mut Complaints,
) -> Vec<RelayUpstream> {
    let mut parsed = |key: &str, list: Option<Spanned<OneOrMany>>| {
        let Some(Spanned { value: OneOrMany(words), referenced: place, .. }) = list else {
            return Vec::new();
        };
        let mut addresses: Vec<(HostPort, Location)> = Vec::with_capacity(words.len());
        for word in words {
            match word.parse() {
                Ok(address) => addresses.push((address, place)),
                Err(BadValue { why, instead }) => {
                    let word = shown(&word);
                    complaints.at(place, format!("{key} {word}: {why}; write e.g. {instead}"));
                }
            }
        }
        addresses
    };
    let upstreams = parsed("upstreams", upstreams);
    let drained = parsed("drain", drain);
    for (address, place) in &drained {
        if !upstreams.iter().any(|(known, _)| known == address) {
            let why = format!("drain {address}: is none of the upstreams; write it there, too");
            complaints.at(*place, why);
        }
    }
    let upstreams = upstreams.into_iter().map(|(address, _)| RelayUpstream {
        drain: drained.iter().any(|(drained, _)| *drained == address),
        address,
    });
    upstreams.collect()
}

fn health(raw: &RawHealth, complaints: &mut Complaints) -> Option<HealthSection> {
    let interval = complaints.value("interval", raw.interval.as_ref(), relay::check_interval);
    let timeout = complaints.value("timeout", raw.timeout.as_ref(), relay::connect_timeout);
    let rise = complaints.value("rise", raw.rise.as_ref(), relay::threshold);
    let fall = complaints.value("fall", raw.fall.as_ref(), relay::threshold);
    let interval =
        interval.unwrap_or_else(|| default(unsaid::CHECK_INTERVAL, relay::check_interval))?;
    Some(HealthSection {
        interval,
        timeout: timeout.unwrap_or_else(|| default(unsaid::CHECK_TIMEOUT, relay::connect_timeout)),
        rise: rise.unwrap_or_else(|| default(unsaid::RISE, relay::threshold)),
        fall: fall.unwrap_or_else(|| default(unsaid::FALL, relay::threshold)),
    })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::path::Path;
    use std::time::Duration;

    use super::super::{BadConfigFile, parse};
    use super::*;

    fn section(text: &str) -> Result<RelaySection, Vec<String>> {
        match parse(text, Path::new("x.yaml")) {
            Ok(config) => Ok(config.relay.unwrap()),
            Err(BadConfigFile(lines)) => Err(lines),
        }
    }

    #[test]
    fn a_relay_has_several_listeners() {
        let section = section(
            "relay:
  grace: 5s
  summary_interval: off
  listeners:
  - {listen: ':8080', upstreams: 'db:1'}
  - systemd_socket: true
    upstreams: ['a:1', 'b:1']
    drain: 'b:1'
    balance: least-connections
    idle_timeout: off
    proxy_in: true
    proxy_out: v1
    health: {interval: 100ms, rise: 1, fall: 1}
    dscp: EF
",
        )
        .unwrap();
        assert_eq!((section.grace, section.summary_interval), (Duration::from_secs(5), None));
        let [plain, all] = &section.listeners[..] else { panic!("{section:?}") };
        assert_eq!(plain.listen, RelayListen::Address("[::]:8080".parse().unwrap()));
        assert_eq!(
            (plain.idle_timeout, plain.balance),
            (Some(Duration::from_secs(3_600)), Balance::RoundRobin)
        );
        assert_eq!(plain.health.unwrap().fall, 3);
        assert_eq!((all.listen, all.balance), (RelayListen::Systemd, Balance::LeastConnections));
        let drained: Vec<bool> = all.upstreams.iter().map(|upstream| upstream.drain).collect();
        assert_eq!(drained, [false, true]);
        assert_eq!((all.proxy_in, all.proxy_out), (true, Some(ProxyHeader::V1)));
        assert_eq!(all.health.unwrap().interval, Duration::from_millis(100));
        assert_eq!((all.idle_timeout, all.socket.dscp), (None, Some(46)));
    }

    #[test]
    fn slips_are_told_with_their_place() {
        let check = |text: &str, expected: &[&str]| {
            let lines: Vec<String> = expected.iter().map(|line| format!("x.yaml{line}")).collect();
            assert_eq!(section(text), Err(lines), "{text}");
        };
        check("relay: {}", &[": relay: listeners are 1 to 64; write e.g. - listen: :8080"]);
        check(
            "relay:\n  listeners:\n  - upstreams: 'a:1'\n",
            &[":3:5: a listener has one of listen and systemd_socket; write e.g. listen: :8080"],
        );
        check(
            "relay:\n  listeners:\n  - listen: ':1'\n    upstreams: ['a:1', 'a:1', b]\n\
             \x20   drain: 'c:1'\n",
            &[
                ":3:5: upstream a:1 is there twice; leave one of them out",
                ":4:16: upstreams b: has no port; write e.g. b:4000",
                ":5:12: drain c:1: is none of the upstreams; write it there, too",
            ],
        );
        check(
            "relay:\n  listeners:\n\
             \x20 - {listen: ':1', upstreams: 'a:1', balance: random, proxy_out: v3}\n",
            &[
                ":3:47: balance: random is unknown; write round-robin, least-connections, \
                 lowest-latency",
                ":3:66: proxy_out: v3 is unknown; write v1",
            ],
        );
    }
}
