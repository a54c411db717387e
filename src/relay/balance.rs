//! Who gets the next connection. What became of earlier ones, and what checks found, goes in; an
//! upstream and one of its addresses comes out. One balancer serves one listener of one worker and
//! counts that worker's connections only: nothing is shared, and nothing is locked.
//!
//! # Health
//! An upstream that checks call down, or whose last attempts failed, is the last choice, not no
//! choice: where nobody is up, trying costs less than refusing. A drained one is never chosen. One
//! that failed is tried by one connection at the end of its hold, not by all of them.

use std::net::SocketAddr;

use super::settings::{RelaySettings, Upstream, UpstreamNews};
use crate::mix::Dice;
use crate::sample::UpstreamId;
use crate::time::Mono;

/// Who gets a new connection, among equally healthy upstreams.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Policy {
    /// One after the other.
    #[default]
    RoundRobin,
    /// Whoever has the fewest of this worker's connections.
    LeastConnections,
    /// The quicker of two that are taken at random: the product of the time that connecting takes
    /// and of the connections there, one more included. Two, because then no upstream gets every
    /// new connection at once while its numbers are still the best.
    LowestLatency,
}

impl Policy {
    /// Every policy.
    pub const ALL: [Self; 3] = [Self::RoundRobin, Self::LeastConnections, Self::LowestLatency];

    /// The word used in flags and files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round-robin",
            Self::LeastConnections => "least-connections",
            Self::LowestLatency => "lowest-latency",
        }
    }
}

/// The upstreams of one listener, as one worker knows them.
#[derive(Debug)]
pub struct Balancer {
    policy: Policy,
    failures_max: u32,
    failed_hold_ns: u64,
    upstreams: Vec<Known>,
    /// Where the next round begins.
    next: usize,
    dice: Dice,
}

/// One upstream.
#[derive(Debug)]
struct Known {
    addresses: Vec<SocketAddr>,
    /// The address that worked last, or the next to be tried.
    current: usize,
    draining: bool,
    checked_down: bool,
    connecting: u64,
    active: u64,
    /// Of connecting or of checks; an average that forgets.
    latency_ns: Option<u64>,
    /// Attempts that failed since one succeeded.
    failures: u32,
    /// The last choice until then.
    held_until: Option<Mono>,
}

impl Balancer {
    /// All upstreams are taken for up, and none has connections.
    #[must_use]
    pub fn new(settings: &RelaySettings) -> Self {
        Self {
            policy: settings.policy,
            failures_max: settings.failures_max.max(1),
            failed_hold_ns: settings.failed_hold_ns,
            upstreams: settings.upstreams.iter().map(Known::new).collect(),
            next: 0,
            dice: Dice(settings.seed),
        }
    }

    /// Whom to connect to, and where; never an address in `tried`. `None` if nobody is left. What
    /// is chosen counts as connecting until [`Self::connected`], [`Self::failed`] or
    /// [`Self::withdrawn`] says otherwise.
    pub fn choose(&mut self, tried: &[SocketAddr], at: Mono) -> Option<(UpstreamId, SocketAddr)> {
        let (ranks, best) = self.ranks(tried, at)?;
        let chosen = match self.policy {
            Policy::RoundRobin => self.round(&ranks, best).next()?,
            // The first of equals, from where the round begins.
            Policy::LeastConnections => {
                self.round(&ranks, best).min_by_key(|&index| self.upstreams[index].load())?
            }
            Policy::LowestLatency => self.better_of_two(&ranks, best)?,
        };
        self.next = (chosen + 1) % self.upstreams.len();
        let hold = at.offset_ns(i64::try_from(self.failed_hold_ns).unwrap_or(i64::MAX));
        let failing = self.upstreams[chosen].failures >= self.failures_max;
        let known = &mut self.upstreams[chosen];
        // One connection tries it; the others wait for what comes of that.
        if failing {
            known.held_until = Some(hold);
        }
        known.connecting += 1;
        Some((UpstreamId::at(chosen), known.next_address(tried)?))
    }

    /// An attempt succeeded, after so long.
    pub fn connected(&mut self, upstream: UpstreamId, connect_ns: u64) {
        let Some(known) = self.upstreams.get_mut(upstream.index()) else { return };
        known.connecting = known.connecting.saturating_sub(1);
        known.active += 1;
        known.failures = 0;
        known.held_until = None;
        known.learn_latency(connect_ns);
    }

    /// An attempt at this address failed, or took too long.
    pub fn failed(&mut self, upstream: UpstreamId, address: SocketAddr, at: Mono) {
        let hold = at.offset_ns(i64::try_from(self.failed_hold_ns).unwrap_or(i64::MAX));
        let Some(known) = self.upstreams.get_mut(upstream.index()) else { return };
        known.connecting = known.connecting.saturating_sub(1);
        known.failures = known.failures.saturating_add(1);
        if known.failures >= self.failures_max {
            known.held_until = Some(hold);
        }
        if known.addresses.get(known.current) == Some(&address) {
            known.current = (known.current + 1) % known.addresses.len();
        }
    }

    /// An attempt was given up for no fault of the upstream's.
    pub fn withdrawn(&mut self, upstream: UpstreamId) {
        if let Some(known) = self.upstreams.get_mut(upstream.index()) {
            known.connecting = known.connecting.saturating_sub(1);
        }
    }

    /// A connection that was made is over.
    pub fn closed(&mut self, upstream: UpstreamId) {
        if let Some(known) = self.upstreams.get_mut(upstream.index()) {
            known.active = known.active.saturating_sub(1);
        }
    }

    /// The control plane learnt something.
    pub fn news(&mut self, upstream: UpstreamId, news: &UpstreamNews) {
        let Some(known) = self.upstreams.get_mut(upstream.index()) else { return };
        match news {
            UpstreamNews::Up(rtt_ns) => {
                if std::mem::take(&mut known.checked_down) {
                    known.failures = 0;
                    known.held_until = None;
                }
                if let Some(rtt_ns) = rtt_ns {
                    known.learn_latency(*rtt_ns);
                }
            }
            UpstreamNews::Down => known.checked_down = true,
            UpstreamNews::Resolved(addresses) => known.resolved(addresses),
            UpstreamNews::Draining(draining) => known.draining = *draining,
        }
    }

    /// Whether checks and connections say that it works.
    #[must_use]
    pub fn is_up(&self, upstream: UpstreamId, at: Mono) -> bool {
        self.upstreams.get(upstream.index()).is_some_and(|known| known.is_up(at))
    }

    /// Whether it gets no new connections by request.
    #[must_use]
    pub fn is_draining(&self, upstream: UpstreamId) -> bool {
        self.upstreams.get(upstream.index()).is_some_and(|known| known.draining)
    }

    /// How good a choice each is, and the best of that; `None` if there is no choice.
    fn ranks(&self, tried: &[SocketAddr], at: Mono) -> Option<(Vec<Option<Rank>>, Rank)> {
        let ranks: Vec<_> = self.upstreams.iter().map(|known| known.rank(tried, at)).collect();
        let best = ranks.iter().flatten().copied().min()?;
        Some((ranks, best))
    }

    /// Those of this rank, from where the round begins.
    fn round(&self, ranks: &[Option<Rank>], best: Rank) -> impl Iterator<Item = usize> {
        let count = ranks.len();
        let places = (0..count).map(move |offset| (self.next + offset) % count);
        places.filter(move |&place| ranks[place] == Some(best))
    }

    fn better_of_two(&mut self, ranks: &[Option<Rank>], best: Rank) -> Option<usize> {
        let equals = ranks.iter().filter(|rank| **rank == Some(best)).count();
        let (first, second) = (self.roll(equals), self.roll(equals.saturating_sub(1)));
        // The second of the others: a number not below the first's means the next one.
        let second = if second >= first { second + 1 } else { second };
        let places: Vec<usize> = (0..ranks.len()).filter(|&at| ranks[at] == Some(best)).collect();
        let pair = [first, second].into_iter().filter_map(|number| places.get(number).copied());
        pair.min_by_key(|&place| self.upstreams[place].cost())
    }

    /// A number below `sides`; 0 without any.
    fn roll(&mut self, sides: usize) -> usize {
        let sides = u64::try_from(sides).unwrap_or(u64::MAX);
        usize::try_from(self.dice.below(sides)).expect("below a usize")
    }
}

/// How good a choice an upstream is; the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    down: bool,
    /// Another of its addresses failed for the same client.
    touched: bool,
}

impl Known {
    fn new(upstream: &Upstream) -> Self {
        Self {
            addresses: upstream.addresses.clone(),
            current: 0,
            draining: upstream.draining,
            checked_down: false,
            connecting: 0,
            active: 0,
            latency_ns: None,
            failures: 0,
            held_until: None,
        }
    }

    fn is_up(&self, at: Mono) -> bool {
        !self.checked_down && self.held_until.is_none_or(|until| at >= until)
    }

    fn rank(&self, tried: &[SocketAddr], at: Mono) -> Option<Rank> {
        if self.draining {
            return None;
        }
        let left = self.addresses.iter().filter(|address| !tried.contains(address)).count();
        let touched = left < self.addresses.len();
        (left > 0).then(|| Rank { down: !self.is_up(at), touched })
    }

    /// The first address from the current one on that was not tried.
    fn next_address(&self, tried: &[SocketAddr]) -> Option<SocketAddr> {
        let (before, after) = self.addresses.split_at(self.current.min(self.addresses.len()));
        after.iter().chain(before).find(|address| !tried.contains(address)).copied()
    }

    const fn load(&self) -> u64 {
        self.active + self.connecting
    }

    /// Whoever is not known yet is tried first.
    fn cost(&self) -> u128 {
        u128::from(self.latency_ns.unwrap_or(0)) * u128::from(self.load() + 1)
    }

    fn learn_latency(&mut self, ns: u64) {
        let averaged = |known: u64| known - known / LATENCY_SHARE + ns / LATENCY_SHARE;
        self.latency_ns = Some(self.latency_ns.map_or(ns, averaged));
    }

    /// The address in use stays so, if it is still there.
    fn resolved(&mut self, addresses: &[SocketAddr]) {
        let current = self.addresses.get(self.current).copied();
        self.addresses.clear();
        self.addresses.extend(addresses.iter().take(ADDRESSES_MAX));
        let place = |current| self.addresses.iter().position(|address| *address == current);
        self.current = current.and_then(place).unwrap_or(0);
    }
}

/// A new time weighs 1/8 of the average, as RFC 6298 has it for round trips.
const LATENCY_SHARE: u64 = 8;
/// Addresses of one name that are tried.
const ADDRESSES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use proptest::prelude::*;

    use super::*;

    const HOLD_NS: u64 = 10_000_000_000;

    fn address(port: usize) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], u16::try_from(port).unwrap()))
    }

    fn at(ms: u64) -> Mono {
        Mono::from_ns(ms * 1_000_000)
    }

    fn settings(policy: Policy, upstreams: usize) -> RelaySettings {
        let upstream = |port| Upstream { addresses: vec![address(port)], draining: false };
        RelaySettings {
            upstreams: (1..=upstreams).map(upstream).collect(),
            policy,
            connections_max: 100,
            connect_timeout_ns: 1,
            attempts_max: 3,
            idle_timeout_ns: None,
            proxy_in: false,
            proxy_out: None,
            failures_max: 2,
            failed_hold_ns: HOLD_NS,
            seed: 7,
        }
    }

    fn balancer(policy: Policy, upstreams: usize) -> Balancer {
        Balancer::new(&settings(policy, upstreams))
    }

    /// Chooses and connects; the place of the one that was chosen.
    fn connect(balancer: &mut Balancer, connect_ns: impl Fn(usize) -> u64) -> usize {
        let (upstream, _) = balancer.choose(&[], at(0)).unwrap();
        balancer.connected(upstream, connect_ns(upstream.index()));
        upstream.index()
    }

    fn fail(balancer: &mut Balancer, now: Mono) -> usize {
        let (upstream, address) = balancer.choose(&[], now).unwrap();
        balancer.failed(upstream, address, now);
        upstream.index()
    }

    #[test]
    fn round_robin_goes_round_and_passes_over_those_that_are_not_up() {
        let mut balancer = balancer(Policy::RoundRobin, 3);
        let mut three = || [(); 3].map(|()| connect(&mut balancer, |_| 1));
        assert_eq!((three(), three()), ([0, 1, 2], [0, 1, 2]));
        balancer.news(UpstreamId(1), &UpstreamNews::Down);
        assert_eq!([(); 4].map(|()| connect(&mut balancer, |_| 1)), [0, 2, 0, 2]);
        balancer.news(UpstreamId(1), &UpstreamNews::Up(None));
        assert_eq!([(); 3].map(|()| connect(&mut balancer, |_| 1)), [0, 1, 2]);
    }

    #[test]
    fn least_connections_fills_the_emptiest() {
        let mut balancer = balancer(Policy::LeastConnections, 3);
        for _ in 0..9 {
            connect(&mut balancer, |_| 1);
        }
        balancer.closed(UpstreamId(1));
        balancer.closed(UpstreamId(1));
        balancer.closed(UpstreamId(2));
        assert_eq!([(); 3].map(|()| connect(&mut balancer, |_| 1)), [1, 2, 1]);
        assert!(balancer.upstreams.iter().all(|known| known.load() == 3));
    }

    #[test]
    fn the_quicker_of_two_gets_more_but_never_everything() {
        let mut balancer = balancer(Policy::LowestLatency, 4);
        let mut got = [0; 4];
        for _ in 0..4_000 {
            // The first is four times as quick as the others.
            let chosen = connect(&mut balancer, |at| if at == 0 { 1_000_000 } else { 4_000_000 });
            got[chosen] += 1;
        }
        // Loads balance where latency x connections are alike: 4 : 1 : 1 : 1, as far as the dice
        // offer the first at all (every second time).
        assert!((1_500..=2_100).contains(&got[0]), "{got:?}");
        assert!(got[1..].iter().all(|&got| got > 500), "{got:?}");
    }

    #[test]
    fn one_that_fails_is_held_back_and_then_tried_by_one_connection() {
        let mut balancer = balancer(Policy::RoundRobin, 2);
        balancer.news(UpstreamId(1), &UpstreamNews::Draining(true));
        assert_eq!([fail(&mut balancer, at(0)), fail(&mut balancer, at(0))], [0, 0]);
        assert!(!balancer.is_up(UpstreamId(0), at(0)));
        balancer.news(UpstreamId(1), &UpstreamNews::Draining(false));
        assert_eq!([(); 3].map(|()| connect(&mut balancer, |_| 1)), [1, 1, 1]);
        let over = Mono::from_ns(HOLD_NS);
        let next = |balancer: &mut Balancer| balancer.choose(&[], over).unwrap().0.index();
        assert_eq!([(); 3].map(|()| next(&mut balancer)), [0, 1, 1], "one tries it");
        balancer.connected(UpstreamId(0), 1);
        assert_eq!([next(&mut balancer), next(&mut balancer)], [0, 1]);
    }

    #[test]
    fn where_nobody_is_up_somebody_is_tried_all_the_same() {
        let mut balancer = balancer(Policy::RoundRobin, 2);
        balancer.news(UpstreamId(0), &UpstreamNews::Down);
        balancer.news(UpstreamId(1), &UpstreamNews::Down);
        assert!(balancer.choose(&[], at(0)).is_some());
        balancer.news(UpstreamId(0), &UpstreamNews::Draining(true));
        balancer.news(UpstreamId(1), &UpstreamNews::Draining(true));
        assert_eq!(balancer.choose(&[], at(0)), None);
        assert!(balancer.is_draining(UpstreamId(1)));
    }

    #[test]
    fn every_address_is_tried_once_and_the_one_that_worked_stays() {
        let mut settings = settings(Policy::RoundRobin, 2);
        settings.upstreams[0].addresses.push(address(11));
        settings.upstreams[1].addresses.clear();
        let mut balancer = Balancer::new(&settings);
        let (upstream, first) = balancer.choose(&[], at(0)).unwrap();
        assert_eq!((upstream, first), (UpstreamId(0), address(1)));
        balancer.failed(upstream, first, at(0));
        assert_eq!(balancer.choose(&[first], at(0)), Some((upstream, address(11))));
        balancer.connected(upstream, 1);
        assert_eq!(balancer.choose(&[], at(0)), Some((upstream, address(11))));
        assert_eq!(balancer.choose(&[first, address(11)], at(0)), None, "the other has none");
        let news = UpstreamNews::Resolved(vec![address(5), address(6)]);
        balancer.news(UpstreamId(1), &news);
        let again = balancer.choose(&[first, address(11)], at(0));
        assert_eq!(again, Some((UpstreamId(1), address(5))));
        // Of one that failed the client before, the other address comes last.
        assert_eq!(balancer.choose(&[first], at(0)).unwrap().0, UpstreamId(1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Choose,
        Connected,
        Failed,
        Withdrawn,
        Closed(usize),
        News(usize, UpstreamNews),
        Wait(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        let news = prop_oneof![
            any::<Option<u64>>().prop_map(UpstreamNews::Up),
            Just(UpstreamNews::Down),
            any::<bool>().prop_map(UpstreamNews::Draining),
            (0..3_usize)
                .prop_map(|count| UpstreamNews::Resolved((20..20 + count).map(address).collect())),
        ];
        prop_oneof![
            4 => Just(Step::Choose),
            3 => Just(Step::Connected),
            2 => Just(Step::Failed),
            1 => Just(Step::Withdrawn),
            2 => (0..4_usize).prop_map(Step::Closed),
            2 => ((0..4_usize), news).prop_map(|(at, news)| Step::News(at, news)),
            1 => (0..20_000_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        #[test]
        fn books_balance_and_nobody_is_chosen_who_must_not_be(
            policy in prop::sample::select(&Policy::ALL[..]),
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut balancer = balancer(policy, 4);
            let (mut now, mut attempts, mut open) = (at(0), Vec::new(), [0_u64; 4]);
            for step in steps {
                match step {
                    Step::Choose => {
                        let tried = [address(1), address(20)];
                        if let Some((upstream, to)) = balancer.choose(&tried, now) {
                            prop_assert!(!tried.contains(&to));
                            prop_assert!(!balancer.is_draining(upstream));
                            attempts.push((upstream, to));
                        }
                    }
                    Step::Connected => if let Some((upstream, _)) = attempts.pop() {
                        balancer.connected(upstream, 1_000);
                        prop_assert!(balancer.upstreams[upstream.index()].failures == 0);
                        open[upstream.index()] += 1;
                    },
                    Step::Failed => if let Some((upstream, to)) = attempts.pop() {
                        balancer.failed(upstream, to, now);
                    },
                    Step::Withdrawn => if let Some((upstream, _)) = attempts.pop() {
                        balancer.withdrawn(upstream);
                    },
                    Step::Closed(place) => if open[place] > 0 {
                        open[place] -= 1;
                        balancer.closed(UpstreamId::at(place));
                    },
                    Step::News(place, news) => balancer.news(UpstreamId::at(place), &news),
                    Step::Wait(ms) => now = now.offset_ns(i64::try_from(ms).unwrap() * 1_000_000),
                }
                let connecting: u64 = balancer.upstreams.iter().map(|known| known.connecting).sum();
                prop_assert_eq!(connecting, u64::try_from(attempts.len()).unwrap());
                for (known, open) in balancer.upstreams.iter().zip(open) {
                    prop_assert_eq!(known.active, open);
                }
            }
        }
    }
}
