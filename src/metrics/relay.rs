//! The families of the relay: their part of the catalogue. Everything is counted while connections
//! live, not when they end.

use super::moment::{Relay, Upstream};
use super::writer::Out;
use super::{Family, Kind, Read};
use crate::sample::{CloseReason, RelayCounters, UpstreamCounters};

/// What is written of the relay, in this order: of listeners, then of the upstreams of each.
pub(super) static FAMILIES: &[Family] = &[
    listener("tcp_relay_accepted_total", Kind::Counter, "Clients accepted.", |c| c.connections),
    listener("tcp_relay_clients_active", Kind::Gauge, "Clients connected now.", |c| {
        c.connections_active
    }),
    Family {
        name: "tcp_relay_refused_total",
        help: "Clients that were closed at once.",
        labels: &["listener", "reason"],
        read: Read::Relay(|relay, out| {
            out.whole(&[("reason", "limit")], relay.seen.counters.refused_limit);
        }),
        ..LISTENER
    },
    listener("tcp_relay_accept_errors_total", Kind::Counter, "Failed accepts.", |c| {
        c.accept_errors
    }),
    Family {
        name: "tcp_relay_closed_total",
        help: "Connections that are over, by who or what ended them; with the clients connected \
               now they add up to those accepted.",
        labels: &["listener", "reason"],
        read: Read::Relay(|relay, out| {
            for reason in CloseReason::ALL {
                out.whole(&[("reason", reason.name())], relay.seen.counters.closed(reason));
            }
        }),
        ..LISTENER
    },
    upstream("tcp_relay_connections_total", Kind::Counter, "Connections made.", |c| c.connections),
    upstream("tcp_relay_connections_active", Kind::Gauge, "Connections open.", |c| {
        c.connections_active
    }),
    upstream("tcp_relay_connecting", Kind::Gauge, "Attempts to connect under way.", |c| {
        c.connecting
    }),
    upstream(
        "tcp_relay_connect_failures_total",
        Kind::Counter,
        "Attempts to connect that failed or took too long; the client may have got another \
         upstream.",
        |c| c.connect_failures,
    ),
    sides("tcp_relay_read_bytes_total", Some("bytes"), "Payload bytes read.", |c| {
        [c.client_read_bytes, c.upstream_read_bytes]
    }),
    sides("tcp_relay_written_bytes_total", Some("bytes"), "Payload bytes written.", |c| {
        [c.client_written_bytes, c.upstream_written_bytes]
    }),
    sides(
        "tcp_relay_retransmits_total",
        None,
        "Segments that the kernel sent again, sampled while connections live (TCP_INFO).",
        |c| [c.client_retransmits, c.upstream_retransmits],
    ),
    upstream("tcp_relay_upstream_up", Kind::Gauge, "1 if it is taken for working, else 0.", |c| {
        c.up
    }),
    upstream(
        "tcp_relay_upstream_draining",
        Kind::Gauge,
        "1 if it gets no new connections by request, else 0.",
        |c| c.draining,
    ),
    Family {
        name: "tcp_relay_connect_seconds",
        help: "How long connecting took, of attempts that succeeded.",
        read: Read::Upstream(|upstream, out| {
            upstream.connect.iter().for_each(|connect| out.histogram(&[], connect))
        }),
        ..UPSTREAM_SECONDS
    },
    Family {
        name: "tcp_relay_first_byte_seconds",
        help: "From the connection to an upstream until its first byte.",
        read: Read::Upstream(|upstream, out| {
            upstream.first_byte.iter().for_each(|first_byte| out.histogram(&[], first_byte))
        }),
        ..UPSTREAM_SECONDS
    },
    Family {
        name: "tcp_relay_rtt_seconds",
        help: "The kernel's smoothed round trip of each side, sampled while connections live.",
        labels: &["listener", "upstream", "side"],
        read: Read::Upstream(|upstream, out| {
            let sides = upstream.rtt.iter();
            sides.for_each(|(side, rtt)| out.histogram(&[("side", side.name())], rtt))
        }),
        ..UPSTREAM_SECONDS
    },
];

const fn listener(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&RelayCounters) -> u64,
) -> Family {
    Family { name, kind, help, read: Read::RelayCounter(read), ..LISTENER }
}

const fn upstream(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&UpstreamCounters) -> u64,
) -> Family {
    Family { name, kind, help, read: Read::UpstreamCounter(read), ..UPSTREAM }
}

/// A counter of clients and one of the upstream.
const fn sides(
    name: &'static str,
    unit: Option<&'static str>,
    help: &'static str,
    read: fn(&UpstreamCounters) -> [u64; 2],
) -> Family {
    let labels = &["listener", "upstream", "side"];
    Family { name, unit, help, labels, read: Read::UpstreamSides(read), ..UPSTREAM }
}

/// Both sides of one upstream's connections.
pub(super) fn write_sides(upstream: &Upstream, read: SidesOf, out: &mut Out<'_>) {
    let [client, upstream] = read(&upstream.counters);
    out.whole(&[("side", "client")], client);
    out.whole(&[("side", "upstream")], upstream);
}

/// A counter of clients and one of the upstream.
pub(super) type SidesOf = fn(&UpstreamCounters) -> [u64; 2];

const LISTENER: Family = Family {
    name: "",
    kind: Kind::Counter,
    unit: None,
    help: "",
    labels: &["listener"],
    read: Read::Relay(|_: &Relay, _| ()),
};
const UPSTREAM: Family = Family { labels: &["listener", "upstream"], ..LISTENER };
const UPSTREAM_SECONDS: Family =
    Family { kind: Kind::Histogram, unit: Some("seconds"), ..UPSTREAM };
