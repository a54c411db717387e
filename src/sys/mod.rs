//! The operating system.

/// Which I/O backend to use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IoChoice {
    /// io_uring where it works, else readiness.
    #[default]
    Auto,
    /// io_uring, or fail.
    Uring,
    /// Readiness (epoll, kqueue, IOCP).
    Poll,
}

/// Which clocks may be used for round-trip times.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClockChoice {
    /// The best that each probe has stamps for.
    #[default]
    Auto,
    /// Kernel software stamps, or fail at start where there are none.
    Kernel,
    /// Only ours; asks for no stamps.
    Application,
}
