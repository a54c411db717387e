//! Joined connections: what each side sends arrives at the other, whole, in order and to its end.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread::JoinHandle;

use super::*;

/// The side that was accepted, and the one that was connected to.
const ACCEPTED: FlowId = FlowId(5);
const DIALLED: FlowId = FlowId(9);

/// Two connections that are held, and their peers.
struct Pair {
    bench: Bench,
    client: TcpStream,
    upstream: TcpStream,
}

/// Waits for ever, as far as a test is concerned.
fn patient(stream: TcpStream) -> TcpStream {
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    stream
}

impl Pair {
    fn held(options: IoOptions) -> Self {
        let mut bench = Bench::open(options);
        let (front, to) = local_listener();
        let client = TcpStream::connect(to).unwrap();
        bench.io.hold(ACCEPTED, Socket::from(front.accept().unwrap().0));
        let upstream = bench.dial(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        Self { bench, client: patient(client), upstream: patient(upstream) }
    }

    fn joined(options: IoOptions) -> Self {
        let mut pair = Self::held(options);
        pair.bench.io.join(ACCEPTED, DIALLED, b"");
        pair.bench.seen.clear();
        pair
    }

    fn moved(&self, flow: FlowId) -> (u64, u64) {
        let of_flow = self.bench.seen.iter().filter(|(owner, _)| *owner == flow);
        of_flow.fold((0, 0), |(read, written), (_, seen)| match seen {
            Seen::Moved(more_read, more_written) => (read + more_read, written + more_written),
            _ => (read, written),
        })
    }

    fn reads(&self, flow: FlowId) -> impl Iterator<Item = u64> {
        self.bench.seen.iter().filter_map(move |(owner, seen)| match seen {
            Seen::Moved(read @ 1.., _) if *owner == flow => Some(*read),
            _ => None,
        })
    }

    fn has_seen(&self, flow: FlowId, wanted: &Seen) -> bool {
        self.bench.seen.iter().any(|(owner, seen)| *owner == flow && seen == wanted)
    }

    /// Turns the loop until a thread is done, and returns what it made.
    fn run_beside<T>(&mut self, thread: JoinHandle<T>) -> T {
        self.run_until(|_| thread.is_finished());
        thread.join().unwrap()
    }

    fn run_until(&mut self, done: impl Fn(&Self) -> bool) {
        let deadline = clock::mono().after(Duration::from_secs(60));
        while !done(self) {
            assert!(clock::mono() < deadline, "saw only {:?}", self.bench.seen.last());
            self.bench.step(Some(clock::mono().after(Duration::from_millis(2))));
        }
    }
}

impl Bench {
    fn dial(&mut self, listener: TcpListener) -> TcpStream {
        let to = listener.local_addr().unwrap();
        let socket = socket::prober(to, &SocketOptions::default()).unwrap();
        self.io.connect_held(DIALLED, socket, to);
        self.run_until(|seen| seen.last() == Some(&(DIALLED, Seen::Connected)));
        listener.accept().unwrap().0
    }
}

/// Bytes that repeat at no power of two.
fn bytes(count: usize, salt: usize) -> Vec<u8> {
    (0..count).map(|at| u8::try_from((at * 7 + at / 251 + salt) % 251).unwrap()).collect()
}

/// Writes all of it in pieces of many sizes, then FIN.
fn write_all(mut stream: TcpStream, bytes: Vec<u8>, piece: usize) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut rest = bytes.as_slice();
        let mut size = piece;
        while !rest.is_empty() {
            let (now, later) = rest.split_at(size.min(rest.len()));
            stream.write_all(now).unwrap();
            rest = later;
            size = size * 3 % (2 * piece) + 1;
        }
        stream.shutdown(Shutdown::Write).unwrap();
    })
}

fn read_all(mut stream: TcpStream) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = Vec::new();
        stream.read_to_end(&mut all).unwrap();
        all
    })
}

#[test]
fn both_ways_at_once_every_byte_arrives_and_is_counted() {
    on_every_backend(|options| {
        for (count, piece) in [(1, 1), (100_000, 700), (5_000_000, 300_000)] {
            let mut pair = Pair::joined(options);
            let (up, down) = (bytes(count, 1), bytes(count + 13, 2));
            let clone = |stream: &TcpStream| stream.try_clone().unwrap();
            let writers = [
                write_all(clone(&pair.client), up.clone(), piece),
                write_all(clone(&pair.upstream), down.clone(), piece),
            ];
            let at_client = read_all(clone(&pair.client));
            let at_upstream = read_all(clone(&pair.upstream));
            assert!(pair.run_beside(at_upstream) == up, "{options:?} {count} up");
            assert!(pair.run_beside(at_client) == down, "{options:?} {count} down");
            writers.into_iter().for_each(|writer| writer.join().unwrap());
            let both_ended = |pair: &Pair| {
                [ACCEPTED, DIALLED].iter().all(|side| pair.has_seen(*side, &Seen::Ended))
            };
            pair.run_until(both_ended);
            let (up, down) = (up.len().try_into().unwrap(), down.len().try_into().unwrap());
            assert_eq!((pair.moved(ACCEPTED), pair.moved(DIALLED)), ((up, down), (down, up)));
            let ends = pair.bench.seen.iter().filter(|(_, seen)| *seen == Seen::Ended).count();
            assert_eq!(ends, 2, "each is told once");
            assert!(!pair.bench.seen.iter().any(|(_, seen)| matches!(seen, Seen::Closed(_))));
        }
    });
}

#[test]
fn one_side_may_end_and_still_get_its_answer() {
    on_every_backend(|options| {
        let mut pair = Pair::joined(options);
        pair.client.write_all(b"question").unwrap();
        pair.client.shutdown(Shutdown::Write).unwrap();
        let question = read_all(pair.upstream.try_clone().unwrap());
        assert_eq!(pair.run_beside(question), b"question");
        pair.run_until(|pair| pair.has_seen(ACCEPTED, &Seen::Ended));
        assert!(!pair.has_seen(DIALLED, &Seen::Ended));
        // Nothing turns while nothing happens: the side that has ended is not asked again.
        let before = pair.bench.seen.len();
        pair.bench.step(Some(clock::mono().after(Duration::from_millis(20))));
        assert_eq!(pair.bench.seen.len(), before);
        pair.upstream.write_all(b"answer").unwrap();
        pair.upstream.shutdown(Shutdown::Write).unwrap();
        let answer = read_all(pair.client.try_clone().unwrap());
        assert_eq!(pair.run_beside(answer), b"answer");
        pair.run_until(|pair| pair.has_seen(DIALLED, &Seen::Ended));
    });
}

#[test]
fn what_is_to_come_first_does_and_what_came_before_the_join_is_kept() {
    on_every_backend(|options| {
        let mut pair = Pair::held(options);
        pair.client.write_all(b"header").unwrap();
        let held = |pair: &Pair| pair.bench.received(ACCEPTED);
        pair.bench.step(Some(clock::mono().after(Duration::from_millis(20))));
        assert_eq!(held(&pair), b"", "a held connection is not read from");
        pair.bench.io.receive_once(ACCEPTED);
        pair.run_until(|pair| !held(pair).is_empty());
        pair.client.write_all(b"payload").unwrap();
        pair.bench.step(Some(clock::mono().after(Duration::from_millis(20))));
        assert_eq!(held(&pair), b"header", "once");
        pair.client.shutdown(Shutdown::Write).unwrap();
        let first = bytes(RELAY_BUFFER_BYTES, 3);
        pair.bench.io.join(ACCEPTED, DIALLED, &first);
        let all = read_all(pair.upstream.try_clone().unwrap());
        let all = pair.run_beside(all);
        assert!(all == [&first, &b"payload"[..]].concat(), "{options:?}: {}", all.len());
    });
}

#[test]
fn a_reset_is_told_and_can_be_passed_on() {
    on_every_backend(|options| {
        let pair = Pair::joined(options);
        let client = Socket::from(pair.client.try_clone().unwrap());
        client.set_linger(Some(Duration::ZERO)).unwrap();
        let Pair { mut bench, client: also, mut upstream } = pair;
        drop((client, also));
        bench.run_until(|seen| seen.last() == Some(&(ACCEPTED, Seen::Closed(Failure::Reset))));
        bench.io.reset(DIALLED);
        let error = std::thread::spawn(move || upstream.read(&mut [0; 8]).unwrap_err());
        while !error.is_finished() {
            bench.step(Some(clock::mono().after(Duration::from_millis(2))));
        }
        assert_eq!(error.join().unwrap().kind(), ErrorKind::ConnectionReset, "{options:?}");
    });
}

/// Nobody reads what it sends, and nobody else sends anything: no read and no write tells of it.
#[test]
fn a_reset_of_one_who_is_not_read_is_told() {
    on_every_backend(|options| {
        for fill in [fill, |pair: &mut Pair, _: &TcpStream| fill_at_once(pair).0.len()] {
            let mut pair = Pair::joined(options);
            let upstream = pair.upstream.try_clone().unwrap();
            let _taken = fill(&mut pair, &upstream);
            drop(upstream);
            let Pair { mut bench, client: _silent, upstream } = pair;
            Socket::from(upstream).set_linger(Some(Duration::ZERO)).unwrap();
            bench.run_until(|seen| seen.contains(&(DIALLED, Seen::Closed(Failure::Reset))));
        }
    });
}

/// What one side writes until the kernel and we take no more.
fn fill(pair: &mut Pair, mut stream: &TcpStream) -> usize {
    stream.set_nonblocking(true).unwrap();
    let (mut taken, mut quiet) = (0, 0);
    while quiet < 20 {
        let written = stream.write(&bytes(4_096, taken)).unwrap_or(0);
        pair.bench.step(Some(clock::mono().after(Duration::from_millis(1))));
        quiet = if written == 0 { quiet + 1 } else { 0 };
        taken += written;
        assert!(taken < 256 << 20, "never stops reading");
    }
    stream.set_nonblocking(false).unwrap();
    taken
}

#[test]
fn a_side_that_does_not_read_stops_the_other_and_costs_one_buffer() {
    on_every_backend(|options| {
        let mut pair = Pair::joined(options);
        let upstream = pair.upstream.try_clone().unwrap();
        let taken = fill(&mut pair, &upstream);
        let ((_, written), (read, _)) = (pair.moved(ACCEPTED), pair.moved(DIALLED));
        let waiting = usize::try_from(read - written).unwrap();
        assert!(waiting <= RELAY_PIPE_BYTES, "{options:?}: {waiting} of {taken}");
        assert!(waiting > 0 && read > 0, "{options:?}: {waiting} of {taken}");
        // The other way is not held up.
        pair.client.write_all(b"still here").unwrap();
        let mut got = [0; 10];
        pair.bench.step(Some(clock::mono().after(Duration::from_millis(20))));
        pair.bench.step(Some(clock::mono().after(Duration::from_millis(20))));
        pair.upstream.read_exact(&mut got).unwrap();
        assert_eq!(&got, b"still here");
        // Nothing was lost: all of it comes once it is wanted, and the end behind it.
        pair.upstream.shutdown(Shutdown::Write).unwrap();
        let all = read_all(pair.client.try_clone().unwrap());
        assert_eq!(pair.run_beside(all).len(), taken);
    });
}

#[test]
fn both_sides_may_stall_and_either_may_die_meanwhile() {
    on_every_backend(|options| {
        let mut pair = Pair::joined(options);
        let upstream = pair.upstream.try_clone().unwrap();
        let client = pair.client.try_clone().unwrap();
        fill(&mut pair, &upstream);
        fill(&mut pair, &client);
        drop(client);
        drop(upstream);
        let Pair { mut bench, client, upstream } = pair;
        // Unread bytes make it a reset.
        drop(client);
        let end = (ACCEPTED, Seen::Closed(Failure::Reset));
        bench.run_until(|seen| seen.contains(&end));
        bench.io.close(DIALLED);
        bench.seen.clear();
        bench.step(Some(clock::mono().after(Duration::from_millis(20))));
        assert_eq!(bench.seen, []);
        drop(upstream);
    });
}

#[test]
fn a_connection_that_ends_before_the_join_joins_nothing() {
    on_every_backend(|options| {
        let mut pair = Pair::held(options);
        pair.bench.io.close(ACCEPTED);
        pair.bench.io.join(ACCEPTED, DIALLED, b"lost");
        pair.bench.seen.clear();
        pair.bench.step(Some(clock::mono().after(Duration::from_millis(20))));
        assert_eq!(pair.bench.seen, []);
        pair.bench.io.close(DIALLED);
        assert_eq!(pair.upstream.read(&mut [0; 8]).unwrap(), 0);
    });
}

/// More connections than the pool has buffers, all with more to say than one buffer, and half of
/// them to somebody who does not listen: nobody waits for those.
#[test]
fn those_who_do_not_read_take_nothing_from_the_others() {
    const PAIRS: usize = 160;
    on_every_backend(|options| {
        let mut bench = Bench::open(IoOptions { stamps: false, ..options });
        let (front, to) = local_listener();
        let back = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let back_to = back.local_addr().unwrap();
        let (mut silent, mut readers) = (Vec::new(), Vec::new());
        for pair in 0..u32::try_from(PAIRS).unwrap() {
            let client = patient(TcpStream::connect(to).unwrap());
            let accepted = Socket::from(front.accept().unwrap().0);
            let (one, other) = (FlowId(2 * pair), FlowId(2 * pair + 1));
            bench.io.hold(one, accepted);
            let socket = socket::prober(back_to, &SocketOptions::default()).unwrap();
            bench.io.connect_held(other, socket, back_to);
            bench.run_until(|seen| seen.contains(&(other, Seen::Connected)));
            bench.io.join(one, other, b"");
            let upstream = patient(back.accept().unwrap().0);
            if pair % 2 == 0 {
                socket2::SockRef::from(&upstream).set_recv_buffer_size(4_096).unwrap();
                client.set_nonblocking(true).unwrap();
                silent.push((client, upstream));
            } else {
                readers.push((client, upstream));
            }
        }
        for _ in 0..200 {
            for (client, _) in &silent {
                let mut client = client;
                let _ = client.write(&[1; RELAY_BUFFER_BYTES]);
            }
            bench.step(Some(clock::mono().after(Duration::from_millis(1))));
        }
        for (number, (client, upstream)) in readers.into_iter().enumerate() {
            let sent = bytes(3 * RELAY_BUFFER_BYTES, number);
            let writer = write_all(client, sent.clone(), 10_000);
            let reader = read_all(upstream);
            while !reader.is_finished() {
                bench.step(Some(clock::mono().after(Duration::from_millis(2))));
            }
            assert!(reader.join().unwrap() == sent, "{options:?} {number}");
            writer.join().unwrap();
        }
    });
}

/// Writes in large pieces until nobody takes more; what was taken, and what waits in the relay.
fn fill_at_once(pair: &mut Pair) -> (Vec<u8>, u64) {
    pair.bench.seen.clear();
    let sent = bytes(99_991, 5).repeat(800);
    let mut upstream = &pair.upstream;
    upstream.set_nonblocking(true).unwrap();
    let (mut taken, mut quiet) = (0, 0);
    while quiet < 20 {
        let written = upstream.write(&sent[taken..]).unwrap_or(0);
        pair.bench.step(Some(clock::mono().after(Duration::from_millis(1))));
        quiet = if written == 0 { quiet + 1 } else { 0 };
        taken += written;
    }
    upstream.set_nonblocking(false).unwrap();
    assert!(taken < sent.len(), "everything was taken, and nothing waits");
    let ((_, written), (read, _)) = (pair.moved(ACCEPTED), pair.moved(DIALLED));
    (sent[..taken].to_vec(), read - written)
}

fn read_exactly(mut stream: TcpStream, count: usize) -> JoinHandle<Vec<u8>> {
    std::thread::spawn(move || {
        let mut all = vec![0; count];
        stream.read_exact(&mut all).unwrap();
        all
    })
}

fn both_ways(pair: &Pair) -> [(TcpStream, TcpStream); 2] {
    let clone = |stream: &TcpStream| stream.try_clone().unwrap();
    [(clone(&pair.upstream), clone(&pair.client)), (clone(&pair.client), clone(&pair.upstream))]
}

#[test]
fn what_comes_in_bulk_is_moved_as_it_is_and_what_comes_in_words_is_copied_again() {
    on_every_backend(|options| {
        let mut pair = Pair::joined(options);
        for _ in 0..3 {
            let (sent, waiting) = fill_at_once(&mut pair);
            assert!(0 < waiting && waiting <= RELAY_PIPE_BYTES as u64, "{options:?}: {waiting}");
            // Only a pipe takes more than this at once; and there is none at first.
            let reads: Vec<u64> = pair.reads(DIALLED).collect();
            let most = reads.iter().max().unwrap();
            assert!(reads[0] <= RELAY_BUFFER_BYTES as u64, "{options:?}: {reads:?}");
            assert_eq!(
                *most > RELAY_BUFFER_BYTES as u64,
                cfg!(target_os = "linux"),
                "{options:?}: {reads:?}"
            );
            let reader = read_exactly(pair.client.try_clone().unwrap(), sent.len());
            assert!(pair.run_beside(reader) == sent, "{options:?}");
            // Both ways, and more often than it takes to be taken for somebody of few words.
            for word in 0..20_u8 {
                for (mut from, to) in both_ways(&pair) {
                    from.write_all(&[word; 100]).unwrap();
                    let reader = read_exactly(to, 100);
                    assert_eq!(pair.run_beside(reader), [word; 100]);
                }
            }
        }
    });
}
