//! The shapes of the JSON answers, and how they are made of what the series hold. Units are in the
//! names of keys, and what is absent is `null`; `openapi.json` describes each shape.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::histogram::HistogramSnapshot;
use crate::sample::{Method, Stage};
use crate::stats::history::{Column, Failures, History, Record};
use crate::stats::slo::SloSnapshot;
use crate::stats::watched::{self, State, Watched};

/// One target in a list.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Row {
    id: String,
    /// `echo` or `check`.
    kind: &'static str,
    target: String,
    address: String,
    labels: BTreeMap<String, String>,
    method: Option<&'static str>,
    state: &'static str,
    clock: Option<&'static str>,
    connected: Option<bool>,
    wire_version: Option<u64>,
    last_rtt_ns: Option<u64>,
    sent: u64,
    received: u64,
    lost: u64,
    in_flight: u64,
    window: Window,
    recent: Option<Recent>,
    slos: Vec<Slo>,
    last_failure: Option<Failure>,
    column: Option<Cells>,
    heatmap: Option<Vec<Cells>>,
}

/// The loss window.
#[derive(Debug, PartialEq, Serialize)]
struct Window {
    probes: u64,
    lost: u64,
    loss_ratio: Option<f64>,
}

/// The newest probes, summed up.
#[derive(Debug, PartialEq, Serialize)]
struct Recent {
    probes: usize,
    received: usize,
    span_ns: u64,
    rtt_ns_min: Option<u64>,
    rtt_ns_p50: Option<u64>,
    rtt_ns_p99: Option<u64>,
    rtt_ns_max: Option<u64>,
    /// The newest round trips, oldest first; `None` for one that was lost.
    rtts_ns: Vec<Option<u64>>,
    stages: Option<Stages>,
}

/// Where the time of the newest probes went, in the mean; the sum is what an application waits.
#[derive(Debug, PartialEq, Serialize)]
struct Stages {
    probes: usize,
    lag_ns: Option<u64>,
    send_ns: Option<u64>,
    network_ns: Option<u64>,
    peer_ns: Option<u64>,
    /// Round trips that cannot be split into network and peer.
    unsplit_ns: Option<u64>,
    wakeup_ns: Option<u64>,
}

/// One objective.
#[derive(Debug, PartialEq, Serialize)]
struct Slo {
    slo: String,
    threshold_ns: u64,
    objective_ratio: f64,
    total: u64,
    good: u64,
    budget_left_ratio: Option<f64>,
}

/// The same failure, once or often.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct Failure {
    first_time_ns: u64,
    last_time_ns: u64,
    count: u64,
    outcome: &'static str,
    errno: Option<i32>,
    reason: String,
}

/// A column of the heat map.
#[derive(Debug, PartialEq, Serialize)]
struct Cells {
    lost: u64,
    rtt_ns_p50: Option<u64>,
    /// Upper end of the bucket in ns, and how many round trips are in it.
    cells: Vec<(u64, u64)>,
}

/// One probe or check.
#[derive(Debug, Serialize)]
pub(super) struct Probe {
    seq: u64,
    due_time_ns: u64,
    outcome: &'static str,
    clock: Option<&'static str>,
    rtt_ns: Option<u64>,
    elapsed_ns: Option<u64>,
    lag_ns: Option<u64>,
    send_ns: Option<u64>,
    network_ns: Option<u64>,
    peer_ns: Option<u64>,
    wakeup_ns: Option<u64>,
}

/// One target in full.
#[derive(Debug, Serialize)]
pub(super) struct Detail {
    time_ns: u64,
    target: Row,
    lifetime: Lifetime,
    failures: Vec<Failure>,
    probes_max: Option<usize>,
    probes_seen: u64,
    probes: Vec<Probe>,
}

/// Everything since the target is measured.
#[derive(Debug, Serialize)]
struct Lifetime {
    skipped: u64,
    late: u64,
    connects: Option<u64>,
    drops: Option<u64>,
    resolve_failures: u64,
    rtt: Option<Quantiles>,
    elapsed: Option<Quantiles>,
    stages: Vec<StageQuantiles>,
}

/// Of a histogram.
#[derive(Debug, Serialize)]
pub(super) struct Quantiles {
    count: u64,
    ns_p50: Option<u64>,
    ns_p90: Option<u64>,
    ns_p99: Option<u64>,
    ns_p999: Option<u64>,
    ns_max: u64,
}

#[derive(Debug, Serialize)]
struct StageQuantiles {
    stage: &'static str,
    #[serde(flatten)]
    quantiles: Quantiles,
}

/// How many targets are in each state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(super) struct States {
    down: usize,
    unresolved: usize,
    connecting: usize,
    unknown: usize,
    up: usize,
}

impl States {
    /// Counts one target.
    pub(super) fn add(&mut self, state: State) {
        let count = match state {
            State::Down => &mut self.down,
            State::Unresolved => &mut self.unresolved,
            State::Connecting => &mut self.connecting,
            State::Unknown => &mut self.unknown,
            State::Up => &mut self.up,
        };
        *count += 1;
    }
}

impl Row {
    /// What is known of a target now.
    pub(super) fn new(watched: &Watched, with_heatmap: bool) -> Self {
        let counts = watched.counts();
        let glimpse = watched.glimpse();
        let history = watched.history();
        Self {
            id: id_text(watched.id()),
            kind: if watched.method().is_some() { "check" } else { "echo" },
            target: watched.target().to_owned(),
            address: watched.address().to_owned(),
            labels: watched.labels().iter().cloned().collect(),
            method: watched.method().map(Method::name),
            state: glimpse.state.name(),
            clock: watched.newest_clock(),
            connected: counts.connected,
            wire_version: counts.wire_version,
            last_rtt_ns: glimpse.last_rtt_ns,
            sent: counts.sent,
            received: counts.good,
            lost: counts.lost,
            in_flight: counts.in_flight,
            window: Window {
                probes: counts.window_probes,
                lost: counts.window_lost,
                loss_ratio: glimpse.loss_ratio,
            },
            recent: history.and_then(|history| Recent::new(&history.probes())),
            slos: watched.slos().into_iter().map(Slo::new).collect(),
            last_failure: history
                .and_then(|history| history.failures().into_iter().next())
                .map(Failure::new),
            column: watched.column().map(Cells::new),
            heatmap: with_heatmap
                .then(|| watched.columns())
                .flatten()
                .map(|columns| columns.into_iter().map(Cells::new).collect()),
        }
    }

    /// Which target it is about.
    pub(super) fn id(&self) -> &str {
        &self.id
    }
}

impl Recent {
    fn new(records: &[Record]) -> Option<Self> {
        let due = |record: &Record| record.due.as_ns();
        let (first, last) = (records.iter().map(due).min()?, records.iter().map(due).max()?);
        // The round trip of a refused check is one, but not what is asked for here.
        let good = records.iter().filter(|record| record.good);
        let mut rtts: Vec<u64> = good.filter_map(|record| record.rtt_ns).collect();
        rtts.sort_unstable();
        let newest = &records[records.len().saturating_sub(SPARK_PROBES_MAX)..];
        // By nearest rank: the ⌈q·n⌉-th shortest.
        let rank = |percent: usize| {
            let rank = (rtts.len() * percent).div_ceil(100);
            rank.checked_sub(1).and_then(|at| rtts.get(at)).copied()
        };
        Some(Self {
            probes: records.len(),
            received: records.iter().filter(|record| record.good).count(),
            span_ns: last - first,
            rtt_ns_min: rtts.first().copied(),
            rtt_ns_p50: rank(50),
            rtt_ns_p99: rank(99),
            rtt_ns_max: rtts.last().copied(),
            rtts_ns: newest.iter().map(|record| record.rtt_ns.filter(|_| record.good)).collect(),
            stages: Stages::new(records),
        })
    }
}

impl Stages {
    fn new(records: &[Record]) -> Option<Self> {
        let newest = records.iter().rev().filter(|record| record.good && record.rtt_ns.is_some());
        let newest: Vec<&Record> = newest.take(STAGES_PROBES_MAX).collect();
        let probes = u64::try_from(newest.len()).ok().filter(|&probes| probes > 0)?;
        // What one probe lacks counts as nothing, so that the sum stays what applications wait.
        let mean = |part: &dyn Fn(&Record) -> Option<u64>| {
            let parts = newest.iter().filter_map(|record| part(record));
            parts.reduce(u64::saturating_add).map(|sum| sum / probes)
        };
        let stage = |stage: Stage| mean(&|record: &Record| record.stages_ns[stage as usize]);
        let network = Stage::Network as usize;
        Some(Self {
            probes: newest.len(),
            lag_ns: stage(Stage::Lag),
            send_ns: stage(Stage::Send),
            network_ns: stage(Stage::Network),
            peer_ns: stage(Stage::Peer),
            unsplit_ns: mean(&|record: &Record| {
                record.rtt_ns.filter(|_| record.stages_ns[network].is_none())
            }),
            wakeup_ns: stage(Stage::Wakeup),
        })
    }
}

impl Slo {
    fn new(slo: SloSnapshot) -> Self {
        Self {
            budget_left_ratio: watched::budget_left_ratio(&slo),
            slo: slo.objective.name,
            threshold_ns: slo.objective.threshold_ns,
            objective_ratio: slo.objective.objective_ratio,
            total: slo.total,
            good: slo.good,
        }
    }
}

impl Failure {
    fn new(failures: Failures) -> Self {
        let Failures { first, last, outcome, errno, count } = failures;
        Self {
            first_time_ns: first.as_ns(),
            last_time_ns: last.as_ns(),
            count,
            outcome,
            errno,
            reason: reason(outcome, errno),
        }
    }

    /// The last ones of a target, newest first.
    pub(super) fn all(history: Option<&History>) -> Vec<Self> {
        let failures = history.map(History::failures).unwrap_or_default();
        failures.into_iter().map(Self::new).collect()
    }
}

impl Cells {
    fn new(column: Column) -> Self {
        let Column { lost, cells, rtt_ns_p50 } = column;
        Self { lost, rtt_ns_p50, cells }
    }
}

impl Probe {
    /// A remembered probe.
    pub(super) fn new(record: &Record) -> Self {
        let [lag_ns, send_ns, network_ns, peer_ns, wakeup_ns] = record.stages_ns;
        Self {
            seq: record.seq,
            due_time_ns: record.due.as_ns(),
            outcome: record.outcome,
            clock: record.clock,
            rtt_ns: record.rtt_ns,
            elapsed_ns: record.elapsed_ns,
            lag_ns,
            send_ns,
            network_ns,
            peer_ns,
            wakeup_ns,
        }
    }
}

impl Detail {
    /// Everything that is known of a target.
    pub(super) fn new(watched: &Watched, time_ns: u64) -> Self {
        let history = watched.history();
        let (records, probes_seen) = history.map_or((Vec::new(), 0), |history| history.since(0));
        Self {
            time_ns,
            target: Row::new(watched, true),
            lifetime: Lifetime::new(watched),
            failures: Failure::all(history),
            probes_max: history.map(History::probes_max),
            probes_seen,
            probes: records.iter().map(Probe::new).collect(),
        }
    }
}

impl Lifetime {
    fn new(watched: &Watched) -> Self {
        let counts = watched.counts();
        let stage = |stage: Stage, histogram: &HistogramSnapshot| StageQuantiles {
            stage: stage.name(),
            quantiles: Quantiles::new(histogram),
        };
        let (mut rtt, mut elapsed, mut stages) = (None, None, Vec::new());
        if let Some(probe) = watched.probe_snapshot() {
            rtt = probe.rtt_merged();
            stages = probe.stages.iter().map(|(name, it)| stage(*name, it)).collect();
            elapsed = probe.app_rtt;
        }
        if let Some(check) = watched.check_snapshot() {
            rtt = check.rtt_merged();
            stages = check.lag.iter().map(|lag| stage(Stage::Lag, lag)).collect();
            elapsed = check.elapsed;
        }
        Self {
            skipped: counts.skipped,
            late: counts.late,
            connects: counts.connections.map(|(connects, _)| connects),
            drops: counts.connections.map(|(_, drops)| drops),
            resolve_failures: counts.resolve_failures,
            rtt: rtt.as_ref().map(Quantiles::new),
            elapsed: elapsed.as_ref().map(Quantiles::new),
            stages,
        }
    }
}

impl Quantiles {
    /// Of this histogram.
    pub(super) fn new(histogram: &HistogramSnapshot) -> Self {
        Self {
            count: histogram.count,
            ns_p50: histogram.quantile(0.5),
            ns_p90: histogram.quantile(0.9),
            ns_p99: histogram.quantile(0.99),
            ns_p999: histogram.quantile(0.999),
            ns_max: histogram.max_ns,
        }
    }
}

/// How a target's number is written.
pub(super) fn id_text(id: u64) -> String {
    format!("{id:016x}")
}

/// What a failure means, for people.
fn reason(outcome: &str, errno: Option<i32>) -> String {
    let said = errno.map(|errno| std::io::Error::from_raw_os_error(errno).to_string());
    let said = said.unwrap_or_else(|| "no further word".to_owned());
    let text = match outcome {
        "timeout" => "no reply before the timeout",
        "closed" => "the peer closed the connection",
        "refused" => "nobody listens there: connection refused",
        "reset" => "the peer reset the connection",
        "unreachable" => "no way there: the network or the host is unreachable",
        "connect_timeout" => "no answer to the attempt to connect",
        "stalled" => "the peer stopped reading, or never answered",
        "unresolved" => "the name has no address",
        "local_error" => return format!("no socket on this side: {said}"),
        _ => return format!("the system said: {said}"),
    };
    text.to_owned()
}

/// The newest probes that tell where the time goes: few enough to show a change soon.
const STAGES_PROBES_MAX: usize = 100;
/// The newest round trips that are told one by one in a list.
const SPARK_PROBES_MAX: usize = 60;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;
    use crate::time::Wall;

    fn record(rtt_ns: u64, split: bool) -> Record {
        let part = split.then_some(rtt_ns / 2);
        Record {
            seq: 1,
            due: Wall::from_ns(rtt_ns),
            outcome: "received",
            good: true,
            clock: Some("kernel"),
            rtt_ns: Some(rtt_ns),
            elapsed_ns: Some(rtt_ns + 30),
            stages_ns: [Some(10), Some(10), part, part, Some(10)],
        }
    }

    #[test]
    fn the_newest_probes_are_summed_up_by_rank() {
        let mut records: Vec<Record> = (1..=200).map(|rtt_ns| record(rtt_ns, true)).collect();
        records.push(Record {
            outcome: "timeout",
            good: false,
            rtt_ns: None,
            ..records[0].clone()
        });
        let recent = Recent::new(&records).unwrap();
        assert_eq!((recent.probes, recent.received, recent.span_ns), (201, 200, 199));
        let quantiles =
            [recent.rtt_ns_min, recent.rtt_ns_p50, recent.rtt_ns_p99, recent.rtt_ns_max];
        assert_eq!(quantiles, [Some(1), Some(100), Some(198), Some(200)]);
        assert_eq!(Recent::new(&[]), None);
    }

    #[test]
    fn the_mean_parts_add_up() {
        let records: Vec<Record> = [(100, true), (200, false), (300, true)]
            .map(|(rtt_ns, split)| record(rtt_ns, split))
            .into();
        let stages = Stages::new(&records).unwrap();
        let middle = (stages.network_ns, stages.peer_ns, stages.unsplit_ns);
        assert_eq!(middle, (Some(66), Some(66), Some(66)));
        assert_eq!((stages.lag_ns, stages.wakeup_ns), (Some(10), Some(10)));
        let unsplit = Stages::new(&records[1..2]).unwrap();
        assert_eq!((unsplit.network_ns, unsplit.unsplit_ns), (None, Some(200)));
        assert_eq!(Stages::new(&[]), None);
    }

    #[test]
    fn a_reason_holds_what_the_system_said() {
        assert!(reason("local_error", Some(24)).contains("os error 24"));
        assert!(reason("error", None).contains("no further word"));
        assert!(reason("refused", None).contains("refused"));
    }
}
