//! What this machine is, as far as measuring cares: read from `/proc` and `/sys`, asked of the
//! kernel, or tried. Nothing goes in; a fact that cannot be had is left open.

use std::collections::BTreeSet;
use std::fs;

use rustix::process::{Resource, getrlimit};
use rustix::thread::{CpuSet, capabilities, sched_getaffinity};

use super::{ethtool, thread, uring};
use crate::host::{ClockSource, Facts, Privileges, Scheduling};

/// See [`crate::sys::facts`].
pub(in crate::sys) fn facts() -> Facts {
    let (interfaces, interfaces_left_out) = ethtool::interfaces();
    Facts {
        ring: uring::features::ring(),
        btf: Some(fs::exists("/sys/kernel/btf/vmlinux").unwrap_or(false)),
        interfaces,
        interfaces_left_out,
        privileges: privileges(),
        clock_source: clock_source(),
        scheduling: scheduling(),
        ..Facts::default()
    }
}

fn privileges() -> Privileges {
    let status = fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let number = |key: &str| status_field(&status, key)?.parse::<u32>().ok();
    let held = capabilities(None).ok().map(|sets| {
        let names = sets.effective.iter_names();
        names.map(|(name, _)| format!("cap_{}", name.to_lowercase())).collect()
    });
    let memlock = match getrlimit(Resource::Memlock).current {
        Some(bytes) => format!("{bytes} bytes"),
        None => "unlimited".to_owned(),
    };
    Privileges {
        user: Some(rustix::process::geteuid().as_raw()),
        capabilities: held,
        // SECCOMP_MODE_* (include/uapi/linux/seccomp.h).
        seccomp: match number("Seccomp") {
            Some(0) => Some("off"),
            Some(1) => Some("strict"),
            Some(2) => Some("filter"),
            _ => None,
        },
        no_new_privs: number("NoNewPrivs").map(|set| set != 0),
        io_uring_disabled: sysctl("io_uring_disabled"),
        unprivileged_bpf_disabled: sysctl("unprivileged_bpf_disabled"),
        memlock: Some(memlock),
    }
}

/// A field of `/proc/[pid]/status` (proc_pid_status(5)).
fn status_field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| *name == key).map(|(_, value)| value.trim())
}

fn sysctl(name: &str) -> Option<u32> {
    word(&format!("/proc/sys/kernel/{name}"))?.parse().ok()
}

fn clock_source() -> ClockSource {
    let folder = "/sys/devices/system/clocksource/clocksource0";
    let available = word(&format!("{folder}/available_clocksource")).unwrap_or_default();
    ClockSource {
        current: word(&format!("{folder}/current_clocksource")),
        available: available.split_whitespace().map(str::to_owned).collect(),
        read_ns: crate::sys::clock::reading_ns(),
    }
}

fn scheduling() -> Scheduling {
    // In a thread of its own: not every one of these can be taken back.
    let tried = std::thread::Builder::new().name("try-priority".to_owned()).spawn(|| {
        let nice = thread::set_nice(-1).is_ok();
        (nice, thread::set_fifo(1).is_ok())
    });
    let tried = tried.ok().and_then(|thread| thread.join().ok());
    Scheduling {
        allowed_cpus: sched_getaffinity(None).ok().map(|set| cpu_list(&set)),
        isolated_cpus: word("/sys/devices/system/cpu/isolated"),
        governors: governors(),
        nice: tried.map(|(nice, _)| nice),
        fifo: tried.map(|(_, fifo)| fifo),
    }
}

fn governors() -> Vec<String> {
    let Ok(cpus) = fs::read_dir("/sys/devices/system/cpu") else { return Vec::new() };
    let distinct: BTreeSet<String> = cpus
        .filter_map(|cpu| {
            let path = cpu.ok()?.path().join("cpufreq/scaling_governor");
            word(path.to_str()?)
        })
        .collect();
    distinct.into_iter().collect()
}

/// CPUs as the kernel lists them: `0-3,8`.
fn cpu_list(set: &CpuSet) -> String {
    let mut ranges: Vec<(usize, usize)> = Vec::new();
    for cpu in (0..CpuSet::MAX_CPU).filter(|cpu| set.is_set(*cpu)) {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == cpu => *last = cpu,
            _ => ranges.push((cpu, cpu)),
        }
    }
    let texts = ranges.iter().map(|(first, last)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    });
    texts.collect::<Vec<_>>().join(",")
}

/// A small file's text without white space around it; `None` if there is no such file.
fn word(path: &str) -> Option<String> {
    fs::read_to_string(path).ok().map(|text| text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_field_of_status_is_found_by_its_whole_name() {
        let status = "Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\nNoNewPrivs:\t1\n";
        assert_eq!(status_field(status, "Seccomp"), Some("2"));
        assert_eq!(status_field(status, "NoNewPrivs"), Some("1"));
        assert_eq!(status_field(status, "Sec"), None);
    }

    #[test]
    fn cpus_are_listed_as_ranges() {
        for (cpus, expected) in
            [(vec![], ""), (vec![0], "0"), (vec![0, 1, 2, 4, 6, 7], "0-2,4,6-7"), (vec![9], "9")]
        {
            let mut set = CpuSet::new();
            cpus.into_iter().for_each(|cpu| set.set(cpu));
            assert_eq!(cpu_list(&set), expected);
        }
    }

    #[test]
    fn what_every_linux_tells_is_there() {
        let facts = facts();
        assert!(facts.interfaces.iter().any(|interface| interface.loopback), "{facts:?}");
        let Privileges { user, capabilities, seccomp, no_new_privs, memlock, .. } =
            &facts.privileges;
        assert_eq!(*user, Some(rustix::process::geteuid().as_raw()));
        assert!(capabilities.is_some() && seccomp.is_some() && no_new_privs.is_some());
        assert!(memlock.is_some());
        assert!(facts.clock_source.read_ns > 0);
        let cpus = facts.scheduling.allowed_cpus.unwrap_or_default();
        assert!(cpus.starts_with(|first: char| first.is_ascii_digit()), "{cpus}");
        assert!(facts.scheduling.fifo.is_some());
    }
}
