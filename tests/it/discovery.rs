//! Discovery while an agent runs: files, URLs and names that change, fail and recover. A source
//! keeps its last good answer and says so; nobody else notices. And a mesh of agents.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use crate::catalogue::{CONNECTED, CONNECTIONS_ACTIVE, CONNECTS, DROPPED, ProbeCounts, SENT};
use crate::exposition::Exposition;
use crate::http;
use crate::run::Run;
use crate::site::Place;
use crate::sources::{Page, Records, names, web};
use crate::turn::{self, Turn};

const FAILURES: &str = "rttscope_discovery_failures_total";
const GOOD: &str = "rttscope_discovery_last_refresh_successful";
const GOOD_AT: &str = "rttscope_discovery_last_success_timestamp_seconds";
const REFRESHES: &str = "rttscope_discovery_refreshes_total";
const OF_SOURCE: &str = "rttscope_discovery_source_targets";
const OF_LIST: &str = "rttscope_discovery_targets";
const BAD: &str = "rttscope_discovery_bad_targets";
const DROPPED_TARGETS: &str = "rttscope_discovery_dropped_targets";
const MEMBERS: &str = "rttscope_mesh_members";
const RELOADED: &str = "rttscope_config_last_reload_successful";

/// A responder that answers on every address of loopback, and an agent with one target `fixed` in
/// its file and some more from elsewhere.
struct Scene {
    serve: Run,
    agent: Run,
    port: u16,
    folder: TempDir,
}

impl Scene {
    /// `PORT` in `discovery` is the responder's.
    fn start(discovery: &str, files: &[(&str, &str)]) -> Self {
        let place = Place::Here;
        let serve = Run::start(&place, "serve --listen=0.0.0.0:0 --web.listen-address=127.0.0.1:0");
        let port = serve.responder_address().port();
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            write(&folder.path().join(name), &text.replace("PORT", &port.to_string()));
        }
        let file = folder.path().join("rttscope.yaml");
        write(&file, &config(discovery, port));
        let agent = Run::start(&place, &format!("run --config.file={}", file.display()));
        Self { serve, agent, port, folder }
    }

    fn write(&self, name: &str, text: &str) {
        write(&self.folder.path().join(name), &text.replace("PORT", &self.port.to_string()));
    }

    fn reload(&self, discovery: &str) -> http::Response {
        write(&self.folder.path().join("rttscope.yaml"), &config(discovery, self.port));
        http::post(self.agent.http_address(), "/-/reload")
    }

    /// Waits until exactly these are probed and connected, `fixed` aside.
    fn wait_for(&self, targets: &[&str]) -> Exposition {
        let wanted: BTreeSet<String> = targets.iter().map(|name| self.name(name)).collect();
        self.agent.scrape_until(&format!("{wanted:?}"), |scrape| {
            let connected = scrape.select(CONNECTED, &[]).filter(|it| it.value == 1.0);
            let mut names: BTreeSet<String> =
                connected.map(|it| it.labels["target"].clone()).collect();
            names.remove("fixed")
                && names == wanted
                && scrape.select(CONNECTED, &[]).count() == wanted.len() + 1
        })
    }

    /// `.7` is a target on 127.0.0.7.
    fn name(&self, short: &str) -> String {
        short
            .strip_prefix('.')
            .map_or_else(|| short.to_owned(), |host| format!("127.0.0.{host}:{}", self.port))
    }

    /// Waits for one more failure of the only source, after which everything is as it was.
    fn fails(&self, targets: &[&str], part: &str) {
        let before = self.agent.scrape();
        let failures = |scrape: &Exposition| scrape.count(FAILURES, &[]);
        let after = self.agent.scrape_until(&format!("a failure: {part}"), |scrape| {
            failures(scrape) > failures(&before) && self.error().contains(part)
        });
        assert_eq!(after.one(GOOD, &[]), 0.0, "{part}");
        // A good answer may have come between the first scrape and the change.
        assert!(after.one(GOOD_AT, &[]) >= before.one(GOOD_AT, &[]));
        assert!(!self.error().contains('\n'));
        self.untouched(&before, targets);
    }

    /// What is wrong with the first source.
    fn error(&self) -> String {
        let status = self.agent.fetch("/api/v1/status").body;
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        status["discovery"][0]["error"].as_str().unwrap_or_default().to_owned()
    }

    /// These and `fixed` kept their connections, and were probed on.
    fn untouched(&self, before: &Exposition, targets: &[&str]) {
        let names: Vec<String> = targets.iter().map(|name| self.name(name)).collect();
        for target in names.iter().map(String::as_str).chain(["fixed"]) {
            let of = [("target", target)];
            let sent = before.count(SENT, &of);
            let after = self.agent.scrape_until("more probes", |it| it.count(SENT, &of) > sent);
            let connections = (after.count(CONNECTS, &of), after.count(DROPPED, &of));
            assert_eq!(connections, (1, 0), "{target}");
        }
    }
}

fn config(discovery: &str, port: u16) -> String {
    format!(
        "modules: {{fast: {{interval: 20ms}}, slow: {{interval: 40ms}}, wide: \
         {{interval: 20ms, paths: 4}}, rare: {{interval: 2s}}}}\n\
         web: {{listen: '127.0.0.1:0'}}\n\
         targets: [{{name: fixed, address: '127.0.0.1:PORT', module: fast}}]\n{discovery}"
    )
    .replace("PORT", &port.to_string())
}

/// As an editor does: there is no moment with half a file.
fn write(path: &Path, text: &str) {
    let new = path.with_extension("new");
    fs::write(&new, text).unwrap();
    fs::rename(&new, path).unwrap();
}

const FILES: &str = "
discovery:
- name: files
  module: fast
  file_sd_configs: [{files: ['t-*.json', more.yml], refresh_interval: 1s}]
  relabel_configs:
  - {source_labels: [__meta_filepath], regex: '.*/(.+)', target_label: file}
  - {source_labels: [kind], regex: slow, replacement: slow, target_label: __module__}
  - {action: labeldrop, regex: kind}
";

#[test]
fn files_are_watched() {
    let _turn = turn::wait_for(Turn::Shared);
    let scene = Scene::start(
        FILES,
        &[
            ("t-1.json", r#"[{"targets": ["127.0.0.2:PORT"], "labels": {"rack": "r1"}}]"#),
            ("more.yml", "- targets: ['127.0.0.3:PORT']\n  labels: {kind: slow}\n"),
        ],
    );
    let first = scene.wait_for(&[".2", ".3"]);
    let name = scene.name(".2");
    let of_two = [("target", name.as_str()), ("rack", "r1"), ("file", "t-1.json")];
    assert!(first.has(SENT, &of_two));
    assert_eq!(first.one(OF_LIST, &[("discovery", "files")]), 2.0);
    assert_eq!((first.one(GOOD, &[]), first.one(OF_SOURCE, &[])), (1.0, 2.0));
    assert!(first.count(REFRESHES, &[]) > 0 && first.one(GOOD_AT, &[]) > 1.7e9);

    // One more file, another content, targets that are none, and one whose name is taken.
    scene.write("t-2.json", r#"[{"targets": ["127.0.0.4:PORT", "nonsense", "127.0.0.9:PORT"]}]"#);
    scene.write(
        "more.yml",
        "- {targets: ['127.0.0.5:PORT'], labels: {kind: slow}}\n\
         - {targets: ['127.0.0.6:PORT'], labels: {job: x}}\n\
         - {targets: ['127.0.0.8:PORT'], labels: {target: fixed}}\n",
    );
    let second = scene.wait_for(&[".2", ".4", ".5", ".9"]);
    scene.untouched(&first, &[".2"]);
    let counted =
        |scrape: &Exposition, name: &str, reason: &str| scrape.one(name, &[("reason", reason)]);
    assert_eq!((counted(&second, BAD, "address"), counted(&second, BAD, "label")), (1.0, 1.0));
    assert_eq!(counted(&second, DROPPED_TARGETS, "duplicate"), 1.0);
    scene.agent.wait_for_stderr("discovered targets cannot be probed");

    // Bad in many ways: what each file said last stays, and the other one goes on changing.
    for (bad, part) in [
        ("[", "t-1.json"),
        ("{}", "t-1.json"),
        (r#"[{"target": []}]"#, "unknown field"),
        ("", "EOF"),
    ] {
        scene.write("t-1.json", bad);
        scene.fails(&[".2", ".4"], part);
    }
    scene.write("t-2.json", r#"[{"targets": ["127.0.0.4:PORT"]}]"#);
    scene.wait_for(&[".2", ".4", ".5"]);
    scene.write("t-1.json", r#"[{"targets": ["127.0.0.7:PORT"]}]"#);
    let well = scene.wait_for(&[".4", ".5", ".7"]);
    scene.untouched(&well, &[".4"]);
    scene.agent.scrape_until("a good source", |scrape| scrape.one(GOOD, &[]) == 1.0);
    // A file of a pattern may go; a named one may not.
    fs::remove_file(scene.folder.path().join("t-2.json")).unwrap();
    fs::remove_file(scene.folder.path().join("more.yml")).unwrap();
    scene.wait_for(&[".5", ".7"]);
    scene.fails(&[".5", ".7"], "more.yml");
    scene.serve.scrape_until("three connections", |it| it.count(CONNECTIONS_ACTIVE, &[]) == 3);
}

#[test]
fn urls_are_asked() {
    let _turn = turn::wait_for(Turn::Shared);
    let server = web(Page::Silence);
    let scene = Scene::start(
        &format!(
            "discovery: [{{module: fast, http_sd_configs: [{{url: 'http://{}/x?token=hunter2', \
             refresh_interval: 1s, timeout: 2s}}]}}]",
            server.address
        ),
        &[],
    );
    let list = |hosts: &[u8]| {
        let hosts: Vec<String> =
            hosts.iter().map(|host| format!("127.0.0.{host}:{}", scene.port)).collect();
        Page::Json(serde_json::json!([{ "targets": hosts }]).to_string())
    };
    // At the start, a source that hangs holds up nobody.
    scene.wait_for(&[]);
    server.say(list(&[2, 3]));
    let first = scene.wait_for(&[".2", ".3"]);
    let response = |head: &str, body: &str| {
        Page::Bytes(
            format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).into(),
        )
    };
    let json = "200 OK\r\nContent-Type: application/json";
    for (page, part) in [
        // Too large, or too slow, whatever comes first.
        (Page::Endless, ""),
        (Page::Bytes(b"SSH-2.0-x\r\n".to_vec()), "no good answer"),
        (Page::Silence, "no answer in 2s"),
        (Page::CutOff("[{\"targets\": [\"".to_owned()), "ended early"),
        (Page::Bytes(Vec::new()), "no good answer"),
        (response("500 Oh", "[]"), "500"),
        (response("200 OK\r\nContent-Type: text/html", "<html>"), "text/html"),
        (response("302 Found\r\nLocation: /x", ""), "redirected more than"),
        (response(json, "[{\"targets\": [\"a:1\"]"), "EOF"),
        (response(json, &"[".repeat(100_000)), "line 1"),
    ] {
        server.say(page);
        scene.fails(&[".2", ".3"], part);
    }
    server.say(list(&[3, 4]));
    let last = scene.wait_for(&[".3", ".4"]);
    scene.untouched(&first, &[".3"]);
    assert_eq!(last.one(OF_SOURCE, &[]), 2.0);
    let shown: Vec<_> = last.select(GOOD, &[]).map(|it| it.labels["source"].clone()).collect();
    assert_eq!(shown, [format!("http:http://{}/x", server.address)]);
    assert!(!scene.agent.stderr().iter().any(|line| line.contains("hunter2")));
    // No targets are an answer, too.
    server.say(list(&[]));
    scene.wait_for(&[]);
}

#[test]
fn names_are_asked_for_again() {
    let _turn = turn::wait_for(Turn::Shared);
    let host = |number| Ipv4Addr::new(127, 0, 0, number);
    let server = names(Records::Addresses(vec![host(2), host(3)], 1));
    let scene = Scene::start(
        &format!(
            "discovery: [{{module: fast, dns_sd_configs: [{{names: [probes.example], type: A, \
             port: PORT, refresh_interval: 1h, servers: ['{}']}}], relabel_configs: \
             [{{source_labels: [__meta_dns_name], target_label: service}}]}}]",
            server.address
        ),
        &[],
    );
    let first = scene.wait_for(&[".2", ".3"]);
    assert!(first.has(SENT, &[("service", "probes.example")]));
    // The records' time to live, not the interval, says when to ask again.
    server.say(Records::Addresses(vec![host(3), host(4)], 1));
    scene.wait_for(&[".3", ".4"]);
    scene.untouched(&first, &[".3"]);
    server.say(Records::NoSuchName);
    scene.wait_for(&[]);
}

#[test]
fn a_name_server_that_fails_takes_nothing_away() {
    let _turn = turn::wait_for(Turn::Shared);
    let server = names(Records::Addresses(vec![Ipv4Addr::new(127, 0, 0, 2)], 3_600));
    let scene = Scene::start(
        &format!(
            "discovery: [{{module: fast, dns_sd_configs: [{{names: [probes.example], type: A, \
             port: PORT, refresh_interval: 1s, servers: ['{}']}}]}}]",
            server.address
        ),
        &[],
    );
    let first = scene.wait_for(&[".2"]);
    for (records, part) in [
        (Records::Failure, "ServerFailure"),
        (Records::Garbage, "no DNS message"),
        (Records::CutOff, "refused"),
    ] {
        server.say(records);
        scene.fails(&[".2"], part);
    }
    server.say(Records::Addresses(vec![Ipv4Addr::new(127, 0, 0, 3)], 3_600));
    scene.wait_for(&[".3"]);
    scene.untouched(&first, &[]);
    // It is asked twice for five seconds each.
    server.say(Records::Silence);
    let before = scene.agent.scrape();
    let failures = |scrape: &Exposition| scrape.count(FAILURES, &[]);
    scene.agent.scrape_until("a silent server", |it| failures(it) > failures(&before));
    scene.untouched(&before, &[".3"]);
}

#[test]
fn a_reload_leaves_alone_what_stays_the_same() {
    let _turn = turn::wait_for(Turn::Shared);
    let job = |name: &str, module: &str, file: &str| {
        format!(
            "- {{name: {name}, module: {module}, file_sd_configs: [{{files: [{file}], \
             refresh_interval: 1s}}]}}\n"
        )
    };
    let a = job("a", "fast", "a.json");
    let files = [
        ("a.json", r#"[{"targets": ["127.0.0.2:PORT"]}]"#),
        ("b.json", r#"[{"targets": ["127.0.0.3:PORT"]}]"#),
    ];
    let scene = Scene::start(&format!("discovery:\n{a}"), &files);
    let first = scene.wait_for(&[".2"]);
    // The file is bad now: what it said before counts, as its source stays.
    scene.write("a.json", "[");
    scene.fails(&[".2"], "a.json");

    let b = job("b", "fast", "b.json");
    let response = scene.reload(&format!("discovery:\n{b}{a}"));
    assert_eq!(response.status, 200, "{}", response.body);
    assert!(response.body.contains("2 untouched"), "{}", response.body);
    scene.wait_for(&[".2", ".3"]);
    scene.untouched(&first, &[".2"]);
    // Another module: those of the list, and nobody else, are probed anew.
    let name = scene.name(".3");
    let of = [("target", name.as_str())];
    let before = scene.agent.scrape_until("many probes", |scrape| {
        scrape.has(SENT, &of) && scrape.count(SENT, &of) > 200
    });
    let sent = before.count(SENT, &of);
    assert_eq!(scene.reload(&format!("discovery:\n{}{a}", job("b", "slow", "b.json"))).status, 200);
    scene.agent.scrape_until("new counters", |scrape| {
        scrape.has(SENT, &of) && scrape.count(SENT, &of) < sent
    });
    scene.untouched(&first, &[".2"]);
    // Bad ones change nothing.
    for (discovery, part) in [
        ("discovery: [{file_sd_configs: []}]", "no source"),
        ("discovery: [{file_sd_config: []}]", "there is no key file_sd_config"),
        ("discovery: [{module: none, static_configs: [{}]}]", "module: none is unknown"),
    ] {
        let response = scene.reload(discovery);
        assert_eq!(response.status, 500, "{}", response.body);
        assert!(response.body.contains(part), "{}", response.body);
    }
    let bad = scene.wait_for(&[".2", ".3"]);
    assert_eq!(bad.one(RELOADED, &[]), 0.0);
    scene.untouched(&first, &[".2"]);

    // Sources that come and go leave nothing behind.
    let descriptors = |scrape: &Exposition| scrape.count("process_open_fds", &[]);
    let with_b = format!("discovery:\n{b}{a}");
    let without_b = format!("discovery:\n{a}");
    for _ in 0..50 {
        assert_eq!(scene.reload(&without_b).status, 200);
        assert_eq!(scene.reload(&with_b).status, 200);
    }
    let last = scene.wait_for(&[".2", ".3"]);
    scene.untouched(&first, &[".2"]);
    assert!(descriptors(&last) <= descriptors(&bad) + 8);
    assert_eq!(last.select(GOOD, &[]).count(), 2);
    assert_eq!(scene.reload("").status, 200);
    let none = scene.wait_for(&[]);
    assert!(!none.has(GOOD, &[]) && !none.has(OF_LIST, &[]));
}

#[test]
fn paths_are_connections_of_one_target() {
    let _turn = turn::wait_for(Turn::Shared);
    let scene = Scene::start(
        "discovery: [{module: wide, static_configs: [{targets: ['127.0.0.2:PORT']}]}]",
        &[],
    );
    let four = scene.serve.scrape_until("five connections", |scrape| {
        // One of them is that of `fixed`.
        scrape.count(CONNECTIONS_ACTIVE, &[]) == 5
    });
    assert_eq!(four.count("tcp_responder_connections_total", &[]), 5);
    let scrape = scene.wait_for(&[".2"]);
    let name = scene.name(".2");
    let of = [("target", name.as_str())];
    assert_eq!((scrape.count(CONNECTS, &of), scrape.count(CONNECTED, &of)), (4, 1));
    let counts = |scrape: &Exposition| ProbeCounts::reconciled(scrape, &of);
    let first = counts(&scrape);
    // Four take turns: together they send as often as the one that has the same interval.
    let later = scene.agent.scrape_until("100 more", |it| counts(it).sent > first.sent + 100);
    let fixed = |scrape: &Exposition| ProbeCounts::reconciled(scrape, &[("target", "fixed")]).sent;
    let (ours, theirs) = (counts(&later).sent - first.sent, fixed(&later) - fixed(&scrape));
    assert!(ours < 2 * theirs && theirs < 2 * ours, "{ours} and {theirs}");
    assert!(!later.has("tcp_info_rtt_seconds", &of));
    // They go together, too.
    assert_eq!(scene.reload("").status, 200);
    scene.serve.scrape_until("one connection", |it| it.count(CONNECTIONS_ACTIVE, &[]) == 1);
}

/// So many targets on addresses of their own.
fn many(net: u8, hosts: usize, port: u16) -> Vec<String> {
    let host = |host: usize| format!("127.{net}.{}.{}:{port}", host / 250, host % 250 + 1);
    (0..hosts).map(host).collect()
}

#[test]
fn a_reload_of_a_few_among_many_touches_no_other() {
    let _turn = turn::wait_for(Turn::Shared);
    let addresses = (0..50).map(|host| Ipv4Addr::new(127, 53, 0, host + 1)).collect();
    let server = names(Records::Addresses(addresses, 3_600));
    let pages = web(Page::Silence);
    let discovery = |fixed: &[String]| {
        let groups = serde_json::json!([{ "targets": fixed }]);
        format!(
            "discovery:\n- {{module: rare, static_configs: {groups}}}\n\
             - {{module: rare, file_sd_configs: [{{files: [t.json]}}]}}\n\
             - {{module: rare, http_sd_configs: [{{url: 'http://{}/', refresh_interval: 1s}}]}}\n\
             - {{module: rare, dns_sd_configs: [{{names: [a.example], type: A, port: PORT, \
             servers: ['{}']}}]}}\n",
            pages.address, server.address
        )
    };
    let scene = Scene::start(&discovery(&[]), &[("t.json", "[]")]);
    let json = |targets: &[String]| serde_json::json!([{ "targets": targets }]).to_string();
    let (mut file, mut page) = (many(50, 200, scene.port), many(51, 100, scene.port));
    let mut fixed = many(52, 100, scene.port);
    let all_are_there = |what: &str| {
        scene.agent.scrape_until(what, |scrape| {
            let up = scrape.select(CONNECTED, &[]).filter(|it| it.value == 1.0).count();
            (up, scrape.select(SENT, &[]).count()) == (451, 451)
        })
    };
    scene.write("t.json", &json(&file));
    pages.say(Page::Json(json(&page)));
    assert_eq!(scene.reload(&discovery(&fixed)).status, 200);
    let before = all_are_there("451 targets");

    // One in a hundred is another one, of each that changes.
    for (list, net) in [(&mut file, 60), (&mut page, 61), (&mut fixed, 62)] {
        let changed = many(net, list.len() / 100, scene.port);
        list.splice(..changed.len(), changed);
    }
    scene.write("t.json", &json(&file));
    pages.say(Page::Json(json(&page)));
    assert_eq!(scene.reload(&discovery(&fixed)).status, 200);
    let first = format!("127.61.0.1:{}", scene.port);
    scene.agent.scrape_until("the new ones", |scrape| {
        scrape.has(SENT, &[("target", &first)])
            && scrape.has(SENT, &[("target", &first.replace(".61.", ".60."))])
            && scrape.has(SENT, &[("target", &first.replace(".61.", ".62."))])
    });
    let after = all_are_there("as many targets");
    let by_target = |scrape: &Exposition, name: &str| -> BTreeMap<String, f64> {
        scrape.select(name, &[]).map(|it| (it.labels["target"].clone(), it.value)).collect()
    };
    assert!(by_target(&after, CONNECTS).values().all(|&connects| connects == 1.0));
    assert_eq!(after.count(DROPPED, &[]), 0);
    let (earlier, later) = (by_target(&before, SENT), by_target(&after, SENT));
    let kept = earlier.iter().filter(|(target, _)| later.contains_key(*target));
    assert_eq!(kept.clone().count(), 451 - 4);
    assert!(kept.clone().all(|(target, sent)| later[target] >= *sent));
}

/// Agents on addresses of loopback that probe each other.
struct Mesh {
    port: u16,
    folder: TempDir,
    agents: BTreeMap<u8, Run>,
}

/// Whom each host probes.
type Probed = BTreeMap<u8, BTreeSet<u8>>;

/// Hosts of the mesh, and their racks.
const HOSTS: [(u8, &str); 6] = [(21, "a"), (22, "a"), (23, "a"), (24, "b"), (25, "b"), (26, "b")];

impl Mesh {
    fn start() -> Self {
        let port = TcpListener::bind("127.0.0.21:0").unwrap().local_addr().unwrap().port();
        let folder = tempfile::tempdir().unwrap();
        let mut mesh = Self { port, folder, agents: BTreeMap::new() };
        mesh.members(&HOSTS);
        // One file for all hosts; what differs is in the environment. On hosts of their own they
        // would listen at every address, which is one host's here.
        for (host, _) in HOSTS {
            let file = mesh.folder.path().join(format!("{host}.yaml"));
            let text = format!("serve: {{listen: '127.0.0.{host}:{port}'}}\n{MESH}");
            write(&file, &text.replace("PORT", &port.to_string()));
            let mut command = Command::new(env!("CARGO_BIN_EXE_rttscope"));
            command.arg("run").arg(format!("--config.file={}", file.display()));
            command.env("OWN_IP", format!("127.0.0.{host}")).env("NO_COLOR", "1");
            let agent = Run::spawn(&Place::Here, command, format!("agent {host}"));
            mesh.agents.insert(host, agent);
        }
        mesh
    }

    /// These are the members from now on.
    fn members(&self, hosts: &[(u8, &str)]) {
        let group = |(host, rack): &(u8, &str)| {
            let address = format!("127.0.0.{host}:{}", self.port);
            serde_json::json!({ "targets": [address], "labels": { "rack": rack } })
        };
        let groups: Vec<_> = hosts.iter().map(group).collect();
        let text = serde_json::json!(groups).to_string();
        write(&self.folder.path().join("members.json"), &text);
    }

    /// Whom they probe as soon as all of them know all members.
    fn settled(&self, hosts: &[(u8, &str)]) -> Probed {
        let members = u64::try_from(hosts.len()).unwrap();
        let settled = |scrape: &Exposition| {
            let connected = scrape.select(CONNECTED, &[]);
            let wanted = scrape.select(OF_LIST, &[]).map(|it| it.value).sum::<f64>();
            scrape.has(MEMBERS, &[])
                && scrape.count(MEMBERS, &[]) == members
                && connected.map(|it| it.value).sum::<f64>() == wanted
        };
        let probed = |&(host, _): &(u8, &str)| {
            let scrape = self.agents[&host].scrape_until("the mesh", settled);
            let peers = scrape.select(CONNECTED, &[]).map(|it| host_of(&it.labels["target"]));
            (host, peers.collect())
        };
        hosts.iter().map(probed).collect()
    }
}

fn host_of(target: &str) -> u8 {
    target.split(['.', ':']).nth(3).unwrap().parse().unwrap()
}

fn rack(host: u8) -> &'static str {
    HOSTS.iter().find(|it| it.0 == host).unwrap().1
}

fn probers(of: &Probed, host: u8) -> Vec<u8> {
    of.iter().filter(|(_, peers)| peers.contains(&host)).map(|(from, _)| *from).collect()
}

#[test]
fn a_mesh_covers_everybody_and_changes_little() {
    let _turn = turn::wait_for(Turn::Shared);
    let mesh = Mesh::start();
    let before = mesh.settled(&HOSTS);
    for (&host, peers) in &before {
        let own_rack = peers.iter().filter(|&&peer| rack(peer) == rack(host)).count();
        // In the other rack it is two if the host is its rack's representative.
        assert!(!peers.contains(&host) && own_rack == 1, "{host}: {peers:?}");
        assert!((2..=3).contains(&peers.len()), "{host}: {peers:?}");
        let probers = probers(&before, host);
        assert!(probers.iter().any(|&from| rack(from) == rack(host)), "{host}: {probers:?}");
    }
    for (one, other) in [("a", "b"), ("b", "a")] {
        let mut pairs = before.iter().flat_map(|(from, to)| to.iter().map(move |to| (from, to)));
        assert!(pairs.any(|(&from, &to)| (rack(from), rack(to)) == (one, other)), "{before:?}");
    }

    // One leaves: nobody loses a connection that stays.
    mesh.members(&HOSTS[..5]);
    let after = mesh.settled(&HOSTS[..5]);
    assert!(!after.values().any(|peers| peers.contains(&26)));
    for (host, peers) in &after {
        let scrape = mesh.agents[host].scrape();
        for peer in peers.intersection(&before[host]) {
            let name = format!("127.0.0.{peer}:{}", mesh.port);
            assert_eq!(scrape.count(CONNECTS, &[("target", &name)]), 1, "{host} to {peer}");
        }
    }
    let changes: usize =
        after.iter().map(|(host, peers)| peers.symmetric_difference(&before[host]).count()).sum();
    // Whoever probed it takes another one, and a representative's place is taken.
    let own = before[&26].len() + probers(&before, 26).len();
    assert!(changes <= 2 * own + 2, "{changes} changes\n{before:?}\n{after:?}");
}

const MESH: &str = "
modules: {fast: {interval: 50ms}}
web: {listen: '127.0.0.1:0'}
discovery:
- file_sd_configs: [{files: [members.json], refresh_interval: 1s}]
  mesh:
    self: '${OWN_IP}:PORT'
    scopes:
    - {name: rack, same: [rack], peers: 1}
    - {name: other, other: [rack], peers: 1}
";
