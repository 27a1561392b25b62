//! The only folder that names every stage: build, start, drain in flow order.
//!
//! Never: decide anything about a message.

mod build;
mod devices;
#[cfg(test)]
mod model;
mod openapi;
mod ports;
mod recovery;
mod requeued;
mod reserve;
mod upkeep;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::delivery::{CursorsError, Outlet, embedded, mqtt};
use crate::journal::{DirectoryLock, Journal, JournalError, LockError};
use crate::ledger::{ClerkHandle, FollowError, LedgerError};
use crate::metering::MeteringError;
use crate::queue::Queue;
use crate::tls::TlsError;
use crate::wire::AccessWriter;

use requeued::Requeued;
use upkeep::Upkeep;

pub use crate::ops::{Readiness, State};
pub use build::start;
pub use openapi::openapi;
pub use recovery::Report;

/// How long a drain waits for couriers and devices to take what is journaled. What they do not take
/// is delivered after the next start.
const DELIVERY_GRACE: Duration = Duration::from_secs(10);
/// How long a drain waits for connected devices to acknowledge.
const DEVICE_GRACE: Duration = Duration::from_secs(2);
/// How long a drain waits for the access log to be written.
const LOG_GRACE: Duration = Duration::from_secs(2);

/// Why weir did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A port is taken or not ours to bind.
    #[error("{key} {address}: {source}; free it or choose another")]
    Bind {
        /// The configuration key.
        key: &'static str,
        /// The address.
        address: SocketAddr,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// A certificate was good when the configuration was checked, and is not now.
    #[error("{listener}.tls.{source}")]
    Tls {
        /// The listener's configuration table.
        listener: &'static str,
        /// The file, and what is wrong with it.
        source: TlsError,
    },
    /// The data directory is in use, or cannot be.
    #[error(transparent)]
    Lock(#[from] LockError),
    /// A file of the data directory.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: String,
        /// The operating system's words.
        #[source]
        source: io::Error,
    },
    /// The journal cannot be opened.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The ledger cannot be opened.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The ledger and the journal do not fit.
    #[error(transparent)]
    Follow(#[from] FollowError),
    /// The delivery cursors cannot be read.
    #[error(transparent)]
    Cursors(#[from] CursorsError),
    /// The embedded broker did not start.
    #[error(transparent)]
    Broker(#[from] embedded::StartError),
    /// The client id for the external broker cannot be kept.
    #[error(transparent)]
    ClientId(#[from] mqtt::StartError),
    /// Metric names clash: a bug.
    #[error(transparent)]
    Metering(#[from] MeteringError),
    /// No thread or task to be had.
    #[error("threads: {0}")]
    Threads(String),
}

/// Where weir listens, ports of 0 filled in.
#[derive(Clone, Copy, Debug)]
pub struct Addresses {
    /// Calls.
    pub http: SocketAddr,
    /// Devices, unless their broker is elsewhere.
    pub devices: Option<SocketAddr>,
    /// Devices that come over TLS or WebSocket.
    pub links: embedded::links::Addresses,
    /// Health and metrics.
    pub ops: SocketAddr,
}

/// A weir that takes calls.
pub struct Running {
    /// Where.
    pub addresses: Addresses,
    readiness: Arc<Readiness>,
    drain_notice: Duration,
    stop_front: watch::Sender<bool>,
    front: JoinHandle<()>,
    queue: Queue,
    shards: Vec<std::thread::JoinHandle<()>>,
    couriers: JoinHandle<()>,
    requeued: Requeued,
    clerk: ClerkHandle,
    upkeep: Upkeep,
    broker: Arc<Outlet>,
    ops: JoinHandle<()>,
    certificates: JoinHandle<()>,
    access: Option<AccessWriter>,
    poisoned: watch::Receiver<bool>,
    // Dropped last, in this order: segments are made until the writers are gone.
    _journal: Journal,
    _lock: DirectoryLock,
}

/// What a running weir is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stop {
    /// Go on.
    Run,
    /// Show `/readyz` at 503, serve on for the drain notice, then drain.
    Notice,
    /// Drain at once.
    Now,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Everything that was accepted is on disk and billed.
    Drained,
    /// A journal was poisoned: some callers were told that their outcome is unknown.
    Poisoned,
}

impl Running {
    /// What `/readyz` says, now and later.
    #[must_use]
    pub fn readiness(&self) -> Arc<Readiness> {
        Arc::clone(&self.readiness)
    }

    /// Serves until it is asked to stop or a journal is poisoned, then drains in flow order.
    pub async fn until(mut self, mut stop: watch::Receiver<Stop>) -> Ended {
        let upkeep = self.upkeep.start();
        let was_poisoned = tokio::select! {
            _ = stop.wait_for(|stop| *stop > Stop::Run) => false,
            _ = self.poisoned.wait_for(|poisoned| *poisoned) => true,
            _ = &mut self.couriers => {
                tracing::error!("delivery ended by itself: a bug; stopping");
                true
            }
            () = self.broker.ended() => {
                tracing::error!("a connection to the broker ended by itself: a bug; stopping");
                true
            }
        };
        let delivering = !self.couriers.is_finished();
        self.readiness.advance(if was_poisoned { State::Poisoned } else { State::Draining });
        if !was_poisoned {
            tracing::info!(notice = ?self.drain_notice, "draining");
            tokio::select! {
                () = tokio::time::sleep(self.drain_notice) => {}
                _ = stop.wait_for(|stop| *stop == Stop::Now) => {}
                _ = self.poisoned.wait_for(|poisoned| *poisoned) => {}
            }
        }
        let _ = self.stop_front.send(true);
        join("front", self.front.await);
        self.queue.close();
        drop(self.queue);
        let shards = self.shards;
        let clerk = self.clerk;
        let joined = tokio::task::spawn_blocking(move || {
            for shard in shards {
                if shard.join().is_err() {
                    tracing::error!("a shard thread panicked");
                }
            }
            clerk.finish();
        });
        join("shards", joined.await);
        self.requeued.finish(DELIVERY_GRACE).await;
        if delivering && tokio::time::timeout(DELIVERY_GRACE, self.couriers).await.is_err() {
            tracing::warn!("stopping with a backlog: it is delivered after the next start");
        }
        self.broker.shutdown(DEVICE_GRACE).await;
        let poisoned = upkeep.finish().await;
        if let Some(access) = self.access {
            access.finish(LOG_GRACE).await;
        }
        self.certificates.abort();
        self.ops.abort();
        tracing::info!(poisoned = was_poisoned || poisoned, "stopped");
        if was_poisoned || poisoned { Ended::Poisoned } else { Ended::Drained }
    }
}

fn join<T>(what: &str, ended: Result<T, tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "{what} ended badly");
    }
}
