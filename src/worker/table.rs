//! The flows of one worker, without any I/O: who they are, what they share, when they are due.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;

use super::TargetId;
use super::loading::Loading;
use super::paths::Path;
use super::relaying::{Relayed, Relays};
use super::sweeping::Sweeping;
use crate::check::Watch;
use crate::echo::{Echo, Responder};
use crate::event::{Event, Failure, FlowId, Outbox};
use crate::load::Connection;
use crate::mix::BuildMix;
use crate::probe::Probe;
use crate::sample::{CheckOutcome, CheckSample, Side};
use crate::stats::{CheckSeries, EchoSeries, ProbeSeries, TcpInfoWriter};
use crate::sys::socket::{ProberError, SocketOptions};
use crate::tcp_info::Raw;
use crate::time::{Mono, Now};
use crate::timers::Timers;

/// The flows of one worker.
#[derive(Default)]
pub(super) struct Table {
    pub(super) flows: Vec<Flow>,
    pub(super) free: Vec<FlowId>,
    pub(super) timers: Timers,
    pub(super) outbox: Outbox,
    pub(super) answering: Option<Answering>,
    pub(super) relays: Relays,
    pub(super) loading: Option<Loading>,
    /// The attempt of each flow and place.
    attempts: HashMap<(FlowId, u32), FlowId, BuildMix>,
}

/// One thing with events.
pub(super) enum Flow {
    Vacant,
    /// Accepts again at this moment, if accepting failed.
    Listener(Option<Mono>),
    /// The listener of the relay in this place; accepts again at this moment, if accepting failed.
    RelayListener {
        relay: usize,
        resume_at: Option<Mono>,
    },
    Echo(Echo),
    /// A client that is relayed.
    Relay(Box<Relayed>),
    /// The upstream of a relayed client.
    Upstream {
        owner: FlowId,
    },
    Probe(Box<Probing>),
    Watch(Box<Watching>),
    Sweep(Box<Sweeping>),
    Load(Box<Connection>),
    /// A half-open check that runs for another flow.
    Attempt {
        owner: FlowId,
        place: u32,
    },
}

/// A worker's responder: what its connections share.
pub(super) struct Answering {
    pub(super) responder: Responder,
    pub(super) series: Arc<EchoSeries>,
}

/// A probed target.
pub(super) struct Probing {
    pub(super) target: TargetId,
    pub(super) probe: Probe,
    /// Which of the target's connections this is.
    pub(super) path: Path,
    pub(super) options: Arc<SocketOptions>,
    pub(super) series: Arc<ProbeSeries>,
    pub(super) told_finished: bool,
    /// What is remembered to show the kernel's numbers, if they are wanted.
    pub(super) tcp_info: Option<TcpInfoWriter>,
    /// The failure that was logged last; the same again is not news.
    pub(super) logged: Option<Failure>,
}

/// A target of half-open checks.
pub(super) struct Watching {
    pub(super) target: TargetId,
    pub(super) watch: Watch,
    pub(super) series: Arc<CheckSeries>,
    pub(super) told_finished: bool,
    /// The outcome that was logged last; the same again is not news.
    pub(super) logged: Option<CheckOutcome>,
}

impl Table {
    pub(super) fn flow(&mut self, flow: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(flow.index())
    }

    /// Gives an event to a flow; what it asks for is in the outbox then.
    pub(super) fn take_event(&mut self, flow: FlowId, event: Event<'_>, at: Now) {
        let Self { flows, outbox, answering, loading, .. } = self;
        if let (Some(Flow::Load(connection)), Some(loading)) =
            (flows.get_mut(flow.index()), loading)
        {
            return connection.on(&mut loading.generator, event, at, outbox);
        }
        match (flows.get_mut(flow.index()), answering) {
            (Some(Flow::Probe(probing)), _) => {
                probing.log(&event);
                if matches!(event, Event::Closed(_)) {
                    probing.end_tcp_info();
                }
                probing.probe.on(event, at, outbox);
            }
            (Some(Flow::Watch(watching)), _) => watching.watch.on(event, at, outbox),
            (Some(Flow::Sweep(sweeping)), _) => sweeping.sweep.on(event, at, outbox),
            (Some(Flow::Echo(echo)), Some(answering)) => {
                echo.on(&mut answering.responder, event, at, outbox);
            }
            _ => {}
        }
    }

    /// The flow begins nothing more; what is in flight may settle.
    pub(super) fn finish(&mut self, flow: FlowId, at: Now) {
        let Self { flows, outbox, .. } = self;
        match flows.get_mut(flow.index()) {
            Some(Flow::Probe(probing)) => probing.probe.finish(at, outbox),
            Some(Flow::Watch(watching)) => watching.watch.finish(at, outbox),
            Some(Flow::Sweep(sweeping)) => sweeping.sweep.finish(at, outbox),
            _ => {}
        }
    }

    /// The flow ends now, with every account settled.
    pub(super) fn abandon(&mut self, flow: FlowId, at: Now) {
        let Self { flows, outbox, .. } = self;
        match flows.get_mut(flow.index()) {
            Some(Flow::Probe(probing)) => probing.probe.abandon(at, outbox),
            Some(Flow::Watch(watching)) => watching.watch.abandon(outbox),
            Some(Flow::Sweep(sweeping)) => sweeping.sweep.finish(at, outbox),
            _ => {}
        }
    }

    /// Whose side of a relayed connection a flow is, if it is one.
    pub(super) fn relayed(&self, flow: FlowId) -> Option<(FlowId, Side)> {
        match self.flows.get(flow.index())? {
            Flow::Relay(_) => Some((flow, Side::Client)),
            Flow::Upstream { owner } => Some((*owner, Side::Upstream)),
            _ => None,
        }
    }

    pub(super) fn deadline(&mut self, flow: FlowId) -> Option<Mono> {
        match self.flows.get_mut(flow.index())? {
            Flow::Load(connection) => connection.deadline(&self.loading.as_ref()?.generator),
            Flow::Probe(probing) => probing.probe.deadline(),
            Flow::Watch(watching) => watching.watch.deadline(),
            Flow::Sweep(sweeping) => sweeping.sweep.deadline(),
            Flow::Echo(echo) => echo.deadline(),
            Flow::Listener(resume_at) | Flow::RelayListener { resume_at, .. } => *resume_at,
            Flow::Relay(relayed) => relayed.connection.deadline(),
            Flow::Vacant | Flow::Upstream { .. } | Flow::Attempt { .. } => None,
        }
    }

    pub(super) fn set_timer(&mut self, flow: FlowId) {
        let deadline = self.deadline(flow);
        self.timers.set(flow.0, deadline);
    }

    pub(super) fn insert(&mut self, flow: Flow) -> FlowId {
        if let Some(id) = self.free.pop() {
            self.flows[id.index()] = flow;
            return id;
        }
        self.flows.push(flow);
        FlowId(u32::try_from(self.flows.len() - 1).expect("bounded by descriptors and targets"))
    }

    pub(super) fn remove(&mut self, flow: FlowId) {
        self.flows[flow.index()] = Flow::Vacant;
        self.timers.set(flow.0, None);
        self.free.push(flow);
    }

    /// The flow of a check that begins; the place is free.
    pub(super) fn begin_attempt(&mut self, owner: FlowId, place: u32) -> FlowId {
        let attempt = self.insert(Flow::Attempt { owner, place });
        self.attempts.insert((owner, place), attempt);
        attempt
    }

    /// The flow of a check that is given up, if it still runs; it is gone now.
    pub(super) fn withdraw_attempt(&mut self, owner: FlowId, place: u32) -> Option<FlowId> {
        let attempt = self.attempts.remove(&(owner, place))?;
        self.remove(attempt);
        Some(attempt)
    }

    /// Whose check was answered, and in which place; the check's flow is gone now.
    pub(super) fn end_attempt(&mut self, attempt: FlowId) -> Option<(FlowId, u32)> {
        let Some(Flow::Attempt { owner, place }) = self.flow(attempt) else { return None };
        let (owner, place) = (*owner, *place);
        self.withdraw_attempt(owner, place).map(|_| (owner, place))
    }

    pub(super) fn publish_answering(&mut self) {
        if let Some(answering) = &mut self.answering {
            answering.publish();
        }
    }
}

impl Answering {
    pub(super) fn publish(&mut self) {
        for residence_ns in self.responder.drain_residences_ns() {
            self.series.record_residence(residence_ns);
        }
        self.series.publish(self.responder.counters());
    }
}

impl Probing {
    /// Shows what the kernel knows of the connection.
    pub(super) fn record_tcp_info(&mut self, raw: &Raw) {
        if let (Some(writer), Some(series)) = (&mut self.tcp_info, self.series.tcp_info()) {
            writer.record(series, raw);
        }
    }

    /// The connection has ended.
    pub(super) fn end_tcp_info(&mut self) {
        if let (Some(writer), Some(series)) = (&mut self.tcp_info, self.series.tcp_info()) {
            writer.end(series);
        }
    }

    /// Says why there is no socket to connect with, once for each change.
    pub(super) fn log_no_socket(&mut self, failure: Failure, to: SocketAddr, why: &ProberError) {
        let name = self.series.target().name();
        if self.logged != Some(failure) && !name.is_empty() {
            self.logged = Some(failure);
            tracing::warn!(name, %to, %why, "no socket; trying again");
        }
    }

    /// Says when a connection comes and goes, once for each change.
    pub(super) fn log(&mut self, event: &Event<'_>) {
        let target = self.series.target();
        let (name, address) = (target.name(), target.address());
        if name.is_empty() {
            return;
        }
        match event {
            Event::Connected => {
                self.logged = None;
                tracing::info!(name, address, "connected");
            }
            Event::Closed(failure) if self.logged != Some(*failure) => {
                self.logged = Some(*failure);
                tracing::warn!(name, address, ?failure, "no connection; trying again");
            }
            _ => {}
        }
    }
}

impl Watching {
    /// Says when a target's outcome changes.
    pub(super) fn log(&mut self, check: &CheckSample) {
        let target = self.series.target();
        if self.logged == Some(check.outcome) || target.name().is_empty() {
            return;
        }
        self.logged = Some(check.outcome);
        let (name, address) = (target.name(), target.address());
        let outcome = check.outcome.name();
        match check.outcome {
            CheckOutcome::Open => tracing::info!(name, address, outcome, "checked"),
            _ => tracing::warn!(name, address, outcome, "checked"),
        }
    }
}
