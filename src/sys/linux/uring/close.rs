//! How connections of a ring end: a flow that is done with one in, its operations cancelled and its
//! socket closed out; of all of them when the ring itself goes.

use std::io;
use std::time::Duration;

use io_uring::types::{CancelBuilder, Timespec};
use io_uring::{opcode, squeue};

use super::connection::{Connection, Op};
use super::{NONE, Uring, place};
use crate::event::FlowId;
use crate::sys::clock;

impl Uring {
    /// Closes a connection for its flow. The socket itself goes when the kernel has let go of it:
    /// an armed operation keeps the file open, so close(2) alone would send no FIN.
    pub(super) fn release(&mut self, key: u32) {
        let Some(connection) = self.connection(key) else { return };
        connection.closing = true;
        let Connection { flow, outstanding, check, armed, resetting, .. } = *connection;
        let connection_listens = armed[Op::Accept.index()] != 0;
        self.by_flow[flow.index()] = NONE;
        // The key may soon be another connection's.
        self.rearm.retain(|&waiting| waiting != key);
        self.starved.retain(|&waiting| waiting != key);
        self.part(key);
        if let (Some(attempt), Some(checks)) = (check, &mut self.checks) {
            checks.abandon(attempt);
        }
        if outstanding == 0 {
            self.free_if_idle(key);
            return;
        }
        // A FIN would complete the handshake of a check; its RST leaves with the socket. A
        // listener may be shared with other processes, which are to go on accepting.
        let keeps_open = resetting || connection_listens;
        if let (Some(connection), None, false) =
            (self.connections[place(key)].as_deref(), check, keeps_open)
        {
            // Not connected (yet) is no error here.
            let _ = connection.socket.shutdown(std::net::Shutdown::Both);
        }
        // Each by its number, which the kernel hashes: by descriptor it looks at all operations
        // that the ring has, which makes closing some of many connections cost their product.
        for op in Op::ALL {
            let number = armed[op.index()];
            if number == 0 {
                continue;
            }
            let cancel = opcode::AsyncCancel::new(op.user_data(key, number)).build();
            let cancel = cancel.flags(squeue::Flags::SKIP_SUCCESS);
            if let Err(error) = self.push_entry(cancel.user_data(Op::Cancel.user_data(0, 0))) {
                tracing::error!(%error, "a closed connection's operation could not be cancelled");
            }
        }
    }

    pub(super) fn free_if_idle(&mut self, key: u32) {
        let slot = &mut self.connections[place(key)];
        if let Some(connection) = slot.take_if(|connection| connection.outstanding == 0) {
            self.free.push(key);
            let Some(joined) = connection.joined else { return };
            if let Some(buffer) = joined.buffer() {
                self.give_back_read(buffer);
            }
            if let Some(pipe) = joined.pipe {
                self.pipes.give_back(pipe);
            }
        }
    }
}

impl Drop for Uring {
    /// Closes everything and waits until the kernel has let go of it, so that no listener outlives
    /// its program and no memory is freed that the kernel may still write into.
    fn drop(&mut self) {
        for flow in 0..self.by_flow.len() {
            self.close(FlowId(u32::try_from(flow).expect("flows are numbered by u32")));
        }
        for _ in 0..DRAIN_TURNS {
            if self.connections.iter().all(Option::is_none) {
                break;
            }
            self.busy_poll = false;
            let waited = self.wait(Some(clock::mono().after(DRAIN_TURN)));
            while self.next_completion().is_some() {}
            if waited.is_err() {
                break;
            }
        }
        let patience = Timespec::new().sec(1);
        let cancelled =
            self.ring.submitter().register_sync_cancel(Some(patience), CancelBuilder::any());
        let quiet =
            cancelled.map_or_else(|error| error.kind() == io::ErrorKind::NotFound, |()| true);
        if !quiet {
            // Leaking a few KiB at exit is sound; freeing them is not.
            std::mem::forget(std::mem::take(&mut self.connections));
            std::mem::forget(std::mem::take(&mut self.wake_count));
        }
    }
}

/// How often, and how long each time, completions of closed connections are waited for.
const DRAIN_TURNS: u32 = 100;
const DRAIN_TURN: Duration = Duration::from_millis(5);
