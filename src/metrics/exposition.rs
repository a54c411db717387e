//! An exposition in parts: the catalogue and one moment in, bytes of a chosen size out. Nothing
//! but the moment is kept between two parts, so memory does not grow with the body, which is ten
//! times larger.

use super::moment::Moment;
use super::writer::{Out, Target, Value, Writer};
use super::{Family, Format, Kind, Read, families, relay};
use crate::host::ProcessUsage;
use crate::stats::Stats;

/// What is left to be written of one scrape.
pub struct Exposition {
    moment: Moment,
    writer: &'static dyn Writer,
    families: Vec<&'static Family>,
    /// Of `families`, the one that is being written.
    family: usize,
    /// Of its targets, listeners or threads the next one; `None` before the family has begun.
    item: Option<usize>,
    /// Memory to put labels together.
    labels: Vec<u8>,
}

impl Exposition {
    /// Everything there is now: one moment of each target, and so of its counters, whenever they
    /// are written. Names choose families, or samples of them; none at all chooses everything.
    #[must_use]
    pub fn new(stats: &Stats, process: ProcessUsage, format: Format, names: &[String]) -> Self {
        let mut everything = stats.with_series();
        everything.process = process;
        let writer = format.writer();
        let moment =
            Moment::new(everything, writer, |probe| probe.snapshot(), |check| check.snapshot());
        Self::of(moment, writer, names)
    }

    pub(super) fn of(moment: Moment, writer: &'static dyn Writer, names: &[String]) -> Self {
        let families = families().filter(|family| {
            let chosen = names.is_empty() || names.iter().any(|name| family.is_called(name));
            chosen && family.is_announced(&moment)
        });
        let families = families.collect();
        Self { moment, writer, families, family: 0, item: None, labels: Vec::new() }
    }

    /// Appends until there are so many bytes, or a few more; returns whether there is more to come.
    pub fn write(&mut self, into: &mut Vec<u8>, bytes_wanted: usize) -> bool {
        while let Some(&family) = self.families.get(self.family) {
            if into.len() >= bytes_wanted {
                return true;
            }
            let items = family.items(&self.moment);
            if self.item.is_none() {
                self.begin(family, items, into);
            }
            for item in self.item.unwrap_or(0)..items {
                if into.len() >= bytes_wanted {
                    self.item = Some(item);
                    return true;
                }
                self.take_item(family, item, Target::Written(into));
            }
            self.family += 1;
            self.item = None;
        }
        self.writer.end(into);
        false
    }

    /// Begins a family. Where its length goes first, its metrics are gone through twice.
    fn begin(&mut self, family: &'static Family, items: usize, into: &mut Vec<u8>) {
        let writer = self.writer;
        let Some(sizes) = writer.sizes() else { return writer.family(family, 0, into) };
        let mut bytes = 0;
        for item in 0..items {
            self.take_item(family, item, Target::Counted(sizes, &mut bytes));
        }
        if bytes > 0 {
            writer.family(family, bytes, into);
        }
    }

    fn take_item(&mut self, family: &'static Family, item: usize, into: Target<'_>) {
        let out = Out { writer: self.writer, family, shared: &[], labels: &mut self.labels, into };
        family.write(&self.moment, item, out);
    }
}

impl Family {
    /// Whether this is the name of the family, in any format, or of samples of it.
    fn is_called(&self, name: &str) -> bool {
        let is_sample = |suffix| matches!(suffix, "_bucket" | "_count" | "_sum");
        name == self.name
            || name == self.stem()
            || self.kind == Kind::Histogram && name.strip_prefix(self.name).is_some_and(is_sample)
    }

    /// Whether it stands there even without a sample. Of `TCP_INFO` only what this kernel fills,
    /// and was chosen.
    fn is_announced(&self, moment: &Moment) -> bool {
        let mut probes = moment.program.probes.iter();
        match self.read {
            Read::TcpInfo(member) => probes.any(|it| it.seen.tcp_info.number(member).is_some()),
            _ => true,
        }
    }

    /// How many targets, listeners or threads it is read of.
    fn items(&self, moment: &Moment) -> usize {
        match self.read {
            Read::Probe(_) | Read::ProbeCounter(_) | Read::TcpInfo(_) | Read::Slo(_) => {
                moment.program.probes.len()
            }
            Read::Check(_) | Read::CheckCounter(_) | Read::CheckSlo(_) => {
                moment.program.checks.len()
            }
            Read::Echo(_) | Read::EchoCounter(_) => moment.echoes.len(),
            Read::Relay(_) | Read::RelayCounter(_) => moment.relays.len(),
            Read::Upstream(_) | Read::UpstreamCounter(_) | Read::UpstreamSides(_) => {
                moment.upstreams.len()
            }
            Read::Worker(_) => moment.workers.len(),
            Read::Program(_) | Read::Process(_) => 1,
        }
    }

    /// Writes the metrics of one of them.
    fn write<'a>(&self, moment: &'a Moment, item: usize, mut out: Out<'a>) {
        let program = &moment.program;
        match self.read {
            Read::Probe(_) | Read::ProbeCounter(_) | Read::TcpInfo(_) | Read::Slo(_) => {
                out.shared = &program.probes[item].labels;
            }
            Read::Check(_) | Read::CheckCounter(_) | Read::CheckSlo(_) => {
                out.shared = &program.checks[item].labels
            }
            Read::Echo(_) | Read::EchoCounter(_) => out.shared = &moment.echoes[item].labels,
            Read::Relay(_) | Read::RelayCounter(_) => out.shared = &moment.relays[item].labels,
            Read::Upstream(_) | Read::UpstreamCounter(_) | Read::UpstreamSides(_) => {
                out.shared = &moment.upstreams[item].labels;
            }
            Read::Worker(_) => out.shared = &moment.workers[item].labels,
            Read::Program(_) | Read::Process(_) => {}
        }
        let out = &mut out;
        match self.read {
            Read::Probe(read) => read(&program.probes[item], out),
            Read::ProbeCounter(read) => out.whole(&[], read(&program.probes[item].seen.counters)),
            Read::TcpInfo(member) => match program.probes[item].seen.tcp_info.number(member) {
                Some(number) if member.unit.is_whole() => out.whole(&[], number),
                number => out.maybe(number.map(|number| member.unit.base(number))),
            },
            Read::Slo(read) => program.probes[item].seen.slos.iter().for_each(|slo| read(slo, out)),
            Read::CheckSlo(read) => {
                program.checks[item].seen.slos.iter().for_each(|slo| read(slo, out));
            }
            Read::Check(read) => read(&program.checks[item], out),
            Read::CheckCounter(read) => out.whole(&[], read(&program.checks[item].seen.counters)),
            Read::Echo(read) => read(&moment.echoes[item], out),
            Read::EchoCounter(read) => out.whole(&[], read(&moment.echoes[item].seen.counters)),
            Read::Relay(read) => read(&moment.relays[item], out),
            Read::RelayCounter(read) => out.whole(&[], read(&moment.relays[item].seen.counters)),
            Read::Upstream(read) => read(&moment.upstreams[item], out),
            Read::UpstreamCounter(read) => {
                out.whole(&[], read(&moment.upstreams[item].counters));
            }
            Read::UpstreamSides(read) => relay::write_sides(&moment.upstreams[item], read, out),
            Read::Worker(read) => read(&moment.workers[item], out),
            Read::Program(read) => read(program, out),
            Read::Process(read) => match read(&program.process) {
                Some(Value::Whole(value)) => out.whole(&[], value),
                Some(Value::Real(value)) => out.real(&[], value),
                None => {}
            },
        }
    }
}
