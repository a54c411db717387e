//! Landlock: the files that may still be read in, everything else forbidden: to read, to write, to
//! execute. What was opened before stays open.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetStatus, Scope,
};

use crate::sys::sandbox::Permits;

/// Descriptors of what may be read. A rule is about an inode, and procfs makes a new one as soon as
/// nobody holds the old one (`proc_pid_make_inode`, fs/proc/base.c).
#[derive(Debug)]
pub(in crate::sys) struct Held {
    _paths: Vec<PathFd>,
}

/// Why this kernel has no Landlock for us, if it has none.
pub(in crate::sys) fn gap() -> Option<String> {
    // LANDLOCK_CREATE_RULESET_VERSION (include/uapi/linux/landlock.h).
    const VERSION: libc::c_uint = 1;
    let (attributes, bytes) = (std::ptr::null::<libc::c_void>(), 0_usize);
    // SAFETY: with this flag the kernel reads nothing, and opens nothing.
    let abi =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, attributes, bytes, VERSION) };
    (abi < 0).then(|| why(&io::Error::last_os_error()))
}

/// Restricts the calling thread, and those that it starts later.
pub(in crate::sys) fn restrict(permits: &Permits) -> Result<Held, String> {
    if let Some(gap) = gap() {
        return Err(gap);
    }
    let failed = |error: landlock::RulesetError| format!("Landlock: {error}");
    // Rights that this kernel does not know are left out.
    let mut rules = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))
        .and_then(|rules| rules.scope(scopes()))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    let mut held = Vec::new();
    for path in paths(permits) {
        // What is not there cannot be read, and what comes there later is not allowed.
        let Ok(place) = PathFd::new(&path) else { continue };
        let access = if path.is_dir() {
            AccessFs::ReadFile | AccessFs::ReadDir
        } else {
            AccessFs::ReadFile.into()
        };
        rules = rules.add_rule(PathBeneath::new(&place, access)).map_err(failed)?;
        held.push(place);
    }
    match rules.restrict_self().map_err(failed)?.ruleset {
        RulesetStatus::NotEnforced => Err("the kernel has enforced nothing".to_owned()),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => {
            Ok(Held { _paths: held })
        }
    }
}

/// Signals to others, and abstract sockets of others unless systemd is there (sd_notify(3)).
fn scopes() -> landlock::BitFlags<Scope> {
    let abstract_notices = std::env::var_os("NOTIFY_SOCKET")
        .is_some_and(|socket| socket.as_encoded_bytes().starts_with(b"@"));
    if abstract_notices { Scope::Signal.into() } else { Scope::Signal | Scope::AbstractUnixSocket }
}

/// Everything that may be read. A name stays the way it is even where it is a link.
fn paths(permits: &Permits) -> Vec<PathBuf> {
    let mut paths: Vec<PathBuf> = OWN.iter().map(PathBuf::from).collect();
    if permits.names {
        paths.extend(NAMES.iter().map(PathBuf::from));
        if !cfg!(target_feature = "crt-static") {
            paths.extend(LIBRARIES.iter().map(PathBuf::from));
        }
    }
    paths.extend(permits.folders.iter().cloned());
    for file in &permits.files {
        paths.extend(around(file));
        // A link may be turned to another file beside the one that it leads to.
        if let Ok(real) = file.canonicalize() {
            paths.extend(around(&real));
        }
    }
    paths
}

/// The folder of a file; the file itself if that would be everything.
fn around(file: &Path) -> Option<PathBuf> {
    let folder = match file.parent()? {
        folder if folder.as_os_str().is_empty() => Path::new("."),
        folder => folder,
    };
    let is_root = folder.canonicalize().is_ok_and(|real| real.parent().is_none());
    let path = if is_root { file } else { folder };
    fs::exists(path).unwrap_or(false).then(|| path.to_owned())
}

fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::ENOSYS) => format!("{error}: the kernel is older than 5.13 or has no Landlock"),
        Some(libc::EOPNOTSUPP) => {
            format!("{error}: Landlock is switched off; add landlock to the boot parameter lsm=")
        }
        Some(libc::EPERM) => format!("{error}: seccomp forbids Landlock; allow it there"),
        _ => error.to_string(),
    }
}

/// What the program reads of itself and of the machine, while it starts or for its metrics. None
/// of it is anybody's secret; of other processes only ours could be read (ptrace(2)).
const OWN: [&str; 7] = [
    "/proc/self",
    "/proc/stat",
    "/proc/version_signature",
    "/proc/sys/kernel",
    "/proc/sys/net",
    "/sys/devices/system/cpu",
    "/sys/kernel/btf",
];

/// What a lookup of names reads (resolv.conf(5), nsswitch.conf(5), hosts(5)). Folders, because
/// those who write these files put new ones in their place.
const NAMES: [&str; 11] = [
    "/etc",
    // Authorities that /etc/ssl/certs leads to.
    "/usr/share/ca-certificates",
    "/usr/local/share/ca-certificates",
    "/var/lib/ca-certificates",
    "/run/systemd/resolve",
    "/run/resolvconf",
    "/run/NetworkManager",
    "/run/nscd",
    "/var/run/netconfig",
    "/var/db/nscd",
    "/var/lib/sss",
];

/// Where the C library finds further ways to look names up.
const LIBRARIES: [&str; 6] =
    ["/lib", "/lib64", "/usr/lib", "/usr/lib64", "/usr/local/lib", "/nix/store"];
