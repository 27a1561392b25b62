//! An external broker, spoken to in MQTT 5 or 3.1.1.
//!
//! The packets are rumqttc's (0.25); the connection is not its event loop but a lane of ours.
//! What goes out again after a reconnect, and in which order, has to be weir's own decision, while
//! that loop gives packet ids and resends by itself, loses acknowledgements that arrive in one read
//! with the end of a connection, waits for one slow write without reading or pinging, and leaves a
//! message behind when a broker refuses the one that held its packet id. A publisher needs five
//! packets; `docs/brokers.md` has the comparison.
//!
//! Never: counts a message as delivered before its PUBACK, or lets a newer one of its topic
//! overtake it on its first way out.

mod backoff;
mod client_id;
mod config;
mod dial;
mod in_flight;
mod lane;
mod packet;
mod session;
mod template;
#[cfg(test)]
mod tests;
mod tls;

pub use config::{
    Address, CLIENT_ID_BYTES_MAX, CONNECTIONS_MAX, Config, IN_FLIGHT_MESSAGES_MAX,
    KEEP_ALIVE_BOUNDS, Login, Protocol, Tls, TlsFiles,
};
pub use template::Template;

use std::hash::Hasher;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::select_all;
use parking_lot::Mutex;
use siphasher::sip::SipHasher13;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use self::in_flight::InFlight;
use self::lane::{Lane, Parcel};
use super::broker::{Broker, PublishError, Ticket, WINDOW_MESSAGES_MAX};
use crate::clock::Clock;
use crate::message::Message;
use crate::metering::DeliveryMetrics;

/// The client id cannot be kept.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct StartError {
    path: PathBuf,
    source: io::Error,
}

/// Connections to an external broker.
pub struct MqttBroker {
    template: Template,
    lanes: Vec<mpsc::Sender<Parcel>>,
    stop: watch::Sender<bool>,
    tasks: Mutex<Vec<JoinHandle<()>>>,
}

impl MqttBroker {
    /// Begins to connect, and does not wait for it: weir takes messages while the broker is away.
    /// `couriers` is how many hand messages over.
    ///
    /// # Errors
    /// [`StartError`] if a client id has to be made and cannot be kept.
    pub fn start(
        config: Config,
        data_dir: &Path,
        couriers: usize,
        clock: &Arc<dyn Clock>,
        metrics: &DeliveryMetrics,
    ) -> Result<Self, StartError> {
        let path = data_dir.join(client_id::file());
        let id = match &config.client_id {
            Some(id) => id.clone(),
            None => {
                client_id::open_or_create(data_dir).map_err(|source| StartError { path, source })?
            }
        };
        let (stop, stopped) = watch::channel(false);
        let (template, connections) = (config.topic.clone(), config.connections.max(1));
        let config = Arc::new(config);
        let mut lanes = vec![];
        let mut tasks = vec![];
        for number in 0..connections {
            // Room for all that may be handed over: a lane never keeps anybody waiting.
            let (lane, intake) = mpsc::channel(couriers.max(1) * WINDOW_MESSAGES_MAX);
            let client_id = client_id::numbered(&id, number, connections);
            let task = Lane {
                config: Arc::clone(&config),
                client_id,
                intake,
                table: InFlight::new(),
                clock: Arc::clone(clock),
                metrics: metrics.clone(),
                stop: stopped.clone(),
            };
            lanes.push(lane);
            tasks.push(tokio::spawn(task.run()));
        }
        Ok(Self { template, lanes, stop, tasks: Mutex::new(tasks) })
    }

    /// Waits until one of the connections is not made again: a bug, unless weir stops.
    pub async fn ended(&self) {
        select_all(self.lanes.iter().map(|lane| Box::pin(lane.closed()))).await;
    }

    /// Says DISCONNECT and ends; what is not acknowledged goes out again after the next start.
    pub async fn shutdown(&self, grace: Duration) {
        self.stop.send_replace(true);
        let tasks = std::mem::take(&mut *self.tasks.lock());
        let ended = async {
            for task in tasks {
                if let Err(error) = task.await {
                    tracing::error!(%error, "a connection to the broker ended badly");
                }
            }
        };
        if tokio::time::timeout(grace, ended).await.is_err() {
            tracing::warn!("the broker does not take weir's farewell");
        }
    }

    /// The connection of a message's topic; always the same one, so that its order holds.
    fn lane(&self, message: &Message) -> Option<&mpsc::Sender<Parcel>> {
        let mut hasher = SipHasher13::new();
        hasher.write(message.instance.as_str().as_bytes());
        hasher.write_u8(b'/');
        hasher.write(message.topic.as_str().as_bytes());
        let hash = usize::try_from(hasher.finish() >> 32).unwrap_or_default();
        self.lanes.get(hash % self.lanes.len())
    }
}

impl Broker for MqttBroker {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        self.hand_over(message).await.await
    }

    async fn hand_over(&self, message: &Message) -> Ticket {
        let (settler, ticket) = oneshot::channel();
        let topic = Bytes::from(self.template.topic(message));
        let parcel = Parcel { message: message.clone(), topic, settler };
        let Some(lane) = self.lane(message) else {
            return Ticket::settled(Err(PublishError::Unavailable));
        };
        match lane.try_send(parcel) {
            Ok(()) => Ticket::open(ticket),
            Err(_) => Ticket::settled(Err(PublishError::Unavailable)),
        }
    }
}
