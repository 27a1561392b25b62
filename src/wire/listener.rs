use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::connection::draining;
use super::entrance::Entrance;
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

/// Accepts and serves until `shutdown` turns true; then takes what still waits in the kernel's
/// backlog, closes the listener, and lets what is open finish, all of it within `grace`.
pub(super) async fn serve(
    entrance: Arc<Entrance>,
    listener: TcpListener,
    connections_max: usize,
    grace: Duration,
    mut shutdown: watch::Receiver<bool>,
) {
    let places = Arc::new(Semaphore::new(connections_max));
    let mut open = Open { entrance, shutdown: shutdown.clone(), connections: JoinSet::new() };
    loop {
        let accepted = tokio::select! {
            biased;
            () = draining(&mut shutdown) => break,
            accepted = accept(&listener, &places) => accepted,
        };
        while open.connections.try_join_next().is_some() {}
        let Some((stream, from, permit)) = accepted else { continue };
        open.add(stream, from, permit);
    }
    let finished = async {
        open.empty_backlog(listener, &places).await;
        while open.connections.join_next().await.is_some() {}
    };
    if tokio::time::timeout(grace, finished).await.is_err() {
        tracing::warn!(open = open.connections.len(), "connections cut after the drain's grace");
    }
}

/// The connections of a listener.
struct Open {
    entrance: Arc<Entrance>,
    shutdown: watch::Receiver<bool>,
    connections: JoinSet<()>,
}

impl Open {
    fn add(&mut self, stream: TcpStream, from: SocketAddr, permit: OwnedSemaphorePermit) {
        let counted = Counted::new(&self.entrance.metrics, permit);
        let (entrance, shutdown) = (Arc::clone(&self.entrance), self.shutdown.clone());
        self.connections.spawn(async move {
            let _counted = counted;
            entrance.serve(stream, from.ip().to_canonical(), shutdown).await;
        });
    }

    /// Serves who is connected as far as the kernel is concerned: closing the listener would reset
    /// them. What the kernel completes between the last look and the close is still reset.
    async fn empty_backlog(&mut self, listener: TcpListener, places: &Arc<Semaphore>) {
        // tokio answers from what it remembers of the socket; only a call knows what waits now.
        let listener = match listener.into_std() {
            Ok(listener) => listener,
            Err(error) => return tracing::warn!(%error, "the accept backlog cannot be emptied"),
        };
        loop {
            let Ok(permit) = Arc::clone(places).acquire_owned().await else { return };
            let accepted = listener.accept().and_then(|(stream, from)| {
                stream.set_nonblocking(true)?;
                Ok((TcpStream::from_std(stream)?, from))
            });
            match accepted {
                Ok((stream, from)) => {
                    let _ = stream.set_nodelay(true);
                    self.add(stream, from, permit);
                }
                Err(error) if is_the_clients(&error) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) => {
                    return tracing::warn!(%error, "the accept backlog cannot be emptied");
                }
            }
        }
    }
}

/// Waits for a place first: at the cap the kernel's backlog holds who comes.
async fn accept(
    listener: &TcpListener,
    places: &Arc<Semaphore>,
) -> Option<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(places).acquire_owned().await.ok()?;
    match listener.accept().await {
        Ok((stream, from)) => {
            // Without it an answer could wait for the client's delayed ACK; the call works anyway.
            let _ = stream.set_nodelay(true);
            Some((stream, from, permit))
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
