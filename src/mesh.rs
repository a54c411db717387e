//! Which of many members a host probes: all members with their labels and the host itself in, some
//! peers for each scope out. Pure, and the same on every host, so that nobody has to be asked.
//!
//! Each scope has `peers` rings. A ring is an order of all members by a hash of their own, and a
//! host probes the next member on each ring that is in the scope. Among members of one group
//! ("same rack") everybody thus has as many peers as rings and is the peer of as many, and a member
//! that comes or goes changes one edge a ring. Choosing the highest weights of rendezvous hashing
//! instead gives the same number out, but a Poisson number in: with three peers, one member in
//! twenty is probed by nobody. Towards other groups ("other zones") a ring skips the host's own
//! group; there rendezvous weights choose, for each pair of groups, who probes whom besides, so
//! that no pair is without a probe.

use std::collections::{BTreeMap, HashMap};

use crate::mix::scramble;

/// A member of the mesh.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Its address: what tells it from all others.
    pub id: &'a str,
    /// Where it is.
    pub labels: &'a BTreeMap<String, String>,
}

/// Members that are alike in some labels and differ in others; a label that is not there is empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    /// Labels that are the host's own.
    pub same: Vec<String>,
    /// Labels of which each is another than the host's. Empty: members of one group.
    pub other: Vec<String>,
    /// How many of them a host probes.
    pub peers: usize,
}

/// One that is probed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its place among the members.
    pub member: usize,
    /// The first scope that chose it.
    pub scope: usize,
}

/// All members, prepared for questions about any of them.
#[derive(Clone, Debug)]
pub struct Roster {
    hashes: Vec<u64>,
    scopes: Vec<Groups>,
}

impl Roster {
    /// Reads the members' labels once: linear in their number.
    #[must_use]
    pub fn new(members: &[Member<'_>], scopes: &[Scope]) -> Self {
        let hashes = members.iter().map(|member| hash(member.id.as_bytes())).collect();
        let scopes = scopes.iter().map(|scope| Groups::new(members, scope)).collect();
        Self { hashes, scopes }
    }

    /// Whom the member at this place probes, in the order of the members. Linear in their number.
    #[must_use]
    pub fn peers(&self, own: usize) -> Vec<Peer> {
        let mut peers: Vec<Peer> = Vec::new();
        for (number, groups) in self.scopes.iter().enumerate() {
            let candidates: Vec<usize> =
                (0..self.hashes.len()).filter(|&it| it != own && groups.holds(own, it)).collect();
            let mut chosen = Vec::new();
            for ring in 0..groups.peers {
                chosen.extend(self.next_on_ring(own, &candidates, &chosen, number, ring));
            }
            if groups.other.is_some() {
                self.represent(own, &candidates, number, &mut chosen);
            }
            for member in chosen {
                if peers.iter().all(|peer| peer.member != member) {
                    peers.push(Peer { member, scope: number });
                }
            }
        }
        peers.sort_unstable();
        peers
    }

    /// The first candidate behind the member that no earlier ring has chosen.
    fn next_on_ring(
        &self,
        own: usize,
        candidates: &[usize],
        chosen: &[usize],
        scope: usize,
        ring: usize,
    ) -> Option<usize> {
        let salt = salt(scope, ring);
        let place = |member: usize| scramble(self.hashes[member] ^ salt);
        let here = place(own);
        let free = candidates.iter().filter(|member| !chosen.contains(member));
        // The distance around the ring; the hash settles a tie.
        free.copied().min_by_key(|&it| (place(it).wrapping_sub(here), self.hashes[it]))
    }

    /// Adds, for each other group for which this member has the highest weight of its own group,
    /// the member of that group with the highest weight for ours.
    fn represent(&self, own: usize, candidates: &[usize], scope: usize, chosen: &mut Vec<usize>) {
        let groups = &self.scopes[scope];
        let name = |kind: Kind| scramble(groups.names.get(&kind).copied().unwrap_or_default());
        let weight = |it: usize, name: u64| (scramble(self.hashes[it] ^ name), self.hashes[it]);
        let own_name = name(groups.kind(own));
        let mut best: HashMap<Kind, usize> = HashMap::new();
        for &it in candidates {
            let best = best.entry(groups.kind(it)).or_insert(it);
            if weight(it, own_name) > weight(*best, own_name) {
                *best = it;
            }
        }
        let is_mate = |it: &usize| groups.kind(*it) == groups.kind(own);
        let mates: Vec<usize> = (0..self.hashes.len()).filter(is_mate).collect();
        for (other, member) in best {
            let other_name = name(other);
            let ours = mates.iter().copied().max_by_key(|&it| weight(it, other_name));
            if ours == Some(own) && !chosen.contains(&member) {
                chosen.push(member);
            }
        }
    }
}

/// The values of a scope's labels, as numbers: those that must be equal, and each that must differ.
#[derive(Clone, Debug)]
struct Groups {
    same: Vec<u32>,
    other: Option<Vec<Vec<u32>>>,
    /// All of `other` as one.
    joined: Vec<u32>,
    /// A hash of the labels' values, which is the same on every host whatever its order of members.
    names: HashMap<Kind, u64>,
    peers: usize,
}

/// The group of a member: what is the same, and what differs.
type Kind = (u32, u32);

impl Groups {
    fn new<'a>(members: &[Member<'a>], scope: &Scope) -> Self {
        let columns = |names: &[String]| -> Vec<u32> {
            let mut known: HashMap<Vec<&str>, u32> = HashMap::new();
            let number = |member: &Member<'a>| {
                let value = |name| member.labels.get(name).map_or("", String::as_str);
                let next = u32::try_from(known.len()).unwrap_or(u32::MAX);
                *known.entry(names.iter().map(value).collect()).or_insert(next)
            };
            members.iter().map(number).collect()
        };
        let same = columns(&scope.same);
        let joined = columns(&scope.other);
        let each = scope.other.iter().map(|name| columns(std::slice::from_ref(name)));
        let mut names = HashMap::new();
        for ((member, &same), &joined) in members.iter().zip(&same).zip(&joined) {
            names.entry((same, joined)).or_insert_with(|| {
                let labels = scope.same.iter().chain(&scope.other);
                let values = labels.map(|name| member.labels.get(name).map_or("", String::as_str));
                // No label's value holds this byte.
                hash(values.collect::<Vec<_>>().join("\u{1}").as_bytes())
            });
        }
        let other = (!scope.other.is_empty()).then(|| each.collect());
        Self { same, other, joined, names, peers: scope.peers }
    }

    /// Whether `it` is in the scope of `own`.
    fn holds(&self, own: usize, it: usize) -> bool {
        let differs = |values: &Vec<u32>| values[own] != values[it];
        self.same[own] == self.same[it]
            && self.other.as_ref().is_none_or(|columns| columns.iter().all(differs))
    }

    fn kind(&self, member: usize) -> Kind {
        (self.same[member], self.joined[member])
    }
}

/// FNV-1a and a finish: a version of ours or of the compiler must not choose other peers.
fn hash(bytes: &[u8]) -> u64 {
    let step = |hash: u64, &byte: &u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    scramble(bytes.iter().fold(0xcbf2_9ce4_8422_2325, step))
}

fn salt(scope: usize, ring: usize) -> u64 {
    let number = |value: usize| u64::try_from(value).unwrap_or(u64::MAX);
    scramble(number(scope).wrapping_mul(1_000_003).wrapping_add(number(ring)))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use std::collections::{BTreeSet, HashSet};

    use proptest::prelude::*;

    use super::*;

    type Labels = BTreeMap<String, String>;

    /// Hosts in racks of 5, zones of 25, regions of 75.
    fn hosts(count: usize) -> Vec<(String, Labels)> {
        let host = |number: usize| {
            let parts = [("rack", number / 5), ("zone", number / 25), ("region", number / 75)];
            let labels = parts.map(|(name, part)| (name.to_owned(), format!("{name}{part}")));
            (format!("10.0.{}.{}:4000", number / 256, number % 256), Labels::from(labels))
        };
        (0..count).map(host).collect()
    }

    fn scopes() -> Vec<Scope> {
        let scope = |same: &[&str], other: &[&str], peers| Scope {
            same: same.iter().map(|&name| name.to_owned()).collect(),
            other: other.iter().map(|&name| name.to_owned()).collect(),
            peers,
        };
        vec![
            scope(&["rack"], &[], 2),
            scope(&["zone"], &["rack"], 2),
            scope(&["region"], &["zone"], 2),
            scope(&[], &["region"], 2),
        ]
    }

    /// Edges by the members' names, with the scope.
    fn edges(hosts: &[(String, Labels)], scopes: &[Scope]) -> BTreeSet<(String, String, usize)> {
        let members: Vec<Member<'_>> =
            hosts.iter().map(|(id, labels)| Member { id, labels }).collect();
        let roster = Roster::new(&members, scopes);
        let of = |own: usize| {
            let from = hosts[own].0.clone();
            let peers = roster.peers(own).into_iter();
            peers.map(move |peer| (from.clone(), hosts[peer.member].0.clone(), peer.scope))
        };
        (0..hosts.len()).flat_map(of).collect()
    }

    #[test]
    fn in_one_group_everybody_probes_and_is_probed_equally() {
        let hosts = hosts(200);
        let scope = Scope { same: vec![], other: vec![], peers: 3 };
        let edges = edges(&hosts, &[scope]);
        assert_eq!(edges.len(), 600);
        let mut inward = BTreeMap::new();
        for (from, to, _) in &edges {
            assert_ne!(from, to);
            *inward.entry(to).or_insert(0_u32) += 1;
        }
        // A ring that points to a peer for the second time moves on to the next one.
        assert!(inward.len() == 200 && inward.values().all(|count| (2..=4).contains(count)));
    }

    #[test]
    fn every_pair_of_groups_is_probed_both_ways_and_load_is_bounded() {
        let hosts = hosts(300);
        let edges = edges(&hosts, &scopes());
        let label = |id: &str, name: &str| {
            hosts.iter().find(|host| host.0 == id).map(|host| host.1[name].clone()).unwrap()
        };
        for (scope, name, pairs) in
            [(1, "rack", 12 * 5 * 4), (2, "zone", 4 * 3 * 2), (3, "region", 12)]
        {
            let of_scope = edges.iter().filter(|edge| edge.2 == scope);
            let seen: HashSet<_> =
                of_scope.map(|(from, to, _)| (label(from, name), label(to, name))).collect();
            assert_eq!(seen.len(), pairs, "{name}");
            assert!(seen.iter().all(|(from, to)| from != to));
        }
        let mut outward: BTreeMap<&str, usize> = BTreeMap::new();
        let mut inward: BTreeMap<&str, usize> = BTreeMap::new();
        for (from, to, _) in &edges {
            *outward.entry(from).or_default() += 1;
            *inward.entry(to).or_default() += 1;
        }
        assert!(outward.len() == 300 && outward.values().all(|count| (8..=20).contains(count)));
        assert!(inward.len() == 300 && inward.values().all(|count| (2..=30).contains(count)));
    }

    #[test]
    fn the_order_of_members_does_not_matter() {
        let mut hosts = hosts(120);
        let before = edges(&hosts, &scopes());
        hosts.reverse();
        hosts.rotate_left(37);
        assert_eq!(edges(&hosts, &scopes()), before);
    }

    #[test]
    fn one_that_goes_changes_its_own_edges_and_few_others() {
        let hosts = hosts(300);
        let before = edges(&hosts, &scopes());
        for gone in (0..300).step_by(37) {
            let id = &hosts[gone].0;
            let mut rest = hosts.clone();
            rest.remove(gone);
            let after = edges(&rest, &scopes());
            let foreign: Vec<_> = before
                .symmetric_difference(&after)
                .filter(|it| it.0 != *id && it.1 != *id)
                .collect();
            let own = before.iter().filter(|edge| edge.0 == *id || edge.1 == *id).count();
            // Those who probed it look for another; a representative's place is taken.
            assert!(foreign.len() <= 2 * own, "{} beyond {own}", foreign.len());
        }
    }

    #[test]
    fn a_small_group_is_a_full_mesh() {
        let hosts = hosts(5);
        let edges = edges(&hosts, &[Scope { same: vec!["rack".into()], other: vec![], peers: 9 }]);
        assert_eq!(edges.len(), 20);
        let alone = [Member { id: "a", labels: &Labels::new() }];
        assert!(Roster::new(&alone, &scopes()).peers(0).is_empty());
    }

    #[test]
    fn a_label_that_is_missing_is_empty() {
        let rack = Labels::from([("rack".to_owned(), "r".to_owned())]);
        let none = Labels::new();
        let members = [("a", &none), ("b", &none), ("c", &rack)];
        let members = members.map(|(id, labels)| Member { id, labels });
        let scope = |same: &[&str], other: &[&str]| Scope {
            same: same.iter().map(|&it| it.to_owned()).collect(),
            other: other.iter().map(|&it| it.to_owned()).collect(),
            peers: 5,
        };
        let peers = |scope| Roster::new(&members, &[scope]).peers(0);
        assert_eq!(peers(scope(&["rack"], &[])), [Peer { member: 1, scope: 0 }]);
        assert_eq!(peers(scope(&[], &["rack"])), [Peer { member: 2, scope: 0 }]);
        assert_eq!(peers(scope(&[], &["rack", "zone"])), []);
    }

    #[test]
    fn peers_are_those_of_every_version() {
        let hosts = hosts(40);
        let members: Vec<_> = hosts.iter().map(|(id, labels)| Member { id, labels }).collect();
        let peers = Roster::new(&members, &scopes()).peers(7);
        let known: Vec<_> = peers.iter().map(|peer| (peer.member, peer.scope)).collect();
        assert_eq!(known, PEERS_OF_SEVEN);
    }

    const PEERS_OF_SEVEN: &[(usize, usize)] =
        &[(8, 0), (9, 0), (14, 1), (22, 1), (24, 1), (25, 2), (31, 2)];

    proptest! {
        #[test]
        fn nobody_probes_itself_or_anybody_twice(
            places in prop::collection::vec((0..3_u8, 0..4_u8), 1..40), peers in 1..6_usize,
        ) {
            let hosts: Vec<(String, Labels)> = places.iter().enumerate().map(|(number, place)| {
                let labels = [("region", place.0.to_string()), ("zone", place.1.to_string())];
                let labels = labels.map(|(name, value)| (name.to_owned(), value));
                (format!("host{number}"), Labels::from(labels))
            }).collect();
            let members: Vec<Member<'_>> =
                hosts.iter().map(|(id, labels)| Member { id, labels }).collect();
            let scopes = [
                Scope { same: vec!["region".into(), "zone".into()], other: vec![], peers },
                Scope { same: vec!["region".into()], other: vec!["zone".into()], peers },
            ];
            let roster = Roster::new(&members, &scopes);
            for own in 0..members.len() {
                let chosen = roster.peers(own);
                prop_assert!(chosen.windows(2).all(|pair| pair[0].member < pair[1].member));
                prop_assert!(chosen.iter().all(|peer| peer.member != own));
                let mates = places.iter().filter(|place| **place == places[own]).count() - 1;
                let own_zone = chosen.iter().filter(|peer| peer.scope == 0).count();
                prop_assert_eq!(own_zone, peers.min(mates));
                let region = places.iter().filter(|place| place.0 == places[own].0).count() - 1;
                let others = chosen.len() - own_zone;
                prop_assert!(others >= peers.min(region - mates));
                prop_assert!(others <= peers + 3);
            }
        }
    }
}
