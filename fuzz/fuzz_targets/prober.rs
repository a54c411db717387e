//! Any script of events that the system could tell a prober: it never panics, its counters
//! reconcile after every step, it never asks to be woken again and again at the same moment, it
//! takes part in no connection it did not ask for, and it ends when it is told to.

#![no_main]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use rttscope::event::{Action, Event, Failure, Outbox, RxStamps, TxStage, TxStamp};
use rttscope::probe::{Probe, ProbeSettings, Wire};
use rttscope::time::{Mono, Now, Phc, Wall};
use rttscope::wire::{self, Frame, Framer, HelloReply, PreviousTx, Version};

/// Steps at one moment after which a prober is taken to be spinning.
const STEPS_AT_ONCE_MAX: u32 = 1_000;

fuzz_target!(|data: &[u8]| {
    let mut script = Script(data);
    let start =
        Now { mono: Mono::from_ns(1_000_000_000), wall: Wall::from_ns(1_700_000_000_000_000_000) };
    let settings = settings(&mut script);
    let mut play = Play {
        probe: Probe::new(settings, start.mono),
        at: start,
        out: Outbox::default(),
        link: Link::Down,
        unread: Vec::new(),
    };
    while let Some(word) = script.byte() {
        play.scene(word, &mut script);
    }
    play.probe.finish(play.at, &mut play.out);
    play.settle();
    for _ in 0..10_000 {
        if play.probe.is_finished() {
            break;
        }
        play.due();
    }
    assert!(play.probe.is_finished(), "told to end, and goes on");
});

fn settings(script: &mut Script<'_>) -> ProbeSettings {
    let flags = script.byte().unwrap_or(0);
    let wires = [Wire::Auto, Wire::V1, Wire::V2, Wire::V3];
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 4000));
    ProbeSettings {
        interval_ns: u64::from(script.number()) % 1_000_000_000 + 1_000_000,
        phase_ns: u64::from(script.number()) % 1_000_000,
        timeout_ns: u64::from(script.number()) % 1_000_000_000 + 1_000_000,
        adaptive: flags & 1 == 1,
        window: 10,
        count: (flags & 2 == 2).then_some(20),
        stop_at: None,
        wire: wires[usize::from(flags >> 2) % wires.len()],
        padding_bytes: u16::from(flags >> 5),
        stamps_wanted: flags & 16 == 16,
        resolve_interval_ns: (flags & 32 == 32).then_some(5_000_000_000),
        in_flight_max: 64,
        addresses: if flags & 64 == 64 { Vec::new() } else { vec![address] },
    }
}

/// What the system knows of the prober's connection.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Link {
    Down,
    Asked,
    Up,
}

struct Play {
    probe: Probe,
    at: Now,
    out: Outbox,
    link: Link,
    /// What the prober sent and the peer has not answered.
    unread: Vec<u8>,
}

impl Play {
    /// One thing that happens.
    fn scene(&mut self, word: u8, script: &mut Script<'_>) {
        match (word % 10, self.link) {
            (0, _) => self.due(),
            (1, _) => self.at = self.at.after(Duration::from_nanos(script.number().into())),
            (2, Link::Asked) => {
                self.link = Link::Up;
                self.step(Event::Connected);
            }
            (3, Link::Asked | Link::Up) => {
                self.link = Link::Down;
                self.step(Event::Closed(failure(script)));
            }
            (4, Link::Up) => {
                let bytes = script.bytes();
                self.received(bytes, script);
            }
            (5, Link::Up) => self.echo(word, script),
            (6, Link::Up) => self.answer(script),
            (7, Link::Up) => {
                let stamp = tx_stamp(script, self.at.wall);
                self.step(Event::Stamped(stamp));
            }
            (8, _) => {
                let addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 4001))];
                let known = script.byte().unwrap_or(0) & 1 == 1;
                self.step(Event::Resolved(known.then_some(&addresses)));
            }
            (9, _) => self.at.wall = self.at.wall.offset_ns(script.distance_ns()),
            _ => {}
        }
    }

    /// The peer returns some of what it got, perhaps with a bit changed.
    fn echo(&mut self, word: u8, script: &mut Script<'_>) {
        let wanted = usize::from(script.byte().unwrap_or(255));
        let count = if wanted > 200 { self.unread.len() } else { wanted.min(self.unread.len()) };
        let mut bytes: Vec<u8> = self.unread.drain(..count).collect();
        if word >= 128
            && let Some(last) = bytes.len().checked_sub(1)
        {
            let place = usize::from(script.byte().unwrap_or(0)).min(last);
            bytes[place] ^= script.byte().unwrap_or(0);
        }
        self.received(&bytes, script);
    }

    /// The peer is a v3 responder, and answers everything that it got whole.
    fn answer(&mut self, script: &mut Script<'_>) {
        let sent = std::mem::take(&mut self.unread);
        if wire::is_hello(&sent) {
            let kernel_stamps = script.byte().unwrap_or(0) & 1 == 0;
            self.received(&wire::encode_hello_reply(HelloReply { kernel_stamps }), script);
            return;
        }
        let mut answers = Vec::new();
        let mut framer = Framer::new(Version::V3);
        let mut rest = sent.as_slice();
        while let Some(frame) = framer.next(&mut rest) {
            let tx = script.stamp(self.at.wall);
            let previous = tx.map(|tx| PreviousTx { seq: frame.seq.saturating_sub(1), tx });
            let rx = script.stamp(self.at.wall);
            answers.extend(wire::encode_v3(&Frame { rx, previous, ..frame }));
            answers.resize(answers.len() + usize::from(frame.padding_bytes), 0);
        }
        self.received(&answers, script);
    }

    fn received(&mut self, bytes: &[u8], script: &mut Script<'_>) {
        if !bytes.is_empty() {
            let sw = script.stamp(self.at.wall);
            self.step(Event::Received { bytes, stamps: RxStamps { sw, hw: None } });
        }
    }

    /// The prober is woken when it asked to be.
    fn due(&mut self) {
        let Some(deadline) = self.probe.deadline() else { return };
        let wait_ns = u64::try_from(deadline.since_ns(self.at.mono)).unwrap_or(0);
        self.at = self.at.after(Duration::from_nanos(wait_ns));
        for _ in 0..STEPS_AT_ONCE_MAX {
            self.step(Event::Due(self.at.mono));
            if self.probe.deadline().is_none_or(|deadline| deadline > self.at.mono) {
                return;
            }
        }
        panic!("woken {STEPS_AT_ONCE_MAX} times at one moment, and wants more");
    }

    fn step(&mut self, event: Event<'_>) {
        self.probe.on(event, self.at, &mut self.out);
        self.settle();
    }

    /// Carries the actions out and checks the books.
    fn settle(&mut self) {
        for action in &self.out.actions {
            match action {
                Action::Connect(_) => {
                    assert!(self.link == Link::Down, "one connection at a time");
                    self.link = Link::Asked;
                    self.unread.clear();
                }
                Action::Send(range) => {
                    assert!(self.link == Link::Up, "sent without a connection");
                    self.unread.extend_from_slice(&self.out.bytes[range.clone()]);
                }
                Action::Close => self.link = Link::Down,
                Action::Stamp | Action::Resolve => {}
                Action::Check { .. } | Action::Withdraw(_) | Action::TimeOut(_) => {
                    panic!("a prober checks nothing")
                }
            }
        }
        let counters = self.probe.counters();
        assert_eq!(counters.sent, counters.received + counters.timeouts + counters.in_flight);
        assert!(counters.window_lost <= counters.window_probes);
        self.out.clear();
    }
}

fn failure(script: &mut Script<'_>) -> Failure {
    let failures = [
        Failure::Eof,
        Failure::Refused,
        Failure::Reset,
        Failure::Unreachable,
        Failure::TimedOut,
        Failure::Local(24),
        Failure::Stalled,
        Failure::Other(1),
    ];
    failures[usize::from(script.byte().unwrap_or(0)) % failures.len()]
}

fn tx_stamp(script: &mut Script<'_>, at: Wall) -> TxStamp {
    let key = script.number();
    let key = if key & 1 == 1 { key % 4096 } else { key };
    let wall = at.offset_ns(script.distance_ns());
    let stage = match script.byte().unwrap_or(0) % 4 {
        0 => TxStage::Sched(wall),
        1 => TxStage::Software(wall),
        2 => TxStage::Hardware(Phc::from_ns(wall.as_ns())),
        _ => TxStage::Ack(wall),
    };
    TxStamp { key, stage }
}

/// The input, read from the front; it runs dry.
struct Script<'a>(&'a [u8]);

impl<'a> Script<'a> {
    fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn number(&mut self) -> u32 {
        let Some((number, rest)) = self.0.split_first_chunk() else { return 0 };
        self.0 = rest;
        u32::from_le_bytes(*number)
    }

    /// Up to 2 s, either way.
    fn distance_ns(&mut self) -> i64 {
        self.number().cast_signed().into()
    }

    fn stamp(&mut self, near: Wall) -> Option<Wall> {
        let distance_ns = self.distance_ns();
        (distance_ns & 1 == 0).then(|| near.offset_ns(distance_ns))
    }

    fn bytes(&mut self) -> &'a [u8] {
        let count = usize::from(self.byte().unwrap_or(0)).min(self.0.len());
        let (bytes, rest) = self.0.split_at(count);
        self.0 = rest;
        bytes
    }
}
