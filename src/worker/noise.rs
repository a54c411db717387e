//! What a measuring thread can resolve here: how late it wakes up from timed waits while there is
//! nothing to measure. Options of a thread go in, ns come out; the metric of running threads,
//! `rttscope_noise_floor_seconds`, is the same of the waits that they make anyway.

use std::io;
use std::time::Duration;

use super::{WorkerOptions, prepare_thread};
use crate::sys::clock;

/// Makes the calling thread a measuring thread, and measures for this long.
///
/// # Errors
/// If the I/O, the CPU or the priority is not to be had; the message names the flag.
pub fn lateness(options: WorkerOptions, time: Duration) -> io::Result<Vec<u64>> {
    let mut io = prepare_thread(options)?;
    let mut late_ns = Vec::new();
    let end = clock::mono().after(time);
    loop {
        let due = clock::mono().after(WAIT);
        if due > end {
            return Ok(late_ns);
        }
        while clock::mono() < due {
            io.wait(Some(due))?;
            while io.next_completion().is_some() {}
        }
        late_ns.push(u64::try_from(clock::mono().since_ns(due)).unwrap_or(0));
    }
}

/// Between two wake-ups: a thousand of them a second are no load.
const WAIT: Duration = Duration::from_millis(1);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;
    use crate::sys::{IoChoice, IoOptions, Priority};

    fn options(io: IoChoice, priority: Option<Priority>) -> WorkerOptions {
        WorkerOptions {
            name: "noise".to_owned(),
            io: IoOptions { backend: io, ..IoOptions::default() },
            cpu: None,
            priority,
            checks: None,
            changes_max: 1,
        }
    }

    #[test]
    fn each_backend_wakes_up_again_and_again() {
        for io in [IoChoice::Auto, IoChoice::Poll] {
            let late_ns = lateness(options(io, None), Duration::from_millis(200)).unwrap();
            // Each wait is a millisecond at least.
            assert!((2..=200).contains(&late_ns.len()), "{late_ns:?}");
        }
    }

    #[test]
    fn a_thread_that_is_not_to_be_had_is_named() {
        let options = WorkerOptions { cpu: Some(1_000_000), ..options(IoChoice::Poll, None) };
        let error = lateness(options, Duration::ZERO).unwrap_err();
        assert!(error.to_string().starts_with("--pin 1000000: "), "{error}");
    }
}
