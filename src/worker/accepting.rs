//! The listeners of a worker, above all the responder's: sockets that were accepted go in, flows
//! that answer on them come out.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use socket2::Socket;

use super::Report;
use super::table::{Answering, Flow};
use super::turn::Turn;
use crate::echo::{Echo, Responder, ResponderSettings};
use crate::event::FlowId;
use crate::stats::EchoSeries;
use crate::time::Now;

impl Turn {
    pub(super) fn serve(
        &mut self,
        socket: Socket,
        settings: ResponderSettings,
        series: Arc<EchoSeries>,
    ) {
        self.table.answering = Some(Answering { responder: Responder::new(settings), series });
        let flow = self.table.insert(Flow::Listener(None));
        if let Err(error) = self.io.listen(flow, socket) {
            tracing::error!(%error, "the responder cannot accept");
            self.tell(Report::Died);
        }
    }

    pub(super) fn accepted(&mut self, listener: FlowId, socket: Socket, at: Now) {
        if let Some(&mut Flow::RelayListener { relay, .. }) = self.table.flow(listener) {
            return self.relay_accepted(relay, socket, at);
        }
        let Some(answering) = &mut self.table.answering else { return };
        if answering.responder.admit() {
            let echo = Flow::Echo(Echo::new(&answering.responder, at));
            let flow = self.table.insert(echo);
            self.io.attach(flow, socket);
            self.apply(flow, at);
        } else {
            // Dropping the socket closes it: the client learns at once that it is one too many.
            self.table.publish_answering();
        }
    }

    pub(super) fn accept_failed(&mut self, flow: FlowId, error: &io::Error, at: Now) {
        if let Some(&mut Flow::RelayListener { relay, .. }) = self.table.flow(flow) {
            return self.relay_accept_failed(flow, relay, error, at);
        }
        tracing::warn!(%error, "could not accept; pausing (raise the limit of open files?)");
        if let Some(answering) = &mut self.table.answering {
            answering.responder.accept_failed();
        }
        self.table.publish_answering();
        if let Some(Flow::Listener(resume_at)) = self.table.flow(flow) {
            *resume_at = Some(at.mono.after(ACCEPT_PAUSE));
        }
        self.apply(flow, at);
    }
}

/// How long a listener pauses after a failed accept: descriptors rarely come back at once.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
