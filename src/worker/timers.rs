//! Deadlines of many flows, soonest first. A flow has one valid entry; an entry that was overtaken
//! by an earlier one stays in the heap and is skipped when its time comes.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::event::FlowId;
use crate::time::Mono;

/// A heap of deadlines.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Mono, u32)>>,
    /// The valid entry of each flow.
    valid: Vec<Option<Mono>>,
}

impl Timers {
    /// Sets a flow's deadline, or takes it away.
    ///
    /// A deadline that moves later keeps its entry: the flow is then asked once in vain and
    /// registered again, which is cheaper than a heap that grows with every probe.
    pub(super) fn set(&mut self, flow: FlowId, deadline: Option<Mono>) {
        let slot = flow.index();
        if self.valid.len() <= slot {
            self.valid.resize(slot + 1, None);
        }
        match (self.valid[slot], deadline) {
            (Some(registered), Some(wanted)) if registered <= wanted => {}
            (_, Some(wanted)) => {
                self.valid[slot] = Some(wanted);
                self.heap.push(Reverse((wanted, flow.0)));
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
            self.heap.retain(|Reverse((at, flow))| valid[FlowId(*flow).index()] == Some(*at));
        }
    }

    /// The soonest deadline.
    pub(super) fn next(&mut self) -> Option<Mono> {
        self.skip_overtaken();
        self.heap.peek().map(|Reverse((at, _))| *at)
    }

    /// Takes a flow whose entry has come by `now`.
    pub(super) fn pop(&mut self, now: Mono) -> Option<FlowId> {
        self.skip_overtaken();
        let Reverse((at, flow)) = *self.heap.peek()?;
        if at > now {
            return None;
        }
        self.heap.pop();
        let flow = FlowId(flow);
        self.valid[flow.index()] = None;
        Some(flow)
    }

    fn skip_overtaken(&mut self) {
        while let Some(Reverse((at, flow))) = self.heap.peek()
            && self.valid[FlowId(*flow).index()] != Some(*at)
        {
            self.heap.pop();
        }
    }
}

/// Overtaken entries that are not worth a sweep.
const SLACK: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ns: u64) -> Option<Mono> {
        Some(Mono::from_ns(ns))
    }

    /// Every flow that comes out by `now`, in order.
    fn popped(timers: &mut Timers, now: u64) -> Vec<u32> {
        std::iter::from_fn(|| timers.pop(Mono::from_ns(now))).map(|flow| flow.0).collect()
    }

    #[test]
    fn flows_come_out_in_order_and_never_early() {
        let mut timers = Timers::default();
        timers.set(FlowId(0), at(30));
        timers.set(FlowId(1), at(10));
        timers.set(FlowId(2), at(20));
        assert_eq!(timers.next(), at(10));
        assert!(popped(&mut timers, 9).is_empty());
        assert_eq!(popped(&mut timers, 20), [1, 2]);
        assert_eq!(popped(&mut timers, 100), [0]);
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn an_earlier_deadline_overtakes_and_a_removed_one_is_silent() {
        let mut timers = Timers::default();
        timers.set(FlowId(0), at(30));
        timers.set(FlowId(0), at(10));
        assert_eq!(popped(&mut timers, 50), [0]);
        timers.set(FlowId(0), at(60));
        timers.set(FlowId(0), None);
        assert!(popped(&mut timers, 100).is_empty());
    }

    #[test]
    fn connections_that_come_and_go_leave_nothing_behind() {
        let mut timers = Timers::default();
        timers.set(FlowId(0), at(1));
        for round in 0..10_000 {
            timers.set(FlowId(1), at(1_000_000 + round));
            timers.set(FlowId(1), None);
        }
        assert!(timers.heap.len() <= 2 * 2 + SLACK, "{}", timers.heap.len());
        assert_eq!(popped(&mut timers, u64::MAX), [0]);
    }

    #[test]
    fn a_deadline_that_moves_later_does_not_grow_the_heap() {
        let mut timers = Timers::default();
        for ns in 10..1_000 {
            timers.set(FlowId(0), at(ns));
        }
        assert_eq!(timers.heap.len(), 1);
        assert_eq!(popped(&mut timers, 10), [0]);
    }
}
