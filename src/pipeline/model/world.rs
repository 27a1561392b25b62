use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::runtime::Runtime;
use tokio::sync::Notify;

use super::reference::Reference;
use crate::admission::{Admission, Admitted, FingerprintKey, NonceMark, Sources};
use crate::clock::{Clock, ManualClock, UnixMillis};
use crate::delivery::{
    Broker, Courier, Cursors, DeadLetters, Post, Progress, PublishError, RefusedBy,
};
use crate::journal::cruel::{Call, CruelDisk};
use crate::journal::dice::Dice;
use crate::journal::{Config, Environment, Journal, JournalError, Opened, Sequence, StreamId};
use crate::ledger::{Clerk, Ledger};
use crate::message::{InstanceId, Message, MessageId, Payload, Topic};
use crate::metering::{
    AdmissionMetrics, Billing, DeliveryMetrics, JournalMetrics, LedgerMetrics, QueueMetrics,
    Registry,
};
use crate::pipeline::StartError;
use crate::pipeline::recovery::{Recovery, Report};
use crate::pipeline::upkeep::save_and_trim;
use crate::queue::{Queue, Receipt, Unstored};
use crate::shard::{self, Shard};

const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
const NONCE_LIFE: Duration = Duration::from_secs(900);
const INSTANCES: [&str; 2] = ["post-cn-even", "post-cn-odd"];
const CURSORS: &str = "data/delivery.cursors";
/// Messages of topic n have ids that leave n; a topic stays with a shard while their number does.
const TOPICS: u64 = 5;
/// Makes the ledger fail after its rows and before its watermark.
const FAIL: &str = "CREATE TRIGGER failing BEFORE INSERT ON watermark
    BEGIN SELECT RAISE(ABORT, 'the ledger fails'); END";
const KINDS: [ErrorKind; 2] = [ErrorKind::StorageFull, ErrorKind::Other];

/// One data directory, its ledger, and what must be true of them.
pub(super) struct World {
    dice: Dice,
    disk: CruelDisk,
    clock: ManualClock,
    salt: Arc<AtomicU64>,
    shards: u16,
    segment_bytes: u64,
    /// A database in memory that outlives the process; only committed transactions are in it.
    ledger: PathBuf,
    ledger_holder: rusqlite::Connection,
    dead_letters: tempfile::TempDir,
    runtime: Runtime,
    reference: Arc<Mutex<Reference>>,
    shown: [u64; 2],
    next_id: u64,
    life: Option<Life>,
}

/// How a run went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ran {
    /// A fingerprint of every call to the disk, and how many there were.
    pub(super) trace: u64,
    pub(super) calls: u64,
    pub(super) acknowledged: u64,
    /// Found after a start though nobody had been told.
    pub(super) adopted: u64,
    /// Streams found without their first segments.
    pub(super) trimmed: u64,
}

/// One process.
struct Life {
    queue: Queue,
    shards: Vec<Shard>,
    streams: Vec<StreamId>,
    waiting: Vec<Vec<(u64, Receipt)>>,
    clerk: Clerk,
    couriers: Vec<(Courier<ModelBroker>, Arc<Progress>)>,
    broker: Arc<ModelBroker>,
    cursors: Cursors,
    billing: Billing,
    journal: Journal,
}

/// Takes messages until its budget is used up: then the process dies with one in its hands.
struct ModelBroker {
    reference: Arc<Mutex<Reference>>,
    budget: Mutex<Option<usize>>,
    used_up: Notify,
    last: Mutex<BTreeMap<Topic, u64>>,
}

impl Broker for ModelBroker {
    async fn publish(&self, message: &Message) -> Result<(), PublishError> {
        let budget = *self.budget.lock();
        if budget == Some(0) {
            self.used_up.notify_one();
            std::future::pending::<()>().await;
        }
        *self.budget.lock() = budget.map(|left| left - 1);
        let id = id_of(message);
        let before = self.last.lock().insert(message.topic.clone(), id);
        assert!(before.is_none_or(|before| before < id), "I6: {id} after {before:?}");
        self.reference.lock().deliver(id);
        if id.is_multiple_of(61) { Err(RefusedBy::ReasonCode(0x99).into()) } else { Ok(()) }
    }
}

struct Silent;

impl Report for Silent {
    fn progress(&self, _: u64, _: u64) {}
}

fn message(id: u64, payload_bytes: usize) -> Message {
    let instance = INSTANCES[usize::from(id % 2 == 1)];
    Message {
        id: MessageId::from_u128(u128::from(id)),
        instance: InstanceId::parse(instance).unwrap(),
        topic: Topic::parse(&format!("TopicA/{}", id % TOPICS)).unwrap(),
        payload: Payload::new(Bytes::from(vec![7; payload_bytes])).unwrap(),
        admitted_at: UnixMillis(NOW.0 + id),
    }
}

fn id_of(message: &Message) -> u64 {
    u64::try_from(message.id.to_u128()).unwrap()
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        static WORLDS: AtomicU64 = AtomicU64::new(0);
        let world = WORLDS.fetch_add(1, Ordering::Relaxed);
        let ledger = PathBuf::from(format!("file:model-{world}?mode=memory&cache=shared"));
        let mut world = Self {
            dice: Dice::new(seed),
            disk: CruelDisk::new(seed),
            clock: ManualClock::at(NOW),
            salt: Arc::new(AtomicU64::new(seed << 20)),
            shards: 2,
            segment_bytes: 4096,
            ledger_holder: rusqlite::Connection::open(&ledger).unwrap(),
            ledger,
            dead_letters: tempfile::tempdir().unwrap(),
            runtime: tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap(),
            reference: Arc::default(),
            shown: [0; 2],
            next_id: 1,
            life: None,
        };
        world.start();
        world
    }

    pub(super) fn step(&mut self) {
        match self.dice.below(20) {
            0..6 => self.send(),
            6..11 => self.turn(),
            11..13 => self.fold(),
            13..15 => self.deliver(None),
            15 | 16 => self.save(),
            17 => self.life.as_ref().unwrap().journal.work(),
            18 => self.clock.advance(NONCE_LIFE / 4),
            _ => self.restart(),
        }
        self.look();
    }

    /// I2 and I5: the counter shows what is billed, and never goes back.
    fn look(&mut self) {
        for (odd, shown) in self.shown.iter_mut().enumerate() {
            let instance = InstanceId::parse(INSTANCES[odd]).unwrap();
            let now = self.life.as_ref().unwrap().billing.shown(&instance);
            assert!(now >= *shown, "I5: {instance} shows {now} after {shown}");
            let is_its = |id: u64| id % 2 == odd as u64;
            assert_eq!(now, self.reference.lock().billed(is_its), "I2: {instance}");
            *shown = now;
        }
    }

    fn send(&mut self) {
        let life = self.life.as_mut().unwrap();
        for id in self.next_id..=self.next_id + self.dice.roll() % 6 {
            let shard = usize::try_from(id % TOPICS).unwrap() % life.shards.len();
            let expires_at = self.clock.unix().plus(NONCE_LIFE);
            let mark = NonceMark { access_key: 7, fingerprint: id, expires_at };
            let admitted = Admitted::untested(message(id, self.dice.below(400)), mark);
            let slot = life.queue.reserve_in(shard).unwrap();
            life.waiting[shard].push((id, slot.push(admitted)));
            self.next_id = id + 1;
        }
    }

    /// Now and then one of the next calls fails.
    fn maybe_fault(&mut self, calls: &[Call], within: usize) {
        if self.dice.one_in(5) {
            let call = calls.get(self.dice.below(calls.len() + 1)).copied();
            let kind = KINDS[self.dice.below(2)];
            self.disk.fail(call, self.dice.below(within), kind);
        }
    }

    fn turn(&mut self) {
        let shard = self.dice.below(self.life.as_ref().unwrap().shards.len());
        if self.life.as_ref().unwrap().waiting[shard].is_empty() {
            return;
        }
        self.maybe_fault(&[Call::Write, Call::Sync, Call::SyncDir, Call::Create], 4);
        let life = self.life.as_mut().unwrap();
        life.shards[shard].turn_once();
        self.disk.heal();
        let stream = life.streams[shard];
        let mut reference = self.reference.lock();
        for (id, mut receipt) in std::mem::take(&mut life.waiting[shard]) {
            match (&mut receipt).now_or_never() {
                Some(Ok(stored)) => {
                    assert_eq!(stored.message_id().to_u128(), u128::from(id));
                    reference.acknowledge(stream, &[id]);
                }
                Some(Err(Unstored::Unknown)) => reference.leave_open(stream, &[id]),
                Some(Err(Unstored::NoSpace | Unstored::Poisoned)) => reference.refuse(&[id]),
                None => life.waiting[shard].push((id, receipt)),
            }
        }
    }

    /// A fold, and perhaps a ledger that fails in the middle of its transaction.
    fn fold(&mut self) {
        let fails = self.dice.one_in(4);
        if fails {
            self.ledger_holder.execute_batch(FAIL).unwrap();
        }
        self.maybe_fault(&[Call::Open, Call::Read], 4);
        self.life.as_mut().unwrap().clerk.fold_once();
        self.disk.heal();
        if fails {
            self.ledger_holder.execute_batch("DROP TRIGGER failing").unwrap();
        }
    }

    /// Delivers what waits, oldest generation first; with a budget the process dies on the way.
    fn deliver(&mut self, budget: Option<usize>) {
        let life = self.life.as_mut().unwrap();
        *life.broker.budget.lock() = budget;
        let broker = Arc::clone(&life.broker);
        let couriers = &mut life.couriers;
        let deliver = async {
            for (courier, progress) in couriers {
                while progress.backlog() > 0 {
                    let before = progress.next();
                    courier.step().await;
                    assert!(progress.next() > before, "I4: {} is stuck", progress.id());
                }
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = deliver => {}
                () = broker.used_up.notified() => {}
            }
        });
    }

    fn save(&mut self) {
        self.maybe_fault(&[], 12);
        let life = self.life.as_mut().unwrap();
        let progress: Vec<_> = life.couriers.iter().map(|(_, shown)| Arc::clone(shown)).collect();
        let covered = life.clerk.covered();
        for shown in &progress {
            let mut reference = self.reference.lock();
            reference.check_cursor(shown.id(), shown.next());
            reference.release(shown.id(), shown.next().min(covered.next(shown.id())));
        }
        // A fault here may only cost duplicates.
        drop(save_and_trim(&mut life.cursors, &progress, &covered, &|| Ok(())));
        self.disk.heal();
    }

    /// The process ends, perhaps amid a delivery; perhaps power goes with it.
    fn restart(&mut self) {
        if self.dice.one_in(3) {
            let budget = self.dice.below(8);
            self.deliver(Some(budget));
        }
        let life = self.life.take().unwrap();
        // Whoever waits hears nothing, and what only a queue held is nowhere.
        let lost = life.waiting.iter().flatten().map(|(id, _)| *id).collect::<Vec<_>>();
        self.reference.lock().refuse(&lost);
        drop(life);
        if self.dice.one_in(4) {
            self.shards = 1 + u16::try_from(self.dice.below(3)).unwrap();
        }
        if self.dice.one_in(3) {
            self.segment_bytes = 4096 + 8 * self.dice.below(512) as u64;
        }
        if self.dice.one_in(2) {
            self.disk = self.disk.crash();
        }
        if self.dice.one_in(3) {
            self.probe_damage();
        }
        if self.dice.one_in(3) {
            let kind = KINDS[self.dice.below(2)];
            self.disk.fail(None, self.dice.below(40), kind);
            let failed = self.open(&self.disk.clone()).map(drop);
            let is_said = failed.is_ok()
                || matches!(
                    failed,
                    Err(StartError::Journal(JournalError::Io { .. }) | StartError::Cursors(_))
                );
            assert!(is_said, "a fault is no damage: {failed:?}");
            self.disk.heal();
        }
        self.start();
    }

    /// Opens a damaged copy: it is refused by the name of a file, or nothing is missing, or a torn
    /// tail is reported that no reader had passed.
    fn probe_damage(&mut self) {
        let copy = self.disk.copy();
        let files = copy.paths();
        if files.is_empty() {
            return;
        }
        let file = &files[self.dice.below(files.len())];
        let bytes = copy.content(file).len();
        if bytes == 0 {
            return;
        }
        if self.dice.one_in(3) {
            copy.truncate(file, self.dice.below(bytes));
        } else {
            copy.flip(file, self.dice.below(bytes * 8));
        }
        let whole = self.open(&self.disk.copy()).map(|opened| found(&opened.0.journal)).unwrap();
        match self.open(&copy) {
            Err(error) => {
                let name = file.file_name().unwrap().to_str().unwrap();
                let said = error.to_string();
                let names_it = said.contains(name) || name.ends_with(".new");
                assert!(names_it, "{} is damaged, and is told: {said}", file.display());
            }
            Ok((opened, ..)) => {
                let left = found(&opened.journal);
                let torn = opened.recovered.torn.iter().any(|torn| torn.file == *file);
                assert!(left == whole || torn, "{} lost records without a word", file.display());
            }
        }
    }

    fn open(&self, disk: &CruelDisk) -> Result<(Opened, Ledger, Cursors, Billing), StartError> {
        let registry = Registry::new();
        let instances = INSTANCES.map(|id| InstanceId::parse(id).unwrap());
        let billing = Billing::new(&registry, &instances)?;
        let salt = Arc::clone(&self.salt);
        let clock: Arc<dyn Clock> = Arc::new(self.clock.clone());
        let storage = Arc::new(disk.clone());
        let none = crate::admission::Config {
            access_keys: vec![],
            instances: vec![],
            replicas: std::num::NonZeroU32::MIN,
            nonces_max: 1,
            host_aliases: vec![],
        };
        let fingerprints = FingerprintKey([0; 16]);
        let sources = Sources { clock: Arc::clone(&clock), fingerprints, process: 0 };
        let recovery = Recovery {
            config: Config {
                dir: "data/journal".into(),
                shards: self.shards,
                segment_bytes: self.segment_bytes,
            },
            admission: Arc::new(Admission::new(
                none,
                sources,
                &AdmissionMetrics::new(&registry, &instances)?,
            )),
            billing: billing.clone(),
            report: Arc::new(Silent),
            cursors: Cursors::open(Arc::clone(&storage) as _, CURSORS.into())?,
            environment: Environment {
                storage,
                clock,
                metrics: JournalMetrics::new(&registry)?,
                salts: Arc::new(move || {
                    let number = salt.fetch_add(1, Ordering::SeqCst) + 1;
                    Ok(number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_be_bytes())
                }),
            },
        };
        let ledger = Ledger::open(&self.ledger)?;
        let (opened, ledger, cursors) = recovery.read(ledger, Journal::open_inline)?;
        Ok((opened, ledger, cursors, billing))
    }

    fn start(&mut self) {
        let opened = self.open(&self.disk.clone()).unwrap_or_else(|error| panic!("{error}"));
        let (Opened { journal, writers, .. }, ledger, cursors, billing) = opened;
        self.reference.lock().compare(&found(&journal));
        let registry = Registry::new();
        let broker = Arc::new(ModelBroker {
            reference: Arc::clone(&self.reference),
            budget: Mutex::default(),
            used_up: Notify::new(),
            last: Mutex::default(),
        });
        let post = Arc::new(Post {
            broker: Arc::clone(&broker),
            dead_letters: Mutex::new(DeadLetters::open(self.dead_letters.path()).unwrap()),
            retention: Duration::from_secs(1 << 40),
            reconnect_grace: Duration::ZERO,
            clock: Arc::new(self.clock.clone()),
            metrics: DeliveryMetrics::new(&registry).unwrap(),
        });
        let courier = |stream: &Arc<crate::journal::Stream>| {
            let from = cursors.get(stream.id()).unwrap_or_else(|| stream.first());
            self.reference.lock().check_cursor(stream.id(), from);
            Courier::new(Arc::clone(&post), stream, from).unwrap()
        };
        let couriers = journal.streams().iter().map(courier).collect();
        let kept = crate::ledger::Config { minutes_kept: Duration::from_secs(1 << 30) };
        let clock = Arc::new(self.clock.clone());
        let lag = LedgerMetrics::new(&registry, &billing).unwrap();
        let clerk = Clerk::new(ledger, journal.streams(), kept, clock, lag).unwrap();
        let config = crate::queue::Config { slots: 4096, shards: writers.len() };
        let metrics = QueueMetrics::new(&registry, writers.len()).unwrap();
        let (queue, intakes) = Queue::new(config, &metrics);
        let streams: Vec<_> = writers.iter().map(|writer| writer.stream().id()).collect();
        let waiting = streams.iter().map(|_| Vec::new()).collect();
        let turns = shard::Config { batch_max: 6, batch_bytes_max: 1 << 20 };
        let join = |(intake, writer)| Shard::new(turns, intake, writer, billing.clone());
        let shards = intakes.into_iter().zip(writers).map(join).collect();
        self.life = Some(Life {
            queue,
            shards,
            streams,
            waiting,
            clerk,
            couriers,
            broker,
            cursors,
            billing,
            journal,
        });
        self.look();
    }

    /// The last start: everything is delivered and folded.
    pub(super) fn finish(mut self) -> Ran {
        self.restart();
        self.deliver(None);
        self.save();
        self.life.as_mut().unwrap().clerk.fold_once();
        let life = self.life.take().unwrap();
        assert_eq!(life.clerk.covered().lag(), 0, "the ledger covers everything");
        let totals: BTreeMap<_, _> =
            Ledger::open(&self.ledger).unwrap().totals().unwrap().into_iter().collect();
        let reference = self.reference.lock();
        for (odd, name) in INSTANCES.into_iter().enumerate() {
            let is_its = |id: u64| id % 2 == odd as u64;
            let total = totals.get(&InstanceId::parse(name).unwrap()).copied();
            assert_eq!(total.unwrap_or(0), reference.billed(is_its), "I2: the total of {name}");
        }
        reference.check_all_delivered();
        let (trace, calls) = self.disk.trace();
        let Reference { acknowledged, adopted, trimmed, .. } = *reference;
        Ran { trace, calls, acknowledged, adopted, trimmed }
    }
}

/// What the journal holds: the first record of each stream, and the ids from there on.
fn found(journal: &Journal) -> BTreeMap<StreamId, (Sequence, Vec<u64>)> {
    let read = |stream: &Arc<crate::journal::Stream>| {
        let mut follower = stream.follow(stream.first());
        let mut ids = Vec::new();
        while !follower.caught_up() {
            let batch = follower.next_blocking().unwrap().unwrap();
            ids.extend(batch.journaled().iter().map(|one| id_of(one.message())));
        }
        (stream.id(), (stream.first(), ids))
    };
    journal.streams().iter().map(read).collect()
}
