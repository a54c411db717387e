//! The command line of `doctor`: what a prober with the same flags would find here.

use clap::Args;

use super::UsageError;
use super::args::CommonFlags;
use super::build::{log_section, measuring_section};
use crate::config::{Config, DoctorSection};

#[derive(Debug, Args)]
pub(super) struct DoctorCommand {
    /// One JSON object on standard output.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) common: CommonFlags,
}

pub(super) fn config(command: &DoctorCommand) -> Result<Config, UsageError> {
    Ok(Config {
        relay: None,
        serve: None,
        probe: None,
        check: None,
        info: None,
        load: None,
        doctor: Some(DoctorSection { json: command.json }),
        agent: None,
        web: None,
        measuring: measuring_section(&command.common)?,
        log: log_section(&command.common),
    })
}
