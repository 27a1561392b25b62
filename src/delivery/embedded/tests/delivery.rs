use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5::Packet as V5Packet;

use super::*;

#[tokio::test]
async fn every_byte_of_the_largest_payload_arrives() {
    let broken = start().await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    assert!(device.subscribe("TopicA/#").await);
    let largest: Vec<u8> = (0..=u8::MAX).cycle().take(PAYLOAD_BYTES_MAX).collect();
    for payload in [&largest[..], &[], &[0, 0xFF, b'\n', 0xC3, 0x28]] {
        broken.send("post-cn-a", "TopicA/x", payload).await;
        assert_eq!(device.receive().await, ("TopicA/x".into(), Bytes::copy_from_slice(payload)));
    }
}

#[tokio::test]
async fn messages_arrive_in_the_order_they_were_published() {
    let broken = start().await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    let publish = async {
        for number in 0..5_000_u32 {
            broken.send("post-cn-a", "TopicA", &number.to_be_bytes()).await;
        }
    };
    let receive = async {
        for number in 0..5_000_u32 {
            assert_eq!(device.receive().await.1, number.to_be_bytes()[..]);
        }
    };
    tokio::join!(publish, receive);
}

#[tokio::test]
async fn a_message_nobody_waits_for_counts_as_delivered() {
    let broken = start().await;
    broken.send("post-cn-a", "TopicA", b"x").await;
    let unknown = broken.broker.publish(&message("post-cn-none", "TopicA", b"x")).await;
    assert_eq!(unknown, Err(PublishError::Refused(RefusedBy::UnknownInstance)));
}

#[tokio::test]
async fn a_stored_session_gets_what_was_sent_while_its_device_was_away() {
    let broken = start().await;
    let mut options = broken.options("post-cn-a", CLIENT);
    options.set_clean_session(false);
    let mut device = TestDevice::connect(options.clone()).await.unwrap();
    assert!(!device.session_present);
    assert!(device.subscribe("TopicA").await);
    device.disconnect().await;
    // Some of it is sent while the connection is being closed.
    for number in 0..100_u8 {
        broken.send("post-cn-a", "TopicA", &[number]).await;
    }
    let mut device = TestDevice::connect(options).await.unwrap();
    assert!(device.session_present);
    for number in 0..100_u8 {
        assert_eq!(device.receive().await.1, [number][..]);
    }
    device.hears_nothing().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_device_that_keeps_coming_back_misses_nothing_and_finds_it_in_order() {
    const MESSAGES: u32 = 4_000;
    let broken = Arc::new(start().await);
    let mut options = broken.options("post-cn-a", CLIENT);
    options.set_clean_session(false);
    // Left to itself the client acknowledges what it has read before it is asked for it.
    options.set_manual_acks(true);
    let mut device = TestDevice::connect(options.clone()).await.unwrap();
    assert!(device.subscribe("TopicA").await);
    let sender = Arc::clone(&broken);
    let publish = tokio::spawn(async move {
        for number in 0..MESSAGES {
            sender.send("post-cn-a", "TopicA", &number.to_be_bytes()).await;
            if number % 20 == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
    });
    // Each connection may repeat what the one before it did not acknowledge, and skips nothing.
    let (mut next, mut connections) = (0, 1);
    while next < MESSAGES {
        let mut expected = None;
        for _ in 0..150 {
            let publish = device.receive_publish().await;
            let number = u32::from_be_bytes(publish.payload[..].try_into().unwrap());
            device.client.ack(&publish).await.unwrap();
            let in_order = expected.map_or(number <= next, |expected| number == expected);
            assert!(
                in_order,
                "{number} after {expected:?} on connection {connections}, next {next}"
            );
            expected = Some(number + 1);
            next = next.max(number + 1);
            if next == MESSAGES {
                break;
            }
        }
        if next < MESSAGES {
            let newer = TestDevice::connect(options.clone()).await.unwrap();
            assert!(newer.session_present);
            device = newer;
            connections += 1;
        }
    }
    publish.await.unwrap();
    assert!(connections > 3, "{connections} connections");
    assert_eq!(broken.dropped("no_session"), 0);
}

#[tokio::test]
async fn an_mqtt_5_device_reads_message_and_instance_id_from_user_properties() {
    let broken = start().await;
    let port = broken.broker.local_addr().port();
    let mut options = v5::MqttOptions::new(CLIENT, "127.0.0.1", port);
    let (user_name, password) = credentials("post-cn-a", CLIENT);
    options.set_credentials(user_name, password);
    let (client, mut events) = v5::AsyncClient::new(options, 10);
    client.subscribe("TopicA", v5::mqttbytes::QoS::AtLeastOnce).await.unwrap();
    let received = async {
        loop {
            match events.poll().await.unwrap() {
                v5::Event::Incoming(V5Packet::SubAck(_)) => {
                    broken.send("post-cn-a", "TopicA", b"x").await;
                }
                v5::Event::Incoming(V5Packet::Publish(publish)) => return publish,
                _ => {}
            }
        }
    };
    let publish = tokio::time::timeout(PATIENCE, received).await.unwrap();
    let properties = publish.properties.unwrap();
    let expected = [("msg_id", "00000000000000000000000000000007"), ("instance_id", "post-cn-a")];
    let expected = expected.map(|(name, value)| (name.to_string(), value.to_string()));
    assert_eq!(properties.user_properties, expected);
    assert_eq!(properties.message_expiry_interval, None);
}

#[tokio::test]
async fn a_p2p_message_reaches_its_client_only_and_without_a_subscription() {
    let broken = start().await;
    let mut target = broken.device("post-cn-a", "GID_Test@@@target").await;
    let mut other = broken.device("post-cn-a", "GID_Test@@@other").await;
    let mut namesake = broken.device("post-cn-b", "GID_Test@@@target").await;
    assert!(other.subscribe("TopicA/#").await);
    assert!(other.subscribe("#").await);
    assert!(!other.subscribe("TopicA/p2p/GID_Test@@@target").await);
    let topic = "TopicA/p2p/GID_Test@@@target";
    broken.send("post-cn-a", topic, b"for you").await;
    assert_eq!(target.receive().await, (topic.into(), Bytes::from_static(b"for you")));
    other.publish(topic, b"from a device").await;
    assert_eq!(target.receive().await.1, b"from a device"[..]);
    other.hears_nothing().await;
    namesake.hears_nothing().await;
}

#[tokio::test]
async fn a_p2p_message_without_a_session_is_dropped_and_counted() {
    let broken = start().await;
    broken.send("post-cn-a", "TopicA/p2p/GID_Test@@@none", b"x").await;
    assert_eq!(broken.dropped("no_session"), 1);
}

#[tokio::test]
async fn the_gauges_follow_the_devices() {
    let broken = start().await;
    let shows = async |state: &str, expected: u64| {
        let line = format!("weir_devices{{instance_id=\"post-cn-a\",state=\"{state}\"}}");
        let reached = async {
            while broken.metric(&line) != expected {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(PATIENCE, reached).await.expect(state);
    };
    let mut options = broken.options("post-cn-a", CLIENT);
    options.set_clean_session(false);
    let stored = TestDevice::connect(options).await.unwrap();
    let clean = broken.device("post-cn-a", "GID_Test@@@0002").await;
    shows("connected", 2).await;
    stored.disconnect().await;
    shows("stored", 1).await;
    clean.disconnect().await;
    shows("connected", 0).await;
    shows("stored", 1).await;
}

#[tokio::test]
async fn a_stopping_broker_lets_devices_read_what_waits_and_takes_nothing_new() {
    let broken = start().await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    for number in 0..200_u8 {
        broken.send("post-cn-a", "TopicA", &[number]).await;
    }
    let read = async {
        for number in 0..200_u8 {
            assert_eq!(device.receive().await.1, [number][..]);
        }
        device.is_closed().await;
    };
    tokio::join!(broken.broker.shutdown(PATIENCE), read);
    let late = broken.broker.publish(&message("post-cn-a", "TopicA", b"x")).await;
    assert_eq!(late, Err(PublishError::Unavailable));
    assert!(tokio::net::TcpStream::connect(broken.broker.local_addr()).await.is_err());
}
