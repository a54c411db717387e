//! The real Prometheus server scrapes us and answers questions about what it stored, and its
//! linter finds nothing to say. Without the programs these tests are skipped.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::catalogue;
use crate::http;
use crate::lines;
use crate::run::{PATIENCE, Run};
use crate::site::{Place, report_skip};
use crate::turn::{self, Turn};
use crate::web_config::{Folder, TLS, users};

#[test]
fn a_real_server_stores_what_we_count() {
    let _turn = turn::wait_for(Turn::Shared);
    if !is_installed("prometheus") {
        return report_skip("prometheus::server", "no `prometheus` on the search path");
    }
    let both = both();
    let server = Server::start(both.http_address());
    let native = Server::start_native(both.http_address());
    for server in [&server, &native] {
        stores_what_we_count(server, &both);
    }

    // What dashboards and rules ask. A quantile lies in a bucket, whose bounds are ours.
    for family in [catalogue::RTT, catalogue::APP_RTT, "tcp_responder_residence_seconds"] {
        let rates = format!("sum by (le) (rate({family}_bucket[1m]))");
        let classic =
            server.wait_for(&format!("histogram_quantile(0.5, {rates})"), |value| !value.is_nan());
        let rate = format!("sum(rate({family}[1m]))");
        let native =
            native.wait_for(&format!("histogram_quantile(0.5, {rate})"), |value| !value.is_nan());
        assert!(classic > 0.0 && classic < 10.0, "{family}: {classic}");
        assert!(native > 0.0 && native < 10.0, "{family}: {native}");
    }
    let stages = format!("count(count by (stage) ({}_count))", catalogue::STAGE);
    assert_eq!(server.wait_for(&stages, |value| value >= 5.0), 5.0);
    let stages = format!("count(count by (stage) ({}))", catalogue::STAGE);
    assert_eq!(native.wait_for(&stages, |value| value >= 5.0), 5.0);
    let types = server.metadata(catalogue::RECEIVED.trim_end_matches("_total"));
    assert!(types.contains("counter"), "{types}");
    let types = native.metadata(catalogue::RTT);
    assert!(types.contains("histogram"), "{types}");
}

fn stores_what_we_count(server: &Server, both: &Run) {
    assert_eq!(server.wait_for("up", |value| value == 1.0), 1.0);

    // As soon as the server knows at least what we had counted, it must not know more than we
    // have counted meanwhile.
    let had = count(both);
    let told = server.wait_for(catalogue::RECEIVED, |value| value >= had);
    let have = count(both);
    assert!(had <= told && told <= have, "{had} <= {told} <= {have}");
    let reconciled = format!(
        "{} - {} - {} - {}",
        catalogue::SENT,
        catalogue::RECEIVED,
        catalogue::TIMEOUTS,
        catalogue::IN_FLIGHT
    );
    assert_eq!(server.wait_for(&reconciled, |_| true), 0.0, "one scrape is one moment");
}

/// The responder ends, and with it the numbers stay: so both kinds of buckets, and the lines, are
/// about the same round trips.
#[test]
fn quantiles_of_both_kinds_of_buckets_are_those_of_the_lines() {
    let _turn = turn::wait_for(Turn::Shared);
    if !is_installed("prometheus") {
        return report_skip("prometheus::quantiles", "no `prometheus` on the search path");
    }
    let mut serve = Run::start(&Place::Here, "serve --listen=127.0.0.1:0");
    let target = serve.responder_address();
    let words = format!("probe {target} --interval=2ms --json --web.listen-address=127.0.0.1:0");
    let probe = Run::start(&Place::Here, &words);
    probe.scrape_until("500 replies", |now| {
        now.has(catalogue::RECEIVED, &[]) && now.count(catalogue::RECEIVED, &[]) >= 500
    });
    serve.signal(Signal::KILL);
    serve.wait();
    let last = probe
        .scrape_until("the end of the connection", |now| now.count(catalogue::CONNECTED, &[]) == 0);
    let received = last.count(catalogue::RECEIVED, &[]);
    let started = Instant::now();
    let lines = loop {
        let report = lines::Report::parse(&probe.stdout());
        if u64::try_from(report.received().count()).unwrap() >= received {
            break report;
        }
        assert!(started.elapsed() < PATIENCE, "fewer lines than {received} replies");
        thread::sleep(Duration::from_millis(50));
    };

    let ends: Vec<f64> =
        last.buckets(catalogue::RTT, &[]).into_iter().map(|(end, _)| end).collect();
    let classic = Server::start(probe.http_address());
    let native = Server::start_native(probe.http_address());
    for (family, time_ns) in [
        (catalogue::RTT, (|line| line.rtt_ns) as fn(&lines::ProbeLine) -> Option<u64>),
        (catalogue::APP_RTT, |line| line.app_rtt_ns),
    ] {
        let mut times_ns: Vec<u64> = lines.received().filter_map(time_ns).collect();
        times_ns.sort_unstable();
        let count: f64 = times_ns.len().to_string().parse().unwrap();
        classic.wait_for(&format!("sum({family}_count)"), |value| value == count);
        native.wait_for(&format!("histogram_count(sum({family}))"), |value| value == count);
        assert_eq!(native.ask_all(&format!("{family}_bucket")), [], "it was scraped as text");
        for percent in [1, 50, 90, 99] {
            let rank = (times_ns.len() * percent).div_ceil(100);
            let exact = Duration::from_nanos(times_ns[rank - 1]).as_secs_f64();
            let q = format!("0.{percent:02}");
            let of = |server: &Server, buckets: &str| {
                server.wait_for(&format!("histogram_quantile({q}, {buckets})"), |it| !it.is_nan())
            };
            let by_native = of(&native, &format!("sum({family})"));
            let by_classic = of(&classic, &format!("sum by (le) ({family}_bucket)"));
            let told = format!("{family}, {q}: {exact} {by_native} {by_classic}");
            // A native bucket ends 2^(1/32) times as far as it begins.
            let ratio = by_native / exact;
            assert!((1.0 / NATIVE_WIDTH..=NATIVE_WIDTH).contains(&ratio), "{told}");
            let bucket = |value: f64| ends.partition_point(|end| *end < value);
            assert!(bucket(by_classic).abs_diff(bucket(by_native)) <= 1, "{told}");
        }
    }
}

/// 2^(1/32), and a little for what is lost in text.
const NATIVE_WIDTH: f64 = 1.021_9;

#[test]
fn a_real_server_comes_by_tls_with_certificate_and_password() {
    let _turn = turn::wait_for(Turn::Shared);
    if !is_installed("prometheus") {
        return report_skip("prometheus::tls", "no `prometheus` on the search path");
    }
    let files = Folder::new();
    let identity = files.authority.issue(&["prometheus"]);
    let certificate = files.write("client.pem", &identity.certificate_pem);
    let key = files.write("client-key.pem", &identity.key_pem);
    let text = format!(
        "{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  \
         client_allowed_sans: [prometheus]\n{}",
        users("prometheus", "secret")
    );
    let words = format!(
        "both --listen=127.0.0.1:0 --web.listen-address=127.0.0.1:0 --interval=20ms \
         --web.config.file={}",
        files.write("web.yml", &text).display()
    );
    let both = Run::start(&Place::Here, &words);
    let how = format!(
        "scheme: https, basic_auth: {{username: prometheus, password: secret}}, \
         tls_config: {{ca_file: {}, cert_file: {}, key_file: {}, server_name: localhost}}, ",
        files.path("ca.pem").display(),
        certificate.display(),
        key.display()
    );
    let addresses = &[both.http_address()];
    let scraping = Scraping { addresses, how: &how, ..Scraping::default() };
    let server = Server::start_with(&scraping);
    assert_eq!(server.wait_for("up", |value| value == 1.0), 1.0);
    let received = server.wait_for(catalogue::RECEIVED, |value| value >= 20.0);
    assert!(received >= 20.0);
    let refused = "sum(rttscope_http_requests_refused_total)";
    assert_eq!(server.wait_for(refused, |_| true), 0.0);
}

#[test]
fn the_linter_has_nothing_to_say() {
    let _turn = turn::wait_for(Turn::Shared);
    if !is_installed("promtool") {
        return report_skip("prometheus::linter", "no `promtool` on the search path");
    }
    let both = both();
    // Every family that appears with the first replies is there.
    both.scrape_until("twenty replies", |exposition| {
        exposition.has(catalogue::RECEIVED, &[]) && exposition.count(catalogue::RECEIVED, &[]) >= 20
    });
    let page = http::fetch_as(both.http_address(), "/metrics", "text/plain; version=0.0.4");
    lint(&page);
}

/// `promtool check metrics` has nothing to say of a page of the text format.
pub(crate) fn lint(page: &http::Response) {
    let kind = page.header("content-type").unwrap();
    assert!(kind.starts_with("text/plain") && kind.contains("0.0.4"), "{kind}");
    let mut linter = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    linter.stdin.take().unwrap().write_all(page.body.as_bytes()).unwrap();
    let output = linter.wait_with_output().unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success() && said.is_empty(), "{said}\n{}", page.body);
}

/// A responder and a prober in one process, with an answer every 20 ms.
fn both() -> Run {
    let words = "both --listen=127.0.0.1:0 --web.listen-address=127.0.0.1:0 --interval=20ms";
    Run::start(&Place::Here, words)
}

fn count(both: &Run) -> f64 {
    both.scrape().one(catalogue::RECEIVED, &[])
}

pub(crate) fn is_installed(program: &str) -> bool {
    let mut command = Command::new(program);
    command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok()
}

/// A Prometheus server with an empty store that scrapes some addresses.
pub(crate) struct Server {
    run: Run,
    address: SocketAddr,
    /// Its configuration and its store.
    _folder: tempfile::TempDir,
}

/// What is scraped, and what is made of it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Scraping<'a> {
    pub(crate) addresses: &'a [SocketAddr],
    /// More of the scrape's configuration, with a comma at its end.
    pub(crate) how: &'a str,
    /// A rule file to evaluate, unless that is empty.
    pub(crate) rules: &'a str,
    /// Protobuf is scraped. Of histograms that have both kinds of buckets, this version then takes
    /// the native ones; else text is, which has classic ones.
    pub(crate) native: bool,
}

/// One series of an answer: its labels, and its newest value if that is a number.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: Option<f64>,
}

impl Server {
    /// Scrapes text, so histograms have classic buckets.
    pub(crate) fn start(scraped: SocketAddr) -> Self {
        Self::start_with(&Scraping { addresses: &[scraped], ..Scraping::default() })
    }

    /// Scrapes protobuf; see [`Scraping::native`].
    pub(crate) fn start_native(scraped: SocketAddr) -> Self {
        let native = true;
        Self::start_with(&Scraping { addresses: &[scraped], native, ..Scraping::default() })
    }

    /// See [`Scraping`].
    pub(crate) fn start_with(scraping: &Scraping<'_>) -> Self {
        let Scraping { addresses, how, rules, native } = *scraping;
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("prometheus.yml");
        let targets: Vec<String> = addresses.iter().map(ToString::to_string).collect();
        let targets = serde_json::to_string(&targets).unwrap();
        let text = format!(
            "global:\n  scrape_interval: 250ms\n  scrape_timeout: 250ms\n  \
             evaluation_interval: 500ms\n\
             rule_files: ['*.rules.yml']\n\
             scrape_configs:\n\
             - {{job_name: rttscope, {how}static_configs: [{{targets: {targets}}}]}}
"
        );
        if !rules.is_empty() {
            std::fs::write(folder.path().join("written.rules.yml"), rules).unwrap();
        }
        std::fs::write(&config, text).unwrap();
        // It does not say which port it got when asked for any, so one that is free just now.
        let address = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--storage.tsdb.path={}", folder.path().join("store").display()))
            .arg(format!("--web.listen-address={address}"))
            .arg("--log.level=warn");
        if native {
            command.arg("--enable-feature=native-histograms");
        }
        let run = Run::spawn(&Place::Here, command, "prometheus".to_owned());
        let server = Self { run, address, _folder: folder };
        let started = Instant::now();
        while http::try_fetch(address, "/-/ready").is_none_or(|response| response.status != 200) {
            let ended = server.run.ends_within(Duration::from_millis(100));
            assert!(!ended && started.elapsed() < PATIENCE, "the server does not start");
        }
        server
    }

    /// Asks until the answer satisfies `met`.
    pub(crate) fn wait_for(&self, question: &str, met: impl Fn(f64) -> bool) -> f64 {
        let started = Instant::now();
        loop {
            let answer = self.ask_all(question);
            let value = answer.first().and_then(|series| series.value);
            if let Some(value) = value.filter(|&value| met(value)) {
                return value;
            }
            assert!(started.elapsed() < PATIENCE, "never: {question}\n{answer:#?}");
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// What the server answers to a query now, bad ones included.
    pub(crate) fn answer(&self, query: &str) -> Value {
        let path = format!("/api/v1/query?query={}", percent_encoded(query));
        let response = http::fetch_as(self.address, &path, "application/json");
        serde_json::from_str(&response.body).unwrap()
    }

    /// Every series that answers a question of PromQL now. A question that is no PromQL fails.
    pub(crate) fn ask_all(&self, question: &str) -> Vec<Series> {
        let answer = self.answer(question);
        let series = |found: &Value| Series {
            labels: serde_json::from_value(found["metric"].clone()).unwrap(),
            value: found["value"][1].as_str().map(|text| text.parse().unwrap()),
        };
        answer["data"]["result"].as_array().unwrap().iter().map(series).collect()
    }

    /// What the server knows of a family besides numbers, as JSON text.
    pub(crate) fn metadata(&self, family: &str) -> String {
        self.ask(&format!("/api/v1/metadata?metric={family}")).to_string()
    }

    /// A page of its API; it must be there.
    pub(crate) fn ask(&self, path: &str) -> Value {
        let response = http::fetch_as(self.address, path, "application/json");
        assert_eq!(response.status, 200, "{path}: {}", response.body);
        serde_json::from_str(&response.body).unwrap()
    }
}

/// RFC 3986: everything but the unreserved characters.
fn percent_encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                char::from(byte).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
