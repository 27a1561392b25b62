use rumqttc::LastWill;

use super::device_v5::V5Device;
use super::*;

#[tokio::test]
async fn a_second_sign_in_takes_over_across_protocols_and_in_its_instance_only() {
    let broken = start().await;
    let mut elsewhere = broken.device("post-cn-b", CLIENT).await;
    assert!(elsewhere.subscribe("TopicA").await);
    let mut first = broken.device("post-cn-a", CLIENT).await;
    let mut second = broken.device_v5("post-cn-a", CLIENT).await;
    first.is_closed().await;
    let mut third = broken.device("post-cn-a", CLIENT).await;
    second.is_closed().await;
    assert!(third.subscribe("TopicA").await);
    broken.send("post-cn-a", "TopicA", b"a").await;
    broken.send("post-cn-b", "TopicA", b"b").await;
    assert_eq!(third.receive().await.1, b"a"[..]);
    assert_eq!(elsewhere.receive().await.1, b"b"[..]);
}

#[tokio::test]
async fn a_device_that_is_taken_over_leaves_its_will_to_its_own_instance() {
    let broken = start().await;
    let mut friend = broken.device("post-cn-a", "GID_Test@@@friend").await;
    let mut spy = broken.device("post-cn-b", "GID_Test@@@friend").await;
    assert!(friend.subscribe("#").await && spy.subscribe("#").await);
    let mut options = broken.options("post-cn-a", CLIENT);
    options.set_last_will(LastWill::new("TopicA/will", "gone", QoS::AtLeastOnce, false));
    let mut first = TestDevice::connect(options).await.unwrap();
    let _second = broken.device("post-cn-a", CLIENT).await;
    first.is_closed().await;
    assert_eq!(friend.receive().await.1, b"gone"[..]);
    spy.hears_nothing().await;
}

#[tokio::test]
async fn a_listed_device_signs_in_under_any_id_of_sixty_four_characters() {
    let broken = start().await;
    let connect = |client_id: String| {
        let mut options = broken.options("post-cn-a", &client_id);
        options.set_credentials("Device|lamp|post-cn-a", "dark");
        TestDevice::connect(options)
    };
    for client_id in ["l", "a/b#c+d", "@@@", "weir", &"d".repeat(64)] {
        assert!(connect(client_id.to_owned()).await.is_ok(), "{client_id}");
    }
    let refused = connect("d".repeat(65)).await.err();
    assert_eq!(refused, Some(ConnectReturnCode::BadClientId));
}

#[tokio::test]
async fn a_session_that_ends_with_its_connection_is_not_come_back_to() {
    let broken = start().await;
    let clean = broken.device("post-cn-a", CLIENT).await;
    let mut options = broken.options("post-cn-a", CLIENT);
    options.set_clean_session(false);
    // While the first is still connected.
    let device = TestDevice::connect(options).await.unwrap();
    assert!(!device.session_present);
    drop(clean);
    device.disconnect().await;
    for _ in 0..20 {
        // And as soon as it has said good-bye, with an expiry of zero.
        let mut options = broken.options_v5("post-cn-a", "GID_Test@@@brief");
        options.set_clean_start(false);
        let mut device = V5Device::connect(options).await;
        assert!(!device.connack.session_present);
        device.subscribe("TopicA").await;
        device.disconnect().await;
    }
}
