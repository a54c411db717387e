//! Connections of the HTTP server: a listener in, requests to the routes out. What a client may
//! take of us is limited here: connections, time and the bytes of a header.

use std::future::Future;
use std::io::ErrorKind;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::{HttpState, router};

/// What a client may take from us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections beyond this many are closed at once and counted.
    pub(super) connections_max: usize,
    /// How long a new connection may take for its first whole header. Connections that ask for
    /// nothing must not lock a scraper out for long.
    pub(super) first_request_max: Duration,
    /// How long each later header may take, waiting for its first byte included. Longer than the
    /// usual scrape interval of a minute, so that scrapers keep their connection.
    pub(super) header_read_timeout: Duration,
    /// Bytes of a request's header.
    pub(super) buffer_bytes_max: usize,
    /// Age at which a connection is closed once it is idle.
    pub(super) age_max: Duration,
    /// How long an old connection may take for its last response.
    pub(super) response_max: Duration,
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

/// Serves until `shutdown` completes. Then the listener closes at once, idle connections too, and
/// requests under way get [`SHUTDOWN_GRACE`] to finish.
///
/// A failed accept (descriptors ran out) is logged and tried again after a pause.
pub async fn serve(listener: TcpListener, state: HttpState, shutdown: impl Future<Output = ()>) {
    serve_within(Limits::default(), listener, state, shutdown).await;
}

/// How long requests under way may take once the program stops.
pub const SHUTDOWN_GRACE: Duration = Duration::from_millis(250);

pub(super) async fn serve_within(
    limits: Limits,
    listener: TcpListener,
    state: HttpState,
    shutdown: impl Future<Output = ()>,
) {
    let stats = Arc::clone(&state.stats);
    let events = Arc::clone(&state.events);
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
    events.close();
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

/// Between two accepts while they fail: descriptors do not come back within microseconds.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
