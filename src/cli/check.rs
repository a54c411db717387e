//! The command line of `check`: its section, made from every good address; bad ones are complained
//! of and left out.

use std::time::Duration;

use super::args::CheckCommand;
use super::build::{flag, log_section, measuring_section, method_choice, socket_options};
use super::{UsageError, addresses};
use crate::config::{CheckSection, Config, ReportMode, defaults, setting};

/// The `Config`, and what was left out of it.
pub(super) fn config(command: &CheckCommand) -> Result<(Config, Vec<UsageError>), UsageError> {
    let settings = CheckSection {
        addresses: Vec::new(),
        requests: flag("--requests", &command.requests, setting::requests)?,
        concurrency: flag("--concurrency", &command.concurrency, setting::concurrency)?,
        timeout: timeout(command)?,
        method: method_choice(&command.method),
        socket: socket_options(&command.socket)?,
        report: if command.json { ReportMode::Json } else { ReportMode::Live },
        verbose: command.verbose,
    };
    let measuring = measuring_section(&command.common)?;
    let mut list = addresses::Addresses::default();
    for text in command.addr.iter().chain(&command.address) {
        list.add(text);
    }
    if let Some(path) = &command.file {
        list.add_file(path);
    }
    let (addresses, complaints) = list.finish()?;
    let check = Some(CheckSection { addresses, ..settings });
    let log = log_section(&command.common);
    let config = Config {
        relay: None,
        serve: None,
        probe: None,
        check,
        info: None,
        load: None,
        doctor: None,
        agent: None,
        web: None,
        measuring,
        log,
    };
    Ok((config, complaints))
}

/// In ms, as tcp-checker, or as a duration.
fn timeout(command: &CheckCommand) -> Result<Duration, UsageError> {
    match (&command.timeout_ms, &command.timeout) {
        (Some(ms), Some(_)) => {
            let line = format!("--timeout: --timeout-ms {ms} is given, too; write one of them");
            Err(UsageError::new(line))
        }
        (None, Some(duration)) => flag("--timeout", duration, setting::timeout),
        (ms, None) => {
            let ms = ms.as_deref().unwrap_or(defaults::CHECK_TIMEOUT_MS);
            flag("--timeout-ms", ms, setting::timeout_ms)
        }
    }
}
