//! The project's own tasks: `cargo xtask TASK` runs the same words on a laptop and on a server.
//! Each task is one file; arguments flow in here, the exit code flows out.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task is run for its output")]
#![expect(unreachable_pub, reason = "a binary has no outside: `pub` means for the other tasks")]
#![expect(clippy::disallowed_methods, reason = "a task's duration is shown, not measured")]

mod bench;
mod build_ebpf;
mod cargo_test;
mod check_foreign;
mod dashboards;
mod debian_rust;
mod deny;
mod deploy;
mod dist;
mod foreign;
mod fuzz;
mod lab;
mod packages;
mod paths;
mod shell;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Builds, checks and measures rttscope.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Everything that must pass: installs what it needs, checks, tests, fuzzes briefly.
    Test(test::Options),
    /// Checks the sources as text: the architecture's arrows, `unsafe`, platforms, sizes.
    Tidy,
    /// Type-checks the portable build for Windows and macOS.
    CheckForeign(check_foreign::Options),
    /// Builds the committed eBPF object, byte-reproducibly.
    BuildEbpf(build_ebpf::Options),
    /// Makes the dashboards and rules anew, and holds them to Grafana's schema.
    Dashboards(dashboards::Options),
    /// Holds units, manifests and the image's recipe to what will read them.
    Deploy(deploy::Options),
    /// Holds the dependencies to `.deny.toml`.
    Deny,
    /// Runs the fuzz targets for a bounded time.
    Fuzz(fuzz::Options),
    /// Packs the archives of a release into `target/dist`.
    Dist(dist::Options),
    /// Runs tests that need another machine than this one.
    #[command(subcommand)]
    Lab(lab::Options),
    /// Runs the benches in release mode.
    Bench(bench::Options),
}

fn main() -> ExitCode {
    let result = match Arguments::parse().task {
        Task::Test(options) => test::run(&options),
        Task::Tidy => tidy::run(),
        Task::CheckForeign(options) => check_foreign::run(&options),
        Task::BuildEbpf(options) => build_ebpf::run(&options),
        Task::Dashboards(options) => dashboards::run(&options),
        Task::Deploy(options) => deploy::run(&options),
        Task::Deny => deny::run(),
        Task::Fuzz(options) => fuzz::run(&options),
        Task::Dist(options) => dist::run(&options),
        Task::Lab(options) => lab::run(&options),
        Task::Bench(options) => bench::run(&options),
    };
    let Err(error) = result else { return ExitCode::SUCCESS };
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
