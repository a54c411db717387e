//! A GET over a plain socket: address and path in, status, headers and body out.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::run::PATIENCE;

/// A response that came to its end.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Header lines, names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Response {
    /// The value of a header, by its name in lower case.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// Fetches `path`, asking for OpenMetrics text.
pub(crate) fn fetch(address: SocketAddr, path: &str) -> Response {
    fetch_as(address, path, OPENMETRICS)
}

/// Fetches `path` from somebody who may not be there yet.
pub(crate) fn try_fetch(address: SocketAddr, path: &str) -> Option<Response> {
    TcpStream::connect_timeout(&address, PATIENCE).ok()?;
    Some(fetch(address, path))
}

/// Fetches `path`, asking for a content type.
pub(crate) fn fetch_as(address: SocketAddr, path: &str, accept: &str) -> Response {
    exchange(connect(address), path, &format!("Accept: {accept}\r\n")).unwrap()
}

/// A POST of nothing.
pub(crate) fn post(address: SocketAddr, path: &str) -> Response {
    ask(connect(address), "POST", path, "Content-Length: 0\r\n").unwrap()
}

/// Connects, and waits for bytes as long as for anything.
pub(crate) fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, PATIENCE).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// One GET of `path` with these further header lines, and its response.
pub(crate) fn exchange(
    stream: impl Read + Write,
    path: &str,
    headers: &str,
) -> io::Result<Response> {
    ask(stream, "GET", path, headers)
}

fn ask(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    headers: &str,
) -> io::Result<Response> {
    let request = format!("{method} {path} HTTP/1.0\r\nConnection: close\r\n{headers}\r\n");
    stream.write_all(request.as_bytes())?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    if text.is_empty() {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    Ok(parse(&text))
}

/// HTTP/1.0 has no chunks: the body is everything after the empty line.
fn parse(text: &str) -> Response {
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.lines();
    let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
    let headers = lines
        .map(|line| {
            let (name, value) = line.split_once(':').unwrap();
            (name.to_ascii_lowercase(), value.trim().to_owned())
        })
        .collect();
    Response { status, headers, body: body.to_owned() }
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0";
