use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use jiff::Timestamp;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::dead_letters::Reason;
use crate::clock::UnixMillis;
use crate::message::{InstanceId, Message, MessageId, Payload, Topic};

/// A dead letter, as a line of its file has it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Letter {
    /// 32 hexadecimal digits.
    pub msg_id: String,
    /// Its instance.
    pub instance_id: String,
    /// Its topic.
    pub topic: String,
    /// When its call was taken, in milliseconds since 1970.
    pub admitted_at_ms: u64,
    /// When it became a dead letter, in milliseconds since 1970.
    pub given_up_at_ms: u64,
    /// Why.
    pub reason: String,
    /// Its payload in Base64.
    pub payload_base64: String,
}

impl Letter {
    pub(super) fn of(message: &Message, reason: Reason, now: UnixMillis) -> Self {
        Self {
            msg_id: message.id.to_string(),
            instance_id: message.instance.to_string(),
            topic: message.topic.as_str().to_owned(),
            admitted_at_ms: message.admitted_at.0,
            given_up_at_ms: now.0,
            reason: reason.to_string(),
            payload_base64: STANDARD.encode(message.payload.bytes()),
        }
    }

    /// When it became a dead letter.
    #[must_use]
    pub const fn given_up_at(&self) -> UnixMillis {
        UnixMillis(self.given_up_at_ms)
    }

    /// Bytes of its payload.
    #[must_use]
    pub fn payload_bytes(&self) -> usize {
        let text = self.payload_base64.trim_end_matches('=');
        text.len() * 3 / 4
    }

    /// The message it was; none if the line was written by something else.
    pub(super) fn message(&self) -> Option<Message> {
        let payload = STANDARD.decode(&self.payload_base64).ok()?;
        Some(Message {
            id: MessageId::parse(&self.msg_id)?,
            instance: InstanceId::parse(&self.instance_id).ok()?,
            topic: Topic::parse(&self.topic).ok()?,
            payload: Payload::new(Bytes::from(payload)).ok()?,
            admitted_at: UnixMillis(self.admitted_at_ms),
        })
    }
}

/// The day of UTC a moment is in; files are named after it.
pub(super) fn day_of(at: UnixMillis) -> Date {
    let seconds = i64::try_from(at.seconds()).unwrap_or(i64::MAX);
    Timestamp::from_second(seconds).unwrap_or(Timestamp::MAX).to_zoned(TimeZone::UTC).date()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_letter_is_the_message_it_was(
            id: u128,
            payload in proptest::collection::vec(any::<u8>(), 0..600),
            topic in "Topic[A-Z]/[ -~&&[^+#]]{0,40}",
            at in 0_u64..2_000_000_000_000,
        ) {
            let message = Message {
                id: MessageId::from_u128(id),
                instance: InstanceId::parse("post-cn-a").unwrap(),
                topic: Topic::parse(&topic).unwrap(),
                payload: Payload::new(Bytes::from(payload)).unwrap(),
                admitted_at: UnixMillis(at),
            };
            let letter = Letter::of(&message, Reason::Expired, UnixMillis(at + 1));
            let line = serde_json::to_vec(&letter).unwrap();
            let read: Letter = serde_json::from_slice(&line).unwrap();
            prop_assert_eq!(read.payload_bytes(), message.payload.bytes().len());
            let read = read.message().unwrap();
            prop_assert_eq!(read.id, message.id);
            prop_assert_eq!(read.topic, message.topic);
            prop_assert_eq!(read.payload.bytes(), message.payload.bytes());
            prop_assert_eq!(read.admitted_at, message.admitted_at);
        }

        #[test]
        fn a_line_of_anything_is_no_message_and_no_panic(line in "\\PC*") {
            let letter = serde_json::from_str::<Letter>(&line).ok();
            prop_assert!(letter.and_then(|letter| letter.message()).is_none());
        }
    }
}
