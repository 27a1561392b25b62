//! Socket <-> `SendMessage`: hyper over HTTP/1.1 and h2c, every call shape of the API, and the one
//! table of errors.
//!
//! Never: decide who may send, keep state of a caller, or say 200 for what no proof stands for.

mod access;
mod body;
mod connection;
mod crossing;
mod deadline;
mod entrance;
mod listener;
mod long_target;
mod openapi;
mod peer;
mod problem;
mod proxy_header;
mod request;
mod request_id;
mod response;
mod service;
mod socket;

#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::watch;

pub use access::{AccessConfig, AccessLog, AccessWriter, Destination, FILE_BYTES_MIN};
pub use openapi::{components, paths};
pub use peer::{Network, NetworkError, Proxies};
pub use response::{CODES, ThrottleStatus};

use crate::admission::Admission;
use crate::clock::Clock;
use crate::metering::WireMetrics;
use crate::queue::Queue;
use crate::tls;

use connection::Protocols;
use entrance::Entrance;
use request::BodySpace;
use request_id::RequestIds;
use service::Service;

/// Shortest and longest [`Deadlines`] and drain grace that make sense.
pub const DEADLINE_BOUNDS: (Duration, Duration) =
    (Duration::from_millis(100), Duration::from_secs(3_600));
/// Bytes in memory at a time of request bodies, long request lines and large HTTP/2 heads, of all
/// connections; beyond it callers are told to come back (SystemOverFlow). About 900 of the largest.
pub const BODIES_BYTES_MAX: usize = 256 * 1024 * 1024;
/// Most connections a front may be given.
pub const CONNECTIONS_MAX: usize = 1_000_000;

/// How the data port serves.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Open connections at most, 1 to [`CONNECTIONS_MAX`]; more wait in the kernel's backlog.
    /// Default 10,000.
    pub connections_max: usize,
    /// How long a client may take.
    pub deadlines: Deadlines,
    /// How long open calls have when weir shuts down, within [`DEADLINE_BOUNDS`]. Default 30 s.
    pub drain: Duration,
    /// The status of a throttled call. Default 429.
    pub throttle_status: ThrottleStatus,
}

/// How long a client may take, each within [`DEADLINE_BOUNDS`].
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// From the accepted connection, or the end of its TLS handshake, to its first bytes; as long
    /// for the handshake itself, and for a proxy's header. Default 10 s.
    pub first_byte: Duration,
    /// From the first byte of a head to its end, and for an HTTP/2 ping to be answered. Default
    /// 10 s.
    pub header: Duration,
    /// From a head to the end of its body. Default 30 s.
    pub body: Duration,
    /// Between two requests, and between two HTTP/2 pings; a connection that was in use may stay
    /// twice as long. Default 75 s.
    pub idle: Duration,
    /// For the client to take any byte of an answer. Default 30 s.
    pub write: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            first_byte: Duration::from_secs(10),
            header: Duration::from_secs(10),
            body: Duration::from_secs(30),
            idle: Duration::from_secs(75),
            write: Duration::from_secs(30),
        }
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connections_max: 10_000,
            deadlines: Deadlines::default(),
            drain: Duration::from_secs(30),
            throttle_status: ThrottleStatus::default(),
        }
    }
}

/// What ALPN offers, the best first.
pub const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The HTTP front-end.
pub struct Front {
    config: Config,
    service: Service,
    tls: Option<Arc<tls::Server>>,
}

impl Front {
    /// Puts a front before an admission and a queue. `metrics` counts by [`CODES`]; `seed` is
    /// random, and part of every RequestId.
    #[must_use]
    pub fn new(
        config: Config,
        admission: Arc<Admission>,
        queue: Queue,
        metrics: WireMetrics,
        clock: Arc<dyn Clock>,
        seed: u128,
    ) -> Self {
        let service = Service {
            admission,
            queue,
            metrics,
            clock,
            request_ids: RequestIds::new(seed),
            body_deadline: config.deadlines.body,
            body_space: BodySpace::new(BODIES_BYTES_MAX),
            throttle_status: config.throttle_status,
            access: None,
            proxies: Arc::default(),
        };
        Self { config, service, tls: None }
    }

    #[cfg(test)]
    fn with_body_space(mut self, space: BodySpace) -> Self {
        self.service.body_space = space;
        self
    }

    /// Speaks TLS, with [`ALPN`], and nothing else.
    #[must_use]
    pub fn with_tls(self, tls: Option<Arc<tls::Server>>) -> Self {
        Self { tls, ..self }
    }

    /// Believes these proxies about whom they speak for.
    #[must_use]
    pub fn with_proxies(mut self, proxies: Proxies) -> Self {
        self.service.proxies = Arc::new(proxies);
        self
    }

    /// Writes answered calls down.
    #[must_use]
    pub fn with_access_log(mut self, log: Option<AccessLog>) -> Self {
        self.service.access = log;
        self
    }

    /// Serves until `shutdown` turns true or its sender is gone, then serves who still waits in the
    /// kernel's backlog. Returns when every connection has ended, or [`Config::drain`] has passed
    /// and the rest is cut.
    pub async fn serve(self, listener: TcpListener, shutdown: watch::Receiver<bool>) {
        let Self { config, service, tls } = self;
        let entrance = Arc::new(Entrance {
            tls,
            proxies: Arc::clone(&service.proxies),
            patience: config.deadlines.first_byte,
            metrics: service.metrics.clone(),
            protocols: Protocols::new(config.deadlines, Arc::new(service)),
        });
        let cap = config.connections_max;
        listener::serve(entrance, listener, cap, config.drain, shutdown).await;
    }
}
