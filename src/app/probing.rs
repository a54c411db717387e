//! Starts the prober: one series and one flow a target, divided over the measuring threads, for
//! echo probes or for half-open checks.

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroU8;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{App, Workshop, checking, preflight, reachable};
use crate::check::WatchSettings;
use crate::config::agent::{Module, Wanted};
use crate::config::{HostPort, ProbeSection, SloClock, Target, TcpInfoChoice, WireChoice, limits};
use crate::event::Ending;
use crate::probe::{ProbeSettings, Wire};
use crate::report::ip_text;
use crate::sample::Method;
use crate::schedule;
use crate::stats::history::History;
use crate::stats::slo::{Objective, ObjectiveClock, Objectives};
use crate::stats::watched::Watched;
use crate::stats::{CheckSeries, ProbeSeries};
use crate::sys::socket::SocketOptions;
use crate::sys::{Checks, Followed, Follower, clock};
use crate::tcp_info::Members;
use crate::time::duration_ns;
use crate::worker::{Change, NewProbe, NewWatch, TargetId};

/// What the control plane knows of a target.
pub(super) struct Probed {
    pub(super) wanted: Wanted,
    /// Index in `App::crews`.
    pub(super) crew: usize,
    /// Index in `App::probers`.
    pub(super) worker: usize,
    pub(super) watched: Watched,
    /// Its addresses, if eBPF programs time its checks.
    pub(super) followed: Arc<Followed>,
    /// The last lookup failed, and that was logged.
    pub(super) unresolved: Arc<AtomicBool>,
    /// A lookup is under way: another one would not be faster.
    pub(super) looking_up: Arc<AtomicBool>,
    pub(super) finished: bool,
}

/// Measuring threads that do the same kind of work.
pub(super) struct Crew {
    /// Echo probes if there is none.
    checks: Option<(checking::Kind, Method)>,
    members: Vec<Member>,
    /// Counts probes on demand.
    turn: usize,
}

struct Member {
    /// Index in `App::probers`.
    worker: usize,
    follower: Option<Follower>,
    targets: usize,
}

/// What the targets of a module share.
pub(super) struct Shared {
    crew: usize,
    stamps: bool,
    options: Arc<SocketOptions>,
    objectives: Arc<Objectives>,
}

impl Crew {
    /// Starts threads for echo probes.
    pub(super) fn of_probers(
        app: &mut App,
        threads: usize,
        workshop: &mut Workshop<'_>,
    ) -> Result<Self> {
        let mut members = Vec::with_capacity(threads);
        for number in 0..threads {
            let worker = app.probers.len();
            app.probers.push(workshop.make(format!("probe-{number}"), None)?);
            members.push(Member { worker, follower: None, targets: 0 });
        }
        Ok(Self { checks: None, members, turn: 0 })
    }

    /// Starts a thread for each of these checks of one kind.
    pub(super) fn of_checkers(
        app: &mut App,
        kind: checking::Kind,
        opened: Vec<Checks>,
        workshop: &mut Workshop<'_>,
    ) -> Result<Self> {
        let mut method = Method::Dial;
        let mut members = Vec::with_capacity(opened.len());
        for checks in opened {
            method = checks.method();
            let (worker, follower) = (app.probers.len(), checks.follower());
            let number: usize = app.crews.iter().map(Self::checkers).sum();
            let name = format!("check-{}", number + members.len());
            app.probers.push(workshop.make(name, Some(checks))?);
            members.push(Member { worker, follower, targets: 0 });
        }
        Ok(Self { checks: Some((kind, method)), members, turn: 0 })
    }

    /// Whether these are the threads for a module's targets.
    pub(super) fn does(&self, module: &Module) -> bool {
        self.checks.as_ref().map(|(kind, _)| kind) == checking::kind(module).as_ref()
    }

    /// Notes that one of the worker's targets is gone.
    pub(super) fn left(&mut self, worker: usize) {
        if let Some(member) = self.members.iter_mut().find(|member| member.worker == worker) {
            member.targets -= 1;
        }
    }

    /// Where the next probe on demand goes, and who times it if it is a check. It is no target: it
    /// is over before it would count.
    pub(super) fn follower_of_next(&mut self) -> (usize, Option<Follower>) {
        let next = self.turn % self.members.len();
        self.turn = self.turn.wrapping_add(1);
        (next, self.members[next].follower.clone())
    }

    /// One probe at one address, by a member: its worker, what to tell it, and what is measured.
    /// Nobody else sees that.
    pub(super) fn single(
        &self,
        member: usize,
        target: TargetId,
        (address, timeout): (SocketAddr, Duration),
        (module, shared): (&Module, &Shared),
    ) -> (usize, Change, Watched) {
        let probe = ProbeSection {
            interval: timeout,
            timeout,
            count: Some(1),
            duration: Some(timeout),
            adaptive: false,
            ..module.settings.clone()
        };
        let to = HostPort { host: ip_text(address), port: address.port() };
        // No name: what comes of it is told to who asked, and not logged.
        let (name, address_text) = ("", to.to_string());
        let objectives = Arc::new(Objectives::new(Vec::new()));
        let (change, watched) = match &self.checks {
            None => {
                let series = Arc::new(ProbeSeries::new(name, address_text, Vec::new(), objectives));
                let settings = probe_settings(&probe, &to, 0, shared.stamps);
                let settings = ProbeSettings {
                    addresses: vec![address],
                    resolve_interval_ns: None,
                    ..settings
                };
                let options = Arc::clone(&shared.options);
                let series_there = Arc::clone(&series);
                let paths = NonZeroU8::MIN;
                let new = NewProbe { target, settings, options, paths, series: series_there };
                (Change::Probe(Box::new(new)), Watched::Probe(series))
            }
            Some((_, method)) => {
                let series = Arc::new(CheckSeries::new(name, address_text, *method, objectives));
                let settings = watch_settings(&probe, &to, 0, *method);
                let settings = WatchSettings {
                    addresses: vec![address],
                    resolve_interval_ns: None,
                    ..settings
                };
                let new = NewWatch { target, settings, series: Arc::clone(&series) };
                (Change::Watch(Box::new(new)), Watched::Check(series))
            }
        };
        (self.members[member].worker, change, watched)
    }

    /// The member for one more target: the first of those with fewest.
    fn next(&mut self) -> &mut Member {
        let next = self.members.iter_mut().min_by_key(|member| member.targets);
        let next = next.expect("a crew has a thread");
        next.targets += 1;
        next
    }

    fn checkers(&self) -> usize {
        self.checks.as_ref().map_or(0, |_| self.members.len())
    }
}

impl Shared {
    /// Of the module's targets with this crew.
    pub(super) fn new(module: &Module, crew: usize, stamps: bool) -> Self {
        let options = Arc::new(module.settings.socket.clone());
        Self { crew, stamps, options, objectives: Arc::new(objectives(&module.settings)) }
    }
}

impl App {
    /// Starts the prober.
    pub(super) fn probe(
        &mut self,
        probe: &ProbeSection,
        answering_at: Option<SocketAddr>,
        opened: Vec<Checks>,
        workshop: &mut Workshop<'_>,
    ) -> Result<()> {
        let own = answering_at.map(own_target);
        let targets = match (probe.targets.as_slice(), &own) {
            ([], Some(own)) => std::slice::from_ref(own),
            ([], None) => bail!("no targets; write e.g. rttscope probe 127.0.0.1:4000"),
            (targets, _) => targets,
        };
        if let Some(slo) = stampless_objective(probe, workshop.stamps) {
            bail!("--slo {slo}: there are no kernel stamps here; write its clock as application");
        }
        preflight::check(targets.iter().map(|target| &target.address), &probe.socket)?;
        let settings = ProbeSection { targets: Vec::new(), ..probe.clone() };
        let module = Module { name: String::new(), clock: workshop.measuring.clock, settings };
        let crew = match checking::kind(&module) {
            None => {
                let threads = workshop.measuring.threads.min(targets.len());
                let crew = Crew::of_probers(self, threads, workshop)?;
                let io = self.probers.first().map_or("", |worker| worker.io_name);
                let (targets, stamps) = (targets.len(), workshop.stamps);
                tracing::info!(targets, io, threads, stamps, "probing");
                crew
            }
            Some(kind) => {
                let crew = Crew::of_checkers(self, kind, opened, workshop)?;
                let io = self.probers.first().map_or("", |worker| worker.io_name);
                let (targets, threads) = (targets.len(), self.probers.len());
                let method = crew.checks.as_ref().map_or("", |(_, method)| method.name());
                tracing::info!(targets, io, threads, method, "checking");
                crew
            }
        };
        self.crews.push(crew);
        let shared = Shared::new(&module, 0, workshop.stamps);
        let module = Arc::new(module);
        let remembered = self.remembered(targets.len());
        for target in targets {
            let module = Arc::clone(&module);
            let wanted = Wanted { target: target.clone(), labels: Vec::new(), module };
            self.add(wanted, &shared, remembered);
        }
        Ok(())
    }

    /// Starts one more target, of which so many probes are remembered.
    pub(super) fn add(&mut self, wanted: Wanted, shared: &Shared, remembered: Option<usize>) {
        let id = TargetId(self.next_target);
        self.next_target += 1;
        let method = self.crews[shared.crew].checks.as_ref().map(|(_, method)| *method);
        let member = self.crews[shared.crew].next();
        let worker = member.worker;
        let followed = Followed::new(member.follower.clone());
        let (change, watched) = match method {
            None => self.new_probe(id, &wanted, shared, remembered),
            Some(method) => {
                followed.only(&addresses(&wanted.target.address).0);
                self.new_watch(id, &wanted, shared, (method, remembered))
            }
        };
        self.probers[worker].change(change);
        let probed = Probed {
            wanted,
            crew: shared.crew,
            worker,
            watched,
            followed: Arc::new(followed),
            unresolved: Arc::default(),
            looking_up: Arc::default(),
            finished: false,
        };
        self.targets.insert(id, probed);
        self.unfinished += 1;
    }

    fn new_probe(
        &self,
        id: TargetId,
        wanted: &Wanted,
        shared: &Shared,
        remembered: Option<usize>,
    ) -> (Change, Watched) {
        let Wanted { target, labels, module } = wanted;
        let address = target.address.to_string();
        let objectives = Arc::clone(&shared.objectives);
        let series = ProbeSeries::new(&target.name, address, labels.clone(), objectives);
        let members = tcp_info_members(module.settings.tcp_info, self.web.is_some());
        let series = series.with_tcp_info(members);
        let series = self.stats.add_probe(match remembered {
            Some(probes_max) => series.with_history(probes_max),
            None => series,
        });
        let change = Change::Probe(Box::new(NewProbe {
            target: id,
            settings: probe_settings(&module.settings, &target.address, id.index(), shared.stamps),
            paths: module.settings.paths,
            options: Arc::clone(&shared.options),
            series: Arc::clone(&series),
        }));
        (change, Watched::Probe(series))
    }

    fn new_watch(
        &self,
        id: TargetId,
        wanted: &Wanted,
        shared: &Shared,
        (method, remembered): (Method, Option<usize>),
    ) -> (Change, Watched) {
        let Wanted { target, labels, module } = wanted;
        let address = target.address.to_string();
        let objectives = Arc::clone(&shared.objectives);
        let series = CheckSeries::new(&target.name, address, method, objectives);
        let series = series.with_labels(labels.clone());
        let series = self.stats.add_check(match remembered {
            Some(checks_max) => series.with_history(checks_max),
            None => series,
        });
        let change = Change::Watch(Box::new(NewWatch {
            target: id,
            settings: watch_settings(&module.settings, &target.address, id.index(), method),
            series: Arc::clone(&series),
        }));
        (change, Watched::Check(series))
    }

    /// How many probes of each of so many targets are remembered, if there is a page to show them.
    pub(super) fn remembered(&self, targets: usize) -> Option<usize> {
        self.web.as_ref().map(|_| History::probes_max_of(targets))
    }
}

/// The responder of this process as a target.
fn own_target(answering_at: SocketAddr) -> Target {
    let at = reachable(answering_at);
    let address = HostPort { host: ip_text(at), port: at.port() };
    Target { name: address.to_string(), address }
}

fn objectives(probe: &ProbeSection) -> Objectives {
    let objective = |slo: &crate::config::Slo| Objective {
        name: slo.name.clone(),
        threshold_ns: duration_ns(slo.threshold),
        objective_ratio: slo.objective_ratio,
        clock: match slo.clock {
            SloClock::Best => ObjectiveClock::Best,
            SloClock::Kernel => ObjectiveClock::Kernel,
            SloClock::Application => ObjectiveClock::Application,
        },
    };
    let objectives = Objectives::new(probe.slos.iter().map(objective).collect());
    match &probe.buckets {
        None => objectives,
        Some(ends) => {
            let ends_ns: Vec<u64> = ends.iter().map(|&end| duration_ns(end)).collect();
            objectives.with_buckets(&ends_ns)
        }
    }
}

/// An objective that only the kernel's times can judge, if there are none.
pub(super) fn stampless_objective(probe: &ProbeSection, stamps: bool) -> Option<&str> {
    let judged = probe.slos.iter().find(|slo| slo.clock == SloClock::Kernel);
    judged.filter(|_| !stamps).map(|slo| slo.name.as_str())
}

/// Without a page nobody sees them, and the kernel is not asked.
fn tcp_info_members(choice: TcpInfoChoice, shown: bool) -> Members {
    match choice {
        _ if !shown => Members::default(),
        TcpInfoChoice::All => Members::ALL,
        TcpInfoChoice::Default => Members::DEFAULT,
        TcpInfoChoice::Off => Members::default(),
    }
}

/// Known for ever if the host is a literal address; a name is asked for by the flow.
fn addresses(address: &HostPort) -> (Vec<SocketAddr>, Option<u64>) {
    match address.host.parse::<IpAddr>() {
        Ok(ip) => (vec![SocketAddr::new(ip, address.port)], None),
        Err(_) => (Vec::new(), Some(duration_ns(limits::RESOLVE_INTERVAL))),
    }
}

fn probe_settings(
    probe: &ProbeSection,
    address: &HostPort,
    number: usize,
    stamps: bool,
) -> ProbeSettings {
    let (addresses, resolve_interval_ns) = addresses(address);
    let interval_ns = duration_ns(probe.interval);
    ProbeSettings {
        interval_ns,
        phase_ns: schedule::phase_ns(number, interval_ns),
        timeout_ns: duration_ns(probe.timeout),
        adaptive: probe.adaptive,
        window: probe.window,
        count: probe.count,
        stop_at: probe.duration.map(|duration| clock::mono().after(duration)),
        wire: match probe.wire {
            WireChoice::Auto => Wire::Auto,
            WireChoice::V1 => Wire::V1,
            WireChoice::V2 => Wire::V2,
            WireChoice::V3 => Wire::V3,
        },
        padding_bytes: probe.padding_bytes,
        stamps_wanted: stamps,
        resolve_interval_ns,
        in_flight_max: limits::IN_FLIGHT_MAX,
        addresses,
    }
}

fn watch_settings(
    probe: &ProbeSection,
    address: &HostPort,
    number: usize,
    method: Method,
) -> WatchSettings {
    let (addresses, resolve_interval_ns) = addresses(address);
    let interval_ns = duration_ns(probe.interval);
    WatchSettings {
        interval_ns,
        phase_ns: schedule::phase_ns(number, interval_ns),
        timeout_ns: duration_ns(probe.timeout),
        window: probe.window,
        count: probe.count,
        stop_at: probe.duration.map(|duration| clock::mono().after(duration)),
        method,
        ending: Ending::Reset,
        resolve_interval_ns,
        in_flight_max: limits::IN_FLIGHT_MAX,
        addresses,
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    #[test]
    fn a_responder_is_reached_where_it_listens() {
        let check = |listening: &str, host: &str, target: &str| {
            let own = own_target(listening.parse().unwrap());
            assert_eq!((own.address.host.as_str(), own.name.as_str()), (host, target));
        };
        check("0.0.0.0:4000", "127.0.0.1", "127.0.0.1:4000");
        check("[::]:4000", "127.0.0.1", "127.0.0.1:4000");
        check("[::1]:4000", "::1", "[::1]:4000");
        check("10.0.0.1:4000", "10.0.0.1", "10.0.0.1:4000");
        check("[fe80::1%2]:4000", "fe80::1%2", "[fe80::1%2]:4000");
    }
}
