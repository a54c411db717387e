//! Clients that mean harm to the HTTP server: slow headers, endless bodies, nonsense, a thousand
//! idle connections, half handshakes, guessed passwords. Meanwhile a prober probes: it must lose
//! nothing and go on as before, and what the clients took must come back.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::catalogue::{ProbeCounts, RECEIVED};
use crate::exposition::Exposition;
use crate::http;
use crate::https::Client;
use crate::run::Run;
use crate::site::Place;
use crate::turn::{self, Turn};
use crate::web_config::{Folder, TLS, basic};

#[test]
fn harm_by_http_leaves_the_probes_alone_and_the_memory_flat() {
    let _turn = turn::wait_for(Turn::Alone);
    raise_descriptor_limit();
    let both = both("");
    let address = both.http_address();
    let scrape = || both.scrape();
    undisturbed(scrape, || {
        // They hold every place, and give way.
        let idle = idle(address, CONNECTIONS);
        for (request, statuses) in nonsense() {
            let status = status(address, &request);
            let shown = String::from_utf8_lossy(&request[..request.len().min(80)]).into_owned();
            assert!(statuses.contains(&status.unwrap_or(0)), "{status:?} {shown}");
        }
        drop(idle);
        let slow = slow_headers(address);
        for head in [
            "POST /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000000\r\n\r\n",
            "GET /metrics HTTP/1.1\r\nHost: a\r\nContent-Length: 10000000000\r\n\r\n",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3000000\r\n",
        ] {
            let taken = endless_body(address, head);
            assert!(taken < BODY_BYTES, "{taken} bytes of a body were taken: {head}");
        }
        drop(slow);
    });
    let metrics = scrape();
    let refused = metrics.count("rttscope_http_connections_refused_total", &[]);
    assert!(refused >= 2 * 700, "{refused} connections were refused");
}

#[test]
fn harm_by_tls_and_guesses_leaves_the_probes_alone_and_the_memory_flat() {
    let _turn = turn::wait_for(Turn::Alone);
    raise_descriptor_limit();
    let files = Folder::new();
    let hash = bcrypt::hash("secret", 10).unwrap();
    let file = files.write("web.yml", &format!("{TLS}basic_auth_users: {{alice: {hash}}}\n"));
    let both = both(&format!("--web.config.file={}", file.display()));
    let address = both.http_address();
    let client = Client::new(&files.authority);
    let alice = basic("alice:secret");
    let scrape = || {
        let accept = "Accept: application/openmetrics-text; version=1.0.0\r\n";
        let (response, _) = client.fetch(address, "/metrics", &format!("{alice}{accept}")).unwrap();
        assert_eq!(response.status, 200);
        Exposition::parse(&response.body)
    };
    undisturbed(scrape, || {
        let half: Vec<TcpStream> = (0..100).map(|_| half_handshake(address)).collect();
        for garbage in garbage() {
            let mut stream = http::connect(address);
            // It may be closed while we write.
            let _ = stream.write_all(&garbage).and_then(|()| stream.shutdown(Shutdown::Write));
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer);
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "garbage was answered");
        }
        let guessing = AtomicBool::new(true);
        let statuses: Vec<u16> = thread::scope(|scope| {
            let guess = |number: usize| {
                let user = if number.is_multiple_of(2) { "alice" } else { "bob" };
                client.status(address, "/metrics", &basic(&format!("{user}:{number}")))
            };
            let guesses: Vec<_> = (0..GUESSERS)
                .map(|guesser| {
                    scope
                        .spawn(move || [guess(guesser), guess(guesser + 100), guess(guesser + 200)])
                })
                .collect();
            let known = scope.spawn(|| {
                let mut answers = 0;
                while guessing.load(Ordering::Relaxed) {
                    assert_eq!(client.status(address, "/-/healthy", &alice), 200);
                    answers += 1;
                }
                answers
            });
            let statuses = guesses.into_iter().flat_map(|it| it.join().unwrap()).collect();
            guessing.store(false, Ordering::Relaxed);
            assert!(known.join().unwrap() > 0, "who is known was not answered");
            statuses
        });
        let of = |status| statuses.iter().filter(|it| **it == status).count();
        assert_eq!(of(401) + of(503), 3 * GUESSERS, "{statuses:?}");
        assert!(of(401) > 0 && of(503) > 0, "{statuses:?}");
        drop(half);
    });
    let metrics = scrape();
    let refused =
        |reason| metrics.count("rttscope_http_requests_refused_total", &[("reason", reason)]);
    assert_eq!(refused("credentials") + refused("busy"), 2 * 3 * GUESSERS as u64);
    let failed = metrics.count("rttscope_http_handshakes_failed_total", &[]);
    assert!(failed >= 2 * 100, "{failed} handshakes failed");
}

/// A responder and a prober in one process, with an answer every 5 ms.
fn both(words: &str) -> Run {
    let words = format!(
        "both --listen=127.0.0.1:0 --web.listen-address=127.0.0.1:0 --interval=5ms {words}"
    );
    Run::start(&Place::Here, &words)
}

/// Does harm twice, to one of two programs that probe alike; `scrape` reads its metrics. The second
/// time must take no more memory than the first. Nothing may be lost and probing must go on at the
/// pace of the other program, which this machine's noise disturbs as well.
fn undisturbed(scrape: impl Fn() -> Exposition, harm: impl Fn()) {
    let control = both("");
    let counts = |exposition: &Exposition| ProbeCounts::reconciled(exposition, &[]);
    let probes = |exposition: &Exposition| {
        exposition.has(RECEIVED, &[]) && exposition.count(RECEIVED, &[]) >= 100
    };
    control.scrape_until("a hundred replies", probes);
    let mut before = scrape();
    while !probes(&before) {
        before = scrape();
    }
    let mut had = (counts(&before), counts(&control.scrape()));
    let resident = [(); 2].map(|()| {
        harm();
        let after = settled(&scrape, &before);
        let have = (counts(&after), counts(&control.scrape()));
        let lost = (have.0.timeouts, have.1.timeouts);
        assert!(lost.0 == 0 || lost.1 > 0, "{lost:?} probes were lost");
        let received = have.0.received - had.0.received;
        let expected = have.1.received - had.1.received;
        assert!(received * 2 > expected, "{received} replies, {expected} without harm");
        had = have;
        after.one("process_resident_memory_bytes", &[])
    });
    assert!(resident[1] < resident[0] * 1.2, "{resident:?} bytes after each time");
}

/// The metrics once every descriptor came back.
fn settled(scrape: &impl Fn() -> Exposition, before: &Exposition) -> Exposition {
    let open = |exposition: &Exposition| exposition.count("process_open_fds", &[]);
    let started = std::time::Instant::now();
    loop {
        let now = scrape();
        if open(&now) <= open(before) + 2 {
            return now;
        }
        assert!(started.elapsed() < 3 * crate::run::PATIENCE, "{} descriptors stay", open(&now));
        thread::yield_now();
    }
}

/// Connections that ask for nothing. Those beyond the limit are closed, which they do not notice.
fn idle(address: SocketAddr, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| http::connect(address)).collect()
}

fn slow_headers(address: SocketAddr) -> Vec<TcpStream> {
    let slow = |_| {
        let mut stream = http::connect(address);
        for part in [&b"GET /met"[..], b"rics HTTP/1.1\r\nHo", b"st: a\r\nX: "] {
            stream.write_all(part).unwrap();
        }
        stream
    };
    (0..100).map(slow).collect()
}

/// Requests and the statuses that may come; 0 stands for a connection that is just closed.
fn nonsense() -> Vec<(Vec<u8>, &'static [u16])> {
    let get = |path: &str, headers: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n").into_bytes()
    };
    let mut accept = get("/metrics", "Accept: ??\r\n");
    accept.iter_mut().filter(|byte| **byte == b'?').for_each(|byte| *byte = 0xff);
    vec![
        (accept, &[200]),
        (get("/metrics", "Accept: */*;q=nan,,;;q=1e999, text/\r\n"), &[200, 406]),
        (get("/metrics", &format!("Accept: {}\r\n", ",".repeat(8_000))), &[200, 406]),
        (get("/../../../../etc/passwd", ""), &[400, 404]),
        (get("/%2e%2e/%2e%2e/etc/passwd", ""), &[400, 404]),
        (get("/..%2f..%2fetc%2fpasswd", ""), &[400, 404]),
        (get("/metrics/../../etc/passwd", ""), &[400, 404]),
        (get("//etc/passwd", ""), &[400, 404]),
        (get("http://elsewhere/metrics", ""), &[200, 400, 404]),
        (get("/metrics\0", ""), &[0, 400]),
        (get("/", &format!("X: {}\r\n", "a".repeat(100_000))), &[0, 400, 431]),
        (get("/", &"X: a\r\n".repeat(500)), &[0, 400, 431]),
        (get("/", "Content-Length: 5\r\nContent-Length: 6\r\n"), &[0, 400]),
        (get("/", "Content-Length: -1\r\n"), &[0, 400]),
        (get("/", "Expect: 100-continue\r\nContent-Length: 9999999\r\n"), &[200]),
        (b"BREW / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".to_vec(), &[405]),
        (b"GET / HTTP/9.9\r\n\r\n".to_vec(), &[0, 400, 505]),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec(), &[0, 400]),
        (vec![b'A'; 200_000], &[0, 400, 414, 431]),
        (b"\r\n\r\n\r\n\r\n".to_vec(), &[0, 400]),
        (Vec::new(), &[0]),
    ]
}

/// What comes back, if anything does.
fn status(address: SocketAddr, request: &[u8]) -> Option<u16> {
    let mut stream = http::connect(address);
    let _ = stream.write_all(request);
    // Half a request would be waited for; a whole one of somebody who has left is not answered.
    if !request.ends_with(b"\r\n\r\n") || request.starts_with(b"\r\n") {
        let _ = stream.shutdown(Shutdown::Write);
    }
    let mut answer = Vec::new();
    // A reset after the answer takes nothing back.
    let _ = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer);
    assert!(!answer.contains("root:"), "a file of this machine");
    answer.strip_prefix("HTTP/1.")?.split(' ').nth(1)?.parse().ok()
}

/// Bytes of a body that somebody took of us, up to [`BODY_BYTES`].
fn endless_body(address: SocketAddr, head: &str) -> usize {
    let mut stream = http::connect(address);
    stream.write_all(head.as_bytes()).unwrap();
    let part = [b'a'; 64 * 1_024];
    let mut taken = 0;
    while taken < BODY_BYTES && stream.write_all(&part).is_ok() {
        taken += part.len();
    }
    taken
}

/// Begins like a handshake, and stops.
fn half_handshake(address: SocketAddr) -> TcpStream {
    let mut stream = http::connect(address);
    stream.write_all(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03").unwrap();
    stream
}

/// What is no handshake, or one that nobody can finish.
fn garbage() -> Vec<Vec<u8>> {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()[3]
    };
    let mut all = vec![
        b"GET /metrics HTTP/1.1\r\n\r\n".to_vec(),
        b"\x16\x03\x01\x00\x00".to_vec(),
        b"\x16\x03\x01\xff\xff".to_vec(),
        b"\x15\x03\x01\x00\x02\x02\x28".to_vec(),
        b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00".to_vec(),
        vec![0; 100_000],
    ];
    for length in [1, 7, 64, 500, 5_000, 50_000] {
        let mut bytes: Vec<u8> = (0..length).map(|_| next()).collect();
        all.push(bytes.clone());
        bytes.splice(0..0, *b"\x16\x03\x03\x40\x00");
        all.push(bytes);
    }
    all
}

/// A thousand connections need as many descriptors here.
fn raise_descriptor_limit() {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    setrlimit(Resource::Nofile, raised).unwrap();
}

const CONNECTIONS: usize = 1_000;
const GUESSERS: usize = 24;
/// More than any socket's buffers hold.
const BODY_BYTES: usize = 64 * 1_024 * 1_024;
