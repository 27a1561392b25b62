use std::net::SocketAddr;
use std::num::NonZeroU16;
use std::time::Duration;

use rmqtt::net::{Builder, Listener};

use super::config::Config;
use crate::message::{CLIENT_ID_CHARS_MAX, PAYLOAD_BYTES_MAX};

/// Largest packet in either direction: a payload, a topic and MQTT 5 properties.
pub(super) const PACKET_BYTES_MAX: u32 = 128 * 1024;
const _: () = assert!(PACKET_BYTES_MAX as usize >= PAYLOAD_BYTES_MAX + 4 * 1024);
/// Messages of QoS 1 and 2 a device may leave unacknowledged.
const IN_FLIGHT_MAX: NonZeroU16 = NonZeroU16::new(256).unwrap();
/// Connections in their CONNECT at the same time; more wait.
const HANDSHAKES_MAX: usize = 10_000;
/// How long a device may take from its protocol version to the end of its CONNECT.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a session with cleanSession=false outlives its connection (ApsaraMQ: three days).
const SESSION_EXPIRY: Duration = Duration::from_secs(72 * 60 * 60);
/// Filters one session may hold.
const SUBSCRIPTIONS_MAX: usize = 100;
/// Topics a connection may name by number, in either direction (MQTT 5.0, 3.3.2.3.4).
const TOPIC_ALIASES_MAX: u16 = 8;

/// A listener with the bounds of every device's connection.
pub(super) fn listener(config: &Config, listen: SocketAddr) -> rmqtt::Result<Listener> {
    Builder::new()
        .name("devices")
        .laddr(listen)
        .reuseaddr(Some(true))
        .nodelay(true)
        .allow_anonymous(false)
        .max_connections(config.connections_max)
        .max_packet_size(PACKET_BYTES_MAX)
        // In bytes, while client ids in the field are ASCII (ApsaraMQ allows nothing else).
        .max_clientid_len(CLIENT_ID_CHARS_MAX)
        .max_handshaking_limit(HANDSHAKES_MAX)
        .handshake_timeout(HANDSHAKE_TIMEOUT)
        .send_timeout(config.limits.write_timeout)
        .max_inflight(IN_FLIGHT_MAX)
        // The session's backlog is the bound that counts; rmqtt's own must not be met before it.
        .max_mqueue_len(config.limits.session_messages_max.saturating_mul(2))
        .max_subscriptions(SUBSCRIPTIONS_MAX)
        .max_topic_aliases(TOPIC_ALIASES_MAX)
        .session_expiry_interval(SESSION_EXPIRY)
        .max_session_expiry_interval(SESSION_EXPIRY)
        // A message waits as long as its session; MQTT forbids sending it again before a reconnect.
        .message_expiry_interval(Duration::ZERO)
        .message_retry_interval(Duration::ZERO)
        .bind()?
        .tcp()
}
