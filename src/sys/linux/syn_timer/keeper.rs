//! The thread that keeps the programs attached to every interface that leads to a followed
//! address. Addresses and the kernel's notices flow in; attachments and sums of what was lost flow
//! out. It alone needs privileges once the programs are loaded: capabilities are a thread's own
//! (capabilities(7)), so the others may drop theirs.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError};
use std::time::Duration;

use aya::maps::{MapData, PerCpuArray};
use rttscope_ebpf::counter;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::thread::{CapabilitySet, capabilities};
use rustix::time::Timespec;

use super::attach::Interfaces;
use super::netlink::Netlink;
use super::route::{self, Destination, Listener};
use crate::host::EventLosses;
use crate::sys::linux::thread::keep_capabilities;
use crate::sys::{Attachment, Lost, clock};
use crate::time::Mono;

/// What others ask of the keeper.
pub(super) enum Request {
    /// Follow these addresses, and say of each when its interfaces carry the programs.
    Follow(Vec<Destination>, SyncSender<Vec<io::Result<()>>>),
    /// An address is not needed any more; once for each time it was followed.
    Forget(Destination),
    /// Detach everything and end.
    End,
}

/// What the keeper and the others both see.
pub(super) struct Shared {
    wake: OwnedFd,
    attachment: AtomicU8,
    pub(super) losses: Arc<EventLosses>,
}

impl Shared {
    pub(super) fn new() -> io::Result<Self> {
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Self { wake, attachment: AtomicU8::new(0), losses: Arc::default() })
    }

    /// Has the keeper look at its requests.
    pub(super) fn wake(&self) {
        // It fails only if 2^64 wakes are unread, and then the keeper is awake.
        let _full = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    pub(super) fn attachment(&self) -> Option<Attachment> {
        match self.attachment.load(Ordering::Relaxed) {
            TCX => Some(Attachment::Tcx),
            CLSACT => Some(Attachment::Clsact),
            _ => None,
        }
    }

    pub(super) fn lost(&self) -> Lost {
        let (events, attempts) = self.losses.read();
        Lost { events, attempts }
    }
}

/// The keeper's own.
pub(super) struct Keeper {
    interfaces: Interfaces,
    counters: PerCpuArray<MapData, u64>,
    netlink: Netlink,
    listener: Listener,
    requests: Receiver<Request>,
    followed: HashMap<Destination, Followed>,
    /// When the followed addresses are looked up again, if something has changed.
    look_up_at: Option<Mono>,
    /// No earlier than this.
    look_up_after: Mono,
}

/// A followed address.
#[derive(Clone, Copy, Debug)]
struct Followed {
    /// How often it was asked for.
    times: u32,
    /// Whether its interfaces carry the programs.
    covered: bool,
}

impl Keeper {
    /// For the network namespace of the calling thread.
    pub(super) fn new(
        interfaces: Interfaces,
        counters: PerCpuArray<MapData, u64>,
        requests: Receiver<Request>,
    ) -> io::Result<Self> {
        Ok(Self {
            interfaces,
            counters,
            netlink: Netlink::open()?,
            listener: Listener::open()?,
            requests,
            followed: HashMap::new(),
            look_up_at: None,
            look_up_after: Mono::default(),
        })
    }

    /// Works until it is told to end.
    pub(super) fn run(mut self, shared: &Shared) {
        if let Err(error) = keep_what_is_needed() {
            tracing::debug!(%error, "the SYN timer's keeper keeps every capability");
        }
        let mut count_at = clock::mono();
        loop {
            if let Err(error) = self.wait(shared, count_at) {
                tracing::warn!(%error, "the SYN timer's keeper cannot wait");
                return;
            }
            // First: who asks now must not be told of an interface that is gone.
            self.hear();
            if !self.answer(shared) {
                return self.count(shared);
            }
            let now = clock::mono();
            if now >= count_at {
                self.count(shared);
                self.try_again(now);
                count_at = now.after(TICK);
            }
            if self.look_up_at.is_some_and(|at| at <= now) {
                self.look_up_again(now);
                publish(shared, &self.interfaces);
            }
        }
    }

    fn wait(&self, shared: &Shared, count_at: Mono) -> io::Result<()> {
        let until = self.look_up_at.map_or(count_at, |at| at.min(count_at));
        let timeout = Timespec::try_from(until.duration_since(clock::mono()))
            .expect("a tick is a number of seconds");
        let listener = self.listener.as_fd();
        let mut polled = [
            PollFd::new(&shared.wake, PollFlags::IN),
            PollFd::from_borrowed_fd(listener, PollFlags::IN),
        ];
        match poll(&mut polled, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// False if the keeper shall end.
    fn answer(&mut self, shared: &Shared) -> bool {
        // Read before the requests: a wake that comes later is seen by the next poll.
        let _empty = rustix::io::read(&shared.wake, &mut [0; 8]);
        loop {
            match self.requests.try_recv() {
                Ok(Request::Follow(to, reply)) => {
                    let done = self.follow(&to);
                    publish(shared, &self.interfaces);
                    // Who asked may have stopped waiting.
                    let _gone = reply.send(done);
                }
                Ok(Request::Forget(to)) => self.unfollow(to),
                Err(TryRecvError::Empty) => return true,
                Ok(Request::End) | Err(TryRecvError::Disconnected) => return false,
            }
        }
    }

    fn follow(&mut self, to: &[Destination]) -> Vec<io::Result<()>> {
        let covered = self.cover(to);
        to.iter().zip(covered).map(|(to, done)| self.remember(*to, done)).collect()
    }

    fn remember(&mut self, to: Destination, done: io::Result<()>) -> io::Result<()> {
        if !self.followed.contains_key(&to) && self.followed.len() >= FOLLOWED_MAX {
            let message = format!("the SYN timer follows {FOLLOWED_MAX} addresses at most");
            return Err(io::Error::new(io::ErrorKind::QuotaExceeded, message));
        }
        let followed = self.followed.entry(to).or_insert(Followed { times: 0, covered: false });
        followed.times = followed.times.saturating_add(1);
        followed.covered = done.is_ok();
        done
    }

    /// Its interfaces stay attached: others may lead there, and packets of ports that are not
    /// registered cost next to nothing.
    fn unfollow(&mut self, to: Destination) {
        if let Some(followed) = self.followed.get_mut(&to) {
            followed.times = followed.times.saturating_sub(1);
            if followed.times == 0 {
                self.followed.remove(&to);
            }
        }
    }

    /// Attaches to every interface towards these addresses; what came of each.
    fn cover(&mut self, to: &[Destination]) -> Vec<io::Result<()>> {
        let leading = route::interfaces(&mut self.netlink, to);
        let attach = |found: io::Result<Vec<u32>>| {
            found?.into_iter().try_for_each(|index| self.interfaces.attach(index))
        };
        leading.into_iter().map(attach).collect()
    }

    /// Takes the kernel's notices in.
    fn hear(&mut self) {
        let changes = match self.listener.changes() {
            Ok(changes) => changes,
            Err(error) => {
                tracing::debug!(%error, "no notice of changed routes");
                return;
            }
        };
        for index in changes.vanished {
            self.interfaces.forget(index);
        }
        if changes.overrun {
            self.interfaces.renew();
        }
        if changes.any && self.look_up_at.is_none() {
            self.look_up_at = Some(self.look_up_after);
        }
    }

    /// What failed may work now, even if no notice told so.
    fn try_again(&mut self, now: Mono) {
        if self.look_up_at.is_none() && self.followed.values().any(|it| !it.covered) {
            self.look_up_at = Some(self.look_up_after.max(now));
        }
    }

    /// Looks every followed address up again.
    fn look_up_again(&mut self, now: Mono) {
        self.look_up_at = None;
        let all: Vec<Destination> = self.followed.keys().copied().collect();
        let covered = self.cover(&all);
        for (to, done) in all.into_iter().zip(covered) {
            if let Some(followed) = self.followed.get_mut(&to) {
                if let Err(error) = &done
                    && followed.covered
                {
                    tracing::debug!(%error, ?to, "no interface leads there any more");
                }
                followed.covered = done.is_ok();
            }
        }
        let end = clock::mono();
        let pause = end.duration_since(now).saturating_mul(PAUSE_FACTOR).max(PAUSE_MIN);
        self.look_up_after = end.after(pause);
    }

    /// Reading a map may need `CAP_BPF` (before Linux 5.19), which only this thread keeps.
    fn count(&self, shared: &Shared) {
        let sum = |index| self.counters.get(&index, 0).map(|values| values.iter().sum());
        if let (Ok(events), Ok(attempts)) = (sum(counter::EVENTS_LOST), sum(counter::ATTEMPTS_LOST))
        {
            shared.losses.set(events, attempts);
        }
    }
}

/// `CAP_SYS_ADMIN` stands for `CAP_BPF` where only that is held, as before Linux 5.8.
fn keep_what_is_needed() -> io::Result<()> {
    let held = capabilities(None)?.effective;
    let bpf = held & CapabilitySet::BPF;
    let bpf = if bpf.is_empty() { CapabilitySet::SYS_ADMIN } else { bpf };
    keep_capabilities(bpf | CapabilitySet::NET_ADMIN)
}

fn publish(shared: &Shared, interfaces: &Interfaces) {
    let number = match interfaces.attachment() {
        None => 0,
        Some(Attachment::Tcx) => TCX,
        Some(Attachment::Clsact) => CLSACT,
    };
    shared.attachment.store(number, Ordering::Relaxed);
}

const TCX: u8 = 1;
const CLSACT: u8 = 2;

/// Different addresses that are followed at once.
const FOLLOWED_MAX: usize = 262_144;

/// How old the sums of what was lost may be, and how often what failed is tried again.
const TICK: Duration = Duration::from_secs(1);

/// Between two rounds of lookups, however fast routes change: at least this.
const PAUSE_MIN: Duration = Duration::from_millis(20);

/// Nor may the rounds take more than a tenth of the time.
const PAUSE_FACTOR: u32 = 9;
