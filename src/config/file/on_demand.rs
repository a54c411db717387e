//! The section `probe` of the configuration file: words in, a checked list of who may be probed on
//! demand out.

use serde_saphyr::Spanned;

use super::Complaints;
use super::module::default;
use super::raw::{OneOrMany, RawAllowed, RawOnDemand};
use crate::config::on_demand::{Allowed, OnDemandSection, parse_ports};
use crate::config::yaml::shown;
use crate::config::{BadValue, defaults as unsaid, limits, setting};

/// The section; `None` if it cannot be used. `modules` are those of the file.
pub(super) fn checked(
    raw: Spanned<RawOnDemand>,
    modules: &[&str],
    complaints: &mut Complaints,
) -> Option<OnDemandSection> {
    let place = raw.referenced;
    let raw = raw.value;
    let mut allow = Vec::new();
    for rule in raw.allow.unwrap_or_default() {
        allow.extend(allowed(rule, complaints));
    }
    if allow.is_empty() && complaints.0.is_empty() {
        let why = "probe allows nobody; write allow: [{networks: 10.0.0.0/8, ports: 1-65535}]";
        complaints.at(place, why);
    }
    if allow.len() > limits::ALLOWED_MAX {
        let (given, most) = (allow.len(), limits::ALLOWED_MAX);
        complaints.at(place, format!("allow: {given} rules; write at most {most}"));
    }
    let names = raw.modules.map(|names| (names.referenced, names.value.0));
    let (place, names) = names.unwrap_or((place, Vec::new()));
    for name in names.iter().filter(|name| !modules.contains(&name.as_str())) {
        let known = modules.join(", ");
        complaints.at(place, format!("modules: {} is unknown; write {known}", shown(name)));
    }
    let concurrency = complaints.value("concurrency", raw.concurrency.as_ref(), concurrency);
    let offset = raw.timeout_offset.as_ref();
    let offset = complaints.value("timeout_offset", offset, setting::timeout);
    Some(OnDemandSection {
        allow,
        modules: names,
        concurrency: concurrency
            .unwrap_or_else(|| default(unsaid::PROBE_CONCURRENCY, self::concurrency)),
        timeout_offset: offset
            .unwrap_or_else(|| default(unsaid::PROBE_TIMEOUT_OFFSET, setting::timeout)),
    })
}

fn allowed(rule: Spanned<RawAllowed>, complaints: &mut Complaints) -> Option<Allowed> {
    let place = rule.referenced;
    let RawAllowed { networks, hosts, ports } = rule.value;
    let (Some(networks), Some(ports)) = (networks, ports) else {
        let why = "a rule needs networks and ports; write networks: 10.0.0.0/8, ports: 1-65535";
        complaints.at(place, why);
        return None;
    };
    let networks = each("networks", networks, str::parse, complaints);
    let ports = each("ports", ports, parse_ports, complaints);
    let hosts = hosts.map(|hosts| each("hosts", hosts, str::parse, complaints));
    Some(Allowed { networks, hosts: hosts.unwrap_or_default(), ports })
}

/// Every word through its parser; none at all is a mistake, too.
fn each<T>(
    key: &str,
    words: Spanned<OneOrMany>,
    parse: impl Fn(&str) -> Result<T, BadValue>,
    complaints: &mut Complaints,
) -> Vec<T> {
    let place = words.referenced;
    let OneOrMany(words) = words.value;
    if words.is_empty() {
        complaints.at(place, format!("{key} is empty; write one, or leave the rule out"));
    }
    let mut values = Vec::with_capacity(words.len());
    for word in words {
        match parse(&word) {
            Ok(value) => values.push(value),
            Err(BadValue { why, instead }) => {
                let word = shown(&word);
                complaints.at(place, format!("{key} {word}: {why}; write e.g. {key}: {instead}"));
            }
        }
    }
    values
}

/// [`OnDemandSection::concurrency`].
fn concurrency(text: &str) -> Result<usize, BadValue> {
    let most = limits::PROBES_ON_DEMAND_MAX;
    let good = text.parse().ok().filter(|probes| (1..=most).contains(probes));
    good.ok_or_else(|| BadValue::new(format!("is no number of 1 to {most}"), "16"))
}
