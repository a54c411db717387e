//! One relayed connection: what happens on either side goes in, with the time; whom to connect to,
//! when to join the two sides and how to end comes out, and what was counted and measured.
//!
//! header expected → connecting → joined → over. An upstream that cannot be connected to is
//! replaced by another: no byte was passed on by then. Once joined, bytes move inside `sys`; what
//! moved is counted as it happens. An end that is not orderly is passed on as a reset, so that
//! neither side takes half a stream for a whole one.

use std::net::SocketAddr;

use super::proxy_protocol::{self, Found, HEADER_BYTES_MAX, Source};
use super::shared::Relay;
use crate::event::{Event, Failure};
use crate::sample::{CloseReason, ConnectionEnd, ConnectionSample, Side, UpstreamId};
use crate::time::{Mono, Now};

/// What a connection wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Receive from the client, once.
    Receive,
    /// Connect to an upstream here; an attempt before this one is over or given up.
    Connect(SocketAddr),
    /// Pass on what either side sends; the upstream gets [`Out::first`] before that.
    Join,
    /// Close both sides in an orderly way.
    Close,
    /// Close both sides by RST.
    Reset,
}

/// A finished measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measured {
    /// An attempt to connect to this upstream succeeded after so many ns.
    Connect(UpstreamId, u64),
    /// This upstream sent its first byte so many ns after it was connected to.
    FirstByte(UpstreamId, u64),
    /// Payload bytes read from the client, and written to it.
    Client(u64, u64),
}

/// What a step produced. Reused between steps.
#[derive(Debug, Default)]
pub struct Out {
    /// What to do, in order.
    pub actions: Vec<Action>,
    /// What the upstream gets first.
    pub first: Vec<u8>,
    /// What was measured.
    pub measured: Vec<Measured>,
    /// The connection is over: how it went.
    pub over: Option<ConnectionSample>,
}

/// One client and its upstream.
#[derive(Debug)]
pub struct Connection {
    state: State,
    /// Who connected, and to where: as a PROXY header says, once there is one.
    client: SocketAddr,
    destination: SocketAddr,
    accepted: Now,
    /// Addresses that failed this client.
    tried: Vec<SocketAddr>,
    /// What the client sent behind its PROXY header.
    early: Vec<u8>,
    deadline: Option<Mono>,
    connect_ns: Option<u64>,
    first_byte_ns: Option<u64>,
    /// Payload bytes by the index of a side.
    read: [u64; 2],
    written: [u64; 2],
    /// Of the PROXY header, not yet written to the upstream.
    header_bytes_left: u64,
    /// Which side ended first, if one has.
    ended: Option<Side>,
}

#[derive(Debug)]
enum State {
    /// A PROXY header is expected; so much of it came.
    Header(Vec<u8>),
    Connecting {
        upstream: UpstreamId,
        to: SocketAddr,
        since: Mono,
    },
    Joined {
        upstream: UpstreamId,
        since: Mono,
    },
    Over,
}

impl Connection {
    /// A client that was admitted and accepted at `at`, from there to here. It wants to be
    /// started by [`Self::start`].
    #[must_use]
    pub const fn new(client: SocketAddr, destination: SocketAddr, at: Now) -> Self {
        Self {
            state: State::Header(Vec::new()),
            client,
            destination,
            accepted: at,
            tried: Vec::new(),
            early: Vec::new(),
            deadline: None,
            connect_ns: None,
            first_byte_ns: None,
            read: [0; 2],
            written: [0; 2],
            header_bytes_left: 0,
            ended: None,
        }
    }

    /// The first step.
    pub fn start(&mut self, shared: &mut Relay, out: &mut Out) {
        if shared.settings.proxy_in {
            let patience = signed(shared.settings.connect_timeout_ns);
            self.deadline = Some(self.accepted.mono.offset_ns(patience));
            out.actions.push(Action::Receive);
        } else {
            self.connect(shared, self.accepted, out);
        }
    }

    /// Takes one step: something happened on one side.
    pub fn on(&mut self, shared: &mut Relay, side: Side, event: Event<'_>, at: Now, out: &mut Out) {
        match (event, side) {
            (Event::Moved { read, written }, side) => {
                self.moved(shared, side, (read, written), at, out);
            }
            (Event::Received { bytes, .. }, Side::Client) => self.received(shared, bytes, at, out),
            (Event::Connected, Side::Upstream) => self.connected(shared, at, out),
            (Event::Ended, side) => self.side_ended(shared, side, at, out),
            (Event::Closed(failure), side) => self.closed(shared, side, failure, at, out),
            (Event::Due(seen), _) => self.due(shared, seen, at, out),
            _ => {}
        }
    }

    /// Ends the connection from our side.
    pub fn end(&mut self, shared: &mut Relay, reason: CloseReason, at: Now, out: &mut Out) {
        let (upstream, established) = match std::mem::replace(&mut self.state, State::Over) {
            State::Over => return,
            State::Header(_) => (None, false),
            State::Connecting { upstream, .. } => {
                shared.balancer.withdrawn(upstream);
                shared.change(upstream).connecting -= 1;
                (Some(upstream), false)
            }
            State::Joined { upstream, .. } => {
                shared.balancer.closed(upstream);
                shared.change(upstream).connections_active -= 1;
                (Some(upstream), true)
            }
        };
        shared.counters.connections_active -= 1;
        *shared.counters.closed_mut(reason) += 1;
        self.deadline = None;
        let by_us = matches!(
            reason,
            CloseReason::Idle
                | CloseReason::GraceOver
                | CloseReason::Stopped
                | CloseReason::BadHeader
        );
        let orderly = reason.is_orderly() || by_us && self.holds_nothing();
        out.actions.push(if orderly { Action::Close } else { Action::Reset });
        out.over = Some(ConnectionSample {
            client: self.client,
            upstream: upstream.filter(|_| established),
            accepted: self.accepted,
            end: Some(ConnectionEnd {
                reason,
                duration_ns: elapsed_ns(self.accepted.mono, at.mono),
                connect_ns: self.connect_ns,
                first_byte_ns: self.first_byte_ns,
                client_read_bytes: self.read[0],
                upstream_read_bytes: self.read[1],
            }),
        });
    }

    /// When [`Event::Due`] is wanted.
    #[must_use]
    pub const fn deadline(&self) -> Option<Mono> {
        self.deadline
    }

    /// Whether the connection is over; no event matters any more.
    #[must_use]
    pub const fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Who connected, as far as that is known.
    #[must_use]
    pub const fn client(&self) -> SocketAddr {
        self.client
    }

    /// Its upstream, once both sides are joined.
    #[must_use]
    pub const fn upstream(&self) -> Option<UpstreamId> {
        match self.state {
            State::Joined { upstream, .. } => Some(upstream),
            _ => None,
        }
    }

    /// What is known at the beginning.
    #[must_use]
    pub const fn opened(&self) -> ConnectionSample {
        let (client, accepted) = (self.client, self.accepted);
        ConnectionSample { client, upstream: None, accepted, end: None }
    }

    fn received(&mut self, shared: &mut Relay, bytes: &[u8], at: Now, out: &mut Out) {
        let State::Header(header) = &mut self.state else { return };
        header.extend_from_slice(bytes);
        match proxy_protocol::parse(header) {
            Ok(Found::Incomplete) if header.len() < HEADER_BYTES_MAX => {
                out.actions.push(Action::Receive);
            }
            Ok(Found::Header(header_bytes, source)) => {
                self.early = header.split_off(header_bytes);
                if let Source::Proxied(client, destination) = source {
                    (self.client, self.destination) = (client, destination);
                }
                self.connect(shared, at, out);
            }
            Ok(Found::Incomplete) | Err(_) => self.end(shared, CloseReason::BadHeader, at, out),
        }
    }

    /// Connects to whoever is to be tried next; nothing counts as connecting here yet.
    fn connect(&mut self, shared: &mut Relay, at: Now, out: &mut Out) {
        self.state = State::Header(Vec::new());
        let chosen = if self.tried.len() < shared.settings.attempts_max.max(1) {
            shared.balancer.choose(&self.tried, at.mono)
        } else {
            None
        };
        let Some((upstream, to)) = chosen else {
            let reason = match self.tried.is_empty() {
                true => CloseReason::NoUpstream,
                false => CloseReason::ConnectFailed,
            };
            return self.end(shared, reason, at, out);
        };
        shared.change(upstream).connecting += 1;
        self.state = State::Connecting { upstream, to, since: at.mono };
        self.deadline = Some(at.mono.offset_ns(signed(shared.settings.connect_timeout_ns)));
        out.actions.push(Action::Connect(to));
    }

    fn connected(&mut self, shared: &mut Relay, at: Now, out: &mut Out) {
        let State::Connecting { upstream, since, .. } = self.state else { return };
        let connect_ns = elapsed_ns(since, at.mono);
        self.connect_ns = Some(connect_ns);
        shared.balancer.connected(upstream, connect_ns);
        let early_bytes = count(self.early.len());
        let counters = shared.change(upstream);
        counters.connecting -= 1;
        counters.connections += 1;
        counters.connections_active += 1;
        counters.client_read_bytes += early_bytes;
        self.read[0] += early_bytes;
        self.state = State::Joined { upstream, since: at.mono };
        self.stay(shared, at);
        out.measured.push(Measured::Connect(upstream, connect_ns));
        if early_bytes > 0 {
            out.measured.push(Measured::Client(early_bytes, 0));
        }
        out.first.clear();
        if let Some(version) = shared.settings.proxy_out {
            proxy_protocol::encode(version, self.client, self.destination, &mut out.first);
            self.header_bytes_left = count(out.first.len());
        }
        out.first.append(&mut self.early);
        self.early = Vec::new();
        self.tried = Vec::new();
        out.actions.push(Action::Join);
    }

    fn moved(
        &mut self,
        shared: &mut Relay,
        side: Side,
        (read, written): (u64, u64),
        at: Now,
        out: &mut Out,
    ) {
        let State::Joined { upstream, since } = self.state else { return };
        let mut written = written;
        if side == Side::Upstream && self.header_bytes_left > 0 {
            let of_header = written.min(self.header_bytes_left);
            self.header_bytes_left -= of_header;
            written -= of_header;
        }
        self.read[side as usize] += read;
        self.written[side as usize] += written;
        self.stay(shared, at);
        let counters = shared.change(upstream);
        match side {
            Side::Client => {
                counters.client_read_bytes += read;
                counters.client_written_bytes += written;
                out.measured.push(Measured::Client(read, written));
            }
            Side::Upstream => {
                counters.upstream_read_bytes += read;
                counters.upstream_written_bytes += written;
                if read > 0 && self.first_byte_ns.is_none() {
                    let ns = elapsed_ns(since, at.mono);
                    self.first_byte_ns = Some(ns);
                    out.measured.push(Measured::FirstByte(upstream, ns));
                }
            }
        }
    }

    fn side_ended(&mut self, shared: &mut Relay, side: Side, at: Now, out: &mut Out) {
        self.stay(shared, at);
        match self.ended {
            None => self.ended = Some(side),
            Some(Side::Client) if side == Side::Upstream => {
                self.end(shared, CloseReason::Client, at, out);
            }
            Some(Side::Upstream) if side == Side::Client => {
                self.end(shared, CloseReason::Upstream, at, out);
            }
            Some(_) => {}
        }
    }

    fn closed(&mut self, shared: &mut Relay, side: Side, failure: Failure, at: Now, out: &mut Out) {
        let reason = match (&self.state, side, failure) {
            (State::Over, ..) => return,
            (_, _, Failure::Local(_)) => CloseReason::Local,
            (State::Joined { .. }, Side::Client, Failure::Reset) => CloseReason::ClientReset,
            (State::Joined { .. }, Side::Upstream, Failure::Reset) => CloseReason::UpstreamReset,
            (State::Joined { .. }, Side::Client, _) => CloseReason::ClientFailed,
            (State::Joined { .. }, Side::Upstream, _) => CloseReason::UpstreamFailed,
            (_, Side::Client, _) => CloseReason::ClientGone,
            (_, Side::Upstream, _) => return self.attempt_failed(shared, at, out),
        };
        self.end(shared, reason, at, out);
    }

    fn attempt_failed(&mut self, shared: &mut Relay, at: Now, out: &mut Out) {
        let State::Connecting { upstream, to, .. } = self.state else { return };
        shared.balancer.failed(upstream, to, at.mono);
        let counters = shared.change(upstream);
        counters.connecting -= 1;
        counters.connect_failures += 1;
        self.tried.push(to);
        self.connect(shared, at, out);
    }

    /// A deadline has come, if nothing that had happened by `seen` moved it.
    fn due(&mut self, shared: &mut Relay, seen: Mono, at: Now, out: &mut Out) {
        if self.deadline.is_none_or(|deadline| seen < deadline) {
            return;
        }
        match self.state {
            State::Header(_) => self.end(shared, CloseReason::BadHeader, at, out),
            State::Connecting { .. } => self.attempt_failed(shared, at, out),
            State::Joined { .. } => self.end(shared, CloseReason::Idle, at, out),
            State::Over => {}
        }
    }

    /// Something moved: the connection is not idle.
    fn stay(&mut self, shared: &Relay, at: Now) {
        let idle_timeout_ns = shared.settings.idle_timeout_ns;
        self.deadline = idle_timeout_ns.map(|ns| at.mono.offset_ns(signed(ns)));
    }

    /// Whether everything that was read was written as well.
    const fn holds_nothing(&self) -> bool {
        self.read[0] == self.written[1] && self.read[1] == self.written[0]
    }
}

fn elapsed_ns(from: Mono, to: Mono) -> u64 {
    u64::try_from(to.since_ns(from)).unwrap_or(0)
}

fn signed(ns: u64) -> i64 {
    i64::try_from(ns).unwrap_or(i64::MAX)
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests;
