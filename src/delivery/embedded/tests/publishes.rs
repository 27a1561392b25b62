use rumqttc::LastWill;
use rumqttc::v5::mqttbytes::v5::{PubAckReason, PublishProperties};

use super::*;

const PER_SECOND: u32 = 5;

fn limited() -> Limits {
    Limits { device_qps: NonZeroU32::new(PER_SECOND).unwrap(), ..UNHURRIED }
}

impl Broken {
    fn published(&self) -> u64 {
        self.metric("weir_device_messages_published_total{instance_id=\"post-cn-a\"}")
    }
}

#[tokio::test]
async fn an_mqtt_5_device_reads_in_its_puback_why_a_message_is_refused() {
    let broken = start_with(UNHURRIED).await;
    let mut listener = broken.device("post-cn-a", "GID_Test@@@ear").await;
    assert!(listener.subscribe("#").await);
    let mut device = broken.device_v5("post-cn-a", CLIENT).await;
    let large = vec![0; PAYLOAD_BYTES_MAX + 1];
    let long = format!("TopicA/{}", "t".repeat(58));
    let none = PublishProperties::default;
    let wordy = PublishProperties {
        user_properties: vec![("name".into(), "v".repeat(9_000))],
        ..PublishProperties::default()
    };
    for (topic, payload, properties, reason) in [
        ("TopicB", &b"x"[..], none(), PubAckReason::NotAuthorized),
        ("$SYS/brokers", b"x", none(), PubAckReason::NotAuthorized),
        ("/TopicA", b"x", none(), PubAckReason::NotAuthorized),
        (&long, b"x", none(), PubAckReason::TopicNameInvalid),
        ("TopicA/p2p/", b"x", none(), PubAckReason::TopicNameInvalid),
        ("TopicA", &large, none(), PubAckReason::QuotaExceeded),
        ("TopicA", b"x", wordy, PubAckReason::QuotaExceeded),
        ("TopicA", &large[1..], none(), PubAckReason::Success),
    ] {
        let answer = device.publish(topic, payload, false, properties).await;
        assert_eq!(answer, reason, "{topic}");
    }
    assert_eq!(listener.receive().await.1.len(), PAYLOAD_BYTES_MAX);
    listener.hears_nothing().await;
    assert_eq!((broken.dropped("refused"), broken.published()), (7, 1));
}

#[tokio::test]
async fn an_mqtt_3_device_loses_its_connection_over_a_refused_message() {
    let broken = start_with(UNHURRIED).await;
    let mut listener = broken.device("post-cn-a", "GID_Test@@@ear").await;
    assert!(listener.subscribe("#").await);
    let large = vec![0; PAYLOAD_BYTES_MAX + 1];
    let long = format!("TopicA/{}", "t".repeat(58));
    let cases = [("TopicB", &b"x"[..]), ("$SYS/x", b"x"), (&long, b"x"), ("TopicA", &large)];
    for (topic, payload) in cases {
        let mut device = broken.device("post-cn-a", CLIENT).await;
        device.client.publish(topic, QoS::AtLeastOnce, false, payload).await.unwrap();
        device.is_closed().await;
        // With QoS 0 nothing was promised: the message is dropped and the device stays.
        let mut device = broken.device("post-cn-a", CLIENT).await;
        device.client.publish(topic, QoS::AtMostOnce, false, payload).await.unwrap();
        device.publish("TopicA", b"alive").await;
        assert_eq!(listener.receive().await.1, b"alive"[..]);
    }
    listener.hears_nothing().await;
    assert_eq!(broken.dropped("refused"), 2 * cases.len() as u64);
}

#[tokio::test]
async fn a_device_above_its_rate_is_told_so_and_the_others_are_not_slowed() {
    let broken = start_with(limited()).await;
    let mut listener = broken.device("post-cn-a", "GID_Test@@@ear").await;
    assert!(listener.subscribe("#").await);
    let mut fast = broken.device_v5("post-cn-a", CLIENT).await;
    let mut refused = 0;
    // More than it could send in the whole time the loop may take.
    for _ in 0..200 {
        let answer = fast.publish("TopicA", b"x", false, PublishProperties::default()).await;
        assert!(matches!(answer, PubAckReason::Success | PubAckReason::QuotaExceeded));
        refused += u64::from(answer == PubAckReason::QuotaExceeded);
    }
    assert!(refused > 0);
    assert_eq!(broken.dropped("rate_limited"), refused);
    assert_eq!(broken.published(), 200 - refused);
    let mut calm = broken.device("post-cn-a", "GID_Test@@@calm").await;
    for _ in 0..PER_SECOND {
        calm.publish("TopicA", b"x").await;
    }
    for _ in 0..200 - refused + u64::from(PER_SECOND) {
        listener.receive().await;
    }
    listener.hears_nothing().await;
    // The same id in another instance has a rate of its own.
    let mut namesake = broken.device_v5("post-cn-b", CLIENT).await;
    let answer = namesake.publish("TopicA", b"x", false, PublishProperties::default()).await;
    assert_eq!(answer, PubAckReason::Success);
}

#[tokio::test]
async fn coming_back_does_not_renew_the_rate() {
    let limits = Limits { device_qps: NonZeroU32::MIN, ..UNHURRIED };
    let broken = start_with(limits).await;
    let mut connections = 0;
    while broken.dropped("rate_limited") == 0 {
        let mut device = broken.device_v5("post-cn-a", CLIENT).await;
        device.publish("TopicA", b"x", false, PublishProperties::default()).await;
        device.disconnect().await;
        connections += 1;
        assert!(connections < 1_000, "no connection was held to the rate of the one before");
    }
}

#[tokio::test]
async fn a_will_is_held_to_the_same_limits() {
    let broken = start_with(UNHURRIED).await;
    let mut listener = broken.device("post-cn-a", "GID_Test@@@ear").await;
    assert!(listener.subscribe("#").await);
    let long = format!("TopicA/{}", "t".repeat(58));
    let cases = [("TopicB", 1), ("$SYS/x", 1), (&long, 1), ("TopicA", PAYLOAD_BYTES_MAX - 1)];
    for (topic, bytes) in cases {
        let mut options = broken.options("post-cn-a", CLIENT);
        let will = LastWill::new(topic, vec![1; bytes], QoS::AtLeastOnce, true);
        options.set_last_will(will);
        drop(TestDevice::connect(options).await.unwrap());
    }
    assert_eq!(listener.receive().await.1.len(), PAYLOAD_BYTES_MAX - 1);
    listener.hears_nothing().await;
    assert_eq!((broken.dropped("refused"), broken.published()), (3, 1));
}

#[tokio::test]
async fn a_will_takes_a_token_and_is_dropped_without_one() {
    let limits = Limits { device_qps: NonZeroU32::MIN, ..UNHURRIED };
    let broken = start_with(limits).await;
    let mut listener = broken.device("post-cn-a", "GID_Test@@@ear").await;
    assert!(listener.subscribe("#").await);
    let mut deaths = 0;
    while broken.dropped("rate_limited") == 0 {
        let mut options = broken.options("post-cn-a", CLIENT);
        options.set_last_will(LastWill::new("TopicA", "gone", QoS::AtLeastOnce, false));
        drop(TestDevice::connect(options).await.unwrap());
        deaths += 1;
        assert!(deaths < 1_000, "no will was held to the rate");
    }
    assert!(broken.published() < deaths);
}

#[tokio::test]
async fn a_qos_2_message_above_the_limits_is_refused_in_its_pubrec() {
    let broken = start_with(UNHURRIED).await;
    let mut listener = broken.device("post-cn-a", "GID_Test@@@ear").await;
    assert!(listener.subscribe("#").await);
    let mut device = broken.device("post-cn-a", CLIENT).await;
    device.client.publish("TopicA", QoS::ExactlyOnce, false, "taken").await.unwrap();
    while !matches!(device.packet().await, Packet::PubComp(_)) {}
    assert_eq!(listener.receive().await.1, b"taken"[..]);
    device.client.publish("TopicB", QoS::ExactlyOnce, false, "refused").await.unwrap();
    device.is_closed().await;
    listener.hears_nothing().await;
}
