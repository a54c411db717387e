//! The archives of a release: for each target the program with its man pages, completions,
//! dashboards, licences and bill of materials, and beside them a file of checksums. Targets flow
//! in, files in `target/dist` flow out; the same sources and compiler give the same bytes.

mod archive;
mod sbom;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use clap::Args;
use sha2::{Digest, Sha256};

use self::archive::{Entry, Mode};
use crate::{foreign, shell};

/// What to pack.
#[derive(Args)]
pub struct Options {
    /// A target triple; may be repeated. This machine's own by default.
    #[arg(long = "target")]
    targets: Vec<String>,
    /// The profile to build with.
    #[arg(long, default_value = "release")]
    profile: String,
    /// Build nothing: make the file of checksums of the archives that are there.
    #[arg(long)]
    checksums_only: bool,
}

/// Builds and packs every target.
pub fn run(options: &Options) -> Result<()> {
    let folder = shell::target_folder().join("dist");
    fs::create_dir_all(&folder)?;
    if !options.checksums_only {
        let native = vec![native_target()?];
        let targets = if options.targets.is_empty() { &native } else { &options.targets };
        let papers = papers(&options.profile)?;
        for target in targets {
            let start = Instant::now();
            let path = pack(target, &options.profile, &papers, &folder)?;
            let bytes = fs::metadata(&path)?.len();
            let seconds = start.elapsed().as_secs_f64();
            println!("{}: {bytes} bytes after {seconds:.0} s", path.display());
        }
    }
    let list = checksums(&folder)?;
    print!("{list}");
    fs::write(folder.join("SHA256SUMS"), list).context("cannot write SHA256SUMS")
}

/// One target's archive.
fn pack(target: &str, profile: &str, papers: &[Entry], folder: &Path) -> Result<PathBuf> {
    let binary = foreign::build(target, profile)?;
    let name = format!("rttscope-{}-{target}", version());
    let file = if target.contains("windows") { "rttscope.exe" } else { "rttscope" };
    let bytes = fs::read(&binary).with_context(|| format!("cannot read {}", binary.display()))?;
    let mut entries = vec![
        Entry { path: file.to_owned(), mode: Mode::Program, bytes },
        Entry::text("rttscope.cdx.json", sbom::of(target)?),
    ];
    entries.extend(papers.iter().cloned());
    entries.sort_by(|a, b| a.path.cmp(&b.path));
    for entry in &mut entries {
        entry.path = format!("{name}/{}", entry.path);
    }
    if target.contains("windows") {
        let path = folder.join(format!("{name}.zip"));
        fs::write(&path, archive::zip(&entries)?)?;
        Ok(path)
    } else {
        let path = folder.join(format!("{name}.tar.gz"));
        fs::write(&path, archive::tar_gz(&entries)?)?;
        Ok(path)
    }
}

/// What is the same for every target. The program itself prints its pages, so one is built here.
fn papers(profile: &str) -> Result<Vec<Entry>> {
    let program = foreign::build(&native_target()?, profile)?;
    let print = |words: &[&str]| shell::output(shell::command(&program).args(words));
    let mut entries = vec![Entry::text("man/rttscope.1", print(&["man"])?)];
    for command in commands(&print(&["man"])?) {
        let page = print(&["man", &command])?;
        entries.push(Entry::text(&format!("man/rttscope-{command}.1"), page));
    }
    ensure!(entries.len() > 5, "the man page of the program names no commands");
    for (shell, file) in COMPLETIONS {
        let script = print(&["completions", shell])?;
        entries.push(Entry::text(&format!("completions/{file}"), script));
    }
    // What is not in the repository is nobody's to ship.
    let tracked = ["ls-files", "--", "dashboards", "deploy"];
    for name in shell::output(shell::command("git").args(tracked))?.lines() {
        let bytes = fs::read(shell::root().join(name))?;
        entries.push(Entry { path: name.to_owned(), mode: Mode::Plain, bytes });
    }
    for file in ["README.md", "LICENSE-APACHE", "LICENSE-MIT"] {
        let text = fs::read_to_string(shell::root().join(file))?;
        entries.push(Entry::text(file, text));
    }
    Ok(entries)
}

/// The commands that the program's man page names, `rttscope-probe(1)`.
fn commands(page: &str) -> Vec<String> {
    let plain = page.replace("\\-", "-").replace("\\fB", "").replace("\\fR", "");
    let mut names: Vec<String> = plain
        .split("rttscope-")
        .skip(1)
        .filter_map(|rest| rest.split_once("(1)"))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.chars().all(|c| c.is_ascii_lowercase()))
        .collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// As `sha256sum --check` reads them.
fn checksums(folder: &Path) -> Result<String> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "gz" || it == "zip") {
            paths.push(path);
        }
    }
    paths.sort_unstable();
    let mut list = String::new();
    for path in paths {
        let name = path.file_name().context("a file has a name")?.to_string_lossy();
        writeln!(list, "{}  {name}", digest(&fs::read(&path)?))?;
    }
    Ok(list)
}

fn digest(bytes: &[u8]) -> String {
    let mut text = String::new();
    for byte in Sha256::digest(bytes) {
        write!(text, "{byte:02x}").expect("a string takes everything");
    }
    text
}

const fn version() -> &'static str {
    // One version for the whole workspace.
    env!("CARGO_PKG_VERSION")
}

fn native_target() -> Result<String> {
    let text = shell::output(shell::command("rustc").arg("-vV"))?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.context("rustc does not name its host")?.to_owned())
}

/// What each shell calls the file.
const COMPLETIONS: [(&str, &str); 4] = [
    ("bash", "rttscope.bash"),
    ("zsh", "_rttscope"),
    ("fish", "rttscope.fish"),
    ("powershell", "rttscope.ps1"),
];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    #[test]
    fn the_commands_are_read_off_the_man_page() {
        let page =
            ".TP\nrttscope\\-probe(1)\nProbe.\n.TP\nrttscope\\-man(1)\nsee rttscope\\-man(1)";
        assert_eq!(commands(page), ["man", "probe"]);
    }

    #[test]
    fn a_digest_is_that_of_the_standard() {
        // FIPS 180-2, appendix B.1.
        let known = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(digest(b"abc"), known);
    }

    #[test]
    fn checksums_name_archives_only_in_order() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["b.zip", "a.tar.gz", "SHA256SUMS"] {
            fs::write(folder.path().join(name), b"abc").unwrap();
        }
        let list = checksums(folder.path()).unwrap();
        let names: Vec<&str> = list.lines().map(|line| line.split_once("  ").unwrap().1).collect();
        assert_eq!(names, ["a.tar.gz", "b.zip"]);
    }
}
