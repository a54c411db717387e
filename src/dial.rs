//! Whom to connect to, and when. Failures and answers of the resolver go in; addresses and
//! moments come out. Dials are never less than `BACKOFF_NS_MIN` apart, whatever the peer does.

use std::net::SocketAddr;

use crate::time::Mono;

/// The addresses of one target and the patience with it.
#[derive(Debug)]
pub struct Dialer {
    addresses: Vec<SocketAddr>,
    current: usize,
    backoff_ns: u64,
    /// This target's share of an interval, so that targets that fail together do not come back
    /// together: in 1/256 of the backoff.
    jitter: u64,
    dialed_at: Option<Mono>,
    resolve_interval_ns: Option<u64>,
    resolve_at: Option<Mono>,
    asked_at: Option<Mono>,
}

impl Dialer {
    /// `resolve_interval_ns` is `None` for literal addresses, which are never resolved.
    #[must_use]
    pub fn new(
        addresses: Vec<SocketAddr>,
        resolve_interval_ns: Option<u64>,
        jitter: u64,
        at: Mono,
    ) -> Self {
        let resolve_interval_ns = resolve_interval_ns.map(|ns| ns.max(BACKOFF_NS_MIN));
        Self {
            addresses,
            current: 0,
            backoff_ns: BACKOFF_NS_MIN,
            jitter: jitter.min(JITTER_ONE - 1),
            dialed_at: None,
            resolve_interval_ns,
            resolve_at: resolve_interval_ns.map(|ns| later(at, ns)),
            asked_at: None,
        }
    }

    /// The address to connect to now; `None` while the name is unresolved.
    pub fn dial(&mut self, at: Mono) -> Option<SocketAddr> {
        let address = self.addresses.get(self.current).or_else(|| self.addresses.first())?;
        self.dialed_at = Some(at);
        Some(*address)
    }

    /// The attempt failed, or its connection ended. Returns when to dial again.
    ///
    /// A connection that gave a reply is taken up again at once, on the same address.
    pub fn failed(&mut self, at: Mono, replied: bool) -> Mono {
        let soonest = self.dialed_at.map_or(at, |dialed_at| later(dialed_at, BACKOFF_NS_MIN));
        if replied {
            return soonest.max(at);
        }
        self.pass_on();
        self.back_off(at)
    }

    /// The next address is to be dialled: this one does not answer.
    pub fn pass_on(&mut self) {
        if !self.addresses.is_empty() {
            self.current = (self.current + 1) % self.addresses.len();
        }
    }

    /// When to try again after an attempt that led nowhere; each takes twice as long.
    pub fn back_off(&mut self, at: Mono) -> Mono {
        let backoff_ns = self.backoff_ns;
        self.backoff_ns = (backoff_ns * 2).min(BACKOFF_NS_MAX);
        later(at, backoff_ns + backoff_ns / JITTER_ONE * self.jitter / 4)
    }

    /// The peer works.
    pub const fn replied(&mut self) {
        self.backoff_ns = BACKOFF_NS_MIN;
    }

    /// The resolver answered. `None` keeps what is known; a connection that stands is kept even if
    /// its address is gone, until it fails.
    pub fn resolved(&mut self, addresses: Option<&[SocketAddr]>) {
        self.asked_at = None;
        let Some(addresses) = addresses.filter(|addresses| !addresses.is_empty()) else { return };
        let current = self.addresses.get(self.current).copied();
        self.addresses.clear();
        self.addresses.extend(addresses.iter().take(ADDRESSES_MAX));
        self.current = current
            .and_then(|current| self.addresses.iter().position(|address| *address == current))
            .unwrap_or(0);
    }

    /// Whether the resolver is to be asked before this dial.
    pub fn asks_before_dial(&mut self, at: Mono) -> bool {
        let again = self.resolve_interval_ns.is_some() && self.dialed_at.is_some();
        (again || self.addresses.is_empty()) && self.asks(at)
    }

    /// Whether the resolver is to be asked because the interval is over.
    pub fn asks_by_interval(&mut self, at: Mono) -> bool {
        let (Some(interval_ns), Some(resolve_at)) = (self.resolve_interval_ns, self.resolve_at)
        else {
            return false;
        };
        if at < resolve_at {
            return false;
        }
        self.resolve_at = Some(later(at, interval_ns));
        self.asks(at)
    }

    /// When the interval is over.
    pub const fn resolve_at(&self) -> Option<Mono> {
        self.resolve_at
    }

    /// One question at a time; one that is never answered is repeated after a while.
    fn asks(&mut self, at: Mono) -> bool {
        let waiting = self.asked_at.is_some_and(|asked_at| at < later(asked_at, ANSWER_NS_MAX));
        if !waiting {
            self.asked_at = Some(at);
        }
        !waiting
    }
}

/// The point `ns` after `at`, saturating.
pub const fn later(at: Mono, ns: u64) -> Mono {
    Mono::from_ns(at.as_ns().saturating_add(ns))
}

/// One whole backoff in units of the jitter.
pub const JITTER_ONE: u64 = 256;
/// First wait after a failure, and the least time between two dials.
const BACKOFF_NS_MIN: u64 = 500_000_000;
/// Longest wait, before jitter.
const BACKOFF_NS_MAX: u64 = 5_000_000_000;
/// How long the resolver may take before it is asked again.
const ANSWER_NS_MAX: u64 = 10_000_000_000;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| SocketAddr::from(([127, 0, 0, 1], *port))).collect()
    }

    fn at(ms: u64) -> Mono {
        Mono::from_ns(ms * 1_000_000)
    }

    #[test]
    fn failures_wait_longer_and_longer_and_go_round_the_addresses() {
        let mut dialer = Dialer::new(addresses(&[1, 2]), None, 0, at(0));
        let mut now = at(0);
        let mut waits_ms = Vec::new();
        for port in [1, 2, 1, 2, 1, 2] {
            assert_eq!(dialer.dial(now), Some(SocketAddr::from(([127, 0, 0, 1], port))));
            let retry_at = dialer.failed(now, false);
            waits_ms.push(retry_at.since_ns(now) / 1_000_000);
            now = retry_at;
        }
        assert_eq!(waits_ms, [500, 1_000, 2_000, 4_000, 5_000, 5_000]);
        dialer.replied();
        dialer.dial(now);
        assert_eq!(dialer.failed(now, false), later(now, BACKOFF_NS_MIN));
    }

    #[test]
    fn a_working_peer_is_taken_up_at_once_but_never_in_a_tight_loop() {
        let mut dialer = Dialer::new(addresses(&[1, 2]), None, 0, at(0));
        dialer.dial(at(0));
        assert_eq!(dialer.failed(at(10), true), at(500));
        assert_eq!(dialer.failed(at(9_000), true), at(9_000));
        assert_eq!(dialer.dial(at(9_000)), addresses(&[1]).first().copied());
    }

    #[test]
    fn jitter_spreads_targets_that_fail_together() {
        let wait = |jitter| Dialer::new(addresses(&[1]), None, jitter, at(0)).failed(at(0), false);
        assert!(wait(0) < wait(100) && wait(100) < wait(255));
        assert!(wait(255) < at(626));
        assert_eq!(wait(255), wait(9_999));
    }

    #[test]
    fn answers_of_the_resolver_replace_addresses_and_no_answer_keeps_them() {
        let mut dialer = Dialer::new(Vec::new(), Some(60_000_000_000), 0, at(0));
        assert_eq!(dialer.dial(at(0)), None);
        assert!(dialer.asks_before_dial(at(0)));
        assert!(!dialer.asks_before_dial(at(1)), "one question at a time");
        assert!(dialer.asks_before_dial(at(10_000)), "an answer that never came");
        dialer.resolved(Some(&addresses(&[1, 2, 3])));
        assert!(!dialer.asks_before_dial(at(10_001)), "known, and not tried yet");
        dialer.dial(at(10_001));
        dialer.failed(at(10_002), false);
        assert!(dialer.asks_before_dial(at(11_000)));
        dialer.resolved(None);
        assert_eq!(dialer.dial(at(11_000)), addresses(&[2]).first().copied());
        dialer.resolved(Some(&addresses(&[9, 2])));
        assert_eq!(dialer.dial(at(11_000)), addresses(&[2]).first().copied());
        dialer.resolved(Some(&addresses(&[7])));
        assert_eq!(dialer.dial(at(11_000)), addresses(&[7]).first().copied());
        assert!(!dialer.asks_by_interval(at(59_999)));
        assert!(dialer.asks_by_interval(at(60_000)));
        assert_eq!(dialer.resolve_at(), Some(at(120_000)));
    }

    #[test]
    fn literal_addresses_are_never_resolved() {
        let mut dialer = Dialer::new(addresses(&[1]), None, 0, at(0));
        dialer.dial(at(0));
        dialer.failed(at(0), false);
        assert!(!dialer.asks_before_dial(at(1_000)) && !dialer.asks_by_interval(at(999_999)));
        assert_eq!(dialer.resolve_at(), None);
    }
}
