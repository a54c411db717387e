//! Holds the dependencies to `.deny.toml`: licences, duplicate versions, sources. Known
//! vulnerabilities are the hosted workflow's: their list lives outside and changes by itself.

use std::path::PathBuf;

use anyhow::Result;

use crate::shell;

/// Checks, after building cargo-deny if it is not there (3 minutes on a slow machine).
pub fn run() -> Result<()> {
    let program = match installed() {
        Some(program) => program,
        None => install()?,
    };
    shell::run(shell::command(program).args(["check", "licenses", "bans", "sources"]))
}

/// cargo-deny, if it is on the search path or was built by this task.
pub fn installed() -> Option<PathBuf> {
    shell::find("cargo-deny").or_else(|| Some(own()).filter(|program| program.is_file()))
}

fn install() -> Result<PathBuf> {
    let mut install = shell::cargo(["install", "cargo-deny", "--locked", "--version", VERSION]);
    install.arg("--root").arg(shell::target_folder().join("tools"));
    // It runs for a second: a quick build matters more than quick code.
    install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    install.env("CARGO_PROFILE_RELEASE_LTO", "off");
    install.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    shell::run(&mut install)?;
    Ok(own())
}

fn own() -> PathBuf {
    let name = format!("cargo-deny{}", std::env::consts::EXE_SUFFIX);
    shell::target_folder().join("tools/bin").join(name)
}

const VERSION: &str = "0.20.2";
