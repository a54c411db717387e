//! Network namespaces joined by a veth pair, or by a bridge that can be made a bad way. A
//! namespace here has no name: it lives as long as a descriptor or a process refers to it, so that
//! even a killed test run leaves nothing behind. Commands and closures go in and happen inside;
//! needs root and `ip` (iproute2).

use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::panic::resume_unwind;
use std::process::Command;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::kernel;

/// One network namespace.
#[derive(Clone, Debug)]
pub(crate) struct Namespace {
    fd: Arc<OwnedFd>,
}

/// Two namespaces and what lies between them: a veth pair, or two and a bridge.
#[derive(Clone, Debug)]
pub(crate) struct Lab {
    /// Where the prober runs; its end of the pair is [`PROBER_INTERFACE`].
    pub(crate) prober: Namespace,
    /// Where the responder runs; its end of the pair is [`RESPONDER_INTERFACE`].
    pub(crate) responder: Namespace,
    /// Where the bridge is, if there is one: what [`TOWARD_PROBER`] and [`TOWARD_RESPONDER`] do to
    /// packets there happens between the stamps of both ends.
    pub(crate) middle: Option<Namespace>,
}

/// The prober's end of the veth pair.
pub(crate) const PROBER_INTERFACE: &str = "prober0";
/// The responder's end of the veth pair.
pub(crate) const RESPONDER_INTERFACE: &str = "responder0";
/// The bridge's interface that sends to the prober.
pub(crate) const TOWARD_PROBER: &str = "to_prober";
/// The bridge's interface that sends to the responder.
pub(crate) const TOWARD_RESPONDER: &str = "to_responder";
/// Addresses at the prober's end.
pub(crate) const PROBER_IPS: [&str; 3] = ["10.87.0.1", "fd87::1", "fe80::87:1"];
/// Addresses at the responder's end.
pub(crate) const RESPONDER_IPS: [&str; 3] = ["10.87.0.2", "fd87::2", "fe80::87:2"];

impl Namespace {
    /// A new namespace with only its loopback interface, which is up.
    pub(crate) fn new() -> io::Result<Self> {
        let fd = thread::scope(|scope| {
            scope
                .spawn(|| -> io::Result<OwnedFd> {
                    kernel::unshare_network()?;
                    // The descriptor keeps the namespace when this thread is gone.
                    let fd = OwnedFd::from(File::open("/proc/thread-self/ns/net")?);
                    run("ip", &["link", "set", "lo", "up"])?;
                    Ok(fd)
                })
                .join()
                .unwrap()
        })?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Does `work` on a thread inside the namespace; what it opens or spawns stays there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        let done = thread::scope(|scope| {
            scope
                .spawn(|| {
                    self.enter().unwrap();
                    work()
                })
                .join()
        });
        done.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Moves the calling thread into the namespace.
    pub(crate) fn enter(&self) -> io::Result<()> {
        move_into_link_name_space(self.fd.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(())
    }

    /// Runs `ip` with these words inside the namespace.
    pub(crate) fn ip(&self, words: &str) -> io::Result<()> {
        self.run(|| run("ip", &words.split(' ').collect::<Vec<_>>())).map(drop)
    }

    /// Runs `tc` with these words inside the namespace; what it prints.
    pub(crate) fn tc(&self, words: &str) -> io::Result<String> {
        self.run(|| run("tc", &words.split(' ').collect::<Vec<_>>()))
    }

    /// Writes one of the namespace's own settings, such as `net/ipv4/tcp_wmem`.
    pub(crate) fn set_sysctl(&self, name: &str, value: &str) -> io::Result<()> {
        self.run(|| std::fs::write(format!("/proc/sys/{name}"), value))
    }

    /// A path that names the namespace to `ip` while this process lives.
    fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.fd.as_raw_fd())
    }
}

impl Lab {
    /// Two namespaces joined by a veth pair that carries IPv4 and IPv6.
    pub(crate) fn new() -> io::Result<Self> {
        let lab = Self { prober: Namespace::new()?, responder: Namespace::new()?, middle: None };
        lab.join()?;
        Ok(lab)
    }

    /// The same with a bridge on the way, in a namespace of its own.
    pub(crate) fn with_a_bridge() -> io::Result<Self> {
        let middle = Namespace::new()?;
        // Nobody here asks for multicast, but IPv6 finds its neighbours by it.
        middle.ip("link add bridge0 type bridge mcast_snooping 0")?;
        middle.ip("link set bridge0 up")?;
        let [prober, responder] = [Namespace::new()?, Namespace::new()?];
        for (end, interface, toward, index) in [
            (&prober, PROBER_INTERFACE, TOWARD_PROBER, 11),
            (&responder, RESPONDER_INTERFACE, TOWARD_RESPONDER, 12),
        ] {
            end.ip(&format!(
                "link add {interface} index {index} type veth peer name {toward} index {} netns {}",
                10 + index,
                middle.path()
            ))?;
            middle.ip(&format!("link set {toward} master bridge0 up"))?;
        }
        let lab = Self { prober, responder, middle: Some(middle) };
        lab.give_addresses()?;
        Ok(lab)
    }

    /// Makes the veth pair; again, if somebody has removed it.
    pub(crate) fn join(&self) -> io::Result<()> {
        // Ends with the same index in their namespaces look like one device to the kernel, which
        // then tells of a carrier up to a second late (net/core/link_watch.c).
        self.prober.ip(&format!(
            "link add {PROBER_INTERFACE} index 11 type veth \
             peer name {RESPONDER_INTERFACE} index 12 netns {}",
            self.responder.path()
        ))?;
        self.give_addresses()
    }

    fn give_addresses(&self) -> io::Result<()> {
        let ends = [
            (&self.prober, PROBER_INTERFACE, PROBER_IPS),
            (&self.responder, RESPONDER_INTERFACE, RESPONDER_IPS),
        ];
        for (namespace, interface, [v4, v6, link_local]) in ends {
            namespace.ip(&format!("address add {v4}/24 dev {interface}"))?;
            // Without `nodad` an address may not be used for about a second.
            namespace.ip(&format!("address add {v6}/64 dev {interface} nodad"))?;
            namespace.ip(&format!("address add {link_local}/64 dev {interface} nodad"))?;
            namespace.ip(&format!("link set {interface} up"))?;
        }
        self.wait_until_it_carries()
    }

    /// A link that was just set up drops packets until the kernel has told itself so, up to a
    /// second later; the first SYN would be sent again after another one.
    fn wait_until_it_carries(&self) -> io::Result<()> {
        let started = Instant::now();
        let nobody_listens = |to: SocketAddr| {
            let answer = TcpStream::connect_timeout(&to, Duration::from_millis(20));
            answer.is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
        };
        let carries = |from: &Namespace, ips: [&str; 3]| {
            let to = |v6| SocketAddr::new(ip_of(ips, v6), 9);
            from.run(|| nobody_listens(to(false)) && nobody_listens(to(true)))
        };
        while !(carries(&self.prober, RESPONDER_IPS) && carries(&self.responder, PROBER_IPS)) {
            if started.elapsed() > Duration::from_secs(10) {
                return Err(io::Error::other("the veth pair carries nothing"));
            }
        }
        Ok(())
    }
}

/// The number of an interface in the calling thread's namespace.
pub(crate) fn interface_index(name: &str) -> io::Result<u32> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::DGRAM, None)?;
    Ok(rustix::net::netdevice::name_to_index(&socket, name)?)
}

/// The address of one family in a list such as [`PROBER_IPS`].
pub(crate) fn ip_of(ips: [&str; 3], v6: bool) -> IpAddr {
    ips[usize::from(v6)].parse().unwrap()
}

fn run(program: &str, words: &[&str]) -> io::Result<String> {
    let output = Command::new(program).args(words).output()?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let complaint = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(io::Error::other(format!("{program} {}: {complaint}", words.join(" "))))
}
