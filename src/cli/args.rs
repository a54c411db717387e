//! The flags as clap reads them: texts, defaults and help, no meaning. A new command is a variant
//! of [`Command`] and a struct of the groups below; `build` gives it its meaning.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use super::completions::CompletionsCommand;
use super::doctor::DoctorCommand;
use super::load::LoadCommand;
use super::manual::ManCommand;
use super::relay::RelayCommand;
use super::service::ServiceCommand;
use crate::config::defaults;

/// High-precision TCP round-trip probe: kernel time, per-stage split, Prometheus metrics.
#[derive(Debug, Parser)]
#[command(
    name = "rttscope",
    bin_name = "rttscope",
    version,
    propagate_version = true,
    subcommand_required = true,
    arg_required_else_help = false,
    after_help = "Durations: 10ms, 1m30s. Addresses: host:port, [v6%zone]:port, :port.\n\
                  Exit codes: 0 good, 1 the measured failed, 2 bad use, 3 we could not work.\n\
                  Command lines of tcp_ping_prometheus (-mode=client -target=…) work unchanged."
)]
pub(super) struct Cli {
    #[command(subcommand)]
    pub(super) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Do what a configuration file says, and follow its changes.
    #[command(after_help = "Example: rttscope run --config.file rttscope.yaml")]
    Run(RunCommand),
    /// Answer probes.
    #[command(after_help = "Example: rttscope serve --listen :4000")]
    Serve(ServeCommand),
    /// Probe targets: exit code 1 if nothing was received.
    #[command(after_help = "Example: rttscope probe db=10.0.0.1:4000 --interval 10ms")]
    Probe(ProbeCommand),
    /// Answer probes and send them; to oneself unless targets are given.
    #[command(after_help = "Example: rttscope both --web.listen-address :2112")]
    Both(BothCommand),
    /// Check TCP ports by half-open handshakes: exit code 1 unless all are open.
    #[command(after_help = "Example: rttscope check 10.0.0.1:443 db.example:5432 -n 100 -c 16")]
    Check(CheckCommand),
    /// Show what the kernel knows of a connection (TCP_INFO): exit code 1 if there is none.
    #[command(after_help = "Example: rttscope info 10.0.0.1:443 --watch")]
    Info(InfoCommand),
    /// Pass TCP connections on to upstreams, and measure them on the way.
    #[command(after_help = "Example: rttscope relay --listen :8080 --upstream 10.0.0.1:80")]
    Relay(RelayCommand),
    /// Load a peer that returns every byte, and check each: exit code 1 if a request failed.
    #[command(after_help = "Example: rttscope load 10.0.0.1:4000 --rate 10000 --size 64 --size 8K")]
    Load(LoadCommand),
    /// Say what works here, what does not, and how to change that: exit code 1 without kernel time.
    #[command(after_help = "Example: rttscope doctor --threads 2 --pin 2-3 --priority fifo:10")]
    Doctor(DoctorCommand),
    /// Print Prometheus rules and alerts for a prober: write its flags behind `rules`.
    #[command(after_help = "Example: rttscope rules --slo 100us:99.9% > rttscope.rules.yml")]
    Rules(RulesCommand),
    /// Install, start and stop a service of Windows; run as one.
    #[command(after_help = "Example: rttscope service install -- both --listen :4000\n\
                      On Linux, systemd starts rttscope itself; on macOS, launchd does.")]
    Service(ServiceCommand),
    /// Print a shell's completions.
    #[command(after_help = "Example: rttscope completions bash > \
                      /usr/share/bash-completion/completions/rttscope")]
    Completions(CompletionsCommand),
    /// Print a man page: of the program, or of one command.
    #[command(after_help = "Example: rttscope man probe > rttscope-probe.1")]
    Man(ManCommand),
}

#[derive(Debug, Args)]
pub(super) struct RunCommand {
    /// YAML file of modules, targets and everything else; or tcp_ping_prometheus' targets.json.
    #[arg(long = "config.file", value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// Only say whether the file is good: exit code 2 if not.
    #[arg(long = "config.check")]
    pub(super) check: bool,
    /// Print the JSON Schema of such files.
    #[arg(long = "config.schema")]
    pub(super) schema: bool,
}

#[derive(Debug, Args)]
pub(super) struct ServeCommand {
    /// Where to answer probes; :PORT is every address.
    #[arg(long, value_name = "ADDR", default_value = defaults::LISTEN)]
    pub(super) listen: String,
    #[command(flatten)]
    pub(super) responder: ResponderFlags,
    /// Where to serve /metrics; :PORT is every address; repeatable.
    #[arg(long = "web.listen-address", value_name = "ADDR", default_value = defaults::WEB_LISTEN)]
    pub(super) web_listen_address: Vec<String>,
    #[command(flatten)]
    pub(super) web: WebFlags,
    #[command(flatten)]
    pub(super) common: CommonFlags,
}

#[derive(Debug, Args)]
pub(super) struct ProbeCommand {
    #[command(flatten)]
    pub(super) prober: ProberFlags,
    /// Serve /metrics here; off unless given; repeatable.
    #[arg(long = "web.listen-address", value_name = "ADDR")]
    pub(super) web_listen_address: Vec<String>,
    #[command(flatten)]
    pub(super) web: WebFlags,
    #[command(flatten)]
    pub(super) common: CommonFlags,
}

#[derive(Debug, Args)]
pub(super) struct BothCommand {
    /// Where to answer probes; :PORT is every address.
    #[arg(long, value_name = "ADDR", default_value = defaults::LISTEN_BOTH)]
    pub(super) listen: String,
    #[command(flatten)]
    pub(super) responder: ResponderFlags,
    #[command(flatten)]
    pub(super) prober: ProberFlags,
    /// Where to serve /metrics; :PORT is every address; repeatable.
    #[arg(
        long = "web.listen-address",
        value_name = "ADDR",
        default_value = defaults::WEB_LISTEN_BOTH
    )]
    pub(super) web_listen_address: Vec<String>,
    #[command(flatten)]
    pub(super) web: WebFlags,
    #[command(flatten)]
    pub(super) common: CommonFlags,
}

#[derive(Debug, Args)]
pub(super) struct WebFlags {
    /// Take the HTTP server's sockets from systemd instead of --web.listen-address.
    #[arg(long = "web.systemd-socket")]
    pub(super) systemd_socket: bool,
    /// TLS, users, headers and a rate limit for the HTTP server: exporter-toolkit's file.
    #[arg(long = "web.config.file", value_name = "FILE")]
    pub(super) config_file: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(super) struct CheckCommand {
    /// host:port, [v6]:port, [v6%zone]:port.
    #[arg(value_name = "ADDR")]
    pub(super) addr: Vec<String>,
    /// One more address; repeatable.
    #[arg(short, long, value_name = "ADDR")]
    pub(super) address: Vec<String>,
    /// File of more addresses, one a line, # begins a comment; - is standard input.
    #[arg(long, value_name = "FILE")]
    pub(super) file: Option<PathBuf>,
    /// How long a check may take, resolving the name included, in ms [default: 1000].
    #[arg(short, long, value_name = "MS")]
    pub(super) timeout_ms: Option<String>,
    /// The same as a duration, e.g. 800ms.
    #[arg(long, value_name = "DURATION")]
    pub(super) timeout: Option<String>,
    /// Checks of each address.
    #[arg(short = 'n', long, value_name = "N", default_value = defaults::REQUESTS)]
    pub(super) requests: String,
    /// Checks at once.
    #[arg(short, long, value_name = "N", default_value = defaults::CONCURRENCY)]
    pub(super) concurrency: String,
    /// Show how it is checked, and each check that fails.
    #[arg(short, long)]
    pub(super) verbose: bool,
    /// How to check: the best that works here, a raw SYN, or a kernel socket.
    #[arg(
        long,
        value_name = "METHOD",
        default_value = "auto",
        value_parser = ["auto", "syn", "quickack", "dial"]
    )]
    pub(super) method: String,
    /// One JSON object a check on standard output, and a summary.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: SocketFlags,
    #[command(flatten)]
    pub(super) common: CommonFlags,
}

#[derive(Debug, Args)]
pub(super) struct InfoCommand {
    /// host:port, [v6]:port, [v6%zone]:port.
    #[arg(value_name = "ADDR")]
    pub(super) address: Option<String>,
    /// How long resolving and connecting may take.
    #[arg(long, value_name = "DURATION", default_value = defaults::INFO_TIMEOUT)]
    pub(super) timeout: String,
    /// Look again each second.
    #[arg(long)]
    pub(super) watch: bool,
    /// One JSON object a look on standard output.
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) socket: SocketFlags,
    #[command(flatten)]
    pub(super) common: CommonFlags,
}

#[derive(Debug, Args)]
pub(super) struct RulesCommand {
    /// The job label that Prometheus gives to rttscope.
    #[arg(long, value_name = "NAME", default_value = defaults::JOB)]
    pub(super) job: String,
    #[command(flatten)]
    pub(super) prober: ProberFlags,
    /// Is no matter here; a prober's flags are taken as they are.
    #[arg(long = "web.listen-address", value_name = "ADDR", hide = true)]
    pub(super) web_listen_address: Option<String>,
    #[command(flatten)]
    pub(super) common: CommonFlags,
}

#[derive(Debug, Args)]
pub(super) struct ResponderFlags {
    /// Close a connection on which nothing came for this long.
    #[arg(long, value_name = "DURATION", default_value = defaults::IDLE_TIMEOUT)]
    pub(super) idle_timeout: String,
    /// Close connections beyond this many at once, in each measuring thread.
    #[arg(long, value_name = "N", default_value = defaults::CONNECTIONS_MAX)]
    pub(super) max_connections: String,
}

#[derive(Debug, Args)]
pub(super) struct ProberFlags {
    /// host:port, or name=host:port to choose the `target` label.
    #[arg(value_name = "TARGET")]
    pub(super) target: Vec<String>,
    /// JSON file with more targets: [{"name": "db", "address": "10.0.0.1:4000"}].
    #[arg(long, value_name = "FILE")]
    pub(super) targets: Option<PathBuf>,
    /// Time between two probes of one target.
    #[arg(long, value_name = "DURATION", default_value = defaults::INTERVAL)]
    pub(super) interval: String,
    /// How long to wait for a reply; may exceed the interval.
    #[arg(long, value_name = "DURATION", default_value = defaults::TIMEOUT)]
    pub(super) timeout: String,
    /// Let the timeout follow the measured times (RFC 6298), within 100ms to 3s.
    #[arg(long)]
    pub(super) adaptive: bool,
    /// Outcomes in the sliding loss window.
    #[arg(long, value_name = "N", default_value = defaults::WINDOW)]
    pub(super) window: String,
    /// Stop after this many probes of each target.
    #[arg(long, value_name = "N")]
    pub(super) count: Option<String>,
    /// Stop after this long.
    #[arg(long, value_name = "DURATION")]
    pub(super) duration: Option<String>,
    /// Count probes or checks within a threshold exactly, e.g. 100us:99.9%, by the best clock, by
    /// the kernel's only, or as an application waits, from the due time; repeatable.
    #[arg(long, value_name = "[NAME=]TIME:PERCENT%[:best|kernel|application]")]
    pub(super) slo: Vec<String>,
    /// What to show of the kernel's TCP_INFO of each connection, on /metrics.
    #[arg(
        long,
        value_name = "MEMBERS",
        default_value = "default",
        value_parser = ["all", "default", "off"]
    )]
    pub(super) tcp_info: String,
    /// Half-open checks (SYN, SYN-ACK, RST) instead of echo probes: any TCP port will do.
    #[arg(long)]
    pub(super) check: bool,
    /// How to check: the best that works here, a raw SYN, or a kernel socket.
    #[arg(long, value_name = "METHOD", value_parser = ["auto", "syn", "quickack", "dial"])]
    pub(super) method: Option<String>,
    /// One JSON object a probe on standard output, and a summary.
    #[arg(long)]
    pub(super) json: bool,
    /// Frames to speak; auto falls back to what the peer understands.
    #[arg(
        long,
        value_name = "WIRE",
        default_value = "auto",
        value_parser = ["auto", "v1", "v2", "v3"]
    )]
    pub(super) wire: String,
    /// Bytes added to every v3 frame.
    #[arg(long, value_name = "BYTES", default_value = "0")]
    pub(super) padding: String,
    #[command(flatten)]
    pub(super) socket: SocketFlags,
}

#[derive(Debug, Args)]
pub(super) struct SocketFlags {
    /// Source address.
    #[arg(long, value_name = "IP", help_heading = "Sockets")]
    pub(super) source: Option<String>,
    /// Interface to leave by.
    #[arg(long, value_name = "NAME", help_heading = "Sockets")]
    pub(super) interface: Option<String>,
    /// Differentiated services code point: 0 to 63, EF, CS0 to CS7, AF11 to AF43.
    #[arg(long, value_name = "DSCP", help_heading = "Sockets")]
    pub(super) dscp: Option<String>,
    /// Time to live (hop limit), 1 to 255.
    #[arg(long, value_name = "HOPS", help_heading = "Sockets")]
    pub(super) ttl: Option<String>,
}

#[derive(Debug, Args)]
#[command(next_help_heading = "Measuring and logging")]
pub(super) struct CommonFlags {
    /// Backend: io_uring, or readiness (epoll, kqueue, IOCP).
    #[arg(
        long,
        value_name = "IO",
        default_value = "auto",
        value_parser = ["auto", "uring", "poll"]
    )]
    pub(super) io: String,
    /// Clock: the best there is, the kernel's or nothing, or ours only.
    #[arg(
        long,
        value_name = "CLOCK",
        default_value = "auto",
        value_parser = ["auto", "kernel", "application"]
    )]
    pub(super) clock: String,
    /// Measuring threads, for answering and for probing each.
    #[arg(long, value_name = "N", default_value = defaults::THREADS)]
    pub(super) threads: String,
    /// CPUs for the measuring threads, in turn, e.g. 0,2-3.
    #[arg(long, value_name = "CPUS")]
    pub(super) pin: Option<String>,
    /// Never sleep while waiting: costs a CPU a thread, saves the wake-up.
    #[arg(long)]
    pub(super) busy_poll: bool,
    /// Priority of the measuring threads: nice:-20 to nice:19, fifo:1 to fifo:99.
    #[arg(long, value_name = "PRIORITY")]
    pub(super) priority: Option<String>,
    /// Confine the program once it has started: as far as possible, fully or not at all.
    #[arg(
        long,
        value_name = "CHOICE",
        default_value = "auto",
        default_missing_value = "on",
        num_args = 0..=1,
        require_equals = true,
        value_parser = ["auto", "on", "off"]
    )]
    pub(super) sandbox: String,
    /// Least severe messages to log.
    #[arg(
        long = "log.level",
        value_name = "LEVEL",
        default_value = "info",
        value_parser = ["error", "warn", "info", "debug", "trace"]
    )]
    pub(super) log_level: String,
    /// How to log, always to standard error.
    #[arg(
        long = "log.format",
        value_name = "FORMAT",
        default_value = "text",
        value_parser = ["text", "json"]
    )]
    pub(super) log_format: String,
}
