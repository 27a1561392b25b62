//! Sessions that outlive the broker. A crash is a copy of its file at that moment: what a killed
//! process leaves, and not what an orderly end would.

use rmqtt::shared::Shared;
use rmqtt::types::Id;
use rumqttc::v5;
use rumqttc::v5::mqttbytes::v5::{ConnectProperties, Packet as V5Packet};
use rusqlite::Connection;

use super::*;
use crate::clock::ManualClock;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);
const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

impl Broken {
    /// What is left if the process dies now.
    pub(super) fn crash(&self) -> Arc<TempDir> {
        let left = tempfile::tempdir().unwrap();
        for name in [FILE.to_owned(), format!("{FILE}-wal")] {
            let from = self.folder.path().join(&name);
            std::fs::copy(from, left.path().join(&name)).unwrap();
        }
        Arc::new(left)
    }

    pub(super) async fn stored(&self, client_id: &str) -> TestDevice {
        let mut options = self.options("post-cn-a", client_id);
        options.set_clean_session(false);
        options.set_manual_acks(true);
        TestDevice::connect(options).await.unwrap()
    }

    pub(super) async fn count(&self, messages: impl IntoIterator<Item = u8>) {
        for number in messages {
            self.send("post-cn-a", "TopicA", &[number]).await;
        }
    }

    pub(super) fn rows(&self, table: &str) -> u64 {
        let file = Connection::open(self.folder.path().join(FILE)).unwrap();
        file.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }

    /// Leaves the stored session as rmqtt does when a CONNACK cannot be written.
    pub(super) async fn lose_task(&self) {
        let tenant = self.broker.tenants.of_instance("post-cn-a").unwrap();
        let entry = |id| tenant.sessions.entry(id);
        let session = entry(Id::from(tenant.node, CLIENT.into())).session().unwrap();
        let clean = self.device("post-cn-a", "GID_Test@@@clean").await;
        let task_gone = entry(Id::from(tenant.node, "GID_Test@@@clean".into())).tx().unwrap();
        clean.disconnect().await;
        while !task_gone.is_closed() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        entry(session.id.clone()).set(session, task_gone).await.unwrap();
    }
}

pub(super) async fn restart(folder: Arc<TempDir>) -> Broken {
    start_in(folder, Limits::default(), Arc::new(SystemClock)).await
}

impl TestDevice {
    pub(super) async fn gets(&mut self, numbers: impl IntoIterator<Item = u8>) {
        for number in numbers {
            let publish = self.receive_publish().await;
            assert_eq!(publish.payload, [number][..]);
            self.client.ack(&publish).await.unwrap();
        }
    }

    /// What was acknowledged has reached the broker.
    pub(super) async fn flush(&mut self) {
        self.client.unsubscribe("TopicA/none").await.unwrap();
        while !matches!(self.packet().await, Packet::UnsubAck(_)) {}
    }
}

#[tokio::test]
async fn sixty_messages_to_an_offline_device_outlive_a_crash_in_between() {
    let broken = start().await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    device.disconnect().await;
    broken.count(0..30).await;
    broken.broker.settled().await.unwrap();
    let broken = restart(broken.crash()).await;
    broken.count(30..60).await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.session_present);
    device.gets(0..60).await;
    device.hears_nothing().await;
}

#[tokio::test]
async fn a_subscription_is_on_disk_before_its_suback_and_gone_before_its_unsuback() {
    let broken = start().await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    let left = broken.crash();
    device.client.unsubscribe("TopicA").await.unwrap();
    while !matches!(device.packet().await, Packet::UnsubAck(_)) {}
    for (left, expected) in [(left, 1), (broken.crash(), 0)] {
        let broken = restart(left).await;
        broken.count(0..1).await;
        let mut device = broken.stored(CLIENT).await;
        assert!(device.session_present);
        device.gets(0..expected).await;
        device.hears_nothing().await;
    }
}

#[tokio::test]
async fn a_session_is_on_disk_before_its_connack_and_gone_before_that_of_a_clean_start() {
    let broken = start().await;
    let device = broken.stored(CLIENT).await;
    let left = broken.crash();
    assert!(restart(left).await.stored(CLIENT).await.session_present);
    device.disconnect().await;
    let clean = broken.device("post-cn-a", CLIENT).await;
    assert!(!clean.session_present);
    assert!(!restart(broken.crash()).await.stored(CLIENT).await.session_present);
}

#[tokio::test]
async fn what_was_in_flight_comes_first_marked_as_sent_and_what_was_acknowledged_not_again() {
    let broken = start().await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    broken.count(0..3).await;
    device.gets(0..1).await;
    let in_flight = [device.receive_publish().await, device.receive_publish().await];
    device.flush().await;
    broken.broker.settled().await.unwrap();
    let broken = restart(broken.crash()).await;
    broken.count(3..5).await;
    let mut device = broken.stored(CLIENT).await;
    for sent in in_flight {
        let again = device.receive_publish().await;
        assert_eq!((&again.payload, again.pkid, again.dup), (&sent.payload, sent.pkid, true));
        device.client.ack(&again).await.unwrap();
    }
    let fresh = device.receive_publish().await;
    assert_eq!((&fresh.payload[..], fresh.dup), (&[3][..], false));
    device.client.ack(&fresh).await.unwrap();
    device.gets(4..5).await;
    device.hears_nothing().await;
}

#[tokio::test]
async fn a_p2p_message_reaches_a_stored_session_before_and_after_a_restart() {
    let broken = start().await;
    let topic = format!("TopicA/p2p/{CLIENT}");
    broken.stored(CLIENT).await.disconnect().await;
    broken.send("post-cn-a", &topic, b"before").await;
    broken.broker.shutdown(PATIENCE).await;
    let broken = restart(broken.folder).await;
    broken.send("post-cn-a", &topic, b"after").await;
    assert_eq!(broken.dropped("no_session"), 0);
    let mut device = broken.stored(CLIENT).await;
    for payload in [&b"before"[..], b"after"] {
        assert_eq!(device.receive().await, (topic.clone(), Bytes::copy_from_slice(payload)));
    }
}

#[tokio::test]
async fn what_a_device_published_is_on_disk_for_others_before_its_puback() {
    let broken = start().await;
    let mut reader = broken.stored("GID_Test@@@reader").await;
    assert!(reader.subscribe("TopicA").await);
    reader.disconnect().await;
    let mut writer = broken.device("post-cn-a", CLIENT).await;
    writer.publish("TopicA", &[7]).await;
    let broken = restart(broken.crash()).await;
    broken.stored("GID_Test@@@reader").await.gets([7]).await;
}

#[tokio::test]
async fn an_orderly_end_takes_nothing_from_a_device_that_has_not_acknowledged() {
    let broken = start().await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    broken.count(0..10).await;
    let unacknowledged = device.receive_publish().await;
    assert_eq!(unacknowledged.payload, [0][..]);
    let flush_max = Duration::from_millis(50);
    broken.broker.shutdown(flush_max).await;
    let folder = Arc::clone(&broken.folder);
    drop(broken);
    let mut device = restart(folder).await.stored(CLIENT).await;
    device.gets(0..10).await;
}

#[tokio::test]
async fn a_message_is_forgotten_on_disk_once_its_device_has_acknowledged_it() {
    let broken = start().await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    device.disconnect().await;
    broken.count(0..20).await;
    broken.broker.settled().await.unwrap();
    assert_eq!((broken.rows("copy"), broken.rows("body")), (20, 20));
    let mut device = broken.stored(CLIENT).await;
    device.gets(0..20).await;
    device.flush().await;
    broken.broker.settled().await.unwrap();
    assert_eq!((broken.rows("copy"), broken.rows("body")), (0, 0));
}

#[tokio::test]
async fn a_message_to_many_stored_sessions_is_on_disk_once() {
    let broken = start().await;
    for number in 0..5 {
        let mut device = broken.stored(&format!("GID_Test@@@{number}")).await;
        assert!(device.subscribe("TopicA").await);
        device.disconnect().await;
    }
    broken.count(0..3).await;
    broken.broker.settled().await.unwrap();
    assert_eq!((broken.rows("copy"), broken.rows("body")), (15, 3));
    let broken = restart(broken.crash()).await;
    broken.stored("GID_Test@@@4").await.gets(0..3).await;
}

#[tokio::test]
async fn a_session_expires_by_the_wall_clock_also_while_weir_is_away() {
    let clock = ManualClock::at(NOW);
    let start = |folder| start_in(folder, Limits::default(), Arc::new(clock.clone()));
    let mut broken = start(Arc::new(tempfile::tempdir().unwrap())).await;
    for (days, lives) in [(2, true), (3, false)] {
        let mut device = broken.stored(CLIENT).await;
        assert!(device.subscribe("TopicA").await);
        device.disconnect().await;
        tokio::time::sleep(SILENCE).await;
        broken.count(0..3).await;
        broken.broker.shutdown(PATIENCE).await;
        clock.advance(DAY * days);
        broken = start(broken.folder).await;
        assert_eq!(broken.dropped("expired"), if lives { 0 } else { 3 }, "{days} days");
        let device = broken.stored(CLIENT).await;
        assert_eq!(device.session_present, lives, "{days} days");
        let mut options = broken.options("post-cn-a", CLIENT);
        options.set_clean_session(true);
        TestDevice::connect(options).await.unwrap().disconnect().await;
    }
}

#[tokio::test]
async fn a_device_that_was_connected_at_a_crash_is_away_since_weir_was_last_seen() {
    let clock = ManualClock::at(NOW);
    let start = |folder| start_in(folder, Limits::default(), Arc::new(clock.clone()));
    let broken = start(Arc::new(tempfile::tempdir().unwrap())).await;
    let _connected = broken.stored(CLIENT).await;
    let (left, later) = (broken.crash(), broken.crash());
    clock.advance(DAY * 2);
    assert!(start(left).await.stored(CLIENT).await.session_present);
    clock.advance(DAY);
    assert!(!start(later).await.stored(CLIENT).await.session_present);
}

#[tokio::test]
async fn the_sessions_of_an_instance_that_is_no_longer_configured_are_dropped() {
    let broken = start().await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    device.disconnect().await;
    broken.count(0..3).await;
    broken.broker.shutdown(PATIENCE).await;
    let mut config = config(Limits::default());
    config.instances.remove(0);
    let clock = Arc::new(SystemClock);
    let without = start_as(&config, broken.folder, clock).await.unwrap();
    without.broker.settled().await.unwrap();
    assert_eq!((without.rows("session"), without.rows("copy"), without.rows("body")), (0, 0, 0));
}

#[tokio::test]
async fn a_restored_session_holds_no_more_than_its_bound() {
    let limits = Limits { session_messages_max: 10, ..Limits::default() };
    let broken = start_with(limits).await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    device.disconnect().await;
    tokio::time::sleep(SILENCE).await;
    broken.count(0..10).await;
    broken.broker.shutdown(PATIENCE).await;
    let broken = start_in(broken.folder, limits, Arc::new(SystemClock)).await;
    broken.count(10..13).await;
    assert_eq!(broken.dropped("session_full"), 3);
    let mut device = broken.stored(CLIENT).await;
    device.gets(0..10).await;
    device.hears_nothing().await;
}

/// Signs in, subscribes to TopicA with an identifier, and is given what comes.
async fn v5_device(broken: &Broken, expiry_s: u32) -> (v5::AsyncClient, v5::EventLoop, bool) {
    let port = broken.broker.local_addr().port();
    let mut options = v5::MqttOptions::new(CLIENT, "127.0.0.1", port);
    let (user_name, password) = credentials("post-cn-a", CLIENT);
    options.set_credentials(user_name, password).set_clean_start(false);
    let properties =
        ConnectProperties { session_expiry_interval: Some(expiry_s), ..ConnectProperties::new() };
    options.set_connect_properties(properties);
    let (client, mut events) = v5::AsyncClient::new(options, 10);
    let connected = tokio::time::timeout(PATIENCE, events.poll()).await.unwrap().unwrap();
    let v5::Event::Incoming(V5Packet::ConnAck(ack)) = connected else { panic!("{connected:?}") };
    (client, events, ack.session_present)
}

async fn v5_packet(events: &mut v5::EventLoop) -> V5Packet {
    let incoming = async {
        loop {
            if let v5::Event::Incoming(packet) = events.poll().await.unwrap() {
                return packet;
            }
        }
    };
    tokio::time::timeout(PATIENCE, incoming).await.unwrap()
}

#[tokio::test]
async fn an_mqtt_5_session_keeps_its_options_and_messages_their_properties() {
    let broken = start().await;
    let (client, mut events, _) = v5_device(&broken, 3_600).await;
    let properties =
        v5::mqttbytes::v5::SubscribeProperties { id: Some(77), user_properties: Vec::new() };
    let qos = v5::mqttbytes::QoS::AtLeastOnce;
    client.subscribe_with_properties("TopicA", qos, properties).await.unwrap();
    while !matches!(v5_packet(&mut events).await, V5Packet::SubAck(_)) {}
    drop((client, events));
    let broken = restart(broken.crash()).await;
    broken.count(0..1).await;
    broken.broker.settled().await.unwrap();
    let broken = restart(broken.crash()).await;
    let (_client, mut events, present) = v5_device(&broken, 3_600).await;
    assert!(present);
    let V5Packet::Publish(publish) = v5_packet(&mut events).await else { panic!("no message") };
    let properties = publish.properties.unwrap();
    assert_eq!(properties.subscription_identifiers, [77]);
    let ids: Vec<_> = properties.user_properties.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!((ids, publish.dup), (vec!["msg_id", "instance_id"], false));
}

#[tokio::test]
async fn an_mqtt_5_session_without_an_expiry_is_not_stored_and_ends_a_stored_one() {
    let broken = start().await;
    let (client, events, _) = v5_device(&broken, 3_600).await;
    drop((client, events));
    assert_eq!(broken.rows("session"), 1);
    let (_client, _events, present) = v5_device(&broken, 0).await;
    assert!(present, "it goes on until this connection ends");
    broken.broker.settled().await.unwrap();
    assert_eq!(broken.rows("session"), 0);
}

#[tokio::test]
async fn a_disk_that_refuses_holds_the_cursor_and_new_promises_back_until_it_takes_again() {
    let broken = start().await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    let mut other = broken.stored("GID_Test@@@other").await;
    let fault = Connection::open(broken.folder.path().join(FILE)).unwrap();
    let fail = "CREATE TRIGGER refused BEFORE UPDATE ON seen
        BEGIN SELECT RAISE(ABORT, 'the disk is full'); END";
    fault.execute_batch(fail).unwrap();
    device.disconnect().await;
    broken.count(0..3).await;
    assert!(broken.broker.settled().await.is_err());
    assert!(!other.subscribe("TopicA").await, "a promise that could not be kept");
    let mut options = broken.options("post-cn-a", "GID_Test@@@third");
    options.set_clean_session(false);
    assert!(TestDevice::connect(options).await.is_err());
    assert!(broken.metric("weir_device_store_errors_total") > 0);
    fault.execute_batch("DROP TRIGGER refused").unwrap();
    let again = async {
        while broken.broker.settled().await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(PATIENCE, again).await.expect("it is tried again");
    let broken = restart(broken.crash()).await;
    broken.stored(CLIENT).await.gets(0..3).await;
    let other = broken.stored("GID_Test@@@other").await;
    assert!(other.session_present);
    assert!(!broken.stored("GID_Test@@@third").await.session_present);
}

#[tokio::test]
async fn a_stored_session_that_lost_its_task_gets_another_and_misses_nothing() {
    let broken = start().await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.subscribe("TopicA").await);
    device.disconnect().await;
    tokio::time::sleep(SILENCE).await;
    broken.count(0..3).await;
    broken.lose_task().await;
    broken.count(3..6).await;
    assert_eq!(broken.dropped("no_session"), 0);
    tokio::time::sleep(SWEEP_EVERY + SILENCE).await;
    broken.count(6..9).await;
    let mut device = broken.stored(CLIENT).await;
    assert!(device.session_present);
    device.gets(0..9).await;
    device.hears_nothing().await;
}

#[tokio::test]
async fn a_file_of_another_format_is_refused_by_name() {
    let broken = start().await;
    broken.broker.shutdown(PATIENCE).await;
    let file = Connection::open(broken.folder.path().join(FILE)).unwrap();
    file.execute_batch("PRAGMA user_version = 99").unwrap();
    let clock = Arc::new(SystemClock);
    let refused = start_as(&config(Limits::default()), broken.folder, clock).await;
    let text = refused.err().unwrap().to_string();
    assert!(text.contains("devices.sqlite") && text.contains("it has format 99"), "{text}");
}
