//! Probes on demand: wishes of HTTP clients in, one measurement by the existing threads each,
//! answers out. The control plane only passes things on: names are looked up, and interfaces are
//! attached to, in the background, and the probe is a target like others that ends after one.
//!
//! Which addresses are allowed is asked after the lookup, and the probe gets exactly the address
//! that was allowed: a name that changes its mind meanwhile changes nothing.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};

use super::App;
use super::probing::Shared;
use crate::config::agent::Module;
use crate::config::on_demand::OnDemandSection;
use crate::config::{HostPort, limits};
use crate::http::{ProbeAnswer, ProbeRefusal, ProbeRequest, ProbeRequests};
use crate::stats::watched::Watched;
use crate::stats::{OnDemandResult, OnDemandSeries};
use crate::sys::{ClockChoice, Followed, clock};
use crate::time::Mono;
use crate::worker::{Change, TargetId};

/// What goes on.
pub(super) struct OnDemand {
    asked: mpsc::Receiver<ProbeRequest>,
    steps: mpsc::Receiver<Step>,
    tell: mpsc::Sender<Step>,
    lookups: Arc<Semaphore>,
    /// Wishes that were accepted and not answered yet.
    under_way: usize,
    running: HashMap<TargetId, Running>,
    series: Option<Arc<OnDemandSeries>>,
}

/// What happens next.
pub(super) enum Step {
    /// A client wants something.
    Asked(ProbeRequest),
    /// A wish is ready to be measured, or will not be.
    Prepared(Question, Result<Prepared, NotPrepared>),
    /// It should be over by now.
    Expired(TargetId),
}

/// An accepted wish.
pub(super) struct Question {
    target: HostPort,
    module: Arc<Module>,
    /// Index in `App::crews`.
    crew: usize,
    /// Index in the crew.
    member: usize,
    rules: Arc<OnDemandSection>,
    asked_at: Mono,
    /// How long it may take from then on.
    budget: Duration,
    lookup: Duration,
    answer: oneshot::Sender<Result<ProbeAnswer, ProbeRefusal>>,
}

/// Where to send the probe.
pub(super) struct Prepared {
    address: SocketAddr,
    followed: Followed,
}

/// Why there is nothing to measure.
pub(super) enum NotPrepared {
    /// No address is known in time.
    Unresolved,
    /// None of its addresses is allowed.
    NotAllowed,
}

/// A probe that is measured.
struct Running {
    question: Question,
    address: SocketAddr,
    /// Index in `App::probers`.
    worker: usize,
    watched: Watched,
    /// Until it is over.
    _followed: Followed,
}

impl OnDemand {
    /// Nothing yet; wishes go into the second value.
    pub(super) fn new() -> (Self, ProbeRequests) {
        let (requests, asked) = mpsc::channel(limits::PROBES_ON_DEMAND_WAITING_MAX);
        // Each wish has two steps besides the first.
        let (tell, steps) = mpsc::channel(2 * limits::PROBES_ON_DEMAND_MAX);
        let lookups = Arc::new(Semaphore::new(limits::PROBE_LOOKUPS_MAX));
        let running = HashMap::new();
        (Self { asked, steps, tell, lookups, under_way: 0, running, series: None }, requests)
    }

    fn count(&self, result: OnDemandResult) {
        if let Some(series) = &self.series {
            series.count(result);
        }
    }

    /// Answers an accepted wish.
    fn answer(&mut self, question: Question, answer: Result<ProbeAnswer, ProbeRefusal>) {
        self.under_way -= 1;
        self.count(match &answer {
            Ok(answer) if answer.success => OnDemandResult::Success,
            Ok(_) => OnDemandResult::Failure,
            Err(_) => OnDemandResult::Refused,
        });
        // Whoever asked may have left.
        let _ = question.answer.send(answer);
    }
}

impl App {
    /// Takes one step of one probe.
    pub(super) fn step_on_demand(&mut self, step: Step) {
        match step {
            Step::Asked(request) => self.accept(request),
            Step::Prepared(question, Ok(prepared)) => self.measure(question, prepared),
            Step::Prepared(question, Err(NotPrepared::Unresolved)) => {
                let answer = question.answer_of(None, None);
                self.answered(question, Ok(answer));
            }
            Step::Prepared(question, Err(NotPrepared::NotAllowed)) => {
                let refusal = not_allowed(&question.target);
                self.answered(question, Err(refusal));
            }
            Step::Expired(target) => self.end_on_demand(target),
        }
    }

    /// A worker is done with this target, or has had its time. Nothing, if it is another one's.
    pub(super) fn end_on_demand(&mut self, target: TargetId) {
        let Some(on_demand) = &mut self.on_demand else { return };
        let Some(running) = on_demand.running.remove(&target) else { return };
        let Running { question, address, worker, watched, .. } = running;
        self.probers[worker].change(Change::Remove(target));
        let answer = question.answer_of(Some(address), Some(watched));
        self.answered(question, Ok(answer));
    }

    /// Shows what comes of them, from the moment when a file switches them on.
    pub(super) fn show_on_demand(&mut self, section: Option<&Arc<OnDemandSection>>) {
        if let (Some(on_demand), Some(_)) = (&mut self.on_demand, section) {
            on_demand.series.get_or_insert_with(|| self.stats.add_on_demand());
        }
    }

    fn answered(&mut self, question: Question, answer: Result<ProbeAnswer, ProbeRefusal>) {
        if let Some(on_demand) = &mut self.on_demand {
            on_demand.answer(question, answer);
        }
    }

    fn accept(&mut self, request: ProbeRequest) {
        let ProbeRequest { target, module, patience, answer } = request;
        match self.examine(&target, module.as_deref()) {
            Ok((rules, module, crew)) => {
                let Some(on_demand) = &mut self.on_demand else { return };
                on_demand.under_way += 1;
                let patience = patience.map(|patience| shorter(patience, rules.timeout_offset));
                let most = module.settings.timeout;
                let (member, follower) = self.crews[crew].follower_of_next();
                let question = Question {
                    target,
                    crew,
                    member,
                    rules,
                    asked_at: clock::mono(),
                    budget: patience.map_or(most, |patience| patience.min(most)),
                    lookup: Duration::ZERO,
                    answer,
                    module,
                };
                let (lookups, tell) = (Arc::clone(&on_demand.lookups), on_demand.tell.clone());
                tokio::spawn(async move {
                    let step = prepare(question, Followed::new(follower), lookups).await;
                    // An app that is gone measures nothing.
                    let _ = tell.send(step).await;
                });
            }
            Err(refusal) => {
                if let Some(on_demand) = &self.on_demand {
                    on_demand.count(match refusal {
                        ProbeRefusal::Busy => OnDemandResult::Busy,
                        _ => OnDemandResult::Refused,
                    });
                }
                let _ = answer.send(Err(refusal));
            }
        }
    }

    /// Whether a wish is good, as far as that is known without looking anything up: the rules, the
    /// module and the crew for it.
    fn examine(
        &self,
        target: &HostPort,
        module: Option<&str>,
    ) -> Result<(Arc<OnDemandSection>, Arc<Module>, usize), ProbeRefusal> {
        let bad = |why: String| Err(ProbeRefusal::Bad(why));
        let (Some(on_demand), Some(agent)) = (&self.on_demand, self.agent.as_ref()) else {
            return Err(ProbeRefusal::Off);
        };
        let Some(section) = agent.section() else { return Err(ProbeRefusal::Off) };
        let Some(rules) = &section.on_demand else { return Err(ProbeRefusal::Off) };
        let known: Vec<_> =
            section.modules.values().filter(|it| rules.has_module(&it.name)).collect();
        let named = module.and_then(|name| known.iter().find(|known| known.name == name));
        let module = match (module, named, known.as_slice()) {
            (_, Some(module), _) | (None, None, [module]) => Arc::clone(module),
            (module, ..) => {
                let names: Vec<_> = known.iter().map(|module| module.name.as_str()).collect();
                let what = module
                    .map_or_else(|| "is missing".to_owned(), |name| format!("{name:?} is unknown"));
                return bad(format!("module {what}; write one of: {}", names.join(", ")));
            }
        };
        if !rules.may_allow(&target.host, target.port) {
            return Err(not_allowed(target));
        }
        if module.clock == ClockChoice::Kernel && !self.stamps {
            return bad(format!("module {}: there are no kernel stamps here", module.name));
        }
        let Some(crew) = self.crews.iter().position(|crew| crew.does(&module)) else {
            return bad(format!("module {}: its kind of checks needs a restart", module.name));
        };
        if on_demand.under_way >= rules.concurrency {
            return Err(ProbeRefusal::Busy);
        }
        Ok((Arc::clone(rules), module, crew))
    }

    /// Gives a probe to its worker.
    fn measure(&mut self, question: Question, Prepared { address, followed }: Prepared) {
        let left = question.left();
        if left.is_zero() || question.answer.is_closed() {
            let answer = question.answer_of(Some(address), None);
            return self.answered(question, Ok(answer));
        }
        let id = TargetId(self.next_target);
        self.next_target += 1;
        let stamps = self.stamps && question.module.clock != ClockChoice::Application;
        let shared = Shared::new(&question.module, question.crew, stamps);
        let crew = &self.crews[question.crew];
        let (worker, change, watched) =
            crew.single(question.member, id, (address, left), (&question.module, &shared));
        self.probers[worker].change(change);
        let Some(on_demand) = &mut self.on_demand else { return };
        let tell = on_demand.tell.clone();
        tokio::spawn(async move {
            sleep(left + GRACE).await;
            let _ = tell.send(Step::Expired(id)).await;
        });
        let running = Running { question, address, worker, watched, _followed: followed };
        on_demand.running.insert(id, running);
    }
}

impl Question {
    fn left(&self) -> Duration {
        self.budget.saturating_sub(clock::mono().duration_since(self.asked_at))
    }

    fn answer_of(&self, address: Option<SocketAddr>, measured: Option<Watched>) -> ProbeAnswer {
        ProbeAnswer {
            success: measured.as_ref().is_some_and(|measured| measured.counts().good > 0),
            duration: clock::mono().duration_since(self.asked_at),
            lookup: self.lookup,
            address,
            measured,
        }
    }
}

/// The next step of any probe; never, where there are none.
pub(super) async fn next_step(on_demand: &mut Option<OnDemand>) -> Step {
    let Some(on_demand) = on_demand else { return std::future::pending().await };
    tokio::select! {
        Some(step) = on_demand.steps.recv() => step,
        Some(request) = on_demand.asked.recv() => Step::Asked(request),
        else => std::future::pending().await,
    }
}

/// Finds out where the probe goes, and has its interface watched if eBPF programs time it.
async fn prepare(mut question: Question, followed: Followed, lookups: Arc<Semaphore>) -> Step {
    let HostPort { host, port } = question.target.clone();
    let found = match host.parse::<IpAddr>() {
        Ok(ip) => Ok(vec![SocketAddr::new(ip, port)]),
        Err(_) => {
            let (left, host) = (question.left(), host.clone());
            let found = timeout(left, look_up(host, port, lookups)).await;
            question.lookup = clock::mono().duration_since(question.asked_at);
            found.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        }
    };
    let addresses = found.unwrap_or_default();
    if addresses.is_empty() {
        return Step::Prepared(question, Err(NotPrepared::Unresolved));
    }
    let allowed = |to: &SocketAddr| question.rules.allows(&host, port, to.ip());
    let Some(address) = addresses.into_iter().map(plain).find(allowed) else {
        return Step::Prepared(question, Err(NotPrepared::NotAllowed));
    };
    let following = spawn_blocking(move || {
        followed.only(&[address]);
        followed
    });
    match following.await {
        Ok(followed) => Step::Prepared(question, Ok(Prepared { address, followed })),
        // The program ends.
        Err(_) => Step::Prepared(question, Err(NotPrepared::Unresolved)),
    }
}

/// The permit is held until the system has answered, however long nobody waits any more.
async fn look_up(host: String, port: u16, lookups: Arc<Semaphore>) -> io::Result<Vec<SocketAddr>> {
    let permit = lookups.acquire_owned().await.map_err(io::Error::other)?;
    let looking = spawn_blocking(move || {
        let _permit = permit;
        (host.as_str(), port).to_socket_addrs().map(Iterator::collect)
    });
    looking.await.map_err(io::Error::other)?
}

/// An IPv4 address inside an IPv6 one is that IPv4 address.
fn plain(mut address: SocketAddr) -> SocketAddr {
    let ip = address.ip().to_canonical();
    if ip != address.ip() {
        address.set_ip(ip);
    }
    address
}

fn not_allowed(target: &HostPort) -> ProbeRefusal {
    // Counted; a stranger must not fill the log.
    tracing::debug!(address = %target, "a probe on demand is not allowed");
    ProbeRefusal::NotAllowed(format!("target {target} is not allowed; see probe: in the file"))
}

/// Half of it at least, for those who wait a moment only.
fn shorter(patience: Duration, offset: Duration) -> Duration {
    patience.saturating_sub(offset).max(patience / 2)
}

/// A probe ends by itself at its own timeout; later than this after it nobody waits.
const GRACE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_ends_before_prometheus_gives_up() {
        let check = |patience, offset, expected| {
            let [patience, offset, expected] =
                [patience, offset, expected].map(Duration::from_millis);
            assert_eq!(shorter(patience, offset), expected);
        };
        check(10_000, 500, 9_500);
        check(1_000, 500, 500);
        check(600, 500, 300);
        check(100, 500, 50);
    }
}
