//! Whom a stranger may have probed by `/probe`: rules in, yes or no out. Pure. A rule is about an
//! address as it will be connected to, never only about a name: whoever owns a name decides what it
//! resolves to, and may decide otherwise a moment later.

use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;
use std::time::Duration;

use super::BadValue;

/// Probes on demand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OnDemandSection {
    /// Everything that no rule allows is refused; at least one.
    pub allow: Vec<Allowed>,
    /// Modules that may be asked for; every one if there is none.
    pub modules: Vec<String>,
    /// Probes under way at once; beyond it they are refused.
    pub concurrency: usize,
    /// How much earlier than Prometheus' own timeout a probe ends.
    pub timeout_offset: Duration,
}

/// One rule: holds if all that it says holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Allowed {
    /// Where the address must be; at least one.
    pub networks: Vec<Network>,
    /// What the host must be called; anything if there is none.
    pub hosts: Vec<HostPattern>,
    /// Which ports; at least one range.
    pub ports: Vec<RangeInclusive<u16>>,
}

/// Addresses that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

/// A name, or all names below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPattern {
    /// In lower case, without a dot at its end.
    name: String,
    /// Those below it, not itself.
    below: bool,
}

impl OnDemandSection {
    /// Whether this module may be asked for.
    #[must_use]
    pub fn has_module(&self, name: &str) -> bool {
        self.modules.is_empty() || self.modules.iter().any(|module| module == name)
    }

    /// Whether some address of this host may be allowed: only then is it looked up.
    #[must_use]
    pub fn may_allow(&self, host: &str, port: u16) -> bool {
        self.allow.iter().any(|rule| rule.fits(host, port))
    }

    /// Whether this address of this host may be probed.
    #[must_use]
    pub fn allows(&self, host: &str, port: u16, address: IpAddr) -> bool {
        let rules = self.allow.iter().filter(|rule| rule.fits(host, port));
        rules.flat_map(|rule| &rule.networks).any(|network| network.contains(address))
    }
}

impl Allowed {
    fn fits(&self, host: &str, port: u16) -> bool {
        let named = self.hosts.is_empty() || self.hosts.iter().any(|pattern| pattern.fits(host));
        named && self.ports.iter().any(|range| range.contains(&port))
    }
}

impl Network {
    /// Whether the address is in it. An IPv4 address inside an IPv6 one is the IPv4 address.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (own, own_bits) = whole(self.address);
        let (other, other_bits) = whole(address.to_canonical());
        let differ = u32::from(own_bits - self.bits);
        own_bits == other_bits && (own ^ other).checked_shr(differ).unwrap_or(0) == 0
    }
}

impl FromStr for Network {
    type Err = BadValue;

    /// `10.0.0.0/8`, `2001:db8::/32`, or one address.
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = |why: &str| BadValue::new(why, "10.0.0.0/8");
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| bad("is no network"))?;
        let (word, most) = whole(address);
        let bits = match bits {
            None => most,
            Some(bits) if bits.bytes().all(|byte| byte.is_ascii_digit()) => {
                let bits = bits.parse().ok().filter(|bits| *bits <= most);
                bits.ok_or_else(|| bad(&format!("has more than {most} bits")))?
            }
            Some(_) => return Err(bad("is no network")),
        };
        let rest = most - bits;
        if word & !u128::MAX.checked_shl(u32::from(rest)).unwrap_or(0) != 0 {
            return Err(bad("has bits behind its prefix"));
        }
        Ok(Self { address, bits })
    }
}

impl HostPattern {
    fn fits(&self, host: &str) -> bool {
        let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        if self.below {
            let begin = host.strip_suffix(&self.name).and_then(|begin| begin.strip_suffix('.'));
            begin.is_some_and(|begin| !begin.is_empty())
        } else {
            host == self.name
        }
    }
}

impl FromStr for HostPattern {
    type Err = BadValue;

    /// `db.example.org` or `*.example.org`.
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let (name, below) = match text.strip_prefix("*.") {
            Some(name) => (name, true),
            None => (text, false),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        if name.is_empty() || name.starts_with('.') || !name.bytes().all(plain) {
            let why = "is no name, and no name behind *.";
            return Err(BadValue::new(why, "'*.example.org'"));
        }
        Ok(Self { name, below })
    }
}

/// `443` or `4000-4010`.
///
/// # Errors
/// If it is neither, or backwards.
pub fn parse_ports(text: &str) -> Result<RangeInclusive<u16>, BadValue> {
    let bad = || BadValue::new("is no port and no range of ports", "4000-4010");
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0).ok_or_else(bad);
    let (first, last) = (port(first)?, port(last)?);
    if first <= last { Ok(first..=last) } else { Err(bad()) }
}

/// An address as a number, and how many bits it has.
fn whole(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(ip) => (u128::from(ip.to_bits()), 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use super::*;

    #[test]
    fn a_network_holds_what_begins_with_it() {
        let check = |network: &str, address: &str, expected: bool| {
            let network: Network = network.parse().unwrap();
            assert_eq!(network.contains(address.parse().unwrap()), expected, "{address}");
        };
        for (address, expected) in [
            ("10.1.2.3", true),
            ("10.255.255.255", true),
            ("11.0.0.0", false),
            ("9.255.255.255", false),
            ("::ffff:10.0.0.1", true),
            ("::ffff:11.0.0.1", false),
            ("::a00:1", false),
            ("::", false),
        ] {
            check("10.0.0.0/8", address, expected);
        }
        check("0.0.0.0/0", "255.1.1.1", true);
        check("0.0.0.0/0", "::1", false);
        check("::/0", "2001:db8::1", true);
        check("::/0", "1.2.3.4", false);
        check("::/0", "::ffff:1.2.3.4", false);
        check("127.0.0.1", "127.0.0.1", true);
        check("127.0.0.1", "127.0.0.2", false);
        check("127.0.0.1/32", "0.0.0.0", false);
        check("2001:db8::/32", "2001:db8:ffff::", true);
        check("2001:db8::/32", "2001:db9::", false);
        check("fe80::1/128", "fe80::1", true);
    }

    #[test]
    fn what_is_no_network_is_refused() {
        for text in
            ["", "10", "10.0.0.0/", "10.0.0.0/33", "10.0.0.0/+8", "::/129", "10.0.0.1/8", "a/8"]
        {
            assert!(text.parse::<Network>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_pattern_is_a_name_or_what_is_below_it() {
        let check = |pattern: &str, host: &str, expected: bool| {
            assert_eq!(pattern.parse::<HostPattern>().unwrap().fits(host), expected, "{host}");
        };
        check("db.example.org", "DB.Example.org.", true);
        check("db.example.org", "x.db.example.org", false);
        check("*.example.org", "a.b.example.org", true);
        check("*.example.org", "example.org", false);
        check("*.example.org", ".example.org", false);
        check("*.example.org", "notexample.org", false);
        check("*.example.org", "example.org.evil.net", false);
        for text in ["", "*", "*.", "a*.b", "**.b", ".a", "a b"] {
            assert!(text.parse::<HostPattern>().is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_one_or_a_range() {
        assert_eq!(parse_ports("443"), Ok(443..=443));
        assert_eq!(parse_ports("1-65535"), Ok(1..=65_535));
        for text in ["", "0", "0-9", "9-1", "65536", "1-2-3", "-1", "a"] {
            assert!(parse_ports(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_rule_holds_as_a_whole() {
        let rule = |networks: &str, hosts: &str, ports: &str| Allowed {
            networks: vec![networks.parse().unwrap()],
            hosts: hosts.split_whitespace().map(|host| host.parse().unwrap()).collect(),
            ports: vec![parse_ports(ports).unwrap()],
        };
        let section = OnDemandSection {
            allow: vec![rule("10.0.0.0/8", "", "80"), rule("::1", "*.example.org", "1-99")],
            modules: Vec::new(),
            concurrency: 1,
            timeout_offset: Duration::ZERO,
        };
        let check = |host: &str, port, address: &str, expected: (bool, bool)| {
            let address = address.parse().unwrap();
            let found = (section.may_allow(host, port), section.allows(host, port, address));
            assert_eq!(found, expected, "{host}:{port} {address}");
        };
        check("a", 80, "10.0.0.1", (true, true));
        check("a", 80, "127.0.0.1", (true, false));
        check("a", 81, "10.0.0.1", (false, false));
        check("a.example.org", 81, "::1", (true, true));
        check("a.example.org", 81, "10.0.0.1", (true, false));
        check("example.net", 81, "::1", (false, false));
    }
}
