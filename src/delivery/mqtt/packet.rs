//! The few packets a publisher sends and gets, in MQTT 5 and 3.1.1, by rumqttc's codecs.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rumqttc::mqttbytes::{self, QoS, v4};
use rumqttc::v5::mqttbytes as mqttbytes5;
use rumqttc::v5::mqttbytes::QoS as QoS5;
use rumqttc::v5::mqttbytes::v5::{self, PubAckReason};

use super::config::{Config, Login};
use crate::message::{Message, PAYLOAD_BYTES_MAX};

/// Largest packet in either direction: a payload, the longest topic and the user properties.
pub(super) const PACKET_BYTES_MAX: usize = 128 * 1024;
const _: () = assert!(PACKET_BYTES_MAX >= PAYLOAD_BYTES_MAX + 48 * 1024);

/// A version of MQTT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Version {
    V5,
    V3,
}

/// What the broker allows on a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Granted {
    /// Messages without a PUBACK (MQTT 5.0, 3.2.2.3.3).
    pub(super) in_flight_messages_max: usize,
    /// The largest packet (MQTT 5.0, 3.2.2.3.6).
    pub(super) packet_bytes_max: usize,
    /// Keep-alive, if the broker decided on it (MQTT 5.0, 3.2.2.3.14).
    pub(super) keep_alive: Option<Duration>,
}

/// What the broker says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// CONNACK: the connection is open.
    Opened(Granted),
    /// CONNACK: it does not speak this version.
    OtherVersion,
    /// CONNACK: it refuses.
    Refused(String),
    /// PUBACK.
    Answered(u16, Verdict),
    /// DISCONNECT; true if it may be for the sake of a message.
    Closing(String, bool),
    /// Anything else: it lives.
    Alive,
}

/// What a PUBACK says about a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The broker answers for it from here on.
    Taken,
    /// Not now: the same message may be taken later.
    Later(u8),
    /// Never.
    Never(u8),
}

/// The broker sends what is no MQTT.
#[derive(Debug, thiserror::Error)]
#[error("the broker sends what is no MQTT: {0}")]
pub(super) struct Malformed(String);

/// CONNECT, with a clean session: what was not acknowledged is sent again by weir, not by a session
/// the broker keeps.
pub(super) fn connect(version: Version, config: &Config, client_id: &str) -> BytesMut {
    let keep_alive = u16::try_from(config.keep_alive.as_secs()).unwrap_or(u16::MAX);
    let client_id = client_id.to_owned();
    let login = config.login.clone();
    let packet_bytes_max = u32::try_from(PACKET_BYTES_MAX).unwrap_or(u32::MAX);
    let mut out = BytesMut::new();
    let login = login.map(|Login { user, password }| (user, password.unwrap_or_default()));
    match version {
        Version::V5 => {
            let properties = v5::ConnectProperties {
                max_packet_size: Some(packet_bytes_max),
                ..v5::ConnectProperties::new()
            };
            let connect = v5::Connect {
                keep_alive,
                client_id,
                clean_start: true,
                properties: Some(properties),
            };
            let login = login.map(|(username, password)| v5::Login { username, password });
            written(v5::Packet::Connect(connect, None, login).write(&mut out, None));
        }
        Version::V3 => {
            let mut connect = v4::Connect::new(client_id);
            connect.keep_alive = keep_alive;
            connect.login = login.map(|(username, password)| v4::Login { username, password });
            written(v4::Packet::Connect(connect).write(&mut out, usize::MAX));
        }
    }
    out
}

/// PUBLISH with QoS 1, no retain, no expiry; MQTT 5 says MsgId and instance as user properties.
///
/// # Errors
/// Its size, if it is larger than the broker or weir allows; nothing is written then.
pub(super) fn publish(
    version: Version,
    id: u16,
    topic: &Bytes,
    message: &Message,
    granted: &Granted,
    out: &mut BytesMut,
) -> Result<(), usize> {
    let payload = message.payload.bytes().clone();
    match version {
        Version::V5 => {
            let properties = v5::PublishProperties {
                user_properties: vec![
                    ("msg_id".to_owned(), message.id.to_string()),
                    ("instance_id".to_owned(), message.instance.as_str().to_owned()),
                ],
                ..v5::PublishProperties::default()
            };
            let publish = v5::Publish {
                qos: QoS5::AtLeastOnce,
                pkid: id,
                topic: topic.clone(),
                payload,
                properties: Some(properties),
                ..v5::Publish::default()
            };
            fits(publish.size(), granted)?;
            written(v5::Packet::Publish(publish).write(out, None));
        }
        Version::V3 => {
            let topic = String::from_utf8_lossy(topic);
            let mut publish = v4::Publish::from_bytes(topic, QoS::AtLeastOnce, payload);
            publish.pkid = id;
            fits(publish.size(), granted)?;
            written(v4::Packet::Publish(publish).write(out, usize::MAX));
        }
    }
    Ok(())
}

fn fits(bytes: usize, granted: &Granted) -> Result<(), usize> {
    if bytes > granted.packet_bytes_max { Err(bytes) } else { Ok(()) }
}

/// PINGREQ; the same in both versions.
pub(super) fn ping(out: &mut BytesMut) {
    written(v4::Packet::PingReq.write(out, usize::MAX));
}

/// DISCONNECT without a word; the same in both versions.
pub(super) fn disconnect(out: &mut BytesMut) {
    written(v4::Packet::Disconnect.write(out, usize::MAX));
}

/// Writing fails for a packet above 256 MB or an id of 0, and weir writes neither.
fn written<E: std::fmt::Display>(result: Result<usize, E>) {
    if let Err(error) = result {
        tracing::error!(%error, "a packet could not be written: a bug");
    }
}

/// The next whole packet, if there is one.
///
/// # Errors
/// [`Malformed`]; the connection is good for nothing then.
pub(super) fn read(version: Version, bytes: &mut BytesMut) -> Result<Option<Received>, Malformed> {
    let before = bytes.len();
    let (read, is_short) = match version {
        Version::V5 => {
            let bytes_max = u32::try_from(PACKET_BYTES_MAX).unwrap_or(u32::MAX);
            let read = v5::Packet::read(bytes, Some(bytes_max)).map(received_v5);
            let is_short = matches!(read, Err(mqttbytes5::Error::InsufficientBytes(_)));
            (read.map_err(|error| error.to_string()), is_short)
        }
        Version::V3 => {
            let read = v4::Packet::read(bytes, PACKET_BYTES_MAX).map(|read| received_v3(&read));
            let is_short = matches!(read, Err(mqttbytes::Error::InsufficientBytes(_)));
            (read.map_err(|error| error.to_string()), is_short)
        }
    };
    // The codec says the same of a packet that is cut short inside, which it has taken out then.
    if is_short && bytes.len() == before {
        return Ok(None);
    }
    read.map(Some).map_err(Malformed)
}

fn received_v5(packet: v5::Packet) -> Received {
    match packet {
        v5::Packet::ConnAck(answer) => opened_v5(answer),
        v5::Packet::PubAck(answer) => Received::Answered(answer.pkid, verdict(answer.reason)),
        v5::Packet::Disconnect(closing) => {
            let said = closing.properties.and_then(|properties| properties.reason_string);
            let code = closing.reason_code;
            let text = match said {
                Some(said) => format!("{code:?}: {said}"),
                None => format!("{code:?}"),
            };
            Received::Closing(text, is_blamed(code))
        }
        _ => Received::Alive,
    }
}

fn opened_v5(answer: v5::ConnAck) -> Received {
    use v5::ConnectReturnCode as Code;
    match answer.code {
        Code::Success => {
            let properties = answer.properties;
            let asked = properties.as_ref();
            // MQTT 5.0, 3.2.2.3.4: it would close the connection on every message.
            if asked.and_then(|asked| asked.max_qos) == Some(0) {
                let why = "its maximum QoS is 0, and weir publishes with QoS 1";
                return Received::Refused(why.to_owned());
            }
            let in_flight = asked.and_then(|asked| asked.receive_max).unwrap_or(u16::MAX);
            let bytes = asked.and_then(|asked| asked.max_packet_size);
            let bytes = bytes.and_then(|bytes| usize::try_from(bytes).ok());
            let keep_alive = asked.and_then(|asked| asked.server_keep_alive);
            Received::Opened(Granted {
                in_flight_messages_max: usize::from(in_flight.max(1)),
                packet_bytes_max: bytes.unwrap_or(PACKET_BYTES_MAX).min(PACKET_BYTES_MAX),
                keep_alive: keep_alive.map(|seconds| Duration::from_secs(seconds.into())),
            })
        }
        Code::UnsupportedProtocolVersion | Code::RefusedProtocolVersion => Received::OtherVersion,
        code => {
            let said = answer.properties.and_then(|properties| properties.reason_string);
            Received::Refused(match said {
                Some(said) => format!("{code:?}: {said}"),
                None => format!("{code:?}"),
            })
        }
    }
}

fn received_v3(packet: &v4::Packet) -> Received {
    match packet {
        v4::Packet::ConnAck(answer) => match answer.code {
            v4::ConnectReturnCode::Success => Received::Opened(Granted {
                in_flight_messages_max: usize::from(u16::MAX),
                packet_bytes_max: PACKET_BYTES_MAX,
                keep_alive: None,
            }),
            v4::ConnectReturnCode::RefusedProtocolVersion => Received::OtherVersion,
            code => Received::Refused(format!("{code:?}")),
        },
        v4::Packet::PubAck(answer) => Received::Answered(answer.pkid, Verdict::Taken),
        _ => Received::Alive,
    }
}

/// Quota (0x97) and a packet id the broker still holds (0x91) are about now, not about the message
/// (MQTT 5.0, 3.4.2.1); everything else from 0x80 on would be said again.
const fn verdict(reason: PubAckReason) -> Verdict {
    match reason {
        PubAckReason::Success | PubAckReason::NoMatchingSubscribers => Verdict::Taken,
        PubAckReason::PacketIdentifierInUse => Verdict::Later(0x91),
        PubAckReason::QuotaExceeded => Verdict::Later(0x97),
        PubAckReason::UnspecifiedError => Verdict::Never(0x80),
        PubAckReason::ImplementationSpecificError => Verdict::Never(0x83),
        PubAckReason::NotAuthorized => Verdict::Never(0x87),
        PubAckReason::TopicNameInvalid => Verdict::Never(0x90),
        PubAckReason::PayloadFormatInvalid => Verdict::Never(0x99),
    }
}

/// Whether a DISCONNECT may be for the sake of a message, rather than of the broker or the
/// connection (MQTT 5.0, 3.14.2.1).
const fn is_blamed(code: v5::DisconnectReasonCode) -> bool {
    use v5::DisconnectReasonCode as Code;
    matches!(
        code,
        Code::UnspecifiedError
            | Code::MalformedPacket
            | Code::ProtocolError
            | Code::ImplementationSpecificError
            | Code::NotAuthorized
            | Code::TopicNameInvalid
            | Code::PacketTooLarge
            | Code::PayloadFormatInvalid
            | Code::QoSNotSupported
    )
}

#[cfg(test)]
#[path = "tests/packet.rs"]
mod tests;
