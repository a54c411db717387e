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

use super::relay::Document;
use super::{HttpState, negotiation};
use crate::metrics::Exposition;

/// Answers `/metrics`.
pub(super) async fn exposition(
    State(state): State<HttpState>,
    Query(query): Query<Vec<(String, String)>>,
    headers: HeaderMap,
) -> Response {
    if let Some(document) = Document::asked(&query, &state.stats) {
        return document.answer(&state.stats);
    }
    let format = negotiation::format(&headers);
    let gzip = negotiation::is_gzip_wanted(&headers);
    let is_name = |(key, name): &(String, String)| key == "name[]" && !name.is_empty();
    let names: Vec<String> = query.into_iter().filter(is_name).map(|(_, name)| name).collect();
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

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::io::Read;
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use axum::body::to_bytes;
    use axum::http::HeaderName;
    use flate2::read::GzDecoder;
    use tokio::time::Instant;

    use super::*;
    use crate::host::ProcessUsage;
    use crate::stats::slo::Objectives;
    use crate::stats::{ProbeSeries, Stats};
    use crate::time::Wall;

    /// One target is less than a part, and these are many parts.
    const MANY: usize = 1_000;

    fn state(targets: usize) -> HttpState {
        let stats = Arc::new(Stats::default());
        let objectives = Arc::new(Objectives::new(Vec::new()));
        for target in 0..targets {
            let name = format!("target-{target}");
            stats.add_probe(ProbeSeries::new(name, "a:1", Vec::new(), Arc::clone(&objectives)));
        }
        HttpState::new(stats, Arc::new(AtomicBool::new(true)), ProcessUsage::default, Wall::default)
    }

    async fn ask(state: &HttpState, names: &[&str], asked: &[(HeaderName, &str)]) -> Response {
        let query = names.iter().map(|&name| ("name[]".to_owned(), name.to_owned())).collect();
        let mut headers = HeaderMap::new();
        for (name, value) in asked {
            headers.append(name, HeaderValue::from_str(value).unwrap());
        }
        exposition(State(state.clone()), Query(query), headers).await
    }

    async fn body(response: Response) -> Result<Vec<u8>, axum::Error> {
        to_bytes(response.into_body(), usize::MAX).await.map(Into::into)
    }

    #[tokio::test]
    async fn a_body_is_what_its_headers_say() {
        for targets in [1, MANY] {
            let state = state(targets);
            let check = async |accept: &str, content_type: &str, begins: &[u8]| {
                let plain = ask(&state, &[], &[(ACCEPT, accept)]).await;
                let headers = plain.headers();
                assert_eq!(headers[CONTENT_TYPE], content_type);
                let vary: Vec<_> = headers.get_all(VARY).iter().collect();
                assert_eq!(vary, ["accept", "accept-encoding"]);
                assert!(!headers.contains_key(CONTENT_ENCODING));
                let plain = body(plain).await.unwrap();
                assert!(plain.starts_with(begins), "{content_type}");

                let asked = [(ACCEPT, accept), (ACCEPT_ENCODING, "gzip")];
                let gzip = ask(&state, &[], &asked).await;
                assert_eq!(gzip.headers()[CONTENT_ENCODING], "gzip");
                let gzip = body(gzip).await.unwrap();
                assert!(gzip.len() < plain.len() / 2, "{} of {}", gzip.len(), plain.len());
                let mut decoded = Vec::new();
                GzDecoder::new(&*gzip).read_to_end(&mut decoded).unwrap();
                assert!(decoded == plain, "{content_type}: another body");
            };
            let text = "text/plain; version=0.0.4; charset=utf-8";
            check("*/*", text, b"# HELP tcp_echo_sent_total ").await;
            let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            check(open, open, b"# HELP tcp_echo_sent ").await;
            let protobuf = "application/vnd.google.protobuf; \
                            proto=io.prometheus.client.MetricFamily; encoding=delimited";
            check(protobuf, protobuf, b"").await;
        }
    }

    #[tokio::test]
    async fn names_choose() {
        let state = state(1);
        let names = ["tcp_echo_up", "tcp_echo_sent_total", "no_such_family"];
        let chosen = body(ask(&state, &names, &[]).await).await.unwrap();
        let chosen = String::from_utf8(chosen).unwrap();
        let samples: Vec<_> = chosen.lines().filter(|line| !line.starts_with('#')).collect();
        let sample = |name: &str| format!("{name}{{target=\"target-0\",address=\"a:1\"}} 0");
        assert_eq!(samples, [sample("tcp_echo_sent_total"), sample("tcp_echo_up")]);
        let everything = body(ask(&state, &[""], &[]).await).await.unwrap();
        assert!(everything.len() > 2 * chosen.len(), "no name is no choice");
    }

    /// Time passes only while everybody waits.
    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_loses_its_turn() {
        let state = state(MANY);
        let began = Instant::now();
        let unread = ask(&state, &[], &[]).await;
        assert!(began.elapsed() < PART_TAKEN_MAX, "nobody was before it");
        let next = ask(&state, &[], &[]).await;
        assert!(began.elapsed() >= PART_TAKEN_MAX, "both had a turn at once");
        assert!(body(next).await.unwrap().ends_with(b"\n"));
        assert!(body(unread).await.is_err(), "it looks complete");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_reads_little_by_little_loses_its_turn() {
        let state = state(20 * MANY);
        let mut slow = Box::pin(ask(&state, &[], &[]).await.into_body());
        let began = Instant::now();
        let mut parts = 0;
        let ended = loop {
            let part = std::future::poll_fn(|context| slow.as_mut().poll_frame(context)).await;
            match part {
                Some(Ok(_)) => parts += 1,
                ended => break ended,
            }
            tokio::time::sleep(PART_TAKEN_MAX / 2).await;
        };
        assert!(ended.is_some_and(|ended| ended.is_err()), "it looks complete");
        let took = began.elapsed();
        assert!(parts > 5 && took <= EXPOSITION_MAX + PART_TAKEN_MAX, "{parts} parts in {took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_goes_away_makes_room_at_once() {
        let state = state(MANY);
        let began = Instant::now();
        drop(ask(&state, &[], &[]).await);
        let next = ask(&state, &[], &[]).await;
        assert!(body(next).await.is_ok());
        assert!(began.elapsed() < PART_TAKEN_MAX, "it waited for somebody who is gone");
    }
}
