use rmqtt::shared::Shared;
use rmqtt::types::Id;
use rumqttc::LastWill;
use rusqlite::Connection;
use tokio::net::TcpStream;

use super::device_v5::V5Device;
use super::stalled::stalled;
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

#[tokio::test]
async fn a_session_whose_task_waits_for_the_disk_is_not_taken_over_before_the_disk_takes_it() {
    let broken = start().await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    let fault = Connection::open(broken.folder.path().join(FILE)).unwrap();
    let fail = "CREATE TRIGGER refused BEFORE UPDATE ON seen
        BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    fault.execute_batch(fail).unwrap();
    device.client.publish("TopicA", QoS::AtLeastOnce, false, [0]).await.unwrap();
    let written = async { while device.events.poll().await.is_ok() {} };
    tokio::time::timeout(SILENCE, written).await.expect_err("no PUBACK yet");
    broken.count(1..3).await;
    drop(device);
    let connect = || {
        let mut options = broken.options("post-cn-a", CLIENT);
        options.set_clean_session(false).set_manual_acks(true);
        TestDevice::connect(options)
    };
    let (refused, ()) = tokio::join!(connect(), async {
        tokio::time::sleep(SILENCE).await;
        broken.count(3..5).await;
    });
    assert_eq!(refused.err(), Some(ConnectReturnCode::ServiceUnavailable));
    fault.execute_batch("DROP TRIGGER refused").unwrap();
    let again = async {
        loop {
            match connect().await {
                Ok(device) => return device,
                Err(_) => tokio::time::sleep(SILENCE).await,
            }
        }
    };
    let mut device = tokio::time::timeout(2 * PATIENCE, again).await.expect("the disk is well");
    assert!(device.session_present);
    device.gets(0..5).await;
    device.hears_nothing().await;
    assert_eq!(broken.dropped("no_session") + broken.dropped("expired"), 0);
}

#[tokio::test]
async fn a_device_that_stopped_reading_comes_back_to_all_that_was_sent_to_it() {
    let write_timeout = Duration::from_secs(60);
    let broken = start_with(Limits { write_timeout, ..UNHURRIED }).await;
    let _deaf = stalled(&broken, false).await;
    // More than the two buffers of a connection hold.
    for number in 0..230 {
        broken.send("post-cn-a", "TopicA", &[number; 60_000]).await;
    }
    let mut device = broken.stored(CLIENT).await;
    assert!(device.session_present);
    for number in 0..230 {
        let publish = device.receive_publish().await;
        assert_eq!((publish.payload[0], publish.payload.len()), (number, 60_000));
        device.client.ack(&publish).await.unwrap();
    }
    broken.count(230..232).await;
    device.gets(230..232).await;
    device.hears_nothing().await;
}

/// A device that reads nothing, and is cut off with as much in its session as that holds. Its task
/// notices late: it writes. Returns its end of the connection, and that connection's id.
async fn stuck() -> (Broken, TcpStream, Id) {
    let limits = Limits {
        session_messages_max: 230,
        stalled_after: SILENCE,
        write_timeout: Duration::from_secs(60),
        ..UNHURRIED
    };
    let broken = start_with(limits).await;
    let socket = stalled(&broken, false).await;
    for number in 0..230 {
        broken.send("post-cn-a", "TopicA", &[number; 60_000]).await;
    }
    broken.count(230..231).await;
    assert_eq!(broken.dropped("stalled_reader"), 1);
    let tenant = broken.broker.tenants.of_instance("post-cn-a").unwrap();
    let former = tenant.sessions.entry(Id::from(tenant.node, CLIENT.into())).session().unwrap();
    (broken, socket, former.id.clone())
}

#[tokio::test]
async fn what_a_former_connection_was_cut_off_for_is_not_held_against_the_next() {
    let (broken, _deaf, former) = stuck().await;
    let mut device = broken.stored(CLIENT).await;
    let tenant = broken.broker.tenants.of_instance("post-cn-a").unwrap();
    tenant.disconnected(&former, true, true);
    for number in 0..230 {
        let publish = device.receive_publish().await;
        assert_eq!((publish.payload[0], publish.payload.len()), (number, 60_000));
        device.client.ack(&publish).await.unwrap();
    }
    device.flush().await;
    broken.count(231..234).await;
    device.gets(231..234).await;
    assert_eq!(broken.dropped("stalled_reader"), 1, "none since");
}

#[tokio::test]
async fn a_clean_start_over_a_stuck_connection_has_the_whole_bound_for_itself() {
    let (broken, _deaf, former) = stuck().await;
    let mut device = broken.device("post-cn-a", CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    broken.count(231..234).await;
    let tenant = broken.broker.tenants.of_instance("post-cn-a").unwrap();
    tenant.disconnected(&former, true, true);
    for number in 231..234 {
        assert_eq!(device.receive().await.1, [number][..]);
    }
    assert_eq!(broken.dropped("stalled_reader"), 1, "none since");
}

#[tokio::test]
async fn what_is_kept_back_for_a_new_connection_counts_for_it() {
    let broken = start().await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    let tenant = broken.broker.tenants.of_instance("post-cn-a").unwrap();
    tenant.hold_for_arrival(&CLIENT.into());
    broken.count(0..3).await;
    let backlog = tenant.backlog(&CLIENT.into());
    backlog.count_anew();
    assert_eq!(backlog.messages(), 3);
    backlog.arriving().take();
    assert_eq!(backlog.messages(), 0);
}

#[tokio::test]
async fn a_device_that_comes_back_at_once_to_a_session_without_its_task_misses_nothing() {
    let broken = start().await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    device.disconnect().await;
    tokio::time::sleep(SILENCE).await;
    broken.count(0..3).await;
    broken.lose_task().await;
    broken.count(3..6).await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.session_present);
    broken.count(6..9).await;
    device.gets(0..9).await;
    device.hears_nothing().await;
    assert_eq!(broken.dropped("no_session"), 0);
}

#[tokio::test]
async fn a_connection_that_was_taken_over_takes_nothing_from_the_session() {
    let broken = start().await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    broken.count(0..1).await;
    let tenant = broken.broker.tenants.of_instance("post-cn-a").unwrap();
    let former = tenant.sessions.entry(Id::from(tenant.node, CLIENT.into())).session().unwrap();
    device.receive_publish().await;
    let in_flight = former.out_inflight().write().await.clone_inflight_messages();
    let stored = in_flight[0].publish.clone();
    let mut device = broken.stored(CLIENT).await;
    assert!(!tenant.done(&former.id, &stored));
    broken.broker.settled().await.unwrap();
    assert_eq!(broken.rows("copy"), 1);
    device.gets(0..1).await;
}

#[tokio::test]
async fn what_is_handed_on_does_not_wait_for_a_sweep_that_waits_for_the_arrival() {
    let broken = start().await;
    let tenant = Arc::clone(broken.broker.tenants.of_instance("post-cn-a").unwrap());
    let backlog = tenant.backlog(&CLIENT.into());
    let arriving = backlog.arriving();
    let sweeping = Arc::clone(&tenant);
    std::thread::spawn(move || sweeping.backlogs.retain(|_, backlog| backlog.is_in_use()));
    while !tenant.backlogs.try_get(CLIENT).is_locked() {
        std::thread::yield_now();
    }
    let (tell, told) = crossbeam_channel::bounded(1);
    let (held, mut publish) = (Arc::clone(&backlog), packet(&message("post-cn-a", "TopicA", b"")));
    std::thread::spawn(move || {
        tenant.keep_handed_on(&held, &mut publish);
        tell.send(())
    });
    told.recv_timeout(PATIENCE).expect("each waits for the other");
    drop(arriving);
}
