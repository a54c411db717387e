//! Targets as people look at them, probed and checked ones alike: series in, and what a status page
//! needs of one or of ten thousand out. A [`Glimpse`] is cheap enough to be taken of every target
//! each second; everything else is for the few that are on a screen.

use std::collections::HashSet;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::history::{Column, History, Levels};
use super::slo::SloSnapshot;
use super::{
    CheckSeries, CheckSnapshot, EchoSnapshot, ProbeSeries, ProbeSnapshot, Stats, TargetSeries,
    WorkerSnapshot, echo,
};
use crate::sample::{CheckClock, CheckCounters, Clock, Method, ProbeCounters};

/// A target, and its series.
#[derive(Clone, Debug)]
pub enum Watched {
    /// Echo probes.
    Probe(Arc<ProbeSeries>),
    /// Half-open checks.
    Check(Arc<CheckSeries>),
}

/// How a target is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// The newest finished probe was lost.
    Down,
    /// The same, because no address is known for the name.
    Unresolved,
    /// No probe has finished, and no connection stands.
    Connecting,
    /// No probe has finished.
    Unknown,
    /// The newest finished probe was answered as it should be.
    Up,
}

/// What a list is sorted and filtered by.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Glimpse {
    /// How the target is.
    pub state: State,
    /// Share lost in the loss window; `None` before any probe finished.
    pub loss_ratio: Option<f64>,
    /// The last round trip.
    pub last_rtt_ns: Option<u64>,
    /// What is left of the scarcest error budget; see [`budget_left_ratio`].
    pub budget_left_ratio: Option<f64>,
}

/// What was counted, in words that fit probes and checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Counts {
    /// Slots of the schedule that became a probe.
    pub sent: u64,
    /// Answered as they should be.
    pub good: u64,
    /// Finished otherwise.
    pub lost: u64,
    /// Neither yet.
    pub in_flight: u64,
    /// Slots without a probe.
    pub skipped: u64,
    /// Sent late.
    pub late: u64,
    /// Outcomes in the loss window.
    pub window_probes: u64,
    /// Lost ones among them.
    pub window_lost: u64,
    /// Whether a connection stands; a check has none.
    pub connected: Option<bool>,
    /// Connections established, and lost.
    pub connections: Option<(u64, u64)>,
    /// The frames in use, once they are known.
    pub wire_version: Option<u64>,
    /// Failed resolutions of the name.
    pub resolve_failures: u64,
}

impl Stats {
    /// Every target: probed ones, then checked ones, each in the order in which they were added.
    #[must_use]
    pub fn watched(&self) -> Vec<Watched> {
        let registered = self.lock();
        let probes = registered.probes.iter().cloned().map(Watched::Probe);
        probes.chain(registered.checks.iter().cloned().map(Watched::Check)).collect()
    }

    /// Shows these targets no longer.
    pub fn remove(&self, targets: &[Watched]) {
        // By place in memory, which only one of them has: all in one pass, however many they are.
        let gone: HashSet<*const TargetSeries> =
            targets.iter().map(|target| ptr::from_ref(target.series())).collect();
        let stays = |series: &TargetSeries| !gone.contains(&ptr::from_ref(series));
        let mut registered = self.lock();
        registered.probes.retain(|series| stays(series.target()));
        registered.checks.retain(|series| stays(series.target()));
    }

    /// Listeners of the responder, each with all of its workers.
    #[must_use]
    pub fn responders(&self) -> Vec<EchoSnapshot> {
        let echoes = self.lock().echoes.clone();
        echo::listeners(&echoes)
    }

    /// Measuring threads.
    #[must_use]
    pub fn workers(&self) -> Vec<WorkerSnapshot> {
        let workers = self.lock().workers.clone();
        workers.iter().map(|series| series.snapshot()).collect()
    }

    /// Ends a column of every target's heat map. To be called every
    /// [`super::history::COLUMN_SECONDS`].
    pub fn turn_heat_maps(&self) {
        for watched in self.watched() {
            if let Some(history) = watched.history() {
                history.turn(&watched.levels());
            }
        }
        self.heat_map_turns.fetch_add(1, Ordering::Release);
    }

    /// Columns of heat maps that have ended.
    #[must_use]
    pub fn heat_map_turns(&self) -> u64 {
        self.heat_map_turns.load(Ordering::Acquire)
    }
}

impl State {
    /// Every state, worst first.
    pub const ALL: [Self; 5] =
        [Self::Down, Self::Unresolved, Self::Connecting, Self::Unknown, Self::Up];

    /// The word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Down => "down",
            Self::Unresolved => "unresolved",
            Self::Connecting => "connecting",
            Self::Unknown => "unknown",
            Self::Up => "up",
        }
    }
}

impl Watched {
    /// The target's number: the same for the same target in every run (FNV-1a of what makes a
    /// series unique).
    #[must_use]
    pub fn id(&self) -> u64 {
        let mut hash = FNV_OFFSET;
        let mut add = |text: &str| {
            // 0xff is in no UTF-8 text: it tells where one ends.
            for byte in text.bytes().chain([0xff]) {
                hash = (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
            }
        };
        add(self.method().map_or("echo", Method::name));
        add(self.target());
        add(self.address());
        for (name, value) in self.labels() {
            add(name);
            add(value);
        }
        hash
    }

    /// What probed and checked targets have in common.
    #[must_use]
    pub fn series(&self) -> &TargetSeries {
        match self {
            Self::Probe(series) => series.target(),
            Self::Check(series) => series.target(),
        }
    }

    /// The `target` label.
    #[must_use]
    pub fn target(&self) -> &str {
        self.series().name()
    }

    /// The `address` label.
    #[must_use]
    pub fn address(&self) -> &str {
        self.series().address()
    }

    /// The user's labels.
    #[must_use]
    pub fn labels(&self) -> &[(String, String)] {
        self.series().labels()
    }

    /// How it is checked; `None` for echo probes.
    #[must_use]
    pub fn method(&self) -> Option<Method> {
        match self {
            Self::Probe(_) => None,
            Self::Check(series) => Some(series.method()),
        }
    }

    /// The clock of the newest round trip.
    #[must_use]
    pub fn newest_clock(&self) -> Option<&'static str> {
        match self {
            Self::Probe(series) => series.rtt().newest(Clock::ALL).map(Clock::name),
            Self::Check(series) => series.rtt().newest(CheckClock::ALL).map(CheckClock::name),
        }
    }

    /// What it went through lately, if that is kept.
    #[must_use]
    pub fn history(&self) -> Option<&History> {
        self.series().history()
    }

    /// What a list needs to know of every target.
    #[must_use]
    pub fn glimpse(&self) -> Glimpse {
        let counts = self.counts();
        let last_rtt_ns = match self {
            Self::Probe(series) => series.counters().last_rtt_ns,
            Self::Check(series) => series.counters().last_rtt_ns,
        };
        let budgets = self.slos();
        let budgets = budgets.iter().filter_map(budget_left_ratio);
        Glimpse {
            state: self.state(&counts),
            loss_ratio: ratio(counts.window_lost, counts.window_probes),
            last_rtt_ns: Some(last_rtt_ns).filter(|_| counts.good > 0),
            budget_left_ratio: budgets.min_by(f64::total_cmp),
        }
    }

    fn state(&self, counts: &Counts) -> State {
        let finished = counts.good + counts.lost > 0;
        match (finished, self.series().is_up()) {
            (true, true) => State::Up,
            (true, false) if self.is_unresolved() => State::Unresolved,
            (true, false) => State::Down,
            (false, _) if counts.connected == Some(false) => State::Connecting,
            (false, _) => State::Unknown,
        }
    }

    fn is_unresolved(&self) -> bool {
        let newest = self.history().and_then(|history| history.failures().into_iter().next());
        newest.is_some_and(|newest| newest.outcome == "unresolved")
    }

    /// What was counted.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let resolve_failures = self.series().resolve_failures();
        match self {
            Self::Probe(series) => of_probe(&series.counters(), resolve_failures),
            Self::Check(series) => of_check(&series.counters(), resolve_failures),
        }
    }

    /// The objectives.
    #[must_use]
    pub fn slos(&self) -> Vec<SloSnapshot> {
        self.series().slos()
    }

    /// Everything of an echo probe's series.
    #[must_use]
    pub fn probe_snapshot(&self) -> Option<ProbeSnapshot> {
        if let Self::Probe(series) = self { Some(series.snapshot()) } else { None }
    }

    /// Everything of a check's series.
    #[must_use]
    pub fn check_snapshot(&self) -> Option<CheckSnapshot> {
        if let Self::Check(series) = self { Some(series.snapshot()) } else { None }
    }

    /// The heat map's columns, oldest first; the last one is still being filled.
    #[must_use]
    pub fn columns(&self) -> Option<Vec<Column>> {
        self.history().map(|history| history.columns(&self.levels()))
    }

    /// The heat map's column that is being filled.
    #[must_use]
    pub fn column(&self) -> Option<Column> {
        self.history().map(|history| history.column(&self.levels()))
    }

    fn levels(&self) -> Levels {
        let histograms = match self {
            Self::Probe(series) => series.rtt().histograms(),
            Self::Check(series) => series.rtt().histograms(),
        };
        Levels::new(&histograms, self.counts().lost)
    }
}

/// The share of the error budget that is left: 1 while everything is good, 0 where it is used up,
/// negative beyond. `None` before any probe finished.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts are far smaller than 2^53")]
pub fn budget_left_ratio(slo: &SloSnapshot) -> Option<f64> {
    let allowed = 1.0 - slo.objective.objective_ratio;
    let bad = slo.total.saturating_sub(slo.good) as f64;
    (slo.total > 0).then(|| 1.0 - bad / slo.total as f64 / allowed)
}

/// `part` of `whole`; `None` of nothing.
#[must_use]
#[expect(clippy::cast_precision_loss, reason = "counts are far smaller than 2^53")]
pub fn ratio(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

fn of_probe(counters: &ProbeCounters, resolve_failures: u64) -> Counts {
    Counts {
        sent: counters.sent,
        good: counters.received,
        lost: counters.timeouts,
        in_flight: counters.in_flight,
        skipped: counters.skipped,
        late: counters.late,
        window_probes: counters.window_probes,
        window_lost: counters.window_lost,
        connected: Some(counters.connected == 1),
        connections: Some((counters.connects, counters.dropped)),
        wire_version: Some(counters.wire_version).filter(|&version| version > 0),
        resolve_failures,
    }
}

fn of_check(counters: &CheckCounters, resolve_failures: u64) -> Counts {
    let finished = counters.sent.saturating_sub(counters.in_flight);
    Counts {
        sent: counters.sent,
        good: counters.open,
        lost: finished.saturating_sub(counters.open),
        in_flight: counters.in_flight,
        skipped: counters.skipped,
        late: counters.late,
        window_probes: counters.window_checks,
        window_lost: counters.window_lost,
        connected: None,
        connections: None,
        wire_version: None,
        resolve_failures,
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::super::slo::{Objective, ObjectiveClock, Objectives};
    use super::*;
    use crate::event::Failure;
    use crate::sample::{Outcome, Sample, Stamps};
    use crate::time::{Mono, Now, Wall};

    fn now(us: u64) -> Now {
        Now { mono: Mono::from_ns(us * 1_000), wall: Wall::from_ns(7_000_000_000 + us * 1_000) }
    }

    fn stamps(seq: u64) -> Stamps {
        let tx_app = now(1_000 * seq);
        Stamps { due: tx_app.mono, tx_app, ..Stamps::default() }
    }

    fn add(stats: &Stats) -> Arc<ProbeSeries> {
        let slo = Objective {
            name: "fast".to_owned(),
            threshold_ns: 1_000_000,
            objective_ratio: 0.9,
            clock: ObjectiveClock::Best,
        };
        let objectives = Arc::new(Objectives::new(vec![slo]));
        stats.add_probe(ProbeSeries::new("t", "a:1", Vec::new(), objectives).with_history(4))
    }

    /// The state after these outcomes.
    fn check(outcomes: &[Outcome], connected: bool, expected: State) {
        let stats = Stats::default();
        let series = add(&stats);
        let mut counters = ProbeCounters { connected: connected.into(), ..Default::default() };
        for (seq, &outcome) in (1..).zip(outcomes) {
            let received = outcome == Outcome::Received;
            series.record(&match received {
                true => Sample::received(seq, stamps(seq), now(1_000 * seq + 80), None),
                false => Sample::lost(seq, outcome, stamps(seq), true),
            });
            counters.received += u64::from(received);
            counters.timeouts += u64::from(!received);
        }
        series.publish(&counters);
        assert_eq!(stats.watched()[0].glimpse().state, expected, "{outcomes:?}");
    }

    #[test]
    fn a_target_is_as_its_newest_probe_was() {
        let refused = Outcome::Lost(Failure::Refused);
        check(&[], false, State::Connecting);
        check(&[], true, State::Unknown);
        check(&[Outcome::Received], true, State::Up);
        check(&[Outcome::Received, refused], false, State::Down);
        check(&[refused, Outcome::Received], true, State::Up);
        check(&[refused, Outcome::Unresolved], false, State::Unresolved);
        check(&[Outcome::Unresolved, Outcome::Timeout], true, State::Down);
    }

    #[test]
    fn what_was_recorded_is_remembered() {
        let stats = Stats::default();
        let series = add(&stats);
        for seq in 1..=6 {
            series.record(&Sample::received(seq, stamps(seq), now(1_000 * seq + 80), None));
        }
        series.record(&Sample::lost(7, Outcome::Lost(Failure::Local(24)), stamps(7), false));
        let watched = stats.watched().pop().unwrap();
        let history = watched.history().unwrap();
        let (records, seen) = history.since(0);
        let seqs: Vec<u64> = records.iter().map(|record| record.seq).collect();
        assert_eq!((seqs, seen, history.probes_max()), (vec![4, 5, 6, 7], 7, 4));
        let record = &records[0];
        assert_eq!((record.rtt_ns, record.elapsed_ns), (Some(80_000), Some(80_000)));
        assert_eq!((record.clock, record.outcome), (Some("application"), "received"));
        assert_eq!(record.due, now(4_000).wall);
        assert_eq!((records[3].rtt_ns, records[3].outcome), (None, "local_error"));
        let failures = history.failures();
        assert_eq!((failures.len(), failures[0].errno, failures[0].count), (1, Some(24), 1));
        let cells = watched.column().unwrap().cells;
        assert_eq!(cells.iter().map(|&(_, count)| count).sum::<u64>(), 6);
        stats.turn_heat_maps();
        assert_eq!((watched.columns().unwrap().len(), stats.heat_map_turns()), (2, 1));
        assert_eq!(watched.column().unwrap().cells, []);
        // Six of seven, where nine of ten are wanted.
        let left = watched.glimpse().budget_left_ratio.unwrap();
        assert!((left - (1.0 - 10.0 / 7.0)).abs() < 1e-9, "{left}");
    }

    #[test]
    fn targets_are_told_apart_by_what_makes_them_unique() {
        let stats = Stats::default();
        let objectives = Arc::new(Objectives::new(Vec::new()));
        for (target, address) in [("t", "a:1"), ("ta", ":1"), ("t", "a:2"), ("t2", "a:1")] {
            stats.add_probe(ProbeSeries::new(target, address, vec![], Arc::clone(&objectives)));
        }
        let labels = vec![("zone".to_owned(), "a".to_owned())];
        stats.add_probe(ProbeSeries::new("t", "a:1", labels, Arc::clone(&objectives)));
        for method in Method::ALL {
            stats.add_check(CheckSeries::new("t", "a:1", method, Arc::clone(&objectives)));
        }
        let mut ids: Vec<u64> = stats.watched().iter().map(Watched::id).collect();
        let again: Vec<u64> = stats.watched().iter().map(Watched::id).collect();
        assert_eq!(ids, again);
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), 8);
    }

    #[test]
    fn many_targets_share_the_budget() {
        assert_eq!(History::probes_max_of(1), 1_000);
        assert_eq!(History::probes_max_of(10_000), 82);
        assert_eq!(History::probes_max_of(usize::MAX), 1);
    }
}
