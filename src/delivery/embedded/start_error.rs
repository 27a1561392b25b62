use std::net::SocketAddr;

use super::store::{FILE, StoreError};

/// Why the embedded broker did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The address cannot be bound.
    #[error(
        "delivery.embedded.listen: cannot listen on {listen}: {reason}; stop what listens there \
         or choose another address"
    )]
    Bind {
        /// The address asked for.
        listen: SocketAddr,
        /// What the operating system says.
        reason: rmqtt::Error,
    },
    /// What was stored of sessions cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A stored session does not fit into the broker.
    #[error("{FILE}: the session of {client_id}: {reason}")]
    Restore {
        /// The client id.
        client_id: String,
        /// What the broker says.
        reason: rmqtt::Error,
    },
    /// No thread to read what was stored.
    #[error("threads: {0}")]
    Threads(String),
    /// The address of another listener of devices cannot be bound.
    #[error("{key}: cannot listen on {listen}: {reason}; free the address or choose another")]
    Link {
        /// The configuration key.
        key: &'static str,
        /// The address asked for.
        listen: SocketAddr,
        /// What the operating system says.
        reason: String,
    },
}
