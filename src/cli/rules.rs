//! The command line of `rules`: a prober's flags in, the rules for that prober out.

use super::UsageError;
use super::args::RulesCommand;
use super::build::{measuring_section, probe_section};
use crate::rules::{self, Measured, Request};

/// The text to print.
pub(super) fn file(command: &RulesCommand) -> Result<String, UsageError> {
    let measuring = measuring_section(&command.common)?;
    let probe = probe_section(&command.prober, measuring.clock)?;
    let targets: Vec<String> = probe.targets.into_iter().map(|target| target.name).collect();
    // Of a prober that says nothing of itself, both kinds are possible.
    let measured = match probe.check {
        Some(_) => vec![Measured::Check],
        None if targets.is_empty() && probe.slos.is_empty() => {
            vec![Measured::Echo, Measured::Check]
        }
        None => vec![Measured::Echo],
    };
    let request = Request { job: command.job.clone(), measured, slos: probe.slos, targets };
    let file = rules::file(&request);
    Ok(if command.prober.json { file.to_json() } else { file.to_yaml() })
}
