//! The embedded broker seen by real MQTT clients.

mod delivery;
mod device_v5;
mod isolation;
mod many;
mod oversized;
mod publishes;
mod retained;
mod sharing;
mod sign_in;
mod stalled;
mod stored;
mod takeover;

use std::num::NonZeroU32;
use std::time::Duration;

use base64::Engine;
use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use rumqttc::{AsyncClient, ConnectReturnCode, Event, EventLoop, MqttOptions, Packet, QoS};

use tempfile::TempDir;

use super::*;
use crate::clock::{Clock, SystemClock, UnixMillis};
use crate::message::{InstanceId, MessageId, PAYLOAD_BYTES_MAX, Payload, Topic};
use crate::metering::Registry;

const PATIENCE: Duration = Duration::from_secs(10);
/// Long enough for a message that must not come.
const SILENCE: Duration = Duration::from_millis(300);
const CLIENT: &str = "GID_Test@@@0001";

/// For tests that publish more than a device may.
const UNHURRIED: Limits = Limits {
    device_qps: NonZeroU32::new(1_000_000).unwrap(),
    retained_messages_max: 100,
    sign_in_within: Duration::from_secs(15),
    session_messages_max: 1_000,
    session_bytes_max: 16 << 20,
    stalled_after: Duration::from_secs(3),
    write_timeout: Duration::from_secs(5),
};

struct Broken {
    broker: EmbeddedBroker,
    registry: Registry,
    folder: Arc<TempDir>,
}

impl Broken {
    fn metric(&self, line_start: &str) -> u64 {
        let text = String::from_utf8(self.registry.expose().unwrap()).unwrap();
        let line = text.lines().find(|line| line.starts_with(line_start));
        line.and_then(|line| line.rsplit(' ').next()).unwrap().parse().unwrap()
    }

    fn dropped(&self, reason: &str) -> u64 {
        self.metric(&format!(
            "weir_device_messages_dropped_total{{instance_id=\"post-cn-a\",reason=\"{reason}\"}}"
        ))
    }

    async fn send(&self, instance: &str, topic: &str, payload: &[u8]) {
        self.broker.publish(&message(instance, topic, payload)).await.unwrap();
    }

    fn options(&self, instance: &str, client_id: &str) -> MqttOptions {
        let port = self.broker.local_addr().port();
        let mut options = MqttOptions::new(client_id, "127.0.0.1", port);
        let (user_name, password) = credentials(instance, client_id);
        options.set_credentials(user_name, password);
        options.set_max_packet_size(1 << 20, 1 << 20);
        options
    }

    async fn device(&self, instance: &str, client_id: &str) -> TestDevice {
        TestDevice::connect(self.options(instance, client_id)).await.unwrap()
    }
}

async fn start() -> Broken {
    start_with(Limits::default()).await
}

async fn start_with(limits: Limits) -> Broken {
    start_in(Arc::new(tempfile::tempdir().unwrap()), limits, Arc::new(SystemClock)).await
}

fn config(limits: Limits) -> Config {
    let instance = |id: &str, account: &str| Instance {
        id: InstanceId::parse(id).unwrap(),
        account: account.into(),
        topics: vec!["TopicA".into(), "post-cn-b".into()],
        devices: vec![Device { name: "lamp".into(), password: Secret::new("dark".into()) }],
    };
    let key = |id: &str, secret: &str, account: &str| AccessKey {
        id: id.into(),
        secret: Secret::new(secret.into()),
        account: account.into(),
    };
    Config {
        listen: ([127, 0, 0, 1], 0).into(),
        connections_max: 1_000,
        access_keys: vec![key("LTAI1", "secret-1", "1"), key("LTAI2", "secret-2", "2")],
        instances: vec![instance("post-cn-a", "1"), instance("post-cn-b", "2")],
        limits,
    }
}

/// On what a former broker left in a folder, if there was one.
async fn start_in(folder: Arc<TempDir>, limits: Limits, clock: Arc<dyn Clock>) -> Broken {
    let config = config(limits);
    start_as(&config, folder, clock).await.unwrap()
}

async fn start_as(
    config: &Config,
    folder: Arc<TempDir>,
    clock: Arc<dyn Clock>,
) -> Result<Broken, StartError> {
    let ids: Vec<_> = config.instances.iter().map(|instance| instance.id.clone()).collect();
    let registry = Registry::new();
    let metrics = DeviceMetrics::new(&registry, &ids).unwrap();
    let broker = EmbeddedBroker::start(config, folder.path(), clock, &metrics).await?;
    Ok(Broken { broker, registry, folder })
}

fn message(instance: &str, topic: &str, payload: &[u8]) -> Message {
    Message {
        id: MessageId::from_u128(7),
        instance: InstanceId::parse(instance).unwrap(),
        topic: Topic::parse(topic).unwrap(),
        payload: Payload::new(Bytes::copy_from_slice(payload)).unwrap(),
        admitted_at: UnixMillis(0),
    }
}

fn sign(client_id: &str, secret: &str) -> String {
    let mut mac = Hmac::<sha1::Sha1>::new_from_slice(secret.as_bytes()).unwrap();
    mac.update(client_id.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(mac.finalize().into_bytes())
}

fn credentials(instance: &str, client_id: &str) -> (String, String) {
    let (key, secret) = match instance {
        "post-cn-a" => ("LTAI1", "secret-1"),
        _ => ("LTAI2", "secret-2"),
    };
    (format!("Signature|{key}|{instance}"), sign(client_id, secret))
}

/// A device that speaks MQTT 3.1.1.
struct TestDevice {
    client: AsyncClient,
    events: EventLoop,
    session_present: bool,
}

impl TestDevice {
    async fn connect(options: MqttOptions) -> Result<Self, ConnectReturnCode> {
        let (client, mut events) = AsyncClient::new(options, 1_000);
        events.network_options.set_tcp_nodelay(true);
        events.network_options.set_connection_timeout(PATIENCE.as_secs());
        match tokio::time::timeout(PATIENCE, events.poll()).await.expect("a CONNACK") {
            Ok(Event::Incoming(Packet::ConnAck(ack))) => {
                Ok(Self { client, events, session_present: ack.session_present })
            }
            Err(rumqttc::ConnectionError::ConnectionRefused(code)) => Err(code),
            other => panic!("{other:?}"),
        }
    }

    async fn subscribe(&mut self, filter: &str) -> bool {
        self.client.subscribe(filter, QoS::AtLeastOnce).await.unwrap();
        loop {
            if let Packet::SubAck(ack) = self.packet().await {
                return ack.return_codes[0]
                    == rumqttc::SubscribeReasonCode::Success(QoS::AtLeastOnce);
            }
        }
    }

    async fn packet(&mut self) -> Packet {
        let next = async {
            loop {
                if let Event::Incoming(packet) = self.events.poll().await.expect("connected") {
                    return packet;
                }
            }
        };
        tokio::time::timeout(PATIENCE, next).await.expect("a packet in time")
    }

    async fn receive(&mut self) -> (String, Bytes) {
        let publish = self.receive_publish().await;
        (publish.topic, publish.payload)
    }

    async fn receive_publish(&mut self) -> rumqttc::Publish {
        loop {
            if let Packet::Publish(publish) = self.packet().await {
                return publish;
            }
        }
    }

    /// Nothing is published to it for a while.
    async fn hears_nothing(&mut self) {
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

    /// The broker ends the connection.
    async fn is_closed(&mut self) {
        let closed = async { while self.events.poll().await.is_ok() {} };
        tokio::time::timeout(PATIENCE, closed).await.expect("a closed connection");
    }

    /// Publishes and waits for the PUBACK.
    async fn publish(&mut self, topic: &str, payload: &[u8]) {
        self.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
        while !matches!(self.packet().await, Packet::PubAck(_)) {}
    }

    async fn publish_retained(&mut self, topic: &str, payload: &[u8]) {
        self.client.publish(topic, QoS::AtLeastOnce, true, payload).await.unwrap();
        while !matches!(self.packet().await, Packet::PubAck(_)) {}
    }

    async fn unsubscribe(&mut self, filter: &str) {
        self.client.unsubscribe(filter).await.unwrap();
        while !matches!(self.packet().await, Packet::UnsubAck(_)) {}
    }

    /// Says good-bye and closes, as the protocol asks of a device.
    async fn disconnect(mut self) {
        self.client.disconnect().await.unwrap();
        let gone = Event::Outgoing(rumqttc::Outgoing::Disconnect);
        while self.events.poll().await.expect("connected") != gone {}
    }
}
