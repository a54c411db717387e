//! A program's own connections as metrics: connections are added with their labels, and each
//! scrape asks the kernel about each of them once. Sockets flow in, families flow out through the
//! registry of `prometheus-client` (`client`) or, with the feature `prometheus`, of the crate of
//! that name (`registry`).
//!
//! Each connection is a set of series: label those that live long and are few. A member that the
//! kernel does not fill has no family; one without a value has no sample. Nothing here panics.

mod client;
#[cfg(feature = "prometheus")]
mod registry;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::sys::tcp_info::{AsTcpSocket, Held};
use crate::tcp_info::{Kind, Member, Members, Raw, State};

/// What is exported, and how it is called.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CollectorOptions {
    /// What the families' names begin with, without the underscore.
    pub prefix: String,
    /// Names of the labels that every connection has.
    pub labels: Vec<String>,
    /// Which members are exported.
    pub members: Members,
    /// Connections at once: a scrape costs a system call each.
    pub connections_max: usize,
}

/// Exports `TCP_INFO` of registered connections. Its clones are the same collector.
#[derive(Clone, Debug)]
pub struct TcpInfoCollector {
    shared: Arc<Shared>,
}

/// A connection's place in a collector; dropping it removes the connection.
#[derive(Debug)]
#[must_use = "the connection is removed when this is dropped"]
pub struct Registration {
    shared: Weak<Shared>,
    labels: Labels,
    number: u64,
}

/// What the kernel knew of one connection at a scrape.
#[derive(Clone, Debug)]
pub struct Reading {
    /// Values of the labels, in the order of their names.
    pub labels: Labels,
    /// The kernel's bytes.
    pub raw: Raw,
}

/// Values of labels.
pub type Labels = Arc<[String]>;

/// Why there is no such collector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionsError {
    /// A metric's name begins with a letter, `_` or `:`.
    #[error("{0:?} cannot begin the name of a metric")]
    Prefix(String),
    /// `[a-zA-Z_][a-zA-Z0-9_]*`, and not `__…`.
    #[error("{0:?} cannot be the name of a label")]
    Label(String),
    /// Two labels of one name.
    #[error("the label {0:?} is there twice")]
    LabelTwice(String),
}

/// Why a connection was not added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// There must be a value for each name.
    #[error("{found} values for {wanted} labels")]
    LabelCount {
        /// Values needed.
        wanted: usize,
        /// Values given.
        found: usize,
    },
    /// Another connection has these labels; two of them would spoil every scrape.
    #[error("a connection with the labels {0:?} is there already")]
    Duplicate(Labels),
    /// [`CollectorOptions::connections_max`] is reached.
    #[error("{0} connections are there already")]
    Full(usize),
    /// No TCP connection, no more descriptors, or no `TCP_INFO` on this platform.
    #[error("cannot read TCP_INFO: {0}")]
    Io(#[from] io::Error),
}

/// What all clones share.
#[derive(Debug)]
struct Shared {
    options: CollectorOptions,
    families: Vec<Family>,
    #[cfg(feature = "prometheus")]
    descriptions: Vec<prometheus::core::Desc>,
    connections: Mutex<Connections>,
}

/// An exported member, and what both registries need of it. Made once.
#[derive(Debug)]
struct Family {
    member: &'static Member,
    /// Whole, with unit and `_total`.
    #[cfg(feature = "prometheus")]
    name: String,
    /// Without both.
    stem: String,
    unit: Option<prometheus_client::registry::Unit>,
}

#[derive(Debug, Default)]
struct Connections {
    /// By label values, so that pages have one order.
    by_labels: BTreeMap<Labels, Arc<Connection>>,
    added: u64,
}

#[derive(Debug)]
struct Connection {
    number: u64,
    source: Source,
}

/// How a connection is reached.
enum Source {
    /// By a descriptor of ours.
    Held(Held),
    /// By its owner's, while it lives.
    Lent(Box<dyn Fn() -> Option<io::Result<Raw>> + Send + Sync>),
}

impl Default for CollectorOptions {
    fn default() -> Self {
        Self {
            prefix: "tcp_info".to_owned(),
            labels: Vec::new(),
            members: Members::DEFAULT,
            connections_max: CONNECTIONS_MAX,
        }
    }
}

impl TcpInfoCollector {
    /// A collector without connections.
    ///
    /// # Errors
    /// If a name is none that Prometheus takes.
    pub fn new(options: CollectorOptions) -> Result<Self, OptionsError> {
        check(&options)?;
        let families: Vec<Family> =
            options.members.iter().map(|member| Family::new(&options.prefix, member)).collect();
        #[cfg(feature = "prometheus")]
        let descriptions = registry::descriptions(&families, &options.labels);
        Ok(Self {
            shared: Arc::new(Shared {
                options,
                families,
                #[cfg(feature = "prometheus")]
                descriptions,
                connections: Mutex::default(),
            }),
        })
    }

    /// Adds a connection by a duplicate of its descriptor: closing the original does not let
    /// another connection take its place, nor does it close the connection. So drop the
    /// registration together with the connection, or shut it down before.
    ///
    /// # Errors
    /// See [`AddError`]; nothing was added then.
    pub fn add(
        &self,
        socket: &impl AsTcpSocket,
        labels: &[&str],
    ) -> Result<Registration, AddError> {
        let held = Held::new(socket)?;
        held.read()?;
        self.insert(labels, Source::Held(held))
    }

    /// Adds a connection that others own: it ends when its last owner drops it, and then it is
    /// removed at the next scrape. Nothing is duplicated.
    ///
    /// # Errors
    /// See [`AddError`]; nothing was added then.
    pub fn add_weak<S: AsTcpSocket + Send + Sync + 'static>(
        &self,
        socket: &Arc<S>,
        labels: &[&str],
    ) -> Result<Registration, AddError> {
        Raw::of(&**socket)?;
        let socket = Arc::downgrade(socket);
        let read = move || socket.upgrade().map(|socket| Raw::of(&*socket));
        self.insert(labels, Source::Lent(Box::new(read)))
    }

    /// Removes the connection with these labels; false if there is none.
    pub fn remove(&self, labels: &[&str]) -> bool {
        let labels = labels_of(labels);
        self.shared.lock().by_labels.remove(&labels).is_some()
    }

    /// Connections that are registered.
    #[must_use]
    pub fn len(&self) -> usize {
        self.shared.lock().by_labels.len()
    }

    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Asks the kernel about each connection, by one system call each, without a lock held.
    /// Connections that have ended are removed.
    #[must_use]
    pub fn read(&self) -> Vec<Reading> {
        let connections: Vec<(Labels, Arc<Connection>)> = {
            let connections = self.shared.lock();
            let each = connections.by_labels.iter();
            each.map(|(labels, it)| (Arc::clone(labels), Arc::clone(it))).collect()
        };
        let mut readings = Vec::with_capacity(connections.len());
        for (labels, connection) in connections {
            match connection.read() {
                Some(raw) => readings.push(Reading { labels, raw }),
                None => self.shared.remove(&labels, connection.number),
            }
        }
        readings
    }

    fn insert(&self, labels: &[&str], source: Source) -> Result<Registration, AddError> {
        let CollectorOptions { labels: names, connections_max, .. } = &self.shared.options;
        if labels.len() != names.len() {
            return Err(AddError::LabelCount { wanted: names.len(), found: labels.len() });
        }
        let labels = labels_of(labels);
        let mut connections = self.shared.lock();
        if connections.by_labels.contains_key(&labels) {
            return Err(AddError::Duplicate(labels));
        }
        if connections.by_labels.len() >= *connections_max {
            return Err(AddError::Full(*connections_max));
        }
        connections.added += 1;
        let number = connections.added;
        let connection = Arc::new(Connection { number, source });
        connections.by_labels.insert(Arc::clone(&labels), connection);
        Ok(Registration { shared: Arc::downgrade(&self.shared), labels, number })
    }
}

impl Registration {
    /// Leaves the connection registered until [`TcpInfoCollector::remove`] or its end.
    pub fn detach(mut self) {
        self.shared = Weak::new();
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        if let Some(shared) = self.shared.upgrade() {
            shared.remove(&self.labels, self.number);
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Connections> {
        // Every change is one insertion or removal: a panic elsewhere leaves nothing half done.
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes a connection, but not a later one with the same labels.
    fn remove(&self, labels: &Labels, number: u64) {
        let mut connections = self.lock();
        if connections.by_labels.get(labels).is_some_and(|it| it.number == number) {
            let removed = connections.by_labels.remove(labels);
            // Closing a connection may take its time.
            drop(connections);
            drop(removed);
        }
    }
}

impl Connection {
    /// `None` if the connection has ended, or cannot be read any more.
    fn read(&self) -> Option<Raw> {
        let raw = match &self.source {
            Source::Held(held) => held.read(),
            Source::Lent(read) => read()?,
        };
        raw.ok().filter(|raw| raw.state() != Some(State::Close))
    }
}

impl Family {
    fn new(prefix: &str, member: &'static Member) -> Self {
        let rest = member.metric.strip_prefix("tcp_info").unwrap_or(member.metric);
        let name = format!("{prefix}{rest}");
        let stem = name.strip_suffix("_total").unwrap_or(&name);
        let suffix = member.unit.suffix();
        let stem = stem.strip_suffix(suffix).unwrap_or(stem).to_owned();
        Self {
            member,
            stem,
            unit: client::unit(suffix),
            #[cfg(feature = "prometheus")]
            name,
        }
    }

    fn is_counter(&self) -> bool {
        self.member.kind == Kind::Counter
    }
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Held(_) => "Held",
            Self::Lent(_) => "Lent",
        })
    }
}

fn labels_of(labels: &[&str]) -> Labels {
    labels.iter().map(|&label| label.to_owned()).collect()
}

fn check(options: &CollectorOptions) -> Result<(), OptionsError> {
    let CollectorOptions { prefix, labels, .. } = options;
    let word = |text: &str, also: &str| {
        let fits = |c: char| c.is_ascii_alphanumeric() || c == '_' || also.contains(c);
        text.starts_with(|c: char| !c.is_ascii_digit()) && text.chars().all(fits)
    };
    if !word(prefix, ":") {
        return Err(OptionsError::Prefix(prefix.clone()));
    }
    let mut names = BTreeSet::new();
    for label in labels {
        if !word(label, "") || label.starts_with("__") {
            return Err(OptionsError::Label(label.clone()));
        }
        if !names.insert(label) {
            return Err(OptionsError::LabelTwice(label.clone()));
        }
    }
    Ok(())
}

/// Connections of a collector, unless configured.
const CONNECTIONS_MAX: usize = 10_000;
