//! `rttscope rules`: Prometheus' own tool accepts what it prints, and every alert fires when it
//! should and not when it should not. Without that tool these tests are skipped.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::run::Run;
use crate::site::{Place, report_skip};
use crate::turn::{self, Turn};

/// Command lines whose rules are linted.
const LINES: [&str; 5] = [
    "rules",
    "rules --job=probes --check",
    "rules --slo=100us:99.9% --slo=app=1ms:99%:application",
    "rules --check db=10.0.0.1:5432 [::1]:80 --slo=5ms:99.95%",
    "rules {{a}}=h:1 b\"c=h:2 --slo={{x}}=1ms:99%",
];

/// What each alert does with which series, by the rules that fit every rttscope.
const GENERIC: &str = include_str!("../rules/generic.test.yml");

#[test]
fn the_linter_accepts_every_rule_file() {
    let _turn = turn::wait_for(Turn::Shared);
    if !is_promtool_installed() {
        return report_skip("rules::linter", "no `promtool` on the search path");
    }
    for words in LINES {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rules.yml");
        std::fs::write(&file, printed(words)).unwrap();
        promtool(&["check", "rules", "--lint=all", "--lint-fatal", "rules.yml"], folder.path());
    }
}

#[test]
fn each_alert_fires_when_it_should_and_not_otherwise() {
    let _turn = turn::wait_for(Turn::Shared);
    if !is_promtool_installed() {
        return report_skip("rules::alerts", "no `promtool` on the search path");
    }
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("generic.yml", &printed("rules"));
    write("own.yml", &printed("rules --slo=fast=1ms:99% db=h:1"));
    write("generic.test.yml", GENERIC);
    write("own.test.yml", include_str!("../rules/own.test.yml"));
    write("days.test.yml", include_str!("../rules/days.test.yml"));
    let files = ["generic.test.yml", "own.test.yml", "days.test.yml"];
    promtool(&[&["test", "rules"][..], &files].concat(), folder.path());
}

/// So that an alert cannot be added without its tests.
#[test]
fn each_alert_has_a_test_of_both() {
    let _turn = turn::wait_for(Turn::Shared);
    let mut tested: BTreeMap<&str, [bool; 2]> = BTreeMap::new();
    let mut lines = GENERIC.lines();
    while let Some(line) = lines.next() {
        let Some(alert) = line.trim().strip_prefix("alertname: ") else { continue };
        let fires = lines.next().unwrap().trim();
        assert!(fires == "exp_alerts:" || fires == "exp_alerts: []", "{alert}: {fires}");
        tested.entry(alert).or_default()[usize::from(fires == "exp_alerts:")] = true;
    }
    let file: Value = serde_json::from_str(&printed("rules --json")).unwrap();
    let groups = file["groups"].as_array().unwrap();
    let rules = groups.iter().flat_map(|group| group["rules"].as_array().unwrap());
    let alerts: Vec<&str> = rules.filter_map(|rule| rule["alert"].as_str()).collect();
    assert!(alerts.len() >= 18, "{alerts:?}");
    for alert in alerts {
        assert_eq!(tested.get(alert), Some(&[true, true]), "{alert}: [silent, fires]");
    }
}

/// What the binary prints, which is all there is to say.
pub(crate) fn printed(words: &str) -> String {
    let ending = Run::start(&Place::Here, words).wait();
    assert_eq!((ending.code, ending.stderr.as_slice()), (Some(0), [].as_slice()), "{words}");
    ending.stdout.join("\n") + "\n"
}

fn is_promtool_installed() -> bool {
    let mut command = Command::new("promtool");
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

fn promtool(words: &[&str], folder: &Path) {
    let output = Command::new("promtool").args(words).current_dir(folder).output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&said));
}
