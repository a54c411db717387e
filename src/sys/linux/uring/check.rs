//! Half-open checks on the ring. By kernel sockets: the ring connects and does nothing else, so
//! that no operation holds the socket when it is closed, and the RST leaves in close(2). By raw
//! sockets: the ring waits for them.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use io_uring::opcode;
use io_uring::types::Fd;

use super::connection::{Connection, Op};
use super::{NONE, Uring, place};
use crate::event::{Ending, Failure, FlowId};
use crate::sys::checks::{self, Checks, Handshake, Next};
use crate::sys::clock;
use crate::sys::io::Ready;
use crate::sys::linux::checking;
use crate::time::Now;

impl Uring {
    /// See [`crate::sys::Io::enable_checks`].
    ///
    /// # Errors
    /// Those of registering raw sockets.
    pub fn enable_checks(&mut self, mut checks: Checks) -> io::Result<()> {
        self.syn = checks.syn.take();
        self.raw_armed = [0; 2];
        self.checks = Some(checks);
        self.arm_raw_sockets()
    }

    /// See [`crate::sys::Io::check`].
    pub fn check(&mut self, flow: FlowId, to: SocketAddr, ending: Ending) {
        if let Some(syn) = &mut self.syn {
            syn.check(flow, to);
            if syn.is_full()
                && let Err(error) = self.send_raw()
            {
                // The next wait fails the same way.
                tracing::debug!(%error, "submitting failed");
            }
            return;
        }
        let next = match &mut self.checks {
            Some(checks) => checks.begin(to, ending, true),
            None => Next::Answer(checks::unasked(Failure::Local(0))),
        };
        self.go_on_checking(flow, next, None);
    }

    /// The wait for a raw socket has ended.
    pub(super) fn receive_raw_answers(&mut self, at: usize, number: u32) {
        let Some(armed) = self.raw_armed.get_mut(at) else { return };
        if *armed != number {
            return;
        }
        *armed = 0;
        if let Some(syn) = &mut self.syn {
            syn.receive();
        }
    }

    /// An answer that the raw sockets have brought.
    pub(super) fn next_raw_answer(&mut self) -> Option<(FlowId, Ready)> {
        let (flow, answer, at) = self.syn.as_mut()?.next_answer()?;
        Some((flow, Ready::Answered(answer, at)))
    }

    /// Waits for raw sockets that are not waited for. A poll looks at once at what is there, so
    /// nothing is missed in between.
    pub(super) fn arm_raw_sockets(&mut self) -> io::Result<()> {
        for at in 0..self.raw_armed.len() {
            let Some(socket) = self.syn.as_ref().and_then(|syn| syn.sockets().nth(at)) else {
                break;
            };
            if self.raw_armed[at] != 0 {
                continue;
            }
            let events = (libc::POLLIN | libc::POLLERR).cast_unsigned();
            let poll = opcode::PollAdd::new(Fd(socket.as_raw_fd()), u32::from(events)).build();
            let (key, number) = (u32::try_from(at).expect("0 or 1"), self.next_number());
            self.push_entry(poll.user_data(Op::Raw.user_data(key, number)))?;
            self.raw_armed[at] = number;
        }
        Ok(())
    }

    /// The connect operation of a check has ended.
    pub(super) fn checked(&mut self, key: u32, result: i32) {
        let at = clock::now();
        let Some(connection) = self.connections[place(key)].take() else { return };
        let Connection { socket, flow, check, .. } = *connection;
        self.free.push(key);
        self.by_flow[flow.index()] = NONE;
        let (Some(attempt), Some(checks)) = (check, &mut self.checks) else { return };
        let connected =
            if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(()) };
        let next = checks.conclude(attempt, socket, connected, |socket| {
            // After a failure the kernel has made the socket as good as new
            // (`__inet_stream_connect`): it knows nothing of this handshake any more.
            if result < 0 { Handshake::default() } else { checking::handshake(socket) }
        });
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
