use std::collections::BTreeMap;

use rumqttc::v5::mqttbytes::QoS as V5QoS;
use rumqttc::v5::mqttbytes::v5::{Filter, SubscribeReasonCode};

use super::stored::restart;
use super::*;

const MEMBERS: [&str; 3] = ["GID_Test@@@m1", "GID_Test@@@m2", "GID_Test@@@m3"];

async fn payloads(device: &mut TestDevice, many: usize) -> Vec<u8> {
    let mut got = Vec::new();
    for _ in 0..many {
        got.push(device.receive().await.1[0]);
    }
    device.hears_nothing().await;
    got
}

#[tokio::test]
async fn a_group_shares_its_messages_evenly_and_gets_each_once() {
    let broken = start().await;
    let mut members = Vec::new();
    for id in MEMBERS {
        let mut member = broken.device("post-cn-a", id).await;
        assert!(member.subscribe("$share/g/TopicA/+").await);
        members.push(member);
    }
    let mut alone = broken.device("post-cn-a", "GID_Test@@@alone").await;
    assert!(alone.subscribe("$share/other/TopicA/#").await);
    let mut plain = broken.device("post-cn-a", CLIENT).await;
    assert!(plain.subscribe("TopicA/x").await);
    for number in 0..30_u8 {
        broken.send("post-cn-a", "TopicA/x", &[number]).await;
    }
    let mut all = Vec::new();
    for member in &mut members {
        all.extend(payloads(member, 10).await);
    }
    all.sort_unstable();
    let every: Vec<u8> = (0..30).collect();
    assert_eq!(all, every);
    assert_eq!(payloads(&mut alone, 30).await, every);
    assert_eq!(payloads(&mut plain, 30).await, every);
}

#[tokio::test]
async fn a_member_that_is_away_gets_nothing_while_another_is_there_and_the_rest_share_evenly() {
    let broken = start().await;
    let mut members = Vec::new();
    for id in MEMBERS {
        let mut options = broken.options("post-cn-a", id);
        options.set_clean_session(false);
        let mut member = TestDevice::connect(options).await.unwrap();
        assert!(member.subscribe("$share/g/TopicA").await);
        members.push(member);
    }
    members.remove(1).disconnect().await;
    tokio::time::sleep(SILENCE).await;
    for number in 0..20_u8 {
        broken.send("post-cn-a", "TopicA", &[number]).await;
    }
    for member in &mut members {
        assert_eq!(payloads(member, 10).await.len(), 10);
    }
    // With nobody there, the stored sessions share what comes, and keep it.
    for member in members {
        member.disconnect().await;
    }
    tokio::time::sleep(SILENCE).await;
    for number in 0..30_u8 {
        broken.send("post-cn-a", "TopicA", &[number]).await;
    }
    let mut all = Vec::new();
    for id in MEMBERS {
        let mut options = broken.options("post-cn-a", id);
        options.set_clean_session(false);
        let mut member = TestDevice::connect(options).await.unwrap();
        assert!(member.session_present);
        all.extend(payloads(&mut member, 10).await);
    }
    all.sort_unstable();
    assert_eq!(all, (0..30).collect::<Vec<u8>>());
    assert_eq!(broken.dropped("no_session") + broken.dropped("session_full"), 0);
}

#[tokio::test]
async fn a_member_that_stops_acknowledging_does_not_hold_its_group_up() {
    let limits = Limits { session_messages_max: 20, ..UNHURRIED };
    let broken = start_with(limits).await;
    let mut options = broken.options("post-cn-a", MEMBERS[0]);
    options.set_manual_acks(true);
    let mut lazy = TestDevice::connect(options).await.unwrap();
    assert!(lazy.subscribe("$share/g/TopicA").await);
    let mut healthy = broken.device("post-cn-a", MEMBERS[1]).await;
    assert!(healthy.subscribe("$share/g/TopicA").await);
    let send = async {
        for number in 0..200_u8 {
            broken.send("post-cn-a", "TopicA", &[number]).await;
        }
    };
    let read = async {
        let mut got = 0;
        while got < 180 {
            got += usize::from(!healthy.receive().await.1.is_empty());
        }
    };
    tokio::join!(send, read);
    assert_eq!(broken.dropped("stalled_reader") + broken.dropped("session_full"), 0);
}

#[tokio::test]
async fn a_shared_and_a_plain_subscription_to_one_filter_are_two() {
    let broken = start().await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    for filter in ["TopicA", "$share/g/TopicA", "$share/h/TopicA"] {
        assert!(device.subscribe(filter).await);
    }
    broken.send("post-cn-a", "TopicA", b"1").await;
    assert_eq!(payloads(&mut device, 3).await, b"111");
    device.unsubscribe("$share/g/TopicA").await;
    broken.send("post-cn-a", "TopicA", b"2").await;
    assert_eq!(payloads(&mut device, 2).await, b"22");
    device.unsubscribe("TopicA").await;
    broken.send("post-cn-a", "TopicA", b"3").await;
    assert_eq!(payloads(&mut device, 1).await, b"3");
}

#[tokio::test]
async fn a_member_that_left_or_is_gone_has_no_share() {
    let broken = start().await;
    let mut stays = broken.device("post-cn-a", MEMBERS[0]).await;
    let mut leaves = broken.device("post-cn-a", MEMBERS[1]).await;
    let mut goes = broken.device("post-cn-a", MEMBERS[2]).await;
    for member in [&mut stays, &mut leaves, &mut goes] {
        assert!(member.subscribe("$share/g/#").await);
    }
    leaves.unsubscribe("$share/g/#").await;
    goes.disconnect().await;
    tokio::time::sleep(SILENCE).await;
    for number in 0..10_u8 {
        broken.send("post-cn-a", "TopicA", &[number]).await;
    }
    assert_eq!(payloads(&mut stays, 10).await, (0..10).collect::<Vec<u8>>());
    leaves.hears_nothing().await;
}

#[tokio::test]
async fn members_of_both_protocols_share_and_mqtt_5_is_told_that_it_may() {
    let broken = start().await;
    let mut old = broken.device("post-cn-a", MEMBERS[0]).await;
    assert!(old.subscribe("$share/g/TopicA").await);
    let mut new = broken.device_v5("post-cn-a", MEMBERS[1]).await;
    let properties = new.connack.properties.clone().unwrap_or_else(|| panic!("properties"));
    assert_ne!(properties.shared_subscription_available, Some(0));
    assert_ne!(properties.retain_available, Some(0));
    let filter = Filter::new("$share/g/TopicA", V5QoS::AtMostOnce);
    let granted = new.subscribe_with(filter, Some(7)).await;
    assert_eq!(granted, SubscribeReasonCode::Success(V5QoS::AtMostOnce));
    for number in 0..10_u8 {
        broken.send("post-cn-a", "TopicA", &[number]).await;
    }
    assert_eq!(payloads(&mut old, 5).await.len(), 5);
    for _ in 0..5 {
        let publish = new.receive().await;
        assert_eq!(publish.properties.unwrap().subscription_identifiers, [7]);
        assert_eq!(publish.qos, V5QoS::AtMostOnce);
    }
    new.hears_nothing().await;
}

#[tokio::test]
async fn a_shared_subscription_asks_for_no_local_at_the_price_of_its_connection() {
    let broken = start().await;
    let mut device = broken.device_v5("post-cn-a", CLIENT).await;
    let mut filter = Filter::new("$share/g/TopicA", V5QoS::AtLeastOnce);
    filter.nolocal = true;
    device.client.subscribe_many([filter]).await.unwrap();
    device.is_closed().await;
}

#[tokio::test]
async fn what_is_no_shared_filter_is_refused() {
    let broken = start().await;
    let mut device = broken.device_v5("post-cn-a", CLIENT).await;
    let reasons = [
        ("$share//TopicA", SubscribeReasonCode::TopicFilterInvalid),
        ("$share/g/", SubscribeReasonCode::TopicFilterInvalid),
        ("$share/g", SubscribeReasonCode::TopicFilterInvalid),
        ("$share/g/TopicA/p2p/other", SubscribeReasonCode::NotAuthorized),
        ("TopicA/p2p/other", SubscribeReasonCode::NotAuthorized),
        ("$exclusive/TopicA", SubscribeReasonCode::TopicFilterInvalid),
    ];
    let answers: BTreeMap<_, _> = reasons.into();
    for (filter, reason) in answers {
        assert_eq!(device.subscribe(filter).await, reason, "{filter}");
    }
    let long = format!("{}#", "a/".repeat(30_000));
    assert_eq!(device.subscribe(&long).await, SubscribeReasonCode::TopicFilterInvalid);
}

#[tokio::test]
async fn a_topic_with_a_dollar_behind_its_first_level_is_a_topic_like_any_other() {
    let broken = start().await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    assert!(device.subscribe("TopicA/$x/+").await);
    broken.send("post-cn-a", "TopicA/$x/y", b"x").await;
    assert_eq!(device.receive().await.0, "TopicA/$x/y");
}

#[tokio::test]
async fn overlapping_filters_give_one_copy_at_the_highest_qos_with_every_identifier() {
    let broken = start().await;
    let mut device = broken.device_v5("post-cn-a", CLIENT).await;
    let filters = [("TopicA/#", V5QoS::AtMostOnce, 1), ("TopicA/+", V5QoS::AtLeastOnce, 2)];
    for (filter, qos, id) in filters {
        device.subscribe_with(Filter::new(filter, qos), Some(id)).await;
    }
    broken.send("post-cn-a", "TopicA/x", b"x").await;
    let publish = device.receive().await;
    let mut ids = publish.properties.unwrap().subscription_identifiers;
    ids.sort_unstable();
    assert_eq!((publish.qos, &ids[..]), (V5QoS::AtLeastOnce, &[1, 2][..]));
    device.hears_nothing().await;
    let mut old = broken.device("post-cn-a", "GID_Test@@@old").await;
    assert!(old.subscribe("TopicA/#").await && old.subscribe("TopicA/+").await);
    broken.send("post-cn-a", "TopicA/x", b"1").await;
    assert_eq!(payloads(&mut old, 1).await, b"1");
}

#[tokio::test]
async fn a_shared_subscription_outlives_a_crash_beside_the_plain_one() {
    let broken = start().await;
    let mut members = Vec::new();
    for id in &MEMBERS[..2] {
        let mut member = broken.stored(id).await;
        assert!(member.subscribe("$share/g/TopicA").await);
        members.push(member);
    }
    assert!(members[0].subscribe("TopicA").await);
    let broken = restart(broken.crash()).await;
    for number in 0..10_u8 {
        broken.send("post-cn-a", "TopicA", &[number]).await;
    }
    for (id, many) in [(MEMBERS[0], 15), (MEMBERS[1], 5)] {
        let mut member = broken.stored(id).await;
        assert!(member.session_present);
        assert_eq!(payloads(&mut member, many).await.len(), many);
    }
}
