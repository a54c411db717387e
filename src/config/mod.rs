//! What the program is asked to do, checked and complete: every command line becomes one
//! [`Config`], and nothing downstream ever sees a flag. Modes are sections that are present.

use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::path::PathBuf;
use std::time::Duration;

use crate::sys::sandbox::SandboxChoice;
use crate::sys::socket::SocketOptions;
use crate::sys::{ClockChoice, IoChoice, MethodChoice, Priority};

pub mod address;
pub mod agent;
pub mod discovery;
pub mod duration;
pub mod file;
pub mod load;
pub mod mesh;
pub mod nearest;
pub mod on_demand;
pub mod relay;
mod service;
pub mod setting;
pub mod targets_file;
pub mod web_file;

mod yaml;

pub use self::relay::{
    Balance, HealthSection, ProxyHeader, RelayListen, RelayListener, RelaySection, RelayUpstream,
};
pub use self::service::{Service, ServiceOrder};

use self::agent::AgentSection;
use self::load::LoadSection;

/// Everything `app::run` needs to know.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Pass connections on, if present.
    pub relay: Option<RelaySection>,
    /// Answer probes, if present.
    pub serve: Option<ServeSection>,
    /// Send probes, if present.
    pub probe: Option<ProbeSection>,
    /// Probe what a configuration file says, and follow its changes, if present. Instead of
    /// [`Self::probe`].
    pub agent: Option<AgentSection>,
    /// Check addresses so many times each, and end, if present. Alone.
    pub check: Option<CheckSection>,
    /// Show what the kernel knows of one connection, if present. Alone.
    pub info: Option<InfoSection>,
    /// Load a target, if present. Alone.
    pub load: Option<LoadSection>,
    /// Say what works here and what does not, if present. Alone.
    pub doctor: Option<DoctorSection>,
    /// Serve HTTP, if present.
    pub web: Option<WebSection>,
    /// How the measuring threads work.
    pub measuring: MeasuringSection,
    /// How logs look.
    pub log: LogSection,
}

/// The responder.
#[derive(Clone, Debug, PartialEq)]
pub struct ServeSection {
    /// Where to listen; port 0 takes a free one and logs it. `[::]` means every address, IPv4
    /// too, and falls back to `0.0.0.0` where IPv6 is off.
    pub listen: SocketAddr,
    /// Close a connection on which nothing was received for this long.
    pub idle_timeout: Duration,
    /// Connections of one thread beyond this many are closed at once and counted.
    pub connections_max: usize,
}

/// The prober.
#[derive(Clone, Debug, PartialEq)]
pub struct ProbeSection {
    /// Whom to probe, with distinct names. Empty means the responder of the same [`Config`], whose
    /// address is known once it listens; without a responder it is never empty.
    pub targets: Vec<Target>,
    /// Time between two probes of one target.
    pub interval: Duration,
    /// How long a reply may take, counted from the due time. May exceed the interval.
    pub timeout: Duration,
    /// Shorten the timeout to what RFC 6298 estimates, within 100 ms to 3 s.
    pub adaptive: bool,
    /// How many outcomes the sliding loss window holds.
    pub window: usize,
    /// Stop after this many probes a target.
    pub count: Option<u64>,
    /// Stop after this long.
    pub duration: Option<Duration>,
    /// Connections to each target, which take turns.
    pub paths: NonZeroU8,
    /// Which wire format to speak.
    pub wire: WireChoice,
    /// Bytes appended to a v3 frame.
    pub padding_bytes: u16,
    /// Options of the prober's sockets.
    pub socket: SocketOptions,
    /// Objectives counted exactly, with distinct names.
    pub slos: Vec<Slo>,
    /// Ends of the classic buckets, the objectives' aside; the 1-2-5 steps if there are none.
    pub buckets: Option<Vec<Duration>>,
    /// What is shown of the kernel's `TCP_INFO` of each connection.
    pub tcp_info: TcpInfoChoice,
    /// Check by half-open handshakes instead of echo probes, by this method.
    pub check: Option<MethodChoice>,
    /// What goes to standard output.
    pub report: ReportMode,
}

/// A finite run of half-open checks.
#[derive(Clone, Debug, PartialEq)]
pub struct CheckSection {
    /// Whom to check; at least one. The same address may be there several times.
    pub addresses: Vec<HostPort>,
    /// Checks of each address.
    pub requests: u64,
    /// Checks at once.
    pub concurrency: usize,
    /// How long a check may take, the resolution of its name included.
    pub timeout: Duration,
    /// Which method to check by.
    pub method: MethodChoice,
    /// Options of what is sent.
    pub socket: SocketOptions,
    /// What goes to standard output.
    pub report: ReportMode,
    /// Show the configuration and each check that is not open.
    pub verbose: bool,
}

/// A look at one connection.
#[derive(Clone, Debug, PartialEq)]
pub struct InfoSection {
    /// Whom to connect to.
    pub address: HostPort,
    /// How long resolving and connecting may take.
    pub timeout: Duration,
    /// Look again each second, until a signal or the connection's end.
    pub watch: bool,
    /// Options of the socket.
    pub socket: SocketOptions,
    /// What goes to standard output.
    pub report: ReportMode,
}

/// A self-check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DoctorSection {
    /// One JSON object instead of a screen.
    pub json: bool,
}

/// One probed address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// The `target` label.
    pub name: String,
    /// What to connect to, and the `address` label.
    pub address: HostPort,
}

/// A host name or literal address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// Name, IPv4, IPv6 without brackets, or IPv6 with `%zone`. Never empty.
    pub host: String,
    /// 1 to 65535.
    pub port: u16,
}

/// Which wire format a prober speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WireChoice {
    /// Offer v3; fall back to what the peer understands.
    #[default]
    Auto,
    /// Always 16-byte frames.
    V1,
    /// Always 24-byte frames with the magic.
    V2,
    /// Offer v3; a peer that lacks it is an error outcome.
    V3,
}

/// How much of `TCP_INFO` is shown.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TcpInfoChoice {
    /// All that the kernel fills.
    All,
    /// A few members that tell most.
    #[default]
    Default,
    /// Nothing; the kernel is not asked.
    Off,
}

/// One objective: this share of probes is received within the threshold.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    /// The `slo` label.
    pub name: String,
    /// A probe is good if it is received and takes at most this.
    pub threshold: Duration,
    /// Wanted share of good probes, in (0, 1).
    pub objective_ratio: f64,
    /// Which of its times is held against the threshold.
    pub clock: SloClock,
}

/// Which time of a probe or check an objective is about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SloClock {
    /// The round trip by the best clock that the probe had.
    #[default]
    Best,
    /// The round trip by the kernel's clocks or the network card's; probes without are not counted.
    Kernel,
    /// What an application waits, counted from the due time.
    Application,
}

impl SloClock {
    /// Every one of them, by the name that users write.
    pub const NAMED: [(&str, Self); 3] =
        [("best", Self::Best), ("kernel", Self::Kernel), ("application", Self::Application)];
}

/// What a prober or a run of checks writes to standard output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReportMode {
    /// A live table on a terminal, plain lines elsewhere.
    #[default]
    Live,
    /// One JSON object a probe or check, and a summary line.
    Json,
    /// Nothing (the seed's command lines).
    Quiet,
}

/// The HTTP server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebSection {
    /// Where to listen.
    pub listen: WebListen,
    /// The file of TLS, users, headers and the rate limit; see [`web_file`].
    pub config_file: Option<PathBuf>,
}

/// Where the HTTP server's connections come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WebListen {
    /// Here; at least one address. Port 0 takes a free one and logs it.
    Addresses(Vec<SocketAddr>),
    /// The sockets that systemd passed to this process.
    Systemd,
}

/// A file that the command line names cannot be used: bad use, found out after the start.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadFile(pub String);

/// How the program works, above all its measuring threads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeasuringSection {
    /// io_uring or readiness.
    pub io: IoChoice,
    /// Which clocks may be used.
    pub clock: ClockChoice,
    /// Measuring threads for each section, 1 to `THREADS_MAX`.
    pub threads: usize,
    /// CPUs to pin the measuring threads to, in turn; empty pins nothing.
    pub pin: Vec<usize>,
    /// Never sleep while waiting: costs a CPU a thread, saves the wake-up.
    pub busy_poll: bool,
    /// Scheduling priority of the measuring threads.
    pub priority: Option<Priority>,
    /// Whether the program confines itself once it has started.
    pub sandbox: SandboxChoice,
}

/// How logs look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogSection {
    /// Least severe level that is written.
    pub level: tracing::Level,
    /// One line of text, or one JSON object, each.
    pub json: bool,
}

/// Why a text is no good value, and what would be one. Knows no flag: the command line puts the
/// flag before both, a file its key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{why}; write e.g. {instead}")]
pub struct BadValue {
    /// What is wrong, as the end of a sentence that begins with the value.
    pub why: String,
    /// A value that would be accepted.
    pub instead: String,
}

impl BadValue {
    /// Both halves of the message.
    #[must_use]
    pub fn new(why: impl Into<String>, instead: impl Into<String>) -> Self {
        Self { why: why.into(), instead: instead.into() }
    }
}

/// What a setting is unless it is given, as a user would write it: help texts show these words,
/// and they pass through the same parsers as a user's.
pub mod defaults {
    /// Every address, the seed's port.
    pub const LISTEN: &str = ":4000";
    /// `both` exposes nothing unless it is told to.
    pub const LISTEN_BOTH: &str = "127.0.0.1:4000";
    /// The seed's metrics port.
    pub const WEB_LISTEN: &str = ":2112";
    /// See [`LISTEN_BOTH`].
    pub const WEB_LISTEN_BOTH: &str = "127.0.0.1:2112";
    /// See [`super::ServeSection::idle_timeout`].
    pub const IDLE_TIMEOUT: &str = "10m";
    /// See [`super::ServeSection::connections_max`].
    pub const CONNECTIONS_MAX: &str = "10000";
    /// See [`super::ProbeSection::interval`].
    pub const INTERVAL: &str = "200ms";
    /// See [`super::ProbeSection::timeout`].
    pub const TIMEOUT: &str = "800ms";
    /// See [`super::ProbeSection::window`].
    pub const WINDOW: &str = "100";
    /// See [`super::CheckSection::requests`].
    pub const REQUESTS: &str = "1";
    /// See [`super::CheckSection::concurrency`].
    pub const CONCURRENCY: &str = "1";
    /// See [`super::CheckSection::timeout`].
    pub const CHECK_TIMEOUT_MS: &str = "1000";
    /// See [`super::InfoSection::timeout`].
    pub const INFO_TIMEOUT: &str = "3s";
    /// See [`super::on_demand::OnDemandSection::concurrency`].
    pub const PROBE_CONCURRENCY: &str = "16";
    /// See [`super::on_demand::OnDemandSection::timeout_offset`]; blackbox_exporter's.
    pub const PROBE_TIMEOUT_OFFSET: &str = "500ms";
    /// See [`super::load::Scenario::connections`]; the seed's, as the two below.
    pub const LOAD_CONNECTIONS: &str = "10";
    /// See [`super::load::Scenario::message_bytes`].
    pub const MESSAGE_SIZE: &str = "1024";
    /// See [`super::load::Scenario::duration`].
    pub const LOAD_DURATION: &str = "30s";
    /// See [`super::load::LoadSection::warm_up`].
    pub const WARM_UP: &str = "1s";
    /// See [`super::load::LoadSection::timeout`].
    pub const LOAD_TIMEOUT: &str = "5s";
    /// The `job` label that rules expect.
    pub const JOB: &str = "rttscope";
    /// See [`super::MeasuringSection::threads`].
    pub const THREADS: &str = "1";
}

/// Limits with a name. Those that a user may want to move are fields of the sections above.
pub mod limits {
    use std::time::Duration;

    /// Measuring threads of one section.
    pub const THREADS_MAX: usize = 64;
    /// Targets of one prober.
    pub const TARGETS_MAX: usize = 100_000;
    /// Addresses of one run of checks.
    pub const ADDRESSES_MAX: usize = 100_000;
    /// Checks of one address in one run.
    pub const REQUESTS_MAX: u64 = 1_000_000_000;
    /// Checks at once.
    pub const CONCURRENCY_MAX: usize = 16_384;
    /// Objectives of one prober.
    pub const SLOS_MAX: usize = 8;
    /// Connections of one responder thread, unless configured.
    pub const CONNECTIONS_MAX: usize = 10_000;
    /// The most that can be configured: the kernel's own ceiling of descriptors (`fs.nr_open`).
    pub const CONNECTIONS_CONFIGURED_MAX: u64 = 1_048_576;
    /// Shortest idle timeout of a responder.
    pub const IDLE_TIMEOUT_MIN: Duration = Duration::from_secs(1);
    /// Longest idle timeout of a responder.
    pub const IDLE_TIMEOUT_MAX: Duration = Duration::from_secs(7 * 86_400);
    /// CPUs that can be named for pinning (the kernel's largest `NR_CPUS` on x86).
    pub const CPUS_MAX: usize = 8_192;
    /// Bytes of a target's or an objective's name.
    pub const NAME_BYTES_MAX: usize = 255;
    /// Bytes of a file of targets.
    pub const TARGETS_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
    /// Probes of one target that may be in flight: `timeout / interval` may not exceed it.
    pub const IN_FLIGHT_MAX: usize = 1_024;
    /// Shortest interval.
    pub const INTERVAL_MIN: Duration = Duration::from_micros(10);
    /// Longest interval and timeout.
    pub const INTERVAL_MAX: Duration = Duration::from_secs(3_600);
    /// Bytes of padding of a v3 frame: as many as the wire allows.
    pub const PADDING_BYTES_MAX: u16 = 1_400;
    /// Outcomes in a loss window.
    pub const WINDOW_MAX: usize = 65_536;
    /// How often a name is resolved again while its connection stands.
    pub const RESOLVE_INTERVAL: Duration = Duration::from_secs(60);
    /// Names that are looked up at the same time.
    pub const LOOKUPS_MAX: usize = 16;
    /// The same in a run of checks, where a name that hangs would hold up those behind it.
    pub const CHECK_LOOKUPS_MAX: usize = 128;
    /// Probes on demand at once, whatever is configured.
    pub const PROBES_ON_DEMAND_MAX: usize = 256;
    /// Wishes for them that wait to be looked at.
    pub const PROBES_ON_DEMAND_WAITING_MAX: usize = 64;
    /// Names that are looked up for them at the same time; the others are for targets.
    pub const PROBE_LOOKUPS_MAX: usize = 4;
    /// Rules of who may be probed on demand.
    pub const ALLOWED_MAX: usize = 1_024;
    /// Addresses of the HTTP server.
    pub const WEB_ADDRESSES_MAX: usize = 64;
    /// Bytes of a file of the HTTP server: its configuration, a certificate, a key.
    pub const WEB_FILE_BYTES_MAX: u64 = 1_024 * 1_024;
    /// Words, lists and maps in the configuration of the HTTP server.
    pub const WEB_FILE_NODES_MAX: usize = 250_000;
    /// Bytes of a configuration file.
    pub const CONFIG_FILE_BYTES_MAX: u64 = 64 * 1024 * 1024;
    /// Words, lists and maps in a configuration file: twenty for each target.
    pub const CONFIG_FILE_NODES_MAX: usize = 20 * TARGETS_MAX;
    /// Connections to one target.
    pub const PATHS_MAX: u8 = 64;
    /// Ends of classic buckets that a module may have.
    pub const BUCKETS_MAX: usize = 64;
    /// Modules of a configuration file.
    pub const MODULES_MAX: usize = 256;
    /// Mistakes of a configuration file that are told.
    pub const MISTAKES_MAX: usize = 20;
    /// Labels that a user gives to a target.
    pub const LABELS_MAX: usize = 32;
    /// Bytes of a label's value.
    pub const LABEL_BYTES_MAX: usize = 1_024;
    /// Users of the HTTP server.
    pub const WEB_USERS_MAX: usize = 1_000;
    /// The dearest bcrypt hash of a user: a few seconds of a CPU.
    pub const BCRYPT_COST_MAX: u32 = 18;
    /// Longest interval of the HTTP server's rate limit.
    pub const RATE_INTERVAL_MAX: Duration = Duration::from_secs(3_600);
    /// Connections of a load: about as many as there are ports for one peer.
    pub const LOAD_CONNECTIONS_MAX: usize = 60_000;
    /// Requests per second of a load.
    pub const LOAD_RATE_MAX: u64 = 10_000_000;
    /// Bytes of a request of a load.
    pub const MESSAGE_BYTES_MAX: usize = 1 << 20;
    /// Bytes of one request of each connection of a load.
    pub const LOAD_BYTES_MAX: usize = 1 << 30;
    /// Runs of one load.
    pub const SCENARIOS_MAX: usize = 256;
    /// Bytes of a file of scenarios.
    pub const LOAD_FILE_BYTES_MAX: u64 = 1_024 * 1_024;
    /// Changes waiting for one worker.
    pub const CHANGES_MAX: usize = 1_024;
    /// Samples waiting for the JSON writer; beyond it they are dropped there and counted.
    pub const REPORT_SAMPLES_MAX: usize = 8_192;
}
