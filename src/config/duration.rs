//! Durations as Go and Prometheus write them (`10ms`, `1m30s`, `1.5s`), to `Duration` and back
//! without rounding. Text in, ns out; a text that is no whole number of ns is refused.

use std::time::Duration;

use super::BadValue;
use crate::time::NS_PER_SECOND;

/// A duration: numbers with units, added up. A bare `0` is zero, as in Go.
pub fn parse(text: &str) -> Result<Duration, BadValue> {
    parse_ns(text).map(Duration::from_nanos).map_err(|why| BadValue::new(why, "200ms"))
}

/// A duration between `min` and `max`; `example` is what to write instead of a bad one.
pub fn parse_within(
    text: &str,
    min: Duration,
    max: Duration,
    example: &str,
) -> Result<Duration, BadValue> {
    let refuse = |why: String| BadValue::new(why, example);
    let duration = Duration::from_nanos(parse_ns(text).map_err(refuse)?);
    if duration < min {
        return Err(refuse(format!("must be at least {}", to_text(min))));
    }
    if duration > max {
        return Err(refuse(format!("must be at most {}", to_text(max))));
    }
    Ok(duration)
}

/// The shortest text that [`parse`] reads back as the same duration (below 584 years).
#[must_use]
pub fn to_text(duration: Duration) -> String {
    let ns = duration.subsec_nanos();
    let seconds = duration.as_secs();
    if seconds == 0 {
        return match ns {
            0 => "0s".to_owned(),
            1..1_000 => format!("{ns}ns"),
            1_000..1_000_000 => format!("{}us", decimal(ns.into(), 3)),
            _ => format!("{}ms", decimal(ns.into(), 6)),
        };
    }
    let mut text = String::new();
    for (unit, count) in
        [("d", seconds / 86_400), ("h", seconds / 3_600 % 24), ("m", seconds / 60 % 60)]
    {
        if count > 0 {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    let rest_ns = seconds % 60 * NS_PER_SECOND + u64::from(ns);
    if rest_ns > 0 {
        text.push_str(&decimal(rest_ns, 9));
        text.push('s');
    }
    text
}

/// `value / 10^digits` without trailing zeros.
fn decimal(value: u64, digits: u32) -> String {
    let scale = 10_u64.pow(digits);
    let width = usize::try_from(digits).expect("at most 9");
    let fraction = format!("{:0width$}", value % scale);
    let fraction = fraction.trim_end_matches('0');
    let whole = value / scale;
    if fraction.is_empty() { whole.to_string() } else { format!("{whole}.{fraction}") }
}

fn parse_ns(text: &str) -> Result<u64, String> {
    if text == "0" {
        return Ok(0);
    }
    if text.is_empty() {
        return Err("is empty".to_owned());
    }
    if text.starts_with('-') {
        return Err("must not be negative".to_owned());
    }
    let mut total_ns = 0_u64;
    let mut rest = text;
    while !rest.is_empty() {
        let (part_ns, tail) = parse_part(rest)?;
        total_ns = total_ns.checked_add(part_ns).ok_or_else(too_long)?;
        rest = tail;
    }
    Ok(total_ns)
}

/// One number with its unit, in ns, and what follows it.
fn parse_part(text: &str) -> Result<(u64, &str), String> {
    let (whole, rest) = split_digits(text);
    let (fraction, rest) = rest.strip_prefix('.').map_or(("", rest), split_digits);
    if whole.is_empty() && fraction.is_empty() {
        return Err("is no duration".to_owned());
    }
    let unit_end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(unit_end);
    let unit_ns = match unit {
        "" => return Err("has no unit (ns, us, ms, s, m, h, d)".to_owned()),
        "ns" => 1,
        // Go takes both the micro sign and the Greek letter.
        "us" | "\u{b5}s" | "\u{3bc}s" => 1_000,
        "ms" => 1_000_000,
        "s" => NS_PER_SECOND,
        "m" => 60 * NS_PER_SECOND,
        "h" => 3_600 * NS_PER_SECOND,
        "d" => 86_400 * NS_PER_SECOND,
        "w" => 7 * 86_400 * NS_PER_SECOND,
        // Prometheus: a year has 365 days.
        "y" => 365 * 86_400 * NS_PER_SECOND,
        _ => return Err("has an unknown unit (known: ns, us, ms, s, m, h, d)".to_owned()),
    };
    let whole: u64 = if whole.is_empty() { 0 } else { whole.parse().map_err(|_| too_long())? };
    whole
        .checked_mul(unit_ns)
        .ok_or_else(too_long)?
        .checked_add(fraction_ns(fraction, unit_ns)?)
        .ok_or_else(too_long)
        .map(|ns| (ns, rest))
}

/// `0.fraction` of a unit. Eighteen digits suffice: no unit above has more factors 2 or 5.
fn fraction_ns(fraction: &str, unit_ns: u64) -> Result<u64, String> {
    let digits = fraction.trim_end_matches('0');
    let inexact = || "is no whole number of nanoseconds".to_owned();
    if digits.is_empty() {
        return Ok(0);
    }
    if digits.len() > 18 {
        return Err(inexact());
    }
    let scale = 10_u128.pow(u32::try_from(digits.len()).map_err(|_| inexact())?);
    let scaled = digits.parse::<u128>().map_err(|_| inexact())? * u128::from(unit_ns);
    if scaled % scale != 0 {
        return Err(inexact());
    }
    u64::try_from(scaled / scale).map_err(|_| too_long())
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len()))
}

fn too_long() -> String {
    "is longer than 584 years".to_owned()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use proptest::prelude::*;

    use super::*;

    fn check(text: &str, expected: Result<u64, &str>) {
        let parsed = parse(text).map(crate::time::duration_ns).map_err(|bad| bad.why);
        assert_eq!(parsed, expected.map_err(str::to_owned), "{text:?}");
    }

    #[test]
    fn texts_and_their_ns() {
        for (text, ns) in [
            ("0", 0),
            ("0s", 0),
            ("1ns", 1),
            ("10ms", 10_000_000),
            ("100us", 100_000),
            ("100\u{b5}s", 100_000),
            ("100\u{3bc}s", 100_000),
            ("1m30s", 90_000_000_000),
            ("1.5s", 1_500_000_000),
            (".5s", 500_000_000),
            ("5.s", 5_000_000_000),
            ("1.50000000000000000000s", 1_500_000_000),
            ("0.000000001s", 1),
            ("1h", 3_600_000_000_000),
            ("1d", 86_400_000_000_000),
            ("1w1d", 691_200_000_000_000),
            ("30s1m", 90_000_000_000),
            ("18446744073709551615ns", u64::MAX),
        ] {
            check(text, Ok(ns));
        }
    }

    #[test]
    fn what_is_no_duration() {
        let unknown = "has an unknown unit (known: ns, us, ms, s, m, h, d)";
        for (text, why) in [
            ("", "is empty"),
            ("-5ms", "must not be negative"),
            ("ms", "is no duration"),
            ("+5ms", "is no duration"),
            (" 5ms", "is no duration"),
            (".s", "is no duration"),
            ("200", "has no unit (ns, us, ms, s, m, h, d)"),
            ("1m30", "has no unit (ns, us, ms, s, m, h, d)"),
            ("5 ms", unknown),
            ("5sec", unknown),
            ("5MS", unknown),
            ("0.5ns", "is no whole number of nanoseconds"),
            ("1.0000000001s", "is no whole number of nanoseconds"),
            ("0.0000000000000000001y", "is no whole number of nanoseconds"),
            ("18446744073709551616ns", "is longer than 584 years"),
            ("99999999999999999999999h", "is longer than 584 years"),
            ("600y", "is longer than 584 years"),
        ] {
            check(text, Err(why));
        }
    }

    #[test]
    fn the_text_is_the_shortest() {
        for (ns, text) in [
            (0, "0s"),
            (999, "999ns"),
            (1_500, "1.5us"),
            (100_000, "100us"),
            (200_000_000, "200ms"),
            (1_000_000_000, "1s"),
            (90_000_000_000, "1m30s"),
            (61_500_000_000, "1m1.5s"),
            (3_600_000_000_000, "1h"),
            (600_000_000_000, "10m"),
            (90_000_000_000_000, "1d1h"),
        ] {
            assert_eq!(to_text(Duration::from_nanos(ns)), text);
        }
    }

    #[test]
    fn ranges_name_their_ends() {
        let within = |text| {
            let (min, max) = (Duration::from_micros(10), Duration::from_secs(3_600));
            parse_within(text, min, max, "200ms").map_err(|bad| bad.to_string())
        };
        assert_eq!(within("10us").unwrap(), Duration::from_micros(10));
        assert_eq!(within("1h").unwrap(), Duration::from_secs(3_600));
        assert_eq!(within("9us").unwrap_err(), "must be at least 10us; write e.g. 200ms");
        assert_eq!(within("61m").unwrap_err(), "must be at most 1h; write e.g. 200ms");
    }

    proptest! {
        #[test]
        fn durations_survive_the_round_trip(ns: u64) {
            let duration = Duration::from_nanos(ns);
            prop_assert_eq!(parse(&to_text(duration)).unwrap(), duration);
        }

        #[test]
        fn nothing_panics(text in ".*", like in "[0-9.]{0,24}(ns|us|ms|s|m|h|d|y)?[0-9.]{0,24}s?") {
            let _ = parse(&text);
            let _ = parse(&like);
        }
    }
}
