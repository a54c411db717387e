//! The table against its own rules and the history of the kernel's struct; defects of go-tcpinfo
//! by their numbers, as far as decoding has to do with them.

#![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

use std::collections::BTreeSet;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

/// Lengths of the struct, the first kernel that returned each, and how many members it fills.
const HISTORY: [(usize, &str, u32); 15] = [
    (104, "2.6", 32),
    (120, "3.15", 34),
    (136, "4.1", 36),
    (144, "4.2", 38),
    (160, "4.6", 42),
    (168, "4.9", 44),
    (192, "4.10", 47),
    (200, "4.18", 49),
    (224, "4.19", 53),
    (232, "5.4", 55),
    (232, "5.5", 56),
    (240, "6.2", 58),
    (248, "6.7", 61),
    (280, "6.18", 70),
    (280, "7.0", 72),
];

fn kernel(release: &str) -> Option<Kernel> {
    Some(Kernel::parse(release).unwrap())
}

/// A struct of all ones, as a kernel of this version returns it.
fn ones(length: usize, release: &str) -> Raw {
    Raw::decode(&vec![1; length], kernel(release))
}

fn names(raw: &Raw) -> BTreeSet<&'static str> {
    raw.members().iter().map(|member| member.name).collect()
}

#[test]
fn the_table_is_the_struct_without_gaps_and_overlaps() {
    let mut used = vec![0_u8; KNOWN_BYTES];
    let of_6_18 = ones(280, "6.18").members();
    for member in of_6_18.iter() {
        match member.place {
            Place::Bytes { offset, width } => {
                assert!([1, 2, 4, 8].contains(&width), "{}", member.name);
                assert_eq!(offset % width, 0, "{} is not aligned", member.name);
                used[offset..offset + width].iter_mut().for_each(|byte| {
                    assert_eq!(*byte, 0, "{} overlaps", member.name);
                    *byte = 0xff;
                });
            }
            Place::Bits { offset, shift, width, .. } => {
                let mask = ((1 << width) - 1) << shift;
                assert_eq!(used[offset] & mask, 0, "{} overlaps", member.name);
                used[offset] |= mask;
            }
        }
    }
    // Five bits of the byte of bit-fields are free.
    let free: Vec<usize> = (0..KNOWN_BYTES).filter(|&at| used[at] != 0xff).collect();
    assert_eq!((KNOWN_BYTES, free, used[7]), (280, vec![7], 0b111));
}

#[test]
fn each_kernel_fills_what_it_has() {
    let mut before = BTreeSet::new();
    for (length, release, count) in HISTORY {
        let raw = ones(length, release);
        assert_eq!(raw.members().count(), count, "Linux {release}");
        for member in MEMBERS {
            let has = member.since <= Kernel::parse(release).unwrap();
            assert_eq!(raw.fills(member), has, "{} in Linux {release}", member.name);
        }
        assert!(names(&raw).is_superset(&before));
        before = names(&raw);
    }
}

#[test]
fn metrics_are_named_by_unit_and_kind() {
    let families: BTreeSet<&str> =
        MEMBERS.iter().map(|member| member.metric.trim_end_matches("_total")).collect();
    assert_eq!(families.len(), MEMBERS.len(), "two families of one name");
    for Member { name, metric, unit, kind, help, .. } in MEMBERS {
        let total = if *kind == Kind::Counter { "_total" } else { "" };
        assert!(metric.starts_with("tcp_info_"), "{name}");
        assert!(metric.ends_with(&format!("{}{total}", unit.suffix())), "{name}: {metric}");
        assert_eq!(metric.ends_with("_total"), *kind == Kind::Counter, "{name}");
        assert!(help.ends_with('.') && !help.starts_with(' '), "{name}: {help}");
    }
}

#[test]
fn fields_have_their_types() {
    let mut bytes = [0; 280];
    bytes[0] = 1;
    bytes[1] = 4;
    bytes[5] = 0b111;
    bytes[6] = 0x97;
    bytes[7] = 0b101;
    bytes[68..72].copy_from_slice(&1_234_u32.to_ne_bytes());
    bytes[244..248].copy_from_slice(&20_u32.to_ne_bytes());
    let info = TcpInfo::from(&Raw::decode(&bytes, None));
    assert_eq!((info.state, info.ca_state), (Some(State::Established), Some(CaState::Loss)));
    let options: Vec<&str> = info.options.unwrap().names().collect();
    assert_eq!(options, ["timestamps", "sack", "window-scaling"]);
    assert_eq!((info.snd_wscale, info.rcv_wscale), (Some(7), Some(9)));
    assert_eq!(info.delivery_rate_app_limited, Some(true));
    assert_eq!(info.fastopen_client_fail, Some(FastOpenFailure::DataNotAcked));
    assert_eq!(info.rtt, Some(Duration::from_micros(1_234)));
    assert_eq!(info.total_rto_time, Some(Duration::from_millis(20)));
}

#[test]
fn a_longer_struct_is_tolerated_and_its_length_told() {
    let raw = Raw::decode(&[1; 1_024], None);
    assert_eq!((raw.length(), raw.members().count()), (1_024, 68));
    assert_eq!(ones(1_024, "9.9").members(), Members::ALL);
}

#[test]
fn releases_are_versions_or_nothing() {
    let check = |release: &str, expected: Option<&str>| {
        let parsed = Kernel::parse(release).map(|kernel| kernel.to_string());
        assert_eq!(parsed.as_deref(), expected, "{release}");
    };
    check("6.18.44", Some("6.18"));
    check("4.18.0-553.el8.x86_64", Some("4.18"));
    check("2.6", Some("2.6"));
    for bad in ["", "6", "6.", ".6", "six.one", "99999999.1", "6.99999999", "6 .1"] {
        check(bad, None);
    }
}

#[test]
fn b2_linux_4_9_fills_all_of_its_168_bytes() {
    let raw = ones(168, "4.9");
    for member in [&members::min_rtt, &members::data_segs_in, &members::delivery_rate] {
        assert!(raw.number(member).unwrap() > 0, "{}", member.name);
    }
    // And of 148 bytes, the last member is the one that ends there.
    let cut = ones(148, "4.9");
    assert!(cut.fills(&members::notsent_bytes) && !cut.fills(&members::min_rtt));
    assert_eq!(TcpInfo::from(&cut).delivery_rate, None);
}

#[test]
fn b3_timeouts_are_absent_before_linux_6_7() {
    let info = TcpInfo::from(&ones(240, "6.6"));
    assert!(info.rehash.is_some());
    assert_eq!((info.total_rto, info.total_rto_recoveries), (None, None));
    assert_eq!(info.total_rto_time, None);
}

#[test]
fn b4_the_length_decides_and_not_the_version() {
    // A backport fills more than its version says, a sandbox less.
    assert_eq!(ones(280, "4.18").members(), Raw::decode(&[1; 280], None).members());
    assert_eq!(ones(280, "4.18").members().count(), 68);
    assert_eq!(names(&ones(120, "6.18")), names(&ones(120, "3.15")));
}

#[test]
fn b5_bit_fields_are_present_by_what_came_with_them() {
    let check = |length: usize, release: &str, limited: bool, fast_open: bool| {
        let raw = ones(length, release);
        assert_eq!(raw.fills(&members::delivery_rate_app_limited), limited, "{length} {release}");
        assert_eq!(raw.fills(&members::fastopen_client_fail), fast_open, "{length} {release}");
        assert!(raw.fills(&members::snd_wscale) && raw.fills(&members::rcv_wscale));
    };
    check(160, "4.6", false, false);
    // The delivery rate came with its bit.
    check(168, "4.9", true, false);
    // Linux 5.4 and 5.5 return equally much: only the version tells them apart.
    check(232, "5.4", true, false);
    check(232, "5.10", true, true);
    // A version alone is not believed, neither made up (uname26) nor too new for the length.
    check(280, "2.6", true, true);
    check(104, "6.18", false, false);
    assert!(!Raw::decode(&[1; 232], None).fills(&members::fastopen_client_fail));
}

/// Linux 6.18 and 7.0 return equally much, divided differently at the end.
#[test]
fn what_was_moved_is_read_where_the_version_has_it() {
    let mut bytes = [0; 280];
    bytes[276..].copy_from_slice(&[0b1001_1110, 3, 0, 1]);
    let check = |release: &str, expected: [Option<u64>; 4]| {
        let raw = Raw::decode(&bytes, kernel(release));
        let found = [
            &members::accecn_fail_mode,
            &members::accecn_opt_seen,
            &members::ecn_mode,
            &members::options2,
        ];
        assert_eq!(found.map(|member| raw.number(member)), expected, "Linux {release}");
    };
    check("6.18", [Some(0x39e), Some(0x100), None, None]);
    check("6.19", [Some(0x39e), Some(0x100), None, None]);
    check("7.0", [Some(9), Some(3), Some(2), Some(0x01_0003)]);
    // A version that cannot be true tells nothing.
    check("2.6", [None; 4]);
    check("4.18", [None; 4]);
}

#[test]
fn b6_cumulative_members_are_counters_in_base_units() {
    let kind = |name: &str| MEMBERS.iter().find(|member| member.name == name).unwrap().kind;
    for counter in [
        "bytes_acked",
        "bytes_received",
        "bytes_sent",
        "bytes_retrans",
        "segs_in",
        "segs_out",
        "data_segs_in",
        "data_segs_out",
        "total_retrans",
        "delivered",
        "delivered_ce",
        "busy_time",
        "dsack_dups",
        "reord_seen",
        "rcv_ooopack",
        "rehash",
        "total_rto",
        "total_rto_time",
    ] {
        assert_eq!(kind(counter), Kind::Counter, "{counter}");
    }
    for gauge in ["fackets", "retransmits", "retrans", "lost", "rtt", "snd_cwnd", "notsent_bytes"] {
        assert_eq!(kind(gauge), Kind::Gauge, "{gauge}");
    }
    let raw = Raw::decode(&[0xff; 280], None);
    for unlimited in [&members::pacing_rate, &members::max_pacing_rate, &members::min_rtt] {
        assert!(raw.fills(unlimited), "{}", unlimited.name);
        assert_eq!(raw.base(unlimited), None, "{}", unlimited.name);
    }
    let mut raw = Raw::empty(0);
    raw.set(&members::snd_ssthresh, 0x7fff_ffff);
    raw.set(&members::rtt, 1_500);
    raw.set(&members::total_rto_time, 1_500);
    assert_eq!(raw.base(&members::snd_ssthresh), None);
    assert_eq!(raw.base(&members::rtt).unwrap().to_bits(), 0.0015_f64.to_bits());
    assert_eq!(raw.base(&members::total_rto_time).unwrap().to_bits(), 1.5_f64.to_bits());
}

#[test]
fn b9_what_is_absent_is_absent_and_no_help_says_otherwise() {
    assert_eq!(TcpInfo::from(&ones(231, "5.5")).fastopen_client_fail, None);
    for member in MEMBERS {
        assert!(!member.help.contains("-1"), "{}", member.name);
    }
}

proptest! {
    #[test]
    fn any_bytes_decode(bytes in vec(any::<u8>(), 0..=1_024), release in "[2-7]\\.[0-9]{1,2}") {
        let raw = Raw::decode(&bytes, Kernel::parse(&release));
        let info = TcpInfo::from(&raw);
        prop_assert_eq!(info.length, bytes.len());
        for member in MEMBERS {
            prop_assert!(!raw.fills(member) || member.place.end() <= bytes.len());
            prop_assert!(raw.fills(member) || raw.number(member).is_none());
        }
        prop_assert_eq!(info.rtt.is_some(), bytes.len() >= 72);
    }

    #[test]
    fn longer_structs_fill_no_less(bytes in vec(any::<u8>(), 0..=400), cut in 0_usize..=400) {
        let whole = Raw::decode(&bytes, None);
        let part = Raw::decode(&bytes[..cut.min(bytes.len())], None);
        for member in part.members().iter() {
            prop_assert_eq!(part.number(member), whole.number(member), "{}", member.name);
        }
    }

    #[test]
    fn a_number_that_was_set_is_read(at in 0..MEMBERS.len(), number in any::<u64>()) {
        let member = &MEMBERS[at];
        let mut raw = Raw::empty(0);
        raw.set(member, number);
        match raw.number(member) {
            Some(read) => prop_assert_eq!(read, number),
            None => prop_assert!(!raw.fills(member) || member.none.is_some()),
        }
        prop_assert!(raw.members().count() <= 1);
    }
}
