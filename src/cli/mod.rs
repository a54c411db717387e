//! The command line: words in, one checked [`Config`] out, or one line that says what is wrong
//! and what to write instead. Three stages: `args` is what clap reads (texts only), `build` turns
//! it into a `Config`, `seed` does both for command lines in the form of tcp_ping_prometheus.
//! Nothing behind this module ever sees a flag.

use std::ffi::OsString;

use clap::Parser;
use clap::error::ErrorKind;

use crate::config::{BadValue, Config, Service};

mod addresses;
mod args;
mod build;
mod check;
mod complaint;
mod completions;
mod doctor;
mod load;
mod manual;
mod relay;
mod rules;
mod run;
mod seed;
mod service;
mod targets;

/// The commands that there are, as people type them.
const COMMANDS: [&str; 13] = [
    "run",
    "serve",
    "probe",
    "both",
    "check",
    "info",
    "relay",
    "load",
    "doctor",
    "rules",
    "service",
    "completions",
    "man",
];

/// What a good command line asks for.
#[derive(Clone, Debug, PartialEq)]
pub enum Parsed {
    /// Start this.
    Run(Box<Config>),
    /// Start this, and say what was left out of it, because it was bad. Never nothing.
    RunDespite(Box<Config>, Vec<UsageError>),
    /// Have the service manager do this, or be its service.
    Service(Box<Service>),
    /// Print this to standard output (help, the version, rules, a completion script, a man page;
    /// the final newline included), then exit 0.
    PrintAndExit(String),
}

/// A bad command line, as a line for standard error (without its newline).
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("rttscope: {0}")]
pub struct UsageError(String);

impl UsageError {
    /// The exit code that goes with it.
    pub const EXIT_CODE: u8 = 2;

    fn new(line: impl Into<String>) -> Self {
        Self(line.into())
    }

    /// Several of them as one, a line each.
    fn all(errors: &[Self]) -> Self {
        let lines: Vec<&str> = errors.iter().map(|error| error.0.as_str()).collect();
        Self(lines.join("\nrttscope: "))
    }

    /// `place` has a bad value.
    fn at(place: Place<'_>, value: &str, bad: &BadValue) -> Self {
        let BadValue { why, instead } = bad;
        let value = shown(value);
        Self(match place {
            Place::Flag(flag) => format!("{flag} {value}: {why}; write e.g. {flag} {instead}"),
            Place::SeedFlag(flag) => {
                format!("-{flag}={value}: {why}; write e.g. -{flag}={instead}")
            }
            Place::Target => format!("{value}: {why}; write e.g. {instead}"),
        })
    }
}

/// Where on the command line a value stands.
#[derive(Clone, Copy, Debug)]
enum Place<'a> {
    /// After a flag with its two dashes.
    Flag(&'a str),
    /// After a flag of the seed's, named without its dash.
    SeedFlag(&'a str),
    /// By itself, as a target.
    Target,
}

/// Reads a command line, the program's own name first. Reads the files that it names,
/// nothing else; changes nothing.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Parsed, UsageError> {
    let args: Vec<OsString> = args.into_iter().collect();
    if let Some(rest) = args.get(1..)
        && seed::is_seed_form(rest)
    {
        return seed::parse(rest);
    }
    match args::Cli::try_parse_from(&args) {
        Ok(cli) => build::parsed(&cli),
        Err(error) => match error.kind() {
            ErrorKind::DisplayHelp => Ok(Parsed::PrintAndExit(page(&error))),
            // clap would call it `rttscope-serve` after a command.
            ErrorKind::DisplayVersion => Ok(Parsed::PrintAndExit(
                concat!("rttscope ", env!("CARGO_PKG_VERSION"), "\n").into(),
            )),
            _ => Err(complaint::one_line(&error, &args)),
        },
    }
}

/// A help page, in colour if standard output is a terminal that wants it.
fn page(error: &clap::Error) -> String {
    let text = error.render();
    if console::colors_enabled() { text.ansi().to_string() } else { text.to_string() }
}

/// A user's text made fit for one line: quoted where it would be misread, cut where it is long.
fn shown(text: &str) -> String {
    const CHARS_MAX: usize = 80;
    let mut short: String = text.chars().take(CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    let plain = |c: char| !c.is_whitespace() && !c.is_control() && c != '"';
    if !short.is_empty() && short.chars().all(plain) { short } else { format!("{short:?}") }
}

#[cfg(test)]
mod tests;
