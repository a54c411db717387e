//! `/metrics`: one moment in, the exposition that the client asks for out, in parts. A part is made
//! when the one before it was taken, on a thread that yields to measuring ones; so a body of
//! hundreds of MB takes the memory of one moment, and no write of it holds a CPU for long.

use std::io::{self, Write};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderValue, VARY,
};
use axum::response::{IntoResponse, Response};
use flate2::Compression;
use flate2::write::GzEncoder;
use hyper::body::Frame;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::task::{JoinError, spawn_blocking};
use tokio::time::timeout;

use super::{HttpState, negotiation};
use crate::metrics::Exposition;

/// Answers `/metrics`.
pub(super) async fn exposition(
    State(state): State<HttpState>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    let format = negotiation::format(&headers);
    let gzip = negotiation::is_gzip_wanted(&headers);
    let names: Vec<String> =
        query.into_iter().filter(|(key, _)| key == "name[]").map(|(_, name)| name).collect();
    let HttpState { stats, process_usage, expositions, .. } = state;
    let turn = expositions.acquire_owned().await.expect("the semaphore is never closed");
    let beginning = spawn_blocking(move || {
        stats.count_scrape();
        let exposition = Exposition::new(&stats, process_usage(), format, &names);
        Rest { exposition, gzip: gzip.then(compressor), _turn: turn }.next_part()
    });
    let body = match beginning.await {
        Ok((part, None)) => Body::from(part),
        Ok((part, Some(rest))) => Body::new(Parts::new(part, rest)),
        Err(error) => {
            return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response();
        }
    };
    let mut response = body.into_response();
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    for header in [ACCEPT, ACCEPT_ENCODING] {
        headers.append(VARY, header.into());
    }
    if gzip {
        headers.insert(CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    }
    response
}

/// What is left to be sent of an exposition.
struct Rest {
    exposition: Exposition,
    gzip: Option<GzEncoder<Vec<u8>>>,
    /// One exposition is made at a time, so that many scrapers cost time instead of memory.
    _turn: OwnedSemaphorePermit,
}

impl Rest {
    /// The next part, and what is left after it.
    fn next_part(mut self) -> (Bytes, Option<Self>) {
        let mut plain = Vec::with_capacity(PART_BYTES + PART_BYTES / 4);
        let Some(gzip) = &mut self.gzip else {
            let more = self.exposition.write(&mut plain, PART_BYTES);
            return (plain.into(), more.then_some(self));
        };
        loop {
            let more = self.exposition.write(&mut plain, PART_BYTES);
            gzip.write_all(&plain).expect("a vector takes any bytes");
            plain.clear();
            if !more {
                gzip.try_finish().expect("a vector takes any bytes");
            }
            if !more || gzip.get_ref().len() >= PART_BYTES {
                let part = std::mem::take(gzip.get_mut());
                return (part.into(), more.then_some(self));
            }
        }
    }

    /// Sends part by part. A client that takes too long loses its turn, and gets no end.
    async fn send(self, parts: mpsc::Sender<Part>) {
        let mut rest = Some(self);
        while let Some(left) = rest {
            let Ok((bytes, left)) = next_part(left).await else { return };
            let part = Part { bytes, is_last: left.is_none() };
            let Ok(Ok(())) = timeout(PART_TAKEN_MAX, parts.send(part)).await else { return };
            rest = left;
        }
    }
}

async fn next_part(rest: Rest) -> Result<(Bytes, Option<Rest>), JoinError> {
    spawn_blocking(move || rest.next_part()).await
}

fn compressor() -> GzEncoder<Vec<u8>> {
    GzEncoder::new(Vec::new(), Compression::fast())
}

/// A part of a body.
struct Part {
    bytes: Bytes,
    is_last: bool,
}

/// A body that is made while it is sent.
struct Parts {
    /// The first part, until it is taken.
    first: Option<Bytes>,
    others: mpsc::Receiver<Part>,
    is_complete: bool,
}

impl Parts {
    fn new(first: Bytes, rest: Rest) -> Self {
        let (sender, others) = mpsc::channel(1);
        tokio::spawn(async move {
            // Without a complaint: the client sees that the end is missing.
            let _ = timeout(EXPOSITION_MAX, rest.send(sender)).await;
        });
        Self { first: Some(first), others, is_complete: false }
    }
}

impl HttpBody for Parts {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(Ok(Frame::data(first))));
        }
        if self.is_complete {
            return Poll::Ready(None);
        }
        self.others.poll_recv(context).map(|part| {
            let too_slow = || io::Error::other("the client took too long");
            let part = part.ok_or_else(too_slow);
            self.is_complete = part.as_ref().map_or(true, |part| part.is_last);
            Some(part.map(|part| Frame::data(part.bytes)))
        })
    }
}

/// Bytes of a body that are made, and written, at once: one write of many MB would hold its CPU
/// for milliseconds on a kernel without preemption, and a measuring thread may be waiting for it.
const PART_BYTES: usize = 64 * 1_024;

/// How long a client may take for one part, and for all of them. Prometheus itself gives up after
/// 10 s unless it is told otherwise; and others wait for their turn.
const PART_TAKEN_MAX: Duration = Duration::from_secs(5);
const EXPOSITION_MAX: Duration = Duration::from_secs(30);
