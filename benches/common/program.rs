//! The release binary as a process of its own: arguments flow in, the addresses that it logged and
//! its answers over HTTP flow out. It ends with its [`Program`].

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, Command, Stdio};
use std::thread;

/// A running process.
pub(crate) struct Program {
    pub(crate) child: Child,
    /// Where it serves `/metrics`.
    pub(crate) http: SocketAddr,
}

/// What a scrape gave. Nothing but the beginning is kept: the scraper is to cost this machine
/// little, as it usually runs on another one.
pub(crate) struct Scrape {
    /// The first 64 KiB.
    pub(crate) head: Vec<u8>,
    pub(crate) bytes: usize,
}

impl Program {
    /// Starts the binary with these arguments on a free port for HTTP, and waits for the line of
    /// its log that has this message; returns the address in that line too, if there is one. With
    /// `run` the file says where HTTP is, and that the log is JSON.
    pub(crate) fn start(
        arguments: &[&str],
        stdout: Stdio,
        awaited: &str,
    ) -> io::Result<(Self, Option<SocketAddr>)> {
        let mut child = Command::new(env!("CARGO_BIN_EXE_rttscope"))
            .args(arguments)
            .args(if arguments.first() == Some(&"run") { &[][..] } else { &HTTP_AND_JSON })
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(Stdio::piped())
            .spawn()?;
        let mut log = BufReader::new(child.stderr.take().expect("it is piped"));
        let mut http = None;
        let mut line = String::new();
        let address = loop {
            line.clear();
            if log.read_line(&mut line)? == 0 {
                return Err(io::Error::other(format!("{arguments:?} ended before {awaited:?}")));
            }
            let address = string_after(&line, "\"address\":\"").and_then(|at| at.parse().ok());
            if line.contains("\"http listening\"") {
                http = address;
            }
            if line.contains(awaited) {
                break address;
            }
        };
        // A full pipe would stop it.
        thread::spawn(move || io::copy(&mut log, &mut io::sink()));
        let http = http.ok_or_else(|| io::Error::other("it logged no HTTP address"))?;
        Ok((Self { child, http }, address))
    }

    /// One scrape over a new connection.
    pub(crate) fn scrape(&self) -> io::Result<Scrape> {
        download(self.http)
    }
}

/// Asks for `/metrics` over a new connection.
pub(crate) fn download(from: SocketAddr) -> io::Result<Scrape> {
    let mut stream = TcpStream::connect(from)?;
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")?;
    let mut scrape = Scrape { head: Vec::new(), bytes: 0 };
    let mut buffer = vec![0; 1 << 16];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            bytes => {
                scrape.bytes += bytes;
                let missing = buffer.len().saturating_sub(scrape.head.len());
                scrape.head.extend_from_slice(&buffer[..bytes.min(missing)]);
            }
        }
    }
    if scrape.head.starts_with(b"HTTP/1.1 200 ") {
        Ok(scrape)
    } else {
        Err(io::Error::other("a scrape was refused"))
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn string_after<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let (_, rest) = line.split_once(key)?;
    rest.split_once('"').map(|(value, _)| value)
}

const HTTP_AND_JSON: [&str; 4] = ["--web.listen-address", "127.0.0.1:0", "--log.format", "json"];
