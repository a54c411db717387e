//! The families of the guarded HTTP server: their part of the catalogue.

use super::{Family, Kind, PROGRAM, Read};
use crate::stats::Refusal;

/// What is written of the guarded HTTP server, in this order.
pub(super) static FAMILIES: &[Family] = &[
    Family {
        name: "rttscope_http_requests_refused_total",
        kind: Kind::Counter,
        help: "HTTP requests refused by the rules of the web configuration file.",
        labels: &["reason"],
        read: Read::Program(|snapshot, out| {
            let Some(web) = &snapshot.web else { return };
            let counts = Refusal::ALL.iter().zip(web.refused);
            counts.for_each(|(refusal, requests)| {
                out.whole(&[("reason", refusal.name())], requests);
            });
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_http_handshakes_failed_total",
        kind: Kind::Counter,
        help: "TLS handshakes that failed or took too long.",
        read: Read::Program(|snapshot, out| {
            let Some(web) = &snapshot.web else { return };
            out.whole(&[], web.handshakes_failed);
        }),
        ..PROGRAM
    },
    Family {
        name: "rttscope_web_config_last_reload_successful",
        help: "1 if the web configuration file and its certificates are in use as they are now.",
        read: Read::Program(|snapshot, out| {
            let Some(web) = &snapshot.web else { return };
            out.whole(&[], u64::from(web.last_reload_good));
        }),
        ..PROGRAM
    },
];
