//! The command line of `relay`: one listener and its upstreams.

use clap::Args;

use super::UsageError;
use super::args::{CommonFlags, SocketFlags, WebFlags};
use super::build::{flag, log_section, measuring_section, socket_options, web_section};
use crate::config::address::parse_listen;
use crate::config::relay::{self, defaults as relay_defaults};
use crate::config::{
    Balance, Config, HealthSection, ProxyHeader, RelayListen, RelayListener, RelaySection,
    RelayUpstream, defaults,
};

#[derive(Debug, Args)]
pub(super) struct RelayCommand {
    /// Where clients connect; :PORT is every address, port 0 a free one.
    #[arg(long, value_name = "ADDR")]
    listen: Option<String>,
    /// Whom they are passed on to, host:port; repeatable.
    #[arg(long, value_name = "ADDR")]
    upstream: Vec<String>,
    /// An upstream that gets no new clients; repeatable.
    #[arg(long, value_name = "ADDR")]
    drain: Vec<String>,
    /// Who gets a new client.
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "round-robin",
        value_parser = ["round-robin", "least-connections", "lowest-latency"]
    )]
    balance: String,
    /// How long an attempt to connect to an upstream may take.
    #[arg(long, value_name = "DURATION", default_value = relay_defaults::CONNECT_TIMEOUT)]
    connect_timeout: String,
    /// Attempts to connect for one client, on one upstream after the other.
    #[arg(long, value_name = "N", default_value = relay_defaults::ATTEMPTS)]
    attempts: String,
    /// Close a connection on which nothing moved for this long; off: never.
    #[arg(long, value_name = "DURATION", default_value = relay_defaults::IDLE_TIMEOUT)]
    idle_timeout: String,
    /// Close clients beyond this many at once.
    #[arg(long, value_name = "N", default_value = defaults::CONNECTIONS_MAX)]
    max_connections: String,
    /// Every client begins with a PROXY header, version 1 or 2.
    #[arg(long)]
    proxy_in: bool,
    /// Send every upstream a PROXY header first.
    #[arg(long, value_name = "VERSION", value_parser = ["v1", "v2"])]
    proxy_out: Option<String>,
    /// Time between two half-open checks of an upstream; off: none.
    #[arg(long, value_name = "DURATION", default_value = relay_defaults::CHECK_INTERVAL)]
    check_interval: String,
    /// How long the answer to a check may take.
    #[arg(long, value_name = "DURATION", default_value = relay_defaults::CHECK_TIMEOUT)]
    check_timeout: String,
    /// Checks in a row that make a down upstream up.
    #[arg(long, value_name = "N", default_value = relay_defaults::RISE)]
    rise: String,
    /// Checks in a row without an answer that make an upstream down.
    #[arg(long, value_name = "N", default_value = relay_defaults::FALL)]
    fall: String,
    /// How long live connections may finish after SIGTERM.
    #[arg(long, value_name = "DURATION", default_value = relay_defaults::GRACE)]
    grace: String,
    /// How often to log a summary, if something happened; off: never.
    #[arg(long, value_name = "DURATION", default_value = relay_defaults::SUMMARY_INTERVAL)]
    summary_interval: String,
    /// Let another process listen there, too: the next version of this one.
    #[arg(long)]
    reuse_port: bool,
    /// Take the listening socket from systemd instead of --listen.
    #[arg(long = "systemd-socket")]
    socket_passed: bool,
    #[command(flatten)]
    socket: SocketFlags,
    /// Where to serve /metrics; :PORT is every address; repeatable.
    #[arg(long = "web.listen-address", value_name = "ADDR", default_value = defaults::WEB_LISTEN)]
    web_listen_address: Vec<String>,
    #[command(flatten)]
    web: WebFlags,
    #[command(flatten)]
    common: CommonFlags,
}

pub(super) fn config(command: &RelayCommand) -> Result<Config, UsageError> {
    let section = RelaySection {
        listeners: vec![listener(command)?],
        grace: flag("--grace", &command.grace, relay::grace)?,
        summary_interval: flag(
            "--summary-interval",
            &command.summary_interval,
            relay::summary_interval,
        )?,
    };
    Ok(Config {
        relay: Some(section),
        load: None,
        serve: None,
        probe: None,
        check: None,
        info: None,
        doctor: None,
        agent: None,
        web: Some(web_section(&command.web_listen_address, &command.web)?),
        measuring: measuring_section(&command.common)?,
        log: log_section(&command.common),
    })
}

fn listener(command: &RelayCommand) -> Result<RelayListener, UsageError> {
    let listener = RelayListener {
        listen: listen(command)?,
        reuse_port: command.reuse_port,
        upstreams: upstreams(command)?,
        balance: named(&Balance::NAMED, &command.balance).unwrap_or_default(),
        connect_timeout: flag(
            "--connect-timeout",
            &command.connect_timeout,
            relay::connect_timeout,
        )?,
        attempts_max: flag("--attempts", &command.attempts, relay::attempts_max)?,
        idle_timeout: flag("--idle-timeout", &command.idle_timeout, relay::idle_timeout)?,
        connections_max: flag(
            "--max-connections",
            &command.max_connections,
            relay::connections_max,
        )?,
        proxy_in: command.proxy_in,
        proxy_out: command
            .proxy_out
            .as_ref()
            .and_then(|version| named(&ProxyHeader::NAMED, version)),
        health: health(command)?,
        socket: socket_options(&command.socket)?,
    };
    relay::check(&listener).map_err(|why| UsageError::new(format!("--upstream: {why}")))?;
    Ok(listener)
}

fn listen(command: &RelayCommand) -> Result<RelayListen, UsageError> {
    match (&command.listen, command.socket_passed) {
        (Some(listen), false) => flag("--listen", listen, parse_listen).map(RelayListen::Address),
        (None, true) if command.web.systemd_socket => Err(UsageError::new(
            "--systemd-socket: --web.systemd-socket takes the sockets; write --web.listen-address",
        )),
        (None, true) => Ok(RelayListen::Systemd),
        (Some(listen), true) => {
            let listen = super::shown(listen);
            let line = format!("--listen {listen}: --systemd-socket is given, too; write one");
            Err(UsageError::new(line))
        }
        (None, false) => Err(UsageError::new("relay: no --listen; write e.g. --listen :8080")),
    }
}

fn upstreams(command: &RelayCommand) -> Result<Vec<RelayUpstream>, UsageError> {
    let mut upstreams = Vec::with_capacity(command.upstream.len());
    for text in &command.upstream {
        upstreams
            .push(RelayUpstream { address: flag("--upstream", text, str::parse)?, drain: false });
    }
    for text in &command.drain {
        let address = flag("--drain", text, str::parse)?;
        let known = upstreams.iter_mut().find(|upstream| upstream.address == address);
        let Some(upstream) = known else {
            let text = super::shown(text);
            let line = format!("--drain {text}: is no --upstream; write --upstream {text}, too");
            return Err(UsageError::new(line));
        };
        upstream.drain = true;
    }
    Ok(upstreams)
}

fn health(command: &RelayCommand) -> Result<Option<HealthSection>, UsageError> {
    let interval = flag("--check-interval", &command.check_interval, relay::check_interval)?;
    let timeout = flag("--check-timeout", &command.check_timeout, relay::connect_timeout)?;
    let rise = flag("--rise", &command.rise, relay::threshold)?;
    let fall = flag("--fall", &command.fall, relay::threshold)?;
    Ok(interval.map(|interval| HealthSection { interval, timeout, rise, fall }))
}

/// The value of a name that clap lets through.
fn named<T: Copy>(known: &[(&str, T)], name: &str) -> Option<T> {
    known.iter().find(|(known, _)| *known == name).map(|(_, value)| *value)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::ffi::OsString;
    use std::time::Duration;

    use super::super::{Parsed, parse};
    use super::*;

    fn parse_line(line: &str) -> Result<RelaySection, String> {
        let words = std::iter::once("rttscope").chain(line.split_ascii_whitespace());
        match parse(words.map(OsString::from)).map_err(|error| error.to_string())? {
            Parsed::Run(config) => Ok(config.relay.unwrap()),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_command_line_is_one_listener() {
        let upstream = |text: &str, drain| RelayUpstream { address: text.parse().unwrap(), drain };
        let plain = RelayListener {
            listen: RelayListen::Address("[::]:8080".parse().unwrap()),
            reuse_port: false,
            upstreams: vec![upstream("db:5432", false)],
            balance: Balance::RoundRobin,
            connect_timeout: Duration::from_secs(5),
            attempts_max: 3,
            idle_timeout: Some(Duration::from_secs(3_600)),
            connections_max: 10_000,
            proxy_in: false,
            proxy_out: None,
            health: Some(HealthSection {
                interval: Duration::from_secs(2),
                timeout: Duration::from_secs(1),
                rise: 2,
                fall: 3,
            }),
            socket: Default::default(),
        };
        let section = RelaySection {
            listeners: vec![plain.clone()],
            grace: Duration::from_secs(30),
            summary_interval: Some(Duration::from_secs(10)),
        };
        assert_eq!(parse_line("relay --listen :8080 --upstream db:5432"), Ok(section));
        let line = "relay --listen=127.0.0.1:0 --upstream db:5432 --upstream [::1]:1 \
                    --drain [::1]:1 --balance lowest-latency --connect-timeout 1s --attempts 1 \
                    --idle-timeout off --max-connections 7 --proxy-in --proxy-out v2 \
                    --check-interval off --grace 0s \
                    --summary-interval off --reuse-port --dscp EF";
        let all = RelayListener {
            listen: RelayListen::Address("127.0.0.1:0".parse().unwrap()),
            reuse_port: true,
            upstreams: vec![upstream("db:5432", false), upstream("[::1]:1", true)],
            balance: Balance::LowestLatency,
            connect_timeout: Duration::from_secs(1),
            attempts_max: 1,
            idle_timeout: None,
            connections_max: 7,
            proxy_in: true,
            proxy_out: Some(ProxyHeader::V2),
            health: None,
            socket: crate::sys::socket::SocketOptions { dscp: Some(46), ..plain.socket },
        };
        let grace = Duration::ZERO;
        let section = RelaySection { listeners: vec![all], grace, summary_interval: None };
        assert_eq!(parse_line(line), Ok(section));
        let systemd = parse_line("relay --systemd-socket --upstream a:1").unwrap();
        assert_eq!(systemd.listeners[0].listen, RelayListen::Systemd);
    }

    #[test]
    fn what_is_missing_or_too_much_is_told() {
        let check = |line: &str, message: &str| {
            assert_eq!(parse_line(line), Err(format!("rttscope: {message}")), "{line}");
        };
        check("relay --upstream a:1", "relay: no --listen; write e.g. --listen :8080");
        check("relay --listen :1", "--upstream: there is no upstream; write e.g. 10.0.0.1:5432");
        check(
            "relay --listen :1 --upstream a:1 --upstream a:1",
            "--upstream: upstream a:1 is there twice; leave one of them out",
        );
        check(
            "relay --listen :1 --upstream a:1 --drain b:1",
            "--drain b:1: is no --upstream; write --upstream b:1, too",
        );
        check(
            "relay --listen :1 --systemd-socket --upstream a:1",
            "--listen :1: --systemd-socket is given, too; write one",
        );
        check(
            "relay --systemd-socket --web.systemd-socket --upstream a:1",
            "--systemd-socket: --web.systemd-socket takes the sockets; write --web.listen-address",
        );
        check(
            "relay --listen :1 --upstream a:1 --grace 10",
            "--grace 10: has no unit (ns, us, ms, s, m, h, d); write e.g. --grace 30s",
        );
        check(
            "relay --listen :1 --upstream a",
            "--upstream a: has no port; write e.g. --upstream a:4000",
        );
    }
}
