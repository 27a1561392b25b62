use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;

use crate::clock::UnixMillis;
use crate::journal::{Batch, Follower, JournalError, Journaled, Sequence, Stream, StreamId};
use crate::message::{Message, MessageId};

use super::broker::{Broker, PublishError, Ticket, WINDOW_MESSAGES_MAX};
use super::dead_letters::Reason;
use super::post::{LETTERS_MAX, Post};

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
            // What was too old already waits for the others that are: they are kept together.
            let front = |handed: &&mut Handed| handed.ticket.is_some();
            while let Some(settled) = self.handed.front_mut().filter(front).and_then(look) {
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
        let settled = match settled {
            Settled::Delivered => {
                self.count();
                1
            }
            Settled::GivenUp(reason) => self.bury(reason).await,
            Settled::Returned => return self.hand_over_again().await,
        };
        for handed in self.handed.drain(..settled.min(self.handed.len())) {
            self.handed_bytes -= handed.bytes();
            self.progress.next.store(handed.journaled().sequence().0 + 1, Ordering::Release);
        }
        self.show_oldest();
    }

    /// Keeps the oldest message as a dead letter, and with the same sync those right behind it that
    /// are given up as well; says how many. None of them is passed before it is kept.
    async fn bury(&mut self, reason: Reason) -> usize {
        let mut letters = vec![];
        let mut reason = Some(reason);
        for handed in self.handed.iter_mut().take(LETTERS_MAX) {
            let given_up = reason.take().or_else(|| given_up(handed, &self.post));
            let Some(reason) = given_up else { break };
            letters.push((handed.message().clone(), reason));
        }
        let letters = letters.into();
        while !self.post.bury(&letters).await {
            tokio::time::sleep(BACKOFF_MAX).await;
        }
        letters.len()
    }

    /// The broker let go of the oldest message: what it let go of goes out again, in order.
    async fn hand_over_again(&mut self) {
        tokio::time::sleep(BACKOFF_MIN).await;
        self.handed_bytes = 0;
        for mut handed in std::mem::take(&mut self.handed) {
            let answer = handed.ticket.as_mut().and_then(FutureExt::now_or_never);
            if answer == Some(Err(PublishError::Unavailable)) {
                self.post.metrics.duplicates_possible.inc();
                self.hand_over(handed.batch, handed.at).await;
                continue;
            }
            if let Some(outcome) = answer {
                handed.ticket = Some(Ticket::settled(outcome));
            }
            self.handed_bytes += handed.bytes();
            self.handed.push_back(handed);
        }
    }

    fn show_oldest(&self) {
        if let Some(oldest) = self.handed.front() {
            self.progress.oldest.store(oldest.message().admitted_at.0, Ordering::Relaxed);
        }
    }

    fn count(&self) {
        let Some(oldest) = self.handed.front() else { return };
        let sequence = oldest.journaled().sequence();
        let delivered = Delivered { message_id: oldest.message().id, sequence };
        let took = self.post.clock.now().saturating_duration_since(oldest.began);
        self.post.metrics.ack.observe(took.as_secs_f64());
        self.post.metrics.delivered.inc();
        tracing::trace!(
            msg_id = %delivered.message_id(), sequence = delivered.sequence.0, "delivered"
        );
    }
}

/// Waits for the broker's word on the oldest message in its hands, or for its time to run out.
async fn oldest<B: Broker>(handed: &mut VecDeque<Handed>, post: &Post<B>) -> Settled {
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

/// Why a message is given up, if it is. Any other answer stays for when its turn comes.
fn given_up<B: Broker>(handed: &mut Handed, post: &Post<B>) -> Option<Reason> {
    let Some(ticket) = &mut handed.ticket else { return Some(Reason::Expired) };
    match ticket.now_or_never() {
        None => post.is_too_old(handed.message()).then_some(Reason::Expired),
        Some(Err(PublishError::Refused(by))) => Some(Reason::Refused(by)),
        Some(outcome) => {
            handed.ticket = Some(Ticket::settled(outcome));
            None
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

#[cfg(test)]
mod tests;
