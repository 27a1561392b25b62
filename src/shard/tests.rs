//! The turn on a real disk whose syncs a test can hold back or make fail.

use std::io;
use std::path::Path;
use std::task::{Context, Poll};

use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use tempfile::TempDir;

use super::*;
use crate::admission::NonceMark;
use crate::clock::{SystemClock, UnixMillis};
use crate::journal::{
    self, Disk, Environment, Journal, Position, Sequence, Storage, StorageFile, StreamId, Visitor,
    system_salts,
};
use crate::message::{InstanceId, Message, MessageId, Payload, Topic};
use crate::metering::{JournalMetrics, QueueMetrics, Registry};
use crate::queue::{self, Queue, Receipt};

/// What happens to a sync of a segment that holds records.
#[derive(Clone, Copy, PartialEq)]
enum Sync {
    Passes,
    Waits,
    Fails,
    Panics,
    NoSpace,
}

struct Gate {
    sync: Mutex<Sync>,
    waiting: Mutex<usize>,
    changed: Condvar,
}

impl Gate {
    fn set(&self, sync: Sync) {
        *self.sync.lock() = sync;
        self.changed.notify_all();
    }

    fn await_a_waiting_sync(&self) {
        let mut waiting = self.waiting.lock();
        while *waiting == 0 {
            let late = self.changed.wait_for(&mut waiting, Duration::from_secs(30)).timed_out();
            assert!(!late, "no sync was ever asked for");
        }
    }

    fn pass(&self) -> io::Result<()> {
        let mut sync = self.sync.lock();
        while *sync == Sync::Waits {
            *self.waiting.lock() += 1;
            self.changed.notify_all();
            self.changed.wait(&mut sync);
        }
        match *sync {
            Sync::Fails => Err(io::Error::other("the disk is gone")),
            Sync::Panics => panic!("a test makes the shard panic in its turn"),
            _ => Ok(()),
        }
    }
}

#[derive(Clone)]
struct GatedDisk(Arc<Gate>);

struct GatedFile {
    file: Arc<dyn StorageFile>,
    gate: Arc<Gate>,
}

impl Storage for GatedDisk {
    fn create(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        let (gate, file) = (Arc::clone(&self.0), Disk.create(path)?);
        Ok(Arc::new(GatedFile { file, gate }))
    }
    fn open(&self, path: &Path) -> io::Result<Arc<dyn StorageFile>> {
        Disk.open(path)
    }
    fn list(&self, dir: &Path) -> io::Result<Vec<String>> {
        Disk.list(dir)
    }
    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }
    fn sync_dir(&self, dir: &Path) -> io::Result<()> {
        Disk.sync_dir(dir)
    }
    fn create_dir_all(&self, dir: &Path) -> io::Result<()> {
        Disk.create_dir_all(dir)
    }
    fn free_bytes(&self, dir: &Path) -> io::Result<u64> {
        Disk.free_bytes(dir)
    }
    fn remove_dir(&self, dir: &Path) -> io::Result<()> {
        Disk.remove_dir(dir)
    }
}

impl StorageFile for GatedFile {
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_cut = bytes.iter().all(|byte| *byte == 0);
        if on_the_shard() && !is_cut && *self.gate.sync.lock() == Sync::NoSpace {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.file.write_at(bytes, offset)
    }
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_at(buffer, offset)
    }
    fn sync_data(&self) -> io::Result<()> {
        if on_the_shard() {
            self.gate.pass()?;
        }
        self.file.sync_data()
    }
    fn size(&self) -> io::Result<u64> {
        self.file.size()
    }
}

/// The keeper's thread writes and syncs too, and is let through.
fn on_the_shard() -> bool {
    std::thread::current().name() == Some(SHARD)
}

struct Nobody;

impl Visitor for Nobody {
    fn record(&mut self, _: StreamId, _: Sequence, _: &Message, _: NonceMark) {}
    fn nonce(&mut self, _: NonceMark) {}
    fn positions(&mut self, _: StreamId) -> Vec<Position> {
        Vec::new()
    }
    fn progress(&mut self, _: u64, _: u64) {}
}

const SHARD: &str = "gated-shard";

struct Rig {
    queue: Queue,
    gate: Arc<Gate>,
    billing: Billing,
    stream: Arc<crate::journal::Stream>,
    _journal: Journal,
    _folder: TempDir,
}

fn instance() -> InstanceId {
    InstanceId::parse("post-cn-1").unwrap()
}

fn rig() -> Rig {
    let folder = tempfile::tempdir().unwrap();
    let gate = Arc::new(Gate {
        sync: Mutex::new(Sync::Passes),
        waiting: Mutex::default(),
        changed: Condvar::new(),
    });
    let registry = Registry::new();
    let environment = Environment {
        storage: Arc::new(GatedDisk(Arc::clone(&gate))),
        clock: Arc::new(SystemClock),
        metrics: JournalMetrics::new(&registry).unwrap(),
        salts: system_salts(),
    };
    let config = journal::Config {
        segment_bytes: 8 * 1024 * 1024,
        ..journal::Config::new(folder.path().join("journal"), 1)
    };
    let mut opened = Journal::open(&config, &environment, &mut Nobody).unwrap();
    let metrics = QueueMetrics::new(&registry, 1).unwrap();
    let (queue, mut intakes) = Queue::new(queue::Config { slots: 16, shards: 1 }, &metrics);
    let billing = Billing::new(&registry, &[instance()]).unwrap();
    let config = Config { batch_max: 4, batch_bytes_max: 1 << 20 };
    let writer = opened.writers.pop().unwrap();
    let stream = Arc::clone(writer.stream());
    let shard = Shard::new(config, intakes.pop().unwrap(), writer, billing.clone());
    std::thread::Builder::new().name(SHARD.into()).spawn(|| shard.run()).unwrap();
    Rig { queue, gate, billing, stream, _journal: opened.journal, _folder: folder }
}

impl Rig {
    fn push(&self, id: u128) -> Receipt {
        let message = Message {
            id: MessageId::from_u128(id),
            instance: instance(),
            topic: Topic::parse("TopicA").unwrap(),
            payload: Payload::new(Bytes::from_static(b"x")).unwrap(),
            admitted_at: UnixMillis(1),
        };
        let nonce = NonceMark { access_key: 0, fingerprint: 0, expires_at: UnixMillis(2) };
        self.queue.reserve_in(0).unwrap().push(Admitted::untested(message, nonce))
    }

    fn billed(&self) -> u64 {
        self.billing.shown(&instance())
    }
}

fn is_settled(receipt: &mut Receipt) -> bool {
    let mut context = Context::from_waker(std::task::Waker::noop());
    std::pin::Pin::new(receipt).poll(&mut context) != Poll::Pending
}

fn settled(receipt: Receipt) -> Result<u128, Unstored> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(receipt).map(|stored| stored.message_id().to_u128())
}

#[test]
fn a_reply_never_overtakes_the_sync() {
    let rig = rig();
    rig.gate.set(Sync::Waits);
    let mut receipts: Vec<_> = (1..=6).map(|id| rig.push(id)).collect();
    rig.gate.await_a_waiting_sync();
    assert!(receipts.iter_mut().all(|receipt| !is_settled(receipt)));
    assert_eq!(rig.billed(), 0, "nothing is billed before it is on disk");
    assert_eq!(rig.stream.tail(), Sequence::FIRST);
    rig.gate.set(Sync::Passes);
    let ids: Vec<_> = receipts.into_iter().map(|receipt| settled(receipt).unwrap()).collect();
    assert_eq!(ids, [1, 2, 3, 4, 5, 6]);
    assert_eq!(rig.billed(), 6);
}

#[test]
fn a_reply_is_given_only_after_its_bill() {
    let rig = rig();
    for id in 1..=200 {
        assert_eq!(settled(rig.push(id)), Ok(id));
        assert_eq!(rig.billed(), u64::try_from(id).unwrap());
    }
}

#[test]
fn after_a_failed_sync_the_outcome_is_unknown_and_the_next_is_refused() {
    let rig = rig();
    assert_eq!(settled(rig.push(1)), Ok(1));
    rig.gate.set(Sync::Fails);
    assert_eq!(settled(rig.push(2)), Err(Unstored::Unknown));
    rig.gate.set(Sync::Passes);
    assert_eq!(settled(rig.push(3)), Err(Unstored::Poisoned), "no sync is tried again");
    assert!(rig.stream.is_poisoned());
    assert_eq!(rig.billed(), 1);
}

#[test]
fn a_panic_in_the_turn_poisons_the_journal_and_leaves_the_outcome_unknown() {
    let rig = rig();
    assert_eq!(settled(rig.push(1)), Ok(1));
    rig.gate.set(Sync::Panics);
    assert_eq!(settled(rig.push(2)), Err(Unstored::Unknown));
    rig.gate.set(Sync::Passes);
    assert_eq!(settled(rig.push(3)), Err(Unstored::Poisoned), "the thread lives on to refuse");
    assert!(rig.stream.is_poisoned());
    assert_eq!(rig.billed(), 1);
}

#[test]
fn a_full_disk_refuses_and_serves_again_once_there_is_space() {
    let rig = rig();
    assert_eq!(settled(rig.push(1)), Ok(1));
    rig.gate.set(Sync::NoSpace);
    assert_eq!(settled(rig.push(2)), Err(Unstored::NoSpace));
    assert_eq!(rig.billed(), 1);
    rig.gate.set(Sync::Passes);
    assert_eq!(settled(rig.push(3)), Ok(3));
    assert_eq!((rig.billed(), rig.stream.tail()), (2, Sequence(3)));
}
