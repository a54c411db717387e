//! A module of the configuration file: its words and the defaults' in, checked settings out.

use std::num::NonZeroU8;
use std::time::Duration;

use serde_saphyr::Spanned;

use super::Complaints;
use super::raw::{RawModule, RawSlo};
use crate::config::agent::Module;
use crate::config::yaml::Word;
use crate::config::{
    BadValue, ProbeSection, ReportMode, Slo, SloClock, TcpInfoChoice, WireChoice, address,
    defaults as unsaid, duration, limits, setting,
};
use crate::sys::socket::SocketOptions;
use crate::sys::{ClockChoice, MethodChoice};

/// How a module probes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Prober {
    Echo,
    Check,
    Connect,
}

/// A module's own words, and those of all modules.
struct Layers<'a> {
    own: &'a RawModule,
    all: &'a RawModule,
}

impl<'a> Layers<'a> {
    fn word(&self, of: impl Fn(&'a RawModule) -> Option<&'a Word>) -> Option<&'a Word> {
        of(self.own).or_else(|| of(self.all))
    }
}

/// The module; of what is bad, the complaints know.
pub(super) fn checked(
    name: &str,
    own: &RawModule,
    all: &RawModule,
    program_clock: ClockChoice,
    complaints: &mut Complaints,
) -> Module {
    let layers = Layers { own, all };
    let prober = complaints.choice("prober", layers.word(|raw| raw.prober.as_ref()), &PROBERS);
    let prober = prober.unwrap_or(Prober::Echo);
    check_use(own, prober, complaints);
    let (interval, timeout) = times(&layers, complaints);
    let clock = complaints.choice("clock", layers.word(|raw| raw.clock.as_ref()), &CLOCKS);
    let clock = clock.unwrap_or(program_clock);
    let (wire, padding_bytes) = wire(&layers, complaints);
    let is_echo = prober == Prober::Echo;
    let paths = if is_echo { paths(&layers, complaints) } else { NonZeroU8::MIN };
    let method = layers.word(|raw| raw.method.as_ref());
    let method = complaints.choice("method", method, &MethodChoice::NAMED).unwrap_or_default();
    let tcp_info = layers.word(|raw| raw.tcp_info.as_ref());
    let tcp_info = complaints.choice("tcp_info", tcp_info, &TCP_INFO).unwrap_or_default();
    let adaptive = own.adaptive.as_ref().or(all.adaptive.as_ref());
    let window =
        complaints.value("window", layers.word(|raw| raw.window.as_ref()), setting::window);
    let settings = ProbeSection {
        targets: Vec::new(),
        interval,
        timeout,
        adaptive: is_echo && adaptive.is_some_and(|adaptive| adaptive.value),
        window: window.unwrap_or_else(|| default(unsaid::WINDOW, setting::window)),
        count: None,
        duration: None,
        paths,
        wire: if is_echo { wire } else { WireChoice::Auto },
        padding_bytes: if is_echo { padding_bytes } else { 0 },
        socket: socket(&layers, complaints),
        slos: slos(&layers, timeout, clock, complaints),
        buckets: buckets(&layers, complaints),
        tcp_info: match (is_echo, paths) {
            (true, NonZeroU8::MIN) => tcp_info,
            (true, _) => TcpInfoChoice::Off,
            (false, _) => TcpInfoChoice::Default,
        },
        check: match prober {
            Prober::Echo => None,
            Prober::Check => Some(method),
            Prober::Connect => Some(MethodChoice::DIAL),
        },
        report: ReportMode::Quiet,
    };
    Module { name: name.to_owned(), clock, settings }
}

/// A default through its own parser.
pub(super) fn default<T>(text: &str, parse: impl FnOnce(&str) -> Result<T, BadValue>) -> T {
    parse(text).expect("defaults are good; a test reads them all")
}

/// What a module says must be of use to its kind of probe. The defaults are for all kinds.
fn check_use(own: &RawModule, prober: Prober, complaints: &mut Complaints) {
    let echo_only = [
        ("paths", own.paths.as_ref().map(|word| word.referenced)),
        ("wire", own.wire.as_ref().map(|word| word.referenced)),
        ("padding", own.padding.as_ref().map(|word| word.referenced)),
        ("tcp_info", own.tcp_info.as_ref().map(|word| word.referenced)),
        ("adaptive", own.adaptive.as_ref().map(|word| word.referenced)),
    ];
    let method = own.method.as_ref();
    if prober != Prober::Echo {
        for (key, place) in echo_only.into_iter().filter_map(|(key, place)| Some((key, place?))) {
            complaints.at(place, format!("{key} is for prober: echo; leave it out"));
        }
    }
    if let Some(method) = method.filter(|_| prober != Prober::Check) {
        complaints.at(method.referenced, "method is for prober: check; leave one of them out");
    }
}

fn times(layers: &Layers<'_>, complaints: &mut Complaints) -> (Duration, Duration) {
    let interval = layers.word(|raw| raw.interval.as_ref());
    let interval = complaints.value("interval", interval, setting::interval);
    let interval = interval.unwrap_or_else(|| default(unsaid::INTERVAL, setting::interval));
    let word = layers.word(|raw| raw.timeout.as_ref());
    let timeout = complaints.value("timeout", word, |text| {
        let timeout = setting::timeout(text)?;
        setting::check_in_flight(interval, timeout).map(|()| timeout)
    });
    let timeout = timeout.unwrap_or_else(|| default(unsaid::TIMEOUT, setting::timeout));
    if word.is_none()
        && let Err(BadValue { why, instead }) = setting::check_in_flight(interval, timeout)
        && let Some(place) = layers.word(|raw| raw.interval.as_ref())
    {
        let timeout = duration::to_text(timeout);
        let why = format!("timeout {timeout} {why}; write e.g. timeout: {instead}");
        complaints.at(place.referenced, why);
    }
    (interval, timeout)
}

fn paths(layers: &Layers<'_>, complaints: &mut Complaints) -> NonZeroU8 {
    let word = layers.word(|raw| raw.paths.as_ref());
    let paths = complaints.value("paths", word, setting::paths).unwrap_or(NonZeroU8::MIN);
    if paths > NonZeroU8::MIN
        && let Some(word) = &layers.own.tcp_info
        && word.value != "off"
    {
        let why = "tcp_info is of one connection, and the module has several; leave it out";
        complaints.at(word.referenced, why);
    }
    paths
}

fn wire(layers: &Layers<'_>, complaints: &mut Complaints) -> (WireChoice, u16) {
    let wire = complaints.choice("wire", layers.word(|raw| raw.wire.as_ref()), &WIRES);
    let wire = wire.unwrap_or_default();
    let word = layers.word(|raw| raw.padding.as_ref());
    let padding_bytes = complaints.value("padding", word, setting::padding_bytes).unwrap_or(0);
    if padding_bytes > 0
        && matches!(wire, WireChoice::V1 | WireChoice::V2)
        && let Some(word) = word
    {
        complaints.at(word.referenced, "v1 and v2 frames have no padding; write wire: v3");
    }
    (wire, padding_bytes)
}

fn socket(layers: &Layers<'_>, complaints: &mut Complaints) -> SocketOptions {
    let interface = layers.word(|raw| raw.interface.as_ref());
    SocketOptions {
        source: complaints.value("source", layers.word(|raw| raw.source.as_ref()), setting::source),
        interface: complaints.value("interface", interface, setting::interface),
        dscp: complaints.value("dscp", layers.word(|raw| raw.dscp.as_ref()), setting::dscp),
        ttl: complaints.value("ttl", layers.word(|raw| raw.ttl.as_ref()), setting::ttl),
    }
}

fn buckets(layers: &Layers<'_>, complaints: &mut Complaints) -> Option<Vec<Duration>> {
    let raw = layers.own.buckets.as_ref().or(layers.all.buckets.as_ref())?;
    if raw.value.len() > limits::BUCKETS_MAX {
        let most = limits::BUCKETS_MAX;
        complaints.at(raw.referenced, format!("a module has at most {most} buckets; write fewer"));
    }
    let words = raw.value.iter().take(limits::BUCKETS_MAX);
    let parsed = words.map(|word| complaints.value("buckets", Some(word), setting::bucket));
    Some(parsed.collect::<Vec<_>>().into_iter().flatten().collect())
}

fn slos(
    layers: &Layers<'_>,
    timeout: Duration,
    clock: ClockChoice,
    complaints: &mut Complaints,
) -> Vec<Slo> {
    let raw = layers.own.slos.as_ref().or(layers.all.slos.as_ref());
    let mut slos: Vec<Slo> = Vec::new();
    for raw in raw.into_iter().flatten() {
        if slos.len() == limits::SLOS_MAX {
            let most = limits::SLOS_MAX;
            complaints.at(raw.referenced, format!("a module has at most {most} slos; write fewer"));
            break;
        }
        let Some(slo) = slo(raw, timeout, clock, complaints) else { continue };
        if slos.iter().any(|earlier| earlier.name == slo.name) {
            let why = format!("is the second objective named {}; write name: strict", slo.name);
            complaints.at(raw.referenced, why);
        }
        slos.push(slo);
    }
    slos
}

fn slo(
    raw: &Spanned<RawSlo>,
    timeout: Duration,
    program_clock: ClockChoice,
    complaints: &mut Complaints,
) -> Option<Slo> {
    let (place, raw) = (raw.referenced, &raw.value);
    let (Some(threshold), Some(objective)) = (&raw.threshold, &raw.objective) else {
        let why = "an objective has threshold and objective; write e.g. \
                   {threshold: 1ms, objective: 99.9%}";
        complaints.at(place, why);
        return None;
    };
    let clock = complaints.choice("clock", raw.clock.as_ref(), &SloClock::NAMED);
    let clock = clock.unwrap_or_default();
    if clock == SloClock::Kernel && program_clock == ClockChoice::Application {
        complaints.at(place, "clock kernel, but the module has none; write clock: application");
    }
    // The parsers' examples are whole objectives; here each half has its key.
    let threshold_word = threshold;
    let threshold = complaints.value("threshold", Some(threshold_word), |text| {
        let refused = |bad: BadValue| {
            BadValue::new(bad.why.trim_start_matches("has a threshold that "), "1ms")
        };
        setting::slo_threshold(text).map_err(refused)
    });
    let objective_ratio = complaints.value("objective", Some(objective), |text| {
        setting::objective_ratio(text).map_err(|bad| BadValue::new(bad.why, "99.9%"))
    });
    let (threshold, objective_ratio) = (threshold?, objective_ratio?);
    if threshold > timeout {
        let timeout = duration::to_text(timeout);
        let why = format!("the threshold is beyond the timeout of {timeout}; write at most that");
        complaints.at(threshold_word.referenced, why);
    }
    let named = SloClock::NAMED.iter().find(|(_, named)| *named == clock).map_or("", |it| it.0);
    let name = match &raw.name {
        Some(name) => complaints.value("name", Some(name), |text| {
            address::check_name(text).map_err(|why| BadValue::new(why, "fast"))?;
            Ok(text.to_owned())
        })?,
        None if clock == SloClock::Best => duration::to_text(threshold),
        None => format!("{}-{named}", duration::to_text(threshold)),
    };
    Some(Slo { name, threshold, objective_ratio, clock })
}

const PROBERS: [(&str, Prober); 3] =
    [("echo", Prober::Echo), ("check", Prober::Check), ("connect", Prober::Connect)];

pub(super) const CLOCKS: [(&str, ClockChoice); 3] = [
    ("auto", ClockChoice::Auto),
    ("kernel", ClockChoice::Kernel),
    ("application", ClockChoice::Application),
];

const WIRES: [(&str, WireChoice); 4] = [
    ("auto", WireChoice::Auto),
    ("v1", WireChoice::V1),
    ("v2", WireChoice::V2),
    ("v3", WireChoice::V3),
];

const TCP_INFO: [(&str, TcpInfoChoice); 3] =
    [("all", TcpInfoChoice::All), ("default", TcpInfoChoice::Default), ("off", TcpInfoChoice::Off)];
