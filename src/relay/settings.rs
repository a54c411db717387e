//! How one worker relays what it accepts on one listener. Made by the control plane from the
//! configuration; the flows only read it.

use std::net::SocketAddr;

use super::balance::Policy;
use super::proxy_protocol::Version;

/// How one worker relays for one listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelaySettings {
    /// The upstreams; the place of each is its [`crate::sample::UpstreamId`].
    pub upstreams: Vec<Upstream>,
    /// Who gets a new connection.
    pub policy: Policy,
    /// Clients of this worker beyond this many are refused.
    pub connections_max: usize,
    /// How long one attempt to connect may take; and a PROXY header, if one is expected.
    pub connect_timeout_ns: u64,
    /// Upstreams that are tried for one client, at most.
    pub attempts_max: usize,
    /// Close a connection on which nothing moved, either way, for this long; `None`: never.
    pub idle_timeout_ns: Option<u64>,
    /// Every client must begin with a PROXY header, of either version.
    pub proxy_in: bool,
    /// Every upstream is sent a PROXY header of this version first.
    pub proxy_out: Option<Version>,
    /// So many attempts that fail one after the other make an upstream the last choice …
    pub failures_max: u32,
    /// … for this long.
    pub failed_hold_ns: u64,
    /// Where this worker's dice begin, so that workers do not choose alike.
    pub seed: u64,
}

/// Whom to connect to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upstream {
    /// Its addresses; they are tried in turns. Empty while its name is unresolved.
    pub addresses: Vec<SocketAddr>,
    /// It gets no new connections; those that it has may finish.
    pub draining: bool,
}

/// What the control plane learnt of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UpstreamNews {
    /// A check found it open, after `rise` of them did; the round trip in ns, if known.
    Up(Option<u64>),
    /// `fall` checks one after the other did not find it open.
    Down,
    /// Its name was resolved again: at least one address.
    Resolved(Vec<SocketAddr>),
    /// It is to get no new connections, or is to get them again.
    Draining(bool),
}
