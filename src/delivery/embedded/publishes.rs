//! What a device may publish, its will included (ApsaraMQ for MQTT, "Limits").

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use governor::middleware::NoOpMiddleware;
use governor::state::keyed::HashMapStateStore;
use governor::{Quota, RateLimiter};
use rmqtt::codec::v5::{PublishAckReason, PublishProperties};
use rmqtt::types::{ClientId, Publish};

use super::config::MESSAGE_OVERHEAD_BYTES;
use crate::clock::Clock;
use crate::message::{PAYLOAD_BYTES_MAX, Topic};
use crate::metering::DropReason;

/// Largest MQTT 5 properties of one message, in bytes (ApsaraMQ for MQTT: 8 KB of user properties).
pub(super) const PROPERTY_BYTES_MAX: usize = 8 * 1024;
/// What a user property costs beside its two texts, in bytes.
const PROPERTY_OVERHEAD_BYTES: usize = 64;

/// Why a device's message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PublishRefused {
    /// More messages a second than one client may send.
    RateLimited,
    /// The parent topic is not the instance's; every topic that begins with `$` among them.
    NotAuthorized,
    /// No topic to send to: too short, too long, or with a control character.
    TopicInvalid,
    /// A payload above 64 KiB, or properties above 8 KiB.
    TooLarge,
}

impl PublishRefused {
    /// What an MQTT 5 device reads in its PUBACK or PUBREC (MQTT 5.0, 3.4.2.1).
    pub(super) const fn reason_code(self) -> PublishAckReason {
        match self {
            Self::RateLimited | Self::TooLarge => PublishAckReason::QuotaExceeded,
            Self::NotAuthorized => PublishAckReason::NotAuthorized,
            Self::TopicInvalid => PublishAckReason::TopicNameInvalid,
        }
    }

    /// How it is counted.
    pub(super) const fn drop_reason(self) -> DropReason {
        match self {
            Self::RateLimited => DropReason::RateLimited,
            Self::NotAuthorized | Self::TopicInvalid | Self::TooLarge => DropReason::Refused,
        }
    }
}

/// What the devices of one instance may publish.
pub(super) struct Publishes {
    parents: HashSet<String>,
    limiter: Limiter,
}

/// Keyed by client id; a client whose bucket is full again is forgotten at the next sweep.
type Limiter = RateLimiter<String, HashMapStateStore<String>, Elapsed, NoOpMiddleware<Duration>>;

impl Publishes {
    /// `per_second` is both the rate and the burst of each client.
    pub(super) fn new(parents: &[String], per_second: NonZeroU32, clock: Arc<dyn Clock>) -> Self {
        let clock = Elapsed { epoch: clock.now(), clock };
        let state = HashMapStateStore::default();
        let limiter = RateLimiter::new(Quota::per_second(per_second), state, clock);
        Self { parents: parents.iter().cloned().collect(), limiter }
    }

    /// Takes a token for the message, whatever else is wrong with it.
    pub(super) fn check(
        &self,
        client_id: &ClientId,
        publish: &Publish,
    ) -> Result<(), PublishRefused> {
        self.limiter.check_key(&client_id.to_string()).map_err(|_| PublishRefused::RateLimited)?;
        let parent = publish.topic.split('/').next().unwrap_or_default();
        if !self.parents.contains(parent) {
            return Err(PublishRefused::NotAuthorized);
        }
        Topic::parse(&publish.topic).map_err(|_| PublishRefused::TopicInvalid)?;
        let fits = publish.payload.len() <= PAYLOAD_BYTES_MAX
            && publish.properties.as_ref().map_or(0, property_bytes) <= PROPERTY_BYTES_MAX;
        fits.then_some(()).ok_or(PublishRefused::TooLarge)
    }

    /// Forgets the clients that have been silent long enough to start anew.
    pub(super) fn sweep(&self) {
        self.limiter.retain_recent();
        self.limiter.shrink_to_fit();
    }

    #[cfg(test)]
    pub(super) fn clients(&self) -> usize {
        self.limiter.len()
    }
}

/// What a message costs while it waits or is kept, in bytes.
pub(super) fn weight_bytes(publish: &Publish) -> usize {
    let properties = publish.properties.as_ref().map_or(0, property_bytes);
    publish.payload.len() + publish.topic.len() + properties + MESSAGE_OVERHEAD_BYTES
}

/// What the properties of a message cost, in bytes.
pub(super) fn property_bytes(properties: &PublishProperties) -> usize {
    let user = properties.user_properties.iter();
    let user: usize =
        user.map(|(name, value)| name.len() + value.len() + PROPERTY_OVERHEAD_BYTES).sum();
    let correlation = properties.correlation_data.as_ref().map_or(0, |data| data.len());
    let content_type = properties.content_type.as_ref().map_or(0, |text| text.len());
    let response_topic = properties.response_topic.as_ref().map_or(0, |text| text.len());
    user + correlation + content_type + response_topic
}

/// Our clock as governor asks for it: time since the limiter was made.
#[derive(Clone)]
struct Elapsed {
    clock: Arc<dyn Clock>,
    epoch: Instant,
}

impl governor::clock::Clock for Elapsed {
    type Instant = Duration;

    fn now(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.epoch)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use rmqtt::codec::types::Publish as Packet;
    use rmqtt::types::QoS;

    use super::*;
    use crate::clock::{ManualClock, UnixMillis};
    use crate::message::TOPIC_CHARS_MAX;

    const PER_SECOND: u32 = 50;

    fn publishes() -> (Publishes, ManualClock) {
        let clock = ManualClock::at(UnixMillis(0));
        let per_second = NonZeroU32::new(PER_SECOND).unwrap();
        let parents = ["TopicA".to_owned(), "t".repeat(TOPIC_CHARS_MAX)];
        (Publishes::new(&parents, per_second, Arc::new(clock.clone())), clock)
    }

    fn publish(topic: &str, payload_bytes: usize, user_property: &str) -> Publish {
        let user_properties = vec![(user_property.to_owned().into(), "".into())];
        let properties = PublishProperties { user_properties, ..PublishProperties::default() };
        let packet = Packet {
            dup: false,
            retain: false,
            qos: QoS::AtLeastOnce,
            topic: topic.to_owned().into(),
            packet_id: None,
            payload: Bytes::from(vec![0; payload_bytes]),
            properties: Some(properties),
        };
        Publish::new(Box::new(packet), None, None, None)
    }

    fn check(topic: &str, payload_bytes: usize, user_property: &str) -> Result<(), PublishRefused> {
        let message = publish(topic, payload_bytes, user_property);
        publishes().0.check(&"me".into(), &message)
    }

    fn taken(publishes: &Publishes, client_id: &'static str) -> u32 {
        let message = publish("TopicA", 0, "");
        let check = || publishes.check(&client_id.into(), &message);
        (0..).take_while(|_| check().is_ok()).count().try_into().unwrap()
    }

    #[test]
    fn a_client_sends_its_rate_and_no_other_pays_for_it() {
        let (publishes, clock) = publishes();
        assert_eq!(taken(&publishes, "one"), PER_SECOND);
        clock.advance(Duration::from_millis(100));
        assert_eq!(taken(&publishes, "one"), PER_SECOND / 10);
        assert_eq!(taken(&publishes, "two"), PER_SECOND);
        clock.advance(Duration::from_secs(60));
        assert_eq!(taken(&publishes, "one"), PER_SECOND, "idle time never saves up more");
    }

    #[test]
    fn a_client_that_is_silent_is_forgotten_and_gains_nothing_by_it() {
        let (publishes, clock) = publishes();
        assert_eq!(taken(&publishes, "one"), PER_SECOND);
        clock.advance(Duration::from_millis(500));
        publishes.sweep();
        assert_eq!((publishes.clients(), taken(&publishes, "one")), (1, PER_SECOND / 2));
        clock.advance(Duration::from_millis(1_500));
        publishes.sweep();
        assert_eq!(publishes.clients(), 0);
    }

    #[test]
    fn a_topic_of_another_parent_and_a_system_topic_are_not_authorized() {
        for topic in ["TopicB", "topica", "$SYS/x", "$share/g/TopicA", "/TopicA", "", "TopicAB"] {
            assert_eq!(check(topic, 1, ""), Err(PublishRefused::NotAuthorized), "{topic}");
        }
        for topic in ["TopicA", "TopicA/$x/y", "TopicA/p2p/me"] {
            assert_eq!(check(topic, 1, ""), Ok(()), "{topic}");
        }
    }

    #[test]
    fn a_topic_ends_at_sixty_four_characters_and_a_p2p_client_id_too() {
        let longest = "t".repeat(TOPIC_CHARS_MAX);
        assert_eq!(check(&longest, 1, ""), Ok(()));
        assert_eq!(check(&format!("TopicA/p2p/{longest}"), 1, ""), Ok(()));
        for topic in [
            &format!("TopicA/{longest}"),
            &format!("TopicA/p2p/{longest}t"),
            "TopicA/p2p/",
            "TopicA/\u{7}",
            "TopicA/+",
        ] {
            assert_eq!(check(topic, 1, ""), Err(PublishRefused::TopicInvalid), "{topic}");
        }
    }

    #[test]
    fn a_payload_ends_at_sixty_four_kibibytes_and_properties_at_eight() {
        assert_eq!(check("TopicA", PAYLOAD_BYTES_MAX, ""), Ok(()));
        assert_eq!(check("TopicA", PAYLOAD_BYTES_MAX + 1, ""), Err(PublishRefused::TooLarge));
        let largest = "p".repeat(PROPERTY_BYTES_MAX - PROPERTY_OVERHEAD_BYTES);
        assert_eq!(check("TopicA", 1, &largest), Ok(()));
        let refused = check("TopicA", 1, &format!("{largest}p"));
        assert_eq!(refused, Err(PublishRefused::TooLarge));
    }

    #[test]
    fn a_refused_message_takes_its_token_too() {
        let (publishes, _) = publishes();
        let unknown = publish("TopicB", 1, "");
        for _ in 0..PER_SECOND {
            let refused = publishes.check(&"one".into(), &unknown);
            assert_eq!(refused, Err(PublishRefused::NotAuthorized));
        }
        assert_eq!(taken(&publishes, "one"), 0);
    }
}
