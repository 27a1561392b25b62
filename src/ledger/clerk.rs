use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::journal::{Follower, JournalError, Sequence, Stream, StreamId};

use super::fold::Fold;
use super::store::{Ledger, LedgerError};

/// How often what was journaled is folded and committed.
const FOLD_EVERY: Duration = Duration::from_millis(250);
/// Messages folded into one transaction at most.
const FOLD_MESSAGES_MAX: u64 = 262_144;

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
}

/// A clerk at work.
pub struct ClerkHandle {
    stop: Arc<AtomicBool>,
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
    pub fn new(ledger: Ledger, streams: &[Arc<Stream>]) -> Result<Self, FollowError> {
        let mut followers = Vec::with_capacity(streams.len());
        let mut covered = Vec::with_capacity(streams.len());
        for stream in streams {
            let next = ledger.watermark(stream.id())?;
            stream.check_position(next)?;
            followers.push(stream.follow(next));
            covered.push((Arc::clone(stream), AtomicU64::new(next.0)));
        }
        let covered = Covered(covered.into());
        Ok(Self { ledger, followers, covered, fold: Fold::default() })
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
        let work = move || {
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
        Ok(ClerkHandle { stop, thread })
    }

    /// Folds and commits once, for a test that decides when.
    #[cfg(test)]
    pub(crate) fn fold_once(&mut self) {
        self.step();
    }

    /// Folds and commits once; true if there is more to fold at once.
    fn step(&mut self) -> bool {
        for follower in &mut self.followers {
            while !follower.caught_up() && self.fold.messages() < FOLD_MESSAGES_MAX {
                match follower.next_blocking() {
                    Ok(Some(batch)) => {
                        for journaled in batch.journaled() {
                            let message = journaled.message();
                            let sequence = journaled.sequence();
                            let at = message.admitted_at;
                            self.fold.add(batch.stream(), sequence, &message.instance, at);
                        }
                    }
                    Ok(None) => break,
                    Err(error) => {
                        tracing::error!(%error, "the ledger cannot read the journal");
                        break;
                    }
                }
            }
        }
        if self.fold.messages() == 0 {
            return false;
        }
        match self.ledger.commit(&self.fold) {
            Ok(()) => {
                let was_full = self.fold.messages() >= FOLD_MESSAGES_MAX;
                self.covered.advance(&self.fold);
                self.fold = Fold::default();
                was_full
            }
            Err(error) => {
                // Nothing is lost: the same fold is committed later, or folded again at a start.
                tracing::error!(%error, "the ledger cannot be written");
                false
            }
        }
    }
}

impl ClerkHandle {
    /// Folds what is left, commits it and ends.
    pub fn finish(self) {
        self.stop.store(true, Ordering::Release);
        self.thread.thread().unpark();
        if self.thread.join().is_err() {
            tracing::error!("the ledger thread panicked; a start folds again what it had in hand");
        }
    }
}
