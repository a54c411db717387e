//! `/api/v1/events`: what changed, once a second, as server-sent events. A client that reads too
//! slowly loses messages, each of which says how many were lost before it; one that does not read
//! at all loses its place. Streams end when the program stops.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};
use hyper::body::Frame;
use serde::Serialize;
use tokio::sync::mpsc::{self, error::TrySendError};
use tokio::time::{MissedTickBehavior, interval};

use super::HttpState;
use super::api::{self, Complaint, Page, Question};
use super::view::{Failure, Probe, Row};
use crate::stats::Stats;
use crate::stats::history::History;
use crate::stats::watched::Watched;

/// Everybody who listens.
#[derive(Debug)]
pub(super) struct Listeners {
    clients: AtomicUsize,
    refused: AtomicU64,
    missed: AtomicU64,
}

/// What they take of us.
#[derive(Debug, Serialize)]
pub(super) struct Usage {
    clients: usize,
    clients_max: usize,
    /// Turned away: there were too many.
    refused: u64,
    /// Messages that slow clients never got.
    missed: u64,
}

/// A client's place; free again when this is gone.
struct Seat(Arc<Listeners>);

/// What one client is told.
enum Topic {
    List(Question, Vec<Row>),
    Target {
        watched: Watched,
        /// Probes told so far.
        seen: u64,
    },
}

/// What changed in a list.
#[derive(Serialize)]
struct ListEvent<'a> {
    missed: u64,
    /// Every target of the list, in order.
    ids: Vec<&'a str>,
    /// The list; its targets are those that changed.
    #[serde(flatten)]
    page: &'a Page,
}

/// What happened to one target.
#[derive(Serialize)]
struct TargetEvent {
    time_ns: u64,
    turns: u64,
    missed: u64,
    target: Row,
    failures: Vec<Failure>,
    probes_seen: u64,
    probes: Vec<Probe>,
}

impl Default for Listeners {
    fn default() -> Self {
        Self { clients: AtomicUsize::new(0), refused: AtomicU64::new(0), missed: AtomicU64::new(0) }
    }
}

impl Listeners {
    pub(super) fn usage(&self) -> Usage {
        Usage {
            clients: self.clients.load(Ordering::Relaxed),
            clients_max: CLIENTS_MAX,
            refused: self.refused.load(Ordering::Relaxed),
            missed: self.missed.load(Ordering::Relaxed),
        }
    }

    fn seat(self: &Arc<Self>) -> Option<Seat> {
        let taken = self.clients.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |clients| {
            (clients < CLIENTS_MAX).then_some(clients + 1)
        });
        if taken.is_err() {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(Seat(Arc::clone(self)))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.clients.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Answers `/api/v1/events`.
pub(super) async fn events(
    State(state): State<HttpState>,
    question: Result<Query<Question>, QueryRejection>,
) -> Result<Response, Complaint> {
    let question = Question::checked(question)?;
    let topic = match &question.target {
        Some(id) => {
            let watched = api::find(&state.stats, id)?;
            // What came before is asked for by another request.
            let seen = watched.history().map_or(0, History::seen);
            Topic::Target { watched, seen }
        }
        None => Topic::List(question, Vec::new()),
    };
    let Some(seat) = state.events.seat() else {
        return Err(Complaint::busy("too many clients listen to events; try again later"));
    };
    let (sender, receiver) = mpsc::channel(MESSAGES_MAX);
    tokio::spawn(tell(state, topic, seat, sender));
    let headers = [
        (CONTENT_TYPE.as_str(), "text/event-stream"),
        (CACHE_CONTROL.as_str(), "no-store"),
        // A reverse proxy must not collect messages.
        ("x-accel-buffering", "no"),
    ];
    Ok((headers, Body::new(Messages(receiver))).into_response())
}

/// Sends a message a second to one client until it leaves, or has had its time: it comes back by
/// itself then.
async fn tell(state: HttpState, mut topic: Topic, seat: Seat, sender: mpsc::Sender<Bytes>) {
    let mut ticks = interval(PERIOD);
    // Whoever is late is told the newest, not everything.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let (mut missed, mut stalled) = (0, 0);
    for _ in 0..MESSAGES_OF_A_STREAM {
        tokio::select! {
            () = sender.closed() => return,
            _ = ticks.tick() => {}
        }
        match sender.try_reserve() {
            Ok(place) => {
                place.send(topic.message(&state.stats, state.now_ns(), missed));
                stalled = 0;
            }
            Err(TrySendError::Full(())) => {
                missed += 1;
                stalled += 1;
                seat.0.missed.fetch_add(1, Ordering::Relaxed);
                if stalled >= STALLED_MAX {
                    return;
                }
            }
            Err(TrySendError::Closed(())) => return,
        }
    }
}

impl Topic {
    fn message(&mut self, stats: &Stats, time_ns: u64, missed: u64) -> Bytes {
        match self {
            Self::List(question, told) => {
                let mut page = question.page(stats, time_ns);
                let rows = std::mem::take(&mut page.targets);
                let (mut changed, mut kept) = (Vec::new(), Vec::new());
                for (at, row) in rows.into_iter().enumerate() {
                    let same = told.iter().any(|told| told == &row);
                    if same { kept.push((at, row)) } else { changed.push((at, row)) }
                }
                let mut ids: Vec<(usize, String)> = Vec::new();
                for (at, row) in changed.iter().chain(&kept) {
                    ids.push((*at, row.id().to_owned()));
                }
                ids.sort_unstable();
                page.targets = changed.into_iter().map(|(_, row)| row).collect();
                let ids = ids.iter().map(|(_, id)| id.as_str()).collect();
                let text = text("targets", &ListEvent { missed, ids, page: &page });
                *told = page.targets;
                told.extend(kept.into_iter().map(|(_, row)| row));
                text
            }
            Self::Target { watched, seen } => {
                let history = watched.history();
                let (records, now) = history.map_or((Vec::new(), 0), |it| it.since(*seen));
                *seen = now;
                let event = TargetEvent {
                    time_ns,
                    turns: stats.heat_map_turns(),
                    missed,
                    target: Row::new(watched, false),
                    failures: Failure::all(history),
                    probes_seen: now,
                    probes: records.iter().map(Probe::new).collect(),
                };
                text("target", &event)
            }
        }
    }
}

/// A message as the HTML standard wants it. JSON has no line ends of its own.
fn text(event: &str, data: &impl Serialize) -> Bytes {
    // Plain data: nothing in it can fail to be written.
    let data = serde_json::to_string(data).unwrap_or_default();
    format!("event: {event}\nretry: {RETRY_MS}\ndata: {data}\n\n").into()
}

/// Messages on their way to a client.
struct Messages(mpsc::Receiver<Bytes>);

impl HttpBody for Messages {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|message| message.map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// Clients at once. Beyond it they are told to come back later.
const CLIENTS_MAX: usize = 32;
/// Messages that wait for a slow client.
const MESSAGES_MAX: usize = 2;
/// Messages in a row that a client may miss before it loses its place.
const STALLED_MAX: u32 = 30;
/// A stream ends then, in good order, before the server closes the old connection.
const MESSAGES_OF_A_STREAM: u32 = 500;
const PERIOD: Duration = Duration::from_secs(1);
/// After how long a client comes back.
const RETRY_MS: u32 = 1_000;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::sync::atomic::AtomicBool;

    use super::*;
    use crate::host::ProcessUsage;
    use crate::time::Wall;

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_misses_messages_and_then_loses_its_place() {
        let ready = Arc::new(AtomicBool::new(true));
        let state = HttpState::new(Arc::default(), ready, ProcessUsage::default, Wall::default);
        let listeners = Arc::clone(&state.events);
        let (sender, mut receiver) = mpsc::channel(MESSAGES_MAX);
        let seat = listeners.seat().unwrap();
        let topic = Topic::List(Question::default(), Vec::new());
        let telling = tokio::spawn(tell(state, topic, seat, sender));
        tokio::time::sleep(Duration::from_millis(9_500)).await;
        let usage = listeners.usage();
        assert_eq!((usage.clients, usage.missed), (1, 8), "two of ten messages wait");
        assert!(receiver.recv().await.is_some());
        tokio::time::sleep(PERIOD).await;
        receiver.recv().await.unwrap();
        let late = receiver.recv().await.unwrap();
        assert!(String::from_utf8_lossy(&late).contains("\"missed\":8"), "{late:?}");
        // From now on nobody reads.
        tokio::time::timeout(Duration::from_secs(60), telling).await.unwrap().unwrap();
        let usage = listeners.usage();
        assert_eq!((usage.clients, usage.missed), (0, 8 + u64::from(STALLED_MAX)));
        assert_eq!(receiver.len(), MESSAGES_MAX, "what waits is bounded");
    }
}
