use std::fmt;
use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use crate::message::InstanceId;

/// What the embedded broker needs to know before it binds.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where devices connect. Default 127.0.0.1:1883; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Devices over TLS and WebSocket at most, and connections over plain TCP that wait for their
    /// sign-in: rmqtt bounds no others. Default 5,000.
    pub connections_max: usize,
    /// Every access key a device may sign in with.
    pub access_keys: Vec<AccessKey>,
    /// The instances; no device of any other is let in.
    pub instances: Vec<Instance>,
    /// What one session may hold up.
    pub limits: Limits,
}

/// An access key and the account it speaks for.
#[derive(Clone, Debug)]
pub struct AccessKey {
    /// Its id, as in the user name `Signature|{id}|{instance}`.
    pub id: String,
    /// The key of the client id's signature.
    pub secret: Secret,
    /// The account that owns it.
    pub account: String,
}

/// An instance and the devices it names itself.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its id.
    pub id: InstanceId,
    /// The account that owns it.
    pub account: String,
    /// Its parent topics; its devices publish to them and their subtopics only.
    pub topics: Vec<String>,
    /// Devices with a password of their own, beside those that sign in with an access key.
    pub devices: Vec<Device>,
}

/// A device with a password of its own: user name `Device|{name}|{instance}`.
#[derive(Clone, Debug)]
pub struct Device {
    /// Its name, unique within its instance.
    pub name: String,
    /// Its password.
    pub password: Secret,
}

/// A secret that never shows in `Debug`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes a text as a secret.
    #[must_use]
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    pub(super) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// What one device may send, what may wait for one session, and how long a slow one may hold a
/// publish up.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Messages a second each client may publish, its will included, and as many at once; what is
    /// above is refused. 1 to 1,000,000, default 50 (ApsaraMQ for MQTT advises 20 a client).
    pub device_qps: NonZeroU32,
    /// Retained messages of one instance, 0 to [`RETAINED_MESSAGES_MAX`], default 10,000; together
    /// at most [`RETAINED_BYTES_MAX`].
    pub retained_messages_max: usize,
    /// How long a connection may take to sign in before it is closed; looked at every 5 s. Default
    /// 15 s.
    pub sign_in_within: Duration,
    /// Messages that wait for a session, in flight included. Default 16,384.
    pub session_messages_max: usize,
    /// Bytes that wait for a session: payload, topic, properties and [`MESSAGE_OVERHEAD_BYTES`] a
    /// message. Default 16 MiB. One message more is always taken.
    pub session_bytes_max: usize,
    /// How long a connected session that is full may take to read half of what waits for it
    /// before it is cut off. Default 3 s.
    pub stalled_after: Duration,
    /// How long one write to a device may block before its connection is closed. Default 5 s.
    pub write_timeout: Duration,
}

/// What a waiting message costs beside its payload, topic and properties, in bytes.
pub const MESSAGE_OVERHEAD_BYTES: usize = 512;

/// Most retained messages an instance can be given: a session takes them all at once.
pub const RETAINED_MESSAGES_MAX: usize = SESSION_MESSAGES_MAX;
/// Retained messages of one instance: payload, topic, properties and [`MESSAGE_OVERHEAD_BYTES`] a
/// message.
pub const RETAINED_BYTES_MAX: usize = SESSION_BYTES_MAX;

const SESSION_MESSAGES_MAX: usize = 16_384;
const SESSION_BYTES_MAX: usize = 16 * 1024 * 1024;
const DEVICE_QPS: NonZeroU32 = NonZeroU32::new(50).unwrap();

impl Default for Limits {
    fn default() -> Self {
        Self {
            device_qps: DEVICE_QPS,
            retained_messages_max: 10_000,
            sign_in_within: Duration::from_secs(15),
            session_messages_max: SESSION_MESSAGES_MAX,
            session_bytes_max: SESSION_BYTES_MAX,
            stalled_after: Duration::from_secs(3),
            write_timeout: Duration::from_secs(5),
        }
    }
}
