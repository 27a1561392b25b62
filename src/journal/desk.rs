//! What streams and writers ask of the keeper, and the spare segments it hands back.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::batch::{Sequence, StreamId};
use super::turns::SegmentFile;

/// How long the keeper waits, after the disk was full, before it tries to make a segment again.
const NO_SPACE_RETRY: Duration = Duration::from_millis(500);
/// How often it looks for expired nonces when nobody asks for anything.
const TICK: Duration = Duration::from_secs(30);

/// Why there is no spare segment.
#[derive(Clone, Debug)]
pub(super) enum SpareError {
    /// The disk is full; the keeper tries again.
    NoSpace,
    /// The disk failed; the keeper does not try again.
    Failed(Arc<io::Error>),
    /// The journal was closed.
    Closed,
}

pub(super) struct Desk {
    state: Mutex<State>,
    wake_keeper: Condvar,
    wake_writers: Condvar,
    #[cfg(test)]
    inline: std::sync::OnceLock<std::sync::Weak<super::keeper::Keeper>>,
}

struct State {
    asked: bool,
    closed: bool,
    trims: BTreeMap<StreamId, Sequence>,
    slots: Vec<Slot>,
}

struct Slot {
    next_number: u64,
    spare: Option<SegmentFile>,
    trouble: Option<SpareError>,
}

impl Desk {
    /// A desk for these shards; each number is that of the shard's next segment.
    pub(super) fn new(next_numbers: impl IntoIterator<Item = u64>) -> Self {
        let slots = next_numbers
            .into_iter()
            .map(|next_number| Slot { next_number, spare: None, trouble: None })
            .collect();
        let state = State { asked: true, closed: false, trims: BTreeMap::new(), slots };
        Self {
            state: Mutex::new(state),
            wake_keeper: Condvar::new(),
            wake_writers: Condvar::new(),
            #[cfg(test)]
            inline: std::sync::OnceLock::new(),
        }
    }

    /// Asks that the records before `before` go.
    pub(super) fn trim(&self, stream: StreamId, before: Sequence) {
        let mut state = self.state.lock();
        let target = state.trims.entry(stream).or_insert(before);
        *target = before.max(*target);
        state.asked = true;
        drop(state);
        self.call_keeper();
    }

    /// Takes the shard's spare segment, and waits for it while the keeper is merely slow.
    pub(super) fn take_spare(&self, shard: u16) -> Result<SegmentFile, SpareError> {
        let mut state = self.state.lock();
        loop {
            let slot = &mut state.slots[usize::from(shard)];
            if let Some(spare) = slot.spare.take() {
                state.asked = true;
                drop(state);
                self.call_keeper();
                return Ok(spare);
            }
            if let Some(trouble) = &slot.trouble {
                return Err(trouble.clone());
            }
            if state.closed {
                return Err(SpareError::Closed);
            }
            #[cfg(test)]
            if self.inline.get().is_some() {
                drop(state);
                self.call_keeper();
                state = self.state.lock();
                continue;
            }
            self.wake_writers.wait(&mut state);
        }
    }

    pub(super) fn close(&self) {
        self.state.lock().closed = true;
        self.wake_keeper.notify_one();
        self.wake_writers.notify_all();
    }

    /// Waits for work; false once the journal is closed.
    pub(super) fn wait_for_work(&self) -> bool {
        let mut state = self.state.lock();
        if !state.asked && !state.closed {
            let is_full = |slot: &Slot| matches!(slot.trouble, Some(SpareError::NoSpace));
            let wait = if state.slots.iter().any(is_full) { NO_SPACE_RETRY } else { TICK };
            self.wake_keeper.wait_for(&mut state, wait);
        }
        state.asked = false;
        !state.closed
    }

    pub(super) fn trims(&self) -> Vec<(StreamId, Sequence)> {
        self.state.lock().trims.iter().map(|(&stream, &before)| (stream, before)).collect()
    }

    /// The shards that want a spare segment, with its number.
    pub(super) fn wanted(&self) -> Vec<(u16, u64)> {
        let state = self.state.lock();
        let wants = |slot: &Slot| {
            slot.spare.is_none() && !matches!(slot.trouble, Some(SpareError::Failed(_)))
        };
        (0..).zip(&state.slots).filter(|(_, s)| wants(s)).map(|(i, s)| (i, s.next_number)).collect()
    }

    pub(super) fn supply(&self, shard: u16, made: Result<SegmentFile, SpareError>) {
        let mut state = self.state.lock();
        let slot = &mut state.slots[usize::from(shard)];
        match made {
            Ok(spare) => {
                slot.next_number += 1;
                slot.spare = Some(spare);
                slot.trouble = None;
            }
            Err(trouble) => slot.trouble = Some(trouble),
        }
        drop(state);
        self.wake_writers.notify_all();
    }

    fn call_keeper(&self) {
        #[cfg(test)]
        if let Some(keeper) = self.inline.get() {
            if let Some(keeper) = keeper.upgrade() {
                keeper.work();
            }
            return;
        }
        self.wake_keeper.notify_one();
    }

    /// From now on the keeper's work is done by whoever asks for it, so that a seed repeats a run.
    #[cfg(test)]
    pub(super) fn work_inline(&self, keeper: &Arc<super::keeper::Keeper>) {
        let _ = self.inline.set(Arc::downgrade(keeper));
    }
}
