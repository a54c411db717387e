//! Attaching where there is no tcx: as filters of a clsact queueing discipline, at a place that is
//! ours. A filter outlives a killed process, so each living timer holds a place, and whatever is
//! found at the place of a new one was left behind by a dead one.
//!
//! The queueing discipline stays when the filters go: it costs nothing when empty, and nobody can
//! remove it without a chance of taking along a filter that somebody else has just added.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener};

use aya::programs::tc::{
    NlOptions, SchedClassifierLink, TcAttachOptions, TcHandle, qdisc_add_clsact,
};
use aya::programs::{SchedClassifier, TcAttachType};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::tc::{
    self, TcAttribute, TcFilterBpfOption, TcHeader, TcMessage, TcOption,
};
use rttscope_ebpf::names;

use super::attach::{failure, interface_index};
use super::netlink::Netlink;

/// The place of this timer's filters at every interface of its network namespace.
pub(super) struct Place {
    handle: TcHandle,
    /// Held while the timer lives: the name is gone with the process, however it ends, and has
    /// the network namespace for its scope, as filters have.
    _held: UnixListener,
    netlink: Netlink,
}

impl Place {
    /// Takes the first free one, and removes what dead processes left at every free one.
    pub(super) fn take() -> io::Result<Self> {
        let names = interface_names()?;
        let mut taken = None;
        for minor in 1..=PLACES_MAX {
            let address = SocketAddr::from_abstract_name(format!("rttscope/syn-timer/{minor}"))?;
            let held = match UnixListener::bind_addr(&address) {
                Ok(held) => held,
                // Its owner lives.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => continue,
                Err(error) => return Err(error),
            };
            let handle = TcHandle::new(HANDLE_MAJOR, minor);
            let mut place = Self { handle, _held: held, netlink: Netlink::open()? };
            for name in &names {
                place.clear(name);
            }
            taken.get_or_insert(place);
        }
        taken.ok_or_else(|| {
            let message = format!("{PLACES_MAX} SYN timers already use clsact filters here");
            io::Error::new(io::ErrorKind::QuotaExceeded, message)
        })
    }

    /// Attaches a program in one direction.
    pub(super) fn attach(
        &mut self,
        program: &mut SchedClassifier,
        name: &str,
        index: u32,
        direction: TcAttachType,
    ) -> io::Result<SchedClassifierLink> {
        add_queueing(name)?;
        self.remove_leftover(name, index, direction)?;
        let options = NlOptions { priority: PRIORITY, handle: self.handle, classid: None };
        let link = program
            .attach_with_options(name, direction, TcAttachOptions::Netlink(options))
            .map_err(failure)?;
        program.take_link(link).map_err(failure)
    }

    /// Removes what is left behind at one interface, which may be gone just now.
    fn clear(&mut self, name: &str) {
        for direction in [TcAttachType::Egress, TcAttachType::Ingress] {
            let cleared = interface_index(name)
                .and_then(|index| self.remove_leftover(name, index, direction));
            if let Err(error) = cleared {
                tracing::debug!(%error, name, "filters may be left behind there");
            }
        }
    }

    fn remove_leftover(
        &mut self,
        name: &str,
        index: u32,
        direction: TcAttachType,
    ) -> io::Result<()> {
        if self.is_taken_by_us(index, direction)? {
            let link = SchedClassifierLink::attached(name, direction, PRIORITY, self.handle, None)?;
            // Dropping a link detaches it.
            drop(link);
        }
        Ok(())
    }

    /// Whether a filter with the name of our program is there.
    fn is_taken_by_us(&mut self, index: u32, direction: TcAttachType) -> io::Result<bool> {
        let question = RouteNetlinkMessage::GetTrafficFilter(self.question(index, direction)?);
        match self.netlink.ask(question) {
            Ok(RouteNetlinkMessage::NewTrafficFilter(filter)) => {
                let ours = [names::EGRESS, names::INGRESS];
                Ok(program_name(&filter).is_some_and(|found| ours.contains(&found)))
            }
            Ok(_) => Err(io::ErrorKind::InvalidData.into()),
            // No such filter; or no filter at all, not even a chain of them.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::EINVAL)) => {
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    fn question(&self, index: u32, direction: TcAttachType) -> io::Result<TcMessage> {
        let minor = match direction {
            TcAttachType::Egress => tc::TcHandle::MIN_EGRESS,
            _ => tc::TcHandle::MIN_INGRESS,
        };
        let every_protocol = libc::ETH_P_ALL.to_be_bytes();
        let [.., high, low] = every_protocol;
        let mut message = TcMessage::default();
        message.header = TcHeader {
            index: i32::try_from(index).map_err(io::Error::other)?,
            handle: u32::from(self.handle).into(),
            parent: tc::TcHandle { major: u16::MAX, minor },
            // The priority above the protocol in network byte order (`TC_H_MAKE`).
            info: u32::from(PRIORITY) << 16 | u32::from(u16::from_ne_bytes([high, low])),
            ..TcHeader::default()
        };
        Ok(message)
    }
}

/// The interfaces of the calling thread's network namespace.
fn interface_names() -> io::Result<Vec<String>> {
    let table = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    Ok(names_in(&table).map(str::to_owned).collect())
}

/// The names in a table of interfaces (proc_pid_net(5), "dev"), below its two lines of headings.
fn names_in(table: &str) -> impl Iterator<Item = &str> {
    table.lines().skip(2).filter_map(|line| Some(line.rsplit_once(':')?.0.trim()))
}

fn add_queueing(name: &str) -> io::Result<()> {
    match qdisc_add_clsact(name).map_err(|error| failure(error.into())) {
        Err(error) if error.raw_os_error() == Some(libc::EEXIST) => Ok(()),
        added => added,
    }
}

fn program_name(filter: &TcMessage) -> Option<&str> {
    filter.attributes.iter().find_map(|attribute| match attribute {
        TcAttribute::Options(options) => options.iter().find_map(|option| match option {
            TcOption::Bpf(TcFilterBpfOption::ProgName(name)) => Some(name.as_str()),
            _ => None,
        }),
        _ => None,
    })
}

/// Before every filter whose priority the kernel chose: those count down from 0xc000.
const PRIORITY: u16 = 7;

/// "rs": a handle that nobody gets by counting from one.
const HANDLE_MAJOR: u16 = 0x7273;

/// SYN timers in one network namespace, by clsact.
const PLACES_MAX: u16 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interfaces_are_named_in_the_table() {
        let check = |table, expected: &[&str]| {
            assert_eq!(names_in(table).collect::<Vec<_>>(), expected, "{table}");
        };
        let headings = "Inter-|   Receive |  Transmit\n face |bytes packets|bytes packets\n";
        check("", &[]);
        check(headings, &[]);
        check(&format!("{headings}    lo: 12 1 12 1\n eth0.5:7 1 0 0\n"), &["lo", "eth0.5"]);
    }

    #[test]
    fn a_filter_of_ours_is_known_by_its_program() {
        let check = |attributes, expected| {
            let mut filter = TcMessage::default();
            filter.attributes = attributes;
            assert_eq!(program_name(&filter), expected, "{filter:?}");
        };
        let named = |name: &str| TcOption::Bpf(TcFilterBpfOption::ProgName(name.to_owned()));
        let bpf = TcAttribute::Kind("bpf".to_owned());
        let options = vec![TcOption::Bpf(TcFilterBpfOption::ProgId(7)), named("rtt_egress")];
        check(vec![bpf.clone(), TcAttribute::Options(options)], Some("rtt_egress"));
        check(vec![bpf.clone(), TcAttribute::Options(vec![])], None);
        check(vec![bpf], None);
    }
}
