//! The agent: whom it probes follows what is wanted, while it runs. A list of wanted targets in,
//! the smallest change of what runs out: who stays keeps connection, schedule and counts.

use std::collections::HashMap;
use std::sync::Arc;

use anyhow::{Result, anyhow};
use tokio::sync::mpsc;

use super::discovered::{self, Dropped, Found, merge};
use super::probing::{Crew, Shared, stampless_objective};
use super::reload::Reread;
use super::{App, Workshop, checking, preflight};
use crate::config::agent::{AgentSection, Module, Plan, Wanted, check, plan, restart_needed};
use crate::config::discovery::Job;
use crate::config::file::BadConfigFile;
use crate::config::{Config, HostPort};
use crate::discovery::Discovery;
use crate::stats::watched::Watched;
use crate::stats::{DiscoverySeries, ReloadSeries};
use crate::sys::{Checks, ClockChoice, clock};
use crate::worker::{Change, TargetId};

/// What an agent follows.
pub(super) struct Agent {
    /// What is in use: the start's, with the targets of the last good file.
    config: Config,
    rereads: mpsc::Receiver<Reread>,
    series: Arc<ReloadSeries>,
    discovery: Discovery,
    finds: mpsc::Receiver<Found>,
    /// What was found last.
    found: Found,
    discovery_series: Arc<DiscoverySeries>,
}

/// What an agent learns while it runs.
pub(super) enum News {
    /// The file's content.
    Reread(Box<Reread>),
    /// The targets of discovery.
    Found(Found),
}

/// Who wants targets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The file: a mistake is told, and nothing changes.
    File,
    /// Sources: what cannot be reached is shown as that, as the mistakes of one target must not
    /// hold up the others.
    Discovery,
}

impl Agent {
    /// What is in use.
    pub(super) const fn section(&self) -> Option<&AgentSection> {
        self.config.agent.as_ref()
    }
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
        self.check_jobs(&section.discovery).map_err(|why| anyhow!(why))?;
        let applied = self.apply(wanted, section.targets_max, Origin::File);
        let applied = applied.map_err(|why| anyhow!(why))?;
        let io = self.probers.first().map_or("", |worker| worker.io_name);
        tracing::info!(targets = applied.added, io, threads, stamps = workshop.stamps, "probing");
        let series = self.stats.add_reload();
        series.count_good(clock::now().wall.as_ns());
        let discovery_series = self.stats.add_discovery();
        let (discovery, finds) = discovered::start(&section.discovery, &discovery_series);
        self.agent = Some(Agent {
            config: config.clone(),
            rereads,
            series,
            discovery,
            finds,
            found: Found::default(),
            discovery_series,
        });
        self.show_on_demand(section.on_demand.as_ref());
        Ok(())
    }

    /// Does what the news ask for.
    pub(super) fn hear(&mut self, news: News) {
        match news {
            News::Reread(reread) => self.reread(*reread),
            News::Found(found) => self.found(found),
        }
    }

    /// Makes the wanted targets those that run, from wherever they come. If anything about them
    /// cannot be, nothing changes.
    pub(super) fn apply(
        &mut self,
        wanted: Vec<Wanted>,
        targets_max: usize,
        origin: Origin,
    ) -> Result<Applied, String> {
        check(&wanted, targets_max)?;
        let count = wanted.len();
        let running = self.targets.iter().map(|(id, probed)| (*id, &probed.wanted));
        let Plan { removed, added, changed, untouched } = plan(running, wanted);
        let shared = self.shared(&added, origin)?;
        let applied = Applied {
            added: added.len() - changed,
            removed: removed.len() - changed,
            changed,
            untouched,
        };
        let gone: Vec<Watched> =
            removed.into_iter().filter_map(|target| self.remove(target)).collect();
        self.stats.remove(&gone);
        let remembered = self.remembered(count);
        for wanted in added {
            let shared = &shared[&Arc::as_ptr(&wanted.module)];
            self.add(wanted, shared, remembered);
        }
        Ok(applied)
    }

    /// What the targets of each module share, if they can be probed here.
    fn shared(
        &self,
        added: &[Wanted],
        origin: Origin,
    ) -> Result<HashMap<*const Module, Shared>, String> {
        let mut addresses: HashMap<*const Module, (&Module, Vec<&HostPort>)> = HashMap::new();
        for wanted in added {
            let entry = addresses.entry(Arc::as_ptr(&wanted.module));
            let (_, addresses) = entry.or_insert_with(|| (&*wanted.module, Vec::new()));
            addresses.push(&wanted.target.address);
        }
        let mut shared = HashMap::with_capacity(addresses.len());
        for (key, (module, addresses)) in addresses {
            let (crew, stamps) = self.crew(module)?;
            if origin == Origin::File {
                preflight::check(addresses, &module.settings.socket)
                    .map_err(|error| format!("module {}: {error}", module.name))?;
            }
            shared.insert(key, Shared::new(module, crew, stamps));
        }
        Ok(shared)
    }

    /// Who makes the module's probes, and whether with kernel stamps; if that can be here.
    fn crew(&self, module: &Module) -> Result<(usize, bool), String> {
        let name = &module.name;
        let stamps = self.stamps && module.clock != ClockChoice::Application;
        if module.clock == ClockChoice::Kernel && !self.stamps {
            return Err(format!("module {name}: there are no kernel stamps here (clock)"));
        }
        if let Some(slo) = stampless_objective(&module.settings, stamps) {
            return Err(format!(
                "module {name}: slo {slo}: there are no kernel stamps here; write its clock as \
                 application"
            ));
        }
        let crew = self.crews.iter().position(|crew| crew.does(module)).ok_or_else(|| {
            format!("module {name}: checks of a new kind (method, clock, sockets) need a restart")
        })?;
        Ok((crew, stamps))
    }

    /// Whether what discovery finds can be probed here.
    fn check_jobs(&self, jobs: &[Job]) -> Result<(), String> {
        // A name stands for whatever will be found.
        let anybody = HostPort { host: "localhost".to_owned(), port: 1 };
        for job in jobs {
            self.crew(&job.module)?;
            preflight::check([&anybody], &job.module.settings.socket)
                .map_err(|error| format!("module {}: {error}", job.module.name))?;
        }
        Ok(())
    }

    /// Ends a target and forgets all of it but what is shown of it.
    fn remove(&mut self, target: TargetId) -> Option<Watched> {
        let probed = self.targets.remove(&target)?;
        self.unfinished -= usize::from(!probed.finished);
        self.crews[probed.crew].left(probed.worker);
        self.probers[probed.worker].change(Change::Remove(target));
        Some(probed.watched)
    }

    /// Uses what was found, as far as it is good.
    fn found(&mut self, mut found: Found) {
        for list in &mut found.lists {
            let before = list.wanted.len();
            list.wanted.retain(|wanted| match self.crew(&wanted.module) {
                Ok(_) => true,
                Err(why) => {
                    let first = list.complaints.iter().all(|known| *known != why);
                    list.complaints.extend(first.then_some(why));
                    false
                }
            });
            list.counts.bad_modules += before - list.wanted.len();
            list.counts.targets = list.wanted.len();
        }
        let Some(agent) = &mut self.agent else { return };
        let Some(section) = &agent.config.agent else { return };
        let (wanted, dropped) = merge(&section.targets, &found, section.targets_max);
        agent.tell_dropped(&found, dropped);
        agent.found = found;
        let targets_max = section.targets_max;
        match self.apply(wanted, targets_max, Origin::Discovery) {
            Ok(applied) => applied.log("discovered"),
            Err(why) => tracing::error!(why, "discovered targets cannot be used; nothing changed"),
        }
    }

    /// Uses the file as it was read, if it is good.
    fn reread(&mut self, reread: Reread) {
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
        self.check_jobs(&section.discovery).map_err(refused)?;
        let (wanted, dropped) = merge(&section.targets, &agent.found, section.targets_max);
        let applied = self.apply(wanted, section.targets_max, Origin::File).map_err(refused)?;
        let Applied { added, removed, changed, untouched } = applied;
        self.show_on_demand(section.on_demand.as_ref());
        if let Some(agent) = &mut self.agent {
            agent.discovery_series.change(|shown| dropped.show(shown));
            let running = agent.config.agent.replace(section);
            let jobs = agent.config.agent.as_ref().map(|section| &section.discovery);
            if let Some(jobs) = jobs
                && running.is_none_or(|running| running.discovery != *jobs)
            {
                agent.discovery.reload(discovered::settings(jobs));
            }
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

impl Agent {
    /// Shows and logs what cannot be probed, if that is news.
    fn tell_dropped(&self, found: &Found, dropped: Dropped) {
        let bad =
            |of: &Found| -> Vec<usize> { of.lists.iter().map(|list| list.counts.bad()).collect() };
        let before = self.discovery_series.snapshot();
        self.discovery_series.change(|shown| {
            shown.lists = found.lists.iter().map(|list| list.counts.clone()).collect();
            dropped.show(shown);
        });
        if bad(found) != bad(&self.found) {
            for list in found.lists.iter().filter(|list| !list.complaints.is_empty()) {
                let (discovery, why) = (&list.counts.name, list.complaints.join("; "));
                let targets = list.counts.bad();
                tracing::warn!(discovery, targets, why, "discovered targets cannot be probed");
            }
        }
        let Dropped { duplicates, excess } = dropped;
        if dropped != Dropped::default()
            && (duplicates, excess) != (before.duplicates, before.excess)
        {
            tracing::warn!(
                duplicates,
                excess,
                "discovered targets dropped: their names are taken, or there are too many"
            );
        }
    }
}

impl Applied {
    fn log(self, what: &str) {
        let Self { added, removed, changed, untouched } = self;
        if added + removed + changed > 0 {
            tracing::info!(added, removed, changed, untouched, what, "targets changed");
        }
    }
}

/// The next news; never, if nothing is followed.
pub(super) async fn next_news(agent: &mut Option<Agent>) -> News {
    if let Some(agent) = agent {
        tokio::select! {
            Some(reread) = agent.rereads.recv() => return News::Reread(Box::new(reread)),
            Some(found) = agent.finds.recv() => return News::Found(found),
            else => {}
        }
    }
    std::future::pending().await
}
