//! Messages that are larger than their device takes.
//!
//! A server discards such a message and goes on as if it had sent it (MQTT 5.0, 3.1.2.11.4). rmqtt
//! would close the connection on it, and on every later one of a session that is stored.

use rmqtt::codec::v5::PublishProperties;
use rmqtt::session::Session;
use rmqtt::types::{ConnectInfo, Publish, QoS};

/// The longest header a packet can have (MQTT 5.0, 2.1). rmqtt leaves room for it whatever a
/// packet's own takes.
const HEADER_BYTES_MAX: usize = 5;
/// A property's identifier, and the length in front of a text (MQTT 5.0, 2.2.2.2 and 1.5.4).
const IDENTIFIER_BYTES: usize = 1;
const LENGTH_BYTES: usize = 2;
const PACKET_ID_BYTES: usize = 2;

/// Whether a message's packet is larger than what its device said it takes.
pub(super) async fn is_too_large(session: &Session, publish: &Publish) -> bool {
    let connect = session.connect_info().await;
    let Ok(ConnectInfo::V5(_, connect)) = connect.as_deref() else { return false };
    let Some(bytes_max) = connect.max_packet_size else { return false };
    packet_bytes(publish, connect.topic_alias_max > 0) > bytes_max.get() as usize
}

/// The whole PUBLISH packet (MQTT 5.0, 3.3), or up to three bytes more. Where its device allows
/// aliases it may come with topic and alias, and counts like that.
fn packet_bytes(publish: &Publish, may_have_alias: bool) -> usize {
    let alias = if may_have_alias { IDENTIFIER_BYTES + size_of::<u16>() } else { 0 };
    let properties = alias + publish.properties.as_ref().map_or(0, property_bytes);
    let packet_id = if publish.qos == QoS::AtMostOnce { 0 } else { PACKET_ID_BYTES };
    HEADER_BYTES_MAX
        + LENGTH_BYTES
        + publish.topic.len()
        + packet_id
        + number_bytes(properties)
        + properties
        + publish.payload.len()
}

/// The properties (MQTT 5.0, 3.3.2.3), but for the alias.
fn property_bytes(given: &PublishProperties) -> usize {
    let text = |bytes: usize| IDENTIFIER_BYTES + LENGTH_BYTES + bytes;
    let user = given.user_properties.iter();
    let ids = given.subscription_ids.iter();
    let utf8 = if given.is_utf8_payload { IDENTIFIER_BYTES + size_of::<u8>() } else { 0 };
    let expiry = given.message_expiry_interval.map_or(0, |_| IDENTIFIER_BYTES + size_of::<u32>());
    user.map(|(name, value)| text(name.len()) + LENGTH_BYTES + value.len()).sum::<usize>()
        + ids.map(|id| IDENTIFIER_BYTES + number_bytes(id.get() as usize)).sum::<usize>()
        + given.correlation_data.as_ref().map_or(0, |data| text(data.len()))
        + given.content_type.as_ref().map_or(0, |kind| text(kind.len()))
        + given.response_topic.as_ref().map_or(0, |topic| text(topic.len()))
        + utf8
        + expiry
}

/// A number of variable length: seven bits a byte (MQTT 5.0, 1.5.5).
const fn number_bytes(number: usize) -> usize {
    match number {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}
