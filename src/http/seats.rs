//! Who may stay when all places are taken: what each connection does in, the one that gives way
//! to a new one out. So nobody who holds connections without asking locks a scraper out.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Notify;

/// The connections that there are.
#[derive(Debug, Default)]
pub(super) struct Seats {
    taken: Vec<Arc<Seat>>,
    /// Counts what connections do, which orders it.
    steps: Arc<AtomicU64>,
}

/// What is known of a connection, which holds it as long as it lives.
#[derive(Debug, Default)]
pub(super) struct Seat {
    steps: Arc<AtomicU64>,
    /// The step of the newest request, or of the beginning.
    newest: AtomicU64,
    asked: AtomicBool,
    answering: AtomicBool,
    streams: AtomicBool,
    dismissed: AtomicBool,
    leave: Notify,
}

impl Seats {
    /// A place for a new connection.
    pub(super) fn take(&mut self) -> Arc<Seat> {
        self.taken.retain(|seat| Arc::strong_count(seat) > 1);
        let seat = Arc::new(Seat { steps: Arc::clone(&self.steps), ..Seat::default() });
        seat.step();
        self.taken.push(Arc::clone(&seat));
        seat
    }

    /// Tells the connection to leave that has been silent for longest. False if all are answered
    /// or told already.
    pub(super) fn dismiss_one(&mut self) -> bool {
        self.taken.retain(|seat| Arc::strong_count(seat) > 1);
        let silent = self.taken.iter().filter(|seat| seat.is_silent());
        let Some(seat) = silent.min_by_key(|seat| seat.newest.load(Ordering::Relaxed)) else {
            return false;
        };
        seat.dismissed.store(true, Ordering::Relaxed);
        seat.leave.notify_one();
        true
    }
}

impl Seat {
    /// A request has come.
    pub(super) fn begin(&self) {
        self.asked.store(true, Ordering::Relaxed);
        self.answering.store(true, Ordering::Relaxed);
        self.step();
    }

    /// It has its response, which is a stream of events or not.
    pub(super) fn end(&self, streams: bool) {
        self.streams.store(streams, Ordering::Relaxed);
        self.answering.store(false, Ordering::Relaxed);
        self.step();
    }

    /// Whether something was ever asked for.
    pub(super) fn asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether the newest response is a stream of events.
    pub(super) fn streams(&self) -> bool {
        self.streams.load(Ordering::Relaxed)
    }

    /// Completes when this connection has to give way.
    pub(super) async fn dismissed(&self) {
        self.leave.notified().await;
    }

    fn is_silent(&self) -> bool {
        let busy = [&self.answering, &self.streams, &self.dismissed];
        !busy.iter().any(|flag| flag.load(Ordering::Relaxed))
    }

    fn step(&self) {
        self.newest.store(self.steps.fetch_add(1, Ordering::Relaxed), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silent_gives_way_and_nobody_who_is_answered() {
        let mut seats = Seats::default();
        let [first, second, third, streaming, answered] = [(); 5].map(|()| seats.take());
        first.begin();
        first.end(false);
        streaming.begin();
        streaming.end(true);
        answered.begin();
        let told = |seat: &Seat| seat.dismissed.load(Ordering::Relaxed);
        let state = || [&first, &second, &third, &streaming, &answered].map(|seat| told(seat));
        assert!(seats.dismiss_one());
        assert_eq!(state(), [false, true, false, false, false]);
        assert!(seats.dismiss_one());
        assert_eq!(state(), [false, true, true, false, false]);
        assert!(seats.dismiss_one());
        assert_eq!(state(), [true, true, true, false, false]);
        assert!(!seats.dismiss_one());
        answered.end(false);
        drop(streaming);
        assert!(seats.dismiss_one());
        assert_eq!(seats.taken.len(), 4);
    }
}
