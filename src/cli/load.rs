//! The command line of `load`: a matrix of the sizes and connections that were given, or the
//! scenarios of a file.

use std::path::PathBuf;

use clap::Args;

use super::args::{CommonFlags, SocketFlags};
use super::build::{flag, log_section, measuring_section, socket_options, value_at};
use super::{Place, UsageError, shown};
use crate::config::limits::SCENARIOS_MAX;
use crate::config::load::{self, LoadFile, LoadSection, Scenario};
use crate::config::{Config, HostPort, ReportMode, defaults};

#[derive(Debug, Args)]
pub(super) struct LoadCommand {
    /// host:port, [v6]:port, [v6%zone]:port; instead of that of the scenarios' file.
    #[arg(value_name = "TARGET")]
    target: Option<String>,
    /// Requests per second of all connections together, whether or not they are answered (open
    /// loop); without it, each connection asks again when it is answered (closed loop).
    #[arg(long, value_name = "N")]
    rate: Option<String>,
    /// Connections at once; repeatable [default: 10].
    #[arg(short, long, value_name = "N")]
    connections: Vec<String>,
    /// Bytes of a request, e.g. 64 or 8K; repeatable: each with each number of connections
    /// [default: 1024].
    #[arg(short, long, value_name = "BYTES")]
    size: Vec<String>,
    /// Only connect and close, again and again.
    #[arg(long)]
    connect: bool,
    /// How long to measure [default: 30s].
    #[arg(short, long, value_name = "DURATION")]
    duration: Option<String>,
    /// How long to run before it counts.
    #[arg(long, value_name = "DURATION", default_value = defaults::WARM_UP)]
    warm_up: String,
    /// How long an answer or a connection may take.
    #[arg(long, value_name = "DURATION", default_value = defaults::LOAD_TIMEOUT)]
    timeout: String,
    /// TOML file of scenarios to run one after the other, such as a load_test.toml.
    #[arg(long, value_name = "FILE")]
    scenario: Option<PathBuf>,
    /// One JSON object a scenario on standard output, and a summary.
    #[arg(long)]
    json: bool,
    /// Draw the latencies by percentile into this SVG file.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    socket: SocketFlags,
    #[command(flatten)]
    common: CommonFlags,
}

/// The `Config`.
pub(super) fn config(command: &LoadCommand) -> Result<Config, UsageError> {
    let target = command.target.as_ref();
    let target: Option<HostPort> =
        target.map(|text| value_at(Place::Target, text, str::parse)).transpose()?;
    let (target, scenarios) = match (&command.scenario, target) {
        (Some(path), target) => {
            refuse_beside_a_file(command)?;
            let LoadFile { target: written, scenarios } = load::read(path).map_err(|why| {
                UsageError::new(format!("--scenario {}{why}", shown(&path.to_string_lossy())))
            })?;
            (target.unwrap_or(written), scenarios)
        }
        (None, Some(target)) => (target, scenarios(command)?),
        (None, None) => {
            let line = "load: no target; write e.g. rttscope load 10.0.0.1:4000";
            return Err(UsageError::new(line));
        }
    };
    let plot = command
        .plot
        .as_ref()
        .map(|path| flag("--plot", &path.to_string_lossy(), |_| load::plot(path)));
    let section = LoadSection {
        target,
        scenarios,
        warm_up: flag("--warm-up", &command.warm_up, load::warm_up)?,
        timeout: flag("--timeout", &command.timeout, load::timeout)?,
        socket: socket_options(&command.socket)?,
        report: if command.json { ReportMode::Json } else { ReportMode::Live },
        plot: plot.transpose()?,
    };
    Ok(Config {
        relay: None,
        serve: None,
        probe: None,
        check: None,
        info: None,
        load: Some(section),
        doctor: None,
        agent: None,
        web: None,
        measuring: measuring_section(&command.common)?,
        log: log_section(&command.common),
    })
}

/// What a file says is not said twice.
fn refuse_beside_a_file(command: &LoadCommand) -> Result<(), UsageError> {
    let given = [
        ("--rate", command.rate.is_some()),
        ("--connections", !command.connections.is_empty()),
        ("--size", !command.size.is_empty()),
        ("--connect", command.connect),
        ("--duration", command.duration.is_some()),
    ];
    match given.into_iter().find(|(_, given)| *given) {
        None => Ok(()),
        Some((flag, _)) => {
            let line = format!("{flag}: the file of --scenario says this; write it there");
            Err(UsageError::new(line))
        }
    }
}

fn scenarios(command: &LoadCommand) -> Result<Vec<Scenario>, UsageError> {
    let or_default = |given: &[String], default: &str| match given {
        [] => vec![default.to_owned()],
        given => given.to_vec(),
    };
    let connections = or_default(&command.connections, defaults::LOAD_CONNECTIONS);
    let connections: Vec<usize> = connections
        .iter()
        .map(|text| flag("--connections", text, load::connections))
        .collect::<Result<_, _>>()?;
    let sizes = if command.connect {
        if let Some(size) = command.size.first() {
            let line = format!("--size {}: --connect sends nothing; leave it out", shown(size));
            return Err(UsageError::new(line));
        }
        vec![None]
    } else {
        let sizes = or_default(&command.size, defaults::MESSAGE_SIZE);
        let sizes = sizes.iter().map(|text| flag("--size", text, load::message_bytes).map(Some));
        sizes.collect::<Result<_, _>>()?
    };
    let rate = command.rate.as_ref().map(|text| flag("--rate", text, load::rate)).transpose()?;
    let duration = command.duration.as_deref().unwrap_or(defaults::LOAD_DURATION);
    let duration = flag("--duration", duration, load::run_duration)?;
    let scenarios = load::matrix(&connections, &sizes, rate, duration);
    if scenarios.len() > SCENARIOS_MAX {
        let given = scenarios.len();
        let line =
            format!("--connections times --size: {given} runs; write at most {SCENARIOS_MAX}");
        return Err(UsageError::new(line));
    }
    for scenario in &scenarios {
        let connections = scenario.connections.to_string();
        flag("--connections", &connections, |_| load::check_memory(scenario))?;
    }
    Ok(scenarios)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::ffi::OsString;
    use std::io::Write;
    use std::time::Duration;

    use super::*;
    use crate::cli::{Parsed, parse};
    use crate::sys::socket::SocketOptions;

    fn parse_line(line: &str) -> Result<LoadSection, UsageError> {
        let words = ["rttscope", "load"].into_iter().chain(line.split_whitespace());
        let Parsed::Run(config) = parse(words.map(OsString::from))? else { panic!("{line}") };
        Ok(config.load.unwrap())
    }

    fn check(line: &str, expected: LoadSection) {
        assert_eq!(parse_line(line), Ok(expected), "{line}");
    }

    fn check_refused(line: &str, message: &str) {
        let refused = parse_line(line).unwrap_err().to_string();
        assert_eq!(refused, format!("rttscope: {message}"), "{line}");
    }

    fn scenario(name: &str, connections: usize, message_bytes: Option<usize>) -> Scenario {
        let duration = Duration::from_secs(30);
        Scenario { name: name.to_owned(), connections, rate: None, message_bytes, duration }
    }

    fn plain(target: &str, scenarios: Vec<Scenario>) -> LoadSection {
        LoadSection {
            target: target.parse().unwrap(),
            scenarios,
            warm_up: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            socket: SocketOptions::default(),
            report: ReportMode::Live,
            plot: None,
        }
    }

    #[test]
    fn flags_become_scenarios() {
        check("db:4000", plain("db:4000", vec![scenario("10x1K", 10, Some(1_024))]));
        check(
            "[::1]:9 --rate 500 -d 3s --warm-up 0 --timeout 1s --json --plot x.svg --dscp EF",
            LoadSection {
                warm_up: Duration::ZERO,
                timeout: Duration::from_secs(1),
                socket: SocketOptions { dscp: Some(46), ..SocketOptions::default() },
                report: ReportMode::Json,
                plot: Some("x.svg".into()),
                ..plain(
                    "[::1]:9",
                    vec![Scenario {
                        rate: Some(500),
                        duration: Duration::from_secs(3),
                        ..scenario("10x1K", 10, Some(1_024))
                    }],
                )
            },
        );
        check(
            "db:1 -c 1 --connections=50 --size 64 -s 8K",
            plain(
                "db:1",
                vec![
                    scenario("1x64", 1, Some(64)),
                    scenario("1x8K", 1, Some(8_192)),
                    scenario("50x64", 50, Some(64)),
                    scenario("50x8K", 50, Some(8_192)),
                ],
            ),
        );
        check("db:1 --connect", plain("db:1", vec![scenario("10xconnect", 10, None)]));
    }

    #[test]
    fn a_file_of_scenarios_is_read() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "target_addr = \"db:1\"\nduration_secs = 30\n").unwrap();
        let path = file.path().to_str().unwrap().to_owned();
        let expected = plain("db:1", vec![scenario("10x1K", 10, Some(1_024))]);
        check(&format!("--scenario {path}"), expected.clone());
        let elsewhere = LoadSection { target: "other:2".parse().unwrap(), ..expected };
        check(&format!("other:2 --scenario={path}"), elsewhere);
        for flag in ["--rate 5", "--connections 5", "--size 5", "--connect", "--duration 5s"] {
            let name = flag.split(' ').next().unwrap();
            let message = format!("{name}: the file of --scenario says this; write it there");
            check_refused(&format!("--scenario {path} {flag}"), &message);
        }
        write!(file, "sizes = 5").unwrap();
        let why = "there is no key sizes; write target_addr, connections, duration_secs, \
                   message_size, rate, scenarios";
        check_refused(&format!("--scenario {path}"), &format!("--scenario {path}, line 3: {why}"));
    }

    #[test]
    fn mistakes_are_told_with_what_to_write() {
        check_refused("", "load: no target; write e.g. rttscope load 10.0.0.1:4000");
        check_refused("db", "db: has no port; write e.g. db:4000");
        check_refused(
            "db:1 --plot x.png",
            "--plot x.png: is no .svg file, and no other kind is drawn; write e.g. --plot x.svg",
        );
        check_refused("db:1 --rate 0", "--rate 0: must be at least 1; write e.g. --rate 10000");
        check_refused(
            "db:1 --connect --size 64",
            "--size 64: --connect sends nothing; leave it out",
        );
        check_refused(
            "db:1 -c 60000 -s 1M",
            "--connections 60000: times 1048576 bytes are more than 1024 MiB in flight; \
             write e.g. --connections 1024",
        );
        let many = " -c 1".repeat(17) + &" -s 1".repeat(16);
        check_refused(
            &format!("db:1{many}"),
            "--connections times --size: 272 runs; write at most 256",
        );
        // The words in between are the system's.
        let missing = parse_line("--scenario /nowhere.toml").unwrap_err().to_string();
        assert!(missing.starts_with("rttscope: --scenario /nowhere.toml: cannot be read ("));
        assert!(missing.ends_with("); write the path of a TOML file"), "{missing}");
    }
}
