//! Holds `deploy/` to what will read it: systemd's own checks of the units, the schemas of
//! Kubernetes and of Prometheus' operator, a linter of container files, and rttscope itself, which
//! is started as each file would. Files flow in; the rules as a resource, or what is wrong, flow
//! out.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{dashboards, packages, shell};

/// What to do with it.
#[derive(Args)]
pub struct Options {
    /// Change nothing: fail if a committed file is not what would be made.
    #[arg(long)]
    check: bool,
    /// Start this rttscope instead of building one.
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
}

impl Options {
    /// Changes nothing.
    pub fn check() -> Self {
        Self { check: true, program: None }
    }
}

/// Makes or compares the rules, then asks others what they think of everything.
pub fn run(options: &Options) -> Result<()> {
    packages::require(&packages::DEPLOY)?;
    rules(options)?;
    let staging = shell::target_folder().join("deploy");
    for drop_ins in [&[][..], &["socket"], &["capabilities"], &["socket", "capabilities"]] {
        units(&staging.join("root"), drop_ins)?;
    }
    let python = dashboards::python("deploy", "deploy/requirements.txt")?;
    let beside = |name: &str| python.with_file_name(name);
    shell::run(shell::command(beside("hadolint")).arg("deploy/container/Containerfile"))?;
    let manifests = render(&beside("kubectl"), &staging)?;
    shell::run(shell::command(&python).arg("deploy/manifests.py").args(&manifests))?;
    let program = match &options.program {
        Some(program) => program.clone(),
        None => build()?,
    };
    let mut starts = alone();
    starts.arg(python).arg("deploy/starts.py").arg(program).args(manifests);
    shell::run(&mut starts)
}

/// Whether this user can make a network namespace and has the tools.
pub fn is_possible() -> bool {
    let has_tools = packages::DEPLOY.iter().all(packages::Tool::is_here);
    packages::is_root() && (has_tools || packages::can_install())
}

/// The output of `rttscope rules`, which `cargo xtask dashboards` keeps, as a resource.
fn rules(options: &Options) -> Result<()> {
    let rules = read("dashboards/rttscope.rules.yml")?;
    let mut resource = RULES_HEAD.to_owned();
    for line in rules.lines().filter(|line| !line.starts_with('#')) {
        if !line.is_empty() {
            resource.push_str("  ");
        }
        resource.push_str(line);
        resource.push('\n');
    }
    if read(RULES)? == resource {
        return Ok(());
    }
    if options.check {
        bail!("{RULES} is out of date: run cargo xtask deploy");
    }
    println!("writing {RULES}");
    fs::write(shell::root().join(RULES), resource).with_context(|| format!("cannot write {RULES}"))
}

/// Installs the units in a folder as the README says, with these drop-ins, and has them judged.
fn units(root: &Path, drop_ins: &[&str]) -> Result<()> {
    if root.exists() {
        fs::remove_dir_all(root)?;
    }
    let system = root.join("etc/systemd/system");
    let extended = system.join("rttscope.service.d");
    fs::create_dir_all(&extended)?;
    fs::create_dir_all(root.join("lib/systemd"))?;
    shell::output(shell::command("cp").args(["-r", SYSTEM_UNITS]).arg(root.join("lib/systemd")))?;
    // Only looked for, never run.
    for program in ["usr/local/bin/rttscope", "bin/kill"] {
        let mut install = shell::command("install");
        shell::output(install.args(["-D", "xtask/Cargo.toml"]).arg(root.join(program)))?;
    }
    for name in ["rttscope.service", "rttscope.socket"] {
        fs::copy(shell::root().join("deploy/systemd").join(name), system.join(name))?;
    }
    for name in drop_ins {
        let file = format!("{name}.conf");
        let from = shell::root().join("deploy/systemd/drop-ins").join(&file);
        fs::copy(from, extended.join(file))?;
    }
    let mut root_option = std::ffi::OsString::from("--root=");
    root_option.push(root);
    let mut verify = shell::command("systemd-analyze");
    verify.args(["verify", "--man=no"]).arg(&root_option);
    let verdict = verify.args(["rttscope.service", "rttscope.socket"]).output()?;
    let said = String::from_utf8_lossy(&verdict.stderr);
    // Unknown words are only warned of.
    if !verdict.status.success() || !said.is_empty() {
        bail!("systemd-analyze verify, with {drop_ins:?}: {}: {said}", verdict.status);
    }
    let most = if drop_ins.contains(&"capabilities") { EXPOSURE_PRIVILEGED } else { EXPOSURE };
    let mut security = shell::command("systemd-analyze");
    security.args(["security", "--offline=true", "--no-pager", "--threshold", most]);
    shell::output(security.arg(&root_option).arg("rttscope.service"))?;
    println!("units with {drop_ins:?}: no complaint, exposure at most {most} of 100");
    Ok(())
}

/// Every overlay as what `kubectl apply` would send; the files.
fn render(kubectl: &Path, staging: &Path) -> Result<Vec<PathBuf>> {
    let mut folders = vec![PathBuf::from("deploy/kubernetes/base")];
    for overlay in fs::read_dir(shell::root().join("deploy/kubernetes/overlays"))? {
        folders.push(Path::new("deploy/kubernetes/overlays").join(overlay?.file_name()));
    }
    folders.sort();
    let mut files = Vec::new();
    for folder in folders {
        let name = folder.file_name().context("an overlay has a name")?;
        let file = staging.join(name).with_extension("yaml");
        let rendered = shell::output(shell::command(kubectl).arg("kustomize").arg(&folder))?;
        fs::write(&file, rendered)?;
        files.push(file);
    }
    Ok(files)
}

/// The program that `cargo xtask test` has built anyway.
fn build() -> Result<PathBuf> {
    shell::run(&mut shell::cargo(["build", "--quiet", "--package", "rttscope"]))?;
    Ok(shell::target_folder().join("debug/rttscope"))
}

/// Runs what follows in a network namespace of its own.
fn alone() -> Command {
    let mut unshare = shell::command("unshare");
    unshare.arg("--net");
    unshare
}

fn read(path: &str) -> Result<String> {
    fs::read_to_string(shell::root().join(path)).with_context(|| format!("cannot read {path}"))
}

/// Where Debian's package has the units that ours refer to.
const SYSTEM_UNITS: &str = "/lib/systemd/system";

/// The most that `systemd-analyze security` may find, of 100, without and with capabilities. It
/// found 16 and 21 when they were set (systemd 252); newer ones know of more to forbid.
const EXPOSURE: &str = "20";
const EXPOSURE_PRIVILEGED: &str = "25";

const RULES: &str = "deploy/kubernetes/components/rules/prometheus-rule.yaml";
const RULES_HEAD: &str = "\
# The output of `rttscope rules` as a resource; made by `cargo xtask deploy`.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: rttscope
  namespace: rttscope
  labels:
    app.kubernetes.io/name: rttscope
spec:
";
