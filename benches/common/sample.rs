//! A finished probe as benches record it.

use rttscope::event::RxStamps;
use rttscope::sample::{Sample, Stamps};
use rttscope::time::{Mono, Now, Wall};

/// A probe with every stamp, whose round trip by the application takes so long.
pub(crate) fn sample(ns: u64) -> Sample {
    let wall = |ns: u64| Wall::from_ns((1 << 60) + ns);
    let at = |ns: u64| Now { mono: Mono::from_ns((1 << 40) + ns), wall: wall(ns) };
    let stamps = Stamps {
        due: at(0).mono,
        tx_app: at(ns / 100),
        tx_sched: Some(wall(ns / 20)),
        tx_sw: Some(wall(ns / 10)),
        rx: RxStamps { sw: Some(wall(ns / 10 * 9)), hw: None },
        ..Stamps::default()
    };
    Sample::received(1, stamps, at(ns), Some(ns / 4))
}
