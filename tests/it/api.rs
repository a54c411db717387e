//! The JSON API: every documented path is asked for, every answer must be exactly as described,
//! and its numbers must be those of `/metrics`.

use std::collections::BTreeSet;
use std::io::Write;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::catalogue;
use crate::event_stream::EventStream;
use crate::http::Response;
use crate::run::{PATIENCE, Run};
use crate::servers;
use crate::site::Place;
use crate::turn::{self, Turn};

#[test]
fn every_answer_is_as_described() {
    let _turn = turn::wait_for(Turn::Shared);
    let both = Both::start();
    let checks = both.checks();
    let description = body(&both.prober.fetch("/api/v1/openapi.json"), 200);
    assert_eq!(description["openapi"], "3.1.0");
    let mut asked = BTreeSet::new();
    for run in [&both.prober, &both.responder, &checks] {
        let targets = body(&run.fetch("/api/v1/targets"), 200)["targets"].clone();
        let ids: Vec<&str> =
            targets.as_array().unwrap().iter().map(|row| row["id"].as_str().unwrap()).collect();
        for (path, operations) in description["paths"].as_object().unwrap() {
            let answers = &operations["get"]["responses"];
            if path.ends_with("/events") {
                asked.insert(path.clone());
                continue;
            }
            let paths: Vec<String> = match path.contains("{id}") {
                true => ids.iter().map(|id| path.replace("{id}", id)).collect(),
                false if path.ends_with("/targets") => {
                    vec![path.clone(), format!("{path}?heatmap=true&sort=worst&limit=200")]
                }
                false => vec![path.clone()],
            };
            for concrete in paths {
                check(&description, answers, "200", &concrete, &run.fetch(&concrete));
                asked.insert(path.clone());
            }
        }
    }
    let row = &body(&checks.fetch("/api/v1/targets"), 200)["targets"][0];
    let words = ["kind", "method", "state"].map(|key| text(&row[key]));
    assert_eq!(words, ["check", "dial", "up"]);
    assert!(
        row["recent"]["stages"]["unsplit_ns"].is_u64() && row["connected"].is_null(),
        "{row:#}"
    );

    let documented: BTreeSet<String> =
        description["paths"].as_object().unwrap().keys().cloned().collect();
    assert_eq!(asked, documented, "every documented path is asked for");

    let failing = [
        ("/api/v1/targets", "/api/v1/targets?limit=201", "400"),
        ("/api/v1/targets", "/api/v1/targets?limit=many", "400"),
        ("/api/v1/targets", "/api/v1/targets?state=fine", "400"),
        ("/api/v1/targets", "/api/v1/targets?sort=best", "400"),
        ("/api/v1/targets", "/api/v1/targets?colour=red", "400"),
        ("/api/v1/targets", "/api/v1/targets?target=00", "400"),
        ("/api/v1/targets/{id}", "/api/v1/targets/0123456789abcdef", "404"),
        ("/api/v1/targets/{id}", "/api/v1/targets/%3Cscript%3E", "404"),
        ("/api/v1/events", "/api/v1/events?offset=-1", "400"),
        ("/api/v1/events", "/api/v1/events?target=nobody", "404"),
    ];
    for (path, concrete, status) in failing {
        let answers = &description["paths"][path]["get"]["responses"];
        check(&description, answers, status, concrete, &both.prober.fetch(concrete));
    }
}

#[test]
fn its_numbers_are_those_of_the_metrics() {
    let _turn = turn::wait_for(Turn::Shared);
    let both = Both::start();
    let labels = [("target", "good")];
    let received = || both.prober.scrape().count(catalogue::RECEIVED, &labels);
    let before = received();
    let good = both.row("good");
    let after = received();
    let told = good["received"].as_u64().unwrap();
    assert!(before <= told && told <= after, "{before} <= {told} <= {after}");
    let sum = ["received", "lost", "in_flight"].map(|key| good[key].as_u64().unwrap()).iter().sum();
    assert_eq!(good["sent"].as_u64(), Some(sum), "{good:#}");
    let words = ["state", "clock", "kind"].map(|key| good[key].as_str().unwrap());
    assert_eq!((words[0], words[2]), ("up", "echo"));
    let scrape = both.prober.scrape();
    let clock = [("target", "good"), ("clock", words[1])];
    assert!(scrape.has(&format!("{}_count", catalogue::RTT), &clock), "{}\n{scrape}", words[1]);

    let down = both.row("down");
    assert_eq!((&down["state"], &down["last_rtt_ns"]), (&json!("down"), &Value::Null));
    assert_eq!(down["window"]["loss_ratio"], json!(1.0));
    assert_eq!(down["last_failure"]["outcome"], "refused");
    let slo = &down["slos"][0];
    // All bad where one in a hundred may be: a hundred budgets, of which one was there.
    let left = slo["budget_left_ratio"].as_f64().unwrap();
    assert!((left + 99.0).abs() < 1e-6, "{slo}");
    assert_eq!(both.row("nowhere")["state"], "unresolved");

    let detail = body(&both.prober.fetch(&format!("/api/v1/targets/{}", text(&good["id"]))), 200);
    let probes = detail["probes"].as_array().unwrap();
    assert!(probes.len() >= 20, "{} probes", probes.len());
    for probe in probes.iter().filter(|probe| probe["outcome"] == "received") {
        let number = |key: &str| probe[key].as_u64();
        let stages = ["lag_ns", "send_ns", "wakeup_ns"].map(|key| number(key).unwrap_or(0));
        let whole = stages.iter().sum::<u64>() + number("rtt_ns").unwrap();
        assert_eq!(number("elapsed_ns"), Some(whole), "{probe}");
        if let (Some(network), Some(peer)) = (number("network_ns"), number("peer_ns")) {
            assert_eq!(number("rtt_ns"), Some(network + peer), "{probe}");
        }
    }
    // A probe is counted when its reply comes, and recorded when its stamps are complete.
    let path = format!("/api/v1/targets/{}", text(&good["id"]));
    let started = Instant::now();
    loop {
        let detail = body(&both.prober.fetch(&path), 200);
        let columns = detail["target"]["heatmap"].as_array().unwrap();
        let cells = columns.iter().flat_map(|column| column["cells"].as_array().unwrap());
        let in_columns: u64 = cells.map(|cell| cell[1].as_u64().unwrap()).sum();
        if in_columns >= told {
            break;
        }
        assert!(started.elapsed() < PATIENCE, "{in_columns} of {told} in the heat map");
        thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_list_is_searched_sorted_and_cut() {
    let _turn = turn::wait_for(Turn::Shared);
    let both = Both::start();
    let names = |question: &str| -> Vec<String> {
        let page = body(&both.prober.fetch(&format!("/api/v1/targets?{question}")), 200);
        assert_eq!(page["total"], 4);
        let rows = page["targets"].as_array().unwrap();
        rows.iter().map(|row| text(&row["target"]).to_owned()).collect()
    };
    assert_eq!(names(""), ["good", "down", "nowhere", HOSTILE]);
    assert_eq!(names("sort=name"), [HOSTILE, "down", "good", "nowhere"]);
    assert_eq!(names("sort=rtt&limit=1"), ["good"]);
    assert_eq!(names("q=GOO"), ["good"]);
    assert_eq!(names("q=onerror"), [HOSTILE]);
    assert_eq!(names("state=unresolved"), ["nowhere"]);
    assert_eq!(names("offset=1&limit=2"), ["down", "nowhere"]);
    assert_eq!(names("offset=9"), Vec::<String>::new());
    let worst = names("sort=worst");
    assert_eq!((worst[2].as_str(), worst[3].as_str()), ("nowhere", "good"));
}

#[test]
fn events_tell_what_changes_until_the_end() {
    let _turn = turn::wait_for(Turn::Shared);
    let both = Both::start();
    let description = body(&both.prober.fetch("/api/v1/openapi.json"), 200);
    let events = &description["paths"]["/api/v1/events"]["get"]["x-events"];
    let address = both.prober.http_address();
    let id = both.row("good")["id"].clone();

    let mut list = EventStream::open(address, "/api/v1/events?sort=worst");
    let (mut sent, mut last) = (0, 0);
    for _ in 0..3 {
        let (name, data) = list.next().unwrap();
        valid(&description, &events[&name], &data);
        assert_eq!((name.as_str(), data["ids"].as_array().unwrap().len()), ("targets", 4));
        let rows = data["targets"].as_array().unwrap();
        let good = rows.iter().find(|row| row["id"] == id).unwrap();
        last = good["sent"].as_u64().unwrap();
        assert!(last > sent, "{sent} probes, then {last}");
        sent = last;
    }
    assert!(last > 0);

    let mut one = EventStream::open(address, &format!("/api/v1/events?target={}", text(&id)));
    let mut seen = None;
    for _ in 0..3 {
        let (name, data) = one.next().unwrap();
        valid(&description, &events[&name], &data);
        assert_eq!(name, "target");
        let (now, told) =
            (data["probes_seen"].as_u64().unwrap(), data["probes"].as_array().unwrap());
        if let Some(seen) = seen {
            assert_eq!(now, seen + u64::try_from(told.len()).unwrap(), "nothing twice, no gap");
            assert!(!told.is_empty());
        }
        seen = Some(now);
    }

    let status = body(&both.prober.fetch("/api/v1/status"), 200);
    assert_eq!(status["events"]["clients"], 2);
    let Both { mut prober, .. } = both;
    prober.signal(Signal::TERM);
    while list.next().is_some() {}
    while one.next().is_some() {}
    let ending = prober.wait();
    assert_eq!(ending.code, Some(0), "{ending:?}");
    // Whoever listens for ever does not hold up the end: that took 400 ms to settle and no more
    // than a grace period.
    assert!(ending.took < Duration::from_secs(5), "{:?}", ending.took);
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let _turn = turn::wait_for(Turn::Shared);
    let both = Both::start();
    let address = both.prober.http_address();
    let clients = || body(&both.prober.fetch("/api/v1/status"), 200)["events"]["clients"].clone();
    let mut stream = EventStream::open(address, "/api/v1/events");
    stream.next().unwrap();
    assert_eq!(clients(), 1);
    drop(stream);
    let started = Instant::now();
    while clients() != 0 {
        assert!(started.elapsed() < PATIENCE, "the place is not free");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A prober of four targets, one of which answers.
pub(crate) struct Both {
    pub(crate) responder: Run,
    pub(crate) prober: Run,
    /// Nobody listens there while this lives.
    _held: socket2::Socket,
    _file: tempfile::NamedTempFile,
}

impl Both {
    /// Started, and at work: the good target has answered, the others have failed.
    pub(crate) fn start() -> Self {
        let words = "serve --listen=127.0.0.1:0 --web.listen-address=127.0.0.1:0";
        let responder = Run::start(&Place::Here, words);
        let good = responder.responder_address();
        let (held, down) = servers::refusing_address(&Place::Here, good.ip());
        let targets = json!([
            {"name": "good", "address": good.to_string()},
            {"name": "down", "address": down.to_string()},
            {"name": "nowhere", "address": "nobody.invalid:1"},
            {"name": HOSTILE, "address": down.to_string()},
        ]);
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(targets.to_string().as_bytes()).unwrap();
        let words = format!(
            "probe --targets={} --interval=20ms --timeout=400ms --slo=100ms:99% \
             --web.listen-address=127.0.0.1:0",
            file.path().display()
        );
        let prober = Run::start(&Place::Here, &words);
        let both = Self { responder, prober, _held: held, _file: file };
        let started = Instant::now();
        loop {
            let has = |name: &str, key: &str, count: u64| {
                both.known_row(name).is_some_and(|row| row[key].as_u64().unwrap() >= count)
            };
            let failed = ["down", "nowhere", HOSTILE].iter().all(|name| has(name, "lost", 1));
            if failed && has("good", "received", 30) {
                return both;
            }
            assert!(started.elapsed() < PATIENCE, "never at work");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Half-open checks of the same responder.
    fn checks(&self) -> Run {
        let words = format!(
            "probe --check {} --interval=20ms --method=dial --web.listen-address=127.0.0.1:0",
            self.responder.responder_address()
        );
        let checks = Run::start(&Place::Here, &words);
        checks.scrape_until("a check", |exposition| {
            exposition
                .select("tcp_check_total", &[("outcome", "open")])
                .any(|open| open.value > 0.0)
        });
        checks
    }

    /// What is told of the target with this name.
    fn row(&self, name: &str) -> Value {
        self.known_row(name).unwrap()
    }

    /// The same; the server answers before there is any target.
    fn known_row(&self, name: &str) -> Option<Value> {
        let page = body(&self.prober.fetch("/api/v1/targets"), 200);
        let rows = page["targets"].as_array().unwrap();
        rows.iter().find(|row| row["target"] == name).cloned()
    }
}

fn body(response: &Response, status: u16) -> Value {
    assert_eq!(response.status, status, "{}", response.body);
    assert_eq!(response.header("content-type"), Some("application/json"));
    serde_json::from_str(&response.body).unwrap()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap()
}

/// An answer must have this status, and a body as it is described for it.
fn check(description: &Value, answers: &Value, status: &str, path: &str, response: &Response) {
    let body = body(response, status.parse().unwrap());
    let schema = &answers[status]["content"]["application/json"]["schema"];
    assert!(schema.is_object(), "{path}: {status} is not described");
    valid(description, schema, &body);
}

/// The value must fit the schema, references into the description included.
fn valid(description: &Value, schema: &Value, value: &Value) {
    let mut whole = schema.clone();
    whole["$schema"] = json!("https://json-schema.org/draft/2020-12/schema");
    whole["components"] = description["components"].clone();
    let validator = jsonschema::validator_for(&whole).unwrap();
    let errors: Vec<String> = validator
        .iter_errors(value)
        .map(|error| format!("{}: {error}", error.instance_path()))
        .collect();
    assert!(errors.is_empty(), "{}\n{value:#}", errors.join("\n"));
}

/// A name as somebody hostile writes it.
pub(crate) const HOSTILE: &str = "<img src=x onerror=alert(1)><script>alert(2)</script>";
