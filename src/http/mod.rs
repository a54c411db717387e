//! The HTTP control plane: requests in, pages made from a snapshot out. It runs on the control
//! plane's runtime and never touches a measuring thread: a scrape copies what the series hold.

use std::convert::Infallible;
use std::future::Future;
use std::io::ErrorKind;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::extract::State;
use axum::http::header::{ACCEPT, CONTENT_TYPE};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use hyper::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{sleep, timeout};

use crate::host::ProcessUsage;
use crate::metrics;
use crate::stats::Stats;

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

/// Serves until `shutdown` completes. Then the listener closes at once, idle connections too, and
/// requests under way get [`SHUTDOWN_GRACE`] to finish.
///
/// A failed accept (descriptors ran out) is logged and tried again after a pause.
pub async fn serve(listener: TcpListener, state: HttpState, shutdown: impl Future<Output = ()>) {
    serve_within(Limits::default(), listener, state, shutdown).await;
}

/// The routes.
pub fn router(state: HttpState) -> Router {
    Router::new()
        .route("/", get(landing))
        .route("/metrics", get(exposition))
        .route("/-/healthy", get(async || "rttscope is healthy.\n"))
        .route("/-/ready", get(readiness))
        .with_state(state)
}

/// How long requests under way may take once the program stops.
pub const SHUTDOWN_GRACE: Duration = Duration::from_millis(250);

async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    state: HttpState,
    shutdown: impl Future<Output = ()>,
) {
    let stats = Arc::clone(&state.stats);
    let routes = router(state);
    let closing = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    let mut shutdown = pin!(shutdown);
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() < limits.connections_max => {
                    connections.spawn(answer(limits, stream, routes.clone(), closing.subscribe()));
                }
                Ok(_) => stats.count_http_connection_refused(),
                // The client gave up before we came to it.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    closing.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_GRACE, drained).await.is_err() {
        connections.shutdown().await;
    }
}

/// Answers the requests of one connection until either side closes it. It is also closed, between
/// two requests, when it is old: a client that never reads its response does not stay for ever.
async fn answer(
    limits: Limits,
    stream: TcpStream,
    routes: Router,
    mut closing: watch::Receiver<bool>,
) {
    // Without the option only latency is lost.
    let _ = stream.set_nodelay(true);
    let asked = Arc::new(AtomicBool::new(false));
    let asks = Arc::clone(&asked);
    let routes = TowerToHyperService::new(routes);
    let routes = service_fn(move |request: Request<Incoming>| {
        asks.store(true, Ordering::Relaxed);
        routes.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_read_timeout)
        .max_buf_size(limits.buffer_bytes_max)
        .serve_connection(TokioIo::new(stream), routes);
    let mut connection = pin!(connection);
    tokio::select! {
        // An error here is the client's doing and concerns nobody else.
        _ = connection.as_mut() => return,
        _ = closing.wait_for(|closing| *closing) => {}
        () = silent(limits.first_request_max, &asked) => return,
        () = sleep(limits.age_max) => {}
    }
    connection.as_mut().graceful_shutdown();
    let _ = timeout(limits.response_max, connection).await;
}

/// Completes if nothing was asked for in the first `limit`.
async fn silent(limit: Duration, asked: &AtomicBool) {
    sleep(limit).await;
    if asked.load(Ordering::Relaxed) {
        std::future::pending::<()>().await;
    }
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

async fn exposition(State(state): State<HttpState>, headers: HeaderMap) -> Response {
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

/// What a client may take from us.
#[derive(Clone, Copy, Debug)]
struct Limits {
    /// Connections beyond this many are closed at once and counted.
    connections_max: usize,
    /// How long a new connection may take for its first whole header. Connections that ask for
    /// nothing must not lock a scraper out for long.
    first_request_max: Duration,
    /// How long each later header may take, waiting for its first byte included. Longer than the
    /// usual scrape interval of a minute, so that scrapers keep their connection.
    header_read_timeout: Duration,
    /// Bytes of a request's header.
    buffer_bytes_max: usize,
    /// Age at which a connection is closed once it is idle.
    age_max: Duration,
    /// How long an old connection may take for its last response.
    response_max: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 256,
            first_request_max: Duration::from_secs(10),
            header_read_timeout: Duration::from_secs(70),
            buffer_bytes_max: 16 * 1_024,
            age_max: Duration::from_secs(600),
            response_max: Duration::from_secs(60),
        }
    }
}

/// Bytes of a body that are written at once.
const PART_BYTES: usize = 64 * 1_024;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Between two accepts while they fail: descriptors do not come back within microseconds.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use crate::stats::ProbeSeries;
    use crate::stats::slo::Objectives;

    use super::*;

    /// A server on a free port. Every wait in these tests ends: far beyond what any of them needs,
    /// and far below the timeouts of an untouched connection.
    struct Server {
        address: SocketAddr,
        stats: Arc<Stats>,
        ready: Arc<AtomicBool>,
        shutdown: oneshot::Sender<()>,
        serving: JoinHandle<()>,
    }

    const SOON: Duration = Duration::from_secs(30);

    async fn start(limits: Limits, targets: usize) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let stats = Arc::new(Stats::default());
        let objectives = Arc::new(Objectives::new(Vec::new()));
        for target in 0..targets {
            let name = format!("target-{target}");
            stats.add_probe(ProbeSeries::new(name, "a:1", Vec::new(), Arc::clone(&objectives)));
        }
        let ready = Arc::new(AtomicBool::new(false));
        let usage = || ProcessUsage { open_fds: Some(77), ..ProcessUsage::default() };
        let state = HttpState::new(Arc::clone(&stats), Arc::clone(&ready), usage);
        let (shutdown, told) = oneshot::channel();
        let serving = tokio::spawn(async move {
            serve_within(limits, listener, state, async { told.await.unwrap() }).await;
        });
        Server { address, stats, ready, shutdown, serving }
    }

    impl Server {
        async fn connect(&self) -> TcpStream {
            TcpStream::connect(self.address).await.unwrap()
        }

        /// The whole response to one request on a connection of its own.
        async fn response(&self, path: &str, headers: &str) -> String {
            let mut client = self.connect().await;
            let request =
                format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n");
            client.write_all(request.as_bytes()).await.unwrap();
            let mut response = String::new();
            timeout(SOON, client.read_to_string(&mut response)).await.unwrap().unwrap();
            response
        }

        async fn stop(self) {
            self.shutdown.send(()).unwrap();
            timeout(SOON, self.serving).await.unwrap().unwrap();
        }
    }

    /// A connection on which one request was answered and no further one comes.
    async fn idle(server: &Server) -> TcpStream {
        let mut client = server.connect().await;
        client.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        timeout(SOON, client.read_exact(&mut first)).await.unwrap().unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        client
    }

    #[tokio::test]
    async fn each_route_answers() {
        let server = start(Limits::default(), 1).await;
        let check = async |path: &str, headers: &str, status: &str, parts: &[&str]| {
            let response = server.response(path, headers).await;
            assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{path}: {response}");
            for part in parts {
                assert!(response.contains(part), "{path}: no {part} in {response}");
            }
        };
        check("/", "", "200", &["text/html", "href=\"/metrics\"", env!("CARGO_PKG_VERSION")]).await;
        check("/-/healthy", "", "200", &["healthy"]).await;
        check("/-/ready", "", "503", &["starting"]).await;
        server.ready.store(true, Ordering::Release);
        check("/-/ready", "", "200", &["is ready"]).await;
        check("/nothing", "", "404", &[]).await;
        let series = "tcp_echo_sent_total{target=\"target-0\",address=\"a:1\"} 0\n";
        let text = ["content-type: text/plain; version=0.0.4; charset=utf-8\r\n", series];
        check("/metrics", "", "200", &text).await;
        check("/metrics", "Accept: text/plain;version=0.0.4\r\n", "200", &text).await;
        check("/metrics", "", "200", &["# TYPE tcp_echo_sent_total counter\n"]).await;
        check("/metrics", "", "200", &["\nprocess_open_fds 77\n"]).await;
        let open = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        let open = [&*format!("content-type: {open}\r\n"), series, "\n# EOF\n"];
        // As Prometheus asks, and as a client with two headers may.
        let asked = "Accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
        check("/metrics", asked, "200", &open).await;
        let asked = format!("Accept: text/html\r\n{asked}");
        check("/metrics", &asked, "200", &open).await;
        check("/metrics", &asked, "200", &["# TYPE tcp_echo_sent counter\n"]).await;
        server.stop().await;
    }

    #[tokio::test]
    async fn idle_connections_do_not_hold_up_the_shutdown() {
        let server = start(Limits::default(), 0).await;
        let mut clients = [server.connect().await, idle(&server).await];
        server.stop().await;
        for client in &mut clients {
            let ended = timeout(SOON, client.read_to_end(&mut Vec::new())).await;
            assert!(ended.is_ok(), "the connection is still open");
        }
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_does_not_hold_up_the_shutdown() {
        // 2,000 targets make a body far larger than the socket buffers of an unread connection.
        let server = start(Limits::default(), 2_000).await;
        let mut client = server.connect().await;
        client.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        let mut first = [0; 12];
        timeout(SOON, client.read_exact(&mut first)).await.unwrap().unwrap();
        server.stop().await;
        let mut rest = Vec::new();
        let _ = timeout(SOON, client.read_to_end(&mut rest)).await.unwrap();
        assert!(!rest.ends_with(b"\r\n0\r\n\r\n"), "the body fitted into the buffers");
    }

    #[tokio::test]
    async fn connections_beyond_the_limit_are_closed_and_counted() {
        let server = start(Limits { connections_max: 2, ..Limits::default() }, 0).await;
        let kept = [idle(&server).await, idle(&server).await];
        let mut refused = server.connect().await;
        let ended = timeout(SOON, refused.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "the third connection is open");
        assert_eq!(server.stats.snapshot().http_connections_refused, 1);
        // A place that becomes free is given away again.
        drop(kept);
        let mut answered = false;
        while !answered {
            let mut client = server.connect().await;
            // A refused connection may fail while we write.
            let _ = client.write_all(b"GET / HTTP/1.0\r\n\r\n").await;
            let mut response = Vec::new();
            let _ = timeout(SOON, client.read_to_end(&mut response)).await.unwrap();
            answered = response.starts_with(b"HTTP/1.0 200");
        }
        server.stop().await;
    }

    #[tokio::test]
    async fn slow_headers_and_old_connections_are_ended() {
        let short = Duration::from_millis(100);
        let slow = start(Limits { header_read_timeout: short, ..Limits::default() }, 0).await;
        let mut client = slow.connect().await;
        client.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        let ended = timeout(SOON, client.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "half a header keeps the connection");
        slow.stop().await;
        let old = start(Limits { age_max: short, ..Limits::default() }, 0).await;
        let mut client = idle(&old).await;
        let ended = timeout(SOON, client.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "an old idle connection stays");
        old.stop().await;
    }

    #[tokio::test]
    async fn a_connection_without_a_first_request_is_ended_and_an_idle_one_is_kept() {
        let short = Duration::from_millis(300);
        let server = start(Limits { first_request_max: short, ..Limits::default() }, 0).await;
        let mut asking = idle(&server).await;
        let mut silent = server.connect().await;
        let mut slow = server.connect().await;
        slow.write_all(b"GET / HTTP/1.1\r\nHost:").await.unwrap();
        for client in [&mut silent, &mut slow] {
            let ended = timeout(SOON, client.read_to_end(&mut Vec::new())).await;
            assert!(ended.is_ok(), "a connection that asks for nothing stays");
        }
        // Older than both of them, and still there.
        let request = b"GET /-/healthy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
        asking.write_all(request).await.unwrap();
        let mut rest = String::new();
        timeout(SOON, asking.read_to_string(&mut rest)).await.unwrap().unwrap();
        assert!(rest.contains("HTTP/1.1 200"), "{rest}");
        server.stop().await;
    }

    #[tokio::test]
    async fn an_oversized_header_is_refused() {
        let server = start(Limits::default(), 0).await;
        let headers = format!("X: {}\r\n", "a".repeat(64 * 1_024));
        let mut client = server.connect().await;
        let _ = client.write_all(format!("GET / HTTP/1.1\r\n{headers}\r\n").as_bytes()).await;
        let mut response = Vec::new();
        let _ = timeout(SOON, client.read_to_end(&mut response)).await.unwrap();
        assert!(!response.starts_with(b"HTTP/1.1 200"));
        server.stop().await;
    }
}
