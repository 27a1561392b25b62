use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::batch::{Batch, Sequence, StreamId};
use super::config::Environment;
use super::desk::Desk;
use super::failure::JournalError;
use super::follower::Follower;
use super::mailbox::Mailbox;
use super::recover::Scanned;
use super::storage::Storage;
use super::writer::PoisonCause;
use crate::clock::UnixMillis;

/// What is known of one segment that holds records.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) number: u64,
    pub(super) first: Sequence,
    /// Offset behind its last durable turn.
    pub(super) end: u64,
    pub(super) size: u64,
    /// When the last of its nonces expires.
    pub(super) expires_max: UnixMillis,
}

/// One log, as its readers see it.
pub struct Stream {
    id: StreamId,
    dir: PathBuf,
    environment: Environment,
    desk: Arc<Desk>,
    tail: AtomicU64,
    index: Mutex<VecDeque<Entry>>,
    readers: Mutex<Readers>,
    poison: OnceLock<PoisonCause>,
    /// When the append that is at work began.
    busy_since: Mutex<Option<Instant>>,
    is_former: bool,
}

struct Readers {
    handed: Sequence,
    closed: bool,
    mailboxes: Vec<Arc<Mailbox>>,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("id", &self.id).field("tail", &self.tail()).finish()
    }
}

impl Stream {
    pub(super) fn new(
        id: StreamId,
        dir: PathBuf,
        scanned: (VecDeque<Entry>, Sequence),
        is_former: bool,
        environment: Environment,
        desk: Arc<Desk>,
    ) -> Self {
        let (index, tail) = scanned;
        Self {
            id,
            dir,
            environment,
            desk,
            tail: AtomicU64::new(tail.0),
            index: Mutex::new(index),
            readers: Mutex::new(Readers { handed: tail, closed: is_former, mailboxes: Vec::new() }),
            poison: OnceLock::new(),
            busy_since: Mutex::new(None),
            is_former,
        }
    }

    /// Which log this is.
    #[must_use]
    pub const fn id(&self) -> StreamId {
        self.id
    }

    /// True if nothing is appended any more because the shard count changed.
    #[must_use]
    pub const fn is_former(&self) -> bool {
        self.is_former
    }

    /// The sequence the next record gets: everything before it is durable.
    #[must_use]
    pub fn tail(&self) -> Sequence {
        Sequence(self.tail.load(Ordering::Acquire))
    }

    /// The first record retained, or the tail if there is none.
    #[must_use]
    pub fn first(&self) -> Sequence {
        self.index.lock().front().map_or_else(|| self.tail(), |oldest| oldest.first)
    }

    /// Checks that a reader which stood at `position` before a restart finds what it wants.
    ///
    /// # Errors
    /// [`JournalError::BeyondTail`] or [`JournalError::Trimmed`]: acknowledged records are gone.
    pub fn check_position(&self, position: Sequence) -> Result<(), JournalError> {
        let (first, tail) = (self.first(), self.tail());
        if position > tail {
            return Err(JournalError::BeyondTail { stream: self.id, position, tail });
        }
        if position < first {
            return Err(JournalError::Trimmed { stream: self.id, position, first });
        }
        Ok(())
    }

    /// Bytes of the segments that hold records from `from` on, whole segments counted; 0 at the
    /// tail.
    #[must_use]
    pub fn bytes_from(&self, from: Sequence) -> u64 {
        if from >= self.tail() {
            return 0;
        }
        let index = self.index.lock();
        let holding = index.partition_point(|entry| entry.first <= from).saturating_sub(1);
        index.iter().skip(holding).map(|entry| entry.end).sum()
    }

    /// A reader of every record from `from` on.
    #[must_use]
    pub fn follow(self: &Arc<Self>, from: Sequence) -> Follower {
        let mut readers = self.readers.lock();
        let mailbox = Arc::new(Mailbox::new(readers.handed, readers.closed));
        readers.mailboxes.push(Arc::clone(&mailbox));
        drop(readers);
        Follower::new(Arc::clone(self), mailbox, from)
    }

    /// Lets go of the records before `before`: every reader has passed them. Returns at once; a
    /// segment is removed when all its records are let go, the one appended to never.
    pub fn trim(&self, before: Sequence) {
        self.desk.trim(self.id, before.min(self.tail()));
    }

    /// Gives a batch to the followers, once its receipts are settled. Batches come in order.
    pub fn hand_on(&self, batch: &Arc<Batch>) {
        let mut readers = self.readers.lock();
        readers.handed = batch.next();
        for mailbox in &readers.mailboxes {
            mailbox.put(batch);
        }
    }

    /// True once an append failed in a way that leaves the disk unknown; it stays so for good.
    #[must_use]
    pub fn is_poisoned(&self) -> bool {
        self.poison.get().is_some()
    }

    /// Why it is poisoned.
    #[must_use]
    pub fn poison_cause(&self) -> Option<&PoisonCause> {
        self.poison.get()
    }

    /// How long the append at work has taken so far; zero if there is none. A disk that hangs
    /// shows here and nowhere else: its shard waits for it.
    #[must_use]
    pub fn busy_for(&self, now: Instant) -> Duration {
        self.busy_since.lock().map_or(Duration::ZERO, |began| now.saturating_duration_since(began))
    }

    pub(super) fn set_busy(&self, since: Option<Instant>) {
        *self.busy_since.lock() = since;
    }

    pub(super) fn set_poison(&self, cause: PoisonCause) -> PoisonCause {
        let cause = self.poison.get_or_init(|| cause).clone();
        tracing::error!(stream = %self.id, %cause, "the journal is poisoned");
        cause
    }

    /// Publishes a durable turn.
    pub(super) fn advance(&self, tail: Sequence, entry: Entry) {
        let mut index = self.index.lock();
        match index.back_mut().filter(|last| last.number == entry.number) {
            Some(last) => {
                last.end = entry.end;
                last.expires_max = last.expires_max.max(entry.expires_max);
            }
            None => index.push_back(entry),
        }
        drop(index);
        self.tail.store(tail.0, Ordering::Release);
    }

    pub(super) fn close(&self) {
        let tail = self.tail();
        let mut readers = self.readers.lock();
        readers.handed = tail;
        readers.closed = true;
        for mailbox in &readers.mailboxes {
            mailbox.close(tail);
        }
    }

    pub(super) fn forget(&self, mailbox: &Arc<Mailbox>) {
        self.readers.lock().mailboxes.retain(|kept| !Arc::ptr_eq(kept, mailbox));
    }

    /// The segment that holds a record.
    pub(super) fn locate(&self, sequence: Sequence) -> Option<Entry> {
        let index = self.index.lock();
        let behind = index.partition_point(|entry| entry.first <= sequence);
        behind.checked_sub(1).and_then(|at| index.get(at)).cloned()
    }

    pub(super) fn trimmable(&self, before: Sequence) -> Option<Entry> {
        let tail = self.tail();
        let index = self.index.lock();
        let oldest = index.front()?;
        let next = match index.get(1) {
            Some(after) => after.first,
            None if self.is_former => tail,
            None => return None,
        };
        (next <= before).then(|| oldest.clone())
    }

    pub(super) fn drop_oldest(&self) {
        self.index.lock().pop_front();
    }

    pub(super) fn is_trimmed(&self) -> bool {
        self.index.lock().is_empty()
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(super) fn storage(&self) -> &dyn Storage {
        &*self.environment.storage
    }
}

impl Scanned {
    /// The number a further segment gets.
    pub(super) fn next_number(&self) -> u64 {
        self.entries.back().map_or(1, |last| last.number + 1)
    }
}
