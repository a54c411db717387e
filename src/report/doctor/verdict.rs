//! What an examination means: facts in, a verdict for each feature out, with the exact remedy where
//! there is one. Decided by facts and settings, never by the words of a reason.

use serde::Serialize;

use super::Examination;
use crate::host::{Capability, Interface, Lateness};
use crate::report::units::time_text;

/// How well something works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As well as it can.
    Ok,
    /// It works, and could be better.
    Limited,
    /// It does not work.
    Missing,
    /// It was not asked for.
    Off,
    /// The operating system does not say.
    Unknown,
}

/// One feature and its verdict.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Feature {
    /// Its name; that of the capability, if it is one.
    pub name: &'static str,
    /// How well it works.
    pub verdict: Verdict,
    /// What was found.
    pub detail: String,
    /// What to do, exactly; `None` if nothing needs to be done, or nothing helps.
    pub remedy: Option<String>,
}

impl Verdict {
    /// Its word.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
            Self::Off => "off",
            Self::Unknown => "unknown",
        }
    }
}

/// A verdict for each feature: capabilities first, in their own order.
pub(super) fn features(examination: &Examination) -> Vec<Feature> {
    let capabilities = examination.capabilities.iter();
    let mut features: Vec<Feature> =
        capabilities.map(|found| capability(examination, found)).collect();
    features.push(hardware_stamps(examination));
    features.push(clock_source(examination));
    features.push(cpus(examination));
    features.push(priority(examination));
    features.push(noise_floor(&examination.noise));
    features
}

fn capability(examination: &Examination, found: &Capability) -> Feature {
    let Capability { name, available, reason } = found;
    let wanted = match *name {
        "io_uring" => examination.ring_wanted,
        "landlock" | "seccomp" => examination.sandbox_wanted,
        "ebpf_syn_timer" => examination.timer_wanted,
        _ => true,
    };
    let verdict = match (available, wanted) {
        (true, _) => Verdict::Ok,
        (false, true) => Verdict::Missing,
        (false, false) => Verdict::Off,
    };
    let (detail, remedy) = match (verdict, *name) {
        (Verdict::Ok, "io_uring") => (ring(examination), None),
        (Verdict::Ok, "ebpf_syn_timer") => (timer(examination), None),
        (Verdict::Ok, name) => (purpose(name).to_owned(), None),
        (Verdict::Missing, "io_uring") => (reason.clone(), ring_remedy(examination)),
        (Verdict::Missing, "raw_syn") => (reason.clone(), grant(examination, &["cap_net_raw"])),
        (Verdict::Missing, "ebpf_syn_timer") => {
            (reason.clone(), grant(examination, &["cap_bpf", "cap_net_admin"]))
        }
        _ => (reason.clone(), None),
    };
    Feature { name, verdict, detail, remedy }
}

fn purpose(name: &str) -> &'static str {
    match name {
        "kernel_tx_stamps" => "the kernel stamps what is sent",
        "kernel_rx_stamps" => "the kernel stamps what is received",
        "raw_syn" => "half-open checks by SYNs of our own",
        "landlock" => "a running program reads only the files that it needs, and writes none",
        "seccomp" => "a running program makes only the system calls that it needs",
        _ => "",
    }
}

fn ring(examination: &Examination) -> String {
    let Some(ring) = examination.facts.ring else { return String::new() };
    let parts = [
        ("cqe32", ring.cqe32),
        ("provided_buffers", ring.provided_buffers),
        ("coop_taskrun", ring.coop_taskrun),
        ("single_issuer", ring.single_issuer),
        ("defer_taskrun", ring.defer_taskrun),
        ("tx_timestamp_command", ring.tx_timestamp_command),
    ];
    let names = |wanted: bool| {
        let chosen = parts.iter().filter(|(_, works)| *works == wanted);
        chosen.map(|(name, _)| *name).collect::<Vec<_>>().join(" ")
    };
    match names(false) {
        missing if missing.is_empty() => names(true),
        missing => format!("{}; this kernel lacks {missing}", names(true)),
    }
}

fn timer(examination: &Examination) -> String {
    let by = examination.attachment.unwrap_or("nothing yet");
    let btf = if examination.facts.btf == Some(true) { "BTF" } else { "no BTF (none is needed)" };
    format!("half-open checks timed in the kernel; attached by {by}; {btf}")
}

fn ring_remedy(examination: &Examination) -> Option<String> {
    let privileges = &examination.facts.privileges;
    let remedy = match (privileges.io_uring_disabled, privileges.seccomp) {
        (Some(1 | 2), _) => "sysctl -w kernel.io_uring_disabled=0",
        (_, Some("filter")) => {
            "allow io_uring_setup, io_uring_enter and io_uring_register in the seccomp profile \
             (docker run --security-opt seccomp=PROFILE)"
        }
        (None, None) => return None,
        _ => "run Linux 5.19 or newer, built with CONFIG_IO_URING",
    };
    Some(remedy.to_owned())
}

/// How to get everything at once, if that takes more than one of the remedies above: setcap(8)
/// replaces what was set before.
pub(super) fn grant_all(examination: &Examination) -> Option<String> {
    let privileges = &examination.facts.privileges;
    let held = privileges.capabilities.as_ref()?;
    let lacks = |name: &&str| !held.iter().any(|held| held == name);
    let split = MATTER.iter().filter(|name| lacks(name)).count() > 1;
    (split && privileges.no_new_privs != Some(true)).then(|| {
        let program = &examination.program;
        format!("all at once (setcap replaces): setcap {}+ep {program}", MATTER.join(","))
    })
}

/// How to get capabilities that are not held; `None` if it is not for lack of them.
fn grant(examination: &Examination, needed: &[&'static str]) -> Option<String> {
    let privileges = &examination.facts.privileges;
    let held = privileges.capabilities.as_ref()?;
    let lacking: Vec<&str> =
        needed.iter().copied().filter(|name| !held.iter().any(|held| held == name)).collect();
    if lacking.is_empty() {
        return None;
    }
    Some(if privileges.no_new_privs == Some(true) {
        let names = lacking.join(" ").to_uppercase();
        format!(
            "no_new_privs is set, so that setcap has no effect: give {names} to the service \
             (AmbientCapabilities=) or container (--cap-add)"
        )
    } else {
        format!("setcap {}+ep {}", lacking.join(","), examination.program)
    })
}

fn hardware_stamps(examination: &Examination) -> Feature {
    let name = "hardware_stamps";
    let interfaces = &examination.facts.interfaces;
    let can = |interface: &&Interface| {
        let stamps = interface.stamps.as_ref();
        stamps.is_some_and(|stamps| {
            stamps.tx_hardware && stamps.rx_hardware && stamps.rx_filters.contains(&"all")
        })
    };
    let names = |on: bool| {
        let chosen =
            interfaces.iter().filter(can).filter(|it| (it.hardware_on == Some(true)) == on);
        chosen.map(|interface| interface.name.as_str()).collect::<Vec<_>>()
    };
    let (on, off) = (names(true), names(false));
    let (verdict, detail, remedy) = match (on.as_slice(), off.as_slice()) {
        ([], [first, ..]) => {
            let remedy = format!("hwstamp_ctl -i {first} -t 1 -r 1");
            (
                Verdict::Limited,
                format!("possible and switched off: {}", off.join(" ")),
                Some(remedy),
            )
        }
        ([], []) if interfaces.iter().all(|interface| interface.stamps.is_none()) => {
            (Verdict::Unknown, "no interface says what it can".to_owned(), None)
        }
        ([], []) => {
            let detail = "no interface has hardware that stamps every packet, both ways";
            (Verdict::Missing, detail.to_owned(), None)
        }
        (on, _) => (Verdict::Ok, format!("switched on: {}", on.join(" ")), None),
    };
    Feature { name, verdict, detail, remedy }
}

fn clock_source(examination: &Examination) -> Feature {
    let source = &examination.facts.clock_source;
    let cost = time_text(Some(source.read_ns));
    let cheap = source.read_ns <= READING_NS_MAX;
    let detail = match &source.current {
        Some(current) => format!("{current}, read in {cost}"),
        None => format!("read in {cost}"),
    };
    let (verdict, remedy) = match &source.current {
        _ if !cheap => {
            let better = ["tsc", "arch_sys_counter", "kvm-clock", "hyperv_clocksource_tsc_page"]
                .into_iter()
                .find(|better| source.available.iter().any(|available| available == better))
                .filter(|better| source.current.as_deref() != Some(better));
            let folder = "/sys/devices/system/clocksource/clocksource0";
            let remedy = better.map(|it| format!("echo {it} > {folder}/current_clocksource"));
            (Verdict::Limited, remedy)
        }
        Some(_) => (Verdict::Ok, None),
        None => (Verdict::Unknown, None),
    };
    Feature { name: "clock_source", verdict, detail, remedy }
}

fn cpus(examination: &Examination) -> Feature {
    let scheduling = &examination.facts.scheduling;
    let Some(allowed) = &scheduling.allowed_cpus else {
        let detail = "this system does not say".to_owned();
        return Feature { name: "cpus", verdict: Verdict::Unknown, detail, remedy: None };
    };
    let isolated = match scheduling.isolated_cpus.as_deref() {
        None | Some("") => "none",
        Some(isolated) => isolated,
    };
    let governors = if scheduling.governors.is_empty() {
        "none (firmware or hypervisor)".to_owned()
    } else {
        scheduling.governors.join(" ")
    };
    let detail = format!("allowed {allowed}, isolated {isolated}, governor {governors}");
    let slow = scheduling.governors.iter().any(|governor| governor != "performance");
    let (verdict, remedy) = if slow {
        (Verdict::Limited, Some("cpupower frequency-set -g performance".to_owned()))
    } else {
        (Verdict::Ok, None)
    };
    Feature { name: "cpus", verdict, detail, remedy }
}

fn priority(examination: &Examination) -> Feature {
    let scheduling = &examination.facts.scheduling;
    let (verdict, detail) = match (scheduling.fifo, scheduling.nice) {
        (Some(true), Some(true)) => (Verdict::Ok, "--priority may be fifo or nice"),
        (Some(true), _) => (Verdict::Limited, "--priority may be fifo, not nice below 0"),
        (_, Some(true)) => (Verdict::Limited, "--priority may be nice, not fifo"),
        (Some(false), Some(false)) => (Verdict::Missing, "--priority is not permitted"),
        _ => (Verdict::Unknown, "--priority is for Linux"),
    };
    let wanting = matches!(verdict, Verdict::Limited | Verdict::Missing);
    let remedy = wanting.then(|| grant(examination, &["cap_sys_nice"])).flatten();
    Feature { name: "priority", verdict, detail: detail.to_owned(), remedy }
}

fn noise_floor(noise: &[Lateness]) -> Feature {
    let name = "noise_floor";
    let Some(worst) = noise.iter().max_by_key(|lateness| lateness.p99_ns) else {
        let detail = "not measured".to_owned();
        return Feature { name, verdict: Verdict::Unknown, detail, remedy: None };
    };
    let detail = format!(
        "wake-ups are late by {} (p50), {} (p99), {} (max)",
        time_text(Some(worst.p50_ns)),
        time_text(Some(worst.p99_ns)),
        time_text(Some(worst.max_ns))
    );
    let (verdict, remedy) = if worst.p99_ns <= NOISE_P99_NS_MAX {
        (Verdict::Ok, None)
    } else {
        let remedy = "try --priority fifo:10, --pin to an isolated CPU, or --busy-poll";
        (Verdict::Limited, Some(remedy.to_owned()))
    };
    Feature { name, verdict, detail, remedy }
}

/// Capabilities that something here needs.
pub(super) const MATTER: [&str; 4] = ["cap_net_raw", "cap_bpf", "cap_net_admin", "cap_sys_nice"];
/// A clock that costs more is not read in user space (vdso(7)): those are read in about 20 ns, a
/// system call takes 100 ns, and an HPET or ACPI timer 1 µs.
const READING_NS_MAX: u64 = 200;
/// A tenth of the usual datacenter objective of 1 ms: beyond it the prober itself is what an
/// application clock measures.
const NOISE_P99_NS_MAX: u64 = 100_000;
