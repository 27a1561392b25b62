use std::net::SocketAddr;

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
        let same = |(_, other): &&(&str, SocketAddr)| other == address && address.port() != 0;
        if let Some((other, _)) = listeners[at + 1..].iter().find(same) {
            return Err(format!("{key} and {other} are both {address}: give each its own"));
        }
    }
    Ok(())
}
