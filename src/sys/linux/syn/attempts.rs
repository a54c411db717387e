//! Half-open attempts under way, without any I/O and without a clock: whom to ask goes in and the
//! SYN to send comes out; what the network says goes in and the answer comes out, once, for the
//! flow that asked and for nobody else.
//!
//! An attempt is known by our port, the other end, and a sequence number that was never used
//! between these two before: an answer must acknowledge exactly that number, so one that comes
//! late, after its attempt was withdrawn and the flow, the port and the target are all in use
//! again, reaches nobody. Whether the last of several SYNs was answered is told by the timestamp
//! that the answer repeats (RFC 7323); no other answer is timed.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use super::segment::{ACK, Quote, RST, SYN, Segment, SentSyn, Syn};
use crate::event::{Answer, Failure, FlowId};
use crate::mix::BuildMix;
use crate::sample::{CLOCK_STEP_NS, CheckClock};
use crate::time::{Mono, Now, Wall};

/// Every attempt of one I/O.
#[derive(Debug)]
pub struct Attempts {
    ports: RangeInclusive<u16>,
    /// The port to try first: the least recently used one.
    next_port: u16,
    attempts: Vec<Attempt>,
    free: Vec<u32>,
    /// The attempt of each flow, or [`NONE`].
    by_flow: Vec<u32>,
    by_ends: HashMap<Ends, u32, BuildMix>,
    /// Attempts by how many SYNs they have sent, each queue in the order of its deadlines: all in
    /// one queue wait equally long.
    queues: [Queue; SYNS_MAX],
    /// Random for each process: nobody can guess a sequence number (RFC 6528).
    secret: RandomState,
    /// Attempts started, modulo 2^32.
    started: u32,
}

/// How the kernel would send to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// From which address of ours.
    pub source: IpAddr,
    /// What to announce as the largest segment that we take.
    pub segment_bytes_max: u16,
}

/// An attempt's deadline has come.
#[derive(Debug, PartialEq, Eq)]
pub enum Due {
    /// Send this SYN, which is not the first.
    Again(FlowId, Syn),
    /// Nothing came for as long as a kernel socket would have waited.
    GivenUp(FlowId, Answer),
}

/// What the eBPF programs saw of an attempt's answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timed {
    /// From the last SYN to the answer.
    pub last_ns: u64,
    /// SYNs until then.
    pub syns: u32,
}

/// What tells attempts apart. Without the zone of a link-local address, which neither an answer's
/// nor a stamp's packet has: the same address in two zones gets two ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Ends {
    local_port: u16,
    remote: IpAddr,
    remote_port: u16,
}

#[derive(Debug)]
struct Attempt {
    flow: FlowId,
    /// The last SYN as it was sent.
    syn: Syn,
    started: Now,
    /// When to send again, or to give up.
    due: Mono,
    /// Every SYN so far; the first `syns` are meant.
    sent: [Sent; SYNS_MAX],
    syns: usize,
    timed: Option<Timed>,
    /// Neighbours in the queue of those with as many SYNs.
    before: u32,
    behind: u32,
}

/// One SYN on its way.
#[derive(Clone, Copy, Debug, Default)]
struct Sent {
    timestamp: u32,
    at: Option<Wall>,
}

#[derive(Clone, Copy, Debug)]
struct Queue {
    first: u32,
    last: u32,
}

impl Attempts {
    /// None yet; they will use these ports, which nobody else uses.
    #[must_use]
    pub fn new(ports: RangeInclusive<u16>) -> Self {
        Self {
            next_port: *ports.start(),
            ports,
            attempts: Vec::new(),
            free: Vec::new(),
            by_flow: Vec::new(),
            by_ends: HashMap::default(),
            queues: [Queue { first: NONE, last: NONE }; SYNS_MAX],
            secret: RandomState::new(),
            started: 0,
        }
    }

    /// How many are under way.
    #[must_use]
    pub fn len(&self) -> usize {
        self.attempts.len() - self.free.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Starts an attempt for a flow that has none: the SYN to send, or `None` if from every port an
    /// attempt to this end is under way.
    pub fn start(
        &mut self,
        flow: FlowId,
        destination: SocketAddr,
        route: Route,
        now: Now,
    ) -> Option<Syn> {
        self.withdraw(flow);
        let ends = self.free_ends(destination, route.source)?;
        let hash = self.secret.hash_one((ends, route.source));
        let low = u32::try_from(hash & u64::from(u32::MAX)).expect("masked to 32 bits");
        let high = u32::try_from(hash >> 32).expect("32 bits are left");
        self.started = self.started.wrapping_add(1);
        let syn = Syn {
            source: SocketAddr::new(route.source, ends.local_port),
            destination,
            // Between the same ends the count alone differs, so none is used twice until it has
            // gone round: 16 hours at 75,000 a second, all between the same ends.
            sequence: low.wrapping_add(self.started),
            timestamp: high.wrapping_add(milliseconds(now.mono)),
            segment_bytes_max: route.segment_bytes_max,
        };
        let attempt = Attempt {
            flow,
            syn,
            started: now,
            due: now.mono,
            sent: [Sent::default(); SYNS_MAX],
            syns: 0,
            timed: None,
            before: NONE,
            behind: NONE,
        };
        let key = self.insert(attempt);
        self.by_ends.insert(ends, key);
        self.count_syn(key, now.mono);
        Some(syn)
    }

    /// SYNs of a flow's attempt after the first, if it has one.
    #[must_use]
    pub fn retransmits(&self, flow: FlowId) -> Option<u32> {
        Some(self.attempts[place(self.of_flow(flow)?)].retransmits())
    }

    /// Forgets the attempt of a flow, if it has one.
    pub fn withdraw(&mut self, flow: FlowId) {
        if let Some(key) = self.of_flow(flow) {
            self.remove(key);
        }
    }

    /// When [`Self::next_due`] has something to say.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let fronts = self.queues.iter().filter(|queue| queue.first != NONE);
        fronts.map(|queue| self.attempts[place(queue.first)].due).min()
    }

    /// The next attempt whose deadline has come.
    pub fn next_due(&mut self, now: Mono) -> Option<Due> {
        let is_due =
            |queue: &&Queue| queue.first != NONE && self.attempts[place(queue.first)].due <= now;
        let key = self.queues.iter().find(is_due)?.first;
        let attempt = &mut self.attempts[place(key)];
        if attempt.syns == SYNS_MAX {
            let answer = attempt.answer(Err(Failure::TimedOut), None);
            return Some(Due::GivenUp(self.remove(key), answer));
        }
        let (flow, waited_ms) =
            (attempt.flow, now.duration_since(attempt.started.mono).as_millis());
        let waited_ms = u32::try_from(waited_ms).unwrap_or(u32::MAX);
        attempt.syn.timestamp = attempt.sent[0].timestamp.wrapping_add(waited_ms);
        let syn = attempt.syn;
        self.unlink(key);
        self.count_syn(key, now);
        Some(Due::Again(flow, syn))
    }

    /// Whether this SYN's attempt is still under way.
    #[must_use]
    pub fn is_wanted(&self, flow: FlowId, syn: &Syn) -> bool {
        self.of_syn(flow, syn).is_some()
    }

    /// A SYN could not be sent, for a reason of ours or of the route.
    pub fn unsent(&mut self, flow: FlowId, syn: &Syn, failure: Failure) -> Option<Answer> {
        let key = self.of_syn(flow, syn)?;
        let mut answer = self.attempts[place(key)].answer(Err(failure), None);
        // The one that was not sent is no retransmission.
        answer.syn_retransmits = answer.syn_retransmits.saturating_sub(1);
        self.remove(key);
        Some(answer)
    }

    /// A SYN could not be sent because the route is another by now: the SYN to send instead.
    pub fn reroute(&mut self, flow: FlowId, syn: &Syn, route: Route) -> Option<Syn> {
        let key = self.of_syn(flow, syn)?;
        let syn = &mut self.attempts[place(key)].syn;
        syn.source.set_ip(route.source);
        syn.segment_bytes_max = route.segment_bytes_max;
        Some(*syn)
    }

    /// The driver took one of our SYNs.
    pub fn stamped(&mut self, sent: &SentSyn, at: Wall) {
        let Some(key) = self.of_quote(sent.destination, &sent.quote) else { return };
        let attempt = &mut self.attempts[place(key)];
        if let Some(nth) = attempt.nth_sent(sent.timestamp) {
            attempt.sent[nth].at = Some(at);
        }
    }

    /// The eBPF programs saw the answer to a SYN with these ports and this sequence number.
    pub fn timed(&mut self, remote: IpAddr, quote: &Quote, timed: Timed) {
        if let Some(key) = self.of_quote(remote, quote) {
            self.attempts[place(key)].timed = Some(timed);
        }
    }

    /// A segment arrived from this address, at `received_at` by the kernel and read at `now`.
    pub fn received(
        &mut self,
        from: IpAddr,
        segment: &Segment,
        received_at: Option<Wall>,
        now: Now,
    ) -> Option<(FlowId, Answer)> {
        let result = match segment.flags & (SYN | RST | ACK) {
            flags if flags == SYN | ACK => Ok(()),
            flags if flags == RST | ACK => Err(Failure::Refused),
            _ => return None,
        };
        let quote = Quote {
            source_port: segment.destination_port,
            destination_port: segment.source_port,
            sequence: segment.acknowledgment.wrapping_sub(1),
        };
        let key = self.of_quote(from, &quote)?;
        let attempt = &self.attempts[place(key)];
        let rtt = attempt.rtt(segment.echoed_timestamp, received_at, now);
        let answer = attempt.answer(result, rtt);
        Some((self.remove(key), answer))
    }

    /// An ICMP error says that the packet that it quotes did not arrive.
    pub fn undeliverable(&mut self, to: IpAddr, quote: &Quote) -> Option<(FlowId, Answer)> {
        let key = self.of_quote(to, quote)?;
        let answer = self.attempts[place(key)].answer(Err(Failure::Unreachable), None);
        Some((self.remove(key), answer))
    }

    /// The next port from which no attempt to this end is under way.
    fn free_ends(&mut self, destination: SocketAddr, source: IpAddr) -> Option<Ends> {
        for _ in 0..self.ports.len() {
            let local_port = self.next_port;
            self.next_port = match self.next_port.checked_add(1) {
                Some(next) if next <= *self.ports.end() => next,
                _ => *self.ports.start(),
            };
            let (remote, remote_port) = (destination.ip(), destination.port());
            let ends = Ends { local_port, remote, remote_port };
            let ourselves = (source, local_port) == (remote, remote_port);
            if !ourselves && !self.by_ends.contains_key(&ends) {
                return Some(ends);
            }
        }
        None
    }

    /// One more SYN leaves now.
    fn count_syn(&mut self, key: u32, now: Mono) {
        let attempt = &mut self.attempts[place(key)];
        attempt.sent[attempt.syns] = Sent { timestamp: attempt.syn.timestamp, at: None };
        attempt.due = now.after(FIRST_WAIT * (1 << attempt.syns));
        attempt.syns += 1;
        self.link(key);
    }

    fn of_flow(&self, flow: FlowId) -> Option<u32> {
        self.by_flow.get(flow.index()).copied().filter(|&key| key != NONE)
    }

    fn of_syn(&self, flow: FlowId, syn: &Syn) -> Option<u32> {
        let key = self.of_flow(flow)?;
        let known = &self.attempts[place(key)].syn;
        let same = known.sequence == syn.sequence
            && known.source.port() == syn.source.port()
            && known.destination == syn.destination;
        same.then_some(key)
    }

    fn of_quote(&self, remote: IpAddr, quote: &Quote) -> Option<u32> {
        let (local_port, remote_port) = (quote.source_port, quote.destination_port);
        let key = *self.by_ends.get(&Ends { local_port, remote, remote_port })?;
        (self.attempts[place(key)].syn.sequence == quote.sequence).then_some(key)
    }

    fn insert(&mut self, attempt: Attempt) -> u32 {
        let flow = attempt.flow.index();
        let key = match self.free.pop() {
            Some(key) => {
                self.attempts[place(key)] = attempt;
                key
            }
            None => {
                self.attempts.push(attempt);
                u32::try_from(self.attempts.len() - 1).expect("no more than flows")
            }
        };
        if self.by_flow.len() <= flow {
            self.by_flow.resize(flow + 1, NONE);
        }
        self.by_flow[flow] = key;
        key
    }

    fn remove(&mut self, key: u32) -> FlowId {
        self.unlink(key);
        let Attempt { flow, syn, .. } = self.attempts[place(key)];
        self.by_ends.remove(&Ends {
            local_port: syn.source.port(),
            remote: syn.destination.ip(),
            remote_port: syn.destination.port(),
        });
        self.by_flow[flow.index()] = NONE;
        self.free.push(key);
        flow
    }

    /// Queues an attempt behind the others with as many SYNs.
    fn link(&mut self, key: u32) {
        let queue = &mut self.queues[self.attempts[place(key)].syns - 1];
        let last = std::mem::replace(&mut queue.last, key);
        match last {
            NONE => queue.first = key,
            last => self.attempts[place(last)].behind = key,
        }
        let attempt = &mut self.attempts[place(key)];
        (attempt.before, attempt.behind) = (last, NONE);
    }

    fn unlink(&mut self, key: u32) {
        let Attempt { syns, before, behind, .. } = self.attempts[place(key)];
        let queue = &mut self.queues[syns - 1];
        match before {
            NONE => queue.first = behind,
            before => self.attempts[place(before)].behind = behind,
        }
        match behind {
            NONE => queue.last = before,
            behind => self.attempts[place(behind)].before = before,
        }
    }
}

impl Attempt {
    fn retransmits(&self) -> u32 {
        u32::try_from(self.syns.saturating_sub(1)).expect("below SYNS_MAX")
    }

    fn answer(&self, result: Result<(), Failure>, rtt: Option<(CheckClock, u64)>) -> Answer {
        let syn_retransmits = self.retransmits();
        // There is no socket of ours that could acknowledge a SYN-ACK.
        Answer { result, rtt, syn_retransmits, completed: false }
    }

    /// Which SYN had this timestamp: the last one if several had, which waits of whole seconds
    /// make impossible.
    fn nth_sent(&self, timestamp: u32) -> Option<usize> {
        self.sent[..self.syns].iter().rposition(|sent| sent.timestamp == timestamp)
    }

    /// The round trip of the answered SYN by the best clock that has one.
    ///
    /// Only that of the last SYN, and only if it is shorter than the wait before either end sends
    /// again: Linux answers every SYN by the timestamp of the first that it saw, so an answer to
    /// an earlier one may be the second after a first that was lost. Its wait is no round trip
    /// (RFC 6298 section 3).
    fn rtt(
        &self,
        echoed: Option<u32>,
        received_at: Option<Wall>,
        now: Now,
    ) -> Option<(CheckClock, u64)> {
        let is_last = self.syns == 1 || self.nth_sent(echoed?) == Some(self.syns - 1);
        if !is_last {
            return None;
        }
        let seen = self.timed.filter(|timed| usize::try_from(timed.syns) == Ok(self.syns));
        let by_ebpf = seen.map(|timed| (CheckClock::Ebpf, timed.last_ns));
        let by_kernel = || {
            if now.step_ns(self.started).abs() > CLOCK_STEP_NS {
                return None;
            }
            let ns = received_at?.since_ns(self.sent[self.syns - 1].at?);
            Some((CheckClock::Kernel, u64::try_from(ns).ok()?))
        };
        let timed = by_ebpf.or_else(by_kernel)?;
        (Duration::from_nanos(timed.1) < FIRST_WAIT).then_some(timed)
    }
}

/// A moment in ms, modulo 2^32: the unit in which Linux counts its timestamps.
fn milliseconds(at: Mono) -> u32 {
    let ms = at.as_ns() / 1_000_000;
    u32::try_from(ms & u64::from(u32::MAX)).expect("masked to 32 bits")
}

/// An attempt's place in the table.
fn place(key: u32) -> usize {
    usize::try_from(key).expect("32 bits fit")
}

/// No attempt.
const NONE: u32 = u32::MAX;
/// SYNs of one attempt: the first and `net.ipv4.tcp_syn_retries` (6) more.
const SYNS_MAX: usize = 7;
/// How long the first SYN is waited for; each further one twice as long (RFC 6298 sections 2 and
/// 5): they leave after 1, 3, 7, 15, 31 and 63 s, and after 127 s there is no hope.
const FIRST_WAIT: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::collections::HashSet;

    use proptest::prelude::*;

    use super::*;

    const A: FlowId = FlowId(4);
    const B: FlowId = FlowId(0);

    fn at(ms: u64) -> Now {
        let start = Now { mono: Mono::from_ns(5_000_000_000), wall: Wall::from_ns(77_000_000_000) };
        start.after(Duration::from_millis(ms))
    }

    fn to(number: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, number], 443))
    }

    fn attempts(ports: u16) -> Attempts {
        Attempts::new(61_000..=61_000 + ports - 1)
    }

    fn start(attempts: &mut Attempts, flow: FlowId, number: u8, now: Now) -> Syn {
        let source = [198, 51, 100, 1].into();
        let route = Route { source, segment_bytes_max: 1_460 };
        attempts.start(flow, to(number), route, now).unwrap()
    }

    /// The answer that a host would send to this SYN.
    fn answer_to(syn: &Syn, flags: u8) -> Segment {
        Segment {
            source_port: syn.destination.port(),
            destination_port: syn.source.port(),
            acknowledgment: syn.sequence.wrapping_add(1),
            flags,
            echoed_timestamp: (flags & SYN != 0).then_some(syn.timestamp),
        }
    }

    fn quote_of(syn: &Syn) -> Quote {
        Quote {
            source_port: syn.source.port(),
            destination_port: syn.destination.port(),
            sequence: syn.sequence,
        }
    }

    fn stamp(attempts: &mut Attempts, syn: &Syn, at: Now) {
        let destination = syn.destination.ip();
        let sent = SentSyn { destination, quote: quote_of(syn), timestamp: syn.timestamp };
        attempts.stamped(&sent, at.wall);
    }

    /// An answer that arrives at `now`, by the kernel's stamp too.
    fn receive(
        attempts: &mut Attempts,
        syn: &Syn,
        segment: Segment,
        now: Now,
    ) -> Option<(FlowId, Answer)> {
        attempts.received(syn.destination.ip(), &segment, Some(now.wall), now)
    }

    fn open(rtt_ms: Option<u64>, syn_retransmits: u32) -> Answer {
        let rtt = rtt_ms.map(|ms| (CheckClock::Kernel, ms * 1_000_000));
        Answer { result: Ok(()), rtt, syn_retransmits, completed: false }
    }

    #[test]
    fn open_and_refused_are_answered_once_and_timed_by_stamps() {
        for (flags, result) in [(SYN | ACK, Ok(())), (RST | ACK, Err(Failure::Refused))] {
            let mut attempts = attempts(8);
            let syn = start(&mut attempts, A, 1, at(0));
            stamp(&mut attempts, &syn, at(2));
            let answer = Answer { result, ..open(Some(30), 0) };
            // Other flags do not matter.
            let segment = answer_to(&syn, flags | 0x40);
            assert_eq!(receive(&mut attempts, &syn, segment, at(32)), Some((A, answer)));
            assert_eq!(receive(&mut attempts, &syn, segment, at(33)), None);
            assert!(attempts.is_empty() && attempts.deadline().is_none());
        }
    }

    #[test]
    fn what_is_no_answer_to_this_syn_is_passed_over() {
        let mut attempts = attempts(8);
        let syn = start(&mut attempts, A, 1, at(0));
        let right = answer_to(&syn, SYN | ACK);
        let acknowledged = |number: u32| Segment { acknowledgment: number, ..right };
        for wrong in [
            acknowledged(syn.sequence),
            acknowledged(syn.sequence.wrapping_add(2)),
            Segment { source_port: right.source_port + 1, ..right },
            Segment { destination_port: right.destination_port + 1, ..right },
            Segment { flags: SYN, ..right },
            Segment { flags: ACK, ..right },
            Segment { flags: RST, ..right },
            Segment { flags: SYN | RST | ACK, ..right },
        ] {
            assert_eq!(receive(&mut attempts, &syn, wrong, at(1)), None, "{wrong:?}");
        }
        assert_eq!(attempts.received(to(2).ip(), &right, None, at(1)), None);
        assert!(receive(&mut attempts, &syn, right, at(1)).is_some());
    }

    #[test]
    fn nothing_stale_reaches_a_flow_a_port_and_a_target_that_are_used_again() {
        let mut attempts = attempts(1);
        let old = start(&mut attempts, A, 1, at(0));
        attempts.withdraw(A);
        assert!(attempts.is_empty());
        let new = start(&mut attempts, A, 1, at(0));
        assert_eq!((old.source, old.destination), (new.source, new.destination));
        assert_ne!(old.sequence, new.sequence);
        for flags in [SYN | ACK, RST | ACK] {
            assert_eq!(receive(&mut attempts, &old, answer_to(&old, flags), at(1)), None);
        }
        assert_eq!(attempts.undeliverable(old.destination.ip(), &quote_of(&old)), None);
        assert_eq!(attempts.unsent(A, &old, Failure::Unreachable), None);
        assert!(attempts.is_wanted(A, &new) && !attempts.is_wanted(A, &old));
        stamp(&mut attempts, &old, at(1));
        let answer = receive(&mut attempts, &new, answer_to(&new, SYN | ACK), at(2));
        assert_eq!(answer, Some((A, open(None, 0))));
    }

    #[test]
    fn a_syn_is_sent_again_as_linux_does_and_given_up_at_last() {
        let mut attempts = attempts(8);
        let first = start(&mut attempts, A, 1, at(0));
        let mut waited = 0;
        for seconds in [1, 3, 7, 15, 31, 63] {
            waited = seconds * 1_000;
            assert_eq!(attempts.deadline(), Some(at(waited).mono));
            assert_eq!(attempts.next_due(at(waited - 1).mono), None);
            let milliseconds = u32::try_from(waited).unwrap();
            let timestamp = first.timestamp.wrapping_add(milliseconds);
            let again = Due::Again(A, Syn { timestamp, ..first });
            assert_eq!(attempts.next_due(at(waited).mono), Some(again));
            assert_eq!(attempts.next_due(at(waited).mono), None);
        }
        waited += 64_000;
        assert_eq!(attempts.next_due(at(waited - 1).mono), None);
        let answer = Answer { result: Err(Failure::TimedOut), ..open(None, 6) };
        assert_eq!(attempts.next_due(at(waited).mono), Some(Due::GivenUp(A, answer)));
        assert!(attempts.is_empty() && attempts.deadline().is_none());
    }

    /// Sends twice, has both SYNs stamped, and answers the one with this number.
    fn answered_of_two(echo: impl Fn(&Syn, &Syn) -> Option<u32>, timed: Option<Timed>) -> Answer {
        let mut attempts = attempts(8);
        let first = start(&mut attempts, A, 1, at(0));
        stamp(&mut attempts, &first, at(10));
        let Some(Due::Again(A, second)) = attempts.next_due(at(1_000).mono) else { panic!() };
        stamp(&mut attempts, &second, at(1_005));
        if let Some(timed) = timed {
            attempts.timed(first.destination.ip(), &quote_of(&first), timed);
        }
        let echoed_timestamp = echo(&first, &second);
        let segment = Segment { echoed_timestamp, ..answer_to(&second, SYN | ACK) };
        receive(&mut attempts, &second, segment, at(1_025)).unwrap().1
    }

    #[test]
    fn the_answered_syn_is_the_one_that_is_timed() {
        let check = |echo: fn(&Syn, &Syn) -> Option<u32>, rtt_ms| {
            assert_eq!(answered_of_two(echo, None), open(rtt_ms, 1));
        };
        check(|_, second| Some(second.timestamp), Some(20));
        // It may be the second answer to the first SYN, whose own was lost.
        check(|first, _| Some(first.timestamp), None);
        check(|_, _| None, None);
        check(|_, _| Some(0x5555_5555), None);
    }

    #[test]
    fn ebpf_is_the_better_clock_where_it_knows_the_answered_syn() {
        let timed = Timed { last_ns: 7, syns: 2 };
        let check = |echo: fn(&Syn, &Syn) -> Option<u32>, timed, rtt| {
            assert_eq!(answered_of_two(echo, Some(timed)).rtt, rtt);
        };
        check(|_, second| Some(second.timestamp), timed, Some((CheckClock::Ebpf, 7)));
        check(|first, _| Some(first.timestamp), timed, None);
        check(|_, _| None, timed, None);
        let repeated = Timed { last_ns: 1_000_000_000, ..timed };
        check(|_, second| Some(second.timestamp), repeated, None);
        let missed = Timed { syns: 1, ..timed };
        let by_kernel = Some((CheckClock::Kernel, 20_000_000));
        check(|_, second| Some(second.timestamp), missed, by_kernel);
    }

    #[test]
    fn a_stepped_clock_times_nothing() {
        let mut attempts = attempts(8);
        let syn = start(&mut attempts, A, 1, at(0));
        stamp(&mut attempts, &syn, at(1));
        let mut now = at(30);
        now.wall = now.wall.offset_ns(5_000_000);
        let answer = receive(&mut attempts, &syn, answer_to(&syn, SYN | ACK), now).unwrap().1;
        assert_eq!(answer, open(None, 0));
        // Neither does a stamp that is later than the answer.
        let syn = start(&mut attempts, A, 1, at(0));
        stamp(&mut attempts, &syn, at(40));
        let answer = receive(&mut attempts, &syn, answer_to(&syn, SYN | ACK), at(30)).unwrap().1;
        assert_eq!(answer, open(None, 0));
    }

    #[test]
    fn icmp_errors_and_local_ones_end_the_attempt_that_they_quote() {
        let mut attempts = attempts(8);
        let first = start(&mut attempts, A, 1, at(0));
        let second = start(&mut attempts, B, 1, at(0));
        let unreachable = Answer { result: Err(Failure::Unreachable), ..open(None, 0) };
        let to = first.destination.ip();
        assert_eq!(attempts.undeliverable(to, &quote_of(&first)), Some((A, unreachable)));
        assert_eq!(attempts.undeliverable(to, &quote_of(&first)), None);
        let failure = Failure::Local(libc::ENOBUFS);
        let failed = Answer { result: Err(failure), ..open(None, 0) };
        assert_eq!(attempts.unsent(B, &second, failure), Some(failed));
        assert!(attempts.is_empty());
    }

    #[test]
    fn ports_go_round_and_never_clash() {
        let mut attempts = attempts(3);
        let mut ports = Vec::new();
        for flow in 0..3 {
            ports.push(start(&mut attempts, FlowId(flow), 1, at(0)).source.port());
        }
        assert_eq!(ports, [61_000, 61_001, 61_002]);
        let route = Route { source: [198, 51, 100, 1].into(), segment_bytes_max: 1_460 };
        assert_eq!(attempts.start(FlowId(3), to(1), route, at(0)), None);
        // To somebody else every port is free; one that becomes free is found.
        assert_eq!(start(&mut attempts, FlowId(3), 2, at(0)).source.port(), 61_000);
        attempts.withdraw(FlowId(2));
        assert_eq!(start(&mut attempts, FlowId(4), 1, at(0)).source.port(), 61_002);
        // Nobody asks itself.
        let mut attempts = Attempts::new(443..=444);
        let route = Route { source: to(1).ip(), segment_bytes_max: 1_460 };
        assert_eq!(attempts.start(A, to(1), route, at(0)).unwrap().source.port(), 444);
    }

    #[test]
    fn a_new_route_changes_the_source_and_nothing_else() {
        let mut attempts = attempts(8);
        let syn = start(&mut attempts, A, 1, at(0));
        let route = Route { source: [198, 51, 100, 9].into(), segment_bytes_max: 1_300 };
        let moved = attempts.reroute(A, &syn, route).unwrap();
        let source = SocketAddr::new(route.source, syn.source.port());
        assert_eq!(moved, Syn { source, segment_bytes_max: 1_300, ..syn });
        assert_eq!(attempts.reroute(B, &syn, route), None);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Start(u32, u8),
        Withdraw(u32),
        /// Answers the n-th SYN of all that were ever sent, counted from the last.
        Answer(usize, bool),
        Undeliverable(usize),
        Wait(u64),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            4 => (0..6_u32, 0..2_u8).prop_map(|(flow, number)| Step::Start(flow, number)),
            1 => (0..6_u32).prop_map(Step::Withdraw),
            3 => (0..20_usize, any::<bool>()).prop_map(|(nth, open)| Step::Answer(nth, open)),
            1 => (0..20_usize).prop_map(Step::Undeliverable),
            1 => (0..3_000_u64).prop_map(Step::Wait),
        ]
    }

    proptest! {
        /// Against a list of who asked what: an answer reaches the flow whose SYN it answers, as
        /// long as that one is under way, and nobody else; no SYN between the same ends has a
        /// number that was used before.
        #[test]
        fn answers_reach_who_asked(steps in proptest::collection::vec(any_step(), 1..200)) {
            let mut attempts = attempts(4);
            let mut sent: Vec<(FlowId, Syn)> = Vec::new();
            let mut under_way: Vec<(FlowId, u32)> = Vec::new();
            let mut numbers = HashSet::new();
            let mut ms = 0;
            for step in steps {
                let answered = match step {
                    Step::Start(flow, number) => {
                        let flow = FlowId(flow);
                        under_way.retain(|(owner, _)| *owner != flow);
                        let source = [198, 51, 100, 1].into();
                        let route = Route { source, segment_bytes_max: 1_460 };
                        if let Some(syn) = attempts.start(flow, to(number), route, at(ms)) {
                            prop_assert!(numbers.insert((syn.source, number, syn.sequence)));
                            under_way.push((flow, syn.sequence));
                            sent.push((flow, syn));
                        }
                        None
                    }
                    Step::Withdraw(flow) => {
                        attempts.withdraw(FlowId(flow));
                        under_way.retain(|(owner, _)| *owner != FlowId(flow));
                        None
                    }
                    Step::Answer(nth, is_open) => sent.iter().rev().nth(nth).map(|(flow, syn)| {
                        let flags = if is_open { SYN | ACK } else { RST | ACK };
                        let segment = answer_to(syn, flags);
                        (*flow, *syn, receive(&mut attempts, syn, segment, at(ms)))
                    }),
                    Step::Undeliverable(nth) => sent.iter().rev().nth(nth).map(|(flow, syn)| {
                        let answer = attempts.undeliverable(syn.destination.ip(), &quote_of(syn));
                        (*flow, *syn, answer)
                    }),
                    Step::Wait(wait_ms) => {
                        ms += wait_ms;
                        while let Some(due) = attempts.next_due(at(ms).mono) {
                            let Due::Again(flow, syn) = due else { continue };
                            prop_assert!(under_way.contains(&(flow, syn.sequence)));
                            sent.push((flow, syn));
                        }
                        None
                    }
                };
                if let Some((flow, syn, answer)) = answered {
                    let asked = under_way.iter().position(|it| *it == (flow, syn.sequence));
                    prop_assert_eq!(answer.map(|(owner, _)| owner), asked.map(|_| flow));
                    under_way.retain(|it| *it != (flow, syn.sequence));
                }
                prop_assert!(attempts.deadline().is_none_or(|due| due > at(ms).mono));
                // Without a gap of two minutes nobody is given up.
                if ms < 127_000 {
                    prop_assert_eq!(attempts.len(), under_way.len());
                } else {
                    under_way.retain(|(flow, number)| {
                        sent.iter().any(|(owner, syn)| {
                            (owner, syn.sequence) == (flow, *number)
                                && attempts.is_wanted(*flow, syn)
                        })
                    });
                }
            }
        }
    }
}
