//! Addresses as people write them: `host:port` of targets, `:port` and `ip:port` to listen on,
//! `name=host:port` of a named target. Text in, values out; no name is resolved here.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::str::FromStr;

use super::limits::NAME_BYTES_MAX;
use super::{BadValue, HostPort, Target};

impl FromStr for HostPort {
    type Err = BadValue;

    /// `host:port`, `1.2.3.4:80`, `[::1]:80`, `[fe80::1%eth0]:80`; `:4000` means this machine.
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let (host, port) = split_port(text)?;
        let host = match host {
            Host::None => "localhost".to_owned(),
            Host::Bracketed(address) => {
                check_bracketed(address, port)?;
                address.to_owned()
            }
            Host::Plain(host) => {
                check_plain(host, port)?;
                host.to_owned()
            }
        };
        match parse_port(port).map_err(|why| at_port(&host, why))? {
            0 => Err(at_port(&host, "has port 0, on which nobody can listen".to_owned())),
            port => Ok(Self { host, port }),
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for Target {
    type Err = BadValue;

    /// `name=host:port`, or `host:port`, whose name is then the address.
    fn from_str(text: &str) -> Result<Self, BadValue> {
        let Some((name, address)) = text.split_once('=') else {
            let address: HostPort = text.parse()?;
            return Ok(Self { name: address.to_string(), address });
        };
        check_name(name).map_err(|why| BadValue::new(why, "db=10.0.0.1:4000"))?;
        let address = address
            .parse()
            .map_err(|bad: BadValue| BadValue::new(bad.why, format!("{name}={}", bad.instead)))?;
        Ok(Self { name: name.to_owned(), address })
    }
}

/// Whether `name` can be a label's value and one word of a line; if not, why.
pub fn check_name(name: &str) -> Result<(), String> {
    if name.trim().is_empty() {
        return Err("has an empty name".to_owned());
    }
    if name.len() > NAME_BYTES_MAX {
        return Err(format!("has a name longer than {NAME_BYTES_MAX} bytes"));
    }
    if name.chars().any(char::is_control) {
        return Err("has a name with control characters".to_owned());
    }
    Ok(())
}

/// Where to listen. `:4000` is every address, as `[::]:4000` (which takes IPv4 too); port 0 takes
/// a free one. A name could mean several addresses, or other ones tomorrow: it is refused.
pub fn parse_listen(text: &str) -> Result<SocketAddr, BadValue> {
    if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        let instead = if parse_port(text).is_ok() { format!(":{text}") } else { ":4000".into() };
        return Err(BadValue::new("is a port without its colon", instead));
    }
    let (host, port) = split_port(text).map_err(|bad| {
        let instead =
            if text.contains(':') && !text.contains('/') { bad.instead } else { ":4000".into() };
        BadValue::new(bad.why, instead)
    })?;
    let parsed_port = parse_port(port);
    let port_text = parsed_port.as_ref().map_or_else(|_| "4000".to_owned(), u16::to_string);
    let ip = match host {
        Host::None => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        Host::Bracketed(address) => {
            if let Ok(address) = text.parse::<SocketAddrV6>() {
                return Ok(address.into());
            }
            check_bracketed(address, port)?;
            if address.contains('%') {
                let why = "names its zone; a listen address needs the interface's number";
                return Err(BadValue::new(why, format!("[fe80::1%2]:{port_text}")));
            }
            IpAddr::V6(address.parse().map_err(|_| no_ipv6(port))?)
        }
        Host::Plain(host) => match host.parse::<Ipv4Addr>() {
            Ok(address) => IpAddr::V4(address),
            Err(_) => return Err(no_listen_ip(host, &port_text)),
        },
    };
    let port = parsed_port.map_err(|why| BadValue::new(why, ":4000"))?;
    Ok(SocketAddr::new(ip, port))
}

/// The part before the port.
#[derive(Clone, Copy)]
enum Host<'a> {
    None,
    Bracketed(&'a str),
    Plain(&'a str),
}

/// Splits at the colon before the port, without judging either side.
fn split_port(text: &str) -> Result<(Host<'_>, &str), BadValue> {
    let refuse = |why: &str, instead: String| Err(BadValue::new(why, instead));
    if text.is_empty() {
        return refuse("is empty", "10.0.0.1:4000".to_owned());
    }
    if text.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return refuse("contains a space", "10.0.0.1:4000".to_owned());
    }
    if let Some((_, rest)) = text.split_once("://") {
        let host = rest.split('/').next().unwrap_or(rest);
        let instead = if host.parse::<HostPort>().is_ok() { host } else { "10.0.0.1:4000" };
        return refuse("is a URL, not host:port", instead.to_owned());
    }
    if let Some(rest) = text.strip_prefix('[') {
        let Some((address, tail)) = rest.split_once(']') else {
            return refuse("has no closing bracket", "[::1]:4000".to_owned());
        };
        return match tail.strip_prefix(':') {
            Some(port) => Ok((Host::Bracketed(address), port)),
            None if tail.is_empty() => {
                let good = address.parse::<Ipv6Addr>().is_ok();
                let address = if good { address } else { "::1" };
                refuse("has no port", format!("[{address}]:4000"))
            }
            None => refuse("has text between the bracket and the port", "[::1]:4000".to_owned()),
        };
    }
    match text.rsplit_once(':') {
        None => {
            let instead = format!("{text}:4000");
            let good = check_plain(text, "4000").is_ok();
            refuse("has no port", if good { instead } else { "10.0.0.1:4000".to_owned() })
        }
        Some((host, _)) if host.contains(':') => {
            refuse("is an IPv6 address without brackets", bracketed(text))
        }
        Some(("", port)) => Ok((Host::None, port)),
        Some((host, port)) => Ok((Host::Plain(host), port)),
    }
}

/// What was meant by an IPv6 address without brackets: with a port if that can be, else without.
fn bracketed(text: &str) -> String {
    if let Some((address, port)) = text.rsplit_once(':')
        && address.parse::<Ipv6Addr>().is_ok()
        && parse_port(port).is_ok_and(|port| port > 0)
    {
        return format!("[{address}]:{port}");
    }
    let with_brackets = format!("[{text}]:4000");
    let good = with_brackets.parse::<HostPort>().is_ok();
    if good { with_brackets } else { "[::1]:4000".to_owned() }
}

fn check_bracketed(address: &str, port: &str) -> Result<(), BadValue> {
    let (ip, zone) = address.split_once('%').map_or((address, None), |(ip, zone)| (ip, Some(zone)));
    if ip.parse::<Ipv4Addr>().is_ok() && zone.is_none() {
        return Err(BadValue::new("has brackets around an IPv4 address", port_of(ip, port)));
    }
    if ip.parse::<Ipv6Addr>().is_err() {
        return Err(no_ipv6(port));
    }
    match zone {
        Some(zone) if zone.is_empty() || zone.contains(['%', '[', '/']) => {
            Err(BadValue::new("has no interface after the %", port_of("[fe80::1%eth0]", port)))
        }
        _ => Ok(()),
    }
}

fn no_ipv6(port: &str) -> BadValue {
    BadValue::new("has no IPv6 address between the brackets", port_of("[::1]", port))
}

/// A host name (RFC 1123, and underscores, which real zones have) or an IPv4 address.
fn check_plain(host: &str, port: &str) -> Result<(), BadValue> {
    let refuse = |why: &str, instead: &str| Err(BadValue::new(why, port_of(instead, port)));
    if !host.is_ascii() {
        return refuse("has a name that is not ASCII", "xn--bcher-kva.example");
    }
    let name = host.strip_suffix('.').unwrap_or(host);
    let last = name.rsplit('.').next().unwrap_or(name);
    // A name whose last label is a number is an IPv4 address to every resolver.
    let numeric = !last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit());
    if numeric && host.parse::<Ipv4Addr>().is_err() {
        return refuse("is no IPv4 address", "10.0.0.1");
    }
    let good_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if name.len() > 253 || !name.split('.').all(good_label) {
        return refuse("has no valid host name", "db.example.com");
    }
    Ok(())
}

fn parse_port(text: &str) -> Result<u16, String> {
    if text.is_empty() {
        return Err("has no port after the colon".to_owned());
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("has a port that is no number".to_owned());
    }
    text.parse().map_err(|_| format!("has port {}, but 65535 is the last", shortened(text)))
}

fn shortened(text: &str) -> &str {
    text.get(..12).unwrap_or(text)
}

fn at_port(host: &str, why: String) -> BadValue {
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    BadValue::new(why, format!("{host}:4000"))
}

/// `host` with the user's port if that is good, else with ours.
fn port_of(host: &str, port: &str) -> String {
    match parse_port(port) {
        Ok(port) if port > 0 => format!("{host}:{port}"),
        _ => format!("{host}:4000"),
    }
}

fn no_listen_ip(host: &str, port: &str) -> BadValue {
    let instead = match host {
        "*" => format!(":{port}"),
        "localhost" => format!("127.0.0.1:{port}"),
        _ => format!("10.0.0.1:{port}, or :{port} for every address"),
    };
    BadValue::new("is no IP address, and names are not resolved for listening", instead)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a failing unwrap is a failing test")]

    use proptest::prelude::*;

    use super::*;

    fn check_target(text: &str, host: &str, port: u16, shown: &str) {
        let parsed: HostPort = text.parse().unwrap();
        assert_eq!(parsed, HostPort { host: host.to_owned(), port }, "{text}");
        assert_eq!(parsed.to_string(), shown, "{text}");
        assert_eq!(shown.parse(), Ok(parsed), "{text}: its text must read back");
    }

    fn check_refused<T: FromStr<Err = BadValue> + fmt::Debug>(text: &str, message: &str) {
        assert_eq!(text.parse::<T>().unwrap_err().to_string(), message, "{text:?}");
    }

    #[test]
    fn addresses_of_targets() {
        check_target("db.example.com:80", "db.example.com", 80, "db.example.com:80");
        check_target("db.example.com.:80", "db.example.com.", 80, "db.example.com.:80");
        check_target("my_host-1:65535", "my_host-1", 65_535, "my_host-1:65535");
        check_target("1.2.3.4:80", "1.2.3.4", 80, "1.2.3.4:80");
        check_target("[::1]:80", "::1", 80, "[::1]:80");
        check_target("[fe80::1%eth0]:80", "fe80::1%eth0", 80, "[fe80::1%eth0]:80");
        check_target(":4000", "localhost", 4_000, "localhost:4000");
        check_target("host:0080", "host", 80, "host:80");
    }

    #[test]
    fn what_is_no_address_of_a_target() {
        for (text, message) in [
            ("", "is empty; write e.g. 10.0.0.1:4000"),
            ("db", "has no port; write e.g. db:4000"),
            ("1.2.3.4", "has no port; write e.g. 1.2.3.4:4000"),
            ("[::1]", "has no port; write e.g. [::1]:4000"),
            ("db:", "has no port after the colon; write e.g. db:4000"),
            (":", "has no port after the colon; write e.g. localhost:4000"),
            ("db:http", "has a port that is no number; write e.g. db:4000"),
            ("db:+80", "has a port that is no number; write e.g. db:4000"),
            ("db:0", "has port 0, on which nobody can listen; write e.g. db:4000"),
            ("db:65536", "has port 65536, but 65535 is the last; write e.g. db:4000"),
            ("[::1]:65536", "has port 65536, but 65535 is the last; write e.g. [::1]:4000"),
            ("a b:80", "contains a space; write e.g. 10.0.0.1:4000"),
            (" db:80", "contains a space; write e.g. 10.0.0.1:4000"),
            ("::1", "is an IPv6 address without brackets; write e.g. [::1]:4000"),
            ("::1:80", "is an IPv6 address without brackets; write e.g. [::1]:80"),
            ("2001:db8::1", "is an IPv6 address without brackets; write e.g. [2001:db8::1]:4000"),
            ("fe80::1%eth0", "is an IPv6 address without brackets; write e.g. [fe80::1%eth0]:4000"),
            ("a:b:c", "is an IPv6 address without brackets; write e.g. [::1]:4000"),
            ("[::1", "has no closing bracket; write e.g. [::1]:4000"),
            ("[::1]80", "has text between the bracket and the port; write e.g. [::1]:4000"),
            ("[::g]:80", "has no IPv6 address between the brackets; write e.g. [::1]:80"),
            ("[]:80", "has no IPv6 address between the brackets; write e.g. [::1]:80"),
            ("[1.2.3.4]:80", "has brackets around an IPv4 address; write e.g. 1.2.3.4:80"),
            ("[fe80::1%]:80", "has no interface after the %; write e.g. [fe80::1%eth0]:80"),
            ("1.2.3.400:80", "is no IPv4 address; write e.g. 10.0.0.1:80"),
            ("1.2.3:80", "is no IPv4 address; write e.g. 10.0.0.1:80"),
            ("a..b:80", "has no valid host name; write e.g. db.example.com:80"),
            ("-a:80", "has no valid host name; write e.g. db.example.com:80"),
            ("a/b:80", "has no valid host name; write e.g. db.example.com:80"),
            (
                "b\u{fc}cher.example:80",
                "has a name that is not ASCII; write e.g. xn--bcher-kva.example:80",
            ),
            ("http://db:80/x", "is a URL, not host:port; write e.g. db:80"),
            ("http://db/x", "is a URL, not host:port; write e.g. 10.0.0.1:4000"),
        ] {
            check_refused::<HostPort>(text, message);
        }
    }

    #[test]
    fn names_of_targets() {
        let named: Target = "db=10.0.0.1:4000".parse().unwrap();
        assert_eq!((named.name.as_str(), named.address.host.as_str()), ("db", "10.0.0.1"));
        let unnamed: Target = "[::1]:80".parse().unwrap();
        assert_eq!(unnamed.name, "[::1]:80");
        check_refused::<Target>("=a:80", "has an empty name; write e.g. db=10.0.0.1:4000");
        check_refused::<Target>("db=", "is empty; write e.g. db=10.0.0.1:4000");
        check_refused::<Target>(
            "db=::1",
            "is an IPv6 address without brackets; write e.g. db=[::1]:4000",
        );
        let long = format!("{}=a:80", "x".repeat(256));
        check_refused::<Target>(
            &long,
            "has a name longer than 255 bytes; write e.g. db=10.0.0.1:4000",
        );
    }

    #[test]
    fn addresses_to_listen_on() {
        for (text, address) in [
            (":4000", "[::]:4000"),
            (":0", "[::]:0"),
            ("127.0.0.1:0", "127.0.0.1:0"),
            ("0.0.0.0:4000", "0.0.0.0:4000"),
            ("[::1]:4000", "[::1]:4000"),
            ("[fe80::1%3]:4000", "[fe80::1%3]:4000"),
        ] {
            assert_eq!(parse_listen(text).unwrap(), address.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn what_is_no_address_to_listen_on() {
        let name = "is no IP address, and names are not resolved for listening";
        for (text, message) in [
            ("", "is empty; write e.g. :4000".to_owned()),
            ("4000", "is a port without its colon; write e.g. :4000".to_owned()),
            ("65536", "is a port without its colon; write e.g. :4000".to_owned()),
            ("127.0.0.1", "has no port; write e.g. :4000".to_owned()),
            ("localhost:80", format!("{name}; write e.g. 127.0.0.1:80")),
            ("*:80", format!("{name}; write e.g. :80")),
            ("db:80", format!("{name}; write e.g. 10.0.0.1:80, or :80 for every address")),
            (":65536", "has port 65536, but 65535 is the last; write e.g. :4000".to_owned()),
            (":http", "has a port that is no number; write e.g. :4000".to_owned()),
            ("::1:80", "is an IPv6 address without brackets; write e.g. [::1]:80".to_owned()),
            (
                "[fe80::1%eth0]:80",
                "names its zone; a listen address needs the interface's number; \
                 write e.g. [fe80::1%2]:80"
                    .to_owned(),
            ),
        ] {
            assert_eq!(parse_listen(text).unwrap_err().to_string(), message, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn nothing_panics_and_every_hint_is_good(text in ".*", like in "[a1.:%=\\[\\]/ -]{0,24}") {
            for text in [text, like] {
                let _ = text.parse::<Target>();
                let _ = parse_listen(&text);
                if let Err(bad) = text.parse::<HostPort>() {
                    prop_assert!(bad.instead.parse::<HostPort>().is_ok(), "{}: {}", text, bad);
                }
            }
        }

        #[test]
        fn what_parses_reads_back(text in "[a-z0-9.:%\\[\\]]{0,12}:[0-9]{1,5}") {
            if let Ok(parsed) = text.parse::<HostPort>() {
                prop_assert_eq!(parsed.to_string().parse::<HostPort>(), Ok(parsed));
            }
        }
    }
}
