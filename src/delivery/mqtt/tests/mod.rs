//! The lanes against a broker that does what no real one can be asked to do.

mod scripted;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{FutureExt, join_all};

use super::session::ANSWERED_WITHIN;
use super::*;
use crate::clock::{ManualClock, SystemClock, UnixMillis};
use crate::delivery::broker::RefusedBy;
use crate::message::{InstanceId, MessageId, Payload, Topic};
use crate::metering::Registry;
use scripted::{Answer, Scripted, v5};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

pub(super) fn message(topic: &str, payload: &'static [u8]) -> Message {
    Message {
        id: MessageId::from_u128(0xA),
        instance: InstanceId::parse("post-cn-a").unwrap(),
        topic: Topic::parse(topic).unwrap(),
        payload: Payload::new(Bytes::from_static(payload)).unwrap(),
        admitted_at: UnixMillis(5),
    }
}

fn numbered(number: usize) -> Message {
    let payload = Payload::new(Bytes::from(number.to_string())).unwrap();
    Message { payload, ..message("TopicA", b"") }
}

/// A weir's end: connections to a scripted broker.
struct Rig {
    broker: MqttBroker,
    metrics: DeliveryMetrics,
    _folder: tempfile::TempDir,
}

pub(super) fn config(port: u16) -> Config {
    Config {
        address: Address { host: "127.0.0.1".into(), port },
        tls: None,
        protocol: Protocol::Auto,
        login: None,
        client_id: None,
        topic: Template::default(),
        keep_alive: Duration::from_secs(20),
        connections: 1,
        in_flight_messages_max: 100,
    }
}

fn rig(config: Config) -> Rig {
    rig_at(&(Arc::new(SystemClock) as Arc<dyn Clock>), config)
}

fn rig_at(clock: &Arc<dyn Clock>, config: Config) -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let metrics = DeliveryMetrics::new(&Registry::new()).unwrap();
    let broker = MqttBroker::start(config, folder.path(), 1, clock, &metrics).unwrap();
    Rig { broker, metrics, _folder: folder }
}

impl Rig {
    /// Hands numbered messages over and waits for every outcome.
    async fn outcomes(&self, messages: usize) -> Vec<Result<(), PublishError>> {
        let mut tickets = vec![];
        for number in 0..messages {
            tickets.push(self.broker.hand_over(&numbered(number)).await);
        }
        within(join_all(tickets)).await
    }
}

async fn within<T>(outcome: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, outcome).await.expect("an outcome in time")
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

#[tokio::test]
async fn a_message_is_delivered_at_its_puback_and_not_before() {
    let mut broker = Scripted::start().await;
    let rig = rig(config(broker.port));
    let mut ticket = rig.broker.hand_over(&numbered(0)).await;
    let mut connection = broker.accept(&v5(&[])).await;
    let (id, _) = connection.publish().await;
    let early = tokio::time::timeout(Duration::from_millis(200), &mut ticket).await;
    assert!(early.is_err(), "settled before its PUBACK: {early:?}");
    connection.puback(id, Answer::Taken).await;
    assert_eq!(within(ticket).await, Ok(()));
}

#[tokio::test]
async fn a_reason_from_0x80_on_is_a_refusal_and_no_subscriber_is_none() {
    let mut broker = Scripted::start().await;
    let rig = rig(config(broker.port));
    let answers = [Answer::Reason(0x10), Answer::Reason(0x87), Answer::Reason(0x99), Answer::Taken];
    let served = async {
        let mut connection = broker.accept(&v5(&[])).await;
        for answer in answers {
            let (id, _) = connection.publish().await;
            connection.puback(id, answer).await;
        }
        connection
    };
    let (outcomes, _connection) = tokio::join!(rig.outcomes(4), served);
    let refused = |code| Err(PublishError::Refused(RefusedBy::ReasonCode(code)));
    assert_eq!(outcomes, [Ok(()), refused(0x87), refused(0x99), Ok(())]);
}

#[tokio::test]
async fn a_message_that_is_too_much_now_goes_out_again_before_any_newer_one() {
    let mut broker = Scripted::start().await;
    let rig = rig(config(broker.port));
    let served = async {
        // One at a time, by its receive-maximum.
        let mut connection = broker.accept(&v5(&[0x21, 0, 1])).await;
        let mut got = vec![];
        for answer in [Answer::Reason(0x97), Answer::Reason(0x91), Answer::Taken, Answer::Taken] {
            let (id, payload) = connection.publish().await;
            got.push(payload);
            connection.puback(id, answer).await;
        }
        (got, connection)
    };
    let (outcomes, (got, _connection)) = tokio::join!(rig.outcomes(2), served);
    assert_eq!(got, ["0", "0", "0", "1"]);
    assert_eq!(outcomes, [Ok(()), Ok(())]);
}

#[tokio::test]
async fn no_more_is_on_its_way_than_the_broker_allows() {
    let mut broker = Scripted::start().await;
    let rig = rig(config(broker.port));
    let served = async {
        let mut connection = broker.accept(&v5(&[0x21, 0, 3])).await;
        let mut open = vec![];
        for _ in 0..3 {
            open.push(connection.publish().await.0);
        }
        assert!(connection.is_silent().await, "a fourth is on its way");
        for _ in 3..10 {
            connection.puback(open.remove(0), Answer::Taken).await;
            open.push(connection.publish().await.0);
        }
        for id in open {
            connection.puback(id, Answer::Taken).await;
        }
        connection
    };
    let (outcomes, _connection) = tokio::join!(rig.outcomes(10), served);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
}

#[tokio::test]
async fn a_message_larger_than_the_broker_takes_is_refused_and_never_sent() {
    let mut broker = Scripted::start().await;
    let rig = rig(config(broker.port));
    let large = message("TopicA", &[b'x'; 200]);
    let large = rig.broker.hand_over(&large).await;
    let small = rig.broker.hand_over(&numbered(1)).await;
    let served = async {
        let mut connection = broker.accept(&v5(&[0x27, 0, 0, 0, 200])).await;
        let (id, payload) = connection.publish().await;
        assert_eq!(payload, "1");
        connection.puback(id, Answer::Taken).await;
        connection
    };
    let (large, small, _connection) = tokio::join!(within(large), within(small), served);
    let Err(PublishError::Refused(RefusedBy::PacketTooLarge { bytes, bytes_max: 200 })) = large
    else {
        panic!("{large:?}")
    };
    assert!(bytes > 200 && small.is_ok());
}

#[tokio::test]
async fn what_was_not_acknowledged_goes_out_again_after_a_reconnect_in_its_order() {
    let mut broker = Scripted::start().await;
    let rig = rig(config(broker.port));
    let served = async {
        let mut connection = broker.accept(&v5(&[])).await;
        let mut ids = vec![];
        for number in 0..6 {
            let (id, payload) = connection.publish().await;
            assert_eq!(payload, number.to_string());
            ids.push(id);
        }
        connection.puback(ids[1], Answer::Taken).await;
        connection.puback(ids[3], Answer::Taken).await;
        drop(connection);
        let mut connection = broker.accept(&v5(&[])).await;
        let mut got = vec![];
        for _ in 0..4 {
            let (id, payload) = connection.publish().await;
            got.push(payload);
            connection.puback(id, Answer::Taken).await;
        }
        (got, connection)
    };
    let (outcomes, (got, _connection)) = tokio::join!(rig.outcomes(6), served);
    assert_eq!(got, ["0", "2", "4", "5"]);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(rig.metrics.duplicates_possible.get(), 4);
    assert_eq!((rig.metrics.disconnects.get(), rig.metrics.connections.get()), (1, 1));
}

#[tokio::test]
async fn a_broker_that_hangs_up_on_one_message_loses_only_that_one() {
    let mut broker = Scripted::start().await;
    let rig = rig(config(broker.port));
    let served = async {
        let mut through = vec![];
        let mut connection = broker.accept_v3().await;
        while through.len() < 11 {
            let (id, payload) = connection.publish().await;
            if payload == "7" {
                drop(connection);
                connection = broker.accept_v3().await;
                continue;
            }
            // An acknowledgement may be lost with the connection.
            if !through.contains(&payload) {
                through.push(payload);
            }
            connection.puback(id, Answer::Taken).await;
        }
        (through, connection)
    };
    let (outcomes, (through, _connection)) = tokio::join!(rig.outcomes(12), served);
    let expected: Vec<_> = numbers(0..12).into_iter().filter(|number| number != "7").collect();
    assert_eq!(through, expected);
    for (number, outcome) in outcomes.iter().enumerate() {
        let refused = Err(PublishError::Refused(RefusedBy::ConnectionClosed {
            times: super::in_flight::STRIKES_MAX,
        }));
        let wanted = if number == 7 { refused } else { Ok(()) };
        assert_eq!(*outcome, wanted, "{number}");
    }
}

#[tokio::test]
async fn a_broker_that_falls_silent_is_given_up_within_one_and_a_half_keep_alives() {
    let mut broker = Scripted::start().await;
    // The broker's own keep-alive (0x13) is the one that counts.
    let rig = rig(config(broker.port));
    let ticket = rig.broker.hand_over(&numbered(0)).await;
    let served = async {
        let connection = broker.accept(&v5(&[0x13, 0, 1])).await;
        // Neither read from nor closed: packets into the void, as without a FIN.
        let began = SystemClock.now();
        let mut second = broker.accept(&v5(&[])).await;
        let noticed = SystemClock.now() - began;
        assert!(noticed >= Duration::from_millis(1_500), "a live broker was left: {noticed:?}");
        let (id, payload) = second.publish().await;
        assert_eq!(payload, "0");
        second.puback(id, Answer::Taken).await;
        (connection, second)
    };
    let (outcome, _held) = tokio::join!(within(ticket), served);
    assert_eq!(outcome, Ok(()));
}

#[tokio::test]
async fn a_broker_that_answers_pings_is_kept_and_asked_often_enough() {
    let mut broker = Scripted::start().await;
    let rig = rig(config(broker.port));
    let mut connection = broker.accept(&v5(&[0x13, 0, 1])).await;
    for _ in 0..6 {
        connection.ping().await;
    }
    assert_eq!((rig.metrics.disconnects.get(), rig.metrics.connections.get()), (0, 1));
}

#[tokio::test]
async fn a_broker_that_only_answers_is_sent_a_ping_in_time() {
    let mut broker = Scripted::start().await;
    let rig = rig(config(broker.port));
    let mut tickets = vec![];
    for number in 0..10 {
        tickets.push(rig.broker.hand_over(&numbered(number)).await);
    }
    let mut connection = broker.accept(&v5(&[0x13, 0, 1])).await;
    let mut open = vec![];
    for _ in &tickets {
        open.push(connection.publish().await.0);
    }
    // It takes two keep-alives for its answers.
    while connection.is_silent().await {
        assert!(!open.is_empty(), "nothing was sent for more than one and a half keep-alives");
        connection.puback(open.remove(0), Answer::Taken).await;
    }
    connection.ping().await;
}

#[tokio::test]
async fn a_connection_that_is_not_made_again_is_noticed_and_one_that_is_lost_is_none() {
    let mut broker = Scripted::start().await;
    let rig = rig(Config { connections: 2, ..config(broker.port) });
    for _ in 0..3 {
        drop(broker.accept(&v5(&[])).await);
    }
    assert_eq!(rig.broker.ended().now_or_never(), None);
    // As a panic would.
    rig.broker.tasks.lock()[1].abort();
    within(rig.broker.ended()).await;
}

#[tokio::test]
async fn a_broker_of_3_1_1_is_spoken_to_in_3_1_1() {
    for refusal in [&[0x20, 3, 0, 0x84, 0][..], &[0x20, 2, 0, 1], &[]] {
        let mut broker = Scripted::start().await;
        let rig = rig(config(broker.port));
        let ticket = rig.broker.hand_over(&numbered(0)).await;
        let served = async {
            broker.refuse(refusal).await;
            let mut connection = broker.accept_v3_now().await;
            let (id, _) = connection.publish().await;
            connection.puback(id, Answer::Taken).await;
            connection
        };
        let (outcome, _connection) = tokio::join!(within(ticket), served);
        assert_eq!(outcome, Ok(()), "{refusal:?}");
    }
}

#[tokio::test]
async fn a_withdrawn_message_is_not_sent_and_a_stop_says_disconnect() {
    let mut broker = Scripted::start().await;
    let rig = rig(config(broker.port));
    drop(rig.broker.hand_over(&numbered(0)).await);
    let kept = rig.broker.hand_over(&numbered(1)).await;
    let mut connection = broker.accept(&v5(&[])).await;
    let (id, payload) = connection.publish().await;
    assert_eq!(payload, "1");
    connection.puback(id, Answer::Taken).await;
    assert_eq!(within(kept).await, Ok(()));
    let (ended, ()) = tokio::join!(connection.rest(), rig.broker.shutdown(PATIENCE));
    assert_eq!(ended, [0xE0, 0]);
    let after = rig.broker.publish(&numbered(2)).await;
    assert_eq!(after, Err(PublishError::Unavailable));
}

#[tokio::test]
async fn what_is_withdrawn_while_the_broker_is_away_is_let_go_of_and_nothing_else() {
    let mut broker = Scripted::start().await;
    let rig = rig(config(broker.port));
    let mut kept = rig.broker.hand_over(&numbered(0)).await;
    let bytes = Bytes::from(b"withdrawn".to_vec());
    let payload = Payload::new(bytes.clone()).unwrap();
    let withdrawn = Message { payload, ..message("TopicA", b"") };
    // Nobody has answered CONNECT yet.
    for number in 0..3 * WINDOW_MESSAGES_MAX {
        let ticket = rig.broker.hand_over(&withdrawn).await;
        assert_eq!(ticket.now_or_never(), None, "no room for {number}");
        tokio::task::yield_now().await;
    }
    drop(withdrawn);
    // It begins to, and takes nobody yet: not authorized.
    broker.refuse(&[0x20, 3, 0, 0x87, 0]).await;
    let let_go = async {
        while !bytes.is_unique() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within(let_go).await;
    assert_eq!((&mut kept).now_or_never(), None);
    let mut connection = broker.accept(&v5(&[])).await;
    let (id, payload) = connection.publish().await;
    assert_eq!(payload, "0");
    connection.puback(id, Answer::Taken).await;
    assert_eq!(within(kept).await, Ok(()));
}

#[tokio::test]
async fn a_message_the_broker_never_answers_for_does_not_keep_its_packet_id() {
    let mut broker = Scripted::start().await;
    let manual = ManualClock::at(UnixMillis(5));
    let clock: Arc<dyn Clock> = Arc::new(manual.clone());
    let keep_alive = Duration::from_secs(65_535);
    let rig = rig_at(&clock, Config { keep_alive, ..config(broker.port) });
    let first = rig.broker.hand_over(&numbered(0)).await;
    let withdrawn = rig.broker.hand_over(&numbered(1)).await;
    let mut connection = broker.accept(&v5(&[])).await;
    let (id, _) = connection.publish().await;
    connection.publish().await;
    let moment = Duration::from_millis(1);
    manual.advance(ANSWERED_WITHIN - moment);
    connection.puback(id, Answer::Taken).await;
    assert_eq!(within(first).await, Ok(()));
    // Answers go on, so this one has its time from here.
    drop(withdrawn);
    manual.advance(ANSWERED_WITHIN - moment);
    connection.alive().await;
    let kept = rig.broker.hand_over(&numbered(2)).await;
    assert_eq!(connection.publish().await.1, "2");
    manual.advance(moment);
    connection.alive().await;
    let mut connection = broker.accept(&v5(&[])).await;
    let (id, payload) = connection.publish().await;
    assert_eq!(payload, "2");
    connection.puback(id, Answer::Taken).await;
    assert_eq!(within(kept).await, Ok(()));
    assert_eq!(rig.metrics.disconnects.get(), 1);
}

#[tokio::test]
async fn a_topic_keeps_to_its_connection_and_topics_share_them_out() {
    let mut broker = Scripted::start().await;
    let rig = rig(Config { connections: 4, ..config(broker.port) });
    let mut connections = vec![];
    for _ in 0..4 {
        connections.push(broker.accept(&v5(&[])).await);
    }
    let lane_of =
        |topic: usize| rig.broker.lane(&message(&format!("TopicA/{topic}"), b"")).unwrap();
    assert!((0..40).all(|topic| lane_of(topic).same_channel(lane_of(topic))));
    let used = |lane: &mpsc::Sender<Parcel>| (0..40).any(|topic| lane_of(topic).same_channel(lane));
    assert!(rig.broker.lanes.iter().all(used));
    let mut ids: Vec<_> = connections.iter().map(|one| one.client_id.clone()).collect();
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4, "{ids:?}");
}
