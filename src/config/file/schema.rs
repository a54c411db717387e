//! The JSON Schema of the configuration file, for editors and for those who write it by program:
//! a line for each key in, the schema's text out. A test holds it to the keys that are read.

use serde_json::{Map, Value, json};

/// A key of a section: its name, what its value is, and what it means.
type Key = (&'static str, Kind, &'static str);

/// What a value is.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// As Go writes them, e.g. `10ms`.
    Duration,
    /// Any text.
    Text,
    Number,
    Bool,
    /// One of these.
    Choice(&'static [&'static str]),
    /// A text, or a list of texts.
    OneOrMany,
    /// A list of texts.
    Many,
    /// A number or a text, or a list of them.
    NumbersOrTexts,
    /// A section.
    Section(&'static [Key]),
    /// Sections in a list.
    List(&'static [Key]),
    /// Sections by names of the user's choice.
    Named(&'static [Key]),
    /// Texts by names of the user's choice.
    Texts,
}

/// The schema, with a final newline.
#[must_use]
pub fn text() -> String {
    let mut schema = section(FILE);
    schema.insert("$schema".to_owned(), json!("https://json-schema.org/draft/2020-12/schema"));
    schema.insert("title".to_owned(), json!("Configuration of rttscope run"));
    format!("{:#}\n", Value::Object(schema))
}

fn section(keys: &[Key]) -> Map<String, Value> {
    let properties: Map<String, Value> = keys
        .iter()
        .map(|(name, kind, meaning)| {
            let mut value = kind.schema();
            value.insert("description".to_owned(), json!(meaning));
            ((*name).to_owned(), Value::Object(value))
        })
        .collect();
    let mut section = object(json!({ "type": "object", "additionalProperties": false }));
    section.insert("properties".to_owned(), Value::Object(properties));
    section
}

impl Kind {
    fn schema(self) -> Map<String, Value> {
        match self {
            Self::Duration => object(json!({
                "type": "string",
                "pattern": r"^\+?([0-9]+(\.[0-9]*)?(ns|us|µs|μs|ms|s|m|h|d))+$",
            })),
            Self::Text => object(json!({ "type": ["string", "number"] })),
            Self::Number => object(json!({ "type": "integer", "minimum": 0 })),
            Self::Bool => object(json!({ "type": "boolean" })),
            Self::Choice(words) => object(json!({ "enum": words })),
            Self::OneOrMany => object(json!({
                "anyOf": [
                    { "type": "string" },
                    { "type": "array", "items": { "type": "string" }, "minItems": 1 },
                ],
            })),
            Self::Many => object(json!({
                "type": "array",
                "items": { "type": ["string", "number"] },
            })),
            Self::NumbersOrTexts => object(json!({
                "anyOf": [
                    { "type": ["string", "integer"] },
                    { "type": "array", "items": { "type": ["string", "integer"] }, "minItems": 1 },
                ],
            })),
            Self::Section(keys) => section(keys),
            Self::List(keys) => {
                object(json!({ "type": "array", "items": Value::Object(section(keys)) }))
            }
            Self::Named(keys) => object(json!({
                "type": "object",
                "additionalProperties": Value::Object(section(keys)),
            })),
            Self::Texts => object(json!({
                "type": "object",
                "additionalProperties": { "type": ["string", "number", "boolean"] },
            })),
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(map) => map,
        other => Map::from_iter([("const".to_owned(), other)]),
    }
}

const FILE: &[Key] = &[
    ("defaults", Kind::Section(MODULE), "What every module has unless it says otherwise."),
    (
        "modules",
        Kind::Named(MODULE),
        "Ways to probe, by name; one of the defaults if there is none.",
    ),
    ("targets", Kind::List(TARGET), "Whom to probe."),
    ("targets_file", Kind::Text, "More targets, in the JSON file of tcp_ping_prometheus."),
    ("discovery", Kind::List(JOB), "Whom to probe, as files, URLs and name servers say it."),
    ("probe", Kind::Section(ON_DEMAND), "Whom GET /probe may probe; nobody without it."),
    ("serve", Kind::Section(SERVE), "Answer probes."),
    ("relay", Kind::Section(RELAY), "Pass connections on to upstreams."),
    ("web", Kind::Section(WEB), "The HTTP server; on :2112 unless it is said."),
    ("measuring", Kind::Section(MEASURING), "How the measuring threads work."),
    ("limits", Kind::Section(LIMITS), "What must not be exceeded."),
    ("log", Kind::Section(LOG), "How logs look."),
];

const MODULE: &[Key] = &[
    (
        "prober",
        Kind::Choice(&["echo", "check", "connect"]),
        "Echo probes, half-open checks, or connects.",
    ),
    ("interval", Kind::Duration, "Time between two probes of one target."),
    ("timeout", Kind::Duration, "How long to wait for a reply; may exceed the interval."),
    ("adaptive", Kind::Bool, "Let the timeout follow the measured times (RFC 6298)."),
    ("window", Kind::Number, "Outcomes in the sliding loss window."),
    ("clock", Kind::Choice(CLOCKS), "The best clock, the kernel's or nothing, or ours only."),
    ("paths", Kind::Number, "Connections to each target, which take turns; 1 by default."),
    ("wire", Kind::Choice(&["auto", "v1", "v2", "v3"]), "Frames to speak."),
    ("padding", Kind::Number, "Bytes added to every v3 frame."),
    ("method", Kind::Choice(&["auto", "syn", "quickack", "dial"]), "How to check."),
    ("source", Kind::Text, "Source address."),
    ("interface", Kind::Text, "Interface to leave by."),
    ("dscp", Kind::Text, "Differentiated services code point: 0 to 63 or a name, as EF."),
    ("ttl", Kind::Number, "Time to live (hop limit), 1 to 255."),
    ("tcp_info", Kind::Choice(&["all", "default", "off"]), "What to show of TCP_INFO."),
    ("slos", Kind::List(SLO), "Objectives counted exactly."),
    (
        "buckets",
        Kind::Many,
        "Ends of the classic buckets of round trips, instead of 1-2-5 steps; those of the slos \
         are there, too.",
    ),
];

const SLO: &[Key] = &[
    ("name", Kind::Text, "The slo label; the threshold unless it is given."),
    ("threshold", Kind::Duration, "Longest round trip of a good probe."),
    ("objective", Kind::Text, "Wanted share of good probes, as 99.9%."),
    (
        "clock",
        Kind::Choice(&["best", "kernel", "application"]),
        "Which of a probe's times is held against the threshold.",
    ),
];

const TARGET: &[Key] = &[
    ("name", Kind::Text, "The target label; the address unless it is given."),
    ("address", Kind::Text, "host:port, [v6]:port, [v6%zone]:port."),
    ("module", Kind::Text, "How to probe it; the only module unless it is given."),
    ("labels", Kind::Texts, "Labels of all metrics of the target."),
];

const JOB: &[Key] = &[
    ("name", Kind::Text, "The discovery label of its metrics; its place in the list by default."),
    ("module", Kind::Text, "How to probe, unless a target's label __module__ says otherwise."),
    ("static_configs", Kind::List(GROUP), "Targets that need no source."),
    ("file_sd_configs", Kind::List(FILE_SD), "JSON or YAML files of targets."),
    ("http_sd_configs", Kind::List(HTTP_SD), "URLs that answer targets as JSON."),
    ("dns_sd_configs", Kind::List(DNS_SD), "Names whose records are targets."),
    ("relabel_configs", Kind::List(RELABEL), "What happens to the labels of every target."),
    ("mesh", Kind::Section(MESH), "Probe only some of the targets: those of this host's mesh."),
];

const GROUP: &[Key] = &[
    ("targets", Kind::Many, "host:port each."),
    ("labels", Kind::Texts, "Labels of all of them."),
];

const FILE_SD: &[Key] = &[
    ("files", Kind::Many, "Paths; the last part may have one *."),
    ("refresh_interval", Kind::Duration, "Files are compared every 2 s, or more often."),
];

const HTTP_SD: &[Key] = &[
    ("url", Kind::Text, "http:// or https://, without a user."),
    ("refresh_interval", Kind::Duration, "Time between two questions; 1m by default."),
    ("timeout", Kind::Duration, "How long an answer may take; 10s by default."),
    ("headers", Kind::Texts, "Headers of the question."),
    ("tls_config", Kind::Section(TLS), "Whom https trusts."),
];

const TLS: &[Key] = &[("ca_file", Kind::Text, "Authorities in PEM format.")];

const DNS_SD: &[Key] = &[
    ("names", Kind::Many, "Names to ask for."),
    ("type", Kind::Text, "SRV (the default), A or AAAA."),
    ("port", Kind::Number, "The port of A and AAAA records."),
    ("refresh_interval", Kind::Duration, "Longest time between two questions; 30s by default."),
    ("servers", Kind::Many, "address:port of name servers, instead of the system's."),
];

const RELABEL: &[Key] = &[
    ("source_labels", Kind::Many, "Labels whose values are joined and matched."),
    ("separator", Kind::Text, "What joins them; ; by default."),
    ("regex", Kind::Text, "Must match all of it; (.*) by default."),
    ("target_label", Kind::Text, "The label that is written."),
    ("replacement", Kind::Text, "What is written; $1 by default."),
    ("action", Kind::Text, "replace, keep, drop, labelmap, labeldrop or labelkeep."),
];

const MESH: &[Key] = &[
    ("self", Kind::Text, "This host's address among the targets; ${NAME} is a variable."),
    ("labels", Kind::Texts, "This host's labels, while it is not among the targets."),
    ("scopes", Kind::List(SCOPE), "Some peers of each."),
];

const SCOPE: &[Key] = &[
    ("name", Kind::Text, "For people."),
    ("same", Kind::Many, "Labels that must be this host's."),
    ("other", Kind::Many, "Labels that must be none of this host's."),
    ("peers", Kind::Number, "How many hosts are probed."),
];

const ON_DEMAND: &[Key] = &[
    ("allow", Kind::List(ALLOWED), "Rules; what none of them allows is refused."),
    ("modules", Kind::OneOrMany, "Modules that may be asked for; all unless it is given."),
    ("concurrency", Kind::Number, "Probes at once; beyond it the answer is 503."),
    ("timeout_offset", Kind::Duration, "How much earlier than Prometheus' timeout to end."),
];

const ALLOWED: &[Key] = &[
    ("networks", Kind::OneOrMany, "Where the address must be, as 10.0.0.0/8."),
    ("hosts", Kind::OneOrMany, "What the host must be called, as *.example.org; anything unless."),
    ("ports", Kind::NumbersOrTexts, "Ports, as 443 or 4000-4010."),
];

const SERVE: &[Key] = &[
    ("listen", Kind::Text, "Where to answer probes; :PORT is every address."),
    ("idle_timeout", Kind::Duration, "Close a connection on which nothing came for this long."),
    ("max_connections", Kind::Number, "Connections of each measuring thread."),
];

const RELAY: &[Key] = &[
    ("listeners", Kind::List(LISTENER), "Where clients connect, and where they are passed on to."),
    ("grace", Kind::Duration, "How long live connections may finish at the end."),
    ("summary_interval", Kind::Text, "How often to log a summary; off: never."),
];

const LISTENER: &[Key] = &[
    ("listen", Kind::Text, "Where clients connect; :PORT is every address."),
    ("systemd_socket", Kind::Bool, "Take the listening socket from systemd instead."),
    ("reuse_port", Kind::Bool, "Let another process listen there, too."),
    ("upstreams", Kind::OneOrMany, "Whom clients are passed on to, host:port."),
    ("drain", Kind::OneOrMany, "Upstreams that get no new clients."),
    (
        "balance",
        Kind::Choice(&["round-robin", "least-connections", "lowest-latency"]),
        "Who gets a new client.",
    ),
    ("connect_timeout", Kind::Duration, "How long an attempt to connect may take."),
    ("attempts", Kind::Number, "Attempts to connect for one client."),
    ("idle_timeout", Kind::Text, "Close a connection on which nothing moved so long, or off."),
    ("max_connections", Kind::Number, "Clients beyond this many are closed at once."),
    ("proxy_in", Kind::Bool, "Every client begins with a PROXY header."),
    ("proxy_out", Kind::Choice(&["v1", "v2"]), "Send every upstream a PROXY header first."),
    ("health", Kind::Section(HEALTH), "How upstreams are checked, by half-open handshakes."),
    ("source", Kind::Text, "Source address towards upstreams."),
    ("interface", Kind::Text, "Interface to leave by, towards upstreams."),
    ("dscp", Kind::Text, "Differentiated services code point towards upstreams."),
    ("ttl", Kind::Number, "Time to live (hop limit) towards upstreams."),
];

const HEALTH: &[Key] = &[
    ("interval", Kind::Text, "Time between two checks of an upstream; off: none."),
    ("timeout", Kind::Duration, "How long an answer may take."),
    ("rise", Kind::Number, "Checks in a row that make a down upstream up."),
    ("fall", Kind::Number, "Checks in a row without an answer that make an upstream down."),
];

const WEB: &[Key] = &[
    ("listen", Kind::OneOrMany, "Where to serve /metrics; :PORT is every address."),
    ("systemd_socket", Kind::Bool, "Take the sockets from systemd instead."),
    ("config_file", Kind::Text, "TLS, users, headers and a rate limit: exporter-toolkit's file."),
];

const MEASURING: &[Key] = &[
    ("threads", Kind::Number, "Measuring threads, for answering and for probing each."),
    ("pin", Kind::Text, "CPUs for the measuring threads, in turn, as 0,2-3."),
    ("io", Kind::Choice(&["auto", "uring", "poll"]), "io_uring, or readiness."),
    ("clock", Kind::Choice(CLOCKS), "The best clock, the kernel's or nothing, or ours only."),
    ("busy_poll", Kind::Bool, "Never sleep while waiting."),
    ("priority", Kind::Text, "nice:-20 to nice:19, fifo:1 to fifo:99."),
    (
        "sandbox",
        Kind::Choice(&["auto", "on", "off"]),
        "Confine the program once it has started: as far as possible, fully or not at all.",
    ),
];

const LIMITS: &[Key] = &[("targets", Kind::Number, "Most targets, wherever they come from.")];

const LOG: &[Key] = &[
    (
        "level",
        Kind::Choice(&["error", "warn", "info", "debug", "trace"]),
        "Least severe messages to log.",
    ),
    ("format", Kind::Choice(&["text", "json"]), "How to log."),
];

const CLOCKS: &[&str] = &["auto", "kernel", "application"];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use serde::de::DeserializeOwned;
    use serde_saphyr::{Error, Spanned};

    use super::super::raw::{
        RawAllowed, RawFile, RawHealth, RawJob, RawLimits, RawListener, RawLog, RawMeasuring,
        RawModule, RawOnDemand, RawRelay, RawServe, RawSlo, RawTarget, RawWeb,
    };
    use super::*;
    use crate::config::discovery::{DnsSd, FileSd, HttpSd, RelabelConfig, TargetGroup, TlsTrust};
    use crate::config::mesh::{MeshConfig, MeshScope};

    /// The keys that are read, as the complaint about another one lists them.
    fn check<T: DeserializeOwned>(keys: &[Key]) {
        let error = serde_saphyr::from_str::<Spanned<T>>("no_such_key: 1").err().unwrap();
        let Error::SerdeUnknownField { expected, .. } = error.without_snippet() else {
            panic!("{error}");
        };
        let told: Vec<&str> = keys.iter().map(|(name, ..)| *name).collect();
        assert_eq!(told, *expected);
    }

    #[test]
    fn every_key_that_is_read_is_told() {
        check::<RawFile>(FILE);
        check::<RawModule>(MODULE);
        check::<RawSlo>(SLO);
        check::<RawTarget>(TARGET);
        check::<RawJob>(JOB);
        check::<TargetGroup>(GROUP);
        check::<FileSd>(FILE_SD);
        check::<HttpSd>(HTTP_SD);
        check::<TlsTrust>(TLS);
        check::<DnsSd>(DNS_SD);
        check::<RelabelConfig>(RELABEL);
        check::<MeshConfig>(MESH);
        check::<MeshScope>(SCOPE);
        check::<RawOnDemand>(ON_DEMAND);
        check::<RawAllowed>(ALLOWED);
        check::<RawServe>(SERVE);
        check::<RawRelay>(RELAY);
        check::<RawListener>(LISTENER);
        check::<RawHealth>(HEALTH);
        check::<RawWeb>(WEB);
        check::<RawMeasuring>(MEASURING);
        check::<RawLimits>(LIMITS);
        check::<RawLog>(LOG);
    }

    #[test]
    fn the_schema_is_json_that_nests() {
        let schema: Value = serde_json::from_str(&text()).unwrap();
        let slos = "/properties/modules/additionalProperties/properties/slos/items";
        let slo = schema.pointer(slos).unwrap();
        assert_eq!(slo["additionalProperties"], json!(false));
        assert_eq!(slo["properties"]["clock"]["enum"][0], "best");
        assert!(schema["description"].is_null() && schema["title"].is_string());
    }
}
