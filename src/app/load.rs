//! A load: the scenarios one after the other, each with measuring threads of its own, until all
//! are over or a signal ends the one that runs. What was measured goes to standard output, and
//! into the picture that was asked for.

use std::fs::{File, OpenOptions};
use std::io::{Seek, Write};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::mpsc::{SyncSender, sync_channel};

use anyhow::{Context, Result, bail};
use tokio::sync::{mpsc, oneshot};

use super::load_output::{News, Writer};
use super::output::{Output, Screen};
use super::{End, Opened, SETTLE, Verdict, Workshop, closed, confine, info, preflight};
use crate::config::load::{LoadSection, Scenario};
use crate::config::{BadFile, Config, limits};
use crate::host::Capability;
use crate::load::{LoadSettings, Request, in_flight_max};
use crate::report::load::{Asked, Run, Setting};
use crate::report::plot::{Curve, svg};
use crate::stats::{LoadSeries, Stats};
use crate::sys::sandbox::Sandbox;
use crate::sys::{self, Buffers, Detected, RECEIVE_BYTES};
use crate::time::duration_ns;
use crate::worker::{Change, NewLoad, Outlets, Report, TargetId, Worker};

/// What all scenarios need.
struct Loads<'a> {
    config: &'a Config,
    load: &'a LoadSection,
    to: SocketAddr,
    stats: &'a Arc<Stats>,
    sandbox: &'a mut Sandbox,
    news: SyncSender<News>,
}

/// A scenario that runs.
struct Running {
    workers: Vec<Worker>,
    reports: mpsc::Receiver<Report>,
    series: Vec<Arc<LoadSeries>>,
    /// Workers that have not finished.
    unfinished: usize,
}

/// The signal to end and the end of standard output: whichever comes first.
struct Ends<'a, C> {
    signal: &'a mut oneshot::Receiver<&'static str>,
    output_closed: Pin<&'a mut C>,
}

/// Runs every scenario.
pub(super) async fn run(
    config: &Config,
    load: &LoadSection,
    Opened { plot, sandbox, .. }: &mut Opened,
    detected: &Detected,
    screen: Screen,
    stats: &Arc<Stats>,
    mut signal: oneshot::Receiver<&'static str>,
) -> Result<Verdict> {
    stats.set_capabilities(detected.capabilities.clone());
    let uring = detected.missing(config.measuring.io).find(|missing| missing.name == "io_uring");
    if let Some(Capability { name, reason, .. }) = uring {
        tracing::info!(capability = name, reason, "not available; loading without");
    }
    preflight::check([&load.target], &load.socket)?;
    check_descriptors(load)?;
    let to = tokio::select! {
        Ok(_) = &mut signal => return Ok(Verdict::Unanswered),
        found = info::connect(&load.target, load.timeout, &load.socket) => found?,
    };
    let Some((_, to)) = to else { return Ok(Verdict::Unanswered) };
    let is_uring = |found: &&Capability| found.name == "io_uring" && found.available;
    let io = detected.capabilities.iter().find(is_uring).map_or("poll", |_| "uring");
    let setting = Setting {
        target: load.target.to_string(),
        io: io.to_owned(),
        threads: config.measuring.threads,
        warm_up: load.warm_up,
        scenarios: load.scenarios.len(),
    };
    // Every scenario's beginning and end fit.
    let (news, incoming) = sync_channel(2 * limits::SCENARIOS_MAX);
    let progress = Arc::<AtomicU64>::default();
    let writer = Writer { screen, setting, progress: Arc::clone(&progress), incoming };
    let mut output = Output::spawn(progress, None, move || writer.run())?;
    let (end, runs) = {
        let output_closed = std::pin::pin!(closed(Some(&mut output)));
        let loads = Loads { config, load, to, stats, sandbox, news };
        loads.all(Ends { signal: &mut signal, output_closed }).await?
    };
    match end {
        End::Signal(name) => tracing::info!(signal = name, "stopping"),
        End::WorkerDied => tracing::error!("a measuring thread died; stopping"),
        End::Done | End::OutputClosed => {}
    }
    let patient = matches!(end, End::Done).then_some(signal);
    output.finish(stats, patient).await;
    if let Some(file) = plot.take() {
        write_plot(file, &load.target.to_string(), &runs).context("--plot")?;
    }
    if matches!(end, End::WorkerDied) {
        bail!("a measuring thread died; its error is in the log");
    }
    let good = !runs.is_empty() && runs.iter().all(Run::is_good);
    Ok(if good { Verdict::Good } else { Verdict::Unanswered })
}

impl Loads<'_> {
    /// Every scenario in turn; what was measured until the end.
    async fn all<C: Future<Output = ()>>(self, mut ends: Ends<'_, C>) -> Result<(End, Vec<Run>)> {
        let mut runs = Vec::with_capacity(self.load.scenarios.len());
        for scenario in &self.load.scenarios {
            let mut running = self.start(scenario)?;
            // Each scenario's threads have rings of their own, and none can be made afterwards.
            if self.load.scenarios.last() == Some(scenario) {
                confine::complete(self.sandbox, self.stats)?;
            }
            let Scenario { name, connections, rate, message_bytes, duration } = scenario.clone();
            let asked = Asked { name, connections, rate, message_bytes, duration };
            self.tell(News::Begins(asked.clone(), running.series.clone()));
            let end = running.work(&mut ends).await;
            let measured = LoadSeries::sum(&running.series);
            let complete = matches!(end, End::Done);
            let run = Run { asked, measured, complete };
            self.tell(News::Ends(Box::new(run.clone())));
            runs.push(run);
            if !complete {
                return Ok((end, runs));
            }
        }
        Ok((End::Done, runs))
    }

    /// Starts a scenario's measuring threads; they divide its connections.
    fn start(&self, scenario: &Scenario) -> Result<Running> {
        let Config { measuring, .. } = self.config;
        let threads = measuring.threads.min(scenario.connections);
        let (reports, incoming) = mpsc::channel(2 * limits::THREADS_MAX);
        let outlets = Outlets { reports, samples: None, stats: Arc::clone(self.stats) };
        let buffers = buffers(scenario);
        let mut workshop =
            Workshop { measuring, stamps: false, outlets, stats: self.stats, pinned: 0, buffers };
        let request = scenario.message_bytes.map_or(Request::Connect, Request::Echo);
        let connections_all = number(scenario.connections);
        let (mut workers, mut all) = (Vec::with_capacity(threads), Vec::with_capacity(threads));
        let mut first = 0;
        for thread in 0..threads {
            let share = scenario.connections / threads
                + usize::from(thread < scenario.connections % threads);
            let connections = first..first + number(share);
            first = connections.end;
            let settings = LoadSettings {
                to: self.to,
                request,
                rate: scenario.rate,
                connections,
                connections_all,
                warm_up_ns: duration_ns(self.load.warm_up),
                duration_ns: duration_ns(scenario.duration),
                timeout_ns: duration_ns(self.load.timeout),
            };
            let series = Arc::<LoadSeries>::default();
            all.push(Arc::clone(&series));
            let worker = workshop.make(format!("load-{thread}"), None)?;
            let load = TargetId(u32::try_from(thread).expect("no more than THREADS_MAX"));
            let options = self.load.socket.clone();
            worker.change(Change::Load(Box::new(NewLoad { load, settings, options, series })));
            workers.push(worker);
        }
        let io = workers.first().map_or("", |worker| worker.io_name);
        tracing::debug!(scenario = scenario.name, io, threads, to = %self.to, "loading");
        Ok(Running { workers, reports: incoming, series: all, unfinished: threads })
    }

    fn tell(&self, news: News) {
        if self.news.try_send(news).is_err() {
            tracing::debug!("standard output is not written any more");
        }
    }
}

impl Running {
    /// Waits for the end, and stops.
    async fn work<C: Future<Output = ()>>(&mut self, ends: &mut Ends<'_, C>) -> End {
        let end = loop {
            if self.unfinished == 0 {
                break End::Done;
            }
            tokio::select! {
                Ok(name) = &mut *ends.signal => break End::Signal(name),
                () = &mut ends.output_closed => break End::OutputClosed,
                report = self.reports.recv() => match report {
                    Some(Report::Finished(_)) => self.unfinished -= 1,
                    Some(Report::Resolve(_)) => {}
                    Some(Report::Died) | None => break End::WorkerDied,
                },
            }
        };
        if !matches!(end, End::Done) {
            for worker in &self.workers {
                worker.change(Change::Finish);
            }
            let settled = async {
                while self.unfinished > 0 {
                    match self.reports.recv().await {
                        Some(Report::Finished(_)) => self.unfinished -= 1,
                        Some(Report::Resolve(_)) => {}
                        Some(Report::Died) | None => break,
                    }
                }
            };
            // Past the limit what is in flight stays so in the counters.
            let _ = tokio::time::timeout(SETTLE, settled).await;
        }
        self.workers.drain(..).for_each(Worker::stop);
        end
    }
}

/// What a connection of this scenario may hold: all its requests, since who sends must not wait
/// until it is read from.
fn buffers(scenario: &Scenario) -> Buffers {
    let message_bytes = scenario.message_bytes.unwrap_or(0);
    let in_flight = match scenario.rate {
        Some(_) => in_flight_max(message_bytes, number(scenario.connections)),
        None => 1,
    };
    let bytes = Buffers::default().send_bytes.max(in_flight * message_bytes);
    Buffers {
        receive_bytes: message_bytes.next_power_of_two().clamp(RECEIVE_BYTES, RECEIVE_BYTES_MAX),
        backlog_bytes: bytes,
        send_bytes: bytes,
    }
}

/// Whether there are as many descriptors as connections.
fn check_descriptors(load: &LoadSection) -> Result<()> {
    let wanted = load.scenarios.iter().map(|scenario| scenario.connections).max().unwrap_or(0);
    let usage = sys::process_usage();
    let left = usage.max_fds.zip(usage.open_fds).map(|(most, open)| most.saturating_sub(open));
    if let Some(left) = left.map(|left| left.saturating_sub(FILES_OF_OURS))
        && number(wanted) > left
    {
        bail!("{wanted} connections: only {left} more files may be open; raise `ulimit -n`");
    }
    Ok(())
}

/// Opens the file of the picture: that it cannot be written is to be known before the load.
pub(super) fn open_plot(load: &LoadSection) -> Result<Option<File>> {
    let Some(path) = &load.plot else { return Ok(None) };
    let opened = OpenOptions::new().create(true).write(true).truncate(false).open(path);
    opened.map(Some).map_err(|error| {
        let path = path.display();
        BadFile(format!("--plot {path}: cannot be written ({error}); write another path")).into()
    })
}

fn write_plot(mut file: File, target: &str, runs: &[Run]) -> std::io::Result<()> {
    let curves: Vec<Curve<'_>> = runs
        .iter()
        .map(|run| Curve { name: &run.asked.name, latency: &run.measured.latency })
        .collect();
    file.set_len(0)?;
    file.rewind()?;
    file.write_all(svg(target, &curves).as_bytes())
}

fn number(count: usize) -> u64 {
    u64::try_from(count).expect("64 bits hold a count")
}

/// Files that the measuring threads and their logs may still open.
const FILES_OF_OURS: u64 = 32;
/// Bytes taken by one receive. Each ring has a few hundred such buffers.
const RECEIVE_BYTES_MAX: usize = 1 << 16;
