//! What the kernel tells of a process: its number flows in, bytes of memory flow out. And how many
//! files a bench and its processes may open.

use std::fs;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Resident memory of a process (proc(5), `VmRSS`).
pub(crate) fn resident_bytes(pid: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kib.map(|kib| 1024 * kib).ok_or_else(|| io::Error::other("no VmRSS"))
}

/// Raises the limit of descriptors for this process and its children as far as allowed.
pub(crate) fn raise_descriptors(wanted: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let maximum = maximum.unwrap_or(u64::MAX);
    let now = current.unwrap_or(u64::MAX);
    let soft = wanted.clamp(now.min(maximum), maximum);
    let raised = Rlimit { current: Some(soft), maximum: Some(maximum) };
    if setrlimit(Resource::Nofile, raised).is_ok() { soft } else { now }
}
