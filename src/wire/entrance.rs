use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::sync::watch;

use super::connection::{Protocols, draining};
use super::peer::Proxies;
use super::proxy_header;
use crate::metering::WireMetrics;
use crate::tls;

/// How long a connection that has brought no request when weir drains is waited for: one may be on
/// its way, sent before its client could know.
pub(super) const LAST_REQUEST: Duration = Duration::from_secs(1);

/// What every connection passes on its way to HTTP: its PROXY header, and its TLS handshake.
pub(super) struct Entrance {
    pub(super) tls: Option<Arc<tls::Server>>,
    pub(super) proxies: Arc<Proxies>,
    /// For each of the two.
    pub(super) patience: Duration,
    pub(super) metrics: WireMetrics,
    pub(super) protocols: Protocols,
}

impl Entrance {
    /// Serves a connection until it ends, or weir drains and its calls are answered.
    pub(super) async fn serve(
        &self,
        mut stream: TcpStream,
        from: IpAddr,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let mut client = from;
        if self.proxies.protocol && self.proxies.trust(from) {
            match self.in_time(&mut shutdown, proxy_header::read(&mut stream)).await {
                Ok(said) => client = said.unwrap_or(from),
                Err(error) => {
                    tracing::debug!(proxy = %from, %error, "connection closed at its PROXY header");
                    return;
                }
            }
        }
        let Some(tls) = &self.tls else {
            return self.protocols.serve(stream, client, shutdown).await;
        };
        // On the heap, so that a connection without TLS does not take the room of one.
        let encrypted = async {
            let handshake = tls.acceptor().accept(stream);
            match self.in_time(&mut shutdown, handshake).await {
                Ok(stream) => self.protocols.serve(stream, client, shutdown).await,
                Err(error) => {
                    self.metrics.handshakes_failed.inc();
                    tracing::debug!(%client, %error, "connection closed at its TLS handshake");
                }
            }
        };
        Box::pin(encrypted).await;
    }

    async fn in_time<T>(
        &self,
        shutdown: &mut watch::Receiver<bool>,
        step: impl Future<Output = io::Result<T>>,
    ) -> io::Result<T> {
        tokio::select! {
            done = tokio::time::timeout(self.patience, step) => {
                done.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            }
            () = too_late(shutdown) => Err(io::Error::other("weir drains")),
        }
    }
}

/// Ready once weir drains, and what was on its way then has had its time to arrive.
pub(super) async fn too_late(shutdown: &mut watch::Receiver<bool>) {
    draining(shutdown).await;
    tokio::time::sleep(LAST_REQUEST).await;
}
