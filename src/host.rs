//! Facts about this process and this host, as plain data: found out by `sys`, shown by `metrics`.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// An ability of this process on this host that may be missing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
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

/// What this machine is, as far as measuring cares. `None` and empty lists where the operating
/// system does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Facts {
    /// The operating system.
    pub os: &'static str,
    /// The processor's architecture.
    pub arch: &'static str,
    /// The kernel's release.
    pub kernel: String,
    /// What io_uring can do here; `None` where it does not open.
    pub ring: Option<RingFacts>,
    /// Whether the kernel describes its types (`/sys/kernel/btf/vmlinux`).
    pub btf: Option<bool>,
    /// Network interfaces.
    pub interfaces: Vec<Interface>,
    /// Interfaces that are left out above.
    pub interfaces_left_out: usize,
    /// What this process may do.
    pub privileges: Privileges,
    /// What the clocks tick by.
    pub clock_source: ClockSource,
    /// Where and how eagerly threads may run.
    pub scheduling: Scheduling,
}

/// What io_uring can do here, each tried.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct RingFacts {
    /// `IORING_SETUP_COOP_TASKRUN` (Linux 5.19).
    pub coop_taskrun: bool,
    /// `IORING_SETUP_SINGLE_ISSUER` (Linux 6.0).
    pub single_issuer: bool,
    /// `IORING_SETUP_DEFER_TASKRUN` (Linux 6.1).
    pub defer_taskrun: bool,
    /// `IORING_SETUP_CQE32` (Linux 5.19).
    pub cqe32: bool,
    /// `IORING_REGISTER_PBUF_RING` (Linux 5.19).
    pub provided_buffers: bool,
    /// `SOCKET_URING_OP_TX_TIMESTAMP` (Linux 6.17).
    pub tx_timestamp_command: bool,
}

/// A network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Whether it is up.
    pub up: bool,
    /// Whether it is the loopback interface.
    pub loopback: bool,
    /// Its driver.
    pub driver: Option<String>,
    /// Which stamps its driver can give; `None` if the kernel does not say.
    pub stamps: Option<InterfaceStamps>,
    /// Whether its hardware was told to stamp everything, sent and received.
    pub hardware_on: Option<bool>,
}

/// Which stamps an interface's driver can give (ethtool's `ETHTOOL_GET_TS_INFO`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct InterfaceStamps {
    /// Software stamps of what is sent.
    pub tx_software: bool,
    /// Software stamps of what is received.
    pub rx_software: bool,
    /// Hardware stamps of what is sent.
    pub tx_hardware: bool,
    /// Hardware stamps of what is received.
    pub rx_hardware: bool,
    /// The number of the hardware clock, `/dev/ptpN`.
    pub phc: Option<u32>,
    /// Ways in which the hardware can stamp what is sent (`HWTSTAMP_TX_*`).
    pub tx_types: Vec<&'static str>,
    /// What the hardware can stamp of what is received (`HWTSTAMP_FILTER_*`).
    pub rx_filters: Vec<&'static str>,
}

/// What this process may do.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Privileges {
    /// The effective user's number.
    pub user: Option<u32>,
    /// Effective capabilities: `cap_net_raw`, …
    pub capabilities: Option<Vec<String>>,
    /// `off`, `strict` or `filter`.
    pub seccomp: Option<&'static str>,
    /// Whether running a program gives no more privileges: then `setcap` has no effect.
    pub no_new_privs: Option<bool>,
    /// sysctl `kernel.io_uring_disabled`: 0 nobody, 1 those without privilege, 2 all.
    pub io_uring_disabled: Option<u32>,
    /// sysctl `kernel.unprivileged_bpf_disabled`.
    pub unprivileged_bpf_disabled: Option<u32>,
    /// Memory that may be locked: `unlimited`, or bytes.
    pub memlock: Option<String>,
}

/// What the clocks tick by.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ClockSource {
    /// The one in use.
    pub current: Option<String>,
    /// Those that may be chosen.
    pub available: Vec<String>,
    /// What a reading of the monotonic clock costs, measured.
    pub read_ns: u64,
}

/// Where and how eagerly threads may run.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Scheduling {
    /// CPUs that this process may use, as `0-3,8`.
    pub allowed_cpus: Option<String>,
    /// CPUs that nothing is scheduled on unless it asks (`isolcpus=`), likewise.
    pub isolated_cpus: Option<String>,
    /// Distinct CPU frequency governors; none where the firmware or a hypervisor decides.
    pub governors: Vec<String>,
    /// Whether a thread may have a nice value below 0.
    pub nice: Option<bool>,
    /// Whether a thread may have a real-time priority.
    pub fifo: Option<bool>,
}

/// How late one thread woke up.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Lateness {
    /// The thread.
    pub thread: String,
    /// The CPU that it was pinned to.
    pub cpu: Option<usize>,
    /// Timed waits that were measured.
    pub waits: usize,
    /// The median.
    pub p50_ns: u64,
    /// 99 % are at most this.
    pub p99_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Lateness {
    /// Of these measurements.
    #[must_use]
    pub fn of(thread: String, cpu: Option<usize>, mut late_ns: Vec<u64>) -> Self {
        late_ns.sort_unstable();
        // The nearest rank: the smallest value that is not exceeded by more than the rest.
        let rank = |percent: usize| {
            let rank = (late_ns.len() * percent).div_ceil(100).max(1);
            late_ns.get(rank - 1).copied().unwrap_or(0)
        };
        let (p50_ns, p99_ns, max_ns) = (rank(50), rank(99), rank(100));
        Self { thread, cpu, waits: late_ns.len(), p50_ns, p99_ns, max_ns }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_the_nearest_rank() {
        let check = |late_ns: Vec<u64>, expected: [u64; 3]| {
            let Lateness { p50_ns, p99_ns, max_ns, .. } =
                Lateness::of(String::new(), None, late_ns);
            assert_eq!([p50_ns, p99_ns, max_ns], expected);
        };
        check(vec![], [0, 0, 0]);
        check(vec![7], [7, 7, 7]);
        check((1..=100).rev().collect(), [50, 99, 100]);
        check((1..=1_000).collect(), [500, 990, 1_000]);
    }
}
