use std::num::NonZeroU16;

use bytes::BytesMut;
use rmqtt::inflight::{MomentStatus, OutInflightMessage};
use rmqtt::shared::Shared;
use rmqtt::types::Id;
use rumqttc::v5::mqttbytes::QoS as V5QoS;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Filter, PublishProperties};
use rumqttc::v5::{AsyncClient, ConnectionError, MqttOptions, StateError};

use super::device_v5::V5Device;
use super::stored::restart;
use super::*;
use crate::delivery::embedded::listener::PACKET_BYTES_MAX;

/// A device that takes packets of so many bytes.
fn options(broken: &Broken, bytes_max: Option<u32>, aliases: Option<u16>) -> MqttOptions {
    let mut options = broken.options_v5("post-cn-a", CLIENT);
    let properties = ConnectProperties {
        max_packet_size: bytes_max,
        topic_alias_max: aliases,
        session_expiry_interval: Some(3_600),
        ..ConnectProperties::new()
    };
    options.set_clean_start(false).set_connect_properties(properties);
    options
}

async fn sign_in(broken: &Broken, bytes_max: Option<u32>, aliases: Option<u16>) -> V5Device {
    let mut device = V5Device::connect(options(broken, bytes_max, aliases)).await;
    let filter = Filter::new("TopicA/#", V5QoS::AtLeastOnce);
    device.subscribe_with(filter, Some(300)).await;
    device
}

/// Everything a publisher can put around a payload.
fn properties() -> PublishProperties {
    PublishProperties {
        payload_format_indicator: Some(1),
        message_expiry_interval: Some(3_600),
        response_topic: Some("TopicA/answers".into()),
        correlation_data: Some(Bytes::from_static(b"correlation")),
        user_properties: vec![("name".into(), "value".into()); 9],
        content_type: Some("text/plain".into()),
        ..PublishProperties::default()
    }
}

async fn publish(publisher: &mut V5Device, payload: &[u8]) {
    let reason = publisher.publish("TopicA/x", payload, false, properties()).await;
    assert_eq!(reason, rumqttc::v5::mqttbytes::v5::PubAckReason::Success);
}

#[tokio::test]
async fn a_device_is_given_its_largest_packet_and_not_one_byte_more() {
    let broken = start().await;
    let mut publisher = broken.device_v5("post-cn-a", "GID_A@@@publisher").await;
    for (aliases, payload_bytes) in [(None, 100), (Some(8), 100), (None, 20_000)] {
        let payload = vec![b'x'; payload_bytes];
        let mut device = sign_in(&broken, Some(PACKET_BYTES_MAX), aliases).await;
        publish(&mut publisher, &payload).await;
        let mut whole = BytesMut::new();
        device.receive().await.write(&mut whole).unwrap();
        // Its header is counted as the longest there is: five bytes, where it has three or four.
        let header_bytes = if whole.len() < 0x4000 { 3 } else { 4 };
        let bytes = u32::try_from(whole.len() - header_bytes + 5).unwrap();

        let mut device = sign_in(&broken, Some(bytes), aliases).await;
        publish(&mut publisher, &payload).await;
        assert_eq!(device.receive().await.payload.len(), payload_bytes, "{bytes} bytes");

        let before = broken.dropped("too_large");
        let mut device = sign_in(&broken, Some(bytes - 1), aliases).await;
        publish(&mut publisher, &payload).await;
        publish(&mut publisher, b"small").await;
        assert_eq!(device.receive().await.payload, b"small"[..], "and the connection lives");
        assert_eq!(broken.dropped("too_large") - before, 1);
    }
    assert_eq!(broken.dropped("expired"), 0);
}

#[tokio::test]
async fn a_message_too_large_for_its_device_does_not_stand_before_later_ones_of_its_session() {
    let broken = start().await;
    sign_in(&broken, Some(1_000), None).await.disconnect().await;
    broken.send("post-cn-a", "TopicA/x", &[0; 2_000]).await;
    broken.send("post-cn-a", "TopicA/x", b"small").await;
    let mut device = V5Device::connect(options(&broken, Some(1_000), None)).await;
    assert!(device.connack.session_present);
    assert_eq!(device.receive().await.payload, b"small"[..]);
    device.hears_nothing().await;
    device.disconnect().await;
    broken.broker.settled().await.unwrap();
    let broken = restart(broken.crash()).await;
    let mut device = V5Device::connect(options(&broken, None, None)).await;
    device.hears_nothing().await;
}

#[tokio::test]
async fn an_owed_pubrel_is_sent_again_to_a_device_that_would_not_take_its_message_any_more() {
    let broken = start().await;
    let device = sign_in(&broken, None, None).await;
    let tenant = broken.broker.tenants.of_instance("post-cn-a").unwrap();
    let session = tenant.sessions.entry(Id::from(tenant.node, CLIENT.into())).session().unwrap();
    let mut publish = packet(&message("post-cn-a", "TopicA", &[0; 2_000]));
    (publish.qos, publish.packet_id) = (rmqtt::types::QoS::ExactlyOnce, NonZeroU16::new(7));
    let owed = OutInflightMessage::new(MomentStatus::UnComplete, tenant.weir().clone(), publish);
    session.out_inflight().write().await.push_back(owed);
    device.disconnect().await;
    let (_client, mut events) = AsyncClient::new(options(&broken, Some(1_000), None), 10);
    // It has forgotten the message, and says so when it is asked to release it.
    let asked = async {
        loop {
            if let Err(error) = events.poll().await {
                return error;
            }
        }
    };
    let asked = tokio::time::timeout(PATIENCE, asked).await.expect("a PUBREL");
    assert!(matches!(asked, ConnectionError::MqttState(StateError::Unsolicited(7))), "{asked}");
}
