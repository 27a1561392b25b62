use std::future::Future;

use crate::message::Message;

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
}
