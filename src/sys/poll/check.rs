//! Half-open checks by readiness: a kernel socket connects and is closed as soon as that ended, or
//! the raw sockets of [`SynChecks`](super::super::platform::syn::SynChecks) send and receive.

use std::io;
use std::net::SocketAddr;

use polling::{Event as Interest, PollMode};

use super::super::checks::{self, Checks, Handshake, Next};
use super::super::io::Ready;
use super::super::{clock, platform};
use super::{Entry, Poll, State, entry_mut};
use crate::event::{Ending, Failure, FlowId};

/// The poller's keys of raw sockets. A flow's has 32 bits, and the largest is the poller's own.
pub(super) const RAW_KEYS: [usize; 2] = [usize::MAX - 1, usize::MAX - 2];

impl Poll {
    /// See [`crate::sys::Io::enable_checks`].
    ///
    /// # Errors
    /// Those of registering raw sockets.
    pub fn enable_checks(&mut self, mut checks: Checks) -> io::Result<()> {
        self.forget_raw_sockets();
        self.syn = checks.syn.take();
        self.checks = Some(checks);
        let sockets = self.syn.iter().flat_map(|syn| syn.sockets());
        for (socket, key) in sockets.zip(RAW_KEYS) {
            // SAFETY: `forget_raw_sockets` deletes the sockets from the poller before they are
            // dropped: above, and in `drop`.
            unsafe { self.poller.add_with_mode(socket, Interest::readable(key), PollMode::Level)? };
        }
        Ok(())
    }

    /// See [`crate::sys::Io::check`].
    pub fn check(&mut self, flow: FlowId, to: SocketAddr, ending: Ending) {
        if let Some(syn) = &mut self.syn {
            syn.check(flow, to);
            if syn.is_full() {
                syn.flush();
            }
            return;
        }
        let next = match &mut self.checks {
            Some(checks) => checks.begin(to, ending, false),
            None => Next::Answer(checks::unasked(Failure::Local(0))),
        };
        self.go_on_checking(flow, next);
    }

    /// See [`crate::sys::Io::submit`].
    pub fn submit(&mut self) {
        if let Some(syn) = &mut self.syn {
            syn.flush();
        }
    }

    /// An answer that the raw sockets have brought.
    pub(super) fn next_raw_answer(&mut self) -> Option<(FlowId, Ready)> {
        let (flow, answer, at) = self.syn.as_mut()?.next_answer()?;
        Some((flow, Ready::Answered(answer, at)))
    }

    /// A raw socket is readable.
    pub(super) fn receive_raw_answers(&mut self) {
        if let Some(syn) = &mut self.syn {
            syn.receive();
        }
    }

    /// Takes the raw sockets from the poller.
    pub(super) fn forget_raw_sockets(&mut self) {
        for socket in self.syn.iter().flat_map(|syn| syn.sockets()) {
            if let Err(error) = self.poller.delete(socket) {
                tracing::debug!(%error, "a raw socket was not registered");
            }
        }
    }

    pub(super) fn finish_checking(&mut self, flow: FlowId) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        let Some((connected, handshake)) = platform::connected(&entry.socket) else { return };
        let at = clock::now();
        let Some(Entry { socket, check: Some(attempt), .. }) = self.remove(flow) else { return };
        let Some(checks) = &mut self.checks else { return };
        match checks.conclude(attempt, socket, connected, |_| handshake) {
            Next::Answer(answer) => self.pending.push_back((flow, Ready::Answered(answer, at))),
            next => self.go_on_checking(flow, next),
        }
    }

    /// Connects until something is to be waited for, or there is an answer.
    fn go_on_checking(&mut self, flow: FlowId, mut next: Next) {
        loop {
            let (socket, attempt) = match next {
                Next::Connect(socket, attempt) => (socket, attempt),
                Next::Answer(answer) => {
                    self.pending.push_back((flow, Ready::Answered(answer, clock::now())));
                    return;
                }
            };
            let entry = Entry { check: Some(attempt), ..Entry::new(socket, State::Connecting) };
            let started = match entry.socket.connect(&attempt.to().into()) {
                Err(error) if !platform::connect_in_progress(&error) => Err(error),
                _ => self.register(flow, &entry),
            };
            match (started, &mut self.checks) {
                (Err(error), Some(checks)) => {
                    next = checks
                        .conclude(attempt, entry.socket, Err(error), |_| Handshake::default());
                }
                _ => {
                    self.entries[flow.index()] = Some(entry);
                    return;
                }
            }
        }
    }
}
