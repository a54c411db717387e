//! One function a setting: from the text that a user wrote to a value inside its limits, or to
//! the reason why not. The command line, the seed's command line and files all come through here.

use std::collections::HashSet;
use std::net::IpAddr;
use std::num::NonZeroU8;
use std::time::Duration;

use super::limits::{
    CONCURRENCY_MAX, CONNECTIONS_CONFIGURED_MAX, CPUS_MAX, IDLE_TIMEOUT_MAX, IDLE_TIMEOUT_MIN,
    IN_FLIGHT_MAX, INTERVAL_MAX, INTERVAL_MIN, PADDING_BYTES_MAX, PATHS_MAX, REQUESTS_MAX,
    THREADS_MAX, WINDOW_MAX,
};
use super::{BadValue, Slo, SloClock, Target, address, duration};
use crate::sys::Priority;
use crate::time::duration_ns;

/// [`super::ProbeSection::interval`].
pub fn interval(text: &str) -> Result<Duration, BadValue> {
    duration::parse_within(text, INTERVAL_MIN, INTERVAL_MAX, "200ms")
}

/// [`super::ProbeSection::timeout`].
pub fn timeout(text: &str) -> Result<Duration, BadValue> {
    duration::parse_within(text, INTERVAL_MIN, INTERVAL_MAX, "800ms")
}

/// [`super::ProbeSection::duration`].
pub fn run_duration(text: &str) -> Result<Duration, BadValue> {
    let max = Duration::from_secs(365 * 86_400);
    duration::parse_within(text, INTERVAL_MIN, max, "30s")
}

/// [`super::ServeSection::idle_timeout`].
pub fn idle_timeout(text: &str) -> Result<Duration, BadValue> {
    duration::parse_within(text, IDLE_TIMEOUT_MIN, IDLE_TIMEOUT_MAX, "10m")
}

/// [`super::ServeSection::connections_max`].
pub fn connections_max(text: &str) -> Result<usize, BadValue> {
    number(text, 1, CONNECTIONS_CONFIGURED_MAX, "10000")
}

/// [`super::ProbeSection::window`].
pub fn window(text: &str) -> Result<usize, BadValue> {
    number(text, 1, as_u64(WINDOW_MAX), "100")
}

/// [`super::ProbeSection::count`].
pub fn count(text: &str) -> Result<u64, BadValue> {
    number(text, 1, u64::MAX, "100")
}

/// [`super::CheckSection::requests`].
pub fn requests(text: &str) -> Result<u64, BadValue> {
    number(text, 1, REQUESTS_MAX, "1000")
}

/// [`super::CheckSection::concurrency`].
pub fn concurrency(text: &str) -> Result<usize, BadValue> {
    number(text, 1, as_u64(CONCURRENCY_MAX), "64")
}

/// [`super::CheckSection::timeout`], in ms.
pub fn timeout_ms(text: &str) -> Result<Duration, BadValue> {
    number(text, 1, duration_ns(INTERVAL_MAX) / 1_000_000, "1000").map(Duration::from_millis)
}

/// [`super::ProbeSection::padding_bytes`].
pub fn padding_bytes(text: &str) -> Result<u16, BadValue> {
    number(text, 0, PADDING_BYTES_MAX.into(), "1000")
}

/// [`super::MeasuringSection::threads`].
pub fn threads(text: &str) -> Result<usize, BadValue> {
    number(text, 1, as_u64(THREADS_MAX), "2")
}

/// [`crate::sys::socket::SocketOptions::ttl`].
pub fn ttl(text: &str) -> Result<u8, BadValue> {
    number(text, 1, 255, "64")
}

/// [`crate::sys::socket::SocketOptions::source`].
pub fn source(text: &str) -> Result<IpAddr, BadValue> {
    text.parse().map_err(|_| BadValue::new("is no IP address of this machine", "10.0.0.1"))
}

/// [`crate::sys::socket::SocketOptions::interface`].
pub fn interface(text: &str) -> Result<String, BadValue> {
    // IFNAMSIZ is 16 with the final zero; Windows and macOS names are shorter or numbers.
    let good = (1..=15).contains(&text.len())
        && !text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '/');
    if good {
        Ok(text.to_owned())
    } else {
        Err(BadValue::new("is no interface name (1 to 15 bytes, no space, no /)", "eth0"))
    }
}

/// [`crate::sys::socket::SocketOptions::dscp`]: 0 to 63, or a name of RFC 2474, 2597, 3246, 5865
/// or 8622.
pub fn dscp(text: &str) -> Result<u8, BadValue> {
    let refuse = |why: &str, instead: &str| Err(BadValue::new(why, instead));
    if let Ok(value) = text.parse::<u8>() {
        return match value {
            0..=63 => Ok(value),
            _ if value % 4 == 0 => {
                refuse("is beyond 63 (a TOS byte is 4 times the DSCP)", &(value / 4).to_string())
            }
            _ => refuse("is beyond 63", "46"),
        };
    }
    let upper = text.to_ascii_uppercase();
    match upper.as_str() {
        "EF" => return Ok(46),
        "VA" => return Ok(44),
        "LE" => return Ok(1),
        "BE" | "DF" => return Ok(0),
        _ => {}
    }
    let digit = |byte: u8| byte.wrapping_sub(b'0');
    match upper.as_bytes() {
        [b'C', b'S', class @ b'0'..=b'7'] => Ok(digit(*class) * 8),
        [b'A', b'F', class @ b'1'..=b'4', drop @ b'1'..=b'3'] => {
            Ok(digit(*class) * 8 + digit(*drop) * 2)
        }
        _ => refuse("is no DSCP (0 to 63, EF, CS0 to CS7, AF11 to AF43)", "EF"),
    }
}

/// `[name=]threshold:percent%[:clock]`, as `100us:99.9%`; the name is the threshold unless given,
/// with the clock behind it if that is not the best one.
pub fn slo(text: &str) -> Result<Slo, BadValue> {
    let refuse = |why: &str| BadValue::new(why, SLO_EXAMPLE);
    let (name, objective) =
        text.split_once('=').map_or((None, text), |(name, rest)| (Some(name), rest));
    let (threshold, rest) =
        objective.split_once(':').ok_or_else(|| refuse("is not threshold:percent"))?;
    let (percent, clock) =
        rest.split_once(':').map_or((rest, None), |(percent, clock)| (percent, Some(clock)));
    let clock = clock.map(slo_clock).transpose()?.unwrap_or_default();
    let threshold = slo_threshold(threshold)?;
    let objective_ratio = objective_ratio(percent)?;
    let name = match name {
        None if clock == SloClock::Best => duration::to_text(threshold),
        None => {
            let clock = SloClock::NAMED.iter().find(|(_, named)| *named == clock);
            format!("{}-{}", duration::to_text(threshold), clock.map_or("", |(name, _)| name))
        }
        Some(name) => {
            address::check_name(name).map_err(|why| BadValue::new(why, "fast=100us:99.9%"))?;
            name.to_owned()
        }
    };
    Ok(Slo { name, threshold, objective_ratio, clock })
}

/// [`Slo::threshold`].
pub fn slo_threshold(text: &str) -> Result<Duration, BadValue> {
    let refuse = |why: &str| BadValue::new(why, SLO_EXAMPLE);
    let threshold = duration::parse(text)
        .map_err(|bad| refuse(&format!("has a threshold that {}", bad.why)))?;
    if threshold.is_zero() {
        return Err(refuse("has a threshold of 0"));
    }
    Ok(threshold)
}

/// [`super::ProbeSection::paths`].
pub fn paths(text: &str) -> Result<NonZeroU8, BadValue> {
    let good = text.parse().ok().filter(|paths: &NonZeroU8| paths.get() <= PATHS_MAX);
    good.ok_or_else(|| BadValue::new(format!("is no number of 1 to {PATHS_MAX}"), "8"))
}

/// The end of a classic bucket.
pub fn bucket(text: &str) -> Result<Duration, BadValue> {
    duration::parse_within(text, Duration::from_nanos(1), INTERVAL_MAX, "[100us, 1ms]")
}

/// [`Slo::objective_ratio`], as `99.9%`.
pub fn objective_ratio(text: &str) -> Result<f64, BadValue> {
    let refuse = |why: &str| BadValue::new(why, SLO_EXAMPLE);
    let digits = text.strip_suffix('%').ok_or_else(|| refuse("has no % at its end"))?;
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return Err(refuse("has a percentage that is no number"));
    }
    // Shifting the decimal exponent keeps 99.9% the float nearest to 0.999; dividing does not.
    let ratio: f64 =
        format!("{digits}e-2").parse().map_err(|_| refuse("has a percentage that is no number"))?;
    if ratio > 0.0 && ratio < 1.0 {
        Ok(ratio)
    } else {
        Err(refuse("must be above 0% and below 100%"))
    }
}

/// [`Slo::clock`].
pub fn slo_clock(text: &str) -> Result<SloClock, BadValue> {
    let found = SloClock::NAMED.iter().find(|(name, _)| *name == text);
    found.map(|(_, clock)| *clock).ok_or_else(|| {
        BadValue::new("has no clock of best, kernel or application", "100us:99.9%:application")
    })
}

/// An objective as users write it.
const SLO_EXAMPLE: &str = "100us:99.9%";

/// [`super::MeasuringSection::pin`]: CPU numbers and ranges, as `0,2-3`, each CPU once.
pub fn pin(text: &str) -> Result<Vec<usize>, BadValue> {
    let refuse = |why: String| BadValue::new(why, "0,2-3");
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let cpu = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let number = text.parse::<usize>().ok().filter(|cpu| digits && *cpu < CPUS_MAX);
            number.ok_or_else(|| refuse(format!("is no list of CPUs (0 to {})", CPUS_MAX - 1)))
        };
        let (first, last) = (cpu(first)?, cpu(last)?);
        if first > last {
            return Err(refuse(format!("has a range that runs backwards, {first}-{last}")));
        }
        cpus.extend(first..=last);
    }
    let mut seen = HashSet::new();
    match cpus.iter().find(|cpu| !seen.insert(**cpu)) {
        Some(cpu) => Err(refuse(format!("names CPU {cpu} twice"))),
        None => Ok(cpus),
    }
}

/// [`super::MeasuringSection::priority`]: `nice:-20` to `nice:19`, `fifo:1` to `fifo:99`.
pub fn priority(text: &str) -> Result<Priority, BadValue> {
    match text.split_once(':') {
        Some(("nice", value)) => match value.parse() {
            Ok(nice @ -20..=19) => Ok(Priority::Nice(nice)),
            _ => Err(BadValue::new("must be between nice:-20 and nice:19", "nice:-10")),
        },
        Some(("fifo", value)) => match value.parse() {
            Ok(fifo @ 1..=99) => Ok(Priority::Fifo(fifo)),
            _ => Err(BadValue::new("must be between fifo:1 and fifo:99", "fifo:50")),
        },
        _ => Err(BadValue::new("is no priority (nice:NUMBER or fifo:NUMBER)", "nice:-10")),
    }
}

/// Whether a target's probes in flight stay within their limit; the complaint is about `timeout`.
pub fn check_in_flight(interval: Duration, timeout: Duration) -> Result<(), BadValue> {
    let slots = duration_ns(timeout).div_ceil(duration_ns(interval).max(1));
    if slots <= as_u64(IN_FLIGHT_MAX) {
        return Ok(());
    }
    let longest = interval.saturating_mul(u32::try_from(IN_FLIGHT_MAX).unwrap_or(u32::MAX));
    let why = format!(
        "is {slots} intervals of {}, and at most {IN_FLIGHT_MAX} probes of a target are in flight",
        duration::to_text(interval)
    );
    Err(BadValue::new(why, duration::to_text(longest)))
}

/// Whether replies within the objective's threshold are waited for at all.
pub fn check_threshold(slo: &Slo, timeout: Duration) -> Result<(), BadValue> {
    if slo.threshold <= timeout {
        return Ok(());
    }
    let timeout = duration::to_text(timeout);
    Err(BadValue::new(
        format!("has a threshold beyond the timeout of {timeout}"),
        format!("{timeout}:99.9%"),
    ))
}

/// The first target whose name an earlier one has.
#[must_use]
pub fn repeated_name(targets: &[Target]) -> Option<&Target> {
    let mut seen = HashSet::new();
    targets.iter().find(|target| !seen.insert(target.name.as_str()))
}

/// A whole number within `min..=max`.
pub(super) fn number<T: TryFrom<u64>>(
    text: &str,
    min: u64,
    max: u64,
    example: &str,
) -> Result<T, BadValue> {
    let refuse = |why: String| BadValue::new(why, example);
    let digits = text.strip_prefix('-').unwrap_or(text);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(refuse("is no whole number".to_owned()));
    }
    if digits.len() < text.len() {
        return Err(refuse(format!("must be at least {min}")));
    }
    match text.parse::<u64>() {
        Ok(value) if value < min => Err(refuse(format!("must be at least {min}"))),
        Ok(value) if value <= max => {
            T::try_from(value).map_err(|_| refuse(format!("must be at most {max}")))
        }
        _ => Err(refuse(format!("must be at most {max}"))),
    }
}

fn as_u64(value: usize) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::fmt::Debug;

    use proptest::prelude::*;

    use super::*;
    use crate::config::{defaults, limits};

    fn check<T: PartialEq + Debug>(
        parse: impl Fn(&str) -> Result<T, BadValue>,
        text: &str,
        expected: Result<T, &str>,
    ) {
        let parsed = parse(text).map_err(|bad| bad.to_string());
        assert_eq!(parsed, expected.map_err(str::to_owned), "{text:?}");
    }

    #[test]
    fn numbers_name_their_limits() {
        check(threads, "64", Ok(64));
        check(threads, "0", Err("must be at least 1; write e.g. 2"));
        check(threads, "-3", Err("must be at least 1; write e.g. 2"));
        check(threads, "65", Err("must be at most 64; write e.g. 2"));
        check(threads, "2.5", Err("is no whole number; write e.g. 2"));
        check(threads, "", Err("is no whole number; write e.g. 2"));
        check(threads, "+2", Err("is no whole number; write e.g. 2"));
        check(window, "65536", Ok(65_536));
        check(window, "65537", Err("must be at most 65536; write e.g. 100"));
        check(count, "18446744073709551615", Ok(u64::MAX));
        check(
            count,
            "18446744073709551616",
            Err("must be at most 18446744073709551615; write e.g. 100"),
        );
        check(padding_bytes, "0", Ok(0));
        check(padding_bytes, "1401", Err("must be at most 1400; write e.g. 1000"));
        check(connections_max, defaults::CONNECTIONS_MAX, Ok(limits::CONNECTIONS_MAX));
        check(ttl, "255", Ok(255));
        check(ttl, "256", Err("must be at most 255; write e.g. 64"));
        check(requests, "0", Err("must be at least 1; write e.g. 1000"));
        check(requests, "1000000001", Err("must be at most 1000000000; write e.g. 1000"));
        check(concurrency, "16384", Ok(16_384));
        check(concurrency, "16385", Err("must be at most 16384; write e.g. 64"));
        check(timeout_ms, "3600000", Ok(Duration::from_secs(3_600)));
        check(timeout_ms, "1s", Err("is no whole number; write e.g. 1000"));
        check(timeout_ms, "0", Err("must be at least 1; write e.g. 1000"));
        check(connections_max, "1048577", Err("must be at most 1048576; write e.g. 10000"));
    }

    #[test]
    fn dscp_by_number_and_name() {
        for (text, value) in [
            ("0", 0),
            ("63", 63),
            ("EF", 46),
            ("ef", 46),
            ("CS0", 0),
            ("cs7", 56),
            ("AF11", 10),
            ("AF43", 38),
            ("LE", 1),
            ("VA", 44),
            ("BE", 0),
        ] {
            check(dscp, text, Ok(value));
        }
        let none = "is no DSCP (0 to 63, EF, CS0 to CS7, AF11 to AF43); write e.g. EF";
        for text in ["", "CS8", "AF14", "AF51", "AF", "-1", "256", "EF "] {
            check(dscp, text, Err(none));
        }
        let byte = "is beyond 63 (a TOS byte is 4 times the DSCP); write e.g. 46";
        check(dscp, "184", Err(byte));
        check(dscp, "65", Err("is beyond 63; write e.g. 46"));
    }

    #[test]
    fn objectives() {
        let by = |clock, name: &str, threshold_us, objective_ratio| {
            let threshold = Duration::from_micros(threshold_us);
            Ok(Slo { name: name.to_owned(), threshold, objective_ratio, clock })
        };
        let good = |name: &str, threshold_us, ratio| by(SloClock::Best, name, threshold_us, ratio);
        check(slo, "100us:99.9%:best", good("100us", 100, 0.999));
        check(slo, "100us:99.9%:kernel", by(SloClock::Kernel, "100us-kernel", 100, 0.999));
        check(slo, "a=1ms:99%:application", by(SloClock::Application, "a", 1_000, 0.99));
        for text in ["100us:99.9%:", "100us:99.9%:atomic", "100us:99.9%:best:best"] {
            let none = "has no clock of best, kernel or application";
            check(slo, text, Err(&format!("{none}; write e.g. 100us:99.9%:application")));
        }
        check(slo, "100us:99.9%", good("100us", 100, 0.999));
        check(slo, "fast=50us:99%", good("fast", 50, 0.99));
        check(slo, "1500us:99.99%", good("1.5ms", 1_500, 0.9999));
        for (text, why) in [
            ("", "is not threshold:percent"),
            ("100us", "is not threshold:percent"),
            ("100:99%", "has a threshold that has no unit (ns, us, ms, s, m, h, d)"),
            ("0:99%", "has a threshold of 0"),
            ("100us:0.999", "has no % at its end"),
            ("100us:%", "has a percentage that is no number"),
            ("100us:.%", "has a percentage that is no number"),
            ("100us:nan%", "has a percentage that is no number"),
            ("100us:0%", "must be above 0% and below 100%"),
            ("100us:100%", "must be above 0% and below 100%"),
        ] {
            check(slo, text, Err(&format!("{why}; write e.g. 100us:99.9%")));
        }
        check(slo, "=1ms:99%", Err("has an empty name; write e.g. fast=100us:99.9%"));
    }

    #[test]
    fn cpus() {
        check(pin, "0", Ok(vec![0]));
        check(pin, "0,2-3", Ok(vec![0, 2, 3]));
        check(pin, "3,1", Ok(vec![3, 1]));
        let none = "is no list of CPUs (0 to 8191); write e.g. 0,2-3";
        for text in ["", ",", "0,", "a", "-1", "1-", "8192", "0-99999999999999999999", "+1"] {
            check(pin, text, Err(none));
        }
        check(pin, "3-1", Err("has a range that runs backwards, 3-1; write e.g. 0,2-3"));
        check(pin, "0-2,1", Err("names CPU 1 twice; write e.g. 0,2-3"));
    }

    #[test]
    fn priorities() {
        check(priority, "nice:-20", Ok(Priority::Nice(-20)));
        check(priority, "nice:19", Ok(Priority::Nice(19)));
        check(priority, "fifo:99", Ok(Priority::Fifo(99)));
        let nice = "must be between nice:-20 and nice:19; write e.g. nice:-10";
        check(priority, "nice:20", Err(nice));
        check(priority, "fifo:0", Err("must be between fifo:1 and fifo:99; write e.g. fifo:50"));
        for text in ["", "-10", "rr:3", "nice"] {
            let none = "is no priority (nice:NUMBER or fifo:NUMBER); write e.g. nice:-10";
            check(priority, text, Err(none));
        }
    }

    #[test]
    fn sockets() {
        check(source, "::1", Ok("::1".parse().unwrap()));
        check(source, "eth0", Err("is no IP address of this machine; write e.g. 10.0.0.1"));
        check(interface, "eth0.100", Ok("eth0.100".to_owned()));
        let none = "is no interface name (1 to 15 bytes, no space, no /); write e.g. eth0";
        for text in ["", "a b", "a/b", "sixteen-bytes-xx"] {
            check(interface, text, Err(none));
        }
    }

    #[test]
    fn limits_between_settings() {
        let ms = Duration::from_millis;
        assert_eq!(check_in_flight(ms(1), ms(1_024)), Ok(()));
        assert_eq!(check_in_flight(ms(200), ms(800)), Ok(()));
        assert_eq!(
            check_in_flight(Duration::from_micros(100), ms(800)).unwrap_err().to_string(),
            "is 8000 intervals of 100us, and at most 1024 probes of a target are in flight; \
             write e.g. 102.4ms"
        );
        let objective = slo("1s:99%").unwrap();
        assert_eq!(check_threshold(&objective, ms(1_000)), Ok(()));
        assert_eq!(
            check_threshold(&objective, ms(800)).unwrap_err().to_string(),
            "has a threshold beyond the timeout of 800ms; write e.g. 800ms:99.9%"
        );
        let targets: Vec<Target> =
            ["x=a:1", "a:1", "y=a:1", "x=b:1"].iter().map(|text| text.parse().unwrap()).collect();
        assert_eq!(repeated_name(&targets).unwrap().address.host, "b");
        assert_eq!(repeated_name(&targets[..3]), None);
    }

    proptest! {
        #[test]
        fn nothing_panics(
            text in ".*",
            like in "[a-zA-Z]{0,4}[=:]?[0-9.,-]{0,24}[:us%]{0,4}[0-9.]{0,9}%?",
        ) {
            for text in [text, like] {
                let _ = (interval(&text), run_duration(&text), idle_timeout(&text), count(&text));
                let _ = (dscp(&text), slo(&text), pin(&text), priority(&text), ttl(&text));
                let _ = (source(&text), interface(&text), padding_bytes(&text));
                let _ = (requests(&text), concurrency(&text), timeout_ms(&text));
            }
        }
    }
}
