//! Names of upstreams and their addresses: which are known, which are to be looked up now, and what
//! became of it.

use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::config::{HostPort, limits};
use crate::sample::UpstreamId;
use crate::sys::clock;
use crate::time::Mono;
use crate::worker::TargetId;

/// Every distinct address of upstreams.
#[derive(Debug, Default)]
pub(super) struct Names(Vec<Name>);

/// A name, or a literal address.
#[derive(Debug)]
pub(super) struct Name {
    pub(super) address: HostPort,
    pub(super) known: Vec<SocketAddr>,
    /// When it is looked up again; `None` for a literal address.
    due: Option<Mono>,
    looking_up: bool,
    /// The last lookup failed, and that was told.
    failed: bool,
    /// Whose upstream it is.
    pub(super) upstreams: Vec<(TargetId, UpstreamId)>,
    /// What checks it.
    pub(super) checks: Vec<TargetId>,
}

impl Names {
    /// The one with this address, which is added if it is new.
    pub(super) fn of(&mut self, address: &HostPort) -> &mut Name {
        let known = self.0.iter().position(|name| name.address == *address);
        let at = known.unwrap_or_else(|| {
            self.0.push(Name::new(address.clone()));
            self.0.len() - 1
        });
        &mut self.0[at]
    }

    /// Looks all names up, each on a thread of its own, and waits for a moment.
    pub(super) fn look_up_first(&mut self) {
        let (tell, told) = channel();
        let mut waiting = 0;
        for (place, name) in self.0.iter().enumerate().filter(|(_, name)| name.due.is_some()) {
            let (tell, address) = (tell.clone(), name.address.clone());
            let look_up = move || {
                let found = (address.host.as_str(), address.port).to_socket_addrs();
                // Whoever asked may be gone.
                let _ = tell.send((place, found.map(Iterator::collect).unwrap_or_default()));
            };
            let thread = std::thread::Builder::new().name("relay-lookup".to_owned());
            waiting += usize::from(thread.spawn(look_up).is_ok());
        }
        let end = clock::mono().after(FIRST_LOOKUP_MAX);
        while waiting > 0 {
            let left = end.duration_since(clock::mono());
            let Ok((place, found)) = told.recv_timeout(left) else { return };
            waiting -= 1;
            self.0[place].found(found);
        }
    }

    /// Those that are to be looked up now; they count as being looked up.
    pub(super) fn due(&mut self, now: Mono) -> Vec<(usize, HostPort)> {
        let names = self.0.iter_mut().enumerate();
        let due =
            names.filter(|(_, name)| !name.looking_up && name.due.is_some_and(|at| at <= now));
        due.map(|(place, name)| {
            name.looking_up = true;
            (place, name.address.clone())
        })
        .collect()
    }

    /// Wants one looked up soon: its addresses do not answer.
    pub(super) fn hurry(&mut self, check: TargetId, now: Mono) {
        let names = self.0.iter_mut().filter(|name| name.checks.contains(&check));
        for name in names {
            name.due = name.due.map(|due| due.min(now));
        }
    }

    /// What a lookup found; the name, if its addresses are others now.
    pub(super) fn found(&mut self, place: usize, addresses: Vec<SocketAddr>) -> Option<&Name> {
        let name = self.0.get_mut(place)?;
        name.looking_up = false;
        name.found(addresses).then_some(name)
    }
}

impl Name {
    fn new(address: HostPort) -> Self {
        let literal = address.host.parse::<IpAddr>().ok();
        let known: Vec<_> =
            literal.map(|ip| SocketAddr::new(ip, address.port)).into_iter().collect();
        Self {
            due: known.is_empty().then(clock::mono),
            address,
            known,
            looking_up: false,
            failed: false,
            upstreams: Vec::new(),
            checks: Vec::new(),
        }
    }

    /// Whether these are others. None keeps what is known.
    fn found(&mut self, addresses: Vec<SocketAddr>) -> bool {
        let again = if addresses.is_empty() { RETRY } else { limits::RESOLVE_INTERVAL };
        self.due = Some(clock::mono().after(again));
        if addresses.is_empty() {
            // Only the change is news.
            if !std::mem::replace(&mut self.failed, true) {
                tracing::warn!(upstream = %self.address, "the name has no address; trying again");
            }
            return false;
        }
        self.failed = false;
        let others = self.known != addresses;
        self.known = addresses;
        others
    }
}

/// How long the start waits for names; those that take longer come later.
const FIRST_LOOKUP_MAX: Duration = Duration::from_secs(2);
/// When a name without addresses is looked up again.
const RETRY: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    #[test]
    fn literals_are_known_and_names_are_looked_up_again_and_again() {
        let mut names = Names::default();
        names.of(&"[::1]:80".parse().unwrap()).upstreams.push((TargetId(0), UpstreamId(0)));
        names.of(&"localhost:80".parse().unwrap()).checks.push(TargetId(5));
        names.of(&"[::1]:80".parse().unwrap()).upstreams.push((TargetId(1), UpstreamId(0)));
        assert_eq!(names.0.iter().map(|name| name.upstreams.len()).collect::<Vec<_>>(), [2, 0]);
        let now = clock::mono();
        let due = names.due(now);
        assert_eq!(due, [(1, "localhost:80".parse().unwrap())]);
        assert!(names.due(now).is_empty(), "it is being looked up");
        assert!(names.found(1, Vec::new()).is_none());
        assert!(names.due(now).is_empty(), "later");
        names.hurry(TargetId(5), now);
        assert_eq!(names.due(now).len(), 1);
        let address = || vec!["127.0.0.1:80".parse().unwrap()];
        assert_eq!(names.found(1, address()).unwrap().checks, [TargetId(5)]);
        assert!(names.found(1, address()).is_none(), "the same again is no news");
        names.look_up_first();
        assert!(!names.of(&"localhost:80".parse().unwrap()).known.is_empty());
    }
}
