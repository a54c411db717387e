//! One connection of a prober, from the attempt on: what is said on it and how many bytes were.

use super::negotiate::Hello;
use crate::event::{Action, Outbox};
use crate::time::Mono;
use crate::wire::{self, Frame, Framer, Version};

/// The connection.
#[derive(Debug)]
pub(super) enum Link {
    /// None; dial again then.
    Down { retry_at: Mono },
    /// An attempt that may take until then.
    Connecting { give_up_at: Mono },
    /// The hello waits for its answer.
    Negotiating(Hello, Sending),
    /// Probes can be sent.
    Open(Session, Sending),
}

/// Bytes sent on this connection since stamps were switched on, modulo 2^32.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sending {
    offset: u32,
}

/// A connection on which probes are sent.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) version: Version,
    /// The peer tells its residence by its kernel's stamps, and we want to know.
    pub(super) peer_told: bool,
    pub(super) framer: Framer,
    /// A reply to a probe of ours has come, if only a late one.
    pub(super) replied: bool,
    /// When the first of the probes was due that have timed out since the last valid reply.
    pub(super) silent_since: Option<Mono>,
}

impl Sending {
    /// Sends bytes that are no v3 frame.
    pub(super) fn send(&mut self, bytes: &[u8], out: &mut Outbox) {
        out.send(bytes);
        self.count(bytes.len());
    }

    /// Sends a v3 frame and its padding at once, so that one stamp covers both.
    pub(super) fn send_v3(&mut self, frame: &Frame, out: &mut Outbox) {
        let start = out.bytes.len();
        out.bytes.extend_from_slice(&wire::encode_v3(frame));
        out.bytes.resize(out.bytes.len() + usize::from(frame.padding_bytes), 0);
        let end = out.bytes.len();
        out.push(Action::Send(start..end));
        self.count(end - start);
    }

    /// The key of the last byte sent.
    pub(super) const fn key(self) -> u32 {
        self.offset.wrapping_sub(1)
    }

    fn count(&mut self, bytes: usize) {
        self.offset = self.offset.wrapping_add(u32::try_from(bytes).unwrap_or(0));
    }
}
