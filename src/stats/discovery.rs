//! How the sources of discovered targets are doing, and what became of their targets: the control
//! plane's news in, what scrapes and the API show of them out.

use std::sync::{Mutex, PoisonError};

/// How discovery went so far. Written by the control plane, a few times a minute.
#[derive(Debug, Default)]
pub struct DiscoverySeries(Mutex<DiscoverySnapshot>);

/// The same at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DiscoverySnapshot {
    /// Every source.
    pub sources: Vec<SourceSnapshot>,
    /// Every list of targets.
    pub lists: Vec<ListSnapshot>,
    /// Targets that are not probed because two have one name.
    pub duplicates: usize,
    /// Targets that are not probed because there are too many.
    pub excess: usize,
    /// Targets beyond what all sources may have together: the lists are what they were before.
    pub excess_at_sources: usize,
}

/// One source.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceSnapshot {
    /// The list that it is of.
    pub list: String,
    /// Its kind and its file, URL or name.
    pub source: String,
    /// When it last answered well, Unix ns.
    pub good_at_ns: Option<u64>,
    /// How often it was asked.
    pub refreshes: u64,
    /// How often it failed.
    pub failures: u64,
    /// Targets of its last good answer.
    pub targets: usize,
    /// What is wrong now.
    pub error: Option<String>,
}

/// One list: the targets of some sources, relabelled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ListSnapshot {
    /// Its name.
    pub name: String,
    /// Targets that are probed, if nothing beyond the list speaks against it.
    pub targets: usize,
    /// Targets that cannot be: their address is none.
    pub bad_addresses: usize,
    /// Targets that cannot be: a label or a name of theirs is not allowed.
    pub bad_labels: usize,
    /// Targets that cannot be: there is no such module, or it does not work here.
    pub bad_modules: usize,
    /// Two with one name: the second.
    pub duplicates: usize,
    /// Hosts of the mesh, this one too; `None` unless it is one.
    pub members: Option<usize>,
}

impl DiscoverySeries {
    /// Changes what is shown.
    pub fn change(&self, change: impl FnOnce(&mut DiscoverySnapshot)) {
        // A panic in a change leaves numbers that the next one replaces.
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> DiscoverySnapshot {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ListSnapshot {
    /// Targets of the list that cannot be probed.
    #[must_use]
    pub const fn bad(&self) -> usize {
        self.bad_addresses + self.bad_labels + self.bad_modules + self.duplicates
    }
}
