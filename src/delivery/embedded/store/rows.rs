//! What is kept of a session, in the words of MQTT.

use std::num::NonZeroU32;
use std::time::Duration;

use bytes::Bytes;
use rmqtt::codec::v5::{PublishProperties, RetainHandling};
use rmqtt::types::{
    Publish, QoS, SubOptionsV3, SubOptionsV5, SubscriptionOptions, TimestampMillis, TopicName,
};

use super::super::publishes::property_bytes;
use crate::clock::UnixMillis;

/// A stored session; a number is never given to two of them. Numbers begin at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(in super::super) struct SessionKey(pub(in super::super) u64);

/// What identifies a session and says how long it lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct SessionRow {
    pub(in super::super) instance: String,
    pub(in super::super) client: String,
    /// Whether its device speaks MQTT 5; else 3.1.1.
    pub(in super::super) is_v5: bool,
    /// How long it outlives its connection, to the second.
    pub(in super::super) expiry: Duration,
    pub(in super::super) created: UnixMillis,
    /// Since when its device is away; `None` while it is connected.
    pub(in super::super) away: Option<UnixMillis>,
    /// Copies before this place may have been sent without a note of it: weir was killed while the
    /// device was connected.
    pub(in super::super) sent_before: u64,
}

/// The options of one of its filters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Subscription(pub(in super::super) SubscriptionOptions);

/// The columns of a [`Subscription`].
pub(super) struct Columns {
    pub(super) share: Option<String>,
    pub(super) qos: u8,
    /// MQTT 5's options and the identifier; 0 is none.
    pub(super) v5: Option<(bool, bool, u8, u32)>,
}

impl Subscription {
    pub(super) fn columns(&self) -> Columns {
        let share = self.0.shared_group().map(ToString::to_string);
        let v5 = match &self.0 {
            SubscriptionOptions::V3(_) => None,
            SubscriptionOptions::V5(options) => Some((
                options.no_local,
                options.retain_as_published,
                options.retain_handling_value(),
                options.id.map_or(0, NonZeroU32::get),
            )),
        };
        Columns { share, qos: self.0.qos_value(), v5 }
    }

    pub(super) fn from_columns(columns: Columns) -> Option<Self> {
        let qos = qos(columns.qos)?;
        let shared_group = columns.share.map(Into::into);
        Some(Self(match columns.v5 {
            None => SubscriptionOptions::V3(SubOptionsV3 { qos, shared_group }),
            Some((no_local, retain_as_published, retain_handling, id)) => {
                let retain_handling = match retain_handling {
                    0 => RetainHandling::AtSubscribe,
                    1 => RetainHandling::AtSubscribeNew,
                    2 => RetainHandling::NoAtSubscribe,
                    _ => return None,
                };
                let id = NonZeroU32::new(id);
                SubscriptionOptions::V5(SubOptionsV5 {
                    qos,
                    shared_group,
                    no_local,
                    retain_as_published,
                    retain_handling,
                    id,
                })
            }
        }))
    }
}

pub(super) fn qos(value: u8) -> Option<QoS> {
    match value {
        0 => Some(QoS::AtMostOnce),
        1 => Some(QoS::AtLeastOnce),
        2 => Some(QoS::ExactlyOnce),
        _ => None,
    }
}

/// What all copies of a message share.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Body {
    pub(in super::super) topic: TopicName,
    pub(in super::super) payload: Bytes,
    pub(in super::super) properties: PublishProperties,
    /// When it was published; a message expiry counts from here.
    pub(in super::super) created: TimestampMillis,
}

impl Body {
    pub(in super::super) fn of(publish: &Publish) -> Self {
        let mut properties = publish.properties.clone().unwrap_or_default();
        // These belong to a connection and to a session.
        properties.topic_alias = None;
        properties.subscription_ids = Vec::new();
        Self {
            topic: publish.topic.clone(),
            payload: publish.payload.clone(),
            properties,
            created: publish.create_time.unwrap_or_default(),
        }
    }

    /// What it takes in memory, nearly.
    pub(super) fn bytes(&self) -> usize {
        self.topic.len() + self.payload.len() + property_bytes(&self.properties)
    }
}

/// One session's copy of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Copy {
    pub(in super::super) qos: QoS,
    pub(in super::super) retain: bool,
    /// The packet id it was last sent with; 0 if it never was, or if that was not written down.
    pub(in super::super) packet: u16,
    pub(in super::super) subscription_ids: Vec<NonZeroU32>,
}

impl Copy {
    pub(in super::super) fn of(publish: &Publish) -> Self {
        let properties = publish.properties.as_ref();
        Self {
            qos: publish.qos,
            retain: publish.retain,
            packet: publish.packet_id.map_or(0, std::num::NonZeroU16::get),
            subscription_ids: properties.map_or_else(Vec::new, |it| it.subscription_ids.clone()),
        }
    }
}

/// A retained message of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in super::super) struct Retained {
    pub(in super::super) body: Body,
    pub(in super::super) qos: QoS,
    /// The client that published it: its own subscriptions may ask not to hear it.
    pub(in super::super) publisher: String,
}
