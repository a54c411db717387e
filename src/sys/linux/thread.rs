//! Where and how eagerly the calling thread runs.

use std::fs::File;
use std::io;
use std::num::NonZeroU64;
use std::path::PathBuf;

use rustix::thread::{CapabilitySet, CapabilitySets, CpuSet, capabilities, set_capabilities};

use crate::sys::Kept;

/// Lets timed waits end within a nanosecond of their deadline instead of the default 50 µs later
/// (prctl(2), `PR_SET_TIMERSLACK`).
pub fn precise_sleep() {
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(1)) {
        tracing::debug!(%error, "timer slack stays at its default");
    }
}

/// Asks for the calling thread to run soon after it wakes up: with a time slice of 0.1 ms instead
/// of the usual 3 ms (sched_setattr(2); Linux 6.12, earlier ones ignore it). It gets no larger
/// share of a CPU, but its turns come earlier for being short, also while a thread with a longer
/// slice is running (`Documentation/scheduler/sched-eevdf.rst`). Needs no privilege.
///
/// # Errors
/// Those of sched_setattr(2), and `EINVAL` for a real-time thread, which needs none of this.
pub fn wake_promptly() -> io::Result<()> {
    let size = u32::try_from(size_of::<libc::sched_attr>()).expect("48 bytes");
    // SAFETY: sched_attr is plain data for which zero is valid.
    let mut attributes: libc::sched_attr = unsafe { std::mem::zeroed() };
    // SAFETY: 0 is the calling thread; the kernel writes at most `size` bytes, which are ours.
    let result = unsafe { libc::syscall(libc::SYS_sched_getattr, 0, &raw mut attributes, size, 0) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    if i32::try_from(attributes.sched_policy) != Ok(libc::SCHED_OTHER) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    attributes.sched_runtime = SLICE_NS;
    // SAFETY: 0 is the calling thread; the kernel only reads the structure, whose size is in it.
    let result = unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
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
    let network = Set::BPF | Set::NET_ADMIN | Set::NET_RAW | Set::PERFMON;
    keep_capabilities(!network | to_choose_interfaces())
}

/// See [`crate::sys::drop_all_capabilities_but`].
///
/// # Errors
/// If the kernel refuses, which it never does for fewer.
pub fn drop_all_capabilities_but(kept: Kept) -> io::Result<()> {
    keep_capabilities(match kept {
        Kept::Nothing => CapabilitySet::empty(),
        Kept::Interfaces => to_choose_interfaces(),
        Kept::Reading => CapabilitySet::DAC_READ_SEARCH,
    })
}

/// See [`crate::sys::needed_to_read`]. Tries it without; what cannot be read with them either, they
/// do not help.
pub fn needed_to_read(files: &[PathBuf]) -> Kept {
    let all = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
    let Ok(held) = capabilities(None) else { return Kept::Nothing };
    if !held.effective.contains(CapabilitySet::DAC_READ_SEARCH) {
        return Kept::Nothing;
    }
    let unreadable = |files: &[PathBuf]| {
        let denied = |error: io::Error| error.kind() == io::ErrorKind::PermissionDenied;
        // A pipe would hold us up.
        let files = files.iter().filter(|file| !file.exists() || file.is_file());
        files.filter(|file| File::open(file).is_err_and(denied)).count()
    };
    let with = unreadable(files);
    let fewer = CapabilitySets { effective: held.effective & !all, ..held };
    if set_capabilities(None, fewer).is_err() {
        return Kept::Nothing;
    }
    let without = unreadable(files);
    // What is permitted may become effective again (capabilities(7)).
    match set_capabilities(None, held) {
        Ok(()) if without > with => Kept::Reading,
        _ => Kept::Nothing,
    }
}

/// What `SO_BINDTODEVICE` takes here: nothing since Linux 5.7 (net/core/sock.c).
fn to_choose_interfaces() -> CapabilitySet {
    let release = super::kernel_release();
    let mut numbers = release.split(['.', '-']).map_while(|number| number.parse::<u32>().ok());
    let (major, minor) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if (major, minor) < (5, 7) { CapabilitySet::NET_RAW } else { CapabilitySet::empty() }
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
    // Whoever forbids capset(2) has no need of it.
    if fewer == held { Ok(()) } else { Ok(set_capabilities(None, fewer)?) }
}

/// The shortest slice that the kernel grants (kernel/sched/syscalls.c, `__setparam_fair`).
const SLICE_NS: u64 = 100_000;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    #[test]
    fn a_short_slice_keeps_the_nice_value() {
        // In a thread of its own: it may lower its priority, but not raise it again.
        let thread = std::thread::spawn(|| {
            set_nice(7).unwrap();
            wake_promptly().unwrap();
            rustix::process::getpriority_process(None).unwrap()
        });
        assert_eq!(thread.join().unwrap(), 7);
    }
}
