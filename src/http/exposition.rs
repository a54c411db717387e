//! `/metrics`: a snapshot in, the exposition that the client asks for out.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::body::{Frame, SizeHint};
use tokio::task::spawn_blocking;

use super::HttpState;
use crate::metrics;

/// Answers `/metrics`.
pub(super) async fn exposition(State(state): State<HttpState>, headers: HeaderMap) -> Response {
    let open_metrics = accepts_open_metrics(&headers);
    let HttpState { stats, process_usage, expositions, .. } = state;
    let turn = expositions.acquire_owned().await.expect("the semaphore is never closed");
    // A large exposition takes many ms; on a thread of its own it does not hold up other requests.
    let encoding = spawn_blocking(move || {
        let _turn = turn;
        stats.count_scrape();
        let mut snapshot = stats.snapshot();
        snapshot.process = process_usage();
        let snapshot = Arc::new(snapshot);
        if open_metrics {
            ([(CONTENT_TYPE, OPEN_METRICS)], in_parts(metrics::open_metrics_text(snapshot)))
        } else {
            ([(CONTENT_TYPE, PROMETHEUS_TEXT)], in_parts(metrics::prometheus_text(snapshot)))
        }
    });
    match encoding.await {
        Ok(exposition) => exposition.into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// A body that goes to the kernel in parts: one write of many MB would hold its CPU for
/// milliseconds on a kernel without preemption, and a measuring thread may be waiting for it.
fn in_parts(text: String) -> Body {
    Body::new(Parts(text.into()))
}

/// What is left of a body.
struct Parts(Bytes);

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let bytes = self.0.len().min(PART_BYTES);
        let part = self.0.split_to(bytes);
        Poll::Ready((bytes > 0).then(|| Ok(Frame::data(part))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(u64::try_from(self.0.len()).unwrap_or(u64::MAX))
    }
}

/// Whether the client names OpenMetrics at all. Its order of preference is not looked at: whoever
/// knows OpenMetrics gets the more precise of our formats.
fn accepts_open_metrics(headers: &HeaderMap) -> bool {
    let mut accepted = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    accepted.any(|value| value.contains("application/openmetrics-text"))
}

/// Bytes of a body that are written at once.
const PART_BYTES: usize = 64 * 1_024;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
