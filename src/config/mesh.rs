//! `mesh` of the configuration file: whom of all targets one host probes. Its words in, scopes and
//! who this host is out; all hosts may have the same file, and what differs is in the environment.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;

use serde::de::Error;
use serde::{Deserialize, Deserializer};

use super::discovery::labels;

/// Peers of a host in one scope.
pub const PEERS_MAX: usize = 1_000;

/// `mesh`: this host probes some of the targets, in each scope some.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshConfig {
    /// The address of this host among the targets. In the file, `${NAME}` is a variable of the
    /// environment, so that all hosts have the same file.
    #[serde(rename = "self")]
    pub own: String,
    /// Labels of this host, for as long as it is not among the targets. The same variables.
    #[serde(default, deserialize_with = "labels")]
    pub labels: BTreeMap<String, String>,
    /// Scopes; a target that is a peer in one is none in those behind it.
    pub scopes: Vec<MeshScope>,
}

/// One scope: those whose labels are this host's in `same`, and are not in each of `other`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MeshScope {
    /// For people.
    pub name: String,
    /// Labels that must be equal.
    #[serde(default)]
    pub same: Vec<String>,
    /// Labels that must differ.
    #[serde(default)]
    pub other: Vec<String>,
    /// How many of them this host probes.
    #[serde(deserialize_with = "peers")]
    pub peers: usize,
}

impl MeshConfig {
    /// With the environment's variables in place of their names.
    ///
    /// # Errors
    /// One line: which variable is not there.
    pub fn expanded(self, variable: impl Fn(&str) -> Option<String>) -> Result<Self, String> {
        let expanded = |text: &str| expand(text, &variable);
        // Brackets of IPv6, which a file for both families cannot have.
        let own = expand(&self.own, |name| {
            let value = variable(name)?;
            let bare = value.parse::<Ipv6Addr>().is_ok() && !self.own.starts_with('[');
            Some(if bare { format!("[{value}]") } else { value })
        })?;
        let labels = self.labels.iter().map(|(name, value)| Ok((name.clone(), expanded(value)?)));
        let labels = labels.collect::<Result<_, String>>()?;
        Ok(Self { own, labels, ..self })
    }
}

/// A text with the values of its `${NAME}`.
fn expand(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut whole = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once("${") {
        let (name, after) = behind.split_once('}').ok_or("a ${ has no }; write ${NAME}")?;
        let value = variable(name).filter(|value| !value.is_empty());
        let value = value.ok_or_else(|| {
            format!("the environment has no {name:?}; set it, or write this host's address")
        })?;
        whole.push_str(before);
        whole.push_str(&value);
        rest = after;
    }
    whole.push_str(rest);
    Ok(whole)
}

fn peers<'de, D: Deserializer<'de>>(from: D) -> Result<usize, D::Error> {
    let peers = usize::deserialize(from)?;
    if (1..=PEERS_MAX).contains(&peers) {
        return Ok(peers);
    }
    Err(D::Error::custom(format!("peers must be 1 to {}; write e.g. 3", PEERS_MAX)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    #[test]
    fn a_mesh_takes_what_hosts_differ_in_from_the_environment() {
        let check = |own: &str, expected: Result<&str, &str>| {
            let text = format!("{{self: '{own}', labels: {{zone: '${{ZONE}}'}}, scopes: []}}");
            let mesh: MeshConfig = serde_saphyr::from_str(&text).unwrap();
            let variable = |name: &str| match name {
                "POD_IP" => Some("fd00::7".to_owned()),
                "ZONE" => Some("a".to_owned()),
                "EMPTY" => Some(String::new()),
                _ => None,
            };
            match (mesh.expanded(variable), expected) {
                (Ok(mesh), Ok(own)) => {
                    assert_eq!((mesh.own.as_str(), mesh.labels["zone"].as_str()), (own, "a"));
                }
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (found, _) => panic!("{own}: {found:?}"),
            }
        };
        check("10.0.0.1:4000", Ok("10.0.0.1:4000"));
        check("[${POD_IP}]:4000", Ok("[fd00::7]:4000"));
        check("${POD_IP}:4000", Ok("[fd00::7]:4000"));
        check("${ZONE}.${ZONE}:4000", Ok("a.a:4000"));
        check("$POD_IP}", Ok("$POD_IP}"));
        check("${POD_IP:4000", Err("write ${NAME}"));
        check("${EMPTY}:4000", Err("no \"EMPTY\""));
        check("${NONE}:4000", Err("no \"NONE\""));
    }
}
