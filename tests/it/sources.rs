//! A web server and a name server that say what a test wants, well or badly. The next answer flows
//! in, questions are answered with it until the value is gone.

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// What the web server answers.
#[derive(Clone, Debug)]
pub(crate) enum Page {
    /// This, as JSON.
    Json(String),
    /// These bytes instead of a response.
    Bytes(Vec<u8>),
    /// A response that says to be longer than it is.
    CutOff(String),
    /// Spaces without an end.
    Endless,
    /// Nothing.
    Silence,
}

/// What the name server answers.
#[derive(Clone, Debug)]
pub(crate) enum Records {
    /// These addresses, for so many seconds.
    Addresses(Vec<Ipv4Addr>, u32),
    /// That there is no such name.
    NoSuchName,
    /// That it failed (SERVFAIL).
    Failure,
    /// Something that is no answer.
    Garbage,
    /// That the answer does not fit; nobody answers by TCP.
    CutOff,
    /// Nothing.
    Silence,
}

/// A server whose answer is an `A`.
pub(crate) struct Source<A> {
    pub(crate) address: SocketAddr,
    answer: Arc<Mutex<A>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl<A: Clone + Send + 'static> Source<A> {
    /// Answers this from now on.
    pub(crate) fn say(&self, answer: A) {
        *self.answer.lock().unwrap() = answer;
    }

    fn start(
        address: SocketAddr,
        answer: A,
        mut serve: impl FnMut(&dyn Fn() -> A, &AtomicBool) + Send + 'static,
    ) -> Self {
        let (answer, stop) = (Arc::new(Mutex::new(answer)), Arc::<AtomicBool>::default());
        let (current, stopped) = (Arc::clone(&answer), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                serve(&|| current.lock().unwrap().clone(), &stopped);
            }
        });
        Self { address, answer, stop, thread: Some(thread) }
    }
}

impl<A> Drop for Source<A> {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        let thread = self.thread.take().unwrap();
        // Its own failure has been printed.
        drop(thread.join());
    }
}

/// Starts the web server.
pub(crate) fn web(page: Page) -> Source<Page> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let address = listener.local_addr().unwrap();
    Source::start(address, page, move |page, stopped| match listener.accept() {
        Ok((stream, _)) => {
            stream.set_nonblocking(false).unwrap();
            // Whoever asks may leave in the middle of it.
            drop(answer_page(stream, page(), stopped));
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => thread::sleep(PAUSE),
        Err(error) => panic!("{error}"),
    })
}

/// Starts the name server.
pub(crate) fn names(records: Records) -> Source<Records> {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(PAUSE)).unwrap();
    let address = socket.local_addr().unwrap();
    let mut question = [0; 1_500];
    Source::start(address, records, move |records, _| {
        if let Ok((length, from)) = socket.recv_from(&mut question)
            && let Some(answer) = answer_question(&question[..length], &records())
        {
            socket.send_to(&answer, from).unwrap();
        }
    })
}

fn answer_page(mut stream: TcpStream, page: Page, stopped: &AtomicBool) -> std::io::Result<()> {
    stream.set_write_timeout(Some(Duration::from_secs(10)))?;
    let mut request = [0; 4_096];
    let _length = stream.read(&mut request)?;
    let head = |length: usize| {
        format!(
            "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        )
    };
    match page {
        Page::Json(body) => stream.write_all((head(body.len()) + &body).as_bytes()),
        Page::Bytes(bytes) => stream.write_all(&bytes),
        Page::CutOff(body) => stream.write_all((head(body.len() + 100) + &body).as_bytes()),
        Page::Endless => {
            stream.write_all(head(usize::MAX / 2).as_bytes())?;
            let spaces = vec![b' '; 1 << 20];
            while !stopped.load(Ordering::Relaxed) {
                stream.write_all(&spaces)?;
            }
            Ok(())
        }
        Page::Silence => {
            // Until the other side gives up.
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            stream.read(&mut request).map(drop)
        }
    }
}

/// A message of RFC 1035, section 4.1, with the question of the one that came.
fn answer_question(message: &[u8], records: &Records) -> Option<Vec<u8>> {
    let name_length = message[12..].iter().position(|&byte| byte == 0)?;
    let question = message.get(12..12 + name_length + 5)?;
    let (flags, addresses, ttl): (u16, &[Ipv4Addr], u32) = match records {
        Records::Addresses(addresses, ttl) => (0x8180, addresses, *ttl),
        Records::NoSuchName => (0x8183, &[], 0),
        Records::Failure => (0x8182, &[], 0),
        Records::CutOff => (0x8380, &[], 0),
        Records::Garbage => {
            return Some([&message[..2], &[0x81, 0x80], &[0xff; 40]].concat());
        }
        Records::Silence => return None,
    };
    let count = u16::try_from(addresses.len()).unwrap();
    let mut answer = message[..2].to_vec();
    for word in [flags, 1, count, 0, 0] {
        answer.extend(word.to_be_bytes());
    }
    answer.extend(question);
    for address in addresses {
        // The question's name, type A, class IN.
        answer.extend([0xc0, 12, 0, 1, 0, 1]);
        answer.extend(ttl.to_be_bytes());
        answer.extend([0, 4]);
        answer.extend(address.octets());
    }
    Some(answer)
}

const PAUSE: Duration = Duration::from_millis(10);
