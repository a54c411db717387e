//! The interfaces that carry the programs. Interface numbers flow in; a link stays in the kernel
//! for each direction of each of them until it is forgotten or this is dropped.

use std::collections::BTreeMap;
use std::io;

use aya::Ebpf;
use aya::programs::tc::{SchedClassifierLink, TcAttachOptions};
use aya::programs::{LinkOrder, ProgramError, TcAttachType};
use rttscope_ebpf::names;
use socket2::{Domain, Socket, Type};

use super::super::super::syn_timer::{AttachChoice, Attachment};
use super::clsact::Place;
use super::load::{classifier, os_error};

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
    use aya::programs::tc::TcError;
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
    // Any socket will do: it stands for the network namespace.
    let socket = Socket::new(Domain::UNIX, Type::DGRAM, None)?;
    Ok(rustix::net::netdevice::index_to_name(&socket, index)?)
}

const SIDES: [(&str, TcAttachType); 2] =
    [(names::EGRESS, TcAttachType::Egress), (names::INGRESS, TcAttachType::Ingress)];
