use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::clock::{Clock, UnixMillis};
use crate::journal::{Follower, JournalError, Sequence, Stream, StreamId};
use crate::metering::LedgerMetrics;

use super::Config;
use super::fold::Fold;
use super::store::Ledger;
use super::tables::LedgerError;

/// From the end of an hour to its close: longer than any admitted message is on its way to disk.
const GRACE: Duration = Duration::from_secs(5 * 60);
/// After hours could not be closed or rows not purged.
const HOUSEKEEPING_BACKOFF: Duration = Duration::from_secs(60);
/// How often what was journaled is folded and committed.
const FOLD_EVERY: Duration = Duration::from_millis(250);
/// Messages folded into one transaction at most.
pub(super) const FOLD_MESSAGES_MAX: u64 = 262_144;

/// How far the ledger covers each stream; shared with who trims and reports.
#[derive(Clone, Debug)]
pub struct Covered(Arc<[(Arc<Stream>, AtomicU64)]>);

impl Covered {
    /// The first sequence number of a stream that is not in the ledger.
    #[must_use]
    pub fn next(&self, stream: StreamId) -> Sequence {
        let known = self.0.iter().find(|(known, _)| known.id() == stream);
        known.map_or(Sequence::FIRST, |(_, next)| Sequence(next.load(Ordering::Acquire)))
    }

    /// Journaled messages that are not in the ledger.
    #[must_use]
    pub fn lag(&self) -> u64 {
        let behind = |(stream, next): &(Arc<Stream>, AtomicU64)| {
            stream.tail().0.saturating_sub(next.load(Ordering::Acquire))
        };
        self.0.iter().map(behind).sum()
    }

    fn advance(&self, fold: &Fold) {
        for (stream, next) in self.0.iter() {
            if let Some(passed) = fold.watermarks().get(&stream.id()) {
                next.store(passed.0, Ordering::Release);
            }
        }
    }
}

/// Folds every stream into the ledger, on a thread of its own.
pub struct Clerk {
    ledger: Ledger,
    followers: Vec<Follower>,
    covered: Covered,
    fold: Fold,
    config: Config,
    clock: Arc<dyn Clock>,
    metrics: LedgerMetrics,
    /// No hour is closed and no row purged before this moment.
    housekeeping_from: Instant,
}

/// Turns its flag true when the thread that holds it ends, by a panic too.
struct Ending(Arc<AtomicBool>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// A clerk at work.
pub struct ClerkHandle {
    stop: Arc<AtomicBool>,
    ended: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Why the ledger cannot follow the journal.
#[derive(Debug, thiserror::Error)]
pub enum FollowError {
    /// The ledger cannot be read.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The journal does not hold what the watermark points at.
    #[error("the ledger and the journal do not fit: {0}")]
    Journal(#[from] JournalError),
}

impl Clerk {
    /// A clerk that goes on where the ledger's watermarks stand.
    ///
    /// # Errors
    /// [`FollowError`] if records between watermark and journal are missing.
    pub fn new(
        ledger: Ledger,
        streams: &[Arc<Stream>],
        config: Config,
        clock: Arc<dyn Clock>,
        metrics: LedgerMetrics,
    ) -> Result<Self, FollowError> {
        let mut followers = Vec::with_capacity(streams.len());
        let mut covered = Vec::with_capacity(streams.len());
        for stream in streams {
            let next = ledger.watermark(stream.id())?;
            stream.check_position(next)?;
            followers.push(stream.follow(next));
            covered.push((Arc::clone(stream), AtomicU64::new(next.0)));
        }
        let covered = Covered(covered.into());
        for (instance, messages) in ledger.totals()? {
            metrics.total(&instance, messages);
        }
        metrics.restored();
        let housekeeping_from = clock.now();
        let fold = Fold::default();
        Ok(Self { ledger, followers, covered, fold, config, clock, metrics, housekeeping_from })
    }

    /// How far it is.
    #[must_use]
    pub fn covered(&self) -> Covered {
        self.covered.clone()
    }

    /// Starts folding.
    ///
    /// # Errors
    /// The operating system's, if there is no thread to be had.
    pub fn start(mut self) -> io::Result<ClerkHandle> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let ended = Arc::new(AtomicBool::new(false));
        let ending = Ending(Arc::clone(&ended));
        let work = move || {
            let _ending = ending;
            loop {
                let last = stopping.load(Ordering::Acquire);
                let more = self.step();
                if last && !more {
                    return;
                }
                if !more {
                    std::thread::park_timeout(FOLD_EVERY);
                }
            }
        };
        let thread = std::thread::Builder::new().name("weir-ledger".into()).spawn(work)?;
        Ok(ClerkHandle { stop, ended, thread })
    }

    /// Folds and commits once, for a test that decides when.
    #[cfg(test)]
    pub(crate) fn fold_once(&mut self) {
        self.step();
    }

    /// Folds and commits once, then closes and purges a little; true if there is more to do at
    /// once.
    pub(super) fn step(&mut self) -> bool {
        let now = self.clock.unix();
        let horizon = self.read(now);
        match self.commit(now) {
            Ok(was_full) => self.keep_house(horizon) || was_full,
            Err(error) => {
                // Nothing is lost: the same fold is committed later, or folded again at a start.
                tracing::error!(%error, "the ledger cannot be written");
                false
            }
        }
    }

    /// Folds what was journaled, and returns until when everything is folded.
    fn read(&mut self, now: UnixMillis) -> UnixMillis {
        let mut horizon = now;
        for follower in &mut self.followers {
            let mut seen = UnixMillis(0);
            while !follower.caught_up() && self.fold.messages() < FOLD_MESSAGES_MAX {
                match follower.next_blocking() {
                    Ok(Some(batch)) => {
                        for journaled in batch.journaled() {
                            let message = journaled.message();
                            let sequence = journaled.sequence();
                            seen = message.admitted_at;
                            self.fold.add(batch.stream(), sequence, &message.instance, seen);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!(%error, "the ledger cannot read the journal");
                        break;
                    }
                }
            }
            if !follower.caught_up() {
                horizon = horizon.min(seen);
            }
        }
        horizon
    }

    /// Commits what was folded; true if the fold was full.
    fn commit(&mut self, now: UnixMillis) -> Result<bool, LedgerError> {
        if self.fold.messages() == 0 {
            return Ok(false);
        }
        let booked = self.ledger.commit(&self.fold, now)?;
        let was_full = self.fold.messages() >= FOLD_MESSAGES_MAX;
        let fold = std::mem::take(&mut self.fold);
        self.covered.advance(&fold);
        self.show_totals(&fold);
        if booked.late > 0 {
            self.metrics.late.inc_by(booked.late);
            tracing::warn!(
                messages = booked.late,
                "admitted in an hour that is closed, so booked as adjustments of the open one: \
                 did the clock go back?"
            );
        }
        Ok(was_full)
    }

    /// Shows what the ledger now has of every instance of a fold, as the ledger itself says it.
    fn show_totals(&self, fold: &Fold) {
        for instance in fold.by_instance().into_keys() {
            match self.ledger.total(instance) {
                Ok(total) => self.metrics.total(instance, total),
                Err(error) => tracing::error!(%error, "a total of the ledger cannot be read"),
            }
        }
    }

    /// Closes one hour, and purges rows of a few; true if there may be more of either.
    fn keep_house(&mut self, horizon: UnixMillis) -> bool {
        let now = self.clock.now();
        if now < self.housekeeping_from {
            return false;
        }
        self.close_and_purge(horizon).unwrap_or_else(|error| {
            tracing::error!(%error, "hours cannot be closed, or minute rows not purged");
            self.housekeeping_from = now + HOUSEKEEPING_BACKOFF;
            false
        })
    }

    fn close_and_purge(&mut self, horizon: UnixMillis) -> Result<bool, LedgerError> {
        let has_closed = self.ledger.close_one(horizon.minus(GRACE))?;
        let purged = self.ledger.purge_some(horizon.minus(self.config.minutes_kept))?;
        self.metrics.purged.inc_by(purged.rows);
        Ok(has_closed || purged.hours > 0)
    }
}

impl ClerkHandle {
    /// A flag that turns true if the thread ends, as it should only when it is told to.
    #[must_use]
    pub fn ended(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.ended)
    }

    /// Folds what is left, commits it and ends.
    pub fn finish(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the ledger thread panicked; a start folds again what it had in hand");
        }
    }
}
