//! Runs the benches: plain programs in `benches/` that print their own tables. Names flow in, the
//! tables flow out unchanged.

use std::fs;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{packages, shell};

/// Which benches to run.
#[derive(Args)]
pub struct Options {
    /// Names of files in `benches/` without `.rs`; all of them by default.
    names: Vec<String>,
    /// Arguments for each bench, after `--`.
    #[arg(last = true)]
    arguments: Vec<String>,
}

/// Runs the benches one after the other: they compete for the same cores.
pub fn run(options: &Options) -> Result<()> {
    let known = names()?;
    if known.is_empty() {
        bail!("there is no file in benches/ yet");
    }
    if let Some(unknown) = options.names.iter().find(|name| !known.contains(name)) {
        bail!("no bench is called {unknown}; there are: {}", known.join(", "));
    }
    let wanted = if options.names.is_empty() { &known } else { &options.names };
    for name in wanted {
        if name == "load" {
            packages::require(&packages::BENCH_LOAD)?;
        }
        println!("\n== {name}");
        if name == "relay" && packages::can_install() {
            packages::require(&packages::BENCH_RELAY)?;
        }
        let mut bench = shell::cargo(["bench", "--package", "rttscope", "--bench", name]);
        if !options.arguments.is_empty() {
            bench.arg("--").args(&options.arguments);
        }
        shell::run(&mut bench)?;
    }
    Ok(())
}

/// The files of `benches/`, which Cargo knows by the same names.
fn names() -> Result<Vec<String>> {
    let folder = shell::root().join("benches");
    if !folder.exists() {
        return Ok(Vec::new());
    }
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder).with_context(|| format!("cannot read {folder:?}"))? {
        let path = entry?.path();
        let is_bench =
            path.extension().is_some_and(|it| it == "rs") || path.join("main.rs").exists();
        if let (true, Some(name)) = (is_bench, path.file_stem()) {
            names.push(name.to_string_lossy().into_owned());
        }
    }
    names.sort();
    Ok(names)
}
