//! URLs against servers of the test, whose every byte is written down.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

#[path = "../../../tests/it/certificates.rs"]
#[expect(dead_code, reason = "the integration tests need more of it")]
#[expect(clippy::duplicate_mod, reason = "the server's tests are another private module")]
mod certificates;

/// Answers each connection with the next text, and gives back the questions.
async fn serve(answers: Vec<Vec<u8>>) -> (String, tokio::task::JoinHandle<Vec<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let mut questions = Vec::new();
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut question = Vec::new();
            while !question.ends_with(b"\r\n\r\n") {
                question.push(stream.read_u8().await.unwrap());
            }
            questions.push(String::from_utf8(question).unwrap());
            // Who has heard enough hangs up.
            drop(stream.write_all(&answer).await);
        }
        questions
    });
    (url, server)
}

fn settings(url: &str) -> HttpSd {
    let headers = BTreeMap::from([("X-Token".to_owned(), Secret("hunter2".to_owned()))]);
    HttpSd {
        url: url.to_owned().try_into().unwrap(),
        refresh_interval: Duration::from_secs(30),
        timeout: Duration::from_secs(20),
        headers,
        tls_config: TlsTrust::default(),
    }
}

fn json(body: &str) -> Vec<u8> {
    let length = body.len();
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
    .into_bytes()
}

#[tokio::test]
async fn groups_become_targets() {
    let body = r#"[{"targets": ["a:1", "b:2"], "labels": {"zone": "z"}}]"#;
    let (url, server) = serve(vec![json(body)]).await;
    let url = format!("{url}/sd?zone=z");
    let answer = ask(&settings(&url)).await;
    assert_eq!(answer.error, None);
    let targets = answer.targets.unwrap();
    assert_eq!((targets.len(), &*targets[1]["__address__"]), (2, "b:2"));
    assert_eq!((&targets[0]["__meta_url"], &*targets[0]["zone"]), (&url, "z"));
    let question = &server.await.unwrap()[0];
    assert!(question.starts_with("GET /sd?zone=z HTTP/1.1\r\n"), "{question}");
    for header in ["x-token: hunter2", "x-prometheus-refresh-interval-seconds: 30"] {
        assert!(question.to_lowercase().contains(header), "{question}");
    }
}

#[tokio::test]
async fn redirects_are_followed_and_passwords_do_not_leave_their_host() {
    let (other, elsewhere) = serve(vec![json("[]")]).await;
    let to = |place: &str| {
        format!("HTTP/1.1 302 Found\r\nLocation: {place}\r\nContent-Length: 0\r\n\r\n").into_bytes()
    };
    let (url, server) = serve(vec![to("/there"), to(&other)]).await;
    let answer = ask(&settings(&url)).await;
    assert_eq!((answer.error, answer.targets), (None, Some(Vec::new())));
    let questions = server.await.unwrap();
    assert!(questions[1].starts_with("GET /there ") && questions[1].contains("hunter2"));
    assert!(!elsewhere.await.unwrap()[0].contains("hunter2"));

    let (url, _server) = serve(vec![to("/again"); 7]).await;
    let error = ask(&settings(&url)).await.error.unwrap();
    assert_eq!(error, "redirected more than 5 times");
    for place in ["ftp://a/", "relative", "http://"] {
        let (url, _server) = serve(vec![to(place)]).await;
        let error = ask(&settings(&url)).await.error.unwrap();
        assert_eq!(error, format!("redirected to {place:?}"));
    }
}

#[tokio::test]
async fn a_bad_answer_is_one_error() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n";
    let chunked = format!("{head}Transfer-Encoding: chunked\r\n\r\n5\r\n[{{\"ta");
    let long_head = format!("{head}X: {}\r\n\r\n", "x".repeat(200_000));
    let many = format!("[{{\"targets\": [{}\"\"]}}]", "\"\",".repeat(100_000));
    for (answer, complaint) in [
        (b"HTTP/1.1 500 Oh no\r\nContent-Length: 0\r\n\r\n".to_vec(), "answered 500"),
        (b"HTTP/1.1 204 None\r\n\r\n".to_vec(), "answered 204"),
        (b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n[]".to_vec(), "\"text/html\""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n[]".to_vec(), "Content-Type \"\""),
        (format!("{head}Content-Length: 9\r\n\r\n[]").into_bytes(), "ended early"),
        (chunked.into_bytes(), "ended early"),
        (long_head.into_bytes(), "no good answer"),
        (b"SSH-2.0-x\r\n".to_vec(), "no good answer"),
        (Vec::new(), "no good answer"),
        (json("[{\"targets\": [\"a:1\""), "EOF"),
        (json("[{\"targets\": [\"a:1\"], \"x\u{1b}\": 1}]"), "control character"),
        (json("{}"), "expected"),
        (json(&many), "100001 targets"),
        (json(&"[".repeat(100_000)), "expected a string"),
    ] {
        let (url, _server) = serve(vec![answer]).await;
        let answer = ask(&settings(&url)).await;
        let error = answer.error.unwrap();
        assert!(error.contains(complaint), "{complaint}: {error}");
        assert!(!error.contains(char::is_control) && !error.contains("hunter2"), "{error}");
        assert!(answer.targets.is_none());
    }
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = ask(&settings(&format!("http://{gone}/"))).await.error.unwrap();
    assert!(error.contains("cannot connect to 127.0.0.1"), "{error}");
}

#[tokio::test]
async fn https_trusts_whom_the_file_names_and_nobody_else() {
    let authority = certificates::Authority::new("ours");
    let identity = authority.issue(&["localhost"]);
    let server =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls_graviola::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![identity.certificate.clone()], identity.key.clone_key())
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(server));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut question = Vec::new();
            while !question.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { break };
                question.push(byte);
            }
            drop(stream.write_all(&json(r#"[{"targets": ["a:1"]}]"#)).await);
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("ca.pem");
    let mut settings = settings(&format!("https://localhost:{port}/"));
    settings.tls_config.ca_file = Some(path.clone());
    assert!(ask(&settings).await.error.unwrap().contains("ca.pem"));
    for (text, complaint) in [
        (authority.pem.clone(), None),
        (certificates::Authority::new("another").pem, Some("TLS with localhost")),
        ("nonsense".to_owned(), Some("no authority is trusted")),
    ] {
        fs::write(&path, text).unwrap();
        let answer = ask(&settings).await;
        match (answer.error, complaint) {
            (None, None) => assert_eq!(answer.targets.unwrap()[0]["__address__"], "a:1"),
            (Some(error), Some(complaint)) => assert!(error.contains(complaint), "{error}"),
            (error, _) => panic!("{error:?}"),
        }
    }
    fs::write(&path, &authority.pem).unwrap();
    settings.url = format!("https://127.0.0.1:{port}/").try_into().unwrap();
    assert!(ask(&settings).await.error.unwrap().contains("TLS with 127.0.0.1"));
    server.abort();
}

#[tokio::test]
async fn an_endless_answer_ends_at_the_limit_of_bytes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    let server = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        let spaces = vec![b' '; 1024 * 1024];
        let mut megabytes = 0_u32;
        while stream.write_all(&spaces).await.is_ok() {
            megabytes += 1;
        }
        megabytes
    });
    let error = ask(&settings(&url)).await.error.unwrap();
    assert!(error.contains("larger than 67108864 bytes"), "{error}");
    // It was hung up on soon after: what is more is in the sockets' buffers.
    assert!(server.await.unwrap() < 128);
}

#[tokio::test]
async fn silence_and_dripping_end_by_the_timeout() {
    for drips in [false, true] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/", listener.local_addr().unwrap());
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n";
            let mut drops = head.iter().copied().chain(std::iter::repeat(b' '));
            loop {
                tokio::time::sleep(Duration::from_millis(2)).await;
                let byte = drops.next().unwrap();
                if drips && stream.write_all(&[byte]).await.is_err() {
                    return;
                }
            }
        });
        let mut settings = settings(&url);
        settings.timeout = Duration::from_millis(300);
        let error = ask(&settings).await.error.unwrap();
        assert_eq!(error, "no answer in 300ms");
        server.abort();
    }
}
