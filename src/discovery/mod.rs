//! Whom to probe, as files, URLs and name servers say it: the checked sections of the agent's file
//! in, one list of targets that changes by itself out, and how each source is doing.
//!
//! Each source is a task of the control plane that keeps its last good answer: nothing that a
//! source does or fails to do takes away a target but an answer without it. One more task joins
//! the answers, relabels them, and publishes them when they changed.

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, spawn_blocking};

use crate::config::discovery::{DnsSd, FileSd, HttpSd, Job, RelabelConfig, TargetGroup};
use crate::config::limits::TARGETS_MAX;
use crate::time::{Now, Wall};

mod dns;
mod file;
mod http;
pub mod relabel;

/// Names and values.
pub type Labels = BTreeMap<String, String>;

/// One target, ready to be probed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// Which of the [`List::jobs`] found it.
    pub job: usize,
    /// `host:port` as the source wrote it; never empty, otherwise unchecked.
    pub address: String,
    /// Labels for its series.
    pub labels: Labels,
    /// The module that its label `__module__` names, if it has one.
    pub module: Option<String>,
}

/// All targets of some jobs.
#[derive(Clone, Debug, Default)]
pub struct List {
    /// The jobs as they were when this was found.
    pub jobs: Arc<[Job]>,
    /// Sorted and without duplicates within a job.
    pub targets: Vec<Target>,
}

/// What to discover.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The lists of targets.
    pub jobs: Arc<[Job]>,
    /// Reads the clocks, for [`Health::last_success`].
    pub now: fn() -> Now,
}

/// How a source is doing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Health {
    /// Whose source it is: the job's name.
    pub job: String,
    /// Its kind and its first file, URL or name: a label's value, and another one for each source
    /// of a job.
    pub source: String,
    /// When it was last asked and answered well.
    pub last_success: Option<Wall>,
    /// How often it was asked.
    pub refreshes: u64,
    /// How often it was asked and failed.
    pub failures: u64,
    /// Targets of its last good answer, before relabelling.
    pub targets: usize,
    /// What is wrong now, in one line.
    pub error: Option<String>,
}

/// Running sources. Dropping it ends them.
#[derive(Debug)]
pub struct Discovery {
    sources: Vec<Running>,
    joiner: AbortHandle,
    list: Arc<watch::Sender<Arc<List>>>,
    health: Arc<watch::Sender<Arc<[Health]>>>,
    changed: Arc<Notify>,
    excess: Arc<watch::Sender<Option<usize>>>,
}

impl Discovery {
    /// Starts the sources, inside a tokio runtime. Static targets are published at once, those of
    /// sources as they answer.
    #[must_use]
    pub fn start(settings: Settings) -> Self {
        let mut discovery = Self {
            sources: Vec::new(),
            joiner: tokio::spawn(async {}).abort_handle(),
            list: Arc::default(),
            health: Arc::new(watch::Sender::new(Arc::default())),
            changed: Arc::new(Notify::new()),
            excess: Arc::new(watch::Sender::new(None)),
        };
        discovery.run(settings, false);
        discovery
    }

    /// Replaces the settings. Sources that stay the same keep running, whatever job they are of;
    /// the list of targets stays what it is until each new source has answered or failed once, but
    /// not for longer than [`PATIENCE`].
    pub fn reload(&mut self, settings: Settings) {
        self.run(settings, true);
    }

    /// The targets.
    #[must_use]
    pub fn list(&self) -> watch::Receiver<Arc<List>> {
        self.list.subscribe()
    }

    /// How each source is doing, in the order of the jobs.
    #[must_use]
    pub fn health(&self) -> watch::Receiver<Arc<[Health]>> {
        self.health.subscribe()
    }

    /// How many targets all sources have together, if that is too many: the list is then what it
    /// was before.
    #[must_use]
    pub fn excess(&self) -> watch::Receiver<Option<usize>> {
        self.excess.subscribe()
    }

    fn run(&mut self, settings: Settings, wait: bool) {
        self.joiner.abort();
        let Settings { jobs, now } = settings;
        let mut old = std::mem::take(&mut self.sources);
        let mut parts = Vec::with_capacity(jobs.len());
        for job in jobs.iter() {
            let mut sources = Vec::new();
            for spec in specs(job) {
                let same = old.iter().position(|running| running.spec == spec);
                let running = match same {
                    Some(index) => old.swap_remove(index),
                    None => Running::start(spec, Arc::clone(&self.changed), now),
                };
                let name = unique(&running.spec.to_string(), &sources);
                sources.push((name, running.state.clone()));
                self.sources.push(running);
            }
            let fixed = Arc::new(group_labels(&job.static_configs, &[]));
            parts.push(Part { fixed, sources });
        }
        let joiner = Joiner {
            jobs,
            parts,
            list: Arc::clone(&self.list),
            health: Arc::clone(&self.health),
            changed: Arc::clone(&self.changed),
            excess: Arc::clone(&self.excess),
        };
        self.joiner = tokio::spawn(joiner.run(wait)).abort_handle();
    }
}

impl Drop for Discovery {
    fn drop(&mut self) {
        self.joiner.abort();
    }
}

/// One source's settings.
#[derive(Clone, Debug, PartialEq)]
enum Spec {
    File(FileSd),
    Http(HttpSd),
    Dns(DnsSd),
}

fn specs(job: &Job) -> impl Iterator<Item = Spec> {
    let files = job.file_sd_configs.iter().cloned().map(Spec::File);
    let urls = job.http_sd_configs.iter().cloned().map(Spec::Http);
    let names = job.dns_sd_configs.iter().cloned().map(Spec::Dns);
    files.chain(urls).chain(names)
}

/// A name that none of the others has.
fn unique<T>(name: &str, others: &[(String, T)]) -> String {
    let is_free = |name: &String| others.iter().all(|(other, _)| other != name);
    let numbered = (2..).map(|number: usize| format!("{name}#{number}"));
    let mut names = std::iter::once(name.to_owned()).chain(numbered);
    names.find(is_free).expect("numbers do not end")
}

impl fmt::Display for Spec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(file) => {
                let first = file.files.first().map(|pattern| pattern.path().display());
                write!(f, "file:{}", first.map_or_else(String::new, |path| path.to_string()))
            }
            // What follows the question mark may be a token.
            Self::Http(http) => {
                f.write_str("http:")?;
                f.write_str(http.url.as_str().split('?').next().unwrap_or_default())
            }
            Self::Dns(dns) => write!(f, "dns:{}", dns.names.first().map_or("", String::as_str)),
        }
    }
}

/// A source that runs until this is dropped.
#[derive(Debug)]
struct Running {
    spec: Spec,
    state: watch::Receiver<State>,
    task: AbortHandle,
}

/// What a source has.
#[derive(Debug)]
struct State {
    targets: Arc<Vec<Labels>>,
    /// Whether it has answered or failed.
    asked: bool,
    health: Health,
}

/// What a source says when it is asked.
#[derive(Debug)]
struct Answer {
    /// All its targets, if they may differ from those before.
    targets: Option<Vec<Labels>>,
    error: Option<String>,
    /// When to ask again.
    wait: Duration,
}

impl Running {
    fn start(spec: Spec, changed: Arc<Notify>, now: fn() -> Now) -> Self {
        let health = Health {
            job: String::new(),
            source: spec.to_string(),
            last_success: None,
            refreshes: 0,
            failures: 0,
            targets: 0,
            error: None,
        };
        let state = State { targets: Arc::default(), asked: false, health };
        let (sender, state) = watch::channel(state);
        let asking = spec.clone();
        let task = tokio::spawn(async move {
            match asking {
                Spec::File(file) => {
                    let mut files = file::Files::new(file);
                    loop {
                        let wait = note(&sender, files.ask().await, now);
                        changed.notify_one();
                        tokio::time::sleep(wait).await;
                    }
                }
                Spec::Http(http) => loop {
                    let wait = note(&sender, http::ask(&http).await, now);
                    changed.notify_one();
                    tokio::time::sleep(wait).await;
                },
                Spec::Dns(dns) => {
                    let mut names = dns::Names::new(dns);
                    loop {
                        let wait = note(&sender, names.ask().await, now);
                        changed.notify_one();
                        tokio::time::sleep(wait).await;
                    }
                }
            }
        });
        Self { spec, state, task: task.abort_handle() }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Takes an answer over. A trouble is logged when it comes, changes and goes.
fn note(sender: &watch::Sender<State>, answer: Answer, now: fn() -> Now) -> Duration {
    let Answer { targets, mut error, wait } = answer;
    sender.send_modify(|state| {
        state.asked = true;
        let health = &mut state.health;
        match targets {
            Some(targets) if targets.len() > TARGETS_MAX => {
                let count = targets.len();
                error = Some(format!("answers {count} targets, more than {TARGETS_MAX}"));
            }
            Some(targets) => {
                health.targets = targets.len();
                if *state.targets != targets {
                    state.targets = Arc::new(targets);
                }
            }
            None => {}
        }
        health.refreshes += 1;
        match &error {
            Some(_) => health.failures += 1,
            None => health.last_success = Some(now().wall),
        }
        if error != health.error {
            match &error {
                Some(error) => tracing::warn!(
                    source = health.source,
                    error,
                    targets = health.targets,
                    "discovery fails; its last good answer stays"
                ),
                None => tracing::info!(source = health.source, "discovery works again"),
            }
        }
        health.error = error;
    });
    wait
}

/// What one job's targets are joined from.
struct Part {
    fixed: Arc<Vec<Labels>>,
    /// Each with its name.
    sources: Vec<(String, watch::Receiver<State>)>,
}

/// Joins the answers of all sources.
struct Joiner {
    jobs: Arc<[Job]>,
    parts: Vec<Part>,
    list: Arc<watch::Sender<Arc<List>>>,
    health: Arc<watch::Sender<Arc<[Health]>>>,
    changed: Arc<Notify>,
    excess: Arc<watch::Sender<Option<usize>>>,
}

impl Joiner {
    async fn run(self, wait: bool) {
        let mut patience = std::pin::pin!(tokio::time::sleep(PATIENCE));
        let mut waits = wait;
        loop {
            self.tell_health();
            waits = waits && !self.all_asked();
            if !waits {
                self.publish().await;
            }
            tokio::select! {
                () = self.changed.notified() => tokio::time::sleep(GATHER).await,
                () = &mut patience, if waits => waits = false,
            }
        }
    }

    fn all_asked(&self) -> bool {
        let mut sources = self.parts.iter().flat_map(|part| &part.sources);
        sources.all(|(_, state)| state.borrow().asked)
    }

    fn tell_health(&self) {
        let jobs = self.jobs.iter().zip(&self.parts);
        let health = jobs.flat_map(|(job, part)| {
            part.sources.iter().map(|(source, state)| Health {
                job: job.name.clone(),
                source: source.clone(),
                ..state.borrow().health.clone()
            })
        });
        self.health.send_replace(health.collect());
    }

    async fn publish(&self) {
        let answers = self.parts.iter().map(|part| {
            let answers = part.sources.iter().map(|(_, state)| Arc::clone(&state.borrow().targets));
            std::iter::once(Arc::clone(&part.fixed)).chain(answers).collect()
        });
        let answers: Vec<Vec<Arc<Vec<Labels>>>> = answers.collect();
        let count = answers.iter().flatten().map(|answer| answer.len()).sum();
        let excess = (count > TARGETS_MAX).then_some(count);
        if excess.is_some() && excess != *self.excess.borrow() {
            tracing::warn!(count, max = TARGETS_MAX, "too many targets; the list stays as it was");
        }
        self.excess.send_if_modified(|told| {
            let differ = *told != excess;
            *told = excess;
            differ
        });
        if excess.is_some() {
            return;
        }
        let jobs = Arc::clone(&self.jobs);
        let joined = spawn_blocking(move || {
            let numbered = jobs.iter().enumerate().zip(&answers);
            let targets =
                numbered.flat_map(|((job, of), answers)| join(job, answers, &of.relabel_configs));
            List { targets: targets.collect(), jobs: Arc::clone(&jobs) }
        });
        let Ok(list) = joined.await else { return };
        self.list.send_if_modified(|published| {
            let same_jobs = Arc::ptr_eq(&published.jobs, &list.jobs);
            let differ = !same_jobs || published.targets != list.targets;
            if differ {
                *published = Arc::new(list);
            }
            differ
        });
    }
}

fn join(job: usize, answers: &[Arc<Vec<Labels>>], rules: &[RelabelConfig]) -> Vec<Target> {
    let labels = answers.iter().flat_map(|answer| answer.iter().cloned());
    let mut targets: Vec<Target> =
        labels.filter_map(|labels| relabel::target(job, labels, rules)).collect();
    targets.sort_unstable();
    targets.dedup();
    targets
}

/// The labels of each target of some groups, with those of the source.
fn group_labels(groups: &[TargetGroup], meta: &[(&str, &str)]) -> Vec<Labels> {
    let mut all = Vec::new();
    for group in groups {
        for target in &group.targets {
            let mut labels = group.labels.clone();
            labels.extend(meta.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())));
            labels.insert(relabel::ADDRESS.to_owned(), target.clone());
            all.push(labels);
        }
    }
    all
}

/// How many targets some groups have; looked at before they are multiplied by their labels.
fn check_count(groups: &[TargetGroup]) -> Result<(), String> {
    let count: usize = groups.iter().map(|group| group.targets.len()).sum();
    let names = groups.iter().map(|group| group.targets.len() * group.labels.len()).sum::<usize>();
    if count > TARGETS_MAX {
        return Err(format!("has {count} targets, more than {TARGETS_MAX}"));
    }
    if names > LABELS_MAX {
        return Err(format!("has {names} labels, more than {LABELS_MAX}"));
    }
    let distinct: HashSet<&String> = groups.iter().flat_map(|group| group.labels.keys()).collect();
    if distinct.len() > LABEL_NAMES_MAX {
        let count = distinct.len();
        return Err(format!("has {count} names of labels, more than {LABEL_NAMES_MAX}"));
    }
    Ok(())
}

/// One line of at most so many characters, whatever a source wrote.
fn one_line(text: &str) -> String {
    let clean = text.chars().map(|letter| if letter.is_control() { ' ' } else { letter });
    clean.take(ERROR_CHARS_MAX).collect()
}

/// What several sources answer at about the same time is one change.
const GATHER: Duration = Duration::from_millis(50);

/// How long a reload waits for the first answers of new sources.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// Labels of all targets of one answer.
const LABELS_MAX: usize = 2_000_000;

/// Different names of labels in one answer.
const LABEL_NAMES_MAX: usize = 256;

/// Characters of an error.
const ERROR_CHARS_MAX: usize = 400;

#[cfg(test)]
mod tests;
