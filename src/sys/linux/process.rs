//! What this process uses, from `/proc/self` (proc(5)) and getrlimit(2).

use std::fs;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::host::ProcessUsage;

/// Reads the current usage; a value that cannot be read is `None`.
#[must_use]
pub fn usage() -> ProcessUsage {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    let page_bytes = u64::try_from(rustix::param::page_size()).ok();
    let ticks_ns = |ticks: u64| (ticks * 1_000_000_000).checked_div(ticks_per_second);
    let field = |index| stat_field(&stat, index);
    let started_ns = field(22).and_then(ticks_ns);
    ProcessUsage {
        cpu_ns: field(14).zip(field(15)).and_then(|(user, kernel)| ticks_ns(user + kernel)),
        resident_bytes: field(24).zip(page_bytes).map(|(pages, bytes)| pages * bytes),
        virtual_bytes: field(23),
        threads: field(20),
        open_fds: fs::read_dir("/proc/self/fd").ok().and_then(|fds| fds.count().try_into().ok()),
        max_fds: getrlimit(Resource::Nofile).current,
        start_time_ns: boot_time_ns().zip(started_ns).map(|(boot, since)| boot + since),
    }
}

/// See [`crate::sys::raise_descriptor_limit`].
pub fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::debug!(%error, "the limit of open files stays as it is");
    }
}

/// A field of `/proc/[pid]/stat` by its number in proc(5). The command, field 2, may contain
/// anything, so counting starts behind its closing parenthesis.
fn stat_field(stat: &str, number: usize) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(number - 3)?.parse().ok()
}

fn boot_time_ns() -> Option<u64> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().find_map(|line| line.strip_prefix("btime "))?;
    line.trim().parse::<u64>().ok()?.checked_mul(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_count_behind_the_command() {
        let stat = "7 (a) b (c)) S 1 7 7 0 -1 4194560 100 0 0 0 31 17 0 0 20 0 3 0 55 4096 12 1";
        assert_eq!(stat_field(stat, 14), Some(31));
        assert_eq!(stat_field(stat, 20), Some(3));
        assert_eq!(stat_field(stat, 24), Some(12));
        assert_eq!(stat_field("", 14), None);
    }

    #[test]
    fn everything_is_readable_here() {
        let usage = usage();
        assert!(usage.resident_bytes.is_some_and(|bytes| bytes > 0));
        assert!(usage.open_fds.is_some_and(|fds| fds >= 3));
        assert!(usage.threads.is_some_and(|threads| threads >= 1));
        assert!(usage.cpu_ns.is_some() && usage.start_time_ns.is_some());
    }
}
