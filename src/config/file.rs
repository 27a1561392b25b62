//! The configuration file as it is written; what it means is checked one level up.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer};
use toml::Value;

use super::device_links::DeviceTls;
use super::mqtt::Mqtt;
use super::ports::Log;
use super::tls::Tls;
use crate::delivery::embedded;

/// The whole file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub(super) data_dir: PathBuf,
    pub(super) http: Http,
    pub(super) ops: Ops,
    pub(super) limits: Limits,
    pub(super) queue: Queue,
    pub(super) shard: Shard,
    pub(super) journal: Journal,
    pub(super) delivery: Delivery,
    pub(super) ledger: Ledger,
    pub(super) log: Log,
    pub(super) accounts: Vec<Account>,
    pub(super) instances: Vec<Instance>,
}

impl Default for File {
    fn default() -> Self {
        Self {
            data_dir: "weir-data".into(),
            http: Http::default(),
            ops: Ops::default(),
            limits: Limits::default(),
            queue: Queue::default(),
            shard: Shard::default(),
            journal: Journal::default(),
            delivery: Delivery::default(),
            ledger: Ledger::default(),
            log: Log::default(),
            accounts: vec![],
            instances: vec![],
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Http {
    pub(super) listen: SocketAddr,
    pub(super) tls: Option<Tls>,
    #[serde(deserialize_with = "duration")]
    pub(super) drain_notice: Duration,
    pub(super) host_aliases: Vec<String>,
    pub(super) trusted_proxies: Vec<String>,
    pub(super) proxy_protocol: bool,
    pub(super) connections_max: usize,
    #[serde(deserialize_with = "duration")]
    pub(super) first_byte_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub(super) header_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub(super) body_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub(super) idle_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub(super) write_timeout: Duration,
    #[serde(deserialize_with = "duration")]
    pub(super) drain_timeout: Duration,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls: None,
            drain_notice: Duration::from_secs(3),
            host_aliases: vec![],
            trusted_proxies: vec![],
            proxy_protocol: false,
            connections_max: 10_000,
            first_byte_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(10),
            body_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(75),
            write_timeout: Duration::from_secs(30),
            drain_timeout: Duration::from_secs(30),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ops {
    pub(super) listen: SocketAddr,
    pub(super) tls: Option<Tls>,
    pub(super) token: Option<String>,
    pub(super) token_env: Option<String>,
    pub(super) token_file: Option<PathBuf>,
}

impl Default for Ops {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8081)),
            tls: None,
            token: None,
            token_env: None,
            token_file: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Limits {
    pub(super) instance_qps: u32,
    pub(super) burst: u32,
    pub(super) device_qps: Option<u32>,
    pub(super) throttle_status: u16,
    pub(super) nonces_max: usize,
    pub(super) replicas: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instance_qps: 1_000,
            burst: 100,
            device_qps: None,
            throttle_status: 429,
            nonces_max: crate::admission::NONCES_MAX,
            replicas: 1,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Queue {
    pub(super) slots: usize,
}

impl Default for Queue {
    fn default() -> Self {
        Self { slots: 8_192 }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Shard {
    pub(super) count: u16,
    pub(super) batch_max: usize,
    pub(super) batch_bytes_max: ByteSize,
}

impl Default for Shard {
    fn default() -> Self {
        Self { count: 0, batch_max: 1_024, batch_bytes_max: ByteSize::mib(4) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Journal {
    pub(super) segment_bytes: ByteSize,
}

impl Default for Journal {
    fn default() -> Self {
        Self { segment_bytes: ByteSize::mib(64) }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Delivery {
    pub(super) kind: String,
    #[serde(deserialize_with = "duration")]
    pub(super) retention: Duration,
    #[serde(deserialize_with = "some_duration")]
    pub(super) reconnect_grace: Option<Duration>,
    #[serde(deserialize_with = "duration")]
    pub(super) dead_letters_kept: Duration,
    pub(super) backlog_max: ByteSize,
    pub(super) embedded: Written<Embedded>,
    pub(super) mqtt: Option<Mqtt>,
}

impl Default for Delivery {
    fn default() -> Self {
        Self {
            kind: "embedded".into(),
            retention: Duration::from_secs(72 * 3_600),
            reconnect_grace: None,
            dead_letters_kept: Duration::from_secs(30 * 24 * 3_600),
            backlog_max: ByteSize::gib(16),
            embedded: Written::default(),
            mqtt: None,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Embedded {
    pub(super) listen: SocketAddr,
    pub(super) websocket_listen: Option<SocketAddr>,
    pub(super) tls: Option<DeviceTls>,
    pub(super) connections_max: usize,
    pub(super) retained_max: usize,
}

impl Default for Embedded {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 1883)),
            websocket_listen: None,
            tls: None,
            connections_max: 5_000,
            retained_max: embedded::Limits::default().retained_messages_max,
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Ledger {
    #[serde(deserialize_with = "duration")]
    pub(super) minutes_kept: Duration,
}

impl Default for Ledger {
    fn default() -> Self {
        Self { minutes_kept: crate::ledger::MINUTES_KEPT }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Account {
    pub(super) id: String,
    #[serde(default)]
    pub(super) access_keys: Vec<AccessKey>,
    pub(super) users: Option<Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct AccessKey {
    pub(super) id: String,
    pub(super) secret: Option<String>,
    pub(super) secret_env: Option<String>,
    pub(super) secret_file: Option<PathBuf>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Instance {
    pub(super) id: String,
    pub(super) account: String,
    pub(super) topics: Vec<String>,
    pub(super) qps: Option<u32>,
    pub(super) burst: Option<u32>,
    #[serde(default)]
    pub(super) payload: Payload,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
}

#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Payload {
    #[default]
    Base64,
    Verbatim,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Device {
    pub(super) name: String,
    pub(super) password: Option<String>,
    pub(super) password_env: Option<String>,
    pub(super) password_file: Option<PathBuf>,
}

/// A section that knows whether the file has it.
#[derive(Default)]
pub(super) struct Written<T> {
    section: T,
    is_given: bool,
}

impl<T> Written<T> {
    pub(super) const fn is_given(&self) -> bool {
        self.is_given
    }
}

impl<T> std::ops::Deref for Written<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.section
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Written<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self { section: T::deserialize(deserializer)?, is_given: true })
    }
}

fn some_duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    duration(deserializer).map(Some)
}

pub(super) fn duration<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    humantime::parse_duration(&text).map_err(|error| {
        serde::de::Error::custom(format!("{error}: write a duration like \"3s\" or \"500ms\""))
    })
}
