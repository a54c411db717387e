//! Builds and runs the fuzz targets of `fuzz/` on the stable toolchain. Seconds flow in; a crash
//! flows out as an error with the input that caused it, in a file and as hex.
//!
//! The folder's layout is cargo-fuzz's, which works here too but wants a nightly compiler. The
//! coverage instrumentation is what LLVM offers without a sanitizer: nearly all of our code is
//! safe, so a panic (with overflow checks and debug assertions on) is the bug to be found.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

use crate::{packages, shell};

/// What to fuzz, and for how long.
#[derive(Args)]
pub struct Options {
    /// Names of files in `fuzz/fuzz_targets/` without `.rs`; all of them by default.
    names: Vec<String>,
    /// Seconds for each target.
    #[arg(long, default_value_t = SECONDS_DEFAULT)]
    seconds: u64,
    /// Seed of the random numbers: the same seed tries the same inputs from the same corpus.
    #[arg(long, default_value_t = 1)]
    seed: u32,
}

impl Options {
    /// Every target, for this long.
    pub fn all(seconds: u64) -> Self {
        Self { names: Vec::new(), seconds, seed: 1 }
    }
}

/// Seconds for each target in `cargo xtask test`.
pub const SECONDS_DEFAULT: u64 = 10;

/// Builds all targets, then runs the wanted ones one after the other.
pub fn run(options: &Options) -> Result<()> {
    packages::require(&packages::FUZZ)?;
    let host = host_triple()?;
    let scratch = shell::target_folder().join("fuzz");
    let known = names()?;
    if let Some(unknown) = options.names.iter().find(|name| !known.contains(name)) {
        bail!("no fuzz target is called {unknown}; there are: {}", known.join(", "));
    }
    build(&host, &scratch)?;
    let wanted = if options.names.is_empty() { &known } else { &options.names };
    for name in wanted {
        let program = scratch.join(&host).join("release").join(name);
        fuzz(name, &program, &scratch, options)?;
    }
    Ok(())
}

fn build(host: &str, scratch: &Path) -> Result<()> {
    // The fuzz workspace takes every version from ours: what is fuzzed is what is shipped, and
    // there is no second lock file to keep.
    fs::copy(shell::root().join("Cargo.lock"), shell::root().join("fuzz/Cargo.lock"))
        .context("cannot copy Cargo.lock to fuzz/")?;
    let mut build = shell::cargo(["build", "--release", "--bins", "--manifest-path"]);
    build.arg("fuzz/Cargo.toml");
    // With a target named, the flags reach neither build scripts nor macros.
    build.args(["--target", host]).arg("--target-dir").arg(scratch);
    build.env("RUSTFLAGS", INSTRUMENTATION.join(" "));
    shell::run(&mut build)
}

fn fuzz(name: &str, program: &Path, scratch: &Path, options: &Options) -> Result<()> {
    let corpus = scratch.join("corpus").join(name);
    let crashes = scratch.join("crashes").join(name);
    let log_path = scratch.join(format!("{name}.log"));
    if crashes.exists() {
        fs::remove_dir_all(&crashes)?;
    }
    fs::create_dir_all(&corpus)?;
    fs::create_dir_all(&crashes)?;
    let log = File::create(&log_path).with_context(|| format!("cannot write {log_path:?}"))?;
    let mut command = shell::command(program);
    command.args(limits(options)).arg(format!("-artifact_prefix={}/", crashes.display()));
    command.arg(&corpus);
    // Inputs that once failed or are hard to reach, if the target has some.
    let seeds = shell::root().join("fuzz/seeds").join(name);
    if seeds.exists() {
        command.arg(seeds);
    }
    command.stdout(log.try_clone()?).stderr(log);
    println!("$ {name}: {} s", options.seconds);
    let status = command.status().with_context(|| format!("cannot start {program:?}"))?;
    let log = fs::read(&log_path)?;
    let log = String::from_utf8_lossy(&log);
    ensure!(
        log.contains("inline 8-bit counters") || !status.success(),
        "{name} was built without coverage instrumentation: fuzzing would be blind"
    );
    if status.success() {
        println!("{name}: {}", summary(&log));
        return Ok(());
    }
    println!("{}", tail(&log, LOG_LINES));
    for crash in files(&crashes)? {
        let input = fs::read(&crash)?;
        println!("input: {}\nhex: {}", crash.display(), hex(&input));
        println!("again: {} {}", program.display(), crash.display());
    }
    bail!("fuzz target {name} failed ({status}); the whole log is {}", log_path.display())
}

/// Bounds on a run, in libFuzzer's words.
fn limits(options: &Options) -> [String; 7] {
    [
        format!("-max_total_time={}", options.seconds),
        format!("-seed={}", options.seed),
        "-max_len=4096".to_owned(),
        "-timeout=10".to_owned(),
        "-rss_limit_mb=1024".to_owned(),
        "-print_final_stats=1".to_owned(),
        "-verbosity=1".to_owned(),
    ]
}

/// The source files of the targets.
fn names() -> Result<Vec<String>> {
    let sources = files(&shell::root().join("fuzz/fuzz_targets"))?;
    let stems = sources.iter().filter_map(|path| path.file_stem());
    Ok(stems.map(|stem| stem.to_string_lossy().into_owned()).collect())
}

fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder).with_context(|| format!("cannot read {folder:?}"))?;
    let mut paths = entries.map(|entry| Ok(entry?.path())).collect::<Result<Vec<_>>>()?;
    paths.sort();
    Ok(paths)
}

fn host_triple() -> Result<String> {
    let version = shell::output(Command::new("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).context("`rustc -vV` names no host")
}

/// How many inputs were tried, and how much code they reached.
fn summary(log: &str) -> String {
    let value = |start: &str| log.lines().filter_map(|line| line.strip_prefix(start)).next_back();
    let inputs = value("stat::number_of_executed_units:").unwrap_or("?").trim();
    let progress = log.lines().rev().find_map(|line| line.split_once(" cov: "));
    let edges = progress.and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or("?");
    format!("{inputs} inputs, {edges} edges reached, nothing found")
}

fn tail(text: &str, lines: usize) -> String {
    let all: Vec<&str> = text.lines().collect();
    all[all.len().saturating_sub(lines)..].join("\n")
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

const LOG_LINES: usize = 60;

/// The flags of cargo-fuzz without a sanitizer.
const INSTRUMENTATION: [&str; 10] = [
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Ccodegen-units=1",
    "-Cdebug-assertions=on",
    "-Coverflow-checks=on",
    "-Cforce-frame-pointers=yes",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_summary_has_the_last_coverage() {
        let log = "#2\tINITED cov: 5 ft: 6 corp: 1/1b\n#9\tDONE   cov: 81 ft: 90 corp: 4/9b\n\
            stat::number_of_executed_units: 1234\n";
        assert_eq!(summary(log), "1234 inputs, 81 edges reached, nothing found");
    }

    #[test]
    fn a_tail_is_at_most_the_whole() {
        assert_eq!(tail("a\nb\nc", 2), "b\nc");
        assert_eq!(tail("a", 2), "a");
        assert_eq!(hex(&[0, 0xab]), "00ab");
    }
}
