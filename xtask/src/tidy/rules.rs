//! The house rules that can be read off one file, or off the list of files. A source flows in,
//! findings flow out.

use super::Finding;
use super::source::{Source, bracketed, words};

/// Longest line of Rust, in characters. A line with a URL may be longer: it cannot be broken.
const COLUMNS_MAX: usize = 100;

/// Longest file, tests aside.
const LINES_MAX: usize = 500;

/// Left-over notes to oneself. Written in pieces, or this file would break its own rule.
const LEFT_OVERS: [&str; 4] = [concat!("FIX", "ME"), concat!("TO", "DO"), concat!("XX", "X"), DBG];

const DBG: &str = concat!("dbg", "!");

/// Hosts of package registries: builds take them from each machine's own settings.
const REGISTRY_HOSTS: [&str; 6] = [
    concat!("crates", ".io"),
    concat!("py", "pi.org"),
    concat!("pythonhosted", ".org"),
    concat!("npm", "js.org"),
    concat!("deb.deb", "ian.org"),
    concat!("proxy.golang", ".org"),
];

/// Folders of the machine on which somebody happened to write.
const MACHINE_PATHS: [&str; 4] =
    [concat!("/wo", "rk/"), concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/Us", "ers/")];

/// Reading a clock or sleeping: only `sys` may, so that everything else gets `now` as an argument.
const CLOCK_CALLS: [&str; 3] = ["Instant::now", "SystemTime::now", "thread::sleep"];

/// Words that make a `cfg` one about the platform.
const PLATFORM_WORDS: [&str; 6] =
    ["target_os", "target_family", "target_env", "target_vendor", "unix", "windows"];

/// Words that no tracked text may hold.
pub fn text(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    for word in LEFT_OVERS {
        let found = words(&source.text, word);
        findings
            .extend(found.map(|at| source.finding(at, format!("finish or remove this {word}"))));
    }
    // The lock file is Cargo's: it names where each dependency came from.
    if source.path.ends_with("Cargo.lock") {
        return findings;
    }
    for host in REGISTRY_HOSTS {
        for (offset, _) in source.text.match_indices(host) {
            findings.push(source.finding(offset, format!("name no registry's host ({host})")));
        }
    }
    for path in MACHINE_PATHS {
        for (offset, _) in source.text.match_indices(path) {
            let before = source.text[..offset].chars().next_back();
            // Part of a longer path or address: not that folder.
            if !before.is_some_and(|it| it.is_alphanumeric() || "._-}".contains(it)) {
                findings.push(source.finding(offset, format!("{path} exists on one machine only")));
            }
        }
    }
    findings
}

/// The opening paragraph and the sizes of a Rust file.
pub fn layout(source: &Source) -> Vec<Finding> {
    let mut findings = Vec::new();
    if !source.text.starts_with("//!") {
        let message = "begin with a `//!` paragraph: why this file exists, what flows in and out";
        findings.push(source.finding(0, message));
    }
    let lines = source.production_lines();
    if lines > LINES_MAX && !source.is_test() {
        let message = format!("{lines} lines without tests, more than {LINES_MAX}: split it");
        findings.push(source.finding(0, message));
    }
    for (index, line) in source.text.lines().enumerate() {
        let columns = line.chars().count();
        if columns > COLUMNS_MAX && !line.contains("://") {
            findings.push(Finding {
                path: source.path.clone(),
                line: index + 1,
                message: format!("{columns} columns, more than {COLUMNS_MAX}"),
            });
        }
    }
    findings
}

/// `unsafe` and the platform's `cfg`s outside the platform layer.
pub fn platform(source: &Source) -> Vec<Finding> {
    let platform_layer = ["src/sys/", "ebpf/"];
    if platform_layer.iter().any(|folder| source.path.starts_with(folder)) {
        return Vec::new();
    }
    let code = source.production();
    let mut offsets: Vec<usize> = words(code, "unsafe").chain(words(code, "cfg_if")).collect();
    for name in ["cfg", "cfg_attr"] {
        offsets.extend(words(code, name).filter(|&offset| {
            let rest = code[offset + name.len()..].trim_start_matches('!').trim_start();
            let condition = if rest.starts_with('(') { bracketed(rest) } else { "" };
            PLATFORM_WORDS.iter().any(|word| words(condition, word).next().is_some())
        }));
    }
    let message = "`unsafe` and the platform's `cfg` stand only in src/sys";
    offsets.into_iter().map(|offset| source.finding(offset, message)).collect()
}

/// Clocks read outside the platform layer.
pub fn clocks(source: &Source) -> Vec<Finding> {
    let product = source.path.starts_with("src/") && !source.path.starts_with("src/sys/");
    if !product {
        return Vec::new();
    }
    let code = source.production();
    let calls = CLOCK_CALLS.into_iter().flat_map(|call| words(code, call));
    calls.map(|at| source.finding(at, "take `now` as an argument; only src/sys reads")).collect()
}

/// Golden files that no test names.
pub fn golden_files(sources: &[Source]) -> Vec<Finding> {
    let golden = sources.iter().filter(|source| source.path.starts_with("tests/golden/"));
    let unused = golden.filter(|file| {
        let name = file.path.rsplit('/').next().unwrap_or(&file.path);
        let stem = name.split('.').next().unwrap_or(name);
        let mut tests = sources.iter().filter(|source| source.is_rust());
        !tests.any(|test| test.text.contains(stem))
    });
    unused.map(|file| file.finding(0, "no test names this golden file")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> usize {
        rule(&Source::new(path, text.to_owned())).len()
    }

    #[test]
    fn left_overs_are_found_everywhere() {
        let note = format!("{}: later", LEFT_OVERS[0]);
        assert_eq!(count(text, "README.md", &note), 1);
        assert_eq!(count(text, "src/x.rs", &format!("// {}", LEFT_OVERS[1])), 1);
        assert_eq!(count(text, "src/x.rs", &format!("{DBG}(a)")), 1);
        assert_eq!(count(text, "src/x.rs", "a method to do nothing"), 0);
    }

    #[test]
    fn hosts_and_machine_paths_are_found() {
        assert_eq!(count(text, ".ci/run", &format!("curl https://{}/a", REGISTRY_HOSTS[0])), 1);
        assert_eq!(count(text, "Cargo.lock", REGISTRY_HOSTS[0]), 0);
        assert_eq!(count(text, "README.md", &format!("see {}notes", MACHINE_PATHS[0])), 1);
        assert_eq!(count(text, "README.md", &format!("tree/net{}notes", MACHINE_PATHS[0])), 0);
    }

    #[test]
    fn a_file_begins_with_why() {
        assert_eq!(count(layout, "src/x.rs", "//! Why.\n"), 0);
        assert_eq!(count(layout, "src/x.rs", "use a;\n"), 1);
    }

    #[test]
    fn sizes_are_bounded() {
        let long = format!("//! {}\n", "a".repeat(COLUMNS_MAX));
        assert_eq!(count(layout, "src/x.rs", &long), 1);
        let url = format!("//! https://{}\n", "a".repeat(COLUMNS_MAX));
        assert_eq!(count(layout, "src/x.rs", &url), 0);
        let body = "a;\n".repeat(LINES_MAX);
        assert_eq!(count(layout, "src/x.rs", &format!("//! Why.\n{body}")), 1);
        let tests = format!("//! Why.\n#[cfg(test)]\nmod tests {{\n{body}}}\n");
        assert_eq!(count(layout, "src/x.rs", &tests), 0);
    }

    #[test]
    fn unsafe_and_platforms_stay_in_sys() {
        let code = "unsafe { f() }";
        assert_eq!(count(platform, "src/probe.rs", code), 1);
        assert_eq!(count(platform, "xtask/src/x.rs", code), 1);
        assert_eq!(count(platform, "src/sys/poll.rs", code), 0);
        assert_eq!(count(platform, "tests/it/main.rs", code), 0);
        assert_eq!(count(platform, "src/x.rs", "#![expect(unsafe_code)]"), 0);
        assert_eq!(count(platform, "src/x.rs", "#[cfg(target_os = \"linux\")] a"), 1);
        assert_eq!(count(platform, "src/x.rs", "if cfg!(windows) { a }"), 1);
        assert_eq!(count(platform, "src/x.rs", "#[cfg_attr(not(unix), b)] a"), 1);
        assert_eq!(count(platform, "src/x.rs", "cfg_if::cfg_if! { a }"), 2);
        assert_eq!(count(platform, "src/x.rs", "#[cfg(fuzzing)] fn windows() {}"), 0);
    }

    #[test]
    fn only_sys_reads_clocks() {
        let code = "let start = std::time::Instant::now();";
        assert_eq!(count(clocks, "src/worker.rs", code), 1);
        assert_eq!(count(clocks, "src/sys/clock.rs", code), 0);
        assert_eq!(count(clocks, "src/x.rs", &format!("#[cfg(test)] fn t() {{ {code} }}")), 0);
        assert_eq!(count(clocks, "src/x.rs", "std::thread::sleep(d)"), 1);
    }

    #[test]
    fn a_golden_file_has_a_test() {
        let files = |test: &str| {
            [("tests/golden/page.txt", "a"), ("tests/it/golden.rs", test)]
                .map(|(path, text)| Source::new(path, text.to_owned()))
        };
        assert_eq!(golden_files(&files("check(\"page.txt\")")).len(), 0);
        assert_eq!(golden_files(&files("check(\"other.txt\")")).len(), 1);
    }
}
