//! Which interfaces lead to an address, and word of every change that could make it others.
//! Addresses flow in, interface numbers flow out.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::NetlinkBuffer;
use netlink_packet_route::link::LinkHeader;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

use super::netlink::Netlink;

/// An address as routes know it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Destination {
    address: IpAddr,
    /// The interface of a link-local IPv6 address; 0 without.
    scope: u32,
    /// The interface by which packets leave, if they have no choice.
    pub(super) through: Option<u32>,
}

impl From<SocketAddr> for Destination {
    fn from(to: SocketAddr) -> Self {
        let scope = match to {
            SocketAddr::V6(to) => to.scope_id(),
            SocketAddr::V4(_) => 0,
        };
        Self { address: to.ip().to_canonical(), scope, through: None }
    }
}

/// The interfaces through which packets for an address leave: several if it has several routes of
/// one cost, since each connection takes one of them. One result for each address.
pub(super) fn interfaces(netlink: &mut Netlink, to: &[Destination]) -> Vec<io::Result<Vec<u32>>> {
    to.chunks(ASKED_AT_ONCE).flat_map(|chunk| few_interfaces(netlink, chunk)).collect()
}

fn few_interfaces(netlink: &mut Netlink, to: &[Destination]) -> Vec<io::Result<Vec<u32>>> {
    let forms = [RouteFlags::empty(), RouteFlags::FibMatch];
    let questions = to.iter().flat_map(|to| forms.map(|form| question(*to, form)));
    let asked = netlink.ask_all(questions.map(RouteNetlinkMessage::GetRoute));
    let mut answers = match asked {
        Ok(answers) => answers.into_iter(),
        Err(error) => return to.iter().map(|_| Err(same(&error))).collect(),
    };
    let mut next = || route(answers.next().expect("an answer for each question"));
    to.iter().map(|to| with(to.through, leading(next(), next()))).collect()
}

/// Adds the interface by which packets leave anyway; what else leads there may carry answers, and
/// does if the address is our own.
fn with(through: Option<u32>, leading: io::Result<Vec<u32>>) -> io::Result<Vec<u32>> {
    let Some(through) = through else { return leading };
    let mut found = leading.unwrap_or_default();
    if !found.contains(&through) {
        found.push(through);
    }
    Ok(found)
}

/// The interfaces of the route that was chosen, and of all ways of its entry.
fn leading(
    chosen: io::Result<RouteMessage>,
    entry: io::Result<RouteMessage>,
) -> io::Result<Vec<u32>> {
    let chosen = chosen?;
    let mut found = next_hops(&chosen)?;
    if chosen.header.kind == RouteType::Unicast
        // Only this form of the answer has all ways; an old kernel may not know it.
        && let Ok(entry) = entry
        && let Ok(all) = next_hops(&entry)
    {
        found.extend(all);
    }
    found.sort_unstable();
    found.dedup();
    if found.is_empty() { Err(io::ErrorKind::NetworkUnreachable.into()) } else { Ok(found) }
}

/// The same error for somebody else.
fn same(error: &io::Error) -> io::Error {
    error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error)
}

/// What has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    /// Anything at all.
    pub(super) any: bool,
    /// Interfaces that are gone.
    pub(super) vanished: Vec<u32>,
    /// Changes came faster than they were read: more may be gone.
    pub(super) overrun: bool,
}

/// Hears of changes to interfaces and routes.
pub(super) struct Listener {
    socket: Socket,
    buffer: Vec<u8>,
}

impl Listener {
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.set_non_blocking(true)?;
        for group in GROUPS {
            socket.add_membership(group)?;
        }
        // Without the notices of next-hop objects (Linux 5.3) those of routes must do.
        if let Err(error) = socket.add_membership(GROUP_NEXT_HOP) {
            tracing::debug!(%error, "no notices of next-hop objects");
        }
        Ok(Self { socket, buffer: Vec::with_capacity(NOTICE_BYTES) })
    }

    /// Readable when something has changed.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// What has changed since the last call.
    pub(super) fn changes(&mut self) -> io::Result<Changes> {
        let mut changes = Changes::default();
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => changes.read(&self.buffer),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(changes),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    changes.any = true;
                    changes.overrun = true;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

impl Changes {
    /// Takes in one datagram of notices.
    fn read(&mut self, mut datagram: &[u8]) {
        while let Ok(notice) = NetlinkBuffer::new_checked(datagram) {
            self.any = true;
            if notice.message_type() == libc::RTM_DELLINK
                && let Ok(header) = LinkHeader::parse(notice.payload())
                // A bridge tells in the same words that an interface is no longer its port.
                && header.interface_family == AddressFamily::Unspec
            {
                self.vanished.push(header.index);
            }
            // Notices begin at multiples of four bytes (`NLMSG_ALIGN`).
            let length = usize::try_from(notice.length()).unwrap_or(usize::MAX);
            let next = length.max(1).saturating_add(3) & !3;
            datagram = datagram.get(next..).unwrap_or_default();
        }
    }
}

fn route(answer: io::Result<RouteNetlinkMessage>) -> io::Result<RouteMessage> {
    match answer? {
        RouteNetlinkMessage::NewRoute(route) => Ok(route),
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

fn question(to: Destination, flags: RouteFlags) -> RouteMessage {
    let (address_family, destination_prefix_length) = match to.address {
        IpAddr::V4(_) => (AddressFamily::Inet, 32),
        IpAddr::V6(_) => (AddressFamily::Inet6, 128),
    };
    let mut message = RouteMessage::default();
    message.header =
        RouteHeader { address_family, destination_prefix_length, flags, ..RouteHeader::default() };
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(to.address)));
    if to.scope != 0 {
        message.attributes.push(RouteAttribute::Oif(to.scope));
    }
    message
}

/// Where a route leads. Linux 5 tells of an unreachable IPv6 address by the kind of its route.
fn next_hops(route: &RouteMessage) -> io::Result<Vec<u32>> {
    use RouteType::{BlackHole, Prohibit, Throw, Unreachable};
    if matches!(route.header.kind, BlackHole | Prohibit | Throw | Unreachable) {
        return Err(io::ErrorKind::NetworkUnreachable.into());
    }
    let mut found = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Oif(index) => found.push(*index),
            RouteAttribute::MultiPath(hops) => {
                found.extend(hops.iter().map(|hop| hop.interface_index));
            }
            _ => {}
        }
    }
    Ok(found)
}

/// Links, routes and rules of both families (`enum rtnetlink_groups`).
const GROUPS: [u32; 5] = [1, 7, 11, 8, 19];
const GROUP_NEXT_HOP: u32 = 32;

/// Addresses asked for in one go: two answers each, which must fit the socket's buffer.
const ASKED_AT_ONCE: usize = 16;

/// Longest datagram of notices; a longer one is cut, which loses details of a link only.
const NOTICE_BYTES: usize = 32 * 1_024;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use netlink_packet_core::{Emitable, NetlinkMessage};
    use netlink_packet_route::link::LinkMessage;
    use netlink_packet_route::route::RouteNextHop;

    use super::*;

    fn route(kind: RouteType, attributes: Vec<RouteAttribute>) -> RouteMessage {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.kind = kind;
        route.attributes = attributes;
        let mut bytes = vec![0; route.buffer_len()];
        route.emit(&mut bytes);
        netlink_packet_core::Parseable::parse(&bytes[..]).unwrap()
    }

    #[test]
    fn a_route_leads_through_one_interface_or_several() {
        let check = |kind, attributes, expected: Option<&[u32]>| {
            let found = next_hops(&route(kind, attributes));
            assert_eq!(found.ok().as_deref(), expected, "{kind:?}");
        };
        let hop = |interface_index| {
            let mut hop = RouteNextHop::default();
            hop.interface_index = interface_index;
            hop
        };
        let several = || RouteAttribute::MultiPath(vec![hop(3), hop(4)]);
        check(RouteType::Unicast, vec![RouteAttribute::Oif(7)], Some(&[7]));
        check(RouteType::Unicast, vec![several()], Some(&[3, 4]));
        check(RouteType::Local, vec![RouteAttribute::Oif(1)], Some(&[1]));
        check(RouteType::Unicast, vec![RouteAttribute::Priority(1)], Some(&[]));
        check(RouteType::Unreachable, vec![RouteAttribute::Oif(1)], None);
        check(RouteType::BlackHole, vec![], None);
    }

    #[test]
    fn a_question_names_address_and_zone() {
        let check = |to: &str, family, bits, attributes: Vec<RouteAttribute>| {
            let to: SocketAddr = to.parse().unwrap();
            let message = question(to.into(), RouteFlags::FibMatch);
            assert_eq!(message.header.address_family, family, "{to}");
            assert_eq!(message.header.destination_prefix_length, bits, "{to}");
            assert_eq!(message.header.flags, RouteFlags::FibMatch, "{to}");
            assert_eq!(message.attributes, attributes, "{to}");
        };
        let address = |text: &str| {
            RouteAttribute::Destination(RouteAddress::from(text.parse::<IpAddr>().unwrap()))
        };
        check("192.0.2.1:80", AddressFamily::Inet, 32, vec![address("192.0.2.1")]);
        check("[::ffff:192.0.2.1]:80", AddressFamily::Inet, 32, vec![address("192.0.2.1")]);
        let zoned = vec![address("fe80::1"), RouteAttribute::Oif(7)];
        check("[fe80::1%7]:80", AddressFamily::Inet6, 128, zoned);
    }

    fn notice(family: AddressFamily, index: u32, gone: bool) -> Vec<u8> {
        let mut link = LinkMessage::default();
        link.header.interface_family = family;
        link.header.index = index;
        let inner = if gone {
            RouteNetlinkMessage::DelLink(link)
        } else {
            RouteNetlinkMessage::NewLink(link)
        };
        let mut message = NetlinkMessage::from(inner);
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        bytes
    }

    #[test]
    fn notices_tell_what_is_gone() {
        let check = |datagram: &[u8], any, vanished: &[u32]| {
            let mut changes = Changes::default();
            changes.read(datagram);
            let expected = Changes { any, vanished: vanished.to_vec(), overrun: false };
            assert_eq!(changes, expected, "{datagram:x?}");
        };
        let unspec = AddressFamily::Unspec;
        let both = [notice(unspec, 7, true), notice(unspec, 9, true)].concat();
        check(&[], false, &[]);
        check(&notice(unspec, 7, false), true, &[]);
        check(&notice(unspec, 7, true), true, &[7]);
        check(&notice(AddressFamily::Bridge, 7, true), true, &[]);
        check(&both, true, &[7, 9]);
        for length in 0..both.len() {
            // A cut datagram neither panics nor goes round in circles.
            Changes::default().read(&both[..length]);
        }
        let mut endless = notice(unspec, 7, true);
        endless[..4].copy_from_slice(&0_u32.to_ne_bytes());
        Changes::default().read(&endless);
    }
}
