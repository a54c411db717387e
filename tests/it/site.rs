//! Where a test happens: which I/O backend, which address family, loopback or a veth pair between
//! two namespaces, or a bridge. A place that this machine cannot offer skips the test and says why.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};

use crate::kernel;
use crate::lab::{self, Lab, Namespace, PROBER_IPS, RESPONDER_IPS};
use crate::run::Run;

/// The product's I/O backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Io {
    Uring,
    Poll,
}

/// What lies between prober and responder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Path {
    Loopback,
    Veth,
    /// Two veth pairs and a bridge, which may delay, lose and reorder.
    Bridge,
}

/// The address family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// A place to run things: here, or inside a namespace.
#[derive(Clone, Debug)]
pub(crate) enum Place {
    Here,
    Inside(Namespace),
}

/// One test's surroundings.
#[derive(Debug)]
pub(crate) struct Site {
    /// The backend under test.
    pub(crate) io: Io,
    /// The address family.
    pub(crate) family: Family,
    /// The namespaces, unless everything happens on loopback.
    lab: Option<Lab>,
}

impl Place {
    /// Does `work` there.
    pub(crate) fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        match self {
            Self::Here => work(),
            Self::Inside(namespace) => namespace.run(work),
        }
    }
}

impl Site {
    /// The site, or why this machine has none.
    pub(crate) fn new(io: Io, path: Path, family: Family) -> Result<Self, String> {
        if io == Io::Uring
            && let Some(error) = kernel::io_uring_refusal()
        {
            return Err(format!("no io_uring here: {error}"));
        }
        if family == Family::V6 && TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_err() {
            return Err("no IPv6 here".to_owned());
        }
        let lab = match path {
            Path::Loopback => None,
            Path::Veth => Some(Lab::new().map_err(|error| format!("no namespaces: {error}"))?),
            Path::Bridge => {
                let lab = Lab::with_a_bridge();
                Some(lab.map_err(|error| format!("no bridge between namespaces: {error}"))?)
            }
        };
        Ok(Self { io, family, lab })
    }

    /// Starts a responder with these further words and port 0.
    pub(crate) fn serve(&self, words: &str) -> Run {
        let listen = SocketAddr::new(self.responder_ip(), 0);
        self.start(&self.responder_place(), "serve", &format!("--listen={listen} {words}"))
    }

    /// Starts a prober with these further words.
    pub(crate) fn probe(&self, words: &str) -> Run {
        self.start(&self.prober_place(), "probe", words)
    }

    /// Where the responder runs.
    pub(crate) fn responder_place(&self) -> Place {
        self.lab.as_ref().map_or(Place::Here, |lab| Place::Inside(lab.responder.clone()))
    }

    /// Where the prober runs.
    pub(crate) fn prober_place(&self) -> Place {
        self.lab.as_ref().map_or(Place::Here, |lab| Place::Inside(lab.prober.clone()))
    }

    /// The namespaces of a site that is not on loopback.
    pub(crate) fn lab(&self) -> &Lab {
        self.lab.as_ref().expect("the test is not mounted on loopback")
    }

    /// The address that responders listen on.
    pub(crate) fn responder_ip(&self) -> IpAddr {
        self.ip_in(RESPONDER_IPS)
    }

    /// The address that probers come from.
    pub(crate) fn prober_ip(&self) -> IpAddr {
        self.ip_in(PROBER_IPS)
    }

    fn ip_in(&self, ips: [&str; 3]) -> IpAddr {
        match (&self.lab, self.family) {
            (None, Family::V4) => Ipv4Addr::LOCALHOST.into(),
            (None, Family::V6) => Ipv6Addr::LOCALHOST.into(),
            (Some(_), family) => lab::ip_of(ips, family == Family::V6),
        }
    }

    fn start(&self, place: &Place, mode: &str, words: &str) -> Run {
        let io = self.io.name();
        Run::start(place, &format!("{mode} --io={io} --web.listen-address=127.0.0.1:0 {words}"))
    }
}

impl Io {
    /// The flag's value.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Uring => "uring",
            Self::Poll => "poll",
        }
    }
}

/// Says that a test was skipped, where people and `xtask` look.
#[expect(clippy::print_stderr, reason = "libtest has no way to skip at run time")]
pub(crate) fn report_skip(test: &str, reason: &str) {
    // One write a line: tests run side by side.
    let line = format!("SKIP {test}: {reason}\n");
    eprint!("{line}");
    if let Some(path) = std::env::var_os("RTTSCOPE_SKIPS") {
        let mut file = OpenOptions::new().create(true).append(true).open(path).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }
}
