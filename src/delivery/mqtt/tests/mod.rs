use bytes::Bytes;

use crate::clock::UnixMillis;
use crate::message::{InstanceId, Message, MessageId, Payload, Topic};

pub(super) fn message(topic: &str, payload: &'static [u8]) -> Message {
    Message {
        id: MessageId::from_u128(0xA),
        instance: InstanceId::parse("post-cn-a").unwrap(),
        topic: Topic::parse(topic).unwrap(),
        payload: Payload::new(Bytes::from_static(payload)).unwrap(),
        admitted_at: UnixMillis(5),
    }
}
