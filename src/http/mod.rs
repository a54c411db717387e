//! The HTTP control plane: requests in, pages made from a snapshot out. It runs on the control
//! plane's runtime and never touches a measuring thread: a scrape copies what the series hold.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Html;
use axum::routing::get;
use tokio::sync::Semaphore;

use crate::host::ProcessUsage;
use crate::stats::Stats;

mod auth;
mod exposition;
mod guard;
mod negotiation;
mod seats;
mod server;
mod tls;

pub use self::guard::Guard;
pub use self::server::{SHUTDOWN_GRACE, serve};

/// What requests are answered from.
#[derive(Clone, Debug)]
pub struct HttpState {
    stats: Arc<Stats>,
    ready: Arc<AtomicBool>,
    process_usage: fn() -> ProcessUsage,
    /// One exposition is made at a time, so that many scrapers cost time instead of memory.
    expositions: Arc<Semaphore>,
}

impl HttpState {
    /// `/-/ready` answers 503 until `ready` is set; `process_usage` reads the operating system.
    #[must_use]
    pub fn new(
        stats: Arc<Stats>,
        ready: Arc<AtomicBool>,
        process_usage: fn() -> ProcessUsage,
    ) -> Self {
        Self { stats, ready, process_usage, expositions: Arc::new(Semaphore::new(1)) }
    }
}

/// The routes.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/", get(landing))
        .route("/metrics", get(exposition::exposition))
        .route("/-/healthy", get(async || "rttscope is healthy.\n"))
        .route("/-/ready", get(readiness))
        .with_state(state)
}

async fn landing() -> Html<&'static str> {
    Html(concat!(
        "<!doctype html>\n<html lang=\"en\"><head><title>rttscope</title></head><body>\n",
        "<h1>rttscope ",
        env!("CARGO_PKG_VERSION"),
        "</h1>\n<ul>\n",
        "<li><a href=\"/metrics\">/metrics</a>: everything measured, for Prometheus</li>\n",
        "<li><a href=\"/-/healthy\">/-/healthy</a>: 200 while the program runs</li>\n",
        "<li><a href=\"/-/ready\">/-/ready</a>: 200 once it measures</li>\n",
        "</ul>\n</body></html>\n",
    ))
}

async fn readiness(State(state): State<HttpState>) -> (StatusCode, &'static str) {
    if state.ready.load(Ordering::Acquire) {
        (StatusCode::OK, "rttscope is ready.\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "rttscope is starting.\n")
    }
}

#[cfg(test)]
mod tests;
