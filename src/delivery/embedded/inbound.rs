//! What a tenant's devices publish, and what they are handed when they subscribe.

use rmqtt::types::{ClientId, From, Publish, QoS, Subscribe};

use super::filters::Filter;
use super::publishes::PublishRefused;
use super::store::Retained;
use super::stored::Sharing;
use super::tenants::{Offer, Tenant};
use crate::metering::DropReason;

impl Tenant {
    /// Whether a device may publish a message; one that it may not is counted.
    pub(super) fn check_publish(
        &self,
        client_id: &ClientId,
        publish: &Publish,
    ) -> Result<(), PublishRefused> {
        self.publishes
            .check(client_id, publish)
            .inspect_err(|refused| self.dropped(refused.drop_reason(), 1))
    }

    /// A device's message goes to its tenant's devices; returns how many sessions took it. A full
    /// session does not hold it up: the session may be the publisher's own. What is stored of it is
    /// on disk when this returns, unless nobody waits for an acknowledgement.
    pub(super) async fn take_from_device(&self, from: &From, publish: &Publish) -> usize {
        self.metrics.published(&self.instance);
        self.room().await;
        // A P2P message is seen by its target only, and by no subscription ever after.
        let is_retained = publish.retain && publish.target_clientid.is_none();
        let is_kept = is_retained && self.keep_retained(from, publish);
        let forwarded = self.forward(from, publish).await;
        forwarded.held.iter().for_each(|held| self.overflowed(held));
        if publish.qos != QoS::AtMostOnce && (forwarded.kept || is_kept) {
            self.settled().await;
        }
        forwarded.reached
    }

    /// True if the store has something to write.
    fn keep_retained(&self, from: &From, publish: &Publish) -> bool {
        let publisher = from.id.client_id.to_string().into();
        let write = |topic: &str, kept| self.store.retain(self.instance.as_str(), topic, kept);
        let kept = self.retained.keep(publisher, publish, write);
        if let Err(full) = kept {
            self.dropped(DropReason::RetainedFull, 1);
            if full.is_first {
                let instance = &self.instance;
                tracing::warn!(%instance, "no room for another retained message");
            }
        }
        kept.is_ok()
    }

    /// Takes up what a former process kept; false if there is no room for it any more.
    pub(super) fn restore_retained(&self, stored: &Retained) -> bool {
        let restored = self.retained.restore(stored);
        self.dropped(DropReason::RetainedFull, u64::from(restored.is_err()));
        restored.is_ok()
    }

    /// A device has subscribed: what is retained for its filter follows the SUBACK. A shared
    /// subscription gets nothing retained (MQTT 5.0, 4.8.2).
    pub(super) fn hand_retained(
        &self,
        client_id: &ClientId,
        subscribe: &Subscribe,
        was_subscribed: bool,
    ) {
        let filter = Filter::of(&subscribe.topic_filter);
        if filter.group.is_some() {
            return;
        }
        let subscription = (filter.topics, &subscribe.opts);
        self.retained.hand_to(subscription, was_subscribed, client_id, |publish| {
            let mut sharing = Sharing::default();
            match self.offer(self.weir(), client_id.clone(), publish, &mut sharing) {
                Offer::Taken => {}
                Offer::NoSession => self.dropped(DropReason::NoSession, 1),
                Offer::Full(held) => self.overflowed(&held),
            }
        });
    }
}
