//! The responder returns every byte unchanged, whatever it is and however it was split, as the
//! responders of the seed did for frames of 16 and 24 bytes.

use std::time::Duration;

use crate::clients::{connect, exchange, is_closed_within, noise, ping};
use crate::frames;
use crate::run::PATIENCE;
use crate::site::Site;

everywhere! {
    any_bytes_come_back_however_they_were_split,
    frames_of_the_seeds_come_back_byte_for_byte,
    a_stream_larger_than_every_buffer_comes_back,
}

on_each_io! {
    what_only_begins_like_a_hello_comes_back,
    many_connections_get_their_own_bytes_back,
    a_client_that_ends_its_half_gets_all_its_bytes,
}

fn any_bytes_come_back_however_they_were_split(site: &Site) {
    let serve = site.serve("");
    let address = serve.responder_address();
    let splits: [&[usize]; 6] = [&[1], &[7, 1, 9], &[15, 17], &[16, 24, 8], &[1_000, 3], &[65_536]];
    for (seed, parts) in (1..).zip(splits) {
        let stream = connect(&site.prober_place(), address);
        let length = if parts == [1] { 200 } else { 20_000 };
        exchange(&stream, &noise(seed, length), parts, Duration::ZERO);
    }
    // Parts that really arrive apart.
    let stream = connect(&site.prober_place(), address);
    exchange(&stream, &noise(9, 400), &[1, 15, 16, 8, 40], Duration::from_millis(5));
}

fn frames_of_the_seeds_come_back_byte_for_byte(site: &Site) {
    let serve = site.serve("");
    let address = serve.responder_address();
    // A frame of the seed's HEAD as captured on the wire.
    let captured = [
        0x54, 0x43, 0x50, 0x50, 0x49, 0x4e, 0x47, 0x00, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
        0x00, 0x4c, 0x2b, 0xff, 0x3b, 0x53, 0xef, 0xe9, 0x18,
    ];
    assert_eq!(captured[..], frames::v2(1, 0x18e9_ef53_3bff_2b4c));
    let v2 = connect(&site.prober_place(), address);
    ping(&v2, &captured);
    (2..=20).for_each(|sequence| ping(&v2, &frames::v2(sequence, u64::MAX - sequence)));

    let v1 = connect(&site.prober_place(), address);
    let first = [1, 0, 0, 0, 0, 0, 0, 0, 0x4c, 0x2b, 0xff, 0x3b, 0x53, 0xef, 0xe9, 0x18];
    assert_eq!(first[..], frames::v1(1, 0x18e9_ef53_3bff_2b4c));
    ping(&v1, &first);
    (2..=20).for_each(|sequence| ping(&v1, &frames::v1(sequence, sequence << 56)));
    // Each frame was answered alone: none had to wait for the next one.
}

fn a_stream_larger_than_every_buffer_comes_back(site: &Site) {
    let serve = site.serve("");
    let stream = connect(&site.prober_place(), serve.responder_address());
    exchange(&stream, &noise(3, 8 << 20), &[100_000], Duration::ZERO);
}

fn what_only_begins_like_a_hello_comes_back(site: &Site) {
    let serve = site.serve("");
    let address = serve.responder_address();
    let hello = frames::v2(frames::HELLO, 5);
    for cut in 1..16 {
        // Like a hello up to `cut`, then something else.
        let mut bytes = hello.clone();
        bytes[cut] ^= 0x80;
        bytes.extend_from_slice(&noise(7, 100));
        for parts in [&[1][..], &[cut, 200], &[cut + 1, 200], &[200]] {
            let stream = connect(&site.prober_place(), address);
            exchange(&stream, &bytes, parts, Duration::ZERO);
        }
    }
    // Later in the stream a hello is bytes like all others.
    let stream = connect(&site.prober_place(), address);
    ping(&stream, &frames::v1(1, 2));
    ping(&stream, &hello);
    // And a client that waits for the echo of less than a frame gets it.
    let stream = connect(&site.prober_place(), address);
    hello[..7].chunks(1).for_each(|byte| ping(&stream, byte));
}

fn many_connections_get_their_own_bytes_back(site: &Site) {
    let serve = site.serve("");
    let address = serve.responder_address();
    let streams: Vec<_> = (0..60).map(|_| connect(&site.prober_place(), address)).collect();
    for round in 1..=5 {
        for (stream, number) in streams.iter().zip(1..) {
            exchange(stream, &noise(round * 1_000 + number, 333), &[100], Duration::ZERO);
        }
    }
}

fn a_client_that_ends_its_half_gets_all_its_bytes(site: &Site) {
    let serve = site.serve("");
    let stream = connect(&site.prober_place(), serve.responder_address());
    let bytes = noise(11, 1 << 20);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::io::Write::write_all(&mut &stream, &bytes).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
        });
        let mut echoed = vec![0; bytes.len()];
        std::io::Read::read_exact(&mut &stream, &mut echoed).unwrap();
        assert!(echoed == bytes);
    });
    assert!(is_closed_within(&stream, PATIENCE), "the responder keeps a finished connection");
}
