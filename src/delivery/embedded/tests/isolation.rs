use rumqttc::LastWill;

use super::*;

const FILTERS: [&str; 16] = [
    "#",
    "+",
    "+/#",
    "+/+",
    "TopicA",
    "TopicA/#",
    "/#",
    "$SYS/#",
    "$share/g/#",
    "$share/g/TopicA",
    "post-cn-a/#",
    "post-cn-a/TopicA",
    "../#",
    "../post-cn-a/TopicA",
    "post-cn-b/../post-cn-a/#",
    "$exclusive/TopicA",
];

#[tokio::test]
async fn no_filter_shows_a_device_another_instance() {
    let broken = start().await;
    let mut spy = broken.device("post-cn-b", "GID_Spy@@@1").await;
    for filter in FILTERS {
        spy.subscribe(filter).await;
    }
    let mut device = broken.device("post-cn-a", CLIENT).await;
    device.subscribe("#").await;
    for topic in ["TopicA", "TopicA/x", "post-cn-b/TopicA", "TopicA/p2p/GID_Spy@@@1"] {
        broken.send("post-cn-a", topic, b"secret").await;
        device.publish(topic, b"secret").await;
    }
    spy.hears_nothing().await;
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

#[tokio::test]
async fn a_retained_message_is_delivered_and_not_kept_for_anyone() {
    let broken = start().await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    device.client.publish("TopicA", QoS::AtLeastOnce, true, "kept").await.unwrap();
    assert_eq!(device.receive().await.1, b"kept"[..]);
    for instance in ["post-cn-a", "post-cn-b"] {
        let mut late = broken.device(instance, "GID_Test@@@late").await;
        assert!(late.subscribe("#").await);
        late.hears_nothing().await;
    }
}
