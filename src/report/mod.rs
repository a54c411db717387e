//! What a prober says on standard output: JSON lines for scripts (`json`), a table that redraws
//! itself or plain lines for people (`live`, `table`); and what `check`, `info` and `doctor` say.
//! Plain rows, samples and facts in, bytes out; where they come from is not known here.

use std::net::{IpAddr, SocketAddr};

pub mod check;
pub mod doctor;
pub mod info;
pub mod json;
pub mod live;
pub mod load;
pub mod plot;
pub mod table;
pub mod units;

/// Quantiles of a round-trip time, ns; `None` while nothing was received.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quantiles {
    /// The median.
    pub p50_ns: Option<u64>,
    /// 99 % are at most this.
    pub p99_ns: Option<u64>,
    /// 99.9 % are at most this.
    pub p999_ns: Option<u64>,
    /// The longest.
    pub max_ns: Option<u64>,
}

/// How often what happened since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Slots of the schedule that became a probe.
    pub sent: u64,
    /// Replies in time.
    pub received: u64,
    /// Probes that will never be received.
    pub timeouts: u64,
    /// Neither received nor given up yet.
    pub in_flight: u64,
    /// Slots that passed without a probe.
    pub skipped: u64,
    /// Probes sent late.
    pub late: u64,
}

impl Counts {
    /// The lost share of all finished probes; `None` before the first one finished.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "counts beyond 2^53 take a million years")]
    pub fn loss_percent(&self) -> Option<f64> {
        let finished = self.received.saturating_add(self.timeouts);
        (finished > 0).then(|| self.timeouts as f64 / finished as f64 * 100.0)
    }

    /// What the `late` column shows: sent late, or not sent because it was too late.
    #[must_use]
    pub const fn late_or_skipped(&self) -> u64 {
        self.late.saturating_add(self.skipped)
    }

    fn plus(self, other: Self) -> Self {
        Self {
            sent: self.sent.saturating_add(other.sent),
            received: self.received.saturating_add(other.received),
            timeouts: self.timeouts.saturating_add(other.timeouts),
            in_flight: self.in_flight.saturating_add(other.in_flight),
            skipped: self.skipped.saturating_add(other.skipped),
            late: self.late.saturating_add(other.late),
        }
    }
}

/// One target's line.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// The `target` label.
    pub target: String,
    /// The `address` label.
    pub address: String,
    /// The name of the newest time's clock; `None` before the first.
    pub clock: Option<&'static str>,
    /// Whether a connection stands, or the newest check was open.
    pub connected: bool,
    /// The newest round trip, ns.
    pub last_ns: Option<u64>,
    /// Of all round trips since the start.
    pub rtt: Quantiles,
    /// Loss over the sliding window, as the live view shows it; `None` while it is empty.
    pub window_loss_percent: Option<f64>,
    /// Since the start.
    pub counts: Counts,
}

/// What stands above the table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The backend in use: `uring` or `poll`.
    pub io: String,
    /// The clocks in use, e.g. `kernel`.
    pub clock: String,
    /// Where Prometheus finds the metrics, if anywhere.
    pub metrics_url: Option<String>,
}

/// An address without its port; with its zone, without which a link-local one means nothing.
#[must_use]
pub fn ip_text(to: SocketAddr) -> String {
    match (to.ip(), to) {
        (IpAddr::V6(ip), SocketAddr::V6(to)) if to.scope_id() != 0 => {
            format!("{ip}%{}", to.scope_id())
        }
        (ip, _) => ip.to_string(),
    }
}

/// The sum over all rows.
#[must_use]
pub fn total_counts(rows: &[Row]) -> Counts {
    rows.iter().fold(Counts::default(), |sum, row| sum.plus(row.counts))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_is_of_finished_probes() {
        let check = |received, timeouts, expected: Option<f64>| {
            let counts = Counts { received, timeouts, in_flight: 99, ..Counts::default() };
            assert_eq!(counts.loss_percent(), expected);
        };
        check(0, 0, None);
        check(4, 0, Some(0.0));
        check(0, 4, Some(100.0));
        check(3, 1, Some(25.0));
    }

    #[test]
    fn totals_add_every_count() {
        let counts =
            Counts { sent: 1, received: 2, timeouts: 3, in_flight: 4, skipped: 5, late: 6 };
        let row = Row { counts, ..Row::default() };
        let total = total_counts(&[row.clone(), row]);
        let twice =
            Counts { sent: 2, received: 4, timeouts: 6, in_flight: 8, skipped: 10, late: 12 };
        assert_eq!(total, twice);
        assert_eq!(total.late_or_skipped(), 22);
    }
}
