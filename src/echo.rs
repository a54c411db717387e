//! The responder flow: one connection. Bytes, stamps and the time go in; echoed bytes and counters
//! come out. A connection that opens with a v3 hello gets replies that carry the responder's own
//! kernel stamps; any other is a plain byte echo, which serves v1 and v2 probers alike.
//!
//! Nothing is ever buffered for a plain echo, and of a v3 frame only the header is kept, so memory
//! does not depend on what a client sends. `sys` stops receiving while a connection's send backlog
//! is large, so a client that does not read cannot make it grow either.

use std::vec::Drain;

use crate::event::{Action, Event, Failure, Outbox, RxStamps, TxStage, TxStamp};
use crate::sample::EchoCounters;
use crate::time::{Mono, Now, Wall};
use crate::wire::{self, Frame, Framer, HelloReply, PreviousTx, Version};

/// How one worker's responder behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponderSettings {
    /// Close a connection on which nothing was received for this long.
    pub idle_timeout_ns: u64,
    /// Connections beyond this many are refused.
    pub connections_max: usize,
    /// The kernel's stamps can be switched on.
    pub stamps_wanted: bool,
}

/// What the connections of one worker share.
#[derive(Debug)]
pub struct Responder {
    settings: ResponderSettings,
    counters: EchoCounters,
    residences_ns: Vec<u64>,
}

/// One connection.
#[derive(Debug)]
pub struct Echo {
    mode: Mode,
    idle_at: Mono,
    closed: bool,
}

#[derive(Debug)]
enum Mode {
    /// Nothing was received yet.
    Fresh,
    /// Bytes go back as they came, for ever.
    Raw,
    /// Frames are answered.
    Framed(Box<Replies>),
}

/// The v3 side of a connection.
#[derive(Debug)]
struct Replies {
    framer: Framer,
    /// Bytes sent since stamps were switched on, modulo 2^32.
    offset: u32,
    /// Replies whose transmit stamp has not been reported yet, oldest first.
    unreported: [Reply; UNREPORTED_MAX],
    first: usize,
    count: usize,
}

#[derive(Clone, Copy, Debug, Default)]
struct Reply {
    seq: u64,
    /// Offset of its last byte.
    key: u32,
    /// When the kernel received the request.
    rx: Option<Wall>,
    /// When the kernel sent the reply.
    tx: Option<Wall>,
}

impl Responder {
    /// A responder without connections.
    #[must_use]
    pub fn new(settings: ResponderSettings) -> Self {
        let residences_ns = Vec::with_capacity(RESIDENCES_MAX);
        Self { settings, counters: EchoCounters::default(), residences_ns }
    }

    /// Whether a new connection may stay; it is counted either way.
    pub fn admit(&mut self) -> bool {
        let connections_max = u64::try_from(self.settings.connections_max).unwrap_or(u64::MAX);
        if self.counters.connections_active >= connections_max {
            self.counters.refused_limit += 1;
            return false;
        }
        self.counters.connections += 1;
        self.counters.connections_active += 1;
        true
    }

    /// An accept failed.
    pub const fn accept_failed(&mut self) {
        self.counters.accept_errors += 1;
    }

    /// What was counted so far.
    #[must_use]
    pub const fn counters(&self) -> &EchoCounters {
        &self.counters
    }

    /// Residences by kernel stamps, ns, since they were last drained. To be drained after every
    /// step; beyond `RESIDENCES_MAX` the newest are dropped.
    pub fn drain_residences_ns(&mut self) -> Drain<'_, u64> {
        self.residences_ns.drain(..)
    }

    fn record_residence(&mut self, rx: Option<Wall>, tx: Wall) {
        let residence_ns = rx.and_then(|rx| u64::try_from(tx.since_ns(rx)).ok());
        if let Some(residence_ns) = residence_ns
            && self.residences_ns.len() < RESIDENCES_MAX
        {
            self.residences_ns.push(residence_ns);
        }
    }

    const fn idle_at(&self, at: Mono) -> Mono {
        Mono::from_ns(at.as_ns().saturating_add(self.settings.idle_timeout_ns))
    }
}

impl Echo {
    /// A connection that was admitted and accepted at `at`.
    #[must_use]
    pub const fn new(shared: &Responder, at: Now) -> Self {
        Self { mode: Mode::Fresh, idle_at: shared.idle_at(at.mono), closed: false }
    }

    /// Takes one step.
    pub fn on(&mut self, shared: &mut Responder, event: Event<'_>, at: Now, out: &mut Outbox) {
        if self.closed {
            return;
        }
        match event {
            Event::Received { bytes, stamps } => {
                self.idle_at = shared.idle_at(at.mono);
                shared.counters.received_bytes += byte_count(bytes);
                self.received(shared, bytes, stamps, out);
            }
            Event::Stamped(stamp) => {
                if let Mode::Framed(replies) = &mut self.mode {
                    replies.stamped(stamp, shared);
                }
            }
            Event::Closed(failure) => {
                shared.counters.closed_error += u64::from(failure != Failure::Eof);
                self.close(shared);
            }
            Event::Due(seen) if seen >= self.idle_at => {
                shared.counters.closed_idle += 1;
                out.push(Action::Close);
                self.close(shared);
            }
            Event::Due(_)
            | Event::Connected
            | Event::Resolved(_)
            | Event::Answered { .. }
            | Event::Moved { .. }
            | Event::Ended => {}
        }
    }

    /// When [`Event::Due`] is wanted.
    #[must_use]
    pub fn deadline(&self) -> Option<Mono> {
        (!self.closed).then_some(self.idle_at)
    }

    /// Whether the connection is over; no event matters any more.
    #[must_use]
    pub const fn is_closed(&self) -> bool {
        self.closed
    }

    fn received(
        &mut self,
        shared: &mut Responder,
        bytes: &[u8],
        stamps: RxStamps,
        out: &mut Outbox,
    ) {
        let mut input = bytes;
        if matches!(self.mode, Mode::Fresh) {
            // Only a hello in one piece counts: waiting for the rest of one would hold back bytes
            // of a client that speaks something else.
            self.mode = if wire::is_hello(bytes) {
                input = &bytes[wire::V2_BYTES..];
                Mode::Framed(Box::new(Replies::greet(shared, out)))
            } else {
                Mode::Raw
            };
        }
        match &mut self.mode {
            Mode::Fresh => {}
            Mode::Raw => {
                out.send(bytes);
                shared.counters.sent_bytes += byte_count(bytes);
            }
            Mode::Framed(replies) => {
                while let Some(request) = replies.framer.next(&mut input) {
                    // The stamps are those of the chunk's last byte.
                    let rx = if input.is_empty() { stamps.sw } else { None };
                    replies.answer(&request, rx, shared, out);
                }
                if replies.framer.take_garbage_bytes() > 0 {
                    shared.counters.closed_protocol += 1;
                    out.push(Action::Close);
                    self.close(shared);
                }
            }
        }
    }

    const fn close(&mut self, shared: &mut Responder) {
        self.closed = true;
        shared.counters.connections_active = shared.counters.connections_active.saturating_sub(1);
    }
}

impl Replies {
    /// Answers the hello; stamp keys count from the byte that follows the answer.
    fn greet(shared: &mut Responder, out: &mut Outbox) -> Self {
        let kernel_stamps = shared.settings.stamps_wanted;
        let answer = wire::encode_hello_reply(HelloReply { kernel_stamps });
        out.send(&answer);
        shared.counters.sent_bytes += byte_count(&answer);
        if kernel_stamps {
            out.push(Action::Stamp);
        }
        Self {
            framer: Framer::new(Version::V3),
            offset: 0,
            unreported: [Reply::default(); UNREPORTED_MAX],
            first: 0,
            count: 0,
        }
    }

    /// Sends a reply as long as its request, so that both directions carry the same load.
    fn answer(
        &mut self,
        request: &Frame,
        rx: Option<Wall>,
        shared: &mut Responder,
        out: &mut Outbox,
    ) {
        let rx = rx.filter(|_| shared.settings.stamps_wanted);
        let previous = self.take_reported(&mut shared.counters);
        let flags = request.flags & wire::FLAG_FOLLOW_UP;
        let start = out.bytes.len();
        out.bytes.extend_from_slice(&wire::encode_v3(&Frame { rx, previous, flags, ..*request }));
        out.bytes.resize(out.bytes.len() + usize::from(request.padding_bytes), 0);
        let sent = out.bytes.len() - start;
        out.push(Action::Send(start..out.bytes.len()));
        self.offset = self.offset.wrapping_add(u32::try_from(sent).unwrap_or(0));
        shared.counters.frames_v3 += 1;
        shared.counters.sent_bytes += u64::try_from(sent).unwrap_or(u64::MAX);
        if shared.settings.stamps_wanted {
            shared.counters.missing_rx_sw += u64::from(rx.is_none());
            let key = self.offset.wrapping_sub(1);
            self.remember(Reply { seq: request.seq, key, rx, tx: None }, &mut shared.counters);
        }
    }

    fn stamped(&mut self, stamp: TxStamp, shared: &mut Responder) {
        let TxStage::Software(tx) = stamp.stage else { return };
        for age in 0..self.count {
            let reply = &mut self.unreported[(self.first + age) % UNREPORTED_MAX];
            if reply.key == stamp.key && reply.tx.is_none() {
                reply.tx = Some(tx);
                shared.record_residence(reply.rx, tx);
                return;
            }
        }
    }

    /// The oldest reply with a stamp. Stamps come in order, so replies before it will get none.
    fn take_reported(&mut self, counters: &mut EchoCounters) -> Option<PreviousTx> {
        let is_stamped =
            |age: &usize| self.unreported[(self.first + age) % UNREPORTED_MAX].tx.is_some();
        let age = (0..self.count).find(is_stamped)?;
        for _ in 0..age {
            self.forget_oldest(counters);
        }
        let reply = self.unreported[self.first];
        self.forget_oldest(counters);
        reply.tx.map(|tx| PreviousTx { seq: reply.seq, tx })
    }

    fn remember(&mut self, reply: Reply, counters: &mut EchoCounters) {
        if self.count == UNREPORTED_MAX {
            self.forget_oldest(counters);
        }
        self.unreported[(self.first + self.count) % UNREPORTED_MAX] = reply;
        self.count += 1;
    }

    const fn forget_oldest(&mut self, counters: &mut EchoCounters) {
        if self.unreported[self.first].tx.is_none() {
            counters.missing_tx_sw += 1;
        }
        self.first = (self.first + 1) % UNREPORTED_MAX;
        self.count -= 1;
    }
}

fn byte_count(bytes: &[u8]) -> u64 {
    u64::try_from(bytes.len()).unwrap_or(u64::MAX)
}

/// Replies whose transmit stamps may be on their way at once.
const UNREPORTED_MAX: usize = 16;
/// Residences kept until they are drained.
const RESIDENCES_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    const SECOND: u64 = 1_000_000_000;

    fn at(seconds: u64) -> Now {
        let ns = (1_000 + seconds) * SECOND;
        Now { mono: Mono::from_ns(ns), wall: Wall::from_ns(ns << 20) }
    }

    fn responder() -> Responder {
        Responder::new(ResponderSettings {
            idle_timeout_ns: 60 * SECOND,
            connections_max: 2,
            stamps_wanted: true,
        })
    }

    /// A connection, its responder and everything it sent.
    struct Script {
        shared: Responder,
        echo: Echo,
        out: Outbox,
    }

    impl Script {
        fn new(mut shared: Responder) -> Self {
            assert!(shared.admit());
            let echo = Echo::new(&shared, at(0));
            Self { shared, echo, out: Outbox::default() }
        }

        /// Takes a step and returns the actions with the bytes they send.
        fn on(&mut self, event: Event<'_>, seconds: u64) -> Vec<(Action, Vec<u8>)> {
            self.echo.on(&mut self.shared, event, at(seconds), &mut self.out);
            let actions = std::mem::take(&mut self.out.actions);
            let sent = actions.iter().map(|action| match action {
                Action::Send(range) => self.out.bytes[range.clone()].to_vec(),
                _ => Vec::new(),
            });
            let result = actions.iter().cloned().zip(sent).collect();
            self.out.clear();
            result
        }

        fn receive(&mut self, bytes: &[u8], sw: Option<u64>) -> Vec<(Action, Vec<u8>)> {
            let stamps = RxStamps { sw: sw.map(Wall::from_ns), hw: None };
            self.on(Event::Received { bytes, stamps }, 1)
        }

        fn stamp(&mut self, key: u32, ns: u64) {
            let stage = TxStage::Software(Wall::from_ns(ns));
            assert_eq!(self.on(Event::Stamped(TxStamp { key, stage }), 1), []);
        }

        fn greet(shared: Responder) -> Self {
            let mut script = Self::new(shared);
            let actions = script.receive(&wire::encode_hello(Wall::from_ns(5)), None);
            let reply = wire::encode_hello_reply(HelloReply { kernel_stamps: true });
            let expected = [(Action::Send(0..24), reply.to_vec()), (Action::Stamp, Vec::new())];
            assert_eq!(actions, expected);
            script
        }
    }

    fn request(seq: u64, padding_bytes: u16) -> Vec<u8> {
        let sent = Wall::from_ns(seq * 7);
        let mut bytes =
            wire::encode_v3(&Frame { seq, sent, padding_bytes, ..Frame::default() }).to_vec();
        bytes.resize(bytes.len() + usize::from(padding_bytes), 0xA5);
        bytes
    }

    /// `(seq, rx, previous)` of a reply.
    type Told = (u64, Option<u64>, Option<(u64, u64)>);

    fn replies(actions: &[(Action, Vec<u8>)]) -> Vec<Told> {
        let frames = actions.iter().filter_map(|(_, bytes)| wire::decode(Version::V3, bytes));
        frames
            .map(|frame| {
                let previous = frame.previous.map(|previous| (previous.seq, previous.tx.as_ns()));
                (frame.seq, frame.rx.map(Wall::as_ns), previous)
            })
            .collect()
    }

    #[test]
    fn frames_of_the_systems_replaced_come_back_as_they_went() {
        for first in [
            wire::encode_v1(1, Wall::from_ns(9)).to_vec(),
            wire::encode_v2(1, Wall::from_ns(9)).to_vec(),
            wire::encode_hello(Wall::from_ns(9))[..23].to_vec(),
            vec![0],
        ] {
            let mut script = Script::new(responder());
            let hello = wire::encode_hello(Wall::from_ns(1));
            for bytes in [&first[..], &hello, &first] {
                let expected = [(Action::Send(0..bytes.len()), bytes.to_vec())];
                assert_eq!(script.receive(bytes, Some(1)), expected);
            }
            let bytes = u64::try_from(2 * first.len() + 24).expect("small");
            assert_eq!(script.shared.counters().received_bytes, bytes);
            assert_eq!(script.shared.counters().sent_bytes, bytes);
        }
    }

    #[test]
    fn each_reply_tells_of_an_earlier_one() {
        let mut script = Script::greet(responder());
        let actions = script.receive(&request(1, 0), Some(1_000));
        assert_eq!(replies(&actions), [(1, Some(1_000), None)]);
        script.stamp(55, 1_700);
        let actions = script.receive(&request(2, 10), Some(3_000));
        assert_eq!(replies(&actions), [(2, Some(3_000), Some((1, 1_700)))]);
        assert_eq!(actions.first().map(|(_, bytes)| bytes.len()), Some(66));
        // Told once only; the second one's stamp is not there yet.
        assert_eq!(replies(&script.receive(&request(3, 0), None)), [(3, None, None)]);
        script.stamp(55 + 66, 3_200);
        script.stamp(55 + 66 + 56, 3_300);
        let follow_up = Frame { flags: wire::FLAG_FOLLOW_UP, ..Frame::default() };
        let actions = script.receive(&wire::encode_v3(&follow_up), Some(4_000));
        assert_eq!(replies(&actions), [(0, Some(4_000), Some((2, 3_200)))]);
        let (_, bytes) = actions.first().expect("one reply");
        let flags = wire::decode(Version::V3, bytes).map(|frame| frame.flags);
        assert_eq!(flags, Some(wire::FLAG_FOLLOW_UP));
        assert_eq!(script.shared.drain_residences_ns().collect::<Vec<_>>(), [700, 200]);
        let counters = script.shared.counters();
        assert_eq!((counters.frames_v3, counters.missing_rx_sw, counters.missing_tx_sw), (4, 1, 0));
    }

    #[test]
    fn a_stamp_that_never_comes_is_passed_over_and_counted() {
        let mut script = Script::greet(responder());
        for seq in 1..=3 {
            script.receive(&request(seq, 0), Some(seq));
        }
        // One stamp for three replies that left in one packet.
        script.stamp(3 * 56 - 1, 90);
        let actions = script.receive(&request(4, 0), Some(100));
        assert_eq!(replies(&actions), [(4, Some(100), Some((3, 90)))]);
        assert_eq!(script.shared.counters().missing_tx_sw, 2);
        for seq in 5..=40 {
            script.receive(&request(seq, 0), Some(seq));
        }
        assert_eq!(script.shared.counters().missing_tx_sw, 2 + 37 - 16);
    }

    #[test]
    fn only_the_last_request_of_a_chunk_has_the_chunks_stamp() {
        let mut script = Script::greet(responder());
        let bytes = [request(1, 3), request(2, 0), request(3, 200)].concat();
        let actions = script.receive(&bytes[..200], Some(50));
        assert_eq!(replies(&actions), [(1, None, None), (2, None, None)]);
        assert_eq!(replies(&script.receive(&bytes[200..], Some(60))), [(3, Some(60), None)]);
    }

    #[test]
    fn without_stamps_nothing_is_promised_and_nothing_missed() {
        let settings = ResponderSettings { stamps_wanted: false, ..responder().settings };
        let mut script = Script::new(Responder::new(settings));
        let actions = script.receive(&wire::encode_hello(Wall::from_ns(5)), None);
        let reply = wire::encode_hello_reply(HelloReply { kernel_stamps: false });
        assert_eq!(actions, [(Action::Send(0..24), reply.to_vec())]);
        for seq in 1..=20 {
            let actions = script.receive(&request(seq, 0), Some(4));
            assert_eq!(replies(&actions), [(seq, None, None)]);
        }
        let counters = script.shared.counters();
        assert_eq!((counters.missing_rx_sw, counters.missing_tx_sw), (0, 0));
    }

    #[test]
    fn what_is_no_v3_frame_ends_a_v3_connection() {
        let mut script = Script::greet(responder());
        script.receive(&request(1, 0)[..20], None);
        let mut broken = request(1, 0)[20..].to_vec();
        broken.extend(b"GET / HTTP/1.1\r\n");
        let actions = script.receive(&broken, None);
        assert_eq!(replies(&actions), [(1, None, None)]);
        assert_eq!(actions.last(), Some(&(Action::Close, Vec::new())));
        assert!(script.echo.is_closed());
        assert_eq!(script.receive(&request(2, 0), None), []);
        let counters = script.shared.counters();
        assert_eq!((counters.closed_protocol, counters.connections_active), (1, 0));
    }

    #[test]
    fn idle_connections_are_closed_and_busy_ones_are_not() {
        let mut script = Script::new(responder());
        assert_eq!(script.echo.deadline(), Some(at(60).mono));
        script.receive(b"x", None);
        assert_eq!(script.on(Event::Due(at(60).mono), 60), []);
        assert_eq!(script.echo.deadline(), Some(at(61).mono));
        assert_eq!(script.on(Event::Due(at(61).mono), 61), [(Action::Close, Vec::new())]);
        assert_eq!(script.on(Event::Due(at(99).mono), 99), []);
        assert_eq!((script.echo.is_closed(), script.echo.deadline()), (true, None));
        let counters = script.shared.counters();
        assert_eq!((counters.closed_idle, counters.connections_active), (1, 0));
    }

    #[test]
    fn connections_are_limited_and_places_are_given_back() {
        let mut shared = responder();
        assert!(shared.admit() && shared.admit() && !shared.admit());
        let mut first = Echo::new(&shared, at(0));
        let mut second = Echo::new(&shared, at(0));
        let mut out = Outbox::default();
        first.on(&mut shared, Event::Closed(Failure::Eof), at(1), &mut out);
        first.on(&mut shared, Event::Closed(Failure::Reset), at(1), &mut out);
        second.on(&mut shared, Event::Closed(Failure::Reset), at(1), &mut out);
        assert!(shared.admit());
        let counters = shared.counters();
        assert_eq!((counters.connections, counters.connections_active), (3, 1));
        assert_eq!((counters.refused_limit, counters.closed_error), (1, 1));
        assert_eq!(out.actions, []);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_split_are_echoed_verbatim(
            chunks in vec(vec(any::<u8>(), 1..100), 1..30),
        ) {
            let mut script = Script::new(responder());
            for chunk in &chunks {
                let actions = script.receive(chunk, None);
                prop_assert_eq!(actions, vec![(Action::Send(0..chunk.len()), chunk.clone())]);
            }
        }

        #[test]
        fn v3_requests_in_any_split_are_answered_in_order_and_at_equal_length(
            paddings in vec(0_u16..=wire::V3_PADDING_BYTES_MAX, 1..20),
            cut in 1_usize..3_000,
        ) {
            let mut script = Script::greet(responder());
            let mut bytes = Vec::new();
            for (seq, padding_bytes) in (1..).zip(&paddings) {
                bytes.extend(request(seq, *padding_bytes));
            }
            let mut sent = Vec::new();
            for chunk in bytes.chunks(cut) {
                let actions = script.receive(chunk, None);
                sent.extend(actions.into_iter().map(|(_, bytes)| bytes));
            }
            prop_assert_eq!(sent.len(), paddings.len());
            for ((seq, padding_bytes), reply) in (1..).zip(&paddings).zip(&sent) {
                let frame = wire::decode(Version::V3, reply).expect("a v3 frame");
                prop_assert_eq!((frame.seq, frame.padding_bytes), (seq, *padding_bytes));
                prop_assert_eq!(frame.sent, Wall::from_ns(seq * 7));
                let length = wire::V3_HEADER_BYTES + usize::from(*padding_bytes);
                prop_assert_eq!(reply.len(), length);
            }
        }

        #[test]
        fn no_bytes_or_stamps_break_a_v3_connection(
            steps in vec((vec(any::<u8>(), 1..120), any::<bool>(), 0_u32..3_000), 1..40),
        ) {
            let mut script = Script::greet(responder());
            for (bytes, whole, key) in steps {
                let frame = request(u64::from(key), u16::try_from(key % 50).expect("small"));
                script.receive(if whole { &frame } else { &bytes }, Some(1));
                script.stamp(key, u64::from(key));
                let active = script.shared.counters().connections_active;
                prop_assert_eq!(active, u64::from(!script.echo.is_closed()));
            }
        }
    }
}
