use std::io;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::broker::Broker;
use super::dead_letters::{DeadLetters, Reason};
use crate::clock::Clock;
use crate::message::Message;
use crate::metering::DeliveryMetrics;

/// Dead letters that are kept with one sync.
pub(super) const LETTERS_MAX: usize = 64;

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

impl<B: Broker> Post<B> {
    /// Keeps messages that cannot be delivered, on a thread that may wait for the disk: calls are
    /// served by the one this is called on. False if they are not kept and have to be tried again.
    pub(super) async fn bury(self: &Arc<Self>, given_up: &Arc<[(Message, Reason)]>) -> bool {
        let (post, letters) = (Arc::clone(self), Arc::clone(given_up));
        let now = self.clock.unix();
        let keep = move || post.dead_letters.lock().keep(&letters, now);
        let kept = tokio::task::spawn_blocking(keep).await;
        if let Err(error) = kept.unwrap_or_else(|error| Err(io::Error::other(error))) {
            tracing::error!(letters = given_up.len(), %error, "dead letters cannot be kept");
            return false;
        }
        self.metrics.dead_letters.inc_by(given_up.len() as u64);
        for (message, reason) in &**given_up {
            tracing::warn!(
                msg_id = %message.id, instance = %message.instance, %reason, "dead letter"
            );
        }
        true
    }
}

impl<B> Post<B> {
    pub(super) fn is_too_old(&self, message: &Message) -> bool {
        self.clock.unix().since(message.admitted_at) > self.retention
    }
}
