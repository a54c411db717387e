//! Numbers for people: three significant digits and the unit that suits, pure text.

/// Nanoseconds as `850ns`, `1.23µs`, `12.3ms`, `123s`; `-` for none. Rounded half up; no digit is
/// shown that is not known, so below 1 µs and above 1000 s numbers stay whole.
#[must_use]
pub fn time_text(ns: Option<u64>) -> String {
    let Some(ns) = ns else { return "-".to_owned() };
    let rounded = three_digits(ns);
    for (unit_ns, unit) in [(1_000_000_000, "s"), (1_000_000, "ms"), (1_000, "µs")] {
        if rounded < unit_ns {
            continue;
        }
        let whole = rounded / unit_ns;
        let thousandths = rounded % unit_ns / (unit_ns / 1_000);
        return match whole {
            0..10 => format!("{whole}.{:02}{unit}", thousandths / 10),
            10..100 => format!("{whole}.{}{unit}", thousandths / 100),
            100..1_000 => format!("{whole}{unit}"),
            _ => format!("{}{unit}", ns.saturating_add(unit_ns / 2) / unit_ns),
        };
    }
    format!("{ns}ns")
}

/// A percentage with three significant digits. Never `0%` or `100%` unless it is exactly that.
#[must_use]
pub fn percent_text(percent: Option<f64>) -> String {
    match percent {
        None => "-".to_owned(),
        Some(percent) if percent <= 0.0 => "0%".to_owned(),
        Some(percent) if percent >= 100.0 => "100%".to_owned(),
        Some(percent) if percent < 0.01 => "<0.01%".to_owned(),
        Some(percent) if percent > 99.9 => ">99.9%".to_owned(),
        Some(percent) if percent < 9.995 => format!("{percent:.2}%"),
        Some(percent) => format!("{percent:.1}%"),
    }
}

/// `value` with all but its three leading digits rounded to zero.
fn three_digits(value: u64) -> u64 {
    let digits = value.checked_ilog10().map_or(1, |log| log + 1);
    let unit = 10_u64.pow(digits.saturating_sub(3));
    value.saturating_add(unit / 2) / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times() {
        for (ns, text) in [
            (0, "0ns"),
            (5, "5ns"),
            (999, "999ns"),
            (1_000, "1.00µs"),
            (1_234, "1.23µs"),
            (1_235, "1.24µs"),
            (9_994, "9.99µs"),
            (9_995, "10.0µs"),
            (12_345, "12.3µs"),
            (99_950, "100µs"),
            (123_456, "123µs"),
            (999_499, "999µs"),
            (999_500, "1.00ms"),
            (1_500_000, "1.50ms"),
            (999_600_000, "1.00s"),
            (12_345_678_901, "12.3s"),
            (999_600_000_000, "1000s"),
            (3_600_000_000_000, "3600s"),
            (u64::MAX, "18446744073s"),
        ] {
            assert_eq!(time_text(Some(ns)), text, "{ns}");
        }
        assert_eq!(time_text(None), "-");
    }

    #[test]
    fn percentages() {
        for (percent, text) in [
            (0.0, "0%"),
            (0.000_1, "<0.01%"),
            (0.01, "0.01%"),
            (0.1, "0.10%"),
            (2.345, "2.35%"),
            (9.994, "9.99%"),
            (9.996, "10.0%"),
            (12.5, "12.5%"),
            (99.9, "99.9%"),
            (99.99, ">99.9%"),
            (100.0, "100%"),
        ] {
            assert_eq!(percent_text(Some(percent)), text, "{percent}");
        }
        assert_eq!(percent_text(None), "-");
    }
}
