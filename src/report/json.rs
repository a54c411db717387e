//! JSON lines of `probe --json`: one object a probe, or a half-open check with `--check`, and a
//! summary at the end. The order of keys
//! is a contract; what was not measured is `null`; times are ns, stamps Unix ns of the wall clock
//! (`tx_hw` and `rx_hw` are the network card's own clock, as it gave them).

use std::time::Duration;

use serde::Serialize;

use super::{Counts, Quantiles, Row, ip_text, total_counts};
use crate::sample::{CheckClock, CheckSample, Clock, Sample};
use crate::time::{Phc, Wall, duration_ns};

/// One probe.
#[derive(Serialize)]
struct Line<'a> {
    target: &'a str,
    address: &'a str,
    seq: u64,
    outcome: &'static str,
    clock: Option<&'static str>,
    rtt_ns: Option<u64>,
    app_rtt_ns: Option<u64>,
    network_ns: Option<u64>,
    peer_ns: Option<u64>,
    lag_ns: Option<u64>,
    send_ns: Option<u64>,
    wakeup_ns: Option<u64>,
    stamps: LineStamps,
}

#[derive(Serialize)]
struct LineStamps {
    due: u64,
    tx_app: Option<u64>,
    tx_sched: Option<u64>,
    tx_sw: Option<u64>,
    tx_hw: Option<u64>,
    tx_ack: Option<u64>,
    rx_hw: Option<u64>,
    rx_sw: Option<u64>,
    rx_app: Option<u64>,
}

/// One half-open check of a prober.
#[derive(Serialize)]
struct CheckLine<'a> {
    target: &'a str,
    address: &'a str,
    seq: u64,
    ip: Option<String>,
    port: Option<u16>,
    method: &'static str,
    outcome: &'static str,
    clock: Option<&'static str>,
    rtt_ns: Option<u64>,
    elapsed_ns: u64,
    lag_ns: u64,
    syn_retransmits: u32,
    completed: bool,
    due: u64,
    tx_app: u64,
}

/// The end of a run.
#[derive(Serialize)]
struct SummaryLine<'a> {
    summary: Summary<'a>,
}

#[derive(Serialize)]
struct Summary<'a> {
    duration_ns: u64,
    targets: Vec<TargetSummary<'a>>,
    total: Numbers,
}

#[derive(Serialize)]
struct TargetSummary<'a> {
    target: &'a str,
    address: &'a str,
    clock: Option<&'static str>,
    #[serde(flatten)]
    numbers: Numbers,
}

#[derive(Serialize)]
struct Numbers {
    sent: u64,
    received: u64,
    timeouts: u64,
    in_flight: u64,
    skipped: u64,
    late: u64,
    loss_percent: Option<f64>,
    rtt_ns_p50: Option<u64>,
    rtt_ns_p99: Option<u64>,
    rtt_ns_p999: Option<u64>,
    rtt_ns_max: Option<u64>,
}

/// Appends the line of one probe to `buffer`, newline included; allocates only to grow it.
///
/// A probe that was never sent (its `lag_ns` is unknown) has no `tx_app`.
pub fn append_sample(buffer: &mut Vec<u8>, target: &str, address: &str, sample: &Sample) {
    let stamps = &sample.stamps;
    let wall = |stamp: Option<Wall>| stamp.map(Wall::as_ns);
    append(
        buffer,
        &Line {
            target,
            address,
            seq: sample.seq,
            outcome: sample.outcome.name(),
            clock: sample.clock.map(Clock::name),
            rtt_ns: sample.rtt_ns,
            app_rtt_ns: sample.app_rtt_ns,
            network_ns: sample.network_ns,
            peer_ns: sample.peer_ns,
            lag_ns: sample.lag_ns,
            send_ns: sample.send_ns,
            wakeup_ns: sample.wakeup_ns,
            stamps: LineStamps {
                due: stamps.due_wall().as_ns(),
                tx_app: sample.lag_ns.map(|_| stamps.tx_app.wall.as_ns()),
                tx_sched: wall(stamps.tx_sched),
                tx_sw: wall(stamps.tx_sw),
                tx_hw: stamps.tx_hw.map(Phc::as_ns),
                tx_ack: wall(stamps.tx_ack),
                rx_hw: stamps.rx.hw.map(Phc::as_ns),
                rx_sw: wall(stamps.rx.sw),
                rx_app: stamps.rx_app.map(|now| now.wall.as_ns()),
            },
        },
    );
}

/// Appends the line of one half-open check to `buffer`, newline included. `due` and `tx_app` are
/// Unix ns.
pub fn append_check(buffer: &mut Vec<u8>, target: &str, address: &str, check: &CheckSample) {
    let lag_ns = check.tx_app.mono.since_ns(check.due);
    append(
        buffer,
        &CheckLine {
            target,
            address,
            seq: check.seq,
            ip: check.to.map(ip_text),
            port: check.to.map(|to| to.port()),
            method: check.method.name(),
            outcome: check.outcome.name(),
            clock: check.clock.map(CheckClock::name),
            rtt_ns: check.rtt_ns,
            elapsed_ns: check.elapsed_ns,
            lag_ns: u64::try_from(lag_ns).unwrap_or(0),
            syn_retransmits: check.syn_retransmits,
            completed: check.completed,
            due: check.tx_app.wall.offset_ns(-lag_ns).as_ns(),
            tx_app: check.tx_app.wall.as_ns(),
        },
    );
}

/// Appends the last line of a run. `merged` are the quantiles over all targets' round trips,
/// which cannot be had from the rows' quantiles. Loss is that of the whole run.
pub fn append_summary(buffer: &mut Vec<u8>, elapsed: Duration, rows: &[Row], merged: &Quantiles) {
    let targets = rows.iter().map(|row| TargetSummary {
        target: &row.target,
        address: &row.address,
        clock: row.clock,
        numbers: numbers(&row.counts, &row.rtt),
    });
    append(
        buffer,
        &SummaryLine {
            summary: Summary {
                duration_ns: duration_ns(elapsed),
                targets: targets.collect(),
                total: numbers(&total_counts(rows), merged),
            },
        },
    );
}

fn numbers(counts: &Counts, rtt: &Quantiles) -> Numbers {
    let Counts { sent, received, timeouts, in_flight, skipped, late } = *counts;
    Numbers {
        sent,
        received,
        timeouts,
        in_flight,
        skipped,
        late,
        loss_percent: counts.loss_percent(),
        rtt_ns_p50: rtt.p50_ns,
        rtt_ns_p99: rtt.p99_ns,
        rtt_ns_p999: rtt.p999_ns,
        rtt_ns_max: rtt.max_ns,
    }
}

/// Appends one object and a newline.
pub(super) fn append(buffer: &mut Vec<u8>, line: &impl Serialize) {
    serde_json::to_writer(&mut *buffer, line)
        .expect("writing to memory cannot fail, and every key is a string");
    buffer.push(b'\n');
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;
    use crate::event::{Failure, RxStamps};
    use crate::sample::{CheckOutcome, Method, Outcome, Stamps};
    use crate::time::{Mono, Now};

    #[test]
    fn a_check_has_its_keys_in_order_and_its_zone() {
        let at = Now { mono: Mono::from_ns(1_000), wall: Wall::from_ns(51_000) };
        let open = CheckSample {
            seq: 7,
            to: Some("[fe80::1%3]:443".parse().unwrap()),
            method: Method::Syn,
            outcome: CheckOutcome::Open,
            due: Mono::from_ns(900),
            tx_app: at,
            clock: Some(CheckClock::Ebpf),
            rtt_ns: Some(12),
            elapsed_ns: 34,
            syn_retransmits: 1,
            completed: false,
        };
        let outcome = CheckOutcome::Unresolved;
        let unknown = CheckSample { to: None, outcome, clock: None, rtt_ns: None, ..open };
        let mut lines = Vec::new();
        append_check(&mut lines, "db", "[fe80::1%eth0]:443", &open);
        append_check(&mut lines, "db", "nowhere:443", &unknown);
        let end = "\"elapsed_ns\":34,\"lag_ns\":100,\"syn_retransmits\":1,\
                   \"completed\":false,\"due\":50900,\"tx_app\":51000}\n";
        let expected = format!(
            "{{\"target\":\"db\",\"address\":\"[fe80::1%eth0]:443\",\"seq\":7,\
             \"ip\":\"fe80::1%3\",\"port\":443,\"method\":\"syn\",\"outcome\":\"open\",\
             \"clock\":\"ebpf\",\"rtt_ns\":12,{end}\
             {{\"target\":\"db\",\"address\":\"nowhere:443\",\"seq\":7,\
             \"ip\":null,\"port\":null,\"method\":\"syn\",\"outcome\":\"unresolved\",\
             \"clock\":null,\"rtt_ns\":null,{end}"
        );
        assert_eq!(String::from_utf8(lines).unwrap(), expected);
    }

    fn stamps() -> Stamps {
        Stamps {
            due: Mono::from_ns(900),
            tx_app: Now { mono: Mono::from_ns(1_000), wall: Wall::from_ns(51_000) },
            ..Stamps::default()
        }
    }

    fn check(sample: &Sample, expected: &str) {
        let mut buffer = b"kept\n".to_vec();
        append_sample(&mut buffer, "a \"b\"", "[::1]:80", sample);
        let text = String::from_utf8(buffer).unwrap();
        assert_eq!(text, format!("kept\n{expected}\n"));
    }

    #[test]
    fn a_received_probe_has_every_key_in_order() {
        let sent = Stamps {
            tx_sched: Some(Wall::from_ns(51_010)),
            tx_sw: Some(Wall::from_ns(51_020)),
            tx_hw: Some(Phc::from_ns(7)),
            tx_ack: Some(Wall::from_ns(51_070)),
            rx: RxStamps { sw: Some(Wall::from_ns(51_080)), hw: Some(Phc::from_ns(57)) },
            ..stamps()
        };
        let rx_app = sent.tx_app.after(Duration::from_nanos(100));
        check(
            &Sample::received(3, sent, rx_app, Some(20)),
            "{\"target\":\"a \\\"b\\\"\",\"address\":\"[::1]:80\",\"seq\":3,\
             \"outcome\":\"received\",\"clock\":\"hardware\",\"rtt_ns\":50,\"app_rtt_ns\":200,\
             \"network_ns\":30,\"peer_ns\":20,\"lag_ns\":100,\"send_ns\":20,\"wakeup_ns\":30,\
             \"stamps\":{\"due\":50900,\"tx_app\":51000,\"tx_sched\":51010,\"tx_sw\":51020,\
             \"tx_hw\":7,\"tx_ack\":51070,\"rx_hw\":57,\"rx_sw\":51080,\"rx_app\":51100}}",
        );
    }

    #[test]
    fn what_was_not_measured_is_null() {
        let nothing = "\"clock\":null,\"rtt_ns\":null,\"app_rtt_ns\":null,\"network_ns\":null,\
                       \"peer_ns\":null";
        let unstamped = "\"tx_sched\":null,\"tx_sw\":null,\"tx_hw\":null,\"tx_ack\":null,\
                         \"rx_hw\":null,\"rx_sw\":null,\"rx_app\":null";
        let line = |outcome: &str, lag: &str, tx_app: &str| {
            format!(
                "{{\"target\":\"a \\\"b\\\"\",\"address\":\"[::1]:80\",\"seq\":9,\
                 \"outcome\":\"{outcome}\",{nothing},\"lag_ns\":{lag},\"send_ns\":null,\
                 \"wakeup_ns\":null,\"stamps\":{{\"due\":50900,\"tx_app\":{tx_app},{unstamped}}}}}"
            )
        };
        check(&Sample::lost(9, Outcome::Timeout, stamps(), true), &line("timeout", "100", "51000"));
        check(
            &Sample::lost(9, Outcome::Lost(Failure::Refused), stamps(), false),
            &line("refused", "null", "null"),
        );
    }

    #[test]
    fn a_reused_buffer_is_not_grown_again() {
        let sample = Sample::lost(u64::MAX, Outcome::Timeout, stamps(), true);
        let mut buffer = Vec::new();
        append_sample(&mut buffer, "t", "a", &sample);
        let (memory, capacity) = (buffer.as_ptr(), buffer.capacity());
        for _ in 0..100 {
            buffer.clear();
            append_sample(&mut buffer, "t", "a", &sample);
        }
        assert_eq!((buffer.as_ptr(), buffer.capacity()), (memory, capacity));
    }

    #[test]
    fn the_summary_has_each_target_and_the_total() {
        let row = |target: &str, timeouts| Row {
            target: target.to_owned(),
            address: "a:1".to_owned(),
            clock: (timeouts == 0).then_some("kernel"),
            counts: Counts { sent: 4, received: 4 - timeouts, timeouts, ..Counts::default() },
            ..Row::default()
        };
        let merged =
            Quantiles { p50_ns: Some(1), p99_ns: Some(2), p999_ns: Some(3), max_ns: Some(4) };
        let mut buffer = Vec::new();
        append_summary(&mut buffer, Duration::from_secs(1), &[row("x", 0), row("y", 4)], &merged);
        let counts = |sent, received, timeouts, loss: &str| {
            format!(
                "\"sent\":{sent},\"received\":{received},\"timeouts\":{timeouts},\"in_flight\":0,\
                 \"skipped\":0,\"late\":0,\"loss_percent\":{loss}"
            )
        };
        let none = "\"rtt_ns_p50\":null,\"rtt_ns_p99\":null,\"rtt_ns_p999\":null,\
                    \"rtt_ns_max\":null";
        let expected = format!(
            "{{\"summary\":{{\"duration_ns\":1000000000,\"targets\":[\
             {{\"target\":\"x\",\"address\":\"a:1\",\"clock\":\"kernel\",{},{none}}},\
             {{\"target\":\"y\",\"address\":\"a:1\",\"clock\":null,{},{none}}}],\
             \"total\":{{{},\"rtt_ns_p50\":1,\"rtt_ns_p99\":2,\"rtt_ns_p999\":3,\
             \"rtt_ns_max\":4}}}}}}\n",
            counts(4, 4, 0, "0.0"),
            counts(4, 0, 4, "100.0"),
            counts(8, 4, 4, "50.0"),
        );
        assert_eq!(String::from_utf8(buffer).unwrap(), expected);
    }
}
