//! `TCP_INFO` against the kernel's own description of it, and against `ss` (iproute2) on the same
//! socket: the table's offsets, what this kernel fills, and the numbers themselves.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use rttscope::tcp_info::{self, KNOWN_BYTES, MEMBERS, Member, Raw, State, TcpInfo, members};
use rustix::process::Signal;

use crate::btf;
use crate::lab::{Lab, PROBER_IPS, RESPONDER_IPS, TOWARD_PROBER, TOWARD_RESPONDER, ip_of};
use crate::run::{PATIENCE, Run};
use crate::site::{Place, report_skip};

/// A connection on loopback: client and server.
fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (client, listener.accept().unwrap().0)
}

/// The running kernel's version.
fn kernel() -> Option<tcp_info::Kernel> {
    tcp_info::Kernel::parse(&rttscope::sys::tcp_info::kernel_release())
}

/// The kernel's `struct tcp_info`, or a reported skip.
fn described(test: &str) -> Option<btf::Struct> {
    let Ok(bytes) = std::fs::read(btf::VMLINUX) else {
        report_skip(test, "this kernel has no BTF");
        return None;
    };
    Some(btf::find(&bytes, "tcp_info").expect("BTF of every kernel has the struct"))
}

#[test]
fn every_offset_is_that_of_this_kernels_btf() {
    let Some(kernels) = described("tcp_info::every_offset") else { return };
    let mut checked = 0;
    for member in MEMBERS {
        let Some(&its) = kernels.members.get(&format!("tcpi_{}", member.name)) else { continue };
        // Members that this kernel has where the table says nothing are not filled.
        let Some(place) = member.place_in(kernel()) else { continue };
        let ours = match place {
            tcp_info::Place::Bytes { offset, width } => (8 * offset, 8 * width),
            tcp_info::Place::Bits { offset, shift, width, .. } => {
                (8 * offset + shift as usize, width as usize)
            }
        };
        assert_eq!(ours, (its.0 as usize, its.1 as usize), "{}", member.name);
        checked += 1;
    }
    // A newer kernel may have more than the table.
    assert_eq!(checked, kernels.members.len().min(MEMBERS.len()));
}

#[test]
fn what_this_kernel_fills_is_what_its_btf_says() {
    let Some(kernels) = described("tcp_info::what_this_kernel_fills") else { return };
    let (client, _server) = pair();
    let raw = Raw::of(&client).unwrap();
    assert_eq!(raw.length(), kernels.bytes as usize);
    let known: BTreeSet<String> =
        MEMBERS.iter().map(|member| format!("tcpi_{}", member.name)).collect();
    let theirs: BTreeSet<&String> =
        kernels.members.keys().filter(|name| known.contains(*name)).collect();
    let ours: Vec<String> =
        raw.members().iter().map(|member| format!("tcpi_{}", member.name)).collect();
    assert_eq!(ours.iter().collect::<BTreeSet<_>>(), theirs);
    if raw.length() <= KNOWN_BYTES {
        assert_eq!(theirs.len(), kernels.members.len(), "the table lacks members");
    }
}

#[test]
fn a_connection_tells_its_state_and_a_listener_its_queue() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let waiting = TcpInfo::of(&listener).unwrap();
    assert_eq!((waiting.state, waiting.unacked), (Some(State::Listen), Some(1)));
    let info = TcpInfo::of(&client).unwrap();
    assert_eq!((info.state, info.total_retrans), (Some(State::Established), Some(0)));
    assert!(info.rtt.unwrap() > Duration::ZERO);
    assert!(info.snd_ssthresh.is_none() && info.max_pacing_rate.is_none(), "unlimited");
}

#[test]
fn what_is_no_tcp_socket_is_an_error() {
    let udp = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    assert!(TcpInfo::of(&udp).is_err());
    assert!(TcpInfo::of(&std::fs::File::open("/dev/null").unwrap()).is_err());
}

/// On a path that lost segments, so that no number is zero by accident.
#[test]
fn our_fields_equal_those_of_ss() {
    let lab = match Lab::new() {
        Ok(lab) => lab,
        Err(error) => return report_skip("tcp_info::ss", &format!("no namespaces: {error}")),
    };
    // The responder loses what it sends.
    compare_with_ss(&lab, |lossy| {
        let verb = if lossy { "add" } else { "del" };
        lab.responder.ip(&format!("route {verb} blackhole {}/32", PROBER_IPS[0])).unwrap();
    });
}

/// The same where the network loses some, whichever way they go.
#[test]
#[ignore = "needs netem: cargo xtask lab kernels"]
fn our_fields_equal_those_of_ss_on_a_bad_way() {
    let lab = Lab::with_a_bridge().unwrap();
    compare_with_ss(&lab, |lossy| {
        let way = if lossy { "delay 5ms loss 20%" } else { "delay 5ms" };
        for interface in [TOWARD_PROBER, TOWARD_RESPONDER] {
            let words = format!("qdisc replace dev {interface} root netem {way}");
            lab.middle.as_ref().unwrap().tc(&words).unwrap();
        }
    });
}

fn compare_with_ss(lab: &Lab, lose: impl Fn(bool)) {
    let (client, server) = lab.responder.run(|| {
        let listener = TcpListener::bind((ip_of(RESPONDER_IPS, false), 0)).unwrap();
        let to = listener.local_addr().unwrap();
        let client = lab.prober.run(|| TcpStream::connect(to).unwrap());
        (client, listener.accept().unwrap().0)
    });
    exchange(&client, &server, 40);
    lose(true);
    lose_segments(&client, &server, || lose(false));
    exchange(&client, &server, 10);
    let local = client.local_addr().unwrap();
    // The two looks must be at the same state of the connection.
    let started = Instant::now();
    let (raw, said) = loop {
        let before = Raw::of(&client).unwrap();
        let Some(said) = lab.prober.run(|| ss(local)) else {
            return report_skip("tcp_info::ss", "no `ss` here");
        };
        if !said.contains(" rtt:") {
            // It reads /proc/net/tcp then, which has little of this.
            return report_skip("tcp_info::ss", "this kernel does not answer `ss` (tcp_diag)");
        }
        let after = Raw::of(&client).unwrap();
        let same =
            COMPARED.iter().all(|(_, member, _)| before.number(member) == after.number(member));
        if same && after.number(&members::unacked) == Some(0) {
            break (after, said);
        }
        assert!(started.elapsed() < PATIENCE, "the connection never came to rest\n{said}");
    };
    assert!(raw.number(&members::total_retrans).unwrap() > 0, "nothing was lost\n{said}");
    let mut compared = 0;
    for (word, member, per_unit) in &COMPARED {
        let Some(theirs) = number_of(&said, word) else { continue };
        let ours = raw.number(member).unwrap_or_else(|| panic!("{} is absent", member.name));
        assert_eq!(ours, thousandths(theirs) * per_unit / 1_000, "{word}\n{said}");
        compared += 1;
    }
    assert!(compared >= 18, "only {compared} fields of `ss` were found\n{said}");
}

/// As `ss` writes it, before and behind the number; our member; and how many of its units one is.
/// `ss` tells times in ms where the kernel counts µs.
const COMPARED: [(&str, Member, u64); 22] = [
    (" rto:", members::rto, 1_000),
    (" rtt:", members::rtt, 1_000),
    (" rtt:/", members::rttvar, 1_000),
    (" mss:", members::snd_mss, 1),
    (" pmtu:", members::pmtu, 1),
    (" rcvmss:", members::rcv_mss, 1),
    (" advmss:", members::advmss, 1),
    (" cwnd:", members::snd_cwnd, 1),
    (" ssthresh:", members::snd_ssthresh, 1),
    (" bytes_sent:", members::bytes_sent, 1),
    (" bytes_retrans:", members::bytes_retrans, 1),
    (" bytes_acked:", members::bytes_acked, 1),
    (" bytes_received:", members::bytes_received, 1),
    (" segs_out:", members::segs_out, 1),
    (" segs_in:", members::segs_in, 1),
    (" data_segs_out:", members::data_segs_out, 1),
    (" data_segs_in:", members::data_segs_in, 1),
    (" delivered:", members::delivered, 1),
    (" retrans:/", members::total_retrans, 1),
    (" rcv_space:", members::rcv_space, 1),
    (" rcv_ssthresh:", members::rcv_ssthresh, 1),
    (" minrtt:", members::min_rtt, 1_000),
];

/// Sends until something was sent again, and then has all of it arrive.
fn lose_segments(client: &TcpStream, server: &TcpStream, heal: impl Fn()) {
    let (mut client, mut server) = (client, server);
    let (started, mut sent) = (Instant::now(), Vec::new());
    while Raw::of(client).unwrap().number(&members::total_retrans) == Some(0) {
        assert!(started.elapsed() < PATIENCE, "nothing is sent again");
        // A connection that loses much has no room for much.
        if sent.len() < 40_000 {
            client.write_all(&[7; 4_000]).unwrap();
            sent.resize(sent.len() + 4_000, 0);
        }
        thread::sleep(Duration::from_millis(50));
    }
    heal();
    server.read_exact(&mut sent).unwrap();
}

/// Data to and fro, so often.
fn exchange(client: &TcpStream, server: &TcpStream, times: usize) {
    let (mut client, mut server) = (client, server);
    for _ in 0..times {
        client.write_all(&[1; 700]).unwrap();
        server.read_exact(&mut [0; 700]).unwrap();
        server.write_all(&[2; 300]).unwrap();
        client.read_exact(&mut [0; 300]).unwrap();
    }
}

/// What `ss -tin` says of the connection from here; `None` without the program.
fn ss(local: SocketAddr) -> Option<String> {
    let port = local.port();
    let output = Command::new("ss").args(["-tinHO", &format!("sport = :{port}")]).output().ok()?;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Some(String::from_utf8(output.stdout).unwrap())
}

/// The number behind `word`, or behind the slash that follows it.
fn number_of<'a>(said: &'a str, word: &str) -> Option<&'a str> {
    let (label, second) = word.strip_suffix('/').map_or((word, false), |label| (label, true));
    let (_, rest) = said.split_once(label)?;
    let value = rest.split_whitespace().next()?;
    value.split('/').nth(usize::from(second))
}

/// A decimal number in thousandths.
fn thousandths(text: &str) -> u64 {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{fraction:0<3}").parse().unwrap()
}

#[test]
fn info_shows_every_field_with_its_unit() {
    let (listener, target) = listening();
    let mut info = Run::start(&Place::Here, &format!("info {target}"));
    let ending = info.wait();
    assert_eq!(ending.code, Some(0), "{ending:?}");
    assert!(ending.stdout[0].starts_with(&format!("{target}  kernel ")), "{ending:?}");
    assert_eq!(ending.stdout.len(), 1 + MEMBERS.len());
    for (line, member) in ending.stdout[1..].iter().zip(MEMBERS) {
        assert!(line.starts_with(&format!("{} ", member.name)), "{line}");
    }
    assert!(ending.stdout[1].contains("established"), "{ending:?}");
    drop(listener);
}

#[test]
fn info_json_has_null_for_what_is_not_there() {
    let (listener, target) = listening();
    let mut info = Run::start(&Place::Here, &format!("info {target} --json"));
    let ending = info.wait();
    assert_eq!((ending.code, ending.stdout.len()), (Some(0), 1), "{ending:?}");
    let keys: Vec<usize> = ["\"address\":", "\"kernel\":", "\"length\":", "\"fields\":{"]
        .iter()
        .map(|key| ending.stdout[0].find(key).unwrap())
        .collect();
    assert!(keys.is_sorted(), "{}", ending.stdout[0]);
    let value: serde_json::Value = serde_json::from_str(&ending.stdout[0]).unwrap();
    let ours = Raw::of(&TcpStream::connect(target).unwrap()).unwrap();
    assert_eq!(value["length"], ours.length());
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(value["kernel"], release.trim());
    let fields = value["fields"].as_object().unwrap();
    assert_eq!(fields.len(), MEMBERS.len());
    for member in MEMBERS {
        let theirs = &fields[member.name];
        assert!(ours.fills(member) || theirs.is_null(), "{}: {theirs}", member.name);
        assert!(!ours.fills(member) || member.none.is_some() || !theirs.is_null());
    }
    assert!(fields["rtt"].as_u64().unwrap() > 0 && fields["snd_ssthresh"].is_null());
    drop(listener);
}

#[test]
fn info_fails_if_there_is_no_connection() {
    let (listener, target) = listening();
    drop(listener);
    let mut info = Run::start(&Place::Here, &format!("info {target}"));
    let ending = info.wait();
    assert_eq!((ending.code, ending.stdout.len()), (Some(1), 0), "{ending:?}");
    assert!(ending.stderr.iter().any(|line| line.contains("refused")), "{ending:?}");
    let mut info = Run::start(&Place::Here, &format!("info {target} --source 203.0.113.9"));
    let ending = info.wait();
    assert_eq!(ending.code, Some(3), "{ending:?}");
    assert!(ending.stderr.iter().any(|line| line.contains("--source")), "{ending:?}");
}

#[test]
fn info_watches_until_a_signal_or_the_end() {
    let (listener, target) = listening();
    let words = format!("info {target} --watch --json");
    let mut info = Run::start(&Place::Here, &words);
    assert!(info.wait_for_stdout(2).iter().all(|line| line.contains("established")));
    info.signal(Signal::INT);
    assert_eq!(info.wait().code, Some(0));
    drop(listener.accept().unwrap());

    let mut info = Run::start(&Place::Here, &words);
    info.wait_for_stdout(1);
    drop(listener.accept().unwrap());
    let ending = info.wait();
    assert_eq!(ending.code, Some(1), "{ending:?}");
    assert!(ending.stdout.last().unwrap().contains("close-wait"), "{ending:?}");
}

fn listening() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}
