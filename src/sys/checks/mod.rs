//! How half-open checks are made here: what was asked for goes in, the best method and the best
//! clock that work come out, with everything that needs a privilege already open. Then the part of
//! a check by a kernel socket that both backends share: a socket to connect, and what its end says.

mod followed;
mod spares;
mod watch;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Socket, Type};

pub use self::followed::Followed;

use self::spares::Spares;
use self::watch::{Account, Watch};
use super::platform::syn::SynChecks;
use super::socket::{self, Manner, SocketOptions};
use super::{ClockChoice, Follower, failure, platform};
use crate::event::{Answer, Ending, Failure};
use crate::host::Capability;
use crate::sample::{CheckClock, Method};

/// Which method to check by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MethodChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// This one, or fail.
    Only(Method),
}

impl MethodChoice {
    /// By an ordinary connect.
    pub const DIAL: Self = Self::Only(Method::Dial);

    /// Every one of them, by the name that users write.
    pub const NAMED: [(&str, Self); 4] = [
        ("auto", Self::Auto),
        ("syn", Self::Only(Method::Syn)),
        ("quickack", Self::Only(Method::Quickack)),
        ("dial", Self::DIAL),
    ];
}

/// What checks are wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CheckSettings {
    /// By which method.
    pub method: MethodChoice,
    /// By which clocks.
    pub clock: ClockChoice,
    /// Source, interface, DSCP and TTL of what is sent.
    pub socket: SocketOptions,
    /// How many checks run at once at most, on one [`super::Io`].
    pub checks_max: usize,
}

/// Everything that the checks of one [`super::Io`] need, opened with the privileges at hand.
#[derive(Debug)]
pub struct Checks {
    method: Method,
    /// What works here and what does not, for the metric and the log.
    pub capabilities: Vec<Capability>,
    settings: CheckSettings,
    spares: Spares,
    /// Of kernel sockets; raw ones have their own.
    watch: Option<Watch>,
    /// What [`Method::Syn`] works with, until an I/O takes it.
    pub(super) syn: Option<Box<SynChecks>>,
    follower: Option<Follower>,
}

/// A check by a kernel socket, while its socket connects.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attempt {
    to: SocketAddr,
    ending: Ending,
    /// As for [`Manner`].
    blocking: bool,
    /// Its port, if the eBPF programs watch it.
    port: Option<u16>,
    /// How often it began before.
    repeats: u8,
}

/// What is next for a check by a kernel socket.
#[derive(Debug)]
pub(super) enum Next {
    /// Connect this socket to [`Attempt::to`], and then [`Checks::conclude`].
    Connect(Socket, Attempt),
    /// It is finished.
    Answer(Answer),
}

/// What the kernel tells of a handshake, as far as it does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Handshake {
    /// From the SYN to its answer; `None` if it is unclear which SYN was answered.
    pub(super) rtt_ns: Option<u64>,
    /// SYNs after the first.
    pub(super) syn_retransmits: u32,
    /// More has left than SYNs.
    pub(super) answered_back: Option<bool>,
}

impl Checks {
    /// Opens what the best wanted method needs.
    ///
    /// # Errors
    /// If the one method that was asked for does not work here; the message names the remedy.
    pub fn open(settings: &CheckSettings) -> io::Result<Self> {
        if settings.clock == ClockChoice::Kernel && !platform::TELLS_HANDSHAKES {
            let message = "--clock kernel: the kernel times no checks here; use --clock auto";
            return Err(io::Error::new(io::ErrorKind::Unsupported, message));
        }
        let mut capabilities = Vec::new();
        let (method, mut syn) = choose(settings, &mut capabilities)?;
        let mut watch = None;
        let follower = match &mut syn {
            _ if settings.clock == ClockChoice::Application => {
                Err("not asked for (--clock)".to_owned())
            }
            Some(syn) => syn.be_timed().map_err(|error| error.to_string()),
            None => Watch::open(settings.checks_max).map(|opened| watch.insert(opened).follower()),
        };
        capabilities.push(Capability::new(TIMER, follower.as_ref().err().cloned()));
        if follower.is_err()
            && settings.clock != ClockChoice::Application
            && let Some(Err(error)) = syn.as_ref().map(|syn| syn.stamp())
        {
            if settings.clock == ClockChoice::Kernel {
                return Err(io::Error::new(error.kind(), format!("--clock kernel: {error}")));
            }
            tracing::debug!(%error, "the kernel gives no stamps for raw sockets");
        }
        let follower = follower.ok().map(|follower| match &settings.socket.interface {
            // Without that interface there are no sockets either, and they say so.
            Some(name) => follower.through(name).unwrap_or(follower),
            None => follower,
        });
        let settings = settings.clone();
        let spares = Spares::new(&settings.socket);
        Ok(Self { method, capabilities, settings, spares, watch, syn, follower })
    }

    /// The method in use.
    #[must_use]
    pub const fn method(&self) -> Method {
        self.method
    }

    /// What is missing although the settings did not choose to do without.
    pub fn missing(&self) -> impl Iterator<Item = &Capability> {
        let CheckSettings { method, clock, .. } = &self.settings;
        let raw_wanted = matches!(method, MethodChoice::Auto | MethodChoice::Only(Method::Syn));
        let timer_wanted = *clock != ClockChoice::Application;
        self.capabilities.iter().filter(move |found| {
            let wanted = if found.name == RAW { raw_wanted } else { timer_wanted };
            wanted && !found.available
        })
    }

    /// Something that [`Follower::follow`]s; `None` where no eBPF program times the checks.
    #[must_use]
    pub fn follower(&self) -> Option<Follower> {
        self.follower.clone()
    }

    /// Begins a check by a kernel socket; `blocking` as for [`Manner`].
    pub(super) fn begin(&mut self, to: SocketAddr, ending: Ending, blocking: bool) -> Next {
        self.attempt(Attempt { to, ending, blocking, port: None, repeats: 0 })
    }

    /// What the end of connecting means. Ends the connection first of all: then no acknowledgement
    /// can leave any more. A check that has learnt nothing, because its port was taken or because
    /// it has met itself, begins anew. `told` asks the kernel how the handshake went.
    pub(super) fn conclude(
        &mut self,
        attempt: Attempt,
        socket: Socket,
        connected: io::Result<()>,
        told: impl FnOnce(&Socket) -> Handshake,
    ) -> Next {
        let watched = self.watch.as_mut().zip(attempt.port);
        let known = watched.is_some_and(|(watch, port)| watch.has_just_opened(port, attempt.to));
        let handshake = if known {
            Handshake { answered_back: Some(false), ..Handshake::default() }
        } else {
            told(&socket)
        };
        // A socket whose port happens to be the one that it asks for opens to itself (RFC 9293,
        // section 3.5, simultaneous open). It sends a SYN-ACK then.
        let met_itself = connected.is_ok()
            && handshake.answered_back != Some(false)
            && is_own_peer(&socket, attempt.to);
        if connected.is_ok() && !met_itself && attempt.ending == Ending::Reset {
            self.spares.retire(socket, attempt.to, attempt.port);
        } else {
            drop(socket);
        }
        let account = self.release(&attempt).unwrap_or_default();
        let result = match connected {
            Ok(()) if !met_itself => Ok(()),
            Err(error) if attempt.port.is_none() || !is_port_taken(&error) => Err(failure(&error)),
            _ if attempt.repeats < REPEATS_MAX => {
                let repeats = attempt.repeats + 1;
                return self.attempt(Attempt { port: None, repeats, ..attempt });
            }
            // Nobody else can listen on a port that is ours.
            Ok(()) => Err(Failure::Refused),
            Err(error) => Err(failure(&error)),
        };
        Next::Answer(self.answer(&attempt, result, handshake, account))
    }

    /// Forgets a check that is given up; its socket is the caller's.
    pub(super) fn abandon(&mut self, attempt: Attempt) {
        self.release(&attempt);
    }

    /// A socket for a check, at a watched port if there is one.
    fn attempt(&mut self, mut attempt: Attempt) -> Next {
        if let Some((socket, port)) = self.take_spare(&attempt) {
            return Next::Connect(socket, Attempt { port, ..attempt });
        }
        loop {
            attempt.port = self.claim(&attempt);
            let manner = Manner {
                delays_acknowledgement: self.method == Method::Quickack,
                ending: attempt.ending,
                port: attempt.port,
                blocking: attempt.blocking,
            };
            let error = match socket::checker(attempt.to, &self.settings.socket, &manner) {
                Ok(socket) => return Next::Connect(socket, attempt),
                Err(error) => error,
            };
            self.release(&attempt);
            let errno = error.errno();
            if attempt.port.is_none() || !is_port_taken(&error.into()) {
                return Next::Answer(unasked(Failure::Local(errno)));
            }
            attempt.repeats += 1;
        }
    }

    /// A socket of an earlier check, if that is the first try and its port is free.
    fn take_spare(&mut self, attempt: &Attempt) -> Option<(Socket, Option<u16>)> {
        if attempt.ending != Ending::Reset || attempt.repeats > 0 {
            return None;
        }
        let (socket, port) = self.spares.take(attempt.to)?;
        if self.method == Method::Quickack {
            // Disconnecting has forgotten it.
            platform::delay_acknowledgement(&socket).ok()?;
        }
        let free = match (&mut self.watch, port) {
            (None, None) => true,
            (Some(watch), Some(port)) => watch.claim_at(port, attempt.to),
            _ => false,
        };
        free.then_some((socket, port))
    }

    /// A watched port. The last try goes without: an orderly end as well, because it leaves its
    /// port in TIME-WAIT.
    fn claim(&mut self, attempt: &Attempt) -> Option<u16> {
        let watched = attempt.ending == Ending::Reset && attempt.repeats < REPEATS_MAX;
        self.watch.as_mut().filter(|_| watched)?.claim(attempt.to)
    }

    /// What the eBPF programs saw of a check, which has nothing left open by now.
    fn release(&mut self, attempt: &Attempt) -> Option<Account> {
        self.watch.as_mut()?.release(attempt.port?, attempt.to)
    }

    fn answer(
        &self,
        attempt: &Attempt,
        result: Result<(), Failure>,
        handshake: Handshake,
        account: Account,
    ) -> Answer {
        // A RST before SYN-ACK is "refused". One after it, which a stalled check may learn of
        // first, ends a connection, so there was one.
        let was_reset = result == Err(Failure::Reset);
        let result = if was_reset { Ok(()) } else { result };
        let half_open = self.method == Method::Quickack && attempt.ending == Ending::Reset;
        let answered_back = account.completed || handshake.answered_back.unwrap_or(was_reset);
        let watched = account.rtt_ns(result).map(|ns| (CheckClock::Ebpf, ns));
        let kernel = handshake
            .rtt_ns
            .filter(|_| result.is_ok() && self.settings.clock != ClockChoice::Application)
            .map(|ns| (CheckClock::TcpInfo, ns));
        Answer {
            result,
            rtt: watched.or(kernel),
            syn_retransmits: handshake.syn_retransmits.max(account.syn_retransmits),
            completed: answered_back || (result.is_ok() && !half_open),
        }
    }
}

impl Attempt {
    /// Whom it asks.
    pub(super) const fn to(&self) -> SocketAddr {
        self.to
    }
}

/// The answer to a check for which nothing was sent.
pub(super) const fn unasked(why: Failure) -> Answer {
    Answer { result: Err(why), rtt: None, syn_retransmits: 0, completed: false }
}

/// The method, with its raw sockets if it has some, and in `capabilities` what stands against a
/// better one.
fn choose(
    settings: &CheckSettings,
    capabilities: &mut Vec<Capability>,
) -> io::Result<(Method, Option<Box<SynChecks>>)> {
    let named = |method: Method, error: io::Error| {
        io::Error::new(error.kind(), format!("--method {}: {error}", method.name()))
    };
    let syn = match settings.method {
        MethodChoice::Auto | MethodChoice::Only(Method::Syn) => open_syn(settings),
        MethodChoice::Only(_) => Err(io::Error::other("not asked for (--method)")),
    };
    capabilities.push(Capability::new(RAW, syn.as_ref().err().map(ToString::to_string)));
    match settings.method {
        MethodChoice::Auto => Ok(match syn {
            Ok(syn) => (Method::Syn, Some(syn)),
            Err(_) if try_quickack().is_ok() => (Method::Quickack, None),
            Err(_) => (Method::Dial, None),
        }),
        MethodChoice::Only(Method::Syn) => {
            syn.map(|syn| (Method::Syn, Some(syn))).map_err(|error| named(Method::Syn, error))
        }
        MethodChoice::Only(Method::Quickack) => try_quickack()
            .map(|()| (Method::Quickack, None))
            .map_err(|error| named(Method::Quickack, error)),
        MethodChoice::Only(Method::Dial) => Ok((Method::Dial, None)),
    }
}

/// The raw sockets of [`Method::Syn`].
fn open_syn(settings: &CheckSettings) -> io::Result<Box<SynChecks>> {
    // Twice as many, so that a port rests between two checks.
    let ports = watch::reserve_ports(settings.checks_max.saturating_mul(2), RAW_PORTS_MAX)?;
    SynChecks::open(ports, &settings.socket).map(Box::new)
}

/// Whether a socket may be told not to acknowledge at once.
fn try_quickack() -> io::Result<()> {
    let everywhere = [(Ipv4Addr::LOCALHOST, 0).into(), (Ipv6Addr::LOCALHOST, 0).into()];
    let sockets = everywhere.map(|to| Socket::new(Domain::for_address(to), Type::STREAM, None));
    let [v4, v6] = sockets;
    platform::delay_acknowledgement(&v4.or(v6)?)
}

/// Whether a port of ours is in use after all, by bind(2) or connect(2).
fn is_port_taken(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AddrInUse | io::ErrorKind::AddrNotAvailable)
}

/// Whether a socket that has connected to an address is at both ends.
fn is_own_peer(socket: &Socket, to: SocketAddr) -> bool {
    let Some(local) = socket.local_addr().ok().and_then(|local| local.as_socket()) else {
        return false;
    };
    // Whom it asks may be written in more than one way; the port may not.
    local.port() == to.port()
        && socket.peer_addr().is_ok_and(|peer| peer.as_socket() == Some(local))
}

/// The capabilities.
const RAW: &str = "raw_syn";
const TIMER: &str = "ebpf_syn_timer";
/// Local ports of raw checks at most, each a descriptor: as many checks can ask one address and
/// port at once.
const RAW_PORTS_MAX: u16 = 4_096;
/// How often a check begins anew without having learnt anything.
const REPEATS_MAX: u8 = 8;

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    fn settings(method: MethodChoice, clock: ClockChoice) -> CheckSettings {
        let socket = SocketOptions::default();
        CheckSettings { method, clock, socket, checks_max: 4 }
    }

    #[test]
    fn what_does_not_work_here_has_a_reason() {
        let methods = Method::ALL.map(MethodChoice::Only).into_iter().chain([MethodChoice::Auto]);
        for method in methods {
            for clock in [ClockChoice::Auto, ClockChoice::Application] {
                let checks = match (Checks::open(&settings(method, clock)), method) {
                    (Ok(checks), _) => checks,
                    (Err(error), MethodChoice::Only(method)) => {
                        let begin = format!("--method {}: ", method.name());
                        assert!(error.to_string().starts_with(&begin), "{error}");
                        continue;
                    }
                    (Err(error), MethodChoice::Auto) => panic!("something always works: {error}"),
                };
                let names: Vec<_> = checks.capabilities.iter().map(|found| found.name).collect();
                assert_eq!(names, ["raw_syn", "ebpf_syn_timer"]);
                for found in &checks.capabilities {
                    assert_eq!(found.available, found.reason.is_empty(), "{found:?}");
                }
                if let MethodChoice::Only(method) = method {
                    assert_eq!(checks.method(), method);
                }
            }
        }
    }

    #[test]
    fn a_socket_that_meets_itself_is_no_answer() {
        let method = MethodChoice::Only(Method::Dial);
        let mut checks = Checks::open(&settings(method, ClockChoice::Application)).unwrap();
        for ip in [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()] {
            // A free port, and a socket that asks it from there.
            let met = Socket::new(Domain::for_address((ip, 0).into()), Type::STREAM, None).unwrap();
            met.bind(&SocketAddr::new(ip, 0).into()).unwrap();
            let to = met.local_addr().unwrap().as_socket().unwrap();
            met.connect(&to.into()).unwrap();
            assert!(is_own_peer(&met, to));
            let Next::Connect(_, attempt) = checks.begin(to, Ending::Reset, true) else {
                panic!("a socket is to be had")
            };
            let (connected, handshake) = platform::connected(&met).unwrap();
            assert!(connected.is_ok());
            let next = checks.conclude(attempt, met, connected, |_| handshake);
            let Next::Connect(again, attempt) = next else { panic!("{next:?} of itself") };
            assert_eq!((attempt.to(), attempt.repeats), (to, 1));
            let error = again.connect(&to.into()).unwrap_err();
            let next = checks.conclude(attempt, again, Err(error), |_| Handshake::default());
            let Next::Answer(answer) = next else { panic!("{next:?} of a closed port") };
            assert_eq!(answer, unasked(Failure::Refused));
        }
    }

    #[test]
    fn a_check_that_cannot_ask_says_why() {
        let method = MethodChoice::Only(Method::Dial);
        // Nobody's address (RFC 5737).
        let source = Some("192.0.2.1".parse().unwrap());
        let socket = SocketOptions { source, ..SocketOptions::default() };
        let mut checks =
            Checks::open(&CheckSettings { socket, ..settings(method, ClockChoice::Auto) }).unwrap();
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, 1));
        let next = checks.begin(to, Ending::Reset, true);
        assert!(
            matches!(&next, Next::Answer(Answer { result: Err(Failure::Local(errno)), .. })
                if *errno != 0),
            "{next:?}"
        );
    }
}
