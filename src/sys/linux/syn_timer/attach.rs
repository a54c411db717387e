//! The interfaces that carry the programs. Interface numbers flow in; a link stays in the kernel
//! for each direction of each of them until it is forgotten or this is dropped.

use std::collections::BTreeMap;
use std::io;

use aya::Ebpf;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions, TcError};
use aya::programs::{LinkOrder, ProgramError, TcAttachType};
use rttscope_ebpf::names;
use socket2::{Domain, Socket, Type};

use super::clsact::Place;
use super::load::{classifier, os_error};
use crate::sys::{AttachChoice, Attachment};

/// Both programs, and where they are attached.
pub(super) struct Interfaces {
    // Detached before the programs are unloaded: fields are dropped in this order.
    carrying: BTreeMap<u32, [SchedClassifierLink; 2]>,
    programs: Ebpf,
    choice: AttachChoice,
    /// Where filters go; none before the first.
    place: Option<Place>,
}

impl Interfaces {
    pub(super) const fn new(programs: Ebpf, choice: AttachChoice) -> Self {
        Self { carrying: BTreeMap::new(), programs, choice, place: None }
    }

    /// How the programs are attached, once they are anywhere.
    pub(super) const fn attachment(&self) -> Option<Attachment> {
        match self.choice {
            AttachChoice::Auto => None,
            AttachChoice::Tcx => Some(Attachment::Tcx),
            AttachChoice::Clsact => Some(Attachment::Clsact),
        }
    }

    /// Has an interface carry both programs, if it does not yet.
    pub(super) fn attach(&mut self, index: u32) -> io::Result<()> {
        if !self.carrying.contains_key(&index) {
            let links = self.attach_both(index)?;
            self.carrying.insert(index, links);
            tracing::debug!(index, by = ?self.attachment(), "SYNs are timed at an interface");
        }
        Ok(())
    }

    /// An interface is gone, and its links with it; another may get its number.
    pub(super) fn forget(&mut self, index: u32) {
        self.carrying.remove(&index);
    }

    /// Makes sure of every interface after some may have vanished unseen.
    pub(super) fn renew(&mut self) {
        for index in self.carrying.keys().copied().collect::<Vec<_>>() {
            if self.choice == AttachChoice::Clsact {
                // The old filter must go first: it would be removed by its place, where the new
                // one is.
                self.forget(index);
            }
            match self.attach_both(index) {
                Ok(links) => {
                    self.carrying.insert(index, links);
                }
                // A program is at most once at a hook of tcx: it is still there.
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(_) => self.forget(index),
            }
        }
    }

    /// The first attachment of all decides how the others are made.
    fn attach_both(&mut self, index: u32) -> io::Result<[SchedClassifierLink; 2]> {
        let name = interface_name(index)?;
        match self.choice {
            AttachChoice::Tcx => self.attach_by_tcx(&name),
            AttachChoice::Clsact => self.attach_by_clsact(&name, index),
            AttachChoice::Auto => {
                let links = match self.attach_by_tcx(&name) {
                    // A kernel without tcx does not know this kind of link.
                    Err(error) if is_unknown(&error) => {
                        let links = self.attach_by_clsact(&name, index)?;
                        self.choice = AttachChoice::Clsact;
                        return Ok(links);
                    }
                    tried => tried?,
                };
                self.choice = AttachChoice::Tcx;
                Ok(links)
            }
        }
    }

    fn attach_by_tcx(&mut self, name: &str) -> io::Result<[SchedClassifierLink; 2]> {
        let mut attach = |(program, direction)| {
            let program = classifier(&mut self.programs, program);
            // First of all: a program before ours that decides about a packet ends the round.
            let order = TcAttachOptions::TcxOrder(LinkOrder::first());
            let link = program.attach_with_options(name, direction, order).map_err(failure)?;
            program.take_link(link).map_err(failure)
        };
        let [egress, ingress] = SIDES;
        Ok([attach(egress)?, attach(ingress)?])
    }

    fn attach_by_clsact(&mut self, name: &str, index: u32) -> io::Result<[SchedClassifierLink; 2]> {
        let place = match &mut self.place {
            Some(place) => place,
            none => none.insert(Place::take()?),
        };
        let mut attach = |(program, direction)| {
            place.attach(classifier(&mut self.programs, program), name, index, direction)
        };
        let [egress, ingress] = SIDES;
        Ok([attach(egress)?, attach(ingress)?])
    }
}

/// The number of an interface.
pub(super) fn interface_index(name: &str) -> io::Result<u32> {
    Ok(rustix::net::netdevice::name_to_index(&any_socket()?, name)?)
}

/// The system's error that one of aya's is about.
pub(super) fn failure(error: ProgramError) -> io::Error {
    let code = match netlink_code(&error) {
        None => os_error(&error).and_then(io::Error::raw_os_error),
        code => code,
    };
    match code {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::other(error),
    }
}

/// aya keeps the numbers of netlink's errors to itself, but for this way.
fn netlink_code(error: &ProgramError) -> Option<i32> {
    match error {
        ProgramError::NetlinkError(error) | ProgramError::TcError(TcError::NetlinkError(error)) => {
            error.raw_os_error()
        }
        _ => None,
    }
}

fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EOPNOTSUPP))
}

fn interface_name(index: u32) -> io::Result<String> {
    Ok(rustix::net::netdevice::index_to_name(&any_socket()?, index)?)
}

/// It stands for the network namespace of the calling thread.
fn any_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::DGRAM, None)
}

const SIDES: [(&str, TcAttachType); 2] =
    [(names::EGRESS, TcAttachType::Egress), (names::INGRESS, TcAttachType::Ingress)];

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::fs::OpenOptions;
    use std::io::Write;

    use super::*;
    use crate::sys::SynTimerError;
    use crate::sys::linux::syn_timer::load::load;

    /// What only a flood of notices brings about.
    #[test]
    fn what_is_still_attached_stays_so_when_everything_is_renewed() {
        const LOOPBACK: u32 = 1;
        let check = |choice| {
            std::thread::spawn(move || {
                let flags = rustix::thread::UnshareFlags::NEWNET;
                // SAFETY: a network namespace changes no memory and no open descriptor.
                if let Err(error) = unsafe { rustix::thread::unshare_unsafe(flags) } {
                    return report_skip(&error.to_string());
                }
                let loaded = match load(&(1..=1)) {
                    Err(
                        error @ (SynTimerError::NotPermitted { .. } | SynTimerError::Refused(_)),
                    ) => {
                        return report_skip(&error.to_string());
                    }
                    loaded => loaded.map_err(|error| error.to_string()).unwrap(),
                };
                let mut interfaces = Interfaces::new(loaded.programs, choice);
                interfaces.attach(LOOPBACK).unwrap();
                // An interface that is gone, with an entry that nobody has removed.
                let links = interfaces.carrying.remove(&LOOPBACK).unwrap();
                interfaces.carrying.insert(LOOPBACK + 1_000, links);
                interfaces.renew();
                assert!(interfaces.carrying.is_empty(), "{choice:?}");
                interfaces.attach(LOOPBACK).unwrap();
                for _ in 0..3 {
                    interfaces.renew();
                    assert!(interfaces.carrying.contains_key(&LOOPBACK), "{choice:?}");
                }
                interfaces.forget(LOOPBACK);
                interfaces.attach(LOOPBACK).unwrap();
            })
            .join()
            .unwrap();
        };
        check(AttachChoice::Tcx);
        check(AttachChoice::Clsact);
    }

    /// Says that the test was skipped, where people and `xtask` look.
    #[expect(clippy::print_stderr, reason = "libtest has no way to skip at run time")]
    fn report_skip(reason: &str) {
        let line = format!("SKIP syn_timer::attach: {reason}\n");
        eprint!("{line}");
        if let Some(path) = std::env::var_os("RTTSCOPE_SKIPS") {
            let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
            file.write_all(line.as_bytes()).unwrap();
        }
    }
}
