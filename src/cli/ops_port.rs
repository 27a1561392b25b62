use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::tls::{self, ClientCert};

use super::Failure;
use super::client::Endpoint;

/// The ops port of a weir that runs from a configuration on this machine.
///
/// It is reached by an address, which its certificate need not name. So over TLS it is known by the
/// certificate the configuration gives it.
pub(super) fn endpoint(listen: SocketAddr, tls: Option<&tls::Config>) -> Result<Endpoint, Failure> {
    let at = reachable(listen);
    let Some(config) = tls else { return Ok(Endpoint::at(at, None)) };
    if config.client_ca.is_some() && config.client_cert == ClientCert::Required {
        let why = "asks for a client's certificate, and this command has none to show: set \
                   ops.tls.client_cert to \"optional\"";
        return Err(Failure::because("the ops port", why));
    }
    let client = tls::pinned(&config.cert).map_err(|error| Failure::because("ops.tls", error))?;
    Ok(Endpoint::at(at, Some(client)))
}

/// A listener on every address is reached by loopback.
fn reachable(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_on_every_address_is_asked_by_loopback() {
        let reached = |listen: &str| reachable(listen.parse().unwrap()).to_string();
        assert_eq!(reached("0.0.0.0:8081"), "127.0.0.1:8081");
        assert_eq!(reached("[::]:8081"), "[::1]:8081");
        assert_eq!(reached("10.0.0.1:8081"), "10.0.0.1:8081");
    }
}
