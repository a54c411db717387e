//! What the README promises must exist, and what exists must be in the README: commands and
//! metric families. The sources flow in as text, differences flow out.

use std::collections::BTreeSet;

use super::Finding;
use super::source::{Source, bracketed, is_identifier};

/// First words of the metric families' names.
const FAMILY_STARTS: [&str; 7] = [
    "tcp_echo_",
    "tcp_check_",
    "tcp_info_",
    "tcp_relay_",
    "tcp_responder_",
    "rttscope_",
    "process_",
];

/// What the exposition appends to a histogram's name.
const SERIES_ENDS: [&str; 3] = ["_bucket", "_count", "_sum"];

/// Differences between the README, the catalogue of metrics, and the commands.
pub fn check(sources: &[Source]) -> Vec<Finding> {
    let Some(readme) = sources.iter().find(|source| source.path == "README.md") else {
        return Vec::new();
    };
    let mut findings = commands(readme, sources);
    findings.extend(families(readme, sources));
    findings
}

/// Each variant of the command line's `enum Command` is a command.
fn commands(readme: &Source, sources: &[Source]) -> Vec<Finding> {
    let mut findings = Vec::new();
    let command_line = sources.iter().filter(|source| source.module() == Some("cli"));
    for source in command_line {
        let Some((_, rest)) = source.production().split_once("enum Command ") else { continue };
        for line in bracketed(rest).lines() {
            let Some((variant, _)) = line.trim().split_once('(') else { continue };
            if !variant.starts_with(char::is_uppercase) {
                // An attribute.
                continue;
            }
            let command = kebab_case(variant);
            if !readme.text.contains(&format!("rttscope {command}")) {
                findings.push(readme.finding(0, format!("say what `rttscope {command}` does")));
            }
        }
    }
    findings
}

fn families(readme: &Source, sources: &[Source]) -> Vec<Finding> {
    // The families of TCP_INFO are named in the table of its members.
    let catalogue = ["metrics", "tcp_info"];
    let catalogue = sources
        .iter()
        .filter(|source| source.module().is_some_and(|module| catalogue.contains(&module)));
    // Names are literals, which `production` has blanked; what its tests invent does not count.
    let product = catalogue.filter(|source| !source.is_test()).map(|source| {
        let tests = source.text.find("#[cfg(test)]\nmod tests {").unwrap_or(source.text.len());
        &source.text[..tests]
    });
    let known: BTreeSet<&str> = product
        .flat_map(|text| names(text).filter(|&(at, name)| quoted(text, at, name)))
        .map(|(_, name)| name)
        .collect();
    if known.is_empty() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let mut told = BTreeSet::new();
    for (offset, name) in names(&readme.text) {
        let family = SERIES_ENDS.iter().find_map(|end| name.strip_suffix(end));
        let family = family.filter(|family| known.contains(family)).unwrap_or(name);
        told.insert(family);
        if !known.contains(family) {
            findings.push(readme.finding(offset, format!("there is no metric {name}")));
        }
    }
    for name in known.difference(&told) {
        findings.push(readme.finding(0, format!("say what the metric {name} is")));
    }
    findings
}

/// Words that look like a family's name, with their offsets.
fn names(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let starts = FAMILY_STARTS.iter().flat_map(|start| text.match_indices(start));
    starts.filter_map(|(offset, start)| {
        let inside = text[..offset].chars().next_back().is_some_and(is_identifier);
        let rest = &text[offset..];
        let end = rest.find(|character| !is_identifier(character)).unwrap_or(rest.len());
        (!inside && end > start.len()).then_some((offset, &rest[..end]))
    })
}

fn quoted(text: &str, offset: usize, name: &str) -> bool {
    text[..offset].ends_with('"') && text[offset + name.len()..].starts_with('"')
}

fn kebab_case(variant: &str) -> String {
    let mut name = String::new();
    for character in variant.chars() {
        if character.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(character.to_lowercase());
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_text(readme: &str, path: &str, code: &str, expected: &[&str]) {
        let sources = [("README.md", readme), (path, code)]
            .map(|(path, text)| Source::new(path, text.to_owned()));
        let findings = check(&sources);
        let messages: Vec<&str> = findings.iter().map(|it| it.message.as_str()).collect();
        assert_eq!(messages, expected, "{readme}");
    }

    #[test]
    fn commands_are_in_the_readme() {
        let code = "enum Command {\n    /// Answers.\n    #[command(x = 1)]\n    Serve(A),\n    \
                    DryRun(B),\n}";
        check_text("`rttscope serve`, `rttscope dry-run`", "src/cli/args.rs", code, &[]);
        let expected = ["say what `rttscope dry-run` does"];
        check_text("`rttscope serve`", "src/cli/args.rs", code, &expected);
    }

    #[test]
    fn families_and_readme_agree() {
        let code = "a(\"tcp_echo_sent_total\"); b(\"tcp_echo_rtt_seconds\") // tcp_echo_gone";
        let path = "src/metrics/mod.rs";
        check_text("tcp_echo_sent_total, tcp_echo_rtt_seconds_count", path, code, &[]);
        let expected = ["say what the metric tcp_echo_rtt_seconds is"];
        check_text("`tcp_echo_sent_total`", path, code, &expected);
        let expected = ["there is no metric tcp_echo_lost_total"];
        let readme = "tcp_echo_lost_total tcp_echo_sent_total tcp_echo_rtt_seconds";
        check_text(readme, path, code, &expected);
    }

    #[test]
    fn without_a_catalogue_nothing_is_known() {
        check_text("tcp_echo_lost_total", "src/lib.rs", "", &[]);
    }
}
