//! `/api/v1/`: questions in, JSON out. Every path, parameter and key is in `openapi.json`, and a
//! test holds the answers to it.

use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State as AxumState};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};
use tokio::task::spawn_blocking;

use super::HttpState;
use super::view::{Detail, Quantiles, Row, States};
use crate::stats::history::{COLUMN_SECONDS, COLUMNS_MAX};
use crate::stats::watched::{Glimpse, State, Watched};
use crate::stats::{BuildInfo, SourceSnapshot, Stats};
use crate::time::NS_PER_SECOND;

/// Which targets, and in which order.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct Question {
    /// Part of a name, an address or a label, in any case.
    q: String,
    state: Option<String>,
    sort: Sort,
    offset: usize,
    limit: Option<usize>,
    heatmap: bool,
    /// One target, for events only.
    pub(super) target: Option<String>,
}

/// The order of a list.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Sort {
    /// As they were configured.
    #[default]
    None,
    Name,
    Worst,
    Rtt,
    Loss,
}

/// A part of the list of targets.
#[derive(Debug, Serialize)]
pub(super) struct Page {
    time_ns: u64,
    turns: u64,
    states: States,
    total: usize,
    matched: usize,
    offset: usize,
    limit: usize,
    pub(super) targets: Vec<Row>,
}

/// What is wrong with a question.
#[derive(Debug, Serialize)]
pub(super) struct Complaint {
    #[serde(skip)]
    status: StatusCode,
    error: String,
}

/// The program.
#[derive(Debug, Serialize)]
struct Program {
    time_ns: u64,
    version: &'static str,
    os: &'static str,
    arch: &'static str,
    start_time_ns: Option<u64>,
    uptime_ns: Option<u64>,
    ready: bool,
    total: usize,
    states: States,
    capabilities: Vec<Capability>,
    responders: Vec<Responder>,
    workers: Vec<Worker>,
    discovery: Vec<Source>,
    process: Process,
    heatmap: Heatmap,
    events: super::events::Usage,
}

#[derive(Debug, Serialize)]
struct Capability {
    name: &'static str,
    available: bool,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct Responder {
    listener: String,
    connections: u64,
    connections_active: u64,
    refused: u64,
    frames_v3: u64,
    received_bytes: u64,
    sent_bytes: u64,
    residence: Option<Quantiles>,
}

#[derive(Debug, Serialize)]
struct Worker {
    thread: String,
    lateness: Quantiles,
}

/// A source of targets.
#[derive(Debug, Serialize)]
struct Source {
    discovery: String,
    source: String,
    targets: usize,
    refreshes: u64,
    failures: u64,
    last_success_ns: Option<u64>,
    error: Option<String>,
}

#[derive(Debug, Serialize)]
struct Process {
    cpu_ns: Option<u64>,
    resident_bytes: Option<u64>,
    threads: Option<u64>,
    open_fds: Option<u64>,
    max_fds: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Heatmap {
    column_ns: u64,
    columns_max: usize,
    turns: u64,
}

/// Answers `/api/v1/status`.
pub(super) async fn status(AxumState(state): AxumState<HttpState>) -> Response {
    answer(spawn_blocking(move || Program::new(&state)).await)
}

/// Answers `/api/v1/targets`.
pub(super) async fn targets(
    AxumState(state): AxumState<HttpState>,
    question: Result<Query<Question>, QueryRejection>,
) -> Result<Response, Complaint> {
    let question = Question::checked(question)?;
    if question.target.is_some() {
        return Err(Complaint::bad("`target` is for /api/v1/events; see /api/v1/targets/{id}"));
    }
    let page = spawn_blocking(move || question.page(&state.stats, state.now_ns()));
    Ok(answer(page.await))
}

/// Answers `/api/v1/targets/{id}`.
pub(super) async fn target(
    AxumState(state): AxumState<HttpState>,
    Path(id): Path<String>,
) -> Result<Response, Complaint> {
    let watched = find(&state.stats, &id)?;
    let detail = spawn_blocking(move || Detail::new(&watched, state.now_ns()));
    Ok(answer(detail.await))
}

/// Answers `/api/v1/openapi.json`.
pub(super) async fn description() -> Response {
    ([(CONTENT_TYPE, "application/json")], include_str!("openapi.json")).into_response()
}

/// The target with this number.
pub(super) fn find(stats: &Stats, id: &str) -> Result<Watched, Complaint> {
    let wanted = u64::from_str_radix(id, 16).ok();
    let mut watched = stats.watched().into_iter();
    watched.find(|watched| Some(watched.id()) == wanted).ok_or_else(|| Complaint {
        status: StatusCode::NOT_FOUND,
        error: format!("no target has the id {id:?}"),
    })
}

pub(super) fn answer<T: Serialize, E: std::fmt::Display>(made: Result<T, E>) -> Response {
    match made {
        Ok(made) => json(StatusCode::OK, &made),
        Err(error) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Complaint { status, error: error.to_string() }.into_response()
        }
    }
}

fn json(status: StatusCode, made: &impl Serialize) -> Response {
    // Plain data: nothing in it can fail to be written.
    let text = serde_json::to_string(made).unwrap_or_default();
    let headers = [(CONTENT_TYPE, "application/json"), (CACHE_CONTROL, "no-store")];
    (status, headers, text).into_response()
}

impl Question {
    /// A question that can be answered.
    pub(super) fn checked(
        question: Result<Query<Self>, QueryRejection>,
    ) -> Result<Self, Complaint> {
        let Query(question) = question.map_err(|error| Complaint::bad(&error.body_text()))?;
        if question.limit.is_some_and(|limit| limit > LIMIT_MAX) {
            return Err(Complaint::bad(&format!("`limit` is at most {LIMIT_MAX}")));
        }
        let known = |name: &String| State::ALL.iter().any(|state| state.name() == name);
        if question.state.as_ref().is_some_and(|name| !known(name)) {
            let names = State::ALL.map(State::name).join(", ");
            return Err(Complaint::bad(&format!("`state` is one of {names}")));
        }
        Ok(question)
    }

    /// The answer.
    pub(super) fn page(&self, stats: &Stats, time_ns: u64) -> Page {
        let all = stats.watched();
        let mut states = States::default();
        let wanted = self.q.to_lowercase();
        let mut found: Vec<(usize, Glimpse)> = Vec::new();
        for (number, watched) in all.iter().enumerate() {
            if !wanted.is_empty() && !matches(watched, &wanted) {
                continue;
            }
            let glimpse = watched.glimpse();
            states.add(glimpse.state);
            if self.state.as_ref().is_none_or(|name| glimpse.state.name() == name) {
                found.push((number, glimpse));
            }
        }
        self.sort.apply(&all, &mut found);
        let limit = self.limit.unwrap_or(LIMIT_DEFAULT);
        let shown = found.iter().skip(self.offset).take(limit);
        let shown = shown.filter_map(|&(number, _)| all.get(number));
        Page {
            time_ns,
            turns: stats.heat_map_turns(),
            states,
            total: all.len(),
            matched: found.len(),
            offset: self.offset,
            limit,
            targets: shown.map(|watched| Row::new(watched, self.heatmap)).collect(),
        }
    }
}

/// Whether a text in lower case is part of what people call a target.
fn matches(watched: &Watched, wanted: &str) -> bool {
    let has = |text: &str| text.to_lowercase().contains(wanted);
    let labelled = |(name, value): &(String, String)| has(name) || has(value);
    has(watched.target()) || has(watched.address()) || watched.labels().iter().any(labelled)
}

impl Sort {
    /// Sorts; what is equal stays as it was configured.
    fn apply(self, all: &[Watched], found: &mut [(usize, Glimpse)]) {
        let loss = |glimpse: &Glimpse| glimpse.loss_ratio.unwrap_or(-1.0);
        // In percent: a list should not be shuffled by every probe.
        let budget = |glimpse: &Glimpse| {
            glimpse.budget_left_ratio.map_or(f64::INFINITY, |left| (100.0 * left).floor())
        };
        match self {
            Self::None => {}
            Self::Name => found.sort_by_key(|&(number, _)| all[number].target()),
            Self::Rtt => found.sort_by_key(|(_, it)| std::cmp::Reverse(it.last_rtt_ns)),
            Self::Loss => found.sort_by(|(_, a), (_, b)| loss(b).total_cmp(&loss(a))),
            Self::Worst => found.sort_by(|(_, a), (_, b)| {
                let by_loss = || loss(b).total_cmp(&loss(a));
                let by_budget = || budget(a).total_cmp(&budget(b));
                a.state.cmp(&b.state).then_with(by_loss).then_with(by_budget)
            }),
        }
    }
}

impl Complaint {
    fn bad(error: &str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, error: error.to_owned() }
    }

    /// Not now.
    pub(super) fn busy(error: &str) -> Self {
        Self { status: StatusCode::SERVICE_UNAVAILABLE, error: error.to_owned() }
    }
}

impl IntoResponse for Complaint {
    fn into_response(self) -> Response {
        json(self.status, &self)
    }
}

impl Program {
    fn new(state: &HttpState) -> Self {
        let HttpState { stats, .. } = state;
        let BuildInfo { version, os, arch } = BuildInfo::current();
        let usage = (state.process_usage)();
        let time_ns = state.now_ns();
        let mut states = States::default();
        let watched = stats.watched();
        watched.iter().for_each(|watched| states.add(watched.glimpse().state));
        let capabilities = stats.capabilities().into_iter().map(|known| Capability {
            name: known.name,
            available: known.available,
            reason: Some(known.reason).filter(|reason| !reason.is_empty()),
        });
        let responders = stats.responders().into_iter().map(|echo| Responder {
            listener: echo.listener,
            connections: echo.counters.connections,
            connections_active: echo.counters.connections_active,
            refused: echo.counters.refused_limit,
            frames_v3: echo.counters.frames_v3,
            received_bytes: echo.counters.received_bytes,
            sent_bytes: echo.counters.sent_bytes,
            residence: echo.residence.as_ref().map(Quantiles::new),
        });
        let workers = stats.workers().into_iter().map(|worker| Worker {
            thread: worker.thread,
            lateness: Quantiles::new(&worker.lateness),
        });
        let sources = stats.discovery().into_iter().flat_map(|discovery| discovery.sources);
        Self {
            time_ns,
            version,
            os,
            arch,
            start_time_ns: usage.start_time_ns,
            uptime_ns: usage.start_time_ns.map(|start_ns| time_ns.saturating_sub(start_ns)),
            ready: state.ready.load(std::sync::atomic::Ordering::Acquire),
            total: watched.len(),
            states,
            capabilities: capabilities.collect(),
            responders: responders.collect(),
            workers: workers.collect(),
            discovery: sources.map(Source::new).collect(),
            process: Process {
                cpu_ns: usage.cpu_ns,
                resident_bytes: usage.resident_bytes,
                threads: usage.threads,
                open_fds: usage.open_fds,
                max_fds: usage.max_fds,
            },
            heatmap: Heatmap {
                column_ns: COLUMN_SECONDS * NS_PER_SECOND,
                columns_max: COLUMNS_MAX,
                turns: stats.heat_map_turns(),
            },
            events: state.events.usage(),
        }
    }
}

impl Source {
    fn new(source: SourceSnapshot) -> Self {
        Self {
            discovery: source.list,
            source: source.source,
            targets: source.targets,
            refreshes: source.refreshes,
            failures: source.failures,
            last_success_ns: source.good_at_ns,
            error: source.error,
        }
    }
}

/// Targets of an answer, unless asked otherwise.
const LIMIT_DEFAULT: usize = 100;
/// Targets of an answer at most: half a MB with heat maps.
const LIMIT_MAX: usize = 200;
