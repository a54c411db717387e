//! Where something runs out: room for events, and privileges. Full buffers are counted, and two
//! capabilities are enough.

use std::process::Command;

use rttscope_ebpf::counter;

use crate::frames::{ACK, SYN, Shape, Tcp, Way};
use crate::loaded::{Loaded, report_skip};

#[test]
fn events_without_room_are_counted() {
    // libbpf rounds up to one page, of up to 64 KiB: some 700 events.
    let page = 4_096;
    let name = "events_without_room_are_counted";
    let Some(loaded) = Loaded::with_event_bytes(name, Some(page)) else { return };
    let shape = Shape::plain(false);
    let attempts = 1_000;
    for index in 0..attempts {
        let remote_port = 1_000 + index;
        let syn = Tcp { remote_port, ..Tcp::new(SYN, 7, 0) };
        let answer = Tcp { remote_port, ..Tcp::new(SYN | ACK, 50, 8) };
        assert!(loaded.pass(Way::Out, &shape.frame(Way::Out, syn)));
        assert!(loaded.pass(Way::In, &shape.frame(Way::In, answer)));
    }
    let told = u64::try_from(loaded.events().len()).unwrap();
    let lost = loaded.counter(counter::EVENTS_LOST);
    assert!(told > 0 && lost > 0, "{told} told, {lost} lost");
    assert_eq!(told + lost, u64::from(attempts));
    assert_eq!(loaded.counter(counter::ATTEMPTS_LOST), 0);
}

/// The verifier is stricter with those who lack `CAP_PERFMON`, and that is how the product runs.
#[test]
fn two_capabilities_are_enough() {
    let name = "two_capabilities_are_enough";
    if Loaded::new(name).is_none() {
        return;
    }
    // Another user may not reach the build folder.
    let folder = tempfile::Builder::new().prefix("rttscope-").tempdir().unwrap();
    let program = folder.path().join("ebpf");
    std::fs::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let open = Command::new("chmod").args(["-R", "a+rX"]).arg(folder.path()).status().unwrap();
    assert!(open.success());
    let few = "-all,+bpf,+net_admin";
    let run = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"])
        .arg(format!("--inh-caps={few}"))
        .arg(format!("--ambient-caps={few}"))
        .arg(format!("--bounding-set={few}"))
        .arg(&program)
        .args(["--exact", "shapes::ipv6_in_every_shape", "shapes::ipv4_in_every_shape"])
        .arg("--nocapture")
        .env_remove("RTTSCOPE_SKIPS")
        .current_dir("/")
        .output();
    let output = match run {
        Ok(output) => output,
        Err(error) => return report_skip(name, &format!("no setpriv: {error}")),
    };
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("2 passed") && !said.contains("SKIP"), "{said}");
}
