use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use crate::clock::{Clock, UnixMillis};
use crate::journal::{Follower, JournalError, Journaled, Sequence, Stream, StreamId};
use crate::message::MessageId;
use crate::metering::DeliveryMetrics;

use super::broker::{Broker, PublishError};
use super::dead_letters::{DeadLetters, Reason};

/// First wait after a broker was unavailable; doubled up to [`BACKOFF_MAX`].
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest wait between two attempts.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(5);

/// Proof that a broker has taken a message over.
#[derive(Clone, Copy, Debug)]
pub struct Delivered {
    message_id: MessageId,
    sequence: Sequence,
}

impl Delivered {
    /// The message.
    #[must_use]
    pub const fn message_id(self) -> MessageId {
        self.message_id
    }
}

/// How far one stream was delivered; shared between its courier and who trims and reports.
#[derive(Debug)]
pub struct Progress {
    stream: Arc<Stream>,
    next: AtomicU64,
    /// When the message in the courier's hands was admitted; 0 if there is none.
    oldest: AtomicU64,
}

impl Progress {
    fn new(stream: Arc<Stream>, next: Sequence) -> Self {
        Self { stream, next: AtomicU64::new(next.0), oldest: AtomicU64::new(0) }
    }

    /// The stream.
    #[must_use]
    pub const fn stream(&self) -> &Arc<Stream> {
        &self.stream
    }

    /// The stream's id.
    #[must_use]
    pub fn id(&self) -> StreamId {
        self.stream.id()
    }

    /// The first message that is not delivered.
    #[must_use]
    pub fn next(&self) -> Sequence {
        Sequence(self.next.load(Ordering::Acquire))
    }

    /// Messages that wait.
    #[must_use]
    pub fn backlog(&self) -> u64 {
        self.stream.tail().0.saturating_sub(self.next().0)
    }

    /// Bytes of journal that wait, to the nearest segment.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        self.stream.bytes_from(self.next())
    }

    /// When the oldest waiting message was admitted.
    #[must_use]
    pub fn oldest(&self) -> Option<UnixMillis> {
        let oldest = self.oldest.load(Ordering::Relaxed);
        (oldest > 0 && self.backlog() > 0).then_some(UnixMillis(oldest))
    }
}

/// What all couriers share.
pub struct Post<B> {
    /// Where messages go.
    pub broker: Arc<B>,
    /// Where messages go that never arrive.
    pub dead_letters: Mutex<DeadLetters>,
    /// How long a message may wait before it becomes a dead letter.
    pub retention: Duration,
    /// How long what a former process left waits for devices to come back.
    pub reconnect_grace: Duration,
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// What is counted.
    pub metrics: DeliveryMetrics,
}

/// Reads one stream of the journal and hands each message to the broker, in order.
///
/// Never: skip a message, or give one up for an outage shorter than the retention.
pub struct Courier<B> {
    post: Arc<Post<B>>,
    follower: Follower,
    progress: Arc<Progress>,
    /// Messages before this one may have been published by a former process.
    known_from: Sequence,
}

impl<B: Broker> Courier<B> {
    /// A courier that starts where the former one's cursor stood.
    ///
    /// # Errors
    /// [`JournalError`] if the journal does not hold what the cursor points at.
    pub fn new(
        post: Arc<Post<B>>,
        stream: &Arc<Stream>,
        from: Sequence,
    ) -> Result<(Self, Arc<Progress>), JournalError> {
        stream.check_position(from)?;
        let progress = Arc::new(Progress::new(Arc::clone(stream), from));
        let follower = stream.follow(from);
        let known_from = stream.tail();
        Ok((Self { post, follower, progress: Arc::clone(&progress), known_from }, progress))
    }

    /// Delivers until the stream is closed and everything was given.
    pub async fn run(mut self) {
        if self.follower.position() < self.known_from {
            tokio::time::sleep(self.post.reconnect_grace).await;
        }
        while self.step().await {}
    }

    /// Delivers one batch, as soon as there is one; false once the stream is closed and all given.
    pub(crate) async fn step(&mut self) -> bool {
        match self.follower.next().await {
            Ok(Some(batch)) => {
                for journaled in batch.journaled() {
                    self.deliver(journaled).await;
                }
            }
            Ok(None) => return false,
            Err(error) => {
                tracing::error!(stream = %self.progress.id(), %error, "delivery cannot read");
                tokio::time::sleep(BACKOFF_MAX).await;
            }
        }
        true
    }

    async fn deliver(&self, journaled: &Journaled) {
        let message = journaled.message();
        self.progress.oldest.store(message.admitted_at.0, Ordering::Relaxed);
        let sequence = journaled.sequence();
        if sequence < self.known_from {
            self.post.metrics.duplicates_possible.inc();
        }
        match self.publish(journaled).await {
            Ok(delivered) => self.count(delivered),
            Err(reason) => self.bury(journaled, reason).await,
        }
        self.progress.next.store(sequence.0 + 1, Ordering::Release);
    }

    /// Tries until the broker takes the message or it is clear that it never will.
    async fn publish(&self, journaled: &Journaled) -> Result<Delivered, Reason> {
        let message = journaled.message();
        let mut backoff = BACKOFF_MIN;
        loop {
            let waited = self.post.clock.unix().since(message.admitted_at);
            if waited > self.post.retention {
                return Err(Reason::Expired);
            }
            let began = self.post.clock.now();
            match self.post.broker.publish(message).await {
                Ok(()) => {
                    let took = self.post.clock.now().saturating_duration_since(began);
                    self.post.metrics.ack.observe(took.as_secs_f64());
                    let sequence = journaled.sequence();
                    return Ok(Delivered { message_id: message.id, sequence });
                }
                Err(PublishError::Refused(by)) => return Err(Reason::Refused(by)),
                Err(PublishError::Unavailable) => {
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
            }
        }
    }

    fn count(&self, delivered: Delivered) {
        self.post.metrics.delivered.inc();
        tracing::trace!(
            msg_id = %delivered.message_id(), sequence = delivered.sequence.0, "delivered"
        );
    }

    /// Keeps a message that cannot be delivered; it is not passed before it is kept.
    async fn bury(&self, journaled: &Journaled, reason: Reason) {
        let message = journaled.message();
        loop {
            let now = self.post.clock.unix();
            let kept = self.post.dead_letters.lock().keep(message, reason, now);
            let Err(error) = kept else { break };
            tracing::error!(msg_id = %message.id, %error, "a dead letter cannot be kept");
            tokio::time::sleep(BACKOFF_MAX).await;
        }
        self.post.metrics.dead_letters.inc();
        tracing::warn!(msg_id = %message.id, instance = %message.instance, %reason, "dead letter");
    }
}
