//! Callers who wait for the outcome of their check: numbers go out with the checks, answers find
//! their caller by them.

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::SyncSender;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::CheckError;
use crate::sample::CheckSample;

/// Everybody who waits.
#[derive(Debug)]
pub(super) struct Pending {
    limit: usize,
    waiting: Mutex<Waiting>,
}

/// How a caller waits.
#[derive(Debug)]
pub(super) enum Reply {
    /// A thread.
    Waiting(SyncSender<Answered>),
    /// A task.
    Polling(oneshot::Sender<Answered>),
}

/// What came of a check.
#[derive(Debug)]
pub(super) enum Answered {
    Checked(CheckSample),
    /// The name has no address, or none in time.
    Unresolved(io::Error),
}

#[derive(Debug, Default)]
struct Waiting {
    next: u32,
    replies: HashMap<u32, Reply>,
    stopped: bool,
}

impl Pending {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, waiting: Mutex::default() }
    }

    /// A number for this caller's check.
    pub(super) fn add(&self, reply: Reply) -> Result<u32, CheckError> {
        let mut waiting = self.lock();
        if waiting.stopped {
            return Err(CheckError::Stopped);
        }
        if waiting.replies.len() >= self.limit {
            return Err(CheckError::TooMany { limit: self.limit });
        }
        // Numbers go round after 2^32 checks; there are fewer callers than numbers.
        while waiting.replies.contains_key(&waiting.next) {
            waiting.next = waiting.next.wrapping_add(1);
        }
        let number = waiting.next;
        waiting.next = number.wrapping_add(1);
        waiting.replies.insert(number, reply);
        Ok(number)
    }

    /// Answers a caller; one who has left is none.
    pub(super) fn answer(&self, number: u32, answered: Answered) {
        let reply = self.lock().replies.remove(&number);
        match reply {
            Some(Reply::Waiting(sender)) => drop(sender.send(answered)),
            Some(Reply::Polling(sender)) => drop(sender.send(answered)),
            None => {}
        }
    }

    /// Nobody will be answered any more; whoever waits learns it.
    pub(super) fn stop(&self) {
        let mut waiting = self.lock();
        waiting.stopped = true;
        waiting.replies.clear();
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        // Every change under the lock leaves the map whole.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
