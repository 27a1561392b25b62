use std::num::NonZeroU32;

use rumqttc::LastWill;
use rumqttc::v5::mqttbytes::QoS as V5QoS;
use rumqttc::v5::mqttbytes::v5::{
    Filter, PubAckReason, PublishProperties, RetainForwardRule, SubscribeReasonCode,
};

use super::stored::restart;
use super::*;

fn expiring(seconds: u32) -> PublishProperties {
    PublishProperties { message_expiry_interval: Some(seconds), ..PublishProperties::default() }
}

#[tokio::test]
async fn the_last_retained_message_of_a_topic_waits_for_a_late_subscriber() {
    let broken = start().await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    assert!(device.subscribe("TopicA/#").await);
    for payload in [&b"old"[..], b"new"] {
        device.publish_retained("TopicA/x", payload).await;
        let live = device.receive_publish().await;
        assert_eq!((live.retain, &live.payload[..]), (false, payload));
    }
    device.publish("TopicA/x", b"passing").await;
    device.publish_retained("TopicA/y", b"other").await;
    for filter in ["#", "TopicA/x", "+/x", "TopicA/x/#"] {
        let mut late = broken.device("post-cn-a", "GID_Test@@@late").await;
        assert!(late.subscribe(filter).await);
        let kept = late.receive_publish().await;
        let expected = (true, "TopicA/x".to_owned(), &b"new"[..]);
        assert_eq!((kept.retain, kept.topic, &kept.payload[..]), expected, "{filter}");
        if filter == "#" {
            assert_eq!(late.receive().await.0, "TopicA/y");
        }
        late.hears_nothing().await;
    }
}

#[tokio::test]
async fn an_empty_payload_clears_the_topic_and_is_delivered() {
    let broken = start().await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    device.publish_retained("TopicA", b"kept").await;
    assert!(device.subscribe("TopicA").await);
    assert_eq!(device.receive().await.1, b"kept"[..]);
    device.publish_retained("TopicA", b"").await;
    assert_eq!(device.receive().await.1, b""[..]);
    assert!(device.subscribe("#").await);
    device.hears_nothing().await;
}

#[tokio::test]
async fn a_retained_message_comes_at_the_lower_qos_and_with_the_identifier() {
    let broken = start().await;
    let mut device = broken.device_v5("post-cn-a", CLIENT).await;
    device.publish("TopicA", b"kept", true, PublishProperties::default()).await;
    let mut old = broken.device("post-cn-a", "GID_Test@@@old").await;
    old.publish_retained("TopicA/old", b"without properties").await;
    for (topic, qos, comes_at, id) in [
        ("TopicA", V5QoS::AtMostOnce, V5QoS::AtMostOnce, 3),
        ("TopicA", V5QoS::AtLeastOnce, V5QoS::AtLeastOnce, 4),
        ("TopicA", V5QoS::ExactlyOnce, V5QoS::AtLeastOnce, 5),
        ("TopicA/old", V5QoS::ExactlyOnce, V5QoS::AtLeastOnce, 6),
    ] {
        let answer = device.subscribe_with(Filter::new(topic, qos), Some(id)).await;
        assert_eq!(answer, SubscribeReasonCode::Success(qos));
        let kept = device.receive().await;
        assert_eq!((kept.retain, kept.qos), (true, comes_at));
        assert_eq!(kept.properties.unwrap().subscription_identifiers, [id]);
    }
}

#[tokio::test]
async fn retain_handling_says_when_retained_messages_come() {
    let broken = start().await;
    let mut device = broken.device_v5("post-cn-a", CLIENT).await;
    device.publish("TopicA", b"kept", true, PublishProperties::default()).await;
    let filter = |rule: RetainForwardRule| {
        let mut filter = Filter::new("TopicA", V5QoS::AtLeastOnce);
        filter.retain_forward_rule = rule;
        filter
    };
    for (rule, comes) in [
        (RetainForwardRule::Never, false),
        (RetainForwardRule::OnNewSubscribe, false),
        (RetainForwardRule::OnEverySubscribe, true),
        (RetainForwardRule::OnEverySubscribe, true),
        (RetainForwardRule::OnNewSubscribe, false),
    ] {
        device.subscribe_with(filter(rule), None).await;
        match comes {
            true => assert_eq!(device.receive().await.payload, b"kept"[..]),
            false => device.hears_nothing().await,
        }
    }
    device.client.unsubscribe("TopicA").await.unwrap();
    device.subscribe_with(filter(RetainForwardRule::OnNewSubscribe), None).await;
    assert_eq!(device.receive().await.payload, b"kept"[..]);
    device.hears_nothing().await;
}

#[tokio::test]
async fn the_retain_flag_stays_for_those_who_asked_for_it() {
    let broken = start().await;
    let mut asks = broken.device_v5("post-cn-a", CLIENT).await;
    let mut filter = Filter::new("TopicA", V5QoS::AtLeastOnce);
    filter.preserve_retain = true;
    asks.subscribe_with(filter, None).await;
    let mut asks_not = broken.device_v5("post-cn-a", "GID_Test@@@plain").await;
    asks_not.subscribe("TopicA").await;
    let mut device = broken.device("post-cn-a", "GID_Test@@@talker").await;
    device.publish_retained("TopicA", b"kept").await;
    device.publish("TopicA", b"passing").await;
    assert!(asks.receive().await.retain && !asks.receive().await.retain);
    assert!(!asks_not.receive().await.retain && !asks_not.receive().await.retain);
}

#[tokio::test]
async fn a_retained_message_is_forgotten_when_it_expires() {
    let broken = start().await;
    let mut device = broken.device_v5("post-cn-a", CLIENT).await;
    device.publish("TopicA/short", b"kept", true, expiring(1)).await;
    device.publish("TopicA/long", b"kept", true, expiring(3_600)).await;
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    device.subscribe("TopicA/#").await;
    let kept = device.receive().await;
    assert_eq!(kept.topic, "TopicA/long");
    let left = kept.properties.unwrap().message_expiry_interval.unwrap();
    assert!((3_500..3_600).contains(&left), "{left} s left");
    device.hears_nothing().await;
}

#[tokio::test]
async fn a_shared_subscription_gets_nothing_retained_and_an_own_message_only_if_wanted() {
    let broken = start().await;
    let mut device = broken.device_v5("post-cn-a", CLIENT).await;
    device.publish("TopicA", b"kept", true, PublishProperties::default()).await;
    device.subscribe("$share/g/TopicA").await;
    device.hears_nothing().await;
    let mut filter = Filter::new("TopicA", V5QoS::AtLeastOnce);
    filter.nolocal = true;
    device.subscribe_with(filter, None).await;
    device.hears_nothing().await;
    device.subscribe("TopicA").await;
    assert_eq!(device.receive().await.payload, b"kept"[..]);
}

#[tokio::test]
async fn a_retained_will_is_kept_and_a_p2p_message_never_is() {
    let broken = start().await;
    let mut target = broken.device("post-cn-a", "GID_Test@@@target").await;
    let mut options = broken.options("post-cn-a", CLIENT);
    options.set_last_will(LastWill::new("TopicA/will", "gone", QoS::AtLeastOnce, true));
    let mut mortal = TestDevice::connect(options).await.unwrap();
    mortal.publish_retained("TopicA/p2p/GID_Test@@@target", b"for you").await;
    assert_eq!(target.receive().await.1, b"for you"[..]);
    assert!(target.subscribe("TopicA/will").await);
    drop(mortal);
    assert_eq!(target.receive().await.1, b"gone"[..]);
    let mut late = broken.device("post-cn-a", "GID_Test@@@late").await;
    assert!(late.subscribe("#").await);
    assert_eq!(late.receive().await.0, "TopicA/will");
    late.hears_nothing().await;
    assert!(target.subscribe("TopicA/p2p/GID_Test@@@target").await);
    target.hears_nothing().await;
}

#[tokio::test]
async fn retained_messages_have_their_bound_and_what_is_above_is_delivered_and_counted() {
    let limits = Limits { retained_messages_max: 3, ..UNHURRIED };
    let broken = start_with(limits).await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    assert!(device.subscribe("TopicA/#").await);
    for number in 0..5 {
        device.publish_retained(&format!("TopicA/{number}"), b"kept").await;
        assert_eq!(device.receive().await.0, format!("TopicA/{number}"));
    }
    assert_eq!(broken.dropped("retained_full"), 2);
    // One of those that are kept may change, and one that is cleared makes room.
    device.publish_retained("TopicA/0", b"changed").await;
    device.publish_retained("TopicA/1", b"").await;
    device.publish_retained("TopicA/4", b"kept").await;
    assert_eq!(broken.dropped("retained_full"), 2);
    let mut late = broken.device("post-cn-a", "GID_Test@@@late").await;
    assert!(late.subscribe("#").await);
    for topic in ["TopicA/0", "TopicA/2", "TopicA/4"] {
        assert_eq!(late.receive().await.0, topic);
    }
    late.hears_nothing().await;
}

#[tokio::test]
async fn retained_messages_do_not_outgrow_their_bytes() {
    let payload = vec![7; PAYLOAD_BYTES_MAX];
    let fit = RETAINED_BYTES_MAX / (PAYLOAD_BYTES_MAX + MESSAGE_OVERHEAD_BYTES + 16);
    let limits = Limits { retained_messages_max: 1_000, ..UNHURRIED };
    let broken = start_with(limits).await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    for number in 0..fit + 10 {
        device.publish_retained(&format!("TopicA/{number}"), &payload).await;
    }
    assert!((8..=10).contains(&broken.dropped("retained_full")));
}

#[tokio::test]
async fn a_new_subscriber_takes_a_full_table_at_once() {
    let limits = Limits {
        device_qps: NonZeroU32::new(1_000_000).unwrap(),
        retained_messages_max: 2_000,
        ..Limits::default()
    };
    let broken = start_with(limits).await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    for number in 0..2_000 {
        device.publish_retained(&format!("TopicA/{number:04}"), b"kept").await;
    }
    let mut late = broken.device_v5("post-cn-a", "GID_Test@@@late").await;
    late.subscribe("TopicA/+").await;
    for number in 0..2_000 {
        assert_eq!(late.receive().await.topic, format!("TopicA/{number:04}"));
    }
    assert_eq!(broken.dropped("session_full"), 0);
    let refused = late.publish("TopicA", b"x", true, PublishProperties::default()).await;
    assert_eq!(refused, PubAckReason::Success);
    assert_eq!(broken.dropped("retained_full"), 1);
}

#[tokio::test]
async fn retained_messages_outlive_a_crash_from_their_puback_on() {
    let broken = start().await;
    let mut device = broken.device_v5("post-cn-a", CLIENT).await;
    let named = PublishProperties {
        user_properties: vec![("name".into(), "value".into())],
        message_expiry_interval: Some(3_600),
        ..PublishProperties::default()
    };
    device.publish("TopicA/x", b"old", true, named.clone()).await;
    device.publish("TopicA/x", b"new", true, named).await;
    device.publish("TopicA/y", b"kept", true, PublishProperties::default()).await;
    let before = broken.crash();
    device.publish("TopicA/y", b"", true, PublishProperties::default()).await;
    for (left, topics) in [(before, &["TopicA/x", "TopicA/y"][..]), (broken.crash(), &["TopicA/x"])]
    {
        let broken = restart(left).await;
        let mut late = broken.device_v5("post-cn-a", "GID_Test@@@late").await;
        late.subscribe("TopicA/#").await;
        for topic in topics {
            let kept = late.receive().await;
            assert_eq!((kept.retain, &kept.topic[..]), (true, topic.as_bytes()));
            if *topic == "TopicA/x" {
                let properties = kept.properties.unwrap();
                assert_eq!((&kept.payload[..], properties.user_properties.len()), (&b"new"[..], 1));
                assert!(properties.message_expiry_interval.is_some_and(|left| left <= 3_600));
            }
        }
        late.hears_nothing().await;
        let mut spy = broken.device("post-cn-b", CLIENT).await;
        assert!(spy.subscribe("#").await);
        spy.hears_nothing().await;
    }
}
