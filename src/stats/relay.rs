//! What one worker's relay is measured into for one listener, and how that looks at one moment.

use std::sync::Arc;

use super::LazyHistogram;
use super::clients::Clients;
use super::published::Published;
use crate::histogram::{Boundaries, HistogramSnapshot};
use crate::sample::{RelayCounters, Side, UpstreamCounters, UpstreamId};

/// What one worker measures into for one listener. That worker is the only one to call anything
/// but [`Self::snapshot`].
#[derive(Debug)]
pub struct RelaySeries {
    listener: String,
    boundaries: Arc<Boundaries>,
    counters: Published<{ RelayCounters::WORDS }>,
    upstreams: Box<[UpstreamSeries]>,
    clients: Clients,
}

/// One upstream of a [`RelaySeries`].
#[derive(Debug)]
struct UpstreamSeries {
    name: String,
    counters: Published<{ UpstreamCounters::WORDS }>,
    connect: LazyHistogram,
    first_byte: LazyHistogram,
    /// By the index in [`Side::ALL`].
    rtt: [LazyHistogram; Side::ALL.len()],
}

/// One listener at one moment, summed over its workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySnapshot {
    /// The `listener` label.
    pub listener: String,
    /// One consistent set of each worker: `connections` is the sum of those that are active and
    /// of those that were closed.
    pub counters: RelayCounters,
    /// The upstreams, in the order of the configuration.
    pub upstreams: Vec<UpstreamSnapshot>,
}

/// One upstream of a listener at one moment, summed over its workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamSnapshot {
    /// The `upstream` label.
    pub upstream: String,
    /// What was counted; it is `up` if all workers say so, and draining if one does.
    pub counters: UpstreamCounters,
    /// From the attempt that succeeded until it did.
    pub connect: Option<HistogramSnapshot>,
    /// From the connection until the first byte of the upstream.
    pub first_byte: Option<HistogramSnapshot>,
    /// The kernel's smoothed round trips, sampled while connections live; sides that have some.
    pub rtt: Vec<(Side, HistogramSnapshot)>,
}

impl RelaySeries {
    /// An empty series of this listener and these upstreams, in the order of their numbers.
    #[must_use]
    pub fn new(listener: impl Into<String>, upstreams: impl IntoIterator<Item = String>) -> Self {
        Self {
            listener: listener.into(),
            boundaries: Arc::new(Boundaries::new(&[])),
            counters: Published::default(),
            upstreams: upstreams.into_iter().map(UpstreamSeries::new).collect(),
            clients: Clients::default(),
        }
    }

    /// The `listener` label.
    #[must_use]
    pub fn listener(&self) -> &str {
        &self.listener
    }

    /// Shows these counters to readers from now on.
    pub fn publish(&self, counters: &RelayCounters) {
        self.counters.publish(counters.to_words());
    }

    /// Shows these counters of an upstream to readers from now on.
    pub fn publish_upstream(&self, upstream: UpstreamId, counters: &UpstreamCounters) {
        if let Some(series) = self.upstreams.get(upstream.index()) {
            series.counters.publish(counters.to_words());
        }
    }

    /// Records how long an attempt that succeeded took.
    pub fn record_connect(&self, upstream: UpstreamId, ns: u64) {
        if let Some(series) = self.upstreams.get(upstream.index()) {
            series.connect.record(&self.boundaries, ns);
        }
    }

    /// Records how long after its connection was made an upstream sent its first byte.
    pub fn record_first_byte(&self, upstream: UpstreamId, ns: u64) {
        if let Some(series) = self.upstreams.get(upstream.index()) {
            series.first_byte.record(&self.boundaries, ns);
        }
    }

    /// Records the kernel's smoothed round trip of one side of a connection.
    pub fn record_rtt(&self, upstream: UpstreamId, side: Side, ns: u64) {
        if let Some(series) = self.upstreams.get(upstream.index()) {
            series.rtt[side as usize].record(&self.boundaries, ns);
        }
    }

    /// Where the clients of this listener are shown.
    #[must_use]
    pub const fn clients(&self) -> &Clients {
        &self.clients
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> RelaySnapshot {
        RelaySnapshot {
            listener: self.listener.clone(),
            counters: RelayCounters::from_words(self.counters.read()),
            upstreams: self.upstreams.iter().map(UpstreamSeries::snapshot).collect(),
        }
    }
}

impl UpstreamSeries {
    fn new(name: String) -> Self {
        Self {
            name,
            counters: Published::default(),
            connect: LazyHistogram::default(),
            first_byte: LazyHistogram::default(),
            rtt: Default::default(),
        }
    }

    fn snapshot(&self) -> UpstreamSnapshot {
        UpstreamSnapshot {
            upstream: self.name.clone(),
            counters: UpstreamCounters::from_words(self.counters.read()),
            connect: self.connect.snapshot(),
            first_byte: self.first_byte.snapshot(),
            rtt: super::snapshots(Side::ALL, &self.rtt),
        }
    }
}

impl RelaySnapshot {
    /// Adds what another worker of the same listener counted.
    fn add(&mut self, other: &Self) {
        let (mine, theirs) = (self.counters.to_words(), other.counters.to_words());
        let sum = std::array::from_fn(|word| mine[word] + theirs[word]);
        self.counters = RelayCounters::from_words(sum);
        for upstream in &other.upstreams {
            match self.upstreams.iter_mut().find(|known| known.upstream == upstream.upstream) {
                Some(known) => known.add(upstream),
                None => self.upstreams.push(upstream.clone()),
            }
        }
    }
}

impl UpstreamSnapshot {
    fn add(&mut self, other: &Self) {
        let (mine, theirs) = (self.counters.to_words(), other.counters.to_words());
        let sum = std::array::from_fn(|word| mine[word] + theirs[word]);
        self.counters = UpstreamCounters {
            up: self.counters.up.min(other.counters.up),
            draining: self.counters.draining.max(other.counters.draining),
            ..UpstreamCounters::from_words(sum)
        };
        let both = |mine: &Option<_>, theirs: &Option<_>| {
            HistogramSnapshot::merged(mine.iter().chain(theirs))
        };
        self.connect = both(&self.connect, &other.connect);
        self.first_byte = both(&self.first_byte, &other.first_byte);
        for (side, theirs) in &other.rtt {
            match self.rtt.iter_mut().find(|(mine, _)| mine == side) {
                Some((_, mine)) => mine.merge(theirs),
                None => self.rtt.push((*side, theirs.clone())),
            }
        }
    }
}

/// The listeners of these series; those of all workers of a listener are one.
pub(super) fn listeners(relays: &[Arc<RelaySeries>]) -> Vec<RelaySnapshot> {
    let mut listeners: Vec<RelaySnapshot> = Vec::new();
    for relay in relays {
        let worker = relay.snapshot();
        match listeners.iter_mut().find(|known| known.listener == worker.listener) {
            Some(known) => known.add(&worker),
            None => listeners.push(worker),
        }
    }
    listeners
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;
    use crate::stats::Stats;

    fn series(listener: &str) -> RelaySeries {
        RelaySeries::new(listener, ["a:1".to_owned(), "b:1".to_owned()])
    }

    #[test]
    fn workers_of_one_listener_are_one_listener() {
        let stats = Stats::default();
        let workers = [":1", ":2", ":1"].map(|name| stats.add_relay(series(name)));
        let second = UpstreamId(1);
        for (worker, connections) in workers.iter().zip([1, 10, 100]) {
            worker.publish(&RelayCounters { connections, ..RelayCounters::default() });
            let counters = UpstreamCounters { connections, up: 1, ..UpstreamCounters::default() };
            worker.publish_upstream(second, &counters);
            worker.record_connect(second, connections);
            worker.record_first_byte(second, connections);
            worker.record_rtt(second, Side::Upstream, connections);
        }
        workers[2].record_rtt(second, Side::Client, 5);
        let relays = stats.snapshot().relays;
        let connections: Vec<_> = relays.iter().map(|relay| relay.counters.connections).collect();
        assert_eq!(connections, [101, 10]);
        let [first, second] = &relays[0].upstreams[..] else { panic!("{relays:?}") };
        assert_eq!((first.counters, &first.connect), (UpstreamCounters::default(), &None));
        assert_eq!((second.counters.connections, second.counters.up), (101, 1));
        assert_eq!(second.connect.as_ref().unwrap().sum_ns, 101);
        assert_eq!(second.first_byte.as_ref().unwrap().count, 2);
        let rtt: Vec<_> = second.rtt.iter().map(|(side, rtt)| (*side, rtt.sum_ns)).collect();
        assert_eq!(rtt, [(Side::Upstream, 101), (Side::Client, 5)]);
        stats.remove_relay(&workers[2]);
        assert_eq!(stats.snapshot().relays[0].counters.connections, 1);
    }

    #[test]
    fn an_upstream_that_there_is_not_is_no_reason_to_fall_over() {
        let series = series(":1");
        series.record_connect(UpstreamId(9), 1);
        series.publish_upstream(UpstreamId(9), &UpstreamCounters::default());
        assert_eq!(series.snapshot().upstreams.len(), 2);
    }
}
