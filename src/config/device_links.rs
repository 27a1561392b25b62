//! The devices' listeners with TLS or WebSocket.

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;

use super::file::Embedded;
use super::tls::{self, Asked, Tls};
use crate::delivery::embedded::links::{Config, TlsConfig};

/// The table `delivery.embedded.tls` as it is written.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct DeviceTls {
    pub(super) listen: Option<SocketAddr>,
    pub(super) websocket_listen: Option<SocketAddr>,
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
    client_cert: Option<Asked>,
}

pub(super) fn check(embedded: &Embedded) -> Result<Config, String> {
    const KEY: &str = "delivery.embedded.tls";
    let websocket_listen = embedded.websocket_listen;
    let Some(table) = embedded.tls.clone() else {
        return Ok(Config { websocket_listen, tls: None });
    };
    if table.listen.is_none() && table.websocket_listen.is_none() {
        return Err(format!(
            "{KEY} listens nowhere: add {KEY}.listen, such as \"0.0.0.0:8883\", or \
             {KEY}.websocket_listen"
        ));
    }
    let DeviceTls { listen, websocket_listen: over_websocket, cert, key, client_ca, client_cert } =
        table;
    let files = Tls { cert, key, client_ca, client_cert };
    let files = tls::check(KEY, Some(&files))?;
    let tls = files.map(|files| TlsConfig { listen, websocket_listen: over_websocket, files });
    Ok(Config { websocket_listen, tls })
}
