//! Targets that nobody plays but us, behind a tun device: some are silent for ever, some answer
//! long after everybody has stopped waiting. SYNs flow in, late SYN-ACKs and RSTs flow out.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::kernel;
use crate::lab::Namespace;
use crate::segment::{ACK, RST, SYN, Segment};

/// Whoever asks these addresses is answered late, or never.
pub(crate) struct Late {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Late {
    /// Answers SYNs from this namespace so long after they came.
    pub(crate) fn start(namespace: &Namespace, late_by: Duration) -> Self {
        let device = namespace.run(|| kernel::tun(DEVICE).unwrap());
        namespace.ip(&format!("address add {OURS}/24 dev {DEVICE}")).unwrap();
        namespace.ip(&format!("link set {DEVICE} up")).unwrap();
        let (stop, answered) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&answered));
        let thread = thread::spawn(move || answer(device, late_by, &stopped, &counted));
        Self { stop, answered, thread: Some(thread) }
    }

    /// Whoever asks here is told late that the port is open.
    pub(crate) fn open() -> SocketAddr {
        SocketAddrV4::new(THEIRS, OPEN).into()
    }

    /// Whoever asks here is told late that the port is closed.
    pub(crate) fn closed() -> SocketAddr {
        SocketAddrV4::new(THEIRS, CLOSED).into()
    }

    /// Whoever asks here is told nothing.
    pub(crate) fn silent() -> SocketAddr {
        SocketAddrV4::new(THEIRS, SILENT).into()
    }

    /// Late answers so far.
    pub(crate) fn answered(&self) -> u64 {
        self.answered.load(Ordering::Acquire)
    }
}

impl Drop for Late {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
            && !thread::panicking()
        {
            panic!("who answers late has panicked");
        }
    }
}

fn answer(mut device: File, late_by: Duration, stop: &AtomicBool, answered: &AtomicU64) {
    // All are equally late, so the first is due first.
    let mut waiting: VecDeque<(Instant, Segment)> = VecDeque::new();
    let mut packet = [0; 2_048];
    while !stop.load(Ordering::Acquire) {
        while let Some(&(due, answer)) = waiting.front()
            && due <= Instant::now()
        {
            waiting.pop_front();
            device.write_all(&answer.packet()).unwrap();
            answered.fetch_add(1, Ordering::AcqRel);
        }
        let now = Instant::now();
        let next = waiting.front().map_or(LOOK, |(due, _)| (*due - now).min(LOOK));
        let mut fds = [PollFd::from_borrowed_fd(device.as_fd(), PollFlags::IN)];
        if poll(&mut fds, Some(&Timespec::try_from(next).unwrap())).unwrap() == 0 {
            continue;
        }
        let length = device.read(&mut packet).unwrap();
        let Some(syn) = Segment::read(&packet[..length]).filter(|it| it.flags & 0x17 == SYN) else {
            continue;
        };
        let flags = match syn.to.port() {
            OPEN => SYN | ACK,
            CLOSED => RST | ACK,
            _ => continue,
        };
        waiting.push_back((Instant::now() + late_by, syn.answer(flags)));
    }
}

const DEVICE: &str = "late0";
const OURS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 1);
const THEIRS: Ipv4Addr = Ipv4Addr::new(10, 99, 0, 2);
const OPEN: u16 = 1;
const CLOSED: u16 = 2;
const SILENT: u16 = 3;
/// How soon it notices that it shall stop.
const LOOK: Duration = Duration::from_millis(20);
