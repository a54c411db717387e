//! Which addresses somebody has told a [`Follower`] of, so that each is told once, and forgotten
//! when it is checked no longer. Addresses flow in, the keeper's work flows out.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::super::Follower;

/// The addresses that one user of checks follows; nothing where no eBPF program times checks.
#[derive(Debug)]
pub struct Followed {
    follower: Option<Follower>,
    /// With port 0: routes know none.
    known: Mutex<HashSet<SocketAddr>>,
}

impl Followed {
    /// None yet.
    #[must_use]
    pub fn new(follower: Option<Follower>) -> Self {
        Self { follower, known: Mutex::default() }
    }

    /// Follows these as well. Returns when the interfaces towards them carry the programs: the
    /// first address of an interface takes a while, the others some µs.
    ///
    /// Without a program there a check has another clock, and says which: so what fails is worth a
    /// word, but no more.
    pub fn also(&self, addresses: impl IntoIterator<Item = SocketAddr>) {
        let Some(follower) = &self.follower else { return };
        // Held until they are followed: who asks for the same one may rely on it then.
        let mut known = self.lock();
        if known.len() > KNOWN_MAX {
            known.drain().for_each(|address| follower.forget(address));
        }
        let new: Vec<_> =
            addresses.into_iter().map(portless).filter(|it| known.insert(*it)).collect();
        if new.is_empty() {
            return;
        }
        let done = match follower.follow_all(&new) {
            Ok(done) => done,
            Err(error) => return tracing::debug!(%error, "no eBPF program times checks"),
        };
        for (address, done) in new.iter().zip(done) {
            if let Err(error) = done {
                let ip = address.ip();
                tracing::debug!(%ip, %error, "no eBPF program times checks of an address");
            }
        }
    }

    /// Follows these and no others.
    pub fn only(&self, addresses: &[SocketAddr]) {
        let Some(follower) = &self.follower else { return };
        let wanted: HashSet<_> = addresses.iter().copied().map(portless).collect();
        self.lock().extract_if(|it| !wanted.contains(it)).for_each(|it| follower.forget(it));
        self.also(wanted);
    }

    fn lock(&self) -> MutexGuard<'_, HashSet<SocketAddr>> {
        // Every change under the lock leaves a set of addresses.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Followed {
    /// Who is checked no longer is followed no longer.
    fn drop(&mut self) {
        self.only(&[]);
    }
}

fn portless(mut address: SocketAddr) -> SocketAddr {
    address.set_port(0);
    address
}

/// Addresses of one user, before it begins anew: half of what the keeper follows.
const KNOWN_MAX: usize = 131_072;
