//! How probes and checks end, and by which clock they were timed, as small numbers: so that a
//! record is a few words of memory, and writing one costs no search.

use crate::event::Failure;
use crate::sample::{CheckClock, CheckOutcome, Clock, Outcome};

/// The place of a probe's end in [`ENDS`].
pub(super) const fn of_outcome(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Received => 0,
        Outcome::Timeout => 2,
        Outcome::Lost(Failure::Eof) => 3,
        Outcome::Lost(Failure::Refused) => 4,
        Outcome::Lost(Failure::Reset) => 5,
        Outcome::Lost(Failure::Unreachable) => 6,
        Outcome::Lost(Failure::TimedOut) => 7,
        Outcome::Lost(Failure::Local(_)) => 8,
        Outcome::Lost(Failure::Stalled) => 9,
        Outcome::Lost(Failure::Other(_)) => 10,
        Outcome::Unresolved => 11,
    }
}

/// The place of a check's end in [`ENDS`].
pub(super) const fn of_check(outcome: CheckOutcome) -> u8 {
    match outcome {
        CheckOutcome::Open => 1,
        CheckOutcome::Timeout | CheckOutcome::Failed(Failure::TimedOut) => 2,
        CheckOutcome::Failed(Failure::Refused) => 4,
        CheckOutcome::Failed(Failure::Unreachable) => 6,
        CheckOutcome::Failed(Failure::Local(_)) => 8,
        CheckOutcome::Failed(_) => 10,
        CheckOutcome::Unresolved => 11,
    }
}

/// Whether the target answered as it should.
pub(super) const fn is_good(end: u8) -> bool {
    end < 2
}

/// The word for an end.
pub(super) fn end(place: u8) -> &'static str {
    ENDS.get(usize::from(place)).copied().unwrap_or("error")
}

/// The place of a probe's clock in [`CLOCKS`].
pub(super) const fn of_clock(clock: Option<Clock>) -> u8 {
    match clock {
        None => 0,
        Some(Clock::Hardware) => 1,
        Some(Clock::Kernel) => 2,
        Some(Clock::Application) => 3,
    }
}

/// The place of a check's clock in [`CLOCKS`].
pub(super) const fn of_check_clock(clock: Option<CheckClock>) -> u8 {
    match clock {
        None => 0,
        Some(CheckClock::Kernel) => 2,
        Some(CheckClock::Application) => 3,
        Some(CheckClock::Ebpf) => 4,
        Some(CheckClock::TcpInfo) => 5,
    }
}

/// The word for a clock.
pub(super) fn clock(place: u8) -> Option<&'static str> {
    CLOCKS.get(usize::from(place)).copied().flatten()
}

/// What the system said, where the end does not say it all.
pub(super) const fn errno(failure: Failure) -> Option<i32> {
    match failure {
        Failure::Local(errno) | Failure::Other(errno) => Some(errno),
        _ => None,
    }
}

const ENDS: [&str; 12] = [
    "received",
    "open",
    "timeout",
    "closed",
    "refused",
    "reset",
    "unreachable",
    "connect_timeout",
    "local_error",
    "stalled",
    "error",
    "unresolved",
];

const CLOCKS: [Option<&str>; 6] =
    [None, Some("hardware"), Some("kernel"), Some("application"), Some("ebpf"), Some("tcp_info")];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_words_are_those_of_lines_and_labels() {
        let failures = [
            Failure::Eof,
            Failure::Refused,
            Failure::Reset,
            Failure::Unreachable,
            Failure::TimedOut,
            Failure::Local(1),
            Failure::Stalled,
            Failure::Other(2),
        ];
        let outcomes = [Outcome::Received, Outcome::Timeout, Outcome::Unresolved];
        for outcome in outcomes.into_iter().chain(failures.map(Outcome::Lost)) {
            assert_eq!(end(of_outcome(outcome)), outcome.name());
            assert_eq!(is_good(of_outcome(outcome)), outcome == Outcome::Received);
        }
        let outcomes = [CheckOutcome::Open, CheckOutcome::Timeout, CheckOutcome::Unresolved];
        for outcome in outcomes.into_iter().chain(failures.map(CheckOutcome::Failed)) {
            assert_eq!(end(of_check(outcome)), outcome.name());
            assert_eq!(is_good(of_check(outcome)), outcome == CheckOutcome::Open);
        }
        for known in Clock::ALL {
            assert_eq!(clock(of_clock(Some(known))), Some(known.name()));
        }
        for known in CheckClock::ALL {
            assert_eq!(clock(of_check_clock(Some(known))), Some(known.name()));
        }
        assert_eq!((clock(of_clock(None)), clock(of_check_clock(None))), (None, None));
    }
}
