//! The words every stage shares: parsed once, valid ever after.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

use crate::clock::UnixMillis;

/// Longest instance id, in bytes.
pub const INSTANCE_ID_BYTES_MAX: usize = 64;
/// Shortest topic, in characters (ApsaraMQ for MQTT, "Limits").
pub const TOPIC_CHARS_MIN: usize = 3;
/// Longest topic, in characters, parent and subtopics together (ApsaraMQ for MQTT, "Limits").
pub const TOPIC_CHARS_MAX: usize = 64;
/// Longest device client id, in characters (ApsaraMQ for MQTT, "Limits").
pub const CLIENT_ID_CHARS_MAX: usize = 64;
/// Largest payload, in bytes, after decoding (ApsaraMQ for MQTT, "Limits").
pub const PAYLOAD_BYTES_MAX: usize = 64 * 1024;

/// The id of an ApsaraMQ for MQTT instance: 1 to 64 of `[A-Za-z0-9-]`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InstanceId(Arc<str>);

/// The id is empty, longer than 64 bytes, or holds something other than `[A-Za-z0-9-]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an instance id is 1 to {INSTANCE_ID_BYTES_MAX} letters, digits and hyphens")]
pub struct InstanceIdError;

impl InstanceId {
    /// Parses an instance id.
    ///
    /// # Errors
    /// [`InstanceIdError`] if the text is not one.
    pub fn parse(text: &str) -> Result<Self, InstanceIdError> {
        let fits = (1..=INSTANCE_ID_BYTES_MAX).contains(&text.len());
        if fits && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-') {
            Ok(Self(text.into()))
        } else {
            Err(InstanceIdError)
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for InstanceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A topic a message may be sent to: 3 to 64 characters, no wildcard, no control character.
///
/// `{parent}/p2p/{client id}` addresses one device; there the parent has 3 to 64 characters and the
/// client id has its own 64 ([`CLIENT_ID_CHARS_MAX`]).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Topic(Arc<str>);

/// Why a text is not a [`Topic`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TopicError {
    /// Fewer than 3 or more than 64 characters.
    #[error("a topic has {TOPIC_CHARS_MIN} to {TOPIC_CHARS_MAX} characters, this one has {chars}")]
    Length {
        /// Characters found.
        chars: usize,
    },
    /// `+` or `#`, which MQTT forbids in a publish.
    #[error("a topic to send to holds no wildcard ('+' or '#')")]
    Wildcard,
    /// A control character, U+0000 among them (MQTT 5.0, 1.5.4).
    #[error("a topic holds no control character")]
    Control,
    /// The client id of a P2P topic is empty or longer than 64 characters.
    #[error("the client id of a P2P topic has 1 to {CLIENT_ID_CHARS_MAX} characters")]
    ClientId,
}

const P2P: &str = "/p2p/";

impl Topic {
    /// Parses a topic to send to.
    ///
    /// # Errors
    /// [`TopicError`] says which rule it breaks.
    pub fn parse(text: &str) -> Result<Self, TopicError> {
        if text.contains(['+', '#']) {
            return Err(TopicError::Wildcard);
        }
        if text.chars().any(char::is_control) {
            return Err(TopicError::Control);
        }
        let addressed = match split_p2p(text) {
            Some((parent, client_id)) => {
                if !(1..=CLIENT_ID_CHARS_MAX).contains(&client_id.chars().count()) {
                    return Err(TopicError::ClientId);
                }
                parent
            }
            None => text,
        };
        let chars = addressed.chars().count();
        if !(TOPIC_CHARS_MIN..=TOPIC_CHARS_MAX).contains(&chars) {
            return Err(TopicError::Length { chars });
        }
        Ok(Self(text.into()))
    }

    /// The whole topic.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first level: the topic that was created on the instance.
    #[must_use]
    pub fn parent(&self) -> &str {
        self.0.split('/').next().unwrap_or_default()
    }

    /// The client id a P2P topic addresses.
    #[must_use]
    pub fn p2p_target(&self) -> Option<&str> {
        split_p2p(&self.0).map(|(_, client_id)| client_id)
    }
}

/// Level 2 is the literal `p2p`; everything behind it is the receiver's client id.
fn split_p2p(text: &str) -> Option<(&str, &str)> {
    let (parent, client_id) = text.split_once(P2P)?;
    (!parent.contains('/')).then_some((parent, client_id))
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The id of one message, unique for good: 128 bits, written as 32 upper-case hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(u128);

impl MessageId {
    /// The id with these bits.
    #[must_use]
    pub const fn from_u128(bits: u128) -> Self {
        Self(bits)
    }

    /// The bits, as a record keeps them.
    #[must_use]
    pub const fn to_u128(self) -> u128 {
        self.0
    }

    /// Parses 32 hex digits, upper or lower case.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        hex.then(|| u128::from_str_radix(text, 16).ok().map(Self)).flatten()
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = uuid::Uuid::encode_buffer();
        f.write_str(uuid::Uuid::from_u128(self.0).simple().encode_upper(&mut text))
    }
}

impl fmt::Debug for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// What a device receives: at most 64 KiB of any bytes. Its content never shows in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Payload(Bytes);

/// The payload is larger than [`PAYLOAD_BYTES_MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a payload has at most {PAYLOAD_BYTES_MAX} bytes, this one has {bytes}")]
pub struct PayloadTooLarge {
    /// Bytes found.
    pub bytes: usize,
}

impl Payload {
    /// Takes bytes as a payload.
    ///
    /// # Errors
    /// [`PayloadTooLarge`] above 64 KiB.
    pub fn new(bytes: Bytes) -> Result<Self, PayloadTooLarge> {
        if bytes.len() > PAYLOAD_BYTES_MAX {
            Err(PayloadTooLarge { bytes: bytes.len() })
        } else {
            Ok(Self(bytes))
        }
    }

    /// The bytes; cloning them copies nothing.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.0
    }
}

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

/// One message on its way from a caller to devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Its id, the MsgId of the answer.
    pub id: MessageId,
    /// The instance it was sent to.
    pub instance: InstanceId,
    /// The topic it was sent to, without any tenant prefix.
    pub topic: Topic,
    /// What devices receive.
    pub payload: Payload,
    /// When it was admitted; its bill falls into this minute.
    pub admitted_at: UnixMillis,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_instance_id_is_letters_digits_and_hyphens() {
        assert_eq!(
            InstanceId::parse("post-cn-0pp12gl0001").unwrap().as_str(),
            "post-cn-0pp12gl0001"
        );
        for bad in ["", "a/b", "a b", "é", &"x".repeat(65)] {
            assert_eq!(InstanceId::parse(bad), Err(InstanceIdError), "{bad}");
        }
    }

    #[test]
    fn a_topic_has_three_to_sixty_four_characters() {
        for good in ["abc", "TopicA/x/y", &"t".repeat(64), &"日".repeat(64)] {
            assert!(Topic::parse(good).is_ok(), "{good}");
        }
        assert_eq!(Topic::parse("ab"), Err(TopicError::Length { chars: 2 }));
        assert_eq!(Topic::parse(&"t".repeat(65)), Err(TopicError::Length { chars: 65 }));
    }

    #[test]
    fn a_topic_holds_no_wildcard_and_no_control_character() {
        assert_eq!(Topic::parse("TopicA/+"), Err(TopicError::Wildcard));
        assert_eq!(Topic::parse("TopicA/#"), Err(TopicError::Wildcard));
        assert_eq!(Topic::parse("Topic\0A"), Err(TopicError::Control));
    }

    #[test]
    fn a_p2p_topic_gives_its_client_id_sixty_four_characters_of_its_own() {
        let client_id = "c".repeat(64);
        let parent = "p".repeat(64);
        let topic = Topic::parse(&format!("{parent}/p2p/{client_id}")).unwrap();
        assert_eq!(topic.parent(), parent);
        assert_eq!(topic.p2p_target(), Some(client_id.as_str()));
        assert_eq!(Topic::parse(&format!("TopicA/p2p/{client_id}x")), Err(TopicError::ClientId));
        assert_eq!(Topic::parse("TopicA/p2p/"), Err(TopicError::ClientId));
        assert_eq!(Topic::parse("TopicA/x/p2p/dev").unwrap().p2p_target(), None);
    }

    #[test]
    fn a_message_id_is_thirty_two_upper_hex_digits_and_parses_back() {
        let id = MessageId::from_u128(0x0B73_6D99_7B7F_45FF_54E6_1C1C_1B58_00AF);
        assert_eq!(id.to_string(), "0B736D997B7F45FF54E61C1C1B5800AF");
        assert_eq!(MessageId::parse(&id.to_string()), Some(id));
        assert_eq!(MessageId::parse("+B736D997B7F45FF54E61C1C1B5800AF"), None);
        assert_eq!(MessageId::parse("0B73"), None);
    }

    #[test]
    fn a_payload_ends_at_sixty_four_kibibytes_and_never_prints() {
        assert!(Payload::new(Bytes::from(vec![0; PAYLOAD_BYTES_MAX])).is_ok());
        let over = Payload::new(Bytes::from(vec![0; PAYLOAD_BYTES_MAX + 1]));
        assert_eq!(over.unwrap_err(), PayloadTooLarge { bytes: PAYLOAD_BYTES_MAX + 1 });
        let secret = Payload::new(Bytes::from_static(b"secret")).unwrap();
        assert_eq!(format!("{secret:?}"), "Payload(6 bytes)");
    }
}
