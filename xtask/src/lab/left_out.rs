//! Tests that do not run in the laboratory, and why: each by a part of its name. A machine without
//! hardware virtualization is some twenty times slower than this one, and its clocks are those of
//! an emulator: what a test says of speed and of microseconds is said by the host.

use std::path::Path;

use anyhow::{Result, ensure};

use crate::shell;

/// Tests that have one reason.
pub struct LeftOut {
    /// A part of their names.
    pub name: &'static str,
    /// Why they cannot run there.
    pub reason: &'static str,
}

/// All of them.
pub const LEFT_OUT: &[LeftOut] = &[
    LeftOut { name: "cpu_hogs_do_not_reach", reason: HOGS },
    LeftOut { name: "hogs_take_the_cpu_and_go", reason: HOGS },
    LeftOut { name: "no_handshake_is_completed_uncounted", reason: MANY },
    LeftOut { name: "no_answer_is_false", reason: MANY },
    LeftOut { name: "a8_counters_reconcile_while_the_peer_misbehaves", reason: SPEED },
    LeftOut { name: "our_responder_serves_every_version_at_once", reason: SPEED },
    LeftOut { name: "a_server_that_closes_at_once_is_not_hammered", reason: SPEED },
    LeftOut { name: "fifty_probes_are_received_and_each_adds_up", reason: ORDER },
    LeftOut { name: "a_prober_tells_its_last_probes_and_ends", reason: ORDER },
    LeftOut { name: "times_and_replies_are_equal_in_number_at_the_end", reason: ORDER },
    LeftOut { name: "a_reader_that_has_stopped_does_not_hold_up_the_end", reason: SPEED },
    LeftOut { name: "time_is_the_wires_time", reason: CLOCKS },
    LeftOut { name: "capture_times_what_lies_on_the_wire", reason: CLOCKS },
    LeftOut { name: "nobody_of_ten_thousand_is_lost", reason: SPEED },
    LeftOut { name: "dashboards::", reason: PROMETHEUS },
    LeftOut { name: "a_real_server_stores_what_we_count", reason: PROMETHEUS },
    LeftOut { name: "the_linter_has_nothing_to_say", reason: PROMETHEUS },
];

const HOGS: &str = "what hogs do to an emulated CPU says nothing";
const MANY: &str = "12,500 checks in a given time are too many for an emulated CPU";
const SPEED: &str = "its rates, and its share of CPU time, are too much for an emulated CPU";
const ORDER: &str = "an emulated CPU is so late that only the last of several replies has a stamp";
const CLOCKS: &str = "microseconds of an emulated CPU say nothing";
const PROMETHEUS: &str = "no kernel makes a difference, and Prometheus is large";

/// Says what is left out of these tests. A name that no test has any more is an error.
pub fn tell(tests: &Path) -> Result<()> {
    let names = shell::output(shell::command(tests).arg("--list"))?;
    for LeftOut { name, reason } in LEFT_OUT {
        let count = names.lines().filter(|line| line.contains(name)).count();
        ensure!(count > 0, "{name} is left out, but no test is called so");
        println!("left out: {count} tests named {name}: {reason}");
    }
    Ok(())
}
