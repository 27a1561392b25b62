//! The waist: one bounded ring a shard between the front (wire, admission) and the back.
//!
//! A slot is reserved before a message is charged, so a push never fails and never waits. What
//! comes back to the caller is settled by the shard, in order, after the sync.
//!
//! Never: grow, wait for room, or drop a message it has taken.

mod receipt;

use std::hash::Hasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use prometheus::IntGauge;
use siphasher::sip::SipHasher13;

pub use receipt::{Durable, Receipt, Stored, Ticket, Unstored};

use crate::admission::{Admitted, Examined};
use crate::message::{InstanceId, Topic};
use crate::metering::QueueMetrics;

/// Most slots a shard may be given.
pub const SLOTS_MAX: usize = 1 << 20;

/// How much a queue holds.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Messages waiting for one shard, 1 to [`SLOTS_MAX`]. Default 8,192.
    pub slots: usize,
    /// Shards, one ring each.
    pub shards: usize,
}

/// Why there is no slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// Every slot of the shard is taken.
    Slots,
    /// The queue is closed: weir is draining.
    Closed,
    /// The backlog of undelivered messages has reached its cap.
    Backlog,
}

/// The front's end of all rings.
#[derive(Clone)]
pub struct Queue {
    rings: Arc<[Ring]>,
    gate: Arc<Gate>,
}

/// What may close all rings at once.
#[derive(Default)]
struct Gate {
    closed: AtomicBool,
    backlog_full: AtomicBool,
}

/// The hand of whoever watches the backlog on all rings; it keeps no ring open.
#[derive(Clone)]
pub struct BacklogGate(Arc<Gate>);

impl BacklogGate {
    /// Refuses reservations while the backlog of undelivered messages is at its cap.
    pub fn set_full(&self, full: bool) {
        self.0.backlog_full.store(full, Ordering::Relaxed);
    }
}

struct Ring {
    sender: Sender<Pending>,
    taken: Arc<AtomicUsize>,
    slots: usize,
}

/// A message and the ticket its caller's receipt belongs to.
pub struct Pending {
    /// The message.
    pub admitted: Admitted,
    /// The way back to its caller.
    pub ticket: Ticket,
}

/// The shard's end of one ring.
pub struct Intake {
    receiver: Receiver<Pending>,
    taken: Arc<AtomicUsize>,
    gate: Arc<Gate>,
    depth: Option<IntGauge>,
}

/// A reserved place in a ring. Dropping it gives the place back.
pub struct Slot<'q> {
    ring: &'q Ring,
    used: bool,
}

impl Queue {
    /// Makes a ring a shard; the intakes are in the order of the shards.
    #[must_use]
    pub fn new(config: Config, metrics: &QueueMetrics) -> (Self, Vec<Intake>) {
        metrics.slots.set(i64::try_from(config.slots).unwrap_or(i64::MAX));
        let gate = Arc::<Gate>::default();
        let mut rings = Vec::with_capacity(config.shards);
        let mut intakes = Vec::with_capacity(config.shards);
        for shard in 0..config.shards {
            let (sender, receiver) = crossbeam_channel::bounded(config.slots);
            let taken = Arc::new(AtomicUsize::new(0));
            let depth = metrics.depth.get(shard).cloned();
            let (counted, shut) = (Arc::clone(&taken), Arc::clone(&gate));
            intakes.push(Intake { receiver, taken: counted, gate: shut, depth });
            rings.push(Ring { sender, taken, slots: config.slots });
        }
        (Self { rings: rings.into(), gate }, intakes)
    }

    /// Reserves a place for a message in its shard's ring.
    ///
    /// # Errors
    /// [`Full`]; nothing was taken then.
    pub fn reserve(&self, examined: &Examined) -> Result<Slot<'_>, Full> {
        self.reserve_in(shard_of(examined.instance(), examined.topic(), self.rings.len()))
    }

    pub(crate) fn reserve_in(&self, shard: usize) -> Result<Slot<'_>, Full> {
        if self.gate.closed.load(Ordering::Acquire) {
            return Err(Full::Closed);
        }
        if self.gate.backlog_full.load(Ordering::Relaxed) {
            return Err(Full::Backlog);
        }
        let ring = &self.rings[shard];
        if ring.taken.fetch_add(1, Ordering::AcqRel) >= ring.slots {
            ring.taken.fetch_sub(1, Ordering::AcqRel);
            return Err(Full::Slots);
        }
        Ok(Slot { ring, used: false })
    }

    /// Refuses every further reservation; what was reserved may still be pushed.
    pub fn close(&self) {
        self.gate.closed.store(true, Ordering::Release);
    }

    /// The hand of whoever watches the backlog.
    #[must_use]
    pub fn backlog_gate(&self) -> BacklogGate {
        BacklogGate(Arc::clone(&self.gate))
    }
}

/// Messages of one (instance, topic) always meet in one shard, over restarts too, so that their
/// order holds.
fn shard_of(instance: &InstanceId, topic: &Topic, shards: usize) -> usize {
    let mut hasher = SipHasher13::new();
    hasher.write(instance.as_str().as_bytes());
    hasher.write_u8(b'/');
    hasher.write(topic.as_str().as_bytes());
    let hash = usize::try_from(hasher.finish() >> 32).unwrap_or_default();
    hash % shards.max(1)
}

impl Slot<'_> {
    /// Hands the message to its shard.
    #[must_use]
    pub fn push(mut self, admitted: Admitted) -> Receipt {
        let (ticket, receipt) = receipt::pair();
        // A ring has as many places as slots, so only a shard that is gone can refuse.
        match self.ring.sender.try_send(Pending { admitted, ticket }) {
            Ok(()) => self.used = true,
            Err(refused) => refused.into_inner().ticket.fail(Unstored::Poisoned),
        }
        receipt
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        if !self.used {
            self.ring.taken.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

impl Intake {
    /// Waits up to `patience` for a message; `Ok(None)` if none came.
    ///
    /// # Errors
    /// [`Gone`] when the queue was closed or dropped, and nothing was reserved or left to take.
    pub fn wait(&self, patience: std::time::Duration) -> Result<Option<Pending>, Gone> {
        match self.receiver.recv_timeout(patience) {
            Ok(pending) => Ok(Some(self.took(pending))),
            Err(RecvTimeoutError::Timeout) if self.is_done() => Err(Gone),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Gone),
        }
    }

    /// Takes a message that is there already.
    #[must_use]
    pub fn take(&self) -> Option<Pending> {
        match self.receiver.try_recv() {
            Ok(pending) => Some(self.took(pending)),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => None,
        }
    }

    /// Shows how many slots are taken now.
    pub fn show_depth(&self) {
        if let Some(depth) = &self.depth {
            depth.set(i64::try_from(self.taken.load(Ordering::Relaxed)).unwrap_or(i64::MAX));
        }
    }

    fn is_done(&self) -> bool {
        self.gate.closed.load(Ordering::Acquire) && self.taken.load(Ordering::Acquire) == 0
    }

    fn took(&self, pending: Pending) -> Pending {
        self.taken.fetch_sub(1, Ordering::AcqRel);
        pending
    }
}

/// No message will come any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

#[cfg(test)]
mod tests;
