//! The committed eBPF object into the kernel. Ports flow in; programs, the ring buffer and the
//! counters flow out, or the reason why not, with its remedy.

use std::collections::BTreeMap;
use std::error::Error;
use std::io;
use std::ops::RangeInclusive;

use aya::maps::{Array, Map, MapData, PerCpuArray, RingBuf};
use aya::programs::{ProgramError, SchedClassifier};
use aya::{Ebpf, EbpfLoader};
use rttscope_ebpf::{names, port_bit};
use rustix::thread::{CapabilitySet, capabilities};

use crate::sys::SynTimerError;

/// The object in the kernel.
pub(super) struct Loaded {
    /// Both programs, loaded.
    pub(super) programs: Ebpf,
    /// Where events arrive.
    pub(super) events: RingBuf<MapData>,
    /// What was lost.
    pub(super) counters: PerCpuArray<MapData, u64>,
}

/// Loads the object for these local ports.
pub(super) fn load(ports: &RangeInclusive<u16>) -> Result<Loaded, SynTimerError> {
    // The loader tries once for the whole process what the kernel can do. If a thread made it try
    // that may not, the kernel would seem to lack everything, for all threads and for ever.
    permission()?;
    // It relocates nothing against the kernel's own types: reading them would take megabytes.
    let loaded = EbpfLoader::new().btf(None).load(OBJECT);
    let mut ebpf = loaded.map_err(|error| refusal("loading the object", error))?;
    for name in [names::EGRESS, names::INGRESS] {
        let program = classifier(&mut ebpf, name);
        program.load().map_err(|error| refusal("loading a program", shortened(error)))?;
    }
    let of_map = |error| refusal("opening a map", error);
    let mut registered: Array<MapData, u64> =
        Array::try_from(map(&mut ebpf, names::PORTS)).map_err(of_map)?;
    for (word, bits) in bitmap(ports) {
        registered.set(word, bits, 0).map_err(of_map)?;
    }
    Ok(Loaded {
        events: RingBuf::try_from(map(&mut ebpf, names::EVENTS)).map_err(of_map)?,
        counters: PerCpuArray::try_from(map(&mut ebpf, names::COUNTERS)).map_err(of_map)?,
        programs: ebpf,
    })
}

/// A program of the object.
pub(super) fn classifier<'a>(ebpf: &'a mut Ebpf, name: &str) -> &'a mut SchedClassifier {
    let program = ebpf.program_mut(name).expect("the committed object has both programs");
    program.try_into().expect("the committed object's programs are classifiers")
}

/// The system's error that started a chain of errors.
pub(super) fn os_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a io::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<io::Error>() {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn map(ebpf: &mut Ebpf, name: &str) -> Map {
    ebpf.take_map(name).expect("the committed object has every map")
}

/// The words of the ports' bitmap that are not zero.
fn bitmap(ports: &RangeInclusive<u16>) -> BTreeMap<u32, u64> {
    let mut words = BTreeMap::new();
    for port in ports.clone() {
        let (word, bit) = port_bit(port);
        *words.entry(word).or_default() |= bit;
    }
    words
}

fn refusal(what: &'static str, error: impl Error + Send + Sync + 'static) -> SynTimerError {
    match os_error(&error).and_then(io::Error::raw_os_error) {
        Some(libc::EPERM | libc::EACCES) => not_permitted(what, Box::new(error)),
        // An unknown type of map, or no bpf(2) at all.
        Some(libc::EINVAL | libc::ENOSYS) => SynTimerError::Unsupported(error.to_string()),
        _ => SynTimerError::Failed { what, error: Box::new(error) },
    }
}

/// An error that fits a line: the verifier's reasons are a thousand of them.
fn shortened(error: ProgramError) -> io::Error {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            tracing::debug!(%verifier_log, "the kernel refuses a program");
            io_error
        }
        error => io::Error::other(error),
    }
}

/// `EPERM` has many reasons; the thread's own capabilities are the first.
fn not_permitted(what: &'static str, error: Box<dyn Error + Send + Sync>) -> SynTimerError {
    if let Err(error) = permission() {
        return error;
    }
    match os_error(&*error).and_then(io::Error::raw_os_error) {
        // The verifier refuses a program by EACCES, and says why.
        Some(libc::EPERM) => SynTimerError::Refused(io::Error::other(error)),
        _ => SynTimerError::Failed { what, error },
    }
}

/// Whether the thread has the capabilities.
fn permission() -> Result<(), SynTimerError> {
    let held = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    match missing(held) {
        missing if missing.is_empty() => Ok(()),
        missing => Err(SynTimerError::NotPermitted { missing: missing.join(" and ") }),
    }
}

/// `CAP_SYS_ADMIN` stands for `CAP_BPF` (capabilities(7)).
fn missing(held: CapabilitySet) -> Vec<&'static str> {
    let mut missing = Vec::new();
    if !held.intersects(CapabilitySet::BPF | CapabilitySet::SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    if !held.contains(CapabilitySet::NET_ADMIN) {
        missing.push("CAP_NET_ADMIN");
    }
    missing
}

/// Aligned, as reading it in place demands.
static OBJECT: &[u8] =
    aya::include_bytes_aligned!(concat!(env!("CARGO_MANIFEST_DIR"), "/ebpf/rttscope.bpf.o"));

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_become_words_of_bits() {
        let check = |ports: RangeInclusive<u16>, expected: &[(u32, u64)]| {
            assert_eq!(bitmap(&ports).into_iter().collect::<Vec<_>>(), expected, "{ports:?}");
        };
        check(0..=0, &[(0, 1)]);
        check(62..=65, &[(0, 3 << 62), (1, 3)]);
        check(64..=191, &[(1, u64::MAX), (2, u64::MAX)]);
        check(65_535..=65_535, &[(1_023, 1 << 63)]);
        check(RangeInclusive::new(2, 1), &[]);
        assert_eq!(bitmap(&(0..=65_535)).len(), rttscope_ebpf::PORT_WORDS);
    }

    #[test]
    fn what_is_missing_is_named() {
        let check = |held, expected: &[&str]| assert_eq!(missing(held), expected, "{held:?}");
        check(CapabilitySet::empty(), &["CAP_BPF", "CAP_NET_ADMIN"]);
        check(CapabilitySet::BPF, &["CAP_NET_ADMIN"]);
        check(CapabilitySet::SYS_ADMIN, &["CAP_NET_ADMIN"]);
        check(CapabilitySet::NET_ADMIN | CapabilitySet::PERFMON, &["CAP_BPF"]);
        check(CapabilitySet::NET_ADMIN | CapabilitySet::BPF, &[]);
    }
}
