//! The sections of the agent's file that say whom to probe: Prometheus' own `static_configs`,
//! `file_sd_configs`, `http_sd_configs`, `dns_sd_configs` and `relabel_configs`, and `mesh`. YAML
//! in, checked values with Prometheus' names and defaults out; nothing is read or asked here.

use std::collections::BTreeMap;
use std::fmt;
use std::num::NonZeroU16;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use regex::{Regex, RegexBuilder};
use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::agent::Module;
use super::duration;
use super::mesh::MeshConfig;

/// Limits of what is discovered.
pub mod limits {
    use std::time::Duration;

    /// Shortest time between two questions to a source.
    pub const REFRESH_MIN: Duration = Duration::from_secs(1);
    /// Longest time between two questions to a source.
    pub const REFRESH_MAX: Duration = Duration::from_secs(7 * 86_400);
    /// Bytes of a compiled regular expression.
    pub const EXPRESSION_BYTES_MAX: usize = 1024 * 1024;
    /// Lists of discovered targets.
    pub const JOBS_MAX: usize = 256;
}

/// One of `discovery`: where targets come from, what happens to their labels, how they are probed.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// The `discovery` label of its own metrics; no two are the same.
    pub name: String,
    /// How its targets are probed unless their label `__module__` says otherwise.
    pub module: Arc<Module>,
    /// The modules that may be chosen so.
    pub modules: Arc<BTreeMap<String, Arc<Module>>>,
    /// Targets that need no source.
    pub static_configs: Vec<TargetGroup>,
    /// Files; paths are used as they are.
    pub file_sd_configs: Vec<FileSd>,
    /// URLs.
    pub http_sd_configs: Vec<HttpSd>,
    /// Names.
    pub dns_sd_configs: Vec<DnsSd>,
    /// What happens to every target's labels.
    pub relabel_configs: Vec<RelabelConfig>,
    /// If only some of them are probed: those of this host's mesh.
    pub mesh: Option<MeshConfig>,
}

/// Targets with labels in common: `static_configs`, and what files and URLs answer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TargetGroup {
    /// Addresses.
    pub targets: Vec<String>,
    /// Labels of all of them.
    #[serde(deserialize_with = "labels")]
    pub labels: BTreeMap<String, String>,
}

/// `file_sd_configs`: files that hold groups, as JSON or YAML.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileSd {
    /// Paths that end in `.json`, `.yml` or `.yaml`; the last part may have one `*`.
    pub files: Vec<FilePattern>,
    /// Kept for Prometheus' files: contents are compared every few seconds anyway.
    #[serde(default = "five_minutes", deserialize_with = "refresh")]
    pub refresh_interval: Duration,
}

/// A path of [`FileSd`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct FilePattern(PathBuf);

/// `http_sd_configs`: a URL that answers groups, as JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpSd {
    /// `http://…` or `https://…`.
    pub url: Url,
    /// Time between two questions.
    #[serde(default = "one_minute", deserialize_with = "refresh")]
    pub refresh_interval: Duration,
    /// How long an answer may take, redirects and all. Our own key.
    #[serde(default = "ten_seconds", deserialize_with = "refresh")]
    pub timeout: Duration,
    /// Headers of the question. Our own key.
    #[serde(default)]
    pub headers: BTreeMap<String, Secret>,
    /// Whom https trusts.
    #[serde(default)]
    pub tls_config: TlsTrust,
}

/// The part of Prometheus' `tls_config` that is known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsTrust {
    /// Authorities in PEM format, instead of the system's.
    pub ca_file: Option<PathBuf>,
}

/// An absolute URL without a user in it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Url(String);

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

/// `dns_sd_configs`: names whose records are targets.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawDnsSd")]
pub struct DnsSd {
    /// Names to ask for.
    pub names: Vec<String>,
    /// Which records.
    pub kind: DnsKind,
    /// The port of A and AAAA records; those of SRV have their own.
    pub port: Option<NonZeroU16>,
    /// Longest time between two questions; records that expire sooner are asked for sooner.
    pub refresh_interval: Duration,
    /// `address:port` of name servers instead of those of `/etc/resolv.conf`. Our own key.
    pub servers: Vec<std::net::SocketAddr>,
}

/// Types of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DnsKind {
    /// Host and port.
    Srv,
    /// IPv4.
    A,
    /// IPv6.
    Aaaa,
}

/// One of `relabel_configs`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "RawRelabel")]
pub struct RelabelConfig {
    /// Labels whose values are joined and matched.
    pub source_labels: Vec<String>,
    /// What joins them.
    pub separator: String,
    /// Must match all of the joined values, or of a label's name.
    pub regex: Expression,
    /// The label that is written; may hold `$1`.
    pub target_label: String,
    /// What is written; may hold `$1`.
    pub replacement: String,
    /// What happens.
    pub action: RelabelAction,
}

/// What a [`RelabelConfig`] does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RelabelAction {
    /// Writes `target_label`.
    #[default]
    Replace,
    /// Drops targets that do not match.
    Keep,
    /// Drops targets that match.
    Drop,
    /// Copies labels whose name matches to the name `replacement`.
    LabelMap,
    /// Drops labels whose name matches.
    LabelDrop,
    /// Drops labels whose name does not match.
    LabelKeep,
}

/// A regular expression for a whole text.
#[derive(Clone)]
pub struct Expression {
    text: String,
    regex: Regex,
}

/// Whether `name` is a label's name, as every version of Prometheus takes it.
#[must_use]
pub fn is_label_name(name: &str) -> bool {
    let mut letters = name.bytes();
    let first = letters.next().is_some_and(|it| it == b'_' || it.is_ascii_alphabetic());
    first && letters.all(|it| it == b'_' || it.is_ascii_alphanumeric())
}

impl FilePattern {
    /// The path, with its `*`.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The same, relative to `folder` unless it is absolute.
    #[must_use]
    pub fn in_folder(&self, folder: &Path) -> Self {
        Self(folder.join(&self.0))
    }
}

impl Url {
    /// As it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for FilePattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let path = PathBuf::from(&text);
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let suffix = path.extension().and_then(|it| it.to_str()).unwrap_or_default();
        if !["json", "yml", "yaml"].iter().any(|known| suffix.eq_ignore_ascii_case(known)) {
            return Err(format!("{text} ends in no known suffix; write .json, .yml or .yaml"));
        }
        let stars = text.matches('*').count();
        if stars > 1 || stars != name.matches('*').count() {
            return Err(format!("{text} has more than one *, or one in a folder's name"));
        }
        Ok(Self(path))
    }
}

impl TryFrom<String> for Url {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let uri: hyper::Uri = text.parse().map_err(|error| format!("{text} is no URL: {error}"))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) || uri.host().is_none() {
            return Err(format!("{text} is no URL; write e.g. http://10.0.0.1/targets"));
        }
        if uri.authority().is_some_and(|it| it.as_str().contains('@')) {
            return Err("a URL with a user; write headers: {Authorization: …}".to_owned());
        }
        Ok(Self(text))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl Expression {
    /// What matches all of a text; see [`Regex`].
    #[must_use]
    pub const fn regex(&self) -> &Regex {
        &self.regex
    }
}

impl FromStr for Expression {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        // Alone first: "a)|(b" must not close the group around it.
        let build = |text: &str| {
            RegexBuilder::new(text).size_limit(limits::EXPRESSION_BYTES_MAX).build().map_err(|it| {
                let why = it.to_string();
                format!("regex: {}", why.lines().last().unwrap_or_default().trim())
            })
        };
        build(text)?;
        Ok(Self { text: text.to_owned(), regex: build(&format!("^(?s:{text})$"))? })
    }
}

impl fmt::Debug for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}

impl PartialEq for Expression {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

impl Eq for Expression {}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawDnsSd {
    names: Vec<String>,
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    port: Option<NonZeroU16>,
    #[serde(default = "half_a_minute", deserialize_with = "refresh")]
    refresh_interval: Duration,
    #[serde(default)]
    servers: Vec<std::net::SocketAddr>,
}

impl TryFrom<RawDnsSd> for DnsSd {
    type Error = String;

    fn try_from(raw: RawDnsSd) -> Result<Self, String> {
        let RawDnsSd { names, kind, port, refresh_interval, servers } = raw;
        let kind = match kind.as_deref().unwrap_or("SRV").to_ascii_uppercase().as_str() {
            "SRV" => DnsKind::Srv,
            "A" => DnsKind::A,
            "AAAA" => DnsKind::Aaaa,
            other => return Err(format!("type {other} is unknown; write SRV, A or AAAA")),
        };
        if names.is_empty() {
            return Err("dns_sd_configs has no names; write names: [example.com]".to_owned());
        }
        if port.is_none() && kind != DnsKind::Srv {
            return Err("addresses have no port; write port: 4000".to_owned());
        }
        Ok(Self { names, kind, port, refresh_interval, servers })
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRelabel {
    source_labels: Option<Vec<String>>,
    separator: Option<String>,
    regex: Option<String>,
    target_label: Option<String>,
    replacement: Option<String>,
    action: Option<String>,
}

impl TryFrom<RawRelabel> for RelabelConfig {
    type Error = String;

    fn try_from(raw: RawRelabel) -> Result<Self, String> {
        use RelabelAction as Action;
        let word = raw.action.unwrap_or_else(|| "replace".to_owned()).to_ascii_lowercase();
        let known = ACTIONS.iter().find(|(name, _)| *name == word);
        let &(name, action) = known.ok_or_else(|| {
            let names = ACTIONS.map(|(name, _)| name);
            let meant = super::nearest::nearest(&word, &names).unwrap_or("replace, keep or drop");
            format!("action {word} is unknown; write {meant}")
        })?;
        let target_label = raw.target_label.unwrap_or_default();
        let only_regex = matches!(action, Action::LabelDrop | Action::LabelKeep);
        if only_regex
            && (raw.source_labels.is_some()
                || !target_label.is_empty()
                || raw.separator.is_some()
                || raw.replacement.is_some())
        {
            return Err(format!("{name} takes a regex and nothing else"));
        }
        let replacement = raw.replacement.unwrap_or_else(|| "$1".to_owned());
        if action == Action::Replace && !is_template(&target_label) {
            return Err(format!("target_label {target_label:?} is no label; write e.g. zone"));
        }
        if action == Action::LabelMap && !is_template(&replacement) {
            return Err(format!("replacement {replacement:?} is no label; write e.g. $1"));
        }
        let source_labels = raw.source_labels.unwrap_or_default();
        if let Some(bad) = source_labels.iter().find(|name| !is_label_name(name)) {
            return Err(format!("source_labels: {bad:?} is no label's name"));
        }
        Ok(Self {
            source_labels,
            separator: raw.separator.unwrap_or_else(|| ";".to_owned()),
            regex: raw.regex.as_deref().unwrap_or("(.*)").parse()?,
            target_label,
            replacement,
            action,
        })
    }
}

const ACTIONS: [(&str, RelabelAction); 6] = [
    ("replace", RelabelAction::Replace),
    ("keep", RelabelAction::Keep),
    ("drop", RelabelAction::Drop),
    ("labelmap", RelabelAction::LabelMap),
    ("labeldrop", RelabelAction::LabelDrop),
    ("labelkeep", RelabelAction::LabelKeep),
];

/// A label's name, or a text that may become one when its groups are known.
fn is_template(text: &str) -> bool {
    let plain: String = text.chars().filter(|it| !"${}".contains(*it)).collect();
    is_label_name(text) || (text.contains('$') && is_label_name(&format!("_{plain}")))
}

pub(super) fn labels<'de, D: Deserializer<'de>>(
    from: D,
) -> Result<BTreeMap<String, String>, D::Error> {
    let labels = BTreeMap::<String, String>::deserialize(from)?;
    match labels.keys().find(|name| !is_label_name(name)) {
        Some(bad) => Err(D::Error::custom(format!("{bad:?} is no label's name"))),
        None => Ok(labels),
    }
}

fn refresh<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(from)?;
    duration::parse_within(&text, limits::REFRESH_MIN, limits::REFRESH_MAX, "30s")
        .map_err(|bad| D::Error::custom(format!("{text} {bad}")))
}

const fn five_minutes() -> Duration {
    Duration::from_secs(300)
}

const fn one_minute() -> Duration {
    Duration::from_secs(60)
}

const fn half_a_minute() -> Duration {
    Duration::from_secs(30)
}

const fn ten_seconds() -> Duration {
    Duration::from_secs(10)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sections {
        #[serde(default)]
        static_configs: Vec<TargetGroup>,
        #[serde(default)]
        file_sd_configs: Vec<FileSd>,
        #[serde(default)]
        http_sd_configs: Vec<HttpSd>,
        #[serde(default)]
        dns_sd_configs: Vec<DnsSd>,
        #[serde(default)]
        relabel_configs: Vec<RelabelConfig>,
        mesh: Option<MeshConfig>,
    }

    fn parse(text: &str) -> Result<Sections, String> {
        let options = serde_saphyr::options! { with_snippet: false };
        serde_saphyr::from_str_with_options(text, options).map_err(|error| error.to_string())
    }

    #[test]
    fn what_prometheus_takes_is_taken_with_its_defaults() {
        let sections = parse(
            "
static_configs: [{targets: ['10.0.0.1:4000'], labels: {rack: r1}}]
file_sd_configs: [{files: [targets/*.json, more.yml]}]
http_sd_configs: [{url: 'http://sd.example/targets', headers: {Authorization: hunter2}}]
dns_sd_configs:
- names: [_probe._tcp.example.com]
- {names: [a.example.com], type: a, port: 4000, refresh_interval: 1m30s}
relabel_configs:
- {source_labels: [__meta_dns_name], target_label: name}
- {action: labelmap, regex: __meta_(.+), replacement: 'meta_${1}'}
- {action: labeldrop, regex: rack}
mesh: {self: '10.0.0.1:4000', scopes: [{name: rack, same: [rack], peers: 3}]}
",
        )
        .unwrap();
        assert_eq!(sections.static_configs[0].labels["rack"], "r1");
        let file = &sections.file_sd_configs[0];
        assert_eq!((file.files.len(), file.refresh_interval.as_secs()), (2, 300));
        let http = &sections.http_sd_configs[0];
        assert_eq!((http.refresh_interval.as_secs(), http.timeout.as_secs()), (60, 10));
        assert!(!format!("{http:?}").contains("hunter2"));
        let [srv, a] = &sections.dns_sd_configs[..] else { panic!("two") };
        assert_eq!((srv.kind, srv.refresh_interval.as_secs()), (DnsKind::Srv, 30));
        assert_eq!((a.kind, a.refresh_interval.as_secs()), (DnsKind::A, 90));
        let rule = &sections.relabel_configs[0];
        let texts = (rule.separator.as_str(), rule.replacement.as_str(), rule.action);
        assert_eq!(texts, (";", "$1", RelabelAction::Replace));
        assert_eq!(rule.regex, "(.*)".parse().unwrap());
        assert_eq!(sections.mesh.unwrap().scopes[0].peers, 3);
    }

    #[test]
    fn mistakes_have_a_place_and_a_remedy() {
        for (text, complaint) in [
            ("static_configs: [{target: [a]}]", "target"),
            ("static_configs: [{targets: [a], labels: {a-b: c}}]", "\"a-b\" is no label's name"),
            ("file_sd_configs: [{files: [a.txt]}]", "no known suffix"),
            ("file_sd_configs: [{files: ['*/a.json']}]", "one in a folder's name"),
            ("http_sd_configs: [{url: 'ftp://a/'}]", "no URL"),
            ("http_sd_configs: [{url: 'http://u:hunter2@a/'}]", "write headers"),
            ("http_sd_configs: [{url: 'http://a/', refresh_interval: 5}]", "has no unit"),
            ("http_sd_configs: [{url: 'http://a/', refresh_interval: 1ms}]", "at least 1s"),
            ("dns_sd_configs: [{names: [a], type: MX}]", "write SRV, A or AAAA"),
            ("dns_sd_configs: [{names: [a], type: A}]", "write port"),
            ("dns_sd_configs: [{names: []}]", "no names"),
            ("relabel_configs: [{action: kep, regex: a}]", "write keep"),
            ("relabel_configs: [{regex: '('}]", "target_label"),
            ("relabel_configs: [{regex: '(', target_label: a}]", "regex: "),
            ("relabel_configs: [{regex: 'a)|(b', target_label: a}]", "regex: "),
            ("relabel_configs: [{regex: 'a{999}{999}{99}', action: drop}]", "size limit"),
            ("relabel_configs: [{action: labelkeep, target_label: a}]", "nothing else"),
            ("relabel_configs: [{source_labels: [a-b], action: keep}]", "no label's name"),
            ("mesh: {self: a, scopes: [{name: a, peers: 0}]}", "peers must be"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(complaint), "{text}: {error}");
            assert!(error.contains("line 1") && !error.contains("hunter2"), "{text}: {error}");
        }
    }
}
