//! Everything that must pass before a change lands, cheapest first. Nothing flows in but the
//! sources; the first failure flows out, and at the end the list of tests that could not run.
//!
//! A test that lacks a privilege here appends `SKIP name: reason` to the file named by
//! `RTTSCOPE_SKIPS` and passes. On a developer's machine the list is shown; where `CI=true` (or
//! with `--no-skips`) a test that did not run is a failure.

use std::env;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    build_ebpf, cargo_test, check_foreign, dashboards, deny, deploy, fuzz, lab, packages, shell,
    tidy,
};

/// How strict to be.
#[derive(Args)]
pub struct Options {
    /// Fail if a test was skipped. The default where the environment says `CI=true`.
    #[arg(long, overrides_with = "allow_skips")]
    no_skips: bool,
    /// Only list the skipped tests, even where `CI=true`.
    #[arg(long)]
    allow_skips: bool,
    /// Seconds for each fuzz target.
    #[arg(long, default_value_t = fuzz::SECONDS_DEFAULT)]
    fuzz_seconds: u64,
}

/// Runs every step and stops at the first that fails.
pub fn run(options: &Options) -> Result<()> {
    let strict = !options.allow_skips && (options.no_skips || is_ci());
    packages::require(&packages::TEST)?;
    let skips_path = shell::target_folder().join("skipped-tests.txt");
    fs::create_dir_all(shell::target_folder())?;
    fs::write(&skips_path, "").with_context(|| format!("cannot write {skips_path:?}"))?;

    step("format", || {
        shell::run(&mut shell::cargo(["fmt", "--all", "--check"]))?;
        let fuzz = ["fmt", "--check", "--manifest-path", "fuzz/Cargo.toml"];
        shell::run(&mut shell::cargo(fuzz))
    })?;
    step("tidy", tidy::run)?;
    step("clippy", || {
        let words = ["clippy", "--workspace", "--all-targets", "--", "-Dwarnings"];
        shell::run(&mut shell::cargo(words))?;
        let words = ["clippy", "--package", "rttscope", "--lib", "--tests", "--all-features"];
        shell::run(shell::cargo(words).args(["--", "-Dwarnings"]))
    })?;
    let mut skipped: Vec<String> = Vec::new();
    let mut optional = |name, possible, needs, body: &mut dyn FnMut() -> Result<()>| {
        if possible {
            return step(name, body);
        }
        skipped.push(format!("SKIP {name}: {needs}"));
        Ok(())
    };
    let possible = strict || build_ebpf::is_possible();
    optional("eBPF object", possible, "it needs Debian's Rust packages", &mut || {
        build_ebpf::run(&build_ebpf::Options::check())
    })?;
    let mut unsteady = Vec::new();
    step("tests", || {
        unsteady = tests(&skips_path)?;
        Ok(())
    })?;
    step("dashboards", || dashboards::run(&dashboards::Options::check()))?;
    let possible = strict || deploy::is_possible();
    optional("deployment", possible, "it needs root on Linux, and systemd-analyze", &mut || {
        deploy::run(&deploy::Options::check())
    })?;
    step("documentation", || {
        let mut doc = shell::cargo(["doc", "--workspace", "--no-deps"]);
        shell::run(doc.env("RUSTDOCFLAGS", "-Dwarnings"))
    })?;
    step("fuzz", || fuzz::run(&fuzz::Options::all(options.fuzz_seconds)))?;
    let possible = strict || deny::installed().is_some();
    optional("dependencies", possible, "`cargo xtask deny` builds cargo-deny", &mut deny::run)?;
    let needs = "rustup target add x86_64-pc-windows-gnu aarch64-apple-darwin";
    optional("foreign platforms", check_foreign::is_possible(), needs, &mut || {
        check_foreign::run(&check_foreign::Options::default())
    })?;
    let needs = "it needs root and a Debian, or what `cargo xtask lab` lists";
    for (name, possible, lab_options) in [
        ("other kernels", lab::is_possible(), lab::Options::brief()),
        ("Windows", lab::is_wine_possible(), lab::Options::wine()),
        ("arm64", lab::is_arm64_possible(), lab::Options::arm64()),
    ] {
        optional(name, possible, needs, &mut || lab::run(&lab_options))?;
    }
    let skips = fs::read_to_string(&skips_path)?;
    skipped.extend(skips.lines().map(str::to_owned));
    for name in unsteady {
        println!("UNSTEADY {name}: failed, and passed when it was run once more alone");
    }
    conclude(&skipped, strict)
}

/// What comes back are the tests that failed first and passed alone.
fn tests(skips_path: &Path) -> Result<Vec<String>> {
    let unsteady = cargo_test::run(&["test", "--workspace"], |test| {
        test.env("RTTSCOPE_SKIPS", skips_path);
    })?;
    let words = ["test", "--package", "rttscope", "--lib", "--all-features", "collector"];
    shell::run(&mut shell::cargo(words))?;
    Ok(unsteady)
}

fn step(name: &str, body: impl FnOnce() -> Result<()>) -> Result<()> {
    println!("\n== {name}");
    let start = Instant::now();
    body().with_context(|| format!("{name} failed"))?;
    println!("== {name}: ok after {:.0} s", start.elapsed().as_secs_f64());
    Ok(())
}

fn conclude(skipped: &[String], strict: bool) -> Result<()> {
    if skipped.is_empty() {
        println!("\neverything passed, nothing was skipped");
        return Ok(());
    }
    println!("\n{} skipped, because something is missing here:", skipped.len());
    for line in skipped {
        println!("{line}");
    }
    if strict {
        bail!("a test was skipped where all must run; --allow-skips only lists them");
    }
    println!("everything else passed");
    Ok(())
}

fn is_ci() -> bool {
    env::var_os("CI").is_some_and(|value| value == "true" || value == "1")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_skip_fails_only_where_all_must_run() {
        let skipped = ["SKIP veth: not root".to_owned()];
        assert!(conclude(&skipped, true).is_err());
        assert!(conclude(&skipped, false).is_ok());
        assert!(conclude(&[], true).is_ok());
    }
}
