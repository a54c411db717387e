//! What flows count: plain structs that cross to readers as an array of words, all at once.

/// Declares a plain struct of `u64` counters that can cross to readers as an array of words.
macro_rules! counters {
    ($(#[$doc:meta])* $name:ident { $($(#[$field_doc:meta])* $field:ident,)+ }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub struct $name {
            $($(#[$field_doc])* pub $field: u64,)+
        }

        impl $name {
            /// How many words [`Self::to_words`] gives.
            pub const WORDS: usize = [$(stringify!($field)),+].len();

            /// The fields in order of declaration.
            #[must_use]
            pub const fn to_words(&self) -> [u64; Self::WORDS] {
                [$(self.$field),+]
            }

            /// The inverse of [`Self::to_words`].
            #[must_use]
            pub const fn from_words(words: [u64; Self::WORDS]) -> Self {
                let [$($field),+] = words;
                Self { $($field),+ }
            }
        }
    };
}
pub(super) use counters;

counters! {
    /// What one prober counted. `sent = received + timeouts + in_flight` at every moment.
    ProbeCounters {
        /// Slots of the schedule that became a probe, including those that were due while the
        /// connection was down: a dead target loses probes at the full rate.
        sent,
        /// Replies in time.
        received,
        /// Probes that will never be received: no reply in time, lost with their connection, or
        /// due without one.
        timeouts,
        /// Sent, and neither received nor given up yet.
        in_flight,
        /// Slots that passed without a probe because we were too late, or too many were in flight.
        skipped,
        /// Probes sent more than `SEND_LATE_NS` after they were due.
        late,
        /// Connections established.
        connects,
        /// Connections lost, and attempts that failed.
        dropped,
        /// Replies that came after their timeout.
        late_replies,
        /// Replies that came twice.
        duplicate_replies,
        /// Replies to no probe of ours.
        unknown_replies,
        /// Bytes that were no reply at all and were skipped to find the next frame.
        garbage_bytes,
        /// 1 while connected.
        connected,
        /// The last reply's round trip, ns; 0 while there is none (see `received`).
        last_rtt_ns,
        /// The longest round trip, ns.
        rtt_ns_max,
        /// Outcomes now in the loss window.
        window_probes,
        /// Lost ones among them.
        window_lost,
        /// The timeout that the next probe gets, ns.
        timeout_ns,
        /// Received probes without a `tx_sched` stamp although stamps were asked for.
        missing_tx_sched,
        /// The same for `tx_sw`.
        missing_tx_sw,
        /// The same for `tx_ack`.
        missing_tx_ack,
        /// The same for `rx_sw`.
        missing_rx_sw,
        /// Received probes of a v3 connection whose peer never told its residence.
        missing_peer,
        /// Samples rejected: the wall clock was stepped.
        rejected_clock_step,
        /// Samples rejected: stamps out of order.
        rejected_order,
        /// Samples rejected: the peer's residence exceeded the round trip.
        rejected_peer_exceeds_rtt,
        /// The wire version spoken: 0 before it is known, then 1, 2 or 3.
        wire_version,
    }
}

counters! {
    /// What one worker's responder counted.
    EchoCounters {
        /// Connections accepted.
        connections,
        /// Connections open now.
        connections_active,
        /// Connections closed at once: the limit was reached.
        refused_limit,
        /// Failed accepts (descriptors or memory ran out); accepting pauses after each.
        accept_errors,
        /// Connections closed: nothing was received for the idle timeout.
        closed_idle,
        /// Connections closed: a v3 client sent what is no v3 frame.
        closed_protocol,
        /// Connections that ended by an error.
        closed_error,
        /// v3 frames answered.
        frames_v3,
        /// Bytes received.
        received_bytes,
        /// Bytes queued for sending.
        sent_bytes,
        /// v3 replies whose transmit stamp never came.
        missing_tx_sw,
        /// v3 requests without a kernel receive stamp.
        missing_rx_sw,
    }
}

counters! {
    /// What one target's half-open checks counted. `sent` is the sum of every outcome and of
    /// `in_flight` at every moment.
    CheckCounters {
        /// Slots of the schedule that became a check, including those that were due while no
        /// address was known.
        sent,
        /// Answered by SYN-ACK.
        open,
        /// Answered by RST.
        refused,
        /// Not answered in time.
        timeout,
        /// No route, or a router said so.
        unreachable,
        /// No check could be made: descriptors, ports, privileges, an address that is not ours.
        local_error,
        /// Anything else that the network answered.
        error,
        /// Due while no address was known for the name.
        unresolved,
        /// Sent, and neither answered nor given up yet.
        in_flight,
        /// Slots that passed without a check because we were too late, or too many were in flight.
        skipped,
        /// Checks sent more than `SEND_LATE_NS` after they were due.
        late,
        /// SYNs after the first of a check.
        syn_retransmits,
        /// Handshakes that our side completed although it should not have (see `Answer`), or had
        /// to, because the method is `dial`.
        completed_handshakes,
        /// The last open check's round trip, ns; 0 while there is none.
        last_rtt_ns,
        /// Outcomes now in the loss window.
        window_checks,
        /// Those among them that were not open.
        window_lost,
    }
}
