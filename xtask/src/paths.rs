//! Folders of the machine that builds, whose names the compiler writes into binaries for the
//! messages of panics. Other names for them flow out as flags of the compiler, so that a release
//! does not tell where it was built and is the same from wherever; and a binary flows in to be
//! searched for them.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use crate::shell;

/// For the compiler. Of several that fit it takes the last one.
pub fn flags() -> Vec<String> {
    let flag = |(folder, name): (PathBuf, &str)| {
        format!("--remap-path-prefix={}={name}", folder.display())
    };
    folders().into_iter().map(flag).collect()
}

/// Fails if one of the folders is named in these bytes of a binary.
pub fn require_none(binary: &[u8]) -> Result<()> {
    // Where Debian keeps the standard library is the same everywhere, and is named in those that it
    // has built itself.
    for (folder, _) in folders().into_iter().filter(|(_, name)| *name != LIBRARY) {
        let name = format!("{}{}", folder.display(), std::path::MAIN_SEPARATOR);
        if let Some(found) = find(binary, name.as_bytes()) {
            bail!("the binary names a folder of this machine: {found}");
        }
    }
    Ok(())
}

/// Outer ones first, each with what is written instead.
fn folders() -> Vec<(PathBuf, &'static str)> {
    let home = env::home_dir();
    let cargo = env::var_os("CARGO_HOME").map(PathBuf::from);
    let cargo = cargo.or_else(|| home.as_ref().map(|home| home.join(".cargo")));
    let rustup = env::var_os("RUSTUP_HOME").map(PathBuf::from);
    // Their names tell which mirror the crates came from.
    let registries = cargo.iter().flat_map(|cargo| inside(&cargo.join("registry/src")));
    let registries: Vec<PathBuf> = registries.collect();
    let library = Path::new(DEBIAN_LIBRARY);
    let mut folders: Vec<(PathBuf, &str)> = Vec::new();
    folders.extend(home.map(|home| (home, "/home")));
    folders.push((shell::root().to_owned(), "/rttscope"));
    folders.push((shell::target_folder(), "/target"));
    folders.extend(rustup.map(|rustup| (rustup, "/rustup")));
    folders.extend(cargo.map(|cargo| (cargo, "/cargo")));
    folders.extend(registries.into_iter().map(|registry| (registry, "/registry")));
    folders.extend(library.canonicalize().ok().map(|library| (library, LIBRARY)));
    folders.push((library.to_owned(), LIBRARY));
    // The home of a service may be `/`.
    folders.retain(|(folder, _)| folder.parent().is_some());
    folders
}

fn inside(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else { return Vec::new() };
    entries.filter_map(|entry| Some(entry.ok()?.path())).collect()
}

/// The first place with these bytes, and what follows them.
fn find(bytes: &[u8], wanted: &[u8]) -> Option<String> {
    let at = bytes.windows(wanted.len()).position(|window| window == wanted)?;
    let end = bytes.len().min(at + wanted.len() + SHOWN_BYTES);
    let shown: String = String::from_utf8_lossy(&bytes[at..end]).into_owned();
    Some(shown.chars().take_while(|char| !char.is_control()).collect())
}

/// Where Debian has the source of the standard library, which is built with the program.
const DEBIAN_LIBRARY: &str = "/usr/lib/rustlib/src/rust";
/// What is written instead of it.
const LIBRARY: &str = "/rust";
/// Enough to see which file it is.
const SHOWN_BYTES: usize = 80;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    #[test]
    fn a_binary_that_names_the_builders_folders_is_refused() {
        let home = env::home_dir().unwrap();
        for folder in [shell::root().to_owned(), shell::target_folder(), home.join(".cargo")] {
            let path = folder.join("a/lib.rs");
            let binary = format!("\u{7f}ELF\0\0{}\0more", path.display()).into_bytes();
            let error = require_none(&binary).unwrap_err().to_string();
            assert!(error.ends_with(&*path.display().to_string()), "{error}");
        }
        require_none(b"\x7fELF\0/rttscope/src/lib.rs\0/registry/a-1.0.0/src/lib.rs").unwrap();
    }

    #[test]
    fn every_folder_has_another_name_and_inner_ones_come_last() {
        let flags = flags();
        let place = |name: &str| flags.iter().position(|flag| flag.ends_with(name)).unwrap();
        assert!(place("=/home") < place("=/cargo") && place("=/cargo") < place("=/registry"));
        assert!(place("=/rttscope") < place("=/target"));
    }

    #[test]
    fn what_follows_is_shown() {
        assert_eq!(find(b"ab/x/y\0z", b"/x/").as_deref(), Some("/x/y"));
        assert_eq!(find(b"ab", b"/x/"), None);
    }
}
