//! Tables of whole command lines: good ones with the whole `Config` they become, bad ones with
//! the exact line that is printed.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::io::Write;
use std::num::NonZeroU8;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::config::{
    CheckSection, InfoSection, LogSection, MeasuringSection, ProbeSection, ReportMode,
    ServeSection, Slo, SloClock, Target, TcpInfoChoice, WebListen, WebSection, WireChoice,
};
use crate::sample::Method;
use crate::sys::sandbox::SandboxChoice;
use crate::sys::socket::SocketOptions;
use crate::sys::{ClockChoice, IoChoice, MethodChoice, Priority};

/// Splits at spaces only: no word of these tables contains one.
fn parse_line(line: &str) -> Result<Parsed, UsageError> {
    let words = line.split(' ').filter(|word| !word.is_empty());
    parse(std::iter::once("rttscope").chain(words).map(OsString::from))
}

fn check(line: &str, expected: Config) {
    assert_eq!(parse_line(line), Ok(Parsed::Run(Box::new(expected))), "{line}");
}

fn check_refused(line: &str, message: &str) {
    let refused = parse_line(line).unwrap_err().to_string();
    assert_eq!(refused, format!("rttscope: {message}"), "{line}");
}

fn listener(text: &str) -> ServeSection {
    ServeSection {
        listen: text.parse().unwrap(),
        idle_timeout: Duration::from_secs(600),
        connections_max: 10_000,
    }
}

fn web(text: &str) -> Option<WebSection> {
    let listen = WebListen::Addresses(text.split(' ').map(|it| it.parse().unwrap()).collect());
    Some(WebSection { listen, config_file: None })
}

fn prober(targets: &[&str]) -> ProbeSection {
    ProbeSection {
        targets: targets.iter().map(|text| text.parse().unwrap()).collect::<Vec<Target>>(),
        interval: Duration::from_millis(200),
        timeout: Duration::from_millis(800),
        adaptive: false,
        window: 100,
        count: None,
        duration: None,
        wire: WireChoice::Auto,
        paths: NonZeroU8::MIN,
        padding_bytes: 0,
        socket: SocketOptions::default(),
        tcp_info: TcpInfoChoice::Default,
        check: None,
        slos: Vec::new(),
        buckets: None,
        report: ReportMode::Live,
    }
}

fn nothing() -> Config {
    Config {
        relay: None,
        serve: None,
        probe: None,
        check: None,
        info: None,
        load: None,
        doctor: None,
        agent: None,
        web: None,
        measuring: MeasuringSection {
            io: IoChoice::Auto,
            clock: ClockChoice::Auto,
            threads: 1,
            pin: Vec::new(),
            busy_poll: false,
            priority: None,
            sandbox: SandboxChoice::Auto,
        },
        log: LogSection { level: tracing::Level::INFO, json: false },
    }
}

/// What a seed-form client has that ours has not.
fn seed_prober(targets: &[&str]) -> ProbeSection {
    ProbeSection { report: ReportMode::Quiet, ..prober(targets) }
}

#[test]
fn serve_command_lines() {
    let serve = Config { serve: Some(listener("[::]:4000")), web: web("[::]:2112"), ..nothing() };
    check("serve", serve.clone());
    check(
        "serve --listen 127.0.0.1:0 --web.listen-address=[::1]:9 --idle-timeout 1m \
         --max-connections 5 --log.level=debug --log.format json",
        Config {
            serve: Some(ServeSection {
                idle_timeout: Duration::from_secs(60),
                connections_max: 5,
                ..listener("127.0.0.1:0")
            }),
            web: web("[::1]:9"),
            log: LogSection { level: tracing::Level::DEBUG, json: true },
            ..serve
        },
    );
}

#[test]
fn web_command_lines() {
    let file = Some(std::path::PathBuf::from("web.yml"));
    let serve = |web| Config { serve: Some(listener("[::]:4000")), web: Some(web), ..nothing() };
    let two = web("[::1]:9 127.0.0.1:8").unwrap();
    check("serve --web.listen-address=[::1]:9 --web.listen-address=127.0.0.1:8", serve(two));
    // As exporter-toolkit: systemd's sockets stand for addresses.
    check(
        "serve --web.systemd-socket --web.config.file=web.yml",
        serve(WebSection { listen: WebListen::Systemd, config_file: file }),
    );
    check(
        "probe db:4000 --web.systemd-socket",
        Config {
            probe: Some(prober(&["db:4000"])),
            web: Some(WebSection { listen: WebListen::Systemd, config_file: None }),
            ..nothing()
        },
    );
    check_refused(
        "probe db:4000 --web.config.file web.yml",
        "--web.config.file web.yml: nothing is served; add --web.listen-address :2112",
    );
    check_refused(
        &format!("serve{}", " --web.listen-address=:1".repeat(65)),
        "--web.listen-address: given 65 times; write at most 64",
    );
}

#[test]
fn probe_command_lines() {
    let probe = |section| Config { probe: Some(section), ..nothing() };
    check("probe db:4000", probe(prober(&["db:4000"])));
    for (words, tcp_info) in [
        ("--tcp-info all", TcpInfoChoice::All),
        ("--tcp-info=default", TcpInfoChoice::Default),
        ("--tcp-info=off", TcpInfoChoice::Off),
    ] {
        let section = ProbeSection { tcp_info, ..prober(&["db:4000"]) };
        check(&format!("probe db:4000 {words}"), probe(section));
    }
    check(
        "probe a=10.0.0.1:4000 [fe80::1%eth0]:4000 :4000",
        probe(prober(&["a=10.0.0.1:4000", "[fe80::1%eth0]:4000", "localhost:4000"])),
    );
    check(
        "probe db:1 --interval=10ms --timeout 1s --adaptive --window 50 --count 7 \
         --duration 1m30s --json --wire v3 --padding 100 --source 10.0.0.9 --interface eth1 \
         --dscp EF --ttl 3 --slo 100us:99.9% --slo slow=1ms:99%",
        probe(ProbeSection {
            interval: Duration::from_millis(10),
            timeout: Duration::from_secs(1),
            adaptive: true,
            window: 50,
            count: Some(7),
            duration: Some(Duration::from_secs(90)),
            wire: WireChoice::V3,
            padding_bytes: 100,
            socket: SocketOptions {
                source: Some("10.0.0.9".parse().unwrap()),
                interface: Some("eth1".to_owned()),
                dscp: Some(46),
                ttl: Some(3),
            },
            slos: vec![
                Slo {
                    name: "100us".to_owned(),
                    threshold: Duration::from_micros(100),
                    objective_ratio: 0.999,
                    clock: SloClock::Best,
                },
                Slo {
                    name: "slow".to_owned(),
                    threshold: Duration::from_millis(1),
                    objective_ratio: 0.99,
                    clock: SloClock::Best,
                },
            ],
            report: ReportMode::Json,
            ..prober(&["db:1"])
        }),
    );
    check(
        "probe --io=poll --clock application --threads 2 --pin 0,2-3 --busy-poll \
         --priority fifo:50 --sandbox=off --web.listen-address :2113 --wire v1 db:1",
        Config {
            probe: Some(ProbeSection { wire: WireChoice::V1, ..prober(&["db:1"]) }),
            web: web("[::]:2113"),
            measuring: MeasuringSection {
                io: IoChoice::Poll,
                clock: ClockChoice::Application,
                threads: 2,
                pin: vec![0, 2, 3],
                busy_poll: true,
                priority: Some(Priority::Fifo(50)),
                sandbox: SandboxChoice::Off,
            },
            ..nothing()
        },
    );
}

#[test]
fn half_open_command_lines() {
    let by = |check| {
        let probe = Some(ProbeSection { check: Some(check), ..prober(&["db:1"]) });
        Config { probe, ..nothing() }
    };
    check("probe db:1 --check", by(MethodChoice::Auto));
    check("probe db:1 --check --method auto", by(MethodChoice::Auto));
    check("probe db:1 --method syn --check", by(MethodChoice::Only(Method::Syn)));
    check("probe db:1 --check --method quickack", by(MethodChoice::Only(Method::Quickack)));
    check("probe db:1 --check --method=dial", by(MethodChoice::Only(Method::Dial)));
    let slo = Slo {
        name: "5ms-application".to_owned(),
        threshold: Duration::from_millis(5),
        objective_ratio: 0.99,
        clock: SloClock::Application,
    };
    let check_by = Some(MethodChoice::Auto);
    let probe = ProbeSection { check: check_by, slos: vec![slo], ..prober(&["db:1"]) };
    let config = Config { probe: Some(probe), ..nothing() };
    check("probe db:1 --check --slo 5ms:99%:application", config);
}

#[test]
fn both_probes_itself_on_loopback_unless_told() {
    let both = Config {
        serve: Some(listener("127.0.0.1:4000")),
        probe: Some(prober(&[])),
        web: web("127.0.0.1:2112"),
        ..nothing()
    };
    check("both", both.clone());
    check(
        "both db:1 --listen :4001",
        Config {
            serve: Some(listener("[::]:4001")),
            probe: Some(prober(&["db:1"])),
            ..both.clone()
        },
    );
    for words in ["--sandbox", "--sandbox=on"] {
        let measuring = MeasuringSection { sandbox: SandboxChoice::On, ..nothing().measuring };
        check(&format!("both {words}"), Config { measuring, ..both.clone() });
    }
    check(
        "both --priority nice:-10",
        Config {
            measuring: MeasuringSection {
                priority: Some(Priority::Nice(-10)),
                ..nothing().measuring
            },
            ..both
        },
    );
}

#[test]
fn seed_command_lines() {
    let server = Config { serve: Some(listener("[::]:4000")), web: web("[::]:2112"), ..nothing() };
    let client = |section| Config { probe: Some(section), web: web("[::]:2112"), ..nothing() };
    let by_default = || seed_prober(&["default=localhost:4000"]);
    check("-mode=server", server.clone());
    check("-listen=:5000", Config { serve: Some(listener("[::]:5000")), ..server.clone() });
    check("-svc=", server.clone());
    check("-interval=0 -timeout 0 -window=-1", server.clone());
    check("--mode client", client(by_default()));
    check("-mode=client -mode=server", server.clone());
    check(
        "-json-logs",
        Config { log: LogSection { json: true, ..nothing().log }, ..server.clone() },
    );
    check("-json-logs=F", server);
    let local = Config { web: web("127.0.0.1:2113"), ..nothing() };
    check(
        "-metrics=localhost:2113 -listen=localhost:4000",
        Config { serve: Some(listener("127.0.0.1:4000")), ..local },
    );
    // More intervals than may be in flight: the rest of the slots is skipped and counted.
    let (interval, timeout) = (Duration::from_millis(1), Duration::from_secs(3));
    check(
        "-mode=client -interval=1ms -timeout=3s",
        client(ProbeSection { interval, timeout, ..by_default() }),
    );
    let timeout = Duration::from_secs(3_600);
    check("-mode=client -timeout=1h", client(ProbeSection { timeout, ..by_default() }));
    check("-adaptive -mode=client", client(ProbeSection { adaptive: true, ..by_default() }));
    check("-adaptive=false -mode=client", client(by_default()));
    check("-window=0 -mode=client", client(ProbeSection { window: 1, ..by_default() }));
    check("-target=10.0.0.1:4000 -mode client", client(seed_prober(&["default=10.0.0.1:4000"])));
    check(
        "-mode=both -target=[::1]:4001 -interval=10ms --timeout 1.5s -window=50 \
         -metrics=:2113 --listen=127.0.0.1:4001 -adaptive=T -json-logs=1",
        Config {
            serve: Some(listener("127.0.0.1:4001")),
            probe: Some(ProbeSection {
                interval: Duration::from_millis(10),
                timeout: Duration::from_millis(1_500),
                window: 50,
                adaptive: true,
                ..seed_prober(&["default=[::1]:4001"])
            }),
            web: web("[::]:2113"),
            log: LogSection { json: true, ..nothing().log },
            ..nothing()
        },
    );
}

#[test]
fn files_of_targets() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    write!(file, r#"[{{"name": "x", "address": "a:1"}}, {{"name": "y", "address": ":2"}}]"#)
        .unwrap();
    let path = file.path().display();
    check(
        &format!("probe z:3 --targets {path}"),
        Config { probe: Some(prober(&["z:3", "x=a:1", "y=localhost:2"])), ..nothing() },
    );
    check(
        &format!("-mode=client -target=ignored:9 -targets={path}"),
        Config {
            probe: Some(seed_prober(&["x=a:1", "y=localhost:2"])),
            web: web("[::]:2112"),
            ..nothing()
        },
    );
    check_refused(
        &format!("probe x=z:3 --targets {path}"),
        "x: two targets have this name; write e.g. other=a:1 for one of them",
    );
    let error = std::fs::File::open("/nowhere.json").unwrap_err();
    let missing = format!("cannot be read ({error}); write the path of a JSON file");
    check_refused("probe --targets /nowhere.json", &format!("--targets /nowhere.json: {missing}"));
    check_refused(
        "-mode=client -targets=/nowhere.json",
        &format!("-targets=/nowhere.json: {missing}"),
    );
}

fn checker(addresses: &[&str]) -> CheckSection {
    CheckSection {
        addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
        requests: 1,
        concurrency: 1,
        timeout: Duration::from_secs(1),
        method: MethodChoice::Auto,
        socket: SocketOptions::default(),
        report: ReportMode::Live,
        verbose: false,
    }
}

#[test]
fn check_command_lines() {
    let run = |section| Config { check: Some(section), ..nothing() };
    check("check db:80", run(checker(&["db:80"])));
    // As tcp-checker.
    check(
        "check -a example.com:80 -t 250 -n 100 -c 10 -v",
        run(CheckSection {
            requests: 100,
            concurrency: 10,
            timeout: Duration::from_millis(250),
            verbose: true,
            ..checker(&["example.com:80"])
        }),
    );
    check(
        "check [fe80::1%eth0]:443 --address=[::1]:1 -a=a:1 a:1 --timeout 1m --requests=3 \
         --concurrency=16384 --method=quickack --json --source ::2 --interface eth1 --dscp 10 \
         --ttl 9 --log.level=warn --io=poll --threads=2",
        Config {
            measuring: MeasuringSection { io: IoChoice::Poll, threads: 2, ..nothing().measuring },
            log: LogSection { level: tracing::Level::WARN, json: false },
            ..run(CheckSection {
                requests: 3,
                concurrency: 16_384,
                timeout: Duration::from_secs(60),
                method: MethodChoice::Only(Method::Quickack),
                socket: SocketOptions {
                    source: Some("::2".parse().unwrap()),
                    interface: Some("eth1".to_owned()),
                    dscp: Some(10),
                    ttl: Some(9),
                },
                report: ReportMode::Json,
                // Words first, then flags.
                ..checker(&["[fe80::1%eth0]:443", "a:1", "[::1]:1", "a:1"])
            })
        },
    );
}

#[test]
fn bad_addresses_are_left_out_and_the_others_are_checked() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"# ours\n10.0.0.1:80\n\ndb:65536 # typo\n[::1]:22\n").unwrap();
    let path = file.path().to_str().unwrap();
    let parsed = parse_line(&format!("check a:0 b:1 --file {path}")).unwrap();
    let Parsed::RunDespite(config, complaints) = parsed else { panic!("{parsed:?}") };
    let expected = checker(&["b:1", "10.0.0.1:80", "[::1]:22"]);
    assert_eq!(*config, Config { check: Some(expected), ..nothing() });
    let complaints: Vec<String> = complaints.iter().map(ToString::to_string).collect();
    assert_eq!(
        complaints,
        [
            "rttscope: a:0: has port 0, on which nobody can listen; write e.g. a:4000".to_owned(),
            format!(
                "rttscope: --file {path}, line 4: db:65536: has port 65536, but 65535 is the \
                 last; write e.g. db:4000"
            ),
        ]
    );
}

#[test]
fn bad_checks() {
    let file = "write a file with an address a line, e.g. 10.0.0.1:80";
    for (line, message) in [
        ("check", "check: no address; write e.g. rttscope check 10.0.0.1:80".to_owned()),
        ("check db", "db: has no port; write e.g. db:4000".to_owned()),
        (
            "check a:0 -a b",
            "a:0: has port 0, on which nobody can listen; write e.g. a:4000\n\
             rttscope: b: has no port; write e.g. b:4000"
                .to_owned(),
        ),
        (
            "check --file /nowhere.txt",
            format!(
                "--file /nowhere.txt: cannot be read (No such file or directory (os error 2)); \
                 {file}"
            ),
        ),
        ("check --file /dev/null", format!("--file /dev/null: has no address; {file}")),
        (
            "check a:1 -n 0",
            "--requests 0: must be at least 1; write e.g. --requests 1000".to_owned(),
        ),
        (
            "check a:1 -c 20000",
            "--concurrency 20000: must be at most 16384; write e.g. --concurrency 64".to_owned(),
        ),
        (
            "check a:1 -t 1s",
            "--timeout-ms 1s: is no whole number; write e.g. --timeout-ms 1000".to_owned(),
        ),
        (
            "check a:1 --timeout 1",
            "--timeout 1: has no unit (ns, us, ms, s, m, h, d); write e.g. --timeout 800ms"
                .to_owned(),
        ),
        (
            "check a:1 -t 5 --timeout 1s",
            "--timeout: --timeout-ms 5 is given, too; write one of them".to_owned(),
        ),
        ("check a:1 --method raw", "--method raw: must be auto, syn, quickack or dial".to_owned()),
        (
            "check a:1 -n",
            "--requests: has no value; write --requests and a value \
             (rttscope check --help shows which)"
                .to_owned(),
        ),
        ("check a:1 -x", "-x: no such flag; write a flag of rttscope check --help".to_owned()),
    ] {
        check_refused(line, &message);
    }
}

#[test]
fn info_command_lines() {
    let run = |section| Config { info: Some(section), ..nothing() };
    let plain = InfoSection {
        address: "db:443".parse().unwrap(),
        timeout: Duration::from_secs(3),
        watch: false,
        socket: SocketOptions::default(),
        report: ReportMode::Live,
    };
    check("info db:443", run(plain));
    check_refused("info", "info: no address; write e.g. rttscope info 10.0.0.1:443");
    check(
        "info [::1]:9 --watch --json --timeout 500ms --ttl 3",
        run(InfoSection {
            address: "[::1]:9".parse().unwrap(),
            timeout: Duration::from_millis(500),
            watch: true,
            socket: SocketOptions { ttl: Some(3), ..SocketOptions::default() },
            report: ReportMode::Json,
        }),
    );
}

/// What is written if there is no command.
const COMMAND_LINES: &str = "rttscope serve, rttscope probe TARGET, rttscope both, \
                             rttscope check ADDR, rttscope info ADDR, rttscope load TARGET or \
                             rttscope rules";

#[test]
fn bad_words_and_flags() {
    for (line, message) in [
        ("", format!("no command; write {COMMAND_LINES}")),
        ("server", "server: no such command; write rttscope serve".to_owned()),
        ("forward a:1", format!("forward: no such command; write {COMMAND_LINES}")),
        ("chek a:1", "chek: no such command; write rttscope check".to_owned()),
        ("probe", "probe: no target; write e.g. rttscope probe 10.0.0.1:4000".to_owned()),
        (
            "probe --interval 0ms a:1",
            "--interval 0ms: must be at least 10us; write e.g. --interval 200ms".to_owned(),
        ),
        (
            "probe --interval 5 a:1",
            "--interval 5: has no unit (ns, us, ms, s, m, h, d); write e.g. --interval 200ms"
                .to_owned(),
        ),
        (
            "probe --interval=-5ms a:1",
            "--interval -5ms: must not be negative; write e.g. --interval 200ms".to_owned(),
        ),
        (
            "probe --interval -5ms a:1",
            "-5ms: looks like a flag; write a value that is not negative".to_owned(),
        ),
        (
            "probe --interval= a:1",
            "--interval \"\": is empty; write e.g. --interval 200ms".to_owned(),
        ),
        (
            "probe a:1 --interval",
            "--interval: has no value; write --interval and a value \
             (rttscope probe --help shows which)"
                .to_owned(),
        ),
        (
            "probe a:1 --interval 1ms --interval 2ms",
            "--interval: given more than once; write it once".to_owned(),
        ),
        (
            "probe a:1 --interval 100us",
            "--timeout 800ms: is 8000 intervals of 100us, and at most 1024 probes of a target \
             are in flight; write e.g. --timeout 102.4ms"
                .to_owned(),
        ),
        ("probe a:1 --intervall 1ms", "--intervall: no such flag; write --interval".to_owned()),
        (
            "--log.level=debug serve",
            "--log.level: a command comes first; write rttscope serve --log.level".to_owned(),
        ),
        (
            "probe a:1 --zzz",
            "--zzz: no such flag; write a flag of rttscope probe --help".to_owned(),
        ),
        (
            "probe a:1 -interval=5ms",
            "-interval=5ms: flags have two dashes; write --interval=5ms".to_owned(),
        ),
        ("probe a:1 --json=yes", "--json=yes: takes no value; write --json alone".to_owned()),
        ("probe a:1 --io epoll", "--io epoll: must be auto, uring or poll".to_owned()),
        (
            "probe a:1 --wire",
            "--wire: has no value; write --wire and auto, v1, v2 or v3".to_owned(),
        ),
        (
            "serve --log.level loud",
            "--log.level loud: must be error, warn, info, debug or trace".to_owned(),
        ),
    ] {
        check_refused(line, &message);
    }
}

#[test]
fn bad_settings() {
    for (line, message) in [
        ("probe a", "a: has no port; write e.g. a:4000".to_owned()),
        (
            "probe x=a:0",
            "x=a:0: has port 0, on which nobody can listen; write e.g. x=a:4000".to_owned(),
        ),
        (
            "probe ::1:80",
            "::1:80: is an IPv6 address without brackets; write e.g. [::1]:80".to_owned(),
        ),
        (
            "probe a:1 a:1",
            "a:1: two targets have this name; write e.g. other=a:1 for one of them".to_owned(),
        ),
        (
            "probe a:1 --check --method raw",
            "--method raw: must be auto, syn, quickack or dial".to_owned(),
        ),
        (
            "probe a:1 --method syn",
            "--method syn: echo probes have no method; add --check or leave it out".to_owned(),
        ),
        (
            "probe a:1 --check --wire v2",
            "--wire: is for echo probes; leave it out, or leave --check out".to_owned(),
        ),
        (
            "probe a:1 --wire v1 --padding 10",
            "--padding 10: v1 and v2 frames have no padding; add --wire v3".to_owned(),
        ),
        ("probe a:1 --count 0", "--count 0: must be at least 1; write e.g. --count 100".to_owned()),
        (
            "probe a:1 --slo 1ms:99% --slo 1000us:99.9%",
            "--slo 1000us:99.9%: is the second objective named 1ms; \
             write e.g. --slo strict=1000us:99.9%"
                .to_owned(),
        ),
        (
            "probe a:1 --slo 2s:99%",
            "--slo 2s:99%: has a threshold beyond the timeout of 800ms; \
             write e.g. --slo 800ms:99.9%"
                .to_owned(),
        ),
        (
            "serve --listen localhost:4000",
            "--listen localhost:4000: is no IP address, and names are not resolved for \
             listening; write e.g. --listen 127.0.0.1:4000"
                .to_owned(),
        ),
        (
            "serve a:1",
            "a:1: nothing is expected here; rttscope serve --help shows what can be written"
                .to_owned(),
        ),
        (
            "serve --web.listen-address 2112",
            "--web.listen-address 2112: is a port without its colon; \
             write e.g. --web.listen-address :2112"
                .to_owned(),
        ),
    ] {
        check_refused(line, &message);
    }
    let slos = (1..10).map(|ms| format!(" --slo {ms}ms:99%")).collect::<String>();
    check_refused(&format!("probe a:1{slos}"), "--slo: given 9 times; write at most 8");
    check_refused(
        "probe a:1 --clock application --slo 1ms:99%:kernel",
        "--slo 1ms:99%:kernel: is by the kernel's clocks, and --clock application asks for none; \
         write e.g. --slo 1ms:99%:application",
    );
}

#[test]
fn bad_seed_command_lines() {
    for (line, message) in [
        ("-mode=proxy", "-mode=proxy: must be server, client or both; write e.g. -mode=both"),
        ("-mode", "-mode: has no value; write -mode=VALUE"),
        ("-mode=client -intervall=5ms", "-intervall: no such flag; write -interval"),
        ("-intreval=5ms", "-intreval: no such flag; write -interval"),
        (
            "-zzz",
            "-zzz: no such flag; write -mode, -listen, -target, -targets, -metrics, -interval, \
             -timeout, -window, -adaptive, -json-logs, -svc",
        ),
        (
            "-mode=client -interval=0ms",
            "-interval=0ms: must be at least 10us; write e.g. -interval=200ms",
        ),
        ("-interval=abc", "-interval=abc: is no duration; write e.g. -interval=200ms"),
        (
            "--interval=1ms --count=3 db:1",
            "-count: needs a command before it; write rttscope probe --count",
        ),
        ("-window=ten", "-window=ten: is no whole number; write e.g. -window=100"),
        ("-adaptive=yes", "-adaptive=yes: is neither true nor false; write e.g. -adaptive=true"),
        ("-adaptive false", "false: is no flag; write it as -adaptive=false"),
        ("-mode=client 10.0.0.1:1", "10.0.0.1:1: is no flag; write a target as -target=10.0.0.1:1"),
        (
            "--interval 5ms probe",
            "probe: a command comes first; write rttscope probe --interval 5ms",
        ),
        ("-mode=client -target=", "-target=\"\": is empty; write e.g. -target=10.0.0.1:4000"),
        (
            "-listen=myhost:1",
            "-listen=myhost:1: is no IP address, and names are not resolved for listening; \
             write e.g. -listen=10.0.0.1:1, or :1 for every address",
        ),
        (
            "-listen=localhost:99999",
            "-listen=localhost:99999: has port 99999, but 65535 is the last; \
             write e.g. -listen=:4000",
        ),
        ("-mode=client -timeout=2h", "-timeout=2h: must be at most 1h; write e.g. -timeout=800ms"),
        (
            "-svc=restart",
            "-svc=restart: must be install, uninstall, start, stop or run; \
             write e.g. -svc=install",
        ),
    ] {
        check_refused(line, message);
    }
}

fn printed(line: &str) -> String {
    match parse_line(line) {
        Ok(Parsed::PrintAndExit(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn help_names_every_flag_of_the_contract() {
    assert_eq!(printed("--version"), format!("rttscope {}\n", env!("CARGO_PKG_VERSION")));
    assert_eq!(printed("serve --version"), printed("-V"));
    let everywhere = [
        "--io",
        "--clock",
        "--threads",
        "--pin",
        "--busy-poll",
        "--priority",
        "--log.level",
        "--log.format",
        "--web.listen-address",
        "--web.config.file",
        "--web.systemd-socket",
    ];
    let serve = ["--listen", "--idle-timeout", "--max-connections"];
    let probe = [
        "[TARGET]",
        "--targets",
        "--interval",
        "--timeout",
        "--adaptive",
        "--window",
        "--count",
        "--duration",
        "--json",
        "--wire",
        "--padding",
        "--source",
        "--interface",
        "--dscp",
        "--ttl",
        "--slo",
    ];
    for (line, groups) in [
        ("serve --help", vec![&everywhere[..], &serve]),
        ("probe --help", vec![&everywhere[..], &probe]),
        ("help both", vec![&everywhere[..], &serve, &probe]),
    ] {
        let help = printed(line);
        for flag in groups.concat() {
            assert!(help.contains(flag), "{line} does not name {flag}:\n{help}");
        }
    }
    assert_eq!(printed("-mode=both -h"), printed("--help"));
}

#[test]
fn rules_are_for_what_the_flags_say() {
    for (line, groups) in [
        ("rules", &["echo-slo", "echo", "check-slo", "check", ""][..]),
        ("rules --job other", &["echo-slo", "echo", "check-slo", "check", ""]),
        ("rules db:1", &["echo-slo", "echo", ""]),
        ("rules --slo 1ms:99% --interval 10ms --io poll", &["echo-slo", "echo", ""]),
        ("rules db:1 --check --web.listen-address :2112", &["check-slo", "check", ""]),
    ] {
        let yaml = printed(line);
        let names = yaml.lines().filter_map(|line| line.trim().strip_prefix("- name: rttscope"));
        let names: Vec<&str> = names.map(|name| name.trim_start_matches('-')).collect();
        assert_eq!(names, groups, "{line}");
    }
    assert!(printed("rules --job other").contains("{job=\"other\"}"));
    assert!(printed("rules --json").starts_with("{\n  \"groups\": ["));
    check_refused(
        "rules --slo 1ms",
        "--slo 1ms: is not threshold:percent; write e.g. --slo 100us:99.9%",
    );
}

#[test]
fn values_are_shown_on_one_short_line() {
    for (value, expected) in [
        ("plain", "plain"),
        ("", r#""""#),
        ("two words", r#""two words""#),
        ("line\nbreak", r#""line\nbreak""#),
        ("\u{1b}[31m", r#""\u{1b}[31m""#),
    ] {
        assert_eq!(shown(value), expected);
    }
    assert_eq!(shown(&"x".repeat(1_000)).chars().count(), 81);
}

proptest! {
    #[test]
    fn nothing_panics_and_complaints_are_one_line(
        first in "(serve|probe|both|-mode=client|-[a-z]{0,9}|.*)",
        rest in prop::collection::vec(
            "(-{0,2}[a-z.]{0,12}=?.{0,12}|a:1|--slo|[0-9a-z:%]{0,9})",
            0..6,
        ),
    ) {
        let words = ["rttscope".to_owned(), first].into_iter().chain(rest);
        if let Err(error) = parse(words.map(OsString::from)) {
            let line = error.to_string();
            prop_assert!(!line.contains(['\n', '\r', '\u{1b}']), "{:?}", line);
        }
    }
}
