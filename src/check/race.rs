//! One request over all addresses of a name, by RFC 8305 ("Happy Eyeballs"): families take turns,
//! IPv6 first; the next address is tried after 250 ms, or as soon as one fails; whoever answers
//! first wins. Addresses, answers and the time go in; attempts and how the request ended come out.

use std::net::SocketAddr;
use std::sync::Arc;

use super::{judge, round_trip};
use crate::dial::later;
use crate::event::{Answer, Failure};
use crate::sample::{CheckClock, CheckOutcome, CheckSample, Method};
use crate::time::{Mono, Now};

/// Attempts of one request that run at the same time.
pub const LANES: u32 = 4;

/// Addresses of one name that are tried.
pub const ADDRESSES_MAX: usize = 64;

/// A request that runs.
#[derive(Debug)]
pub struct Race {
    addresses: Arc<[SocketAddr]>,
    /// The first address that was not tried yet.
    next: usize,
    /// When it is tried at the latest.
    next_at: Mono,
    give_up_at: Mono,
    began: Now,
    lanes: [Option<Attempt>; LANES_USIZE],
    /// What failed so far, as far as the most telling failure shows it.
    failed: Option<Finish>,
    /// The timeout was over before anybody answered.
    timed_out: bool,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finish {
    /// The address that this is about; `None` if none was known, or none could be tried in time.
    pub to: Option<SocketAddr>,
    /// How it ended.
    pub outcome: CheckOutcome,
    /// When the request began.
    pub began: Now,
    /// From then until this was known.
    pub elapsed_ns: u64,
    /// The round trip with that address alone, if it answered, and the clock.
    pub rtt: Option<(CheckClock, u64)>,
    /// SYNs to that address after the first.
    pub syn_retransmits: u32,
    /// A handshake was completed that should have stayed half-open, with any of the addresses.
    pub completed: bool,
}

/// One address that is being asked.
#[derive(Clone, Copy, Debug)]
struct Attempt {
    to: SocketAddr,
    began: Now,
}

/// The order in which to try what a resolver found: families take turns, IPv6 first, each in the
/// resolver's order and without repetitions (RFC 8305 §4).
#[must_use]
pub fn interleave(found: &[SocketAddr]) -> Arc<[SocketAddr]> {
    let mut unique: Vec<SocketAddr> = Vec::with_capacity(found.len().min(ADDRESSES_MAX));
    for address in found {
        if unique.len() < ADDRESSES_MAX && !unique.contains(address) {
            unique.push(*address);
        }
    }
    let mut families = [true, false]
        .map(|v6| unique.iter().copied().filter(move |address| address.is_ipv6() == v6));
    let mut order = Vec::with_capacity(unique.len());
    while order.len() < unique.len() {
        for family in &mut families {
            order.extend(family.next());
        }
    }
    order.into()
}

impl Race {
    /// A request that begins now and is given up after so long. Nothing is tried before
    /// [`Self::begin`].
    #[must_use]
    pub fn new(addresses: Arc<[SocketAddr]>, timeout_ns: u64, at: Now) -> Self {
        Self {
            addresses,
            next: 0,
            next_at: at.mono,
            give_up_at: later(at.mono, timeout_ns),
            began: at,
            lanes: [None; LANES_USIZE],
            failed: None,
            timed_out: false,
        }
    }

    /// The next attempt that is to begin now: its lane, below [`LANES`], and whom to ask. To be
    /// called again until there is none.
    pub fn begin(&mut self, at: Now) -> Option<(u32, SocketAddr)> {
        if at.mono < self.next_at {
            return None;
        }
        let to = *self.addresses.get(self.next)?;
        let (lane, free) = (0..).zip(&mut self.lanes).find(|(_, lane)| lane.is_none())?;
        *free = Some(Attempt { to, began: at });
        self.next += 1;
        self.next_at = later(at.mono, ATTEMPT_DELAY_NS);
        Some((lane, to))
    }

    /// An attempt was answered. If that ends the request: how. Attempts that still run
    /// ([`Self::running`]) are to be withdrawn then, else [`Self::begin`] may have something.
    pub fn answered(&mut self, lane: u32, answer: &Answer, at: Now) -> Option<Finish> {
        let attempt = self.lanes.get_mut(usize::try_from(lane).ok()?)?.take()?;
        let (outcome, answer) = judge(answer, attempt.began.mono, self.give_up_at);
        let outcome = if self.timed_out { CheckOutcome::Timeout } else { outcome };
        let earlier = self.failed.is_some_and(|failed| failed.completed);
        let finish = Finish {
            to: Some(attempt.to),
            outcome,
            began: self.began,
            elapsed_ns: elapsed_ns(self.began, at),
            rtt: round_trip(&answer, elapsed_ns(attempt.began, at)),
            syn_retransmits: answer.syn_retransmits,
            completed: answer.completed || earlier,
        };
        if finish.outcome == CheckOutcome::Open {
            return Some(finish);
        }
        self.note(finish);
        // RFC 8305 §5: a failure is not waited out.
        self.next_at = at.mono;
        let untried = self.next < self.addresses.len() || self.running().next().is_some();
        let over = self.timed_out || !untried;
        self.failed.filter(|_| over).map(|failed| self.ends(failed, at))
    }

    /// The lane of the attempt that was waited for longest, if everything that had happened by
    /// `seen_until` was told and the timeout was over by then: it is to be given up, and what is
    /// known of it then ([`Self::answered`]) ends the request.
    pub fn overdue(&mut self, seen_until: Mono) -> Option<u32> {
        let lanes = (0..).zip(&self.lanes).filter_map(|(lane, it)| Some((lane, it.as_ref()?)));
        let (lane, _) = lanes.min_by_key(|(_, attempt)| attempt.began.mono)?;
        self.timed_out = seen_until >= self.give_up_at;
        self.timed_out.then_some(lane)
    }

    /// The end of a request of which no attempt runs, if the timeout was over then.
    pub fn expired(&mut self, seen_until: Mono, at: Now) -> Option<Finish> {
        if seen_until < self.give_up_at || self.running().next().is_some() {
            return None;
        }
        let known = !self.addresses.is_empty();
        let silence = Finish {
            to: None,
            outcome: if known { CheckOutcome::Timeout } else { CheckOutcome::Unresolved },
            began: self.began,
            elapsed_ns: 0,
            rtt: None,
            syn_retransmits: 0,
            completed: false,
        };
        self.note(silence);
        self.failed.map(|failed| self.ends(failed, at))
    }

    /// Whether there is nobody to ask.
    #[must_use]
    pub fn is_hopeless(&self) -> bool {
        self.addresses.is_empty()
    }

    /// When [`Self::begin`] or [`Self::expired`] has something to do, unless an answer comes.
    #[must_use]
    pub fn deadline(&self) -> Mono {
        let room = self.lanes.iter().any(Option::is_none);
        let waits = room && self.next < self.addresses.len();
        if waits { self.next_at.min(self.give_up_at) } else { self.give_up_at }
    }

    /// The lanes of attempts that are not answered.
    pub fn running(&self) -> impl Iterator<Item = u32> + use<'_> {
        (0..).zip(&self.lanes).filter(|(_, lane)| lane.is_some()).map(|(lane, _)| lane)
    }

    /// Keeps the more telling of two failures, the earlier one of equals.
    fn note(&mut self, finish: Finish) {
        self.failed = Some(match self.failed {
            Some(failed) if weight(failed.outcome) >= weight(finish.outcome) => {
                Finish { completed: failed.completed || finish.completed, ..failed }
            }
            _ => finish,
        });
    }

    fn ends(&self, failed: Finish, at: Now) -> Finish {
        Finish { elapsed_ns: elapsed_ns(self.began, at), ..failed }
    }
}

impl Finish {
    /// The request as a finished check.
    #[must_use]
    pub fn sample(&self, seq: u64, method: Method) -> CheckSample {
        CheckSample {
            seq,
            to: self.to,
            method,
            outcome: self.outcome,
            due: self.began.mono,
            tx_app: self.began,
            clock: self.rtt.map(|(clock, _)| clock),
            rtt_ns: self.rtt.map(|(_, ns)| ns),
            elapsed_ns: self.elapsed_ns,
            syn_retransmits: self.syn_retransmits,
            completed: self.completed,
        }
    }
}

/// How much a failure tells about the peer: an answer of its own most, one of ours least.
const fn weight(outcome: CheckOutcome) -> u8 {
    match outcome {
        CheckOutcome::Open => 7,
        CheckOutcome::Failed(Failure::Refused) => 6,
        CheckOutcome::Failed(Failure::Reset) => 5,
        CheckOutcome::Failed(Failure::Unreachable) => 4,
        CheckOutcome::Failed(Failure::Eof | Failure::Stalled | Failure::Other(_)) => 3,
        CheckOutcome::Timeout | CheckOutcome::Failed(Failure::TimedOut) => 2,
        CheckOutcome::Failed(Failure::Local(_)) => 1,
        CheckOutcome::Unresolved => 0,
    }
}

fn elapsed_ns(from: Now, to: Now) -> u64 {
    u64::try_from(to.mono.since_ns(from.mono)).unwrap_or(0)
}

/// [`LANES`] as a length.
const LANES_USIZE: usize = 4;
/// The Connection Attempt Delay of RFC 8305 §5.
const ATTEMPT_DELAY_NS: u64 = 250_000_000;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::time::Duration;

    use super::*;

    const MS: u64 = 1_000_000;
    const TIMEOUT_NS: u64 = 1_000 * MS;
    /// Of an attempt that is not answered.
    const SENT_AGAIN: u32 = 2;

    /// What an address does.
    #[derive(Clone, Copy)]
    enum Peer {
        /// Answers after so many ms.
        Answers(u64, Result<(), Failure>),
        Silent,
    }
    use Peer::{Answers, Silent};

    fn at(ms: u64) -> Now {
        Now::default().after(Duration::from_millis(1_000_000 + ms))
    }

    /// `6.1` is the first IPv6 address.
    fn address(name: &str) -> SocketAddr {
        let (family, number) = name.split_once('.').unwrap();
        let host = if family == "6" {
            format!("[2001:db8::{number}]")
        } else {
            format!("10.0.0.{number}")
        };
        format!("{host}:80").parse().unwrap()
    }

    fn addresses(names: &str) -> Vec<SocketAddr> {
        names.split_whitespace().map(address).collect()
    }

    /// Plays a request against its peers; returns each attempt with its ms, and the end.
    fn play(peers: &[(&str, Peer)]) -> (Vec<(u64, SocketAddr)>, Finish, Vec<u32>) {
        let all: Vec<_> = peers.iter().map(|(name, _)| address(name)).collect();
        let mut race = Race::new(all.clone().into(), TIMEOUT_NS, at(0));
        let (mut attempts, mut coming) = (Vec::new(), Vec::new());
        let mut ms = 0;
        loop {
            while let Some((lane, to)) = race.begin(at(ms)) {
                attempts.push((ms, to));
                let index = all.iter().position(|known| *known == to).unwrap();
                if let (_, Answers(after, result)) = peers[index] {
                    coming.push((ms + after, lane, result));
                }
            }
            let due = u64::try_from(race.deadline().since_ns(at(0).mono)).unwrap() / MS;
            coming.sort_by_key(|(when, ..)| std::cmp::Reverse(*when));
            match coming.last().copied() {
                Some((when, lane, result)) if when <= due => {
                    coming.pop();
                    ms = when;
                    let answer = Answer { result, rtt: None, syn_retransmits: 0, completed: false };
                    if let Some(finish) = race.answered(lane, &answer, at(ms)) {
                        return (attempts, finish, race.running().collect());
                    }
                }
                _ => {
                    assert!(due >= ms, "time does not stand still");
                    ms = due;
                    let ends = match race.overdue(at(ms).mono) {
                        Some(lane) => race.answered(lane, &Answer::timed_out(SENT_AGAIN), at(ms)),
                        None => race.expired(at(ms).mono, at(ms)),
                    };
                    if let Some(finish) = ends {
                        return (attempts, finish, race.running().collect());
                    }
                }
            }
        }
    }

    fn check(
        peers: &[(&str, Peer)],
        attempted_at_ms: &[u64],
        (to, outcome, elapsed_ms): (&str, CheckOutcome, u64),
        withdrawn: usize,
    ) -> Finish {
        let (attempts, finish, running) = play(peers);
        let expected: Vec<_> =
            attempted_at_ms.iter().zip(peers).map(|(ms, (name, _))| (*ms, address(name))).collect();
        assert_eq!(attempts, expected);
        assert_eq!(
            (finish.to, finish.outcome, finish.elapsed_ns / MS),
            (Some(address(to)), outcome, elapsed_ms)
        );
        assert_eq!(running.len(), withdrawn);
        finish
    }

    #[test]
    fn families_take_turns() {
        for (found, order) in [
            ("", ""),
            ("4.1 4.2", "4.1 4.2"),
            ("4.1 6.1", "6.1 4.1"),
            ("4.1 4.2 4.3 6.1 6.2", "6.1 4.1 6.2 4.2 4.3"),
            ("6.1 6.2 6.3 4.1", "6.1 4.1 6.2 6.3"),
            ("4.1 6.1 4.1 6.1 6.1", "6.1 4.1"),
        ] {
            assert_eq!(*interleave(&addresses(found)), addresses(order), "{found}");
        }
        let many: Vec<_> = (0..200).map(|port| SocketAddr::from(([1; 4], port))).collect();
        assert_eq!(*interleave(&many), many[..ADDRESSES_MAX]);
    }

    const OPEN: Peer = Answers(10, Ok(()));
    const REFUSED: Failure = Failure::Refused;

    #[test]
    fn whoever_answers_first_wins() {
        use CheckOutcome::Open;
        let finish = check(&[("6.1", OPEN)], &[0], ("6.1", Open, 10), 0);
        assert_eq!(finish.rtt, Some((CheckClock::Application, 10 * MS)));
        check(&[("6.1", OPEN), ("4.1", OPEN)], &[0], ("6.1", Open, 10), 0);
        // A failure is not waited out, and the time of the request counts from its beginning.
        let refused = Answers(5, Err(REFUSED));
        let finish = check(&[("6.1", refused), ("4.1", OPEN)], &[0, 5], ("4.1", Open, 15), 0);
        assert_eq!(finish.rtt, Some((CheckClock::Application, 10 * MS)));
        // Silence is, and the silent one stays in the race.
        check(&[("6.1", Silent), ("4.1", OPEN)], &[0, 250], ("4.1", Open, 260), 1);
        check(&[("6.1", Answers(255, Ok(()))), ("4.1", OPEN)], &[0, 250], ("6.1", Open, 255), 1);
    }

    #[test]
    fn without_an_open_one_the_most_telling_failure_counts() {
        let check = |peers: [Peer; 3], begun: &[u64], (to, outcome, ms), withdrawn| {
            let [first, second, third] = peers;
            let peers = [("6.1", first), ("4.1", second), ("6.2", third)];
            check(&peers, begun, (to, outcome, ms), withdrawn);
        };
        let fails = |failure| Answers(5, Err(failure));
        let failed = CheckOutcome::Failed;
        let (none, local) = (Failure::Unreachable, Failure::Local(24));
        check(
            [fails(none), fails(REFUSED), fails(none)],
            &[0, 5, 10],
            ("4.1", failed(REFUSED), 15),
            0,
        );
        check([fails(local), fails(none), fails(local)], &[0, 5, 10], ("4.1", failed(none), 15), 0);
        check(
            [fails(local), Silent, Silent],
            &[0, 5, 255],
            ("4.1", CheckOutcome::Timeout, 1_000),
            1,
        );
        check([fails(REFUSED), Silent, Silent], &[0, 5, 255], ("6.1", failed(REFUSED), 1_000), 1);
        check([Silent, Silent, Silent], &[0, 250, 500], ("6.1", CheckOutcome::Timeout, 1_000), 2);
    }

    #[test]
    fn no_more_than_the_lanes_run_at_once() {
        let silent = ["4.1", "4.2", "4.3", "4.4", "4.5", "4.6"].map(|name| (name, Silent));
        let timeout = ("4.1", CheckOutcome::Timeout, 1_000);
        let finish = check(&silent, &[0, 250, 500, 750], timeout, 3);
        assert_eq!(finish.syn_retransmits, SENT_AGAIN, "of the one that was waited for longest");
        assert_eq!(usize::try_from(LANES).unwrap(), LANES_USIZE);
    }

    #[test]
    fn an_answer_that_waits_to_be_read_is_not_missing() {
        let mut race = Race::new(interleave(&addresses("4.1")), TIMEOUT_NS, at(0));
        let (lane, _) = race.begin(at(0)).unwrap();
        assert_eq!(race.overdue(at(999).mono), None);
        assert_eq!(race.expired(at(999).mono, at(5_000)), None);
        let answer = Answer { result: Ok(()), rtt: None, syn_retransmits: 1, completed: true };
        let finish = race.answered(lane, &answer, at(5_000)).unwrap();
        assert_eq!((finish.outcome, finish.rtt), (CheckOutcome::Open, None));
        assert_eq!((finish.syn_retransmits, finish.completed), (1, true));
        assert_eq!(race.answered(lane, &answer, at(5_001)), None, "answered once");
        assert_eq!(race.answered(99, &answer, at(5_001)), None);
    }

    #[test]
    fn an_answer_that_came_late_is_none_however_early_it_is_read() {
        let check = |result, rtt_ms: u64, expected| {
            let mut race = Race::new(interleave(&addresses("4.1")), TIMEOUT_NS, at(0));
            let (lane, _) = race.begin(at(0)).unwrap();
            let rtt = Some((CheckClock::Ebpf, rtt_ms * MS));
            let answer = Answer { result, rtt, syn_retransmits: 0, completed: true };
            let finish = race.answered(lane, &answer, at(5_000)).unwrap();
            assert_eq!((finish.outcome, finish.completed), (expected, true), "{rtt_ms} ms");
            let in_time = expected != CheckOutcome::Timeout;
            assert_eq!(finish.rtt, rtt.filter(|_| in_time), "{rtt_ms} ms");
        };
        check(Ok(()), 1_000, CheckOutcome::Open);
        check(Ok(()), 1_001, CheckOutcome::Timeout);
        check(Err(REFUSED), 1_000, CheckOutcome::Failed(REFUSED));
        check(Err(REFUSED), 1_001, CheckOutcome::Timeout);
    }

    #[test]
    fn without_addresses_there_is_nothing_to_ask() {
        let mut race = Race::new(Arc::default(), 0, at(0));
        assert_eq!(race.begin(at(0)), None);
        let finish = race.expired(at(0).mono, at(0)).unwrap();
        assert_eq!((finish.to, finish.outcome), (None, CheckOutcome::Unresolved));
    }
}
