//! Joined connections that send much, by readiness: what one sends is moved to the other through a
//! pipe instead of being copied.

use super::{Poll, entry_mut, passes};
use crate::event::FlowId;
use crate::sys::bulk::is_refused;
use crate::sys::failure;
use crate::sys::io::Ready;
use crate::sys::platform::pipe::Pipe;

impl Poll {
    /// Moves as much of what has arrived as fits into a pipe to the other connection.
    pub(super) fn move_on(&mut self, flow: FlowId, mut pipe: Pipe) {
        if let Some(peer) = self.fill(flow, &mut pipe)
            && let Some(entry) = entry_mut(&mut self.entries, peer)
            && let Some(joined) = &mut entry.joined
        {
            joined.pipe = Some(pipe);
            return self.empty_pipe(peer);
        }
        self.pipes.give_back(pipe);
    }

    /// Fills a pipe with what has arrived; the flow that it is for, if something has.
    fn fill(&mut self, flow: FlowId, pipe: &mut Pipe) -> Option<FlowId> {
        let entry = entry_mut(&mut self.entries, flow)?;
        let joined = entry.joined.as_mut()?;
        match pipe.fill(&entry.socket) {
            Ok(0) => {
                joined.read_ended = true;
                self.pass_end_on(flow);
            }
            Ok(read) => {
                joined.bulk.note(read);
                let peer = joined.peer;
                self.pending.push_back((flow, Ready::Moved { read, written: 0 }));
                return peer;
            }
            Err(error) if passes(&error) => {}
            Err(error) if is_refused(&error) => joined.bulk.give_up(),
            Err(error) => self.fail(flow, failure(&error)),
        }
        None
    }

    /// Writes what a connection's pipe holds, as far as its socket takes it.
    pub(super) fn empty_pipe(&mut self, flow: FlowId) {
        let Some(entry) = entry_mut(&mut self.entries, flow) else { return };
        let Some(joined) = &mut entry.joined else { return };
        let Some(pipe) = &mut joined.pipe else { return };
        match pipe.empty(&entry.socket) {
            Ok(written) => {
                if let Some(pipe) = joined.pipe.take_if(|pipe| pipe.is_empty()) {
                    self.pipes.give_back(pipe);
                }
                self.wrote(flow, written);
            }
            Err(error) if passes(&error) => {}
            Err(error) => self.fail(flow, failure(&error)),
        }
    }
}
