//! What measuring threads finished for a relay, on a thread of its own: checks of upstreams become
//! news for every balancer, and connections become lines of the log. Nothing that is slow here
//! holds up a byte: the queue is bounded, and what does not fit is counted.

use std::collections::HashMap;
use std::sync::mpsc::Receiver;
use std::time::Duration;

use crate::relay::{Health, UpstreamNews};
use crate::sample::{CheckSample, ConnectionSample, UpstreamId};
use crate::worker::{Change, Finished, Remote, TargetId};

/// Who has to know what.
#[derive(Debug, Default)]
pub(super) struct News {
    /// What each check is about.
    pub(super) checked: HashMap<TargetId, Checked>,
    /// The listeners by their numbers.
    pub(super) listeners: HashMap<TargetId, Names>,
    /// The threads that relay.
    pub(super) relaying: Vec<Remote>,
}

/// An upstream that is checked.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) health: Health,
    pub(super) upstreams: Vec<(TargetId, UpstreamId)>,
}

/// What the log calls a listener and its upstreams.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) listener: String,
    pub(super) upstreams: Vec<String>,
}

impl News {
    /// Until every measuring thread is gone.
    pub(super) fn take_all(&mut self, finished: &Receiver<(TargetId, Finished)>) {
        while let Ok((target, finished)) = finished.recv() {
            match finished {
                Finished::Check(check) => self.take_check(target, &check),
                Finished::Connection(connection) => self.log(target, &connection),
                Finished::Probe(_) => {}
            }
        }
    }

    fn take_check(&mut self, target: TargetId, check: &CheckSample) {
        let Some(checked) = self.checked.get_mut(&target) else { return };
        let was_up = checked.health.is_up();
        let Some(news) = checked.health.take(check) else { return };
        for &(relay, upstream) in &checked.upstreams {
            if was_up != checked.health.is_up()
                && let Some(names) = self.listeners.get(&relay)
            {
                names.log_health(upstream, &news, check);
            }
            for remote in &self.relaying {
                remote.change(Change::Upstream(relay, upstream, news.clone()));
            }
        }
    }

    fn log(&self, relay: TargetId, connection: &ConnectionSample) {
        let Some(names) = self.listeners.get(&relay) else { return };
        let listener = names.listener.as_str();
        let ConnectionSample { client, upstream, end, .. } = connection;
        let upstream = upstream.and_then(|upstream| names.upstream(upstream));
        let Some(end) = end else {
            return tracing::debug!(target: TARGET, listener, %client, "connection opened");
        };
        let (reason, duration) = (end.reason.name(), Duration::from_nanos(end.duration_ns));
        let connect = end.connect_ns.map(Duration::from_nanos);
        let first_byte = end.first_byte_ns.map(Duration::from_nanos);
        let (up, down) = (end.client_read_bytes, end.upstream_read_bytes);
        tracing::debug!(
            target: TARGET,
            listener,
            %client,
            upstream,
            reason,
            ?duration,
            ?connect,
            ?first_byte,
            client_bytes = up,
            upstream_bytes = down,
            "connection closed"
        );
    }
}

impl Names {
    fn upstream(&self, upstream: UpstreamId) -> Option<&str> {
        self.upstreams.get(upstream.index()).map(String::as_str)
    }

    fn log_health(&self, upstream: UpstreamId, news: &UpstreamNews, check: &CheckSample) {
        let (listener, upstream) = (self.listener.as_str(), self.upstream(upstream));
        let outcome = check.outcome.name();
        match news {
            UpstreamNews::Down => {
                tracing::warn!(target: TARGET, listener, upstream, outcome, "upstream is down");
            }
            _ => tracing::info!(target: TARGET, listener, upstream, outcome, "upstream is up"),
        }
    }
}

/// What subscribers filter connections by; the log's level is theirs, too: debug.
pub(super) const TARGET: &str = "rttscope::relay";
