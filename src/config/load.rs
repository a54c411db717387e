//! What a load is: its section, the parsers of its settings, and the seed's file of scenarios
//! (`load_test.toml`). Texts in; scenarios, or one line that says what is wrong, out.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::limits::{
    LOAD_BYTES_MAX, LOAD_CONNECTIONS_MAX, LOAD_FILE_BYTES_MAX, LOAD_RATE_MAX, MESSAGE_BYTES_MAX,
    SCENARIOS_MAX,
};
use super::nearest::nearest;
use super::yaml::shown;
use super::{BadValue, HostPort, ReportMode, address, duration};
use crate::sys::socket::SocketOptions;

/// A load: one run, or several one after the other.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadSection {
    /// Whom to load.
    pub target: HostPort,
    /// What to do; at least one.
    pub scenarios: Vec<Scenario>,
    /// How long each scenario runs before it counts.
    pub warm_up: Duration,
    /// How long an answer or a connection may take.
    pub timeout: Duration,
    /// Options of the sockets.
    pub socket: SocketOptions,
    /// What goes to standard output.
    pub report: ReportMode,
    /// Where to draw the latencies.
    pub plot: Option<PathBuf>,
}

/// One run of a load.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scenario {
    /// What reports call it.
    pub name: String,
    /// Connections at once.
    pub connections: usize,
    /// Requests per second of all connections together; without one, each connection asks again
    /// when it is answered.
    pub rate: Option<u64>,
    /// Bytes of a request; `None` if connecting is all that is asked.
    pub message_bytes: Option<usize>,
    /// How long it counts.
    pub duration: Duration,
}

/// What a file of scenarios says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadFile {
    /// Whom to load, unless the command line says it.
    pub target: HostPort,
    /// What to do; at least one.
    pub scenarios: Vec<Scenario>,
}

/// [`Scenario::connections`].
///
/// # Errors
/// What is wrong and what to write instead; as for those below.
pub fn connections(text: &str) -> Result<usize, BadValue> {
    let most = u64::try_from(LOAD_CONNECTIONS_MAX).unwrap_or(u64::MAX);
    let number = whole(text, 1, most, "10")?;
    Ok(usize::try_from(number).unwrap_or(LOAD_CONNECTIONS_MAX))
}

/// [`Scenario::rate`].
///
/// # Errors
/// See [`connections`].
pub fn rate(text: &str) -> Result<u64, BadValue> {
    whole(text, 1, LOAD_RATE_MAX, "10000")
}

/// [`Scenario::message_bytes`]: a number of bytes, or of KiB or MiB with a `K` or `M` behind it.
///
/// # Errors
/// See [`connections`].
pub fn message_bytes(text: &str) -> Result<usize, BadValue> {
    let units = [("KiB", 1_024), ("MiB", 1 << 20), ("K", 1_024), ("M", 1 << 20)];
    let unit = units.iter().find_map(|(unit, bytes)| Some((text.strip_suffix(unit)?, *bytes)));
    let (digits, unit) = unit.unwrap_or((text, 1));
    let most = u64::try_from(MESSAGE_BYTES_MAX).unwrap_or(u64::MAX);
    let number = whole(digits, 1, most / unit, "1024")?;
    Ok(usize::try_from(number * unit).unwrap_or(MESSAGE_BYTES_MAX))
}

/// [`Scenario::duration`].
///
/// # Errors
/// See [`connections`].
pub fn run_duration(text: &str) -> Result<Duration, BadValue> {
    duration::parse_within(text, Duration::from_millis(10), RUN_MAX, "30s")
}

/// [`LoadSection::warm_up`].
///
/// # Errors
/// See [`connections`].
pub fn warm_up(text: &str) -> Result<Duration, BadValue> {
    duration::parse_within(text, Duration::ZERO, RUN_MAX, "1s")
}

/// [`LoadSection::timeout`].
///
/// # Errors
/// See [`connections`].
pub fn timeout(text: &str) -> Result<Duration, BadValue> {
    let most = Duration::from_secs(3_600);
    duration::parse_within(text, Duration::from_millis(1), most, "5s")
}

/// [`LoadSection::plot`].
///
/// # Errors
/// See [`connections`].
pub fn plot(path: &Path) -> Result<PathBuf, BadValue> {
    if path.extension().is_some_and(|extension| extension.eq_ignore_ascii_case("svg")) {
        return Ok(path.to_owned());
    }
    let instead = path.with_extension("svg");
    let instead = match instead.to_str() {
        Some(instead) if path.file_name().is_some() => instead,
        _ => "latency.svg",
    };
    Err(BadValue::new("is no .svg file, and no other kind is drawn", instead))
}

/// Connections and sizes, each with each.
#[must_use]
pub fn matrix(
    connections: &[usize],
    sizes: &[Option<usize>],
    rate: Option<u64>,
    duration: Duration,
) -> Vec<Scenario> {
    let mut scenarios = Vec::with_capacity(connections.len() * sizes.len());
    for &connections in connections {
        for &message_bytes in sizes {
            let what = message_bytes.map_or_else(|| "connect".to_owned(), size_text);
            let name = format!("{connections}x{what}");
            scenarios.push(Scenario { name, connections, rate, message_bytes, duration });
        }
    }
    scenarios
}

/// Whether the messages in flight of this scenario fit into memory.
///
/// # Errors
/// See [`connections`].
pub fn check_memory(scenario: &Scenario) -> Result<(), BadValue> {
    let message_bytes = scenario.message_bytes.unwrap_or(0);
    let bytes = scenario.connections.saturating_mul(message_bytes);
    if bytes <= LOAD_BYTES_MAX {
        return Ok(());
    }
    let mib = LOAD_BYTES_MAX / 1_024 / 1_024;
    let why = format!("times {message_bytes} bytes are more than {mib} MiB in flight");
    Err(BadValue::new(why, (LOAD_BYTES_MAX / message_bytes.max(1)).to_string()))
}

/// A size as people write it: `64`, `1K`, `1M`.
#[must_use]
pub fn size_text(bytes: usize) -> String {
    match bytes {
        _ if bytes.is_multiple_of(1 << 20) => format!("{}M", bytes >> 20),
        _ if bytes.is_multiple_of(1_024) => format!("{}K", bytes / 1_024),
        _ => bytes.to_string(),
    }
}

/// The scenarios in a file; if it is bad, why.
///
/// # Errors
/// One line: where, what is wrong and what to write instead. It follows the file's name.
pub fn read(path: &Path) -> Result<LoadFile, String> {
    let unreadable = |error: std::io::Error| {
        format!(": cannot be read ({error}); write the path of a TOML file")
    };
    let mut text = String::new();
    let file = File::open(path).map_err(unreadable)?;
    file.take(LOAD_FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
    if u64::try_from(text.len()).unwrap_or(u64::MAX) > LOAD_FILE_BYTES_MAX {
        return Err(format!(": is larger than {} KiB; write less", LOAD_FILE_BYTES_MAX / 1_024));
    }
    parse(&text)
}

/// The same of the file's text.
///
/// # Errors
/// As for [`read`].
pub fn parse(text: &str) -> Result<LoadFile, String> {
    // A byte-order mark is what Windows editors put first.
    let text = text.trim_start_matches('\u{feff}');
    let at = |offset: usize, why: String| {
        let before = text.get(..offset).unwrap_or(text);
        format!(", line {}: {why}", before.matches('\n').count() + 1)
    };
    let document = DeTable::parse(text).map_err(|error| {
        let offset = error.span().map_or(0, |span| span.start);
        let why = error.message().lines().collect::<Vec<_>>().join(", ");
        at(offset, format!("is no TOML ({why}); write e.g. connections = 10"))
    })?;
    let file = document_of(document.get_ref());
    file.map_err(|Mistake { offset, why }| match offset {
        Some(offset) => at(offset, why),
        None => format!(": {why}"),
    })
}

/// What is wrong, and where in the text.
struct Mistake {
    offset: Option<usize>,
    why: String,
}

/// What a scenario takes from the top of the file.
struct Above {
    connections: usize,
    message_bytes: usize,
    rate: Option<u64>,
}

fn document_of(document: &DeTable<'_>) -> Result<LoadFile, Mistake> {
    check_keys(document, &FILE_KEYS)?;
    let target = setting(document, "target_addr", str::parse::<HostPort>)?;
    let target = target.unwrap_or_else(|| HostPort { host: "127.0.0.1".to_owned(), port: 8080 });
    let duration = setting(document, "duration_secs", seconds)?;
    let above = Above {
        connections: setting(document, "connections", connections)?.unwrap_or(CONNECTIONS),
        message_bytes: setting(document, "message_size", message_bytes)?.unwrap_or(SIZE),
        rate: setting(document, "rate", rate)?,
    };
    let mut scenarios = Vec::new();
    match document.get("scenarios") {
        None => {
            let Above { connections, message_bytes, rate } = above;
            let duration = duration.unwrap_or(FILE_DURATION);
            scenarios = matrix(&[connections], &[Some(message_bytes)], rate, duration);
            check_scenario(&scenarios[0], None)?;
        }
        Some(list) => {
            let offset = Some(list.span().start);
            let DeValue::Array(list) = list.get_ref() else {
                let why = "scenarios is no list; write [[scenarios]]".to_owned();
                return Err(Mistake { offset, why });
            };
            if list.is_empty() || list.len() > SCENARIOS_MAX {
                let given = list.len();
                let why = format!("{given} scenarios: must be 1 to {SCENARIOS_MAX}");
                return Err(Mistake { offset, why: format!("{why}; write e.g. [[scenarios]]") });
            }
            for scenario in list.iter() {
                scenarios.push(scenario_of(scenario, &above, &scenarios)?);
            }
        }
    }
    Ok(LoadFile { target, scenarios })
}

fn scenario_of(
    value: &Spanned<DeValue<'_>>,
    above: &Above,
    earlier: &[Scenario],
) -> Result<Scenario, Mistake> {
    let offset = Some(value.span().start);
    let DeValue::Table(table) = value.get_ref() else {
        let why = "a scenario is no table; write [[scenarios]]".to_owned();
        return Err(Mistake { offset, why });
    };
    check_keys(table, &SCENARIO_KEYS)?;
    let connections = setting(table, "connections", connections)?.unwrap_or(above.connections);
    let message = setting(table, "message_size", message_bytes)?.unwrap_or(above.message_bytes);
    let duration = setting(table, "duration_secs", seconds)?.unwrap_or(SCENARIO_DURATION);
    let rate = setting(table, "rate", rate)?.or(above.rate);
    let name = setting(table, "name", |text| {
        address::check_name(text).map_err(|why| BadValue::new(why, "baseline"))?;
        match earlier.iter().any(|scenario| scenario.name == text) {
            true => Err(BadValue::new("names two scenarios", format!("{text}-2"))),
            false => Ok(text.to_owned()),
        }
    })?;
    let mut only = matrix(&[connections], &[Some(message)], rate, duration);
    let mut scenario = only.pop().expect("one of each makes one");
    if let Some(name) = name {
        scenario.name = name;
    }
    check_scenario(&scenario, offset)?;
    Ok(scenario)
}

fn check_scenario(scenario: &Scenario, offset: Option<usize>) -> Result<(), Mistake> {
    check_memory(scenario).map_err(|BadValue { why, instead }| {
        let why = format!("connections {} {why}; write e.g. {instead}", scenario.connections);
        Mistake { offset, why }
    })
}

fn check_keys(table: &DeTable<'_>, known: &[&str]) -> Result<(), Mistake> {
    let unknown = table.iter().find(|(key, _)| !known.contains(&key.get_ref().as_ref()));
    let Some((key, _)) = unknown else { return Ok(()) };
    let name: &str = key.get_ref();
    let instead = nearest(name, known).map_or_else(|| known.join(", "), str::to_owned);
    let why = format!("there is no key {}; write {instead}", shown(name));
    Err(Mistake { offset: Some(key.span().start), why })
}

/// A value through the parser that the command line has for it, too.
fn setting<T>(
    table: &DeTable<'_>,
    key: &str,
    parse: impl Fn(&str) -> Result<T, BadValue>,
) -> Result<Option<T>, Mistake> {
    let Some(value) = table.get(key) else { return Ok(None) };
    let offset = Some(value.span().start);
    let is_text = TEXTS.contains(&key);
    let text = match value.get_ref() {
        DeValue::String(text) if is_text => text.to_string(),
        DeValue::Integer(number) if !is_text => {
            let number = i128::from_str_radix(number.as_str(), number.radix());
            number.map_or_else(|_| "an endless number".to_owned(), |number| number.to_string())
        }
        _ => {
            let example = if is_text { "\"…\"" } else { "10" };
            let kind = if is_text { "text" } else { "whole number" };
            let why = format!("{key} is no {kind}; write e.g. {key} = {example}");
            return Err(Mistake { offset, why });
        }
    };
    parse(&text).map(Some).map_err(|BadValue { why, instead }| {
        let quote = if is_text { "\"" } else { "" };
        let why =
            format!("{key} = {} {why}; write e.g. {key} = {quote}{instead}{quote}", shown(&text));
        Mistake { offset, why }
    })
}

fn seconds(text: &str) -> Result<Duration, BadValue> {
    whole(text, 1, RUN_MAX.as_secs(), "30").map(Duration::from_secs)
}

fn whole(text: &str, least: u64, most: u64, example: &str) -> Result<u64, BadValue> {
    let refuse = |why: String| Err(BadValue::new(why, example));
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return refuse("is no whole number".to_owned());
    }
    match text.parse::<u64>() {
        Ok(number) if (least..=most).contains(&number) => Ok(number),
        Ok(0) | Err(_) if text.starts_with('-') || text == "0" => {
            refuse(format!("must be at least {least}"))
        }
        Ok(_) | Err(_) => refuse(format!("must be at most {most}")),
    }
}

/// See [`super::defaults::LOAD_CONNECTIONS`]; numbers here, since a file has no texts for them.
const CONNECTIONS: usize = 10;
/// See [`super::defaults::MESSAGE_SIZE`].
const SIZE: usize = 1_024;
/// See [`super::defaults::LOAD_DURATION`].
const FILE_DURATION: Duration = Duration::from_secs(30);
/// How long a scenario of a file runs unless it says so, whatever the file says above it.
const SCENARIO_DURATION: Duration = Duration::from_secs(10);
const RUN_MAX: Duration = Duration::from_secs(30 * 86_400);

const FILE_KEYS: [&str; 6] =
    ["target_addr", "connections", "duration_secs", "message_size", "rate", "scenarios"];
const SCENARIO_KEYS: [&str; 5] = ["name", "connections", "duration_secs", "message_size", "rate"];
/// Keys whose values are texts; all others are numbers.
const TEXTS: [&str; 2] = ["target_addr", "name"];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use proptest::prelude::*;

    use super::*;
    use crate::config::defaults;

    fn scenario(name: &str, connections: usize, bytes: usize, seconds: u64) -> Scenario {
        Scenario {
            name: name.to_owned(),
            connections,
            rate: None,
            message_bytes: Some(bytes),
            duration: Duration::from_secs(seconds),
        }
    }

    fn check(text: &str, target: &str, scenarios: &[Scenario]) {
        let file = parse(text).unwrap();
        assert_eq!(file.target.to_string(), target, "{text}");
        assert_eq!(file.scenarios, scenarios, "{text}");
    }

    fn check_refused(text: &str, line: &str) {
        assert_eq!(parse(text).unwrap_err(), line, "{text}");
    }

    #[test]
    fn the_seeds_file_means_the_same() {
        check("", "127.0.0.1:8080", &[scenario("10x1K", 10, 1_024, 30)]);
        check(
            "target_addr = \"[::1]:9\"\nconnections = 3\nduration_secs = 2\nmessage_size = 0x40",
            "[::1]:9",
            &[scenario("3x64", 3, 64, 2)],
        );
        check(
            "\u{feff}target_addr = \"db:4000\"\nduration_secs = 7\nmessage_size = 100\n\
             [[scenarios]]\nname = \"baseline\"\nconnections = 10\nduration_secs = 5\n\
             message_size = 1_024\n[[scenarios]]\n# what is not said\n",
            "db:4000",
            &[scenario("baseline", 10, 1_024, 5), scenario("10x100", 10, 100, 10)],
        );
        let open = parse("rate = 500\n[[scenarios]]\nrate = 9\n[[scenarios]]").unwrap();
        let rates: Vec<_> = open.scenarios.iter().map(|scenario| scenario.rate).collect();
        assert_eq!(rates, [Some(9), Some(500)]);
    }

    #[test]
    fn the_files_defaults_are_those_of_the_command_line() {
        assert_eq!(connections(defaults::LOAD_CONNECTIONS), Ok(CONNECTIONS));
        assert_eq!(message_bytes(defaults::MESSAGE_SIZE), Ok(SIZE));
        assert_eq!(run_duration(defaults::LOAD_DURATION), Ok(FILE_DURATION));
    }

    #[test]
    fn mistakes_are_told_with_their_line() {
        for (text, line) in [
            ("\nconections = 3", ", line 2: there is no key conections; write connections"),
            (
                "xyzzy = 1",
                ", line 1: there is no key xyzzy; write target_addr, connections, \
                 duration_secs, message_size, rate, scenarios",
            ),
            (
                "[[scenarios]]\nname = \"a\"\nduration = 3",
                ", line 3: there is no key duration; write duration_secs",
            ),
            (
                "[[scenarios]]\nname = \"a\"\n\n[[scenarios]]\nname = \"a\"",
                ", line 5: name = a names two scenarios; write e.g. name = \"a-2\"",
            ),
            (
                "connections = 0",
                ", line 1: connections = 0 must be at least 1; write e.g. connections = 10",
            ),
            (
                "message_size = -5",
                ", line 1: message_size = -5 must be at least 1; write e.g. message_size = 1024",
            ),
            ("rate = \"fast\"", ", line 1: rate is no whole number; write e.g. rate = 10"),
            ("rate = 1.5", ", line 1: rate is no whole number; write e.g. rate = 10"),
            (
                "target_addr = 80",
                ", line 1: target_addr is no text; write e.g. target_addr = \"…\"",
            ),
            (
                "target_addr = \"db\"",
                ", line 1: target_addr = db has no port; write e.g. target_addr = \"db:4000\"",
            ),
            ("scenarios = 1", ", line 1: scenarios is no list; write [[scenarios]]"),
            ("scenarios = [1]", ", line 1: a scenario is no table; write [[scenarios]]"),
            ("scenarios = []", ", line 1: 0 scenarios: must be 1 to 256; write e.g. [[scenarios]]"),
            (
                "connections = 60000\nmessage_size = 1048576",
                ": connections 60000 times 1048576 bytes are more than 1024 MiB in flight; \
                 write e.g. 1024",
            ),
        ] {
            check_refused(text, line);
        }
        let broken = parse("connections = \n").unwrap_err();
        assert!(broken.starts_with(", line 1: is no TOML ("), "{broken}");
        assert!(!broken.contains('\n'), "{broken}");
        let missing = read(Path::new("/nowhere/load_test.toml")).unwrap_err();
        assert!(missing.contains("write the path of a TOML file"), "{missing}");
    }

    #[test]
    fn values_have_limits() {
        fn told<T: std::fmt::Debug>(parsed: Result<T, BadValue>) -> String {
            parsed.unwrap_err().to_string()
        }
        assert_eq!(message_bytes("64K"), Ok(65_536));
        assert_eq!(message_bytes("1MiB"), Ok(1 << 20));
        assert_eq!(message_bytes("1"), Ok(1));
        assert_eq!(told(message_bytes("2M")), "must be at most 1; write e.g. 1024");
        assert_eq!(told(message_bytes("1k")), "is no whole number; write e.g. 1024");
        assert_eq!(told(message_bytes("0")), "must be at least 1; write e.g. 1024");
        assert_eq!(told(connections("60001")), "must be at most 60000; write e.g. 10");
        assert_eq!(
            told(rate("99999999999999999999")),
            "must be at most 10000000; write e.g. 10000"
        );
        assert_eq!(told(run_duration("1ms")), "must be at least 10ms; write e.g. 30s");
        assert_eq!(warm_up("0"), Ok(Duration::ZERO));
        assert_eq!(told(timeout("0s")), "must be at least 1ms; write e.g. 5s");
        for (path, instead) in [
            ("a.png", "a.svg"),
            ("a/b", "a/b.svg"),
            ("a/b.tar.gz", "a/b.tar.svg"),
            ("/", "latency.svg"),
        ] {
            let expected =
                format!("is no .svg file, and no other kind is drawn; write e.g. {instead}");
            assert_eq!(told(plot(Path::new(path))), expected);
        }
        assert_eq!(plot(Path::new("x.SVG")), Ok(PathBuf::from("x.SVG")));
        for (bytes, text) in [(1, "1"), (1_000, "1000"), (1_024, "1K"), (1 << 20, "1M")] {
            assert_eq!(size_text(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn nothing_panics(
            text in ".*",
            like in "((target_addr|rate|name|scenarios) = [0-9\"\\[\\]a-z.:_-]{0,12}\n){0,4}",
        ) {
            for text in [text, like] {
                let _ = (parse(&text), message_bytes(&text), rate(&text));
                let _ = (connections(&text), plot(Path::new(&text)), run_duration(&text));
            }
        }
    }
}
