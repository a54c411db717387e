//! The collector in a registry of the official client, `prometheus-client`. Readings in, families
//! out.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabel, EncodeLabelSet, LabelSetEncoder, MetricEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::Unit;

use super::{Family, Reading, TcpInfoCollector};

impl Collector for TcpInfoCollector {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        self.encode_readings(&self.read(), encoder)
    }
}

impl TcpInfoCollector {
    pub(super) fn encode_readings(
        &self,
        readings: &[Reading],
        mut encoder: DescriptorEncoder<'_>,
    ) -> fmt::Result {
        let names = &self.shared.options.labels;
        for family in &self.shared.families {
            let mut values = readings
                .iter()
                .filter_map(|reading| Some((reading, reading.raw.base(family.member)?)))
                .peekable();
            // A kernel that does not fill a member has no such family.
            if values.peek().is_none() {
                continue;
            }
            let mut metric = encoder.encode_descriptor(
                &family.stem,
                family.member.help,
                family.unit.as_ref(),
                if family.is_counter() { MetricType::Counter } else { MetricType::Gauge },
            )?;
            for (Reading { labels, .. }, value) in values {
                // A metric without labels is no family of the client's.
                if names.is_empty() {
                    encode(family, &mut metric, value)?;
                } else {
                    let labels = Pairs { names, values: labels };
                    encode(family, &mut metric.encode_family(&labels)?, value)?;
                }
            }
        }
        Ok(())
    }
}

/// The unit that a name's suffix stands for.
pub(super) fn unit(suffix: &str) -> Option<Unit> {
    match suffix.trim_start_matches('_') {
        "" => None,
        "seconds" => Some(Unit::Seconds),
        "bytes" => Some(Unit::Bytes),
        other => Some(Unit::Other(other.to_owned())),
    }
}

fn encode(family: &Family, metric: &mut MetricEncoder<'_>, value: f64) -> fmt::Result {
    if family.is_counter() {
        metric.encode_counter(&value, None::<&Exemplar<Pairs<'_>, f64>>)
    } else {
        metric.encode_gauge(&value)
    }
}

/// Names and values of a connection's labels.
#[derive(Debug)]
struct Pairs<'a> {
    names: &'a [String],
    values: &'a [String],
}

impl EncodeLabelSet for Pairs<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        for pair in self.names.iter().map(String::as_str).zip(self.values) {
            pair.encode(encoder.encode_label())?;
        }
        Ok(())
    }
}
