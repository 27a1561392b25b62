use rumqttc::LastWill;
use rumqttc::v5::mqttbytes::v5::SubscribeReasonCode;

use super::*;

/// Filters by which a device might hope to see another instance, and whether it is let.
const FILTERS: [(&str, bool); 30] = [
    ("#", true),
    ("+", true),
    ("+/#", true),
    ("+/+", true),
    ("+/x", true),
    ("+/x/#", true),
    ("TopicA", true),
    ("TopicA/#", true),
    ("TopicA/+", true),
    ("TopicA/x", true),
    ("/#", true),
    ("/+", true),
    ("/TopicA", true),
    ("$SYS/#", true),
    ("$SYS/brokers/+/clients/#", true),
    ("$queue/TopicA", true),
    ("$share/g/#", true),
    ("$share/g/+", true),
    ("$share/g/TopicA", true),
    ("$share/post-cn-a/TopicA/#", true),
    ("$share/g/$SYS/#", true),
    ("TopicA/p2p/GID_Test@@@0001", true),
    ("$share/g/TopicA/p2p/GID_Test@@@0001", true),
    ("TopicA/p2p/GID_Test@@@victim", false),
    ("TopicA/p2p/+", false),
    ("+/p2p/#", false),
    ("post-cn-a/#", true),
    ("post-cn-a/TopicA", true),
    ("../post-cn-a/TopicA", true),
    ("Signature|LTAI1|post-cn-a/TopicA", true),
];

/// Everything the other instance says: calls, devices' messages, retained ones, a will, P2P.
async fn chatter(broken: &Broken, talker: &mut TestDevice) {
    for topic in ["TopicA", "TopicA/x", "TopicA/p2p/GID_Test@@@0001", "TopicA/p2p/GID_Spy@@@1"] {
        broken.send("post-cn-a", topic, b"secret").await;
        talker.publish(topic, b"secret").await;
    }
    for topic in ["TopicA", "TopicA/x", "post-cn-b/TopicA"] {
        talker.publish_retained(topic, b"secret").await;
    }
    let mut options = broken.options("post-cn-a", "GID_Test@@@mortal");
    options.set_last_will(LastWill::new("TopicA/will", "secret", QoS::AtLeastOnce, true));
    drop(TestDevice::connect(options).await.unwrap());
    while talker.receive().await.0 != "TopicA/will" {}
}

/// The same client id in both instances, connected at the same time.
#[tokio::test]
async fn no_filter_shows_an_mqtt_3_device_another_instance() {
    let broken = start_with(UNHURRIED).await;
    let mut talker = broken.device("post-cn-a", CLIENT).await;
    assert!(talker.subscribe("TopicA/#").await);
    chatter(&broken, &mut talker).await;
    let mut spy = broken.device("post-cn-b", CLIENT).await;
    for (filter, granted) in FILTERS {
        assert_eq!(spy.subscribe(filter).await, granted, "{filter}");
    }
    chatter(&broken, &mut talker).await;
    spy.hears_nothing().await;
    // Both are still there, and the spy's filters are no duds.
    broken.send("post-cn-b", "TopicA/x", b"mine").await;
    assert_eq!(spy.receive().await.1, b"mine"[..]);
    talker.publish("TopicA", b"alive").await;
    while talker.receive().await.1 != b"alive"[..] {}
}

#[tokio::test]
async fn no_filter_shows_an_mqtt_5_device_another_instance() {
    let broken = start_with(UNHURRIED).await;
    let mut talker = broken.device("post-cn-a", CLIENT).await;
    assert!(talker.subscribe("TopicA/#").await);
    chatter(&broken, &mut talker).await;
    let mut spy = broken.device_v5("post-cn-b", CLIENT).await;
    for (filter, granted) in FILTERS {
        let answer = spy.subscribe(filter).await;
        assert_eq!(matches!(answer, SubscribeReasonCode::Success(_)), granted, "{filter}");
    }
    chatter(&broken, &mut talker).await;
    spy.hears_nothing().await;
    broken.send("post-cn-b", "TopicA/x", b"mine").await;
    assert_eq!(spy.receive().await.payload, b"mine"[..]);
    talker.publish("TopicA", b"alive").await;
    while talker.receive().await.1 != b"alive"[..] {}
}

#[tokio::test]
async fn a_group_of_one_name_is_another_group_in_another_instance() {
    let broken = start().await;
    let mut a = broken.device("post-cn-a", CLIENT).await;
    let mut b = broken.device("post-cn-b", CLIENT).await;
    assert!(a.subscribe("$share/g/#").await && b.subscribe("$share/g/#").await);
    for number in 0..10_u8 {
        broken.send("post-cn-a", "TopicA", &[number]).await;
    }
    for number in 0..10_u8 {
        assert_eq!(a.receive().await.1, [number][..]);
    }
    b.hears_nothing().await;
}

#[tokio::test]
async fn a_device_hears_its_own_instance_on_the_same_topic() {
    let broken = start().await;
    let mut a = broken.device("post-cn-a", CLIENT).await;
    let mut b = broken.device("post-cn-b", CLIENT).await;
    assert!(a.subscribe("TopicA").await && b.subscribe("TopicA").await);
    broken.send("post-cn-a", "TopicA", b"for a").await;
    broken.send("post-cn-b", "TopicA", b"for b").await;
    assert_eq!(a.receive().await.1, b"for a"[..]);
    assert_eq!(b.receive().await.1, b"for b"[..]);
    a.hears_nothing().await;
    b.hears_nothing().await;
}

#[tokio::test]
async fn one_client_id_in_two_instances_is_two_devices_and_in_one_instance_one() {
    let broken = start().await;
    let mut a = broken.device("post-cn-a", CLIENT).await;
    let mut b = broken.device("post-cn-b", CLIENT).await;
    a.hears_nothing().await;
    // A listed device may not pose as one that signs for its id; the same id again takes over.
    let mut options = broken.options("post-cn-a", CLIENT);
    options.set_credentials("Device|lamp|post-cn-a", "dark");
    assert!(TestDevice::connect(options).await.is_err());
    a.hears_nothing().await;
    let mut again = broken.device("post-cn-a", CLIENT).await;
    a.is_closed().await;
    assert!(again.subscribe("TopicA").await && b.subscribe("TopicA").await);
}

#[tokio::test]
async fn a_stored_session_is_not_found_from_another_instance() {
    let broken = start().await;
    let mut options = broken.options("post-cn-a", CLIENT);
    options.set_clean_session(false);
    let mut device = TestDevice::connect(options).await.unwrap();
    assert!(device.subscribe("TopicA").await);
    device.disconnect().await;
    broken.send("post-cn-a", "TopicA", b"secret").await;
    let mut options = broken.options("post-cn-b", CLIENT);
    options.set_clean_session(false);
    let mut spy = TestDevice::connect(options).await.unwrap();
    assert!(!spy.session_present);
    spy.hears_nothing().await;
}

#[tokio::test]
async fn a_will_is_heard_in_its_own_instance_only() {
    let broken = start().await;
    let mut friend = broken.device("post-cn-a", "GID_Test@@@friend").await;
    let mut spy = broken.device("post-cn-b", "GID_Spy@@@1").await;
    assert!(friend.subscribe("TopicA/#").await && spy.subscribe("#").await);
    let mut options = broken.options("post-cn-a", CLIENT);
    options.set_last_will(LastWill::new("TopicA/will", "gone", QoS::AtLeastOnce, true));
    drop(TestDevice::connect(options).await.unwrap());
    assert_eq!(friend.receive().await.1, b"gone"[..]);
    spy.hears_nothing().await;
}

#[tokio::test]
async fn a_p2p_will_reaches_its_target_and_no_subscriber() {
    let broken = start().await;
    let mut target = broken.device("post-cn-a", "GID_Test@@@target").await;
    let mut other = broken.device("post-cn-a", "GID_Test@@@other").await;
    assert!(other.subscribe("#").await);
    let mut options = broken.options("post-cn-a", CLIENT);
    let topic = "TopicA/p2p/GID_Test@@@target";
    options.set_last_will(LastWill::new(topic, "gone", QoS::AtLeastOnce, false));
    drop(TestDevice::connect(options).await.unwrap());
    assert_eq!(target.receive().await.1, b"gone"[..]);
    other.hears_nothing().await;
}
