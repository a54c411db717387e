//! What an agent is to probe, and how that changes: the targets that run and those that are wanted
//! in, who has to go and who has to come out. Pure: where the targets come from (a file, discovery)
//! and what a running one is, is the business of others.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::discovery::Job;
use super::file::check_label;
use super::on_demand::OnDemandSection;
use super::relay::same_but_drained;
use super::{Config, ProbeSection, Target};
use crate::sys::ClockChoice;

/// A long-running prober of targets that change.
#[derive(Clone, Debug, PartialEq)]
pub struct AgentSection {
    /// Where all of this was read, and is read again.
    pub file: PathBuf,
    /// Other files that are read with it, or again while it runs.
    pub reads: Vec<PathBuf>,
    /// The ways to probe, by name; at least one.
    pub modules: Arc<BTreeMap<String, Arc<Module>>>,
    /// Whom to probe, with distinct names. May be empty.
    pub targets: Vec<Wanted>,
    /// Where more of them come from.
    pub discovery: Arc<[Job]>,
    /// Who may be probed by `/probe`, if anybody.
    pub on_demand: Option<Arc<OnDemandSection>>,
    /// Targets beyond this many are refused, whoever names them.
    pub targets_max: usize,
}

/// A way to probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Module {
    /// Its name.
    pub name: String,
    /// Which clocks its probes may use.
    pub clock: ClockChoice,
    /// Everything else. Without targets, count and duration.
    pub settings: ProbeSection,
}

/// A target, and all that decides how it is probed and shown.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// Name and address.
    pub target: Target,
    /// The user's labels, in the order of their names.
    pub labels: Vec<(String, String)>,
    /// How.
    pub module: Arc<Module>,
}

/// What every list of wanted targets must hold, from wherever it comes.
///
/// # Errors
/// One line: what is wrong and what to write instead.
pub fn check(wanted: &[Wanted], targets_max: usize) -> Result<(), String> {
    if wanted.len() > targets_max {
        let given = wanted.len();
        return Err(format!("{given} targets: must be at most {targets_max}; write fewer"));
    }
    let mut names = HashSet::with_capacity(wanted.len());
    for Wanted { target, labels, .. } in wanted {
        let name = &target.name;
        if !names.insert(name.as_str()) {
            return Err(format!("two targets are named {name}; give one another name"));
        }
        for (label, value) in labels {
            check_label(label, value).map_err(|why| format!("target {name}: {why}"))?;
        }
    }
    Ok(())
}

/// From the targets that run to those that are wanted. Who is in neither list stays as it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan<K> {
    /// Who ends, before anybody begins.
    pub removed: Vec<K>,
    /// Who begins.
    pub added: Vec<Wanted>,
    /// How many are in both lists: the same name, probed or shown in another way.
    pub changed: usize,
    /// How many are in neither.
    pub untouched: usize,
}

/// What is to be done to the `running` ones, whose names are distinct as those of the `wanted`.
#[must_use]
pub fn plan<'a, K>(
    running: impl IntoIterator<Item = (K, &'a Wanted)>,
    wanted: Vec<Wanted>,
) -> Plan<K> {
    let mut running: HashMap<&str, (K, &Wanted)> = running
        .into_iter()
        .map(|(key, known)| (known.target.name.as_str(), (key, known)))
        .collect();
    let mut plan = Plan { removed: Vec::new(), added: Vec::new(), changed: 0, untouched: 0 };
    for wanted in wanted {
        match running.remove(wanted.target.name.as_str()) {
            Some((_, known)) if is_same(known, &wanted) => plan.untouched += 1,
            Some((key, _)) => {
                plan.changed += 1;
                plan.removed.push(key);
                plan.added.push(wanted);
            }
            None => plan.added.push(wanted),
        }
    }
    plan.removed.extend(running.into_values().map(|(key, _)| key));
    plan
}

/// The sections of a file that differ and that a program cannot change while it runs.
#[must_use]
pub fn restart_needed(running: &Config, wanted: &Config) -> Vec<&'static str> {
    let differ = [
        ("serve", running.serve != wanted.serve),
        ("relay", !same_but_drained(running.relay.as_ref(), wanted.relay.as_ref())),
        ("web", running.web != wanted.web),
        ("measuring", running.measuring != wanted.measuring),
        ("log", running.log != wanted.log),
    ];
    differ.into_iter().filter_map(|(section, differs)| differs.then_some(section)).collect()
}

/// Whether nothing needs to be done; how a module is called makes no difference.
fn is_same(known: &Wanted, wanted: &Wanted) -> bool {
    let same_module =
        |one: &Module, other: &Module| one.clock == other.clock && one.settings == other.settings;
    known.target == wanted.target
        && known.labels == wanted.labels
        && (Arc::ptr_eq(&known.module, &wanted.module)
            || same_module(&known.module, &wanted.module))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::path::Path;

    use proptest::prelude::*;

    use super::*;
    use crate::config::file;

    fn targets(list: &str) -> Vec<Wanted> {
        let text = format!(
            "modules: {{fast: {{interval: 10ms}}, slow: {{interval: 1s}}, same: {{interval: \
             10ms}}}}\ntargets: [{list}]\n"
        );
        file::parse(&text, Path::new("x.yaml")).unwrap().agent.unwrap().targets
    }

    fn one(name: &str, port: u16, module: &str, site: &str) -> String {
        format!(
            "{{name: {name}, address: 'h:{port}', module: {module}, labels: {{site: {site}}}}},"
        )
    }

    fn check(before: &str, after: &str, expected: (&[usize], &[&str], usize, usize)) {
        let before = targets(before);
        let mut plan = plan(before.iter().enumerate(), targets(after));
        plan.removed.sort_unstable();
        let added: Vec<&str> = plan.added.iter().map(|it| it.target.name.as_str()).collect();
        let found = (plan.removed.as_slice(), added.as_slice(), plan.changed, plan.untouched);
        assert_eq!(found, expected, "{after}");
    }

    #[test]
    fn who_goes_and_who_comes() {
        let (a, b) = (one("a", 1, "fast", "x"), one("b", 2, "slow", "x"));
        let both = format!("{a}{b}");
        check("", "", (&[], &[], 0, 0));
        check("", &both, (&[], &["a", "b"], 0, 0));
        check(&both, &both, (&[], &[], 0, 2));
        check(&both, &format!("{b}{a}"), (&[], &[], 0, 2));
        check(&both, &b, (&[0], &[], 0, 1));
        check(&both, "", (&[0, 1], &[], 0, 0));
        for other in [one("a", 9, "fast", "x"), one("a", 1, "slow", "x"), one("a", 1, "fast", "y")]
        {
            check(&both, &format!("{other}{b}"), (&[0], &["a"], 1, 1));
        }
        check(&both, &format!("{}{b}", one("a", 1, "same", "x")), (&[], &[], 0, 2));
        check(&both, &format!("{}{b}", one("c", 1, "fast", "x")), (&[0], &["c"], 0, 1));
    }

    #[test]
    fn no_list_is_taken_that_cannot_be_shown() {
        let list = targets(&format!("{}{}", one("a", 1, "fast", "x"), one("b", 1, "fast", "x")));
        assert_eq!(super::check(&list, 2), Ok(()));
        let refused = |list: &[Wanted], part: &str| {
            let why = super::check(list, 2).unwrap_err();
            assert!(why.contains(part), "{why}");
        };
        refused(&[list[0].clone(), list[0].clone()], "two targets are named a");
        refused(&[&list[..], &list[..1]].concat(), "3 targets: must be at most 2");
        let labels = vec![("job".to_owned(), "x".to_owned())];
        refused(&[Wanted { labels, ..list[0].clone() }], "target a: the label job");
    }

    #[test]
    fn what_needs_a_restart_is_named() {
        let config = |text: &str| file::parse(text, Path::new("x.yaml")).unwrap();
        let before = config("serve: {}\n");
        let check = |text: &str, sections: &[&str]| {
            assert_eq!(restart_needed(&before, &config(text)), sections, "{text}");
        };
        check("serve: {}\ntargets: [{address: 'h:1'}]", &[]);
        check("", &["serve"]);
        check("serve: {listen: ':4000'}\nlog: {level: debug}", &["log"]);
        let relay = |drain: &str| {
            config(&format!("relay: {{listeners: [{{listen: ':1', upstreams: 'a:1', {drain}}}]}}"))
        };
        assert_eq!(restart_needed(&relay(""), &relay("drain: 'a:1'")), [""; 0]);
        assert_eq!(restart_needed(&relay(""), &relay("proxy_in: true")), ["relay"]);
        check("serve: {}\nmeasuring: {threads: 2}\nweb: {listen: ':1'}", &["web", "measuring"]);
    }

    proptest! {
        /// Doing as planned leads to what is wanted, and touches nobody that is as wanted.
        #[test]
        fn plans_lead_to_what_is_wanted(
            before in prop::collection::btree_map(0..20_u16, 0..4_u16, 0..20),
            after in prop::collection::btree_map(0..20_u16, 0..4_u16, 0..20),
        ) {
            let module = targets(&one("a", 1, "fast", "x"))[0].clone();
            let list = |of: &BTreeMap<u16, u16>| -> Vec<Wanted> {
                let wanted = |(name, port): (&u16, &u16)| {
                    let text = format!("n{name}=h:{}", port + 1);
                    Wanted { target: text.parse().unwrap(), ..module.clone() }
                };
                of.iter().map(wanted).collect()
            };
            let (running, wanted) = (list(&before), list(&after));
            let plan = plan(running.iter().enumerate(), wanted.clone());
            let kept = |at: &usize| !plan.removed.contains(at);
            let mut result: Vec<Wanted> =
                (0..running.len()).filter(kept).map(|at| running[at].clone()).collect();
            prop_assert_eq!(result.len(), plan.untouched);
            prop_assert!(result.iter().all(|it| wanted.contains(it)));
            prop_assert!(plan.added.iter().all(|it| !running.contains(it)));
            result.extend(plan.added);
            let by_name = |it: &Wanted| it.target.name.clone();
            result.sort_by_key(by_name);
            let mut wanted = wanted;
            wanted.sort_by_key(by_name);
            prop_assert_eq!(result, wanted);
        }
    }
}
