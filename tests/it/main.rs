//! The integration tests: real binary, sockets and clocks; run by `cargo test --test it`.
//!
//! What a test needs comes first, then the tests themselves. Tests that depend on the I/O backend
//! are mounted once for each backend, the most important ones also for each address family and
//! for loopback and a veth pair (see `mount`).

#![cfg(target_os = "linux")]
#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]
#![expect(clippy::disallowed_methods, reason = "a test waits for real clocks")]

/// The system calls that no safe crate wraps: the only unsafe code of the tests.
mod kernel;
/// Who runs together and who runs alone, so that CPU hogs disturb only their own test.
mod turn;
/// Network namespaces joined by a veth pair, gone with the last one who uses them.
mod lab;
/// Where a test happens: backend, address family, loopback or veth; skips say why.
mod site;
/// One `#[test]` for each backend, family and path a test is mounted on.
#[macro_use]
mod mount;
/// What a kernel says of its own structs.
mod btf;
/// The product's binary as a process: its lines, its addresses, signals, its end.
mod run;
/// A GET over a plain socket.
mod http;
/// Certificates, made for a test.
mod certificates;
/// A GET by TLS.
mod https;
/// Server-sent events over a plain socket.
mod event_stream;
/// A real browser, driven by WebDriver.
mod browser;
/// OpenMetrics text into numbers that can be summed.
mod exposition;
/// `probe --json` lines into values.
mod lines;
/// `probe --check --json` lines into values.
mod check_lines;
/// Probe frames of every wire version in a stream of bytes.
mod frames;
/// TCP segments as bytes of IPv4 packets.
mod segment;
/// A packet capture with the kernel's times, and the round trips it shows.
mod capture;
/// Servers that behave like the seeds, or badly.
mod servers;
/// Clients that behave badly, and one that compares every byte.
mod clients;
/// A name server whose answers change.
mod names;
/// Web and name servers that answer as a test wants.
mod sources;
/// Targets that answer when nobody waits any more.
mod late;
/// Threads that burn the CPU at a better priority than ours.
mod hogs;
/// The names of the metrics that tests read.
mod catalogue;

/// Prober and responder flows against each other, without sockets.
mod flows;

/// The infrastructure above, proven without the product.
mod proof;

/// The responder returns every byte.
mod verbatim;
/// The prober and our own responder.
mod probing;
/// The defects of the replaced system, each by its number.
mod defects;
/// Half-open checks: the wire, the server and the prober tell one story.
mod half_open;
/// `rttscope check`: many addresses, once or often, and what is said of them.
mod check;
/// `rttscope load`: every byte comes back, or it is counted why not.
mod load;
/// Ten thousand connections through the relay at once.
mod crowd;
/// Half-open checks by the hundred thousand: nothing false, nothing uncounted.
mod scale;
/// Targets that are not there, go away or come back.
mod outages;
/// The responder under pressure.
mod limits;
/// `TCP_INFO` of probes' connections on /metrics.
mod connection_info;
/// `TCP_INFO` against the kernel's own description of it.
mod tcp_info;
/// Responders that are not ours.
mod interop;
/// Names that nobody knows, and names that move.
mod naming;
/// Bad use is one helpful line and exit code 2.
mod bad_use;
/// SIGINT and SIGTERM.
mod shutdown;
/// What systemd is told of readiness, life and the end.
mod supervisor;
/// Half-open checks by SYNs of our own, through the library's I/O.
mod raw_syn;
/// Who may do what.
mod privileges;
/// What a confined program can and cannot do.
mod sandbox;
/// SYNs timed in the kernel, on real interfaces.
mod syn_timer;
/// `rttscope doctor` tells what the others meet.
mod doctor;
/// What the log says, how often, and what it keeps to itself.
mod logs;
/// Completions in a real shell, man pages in the real formatter.
mod completions;
/// The JSON API is as it describes itself, and tells what is measured.
mod api;
/// The status page in a real browser.
mod page;
/// The real Prometheus.
mod prometheus;
/// TLS, passwords and listeners of the HTTP server.
mod web_config;
/// Clients that mean harm to the HTTP server.
mod web_hostile;
/// Objectives of probes and of checks.
mod objectives;
/// `rttscope rules` and its alerts, by Prometheus' own tool.
mod rules;
/// Every query of the dashboards and rules, by the real Prometheus.
mod dashboards;
/// `rttscope run`: a configuration file that changes.
mod agent;
/// Targets that files, URLs and name servers tell of, and a mesh.
mod discovery;
/// `GET /probe`: who may be probed, and what is told of it.
mod on_demand;
/// `rttscope relay`: what it passes on, and what it tells.
mod relay;
/// The defects of Monkey D. TCP, each by its number.
mod relay_defects;
/// Command lines of tcp_ping_prometheus.
mod seed_form;
/// A packet capture judges every probe.
mod truth;
/// Networks that delay, lose, reorder and double.
mod netem;
/// What each kernel offers, and that it is used.
mod abilities;
