//! The families of discovery: their part of the catalogue.

use super::moment::Program;
use super::writer::Out;
use super::{Family, Kind, PROGRAM, Read, seconds};
use crate::stats::{ListSnapshot, SourceSnapshot};

/// What is written of discovery, in this order.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "rttscope_discovery_last_refresh_successful",
        help: "1 if the source answered well when it was last asked; its last good answer stays.",
        labels: SOURCE_LABELS,
        read: Read::Program(|now, out| {
            sources(now, out, |source, labels, out| {
                out.whole(labels, u64::from(source.error.is_none() && source.refreshes > 0));
            });
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_discovery_last_success_timestamp_seconds",
        unit: Some("seconds"),
        help: "When the source last answered well, seconds since the Unix epoch.",
        labels: SOURCE_LABELS,
        read: Read::Program(|now, out| {
            sources(now, out, |source, labels, out| {
                source.good_at_ns.iter().for_each(|&at_ns| out.real(labels, seconds(at_ns)));
            });
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_discovery_refreshes_total",
        kind: Kind::Counter,
        help: "How often the source was asked.",
        labels: SOURCE_LABELS,
        read: Read::Program(|now, out| {
            sources(now, out, |source, labels, out| out.whole(labels, source.refreshes));
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_discovery_failures_total",
        kind: Kind::Counter,
        help: "How often the source was asked and failed.",
        labels: SOURCE_LABELS,
        read: Read::Program(|now, out| {
            sources(now, out, |source, labels, out| out.whole(labels, source.failures));
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_discovery_source_targets",
        help: "Targets of the source's last good answer, before relabelling.",
        labels: SOURCE_LABELS,
        read: Read::Program(|now, out| {
            sources(now, out, |source, labels, out| out.whole(labels, count(source.targets)));
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_discovery_targets",
        help: "Targets of the list that are to be probed: relabelled, good, and of the mesh.",
        labels: &["discovery"],
        read: Read::Program(|now, out| {
            lists(now, |list| out.whole(&[("discovery", &list.name)], count(list.targets)));
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_discovery_bad_targets",
        help: "Targets of the list that cannot be probed, by what is wrong with them.",
        labels: &["discovery", "reason"],
        read: Read::Program(|now, out| {
            lists(now, |list| {
                for (reason, targets) in [
                    ("address", list.bad_addresses),
                    ("label", list.bad_labels),
                    ("module", list.bad_modules),
                    ("duplicate", list.duplicates),
                ] {
                    let labels = [("discovery", list.name.as_str()), ("reason", reason)];
                    out.whole(&labels, count(targets));
                }
            });
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_discovery_dropped_targets",
        help: "Targets of all lists that are not probed: named as another, or beyond the limit.",
        labels: &["reason"],
        read: Read::Program(|now, out| {
            let Some(discovery) = &now.discovery else { return };
            out.whole(&[("reason", "duplicate")], count(discovery.duplicates));
            out.whole(
                &[("reason", "limit")],
                count(discovery.excess + discovery.excess_at_sources),
            );
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_mesh_members",
        help: "Hosts of the mesh, this one too.",
        labels: &["discovery"],
        read: Read::Program(|now, out| {
            lists(now, |list| {
                let labels = [("discovery", list.name.as_str())];
                list.members.iter().for_each(|&members| out.whole(&labels, count(members)));
            });
        }),
        ..PROGRAM
    },
];

fn sources(
    now: &Program,
    out: &mut Out<'_>,
    mut write: impl FnMut(&SourceSnapshot, &[(&'static str, &str)], &mut Out<'_>),
) {
    for source in now.discovery.iter().flat_map(|discovery| &discovery.sources) {
        write(source, &[("discovery", &source.list), ("source", &source.source)], out);
    }
}

fn lists(now: &Program, write: impl FnMut(&ListSnapshot)) {
    now.discovery.iter().flat_map(|discovery| &discovery.lists).for_each(write);
}

fn count(targets: usize) -> u64 {
    u64::try_from(targets).unwrap_or(u64::MAX)
}

const SOURCE_LABELS: &[&str] = &["discovery", "source"];
