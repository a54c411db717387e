//! The catalogue of metric families, and their exposition: series in, a body in one of three
//! [`Format`]s out, part by part. Each family is one entry of [`families`], which says its name,
//! unit, help and labels and how to read it; so nothing can be shown that is not catalogued, and
//! the other way round. A format is one small writer over that catalogue.
//!
//! Counters and gauges of a target are there from its first scrape on. A histogram appears with
//! its first duration, and `tcp_echo_rtt_seconds` only with the clocks that were in use: absent
//! means never measured, and 0 is never written in place of something unknown.

mod check;
mod discovery;
mod exposition;
mod moment;
mod packed;
mod protobuf;
mod relay;
mod reload;
mod tcp_info;
mod text;
mod varint;
mod web;
mod writer;

use crate::host::ProcessUsage;
use crate::sample::{CheckCounters, EchoCounters, ProbeCounters, RelayCounters, UpstreamCounters};
use crate::stats::slo::SloSnapshot;
use crate::tcp_info::Member;
use crate::time::seconds;

pub use self::exposition::Exposition;
pub use self::writer::Format;

use self::moment::{Check, Echo, Probe, Program, Relay, Upstream, Worker};
use self::writer::{Out, Value};

/// Every family, in the order in which they are written.
pub fn families() -> impl Iterator<Item = &'static Family> {
    let flows = FAMILIES.iter().chain(check::FAMILIES).chain(tcp_info::FAMILIES);
    let flows = flows.chain(relay::FAMILIES);
    flows.chain(web::FAMILIES).chain(reload::FAMILIES).chain(discovery::FAMILIES)
}

/// What is written of probes, of the responder and of the program.
static FAMILIES: &[Family] = &[
    probe_counter("tcp_echo_sent_total", "Probes sent or due.", |c| c.sent),
    probe_counter("tcp_echo_received_total", "Replies in time.", |c| c.received),
    probe_counter(
        "tcp_echo_timeouts_total",
        "Probes lost: no reply in time, lost with their connection, or due without one.",
        |c| c.timeouts,
    ),
    probe_gauge(
        "tcp_echo_in_flight",
        "Probes neither received nor lost yet; sent = received + timeouts + in flight.",
        |c| c.in_flight,
    ),
    probe_counter(
        "tcp_echo_skipped_total",
        "Slots of the schedule that passed without a probe.",
        |c| c.skipped,
    ),
    probe_counter("tcp_echo_late_total", "Probes sent late.", |c| c.late),
    probe_counter("tcp_echo_connects_total", "Connections established.", |c| c.connects),
    probe_counter(
        "tcp_echo_dropped_total",
        "Connections lost, and attempts to connect that failed.",
        |c| c.dropped,
    ),
    probe_counter("tcp_echo_late_replies_total", "Replies after their timeout.", |c| {
        c.late_replies
    }),
    probe_counter("tcp_echo_garbage_bytes_total", "Bytes received that were no reply.", |c| {
        c.garbage_bytes
    })
    .in_unit("bytes"),
    Family {
        name: "tcp_echo_stamps_missing_total",
        help: "Received probes without a kernel stamp that was asked for, or a v3 residence.",
        labels: &["target", "address", "stamp"],
        read: Read::Probe(|probe, out| {
            let c = &probe.seen.counters;
            out.whole(&[("stamp", "tx_sched")], c.missing_tx_sched);
            out.whole(&[("stamp", "tx_sw")], c.missing_tx_sw);
            out.whole(&[("stamp", "tx_ack")], c.missing_tx_ack);
            out.whole(&[("stamp", "rx_sw")], c.missing_rx_sw);
            out.whole(&[("stamp", "peer")], c.missing_peer);
        }),
        ..PROBE_COUNTER
    },
    Family {
        name: "tcp_echo_samples_rejected_total",
        help: "Replies, or the kernel times of one, that were not used because they made no sense.",
        labels: &["target", "address", "reason"],
        read: Read::Probe(|probe, out| {
            let c = &probe.seen.counters;
            out.whole(&[("reason", "clock_step")], c.rejected_clock_step);
            out.whole(&[("reason", "order")], c.rejected_order);
            out.whole(&[("reason", "peer_exceeds_rtt")], c.rejected_peer_exceeds_rtt);
            out.whole(&[("reason", "late_reply")], c.late_replies);
            out.whole(&[("reason", "duplicate_reply")], c.duplicate_replies);
            out.whole(&[("reason", "unknown_reply")], c.unknown_replies);
        }),
        ..PROBE_COUNTER
    },
    Family {
        name: "tcp_echo_resolve_failures_total",
        help: "Failed resolutions of the target's name.",
        read: Read::Probe(|probe, out| out.whole(&[], probe.seen.resolve_failures)),
        ..PROBE_COUNTER
    },
    probe_gauge("tcp_echo_connected", "1 while connected, else 0.", |c| c.connected),
    Family {
        name: "tcp_echo_up",
        help: "1 if the newest finished probe was received, else 0.",
        read: Read::Probe(|probe, out| out.whole(&[], u64::from(probe.seen.up))),
        ..PROBE_GAUGE
    },
    Family {
        name: "tcp_echo_last_rtt_seconds",
        unit: Some("seconds"),
        help: "Round trip of the last reply by its best clock; absent before the first.",
        read: Read::Probe(|probe, out| out.maybe(probe.seen.last_rtt_ns().map(seconds))),
        ..PROBE_GAUGE
    },
    Family {
        name: "tcp_echo_loss_percent",
        unit: Some("percent"),
        help: "Lost among the last finished probes (sliding window); absent before the first.",
        read: Read::Probe(|probe, out| out.maybe(probe.seen.loss_percent())),
        ..PROBE_GAUGE
    },
    Family {
        name: "tcp_echo_estimated_timeout_seconds",
        unit: Some("seconds"),
        help: "How long the next probe waits for its reply.",
        read: Read::Probe(|probe, out| {
            let timeout_ns = Some(probe.seen.counters.timeout_ns).filter(|ns| *ns > 0);
            out.maybe(timeout_ns.map(seconds))
        }),
        ..PROBE_GAUGE
    },
    probe_gauge(
        "tcp_echo_wire_version",
        "Version of the frames in use: 1, 2 or 3; 0 before it is known.",
        |c| c.wire_version,
    ),
    Family {
        name: "tcp_echo_rtt_seconds",
        kind: Kind::Histogram,
        unit: Some("seconds"),
        help: "Round trip by the best clock that the probe had stamps of.",
        labels: &["target", "address", "clock"],
        read: Read::Probe(|probe, out| {
            let clocks = probe.rtt.iter();
            clocks.for_each(|(clock, rtt)| out.histogram(&[("clock", clock.name())], rtt))
        }),
    },
    Family {
        name: "tcp_echo_app_rtt_seconds",
        kind: Kind::Histogram,
        unit: Some("seconds"),
        help: "From the moment the probe was due until the application had the reply.",
        labels: PROBE_LABELS,
        read: Read::Probe(|probe, out| {
            probe.app_rtt.iter().for_each(|app_rtt| out.histogram(&[], app_rtt))
        }),
    },
    Family {
        name: "tcp_echo_stage_seconds",
        kind: Kind::Histogram,
        unit: Some("seconds"),
        help: "The parts of a probe's time: lag, send, network, peer and wakeup.",
        labels: &["target", "address", "stage"],
        read: Read::Probe(|probe, out| {
            let stages = probe.stages.iter();
            stages.for_each(|(stage, ns)| out.histogram(&[("stage", stage.name())], ns))
        }),
    },
    slo("tcp_echo_slo_probes_total", Kind::Counter, None, "Finished probes.", |slo, out| {
        out.whole(&[("slo", &slo.objective.name)], slo.total)
    }),
    slo(
        "tcp_echo_slo_good_total",
        Kind::Counter,
        None,
        "Probes received with a round trip within the objective's threshold.",
        |slo, out| out.whole(&[("slo", &slo.objective.name)], slo.good),
    ),
    slo(
        "tcp_echo_slo_objective_ratio",
        Kind::Gauge,
        Some("ratio"),
        "Wanted share of good probes.",
        |slo, out| out.real(&[("slo", &slo.objective.name)], slo.objective.objective_ratio),
    ),
    slo(
        "tcp_echo_slo_threshold_seconds",
        Kind::Gauge,
        Some("seconds"),
        "Longest round trip of a good probe.",
        |slo, out| out.real(&[("slo", &slo.objective.name)], seconds(slo.objective.threshold_ns)),
    ),
    echo("tcp_responder_connections_total", Kind::Counter, "Connections accepted.", |c| {
        c.connections
    }),
    echo("tcp_responder_connections_active", Kind::Gauge, "Connections open.", |c| {
        c.connections_active
    }),
    Family {
        name: "tcp_responder_refused_total",
        help: "Connections closed at once.",
        labels: &["listener", "reason"],
        read: Read::Echo(|echo, out| {
            out.whole(&[("reason", "limit")], echo.seen.counters.refused_limit);
        }),
        ..ECHO
    },
    Family {
        name: "tcp_responder_closed_total",
        help: "Connections that did not end by the client's orderly close.",
        labels: &["listener", "reason"],
        read: Read::Echo(|echo, out| {
            out.whole(&[("reason", "idle")], echo.seen.counters.closed_idle);
            out.whole(&[("reason", "protocol")], echo.seen.counters.closed_protocol);
            out.whole(&[("reason", "error")], echo.seen.counters.closed_error);
        }),
        ..ECHO
    },
    echo("tcp_responder_accept_errors_total", Kind::Counter, "Failed accepts.", |c| {
        c.accept_errors
    }),
    Family {
        name: "tcp_responder_frames_total",
        help: "Frames answered; v1 and v2 are echoed as bytes, and only v3 is counted.",
        labels: &["listener", "wire"],
        read: Read::Echo(|echo, out| out.whole(&[("wire", "v3")], echo.seen.counters.frames_v3)),
        ..ECHO
    },
    echo("tcp_responder_received_bytes_total", Kind::Counter, "Bytes received.", |c| {
        c.received_bytes
    })
    .in_unit("bytes"),
    echo("tcp_responder_sent_bytes_total", Kind::Counter, "Bytes queued for sending.", |c| {
        c.sent_bytes
    })
    .in_unit("bytes"),
    Family {
        name: "tcp_responder_stamps_missing_total",
        help: "v3 frames without a kernel stamp.",
        labels: &["listener", "stamp"],
        read: Read::Echo(|echo, out| {
            out.whole(&[("stamp", "tx_sw")], echo.seen.counters.missing_tx_sw);
            out.whole(&[("stamp", "rx_sw")], echo.seen.counters.missing_rx_sw);
        }),
        ..ECHO
    },
    Family {
        name: "tcp_responder_residence_seconds",
        kind: Kind::Histogram,
        unit: Some("seconds"),
        help: "From the kernel's receive stamp of a v3 probe to its send stamp of the reply.",
        read: Read::Echo(|echo, out| {
            echo.residence.iter().for_each(|residence| out.histogram(&[], residence))
        }),
        ..ECHO
    },
    Family {
        name: "rttscope_build_info",
        kind: Kind::Info,
        help: "What was built.",
        labels: &["version", "os", "arch"],
        read: Read::Program(|now, out| {
            let build = now.build;
            out.info(&[("version", build.version), ("os", build.os), ("arch", build.arch)])
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_capability",
        help: "1 if this machine has the ability, else 0 with the reason.",
        labels: &["name", "reason"],
        read: Read::Program(|now, out| {
            now.capabilities.iter().for_each(|capability| {
                let labels = [("name", capability.name), ("reason", &capability.reason)];
                out.whole(&labels, u64::from(capability.available))
            })
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_ebpf_lost_total",
        kind: Kind::Counter,
        help: "Events and connection attempts that the eBPF programs could not tell of.",
        labels: &["what"],
        read: Read::Program(|now, out| {
            let Some((events, attempts)) = now.event_losses else { return };
            out.whole(&[("what", "event")], events);
            out.whole(&[("what", "attempt")], attempts);
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_noise_floor_seconds",
        kind: Kind::Histogram,
        unit: Some("seconds"),
        help: "How late a measuring thread woke up from timed waits.",
        labels: &["thread"],
        read: Read::Worker(|worker, out| {
            worker.lateness.iter().for_each(|lateness| out.histogram(&[], lateness))
        }),
    },
    Family {
        name: "rttscope_report_samples_dropped_total",
        kind: Kind::Counter,
        help: "Samples that the JSON writer, or the log of relayed connections, was too slow for.",
        read: Read::Program(|now, out| out.whole(&[], now.report_samples_dropped)),
        ..PROGRAM
    },
    Family {
        name: "rttscope_log_lines_dropped_total",
        kind: Kind::Counter,
        help: "Log lines that standard error was too slow for, or closed to.",
        read: Read::Program(|now, out| out.whole(&[], now.log_lines_dropped)),
        ..PROGRAM
    },
    Family {
        name: "rttscope_http_connections_refused_total",
        kind: Kind::Counter,
        help: "HTTP connections closed because there were too many.",
        read: Read::Program(|now, out| out.whole(&[], now.http_connections_refused)),
        ..PROGRAM
    },
    Family {
        kind: Kind::Counter,
        ..process("process_cpu_seconds_total", Some("seconds"), "CPU time used.", |usage| {
            usage.cpu_ns.map(|ns| Value::Real(seconds(ns)))
        })
    },
    process("process_resident_memory_bytes", Some("bytes"), "Resident memory.", |usage| {
        usage.resident_bytes.map(Value::Whole)
    }),
    process("process_virtual_memory_bytes", Some("bytes"), "Virtual memory.", |usage| {
        usage.virtual_bytes.map(Value::Whole)
    }),
    process("process_open_fds", None, "Open file descriptors.", |usage| {
        usage.open_fds.map(Value::Whole)
    }),
    process("process_max_fds", None, "Limit of open file descriptors.", |usage| {
        usage.max_fds.map(Value::Whole)
    }),
    process(
        "process_start_time_seconds",
        Some("seconds"),
        "Start of the process, seconds since the Unix epoch.",
        |usage| usage.start_time_ns.map(|ns| Value::Real(seconds(ns))),
    ),
    process("process_threads", None, "Threads.", |usage| usage.threads.map(Value::Whole)),
];

/// Names that a user's label must not have.
pub const RESERVED_LABELS: &[&str] = &[
    "target", "address", "method", "outcome", "clock", "stage", "stamp", "reason", "slo", "le",
    "job", "instance",
];

/// One metric family.
#[derive(Debug)]
pub struct Family {
    /// The name in full, with unit and suffix (`_total`, `_info`).
    pub name: &'static str,
    /// What kind of metric.
    pub kind: Kind,
    /// The unit that ends the name (before `_total`).
    pub unit: Option<&'static str>,
    /// What it means, one sentence or two.
    pub help: &'static str,
    /// The names of its labels; those that users give to a target come in addition.
    pub labels: &'static [&'static str],
    read: Read,
}

/// Kinds of metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Only goes up.
    Counter,
    /// A value.
    Gauge,
    /// Native and classic buckets side by side.
    Histogram,
    /// Always 1; the labels say it.
    Info,
}

/// How a family is read: once a target, listener, thread, or program.
#[derive(Debug)]
enum Read {
    Probe(fn(&Probe, &mut Out<'_>)),
    ProbeCounter(fn(&ProbeCounters) -> u64),
    Check(fn(&Check, &mut Out<'_>)),
    CheckCounter(fn(&CheckCounters) -> u64),
    TcpInfo(&'static Member),
    Slo(fn(&SloSnapshot, &mut Out<'_>)),
    CheckSlo(fn(&SloSnapshot, &mut Out<'_>)),
    Echo(fn(&Echo, &mut Out<'_>)),
    EchoCounter(fn(&EchoCounters) -> u64),
    Relay(fn(&Relay, &mut Out<'_>)),
    RelayCounter(fn(&RelayCounters) -> u64),
    Upstream(fn(&Upstream, &mut Out<'_>)),
    UpstreamCounter(fn(&UpstreamCounters) -> u64),
    UpstreamSides(relay::SidesOf),
    Worker(fn(&Worker, &mut Out<'_>)),
    Program(fn(&Program, &mut Out<'_>)),
    Process(fn(&ProcessUsage) -> Option<Value>),
}

impl Family {
    const fn in_unit(self, unit: &'static str) -> Self {
        Self { unit: Some(unit), ..self }
    }
}

const fn probe_counter(
    name: &'static str,
    help: &'static str,
    read: fn(&ProbeCounters) -> u64,
) -> Family {
    Family { name, help, read: Read::ProbeCounter(read), ..PROBE_COUNTER }
}

const fn probe_gauge(
    name: &'static str,
    help: &'static str,
    read: fn(&ProbeCounters) -> u64,
) -> Family {
    Family { name, help, read: Read::ProbeCounter(read), ..PROBE_GAUGE }
}

const fn slo(
    name: &'static str,
    kind: Kind,
    unit: Option<&'static str>,
    help: &'static str,
    read: fn(&SloSnapshot, &mut Out<'_>),
) -> Family {
    Family { name, kind, unit, help, labels: &["target", "address", "slo"], read: Read::Slo(read) }
}

const fn echo(
    name: &'static str,
    kind: Kind,
    help: &'static str,
    read: fn(&EchoCounters) -> u64,
) -> Family {
    Family { name, kind, unit: None, help, labels: ECHO_LABELS, read: Read::EchoCounter(read) }
}

const fn process(
    name: &'static str,
    unit: Option<&'static str>,
    help: &'static str,
    read: fn(&ProcessUsage) -> Option<Value>,
) -> Family {
    Family { name, kind: Kind::Gauge, unit, help, labels: &[], read: Read::Process(read) }
}

const PROBE_LABELS: &[&str] = &["target", "address"];
const ECHO_LABELS: &[&str] = &["listener"];

/// What the entries above have in common; each says the rest.
const PROBE_COUNTER: Family = Family {
    name: "",
    kind: Kind::Counter,
    unit: None,
    help: "",
    labels: PROBE_LABELS,
    read: Read::Probe(|_, _| ()),
};
const PROBE_GAUGE: Family = Family { kind: Kind::Gauge, ..PROBE_COUNTER };
const ECHO: Family = Family { labels: ECHO_LABELS, ..PROBE_COUNTER };
const PROGRAM: Family = Family { kind: Kind::Gauge, labels: &[], ..PROBE_COUNTER };

#[cfg(test)]
mod tests;
