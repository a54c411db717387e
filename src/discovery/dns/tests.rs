//! Names against a name server of the test: what it answers is written down message by message.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use proptest::prelude::*;
use simple_dns::ResourceRecord;
use simple_dns::rdata::{A, AAAA, CNAME, SRV};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const NAME: &str = "probe.example";

fn settings(kind: DnsKind, server: SocketAddr) -> DnsSd {
    DnsSd {
        names: vec![NAME.to_owned()],
        kind,
        port: std::num::NonZeroU16::new(4_000),
        refresh_interval: Duration::from_secs(30),
        servers: vec![server],
    }
}

/// Makes an answer of a question.
type Say = fn(&[u8]) -> Vec<u8>;

/// Answers each question by UDP with the next answer; without one, with silence.
async fn serve(answers: Vec<Say>) -> (SocketAddr, JoinHandle<()>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let server = tokio::spawn(async move {
        let mut buffer = [0; 1_500];
        for answer in answers {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            socket.send_to(&answer(&buffer[..length]), client).await.unwrap();
        }
        std::future::pending::<()>().await;
    });
    (address, server)
}

fn reply(question: &[u8], records: Vec<(u32, RData<'_>)>) -> Vec<u8> {
    let mut packet = Packet::parse(question).unwrap().into_reply();
    let name = packet.questions[0].qname.clone();
    let records = records
        .into_iter()
        .map(|(ttl, data)| ResourceRecord::new(name.clone(), CLASS::IN, ttl, data));
    packet.answers = records.collect();
    packet.build_bytes_vec_compressed().unwrap()
}

fn address(last: u8) -> RData<'static> {
    RData::A(A { address: u32::from_be_bytes([10, 0, 0, last]) })
}

fn two(question: &[u8]) -> Vec<u8> {
    let alias = RData::CNAME(CNAME(Name::new("alias.example").unwrap()));
    reply(question, vec![(40, alias), (20, address(1)), (7, address(2))])
}

fn code(question: &[u8], code: RCODE) -> Vec<u8> {
    let mut packet = Packet::parse(question).unwrap().into_reply();
    *packet.rcode_mut() = code;
    packet.build_bytes_vec().unwrap()
}

fn addresses(answer: &Answer) -> Vec<&str> {
    let targets = answer.targets.iter().flatten();
    targets.map(|labels| labels[ADDRESS].as_str()).collect()
}

#[tokio::test]
async fn addresses_are_asked_for_again_when_the_first_expires() {
    let (server, _task) =
        serve(vec![two, |question| reply(question, vec![(90, address(3))])]).await;
    let mut names = Names::new(settings(DnsKind::A, server));
    let answer = names.ask().await;
    assert_eq!(addresses(&answer), ["10.0.0.1:4000", "10.0.0.2:4000"]);
    assert_eq!((answer.error.as_deref(), answer.wait.as_secs()), (None, 7));
    assert_eq!(answer.targets.unwrap()[0]["__meta_dns_name"], NAME);
    let answer = names.ask().await;
    assert_eq!((addresses(&answer), answer.wait.as_secs()), (vec!["10.0.0.3:4000"], 30));
}

#[tokio::test]
async fn a_time_to_live_of_zero_is_a_second() {
    let (server, _task) =
        serve(vec![|question| reply(question, vec![(0, address(1))]), |question| {
            reply(question, vec![(u32::MAX, address(1))])
        }])
        .await;
    let mut names = Names::new(settings(DnsKind::A, server));
    assert_eq!(names.ask().await.wait.as_secs(), 1);
    assert_eq!(names.ask().await.wait.as_secs(), 1);
}

#[tokio::test]
async fn other_records_have_what_prometheus_says_of_them() {
    let (server, _task) = serve(vec![|question| {
        let target = Name::new("h1.example").unwrap();
        let srv = |port, target| RData::SRV(SRV { priority: 0, weight: 0, port, target });
        let none = srv(1, Name::new_with_labels(&[]));
        reply(question, vec![(60, srv(4_001, target)), (60, none), (60, address(1))])
    }])
    .await;
    let answer = Names::new(settings(DnsKind::Srv, server)).ask().await;
    let expected = [
        ("__address__", "h1.example:4001"),
        ("__meta_dns_name", NAME),
        ("__meta_dns_srv_record_port", "4001"),
        ("__meta_dns_srv_record_target", "h1.example."),
    ];
    let expected = Labels::from(expected.map(|(name, value)| (name.into(), value.into())));
    assert_eq!((answer.targets.unwrap(), answer.error), (vec![expected], None));

    let (server, _task) = serve(vec![|question| {
        let address = u128::from(Ipv6Addr::LOCALHOST);
        reply(question, vec![(60, RData::AAAA(AAAA { address }))])
    }])
    .await;
    let answer = Names::new(settings(DnsKind::Aaaa, server)).ask().await;
    assert_eq!(addresses(&answer), ["[::1]:4000"]);
}

#[tokio::test]
async fn a_server_in_trouble_takes_nothing_away_and_a_name_that_is_gone_does() {
    for (bad, complaint) in [
        (
            (|question| code(question, RCODE::ServerFailure)) as Say,
            "probe.example: 127.0.0.1:PORT: answered ServerFailure",
        ),
        (|question| code(question, RCODE::Refused), "answered Refused"),
        // Right id, and then nothing that can be read.
        (|question| [&question[..2], &[0x80, 0, 0xff, 0xff]].concat(), "no DNS message"),
        (
            |question| {
                let mut answer = two(question);
                answer.truncate(answer.len() - 3);
                answer
            },
            "no DNS message",
        ),
        // A name that points to itself.
        (
            |question| {
                let head = [&question[..2], &[0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0]].concat();
                [&head[..], &[0xc0, 12, 0, 1, 0, 1]].concat()
            },
            "no DNS message",
        ),
    ] {
        // Each trouble is tried twice: resolv.conf's default.
        let gone: Say = |question| code(question, RCODE::NameError);
        let (server, _task) = serve(vec![two, bad, bad, gone]).await;
        let mut names = Names::new(settings(DnsKind::A, server));
        assert_eq!(names.ask().await.error, None);
        let answer = names.ask().await;
        let complaint = complaint.replace("PORT", &server.port().to_string());
        let error = answer.error.as_ref().unwrap();
        assert!(error.contains(&complaint), "{complaint}: {error}");
        assert_eq!(addresses(&answer).len(), 2);
        let answer = names.ask().await;
        assert_eq!((addresses(&answer).len(), answer.error), (0, None));
    }
}

#[tokio::test]
async fn forged_answers_are_passed_over() {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let server = socket.local_addr().unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 1_500];
        let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
        let question = &buffer[..length];
        let mut wrong_id = reply(question, vec![(60, address(66))]);
        wrong_id[0] ^= 1;
        let mut other = Packet::parse(question).unwrap();
        other.questions[0].qname = Name::new("other.example").unwrap();
        let other = reply(&other.build_bytes_vec().unwrap(), vec![(60, address(66))]);
        let stranger = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let forged = reply(question, vec![(60, address(66))]);
        stranger.send_to(&forged, client).await.unwrap();
        for answer in [vec![], wrong_id, other, question.to_vec(), two(question)] {
            socket.send_to(&answer, client).await.unwrap();
        }
    });
    let answer = Names::new(settings(DnsKind::A, server)).ask().await;
    assert_eq!(addresses(&answer), ["10.0.0.1:4000", "10.0.0.2:4000"]);
    task.await.unwrap();
}

#[tokio::test]
async fn what_does_not_fit_is_asked_for_by_tcp() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap();
    let socket = UdpSocket::bind(server).await.unwrap();
    let task = tokio::spawn(async move {
        let mut buffer = [0; 1_500];
        for cut in [false, true] {
            let (length, client) = socket.recv_from(&mut buffer).await.unwrap();
            let mut truncated = two(&buffer[..length]);
            truncated[2] |= TRUNCATED;
            // Some servers cut in the middle of a record.
            truncated.truncate(truncated.len() - if cut { 5 } else { 0 });
            socket.send_to(&truncated, client).await.unwrap();
            let (mut stream, _) = listener.accept().await.unwrap();
            let length = stream.read_u16().await.unwrap();
            let mut question = vec![0; length.into()];
            stream.read_exact(&mut question).await.unwrap();
            let many = reply(&question, vec![(60, address(1)); 2_000]);
            stream.write_u16(u16::try_from(many.len()).unwrap()).await.unwrap();
            // The second answer ends early.
            let sent = if cut { &many[..many.len() / 2] } else { &many[..] };
            stream.write_all(sent).await.unwrap();
        }
    });
    let mut names = Names::new(settings(DnsKind::A, server));
    assert_eq!(addresses(&names.ask().await).len(), 2_000);
    let resolver = Resolver { attempts: 1, ..Resolver::from_text("") };
    let resolver = Resolver { servers: vec![server], ..resolver };
    let error = resolver.look_up(NAME, DnsKind::A).await.unwrap_err();
    assert!(error.contains("eof") || error.contains("early"), "{error}");
    task.await.unwrap();
}

#[tokio::test]
async fn silence_ends_by_the_timeout_and_the_next_server_is_asked() {
    let (silent, _silence) = serve(Vec::new()).await;
    let (server, _task) = serve(vec![two]).await;
    let resolver = Resolver {
        servers: vec![silent, server],
        timeout: Duration::from_millis(200),
        ..Resolver::from_text("")
    };
    assert_eq!(resolver.look_up(NAME, DnsKind::A).await.unwrap().found.len(), 2);
    let resolver = Resolver { servers: vec![silent], ..resolver };
    let error = resolver.look_up(NAME, DnsKind::A).await.unwrap_err();
    assert_eq!(error, format!("{silent}: no answer in 200ms"));
}

#[tokio::test]
async fn a_name_that_cannot_be_asked_for_is_an_error() {
    let (server, _task) = serve(Vec::new()).await;
    let long = format!("{}.example", "a".repeat(64));
    for name in [&long, "a..b", &"abcdefg.".repeat(40)] {
        let mut settings = settings(DnsKind::A, server);
        settings.names = vec![name.to_owned()];
        let error = Names::new(settings).ask().await.error.unwrap();
        assert!(error.contains("is no name"), "{error}");
    }
}

#[test]
fn the_file_is_read_as_its_manual_says() {
    let resolver = Resolver::from_text(
        "# comment\nnameserver 10.0.0.1\nnameserver nonsense\nnameserver ::1\nnameserver 10.0.0.3\n\
         nameserver 10.0.0.4\ndomain first\nsearch a.example b.example.\n\
         options ndots:2 timeout:99 attempts:0 rotate use-vc:x\nnameserver\n",
    );
    let servers = ["10.0.0.1:53", "[::1]:53", "10.0.0.3:53"].map(|it| it.parse().unwrap());
    let search = ["a.example", "b.example."].map(str::to_owned);
    let expected = Resolver {
        servers: servers.into(),
        search: search.into(),
        ndots: 2,
        timeout: Duration::from_secs(30),
        attempts: 1,
    };
    assert_eq!(resolver, expected);
    for (name, candidates) in [
        ("x", "x.a.example x.b.example x"),
        ("x.y", "x.y.a.example x.y.b.example x.y"),
        ("x.y.z", "x.y.z x.y.z.a.example x.y.z.b.example"),
        ("x.y.", "x.y"),
    ] {
        assert_eq!(resolver.candidates(name).join(" "), candidates);
    }
    assert_eq!(Resolver::from_text("").servers, ["127.0.0.1:53".parse().unwrap()]);
}

proptest! {
    /// Whatever stands in an answer, it is read or refused: a panic would end its source.
    #[test]
    fn no_answer_is_too_strange(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..12),
        length in any::<prop::sample::Index>(), cut in any::<bool>(),
    ) {
        for kind in [DnsKind::A, DnsKind::Aaaa, DnsKind::Srv] {
            let question = question(7, NAME, kind).unwrap();
            let target = Name::new("h1.example").unwrap();
            let srv = RData::SRV(SRV { priority: 0, weight: 0, port: 9, target });
            let alias = RData::CNAME(CNAME(Name::new("alias.example").unwrap()));
            let mut answer = reply(&question, vec![(9, alias), (9, srv), (9, address(1))]);
            for (place, byte) in &changes {
                let place = place.index(answer.len());
                answer[place] = *byte;
            }
            if cut {
                answer.truncate(length.index(answer.len() + 1));
            }
            let reply = read(&answer, 7, NAME, kind);
            if let Reply::Answer(Ok(records)) = reply {
                prop_assert!(records.found.len() <= answer.len());
            }
        }
    }
}
