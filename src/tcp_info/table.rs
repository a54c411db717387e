//! The table: each member of the kernel's `struct tcp_info` (include/uapi/linux/tcp.h) once, with
//! all that is known of it. The struct, its documentation, the names of its metrics and its tests
//! follow from here; a new member is a new row.
//!
//! A row is: help; name without `tcpi_`; type; place in bytes (offset, width) or bits (offset,
//! shift, width, and the lengths that [`Place`](super::Place) explains), with a second place since
//! the Linux that moved it there; unit; kind and metric; the first Linux that has it; and the
//! number that stands for "none", with a word for it.

use std::time::Duration;

use super::member::{Kind, Member, Unit, bits, bytes, moved, optional};
use super::{CaState, FastOpenFailure, Kernel, Options, Raw, State, Typed};

macro_rules! members {
    ($(
        $(#[doc = $help:literal])+
        $name:ident: $type:ty = $place:expr $(=> $moved_in:literal $moved:expr)?, $unit:ident,
        $kind:ident $metric:literal, $since:literal $(, $none:expr => $word:literal)?;
    )+) => {
        /// What a kernel tells of one TCP connection.
        ///
        /// `None` is what this kernel does not tell, and what has no value: a pacing rate without
        /// a limit, a minimum before there was a sample. [`Raw::fills`] tells the two apart.
        /// Of a listening socket, `unacked` is the number of connections to be accepted, and
        /// `sacked` the most that there may be.
        #[derive(Clone, Debug, Default, PartialEq, Eq)]
        pub struct TcpInfo {
            /// Bytes that the kernel returned.
            pub length: usize,
            $(
                $(#[doc = $help])+
                #[doc = ""]
                #[doc = concat!("Since Linux ", $since, "; metric `", $metric, "`.")]
                pub $name: Option<$type>,
            )+
        }

        impl From<&Raw> for TcpInfo {
            fn from(raw: &Raw) -> Self {
                Self {
                    length: raw.length(),
                    $($name: raw.number(&$name).and_then(|it| <$type>::typed(it, $name.unit)),)+
                }
            }
        }

        #[expect(non_camel_case_types, reason = "named as the kernel names them")]
        enum Index { $($name,)+ }

        $(
            #[doc = concat!("`tcpi_", stringify!($name), "`.")]
            #[expect(non_upper_case_globals, reason = "named as the kernel names it")]
            pub const $name: Member = Member {
                name: stringify!($name),
                help: concat!($($help),+).trim_ascii(),
                place: $place,
                moved: moved(&[$((Kernel::parse($moved_in).expect("a version"), $moved))?]),
                unit: Unit::$unit,
                kind: Kind::$kind,
                metric: $metric,
                since: Kernel::parse($since).expect("a version of two numbers"),
                none: optional(&[$(($none, $word))?]),
                index: Index::$name as usize,
            };
        )+

        /// All members, in the order of the kernel's struct.
        pub const MEMBERS: &[Member; [$(stringify!($name)),+].len()] = &[$($name),+];
    };
}

members! {
    /// State of the connection, as a number of include/net/tcp_states.h.
    state: State = bytes(0, 1), State, Gauge "tcp_info_state", "2.4";
    /// State of congestion control: 0 open, 1 disorder, 2 CWR, 3 recovery, 4 loss.
    ca_state: CaState = bytes(1, 1), CaState, Gauge "tcp_info_ca_state", "2.4";
    /// Timeouts in a row without an answer.
    retransmits: u8 = bytes(2, 1), Count, Gauge "tcp_info_retransmits", "2.4";
    /// Unanswered probes of a zero window or of an idle peer.
    probes: u8 = bytes(3, 1), Count, Gauge "tcp_info_probes", "2.4";
    /// Doublings of the retransmission timeout in force.
    backoff: u8 = bytes(4, 1), Count, Gauge "tcp_info_backoff", "2.4";
    /// Options in use: 1 timestamps, 2 SACK, 4 window scaling, 8 ECN, 16 ECN seen, 32 data in SYN.
    options: Options = bytes(5, 1), Options, Gauge "tcp_info_options", "2.4";
    /// Shift of the windows that the peer announces.
    snd_wscale: u8 = bits(6, 0, 4, [7, 7]), Code, Gauge "tcp_info_snd_wscale", "2.4";
    /// Shift of the windows that we announce.
    rcv_wscale: u8 = bits(6, 4, 4, [7, 7]), Code, Gauge "tcp_info_rcv_wscale", "2.4";
    /// Whether the application, not the network, limited the delivery rate.
    delivery_rate_app_limited: bool = bits(7, 0, 1, [168, 168]), Flag,
        Gauge "tcp_info_delivery_rate_app_limited", "4.9";
    /// Why TCP Fast Open failed: 0 unknown, 1 no cookie, 2 SYN data not acked, 3 SYN retransmitted.
    fastopen_client_fail: FastOpenFailure = bits(7, 1, 2, [232, 240]), FastOpenFailure,
        Gauge "tcp_info_fastopen_client_fail", "5.5";

    /// Retransmission timeout.
    rto: Duration = bytes(8, 4), Micros, Gauge "tcp_info_rto_seconds", "2.4";
    /// Timeout of a delayed acknowledgement.
    ato: Duration = bytes(12, 4), Micros, Gauge "tcp_info_ato_seconds", "2.4";
    /// Largest segment that we send.
    snd_mss: u64 = bytes(16, 4), Bytes, Gauge "tcp_info_snd_mss_bytes", "2.4";
    /// Largest segment that we receive, as estimated.
    rcv_mss: u64 = bytes(20, 4), Bytes, Gauge "tcp_info_rcv_mss_bytes", "2.4";

    /// Segments sent and not acknowledged yet.
    unacked: u32 = bytes(24, 4), Segments, Gauge "tcp_info_unacked", "2.4";
    /// Segments that selective acknowledgements tell of.
    sacked: u32 = bytes(28, 4), Segments, Gauge "tcp_info_sacked", "2.4";
    /// Segments taken for lost, not acknowledged yet.
    lost: u32 = bytes(32, 4), Segments, Gauge "tcp_info_lost", "2.4";
    /// Segments sent again, not acknowledged yet.
    retrans: u32 = bytes(36, 4), Segments, Gauge "tcp_info_retrans_in_flight", "2.4";
    /// Segments before the foremost one acknowledged selectively; 0 since Linux 4.15.
    fackets: u32 = bytes(40, 4), Segments, Gauge "tcp_info_fackets", "2.4";

    /// Time since data was sent.
    last_data_sent: Duration = bytes(44, 4), Millis, Gauge "tcp_info_last_data_sent_seconds", "2.4";
    /// Time since an acknowledgement was sent: always 0, no kernel remembers it.
    last_ack_sent: Duration = bytes(48, 4), Millis, Gauge "tcp_info_last_ack_sent_seconds", "2.4";
    /// Time since data was received.
    last_data_recv: Duration = bytes(52, 4), Millis, Gauge "tcp_info_last_data_recv_seconds", "2.4";
    /// Time since an acknowledgement was received.
    last_ack_recv: Duration = bytes(56, 4), Millis, Gauge "tcp_info_last_ack_recv_seconds", "2.4";

    /// Largest packet that the path is known to carry.
    pmtu: u64 = bytes(60, 4), Bytes, Gauge "tcp_info_pmtu_bytes", "2.4";
    /// Most that the receive window may grow to now.
    rcv_ssthresh: u64 = bytes(64, 4), Bytes, Gauge "tcp_info_rcv_ssthresh_bytes", "2.4";
    /// Smoothed round-trip time.
    rtt: Duration = bytes(68, 4), Micros, Gauge "tcp_info_rtt_seconds", "2.4";
    /// Mean deviation of the round-trip time.
    rttvar: Duration = bytes(72, 4), Micros, Gauge "tcp_info_rttvar_seconds", "2.4";
    /// Congestion window at which slow start ends.
    snd_ssthresh: u32 = bytes(76, 4), Segments, Gauge "tcp_info_snd_ssthresh", "2.4",
        SSTHRESH_UNLIMITED => "unlimited";
    /// Congestion window.
    snd_cwnd: u32 = bytes(80, 4), Segments, Gauge "tcp_info_snd_cwnd", "2.4";
    /// Largest segment that we told the peer to send.
    advmss: u64 = bytes(84, 4), Bytes, Gauge "tcp_info_advmss_bytes", "2.4";
    /// Segments that may arrive out of order before one is taken for lost.
    reordering: u32 = bytes(88, 4), Segments, Gauge "tcp_info_reordering", "2.4";

    /// Round-trip time as the receiving side sees it.
    rcv_rtt: Duration = bytes(92, 4), Micros, Gauge "tcp_info_rcv_rtt_seconds", "2.6";
    /// What the application takes in one round trip.
    rcv_space: u64 = bytes(96, 4), Bytes, Gauge "tcp_info_rcv_space_bytes", "2.6";

    /// Segments sent again, SYNs among them.
    total_retrans: u32 = bytes(100, 4), Segments, Counter "tcp_info_retrans_total", "2.6";

    /// How fast the kernel may send.
    pacing_rate: u64 = bytes(104, 8), BytesPerSecond,
        Gauge "tcp_info_pacing_rate_bytes_per_second", "3.15", u64::MAX => "unlimited";
    /// Limit of the pacing rate that the application has set.
    max_pacing_rate: u64 = bytes(112, 8), BytesPerSecond,
        Gauge "tcp_info_max_pacing_rate_bytes_per_second", "3.15", u64::MAX => "unlimited";
    /// Bytes that the peer has acknowledged.
    bytes_acked: u64 = bytes(120, 8), Bytes, Counter "tcp_info_acked_bytes_total", "4.1";
    /// Bytes received in order.
    bytes_received: u64 = bytes(128, 8), Bytes, Counter "tcp_info_received_bytes_total", "4.1";
    /// Segments sent, those sent again and bare acknowledgements among them.
    segs_out: u32 = bytes(136, 4), Segments, Counter "tcp_info_segs_out_total", "4.2";
    /// Segments received.
    segs_in: u32 = bytes(140, 4), Segments, Counter "tcp_info_segs_in_total", "4.2";

    /// Bytes that wait to be sent for the first time.
    notsent_bytes: u64 = bytes(144, 4), Bytes, Gauge "tcp_info_notsent_bytes", "4.6";
    /// Shortest round trip of the last five minutes (`net.ipv4.tcp_min_rtt_wlen`).
    min_rtt: Duration = bytes(148, 4), Micros, Gauge "tcp_info_min_rtt_seconds", "4.6",
        NO_RTT_YET => "no sample";
    /// Segments with data received.
    data_segs_in: u32 = bytes(152, 4), Segments, Counter "tcp_info_data_segs_in_total", "4.6";
    /// Segments with data sent.
    data_segs_out: u32 = bytes(156, 4), Segments, Counter "tcp_info_data_segs_out_total", "4.6";
    /// How fast data arrived at the peer lately.
    delivery_rate: u64 = bytes(160, 8), BytesPerSecond,
        Gauge "tcp_info_delivery_rate_bytes_per_second", "4.9";

    /// Time during which data was in flight or waited to be sent.
    busy_time: Duration = bytes(168, 8), Micros, Counter "tcp_info_busy_seconds_total", "4.10";
    /// Part of the busy time that the peer's receive window was too small.
    rwnd_limited: Duration = bytes(176, 8), Micros,
        Counter "tcp_info_rwnd_limited_seconds_total", "4.10";
    /// Part of the busy time that our send buffer was too small.
    sndbuf_limited: Duration = bytes(184, 8), Micros,
        Counter "tcp_info_sndbuf_limited_seconds_total", "4.10";

    /// Segments that arrived at the peer, those sent again among them.
    delivered: u32 = bytes(192, 4), Segments, Counter "tcp_info_delivered_total", "4.18";
    /// Those of them that met congestion (ECN).
    delivered_ce: u32 = bytes(196, 4), Segments, Counter "tcp_info_delivered_ce_total", "4.18";

    /// Bytes sent, those sent again among them.
    bytes_sent: u64 = bytes(200, 8), Bytes, Counter "tcp_info_sent_bytes_total", "4.19";
    /// Bytes sent again.
    bytes_retrans: u64 = bytes(208, 8), Bytes, Counter "tcp_info_retrans_bytes_total", "4.19";
    /// Duplicates that the peer told of: segments sent again in vain (RFC 2883).
    dsack_dups: u32 = bytes(216, 4), Segments, Counter "tcp_info_dsack_dups_total", "4.19";
    /// Times that reordering was seen.
    reord_seen: u32 = bytes(220, 4), Count, Counter "tcp_info_reord_seen_total", "4.19";

    /// Segments received out of order.
    rcv_ooopack: u32 = bytes(224, 4), Segments, Counter "tcp_info_rcv_ooopack_total", "5.4";

    /// Receive window that the peer announces.
    snd_wnd: u64 = bytes(228, 4), Bytes, Gauge "tcp_info_snd_wnd_bytes", "5.4";
    /// Receive window that we announce.
    rcv_wnd: u64 = bytes(232, 4), Bytes, Gauge "tcp_info_rcv_wnd_bytes", "6.2";

    /// Times that another path was tried, by a new hash of the flow.
    rehash: u32 = bytes(236, 4), Count, Counter "tcp_info_rehash_total", "6.2";

    /// Timeouts that retransmission or connecting ran into.
    total_rto: u16 = bytes(240, 2), Count, Counter "tcp_info_rto_total", "6.7";
    /// Recoveries from timeouts, unfinished ones among them.
    total_rto_recoveries: u16 = bytes(242, 2), Count,
        Counter "tcp_info_rto_recoveries_total", "6.7";
    /// Time spent in recoveries from timeouts.
    total_rto_time: Duration = bytes(244, 4), Millis,
        Counter "tcp_info_rto_recovery_seconds_total", "6.7";

    /// Segments received that met congestion (accurate ECN).
    received_ce: u32 = bytes(248, 4), Segments, Counter "tcp_info_received_ce_total", "6.18";
    /// Bytes delivered to the peer as ECT(1) (accurate ECN).
    delivered_e1_bytes: u64 = bytes(252, 4), Bytes,
        Counter "tcp_info_delivered_e1_bytes_total", "6.18";
    /// Bytes delivered to the peer as ECT(0) (accurate ECN).
    delivered_e0_bytes: u64 = bytes(256, 4), Bytes,
        Counter "tcp_info_delivered_e0_bytes_total", "6.18";
    /// Bytes delivered to the peer as CE (accurate ECN).
    delivered_ce_bytes: u64 = bytes(260, 4), Bytes,
        Counter "tcp_info_delivered_ce_bytes_total", "6.18";
    /// Bytes received as ECT(1) (accurate ECN).
    received_e1_bytes: u64 = bytes(264, 4), Bytes,
        Counter "tcp_info_received_e1_bytes_total", "6.18";
    /// Bytes received as ECT(0) (accurate ECN).
    received_e0_bytes: u64 = bytes(268, 4), Bytes,
        Counter "tcp_info_received_e0_bytes_total", "6.18";
    /// Bytes received as CE (accurate ECN).
    received_ce_bytes: u64 = bytes(272, 4), Bytes,
        Counter "tcp_info_received_ce_bytes_total", "6.18";
    /// How accurate ECN failed, as bits.
    accecn_fail_mode: u16 = bytes(276, 2) => "7.0" bits(276, 4, 4, VERSION_TELLS), Code,
        Gauge "tcp_info_accecn_fail_mode", "6.18";
    /// Which options of accurate ECN were seen: 0 not, 1 empty, 2 counters, 3 failed.
    accecn_opt_seen: u16 = bytes(278, 2) => "7.0" bits(276, 2, 2, VERSION_TELLS), Code,
        Gauge "tcp_info_accecn_opt_seen", "6.18";
    /// How ECN was negotiated: 0 not, 1 as in RFC 3168, 2 accurate, 3 not yet.
    ecn_mode: u8 = bits(276, 0, 2, VERSION_TELLS), Code, Gauge "tcp_info_ecn_mode", "7.0";
    /// More options in use, as bits.
    options2: u32 = bits(277, 0, 24, VERSION_TELLS), Code, Gauge "tcp_info_options2", "7.0";
}

/// Linux 7.0 divided the last four bytes anew, and returns as many as 6.18.
const VERSION_TELLS: [usize; 2] = [280, usize::MAX];
/// `TCP_INFINITE_SSTHRESH` (include/net/tcp.h).
const SSTHRESH_UNLIMITED: u64 = 0x7fff_ffff;
/// `tcp_min_rtt` of a connection without a sample (`tcp_init_sock`, net/ipv4/tcp.c).
const NO_RTT_YET: u64 = 0xffff_ffff;
