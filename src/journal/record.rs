//! One message as the journal keeps it. Numbers are little-endian; the id is big-endian, so that a
//! dump shows it as clients see it.
//!
//! ```text
//! offset size
//!      0    4  bytes that follow
//!      4    1  format, 1
//!      5   16  message id
//!     21    8  admitted at, milliseconds since 1970
//!     29    8  nonce: fingerprint of the access key
//!     37    8  nonce: fingerprint
//!     45    8  nonce: expires at, milliseconds since 1970
//!     53    1  bytes of the instance id (i)
//!     54    2  bytes of the topic (t)
//!     56    i  instance id
//!   56+i    t  topic
//! 56+i+t       payload, up to the record's end
//! ```

use bytes::Bytes;

use crate::admission::NonceMark;
use crate::clock::UnixMillis;
use crate::message::{
    CLIENT_ID_CHARS_MAX, INSTANCE_ID_BYTES_MAX, InstanceId, Message, MessageId, PAYLOAD_BYTES_MAX,
    Payload, TOPIC_CHARS_MAX, Topic,
};

const FORMAT: u8 = 1;
const LENGTH_BYTES: usize = 4;
/// Bytes a record has at least.
pub(super) const FIXED_BYTES: usize = 56;
const UTF8_BYTES_MAX: usize = 4;
const TOPIC_BYTES_MAX: usize =
    (TOPIC_CHARS_MAX + CLIENT_ID_CHARS_MAX) * UTF8_BYTES_MAX + "/p2p/".len();

/// Largest record, in bytes, its length prefix included.
pub const RECORD_BYTES_MAX: usize =
    FIXED_BYTES + INSTANCE_ID_BYTES_MAX + TOPIC_BYTES_MAX + PAYLOAD_BYTES_MAX;

const _: () = assert!(INSTANCE_ID_BYTES_MAX <= u8::MAX as usize);
const _: () = assert!(TOPIC_BYTES_MAX <= u16::MAX as usize);
const _: () = assert!(RECORD_BYTES_MAX <= u32::MAX as usize);

/// Bytes a message takes in the journal: what a shard counts while it gathers a turn.
#[must_use]
pub fn record_bytes(message: &Message) -> usize {
    FIXED_BYTES
        + message.instance.as_str().len()
        + message.topic.as_str().len()
        + message.payload.bytes().len()
}

/// Why bytes with a right checksum are not a record: another weir wrote them, or a bug did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The bytes end before the record does.
    #[error("a record ends after its turn")]
    Short,
    /// A record format that this version does not know.
    #[error("record format {found} is unknown to this version")]
    Format {
        /// The format byte found.
        found: u8,
    },
    /// The lengths inside the record contradict each other.
    #[error("a record's lengths contradict each other")]
    Lengths,
    /// The instance id, topic or payload breaks its rule.
    #[error("a record holds an impossible instance id, topic or payload")]
    Content,
    /// The turn holds more or fewer records than it says.
    #[error("a turn holds another number of records than it says")]
    Count,
}

/// A record in place: nothing is copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordView<'a> {
    pub(super) id: MessageId,
    pub(super) admitted_at: UnixMillis,
    pub(super) nonce: NonceMark,
    instance: &'a str,
    topic: &'a str,
    payload: &'a [u8],
}

impl RecordView<'_> {
    /// The message; its payload shares `body`, which the view must have been decoded from.
    pub(super) fn message(&self, body: &Bytes) -> Result<Message, RecordError> {
        Ok(Message {
            id: self.id,
            instance: InstanceId::parse(self.instance).map_err(|_| RecordError::Content)?,
            topic: Topic::parse(self.topic).map_err(|_| RecordError::Content)?,
            payload: Payload::new(body.slice_ref(self.payload))
                .map_err(|_| RecordError::Content)?,
            admitted_at: self.admitted_at,
        })
    }
}

/// Appends one record to `out`.
#[expect(clippy::cast_possible_truncation, reason = "the bounds are asserted at the top")]
pub(super) fn encode(message: &Message, nonce: NonceMark, out: &mut Vec<u8>) {
    let instance = message.instance.as_str().as_bytes();
    let topic = message.topic.as_str().as_bytes();
    let payload = message.payload.bytes();
    let mut fixed = [0; FIXED_BYTES];
    let follows = record_bytes(message) - LENGTH_BYTES;
    fixed[0..4].copy_from_slice(&(follows as u32).to_le_bytes());
    fixed[4] = FORMAT;
    fixed[5..21].copy_from_slice(&message.id.to_u128().to_be_bytes());
    fixed[21..29].copy_from_slice(&message.admitted_at.0.to_le_bytes());
    fixed[29..37].copy_from_slice(&nonce.access_key.to_le_bytes());
    fixed[37..45].copy_from_slice(&nonce.fingerprint.to_le_bytes());
    fixed[45..53].copy_from_slice(&nonce.expires_at.0.to_le_bytes());
    fixed[53] = instance.len() as u8;
    fixed[54..56].copy_from_slice(&(topic.len() as u16).to_le_bytes());
    out.extend_from_slice(&fixed);
    out.extend_from_slice(instance);
    out.extend_from_slice(topic);
    out.extend_from_slice(payload);
}

/// Reads the record at the front of `bytes` and returns what follows it.
pub(super) fn decode(bytes: &[u8]) -> Result<(RecordView<'_>, &[u8]), RecordError> {
    let (length, rest) = bytes.split_first_chunk().ok_or(RecordError::Short)?;
    let follows = u32::from_le_bytes(*length) as usize;
    let record = rest.get(..follows).ok_or(RecordError::Short)?;
    let after = &rest[follows..];
    let (&format, fields) = record.split_first().ok_or(RecordError::Short)?;
    if format != FORMAT {
        return Err(RecordError::Format { found: format });
    }
    let (id, fields) = fields.split_first_chunk().ok_or(RecordError::Lengths)?;
    let (admitted_at, fields) = number(fields)?;
    let (access_key, fields) = number(fields)?;
    let (fingerprint, fields) = number(fields)?;
    let (expires_at, fields) = number(fields)?;
    let (&[instance, topic @ ..], fields) =
        fields.split_first_chunk::<3>().ok_or(RecordError::Lengths)?;
    let (instance, fields) = text(fields, usize::from(instance))?;
    let (topic, payload) = text(fields, usize::from(u16::from_le_bytes(topic)))?;
    let view = RecordView {
        id: MessageId::from_u128(u128::from_be_bytes(*id)),
        admitted_at: UnixMillis(admitted_at),
        nonce: NonceMark { access_key, fingerprint, expires_at: UnixMillis(expires_at) },
        instance,
        topic,
        payload,
    };
    Ok((view, after))
}

fn number(bytes: &[u8]) -> Result<(u64, &[u8]), RecordError> {
    let (number, rest) = bytes.split_first_chunk().ok_or(RecordError::Lengths)?;
    Ok((u64::from_le_bytes(*number), rest))
}

fn text(bytes: &[u8], length: usize) -> Result<(&str, &[u8]), RecordError> {
    let (text, rest) = bytes.split_at_checked(length).ok_or(RecordError::Lengths)?;
    Ok((std::str::from_utf8(text).map_err(|_| RecordError::Content)?, rest))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::journal::testing::{mark, message};

    #[test]
    fn a_record_has_exactly_these_bytes() {
        let message = Message {
            id: MessageId::from_u128(0x0B73_6D99_7B7F_45FF_54E6_1C1C_1B58_00AF),
            instance: InstanceId::parse("post-cn-1").unwrap(),
            topic: Topic::parse("TopicA").unwrap(),
            payload: Payload::new(Bytes::from_static(b"hello")).unwrap(),
            admitted_at: UnixMillis(0x0102_0304_0506),
        };
        let nonce = NonceMark {
            access_key: 0x1111_1111_1111_1112,
            fingerprint: 0x2222_2222_2222_2223,
            expires_at: UnixMillis(0x0908_0706),
        };
        let mut bytes = Vec::new();
        encode(&message, nonce, &mut bytes);
        let expected = concat!(
            "48000000",
            "01",
            "0b736d997b7f45ff54e61c1c1b5800af",
            "0605040302010000",
            "1211111111111111",
            "2322222222222222",
            "0607080900000000",
            "09",
            "0600",
            "706f73742d636e2d31",
            "546f70696341",
            "68656c6c6f",
        );
        assert_eq!(hex::encode(&bytes), expected);
        assert_eq!(bytes.len(), record_bytes(&message));
    }

    #[test]
    fn an_unknown_record_format_is_refused() {
        let mut bytes = Vec::new();
        encode(&message(1, 5), mark(1), &mut bytes);
        bytes[4] = 2;
        assert_eq!(decode(&bytes), Err(RecordError::Format { found: 2 }));
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_the_same(
            id: u128, at: u64, marks: (u64, u64, u64),
            instance in "[A-Za-z0-9-]{1,64}", topic in "[a-zA-Z日本/]{3,64}",
            payload in prop::collection::vec(any::<u8>(), 0..3000), trailing: Vec<u8>,
        ) {
            prop_assume!(Topic::parse(&topic).is_ok());
            let message = Message {
                id: MessageId::from_u128(id),
                instance: InstanceId::parse(&instance).unwrap(),
                topic: Topic::parse(&topic).unwrap(),
                payload: Payload::new(payload.into()).unwrap(),
                admitted_at: UnixMillis(at),
            };
            let nonce = NonceMark {
                access_key: marks.0, fingerprint: marks.1, expires_at: UnixMillis(marks.2),
            };
            let mut bytes = Vec::new();
            encode(&message, nonce, &mut bytes);
            bytes.extend_from_slice(&trailing);
            let bytes = Bytes::from(bytes);
            let (view, after) = decode(&bytes).unwrap();
            prop_assert_eq!(view.message(&bytes).unwrap(), message);
            prop_assert_eq!(view.nonce, nonce);
            prop_assert_eq!(after, trailing.as_slice());
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>) {
            let bytes = Bytes::from(bytes);
            if let Ok((view, _)) = decode(&bytes) {
                let _ = view.message(&bytes);
            }
        }

        #[test]
        fn a_changed_record_never_panics(at in 0_usize..80, to: u8) {
            let mut bytes = Vec::new();
            encode(&message(1, 20), mark(1), &mut bytes);
            let at = at.min(bytes.len() - 1);
            bytes[at] = to;
            let bytes = Bytes::from(bytes);
            if let Ok((view, _)) = decode(&bytes) {
                let _ = view.message(&bytes);
            }
        }
    }
}
