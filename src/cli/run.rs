//! The command line of `run`: the file that it names is all it says.

use std::fmt::Write as _;

use super::args::RunCommand;
use super::{Parsed, UsageError};
use crate::config::file::{self, schema};

/// What is asked for: to start, or a word on the file, or on all files.
pub(super) fn parsed(command: &RunCommand) -> Result<Parsed, UsageError> {
    if command.schema {
        return Ok(Parsed::PrintAndExit(schema::text()));
    }
    let Some(path) = &command.file else {
        let line = "run: no file; write e.g. rttscope run --config.file rttscope.yaml";
        return Err(UsageError::new(line));
    };
    let config = file::read(path).map_err(|file::BadConfigFile(lines)| {
        let lines: Vec<_> = lines.into_iter().map(UsageError::new).collect();
        UsageError::all(&lines)
    })?;
    if !command.check {
        return Ok(Parsed::Run(Box::new(config)));
    }
    let agent = config.agent.as_ref();
    let (targets, modules, jobs) = agent.map_or((0, 0, 0), |agent| {
        (agent.targets.len(), agent.modules.len(), agent.discovery.len())
    });
    let listeners = config.relay.as_ref().map_or(0, |relay| relay.listeners.len());
    let mut said = format!("{}: good; targets: {targets}, modules: {modules}", path.display());
    for (what, count) in [("discovery jobs", jobs), ("relay listeners", listeners)] {
        if count > 0 {
            let _ = write!(said, ", {what}: {count}");
        }
    }
    said.push('\n');
    Ok(Parsed::PrintAndExit(said))
}
