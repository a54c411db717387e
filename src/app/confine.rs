//! What the program may still do once it has started: a configuration in, privileges dropped and
//! everything else forbidden. Nothing that comes from the network later can do more than this.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::checking;
use crate::config::discovery::Job;
use crate::config::web_file::{self, Pem};
use crate::config::{Config, HostPort, WebSection, limits};
use crate::stats::Stats;
use crate::sys::sandbox::{Permits, Sandbox};
use crate::sys::{self, Kept};

/// Forbids the files that are not needed. To be called before there is a second thread.
pub(super) fn begin(config: &Config) -> Result<Sandbox> {
    Ok(Sandbox::begin(config.measuring.sandbox, permits(config))?)
}

/// Drops every privilege and forbids the system calls that are not needed. To be called when
/// everything has started; the keepers of eBPF programs hold what those need.
pub(super) fn complete(sandbox: &mut Sandbox, stats: &Stats) -> Result<()> {
    let kept = sys::needed_to_read(&sandbox.permits().files);
    sys::drop_all_capabilities_but(kept).context("dropping what is no longer needed")?;
    sandbox.complete()?;
    let capabilities = sandbox.capabilities();
    for missing in sandbox.missing() {
        let (capability, reason) = (missing.name, &missing.reason);
        tracing::info!(capability, reason, "not available; not confined by it");
    }
    let holding = capabilities.iter().filter(|found| found.available).map(|found| found.name);
    let by = holding.collect::<Vec<_>>().join(", ");
    if by.is_empty() {
        tracing::debug!("not confined");
    } else {
        tracing::info!(by, "confined");
    }
    stats.add_capabilities(&capabilities);
    Ok(())
}

/// For threads that start with what the program was given.
pub(super) fn drop_all() {
    drop_all_but_reading(&[]);
}

/// For such threads that read these files.
pub(super) fn drop_all_but_reading(files: &[PathBuf]) {
    let kept = if files.is_empty() { Kept::Nothing } else { sys::needed_to_read(files) };
    if let Err(error) = sys::drop_all_capabilities_but(kept) {
        tracing::warn!(%error, "a thread keeps its privileges");
    }
}

/// What the HTTP server reads again for each request: its file, and those that this names.
pub(super) fn web_files(web: &WebSection) -> Vec<PathBuf> {
    let Some(file) = &web.config_file else { return Vec::new() };
    let mut files = vec![file.clone()];
    // What is wrong with it is told by who uses it.
    let small = std::fs::metadata(file)
        .is_ok_and(|kind| kind.is_file() && kind.len() <= limits::WEB_FILE_BYTES_MAX);
    let text = small.then(|| std::fs::read_to_string(file).ok()).flatten().unwrap_or_default();
    let folder = file.parent().unwrap_or_else(|| Path::new(""));
    let tls = web_file::parse(&text, folder).ok().and_then(|file| file.tls);
    if let Some(tls) = tls {
        let named = [Some(tls.certificate), Some(tls.key), tls.client_ca];
        files.extend(named.into_iter().flatten().filter_map(|pem| match pem {
            Pem::File(path) => Some(path),
            Pem::Text(_) => None,
        }));
    }
    files
}

fn permits(config: &Config) -> Permits {
    let mut files = config.web.as_ref().map(web_files).unwrap_or_default();
    if let Some(agent) = &config.agent {
        files.push(agent.file.clone());
        files.extend(agent.reads.iter().cloned());
        files.extend(agent.discovery.iter().flat_map(discovery_files));
    }
    let Config { probe, agent, check, info, load, relay, .. } = config;
    let agent_checks = agent.as_ref().is_some_and(|agent| !checking::kinds(agent).is_empty());
    let prober_checks = probe.as_ref().is_some_and(|probe| probe.check.is_some());
    Permits {
        files,
        // As OpenSSL has it, who else trusts the system's authorities.
        folders: std::env::var_os("SSL_CERT_DIR").map(PathBuf::from).into_iter().collect(),
        names: has_names(config),
        connects: probe.is_some()
            || agent.is_some()
            || check.is_some()
            || info.is_some()
            || load.is_some()
            || relay.is_some(),
        ebpf: check.is_some() || agent_checks || prober_checks,
    }
}

/// Files of targets, and of authorities that vouch for a source.
fn discovery_files(job: &Job) -> Vec<PathBuf> {
    let targets = job.file_sd_configs.iter().flat_map(|config| &config.files);
    let targets = targets.map(|pattern| pattern.path().to_owned());
    let trusted = job.http_sd_configs.iter().filter_map(|config| config.tls_config.ca_file.clone());
    let system = std::env::var_os("SSL_CERT_FILE").map(PathBuf::from);
    targets.chain(trusted).chain(system).collect()
}

/// Whether names are looked up. An agent's first one may come later.
fn has_names(config: &Config) -> bool {
    let is_name = |address: &HostPort| address.host.parse::<IpAddr>().is_err();
    let Config { probe, agent, check, info, load, relay, .. } = config;
    let upstreams = relay.iter().flat_map(|relay| &relay.listeners).flat_map(|it| &it.upstreams);
    agent.is_some()
        || upstreams.into_iter().any(|upstream| is_name(&upstream.address))
        || probe.as_ref().is_some_and(|it| it.targets.iter().any(|it| is_name(&it.address)))
        || check.as_ref().is_some_and(|check| check.addresses.iter().any(is_name))
        || info.as_ref().is_some_and(|info| is_name(&info.address))
        || load.as_ref().is_some_and(|load| is_name(&load.target))
}
