//! How long a reply may take. Round trips go in, the timeout of the next probe comes out: either
//! the configured one, or what RFC 6298 estimates.

/// A fixed timeout, or an estimated one.
///
/// Unlike RFC 6298 §5.5, an expired timeout is *not* doubled. TCP backs off to spare the network;
/// a probe that backs off hides the very stall it is there to show.
#[derive(Clone, Debug)]
pub(super) struct Timeout {
    timeout_ns: u64,
    adaptive: bool,
    /// Smoothed round trip and its variation.
    smoothed: Option<(u64, u64)>,
}

impl Timeout {
    /// `initial_ns` holds for ever unless `adaptive`; then only until the first round trip.
    pub(super) fn new(initial_ns: u64, adaptive: bool) -> Self {
        let timeout_ns = if adaptive {
            initial_ns.clamp(ADAPTIVE_TIMEOUT_NS_MIN, ADAPTIVE_TIMEOUT_NS_MAX)
        } else {
            initial_ns
        };
        Self { timeout_ns, adaptive, smoothed: None }
    }

    /// A reply took `rtt_ns`. Late replies count as well: they tell that the timeout is too short,
    /// and a sequence number leaves no doubt which probe they answer.
    pub(super) fn record(&mut self, rtt_ns: u64) {
        if !self.adaptive {
            return;
        }
        let rtt_ns = rtt_ns.min(ADAPTIVE_TIMEOUT_NS_MAX);
        let (smoothed_ns, variation_ns) = match self.smoothed {
            // RFC 6298 §2.2.
            None => (rtt_ns, rtt_ns / 2),
            // RFC 6298 §2.3 with alpha = 1/8 and beta = 1/4; the variation is updated first.
            Some((smoothed_ns, variation_ns)) => (
                (7 * smoothed_ns + rtt_ns) / 8,
                (3 * variation_ns + smoothed_ns.abs_diff(rtt_ns)) / 4,
            ),
        };
        self.smoothed = Some((smoothed_ns, variation_ns));
        self.timeout_ns = (smoothed_ns + (4 * variation_ns).max(GRANULARITY_NS))
            .clamp(ADAPTIVE_TIMEOUT_NS_MIN, ADAPTIVE_TIMEOUT_NS_MAX);
    }

    /// The timeout that the next probe gets.
    pub(super) const fn timeout_ns(&self) -> u64 {
        self.timeout_ns
    }

    /// The longest timeout that can ever be given.
    pub(super) const fn timeout_ns_max(&self) -> u64 {
        if self.adaptive { ADAPTIVE_TIMEOUT_NS_MAX } else { self.timeout_ns }
    }
}

/// Bounds of the estimated timeout: those of the system replaced.
const ADAPTIVE_TIMEOUT_NS_MIN: u64 = 100_000_000;
const ADAPTIVE_TIMEOUT_NS_MAX: u64 = 3_000_000_000;
/// The margin that a round trip without variation leaves: G of RFC 6298 §2.3. Without it the
/// timeout of a steady path converges to the round trip itself.
const GRANULARITY_NS: u64 = 10_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    /// Milliseconds in, milliseconds out.
    fn check(initial_ms: u64, adaptive: bool, rtts_ms: &[u64], expected_ms: u64) {
        let mut timeout = Timeout::new(initial_ms * 1_000_000, adaptive);
        for rtt_ms in rtts_ms {
            timeout.record(rtt_ms * 1_000_000);
        }
        assert_eq!(timeout.timeout_ns() / 1_000_000, expected_ms, "{rtts_ms:?}");
    }

    #[test]
    fn estimates_follow_rfc_6298() {
        check(20, false, &[500], 20);
        check(20, true, &[], 100);
        check(9_000, true, &[], 3_000);
        // SRTT = 200, RTTVAR = 100.
        check(1_000, true, &[200], 600);
        // RTTVAR = 75 + 25 = 100, SRTT = 175 + 37.5.
        check(1_000, true, &[200, 300], 612);
        check(1_000, true, &[1], 100);
        check(1_000, true, &[300; 1_000], 310);
        check(1_000, true, &[u64::MAX / 1_000_000], 3_000);
    }
}
