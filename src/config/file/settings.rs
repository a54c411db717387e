//! The sections of the configuration file that are about the program: words in, checked sections
//! out. None of them can be changed while it runs.

use std::path::Path;

use super::Complaints;
use super::module::{CLOCKS, default};
use super::raw::{OneOrMany, RawLog, RawMeasuring, RawServe, RawWeb};
use crate::config::address::parse_listen;
use crate::config::yaml::shown;
use crate::config::{
    BadValue, LogSection, MeasuringSection, ServeSection, WebListen, WebSection,
    defaults as unsaid, limits, setting,
};
use crate::sys::IoChoice;
use crate::sys::sandbox::SandboxChoice;

pub(super) fn serve(raw: &RawServe, complaints: &mut Complaints) -> Option<ServeSection> {
    let listen = complaints.value("listen", raw.listen.as_ref(), parse_listen);
    let idle = complaints.value("idle_timeout", raw.idle_timeout.as_ref(), setting::idle_timeout);
    let most = raw.max_connections.as_ref();
    let most = complaints.value("max_connections", most, setting::connections_max);
    Some(ServeSection {
        listen: listen.unwrap_or_else(|| default(unsaid::LISTEN, parse_listen)),
        idle_timeout: idle.unwrap_or_else(|| default(unsaid::IDLE_TIMEOUT, setting::idle_timeout)),
        connections_max: most
            .unwrap_or_else(|| default(unsaid::CONNECTIONS_MAX, setting::connections_max)),
    })
}

pub(super) fn web(raw: RawWeb, folder: &Path, complaints: &mut Complaints) -> WebSection {
    let mut addresses = Vec::new();
    if let Some(listen) = raw.listen {
        let place = listen.referenced;
        let OneOrMany(words) = listen.value;
        if words.is_empty() || words.len() > limits::WEB_ADDRESSES_MAX {
            let most = limits::WEB_ADDRESSES_MAX;
            complaints.at(place, format!("listen has 1 to {most} addresses; write e.g. :2112"));
        }
        for word in words {
            match parse_listen(&word) {
                Ok(address) => addresses.push(address),
                Err(BadValue { why, instead }) => {
                    let word = shown(&word);
                    let line = format!("listen {word}: {why}; write e.g. listen: {instead}");
                    complaints.at(place, line);
                }
            }
        }
    } else {
        addresses.push(default(unsaid::WEB_LISTEN, parse_listen));
    }
    WebSection {
        listen: match raw.systemd_socket {
            Some(true) => WebListen::Systemd,
            _ => WebListen::Addresses(addresses),
        },
        config_file: raw.config_file.map(|file| folder.join(file.value)),
    }
}

pub(super) fn measuring(raw: &RawMeasuring, complaints: &mut Complaints) -> MeasuringSection {
    let threads = complaints.value("threads", raw.threads.as_ref(), setting::threads);
    MeasuringSection {
        io: complaints.choice("io", raw.io.as_ref(), &IOS).unwrap_or_default(),
        clock: complaints.choice("clock", raw.clock.as_ref(), &CLOCKS).unwrap_or_default(),
        threads: threads.unwrap_or_else(|| default(unsaid::THREADS, setting::threads)),
        pin: complaints.value("pin", raw.pin.as_ref(), setting::pin).unwrap_or_default(),
        busy_poll: raw.busy_poll.unwrap_or(false),
        priority: complaints.value("priority", raw.priority.as_ref(), setting::priority),
        sandbox: complaints
            .choice("sandbox", raw.sandbox.as_ref(), &SandboxChoice::NAMED)
            .unwrap_or_default(),
    }
}

pub(super) fn log(raw: &RawLog, complaints: &mut Complaints) -> LogSection {
    let level = complaints.choice("level", raw.level.as_ref(), &LEVELS);
    let json = complaints.choice("format", raw.format.as_ref(), &FORMATS);
    LogSection { level: level.unwrap_or(tracing::Level::INFO), json: json.unwrap_or(false) }
}

/// [`crate::config::agent::AgentSection::targets_max`].
pub(super) fn targets_max(text: &str) -> Result<usize, BadValue> {
    let most = limits::TARGETS_MAX;
    let good = text.parse().ok().filter(|targets| (1..=most).contains(targets));
    good.ok_or_else(|| BadValue::new(format!("is no number of 1 to {most}"), "10000"))
}

const IOS: [(&str, IoChoice); 3] =
    [("auto", IoChoice::Auto), ("uring", IoChoice::Uring), ("poll", IoChoice::Poll)];

const LEVELS: [(&str, tracing::Level); 5] = [
    ("error", tracing::Level::ERROR),
    ("warn", tracing::Level::WARN),
    ("info", tracing::Level::INFO),
    ("debug", tracing::Level::DEBUG),
    ("trace", tracing::Level::TRACE),
];

const FORMATS: [(&str, bool); 2] = [("text", false), ("json", true)];
