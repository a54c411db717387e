//! Type-checks the portable build for platforms that are not here to run it, so that a file of
//! `sys` for another system cannot rot. Targets flow in, compiler errors flow out.
//!
//! Where rustup has a target's standard library, that is used. Elsewhere Debian's own compiler
//! builds the standard library from its source package: one toolchain for every target.

use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{packages, shell};

/// What to check.
#[derive(Args)]
pub struct Options {
    /// A target triple; may be repeated.
    #[arg(long = "target", default_values = DEFAULT_TARGETS)]
    targets: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self { targets: DEFAULT_TARGETS.map(str::to_owned).to_vec() }
    }
}

/// Checks every target, or says what is missing for it.
pub fn run(options: &Options) -> Result<()> {
    let with_rustup = rustup_targets();
    for target in &options.targets {
        let start = Instant::now();
        let mut check = if with_rustup.contains(target) {
            shell::cargo(["check"])
        } else {
            require_debian_rust()?;
            debian_cargo_check()
        };
        check.args(["--package", "rttscope", "--lib", "--bins", "--target", target]);
        // A folder of its own: other flags and another compiler would rebuild everything.
        check.arg("--target-dir").arg(shell::target_folder().join("foreign"));
        check.env("RUSTFLAGS", "-Dwarnings");
        shell::run(&mut check).with_context(|| format!("{target} does not build"))?;
        println!("{target}: checked in {:.0} s", start.elapsed().as_secs_f64());
    }
    Ok(())
}

/// Whether `run` could work here at all, installing included.
pub fn is_possible() -> bool {
    let installed = rustup_targets();
    let by_rustup = DEFAULT_TARGETS.iter().all(|target| installed.iter().any(|it| it == target));
    by_rustup || has_debian_rust() || packages::can_install()
}

/// The targets whose standard library rustup installed.
fn rustup_targets() -> Vec<String> {
    if shell::find("rustup").is_none() {
        return Vec::new();
    }
    let list = shell::output(shell::command("rustup").args(["target", "list", "--installed"]));
    list.map_or_else(|_| Vec::new(), |text| text.lines().map(str::to_owned).collect())
}

fn has_debian_rust() -> bool {
    DEBIAN_FILES.iter().all(|file| Path::new(file).exists())
}

fn require_debian_rust() -> Result<()> {
    if has_debian_rust() {
        return Ok(());
    }
    if !packages::can_install() {
        bail!(
            "run `rustup target add {}`; on Debian: apt-get install {}",
            DEFAULT_TARGETS.join(" "),
            DEBIAN_PACKAGES.join(" ")
        );
    }
    packages::install(&DEBIAN_PACKAGES)
}

/// `cargo check` by Debian's compiler, with a standard library built from source.
fn debian_cargo_check() -> Command {
    let mut check = shell::command("/usr/bin/cargo");
    check.args(["check", "-Zbuild-std=std,panic_abort"]);
    shell::forget_outer_cargo(&mut check);
    // The source must match the compiler, and a rustup shim comes first on many search paths.
    check.env("RUSTC", "/usr/bin/rustc").env("RUSTDOC", "/usr/bin/rustdoc");
    // `-Zbuild-std` is the one unstable switch; the sources themselves use no unstable feature.
    check.env("RUSTC_BOOTSTRAP", "1");
    check.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC_WRAPPER");
    check
}

const DEFAULT_TARGETS: [&str; 2] = ["x86_64-pc-windows-gnu", "aarch64-apple-darwin"];

/// The compiler, its library's source, and the `dlltool` with which it names the DLLs of Windows.
const DEBIAN_PACKAGES: [&str; 5] =
    ["rustc-web", "cargo-web", "rust-web-src", "libstd-rust-web-dev", "binutils-mingw-w64-x86-64"];

const DEBIAN_FILES: [&str; 4] = [
    "/usr/bin/cargo",
    "/usr/bin/rustc",
    "/usr/lib/rustlib/src/rust/library/Cargo.lock",
    "/usr/bin/x86_64-w64-mingw32-dlltool",
];
