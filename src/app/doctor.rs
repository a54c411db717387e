//! The self-check: gathers facts, tries what a prober with the same flags would use, listens to the
//! machine's noise for a second, and says what came of it.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{LOG_PATIENCE, Verdict};
use crate::config::{Config, DoctorSection, MeasuringSection};
use crate::host::{Capability, Lateness};
use crate::log;
use crate::report::doctor::{Examination, append_json, screen};
use crate::report::live::Size;
use crate::stats::BuildInfo;
use crate::sys::sandbox::{self, SandboxChoice};
use crate::sys::{self, Attachment, CheckSettings, Checks, ClockChoice, IoChoice, IoOptions};
use crate::worker::{WorkerOptions, noise};

/// Examines, and writes the result to standard output.
pub(super) fn run(section: &DoctorSection, config: &Config) -> Result<Verdict> {
    let log = log::install(&config.log, io::stderr(), log::colour_on_stderr(), || ())?;
    let verdict = examine(&config.measuring).and_then(|examination| {
        let mut out = Vec::new();
        if section.json {
            append_json(&mut out, &examination);
        } else {
            let width = Size::of_stdout().map_or(COLUMNS, |size| size.columns);
            for line in screen(&examination, width, console::colors_enabled()) {
                writeln!(out, "{line}")?;
            }
        }
        match io::stdout().write_all(&out) {
            // A reader that left early has what it wanted.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
            _ if examination.is_ready() => Ok(Verdict::Good),
            _ => Ok(Verdict::Unanswered),
        }
    });
    log.flush(LOG_PATIENCE);
    verdict
}

fn examine(measuring: &MeasuringSection) -> Result<Examination> {
    // First, with every privilege at hand.
    let facts = sys::facts();
    let (checks, attachment) = examine_checks(measuring)?;
    // What was asked for and is not there is a finding, not an error.
    let io = match measuring.io {
        IoChoice::Uring => IoChoice::Auto,
        other => other,
    };
    let detected = sys::detect(io, ClockChoice::Auto)?;
    let mut capabilities = detected.capabilities.clone();
    capabilities.extend(checks);
    capabilities.extend(sandbox::possible(measuring.sandbox));
    Ok(Examination {
        version: BuildInfo::current().version,
        program: std::env::current_exe()
            .map_or_else(|_| "rttscope".to_owned(), |path| path.display().to_string()),
        facts,
        capabilities,
        attachment,
        sandbox_wanted: measuring.sandbox != SandboxChoice::Off,
        ring_wanted: measuring.io != IoChoice::Poll,
        timer_wanted: measuring.clock != ClockChoice::Application,
        noise: listen(measuring, io)?,
    })
}

/// What works for half-open checks, and how the eBPF programs are attached, tried at loopback.
fn examine_checks(measuring: &MeasuringSection) -> Result<(Vec<Capability>, Option<&'static str>)> {
    let clock = match measuring.clock {
        ClockChoice::Application => ClockChoice::Application,
        ClockChoice::Auto | ClockChoice::Kernel => ClockChoice::Auto,
    };
    let settings = CheckSettings { clock, checks_max: 1, ..CheckSettings::default() };
    let checks = Checks::open(&settings)?;
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
    let attachment = checks.follower().and_then(|follower| {
        if let Err(error) = follower.follow(loopback) {
            tracing::warn!(%error, "the eBPF programs cannot be attached to loopback");
        }
        follower.attachment()
    });
    let attachment = attachment.map(|attachment| match attachment {
        Attachment::Tcx => "tcx",
        Attachment::Clsact => "clsact",
    });
    Ok((checks.capabilities.clone(), attachment))
}

/// How late the threads of a prober with these settings wake up, all at once.
fn listen(measuring: &MeasuringSection, io: IoChoice) -> Result<Vec<Lateness>> {
    let mut threads = Vec::with_capacity(measuring.threads);
    for number in 0..measuring.threads {
        let pin = &measuring.pin;
        let cpu = pin.get(number % pin.len().max(1)).copied();
        let name = format!("probe-{number}");
        let options = WorkerOptions {
            name: name.clone(),
            io: IoOptions { backend: io, busy_poll: measuring.busy_poll, ..IoOptions::default() },
            cpu,
            priority: measuring.priority,
            checks: None,
            changes_max: 1,
        };
        let thread = std::thread::Builder::new()
            .name(name.clone())
            .spawn(move || noise::lateness(options, LISTENING))
            .context("a measuring thread")?;
        threads.push((name, cpu, thread));
    }
    let mut noise = Vec::with_capacity(threads.len());
    for (name, cpu, thread) in threads {
        let Ok(late_ns) = thread.join() else { bail!("a measuring thread panicked") };
        noise.push(Lateness::of(name, cpu, late_ns?));
    }
    Ok(noise)
}

/// How long the noise is listened to.
const LISTENING: Duration = Duration::from_secs(1);
/// The width of a screen that is no terminal.
const COLUMNS: usize = 100;
