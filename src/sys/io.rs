//! The one choice made at run time: which backend an [`Io`] is. Both keep the contract written in
//! the parent module; this file only forwards.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use socket2::Socket;

use super::poll::Poll;
use super::{Checks, Completion, IoChoice, IoEvent, IoOptions, clock, platform};
use crate::event::{Answer, Ending, Event, Failure, FlowId, RxStamps, TxStamp};
use crate::tcp_info::{Raw, members};
use crate::time::{Mono, Now};

/// A thread's I/O. Made and used on one thread only.
#[derive(Debug)]
pub enum Io {
    /// io_uring.
    #[cfg(target_os = "linux")]
    Uring(Box<super::linux::uring::Uring>),
    /// Readiness.
    Poll(Box<Poll>),
}

/// Ends another thread's [`Io::wait`].
#[derive(Clone, Debug)]
pub enum Waker {
    /// By an eventfd that the ring reads.
    #[cfg(target_os = "linux")]
    EventFd(Arc<std::os::fd::OwnedFd>),
    /// By the poller's own means.
    Poller(Arc<polling::Poller>),
}

impl Waker {
    /// Wakes the thread; never blocks. Waking twice may be seen once.
    pub fn wake(&self) {
        let woken = match self {
            #[cfg(target_os = "linux")]
            Self::EventFd(fd) => {
                rustix::io::write(fd, &1_u64.to_ne_bytes()).map(|_| ()).map_err(Into::into)
            }
            Self::Poller(poller) => poller.notify(),
        };
        if let Err(error) = woken {
            tracing::error!(%error, "could not wake a measuring thread");
        }
    }
}

/// Forwards a method to whichever backend runs.
macro_rules! forward {
    ($self:ident, $io:ident => $call:expr) => {
        match $self {
            #[cfg(target_os = "linux")]
            Io::Uring($io) => $call,
            Io::Poll($io) => $call,
        }
    };
}

impl Io {
    /// Opens the backend that `options` ask for. The second value says why io_uring was not used
    /// although it was wanted.
    ///
    /// # Errors
    /// With [`IoChoice::Auto`] only `ENOSYS`, `EPERM` and `EINVAL` mean that io_uring is not to be
    /// had; anything else, such as `ENOMEM` or `EMFILE`, is an error and not hidden.
    pub fn open(options: &IoOptions) -> io::Result<(Self, Option<io::Error>)> {
        let refused = match options.backend {
            IoChoice::Poll => None,
            choice => match Self::open_uring(options) {
                Ok(io) => return Ok((io, None)),
                Err(error) if choice == IoChoice::Auto && not_to_be_had(&error) => Some(error),
                Err(error) => return Err(error),
            },
        };
        Ok((Self::Poll(Box::new(Poll::open(options)?)), refused))
    }

    #[cfg(target_os = "linux")]
    fn open_uring(options: &IoOptions) -> io::Result<Self> {
        Ok(Self::Uring(Box::new(super::linux::uring::Uring::open(options)?)))
    }

    #[cfg(not(target_os = "linux"))]
    fn open_uring(_options: &IoOptions) -> io::Result<Self> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "io_uring exists on Linux only"))
    }

    /// The name used in logs and capabilities.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            #[cfg(target_os = "linux")]
            Self::Uring(_) => "uring",
            Self::Poll(_) => "poll",
        }
    }

    /// Something that ends [`Self::wait`] from another thread.
    #[must_use]
    pub fn waker(&self) -> Waker {
        forward!(self, io => io.waker())
    }

    /// Starts accepting on a listening socket.
    ///
    /// # Errors
    /// Those of registering it with the kernel.
    pub fn listen(&mut self, flow: FlowId, socket: Socket) -> io::Result<()> {
        forward!(self, io => io.listen(flow, socket))
    }

    /// Accepts again after [`IoEvent::AcceptFailed`].
    pub fn resume_accepting(&mut self, flow: FlowId) {
        forward!(self, io => io.resume_accepting(flow));
    }

    /// Takes over an accepted connection, without stamps.
    pub fn attach(&mut self, flow: FlowId, socket: Socket) {
        forward!(self, io => io.attach(flow, socket));
    }

    /// Connects; answered by `Connected` or `Closed`.
    pub fn connect(&mut self, flow: FlowId, socket: Socket, to: SocketAddr) {
        forward!(self, io => io.connect(flow, socket, to));
    }

    /// Takes over an accepted connection without reading from it, and without stamps.
    pub fn hold(&mut self, flow: FlowId, socket: Socket) {
        forward!(self, io => io.hold(flow, socket));
    }

    /// Connects as [`Self::connect`] does; the connection is then held as by [`Self::hold`].
    pub fn connect_held(&mut self, flow: FlowId, socket: Socket, to: SocketAddr) {
        forward!(self, io => io.connect_held(flow, socket, to));
    }

    /// Receives from a held connection, once.
    pub fn receive_once(&mut self, flow: FlowId) {
        forward!(self, io => io.receive_once(flow));
    }

    /// Passes on what each of two held connections sends to the other, from now on: told by
    /// `Moved`, `Ended` and `Closed`. The second gets the bytes in `first` before all others: at
    /// most [`super::RELAY_BUFFER_BYTES`]. Nothing happens if either has ended meanwhile.
    pub fn join(&mut self, one: FlowId, other: FlowId, first: &[u8]) {
        forward!(self, io => io.join(one, other, first));
    }

    /// Closes a flow's connection by RST: its peer does not take the end for an orderly one. What
    /// the kernel has not sent yet is lost.
    pub fn reset(&mut self, flow: FlowId) {
        forward!(self, io => io.reset(flow));
    }

    /// Lets this I/O check: from here on [`Self::check`] uses the method that was chosen.
    ///
    /// # Errors
    /// Those of registering raw sockets with the kernel.
    pub fn enable_checks(&mut self, checks: Checks) -> io::Result<()> {
        forward!(self, io => io.enable_checks(checks))
    }

    /// Begins a half-open check of this address for a flow that has nothing else open; answered by
    /// [`IoEvent::Answered`]. It takes as long as the network does: [`Self::close`] gives it up.
    pub fn check(&mut self, flow: FlowId, to: SocketAddr, ending: Ending) {
        forward!(self, io => io.check(flow, to, ending));
    }

    /// Switches kernel stamps on for a flow's connection; keys count from the next byte sent. What
    /// arrives before the next completion is taken may still come without a stamp.
    /// Where the kernel refuses, none will come; that shows as missing stamps.
    pub fn stamp(&mut self, flow: FlowId) {
        forward!(self, io => io.stamp(flow));
    }

    /// Sends bytes on a flow's connection; ignored if it has none.
    pub fn send(&mut self, flow: FlowId, bytes: &[u8]) {
        forward!(self, io => io.send(flow, bytes));
    }

    /// Closes a flow's connection or listener, if it has one.
    pub fn close(&mut self, flow: FlowId) {
        forward!(self, io => io.close(flow));
    }

    /// Ends a check that was not answered in time, as [`Self::close`] does; returns how often its
    /// SYN was sent after the first time, as far as this can be known.
    pub fn give_up(&mut self, flow: FlowId) -> u32 {
        let told = forward!(self, io => io.syn_retransmits(flow)).or_else(|| {
            let sent_again = self.tcp_info(flow)?.number(&members::total_retrans)?;
            u32::try_from(sent_again).ok()
        });
        self.close(flow);
        told.unwrap_or(0)
    }

    /// What the kernel knows of a flow's connection, if it has one and the platform tells. A system
    /// call.
    pub fn tcp_info(&mut self, flow: FlowId) -> Option<Raw> {
        let socket = forward!(self, io => io.socket(flow))?;
        platform::tcp_info(socket).ok()
    }

    /// Hands everything asked for so far to the kernel, without waiting.
    ///
    /// # Errors
    /// The kernel's; the backend is unusable then.
    pub fn submit(&mut self) -> io::Result<()> {
        match self {
            #[cfg(target_os = "linux")]
            Self::Uring(io) => io.submit(),
            Self::Poll(io) => {
                io.submit();
                Ok(())
            }
        }
    }

    /// Waits until there is a completion, the deadline has come, or a [`Waker`] woke us.
    ///
    /// # Errors
    /// The kernel's; the backend is unusable then.
    pub fn wait(&mut self, deadline: Option<Mono>) -> io::Result<()> {
        forward!(self, io => io.wait(deadline))
    }

    /// The next completion that is there, if any.
    pub fn next_completion(&mut self) -> Option<Completion<'_>> {
        forward!(self, io => io.next_completion())
    }
}

/// Whether an error means that io_uring is forbidden, absent, or too old.
fn not_to_be_had(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    matches!(error.kind(), InvalidInput | PermissionDenied | Unsupported)
}

/// A completion before its bytes are borrowed from a backend's buffer.
#[derive(Debug)]
pub(super) enum Ready {
    Connected,
    Received(RxStamps),
    Stamped(TxStamp),
    Moved {
        read: usize,
        written: usize,
    },
    Ended,
    Closed(Failure),
    /// With the moment at which we learnt of it: closing comes after, and takes time.
    Answered(Answer, Now),
    Accepted(Socket),
    AcceptFailed(io::Error),
}

impl Ready {
    /// Becomes a completion; `bytes` are those of `Received`.
    pub(super) fn complete(self, flow: FlowId, bytes: &[u8]) -> Completion<'_> {
        let event = match self {
            Self::Answered(answer, at) => {
                return Completion { flow, at, event: IoEvent::Answered(answer) };
            }
            Self::Connected => IoEvent::Flow(Event::Connected),
            Self::Received(stamps) => IoEvent::Flow(Event::Received { bytes, stamps }),
            Self::Stamped(stamp) => IoEvent::Flow(Event::Stamped(stamp)),
            Self::Moved { read, written } => {
                IoEvent::Flow(Event::Moved { read: count(read), written: count(written) })
            }
            Self::Ended => IoEvent::Flow(Event::Ended),
            Self::Closed(failure) => IoEvent::Flow(Event::Closed(failure)),
            Self::Accepted(socket) => IoEvent::Accepted(socket),
            Self::AcceptFailed(error) => IoEvent::AcceptFailed(error),
        };
        Completion { flow, at: clock::now(), event }
    }
}

fn count(bytes: usize) -> u64 {
    u64::try_from(bytes).expect("bytes in memory")
}

/// Completions that a backend made up itself, waiting for the next call.
pub(super) type Pending = VecDeque<(FlowId, Ready)>;
