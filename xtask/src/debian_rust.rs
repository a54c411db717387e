//! Debian's own Rust compiler, which builds the standard library for a target from its source
//! package: one toolchain for every target whose library rustup does not have here. The words of
//! a cargo command flow in, a command flows out.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::{packages, shell};

/// Whether it is here or can be had.
pub fn is_possible() -> bool {
    is_here() || packages::can_install()
}

/// The targets whose standard library rustup installed: they need none of this.
pub fn rustup_targets() -> Vec<String> {
    if shell::find("rustup").is_none() {
        return Vec::new();
    }
    let list = shell::output(shell::command("rustup").args(["target", "list", "--installed"]));
    list.map_or_else(|_| Vec::new(), |text| text.lines().map(str::to_owned).collect())
}

/// Installs it, or says what to install to build for `targets`.
pub fn require(targets: &[&str]) -> Result<()> {
    if is_here() {
        return Ok(());
    }
    if !packages::can_install() {
        bail!(
            "run `rustup target add {}`; on Debian: apt-get install {}",
            targets.join(" "),
            PACKAGES.join(" ")
        );
    }
    packages::install(&PACKAGES)
}

/// `cargo check` or `cargo build` by that compiler, with a standard library built from source.
pub fn cargo(word: &str) -> Command {
    let mut cargo = shell::command("/usr/bin/cargo");
    cargo.args([word, "-Zbuild-std=std,panic_abort"]);
    prepare(&mut cargo);
    cargo
}

/// Sets the environment in which a command runs this compiler.
pub fn prepare(command: &mut Command) {
    shell::forget_outer_cargo(command);
    command.env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN").env_remove("RUSTC_WRAPPER");
    // The source must match the compiler, and a rustup shim comes first on many search paths.
    command.env("RUSTC", "/usr/bin/rustc").env("RUSTDOC", "/usr/bin/rustdoc");
    // `-Zbuild-std` is the one unstable switch; the sources themselves use no unstable feature.
    command.env("RUSTC_BOOTSTRAP", "1");
}

fn is_here() -> bool {
    FILES.iter().all(|file| Path::new(file).exists())
}

/// The compiler, its library's source, and the `dlltool` with which it names the DLLs of Windows.
const PACKAGES: [&str; 5] =
    ["rustc-web", "cargo-web", "rust-web-src", "libstd-rust-web-dev", "binutils-mingw-w64-x86-64"];

const FILES: [&str; 4] = [
    "/usr/bin/cargo",
    "/usr/bin/rustc",
    "/usr/lib/rustlib/src/rust/library/Cargo.lock",
    "/usr/bin/x86_64-w64-mingw32-dlltool",
];
