//! The seed's file of targets, `[{"name": "db", "address": "10.0.0.1:4000"}]`. A file or its text
//! in, targets out; a mistake is found before anything starts.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use serde::Deserialize;

use super::address::check_name;
use super::limits::TARGETS_FILE_BYTES_MAX;
use super::yaml::shown;
use super::{BadValue, HostPort, Target, setting};

/// The targets in a file; if there are none, why.
///
/// # Errors
/// One line: what is wrong and what to write instead.
pub fn read(path: &Path) -> Result<Vec<Target>, String> {
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

/// The same of the file's text.
///
/// # Errors
/// As for [`read`].
pub fn parse(json: &str) -> Result<Vec<Target>, String> {
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

/// One element of the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    address: String,
}

const EXAMPLE: &str = r#"write e.g. [{"name": "db", "address": "10.0.0.1:4000"}]"#;

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
}
