//! The loop of a measuring thread, one turn after the other.

use std::net::SocketAddr;
use std::ops::Range;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, TryRecvError, TrySendError};

use super::paths;
use super::sampling::Sampling;
use super::sweeping::Sweeping;
use super::table::{Flow, Probing, Table, Watching};
use super::{Change, Finished, NewProbe, NewSweep, NewWatch, Outlets, Report, TargetId};
use crate::check::Watch;
use crate::check::sweep::SweepTarget;
use crate::event::{Action, Answer, Event, Failure, FlowId};
use crate::probe::Probe;
use crate::sample::{CloseReason, Side};
use crate::stats::{TcpInfoWriter, WorkerSeries};
use crate::sys::{Io, IoEvent, clock, socket};
use crate::time::{Mono, Now};

/// The loop.
pub(super) fn run(mut turn: Turn, series: &WorkerSeries, busy_poll: bool) {
    loop {
        let deadline = match turn.take_changes() {
            Changes::Taken => turn.table.timers.soonest(),
            Changes::Waiting => Some(Mono::default()),
            Changes::Stop => break,
        };
        // What the kernel has by now is handed over in this turn.
        let seen_until = clock::mono();
        if let Err(error) = turn.io.wait(deadline) {
            tracing::error!(%error, "a measuring thread lost its I/O and ends");
            turn.tell(Report::Died);
            return;
        }
        if let Some(deadline) = deadline.filter(|&at| at > seen_until && !busy_poll)
            && let Ok(late_ns) = u64::try_from(clock::mono().since_ns(deadline))
        {
            series.record_lateness(late_ns);
        }
        turn.complete();
        turn.go_on_loading();
        turn.wake_due(seen_until);
        turn.sample_tcp_info();
        turn.sample_relays();
        turn.publish_relays();
    }
    turn.abandon();
}

/// Everything that a turn of the loop touches. Flows and I/O are apart, because an event borrows
/// its bytes from the I/O while a flow takes it.
pub(super) struct Turn {
    pub(super) io: Io,
    pub(super) table: Table,
    pub(super) outlets: Outlets,
    incoming: Receiver<Change>,
    /// The flows of each target here, in the order of their numbers.
    by_target: Vec<(TargetId, FlowId)>,
    /// Flows that are due in this turn. Kept for its memory.
    due: Vec<FlowId>,
    /// Flows whose connections the kernel is asked about, and when.
    sampled: Vec<FlowId>,
    sampling: Sampling,
    /// Of checks that the current flow gave up: the place, SYNs after the first.
    timed_out: Vec<(u32, u32)>,
}

/// What [`Turn::take_changes`] found.
#[derive(Debug, PartialEq, Eq)]
enum Changes {
    Taken,
    /// More of them wait.
    Waiting,
    Stop,
}

/// Changes taken in one turn: a thousand new targets must not keep replies waiting.
const CHANGES_PER_TURN: usize = 16;
/// Connections are flushed to the kernel after this many probes, so that the last of many that
/// are due together does not make the first wait.
const PROBES_PER_SUBMIT: usize = 16;

impl Turn {
    pub(super) fn new(io: Io, outlets: Outlets, incoming: Receiver<Change>) -> Self {
        Self {
            io,
            table: Table::default(),
            outlets,
            incoming,
            by_target: Vec::new(),
            due: Vec::new(),
            sampled: Vec::new(),
            sampling: Sampling::default(),
            timed_out: Vec::new(),
        }
    }

    /// Takes changes that wait, but not too many.
    fn take_changes(&mut self) -> Changes {
        for _ in 0..CHANGES_PER_TURN {
            match self.incoming.try_recv() {
                Ok(Change::Probe(new)) => self.add_probe(*new),
                Ok(Change::Watch(new)) => self.add_watch(*new),
                Ok(Change::Sweep(new)) => self.add_sweep(*new),
                Ok(Change::SweepTargets(sweep, targets, complete)) => {
                    self.add_sweep_targets(sweep, targets, complete);
                }
                Ok(Change::Load(new)) => self.add_load(*new),
                Ok(Change::Serve(socket, settings, series)) => self.serve(socket, settings, series),
                Ok(Change::Relay(new)) => self.add_relay(*new),
                Ok(Change::Upstream(relay, upstream, news)) => {
                    self.tell_upstream(relay, upstream, &news);
                }
                Ok(Change::DrainRelay(relay)) => self.drain_relay(relay),
                Ok(Change::EndRelay(relay, reason)) => self.end_relay(relay, reason),
                Ok(Change::Resolved(target, addresses)) => self.resolved(target, addresses),
                Ok(Change::Remove(target)) => self.remove(target),
                Ok(Change::Finish) => self.finish(),
                Ok(Change::Stop) | Err(TryRecvError::Disconnected) => return Changes::Stop,
                Err(TryRecvError::Empty) => return Changes::Taken,
            }
        }
        Changes::Waiting
    }

    fn add_probe(&mut self, new: NewProbe) {
        let NewProbe { target, settings, paths, options, series } = new;
        let at = clock::now();
        for (settings, path) in paths::split(&settings, paths) {
            let tcp_info = series.tcp_info().map(TcpInfoWriter::new);
            let sampled = tcp_info.is_some();
            let probing = Probing {
                target,
                probe: Probe::new(settings, at.mono),
                path,
                options: Arc::clone(&options),
                series: Arc::clone(&series),
                told_finished: false,
                tcp_info,
                logged: None,
            };
            let flow = self.table.insert(Flow::Probe(Box::new(probing)));
            if sampled {
                self.sampled.push(flow);
                self.sampling.add(at.mono);
            }
            self.by_target.push((target, flow));
            self.step(flow, Event::Due(at.mono), at);
        }
    }

    fn add_watch(&mut self, new: NewWatch) {
        let NewWatch { target, settings, series } = new;
        let at = clock::now();
        let watch = Watch::new(settings, at.mono);
        let watching = Watching { target, watch, series, told_finished: false, logged: None };
        let flow = self.table.insert(Flow::Watch(Box::new(watching)));
        self.by_target.push((target, flow));
        self.step(flow, Event::Due(at.mono), at);
    }

    fn add_sweep(&mut self, new: NewSweep) {
        let number = new.sweep;
        let flow = self.table.insert(Flow::Sweep(Box::new(Sweeping::new(new))));
        self.by_target.push((number, flow));
    }

    fn add_sweep_targets(&mut self, sweep: TargetId, targets: Vec<SweepTarget>, complete: bool) {
        let known = self.by_target.iter().find(|(known, _)| *known == sweep);
        let Some(&(_, flow)) = known else { return };
        if let Some(Flow::Sweep(sweeping)) = self.table.flow(flow) {
            sweeping.sweep.add(targets, complete);
            let at = clock::now();
            self.step(flow, Event::Due(Mono::default()), at);
        }
    }

    fn resolved(&mut self, target: TargetId, addresses: Option<Vec<SocketAddr>>) {
        for place in self.flows_of(target) {
            let (_, flow) = self.by_target[place];
            self.step(flow, Event::Resolved(addresses.as_deref()), clock::now());
        }
    }

    fn remove(&mut self, target: TargetId) {
        let places = self.flows_of(target);
        if places.is_empty() {
            return self.end_relay(target, CloseReason::Stopped);
        }
        for place in places.clone() {
            let (_, flow) = self.by_target[place];
            let now = clock::now();
            self.table.abandon(flow, now);
            self.apply(flow, now);
            if let Some(place) = self.sampled.iter().position(|sampled| *sampled == flow) {
                self.sampled.remove(place);
                self.sampling.remove();
            }
            self.table.remove(flow);
        }
        self.by_target.drain(places);
    }

    /// Places in `by_target`.
    fn flows_of(&self, target: TargetId) -> Range<usize> {
        let begin = self.by_target.partition_point(|(known, _)| *known < target);
        let flows = self.by_target[begin..].iter().take_while(|(known, _)| *known == target);
        begin..begin + flows.count()
    }

    fn finish(&mut self) {
        self.drain_relays();
        self.stop_loading();
        for at in 0..self.by_target.len() {
            let (flow, now) = (self.by_target[at].1, clock::now());
            self.table.finish(flow, now);
            self.apply(flow, now);
        }
    }

    /// Settles every account before the thread ends.
    fn abandon(&mut self) {
        for at in 0..self.by_target.len() {
            let (flow, now) = (self.by_target[at].1, clock::now());
            self.table.abandon(flow, now);
            self.apply(flow, now);
        }
        self.table.publish_answering();
        self.abandon_relays();
    }

    /// Hands every completion to its flow.
    fn complete(&mut self) {
        loop {
            let Some(completion) = self.io.next_completion() else { return };
            let (flow, at) = (completion.flow, completion.at);
            match completion.event {
                IoEvent::Flow(event) => match self.table.relayed(flow) {
                    None => {
                        self.table.take_event(flow, event, at);
                        self.apply(flow, at);
                    }
                    Some((owner, side)) => {
                        self.table.take_relay_event(owner, side, event, at);
                        self.apply_relayed(owner, at);
                    }
                },
                IoEvent::Answered(answer) => {
                    if let Some((owner, place)) = self.table.end_attempt(flow) {
                        self.step(owner, Event::Answered { place, answer }, at);
                    }
                }
                IoEvent::Accepted(socket) => self.accepted(flow, socket, at),
                IoEvent::AcceptFailed(error) => self.accept_failed(flow, &error, at),
            }
        }
    }

    /// Wakes every flow whose deadline has come, each once: what is due again meanwhile waits for
    /// the next turn, or it would keep replies unread.
    fn wake_due(&mut self, seen_until: Mono) {
        let mut due = std::mem::take(&mut self.due);
        let now = clock::mono();
        due.extend(std::iter::from_fn(|| self.table.timers.pop(now).map(FlowId)));
        let mut woken = 0;
        for &flow in &due {
            let at = clock::now();
            if self.table.deadline(flow).is_some_and(|deadline| deadline <= at.mono) {
                self.wake(flow, seen_until, at);
                woken += 1;
            } else {
                self.table.set_timer(flow);
            }
            if woken == PROBES_PER_SUBMIT {
                woken = 0;
                if let Err(error) = self.io.submit() {
                    // The next wait fails the same way, and ends the loop.
                    tracing::debug!(%error, "submitting failed");
                }
            }
        }
        due.clear();
        self.due = due;
    }

    fn wake(&mut self, flow: FlowId, seen_until: Mono, at: Now) {
        match self.table.flow(flow) {
            Some(Flow::RelayListener { resume_at, relay }) => {
                *resume_at = None;
                let relay = *relay;
                return self.wake_listener(flow, relay);
            }
            Some(Flow::Listener(resume_at)) => {
                *resume_at = None;
                self.io.resume_accepting(flow);
            }
            Some(Flow::Relay(_)) => {
                self.table.take_relay_event(flow, Side::Client, Event::Due(seen_until), at);
                return self.apply_relayed(flow, at);
            }
            _ => {}
        }
        self.step(flow, Event::Due(seen_until), at);
    }

    /// One step of one flow, and what it asks for.
    pub(super) fn step(&mut self, flow: FlowId, event: Event<'_>, at: Now) {
        self.table.take_event(flow, event, at);
        self.apply(flow, at);
    }

    /// Does what a flow asked for in its last step, records what it measured, and sets its timer.
    pub(super) fn apply(&mut self, flow: FlowId, at: Now) {
        // A connection that cannot even be tried is an event of its own, and so is a check that was
        // given up; both again have actions.
        loop {
            let failed = self.act(flow);
            if failed.is_none() && self.timed_out.is_empty() {
                break;
            }
            self.record(flow);
            if let Some(failure) = failed {
                self.table.take_event(flow, Event::Closed(failure), at);
            }
            for (place, sent_again) in self.timed_out.drain(..) {
                let answer = Answer::timed_out(sent_again);
                self.table.take_event(flow, Event::Answered { place, answer }, at);
            }
        }
        self.record(flow);
        match self.table.flow(flow) {
            Some(Flow::Echo(echo)) if echo.is_closed() => return self.table.remove(flow),
            Some(Flow::Sweep(sweeping)) => sweeping.hand_over(&self.outlets.reports, at.mono),
            _ => {}
        }
        self.table.set_timer(flow);
    }

    /// Executes the actions in the outbox; a failure to open a socket is returned.
    fn act(&mut self, flow: FlowId) -> Option<Failure> {
        let mut failed = None;
        for at in 0..self.table.outbox.actions.len() {
            match self.table.outbox.actions[at].clone() {
                Action::Connect(to) => failed = self.connect(flow, to),
                Action::Send(range) => self.io.send(flow, &self.table.outbox.bytes[range]),
                Action::Stamp => self.io.stamp(flow),
                Action::Close => self.close(flow),
                Action::Check { place, to, ending } => {
                    let attempt = self.table.begin_attempt(flow, place);
                    self.io.check(attempt, to, ending);
                }
                Action::Withdraw(place) => {
                    if let Some(attempt) = self.table.withdraw_attempt(flow, place) {
                        self.io.close(attempt);
                    }
                }
                Action::TimeOut(place) => {
                    let attempt = self.table.withdraw_attempt(flow, place);
                    let sent_again = attempt.map_or(0, |attempt| self.io.give_up(attempt));
                    self.timed_out.push((place, sent_again));
                }
                Action::Resolve => {
                    let target = match self.table.flow(flow) {
                        Some(Flow::Probe(probing)) => probing.target,
                        Some(Flow::Watch(watching)) => watching.target,
                        _ => continue,
                    };
                    self.tell(Report::Resolve(target));
                }
            }
        }
        self.table.outbox.actions.clear();
        self.table.outbox.bytes.clear();
        failed
    }

    /// Closes a flow's connection; what the kernel counted of it up to now is kept.
    fn close(&mut self, flow: FlowId) {
        if let Some(Flow::Probe(probing)) = self.table.flow(flow)
            && probing.tcp_info.is_some()
        {
            if let Some(raw) = self.io.tcp_info(flow) {
                probing.record_tcp_info(&raw);
            }
            probing.end_tcp_info();
        }
        self.io.close(flow);
    }

    /// Asks the kernel about some connections, once all that was due is on its way.
    fn sample_tcp_info(&mut self) {
        if self.sampled.is_empty() {
            return;
        }
        let due = self.sampling.due(clock::mono(), self.outlets.stats.scrapes());
        if due > 0
            && let Err(error) = self.io.submit()
        {
            tracing::debug!(%error, "submitting failed");
        }
        for _ in 0..due {
            let flow = self.sampled[self.sampling.next()];
            if let Some(Flow::Probe(probing)) = self.table.flow(flow)
                && probing.probe.counters().connected == 1
                && let Some(raw) = self.io.tcp_info(flow)
            {
                probing.record_tcp_info(&raw);
            }
        }
    }

    fn connect(&mut self, flow: FlowId, to: SocketAddr) -> Option<Failure> {
        if let Some(Flow::Load(_)) = self.table.flow(flow) {
            return self.connect_loading(flow, to);
        }
        let Some(Flow::Probe(probing)) = self.table.flow(flow) else { return None };
        match socket::prober(to, &probing.options) {
            Ok(socket) => {
                self.io.connect(flow, socket, to);
                None
            }
            Err(error) => {
                let failure = Failure::Local(error.errno());
                probing.log_no_socket(failure, to, &error);
                Some(failure)
            }
        }
    }

    /// Moves a flow's measurements to its series.
    fn record(&mut self, flow: FlowId) {
        let Table { flows, outbox, answering, .. } = &mut self.table;
        match flows.get_mut(flow.index()) {
            Some(Flow::Probe(probing)) => {
                for sample in &outbox.samples {
                    let sample = probing.path.numbered(sample);
                    probing.series.record(&sample);
                    self.outlets.report(probing.target, Finished::Probe(sample));
                }
                probing.series.publish(&probing.path.joined(probing.probe.counters()));
                if probing.probe.is_finished() && !probing.told_finished {
                    let report = Report::Finished(probing.target);
                    probing.told_finished = self.outlets.reports.try_send(report).is_ok();
                }
            }
            Some(Flow::Watch(watching)) => {
                for check in &outbox.checks {
                    watching.series.record(check);
                    watching.log(check);
                    self.outlets.report(watching.target, Finished::Check(*check));
                }
                watching.series.publish(watching.watch.counters());
                if watching.watch.is_finished() && !watching.told_finished {
                    let report = Report::Finished(watching.target);
                    watching.told_finished = self.outlets.reports.try_send(report).is_ok();
                }
            }
            Some(Flow::Echo(_)) => {
                if let Some(answering) = answering {
                    answering.publish();
                }
            }
            Some(Flow::Load(_)) => self.record_load(),
            _ => {}
        }
        self.table.outbox.samples.clear();
        self.table.outbox.checks.clear();
    }

    /// Tells the control plane. The channel has room for two reports of every target, so it is
    /// full only if the control plane is gone.
    pub(super) fn tell(&self, report: Report) {
        if let Err(error) = self.outlets.reports.try_send(report) {
            tracing::debug!(%error, "a report found no reader");
        }
    }
}

impl Outlets {
    pub(super) fn report(&self, target: TargetId, finished: Finished) {
        let Some(samples) = &self.samples else { return };
        if let Err(TrySendError::Full(_)) = samples.try_send((target, finished)) {
            self.stats.count_report_samples_dropped(1);
        }
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::sync::mpsc::sync_channel;

    use super::*;
    use crate::stats::Stats;
    use crate::sys::{IoChoice, IoOptions};

    #[test]
    fn changes_are_taken_a_few_in_a_turn_and_all_of_them_in_order() {
        let (changes, incoming) = sync_channel(100);
        let (reports, _reader) = tokio::sync::mpsc::channel(1);
        let outlets = Outlets { reports, samples: None, stats: Arc::new(Stats::default()) };
        let options = IoOptions { backend: IoChoice::Poll, ..IoOptions::default() };
        let mut turn = Turn::new(Io::open(&options).unwrap().0, outlets, incoming);
        assert_eq!(turn.take_changes(), Changes::Taken);
        for number in 0..40 {
            changes.send(Change::Remove(TargetId(number))).unwrap();
        }
        changes.send(Change::Stop).unwrap();
        let turns: Vec<Changes> =
            std::iter::from_fn(|| Some(turn.take_changes())).take(3).collect();
        assert_eq!(turns, [Changes::Waiting, Changes::Waiting, Changes::Stop]);
    }
}
