//! Where and how eagerly the calling thread runs.

use std::io;
use std::num::NonZeroU64;

use rustix::thread::{CapabilitySet, CapabilitySets, CpuSet, capabilities, set_capabilities};

/// Lets timed waits end within a nanosecond of their deadline instead of the default 50 µs later
/// (prctl(2), `PR_SET_TIMERSLACK`).
pub fn precise_sleep() {
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
        tracing::debug!(%error, "timer slack stays at its default");
    }
}

/// Pins the calling thread to one CPU.
///
/// # Errors
/// `EINVAL` if the process may not use that CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// Sets the calling thread's nice value (on Linux a thread's own; setpriority(2), "BUGS").
///
/// # Errors
/// `EACCES` below the soft limit without `CAP_SYS_NICE`.
pub fn set_nice(nice: i32) -> io::Result<()> {
    Ok(rustix::process::setpriority_process(None, nice)?)
}

/// Gives the calling thread a real-time priority, 1 to 99 (sched(7), `SCHED_FIFO`).
///
/// # Errors
/// `EPERM` without `CAP_SYS_NICE` or an `RTPRIO` limit.
pub fn set_fifo(priority: u32) -> io::Result<()> {
    let sched_priority =
        i32::try_from(priority).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
    let parameters = libc::sched_param { sched_priority };
    // SAFETY: pid 0 is the calling thread; the pointer is valid during the call.
    let result = unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const parameters) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// See [`crate::sys::drop_capabilities`].
///
/// # Errors
/// If the kernel refuses, which it never does for fewer.
pub fn drop_capabilities() -> io::Result<()> {
    use CapabilitySet as Set;
    keep_capabilities(!(Set::BPF | Set::NET_ADMIN | Set::NET_RAW | Set::PERFMON))
}

/// Drops all capabilities of the calling thread but these. Whatever is neither permitted nor
/// inheritable leaves the ambient set by itself (capabilities(7)).
pub(super) fn keep_capabilities(kept: CapabilitySet) -> io::Result<()> {
    let held = capabilities(None)?;
    let fewer = CapabilitySets {
        effective: held.effective & kept,
        permitted: held.permitted & kept,
        inheritable: held.inheritable & kept,
    };
    Ok(set_capabilities(None, fewer)?)
}
