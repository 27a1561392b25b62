//! One thread a journal that does what would slow an append down: it makes segments ahead of need,
//! removes those that every reader has passed, and saves what is still needed of them.

use std::collections::BTreeSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::JoinHandle;

use parking_lot::Mutex;

use super::batch::{Sequence, StreamId};
use super::config::Environment;
use super::desk::{Desk, SpareError};
use super::failure::JournalError;
use super::generations::Generation;
use super::nonces::{self, NonceFile};
use super::record::RecordError;
use super::segment::{self, Kind, SEGMENT_HEADER_BYTES, SegmentHeader};
use super::storage::is_scarce;
use super::stream::{Entry, Stream};
use super::turns::SegmentFile;
use super::writer::PoisonCause;
use crate::admission::NonceMark;

const THREAD_NAME: &str = "weir-journal";
const ZEROS_BYTES: usize = 1024 * 1024;
/// Bytes of the disk that no segment takes: they are kept for what must be written on a full one.
pub const RESERVE_BYTES: u64 = 8 * 1024 * 1024;

pub(super) struct Keeper {
    pub(super) environment: Environment,
    pub(super) desk: Arc<Desk>,
    /// The streams appended to, by shard.
    pub(super) newest: Vec<Arc<Stream>>,
    pub(super) former: Vec<Arc<Stream>>,
    pub(super) former_generations: Mutex<Vec<Generation>>,
    pub(super) nonce_files: Mutex<Vec<NonceFile>>,
    /// Streams whose folder could not be synced: nothing more is removed there, since names that
    /// came back after a crash would look like a gap.
    pub(super) blocked: Mutex<BTreeSet<StreamId>>,
    pub(super) segment_bytes: u64,
}

/// The running thread; dropping it stops the thread and waits for it.
pub(super) struct KeeperThread {
    desk: Arc<Desk>,
    thread: Option<JoinHandle<()>>,
}

impl KeeperThread {
    pub(super) fn start(keeper: Arc<Keeper>) -> io::Result<Self> {
        let desk = Arc::clone(&keeper.desk);
        let run = move || {
            while keeper.desk.wait_for_work() {
                if catch_unwind(AssertUnwindSafe(|| keeper.work())).is_err() {
                    return keeper.give_up();
                }
            }
        };
        let thread = std::thread::Builder::new().name(THREAD_NAME.to_owned()).spawn(run)?;
        Ok(Self { desk, thread: Some(thread) })
    }
}

impl Drop for KeeperThread {
    fn drop(&mut self) {
        self.desk.close();
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the journal's keeper panicked");
        }
    }
}

impl Keeper {
    /// Does all that is wanted now. Trims come first: they may make room for spares.
    pub(super) fn work(&self) {
        for (stream, before) in self.desk.trims() {
            let mut streams = self.newest.iter().chain(&self.former);
            if let Some(stream) = streams.find(|found| found.id() == stream)
                && let Err(error) = self.trim(stream, before)
            {
                tracing::error!(%error, "a segment that nobody needs could not be removed");
            }
        }
        for (shard, number) in self.desk.wanted() {
            let made = self.make_spare(&self.newest[usize::from(shard)], number);
            self.desk.supply(shard, made);
        }
        if let Err(error) = self.expire_nonces() {
            tracing::error!(%error, "an expired nonce file could not be removed");
        }
        if let Err(error) = self.remove_former_generations() {
            tracing::error!(%error, "an empty former generation could not be removed");
        }
    }

    /// After a panic nobody makes segments: a shard that waited for one would wait for ever.
    fn give_up(&self) {
        tracing::error!("the journal's keeper panicked; every shard's journal is poisoned");
        for stream in &self.newest {
            stream.set_poison(PoisonCause::Panicked);
        }
        self.desk.close();
    }

    fn trim(&self, stream: &Stream, before: Sequence) -> Result<(), JournalError> {
        let storage = &*self.environment.storage;
        while let Some(entry) = stream.trimmable(before) {
            if self.blocked.lock().contains(&stream.id()) {
                return Ok(());
            }
            self.save_nonces(stream, &entry)?;
            let path = segment::file_path(stream.dir(), entry.number, Kind::Segment);
            fail::fail_point!("journal-before-trim", |_| std::process::abort());
            storage.remove(&path).map_err(JournalError::io("remove", &path))?;
            fail::fail_point!("journal-trim", |_| std::process::abort());
            stream.drop_oldest();
            self.environment.metrics.bytes.sub(gauge(entry.size));
            if let Err(error) = storage.sync_dir(stream.dir()) {
                self.blocked.lock().insert(stream.id());
                return Err(JournalError::io("sync", stream.dir())(error));
            }
        }
        Ok(())
    }

    fn save_nonces(&self, stream: &Stream, entry: &Entry) -> Result<(), JournalError> {
        let now = self.environment.clock.unix();
        if entry.expires_max <= now {
            return Ok(());
        }
        let storage = &*self.environment.storage;
        let path = segment::file_path(stream.dir(), entry.number, Kind::Segment);
        let segment = SegmentFile::open(storage, &path, stream.id(), entry.number)?;
        let mut marks: Vec<NonceMark> = Vec::new();
        let mut turns = segment.turns(SEGMENT_HEADER_BYTES as u64, entry.end);
        while let Some(turn) = turns.next()? {
            turn.visit(|_, view| {
                if view.nonce.expires_at > now {
                    marks.push(view.nonce);
                }
                Ok(())
            })
            .map_err(|error: RecordError| turn.impossible(&segment, error))?;
        }
        let saved = nonces::save(storage, stream.dir(), entry.number, &marks)?;
        self.nonce_files.lock().push(saved);
        Ok(())
    }

    fn make_spare(&self, stream: &Stream, number: u64) -> Result<SegmentFile, SpareError> {
        self.write_spare(stream, number).map_err(|error| {
            let unfinished = segment::file_path(stream.dir(), number, Kind::Unfinished);
            // Best effort: it gives the space back, and a start removes it too.
            drop(self.environment.storage.remove(&unfinished));
            if is_scarce(&error) {
                return SpareError::NoSpace;
            }
            tracing::error!(%error, stream = %stream.id(), "a segment could not be made");
            SpareError::Failed(Arc::new(error))
        })
    }

    /// Writes every byte of it, so that a later turn changes neither its size nor its extents.
    fn write_spare(&self, stream: &Stream, number: u64) -> io::Result<SegmentFile> {
        let storage = &*self.environment.storage;
        // What is left of a nearly full disk is for the ledger, the cursors and a drain.
        if storage.free_bytes(stream.dir())? < self.segment_bytes.saturating_add(RESERVE_BYTES) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let size = u32::try_from(self.segment_bytes).map_err(io::Error::other)?;
        let salt = (self.environment.salts)()?;
        let header = SegmentHeader { stream: stream.id(), number, salt, size };
        let unfinished = segment::file_path(stream.dir(), number, Kind::Unfinished);
        let path: PathBuf = segment::file_path(stream.dir(), number, Kind::Segment);
        let file = storage.create(&unfinished)?;
        let mut bytes = vec![0; ZEROS_BYTES];
        bytes[..SEGMENT_HEADER_BYTES].copy_from_slice(&header.encode());
        let mut offset = 0;
        while offset < self.segment_bytes {
            let left = usize::try_from(self.segment_bytes - offset).unwrap_or(ZEROS_BYTES);
            let some = &bytes[..left.min(ZEROS_BYTES)];
            file.write_at(some, offset)?;
            offset += some.len() as u64;
            if offset == some.len() as u64 {
                bytes[..SEGMENT_HEADER_BYTES].fill(0);
            }
        }
        file.sync_data()?;
        storage.rename(&unfinished, &path)?;
        fail::fail_point!("journal-spare", |_| std::process::abort());
        storage.sync_dir(stream.dir())?;
        self.environment.metrics.bytes.add(gauge(self.segment_bytes));
        Ok(SegmentFile { file, path, header })
    }

    fn expire_nonces(&self) -> Result<(), JournalError> {
        let now = self.environment.clock.unix();
        let expired: Vec<_> =
            self.nonce_files.lock().extract_if(.., |file| file.expires_max <= now).collect();
        for NonceFile { path, .. } in expired {
            // Not synced: a file that comes back after a crash is removed at the next start.
            self.environment.storage.remove(&path).map_err(JournalError::io("remove", &path))?;
        }
        Ok(())
    }

    /// A former generation goes when all its streams are trimmed and their nonces have expired.
    fn remove_former_generations(&self) -> Result<(), JournalError> {
        let holds = |generation: &Generation| {
            let mut nonces = generation.streams().map(|(_, dir)| dir);
            let files = self.nonce_files.lock();
            nonces.any(|dir| files.iter().any(|file| file.path.starts_with(&dir)))
                || self.former.iter().any(|stream| {
                    stream.id().generation == generation.number && !stream.is_trimmed()
                })
        };
        let empty: Vec<_> =
            self.former_generations.lock().extract_if(.., |former| !holds(former)).collect();
        empty.iter().try_for_each(|generation| generation.remove(&*self.environment.storage))
    }
}

/// Bytes as a gauge counts them.
pub(super) fn gauge(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
