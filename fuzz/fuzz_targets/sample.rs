//! Any stamps a kernel could give and any residence a peer could claim: deriving a sample from
//! them never panics, and the stages add up to the application's round trip exactly.

#![no_main]

use libfuzzer_sys::fuzz_target;
use rttscope::event::RxStamps;
use rttscope::sample::{Sample, Stage, Stamps};
use rttscope::time::{Mono, Now, Phc, Wall};

fuzz_target!(|data: &[u8]| {
    let mut numbers = Numbers(data);
    let tx_app =
        Now { mono: Mono::from_ns(numbers.origin_ns()), wall: Wall::from_ns(numbers.origin_ns()) };
    let due = tx_app.mono.offset_ns(numbers.distance_ns());
    let trip_ns = numbers.distance_ns();
    let step_ns = numbers.step_ns();
    let rx_app = Now {
        mono: tx_app.mono.offset_ns(trip_ns),
        wall: tx_app.wall.offset_ns(trip_ns + step_ns),
    };
    let card = Phc::from_ns(numbers.origin_ns());
    let mut wall = || numbers.stamp().map(|distance_ns| tx_app.wall.offset_ns(distance_ns));
    let mut stamps = Stamps { due, tx_app, tx_sched: wall(), ..Stamps::default() };
    stamps.tx_sw = wall();
    stamps.tx_ack = wall();
    let rx_sw = wall();
    stamps.tx_hw = numbers.stamp().map(|distance_ns| card.offset_ns(distance_ns));
    let rx_hw = numbers.stamp().map(|distance_ns| card.offset_ns(distance_ns));
    stamps.rx = RxStamps { sw: rx_sw, hw: rx_hw };
    let peer_ns = numbers.next().map(u64::from_le_bytes);

    let sample = Sample::received(1, stamps, rx_app, peer_ns);
    let stages = [Stage::Lag, Stage::Send, Stage::Wakeup].map(|stage| sample.stage_ns(stage));
    if let ([Some(lag), Some(send), Some(wakeup)], Some(rtt)) = (stages, sample.rtt_ns) {
        assert_eq!(Some(lag + send + rtt + wakeup), sample.app_rtt_ns);
    }
    if let (Some(network), Some(peer)) = (sample.network_ns, sample.peer_ns) {
        assert_eq!(Some(network + peer), sample.rtt_ns);
    }
});

/// The input as numbers; none or 0 once it is used up.
struct Numbers<'a>(&'a [u8]);

impl Numbers<'_> {
    fn next<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*number)
    }

    /// Up to 2^62 ns, 146 years: so that sums of differences fit.
    fn origin_ns(&mut self) -> u64 {
        self.next().map_or(0, u64::from_le_bytes) >> 2
    }

    /// Up to 2 s, either way.
    fn distance_ns(&mut self) -> i64 {
        self.next().map_or(0, i32::from_le_bytes).into()
    }

    /// By how much the wall clock is stepped.
    fn step_ns(&mut self) -> i64 {
        self.next().map_or(0, i16::from_le_bytes).into()
    }

    /// A stamp's distance; every other number is a missing stamp.
    fn stamp(&mut self) -> Option<i64> {
        Some(self.distance_ns()).filter(|distance_ns| distance_ns & 1 == 0)
    }
}
