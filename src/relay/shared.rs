//! What the connections of one listener share on one worker: settings, the balancer, and the
//! counters of the listener and of each upstream. Connections count here; a worker takes what
//! changed, and shows it.

use super::balance::Balancer;
use super::settings::{RelaySettings, UpstreamNews};
use crate::sample::{RelayCounters, Side, UpstreamCounters, UpstreamId};
use crate::time::Mono;

/// What the connections of one listener share on one worker.
#[derive(Debug)]
pub struct Relay {
    pub(super) settings: RelaySettings,
    pub(super) balancer: Balancer,
    pub(super) counters: RelayCounters,
    upstreams: Vec<UpstreamCounters>,
    /// Upstreams whose counters changed since they were last taken.
    changed: Vec<UpstreamId>,
    is_changed: Vec<bool>,
}

impl Relay {
    /// A relay without connections.
    #[must_use]
    pub fn new(settings: RelaySettings) -> Self {
        let count = settings.upstreams.len();
        Self {
            balancer: Balancer::new(&settings),
            counters: RelayCounters::default(),
            upstreams: vec![UpstreamCounters::default(); count],
            changed: (0..count).map(UpstreamId::at).collect(),
            is_changed: vec![true; count],
            settings,
        }
    }

    /// Whether a new client may stay; it is counted either way.
    pub fn admit(&mut self) -> bool {
        let connections_max = u64::try_from(self.settings.connections_max).unwrap_or(u64::MAX);
        if self.counters.connections_active >= connections_max {
            self.counters.refused_limit += 1;
            return false;
        }
        self.counters.connections += 1;
        self.counters.connections_active += 1;
        true
    }

    /// An accept failed.
    pub const fn accept_failed(&mut self) {
        self.counters.accept_errors += 1;
    }

    /// The control plane learnt something of an upstream.
    pub fn news(&mut self, upstream: UpstreamId, news: &UpstreamNews) {
        self.balancer.news(upstream, news);
        self.change(upstream);
    }

    /// Whether upstreams are told who the client connected to.
    #[must_use]
    pub const fn tells_destination(&self) -> bool {
        self.settings.proxy_out.is_some()
    }

    /// Whether clients begin with a PROXY header.
    #[must_use]
    pub const fn expects_header(&self) -> bool {
        self.settings.proxy_in
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> &RelayCounters {
        &self.counters
    }

    /// An upstream whose counters changed since they were last taken.
    pub fn take_changed(&mut self, at: Mono) -> Option<(UpstreamId, UpstreamCounters)> {
        let upstream = self.changed.pop()?;
        self.is_changed[upstream.index()] = false;
        let counters = self.upstreams.get_mut(upstream.index())?;
        counters.up = u64::from(self.balancer.is_up(upstream, at));
        counters.draining = u64::from(self.balancer.is_draining(upstream));
        Some((upstream, *counters))
    }

    /// Counts segments that our kernel sent again on one side of a connection.
    pub fn retransmitted(&mut self, upstream: UpstreamId, side: Side, segments: u64) {
        if segments > 0 {
            let counters = self.change(upstream);
            match side {
                Side::Client => counters.client_retransmits += segments,
                Side::Upstream => counters.upstream_retransmits += segments,
            }
        }
    }

    /// The counters of an upstream, which are about to change.
    pub(super) fn change(&mut self, upstream: UpstreamId) -> &mut UpstreamCounters {
        if !std::mem::replace(&mut self.is_changed[upstream.index()], true) {
            self.changed.push(upstream);
        }
        &mut self.upstreams[upstream.index()]
    }
}
