//! What is said about a SYN timer on every platform: how it may be attached, what it lost, and why
//! there is none. The timer itself is the platform's.

use std::error::Error;
use std::io;

/// How the programs may be attached to an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AttachChoice {
    /// By tcx where the kernel has it, else by clsact.
    #[default]
    Auto,
    /// By tcx, or fail.
    Tcx,
    /// By clsact, always.
    Clsact,
}

/// How the programs are attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attachment {
    /// By links of tcx (Linux 6.6): gone with the process, however it ends.
    Tcx,
    /// By filters at a clsact queueing discipline: they stay if the process is killed, pass
    /// packets on untouched, and are removed by the next one that starts.
    Clsact,
}

/// What the kernel could not tell.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Events that found no room, or were unreadable.
    pub events: u64,
    /// SYNs that could not be remembered: their attempts have no events.
    pub attempts: u64,
}

/// Why SYNs are not timed in the kernel.
#[derive(Debug, thiserror::Error)]
pub enum SynTimerError {
    /// The thread lacks capabilities.
    #[error(
        "timing SYNs in the kernel needs {missing}: run \
         `setcap cap_bpf,cap_net_admin+ep` on the program, or add both to its service or container"
    )]
    NotPermitted {
        /// Which ones.
        missing: String,
    },
    /// The thread has the capabilities, and the kernel refuses all the same.
    #[error(
        "the kernel refuses eBPF although CAP_BPF and CAP_NET_ADMIN are held ({0}): lockdown, \
         seccomp, or a user namespace forbids it, or, before Linux 5.11, its maps exceed the limit \
         of locked memory (LimitMEMLOCK=64M in a service)"
    )]
    Refused(#[source] io::Error),
    /// The system cannot do it.
    #[error("SYNs are timed in the kernel on Linux 5.8 or newer only ({0})")]
    Unsupported(String),
    /// Anything else.
    #[error("SYNs cannot be timed in the kernel: {what}: {error}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// What came of it.
        #[source]
        error: Box<dyn Error + Send + Sync>,
    },
}
