//! What one prober counted: finished probes go in, counters, the loss window and samples come out.

use super::in_flight::{Entry, Peer};
use crate::event::Outbox;
use crate::loss::LossWindow;
use crate::sample::{ProbeCounters, Rejection, Sample};
use crate::time::Now;

/// Counters and the loss window.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) counters: ProbeCounters,
    window: LossWindow,
    stamps_wanted: bool,
    last_received: u64,
}

impl Tally {
    pub(super) fn new(window: usize, stamps_wanted: bool) -> Self {
        Self {
            counters: ProbeCounters::default(),
            window: LossWindow::new(window),
            stamps_wanted,
            last_received: 0,
        }
    }

    /// A reply came in time; its round trip is what is known by now.
    pub(super) fn receive(&mut self, entry: &Entry, at: Now) {
        let sample = Sample::received(entry.seq, entry.stamps, at, None);
        self.counters.last_rtt_ns = sample.rtt_ns.unwrap_or(self.counters.last_rtt_ns);
        self.counters.received += 1;
        self.last_received = entry.seq;
        self.window.record(false);
    }

    /// A probe will never be received.
    pub(super) fn lose(&mut self, sample: Sample, out: &mut Outbox) {
        self.counters.timeouts += 1;
        self.window.record(true);
        out.samples.push(sample);
    }

    /// Finishes the sample of a probe that was counted as received before.
    pub(super) fn settle(&mut self, entry: &Entry, out: &mut Outbox) {
        let Some(rx_app) = entry.stamps.rx_app else { return };
        let peer_ns = if let Peer::Known(ns) = entry.peer { Some(ns) } else { None };
        let sample = Sample::received(entry.seq, entry.stamps, rx_app, peer_ns);
        let counters = &mut self.counters;
        if self.stamps_wanted {
            counters.missing_tx_sched += u64::from(entry.stamps.tx_sched.is_none());
            counters.missing_tx_sw += u64::from(entry.stamps.tx_sw.is_none());
            counters.missing_tx_ack += u64::from(entry.stamps.tx_ack.is_none());
            counters.missing_rx_sw += u64::from(entry.stamps.rx.sw.is_none());
            let missing_peer = matches!(entry.peer, Peer::Missing | Peer::Awaited(_));
            counters.missing_peer += u64::from(missing_peer);
        }
        match sample.rejection {
            None => {}
            Some(Rejection::ClockStep) => counters.rejected_clock_step += 1,
            Some(Rejection::Order) => counters.rejected_order += 1,
            Some(Rejection::PeerExceedsRtt) => counters.rejected_peer_exceeds_rtt += 1,
        }
        if let Some(rtt_ns) = sample.rtt_ns {
            counters.rtt_ns_max = counters.rtt_ns_max.max(rtt_ns);
            if entry.seq == self.last_received {
                counters.last_rtt_ns = rtt_ns;
            }
        }
        out.samples.push(sample);
    }

    /// Sets what is no count of events.
    pub(super) fn set_gauges(&mut self, connected: bool, in_flight: usize, timeout_ns: u64) {
        self.counters.connected = u64::from(connected);
        self.counters.in_flight = u64::try_from(in_flight).unwrap_or(u64::MAX);
        self.counters.timeout_ns = timeout_ns;
        self.counters.window_probes = self.window.probes();
        self.counters.window_lost = self.window.lost();
    }
}
