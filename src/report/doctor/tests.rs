//! The screen and the object of fixed examinations, and each verdict.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use super::*;
use crate::host::{ClockSource, InterfaceStamps, RingFacts, Scheduling};

fn interface(name: &str, stamps: Option<InterfaceStamps>, on: Option<bool>) -> Interface {
    Interface {
        name: name.to_owned(),
        up: true,
        loopback: name == "lo",
        driver: (name != "lo").then(|| "ixgbe".to_owned()),
        stamps,
        hardware_on: on,
    }
}

fn hardware() -> InterfaceStamps {
    InterfaceStamps {
        tx_software: true,
        rx_software: true,
        tx_hardware: true,
        rx_hardware: true,
        phc: Some(0),
        tx_types: vec!["off", "on"],
        rx_filters: vec!["none", "all"],
    }
}

fn software() -> InterfaceStamps {
    InterfaceStamps { tx_software: true, rx_software: true, ..InterfaceStamps::default() }
}

/// Everything works but the hardware, which is off.
fn well() -> Examination {
    let facts = Facts {
        os: "linux",
        arch: "x86_64",
        kernel: "6.18.44".to_owned(),
        ring: Some(RingFacts {
            coop_taskrun: true,
            single_issuer: true,
            defer_taskrun: true,
            cqe32: true,
            provided_buffers: true,
            tx_timestamp_command: true,
        }),
        btf: Some(true),
        interfaces: vec![
            interface("lo", Some(software()), None),
            interface("eth0", Some(hardware()), Some(false)),
            interface("eth1", Some(hardware()), Some(false)),
        ],
        interfaces_left_out: 0,
        privileges: Privileges {
            user: Some(0),
            capabilities: Some(
                ["cap_chown", "cap_net_admin", "cap_net_raw", "cap_sys_nice", "cap_bpf"]
                    .map(str::to_owned)
                    .to_vec(),
            ),
            seccomp: Some("off"),
            no_new_privs: Some(false),
            io_uring_disabled: Some(0),
            unprivileged_bpf_disabled: Some(2),
            memlock: Some("8388608 bytes".to_owned()),
        },
        clock_source: ClockSource {
            current: Some("tsc".to_owned()),
            available: vec!["tsc".to_owned(), "hpet".to_owned()],
            read_ns: 24,
        },
        scheduling: Scheduling {
            allowed_cpus: Some("0-3".to_owned()),
            isolated_cpus: Some(String::new()),
            governors: vec!["powersave".to_owned()],
            nice: Some(true),
            fifo: Some(true),
        },
    };
    let names = ["io_uring", "kernel_tx_stamps", "kernel_rx_stamps", "raw_syn", "ebpf_syn_timer"];
    Examination {
        version: "1.2.3",
        program: "/usr/bin/rttscope".to_owned(),
        facts,
        capabilities: names.map(|name| Capability::new(name, None)).to_vec(),
        attachment: Some("tcx"),
        sandbox_wanted: true,
        ring_wanted: true,
        timer_wanted: true,
        noise: vec![Lateness {
            thread: "probe-0".to_owned(),
            cpu: Some(2),
            waits: 950,
            p50_ns: 3_100,
            p99_ns: 45_000,
            max_ns: 1_234_000,
        }],
    }
}

/// A container without privileges under the usual seccomp profile.
fn confined() -> Examination {
    let mut examination = well();
    let gap = |name, why: &str| Capability::new(name, Some(why.to_owned()));
    examination.capabilities = vec![
        gap("io_uring", "Operation not permitted (os error 1): seccomp forbids io_uring"),
        Capability::new("kernel_tx_stamps", None),
        Capability::new("kernel_rx_stamps", None),
        gap("raw_syn", "raw sockets need CAP_NET_RAW"),
        gap("ebpf_syn_timer", "timing SYNs in the kernel needs CAP_BPF and CAP_NET_ADMIN"),
    ];
    examination.attachment = None;
    let facts = &mut examination.facts;
    facts.ring = None;
    facts.privileges.user = Some(65_534);
    facts.privileges.capabilities = Some(Vec::new());
    facts.privileges.seccomp = Some("filter");
    facts.scheduling.nice = Some(false);
    facts.scheduling.fifo = Some(false);
    facts.interfaces = vec![interface("eth0", Some(software()), None)];
    examination.noise[0].p99_ns = 900_000;
    examination
}

/// What another system knows of itself.
fn elsewhere() -> Examination {
    let why = "kernel stamps exist on Linux only; use --clock auto or application";
    let mut examination = confined();
    for found in &mut examination.capabilities {
        *found = Capability::new(found.name, Some(why.to_owned()));
    }
    let clock_source = ClockSource { read_ns: 30, ..ClockSource::default() };
    examination.facts = Facts { os: "macos", arch: "aarch64", clock_source, ..Facts::default() };
    examination
}

fn feature(examination: &Examination, name: &str) -> (Verdict, String, String) {
    let found = features(examination).into_iter().find(|feature| feature.name == name).unwrap();
    (found.verdict, found.detail, found.remedy.unwrap_or_default())
}

#[test]
fn screens_are_as_they_were_looked_at() {
    let mut text = String::new();
    for examination in [well(), confined(), elsewhere()] {
        text.push_str(&screen(&examination, 100, false).join("\n"));
        text.push_str("\n\n\n");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/doctor.txt");
    if std::env::var_os("RTTSCOPE_BLESS").is_some() {
        std::fs::write(path, &text).unwrap();
    }
    assert_eq!(text, std::fs::read_to_string(path).unwrap());
}

#[test]
fn lines_fit_unless_they_are_to_be_copied() {
    for examination in [well(), confined(), elsewhere()] {
        for line in screen(&examination, 80, false) {
            let copied = line.trim_start().starts_with("> ") || line.contains("setcap");
            assert!(copied || line.chars().count() <= 80, "{line}");
        }
        let coloured = screen(&examination, 80, true).join("\n");
        assert!(coloured.contains("\x1b["));
    }
}

#[test]
fn the_object_has_its_documented_keys() {
    for (examination, ready) in [(well(), true), (confined(), true), (elsewhere(), false)] {
        let mut text = Vec::new();
        append_json(&mut text, &examination);
        let text = String::from_utf8(text).unwrap();
        assert_eq!(text.matches('\n').count(), 1);
        let object: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(object["ready"], ready);
        let keys = [
            "version",
            "ready",
            "features",
            "capabilities",
            "ebpf_attachment",
            "noise",
            "os",
            "arch",
            "kernel",
            "ring",
            "btf",
            "interfaces",
            "interfaces_left_out",
            "privileges",
            "clock_source",
            "scheduling",
        ];
        assert_eq!(object.as_object().unwrap().len(), keys.len(), "{text}");
        // In this order.
        let places = keys.map(|key| text.find(&format!("\"{key}\":")).unwrap());
        assert!(places.is_sorted(), "{text}");
        for (feature, found) in object["features"]
            .as_array()
            .unwrap()
            .iter()
            .zip(object["capabilities"].as_array().unwrap())
        {
            assert_eq!(feature["name"], found["name"]);
            assert_eq!(feature["verdict"] == "ok", found["available"], "{feature}");
        }
    }
}

#[test]
fn each_gap_has_its_exact_remedy() {
    let check = |examination: &Examination, name: &str, verdict: Verdict, remedy: &str| {
        let found = feature(examination, name);
        assert_eq!(found.0, verdict, "{name}: {found:?}");
        let fits = if remedy.is_empty() { found.2.is_empty() } else { found.2.contains(remedy) };
        assert!(fits, "{name}: {found:?}");
    };
    let mut confined = confined();
    check(&confined, "io_uring", Verdict::Missing, "io_uring_setup");
    confined.facts.privileges.io_uring_disabled = Some(2);
    check(&confined, "io_uring", Verdict::Missing, "sysctl -w kernel.io_uring_disabled=0");
    confined.facts.privileges.io_uring_disabled = None;
    confined.facts.privileges.seccomp = Some("off");
    check(&confined, "io_uring", Verdict::Missing, "Linux 5.19");
    confined.ring_wanted = false;
    confined.timer_wanted = false;
    check(&confined, "io_uring", Verdict::Off, "");
    check(&confined, "ebpf_syn_timer", Verdict::Off, "");
    confined.timer_wanted = true;
    let setcap = "setcap cap_bpf,cap_net_admin+ep /usr/bin/rttscope";
    check(&confined, "ebpf_syn_timer", Verdict::Missing, setcap);
    // One is held already.
    confined.facts.privileges.capabilities = Some(vec!["cap_bpf".to_owned()]);
    check(&confined, "ebpf_syn_timer", Verdict::Missing, "setcap cap_net_admin+ep");
    check(&confined, "raw_syn", Verdict::Missing, "setcap cap_net_raw+ep");
    check(&confined, "priority", Verdict::Missing, "setcap cap_sys_nice+ep");
    let all = "setcap cap_net_raw,cap_bpf,cap_net_admin,cap_sys_nice+ep /usr/bin/rttscope";
    assert!(screen(&confined, 80, false).iter().any(|line| line.ends_with(all)));
    confined.facts.privileges.no_new_privs = Some(true);
    assert!(!screen(&confined, 80, false).iter().any(|line| line.contains("setcap cap_")));
    check(&confined, "raw_syn", Verdict::Missing, "give CAP_NET_RAW to the service");
    check(&confined, "noise_floor", Verdict::Limited, "--priority fifo:10");
    check(&confined, "hardware_stamps", Verdict::Missing, "");

    let mut well = well();
    check(&well, "raw_syn", Verdict::Ok, "");
    check(&well, "hardware_stamps", Verdict::Limited, "hwstamp_ctl -i eth0 -t 1 -r 1");
    well.facts.interfaces[2].hardware_on = Some(true);
    check(&well, "hardware_stamps", Verdict::Ok, "");
    check(&well, "cpus", Verdict::Limited, "cpupower frequency-set -g performance");
    well.facts.scheduling.governors = vec!["performance".to_owned()];
    check(&well, "cpus", Verdict::Ok, "");
    check(&well, "clock_source", Verdict::Ok, "");
    well.facts.clock_source.current = Some("hpet".to_owned());
    well.facts.clock_source.read_ns = 1_200;
    check(&well, "clock_source", Verdict::Limited, "echo tsc > /sys");
    check(&well, "noise_floor", Verdict::Ok, "");
    let ring = well.facts.ring.as_mut().unwrap();
    ring.tx_timestamp_command = false;
    let (verdict, detail, _) = feature(&well, "io_uring");
    assert_eq!(verdict, Verdict::Ok);
    assert!(detail.ends_with("; this kernel lacks tx_timestamp_command"), "{detail}");

    for name in ["hardware_stamps", "clock_source", "cpus", "priority"] {
        check(&elsewhere(), name, Verdict::Unknown, "");
    }
}

#[test]
fn interfaces_that_are_alike_share_a_line() {
    let mut examination = well();
    examination.facts.interfaces =
        (0..100).map(|number| interface(&format!("v{number}"), None, None)).collect();
    examination.facts.interfaces_left_out = 7;
    let lines = screen(&examination, 80, false);
    assert!(lines.iter().any(|line| line.starts_with("v0 v1 v2 v3 +96")), "{lines:#?}");
    assert!(lines.iter().any(|line| line == "and 7 more"));
    assert!(!lines.iter().any(|line| line.contains("v4 ")));
}
