//! Packets that are no packets: cut at every length, and random. Bytes flow in; the programs let
//! everything pass and tell nothing that did not happen.

use rttscope_ebpf::kind;

use crate::frames::{ACK, DESTINATION, FRAGMENT, HOP_BY_HOP, LOCAL_PORT, SYN, Shape, Tcp, Way};
use crate::loaded::Loaded;

const SYN_SENT: Tcp = Tcp::new(SYN, 7, 0);
const ANSWER: Tcp = Tcp::new(SYN | ACK, 50, 8);

/// The kernel makes no packet of less than an Ethernet header and the IP header that it names.
const SHORTEST: usize = 14 + 40;

fn shapes() -> Vec<Shape> {
    let mut shapes = Vec::new();
    for v6 in [false, true] {
        for tags in [vec![], vec![0x8100], vec![0x88a8, 0x8100]] {
            shapes.push(Shape { tags, ..Shape::plain(v6) });
        }
        shapes.push(Shape { tcp_options: 12, ..Shape::plain(v6) });
    }
    shapes.push(Shape { ip_options: 40, ..Shape::plain(false) });
    let extensions = vec![(HOP_BY_HOP, 0), (DESTINATION, 2), (FRAGMENT, 0)];
    shapes.push(Shape { extensions, ..Shape::plain(true) });
    shapes
}

#[test]
fn a_cut_packet_is_no_answer() {
    let Some(loaded) = Loaded::new("a_cut_packet_is_no_answer") else { return };
    for shape in shapes() {
        // Options may be missing: whoever reads them finds out.
        let optional = usize::from(shape.tcp_options);
        let (syn, answer) = (shape.frame(Way::Out, SYN_SENT), shape.frame(Way::In, ANSWER));
        for length in 0..syn.len() - optional {
            let passed = loaded.pass(Way::Out, &syn[..length]);
            assert!(passed || length < SHORTEST, "{length} bytes were refused");
            assert_eq!(loaded.attempts(), 0, "{length} bytes of {shape:?}");
        }
        assert!(loaded.pass(Way::Out, &syn));
        for length in 0..answer.len() - optional {
            loaded.pass(Way::In, &answer[..length]);
            assert_eq!(loaded.events(), [], "{length} bytes of {shape:?}");
        }
        assert!(loaded.pass(Way::In, &answer));
        assert_eq!(loaded.events().len(), 1, "{shape:?}");
        let goodbye = shape.frame(Way::Out, Tcp::new(ACK, 8, 51));
        assert!(loaded.pass(Way::Out, &goodbye));
        assert_eq!(loaded.events().len(), 1, "{shape:?}");
    }
}

#[test]
fn random_bytes_tell_nothing() {
    let Some(loaded) = Loaded::new("random_bytes_tell_nothing") else { return };
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let types = [[0x08, 0x00], [0x86, 0xdd], [0x81, 0x00], [0x88, 0xa8]];
    for round in 0..20_000_usize {
        let mut frame: Vec<u8> = (0..64 + random.below(100)).map(|_| random.byte()).collect();
        frame[12..14].copy_from_slice(&types[round % types.len()]);
        for way in [Way::Out, Way::In] {
            assert!(loaded.pass(way, &frame));
        }
    }
    assert_eq!(loaded.events(), []);
}

#[test]
fn damaged_packets_tell_only_what_is_possible() {
    let Some(loaded) = Loaded::new("damaged_packets_tell_only_what_is_possible") else { return };
    let mut random = Random(0x2545_f491_4f6c_dd1d);
    let shapes = shapes();
    let mut told = 0;
    for round in 0..8_000_usize {
        let shape = &shapes[round % shapes.len()];
        let goodbye = Tcp::new(ACK, 8, 51);
        for (way, tcp) in [(Way::Out, SYN_SENT), (Way::In, ANSWER), (Way::Out, goodbye)] {
            let mut frame = shape.frame(way, tcp);
            for _ in 0..random.below(3) {
                let at = random.below(frame.len());
                frame[at] = random.byte();
            }
            assert!(loaded.pass(way, &frame));
        }
        for event in loaded.events() {
            assert!((kind::OPEN..=kind::COMPLETED).contains(&event.kind), "{event:?}");
            assert_eq!(event.key.local.port_be, LOCAL_PORT.to_be_bytes(), "{event:?}");
            assert_eq!((event.key.local.zero, event.key.remote.zero), ([0; 2], [0; 2]));
            assert!(event.syns >= 1 && event.first_ns <= event.last_ns, "{event:?}");
            told += 1;
        }
    }
    assert!(told > 1_000, "most damage is slight, yet only {told} events came");
}

/// Marsaglia's xorshift: the same bytes in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn byte(&mut self) -> u8 {
        self.next().to_le_bytes()[3]
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.next() % u64::try_from(end).unwrap()).unwrap()
    }
}
