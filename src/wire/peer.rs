//! Who is behind a connection, and whose word is taken for it.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use http::{HeaderMap, HeaderName};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The proxies in front of weir. Nobody else is believed about whom it speaks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Proxies {
    /// Where they connect from. Default none.
    pub trusted: Vec<Network>,
    /// Whether their connections begin with a PROXY header, version 1 or 2. Default no.
    pub protocol: bool,
}

/// An address, or all that share their first bits with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Network {
    address: IpAddr,
    bits: u32,
}

/// A text is neither an address nor a network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is no address like 10.0.0.7 and no network like 10.0.0.0/8 or fd00::/8")]
pub struct NetworkError;

impl FromStr for Network {
    type Err = NetworkError;

    fn from_str(text: &str) -> Result<Self, NetworkError> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().map_err(|_| NetworkError)?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.map_or(Ok(most), str::parse).map_err(|_| NetworkError)?;
        if bits > most { Err(NetworkError) } else { Ok(Self { address, bits }) }
    }
}

impl Network {
    /// Whether this address is in it; IPv4 written as IPv6 is IPv4.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs, width) = match (self.address, address.to_canonical()) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (u128::from(ours.to_bits()), u128::from(theirs.to_bits()), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits(), 128),
            _ => return false,
        };
        // A network of no bits would be a shift by the whole width.
        (ours ^ theirs).checked_shr(width - self.bits).unwrap_or(0) == 0
    }
}

impl Proxies {
    pub(super) fn trust(&self, peer: IpAddr) -> bool {
        self.trusted.iter().any(|network| network.contains(peer))
    }

    /// The client of a request that came from `peer`. Every proxy appends to `X-Forwarded-For` whom
    /// it took the request from, so the list is read backwards, for as long as its writers are
    /// trusted.
    pub(super) fn client(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let mut client = peer.to_canonical();
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        let hops = lines.flat_map(|line| line.as_bytes().rsplit(|byte| *byte == b','));
        for hop in hops {
            let hop = str::from_utf8(hop).ok().and_then(|hop| address(hop.trim()));
            match hop {
                Some(hop) if self.trust(client) => client = hop.to_canonical(),
                _ => break,
            }
        }
        client
    }
}

/// An address, with a port or without.
fn address(text: &str) -> Option<IpAddr> {
    let with_port = || text.parse().ok().map(|address: SocketAddr| address.ip());
    text.parse().ok().or_else(with_port)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn proxies(trusted: &[&str]) -> Proxies {
        let trusted = trusted.iter().map(|text| text.parse().unwrap()).collect();
        Proxies { trusted, protocol: false }
    }

    fn client(proxies: &Proxies, peer: &str, lines: &[&str]) -> IpAddr {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(FORWARDED_FOR, line.parse().unwrap());
        }
        proxies.client(ip(peer), &headers)
    }

    #[test]
    fn a_network_holds_its_addresses_and_no_other() {
        let network: Network = "10.1.0.0/16".parse().unwrap();
        assert!(network.contains(ip("10.1.255.9")) && network.contains(ip("::ffff:10.1.0.1")));
        assert!(!network.contains(ip("10.2.0.1")) && !network.contains(ip("fd00::1")));
        let one: Network = "fd00::7".parse().unwrap();
        assert!(one.contains(ip("fd00::7")) && !one.contains(ip("fd00::8")));
        let all: Network = "::/0".parse().unwrap();
        assert!(all.contains(ip("2001:db8::1")) && !all.contains(ip("10.0.0.1")));
        for text in ["", "10.0.0.0/33", "::/129", "host", "10.0.0.0/", "10.0.0.0/-1"] {
            assert_eq!(text.parse::<Network>(), Err(NetworkError), "{text}");
        }
    }

    #[test]
    fn only_a_trusted_proxy_says_who_its_client_is() {
        let ours = proxies(&["10.0.0.0/8"]);
        assert_eq!(client(&ours, "10.0.0.1", &["203.0.113.9"]), ip("203.0.113.9"));
        assert_eq!(client(&ours, "198.51.100.1", &["203.0.113.9"]), ip("198.51.100.1"));
        assert_eq!(client(&proxies(&[]), "10.0.0.1", &["203.0.113.9"]), ip("10.0.0.1"));
    }

    #[test]
    fn what_a_client_writes_itself_is_not_believed() {
        let ours = proxies(&["10.0.0.0/8"]);
        // The outer proxy appended 203.0.113.9, the inner one 10.0.0.2.
        let spoofed = ["1.2.3.4, 203.0.113.9", "10.0.0.2"];
        assert_eq!(client(&ours, "10.0.0.1", &spoofed), ip("203.0.113.9"));
        assert_eq!(client(&ours, "10.0.0.1", &["1.2.3.4, junk"]), ip("10.0.0.1"));
        assert_eq!(client(&ours, "10.0.0.1", &["203.0.113.9:4711"]), ip("203.0.113.9"));
        assert_eq!(client(&ours, "10.0.0.1", &["[2001:db8::1]:80"]), ip("2001:db8::1"));
    }

    proptest! {
        #[test]
        fn no_list_makes_a_client_of_who_is_behind_a_stranger(list in "[ -~]{0,60}") {
            let ours = proxies(&["10.0.0.0/8"]);
            prop_assert_eq!(client(&ours, "198.51.100.1", &[&list]), ip("198.51.100.1"));
            client(&ours, "10.0.0.1", &[&list]);
        }
    }
}
