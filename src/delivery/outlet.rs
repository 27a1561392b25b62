use std::net::SocketAddr;
use std::time::Duration;

use super::broker::{Broker, PublishError, Ticket, Unsettled};
use super::embedded::EmbeddedBroker;
use super::mqtt::MqttBroker;
use crate::message::Message;

/// The one broker of this weir: its own, or somebody else's.
pub enum Outlet {
    /// In this process.
    Embedded(Box<EmbeddedBroker>),
    /// Elsewhere.
    Mqtt(MqttBroker),
}

impl Outlet {
    /// Where devices connect; nowhere here if the broker is elsewhere.
    #[must_use]
    pub fn devices(&self) -> Option<SocketAddr> {
        match self {
            Self::Embedded(broker) => Some(broker.local_addr()),
            Self::Mqtt(_) => None,
        }
    }

    /// Waits until a part of it has ended by itself, which is a bug.
    pub async fn ended(&self) {
        match self {
            Self::Embedded(_) => std::future::pending().await,
            Self::Mqtt(broker) => broker.ended().await,
        }
    }

    /// Takes leave of devices or of the broker, within `grace`.
    pub async fn shutdown(&self, grace: Duration) {
        match self {
            Self::Embedded(broker) => broker.shutdown(grace).await,
            Self::Mqtt(broker) => broker.shutdown(grace).await,
        }
    }
}

impl Broker for Outlet {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        match self {
            Self::Embedded(broker) => broker.publish(message).await,
            Self::Mqtt(broker) => broker.publish(message).await,
        }
    }

    async fn hand_over(&self, message: &Message) -> Ticket {
        match self {
            Self::Embedded(broker) => broker.hand_over(message).await,
            Self::Mqtt(broker) => broker.hand_over(message).await,
        }
    }

    async fn settled(&self) -> Result<(), Unsettled> {
        match self {
            Self::Embedded(broker) => broker.settled().await,
            Self::Mqtt(broker) => broker.settled().await,
        }
    }
}
