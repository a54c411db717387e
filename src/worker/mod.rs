//! One measuring thread: owns its I/O and its flows, and is the only loop of the data plane. It
//! takes no lock, and allocates nothing for a probe. Changes come in and reports go out by bounded
//! channels; measurements go to the series of [`crate::stats`].
//!
//! One turn: take changes, wait, hand completions to flows, then wake flows that are due.
//! Completions come first, so that a reply that waits to be read is not taken for a lost one.

mod timers;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use socket2::Socket;

use self::timers::Timers;
use crate::echo::{Echo, Responder, ResponderSettings};
use crate::event::{Action, Event, Failure, FlowId, Outbox};
use crate::probe::{Probe, ProbeSettings};
use crate::sample::Sample;
use crate::stats::{EchoSeries, ProbeSeries, Stats, WorkerSeries};
use crate::sys::socket::{self, SocketOptions};
use crate::sys::{self, Io, IoEvent, IoOptions, Priority, Waker, clock};
use crate::time::{Mono, Now};

/// How a worker runs.
#[derive(Clone, Debug)]
pub struct WorkerOptions {
    /// The thread's name.
    pub name: String,
    /// Its I/O.
    pub io: IoOptions,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
    /// Its scheduling priority.
    pub priority: Option<Priority>,
    /// Changes that may wait.
    pub changes_max: usize,
}

/// Finished probes on their way to a writer.
pub type Samples = SyncSender<(TargetId, Sample)>;

/// Where a worker's reports go.
#[derive(Clone, Debug)]
pub struct Outlets {
    /// Requests and news for the control plane.
    pub reports: tokio::sync::mpsc::Sender<Report>,
    /// Finished probes for the JSON writer, if there is one.
    pub samples: Option<Samples>,
    /// Counts what the JSON writer was too slow for.
    pub stats: Arc<Stats>,
}

/// The control plane's number of a target.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TargetId(pub u32);

/// What the control plane wants of a worker.
#[derive(Debug)]
pub enum Change {
    /// Probe one more target.
    Probe(Box<NewProbe>),
    /// Answer on this listening socket. One for each worker.
    Serve(Socket, ResponderSettings, Arc<EchoSeries>),
    /// A target's name was resolved (`None`: it could not be).
    Resolved(TargetId, Option<Vec<SocketAddr>>),
    /// Send no more probes; settle what is in flight.
    Finish,
    /// Stop now.
    Stop,
}

/// A target to be probed.
#[derive(Debug)]
pub struct NewProbe {
    /// Its number.
    pub target: TargetId,
    /// How.
    pub settings: ProbeSettings,
    /// Options of its sockets.
    pub options: Arc<SocketOptions>,
    /// Where its measurements go.
    pub series: Arc<ProbeSeries>,
}

/// What a worker tells the control plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Report {
    /// A target's name is to be resolved again.
    Resolve(TargetId),
    /// A target sent its last probe, and all of them are settled.
    Finished(TargetId),
    /// A worker died; its error was logged.
    Died,
}

/// Hands changes to a worker, from anywhere.
#[derive(Clone, Debug)]
pub struct Remote {
    changes: SyncSender<Change>,
    waker: Waker,
}

impl Remote {
    /// Hands a change over; waits while the worker has `changes_max` of them unread.
    pub fn change(&self, change: Change) {
        // A worker that died has said so itself.
        if self.changes.send(change).is_ok() {
            self.waker.wake();
        }
    }
}

/// A running worker.
#[derive(Debug)]
pub struct Worker {
    remote: Remote,
    thread: JoinHandle<()>,
    /// The backend it runs on.
    pub io_name: &'static str,
}

impl Worker {
    /// Starts a thread. Its I/O is opened there, because a ring belongs to one thread.
    ///
    /// # Errors
    /// If the thread, its I/O, its CPU or its priority cannot be had; the message names the flag.
    pub fn start(
        options: WorkerOptions,
        outlets: Outlets,
        series: Arc<WorkerSeries>,
    ) -> io::Result<Self> {
        let (changes, incoming) = sync_channel(options.changes_max);
        let (opened, opening) = sync_channel(1);
        let thread = std::thread::Builder::new().name(options.name.clone()).spawn(move || {
            let io = match prepare_thread(&options) {
                Ok(io) => io,
                Err(error) => return drop(opened.send(Err(error))),
            };
            if opened.send(Ok((io.waker(), io.name()))).is_ok() {
                run(Turn::new(io, outlets, incoming), &series, options.io.busy_poll);
            }
        })?;
        let gone = || io::Error::other("the measuring thread ended while it started");
        let (waker, io_name) = opening.recv().map_err(|_| gone())??;
        Ok(Self { remote: Remote { changes, waker }, thread, io_name })
    }

    /// See [`Remote::change`].
    pub fn change(&self, change: Change) {
        self.remote.change(change);
    }

    /// Something that hands changes over after this value was moved.
    #[must_use]
    pub fn remote(&self) -> Remote {
        self.remote.clone()
    }

    /// Stops the worker and waits for it.
    pub fn stop(self) {
        self.change(Change::Stop);
        if self.thread.join().is_err() {
            tracing::error!("a measuring thread panicked");
        }
    }
}

/// Makes the calling thread a measuring thread.
fn prepare_thread(options: &WorkerOptions) -> io::Result<Io> {
    let named = |flag: String, remedy: &str| {
        let remedy = remedy.to_owned();
        move |error: io::Error| io::Error::new(error.kind(), format!("{flag}: {error}; {remedy}"))
    };
    if let Some(cpu) = options.cpu {
        let remedy = "name a CPU that this process may use (nproc, taskset -p $$)";
        sys::pin(cpu).map_err(named(format!("--pin {cpu}"), remedy))?;
    }
    if let Some(priority) = options.priority {
        let remedy = "grant CAP_SYS_NICE (setcap cap_sys_nice+ep) or leave the flag out";
        sys::set_priority(priority).map_err(named(format!("--priority {priority}"), remedy))?;
    }
    sys::precise_sleep();
    let (io, refused) = Io::open(&options.io)?;
    if let Some(error) = refused {
        tracing::debug!(%error, "io_uring is not available; using readiness");
    }
    Ok(io)
}

/// The loop.
fn run(mut turn: Turn, series: &WorkerSeries, busy_poll: bool) {
    while turn.take_changes() {
        let deadline = turn.table.timers.next();
        let slept_from = clock::mono();
        if let Err(error) = turn.io.wait(deadline) {
            tracing::error!(%error, "a measuring thread lost its I/O and ends");
            turn.tell(Report::Died);
            return;
        }
        if let Some(deadline) = deadline.filter(|&at| at > slept_from && !busy_poll)
            && let Ok(late_ns) = u64::try_from(clock::mono().since_ns(deadline))
        {
            series.record_lateness(late_ns);
        }
        turn.complete();
        turn.wake_due();
    }
    turn.abandon();
}

/// Everything that a turn of the loop touches. Flows and I/O are apart, because an event borrows
/// its bytes from the I/O while a flow takes it.
struct Turn {
    io: Io,
    table: Table,
    outlets: Outlets,
    incoming: Receiver<Change>,
    /// The flow of each target here.
    by_target: Vec<(TargetId, FlowId)>,
}

/// The flows of one worker.
#[derive(Default)]
struct Table {
    flows: Vec<Flow>,
    free: Vec<FlowId>,
    timers: Timers,
    outbox: Outbox,
    answering: Option<Answering>,
}

/// One thing with events.
enum Flow {
    Vacant,
    /// Accepts again at this moment, if accepting failed.
    Listener(Option<Mono>),
    Echo(Echo),
    Probe(Box<Probing>),
}

/// A worker's responder: what its connections share.
struct Answering {
    responder: Responder,
    series: Arc<EchoSeries>,
}

/// A probed target.
struct Probing {
    target: TargetId,
    probe: Probe,
    options: Arc<SocketOptions>,
    series: Arc<ProbeSeries>,
    told_finished: bool,
    /// The failure that was logged last; the same again is not news.
    logged: Option<Failure>,
}

/// Connections are flushed to the kernel after this many probes, so that the last of many that
/// are due together does not make the first wait.
const PROBES_PER_SUBMIT: usize = 16;
/// How long a listener pauses after a failed accept: descriptors rarely come back at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Turn {
    fn new(io: Io, outlets: Outlets, incoming: Receiver<Change>) -> Self {
        Self { io, table: Table::default(), outlets, incoming, by_target: Vec::new() }
    }

    /// Takes every change that waits; false once the worker is to stop.
    fn take_changes(&mut self) -> bool {
        loop {
            match self.incoming.try_recv() {
                Ok(Change::Probe(new)) => self.add_probe(*new),
                Ok(Change::Serve(socket, settings, series)) => self.serve(socket, settings, series),
                Ok(Change::Resolved(target, addresses)) => self.resolved(target, addresses),
                Ok(Change::Finish) => self.finish(),
                Ok(Change::Stop) | Err(TryRecvError::Disconnected) => return false,
                Err(TryRecvError::Empty) => return true,
            }
        }
    }

    fn add_probe(&mut self, new: NewProbe) {
        let NewProbe { target, settings, options, series } = new;
        let at = clock::now();
        let probe = Probe::new(settings, at.mono);
        let probing =
            Probing { target, probe, options, series, told_finished: false, logged: None };
        let flow = self.table.insert(Flow::Probe(Box::new(probing)));
        self.by_target.push((target, flow));
        self.step(flow, Event::Due, at);
    }

    fn serve(&mut self, socket: Socket, settings: ResponderSettings, series: Arc<EchoSeries>) {
        self.table.answering = Some(Answering { responder: Responder::new(settings), series });
        let flow = self.table.insert(Flow::Listener(None));
        if let Err(error) = self.io.listen(flow, socket) {
            tracing::error!(%error, "the responder cannot accept");
            self.tell(Report::Died);
        }
    }

    fn resolved(&mut self, target: TargetId, addresses: Option<Vec<SocketAddr>>) {
        let known = self.by_target.iter().find(|(known, _)| *known == target);
        if let Some(&(_, flow)) = known {
            self.step(flow, Event::Resolved(addresses.as_deref()), clock::now());
        }
    }

    fn finish(&mut self) {
        for at in 0..self.by_target.len() {
            let (_, flow) = self.by_target[at];
            let now = clock::now();
            let Table { flows, outbox, .. } = &mut self.table;
            if let Some(Flow::Probe(probing)) = flows.get_mut(slot(flow)) {
                probing.probe.finish(now, outbox);
            }
            self.apply(flow, now);
        }
    }

    /// Settles every account before the thread ends.
    fn abandon(&mut self) {
        for at in 0..self.by_target.len() {
            let (_, flow) = self.by_target[at];
            let now = clock::now();
            let Table { flows, outbox, .. } = &mut self.table;
            if let Some(Flow::Probe(probing)) = flows.get_mut(slot(flow)) {
                probing.probe.abandon(now, outbox);
            }
            self.apply(flow, now);
        }
        self.table.publish_answering();
    }

    /// Hands every completion to its flow.
    fn complete(&mut self) {
        loop {
            let Some(completion) = self.io.next_completion() else { return };
            let (flow, at) = (completion.flow, completion.at);
            match completion.event {
                IoEvent::Flow(event) => {
                    self.table.take_event(flow, event, at);
                    self.apply(flow, at);
                }
                IoEvent::Accepted(socket, _) => self.accepted(socket, at),
                IoEvent::AcceptFailed(error) => self.accept_failed(flow, &error, at),
            }
        }
    }

    fn accepted(&mut self, socket: Socket, at: Now) {
        let Some(answering) = &mut self.table.answering else { return };
        if answering.responder.admit() {
            let echo = Flow::Echo(Echo::new(&answering.responder, at));
            let flow = self.table.insert(echo);
            self.io.attach(flow, socket);
            self.apply(flow, at);
        } else {
            // Dropping the socket closes it: the client learns at once that it is one too many.
            self.table.publish_answering();
        }
    }

    fn accept_failed(&mut self, flow: FlowId, error: &io::Error, at: Now) {
        tracing::warn!(%error, "could not accept; pausing (raise the limit of open files?)");
        if let Some(answering) = &mut self.table.answering {
            answering.responder.accept_failed();
        }
        self.table.publish_answering();
        if let Some(Flow::Listener(resume_at)) = self.table.flow(flow) {
            *resume_at = Some(at.mono.after(ACCEPT_PAUSE));
        }
        self.apply(flow, at);
    }

    /// Wakes every flow whose deadline has come. What becomes due meanwhile waits for the next
    /// turn: flows that are due again so soon would keep replies from being read.
    fn wake_due(&mut self) {
        let mut woken = 0;
        let until = clock::mono();
        while let Some(flow) = self.table.timers.pop(until) {
            let at = clock::now();
            if self.table.deadline(flow).is_some_and(|deadline| deadline <= at.mono) {
                self.wake(flow, at);
                woken += 1;
            } else {
                self.table.set_timer(flow);
            }
            if woken == PROBES_PER_SUBMIT {
                woken = 0;
                if let Err(error) = self.io.submit() {
                    // The next wait fails the same way, and ends the loop.
                    tracing::debug!(%error, "submitting failed");
                    return;
                }
            }
        }
    }

    fn wake(&mut self, flow: FlowId, at: Now) {
        if let Some(Flow::Listener(resume_at)) = self.table.flow(flow) {
            *resume_at = None;
            self.io.resume_accepting(flow);
        }
        self.step(flow, Event::Due, at);
    }

    /// One step of one flow, and what it asks for.
    fn step(&mut self, flow: FlowId, event: Event<'_>, at: Now) {
        self.table.take_event(flow, event, at);
        self.apply(flow, at);
    }

    /// Does what a flow asked for in its last step, records what it measured, and sets its timer.
    fn apply(&mut self, flow: FlowId, at: Now) {
        // A connection that cannot even be tried is an event of its own, and again has actions.
        while let Some(failure) = self.act(flow) {
            self.record(flow);
            self.table.take_event(flow, Event::Closed(failure), at);
        }
        self.record(flow);
        match self.table.flow(flow) {
            Some(Flow::Echo(echo)) if echo.is_closed() => self.table.remove(flow),
            _ => self.table.set_timer(flow),
        }
    }

    /// Executes the actions in the outbox; a failure to open a socket is returned.
    fn act(&mut self, flow: FlowId) -> Option<Failure> {
        let mut failed = None;
        for at in 0..self.table.outbox.actions.len() {
            match self.table.outbox.actions[at].clone() {
                Action::Connect(to) => failed = self.connect(flow, to),
                Action::Send(range) => self.io.send(flow, &self.table.outbox.bytes[range]),
                Action::Stamp => self.io.stamp(flow),
                Action::Close => self.io.close(flow),
                Action::Resolve => {
                    if let Some(Flow::Probe(probing)) = self.table.flow(flow) {
                        let target = probing.target;
                        self.tell(Report::Resolve(target));
                    }
                }
            }
        }
        self.table.outbox.actions.clear();
        self.table.outbox.bytes.clear();
        failed
    }

    fn connect(&mut self, flow: FlowId, to: SocketAddr) -> Option<Failure> {
        let Some(Flow::Probe(probing)) = self.table.flow(flow) else { return None };
        match socket::prober(to, &probing.options) {
            Ok(socket) => {
                self.io.connect(flow, socket, to);
                None
            }
            Err(error) => {
                let target = probing.series.target();
                tracing::debug!(target_name = target, %to, %error, "could not open a socket");
                Some(Failure::Local(error.raw_os_error().unwrap_or(0)))
            }
        }
    }

    /// Moves a flow's measurements to its series.
    fn record(&mut self, flow: FlowId) {
        let Table { flows, outbox, answering, .. } = &mut self.table;
        match flows.get_mut(slot(flow)) {
            Some(Flow::Probe(probing)) => {
                for sample in &outbox.samples {
                    probing.series.record(sample);
                    self.outlets.report(probing.target, sample);
                }
                probing.series.publish(probing.probe.counters());
                if probing.probe.is_finished() && !probing.told_finished {
                    probing.told_finished = true;
                    let target = probing.target;
                    self.tell(Report::Finished(target));
                }
            }
            Some(Flow::Echo(_)) => {
                if let Some(answering) = answering {
                    answering.publish();
                }
            }
            _ => {}
        }
        self.table.outbox.samples.clear();
    }

    /// Tells the control plane. The channel has room for two reports of every target, so it is
    /// full only if the control plane is gone.
    fn tell(&self, report: Report) {
        if let Err(error) = self.outlets.reports.try_send(report) {
            tracing::debug!(%error, "a report found no reader");
        }
    }
}

impl Outlets {
    fn report(&self, target: TargetId, sample: &Sample) {
        let Some(samples) = &self.samples else { return };
        if let Err(TrySendError::Full(_)) = samples.try_send((target, *sample)) {
            self.stats.count_report_samples_dropped(1);
        }
    }
}

impl Table {
    fn flow(&mut self, flow: FlowId) -> Option<&mut Flow> {
        self.flows.get_mut(slot(flow))
    }

    /// Gives an event to a flow; what it asks for is in the outbox then.
    fn take_event(&mut self, flow: FlowId, event: Event<'_>, at: Now) {
        let Self { flows, outbox, answering, .. } = self;
        match (flows.get_mut(slot(flow)), answering) {
            (Some(Flow::Probe(probing)), _) => {
                probing.log(&event);
                probing.probe.on(event, at, outbox);
            }
            (Some(Flow::Echo(echo)), Some(answering)) => {
                echo.on(&mut answering.responder, event, at, outbox);
            }
            _ => {}
        }
    }

    fn deadline(&mut self, flow: FlowId) -> Option<Mono> {
        match self.flow(flow)? {
            Flow::Probe(probing) => probing.probe.deadline(),
            Flow::Echo(echo) => echo.deadline(),
            Flow::Listener(resume_at) => *resume_at,
            Flow::Vacant => None,
        }
    }

    fn set_timer(&mut self, flow: FlowId) {
        let deadline = self.deadline(flow);
        self.timers.set(flow, deadline);
    }

    fn insert(&mut self, flow: Flow) -> FlowId {
        if let Some(id) = self.free.pop() {
            self.flows[slot(id)] = flow;
            return id;
        }
        self.flows.push(flow);
        FlowId(u32::try_from(self.flows.len() - 1).expect("bounded by descriptors and targets"))
    }

    fn remove(&mut self, flow: FlowId) {
        self.flows[slot(flow)] = Flow::Vacant;
        self.timers.set(flow, None);
        self.free.push(flow);
    }

    fn publish_answering(&mut self) {
        if let Some(answering) = &mut self.answering {
            answering.publish();
        }
    }
}

impl Answering {
    fn publish(&mut self) {
        for residence_ns in self.responder.drain_residences_ns() {
            self.series.record_residence(residence_ns);
        }
        self.series.publish(self.responder.counters());
    }
}

impl Probing {
    /// Says when a connection comes and goes, once for each change.
    fn log(&mut self, event: &Event<'_>) {
        let (target, address) = (self.series.target(), self.series.address());
        match event {
            Event::Connected => {
                self.logged = None;
                tracing::info!(name = target, address, "connected");
            }
            Event::Closed(failure) if self.logged != Some(*failure) => {
                self.logged = Some(*failure);
                tracing::warn!(name = target, address, ?failure, "no connection; trying again");
            }
            _ => {}
        }
    }
}

fn slot(flow: FlowId) -> usize {
    usize::try_from(flow.0).expect("32 bits fit")
}
