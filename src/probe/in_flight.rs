//! The probes of one target that are not over yet, and a memory of those that are: a ring by
//! sequence number, allocated once. Stamps, replies and the time go in, probes that are over come
//! out, each once.

use crate::event::{TxStage, TxStamp};
use crate::sample::Stamps;
use crate::time::{Mono, Now, Wall};

/// One probe.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Entry {
    pub(super) seq: u64,
    pub(super) fate: Fate,
    pub(super) stamps: Stamps,
    /// Offset of its last byte in the connection, the key of its transmit stamps.
    pub(super) key: u32,
    /// While it is open: when it is given up. Once it is received: when the sample is finished
    /// even if stamps are missing.
    pub(super) deadline: Mono,
    /// Its peer's residence.
    pub(super) peer: Peer,
    /// A late reply has come before the probe was given up.
    pub(super) answered: bool,
    /// Only stamps that no duration needs were missing at the end of the last step.
    lingering: bool,
}

/// Where a probe is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Fate {
    /// The slot was never used.
    #[default]
    Empty,
    /// Due, waiting for the hello's answer.
    Held,
    /// Sent.
    Sent,
    /// Received; stamps may still come.
    Received,
    /// Given up without a reply.
    GivenUp,
    /// A reply has come and the sample is finished.
    Answered,
}

/// What is known of a reply's residence in the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Peer {
    /// The peer cannot tell it, or nobody wants to know.
    #[default]
    NotAsked,
    /// The peer received the probe then; when it sent the reply comes with a later one.
    Awaited(Wall),
    /// Known, ns.
    Known(u64),
    /// The peer could have told it and did not.
    Missing,
}

/// Which probes are over.
#[derive(Clone, Copy, Debug)]
pub(super) enum Sweep {
    /// Those whose deadline has passed.
    Expired(Mono),
    /// Those, and samples that have all their stamps.
    Settled(Mono),
    /// Everything that was received.
    Received,
    /// Everything.
    All,
}

/// The ring.
#[derive(Debug)]
pub(super) struct InFlight {
    /// A power of two, at least twice `limit`: one half for open probes, one for finished ones
    /// whose stamps or duplicates may come.
    entries: Box<[Entry]>,
    /// Everything before it is over.
    oldest: u64,
    /// The sequence of the next probe.
    next: u64,
    /// How many are held or sent.
    open: usize,
    /// How many are received and not finished.
    settling: usize,
    limit: usize,
    stamps_wanted: bool,
    /// The earliest deadline.
    wake_at: Option<Mono>,
}

impl InFlight {
    /// Room for `limit` open probes.
    pub(super) fn new(limit: usize, stamps_wanted: bool) -> Self {
        let limit = limit.max(1);
        Self {
            entries: vec![Entry::default(); (2 * limit).next_power_of_two()].into_boxed_slice(),
            oldest: 1,
            next: 1,
            open: 0,
            settling: 0,
            limit,
            stamps_wanted,
            wake_at: None,
        }
    }

    /// How many are held or sent.
    pub(super) const fn open(&self) -> usize {
        self.open
    }

    /// How many are received and not finished.
    pub(super) const fn settling(&self) -> usize {
        self.settling
    }

    /// The earliest deadline.
    pub(super) const fn wake_at(&self) -> Option<Mono> {
        self.wake_at
    }

    /// The sequences that may not be over.
    pub(super) const fn live(&self) -> std::ops::Range<u64> {
        self.oldest..self.next
    }

    /// Whether a sequence was ever given out.
    pub(super) const fn was_given(&self, seq: u64) -> bool {
        seq >= 1 && seq < self.next
    }

    /// Whether another probe may be opened.
    pub(super) fn has_room(&self) -> bool {
        let occupant = &self.entries[self.index(self.next)];
        self.open < self.limit && !matches!(occupant.fate, Fate::Held | Fate::Sent)
    }

    /// Finishes the received probe in whose place the next one goes, if there is one.
    pub(super) fn make_place(&mut self) -> Option<Entry> {
        let index = self.index(self.next);
        let occupant = &mut self.entries[index];
        if occupant.fate != Fate::Received {
            return None;
        }
        let finished = *occupant;
        occupant.fate = Fate::Answered;
        self.settling -= 1;
        Some(finished)
    }

    /// Opens a probe and returns its sequence. There is room and place for it.
    pub(super) fn hold(&mut self, due: Mono, deadline: Mono, at: Now) -> u64 {
        let seq = self.next_seq();
        let index = self.index(seq);
        self.entries[index] = Entry {
            seq,
            fate: Fate::Held,
            stamps: Stamps { due, tx_app: at, ..Stamps::default() },
            deadline,
            ..Entry::default()
        };
        self.open += 1;
        self.wake_by(deadline);
        seq
    }

    /// Gives out a sequence; alone, it is that of a probe that is lost at once.
    pub(super) const fn next_seq(&mut self) -> u64 {
        let seq = self.next;
        self.next += 1;
        if self.open == 0 && self.settling == 0 {
            self.oldest = seq;
        }
        seq
    }

    /// The probe with this sequence, if it is remembered.
    pub(super) fn find(&mut self, seq: u64) -> Option<&mut Entry> {
        let index = self.index(seq);
        self.entries.get_mut(index).filter(|entry| entry.seq == seq && entry.fate != Fate::Empty)
    }

    /// The probe was received: it is no longer open, and finished at `deadline` at the latest.
    pub(super) fn receive(&mut self, seq: u64, deadline: Mono) {
        let Some(entry) = self.find(seq) else { return };
        entry.fate = Fate::Received;
        entry.deadline = deadline;
        self.open -= 1;
        self.settling += 1;
        self.wake_by(deadline);
    }

    /// Finishes received probes no later than at `deadline`.
    pub(super) fn settle_by(&mut self, deadline: Mono) {
        for seq in self.live() {
            if let Some(entry) = self.find(seq).filter(|entry| entry.fate == Fate::Received) {
                entry.deadline = entry.deadline.min(deadline);
            }
        }
        if self.settling > 0 {
            self.wake_by(deadline);
        }
    }

    /// Whether a received probe's residence is still to come.
    pub(super) fn awaits_peer(&mut self) -> bool {
        self.live().any(|seq| {
            self.find(seq).is_some_and(|entry| {
                entry.fate == Fate::Received && matches!(entry.peer, Peer::Awaited(_))
            })
        })
    }

    /// A transmit stamp of a probe that is not over. The newest are looked at first: stamps come
    /// soon after sending.
    pub(super) fn stamped(&mut self, stamp: TxStamp) {
        for seq in self.live().rev() {
            let Some(entry) = self.find(seq).filter(|entry| entry.key == stamp.key) else {
                continue;
            };
            if !matches!(entry.fate, Fate::Sent | Fate::Received) {
                continue;
            }
            // The kernel stamps a retransmission with the same key: the first copy is what counts,
            // or the network's loss would look like a fast round trip.
            let stamps = &mut entry.stamps;
            match stamp.stage {
                TxStage::Sched(wall) => drop(stamps.tx_sched.get_or_insert(wall)),
                TxStage::Software(wall) => drop(stamps.tx_sw.get_or_insert(wall)),
                TxStage::Hardware(phc) => drop(stamps.tx_hw.get_or_insert(phc)),
                TxStage::Ack(wall) => drop(stamps.tx_ack.get_or_insert(wall)),
            }
            return;
        }
    }

    /// The peer sent the reply to `seq` at `tx`. It tells in order, so what it has not told of
    /// earlier replies it never will.
    pub(super) fn peer_sent(&mut self, seq: u64, tx: Wall) {
        for earlier in self.oldest..self.next.min(seq.saturating_add(1)) {
            let Some(entry) = self.find(earlier) else { continue };
            let Peer::Awaited(rx) = entry.peer else { continue };
            entry.peer = match u64::try_from(tx.since_ns(rx)) {
                Ok(residence_ns) if earlier == seq => Peer::Known(residence_ns),
                _ => Peer::Missing,
            };
        }
    }

    /// The next probe from `cursor` on that is over, as it was just before. After `None` the
    /// deadlines are up to date.
    pub(super) fn take_over(&mut self, cursor: &mut u64, sweep: Sweep) -> Option<Entry> {
        *cursor = (*cursor).max(self.oldest);
        while *cursor < self.next {
            let seq = *cursor;
            *cursor += 1;
            let stamps_wanted = self.stamps_wanted;
            let Some(entry) = self.find(seq) else { continue };
            if !entry.is_over(sweep, stamps_wanted) {
                continue;
            }
            let before = *entry;
            if before.fate == Fate::Received {
                entry.fate = Fate::Answered;
                self.settling -= 1;
            } else {
                entry.fate = if before.answered { Fate::Answered } else { Fate::GivenUp };
                self.open -= 1;
            }
            return Some(before);
        }
        self.trim();
        None
    }

    /// Moves past what is over, and finds the earliest deadline again.
    fn trim(&mut self) {
        self.wake_at = None;
        let mut oldest = self.next;
        for seq in self.live().rev() {
            let Some(entry) = self.find(seq).filter(|entry| entry.is_live()) else { continue };
            let deadline = entry.deadline;
            oldest = seq;
            self.wake_by(deadline);
        }
        self.oldest = oldest;
    }

    fn wake_by(&mut self, deadline: Mono) {
        self.wake_at = Some(self.wake_at.map_or(deadline, |wake_at| wake_at.min(deadline)));
    }

    fn index(&self, seq: u64) -> usize {
        // The length is a power of two; a sequence that does not fit a usize wraps alike.
        let mask = self.entries.len() - 1;
        usize::try_from(seq & u64::try_from(mask).unwrap_or(u64::MAX)).unwrap_or(0)
    }
}

impl Entry {
    const fn is_live(&self) -> bool {
        matches!(self.fate, Fate::Held | Fate::Sent | Fate::Received)
    }

    fn is_over(&mut self, sweep: Sweep, stamps_wanted: bool) -> bool {
        match (self.fate, sweep) {
            (Fate::Empty | Fate::GivenUp | Fate::Answered, _) => false,
            (Fate::Held | Fate::Sent | Fate::Received, Sweep::All)
            | (Fate::Received, Sweep::Received) => true,
            (Fate::Held | Fate::Sent, Sweep::Received) => false,
            (_, Sweep::Expired(now)) => now >= self.deadline,
            (Fate::Held | Fate::Sent, Sweep::Settled(now)) => now >= self.deadline,
            (Fate::Received, Sweep::Settled(now)) => {
                now >= self.deadline || !stamps_wanted || self.has_its_stamps()
            }
        }
    }

    /// Whether nothing more is worth waiting for. The acknowledgement rides on the reply, but its
    /// stamp takes another way to us: it (and `tx_sched`, which no duration needs) gets one more
    /// step, which costs no wake-up of its own.
    fn has_its_stamps(&mut self) -> bool {
        let stamps = &self.stamps;
        let hardware = stamps.rx.hw.is_none() || stamps.tx_hw.is_some();
        let kernel = stamps.tx_sw.is_some() && hardware;
        if !kernel || matches!(self.peer, Peer::Awaited(_)) {
            return false;
        }
        let all = stamps.tx_sched.is_some() && stamps.tx_ack.is_some();
        all || std::mem::replace(&mut self.lingering, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ns: u64) -> Now {
        Now { mono: Mono::from_ns(ns), wall: Wall::from_ns(ns) }
    }

    fn hold(ring: &mut InFlight, due: u64, deadline: u64) -> u64 {
        assert!(ring.has_room());
        assert!(ring.make_place().is_none());
        ring.hold(Mono::from_ns(due), Mono::from_ns(deadline), at(due))
    }

    fn over(ring: &mut InFlight, sweep: Sweep) -> Vec<u64> {
        let mut cursor = 0;
        std::iter::from_fn(|| ring.take_over(&mut cursor, sweep)).map(|entry| entry.seq).collect()
    }

    #[test]
    fn each_probe_is_over_once_and_at_its_own_deadline() {
        let mut ring = InFlight::new(4, true);
        assert_eq!(
            [hold(&mut ring, 1, 30), hold(&mut ring, 2, 20), hold(&mut ring, 3, 40)],
            [1, 2, 3]
        );
        assert_eq!(ring.wake_at(), Some(Mono::from_ns(20)));
        assert_eq!(over(&mut ring, Sweep::Expired(Mono::from_ns(30))), [1, 2]);
        assert_eq!((ring.open(), ring.wake_at()), (1, Some(Mono::from_ns(40))));
        assert_eq!(over(&mut ring, Sweep::All), [3]);
        assert_eq!(over(&mut ring, Sweep::All), [0_u64; 0]);
        assert_eq!((ring.open(), ring.wake_at()), (0, None));
    }

    #[test]
    fn the_limit_holds_and_a_finished_one_makes_place() {
        let mut ring = InFlight::new(2, true);
        hold(&mut ring, 1, 100);
        hold(&mut ring, 2, 100);
        assert!(!ring.has_room());
        ring.receive(1, Mono::from_ns(500));
        ring.receive(2, Mono::from_ns(500));
        hold(&mut ring, 3, 100);
        hold(&mut ring, 4, 100);
        ring.receive(3, Mono::from_ns(500));
        ring.receive(4, Mono::from_ns(500));
        assert!(ring.has_room());
        assert_eq!(ring.make_place().map(|entry| entry.seq), Some(1));
        assert_eq!(ring.hold(Mono::from_ns(5), Mono::from_ns(100), at(5)), 5);
        assert_eq!((ring.open(), ring.settling()), (1, 3));
    }

    #[test]
    fn sequences_without_a_probe_leave_no_trace() {
        let mut ring = InFlight::new(2, false);
        for expected in 1..100 {
            assert_eq!(ring.next_seq(), expected);
        }
        assert_eq!(hold(&mut ring, 1, 10), 100);
        assert!(ring.find(99).is_none() && ring.find(100).is_some());
        assert_eq!(over(&mut ring, Sweep::Expired(Mono::from_ns(10))), [100]);
    }

    #[test]
    fn the_acknowledgement_gets_one_more_step() {
        let mut ring = InFlight::new(2, true);
        let settled = Sweep::Settled(Mono::from_ns(5));
        let seq = hold(&mut ring, 1, 100);
        ring.find(seq).expect("just opened").fate = Fate::Sent;
        ring.receive(seq, Mono::from_ns(500));
        assert_eq!(over(&mut ring, settled), [0_u64; 0]);
        ring.stamped(TxStamp { key: 0, stage: TxStage::Software(Wall::from_ns(2)) });
        assert_eq!(over(&mut ring, settled), [0_u64; 0], "lingers");
        assert_eq!(over(&mut ring, settled), [1], "not for long");
    }
}
