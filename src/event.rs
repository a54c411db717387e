//! What flows between the kernel's side (`sys`) and the pure side (flows): events in, actions out.
//! A flow is a function of `(state, Event, Now) -> actions + samples`; it reads no clock, owns no
//! socket and can therefore be tested as a script.

use std::net::SocketAddr;
use std::ops::Range;

use crate::sample::{CheckClock, CheckSample, Sample};
use crate::time::{Mono, Phc, Wall};

/// A flow's number inside one worker: dense, reused after removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowId(pub u32);

impl FlowId {
    /// The flow's place in a table.
    #[must_use]
    pub fn index(self) -> usize {
        usize::try_from(self.0).expect("32 bits fit")
    }
}

/// Something that happened to a flow. The worker passes the moment it learnt of it beside it.
#[derive(Debug)]
pub enum Event<'a> {
    /// The flow's own deadline has come. Everything that had happened by the moment in here was
    /// handed over before; a deadline after it may only look missed, because we were held up.
    Due(Mono),
    /// The connection is established; kernel stamps are already switched on if they were asked for.
    Connected,
    /// Bytes arrived, in order. An end of stream is [`Event::Closed`], never an empty slice.
    Received {
        /// The bytes, valid for this call only.
        bytes: &'a [u8],
        /// When the *last* of these bytes arrived. Earlier bytes of the slice may be older.
        stamps: RxStamps,
    },
    /// A transmit stamp of bytes sent earlier on this connection.
    Stamped(TxStamp),
    /// Bytes of a joined connection were passed on, since the last event of this kind.
    Moved {
        /// Read from this connection, to be written to the other.
        read: u64,
        /// Written to this connection: the kernel took them.
        written: u64,
    },
    /// The peer of this joined connection sent FIN; all that came before and the FIN itself were
    /// passed on to the other. Told once.
    Ended,
    /// The connection ended or could not be made. Nothing more comes from it.
    Closed(Failure),
    /// The answer to [`Action::Resolve`]: at least one address, in the resolver's order, or `None`.
    Resolved(Option<&'a [SocketAddr]>),
    /// What came of the half-open check in this place. The place is free again.
    Answered {
        /// The place given by [`Action::Check`].
        place: u32,
        /// What came.
        answer: Answer,
    },
}

/// What came of one half-open check, as the kernel and the wire showed it. That nothing came in
/// time is for the flow to know: it gives the check up ([`Action::TimeOut`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// `Ok`: SYN-ACK, somebody listens. `Refused` is RST.
    pub result: Result<(), Failure>,
    /// From the answered SYN to its answer in ns, by a clock of the kernel; `None` where it has
    /// none. Never by [`CheckClock::Application`]: that is for the flow to take.
    pub rtt: Option<(CheckClock, u64)>,
    /// SYNs after the first, as far as this can be known.
    pub syn_retransmits: u32,
    /// Our side acknowledged the SYN-ACK: the handshake that should stay half-open is complete.
    pub completed: bool,
}

impl Answer {
    /// To [`Action::TimeOut`], of a check whose SYN was sent again so many times.
    #[must_use]
    pub const fn timed_out(syn_retransmits: u32) -> Self {
        let result = Err(Failure::TimedOut);
        Self { result, rtt: None, syn_retransmits, completed: false }
    }
}

/// How a kernel socket that has checked is closed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Ending {
    /// By RST, at once (`SO_LINGER` of zero seconds): the server never sees a connection.
    #[default]
    Reset,
    /// In an orderly way, by FIN: the server sees a short connection.
    Orderly,
}

/// Receive stamps of one read. `None` means that the kernel gave none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RxStamps {
    /// Software: the driver handed the packet to the stack.
    pub sw: Option<Wall>,
    /// Hardware: the network card's own clock.
    pub hw: Option<Phc>,
}

/// Where on the transmit path a stamp was taken (`SOF_TIMESTAMPING_TX_*`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TxStage {
    /// Before the queueing discipline.
    Sched(Wall),
    /// The driver took it.
    Software(Wall),
    /// The network card sent it.
    Hardware(Phc),
    /// The peer's kernel acknowledged it.
    Ack(Wall),
}

/// One transmit stamp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TxStamp {
    /// Offset of the last byte of the stamped send, counted from the byte that followed the moment
    /// when stamping was switched on, modulo 2^32 (`SOF_TIMESTAMPING_OPT_ID_TCP`).
    pub key: u32,
    /// Where and when.
    pub stage: TxStage,
}

/// Why a connection is not there (any more).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Failure {
    /// The peer closed in an orderly way.
    Eof,
    /// Nobody listens (`ECONNREFUSED`).
    Refused,
    /// The peer reset the connection (`ECONNRESET`, `EPIPE`).
    Reset,
    /// No route, or a network error on the way (`EHOSTUNREACH`, `ENETUNREACH`, …).
    Unreachable,
    /// The kernel gave up (`ETIMEDOUT`).
    TimedOut,
    /// We could not open or bind a socket: descriptors, ports, an address that is not ours.
    /// The number is the errno.
    Local(i32),
    /// The peer does not read: our bounded send buffer is full.
    Stalled,
    /// Any other errno.
    Other(i32),
}

/// What a flow wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Open a connection to this address; answered by `Connected` or `Closed`.
    Connect(SocketAddr),
    /// Send these bytes of [`Outbox::bytes`].
    Send(Range<usize>),
    /// Switch kernel stamps on for this connection; keys count from the next byte sent.
    Stamp,
    /// Close the connection. No event of it arrives afterwards.
    Close,
    /// Resolve the flow's name again; answered by `Resolved`.
    Resolve,
    /// Begin a half-open check; answered by `Answered`.
    Check {
        /// Tells a flow's checks apart: a small number that none of its running checks has.
        place: u32,
        /// Whom to ask.
        to: SocketAddr,
        /// How its socket is closed, if it has one.
        ending: Ending,
    },
    /// Give the half-open check in this place up. It is not answered afterwards; the place is free.
    Withdraw(u32),
    /// Give the half-open check in this place up, since nothing came in time. It is answered at
    /// once, by [`Failure::TimedOut`] and how often its SYN was sent.
    TimeOut(u32),
}

/// What a flow produced in one step, in order. Reused between steps, so that a step allocates
/// nothing once the buffers have grown to their working size.
#[derive(Debug, Default)]
pub struct Outbox {
    /// What to do.
    pub actions: Vec<Action>,
    /// The bytes that `Action::Send` points into.
    pub bytes: Vec<u8>,
    /// Finished measurements.
    pub samples: Vec<Sample>,
    /// Finished half-open checks.
    pub checks: Vec<CheckSample>,
}

impl Outbox {
    /// Queues `bytes` to be sent.
    pub fn send(&mut self, bytes: &[u8]) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        self.actions.push(Action::Send(start..self.bytes.len()));
    }

    /// Queues an action.
    pub fn push(&mut self, action: Action) {
        self.actions.push(action);
    }

    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.actions.clear();
        self.bytes.clear();
        self.samples.clear();
        self.checks.clear();
    }
}
