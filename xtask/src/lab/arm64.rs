//! The arm64 binary, run by qemu's user emulation on this system's kernel. The emulation knows no
//! io_uring: what every platform has to do is done by readiness here, and that this was a fallback
//! has to be said.

use anyhow::{Result, ensure};

use super::Binary;
use super::scenario::{self, Emulated};
use crate::foreign;
use crate::packages::{self, Tool};

/// Runs everything.
pub fn run(binary: &Binary) -> Result<()> {
    packages::require(&foreign::ARM64)?;
    packages::require(&packages::ARM64)?;
    let binary = binary.path(TARGET)?;
    let folder = scenario::folder(&foreign::target_folder(), "arm64")?;
    let words = ["qemu-aarch64", "-cpu", "max", "-L", "/usr/aarch64-linux-gnu"];
    let emulated = Emulated {
        name: "arm64 (qemu-user)",
        words: words.iter().map(Into::into).chain([binary]).collect(),
        variables: Vec::new(),
        folder,
    };
    scenario::run(&emulated)?;
    fallback_is_told(&emulated)
}

/// Whether the emulator and the linker are here or can be had.
pub fn is_possible() -> bool {
    let has_tools = packages::ARM64.iter().chain(&foreign::ARM64).all(Tool::is_here);
    (has_tools || packages::can_install()) && foreign::is_possible(TARGET)
}

/// Asked for, io_uring is an error that names its reason; not asked for, it is said to be missing.
fn fallback_is_told(emulated: &Emulated) -> Result<()> {
    emulated.finish(&["probe", "127.0.0.1:1", "--count", "1", "--io", "uring"], 3)?;
    let output = emulated.command(&["doctor", "--json"]).output()?;
    let report = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(report.contains("io_uring"), "the doctor says nothing of io_uring: {report}");
    println!("{}: the fallback is told", emulated.name);
    Ok(())
}

const TARGET: &str = "aarch64-unknown-linux-gnu";
