//! Sessions that outlive their connections, and retained messages, in one SQLite file.
//!
//! What is put here waits in memory for the next transaction, so that a message which a connected
//! device acknowledges at once never reaches the disk. Whoever promises something to the outside
//! (a CONNACK, a SUBACK, a PUBACK, a delivery cursor) first waits for [`Store::sync`]. A crash
//! therefore loses nothing promised; it may bring back what was done in its last moments, and a
//! device then gets a message twice.
//!
//! A failed commit is tried again until it succeeds: SQLite has rolled it back, nothing of it is
//! half there. Meanwhile nobody's wait succeeds, and once the batch behind it is full nothing more
//! is taken.

mod desk;
mod load;
mod properties;
mod rows;
mod tables;
#[cfg(test)]
mod tests;
mod writer;

pub use tables::StoreError;

pub(super) use load::{Kept, Loaded};
pub(super) use rows::{Body, Copy, Retained, SessionKey, SessionRow, Subscription};

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use prometheus::IntCounter;
use tokio::sync::watch;

use crate::clock::Clock;
use desk::{Batch, Desk};
use writer::Writer;

/// The file's name in the data directory.
pub const FILE: &str = "devices.sqlite";
/// How long what is put waits for more, and for being taken back, if nobody waits for it.
const LINGER: Duration = Duration::from_millis(50);
/// What may wait in memory for the next transaction, in bytes; as much may be on its way to disk.
/// One message more is always taken.
const WAITING_BYTES_MAX: usize = 16 << 20;

/// What was not made durable, and may yet be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unsynced {
    /// The disk refused; it is tried again.
    #[error("the disk refuses it")]
    Failing,
    /// The store was closed before.
    #[error("weir is stopping")]
    Closed,
}

/// The store of one broker.
pub(super) struct Store {
    shared: Arc<Shared>,
    path: PathBuf,
}

/// What the writer's thread and everybody else share.
struct Shared {
    desk: Mutex<Waiting>,
    /// There is something to do for the writer.
    work: Condvar,
    progress: watch::Sender<Progress>,
    errors: IntCounter,
}

struct Waiting {
    desk: Desk,
    /// The number of the open batch.
    number: u64,
    /// Somebody waits for it.
    urgent: bool,
    closing: bool,
}

/// How far the writer is.
#[derive(Clone, Copy, Default)]
struct Progress {
    /// The batch that was taken last.
    taken: u64,
    /// The batch that was committed last.
    committed: u64,
    /// Attempts that failed, ever.
    failures: u64,
    /// Whether the last attempt failed.
    failing: bool,
    ended: bool,
}

impl Store {
    /// Opens the file in this folder, or makes an empty one, and starts its thread. Returns what
    /// the file holds as well. Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError`] if the file is damaged, of another format, or cannot be read.
    pub(super) fn open(
        folder: &Path,
        clock: Arc<dyn Clock>,
        errors: IntCounter,
    ) -> Result<(Self, Loaded), StoreError> {
        let path = folder.join(FILE);
        let mut connection = tables::open(&path)?;
        let loaded = load::all(&mut connection, &path, clock.unix())?;
        let mut desk = Desk::new(loaded.next);
        for session in &loaded.sessions {
            desk.adopt_session(session.key);
            for (place, number, ..) in &session.copies {
                desk.adopt_copy((session.key, *place), *number);
            }
        }
        let shared = Arc::new(Shared {
            desk: Mutex::new(Waiting { desk, number: 1, urgent: false, closing: false }),
            work: Condvar::new(),
            progress: watch::Sender::new(Progress::default()),
            errors,
        });
        let writer = Writer { connection, shared: Arc::clone(&shared), clock };
        let thread = std::thread::Builder::new().name("weir-devices".into());
        thread.spawn(move || writer.run()).map_err(StoreError::Thread)?;
        Ok((Self { shared, path }, loaded))
    }

    fn put<T>(&self, change: impl FnOnce(&mut Desk) -> T) -> T {
        let mut waiting = self.shared.desk.lock();
        let (was_empty, was_full) = (waiting.desk.open().is_empty(), waiting.is_half_full());
        let changed = change(&mut waiting.desk);
        if was_empty && !waiting.desk.open().is_empty() || !was_full && waiting.is_half_full() {
            self.shared.work.notify_one();
        }
        changed
    }

    /// Begins a session.
    pub(super) fn create(&self, row: SessionRow) -> SessionKey {
        self.put(|desk| desk.create(row))
    }

    /// Changes what is known of a session; false if it has ended.
    pub(super) fn update(&self, key: SessionKey, row: SessionRow) -> bool {
        self.put(|desk| desk.update(key, row))
    }

    /// Ends a session, its subscriptions and copies included; how many copies there were.
    pub(super) fn end(&self, key: SessionKey) -> usize {
        self.put(|desk| desk.end(key))
    }

    /// Sets or, with `None`, removes a subscription.
    pub(super) fn subscribe(&self, key: SessionKey, filter: &str, to: Option<Subscription>) {
        self.put(|desk| desk.subscribe(key, filter, to));
    }

    /// Stores a copy. `number` is the body's, remembered from one session's copy to the next's.
    /// Returns a tag that names the copy, or `None` if the session has ended.
    pub(super) fn keep(
        &self,
        key: SessionKey,
        number: &mut Option<u64>,
        body: &Arc<Body>,
        copy: Copy,
    ) -> Option<u32> {
        let (place, of_body) = self.put(|desk| desk.keep(key, *number, body, copy))?;
        *number = Some(of_body);
        Some(tag(place))
    }

    /// Whether this copy is stored, or about to be.
    pub(super) fn holds(&self, key: SessionKey, tag: u32) -> bool {
        self.shared.desk.lock().desk.holds(key, tag)
    }

    /// A copy is acknowledged, or was dropped; it may come back after a crash.
    pub(super) fn done(&self, key: SessionKey, tag: u32) {
        self.put(|desk| desk.done(key, tag));
    }

    /// A copy is being sent with this packet id; a crash may forget it.
    pub(super) fn sent(&self, key: SessionKey, tag: u32, packet: u16) {
        self.put(|desk| desk.sent(key, tag, packet));
    }

    /// Sets or, with `None`, removes the retained message of a topic.
    pub(super) fn retain(&self, instance: &str, topic: &str, message: Option<Retained>) {
        self.put(|desk| desk.retain(instance, topic, message));
    }

    /// Writes down that connected sessions are still in use.
    pub(super) fn see(&self) {
        self.put(|desk| {
            if desk.has_sessions() {
                desk.see()
            }
        });
    }

    /// Waits until there is room for one more message.
    ///
    /// # Errors
    /// [`Unsynced`] if there is none and the disk does not let it become free.
    pub(super) async fn room(&self) -> Result<(), Unsynced> {
        loop {
            let number = {
                let mut waiting = self.shared.desk.lock();
                if waiting.closing {
                    return Err(Unsynced::Closed);
                }
                if !waiting.is_full() {
                    return Ok(());
                }
                self.shared.ask_for(&mut waiting)
            };
            let mut progress = self.shared.progress.subscribe();
            let moved = |progress: &Progress| {
                progress.taken >= number || progress.failing || progress.ended
            };
            let Ok(progress) = progress.wait_for(moved).await.map(|progress| *progress) else {
                return Err(Unsynced::Closed);
            };
            if progress.taken < number && progress.failing {
                return Err(Unsynced::Failing);
            }
        }
    }

    /// Waits until everything put so far is durable, or was taken back.
    ///
    /// # Errors
    /// [`Unsynced`] if an attempt to write it fails meanwhile.
    pub(super) async fn sync(&self) -> Result<(), Unsynced> {
        let mut progress = self.shared.progress.subscribe();
        let before = *progress.borrow_and_update();
        let number = {
            let mut waiting = self.shared.desk.lock();
            if waiting.desk.open().is_empty() {
                waiting.number - 1
            } else {
                self.shared.ask_for(&mut waiting)
            }
        };
        if before.failing && before.committed < number {
            return Err(Unsynced::Failing);
        }
        let settled =
            |now: &Progress| now.committed >= number || now.failures > before.failures || now.ended;
        let now = progress.wait_for(settled).await.map(|now| *now);
        match now {
            Ok(now) if now.committed >= number => Ok(()),
            Ok(now) if !now.ended => Err(Unsynced::Failing),
            _ => Err(Unsynced::Closed),
        }
    }

    /// Writes what waits, as far as the disk takes it, and lets go of the file. Nothing put from
    /// now on is promised to anybody.
    pub(super) async fn close(&self) {
        self.shared.close();
        let mut progress = self.shared.progress.subscribe();
        // The sender lives in here.
        let _ = progress.wait_for(|progress| progress.ended).await;
    }

    /// What the file holds of one session now; whoever asks has waited for a [`Self::sync`].
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub(super) fn read(&self, key: SessionKey) -> Result<Option<Kept>, StoreError> {
        load::one(&self.path, key)
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.shared.close();
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a tag is the lower half of a number")]
const fn tag(place: u64) -> u32 {
    place as u32
}

/// The tag of a copy that was loaded.
pub(super) const fn tag_of(place: u64) -> u32 {
    tag(place)
}

impl Waiting {
    fn is_full(&self) -> bool {
        self.desk.open().bytes() >= WAITING_BYTES_MAX
    }

    fn is_half_full(&self) -> bool {
        self.desk.open().bytes() >= WAITING_BYTES_MAX / 2
    }
}

impl Shared {
    fn close(&self) {
        self.desk.lock().closing = true;
        self.work.notify_one();
    }

    /// Has the open batch taken soon, even if nothing is left in it by then; its number.
    fn ask_for(&self, waiting: &mut Waiting) -> u64 {
        waiting.urgent = true;
        self.work.notify_one();
        waiting.number
    }

    /// The next batch and its number, once it may be written; `None` once the store is closed and
    /// there is none.
    fn take(&self) -> Option<(u64, Batch)> {
        let mut waiting = self.desk.lock();
        while waiting.desk.open().is_empty() && !waiting.urgent && !waiting.closing {
            self.work.wait(&mut waiting);
        }
        while !(waiting.urgent || waiting.closing || waiting.is_half_full()) {
            if self.work.wait_for(&mut waiting, LINGER).timed_out() {
                break;
            }
        }
        let is_awaited = std::mem::take(&mut waiting.urgent);
        if waiting.desk.open().is_empty() && waiting.closing && !is_awaited {
            return None;
        }
        let number = waiting.number;
        waiting.number += 1;
        let batch = waiting.desk.take();
        drop(waiting);
        self.progress.send_modify(|progress| progress.taken = number);
        Some((number, batch))
    }

    fn committed(&self, number: u64) {
        self.progress.send_modify(|progress| {
            progress.committed = number;
            progress.failing = false;
        });
    }

    /// Waits for the next attempt; true if there is to be none.
    fn failed(&self, backoff: Duration) -> bool {
        self.errors.inc();
        self.progress.send_modify(|progress| {
            progress.failures += 1;
            progress.failing = true;
        });
        let mut waiting = self.desk.lock();
        if waiting.closing {
            return true;
        }
        self.work.wait_while_for(&mut waiting, |waiting| !waiting.closing, backoff);
        false
    }

    fn ended(&self) {
        self.progress.send_modify(|progress| progress.ended = true);
    }
}
