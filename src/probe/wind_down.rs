//! The end of a run: sending stops, what is in flight is awaited, the last residence is fetched
//! with a follow-up, the connection is closed.

use super::link::{Link, Session};
use super::{Probe, ProbeSettings};
use crate::dial::later;
use crate::event::{Action, Outbox};
use crate::time::Now;
use crate::wire::{self, Frame, Version};

/// The frame at the end of a run that fetches the last reply's transmit stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FollowUp {
    /// To be sent if a residence is missing at the end. So many may be answered without news,
    /// because the peer itself did not have the stamp yet.
    Unsent { tries: u8 },
    /// Sent and not answered.
    Sent { tries: u8 },
    /// Nothing more to be learnt.
    Done,
}

impl Probe {
    /// Stops sending when the count or the time is reached.
    pub(super) fn end_run(&mut self, at: Now) {
        let ProbeSettings { count, stop_at, .. } = self.settings;
        if count.is_some_and(|count| self.tally.counters.sent >= count)
            || stop_at.is_some_and(|stop_at| at.mono >= stop_at)
        {
            self.drain(at);
        }
    }

    /// Stops sending; samples wait no longer than a timeout from now.
    pub(super) fn drain(&mut self, at: Now) {
        if !self.draining {
            self.draining = true;
            self.in_flight.settle_by(later(at.mono, self.timeout.timeout_ns().max(1)));
        }
    }

    /// Ends the run when nothing is in flight any more, after fetching the last residence.
    pub(super) fn wind_down(&mut self, at: Now, out: &mut Outbox) {
        if self.in_flight.open() > 0 {
            return;
        }
        if self.in_flight.settling() == 0 {
            self.close(at, out);
        } else if let FollowUp::Unsent { tries } = self.follow_up
            && let Link::Open(Session { version: Version::V3, .. }, sending) = &mut self.link
            && self.in_flight.awaits_peer()
        {
            let flags = wire::FLAG_FOLLOW_UP;
            sending.send_v3(&Frame { sent: at.wall, flags, ..Frame::default() }, out);
            self.follow_up = FollowUp::Sent { tries };
        }
    }

    /// Over, with or without a connection to close.
    pub(super) fn close(&mut self, at: Now, out: &mut Outbox) {
        if !matches!(self.link, Link::Down { .. }) {
            out.push(Action::Close);
        }
        self.link = Link::Down { retry_at: at.mono };
        self.finished = true;
    }

    /// A follow-up was answered, with or without another reply's transmit stamp.
    pub(super) fn follow_up_answered(&mut self, told: bool, at: Now) {
        let FollowUp::Sent { tries } = self.follow_up else { return };
        let tries = if told { tries } else { tries.saturating_sub(1) };
        if tries > 0 && self.in_flight.awaits_peer() {
            self.follow_up = FollowUp::Unsent { tries };
        } else {
            self.follow_up = FollowUp::Done;
            self.in_flight.settle_by(at.mono);
        }
    }
}

/// Follow-ups without news before the run ends without the last residence.
pub(super) const FOLLOW_UP_TRIES: u8 = 3;
