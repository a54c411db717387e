//! The program confines itself: what it still needs goes in, and everything else is forbidden by
//! the kernel, for good. Linux has Landlock for files and seccomp for system calls; elsewhere there
//! is nothing, and it is said so.
//!
//! Landlock binds a thread and those that it starts later, so it comes first, before there is a
//! second one; seccomp binds all threads at once, and comes when everything is open.

use std::io;
use std::path::PathBuf;

use crate::host::Capability;

cfg_if::cfg_if! {
    if #[cfg(target_os = "linux")] {
        use super::linux::sandbox as platform;
    } else {
        use nowhere as platform;
    }
}

/// Whether the program confines itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SandboxChoice {
    /// As far as this system can.
    #[default]
    Auto,
    /// By Landlock and by seccomp, or fail.
    On,
    /// Not at all.
    Off,
}

impl SandboxChoice {
    /// Every one of them, by the name that users write.
    pub const NAMED: [(&str, Self); 3] =
        [("auto", Self::Auto), ("on", Self::On), ("off", Self::Off)];
}

/// What is still done once everything has started.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Permits {
    /// Files that are read again. What is beside them may be read too: whoever changes a file puts
    /// another one in its place.
    pub files: Vec<PathBuf>,
    /// Folders in which, and below which, files are read.
    pub folders: Vec<PathBuf>,
    /// Names are looked up, as the system does it.
    pub names: bool,
    /// Connections are made.
    pub connects: bool,
    /// eBPF programs are attached, and their maps are read.
    pub ebpf: bool,
}

/// A program that has begun to confine itself.
#[derive(Debug)]
pub struct Sandbox {
    choice: SandboxChoice,
    permits: Permits,
    /// What Landlock holds, or why there is none.
    files: Result<platform::Held, String>,
    /// Why seccomp forbids nothing, or will not once everything has started, if that is so.
    calls: Result<(), String>,
}

impl Sandbox {
    /// Forbids all files but those that are needed, to the calling thread and to those that it
    /// starts from now on.
    ///
    /// # Errors
    /// If that was demanded and cannot be.
    pub fn begin(choice: SandboxChoice, permits: Permits) -> io::Result<Self> {
        let files = match choice {
            SandboxChoice::Off => Err(NOT_ASKED.to_owned()),
            SandboxChoice::Auto | SandboxChoice::On => platform::restrict_files(&permits),
        };
        let calls = match choice {
            SandboxChoice::Off => Err(NOT_ASKED.to_owned()),
            SandboxChoice::Auto | SandboxChoice::On => platform::seccomp_gap().map_or(Ok(()), Err),
        };
        demanded(choice, files.as_ref().err().or_else(|| calls.as_ref().err()))?;
        Ok(Self { choice, permits, files, calls })
    }

    /// Forbids all system calls but those that are needed, to every thread there is.
    ///
    /// # Errors
    /// If that was demanded and cannot be.
    pub fn complete(&mut self) -> io::Result<()> {
        if self.calls.is_ok() {
            self.calls = platform::restrict_calls(&self.permits);
        }
        demanded(self.choice, self.calls.as_ref().err())
    }

    /// What it was begun with.
    #[must_use]
    pub const fn permits(&self) -> &Permits {
        &self.permits
    }

    /// Which half of it holds, or is about to, and why the other does not.
    #[must_use]
    pub fn capabilities(&self) -> Vec<Capability> {
        vec![
            Capability::new(LANDLOCK, self.files.as_ref().err().cloned()),
            Capability::new(SECCOMP, self.calls.as_ref().err().cloned()),
        ]
    }

    /// What is missing although it was asked for.
    pub fn missing(&self) -> impl Iterator<Item = Capability> {
        let asked = self.choice != SandboxChoice::Off;
        self.capabilities().into_iter().filter(move |found| asked && !found.available)
    }
}

/// What a sandbox of this choice would be made of here; nobody is confined.
#[must_use]
pub fn possible(choice: SandboxChoice) -> Vec<Capability> {
    let gap = |gap: fn() -> Option<String>| match choice {
        SandboxChoice::Off => Some(NOT_ASKED.to_owned()),
        SandboxChoice::Auto | SandboxChoice::On => gap(),
    };
    vec![
        Capability::new(LANDLOCK, gap(platform::landlock_gap)),
        Capability::new(SECCOMP, gap(platform::seccomp_gap)),
    ]
}

fn demanded(choice: SandboxChoice, gap: Option<&String>) -> io::Result<()> {
    match gap {
        Some(why) if choice == SandboxChoice::On => {
            let message = format!("--sandbox on: {why}; use --sandbox auto");
            Err(io::Error::new(io::ErrorKind::Unsupported, message))
        }
        _ => Ok(()),
    }
}

/// Systems without such a thing, or with one that we do not use.
#[cfg(not(target_os = "linux"))]
mod nowhere {
    use super::Permits;

    /// Nothing is held.
    #[derive(Debug)]
    pub(super) struct Held;

    pub(super) fn restrict_files(_permits: &Permits) -> Result<Held, String> {
        Err(WHY.to_owned())
    }

    pub(super) fn restrict_calls(_permits: &Permits) -> Result<(), String> {
        Err(WHY.to_owned())
    }

    pub(super) fn landlock_gap() -> Option<String> {
        Some(WHY.to_owned())
    }

    pub(super) fn seccomp_gap() -> Option<String> {
        Some(WHY.to_owned())
    }

    const WHY: &str = "only Linux confines a program this way";
}

/// The capabilities.
const LANDLOCK: &str = "landlock";
const SECCOMP: &str = "seccomp";
const NOT_ASKED: &str = "not asked for (--sandbox)";
