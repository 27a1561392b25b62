use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

use crate::message::MessageId;

/// Proof that a message is on disk under a completed sync; only the journal can give one.
pub trait Durable {
    /// The id of the message.
    fn message_id(&self) -> MessageId;
}

/// The message is on disk, and so is its bill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    message_id: MessageId,
}

impl Stored {
    /// The MsgId of the answer.
    #[must_use]
    pub const fn message_id(self) -> MessageId {
        self.message_id
    }
}

/// The message was pushed and no proof came back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unstored {
    /// The disk is full; the message is certainly not stored.
    NoSpace,
    /// The journal takes nothing any more; the message is certainly not stored.
    Poisoned,
    /// A sync failed or the shard died with the message in its hands; nobody knows.
    Unknown,
}

/// The shard's side of a receipt. Dropped unsettled, it says that nobody knows.
pub struct Ticket(oneshot::Sender<Result<Stored, Unstored>>);

/// The caller's side: resolves once the shard has settled the message.
pub struct Receipt(oneshot::Receiver<Result<Stored, Unstored>>);

pub(super) fn pair() -> (Ticket, Receipt) {
    let (sender, receiver) = oneshot::channel();
    (Ticket(sender), Receipt(receiver))
}

impl Ticket {
    /// Answers with a proof. A caller that has gone away does not matter.
    pub fn settle(self, proof: &impl Durable) {
        let _ = self.0.send(Ok(Stored { message_id: proof.message_id() }));
    }

    /// Answers that there is no proof.
    pub fn fail(self, why: Unstored) {
        let _ = self.0.send(Err(why));
    }
}

impl Future for Receipt {
    type Output = Result<Stored, Unstored>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let settled = Pin::new(&mut self.0).poll(cx);
        settled.map(|settled| settled.unwrap_or(Err(Unstored::Unknown)))
    }
}
