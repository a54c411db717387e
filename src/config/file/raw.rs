//! The configuration file as it is written: keys and words with their places, no meaning. Each
//! key has its line in [`super::schema`].

use std::collections::BTreeMap;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_saphyr::Spanned;

use crate::config::discovery::{DnsSd, FileSd, HttpSd, RelabelConfig, TargetGroup};
use crate::config::mesh::MeshConfig;
use crate::config::yaml::Word;

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFile {
    pub(super) defaults: Option<RawModule>,
    pub(super) modules: Option<BTreeMap<String, Spanned<RawModule>>>,
    pub(super) targets: Option<Vec<Spanned<RawTarget>>>,
    pub(super) targets_file: Option<Word>,
    pub(super) discovery: Option<Vec<Spanned<RawJob>>>,
    pub(super) probe: Option<Spanned<RawOnDemand>>,
    pub(super) serve: Option<RawServe>,
    pub(super) relay: Option<RawRelay>,
    pub(super) web: Option<RawWeb>,
    pub(super) measuring: Option<RawMeasuring>,
    pub(super) limits: Option<RawLimits>,
    pub(super) log: Option<RawLog>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawModule {
    pub(super) prober: Option<Word>,
    pub(super) interval: Option<Word>,
    pub(super) timeout: Option<Word>,
    pub(super) adaptive: Option<Spanned<bool>>,
    pub(super) window: Option<Word>,
    pub(super) clock: Option<Word>,
    pub(super) paths: Option<Word>,
    pub(super) wire: Option<Word>,
    pub(super) padding: Option<Word>,
    pub(super) method: Option<Word>,
    pub(super) source: Option<Word>,
    pub(super) interface: Option<Word>,
    pub(super) dscp: Option<Word>,
    pub(super) ttl: Option<Word>,
    pub(super) tcp_info: Option<Word>,
    pub(super) slos: Option<Vec<Spanned<RawSlo>>>,
    pub(super) buckets: Option<Spanned<Vec<Word>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawSlo {
    pub(super) name: Option<Word>,
    pub(super) threshold: Option<Word>,
    pub(super) objective: Option<Word>,
    pub(super) clock: Option<Word>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTarget {
    pub(super) name: Option<Word>,
    pub(super) address: Option<Word>,
    pub(super) module: Option<Word>,
    pub(super) labels: Option<BTreeMap<String, Word>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawJob {
    pub(super) name: Option<Word>,
    pub(super) module: Option<Word>,
    #[serde(default)]
    pub(super) static_configs: Vec<TargetGroup>,
    #[serde(default)]
    pub(super) file_sd_configs: Vec<FileSd>,
    #[serde(default)]
    pub(super) http_sd_configs: Vec<HttpSd>,
    #[serde(default)]
    pub(super) dns_sd_configs: Vec<DnsSd>,
    #[serde(default)]
    pub(super) relabel_configs: Vec<RelabelConfig>,
    pub(super) mesh: Option<Spanned<MeshConfig>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOnDemand {
    pub(super) allow: Option<Vec<Spanned<RawAllowed>>>,
    pub(super) modules: Option<Spanned<OneOrMany>>,
    pub(super) concurrency: Option<Word>,
    pub(super) timeout_offset: Option<Word>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAllowed {
    pub(super) networks: Option<Spanned<OneOrMany>>,
    pub(super) hosts: Option<Spanned<OneOrMany>>,
    pub(super) ports: Option<Spanned<OneOrMany>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawServe {
    pub(super) listen: Option<Word>,
    pub(super) idle_timeout: Option<Word>,
    pub(super) max_connections: Option<Word>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawRelay {
    pub(super) listeners: Option<Vec<Spanned<RawListener>>>,
    pub(super) grace: Option<Word>,
    pub(super) summary_interval: Option<Word>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawListener {
    pub(super) listen: Option<Word>,
    pub(super) systemd_socket: Option<bool>,
    pub(super) reuse_port: Option<bool>,
    pub(super) upstreams: Option<Spanned<OneOrMany>>,
    pub(super) drain: Option<Spanned<OneOrMany>>,
    pub(super) balance: Option<Word>,
    pub(super) connect_timeout: Option<Word>,
    pub(super) attempts: Option<Word>,
    pub(super) idle_timeout: Option<Word>,
    pub(super) max_connections: Option<Word>,
    pub(super) proxy_in: Option<bool>,
    pub(super) proxy_out: Option<Word>,
    pub(super) health: Option<RawHealth>,
    pub(super) source: Option<Word>,
    pub(super) interface: Option<Word>,
    pub(super) dscp: Option<Word>,
    pub(super) ttl: Option<Word>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawHealth {
    pub(super) interval: Option<Word>,
    pub(super) timeout: Option<Word>,
    pub(super) rise: Option<Word>,
    pub(super) fall: Option<Word>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawWeb {
    pub(super) listen: Option<Spanned<OneOrMany>>,
    pub(super) systemd_socket: Option<bool>,
    pub(super) config_file: Option<Word>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawMeasuring {
    pub(super) threads: Option<Word>,
    pub(super) pin: Option<Word>,
    pub(super) io: Option<Word>,
    pub(super) clock: Option<Word>,
    pub(super) busy_poll: Option<bool>,
    pub(super) priority: Option<Word>,
    pub(super) sandbox: Option<Word>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLimits {
    pub(super) targets: Option<Word>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawLog {
    pub(super) level: Option<Word>,
    pub(super) format: Option<Word>,
}

/// A word, or a list of words.
pub(super) struct OneOrMany(pub(super) Vec<String>);

impl<'de> Deserialize<'de> for OneOrMany {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Words;
        impl<'de> Visitor<'de> for Words {
            type Value = OneOrMany;

            fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
                out.write_str("a word or a list of words")
            }

            fn visit_str<E: Error>(self, word: &str) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![word.to_owned()]))
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![number.to_string()]))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<OneOrMany, E> {
                Ok(OneOrMany(vec![number.to_string()]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<OneOrMany, A::Error> {
                let mut words = Vec::new();
                while let Some(word) = list.next_element()? {
                    words.push(word);
                }
                Ok(OneOrMany(words))
            }
        }
        deserializer.deserialize_any(Words)
    }
}
