//! An axum server that exports what the kernel knows of its own connections: `cargo run --example
//! axum_tcp_info`, then `curl localhost:8080/` and `curl localhost:8080/metrics`.
//!
//! Cardinality: each label set is a set of series that Prometheus keeps for weeks, and there is no
//! end of clients' addresses. So a connection is labelled by the slot that it holds, of which there
//! are sixteen: a small and stable set of series. A connection beyond them is served, but not
//! exported; a slot's next connection begins its counters anew, as a restart does.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::Router;
use axum::routing::get;
use axum::serve::Listener;
use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use rttscope::collector::{AddError, CollectorOptions, Registration, TcpInfoCollector};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};

/// Connections that are exported at once.
const SLOTS: usize = 16;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let collector = TcpInfoCollector::new(CollectorOptions {
        labels: vec!["slot".to_owned()],
        connections_max: SLOTS,
        ..CollectorOptions::default()
    })?;
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collector.clone()));
    let registry = Arc::new(registry);
    let app = Router::new()
        .route("/", get(async || "hello\n"))
        .route("/metrics", get(async move || page(&registry)));
    let port = std::env::args().nth(1).map_or(Ok(8080), |port| port.parse())?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    axum::serve(Observed { listener, collector }, app).await?;
    Ok(())
}

/// The metrics page.
fn page(registry: &Registry) -> ([(&'static str, &'static str); 1], String) {
    let mut body = String::new();
    text::encode(&mut body, registry).expect("a string takes any text");
    ([("content-type", "application/openmetrics-text; version=1.0.0; charset=utf-8")], body)
}

/// A listener that registers each connection.
struct Observed {
    listener: TcpListener,
    collector: TcpInfoCollector,
}

/// A connection that is registered while it lives: the registration holds a descriptor of its own,
/// so that both are dropped together.
struct Connection {
    stream: TcpStream,
    _registration: Option<Registration>,
}

impl Listener for Observed {
    type Io = Connection;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Connection, SocketAddr) {
        // axum's own accept waits where the process has run out of descriptors.
        let (stream, from) = Listener::accept(&mut self.listener).await;
        let registration = register(&self.collector, &stream);
        (Connection { stream, _registration: registration }, from)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

/// In the first free slot, if there is one.
fn register(collector: &TcpInfoCollector, stream: &TcpStream) -> Option<Registration> {
    (0..SLOTS).find_map(|slot| match collector.add(stream, &[&slot.to_string()]) {
        Ok(registration) => Some(Some(registration)),
        // Somebody else's: the next one may be free.
        Err(AddError::Duplicate(_)) => None,
        Err(_) => Some(None),
    })?
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
