//! A seeded injector of faults at both ends of a relay: random splits, slow readers and writers,
//! half-closes, resets, upstreams that die. Whatever happens, each side reads a prefix of what the
//! other wrote, and all of it where neither died; a side that died is never taken for one that
//! ended; and the counters never say anything else than what was seen out here.

use std::collections::HashMap;
use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use proptest::prelude::*;
use rttscope::mix::Dice;
use socket2::SockRef;

use super::*;

/// What becomes of a side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// It saw the other's end, and its own was sent: everything went well.
    Clean,
    /// It reset its connection, as planned.
    Died,
    /// Its connection was reset.
    Cut,
}

/// One end of one relayed connection.
#[derive(Debug)]
struct Peer {
    /// Whose connection it is: what its bytes are made from, and the first of a client's.
    number: u64,
    is_client: bool,
    stream: Option<TcpStream>,
    /// It sends so many bytes, then FIN; or RST.
    sends: u64,
    dies: bool,
    sent: u64,
    has_ended: bool,
    got: u64,
    saw_end: bool,
    /// Acts once in so many turns, and then with at most so many bytes.
    laziness: u64,
    at_once: u64,
    end: Option<End>,
}

fn one_in(dice: &mut Dice, count: u64) -> bool {
    dice.below(count) == 0
}

/// What is injected.
#[derive(Clone, Copy, Debug)]
struct Storm {
    seed: u64,
    connections: u64,
    /// Most that a side sends.
    bytes: u64,
    /// One side in so many dies; 0: none does.
    dies: u64,
    laziness: u64,
}

impl Peer {
    /// A side of connection `number`; both ends know the whole plan of it.
    fn planned(storm: Storm, number: u64, is_client: bool, stream: TcpStream) -> Self {
        let mut dice = Dice(storm.seed ^ side_number(number, is_client));
        let sends = ID_BYTES + dice.below(storm.bytes);
        let dies = storm.dies > 0 && one_in(&mut dice, storm.dies);
        let laziness = 1 + dice.below(storm.laziness);
        let at_once = 1 + if one_in(&mut dice, 3) { dice.below(40) } else { dice.below(70_000) };
        stream.set_nonblocking(true).unwrap();
        Self {
            number,
            is_client,
            stream: Some(stream),
            sends: if dies { dice.below(sends) } else { sends },
            dies,
            sent: 0,
            has_ended: false,
            got: 0,
            saw_end: false,
            laziness,
            at_once,
            end: None,
        }
    }

    /// Does a little.
    fn act(&mut self, dice: &mut Dice) {
        if self.end.is_some() || !one_in(dice, self.laziness) {
            return;
        }
        if let Err(error) = self.write(dice).and_then(|()| self.read(dice))
            && error.kind() != ErrorKind::WouldBlock
        {
            self.end = Some(End::Cut);
        }
        if self.end.is_none() && self.has_ended && self.saw_end {
            self.end = Some(End::Clean);
        }
        if self.end.is_some() {
            self.stream = None;
        }
    }

    fn write(&mut self, dice: &mut Dice) -> io::Result<()> {
        let stream = self.stream.as_mut().unwrap();
        if self.sent == self.sends && !self.has_ended {
            self.has_ended = true;
            if self.dies {
                SockRef::from(&*stream).set_linger(Some(Duration::ZERO)).unwrap();
                self.end = Some(End::Died);
                return Err(ErrorKind::WouldBlock.into());
            }
            return stream.shutdown(Shutdown::Write);
        }
        let count = (1 + dice.below(self.at_once)).min(self.sends - self.sent);
        if count > 0 {
            let bytes = bytes(self.number, self.is_client, self.sent, count);
            match stream.write(&bytes) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                written => self.sent += u64::try_from(written?).unwrap(),
            }
        }
        Ok(())
    }

    fn read(&mut self, dice: &mut Dice) -> io::Result<()> {
        let mut buffer = [0; 70_000];
        let room = usize::try_from(1 + dice.below(self.at_once)).unwrap();
        let stream = self.stream.as_mut().unwrap();
        let count = stream.read(&mut buffer[..room])?;
        self.saw_end |= count == 0;
        let expected = bytes(self.number, !self.is_client, self.got, u64::try_from(count).unwrap());
        assert!(buffer[..count] == expected, "{self:?} got something else");
        self.got += u64::try_from(count).unwrap();
        Ok(())
    }
}

/// With room for all who come between two turns.
fn roomy_listener() -> (TcpListener, SocketAddr) {
    let socket = socket::listener((Ipv4Addr::LOCALHOST, 0).into(), false).unwrap();
    let listener = TcpListener::from(socket);
    let to = listener.local_addr().unwrap();
    (listener, to)
}

const fn side_number(number: u64, is_client: bool) -> u64 {
    2 * number + is_client as u64
}

/// What a side of a connection sends from an offset on. A client begins with the number, or its
/// upstream would not know whose side it is.
fn bytes(number: u64, is_client: bool, from: u64, count: u64) -> Vec<u8> {
    let word = |at: u64| match at / 8 {
        0 if is_client => number.to_le_bytes(),
        block => Dice(side_number(number, is_client) ^ (block << 20)).roll().to_le_bytes(),
    };
    let (mut at, end) = (from, from + count);
    let mut bytes = Vec::new();
    while at < end {
        let inside = usize::try_from(at % 8).unwrap();
        let rest = usize::try_from(end - at).unwrap();
        let part = &word(at)[inside..8.min(inside + rest)];
        bytes.extend_from_slice(part);
        at += u64::try_from(part.len()).unwrap();
    }
    bytes
}

/// All peers of a relay.
struct Weather {
    storm: Storm,
    rig: Rig,
    listener: TcpListener,
    dice: Dice,
    clients: Vec<Peer>,
    upstreams: HashMap<u64, Peer>,
    /// Accepted, and the number is not known yet.
    unknown: Vec<(TcpStream, Vec<u8>)>,
    /// Those whose number will never be known: their client died early.
    nameless: u64,
}

impl Weather {
    fn begin(backend: IoChoice, storm: Storm) -> Self {
        let (listener, to) = roomy_listener();
        listener.set_nonblocking(true).unwrap();
        let rig = Rig::start(backend, settings(&[to]));
        let mut weather = Self {
            storm,
            rig,
            listener,
            dice: Dice(storm.seed),
            clients: Vec::new(),
            upstreams: HashMap::new(),
            unknown: Vec::new(),
            nameless: 0,
        };
        for number in 0..storm.connections {
            let stream = TcpStream::connect(weather.rig.to).unwrap();
            weather.clients.push(Peer::planned(storm, number, true, stream));
            // More than a listener has room for would come by SYN cookies, whose kernel takes a
            // second segment for the first where that differs by no more than 3 bytes.
            while number % 64 == 0 && weather.upstreams_met() + 256 < number {
                weather.accept();
            }
        }
        weather
    }

    fn upstreams_met(&self) -> u64 {
        u64::try_from(self.unknown.len()).unwrap()
    }

    fn accept(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            stream.set_nonblocking(true).unwrap();
            self.unknown.push((stream, Vec::new()));
        }
    }

    /// Everybody acts once, in a way.
    fn turn(&mut self) {
        self.accept();
        let Self { storm, upstreams, nameless, .. } = self;
        self.unknown.retain_mut(|(stream, id)| {
            let mut buffer = [0; 8];
            match stream.read(&mut buffer[..8 - id.len()]) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(_) => {
                    *nameless += 1;
                    return false;
                }
                Ok(0) => panic!("a client ended without its number: {id:?}"),
                Ok(count) => id.extend_from_slice(&buffer[..count]),
            }
            let Ok(id) = <[u8; 8]>::try_from(id.as_slice()) else { return true };
            let number = u64::from_le_bytes(id);
            assert!(number < storm.connections, "{id:?} is no number of a connection");
            let stream = stream.try_clone().unwrap();
            let mut peer = Peer::planned(*storm, number, false, stream);
            peer.got = ID_BYTES;
            assert!(upstreams.insert(number, peer).is_none(), "{number} came twice");
            false
        });
        for client in &mut self.clients {
            client.act(&mut self.dice);
        }
        for upstream in self.upstreams.values_mut() {
            upstream.act(&mut self.dice);
        }
    }

    fn peers(&self) -> impl Iterator<Item = &Peer> {
        self.clients.iter().chain(self.upstreams.values())
    }

    /// Bytes that clients and upstreams sent, or got.
    fn sum(&self, of: impl Fn(&Peer) -> u64) -> [u64; 2] {
        let sides = [true, false];
        sides.map(|side| self.peers().filter(|peer| peer.is_client == side).map(&of).sum())
    }

    /// The relay has counted nothing that did not happen, and nothing before it happened.
    fn check_counters(&self) {
        let snapshot = self.rig.snapshot();
        let [up, down] = self.sum(|peer| peer.sent);
        let moved = snapshot.upstreams[0].counters;
        assert!(moved.client_read_bytes <= up, "{moved:?} {up}");
        assert!(moved.upstream_read_bytes <= down, "{moved:?} {down}");
        assert!(moved.upstream_written_bytes <= moved.client_read_bytes, "{moved:?}");
        assert!(moved.client_written_bytes <= moved.upstream_read_bytes, "{moved:?}");
        let counters = snapshot.counters;
        assert_eq!(counters.connections, counters.connections_active + closed(&counters));
    }

    /// What was read out here is counted in there, while connections live.
    fn await_counters(&self) {
        let [down, up] = self.sum(|peer| peer.got);
        self.rig.wait_until("counted", |snapshot| {
            let moved = &snapshot.upstreams[0].counters;
            moved.upstream_written_bytes >= up && moved.client_written_bytes >= down
        });
    }

    fn run(&mut self) {
        let patience = clock::mono().after(Duration::from_secs(300));
        let connections = usize::try_from(self.storm.connections).unwrap();
        let mut turns = 0_u32;
        let is_over = |weather: &Self| {
            let known = weather.upstreams.len() + usize::try_from(weather.nameless).unwrap();
            known == connections && weather.peers().all(|peer| peer.end.is_some())
        };
        while !is_over(self) {
            self.turn();
            turns += 1;
            if turns.is_multiple_of(16) {
                self.check_counters();
            }
            if turns.is_multiple_of(128) {
                self.await_counters();
            }
            assert!(clock::mono() < patience, "{:?} never ends", self.storm);
        }
    }

    /// Judges what everybody saw.
    fn judge(self) {
        let connections = self.storm.connections;
        let rig = &self.rig;
        rig.wait_until("over", |snapshot| closed(&snapshot.counters) == connections);
        let mut orderly = 0;
        let mut nameless = 0;
        for client in &self.clients {
            let Some(upstream) = self.upstreams.get(&client.number) else {
                assert!(client.dies, "{client:?} met nobody");
                nameless += 1;
                continue;
            };
            if client.dies || upstream.dies {
                assert!(client.end != Some(End::Clean), "{client:?} of {upstream:?}");
                assert!(upstream.end != Some(End::Clean), "{upstream:?} of {client:?}");
                continue;
            }
            orderly += 1;
            assert_eq!((client.end, upstream.end), (Some(End::Clean), Some(End::Clean)));
            assert_eq!((client.got, upstream.got), (upstream.sends, client.sends), "{client:?}");
        }
        assert_eq!(nameless, self.nameless);
        let counters = rig.counters();
        assert_eq!((counters.connections, counters.connections_active), (connections, 0));
        assert_eq!(counters.closed_client + counters.closed_upstream, orderly, "{counters:?}");
        let moved = rig.upstream(0);
        assert_eq!((moved.connections_active, moved.connecting), (0, 0));
        if orderly == connections {
            let [up, down] = self.sum(|peer| peer.sends);
            assert_eq!((moved.client_read_bytes, moved.upstream_written_bytes), (up, up));
            assert_eq!((moved.upstream_read_bytes, moved.client_written_bytes), (down, down));
        }
        self.rig.worker.stop();
    }
}

fn weather(backend: IoChoice, storm: Storm) {
    let mut weather = Weather::begin(backend, storm);
    weather.run();
    weather.judge();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, ..ProptestConfig::default() })]

    #[test]
    fn nothing_is_lost_doubled_or_reordered_whatever_happens(
        seed in any::<u64>(),
        connections in 1..60_u64,
        bytes in prop::sample::select(&[1, 300, 20_000, 400_000][..]),
        dies in prop::sample::select(&[0, 0, 2, 6][..]),
        laziness in prop::sample::select(&[1, 5, 30][..]),
    ) {
        let storm = Storm { seed, connections, bytes, dies, laziness };
        on_every_backend(|backend| weather(backend, storm));
    }
}

/// Every connection is four descriptors of this process.
#[cfg(target_os = "linux")]
#[test]
fn ten_thousand_at_once() {
    use rustix::process::{Resource, getrlimit};

    rttscope::sys::raise_descriptor_limit();
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let connections = 10_000.min(limit.saturating_sub(1_000) / 4);
    on_every_backend(|backend| {
        let storm = Storm { seed: 5, connections, bytes: 3_000, dies: 8, laziness: 8 };
        let mut weather = Weather::begin(backend, storm);
        let active = |snapshot: &RelaySnapshot| snapshot.upstreams[0].counters.connections_active;
        while active(&weather.rig.snapshot()) < connections {
            weather.accept();
        }
        weather.run();
        weather.judge();
    });
}

const ID_BYTES: u64 = 8;
