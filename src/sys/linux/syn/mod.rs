//! Half-open checks by SYNs of our own: a raw socket sends them, the target answers, and our kernel
//! answers a SYN-ACK by RST, because no socket of its own is there. Whom to ask goes in, answers
//! come out; when to send and to receive is the backend's affair, to which this is two sockets.
//!
//! SYNs leave many in one system call, from ports that nobody else uses. Times are those of the
//! eBPF programs, else those of the sockets: the driver's transmit stamp, which comes with the
//! packet itself on the error queue, and the answer's receive stamp.

pub mod attempts;
pub mod segment;

pub(super) mod batch;
mod raw;
mod routes;

use std::collections::VecDeque;
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use rttscope_ebpf::{AttemptEvent, kind};
use socket2::Socket;

use self::attempts::{Attempts, Due, Timed};
use self::batch::MESSAGES_MAX;
use self::raw::Raw;
use self::routes::Routes;
use self::segment::{Quote, Syn};
use super::ports::PortBlock;
use super::stamp::{self, IcmpError};
use crate::event::{Answer, Failure, FlowId};
use crate::sample::CheckClock;
use crate::sys::socket::SocketOptions;
use crate::sys::{Follower, SynTimer, SynTimerError, clock, failure};
use crate::time::{Mono, Now, Wall};

/// Checks of one I/O by SYNs of our own.
pub struct SynChecks {
    attempts: Attempts,
    /// One socket a family.
    raws: Vec<Raw>,
    routes: Routes,
    /// Waiting to be sent.
    outgoing: VecDeque<Outgoing>,
    /// Waiting to be taken.
    answers: VecDeque<(FlowId, Answer, Now)>,
    /// The kernel had no room: nothing is sent before.
    pause_until: Option<Mono>,
    timer: Option<SynTimer>,
    /// Answers in a row that the timer did not time.
    untimed: u32,
    /// The timer times too little: the sockets' own stamps were asked for as well.
    supplemented: bool,
    /// After the timer, which looks at these ports.
    ports: PortBlock,
}

/// A SYN to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outgoing {
    flow: FlowId,
    pub(super) syn: Syn,
    /// The kernel has refused it once.
    again: bool,
}

impl SynChecks {
    /// Opens raw sockets that send from these ports.
    ///
    /// # Errors
    /// Without `CAP_NET_RAW`, with the remedy; or if an option cannot be set.
    pub fn open(ports: PortBlock, options: &SocketOptions) -> io::Result<Self> {
        Ok(Self {
            attempts: Attempts::new(ports.range().clone()),
            raws: raw::open_all(ports.range(), options)?,
            routes: Routes::open(options)?,
            outgoing: VecDeque::new(),
            answers: VecDeque::new(),
            pause_until: None,
            timer: None,
            untimed: 0,
            supplemented: false,
            ports,
        })
    }

    /// Has the eBPF programs time the checks; what tells them where checks leave.
    ///
    /// # Errors
    /// If they cannot be loaded, with the remedy.
    pub fn be_timed(&mut self) -> Result<Follower, SynTimerError> {
        let timer = self.timer.insert(SynTimer::open(self.ports.range().clone())?);
        Ok(timer.follower())
    }

    /// Has the sockets' own stamps time the checks that nothing better times.
    ///
    /// # Errors
    /// If the kernel has none.
    pub fn stamp(&self) -> io::Result<()> {
        self.sockets().try_for_each(stamp::enable_datagrams)
    }

    /// The sockets to wait for, always the same in the same order: when one is readable or has an
    /// error, [`Self::receive`] is to be called.
    pub fn sockets(&self) -> impl Iterator<Item = &Socket> {
        self.raws.iter().map(|raw| &raw.socket)
    }

    /// Begins a check for a flow that has none. The SYN leaves with the next [`Self::flush`].
    pub fn check(&mut self, flow: FlowId, to: SocketAddr) {
        let to = unmapped(to);
        let now = clock::now();
        let failure = match self.routes.find(to, now.mono) {
            Ok(route) => match self.attempts.start(flow, to, route, now) {
                Some(syn) => {
                    self.outgoing.push_back(Outgoing { flow, syn, again: false });
                    return;
                }
                None => Failure::Local(libc::EADDRNOTAVAIL),
            },
            Err(error) => failure(&error),
        };
        let answer =
            Answer { result: Err(failure), rtt: None, syn_retransmits: 0, completed: false };
        self.answers.push_back((flow, answer, now));
    }

    /// SYNs of a flow's check after the first, if it has one.
    #[must_use]
    pub fn retransmits(&self, flow: FlowId) -> Option<u32> {
        self.attempts.retransmits(flow)
    }

    /// Gives a flow's check up, if it has one; it is not answered any more.
    pub fn withdraw(&mut self, flow: FlowId) {
        self.attempts.withdraw(flow);
        self.answers.retain(|(owner, _, _)| *owner != flow);
    }

    /// When [`Self::flush`] has something to do by itself.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        let pause = self.pause_until.filter(|_| !self.outgoing.is_empty());
        [pause, self.attempts.deadline()].into_iter().flatten().min()
    }

    /// Whether enough SYNs wait to be sent in one go.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.outgoing.len() >= MESSAGES_MAX
    }

    /// Whether [`Self::next_answer`] has one.
    #[must_use]
    pub fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// The next answer, and when we learnt of it.
    pub fn next_answer(&mut self) -> Option<(FlowId, Answer, Now)> {
        self.answers.pop_front()
    }

    /// Sends what waits, and again what was not answered in time.
    pub fn flush(&mut self) {
        let Some(now) = self.queue_due() else { return };
        while let Some(front) = self.outgoing.front() {
            let ipv6 = front.syn.destination.is_ipv6();
            // There is a route for each family that has a socket, and for no other.
            let of_family = self.raws.iter().position(|raw| raw.ipv6 == ipv6);
            let at = of_family.expect("a route is asked for by a socket of its family");
            let full = self.send_batch(at, now);
            if self.pause_until.is_some() {
                break;
            }
            if full {
                // Answers that are there already must not fill the socket's buffer.
                self.receive();
            }
        }
    }

    /// Queues what was not answered in time to be sent again. The time, if anything waits to be
    /// sent and may be.
    pub(super) fn queue_due(&mut self) -> Option<Mono> {
        if self.outgoing.is_empty() && self.attempts.is_empty() {
            return None;
        }
        let now = clock::now();
        while let Some(due) = self.attempts.next_due(now.mono) {
            match due {
                Due::Again(flow, syn) => {
                    self.outgoing.push_back(Outgoing { flow, syn, again: false });
                }
                Due::GivenUp(flow, answer) => self.answers.push_back((flow, answer, now)),
            }
        }
        self.pause_until = self.pause_until.filter(|until| *until > now.mono);
        (self.pause_until.is_none() && !self.outgoing.is_empty()).then_some(now.mono)
    }

    /// The next SYN to be sent, and by which socket.
    pub(super) fn next_outgoing(&mut self) -> Option<(Outgoing, &Socket)> {
        let next = loop {
            let next = self.outgoing.pop_front()?;
            if self.attempts.is_wanted(next.flow, &next.syn) {
                break next;
            }
        };
        let ipv6 = next.syn.destination.is_ipv6();
        let raw = self.raws.iter().find(|raw| raw.ipv6 == ipv6);
        Some((next, &raw.expect("a route is asked for by a socket of its family").socket))
    }

    /// Takes in everything that has arrived.
    pub fn receive(&mut self) {
        for at in 0..self.raws.len() {
            for _ in 0..BATCHES_PER_TURN {
                if !self.receive_batch(at) {
                    break;
                }
            }
        }
    }

    /// Sends a batch from the front of the queue by one socket; whether it was a full one.
    fn send_batch(&mut self, at: usize, now: Mono) -> bool {
        let raw = &mut self.raws[at];
        let mut count = 0;
        let mut sent = [None; MESSAGES_MAX];
        while count < MESSAGES_MAX
            && let Some(next) = self.outgoing.front()
            && next.syn.destination.is_ipv6() == raw.ipv6
        {
            let next = *next;
            self.outgoing.pop_front();
            if self.attempts.is_wanted(next.flow, &next.syn) {
                raw.outgoing.push(next.syn.source.ip(), next.syn.destination, &next.syn.bytes());
                sent[count] = Some(next);
                count += 1;
            }
        }
        if count == 0 {
            return false;
        }
        let (taken, error) = raw.outgoing.send(&raw.socket);
        // Behind a refused message nothing was tried: first in, first out.
        let refused = error.as_ref().map(|_| taken);
        let untried = taken + usize::from(refused.is_some());
        for &outgoing in sent[untried..count].iter().rev().flatten() {
            self.outgoing.push_front(outgoing);
        }
        if let (Some(error), Some(Some(outgoing))) = (error, sent.get(taken).copied()) {
            self.refused(outgoing, &error, now);
        }
        count == MESSAGES_MAX
    }

    /// The kernel did not send a SYN. An ICMP error about another packet may have been the reason,
    /// or an address of ours that is gone: only a second refusal on a route that is fresh is final.
    pub(super) fn refused(&mut self, outgoing: Outgoing, error: &io::Error, now: Mono) {
        let Outgoing { flow, syn, again } = outgoing;
        if matches!(error.raw_os_error(), Some(libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN)) {
            self.outgoing.push_front(outgoing);
            self.pause_until = Some(now.after(PAUSE));
            return;
        }
        let failure = match self.routes.ask(syn.destination, now) {
            Ok(route) if !again => {
                if let Some(syn) = self.attempts.reroute(flow, &syn, route) {
                    self.outgoing.push_front(Outgoing { flow, syn, again: true });
                }
                return;
            }
            Ok(_) => failure(error),
            Err(error) => failure(&error),
        };
        tracing::debug!(%error, to = %syn.destination, "a SYN could not be sent");
        if let Some(answer) = self.attempts.unsent(flow, &syn, failure) {
            self.answers.push_back((flow, answer, clock::now()));
        }
    }

    /// Takes in one batch of one socket; whether there may be more.
    fn receive_batch(&mut self, at: usize) -> bool {
        let raw = &mut self.raws[at];
        // A header for each possible answer: fewer cost less.
        let wanted = self.attempts.len().clamp(1, MESSAGES_MAX);
        let (received, more) = match raw.answers.receive(&raw.socket, wanted, 0) {
            Ok(received) => (received, received == wanted),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => (0, false),
            // An ICMP error, told once in this way and once on the error queue.
            Err(_) => (0, true),
        };
        let now = clock::now();
        // A SYN's times are there before its answer is, so they are read after it.
        let noticed = self.take_notices(at, now);
        self.take_times();
        let raw = &self.raws[at];
        for message in 0..received {
            let (bytes, control) = (raw.answers.bytes(message), raw.answers.control(message));
            let segment = if raw.ipv6 { segment::parse(bytes) } else { segment::parse_ipv4(bytes) };
            let (Some(from), Some(segment)) = (raw.answers.ip(message), segment) else { continue };
            let arrived = stamp::decode(control).stamps.sw;
            if let Some((flow, answer)) = self.attempts.received(from, &segment, arrived, now) {
                match answer.rtt {
                    Some((CheckClock::Ebpf, _)) => self.untimed = 0,
                    _ => self.untimed = self.untimed.saturating_add(1),
                }
                self.answers.push_back((flow, answer, now));
            }
        }
        self.judge_timer();
        more || noticed
    }

    /// A timer that sees nothing, because its programs could not be attached where the checks
    /// leave, is supplemented.
    fn judge_timer(&mut self) {
        if self.timer.is_none() || self.supplemented || self.untimed < UNTIMED_MAX {
            return;
        }
        self.supplemented = true;
        if let Err(error) = self.stamp() {
            tracing::debug!(%error, "the kernel gives no stamps for raw sockets");
        }
    }

    /// Empties a socket's error queue; whether it may hold more.
    fn take_notices(&mut self, at: usize, now: Now) -> bool {
        let raw = &mut self.raws[at];
        let wanted = self.attempts.len().clamp(1, MESSAGES_MAX);
        let taken = raw.notices.receive(&raw.socket, wanted, libc::MSG_ERRQUEUE).unwrap_or(0);
        for message in 0..taken {
            let (bytes, control) = (raw.notices.bytes(message), raw.notices.control(message));
            if let Some(at) = transmitted(control) {
                if let Some(sent) = segment::parse_sent(bytes, raw.ipv6) {
                    self.attempts.stamped(&sent, at);
                }
            } else if let Some(error) = stamp::decode_icmp(control)
                && is_final(error)
                && let (Some(to), Some(quote)) =
                    (raw.notices.ip(message), segment::parse_quote(bytes))
                && let Some((flow, answer)) = self.attempts.undeliverable(to, &quote)
            {
                self.answers.push_back((flow, answer, now));
            }
        }
        taken == wanted
    }

    /// Takes in what the eBPF programs saw. They see an answer before the raw socket gets it.
    fn take_times(&mut self) {
        let Some(timer) = &mut self.timer else { return };
        while let Some(event) = timer.next_event() {
            if matches!(event.kind, kind::OPEN | kind::REFUSED) {
                let (remote, quote, timed) = times(&event);
                self.attempts.timed(remote, &quote, timed);
            }
        }
    }
}

impl std::fmt::Debug for SynChecks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SynChecks").field("attempts", &self.attempts.len()).finish_non_exhaustive()
    }
}

/// The address as its packets have it: an IPv4 one is never mapped into IPv6.
fn unmapped(to: SocketAddr) -> SocketAddr {
    match to.ip().to_canonical() {
        IpAddr::V4(ip) => SocketAddr::new(ip.into(), to.port()),
        IpAddr::V6(_) => to,
    }
}

/// The driver's stamp of a packet of ours.
fn transmitted(control: &[u8]) -> Option<Wall> {
    let decoded = stamp::decode(control);
    decoded.transmit.and(decoded.stamps.sw)
}

/// Whether an ICMP error says that the packet will not arrive: destination unreachable, whatever
/// the reason, except that it was too large, or time exceeded (RFC 792, RFC 4443).
const fn is_final(error: IcmpError) -> bool {
    match (error.v6, error.kind) {
        (false, 3) => error.code != 4,
        (false, 11) | (true, 1 | 3) => true,
        _ => false,
    }
}

/// Whom an event is about, and its times.
fn times(event: &AttemptEvent) -> (IpAddr, Quote, Timed) {
    let remote = IpAddr::V6(Ipv6Addr::from(event.key.remote.address_be)).to_canonical();
    let quote = Quote {
        source_port: u16::from_be_bytes(event.key.local.port_be),
        destination_port: u16::from_be_bytes(event.key.remote.port_be),
        sequence: event.sent.sequence,
    };
    (remote, quote, Timed { last_ns: event.rtt_ns(), syns: event.sent.syns })
}

/// After this many answers without a time from the timer, the sockets' stamps are asked for.
const UNTIMED_MAX: u32 = 8;
/// How long nothing is sent when the kernel has no room.
const PAUSE: Duration = Duration::from_millis(1);
/// Batches taken from one socket at a time; the backend calls again for what is left.
const BATCHES_PER_TURN: usize = 64;
