//! What each kernel offers, and that it is used: the running kernel's version goes in, what the
//! product says of itself must be exactly what that version has. A fall-back that nobody needs is
//! an error here, and so is one that is not taken.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use rttscope::tcp_info::{Kernel, Raw};

use crate::catalogue;
use crate::exposition::Exposition;
use crate::half_open::Listener;
use crate::kernel;
use crate::run::Run;
use crate::site::{Family, Io, Path, Place, Site, report_skip};
use crate::turn::{self, Turn};

/// What a run said of itself.
struct Seen {
    metrics: Exposition,
    log: Vec<String>,
}

/// Something that kernels have from one version on.
struct Ability {
    what: &'static str,
    since: &'static str,
    is_used: fn(&Seen) -> bool,
}

/// Of measuring by probes.
const OF_PROBES: [Ability; 5] = [
    Ability { what: "io_uring", since: "5.19", is_used: |seen| seen.has("io_uring") },
    Ability {
        what: "deferred task work",
        since: "6.1",
        is_used: |seen| seen.said("a ring is open", "deferred=true"),
    },
    Ability {
        what: "transmit stamps by a command of the ring",
        since: "6.17",
        is_used: |seen| {
            seen.has("io_uring") && !seen.said("transmit stamps come by the error queue", "")
        },
    },
    Ability { what: "transmit stamps", since: "4.1", is_used: |seen| seen.has("kernel_tx_stamps") },
    Ability { what: "receive stamps", since: "4.1", is_used: |seen| seen.has("kernel_rx_stamps") },
];

/// Of half-open checks, as root.
const OF_CHECKS: [Ability; 4] = [
    Ability { what: "SYNs of our own", since: "2.6", is_used: |seen| seen.has("raw_syn") },
    Ability { what: "timing by eBPF", since: "5.8", is_used: |seen| seen.has("ebpf_syn_timer") },
    Ability {
        what: "tcx",
        since: "6.6",
        is_used: |seen| seen.said("SYNs are timed at an interface", "by=Some(Tcx)"),
    },
    Ability {
        what: "an attachment of either kind",
        since: "5.8",
        is_used: |seen| seen.said("SYNs are timed at an interface", "by=Some("),
    },
];

/// Bytes of `struct tcp_info`, by the kernels that the issue names.
const TCP_INFO_BYTES: [(&str, usize); 4] =
    [("5.10", 232), ("6.1", 232), ("6.12", 248), ("6.18", 280)];

#[test]
fn probes_use_what_this_kernel_has_and_nothing_else() {
    let _turn = turn::wait_for(Turn::Shared);
    if let Some(reason) = forbidden() {
        return report_skip("abilities::probes", &reason);
    }
    let words = "both --listen=127.0.0.1:0 --web.listen-address=127.0.0.1:0 --interval=5ms \
                 --log.level=debug";
    let both = Run::start(&Place::Here, words);
    let metrics = both.scrape_until("thirty replies", |exposition| {
        exposition.has(catalogue::RECEIVED, &[]) && exposition.count(catalogue::RECEIVED, &[]) >= 30
    });
    check(&Seen { metrics, log: both.stderr() }, &OF_PROBES);
}

#[test]
fn checks_use_what_this_kernel_has_and_nothing_else() {
    let _turn = turn::wait_for(Turn::Shared);
    let site = match Site::new(Io::Poll, Path::Veth, Family::V4) {
        Ok(site) => site,
        Err(reason) => return report_skip("abilities::checks", &reason),
    };
    let listener = Listener::start(&site, 128);
    let words = format!("{} --check --interval=5ms --log.level=debug", listener.address);
    let probe = site.probe(&words);
    let metrics = probe.scrape_until("thirty checks", |exposition| {
        let open = [("outcome", "open")];
        exposition.has("tcp_check_total", &open) && exposition.count("tcp_check_total", &open) >= 30
    });
    check(&Seen { metrics, log: probe.stderr() }, &OF_CHECKS);
}

#[test]
fn tcp_info_is_as_long_as_it_was_in_this_kernel() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let length = Raw::of(&client).unwrap().length();
    for (version, bytes) in TCP_INFO_BYTES {
        if Kernel::parse(version) == running() {
            assert_eq!(length, bytes, "Linux {version}");
        }
        if Kernel::parse(version) <= running() {
            assert!(length >= bytes, "{length} bytes, {bytes} in Linux {version}");
        }
    }
}

fn check(seen: &Seen, abilities: &[Ability]) {
    for ability in abilities {
        let expected = Kernel::parse(ability.since) <= running();
        let is_used = (ability.is_used)(seen);
        let log = seen.log.join("\n");
        assert_eq!(is_used, expected, "{}, Linux {}\n{log}", ability.what, ability.since);
    }
}

/// Why io_uring is not used although the kernel has it, if that is so here.
fn forbidden() -> Option<String> {
    let error = kernel::io_uring_refusal()?;
    let has_it = Kernel::parse("5.19") <= running();
    has_it.then(|| format!("no io_uring here: {error}"))
}

fn running() -> Option<Kernel> {
    let known = Kernel::parse(&rttscope::sys::tcp_info::kernel_release());
    assert!(known.is_some(), "a kernel without a version");
    known
}

impl Seen {
    /// Whether the metrics say that this works.
    fn has(&self, capability: &str) -> bool {
        self.metrics.count("rttscope_capability", &[("name", capability)]) == 1
    }

    /// Whether a line of the log has both of these.
    fn said(&self, message: &str, detail: &str) -> bool {
        self.log.iter().any(|line| line.contains(message) && line.contains(detail))
    }
}
