//! The agent: whom it probes follows what is wanted, while it runs. A list of wanted targets in,
//! the smallest change of what runs out: who stays keeps connection, schedule and counts.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use tokio::sync::mpsc;

use super::probing::{Crew, Shared, stampless_objective};
use super::reload::Reread;
use super::{App, Workshop, checking, preflight};
use crate::config::agent::{AgentSection, Module, Plan, Wanted, check, plan, restart_needed};
use crate::config::file::BadConfigFile;
use crate::config::{Config, HostPort};
use crate::stats::ReloadSeries;
use crate::sys::{Checks, ClockChoice, clock};
use crate::worker::{Change, TargetId};

/// What an agent follows.
pub(super) struct Agent {
    /// What is in use: the start's, with the targets of the last good file.
    config: Config,
    pub(super) rereads: mpsc::Receiver<Reread>,
    series: Arc<ReloadSeries>,
}

/// What [`App::apply`] has done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    added: usize,
    removed: usize,
    changed: usize,
    untouched: usize,
}

impl App {
    /// Starts the agent's crews, and its first targets.
    pub(super) fn start_agent(
        &mut self,
        section: &AgentSection,
        config: &Config,
        rereads: mpsc::Receiver<Reread>,
        opened: Vec<Checks>,
        workshop: &mut Workshop<'_>,
    ) -> Result<()> {
        let threads = workshop.measuring.threads;
        // Always: the file's first echo module may come later, and an idle thread costs nothing.
        let crew = Crew::of_probers(self, threads, workshop)?;
        self.crews.push(crew);
        let mut opened = opened.into_iter();
        for by in checking::kinds(section) {
            let opened: Vec<_> = opened.by_ref().take(threads).collect();
            let crew = Crew::of_checkers(self, by, opened, workshop)?;
            self.crews.push(crew);
        }
        let wanted = section.targets.clone();
        let applied = self.apply(wanted, section.targets_max).map_err(|why| anyhow!(why))?;
        let io = self.probers.first().map_or("", |worker| worker.io_name);
        tracing::info!(targets = applied.added, io, threads, stamps = workshop.stamps, "probing");
        let series = self.stats.add_reload();
        series.count_good(clock::now().wall.as_ns());
        self.agent = Some(Agent { config: config.clone(), rereads, series });
        Ok(())
    }

    /// Makes the wanted targets those that run, from wherever they come. If anything about them
    /// cannot be, nothing changes.
    pub(super) fn apply(
        &mut self,
        wanted: Vec<Wanted>,
        targets_max: usize,
    ) -> Result<Applied, String> {
        check(&wanted, targets_max)?;
        let count = wanted.len();
        let running = self.targets.iter().map(|(id, probed)| (*id, &probed.wanted));
        let Plan { removed, added, changed, untouched } = plan(running, wanted);
        let shared = self.shared(&added)?;
        let applied = Applied {
            added: added.len() - changed,
            removed: removed.len() - changed,
            changed,
            untouched,
        };
        for target in removed {
            self.remove(target);
        }
        let remembered = self.remembered(count);
        for wanted in added {
            let shared = &shared[&Arc::as_ptr(&wanted.module)];
            self.add(wanted, shared, remembered);
        }
        Ok(applied)
    }

    /// What the targets of each module share, if they can be probed here.
    fn shared(&self, added: &[Wanted]) -> Result<HashMap<*const Module, Shared>, String> {
        let mut addresses: HashMap<*const Module, (&Module, Vec<&HostPort>)> = HashMap::new();
        for wanted in added {
            let entry = addresses.entry(Arc::as_ptr(&wanted.module));
            let (_, addresses) = entry.or_insert_with(|| (&*wanted.module, Vec::new()));
            addresses.push(&wanted.target.address);
        }
        let mut shared = HashMap::with_capacity(addresses.len());
        for (key, (module, addresses)) in addresses {
            let name = &module.name;
            let stamps = self.stamps && module.clock != ClockChoice::Application;
            if module.clock == ClockChoice::Kernel && !self.stamps {
                return Err(format!("module {name}: there are no kernel stamps here (clock)"));
            }
            if let Some(slo) = stampless_objective(&module.settings, stamps) {
                return Err(format!(
                    "module {name}: slo {slo}: there are no kernel stamps here; write its clock \
                     as application"
                ));
            }
            let crew = self.crews.iter().position(|crew| crew.does(module)).ok_or_else(|| {
                format!(
                    "module {name}: checks of a new kind (method, clock, sockets) need a restart"
                )
            })?;
            preflight::check(addresses, &module.settings.socket)
                .map_err(|error| format!("module {name}: {error}"))?;
            shared.insert(key, Shared::new(module, crew, stamps));
        }
        Ok(shared)
    }

    /// Ends a target and forgets all of it.
    fn remove(&mut self, target: TargetId) {
        let Some(probed) = self.targets.remove(&target) else { return };
        self.unfinished -= usize::from(!probed.finished);
        self.crews[probed.crew].left(probed.worker);
        self.probers[probed.worker].change(Change::Remove(target));
        self.stats.remove(&probed.watched);
    }

    /// Uses the file as it was read, if it is good.
    pub(super) fn reread(&mut self, reread: Reread) {
        let Reread { config, by, answer } = reread;
        let result = match config {
            Ok(config) => self.replace(config, by),
            Err(BadConfigFile(mistakes)) => {
                mistakes.iter().for_each(|mistake| {
                    tracing::error!(by, mistake, "bad configuration file; nothing changed");
                });
                Err(mistakes.join("; "))
            }
        };
        if let Some(agent) = &self.agent {
            match &result {
                Ok(_) => agent.series.count_good(clock::now().wall.as_ns()),
                Err(_) => agent.series.count_bad(),
            }
        }
        // Whoever asked may have left.
        let _ = answer.send(result);
    }

    fn replace(&mut self, new: Config, by: &str) -> Result<String, String> {
        let (Some(agent), Some(section)) = (&self.agent, new.agent) else {
            return Err("there is no agent".to_owned());
        };
        let relay = new.relay.clone();
        let fixed = restart_needed(&agent.config, &Config { agent: None, ..new });
        let refused = |why: String| {
            tracing::error!(by, why, "the configuration file cannot be used; nothing changed");
            why
        };
        let Applied { added, removed, changed, untouched } =
            self.apply(section.targets.clone(), section.targets_max).map_err(refused)?;
        if let Some(agent) = &mut self.agent {
            agent.config.agent = Some(section);
            if let (Some(running), Some(wanted)) = (&self.relay, relay)
                && !fixed.contains(&"relay")
            {
                running.drain_as(&wanted);
                agent.config.relay = Some(wanted);
            }
        }
        tracing::info!(by, added, removed, changed, untouched, "configuration reloaded");
        let done = format!(
            "Reloaded: {added} targets added, {removed} removed, {changed} changed, {untouched} \
             untouched."
        );
        if fixed.is_empty() {
            return Ok(done);
        }
        let fixed = fixed.join(", ");
        tracing::warn!(sections = fixed, "not applied: these sections need a restart");
        Ok(format!("{done} Not applied without a restart: {fixed}."))
    }
}

/// The next content of the file; never, if none is followed.
pub(super) async fn next_reread(agent: &mut Option<Agent>) -> Reread {
    if let Some(agent) = agent
        && let Some(reread) = agent.rereads.recv().await
    {
        return reread;
    }
    std::future::pending().await
}
