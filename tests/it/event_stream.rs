//! Server-sent events over a plain socket: address and path in, the names and the data of messages
//! out, as they come.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use crate::run::PATIENCE;

/// An open stream.
#[derive(Debug)]
pub(crate) struct EventStream {
    lines: BufReader<TcpStream>,
}

impl EventStream {
    /// Begins to listen; the server must answer with a stream.
    pub(crate) fn open(address: SocketAddr, path: &str) -> Self {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        // HTTP/1.0 has no chunks: the body is plain lines.
        let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut stream = Self { lines: BufReader::new(stream) };
        let status = stream.line().unwrap();
        assert!(status.contains(" 200 "), "{path}: {status}");
        while stream.line().is_some_and(|header| !header.is_empty()) {}
        stream
    }

    /// The next message; `None` once the stream has ended.
    pub(crate) fn next(&mut self) -> Option<(String, Value)> {
        let mut name = String::new();
        loop {
            let line = self.line()?;
            if let Some(event) = line.strip_prefix("event: ") {
                event.clone_into(&mut name);
            } else if let Some(data) = line.strip_prefix("data: ") {
                return Some((name, serde_json::from_str(data).unwrap()));
            }
        }
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let bytes = self.lines.read_line(&mut line).unwrap();
        (bytes > 0).then(|| line.trim_end().to_owned())
    }
}
