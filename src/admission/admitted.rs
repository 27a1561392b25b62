use std::sync::Arc;

use crate::clock::UnixMillis;
use crate::message::Message;

use super::directory::AccessKey;

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
///
/// Dropping one takes its claim on the nonce back; [`Admitted::keep`] makes it last.
#[derive(Debug)]
pub struct Admitted {
    message: Message,
    claim: NonceClaim,
}

impl Admitted {
    pub(super) const fn new(message: Message, claim: NonceClaim) -> Self {
        Self { message, claim }
    }

    /// The message.
    #[must_use]
    pub const fn message(&self) -> &Message {
        &self.message
    }

    /// Its nonce, for the record.
    #[must_use]
    pub const fn nonce(&self) -> NonceMark {
        self.claim.mark
    }

    /// The message was journaled, or may have been: its nonce stays until its window has passed.
    #[must_use]
    pub fn keep(mut self) -> Message {
        self.claim.holder = None;
        self.message
    }

    /// A message that passed nothing, for the tests of the stages behind admission.
    #[cfg(test)]
    pub(crate) const fn untested(message: Message, nonce: NonceMark) -> Self {
        Self { message, claim: NonceClaim { mark: nonce, holder: None } }
    }
}

/// A nonce that is remembered for as long as this lives, or for good once it is kept.
#[derive(Debug)]
pub(super) struct NonceClaim {
    mark: NonceMark,
    holder: Option<Arc<AccessKey>>,
}

impl NonceClaim {
    /// For a nonce that `holder` has just claimed.
    pub(super) const fn new(mark: NonceMark, holder: Arc<AccessKey>) -> Self {
        Self { mark, holder: Some(holder) }
    }
}

impl Drop for NonceClaim {
    fn drop(&mut self) {
        // Dropped by a panic, the message may be on disk already: then its nonce was used.
        if let Some(holder) = self.holder.take().filter(|_| !std::thread::panicking()) {
            holder.nonces.release(self.mark.fingerprint);
        }
    }
}
