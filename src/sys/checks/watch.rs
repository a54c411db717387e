//! The eBPF programs' account of checks by kernel sockets: events of attempts flow in, what was
//! seen of one check flows out when it ends. A check is known by its local port and whom it asks.
//! The kernel tells nobody the sequence number of its SYN, so an event belongs to the check that
//! runs there only if its first SYN left after that check began: late words of an earlier one,
//! which was given up, are dropped. What is kept is bounded by the checks that run.

use std::collections::hash_map::{Entry, HashMap};
use std::io;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use rttscope_ebpf::{AttemptEvent, Endpoint, kind};

use super::super::platform::ports::PortBlock;
use super::super::{Follower, SynTimer, clock};
use crate::event::Failure;
use crate::mix::BuildMix;
use crate::time::Mono;

/// Ports of our own and the eBPF programs that watch them.
pub(super) struct Watch {
    timer: SynTimer,
    running: Running,
    /// After the timer: the ports are others' only when nobody watches them any more.
    _ports: PortBlock,
}

/// What the eBPF programs saw of one check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Account {
    began: Mono,
    /// From the SYN to SYN-ACK.
    open_ns: Option<u64>,
    /// From the SYN to RST.
    refused_ns: Option<u64>,
    /// SYNs after the first.
    pub(super) syn_retransmits: u32,
    /// Our side acknowledged the SYN-ACK.
    pub(super) completed: bool,
}

/// The checks that run at watched ports.
#[derive(Debug)]
pub(super) struct Running {
    ports: RangeInclusive<u16>,
    /// The port that was claimed last: each check takes another, so that what is on its way to an
    /// earlier one finds nobody.
    last: u16,
    accounts: HashMap<Key, Account, BuildMix>,
}

/// Where a check runs, without scope or flow label: what an event tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    local_port: u16,
    to: IpAddr,
    to_port: u16,
}

impl Watch {
    /// Reserves ports for so many checks at once, and loads the programs; or why not.
    pub(super) fn open(checks_max: usize) -> Result<Self, String> {
        let ports = reserve_ports(checks_max, PORTS_MAX).map_err(|error| error.to_string())?;
        let timer = SynTimer::open(ports.range().clone()).map_err(|error| error.to_string())?;
        let running = Running::new(ports.range().clone());
        Ok(Self { timer, running, _ports: ports })
    }

    pub(super) fn follower(&self) -> Follower {
        self.timer.follower()
    }

    /// A watched port from which nothing asks this address now, if one is found soon.
    pub(super) fn claim(&mut self, to: SocketAddr) -> Option<u16> {
        self.running.claim(to, clock::mono())
    }

    /// Claims this port, unless something asks this address from there now.
    pub(super) fn claim_at(&mut self, port: u16, to: SocketAddr) -> bool {
        self.running.claim_at(port, to, clock::mono())
    }

    /// Whether a check was answered so lately that our side has not acknowledged it yet.
    pub(super) fn has_just_opened(&mut self, port: u16, to: SocketAddr) -> bool {
        self.take_events();
        self.running.has_just_opened(port, to, clock::mono())
    }

    /// Ends a check whose socket is closed; what was seen of it.
    pub(super) fn release(&mut self, port: u16, to: SocketAddr) -> Option<Account> {
        self.take_events();
        self.running.release(port, to)
    }

    fn take_events(&mut self) {
        while let Some(event) = self.timer.next_event() {
            self.running.observe(&event);
        }
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").field("running", &self.running).finish_non_exhaustive()
    }
}

impl Account {
    /// From the answered SYN to the answer, if it led to this result.
    pub(super) fn rtt_ns(&self, result: Result<(), Failure>) -> Option<u64> {
        match result {
            Ok(()) => self.open_ns,
            Err(Failure::Refused) => self.refused_ns,
            Err(_) => None,
        }
    }
}

impl Running {
    pub(super) fn new(ports: RangeInclusive<u16>) -> Self {
        Self { last: *ports.end(), ports, accounts: HashMap::default() }
    }

    /// A port from which nothing asks this address now.
    pub(super) fn claim(&mut self, to: SocketAddr, now: Mono) -> Option<u16> {
        for _ in 0..TRIES {
            self.last =
                if self.last == *self.ports.end() { *self.ports.start() } else { self.last + 1 };
            if self.claim_at(self.last, to, now) {
                return Some(self.last);
            }
        }
        None
    }

    /// Claims this port, unless something asks this address from there now.
    fn claim_at(&mut self, port: u16, to: SocketAddr, now: Mono) -> bool {
        // If it asks ourselves, it must not meet itself.
        if to.port() == port {
            return false;
        }
        match self.accounts.entry(Key::new(port, to)) {
            Entry::Occupied(_) => false,
            Entry::Vacant(vacant) => {
                vacant.insert(Account { began: now, ..Account::default() });
                true
            }
        }
    }

    /// Whether a check was answered so lately that our side has not acknowledged it yet.
    fn has_just_opened(&self, port: u16, to: SocketAddr, now: Mono) -> bool {
        self.accounts.get(&Key::new(port, to)).is_some_and(|account| {
            let young = now.duration_since(account.began) < ACKNOWLEDGED_AFTER;
            account.open_ns.is_some() && young && !account.completed
        })
    }

    /// Ends the check; what was seen of it.
    pub(super) fn release(&mut self, port: u16, to: SocketAddr) -> Option<Account> {
        self.accounts.remove(&Key::new(port, to))
    }

    /// Takes an event down for the check that it belongs to, if that still runs.
    pub(super) fn observe(&mut self, event: &AttemptEvent) {
        let Some(account) = self.accounts.get_mut(&Key::of(event)) else { return };
        if Mono::from_ns(event.sent.first_ns) < account.began {
            return;
        }
        account.syn_retransmits = event.retransmits();
        match event.kind {
            kind::OPEN => account.open_ns = Some(event.rtt_ns()),
            kind::REFUSED => account.refused_ns = Some(event.rtt_ns()),
            kind::COMPLETED => account.completed = true,
            _ => {}
        }
    }
}

/// Ports for so many checks at once, but at most `count_max`; fewer if there are no descriptors to
/// hold them, or no neighbours that are free.
///
/// # Errors
/// If not even a few are to be had.
pub(super) fn reserve_ports(checks_max: usize, count_max: u16) -> io::Result<PortBlock> {
    let mut count = u16::try_from(checks_max).unwrap_or(u16::MAX).clamp(PORTS_MIN, count_max);
    loop {
        match PortBlock::reserve(count) {
            Err(_) if count > PORTS_MIN => count = (count / 2).max(PORTS_MIN),
            Err(error) => {
                return Err(io::Error::new(error.kind(), format!("local ports: {error}")));
            }
            Ok(ports) => return Ok(ports),
        }
    }
}

impl Key {
    fn new(local_port: u16, to: SocketAddr) -> Self {
        Self { local_port, to: to.ip().to_canonical(), to_port: to.port() }
    }

    fn of(event: &AttemptEvent) -> Self {
        let Endpoint { address_be, port_be, .. } = event.key.remote;
        let to = IpAddr::V6(Ipv6Addr::from(address_be)).to_canonical();
        let local_port = u16::from_be_bytes(event.key.local.port_be);
        Self { local_port, to, to_port: u16::from_be_bytes(port_be) }
    }
}

/// How many ports are reserved: enough that a port rests between two checks, and few enough
/// descriptors. Several addresses may be asked from one port at once.
const PORTS_MIN: u16 = 16;
const PORTS_MAX: u16 = 512;
/// The kernel delays an acknowledgement for no less (`TCP_DELACK_MIN`, include/net/tcp.h).
const ACKNOWLEDGED_AFTER: Duration = Duration::from_millis(40);
/// How many ports are tried for one check.
const TRIES: u32 = 8;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::net::Ipv4Addr;

    use rttscope_ebpf::{FlowKey, SynSent};

    use super::*;

    const TO: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1)), 80);

    fn event(port: u16, to: SocketAddr, (first_ns, syns): (u64, u32), kind: u32) -> AttemptEvent {
        let address = match to.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let local = Endpoint::v4([10, 0, 0, 9], port.to_be_bytes());
        let remote = Endpoint::v6(address.octets(), to.port().to_be_bytes());
        let last_ns = first_ns + u64::from(syns - 1) * 1_000;
        AttemptEvent {
            key: FlowKey { local, remote },
            sent: SynSent { first_ns, last_ns, sequence: 1, syns },
            at_ns: last_ns + 70,
            kind,
            tcp_flags: 0,
        }
    }

    #[test]
    fn a_check_is_told_what_happened_to_it() {
        let check = |events: &[(u64, u32, u32)], result, expected: (Option<u64>, u32, bool)| {
            let mut running = Running::new(50_000..=50_003);
            let port = running.claim(TO, Mono::from_ns(100)).unwrap();
            for &(first_ns, syns, kind) in events {
                running.observe(&event(port, TO, (first_ns, syns), kind));
            }
            let account = running.release(port, TO).unwrap();
            let seen = (account.rtt_ns(result), account.syn_retransmits, account.completed);
            assert_eq!(seen, expected, "{events:?}");
        };
        let refused = Err(Failure::Refused);
        check(&[], Ok(()), (None, 0, false));
        check(&[(150, 1, kind::OPEN)], Ok(()), (Some(70), 0, false));
        check(&[(150, 2, kind::OPEN)], Ok(()), (Some(70), 1, false));
        check(&[(150, 1, kind::OPEN), (150, 1, kind::COMPLETED)], Ok(()), (Some(70), 0, true));
        check(&[(150, 1, kind::REFUSED)], refused, (Some(70), 0, false));
        // An answer that did not lead to the result times nothing.
        check(&[(150, 1, kind::REFUSED)], Ok(()), (None, 0, false));
        check(&[(150, 1, kind::OPEN)], Err(Failure::Unreachable), (None, 0, false));
        // Of an earlier check.
        check(&[(99, 3, kind::OPEN), (99, 3, kind::COMPLETED)], Ok(()), (None, 0, false));
    }

    #[test]
    fn what_belongs_to_nobody_is_not_kept() {
        let mut running = Running::new(50_000..=50_003);
        let port = running.claim(TO, Mono::from_ns(100)).unwrap();
        let other = SocketAddr::new(TO.ip(), 81);
        running.observe(&event(port, other, (150, 1), kind::OPEN));
        running.observe(&event(port + 1, TO, (150, 1), kind::OPEN));
        assert_eq!(running.release(port, TO).unwrap().rtt_ns(Ok(())), None);
        running.observe(&event(port, TO, (150, 1), kind::OPEN));
        assert!(running.accounts.is_empty());
        assert!(running.release(port, TO).is_none());
    }

    #[test]
    fn a_port_asks_an_address_once_at_a_time_and_rests_in_between() {
        let mut running = Running::new(50_000..=50_003);
        let now = Mono::from_ns(1);
        let claimed = [(); 5].map(|()| running.claim(TO, now));
        assert_eq!(claimed, [Some(50_000), Some(50_001), Some(50_002), Some(50_003), None]);
        let mapped = SocketAddr::new(Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().into(), 80);
        assert_eq!(running.claim(mapped, now), None, "the same host");
        assert_eq!(running.claim(SocketAddr::new(TO.ip(), 81), now), Some(50_000));
        running.release(50_002, TO);
        assert_eq!(running.claim(TO, now), Some(50_002));
        // Never its own.
        let own = SocketAddr::new(TO.ip(), 50_003);
        assert_eq!([(); 3].map(|()| running.claim(own, now).unwrap()), [50_000, 50_001, 50_002]);
        assert_eq!(running.claim(own, now), None);
    }
}
