//! Everything that half-open checks need, opened first of all, with the privileges at hand; those
//! are dropped then. Threads that are started later never have them: capabilities belong to
//! threads (capabilities(7)), and only the keepers of the eBPF programs keep theirs. What starting
//! takes besides, such as a low port or a priority, `confine` drops when everything runs.

use std::net::IpAddr;

use anyhow::{Context, Result};

use crate::check::race::LANES;
use crate::config::agent::{AgentSection, Module};
use crate::config::{CheckSection, Config, MeasuringSection, ProbeSection, limits};
use crate::host::Capability;
use crate::stats::Stats;
use crate::sys::socket::SocketOptions;
use crate::sys::{self, CheckSettings, Checks, ClockChoice, MethodChoice};
use crate::time::duration_ns;

/// What the checks of one measuring thread have in common.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Kind {
    method: MethodChoice,
    clock: ClockChoice,
    socket: SocketOptions,
}

/// The kind of checks that a module makes, if it checks.
pub(super) fn kind(module: &Module) -> Option<Kind> {
    let method = module.settings.check?;
    Some(Kind { method, clock: module.clock, socket: module.settings.socket.clone() })
}

/// Every kind of checks of an agent, once.
pub(super) fn kinds(agent: &AgentSection) -> Vec<Kind> {
    let mut kinds = Vec::new();
    for kind in agent.modules.values().filter_map(|module| kind(module)) {
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    kinds
}

/// Opens the checks of each measuring thread; none if nothing is to be checked. Of an agent, those
/// of all threads of each of its [`kinds`].
pub(super) fn open(config: &Config) -> Result<Vec<Checks>> {
    if let Some(agent) = &config.agent {
        return open_for_agent(agent, config.measuring.threads);
    }
    let (threads, settings) = match (&config.check, &config.probe) {
        (Some(check), _) => of_a_run(check, &config.measuring),
        (None, Some(probe @ ProbeSection { check: Some(method), .. })) => {
            of_a_prober(probe, *method, &config.measuring)
        }
        _ => return Ok(Vec::new()),
    };
    let mut opened = Vec::with_capacity(threads);
    for _ in 0..threads {
        opened.push(Checks::open(&settings)?);
    }
    sys::drop_capabilities().context("dropping what is no longer needed")?;
    Ok(opened)
}

fn open_for_agent(agent: &AgentSection, threads: usize) -> Result<Vec<Checks>> {
    let mut opened = Vec::new();
    let on_demand = agent.on_demand.as_ref().map_or(0, |rules| rules.concurrency);
    for wanted in kinds(agent) {
        let targets = agent.targets.iter().filter(|it| kind(&it.module).as_ref() == Some(&wanted));
        let modules = agent.modules.values().filter(|it| kind(it).as_ref() == Some(&wanted));
        let in_flight = modules.map(|module| in_flight_max(&module.settings)).max().unwrap_or(1);
        // As many again may come.
        let targets = (2 * targets.count()).max(AGENT_TARGETS_MIN);
        let settings = CheckSettings {
            method: wanted.method,
            clock: wanted.clock,
            socket: wanted.socket,
            checks_max: in_flight.saturating_mul(targets.div_ceil(threads)) + on_demand,
        };
        for _ in 0..threads {
            opened.push(Checks::open(&settings)?);
        }
    }
    if !opened.is_empty() {
        sys::drop_capabilities().context("dropping what is no longer needed")?;
    }
    Ok(opened)
}

/// Shows and logs what works here. What nobody wanted is no news.
pub(super) fn tell(opened: &[Checks], stats: &Stats) {
    for checks in opened {
        if let Some(follower) = checks.follower() {
            stats.add_event_losses(follower.losses());
        }
    }
    let Some(first) = opened.first() else { return };
    stats.add_capabilities(&first.capabilities);
    for Capability { name, reason, .. } in first.missing() {
        tracing::info!(capability = name, reason, "not available; checking without");
    }
}

/// Threads and settings of a finite run.
fn of_a_run(check: &CheckSection, measuring: &MeasuringSection) -> (usize, CheckSettings) {
    let CheckSection { addresses, concurrency, .. } = check;
    let threads = measuring.threads.min(addresses.len()).min(*concurrency).max(1);
    let names = addresses.iter().any(|address| address.host.parse::<IpAddr>().is_err());
    // Of a name, several addresses may be asked at once.
    let lanes = if names { usize::try_from(LANES).unwrap_or(usize::MAX) } else { 1 };
    let settings = CheckSettings {
        method: check.method,
        clock: measuring.clock,
        socket: check.socket.clone(),
        checks_max: concurrency.div_ceil(threads).saturating_mul(lanes),
    };
    (threads, settings)
}

/// Threads and settings of a prober.
fn of_a_prober(
    probe: &ProbeSection,
    method: MethodChoice,
    measuring: &MeasuringSection,
) -> (usize, CheckSettings) {
    // Without targets it checks the responder of the same program.
    let targets = probe.targets.len().max(1);
    let threads = measuring.threads.min(targets).max(1);
    let settings = CheckSettings {
        method,
        clock: measuring.clock,
        socket: probe.socket.clone(),
        checks_max: in_flight_max(probe).saturating_mul(targets.div_ceil(threads)),
    };
    (threads, settings)
}

/// Checks of one target that may be in flight.
fn in_flight_max(probe: &ProbeSection) -> usize {
    let slots = duration_ns(probe.timeout) / duration_ns(probe.interval).max(1) + 1;
    usize::try_from(slots).unwrap_or(usize::MAX).min(limits::IN_FLIGHT_MAX)
}

/// Targets of each kind that an agent makes room for, if it has fewer.
const AGENT_TARGETS_MIN: usize = 64;
