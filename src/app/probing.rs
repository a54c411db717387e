//! Starts the prober: one series and one flow a target, divided over the measuring threads, for
//! echo probes or for half-open checks.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use anyhow::{Context, Result, bail};

use super::{App, Workshop, preflight, reachable};
use crate::check::WatchSettings;
use crate::config::{HostPort, ProbeSection, SloClock, Target, TcpInfoChoice, WireChoice, limits};
use crate::event::Ending;
use crate::probe::{ProbeSettings, Wire};
use crate::report::ip_text;
use crate::sample::Method;
use crate::schedule;
use crate::stats::history::History;
use crate::stats::slo::{Objective, ObjectiveClock, Objectives};
use crate::stats::{CheckSeries, ProbeSeries};
use crate::sys::{Checks, Followed, clock};
use crate::tcp_info::Members;
use crate::time::duration_ns;
use crate::worker::{Change, NewProbe, NewWatch, TargetId};

/// What the control plane knows of a target.
pub(super) struct Probed {
    /// Index in `App::probers`.
    pub(super) worker: usize,
    pub(super) address: HostPort,
    pub(super) series: Series,
    /// Its addresses, if eBPF programs time its checks.
    pub(super) followed: Arc<Followed>,
    /// The last lookup failed, and that was logged.
    pub(super) unresolved: Arc<AtomicBool>,
    /// A lookup is under way: another one would not be faster.
    pub(super) looking_up: Arc<AtomicBool>,
    pub(super) finished: bool,
}

/// Where a target's measurements go.
#[derive(Clone)]
pub(super) enum Series {
    Probe(Arc<ProbeSeries>),
    Check(Arc<CheckSeries>),
}

impl Series {
    pub(super) fn count_resolve_failure(&self) {
        match self {
            Self::Probe(series) => series.count_resolve_failure(),
            Self::Check(series) => series.count_resolve_failure(),
        }
    }

    /// Whether the target ever answered as it should.
    pub(super) fn answered(&self) -> bool {
        match self {
            Self::Probe(series) => series.snapshot().counters.received > 0,
            Self::Check(series) => series.snapshot().counters.open > 0,
        }
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
        match probe.check {
            None => self.probe_by_echo(probe, targets, workshop),
            Some(_) => self.probe_by_checks(probe, targets, opened, workshop),
        }
    }

    fn probe_by_echo(
        &mut self,
        probe: &ProbeSection,
        targets: &[Target],
        workshop: &mut Workshop<'_>,
    ) -> Result<()> {
        let threads = workshop.measuring.threads.min(targets.len());
        for number in 0..threads {
            self.probers.push(workshop.make(format!("probe-{number}"), None)?);
        }
        let io = self.probers.first().map_or("", |worker| worker.io_name);
        tracing::info!(targets = targets.len(), io, threads, stamps = workshop.stamps, "probing");
        let options = Arc::new(probe.socket.clone());
        let objectives = Arc::new(objectives(probe));
        let members = tcp_info_members(probe.tcp_info, self.web.is_some());
        let remembered = self.remembered(targets.len());
        for (number, target) in targets.iter().enumerate() {
            let address = target.address.to_string();
            let series =
                ProbeSeries::new(&target.name, address, Vec::new(), Arc::clone(&objectives));
            let series = series.with_tcp_info(members);
            let series = self.stats.add_probe(match remembered {
                Some(probes_max) => series.with_history(probes_max),
                None => series,
            });
            let worker = number % threads;
            self.probers[worker].change(Change::Probe(Box::new(NewProbe {
                target: TargetId(u32::try_from(number).context("too many targets")?),
                settings: probe_settings(probe, &target.address, number, workshop.stamps),
                options: Arc::clone(&options),
                series: Arc::clone(&series),
            })));
            self.know(target, worker, Series::Probe(series), Followed::new(None));
        }
        Ok(())
    }

    fn probe_by_checks(
        &mut self,
        probe: &ProbeSection,
        targets: &[Target],
        opened: Vec<Checks>,
        workshop: &mut Workshop<'_>,
    ) -> Result<()> {
        let mut method = Method::Dial;
        let mut followers = Vec::new();
        for (number, checks) in opened.into_iter().enumerate() {
            method = checks.method();
            followers.push(checks.follower());
            self.probers.push(workshop.make(format!("check-{number}"), Some(checks))?);
        }
        let threads = self.probers.len();
        let io = self.probers.first().map_or("", |worker| worker.io_name);
        let name = method.name();
        tracing::info!(targets = targets.len(), io, threads, method = name, "checking");
        let objectives = Arc::new(objectives(probe));
        let remembered = self.remembered(targets.len());
        for (number, target) in targets.iter().enumerate() {
            let address = target.address.to_string();
            let series = CheckSeries::new(&target.name, address, method, Arc::clone(&objectives));
            let series = self.stats.add_check(match remembered {
                Some(checks_max) => series.with_history(checks_max),
                None => series,
            });
            let worker = number % threads;
            let settings = watch_settings(probe, &target.address, number, method);
            let followed = Followed::new(followers[worker].clone());
            followed.only(&settings.addresses);
            self.probers[worker].change(Change::Watch(Box::new(NewWatch {
                target: TargetId(u32::try_from(number).context("too many targets")?),
                settings,
                series: Arc::clone(&series),
            })));
            self.know(target, worker, Series::Check(series), followed);
        }
        Ok(())
    }

    /// How many probes of each of so many targets are remembered, if there is a page to show them.
    fn remembered(&self, targets: usize) -> Option<usize> {
        self.web.as_ref().map(|_| History::probes_max_of(targets))
    }

    /// Remembers a target, in the order of their numbers.
    fn know(&mut self, target: &Target, worker: usize, series: Series, followed: Followed) {
        self.targets.push(Probed {
            worker,
            address: target.address.clone(),
            series,
            followed: Arc::new(followed),
            unresolved: Arc::default(),
            looking_up: Arc::default(),
            finished: false,
        });
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
    Objectives::new(probe.slos.iter().map(objective).collect())
}

/// An objective that only the kernel's times can judge, if there are none.
fn stampless_objective(probe: &ProbeSection, stamps: bool) -> Option<&str> {
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
