//! rttscope measures TCP round trips as the kernel and the wire saw them, and says where each one's
//! time went. This page is its architecture; the README is for its users.
//!
//! # Two planes
//! **Data plane**: N measuring threads ([`worker`]). Each owns its I/O ([`sys::Io`], io_uring or
//! readiness), its flows ([`probe`], [`echo`], [`check`], [`load`]) and its series ([`stats`]); it
//! runs no async runtime, takes no lock and allocates nothing for a probe.
//! **Control plane** ([`app`]): one single-threaded tokio runtime for HTTP, signals and name
//! resolution, and one thread for standard output. The planes meet in [`stats`] (one writer, many
//! readers) and in bounded channels of changes and reports. A scrape does no network I/O and never
//! holds up a probe.
//!
//! ```text
//! due ─► wire.encode ─► Io::send ─► kernel ─► Event{Received | Stamped} ─► flow matches sequence
//!     ─► Sample ─► Series.record ─► [one writer | many readers] ─► Snapshot ─► metrics | report
//! ```
//!
//! # The waist
//! Everything that measures produces a [`sample::Sample`] (of a half-open check a
//! [`sample::CheckSample`]); everything that shows reads a [`stats::Snapshot`]. A new way to
//! measure is one file on the left, a new output one on the right.
//!
//! What a target went through lately ([`stats::history`]) is kept where its series is: the worker
//! writes its newest probes into a ring, the control plane makes the heat map. [`http`] shows it as
//! JSON, as events and as a page.
//!
//! # Half-open checks
//! A flow of [`check`] asks for a check of an address and is answered once; how it is made is the
//! business of [`sys`]: a SYN of our own on a raw socket, or a kernel socket that is closed before
//! it has acknowledged. eBPF programs at the interfaces (`ebpf/`, loaded by [`sys::SynTimer`]) time
//! the SYN and its answer; one small thread keeps the privileges that follow interfaces and routes
//! needs, everybody else drops them. Each attempt is a flow of its own to the I/O, so that a late
//! answer can reach nobody else. [`checker::Checker`] is the same for programs that embed it.
//!
//! # The relay
//! [`relay`] decides whom a client is passed on to and what its end means; the bytes move inside
//! [`sys`], which joins two connections. [`relayer::Relay`] is everything around it: listening,
//! threads, names, checks of upstreams by the flows of [`check`], and the end in order; for
//! `rttscope relay` and for programs that embed it.
//!
//! # The agent
//! [`config::file`] reads what `rttscope run` is to do, `app::reload` reads it again, and
//! [`config::agent::plan`] says who has to go and who has to come: that is all that `app::agent`
//! changes. Where a list of wanted targets comes from makes no difference to it: [`discovery`] asks
//! files, URLs and name servers for more, and [`mesh`] chooses those of them that this host probes.
//!
//! `GET /probe` is a wish that [`http`] hands to `app::on_demand`: one probe by the same threads,
//! of an address that the file's rules allow.
//!
//! # What it may do
//! `app::confine` says what a configuration still needs once everything has started, and
//! [`sys::sandbox`] forbids the rest: files from before the second thread on (Landlock binds a
//! thread and its children), system calls when the last one runs (seccomp binds all of them). Each
//! thread drops its capabilities when it has what it needs. A file that is read again must be among
//! those that `confine` names.
//!
//! # Invariants
//! * **A failed probe is data**, an [`sample::Outcome`] that is counted; an `Err` means that *we*
//!   cannot work.
//! * **Flows are pure**: [`event::Event`] and the time in, [`event::Action`] and samples out. They
//!   read no clock, own no socket, and are tested as scripts.
//! * **Every mode is a [`config::Config`]**: subcommands are sugar that builds one, and
//!   [`app::run`] starts the sections that are present.
//! * **A duration exists only inside one clock**: [`time`] has a type for each, and only equal ones
//!   subtract. Kernel software stamps are `CLOCK_REALTIME`, the schedule is `CLOCK_MONOTONIC`; a
//!   sample during which one was stepped against the other is rejected and counted.
//! * **The books balance**: `sent = received + timeouts + in_flight` in every published set of
//!   counters, also for a target that is down.
//! * **Every limit has a name** ([`config::limits`], or beside what it limits), and crossing it is
//!   counted.
//! * **Platforms differ in [`sys`] only**: cfg picks what is compiled, [`sys::Io`] picks what runs,
//!   `Option` and "unsupported" say what is missing.
//!
//! # Reading order
//! The modules below, from the pure core outwards. Arrows never turn back; `cargo xtask tidy` holds
//! the code to that:
//!
//! ```text
//! main → cli → { config, rules }  app → everything
//!              app → worker → { probe, echo, check, relay, load } → { event, sample, … } → time
//!              app → relayer → worker
//!                    worker → sys → { event, sample, host } → time
//!              app → http → config
//!              app → http → metrics → stats → { histogram, loss, sample, host } → time
//! ```

pub mod time;

pub mod event;
pub mod sample;
pub mod schedule;
pub mod timers;
pub mod wire;
pub mod histogram;
pub mod loss;
pub mod dial;
pub mod mix;
pub mod tcp_info;
pub mod mesh;

pub mod probe;
pub mod echo;
pub mod check;
pub mod relay;
pub mod load;

pub mod host;
#[expect(unsafe_code, reason = "system calls live here and nowhere else")]
pub mod sys;

pub mod stats;
pub mod worker;

pub mod metrics;
pub mod http;
pub mod report;

pub mod config;
pub mod discovery;
pub mod rules;
pub mod log;
pub mod cli;
pub mod app;

pub mod checker;
pub mod relayer;
pub mod collector;
