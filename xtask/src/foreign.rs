//! The program built for a target that need not be this machine's own. A triple and a profile flow
//! in, the path of a binary flows out, or what is missing for it.
//!
//! Where rustup has the target's standard library, that is used; elsewhere Debian's compiler
//! builds it.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::packages::Tool;
use crate::{dashboards, debian_rust, packages, paths, shell};

/// A platform that the program is built for.
pub struct Target {
    /// As rustc calls it.
    pub triple: &'static str,
    /// How its programs are linked here.
    link: Link,
}

#[derive(Clone, Copy)]
enum Link {
    /// By the compiler's own choice.
    Native,
    /// By another system's C compiler, the first of these.
    By(&'static [Tool]),
    /// By Zig, which has the C libraries of musl and of macOS.
    Zig,
}

/// Everything that a release has. The first one is the most usual.
pub const TARGETS: [Target; 7] = [
    Target { triple: "x86_64-unknown-linux-gnu", link: Link::Native },
    Target { triple: "x86_64-unknown-linux-musl", link: Link::Zig },
    Target { triple: "aarch64-unknown-linux-gnu", link: Link::By(&ARM64) },
    Target { triple: "aarch64-unknown-linux-musl", link: Link::Zig },
    Target { triple: "x86_64-pc-windows-gnu", link: Link::By(&WINDOWS) },
    Target { triple: "x86_64-apple-darwin", link: Link::Zig },
    Target { triple: "aarch64-apple-darwin", link: Link::Zig },
];

/// A target by its triple; one that is not listed is built by the compiler's own means.
pub fn find(triple: &str) -> Result<&'static Target> {
    let found = TARGETS.iter().find(|target| target.triple == triple);
    found.with_context(|| {
        let known = TARGETS.map(|target| target.triple).join(", ");
        format!("{triple} is no target of a release; there are: {known}")
    })
}

/// Whether `build` could work here, installing included.
pub fn is_possible(triple: &str) -> bool {
    debian_rust::rustup_targets().iter().any(|it| it == triple) || debian_rust::is_possible()
}

/// Where such builds are: a folder of their own, since other flags and another compiler would
/// rebuild everything.
pub fn target_folder() -> PathBuf {
    shell::target_folder().join("foreign")
}

/// Builds the program and returns its path.
pub fn build(triple: &str, profile: &str) -> Result<PathBuf> {
    let target = find(triple)?;
    let with_rustup = debian_rust::rustup_targets().iter().any(|it| it == triple);
    let mut flags = paths::flags();
    let mut build = if with_rustup {
        by_rustup(target)
    } else {
        debian_rust::require(&[triple])?;
        by_debian(target, &mut flags)?
    };
    build.args(["--package", "rttscope", "--bins", "--target", triple, "--profile", profile]);
    build.arg("--target-dir").arg(target_folder());
    // A folder's name may contain spaces.
    build.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    build.env("CARGO_PROFILE_DEV_DEBUG", "false");
    shell::run(&mut build).with_context(|| format!("{triple} does not build"))?;
    let folder = if profile == "dev" { "debug" } else { profile };
    let name = if triple.contains("windows") { "rttscope.exe" } else { "rttscope" };
    let binary = target_folder().join(triple).join(folder).join(name);
    if !binary.is_file() {
        bail!("cargo made no {}", binary.display());
    }
    paths::require_none(&fs::read(&binary)?)?;
    Ok(binary)
}

/// rustup's own libraries: for musl they bring the C library along.
fn by_rustup(target: &Target) -> Command {
    let mut build = shell::cargo(["build"]);
    match target.link {
        Link::By(tools) if tools.iter().all(Tool::is_here) => {
            build.env(linker_variable(target.triple), tools[0].program);
        }
        Link::Zig if target.triple.ends_with("-musl") => {
            build.env(linker_variable(target.triple), "rust-lld");
        }
        _ => {}
    }
    build
}

fn by_debian(target: &Target, flags: &mut Vec<String>) -> Result<Command> {
    let mut build = debian_rust::cargo("build");
    match target.link {
        Link::Native => {}
        Link::By(tools) => {
            packages::require(tools)?;
            build.env(linker_variable(target.triple), tools[0].program);
        }
        Link::Zig => {
            packages::require(&ZIG)?;
            let python = dashboards::python("zig", "xtask/requirements.txt")?;
            build = shell::command(python.with_file_name("cargo-zigbuild"));
            build.env("CARGO_ZIGBUILD_PYTHON_PATH", python);
            build.env("CARGO_ZIGBUILD_CACHE_DIR", target_folder().join("zig"));
            build.args(["build", "-Zbuild-std=std,panic_abort"]);
            debian_rust::prepare(&mut build);
            build.env("CARGO", "/usr/bin/cargo");
            if target.triple.ends_with("-musl") {
                flags.push("-Clink-self-contained=no".to_owned());
            } else {
                // Zig's own choice would be far newer; and stripping needs a tool that is not here.
                build.env("MACOSX_DEPLOYMENT_TARGET", "11.0");
                build.env("CARGO_PROFILE_RELEASE_STRIP", "none");
                // Zig has no frameworks: these have the names that are taken from them. The path is
                // a relative one, since this flag goes into the names of all symbols.
                flags.push("-Clink-arg=-Fxtask/macos".to_owned());
            }
        }
    }
    Ok(build)
}

/// `CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER`.
fn linker_variable(triple: &str) -> String {
    format!("CARGO_TARGET_{}_LINKER", triple.to_uppercase().replace('-', "_"))
}

/// Links programs for Windows.
pub const WINDOWS: [Tool; 1] = [Tool {
    program: "x86_64-w64-mingw32-gcc",
    package: "gcc-mingw-w64-x86-64",
    purpose: "linking for Windows",
}];

/// Links programs for arm64.
pub const ARM64: [Tool; 2] = [
    Tool {
        program: "aarch64-linux-gnu-gcc",
        package: "gcc-aarch64-linux-gnu",
        purpose: "linking for arm64",
    },
    Tool {
        program: "/usr/aarch64-linux-gnu/lib/libc.so",
        package: "libc6-dev-arm64-cross",
        purpose: "linking for arm64",
    },
];

const ZIG: [Tool; 1] =
    [Tool { program: "virtualenv", package: "virtualenv", purpose: "Zig, which links for others" }];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cargo_reads_the_linker_from_this_variable() {
        assert_eq!(
            linker_variable("x86_64-pc-windows-gnu"),
            "CARGO_TARGET_X86_64_PC_WINDOWS_GNU_LINKER"
        );
    }

    #[test]
    fn an_unknown_target_names_the_known_ones() {
        let error = find("sparc-sun-solaris").err().map(|error| error.to_string());
        assert!(error.is_some_and(|line| line.contains("aarch64-apple-darwin")));
    }
}
