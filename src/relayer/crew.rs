//! The threads of a relay: a section of the configuration in; listening sockets, threads that
//! relay, threads that check upstreams, and who has to know of what, out.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use socket2::Socket;
use tokio::sync::mpsc;

use super::RelayError;
use super::names::Names;
use super::news::{self, Checked, News};
use crate::check::WatchSettings;
use crate::config::{
    Balance, HealthSection, HostPort, MeasuringSection, ProxyHeader, RelayListen, RelayListener,
    RelaySection, limits,
};
use crate::event::Ending;
use crate::relay::balance::Policy;
use crate::relay::proxy_protocol::Version;
use crate::relay::{Health, RelaySettings, Upstream};
use crate::sample::{Method, UpstreamCounters, UpstreamId};
use crate::schedule;
use crate::stats::slo::Objectives;
use crate::stats::{CheckSeries, RelaySeries, Stats, WorkerSeries};
use crate::sys::socket::{self, SocketOptions};
use crate::sys::{CheckSettings, Checks, ClockChoice, IoOptions, MethodChoice, clock};
use crate::time::duration_ns;
use crate::worker::{
    Change, Finished, NewRelay, NewWatch, Outlets, Report, TargetId, Worker, WorkerOptions,
};

/// Everything that runs.
pub(super) struct Crew {
    pub(super) relaying: Vec<Worker>,
    pub(super) checking: Vec<Worker>,
    pub(super) names: Names,
    pub(super) reports: mpsc::Receiver<Report>,
    /// Where clients connect, in the order of the configuration.
    pub(super) addresses: Vec<SocketAddr>,
    /// The numbers of the listeners.
    pub(super) relays: Vec<TargetId>,
    /// What the threads measure into.
    pub(super) series: Vec<Arc<RelaySeries>>,
    pub(super) news: News,
    pub(super) finished: Receiver<(TargetId, Finished)>,
}

/// What threads are made from.
struct Workshop<'a> {
    measuring: &'a MeasuringSection,
    stats: &'a Arc<Stats>,
    reports: mpsc::Sender<Report>,
    samples: SyncSender<(TargetId, Finished)>,
    started: usize,
}

impl Crew {
    /// Listens, then starts everything.
    pub(super) fn start(
        section: &RelaySection,
        measuring: &MeasuringSection,
        stats: &Arc<Stats>,
    ) -> Result<Self, RelayError> {
        let sockets = listen(section, measuring.threads)?;
        let mut names = Names::default();
        for (relay, listener) in (0..).map(TargetId).zip(&section.listeners) {
            for (place, upstream) in listener.upstreams.iter().enumerate() {
                names.of(&upstream.address).upstreams.push((relay, UpstreamId::at(place)));
            }
        }
        names.look_up_first();
        let (reports, incoming) = mpsc::channel(REPORTS_MAX);
        let (samples, finished) = sync_channel(limits::REPORT_SAMPLES_MAX);
        let mut workshop = Workshop { measuring, stats, reports, samples, started: 0 };
        let mut crew = Self {
            relaying: Vec::new(),
            checking: Vec::new(),
            names,
            reports: incoming,
            addresses: sockets.iter().map(|(address, _)| *address).collect(),
            relays: (0..).map(TargetId).take(section.listeners.len()).collect(),
            series: Vec::new(),
            news: News::default(),
            finished,
        };
        let relaying = crew.relay(section, sockets, &mut workshop);
        if let Err(error) = relaying.and_then(|()| crew.check(section, &mut workshop)) {
            crew.stop();
            return Err(error);
        }
        crew.news.relaying = crew.relaying.iter().map(Worker::remote).collect();
        Ok(crew)
    }

    /// Starts the threads that relay; each has a socket of every listener.
    fn relay(
        &mut self,
        section: &RelaySection,
        sockets: Vec<(SocketAddr, Vec<Socket>)>,
        workshop: &mut Workshop<'_>,
    ) -> Result<(), RelayError> {
        let threads = workshop.measuring.threads;
        // Lines of connections cost a sample each; nobody makes them that nobody reads.
        let told = tracing::enabled!(target: news::TARGET, tracing::Level::DEBUG);
        for number in 0..threads {
            self.relaying.push(workshop.make(format!("relay-{number}"), None, told)?);
        }
        let numbered = (0..).map(TargetId).zip(section.listeners.iter().zip(sockets));
        for (relay, (listener, (address, sockets))) in numbered {
            let label = address.to_string();
            let upstreams: Vec<String> =
                listener.upstreams.iter().map(|upstream| upstream.address.to_string()).collect();
            let options = Arc::new(listener.socket.clone());
            for (number, (worker, socket)) in self.relaying.iter().zip(sockets).enumerate() {
                let series = RelaySeries::new(label.clone(), upstreams.iter().cloned());
                show_start(&series, listener);
                let series = workshop.stats.add_relay(series);
                self.series.push(Arc::clone(&series));
                worker.change(Change::Relay(Box::new(NewRelay {
                    relay,
                    socket,
                    is_only_ours: listener.listen != RelayListen::Systemd,
                    settings: settings(listener, &mut self.names, threads, number),
                    options: Arc::clone(&options),
                    series,
                })));
            }
            let count = upstreams.len();
            tracing::info!(address = %label, upstreams = count, threads, "relay listening");
            self.news.listeners.insert(relay, news::Names { listener: label, upstreams });
        }
        Ok(())
    }

    /// Starts the threads that check, one for each kind of socket, and all checks.
    fn check(
        &mut self,
        section: &RelaySection,
        workshop: &mut Workshop<'_>,
    ) -> Result<(), RelayError> {
        let mut wanted: Vec<(&SocketOptions, Vec<Wanted<'_>>)> = Vec::new();
        for (relay, listener) in (0..).map(TargetId).zip(&section.listeners) {
            let Some(health) = listener.health else { continue };
            let known = wanted.iter().position(|(socket, _)| *socket == &listener.socket);
            let at = known.unwrap_or_else(|| {
                wanted.push((&listener.socket, Vec::new()));
                wanted.len() - 1
            });
            for (place, upstream) in listener.upstreams.iter().enumerate() {
                let user = (relay, UpstreamId::at(place));
                let address = &upstream.address;
                let same = |it: &&mut Wanted<'_>| it.address == address && it.health == health;
                match wanted[at].1.iter_mut().find(same) {
                    Some(known) => known.upstreams.push(user),
                    None => wanted[at].1.push(Wanted { address, health, upstreams: vec![user] }),
                }
            }
        }
        let mut next = u32::try_from(section.listeners.len()).unwrap_or(u32::MAX);
        for (socket, checks) in wanted {
            let opened = open_checks(socket, checks.len())?;
            let method = opened.method();
            let name = format!("relay-check-{}", self.checking.len());
            let worker = workshop.make(name, Some(opened), true)?;
            for wanted in checks {
                let target = TargetId(next);
                next += 1;
                self.names.of(wanted.address).checks.push(target);
                worker.change(Change::Watch(Box::new(self.watch(target, &wanted, method))));
                let Wanted { health, upstreams, .. } = wanted;
                let health = Health::new(health.rise, health.fall);
                self.news.checked.insert(target, Checked { health, upstreams });
            }
            self.checking.push(worker);
        }
        Ok(())
    }

    fn watch(&mut self, target: TargetId, wanted: &Wanted<'_>, method: Method) -> NewWatch {
        let interval_ns = duration_ns(wanted.health.interval);
        let name = self.names.of(wanted.address);
        let literal = wanted.address.host.parse::<std::net::IpAddr>().is_ok();
        let address = wanted.address.to_string();
        let objectives = Arc::new(Objectives::new(Vec::new()));
        NewWatch {
            target,
            settings: WatchSettings {
                interval_ns,
                phase_ns: schedule::phase_ns(target.index(), interval_ns),
                timeout_ns: duration_ns(wanted.health.timeout),
                window: 1,
                count: None,
                stop_at: None,
                method,
                ending: Ending::Reset,
                resolve_interval_ns: (!literal).then(|| duration_ns(limits::RESOLVE_INTERVAL)),
                // One that does not answer costs one socket, however often it is due.
                in_flight_max: 1,
                addresses: name.known.clone(),
            },
            series: Arc::new(CheckSeries::new(address.clone(), address, method, objectives)),
        }
    }

    /// Who has to know of what, and where it comes from; for a thread of its own.
    pub(super) fn take_news(&mut self) -> (News, Receiver<(TargetId, Finished)>) {
        let (_, nothing) = sync_channel(0);
        (std::mem::take(&mut self.news), std::mem::replace(&mut self.finished, nothing))
    }

    /// Every thread ends.
    pub(super) fn stop(&mut self) {
        for worker in self.relaying.drain(..).chain(self.checking.drain(..)) {
            worker.stop();
        }
    }
}

/// An upstream to be checked.
struct Wanted<'a> {
    address: &'a HostPort,
    health: HealthSection,
    upstreams: Vec<(TargetId, UpstreamId)>,
}

impl Workshop<'_> {
    fn make(
        &mut self,
        name: String,
        checks: Option<Checks>,
        told: bool,
    ) -> Result<Worker, RelayError> {
        let pin = &self.measuring.pin;
        let cpu = pin.get(self.started % pin.len().max(1)).copied();
        self.started += 1;
        let options = WorkerOptions {
            name: name.clone(),
            io: IoOptions {
                backend: self.measuring.io,
                busy_poll: self.measuring.busy_poll && checks.is_none(),
                ..IoOptions::default()
            },
            cpu,
            priority: self.measuring.priority,
            checks,
            changes_max: limits::CHANGES_MAX,
        };
        let outlets = Outlets {
            reports: self.reports.clone(),
            samples: told.then(|| self.samples.clone()),
            stats: Arc::clone(self.stats),
        };
        let series = self.stats.add_worker(WorkerSeries::new(name));
        Worker::start(options, outlets, series).map_err(RelayError::Thread)
    }
}

/// What a scrape sees before the thread has begun: nobody is down yet.
fn show_start(series: &RelaySeries, listener: &RelayListener) {
    for (place, upstream) in listener.upstreams.iter().enumerate() {
        let draining = u64::from(upstream.drain);
        let counters = UpstreamCounters { up: 1, draining, ..UpstreamCounters::default() };
        series.publish_upstream(UpstreamId::at(place), &counters);
    }
}

/// The sockets of every listener, one for each thread.
fn listen(
    section: &RelaySection,
    threads: usize,
) -> Result<Vec<(SocketAddr, Vec<Socket>)>, RelayError> {
    let from_systemd = |listener: &RelayListener| listener.listen == RelayListen::Systemd;
    let mut passed = match section.listeners.iter().any(from_systemd) {
        true => socket::activated().map_err(RelayError::Passed)?.into_iter(),
        false => Vec::new().into_iter(),
    };
    let mut listeners = Vec::with_capacity(section.listeners.len());
    for listener in &section.listeners {
        listeners.push(match listener.listen {
            RelayListen::Address(at) => listen_at(at, listener.reuse_port, threads)?,
            RelayListen::Systemd => {
                let socket = passed.next().ok_or(RelayError::NotPassed)?;
                share(socket, threads).map_err(RelayError::Passed)?
            }
        });
    }
    Ok(listeners)
}

fn listen_at(
    mut at: SocketAddr,
    reuse_port: bool,
    threads: usize,
) -> Result<(SocketAddr, Vec<Socket>), RelayError> {
    let mut sockets = Vec::with_capacity(threads);
    for _ in 0..threads {
        let refuse = |source| RelayError::Listen { at, source };
        let socket = socket::listener(at, reuse_port || threads > 1).map_err(refuse)?;
        at = local_address(&socket).map_err(refuse)?;
        sockets.push(socket);
    }
    Ok((at, sockets))
}

/// One socket that all threads accept from: nobody else may listen where systemd does.
fn share(socket: Socket, threads: usize) -> io::Result<(SocketAddr, Vec<Socket>)> {
    let at = local_address(&socket)?;
    // io_uring does not wait at a socket that must not block; readiness says so itself.
    socket.set_nonblocking(false)?;
    let mut sockets = Vec::with_capacity(threads);
    for _ in 1..threads {
        sockets.push(socket.try_clone()?);
    }
    sockets.push(socket);
    Ok((at, sockets))
}

fn local_address(socket: &Socket) -> io::Result<SocketAddr> {
    let address = socket.local_addr()?.as_socket();
    address.ok_or_else(|| io::Error::other("the socket is none of TCP"))
}

fn settings(
    listener: &RelayListener,
    names: &mut Names,
    threads: usize,
    number: usize,
) -> RelaySettings {
    let upstream = |upstream: &crate::config::RelayUpstream| Upstream {
        addresses: names.of(&upstream.address).known.clone(),
        draining: upstream.drain,
    };
    RelaySettings {
        upstreams: listener.upstreams.iter().map(upstream).collect(),
        policy: match listener.balance {
            Balance::RoundRobin => Policy::RoundRobin,
            Balance::LeastConnections => Policy::LeastConnections,
            Balance::LowestLatency => Policy::LowestLatency,
        },
        connections_max: listener.connections_max.div_ceil(threads),
        connect_timeout_ns: duration_ns(listener.connect_timeout),
        attempts_max: listener.attempts_max,
        idle_timeout_ns: listener.idle_timeout.map(duration_ns),
        proxy_in: listener.proxy_in,
        proxy_out: listener.proxy_out.map(|version| match version {
            ProxyHeader::V1 => Version::V1,
            ProxyHeader::V2 => Version::V2,
        }),
        failures_max: FAILURES_MAX,
        failed_hold_ns: duration_ns(FAILED_HOLD),
        // Threads that start together should not choose alike.
        seed: clock::mono().as_ns() ^ u64::try_from(number).unwrap_or(0) << 48,
    }
}

fn open_checks(socket: &SocketOptions, upstreams: usize) -> Result<Checks, RelayError> {
    let settings = CheckSettings {
        method: MethodChoice::Auto,
        // Round trips are for balancing only: eBPF programs would be too much.
        clock: ClockChoice::Application,
        socket: socket.clone(),
        checks_max: upstreams,
    };
    Checks::open(&settings).map_err(RelayError::Checks)
}

/// Attempts in a row that fail until an upstream is the last choice, for so long.
const FAILURES_MAX: u32 = 3;
const FAILED_HOLD: Duration = Duration::from_secs(5);
/// Reports that wait for the thread that reads them: one of every listener and thread, and what
/// checks ask.
const REPORTS_MAX: usize = 16_384;
