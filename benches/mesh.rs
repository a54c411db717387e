//! How the mesh behaves at 100, 10,000 and 100,000 hosts: who is probed, how many probes a host has
//! out and in, how many change when a host goes, and what choosing costs. Of 100,000 hosts a whole
//! zone is looked at: what it probes is exact, and so is what comes in from inside it.

#![expect(clippy::print_stdout, reason = "a bench is run for its table")]

#[path = "common/report.rs"]
mod report;

use std::collections::{BTreeMap, HashMap, HashSet};

use rttscope::mesh::{Member, Peer, Roster, Scope};
use rttscope::sys::clock;

use report::{print_table, row};

/// Hosts of a rack, racks of a zone, zones of a region: a datacenter as many are.
const RACK: usize = 20;
const ZONE: usize = 500;
const REGION: usize = 2_500;

/// Peers in each scope.
const PEERS: usize = 3;

const SCOPES: [&str; 4] = ["rack", "zone, other racks", "region, other zones", "other regions"];

type Hosts = Vec<(String, BTreeMap<String, String>)>;

fn main() {
    let sizes: &[usize] = if report::quick() { &[100, 1_000] } else { &[100, 10_000, 100_000] };
    let mut rows = vec![row([
        "hosts", "scope", "out min", "avg", "max", "in min", "avg", "max", "unprobed", "pairs",
    ])];
    let mut changes = vec![row([
        "hosts",
        "looked at",
        "choosing, ms",
        "edges of the host",
        "others changed, avg",
        "max",
    ])];
    for &size in sizes {
        let hosts = hosts(size);
        simulate(&hosts, &mut rows, &mut changes);
    }
    print_table("Probes of a host out and in, by scope", &rows);
    print_table("When one host goes", &changes);
}

/// Small meshes have small racks, zones and regions, so that each scope is there.
fn hosts(size: usize) -> Hosts {
    let small = (2, 10, 50);
    let (rack, zone, region) = if size < 2 * REGION { small } else { (RACK, ZONE, REGION) };
    let host = |number: usize| {
        let labels =
            [("rack", number / rack), ("zone", number / zone), ("region", number / region)];
        let labels = labels.map(|(name, part)| (name.to_owned(), part.to_string()));
        (format!("host{number}.example:4000"), BTreeMap::from(labels))
    };
    (0..size).map(host).collect()
}

fn scopes() -> Vec<Scope> {
    let scope = |same: &[&str], other: &[&str]| Scope {
        same: same.iter().map(|&name| name.to_owned()).collect(),
        other: other.iter().map(|&name| name.to_owned()).collect(),
        peers: PEERS,
    };
    vec![
        scope(&["region", "zone", "rack"], &[]),
        scope(&["region", "zone"], &["rack"]),
        scope(&["region"], &["zone"]),
        scope(&[], &["region"]),
    ]
}

fn roster(hosts: &Hosts) -> Roster {
    let members: Vec<Member<'_>> = hosts.iter().map(|(id, labels)| Member { id, labels }).collect();
    Roster::new(&members, &scopes())
}

fn simulate(hosts: &Hosts, rows: &mut Vec<Vec<String>>, changes: &mut Vec<Vec<String>>) {
    let roster = roster(hosts);
    let all = hosts.len() <= 10_000;
    let looked_at = if all { hosts.len() } else { ZONE };
    let peers: Vec<Vec<Peer>> = (0..looked_at).map(|own| roster.peers(own)).collect();
    for (scope, name) in SCOPES.into_iter().enumerate() {
        let mut inward = vec![0_usize; looked_at];
        let mut pairs = HashSet::new();
        let label = ["", "rack", "zone", "region"][scope];
        let group = |host: usize| hosts[host].1.get(label).map_or("", String::as_str);
        let mut outward = Vec::new();
        for (own, peers) in peers.iter().enumerate() {
            let of_scope: Vec<_> = peers.iter().filter(|peer| peer.scope == scope).collect();
            outward.push(of_scope.len());
            for peer in of_scope {
                if let Some(count) = inward.get_mut(peer.member) {
                    *count += 1;
                }
                pairs.insert((group(own), group(peer.member)));
            }
        }
        // Probes into the zone from outside it are not counted where only the zone is looked at.
        let known = all || scope < 2;
        let wanted = wanted_pairs(&hosts[..looked_at], hosts, scope);
        let unprobed = inward.iter().filter(|&&count| count == 0).count();
        let seen = if scope == 0 { wanted } else { pairs.len() };
        let [out, into] = [&outward, &inward].map(|counts| spread(counts));
        let unknown = || "?".to_owned();
        let into = if known { into } else { [unknown(), unknown(), unknown()] };
        let unprobed = if known { unprobed.to_string() } else { unknown() };
        rows.push(row([
            &hosts.len().to_string(),
            name,
            &out[0],
            &out[1],
            &out[2],
            &into[0],
            &into[1],
            &into[2],
            &unprobed,
            &format!("{seen}/{wanted}"),
        ]));
    }
    changes.push(churn(hosts, &peers));
}

/// Ordered pairs of groups with a host on the side that is looked at.
fn wanted_pairs(from: &[(String, BTreeMap<String, String>)], to: &Hosts, scope: usize) -> usize {
    let (same, label) = [("", ""), ("zone", "rack"), ("region", "zone"), ("", "region")][scope];
    let kind = |host: &(String, BTreeMap<String, String>)| {
        [same, label].map(|name| host.1.get(name).cloned().unwrap_or_default())
    };
    let from: HashSet<_> = from.iter().map(kind).collect();
    let to: HashSet<_> = to.iter().map(kind).collect();
    let pairs = from.iter().flat_map(|a| to.iter().map(move |b| (a, b)));
    pairs.filter(|(a, b)| a[0] == b[0] && a[1] != b[1]).count()
}

fn churn(hosts: &Hosts, peers: &[Vec<Peer>]) -> Vec<String> {
    let watched = peers.len().min(500);
    let rounds = if hosts.len() > 10_000 { 3 } else { 10 };
    let mut others = Vec::new();
    let mut own_edges = Vec::new();
    let mut ms = Vec::new();
    for round in 0..rounds {
        let gone = (round * 7_919 + 13) % watched;
        let mut rest = hosts.clone();
        rest.remove(gone);
        let start = clock::mono();
        let roster = roster(&rest);
        drop(roster.peers(0));
        ms.push(clock::mono().duration_since(start).as_secs_f64() * 1e3);
        let back = |place: usize| if place < gone { place } else { place + 1 };
        let mut changed = 0;
        for place in 0..watched.min(rest.len()) {
            let now: HashMap<usize, usize> = roster
                .peers(place)
                .into_iter()
                .map(|peer| (back(peer.member), peer.scope))
                .collect();
            let Some(before) = peers.get(back(place)) else { continue };
            let stayed = before.iter().filter(|peer| now.contains_key(&peer.member)).count();
            let lost = before.iter().filter(|peer| peer.member != gone).count() - stayed;
            changed += lost + (now.len() - stayed);
        }
        others.push(changed);
        own_edges.push(peers[gone].len());
    }
    let [_, own, _] = spread(&own_edges);
    let [_, average, most] = spread(&others);
    let ms = ms.into_iter().fold(f64::INFINITY, f64::min);
    row([
        &hosts.len().to_string(),
        &watched.to_string(),
        &format!("{ms:.1}"),
        &own,
        &average,
        &most,
    ])
}

/// Least, average, most.
fn spread(counts: &[usize]) -> [String; 3] {
    let sum = u32::try_from(counts.iter().sum::<usize>()).unwrap_or(u32::MAX);
    let number = u32::try_from(counts.len().max(1)).unwrap_or(u32::MAX);
    let average = f64::from(sum) / f64::from(number);
    let text = |count: Option<&usize>| count.map_or_else(String::new, usize::to_string);
    [text(counts.iter().min()), format!("{average:.1}"), text(counts.iter().max())]
}
