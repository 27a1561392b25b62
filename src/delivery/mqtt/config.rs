use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::ClientConfig;
use rustls::pki_types::ServerName;

use super::template::Template;
use super::tls;

/// Bounds of [`Config::keep_alive`].
pub const KEEP_ALIVE_BOUNDS: (Duration, Duration) =
    (Duration::from_secs(1), Duration::from_secs(65_535));
/// Bounds of [`Config::connections`].
pub const CONNECTIONS_MAX: usize = 16;
/// Bounds of [`Config::in_flight_messages_max`]: packet ids end at 65,535, and half of them stay
/// free so that a late acknowledgement is never taken for another's.
pub const IN_FLIGHT_MESSAGES_MAX: usize = 32_767;
/// Longest client id, in bytes; connections add up to three (MQTT 3.1.1, 3.1.3.1: longer than 23
/// is the broker's choice).
pub const CLIENT_ID_BYTES_MAX: usize = 256;

/// What weir needs to know of an external broker.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where it is.
    pub address: Address,
    /// TLS, if the URL says `mqtts`.
    pub tls: Option<Tls>,
    /// Which MQTT is spoken. Default: 5, and 3.1.1 with a broker that does not know it.
    pub protocol: Protocol,
    /// Who weir is to the broker. Default: nobody.
    pub login: Option<Login>,
    /// The client id; with several connections the number of each is added. Default: made at the
    /// first start and kept in the data directory.
    pub client_id: Option<String>,
    /// The topic a message is published to. Default `{instance}/{topic}`.
    pub topic: Template,
    /// Longest silence in either direction, 1 to 65,535 s; a broker that is silent for half as long
    /// again is given up. Default 20 s.
    pub keep_alive: Duration,
    /// Connections, 1 to 16; a topic keeps to one. Default 1.
    pub connections: usize,
    /// Messages of a connection without a PUBACK, 1 to 32,767; the broker may ask for fewer.
    /// Default 1,000.
    pub in_flight_messages_max: usize,
}

/// Host and port of a broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    /// A name or an IP address, without the brackets of IPv6.
    pub host: String,
    /// The port. Default 1883, with TLS 8883.
    pub port: u16,
}

/// Which version of MQTT is spoken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Protocol {
    /// 5, and 3.1.1 with a broker that does not know it.
    #[default]
    Auto,
    /// 5 only.
    V5,
    /// 3.1.1 only.
    V3,
}

/// A user name, and perhaps a password that never shows in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name.
    pub user: String,
    /// The password.
    pub password: Option<String>,
}

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

/// Everything TLS needs, read and checked.
#[derive(Clone)]
pub struct Tls {
    pub(super) config: Arc<ClientConfig>,
    pub(super) server: ServerName<'static>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").field("server", &self.server).finish_non_exhaustive()
    }
}

/// Files of certificates, in PEM.
#[derive(Clone, Copy, Debug, Default)]
pub struct TlsFiles<'p> {
    /// Who may have signed the broker's certificate. Default: whom the system trusts.
    pub ca: Option<&'p Path>,
    /// The client certificate with its chain.
    pub cert: Option<&'p Path>,
    /// The client certificate's key.
    pub key: Option<&'p Path>,
}

impl Tls {
    /// Reads the files for a broker at `host`.
    ///
    /// # Errors
    /// A line that names the key and the fix.
    pub fn load(host: &str, files: TlsFiles<'_>) -> Result<Self, String> {
        let server = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("url: {host} is no name a certificate could have"))?;
        Ok(Self { config: tls::client(files)?, server })
    }
}

impl Address {
    /// Parses `mqtt://host:port` or `mqtts://host:port`; true if it asks for TLS.
    ///
    /// # Errors
    /// A line that says what is wrong.
    pub fn parse(url: &str) -> Result<(Self, bool), String> {
        let form =
            || format!("\"{}\" is not like mqtt://host:1883 or mqtts://host:8883", shown(url));
        let (scheme, rest) = url.split_once("://").ok_or_else(form)?;
        let (tls, default_port) = match scheme {
            "mqtt" => (false, 1883),
            "mqtts" => (true, 8883),
            _ => return Err(form()),
        };
        let authority = rest.strip_suffix('/').unwrap_or(rest);
        if authority.contains('@') {
            return Err("holds a user: use the keys user and password".into());
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(v6) => {
                let (host, port) = v6.split_once(']').ok_or_else(form)?;
                if host.parse::<std::net::Ipv6Addr>().is_err() {
                    return Err(form());
                }
                (
                    host,
                    port.strip_prefix(':')
                        .map_or_else(|| port.is_empty().then_some(None), |port| Some(Some(port)))
                        .ok_or_else(form)?,
                )
            }
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_:".contains(&byte);
        if host.is_empty() || !host.bytes().all(plain) {
            return Err(form());
        }
        let port = match port {
            None => default_port,
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or_else(form)?,
        };
        Ok((Self { host: host.to_owned(), port }, tls))
    }
}

/// What may stand in an error: nothing before an `@`, which might be a password.
fn shown(url: &str) -> String {
    url.rsplit('@').next().unwrap_or_default().escape_debug().to_string()
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_scheme_a_host_and_perhaps_a_port() {
        let cases = [
            ("mqtt://broker", "broker", 1883, false),
            ("mqtts://broker.example.com/", "broker.example.com", 8883, true),
            ("mqtt://127.0.0.1:2883", "127.0.0.1", 2883, false),
            ("mqtts://[::1]:99", "::1", 99, true),
            ("mqtt://[::1]", "::1", 1883, false),
        ];
        for (url, host, port, tls) in cases {
            let parsed = Address::parse(url).unwrap();
            assert_eq!(parsed, (Address { host: host.to_owned(), port }, tls), "{url}");
        }
        assert_eq!(Address::parse("mqtt://[::1]:9").unwrap().0.to_string(), "[::1]:9");
    }

    #[test]
    fn what_is_no_address_is_refused_and_a_password_is_not_repeated() {
        let bad = [
            "",
            "broker",
            "http://broker",
            "mqtt://",
            "mqtt://:1883",
            "mqtt://a:b",
            "mqtt://a:0",
            "mqtt://a:70000",
            "mqtt://a b",
            "mqtt://[::1",
            "mqtt://[a]:1",
            "mqtt://[::1]x",
            "mqtt://a/path",
            "mqtt://me:hush@broker",
            "tcp://me:hush@broker",
        ];
        for url in bad {
            let said = Address::parse(url).unwrap_err();
            assert!(!said.contains("hush"), "{url}: {said}");
        }
    }
}
