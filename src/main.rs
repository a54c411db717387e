//! Thin entry: a command line in, an exit code out (0 good, 1 the measured thing failed, 2 bad
//! use, 3 we could not work).

use std::io::Write;
use std::process::ExitCode;

use rttscope::app::{self, Verdict};
use rttscope::cli::{self, Parsed, UsageError};
use rttscope::config::BadFile;

const GOOD: u8 = 0;
const MEASURED_FAILED: u8 = 1;
const COULD_NOT_WORK: u8 = 3;

fn main() -> ExitCode {
    let (config, complaints) = match cli::parse(std::env::args_os()) {
        Ok(Parsed::Run(config)) => (config, Vec::new()),
        Ok(Parsed::RunDespite(config, complaints)) => (config, complaints),
        Ok(Parsed::Service(request)) => return exit_code(app::service(&request), GOOD),
        Ok(Parsed::PrintAndExit(text)) => {
            // A reader that left early (`| head -1`) has what it wanted.
            let _ = std::io::stdout().write_all(text.as_bytes());
            return ExitCode::from(GOOD);
        }
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error}");
            return ExitCode::from(UsageError::EXIT_CODE);
        }
    };
    for complaint in &complaints {
        let _ = writeln!(std::io::stderr(), "{complaint}");
    }
    // What was left out may have been the point.
    let good = if complaints.is_empty() { GOOD } else { UsageError::EXIT_CODE };
    exit_code(app::run(&config), good)
}

fn exit_code(ended: anyhow::Result<Verdict>, good: u8) -> ExitCode {
    match ended {
        Ok(Verdict::Good) => ExitCode::from(good),
        Ok(Verdict::Unanswered) => ExitCode::from(MEASURED_FAILED),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "rttscope: {error:#}");
            ExitCode::from(if error.is::<BadFile>() {
                UsageError::EXIT_CODE
            } else {
                COULD_NOT_WORK
            })
        }
    }
}
