//! A finite run of half-open checks: the addresses are divided over the measuring threads, names
//! are looked up beside the checks that already run, and the run ends when every check has.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::sync_channel;
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::{JoinError, JoinHandle, JoinSet};

use super::output::{Output, Screen};
use super::sweep_output::{Found, LookupErrors, Writer};
use super::{End, Opened, SETTLE, Verdict, Workshop, checking, closed, confine, preflight};
use crate::check::race::interleave;
use crate::check::sweep::{RESULT_AGE_NS_MAX, SweepSettings, SweepTarget};
use crate::config::{CheckSection, Config, HostPort, duration, limits};
use crate::host::Capability;
use crate::report::check::{Asked, Setting, Tally};
use crate::sample::Method;
use crate::stats::Stats;
use crate::sys::{Buffers, Checks, Detected, Followed, Follower, clock};
use crate::time::{Mono, duration_ns};
use crate::worker::{Change, NewSweep, Outlets, Remote, Report, Results, TargetId, Worker};

/// Everything that runs.
struct Run {
    workers: Vec<Worker>,
    reports: mpsc::Receiver<Report>,
    feed: JoinHandle<Result<(), JoinError>>,
    output: Output,
    found: Arc<Found>,
}

/// The measuring threads, and who times the checks of each.
struct Crew {
    members: Vec<(Worker, Option<Follower>)>,
    method: Method,
}

/// Gives each address to its worker, once it is known.
struct Feed {
    addresses: Vec<HostPort>,
    /// A worker each, and the addresses whose checks it times.
    workers: Vec<(Remote, Followed)>,
    timeout: Duration,
    errors: Arc<LookupErrors>,
}

/// Addresses by their host: a name is looked up once, however many ports of it are checked.
type ByHost = Vec<(String, Vec<(usize, u16)>)>;

/// Checks everything, until all is done or a signal ends it.
pub(super) async fn run(
    config: &Config,
    check: &CheckSection,
    Opened { checks: opened, sandbox, .. }: &mut Opened,
    detected: &Detected,
    screen: Screen,
    stats: &Arc<Stats>,
    signal: oneshot::Receiver<&'static str>,
) -> Result<Verdict> {
    stats.set_capabilities(detected.capabilities.clone());
    let uring = detected.missing(config.measuring.io).find(|missing| missing.name == "io_uring");
    if let Some(Capability { name, reason, .. }) = uring {
        tracing::info!(capability = name, reason, "not available; checking without");
    }
    let opened = std::mem::take(opened);
    checking::tell(&opened, stats);
    preflight::check(&check.addresses, &check.socket)?;
    let (reports, incoming) = mpsc::channel(4 * limits::THREADS_MAX);
    let outlets = Outlets { reports, samples: None, stats: Arc::clone(stats) };
    let (measuring, buffers) = (&config.measuring, Buffers::default());
    let mut workshop = Workshop { measuring, stamps: false, outlets, stats, pinned: 0, buffers };
    let Crew { members, method } = start_workers(check, opened, &mut workshop)?;
    // Workers hold the only other ends: the run is over when they are gone.
    drop(workshop);
    let errors = Arc::<LookupErrors>::default();
    let found = Arc::<Found>::default();
    let io = members.first().map_or("", |(worker, _)| worker.io_name);
    let started = clock::mono();
    let (output, results) = start_output(check, screen, (io, method), &errors, &found, started)?;
    confine::complete(sandbox, stats)?;
    begin_sweeps(check, method, &members, &results);
    drop(results);
    let feed = Feed {
        addresses: check.addresses.clone(),
        workers: members
            .iter()
            .map(|(worker, follower)| (worker.remote(), Followed::new(follower.clone())))
            .collect(),
        timeout: check.timeout,
        errors,
    };
    let feed = tokio::spawn(feed.run());
    let workers = members.into_iter().map(|(worker, _)| worker).collect();
    Run { workers, reports: incoming, feed, output, found }.work(stats, signal).await
}

fn start_workers(
    check: &CheckSection,
    opened: Vec<Checks>,
    workshop: &mut Workshop<'_>,
) -> Result<Crew> {
    let mut method = Method::Dial;
    let mut members = Vec::with_capacity(opened.len());
    for (number, checks) in opened.into_iter().enumerate() {
        method = checks.method();
        let follower = checks.follower();
        members.push((workshop.make(format!("check-{number}"), Some(checks))?, follower));
    }
    let (addresses, threads) = (&check.addresses, members.len());
    let io = members.first().map_or("", |(worker, _)| worker.io_name);
    let name = method.name();
    tracing::info!(addresses = addresses.len(), io, threads, method = name, "checking");
    Ok(Crew { members, method })
}

fn start_output(
    check: &CheckSection,
    screen: Screen,
    (io, method): (&str, Method),
    errors: &Arc<LookupErrors>,
    found: &Arc<Found>,
    started: Mono,
) -> Result<(Output, Results)> {
    let asked = |address: &HostPort| Asked { address: address.to_string(), port: address.port };
    let asked: Arc<[Asked]> = check.addresses.iter().map(asked).collect();
    let (results, incoming) = sync_channel(BATCHES_MAX);
    let progress = Arc::<AtomicU64>::default();
    let writer = Writer {
        screen,
        tally: Tally::new(Arc::clone(&asked), check.requests, method),
        asked,
        errors: Arc::clone(errors),
        found: Arc::clone(found),
        verbose: check.verbose.then(|| Setting {
            io: io.to_owned(),
            requests: check.requests,
            concurrency: check.concurrency,
            timeout: check.timeout,
        }),
        started,
        progress: Arc::clone(&progress),
        incoming,
    };
    Ok((Output::spawn(progress, None, move || writer.run())?, results))
}

/// A sweep for each worker; together they have the concurrency that was asked for.
fn begin_sweeps(
    check: &CheckSection,
    method: Method,
    workers: &[(Worker, Option<Follower>)],
    results: &Results,
) {
    let (threads, concurrency) = (workers.len(), check.concurrency);
    for (number, (worker, _)) in workers.iter().enumerate() {
        let share = concurrency / threads + usize::from(number < concurrency % threads);
        let settings = SweepSettings {
            requests: check.requests,
            concurrency: share,
            timeout_ns: duration_ns(check.timeout),
            method,
            result_age_ns_max: RESULT_AGE_NS_MAX,
        };
        let sweep = sweep_number(number);
        let results = results.clone();
        worker.change(Change::Sweep(Box::new(NewSweep { sweep, settings, results })));
    }
}

impl Run {
    /// Waits for the end, and ends.
    async fn work(
        mut self,
        stats: &Stats,
        mut signal: oneshot::Receiver<&'static str>,
    ) -> Result<Verdict> {
        let mut running = self.workers.len();
        let mut fed = false;
        let mut output_closed = std::pin::pin!(closed(Some(&mut self.output)));
        let end = loop {
            if running == 0 {
                break End::Done;
            }
            tokio::select! {
                Ok(name) = &mut signal => break End::Signal(name),
                () = &mut output_closed => break End::OutputClosed,
                ended = &mut self.feed, if !fed => {
                    fed = true;
                    if let Ok(Err(error)) | Err(error) = ended {
                        tracing::error!(%error, "addresses were lost");
                        break End::WorkerDied;
                    }
                }
                report = self.reports.recv() => match report {
                    Some(Report::Finished(_)) => running -= 1,
                    Some(Report::Resolve(_)) => {}
                    Some(Report::Died) | None => break End::WorkerDied,
                },
            }
        };
        match end {
            End::Signal(name) => tracing::info!(signal = name, "stopping"),
            End::WorkerDied => tracing::error!("a measuring thread died; stopping"),
            End::Done | End::OutputClosed => {}
        }
        for worker in &self.workers {
            worker.change(Change::Finish);
        }
        let handed_over = async {
            while running > 0 {
                match self.reports.recv().await {
                    Some(Report::Finished(_)) => running -= 1,
                    Some(Report::Resolve(_)) => {}
                    Some(Report::Died) | None => break,
                }
            }
        };
        // Past the limit nobody reads: what is not handed over is not finished.
        let _ = tokio::time::timeout(SETTLE, handed_over).await;
        self.workers.into_iter().for_each(Worker::stop);
        let patient = matches!(end, End::Done).then_some(signal);
        self.output.finish(stats, patient).await;
        if matches!(end, End::WorkerDied) {
            bail!("a measuring thread died; its error is in the log");
        }
        let finished = self.found.finished.load(Ordering::Relaxed);
        let all_open = finished > 0 && self.found.open.load(Ordering::Relaxed) == finished;
        Ok(if all_open { Verdict::Good } else { Verdict::Unanswered })
    }
}

impl Feed {
    /// Literal addresses first, then names as they become known.
    async fn run(self) -> Result<(), JoinError> {
        let feed = Arc::new(self);
        let names = {
            let feed = Arc::clone(&feed);
            // The eBPF programs are attached before the first check of an address.
            tokio::task::spawn_blocking(move || feed.give_literals()).await?
        };
        let lookups = Arc::new(Semaphore::new(limits::CHECK_LOOKUPS_MAX));
        let mut running = JoinSet::new();
        for (host, ports) in names {
            let turn = Arc::clone(&lookups).acquire_owned().await;
            let turn = turn.expect("the semaphore is never closed");
            let feed = Arc::clone(&feed);
            running.spawn(async move {
                let started = clock::mono();
                let lookup = tokio::task::spawn_blocking(move || {
                    // A lookup that hangs keeps its turn: its thread is not free before.
                    let _turn = turn;
                    look_up(&host)
                });
                let found = match tokio::time::timeout(feed.timeout, lookup).await {
                    Ok(Ok(found)) => found.map_err(|error| error.to_string()),
                    Ok(Err(_)) => Err("the lookup failed".to_owned()),
                    Err(_) => {
                        let timeout = duration::to_text(feed.timeout);
                        Err(format!("the resolver did not answer within {timeout}"))
                    }
                };
                let ns = duration_ns(clock::mono().duration_since(started));
                tokio::task::spawn_blocking(move || feed.give_name(&ports, found, ns)).await
            });
        }
        while let Some(given) = running.join_next().await {
            given??;
        }
        for (number, (worker, _)) in feed.workers.iter().enumerate() {
            worker.change(Change::SweepTargets(sweep_number(number), Vec::new(), true));
        }
        Ok(())
    }

    /// Gives out literal addresses; returns the names.
    fn give_literals(&self) -> ByHost {
        let mut names = ByHost::new();
        let mut known = HashMap::new();
        let mut chunks = vec![Vec::new(); self.workers.len()];
        for (index, HostPort { host, port }) in self.addresses.iter().enumerate() {
            if let Ok(ip) = host.parse::<IpAddr>() {
                let worker = index % self.workers.len();
                chunks[worker].push(target(index, &[SocketAddr::new(ip, *port)], 0));
                if chunks[worker].len() == CHUNK {
                    self.give(worker, std::mem::take(&mut chunks[worker]));
                }
                continue;
            }
            let place = *known.entry(host).or_insert_with(|| {
                names.push((host.clone(), Vec::new()));
                names.len() - 1
            });
            names[place].1.push((index, *port));
        }
        for (worker, chunk) in chunks.into_iter().enumerate() {
            self.give(worker, chunk);
        }
        names
    }

    /// Gives out every port of a name, with its addresses or without.
    fn give_name(&self, ports: &[(usize, u16)], found: Result<Vec<SocketAddr>, String>, ns: u64) {
        let found = found.and_then(|found| match found.is_empty() {
            true => Err("the name has no address".to_owned()),
            false => Ok(found),
        });
        let mut chunks = vec![Vec::new(); self.workers.len()];
        for &(index, port) in ports {
            let mut addresses = found.clone().unwrap_or_default();
            addresses.iter_mut().for_each(|address| address.set_port(port));
            if let Err(why) = &found {
                self.errors.set(number(index), why.clone());
            }
            chunks[index % self.workers.len()].push(target(index, &addresses, ns));
        }
        for (worker, chunk) in chunks.into_iter().enumerate() {
            self.give(worker, chunk);
        }
    }

    /// Gives these targets to a worker, whose eBPF programs are attached before.
    fn give(&self, worker: usize, targets: Vec<SweepTarget>) {
        if targets.is_empty() {
            return;
        }
        let (remote, followed) = &self.workers[worker];
        followed.also(targets.iter().flat_map(|target| target.addresses.iter().copied()));
        remote.change(Change::SweepTargets(sweep_number(worker), targets, false));
    }
}

fn target(index: usize, addresses: &[SocketAddr], lookup_ns: u64) -> SweepTarget {
    SweepTarget {
        target: number(index),
        addresses: interleave(addresses),
        lookup_ns,
        ..SweepTarget::default()
    }
}

fn look_up(host: &str) -> io::Result<Vec<SocketAddr>> {
    (host, 0).to_socket_addrs().map(Iterator::collect)
}

fn sweep_number(worker: usize) -> TargetId {
    TargetId(number(worker))
}

fn number(index: usize) -> u32 {
    u32::try_from(index).expect("no more addresses than ADDRESSES_MAX")
}

/// Literal addresses given out at once.
const CHUNK: usize = 256;
/// Batches of results that wait for the output.
const BATCHES_MAX: usize = 16;
