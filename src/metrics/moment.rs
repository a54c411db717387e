//! What one scrape shows: everything at one moment, as small as it can be kept. A format groups by
//! family and a client takes its time, so every target's numbers have to stay as they were; its
//! histograms, most of it by far, are packed.

use std::mem::take;

use super::packed::{Packed, Packer};
use super::writer::Writer;
use crate::sample::{CheckClock, Clock, Side, Stage, UpstreamCounters};
use crate::stats::{
    CheckSnapshot, EchoSnapshot, ProbeSnapshot, RelaySnapshot, Snapshot, UpstreamSnapshot,
    WorkerSnapshot,
};

/// Everything there is to show.
pub(super) struct Moment {
    /// The program and the targets; listeners and threads stand below.
    pub(super) program: Program,
    pub(super) echoes: Vec<Echo>,
    pub(super) relays: Vec<Relay>,
    /// Of all listeners of the relay.
    pub(super) upstreams: Vec<Upstream>,
    pub(super) workers: Vec<Worker>,
}

/// What is shown as it is, and targets.
pub(super) type Program = Snapshot<Probe, Check>;

/// A probed target.
pub(super) struct Probe {
    pub(super) labels: Box<[u8]>,
    /// Without names and histograms.
    pub(super) seen: ProbeSnapshot,
    pub(super) rtt: Box<[(Clock, Packed)]>,
    pub(super) app_rtt: Option<Packed>,
    pub(super) stages: Box<[(Stage, Packed)]>,
}

/// A target of half-open checks.
pub(super) struct Check {
    pub(super) labels: Box<[u8]>,
    /// Without names and histograms.
    pub(super) seen: CheckSnapshot,
    pub(super) rtt: Box<[(CheckClock, Packed)]>,
    pub(super) elapsed: Option<Packed>,
    pub(super) lag: Option<Packed>,
}

/// A listener of the responder.
pub(super) struct Echo {
    pub(super) labels: Box<[u8]>,
    pub(super) seen: EchoSnapshot,
    pub(super) residence: Option<Packed>,
}

/// A listener of the relay.
pub(super) struct Relay {
    pub(super) labels: Box<[u8]>,
    /// Without upstreams.
    pub(super) seen: RelaySnapshot,
}

/// An upstream of a listener of the relay.
pub(super) struct Upstream {
    pub(super) labels: Box<[u8]>,
    pub(super) counters: UpstreamCounters,
    pub(super) connect: Option<Packed>,
    pub(super) first_byte: Option<Packed>,
    pub(super) rtt: Box<[(Side, Packed)]>,
}

/// A measuring thread.
pub(super) struct Worker {
    pub(super) labels: Box<[u8]>,
    /// `None` before it waited for anything.
    pub(super) lateness: Option<Packed>,
}

impl Moment {
    /// Looks at one target after the other, so that no more than one of them is there in full.
    pub(super) fn new<P, C>(
        mut everything: Snapshot<P, C>,
        writer: &dyn Writer,
        look_at_probe: impl Fn(P) -> ProbeSnapshot,
        look_at_check: impl Fn(C) -> CheckSnapshot,
    ) -> Self {
        let mut packer = Packer::new(writer.sizes());
        let mut check_packer = Packer::new(writer.sizes());
        let echoes = take(&mut everything.echoes).into_iter();
        let workers = take(&mut everything.workers).into_iter();
        let relays: Vec<_> = take(&mut everything.relays)
            .into_iter()
            .map(|relay| Relay::new(relay, writer, &mut packer))
            .collect();
        let (relays, upstreams): (Vec<_>, Vec<_>) = relays.into_iter().unzip();
        Self {
            relays,
            upstreams: upstreams.into_iter().flatten().collect(),
            echoes: echoes.map(|echo| Echo::new(echo, writer, &mut packer)).collect(),
            workers: workers.map(|worker| Worker::new(&worker, writer, &mut packer)).collect(),
            program: everything.map_targets(
                |probe| Probe::new(look_at_probe(probe), writer, &mut packer),
                |check| Check::new(look_at_check(check), writer, &mut check_packer),
            ),
        }
    }
}

impl Probe {
    fn new(mut seen: ProbeSnapshot, writer: &dyn Writer, packer: &mut Packer<'_>) -> Self {
        let (target, address) = (take(&mut seen.target), take(&mut seen.address));
        let own = take(&mut seen.labels);
        let mut pairs = vec![("target", &*target), ("address", &*address)];
        pairs.extend(own.iter().map(|(name, value)| (&**name, &**value)));
        let (rtt, stages) = (take(&mut seen.rtt), take(&mut seen.stages));
        Self {
            labels: rendered(&pairs, writer),
            rtt: rtt.iter().map(|(clock, rtt)| (*clock, packer.pack(rtt))).collect(),
            app_rtt: seen.app_rtt.take().map(|app_rtt| packer.pack(&app_rtt)),
            stages: stages.iter().map(|(stage, ns)| (*stage, packer.pack(ns))).collect(),
            seen,
        }
    }
}

impl Check {
    fn new(mut seen: CheckSnapshot, writer: &dyn Writer, packer: &mut Packer<'_>) -> Self {
        let (target, address) = (take(&mut seen.target), take(&mut seen.address));
        let own = take(&mut seen.labels);
        let method = seen.method.name();
        let mut pairs = vec![("target", &*target), ("address", &*address), ("method", method)];
        pairs.extend(own.iter().map(|(name, value)| (&**name, &**value)));
        let rtt = take(&mut seen.rtt);
        Self {
            labels: rendered(&pairs, writer),
            rtt: rtt.iter().map(|(clock, rtt)| (*clock, packer.pack(rtt))).collect(),
            elapsed: seen.elapsed.take().map(|elapsed| packer.pack(&elapsed)),
            lag: seen.lag.take().map(|lag| packer.pack(&lag)),
            seen,
        }
    }
}

impl Echo {
    fn new(mut seen: EchoSnapshot, writer: &dyn Writer, packer: &mut Packer<'_>) -> Self {
        Self {
            labels: rendered(&[("listener", &seen.listener)], writer),
            residence: seen.residence.take().map(|residence| packer.pack(&residence)),
            seen,
        }
    }
}

impl Relay {
    /// A listener and its upstreams.
    fn new(
        mut seen: RelaySnapshot,
        writer: &dyn Writer,
        packer: &mut Packer<'_>,
    ) -> (Self, Vec<Upstream>) {
        let upstreams = take(&mut seen.upstreams).into_iter();
        let upstreams =
            upstreams.map(|upstream| Upstream::new(&seen.listener, &upstream, writer, packer));
        let upstreams = upstreams.collect();
        (Self { labels: rendered(&[("listener", &seen.listener)], writer), seen }, upstreams)
    }
}

impl Upstream {
    fn new(
        listener: &str,
        seen: &UpstreamSnapshot,
        writer: &dyn Writer,
        packer: &mut Packer<'_>,
    ) -> Self {
        Self {
            labels: rendered(&[("listener", listener), ("upstream", &seen.upstream)], writer),
            counters: seen.counters,
            connect: seen.connect.as_ref().map(|connect| packer.pack(connect)),
            first_byte: seen.first_byte.as_ref().map(|first_byte| packer.pack(first_byte)),
            rtt: seen.rtt.iter().map(|(side, rtt)| (*side, packer.pack(rtt))).collect(),
        }
    }
}

impl Worker {
    fn new(seen: &WorkerSnapshot, writer: &dyn Writer, packer: &mut Packer<'_>) -> Self {
        let lateness = Some(&seen.lateness).filter(|lateness| lateness.count > 0);
        Self {
            labels: rendered(&[("thread", &seen.thread)], writer),
            lateness: lateness.map(|lateness| packer.pack(lateness)),
        }
    }
}

fn rendered(pairs: &[(&str, &str)], writer: &dyn Writer) -> Box<[u8]> {
    let mut labels = Vec::new();
    writer.labels(pairs, &mut labels);
    labels.into()
}
