//! The numbers of `TCP_INFO` that stand for words. Numbers flow in, words flow out; a number that
//! nobody has named yet stays a number.

use super::{Typed, Unit};

macro_rules! words {
    (
        $(#[$meta:meta])+
        $name:ident { $($(#[doc = $doc:literal])+ $word:ident = $number:literal $text:literal,)+ }
    ) => {
        $(#[$meta])+
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name {
            $($(#[doc = $doc])+ $word,)+
            /// A number without a name here.
            Other(u8),
        }

        impl $name {
            /// All that have a name.
            pub const ALL: &[Self] = &[$(Self::$word),+];

            /// The word for a number.
            #[must_use]
            pub const fn new(number: u8) -> Self {
                match number {
                    $($number => Self::$word,)+
                    other => Self::Other(other),
                }
            }

            /// The number.
            #[must_use]
            pub const fn number(self) -> u8 {
                match self {
                    $(Self::$word => $number,)+
                    Self::Other(other) => other,
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                match self {
                    $(Self::$word => f.write_str($text),)+
                    Self::Other(number) => number.fmt(f),
                }
            }
        }

        impl Typed for $name {
            fn typed(number: u64, _unit: Unit) -> Option<Self> {
                u8::try_from(number).ok().map(Self::new)
            }
        }
    };
}

words! {
    /// State of a connection (include/net/tcp_states.h).
    State {
        /// Data flows both ways.
        Established = 1 "established",
        /// We have sent a SYN.
        SynSent = 2 "syn-sent",
        /// We have answered a SYN.
        SynReceived = 3 "syn-received",
        /// We have closed; the peer has not acknowledged it.
        FinWait1 = 4 "fin-wait-1",
        /// We have closed, the peer has not.
        FinWait2 = 5 "fin-wait-2",
        /// Closed by both; late segments are waited for.
        TimeWait = 6 "time-wait",
        /// There is no connection.
        Close = 7 "close",
        /// The peer has closed, we have not.
        CloseWait = 8 "close-wait",
        /// Closed by both; the peer has not acknowledged ours.
        LastAck = 9 "last-ack",
        /// Waiting for connections.
        Listen = 10 "listen",
        /// Closed by both at the same time.
        Closing = 11 "closing",
        /// A request for a connection that is not established.
        NewSynReceived = 12 "new-syn-received",
    }
}

words! {
    /// State of congestion control (`enum tcp_ca_state`).
    CaState {
        /// Nothing is wrong.
        Open = 0 "open",
        /// Duplicate acknowledgements arrive.
        Disorder = 1 "disorder",
        /// The window is being reduced, for congestion that was notified.
        Cwr = 2 "cwr",
        /// Lost segments are sent again.
        Recovery = 3 "recovery",
        /// A timeout was taken for loss.
        Loss = 4 "loss",
    }
}

words! {
    /// Why TCP Fast Open failed at the client (`enum tcp_fastopen_client_fail`).
    FastOpenFailure {
        /// It did not, or nobody knows why.
        Unspecified = 0 "unspecified",
        /// The peer gave no cookie.
        CookieUnavailable = 1 "cookie-unavailable",
        /// The peer did not acknowledge the data of the SYN.
        DataNotAcked = 2 "data-not-acked",
        /// The SYN was sent again.
        SynRetransmitted = 3 "syn-retransmitted",
    }
}

/// Options that a connection uses (`TCPI_OPT_…`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Options(u8);

impl Options {
    /// Timestamps (RFC 7323).
    pub const TIMESTAMPS: Self = Self(1);
    /// Selective acknowledgements (RFC 2018).
    pub const SACK: Self = Self(2);
    /// Window scaling (RFC 7323).
    pub const WINDOW_SCALING: Self = Self(4);
    /// Explicit congestion notification was agreed on (RFC 3168).
    pub const ECN: Self = Self(8);
    /// A packet came by which congestion can be notified.
    pub const ECN_SEEN: Self = Self(16);
    /// The data of the SYN was acknowledged.
    pub const SYN_DATA: Self = Self(32);
    /// Timestamps count microseconds (Linux 6.7).
    pub const MICROSECOND_TIMESTAMPS: Self = Self(64);
    /// The connection began with TCP Fast Open (Linux 6.14).
    pub const FAST_OPEN: Self = Self(128);

    /// Each with its name, and as `ss` shortens it.
    const NAMES: [(Self, &str, &str); 8] = [
        (Self::TIMESTAMPS, "timestamps", "ts"),
        (Self::SACK, "sack", "sack"),
        (Self::WINDOW_SCALING, "window-scaling", "wscale"),
        (Self::ECN, "ecn", "ecn"),
        (Self::ECN_SEEN, "ecn-seen", "ecnseen"),
        (Self::SYN_DATA, "syn-data", "syndata"),
        (Self::MICROSECOND_TIMESTAMPS, "microsecond-timestamps", "usects"),
        (Self::FAST_OPEN, "fast-open", "fastopen"),
    ];

    /// Whether all of these are in use.
    #[must_use]
    pub const fn contains(self, others: Self) -> bool {
        self.0 & others.0 == others.0
    }

    /// From the kernel's bits.
    #[must_use]
    pub const fn new(bits: u8) -> Self {
        Self(bits)
    }

    /// As the kernel's bits.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Names of those in use.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |it| self.contains(it.0)).map(|(_, name, _)| name)
    }

    /// The same, short.
    pub fn short_names(self) -> impl Iterator<Item = &'static str> {
        Self::NAMES.into_iter().filter(move |it| self.contains(it.0)).map(|(_, _, short)| short)
    }
}

impl Typed for Options {
    fn typed(number: u64, _unit: Unit) -> Option<Self> {
        u8::try_from(number).ok().map(Self)
    }
}
