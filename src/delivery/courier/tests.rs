//! A courier and a broker whose answers come when a test says so.

use bytes::Bytes;
use tempfile::TempDir;
use tokio::sync::oneshot;

use super::super::broker::RefusedBy;
use super::super::dead_letters::{DEAD_LETTERS, DeadLetters};
use super::*;
use crate::admission::{Admitted, NonceMark};
use crate::clock::ManualClock;
use crate::journal::{Config, Disk, Environment, Journal, Opened, system_salts};
use crate::message::{InstanceId, Payload, Topic};
use crate::metering::{DeliveryMetrics, JournalMetrics, Registry};

const START: UnixMillis = UnixMillis(1_795_476_600_000);
const RETENTION: Duration = Duration::from_secs(3_600);
const REFUSED: Result<(), PublishError> = Err(PublishError::Refused(RefusedBy::ReasonCode(0x87)));

type Settler = oneshot::Sender<Result<(), PublishError>>;

/// Takes every message in hand and keeps it open.
#[derive(Default)]
struct SlowBroker {
    handed: parking_lot::Mutex<Vec<(u128, Option<Settler>)>>,
}

impl Broker for SlowBroker {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        self.hand_over(message).await.await
    }

    async fn hand_over(&self, message: &Message) -> Ticket {
        let (settler, ticket) = oneshot::channel();
        self.handed.lock().push((message.id.to_u128(), Some(settler)));
        Ticket::open(ticket)
    }
}

struct Nobody;

impl crate::journal::Visitor for Nobody {
    fn record(&mut self, _: StreamId, _: Sequence, _: &Message, _: NonceMark) {}
    fn nonce(&mut self, _: NonceMark) {}
    fn positions(&mut self, _: StreamId) -> Vec<crate::journal::Position> {
        vec![]
    }
    fn progress(&mut self, _: u64, _: u64) {}
}

struct Rig {
    folder: TempDir,
    clock: ManualClock,
    broker: Arc<SlowBroker>,
    courier: Courier<SlowBroker>,
    progress: Arc<Progress>,
    _opened: Opened,
}

impl Rig {
    /// A courier of a journal that holds messages 0 to `messages` in one batch.
    fn new(messages: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = ManualClock::at(START);
        let environment = Environment {
            storage: Arc::new(Disk),
            clock: Arc::new(clock.clone()),
            metrics: JournalMetrics::new(&Registry::new()).unwrap(),
            salts: system_salts(),
        };
        let config =
            Config { segment_bytes: 8 << 20, ..Config::new(folder.path().join("journal"), 1) };
        let mut opened = Journal::open(&config, &environment, &mut Nobody).unwrap();
        let broker = Arc::new(SlowBroker::default());
        let post = Post {
            broker: Arc::clone(&broker),
            dead_letters: DeadLetters::open(&folder.path().join(DEAD_LETTERS)).unwrap().into(),
            retention: RETENTION,
            reconnect_grace: Duration::ZERO,
            clock: Arc::new(clock.clone()),
            metrics: DeliveryMetrics::new(&Registry::new()).unwrap(),
        };
        let stream = &opened.journal.streams()[0];
        let (courier, progress) = Courier::new(Arc::new(post), stream, stream.first()).unwrap();
        let batch = (0..messages).map(admitted).collect();
        let batch = opened.writers[0].append(batch).unwrap();
        opened.writers[0].hand_on(&batch);
        Self { folder, clock, broker, courier, progress, _opened: opened }
    }

    /// The broker's word on the copy of a message that it was handed at this place.
    fn answer(&self, at: usize, outcome: Result<(), PublishError>) {
        let settler = self.broker.handed.lock()[at].1.take().unwrap();
        settler.send(outcome).unwrap();
    }

    fn handed(&self) -> Vec<u128> {
        self.broker.handed.lock().iter().map(|(id, _)| *id).collect()
    }

    /// How many messages one step more has passed.
    async fn step(&mut self) -> u64 {
        let before = self.progress.next().0;
        let step = self.courier.step();
        assert!(tokio::time::timeout(BACKOFF_MAX, step).await.expect("a step that ends"));
        self.progress.next().0 - before
    }

    /// Lines of all files of dead letters.
    fn letters(&self) -> usize {
        let files = std::fs::read_dir(self.folder.path().join(DEAD_LETTERS)).unwrap();
        let lines = |file: std::io::Result<std::fs::DirEntry>| {
            std::fs::read_to_string(file.unwrap().path()).unwrap().lines().count()
        };
        files.map(lines).sum()
    }
}

fn admitted(id: u64) -> Admitted {
    let message = Message {
        id: MessageId::from_u128(id.into()),
        instance: InstanceId::parse("post-cn-a").unwrap(),
        topic: Topic::parse("TopicA").unwrap(),
        payload: Payload::new(Bytes::from_static(b"hello")).unwrap(),
        admitted_at: START,
    };
    let expires_at = UnixMillis(u64::MAX);
    Admitted::untested(message, NonceMark { access_key: 1, fingerprint: id, expires_at })
}

#[tokio::test]
async fn messages_given_up_in_a_row_are_kept_and_passed_together_and_no_other_with_them() {
    let mut rig = Rig::new(6);
    assert_eq!(rig.step().await, 0);
    for (at, outcome) in [REFUSED, REFUSED, Ok(()), REFUSED].into_iter().enumerate() {
        rig.answer(at, outcome);
    }
    assert_eq!((rig.step().await, rig.letters()), (2, 2));
    assert_eq!((rig.step().await, rig.letters()), (1, 2), "this one is delivered");
    assert_eq!((rig.step().await, rig.letters()), (1, 3));
    rig.clock.advance(RETENTION + Duration::from_millis(1));
    assert_eq!((rig.step().await, rig.letters()), (2, 5), "the broker has never answered");
    let metrics = &rig.courier.post.metrics;
    assert_eq!((metrics.delivered.get(), metrics.dead_letters.get()), (1, 5));
}

#[tokio::test]
async fn what_was_too_old_from_the_start_is_kept_together() {
    let mut rig = Rig::new(100);
    rig.clock.advance(RETENTION + Duration::from_millis(1));
    assert_eq!((rig.step().await, rig.handed()), (0, vec![]));
    assert_eq!((rig.step().await, rig.letters()), (LETTERS_MAX as u64, LETTERS_MAX));
    assert_eq!((rig.step().await, rig.letters()), (100 - LETTERS_MAX as u64, 100));
}

#[tokio::test]
async fn a_message_is_not_passed_before_it_is_kept() {
    let mut rig = Rig::new(2);
    rig.step().await;
    rig.answer(0, REFUSED);
    std::fs::remove_dir(rig.folder.path().join(DEAD_LETTERS)).unwrap();
    let before = rig.progress.next();
    let half = tokio::time::timeout(BACKOFF_MAX / 20, rig.courier.step()).await;
    assert!(half.is_err() && rig.progress.next() == before, "it is nowhere");
}

#[tokio::test]
async fn what_the_broker_lets_go_of_goes_out_again_and_what_it_holds_does_not() {
    let mut rig = Rig::new(4);
    rig.step().await;
    rig.answer(0, Err(PublishError::Unavailable));
    rig.answer(2, Err(PublishError::Unavailable));
    rig.answer(3, Ok(()));
    assert_eq!((rig.step().await, rig.handed()), (0, vec![0, 1, 2, 3, 0, 2]));
    assert_eq!(rig.courier.post.metrics.duplicates_possible.get(), 2);
    for at in [5, 1, 4] {
        rig.answer(at, Ok(()));
    }
    for _ in 0..4 {
        assert_eq!(rig.step().await, 1);
    }
}
