//! The clients of a relay that move the most, by address: at most `CLIENTS_MAX` of a listener
//! and worker, whoever else comes. What connections do flows in, a table that any thread may read
//! flows out, without a lock.
//!
//! A new client gets a place while one is free. Later it gets the place of the lightest client,
//! once one of its connections has moved more than that client did. Whoever has no place, and what
//! those did who lost theirs, is one line, so that the lines add up to everything.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;

use super::RelaySeries;
use super::published::Published;
use crate::sample::ClientCounters;

/// What readers see of one listener's clients, as one worker knows them.
#[derive(Debug)]
pub struct Clients {
    /// An address and what it did; nobody's where there is no connection.
    places: Box<[Published<PLACE_WORDS>]>,
    others: Published<{ ClientCounters::WORDS }>,
}

/// What the worker remembers to write a [`Clients`].
#[derive(Debug, Default)]
pub struct ClientsWriter {
    places: Vec<Place>,
    place_of: HashMap<IpAddr, usize>,
    others: ClientCounters,
    /// No client in the table is lighter, bytes. Weights only grow, so an old one is a safe one.
    lightest_bytes: u64,
}

/// A connection's client. Every connection has one of its own.
#[derive(Clone, Copy, Debug)]
pub struct ClientHandle {
    client: IpAddr,
    /// Its place, and whose turn there it is.
    place: Option<(usize, u32)>,
    /// What this connection did while its client had no place.
    outside: ClientCounters,
}

/// One client, or everybody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientSnapshot {
    /// Its address; `None` for everybody else.
    pub client: Option<IpAddr>,
    /// What it did while it had its place.
    pub counters: ClientCounters,
}

#[derive(Debug)]
struct Place {
    client: IpAddr,
    turn: u32,
    counters: ClientCounters,
}

impl Default for Clients {
    fn default() -> Self {
        let places = std::iter::repeat_with(Published::default).take(CLIENTS_MAX).collect();
        Self { places, others: Published::default() }
    }
}

impl Clients {
    fn show(&self, at: usize, place: &Place) {
        let bits = to_v6(place.client).to_bits();
        let high = u64::try_from(bits >> 64).expect("64 bits are left");
        let low = u64::try_from(bits & u128::from(u64::MAX)).expect("64 bits are left");
        let mut words = [0; PLACE_WORDS];
        words[..2].copy_from_slice(&[high, low]);
        words[2..].copy_from_slice(&place.counters.to_words());
        self.places[at].publish(words);
    }

    /// Everybody who did something, in no order.
    #[must_use]
    pub fn snapshot(&self) -> Vec<ClientSnapshot> {
        let places = self.places.iter().map(Published::read).map(|[high, low, counters @ ..]| {
            let bits = u128::from(high) << 64 | u128::from(low);
            let client = Some(Ipv6Addr::from_bits(bits).to_canonical());
            ClientSnapshot { client, counters: ClientCounters::from_words(counters) }
        });
        let counters = ClientCounters::from_words(self.others.read());
        let all = places.chain([ClientSnapshot { client: None, counters }]);
        all.filter(|client| client.counters != ClientCounters::default()).collect()
    }
}

impl ClientsWriter {
    /// A client has connected.
    pub fn opened(&mut self, shown: &Clients, client: IpAddr) -> ClientHandle {
        let client = to_v6(client).to_canonical();
        let mut handle = ClientHandle { client, place: None, outside: ClientCounters::default() };
        if let Some(&at) = self.place_of.get(&client) {
            handle.place = Some((at, self.places[at].turn));
        } else if self.places.len() < CLIENTS_MAX {
            let at = self.places.len();
            self.places.push(Place { client, turn: 0, counters: ClientCounters::default() });
            self.place_of.insert(client, at);
            handle.place = Some((at, 0));
        }
        self.change(shown, &mut handle, |counters| {
            counters.connections += 1;
            counters.connections_active += 1;
        });
        handle
    }

    /// Bytes were read from this connection, or written to it.
    pub fn moved(
        &mut self,
        shown: &Clients,
        handle: &mut ClientHandle,
        read_bytes: u64,
        written_bytes: u64,
    ) {
        self.change(shown, handle, |counters| {
            counters.read_bytes += read_bytes;
            counters.written_bytes += written_bytes;
        });
        if self.place(handle).is_none() && weight(&handle.outside) > self.lightest_bytes {
            self.enter(shown, handle);
        }
    }

    /// The kernel's smoothed round trip of this connection was sampled.
    pub fn sampled(&mut self, shown: &Clients, handle: &mut ClientHandle, rtt_ns: u64) {
        if self.place(handle).is_some() {
            self.change(shown, handle, |counters| counters.rtt_ns = rtt_ns);
        }
    }

    /// The connection is over.
    pub fn closed(&mut self, shown: &Clients, mut handle: ClientHandle) {
        self.change(shown, &mut handle, |counters| {
            counters.connections_active = counters.connections_active.saturating_sub(1);
        });
    }

    /// The client's place, unless somebody else has it now.
    fn place(&mut self, handle: &ClientHandle) -> Option<(usize, &mut Place)> {
        let (at, turn) = handle.place?;
        let place = self.places.get_mut(at).filter(|place| place.turn == turn)?;
        Some((at, place))
    }

    fn change(
        &mut self,
        shown: &Clients,
        handle: &mut ClientHandle,
        mut with: impl FnMut(&mut ClientCounters),
    ) {
        if let Some((at, place)) = self.place(handle) {
            with(&mut place.counters);
            return shown.show(at, place);
        }
        if handle.place.take().is_some() {
            // Its place was taken: what it did until then is with the others already.
            handle.outside = ONE_OPEN;
        }
        with(&mut handle.outside);
        with(&mut self.others);
        shown.others.publish(self.others.to_words());
    }

    /// Gives a connection without a place its client's, or the lightest client's if that is
    /// lighter than the connection.
    fn enter(&mut self, shown: &Clients, handle: &mut ClientHandle) {
        let (at, known) = match self.place_of.get(&handle.client) {
            Some(&at) => (at, true),
            None => (self.lightest(), false),
        };
        let weight_there = weight(&self.places[at].counters);
        if !known {
            self.lightest_bytes = weight_there;
            if weight_there >= weight(&handle.outside) {
                return;
            }
        }
        let place = &mut self.places[at];
        if !known {
            self.place_of.remove(&place.client);
            add(&mut self.others, &place.counters);
            self.place_of.insert(handle.client, at);
            let turn = place.turn.wrapping_add(1);
            *place = Place { client: handle.client, turn, counters: ClientCounters::default() };
        }
        add(&mut place.counters, &handle.outside);
        subtract(&mut self.others, &handle.outside);
        handle.place = Some((at, place.turn));
        handle.outside = ClientCounters::default();
        shown.others.publish(self.others.to_words());
        shown.show(at, place);
    }

    /// Where the lightest client is; of equals one without open connections.
    fn lightest(&self) -> usize {
        let key = |place: &Place| (weight(&place.counters), place.counters.connections_active);
        let places = self.places.iter().enumerate();
        places.min_by_key(|(_, place)| key(place)).map_or(0, |(at, _)| at)
    }
}

/// The clients of each listener, those of all of its workers together: those who moved the most
/// come first, everybody else last.
pub(super) fn of_listeners(relays: &[Arc<RelaySeries>]) -> Vec<(String, Vec<ClientSnapshot>)> {
    let mut listeners: Vec<(String, Vec<ClientSnapshot>)> = Vec::new();
    for relay in relays {
        let known = listeners.iter().position(|(listener, _)| listener == relay.listener());
        let at = known.unwrap_or_else(|| {
            listeners.push((relay.listener().to_owned(), Vec::new()));
            listeners.len() - 1
        });
        listeners[at].1.extend(relay.clients().snapshot());
    }
    for (_, clients) in &mut listeners {
        merge(clients);
    }
    listeners
}

/// Makes one of those with the same address, and keeps the heaviest.
fn merge(clients: &mut Vec<ClientSnapshot>) {
    clients.sort_by_key(|client| client.client);
    clients.dedup_by(|next, kept| {
        let same = next.client == kept.client;
        if same {
            add(&mut kept.counters, &next.counters);
        }
        same
    });
    clients.sort_by_key(|known| (known.client.is_none(), u64::MAX - weight(&known.counters)));
    let others = clients.pop_if(|last| last.client.is_none());
    let mut others = others.map(|others| others.counters);
    for client in clients.drain(CLIENTS_MAX.min(clients.len())..) {
        add(others.get_or_insert_default(), &client.counters);
    }
    clients.extend(others.map(|counters| ClientSnapshot { client: None, counters }));
}

const fn weight(counters: &ClientCounters) -> u64 {
    counters.read_bytes + counters.written_bytes
}

fn add(to: &mut ClientCounters, more: &ClientCounters) {
    to.connections += more.connections;
    to.connections_active += more.connections_active;
    to.read_bytes += more.read_bytes;
    to.written_bytes += more.written_bytes;
    to.rtt_ns = if more.rtt_ns == 0 { to.rtt_ns } else { more.rtt_ns };
}

fn subtract(from: &mut ClientCounters, less: &ClientCounters) {
    from.connections -= less.connections;
    from.connections_active -= less.connections_active;
    from.read_bytes -= less.read_bytes;
    from.written_bytes -= less.written_bytes;
}

const fn to_v6(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// What a connection that lost its place brings along: itself.
const ONE_OPEN: ClientCounters = ClientCounters {
    connections: 1,
    connections_active: 1,
    read_bytes: 0,
    written_bytes: 0,
    rtt_ns: 0,
};

/// Clients of one listener that have a line of their own.
pub(super) const CLIENTS_MAX: usize = 256;
/// An address, and the counters.
const PLACE_WORDS: usize = 2 + ClientCounters::WORDS;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::net::Ipv4Addr;

    use proptest::prelude::*;

    use super::*;

    fn ip(number: u32) -> IpAddr {
        IpAddr::V4(Ipv4Addr::from_bits(0x0a00_0000 + number))
    }

    fn total(clients: &[ClientSnapshot]) -> ClientCounters {
        clients.iter().fold(ClientCounters::default(), |mut sum, client| {
            add(&mut sum, &client.counters);
            sum
        })
    }

    #[test]
    fn a_heavy_client_gets_a_place_whenever_it_comes() {
        let (shown, mut writer) = (Clients::default(), ClientsWriter::default());
        for number in 0..10_000 {
            let mut handle = writer.opened(&shown, ip(number));
            writer.moved(&shown, &mut handle, 10, 10);
            writer.closed(&shown, handle);
        }
        let mut heavy = writer.opened(&shown, ip(20_000));
        for _ in 0..100 {
            writer.moved(&shown, &mut heavy, 1_000, 1);
        }
        writer.sampled(&shown, &mut heavy, 77);
        let clients = shown.snapshot();
        assert_eq!(clients.len(), CLIENTS_MAX + 1, "bounded");
        let found = clients.iter().find(|client| client.client == Some(ip(20_000))).unwrap();
        let expected = ClientCounters {
            connections: 1,
            connections_active: 1,
            read_bytes: 100_000,
            written_bytes: 100,
            rtt_ns: 77,
        };
        assert_eq!(found.counters, expected);
        let total = total(&clients);
        assert_eq!((total.connections, total.connections_active), (10_001, 1));
        assert_eq!((total.read_bytes, total.written_bytes), (200_000, 100_100));
    }

    #[test]
    fn addresses_of_both_families_are_told_as_they_are() {
        let (shown, mut writer) = (Clients::default(), ClientsWriter::default());
        for address in ["10.1.2.3", "::ffff:10.1.2.3", "fd00::1"] {
            writer.opened(&shown, address.parse().unwrap());
        }
        let mut clients = shown.snapshot();
        clients.sort_by_key(|client| client.client);
        let told: Vec<_> = clients.iter().map(|c| (c.client, c.counters.connections)).collect();
        let address = |text: &str| Some(text.parse().unwrap());
        assert_eq!(told, [(address("10.1.2.3"), 2), (address("fd00::1"), 1)]);
    }

    #[test]
    fn workers_are_told_together_heaviest_first() {
        let relay = || Arc::new(RelaySeries::new(":1", ["u".to_owned()]));
        let relays = [relay(), relay()];
        for (relay, bytes) in relays.iter().zip([5_u64, 50]) {
            let mut writer = ClientsWriter::default();
            for number in 0..200 {
                let mut client = writer.opened(relay.clients(), ip(number));
                writer.moved(relay.clients(), &mut client, bytes * u64::from(number), 0);
            }
            for number in 1_000..1_100_u32 {
                writer.opened(relay.clients(), ip(number));
            }
        }
        let listeners = of_listeners(&relays);
        let [(listener, clients)] = &listeners[..] else { panic!("{listeners:?}") };
        assert_eq!((listener.as_str(), clients.len()), (":1", CLIENTS_MAX + 1));
        assert_eq!((clients[0].client, clients[0].counters.read_bytes), (Some(ip(199)), 55 * 199));
        assert!(clients.is_sorted_by_key(|client| u64::MAX - weight(&client.counters)));
        assert_eq!(total(clients).connections, 600);
    }

    proptest! {
        #[test]
        fn lines_add_up_to_everything_whoever_loses_a_place(
            steps in prop::collection::vec((0..600_u32, 0..50_u64, any::<bool>()), 0..2_000),
        ) {
            let (shown, mut writer) = (Clients::default(), ClientsWriter::default());
            let (mut open, mut expected) = (HashMap::new(), ClientCounters::default());
            for (number, bytes, close) in steps {
                let handle = open.entry(number).or_insert_with(|| {
                    expected.connections += 1;
                    writer.opened(&shown, ip(number))
                });
                writer.moved(&shown, handle, bytes, 2 * bytes);
                expected.read_bytes += bytes;
                expected.written_bytes += 2 * bytes;
                if close {
                    writer.closed(&shown, open.remove(&number).unwrap());
                }
                expected.connections_active = u64::try_from(open.len()).unwrap();
            }
            let clients = shown.snapshot();
            prop_assert_eq!(total(&clients), expected);
            prop_assert!(clients.len() <= CLIENTS_MAX + 1);
        }
    }
}
