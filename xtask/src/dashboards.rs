//! Makes `dashboards/` anew: rules from `rttscope rules`, dashboards from the mixin, and holds them
//! to the linters of Prometheus and to Grafana's own schema. The mixin flows in, committed files or
//! their differences flow out.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::shell;

/// What to do with them.
#[derive(Args)]
pub struct Options {
    /// Change nothing: fail if a committed file is not what would be made.
    #[arg(long)]
    check: bool,
    /// Also draw every panel from the data of the Prometheus server at this URL, into
    /// `target/dashboards`.
    #[arg(long, value_name = "URL")]
    draw: Option<String>,
    /// How many minutes to draw.
    #[arg(long, value_name = "MINUTES", default_value = "5", requires = "draw")]
    minutes: String,
}

impl Options {
    /// Changes nothing.
    pub fn check() -> Self {
        Self { check: true, draw: None, minutes: String::new() }
    }
}

/// Makes or compares everything, then asks others what they think of it.
pub fn run(options: &Options) -> Result<()> {
    rules(options)?;
    format(options)?;
    let made = shell::target_folder().join("dashboards");
    fs::create_dir_all(&made)?;
    let names = generate(&made)?;
    for name in &names {
        let text = read(&made.join(name))?;
        keep(&Path::new("dashboards/generated").join(name), &text, options)?;
    }
    for file in fs::read_dir(shell::root().join("dashboards/generated"))? {
        let name = file?.file_name();
        if !names.iter().any(|made| **made == *name) {
            bail!("dashboards/generated/{}: the mixin makes no such file", name.display());
        }
    }
    lint(&made)?;
    let paths: Vec<PathBuf> = names.iter().map(|name| made.join(name)).collect();
    let python = python("schema", "dashboards/requirements.txt")?;
    shell::run(shell::command(python).arg("dashboards/validate.py").args(&paths))?;
    if let Some(url) = &options.draw {
        let python = self::python("draw", "dashboards/requirements-draw.txt")?;
        let mut draw = shell::command(python);
        shell::run(
            draw.args(["dashboards/draw.py", url]).arg(&made).arg(&options.minutes).args(paths),
        )?;
    }
    Ok(())
}

/// What `rttscope rules` prints, for people and for the mixin.
fn rules(options: &Options) -> Result<()> {
    for (path, words) in [
        ("dashboards/rttscope.rules.yml", &["rules"][..]),
        ("dashboards/rules.json", &["rules", "--json"]),
    ] {
        let mut rttscope = shell::cargo(["run", "--quiet", "--package", "rttscope", "--"]);
        keep(Path::new(path), &shell::output(rttscope.args(words))?, options)?;
    }
    Ok(())
}

/// The mixin's own sources, as jsonnet formats them.
fn format(options: &Options) -> Result<()> {
    let mode = if options.check { "--test" } else { "--in-place" };
    let mut files: Vec<PathBuf> = fs::read_dir(shell::root().join("dashboards"))?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<_, _>>()?;
    files.retain(|path| path.extension().is_some_and(|extension| extension == "libsonnet"));
    files.sort();
    shell::run(shell::command("jsonnetfmt").arg(mode).args(files))
        .context("jsonnetfmt would write the mixin differently")
}

/// Every dashboard into this folder; their file names.
fn generate(folder: &Path) -> Result<Vec<String>> {
    let mut jsonnet = shell::command("jsonnet");
    jsonnet.args(["-J", "dashboards", "-m"]).arg(folder);
    let made = shell::output(jsonnet.args(["-e", "(import 'mixin.libsonnet').grafanaDashboards"]))?;
    let names = made.lines().filter_map(|line| Path::new(line).file_name()?.to_str());
    Ok(names.map(str::to_owned).collect())
}

/// Rules and alerts that went through the mixin, with another selector.
fn lint(folder: &Path) -> Result<()> {
    for part in ["prometheusRules", "prometheusAlerts"] {
        let file = folder.join(format!("{part}.yml"));
        let other = "{ _config+:: { selector: 'job=\"other\"' } }";
        let mut jsonnet = shell::command("jsonnet");
        let mixin = format!("((import 'mixin.libsonnet') + {other}).{part}");
        let text = shell::output(jsonnet.args(["-J", "dashboards", "-e", &mixin]))?;
        if text.contains("job=\\\"rttscope\\\"") || !text.contains("job=\\\"other\\\"") {
            bail!("{part}: the mixin's selector does not reach every rule");
        }
        fs::write(&file, text)?;
        shell::run(shell::command("promtool").args(["check", "rules"]).arg(file))?;
    }
    Ok(())
}

/// Writes a committed file, or compares it.
fn keep(path: &Path, text: &str, options: &Options) -> Result<()> {
    let file = shell::root().join(path);
    let committed = fs::read_to_string(&file).unwrap_or_default();
    if committed == text {
        return Ok(());
    }
    if options.check {
        bail!("{} is out of date: run cargo xtask dashboards", path.display());
    }
    println!("writing {}", path.display());
    fs::write(&file, text).with_context(|| format!("cannot write {}", path.display()))
}

/// The interpreter of an environment that has these packages.
pub fn python(name: &str, requirements: &str) -> Result<PathBuf> {
    let folder = shell::target_folder().join("tools").join(format!("python-{name}"));
    let python = folder.join("bin/python");
    let (wanted, installed) = (read(&shell::root().join(requirements))?, folder.join("installed"));
    if fs::read_to_string(&installed).is_ok_and(|installed| installed == wanted) {
        return Ok(python);
    }
    shell::run(shell::command("virtualenv").args(["--quiet", "--clear"]).arg(&folder))?;
    let mut pip = shell::command(&python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]);
    shell::run(pip.args(["--requirement", requirements]))?;
    fs::write(installed, wanted)?;
    Ok(python)
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
