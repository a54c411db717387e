//! Times SYN → SYN-ACK and SYN → RST in the kernel. Local ports and addresses flow in, events of
//! connection attempts flow out of a ring buffer. Packets are neither changed nor delayed, and
//! those of other ports pass after the cheapest test.

mod attach;
mod clsact;
mod keeper;
mod load;
mod netlink;
mod route;

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::{Builder, JoinHandle};

use aya::maps::{MapData, RingBuf};
use rttscope_ebpf::AttemptEvent;

use self::attach::Interfaces;
use self::keeper::{Keeper, Request, Shared};
use self::route::Destination;
use crate::host::EventLosses;
use crate::sys::{AttachChoice, Attachment, Lost, SynTimerError};

/// Times SYN → SYN-ACK and SYN → RST in the kernel for a block of local ports.
///
/// Everything is detached when it is dropped, by a thread of its own that keeps the capabilities
/// of the thread that opened it; that one may drop its own then. If the process is killed, tcx
/// detaches by itself, while filters of clsact stay, harmless, until another timer needs the place.
pub struct SynTimer {
    events: RingBuf<MapData>,
    /// Entries that were no events: the object and this program do not belong together.
    unreadable: u64,
    follower: Follower,
    keeper: Option<JoinHandle<()>>,
}

/// Tells a [`SynTimer`] which addresses are checked, from any thread.
#[derive(Clone)]
pub struct Follower {
    requests: Sender<Request>,
    shared: Arc<Shared>,
    /// The interface by which everything leaves, whatever the routes say.
    through: Option<u32>,
}

impl SynTimer {
    /// Loads the programs for these local ports in the network namespace of the calling thread,
    /// whose scheduling and capabilities the keeper inherits. Nothing is attached yet.
    ///
    /// # Errors
    /// What is missing, with its remedy.
    pub fn open(ports: RangeInclusive<u16>) -> Result<Self, SynTimerError> {
        Self::open_with(ports, AttachChoice::Auto)
    }

    /// The same with a choice of how to attach.
    ///
    /// # Errors
    /// What is missing, with its remedy.
    pub fn open_with(
        ports: RangeInclusive<u16>,
        choice: AttachChoice,
    ) -> Result<Self, SynTimerError> {
        let loaded = load::load(&ports)?;
        let failed =
            |what| move |error: io::Error| SynTimerError::Failed { what, error: Box::new(error) };
        let shared = Arc::new(Shared::new().map_err(failed("making an eventfd"))?);
        let (requests, receiver) = channel();
        let interfaces = Interfaces::new(loaded.programs, choice);
        let keeper = Keeper::new(interfaces, loaded.counters, receiver)
            .map_err(failed("listening to changes of routes"))?;
        let seen = Arc::clone(&shared);
        let keeper = Builder::new()
            .name("syn-keeper".to_owned())
            .spawn(move || keeper.run(&seen))
            .map_err(failed("starting a thread"))?;
        Ok(Self {
            events: loaded.events,
            unreadable: 0,
            follower: Follower { requests, shared, through: None },
            keeper: Some(keeper),
        })
    }

    /// How the programs are attached, once they are to the first interface.
    #[must_use]
    pub fn attachment(&self) -> Option<Attachment> {
        self.follower.shared.attachment()
    }

    /// A handle for those who know which addresses are checked.
    #[must_use]
    pub fn follower(&self) -> Follower {
        self.follower.clone()
    }

    /// The next event of the ring buffer, if any. Never waits, and makes no system call.
    pub fn next_event(&mut self) -> Option<AttemptEvent> {
        while let Some(entry) = self.events.next() {
            if let Some(event) = AttemptEvent::from_bytes(&entry) {
                return Some(event);
            }
            self.unreadable += 1;
        }
        None
    }

    /// What the kernel could not tell until a second ago at most; [`Self::close`] tells all.
    #[must_use]
    pub fn lost(&self) -> Lost {
        let lost = self.follower.shared.lost();
        Lost { events: lost.events.saturating_add(self.unreadable), ..lost }
    }

    /// Detaches everything; what the kernel could not tell in all that time.
    #[must_use]
    pub fn close(mut self) -> Lost {
        self.end_keeper();
        self.lost()
    }

    fn end_keeper(&mut self) {
        // A keeper that has ended hears nothing, and needs not.
        let _ended = self.follower.requests.send(Request::End);
        self.follower.shared.wake();
        if let Some(keeper) = self.keeper.take()
            && keeper.join().is_err()
        {
            tracing::error!("the SYN timer's keeper has panicked");
        }
    }
}

impl Drop for SynTimer {
    fn drop(&mut self) {
        self.end_keeper();
    }
}

impl Follower {
    /// Makes sure that the interfaces towards an address carry the programs, now and when its
    /// routes change. Returns when they do.
    ///
    /// # Errors
    /// If no route leads there or attaching fails, which is tried again when something changes;
    /// "quota exceeded" if too many addresses are followed; "broken pipe" if the timer is gone.
    pub fn follow(&self, to: SocketAddr) -> io::Result<()> {
        self.follow_all(&[to])?.pop().unwrap_or_else(|| Err(gone()))
    }

    /// The same for many addresses, at a fraction of the cost of one each; a result for each.
    ///
    /// # Errors
    /// "Broken pipe" if the timer is gone.
    pub fn follow_all(&self, to: &[SocketAddr]) -> io::Result<Vec<io::Result<()>>> {
        let (reply, done) = sync_channel(1);
        let to = to.iter().map(|to| self.destination(*to)).collect();
        self.ask(Request::Follow(to, reply))?;
        done.recv().map_err(|_| gone())
    }

    /// How the programs are attached, once they are to the first interface.
    #[must_use]
    pub fn attachment(&self) -> Option<Attachment> {
        self.shared.attachment()
    }

    /// What the kernel could not tell, up to a second old.
    #[must_use]
    pub fn losses(&self) -> Arc<EventLosses> {
        Arc::clone(&self.shared.losses)
    }

    /// The opposite, once for each [`Self::follow`].
    pub fn forget(&self, to: SocketAddr) {
        // Who is gone has forgotten it already.
        let _gone = self.ask(Request::Forget(self.destination(to)));
    }

    /// The same for checks that are bound to an interface (`SO_BINDTODEVICE`), as it is numbered
    /// now: routes have no say.
    ///
    /// # Errors
    /// If there is no interface of this name.
    pub fn through(&self, interface: &str) -> io::Result<Self> {
        let through = Some(attach::interface_index(interface)?);
        Ok(Self { through, ..self.clone() })
    }

    fn destination(&self, to: SocketAddr) -> Destination {
        let mut destination = Destination::from(to);
        destination.through = self.through;
        destination
    }

    fn ask(&self, request: Request) -> io::Result<()> {
        self.requests.send(request).map_err(|_| gone())?;
        self.shared.wake();
        Ok(())
    }
}

impl std::fmt::Debug for Follower {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Follower").finish_non_exhaustive()
    }
}

fn gone() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the SYN timer is closed")
}
