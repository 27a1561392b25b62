use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use parking_lot::Mutex;

use crate::clock::{Clock, UnixMillis};
use crate::journal::{Batch, Follower, JournalError, Journaled, Sequence, Stream, StreamId};
use crate::message::{Message, MessageId};
use crate::metering::DeliveryMetrics;

use super::broker::{Broker, PublishError, Ticket, WINDOW_MESSAGES_MAX};
use super::dead_letters::{DeadLetters, Reason};

/// First wait after a broker was unavailable; doubled up to [`BACKOFF_MAX`].
pub(super) const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// Longest wait between two attempts.
pub(super) const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Bytes of topic and payload in a broker's hands, of one courier; one message more is taken.
const WINDOW_BYTES_MAX: usize = 8 * 1024 * 1024;

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
    /// When the oldest message in the broker's hands was admitted; 0 if there was none yet.
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
    /// What the broker has not answered for, oldest first.
    handed: VecDeque<Handed>,
    handed_bytes: usize,
}

/// A message in the broker's hands.
struct Handed {
    batch: Arc<Batch>,
    at: usize,
    began: Instant,
    /// None if it was too old to be handed over.
    ticket: Option<Ticket>,
}

impl Handed {
    fn journaled(&self) -> &Journaled {
        &self.batch.journaled()[self.at]
    }

    fn message(&self) -> &Message {
        self.journaled().message()
    }

    fn bytes(&self) -> usize {
        let message = self.message();
        message.topic.as_str().len() + message.payload.bytes().len()
    }
}

/// What became of a message.
enum Settled {
    Delivered,
    GivenUp(Reason),
    /// The broker let go of it.
    Returned,
}

impl From<Result<(), PublishError>> for Settled {
    fn from(outcome: Result<(), PublishError>) -> Self {
        match outcome {
            Ok(()) => Self::Delivered,
            Err(PublishError::Refused(by)) => Self::GivenUp(Reason::Refused(by)),
            Err(PublishError::Unavailable) => Self::Returned,
        }
    }
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
        let courier = Self {
            post,
            follower: stream.follow(from),
            progress: Arc::clone(&progress),
            known_from: stream.tail(),
            handed: VecDeque::new(),
            handed_bytes: 0,
        };
        Ok((courier, progress))
    }

    /// Delivers until the stream is closed and everything was given.
    pub async fn run(mut self) {
        if self.follower.position() < self.known_from {
            tokio::time::sleep(self.post.reconnect_grace).await;
        }
        while self.step().await {}
    }

    /// Settles the oldest message or hands one batch over, whichever comes first; false once the
    /// stream is closed and all is settled.
    pub(crate) async fn step(&mut self) -> bool {
        let has_room = self.has_room();
        let batch = tokio::select! {
            biased;
            settled = oldest(&mut self.handed, &self.post), if !self.handed.is_empty() => {
                self.settle(settled).await;
                return true;
            }
            batch = self.follower.next(), if has_room => batch,
        };
        match batch {
            Ok(Some(batch)) => self.take(&batch).await,
            Ok(None) => {
                while !self.handed.is_empty() {
                    let settled = oldest(&mut self.handed, &self.post).await;
                    self.settle(settled).await;
                }
                return false;
            }
            Err(error) => {
                tracing::error!(stream = %self.progress.id(), %error, "delivery cannot read");
                tokio::time::sleep(BACKOFF_MAX).await;
            }
        }
        true
    }

    fn has_room(&self) -> bool {
        self.handed.len() < WINDOW_MESSAGES_MAX && self.handed_bytes < WINDOW_BYTES_MAX
    }

    async fn take(&mut self, batch: &Arc<Batch>) {
        for at in 0..batch.journaled().len() {
            while !self.has_room() {
                let settled = oldest(&mut self.handed, &self.post).await;
                self.settle(settled).await;
            }
            let journaled = &batch.journaled()[at];
            if journaled.sequence() < self.known_from {
                self.post.metrics.duplicates_possible.inc();
            }
            self.hand_over(Arc::clone(batch), at).await;
            while let Some(settled) = self.handed.front_mut().and_then(look) {
                self.settle(settled).await;
            }
        }
    }

    /// Tries until the broker takes the message, or it is too old.
    async fn hand_over(&mut self, batch: Arc<Batch>, at: usize) {
        let message = batch.journaled()[at].message();
        let mut backoff = BACKOFF_MIN;
        let (began, ticket) = loop {
            let began = self.post.clock.now();
            if self.post.is_too_old(message) {
                break (began, None);
            }
            let mut ticket = self.post.broker.hand_over(message).await;
            match (&mut ticket).now_or_never() {
                None => break (began, Some(ticket)),
                Some(Err(PublishError::Unavailable)) => {
                    tokio::time::sleep(backoff).await;
                    backoff = (backoff * 2).min(BACKOFF_MAX);
                }
                Some(outcome) => break (began, Some(Ticket::settled(outcome))),
            }
        };
        let handed = Handed { batch, at, began, ticket };
        self.handed_bytes += handed.bytes();
        self.handed.push_back(handed);
        self.show_oldest();
    }

    async fn settle(&mut self, settled: Settled) {
        let reason = match settled {
            Settled::Delivered => None,
            Settled::GivenUp(reason) => Some(reason),
            Settled::Returned => return self.hand_over_again().await,
        };
        let Some(handed) = self.handed.pop_front() else { return };
        self.handed_bytes -= handed.bytes();
        let sequence = handed.journaled().sequence();
        match reason {
            None => {
                self.count(handed.began, Delivered { message_id: handed.message().id, sequence })
            }
            Some(reason) => self.bury(handed.message(), reason).await,
        }
        self.progress.next.store(sequence.0 + 1, Ordering::Release);
        self.show_oldest();
    }

    /// The broker let go of the oldest message: what it has not answered for goes out again, in
    /// order.
    async fn hand_over_again(&mut self) {
        tokio::time::sleep(BACKOFF_MIN).await;
        self.handed_bytes = 0;
        for mut handed in std::mem::take(&mut self.handed) {
            let answer = handed.ticket.as_mut().and_then(FutureExt::now_or_never);
            match answer {
                Some(outcome @ (Ok(()) | Err(PublishError::Refused(_)))) => {
                    handed.ticket = Some(Ticket::settled(outcome));
                    self.handed_bytes += handed.bytes();
                    self.handed.push_back(handed);
                }
                Some(Err(PublishError::Unavailable)) | None => {
                    self.post.metrics.duplicates_possible.inc();
                    self.hand_over(handed.batch, handed.at).await;
                }
            }
        }
    }

    fn show_oldest(&self) {
        if let Some(oldest) = self.handed.front() {
            self.progress.oldest.store(oldest.message().admitted_at.0, Ordering::Relaxed);
        }
    }

    fn count(&self, began: Instant, delivered: Delivered) {
        let took = self.post.clock.now().saturating_duration_since(began);
        self.post.metrics.ack.observe(took.as_secs_f64());
        self.post.metrics.delivered.inc();
        tracing::trace!(
            msg_id = %delivered.message_id(), sequence = delivered.sequence.0, "delivered"
        );
    }

    /// Keeps a message that cannot be delivered; it is not passed before it is kept.
    async fn bury(&self, message: &Message, reason: Reason) {
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

impl<B> Post<B> {
    fn is_too_old(&self, message: &Message) -> bool {
        self.clock.unix().since(message.admitted_at) > self.retention
    }
}

/// Waits for the broker's word on the oldest message in its hands, or for its time to run out.
async fn oldest<B>(handed: &mut VecDeque<Handed>, post: &Post<B>) -> Settled {
    let Some(oldest) = handed.front_mut() else { return std::future::pending().await };
    loop {
        if let Some(settled) = look(oldest) {
            return settled;
        }
        if post.is_too_old(oldest.message()) {
            return Settled::GivenUp(Reason::Expired);
        }
        let waited = post.clock.unix().since(oldest.message().admitted_at);
        let left = post.retention.saturating_sub(waited) + Duration::from_millis(1);
        let Some(ticket) = &mut oldest.ticket else { continue };
        tokio::select! {
            biased;
            outcome = ticket => return outcome.into(),
            () = tokio::time::sleep(left) => {}
        }
    }
}

/// What became of a message, if that is known.
fn look(handed: &mut Handed) -> Option<Settled> {
    match &mut handed.ticket {
        None => Some(Settled::GivenUp(Reason::Expired)),
        Some(ticket) => ticket.now_or_never().map(Settled::from),
    }
}
