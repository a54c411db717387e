//! Who may do what: probing needs no privilege, priorities do and say so, and without io_uring
//! everything works by readiness.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::catalogue;
use crate::clients::{connect, ping};
use crate::frames;
use crate::kernel;
use crate::lines::Report;
use crate::run::Run;
use crate::site::{Place, Site, report_skip};
use crate::turn::{self, Turn};

on_each_io! {
    probing_with_kernel_time_needs_no_privilege,
    priorities_and_cpus_are_those_asked_for,
    a_priority_that_is_not_permitted_is_named_with_a_remedy,
    busy_polling_measures_the_same,
    several_threads_answer_on_one_port,
    checks_keep_no_privilege_but_the_keepers,
    checks_without_privileges_take_the_next_method_and_clock,
    each_privilege_of_checks_gives_its_method_or_clock,
}

fn probing_with_kernel_time_needs_no_privilege(site: &Site) {
    let nobody = match Nobody::new() {
        Ok(nobody) => nobody,
        Err(reason) => return report_skip("privileges::nobody", &reason),
    };
    let io = site.io.name();
    let serve = nobody.start(&format!(
        "serve --io={io} --clock=kernel --listen=127.0.0.1:0 --web.listen-address=127.0.0.1:0"
    ));
    let target = serve.responder_address();
    let words = format!(
        "probe {target} --io={io} --clock=kernel --wire=v3 --interval=10ms --count=50 --json"
    );
    let ending = nobody.start(&words).wait();
    assert_eq!(ending.code, Some(0), "{:?}", ending.stderr);
    let report = Report::parse(&ending.stdout);
    assert_eq!(report.count("received"), 50);
    let by_kernel = report.probes.iter().filter(|probe| probe.clock.as_deref() == Some("kernel"));
    // Replies that are read together on a busy machine have one stamp between them.
    assert!(by_kernel.count() >= 25, "{report:#?}");
    let split = report.probes.iter().filter(|probe| probe.network_ns.is_some());
    assert!(split.count() >= 25, "{report:#?}");
    let exposition = serve.scrape();
    for name in ["kernel_tx_stamps", "kernel_rx_stamps"] {
        assert_eq!(exposition.count("rttscope_capability", &[("name", name)]), 1, "{name}");
    }
}

fn priorities_and_cpus_are_those_asked_for(site: &Site) {
    // Fields of proc_pid_stat(5): the nice value, the real-time priority, the policy (1: FIFO).
    for (words, field, expected) in [
        ("--priority=nice:-5", 19, "-5"),
        ("--priority=nice:7", 19, "7"),
        ("--priority=fifo:10", 40, "10"),
        ("--priority=fifo:10", 41, "1"),
        ("--pin=0", 39, "0"),
    ] {
        let mut both = start_both(site, words);
        if let Some(refused) = not_permitted_here(&mut both) {
            report_skip(&format!("privileges::{words}"), &refused);
            continue;
        }
        received(&both, 10);
        for thread in ["probe-0", "echo-0"] {
            let stat = both.thread_file(thread, "stat");
            let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
            assert_eq!(fields[field - 3], expected, "{words}: {stat}");
        }
        if words == "--pin=0" {
            let status = both.thread_file("probe-0", "status");
            assert!(status.contains("Cpus_allowed_list:\t0\n"), "{status}");
        }
    }
}

fn a_priority_that_is_not_permitted_is_named_with_a_remedy(site: &Site) {
    let nobody = match Nobody::new() {
        Ok(nobody) => nobody,
        Err(reason) => return report_skip("privileges::not_permitted", &reason),
    };
    for (words, remedy) in [
        ("--priority=nice:-5", "CAP_SYS_NICE"),
        ("--priority=fifo:10", "CAP_SYS_NICE"),
        ("--pin=1023", "CPU"),
    ] {
        for mode in ["serve --listen=127.0.0.1:0", "probe 127.0.0.1:9"] {
            let io = site.io.name();
            let web = "--web.listen-address=127.0.0.1:0";
            let ending = nobody.start(&format!("{mode} --io={io} {web} {words}")).wait();
            assert_eq!(ending.code, Some(3), "{mode} {words}: {:?}", ending.stderr);
            let line = ending.stderr.last().unwrap();
            let flag = words.replace('=', " ");
            assert!(line.contains(&flag) && line.contains(remedy), "{mode} {words}: {line}");
        }
    }
}

/// Raw sockets and eBPF programs are opened first, and what that took is dropped.
fn checks_keep_no_privilege_but_the_keepers(site: &Site) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let io = site.io.name();
    let probe = Run::start(
        &Place::Here,
        &format!(
            "probe {} --check --interval=10ms --io={io} --web.listen-address=127.0.0.1:0",
            listener.local_addr().unwrap()
        ),
    );
    probe.scrape_until("checks", |exposition| {
        exposition.has("tcp_check_up", &[]) && exposition.count("tcp_check_up", &[]) == 1
    });
    let effective = |thread: &str| {
        let status = probe.thread_file(thread, "status");
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:\t")).unwrap();
        u64::from_str_radix(mask, 16).unwrap()
    };
    // Numbers of capability.h.
    let (net_admin, net_raw, perfmon, bpf) = (1 << 12, 1 << 13, 1 << 38, 1 << 39);
    for thread in ["rttscope", "check-0", "http", "log", "signals"] {
        let held = effective(thread) & (net_admin | net_raw | perfmon | bpf);
        assert_eq!(held, 0, "{thread} holds {held:#x}");
    }
    if probe.scrape().count("rttscope_capability", &[("name", "ebpf_syn_timer")]) == 0 {
        return report_skip("privileges::keeper", "no eBPF timer here");
    }
    let keeper = effective("syn-keeper");
    assert_eq!(keeper & !(net_admin | bpf), 0, "the keeper holds {keeper:#x}");
    assert_eq!(probe.scrape().count("rttscope_ebpf_lost_total", &[]), 0);
}

fn checks_without_privileges_take_the_next_method_and_clock(site: &Site) {
    let nobody = match Nobody::new() {
        Ok(nobody) => nobody,
        Err(reason) => return report_skip("privileges::nobody", &reason),
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    let io = site.io.name();
    let words = format!("probe {target} --check --io={io} --interval=10ms --count=30 --json");
    let ending = nobody.start(&words).wait();
    assert_eq!(ending.code, Some(0), "{:?}", ending.stderr);
    for check in crate::check_lines::parse(&ending.stdout) {
        let told = (check.method.as_str(), check.outcome.as_str(), check.clock.as_deref());
        assert_eq!(told, ("quickack", "open", Some("tcp_info")), "{check:?}");
    }
    for (name, remedy) in [("raw_syn", "cap_net_raw"), ("ebpf_syn_timer", "cap_bpf")] {
        let told: Vec<_> = ending.stderr.iter().filter(|line| line.contains(name)).collect();
        assert_eq!(told.len(), 1, "once: {:?}", ending.stderr);
        assert!(told[0].to_lowercase().contains(remedy), "{}", told[0]);
    }
    // Asking for what does not work is an error with its remedy.
    let ending = nobody.start(&format!("{words} --method=syn")).wait();
    assert_eq!(ending.code, Some(3), "{:?}", ending.stderr);
    let line = ending.stderr.last().unwrap();
    assert!(line.contains("--method syn") && line.to_lowercase().contains("cap_net_raw"), "{line}");
}

/// What `setcap` gives, as capabilities(7) writes it, and what comes of it.
fn each_privilege_of_checks_gives_its_method_or_clock(site: &Site) {
    let nobody = match Nobody::new() {
        Ok(nobody) => nobody,
        Err(reason) => return report_skip("privileges::nobody", &reason),
    };
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let target = listener.local_addr().unwrap();
    let io = site.io.name();
    let words = format!("probe {target} --check --io={io} --interval=10ms --count=30 --json");
    for (held, method, clock) in [
        ("+net_raw", "syn", "kernel"),
        ("+bpf,+net_admin", "quickack", "ebpf"),
        ("+net_raw,+bpf,+net_admin", "syn", "ebpf"),
    ] {
        let ending = nobody.start_holding(held, &words).wait();
        assert_eq!(ending.code, Some(0), "{held}: {:?}", ending.stderr);
        let checks = crate::check_lines::parse(&ending.stdout);
        let as_told = |check: &&crate::check_lines::CheckLine| {
            check.method == method && check.clock.as_deref() == Some(clock)
        };
        // The kernel begins to stamp what it receives a moment after it was asked to.
        let told = checks.iter().filter(as_told).count();
        assert!(told >= checks.len() - 3, "{held}: {:#?} {checks:#?}", ending.stderr);
    }
}

fn busy_polling_measures_the_same(site: &Site) {
    let serve = site.serve("--busy-poll");
    let target = serve.responder_address();
    let words = format!("{target} --busy-poll --count=40 --interval=20ms --json");
    let ending = site.probe(&words).wait();
    assert_eq!(ending.code, Some(0), "{:?}", ending.stderr);
    let report = Report::parse(&ending.stdout);
    assert_eq!(report.count("received"), 40);
    let by_kernel = report.probes.iter().filter(|probe| probe.clock.as_deref() == Some("kernel"));
    // Two threads that never sleep, on a machine that others use too: replies that are read
    // together have no stamps of their own.
    assert!(by_kernel.count() >= 20, "{report:#?}");
}

fn several_threads_answer_on_one_port(site: &Site) {
    let serve = site.serve("--threads=2");
    let address = serve.responder_address();
    // The kernel spreads connections over listeners by a hash of their addresses: that one of two
    // gets none of 40 happens once in 10^12 runs.
    let busy_ns = || {
        ["echo-0", "echo-1"].map(|thread| {
            // The first number is the time on a CPU in ns (Documentation/scheduler/sched-stats).
            let schedstat = serve.thread_file(thread, "schedstat");
            schedstat.split(' ').next().unwrap().parse::<u64>().unwrap()
        })
    };
    let before = busy_ns();
    let streams: Vec<_> = (0..40).map(|_| connect(&Place::Here, address)).collect();
    for (stream, sequence) in streams.iter().zip(1..) {
        ping(stream, &frames::v1(sequence, 0));
    }
    let after = busy_ns();
    let worked = before.iter().zip(after).all(|(before, after)| after > *before);
    assert!(worked, "one of them had nothing to do: {before:?} then {after:?}");
    let exposition = serve.scrape_until("forty connections in one sum", |exposition| {
        exposition.count(catalogue::CONNECTIONS, &[]) == 40
    });
    assert_eq!(exposition.count(catalogue::CONNECTIONS_ACTIVE, &[]), 40);
    assert_eq!(exposition.count(catalogue::RECEIVED_BYTES, &[]), 40 * 16);
}

/// Docker's and containerd's default: seccomp answers io_uring_setup(2) with EPERM.
#[test]
fn where_io_uring_is_forbidden_readiness_takes_over_and_says_so() {
    let _turn = turn::wait_for(Turn::Shared);
    let both = without_io_uring(&[
        "both",
        "--io=auto",
        "--listen=127.0.0.1:0",
        "--web.listen-address=127.0.0.1:0",
        "--interval=10ms",
    ]);
    let exposition = received(&both, 20);
    let found: Vec<_> = exposition.select("rttscope_capability", &[("name", "io_uring")]).collect();
    assert_eq!(found.len(), 1);
    assert_eq!(found[0].value.to_bits(), 0.0_f64.to_bits());
    assert!(found[0].labels["reason"].contains("seccomp"), "{:?}", found[0]);
    let kernel = format!("{}_count", catalogue::RTT);
    assert!(exposition.count(&kernel, &[("clock", "kernel")]) >= 10, "stamps do not need io_uring");
    both.wait_for_stderr("seccomp");
    let told = both.stderr().iter().filter(|line| line.contains("io_uring")).count();
    assert_eq!(told, 1, "once, and not for each thread: {:?}", both.stderr());
}

#[test]
fn where_io_uring_is_forbidden_asking_for_it_ends_with_a_reason() {
    let _turn = turn::wait_for(Turn::Shared);
    for mode in [&["serve", "--listen=127.0.0.1:0"], &["probe", "127.0.0.1:9"]] {
        let words = [&mode[..], &["--io=uring", "--web.listen-address=127.0.0.1:0"]].concat();
        let ending = without_io_uring(&words).wait();
        assert_eq!(ending.code, Some(3), "{:?}", ending.stderr);
        assert_eq!(ending.stderr.len(), 1, "{:?}", ending.stderr);
        let line = &ending.stderr[0];
        assert!(line.contains("--io") && line.contains("seccomp"), "{line}");
    }
}

fn without_io_uring(words: &[&str]) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_rttscope"));
    command.args(words).env("NO_COLOR", "1");
    kernel::forbid_io_uring(&mut command);
    Run::spawn(&Place::Here, command, format!("{} (no io_uring)", words.join(" ")))
}

fn start_both(site: &Site, words: &str) -> Run {
    let io = site.io.name();
    let listen = "--listen=127.0.0.1:0 --web.listen-address=127.0.0.1:0";
    Run::start(&Place::Here, &format!("both --io={io} {listen} --interval=10ms {words}"))
}

/// What the process said if it ended at once because this sandbox does not let us have it.
fn not_permitted_here(both: &mut Run) -> Option<String> {
    if !both.ends_within(std::time::Duration::from_millis(300)) {
        return None;
    }
    let ending = both.wait();
    assert_eq!(ending.code, Some(3), "{:?}", ending.stderr);
    let line = ending.stderr.last().unwrap().clone();
    assert!(line.contains("not permitted") || line.contains("denied"), "{line}");
    Some(line)
}

fn received(run: &Run, count: u64) -> crate::exposition::Exposition {
    run.scrape_until("probes received", |exposition| {
        exposition.has(catalogue::RECEIVED, &[])
            && exposition.count(catalogue::RECEIVED, &[]) >= count
    })
}

/// A user with no name, no group and no capability, who can run a copy of the binary.
pub(crate) struct Nobody {
    folder: tempfile::TempDir,
}

impl Nobody {
    pub(crate) fn new() -> Result<Self, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can become somebody else".to_owned());
        }
        if Command::new("setpriv").arg("--version").output().is_err() {
            return Err("no `setpriv` on the search path".to_owned());
        }
        // Where this repository lies need not be open to everybody.
        let folder = tempfile::tempdir().unwrap();
        let everybody = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), everybody).unwrap();
        std::fs::copy(env!("CARGO_BIN_EXE_rttscope"), folder.path().join("rttscope")).unwrap();
        Ok(Self { folder })
    }

    pub(crate) fn start(&self, words: &str) -> Run {
        self.start_holding("", words)
    }

    /// The same with these capabilities, as setpriv(1) writes them.
    pub(crate) fn start_holding(&self, held: &str, words: &str) -> Run {
        let mut command = Command::new("setpriv");
        let sets = if held.is_empty() { "-all".to_owned() } else { format!("-all,{held}") };
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--no-new-privs"])
            .arg(format!("--inh-caps={sets}"))
            .arg(format!("--ambient-caps={sets}"))
            .arg(format!("--bounding-set={sets}"))
            .arg(self.folder.path().join("rttscope"))
            .args(words.split_whitespace())
            .env("NO_COLOR", "1");
        Run::spawn(&Place::Here, command, format!("{words} (as nobody)"))
    }
}
