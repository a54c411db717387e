//! The Windows binary, run by Wine on this system: built, given a Windows of its own, and held to
//! what any platform's has to do. Wine proves function, not speed.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::Binary;
use super::scenario::{self, Emulated};
use super::service;
use crate::packages::{self, Tool};
use crate::{foreign, shell};

/// Runs everything.
pub fn run(binary: &Binary) -> Result<()> {
    packages::require(&foreign::WINDOWS)?;
    packages::require(&packages::WINE)?;
    let binary = binary.path(TARGET)?;
    let folder = scenario::folder(&foreign::target_folder(), "wine")?;
    let emulated = Emulated {
        name: "Windows (Wine)",
        words: vec![WINE.into(), binary],
        variables: variables(&folder),
        folder: folder.clone(),
    };
    prepare(&folder).context("making a Windows for the tests")?;
    scenario::run(&emulated)?;
    service::run(&emulated)
}

/// Whether Wine and what it needs are here or can be had.
pub fn is_possible() -> bool {
    let has_tools = packages::WINE.iter().chain(&foreign::WINDOWS).all(Tool::is_here);
    (has_tools || packages::can_install()) && foreign::is_possible(TARGET)
}

/// A Windows whose files are below `folder`, and which has what Rust's library needs.
fn prepare(folder: &Path) -> Result<()> {
    let system = folder.join("prefix/drive_c/windows/system32");
    let mut boot = shell::command(WINE);
    boot.args(["wineboot", "-i"]).envs(variables(folder)).env_remove("DISPLAY");
    shell::run(&mut boot)?;
    // Until this one is gone, and any that an earlier run has left, its service manager would take
    // services that the next one does not know.
    let mut end = shell::command(SERVER);
    shell::run(end.arg("-w").envs(variables(folder)))?;
    let library = system.join("bcryptprimitives.dll");
    if fs::metadata(&library).is_ok_and(|file| file.len() > 0) {
        return Ok(());
    }
    let source = shell::root().join("xtask/src/lab/bcryptprimitives.c");
    let mut compile = shell::command(foreign::WINDOWS[0].program);
    compile.args(["-shared", "-O2", "-s", "-o"]).arg(library).arg(source).arg("-ladvapi32");
    shell::run(&mut compile)
}

fn variables(folder: &Path) -> Vec<(&'static str, PathBuf)> {
    vec![
        ("WINEPREFIX", folder.join("prefix")),
        ("WINEARCH", "win64".into()),
        // Wine's Event Log keeps nothing (`ReadEventLogW` is a stub): what is reported to it goes
        // to standard error.
        ("WINEDEBUG", "-all,err+eventlog".into()),
        // Neither .NET nor a browser: nobody is asked to install them.
        ("WINEDLLOVERRIDES", "mscoree,mshtml=".into()),
    ]
}

const TARGET: &str = "x86_64-pc-windows-gnu";
/// Debian puts no such name on the search path.
const WINE: &str = "/usr/lib/wine/wine64";
const SERVER: &str = "/usr/lib/wine/wineserver64";
