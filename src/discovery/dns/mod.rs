//! `dns_sd`: names whose records are targets. Names in, the targets of all names and the time until
//! the first record expires out, each time somebody asks.
//!
//! The questions are our own, by UDP and, if an answer does not fit, by TCP (RFC 1035, RFC 7766):
//! the system's resolver tells no time to live and knows no SRV. As in Prometheus, servers, search
//! list and options come from resolv.conf(5), and a name that does not exist has no targets.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use simple_dns::rdata::{OPT, RData};
use simple_dns::{CLASS, Name, Packet, PacketFlag, Question, RCODE, TYPE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use super::relabel::ADDRESS;
use super::{Answer, Labels, one_line};
use crate::config::discovery::{DnsKind, DnsSd};
use crate::config::limits::LOOKUPS_MAX;

/// The names of one source.
#[derive(Debug)]
pub(super) struct Names {
    settings: DnsSd,
    /// Last good answers.
    known: BTreeMap<String, Vec<Labels>>,
}

/// What resolv.conf(5) says.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Resolver {
    servers: Vec<SocketAddr>,
    search: Vec<String>,
    ndots: usize,
    timeout: Duration,
    attempts: usize,
}

/// The records of a name, and how long they may be believed.
#[derive(Debug, Default)]
struct Records {
    found: Vec<Record>,
    ttl: Option<Duration>,
}

#[derive(Debug, PartialEq, Eq)]
enum Record {
    Address(IpAddr),
    Service { host: String, port: u16 },
}

impl Names {
    pub(super) const fn new(settings: DnsSd) -> Self {
        Self { settings, known: BTreeMap::new() }
    }

    /// Asks for all names.
    pub(super) async fn ask(&mut self) -> Answer {
        let mut wait = self.settings.refresh_interval;
        let resolver = match self.resolver().await {
            Ok(resolver) => Arc::new(resolver),
            Err(why) => return Answer { targets: None, error: Some(one_line(&why)), wait },
        };
        let seats = Arc::new(Semaphore::new(LOOKUPS_MAX));
        let mut lookups = JoinSet::new();
        for name in self.settings.names.clone() {
            let (resolver, seats) = (Arc::clone(&resolver), Arc::clone(&seats));
            let kind = self.settings.kind;
            lookups.spawn(async move {
                let _seat = seats.acquire().await;
                let records = tokio::time::timeout(NAME_TIMEOUT, resolver.look_up(&name, kind));
                let late = || Err(format!("no answer in {NAME_TIMEOUT:?}"));
                let records = records.await.unwrap_or_else(|_| late());
                (name, records)
            });
        }
        let mut errors = Vec::new();
        while let Some(lookup) = lookups.join_next().await {
            match lookup {
                Ok((name, Ok(records))) => {
                    let soonest = records.ttl.map_or(wait, |ttl| ttl.max(TTL_MIN));
                    wait = wait.min(soonest);
                    let found = records.found.iter().map(|it| self.labels(&name, it)).collect();
                    self.known.insert(name, found);
                }
                Ok((name, Err(why))) => errors.push(format!("{name}: {why}")),
                Err(_) => errors.push("a lookup failed".to_owned()),
            }
        }
        errors.sort();
        let error = (!errors.is_empty()).then(|| one_line(&errors.join("; ")));
        Answer { targets: Some(self.known.values().flatten().cloned().collect()), error, wait }
    }

    async fn resolver(&self) -> Result<Resolver, String> {
        let servers = self.settings.servers.clone();
        if !servers.is_empty() {
            return Ok(Resolver { servers, ..Resolver::from_text("") });
        }
        let text = spawn_blocking(|| std::fs::read_to_string(RESOLV_CONF)).await;
        let text = text.map_err(|error| error.to_string())?;
        let text =
            text.map_err(|it| format!("{RESOLV_CONF}: {it}; write servers: [10.0.0.1:53]"))?;
        Ok(Resolver::from_text(&text))
    }

    fn labels(&self, name: &str, record: &Record) -> Labels {
        let port = self.settings.port.map_or(0, std::num::NonZeroU16::get);
        let mut labels = vec![("__meta_dns_name", name.to_owned())];
        match record {
            Record::Address(ip) => {
                labels.push((ADDRESS, SocketAddr::new(*ip, port).to_string()));
            }
            Record::Service { host, port } => {
                labels.push((ADDRESS, format!("{host}:{port}")));
                // As Prometheus: the target as it is written in the record, with its last dot.
                labels.push(("__meta_dns_srv_record_target", format!("{host}.")));
                labels.push(("__meta_dns_srv_record_port", port.to_string()));
            }
        }
        labels.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

impl Resolver {
    fn from_text(text: &str) -> Self {
        let mut resolver = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: Duration::from_secs(5),
            attempts: 2,
        };
        for line in text.lines() {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let ip = words.next().and_then(|word| word.parse().ok());
                    resolver.servers.extend(ip.map(|ip| SocketAddr::new(ip, 53)));
                }
                Some("search") => resolver.search = words.map(str::to_owned).collect(),
                Some("domain") => resolver.search = words.take(1).map(str::to_owned).collect(),
                Some("options") => words.for_each(|word| resolver.set(word)),
                _ => {}
            }
        }
        resolver.servers.truncate(SERVERS_MAX);
        resolver.search.truncate(SEARCH_MAX);
        if resolver.servers.is_empty() {
            resolver.servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 53));
        }
        resolver
    }

    fn set(&mut self, option: &str) {
        let Some((name, value)) = option.split_once(':') else { return };
        let Ok(value) = value.parse::<u8>() else { return };
        match name {
            // The bounds are those of the manual page.
            "ndots" => self.ndots = value.min(15).into(),
            "timeout" => self.timeout = Duration::from_secs(value.clamp(1, 30).into()),
            "attempts" => self.attempts = value.clamp(1, 5).into(),
            _ => {}
        }
    }

    /// The names to ask for, in their order.
    fn candidates(&self, name: &str) -> Vec<String> {
        if let Some(absolute) = name.strip_suffix('.') {
            return vec![absolute.to_owned()];
        }
        let searched = self.search.iter().filter_map(|domain| {
            let domain = domain.trim_end_matches('.');
            (!domain.is_empty()).then(|| format!("{name}.{domain}"))
        });
        let mut names: Vec<String> = searched.collect();
        let place = if name.matches('.').count() >= self.ndots { 0 } else { names.len() };
        names.insert(place, name.to_owned());
        names
    }

    /// The records of the first candidate that has any.
    async fn look_up(&self, name: &str, kind: DnsKind) -> Result<Records, String> {
        let mut failure = None;
        for candidate in self.candidates(name) {
            match self.ask_all(&candidate, kind).await {
                Ok(records) if !records.found.is_empty() => return Ok(records),
                Ok(_) => {}
                Err(why) => failure = failure.or(Some(why)),
            }
        }
        failure.map_or_else(|| Ok(Records::default()), Err)
    }

    /// Each server in turn, until one of them knows.
    async fn ask_all(&self, name: &str, kind: DnsKind) -> Result<Records, String> {
        let mut failure = String::new();
        for _ in 0..self.attempts {
            for &server in &self.servers {
                let asking = tokio::time::timeout(self.timeout, ask(server, name, kind));
                let late = || Err(format!("no answer in {:?}", self.timeout));
                match asking.await.unwrap_or_else(|_| late()) {
                    Ok(records) => return Ok(records),
                    Err(why) => failure = format!("{server}: {why}"),
                }
            }
        }
        Err(failure)
    }
}

async fn ask(server: SocketAddr, name: &str, kind: DnsKind) -> Result<Records, String> {
    let id = u16::try_from(getrandom::u32().map_err(|it| it.to_string())? >> 16)
        .expect("half of 32 bits");
    let question = question(id, name, kind)?;
    let io_error = |error: std::io::Error| error.to_string();
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await.map_err(io_error)?;
    // Connected, so that no other host's packet is taken.
    socket.connect(server).await.map_err(io_error)?;
    socket.send(&question).await.map_err(io_error)?;
    let mut buffer = [0; 4_096];
    loop {
        let length = socket.recv(&mut buffer).await.map_err(io_error)?;
        // What does not answer this question may be forged: the true answer may still come.
        match read(&buffer[..length], id, name, kind) {
            Reply::Foreign => {}
            Reply::TooLong => break,
            Reply::Answer(answer) => return answer,
        }
    }
    let mut stream = TcpStream::connect(server).await.map_err(io_error)?;
    let length = u16::try_from(question.len()).map_err(|_| "the name is too long")?;
    let framed = [&length.to_be_bytes()[..], &question].concat();
    stream.write_all(&framed).await.map_err(io_error)?;
    let length = stream.read_u16().await.map_err(io_error)?;
    let mut answer = vec![0; length.into()];
    stream.read_exact(&mut answer).await.map_err(io_error)?;
    match read(&answer, id, name, kind) {
        Reply::Answer(answer) => answer,
        Reply::TooLong => Err("the answer is cut off".to_owned()),
        Reply::Foreign => Err("the answer is no answer to the question".to_owned()),
    }
}

fn question(id: u16, name: &str, kind: DnsKind) -> Result<Vec<u8>, String> {
    if name.split('.').any(str::is_empty) {
        return Err("is no name: a part of it is empty".to_owned());
    }
    let qname = Name::new(name).map_err(|error| format!("is no name: {error}"))?;
    let mut packet = Packet::new_query(id);
    packet.set_flags(PacketFlag::RECURSION_DESIRED);
    packet.questions.push(Question::new(qname, wanted(kind).into(), CLASS::IN.into(), false));
    *packet.opt_mut() = Some(OPT { opt_codes: Vec::new(), udp_packet_size: UDP_BYTES, version: 0 });
    packet.build_bytes_vec().map_err(|error| error.to_string())
}

const fn wanted(kind: DnsKind) -> TYPE {
    match kind {
        DnsKind::Srv => TYPE::SRV,
        DnsKind::A => TYPE::A,
        DnsKind::Aaaa => TYPE::AAAA,
    }
}

enum Reply {
    /// To another question, or none at all.
    Foreign,
    /// More than fits.
    TooLong,
    Answer(Result<Records, String>),
}

fn read(bytes: &[u8], id: u16, name: &str, kind: DnsKind) -> Reply {
    let Ok(packet) = Packet::parse(bytes) else {
        // A truncated packet may end anywhere; its header says so in the third byte.
        let ours = bytes.get(..2) == Some(&id.to_be_bytes());
        return match bytes.get(2) {
            Some(flags) if ours && flags & TRUNCATED != 0 => Reply::TooLong,
            Some(_) if ours => Reply::Answer(Err("the answer is no DNS message".to_owned())),
            _ => Reply::Foreign,
        };
    };
    let asked = Name::new(name).is_ok_and(|name| {
        let mut questions = packet.questions.iter();
        questions.any(|it| it.qname == name && it.qtype == wanted(kind).into())
    });
    if packet.id() != id || !packet.has_flags(PacketFlag::RESPONSE) || !asked {
        return Reply::Foreign;
    }
    if packet.has_flags(PacketFlag::TRUNCATION) {
        return Reply::TooLong;
    }
    match packet.rcode() {
        RCODE::NoError => Reply::Answer(Ok(records(&packet, kind))),
        RCODE::NameError => Reply::Answer(Ok(Records::default())),
        code => Reply::Answer(Err(format!("answered {code:?}"))),
    }
}

/// The wanted records, whatever aliases led to them; the soonest end of any, aliases too.
fn records(packet: &Packet<'_>, kind: DnsKind) -> Records {
    let mut records = Records::default();
    for answer in packet.answers.iter().filter(|answer| answer.class == CLASS::IN) {
        // RFC 2181, section 8: with its first bit set, a time to live is zero.
        let ttl = if answer.ttl > i32::MAX.cast_unsigned() { 0 } else { answer.ttl };
        let ttl = Duration::from_secs(ttl.into());
        let found = match (&answer.rdata, kind) {
            (RData::A(a), DnsKind::A) => Record::Address(Ipv4Addr::from(a.address).into()),
            (RData::AAAA(aaaa), DnsKind::Aaaa) => {
                Record::Address(Ipv6Addr::from(aaaa.address).into())
            }
            (RData::SRV(srv), DnsKind::Srv) => {
                // RFC 2782: a target of "." means that there is no such service.
                let host = srv.target.to_string();
                if host.is_empty() || host == "." || srv.port == 0 {
                    continue;
                }
                Record::Service { host, port: srv.port }
            }
            (RData::CNAME(_), _) => {
                records.ttl = Some(records.ttl.map_or(ttl, |it| it.min(ttl)));
                continue;
            }
            _ => continue,
        };
        records.ttl = Some(records.ttl.map_or(ttl, |it| it.min(ttl)));
        records.found.push(found);
    }
    records
}

/// Where the servers stand, on every system that has such a file.
const RESOLV_CONF: &str = "/etc/resolv.conf";

/// Servers of the file that are asked (`MAXNS` of its manual page).
const SERVERS_MAX: usize = 3;

/// Domains of the search list.
const SEARCH_MAX: usize = 32;

/// Shortest time between two questions, whatever the time to live.
const TTL_MIN: Duration = Duration::from_secs(1);

/// How long all questions for one name may take.
const NAME_TIMEOUT: Duration = Duration::from_secs(30);

/// The largest answer by UDP that passes every path unfragmented (DNS flag day 2020).
const UDP_BYTES: u16 = 1_232;

/// The flag TC in the third byte of a message (RFC 1035, section 4.1.1).
const TRUNCATED: u8 = 0x02;

#[cfg(test)]
mod tests;
