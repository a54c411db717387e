//! The server as a client meets it.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::http::header::CONTENT_TYPE;
use hyper::body::Frame;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::stats::ProbeSeries;
use crate::stats::slo::Objectives;

use super::server::{Limits, Site, serve_site};
use super::*;

use self::certificates::{Authority, Identity};

/// The certificates of the integration tests: those run on Linux only.
#[path = "../../tests/it/certificates.rs"]
mod certificates;

/// A server on a free port. Every wait in these tests ends: far beyond what any of them needs,
/// and far below the timeouts of an untouched connection.
struct Server {
    address: SocketAddr,
    second_address: SocketAddr,
    stats: Arc<Stats>,
    ready: Arc<AtomicBool>,
    shutdown: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

const SOON: Duration = Duration::from_secs(30);
const UNREAD_TARGETS: usize = 8_000;

async fn start(limits: Limits, targets: usize) -> Server {
    start_guarded(limits, targets, &[]).await
}

/// The same, with the web configuration file in the folder of these files.
async fn start_guarded(limits: Limits, targets: usize, files: &[(&str, &str)]) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let second = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, second_address) = (listener.local_addr().unwrap(), second.local_addr().unwrap());
    let stats = Arc::new(Stats::default());
    let objectives = Arc::new(Objectives::new(Vec::new()));
    for target in 0..targets {
        let name = format!("target-{target}");
        stats.add_probe(ProbeSeries::new(name, "a:1", Vec::new(), Arc::clone(&objectives)));
    }
    let ready = Arc::new(AtomicBool::new(false));
    let usage = || ProcessUsage { open_fds: Some(77), ..ProcessUsage::default() };
    let state = HttpState::new(Arc::clone(&stats), Arc::clone(&ready), usage, Wall::default);
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in files {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let guard = match files {
        [] => Guard::open(),
        _ => Guard::from_file(&folder.path().join("web.yml"), &stats, || 0).unwrap(),
    };
    let counting = Arc::clone(&stats);
    let (shutdown, told) = oneshot::channel();
    let serving = tokio::spawn(async move {
        let told = async { told.await.unwrap() };
        let site = Site { limits, routes: router(state), guard: Arc::new(guard) };
        serve_site(site, vec![listener, second], &counting, told).await;
        drop(folder);
    });
    Server { address, second_address, stats, ready, shutdown, serving }
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
    let page = ["text/html", "content-security-policy: default-src 'self'", "href=\"metrics\""];
    check("/", "", "200", &page).await;
    check("/assets/page.css", "", "200", &["text/css", "nosniff", "--accent"]).await;
    check("/assets/page.js", "", "200", &["text/javascript", "EventSource"]).await;
    check("/assets/charts.js", "", "200", &["text/javascript", "drawHeat"]).await;
    check("/assets/icon.svg", "", "200", &["image/svg+xml", "<svg"]).await;
    check("/assets/../../Cargo.toml", "", "404", &[]).await;
    check("/api/v1/targets", "", "200", &["application/json", "\"target\":\"target-0\""]).await;
    check("/api/v1/status", "", "200", &["\"ready\":false", "\"open_fds\":77"]).await;
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
    check("/metrics?name[]=process_open_fds&x=%zz&%ff", "", "200", &["\nprocess_open_fds 77\n"])
        .await;
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
    // These make a body far larger than the socket buffers of an unread connection.
    let server = start(Limits::default(), UNREAD_TARGETS).await;
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
async fn beyond_the_limit_the_longest_silent_gives_way_and_is_counted() {
    let server = start(Limits { connections_max: 2, ..Limits::default() }, 0).await;
    // One limit for all listeners. The first has asked; the second has not, for longer.
    let mut silent = TcpStream::connect(server.second_address).await.unwrap();
    let mut asked = idle(&server).await;
    let mut newest = idle(&server).await;
    let ended = timeout(SOON, silent.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "who asked for nothing stays");
    assert_eq!(server.stats.snapshot().http_connections_refused, 1);
    // Then whoever asked longer ago.
    let _one_more = idle(&server).await;
    let ended = timeout(SOON, asked.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "who asked long ago stays");
    assert_eq!(server.stats.snapshot().http_connections_refused, 2);
    let request = b"GET /-/healthy HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    newest.write_all(request).await.unwrap();
    let mut rest = String::new();
    timeout(SOON, newest.read_to_string(&mut rest)).await.unwrap().unwrap();
    assert!(rest.contains("HTTP/1.1 200"), "{rest}");
    server.stop().await;
}

#[tokio::test]
async fn who_is_answered_keeps_the_place() {
    // 2,000 targets make a body far larger than the socket buffers of an unread connection.
    let server = start(Limits { connections_max: 1, ..Limits::default() }, 2_000).await;
    let mut reading = server.connect().await;
    reading.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    timeout(SOON, reading.read_exact(&mut first)).await.unwrap().unwrap();
    let newcomer = idle(&server).await;
    let mut rest = Vec::new();
    timeout(SOON, reading.read_to_end(&mut rest)).await.unwrap().unwrap();
    assert!(rest.ends_with(b"\n"), "the response was cut");
    drop(newcomer);
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
async fn both_listeners_answer() {
    let server = start(Limits::default(), 0).await;
    for address in [server.address, server.second_address, server.address] {
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(b"GET /-/healthy HTTP/1.0\r\n\r\n").await.unwrap();
        let mut response = String::new();
        timeout(SOON, client.read_to_string(&mut response)).await.unwrap().unwrap();
        assert!(response.starts_with("HTTP/1.0 200 "), "{response}");
    }
    server.stop().await;
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

/// A body that never ends: an event each 10 ms.
struct Events(tokio::time::Interval);

impl HttpBody for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let event = Bytes::from_static(b"data: 1\n\n");
        self.0.poll_tick(context).map(|_| Some(Ok(Frame::data(event))))
    }
}

#[tokio::test]
async fn a_stream_of_events_outlives_every_limit_but_not_the_server() {
    let short = Duration::from_millis(50);
    let limits = Limits { age_max: short, response_max: short, ..Limits::default() };
    let events = |kind: &'static str| {
        let events = Events(interval(Duration::from_millis(10)));
        ([(CONTENT_TYPE, kind)], Body::new(events))
    };
    let routes = Router::new()
        .route("/events", get(async move || events("text/event-stream; charset=utf-8")))
        .route("/endless", get(async move || events("text/plain")));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (shutdown, told) = oneshot::channel();
    let serving = tokio::spawn(async move {
        let site = Site { limits, routes, guard: Arc::new(Guard::open()) };
        let told = async { told.await.unwrap() };
        serve_site(site, vec![listener], &Stats::default(), told).await;
    });
    let ask = async |path: &str| {
        let mut client = TcpStream::connect(address).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        client
    };
    let mut stream = ask("/events").await;
    // Another response of that length is ended.
    let mut other = Vec::new();
    let mut endless = ask("/endless").await;
    let _ = timeout(SOON, endless.read_to_end(&mut other)).await.unwrap();
    assert!(other.starts_with(b"HTTP/1.1 200"));
    // Four times as long as everything else may take.
    let mut events = [0; 40 * 14];
    timeout(SOON, stream.read_exact(&mut events)).await.unwrap().unwrap();
    shutdown.send(()).unwrap();
    let ended = timeout(SOON, stream.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "the stream goes on");
    timeout(SOON, serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_ended_and_counted() {
    let authority = Authority::new("ours");
    let Identity { certificate_pem, key_pem, .. } = authority.issue(&["localhost"]);
    let text = "tls_server_config: {cert_file: cert.pem, key_file: key.pem, client_ca_file: \
                ca.pem, client_auth_type: RequireAndVerifyClientCert}";
    let files = [
        ("web.yml", text),
        ("cert.pem", &certificate_pem),
        ("key.pem", &key_pem),
        ("ca.pem", &authority.pem),
    ];
    let short = Duration::from_millis(300);
    let limits = Limits { first_request_max: short, ..Limits::default() };
    let server = start_guarded(limits, 0, &files).await;
    let mut silent = server.connect().await;
    let mut half = server.connect().await;
    half.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    let mut shaken = shake_hands(&server, &authority).await;
    for client in [&mut silent, &mut half] {
        let ended = timeout(SOON, client.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "a handshake keeps the connection");
    }
    // The time of the handshake counts for the first request too.
    let ended = timeout(SOON, shaken.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "a connection that asks for nothing stays");
    let mut asking = shake_hands(&server, &authority).await;
    asking.write_all(b"GET /-/healthy HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
    let mut first = [0; 12];
    timeout(SOON, asking.read_exact(&mut first)).await.unwrap().unwrap();
    assert_eq!(&first, b"HTTP/1.1 200");
    assert_eq!(server.stats.snapshot().web.unwrap().handshakes_failed, 2);
    // Neither an idle connection nor half a handshake holds up the end.
    let _half = half_open(&server).await;
    server.stop().await;
}

/// A connection whose handshake has begun.
async fn half_open(server: &Server) -> TcpStream {
    let mut client = server.connect().await;
    client.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    client
}

/// A connection whose handshake is done, client's certificate included.
async fn shake_hands(
    server: &Server,
    authority: &Authority,
) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(authority.certificate.clone()).unwrap();
    let identity = authority.issue(&["client"]);
    let provider = Arc::new(rustls_graviola::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![identity.certificate], identity.key)
        .unwrap();
    let name = rustls::pki_types::ServerName::try_from("localhost").unwrap();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let connecting = connector.connect(name, server.connect().await);
    timeout(SOON, connecting).await.unwrap().unwrap()
}

/// The page brings nothing from elsewhere, and holds nothing that its own policy forbids.
#[test]
fn the_page_is_self_contained() {
    let html = include_str!("assets/page.html");
    let files = [
        html,
        include_str!("assets/page.css"),
        include_str!("assets/page.js"),
        include_str!("assets/charts.js"),
    ];
    for file in files {
        assert!(!file.contains("https://") && !file.contains("http://"), "an address elsewhere");
        assert!(!file.contains("innerHTML") && !file.contains("eval("), "text that may be run");
    }
    assert!(!html.contains("<style") && !html.contains(" style="));
    let mut words = html.split_whitespace();
    assert!(!words.any(|word| word.starts_with("on") && word.contains('=')), "a handler");
    assert!(
        html.matches("<script").count() == html.matches("<script type=\"module\" src=").count()
    );
}

#[tokio::test]
async fn listeners_to_events_are_limited_and_end_with_the_server() {
    let server = start(Limits::default(), 3).await;
    let mut clients = Vec::new();
    for _ in 0..32 {
        let mut client = server.connect().await;
        client.write_all(b"GET /api/v1/events HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
        // Until the first event: a server that ends owes it to nobody.
        let mut first = Vec::new();
        while !first.ends_with(b"\n\n") {
            first.push(timeout(SOON, client.read_u8()).await.unwrap().unwrap());
        }
        let text = String::from_utf8(first).unwrap();
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert!(text.contains("event: targets\n") && text.contains("target-2"), "{text}");
        clients.push(client);
    }
    let refused = server.response("/api/v1/events", "").await;
    assert!(refused.starts_with("HTTP/1.1 503 "), "{refused}");
    let status = server.response("/api/v1/status", "").await;
    let usage = "\"events\":{\"clients\":32,\"clients_max\":32,\"refused\":1,\"missed\":0}";
    assert!(status.contains(usage), "{status}");
    server.stop().await;
    for mut client in clients {
        timeout(SOON, client.read_to_end(&mut Vec::new())).await.unwrap().unwrap();
    }
}
