use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::message::Message;

/// Messages one courier may have in a broker's hands without an answer for them.
pub const WINDOW_MESSAGES_MAX: usize = 1_024;

/// What hands messages to devices: the embedded broker or an external one.
pub trait Broker: Send + Sync + 'static {
    /// Hands one message over; `Ok` means the broker answers for it from here on.
    ///
    /// Messages arrive in the order in which their calls return: a caller that needs an order
    /// waits for one call before it makes the next. A call may wait for a slow device, a bounded
    /// time; a caller must not give the future up half-way, or it cannot know the outcome.
    ///
    /// # Errors
    /// [`PublishError`] says whether another attempt can help.
    fn publish(&self, message: &Message) -> impl Future<Output = Result<(), PublishError>> + Send;

    /// Waits until everything taken over so far survives a crash of this process: only then may a
    /// position behind it be saved. For a broker elsewhere its acknowledgement has said so.
    ///
    /// # Errors
    /// [`Unsettled`] if it cannot be said now; a later call may.
    fn settled(&self) -> impl Future<Output = Result<(), Unsettled>> + Send {
        std::future::ready(Ok(()))
    }

    /// Hands one message over and returns as soon as the next one may follow, perhaps before the
    /// broker answers for this one: the ticket says when it does.
    ///
    /// Messages of one topic arrive in the order of the calls. A caller holds at most
    /// [`WINDOW_MESSAGES_MAX`] open tickets. Dropping one withdraws its message, unless it is on
    /// its way already. By default one message is published at a time.
    #[expect(clippy::async_yields_async, reason = "a ticket is for later")]
    fn hand_over(&self, message: &Message) -> impl Future<Output = Ticket> + Send {
        async { Ticket::settled(self.publish(message).await) }
    }
}

/// The outcome of one [`Broker::hand_over`], now or later; asked again, it is
/// [`PublishError::Unavailable`].
#[derive(Debug)]
pub struct Ticket(Outcome);

#[derive(Debug)]
enum Outcome {
    Settled(Option<Result<(), PublishError>>),
    Open(oneshot::Receiver<Result<(), PublishError>>),
}

impl Ticket {
    /// A ticket of a message whose outcome is known.
    #[must_use]
    pub const fn settled(outcome: Result<(), PublishError>) -> Self {
        Self(Outcome::Settled(Some(outcome)))
    }

    /// A ticket that is settled from elsewhere; a settler that is dropped means
    /// [`PublishError::Unavailable`].
    pub(super) const fn open(settler: oneshot::Receiver<Result<(), PublishError>>) -> Self {
        Self(Outcome::Open(settler))
    }
}

impl Future for Ticket {
    type Output = Result<(), PublishError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let outcome = match &mut self.0 {
            Outcome::Settled(outcome) => outcome.take(),
            Outcome::Open(settler) => match Pin::new(settler).poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(settled) => settled.ok(),
            },
        };
        self.0 = Outcome::Settled(None);
        Poll::Ready(outcome.unwrap_or(Err(PublishError::Unavailable)))
    }
}

/// What a broker has taken over and cannot answer for yet; why, in its own words.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("what devices are owed is not on disk: {0}")]
pub struct Unsettled(pub String);

/// Why a broker did not take a message over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    /// The broker cannot be reached or is stopping: the message stays in the backlog.
    #[error("the broker is unavailable")]
    Unavailable,
    /// The broker will never take this message: it becomes a dead letter.
    #[error("the broker refused the message: {0}")]
    Refused(#[from] RefusedBy),
}

/// What made a broker refuse a message for good.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RefusedBy {
    /// The message's instance is no longer configured.
    #[error("its instance is not configured")]
    UnknownInstance,
    /// An MQTT 5 reason code of 0x80 or above (MQTT 5.0, 2.4).
    #[error("reason code {0:#04x}")]
    ReasonCode(u8),
    /// The packet is larger than the broker takes (MQTT 5.0, 3.2.2.3.6), or than weir sends.
    #[error("its packet has {bytes} bytes, and the broker takes {bytes_max}")]
    PacketTooLarge {
        /// The packet with everything around the payload.
        bytes: usize,
        /// The largest the broker takes.
        bytes_max: usize,
    },
    /// The broker closed the connection on this message, and on nothing else, again and again.
    #[error("the broker closed the connection on it {times} times in a row")]
    ConnectionClosed {
        /// How often.
        times: u32,
    },
}
