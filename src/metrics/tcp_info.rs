//! The families of `TCP_INFO`: their part of the catalogue, made from the table of its members.

use super::{Family, Kind, PROBE_LABELS, Read};
use crate::tcp_info::{self, MEMBERS, Unit};

/// What is written of probes' connections, in the order of the kernel's struct.
pub(super) static FAMILIES: &[Family] = &{
    let mut families = [const { family(0) }; MEMBERS.len()];
    let mut at = 1;
    while at < MEMBERS.len() {
        families[at] = family(at);
        at += 1;
    }
    families
};

const fn family(at: usize) -> Family {
    let member = &MEMBERS[at];
    Family {
        name: member.metric,
        kind: match member.kind {
            tcp_info::Kind::Counter => Kind::Counter,
            tcp_info::Kind::Gauge => Kind::Gauge,
        },
        unit: match member.unit {
            Unit::Bytes => Some("bytes"),
            Unit::BytesPerSecond => Some("bytes_per_second"),
            Unit::Micros | Unit::Millis => Some("seconds"),
            _ => None,
        },
        help: member.help,
        labels: PROBE_LABELS,
        read: Read::TcpInfo(member),
    }
}
