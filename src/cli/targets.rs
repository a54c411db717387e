//! The seed's file of targets, `[{"name": "db", "address": "10.0.0.1:4000"}]`, and what every
//! list of targets must hold. A file in, targets out; a mistake is found before anything starts.

use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::shown;
use crate::config::address::check_name;
use crate::config::limits::{TARGETS_FILE_BYTES_MAX, TARGETS_MAX};
use crate::config::{BadValue, HostPort, Target, setting};

const EXAMPLE: &str = r#"write e.g. [{"name": "db", "address": "10.0.0.1:4000"}]"#;

/// One element of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    address: String,
}

/// The targets in a file; if there are none, why.
pub(super) fn read(path: &Path) -> Result<Vec<Target>, String> {
    let unreadable =
        |error: std::io::Error| format!("cannot be read ({error}); write the path of a JSON file");
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(TARGETS_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if text.len() as u64 > TARGETS_FILE_BYTES_MAX {
        let mib = TARGETS_FILE_BYTES_MAX / 1024 / 1024;
        return Err(format!("is larger than {mib} MiB; write fewer targets"));
    }
    parse(&text)
}

/// Whether the list is short enough and each name is there once; if not, the whole complaint.
pub(super) fn check(list: &[Target]) -> Result<(), String> {
    if list.len() > TARGETS_MAX {
        let given = list.len();
        return Err(format!("{given} targets: must be at most {TARGETS_MAX}; write fewer"));
    }
    match setting::repeated_name(list) {
        None => Ok(()),
        Some(Target { name, address }) => Err(format!(
            "{}: two targets have this name; write e.g. {}={address} for one of them",
            shown(name),
            free_name(list),
        )),
    }
}

fn parse(json: &str) -> Result<Vec<Target>, String> {
    // A byte-order mark is what Windows editors put first.
    let json = json.trim_start_matches('\u{feff}');
    let entries: Vec<Entry> =
        serde_json::from_str(json).map_err(|error| format!("{error}; {EXAMPLE}"))?;
    if entries.is_empty() {
        return Err(format!("has no targets; {EXAMPLE}"));
    }
    let mut list = Vec::with_capacity(entries.len());
    for (index, Entry { name, address }) in entries.into_iter().enumerate() {
        let number = index + 1;
        check_name(&name).map_err(|why| format!("target {number} {why}; {EXAMPLE}"))?;
        let parsed: HostPort = address.parse().map_err(|BadValue { why, instead }| {
            format!(
                "the address {} of target {number} {why}; write e.g. {instead}",
                shown(&address)
            )
        })?;
        list.push(Target { name, address: parsed });
    }
    match setting::repeated_name(&list) {
        None => Ok(list),
        Some(Target { name, .. }) => {
            Err(format!("two targets are named {}; write each name once", shown(name)))
        }
    }
}

/// A name that no target has.
fn free_name(list: &[Target]) -> String {
    let names: HashSet<&str> = list.iter().map(|target| target.name.as_str()).collect();
    let candidates = std::iter::once("other".to_owned()).chain((2..).map(|n| format!("other{n}")));
    candidates.into_iter().find(|name| !names.contains(name.as_str())).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    fn check_refused(json: &str, message: &str) {
        assert_eq!(parse(json).unwrap_err(), message, "{json}");
    }

    #[test]
    fn the_seeds_file() {
        let json = r#"[{"name": "a", "address": ":4000"},
                       {"address": "[::1]:80", "name": "b c"}]"#;
        let list = parse(&format!("\u{feff}{json}")).unwrap();
        let shown: Vec<String> =
            list.iter().map(|target| format!("{}={}", target.name, target.address)).collect();
        assert_eq!(shown, ["a=localhost:4000", "b c=[::1]:80"]);
    }

    #[test]
    fn mistakes_in_the_file() {
        check_refused("[]", &format!("has no targets; {EXAMPLE}"));
        check_refused("", &format!("EOF while parsing a value at line 1 column 0; {EXAMPLE}"));
        check_refused(
            r#"[{"name": "a", "adress": "b:1"}]"#,
            &format!(
                "unknown field `adress`, expected `name` or `address` at line 1 column 23; \
                 {EXAMPLE}"
            ),
        );
        check_refused(
            r#"[{"name": "a"}]"#,
            &format!("missing field `address` at line 1 column 14; {EXAMPLE}"),
        );
        check_refused(
            r#"[{"name": "", "address": "b:1"}]"#,
            &format!("target 1 has an empty name; {EXAMPLE}"),
        );
        check_refused(
            r#"[{"name": "a", "address": "b:1"}, {"name": "c", "address": "::1"}]"#,
            "the address ::1 of target 2 is an IPv6 address without brackets; \
             write e.g. [::1]:4000",
        );
        check_refused(
            r#"[{"name": "a", "address": "b:1"}, {"name": "a", "address": "c:1"}]"#,
            "two targets are named a; write each name once",
        );
    }

    #[test]
    fn the_suggested_name_is_free() {
        let list: Vec<Target> =
            ["other=a:1", "a:1", "a:1"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(
            check(&list).unwrap_err(),
            "a:1: two targets have this name; write e.g. other2=a:1 for one of them"
        );
    }
}
