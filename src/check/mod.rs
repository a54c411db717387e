//! The flows of half-open checks: who is asked when, and what the answers mean. How a check is
//! made (a raw SYN, a kernel socket) is the I/O's business; these flows see [`Action::Check`] and
//! [`Event::Answered`] only.
//!
//! [`Action::Check`]: crate::event::Action::Check
//! [`Event::Answered`]: crate::event::Event::Answered

pub mod race;
pub mod sweep;
mod watch;

pub use watch::{Watch, WatchSettings};

use crate::dial::later;
use crate::event::{Answer, Failure};
use crate::sample::{CheckClock, CheckOutcome};
use crate::time::Mono;

/// The outcome that an answer means.
fn outcome(answer: &Answer) -> CheckOutcome {
    match answer.result {
        Ok(()) => CheckOutcome::Open,
        Err(failure) => CheckOutcome::Failed(failure),
    }
}

/// The answer to an attempt that began then, and what it means. One that came after the deadline is
/// none, although whoever was held up reads it first; only the kernel's clocks tell.
fn judge(answer: &Answer, began: Mono, deadline: Mono) -> (CheckOutcome, Answer) {
    if answer.rtt.is_some_and(|(_, rtt_ns)| later(began, rtt_ns) > deadline) {
        let result = Err(Failure::TimedOut);
        return (CheckOutcome::Timeout, Answer { result, rtt: None, ..*answer });
    }
    (outcome(answer), *answer)
}

/// The round trip of an answer that took `elapsed_ns` by our own clock, and the clock to trust.
///
/// The peer itself must have answered: an error of a router or of our own machine is no round
/// trip. Ours is taken only where nothing was retransmitted, or it would be a second too long;
/// where nobody tells of retransmissions, the time that they take does.
fn round_trip(answer: &Answer, elapsed_ns: u64) -> Option<(CheckClock, u64)> {
    let answered = matches!(answer.result, Ok(()) | Err(Failure::Refused));
    let ours = (answer.syn_retransmits == 0 && elapsed_ns < FIRST_RETRANSMIT_NS)
        .then_some((CheckClock::Application, elapsed_ns));
    answer.rtt.or(ours).filter(|_| answered)
}

/// When every system sends a second SYN: the initial timeout of RFC 6298 §2.1.
const FIRST_RETRANSMIT_NS: u64 = 1_000_000_000;
