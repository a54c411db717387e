//! Checks that the compiler and clippy cannot: the sources are read as text, each rule reports
//! what it found, and any finding fails the task. Tracked files flow in, findings flow out.

mod arrows;
mod readme;
mod rules;
mod source;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::shell;
use source::Source;

/// One broken rule.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, from the root.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// What is wrong and what to do instead.
    pub message: String,
}

/// Checks every tracked file.
pub fn run() -> Result<()> {
    let sources = read(shell::root())?;
    let mut findings: Vec<Finding> = sources.iter().flat_map(check).collect();
    findings.extend(rules::golden_files(&sources));
    findings.extend(arrows::modules_without_row(&sources));
    findings.extend(readme::check(&sources));
    for Finding { path, line, message } in &findings {
        println!("{path}:{line}: {message}");
    }
    if !findings.is_empty() {
        bail!("tidy found {} places to change", findings.len());
    }
    println!("tidy: {} files in order", sources.len());
    Ok(())
}

/// Every rule about one file.
fn check(source: &Source) -> Vec<Finding> {
    let mut findings = rules::text(source);
    if source.is_rust() {
        findings.extend(rules::layout(source));
        findings.extend(rules::platform(source));
        findings.extend(rules::clocks(source));
        findings.extend(arrows::check(source));
    }
    findings
}

/// The tracked files and those that are about to be, as far as they are text.
fn read(root: &Path) -> Result<Vec<Source>> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let paths = shell::output(shell::command("git").args(list))?;
    let mut sources = Vec::new();
    for path in paths.split_terminator('\0') {
        let file = root.join(path);
        // Deleted, but not yet in the index.
        if !file.is_file() {
            continue;
        }
        let bytes = fs::read(&file).with_context(|| format!("cannot read {path}"))?;
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source::new(path, text));
        }
    }
    Ok(sources)
}
