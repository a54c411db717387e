//! The file of `--web.config.file`, in the format of Prometheus' exporter-toolkit: YAML in, one
//! checked [`WebFile`] out, or one line with the place of the mistake and what to write instead.
//! Reads no other file: what certificates hold is found out by who loads them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;
use serde_saphyr::{Location, Spanned};

use super::nearest::nearest;
use super::yaml::{self, Mistake, Word, shown};
use super::{duration, limits};

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct WebFile {
    /// TLS, if it is wanted.
    pub tls: Option<TlsSection>,
    /// Names and values to put on every response.
    pub headers: Vec<(&'static str, String)>,
    /// Users and the bcrypt hashes of their passwords; everybody may come if there are none.
    pub users: BTreeMap<String, String>,
    /// How often somebody may ask, if that is limited.
    pub rate_limit: Option<RateLimit>,
}

/// How TLS is spoken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSection {
    /// Our certificate, then those that lead to its issuer.
    pub certificate: Pem,
    /// The key of our certificate.
    pub key: Pem,
    /// What clients show of themselves.
    pub client_auth: ClientAuth,
    /// Whose client certificates are trusted; present if they are verified.
    pub client_ca: Option<Pem>,
    /// One of these names must be in a client's certificate, if there are any.
    pub client_allowed_sans: Vec<String>,
    /// TLS 1.2 may be spoken.
    pub tls12: bool,
    /// TLS 1.3 may be spoken.
    pub tls13: bool,
    /// The cipher suites of TLS 1.2, best first; empty for those of the library.
    pub cipher_suites: Vec<&'static str>,
    /// The curves of the key exchange, best first; empty for those of the library.
    pub curves: Vec<&'static str>,
    /// The server's order of cipher suites decides, not the client's.
    pub prefer_own_order: bool,
    /// Suites and curves of the file that exporter-toolkit knows and we do not speak.
    pub left_out: Vec<String>,
}

/// Something in PEM format.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pem {
    /// Itself.
    Text(String),
    /// A file that holds it.
    File(PathBuf),
}

/// What clients show of themselves, as Go's `tls.ClientAuthType` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientAuth {
    /// Clients are not asked.
    NoClientCert,
    /// They are asked, and may show anything or nothing.
    RequestClientCert,
    /// They must show a certificate, by whomever it was issued.
    RequireAnyClientCert,
    /// They may show nothing; a certificate must be trusted.
    VerifyClientCertIfGiven,
    /// They must show a trusted certificate.
    RequireAndVerifyClientCert,
}

/// A token bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Time in which one more request becomes possible.
    pub interval: Duration,
    /// Requests that are possible at once after a pause.
    pub burst: u32,
}

/// Why the file is not good: place, mistake and remedy, in one line.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadWebFile(String);

impl From<Mistake> for BadWebFile {
    fn from(mistake: Mistake) -> Self {
        Self(mistake.to_string())
    }
}

/// Reads the file's text; paths in it are relative to `folder`.
pub fn parse(text: &str, folder: &Path) -> Result<WebFile, BadWebFile> {
    let raw: Option<RawFile> = yaml::parse(text, limits::WEB_FILE_NODES_MAX)?;
    let RawFile { tls_server_config, http_server_config, basic_auth_users, rate_limit } =
        raw.unwrap_or_default();
    let http = http_server_config.unwrap_or_default();
    // HTTP/2 may be allowed and is not spoken: nobody has to speak it.
    let _ = http.http2;
    Ok(WebFile {
        tls: tls_server_config.map(|tls| tls_section(tls, folder)).transpose()?.flatten(),
        headers: headers(http.headers.unwrap_or_default())?,
        users: users(basic_auth_users.unwrap_or_default())?,
        rate_limit: rate_limit.map(rate).transpose()?.flatten(),
    })
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    tls_server_config: Option<Spanned<RawTls>>,
    http_server_config: Option<RawHttp>,
    basic_auth_users: Option<BTreeMap<String, Word>>,
    rate_limit: Option<Spanned<RawRate>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawTls {
    cert: Option<Word>,
    key: Option<Word>,
    client_ca: Option<Word>,
    cert_file: Option<Word>,
    key_file: Option<Word>,
    client_auth_type: Option<Word>,
    client_ca_file: Option<Word>,
    client_allowed_sans: Option<Spanned<Vec<String>>>,
    min_version: Option<Word>,
    max_version: Option<Word>,
    cipher_suites: Option<Vec<Word>>,
    prefer_server_cipher_suites: Option<bool>,
    curve_preferences: Option<Vec<Word>>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawHttp {
    http2: Option<bool>,
    headers: Option<BTreeMap<String, Word>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRate {
    interval: Option<Word>,
    burst: Option<Spanned<u32>>,
}

fn tls_section(raw: Spanned<RawTls>, folder: &Path) -> Result<Option<TlsSection>, BadWebFile> {
    let place = raw.referenced;
    let raw = raw.value;
    let client_auth = client_auth(raw.client_auth_type.as_ref())?;
    let client_ca = pem("client_ca", raw.client_ca, raw.client_ca_file, folder)?;
    let certificate = pem("cert", raw.cert, raw.cert_file, folder)?;
    let key = pem("key", raw.key, raw.key_file, folder)?;
    let (certificate, key) = match (certificate, key) {
        (Some(certificate), Some(key)) => (certificate, key),
        // As in exporter-toolkit: what is left of a section says nothing without these.
        (None, None) if client_ca.is_none() && raw.client_auth_type.is_none() => return Ok(None),
        (None, _) => return Err(bad(place, "TLS has no certificate; write cert_file or cert")),
        (_, None) => return Err(bad(place, "TLS has no key; write key_file or key")),
    };
    let sans = raw.client_allowed_sans;
    let sans_place = sans.as_ref().map_or(place, |sans| sans.referenced);
    check_clients(client_auth, client_ca.is_some(), place, sans.is_some().then_some(sans_place))?;
    let mut left_out = Vec::new();
    let suites = raw.cipher_suites.unwrap_or_default();
    let curves = raw.curve_preferences.unwrap_or_default();
    let cipher_suites = choose("cipher suite", &suites, &SUITES, &OTHER_SUITES, &mut left_out)?;
    let own_curves = choose("curve", &curves, &CURVES, &OTHER_CURVES, &mut left_out)?;
    if own_curves.is_empty() && !curves.is_empty() {
        return Err(bad(curves[0].referenced, "no curve is left; write e.g. X25519"));
    }
    let oldest = version(raw.min_version.as_ref(), 12)?;
    let newest = version(raw.max_version.as_ref(), 13)?;
    let without_suites =
        !suites.is_empty() && cipher_suites.iter().all(|name| !name.contains("_WITH_"));
    let tls12 = oldest == 12 && !without_suites;
    if newest < 13 && !tls12 {
        let place = raw.max_version.map_or(place, |version| version.referenced);
        return Err(bad(place, "no version of TLS is left; write max_version: TLS13"));
    }
    Ok(Some(TlsSection {
        certificate,
        key,
        client_auth,
        client_ca,
        client_allowed_sans: sans.map_or_else(Vec::new, |sans| sans.value),
        tls12,
        tls13: newest == 13,
        cipher_suites,
        curves: own_curves,
        prefer_own_order: raw.prefer_server_cipher_suites.unwrap_or(true),
        left_out,
    }))
}

/// One of a text and a file; the file's name is the text's and `_file`.
fn pem(
    name: &str,
    text: Option<Word>,
    file: Option<Word>,
    folder: &Path,
) -> Result<Option<Pem>, BadWebFile> {
    let text = text.filter(|text| !text.value.is_empty());
    let file = file.filter(|file| !file.value.is_empty());
    match (text, file) {
        (Some(_), Some(file)) => {
            let why = format!("{name} and {name}_file are both there; leave one out");
            Err(bad(file.referenced, why))
        }
        (Some(text), None) => Ok(Some(Pem::Text(text.value))),
        (None, Some(file)) => Ok(Some(Pem::File(folder.join(file.value)))),
        (None, None) => Ok(None),
    }
}

fn client_auth(word: Option<&Word>) -> Result<ClientAuth, BadWebFile> {
    let Some(word) = word else { return Ok(ClientAuth::NoClientCert) };
    Ok(match word.value.as_str() {
        "" | "NoClientCert" => ClientAuth::NoClientCert,
        "RequestClientCert" => ClientAuth::RequestClientCert,
        // The older name of the same.
        "RequireAnyClientCert" | "RequireClientCert" => ClientAuth::RequireAnyClientCert,
        "VerifyClientCertIfGiven" => ClientAuth::VerifyClientCertIfGiven,
        "RequireAndVerifyClientCert" => ClientAuth::RequireAndVerifyClientCert,
        _ => return Err(unknown("client_auth_type", word, &CLIENT_AUTH_TYPES)),
    })
}

/// What is asked of clients must be possible, and nothing may be asked in vain.
fn check_clients(
    auth: ClientAuth,
    has_ca: bool,
    place: Location,
    sans: Option<Location>,
) -> Result<(), BadWebFile> {
    use ClientAuth as Auth;
    let verifies = matches!(auth, Auth::VerifyClientCertIfGiven | Auth::RequireAndVerifyClientCert);
    let required = matches!(auth, Auth::RequireAnyClientCert | Auth::RequireAndVerifyClientCert);
    if verifies && !has_ca {
        return Err(bad(place, "client certificates have no issuer; write client_ca_file"));
    }
    if has_ca && auth == Auth::NoClientCert {
        let why = "client_ca is of no use to NoClientCert; write client_auth_type: \
                   RequireAndVerifyClientCert";
        return Err(bad(place, why));
    }
    match sans {
        Some(place) if !required => Err(bad(
            place,
            "client_allowed_sans is of no use where a client need not show a certificate; write \
             client_auth_type: RequireAndVerifyClientCert",
        )),
        _ => Ok(()),
    }
}

fn version(word: Option<&Word>, default: u8) -> Result<u8, BadWebFile> {
    let Some(word) = word else { return Ok(default) };
    match word.value.as_str() {
        "TLS12" => Ok(12),
        "TLS13" => Ok(13),
        // RFC 8996.
        "TLS10" | "TLS11" => {
            Err(bad(word.referenced, format!("{} is not spoken any more; write TLS12", word.value)))
        }
        _ => Err(unknown("version of TLS", word, &["TLS12", "TLS13"])),
    }
}

/// The words that are in `ours`; those in `others` go to `left_out`.
fn choose(
    what: &str,
    words: &[Word],
    ours: &[&'static str],
    others: &[&str],
    left_out: &mut Vec<String>,
) -> Result<Vec<&'static str>, BadWebFile> {
    let mut chosen = Vec::with_capacity(words.len());
    for word in words {
        if let Some(name) = ours.iter().find(|name| **name == word.value) {
            chosen.push(*name);
        } else if others.contains(&word.value.as_str()) {
            left_out.push(word.value.clone());
        } else {
            return Err(unknown(what, word, ours));
        }
    }
    Ok(chosen)
}

/// exporter-toolkit allows these and no other, so that all exporters behave alike.
fn headers(raw: BTreeMap<String, Word>) -> Result<Vec<(&'static str, String)>, BadWebFile> {
    let mut headers = Vec::with_capacity(raw.len());
    for (name, word) in raw {
        let Some((name, values)) = HEADERS.iter().find(|(known, _)| *known == name) else {
            let names = HEADERS.map(|(name, _)| name);
            let instead = nearest(&name, &names).map_or_else(|| names.join(", "), str::to_owned);
            let why = format!("the header {} cannot be set; write {instead}", shown(&name));
            return Err(bad(word.referenced, why));
        };
        let place = word.referenced;
        if word.value.is_empty() {
            continue;
        }
        if !values.is_empty() && !values.contains(&word.value.as_str()) {
            return Err(unknown(name, &word, values));
        }
        if word.value.bytes().any(|byte| !(b' '..0x7f).contains(&byte)) {
            let why = format!("{name} has a character that no header can have; leave it out");
            return Err(bad(place, why));
        }
        headers.push((*name, word.value));
    }
    Ok(headers)
}

fn users(raw: BTreeMap<String, Word>) -> Result<BTreeMap<String, String>, BadWebFile> {
    let mut users = BTreeMap::new();
    for (name, word) in raw {
        let refuse = |why: String| Err(bad(word.referenced, why));
        // RFC 7617: the first colon ends the name.
        if name.contains(':') || name.is_empty() {
            return refuse(format!("no user can be called {}; write it without :", shown(&name)));
        }
        if users.len() == limits::WEB_USERS_MAX {
            return refuse(format!("there are more than {} users", limits::WEB_USERS_MAX));
        }
        // The hash itself is a secret.
        let Ok(parts) = bcrypt::HashParts::from_str(&word.value) else {
            let why = format!("the password of {} is no bcrypt hash; write the output of ", name);
            return refuse(why + "htpasswd -nBC 10 \"\" | tr -d ':\\n'");
        };
        if !(4..=limits::BCRYPT_COST_MAX).contains(&parts.get_cost()) {
            let (cost, most) = (parts.get_cost(), limits::BCRYPT_COST_MAX);
            return refuse(format!("a bcrypt cost of {cost} is not taken; use 4 to {most}"));
        }
        users.insert(name, word.value);
    }
    Ok(users)
}

fn rate(raw: Spanned<RawRate>) -> Result<Option<RateLimit>, BadWebFile> {
    let place = raw.referenced;
    let RawRate { interval, burst } = raw.value;
    let Some(interval) = interval else { return Ok(None) };
    // Go's YAML reads a bare number as ns.
    let ns = interval.value.parse().ok().map(Duration::from_nanos);
    let parsed = ns.map_or_else(|| duration::parse(&interval.value), Ok);
    let parsed = parsed.map_err(|error| {
        bad(interval.referenced, format!("interval {} {error}", shown(&interval.value)))
    })?;
    if parsed.is_zero() {
        return Ok(None);
    }
    if parsed > limits::RATE_INTERVAL_MAX {
        let most = duration::to_text(limits::RATE_INTERVAL_MAX);
        return Err(bad(interval.referenced, format!("interval must be at most {most}")));
    }
    match burst {
        Some(burst) if burst.value > 0 => {
            Ok(Some(RateLimit { interval: parsed, burst: burst.value }))
        }
        burst => {
            let place = burst.map_or(place, |burst| burst.referenced);
            Err(bad(place, "without a burst no request is ever possible; write burst: 10"))
        }
    }
}

fn unknown(what: &str, word: &Word, known: &[&str]) -> BadWebFile {
    yaml::unknown(what, word, known).into()
}

fn bad(place: Location, why: impl Into<String>) -> BadWebFile {
    Mistake::at(place, why).into()
}

const CLIENT_AUTH_TYPES: [&str; 5] = [
    "NoClientCert",
    "RequestClientCert",
    "RequireAnyClientCert",
    "VerifyClientCertIfGiven",
    "RequireAndVerifyClientCert",
];

/// What we speak, in Go's words. Those of TLS 1.3 are always on, as in Go.
const SUITES: [&str; 9] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "TLS_AES_128_GCM_SHA256",
    "TLS_AES_256_GCM_SHA384",
    "TLS_CHACHA20_POLY1305_SHA256",
];

/// Without forward secrecy or without authenticated encryption: rustls has none of them.
const OTHER_SUITES: [&str; 8] = [
    "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA",
    "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_CBC_SHA",
    "TLS_RSA_WITH_AES_256_CBC_SHA",
    "TLS_RSA_WITH_AES_128_GCM_SHA256",
    "TLS_RSA_WITH_AES_256_GCM_SHA384",
];

const CURVES: [&str; 3] = ["CurveP256", "CurveP384", "X25519"];
const OTHER_CURVES: [&str; 1] = ["CurveP521"];

/// Names, and the values that each may have if they are few.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    const HASH: &str = "$2y$10$X0h1gDsPszWURQaxFh.zoubFi6DXncSjhoQNJgRrnGs7EsimhC7zG";

    fn check(text: &str, complaint: &str) {
        match parse(text, Path::new("/etc/rttscope")) {
            Ok(_) => assert_eq!("", complaint, "is fine:\n{text}"),
            Err(BadWebFile(line)) => assert_eq!(line, complaint, "{text}"),
        }
    }

    #[test]
    fn a_whole_file_is_understood() {
        let text = format!(
            "tls_server_config:\n  cert_file: c.pem\n  key_file: /k.pem\n  \
             client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  \
             client_allowed_sans: [prometheus, 10.0.0.1]\n  min_version: TLS12\n  \
             max_version: TLS13\n  cipher_suites:\n  - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n  \
             - TLS_RSA_WITH_AES_128_CBC_SHA\n  prefer_server_cipher_suites: false\n  \
             curve_preferences: [CurveP521, X25519]\n\
             http_server_config:\n  http2: yes\n  headers:\n    X-Frame-Options: deny\n    \
             X-XSS-Protection: ''\n\
             basic_auth_users:\n  alice: {HASH}\nrate_limit: {{interval: 1s, burst: 5}}\n"
        );
        let file = parse(&text, Path::new("/etc/rttscope")).unwrap();
        let tls = TlsSection {
            certificate: Pem::File("/etc/rttscope/c.pem".into()),
            key: Pem::File("/k.pem".into()),
            client_auth: ClientAuth::RequireAndVerifyClientCert,
            client_ca: Some(Pem::File("/etc/rttscope/ca.pem".into())),
            client_allowed_sans: vec!["prometheus".into(), "10.0.0.1".into()],
            tls12: true,
            tls13: true,
            cipher_suites: vec!["TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256"],
            curves: vec!["X25519"],
            prefer_own_order: false,
            left_out: vec!["TLS_RSA_WITH_AES_128_CBC_SHA".into(), "CurveP521".into()],
        };
        assert_eq!(file.tls, Some(tls));
        assert_eq!(file.headers, [("X-Frame-Options", "deny".to_owned())]);
        assert_eq!(file.users, BTreeMap::from([("alice".to_owned(), HASH.to_owned())]));
        let rate = RateLimit { interval: Duration::from_secs(1), burst: 5 };
        assert_eq!(file.rate_limit, Some(rate));
    }

    #[test]
    fn what_says_nothing_is_nothing() {
        for text in [
            "",
            "# nothing\n",
            "{}",
            "tls_server_config:\nbasic_auth_users:\n",
            "tls_server_config: {cert_file: '', min_version: TLS13}",
            "rate_limit: {interval: 0, burst: 0}",
        ] {
            assert_eq!(parse(text, Path::new("")), Ok(WebFile::default()), "{text}");
        }
        let text = "rate_limit: {interval: 1000, burst: 1}";
        let rate = parse(text, Path::new("")).unwrap().rate_limit.unwrap();
        assert_eq!(rate.interval, Duration::from_micros(1));
    }

    #[test]
    fn slips_are_told_with_their_place() {
        check(
            "tls_server_config:\n  cert_fil: c.pem\n",
            "line 2, column 3: there is no key cert_fil; write cert_file",
        );
        check("rate_limits: {}", "line 1, column 1: there is no key rate_limits; write rate_limit");
        check(
            "tls_server_config: {cert: a, key: b, min_version: TLS11}",
            "line 1, column 51: TLS11 is not spoken any more; write TLS12",
        );
        check(
            "tls_server_config: {cert: a, key: b, cipher_suites: [TLS_AES_128_GCM_SHA25]}",
            "line 1, column 54: cipher suite: TLS_AES_128_GCM_SHA25 is unknown; \
             write TLS_AES_128_GCM_SHA256",
        );
        check(
            "tls_server_config: {cert: a, key: b, curve_preferences: [CurveP521]}",
            "line 1, column 58: no curve is left; write e.g. X25519",
        );
        check(
            "http_server_config:\n  headers:\n    X-Frame-Option: deny\n",
            "line 3, column 21: the header X-Frame-Option cannot be set; write X-Frame-Options",
        );
        check(
            "http_server_config: {headers: {X-Frame-Options: denied}}",
            "line 1, column 49: X-Frame-Options: denied is unknown; write deny, sameorigin",
        );
        check(
            "basic_auth_users:\n  alice: secret\n",
            "line 2, column 10: the password of alice is no bcrypt hash; write the output of \
             htpasswd -nBC 10 \"\" | tr -d ':\\n'",
        );
        check(
            &format!("basic_auth_users: {{alice: {}}}", HASH.replace("$10$", "$31$")),
            "line 1, column 27: a bcrypt cost of 31 is not taken; use 4 to 18",
        );
        check(
            "rate_limit: {interval: soon, burst: 1}",
            "line 1, column 24: interval soon is no duration; write e.g. 200ms",
        );
        check(
            "rate_limit: {interval: 1s}",
            "line 1, column 13: without a burst no request is ever possible; write burst: 10",
        );
    }

    #[test]
    fn clients_are_asked_for_what_can_be_checked() {
        let check_tls = |rest: &str, complaint: &str| {
            check(&format!("tls_server_config: {{cert: a, key: b, {rest}}}"), complaint);
        };
        for name in ["NoClientCert", "RequestClientCert", "RequireClientCert", "''"] {
            check_tls(&format!("client_auth_type: {name}"), "");
        }
        check_tls(
            "client_auth_type: RequireAndVerifyClientCert",
            "line 1, column 20: client certificates have no issuer; write client_ca_file",
        );
        check_tls(
            "client_ca: c",
            "line 1, column 20: client_ca is of no use to NoClientCert; write \
             client_auth_type: RequireAndVerifyClientCert",
        );
        check_tls(
            "client_auth_type: RequestClientCert, client_allowed_sans: [a]",
            "line 1, column 96: client_allowed_sans is of no use where a client need not show a \
             certificate; write client_auth_type: RequireAndVerifyClientCert",
        );
        check_tls(
            "client_auth_type: RequireAndVerify, client_ca: c",
            "line 1, column 56: client_auth_type: RequireAndVerify is unknown; write \
             NoClientCert, RequestClientCert, RequireAnyClientCert, VerifyClientCertIfGiven, \
             RequireAndVerifyClientCert",
        );
        check_tls(
            "cert_file: c",
            "line 1, column 49: cert and cert_file are both there; leave one out",
        );
    }

    #[test]
    fn nonsense_is_an_error_and_shows_no_secret() {
        for text in [
            "- a",
            "basic_auth_users: [alice]",
            "basic_auth_users: {alice: {a: hunter2}}",
            "tls_server_config: {key: [hunter2]}",
            "a: 1\na: 2\n",
            "basic_auth_users: {a: hunter2, a: hunter2}",
            "tls_server_config: {key: \"hunter2\n",
            "\u{0}",
            "a: &a [*a]",
        ] {
            let BadWebFile(line) = parse(text, Path::new("")).unwrap_err();
            assert!(!line.contains('\n') && !line.contains("hunter2"), "{line}");
            assert!(line.starts_with("line "), "{text}: {line}");
        }
    }
}
