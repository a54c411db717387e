//! What closing costs: a thread that has thousands of connections closes each of them about as
//! fast as one that has hundreds. Otherwise removing a few targets of many holds up the rest, and
//! an agent of many takes long to end.

#![expect(clippy::print_stderr, reason = "a skipped test says so")]

use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::*;

/// The CPU time that closing one connection takes a thread, ns: of half of its connections, one
/// after the other, as when targets are removed; and of the rest at once, as at the end.
#[derive(Debug)]
struct Costs {
    each_ns: u64,
    end_ns: u64,
}

fn costs(options: IoOptions, connections: u32) -> Costs {
    let mut bench = Bench::open(options);
    let (listener, to) = local_listener();
    let mut peers = Vec::new();
    for number in 0..2 * connections {
        let socket = socket::prober(to, &SocketOptions::default()).unwrap();
        bench.io.connect(FlowId(number), socket, to);
        bench.io.submit().unwrap();
        peers.push(listener.accept().unwrap());
    }
    let connected = usize::try_from(2 * connections).unwrap();
    bench.run_until(|seen| seen.len() >= connected);
    assert!(bench.seen.iter().all(|(_, seen)| *seen == Seen::Connected));
    let mut cpu_ns = thread_cpu_ns();
    let mut spent_ns = || {
        let before_ns = std::mem::replace(&mut cpu_ns, thread_cpu_ns());
        (cpu_ns - before_ns) / u64::from(connections)
    };
    for number in 0..connections {
        bench.io.close(FlowId(number));
        if number % 16 == 0 {
            bench.step(Some(clock::mono()));
        }
    }
    let each_ns = spent_ns();
    drop(bench);
    Costs { each_ns, end_ns: spent_ns() }
}

fn thread_cpu_ns() -> u64 {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    u64::try_from(time.tv_sec * 1_000_000_000 + time.tv_nsec).unwrap()
}

#[test]
fn a_connection_among_thousands_is_closed_as_fast_as_one_among_a_hundred() {
    raise_descriptor_limit();
    let descriptors = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if descriptors < u64::from(4 * MANY) + 500 {
        return eprintln!("skipped: only {descriptors} files may be open");
    }
    on_every_backend(|options| {
        let few = costs(options, FEW);
        let many = costs(options, MANY);
        assert!(many.each_ns < TIMES_MAX * few.each_ns, "{options:?}: {few:?}, {many:?}");
        assert!(many.end_ns < TIMES_MAX * few.end_ns, "{options:?}: {few:?}, {many:?}");
    });
}

/// Connections that are closed, one after the other and then at once.
const FEW: u32 = 100;
/// See [`FEW`].
const MANY: u32 = 3_000;
/// Caches are colder with more; a close that looks at all others costs ten times as much.
const TIMES_MAX: u64 = 4;
