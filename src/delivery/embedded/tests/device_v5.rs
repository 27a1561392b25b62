use rumqttc::v5::mqttbytes::QoS as V5QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, Filter, Packet, PubAckReason, Publish, PublishProperties, SubscribeProperties,
    SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};

use super::*;

/// A device that speaks MQTT 5.
pub(super) struct V5Device {
    pub(super) client: AsyncClient,
    events: EventLoop,
    pub(super) connack: ConnAck,
}

impl Broken {
    pub(super) fn options_v5(&self, instance: &str, client_id: &str) -> MqttOptions {
        let port = self.broker.local_addr().port();
        let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
        let (user_name, password) = credentials(instance, client_id);
        options.set_credentials(user_name, password);
        options
    }

    pub(super) async fn device_v5(&self, instance: &str, client_id: &str) -> V5Device {
        V5Device::connect(self.options_v5(instance, client_id)).await
    }
}

impl V5Device {
    pub(super) async fn connect(options: MqttOptions) -> Self {
        let (client, mut events) = AsyncClient::new(options, 1_000);
        match tokio::time::timeout(PATIENCE, events.poll()).await.expect("a CONNACK") {
            Ok(Event::Incoming(Packet::ConnAck(connack))) => Self { client, events, connack },
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn subscribe(&mut self, filter: &str) -> SubscribeReasonCode {
        self.subscribe_with(Filter::new(filter, V5QoS::AtLeastOnce), None).await
    }

    pub(super) async fn subscribe_with(
        &mut self,
        filter: Filter,
        id: Option<usize>,
    ) -> SubscribeReasonCode {
        let properties = SubscribeProperties { id, user_properties: vec![] };
        self.client.subscribe_many_with_properties([filter], properties).await.unwrap();
        loop {
            if let Packet::SubAck(ack) = self.packet().await {
                return ack.return_codes[0];
            }
        }
    }

    /// Publishes with QoS 1 and returns what the PUBACK says.
    pub(super) async fn publish(
        &mut self,
        topic: &str,
        payload: &[u8],
        retain: bool,
        properties: PublishProperties,
    ) -> PubAckReason {
        let payload = payload.to_vec();
        self.client
            .publish_with_properties(topic, V5QoS::AtLeastOnce, retain, payload, properties)
            .await
            .unwrap();
        loop {
            if let Packet::PubAck(ack) = self.packet().await {
                return ack.reason;
            }
        }
    }

    pub(super) async fn packet(&mut self) -> Packet {
        let next = async {
            loop {
                if let Event::Incoming(packet) = self.events.poll().await.expect("connected") {
                    return packet;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("a packet in time")
    }

    pub(super) async fn receive(&mut self) -> Publish {
        loop {
            if let Packet::Publish(publish) = self.packet().await {
                return publish;
            }
        }
    }

    pub(super) async fn hears_nothing(&mut self) {
        let heard = async {
            loop {
                if let Ok(Event::Incoming(Packet::Publish(publish))) = self.events.poll().await {
                    return publish;
                }
            }
        };
        if let Ok(publish) = tokio::time::timeout(SILENCE, heard).await {
            panic!("heard {publish:?}");
        }
    }

    pub(super) async fn is_closed(&mut self) {
        let closed = async { while self.events.poll().await.is_ok() {} };
        tokio::time::timeout(PATIENCE, closed).await.expect("a closed connection");
    }

    pub(super) async fn disconnect(mut self) {
        self.client.disconnect().await.unwrap();
        let gone = Event::Outgoing(rumqttc::Outgoing::Disconnect);
        while self.events.poll().await.expect("connected") != gone {}
    }
}
