//! The laboratory: what needs more than this machine's own kernel. Names of kernels flow in, the
//! integration tests run inside each, and the first failure flows out.

mod arm64;
mod image;
mod kernel;
mod left_out;
mod scenario;
mod service;
mod wine;

use std::panic::resume_unwind;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Subcommand};

use self::image::Image;
use self::kernel::{KERNELS, Kernel};
use crate::{foreign, packages, shell};

/// What to do in the laboratory.
#[derive(Subcommand)]
pub enum Options {
    /// Boots other Linux kernels under qemu and runs the integration tests inside.
    Kernels(Kernels),
    /// Runs the Windows binary under Wine.
    Wine(Binary),
    /// Runs the arm64 binary under qemu's user emulation.
    Arm64(Binary),
}

/// Which binary to run.
#[derive(Args, Default)]
pub struct Binary {
    /// One that was built before, such as a release's; built here if left out.
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Which kernels, and which tests.
#[derive(Args)]
pub struct Kernels {
    /// Names of kernels, such as 6.1; all of them by default.
    names: Vec<String>,
    /// Only tests whose names contain this; may be repeated.
    #[arg(long = "test")]
    tests: Vec<String>,
    /// Seconds after which a machine is stopped.
    #[arg(long, default_value_t = 1_800)]
    seconds: u64,
    /// Cargo's profile of what runs inside: an emulated CPU spends eight times as long in code that
    /// is not optimized.
    #[arg(long, default_value = "guest")]
    profile: String,
}

impl Options {
    /// The Windows binary, built here.
    pub fn wine() -> Self {
        Self::Wine(Binary::default())
    }

    /// The arm64 binary, built here.
    pub fn arm64() -> Self {
        Self::Arm64(Binary::default())
    }

    /// What every change has to pass: two kernels with other abilities than most machines' have.
    pub fn brief() -> Self {
        Self::Kernels(Kernels {
            names: BRIEF_KERNELS.map(str::to_owned).to_vec(),
            tests: BRIEF_TESTS.map(str::to_owned).to_vec(),
            seconds: BRIEF_SECONDS,
            // What the tests before have built: building it once more takes longer.
            profile: "dev".to_owned(),
        })
    }
}

/// Whether the kernels, and what boots them, are here or can be had.
pub fn is_possible() -> bool {
    let has_tools = packages::LAB.iter().all(|tool| shell::find(tool.program).is_some());
    (has_tools || packages::can_install()) && kernel::mirror().is_ok()
}

/// Whether the Windows binary can be run here.
pub fn is_wine_possible() -> bool {
    wine::is_possible()
}

/// Whether the arm64 binary can be run here.
pub fn is_arm64_possible() -> bool {
    arm64::is_possible()
}

/// Runs what was chosen.
pub fn run(options: &Options) -> Result<()> {
    match options {
        Options::Kernels(options) => run_kernels(options),
        Options::Wine(binary) => wine::run(binary),
        Options::Arm64(binary) => arm64::run(binary),
    }
}

impl Binary {
    /// Its path; built for `target` now unless one was given.
    fn path(&self, target: &str) -> Result<PathBuf> {
        if let Some(path) = &self.binary {
            return Ok(std::path::absolute(path)?);
        }
        let start = Instant::now();
        let path = foreign::build(target, "dev")?;
        println!("{target}: built in {:.0} s", start.elapsed().as_secs_f64());
        Ok(path)
    }
}

fn run_kernels(options: &Kernels) -> Result<()> {
    packages::require(&packages::TEST)?;
    packages::require(&packages::LAB)?;
    let wanted = wanted(&options.names)?;
    let tests = integration_tests(&options.profile)?;
    left_out::tell(&tests)?;
    let mut failed = Vec::new();
    for few in wanted.chunks(MACHINES_MAX) {
        for (kernel, (log, seconds)) in few.iter().zip(boot_together(few, &tests, options)) {
            println!("\n== Linux {}", kernel.name);
            let result = log.and_then(|(log, path)| conclude(kernel.name, &log, &path));
            match result {
                Ok(()) => println!("== Linux {}: ok after {seconds:.0} s", kernel.name),
                // What the others say is worth knowing, too.
                Err(error) => {
                    println!("== Linux {}: {error:#}, after {seconds:.0} s", kernel.name);
                    failed.push(kernel.name);
                }
            }
        }
    }
    ensure!(failed.is_empty(), "failed: Linux {}", failed.join(", "));
    Ok(())
}

/// What a machine wrote, and the file that has it.
type Log = (String, PathBuf);

/// A machine for each kernel, all at once; what each wrote, and for how many seconds it ran.
fn boot_together(kernels: &[&Kernel], tests: &Path, options: &Kernels) -> Vec<(Result<Log>, f64)> {
    let boot = |kernel: &Kernel| {
        let start = Instant::now();
        let log = run_inside(kernel, tests, options);
        (log, start.elapsed().as_secs_f64())
    };
    thread::scope(|scope| {
        let machines: Vec<_> =
            kernels.iter().map(|kernel| scope.spawn(move || boot(kernel))).collect();
        let joined = machines.into_iter().map(thread::ScopedJoinHandle::join);
        joined.map(|log| log.unwrap_or_else(|panic| resume_unwind(panic))).collect()
    })
}

fn run_inside(kernel: &Kernel, tests: &Path, options: &Kernels) -> Result<Log> {
    let found = kernel.fetch(&folder())?;
    let image = Image::build(&folder(), &found, tests, &options.tests)?;
    let mut log = image.boot(options.seconds)?;
    if log.contains(EMULATORS_FAULT) {
        println!("Linux {}: died of {EMULATORS_FAULT:?}, qemu's fault; once more", kernel.name);
        log = image.boot(options.seconds)?;
    }
    Ok((log, image.log))
}

fn wanted(names: &[String]) -> Result<Vec<&'static Kernel>> {
    if names.is_empty() {
        return Ok(KERNELS.iter().collect());
    }
    let known = KERNELS.map(|kernel| kernel.name).join(", ");
    let find = |name: &String| KERNELS.iter().find(|kernel| kernel.name == name);
    let named = names.iter().map(|name| {
        find(name).with_context(|| format!("no kernel is called {name}; there are: {known}"))
    });
    named.collect()
}

/// The binary of the integration tests, built.
fn integration_tests(profile: &str) -> Result<PathBuf> {
    let words = ["test", "--package", "rttscope", "--test", "it", "--no-run", "--profile", profile];
    let mut build = shell::cargo(words);
    let messages = shell::output(build.arg("--message-format=json-render-diagnostics"))?;
    let path = messages.lines().rev().find_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        let path = rest.split('"').next()?;
        line.contains("\"kind\":[\"test\"]").then(|| PathBuf::from(path))
    });
    path.context("cargo named no test binary")
}

/// What a machine wrote decides: it has to have said that all is well.
fn conclude(name: &str, log: &str, path: &Path) -> Result<()> {
    let lines = log.lines().map(str::trim_end);
    let told = |line: &&str| {
        ["test result:", "SKIP ", "booted ", "again, one by one: "]
            .iter()
            .any(|start| line.starts_with(start))
            || line.ends_with("FAILED")
    };
    lines.clone().filter(told).for_each(|line| println!("{line}"));
    ensure!(log.contains("\nbooted "), "Linux {name} did not boot; see {}", path.display());
    if lines.clone().any(|line| line == "tests ended with 0") {
        let passed = lines.filter_map(|line| line.strip_prefix("test result: ok. "));
        ensure!(passed.into_iter().all(|rest| !rest.starts_with("0 passed")), "no test has run");
        return Ok(());
    }
    let what = if log.contains("Kernel panic") {
        "the kernel died"
    } else if log.contains("\ntests ended with ") {
        "tests fail"
    } else {
        "time is up"
    };
    bail!("{what} in Linux {name}; the whole log is {}", path.display())
}

fn folder() -> PathBuf {
    shell::target_folder().join("lab")
}

/// What a kernel says that runs into a breakpoint which it has removed: qemu 7.2 can miss that code
/// was rewritten while it translated it. See [`image`], too.
const EMULATORS_FAULT: &str = "Oops: int3";
/// Each takes one CPU: qemu's [`image`] runs both of a machine's in turn.
const MACHINES_MAX: usize = 2;
/// A ring without stamps by its commands, clsact and 232 bytes of `TCP_INFO`; tcx and 248 bytes.
/// Both are of releases that are maintained, so their packages stay where they are.
const BRIEF_KERNELS: [&str; 2] = ["6.1", "6.12"];
/// Those to which a kernel makes most of a difference.
const BRIEF_TESTS: [&str; 4] = ["abilities::", "netem::", "tcp_info::", "syn_timer::"];
const BRIEF_SECONDS: u64 = 600;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_have_names() {
        assert_eq!(wanted(&[]).map(|all| all.len()).unwrap_or(0), KERNELS.len());
        let names = wanted(&["6.1".to_owned()]).map(|some| some[0].name);
        assert_eq!(names.unwrap_or(""), "6.1");
        assert!(wanted(&["2.0".to_owned()]).is_err());
        assert!(wanted(&BRIEF_KERNELS.map(str::to_owned)).is_ok());
    }
}
