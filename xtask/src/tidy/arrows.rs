//! The architecture's arrows: which top-level module may name which. A file's code flows in, each
//! arrow that turns back flows out. The table is the architecture; a new edge is a decision, and
//! this is where it is taken.

use super::Finding;
use super::source::{Source, bracketed, is_identifier, words};

/// What each module may name, itself aside.
const ARROWS: &[(&str, Names)] = &[
    ("main", Names::Only(&["app", "cli", "config", "log"])),
    ("lib", Names::Only(&[])),
    ("app", Names::Any),
    (
        "checker",
        Names::Only(&["check", "config", "event", "sample", "stats", "sys", "time", "worker"]),
    ),
    (
        "relayer",
        Names::Only(&[
            "check", "config", "event", "relay", "sample", "schedule", "stats", "sys", "time",
            "worker",
        ]),
    ),
    ("collector", Names::Only(&["sys", "tcp_info"])),
    ("cli", Names::Only(&["config", "log", "rules", "sample", "sys", "time"])),
    ("config", Names::Only(&["sys", "time"])),
    (
        "http",
        Names::Only(&[
            "config",
            "histogram",
            "host",
            "metrics",
            "report",
            "sample",
            "stats",
            "time",
        ]),
    ),
    ("discovery", Names::Only(&["config", "time"])),
    ("rules", Names::Only(&["config"])),
    ("log", Names::Only(&["config", "sys", "time"])),
    ("metrics", Names::Only(&["histogram", "host", "sample", "stats", "tcp_info", "time"])),
    ("report", Names::Only(&["event", "histogram", "host", "sample", "stats", "tcp_info", "time"])),
    ("stats", Names::Only(&["event", "histogram", "host", "loss", "sample", "tcp_info", "time"])),
    (
        "worker",
        Names::Only(&[
            "check", "echo", "event", "load", "mix", "probe", "relay", "sample", "schedule",
            "stats", "sys", "tcp_info", "time", "timers",
        ]),
    ),
    ("sys", Names::Only(&["event", "host", "mix", "sample", "tcp_info", "time"])),
    ("probe", Names::Only(&PURE)),
    ("echo", Names::Only(&PURE)),
    ("check", Names::Only(&PURE)),
    ("relay", Names::Only(&PURE)),
    ("load", Names::Only(&PURE)),
    ("event", Names::Only(&["sample", "time"])),
    ("sample", Names::Only(&["event", "time"])),
    ("time", Names::Only(&[])),
    ("mesh", Names::Only(&["mix"])),
    // One row for the leaves of the pure core.
    ("dial schedule timers wire loss histogram host tcp_info mix", Names::Only(&["time"])),
];

/// What flows may name: never each other, never the configuration, never the system.
const PURE: [&str; 9] =
    ["dial", "event", "loss", "mix", "sample", "schedule", "time", "timers", "wire"];

#[derive(Clone, Copy)]
enum Names {
    Any,
    Only(&'static [&'static str]),
}

/// Arrows of one file that the table does not have.
pub fn check(source: &Source) -> Vec<Finding> {
    let Some(from) = source.module() else { return Vec::new() };
    let Some(allowed) = row(from) else { return Vec::new() };
    let mut findings = Vec::new();
    for (offset, to) in references(source.production()) {
        let known = row(to).is_some();
        let permitted = match allowed {
            Names::Any => true,
            Names::Only(names) => names.contains(&to) || to == from,
        };
        if !permitted && known {
            let message = format!("`{from}` must not name `{to}`: arrows never turn back");
            findings.push(source.finding(offset, message));
        }
    }
    for (offset, to) in climbs(source.production(), &source.path) {
        if to != from && row(to).is_some() {
            let message = format!("write `crate::{to}`: a path by `super` hides an arrow");
            findings.push(source.finding(offset, message));
        }
    }
    findings
}

/// Modules that the table does not know, so that no file escapes it.
pub fn modules_without_row(sources: &[Source]) -> Vec<Finding> {
    let files = sources.iter().filter(|source| source.is_rust());
    let unknown = files.filter(|source| source.module().is_some_and(|name| row(name).is_none()));
    unknown
        .map(|source| source.finding(0, "give this module a row in xtask/src/tidy/arrows.rs"))
        .collect()
}

fn row(module: &str) -> Option<Names> {
    let has = |(names, _): &&(&str, Names)| names.split(' ').any(|name| name == module);
    ARROWS.iter().find(has).map(|&(_, names)| names)
}

/// Every `crate::name`, `crate::{name, other::item}` and, for the binary, `rttscope::name`.
fn references(code: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for root in ["crate", "rttscope"] {
        for offset in words(code, root) {
            let Some(rest) = code[offset + root.len()..].strip_prefix("::") else { continue };
            let rest = rest.trim_start();
            if rest.starts_with('{') {
                found.extend(group(bracketed(rest)).map(|name| (offset, name)));
            } else {
                found.push((offset, identifier(rest)));
            }
        }
    }
    found
}

/// Paths by `super` that may leave the top-level module.
fn climbs<'a>(code: &'a str, path: &str) -> Vec<(usize, &'a str)> {
    let depth = path.trim_end_matches("/mod.rs").matches('/').count();
    let climb = "super::".repeat(depth);
    let paths = words(code, "super").filter(|&offset| code[offset..].starts_with(&climb));
    paths.map(|offset| (offset, identifier(&code[offset + climb.len()..]))).collect()
}

/// The first identifier of each path in `{…}`.
fn group(braces: &str) -> impl Iterator<Item = &str> {
    let inner = braces.trim_start_matches('{').trim_end_matches('}');
    let mut depth = 0_usize;
    let paths = inner.split(move |character| {
        match character {
            '{' => depth += 1,
            '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && character == ','
    });
    paths.map(|path| identifier(path.trim_start())).filter(|name| !name.is_empty())
}

fn identifier(code: &str) -> &str {
    let end = code.find(|character| !is_identifier(character)).unwrap_or(code.len());
    &code[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_file(path: &str, text: &str, expected: &[&str]) {
        let source = Source::new(path, text.to_owned());
        let findings = check(&source);
        let messages: Vec<&str> = findings.iter().map(|it| it.message.as_str()).collect();
        assert_eq!(messages.len(), expected.len(), "{text}: {messages:?}");
        for (message, part) in messages.iter().zip(expected) {
            assert!(message.contains(part), "{message} lacks {part}");
        }
    }

    #[test]
    fn an_arrow_that_turns_back_is_found() {
        check_file("src/time.rs", "use crate::sample::Sample;", &["`time` must not name `sample`"]);
        check_file("src/probe.rs", "fn f(c: &crate::config::Config) {}", &["`config`"]);
        check_file("src/probe.rs", "use crate::{event::Event, echo, wire};", &["`echo`"]);
        check_file("src/sys/linux/uring.rs", "use crate::stats;", &["`sys` must not name `stats`"]);
        check_file("src/metrics.rs", "use crate::{stats::{A, B}, worker::C};", &["`worker`"]);
        check_file("src/main.rs", "use rttscope::sys;", &["`main` must not name `sys`"]);
    }

    #[test]
    fn an_arrow_of_the_table_is_fine() {
        check_file("src/probe.rs", "use crate::event::{Event, sys};", &[]);
        check_file("src/app.rs", "use crate::{worker, http};", &[]);
        check_file("src/sys/clock.rs", "use crate::{sys::poll, time::Now};", &[]);
        check_file("src/wire.rs", "fn f(c: mycrate::sys::T) {} // crate::sys", &[]);
    }

    #[test]
    fn test_code_is_exempt() {
        check_file("src/wire.rs", "#[cfg(test)]\nmod tests { use crate::probe; }", &[]);
        check_file("src/wire/tests.rs", "use crate::probe;", &[]);
    }

    #[test]
    fn a_path_by_super_hides_no_arrow() {
        check_file("src/wire.rs", "use super::probe::Probe;", &["write `crate::probe`"]);
        check_file("src/sys/poll.rs", "use super::super::stats;", &["write `crate::stats`"]);
        check_file("src/sys/poll.rs", "use super::clock;", &[]);
        check_file("src/sys/mod.rs", "use super::stats;", &["write `crate::stats`"]);
    }

    #[test]
    fn a_module_without_a_row_is_found() {
        let sources = ["src/wire.rs", "src/novel.rs", "tests/it/main.rs"]
            .map(|path| Source::new(path, "//! Why.\n".to_owned()));
        let findings = modules_without_row(&sources);
        assert_eq!(findings.len(), 1);
        assert_eq!(findings[0].path, "src/novel.rs");
    }

    #[test]
    fn the_table_names_only_modules_with_a_row() {
        for (from, names) in ARROWS {
            let Names::Only(names) = names else { continue };
            for name in *names {
                assert!(row(name).is_some(), "{from} may name {name}, which has no row");
            }
        }
    }
}
