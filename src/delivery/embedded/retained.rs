use std::collections::BTreeMap;
use std::ops::Bound;

use parking_lot::Mutex;
use rmqtt::codec::types::Publish as Packet;
use rmqtt::codec::v5::RetainHandling;
use rmqtt::types::{ClientId, Publish, SubscriptionOptions};
use rmqtt::utils::timestamp_millis;

use super::config::RETAINED_BYTES_MAX;
use super::filters::covers;
use super::publishes::weight_bytes;
use super::store::{Body, Retained as Stored};
use super::subscriptions::Recipient;

/// The last message to a topic that was published with the retain flag.
#[derive(Clone, Debug)]
struct Retained {
    publish: Publish,
    /// Who published it: its own subscriptions may ask not to hear it.
    publisher: ClientId,
}

impl Retained {
    fn to_stored(&self) -> Stored {
        let (body, publisher) = (Body::of(&self.publish), self.publisher.to_string());
        Stored { body, qos: self.publish.qos, publisher }
    }

    fn is_expired(&self) -> bool {
        let properties = self.publish.properties.as_ref();
        let expiry = properties.and_then(|properties| properties.message_expiry_interval);
        let (Some(expiry), Some(published_at)) = (expiry, self.publish.create_time) else {
            return false;
        };
        let expires_at = published_at.saturating_add(i64::from(expiry.get()) * 1_000);
        timestamp_millis() >= expires_at
    }

    /// The message for a subscription, if it is to have it.
    fn copy_for(&self, client_id: &ClientId, options: &SubscriptionOptions) -> Option<Publish> {
        let is_own = options.no_local().unwrap_or(false) && self.publisher == *client_id;
        if is_own || self.is_expired() {
            return None;
        }
        let mut copy = Recipient::new(client_id, options).copy_of(&self.publish);
        copy.retain = true;
        Some(copy)
    }
}

/// There is no room for one more retained message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RetainedFull {
    /// Whether this is the first one since there was room.
    pub(super) is_first: bool,
}

/// One tenant's retained messages. rmqtt keeps its own for all at once and is not told whose
/// subscription it asks for.
pub(super) struct RetainedMessages {
    kept: Mutex<Kept>,
    messages_max: usize,
}

#[derive(Default)]
struct Kept {
    by_topic: BTreeMap<String, Retained>,
    bytes: usize,
    is_full: bool,
}

impl RetainedMessages {
    pub(super) fn new(messages_max: usize) -> Self {
        Self { kept: Mutex::default(), messages_max }
    }

    /// Takes up what a former process kept, as long as there is room.
    pub(super) fn restore(&self, stored: &Stored) -> Result<(), RetainedFull> {
        let packet = Packet {
            dup: false,
            retain: true,
            qos: stored.qos,
            topic: stored.body.topic.clone(),
            packet_id: None,
            payload: stored.body.payload.clone(),
            properties: Some(stored.body.properties.clone()),
        };
        let publish = Publish::new(Box::new(packet), None, None, Some(stored.body.created));
        self.keep(stored.publisher.as_str().into(), &publish, |_, _| {})
    }

    /// Keeps a message for its topic; an empty payload clears the topic (MQTT 5.0, 3.3.1.3). What
    /// changes is written while nothing else can change.
    pub(super) fn keep(
        &self,
        publisher: ClientId,
        publish: &Publish,
        mut write: impl FnMut(&str, Option<Stored>),
    ) -> Result<(), RetainedFull> {
        let mut kept = self.kept.lock();
        if publish.payload.is_empty() {
            if kept.remove(&publish.topic) {
                write(&publish.topic, None);
            }
            return Ok(());
        }
        let mut publish = publish.clone();
        publish.retain = true;
        publish.dup = false;
        publish.packet_id = None;
        let retained = Retained { publish, publisher };
        if !kept.has_room(&retained, self.messages_max) {
            kept.purge().iter().for_each(|topic| write(topic, None));
        }
        if !kept.has_room(&retained, self.messages_max) {
            let is_first = !std::mem::replace(&mut kept.is_full, true);
            return Err(RetainedFull { is_first });
        }
        write(&retained.publish.topic, Some(retained.to_stored()));
        kept.insert(retained);
        Ok(())
    }

    /// Hands a new subscription what is kept for its filter. `was_subscribed` says that the client
    /// had a subscription to that filter before (MQTT 5.0, 3.8.3.1: retain handling).
    ///
    /// Nothing is kept or cleared meanwhile: a message that is published later is handed on later.
    pub(super) fn hand_to(
        &self,
        (filter, options): (&str, &SubscriptionOptions),
        was_subscribed: bool,
        client_id: &ClientId,
        hand: impl FnMut(Publish),
    ) {
        match options.retain_handling() {
            Some(RetainHandling::NoAtSubscribe) => return,
            Some(RetainHandling::AtSubscribeNew) if was_subscribed => return,
            _ => {}
        }
        let kept = self.kept.lock();
        kept.matching(filter).filter_map(|found| found.copy_for(client_id, options)).for_each(hand);
    }
}

impl Kept {
    fn insert(&mut self, retained: Retained) {
        self.remove(&retained.publish.topic.clone());
        self.bytes += weight_bytes(&retained.publish);
        self.by_topic.insert(retained.publish.topic.to_string(), retained);
    }

    fn remove(&mut self, topic: &str) -> bool {
        let former = self.by_topic.remove(topic);
        if let Some(former) = &former {
            self.bytes -= weight_bytes(&former.publish);
            self.is_full = false;
        }
        former.is_some()
    }

    fn has_room(&self, new: &Retained, messages_max: usize) -> bool {
        let former = self.by_topic.get(&*new.publish.topic);
        let freed = former.map_or(0, |former| weight_bytes(&former.publish));
        let messages = self.by_topic.len() + usize::from(former.is_none());
        messages <= messages_max
            && self.bytes - freed + weight_bytes(&new.publish) <= RETAINED_BYTES_MAX
    }

    /// Forgets what has expired; returns its topics.
    fn purge(&mut self) -> Vec<String> {
        let expired: Vec<String> = self
            .by_topic
            .iter()
            .filter(|(_, retained)| retained.is_expired())
            .map(|(topic, _)| topic.clone())
            .collect();
        for topic in &expired {
            self.remove(topic);
        }
        expired
    }

    /// In the order of topics; what stands before a wildcard narrows the search.
    fn matching<'k>(&'k self, filter: &'k str) -> impl Iterator<Item = &'k Retained> {
        let fixed = filter.find(['+', '#']).map_or(filter, |wildcard| &filter[..wildcard]);
        // `a/#` covers `a` as well.
        let fixed = fixed.strip_suffix('/').unwrap_or(fixed);
        self.by_topic
            .range::<str, _>((Bound::Included(fixed), Bound::Unbounded))
            .take_while(move |(topic, _)| topic.starts_with(fixed))
            .filter(move |(topic, _)| covers(filter, topic))
            .map(|(_, retained)| retained)
    }
}
