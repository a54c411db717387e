//! `rttscope run`: a configuration file, and its changes while targets are probed. Who is not
//! changed keeps connection and counts; who is gone leaves nothing behind.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::catalogue::{CONNECTED, CONNECTIONS, CONNECTIONS_ACTIVE, CONNECTS, DROPPED, SENT};
use crate::exposition::Exposition;
use crate::http;
use crate::run::Run;
use crate::site::{Place, Site};
use crate::turn::{self, Turn};

on_each_io! {
    targets_come_go_and_change_while_others_stay,
    one_of_a_hundred_changes_and_nobody_else_is_touched,
    a_bad_file_changes_nothing,
    a_changed_file_is_found,
    a_thousand_reloads_leave_nothing_behind,
}

const CHECKS: &str = "tcp_check_sent_total";
const RELOADED: &str = "rttscope_config_last_reload_successful";
const RELOADED_AT: &str = "rttscope_config_last_reload_success_timestamp_seconds";

/// An agent, its file, and a responder to probe.
struct Scene {
    serve: Run,
    agent: Run,
    file: PathBuf,
    _folder: TempDir,
}

impl Scene {
    fn start(site: &Site, targets: &str) -> Self {
        let serve = site.serve("--web.listen-address=127.0.0.1:0");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("rttscope.yaml");
        let responder = serve.responder_address();
        fs::write(&file, text(site, &responder_targets(targets, responder))).unwrap();
        let words = format!("run --config.file={}", file.display());
        let agent = Run::start(&site.prober_place(), &words);
        Self { serve, agent, file, _folder: folder }
    }

    /// Writes the file anew; `HTTP` stands for the responder's other port in `targets`.
    fn write(&self, site: &Site, targets: &str) {
        let targets = responder_targets(targets, self.serve.responder_address());
        // As an editor does: there is no moment with half a file.
        let new = self.file.with_extension("new");
        fs::write(&new, text(site, &targets)).unwrap();
        fs::rename(&new, &self.file).unwrap();
    }

    fn post(&self) -> http::Response {
        http::post(self.agent.http_address(), "/-/reload")
    }

    /// Connections at the responder: all there ever were, and those that stand.
    fn connections(&self) -> (u64, u64) {
        let scrape = self.serve.scrape();
        (scrape.count(CONNECTIONS, &[]), scrape.count(CONNECTIONS_ACTIVE, &[]))
    }
}

/// `NAME MODULE LABEL` each, as lines of the file. A check leaves connections at the responder:
/// it goes to a port on which nobody listens.
fn responder_targets(targets: &str, responder: SocketAddr) -> String {
    let line = |target: &str| {
        let words: Vec<&str> = target.split(' ').collect();
        let [name, module, label] = words[..] else { panic!("{target}") };
        let port = if module == "port" { 1 } else { responder.port() };
        format!(
            "- {{name: {name}, address: '{}:{port}', module: {module}, labels: {{site: \
             {label}}}}}\n",
            responder.ip()
        )
    };
    targets.split(", ").filter(|target| !target.is_empty()).map(line).collect()
}

fn text(site: &Site, targets: &str) -> String {
    let io = site.io.name();
    format!(
        "modules:\n  fast: {{interval: 5ms}}\n  slow: {{interval: 20ms, wire: v1}}\n  port: \
         {{prober: check, method: dial, interval: 20ms}}\n  idle: {{interval: \
         1s}}\nmeasuring: {{io: {io}}}\nweb: {{listen: '127.0.0.1:0'}}\ntargets:\n{targets}"
    )
}

fn sent(scrape: &Exposition, target: &str) -> u64 {
    scrape.count(SENT, &[("target", target)])
}

fn has(scrape: &Exposition, target: &str) -> bool {
    scrape.has(SENT, &[("target", target)])
}

/// This target was connected once and lost nothing, and more was sent than before.
fn check_untouched(before: &Exposition, after: &Exposition, target: &str) {
    let of = [("target", target)];
    assert_eq!(after.count(CONNECTS, &of), 1, "{target}");
    assert_eq!(after.count(DROPPED, &of), 0, "{target}");
    assert_eq!(after.count(CONNECTED, &of), 1, "{target}");
    assert!(sent(after, target) > sent(before, target), "{target}");
}

fn targets_come_go_and_change_while_others_stay(site: &Site) {
    let scene = Scene::start(site, "a fast fra, b slow ams, c port fra");
    let connected = |scrape: &Exposition, target: &str| {
        has(scrape, target) && scrape.count(CONNECTED, &[("target", target)]) == 1
    };
    let before = scene.agent.scrape_until("three targets", |scrape| {
        connected(scrape, "a")
            && connected(scrape, "b")
            && sent(scrape, "a") > 50
            && scrape.count(CHECKS, &[]) > 5
    });
    assert_eq!(before.one(RELOADED, &[]), 1.0);
    assert!(before.has(SENT, &[("target", "a"), ("site", "fra")]));
    assert!(before.has(CHECKS, &[("target", "c"), ("site", "fra"), ("method", "dial")]));
    assert_eq!(scene.connections(), (2, 2));

    // One more.
    scene.write(site, "a fast fra, b slow ams, c port fra, d fast fra");
    scene.agent.signal(Signal::HUP);
    let more = scene.agent.scrape_until("a fourth target", |scrape| connected(scrape, "d"));
    check_untouched(&before, &more, "a");
    check_untouched(&before, &more, "b");
    assert!(more.count(CHECKS, &[]) >= before.count(CHECKS, &[]));
    assert_eq!(scene.connections(), (3, 3));

    // One less, and one that is probed in another way.
    scene.write(site, "d fast fra, a slow fra, c port fra");
    let response = scene.post();
    assert_eq!(response.status, 200, "{}", response.body);
    let done = "Reloaded: 0 targets added, 1 removed, 1 changed, 2 untouched.\n";
    assert_eq!(response.body, done);
    let less = scene.agent.scrape_until("another a", |scrape| {
        connected(scrape, "a") && sent(scrape, "d") > sent(&more, "d")
    });
    assert!(!has(&less, "b"));
    check_untouched(&more, &less, "d");
    assert_eq!(less.count(CONNECTS, &[("target", "a")]), 1);
    assert!(less.count(CHECKS, &[]) >= more.count(CHECKS, &[]));
    scene.serve.scrape_until("two connections", |scrape| {
        (scrape.count(CONNECTIONS, &[]), scrape.count(CONNECTIONS_ACTIVE, &[])) == (4, 2)
    });

    // Nobody: the agent waits for better times.
    scene.write(site, "");
    assert_eq!(scene.post().status, 200);
    let nobody = scene.agent.scrape();
    assert!(!nobody.has(SENT, &[]) && !nobody.has(CHECKS, &[]));
    scene.serve.scrape_until("no connection", |scrape| scrape.count(CONNECTIONS_ACTIVE, &[]) == 0);
}

fn one_of_a_hundred_changes_and_nobody_else_is_touched(site: &Site) {
    const TARGETS: usize = 400;
    let list = |changed: &str| {
        let target = |number: usize| {
            format!("t{number} idle {}", if number.is_multiple_of(100) { changed } else { "x" })
        };
        (0..TARGETS).map(target).collect::<Vec<_>>().join(", ")
    };
    let of_each = |scrape: &Exposition, metric: &str| -> BTreeMap<String, f64> {
        let samples = scrape.select(metric, &[]);
        samples.map(|sample| (sample.labels["target"].clone(), sample.value)).collect()
    };
    let scene = Scene::start(site, &list("x"));
    let all_connected = |scrape: &Exposition| {
        of_each(scrape, CONNECTED).values().filter(|&&connected| connected == 1.0).count()
            == TARGETS
    };
    let before = scene.agent.scrape_until("all connections", all_connected);
    assert_eq!(scene.connections(), (400, 400));
    scene.write(site, &list("y"));
    let response = scene.post();
    let done = "Reloaded: 0 targets added, 0 removed, 4 changed, 396 untouched.\n";
    assert_eq!(response.body, done);
    let before = of_each(&before, SENT);
    // Whoever began again has sent less.
    let after = scene.agent.scrape_until("another probe of each", |scrape| {
        let sent_more = |(target, sent): &(&String, &f64)| **sent > before[*target];
        all_connected(scrape)
            && scrape.select(SENT, &[("site", "y")]).count() == 4
            && of_each(scrape, SENT).iter().filter(sent_more).count() >= 396
    });
    // Four new connections, and none of those that were there has come again.
    assert!(of_each(&after, CONNECTS).values().all(|&connects| connects == 1.0));
    assert!(of_each(&after, DROPPED).values().all(|&dropped| dropped == 0.0));
    scene.serve.scrape_until("the connections of those that changed", |scrape| {
        (scrape.count(CONNECTIONS, &[]), scrape.count(CONNECTIONS_ACTIVE, &[])) == (404, 400)
    });
}

fn a_bad_file_changes_nothing(site: &Site) {
    let scene = Scene::start(site, "a fast fra");
    let before =
        scene.agent.scrape_until("a target", |scrape| has(scrape, "a") && sent(scrape, "a") > 9);
    let good_at = before.one(RELOADED_AT, &[]);
    assert!(good_at > 1.7e9);
    for (text, part) in [
        ("targets: [{adress: 'h:1'}]", ":1:12: there is no key adress; write address"),
        ("targets: [{address: h}]", "has no port"),
        ("targets: [", ":1:"),
        ("modules: {a: {interface: nonesuch0}}\ntargets: [{address: '127.0.0.1:1'}]", "nonesuch0"),
        ("modules: {a: {prober: check, ttl: 9}}\ntargets: [{address: 'h:1'}]", "need a restart"),
    ] {
        fs::write(&scene.file, text).unwrap();
        let response = scene.post();
        assert_eq!(response.status, 500, "{text}: {}", response.body);
        assert!(response.body.contains(part), "{text}: {}", response.body);
        assert_eq!(response.body.lines().count(), 1);
    }
    fs::remove_file(&scene.file).unwrap();
    scene.agent.signal(Signal::HUP);
    scene.agent.wait_for_stderr("cannot be read");
    let after =
        scene.agent.scrape_until("more probes", |scrape| sent(scrape, "a") > sent(&before, "a"));
    check_untouched(&before, &after, "a");
    assert_eq!((after.one(RELOADED, &[]), after.one(RELOADED_AT, &[])), (0.0, good_at));

    // What needs a restart is said, and the rest is done.
    scene.write(site, "a fast fra, b fast fra");
    let mut text = fs::read_to_string(&scene.file).unwrap();
    text.push_str("log: {level: debug}\n");
    fs::write(&scene.file, text).unwrap();
    let response = scene.post();
    assert_eq!(response.status, 200);
    assert!(response.body.contains("1 targets added"), "{}", response.body);
    assert!(response.body.contains("Not applied without a restart: log."), "{}", response.body);
    let good = scene.agent.scrape();
    assert_eq!(good.one(RELOADED, &[]), 1.0);
    assert!(good.one(RELOADED_AT, &[]) > good_at);
    check_untouched(&before, &good, "a");
}

fn a_changed_file_is_found(site: &Site) {
    let scene = Scene::start(site, "a fast fra");
    let before =
        scene.agent.scrape_until("a target", |scrape| has(scrape, "a") && sent(scrape, "a") > 9);
    scene.write(site, "a fast fra, b fast fra");
    let after = scene.agent.scrape_until("another target", |scrape| has(scrape, "b"));
    check_untouched(&before, &after, "a");
    assert_eq!(
        http::post(scene.serve.http_address(), "/-/reload").status,
        404,
        "nothing to reload"
    );
}

fn a_thousand_reloads_leave_nothing_behind(site: &Site) {
    let scene = Scene::start(site, "a fast fra");
    let lists = [
        "a fast fra, b fast x, c port x, d slow x, e port x, f fast x",
        "a fast fra, b slow x, c port y, g slow x, e fast x",
    ];
    let look = || {
        let scrape = scene.agent.scrape_until("all connections", |scrape| {
            scrape.select(CONNECTED, &[]).filter(|sample| sample.value == 1.0).count() == 4
                && scrape.has("process_open_fds", &[])
        });
        let targets = (scrape.select(SENT, &[]).count(), scrape.select(CHECKS, &[]).count());
        (scrape.count("process_open_fds", &[]), targets, scrape)
    };
    let reload = |times: usize| {
        for turn in 0..times {
            scene.write(site, lists[turn % 2]);
            let response = scene.post();
            assert_eq!(response.status, 200, "{}", response.body);
        }
    };
    reload(10);
    let (fds, targets, before) = look();
    assert_eq!(targets, (4, 1));
    reload(1_000);
    let (fds_now, targets_now, after) = look();
    assert_eq!(targets_now, targets);
    // An HTTP connection or a check may be open at one look and not at the other.
    assert!(fds_now <= fds + 8, "{fds} descriptors, then {fds_now}");
    check_untouched(&before, &after, "a");
    scene.serve.scrape_until("the connections of those that are left", |scrape| {
        scrape.count(CONNECTIONS_ACTIVE, &[]) == 4
    });
    let bytes = |scrape: &Exposition| scrape.one("process_resident_memory_bytes", &[]);
    assert!(bytes(&after) < 1.5 * bytes(&before), "{} then {}", bytes(&before), bytes(&after));
}

#[test]
fn a_file_is_checked_without_being_used() {
    let _turn = turn::wait_for(Turn::Shared);
    let folder = tempfile::tempdir().unwrap();
    let check = |text: &str, flags: &str| {
        let file = folder.path().join("x.yaml");
        fs::write(&file, text).unwrap();
        Run::start(&Place::Here, &format!("run --config.file={} {flags}", file.display())).wait()
    };
    let good = check("targets: [{address: 'h:1'}]", "--config.check");
    assert_eq!(good.code, Some(0));
    assert!(good.stdout[0].ends_with("x.yaml: good; targets: 1, modules: 1"), "{:?}", good.stdout);
    let more = "discovery: [{file_sd_configs: [{files: [none.json]}]}]\n\
                relay: {listeners: [{listen: ':1', upstreams: 'h:2'}]}";
    let more = check(more, "--config.check");
    let all = "good; targets: 0, modules: 1, discovery jobs: 1, relay listeners: 1";
    assert!(more.code == Some(0) && more.stdout[0].ends_with(all), "{more:?}");
    let seed = check("[{\"name\": \"a\", \"address\": \"h:1\"}]", "--config.check");
    assert_eq!(seed.code, Some(0), "{:?}", seed.stderr);
    let bad = "targets:\n- {address: h}\n- {address: 'h:0'}\n";
    for flags in ["--config.check", ""] {
        let ending = check(bad, flags);
        assert_eq!((ending.code, ending.stderr.len()), (Some(2), 2), "{:?}", ending.stderr);
        assert!(ending.stderr[0].contains("x.yaml:2:13: address h: has no port"), "{flags}");
        assert!(ending.stderr[1].contains("x.yaml:3:13: address h:0: has port 0"), "{flags}");
    }
    let schema = Run::start(&Place::Here, "run --config.schema").wait();
    assert_eq!(schema.code, Some(0));
    let schema: serde_json::Value = serde_json::from_str(&schema.stdout.join("\n")).unwrap();
    assert!(schema["properties"]["modules"].is_object());
}
