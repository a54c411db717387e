//! SYNs of our own on the ring: each is an operation of its own, many are submitted together and
//! with the next wait. What the kernel reads stays here until it has read it.
//!
//! A raw socket never makes a send wait: it is executed while it is submitted, and so its memory is
//! free as soon as the kernel has taken the submission. Only failures are told.

use std::io;
use std::os::fd::AsRawFd;

use io_uring::types::Fd;
use io_uring::{opcode, squeue};

use super::connection::Op;
use super::{Uring, place};
use crate::sys::clock;
use crate::sys::linux::syn::Outgoing;
use crate::sys::linux::syn::batch::{MESSAGES_MAX, Message};
use crate::time::Mono;

/// Sends that the kernel may not have taken yet.
pub(super) struct RawSends {
    slots: Box<[Slot]>,
    used: usize,
}

/// One send. Points into itself, so it stays where it is.
struct Slot {
    header: libc::msghdr,
    part: libc::iovec,
    message: Message,
    /// The operation's number and what it sends; `None` once its failure was told.
    sent: Option<(u32, Outgoing)>,
}

impl RawSends {
    pub(super) fn new() -> Self {
        let slot = || Slot {
            // SAFETY: msghdr is plain data for which zero is valid.
            header: unsafe { std::mem::zeroed() },
            part: libc::iovec { iov_base: std::ptr::null_mut(), iov_len: 0 },
            message: Message::new(),
            sent: None,
        };
        Self { slots: (0..MESSAGES_MAX).map(|_| slot()).collect(), used: 0 }
    }
}

impl Uring {
    /// Queues what waits to be sent for the next submission; whether there are answers, and when
    /// this is to be done again.
    pub(super) fn flush_raw_sockets(&mut self) -> io::Result<(bool, Option<Mono>)> {
        if self.syn.as_mut().is_some_and(|syn| syn.queue_due().is_some()) {
            self.push_raw_sends()?;
        }
        self.arm_raw_sockets()?;
        let Some(syn) = &self.syn else { return Ok((false, None)) };
        Ok((syn.has_answers(), syn.deadline()))
    }

    /// Sends at once, and takes in what has been answered already: answers must not fill the
    /// socket's buffer.
    pub(super) fn send_raw(&mut self) -> io::Result<()> {
        self.flush_raw_sockets()?;
        self.submit_ring()?;
        if let Some(syn) = &mut self.syn {
            syn.receive();
        }
        Ok(())
    }

    /// The kernel did not send.
    pub(super) fn raw_send_failed(&mut self, at: usize, number: u32, result: i32) {
        let Some(slot) = self.raw_sends.slots.get_mut(at) else { return };
        let Some((_, outgoing)) = slot.sent.take_if(|(sent, _)| *sent == number) else { return };
        if let Some(syn) = &mut self.syn {
            syn.refused(outgoing, &io::Error::from_raw_os_error(-result), clock::mono());
        }
    }

    fn push_raw_sends(&mut self) -> io::Result<()> {
        loop {
            if self.ring.submission().is_empty() {
                self.raw_sends.used = 0;
            }
            if self.raw_sends.used == MESSAGES_MAX {
                self.submit_ring()?;
                if !self.ring.submission().is_empty() {
                    // Completions must be taken first; the next wait goes on.
                    return Ok(());
                }
                if let Some(syn) = &mut self.syn {
                    syn.receive();
                }
                continue;
            }
            let number = self.next_number();
            let Some(syn) = &mut self.syn else { return Ok(()) };
            let Some((outgoing, socket)) = syn.next_outgoing() else { return Ok(()) };
            let fd = Fd(socket.as_raw_fd());
            let at = self.raw_sends.used;
            let slot = &mut self.raw_sends.slots[at];
            let syn = outgoing.syn;
            slot.message.set(syn.source.ip(), syn.destination, &syn.bytes());
            slot.message.point(&mut slot.header, &mut slot.part);
            slot.sent = Some((number, outgoing));
            let flags = (libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL).cast_unsigned();
            let send = opcode::SendMsg::new(fd, &raw const slot.header).flags(flags).build();
            let key = u32::try_from(at).expect("below MESSAGES_MAX");
            let send = send.flags(squeue::Flags::SKIP_SUCCESS);
            self.raw_sends.used += 1;
            self.push_entry(send.user_data(Op::RawSend.user_data(key, number)))?;
        }
    }

    /// Hands over what was queued, without waiting.
    pub(super) fn submit_ring(&mut self) -> io::Result<()> {
        match self.ring.submit() {
            Err(error) if !super::is_transient(&error) => Err(error),
            _ => Ok(()),
        }
    }

    /// A completion of the raw sockets: a wait has ended, or a send has failed.
    pub(super) fn complete_raw(&mut self, op: Op, (key, number): (u32, u32), result: i32) {
        match op {
            Op::RawSend => self.raw_send_failed(place(key), number, result),
            _ => self.receive_raw_answers(place(key), number),
        }
    }
}
