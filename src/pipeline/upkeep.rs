use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;

use crate::admission::Admission;
use crate::clock::Clock;
use crate::delivery::{Cursors, DeadLetters, Progress};
use crate::ledger::Covered;
use crate::metering::{DeliveryMetrics, LedgerMetrics, ProcessMetrics};
use crate::ops::{Readiness, State};
use crate::queue::BacklogGate;

/// How often gauges are set and poison is looked for.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks between two saves of the delivery cursors, and trims.
const LOOKS_A_SAVE: u32 = 4;
/// Looks between two sweeps of expired nonces, and of the oldest dead letters.
const LOOKS_A_SWEEP: u32 = 240;

/// The folder of dead letters in the data directory.
pub(super) const DEAD_LETTERS: &str = "dead-letters";

/// What has to be done now and then, off every hot path.
pub(super) struct Upkeep {
    pub(super) data_dir: PathBuf,
    pub(super) dead_letters_kept: Duration,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) admission: Arc<Admission>,
    pub(super) backlog_gate: BacklogGate,
    pub(super) backlog_bytes_max: u64,
    pub(super) cursors: Cursors,
    pub(super) progress: Vec<Arc<Progress>>,
    pub(super) covered: Covered,
    pub(super) ledger_ended: Arc<AtomicBool>,
    pub(super) delivery: DeliveryMetrics,
    pub(super) ledger: LedgerMetrics,
    pub(super) process: ProcessMetrics,
    pub(super) readiness: Arc<Readiness>,
    pub(super) poison: watch::Sender<bool>,
}

/// An upkeep at work.
pub(super) struct UpkeepHandle {
    stop: oneshot::Sender<()>,
    task: JoinHandle<bool>,
}

impl Upkeep {
    pub(super) fn start(mut self) -> UpkeepHandle {
        let (stop, mut stopped) = oneshot::channel();
        let task = tokio::spawn(async move {
            let mut looks: u32 = 0;
            loop {
                let ended = tokio::select! {
                    _ = &mut stopped => true,
                    () = tokio::time::sleep(LOOK_EVERY) => false,
                };
                looks = looks.wrapping_add(1);
                let poisoned = self.look();
                let sweep = looks.is_multiple_of(LOOKS_A_SWEEP);
                if ended || sweep || looks.is_multiple_of(LOOKS_A_SAVE) {
                    self = match tokio::task::spawn_blocking(move || self.work(sweep)).await {
                        Ok(same) => same,
                        Err(_) => return true,
                    };
                }
                if ended {
                    return poisoned;
                }
            }
        });
        UpkeepHandle { stop, task }
    }

    /// Sets the gauges; true if a journal is poisoned.
    fn look(&self) -> bool {
        let gauge = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        let backlog: u64 = self.progress.iter().map(|progress| progress.backlog()).sum();
        self.delivery.backlog.set(gauge(backlog));
        let now = self.clock.unix();
        let oldest = self.progress.iter().filter_map(|progress| progress.oldest()).min();
        self.delivery.oldest.set(oldest.map_or(0.0, |at| now.since(at).as_secs_f64()));
        self.ledger.lag.set(gauge(self.covered.lag()));
        let waiting: u64 = self.progress.iter().map(|progress| progress.backlog_bytes()).sum();
        self.backlog_gate.set_full(waiting > self.backlog_bytes_max);
        if let Ok(disk) = rustix::fs::statvfs(&self.data_dir) {
            self.process.disk_free.set(gauge(disk.f_bavail.saturating_mul(disk.f_frsize)));
        }
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

    fn work(mut self, sweep: bool) -> Self {
        self.save_and_trim();
        if sweep {
            self.admission.sweep();
            self.purge_dead_letters();
        }
        self
    }

    fn purge_dead_letters(&self) {
        let dir = self.data_dir.join(DEAD_LETTERS);
        match DeadLetters::purge_one(&dir, self.clock.unix(), self.dead_letters_kept) {
            Ok(letters) => self.delivery.dead_letters_purged.inc_by(letters),
            Err(error) => tracing::error!(%error, "dead letters cannot be purged"),
        }
    }

    /// Saves how far delivery is, then lets go of what delivery and ledger have both passed.
    fn save_and_trim(&mut self) {
        let positions: BTreeMap<_, _> =
            self.progress.iter().map(|progress| (progress.id(), progress.next())).collect();
        match self.cursors.save(positions.clone()) {
            Ok(()) => {
                for progress in &self.progress {
                    let delivered = positions.get(&progress.id()).copied();
                    let billed = self.covered.next(progress.id());
                    progress.stream().trim(delivered.map_or(billed, |next| next.min(billed)));
                }
            }
            Err(error) => tracing::error!(%error, "delivery cursors cannot be saved"),
        }
    }
}

impl UpkeepHandle {
    /// Looks and saves once more, then ends; true if a journal is poisoned.
    pub(super) async fn finish(self) -> bool {
        let _ = self.stop.send(());
        self.task.await.unwrap_or(true)
    }
}
