//! `probe --check --json` lines into values, with the contract of their keys and their order.

use serde::Deserialize;
use serde_json::Value;

use crate::lines;

/// One half-open check.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "every key of the contract stands here, whether a test reads it")]
pub(crate) struct CheckLine {
    pub(crate) target: String,
    pub(crate) address: String,
    pub(crate) seq: u64,
    pub(crate) ip: Option<std::net::IpAddr>,
    pub(crate) port: Option<u16>,
    pub(crate) method: String,
    pub(crate) outcome: String,
    pub(crate) clock: Option<String>,
    pub(crate) rtt_ns: Option<u64>,
    pub(crate) elapsed_ns: u64,
    pub(crate) lag_ns: u64,
    pub(crate) syn_retransmits: u32,
    pub(crate) completed: bool,
    pub(crate) due: u64,
    pub(crate) tx_app: u64,
}

/// Every check of a run, in the order of writing; a summary must be the last line.
pub(crate) fn parse(lines: &[String]) -> Vec<CheckLine> {
    let (last, checks) = lines.split_last().expect("a summary");
    let summary: Value = serde_json::from_str(last).unwrap();
    let checks: Vec<CheckLine> = checks.iter().map(|line| parse_line(line)).collect();
    let open = checks.iter().filter(|check| check.outcome == "open").count();
    let total = &summary["summary"]["total"];
    assert_eq!(total["sent"].as_u64(), u64::try_from(checks.len()).ok(), "{last}");
    assert_eq!(total["received"].as_u64(), u64::try_from(open).ok(), "{last}");
    checks
}

fn parse_line(line: &str) -> CheckLine {
    lines::check_key_order(line, &KEYS);
    serde_json::from_str(line).unwrap()
}

const KEYS: [&str; 15] = [
    "target",
    "address",
    "seq",
    "ip",
    "port",
    "method",
    "outcome",
    "clock",
    "rtt_ns",
    "elapsed_ns",
    "lag_ns",
    "syn_retransmits",
    "completed",
    "due",
    "tx_app",
];
