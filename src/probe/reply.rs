//! What comes back: the bytes of a connection become an answer to the hello or replies to probes,
//! and each reply is counted as received, late, twice or unknown.

use super::in_flight::{Fate, Peer};
use super::link::Link;
use super::negotiate::Answer;
use super::{Probe, Wire};
use crate::dial::later;
use crate::event::{Failure, Outbox, RxStamps};
use crate::sample::{CLOCK_STEP_NS, Stamps};
use crate::time::{Mono, Now};
use crate::wire::{self, Frame, Version};

impl Probe {
    /// Bytes of any length, cut anywhere.
    pub(super) fn received(&mut self, bytes: &[u8], stamps: RxStamps, at: Now, out: &mut Outbox) {
        let mut input = bytes;
        if let Link::Negotiating(hello, sending) = &mut self.link {
            let answer = hello.read(&mut input, at.mono);
            let sending = *sending;
            match answer {
                Answer::Incomplete => {}
                Answer::Speaks(version, kernel_stamps)
                    if version == Version::V3 || self.settings.wire == Wire::Auto =>
                {
                    self.hellos_failed = 0;
                    self.open(version, kernel_stamps, sending, at, out);
                }
                Answer::Speaks(..) => self.drop_connection(FAILURE_PROTOCOL, at, out),
                Answer::Nonsense => {
                    self.tally.counters.garbage_bytes +=
                        u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                    self.drop_connection(FAILURE_PROTOCOL, at, out);
                }
            }
        }
        while let Link::Open(session, _) = &mut self.link {
            let frame = session.framer.next(&mut input);
            self.tally.counters.garbage_bytes += session.framer.take_garbage_bytes();
            let Some(frame) = frame else { break };
            // The stamps are those of the chunk's last byte.
            let stamps = if input.is_empty() { stamps } else { RxStamps::default() };
            self.reply(frame, stamps, at);
        }
    }

    /// One reply, in time, late, twice, or to nothing.
    fn reply(&mut self, frame: Frame, rx: RxStamps, at: Now) {
        let Link::Open(session, _) = &mut self.link else { return };
        if let Some(previous) = frame.previous {
            self.in_flight.peer_sent(previous.seq, previous.tx);
        }
        if session.version == Version::V3 && frame.flags & wire::FLAG_FOLLOW_UP != 0 {
            self.follow_up_answered(frame.previous.is_some(), at);
            return;
        }
        let Some(entry) = self.in_flight.find(frame.seq) else {
            if self.in_flight.was_given(frame.seq) {
                // Older than the ring remembers: its timeout is long over.
                self.tally.counters.late_replies += 1;
            } else {
                self.tally.counters.unknown_replies += 1;
            }
            return;
        };
        let app_rtt_ns = at.mono.as_ns().saturating_sub(entry.stamps.due.as_ns());
        match entry.fate {
            Fate::Empty | Fate::Held => {
                self.tally.counters.unknown_replies += 1;
                return;
            }
            Fate::Sent if !entry.answered && arrival(at, rx, &entry.stamps) < entry.deadline => {
                entry.stamps.rx = rx;
                entry.stamps.rx_app = Some(at);
                entry.peer = match frame.rx {
                    Some(rx) if session.peer_told => Peer::Awaited(rx),
                    _ if self.settings.stamps_wanted && session.version == Version::V3 => {
                        Peer::Missing
                    }
                    _ => Peer::NotAsked,
                };
                self.tally.receive(entry, at);
                self.timeout.record(app_rtt_ns);
                self.in_flight.receive(frame.seq, self.settle_deadline(at));
            }
            Fate::Sent | Fate::GivenUp if !entry.answered => {
                entry.answered = true;
                self.tally.counters.late_replies += 1;
                self.timeout.record(app_rtt_ns);
            }
            Fate::Sent | Fate::GivenUp | Fate::Received | Fate::Answered => {
                self.tally.counters.duplicate_replies += 1;
            }
        }
        if let Link::Open(session, _) = &mut self.link {
            session.replied = true;
            session.silent_since = None;
        }
        self.dialer.replied();
    }

    /// By then the following reply has come, if one comes.
    fn settle_deadline(&self, at: Now) -> Mono {
        let timeout_ns = self.timeout.timeout_ns();
        let wait_ns = if self.draining {
            timeout_ns
        } else {
            self.settings.interval_ns.saturating_add(timeout_ns)
        };
        later(at.mono, wait_ns.clamp(1, SETTLE_NS_MAX))
    }
}

/// When a reply arrived: by the kernel's stamp if there is one, so that our own lateness in reading
/// it does not make it a late reply.
const fn arrival(at: Now, rx: RxStamps, stamps: &Stamps) -> Mono {
    match rx.sw {
        Some(sw) if at.step_ns(stamps.tx_app).abs() <= CLOCK_STEP_NS => {
            let read_ns = at.wall.since_ns(sw);
            if read_ns > 0 { at.mono.offset_ns(-read_ns) } else { at.mono }
        }
        _ => at.mono,
    }
}

/// Longest wait for stamps, however long the interval.
const SETTLE_NS_MAX: u64 = 10_000_000_000;
/// The peer does not speak what we insist on: `EPROTO`, by Linux's number.
const FAILURE_PROTOCOL: Failure = Failure::Other(71);
