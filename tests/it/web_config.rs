//! TLS, passwords and listeners of the HTTP server, by a client that is not ours, and judged by
//! Prometheus' own linter of such files.

use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::{CipherSuite, ProtocolVersion, version};

use crate::certificates::{Authority, Identity};
use crate::exposition::Exposition;
use crate::https::Client;
use crate::run::Run;
use crate::site::{Place, report_skip};
use crate::turn::{self, Turn};
use crate::{http, kernel};

/// A folder with the files of a server.
pub(crate) struct Folder {
    folder: tempfile::TempDir,
    pub(crate) authority: Authority,
}

impl Folder {
    /// A certificate for localhost and its authority, as files.
    pub(crate) fn new() -> Self {
        let files =
            Self { folder: tempfile::tempdir().unwrap(), authority: Authority::new("ours") };
        files.install(&files.authority.issue(&["localhost"]));
        files.write("ca.pem", &files.authority.pem);
        files
    }

    /// Makes this the server's certificate.
    pub(crate) fn install(&self, identity: &Identity) {
        self.write("key.pem", &identity.key_pem);
        self.write("cert.pem", &identity.certificate_pem);
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, text).unwrap();
        path
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A responder whose file has this text.
    fn serve(&self, text: &str) -> Run {
        let file = self.write("web.yml", text);
        let words = format!(
            "serve --listen=127.0.0.1:0 --web.listen-address=127.0.0.1:0 --web.config.file={}",
            file.display()
        );
        Run::start(&Place::Here, &words)
    }

    fn client(&self) -> Client {
        Client::new(&self.authority)
    }
}

/// The header of user and password.
pub(crate) fn basic(pair: &str) -> String {
    format!("Authorization: Basic {}\r\n", BASE64_STANDARD.encode(pair))
}

/// A section of users with one of them.
pub(crate) fn users(user: &str, password: &str) -> String {
    format!("basic_auth_users:\n  {user}: {}\n", bcrypt::hash(password, 5).unwrap())
}

pub(crate) const TLS: &str = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";

#[test]
fn tls_and_passwords_guard_every_page() {
    let _turn = turn::wait_for(Turn::Shared);
    let files = Folder::new();
    let headers = "http_server_config: {headers: {X-Content-Type-Options: nosniff}}\n";
    let serve = files.serve(&format!("{TLS}{}{headers}", users("alice", "secret")));
    let (address, client) = (serve.http_address(), files.client());
    assert!(serve.wait_for_stderr("http listening").contains("https"));
    for path in ["/", "/metrics", "/-/healthy", "/-/ready", "/nothing"] {
        let (response, _) = client.fetch(address, path, "").unwrap();
        assert_eq!(response.status, 401, "{path}");
        assert!(response.header("www-authenticate").unwrap().starts_with("Basic"), "{path}");
        assert_eq!(response.header("x-content-type-options"), Some("nosniff"), "{path}");
    }
    for wrong in ["alice:wrong", "alice:", "bob:secret", ":"] {
        assert_eq!(client.status(address, "/metrics", &basic(wrong)), 401, "{wrong}");
    }
    assert_eq!(client.status(address, "/nothing", &basic("alice:secret")), 404);
    // Who speaks plain HTTP is told so, and gets nothing.
    let plain = http::fetch(address, "/metrics");
    assert_eq!(plain.status, 400);
    assert!(plain.body.contains("https://"), "{}", plain.body);
    // Somebody who does not trust the authority leaves.
    let stranger = Client::new(&Authority::new("theirs"));
    assert!(stranger.fetch(address, "/metrics", "").is_err());
    let metrics = metrics(&client, address, &basic("alice:secret"));
    let refused = metrics.count(REFUSED, &[("reason", "credentials")]);
    assert_eq!((refused, metrics.count(HANDSHAKES_FAILED, &[])), (9, 2));
}

#[test]
fn clients_show_the_certificate_that_is_asked_for() {
    let _turn = turn::wait_for(Turn::Shared);
    let files = Folder::new();
    let theirs = Authority::new("theirs");
    let clients = [
        files.client(),
        Client::showing(&files.authority, &theirs.issue(&["prometheus"])),
        Client::showing(&files.authority, &files.authority.issue(&["grafana", "10.0.0.7"])),
        Client::showing(&files.authority, &files.authority.issue(&["prometheus"])),
    ];
    let ca = "client_ca_file: ca.pem";
    // Nothing, of an unknown authority, of ours, of ours with the name.
    for (section, expected) in [
        ("client_auth_type: NoClientCert".to_owned(), [true, true, true, true]),
        ("client_auth_type: RequestClientCert".to_owned(), [true, true, true, true]),
        ("client_auth_type: RequireAnyClientCert".to_owned(), [false, true, true, true]),
        (format!("client_auth_type: VerifyClientCertIfGiven, {ca}"), [true, false, true, true]),
        (format!("client_auth_type: RequireAndVerifyClientCert, {ca}"), [false, false, true, true]),
        (
            format!(
                "client_auth_type: RequireAndVerifyClientCert, {ca}, \
                 client_allowed_sans: [prometheus]"
            ),
            [false, false, false, true],
        ),
        (
            "client_auth_type: RequireAnyClientCert, client_allowed_sans: [10.0.0.7]".to_owned(),
            [false, false, true, false],
        ),
    ] {
        let serve = files.serve(&format!(
            "tls_server_config: {{cert_file: cert.pem, key_file: key.pem, {section}}}"
        ));
        let address = serve.http_address();
        let answered = clients.clone().map(|client| client.fetch(address, "/", "").is_ok());
        assert_eq!(answered, expected, "{section}");
    }
}

#[test]
fn versions_and_suites_are_those_of_the_file() {
    let _turn = turn::wait_for(Turn::Shared);
    let files = Folder::new();
    let newer = Client::speaking(&files.authority, &[&version::TLS13]);
    let older = Client::speaking(&files.authority, &[&version::TLS12]);
    let both = files.client();
    let suite = "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256";
    for (section, expected) in [
        ("min_version: TLS12".to_owned(), [true, true]),
        ("min_version: TLS13".to_owned(), [true, false]),
        ("max_version: TLS12".to_owned(), [false, true]),
        (format!("max_version: TLS12\n  cipher_suites: [{suite}]"), [false, true]),
        ("cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]".to_owned(), [true, false]),
        ("curve_preferences: [CurveP384]".to_owned(), [true, true]),
    ] {
        let serve = files.serve(&format!("{TLS}  {section}\n"));
        let address = serve.http_address();
        let answered = [&newer, &older].map(|client| client.fetch(address, "/", "").is_ok());
        assert_eq!(answered, expected, "{section}");
        let (_, agreed) = both.fetch(address, "/", "").unwrap();
        let best = if expected[0] { ProtocolVersion::TLSv1_3 } else { ProtocolVersion::TLSv1_2 };
        assert_eq!(agreed.version, best, "{section}");
        if section.contains(suite) {
            let only = CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256;
            assert_eq!(agreed.suite, only);
        }
    }
}

#[test]
fn a_renewed_certificate_is_used_at_once_and_a_bad_file_never() {
    let _turn = turn::wait_for(Turn::Shared);
    let files = Folder::new();
    let whole = format!("{TLS}{}", users("alice", "secret"));
    let serve = files.serve(&whole);
    let (address, client, alice) = (serve.http_address(), files.client(), basic("alice:secret"));
    let shown = || {
        let (response, agreed) = client.fetch(address, "/-/healthy", &alice).unwrap();
        assert_eq!(response.status, 200);
        agreed.certificate
    };
    let good = || metrics(&client, address, &alice).count(RELOADED, &[]);
    let first = shown();
    assert_eq!(good(), 1);
    let renewed = files.authority.issue(&["localhost"]);
    files.install(&renewed);
    assert_eq!(shown(), renewed.certificate);
    assert_ne!(first, renewed.certificate);
    // A key that is not the certificate's, no key, no file, half a file, nobody's permission.
    for (name, text) in [
        ("key.pem", files.authority.issue(&["localhost"]).key_pem.as_str()),
        ("key.pem", ""),
        ("web.yml", TLS),
        ("web.yml", ""),
        ("web.yml", "tls_server_config:\n  cert_fil: cert.pem\n"),
    ] {
        files.write(name, text);
        assert_eq!(shown(), renewed.certificate, "{name}: {text}");
        assert_eq!(good(), 0, "{name}: {text}");
        assert_eq!(client.status(address, "/", ""), 401, "{name}: {text}");
        files.install(&renewed);
        files.write("web.yml", &whole);
        assert_eq!(good(), 1);
    }
    std::fs::remove_file(files.path("web.yml")).unwrap();
    assert_eq!(client.status(address, "/", ""), 401);
    serve.wait_for_stderr("cannot be read");
    let kept: Vec<String> = serve.stderr();
    let kept = kept.iter().filter(|line| line.contains("last good web configuration")).count();
    // Once for each state of the files, not for each request. A file is truncated first, which
    // may be seen too.
    assert!((6..=12).contains(&kept), "{kept} complaints");
    // Another password counts at once; the old one never again.
    files.write("web.yml", &format!("{TLS}{}", users("alice", "other")));
    assert_eq!(client.status(address, "/", &alice), 401);
    assert_eq!(client.status(address, "/", &basic("alice:other")), 200);
}

#[test]
fn each_address_answers_and_the_first_is_told() {
    let _turn = turn::wait_for(Turn::Shared);
    let files = Folder::new();
    let file = files.write("web.yml", TLS);
    let words = format!(
        "both --listen=127.0.0.1:0 --web.listen-address=127.0.0.1:0 \
         --web.listen-address=127.0.0.1:0 --web.config.file={}",
        file.display()
    );
    let both = Run::start(&Place::Here, &words);
    let first = both.http_address();
    both.wait_for_stderr("responder listening");
    let lines = both.stderr();
    let lines: Vec<_> = lines.iter().filter(|line| line.contains("http listening")).collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    let second = lines[1].split_whitespace().find_map(|word| word.strip_prefix("address="));
    let second: SocketAddr = second.unwrap().parse().unwrap();
    assert_ne!(first, second);
    for address in [first, second] {
        assert_eq!(files.client().status(address, "/metrics", ""), 200);
    }
    let told = both.wait_for_stdout(1).join("\n");
    assert!(told.contains(&format!("https://{first}/metrics")), "{told}");
}

/// A shell knows its own number, which is that of the program it becomes.
fn start_with_socket(fd: impl Into<OwnedFd>, environment: &str) -> Run {
    let mut command = Command::new("sh");
    let line = format!("{environment} exec \"$0\" serve --listen=127.0.0.1:0 --web.systemd-socket");
    command.args(["-c", &line, env!("CARGO_BIN_EXE_rttscope")]).env("NO_COLOR", "1");
    kernel::pass_as_first(&mut command, fd.into());
    Run::spawn(&Place::Here, command, line)
}

#[test]
fn a_socket_of_systemd_is_served() {
    let _turn = turn::wait_for(Turn::Shared);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let serve = start_with_socket(listener, "LISTEN_FDS=1 LISTEN_PID=$$");
    assert_eq!(serve.http_address(), address);
    assert_eq!(http::fetch(address, "/metrics").status, 200);
}

#[test]
fn a_socket_that_is_not_ours_to_serve_is_refused() {
    let _turn = turn::wait_for(Turn::Shared);
    let listener = || OwnedFd::from(TcpListener::bind("127.0.0.1:0").unwrap());
    let bound = || {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None);
        let socket = socket.unwrap();
        socket.bind(&any.into()).unwrap();
        OwnedFd::from(socket)
    };
    let datagrams = || OwnedFd::from(UdpSocket::bind("127.0.0.1:0").unwrap());
    for (fd, environment, part) in [
        (listener(), "LISTEN_FDS=1 LISTEN_PID=1", "no socket was passed"),
        (listener(), "LISTEN_PID=$$", "no socket was passed"),
        (datagrams(), "LISTEN_FDS=1 LISTEN_PID=$$", "--web.systemd-socket"),
        (bound(), "LISTEN_FDS=1 LISTEN_PID=$$", "does not listen"),
    ] {
        let ending = start_with_socket(fd, environment).wait();
        assert_eq!(ending.code, Some(3), "{environment}: {ending:?}");
        assert!(ending.stderr.last().unwrap().contains(part), "{ending:?}");
    }
}

/// Files, and what we say of them; nothing if we take them.
fn judged() -> [(String, &'static str); 12] {
    let bad = |text: &str| format!("tls_server_config: {{{text}}}\n");
    [
        (TLS.to_owned(), ""),
        (users("alice", "secret"), ""),
        (format!("{TLS}{}", users("alice", "secret")), ""),
        (
            format!(
                "{TLS}  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  \
                 min_version: TLS12\n  max_version: TLS13\n  \
                 prefer_server_cipher_suites: true\n  \
                 cipher_suites: [TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256]\n  \
                 curve_preferences: [X25519, CurveP256, CurveP521]\n\
                 http_server_config:\n  http2: false\n  headers:\n    X-Frame-Options: deny\n"
            ),
            "",
        ),
        (bad("cert_fil: cert.pem"), "line 1, column 21: there is no key cert_fil"),
        (bad("cert_file: cert.pem"), "TLS has no key"),
        (bad("cert_file: cert.pem, key_file: nothing.pem"), "key_file"),
        (bad("cert_file: cert.pem, key_file: ca.pem"), "key: "),
        (bad("cert_file: cert.pem, key_file: key.pem, min_version: TLS9"), "version of TLS"),
        (
            bad("cert_file: cert.pem, key_file: key.pem, client_ca_file: ca.pem"),
            "client_ca is of no use",
        ),
        ("http_server_config: {headers: {X-Powered-By: us}}\n".to_owned(), "X-Powered-By"),
        ("basic_auth_users: {alice: secret}\n".to_owned(), "no bcrypt hash"),
    ]
}

#[test]
fn a_bad_file_is_one_line_and_nothing_starts() {
    let _turn = turn::wait_for(Turn::Shared);
    let files = Folder::new();
    for (text, part) in judged() {
        let mut serve = files.serve(&text);
        if part.is_empty() {
            serve.http_address();
            continue;
        }
        let ending = serve.wait();
        assert_eq!((ending.code, ending.stderr.len()), (Some(2), 1), "{text}: {ending:?}");
        let line = &ending.stderr[0];
        assert!(line.starts_with("rttscope: --web.config.file /"), "{line}");
        assert!(line.contains(part) && !line.contains("secret"), "{text}: {line}");
    }
}

#[test]
fn the_linter_judges_the_files_as_we_do() {
    let _turn = turn::wait_for(Turn::Shared);
    let files = Folder::new();
    for (text, part) in judged() {
        let file = files.write("web.yml", &text);
        let Some(accepted) = linted(&file) else {
            return report_skip("web_config::linter", "no `promtool` on the search path");
        };
        assert_eq!(accepted, part.is_empty(), "{text}");
    }
}

fn linted(file: &Path) -> Option<bool> {
    let output = Command::new("promtool").args(["check", "web-config"]).arg(file).output();
    Some(output.ok()?.status.success())
}

/// The metrics by TLS.
fn metrics(client: &Client, address: SocketAddr, headers: &str) -> Exposition {
    let headers = format!("{headers}Accept: application/openmetrics-text; version=1.0.0\r\n");
    let (response, _) = client.fetch(address, "/metrics", &headers).unwrap();
    assert_eq!(response.status, 200, "{}", response.body);
    Exposition::parse(&response.body)
}

const REFUSED: &str = "rttscope_http_requests_refused_total";
const HANDSHAKES_FAILED: &str = "rttscope_http_handshakes_failed_total";
const RELOADED: &str = "rttscope_web_config_last_reload_successful";
