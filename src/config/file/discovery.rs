//! `discovery` of the configuration file: its words in, checked lists of targets to be discovered
//! out. What is inside a source's section is checked where it is read.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use serde_saphyr::Spanned;

use super::raw::RawJob;
use super::{Complaints, Targets};
use crate::config::address::check_name;
use crate::config::agent::Module;
use crate::config::discovery::{FileSd, HttpSd, Job, limits};
use crate::config::{BadValue, HostPort};

/// All of them; of what is bad, the complaints know.
pub(super) fn jobs(
    raw: Vec<Spanned<RawJob>>,
    modules: &Arc<BTreeMap<String, Arc<Module>>>,
    folder: &Path,
    complaints: &mut Complaints,
) -> Arc<[Job]> {
    let mut jobs: Vec<Job> = Vec::with_capacity(raw.len().min(limits::JOBS_MAX));
    for (number, raw) in raw.into_iter().enumerate() {
        let place = raw.referenced;
        if number == limits::JOBS_MAX {
            complaints.at(place, format!("discovery has at most {number} items; write fewer"));
            break;
        }
        let Some(job) = job(number, raw, modules, folder, complaints) else { continue };
        if jobs.iter().any(|earlier| earlier.name == job.name) {
            let why = format!("is the second discovery named {}; write another name:", job.name);
            complaints.at(place, why);
        }
        jobs.push(job);
    }
    jobs.into()
}

fn job(
    number: usize,
    raw: Spanned<RawJob>,
    modules: &Arc<BTreeMap<String, Arc<Module>>>,
    folder: &Path,
    complaints: &mut Complaints,
) -> Option<Job> {
    let (place, raw) = (raw.referenced, raw.value);
    let name = complaints.value("name", raw.name.as_ref(), |text| {
        check_name(text).map_err(|why| BadValue::new(why, "pods"))?;
        Ok(text.to_owned())
    });
    let sources = raw.file_sd_configs.len() + raw.http_sd_configs.len() + raw.dns_sd_configs.len();
    if sources + raw.static_configs.len() == 0 {
        let why = "the discovery has no source; write e.g. file_sd_configs: [{files: [a.json]}]";
        complaints.at(place, why);
    }
    let mesh = raw.mesh.and_then(|mesh| {
        let place = mesh.referenced;
        let checked = mesh.value.expanded(|name| std::env::var(name).ok()).and_then(|mesh| {
            let own = mesh.own.parse::<HostPort>();
            own.map_err(|bad| format!("self {}: {bad}", mesh.own)).map(|_| mesh)
        });
        checked.map_err(|why| complaints.at(place, format!("mesh: {why}"))).ok()
    });
    let file = |it: FileSd| FileSd {
        files: it.files.iter().map(|pattern| pattern.in_folder(folder)).collect(),
        ..it
    };
    let url = |mut it: HttpSd| {
        it.tls_config.ca_file = it.tls_config.ca_file.map(|path| folder.join(path));
        it
    };
    Some(Job {
        name: name.unwrap_or_else(|| (number + 1).to_string()),
        module: Targets::new(modules).module(raw.module.as_ref(), place, complaints)?,
        modules: Arc::clone(modules),
        static_configs: raw.static_configs,
        file_sd_configs: raw.file_sd_configs.into_iter().map(file).collect(),
        http_sd_configs: raw.http_sd_configs.into_iter().map(url).collect(),
        dns_sd_configs: raw.dns_sd_configs,
        relabel_configs: raw.relabel_configs,
        mesh,
    })
}
