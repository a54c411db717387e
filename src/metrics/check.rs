//! The families of half-open checks: their part of the catalogue.

use super::{Family, Kind, Read};
use crate::sample::{CheckCounters, CheckOutcome};
use crate::time::seconds;

/// What is written of half-open checks, in this order.
pub(super) static FAMILIES: &[Family] = &[
    counter("tcp_check_sent_total", "Checks sent or due.", |c| c.sent),
    Family {
        name: "tcp_check_total",
        help: "Finished checks by outcome; open means that a SYN-ACK came.",
        labels: &["target", "address", "method", "outcome"],
        read: Read::Check(|check, out| {
            let c = &check.seen.counters;
            let counts =
                [c.open, c.refused, c.timeout, c.unreachable, c.local_error, c.error, c.unresolved];
            let outcomes = CheckOutcome::NAMES.into_iter().zip(counts);
            outcomes.for_each(|(outcome, count)| out.whole(&[("outcome", outcome)], count))
        }),
        ..COUNTER
    },
    gauge(
        "tcp_check_in_flight",
        "Checks neither answered nor given up yet; sent = all outcomes + in flight.",
        |c| c.in_flight,
    ),
    counter("tcp_check_skipped_total", "Slots of the schedule that passed without a check.", |c| {
        c.skipped
    }),
    counter("tcp_check_late_total", "Checks sent late.", |c| c.late),
    counter("tcp_check_syn_retransmits_total", "SYNs after the first of a check.", |c| {
        c.syn_retransmits
    }),
    counter(
        "tcp_check_completed_handshakes_total",
        "Checks whose handshake our side completed: the server saw a connection.",
        |c| c.completed_handshakes,
    ),
    Family {
        name: "tcp_check_resolve_failures_total",
        help: "Failed resolutions of the target's name.",
        read: Read::Check(|check, out| out.whole(&[], check.seen.resolve_failures)),
        ..COUNTER
    },
    Family {
        name: "tcp_check_up",
        help: "1 if the newest finished check was open, else 0.",
        read: Read::Check(|check, out| out.whole(&[], u64::from(check.seen.up))),
        ..GAUGE
    },
    Family {
        name: "tcp_check_last_rtt_seconds",
        unit: Some("seconds"),
        help: "Round trip of the last open check by its best clock; absent before the first.",
        read: Read::Check(|check, out| out.maybe(check.seen.last_rtt_ns().map(seconds))),
        ..GAUGE
    },
    Family {
        name: "tcp_check_loss_percent",
        unit: Some("percent"),
        help: "Not open among the last finished checks (sliding window); absent before the first.",
        read: Read::Check(|check, out| out.maybe(check.seen.loss_percent())),
        ..GAUGE
    },
    Family {
        name: "tcp_check_rtt_seconds",
        kind: Kind::Histogram,
        unit: Some("seconds"),
        help: "From the answered SYN to its SYN-ACK or RST, by the best clock there was.",
        labels: &["target", "address", "method", "clock"],
        read: Read::Check(|check, out| {
            let clocks = check.rtt.iter();
            clocks.for_each(|(clock, rtt)| out.histogram(&[("clock", clock.name())], rtt))
        }),
    },
    Family {
        name: "tcp_check_elapsed_seconds",
        kind: Kind::Histogram,
        unit: Some("seconds"),
        help: "From sending the first SYN until the answer was known, retransmissions included.",
        read: Read::Check(|check, out| {
            check.elapsed.iter().for_each(|elapsed| out.histogram(&[], elapsed))
        }),
        ..COUNTER
    },
    Family {
        name: "tcp_check_lag_seconds",
        kind: Kind::Histogram,
        unit: Some("seconds"),
        help: "From the moment the check was due until it was sent.",
        read: Read::Check(|check, out| check.lag.iter().for_each(|lag| out.histogram(&[], lag))),
        ..COUNTER
    },
    Family {
        name: "tcp_check_slo_probes_total",
        help: "Finished checks.",
        labels: SLO_LABELS,
        read: Read::CheckSlo(|slo, out| out.whole(&[("slo", &slo.objective.name)], slo.total)),
        ..COUNTER
    },
    Family {
        name: "tcp_check_slo_good_total",
        help: "Open checks within the objective's threshold.",
        labels: SLO_LABELS,
        read: Read::CheckSlo(|slo, out| out.whole(&[("slo", &slo.objective.name)], slo.good)),
        ..COUNTER
    },
    Family {
        name: "tcp_check_slo_objective_ratio",
        unit: Some("ratio"),
        help: "Wanted share of good checks.",
        labels: SLO_LABELS,
        read: Read::CheckSlo(|slo, out| {
            out.real(&[("slo", &slo.objective.name)], slo.objective.objective_ratio)
        }),
        ..GAUGE
    },
    Family {
        name: "tcp_check_slo_threshold_seconds",
        unit: Some("seconds"),
        help: "Longest time of a good check.",
        labels: SLO_LABELS,
        read: Read::CheckSlo(|slo, out| {
            out.real(&[("slo", &slo.objective.name)], seconds(slo.objective.threshold_ns))
        }),
        ..GAUGE
    },
];

const fn counter(
    name: &'static str,
    help: &'static str,
    read: fn(&CheckCounters) -> u64,
) -> Family {
    Family { name, help, read: Read::CheckCounter(read), ..COUNTER }
}

const fn gauge(name: &'static str, help: &'static str, read: fn(&CheckCounters) -> u64) -> Family {
    Family { name, help, read: Read::CheckCounter(read), ..GAUGE }
}

const SLO_LABELS: &[&str] = &["target", "address", "method", "slo"];

/// What the entries above have in common; each says the rest.
const COUNTER: Family = Family {
    name: "",
    kind: Kind::Counter,
    unit: None,
    help: "",
    labels: &["target", "address", "method"],
    read: Read::Check(|_, _| ()),
};
const GAUGE: Family = Family { kind: Kind::Gauge, ..COUNTER };
