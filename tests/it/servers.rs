//! Servers that behave like the seeds' responders, or badly. A place and a behaviour go in; an
//! address to probe comes out, and what each connection received. A behaviour is a function that
//! ends with its connection: `None` means that the peer went away or the test is over.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use crate::frames;
use crate::site::Place;

/// A server in threads of this process; gone when dropped.
#[derive(Debug)]
pub(crate) struct Server {
    /// Where it listens.
    pub(crate) address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// One accepted connection.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    shared: Arc<Shared>,
    /// 0 for the first connection of the server.
    pub(crate) number: usize,
}

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    accepted: AtomicUsize,
    replies: AtomicUsize,
    /// What each connection received.
    received: Mutex<Vec<Vec<u8>>>,
    arrival: Condvar,
}

impl Server {
    /// Starts a server on a free port.
    pub(crate) fn start(
        place: &Place,
        ip: IpAddr,
        behaviour: impl Fn(&mut Connection) -> Option<()> + Send + Sync + 'static,
    ) -> Self {
        Self::start_on(place, SocketAddr::new(ip, 0), 0, behaviour)
    }

    /// Starts a server on this address. With `receive_buffer_bytes` other than 0 its connections
    /// have a receive buffer of about that size.
    pub(crate) fn start_on(
        place: &Place,
        address: SocketAddr,
        receive_buffer_bytes: usize,
        behaviour: impl Fn(&mut Connection) -> Option<()> + Send + Sync + 'static,
    ) -> Self {
        let listener = place.run(|| TcpListener::bind(address)).unwrap();
        let socket = SockRef::from(&listener);
        if receive_buffer_bytes > 0 {
            socket.set_recv_buffer_size(receive_buffer_bytes).unwrap();
        }
        // On Linux this also bounds `accept`, so that the acceptor sees the stop flag.
        socket.set_read_timeout(Some(POLL_PAUSE)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let accepting = Arc::clone(&shared);
        let acceptor =
            thread::spawn(move || accept_until_stopped(&listener, &accepting, behaviour));
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// How many connections it accepted.
    pub(crate) fn accepted(&self) -> usize {
        self.shared.accepted.load(Ordering::Acquire)
    }

    /// How many replies its behaviour counted.
    pub(crate) fn replies(&self) -> usize {
        self.shared.replies.load(Ordering::Acquire)
    }

    /// What each connection received up to now.
    pub(crate) fn received(&self) -> Vec<Vec<u8>> {
        self.shared.received.lock().unwrap().clone()
    }

    /// Waits until the connections together have received this many bytes.
    pub(crate) fn wait_for_bytes(&self, count: usize, patience: Duration) {
        let guard = self.shared.received.lock().unwrap();
        let too_few = |all: &mut Vec<Vec<u8>>| all.iter().map(Vec::len).sum::<usize>() < count;
        let (_guard, result) =
            self.shared.arrival.wait_timeout_while(guard, patience, too_few).unwrap();
        assert!(!result.timed_out(), "fewer than {count} bytes arrived");
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Release);
        if let Some(acceptor) = self.acceptor.take() {
            // A panic of the acceptor has already failed what waited for it.
            drop(acceptor.join());
        }
    }
}

impl Connection {
    /// Reads what is there, at least one byte; `None` at the end.
    pub(crate) fn read(&mut self, buffer: &mut [u8]) -> Option<usize> {
        loop {
            if self.shared.stop.load(Ordering::Acquire) {
                return None;
            }
            match self.stream.read(buffer) {
                Ok(0) => return None,
                Ok(length) => {
                    let mut received = self.shared.received.lock().unwrap();
                    received[self.number].extend_from_slice(&buffer[..length]);
                    self.shared.arrival.notify_all();
                    return Some(length);
                }
                Err(error) if is_waiting(&error) => {}
                Err(_) => return None,
            }
        }
    }

    /// Reads exactly this many bytes.
    pub(crate) fn read_frame(&mut self, length: usize) -> Option<Vec<u8>> {
        let mut frame = vec![0; length];
        let mut filled = 0;
        while filled < length {
            filled += self.read(&mut frame[filled..])?;
        }
        Some(frame)
    }

    /// Writes all of these bytes.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Option<()> {
        while !bytes.is_empty() {
            if self.shared.stop.load(Ordering::Acquire) {
                return None;
            }
            match self.stream.write(bytes) {
                Ok(length) => bytes = &bytes[length..],
                Err(error) if is_waiting(&error) => {}
                Err(_) => return None,
            }
        }
        Some(())
    }

    /// Writes a reply and counts it.
    pub(crate) fn reply(&mut self, bytes: &[u8]) -> Option<()> {
        self.write(bytes)?;
        self.shared.replies.fetch_add(1, Ordering::AcqRel);
        Some(())
    }

    /// The same connection for another thread, to write while this one reads.
    fn twin(&self) -> Self {
        let stream = self.stream.try_clone().unwrap();
        Self { stream, shared: Arc::clone(&self.shared), number: self.number }
    }

    /// Does nothing for this long, or until the test is over.
    pub(crate) fn pause(&self, time: Duration) -> Option<()> {
        let started = Instant::now();
        while let Some(left) = time.checked_sub(started.elapsed()) {
            if self.shared.stop.load(Ordering::Acquire) {
                return None;
            }
            thread::sleep(left.min(POLL_PAUSE));
        }
        Some(())
    }

    /// Echoes every byte as it comes until the end.
    pub(crate) fn echo_on(&mut self) -> Option<()> {
        let mut buffer = [0; 4096];
        loop {
            let length = self.read(&mut buffer)?;
            self.reply(&buffer[..length])?;
        }
    }
}

/// Echoes bytes as they come: what any byte-stream echo does.
pub(crate) fn raw_echo(connection: &mut Connection) -> Option<()> {
    connection.echo_on()
}

/// The seed's v0.2: whole 16-byte frames of any content.
pub(crate) fn like_v02(connection: &mut Connection) -> Option<()> {
    loop {
        let frame = connection.read_frame(frames::V1_BYTES)?;
        connection.reply(&frame)?;
    }
}

/// The seed's HEAD: whole 24-byte frames with the magic, else it closes.
pub(crate) fn strict_v2(connection: &mut Connection) -> Option<()> {
    loop {
        let frame = connection.read_frame(frames::V2_BYTES)?;
        if !frame.starts_with(&frames::V2_MAGIC) {
            return None;
        }
        connection.reply(&frame)?;
    }
}

/// Closes every connection at once.
pub(crate) fn accept_then_close(_: &mut Connection) -> Option<()> {
    None
}

/// Reads everything and says nothing.
pub(crate) fn never_reply(connection: &mut Connection) -> Option<()> {
    let mut buffer = [0; 4096];
    loop {
        connection.read(&mut buffer)?;
    }
}

/// Echoes, but neither reads nor writes for `time` after the first connection's `after` frames.
pub(crate) fn stall_once(
    frame_bytes: usize,
    after: usize,
    time: Duration,
) -> impl Fn(&mut Connection) -> Option<()> {
    move |connection| {
        if connection.number == 0 {
            for _ in 0..after {
                let frame = connection.read_frame(frame_bytes)?;
                connection.reply(&frame)?;
            }
            connection.pause(time)?;
        }
        connection.echo_on()
    }
}

/// Splits the first replies, each at another byte, with `gap` between the parts; then echoes.
pub(crate) fn split_replies(
    frame_bytes: usize,
    splits: Vec<usize>,
    gap: Duration,
) -> impl Fn(&mut Connection) -> Option<()> {
    move |connection| {
        for &split in &splits {
            let frame = connection.read_frame(frame_bytes)?;
            connection.write(&frame[..split])?;
            connection.pause(gap)?;
            connection.reply(&frame[split..])?;
        }
        connection.echo_on()
    }
}

/// Answers each frame with what `answer` makes of it and of its number, from 1.
pub(crate) fn answer_frames(
    frame_bytes: usize,
    answer: impl Fn(usize, Vec<u8>) -> Vec<u8>,
) -> impl Fn(&mut Connection) -> Option<()> {
    move |connection| {
        for number in 1.. {
            let frame = connection.read_frame(frame_bytes)?;
            let reply = answer(number, frame);
            if !reply.is_empty() {
                connection.reply(&reply)?;
            }
        }
        None
    }
}

/// Echoes every byte, each `delay` after it came, without waiting in between.
pub(crate) fn delay_line(delay: Duration) -> impl Fn(&mut Connection) -> Option<()> {
    move |connection| {
        let (sender, arrived) = channel::<(Instant, Vec<u8>)>();
        let mut writer = connection.twin();
        let writing = thread::spawn(move || {
            for (at, bytes) in arrived {
                writer.pause((at + delay).saturating_duration_since(Instant::now()))?;
                writer.reply(&bytes)?;
            }
            Some(())
        });
        let mut buffer = [0; 4096];
        while let Some(length) = connection.read(&mut buffer) {
            sender.send((Instant::now(), buffer[..length].to_vec())).ok()?;
        }
        drop(sender);
        writing.join().unwrap()
    }
}

/// Echoes `frames` frames and then closes, on every connection.
pub(crate) fn close_after(
    frame_bytes: usize,
    frames: usize,
) -> impl Fn(&mut Connection) -> Option<()> {
    move |connection| {
        for _ in 0..frames {
            let frame = connection.read_frame(frame_bytes)?;
            connection.reply(&frame)?;
        }
        None
    }
}

/// An address where nobody listens and nobody else can: the socket is bound and held.
pub(crate) fn refusing_address(place: &Place, ip: IpAddr) -> (Socket, SocketAddr) {
    place.run(|| {
        let domain = if ip.is_ipv6() { Domain::IPV6 } else { Domain::IPV4 };
        let socket = Socket::new(domain, Type::STREAM, None).unwrap();
        socket.bind(&SocketAddr::new(ip, 0).into()).unwrap();
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        (socket, address)
    })
}

fn accept_until_stopped(
    listener: &TcpListener,
    shared: &Arc<Shared>,
    behaviour: impl Fn(&mut Connection) -> Option<()> + Send + Sync + 'static,
) {
    let behaviour = Arc::new(behaviour);
    let mut threads = Vec::new();
    while !shared.stop.load(Ordering::Acquire) {
        let Ok((stream, _)) = listener.accept() else { continue };
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(POLL_PAUSE)).unwrap();
        stream.set_write_timeout(Some(POLL_PAUSE)).unwrap();
        let number = shared.accepted.fetch_add(1, Ordering::AcqRel);
        shared.received.lock().unwrap().push(Vec::new());
        let mut connection = Connection { stream, shared: Arc::clone(shared), number };
        let behaviour = Arc::clone(&behaviour);
        threads.push(thread::spawn(move || {
            behaviour(&mut connection);
            // Unread bytes would turn the close into a reset; an orderly end is what we mean.
            drop(connection.stream.shutdown(Shutdown::Write));
        }));
    }
    for thread in threads {
        drop(thread.join());
    }
}

fn is_waiting(error: &std::io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// How soon a thread sees that the test is over.
const POLL_PAUSE: Duration = Duration::from_millis(20);
