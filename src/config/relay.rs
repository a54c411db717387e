//! What a relay is asked to do, its settings' parsers and its limits: words of a command line or a
//! file in, a checked section out.

use std::net::SocketAddr;
use std::time::Duration;

use super::limits::{CONNECTIONS_CONFIGURED_MAX, IDLE_TIMEOUT_MAX, INTERVAL_MAX, INTERVAL_MIN};
use super::setting::number;
use super::{BadValue, HostPort, duration};
use crate::sys::socket::SocketOptions;

/// The relay.
#[derive(Clone, Debug, PartialEq)]
pub struct RelaySection {
    /// Where clients connect, and where they are passed on to; at least one.
    pub listeners: Vec<RelayListener>,
    /// How long live connections may finish at the end.
    pub grace: Duration,
    /// How often a summary is logged, if something happened; `None`: never.
    pub summary_interval: Option<Duration>,
}

/// One listener of the relay.
#[derive(Clone, Debug, PartialEq)]
pub struct RelayListener {
    /// Where clients connect.
    pub listen: RelayListen,
    /// Other processes may listen there, too: the next version of this one.
    pub reuse_port: bool,
    /// Whom they are passed on to; at least one, none twice.
    pub upstreams: Vec<RelayUpstream>,
    /// Who gets a new client.
    pub balance: Balance,
    /// How long one attempt to connect may take; and a PROXY header, if one is expected.
    pub connect_timeout: Duration,
    /// Attempts for one client, on one upstream after the other.
    pub attempts_max: usize,
    /// Close a connection on which nothing moved for this long; `None`: never.
    pub idle_timeout: Option<Duration>,
    /// Clients beyond this many are closed at once and counted, divided over the threads.
    pub connections_max: usize,
    /// Clients begin with a PROXY header.
    pub proxy_in: bool,
    /// Upstreams are sent a PROXY header.
    pub proxy_out: Option<ProxyHeader>,
    /// How upstreams are checked; `None`: they are not.
    pub health: Option<HealthSection>,
    /// Options of the sockets to upstreams.
    pub socket: SocketOptions,
}

/// Where a listener's clients come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelayListen {
    /// Here. Port 0 takes a free one and logs it.
    Address(SocketAddr),
    /// The next of the sockets that systemd passed to this process.
    Systemd,
}

/// Whom clients are passed on to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelayUpstream {
    /// What to connect to, and the `upstream` label.
    pub address: HostPort,
    /// It gets no new clients.
    pub drain: bool,
}

/// How upstreams are checked, by half-open handshakes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HealthSection {
    /// Time between two checks of one upstream.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// So many checks one after the other that are open make a down upstream up.
    pub rise: u32,
    /// So many that are not open make it down.
    pub fall: u32,
}

/// Who gets a new client, among equally healthy upstreams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Balance {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Whoever has the fewest connections.
    LeastConnections,
    /// The quicker of two taken at random.
    LowestLatency,
}

impl Balance {
    /// Every policy, by the name that users write.
    pub const NAMED: [(&str, Self); 3] = [
        ("round-robin", Self::RoundRobin),
        ("least-connections", Self::LeastConnections),
        ("lowest-latency", Self::LowestLatency),
    ];
}

/// A version of the PROXY protocol's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyHeader {
    /// A line of text.
    V1,
    /// Binary.
    V2,
}

impl ProxyHeader {
    /// Every version, by the name that users write.
    pub const NAMED: [(&str, Self); 2] = [("v1", Self::V1), ("v2", Self::V2)];
}

/// What must hold between the settings of a listener.
///
/// # Errors
/// One line: what is wrong and what to write instead.
pub fn check(listener: &RelayListener) -> Result<(), String> {
    let upstreams = &listener.upstreams;
    if upstreams.is_empty() {
        return Err("there is no upstream; write e.g. 10.0.0.1:5432".to_owned());
    }
    if upstreams.len() > UPSTREAMS_MAX {
        let given = upstreams.len();
        return Err(format!("{given} upstreams: must be at most {UPSTREAMS_MAX}; write fewer"));
    }
    for (number, upstream) in upstreams.iter().enumerate() {
        if upstreams[..number].iter().any(|earlier| earlier.address == upstream.address) {
            let address = &upstream.address;
            return Err(format!("upstream {address} is there twice; leave one of them out"));
        }
    }
    Ok(())
}

/// Whether two sections differ in nothing but whom they drain, which a running relay can change.
#[must_use]
pub fn same_but_drained(one: Option<&RelaySection>, other: Option<&RelaySection>) -> bool {
    let undrained = |section: Option<&RelaySection>| {
        let mut section = section.cloned();
        let listeners = section.iter_mut().flat_map(|section| &mut section.listeners);
        listeners.flat_map(|it| &mut it.upstreams).for_each(|it| it.drain = false);
        section
    };
    undrained(one) == undrained(other)
}

/// [`RelayListener::connect_timeout`] and [`HealthSection::timeout`].
pub fn connect_timeout(text: &str) -> Result<Duration, BadValue> {
    duration::parse_within(text, Duration::from_millis(1), INTERVAL_MAX, defaults::CONNECT_TIMEOUT)
}

/// [`RelayListener::idle_timeout`].
pub fn idle_timeout(text: &str) -> Result<Option<Duration>, BadValue> {
    or_off(text, Duration::from_millis(1), IDLE_TIMEOUT_MAX, defaults::IDLE_TIMEOUT)
}

/// [`RelaySection::grace`].
pub fn grace(text: &str) -> Result<Duration, BadValue> {
    duration::parse_within(text, Duration::ZERO, Duration::from_secs(86_400), defaults::GRACE)
}

/// [`RelaySection::summary_interval`].
pub fn summary_interval(text: &str) -> Result<Option<Duration>, BadValue> {
    or_off(text, Duration::from_millis(100), INTERVAL_MAX, defaults::SUMMARY_INTERVAL)
}

/// [`HealthSection::interval`].
pub fn check_interval(text: &str) -> Result<Option<Duration>, BadValue> {
    or_off(text, INTERVAL_MIN.max(Duration::from_millis(1)), INTERVAL_MAX, defaults::CHECK_INTERVAL)
}

/// [`HealthSection::rise`] and [`HealthSection::fall`].
pub fn threshold(text: &str) -> Result<u32, BadValue> {
    number(text, 1, 1_000, defaults::FALL)
}

/// [`RelayListener::attempts_max`].
pub fn attempts_max(text: &str) -> Result<usize, BadValue> {
    number(text, 1, 64, defaults::ATTEMPTS)
}

/// [`RelayListener::connections_max`].
pub fn connections_max(text: &str) -> Result<usize, BadValue> {
    number(text, 1, CONNECTIONS_CONFIGURED_MAX, super::defaults::CONNECTIONS_MAX)
}

fn or_off(
    text: &str,
    min: Duration,
    max: Duration,
    example: &str,
) -> Result<Option<Duration>, BadValue> {
    if text == "off" {
        return Ok(None);
    }
    duration::parse_within(text, min, max, example).map(Some)
}

/// What a setting is unless it is given; see [`super::defaults`].
pub mod defaults {
    /// See [`super::RelayListener::connect_timeout`].
    pub const CONNECT_TIMEOUT: &str = "5s";
    /// See [`super::RelayListener::idle_timeout`].
    pub const IDLE_TIMEOUT: &str = "1h";
    /// See [`super::RelayListener::attempts_max`].
    pub const ATTEMPTS: &str = "3";
    /// See [`super::RelaySection::grace`].
    pub const GRACE: &str = "30s";
    /// The seed's.
    pub const SUMMARY_INTERVAL: &str = "10s";
    /// See [`super::HealthSection::interval`].
    pub const CHECK_INTERVAL: &str = "2s";
    /// See [`super::HealthSection::timeout`].
    pub const CHECK_TIMEOUT: &str = "1s";
    /// See [`super::HealthSection::rise`].
    pub const RISE: &str = "2";
    /// See [`super::HealthSection::fall`].
    pub const FALL: &str = "3";
}

/// Listeners of one relay.
pub const LISTENERS_MAX: usize = 64;
/// Upstreams of one listener.
pub const UPSTREAMS_MAX: usize = 256;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    #[test]
    fn off_is_never_and_the_rest_has_limits() {
        assert_eq!(idle_timeout("off"), Ok(None));
        assert_eq!(idle_timeout("90s"), Ok(Some(Duration::from_secs(90))));
        assert_eq!(grace("0s"), Ok(Duration::ZERO));
        assert!(idle_timeout("0s").is_err() && connect_timeout("off").is_err());
        assert!(summary_interval("1ms").is_err() && check_interval("2h").is_err());
        assert!(threshold("0").is_err() && attempts_max("65").is_err());
    }

    #[test]
    fn defaults_are_good_values() {
        assert_eq!(connect_timeout(defaults::CONNECT_TIMEOUT), Ok(Duration::from_secs(5)));
        assert_eq!(connect_timeout(defaults::CHECK_TIMEOUT), Ok(Duration::from_secs(1)));
        assert_eq!(idle_timeout(defaults::IDLE_TIMEOUT).unwrap().unwrap().as_secs(), 3_600);
        assert_eq!(check_interval(defaults::CHECK_INTERVAL).unwrap().unwrap().as_secs(), 2);
        assert_eq!(summary_interval(defaults::SUMMARY_INTERVAL).unwrap().unwrap().as_secs(), 10);
        assert_eq!((threshold(defaults::RISE), threshold(defaults::FALL)), (Ok(2), Ok(3)));
        assert_eq!(
            (attempts_max(defaults::ATTEMPTS), grace(defaults::GRACE).unwrap().as_secs()),
            (Ok(3), 30)
        );
    }
}
