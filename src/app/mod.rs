//! Starts the sections that a [`Config`] has, keeps the control plane running, and stops
//! everything in order: the prober first, so that its last replies are still answered and counted.

mod agent;
mod checking;
mod confine;
mod discovered;
mod doctor;
mod info;
mod load;
mod load_output;
mod on_demand;
mod output;
mod preflight;
mod probing;
mod reload;
mod service;
mod signals;
mod sweep;
mod sweep_output;
mod web;
mod workshop;

use std::collections::BTreeMap;
use std::fs::File;
use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::sync::{Semaphore, mpsc, oneshot};

use self::agent::{Agent, next_news};
use self::on_demand::{OnDemand, next_step};
use self::output::{Output, Screen};
use self::probing::{Crew, Probed};
pub use self::service::service;
use self::web::Web;
use self::workshop::Workshop;
use crate::config::{Config, HostPort, ServeSection, limits};
use crate::echo::ResponderSettings;
use crate::host::Capability;
use crate::relayer::Relay;
use crate::stats::{EchoSeries, Stats};
use crate::sys::sandbox::Sandbox;
use crate::sys::{self, Buffers, Checks, ClockChoice, Detected, Priority, socket};
use crate::time::duration_ns;
use crate::worker::{Change, Outlets, Report, TargetId, Worker};

/// How a run ended, as far as the exit code cares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Something was received, or there was nobody to probe; all checks of a run were open; this
    /// machine has kernel time.
    Good,
    /// Nothing was received from any target; not all checks of a run were open; there is no kernel
    /// time here.
    Unanswered,
}

/// Runs until the work is done or a signal stops it.
///
/// # Errors
/// If *we* cannot work: no I/O, a taken address, a missing privilege. A target that does not
/// answer is no error.
pub fn run(config: &Config) -> Result<Verdict> {
    sys::raise_descriptor_limit();
    if let Some(section) = &config.doctor {
        return doctor::run(section, config);
    }
    let plot = config.load.as_ref().map(load::open_plot).transpose()?.flatten();
    let sandbox = confine::begin(config)?;
    let opened = Opened { plot, checks: checking::open(config)?, sandbox };
    let stats = Arc::new(Stats::default());
    let (screen, log) = Screen::open(config, &stats)?;
    let verdict = run_logged(config, opened, screen, stats);
    log.flush(LOG_PATIENCE);
    verdict
}

/// What is set up first of all.
struct Opened {
    /// Where a load's picture goes.
    plot: Option<File>,
    checks: Vec<Checks>,
    /// Half of it holds already.
    sandbox: Sandbox,
}

fn run_logged(
    config: &Config,
    mut opened: Opened,
    screen: Screen,
    stats: Arc<Stats>,
) -> Result<Verdict> {
    let signal = signals::catch()?;
    // A run of checks has clocks of its own, and its own word on them; a look needs none, and a
    // load only ours.
    let clock = match (&config.check, &config.info, &config.load) {
        (None, None, None) => config.measuring.clock,
        _ => ClockChoice::Application,
    };
    let detected = sys::detect(config.measuring.io, clock)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(lookups_max(config) + READERS_MAX)
        .on_thread_start(step_back)
        .build()
        .context("the control plane's runtime")?;
    let verdict = runtime.block_on(async {
        if let Some(load) = &config.load {
            return load::run(config, load, &mut opened, &detected, screen, &stats, signal).await;
        }
        match (&config.check, &config.info) {
            (Some(check), _) => {
                sweep::run(config, check, &mut opened, &detected, screen, &stats, signal).await
            }
            (None, Some(info)) => {
                confine::complete(&mut opened.sandbox, &stats)?;
                info::run(info, screen, &stats, signal).await
            }
            (None, None) => {
                App::start(config, &mut opened, &detected, screen, stats)?.work(signal).await
            }
        }
    });
    // A lookup that hangs must not hold up the end.
    runtime.shutdown_background();
    verdict
}

/// Names that are looked up at the same time.
fn lookups_max(config: &Config) -> usize {
    match (&config.check, &config.agent) {
        (Some(_), _) => limits::CHECK_LOOKUPS_MAX,
        (None, Some(_)) => limits::LOOKUPS_MAX + limits::PROBE_LOOKUPS_MAX,
        (None, None) => limits::LOOKUPS_MAX,
    }
}

/// Everything that runs.
struct App {
    stats: Arc<Stats>,
    relay: Option<Relay>,
    responders: Vec<Worker>,
    probers: Vec<Worker>,
    /// Who probes what, by [`Crew::does`].
    crews: Vec<Crew>,
    targets: BTreeMap<TargetId, Probed>,
    /// Those that are not finished.
    unfinished: usize,
    /// The number of the next target.
    next_target: u32,
    /// The kernel gives stamps, and they are wanted.
    stamps: bool,
    agent: Option<Agent>,
    on_demand: Option<OnDemand>,
    reports: mpsc::Receiver<Report>,
    lookups: Arc<Semaphore>,
    output: Option<Output>,
    web: Option<Web>,
    /// What `/-/ready` says.
    ready: Arc<AtomicBool>,
}

/// Why the program ends.
#[derive(Debug)]
enum End {
    Signal(&'static str),
    /// Every target is finished.
    Done,
    /// Nobody reads standard output any more.
    OutputClosed,
    WorkerDied,
}

fn tell_missing(detected: &Detected, config: &Config) {
    for Capability { name, reason, .. } in detected.missing(config.measuring.io) {
        tracing::info!(capability = name, reason, "not available; measuring without");
    }
}

impl App {
    fn start(
        config: &Config,
        Opened { checks, sandbox, .. }: &mut Opened,
        detected: &Detected,
        screen: Screen,
        stats: Arc<Stats>,
    ) -> Result<Self> {
        stats.set_capabilities(detected.capabilities.clone());
        let checks = std::mem::take(checks);
        checking::tell(&checks, &stats);
        stats.add_capabilities(&sandbox.capabilities());
        let targets_max = match (&config.probe, &config.agent) {
            // It costs nothing before it is used.
            (_, Some(_)) => limits::TARGETS_MAX,
            (Some(probe), None) => probe.targets.len().max(1),
            (None, None) => 1,
        };
        let (mut rereads, mut on_demand, mut requests) = (None, None, (None, None));
        if let Some(agent) = &config.agent {
            (rereads, requests.0) = both(reload::follow(&agent.file)?);
            (on_demand, requests.1) = both(OnDemand::new());
        } else {
            reload::ignore()?;
        }
        // Two reports of every target fit, and a death of every worker.
        let reports_max = 2 * (targets_max + limits::PROBES_ON_DEMAND_MAX + limits::THREADS_MAX);
        let (reports, incoming) = mpsc::channel(reports_max);
        let ready = Arc::new(AtomicBool::new(false));
        let (web, metrics_url) = match &config.web {
            Some(web) => {
                let (web, url) = Web::start(web, &stats, &ready, requests)?;
                (Some(web), Some(url))
            }
            None => (None, None),
        };
        tell_missing(detected, config);
        let (output, samples) = match &config.probe {
            Some(_) => Output::start(screen, Arc::clone(&stats), metrics_url)?,
            None => (None, None),
        };
        let outlets = Outlets { reports, samples, stats: Arc::clone(&stats) };
        let mut workshop = Workshop {
            measuring: &config.measuring,
            stamps: detected.stamps,
            outlets,
            stats: &stats,
            pinned: 0,
            buffers: Buffers::default(),
        };
        let mut app = Self {
            stats: Arc::clone(&stats),
            relay: None,
            responders: Vec::new(),
            probers: Vec::new(),
            crews: Vec::new(),
            targets: BTreeMap::new(),
            unfinished: 0,
            next_target: 0,
            stamps: detected.stamps,
            agent: None,
            on_demand,
            reports: incoming,
            lookups: Arc::new(Semaphore::new(limits::LOOKUPS_MAX)),
            output,
            web,
            ready,
        };
        app.relay = relay(config, &app.stats)?;
        let serve = config.serve.as_ref();
        let answering_at = serve.map(|serve| app.serve(serve, &mut workshop)).transpose()?;
        if let Some(probe) = &config.probe {
            app.probe(probe, answering_at, checks, &mut workshop)?;
        } else if let (Some(agent), Some(rereads)) = (&config.agent, rereads) {
            app.start_agent(agent, config, rereads, checks, &mut workshop)?;
        }
        confine::complete(sandbox, &app.stats)?;
        app.ready.store(true, Ordering::Release);
        sys::supervisor::ready();
        Ok(app)
    }

    /// Starts the responder; returns the address that it has.
    fn serve(&mut self, serve: &ServeSection, workshop: &mut Workshop<'_>) -> Result<SocketAddr> {
        let threads = workshop.measuring.threads;
        let settings = ResponderSettings {
            idle_timeout_ns: duration_ns(serve.idle_timeout),
            connections_max: serve.connections_max,
            stamps_wanted: workshop.stamps,
        };
        let mut at = serve.listen;
        for number in 0..threads {
            let listener = socket::listener(at, threads > 1)
                .with_context(|| format!("--listen {at}: cannot listen there"))?;
            at = listener.local_addr()?.as_socket().context("a TCP address")?;
            let series = self.stats.add_echo(EchoSeries::new(at.to_string()));
            let worker = workshop.make(format!("echo-{number}"), None)?;
            worker.change(Change::Serve(listener, settings, series));
            self.responders.push(worker);
        }
        let io = self.responders.first().map_or("", |worker| worker.io_name);
        tracing::info!(address = %at, io, threads, "responder listening");
        Ok(at)
    }

    /// The control plane: answers reports until something ends the program, then stops.
    async fn work(mut self, mut signal: oneshot::Receiver<&'static str>) -> Result<Verdict> {
        let mut output_closed = std::pin::pin!(closed(self.output.as_mut()));
        let mut alive = sys::supervisor::alive_interval().map(tokio::time::interval);
        let end = loop {
            tokio::select! {
                () = next(alive.as_mut()) => sys::supervisor::alive(),
                Ok(name) = &mut signal => break End::Signal(name),
                () = &mut output_closed => break End::OutputClosed,
                news = next_news(&mut self.agent) => self.hear(news),
                () = ended(self.relay.as_mut()) => break End::WorkerDied,
                step = next_step(&mut self.on_demand) => self.step_on_demand(step),
                report = self.reports.recv(), if self.measures() => match report {
                    Some(Report::Resolve(target)) => self.resolve(target),
                    Some(Report::Finished(target)) => {
                        self.end_on_demand(target);
                        // An agent's next targets may come.
                        if self.finished(target) && self.agent.is_none() {
                            break End::Done;
                        }
                    }
                    Some(Report::Died) | None => break End::WorkerDied,
                },
            }
        };
        self.stop(end, signal).await
    }

    /// Whether there are threads of ours to hear of; a relay has its own.
    const fn measures(&self) -> bool {
        !self.probers.is_empty() || !self.responders.is_empty()
    }

    /// Notes that a target is finished; true if it was the last one.
    fn finished(&mut self, target: TargetId) -> bool {
        if let Some(probed) = self.targets.get_mut(&target)
            && !probed.finished
        {
            probed.finished = true;
            self.unfinished -= 1;
        }
        self.unfinished == 0
    }

    /// Looks a target's name up in the background and tells its worker.
    fn resolve(&self, target: TargetId) {
        let Some(probed) = self.targets.get(&target) else { return };
        if probed.looking_up.swap(true, Ordering::Relaxed) {
            return;
        }
        let looking_up = Arc::clone(&probed.looking_up);
        let watched = probed.watched.clone();
        let followed = Arc::clone(&probed.followed);
        let tell = self.probers[probed.worker].remote();
        let unresolved = Arc::clone(&probed.unresolved);
        let HostPort { host, port } = probed.wanted.target.address.clone();
        let lookups = Arc::clone(&self.lookups);
        tokio::spawn(async move {
            let _turn = lookups.acquire_owned().await.expect("the semaphore is never closed");
            let found = tokio::net::lookup_host((host.as_str(), port)).await;
            let addresses = found.map(Iterator::collect::<Vec<_>>);
            let known = addresses.as_ref().is_ok_and(|addresses| !addresses.is_empty());
            if !known {
                watched.series().count_resolve_failure();
            }
            // Only the change is news.
            if !known && !unresolved.swap(true, Ordering::Relaxed) {
                let error = addresses.as_ref().err().map(ToString::to_string);
                tracing::warn!(host, error, "the name has no address; trying again");
            } else if known {
                unresolved.store(false, Ordering::Relaxed);
            }
            let addresses = addresses.ok().filter(|_| known);
            if let Some(addresses) = &addresses {
                followed.only(addresses);
            }
            looking_up.store(false, Ordering::Relaxed);
            tell.change(Change::Resolved(target, addresses));
        });
    }

    /// Ends everything: probes in flight may settle for a moment, then threads stop, then the
    /// last word is written.
    async fn stop(mut self, end: End, signal: oneshot::Receiver<&'static str>) -> Result<Verdict> {
        sys::supervisor::stopping();
        // Whoever sends us new work should stop.
        self.ready.store(false, Ordering::Release);
        match end {
            End::Signal(name) => tracing::info!(signal = name, "stopping"),
            End::Done => tracing::debug!("every target is finished"),
            End::OutputClosed => tracing::debug!("standard output was closed"),
            End::WorkerDied => tracing::error!("a measuring thread died; stopping"),
        }
        for worker in &self.probers {
            worker.change(Change::Finish);
        }
        if let Some(mut relay) = self.relay.take() {
            // How long that takes at most is configured; a second signal ends all of us.
            relay.stopper().shutdown();
            relay.wait().await;
        }
        let settled = async {
            while self.unfinished > 0 {
                match self.reports.recv().await {
                    Some(Report::Finished(target)) => {
                        self.finished(target);
                    }
                    Some(Report::Resolve(_)) => {}
                    Some(Report::Died) | None => break,
                }
            }
        };
        // Past the limit what is in flight stays so in the counters.
        let _ = tokio::time::timeout(SETTLE, settled).await;
        for worker in self.probers.drain(..).chain(self.responders.drain(..)) {
            worker.stop();
        }
        if let Some(output) = self.output.take() {
            // Nobody is in a hurry if the work is done: a reader that pauses (`| less`) gets
            // everything. A signal is.
            let patient = matches!(end, End::Done).then_some(signal);
            output.finish(&self.stats, patient).await;
        }
        if let Some(web) = self.web.take() {
            web.stop().await;
        }
        if matches!(end, End::WorkerDied) {
            bail!("a measuring thread died; its error is in the log");
        }
        let answered = |probed: &Probed| probed.watched.counts().good > 0;
        // An agent that is told to end has done its work.
        let good =
            self.agent.is_some() || self.targets.is_empty() || self.targets.values().any(answered);
        Ok(if good { Verdict::Good } else { Verdict::Unanswered })
    }
}

/// The relay, if there is to be one.
fn relay(config: &Config, stats: &Arc<Stats>) -> Result<Option<Relay>> {
    let Some(section) = &config.relay else { return Ok(None) };
    Ok(Some(Relay::start(section, &config.measuring, Arc::clone(stats))?))
}

/// Makes the calling thread one that resolves, encodes or copies: a measuring thread that wakes up
/// goes first.
fn step_back() {
    if let Err(error) = sys::set_priority(Priority::Nice(BACKGROUND_NICE)) {
        tracing::debug!(%error, "background threads keep their priority");
    }
}

fn both<A, B>((one, other): (A, B)) -> (Option<A>, Option<B>) {
    (Some(one), Some(other))
}

/// An address of this host by which a listener is reached from here.
fn reachable(mut listening: SocketAddr) -> SocketAddr {
    // `[::]` is every address of both families.
    if listening.ip().is_unspecified() {
        listening.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    listening
}

/// Completes at the interval's next moment; never without one.
async fn next(interval: Option<&mut tokio::time::Interval>) {
    match interval {
        Some(interval) => drop(interval.tick().await),
        None => std::future::pending().await,
    }
}

/// Completes when the relay has ended, which it does not by itself; never without one.
async fn ended(relay: Option<&mut Relay>) {
    match relay {
        Some(relay) => drop(relay.wait().await),
        None => std::future::pending().await,
    }
}

/// Completes when the output's reader has left; never if there is no output.
fn closed(output: Option<&mut Output>) -> impl Future<Output = ()> + use<> {
    let closed = output.and_then(Output::take_closed);
    async {
        match closed {
            // The sender is dropped without a word when the output ends in order.
            Some(closed) => {
                if closed.await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
            None => std::future::pending().await,
        }
    }
}

/// Nice value of threads that nobody waits for within a millisecond.
const BACKGROUND_NICE: i32 = 10;
/// Threads for files that are read and lists that are joined, besides those for lookups: a name
/// server that hangs must not hold these up.
const READERS_MAX: usize = 16;
/// How long the last lines of the log may take.
const LOG_PATIENCE: Duration = Duration::from_millis(200);
/// How long probes in flight may settle after a signal.
const SETTLE: Duration = Duration::from_millis(400);

#[cfg(test)]
mod tests {
    use super::*;

    /// The command line must not know the wire, and the wire must not know the command line.
    #[test]
    fn any_padding_that_can_be_asked_for_can_be_sent() {
        assert_eq!(limits::PADDING_BYTES_MAX, crate::wire::V3_PADDING_BYTES_MAX);
    }

    /// Nor must the configuration know the metrics.
    #[test]
    fn no_label_that_a_file_may_give_is_one_of_the_metrics() {
        assert_eq!(crate::config::file::RESERVED_LABELS, crate::metrics::RESERVED_LABELS);
    }
}
