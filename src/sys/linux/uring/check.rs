//! Half-open checks by kernel sockets on the ring: the ring connects and does nothing else, so that
//! no operation holds the socket when it is closed, and the RST leaves in close(2).

use std::io;

use super::connection::Connection;
use super::{NONE, Uring, place};
use crate::event::FlowId;
use crate::sys::checks::{Handshake, Next};
use crate::sys::clock;
use crate::sys::io::Ready;
use crate::sys::linux::checking;
use crate::time::Now;

impl Uring {
    /// The connect operation of a check has ended.
    pub(super) fn checked(&mut self, key: u32, result: i32) {
        let at = clock::now();
        let Some(connection) = self.connections[place(key)].take() else { return };
        let Connection { socket, flow, check, .. } = *connection;
        self.free.push(key);
        self.by_flow[flow.index()] = NONE;
        let (Some(attempt), Some(checks)) = (check, &mut self.checks) else { return };
        let (connected, handshake) = if result < 0 {
            // The kernel has made the socket as good as new (`__inet_stream_connect`): it knows
            // nothing of this handshake any more.
            (Err(io::Error::from_raw_os_error(-result)), Handshake::default())
        } else {
            (Ok(()), checking::handshake(&socket))
        };
        let next = checks.conclude(attempt, socket, connected, handshake);
        self.go_on_checking(flow, next, Some(at));
    }

    /// Connects or answers; `at` is when we learnt of the answer, if that was before now.
    pub(super) fn go_on_checking(&mut self, flow: FlowId, next: Next, at: Option<Now>) {
        match next {
            Next::Connect(socket, attempt) => {
                let mut connection = Connection::new(socket, flow);
                connection.check = Some(attempt);
                self.push_connect(connection, attempt.to());
            }
            Next::Answer(answer) => {
                let at = at.unwrap_or_else(clock::now);
                self.pending.push_back((flow, Ready::Answered(answer, at)));
            }
        }
    }
}
