//! The committed object, loaded by libbpf. Frames flow in, events flow out; what the programs
//! answer is checked for every frame.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write;
use std::sync::Mutex;

use libbpf_rs::{
    ErrorKind, MapCore, MapFlags, Object, ObjectBuilder, ProgramInput, ProgramType,
    RingBufferBuilder,
};
use rttscope_ebpf::{Endpoint, FlowKey, counter, names, port_bit};

use crate::frames::{LOCAL_PORT, LOCAL_V4, LOCAL_V6, REMOTE_PORT, REMOTE_V4, REMOTE_V6, Way};

static OBJECT: &[u8] = include_bytes!("../../ebpf/rttscope.bpf.o");

/// "Go on", as the unsigned number that `BPF_PROG_TEST_RUN` shows.
const TCX_NEXT: u32 = u32::MAX;

/// One event, read field by field: the offsets are the layout's tests'.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Event {
    pub(crate) key: FlowKey,
    pub(crate) first_ns: u64,
    pub(crate) last_ns: u64,
    pub(crate) sequence: u32,
    pub(crate) syns: u32,
    pub(crate) at_ns: u64,
    pub(crate) kind: u32,
    pub(crate) tcp_flags: u32,
}

/// The object in the kernel.
pub(crate) struct Loaded {
    object: Object,
}

impl Loaded {
    /// Loads it and registers the local port; `None`, and a line, where that is not allowed.
    pub(crate) fn new(test: &str) -> Option<Self> {
        Self::with_event_bytes(test, None)
    }

    /// The same with another size of the ring buffer.
    pub(crate) fn with_event_bytes(test: &str, bytes: Option<u32>) -> Option<Self> {
        // The object's own refusal is a failure, so the right to load is tested with another.
        if !matches!(ProgramType::SchedCls.is_supported(), Ok(true)) {
            report_skip(test, "no right to load eBPF programs (CAP_BPF and CAP_NET_ADMIN)");
            return None;
        }
        let mut object = ObjectBuilder::default().open_memory(OBJECT).unwrap();
        for mut map in object.maps_mut() {
            if map.name() == names::EVENTS
                && let Some(bytes) = bytes
            {
                map.set_max_entries(bytes).unwrap();
            }
        }
        let loaded = Self { object: object.load().unwrap() };
        loaded.register(LOCAL_PORT);
        Some(loaded)
    }

    /// Watches a port.
    pub(crate) fn register(&self, port: u16) {
        let (word, mask) = port_bit(port);
        let map = self.map(names::PORTS);
        let old = map.lookup(&word.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
        let bits = u64::from_ne_bytes(old.try_into().unwrap()) | mask;
        map.update(&word.to_ne_bytes(), &bits.to_ne_bytes(), MapFlags::ANY).unwrap();
    }

    /// Lets a frame pass. False if the kernel refuses to make a packet of so few bytes.
    pub(crate) fn pass(&self, way: Way, frame: &[u8]) -> bool {
        let name = match way {
            Way::Out => names::EGRESS,
            Way::In => names::INGRESS,
        };
        let program = self.object.progs_mut().find(|program| program.name() == name).unwrap();
        let input = ProgramInput { data_in: Some(frame), ..ProgramInput::default() };
        match program.test_run(input) {
            Ok(output) => assert_eq!(output.return_value, TCX_NEXT, "{way:?} {frame:02x?}"),
            Err(error) if error.kind() == ErrorKind::InvalidInput => return false,
            Err(error) => panic!("{error}: {way:?} {frame:02x?}"),
        }
        true
    }

    /// Takes the events that have come since the last call.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let map = self.map(names::EVENTS);
        let mut builder = RingBufferBuilder::new();
        builder
            .add(&map, |bytes: &[u8]| {
                events.push(Event::read(bytes));
                0
            })
            .unwrap();
        let ring = builder.build().unwrap();
        ring.consume().unwrap();
        drop(ring);
        events
    }

    /// The sum of a counter over all CPUs.
    pub(crate) fn counter(&self, index: u32) -> u64 {
        assert!(usize::try_from(index).unwrap() < counter::COUNT);
        let map = self.map(names::COUNTERS);
        let values = map.lookup_percpu(&index.to_ne_bytes(), MapFlags::ANY).unwrap().unwrap();
        values.into_iter().map(|it| u64::from_ne_bytes(it.try_into().unwrap())).sum()
    }

    /// How many attempts are remembered.
    pub(crate) fn attempts(&self) -> usize {
        self.map(names::ATTEMPTS).keys().count()
    }

    fn map(&self, name: &str) -> libbpf_rs::Map<'_> {
        self.object.maps().find(|map| map.name() == name).unwrap()
    }
}

impl Event {
    fn read(bytes: &[u8]) -> Self {
        assert_eq!(bytes.len(), 80);
        let long = |at: usize| u64::from_ne_bytes(bytes[at..at + 8].try_into().unwrap());
        let word = |at: usize| u32::from_ne_bytes(bytes[at..at + 4].try_into().unwrap());
        let end = |at: usize| Endpoint {
            address_be: bytes[at..at + 16].try_into().unwrap(),
            port_be: bytes[at + 16..at + 18].try_into().unwrap(),
            zero: bytes[at + 18..at + 20].try_into().unwrap(),
        };
        Self {
            key: FlowKey { local: end(0), remote: end(20) },
            first_ns: long(40),
            last_ns: long(48),
            sequence: word(56),
            syns: word(60),
            at_ns: long(64),
            kind: word(72),
            tcp_flags: word(76),
        }
    }
}

/// The usual flow's key.
pub(crate) fn key(v6: bool) -> FlowKey {
    let (local, remote) = (LOCAL_PORT.to_be_bytes(), REMOTE_PORT.to_be_bytes());
    if v6 {
        FlowKey { local: Endpoint::v6(LOCAL_V6, local), remote: Endpoint::v6(REMOTE_V6, remote) }
    } else {
        FlowKey { local: Endpoint::v4(LOCAL_V4, local), remote: Endpoint::v4(REMOTE_V4, remote) }
    }
}

/// Says once that a test was skipped, where people and `xtask` look.
#[expect(clippy::print_stderr, reason = "libtest has no way to skip at run time")]
pub(crate) fn report_skip(test: &str, reason: &str) {
    // A test loads the object for each of its scripts.
    static TOLD: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());
    if !TOLD.lock().unwrap().insert(test.to_owned()) {
        return;
    }
    // One write a line: tests run side by side.
    let line = format!("SKIP ebpf::{test}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("RTTSCOPE_SKIPS") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}
