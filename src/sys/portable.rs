//! What every platform without kernel stamps shares: the standard library's clocks, plain
//! receives, and a clear "unsupported" for the rest.

use std::io::{self, Read};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use socket2::{Domain, Protocol, Socket, Type};

use super::checks::Handshake;
use crate::event::{RxStamps, TxStamp};
use crate::host::{ClockSource, Facts};
use crate::time::{Mono, Wall, duration_ns};

/// The system's monotonic clock, counted from its first reading.
pub(super) fn mono() -> Mono {
    static ORIGIN: OnceLock<Instant> = OnceLock::new();
    let origin = *ORIGIN.get_or_init(Instant::now);
    Mono::from_ns(duration_ns(origin.elapsed()))
}

/// The system's wall clock.
pub(super) fn wall() -> Wall {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    Wall::from_ns(duration_ns(since))
}

/// Receives what is there; 0 bytes are an end of stream.
pub(super) fn receive(socket: &Socket, buffer: &mut [u8]) -> io::Result<(usize, RxStamps)> {
    let mut reader = socket;
    Ok((reader.read(buffer)?, RxStamps::default()))
}

/// There are none.
pub(super) const fn next_tx_stamp(_socket: &Socket) -> Option<TxStamp> {
    None
}

/// Kernel stamps exist on Linux only.
pub(super) fn enable_stamps(_socket: &Socket) -> io::Result<u32> {
    Err(io::ErrorKind::Unsupported.into())
}

/// There is nothing to keep.
pub(super) fn keep_stamping() -> io::Result<Socket> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Nothing to do: no congestion control that paces single probes is known here.
pub(super) const fn keep_bursts_unpaced(_socket: &Socket) {}

/// accept(2) errors that concern one connection only.
pub(super) fn accept_is_transient(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionReset, Interrupted, WouldBlock};
    matches!(error.kind(), WouldBlock | Interrupted | ConnectionAborted | ConnectionReset)
}

/// Why io_uring is refused: it is not there.
pub(super) fn uring_remedy(error: &io::Error) -> String {
    error.to_string()
}

/// No kernel here times a handshake by itself or counts its segments.
pub(super) const TELLS_HANDSHAKES: bool = false;

/// A TCP socket that never blocks.
pub(super) fn nonblocking_stream(domain: Domain) -> io::Result<Socket> {
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// The system's name: nothing depends on its version.
pub(super) fn kernel_release() -> String {
    std::env::consts::OS.to_owned()
}

/// What is not known stays open.
pub(super) fn facts() -> Facts {
    let read_ns = super::clock::reading_ns();
    Facts { clock_source: ClockSource { read_ns, ..ClockSource::default() }, ..Facts::default() }
}

/// The option exists on Linux only.
pub(super) fn delay_acknowledgement(_socket: &Socket) -> io::Result<()> {
    let message = "half-open checks by kernel sockets exist on Linux only; use --method dial";
    Err(io::Error::new(io::ErrorKind::Unsupported, message))
}

/// A socket serves one connection only.
pub(super) fn disconnect(_socket: &Socket) -> bool {
    false
}

/// See [`disconnect`].
pub(super) fn has_forgotten_handshake(_socket: &Socket) -> bool {
    false
}

/// How connecting ended, if it has.
pub(super) fn connected(socket: &Socket) -> Option<(io::Result<()>, Handshake)> {
    let result = match socket.take_error() {
        Ok(None) if socket.peer_addr().is_err() => return None,
        Ok(None) => Ok(()),
        Ok(Some(error)) | Err(error) => Err(error),
    };
    Some((result, Handshake::default()))
}

/// What to say where an exchange brought no stamps.
pub(super) const STAMPS_REMEDY: &str =
    "kernel stamps exist on Linux only; use --clock auto or application";

/// Threads: what this platform lets a program choose.
pub(crate) mod thread {
    use std::io;
    use std::path::PathBuf;

    use crate::sys::Kept;

    /// Timed waits are as precise as the system makes them.
    pub(crate) const fn precise_sleep() {}

    /// There are none.
    ///
    /// # Errors
    /// Never.
    pub(crate) const fn drop_capabilities() -> io::Result<()> {
        Ok(())
    }

    /// There are no capabilities to drop.
    ///
    /// # Errors
    /// Never.
    pub(crate) const fn drop_all_capabilities_but(_kept: Kept) -> io::Result<()> {
        Ok(())
    }

    /// Nothing, where there is nothing.
    pub(crate) const fn needed_to_read(_files: &[PathBuf]) -> Kept {
        Kept::Nothing
    }

    /// Not offered by this platform.
    ///
    /// # Errors
    /// Always.
    pub(crate) fn wake_promptly() -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "time slices are set on Linux only"))
    }

    /// Not offered by this platform.
    ///
    /// # Errors
    /// Always.
    pub(crate) fn pin(_cpu: usize) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "pinning is supported on Linux only"))
    }

    /// Not offered by this platform.
    ///
    /// # Errors
    /// Always.
    pub(crate) fn set_nice(_nice: i32) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "priorities are supported on Linux only"))
    }

    /// Not offered by this platform.
    ///
    /// # Errors
    /// Always.
    pub(crate) fn set_fifo(_priority: u32) -> io::Result<()> {
        Err(io::Error::new(io::ErrorKind::Unsupported, "priorities are supported on Linux only"))
    }
}

/// The process: nothing is read here yet.
pub(crate) mod process {
    use crate::host::ProcessUsage;

    /// Left to the system: Windows has no such limit, macOS's is the launcher's choice.
    pub(crate) const fn raise_descriptor_limit() {}

    /// All unknown.
    #[must_use]
    pub(crate) fn usage() -> ProcessUsage {
        ProcessUsage::default()
    }
}

/// Reserved ports: for the eBPF programs alone, so that none are needed here.
pub(crate) mod ports {
    use std::convert::Infallible;
    use std::io;
    use std::ops::RangeInclusive;

    /// Reserved ports.
    #[derive(Debug)]
    pub(crate) struct PortBlock(Infallible);

    impl PortBlock {
        /// Not offered by this platform.
        ///
        /// # Errors
        /// Always.
        pub(crate) fn reserve(_count: u16) -> io::Result<Self> {
            Err(io::Error::new(io::ErrorKind::Unsupported, "ports are reserved on Linux only"))
        }

        /// The ports.
        #[must_use]
        pub(crate) const fn range(&self) -> &RangeInclusive<u16> {
            match self.0 {}
        }
    }
}

/// Timing SYNs in the kernel: not possible here, so that no value of these types exists.
pub(crate) mod syn_timer {
    use std::convert::Infallible;
    use std::io;
    use std::net::SocketAddr;
    use std::ops::RangeInclusive;

    use rttscope_ebpf::AttemptEvent;

    use crate::sys::{AttachChoice, Attachment, Lost, SynTimerError};

    /// Times SYN → SYN-ACK and SYN → RST in the kernel: on Linux only.
    pub struct SynTimer(Infallible);

    /// Tells a [`SynTimer`] which addresses are checked.
    #[derive(Clone, Debug)]
    pub struct Follower(Infallible);

    impl SynTimer {
        /// Not offered by this platform.
        ///
        /// # Errors
        /// Always.
        pub fn open(ports: RangeInclusive<u16>) -> Result<Self, SynTimerError> {
            Self::open_with(ports, AttachChoice::Auto)
        }

        /// Not offered by this platform.
        ///
        /// # Errors
        /// Always.
        pub fn open_with(
            _ports: RangeInclusive<u16>,
            _choice: AttachChoice,
        ) -> Result<Self, SynTimerError> {
            Err(SynTimerError::Unsupported(std::env::consts::OS.to_owned()))
        }

        /// How the programs are attached.
        #[must_use]
        pub const fn attachment(&self) -> Option<Attachment> {
            match self.0 {}
        }

        /// A handle for those who know which addresses are checked.
        #[must_use]
        pub const fn follower(&self) -> Follower {
            match self.0 {}
        }

        /// The next event, if any.
        pub const fn next_event(&mut self) -> Option<AttemptEvent> {
            match self.0 {}
        }

        /// What the kernel could not tell.
        #[must_use]
        pub const fn lost(&self) -> Lost {
            match self.0 {}
        }

        /// Detaches everything.
        #[must_use]
        pub const fn close(self) -> Lost {
            match self.0 {}
        }
    }

    impl Follower {
        /// Makes sure that the interfaces towards an address carry the programs.
        ///
        /// # Errors
        /// If no route leads there.
        pub fn follow(&self, _to: SocketAddr) -> io::Result<()> {
            match self.0 {}
        }

        /// The same for checks that are bound to an interface.
        ///
        /// # Errors
        /// If there is no interface of this name.
        pub fn through(&self, _interface: &str) -> io::Result<Self> {
            match self.0 {}
        }

        /// How the programs are attached.
        #[must_use]
        pub const fn attachment(&self) -> Option<Attachment> {
            match self.0 {}
        }

        /// What the kernel could not tell.
        #[must_use]
        pub fn losses(&self) -> std::sync::Arc<crate::host::EventLosses> {
            match self.0 {}
        }

        /// The same for many addresses; a result for each.
        ///
        /// # Errors
        /// If no addresses are followed any more.
        pub fn follow_all(&self, _to: &[SocketAddr]) -> io::Result<Vec<io::Result<()>>> {
            match self.0 {}
        }

        /// The opposite, once for each [`Self::follow`].
        pub fn forget(&self, _to: SocketAddr) {
            match self.0 {}
        }
    }
}

/// Checks by SYNs of our own: not possible here, so that no value of this type exists.
pub(crate) mod syn {
    use std::convert::Infallible;
    use std::io;
    use std::net::SocketAddr;

    use socket2::Socket;

    use super::ports::PortBlock;
    use crate::event::{Answer, FlowId};
    use crate::sys::socket::SocketOptions;
    use crate::sys::{Follower, SynTimerError};
    use crate::time::{Mono, Now};

    /// Checks of one I/O by SYNs of our own: on Linux only.
    #[derive(Debug)]
    pub(crate) struct SynChecks(Infallible);

    impl SynChecks {
        /// Not offered by this platform.
        ///
        /// # Errors
        /// Always.
        pub(crate) fn open(_ports: PortBlock, _options: &SocketOptions) -> io::Result<Self> {
            Err(io::Error::new(io::ErrorKind::Unsupported, "raw TCP works on Linux only"))
        }

        /// Has the eBPF programs time the checks.
        ///
        /// # Errors
        /// If they cannot be loaded.
        pub(crate) const fn be_timed(&mut self) -> Result<Follower, SynTimerError> {
            match self.0 {}
        }

        /// Has the sockets' own stamps time the checks.
        ///
        /// # Errors
        /// If the kernel has none.
        pub(crate) const fn stamp(&self) -> io::Result<()> {
            match self.0 {}
        }

        /// The sockets to wait for.
        pub(crate) fn sockets(&self) -> impl Iterator<Item = &Socket> {
            std::iter::empty()
        }

        /// Begins a check.
        pub(crate) const fn check(&mut self, _flow: FlowId, _to: SocketAddr) {
            match self.0 {}
        }

        /// SYNs of a flow's check after the first, if it has one.
        pub(crate) const fn retransmits(&self, _flow: FlowId) -> Option<u32> {
            match self.0 {}
        }

        /// Gives a flow's check up.
        pub(crate) const fn withdraw(&mut self, _flow: FlowId) {
            match self.0 {}
        }

        /// When [`Self::flush`] has something to do by itself.
        #[must_use]
        pub(crate) const fn deadline(&self) -> Option<Mono> {
            match self.0 {}
        }

        /// Whether enough SYNs wait to be sent in one go.
        #[must_use]
        pub(crate) const fn is_full(&self) -> bool {
            match self.0 {}
        }

        /// Whether [`Self::next_answer`] has one.
        #[must_use]
        pub(crate) const fn has_answers(&self) -> bool {
            match self.0 {}
        }

        /// The next answer, and when we learnt of it.
        pub(crate) const fn next_answer(&mut self) -> Option<(FlowId, Answer, Now)> {
            match self.0 {}
        }

        /// Sends what waits.
        pub(crate) const fn flush(&mut self) {
            match self.0 {}
        }

        /// Takes in everything that has arrived.
        pub(crate) const fn receive(&mut self) {
            match self.0 {}
        }
    }
}

/// No way to move what arrived on without copying it is known here.
pub(in crate::sys) mod pipe {
    use std::convert::Infallible;
    use std::io;

    use socket2::Socket;

    /// There is none.
    #[derive(Debug)]
    pub(in crate::sys) struct Pipe(Infallible);

    impl Pipe {
        /// Takes what has arrived at a socket.
        pub(in crate::sys) const fn fill(&mut self, _from: &Socket) -> io::Result<usize> {
            match self.0 {}
        }

        /// Gives a socket as much as it takes.
        pub(in crate::sys) const fn empty(&mut self, _to: &Socket) -> io::Result<usize> {
            match self.0 {}
        }

        pub(in crate::sys) const fn is_empty(&self) -> bool {
            match self.0 {}
        }
    }

    /// None.
    #[derive(Debug, Default)]
    pub(in crate::sys) struct Pipes;

    impl Pipes {
        /// There is none to be had.
        pub(in crate::sys) const fn take(&mut self) -> Option<Pipe> {
            None
        }

        /// None was taken.
        pub(in crate::sys) const fn give_back(&mut self, pipe: Pipe) {
            match pipe.0 {}
        }
    }
}
