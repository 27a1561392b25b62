use crate::clock::UnixMillis;
use crate::message::Message;

/// What a record keeps of a nonce, so that replay protection survives a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NonceMark {
    /// The keyed fingerprint of the access key id.
    pub access_key: u64,
    /// The keyed fingerprint of the nonce.
    pub fingerprint: u64,
    /// When the request's own timestamp leaves the window.
    pub expires_at: UnixMillis,
}

/// A message that passed admission: signed by its account, valid, and charged to its bucket.
#[derive(Debug)]
pub struct Admitted {
    message: Message,
    nonce: NonceMark,
}

impl Admitted {
    /// The message.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// Its nonce, for the record.
    #[must_use]
    pub const fn nonce(&self) -> NonceMark {
        self.nonce
    }

    /// The message was journaled, or may have been: its nonce stays until its window has passed.
    #[must_use]
    pub fn keep(self) -> Message {
        self.message
    }

    /// A message that passed nothing, for the tests of the stages behind admission.
    #[cfg(test)]
    pub(crate) const fn untested(message: Message, nonce: NonceMark) -> Self {
        Self { message, nonce }
    }
}
