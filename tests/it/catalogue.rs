//! The names of the metrics that tests read, in one place, and the promise that binds the
//! prober's counters at every scrape.

use crate::exposition::Exposition;

pub(crate) const SENT: &str = "tcp_echo_sent_total";
pub(crate) const RECEIVED: &str = "tcp_echo_received_total";
pub(crate) const TIMEOUTS: &str = "tcp_echo_timeouts_total";
pub(crate) const IN_FLIGHT: &str = "tcp_echo_in_flight";
pub(crate) const SKIPPED: &str = "tcp_echo_skipped_total";
pub(crate) const CONNECTS: &str = "tcp_echo_connects_total";
pub(crate) const DROPPED: &str = "tcp_echo_dropped_total";
pub(crate) const CONNECTED: &str = "tcp_echo_connected";
pub(crate) const UP: &str = "tcp_echo_up";
pub(crate) const LOSS_PERCENT: &str = "tcp_echo_loss_percent";
pub(crate) const LAST_RTT: &str = "tcp_echo_last_rtt_seconds";
pub(crate) const RTT: &str = "tcp_echo_rtt_seconds";
pub(crate) const APP_RTT: &str = "tcp_echo_app_rtt_seconds";
pub(crate) const STAGE: &str = "tcp_echo_stage_seconds";
pub(crate) const WIRE_VERSION: &str = "tcp_echo_wire_version";

pub(crate) const CONNECTIONS: &str = "tcp_responder_connections_total";
pub(crate) const CONNECTIONS_ACTIVE: &str = "tcp_responder_connections_active";
pub(crate) const REFUSED: &str = "tcp_responder_refused_total";
pub(crate) const ACCEPT_ERRORS: &str = "tcp_responder_accept_errors_total";
pub(crate) const CLOSED: &str = "tcp_responder_closed_total";
pub(crate) const RECEIVED_BYTES: &str = "tcp_responder_received_bytes_total";
pub(crate) const SENT_BYTES: &str = "tcp_responder_sent_bytes_total";

/// The prober's counters of one target, or summed over all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ProbeCounts {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) timeouts: u64,
    pub(crate) in_flight: u64,
}

impl ProbeCounts {
    /// Reads the counters with these labels and checks that each target's reconcile.
    pub(crate) fn reconciled(exposition: &Exposition, labels: &[(&str, &str)]) -> Self {
        for sample in exposition.select(SENT, labels) {
            let own: Vec<(&str, &str)> =
                sample.labels.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
            let counts = Self::read(exposition, &own);
            let explained = counts.received + counts.timeouts + counts.in_flight;
            assert_eq!(counts.sent, explained, "{counts:?} {own:?}");
        }
        Self::read(exposition, labels)
    }

    fn read(exposition: &Exposition, labels: &[(&str, &str)]) -> Self {
        Self {
            sent: exposition.count(SENT, labels),
            received: exposition.count(RECEIVED, labels),
            timeouts: exposition.count(TIMEOUTS, labels),
            in_flight: exposition.count(IN_FLIGHT, labels),
        }
    }
}
