//! How a relay of a worker ends: accepting stops in two steps, connections finish or are ended, and
//! the last one of them is told.

use std::time::Duration;

use socket2::Socket;

use super::Relaying;
use crate::event::FlowId;
use crate::sample::CloseReason;
use crate::sys::clock;
use crate::worker::table::Flow;
use crate::worker::turn::Turn;
use crate::worker::{Report, TargetId};

impl Turn {
    /// Accepts no more; the connections that there are may finish.
    pub(in crate::worker) fn drain_relay(&mut self, relay: TargetId) {
        let Some((place, relaying)) = self.table.relays.find(relay) else { return };
        let Some(listener) = relaying.listener else { return };
        if relaying.waiting.is_none() {
            return self.end_accepting(place);
        }
        if std::mem::replace(&mut relaying.is_draining, true) {
            return;
        }
        // Our own copy of the socket listens on; what the I/O had begun to accept comes meanwhile.
        self.io.close(listener);
        if let Some(Flow::RelayListener { resume_at, .. }) = self.table.flow(listener) {
            *resume_at = Some(clock::mono().after(LAST_ACCEPTS));
        }
        self.table.set_timer(listener);
    }

    /// A relay's listener is due: it accepts again, or for the last time.
    pub(in crate::worker) fn wake_listener(&mut self, listener: FlowId, place: usize) {
        let relaying = self.table.relays.list.get(place).and_then(Option::as_ref);
        if relaying.is_some_and(|relaying| relaying.is_draining) {
            self.end_accepting(place);
        } else {
            self.io.resume_accepting(listener);
            self.table.set_timer(listener);
        }
    }

    /// Accepts whoever still waits, if that is for us to do, and closes the socket.
    fn end_accepting(&mut self, place: usize) {
        let Some(Some(relaying)) = self.table.relays.list.get_mut(place) else { return };
        if let Some(waiting) = relaying.waiting.take() {
            self.accept_waiting(place, &waiting);
        }
        let Some(Some(relaying)) = self.table.relays.list.get_mut(place) else { return };
        if let Some(listener) = relaying.listener.take() {
            if !relaying.is_draining {
                self.io.close(listener);
            }
            self.table.remove(listener);
        }
        self.end_if_drained(place);
    }

    /// Accepts no more, and ends every connection.
    pub(in crate::worker) fn end_relay(&mut self, relay: TargetId, reason: CloseReason) {
        let Some((place, relaying)) = self.table.relays.find(relay) else { return };
        relaying.waiting = None;
        let at = clock::now();
        while let Some(Some(relaying)) = self.table.relays.list.get(place)
            && let Some(&owner) = relaying.live.last()
        {
            self.table.end_relayed(owner, reason, at);
            self.apply_relayed(owner, at);
        }
        self.drain_relay(relay);
    }

    /// Accepts whoever waits in the kernel's queue: closing the socket would reset them.
    fn accept_waiting(&mut self, place: usize, waiting: &Socket) {
        if waiting.set_nonblocking(true).is_err() {
            return;
        }
        while let Ok((socket, _)) = waiting.accept() {
            self.relay_accepted(place, socket, clock::now());
        }
    }

    /// No relay accepts any more.
    pub(in crate::worker) fn drain_relays(&mut self) {
        for relay in self.table.relays.numbers() {
            self.drain_relay(relay);
        }
    }

    /// Ends every connection of every relay, before the thread does.
    pub(in crate::worker) fn abandon_relays(&mut self) {
        for relay in self.table.relays.numbers() {
            self.end_relay(relay, CloseReason::Stopped);
        }
    }

    pub(super) fn end_if_drained(&mut self, place: usize) {
        self.publish_relays();
        let Some(slot) = self.table.relays.list.get_mut(place) else { return };
        let over =
            |relaying: &mut Relaying| relaying.listener.is_none() && relaying.live.is_empty();
        if let Some(relaying) = slot.take_if(over) {
            self.tell(Report::Finished(relaying.number));
        }
    }
}

/// How long the I/O may take to let go of a listener, while connections wait in the kernel's queue.
const LAST_ACCEPTS: Duration = Duration::from_millis(1);
