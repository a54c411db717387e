//! What stands before the routes: the web configuration file and the files it names in; for each
//! connection TLS or none, for each request leave to be answered, out. The files are looked at
//! for each connection and each request, so a renewed certificate or another password needs no
//! restart. Files that are bad, or half written, change nothing: the last good ones stay.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::http::header::{AUTHORIZATION, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use rustls::ServerConfig;
use sha2::{Digest, Sha256};

use super::auth::{Authenticator, Verdict};
use super::tls::{self, PemTexts};
use crate::config::limits;
use crate::config::web_file::{self, ClientAuth, Pem, RateLimit, TlsSection};
use crate::stats::{Refusal, Stats, WebSeries};

/// Who may connect and ask.
#[derive(Debug)]
pub struct Guard {
    watched: Option<Watched>,
}

/// A file and what was made of it.
#[derive(Debug)]
struct Watched {
    path: PathBuf,
    series: Arc<WebSeries>,
    clock_ns: fn() -> u64,
    authenticator: Authenticator,
    bucket: Mutex<Bucket>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    rules: Arc<Rules>,
    /// The file, and those that it names.
    paths: Vec<PathBuf>,
    /// What was in them when they were last read, good or not.
    seen: [u8; 32],
}

/// What the files say.
#[derive(Debug)]
pub(super) struct Rules {
    /// Speak TLS.
    pub(super) tls: Option<Arc<ServerConfig>>,
    /// How much is asked of clients' certificates, and whether of their names, for comparison.
    strictness: [u8; 2],
    headers: HeaderMap,
    users: BTreeMap<String, String>,
    rate_limit: Option<RateLimit>,
}

/// What one reading of the files gave.
struct Reading {
    rules: Result<Rules, String>,
    paths: Vec<PathBuf>,
    seen: [u8; 32],
}

/// When a token bucket is full again.
#[derive(Debug, Default)]
struct Bucket {
    full_at_ns: u64,
}

type Content = Result<Vec<u8>, String>;

impl Guard {
    /// Everybody may, over plain HTTP.
    #[must_use]
    pub const fn open() -> Self {
        Self { watched: None }
    }

    /// As the file says; `clock_ns` is a monotonic clock, for the rate limit.
    ///
    /// # Errors
    /// Why the file or one that it names cannot be used, and what to write instead, in one line.
    pub fn from_file(path: &Path, stats: &Stats, clock_ns: fn() -> u64) -> Result<Self, String> {
        let Reading { rules, paths, seen } = read(path);
        let rules = Arc::new(rules?);
        Ok(Self {
            watched: Some(Watched {
                path: path.to_owned(),
                series: stats.add_web(),
                clock_ns,
                authenticator: Authenticator::new().map_err(|error| error.to_string())?,
                bucket: Mutex::default(),
                state: Mutex::new(State { rules, paths, seen }),
            }),
        })
    }

    /// `http`, or `https` if TLS is spoken, which does not change.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        match &self.watched {
            Some(watched) if watched.lock().rules.tls.is_some() => "https",
            _ => "http",
        }
    }

    /// TLS as the files say now.
    pub(super) fn tls(&self) -> Option<Arc<ServerConfig>> {
        self.watched.as_ref().and_then(|watched| watched.rules().tls.clone())
    }

    pub(super) fn count_handshake_failed(&self) {
        if let Some(watched) = &self.watched {
            watched.series.count_handshake_failed();
        }
    }

    /// The answer to a request with these headers, which is `respond` if the files allow it.
    pub(super) async fn answer(
        &self,
        headers: &HeaderMap,
        respond: impl Future<Output = Response>,
    ) -> Response {
        let Some(watched) = &self.watched else { return respond.await };
        let rules = watched.rules();
        let mut response = match watched.refusal(&rules, headers).await {
            Some(refusal) => {
                watched.series.count_refused(refusal);
                refused(refusal)
            }
            None => respond.await,
        };
        for (name, value) in &rules.headers {
            // A page knows better what it needs.
            response.headers_mut().entry(name).or_insert_with(|| value.clone());
        }
        response
    }
}

impl Watched {
    /// The rules by the files as they are now, or as they were when they were last good.
    fn rules(&self) -> Arc<Rules> {
        let mut state = self.lock();
        if digest(&state.paths, &contents(&state.paths)) == state.seen {
            return Arc::clone(&state.rules);
        }
        let Reading { rules, paths, seen } = read(&self.path);
        (state.paths, state.seen) = (paths, seen);
        let file = self.path.display();
        match rules.and_then(|rules| no_weaker(&state.rules, rules)) {
            Ok(rules) => {
                self.authenticator.forget_all_but(&rules.users);
                state.rules = Arc::new(rules);
                self.series.set_last_reload_good(true);
                tracing::info!(%file, "the web configuration was read again");
            }
            Err(why) => {
                self.series.set_last_reload_good(false);
                tracing::error!(%file, why, "the last good web configuration stays in use");
            }
        }
        Arc::clone(&state.rules)
    }

    async fn refusal(&self, rules: &Rules, headers: &HeaderMap) -> Option<Refusal> {
        if let Some(limit) = rules.rate_limit {
            let mut bucket = self.bucket.lock().unwrap_or_else(PoisonError::into_inner);
            if !bucket.take((self.clock_ns)(), limit) {
                return Some(Refusal::Rate);
            }
        }
        if rules.users.is_empty() {
            return None;
        }
        match self.authenticator.check(&rules.users, headers.get(AUTHORIZATION)).await {
            Verdict::Granted => None,
            Verdict::Refused => Some(Refusal::Credentials),
            Verdict::Busy => Some(Refusal::Busy),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic half way leaves old rules with new paths: they are read again.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Bucket {
    /// Takes a token, if there is one.
    fn take(&mut self, now_ns: u64, limit: RateLimit) -> bool {
        let interval_ns = u64::try_from(limit.interval.as_nanos()).unwrap_or(u64::MAX);
        let full_at_ns = self.full_at_ns.max(now_ns).saturating_add(interval_ns);
        let there = full_at_ns - now_ns <= interval_ns.saturating_mul(u64::from(limit.burst));
        if there {
            self.full_at_ns = full_at_ns;
        }
        there
    }
}

/// New rules, unless they open what was closed: a file that is being written looks like one that
/// says little. Whoever means it starts the program again.
fn no_weaker(old: &Rules, new: Rules) -> Result<Rules, String> {
    if old.tls.is_some() != new.tls.is_some() {
        Err("TLS is switched on or off by a restart only".to_owned())
    } else if new.strictness.iter().zip(old.strictness).any(|(new, old)| *new < old) {
        Err("less is asked of client certificates by a restart only".to_owned())
    } else if !old.users.is_empty() && new.users.is_empty() {
        Err("passwords are given up by a restart only".to_owned())
    } else {
        Ok(new)
    }
}

fn strictness(tls: &TlsSection) -> [u8; 2] {
    let required = match tls.client_auth {
        ClientAuth::NoClientCert | ClientAuth::RequestClientCert => 0,
        ClientAuth::VerifyClientCertIfGiven => 1,
        ClientAuth::RequireAnyClientCert => 2,
        ClientAuth::RequireAndVerifyClientCert => 3,
    };
    [required, u8::from(!tls.client_allowed_sans.is_empty())]
}

fn refused(refusal: Refusal) -> Response<Body> {
    match refusal {
        Refusal::Credentials => {
            let challenge = [(WWW_AUTHENTICATE, "Basic realm=\"rttscope\", charset=\"UTF-8\"")];
            (StatusCode::UNAUTHORIZED, challenge, "User or password is wrong or missing.\n")
                .into_response()
        }
        Refusal::Busy => {
            let later = [(RETRY_AFTER, "1")];
            (StatusCode::SERVICE_UNAVAILABLE, later, "Too many passwords to check.\n")
                .into_response()
        }
        Refusal::Rate => (StatusCode::TOO_MANY_REQUESTS, "Too many requests.\n").into_response(),
    }
}

/// Reads the file and what it names.
fn read(path: &Path) -> Reading {
    let mut paths = vec![path.to_owned()];
    let mut contents = vec![content(path)];
    let rules = match &contents[0] {
        Ok(text) => parse(text, path),
        Err(why) => Err(why.clone()),
    };
    let rules = rules.and_then(|file| {
        let tls = file.tls.as_ref().map(|tls| {
            let mut text = |name: &str, pem: &Pem| pem_text(name, pem, &mut paths, &mut contents);
            let texts = pem_texts(tls, &mut text)?;
            for name in &tls.left_out {
                tracing::warn!(name, "is not spoken here; TLS works without it");
            }
            tls::server_config(tls, &texts).map(Arc::new)
        });
        let mut headers = HeaderMap::new();
        for (name, value) in file.headers {
            let value = HeaderValue::try_from(value).map_err(|error| format!("{name}: {error}"))?;
            let name = HeaderName::try_from(name).map_err(|error| format!("{name}: {error}"))?;
            headers.insert(name, value);
        }
        Ok(Rules {
            tls: tls.transpose()?,
            strictness: file.tls.as_ref().map_or([0, 0], strictness),
            headers,
            users: file.users,
            rate_limit: file.rate_limit,
        })
    });
    Reading { rules, seen: digest(&paths, &contents), paths }
}

fn parse(text: &[u8], path: &Path) -> Result<web_file::WebFile, String> {
    let text = std::str::from_utf8(text).map_err(|_| "is no text; write YAML in UTF-8")?;
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    web_file::parse(text, folder).map_err(|bad| bad.to_string())
}

fn pem_texts(
    tls: &TlsSection,
    text: &mut impl FnMut(&str, &Pem) -> Content,
) -> Result<PemTexts, String> {
    Ok(PemTexts {
        certificate: text("cert", &tls.certificate)?,
        key: text("key", &tls.key)?,
        client_ca: tls.client_ca.as_ref().map(|pem| text("client_ca", pem)).transpose()?,
    })
}

/// The text itself or the file's, which is noted in `paths` and `contents`.
fn pem_text(
    name: &str,
    pem: &Pem,
    paths: &mut Vec<PathBuf>,
    contents: &mut Vec<Content>,
) -> Content {
    let path = match pem {
        Pem::Text(text) => return Ok(text.clone().into_bytes()),
        Pem::File(path) => path,
    };
    let text = content(path);
    paths.push(path.clone());
    contents.push(text.clone());
    text.map_err(|why| format!("{name}_file {}: {why}", path.display()))
}

fn contents(paths: &[PathBuf]) -> Vec<Content> {
    paths.iter().map(|path| content(path)).collect()
}

/// What is in a file. A few small files cost microseconds, and their times and sizes would miss a
/// change within one tick of the file system's clock.
fn content(path: &Path) -> Content {
    let most = limits::WEB_FILE_BYTES_MAX;
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let kind = std::fs::metadata(path).map_err(unreadable)?;
    // A pipe would hold us up.
    if !kind.is_file() {
        return Err("is not a file".to_owned());
    }
    let mut content = Vec::new();
    let file = File::open(path).map_err(unreadable)?;
    let bytes = file.take(most + 1).read_to_end(&mut content).map_err(unreadable)?;
    if u64::try_from(bytes).is_ok_and(|bytes| bytes <= most) {
        Ok(content)
    } else {
        Err(format!("is larger than {most} bytes"))
    }
}

fn digest(paths: &[PathBuf], contents: &[Content]) -> [u8; 32] {
    let mut digest = Sha256::new();
    for (path, content) in paths.iter().zip(contents) {
        let (kind, bytes) = match content {
            Ok(bytes) => (b'+', bytes.as_slice()),
            Err(why) => (b'-', why.as_bytes()),
        };
        for part in [path.as_os_str().as_encoded_bytes(), &[kind], bytes] {
            digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_le_bytes());
            digest.update(part);
        }
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::time::Duration;

    use super::*;

    #[test]
    fn a_bucket_holds_its_burst_and_fills_by_the_interval() {
        let limit = RateLimit { interval: Duration::from_nanos(10), burst: 3 };
        let mut bucket = Bucket::default();
        let times = [100, 100, 100, 100, 109, 110, 110, 129, 130, 130, 1_000, 1_000, 1_000, 1_000];
        let taken = times.map(|now| bucket.take(now, limit));
        let expected = [
            true, true, true, false, false, true, false, true, true, false, true, true, true, false,
        ];
        assert_eq!(taken, expected);
    }

    /// A guard of a file with this text, and the file.
    fn guard(text: &str) -> (tempfile::TempDir, PathBuf, Result<Guard, String>) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.yml");
        std::fs::write(&path, text).unwrap();
        let guard = Guard::from_file(&path, &Stats::default(), || 0);
        (folder, path, guard)
    }

    async fn answer(guard: &Guard, headers: &HeaderMap) -> Response {
        guard.answer(headers, async { "fine".into_response() }).await
    }

    #[test]
    fn a_bad_file_is_refused_with_its_reason() {
        let check = |text: &str, part: &str| {
            let (_folder, _, guard) = guard(text);
            let why = guard.unwrap_err();
            assert!(why.contains(part) && !why.contains('\n'), "{why}");
        };
        check("rate_limits: {}", "line 1, column 1: there is no key rate_limits");
        check("tls_server_config: {cert_file: c.pem, key_file: k.pem}", "cert_file ");
        check("tls_server_config: {cert_file: '.', key: k}", "is not a file");
        check("tls_server_config: {cert: c, key: k}", "cert: there is no certificate in it");
        let missing = Guard::from_file(Path::new("/nonexistent"), &Stats::default(), || 0);
        assert!(missing.unwrap_err().contains("cannot be read"));
    }

    #[tokio::test]
    async fn what_the_file_says_holds_at_once_and_a_bad_file_changes_nothing() {
        let hash = bcrypt::hash("b", 4).unwrap();
        let users = format!("basic_auth_users: {{a: {hash}}}\n");
        let (_folder, path, guard) =
            guard("http_server_config: {headers: {X-Frame-Options: deny}}\n");
        let guard = guard.unwrap();
        let mut headers = HeaderMap::new();
        let response = answer(&guard, &headers).await;
        assert_eq!(response.headers().get("x-frame-options").unwrap(), "deny");
        assert_eq!(response.status(), 200);
        std::fs::write(&path, &users).unwrap();
        let response = answer(&guard, &headers).await;
        assert_eq!((response.status().as_u16(), response.headers().len()), (401, 2));
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Basic YTpi"));
        assert_eq!(answer(&guard, &headers).await.status(), 200);
        let series = &guard.watched.as_ref().unwrap().series;
        for (text, why) in [
            ("", "passwords would be given up"),
            ("basic_auth_users: {a: ", "half written"),
            ("basic_auth_user: {}", "an unknown key"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(answer(&guard, &HeaderMap::new()).await.status(), 401, "{why}");
            assert!(!series.snapshot().last_reload_good, "{why}");
        }
        std::fs::remove_file(&path).unwrap();
        assert_eq!(answer(&guard, &HeaderMap::new()).await.status(), 401);
        assert_eq!(answer(&guard, &headers).await.status(), 200);
        std::fs::write(&path, &users).unwrap();
        assert_eq!(answer(&guard, &headers).await.status(), 200);
        assert_eq!(series.snapshot().refused, [5, 0, 0]);
        assert!(series.snapshot().last_reload_good);
    }

    #[tokio::test]
    async fn the_rate_limit_holds_for_everybody() {
        let (_folder, _, guard) = guard("rate_limit: {interval: 1h, burst: 2}\n");
        let guard = guard.unwrap();
        let mut statuses = Vec::new();
        for _ in 0..3 {
            statuses.push(answer(&guard, &HeaderMap::new()).await.status().as_u16());
        }
        assert_eq!(statuses, [200, 200, 429]);
    }
}
