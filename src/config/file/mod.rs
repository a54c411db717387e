//! The file of `--config.file`: YAML in, one checked [`Config`] out, or every mistake that was
//! found, each with its place and what to write instead. The seed's `targets.json` is one, too.

mod discovery;
mod module;
mod on_demand;
mod raw;
mod relay;
pub mod schema;
mod settings;

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use serde_saphyr::{Location, Spanned};

use self::raw::{RawFile, RawModule, RawTarget};
use super::address::check_name;
use super::agent::{AgentSection, Module, Wanted};
use super::yaml::{self, Mistake, Word, shown};
use super::{BadValue, Config, HostPort, Target, limits, targets_file};

/// Names that a user's label must not have: those of the metrics' own labels.
pub const RESERVED_LABELS: &[&str] = &[
    "target", "address", "method", "outcome", "clock", "stage", "stamp", "reason", "slo", "le",
    "job", "instance",
];

/// Why a file is not good: a line for each mistake, with file, line and column.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct BadConfigFile(pub Vec<String>);

/// Reads a configuration file, and those that it names.
///
/// # Errors
/// If there is no such file, or something in it is wrong.
pub fn read(path: &Path) -> Result<Config, BadConfigFile> {
    let refuse = |why: String| BadConfigFile(vec![format!("{}: {why}", path.display())]);
    let unreadable = |error: std::io::Error| {
        refuse(format!("cannot be read ({error}); write the path of a YAML file"))
    };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(limits::CONFIG_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > limits::CONFIG_FILE_BYTES_MAX {
        let mib = limits::CONFIG_FILE_BYTES_MAX / 1024 / 1024;
        return Err(refuse(format!("is larger than {mib} MiB; write fewer targets")));
    }
    parse(&text, path)
}

/// The same of the file's text; paths in it are relative to the folder of `path`.
///
/// # Errors
/// If something is wrong in the text, or in a file that it names.
pub fn parse(text: &str, path: &Path) -> Result<Config, BadConfigFile> {
    let mut complaints = Complaints::default();
    let config = if text.trim_start_matches('\u{feff}').trim_start().starts_with('[') {
        of_the_seed(text, path, &mut complaints)
    } else {
        match yaml::parse::<RawFile>(text, limits::CONFIG_FILE_NODES_MAX) {
            Ok(raw) => Some(checked(raw.unwrap_or_default(), path, &mut complaints)),
            Err(mistake) => {
                complaints.0.push(mistake);
                None
            }
        }
    };
    match config {
        Some(config) if complaints.0.is_empty() => Ok(config),
        _ => Err(complaints.told(path)),
    }
}

/// Mistakes so far.
#[derive(Debug, Default)]
struct Complaints(Vec<Mistake>);

impl Complaints {
    fn at(&mut self, place: Location, why: impl Into<String>) {
        self.0.push(Mistake::at(place, why));
    }

    /// A word through the parser of its setting; `None` if it is missing or bad.
    fn value<T>(
        &mut self,
        key: &str,
        word: Option<&Word>,
        parse: impl FnOnce(&str) -> Result<T, BadValue>,
    ) -> Option<T> {
        let word = word?;
        match parse(&word.value) {
            Ok(value) => Some(value),
            Err(BadValue { why, instead }) => {
                let value = shown(&word.value);
                let line = format!("{key} {value}: {why}; write e.g. {key}: {instead}");
                self.at(word.referenced, line);
                None
            }
        }
    }

    /// A word that is one of a few.
    fn choice<T: Copy>(
        &mut self,
        key: &str,
        word: Option<&Word>,
        known: &[(&str, T)],
    ) -> Option<T> {
        let word = word?;
        let found = known.iter().find(|(name, _)| *name == word.value);
        if found.is_none() {
            let names: Vec<&str> = known.iter().map(|(name, _)| *name).collect();
            self.0.push(yaml::unknown(key, word, &names));
        }
        found.map(|(_, value)| *value)
    }

    fn told(mut self, path: &Path) -> BadConfigFile {
        self.0.sort_by_key(|mistake| (mistake.line, mistake.column));
        let path = path.display();
        let more = self.0.len().saturating_sub(limits::MISTAKES_MAX);
        let shown = self.0.iter().take(limits::MISTAKES_MAX);
        let mut lines: Vec<String> = shown
            .map(|Mistake { line, column, why }| match line {
                0 => format!("{path}: {why}"),
                line => format!("{path}:{line}:{column}: {why}"),
            })
            .collect();
        if more > 0 {
            lines.push(format!("{path}: {more} more mistakes"));
        }
        BadConfigFile(lines)
    }
}

fn checked(raw: RawFile, path: &Path, complaints: &mut Complaints) -> Config {
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let measuring = settings::measuring(&raw.measuring.unwrap_or_default(), complaints);
    let serve = raw.serve.and_then(|serve| settings::serve(&serve, complaints));
    let relay = raw.relay.and_then(|raw| relay::section(raw, complaints));
    let web = settings::web(raw.web.unwrap_or_default(), folder, complaints);
    let log = settings::log(&raw.log.unwrap_or_default(), complaints);
    let limits = raw.limits.unwrap_or_default();
    let targets_max = complaints.value("targets", limits.targets.as_ref(), settings::targets_max);
    let targets_max = targets_max.unwrap_or(limits::TARGETS_MAX);
    let defaults = raw.defaults.unwrap_or_default();
    let modules = modules(&defaults, raw.modules.unwrap_or_default(), measuring.clock, complaints);
    let modules = Arc::new(modules);
    let reads = raw.targets_file.iter().map(|file| folder.join(&file.value)).collect();
    let names: Vec<&str> = modules.keys().map(String::as_str).collect();
    let on_demand = raw.probe.and_then(|raw| on_demand::checked(raw, &names, complaints));
    let mut targets = Targets::new(&modules);
    for target in raw.targets.unwrap_or_default() {
        targets.add(target, complaints);
    }
    if let Some(file) = &raw.targets_file {
        targets.add_file(file, folder, complaints);
    }
    let targets = targets.list;
    if targets.len() > targets_max {
        let given = targets.len();
        let why = format!("{given} targets: must be at most {targets_max}; write fewer");
        complaints.0.push(Mistake { line: 0, column: 0, why });
    }
    let discovery =
        discovery::jobs(raw.discovery.unwrap_or_default(), &modules, folder, complaints);
    let agent = AgentSection {
        file: path.to_owned(),
        reads,
        modules,
        targets,
        discovery,
        on_demand: on_demand.map(Arc::new),
        targets_max,
    };
    Config {
        relay,
        serve,
        probe: None,
        agent: Some(agent),
        check: None,
        info: None,
        load: None,
        doctor: None,
        web: Some(web),
        measuring,
        log,
    }
}

/// Everything as it is unless it is said, and these targets.
fn of_the_seed(text: &str, path: &Path, complaints: &mut Complaints) -> Option<Config> {
    let list = match targets_file::parse(text) {
        Ok(list) => list,
        Err(why) => {
            complaints.0.push(Mistake { line: 0, column: 0, why });
            return None;
        }
    };
    let mut config = checked(RawFile::default(), path, complaints);
    let agent = config.agent.as_mut()?;
    let module = agent.modules.values().next()?;
    let wanted = |target| Wanted { target, labels: Vec::new(), module: Arc::clone(module) };
    agent.targets = list.into_iter().map(wanted).collect();
    Some(config)
}

/// The modules of the file; one, of the defaults, if there are none.
fn modules(
    defaults: &RawModule,
    mut raw: BTreeMap<String, Spanned<RawModule>>,
    clock: crate::sys::ClockChoice,
    complaints: &mut Complaints,
) -> BTreeMap<String, Arc<Module>> {
    if raw.is_empty() {
        let place = Location::UNKNOWN;
        raw.insert("echo".to_owned(), Spanned::new(RawModule::default(), place, place));
    }
    if raw.len() > limits::MODULES_MAX {
        let why = format!("{} modules: must be at most {}", raw.len(), limits::MODULES_MAX);
        complaints.0.push(Mistake { line: 0, column: 0, why });
    }
    let mut modules = BTreeMap::new();
    for (name, own) in raw {
        if let Err(why) = check_name(&name) {
            complaints.at(own.referenced, format!("a module {why}; write e.g. fast"));
        }
        let module = module::checked(&name, &own.value, defaults, clock, complaints);
        modules.insert(name, Arc::new(module));
    }
    modules
}

/// The targets so far.
struct Targets<'a> {
    modules: &'a BTreeMap<String, Arc<Module>>,
    list: Vec<Wanted>,
    /// Each name, and where it stands.
    names: HashMap<String, Location>,
}

impl<'a> Targets<'a> {
    fn new(modules: &'a BTreeMap<String, Arc<Module>>) -> Self {
        Self { modules, list: Vec::new(), names: HashMap::new() }
    }

    fn add(&mut self, raw: Spanned<RawTarget>, complaints: &mut Complaints) {
        let place = raw.referenced;
        let raw = raw.value;
        let module = self.module(raw.module.as_ref(), place, complaints);
        let labels = labels(raw.labels.unwrap_or_default(), complaints);
        let Some(address) = raw.address else {
            return complaints.at(place, "the target has no address; write address: 10.0.0.1:4000");
        };
        let parsed = complaints.value("address", Some(&address), str::parse::<HostPort>);
        let name_place = raw.name.as_ref().map_or(address.referenced, |name| name.referenced);
        let name = match (raw.name, &parsed) {
            (Some(name), _) => name.value,
            (None, Some(address)) => address.to_string(),
            (None, None) => return,
        };
        if let Err(why) = check_name(&name) {
            return complaints.at(name_place, format!("the target {why}; write e.g. name: db"));
        }
        if let Some(earlier) = self.names.insert(name.clone(), name_place) {
            let (name, line) = (shown(&name), earlier.line());
            let why = format!("{name} is the name of line {line}, too; write another name: to it");
            complaints.at(name_place, why);
        }
        if let (Some(address), Some(module)) = (parsed, module) {
            self.list.push(Wanted { target: Target { name, address }, labels, module });
        }
    }

    /// The targets of the seed's file.
    fn add_file(&mut self, file: &Word, folder: &Path, complaints: &mut Complaints) {
        let path = folder.join(&file.value);
        let module = self.module(None, file.referenced, complaints);
        let list = match targets_file::read(&path) {
            Ok(list) => list,
            Err(why) => {
                let why = format!("targets_file {}: {why}", shown(&file.value));
                return complaints.at(file.referenced, why);
            }
        };
        let Some(module) = module else { return };
        for target in list {
            if self.names.insert(target.name.clone(), file.referenced).is_some() {
                let why = format!("{} is the name of two targets; write another", target.name);
                complaints.at(file.referenced, why);
            }
            let module = Arc::clone(&module);
            self.list.push(Wanted { target, labels: Vec::new(), module });
        }
    }

    /// The module by its name, or the only one there is.
    fn module(
        &self,
        word: Option<&Word>,
        place: Location,
        complaints: &mut Complaints,
    ) -> Option<Arc<Module>> {
        let names = || self.modules.keys().map(String::as_str).collect::<Vec<_>>();
        let found = match word {
            Some(word) => self.modules.get(&word.value),
            None if self.modules.len() == 1 => self.modules.values().next(),
            None => None,
        };
        match (found, word) {
            (Some(module), _) => return Some(Arc::clone(module)),
            (None, Some(word)) => complaints.0.push(yaml::unknown("module", word, &names())),
            (None, None) => {
                let names = names().join(", ");
                complaints.at(place, format!("there are several modules; write module: {names}"));
            }
        }
        None
    }
}

fn labels(raw: BTreeMap<String, Word>, complaints: &mut Complaints) -> Vec<(String, String)> {
    let mut labels = Vec::with_capacity(raw.len());
    let too_many = raw.len() > limits::LABELS_MAX;
    for (name, word) in raw {
        let place = word.referenced;
        if let Err(why) = check_label(&name, &word.value) {
            complaints.at(place, why);
        }
        if too_many && labels.is_empty() {
            let most = limits::LABELS_MAX;
            complaints.at(place, format!("a target has at most {most} labels; write fewer"));
        }
        labels.push((name, word.value));
    }
    labels
}

/// Whether a target may have this label, from wherever it comes.
///
/// # Errors
/// One line: what is wrong and what to write instead.
pub fn check_label(name: &str, value: &str) -> Result<(), String> {
    let refuse = |why: &str| Err(format!("the label {} {why}", shown(name)));
    let mut bytes = name.bytes();
    let begins = bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
    if !begins || !bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return refuse("is no name; write letters, digits and _, e.g. site");
    }
    if name.starts_with("__") {
        return refuse("begins with __, which Prometheus keeps for itself; write e.g. site");
    }
    if RESERVED_LABELS.contains(&name) {
        return refuse(&format!("is one of the metrics' own; write e.g. my_{name}"));
    }
    if name.len() > limits::NAME_BYTES_MAX || value.len() > limits::LABEL_BYTES_MAX {
        return refuse(&format!("has more than {} bytes; write fewer", limits::LABEL_BYTES_MAX));
    }
    Ok(())
}

#[cfg(test)]
mod tests;
