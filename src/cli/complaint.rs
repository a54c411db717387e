//! clap's errors as one line in our words: what is wrong and what to write instead.

use std::ffi::OsString;

use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::{COMMANDS, UsageError, shown};
use crate::config::nearest::nearest;

/// Every command with what it needs.
const COMMAND_LINES: &str = "rttscope serve, rttscope probe TARGET, rttscope both, \
                             rttscope check ADDR, rttscope info ADDR, rttscope load TARGET or \
                             rttscope rules";

/// The line for `error`, which clap found in `args`.
pub(super) fn one_line(error: &clap::Error, args: &[OsString]) -> UsageError {
    let context = |kind| words(error.get(kind));
    let flag = flag_of(&context(ContextKind::InvalidArg));
    let value = context(ContextKind::InvalidValue);
    let help = help_command(args);
    UsageError::new(match error.kind() {
        ErrorKind::MissingSubcommand => {
            format!("no command; write {COMMAND_LINES}")
        }
        ErrorKind::InvalidSubcommand => {
            let given = context(ContextKind::InvalidSubcommand);
            let instead = match nearest(&given, &COMMANDS) {
                Some(command) => format!("rttscope {command}"),
                None => COMMAND_LINES.to_owned(),
            };
            format!("{}: no such command; write {instead}", shown(&given))
        }
        ErrorKind::UnknownArgument => {
            unknown(&flag, &context(ContextKind::SuggestedArg), args, &help)
        }
        ErrorKind::InvalidValue if value.is_empty() => {
            let values = choices(error).unwrap_or_else(|| format!("a value ({help} shows which)"));
            format!("{flag}: has no value; write {flag} and {values}")
        }
        ErrorKind::InvalidValue => {
            let values = choices(error).unwrap_or_else(|| "another value".to_owned());
            format!("{flag} {}: must be {values}", shown(&value))
        }
        ErrorKind::TooManyValues => {
            format!("{flag}={}: takes no value; write {flag} alone", shown(&value))
        }
        ErrorKind::ArgumentConflict => format!("{flag}: given more than once; write it once"),
        ErrorKind::InvalidUtf8 => "an argument is not UTF-8; write it in UTF-8".to_owned(),
        _ => {
            let text = error.render().to_string();
            let line = text.lines().next().unwrap_or_default();
            format!("{}; {help} shows what can be written", line.trim_start_matches("error: "))
        }
    })
}

fn unknown(given: &str, suggested: &str, args: &[OsString], help: &str) -> String {
    let raw = raw_argument(given, args);
    let mut later = args.iter().skip(2).filter_map(|arg| arg.to_str());
    let command = later.find(|arg| COMMANDS.contains(arg));
    if let (Some(command), "rttscope --help") = (command, help) {
        let flag = shown(given);
        return format!("{flag}: a command comes first; write rttscope {command} {flag}");
    }
    if raw.starts_with("--") {
        let instead =
            if suggested.is_empty() { format!("a flag of {help}") } else { suggested.to_owned() };
        return format!("{}: no such flag; write {instead}", shown(given));
    }
    if let Some(rest) = raw.strip_prefix('-') {
        return if rest.starts_with(|c: char| c.is_ascii_digit() || c == '.') {
            format!("{}: looks like a flag; write a value that is not negative", shown(&raw))
        } else if rest.chars().count() > 1 {
            format!("{}: flags have two dashes; write --{}", shown(&raw), shown(rest))
        } else {
            format!("{}: no such flag; write a flag of {help}", shown(&raw))
        };
    }
    format!("{}: nothing is expected here; {help} shows what can be written", shown(&raw))
}

/// The argument as it was typed: of `-interval=5ms` clap reports `-i` only.
fn raw_argument(given: &str, args: &[OsString]) -> String {
    let texts = args.iter().skip(1).map(|arg| arg.to_string_lossy());
    let single = given.starts_with('-') && !given.starts_with("--");
    let mut matching = texts.filter(|text| single && text.starts_with(given));
    matching.next().map_or_else(|| given.to_owned(), |text| text.into_owned())
}

fn help_command(args: &[OsString]) -> String {
    let command = args.get(1).and_then(|arg| arg.to_str()).filter(|arg| COMMANDS.contains(arg));
    command.map_or_else(
        || "rttscope --help".to_owned(),
        |command| format!("rttscope {command} --help"),
    )
}

/// `a, b or c`, of the values that the flag takes.
fn choices(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::Strings(values)) = error.get(ContextKind::ValidValue) else {
        return None;
    };
    let (last, others) = values.split_last()?;
    Some(if others.is_empty() { last.clone() } else { format!("{} or {last}", others.join(", ")) })
}

fn words(value: Option<&ContextValue>) -> String {
    match value {
        Some(ContextValue::String(word)) => word.clone(),
        Some(ContextValue::Strings(words)) => words.join(", "),
        _ => String::new(),
    }
}

/// `--interval` of clap's `--interval <DURATION>`.
fn flag_of(argument: &str) -> String {
    let end = argument.find(" <").or_else(|| argument.find("=<")).unwrap_or(argument.len());
    argument[..end].to_owned()
}
