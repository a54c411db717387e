//! What the kernel knows of a target's connections, as the worker saw it last: one word for each
//! chosen member. One writer, many readers.

use std::sync::atomic::{AtomicU64, Ordering};

use crate::tcp_info::{Kind, Member, Members, Raw};

/// The newest numbers of a target.
#[derive(Debug)]
pub struct TcpInfoSeries {
    members: Members,
    /// In the order of the members; [`ABSENT`] for what is not known. Each is good by itself:
    /// nothing is calculated from two of them.
    shown: Box<[AtomicU64]>,
}

/// What the worker remembers to write a series: counters go on where the last connection ended.
#[derive(Debug)]
pub struct TcpInfoWriter {
    /// Of the members that are counters, in their order.
    counted: Box<[Counted]>,
}

/// What one counter is made of.
#[derive(Clone, Copy, Debug, Default)]
struct Counted {
    /// By connections that have ended.
    before: u64,
    /// By this one.
    now: u64,
}

/// The newest numbers at one moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TcpInfoSnapshot {
    members: Members,
    numbers: Vec<u64>,
}

impl TcpInfoSeries {
    /// Nothing known yet of these members.
    #[must_use]
    pub fn new(members: Members) -> Self {
        let shown = members.iter().map(|_| AtomicU64::new(ABSENT)).collect();
        Self { members, shown }
    }

    /// Whether there is nothing to be shown.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.shown.is_empty()
    }

    /// The state now.
    #[must_use]
    pub fn snapshot(&self) -> TcpInfoSnapshot {
        let numbers = self.shown.iter().map(|shown| shown.load(Ordering::Relaxed)).collect();
        TcpInfoSnapshot { members: self.members, numbers }
    }
}

impl TcpInfoSnapshot {
    /// The last number of a member in the kernel's unit; `None` if it is not chosen, the kernel
    /// does not fill it, it has no value, or there is no connection to have one.
    #[must_use]
    pub fn number(&self, member: &Member) -> Option<u64> {
        let at = self.members.place_of(member)?;
        self.numbers.get(at).copied().filter(|&number| number != ABSENT)
    }
}

impl TcpInfoWriter {
    /// For a series that is new.
    #[must_use]
    pub fn new(series: &TcpInfoSeries) -> Self {
        let counters = series.members.iter().filter(|member| member.kind == Kind::Counter);
        Self { counted: counters.map(|_| Counted::default()).collect() }
    }

    /// Shows what the kernel knows of the connection now.
    pub fn record(&mut self, series: &TcpInfoSeries, raw: &Raw) {
        let mut counters = self.counted.iter_mut();
        for (shown, member) in series.shown.iter().zip(series.members.iter()) {
            let number = raw.number(member);
            let counted = if member.kind == Kind::Counter { counters.next() } else { None };
            let value = match (counted, number) {
                (Some(counted), Some(now)) => {
                    counted.now = now;
                    Some(counted.before.saturating_add(now))
                }
                _ => number,
            };
            shown.store(value.unwrap_or(ABSENT), Ordering::Relaxed);
        }
    }

    /// The connection has ended: its counters stay, its gauges have no value any more.
    pub fn end(&mut self, series: &TcpInfoSeries) {
        for counted in &mut self.counted {
            let now = std::mem::take(&mut counted.now);
            counted.before = counted.before.saturating_add(now);
        }
        for (shown, member) in series.shown.iter().zip(series.members.iter()) {
            if member.kind == Kind::Gauge {
                shown.store(ABSENT, Ordering::Relaxed);
            }
        }
    }
}

/// No kernel counts as far; of a rate it means that there is no limit.
const ABSENT: u64 = u64::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tcp_info::members::{min_rtt, rtt, total_retrans, total_rto};

    #[test]
    fn counters_go_on_and_gauges_end_with_the_connection() {
        let series = TcpInfoSeries::new(Members::of(&[rtt, min_rtt, total_retrans, total_rto]));
        let mut writer = TcpInfoWriter::new(&series);
        let shown = |series: &TcpInfoSeries| {
            let snapshot = series.snapshot();
            [rtt, total_retrans, total_rto, min_rtt].map(|member| snapshot.number(&member))
        };
        let raw = |rtt_us: u64, retransmits: u64| {
            let mut raw = Raw::empty(0);
            raw.set(&rtt, rtt_us);
            raw.set(&total_retrans, retransmits);
            raw.set(&min_rtt, 0xffff_ffff);
            raw
        };
        assert_eq!(shown(&series), [None; 4], "nothing is known before");
        writer.record(&series, &raw(70, 2));
        writer.record(&series, &raw(80, 3));
        assert_eq!(shown(&series), [Some(80), Some(3), None, None]);
        writer.end(&series);
        assert_eq!(shown(&series), [None, Some(3), None, None]);
        writer.end(&series);
        writer.record(&series, &raw(90, 1));
        assert_eq!(shown(&series), [Some(90), Some(4), None, None]);
        assert_eq!(series.snapshot().number(&crate::tcp_info::members::lost), None);
    }
}
