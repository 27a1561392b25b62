use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use prometheus::{IntCounter, IntGauge};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::admission::Admission;
use crate::clock::Clock;
use crate::delivery::{Cursors, CursorsError, DeadLetters, Progress, Unsettled};
use crate::journal::StreamId;
use crate::ledger::Covered;
use crate::metering::{DeliveryMetrics, LedgerMetrics};
use crate::ops::{Readiness, State};
use crate::queue::BacklogGate;

use super::reserve::Reserve;

/// How often gauges are set and poison is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// An append that takes longer than this hangs.
const STALL: Duration = Duration::from_secs(10);
/// Looks between two saves of the delivery cursors, and trims.
const LOOKS_A_SAVE: u32 = 4;
/// Looks between two sweeps of expired nonces, and of the oldest dead letters.
const LOOKS_A_SWEEP: u32 = 240;

/// What has to be done now and then, off every hot path.
pub(super) struct Upkeep {
    pub(super) watch: Watch,
    pub(super) saver: Saver,
}

/// Looks, and never touches the disk.
pub(super) struct Watch {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) backlog_gate: BacklogGate,
    pub(super) backlog_bytes_max: u64,
    pub(super) progress: Vec<Arc<Progress>>,
    pub(super) covered: Covered,
    pub(super) ledger_ended: Arc<AtomicBool>,
    pub(super) delivery: DeliveryMetrics,
    pub(super) ledger: LedgerMetrics,
    pub(super) readiness: Arc<Readiness>,
    /// Streams whose append has hung for too long.
    pub(super) stalled: BTreeSet<StreamId>,
    pub(super) poison: watch::Sender<bool>,
}

/// Saves, trims and sweeps, as long as the disk takes for it.
pub(super) struct Saver {
    pub(super) admission: Arc<Admission>,
    pub(super) old_letters: OldLetters,
    pub(super) cursors: Cursors,
    pub(super) settled: Settled,
    pub(super) reserve: Reserve,
    pub(super) progress: Vec<Arc<Progress>>,
    pub(super) covered: Covered,
    pub(super) disk_free: IntGauge,
}

/// Waits until what was delivered survives a crash; blocks.
pub(super) type Settled = Box<dyn Fn() -> Result<(), Unsettled> + Send>;

/// Dead letters that were kept for long enough.
pub(super) struct OldLetters {
    pub(super) dir: PathBuf,
    pub(super) kept: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) purged: IntCounter,
}

/// An upkeep at work.
pub(super) struct UpkeepHandle {
    stop: oneshot::Sender<()>,
    task: JoinHandle<bool>,
}

impl Upkeep {
    pub(super) fn start(self) -> UpkeepHandle {
        let (stop, stopped) = oneshot::channel();
        UpkeepHandle { stop, task: tokio::spawn(self.run(stopped)) }
    }

    /// Looks and saves until it is stopped, and once more then; true if a journal is poisoned.
    async fn run(self, mut stopped: oneshot::Receiver<()>) -> bool {
        let Self { mut watch, saver } = self;
        let mut saver = Some(saver);
        let mut saving: Option<JoinHandle<Saver>> = None;
        let mut looks: u32 = 0;
        let mut sweep = false;
        loop {
            let ended = tokio::select! {
                _ = &mut stopped => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            looks = looks.wrapping_add(1);
            let poisoned = watch.look();
            sweep |= looks.is_multiple_of(LOOKS_A_SWEEP);
            // Not waited for while it runs: a disk that hangs must not keep anybody from saying so.
            if let Some(task) = saving.take_if(|task| task.is_finished() || ended) {
                let Ok(saved) = task.await else { return true };
                saver = Some(saved);
            }
            if let Some(saver) = saver.take_if(|_| ended || looks.is_multiple_of(LOOKS_A_SAVE)) {
                let sweep = std::mem::take(&mut sweep);
                saving = Some(tokio::task::spawn_blocking(move || saver.work(sweep)));
            }
            if ended {
                let saved = match saving {
                    Some(task) => task.await.is_ok(),
                    None => true,
                };
                return poisoned || !saved;
            }
        }
    }
}

impl Watch {
    /// Looks before the first call comes: a backlog at its cap refuses that one too, and who asks
    /// for a gauge as soon as weir is ready is told the truth.
    pub(super) fn begun(mut self) -> Self {
        self.look();
        self
    }

    /// Sets the gauges; true if a journal is poisoned.
    fn look(&mut self) -> bool {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let backlog: u64 = self.progress.iter().map(|progress| progress.backlog()).sum();
        self.delivery.backlog.set(gauge(backlog));
        let now = self.clock.unix();
        let oldest = self.progress.iter().filter_map(|progress| progress.oldest()).min();
        self.delivery.oldest.set(oldest.map_or(0.0, |at| now.since(at).as_secs_f64()));
        self.ledger.lag.set(gauge(self.covered.lag()));
        let waiting: u64 = self.progress.iter().map(|progress| progress.backlog_bytes()).sum();
        self.delivery.backlog_bytes.set(gauge(waiting));
        self.backlog_gate.set_full(waiting > self.backlog_bytes_max);
        self.look_for_stalls();
        // Without its ledger weir would keep its journal for ever. A drain ends it, and may.
        let ledger_lost =
            self.readiness.state() <= State::Ready && self.ledger_ended.load(Ordering::Acquire);
        let poisoned =
            ledger_lost || self.progress.iter().any(|progress| progress.stream().is_poisoned());
        if poisoned {
            self.readiness.advance(State::Poisoned);
            self.poison.send_replace(true);
        }
        poisoned
    }

    /// `/readyz` is off while an append takes too long: whoever is sent here only waits.
    fn look_for_stalls(&mut self) {
        let now = self.clock.now();
        for stream in self.progress.iter().map(|progress| progress.stream()) {
            let hangs = stream.busy_for(now) > STALL;
            if hangs && self.stalled.insert(stream.id()) {
                tracing::error!(
                    stream = %stream.id(),
                    "a journal sync has taken more than 10 s: does the disk hang?"
                );
            } else if !hangs && self.stalled.remove(&stream.id()) {
                tracing::warn!(stream = %stream.id(), "the journal sync that hung has returned");
            }
        }
        self.readiness.set_stalled(!self.stalled.is_empty());
    }
}

impl Saver {
    fn work(mut self, sweep: bool) -> Self {
        if let Some(free) = self.reserve.keep() {
            self.disk_free.set(i64::try_from(free).unwrap_or(i64::MAX));
        }
        let (cursors, progress) = (&mut self.cursors, &self.progress);
        if let Err(error) = save_and_trim(cursors, progress, &self.covered, &self.settled) {
            tracing::error!(%error, "delivery cursors cannot be saved");
        }
        if sweep {
            self.admission.sweep();
            self.old_letters.purge();
        }
        self
    }
}

impl OldLetters {
    fn purge(&self) {
        match DeadLetters::purge_one(&self.dir, self.clock.unix(), self.kept) {
            Ok(letters) => self.purged.inc_by(letters),
            Err(error) => tracing::error!(%error, "dead letters cannot be purged"),
        }
    }
}

/// Why the cursors stay where they are.
#[derive(Debug, thiserror::Error)]
pub(super) enum SaveError {
    #[error(transparent)]
    Unsettled(#[from] Unsettled),
    #[error(transparent)]
    Cursors(#[from] CursorsError),
}

/// Saves how far delivery is, then lets go of what delivery and ledger have both passed. A position
/// is read before it is settled: what comes in between is for the next time.
pub(super) fn save_and_trim(
    cursors: &mut Cursors,
    progress: &[Arc<Progress>],
    covered: &Covered,
    settled: &dyn Fn() -> Result<(), Unsettled>,
) -> Result<(), SaveError> {
    let positions: BTreeMap<_, _> =
        progress.iter().map(|progress| (progress.id(), progress.next())).collect();
    settled()?;
    cursors.save(positions.clone())?;
    for progress in progress {
        let delivered = positions.get(&progress.id()).copied();
        let billed = covered.next(progress.id());
        progress.stream().trim(delivered.map_or(billed, |next| next.min(billed)));
    }
    Ok(())
}

impl UpkeepHandle {
    /// Looks and saves once more, then ends; true if a journal is poisoned.
    pub(super) async fn finish(self) -> bool {
        let _ = self.stop.send(());
        self.task.await.unwrap_or(true)
    }
}
