//! Kernels of other releases of Debian, from the mirror that this machine uses anyway. A release
//! flows in; out flow the paths of a kernel and of its modules. The system's own package lists stay
//! as they are: apt works in a folder of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::shell;

/// A kernel that tests run in.
pub struct Kernel {
    /// What it is called on the command line.
    pub name: &'static str,
    /// The release of Debian that has it.
    suite: &'static str,
}

/// A kernel that is there.
pub struct Found {
    /// For names of files.
    pub name: &'static str,
    /// The kernel itself.
    pub image: PathBuf,
    /// Where its modules are.
    pub modules: PathBuf,
}

/// Oldest first. The last one is newer than what most machines run.
pub const KERNELS: [Kernel; 4] = [
    Kernel { name: "5.10", suite: "bullseye" },
    Kernel { name: "6.1", suite: "bookworm" },
    Kernel { name: "6.12", suite: "trixie" },
    Kernel { name: "newest", suite: "trixie-backports" },
];

impl Kernel {
    /// Downloads and unpacks it, unless that was done before.
    pub fn fetch(&self, folder: &Path) -> Result<Found> {
        let root = folder.join(self.name);
        if let Some(found) = self.find(&root) {
            return Ok(found);
        }
        let debs = root.join("debs");
        fs::create_dir_all(&debs)?;
        let apt = Apt::new(&root, self.suite)?;
        shell::run(apt.command("apt-get").args(["update", "-qq"]))?;
        let newest = apt.depends(META)?.into_iter().find(|name| name.starts_with("linux-image-"));
        let newest = newest.context("the release has no kernel of this kind")?;
        // Since 7.0 the kernel and its modules are packages of their own.
        let parts = ["linux-binary-", "linux-modules-", "linux-base-"];
        let mut names = apt.depends(&newest)?;
        names.retain(|name| parts.iter().any(|part| name.starts_with(part)));
        names.push(newest);
        shell::run(apt.command("apt-get").arg("download").args(&names).current_dir(&debs))?;
        for deb in fs::read_dir(&debs)? {
            shell::run(shell::command("dpkg-deb").arg("-x").arg(deb?.path()).arg(&root))?;
        }
        self.find(&root).context("the packages have no kernel")
    }

    fn find(&self, root: &Path) -> Option<Found> {
        let modules = [root.join("lib/modules"), root.join("usr/lib/modules")];
        let modules = modules.into_iter().find_map(|folder| first(&folder, ""))?;
        let image = first(&root.join("boot"), "vmlinuz").or_else(|| first(&modules, "vmlinuz"))?;
        Some(Found { name: self.name, image, modules })
    }
}

/// apt with state and sources in a folder of ours.
struct Apt {
    options: Vec<String>,
}

impl Apt {
    fn new(root: &Path, suite: &str) -> Result<Self> {
        let root = root.join("apt");
        for folder in ["state/lists/partial", "cache/archives/partial"] {
            fs::create_dir_all(root.join(folder))?;
        }
        let mirror = mirror()?;
        let sources = root.join("sources.list");
        fs::write(&sources, format!("deb [signed-by={KEYRING}] {mirror} {suite} main\n"))?;
        let option = |name: &str, path: PathBuf| format!("-oDir::{name}={}", path.display());
        Ok(Self {
            options: vec![
                option("State", root.join("state")),
                option("Cache", root.join("cache")),
                option("Etc::sourcelist", sources),
                "-oDir::Etc::sourceparts=/dev/null".to_owned(),
                // Lists and packages belong to whoever runs this.
                "-oAPT::Sandbox::User=root".to_owned(),
                // A release that is kept for reference has lists that are not renewed.
                "-oAcquire::Check-Valid-Until=false".to_owned(),
            ],
        })
    }

    fn command(&self, program: &str) -> Command {
        let mut command = shell::command(program);
        command.args(&self.options);
        command
    }

    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let said = shell::output(self.command("apt-cache").args(["depends", package]))?;
        let names = said.lines().filter_map(|line| line.trim().strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }
}

/// Debian's mirror as this machine's own apt knows it.
pub fn mirror() -> Result<String> {
    let words = ["indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"];
    let said = shell::output(shell::command("apt-get").args(words))?;
    let debian = said.lines().find(|uri| uri.trim_end_matches('/').ends_with("/debian"));
    debian.map(str::to_owned).context("apt knows no mirror of Debian")
}

/// The first entry of a folder whose name begins like this.
fn first(folder: &Path, start: &str) -> Option<PathBuf> {
    let entries = fs::read_dir(folder).ok()?.filter_map(Result::ok);
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    let begins = |path: &PathBuf| {
        path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(start))
    };
    paths.into_iter().find(begins)
}

/// Depends on the release's newest kernel for virtual machines: small, and quick to boot.
const META: &str = "linux-image-cloud-amd64";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
