use std::time::Duration;

use bytes::Bytes;
use rmqtt::codec::v5::{PublishProperties, RetainHandling};
use rmqtt::types::{QoS, SubOptionsV3, SubOptionsV5, SubscriptionOptions};
use rusqlite::Connection;
use tempfile::TempDir;

use super::*;
use crate::clock::{ManualClock, UnixMillis};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

fn open(folder: &TempDir) -> (Store, Loaded) {
    let errors = IntCounter::new("errors", "errors").unwrap();
    Store::open(folder.path(), Arc::new(ManualClock::at(NOW)), errors).unwrap()
}

fn row(client: &str) -> SessionRow {
    SessionRow {
        instance: "post-cn-a".into(),
        client: client.into(),
        is_v5: true,
        expiry: Duration::from_secs(60),
        created: UnixMillis(7),
        away: Some(NOW),
        sent_before: 3,
    }
}

fn body(payload: &'static [u8]) -> Arc<Body> {
    let user_properties = vec![("msg_id".into(), "1".into())];
    Arc::new(Body {
        topic: "TopicA/x".into(),
        payload: Bytes::from_static(payload),
        properties: PublishProperties { user_properties, ..PublishProperties::default() },
        created: 8,
    })
}

fn copy(packet: u16) -> Copy {
    let subscription_ids = vec![3.try_into().unwrap(), 268_435_455.try_into().unwrap()];
    Copy { qos: QoS::AtLeastOnce, retain: true, packet, subscription_ids }
}

#[tokio::test]
async fn everything_is_read_as_it_was_put() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(&folder);
    let key = store.create(row("c"));
    let v5 = SubscriptionOptions::V5(SubOptionsV5 {
        qos: QoS::ExactlyOnce,
        shared_group: Some("g".into()),
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::NoAtSubscribe,
        id: 5.try_into().ok(),
    });
    let v3 = SubscriptionOptions::V3(SubOptionsV3 { qos: QoS::AtLeastOnce, shared_group: None });
    let subscriptions = [("a/#", v5), ("b", v3)].map(|(filter, options)| {
        store.subscribe(key, filter, Some(Subscription(options.clone())));
        (filter.to_owned(), Subscription(options))
    });
    let first = store.keep(key, &mut None, &body(b""), copy(9)).unwrap();
    let second = store.keep(key, &mut None, &body(b"\0\xFF"), copy(0)).unwrap();
    let retained = Retained {
        body: (*body(b"kept")).clone(),
        qos: QoS::ExactlyOnce,
        publisher: "lamp".into(),
    };
    store.retain("post-cn-a", "TopicA/x", Some(retained.clone()));
    store.retain("post-cn-a", "TopicA/y", Some(retained.clone()));
    store.sync().await.unwrap();
    store.retain("post-cn-a", "TopicA/y", None);
    store.sent(key, second, 10);
    store.close().await;
    let (store, loaded) = open(&folder);
    let [kept] = &loaded.sessions[..] else { panic!("one session") };
    assert_eq!((kept.key, &kept.row), (key, &row("c")));
    assert_eq!(kept.subscriptions, subscriptions);
    let copies: Vec<_> =
        kept.copies.iter().map(|(at, _, body, copy)| (tag_of(*at), &**body, copy)).collect();
    let expected = [(first, &*body(b""), &copy(9)), (second, &*body(b"\0\xFF"), &copy(10))];
    assert_eq!(copies, expected);
    assert_eq!(loaded.retained, [("post-cn-a".into(), "TopicA/x".into(), retained)]);
    // A number is not given twice across a restart either.
    assert!(store.create(row("d")) > key && store.holds(key, second));
}

#[tokio::test]
async fn a_copy_that_is_acknowledged_before_its_transaction_is_never_written() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(&folder);
    let key = store.create(row("c"));
    store.sync().await.unwrap();
    let file = Connection::open(folder.path().join(FILE)).unwrap();
    let refuse = "CREATE TRIGGER refused BEFORE INSERT ON copy
        BEGIN SELECT RAISE(ABORT, 'a copy'); END";
    file.execute_batch(refuse).unwrap();
    for _ in 0..1_000 {
        let tag = store.keep(key, &mut None, &body(b"short-lived"), copy(0)).unwrap();
        store.done(key, tag);
    }
    store.sync().await.unwrap();
    store.keep(key, &mut None, &body(b"stays"), copy(0)).unwrap();
    assert_eq!(store.sync().await, Err(Unsynced::Failing), "the trigger would have noticed");
}

/// What comes of a wait if all it waits for is undone before the writer is back for a batch.
async fn taken_after<T>(store: &Store, wait: impl Future<Output = T>, undo: impl FnOnce()) -> T {
    let shared = Arc::clone(&store.shared);
    let (tell, told) = tokio::sync::oneshot::channel();
    let take = async {
        undo();
        std::thread::spawn(move || tell.send(shared.take()).is_ok());
        let taken = tokio::time::timeout(Duration::from_secs(10), told).await;
        let (number, batch) = taken.expect("a batch is asked for").unwrap().unwrap();
        assert!(batch.is_empty());
        store.shared.committed(number);
    };
    tokio::join!(biased; wait, take).0
}

#[tokio::test]
async fn a_wait_ends_though_all_it_waits_for_is_taken_back_while_the_writer_is_busy() {
    let waiting = Waiting { desk: Desk::new(1), number: 1, urgent: false, closing: false };
    let shared = Arc::new(Shared {
        desk: Mutex::new(waiting),
        work: Condvar::new(),
        progress: watch::Sender::new(Progress::default()),
        errors: IntCounter::new("errors", "errors").unwrap(),
    });
    let store = Store { shared, path: PathBuf::new() };
    let key = store.create(row("c"));
    store.shared.take().unwrap();
    store.shared.committed(1);
    let tag = store.keep(key, &mut None, &body(b"short-lived"), copy(0)).unwrap();
    assert_eq!(taken_after(&store, store.sync(), || store.done(key, tag)).await, Ok(()));
    let large: &[u8] = Box::leak(vec![7; WAITING_BYTES_MAX].into_boxed_slice());
    let tag = store.keep(key, &mut None, &body(large), copy(0)).unwrap();
    assert_eq!(taken_after(&store, store.room(), || store.done(key, tag)).await, Ok(()));
}

#[tokio::test]
async fn a_wait_ends_after_the_commit_and_not_before() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(&folder);
    let file = Connection::open(folder.path().join(FILE)).unwrap();
    for number in 1..20_u64 {
        store.create(row("c"));
        store.sync().await.unwrap();
        let rows = file.query_row("SELECT count(*) FROM session", [], |row| row.get::<_, u64>(0));
        assert_eq!(rows.unwrap(), number);
    }
}

#[tokio::test]
async fn what_cannot_be_written_is_bounded_and_comes_through_when_the_disk_takes_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(&folder);
    let key = store.create(row("c"));
    store.sync().await.unwrap();
    let file = Connection::open(folder.path().join(FILE)).unwrap();
    let refuse = "CREATE TRIGGER refused BEFORE UPDATE ON seen
        BEGIN SELECT RAISE(ABORT, 'full'); END";
    file.execute_batch(refuse).unwrap();
    let large: &[u8] = Box::leak(vec![7; 64 * 1024].into_boxed_slice());
    let mut taken = 0;
    // Fewer than two batches of them: one in the writer's hands, one behind it.
    while taken < 2 * WAITING_BYTES_MAX / large.len() + 2 && store.room().await.is_ok() {
        store.keep(key, &mut None, &body(large), copy(0)).unwrap();
        taken += 1;
    }
    assert_eq!(store.room().await, Err(Unsynced::Failing));
    assert!(taken >= WAITING_BYTES_MAX / large.len() - 1, "{taken}");
    file.execute_batch("DROP TRIGGER refused").unwrap();
    while store.sync().await.is_err() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    store.close().await;
    assert_eq!(open(&folder).1.sessions[0].copies.len(), taken);
}

#[test]
fn the_properties_of_a_message_count_as_its_payload_does() {
    let plain = body(b"x");
    let mut described = (*plain).clone();
    described.properties.correlation_data = Some(Bytes::from_static(&[7; 1_000]));
    assert_eq!(described.bytes(), plain.bytes() + 1_000);
}

#[tokio::test]
async fn a_closed_store_promises_nothing_more() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(&folder);
    store.close().await;
    assert_eq!(store.sync().await, Ok(()), "nothing was put");
    store.create(row("c"));
    assert_eq!(store.sync().await, Err(Unsynced::Closed));
    assert_eq!(store.room().await, Err(Unsynced::Closed));
}

#[tokio::test]
async fn expired_sessions_are_removed_and_counted_at_the_start() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = open(&folder);
    let over = SessionRow { away: Some(NOW.minus(Duration::from_secs(60))), ..row("over") };
    let (mut shared, live) = (None, store.create(row("live")));
    for number in 0..40 {
        let key = store.create(SessionRow { client: format!("over-{number}"), ..over.clone() });
        store.keep(key, &mut shared, &body(b"shared"), copy(0)).unwrap();
        store.keep(key, &mut None, &body(b"own"), copy(0)).unwrap();
    }
    store.keep(live, &mut shared, &body(b"shared"), copy(0)).unwrap();
    store.close().await;
    let (_store, loaded) = open(&folder);
    assert_eq!(loaded.expired, [("post-cn-a".to_owned(), 80)].into());
    let [kept] = &loaded.sessions[..] else { panic!("one session") };
    assert_eq!((kept.key, kept.copies.len()), (live, 1));
    let file = Connection::open(folder.path().join(FILE)).unwrap();
    let rows = file.query_row("SELECT count(*) FROM body", [], |row| row.get::<_, u64>(0));
    assert_eq!(rows.unwrap(), 1);
}

#[test]
fn the_tables_of_format_1_never_change() {
    let folder = tempfile::tempdir().unwrap();
    let file = tables::open(&folder.path().join(FILE)).unwrap();
    let mut statement = file.prepare("SELECT sql FROM sqlite_schema ORDER BY name").unwrap();
    let sql = statement.query_map([], |row| row.get::<_, String>(0)).unwrap();
    let words: Vec<String> = sql
        .flat_map(|sql| {
            let sql = sql.unwrap();
            let lines = sql.lines().map(|line| line.split("--").next().unwrap_or_default());
            lines
                .collect::<Vec<_>>()
                .join(" ")
                .split_whitespace()
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    let crc = crc32c::crc32c(words.join(" ").as_bytes());
    assert_eq!(format!("{crc:08x}"), "878e1370", "another layout is another format");
}

#[tokio::test]
async fn a_damaged_row_is_named() {
    for (damage, name) in [
        ("UPDATE copy SET qos = 3", "copy 2"),
        ("DELETE FROM body", "message 2"),
        ("UPDATE subscription SET qos = 3", "subscription a/# of session 1"),
        ("UPDATE retained SET qos = 3", "retained TopicA/x of post-cn-a"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let (store, _) = open(&folder);
        let key = store.create(row("c"));
        store.keep(key, &mut None, &body(b"x"), copy(0)).unwrap();
        let (qos, publisher) = (QoS::AtLeastOnce, "lamp".into());
        let options = SubOptionsV3 { qos, shared_group: None };
        store.subscribe(key, "a/#", Some(Subscription(SubscriptionOptions::V3(options))));
        let retained = Retained { body: (*body(b"kept")).clone(), qos, publisher };
        store.retain("post-cn-a", "TopicA/x", Some(retained));
        store.close().await;
        let file = Connection::open(folder.path().join(FILE)).unwrap();
        file.execute_batch(damage).unwrap();
        let errors = IntCounter::new("errors", "errors").unwrap();
        let opened = Store::open(folder.path(), Arc::new(ManualClock::at(NOW)), errors);
        let text = opened.err().unwrap().to_string();
        assert!(text.contains(&format!(": {name} is not as it was written")), "{text}");
    }
}
