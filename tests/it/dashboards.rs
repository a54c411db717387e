//! Every query of every dashboard and rule, and of the dashboard that people had before, is asked
//! of a real Prometheus that scrapes a running rttscope, and must return data. Without the server
//! these tests are skipped.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use std::{fs, thread};

use serde_json::Value;

use crate::frames;
use crate::prometheus::{Scraping, Server, is_installed};
use crate::run::{PATIENCE, Run};
use crate::site::{Place, report_skip};
use crate::turn::{self, Turn};

/// Queries, or panels by their titles, that need not return data here, and why. They must be good
/// PromQL all the same.
const WITHOUT_DATA: [(&str, &str); 2] = [
    ("rttscope_ebpf_lost_total", "there where eBPF programs time checks"),
    ("What is missing here", "a machine may lack nothing"),
];

/// What tcp_ping_prometheus's dashboard, its example queries and its README ask. The job was one
/// that its author had; here it is ours.
const SEED: [&str; 7] = [
    "1000*histogram_quantile(0.10, rate(tcp_echo_rtt_seconds_bucket{job=\"rttscope\"}[5m]))",
    "1000*histogram_quantile(0.50, rate(tcp_echo_rtt_seconds_bucket{job=\"rttscope\"}[5m]))",
    "1000*(histogram_quantile(0.90, rate(tcp_echo_rtt_seconds_bucket{job=\"rttscope\"}[5m])) \
     - histogram_quantile(0.10, rate(tcp_echo_rtt_seconds_bucket{job=\"rttscope\"}[5m])))",
    "rate(tcp_echo_rtt_seconds_sum[5m]) / rate(tcp_echo_rtt_seconds_count[5m])",
    "rate(tcp_echo_timeouts_total[5m]) / rate(tcp_echo_sent_total[5m]) * 100",
    "rate(tcp_echo_dropped_total[5m])",
    "tcp_echo_connected",
];

/// Its queries that set a counter without a clock against the count of the round trips: that has
/// the label `clock` now, which must be summed away.
const SEED_WITH_A_SUM: [&str; 3] = [
    "100*rate(tcp_echo_timeouts_total[5m]) / (rate(tcp_echo_timeouts_total[5m]) \
     + sum without (clock) (rate(tcp_echo_rtt_seconds_count[5m])))",
    "100*(increase(tcp_echo_timeouts_total[5m])) / (increase(tcp_echo_timeouts_total[5m]) \
     + sum without (clock) (increase(tcp_echo_rtt_seconds_count[5m])))",
    "tcp_echo_timeouts_total / sum without (clock) (tcp_echo_rtt_seconds_count) * 1000",
];

/// Clients of a relay, one after the other, until dropped.
struct Clients(Arc<AtomicBool>);

impl Clients {
    fn start(at: SocketAddr) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&over);
        thread::spawn(move || {
            while !told.load(Ordering::Acquire) {
                // The relay may end first.
                if let Ok(mut stream) = TcpStream::connect(at) {
                    drop(stream.write_all(&frames::v1(1, 1)));
                    drop(stream.read(&mut [0; 16]));
                }
                thread::sleep(Duration::from_millis(20));
            }
        });
        Self(over)
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// One query, and where it stands.
struct Asked {
    place: String,
    query: String,
}

#[test]
fn every_query_returns_data_from_classic_histograms() {
    let mut asked = panel_queries();
    assert!(asked.len() >= 150, "{} queries", asked.len());
    asked.extend(example_queries());
    asked.extend(rule_queries());
    let seed = SEED.iter().chain(&SEED_WITH_A_SUM);
    let ask = |query: &&str| Asked { place: "the seed".to_owned(), query: (*query).to_owned() };
    asked.extend(seed.map(ask));
    check_queries("dashboards::classic", asked, false);
}

#[test]
fn every_panel_has_data_from_native_histograms() {
    let mut asked = native_queries();
    assert!(asked.len() >= 50, "{} queries", asked.len());
    asked.extend(panel_queries());
    check_queries("dashboards::native", asked, true);
}

/// Asks until every query has returned data, from classic histograms or from native ones.
fn check_queries(test: &str, mut waiting: Vec<Asked>, native: bool) {
    let _turn = turn::wait_for(Turn::Shared);
    if !is_installed("prometheus") {
        return report_skip(test, "no `prometheus` on the search path");
    }
    let slos = "--slo=100us:99% --slo=app=1ms:99.9%:application --interval=20ms";
    let web = "--web.listen-address=127.0.0.1:0";
    let both = Run::start(&Place::Here, &format!("both --listen=127.0.0.1:0 {web} {slos}"));
    let checked = both.responder_address();
    let check = Run::start(&Place::Here, &format!("probe --check {checked} {web} {slos}"));
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("rttscope.yaml");
    fs::write(folder.path().join("targets.json"), "[]").unwrap();
    let discovery = "discovery: [{file_sd_configs: [{files: [targets.json]}]}]";
    fs::write(&file, format!("web: {{listen: '127.0.0.1:0'}}\n{discovery}\n")).unwrap();
    let words = format!("run --config.file={}", file.display());
    let agent = Run::start(&Place::Here, &words);
    let relay =
        Run::start(&Place::Here, &format!("relay --listen=127.0.0.1:0 --upstream={checked} {web}"));
    let _clients = Clients::start(relay.relay_address());
    let scraped =
        [both.http_address(), check.http_address(), agent.http_address(), relay.http_address()];
    let server = Server::start_with(&Scraping {
        addresses: &scraped,
        rules: &crate::rules::printed("rules"),
        native,
        ..Scraping::default()
    });
    let started = Instant::now();
    loop {
        waiting.retain(|Asked { place, query }| {
            let answer = server.answer(query);
            let good = answer["status"] == "success";
            assert!(good, "{place}: {query}\n{answer:#}");
            let mut excuses = WITHOUT_DATA.iter();
            let excused = excuses.any(|(word, _)| query.contains(word) || place.contains(word));
            !excused && !has_data(&answer)
        });
        if waiting.is_empty() {
            return;
        }
        let first = &waiting[0];
        let (place, query) = (&first.place, &first.query);
        let none = format!("{} queries have no data; {place}: {query}", waiting.len());
        assert!(started.elapsed() < PATIENCE, "{none}");
        thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn every_metric_that_is_asked_for_exists() {
    let _turn = turn::wait_for(Turn::Shared);
    let known: BTreeSet<&str> = rttscope::metrics::families().map(|family| family.name).collect();
    let mut asked: Vec<Asked> = panel_queries();
    asked.extend(example_queries());
    asked.extend(rule_queries());
    let mut seen = BTreeSet::new();
    for Asked { place, query } in &asked {
        for name in metric_names(query) {
            let family =
                ["_bucket", "_count", "_sum"].iter().find_map(|end| name.strip_suffix(end));
            let family = family.filter(|family| known.contains(family)).unwrap_or(name);
            assert!(known.contains(family), "{place} asks for {name}: {query}");
            seen.insert(family.to_owned());
        }
    }
    assert!(seen.len() >= 60, "{seen:?}");
}

#[test]
fn dashboards_find_their_data_source_and_each_other() {
    let _turn = turn::wait_for(Turn::Shared);
    let mut uids = BTreeSet::new();
    for (name, dashboard) in dashboards() {
        assert!(uids.insert(dashboard["uid"].to_string()), "{name}: its uid is another's");
        let variables: Vec<&str> = dashboard["templating"]["list"]
            .as_array()
            .unwrap()
            .iter()
            .map(|variable| variable["name"].as_str().unwrap())
            .collect();
        assert_eq!(variables[..3], ["datasource", "job", "instance"], "{name}");
        for (place, target) in targets(&name, &dashboard) {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{place}");
            let query = target["expr"].as_str().unwrap();
            for (_, name) in variables_in(query).into_iter().filter(|(_, it)| !it.starts_with("__"))
            {
                assert!(variables.contains(&name), "{place}: no variable {name}: {query}");
            }
        }
    }
    assert_eq!(uids.len(), 5);
}

/// The generated dashboards, by file name.
fn dashboards() -> Vec<(String, Value)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/dashboards/generated");
    let files = fs::read_dir(folder).unwrap().map(|file| file.unwrap().path());
    let read = |path: std::path::PathBuf| {
        let dashboard = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), dashboard)
    };
    files.map(read).collect()
}

/// Every target of every panel, with the panel's name.
fn targets<'a>(name: &str, dashboard: &'a Value) -> Vec<(String, &'a Value)> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels.flat_map(|panel| {
        let place = format!("{name}: {}", panel["title"]);
        let list = panel["targets"].as_array().into_iter().flatten();
        list.map(move |target| (place.clone(), target))
    });
    targets.collect()
}

/// Every query of every panel, with the choices at the top made.
fn panel_queries() -> Vec<Asked> {
    let mut asked = Vec::new();
    for (name, dashboard) in dashboards() {
        for (place, target) in targets(&name, &dashboard) {
            let query = with_variables(target["expr"].as_str().unwrap());
            asked.push(Asked { place, query });
        }
        for variable in dashboard["templating"]["list"].as_array().unwrap() {
            let Some(query) = variable["query"]["query"].as_str() else { continue };
            let series = query.strip_prefix("label_values(").unwrap().rsplit_once(", ").unwrap().0;
            let place = format!("{name}: variable {}", variable["name"]);
            asked.push(Asked { place, query: with_variables(series) });
        }
    }
    asked
}

/// The first choice of each query that takes native histograms or classic ones.
fn native_queries() -> Vec<Asked> {
    let native = |asked: Asked| {
        let query = asked.query.replace("\nor on ()\n", "\nor\n");
        let (first, _) = query.split_once("\nor\n")?;
        // A choice inside a function is cut out of it.
        let first = first.strip_prefix("topk(1, ").unwrap_or(first).to_owned();
        Some(Asked { place: "native histograms".to_owned(), query: first })
    };
    panel_queries().into_iter().filter_map(native).collect()
}

/// What recording rules record and how, and what alerts ask for: the operands, because an alert
/// itself is silent while all is well.
fn rule_queries() -> Vec<Asked> {
    let file: Value = serde_json::from_str(&crate::rules::printed("rules --json")).unwrap();
    let groups = file["groups"].as_array().unwrap().iter();
    let mut asked = Vec::new();
    for rule in groups.flat_map(|group| group["rules"].as_array().unwrap()) {
        let expr = rule["expr"].as_str().unwrap();
        if let Some(record) = rule["record"].as_str() {
            let place = format!("rule {record}");
            asked.push(Asked { place: place.clone(), query: record.to_owned() });
            asked.push(Asked { place, query: expr.to_owned() });
        } else {
            for selector in selectors(expr) {
                let place = format!("alert {}", rule["alert"]);
                asked.push(Asked { place, query: selector });
            }
        }
    }
    asked
}

/// The fenced queries of the examples.
fn example_queries() -> Vec<Asked> {
    let page = include_str!("../../dashboards/QUERIES.md");
    let blocks = page.split("```promql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    let asked: Vec<Asked> = blocks
        .map(|query| Asked { place: "QUERIES.md".to_owned(), query: query.trim().to_owned() })
        .collect();
    assert!(asked.len() >= 15, "{} examples", asked.len());
    asked
}

/// A metric's name and its braces, wherever they stand in an expression.
fn selectors(expr: &str) -> Vec<String> {
    let braces = expr.match_indices('{');
    let selector = |(open, _): (usize, &str)| {
        let start = expr[..open].rfind(|c: char| !is_name(c)).map_or(0, |at| at + 1);
        let end = open + expr[open..].find('}').unwrap();
        expr[start..=end].to_owned()
    };
    braces.map(selector).collect()
}

/// Words that begin as our metrics do.
fn metric_names(query: &str) -> Vec<&str> {
    let words = query.split(|c: char| !is_name(c) || c == ':');
    // Behind a colon stand the names of recorded series, made of a family's.
    let recorded = query.contains("target_slo:");
    let ours = ["tcp_", "rttscope_", "process_"];
    words
        .filter(|word| ours.iter().any(|start| word.starts_with(start)))
        .filter(|word| !(recorded && word.ends_with("_slo_errors")))
        .collect()
}

fn is_name(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == ':'
}

/// Grafana's variables in a query, with their places.
fn variables_in(query: &str) -> Vec<(usize, &str)> {
    let variable = |(at, _): (usize, _)| {
        let name = &query[at + 1..];
        let end = name.find(|c: char| !c.is_ascii_alphanumeric() && c != '_').unwrap_or(name.len());
        (at, &name[..end])
    };
    query.match_indices('$').map(variable).collect()
}

/// Everything is chosen, and windows are short.
fn with_variables(query: &str) -> String {
    let mut chosen = query.to_owned();
    for (at, name) in variables_in(query).into_iter().rev() {
        let value = match name {
            "__rate_interval" => "5s",
            "__range" => "1m",
            _ => ".*",
        };
        chosen.replace_range(at..=at + name.len(), value);
    }
    chosen
}

/// A sample that is a number, or a native histogram.
fn has_data(answer: &Value) -> bool {
    answer["data"]["result"].as_array().unwrap().iter().any(|series| {
        let value = series["value"][1].as_str();
        series["histogram"].is_array() || value.is_some_and(|value| value != "NaN")
    })
}
