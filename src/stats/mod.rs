//! The waist between one writer and many readers: each measuring thread records into its own
//! series without locks, and everything that shows something reads a [`Snapshot`] of all of them.
//! The control plane adds and removes series; the measuring threads never see that lock.

pub mod history;
pub mod slo;
pub mod watched;

mod check;
mod clients;
mod discovery;
mod echo;
mod on_demand;
mod load;
mod probe;
mod program;
mod published;
mod relay;
mod reload;
mod target;
mod tcp_info;
mod web;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use crate::histogram::{Boundaries, Histogram, HistogramSnapshot};
use crate::host::{Capability, EventLosses, ProcessUsage};

pub use self::check::{CheckSeries, CheckSnapshot};
pub use self::clients::{ClientHandle, ClientSnapshot, Clients, ClientsWriter};
pub use self::discovery::{DiscoverySeries, DiscoverySnapshot, ListSnapshot, SourceSnapshot};
pub use self::echo::{EchoSeries, EchoSnapshot};
pub use self::load::{LoadSeries, LoadSnapshot};
pub use self::on_demand::{OnDemandResult, OnDemandSeries};
pub use self::probe::{ProbeSeries, ProbeSnapshot};
pub use self::program::{BuildInfo, WorkerSeries, WorkerSnapshot};
pub use self::relay::{RelaySeries, RelaySnapshot, UpstreamSnapshot};
pub use self::reload::{ReloadSeries, ReloadSnapshot};
pub use self::target::TargetSeries;
pub use self::tcp_info::{TcpInfoSeries, TcpInfoSnapshot, TcpInfoWriter};
pub use self::web::{Refusal, WebSeries, WebSnapshot};

/// Every series there is, and what the control plane counts. One for each program.
#[derive(Debug, Default)]
pub struct Stats {
    registered: Mutex<Registered>,
    report_samples_dropped: AtomicU64,
    log_lines_dropped: AtomicU64,
    http_connections_refused: AtomicU64,
    scrapes: AtomicU64,
    heat_map_turns: AtomicU64,
}

/// Everything there is to show, at one moment. Plain data; what there is of each target, `P` for a
/// probed and `C` for a checked one, is the most of it by far, and a reader may want less.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot<P = ProbeSnapshot, C = CheckSnapshot> {
    /// What was built.
    pub build: BuildInfo,
    /// What works here and what does not.
    pub capabilities: Vec<Capability>,
    /// Events and connection attempts that eBPF programs could not tell of; `None` without any.
    pub event_losses: Option<(u64, u64)>,
    /// The process; empty unless the caller of [`Stats::snapshot`] fills it in.
    pub process: ProcessUsage,
    /// Samples that the JSON writer, or the log of relayed connections, was too slow for.
    pub report_samples_dropped: u64,
    /// Log lines that standard error was too slow for, or closed to.
    pub log_lines_dropped: u64,
    /// HTTP connections closed because there were too many.
    pub http_connections_refused: u64,
    /// The guarded HTTP server; `None` without a web configuration file.
    pub web: Option<WebSnapshot>,
    /// How reading the configuration file went; `None` without one.
    pub reload: Option<ReloadSnapshot>,
    /// How discovery goes; `None` without an agent.
    pub discovery: Option<DiscoverySnapshot>,
    /// What came of probes on demand, in the order of [`OnDemandResult::ALL`]; `None` without any.
    pub on_demand: Option<[u64; OnDemandResult::ALL.len()]>,
    /// Probed targets, in the order in which they were added.
    pub probes: Vec<P>,
    /// Targets of half-open checks, in the order in which they were added.
    pub checks: Vec<C>,
    /// Listeners of the responder; the series of all workers of a listener are one here.
    pub echoes: Vec<EchoSnapshot>,
    /// Listeners of the relay; the series of all workers of a listener are one here.
    pub relays: Vec<RelaySnapshot>,
    /// Measuring threads.
    pub workers: Vec<WorkerSnapshot>,
}

impl<P, C> Snapshot<P, C> {
    /// The same with something else of each target.
    pub fn map_targets<P2, C2>(
        self,
        probe: impl FnMut(P) -> P2,
        check: impl FnMut(C) -> C2,
    ) -> Snapshot<P2, C2> {
        Snapshot {
            build: self.build,
            capabilities: self.capabilities,
            event_losses: self.event_losses,
            process: self.process,
            report_samples_dropped: self.report_samples_dropped,
            log_lines_dropped: self.log_lines_dropped,
            http_connections_refused: self.http_connections_refused,
            web: self.web,
            reload: self.reload,
            discovery: self.discovery,
            on_demand: self.on_demand,
            probes: self.probes.into_iter().map(probe).collect(),
            checks: self.checks.into_iter().map(check).collect(),
            echoes: self.echoes,
            relays: self.relays,
            workers: self.workers,
        }
    }
}

impl Stats {
    /// Shows this target from now on.
    pub fn add_probe(&self, series: ProbeSeries) -> Arc<ProbeSeries> {
        let series = Arc::new(series);
        self.lock().probes.push(Arc::clone(&series));
        series
    }

    /// Shows this target of half-open checks from now on.
    pub fn add_check(&self, series: CheckSeries) -> Arc<CheckSeries> {
        let series = Arc::new(series);
        self.lock().checks.push(Arc::clone(&series));
        series
    }

    /// Shows this worker's responder from now on.
    pub fn add_echo(&self, series: EchoSeries) -> Arc<EchoSeries> {
        let series = Arc::new(series);
        self.lock().echoes.push(Arc::clone(&series));
        series
    }

    /// Shows this worker's responder no longer.
    pub fn remove_echo(&self, series: &Arc<EchoSeries>) {
        self.lock().echoes.retain(|kept| !Arc::ptr_eq(kept, series));
    }

    /// Shows this worker's relay from now on.
    pub fn add_relay(&self, series: RelaySeries) -> Arc<RelaySeries> {
        let series = Arc::new(series);
        self.lock().relays.push(Arc::clone(&series));
        series
    }

    /// Shows this worker's relay no longer.
    pub fn remove_relay(&self, series: &Arc<RelaySeries>) {
        self.lock().relays.retain(|kept| !Arc::ptr_eq(kept, series));
    }

    /// Whether there is a relay.
    #[must_use]
    pub fn has_relay(&self) -> bool {
        !self.lock().relays.is_empty()
    }

    /// The listeners of the relay now.
    #[must_use]
    pub fn relays(&self) -> Vec<RelaySnapshot> {
        let relays = self.lock().relays.clone();
        relay::listeners(&relays)
    }

    /// The clients of each listener of the relay that moved the most, most first.
    #[must_use]
    pub fn relay_clients(&self) -> Vec<(String, Vec<ClientSnapshot>)> {
        let relays = self.lock().relays.clone();
        clients::of_listeners(&relays)
    }

    /// Shows this measuring thread from now on.
    pub fn add_worker(&self, series: WorkerSeries) -> Arc<WorkerSeries> {
        let series = Arc::new(series);
        self.lock().workers.push(Arc::clone(&series));
        series
    }

    /// Shows this measuring thread no longer.
    pub fn remove_worker(&self, series: &Arc<WorkerSeries>) {
        self.lock().workers.retain(|kept| !Arc::ptr_eq(kept, series));
    }

    /// Replaces what is known about this machine.
    pub fn set_capabilities(&self, capabilities: Vec<Capability>) {
        self.lock().capabilities = capabilities;
    }

    /// Adds to what is known about this machine, or corrects it.
    pub fn add_capabilities(&self, capabilities: &[Capability]) {
        let known = &mut self.lock().capabilities;
        for new in capabilities {
            match known.iter_mut().find(|known| known.name == new.name) {
                Some(known) => known.clone_from(new),
                None => known.push(new.clone()),
            }
        }
    }

    /// Shows what these eBPF programs could not tell.
    pub fn add_event_losses(&self, losses: Arc<EventLosses>) {
        self.lock().event_losses.push(losses);
    }

    /// Counts samples that the JSON writer was too slow for.
    pub fn count_report_samples_dropped(&self, samples: u64) {
        self.report_samples_dropped.fetch_add(samples, Ordering::Relaxed);
    }

    /// How many of those there were.
    #[must_use]
    pub fn report_samples_dropped(&self) -> u64 {
        self.report_samples_dropped.load(Ordering::Relaxed)
    }

    /// Counts a log line that standard error was too slow for, or closed to.
    pub fn count_log_line_dropped(&self) {
        self.log_lines_dropped.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts an HTTP connection that was closed because there were too many.
    pub fn count_http_connection_refused(&self) {
        self.http_connections_refused.fetch_add(1, Ordering::Relaxed);
    }

    /// Adds the guarded HTTP server, of which there is one.
    pub fn add_web(&self) -> Arc<WebSeries> {
        Arc::clone(self.lock().web.get_or_insert_default())
    }

    /// Adds the reloads of the configuration file, of which there is one.
    pub fn add_reload(&self) -> Arc<ReloadSeries> {
        Arc::clone(self.lock().reload.get_or_insert_default())
    }

    /// Adds the agent's discovery, of which there is one.
    pub fn add_discovery(&self) -> Arc<DiscoverySeries> {
        Arc::clone(self.lock().discovery.get_or_insert_default())
    }

    /// How discovery goes; `None` without an agent.
    #[must_use]
    pub fn discovery(&self) -> Option<DiscoverySnapshot> {
        let series = self.lock().discovery.clone();
        series.map(|series| series.snapshot())
    }

    /// Adds the probes on demand, of which there is one series.
    pub fn add_on_demand(&self) -> Arc<OnDemandSeries> {
        Arc::clone(self.lock().on_demand.get_or_insert_default())
    }

    /// The same, if they are switched on.
    #[must_use]
    pub fn on_demand(&self) -> Option<Arc<OnDemandSeries>> {
        self.lock().on_demand.clone()
    }

    /// A line of every target, made of a glance at it: probed ones, then checked ones. Costs the
    /// memory of one glance, where [`Self::snapshot`] of many targets holds megabytes.
    pub fn lines<L>(
        &self,
        probe: impl Fn(&ProbeSnapshot) -> L,
        check: impl Fn(&CheckSnapshot) -> L,
    ) -> Vec<L> {
        let Registered { probes, checks, .. } = self.lock().clone();
        let probes = probes.iter().map(|series| probe(&series.glance()));
        probes.chain(checks.iter().map(|series| check(&series.glance()))).collect()
    }

    /// What works here and what does not.
    #[must_use]
    pub fn capabilities(&self) -> Vec<Capability> {
        self.lock().capabilities.clone()
    }

    /// Counts a scrape: workers keep what costs system calls fresh only while somebody reads it.
    pub fn count_scrape(&self) {
        self.scrapes.fetch_add(1, Ordering::Relaxed);
    }

    /// How often somebody has scraped.
    #[must_use]
    pub fn scrapes(&self) -> u64 {
        self.scrapes.load(Ordering::Relaxed)
    }

    /// Everything now.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.with_series().map_targets(|probe| probe.snapshot(), |check| check.snapshot())
    }

    /// Everything now but the targets: of these their series, for a reader that takes one after the
    /// other. The lock is held only while the list of series is copied.
    #[must_use]
    pub fn with_series(&self) -> Snapshot<Arc<ProbeSeries>, Arc<CheckSeries>> {
        let registered = self.lock().clone();
        let Registered { probes, checks, echoes, relays, workers, .. } = registered;
        let Registered { capabilities, event_losses, web, reload, .. } = registered;
        let Registered { discovery, on_demand, .. } = registered;
        Snapshot {
            build: BuildInfo::current(),
            capabilities,
            event_losses: event_losses
                .iter()
                .map(|losses| losses.read())
                .reduce(|sum, losses| (sum.0 + losses.0, sum.1 + losses.1)),
            process: ProcessUsage::default(),
            report_samples_dropped: self.report_samples_dropped.load(Ordering::Relaxed),
            log_lines_dropped: self.log_lines_dropped.load(Ordering::Relaxed),
            http_connections_refused: self.http_connections_refused.load(Ordering::Relaxed),
            web: web.map(|series| series.snapshot()),
            reload: reload.map(|series| series.snapshot()),
            discovery: discovery.map(|series| series.snapshot()),
            on_demand: on_demand.map(|series| series.snapshot()),
            probes,
            checks,
            echoes: echo::listeners(&echoes),
            relays: relay::listeners(&relays),
            workers: workers.iter().map(|series| series.snapshot()).collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Registered> {
        // Every change under the lock is one call on a `Vec`, so a panic leaves nothing half done.
        self.registered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Clone, Debug, Default)]
struct Registered {
    probes: Vec<Arc<ProbeSeries>>,
    checks: Vec<Arc<CheckSeries>>,
    echoes: Vec<Arc<EchoSeries>>,
    relays: Vec<Arc<RelaySeries>>,
    workers: Vec<Arc<WorkerSeries>>,
    capabilities: Vec<Capability>,
    event_losses: Vec<Arc<EventLosses>>,
    web: Option<Arc<WebSeries>>,
    reload: Option<Arc<ReloadSeries>>,
    discovery: Option<Arc<DiscoverySeries>>,
    on_demand: Option<Arc<OnDemandSeries>>,
}

/// A histogram that costs nothing before its first duration: most targets lack a clock or a stage.
#[derive(Debug, Default)]
struct LazyHistogram(OnceLock<Box<Histogram>>);

impl LazyHistogram {
    fn record(&self, boundaries: &Arc<Boundaries>, ns: u64) {
        self.0.get_or_init(|| Box::new(Histogram::new(Arc::clone(boundaries)))).record(ns);
    }

    /// `None` as long as nothing was recorded.
    fn snapshot(&self) -> Option<HistogramSnapshot> {
        self.0.get().map(|histogram| histogram.snapshot()).filter(|snapshot| snapshot.count > 0)
    }
}

/// Those that hold something, with their names.
fn snapshots<T: Copy, const N: usize>(
    names: [T; N],
    histograms: &[LazyHistogram; N],
) -> Vec<(T, HistogramSnapshot)> {
    let named = names.into_iter().zip(histograms);
    named.filter_map(|(name, histogram)| Some((name, histogram.snapshot()?))).collect()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::time::Duration;

    use crate::event::{Failure, RxStamps};
    use crate::sample::{EchoCounters, Stamps};
    use crate::time::{Mono, Now, Wall};

    use super::slo::Objectives;
    use super::slo::{Objective, ObjectiveClock};
    use super::watched::Watched;
    use super::*;
    use crate::sample::{Clock, Outcome, ProbeCounters, Sample, Stage};

    fn series(objectives: Vec<Objective>) -> ProbeSeries {
        ProbeSeries::new("t", "a:1", Vec::new(), Arc::new(Objectives::new(objectives)))
    }

    fn objective(threshold_ns: u64) -> Objective {
        let name = format!("{threshold_ns}ns");
        Objective { name, threshold_ns, objective_ratio: 0.999, clock: ObjectiveClock::Best }
    }

    /// A reply 100 µs after sending by our clock, 80 µs by the kernel's (if it gave stamps), 30 µs
    /// of which the peer took.
    fn received(kernel: bool) -> Sample {
        let tx_app = Now { mono: Mono::from_ns(5_000), wall: Wall::from_ns(1_000_000) };
        let us = |us| kernel.then(|| tx_app.wall.after(Duration::from_micros(us)));
        let stamps = Stamps {
            due: Mono::from_ns(3_000),
            tx_app,
            tx_sw: us(10),
            rx: RxStamps { sw: us(90), hw: None },
            ..Stamps::default()
        };
        Sample::received(1, stamps, tx_app.after(Duration::from_micros(100)), Some(30_000))
    }

    fn lost() -> Sample {
        Sample::lost(2, Outcome::Lost(Failure::Reset), Stamps::default(), true)
    }

    #[test]
    fn an_unused_series_shows_no_measurement() {
        let snapshot = series(vec![objective(1_000)]).snapshot();
        assert_eq!((snapshot.up, snapshot.newest_clock), (false, None));
        assert_eq!((snapshot.rtt.len(), snapshot.stages.len()), (0, 0));
        assert_eq!(snapshot.app_rtt, None);
        assert_eq!((snapshot.last_rtt_ns(), snapshot.loss_percent()), (None, None));
        assert_eq!(snapshot.rtt_merged(), None);
        assert_eq!((snapshot.slos[0].total, snapshot.slos[0].good), (0, 0));
    }

    #[test]
    fn samples_go_where_their_clock_and_stages_say() {
        let series = series(Vec::new());
        series.record(&received(true));
        assert_eq!(series.snapshot().newest_clock, Some(Clock::Kernel));
        series.record(&received(false));
        let snapshot = series.snapshot();
        let clocks: Vec<_> = snapshot.rtt.iter().map(|(clock, h)| (*clock, h.sum_ns)).collect();
        assert_eq!(clocks, [(Clock::Kernel, 80_000), (Clock::Application, 100_000)]);
        assert_eq!(snapshot.newest_clock, Some(Clock::Application));
        assert_eq!(snapshot.rtt_merged().unwrap().count, 2);
        assert_eq!(snapshot.app_rtt.as_ref().unwrap().sum_ns, 2 * 102_000);
        let sums = Stage::ALL.map(|stage| snapshot.stage(stage).map(|h| (h.count, h.sum_ns)));
        let one = |ns| Some((1, ns));
        assert_eq!(sums, [Some((2, 4_000)), one(10_000), one(50_000), one(30_000), one(10_000)]);
    }

    #[test]
    fn a_lost_probe_is_down_and_not_good_whatever_it_took() {
        let series = series(vec![objective(79_999), objective(80_000)]);
        series.record(&received(true));
        assert!(series.snapshot().up);
        series.record(&lost());
        let snapshot = series.snapshot();
        assert!(!snapshot.up);
        let counts: Vec<_> = snapshot.slos.iter().map(|slo| (slo.total, slo.good)).collect();
        assert_eq!(counts, [(2, 0), (2, 1)]);
        assert_eq!(snapshot.rtt_merged().unwrap().count, 1);
        assert_eq!(snapshot.stage(Stage::Lag).unwrap().count, 2, "it was sent");
    }

    #[test]
    fn thresholds_are_classic_boundaries() {
        let series = series(vec![objective(123_456)]);
        series.record(&received(false));
        let rtt = series.snapshot().rtt_merged().unwrap();
        assert!(rtt.classic.contains(&(123_456, 1)), "{:?}", rtt.classic);
    }

    #[test]
    fn counters_reconcile_in_every_snapshot() {
        let series = series(Vec::new());
        let snapshots_taken = AtomicU64::new(0);
        std::thread::scope(|scope| {
            let reader = scope.spawn(|| {
                let mut sent = 0;
                while snapshots_taken.load(Ordering::Relaxed) < 100 {
                    let ProbeCounters { sent: now, received, timeouts, in_flight, .. } =
                        series.snapshot().counters;
                    assert_eq!(now, received + timeouts + in_flight);
                    snapshots_taken.fetch_add(u64::from(now > sent), Ordering::Relaxed);
                    sent = now;
                }
            });
            let mut counters = ProbeCounters::default();
            while !reader.is_finished() {
                counters.sent += 3;
                counters.in_flight = 1 + counters.sent % 2;
                counters.timeouts = counters.sent / 3;
                counters.received = counters.sent - counters.timeouts - counters.in_flight;
                series.publish(&counters);
                // As in a worker, there is time between two publications.
                (0..100).for_each(|_| std::hint::spin_loop());
            }
        });
    }

    #[test]
    fn workers_of_one_listener_are_one_listener() {
        let stats = Stats::default();
        let workers = [":4000", ":5000", ":4000"].map(|name| stats.add_echo(EchoSeries::new(name)));
        for (worker, connections) in workers.iter().zip([1, 10, 100]) {
            worker.publish(&EchoCounters { connections, ..EchoCounters::default() });
            worker.record_residence(connections);
        }
        let echoes = stats.snapshot().echoes;
        let of = |echo: &EchoSnapshot| (echo.counters.connections, echo.residence.clone().unwrap());
        assert_eq!((echoes.len(), of(&echoes[0]).0, of(&echoes[1]).0), (2, 101, 10));
        assert_eq!((of(&echoes[0]).1.sum_ns, of(&echoes[0]).1.count), (101, 2));
        stats.remove_echo(&workers[2]);
        assert_eq!(stats.snapshot().echoes[0].counters.connections, 1);
    }

    #[test]
    fn what_is_removed_is_shown_no_longer() {
        let stats = Stats::default();
        let first = stats.add_probe(series(Vec::new()));
        let second = stats.add_probe(series(Vec::new()));
        first.target().count_resolve_failure();
        second.target().count_resolve_failure();
        second.target().count_resolve_failure();
        let worker = stats.add_worker(WorkerSeries::new("probe-0"));
        worker.record_lateness(1_234);
        stats.count_report_samples_dropped(7);
        stats.count_http_connection_refused();
        stats.remove(&[Watched::Probe(first)]);
        let snapshot = stats.snapshot();
        assert_eq!(snapshot.probes.len(), 1);
        assert_eq!(snapshot.probes[0].resolve_failures, 2);
        assert_eq!(snapshot.workers[0].lateness.max_ns, 1_234);
        assert_eq!((snapshot.report_samples_dropped, snapshot.http_connections_refused), (7, 1));
        stats.remove_worker(&worker);
        assert_eq!(stats.snapshot().workers.len(), 0);
    }
}
