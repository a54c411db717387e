//! What is told of the relay beside its metrics: its clients as JSON, and the two documents of
//! Monkey D. TCP, the relay that this one replaces, under the names that its readers know.

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use super::{HttpState, api};
use crate::sample::ClientCounters;
use crate::stats::{ClientSnapshot, RelaySnapshot, Stats};

/// The clients of all listeners.
#[derive(Debug, Serialize)]
struct Clients {
    time_ns: u64,
    listeners: Vec<Listener>,
}

#[derive(Debug, Serialize)]
struct Listener {
    listener: String,
    clients: Vec<Client>,
    /// Everybody else.
    others: Option<Counts>,
}

#[derive(Debug, Serialize)]
struct Client {
    client: String,
    #[serde(flatten)]
    counts: Counts,
    rtt_ns: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Counts {
    connections: u64,
    connections_active: u64,
    read_bytes: u64,
    written_bytes: u64,
}

/// One of the two old documents.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Document {
    Text,
    Json,
}

/// The numbers of the old documents. The text's names are in the JSON, too: there were two names
/// for the same value, and readers of either find theirs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
struct Totals {
    active_connections: u64,
    total_connections: u64,
    bytes_upstream: u64,
    bytes_downstream: u64,
    connections_active: u64,
    connections_total: u64,
}

/// Answers `/api/v1/relay/clients`.
pub(super) async fn clients(State(state): State<HttpState>) -> Response {
    let time_ns = state.now_ns();
    let made = tokio::task::spawn_blocking(move || Clients {
        time_ns,
        listeners: state.stats.relay_clients().into_iter().map(Listener::new).collect(),
    });
    api::answer(made.await)
}

impl Document {
    /// The one that a query of `/metrics` asks for, where there is a relay.
    pub(super) fn asked(query: &[(String, String)], stats: &Stats) -> Option<Self> {
        let (_, format) = query.iter().find(|(key, _)| key == "format")?;
        let document = match format.as_str() {
            "json" => Self::Json,
            "text" => Self::Text,
            _ => return None,
        };
        stats.has_relay().then_some(document)
    }

    /// The numbers of all listeners together.
    pub(super) fn answer(self, stats: &Stats) -> Response {
        let totals = Totals::new(&stats.relays());
        let (content_type, body) = match self {
            // Plain data: nothing in it can fail to be written.
            Self::Json => ("application/json", serde_json::to_string(&totals).unwrap_or_default()),
            Self::Text => ("text/plain; version=0.0.4; charset=utf-8", totals.text()),
        };
        ([(CONTENT_TYPE, content_type), (CACHE_CONTROL, "no-store")], body).into_response()
    }
}

impl Totals {
    fn new(relays: &[RelaySnapshot]) -> Self {
        let mut totals = Self::default();
        for relay in relays {
            totals.active_connections += relay.counters.connections_active;
            totals.total_connections += relay.counters.connections;
            for upstream in &relay.upstreams {
                totals.bytes_upstream += upstream.counters.upstream_written_bytes;
                totals.bytes_downstream += upstream.counters.client_written_bytes;
            }
        }
        totals.connections_active = totals.active_connections;
        totals.connections_total = totals.total_connections;
        totals
    }

    /// Four lines, of which each ends: what was missing for Prometheus to read them.
    fn text(&self) -> String {
        let Self {
            active_connections, total_connections, bytes_upstream, bytes_downstream, ..
        } = self;
        format!(
            "connections_active {active_connections}\nconnections_total {total_connections}\n\
             bytes_upstream {bytes_upstream}\nbytes_downstream {bytes_downstream}\n"
        )
    }
}

impl Listener {
    fn new((listener, clients): (String, Vec<ClientSnapshot>)) -> Self {
        let mut told = Self { listener, clients: Vec::with_capacity(clients.len()), others: None };
        for ClientSnapshot { client, counters } in clients {
            let counts = Counts::new(&counters);
            match client {
                Some(client) => told.clients.push(Client {
                    client: client.to_string(),
                    counts,
                    rtt_ns: Some(counters.rtt_ns).filter(|ns| *ns > 0),
                }),
                None => told.others = Some(counts),
            }
        }
        told
    }
}

impl Counts {
    const fn new(counters: &ClientCounters) -> Self {
        let ClientCounters { connections, connections_active, read_bytes, written_bytes, .. } =
            *counters;
        Self { connections, connections_active, read_bytes, written_bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{RelayCounters, UpstreamCounters, UpstreamId};
    use crate::stats::RelaySeries;

    fn stats() -> Stats {
        let stats = Stats::default();
        for listener in [":1", ":2"] {
            let series = stats.add_relay(RelaySeries::new(listener, ["u:1".to_owned()]));
            let counters =
                RelayCounters { connections: 7, connections_active: 2, ..Default::default() };
            series.publish(&counters);
            let counters = UpstreamCounters {
                client_read_bytes: 1,
                client_written_bytes: 20,
                upstream_read_bytes: 300,
                upstream_written_bytes: 4_000,
                ..Default::default()
            };
            series.publish_upstream(UpstreamId(0), &counters);
        }
        stats
    }

    #[test]
    fn the_old_documents_have_their_names_and_one_value_each() {
        let totals = Totals::new(&stats().relays());
        let text = "connections_active 4\nconnections_total 14\nbytes_upstream 8000\n\
                    bytes_downstream 40\n";
        assert_eq!(totals.text(), text);
        let json = serde_json::to_value(totals).unwrap_or_default();
        let expected = serde_json::json!({
            "active_connections": 4, "total_connections": 14,
            "bytes_upstream": 8_000, "bytes_downstream": 40,
            "connections_active": 4, "connections_total": 14,
        });
        assert_eq!(json, expected);
        for line in text.lines() {
            let (name, value) = line.split_once(' ').unwrap_or_default();
            assert_eq!(json[name].to_string(), value, "{name} means the same in both");
        }
    }

    #[test]
    fn only_a_relay_has_them() {
        let query = |format: &str| vec![("format".to_owned(), format.to_owned())];
        let stats = stats();
        assert_eq!(Document::asked(&query("json"), &stats), Some(Document::Json));
        assert_eq!(Document::asked(&query("text"), &stats), Some(Document::Text));
        assert_eq!(Document::asked(&query("xml"), &stats), None);
        assert_eq!(Document::asked(&[], &stats), None);
        assert_eq!(Document::asked(&query("json"), &Stats::default()), None);
    }
}
