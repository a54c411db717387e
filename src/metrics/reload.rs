//! The families of the configuration file, and of what it may switch on: their part of the
//! catalogue.

use super::{Family, Kind, PROGRAM, Read, seconds};
use crate::stats::OnDemandResult;

/// What is written of the configuration file, in this order.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "rttscope_config_last_reload_successful",
        kind: Kind::Gauge,
        help: "1 if the configuration file was good when it was last read.",
        read: Read::Program(|snapshot, out| {
            let Some(reload) = &snapshot.reload else { return };
            out.whole(&[], u64::from(reload.last_good));
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_config_last_reload_success_timestamp_seconds",
        kind: Kind::Gauge,
        unit: Some("seconds"),
        help: "When the configuration file was last read and good, seconds since the Unix epoch.",
        read: Read::Program(|snapshot, out| {
            let Some(reload) = &snapshot.reload else { return };
            out.real(&[], seconds(reload.good_at_ns));
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_probe_requests_total",
        kind: Kind::Counter,
        help: "Probes on demand, by what came of them.",
        labels: &["result"],
        read: Read::Program(|snapshot, out| {
            let Some(counts) = snapshot.on_demand else { return };
            let counts = OnDemandResult::ALL.iter().zip(counts);
            counts.for_each(|(result, requests)| out.whole(&[("result", result.name())], requests));
        }),
        ..PROGRAM
    },
];
