//! A name server for one namespace: it takes the place of the one in `/etc/resolv.conf`, and
//! answers for one name with addresses that a test changes while the prober runs (RFC 1035).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::lab::Namespace;

/// A running name server.
#[derive(Debug)]
pub(crate) struct NameServer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    silent: AtomicBool,
    questions: AtomicUsize,
    /// `None` answers that there is no such name.
    address: Mutex<Option<Ipv4Addr>>,
}

/// The only name that the server knows.
pub(crate) const NAME: &str = "moving.rttscope.test";

impl NameServer {
    /// Starts inside the namespace; an error if this machine's resolver asks nobody.
    pub(crate) fn start(namespace: &Namespace) -> Result<Self, String> {
        let nameserver = configured_nameserver()?;
        if !nameserver.is_loopback() {
            let prefix = if nameserver.is_ipv6() { 128 } else { 32 };
            let words = format!("address add {nameserver}/{prefix} dev lo");
            namespace.ip(&words).map_err(|error| error.to_string())?;
        }
        let address = SocketAddr::new(nameserver, 53);
        let socket = namespace.run(|| UdpSocket::bind(address)).map_err(|e| e.to_string())?;
        socket.set_read_timeout(Some(Duration::from_millis(20))).map_err(|e| e.to_string())?;
        let shared = Arc::new(Shared::default());
        let answering = Arc::clone(&shared);
        let thread = thread::spawn(move || answer_until_stopped(&socket, &answering));
        Ok(Self { shared, thread: Some(thread) })
    }

    /// From now on the name has this address, or none.
    pub(crate) fn set(&self, address: Option<Ipv4Addr>) {
        *self.shared.address.lock().unwrap() = address;
    }

    /// From now on nothing is answered.
    pub(crate) fn fall_silent(&self) {
        self.shared.silent.store(true, Ordering::Release);
    }

    /// How many questions it was asked.
    pub(crate) fn questions(&self) -> usize {
        self.shared.questions.load(Ordering::Acquire)
    }
}

impl Drop for NameServer {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn configured_nameserver() -> Result<IpAddr, String> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let order = std::fs::read_to_string("/etc/nsswitch.conf").unwrap_or_default();
    let hosts = order.lines().find(|line| line.starts_with("hosts:"));
    if hosts.is_some_and(|line| !line.split_whitespace().any(|word| word == "dns")) {
        return Err("the resolver does not ask DNS".to_owned());
    }
    let mut servers = text.lines().filter_map(|line| line.strip_prefix("nameserver "));
    // Without a nameserver the resolver asks this host (resolv.conf(5)).
    servers
        .next()
        .unwrap_or("127.0.0.1")
        .trim()
        .parse()
        .map_err(|_| "a nameserver with a zone".to_owned())
}

fn answer_until_stopped(socket: &UdpSocket, shared: &Shared) {
    let mut buffer = [0; 512];
    while !shared.stop.load(Ordering::Acquire) {
        let Ok((length, client)) = socket.recv_from(&mut buffer) else { continue };
        shared.questions.fetch_add(1, Ordering::AcqRel);
        if shared.silent.load(Ordering::Acquire) {
            continue;
        }
        let address = *shared.address.lock().unwrap();
        if let Some(answer) = answer(&buffer[..length], address) {
            socket.send_to(&answer, client).unwrap();
        }
    }
}

/// The answer to a query with one question.
fn answer(query: &[u8], address: Option<Ipv4Addr>) -> Option<Vec<u8>> {
    let question = query.get(HEADER_BYTES..)?;
    let name_bytes = question.iter().position(|&byte| byte == 0)? + 1;
    let question = question.get(..name_bytes + 4)?;
    let known = name_bytes == NAME.len() + 2 && readable(question).eq_ignore_ascii_case(NAME);
    let kind = u16::from_be_bytes([question[name_bytes], question[name_bytes + 1]]);
    let found = address.filter(|_| known);
    // Response, recursion available; no error or "no such name".
    let code = if found.is_some() { 0x8180_u16 } else { 0x8183 };
    let record = found.filter(|_| kind == KIND_A);
    let mut answer = query.get(..2)?.to_vec();
    for word in [code, 1, u16::from(record.is_some()), 0, 0] {
        answer.extend_from_slice(&word.to_be_bytes());
    }
    answer.extend_from_slice(question);
    if let Some(address) = record {
        // A pointer to the name in the question, kind, class, a lifetime of 0 s, four bytes.
        answer.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4]);
        answer.extend_from_slice(&address.octets());
    }
    Some(answer)
}

/// The labels of a name, joined by dots.
fn readable(mut labels: &[u8]) -> String {
    let mut words = Vec::new();
    while let [length, rest @ ..] = labels
        && *length > 0
    {
        let (label, rest) = rest.split_at(usize::from(*length).min(rest.len()));
        words.push(String::from_utf8_lossy(label).into_owned());
        labels = rest;
    }
    words.join(".")
}

const HEADER_BYTES: usize = 12;
const KIND_A: u16 = 1;
