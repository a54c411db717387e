//! Facts about this process and this host, as plain data: found out by `sys`, shown by `metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

/// An ability of this process on this host that may be missing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Capability {
    /// What it is, as a label value: `io_uring`, `kernel_tx_stamps`, …
    pub name: &'static str,
    /// Whether it works here.
    pub available: bool,
    /// The errno, sysctl or privilege behind a gap, and what to change; empty if it works.
    pub reason: String,
}

impl Capability {
    /// What works, or why it does not.
    #[must_use]
    pub fn new(name: &'static str, gap: Option<String>) -> Self {
        Self { name, available: gap.is_none(), reason: gap.unwrap_or_default() }
    }
}

/// What eBPF programs could not tell their reader: written by whoever looks into the kernel now and
/// then, read by anybody.
#[derive(Debug, Default)]
pub struct EventLosses {
    events: AtomicU64,
    attempts: AtomicU64,
}

impl EventLosses {
    /// Sets the sums since the programs were loaded: events that found their buffer full, and
    /// connection attempts that could not be remembered.
    pub fn set(&self, events: u64, attempts: u64) {
        self.events.store(events, Ordering::Relaxed);
        self.attempts.store(attempts, Ordering::Relaxed);
    }

    /// Events, and attempts.
    #[must_use]
    pub fn read(&self) -> (u64, u64) {
        (self.events.load(Ordering::Relaxed), self.attempts.load(Ordering::Relaxed))
    }
}

/// What this process uses. `None` where the operating system does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUsage {
    /// User and kernel CPU time, ns.
    pub cpu_ns: Option<u64>,
    /// Resident memory.
    pub resident_bytes: Option<u64>,
    /// Virtual memory.
    pub virtual_bytes: Option<u64>,
    /// Threads.
    pub threads: Option<u64>,
    /// Open file descriptors.
    pub open_fds: Option<u64>,
    /// The soft limit of file descriptors.
    pub max_fds: Option<u64>,
    /// When the process started, Unix ns.
    pub start_time_ns: Option<u64>,
}
