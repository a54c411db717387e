//! Connections of the HTTP server: listeners in, requests to the routes out. What a client may
//! take of us is limited here: connections, time and the bytes of a header.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use axum::Router;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tower_service::Service;

use super::guard::Guard;
use super::seats::{Seat, Seats};
use super::{HttpState, router};
use crate::stats::Stats;

/// What a client may take from us.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Beyond this many connections, of all listeners, a new one takes the place of the one that
    /// has been silent for longest, or is closed at once; either is counted.
    pub(super) connections_max: usize,
    /// How long a new connection may take for its handshake and its first whole header.
    /// Connections that ask for nothing must not lock a scraper out for long.
    pub(super) first_request_max: Duration,
    /// How long each later header may take, waiting for its first byte included. Longer than the
    /// usual scrape interval of a minute, so that scrapers keep their connection.
    pub(super) header_read_timeout: Duration,
    /// Bytes of a request's header.
    pub(super) buffer_bytes_max: usize,
    /// Age at which a connection is closed once it is idle.
    pub(super) age_max: Duration,
    /// How long an old connection may take for its last response, unless that is a stream of
    /// events, which lasts until either side has enough.
    pub(super) response_max: Duration,
}

/// What every connection needs.
#[derive(Clone)]
pub(super) struct Site {
    /// What its client may take.
    pub(super) limits: Limits,
    /// What there is to ask for.
    pub(super) routes: Router,
    /// Who may.
    pub(super) guard: Arc<Guard>,
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

/// Serves until `shutdown` completes. Then the listeners close at once, idle connections and
/// streams of events too, and other requests under way get [`SHUTDOWN_GRACE`] to finish.
///
/// A failed accept (descriptors ran out) is logged and tried again after a pause.
pub async fn serve(
    listeners: Vec<TcpListener>,
    guard: Guard,
    state: HttpState,
    shutdown: impl Future<Output = ()>,
) {
    let stats = Arc::clone(&state.stats);
    let site = Site { limits: Limits::default(), routes: router(state), guard: Arc::new(guard) };
    serve_site(site, listeners, &stats, shutdown).await;
}

/// How long requests under way may take once the program stops.
pub const SHUTDOWN_GRACE: Duration = Duration::from_millis(250);

/// See [`serve`].
pub(super) async fn serve_site(
    site: Site,
    listeners: Vec<TcpListener>,
    stats: &Stats,
    shutdown: impl Future<Output = ()>,
) {
    let closing = watch::Sender::new(false);
    let mut connections = JoinSet::new();
    let mut seats = Seats::default();
    let mut shutdown = pin!(shutdown);
    let mut turn = 0;
    loop {
        tokio::select! {
            () = &mut shutdown => break,
            Some(_) = connections.join_next() => {}
            accepted = accept(&listeners, &mut turn) => match accepted {
                Ok(stream) => {
                    let most = site.limits.connections_max;
                    if connections.len() >= most {
                        stats.count_http_connection_refused();
                        // Somebody silent gives way, at once unless a response is under way.
                        let gives_way = seats.dismiss_one();
                        yield_now().await;
                        while connections.try_join_next().is_some() {}
                        if !gives_way || connections.len() >= most + LEAVING_MAX {
                            continue;
                        }
                    }
                    let seat = seats.take();
                    connections.spawn(site.clone().attend(stream, seat, closing.subscribe()));
                }
                // The client gave up before we came to it.
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
                Err(error) => {
                    tracing::warn!(%error, "cannot accept an HTTP connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listeners);
    closing.send_replace(true);
    let drained = async { while connections.join_next().await.is_some() {} };
    if timeout(SHUTDOWN_GRACE, drained).await.is_err() {
        connections.shutdown().await;
    }
}

/// The next connection of any listener. The one after `turn` is asked first, so that a flood at
/// one does not close the others.
async fn accept(listeners: &[TcpListener], turn: &mut usize) -> io::Result<TcpStream> {
    poll_fn(|context| {
        for step in 1..=listeners.len() {
            let index = (*turn + step) % listeners.len();
            if let Poll::Ready(accepted) = listeners[index].poll_accept(context) {
                *turn = index;
                return Poll::Ready(accepted.map(|(stream, _)| stream));
            }
        }
        Poll::Pending
    })
    .await
}

impl Site {
    /// Speaks with one client, by TLS if the guard says so.
    async fn attend(self, stream: TcpStream, seat: Arc<Seat>, mut closing: watch::Receiver<bool>) {
        // Without the option only latency is lost.
        let _ = stream.set_nodelay(true);
        let patience = pin!(sleep(self.limits.first_request_max));
        let Some(tls) = self.guard.tls() else {
            return self.converse(stream, seat, closing, patience).await;
        };
        let mut patience = patience;
        let handshake = tokio::select! {
            stream = shake_hands(tls, stream) => stream,
            _ = closing.wait_for(|closing| *closing) => return,
            () = seat.dismissed() => return,
            () = patience.as_mut() => None,
        };
        match handshake {
            Some(stream) => self.converse(stream, seat, closing, patience).await,
            None => self.guard.count_handshake_failed(),
        }
    }

    /// Answers the requests of one connection until either side closes it. It is also closed,
    /// between two requests, when it is old: a client that never reads its response does not stay
    /// for ever.
    async fn converse(
        self,
        stream: impl AsyncRead + AsyncWrite + Unpin,
        seat: Arc<Seat>,
        mut closing: watch::Receiver<bool>,
        patience: Pin<&mut Sleep>,
    ) {
        let limits = self.limits;
        let asking = Arc::clone(&seat);
        let service = service_fn(move |request: Request<Incoming>| {
            self.clone().respond(request, Arc::clone(&asking))
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.header_read_timeout)
            .max_buf_size(limits.buffer_bytes_max)
            .serve_connection(TokioIo::new(stream), service);
        let mut connection = pin!(connection);
        tokio::select! {
            // An error here is the client's doing and concerns nobody else.
            _ = connection.as_mut() => return,
            _ = closing.wait_for(|closing| *closing) => {}
            () = silent(patience, &seat) => return,
            () = seat.dismissed() => if !seat.asked() { return },
            () = sleep(limits.age_max) => {}
        }
        connection.as_mut().graceful_shutdown();
        while seat.streams() {
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = closing.wait_for(|closing| *closing) => return,
                () = sleep(limits.response_max) => {}
            }
        }
        let _ = timeout(limits.response_max, connection).await;
    }

    async fn respond(
        mut self,
        request: Request<Incoming>,
        seat: Arc<Seat>,
    ) -> Result<Response, Infallible> {
        seat.begin();
        let headers = request.headers().clone();
        let respond = async {
            let Ok(response) = self.routes.call(request).await;
            response.into_response()
        };
        let response = self.guard.answer(&headers, respond).await;
        let kind = response.headers().get(CONTENT_TYPE).map(|kind| kind.as_bytes());
        let streams = kind.is_some_and(|kind| kind.starts_with(EVENT_STREAM));
        seat.end(streams);
        Ok(response)
    }
}

/// TLS with a client that begins it; one that speaks plain HTTP is told so, in plain HTTP.
async fn shake_hands(
    tls: Arc<ServerConfig>,
    mut stream: TcpStream,
) -> Option<tokio_rustls::server::TlsStream<TcpStream>> {
    let mut first = [0];
    if stream.peek(&mut first).await.ok()? == 1 && first[0].is_ascii_uppercase() {
        // The client may be gone.
        let _ = stream.write_all(PLAIN_HTTP).await;
        let _ = stream.shutdown().await;
        // Closing with its request unread would be a reset, which takes our words back.
        let mut request = [0; 4 * 1_024];
        for _ in 0..PLAIN_READS_MAX {
            if stream.read(&mut request).await.ok()? == 0 {
                break;
            }
        }
        return None;
    }
    TlsAcceptor::from(tls).accept(stream).await.ok()
}

/// Completes if nothing was asked for until `patience` ended.
async fn silent(patience: Pin<&mut Sleep>, seat: &Seat) {
    patience.await;
    if seat.asked() {
        std::future::pending::<()>().await;
    }
}

/// Between two accepts while they fail: descriptors do not come back within microseconds.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Connections that were told to leave and still read their response.
const LEAVING_MAX: usize = 64;
/// Reads of a plain request that is not looked at.
const PLAIN_READS_MAX: usize = 4;
/// The content type of server-sent events.
const EVENT_STREAM: &[u8] = b"text/event-stream";
const PLAIN_HTTP: &[u8] = b"HTTP/1.0 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Connection: close\r\n\r\nThis server speaks HTTPS: write https:// instead of http://.\n";
