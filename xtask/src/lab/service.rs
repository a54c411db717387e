//! The Windows binary as a service: installed, started, scraped, stopped and forgotten through
//! Wine's own service manager, and a service that cannot work, which has to say so.

use std::path::Path;

use anyhow::{Context, Result, ensure};

use super::scenario::{Emulated, Running, eventually, free_port, page};

/// Runs everything.
pub fn run(emulated: &Emulated) -> Result<()> {
    // The service manager lives as long as any program does.
    let keeper_port = format!("127.0.0.1:{}", free_port()?);
    let words = ["serve", "--listen", &keeper_port, "--web.listen-address", "127.0.0.1:0"];
    let keeper = emulated.start(&words)?;
    eventually("a program runs", || Ok(keeper.text().contains("listening").then_some(())))
        .with_context(|| keeper.text())?;
    // What an earlier run may have left behind.
    for name in [GOOD, BAD] {
        let _ = emulated.command(&["service", "uninstall", "--name", name]).output()?;
    }
    works(emulated).context("a service that works")?;
    let text = keeper.text();
    ensure!(!text.contains(EVENT), "a service that works reported a failure: {text}");
    fails(emulated).context("a service that cannot work")?;
    is_reported(&keeper, "192.0.2.1:4000: cannot listen there")?;
    cannot_begin(emulated).context("a service whose file is bad")?;
    is_reported(&keeper, "there is no key modes")?;
    println!("{}: service: ok", emulated.name);
    Ok(())
}

fn works(emulated: &Emulated) -> Result<()> {
    let (echo, web) = (free_port()?, free_port()?);
    let (echo, web_at) = (format!("127.0.0.1:{echo}"), format!("127.0.0.1:{web}"));
    let order = |order: &str| emulated.finish(&["service", order, "--name", GOOD], 0);
    let words = ["service", "install", "--name", GOOD, "--", "both", "--listen", &echo];
    let flags = ["--web.listen-address", &web_at, "--interval", "20ms", "--targets"];
    let file = emulated.folder.join("targets of a service.json");
    std::fs::write(&file, format!("[{{\"name\": \"itself\", \"address\": \"{echo}\"}}]"))?;
    // Relative to where this runs, which is not where the service will.
    let relative = relative_name(&file)?;
    let mut install = emulated.command(&[&words[..], &flags, &[relative]].concat());
    let installed = install.current_dir(&emulated.folder).output()?;
    let text = String::from_utf8_lossy(&installed.stderr).into_owned();
    ensure!(installed.status.success(), "installing: {text}");
    ensure!(page(web, "/-/ready").is_none(), "it runs before it was started");
    order("start")?;
    let metrics = eventually("the service probes", || {
        let metrics = page(web, "/metrics").unwrap_or_default();
        let received = super::scenario::sum(&metrics, "tcp_echo_received_total");
        Ok((received >= 3.0).then_some(metrics))
    })?;
    ensure!(metrics.contains("target=\"itself\""), "another target than recorded:\n{metrics}");
    order("stop")?;
    ensure!(page(web, "/-/ready").is_none(), "it was stopped and still answers");
    order("start")?;
    eventually("it answers again", || Ok(page(web, "/-/ready")))?;
    // Uninstalling stops it first.
    order("uninstall")?;
    eventually("it is gone", || Ok(page(web, "/-/ready").is_none().then_some(())))?;
    emulated.finish(&["service", "start", "--name", GOOD], 3)?;
    Ok(())
}

/// It listens where nobody can: starting it fails, with the code that it told.
fn fails(emulated: &Emulated) -> Result<()> {
    let words = ["service", "install", "--name", BAD, "--", "serve", "--listen", "192.0.2.1:4000"];
    emulated.finish(&words, 0)?;
    let started = emulated.finish(&["service", "start", "--name", BAD], 3)?;
    let text = String::from_utf8_lossy(&started.stderr).into_owned();
    ensure!(text.contains("code 3"), "why it failed is not told: {text}");
    emulated.finish(&["service", "uninstall", "--name", BAD], 0)?;
    let words = ["service", "install", "--name", BAD, "--", "check", "127.0.0.1:1"];
    emulated.finish(&words, 2)?;
    Ok(())
}

/// Its configuration file was good when it was installed, and is not when it is started.
fn cannot_begin(emulated: &Emulated) -> Result<()> {
    let file = emulated.folder.join("service.yaml");
    std::fs::write(&file, "targets: [{address: '127.0.0.1:1'}]")?;
    let words = ["service", "install", "--name", BAD, "--", "run", "--config.file"];
    let mut install = emulated.command(&[&words[..], &[relative_name(&file)?]].concat());
    let installed = install.current_dir(&emulated.folder).output()?;
    let text = String::from_utf8_lossy(&installed.stderr).into_owned();
    ensure!(installed.status.success(), "installing: {text}");
    std::fs::write(&file, "modes: {}")?;
    emulated.finish(&["service", "start", "--name", BAD], 3)?;
    emulated.finish(&["service", "uninstall", "--name", BAD], 0)?;
    Ok(())
}

/// The service manager, and so the service, has the standard error of the first program.
fn is_reported(keeper: &Running, why: &str) -> Result<()> {
    eventually("the Event Log is told why the service failed", || {
        let text = keeper.text();
        let mut events = text.lines().filter(|line| line.contains(EVENT));
        Ok(events.any(|event| event.contains(why)).then_some(()))
    })
    .with_context(|| keeper.text())
}

fn relative_name(path: &Path) -> Result<&str> {
    path.file_name().and_then(|name| name.to_str()).context("a file of ours has a plain name")
}

/// How Wine writes what is reported as an error.
const EVENT: &str = "err:eventlog:ReportEventW";
const GOOD: &str = "rttscope-lab";
const BAD: &str = "rttscope-lab-bad";
