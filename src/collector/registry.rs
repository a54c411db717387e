//! The collector in a registry of the crate `prometheus`. Readings in, families out.

use std::collections::HashMap;

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter, Gauge, LabelPair, Metric, MetricFamily, MetricType};

use super::{Family, Reading, TcpInfoCollector};

impl Collector for TcpInfoCollector {
    fn desc(&self) -> Vec<&Desc> {
        self.shared.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.families_of(&self.read())
    }
}

impl TcpInfoCollector {
    /// Families that have a sample: a kernel that does not fill a member has none of it.
    pub(super) fn families_of(&self, readings: &[Reading]) -> Vec<MetricFamily> {
        let names = &self.shared.options.labels;
        let families = self.shared.families.iter().map(|family| {
            let samples = readings.iter().filter_map(|reading| sample(family, names, reading));
            let mut found = MetricFamily::default();
            found.set_name(family.name.clone());
            found.set_help(family.member.help.to_owned());
            let counter = family.is_counter();
            found.set_field_type(if counter { MetricType::COUNTER } else { MetricType::GAUGE });
            found.set_metric(samples.collect());
            found
        });
        families.filter(|family| !family.get_metric().is_empty()).collect()
    }
}

/// Descriptions for the registry, made once. Names were checked before, so none is refused; a
/// family whose description were refused would only be unknown to the registry.
pub(super) fn descriptions(families: &[Family], labels: &[String]) -> Vec<Desc> {
    let made = families.iter().map(|Family { member, name, .. }| {
        Desc::new(name.clone(), member.help.to_owned(), labels.to_vec(), HashMap::new())
    });
    made.filter_map(Result::ok).collect()
}

fn sample(family: &Family, names: &[String], reading: &Reading) -> Option<Metric> {
    let value = reading.raw.base(family.member)?;
    let pairs = names.iter().zip(reading.labels.iter()).map(|(name, value)| {
        let mut pair = LabelPair::default();
        pair.set_name(name.clone());
        pair.set_value(value.clone());
        pair
    });
    let mut metric = Metric::from_label(pairs.collect());
    if family.is_counter() {
        let mut counter = Counter::default();
        counter.set_value(value);
        metric.set_counter(counter);
    } else {
        let mut gauge = Gauge::default();
        gauge.set_value(value);
        metric.set_gauge(gauge);
    }
    Some(metric)
}
