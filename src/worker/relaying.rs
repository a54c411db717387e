//! The relays of a worker: sockets that were accepted go in, joined connections and what was
//! measured of them come out. The flows themselves are [`crate::relay`]'s.
//!
//! A relayed connection is two flows here: the client's, which owns it, and the upstream's, which
//! only has a number of its own because a connection needs one.

mod ending;

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;

use socket2::{SockAddr, Socket};

use super::accepting::ACCEPT_PAUSE;
use super::sampling::Sampling;
use super::table::{Flow, Table};
use super::turn::Turn;
use super::{Finished, NewRelay, Report, TargetId};
use crate::event::{Event, Failure, FlowId};
use crate::relay::{Action, Connection, Measured, Out, Relay, UpstreamNews};
use crate::sample::{CloseReason, ConnectionSample, Side, UpstreamId};
use crate::stats::{ClientHandle, ClientsWriter, RelaySeries};
use crate::sys::clock;
use crate::sys::socket::{self, SocketOptions};
use crate::tcp_info::{Raw, members};
use crate::time::{Mono, Now};

/// A relay of a worker: what its connections share.
pub(super) struct Relaying {
    number: TargetId,
    /// `None` once it accepts no more.
    listener: Option<FlowId>,
    /// The same socket, if those that wait there are to be accepted at the end.
    waiting: Option<Socket>,
    /// The I/O accepts no more.
    is_draining: bool,
    relay: Relay,
    /// Options of the sockets to upstreams.
    options: Arc<SocketOptions>,
    series: Arc<RelaySeries>,
    clients: ClientsWriter,
    /// The flows of its clients, in no order.
    live: Vec<FlowId>,
    /// Whose turn it is to have the kernel asked about.
    sampling: Sampling,
    /// The relay's own counters changed since they were last shown.
    is_changed: bool,
}

/// A client's flow.
pub(super) struct Relayed {
    /// Its relay's place in [`Table::relays`].
    relay: usize,
    pub(super) connection: Connection,
    /// `None` while a PROXY header may still name another client.
    client: Option<ClientHandle>,
    upstream: Option<FlowId>,
    /// Its place in [`Relaying::live`].
    place: usize,
    /// Segments sent again, as they were last counted, by the index of a side.
    retransmits: [u64; 2],
}

/// What relayed connections make in one step, and who they are.
#[derive(Default)]
pub(super) struct Relays {
    list: Vec<Option<Relaying>>,
    out: Out,
}

impl Turn {
    pub(super) fn add_relay(&mut self, new: NewRelay) {
        let NewRelay { relay: number, socket, is_only_ours, settings, options, series } = new;
        // Without a descriptor for it, those that wait at the end are lost.
        let waiting = is_only_ours.then(|| socket.try_clone().ok()).flatten();
        let place = self.table.relays.list.len();
        let flow = self.table.insert(Flow::RelayListener { relay: place, resume_at: None });
        self.table.relays.list.push(Some(Relaying {
            number,
            listener: Some(flow),
            waiting,
            is_draining: false,
            relay: Relay::new(settings),
            options,
            series,
            clients: ClientsWriter::default(),
            live: Vec::new(),
            sampling: Sampling::default(),
            is_changed: true,
        }));
        if let Err(error) = self.io.listen(flow, socket) {
            tracing::error!(%error, "the relay cannot accept");
            self.tell(Report::Died);
        }
    }

    pub(super) fn tell_upstream(
        &mut self,
        relay: TargetId,
        upstream: UpstreamId,
        news: &UpstreamNews,
    ) {
        if let Some((_, relaying)) = self.table.relays.find(relay) {
            relaying.relay.news(upstream, news);
        }
        // The thread may have nothing else to do for long.
        self.publish_relays();
    }

    pub(super) fn relay_accepted(&mut self, place: usize, socket: Socket, at: Now) {
        let Some(Some(relaying)) = self.table.relays.list.get_mut(place) else { return };
        relaying.is_changed = true;
        if !relaying.relay.admit() {
            // Dropping the socket closes it: the client learns at once that it is one too many.
            return;
        }
        let client = address(socket.peer_addr());
        let wants_destination = relaying.relay.tells_destination();
        let destination = if wants_destination { address(socket.local_addr()) } else { NOBODY };
        let connection = Connection::new(client, destination, at);
        self.outlets.report(relaying.number, Finished::Connection(connection.opened()));
        let knows_client = !relaying.relay.expects_header();
        let handle =
            knows_client.then(|| relaying.clients.opened(relaying.series.clients(), client.ip()));
        let place_there = relaying.live.len();
        relaying.sampling.add(at.mono);
        let relayed = Relayed {
            relay: place,
            connection,
            client: handle,
            upstream: None,
            place: place_there,
            retransmits: [0; 2],
        };
        let owner = self.table.insert(Flow::Relay(Box::new(relayed)));
        if let Some(Some(relaying)) = self.table.relays.list.get_mut(place) {
            relaying.live.push(owner);
        }
        self.io.hold(owner, socket);
        self.table.start_relayed(owner);
        self.apply_relayed(owner, at);
    }

    pub(super) fn relay_accept_failed(
        &mut self,
        flow: FlowId,
        place: usize,
        error: &io::Error,
        at: Now,
    ) {
        tracing::warn!(%error, "could not accept; pausing (raise the limit of open files?)");
        if let Some(Some(relaying)) = self.table.relays.list.get_mut(place) {
            relaying.relay.accept_failed();
            relaying.is_changed = true;
        }
        if let Some(Flow::RelayListener { resume_at, .. }) = self.table.flow(flow) {
            *resume_at = Some(at.mono.after(ACCEPT_PAUSE));
        }
        self.table.set_timer(flow);
    }

    /// Does what a relayed connection asked for in its last step, and records what it measured.
    pub(super) fn apply_relayed(&mut self, owner: FlowId, at: Now) {
        // An upstream that cannot even be tried is an event of its own, and has actions again.
        while let Some(failure) = self.act_relayed(owner, at) {
            self.table.record_relayed(owner);
            self.table.take_relay_event(owner, Side::Upstream, Event::Closed(failure), at);
        }
        self.table.record_relayed(owner);
        match self.table.relays.out.over.take() {
            Some(over) => self.remove_relayed(owner, &over),
            None => self.table.set_timer(owner),
        }
    }

    /// Executes the actions; a failure to open a socket is returned.
    fn act_relayed(&mut self, owner: FlowId, at: Now) -> Option<Failure> {
        let mut failed = None;
        for number in 0..self.table.relays.out.actions.len() {
            match self.table.relays.out.actions[number] {
                Action::Receive => self.io.receive_once(owner),
                Action::Connect(to) => failed = self.connect_upstream(owner, to),
                Action::Join => {
                    if let Some(upstream) = self.table.upstream_of(owner) {
                        self.io.join(owner, upstream, &self.table.relays.out.first);
                    }
                }
                Action::Close => {
                    self.sample_at_end(owner, at.mono);
                    self.io.close(owner);
                    if let Some(upstream) = self.table.upstream_of(owner) {
                        self.io.close(upstream);
                    }
                }
                Action::Reset => {
                    self.sample_at_end(owner, at.mono);
                    self.io.reset(owner);
                    if let Some(upstream) = self.table.upstream_of(owner) {
                        self.io.reset(upstream);
                    }
                }
            }
        }
        self.table.relays.out.actions.clear();
        failed
    }

    /// Connects for a client; the attempt before this one, if there was one, is given up.
    fn connect_upstream(&mut self, owner: FlowId, to: SocketAddr) -> Option<Failure> {
        let flow = match self.table.upstream_of(owner) {
            Some(flow) => {
                self.io.close(flow);
                flow
            }
            None => {
                let flow = self.table.insert(Flow::Upstream { owner });
                if let Some(Flow::Relay(relayed)) = self.table.flow(owner) {
                    relayed.upstream = Some(flow);
                }
                flow
            }
        };
        let options = self.table.relay_options(owner)?;
        match socket::upstream(to, &options) {
            Ok(socket) => {
                self.io.connect_held(flow, socket, to);
                None
            }
            Err(error) => {
                tracing::debug!(%error, %to, "no socket for an upstream");
                Some(Failure::Local(error.errno()))
            }
        }
    }

    /// A connection is over and both of its sides are closed.
    fn remove_relayed(&mut self, owner: FlowId, over: &ConnectionSample) {
        let vacant = self.table.flow(owner).map(|flow| std::mem::replace(flow, Flow::Vacant));
        let Some(Flow::Relay(relayed)) = vacant else { return };
        self.table.remove(owner);
        if let Some(upstream) = relayed.upstream {
            self.table.remove(upstream);
        }
        let Table { flows, relays, .. } = &mut self.table;
        let Some(Some(relaying)) = relays.list.get_mut(relayed.relay) else { return };
        if let Some(client) = relayed.client {
            relaying.clients.closed(relaying.series.clients(), client);
        }
        relaying.is_changed = true;
        relaying.live.swap_remove(relayed.place);
        relaying.sampling.remove();
        if let Some(moved) = relaying.live.get(relayed.place)
            && let Some(Flow::Relay(moved)) = flows.get_mut(moved.index())
        {
            moved.place = relayed.place;
        }
        let is_drained = relaying.listener.is_none() && relaying.live.is_empty();
        self.outlets.report(relaying.number, Finished::Connection(*over));
        if is_drained {
            self.end_if_drained(relayed.relay);
        }
    }

    /// Shows what changed in this turn. Before the kernel is entered again: whoever gets a byte
    /// from us finds it counted as read.
    pub(super) fn publish_relays(&mut self) {
        if self.table.relays.list.is_empty() {
            return;
        }
        for relaying in self.table.relays.list.iter_mut().flatten() {
            relaying.publish();
        }
    }

    /// Asks the kernel about some connections, both sides of each.
    pub(super) fn sample_relays(&mut self) {
        let scrapes = self.outlets.stats.scrapes();
        for place in 0..self.table.relays.list.len() {
            let Some(relaying) = &mut self.table.relays.list[place] else { continue };
            let due = relaying.sampling.due(clock::mono(), scrapes);
            for _ in 0..due {
                let Some(Some(relaying)) = self.table.relays.list.get_mut(place) else { break };
                let next = relaying.sampling.next();
                if let Some(&owner) = relaying.live.get(next) {
                    self.sample_relayed(owner);
                }
            }
        }
    }

    /// The last chance to ask about a connection.
    fn sample_at_end(&mut self, owner: FlowId, at: Mono) {
        let Some(Flow::Relay(relayed)) = self.table.flow(owner) else { return };
        let place = relayed.relay;
        let relaying = self.table.relays.list.get(place).and_then(Option::as_ref);
        if relaying.is_some_and(|relaying| relaying.sampling.is_wanted(at)) {
            self.sample_relayed(owner);
        }
    }

    fn sample_relayed(&mut self, owner: FlowId) {
        let Some(upstream) = self.table.upstream_of(owner) else { return };
        for (side, flow) in [(Side::Client, owner), (Side::Upstream, upstream)] {
            if let Some(raw) = self.io.tcp_info(flow) {
                self.table.record_relay_info(owner, side, &raw);
            }
        }
    }
}

impl Relays {
    fn numbers(&self) -> Vec<TargetId> {
        self.list.iter().flatten().map(|relaying| relaying.number).collect()
    }

    fn find(&mut self, number: TargetId) -> Option<(usize, &mut Relaying)> {
        let mut known = self.list.iter_mut().enumerate();
        known.find_map(|(place, relaying)| {
            let relaying = relaying.as_mut().filter(|relaying| relaying.number == number)?;
            Some((place, relaying))
        })
    }
}

impl Relaying {
    fn publish(&mut self) {
        while let Some((upstream, counters)) = self.relay.take_changed(clock::mono()) {
            self.series.publish_upstream(upstream, &counters);
        }
        if std::mem::take(&mut self.is_changed) {
            self.series.publish(self.relay.counters());
        }
    }
}

impl Table {
    /// Gives an event of one side to a relayed connection.
    pub(super) fn take_relay_event(
        &mut self,
        owner: FlowId,
        side: Side,
        event: Event<'_>,
        at: Now,
    ) {
        self.with_relayed(owner, |relayed, relaying, out| {
            relayed.connection.on(&mut relaying.relay, side, event, at, out);
        });
    }

    fn start_relayed(&mut self, owner: FlowId) {
        self.with_relayed(owner, |relayed, relaying, out| {
            relayed.connection.start(&mut relaying.relay, out);
        });
    }

    fn end_relayed(&mut self, owner: FlowId, reason: CloseReason, at: Now) {
        self.with_relayed(owner, |relayed, relaying, out| {
            relayed.connection.end(&mut relaying.relay, reason, at, out);
        });
    }

    /// Moves a connection's measurements to its series.
    fn record_relayed(&mut self, owner: FlowId) {
        self.with_relayed(owner, |relayed, relaying, out| {
            let Relaying { series, clients, .. } = relaying;
            for measured in out.measured.drain(..) {
                match measured {
                    Measured::Connect(upstream, ns) => {
                        series.record_connect(upstream, ns);
                        relayed.client.get_or_insert_with(|| {
                            clients.opened(series.clients(), relayed.connection.client().ip())
                        });
                    }
                    Measured::FirstByte(upstream, ns) => series.record_first_byte(upstream, ns),
                    Measured::Client(read, written) => {
                        if let Some(client) = &mut relayed.client {
                            clients.moved(series.clients(), client, read, written);
                        }
                    }
                }
            }
        });
    }

    fn record_relay_info(&mut self, owner: FlowId, side: Side, raw: &Raw) {
        self.with_relayed(owner, |relayed, relaying, _| {
            let Some(upstream) = relayed.connection.upstream() else { return };
            let Relaying { series, clients, relay, .. } = relaying;
            if let Some(rtt_us) = raw.number(&members::rtt).filter(|&us| us > 0) {
                let rtt_ns = rtt_us.saturating_mul(1_000);
                series.record_rtt(upstream, side, rtt_ns);
                if let (Some(client), Side::Client) = (&mut relayed.client, side) {
                    clients.sampled(series.clients(), client, rtt_ns);
                }
            }
            if let Some(sent_again) = raw.number(&members::total_retrans) {
                let counted = &mut relayed.retransmits[side as usize];
                relay.retransmitted(upstream, side, sent_again.saturating_sub(*counted));
                *counted = sent_again;
            }
        });
    }

    fn relay_options(&self, owner: FlowId) -> Option<Arc<SocketOptions>> {
        let Some(Flow::Relay(relayed)) = self.flows.get(owner.index()) else { return None };
        let relaying = self.relays.list.get(relayed.relay)?.as_ref()?;
        Some(Arc::clone(&relaying.options))
    }

    fn upstream_of(&mut self, owner: FlowId) -> Option<FlowId> {
        match self.flow(owner)? {
            Flow::Relay(relayed) => relayed.upstream,
            _ => None,
        }
    }

    fn with_relayed(
        &mut self,
        owner: FlowId,
        step: impl FnOnce(&mut Relayed, &mut Relaying, &mut Out),
    ) {
        let Self { flows, relays, .. } = self;
        let Some(Flow::Relay(relayed)) = flows.get_mut(owner.index()) else { return };
        if let Some(Some(relaying)) = relays.list.get_mut(relayed.relay) {
            step(relayed, relaying, &mut relays.out);
        }
    }
}

/// An address of a connection; nobody's if it is gone already, which is about to be told.
fn address(asked: io::Result<SockAddr>) -> SocketAddr {
    let known = asked.ok().and_then(|address| address.as_socket());
    known.map_or(NOBODY, |known| SocketAddr::new(known.ip().to_canonical(), known.port()))
}

const NOBODY: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
