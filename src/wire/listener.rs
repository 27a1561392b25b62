use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::connection::{Protocols, draining};
use crate::metering::WireMetrics;

/// How long accepting rests after an error that another try at once would only repeat (EMFILE).
const ACCEPT_BACKOFF: Duration = Duration::from_millis(100);

/// A connection counted in the gauge for as long as this lives.
struct Counted {
    metrics: WireMetrics,
    _permit: OwnedSemaphorePermit,
}

impl Counted {
    fn new(metrics: &WireMetrics, permit: OwnedSemaphorePermit) -> Self {
        metrics.connections.inc();
        Self { metrics: metrics.clone(), _permit: permit }
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.metrics.connections.dec();
    }
}

/// Accepts and serves until `shutdown` turns true, then lets what is open finish within `grace`.
pub(super) async fn serve(
    protocols: Arc<Protocols>,
    metrics: WireMetrics,
    listener: TcpListener,
    connections_max: usize,
    grace: Duration,
    mut shutdown: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = draining(&mut shutdown) => break,
            accepted = accept(&listener, &places) => accepted,
        };
        while connections.try_join_next().is_some() {}
        let Some((stream, permit)) = accepted else { continue };
        let counted = Counted::new(&metrics, permit);
        let (protocols, shutdown) = (Arc::clone(&protocols), shutdown.clone());
        connections.spawn(async move {
            let _counted = counted;
            protocols.serve(stream, shutdown).await;
        });
    }
    drop(listener);
    let finished = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(grace, finished).await.is_err() {
        tracing::warn!(open = connections.len(), "connections cut after the drain's grace");
    }
}

/// Waits for a place first: at the cap the kernel's backlog holds who comes.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, OwnedSemaphorePermit)> {
    let permit = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, _)) => {
            // Without it an answer could wait for the client's delayed ACK; the call works anyway.
            let _ = stream.set_nodelay(true);
            Some((stream, permit))
        }
        Err(error) if is_the_clients(&error) => None,
        Err(error) => {
            tracing::warn!(%error, "cannot accept connections");
            tokio::time::sleep(ACCEPT_BACKOFF).await;
            None
        }
    }
}

/// Whether a connection failed before it was accepted, which says nothing about the next one.
fn is_the_clients(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}
