//! Deadlines of many things, soonest first: of a worker's flows, of a flow's requests. Each thing
//! is a small number, its key, and has one valid entry; an entry that was overtaken by an earlier
//! one stays in the heap and is skipped when its time comes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::time::Mono;

/// A heap of deadlines.
#[derive(Debug, Default)]
pub struct Timers {
    heap: BinaryHeap<Reverse<(Mono, u32)>>,
    /// The valid entry of each key.
    valid: Vec<Option<Mono>>,
}

impl Timers {
    /// Sets a key's deadline, or takes it away. Keys are dense: memory grows with the largest.
    ///
    /// A deadline that moves later keeps its entry: the key is then taken once in vain and set
    /// again, which is cheaper than a heap that grows with every probe.
    pub fn set(&mut self, key: u32, deadline: Option<Mono>) {
        let slot = index(key);
        if self.valid.len() <= slot {
            self.valid.resize(slot + 1, None);
        }
        match (self.valid[slot], deadline) {
            (Some(registered), Some(wanted)) if registered <= wanted => {}
            (_, Some(wanted)) => {
                self.valid[slot] = Some(wanted);
                self.heap.push(Reverse((wanted, key)));
            }
            (_, None) => self.valid[slot] = None,
        }
        self.sweep();
    }

    /// Forgets overtaken entries once they are the majority: a closed connection's deadline may be
    /// days away, and connections come and go.
    fn sweep(&mut self) {
        if self.heap.len() > 2 * self.valid.len() + SLACK {
            let valid = &self.valid;
            self.heap.retain(|Reverse((at, key))| valid[index(*key)] == Some(*at));
        }
    }

    /// The soonest deadline.
    pub fn soonest(&mut self) -> Option<Mono> {
        self.skip_overtaken();
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes a key whose entry has come by `now`.
    pub fn pop(&mut self, now: Mono) -> Option<u32> {
        self.skip_overtaken();
        let Reverse((at, key)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        self.valid[index(key)] = None;
        Some(key)
    }

    fn skip_overtaken(&mut self) {
        while let Some(Reverse((at, key))) = self.heap.peek()
            && self.valid[index(*key)] != Some(*at)
        {
            self.heap.pop();
        }
    }
}

fn index(key: u32) -> usize {
    usize::try_from(key).expect("32 bits fit")
}

/// Overtaken entries that are not worth a sweep.
const SLACK: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ns: u64) -> Option<Mono> {
        Some(Mono::from_ns(ns))
    }

    /// Every key that comes out by `now`, in order.
    fn popped(timers: &mut Timers, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| timers.pop(Mono::from_ns(now))).collect()
    }

    #[test]
    fn keys_come_out_in_order_and_never_early() {
        let mut timers = Timers::default();
        timers.set(0, at(30));
        timers.set(1, at(10));
        timers.set(2, at(20));
        assert_eq!(timers.soonest(), at(10));
        assert!(popped(&mut timers, 9).is_empty());
        assert_eq!(popped(&mut timers, 20), [1, 2]);
        assert_eq!(popped(&mut timers, 100), [0]);
        assert_eq!(timers.soonest(), None);
    }

    #[test]
    fn an_earlier_deadline_overtakes_and_a_removed_one_is_silent() {
        let mut timers = Timers::default();
        timers.set(0, at(30));
        timers.set(0, at(10));
        assert_eq!(popped(&mut timers, 50), [0]);
        timers.set(0, at(60));
        timers.set(0, None);
        assert!(popped(&mut timers, 100).is_empty());
    }

    #[test]
    fn connections_that_come_and_go_leave_nothing_behind() {
        let mut timers = Timers::default();
        timers.set(0, at(1));
        for round in 0..10_000 {
            timers.set(1, at(1_000_000 + round));
            timers.set(1, None);
        }
        assert!(timers.heap.len() <= 2 * 2 + SLACK, "{}", timers.heap.len());
        assert_eq!(popped(&mut timers, u64::MAX), [0]);
    }

    #[test]
    fn a_deadline_that_moves_later_does_not_grow_the_heap() {
        let mut timers = Timers::default();
        for ns in 10..1_000 {
            timers.set(0, at(ns));
        }
        assert_eq!(timers.heap.len(), 1);
        assert_eq!(popped(&mut timers, 10), [0]);
    }
}
