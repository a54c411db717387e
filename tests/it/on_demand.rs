//! `GET /probe?target=&module=`: a probe for whoever asks, if the file allows it. Hostile targets
//! get no packet, slow ones no more time than Prometheus has, and too many get their 503.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::thread;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::exposition::Exposition;
use crate::http::{self, Response};
use crate::prometheus::{is_installed, lint};
use crate::run::Run;
use crate::site::{Place, Site, report_skip};

on_each_io! {
    a_probe_tells_what_blackbox_tells_and_more,
    nobody_is_probed_unless_the_file_says_so,
    a_hostile_target_gets_no_packet,
    what_cannot_be_asked_is_one_line,
    a_probe_ends_before_prometheus_gives_up,
    too_many_probes_are_refused_and_counted,
    the_rules_follow_the_file,
}

const REQUESTS: &str = "rttscope_probe_requests_total";

/// An agent without targets, and its file.
struct Scene {
    agent: Run,
    file: PathBuf,
    io: &'static str,
    _folder: TempDir,
}

impl Scene {
    /// `probe` is the value of the key.
    fn start(site: &Site, probe: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rttscope.yaml");
        let io = site.io.name();
        fs::write(&file, text(io, probe)).unwrap();
        let agent = Run::start(&Place::Here, &format!("run --config.file={}", file.display()));
        agent.wait_for_stderr("probing");
        Self { agent, file, io, _folder: folder }
    }

    fn get(&self, query: &str) -> Response {
        self.get_within(query, "")
    }

    /// With these header lines.
    fn get_within(&self, query: &str, headers: &str) -> Response {
        get(self.agent.http_address(), query, headers)
    }

    /// The metrics of a probe.
    fn probe(&self, query: &str) -> Exposition {
        let response = self.get(query);
        assert_eq!(response.status, 200, "{query}: {}", response.body);
        parsed(&response)
    }

    fn check_refused(&self, query: &str, status: u16, part: &str) {
        let response = self.get(query);
        let body = &response.body;
        assert_eq!(response.status, status, "{query}: {body}");
        assert!(body.contains(part), "{query}: {body}");
        assert!(body.ends_with('\n') && body.lines().count() == 1, "{query}: {body}");
    }

    fn requests(&self, result: &str) -> u64 {
        self.agent.scrape().count(REQUESTS, &[("result", result)])
    }
}

/// The other text format has no end, which the parser wants.
fn parsed(response: &Response) -> Exposition {
    Exposition::parse(&format!("{}# EOF\n", response.body))
}

fn get(address: SocketAddr, query: &str, headers: &str) -> Response {
    http::exchange(http::connect(address), &format!("/probe{query}"), headers).unwrap()
}

fn text(io: &str, probe: &str) -> String {
    let probe = if probe.is_empty() { String::new() } else { format!("probe: {probe}\n") };
    format!(
        "modules:\n  echo: {{timeout: 20s, interval: 1s}}\n  port: {{prober: check, timeout: \
         20s, interval: 1s}}\n  dial: {{prober: connect, timeout: 20s, interval: 1s}}\n\
         measuring: {{io: {io}}}\nweb: {{listen: '127.0.0.1:0'}}\nserve: {{listen: \
         '127.0.0.1:0'}}\n{probe}"
    )
}

const LOCAL: &str = "{allow: [{networks: [127.0.0.0/8, '::1'], ports: 1-65535}]}";

fn a_probe_tells_what_blackbox_tells_and_more(site: &Site) {
    let scene = Scene::start(site, LOCAL);
    let responder = scene.agent.responder_address();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let open = listener.local_addr().unwrap();
    for (module, target) in [("echo", responder), ("port", open), ("dial", open)] {
        let seen = scene.probe(&format!("?target={target}&module={module}"));
        assert_eq!(seen.one("probe_success", &[]), 1.0, "{module}: {seen}");
        assert_eq!(seen.one("probe_ip_protocol", &[]), 4.0);
        assert_eq!(seen.one("probe_dns_lookup_time_seconds", &[]), 0.0);
        // What exporters of either kind say of 127.0.0.1.
        assert_eq!(seen.one("probe_ip_addr_hash", &[]), f64::from(0xdaaf_40ed_u32), "{seen}");
        let (rtt, whole) =
            (seen.sum("probe_rtt_seconds", &[]), seen.one("probe_duration_seconds", &[]));
        assert!(0.0 < rtt && rtt < whole, "{module}: {seen}");
        assert_eq!(seen.select("probe_rtt_seconds", &[]).count(), 1);
        assert!(rtt <= seen.one("probe_app_rtt_seconds", &[]), "{module}: {seen}");
        let stages = seen.select("probe_stage_seconds", &[]).count();
        assert_eq!(stages > 0, module == "echo", "{seen}");
    }
    // A name, whose every address is allowed.
    let seen = scene.probe(&format!("?target=localhost:{}&module=dial", open.port()));
    assert!([4.0, 6.0].contains(&seen.one("probe_ip_protocol", &[])), "{seen}");
    assert!(seen.one("probe_dns_lookup_time_seconds", &[]) > 0.0, "{seen}");
    drop(listener);
    for module in ["port", "dial"] {
        let seen = scene.probe(&format!("?target={open}&module={module}"));
        assert_eq!(seen.one("probe_success", &[]), 0.0, "{module}: {seen}");
        assert_eq!(seen.one("probe_refused", &[]), 1.0, "{module}: {seen}");
    }
    let nobody = scene.probe("?target=no-such-host.invalid:1&module=port");
    assert_eq!(nobody.one("probe_success", &[]), 0.0);
    assert!(!nobody.has("probe_ip_protocol", &[]));
    // Nothing of this is a target.
    assert!(!scene.agent.scrape().has("tcp_check_up", &[]));
    assert!(scene.requests("success") >= 3 && scene.requests("failure") >= 3);
    check_by_promtool(&scene, &format!("?target={responder}&module=echo"));
}

fn check_by_promtool(scene: &Scene, query: &str) {
    if !is_installed("promtool") {
        return report_skip("on_demand::linter", "no `promtool` on the search path");
    }
    lint(&scene.get(query));
}

fn nobody_is_probed_unless_the_file_says_so(site: &Site) {
    let scene = Scene::start(site, "");
    scene.check_refused("?target=127.0.0.1:1&module=dial", 404, "off");
    assert!(!scene.agent.scrape().has(REQUESTS, &[]));
    let serve = site.serve("--web.listen-address=127.0.0.1:0");
    let response = get(serve.http_address(), "?target=127.0.0.1:1&module=dial", "");
    assert_eq!(response.status, 404, "{}", response.body);
}

fn a_hostile_target_gets_no_packet(site: &Site) {
    let rules = "{allow: [{networks: 127.0.0.2, ports: [2000-2010, 9]}, {networks: 127.0.0.0/8, \
                 hosts: ['*.rttscope.test', localhost.rttscope.test], ports: 1-65535}]}";
    let scene = Scene::start(site, rules);
    let listener = TcpListener::bind("[::]:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    for host in [
        "127.0.0.1",
        "0.0.0.0",
        "[::]",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "localhost",
        "LOCALHOST.",
        "rttscope.test",
        "xrttscope.test",
        "a.rttscope.test.invalid",
        "127.0.0.2",
    ] {
        let query = format!("?target={host}:{port}&module=dial");
        scene.check_refused(&query, 403, "not allowed");
    }
    // Other ways to write it, which some resolvers take: no address, or a name that leads there.
    for host in ["2130706433", "0x7f000001", "127.1", "0177.0.0.1", "0x7f.1"] {
        let response = scene.get(&format!("?target={host}:{port}&module=dial"));
        assert!([400, 403].contains(&response.status), "{host}: {}", response.body);
    }
    // The right port, and an address that no rule has: known after the lookup only.
    for host in ["localhost", "127.0.0.1", "[::ffff:127.0.0.1]"] {
        scene.check_refused(&format!("?target={host}:2005&module=dial"), 403, "not allowed");
    }
    assert!(listener.accept().is_err(), "somebody was let through");
    assert!(scene.requests("refused") >= 15);
    assert_eq!(scene.requests("success"), 0);
}

fn what_cannot_be_asked_is_one_line(site: &Site) {
    let scene = Scene::start(site, LOCAL);
    for (query, part) in [
        ("", "target is missing"),
        ("?module=dial", "target is missing"),
        ("?target=&module=dial", "target is missing"),
        ("?target=127.0.0.1&module=dial", "has no port"),
        ("?target=http://127.0.0.1:1/&module=dial", "target"),
        ("?target=127.0.0.1:0&module=dial", "port 0"),
        ("?target=a%0d%0aSet-Cookie:1&module=dial", "target"),
        ("?target=%ff:1&module=dial", "target"),
        ("?target=127.0.0.1:1", "module is missing; write one of: dial, echo, port"),
        ("?target=127.0.0.1:1&module=", "module"),
        ("?target=127.0.0.1:1&module=http_2xx", "\"http_2xx\" is unknown; write one of: dial,"),
        ("?target=127.0.0.1:1&target=127.0.0.1:2&module=dial", "duplicate"),
    ] {
        scene.check_refused(query, 400, part);
    }
    let long = "a".repeat(8_000);
    assert_eq!(scene.get(&format!("?target={long}:1&module=dial")).status, 400);
    for header in ["0", "-1", "NaN", "soon"] {
        let header = format!("X-Prometheus-Scrape-Timeout-Seconds: {header}\r\n");
        let response = scene.get_within("?target=127.0.0.1:1&module=dial", &header);
        assert_eq!(response.status, 400, "{header}: {}", response.body);
    }
    let only = Scene::start(site, &LOCAL.replacen('{', "{modules: [dial], ", 1));
    only.check_refused("?target=127.0.0.1:1&module=port", 400, "is unknown; write one of: dial");
    // The only one need not be named.
    assert_eq!(only.get("?target=127.0.0.1:1").status, 200);
}

/// A peer that is connected by its kernel and says nothing.
fn a_probe_ends_before_prometheus_gives_up(site: &Site) {
    let scene = Scene::start(site, LOCAL);
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let query = format!("?target={}&module=echo", silent.local_addr().unwrap());
    let header = "X-Prometheus-Scrape-Timeout-Seconds: 1.0\r\n";
    let response = scene.get_within(&query, header);
    assert_eq!(response.status, 200, "{}", response.body);
    let seen = parsed(&response);
    assert_eq!(seen.one("probe_success", &[]), 0.0);
    // Half a second is left of the second, and the module would wait for twenty.
    let duration = seen.one("probe_duration_seconds", &[]);
    assert!((0.4..10.0).contains(&duration), "{seen}");
    assert_eq!(scene.requests("failure"), 1);
    // Nothing is left of it.
    scene.agent.signal(Signal::HUP);
    scene.agent.wait_for_stderr("configuration reloaded");
}

fn too_many_probes_are_refused_and_counted(site: &Site) {
    let scene = Scene::start(site, &LOCAL.replacen('{', "{concurrency: 2, ", 1));
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let query = format!("?target={}&module=echo", silent.local_addr().unwrap());
    let address = scene.agent.http_address();
    let slow: Vec<_> = (0..2)
        .map(|_| {
            let query = query.clone();
            let header = "X-Prometheus-Scrape-Timeout-Seconds: 6\r\n";
            thread::spawn(move || get(address, &query, header))
        })
        .collect();
    // Both are under way when both are connected.
    let _both = [silent.accept().unwrap(), silent.accept().unwrap()];
    let busy = scene.get(&query);
    assert_eq!((busy.status, busy.header("retry-after")), (503, Some("1")), "{}", busy.body);
    assert_eq!(scene.requests("busy"), 1);
    for slow in slow {
        assert_eq!(slow.join().unwrap().status, 200);
    }
    assert_eq!((scene.requests("failure"), scene.requests("busy")), (2, 1));
    // There is room again.
    let responder = scene.agent.responder_address();
    let seen = scene.probe(&format!("?target={responder}&module=echo"));
    assert_eq!(seen.one("probe_success", &[]), 1.0, "{seen}");
}

fn the_rules_follow_the_file(site: &Site) {
    let scene = Scene::start(site, "");
    let query = format!("?target={}&module=echo", scene.agent.responder_address());
    for (probe, status) in
        [(LOCAL, 200), ("{allow: [{networks: '::1', ports: 1-65535}]}", 403), ("", 404)]
    {
        fs::write(&scene.file, text(scene.io, probe)).unwrap();
        let reloaded = http::post(scene.agent.http_address(), "/-/reload");
        assert_eq!(reloaded.status, 200, "{}", reloaded.body);
        assert_eq!(scene.get(&query).status, status, "{probe}");
    }
}
