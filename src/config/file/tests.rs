//! What a configuration file may say, and what is said of one that is not good.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::time::Duration;

use super::*;
use crate::config::{ReportMode, SloClock, TcpInfoChoice, WebListen, WireChoice, setting};
use crate::sys::{ClockChoice, MethodChoice};

fn good(text: &str) -> Config {
    parse(text, Path::new("/etc/rttscope/x.yaml")).unwrap_or_else(|bad| panic!("{bad}\n{text}"))
}

fn check(text: &str, complaints: &[&str]) {
    let lines = match parse(text, Path::new("x.yaml")) {
        Ok(_) => Vec::new(),
        Err(BadConfigFile(lines)) => lines,
    };
    let expected: Vec<String> = complaints.iter().map(|line| format!("x.yaml{line}")).collect();
    assert_eq!(lines, expected, "{text}");
}

const WHOLE: &str = "
defaults: {interval: 100ms, timeout: 500ms, dscp: EF, wire: v3, window: 50}
modules:
  fast:
    interval: 10ms
    slos:
    - {threshold: 1ms, objective: 99.9%}
    - {name: lax, threshold: 2ms, objective: 50%, clock: application}
  port: {prober: check, method: quickack, clock: application}
  plain: {prober: connect, dscp: 0}
targets:
- {name: db, address: '10.0.0.1:4000', module: fast, labels: {site: fra, rack: 7}}
- address: web.example:443
  module: port
serve: {listen: ':4001', idle_timeout: 1m, max_connections: 7}
web: {listen: [':2112', '[::1]:2113'], config_file: web.yml}
measuring: {threads: 2, pin: 0-1, io: poll, busy_poll: true, priority: 'nice:-5'}
limits: {targets: 10}
log: {level: debug, format: json}
";

#[test]
fn a_whole_file_is_understood() {
    let config = good(WHOLE);
    let agent = config.agent.unwrap();
    let names: Vec<&str> = agent.modules.keys().map(String::as_str).collect();
    assert_eq!(names, ["fast", "plain", "port"]);
    let fast = &agent.modules["fast"].settings;
    assert_eq!(
        (fast.interval, fast.timeout),
        (Duration::from_millis(10), Duration::from_millis(500))
    );
    assert_eq!((fast.wire, fast.window, fast.socket.dscp), (WireChoice::V3, 50, Some(46)));
    let slos: Vec<_> = fast.slos.iter().map(|slo| (slo.name.as_str(), slo.clock)).collect();
    assert_eq!(slos, [("1ms", SloClock::Best), ("lax", SloClock::Application)]);
    assert_eq!((fast.check, fast.report), (None, ReportMode::Quiet));
    let port = &agent.modules["port"];
    assert_eq!(port.settings.check, MethodChoice::NAMED.map(|(_, method)| method).get(2).copied());
    assert_eq!(
        (port.clock, agent.modules["fast"].clock),
        (ClockChoice::Application, ClockChoice::Auto)
    );
    let plain = &agent.modules["plain"].settings;
    assert_eq!((plain.check, plain.socket.dscp), (Some(MethodChoice::DIAL), Some(0)));
    let [db, web] = agent.targets.as_slice() else { panic!("{:?}", agent.targets) };
    assert_eq!((db.target.name.as_str(), db.module.name.as_str()), ("db", "fast"));
    let label = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(db.labels, [label("rack", "7"), label("site", "fra")]);
    assert_eq!(web.target.name, "web.example:443");
    assert_eq!(agent.targets_max, 10);
    let serve = config.serve.unwrap();
    assert_eq!((serve.listen.port(), serve.connections_max), (4001, 7));
    let web = config.web.unwrap();
    assert!(matches!(&web.listen, WebListen::Addresses(addresses) if addresses.len() == 2));
    assert_eq!(web.config_file.unwrap(), Path::new("/etc/rttscope/web.yml"));
    assert_eq!((config.measuring.threads, config.measuring.pin), (2, vec![0, 1]));
    assert_eq!((config.log.level, config.log.json), (tracing::Level::DEBUG, true));
}

#[test]
fn what_is_not_said_is_as_on_the_command_line() {
    for text in ["", "# nothing\n", "modules:\ntargets:\n", "{}"] {
        let config = good(text);
        assert!(config.serve.is_none() && config.probe.is_none());
        assert!(matches!(config.web.unwrap().listen, WebListen::Addresses(all) if all.len() == 1));
        let agent = config.agent.unwrap();
        assert_eq!((agent.targets.len(), agent.modules.len()), (0, 1));
        let echo = &agent.modules["echo"].settings;
        assert_eq!(echo.interval, setting::interval(super::super::defaults::INTERVAL).unwrap());
    }
    // The responder's defaults are good, too.
    assert_eq!(good("serve: {}").serve.unwrap().listen.port(), 4000);
}

#[test]
fn the_seeds_file_is_one() {
    let text = r#"[{"name": "a", "address": ":4000"}, {"name": "b", "address": "h:1"}]"#;
    let agent = good(&format!("\u{feff} {text}")).agent.unwrap();
    let names: Vec<&str> = agent.targets.iter().map(|it| it.target.name.as_str()).collect();
    assert_eq!(names, ["a", "b"]);
    check(
        "[]",
        &[": has no targets; write e.g. [{\"name\": \"db\", \"address\": \"10.0.0.1:4000\"}]"],
    );
}

#[test]
fn slips_are_told_with_their_place() {
    check("target: []", &[":1:1: there is no key target; write targets"]);
    check(
        "modules:\n  fast:\n    intervall: 10ms\n",
        &[":3:5: there is no key intervall; write interval"],
    );
    check(
        "forward: {}",
        &[":1:1: there is no key forward; write defaults, modules, targets, targets_file, \
          discovery, probe, serve, relay, web, measuring, limits, log"],
    );
    check("targets: [{adress: 'h:1'}]", &[":1:12: there is no key adress; write address"]);
    check(
        "targets: [{name: a}, {address: h}]",
        &[
            ":1:11: the target has no address; write address: 10.0.0.1:4000",
            ":1:32: address h: has no port; write e.g. address: h:4000",
        ],
    );
    check(
        "targets: [{name: a, address: 'h:1'},\n {name: a, address: 'h:2'}]",
        &[":2:9: a is the name of line 1, too; write another name: to it"],
    );
    check(
        "modules: {a: {}, b: {}}\ntargets: [{address: 'h:1'}, {address: 'h:2', module: c}]",
        &[
            ":2:11: there are several modules; write module: a, b",
            ":2:54: module: c is unknown; write a",
        ],
    );
    check(
        "limits: {targets: 1}\ntargets: [{address: 'h:1'}, {address: 'h:2'}]",
        &[": 2 targets: must be at most 1; write fewer"],
    );
    check(
        "web: {listen: [2112]}",
        &[":1:15: listen 2112: is a port without its colon; write e.g. listen: :2112"],
    );
    check(
        "measuring: {threads: 0, io: epoll}",
        &[
            ":1:22: threads 0: must be at least 1; write e.g. threads: 2",
            ":1:29: io: epoll is unknown; write poll",
        ],
    );
    check(
        "targets_file: /nonexistent/x.json",
        &[":1:15: targets_file /nonexistent/x.json: cannot be read (No such file or directory \
         (os error 2)); write the path of a JSON file"],
    );
}

#[test]
fn who_may_be_probed_on_demand_is_said_in_rules() {
    let agent = good(
        "modules: {a: {}, b: {prober: check}}\nprobe:\n  allow:\n  - {networks: 10.0.0.0/8, \
         ports: [80, 4000-4010]}\n  - {networks: ['::1', 127.0.0.1], hosts: '*.example.org', \
         ports: 443}\n  modules: [b]\n  concurrency: 2\n  timeout_offset: 100ms\n",
    );
    let section = agent.agent.unwrap().on_demand.unwrap();
    assert_eq!((section.concurrency, section.timeout_offset), (2, Duration::from_millis(100)));
    assert!(section.has_module("b") && !section.has_module("a"));
    let allows = |host, port, ip: &str| section.allows(host, port, ip.parse().unwrap());
    assert!(allows("x", 4005, "10.1.2.3") && !allows("x", 4011, "10.1.2.3"));
    assert!(allows("x.example.org", 443, "127.0.0.1") && !allows("x", 443, "127.0.0.1"));
    let section = good("probe: {allow: [{networks: '::/0', ports: 1-65535}]}").agent.unwrap();
    let section = section.on_demand.unwrap();
    assert_eq!((section.concurrency, section.timeout_offset), (16, Duration::from_millis(500)));
    assert!(section.has_module("echo"));
    assert_eq!(good("targets: []").agent.unwrap().on_demand, None);
}

#[test]
fn a_rule_that_would_allow_by_accident_is_refused() {
    let advice = "write allow: [{networks: 10.0.0.0/8, ports: 1-65535}]";
    check("probe: {}", &[&format!(":1:8: probe allows nobody; {advice}")]);
    check("probe: {allow: []}", &[&format!(":1:8: probe allows nobody; {advice}")]);
    let needs = "a rule needs networks and ports; write networks: 10.0.0.0/8, ports: 1-65535";
    check("probe: {allow: [{hosts: '*.a', ports: 1}]}", &[&format!(":1:17: {needs}")]);
    check("probe: {allow: [{networks: '::1'}]}", &[&format!(":1:17: {needs}")]);
    check(
        "probe: {allow: [{networks: 10.0.0.1/8, ports: [0, 1]}], modules: c, concurrency: 0}",
        &[
            ":1:28: networks 10.0.0.1/8: has bits behind its prefix; write e.g. networks: \
             10.0.0.0/8",
            ":1:47: ports 0: is no port and no range of ports; write e.g. ports: 4000-4010",
            ":1:66: modules: c is unknown; write echo",
            ":1:82: concurrency 0: is no number of 1 to 256; write e.g. concurrency: 16",
        ],
    );
}

#[test]
fn the_program_is_confined_unless_it_is_said() {
    use crate::sys::sandbox::SandboxChoice;
    assert_eq!(good("").measuring.sandbox, SandboxChoice::Auto);
    for (name, choice) in SandboxChoice::NAMED {
        let text = format!("measuring: {{sandbox: '{name}'}}");
        assert_eq!(good(&text).measuring.sandbox, choice, "{name}");
    }
    // YAML 1.1 has other words for yes and no; these are words.
    assert_eq!(good("measuring: {sandbox: off}").measuring.sandbox, SandboxChoice::Off);
}

#[test]
fn modules_must_make_sense() {
    check(
        "defaults: {interval: 10}",
        &[":1:22: interval 10: has no unit (ns, us, ms, s, m, h, d); write e.g. interval: 200ms"],
    );
    check(
        "modules: {a: {prober: check, wire: v3, adaptive: true}}",
        &[
            ":1:36: wire is for prober: echo; leave it out",
            ":1:50: adaptive is for prober: echo; leave it out",
        ],
    );
    check(
        "modules: {a: {method: syn}, b: {prober: connect, method: dial}}",
        &[
            ":1:23: method is for prober: check; leave one of them out",
            ":1:58: method is for prober: check; leave one of them out",
        ],
    );
    check(
        "modules: {a: {interval: 10us, timeout: 1h}}",
        &[":1:40: timeout 1h: is 360000000 intervals of 10us, and at most 1024 probes of a \
         target are in flight; write e.g. timeout: 10.24ms"],
    );
    check(
        "modules: {a: {interval: 10us}}",
        &[":1:25: timeout 800ms is 80000 intervals of 10us, and at most 1024 probes of a \
         target are in flight; write e.g. timeout: 10.24ms"],
    );
    check(
        "modules: {a: {wire: v1, padding: 9}}",
        &[":1:34: v1 and v2 frames have no padding; write wire: v3"],
    );
    check(
        "modules: {a: {slos: [{threshold: 1ms}, {threshold: 1ms, objective: 2}]}}",
        &[
            ":1:22: an objective has threshold and objective; write e.g. \
         {threshold: 1ms, objective: 99.9%}",
            ":1:68: objective 2: has no % at its end; write e.g. objective: 99.9%",
        ],
    );
    check(
        "modules: {a: {clock: application, slos: [{threshold: 9s, objective: 9%, clock: \
         kernel}]}}",
        &[
            ":1:42: clock kernel, but the module has none; write clock: application",
            ":1:54: the threshold is beyond the timeout of 800ms; write at most that",
        ],
    );
}

const DISCOVERY: &str = "
modules: {a: {}, b: {}}
discovery:
- name: pods
  module: a
  dns_sd_configs: [{names: [x.example], type: A, port: 4000, refresh_interval: 5s}]
  mesh: {self: '10.0.0.1:4000', scopes: [{name: all, peers: 3}]}
- module: b
  file_sd_configs: [{files: ['t/*.yml', /abs/x.json]}]
  http_sd_configs: [{url: 'http://h/', tls_config: {ca_file: ca.pem}}]
  relabel_configs: [{source_labels: [x], target_label: __module__}]
";

#[test]
fn discovery_is_understood_and_its_paths_are_relative_to_the_file() {
    let agent = good(DISCOVERY).agent.unwrap();
    let [pods, second] = &agent.discovery[..] else { panic!("two") };
    assert_eq!((pods.name.as_str(), pods.module.name.as_str()), ("pods", "a"));
    assert_eq!((second.name.as_str(), second.module.name.as_str()), ("2", "b"));
    assert_eq!(pods.mesh.as_ref().unwrap().scopes[0].peers, 3);
    let files = second.file_sd_configs[0].files.iter().map(|file| file.path());
    let expected = ["/etc/rttscope/t/*.yml", "/abs/x.json"].map(Path::new);
    assert!(files.eq(expected));
    let trust = &second.http_sd_configs[0].tls_config;
    assert_eq!(trust.ca_file.as_deref(), Some(Path::new("/etc/rttscope/ca.pem")));
    assert_eq!(second.relabel_configs.len(), 1);
    assert_eq!(good(DISCOVERY).agent.unwrap().discovery, agent.discovery);
}

#[test]
fn slips_of_discovery_are_told_with_their_place() {
    let check_job = |job: &str, complaints: &[&str]| {
        check(&format!("discovery:\n- {{{job}}}"), complaints);
    };
    check_job(
        "",
        &[":2:3: the discovery has no source; write e.g. file_sd_configs: [{files: [a.json]}]"],
    );
    check_job(
        "file_sd_config: []",
        &[":2:4: there is no key file_sd_config; write file_sd_configs"],
    );
    check_job("file_sd_configs: [{file: [a.json]}]", &[":2:23: there is no key file; write files"]);
    check_job(
        "dns_sd_configs: [{names: [a], typ: A}]",
        &[":2:34: there is no key typ; write type"],
    );
    check_job(
        "static_configs: [{targets: []}], module: none",
        &[":2:45: module: none is unknown; write echo"],
    );
    check_job(
        "static_configs: [{targets: []}], mesh: {self: h, scopes: []}",
        &[":2:43: mesh: self h: has no port; write e.g. h:4000"],
    );
    check_job(
        "static_configs: [{targets: []}], mesh: {self: 'h:1', scopes: [], peers: 2}",
        &[":2:69: there is no key peers; write self, labels, scopes"],
    );
    let twice = "{name: a, static_configs: [{}]}";
    check(
        &format!("discovery: [{twice}, {twice}]"),
        &[":1:46: is the second discovery named a; write another name:"],
    );
}

#[test]
fn buckets_are_durations() {
    let text = "defaults: {buckets: [1ms, 10us]}\nmodules: {a: {}, b: {buckets: []}}";
    let agent = good(text).agent.unwrap();
    let micros = |module: &str| {
        let ends = agent.modules[module].settings.buckets.clone();
        ends.map(|ends| ends.iter().map(Duration::as_micros).collect::<Vec<_>>())
    };
    assert_eq!((micros("a"), micros("b")), (Some(vec![1_000, 10]), Some(Vec::new())));
    check(
        "modules: {a: {buckets: [1ms, 0s, 7]}}",
        &[
            ":1:30: buckets 0s: must be at least 1ns; write e.g. buckets: [100us, 1ms]",
            ":1:34: buckets 7: has no unit (ns, us, ms, s, m, h, d); write e.g. buckets: [100us, \
             1ms]",
        ],
    );
}

#[test]
fn paths_are_several_connections_of_echo_probes() {
    let text = "defaults: {paths: 8}\nmodules: {a: {}, b: {paths: 1}, c: {prober: check}}";
    let agent = good(text).agent.unwrap();
    let of = |module: &str| {
        let settings = &agent.modules[module].settings;
        (settings.paths.get(), settings.tcp_info)
    };
    assert_eq!(of("a"), (8, TcpInfoChoice::Off));
    assert_eq!(of("b"), (1, TcpInfoChoice::Default));
    assert_eq!(of("c"), (1, TcpInfoChoice::Default));
    check(
        "modules: {a: {paths: 0}, b: {prober: check, paths: 2}, c: {paths: 2, tcp_info: all}}",
        &[
            ":1:22: paths 0: is no number of 1 to 64; write e.g. paths: 8",
            ":1:52: paths is for prober: echo; leave it out",
            ":1:80: tcp_info is of one connection, and the module has several; leave it out",
        ],
    );
}

#[test]
fn labels_are_prometheus_labels() {
    let check_label = |label: &str, complaint: &str| {
        let text = format!("targets: [{{address: 'h:1', labels: {{{label}: x}}}}]");
        let place = format!(":1:{}: the label {label} {complaint}", 39 + label.len());
        check(
            &text,
            if complaint.is_empty() { &[] } else { std::slice::from_ref(&place) }
                .iter()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .as_slice(),
        );
    };
    check_label("site", "");
    check_label("_x9", "");
    check_label("9x", "is no name; write letters, digits and _, e.g. site");
    check_label("a-b", "is no name; write letters, digits and _, e.g. site");
    check_label("__a", "begins with __, which Prometheus keeps for itself; write e.g. site");
    for reserved in RESERVED_LABELS {
        check_label(reserved, &format!("is one of the metrics' own; write e.g. my_{reserved}"));
    }
}

#[test]
fn nonsense_is_an_error() {
    for text in ["- a", "targets: 1", "a: 1\na: 2", "\u{0}", "a: &a [*a]", "modules: [a]", "'"] {
        let BadConfigFile(lines) = parse(text, Path::new("x.yaml")).unwrap_err();
        assert!(lines.len() == 1 && !lines[0].contains('\n'), "{lines:?}");
        assert!(
            lines[0].starts_with("x.yaml:1:") || lines[0].starts_with("x.yaml:2:"),
            "{lines:?}"
        );
    }
    let many = "{address: x},".repeat(100);
    let BadConfigFile(lines) = parse(&format!("targets: [{many}]"), Path::new("x")).unwrap_err();
    assert_eq!(lines.len(), limits::MISTAKES_MAX + 1);
    assert_eq!(lines.last().unwrap(), "x: 80 more mistakes");
}

#[test]
fn many_targets_are_read() {
    // More words than the YAML library takes by itself.
    let line =
        |n: usize| format!("- {{name: n{n}, address: 'h:1', labels: {{a: b, c: d, e: f}}}}\n");
    let text = (0..20_000).map(line).collect::<String>();
    let agent = good(&format!("targets:\n{text}")).agent.unwrap();
    assert_eq!(agent.targets.len(), 20_000);
}

#[test]
fn the_readmes_example_is_good() {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once("\n## The agent\n").unwrap();
    let (_, example) = section.split_once("```yaml\n").unwrap();
    let config = good(example.split_once("```").unwrap().0);
    let agent = config.agent.unwrap();
    assert_eq!((agent.modules.len(), agent.targets.len()), (3, 3));
    assert!(
        agent.modules.values().all(|module| agent.targets.iter().any(|it| it.module == *module))
    );
    assert_eq!(agent.modules["mesh"].settings.slos.len(), 2);
}

#[test]
fn the_readmes_discovery_is_good() {
    let readme = include_str!("../../../README.md");
    let (_, section) = readme.split_once("\n## Discovery\n").unwrap();
    let (_, example) = section.split_once("```yaml\n").unwrap();
    let example = example.split_once("```").unwrap().0.replace("${HOST_IP}", "10.0.0.1");
    let agent = good(&format!("modules: {{mesh: {{}}, door: {{}}}}\n{example}")).agent.unwrap();
    let [hosts, doors] = &agent.discovery[..] else { panic!("two") };
    assert_eq!((hosts.module.name.as_str(), doors.module.name.as_str()), ("mesh", "door"));
    assert_eq!(hosts.mesh.as_ref().unwrap().scopes.len(), 3);
}

#[test]
fn the_pods_file_is_good_in_a_pod() {
    let manifest = include_str!("../../../deploy/kubernetes/base/config-map.yaml");
    let (_, text) = manifest.split_once("rttscope.yaml: |\n").unwrap();
    let text: String = text.lines().map(|line| line.replacen("    ", "", 1) + "\n").collect();
    check(
        &text,
        &[":13:7: mesh: the environment has no \"POD_IP\"; set it, or write this host's address"],
    );
    let config = good(&text.replace("${POD_IP}", "10.0.0.1"));
    assert_eq!(config.serve.unwrap().listen.port(), 4_000);
    assert_eq!(config.agent.unwrap().discovery[0].dns_sd_configs.len(), 2);
}
