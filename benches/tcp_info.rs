//! What a scrape of `TCP_INFO` costs beyond its system calls: 10,000 registered connections read by
//! the collector, against as many bare getsockopt(2) calls on the same sockets, in alternating
//! rounds of one run. Encoding the page is shown apart.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]
#![expect(unsafe_code, reason = "the bare system call that the collector is measured against")]

#[path = "common/report.rs"]
mod report;
#[path = "common/rounds.rs"]
mod rounds;

use std::hint::black_box;
use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use prometheus_client::encoding::text;
use prometheus_client::registry::Registry;
use rttscope::collector::{CollectorOptions, TcpInfoCollector};
use rttscope::sys::{self, clock};
use rttscope::tcp_info::{KNOWN_BYTES, Members};

use report::{print_table, row};
use rounds::median;

/// Registered sockets: both ends of half as many connections.
const CONNECTIONS: usize = 10_000;
/// What reading may cost, as a multiple of the bare calls.
const RATIO_WANTED: f64 = 1.5;

fn main() -> io::Result<()> {
    sys::raise_descriptor_limit();
    let sockets = sockets()?;
    let labels = vec!["id".to_owned()];
    let options = CollectorOptions { labels, ..CollectorOptions::default() };
    let collector = TcpInfoCollector::new(options).map_err(io::Error::other)?;
    for (number, socket) in sockets.iter().enumerate() {
        let number_text = number.to_string();
        // Every other one by a descriptor of its own, the rest lent: the usual hard limit of
        // descriptors is not enough for two of each.
        let added = match number % 2 {
            0 => collector.add(&**socket, &[&number_text]),
            _ => collector.add_weak(socket, &[&number_text]),
        };
        added.map_err(io::Error::other)?.detach();
    }
    let mut registry = Registry::default();
    registry.register_collector(Box::new(collector.clone()));

    let rounds = if report::quick() { 3 } else { 31 };
    let (mut bare, mut read, mut page, mut ratios) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let bare_ns = time_ns(|| sockets.iter().for_each(|socket| getsockopt(socket)));
        let read_ns = time_ns(|| assert_eq!(black_box(collector.read()).len(), CONNECTIONS));
        page.push(time_ns(|| {
            let mut text = String::new();
            text::encode(&mut text, &registry).expect("a string takes any text");
            black_box(text);
        }));
        ratios.push(read_ns / bare_ns);
        bare.push(bare_ns);
        read.push(read_ns);
    }
    let ratio = median(&ratios).expect("at least one round");
    let verdict = if ratio <= RATIO_WANTED { "≤ 1.5" } else { "≤ 1.5 missed" };
    let per_ns =
        |all: &[f64]| median(all).map_or_else(String::new, |ns| format!("{:.0}", ns / 10_000.0));
    let series = Members::DEFAULT.count();
    let rows = [
        row(["what", "median", "unit", "wanted"]),
        row(["bare getsockopt", &per_ns(&bare), "ns a connection", ""]),
        row(["TcpInfoCollector::read", &per_ns(&read), "ns a connection", ""]),
        row(["read ÷ bare, same round", &format!("{ratio:.2}"), "", verdict]),
        row([
            &format!("read and encode {series} series each"),
            &per_ns(&page),
            "ns a connection",
            "",
        ]),
    ];
    print_table(&format!("{CONNECTIONS} connections, {rounds} rounds"), &rows);
    Ok(())
}

/// Connected sockets, both ends of each connection.
fn sockets() -> io::Result<Vec<Arc<TcpStream>>> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let at = listener.local_addr()?;
    let mut sockets = Vec::with_capacity(CONNECTIONS);
    while sockets.len() < CONNECTIONS {
        sockets.push(Arc::new(TcpStream::connect(at)?));
        sockets.push(Arc::new(listener.accept()?.0));
    }
    Ok(sockets)
}

/// As little as anybody can do.
fn getsockopt(socket: &TcpStream) {
    let mut bytes = [0_u8; KNOWN_BYTES];
    let mut length = libc::socklen_t::try_from(KNOWN_BYTES).expect("a few hundred");
    // SAFETY: the pointers are to `length` writable bytes and to their number, both alive until
    // after the call.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            bytes.as_mut_ptr().cast(),
            &raw mut length,
        )
    };
    assert_eq!(result, 0);
    black_box(bytes);
}

fn time_ns(work: impl FnOnce()) -> f64 {
    let start = clock::mono();
    work();
    clock::mono().duration_since(start).as_secs_f64() * 1e9
}
