//! Any bytes as what a raw socket or its error queue gives: reading is total, and an answer that
//! the state machine takes acknowledges a SYN of ours.

#![no_main]

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use libfuzzer_sys::fuzz_target;
use rttscope::event::FlowId;
use rttscope::sys::linux::stamp;
use rttscope::sys::linux::syn::attempts::{Attempts, Route};
use rttscope::sys::linux::syn::segment::{self, Segment, Syn};
use rttscope::time::Now;

fuzz_target!(|bytes: &[u8]| {
    let [v6, v4] = [segment::parse(bytes), segment::parse_ipv4(bytes)];
    let quote = segment::parse_quote(bytes);
    let sent = [false, true].map(|ipv6| segment::parse_sent(bytes, ipv6));
    let _ = stamp::decode_icmp(bytes);
    // What was cut off is never read beyond its end, and never becomes more than it was.
    for cut in [bytes.len() / 2, bytes.len().saturating_sub(1)] {
        let shorter = segment::parse(&bytes[..cut]);
        assert!(shorter.is_none() || v6.is_some());
    }

    let mut attempts = Attempts::new(61_000..=61_003);
    let to = SocketAddr::from((Ipv4Addr::new(192, 0, 2, 1), 443));
    let route = Route { source: Ipv4Addr::new(192, 0, 2, 9).into(), segment_bytes_max: 1_460 };
    let syn = attempts.start(FlowId(1), to, route, Now::default()).expect("every port is free");
    for sent in sent.into_iter().flatten() {
        attempts.stamped(&sent, Now::default().wall);
    }
    if let Some(quote) = quote {
        let ended = attempts.undeliverable(to.ip(), &quote);
        assert_eq!(ended.is_some(), quote.sequence == syn.sequence && ends_fit(&quote, &syn));
    }
    for segment in [v6, v4].into_iter().flatten() {
        take(&mut attempts, to.ip(), &segment, &syn);
    }
});

fn ends_fit(quote: &segment::Quote, syn: &Syn) -> bool {
    (quote.source_port, quote.destination_port) == (syn.source.port(), syn.destination.port())
}

fn take(attempts: &mut Attempts, from: IpAddr, segment: &Segment, syn: &Syn) {
    // The number is random: with the right one even random bytes become an answer.
    let right = Segment { acknowledgment: syn.sequence.wrapping_add(1), ..*segment };
    for segment in [segment, &right] {
        let wanted = attempts.is_wanted(FlowId(1), syn);
        if attempts.received(from, segment, None, Now::default()).is_some() {
            assert!(wanted && !attempts.is_wanted(FlowId(1), syn));
            assert_eq!(segment.acknowledgment, syn.sequence.wrapping_add(1));
            assert_ne!(segment.flags & segment::ACK, 0);
        }
    }
}
