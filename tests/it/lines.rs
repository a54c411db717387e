//! `probe --json` lines into values. A line that lacks a key, has an unknown one or has them in
//! another order than design promises is refused here, so every test checks the contract.

use serde::Deserialize;
use serde_json::Value;

/// What a finished or running `probe --json` wrote.
#[derive(Debug)]
pub(crate) struct Report {
    /// One for each probe, in the order of writing.
    pub(crate) probes: Vec<ProbeLine>,
    /// The last line's object, if the prober finished.
    pub(crate) summary: Option<Value>,
}

/// One probe.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ProbeLine {
    pub(crate) target: String,
    pub(crate) address: Option<String>,
    pub(crate) seq: u64,
    pub(crate) outcome: String,
    pub(crate) clock: Option<String>,
    pub(crate) rtt_ns: Option<u64>,
    pub(crate) app_rtt_ns: Option<u64>,
    pub(crate) network_ns: Option<u64>,
    pub(crate) peer_ns: Option<u64>,
    pub(crate) lag_ns: Option<u64>,
    pub(crate) send_ns: Option<u64>,
    pub(crate) wakeup_ns: Option<u64>,
    pub(crate) stamps: StampsLine,
}

/// A probe's stamps, Unix ns.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(dead_code, reason = "every key of the contract stands here, whether a test reads it")]
pub(crate) struct StampsLine {
    pub(crate) due: Option<u64>,
    pub(crate) tx_app: Option<u64>,
    pub(crate) tx_sched: Option<u64>,
    pub(crate) tx_sw: Option<u64>,
    pub(crate) tx_hw: Option<u64>,
    pub(crate) tx_ack: Option<u64>,
    pub(crate) rx_hw: Option<u64>,
    pub(crate) rx_sw: Option<u64>,
    pub(crate) rx_app: Option<u64>,
}

impl Report {
    /// Parses everything that went to standard output.
    pub(crate) fn parse(lines: &[String]) -> Self {
        let mut report = Self { probes: Vec::new(), summary: None };
        for line in lines {
            assert!(report.summary.is_none(), "the summary is the last line, but then: {line}");
            let value: Value = serde_json::from_str(line)
                .unwrap_or_else(|error| panic!("no JSON object ({error}): {line}"));
            if let Some(summary) = value.get("summary") {
                report.check_summary(summary);
                report.summary = Some(summary.clone());
                continue;
            }
            check_key_order(line, &KEYS);
            report.probes.push(serde_json::from_value(value).unwrap());
        }
        report
    }

    /// The summary counts what the lines showed.
    fn check_summary(&self, summary: &Value) {
        let received = self.received().count();
        let expected = [
            ("sent", self.probes.len()),
            ("received", received),
            ("timeouts", self.probes.len() - received),
            ("in_flight", 0),
        ];
        for (key, count) in expected {
            let told = summary["total"][key].as_u64();
            assert_eq!(told, u64::try_from(count).ok(), "{key} in {summary}");
        }
    }

    /// Probes that were received.
    pub(crate) fn received(&self) -> impl Iterator<Item = &ProbeLine> {
        self.probes.iter().filter(|probe| probe.outcome == "received")
    }

    /// How many probes ended in this way.
    pub(crate) fn count(&self, outcome: &str) -> usize {
        self.probes.iter().filter(|probe| probe.outcome == outcome).count()
    }
}

/// The keys stand in this order, as scripts may rely on.
pub(crate) fn check_key_order(line: &str, keys: &[&str]) {
    let mut rest = line;
    for key in keys {
        let quoted = format!("\"{key}\":");
        let at = rest.find(&quoted).unwrap_or_else(|| panic!("no `{key}` in its place: {line}"));
        rest = &rest[at + quoted.len()..];
    }
}

/// The keys of a line, in the order in which they are written.
const KEYS: [&str; 22] = [
    "target",
    "address",
    "seq",
    "outcome",
    "clock",
    "rtt_ns",
    "app_rtt_ns",
    "network_ns",
    "peer_ns",
    "lag_ns",
    "send_ns",
    "wakeup_ns",
    "stamps",
    "due",
    "tx_app",
    "tx_sched",
    "tx_sw",
    "tx_hw",
    "tx_ack",
    "rx_hw",
    "rx_sw",
    "rx_app",
];
