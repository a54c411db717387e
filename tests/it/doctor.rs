//! What `rttscope doctor` tells is what the others meet: the same capabilities as the metric of a
//! prober in the same surroundings, the interfaces of its own namespace, the privileges it has.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

use crate::exposition::Exposition;
use crate::kernel;
use crate::lab::PROBER_INTERFACE;
use crate::privileges::Nobody;
use crate::run::{Ending, Run};
use crate::site::{Place, Site, report_skip};
use crate::turn::{self, Turn};

on_each_io! {
    capabilities_are_those_of_the_metric,
    capabilities_of_nobody_are_those_of_the_metric,
    each_measuring_thread_is_listened_to,
}

on_each_io_over_veth! {
    interfaces_are_those_of_the_namespace,
}

fn capabilities_are_those_of_the_metric(site: &Site) {
    let io = site.io.name();
    for clock in ["auto", "application"] {
        let flags = format!("--io={io} --clock={clock}");
        let doctor = Run::start(&Place::Here, &format!("doctor --json {flags}"));
        check_capabilities(doctor, &flags, |words| Run::start(&Place::Here, words));
    }
}

fn capabilities_of_nobody_are_those_of_the_metric(site: &Site) {
    let nobody = match Nobody::new() {
        Ok(nobody) => nobody,
        Err(reason) => return report_skip("doctor::nobody", &reason),
    };
    let flags = format!("--io={}", site.io.name());
    let doctor = nobody.start(&format!("doctor --json {flags}"));
    check_capabilities(doctor, &flags, |words| nobody.start(words));
}

/// Compares a doctor with an echo prober and with one of half-open checks.
fn check_capabilities(doctor: Run, flags: &str, start: impl Fn(&str) -> Run) {
    let object = object(doctor, 0);
    let told: BTreeMap<String, (bool, String)> = object["capabilities"]
        .as_array()
        .unwrap()
        .iter()
        .map(|found| {
            let text = |key: &str| found[key].as_str().unwrap().to_owned();
            (text("name"), (found["available"].as_bool().unwrap(), text("reason")))
        })
        .collect();
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    let web = "--web.listen-address=127.0.0.1:0";
    let checks = start(&format!("probe {target} --check --interval=50ms {web} {flags}"));
    assert_eq!(capabilities(&checks.scrape()), told);
    let both = start(&format!("both --listen=127.0.0.1:0 --interval=50ms {web} {flags}"));
    let echo = capabilities(&both.scrape());
    assert!(echo.len() >= 3 && echo.iter().all(|(name, found)| told[name] == *found), "{echo:?}");
}

fn capabilities(exposition: &Exposition) -> BTreeMap<String, (bool, String)> {
    let samples = exposition.select("rttscope_capability", &[]);
    samples
        .map(|sample| {
            let (name, reason) = (sample.labels["name"].clone(), sample.labels["reason"].clone());
            (name, (sample.value > 0.5, reason))
        })
        .collect()
}

fn each_measuring_thread_is_listened_to(site: &Site) {
    let words = format!("doctor --json --io={} --threads=2 --pin=0", site.io.name());
    let object = object(Run::start(&Place::Here, &words), 0);
    let noise = object["noise"].as_array().unwrap();
    assert_eq!(noise.len(), 2);
    for (number, thread) in noise.iter().enumerate() {
        assert_eq!(thread["thread"], format!("probe-{number}"));
        assert_eq!(thread["cpu"], 0);
        let [waits, p50, p99, max] =
            ["waits", "p50_ns", "p99_ns", "max_ns"].map(|key| thread[key].as_u64().unwrap());
        // A wait is a millisecond at least, and a second is listened to.
        assert!((1..=1_000).contains(&waits), "{thread}");
        assert!(0 < p50 && p50 <= p99 && p99 <= max, "{thread}");
    }
    assert!(object["clock_source"]["read_ns"].as_u64().unwrap() > 0);
}

fn interfaces_are_those_of_the_namespace(site: &Site) {
    let words = format!("doctor --json --io={}", site.io.name());
    let object = object(Run::start(&site.prober_place(), &words), 0);
    let interfaces = object["interfaces"].as_array().unwrap();
    let named = |name: &str| interfaces.iter().find(|it| it["name"] == name).unwrap();
    // Some kernels put devices of tunnels into every namespace; those of the host are not here.
    assert!(interfaces.iter().all(|it| it["name"] != "eth0"), "{interfaces:?}");
    let (loopback, veth) = (named("lo"), named(PROBER_INTERFACE));
    assert_eq!((&loopback["up"], &loopback["loopback"]), (&true.into(), &true.into()));
    assert_eq!((&veth["up"], &veth["loopback"]), (&true.into(), &false.into()));
    assert_eq!(veth["driver"], "veth");
    assert_eq!(
        (&veth["stamps"]["rx_software"], &veth["stamps"]["phc"]),
        (&true.into(), &Value::Null)
    );
    assert_eq!(feature(&object, "hardware_stamps")["verdict"], "missing");
}

#[test]
fn each_privilege_changes_the_verdict() {
    let _turn = turn::wait_for(Turn::Shared);
    let nobody = match Nobody::new() {
        Ok(nobody) => nobody,
        Err(reason) => return report_skip("doctor::each_privilege", &reason),
    };
    for (held, names) in [("", vec![]), ("+net_raw", vec!["cap_net_raw"])] {
        let object = object(nobody.start_holding(held, "doctor --json"), 0);
        assert_eq!(object["privileges"]["user"], 65_534);
        assert_eq!(object["privileges"]["capabilities"], Value::from(names.clone()));
        assert_eq!(object["privileges"]["no_new_privs"], true);
        let raw = feature(&object, "raw_syn");
        let expected = if names.is_empty() { "missing" } else { "ok" };
        assert_eq!(raw["verdict"], expected, "{raw}");
        // setcap(8) would have no effect in these surroundings.
        for (name, needs) in [("ebpf_syn_timer", "CAP_BPF"), ("priority", "CAP_SYS_NICE")] {
            let feature = feature(&object, name);
            assert_eq!(feature["verdict"], "missing", "{feature}");
            let remedy = feature["remedy"].as_str().unwrap();
            assert!(remedy.contains(needs) && remedy.contains("AmbientCapabilities"), "{remedy}");
        }
    }
}

/// Docker's and containerd's default; readiness does the same work.
#[test]
fn where_io_uring_is_forbidden_the_doctor_says_by_whom() {
    let _turn = turn::wait_for(Turn::Shared);
    let object = object(confined(&["doctor", "--json"], kernel::forbid_io_uring), 0);
    let ring = feature(&object, "io_uring");
    assert_eq!(ring["verdict"], "missing");
    assert!(ring["remedy"].as_str().unwrap().contains("seccomp profile"), "{ring}");
    assert_eq!((&object["ring"], &object["ready"]), (&Value::Null, &true.into()));
    assert_eq!(object["privileges"]["seccomp"], "filter");
}

#[test]
fn without_kernel_time_the_exit_code_is_1() {
    let _turn = turn::wait_for(Turn::Shared);
    let object = object(confined(&["doctor", "--json"], kernel::forbid_stamps), 1);
    assert_eq!(object["ready"], false);
    assert_eq!(feature(&object, "kernel_tx_stamps")["verdict"], "missing");
    let ending = confined(&["doctor"], kernel::forbid_stamps).wait();
    assert_eq!(ending.code, Some(1));
    assert!(ending.stdout.last().unwrap().starts_with("not ready"), "{:?}", ending.stdout);
}

#[test]
fn the_screen_has_a_line_for_each_feature() {
    let _turn = turn::wait_for(Turn::Shared);
    let object = object(Run::start(&Place::Here, "doctor --json"), 0);
    let Ending { code, stdout, stderr, .. } = Run::start(&Place::Here, "doctor").wait();
    assert_eq!((code, stderr.len()), (Some(0), 0), "{stderr:?}");
    for feature in object["features"].as_array().unwrap() {
        let name = feature["name"].as_str().unwrap();
        assert!(stdout.iter().any(|line| line.starts_with(name)), "{name} in {stdout:#?}");
    }
    assert!(stdout.iter().all(|line| !line.contains('\u{1b}')));
    assert!(stdout.last().unwrap().starts_with("ready"), "{stdout:#?}");
}

/// The object that a doctor wrote, with this exit code.
fn object(mut doctor: Run, code: i32) -> Value {
    let ending = doctor.wait();
    assert_eq!(ending.code, Some(code), "{ending:?}");
    assert_eq!(ending.stdout.len(), 1, "{ending:?}");
    serde_json::from_str(&ending.stdout[0]).unwrap()
}

fn feature<'a>(object: &'a Value, name: &str) -> &'a Value {
    let mut features = object["features"].as_array().unwrap().iter();
    features.find(|feature| feature["name"] == name).unwrap()
}

fn confined(words: &[&str], confine: impl Fn(&mut Command)) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rttscope"));
    command.args(words).env("NO_COLOR", "1");
    confine(&mut command);
    Run::spawn(&Place::Here, command, format!("{} (confined)", words.join(" ")))
}
