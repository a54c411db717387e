//! Socket options that cannot work are bad news at the start, not a log full of failed connects:
//! one socket of each address family that the targets need is made, and thrown away.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::{Result, bail};

use crate::config::HostPort;
use crate::sys::socket::{self, ProberError, SocketOptions};

/// Fails if no socket with these options can reach some of the targets. A name may have addresses
/// of either family, so that one of both must work.
pub(super) fn check<'a>(
    targets: impl IntoIterator<Item = &'a HostPort>,
    options: &SocketOptions,
) -> Result<()> {
    let (v4, v6) = (IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST));
    let literals: Vec<Option<IpAddr>> =
        targets.into_iter().map(|target| target.host.parse().ok()).collect();
    for family in [v4, v6] {
        let needed = |ip: &Option<IpAddr>| ip.is_some_and(|ip| ip.is_ipv4() == family.is_ipv4());
        if literals.iter().any(needed)
            && let Err(error) = one(family, options)
        {
            bail!("{error}; {}", remedy(&error));
        }
    }
    if literals.iter().any(Option::is_none)
        && let Err(error) = one(v4, options)
        && one(v6, options).is_err()
    {
        bail!("{error}; {}", remedy(&error));
    }
    Ok(())
}

/// One socket. That it cannot be made for another reason than its options may pass.
fn one(family: IpAddr, options: &SocketOptions) -> Result<(), ProberError> {
    match socket::prober(SocketAddr::new(family, PORT), options) {
        Err(error) if error.option.is_some() => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

fn remedy(error: &ProberError) -> &'static str {
    match error.option.as_deref().and_then(|option| option.split(' ').next()) {
        Some("--interface") => "write the name of an interface of this machine (ip link shows it)",
        Some("--source") => {
            "write an address of this machine, of the targets' family (ip address shows it)"
        }
        _ => "leave it out",
    }
}

/// Nothing is sent to it.
const PORT: u16 = 1;
