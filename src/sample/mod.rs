//! The waist: one finished measurement, with every stamp it was derived from. Everything that
//! measures produces a [`Sample`]; everything that records or shows reads one.
//!
//! Path order: `due → tx_app → tx_sched → tx_sw → tx_hw → … → rx_hw → rx_sw → rx_app`.

mod check;
mod counters;
mod load;
mod relay;

pub use check::{CheckClock, CheckOutcome, CheckSample, Method};
pub use counters::{CheckCounters, EchoCounters, ProbeCounters};
pub use load::{LoadCounters, LoadFailure};
pub use relay::{
    ClientCounters, CloseReason, ConnectionEnd, ConnectionSample, RelayCounters, Side,
    UpstreamCounters, UpstreamId,
};

use crate::event::{Failure, RxStamps};
use crate::time::{Mono, Now, Phc, Wall};

/// By how much the wall clock may move against the monotonic one during a sample before the
/// sample's kernel times are rejected. Paired readings differ by the bracket between them, about
/// 0.1 µs; a real step is far larger.
pub const CLOCK_STEP_NS: i64 = 1_000;

/// Which clock a round-trip time was taken with, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Clock {
    /// The network card's, at both ends of the trip.
    Hardware,
    /// The kernel's: driver out to driver in.
    Kernel,
    /// Ours, around the system calls.
    Application,
}

impl Clock {
    /// Every clock, best first; the index of a clock is its discriminant.
    pub const ALL: [Self; 3] = [Self::Hardware, Self::Kernel, Self::Application];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Kernel => "kernel",
            Self::Application => "application",
        }
    }
}

/// How a probe ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// The reply came in time.
    Received,
    /// No reply before the timeout.
    Timeout,
    /// Lost with its connection, or due while there was none; the failure says why.
    Lost(Failure),
    /// Due while no address was known for the name.
    Unresolved,
}

impl Outcome {
    /// The word used in JSON lines and logs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Timeout => "timeout",
            Self::Unresolved => "unresolved",
            Self::Lost(Failure::Eof) => "closed",
            Self::Lost(Failure::Refused) => "refused",
            Self::Lost(Failure::Reset) => "reset",
            Self::Lost(Failure::Unreachable) => "unreachable",
            Self::Lost(Failure::TimedOut) => "connect_timeout",
            Self::Lost(Failure::Local(_)) => "local_error",
            Self::Lost(Failure::Stalled) => "stalled",
            Self::Lost(Failure::Other(_)) => "error",
        }
    }
}

/// The stages of a probe's time; their sum is the application's RTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Due until the application sent it.
    Lag,
    /// Application to driver.
    Send,
    /// Driver out to driver in, without the peer's residence.
    Network,
    /// Inside the responder: its kernel received the probe until its kernel sent the reply.
    Peer,
    /// Driver in to application.
    Wakeup,
}

impl Stage {
    /// Every stage in path order; the index of a stage is its discriminant.
    pub const ALL: [Self; 5] = [Self::Lag, Self::Send, Self::Network, Self::Peer, Self::Wakeup];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lag => "lag",
            Self::Send => "send",
            Self::Network => "network",
            Self::Peer => "peer",
            Self::Wakeup => "wakeup",
        }
    }
}

/// Why the kernel's times of a sample were not used, although stamps were there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Rejection {
    /// The wall clock was stepped between sending and receiving.
    ClockStep,
    /// Stamps out of path order.
    Order,
    /// The peer claims a residence longer than the whole round trip.
    PeerExceedsRtt,
}

impl Rejection {
    /// Every reason; the index of a reason is its discriminant.
    pub const ALL: [Self; 3] = [Self::ClockStep, Self::Order, Self::PeerExceedsRtt];

    /// The label value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::ClockStep => "clock_step",
            Self::Order => "order",
            Self::PeerExceedsRtt => "peer_exceeds_rtt",
        }
    }
}

/// Every stamp of one probe.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stamps {
    /// When the schedule wanted it sent.
    pub due: Mono,
    /// When the application handed it to the kernel.
    pub tx_app: Now,
    /// Before the queueing discipline.
    pub tx_sched: Option<Wall>,
    /// The driver took it.
    pub tx_sw: Option<Wall>,
    /// The network card sent it.
    pub tx_hw: Option<Phc>,
    /// The peer's kernel acknowledged it: at the latest when the reply came.
    pub tx_ack: Option<Wall>,
    /// The reply's arrival by the kernel's and the card's clocks.
    pub rx: RxStamps,
    /// When the application had the reply.
    pub rx_app: Option<Now>,
}

impl Stamps {
    /// `due` on the wall clock, derived from the paired reading at `tx_app`.
    #[must_use]
    pub const fn due_wall(&self) -> Wall {
        self.tx_app.wall.offset_ns(-self.tx_app.mono.since_ns(self.due))
    }
}

/// One finished probe. Durations are ns; `None` where it could not be measured, never 0 instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// The probe's number, from 1, unique within one prober process.
    pub seq: u64,
    /// How it ended.
    pub outcome: Outcome,
    /// The clock of `rtt_ns`; `None` unless received.
    pub clock: Option<Clock>,
    /// Round trip by `clock`, the peer's residence included.
    pub rtt_ns: Option<u64>,
    /// Due until the application had the reply.
    pub app_rtt_ns: Option<u64>,
    /// `rtt_ns − peer_ns`, if the peer told its residence by kernel stamps.
    pub network_ns: Option<u64>,
    /// The responder's residence by its own kernel stamps.
    pub peer_ns: Option<u64>,
    /// Due until sent; known for every probe that was sent.
    pub lag_ns: Option<u64>,
    /// Application to driver; `None` with the application's clock.
    pub send_ns: Option<u64>,
    /// Driver to application; `None` with the application's clock.
    pub wakeup_ns: Option<u64>,
    /// Why kernel times (or the peer's residence) were thrown away.
    pub rejection: Option<Rejection>,
    /// What it was all derived from.
    pub stamps: Stamps,
}

impl Sample {
    /// A probe that got no reply.
    #[must_use]
    pub fn lost(seq: u64, outcome: Outcome, stamps: Stamps, sent: bool) -> Self {
        let lag_ns = stamps.tx_app.mono.since_ns(stamps.due);
        Self {
            seq,
            outcome,
            clock: None,
            rtt_ns: None,
            app_rtt_ns: None,
            network_ns: None,
            peer_ns: None,
            lag_ns: if sent { u64::try_from(lag_ns).ok() } else { None },
            send_ns: None,
            wakeup_ns: None,
            rejection: None,
            stamps,
        }
    }

    /// A probe whose reply the application had at `rx_app` (also stored into the stamps).
    ///
    /// `peer_ns` is the responder's residence by its kernel's stamps. The best clock present at
    /// *both* ends of the trip is chosen. Each duration is taken inside one clock, and
    /// `lag + send + rtt + wakeup = app_rtt` holds exactly, with `rtt = network + peer` where the
    /// peer is known. With hardware stamps the card-to-driver time of the reply is in `wakeup`.
    #[must_use]
    pub fn received(seq: u64, mut stamps: Stamps, rx_app: Now, peer_ns: Option<u64>) -> Self {
        stamps.rx_app = Some(rx_app);
        let lag_ns = stamps.tx_app.mono.since_ns(stamps.due);
        let by_application = rx_app.mono.since_ns(stamps.tx_app.mono);
        let mut sample = Self {
            outcome: Outcome::Received,
            clock: Some(Clock::Application),
            rtt_ns: Some(non_negative(by_application)),
            app_rtt_ns: Some(non_negative(lag_ns + by_application)),
            ..Self::lost(seq, Outcome::Received, stamps, true)
        };
        if let Err(rejection) = sample.split_by_kernel(rx_app, lag_ns) {
            sample.rejection = Some(rejection);
        }
        if let (Some(Clock::Kernel | Clock::Hardware), Some(rtt_ns), Some(peer_ns)) =
            (sample.clock, sample.rtt_ns, peer_ns)
        {
            match rtt_ns.checked_sub(peer_ns) {
                Some(network_ns) => {
                    sample.network_ns = Some(network_ns);
                    sample.peer_ns = Some(peer_ns);
                }
                None => sample.rejection = Some(Rejection::PeerExceedsRtt),
            }
        }
        sample
    }

    /// Replaces the application's times by the kernel's where both stamps are there and sound.
    fn split_by_kernel(&mut self, rx_app: Now, lag_ns: i64) -> Result<(), Rejection> {
        let stamps = self.stamps;
        let (Some(tx_sw), Some(rx_sw)) = (stamps.tx_sw, stamps.rx.sw) else { return Ok(()) };
        if rx_app.step_ns(stamps.tx_app).abs() > CLOCK_STEP_NS {
            return Err(Rejection::ClockStep);
        }
        let whole_ns = rx_app.wall.since_ns(stamps.tx_app.wall);
        let send_ns = tx_sw.since_ns(stamps.tx_app.wall);
        let (clock, rtt_ns) = match (stamps.tx_hw, stamps.rx.hw) {
            (Some(tx_hw), Some(rx_hw)) => (Clock::Hardware, rx_hw.since_ns(tx_hw)),
            _ => (Clock::Kernel, rx_sw.since_ns(tx_sw)),
        };
        let wakeup_ns = whole_ns - send_ns - rtt_ns;
        let stages = [send_ns, rtt_ns, wakeup_ns, lag_ns].map(u64::try_from);
        let [Ok(send_ns), Ok(rtt_ns), Ok(wakeup_ns), Ok(lag_ns)] = stages else {
            return Err(Rejection::Order);
        };
        self.clock = Some(clock);
        self.rtt_ns = Some(rtt_ns);
        self.send_ns = Some(send_ns);
        self.wakeup_ns = Some(wakeup_ns);
        self.app_rtt_ns = Some(lag_ns + send_ns + rtt_ns + wakeup_ns);
        Ok(())
    }

    /// The duration of one stage, if it was measured.
    #[must_use]
    pub const fn stage_ns(&self, stage: Stage) -> Option<u64> {
        match stage {
            Stage::Lag => self.lag_ns,
            Stage::Send => self.send_ns,
            Stage::Network => self.network_ns,
            Stage::Peer => self.peer_ns,
            Stage::Wakeup => self.wakeup_ns,
        }
    }
}

/// A difference that the monotonic clock keeps from being negative.
fn non_negative(ns: i64) -> u64 {
    u64::try_from(ns).unwrap_or(0)
}
