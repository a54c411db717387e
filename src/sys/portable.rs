//! What every platform without kernel stamps shares: the standard library's clocks, plain
//! receives, and a clear "unsupported" for the rest.

use std::io::{self, Read};
use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use socket2::Socket;

use crate::event::{RxStamps, TxStamp};
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

/// What to say where an exchange brought no stamps.
pub(super) const STAMPS_REMEDY: &str =
    "kernel stamps exist on Linux only; use --clock auto or application";

/// Threads: what this platform lets a program choose.
pub(crate) mod thread {
    use std::io;

    /// Timed waits are as precise as the system makes them.
    pub(crate) const fn precise_sleep() {}

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
