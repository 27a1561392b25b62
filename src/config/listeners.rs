use std::net::{IpAddr, SocketAddr};

use super::file::File;

/// Two listeners on one address, or no place for data, would only be found out while starting.
pub(super) fn check(file: &File) -> Result<(), String> {
    if file.data_dir.as_os_str().is_empty() {
        return Err("data_dir is empty: name a folder".into());
    }
    let embedded = &file.delivery.embedded;
    let tls = embedded.tls.as_ref();
    let links = [
        ("delivery.embedded.websocket_listen", embedded.websocket_listen),
        ("delivery.embedded.tls.listen", tls.and_then(|tls| tls.listen)),
        ("delivery.embedded.tls.websocket_listen", tls.and_then(|tls| tls.websocket_listen)),
    ];
    let mut listeners = vec![
        ("http.listen", file.http.listen),
        ("ops.listen", file.ops.listen),
        ("delivery.embedded.listen", embedded.listen),
    ];
    listeners.extend(links.into_iter().filter_map(|(key, listen)| Some((key, listen?))));
    if file.delivery.mqtt.is_some() {
        // With a broker elsewhere there is no listener for devices.
        listeners.truncate(2);
    }
    for (at, (key, address)) in listeners.iter().enumerate() {
        let clash = listeners[at + 1..].iter().find(|(_, other)| clashes(*address, *other));
        let Some((other, its)) = clash else { continue };
        if its == address {
            return Err(format!("{key} and {other} are both {address}: give each its own"));
        }
        return Err(format!(
            "{key} {address} and {other} {its} overlap: give each a port of its own"
        ));
    }
    Ok(())
}

/// Whether a connection could be for either. One listener on `[::]` takes those of IPv4 as well.
fn clashes(one: SocketAddr, other: SocketAddr) -> bool {
    let covers = |all: IpAddr, ip: IpAddr| match all {
        IpAddr::V4(all) => all.is_unspecified() && ip.is_ipv4(),
        IpAddr::V6(all) => all.is_unspecified(),
    };
    let [a, b] = [one, other].map(|address| address.ip().to_canonical());
    one.port() != 0 && one.port() == other.port() && (a == b || covers(a, b) || covers(b, a))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_listeners_clash_where_one_could_take_the_others_connections() {
        for (one, other, expected) in [
            ("127.0.0.1:7", "127.0.0.1:7", true),
            ("0.0.0.0:7", "127.0.0.1:7", true),
            ("[::]:7", "127.0.0.1:7", true),
            ("[::]:7", "0.0.0.0:7", true),
            ("[::]:7", "[::1]:7", true),
            ("[::ffff:127.0.0.1]:7", "127.0.0.1:7", true),
            ("0.0.0.0:7", "[::1]:7", false),
            ("127.0.0.1:7", "127.0.0.2:7", false),
            ("0.0.0.0:7", "127.0.0.1:8", false),
            ("0.0.0.0:0", "127.0.0.1:0", false),
        ] {
            let [one, other] = [one, other].map(|text| text.parse().unwrap());
            assert_eq!(clashes(one, other), expected, "{one} {other}");
            assert_eq!(clashes(other, one), expected, "{other} {one}");
        }
    }
}
