//! Clients of the responder: one that compares every byte, and some that behave badly.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use crate::run::PATIENCE;
use crate::site::Place;

/// Connects from `place`; reads and writes give up after [`PATIENCE`].
pub(crate) fn connect(place: &Place, address: SocketAddr) -> TcpStream {
    let stream = place.run(|| TcpStream::connect_timeout(&address, PATIENCE)).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends `bytes` in parts of these lengths (repeated), with `gap` between them, and checks that
/// the same bytes come back, no more and no fewer.
pub(crate) fn exchange(stream: &TcpStream, bytes: &[u8], parts: &[usize], gap: Duration) {
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut rest = bytes;
            for &part in parts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (now, later) = rest.split_at(part.min(rest.len()));
                (&*stream).write_all(now).unwrap();
                rest = later;
                thread::sleep(gap);
            }
        });
        let mut echoed = vec![0; bytes.len()];
        (&*stream).read_exact(&mut echoed).unwrap();
        if let Some(at) = (0..bytes.len()).find(|&at| bytes[at] != echoed[at]) {
            panic!("byte {at} of {} came back as {:#x}", bytes.len(), echoed[at]);
        }
    });
}

/// Sends one whole frame and checks that it comes back.
pub(crate) fn ping(stream: &TcpStream, frame: &[u8]) {
    exchange(stream, frame, &[frame.len()], Duration::ZERO);
}

/// Whether the peer closes or resets the connection within `time`, reading what comes before.
pub(crate) fn is_closed_within(stream: &TcpStream, time: Duration) -> bool {
    let started = Instant::now();
    let mut buffer = [0; 4096];
    while let Some(left) = time.checked_sub(started.elapsed()).filter(|left| !left.is_zero()) {
        stream.set_read_timeout(Some(left)).unwrap();
        match (&*stream).read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                _ => return true,
            },
        }
    }
    false
}

/// Writes until the peer takes no more for `stall`, and says how many bytes it took. Reads none.
pub(crate) fn write_until_stalled(stream: &TcpStream, stall: Duration, bytes_max: usize) -> usize {
    stream.set_write_timeout(Some(stall)).unwrap();
    let block = [0x5a; 4096];
    let mut written = 0;
    while written < bytes_max {
        match (&*stream).write(&block) {
            Ok(length) => written += length,
            Err(_) => break,
        }
    }
    written
}

/// Bytes that look like nothing in particular, the same for the same seed.
pub(crate) fn noise(mut seed: u64, length: usize) -> Vec<u8> {
    // The 64-bit xorshift of Marsaglia (2003).
    std::iter::repeat_with(|| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed.to_le_bytes()
    })
    .flatten()
    .take(length)
    .collect()
}
