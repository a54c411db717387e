//! Type-checks the portable build for platforms that are not here to run it, so that a file of
//! `sys` for another system cannot rot. Targets flow in, compiler errors flow out.
//!
//! Where rustup has a target's standard library, that is used. Elsewhere Debian's own compiler
//! builds the standard library from its source package: one toolchain for every target.

use std::time::Instant;

use anyhow::{Context, Result};
use clap::Args;

use crate::{debian_rust, shell};

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
    let with_rustup = debian_rust::rustup_targets();
    for target in &options.targets {
        let start = Instant::now();
        let mut check = if with_rustup.contains(target) {
            shell::cargo(["check"])
        } else {
            debian_rust::require(&DEFAULT_TARGETS)?;
            debian_rust::cargo("check")
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
    let installed = debian_rust::rustup_targets();
    let by_rustup = DEFAULT_TARGETS.iter().all(|target| installed.iter().any(|it| it == target));
    by_rustup || debian_rust::is_possible()
}

const DEFAULT_TARGETS: [&str; 2] = ["x86_64-pc-windows-gnu", "aarch64-apple-darwin"];
