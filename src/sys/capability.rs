//! What works here, found out by trying it: a real exchange over loopback on each backend, so that
//! a capability says what will happen and not what a version number promises.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::Socket;

use super::socket::{self, SocketOptions};
use super::{ClockChoice, Io, IoChoice, IoEvent, IoOptions, clock, platform};
use crate::event::{Event, FlowId, TxStage};
use crate::host::Capability;

/// What [`detect`] found.
#[derive(Debug)]
pub struct Detected {
    /// Every ability, available or not, in a fixed order.
    pub capabilities: Vec<Capability>,
    /// Whether kernel stamps may be asked for: both directions work and the choice allows it.
    pub stamps: bool,
    /// Keeps the kernel stamping while this value lives.
    _stamping: Option<Socket>,
}

impl Detected {
    /// What is missing although `backend` did not choose to do without.
    pub fn missing(&self, backend: IoChoice) -> impl Iterator<Item = &Capability> {
        let asked = backend != IoChoice::Poll;
        self.capabilities
            .iter()
            .filter(move |found| !found.available && (asked || found.name != "io_uring"))
    }
}

/// Which stamps one exchange brought.
#[derive(Clone, Copy, Debug, Default)]
struct StampsSeen {
    tx: bool,
    rx: bool,
}

/// Tries the backend that `backend` chooses, and kernel stamps on it; on a thread that ends. What a
/// kernel does for a ring in threads of its own (`iou-wrk`; Linux 6.1 for stamps), it keeps for as
/// long as the thread that asked lives, with all privileges that this one had.
///
/// # Errors
/// If no backend opens, or the choice demands one (or a clock) that does not work here.
pub fn detect(backend: IoChoice, clock: ClockChoice) -> io::Result<Detected> {
    let trial = std::thread::Builder::new().name("trial".to_owned());
    let trial = trial.spawn(move || try_out(backend, clock))?;
    trial.join().unwrap_or_else(|_| Err(io::Error::other("the trial of this machine panicked")))
}

fn try_out(backend: IoChoice, clock: ClockChoice) -> io::Result<Detected> {
    let stamping = match platform::keep_stamping() {
        Ok(socket) => Some(socket),
        Err(error) => {
            tracing::debug!(%error, "no kernel stamps here");
            None
        }
    };
    let options = IoOptions { backend, stamps: true, ..IoOptions::default() };
    let (mut io, refused) = Io::open(&options)
        .map_err(|error| io::Error::new(error.kind(), format!("--io: {}", remedy(&error))))?;
    let gap = match (io.name(), refused) {
        ("uring", _) => None,
        (_, Some(error)) => Some(remedy(&error)),
        (_, None) => Some("not asked for (--io)".to_owned()),
    };
    let uring = Capability::new("io_uring", gap);
    let mut seen = StampsSeen::default();
    // Without a socket that can be stamped there is nothing to wait for.
    if stamping.is_some() {
        seen = exchange(&mut io).unwrap_or_else(|error| {
            tracing::debug!(%error, "the loopback exchange failed");
            StampsSeen::default()
        });
    }
    let stamp = |name, works: bool| {
        Capability::new(name, (!works).then(|| platform::STAMPS_REMEDY.to_owned()))
    };
    let capabilities =
        vec![uring, stamp("kernel_tx_stamps", seen.tx), stamp("kernel_rx_stamps", seen.rx)];
    let works = seen.tx && seen.rx;
    if clock == ClockChoice::Kernel && !works {
        let message = format!("--clock kernel: {}", platform::STAMPS_REMEDY);
        return Err(io::Error::new(io::ErrorKind::Unsupported, message));
    }
    let stamps = works && clock != ClockChoice::Application;
    Ok(Detected { capabilities, stamps, _stamping: stamping.filter(|_| stamps) })
}

fn remedy(error: &io::Error) -> String {
    platform::uring_remedy(error)
}

/// Sends a few bytes to ourselves and looks which stamps come.
fn exchange(io: &mut Io) -> io::Result<StampsSeen> {
    const LISTENER: FlowId = FlowId(0);
    const CLIENT: FlowId = FlowId(1);
    const SERVER: FlowId = FlowId(2);
    let listener = socket::listener(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)), false)?;
    let to = listener.local_addr()?.as_socket().ok_or(io::ErrorKind::AddrNotAvailable)?;
    io.listen(LISTENER, listener)?;
    io.connect(CLIENT, socket::prober(to, &SocketOptions::default())?, to);
    let mut seen = StampsSeen::default();
    let deadline = clock::mono().after(PATIENCE);
    while !(seen.tx && seen.rx) && clock::mono() < deadline {
        io.wait(Some(deadline))?;
        while let Some(completion) = io.next_completion() {
            match (completion.flow, completion.event) {
                (_, IoEvent::Accepted(socket)) => io.attach(SERVER, socket),
                (CLIENT, IoEvent::Flow(Event::Connected)) => io.send(CLIENT, b"stamped?"),
                (SERVER, IoEvent::Flow(Event::Received { .. })) => io.send(SERVER, b"stamped!"),
                (CLIENT, IoEvent::Flow(Event::Received { stamps, .. })) => {
                    seen.rx |= stamps.sw.is_some();
                    if seen.rx && !seen.tx {
                        // The stamp of the first send may still be on its way: look once more.
                        continue;
                    }
                    if !seen.rx {
                        // The first packet after switching stamps on may lack one.
                        io.send(CLIENT, b"stamped?");
                    }
                }
                (CLIENT, IoEvent::Flow(Event::Stamped(stamp))) => {
                    seen.tx |= matches!(stamp.stage, TxStage::Software(_));
                }
                (_, IoEvent::Flow(Event::Closed(_)) | IoEvent::AcceptFailed(_)) => {
                    return Ok(seen);
                }
                _ => {}
            }
        }
    }
    Ok(seen)
}

/// How long stamps are waited for. Loopback answers within a few ten microseconds, but a kernel
/// work item must run first if nobody else wanted receive stamps.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_capability_is_listed_and_a_missing_one_has_a_reason() {
        for backend in [IoChoice::Auto, IoChoice::Poll] {
            let detected = detect(backend, ClockChoice::Auto).expect("a backend opens");
            let names: Vec<_> = detected.capabilities.iter().map(|found| found.name).collect();
            assert_eq!(names, ["io_uring", "kernel_tx_stamps", "kernel_rx_stamps"]);
            for found in &detected.capabilities {
                assert_eq!(found.available, found.reason.is_empty(), "{found:?}");
            }
        }
    }

    #[test]
    fn a_backend_that_was_not_asked_for_is_not_missing() {
        let detected = detect(IoChoice::Poll, ClockChoice::Auto).expect("poll opens");
        let uring = |backend| detected.missing(backend).any(|found| found.name == "io_uring");
        assert!(uring(IoChoice::Auto) && !uring(IoChoice::Poll));
    }

    #[test]
    fn the_application_clock_asks_for_no_stamps() {
        let detected = detect(IoChoice::Poll, ClockChoice::Application).expect("poll opens");
        assert!(!detected.stamps);
    }
}
