//! What `doctor` says: an examination in, one screen for people or one JSON object for scripts out.
//! Capabilities are those of the metric `rttscope_capability`, word for word.

mod verdict;
#[cfg(test)]
mod tests;

use serde::Serialize;

pub use self::verdict::{Feature, Verdict};
use self::verdict::{MATTER, features, grant_all};
use super::json::append;
use super::units::time_text;
use crate::host::{Capability, Facts, Interface, Lateness, Privileges};

/// Everything that was found out.
#[derive(Clone, Debug)]
pub struct Examination {
    /// Of this program.
    pub version: &'static str,
    /// This program's file.
    pub program: String,
    /// The machine.
    pub facts: Facts,
    /// What works here and what does not.
    pub capabilities: Vec<Capability>,
    /// How the eBPF programs are attached: `tcx` or `clsact`.
    pub attachment: Option<&'static str>,
    /// Whether a sandbox was asked for.
    pub sandbox_wanted: bool,
    /// Whether io_uring was asked for.
    pub ring_wanted: bool,
    /// Whether checks timed by eBPF were asked for.
    pub timer_wanted: bool,
    /// How late each measuring thread woke up.
    pub noise: Vec<Lateness>,
}

/// The JSON object.
#[derive(Serialize)]
struct Object<'a> {
    version: &'a str,
    ready: bool,
    features: Vec<Feature>,
    capabilities: &'a [Capability],
    ebpf_attachment: Option<&'a str>,
    noise: &'a [Lateness],
    #[serde(flatten)]
    facts: &'a Facts,
}

impl Examination {
    /// Whether probes have kernel time, both ways: what this program is for.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        ["kernel_tx_stamps", "kernel_rx_stamps"].iter().all(|name| {
            self.capabilities.iter().any(|found| found.name == *name && found.available)
        })
    }
}

/// Appends the object to `buffer`, newline included.
pub fn append_json(buffer: &mut Vec<u8>, examination: &Examination) {
    let object = Object {
        version: examination.version,
        ready: examination.is_ready(),
        features: features(examination),
        capabilities: &examination.capabilities,
        ebpf_attachment: examination.attachment,
        noise: &examination.noise,
        facts: &examination.facts,
    };
    append(buffer, &object);
}

/// The screen, a line each. Details are wrapped at `width`, remedies never: they are to be copied.
#[must_use]
pub fn screen(examination: &Examination, width: usize, colour: bool) -> Vec<String> {
    let facts = &examination.facts;
    let mut lines = vec![
        format!(
            "rttscope {} on {} {} ({})",
            examination.version, facts.os, facts.kernel, facts.arch
        ),
        String::new(),
    ];
    for feature in features(examination) {
        append_feature(&mut lines, &feature, width, colour);
    }
    lines.extend(grant_all(examination));
    lines.push(String::new());
    append_interfaces(&mut lines, examination);
    append_noise(&mut lines, &examination.noise);
    lines.extend(privileges(&facts.privileges));
    lines.push(String::new());
    lines.push(if examination.is_ready() {
        "ready: probes are timed by the kernel".to_owned()
    } else {
        "not ready: without kernel stamps, probes are timed by the application's clock".to_owned()
    });
    lines.into_iter().map(|line| line.trim_end().to_owned()).collect()
}

fn append_feature(lines: &mut Vec<String>, feature: &Feature, width: usize, colour: bool) {
    let Feature { name, verdict, detail, remedy } = feature;
    let word = format!("{:VERDICT_WIDTH$}", verdict.name());
    let word = if colour { coloured(&word, *verdict) } else { word };
    let indent = NAME_WIDTH + VERDICT_WIDTH + 4;
    let mut rows = wrapped(detail, width.saturating_sub(indent)).into_iter();
    let first = rows.next().unwrap_or_default();
    lines.push(format!("{name:NAME_WIDTH$}  {word}  {first}"));
    lines.extend(rows.map(|row| format!("{:indent$}{row}", "")));
    if let Some(remedy) = remedy {
        lines.push(format!("{:indent$}> {remedy}", ""));
    }
}

/// One line for all interfaces that are alike: hosts of containers have hundreds.
fn append_interfaces(lines: &mut Vec<String>, examination: &Examination) {
    let facts = &examination.facts;
    if facts.interfaces.is_empty() {
        return;
    }
    let mut groups: Vec<(Interface, Vec<&str>)> = Vec::new();
    for interface in &facts.interfaces {
        let kind = Interface { name: String::new(), ..interface.clone() };
        match groups.iter_mut().find(|(known, _)| *known == kind) {
            Some((_, names)) => names.push(&interface.name),
            None => groups.push((kind, vec![&interface.name])),
        }
    }
    lines.push(format!(
        "{:NAME_WIDTH$}  state  software  hardware   clock      driver",
        "interface"
    ));
    for (kind, names) in groups {
        let stamps = kind.stamps.as_ref();
        let ways = |tx: bool, rx: bool| match (tx, rx) {
            (true, true) => "tx rx",
            (true, false) => "tx",
            (false, true) => "rx",
            (false, false) => "-",
        };
        let software = stamps.map_or("?", |it| ways(it.tx_software, it.rx_software));
        let hardware = stamps.map_or("?", |it| ways(it.tx_hardware, it.rx_hardware));
        let hardware = match kind.hardware_on {
            Some(true) => format!("{hardware} on"),
            Some(false) if hardware != "-" => format!("{hardware} off"),
            _ => hardware.to_owned(),
        };
        let clock = stamps.and_then(|stamps| stamps.phc);
        let clock = clock.map_or_else(|| "-".to_owned(), |number| format!("/dev/ptp{number}"));
        let more = names.len().saturating_sub(NAMES_SHOWN);
        let mut shown = names.into_iter().take(NAMES_SHOWN).collect::<Vec<_>>().join(" ");
        if more > 0 {
            shown = format!("{shown} +{more}");
        }
        let state = if kind.up { "up" } else { "down" };
        let driver = kind.driver.as_deref().unwrap_or("-");
        lines.push(format!(
            "{shown:NAME_WIDTH$}  {state:5}  {software:8}  {hardware:9}  {clock:9}  {driver}"
        ));
    }
    if facts.interfaces_left_out > 0 {
        lines.push(format!("and {} more", facts.interfaces_left_out));
    }
    lines.push(String::new());
}

fn append_noise(lines: &mut Vec<String>, noise: &[Lateness]) {
    lines.push(format!(
        "{:NAME_WIDTH$}  {:>3}  {:>5}  {:>8}  {:>8}  {:>8}",
        "late wake-ups", "cpu", "waits", "p50", "p99", "max"
    ));
    for Lateness { thread, cpu, waits, p50_ns, p99_ns, max_ns } in noise {
        let cpu = cpu.map_or_else(|| "any".to_owned(), |cpu| cpu.to_string());
        let [p50, p99, max] = [p50_ns, p99_ns, max_ns].map(|ns| time_text(Some(*ns)));
        lines.push(format!(
            "{thread:NAME_WIDTH$}  {cpu:>3}  {waits:>5}  {p50:>8}  {p99:>8}  {max:>8}"
        ));
    }
    lines.push(String::new());
}

/// What this process may do, and what is in its way; nothing where the system does not say.
fn privileges(privileges: &Privileges) -> Vec<String> {
    let mut lines = Vec::new();
    let mut fact = |name: &str, value: Option<String>| {
        if let Some(value) = value {
            lines.push(format!("{name:FACT_WIDTH$}  {value}"));
        }
    };
    fact("user", privileges.user.map(|user| user.to_string()));
    fact(
        "capabilities",
        privileges.capabilities.as_ref().map(|held| {
            let matter = MATTER.into_iter().filter(|name| held.iter().any(|it| it == name));
            let matter: Vec<&str> = matter.collect();
            if matter.is_empty() { "none that matters here".to_owned() } else { matter.join(" ") }
        }),
    );
    let yes = |set: bool| if set { "yes" } else { "no" }.to_owned();
    fact("seccomp", privileges.seccomp.map(str::to_owned));
    fact("no_new_privs", privileges.no_new_privs.map(yes));
    let number = |number: Option<u32>| number.map(|number| number.to_string());
    fact("kernel.io_uring_disabled", number(privileges.io_uring_disabled));
    fact("kernel.unprivileged_bpf_disabled", number(privileges.unprivileged_bpf_disabled));
    fact("memlock", privileges.memlock.clone());
    lines
}

fn coloured(word: &str, verdict: Verdict) -> String {
    // ECMA-48: 32 green, 33 yellow, 31 red.
    match verdict {
        Verdict::Ok => format!("\x1b[32m{word}\x1b[0m"),
        Verdict::Limited | Verdict::Unknown => format!("\x1b[33m{word}\x1b[0m"),
        Verdict::Missing => format!("\x1b[31m{word}\x1b[0m"),
        Verdict::Off => word.to_owned(),
    }
}

/// Rows of whole words, each of `width` characters at most unless a word is longer.
fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut rows: Vec<String> = Vec::new();
    for word in text.split_whitespace() {
        match rows.last_mut() {
            Some(row) if row.chars().count() + 1 + word.chars().count() <= width => {
                row.push(' ');
                row.push_str(word);
            }
            _ => rows.push(word.to_owned()),
        }
    }
    rows
}

const NAME_WIDTH: usize = 16;
const VERDICT_WIDTH: usize = 7;
const FACT_WIDTH: usize = 32;
/// Interfaces named on one line.
const NAMES_SHOWN: usize = 4;
