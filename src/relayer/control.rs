//! The thread that keeps a relay running: wishes, reports, names and the time in; changes for the
//! measuring threads, lines of the log and snapshots out. At the end it lets connections finish
//! for the grace period, and counts those that did not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval};

use super::crew::Crew;
use super::{Ended, Order, Snapshots, Wish};
use crate::config::limits;
use crate::relay::UpstreamNews;
use crate::sample::CloseReason;
use crate::stats::{RelaySnapshot, Stats};
use crate::sys::clock;
use crate::time::Mono;
use crate::worker::{Change, Report};

/// A running relay.
pub(super) struct Control {
    pub(super) crew: Crew,
    pub(super) stats: Arc<Stats>,
    pub(super) wishes: watch::Receiver<Wish>,
    pub(super) orders: mpsc::UnboundedReceiver<Order>,
    pub(super) snapshots: watch::Sender<Snapshots>,
    pub(super) summary_interval: Option<Duration>,
}

/// What the last summary said of each listener.
type Told = Vec<RelaySnapshot>;

impl Control {
    /// Runs until the end, then stops every thread.
    pub(super) async fn run(mut self) -> Ended {
        let (found_to, mut found) = mpsc::channel::<(usize, Vec<SocketAddr>)>(limits::LOOKUPS_MAX);
        let mut looks = every(LOOK_INTERVAL);
        let mut summaries = every(self.summary_interval.unwrap_or(FOR_EVER));
        let mut told = Told::new();
        // Each thread tells of each listener.
        let mut unfinished = self.crew.series.len();
        let mut end_at = None::<Mono>;
        let (mut died, mut reason) = (false, CloseReason::GraceOver);
        loop {
            tokio::select! {
                biased;
                changed = self.wishes.changed() => {
                    let wish = self.wishes.borrow_and_update().clone();
                    match wish {
                        Wish::Run if changed.is_ok() => {}
                        Wish::Finish(grace) if changed.is_ok() && end_at.is_none() => {
                            self.finish();
                            end_at = Some(clock::mono().after(grace));
                        }
                        Wish::Finish(grace) if changed.is_ok() => {
                            let sooner = clock::mono().after(grace);
                            end_at = end_at.map(|end_at| end_at.min(sooner));
                        }
                        // Nobody can wish for anything any more, or wants it at once.
                        _ => {
                            reason = CloseReason::Stopped;
                            break;
                        }
                    }
                }
                report = self.crew.reports.recv() => match report {
                    Some(Report::Finished(_)) => {
                        unfinished = unfinished.saturating_sub(1);
                        if end_at.is_some() && unfinished == 0 {
                            break;
                        }
                    }
                    Some(Report::Resolve(check)) => {
                        self.crew.names.hurry(check, clock::mono());
                    }
                    Some(Report::Died) | None => {
                        (died, reason) = (true, CloseReason::Stopped);
                        break;
                    }
                },
                Some(order) = self.orders.recv() => self.drain(order),
                Some((place, addresses)) = found.recv() => self.found(place, addresses),
                _ = looks.tick() => {
                    self.look_up(&found_to);
                    self.show();
                }
                _ = summaries.tick(), if self.summary_interval.is_some() => {
                    self.summarise(&mut told);
                }
                () = until(end_at) => break,
            }
        }
        self.end(died, reason)
    }

    /// Accepts no more, and lets those that are connected finish.
    fn finish(&self) {
        let active = self.active();
        tracing::info!(target: TARGET, active, "accepting no more; connections may finish");
        for worker in &self.crew.relaying {
            worker.change(Change::Finish);
        }
    }

    fn drain(&self, Order { relay, upstream, draining }: Order) {
        for worker in &self.crew.relaying {
            let news = UpstreamNews::Draining(draining);
            worker.change(Change::Upstream(relay, upstream, news));
        }
    }

    fn end(&mut self, died: bool, reason: CloseReason) -> Ended {
        let cut = self.active();
        for worker in &self.crew.relaying {
            for &relay in &self.crew.relays {
                worker.change(Change::EndRelay(relay, reason));
            }
        }
        self.crew.stop();
        self.show();
        let relays = self.stats.relays();
        let sum = |of: fn(&RelaySnapshot) -> u64| relays.iter().map(of).sum::<u64>();
        let ended = Ended {
            connections: sum(|relay| relay.counters.connections),
            upstream_bytes: sum(upstream_bytes),
            downstream_bytes: sum(downstream_bytes),
            cut,
            died,
        };
        let Ended { connections, upstream_bytes, downstream_bytes, .. } = ended;
        if cut > 0 {
            tracing::warn!(target: TARGET, cut, "connections that had not finished were closed");
        }
        tracing::info!(
            target: TARGET,
            connections,
            upstream_bytes,
            downstream_bytes,
            cut,
            "relay stopped"
        );
        ended
    }

    /// Looks up what is due.
    fn look_up(&mut self, found: &mpsc::Sender<(usize, Vec<SocketAddr>)>) {
        for (place, address) in self.crew.names.due(clock::mono()) {
            let found = found.clone();
            tokio::spawn(async move {
                let looked_up =
                    tokio::net::lookup_host((address.host.as_str(), address.port)).await;
                let addresses = looked_up.map(Iterator::collect).unwrap_or_default();
                // A relay that has ended does not listen.
                let _ = found.send((place, addresses)).await;
            });
        }
    }

    fn found(&mut self, place: usize, addresses: Vec<SocketAddr>) {
        let Some(name) = self.crew.names.found(place, addresses) else { return };
        for &(relay, upstream) in &name.upstreams {
            for worker in &self.crew.relaying {
                let news = UpstreamNews::Resolved(name.known.clone());
                worker.change(Change::Upstream(relay, upstream, news));
            }
        }
        for &check in &name.checks {
            for worker in &self.crew.checking {
                worker.change(Change::Resolved(check, Some(name.known.clone())));
            }
        }
    }

    /// Shows the state to whoever watches.
    fn show(&self) {
        // The relay itself keeps one, to give others.
        if self.snapshots.receiver_count() > 1 {
            let now: Snapshots = self.stats.relays().into();
            self.snapshots.send_if_modified(|shown| {
                let others = *shown != now;
                *shown = now;
                others
            });
        }
    }

    /// Says what there is, if something happened.
    fn summarise(&self, told: &mut Told) {
        let now = self.stats.relays();
        for relay in &now {
            if told.iter().any(|before| before.counters == relay.counters && same(before, relay)) {
                continue;
            }
            let counters = &relay.counters;
            let failures: u64 = relay.upstreams.iter().map(|it| it.counters.connect_failures).sum();
            tracing::info!(
                target: SUMMARY,
                listener = relay.listener,
                active = counters.connections_active,
                total = counters.connections,
                refused = counters.refused_limit,
                connect_failures = failures,
                upstream_bytes = upstream_bytes(relay),
                downstream_bytes = downstream_bytes(relay),
                "relayed"
            );
        }
        *told = now;
    }

    fn active(&self) -> u64 {
        let series = self.crew.series.iter();
        series.map(|series| series.snapshot().counters.connections_active).sum()
    }
}

/// Payload bytes that upstreams were sent.
fn upstream_bytes(relay: &RelaySnapshot) -> u64 {
    relay.upstreams.iter().map(|upstream| upstream.counters.upstream_written_bytes).sum()
}

/// Payload bytes that clients were sent.
fn downstream_bytes(relay: &RelaySnapshot) -> u64 {
    relay.upstreams.iter().map(|upstream| upstream.counters.client_written_bytes).sum()
}

/// Whether no byte moved between the two.
fn same(before: &RelaySnapshot, now: &RelaySnapshot) -> bool {
    before.listener == now.listener
        && upstream_bytes(before) == upstream_bytes(now)
        && downstream_bytes(before) == downstream_bytes(now)
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    ticks
}

async fn until(at: Option<Mono>) {
    match at {
        Some(at) => tokio::time::sleep(at.duration_since(clock::mono())).await,
        None => std::future::pending().await,
    }
}

const TARGET: &str = super::news::TARGET;
/// What subscribers filter summaries by.
const SUMMARY: &str = "rttscope::relay::summary";
/// How often names that are due are looked up, and snapshots are shown.
const LOOK_INTERVAL: Duration = Duration::from_millis(200);
/// Longer than any program runs.
const FOR_EVER: Duration = Duration::from_secs(365 * 86_400);
