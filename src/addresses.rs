//! Addresses that no Harbor and no registry has, such as those where cloud providers serve credentials; and lists of
//! hosts.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use globset::{Glob, GlobSet, GlobSetBuilder};
use url::{Host, Url};

/// Why an address must not be used, in a word; `None` when it may.
///
/// IPv4 inside IPv6 (mapped, compatible, NAT64, 6to4) counts as the IPv4 address it leads to.
pub fn objection(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => objection_v4(address),
        IpAddr::V6(address) => within(address).map_or_else(|| objection_v6(address), objection_v4),
    }
}

fn objection_v4(address: Ipv4Addr) -> Option<&'static str> {
    if address.is_link_local() {
        Some("a link-local address, where cloud providers serve credentials")
    } else if address == Ipv4Addr::new(100, 100, 100, 200) || address == Ipv4Addr::new(192, 0, 0, 192) {
        Some("a metadata address of a cloud provider")
    } else if address.octets().first() == Some(&0) || address.is_multicast() || address.is_broadcast() {
        Some("an address that no server can have")
    } else {
        None
    }
}

fn objection_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unicast_link_local() {
        Some("a link-local address")
    } else if address == Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254) {
        Some("a metadata address of a cloud provider")
    } else if address.is_unspecified() || address.is_multicast() {
        Some("an address that no server can have")
    } else {
        None
    }
}

fn within(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match address.segments() {
        // ::1 and :: are not embedded IPv4 addresses.
        [0, 0, 0, 0, 0, 0, 0, 0 | 1] => None,
        [0, 0, 0, 0, 0, 0 | 0xffff, high, low] | [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// Why the host of a URL must not be used, if it is written as an address: nothing may connect to it, or its spelling
/// hides the address from a reader (`2852039166`, `0251.0376.0251.0376`). Names are checked when they are resolved.
pub fn literal_objection(url: &Url, as_written: &str) -> Option<String> {
    let address = match url.host()? {
        Host::Domain(_) => return None,
        Host::Ipv4(address) => IpAddr::V4(address),
        Host::Ipv6(address) => IpAddr::V6(address),
    };
    let why = objection(address)?;
    let plain = as_written.trim_start_matches('[').trim_end_matches(']') == address.to_string();
    Some(if plain { format!("{address} is {why}") } else { format!("{as_written} is {address}, {why}") })
}

/// Whether a URL writes its address in the usual form: an author of `169.254.169.254` intends that address.
pub fn is_written_plainly(url: &Url, as_written: &str) -> bool {
    url.host_str().is_some_and(|host| as_written.to_ascii_lowercase().contains(host))
}

/// The hosts that an administrator allows: names and addresses with `*` and `?`, each with or without a port.
#[derive(Debug, Clone, Default)]
pub struct Hosts {
    set: GlobSet,
    count: usize,
}

impl Hosts {
    /// Parses a list. An empty list allows all hosts.
    ///
    /// # Errors
    /// The entry that cannot be parsed, and why.
    pub fn new(list: &[String]) -> Result<Self, String> {
        let mut set = GlobSetBuilder::new();
        for entry in list {
            let entry = entry.trim().to_ascii_lowercase();
            let entry = entry.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(&entry);
            if entry.is_empty() || entry.contains(['/', '@', '[', '{', ' ']) {
                return Err(format!("`{entry}` is not a host: write a name or an address, optionally with `*`"));
            }
            set.add(Glob::new(entry).map_err(|error| error.kind().to_string())?);
        }
        let set = set.build().map_err(|error| error.kind().to_string())?;
        Ok(Self { set, count: list.len() })
    }

    /// Whether the list is empty.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Whether the list contains the host of a URL; `false` for an empty list.
    pub fn contains(&self, url: &Url) -> bool {
        let Some(host) = url.host_str() else { return false };
        let host = host.trim_start_matches('[').trim_end_matches([']', '.']).to_ascii_lowercase();
        let port = url.port_or_known_default().map(|port| format!("{host}:{port}"));
        self.set.is_match(&host) || port.is_some_and(|host| self.set.is_match(host))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objection_knows_link_local_and_metadata_addresses_in_every_disguise() {
        for address in [
            "169.254.169.254",
            "169.254.0.1",
            "100.100.100.200",
            "0.0.0.0",
            "0.1.2.3",
            "224.0.0.1",
            "255.255.255.255",
            "::ffff:169.254.169.254",
            "::169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "fe80::1",
            "fd00:ec2::254",
            "::",
            "ff02::1",
        ] {
            assert!(objection(address.parse().unwrap()).is_some(), "{address}");
        }
        for address in
            ["127.0.0.1", "10.0.0.1", "192.168.1.1", "100.64.0.1", "8.8.8.8", "::1", "fd00::1", "2001:db8::1"]
        {
            assert_eq!(objection(address.parse().unwrap()), None, "{address}");
        }
    }

    #[test]
    fn literal_objection_reads_decimal_octal_and_hexadecimal_addresses() {
        for (text, plain) in [
            ("http://169.254.169.254", true),
            ("http://2852039166", false),
            ("http://0251.0376.0251.0376", false),
            ("http://0xa9fea9fe", false),
            ("http://169.254.43518", false),
            ("http://[::ffff:a9fe:a9fe]", true),
            ("http://[::ffff:169.254.169.254]", false),
        ] {
            let url = Url::parse(text).unwrap();
            assert!(literal_objection(&url, text).is_some_and(|why| why.contains("169.254.169.254")), "{text}");
            assert_eq!(is_written_plainly(&url, text), plain, "{text}");
        }
        for text in ["http://harbor.example.com", "http://127.0.0.1:8080", "http://[::1]"] {
            assert_eq!(literal_objection(&Url::parse(text).unwrap(), text), None);
        }
    }

    #[test]
    fn hosts_are_compared_as_hosts_and_never_as_text() {
        let list = ["*.corp.example", "ghcr.io", "registry.test:5000", "::1", "Quay.IO"].map(str::to_owned);
        let hosts = Hosts::new(&list).unwrap();
        let table = [
            ("https://ghcr.io", true),
            ("https://GHCR.io./", true),
            ("https://ghcr.io:8443", true),
            ("https://ghcr.io.evil.test", false),
            ("https://evil.test/ghcr.io", false),
            ("https://ghcr.io@evil.test", false),
            ("https://a.b.corp.example/path", true),
            ("https://corp.example", false),
            ("http://registry.test:5000", true),
            ("http://registry.test", false),
            ("http://[::1]:5000", true),
            ("https://quay.io", true),
        ];
        for (url, allowed) in table {
            assert_eq!(hosts.contains(&Url::parse(url).unwrap()), allowed, "{url}");
        }
        assert!(Hosts::new(&[]).unwrap().is_empty() && !hosts.is_empty());
        for entry in ["https://ghcr.io", "", "a b", "user@host", "[a-z].io"] {
            assert!(Hosts::new(&[entry.to_owned()]).is_err(), "{entry}");
        }
    }
}
