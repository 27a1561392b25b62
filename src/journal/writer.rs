use std::io;
use std::sync::Arc;

use super::batch::{Batch, Journaled, Place, Sequence};
use super::config::Environment;
use super::desk::{Desk, SpareError};
use super::record;
use super::segment::SEGMENT_HEADER_BYTES;
use super::storage::{StorageFile, is_no_space};
use super::stream::{Entry, Stream};
use super::turn::{self, TURN_BYTES_MAX};
use super::turns::SegmentFile;
use crate::admission::Admitted;
use crate::clock::UnixMillis;

/// Appends to one stream of the newest generation; its shard's thread owns it. Dropping it closes
/// the stream: followers end when they have given everything.
pub struct Writer {
    stream: Arc<Stream>,
    desk: Arc<Desk>,
    environment: Environment,
    segment_bytes: u64,
    turn: Vec<u8>,
    current: Option<Open>,
    /// A spare that was taken, and whose first turn is not durable yet.
    fresh: Option<Open>,
}

pub(super) struct Open {
    pub(super) segment: SegmentFile,
    pub(super) end: u64,
    pub(super) size: u64,
}

/// Why a stream takes no more records.
#[derive(Clone, Debug, thiserror::Error)]
pub enum PoisonCause {
    /// A write failed, and not for want of space.
    #[error("a write failed: {0}")]
    Write(Arc<io::Error>),
    /// A sync failed: what it covered may or may not be on disk.
    #[error("a sync failed: {0}")]
    Sync(Arc<io::Error>),
    /// After a full disk, what was partly written could not be taken back.
    #[error("a partly written turn could not be cut back: {0}")]
    CutBack(Arc<io::Error>),
    /// No further segment could be made.
    #[error("a segment could not be made: {0}")]
    Segment(Arc<io::Error>),
    /// The journal was closed before its writers.
    #[error("the journal was closed")]
    Closed,
    /// The thread that appends, or the one that makes segments, panicked.
    #[error("a thread of the journal panicked")]
    Panicked,
}

/// Why a batch was not journaled. The batch comes back with it.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The disk is full. Nothing of the batch is on disk, and a later append may succeed.
    #[error("the disk is full")]
    NoSpace(Vec<Admitted>),
    /// More than one turn may hold. Nothing of the batch is on disk.
    #[error("a batch of {bytes} bytes is larger than a turn of {TURN_BYTES_MAX}, or a segment")]
    TooLarge {
        /// The batch.
        batch: Vec<Admitted>,
        /// Bytes its turn would have.
        bytes: usize,
    },
    /// The stream is poisoned for good. Whether the batch is on disk is unknown if this append
    /// poisoned it; it is not if the stream was poisoned before.
    #[error("the journal is poisoned: {cause}")]
    Poisoned {
        /// The batch.
        batch: Vec<Admitted>,
        /// Why.
        cause: PoisonCause,
    },
}

enum Failure {
    NoSpace,
    Poisoned(PoisonCause),
}

impl std::fmt::Debug for Writer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Writer").field("stream", &self.stream).finish_non_exhaustive()
    }
}

impl Writer {
    pub(super) const fn new(
        stream: Arc<Stream>,
        desk: Arc<Desk>,
        environment: Environment,
        segment_bytes: u64,
        current: Option<Open>,
    ) -> Self {
        Self { stream, desk, environment, segment_bytes, turn: Vec::new(), current, fresh: None }
    }

    /// The stream it appends to.
    #[must_use]
    pub const fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// Writes a batch and syncs it: one write, one sync. When this returns, it is durable.
    /// An empty batch touches nothing.
    ///
    /// # Errors
    /// [`AppendError`] gives the batch back. After [`AppendError::NoSpace`] a later append may
    /// succeed; after [`AppendError::Poisoned`] none will.
    pub fn append(&mut self, batch: Vec<Admitted>) -> Result<Arc<Batch>, AppendError> {
        if let Some(cause) = self.stream.poison_cause() {
            return Err(AppendError::Poisoned { batch, cause: cause.clone() });
        }
        let first = self.stream.tail();
        turn::begin(&mut self.turn);
        let mut expires_max = UnixMillis(0);
        for admitted in &batch {
            record::encode(admitted.message(), admitted.nonce(), &mut self.turn);
            expires_max = expires_max.max(admitted.nonce().expires_at);
        }
        let bytes = turn::sealed_bytes(&self.turn);
        let fits = (SEGMENT_HEADER_BYTES + bytes) as u64 <= self.segment_bytes;
        let Some(records) =
            u32::try_from(batch.len()).ok().filter(|_| fits && bytes <= TURN_BYTES_MAX)
        else {
            return Err(AppendError::TooLarge { batch, bytes });
        };
        if records == 0 {
            let behind = Place { segment: 0, offset: 0 };
            return Ok(Arc::new(Batch::new(self.stream.id(), first, Vec::new(), 0, behind)));
        }
        self.stream.set_busy(Some(self.environment.clock.now()));
        let written = self.write(first, records, expires_max);
        self.stream.set_busy(None);
        match written {
            Ok(behind) => Ok(self.journaled(batch, first, bytes, behind)),
            Err(Failure::NoSpace) => {
                self.environment.metrics.no_space.inc();
                Err(AppendError::NoSpace(batch))
            }
            Err(Failure::Poisoned(cause)) => {
                Err(AppendError::Poisoned { batch, cause: self.stream.set_poison(cause) })
            }
        }
    }

    /// Gives a batch to the followers, once its receipts are settled.
    pub fn hand_on(&self, batch: &Arc<Batch>) {
        self.stream.hand_on(batch);
    }

    /// Poisons the stream, for a shard whose thread panicked.
    pub fn poison(&self, cause: PoisonCause) {
        self.stream.set_poison(cause);
    }

    /// Writes and syncs the turn that was encoded, and publishes it.
    fn write(
        &mut self,
        first: Sequence,
        records: u32,
        expires_max: UnixMillis,
    ) -> Result<Place, Failure> {
        let bytes = turn::sealed_bytes(&self.turn) as u64;
        let fits = self.current.as_ref().is_some_and(|open| open.end + bytes <= open.size);
        if !fits && self.fresh.is_none() {
            let segment = self.desk.take_spare(self.stream.id().shard)?;
            fail::fail_point!("journal-roll", |_| std::process::abort());
            let end = SEGMENT_HEADER_BYTES as u64;
            self.fresh = Some(Open { segment, end, size: self.segment_bytes });
        }
        let target = if fits { &mut self.current } else { &mut self.fresh };
        let Some(open) = target else { return Err(Failure::Poisoned(PoisonCause::Closed)) };
        turn::seal(&mut self.turn, open.segment.header.salt, first.0, records);
        let file = &open.segment.file;
        fail::fail_point!("journal-before-write", |_| std::process::abort());
        if let Err(error) = file.write_at(&self.turn, open.end) {
            if !is_no_space(&error) {
                return Err(Failure::Poisoned(PoisonCause::Write(Arc::new(error))));
            }
            self.turn.fill(0);
            // Synced, so that what was refused cannot come back whole after a crash.
            let cut = file.write_at(&self.turn, open.end).and_then(|()| file.sync_data());
            return Err(cut.map_or_else(
                |error| Failure::Poisoned(PoisonCause::CutBack(Arc::new(error))),
                |()| Failure::NoSpace,
            ));
        }
        fail::fail_point!("journal-after-write", |_| std::process::abort());
        let began = self.environment.clock.now();
        let synced = sync(&**file);
        let took = self.environment.clock.now().saturating_duration_since(began);
        self.environment.metrics.sync.observe(took.as_secs_f64());
        synced.map_err(|error| Failure::Poisoned(PoisonCause::Sync(Arc::new(error))))?;
        fail::fail_point!("journal-after-sync", |_| std::process::abort());
        open.end += bytes;
        let number = open.segment.header.number;
        let entry = Entry { number, first, end: open.end, size: open.size, expires_max };
        let behind = Place { segment: number, offset: open.end };
        if !fits {
            self.current = self.fresh.take();
        }
        // Only now may the former segment be trimmed: this turn carries the sequence on.
        self.stream.advance(first.plus(u64::from(records)), entry);
        Ok(behind)
    }

    fn journaled(
        &self,
        batch: Vec<Admitted>,
        first: Sequence,
        bytes: usize,
        behind: Place,
    ) -> Arc<Batch> {
        #[expect(clippy::cast_precision_loss, reason = "far fewer than 2^52 messages")]
        self.environment.metrics.batch.observe(batch.len() as f64);
        let journaled = (first.0..)
            .zip(batch)
            .map(|(sequence, admitted)| {
                let nonce = admitted.nonce();
                Journaled::new(admitted.keep(), nonce, Sequence(sequence))
            })
            .collect();
        Arc::new(Batch::new(self.stream.id(), first, journaled, bytes, behind))
    }
}

fn sync(file: &dyn StorageFile) -> io::Result<()> {
    fail::fail_point!("journal-sync", |_| Err(io::Error::other("the fail point says no")));
    file.sync_data()
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stream.close();
    }
}

impl From<SpareError> for Failure {
    fn from(error: SpareError) -> Self {
        match error {
            SpareError::NoSpace => Self::NoSpace,
            SpareError::Failed(error) => Self::Poisoned(PoisonCause::Segment(error)),
            SpareError::Closed => Self::Poisoned(PoisonCause::Closed),
        }
    }
}
