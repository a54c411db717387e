//! From flags to meaning: each text through the parser of its setting, then the checks between
//! settings, each complaint with its flag in front.

use std::num::NonZeroU8;
use std::time::Duration;

use super::args::{
    BothCommand, Cli, Command, CommonFlags, InfoCommand, ProbeCommand, ProberFlags, ResponderFlags,
    ServeCommand, SocketFlags, WebFlags,
};
use super::{
    Parsed, Place, UsageError, check, completions, doctor, load, manual, relay, rules, run,
    service, targets,
};
use crate::config::address::parse_listen;
use crate::config::{
    BadValue, Config, InfoSection, LogSection, MeasuringSection, ProbeSection, ReportMode,
    ServeSection, Slo, SloClock, Target, TcpInfoChoice, WebListen, WebSection, WireChoice, limits,
    setting, targets_file,
};
use crate::sample::Method;
use crate::sys::sandbox::SandboxChoice;
use crate::sys::socket::SocketOptions;
use crate::sys::{ClockChoice, IoChoice, MethodChoice};

/// What a command line stands for.
pub(super) fn parsed(cli: &Cli) -> Result<Parsed, UsageError> {
    let config = match &cli.command {
        Command::Run(command) => return run::parsed(command),
        Command::Serve(command) => serve(command)?,
        Command::Probe(command) => probe(command)?,
        Command::Both(command) => both(command)?,
        Command::Check(command) => {
            let (config, complaints) = check::config(command)?;
            if !complaints.is_empty() {
                return Ok(Parsed::RunDespite(Box::new(config), complaints));
            }
            config
        }
        Command::Info(command) => info(command)?,
        Command::Relay(command) => relay::config(command)?,
        Command::Load(command) => load::config(command)?,
        Command::Doctor(command) => doctor::config(command)?,
        Command::Service(command) => return service::parsed(command),
        Command::Completions(command) => {
            return Ok(Parsed::PrintAndExit(completions::script(command)));
        }
        Command::Man(command) => return Ok(Parsed::PrintAndExit(manual::page(command))),
        Command::Rules(command) => return rules::file(command).map(Parsed::PrintAndExit),
    };
    Ok(Parsed::Run(Box::new(config)))
}

/// `value` through the parser of its setting; a complaint begins with `place`.
pub(super) fn value_at<T>(
    place: Place<'_>,
    value: &str,
    parse: impl Fn(&str) -> Result<T, BadValue>,
) -> Result<T, UsageError> {
    parse(value).map_err(|bad| UsageError::at(place, value, &bad))
}

/// Level `info`, text or JSON.
pub(super) const fn log_at_info(json: bool) -> LogSection {
    LogSection { level: tracing::Level::INFO, json }
}

fn serve(command: &ServeCommand) -> Result<Config, UsageError> {
    Ok(Config {
        relay: None,
        serve: Some(serve_section(&command.listen, &command.responder)?),
        probe: None,
        check: None,
        info: None,
        load: None,
        web: Some(web_section(&command.web_listen_address, &command.web)?),
        doctor: None,
        agent: None,
        measuring: measuring_section(&command.common)?,
        log: log_section(&command.common),
    })
}

fn probe(command: &ProbeCommand) -> Result<Config, UsageError> {
    let measuring = measuring_section(&command.common)?;
    let probe = probe_section(&command.prober, measuring.clock)?;
    if probe.targets.is_empty() {
        return Err(UsageError::new("probe: no target; write e.g. rttscope probe 10.0.0.1:4000"));
    }
    let web = if !command.web_listen_address.is_empty() || command.web.systemd_socket {
        Some(web_section(&command.web_listen_address, &command.web)?)
    } else if let Some(file) = &command.web.config_file {
        let file = super::shown(&file.to_string_lossy());
        return Err(UsageError::new(format!(
            "--web.config.file {file}: nothing is served; add --web.listen-address :2112"
        )));
    } else {
        None
    };
    Ok(Config {
        relay: None,
        serve: None,
        probe: Some(probe),
        check: None,
        info: None,
        load: None,
        doctor: None,
        agent: None,
        web,
        measuring,
        log: log_section(&command.common),
    })
}

fn both(command: &BothCommand) -> Result<Config, UsageError> {
    let measuring = measuring_section(&command.common)?;
    Ok(Config {
        relay: None,
        serve: Some(serve_section(&command.listen, &command.responder)?),
        probe: Some(probe_section(&command.prober, measuring.clock)?),
        check: None,
        info: None,
        load: None,
        web: Some(web_section(&command.web_listen_address, &command.web)?),
        doctor: None,
        agent: None,
        measuring,
        log: log_section(&command.common),
    })
}

fn info(command: &InfoCommand) -> Result<Config, UsageError> {
    let Some(address) = &command.address else {
        return Err(UsageError::new("info: no address; write e.g. rttscope info 10.0.0.1:443"));
    };
    let section = InfoSection {
        address: value_at(Place::Target, address, str::parse)?,
        timeout: flag("--timeout", &command.timeout, setting::timeout)?,
        watch: command.watch,
        socket: socket_options(&command.socket)?,
        report: if command.json { ReportMode::Json } else { ReportMode::Live },
    };
    Ok(Config {
        relay: None,
        serve: None,
        probe: None,
        check: None,
        info: Some(section),
        load: None,
        doctor: None,
        agent: None,
        web: None,
        measuring: measuring_section(&command.common)?,
        log: log_section(&command.common),
    })
}

fn serve_section(listen: &str, flags: &ResponderFlags) -> Result<ServeSection, UsageError> {
    Ok(ServeSection {
        listen: flag("--listen", listen, parse_listen)?,
        idle_timeout: flag("--idle-timeout", &flags.idle_timeout, setting::idle_timeout)?,
        connections_max: flag(
            "--max-connections",
            &flags.max_connections,
            setting::connections_max,
        )?,
    })
}

pub(super) fn web_section(listen: &[String], flags: &WebFlags) -> Result<WebSection, UsageError> {
    let name = "--web.listen-address";
    let addresses = listen.iter().map(|address| flag(name, address, parse_listen));
    let addresses = addresses.collect::<Result<Vec<_>, _>>()?;
    if addresses.len() > limits::WEB_ADDRESSES_MAX {
        let (given, most) = (addresses.len(), limits::WEB_ADDRESSES_MAX);
        return Err(UsageError::new(format!("{name}: given {given} times; write at most {most}")));
    }
    Ok(WebSection {
        // As exporter-toolkit: the addresses, which have a default, say nothing then.
        listen: match flags.systemd_socket {
            true => WebListen::Systemd,
            false => WebListen::Addresses(addresses),
        },
        config_file: flags.config_file.clone(),
    })
}

pub(super) fn probe_section(
    flags: &ProberFlags,
    clock: ClockChoice,
) -> Result<ProbeSection, UsageError> {
    let interval = flag("--interval", &flags.interval, setting::interval)?;
    let timeout = flag("--timeout", &flags.timeout, setting::timeout)?;
    let in_flight = setting::check_in_flight(interval, timeout);
    flag("--timeout", &flags.timeout, |_| in_flight.clone())?;
    let wire = match flags.wire.as_str() {
        "v1" => WireChoice::V1,
        "v2" => WireChoice::V2,
        "v3" => WireChoice::V3,
        _ => WireChoice::Auto,
    };
    Ok(ProbeSection {
        targets: target_list(flags)?,
        interval,
        timeout,
        adaptive: flags.adaptive,
        window: flag("--window", &flags.window, setting::window)?,
        count: optional("--count", flags.count.as_ref(), setting::count)?,
        duration: optional("--duration", flags.duration.as_ref(), setting::run_duration)?,
        wire,
        paths: NonZeroU8::MIN,
        padding_bytes: padding(&flags.padding, wire)?,
        socket: socket_options(&flags.socket)?,
        slos: objectives(flags, timeout, clock)?,
        buckets: None,
        tcp_info: match flags.tcp_info.as_str() {
            "all" => TcpInfoChoice::All,
            "off" => TcpInfoChoice::Off,
            _ => TcpInfoChoice::Default,
        },
        check: check_method(flags)?,
        report: if flags.json { ReportMode::Json } else { ReportMode::Live },
    })
}

/// The method of half-open checks, if they are wanted; flags of the other kind of probe are none.
fn check_method(flags: &ProberFlags) -> Result<Option<MethodChoice>, UsageError> {
    let method = flags.method.as_deref();
    if !flags.check {
        return match method {
            Some(method) => Err(UsageError::new(format!(
                "--method {method}: echo probes have no method; add --check or leave it out"
            ))),
            None => Ok(None),
        };
    }
    let echo_only = [
        ("--wire", flags.wire != "auto"),
        ("--padding", flags.padding != "0"),
        ("--tcp-info", flags.tcp_info != "default"),
        ("--adaptive", flags.adaptive),
    ];
    if let Some((flag, _)) = echo_only.into_iter().find(|(_, given)| *given) {
        let line = format!("{flag}: is for echo probes; leave it out, or leave --check out");
        return Err(UsageError::new(line));
    }
    Ok(Some(method_choice(method.unwrap_or("auto"))))
}

/// A method by one of the names that clap lets through.
pub(super) fn method_choice(name: &str) -> MethodChoice {
    let only = Method::ALL.into_iter().find(|method| method.name() == name);
    only.map_or(MethodChoice::Auto, MethodChoice::Only)
}

pub(super) fn socket_options(flags: &SocketFlags) -> Result<SocketOptions, UsageError> {
    Ok(SocketOptions {
        source: optional("--source", flags.source.as_ref(), setting::source)?,
        interface: optional("--interface", flags.interface.as_ref(), setting::interface)?,
        dscp: optional("--dscp", flags.dscp.as_ref(), setting::dscp)?,
        ttl: optional("--ttl", flags.ttl.as_ref(), setting::ttl)?,
    })
}

/// The targets of the command line, then those of the file.
fn target_list(flags: &ProberFlags) -> Result<Vec<Target>, UsageError> {
    let mut list = Vec::with_capacity(flags.target.len());
    for text in &flags.target {
        list.push(value_at(Place::Target, text, str::parse)?);
    }
    if let Some(path) = &flags.targets {
        let name = format!("--targets {}", super::shown(&path.to_string_lossy()));
        list.extend(
            targets_file::read(path).map_err(|why| UsageError::new(format!("{name}: {why}")))?,
        );
    }
    targets::check(&list).map_err(UsageError::new)?;
    Ok(list)
}

/// Only v3 frames have room for padding.
fn padding(text: &str, wire: WireChoice) -> Result<u16, UsageError> {
    let padding_bytes = flag("--padding", text, setting::padding_bytes)?;
    if padding_bytes > 0 && matches!(wire, WireChoice::V1 | WireChoice::V2) {
        let line = format!("--padding {text}: v1 and v2 frames have no padding; add --wire v3");
        return Err(UsageError::new(line));
    }
    Ok(padding_bytes)
}

fn objectives(
    flags: &ProberFlags,
    timeout: Duration,
    clock: ClockChoice,
) -> Result<Vec<Slo>, UsageError> {
    let mut slos: Vec<Slo> = Vec::with_capacity(flags.slo.len());
    for text in &flags.slo {
        let slo = flag("--slo", text, |text| {
            let slo = setting::slo(text)?;
            setting::check_threshold(&slo, timeout)?;
            if slo.clock == SloClock::Kernel && clock == ClockChoice::Application {
                let why = "is by the kernel's clocks, and --clock application asks for none";
                return Err(BadValue::new(why, "1ms:99%:application"));
            }
            if slos.iter().any(|earlier| earlier.name == slo.name) {
                let objective = text.split_once('=').map_or(text, |(_, objective)| objective);
                let why = format!("is the second objective named {}", slo.name);
                return Err(BadValue::new(why, format!("strict={objective}")));
            }
            Ok(slo)
        })?;
        slos.push(slo);
    }
    if slos.len() > limits::SLOS_MAX {
        let (given, most) = (slos.len(), limits::SLOS_MAX);
        return Err(UsageError::new(format!("--slo: given {given} times; write at most {most}")));
    }
    Ok(slos)
}

pub(super) fn measuring_section(flags: &CommonFlags) -> Result<MeasuringSection, UsageError> {
    Ok(MeasuringSection {
        io: match flags.io.as_str() {
            "uring" => IoChoice::Uring,
            "poll" => IoChoice::Poll,
            _ => IoChoice::Auto,
        },
        clock: match flags.clock.as_str() {
            "kernel" => ClockChoice::Kernel,
            "application" => ClockChoice::Application,
            _ => ClockChoice::Auto,
        },
        threads: flag("--threads", &flags.threads, setting::threads)?,
        pin: optional("--pin", flags.pin.as_ref(), setting::pin)?.unwrap_or_default(),
        busy_poll: flags.busy_poll,
        priority: optional("--priority", flags.priority.as_ref(), setting::priority)?,
        sandbox: match flags.sandbox.as_str() {
            "on" => SandboxChoice::On,
            "off" => SandboxChoice::Off,
            _ => SandboxChoice::Auto,
        },
    })
}

pub(super) fn log_section(flags: &CommonFlags) -> LogSection {
    let level = match flags.log_level.as_str() {
        "error" => tracing::Level::ERROR,
        "warn" => tracing::Level::WARN,
        "debug" => tracing::Level::DEBUG,
        "trace" => tracing::Level::TRACE,
        _ => tracing::Level::INFO,
    };
    LogSection { level, json: flags.log_format == "json" }
}

pub(super) fn flag<T>(
    name: &str,
    value: &str,
    parse: impl Fn(&str) -> Result<T, BadValue>,
) -> Result<T, UsageError> {
    value_at(Place::Flag(name), value, parse)
}

fn optional<T>(
    name: &str,
    value: Option<&String>,
    parse: impl Fn(&str) -> Result<T, BadValue>,
) -> Result<Option<T>, UsageError> {
    value.map(|value| flag(name, value, parse)).transpose()
}
