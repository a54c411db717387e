//! Builds the eBPF programs of `ebpf/` into the committed `ebpf/rttscope.bpf.o`, byte by byte the
//! same on every machine. The sources flow in; out flows the object, or with `--check` the answer
//! whether the committed one is theirs.
//!
//! The bytes depend on the compiler, on its LLVM, on the standard library's source (LLVM copies
//! lines of it into the debugging information) and on paths. So the compiler is one version of
//! Debian's, which has a standard library for BPF; the linker is one version and is led to that
//! compiler's LLVM; and every path is replaced.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use object::build::elf::{Builder, SectionData};
use object::elf;

use crate::{packages, shell};

/// Whether to write or to compare.
#[derive(Args)]
pub struct Options {
    /// Only compare with the committed object; fail if they differ.
    #[arg(long)]
    check: bool,
}

impl Options {
    /// Compares only.
    pub fn check() -> Self {
        Self { check: true }
    }
}

/// Builds, then writes the object or compares it with the committed one.
pub fn run(options: &Options) -> Result<()> {
    require_debian_rust()?;
    let scratch = shell::target_folder().join("ebpf");
    fs::create_dir_all(&scratch)?;
    let linker = linker(&scratch)?;
    build(&scratch, &linker)?;
    let built = scratch.join(TARGET).join("release/rttscope-ebpf");
    let unstripped = fs::read(&built).with_context(|| format!("cannot read {built:?}"))?;
    let object = stripped(&unstripped)?;
    let path = shell::root().join(OBJECT);
    if !options.check {
        fs::write(&path, &object).with_context(|| format!("cannot write {path:?}"))?;
        println!("{OBJECT}: {} bytes", object.len());
        return Ok(());
    }
    let committed = fs::read(&path).with_context(|| format!("cannot read {path:?}"))?;
    if committed != object {
        let other = scratch.join("rttscope.bpf.o");
        fs::write(&other, &object)?;
        bail!(
            "{OBJECT} ({} bytes) is not what its sources build ({} bytes, {}); run \
             `cargo xtask build-ebpf` and commit it",
            committed.len(),
            object.len(),
            other.display()
        );
    }
    println!("{OBJECT}: {} bytes, as its sources build them", committed.len());
    Ok(())
}

/// Whether `run` could work here at all, installing included.
pub fn is_possible() -> bool {
    missing().is_empty() || packages::can_install()
}

fn build(scratch: &Path, linker: &Path) -> Result<()> {
    // The flags below name the folders of fetched crates.
    shell::run(&mut shell::cargo(["fetch", "--locked", "--quiet"]))?;
    let mut build = shell::command("/usr/bin/cargo");
    build.args(["build", "--locked", "--release", "--package", "rttscope-ebpf"]);
    build.args(["--bin", "rttscope-ebpf", "--features", "program", "--target", TARGET]);
    build.arg("--target-dir").arg(scratch);
    shell::forget_outer_cargo(&mut build);
    build.env("RUSTC", RUSTC).env_remove("CARGO").env_remove("RUSTUP_TOOLCHAIN");
    build.env_remove("RUSTC_WRAPPER").env_remove("RUSTFLAGS");
    build.env("CARGO_ENCODED_RUSTFLAGS", flags(scratch, linker)?);
    // aya-ebpf declares some helpers with inline assembly, unstable for BPF.
    build.env("RUSTC_BOOTSTRAP", "1");
    for (name, value) in PROFILE {
        build.env(format!("CARGO_PROFILE_RELEASE_{name}"), value);
    }
    shell::run(&mut build)
}

/// The compiler's flags, in the form that allows blanks in paths.
fn flags(scratch: &Path, linker: &Path) -> Result<OsString> {
    let mut flags: Vec<OsString> = vec!["-Dwarnings".into(), "-Clink-arg=--btf".into()];
    flags.push(joined("-Clinker=", linker, ""));
    // The last prefix that fits wins: the build folder may be inside the root.
    flags.push(joined("--remap-path-prefix=", shell::root(), "=/rttscope"));
    flags.push(joined("--remap-path-prefix=", scratch, "=/target"));
    let sources = cargo_home()?.join("registry/src");
    let registries = fs::read_dir(&sources).with_context(|| format!("cannot read {sources:?}"))?;
    for registry in registries {
        flags.push(joined("--remap-path-prefix=", &registry?.path(), "=/crates"));
    }
    Ok(flags.join("\x1f".as_ref()))
}

fn joined(before: &str, path: &Path, after: &str) -> OsString {
    let mut word = OsString::from(before);
    word.push(path);
    word.push(after);
    word
}

fn cargo_home() -> Result<PathBuf> {
    let from_home = || env::home_dir().map(|home| home.join(".cargo"));
    env::var_os("CARGO_HOME").map(PathBuf::from).or_else(from_home).context("no home folder")
}

/// A program that starts bpf-linker with the compiler's own LLVM: by itself it takes the first
/// that it meets on the library path, which cargo sets.
fn linker(scratch: &Path) -> Result<PathBuf> {
    let program = shell::target_folder().join("tools/bin/bpf-linker");
    let version = shell::output(shell::command(&program).arg("--version"));
    if !program.is_file() || version.is_ok_and(|it| it.trim() != format!("bpf-linker {LINKER}")) {
        install_linker()?;
    }
    let folder = scratch.join("llvm");
    fs::create_dir_all(&folder)?;
    // A copy would be 150 MB; a link is removed first because the compiler may have moved.
    let link = folder.join("libLLVM.so");
    let text = format!(
        "#!/bin/sh\nln -sf '{}' '{}'\nLD_LIBRARY_PATH='{}' exec '{}' \"$@\"\n",
        llvm()?.display(),
        link.display(),
        folder.display(),
        program.display()
    );
    let script = scratch.join("bpf-linker");
    fs::write(&script, text).with_context(|| format!("cannot write {script:?}"))?;
    shell::run(shell::command("chmod").arg("+x").arg(&script))?;
    Ok(script)
}

fn install_linker() -> Result<()> {
    let mut install = shell::cargo(["install", "bpf-linker", "--locked", "--force"]);
    install.args(["--version", LINKER]).arg("--root").arg(shell::target_folder().join("tools"));
    // It runs for a second: a quick build matters more than quick code.
    install.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "0");
    install.env("CARGO_PROFILE_RELEASE_LTO", "off");
    install.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16");
    shell::run(&mut install)
}

/// The LLVM library of Debian's compiler.
fn llvm() -> Result<PathBuf> {
    let version = shell::output(Command::new(RUSTC).arg("-vV"))?;
    let release = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let release = release.context("`rustc -vV` names no LLVM")?;
    let series: Vec<&str> = release.split('.').take(2).collect();
    let name = format!("libLLVM.so.{}", series.join("."));
    let folder = format!("/usr/lib/{}-linux-gnu", env::consts::ARCH);
    let path = Path::new(&folder).join(name);
    ensure!(path.is_file(), "the compiler's LLVM is not at {}", path.display());
    Ok(path)
}

fn require_debian_rust() -> Result<()> {
    let missing = missing();
    if !missing.is_empty() {
        for path in &missing {
            println!("missing: {path}");
        }
        let packages = DEBIAN_PACKAGES.join(" ");
        if !packages::can_install() {
            bail!("the object is built by Debian's compiler; there: apt-get install {packages}");
        }
        packages::install(&DEBIAN_PACKAGES)?;
    }
    let version = shell::output(Command::new(RUSTC).arg("--version"))?;
    ensure!(
        version.starts_with(&format!("rustc {VERSION} ")),
        "the committed object is rustc {VERSION}'s, {RUSTC} is {}: after an update of it, set \
         VERSION in xtask/src/build_ebpf.rs and commit the new object",
        version.trim()
    );
    Ok(())
}

fn missing() -> Vec<&'static str> {
    DEBIAN_FILES.into_iter().filter(|file| !Path::new(file).exists()).collect()
}

/// Without the sections that no loader reads: debugging information beyond BTF, and relocations
/// of BTF, which loaders do themselves.
fn stripped(object: &[u8]) -> Result<Vec<u8>> {
    let mut builder = Builder::read(object).context("the linker's output is no ELF file")?;
    for section in builder.sections.iter_mut() {
        let name = section.name.as_slice();
        section.delete = [b".debug_".as_slice(), b".rel.debug_", b".rel.BTF"]
            .iter()
            .any(|start| name.starts_with(start));
    }
    builder.delete_orphans();
    let names = |data: &SectionData<'_>| matches!(data, SectionData::SectionString);
    if !builder.sections.iter().any(|section| names(&section.data)) {
        // LLVM keeps the names of sections among those of symbols; the writer does not.
        let section = builder.sections.add();
        section.name = ".shstrtab".into();
        section.sh_type = elf::SHT_STRTAB;
        section.sh_addralign = 1;
        section.data = SectionData::SectionString;
    }
    let mut bytes = Vec::new();
    builder.write(&mut bytes).context("cannot write the object")?;
    Ok(bytes)
}

/// The committed object.
const OBJECT: &str = "ebpf/rttscope.bpf.o";

/// Little-endian, like every machine that the product is built for.
const TARGET: &str = "bpfel-unknown-none";

const RUSTC: &str = "/usr/bin/rustc";

/// The compiler's version.
const VERSION: &str = "1.96.0";

/// The linker's version: the newest that needs no LLVM of its own.
const LINKER: &str = "0.10.3";

/// The compiler, its libraries for BPF, and their source.
const DEBIAN_PACKAGES: [&str; 5] =
    ["rustc-web", "cargo-web", "libstd-rust-web-dev", "libstd-rust-web-dev-bpf", "rust-web-src"];

const DEBIAN_FILES: [&str; 4] = [
    "/usr/bin/cargo",
    RUSTC,
    "/usr/lib/rustlib/bpfel-unknown-none/lib",
    "/usr/lib/rustlib/src/rust/library/core/src/lib.rs",
];

/// Everything of the release profile that the bytes depend on.
const PROFILE: [(&str, &str); 8] = [
    ("CODEGEN_UNITS", "1"),
    ("DEBUG", "2"),
    ("DEBUG_ASSERTIONS", "false"),
    ("LTO", "true"),
    ("OPT_LEVEL", "2"),
    ("OVERFLOW_CHECKS", "false"),
    ("PANIC", "abort"),
    ("STRIP", "none"),
];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use object::read::elf::ElfFile64;
    use object::{Endianness, Object, ObjectSection, ObjectSymbol};

    use super::*;

    #[test]
    fn the_committed_object_has_what_loaders_read_and_no_more() {
        let bytes = fs::read(shell::root().join(OBJECT)).unwrap();
        assert_eq!(stripped(&bytes).unwrap(), bytes, "stripping again changes nothing");
        let file = ElfFile64::<Endianness>::parse(bytes.as_slice()).unwrap();
        let sections: Vec<&str> = file.sections().map(|it| it.name().unwrap()).collect();
        for wanted in ["classifier", ".maps", "license", ".BTF", ".BTF.ext"] {
            assert!(sections.contains(&wanted), "{wanted} in {sections:?}");
        }
        assert!(!sections.iter().any(|name| name.contains("debug")), "{sections:?}");
        let symbols: Vec<&str> = file.symbols().map(|it| it.name().unwrap()).collect();
        for wanted in ["rtt_egress", "rtt_ingress"] {
            assert!(symbols.contains(&wanted), "{wanted} in {symbols:?}");
        }
    }

    #[test]
    fn no_path_of_a_machine_is_in_the_committed_object() {
        let bytes = fs::read(shell::root().join(OBJECT)).unwrap();
        let known = ["/rttscope/", "/crates/", "/usr/src/rustc-"];
        // Shorter ones are pieces of instructions.
        let is_path = |text: &&[u8]| text.starts_with(b"/") && text.len() > 4;
        let texts = bytes.split(|byte| *byte == 0).filter(is_path);
        let paths: Vec<&str> = texts.filter_map(|text| str::from_utf8(text).ok()).collect();
        assert!(paths.len() > 3, "{paths:?}");
        for path in paths {
            assert!(known.iter().any(|start| path.starts_with(start)), "{path}");
        }
    }
}
