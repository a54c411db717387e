//! What discovery has found, on its way to the agent: lists of targets as their sources wrote them
//! in, targets that can be probed out, and how many cannot and why. Who cannot be probed holds up
//! nobody else.

use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use tokio::sync::{mpsc, watch};
use tokio::task::spawn_blocking;

use crate::config::agent::Wanted;
use crate::config::discovery::Job;
use crate::config::file::check_label;
use crate::config::mesh::MeshConfig;
use crate::config::{HostPort, Target, address, limits};
use crate::discovery::{self, Discovery, Health, List, Settings};
use crate::mesh::{Member, Roster, Scope};
use crate::stats::{DiscoverySeries, DiscoverySnapshot, ListSnapshot, SourceSnapshot};
use crate::sys::clock;

/// What there is to be probed, for each list.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) lists: Vec<FoundList>,
}

/// The same of one list.
#[derive(Debug, Default)]
pub(super) struct FoundList {
    pub(super) wanted: Vec<Wanted>,
    pub(super) counts: ListSnapshot,
    /// One example of each kind of mistake.
    pub(super) complaints: Vec<String>,
}

/// Targets that no list can have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    pub(super) duplicates: usize,
    pub(super) excess: usize,
}

impl Dropped {
    pub(super) const fn show(self, shown: &mut DiscoverySnapshot) {
        let Self { duplicates, excess } = self;
        shown.duplicates = duplicates;
        shown.excess = excess;
    }
}

/// What to discover from now on.
pub(super) fn settings(jobs: &Arc<[Job]>) -> Settings {
    Settings { jobs: Arc::clone(jobs), now: clock::now }
}

/// Starts discovery on the runtime that this is called on. What is found comes out of the second
/// value; how the sources are doing goes into the series.
pub(super) fn start(
    jobs: &Arc<[Job]>,
    series: &Arc<DiscoverySeries>,
) -> (Discovery, mpsc::Receiver<Found>) {
    let discovery = Discovery::start(settings(jobs));
    let (tell, finds) = mpsc::channel(1);
    tokio::spawn(forward(discovery.list(), tell));
    tokio::spawn(show(discovery.health(), discovery.excess(), Arc::clone(series)));
    (discovery, finds)
}

/// The file's targets, and those that were found, as far as there is room for them and their names
/// are free.
pub(super) fn merge(fixed: &[Wanted], found: &Found, targets_max: usize) -> (Vec<Wanted>, Dropped) {
    let mut merged = fixed.to_vec();
    let mut dropped = Dropped::default();
    let mut names: HashSet<&str> = fixed.iter().map(|it| it.target.name.as_str()).collect();
    for wanted in found.lists.iter().flat_map(|list| &list.wanted) {
        if !names.insert(&wanted.target.name) {
            dropped.duplicates += 1;
        } else if merged.len() >= targets_max {
            dropped.excess += 1;
        } else {
            merged.push(wanted.clone());
        }
    }
    (merged, dropped)
}

/// Until discovery ends.
async fn forward(mut lists: watch::Receiver<Arc<List>>, tell: mpsc::Sender<Found>) {
    while lists.changed().await.is_ok() {
        let list = lists.borrow_and_update().clone();
        // 100,000 targets and their mesh take a few tenths of a second.
        let Ok(found) = spawn_blocking(move || read(&list)).await else { return };
        if tell.send(found).await.is_err() {
            return;
        }
    }
}

/// Until discovery ends.
async fn show(
    mut health: watch::Receiver<Arc<[Health]>>,
    mut excess: watch::Receiver<Option<usize>>,
    series: Arc<DiscoverySeries>,
) {
    loop {
        let sources = health.borrow_and_update().iter().map(source).collect();
        let beyond = excess.borrow_and_update().map_or(0, |all| all - limits::TARGETS_MAX);
        series.change(|shown| {
            shown.sources = sources;
            shown.excess_at_sources = beyond;
        });
        tokio::select! {
            Ok(()) = health.changed() => {}
            Ok(()) = excess.changed() => {}
            else => return,
        }
    }
}

fn source(health: &Health) -> SourceSnapshot {
    SourceSnapshot {
        list: health.job.clone(),
        source: health.source.clone(),
        good_at_ns: health.last_success.map(|at| at.as_ns()),
        refreshes: health.refreshes,
        failures: health.failures,
        targets: health.targets,
        error: health.error.clone(),
    }
}

fn read(list: &List) -> Found {
    let mut targets = list.targets.iter().peekable();
    let jobs = list.jobs.iter().enumerate();
    let lists = jobs.map(|(number, job)| {
        let own = std::iter::from_fn(|| targets.next_if(|target| target.job == number));
        read_list(job, &own.collect::<Vec<_>>())
    });
    Found { lists: lists.collect() }
}

fn read_list(job: &Job, targets: &[&discovery::Target]) -> FoundList {
    let mut counts = ListSnapshot { name: job.name.clone(), ..ListSnapshot::default() };
    let mut complaints = BTreeMap::new();
    let mut names = HashSet::new();
    let mut good = Vec::with_capacity(targets.len());
    for target in targets {
        let result = wanted(job, target).and_then(|wanted| {
            let name = &wanted.target.name;
            let why = || (Mistake::Duplicate, format!("two targets are named {name}"));
            names.insert(name.clone()).then_some(()).ok_or_else(why)?;
            Ok(wanted)
        });
        match result {
            Ok(wanted) => good.push((wanted, &target.labels)),
            Err((mistake, why)) => {
                *mistake.count(&mut counts) += 1;
                complaints.entry(mistake).or_insert(why);
            }
        }
    }
    let wanted = match &job.mesh {
        None => good.into_iter().map(|(wanted, _)| wanted).collect(),
        Some(mesh) => {
            let (peers, members) = peers(mesh, good);
            counts.members = Some(members);
            peers
        }
    };
    counts.targets = wanted.len();
    FoundList { wanted, counts, complaints: complaints.into_values().collect() }
}

/// Why a target cannot be probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Mistake {
    Address,
    Label,
    Module,
    Duplicate,
}

impl Mistake {
    fn count(self, counts: &mut ListSnapshot) -> &mut usize {
        match self {
            Self::Address => &mut counts.bad_addresses,
            Self::Label => &mut counts.bad_labels,
            Self::Module => &mut counts.bad_modules,
            Self::Duplicate => &mut counts.duplicates,
        }
    }
}

fn wanted(job: &Job, found: &discovery::Target) -> Result<Wanted, (Mistake, String)> {
    let at = |why: &dyn std::fmt::Display| format!("target {:?}: {why}", short(&found.address));
    let address: HostPort = found.address.parse().map_err(|bad| (Mistake::Address, at(&bad)))?;
    let module = match &found.module {
        None => &job.module,
        Some(name) => job.modules.get(name).ok_or_else(|| {
            let why = format!("there is no module {:?} (__module__)", short(name));
            (Mistake::Module, at(&why))
        })?,
    };
    let mut labels = found.labels.clone();
    let name = labels.remove(NAME).unwrap_or_else(|| address.to_string());
    let bad_label = |why: String| (Mistake::Label, at(&why));
    address::check_name(&name).map_err(|why| bad_label(format!("its name {why}")))?;
    if labels.len() > limits::LABELS_MAX {
        let most = limits::LABELS_MAX;
        return Err(bad_label(format!("has more than {most} labels; drop some by labeldrop")));
    }
    for (label, value) in &labels {
        check_label(label, value)
            .map_err(|why| bad_label(format!("{why}, or drop it by labeldrop")))?;
    }
    let labels = labels.into_iter().collect();
    Ok(Wanted { target: Target { name, address }, labels, module: Arc::clone(module) })
}

/// Those of them that this host probes, and how many hosts the mesh has.
fn peers(mesh: &MeshConfig, good: Vec<(Wanted, &discovery::Labels)>) -> (Vec<Wanted>, usize) {
    // Two ways to write one address are one member.
    let mut ids: Vec<String> = Vec::with_capacity(good.len());
    let mut members: HashMap<String, usize> = HashMap::with_capacity(good.len());
    let mut labels = Vec::with_capacity(good.len());
    let mut wanted = Vec::with_capacity(good.len());
    for (target, of) in good {
        let id = target.target.address.to_string();
        let Entry::Vacant(vacant) = members.entry(id.clone()) else { continue };
        vacant.insert(ids.len());
        ids.push(id);
        labels.push(of);
        wanted.push(Some(target));
    }
    let own = mesh.own.parse::<HostPort>().map_or_else(|_| mesh.own.clone(), |it| it.to_string());
    let place = members.get(&own).copied().unwrap_or_else(|| {
        // Nobody knows this host yet.
        ids.push(own);
        labels.push(&mesh.labels);
        wanted.push(None);
        ids.len() - 1
    });
    let members: Vec<Member<'_>> =
        ids.iter().zip(&labels).map(|(id, labels)| Member { id, labels }).collect();
    let scopes: Vec<Scope> = mesh
        .scopes
        .iter()
        .map(|it| Scope { same: it.same.clone(), other: it.other.clone(), peers: it.peers })
        .collect();
    let chosen = Roster::new(&members, &scopes).peers(place);
    let peers = chosen.iter().filter_map(|peer| wanted[peer.member].take()).collect();
    (peers, members.len())
}

/// What a source wrote may be long.
fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// The label that names a target; without it the address does.
const NAME: &str = "target";

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::path::Path;

    use super::*;
    use crate::config::agent::AgentSection;
    use crate::config::file;

    fn section(discovery: &str) -> AgentSection {
        let text = format!(
            "modules: {{fast: {{}}, slow: {{interval: 1s}}}}\ntargets: [{{name: a, address: 'h:1', \
             module: fast}}]\ndiscovery:\n- {discovery}\n"
        );
        file::parse(&text, Path::new("x.yaml")).unwrap().agent.unwrap()
    }

    /// `ADDRESS LABEL=VALUE…`
    fn target(text: &str) -> discovery::Target {
        let mut words = text.split(' ');
        let address = words.next().unwrap().to_owned();
        let mut labels: discovery::Labels = words
            .map(|word| word.split_once('=').unwrap())
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let module = labels.remove("__module__");
        discovery::Target { job: 0, address, labels, module }
    }

    fn found(discovery: &str, targets: &[&str]) -> FoundList {
        let jobs = section(discovery).discovery;
        let targets = targets.iter().map(|text| target(text)).collect();
        let mut found = read(&List { jobs, targets });
        assert_eq!(found.lists.len(), 1);
        found.lists.remove(0)
    }

    const STATIC: &str = "{module: fast, static_configs: [{targets: []}]}";

    #[test]
    fn what_cannot_be_probed_is_counted_and_holds_up_nobody() {
        let many: String = (0..33).map(|number| format!(" l{number}=x")).collect();
        let list = found(
            STATIC,
            &[
                "10.0.0.1:4000 rack=r1",
                "10.0.0.1:4000 rack=r2",
                "10.0.0.2:4000 target=db __module__=slow",
                "10.0.0.3 a=b",
                "[::1 a=b",
                "h:1 job=x",
                "h:2 a=b target=",
                &format!("h:3{many}"),
                "h:4 __module__=none",
                "fd00::1:4000 a=b",
                "[fd00::1]:4000",
            ],
        );
        let names: Vec<_> = list
            .wanted
            .iter()
            .map(|it| (it.target.name.as_str(), it.module.name.as_str(), it.labels.len()))
            .collect();
        let expected =
            [("10.0.0.1:4000", "fast", 1), ("db", "slow", 0), ("[fd00::1]:4000", "fast", 0)];
        assert_eq!(names, expected);
        let ListSnapshot { bad_addresses, bad_labels, bad_modules, duplicates, .. } = list.counts;
        assert_eq!((bad_addresses, bad_labels, bad_modules, duplicates), (3, 3, 1, 1));
        assert_eq!((list.counts.bad(), list.counts.targets), (8, 3));
        assert_eq!(list.complaints.len(), 4, "{:?}", list.complaints);
        assert!(list.complaints.iter().any(|it| it.contains("labeldrop")));
    }

    #[test]
    fn the_file_comes_first_and_what_is_beyond_the_limit_goes() {
        let section = section(STATIC);
        let list = found(STATIC, &["h:2 target=a", "h:3", "h:4", "h:5"]);
        let found = Found { lists: vec![list] };
        let check = |targets_max: usize, names: &[&str], duplicates, excess| {
            let (merged, dropped) = merge(&section.targets, &found, targets_max);
            let merged: Vec<_> = merged.iter().map(|it| it.target.name.as_str()).collect();
            assert_eq!((merged.as_slice(), dropped), (names, Dropped { duplicates, excess }));
        };
        check(9, &["a", "h:3", "h:4", "h:5"], 1, 0);
        check(2, &["a", "h:3"], 1, 2);
        check(1, &["a"], 1, 3);
    }

    #[test]
    fn a_host_probes_its_peers_and_never_itself() {
        let mesh = |own: &str| {
            format!(
                "{{module: fast, static_configs: [{{targets: []}}], mesh: {{self: '{own}', labels: \
                 {{rack: r0}}, scopes: [{{name: rack, same: [rack], peers: 2}}]}}}}"
            )
        };
        let hosts: Vec<String> =
            (0..12).map(|host| format!("10.0.0.{host}:4000 rack=r{}", host % 2)).collect();
        let hosts: Vec<&str> = hosts.iter().map(String::as_str).collect();
        let peers = |own: &str| {
            let list = found(&mesh(own), &hosts);
            let names: Vec<_> = list.wanted.into_iter().map(|it| it.target.name).collect();
            (names, list.counts.members)
        };
        let mut probed: HashMap<String, usize> = HashMap::new();
        for host in 0..12 {
            let own = format!("10.0.0.{host}:4000");
            let (names, members) = peers(&own);
            assert_eq!((names.len(), members), (2, Some(12)));
            for name in names {
                let number: u32 = name[7..name.len() - 5].parse().unwrap();
                assert!(number != host && number % 2 == host % 2, "{own} probes {name}");
                *probed.entry(name).or_default() += 1;
            }
        }
        assert!(probed.len() == 12 && probed.values().all(|&times| (1..=3).contains(&times)));
        // One that is not known yet has its own labels.
        let (names, members) = peers("10.0.0.99:4000");
        assert_eq!((names.len(), members), (2, Some(13)));
        assert!(names.iter().all(|name| "02468".contains(&name[name.len() - 6..name.len() - 5])));
    }
}
