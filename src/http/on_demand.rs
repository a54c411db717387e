//! `GET /probe?target=&module=`: one probe now, in the manner of blackbox_exporter, whose names the
//! basics have. The wish goes to whoever owns the measuring threads; what comes back is written as
//! text. A failed probe is an answer with `probe_success 0`, as there.

use std::fmt::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::State;
use axum::extract::rejection::QueryRejection;
use axum::http::header::{CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use tokio::sync::{mpsc, oneshot};

use super::HttpState;
use crate::config::HostPort;
use crate::stats::OnDemandResult;
use crate::stats::watched::Watched;
use crate::time::seconds;

/// A wish for one probe.
#[derive(Debug)]
pub struct ProbeRequest {
    /// Whom.
    pub target: HostPort,
    /// How, by the module's name; the only one unless it is given.
    pub module: Option<String>,
    /// How long the client waits.
    pub patience: Option<Duration>,
    /// Where to say what came of it.
    pub answer: oneshot::Sender<Result<ProbeAnswer, ProbeRefusal>>,
}

/// Where wishes go.
pub type ProbeRequests = mpsc::Sender<ProbeRequest>;

/// What came of a probe.
#[derive(Clone, Debug)]
pub struct ProbeAnswer {
    /// The target answered as it should.
    pub success: bool,
    /// From the wish to the answer.
    pub duration: Duration,
    /// Looking the name up; zero of a literal address.
    pub lookup: Duration,
    /// Who was asked; nobody if the name has no address.
    pub address: Option<SocketAddr>,
    /// What was measured, by a series of this one probe.
    pub measured: Option<Watched>,
}

/// Why there is no probe, in one line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeRefusal {
    /// It is not switched on.
    Off,
    /// The wish makes no sense here.
    Bad(String),
    /// No rule allows it.
    NotAllowed(String),
    /// Too many are under way.
    Busy,
}

/// The parameters.
#[derive(Debug, Deserialize)]
pub(super) struct Wish {
    target: Option<String>,
    module: Option<String>,
}

pub(super) async fn probe(
    State(state): State<HttpState>,
    headers: HeaderMap,
    wish: Result<axum::extract::Query<Wish>, QueryRejection>,
) -> Response {
    let Some(requests) = &state.probes else { return refused(&ProbeRefusal::Off) };
    let wish = match wish {
        Ok(axum::extract::Query(wish)) => wish,
        Err(why) => return refused(&ProbeRefusal::Bad(why.body_text())),
    };
    let (answer, answered) = oneshot::channel();
    let request = match request(wish, &headers, answer) {
        Ok(request) => request,
        Err(why) => return refused(&ProbeRefusal::Bad(why)),
    };
    match requests.try_send(request) {
        Ok(()) => {}
        Err(mpsc::error::TrySendError::Full(_)) => {
            if let Some(series) = state.stats.on_demand() {
                series.count(OnDemandResult::Busy);
            }
            return refused(&ProbeRefusal::Busy);
        }
        Err(mpsc::error::TrySendError::Closed(_)) => return stopping(),
    }
    match answered.await {
        Ok(Ok(answer)) => ([(CONTENT_TYPE, TEXT)], text(&answer)).into_response(),
        Ok(Err(refusal)) => refused(&refusal),
        Err(_) => stopping(),
    }
}

fn request(
    Wish { target, module }: Wish,
    headers: &HeaderMap,
    answer: oneshot::Sender<Result<ProbeAnswer, ProbeRefusal>>,
) -> Result<ProbeRequest, String> {
    let Some(target) = target.filter(|target| !target.is_empty()) else {
        return Err("target is missing; write e.g. /probe?target=10.0.0.1:443".to_owned());
    };
    let target: HostPort = target.parse().map_err(|bad| format!("target {target:?}: {bad}"))?;
    let patience = headers.get(TIMEOUT_HEADER).map(|value| {
        let seconds = value.to_str().ok().and_then(|text| text.trim().parse::<f64>().ok());
        let patience = seconds.filter(|seconds| *seconds > 0.0);
        let patience = patience.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
        patience.ok_or_else(|| format!("{TIMEOUT_HEADER}: is no number of seconds"))
    });
    Ok(ProbeRequest { target, module, patience: patience.transpose()?, answer })
}

fn refused(refusal: &ProbeRefusal) -> Response {
    match refusal {
        ProbeRefusal::Off => {
            let why = "Probes on demand are off; add probe: to the file of rttscope run.\n";
            (StatusCode::NOT_FOUND, why).into_response()
        }
        ProbeRefusal::Bad(why) => (StatusCode::BAD_REQUEST, line(why)).into_response(),
        ProbeRefusal::NotAllowed(why) => (StatusCode::FORBIDDEN, line(why)).into_response(),
        ProbeRefusal::Busy => {
            let later = [(RETRY_AFTER, "1")];
            (StatusCode::SERVICE_UNAVAILABLE, later, "Too many probes under way.\n").into_response()
        }
    }
}

fn stopping() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, "rttscope is stopping.\n").into_response()
}

/// One line, whatever the client has sent.
fn line(why: &str) -> String {
    let plain = why.chars().map(|character| if character.is_control() { ' ' } else { character });
    plain.chain(['\n']).collect()
}

/// Text of version 0.0.4.
fn text(answer: &ProbeAnswer) -> String {
    let mut page = Page(String::new());
    let ProbeAnswer { success, duration, lookup, address, measured } = answer;
    page.one("probe_success", "1 if the probe was answered as it should be.", flag(*success));
    page.one("probe_duration_seconds", "How long the whole probe took.", duration.as_secs_f64());
    page.one(
        "probe_dns_lookup_time_seconds",
        "How long looking the name up took.",
        lookup.as_secs_f64(),
    );
    if let Some(address) = address {
        let ip = address.ip().to_canonical();
        let version = if ip.is_ipv4() { 4.0 } else { 6.0 };
        page.one("probe_ip_protocol", "Version of IP: 4 or 6.", version);
        page.one(
            "probe_ip_addr_hash",
            "A hash of the address, which changes when it does.",
            f64::from(hash(ip)),
        );
    }
    match measured {
        Some(Watched::Probe(series)) => {
            let seen = series.snapshot();
            let rtt = seen.rtt.iter().map(|(clock, rtt)| (clock.name(), rtt.sum_ns));
            page.many("probe_rtt_seconds", RTT, "clock", rtt);
            if let Some(app_rtt) = &seen.app_rtt {
                page.one("probe_app_rtt_seconds", APP_RTT, seconds(app_rtt.sum_ns));
            }
            let stages = seen.stages.iter().map(|(stage, ns)| (stage.name(), ns.sum_ns));
            page.many("probe_stage_seconds", "The parts of the probe's time.", "stage", stages);
        }
        Some(Watched::Check(series)) => {
            let seen = series.snapshot();
            let rtt = seen.rtt.iter().map(|(clock, rtt)| (clock.name(), rtt.sum_ns));
            page.many("probe_rtt_seconds", RTT, "clock", rtt);
            if let Some(elapsed) = &seen.elapsed {
                page.one("probe_app_rtt_seconds", APP_RTT, seconds(elapsed.sum_ns));
            }
            let resent = u32::try_from(seen.counters.syn_retransmits).unwrap_or(u32::MAX);
            page.one("probe_syn_retransmits", "SYNs after the first.", f64::from(resent));
            page.one("probe_refused", REFUSED, flag(seen.counters.refused > 0));
        }
        None => {}
    }
    page.0
}

/// Families as text.
struct Page(String);

impl Page {
    fn one(&mut self, name: &str, help: &str, value: f64) {
        self.head(name, help);
        // Writing to a string cannot fail.
        let _ = writeln!(self.0, "{name} {value}");
    }

    /// Nothing if there is no value.
    fn many<'a>(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: impl Iterator<Item = (&'a str, u64)>,
    ) {
        let mut values = values.peekable();
        if values.peek().is_some() {
            self.head(name, help);
        }
        for (word, ns) in values {
            let value = seconds(ns);
            let _ = writeln!(self.0, "{name}{{{label}=\"{word}\"}} {value}");
        }
    }

    fn head(&mut self, name: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
    }
}

fn flag(set: bool) -> f64 {
    if set { 1.0 } else { 0.0 }
}

/// FNV-1a of the address' bytes, as blackbox_exporter's.
fn hash(ip: IpAddr) -> u32 {
    const OFFSET: u32 = 0x811c_9dc5;
    const PRIME: u32 = 0x0100_0193;
    let mix = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(PRIME);
    match ip {
        IpAddr::V4(ip) => ip.octets().iter().fold(OFFSET, mix),
        IpAddr::V6(ip) => ip.octets().iter().fold(OFFSET, mix),
    }
}

/// What Prometheus says of its own patience.
const TIMEOUT_HEADER: &str = "X-Prometheus-Scrape-Timeout-Seconds";
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";
const RTT: &str = "Round trip by the best clock that the probe had.";
const APP_RTT: &str = "Round trip as an application sees it.";
const REFUSED: &str = "1 if the target is there and refuses connections.";

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use axum::http::HeaderValue;

    use super::*;

    fn asked(target: &str, header: Option<&str>) -> Result<ProbeRequest, String> {
        let mut headers = HeaderMap::new();
        if let Some(value) = header {
            headers.insert(TIMEOUT_HEADER, HeaderValue::from_str(value).unwrap());
        }
        let wish = Wish { target: Some(target.to_owned()), module: None };
        request(wish, &headers, oneshot::channel().0)
    }

    #[test]
    fn a_wish_is_a_target_and_a_patience() {
        let wish = asked("db:443", Some("9.5")).unwrap();
        assert_eq!(wish.target.to_string(), "db:443");
        assert_eq!(wish.patience, Some(Duration::from_millis(9_500)));
        assert_eq!(asked("db:443", None).unwrap().patience, None);
        for header in ["", "x", "0", "-1", "NaN", "inf", "1e99"] {
            let why = asked("db:443", Some(header)).unwrap_err();
            assert!(why.starts_with(TIMEOUT_HEADER), "{header}: {why}");
        }
        for target in ["", "db", "db:0", "db:99999", "http://db/", "a b:1", "\n:1"] {
            assert!(asked(target, None).unwrap_err().starts_with("target"), "{target}");
        }
    }

    #[test]
    fn what_failed_before_it_was_measured_is_told_all_the_same() {
        let (success, lookup) = (false, Duration::from_millis(250));
        let duration = Duration::from_secs(2);
        let text = text(&ProbeAnswer { success, duration, lookup, address: None, measured: None });
        let values: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        let expected =
            ["probe_success 0", "probe_duration_seconds 2", "probe_dns_lookup_time_seconds 0.25"];
        assert_eq!(values, expected);
    }

    /// By the reference implementation of FNV (draft-eastlake-fnv) for the same bytes.
    #[test]
    fn the_hash_is_that_of_the_exporter() {
        let check = |ip: &str, expected: u32| assert_eq!(hash(ip.parse().unwrap()), expected);
        check("127.0.0.1", fnv(&[127, 0, 0, 1]));
        check("::1", fnv(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]));
        assert_eq!(fnv(b"a"), 0xe40c_292c);
        assert_eq!(fnv(b"foobar"), 0xbf9c_f968);
    }

    fn fnv(bytes: &[u8]) -> u32 {
        let mut hash = 2_166_136_261_u32;
        for byte in bytes {
            hash ^= u32::from(*byte);
            hash = hash.wrapping_mul(16_777_619);
        }
        hash
    }

    #[test]
    fn an_answer_is_one_line() {
        assert_eq!(line("a\r\nb"), "a  b\n");
    }
}
