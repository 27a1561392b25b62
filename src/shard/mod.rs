//! The turn: take what waits, append, sync once, settle every receipt, hand the batch on.
//!
//! No timer and no linger: a batch is whatever arrived during the last sync.
//!
//! Never: reply before the sync, reply out of order, or retry a sync.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Duration;

use crate::admission::Admitted;
use crate::journal::{AppendError, Batch, Journaled, PoisonCause, Writer, record_bytes};
use crate::message::MessageId;
use crate::metering::Billing;
use crate::queue::{Durable, Gone, Intake, Pending, Ticket, Unstored};

/// Most messages a turn may be given.
pub const BATCH_MAX: usize = 65_536;
/// How often an idle shard looks whether it should show its depth; a message wakes it at once.
const IDLE: Duration = Duration::from_millis(200);

/// How much one turn takes.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// Messages in one turn, 1 to [`BATCH_MAX`]. Default 1,024.
    pub batch_max: usize,
    /// Bytes of records in one turn; one message is always taken. Default 4 MiB.
    pub batch_bytes_max: usize,
}

impl Durable for Journaled {
    fn message_id(&self) -> MessageId {
        self.message().id
    }
}

/// One shard: a ring's end, a journal's writer, and nothing else that could block it.
pub struct Shard {
    config: Config,
    intake: Intake,
    writer: Writer,
    billing: Billing,
    batch: Vec<Admitted>,
    tickets: Vec<Ticket>,
    held_over: Option<Pending>,
}

impl Shard {
    /// Joins a ring and a journal.
    #[must_use]
    pub fn new(config: Config, intake: Intake, writer: Writer, billing: Billing) -> Self {
        Self {
            config,
            intake,
            writer,
            billing,
            batch: Vec::new(),
            tickets: Vec::new(),
            held_over: None,
        }
    }

    /// Turns until the queue is gone and empty. A poisoned shard stays and refuses what comes.
    ///
    /// A panic poisons the journal: what it had in its hands is neither stored nor not stored.
    pub fn run(mut self) {
        while let Ok(proceed) = catch_unwind(AssertUnwindSafe(|| self.turn())) {
            if proceed.is_err() {
                return;
            }
        }
        let stream = self.writer.stream().id();
        tracing::error!(%stream, "a shard panicked; its journal is poisoned");
        self.writer.poison(PoisonCause::Panicked);
        self.tickets.clear();
        self.batch.drain(..).for_each(|admitted| drop(admitted.keep()));
        self.run();
    }

    fn turn(&mut self) -> Result<(), Gone> {
        let first = match self.held_over.take() {
            Some(pending) => Some(pending),
            None => self.intake.wait(IDLE)?,
        };
        if let Some(first) = first {
            self.gather(first);
            self.append();
        }
        self.intake.show_depth();
        Ok(())
    }

    /// One turn, for a test that decides when.
    #[cfg(test)]
    pub(crate) fn turn_once(&mut self) {
        assert_eq!(self.turn(), Ok(()), "the queue is open");
    }

    fn gather(&mut self, first: Pending) {
        let mut bytes = record_bytes(first.admitted.message());
        let mut next = Some(first);
        while let Some(pending) = next {
            self.batch.push(pending.admitted);
            self.tickets.push(pending.ticket);
            if self.batch.len() >= self.config.batch_max {
                return;
            }
            next = self.intake.take();
            if let Some(pending) = &next {
                bytes += record_bytes(pending.admitted.message());
                if bytes > self.config.batch_bytes_max {
                    self.held_over = next;
                    return;
                }
            }
        }
    }

    fn append(&mut self) {
        let was_poisoned = self.writer.stream().is_poisoned();
        match self.writer.append(std::mem::take(&mut self.batch)) {
            Ok(batch) => self.settle(&batch),
            Err(AppendError::NoSpace(batch) | AppendError::TooLarge { batch, .. }) => {
                drop(batch);
                self.fail(Unstored::NoSpace);
            }
            Err(AppendError::Poisoned { batch, .. }) if was_poisoned => {
                drop(batch);
                self.fail(Unstored::Poisoned);
            }
            Err(AppendError::Poisoned { batch, .. }) => {
                // It may be on disk, so its nonces count as used.
                batch.into_iter().for_each(|admitted| drop(admitted.keep()));
                self.fail(Unstored::Unknown);
            }
        }
    }

    /// Bills and answers in the order of the journal, then hands the batch on.
    fn settle(&mut self, batch: &Arc<Batch>) {
        for (journaled, ticket) in batch.journaled().iter().zip(self.tickets.drain(..)) {
            self.billing.add(&journaled.message().instance, 1);
            ticket.settle(journaled);
        }
        // Whoever dies here lets the replies leave first.
        fail::fail_point!("shard-after-reply", |_| {
            std::thread::sleep(Duration::from_millis(20));
            std::process::abort()
        });
        self.writer.hand_on(batch);
    }

    fn fail(&mut self, why: Unstored) {
        self.tickets.drain(..).for_each(|ticket| ticket.fail(why));
    }
}

#[cfg(test)]
mod tests;
