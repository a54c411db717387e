//! The HTTP control plane: requests in, pages made from a snapshot out. It runs on the control
//! plane's runtime and never touches a measuring thread: a scrape copies what the series hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::{get, post};
use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};

use self::events::Listeners;
use crate::host::ProcessUsage;
use crate::stats::Stats;
use crate::stats::history::COLUMN_SECONDS;
use crate::time::Wall;

mod api;
mod auth;
mod events;
mod exposition;
mod guard;
mod negotiation;
mod on_demand;
mod page;
mod relay;
mod reload;
mod seats;
mod server;
mod tls;
mod view;

pub use self::guard::Guard;
pub use self::on_demand::{ProbeAnswer, ProbeRefusal, ProbeRequest, ProbeRequests};
pub use self::reload::{ReloadRequest, ReloadRequests};
pub use self::server::{SHUTDOWN_GRACE, serve};

/// What requests are answered from.
#[derive(Clone, Debug)]
pub struct HttpState {
    stats: Arc<Stats>,
    ready: Arc<AtomicBool>,
    process_usage: fn() -> ProcessUsage,
    now: fn() -> Wall,
    events: Arc<Listeners>,
    /// One exposition is made at a time, so that many scrapers cost time instead of memory.
    expositions: Arc<Semaphore>,
    reload: Option<ReloadRequests>,
    probes: Option<ProbeRequests>,
}

impl HttpState {
    /// `/-/ready` answers 503 until `ready` is set; `process_usage` and `now` ask the operating
    /// system.
    #[must_use]
    pub fn new(
        stats: Arc<Stats>,
        ready: Arc<AtomicBool>,
        process_usage: fn() -> ProcessUsage,
        now: fn() -> Wall,
    ) -> Self {
        let expositions = Arc::new(Semaphore::new(1));
        let events = Arc::default();
        Self { stats, ready, process_usage, now, events, expositions, reload: None, probes: None }
    }

    /// The same, which also takes wishes to read the configuration again.
    #[must_use]
    pub fn with_reload(self, requests: Option<ReloadRequests>) -> Self {
        Self { reload: requests, ..self }
    }

    /// The same, which also takes wishes for probes.
    #[must_use]
    pub fn with_probes(self, requests: Option<ProbeRequests>) -> Self {
        Self { probes: requests, ..self }
    }

    /// The wall clock, Unix ns.
    fn now_ns(&self) -> u64 {
        (self.now)().as_ns()
    }
}

/// The routes.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/", get(page::html))
        .route("/assets/page.css", get(page::style))
        .route("/assets/page.js", get(page::script))
        .route("/assets/charts.js", get(page::charts))
        .route("/assets/icon.svg", get(page::icon))
        .route("/api/v1/status", get(api::status))
        .route("/api/v1/targets", get(api::targets))
        .route("/api/v1/targets/{id}", get(api::target))
        .route("/api/v1/events", get(events::events))
        .route("/api/v1/relay/clients", get(relay::clients))
        .route("/api/v1/openapi.json", get(api::description))
        .route("/metrics", get(exposition::exposition))
        .route("/probe", get(on_demand::probe))
        .route("/-/healthy", get(async || "rttscope is healthy.\n"))
        .route("/-/ready", get(readiness))
        .route("/-/reload", post(reload::reload).put(reload::reload))
        .with_state(state)
}

/// Turns the heat maps of all targets over, a column after the other, for as long as it is polled.
pub async fn turn_heat_maps(stats: Arc<Stats>) {
    let mut turns = interval(Duration::from_secs(COLUMN_SECONDS));
    // A column that was late is a long one; the next one is not short.
    turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The first tick is at once.
    turns.tick().await;
    loop {
        turns.tick().await;
        let stats = Arc::clone(&stats);
        // Of many targets it takes tens of ms, in which requests should not wait.
        if spawn_blocking(move || stats.turn_heat_maps()).await.is_err() {
            return;
        }
    }
}

async fn readiness(State(state): State<HttpState>) -> (StatusCode, &'static str) {
    if state.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "rttscope is ready.\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "rttscope is starting or stopping.\n")
    }
}

#[cfg(test)]
mod tests;
