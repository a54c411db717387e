//! Facts about this process and this host, as plain data: found out by `sys`, shown by `metrics`.

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
