//! `service`: what the service manager is to do. The command line to record is checked here, and
//! its paths are made absolute: a service starts in another folder.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::Args;

use super::{Parsed, Place, UsageError, shown};
use crate::config::{BadFile, BadValue, Config, Service, ServiceOrder};

#[derive(Debug, Args)]
pub(super) struct ServiceCommand {
    /// What to do: install, uninstall, start, stop, or run as the service manager does.
    #[arg(
        value_name = "ORDER",
        value_parser = ["install", "uninstall", "start", "stop", "run"]
    )]
    pub(super) order: Option<String>,
    /// By which the service manager knows it.
    #[arg(long, value_name = "NAME", default_value = NAME)]
    pub(super) name: String,
    /// What the service runs: a command with its flags, after two dashes.
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<OsString>,
}

/// The request that a command line stands for.
pub(super) fn parsed(command: &ServiceCommand) -> Result<Parsed, UsageError> {
    let Some(order) = command.order.as_deref() else {
        let line = "service: no order; write e.g. rttscope service install -- serve";
        return Err(UsageError::new(line));
    };
    request(order, &command.name, &command.command)
}

/// The same for the seed's `-svc=ORDER`, whose other flags are the command.
pub(super) fn of_seed(order: &str, command: &[OsString]) -> Result<Parsed, UsageError> {
    if !ORDERS.contains(&order) {
        let bad = BadValue::new("must be install, uninstall, start, stop or run", "install");
        return Err(UsageError::at(Place::SeedFlag("svc"), order, &bad));
    }
    request(order, NAME, command)
}

fn request(order: &str, name: &str, command: &[OsString]) -> Result<Parsed, UsageError> {
    // The service manager of Windows takes no others.
    if name.is_empty() || name.chars().count() > NAME_MAX || name.contains(['/', '\\']) {
        let line = format!("--name {}: is no name of a service; write --name {NAME}", shown(name));
        return Err(UsageError::new(line));
    }
    let order = match order {
        "install" => {
            config(order, command)?;
            ServiceOrder::Install(recorded(command)?)
        }
        "run" => {
            let config = config(order, command).map(Box::new);
            ServiceOrder::Run(config.map_err(|UsageError(line)| BadFile(line)))
        }
        "uninstall" => ServiceOrder::Uninstall,
        "start" => ServiceOrder::Start,
        _ => ServiceOrder::Stop,
    };
    Ok(Parsed::Service(Box::new(Service { name: name.to_owned(), order })))
}

/// What the command stands for: something that goes on until it is stopped.
fn config(order: &str, command: &[OsString]) -> Result<Config, UsageError> {
    let program = OsString::from(NAME);
    match super::parse(std::iter::once(program).chain(command.iter().cloned()))? {
        Parsed::Run(config) if goes_on(&config) => Ok(*config),
        _ => Err(UsageError::new(format!(
            "service {order}: a service serves or probes; write rttscope service {order} -- serve"
        ))),
    }
}

fn goes_on(config: &Config) -> bool {
    config.agent.is_some() || config.serve.is_some() || config.probe.is_some()
}

/// The command with every path absolute.
fn recorded(command: &[OsString]) -> Result<Vec<OsString>, UsageError> {
    let mut words = Vec::with_capacity(command.len());
    let mut path_follows = false;
    for word in command {
        let text = word.to_string_lossy();
        let flag = PATH_FLAGS.into_iter().find(|flag| text.trim_start_matches('-') == *flag);
        let assigned = text.split_once('=').filter(|(flag, _)| {
            flag.starts_with('-') && PATH_FLAGS.contains(&flag.trim_start_matches('-'))
        });
        if path_follows {
            words.push(absolute(word)?);
        } else if let Some((flag, path)) = assigned {
            let mut whole = OsString::from(format!("{flag}="));
            whole.push(absolute(OsStr::new(path))?);
            words.push(whole);
        } else {
            words.push(word.clone());
        }
        path_follows = !path_follows && text.starts_with('-') && flag.is_some();
    }
    Ok(words)
}

fn absolute(path: &OsStr) -> Result<OsString, UsageError> {
    std::path::absolute(Path::new(path)).map(Into::into).map_err(|error| {
        let path = shown(&path.to_string_lossy());
        UsageError::new(format!("{path}: {error}; write the whole path"))
    })
}

const NAME: &str = "rttscope";
const NAME_MAX: usize = 256;
const ORDERS: [&str; 5] = ["install", "uninstall", "start", "stop", "run"];
/// Flags whose value is a file's path.
const PATH_FLAGS: [&str; 3] = ["targets", "web.config.file", "config.file"];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    fn request(line: &str) -> Result<Service, String> {
        match crate::cli::parse(line.split(' ').map(OsString::from)) {
            Ok(Parsed::Service(request)) => Ok(*request),
            Ok(other) => panic!("{line}: {other:?}"),
            Err(error) => Err(error.to_string()),
        }
    }

    fn installed(line: &str) -> Vec<OsString> {
        match request(line).unwrap().order {
            ServiceOrder::Install(words) => words,
            other => panic!("{line}: {other:?}"),
        }
    }

    #[test]
    fn the_flags_are_recorded_with_absolute_paths() {
        let file = std::path::absolute("web.yml").unwrap();
        let file = file.to_str().unwrap();
        assert_eq!(
            installed("rttscope service install -- serve --web.config.file web.yml --listen :4001"),
            ["serve", "--web.config.file", file, "--listen", ":4001"]
        );
        let assigned = format!("--web.config.file={file}");
        assert_eq!(
            installed("rttscope service install -- serve --web.config.file=web.yml"),
            ["serve", assigned.as_str()]
        );
        assert_eq!(
            installed("rttscope -svc=install -mode=both -target=:4000"),
            ["-mode=both", "-target=:4000"]
        );
    }

    #[test]
    fn orders_have_names() {
        let service = request("rttscope service stop --name probe-a").unwrap();
        assert_eq!(service, Service { name: "probe-a".to_owned(), order: ServiceOrder::Stop });
        let service = request("rttscope -svc uninstall").unwrap();
        assert_eq!(service, Service { name: NAME.to_owned(), order: ServiceOrder::Uninstall });
        let order = request("rttscope -mode=server -svc=run").unwrap().order;
        let ServiceOrder::Run(Ok(config)) = order else {
            panic!("not to be run");
        };
        assert!(config.serve.is_some() && config.probe.is_none());
    }

    #[test]
    fn an_agent_is_a_service() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rttscope.yaml");
        std::fs::write(&file, "{modules: {echo: {prober: echo}}, serve: {}}").unwrap();
        let file = file.to_str().unwrap();
        assert_eq!(
            installed(&format!("rttscope service install -- run --config.file {file}")),
            ["run", "--config.file", file]
        );
    }

    #[test]
    fn what_was_good_when_it_was_recorded_is_left_to_the_service_to_tell() {
        let request = request("rttscope service run -- run --config.file nonesuch.yaml").unwrap();
        let ServiceOrder::Run(Err(BadFile(why))) = request.order else {
            panic!("{request:?}");
        };
        assert!(why.contains("nonesuch.yaml"), "{why}");
    }

    #[test]
    fn what_cannot_be_a_service_is_refused_when_it_is_installed() {
        for (line, part) in [
            ("rttscope service", "no order"),
            ("rttscope service restart", "must be install, uninstall, start, stop or run"),
            ("rttscope service install", "no command"),
            ("rttscope service install -- check 127.0.0.1:1", "serves or probes"),
            ("rttscope service install -- man", "serves or probes"),
            ("rttscope service install -- serve --listen nowhere", "--listen nowhere"),
            ("rttscope service start --name a/b", "is no name of a service"),
            ("rttscope -svc=restart", "must be install"),
            ("rttscope -svc=install -mode=never", "-mode=never"),
        ] {
            let error = request(line).unwrap_err();
            assert!(error.contains(part), "{line}: {error}");
        }
    }
}
