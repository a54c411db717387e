//! Command lines in the form of tcp_ping_prometheus (`-mode=both -target=… -interval=10ms`), with
//! the meaning that its v0.2 gave them, so that unit files and scripts keep working.
//!
//! Go's `flag` package: one dash or two, `=` or a space, `-adaptive` alone is true, the last of
//! several counts. Where we differ on purpose: words that are no flags are refused instead of
//! ignored, and `-adaptive` is false unless given (true in the seed's v0.3.1, where it hid stalls:
//! a timeout that grows with the times it judges loses few of them).

use std::ffi::OsString;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU8;
use std::path::Path;

use clap::CommandFactory;

use super::build::{log_at_info, value_at};
use super::{COMMANDS, Parsed, Place, UsageError, args, service, shown, targets};
use crate::config::address::parse_listen;
use crate::config::nearest::nearest;
use crate::config::{
    BadValue, Config, MeasuringSection, ProbeSection, ReportMode, ServeSection, Target,
    TcpInfoChoice, WebListen, WebSection, WireChoice, defaults, setting, targets_file,
};
use crate::sys::sandbox::SandboxChoice;
use crate::sys::socket::SocketOptions;
use crate::sys::{ClockChoice, IoChoice};

/// Every flag of every generation of the seed.
const FLAGS: [&str; 11] = [
    "mode",
    "listen",
    "target",
    "targets",
    "metrics",
    "interval",
    "timeout",
    "window",
    "adaptive",
    "json-logs",
    "svc",
];

/// What the user typed, or the default, as text.
#[derive(Debug)]
struct SeedFlags {
    mode: String,
    listen: String,
    target: String,
    targets: String,
    metrics: String,
    interval: String,
    timeout: String,
    window: String,
    adaptive: bool,
    json_logs: bool,
    svc: String,
}

/// Whether the arguments (without the program's name) are in the seed's form: the first one is a
/// flag of the seed's, or a misspelt one with a single dash, which no flag of ours has.
pub(super) fn is_seed_form(args: &[OsString]) -> bool {
    let Some(first) = args.first().and_then(|arg| arg.to_str()) else { return false };
    let Some(flag) = split_flag(first) else { return false };
    let misspelt = !first.starts_with("--") && flag.name.chars().count() > 1;
    FLAGS.contains(&flag.name) || (misspelt && flag.name != "help")
}

/// Reads arguments in the seed's form.
pub(super) fn parse(args: &[OsString]) -> Result<Parsed, UsageError> {
    let mut texts = Vec::with_capacity(args.len());
    for arg in args {
        let text = arg.to_str().ok_or_else(|| {
            let shown = shown(&arg.to_string_lossy());
            UsageError::new(format!("{shown}: is not UTF-8; write it in UTF-8"))
        })?;
        if matches!(text, "-h" | "-help" | "--help") {
            return super::parse(["rttscope", "--help"].map(OsString::from));
        }
        texts.push(text);
    }
    let flags = read_flags(&texts)?;
    if !flags.svc.is_empty() {
        return service::of_seed(&flags.svc, &without_svc(args));
    }
    config(&flags).map(|config| Parsed::Run(Box::new(config)))
}

/// What the service is started with.
fn without_svc(args: &[OsString]) -> Vec<OsString> {
    let mut rest = args.iter();
    let mut kept = Vec::with_capacity(args.len());
    while let Some(arg) = rest.next() {
        match arg.to_str().and_then(split_flag) {
            Some(Flag { name: "svc", value: None }) => drop(rest.next()),
            Some(Flag { name: "svc", value: Some(_) }) => {}
            _ => kept.push(arg.clone()),
        }
    }
    kept
}

/// `-name`, `--name`, `-name=value`.
struct Flag<'a> {
    name: &'a str,
    value: Option<&'a str>,
}

fn split_flag(text: &str) -> Option<Flag<'_>> {
    let body = text.strip_prefix("--").or_else(|| text.strip_prefix('-'))?;
    if body.is_empty() || body.starts_with(['-', '=']) {
        return None;
    }
    let (name, value) =
        body.split_once('=').map_or((body, None), |(name, value)| (name, Some(value)));
    Some(Flag { name, value })
}

fn read_flags(texts: &[&str]) -> Result<SeedFlags, UsageError> {
    let mut flags = SeedFlags {
        mode: "server".to_owned(),
        listen: defaults::LISTEN.to_owned(),
        target: ":4000".to_owned(),
        targets: String::new(),
        metrics: defaults::WEB_LISTEN.to_owned(),
        interval: defaults::INTERVAL.to_owned(),
        timeout: defaults::TIMEOUT.to_owned(),
        window: defaults::WINDOW.to_owned(),
        adaptive: false,
        json_logs: false,
        svc: String::new(),
    };
    let mut rest = texts.iter();
    while let Some(text) = rest.next() {
        let Some(flag) = split_flag(text) else { return Err(no_flag(text, texts)) };
        match flag.name {
            "adaptive" => flags.adaptive = truth(&flag)?,
            "json-logs" => flags.json_logs = truth(&flag)?,
            name => {
                let field = match name {
                    "mode" => &mut flags.mode,
                    "listen" => &mut flags.listen,
                    "target" => &mut flags.target,
                    "targets" => &mut flags.targets,
                    "metrics" => &mut flags.metrics,
                    "interval" => &mut flags.interval,
                    "timeout" => &mut flags.timeout,
                    "window" => &mut flags.window,
                    "svc" => &mut flags.svc,
                    _ => return Err(unknown_flag(name)),
                };
                let value = flag.value.or_else(|| rest.next().copied()).ok_or_else(|| {
                    UsageError::new(format!("-{name}: has no value; write -{name}=VALUE"))
                })?;
                value.clone_into(field);
            }
        }
    }
    Ok(flags)
}

/// `strconv.ParseBool`, which is what Go's flags take.
fn truth(flag: &Flag<'_>) -> Result<bool, UsageError> {
    let name = flag.name;
    match flag.value {
        None | Some("1" | "t" | "T" | "true" | "TRUE" | "True") => Ok(true),
        Some("0" | "f" | "F" | "false" | "FALSE" | "False") => Ok(false),
        Some(other) => {
            let bad = BadValue::new("is neither true nor false", "true");
            Err(UsageError::at(Place::SeedFlag(name), other, &bad))
        }
    }
}

fn unknown_flag(name: &str) -> UsageError {
    let given = shown(name);
    let ours = args::Cli::command();
    let known = |command: &clap::Command| {
        command.get_arguments().any(|arg| arg.get_long().is_some_and(|long| long == name))
    };
    if let Some(command) = ours.get_subcommands().find(|command| known(command)) {
        let command = command.get_name();
        return UsageError::new(format!(
            "-{given}: needs a command before it; write rttscope {command} --{given}"
        ));
    }
    UsageError::new(match nearest(name, &FLAGS) {
        Some(flag) => format!("-{given}: no such flag; write -{flag}"),
        None => format!("-{given}: no such flag; write -{}", FLAGS.join(", -")),
    })
}

fn no_flag(text: &str, texts: &[&str]) -> UsageError {
    let given = shown(text);
    UsageError::new(match text {
        "true" | "false" => format!("{given}: is no flag; write it as -adaptive={text}"),
        _ if COMMANDS.contains(&text) => {
            let others: Vec<&str> = texts.iter().copied().filter(|other| *other != text).collect();
            let line = format!("{text} {}", others.join(" "));
            format!("{given}: a command comes first; write rttscope {}", one_line(&line))
        }
        _ => format!("{given}: is no flag; write a target as -target={given}"),
    })
}

/// Without line breaks, whatever a user quoted.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

fn config(flags: &SeedFlags) -> Result<Config, UsageError> {
    let (serves, probes) = match flags.mode.as_str() {
        "server" => (true, false),
        "client" => (false, true),
        "both" => (true, true),
        other => {
            let bad = BadValue::new("must be server, client or both", "both");
            return Err(UsageError::at(Place::SeedFlag("mode"), other, &bad));
        }
    };
    // The seed refused a bad duration or number in every mode, but used it in some only.
    let prober = probe_section(flags, probes)?;
    Ok(Config {
        relay: None,
        serve: if serves { Some(serve_section(flags)?) } else { None },
        probe: prober,
        check: None,
        info: None,
        load: None,
        web: Some(WebSection {
            listen: WebListen::Addresses(vec![flag("metrics", &flags.metrics, listen)?]),
            config_file: None,
        }),
        doctor: None,
        agent: None,
        measuring: MeasuringSection {
            io: IoChoice::Auto,
            clock: ClockChoice::Auto,
            threads: 1,
            pin: Vec::new(),
            busy_poll: false,
            priority: None,
            sandbox: SandboxChoice::Auto,
        },
        log: log_at_info(flags.json_logs),
    })
}

fn serve_section(flags: &SeedFlags) -> Result<ServeSection, UsageError> {
    let fixed = "our own default is good";
    Ok(ServeSection {
        listen: flag("listen", &flags.listen, listen)?,
        idle_timeout: setting::idle_timeout(defaults::IDLE_TIMEOUT).expect(fixed),
        connections_max: setting::connections_max(defaults::CONNECTIONS_MAX).expect(fixed),
    })
}

fn probe_section(flags: &SeedFlags, probes: bool) -> Result<Option<ProbeSection>, UsageError> {
    if !probes {
        flag("interval", &flags.interval, crate::config::duration::parse)?;
        flag("timeout", &flags.timeout, crate::config::duration::parse)?;
        flag("window", &flags.window, window)?;
        return Ok(None);
    }
    let interval = flag("interval", &flags.interval, setting::interval)?;
    // The seed took a timeout of any number of intervals. Slots that would be more than
    // `IN_FLIGHT_MAX` in flight are skipped and counted, so that such a line keeps working.
    let timeout = flag("timeout", &flags.timeout, setting::timeout)?;
    Ok(Some(ProbeSection {
        targets: target_list(flags)?,
        interval,
        timeout,
        adaptive: flags.adaptive,
        window: flag("window", &flags.window, window)?,
        count: None,
        duration: None,
        wire: WireChoice::Auto,
        paths: NonZeroU8::MIN,
        padding_bytes: 0,
        socket: SocketOptions::default(),
        tcp_info: TcpInfoChoice::Default,
        check: None,
        slos: Vec::new(),
        buckets: None,
        report: ReportMode::Quiet,
    }))
}

/// The file wins over `-target`, whose name is `default`.
fn target_list(flags: &SeedFlags) -> Result<Vec<Target>, UsageError> {
    if flags.targets.is_empty() {
        let address = flag("target", &flags.target, str::parse)?;
        return Ok(vec![Target { name: "default".to_owned(), address }]);
    }
    let place = format!("-targets={}", shown(&flags.targets));
    let list = targets_file::read(Path::new(&flags.targets))
        .map_err(|why| UsageError::new(format!("{place}: {why}")))?;
    targets::check(&list).map_err(UsageError::new)?;
    Ok(list)
}

/// Go's listener resolves `localhost`, and takes its IPv4 address if there is one.
fn listen(text: &str) -> Result<SocketAddr, BadValue> {
    match text.strip_prefix("localhost:") {
        Some(port) => parse_listen(&format!("{}:{port}", Ipv4Addr::LOCALHOST)),
        None => parse_listen(text),
    }
}

/// Below 1 counts as 1.
fn window(text: &str) -> Result<usize, BadValue> {
    match text.parse::<i64>() {
        Ok(window) if window < 1 => Ok(1),
        _ => setting::window(text),
    }
}

fn flag<T>(
    name: &str,
    value: &str,
    parse: impl Fn(&str) -> Result<T, BadValue>,
) -> Result<T, UsageError> {
    value_at(Place::SeedFlag(name), value, parse)
}
