//! The operating system: the only place with `unsafe`, with platform conditions, and with clocks.
//! Sockets go in, completions come out.
//!
//! # The contract of every backend
//! [`Io`] is completion-based: an operation is asked for, and what came of it is returned later by
//! [`Io::next_completion`], in order for each flow, with the moment at which we learnt of it.
//! * A flow has at most one connection. After [`Io::close`] no completion of it arrives any more;
//!   the flow may connect again at once.
//! * `Connected` comes after stamps were switched on, if [`IoOptions::stamps`] asked for them.
//! * Receiving never stops by itself, except while more than [`Buffers::backlog_bytes`] wait to be
//!   sent on the same connection: a peer that does not read is not read from either.
//! * [`Io::send`] takes all bytes or reports [`Failure::Stalled`] as the connection's end: at most
//!   [`Buffers::send_bytes`] wait for the kernel.
//! * Of two connections that [`Io::join`] joined, each is read from only while nothing that it sent
//!   waits to be written to the other: at most [`RELAY_BUFFER_BYTES`] wait for each direction, or
//!   [`RELAY_PIPE_BYTES`] of one that sends much, and nothing while it is idle. FIN is passed on
//!   after all that came before it, RST is told and left to the flow.
//! * [`Io::check`] is answered once, by [`IoEvent::Answered`], unless the flow is closed before;
//!   what it opened is closed by then, and the flow may check or connect again.
//! * Nothing allocates for a probe once buffers have grown to their working size.
//!
//! cfg picks what is *compiled* (the ladder below); [`Io`] picks what *runs*, because seccomp or a
//! sysctl may forbid io_uring.

pub mod clock;
pub mod poll;
pub mod sandbox;
pub mod socket;
pub mod supervisor;
pub mod tcp_info;

cfg_if::cfg_if! {
    if #[cfg(target_os = "linux")] {
        pub mod linux;
        mod unix;
        use linux as platform;
    } else if #[cfg(target_os = "macos")] {
        mod macos;
        mod portable;
        mod unix;
        use macos as platform;
    } else if #[cfg(windows)] {
        mod portable;
        mod windows;
        use windows as platform;
    } else {
        mod other;
        mod portable;
        mod unix;
        use other as platform;
    }
}

mod bulk;
mod capability;
mod checks;
mod io;
mod signal;
mod syn_timer;
#[cfg(test)]
mod tests;

pub use capability::{Detected, detect};
pub use checks::{CheckSettings, Checks, Followed, MethodChoice};
pub use io::{Io, Waker};
pub use platform::syn_timer::{Follower, SynTimer};
pub use signal::{EndSignals, ReloadSignal};
pub use syn_timer::{AttachChoice, Attachment, Lost, SynTimerError};

use socket2::Socket;

use crate::event::{Answer, Event, Failure, FlowId};
use crate::host::{Facts, ProcessUsage};
use crate::time::Now;

/// Bytes taken from the kernel by one receive at most.
pub const RECEIVE_BYTES: usize = 2_048;
/// Receiving pauses while more than this waits to be sent on the same connection.
pub const BACKLOG_BYTES: usize = 4_096;
/// Most that may wait to be sent on one connection: a backlog, one more receive, and frames.
pub const SEND_BUFFER_BYTES: usize = 4 * BACKLOG_BYTES;

/// Most that is read from one joined connection before all of it is written to the other.
pub const RELAY_BUFFER_BYTES: usize = 64 * 1_024;
/// The same where what is read is not copied, which begins when that much comes at once.
pub const RELAY_PIPE_BYTES: usize = 256 * 1_024;

/// How much of a connection is held here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Buffers {
    /// Bytes taken from the kernel by one receive at most.
    pub receive_bytes: usize,
    /// Receiving pauses while more than this waits to be sent on the same connection. Who sends
    /// what it did not receive is never to pause: a peer that stops reading until it is read from
    /// would wait for ever.
    pub backlog_bytes: usize,
    /// Most that may wait to be sent on one connection.
    pub send_bytes: usize,
}

impl Default for Buffers {
    fn default() -> Self {
        Self {
            receive_bytes: RECEIVE_BYTES,
            backlog_bytes: BACKLOG_BYTES,
            send_bytes: SEND_BUFFER_BYTES,
        }
    }
}

/// Which I/O backend to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring where it works, else readiness.
    #[default]
    Auto,
    /// io_uring, or fail.
    Uring,
    /// Readiness (epoll, kqueue, IOCP).
    Poll,
}

/// Which clocks may be used for round-trip times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockChoice {
    /// The best that each probe has stamps for.
    #[default]
    Auto,
    /// Kernel software stamps, or fail at start where there are none.
    Kernel,
    /// Only ours; asks for no stamps.
    Application,
}

/// Where io_uring takes transmit stamps from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TxStampSource {
    /// The socket command where the kernel has it (6.17), else the error queue.
    #[default]
    Auto,
    /// The error queue, always.
    ErrorQueue,
}

/// How an [`Io`] works.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoOptions {
    /// Which backend.
    pub backend: IoChoice,
    /// Ask for kernel stamps on every connection made by [`Io::connect`].
    pub stamps: bool,
    /// Where transmit stamps come from on io_uring.
    pub tx_stamps: TxStampSource,
    /// Return from [`Io::wait`] at once, always.
    pub busy_poll: bool,
    /// What each connection may hold.
    pub buffers: Buffers,
}

/// Something that the kernel finished.
#[derive(Debug)]
pub struct Completion<'a> {
    /// Whose it is.
    pub flow: FlowId,
    /// When we learnt of it.
    pub at: Now,
    /// What it is.
    pub event: IoEvent<'a>,
}

/// What a completion is.
#[derive(Debug)]
pub enum IoEvent<'a> {
    /// For the flow itself.
    Flow(Event<'a>),
    /// A listener's new connection, to be given to a flow by [`Io::attach`] or dropped.
    Accepted(Socket),
    /// What came of a half-open check.
    Answered(Answer),
    /// A listener could not accept and has paused until [`Io::resume_accepting`].
    AcceptFailed(std::io::Error),
}

/// A scheduling priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Priority {
    /// `SCHED_OTHER` with this nice value, −20 to 19.
    Nice(i32),
    /// `SCHED_FIFO` with this priority, 1 to 99.
    Fifo(u32),
}

impl std::fmt::Display for Priority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nice(value) => write!(f, "nice:{value}"),
            Self::Fifo(value) => write!(f, "fifo:{value}"),
        }
    }
}

/// What this process uses.
#[must_use]
pub fn process_usage() -> ProcessUsage {
    platform::process::usage()
}

/// What this machine is, as far as measuring cares. Tries a few things, and leaves nothing behind.
#[must_use]
pub fn facts() -> Facts {
    Facts {
        os: std::env::consts::OS,
        arch: std::env::consts::ARCH,
        kernel: tcp_info::kernel_release(),
        ..platform::facts()
    }
}

/// Raises this process's soft limit of open files to its hard limit: the usual soft limit, 1,024,
/// is for programs that use select(2).
pub fn raise_descriptor_limit() {
    platform::process::raise_descriptor_limit();
}

/// Lets timed waits of the calling thread end as close to their deadline as the system can.
pub fn precise_sleep() {
    platform::thread::precise_sleep();
}

/// Asks for the calling thread to run soon after it wakes up, at the same priority.
///
/// # Errors
/// If the thread has a real-time priority, or the platform offers no such thing.
pub fn wake_promptly() -> std::io::Result<()> {
    platform::thread::wake_promptly()
}

/// Pins the calling thread to one CPU.
///
/// # Errors
/// If the process may not use that CPU, or the platform does not pin.
pub fn pin(cpu: usize) -> std::io::Result<()> {
    platform::thread::pin(cpu)
}

/// Sets the calling thread's priority.
///
/// # Errors
/// `EACCES` or `EPERM` without the privilege, "unsupported" where the platform lacks it.
pub fn set_priority(priority: Priority) -> std::io::Result<()> {
    match priority {
        Priority::Nice(value) => platform::thread::set_nice(value),
        Priority::Fifo(value) => platform::thread::set_fifo(value),
    }
}

/// What a thread keeps of its privileges.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kept {
    /// Nothing.
    Nothing,
    /// What it takes to leave by an interface of the user's choice: `CAP_NET_RAW` before Linux 5.7.
    Interfaces,
    /// What it takes to read files of others: `CAP_DAC_READ_SEARCH`.
    Reading,
}

/// Drops what the calling thread may do to the network beyond an ordinary program: `CAP_NET_RAW`
/// (since Linux 5.7: [`Kept::Interfaces`]), `CAP_NET_ADMIN`, `CAP_BPF` and `CAP_PERFMON`. Threads
/// that it starts later have them no more either; those that run keep theirs. Nothing happens where
/// there are no capabilities.
///
/// # Errors
/// If the kernel refuses, which it never does for fewer.
pub fn drop_capabilities() -> std::io::Result<()> {
    platform::thread::drop_capabilities()
}

/// Drops every privilege of the calling thread, and of those that it starts later, but these.
///
/// # Errors
/// If the kernel refuses, which it never does for fewer.
pub fn drop_all_capabilities_but(kept: Kept) -> std::io::Result<()> {
    platform::thread::drop_all_capabilities_but(kept)
}

/// [`Kept::Reading`] if some of these files can be read by nothing less, else [`Kept::Nothing`].
#[must_use]
pub fn needed_to_read(files: &[std::path::PathBuf]) -> Kept {
    platform::thread::needed_to_read(files)
}

/// What an error means for a connection.
fn failure(error: &std::io::Error) -> Failure {
    use std::io::ErrorKind as Kind;
    let errno = error.raw_os_error().unwrap_or(0);
    match error.kind() {
        Kind::ConnectionRefused => Failure::Refused,
        Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe => Failure::Reset,
        Kind::HostUnreachable | Kind::NetworkUnreachable | Kind::NetworkDown => {
            Failure::Unreachable
        }
        Kind::TimedOut => Failure::TimedOut,
        Kind::AddrNotAvailable | Kind::AddrInUse | Kind::PermissionDenied | Kind::OutOfMemory => {
            Failure::Local(errno)
        }
        _ if platform::out_of_descriptors(error) => Failure::Local(errno),
        _ => Failure::Other(errno),
    }
}
