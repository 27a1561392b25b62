//! Text -> each stage's `Config`. Every key is checked before anything is bound or opened.
//!
//! Never: look for a file nobody named, or take a key it does not know.

mod device_links;
mod file;
mod listeners;
mod mqtt;
mod ports;
mod reference;
mod tenancy;
mod tls;

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::message::InstanceId;
use crate::{admission, delivery, journal, ledger, queue, shard, wire};

pub use ports::Ports;
pub use reference::{Key, REFERENCE, Section};

use file::File;

/// A full drain notice; longer than any balancer's probe needs.
const DRAIN_NOTICE_MAX: Duration = Duration::from_secs(60);
/// How long devices are waited for after a start, if nothing is said.
const RECONNECT_GRACE: Duration = Duration::from_secs(5);
/// Longest wait for devices after a start.
const RECONNECT_GRACE_MAX: Duration = Duration::from_secs(60);
/// Longest a message may wait for the broker.
const RETENTION_MAX: Duration = Duration::from_secs(366 * 24 * 3_600);
/// Shortest and longest time a dead letter is kept: a day, and ten years.
const DEAD_LETTERS_KEPT_MIN: Duration = Duration::from_secs(24 * 3_600);
const DEAD_LETTERS_KEPT_MAX: Duration = Duration::from_secs(3_653 * 24 * 3_600);
/// Smallest backlog cap: one segment a shard would not fit below it.
const BACKLOG_BYTES_MIN: u64 = 64 * 1024 * 1024;

/// One line that names the key and the fix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{origin}: {text}")]
pub struct ConfigError {
    origin: String,
    text: String,
}

/// Everything weir is told, checked.
#[derive(Debug)]
pub struct Config {
    /// Where everything that lasts is kept.
    pub data_dir: PathBuf,
    /// Where calls come in. Default 127.0.0.1:8080.
    pub http_listen: SocketAddr,
    /// Where health and metrics are shown. Default 127.0.0.1:8081.
    pub ops_listen: SocketAddr,
    /// How long weir serves on after SIGTERM with `/readyz` at 503; 0 to 60 s, default 3 s.
    pub drain_notice: Duration,
    /// How long a message may wait for the broker before it becomes a dead letter; 1 s to 1 year,
    /// default 72 h.
    pub retention: Duration,
    /// How long messages that a former process left undelivered wait for devices to come back that
    /// have no stored session; 0 to 60 s, default 5 s.
    pub reconnect_grace: Duration,
    /// How long a dead letter is kept; 1 day to 10 years, default 30 days.
    pub dead_letters_kept: Duration,
    /// Bytes of journal that may wait for the broker; at the cap calls are refused with
    /// SystemOverFlow. At least 64 MiB, default 16 GiB.
    pub backlog_bytes_max: u64,
    /// What stands around the two HTTP ports.
    pub ports: Ports,
    /// The HTTP front-end.
    pub wire: wire::Config,
    /// The gate.
    pub admission: admission::Config,
    /// The rings.
    pub queue: queue::Config,
    /// The turns.
    pub shard: shard::Config,
    /// The segment logs.
    pub journal: journal::Config,
    /// The usage rows.
    pub ledger: ledger::Config,
    /// The embedded broker; not started if there is one elsewhere.
    pub broker: delivery::embedded::Config,
    /// Its listeners with TLS or WebSocket. Default none.
    pub device_links: delivery::embedded::links::Config,
    /// The broker elsewhere, with `delivery.kind = "mqtt"`.
    pub mqtt: Option<delivery::mqtt::Config>,
}

/// Where a weir is found, and whose it is.
#[derive(Clone, Debug)]
pub struct Places {
    /// Its ops port.
    pub ops_listen: SocketAddr,
    /// Its certificate there, if that speaks TLS.
    pub ops_tls: Option<crate::tls::Config>,
    /// Its instances.
    pub instances: Vec<InstanceId>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`ConfigError`] names the file, the key and the fix.
    pub fn load(path: &Path) -> Result<Self, ConfigError> {
        let (origin, text) = text_of(path)?;
        Self::parse(&origin, &text)
    }

    /// Reads where a file keeps its data, and asks for no secret it names.
    ///
    /// # Errors
    /// [`ConfigError`] if the file cannot be read, or holds a key that weir does not know.
    pub fn data_dir(path: &Path) -> Result<PathBuf, ConfigError> {
        let (origin, text) = text_of(path)?;
        Ok(read(&origin, &text)?.data_dir)
    }

    /// Reads where a file's weir is found, and asks for no secret it names.
    ///
    /// # Errors
    /// As [`Self::data_dir`], and if an instance id is none.
    pub fn places(path: &Path) -> Result<Places, ConfigError> {
        let (origin, text) = text_of(path)?;
        let file = read(&origin, &text)?;
        let wrong = |text| ConfigError { origin: origin.clone(), text };
        let ops_tls = tls::read("ops.tls", file.ops.tls.as_ref()).map_err(wrong)?;
        let ids = file.instances.iter().map(|instance| InstanceId::parse(&instance.id));
        let instances = ids.collect::<Result<_, _>>();
        let instances = instances
            .map_err(|error| ConfigError { origin, text: format!("instances.id: {error}") })?;
        Ok(Places { ops_listen: file.ops.listen, ops_tls, instances })
    }

    /// Checks the text of a file; `origin` names it in errors.
    ///
    /// # Errors
    /// [`ConfigError`] names the key and the fix.
    pub fn parse(origin: &str, text: &str) -> Result<Self, ConfigError> {
        check(read(origin, text)?).map_err(|text| ConfigError { origin: origin.to_owned(), text })
    }
}

fn text_of(path: &Path) -> Result<(String, String), ConfigError> {
    let origin = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok((origin, text)),
        Err(error) => Err(ConfigError { origin, text: format!("cannot be read: {error}") }),
    }
}

fn read(origin: &str, text: &str) -> Result<File, ConfigError> {
    let refused = |error: &toml::de::Error, key: Option<String>| ConfigError {
        origin: match error.span() {
            Some(span) => format!("{origin} line {}", line_of(text, span.start)),
            None => origin.to_owned(),
        },
        text: key.into_iter().chain([error.message().replace('\n', " ")]).collect(),
    };
    let file = toml::Deserializer::parse(text).map_err(|error| refused(&error, None))?;
    serde_path_to_error::deserialize(file).map_err(|error| {
        let key = Some(error.path().to_string()).filter(|path| path != ".");
        refused(error.inner(), key.map(|key| format!("{key}: ")))
    })
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

fn check(file: File) -> Result<Config, String> {
    refuse_unsupported(&file)?;
    let mqtt = mqtt::check(&file)?;
    listeners::check(&file)?;
    let shards = shards(file.shard.count)?;
    let tenancy = tenancy::check(&file)?;
    let limits = device_limits(&file)?;
    let journal = journal(&file, shards)?;
    let http = &file.http;
    Ok(Config {
        http_listen: http.listen,
        ops_listen: file.ops.listen,
        drain_notice: drain_notice(http.drain_notice)?,
        retention: within(
            "delivery.retention",
            file.delivery.retention,
            Duration::from_secs(1),
            RETENTION_MAX,
        )?,
        reconnect_grace: reconnect_grace(&file.delivery)?,
        dead_letters_kept: within(
            "delivery.dead_letters_kept",
            file.delivery.dead_letters_kept,
            DEAD_LETTERS_KEPT_MIN,
            DEAD_LETTERS_KEPT_MAX,
        )?,
        backlog_bytes_max: at_least(
            "delivery.backlog_max",
            file.delivery.backlog_max.as_u64(),
            BACKLOG_BYTES_MIN,
        )?,
        ports: ports::check(&file)?,
        wire: wire(&file)?,
        queue: queue::Config {
            slots: between("queue.slots", file.queue.slots, 1, queue::SLOTS_MAX)?,
            shards: usize::from(shards),
        },
        shard: shard::Config {
            batch_max: between("shard.batch_max", file.shard.batch_max, 1, shard::BATCH_MAX)?,
            batch_bytes_max: between(
                "shard.batch_bytes_max",
                usize::try_from(file.shard.batch_bytes_max.as_u64()).unwrap_or(usize::MAX),
                1,
                journal::BATCH_BYTES_MAX,
            )?,
        },
        journal,
        ledger: ledger(&file)?,
        admission: admission::Config {
            access_keys: tenancy.access_keys,
            instances: tenancy.instances,
            replicas: replicas(file.limits.replicas)?,
            nonces_max: between("limits.nonces_max", file.limits.nonces_max, 1, 1 << 30)?,
            host_aliases: file.http.host_aliases,
        },
        device_links: device_links::check(&file.delivery.embedded)?,
        broker: broker(&file.delivery, limits, tenancy.device_keys, tenancy.device_instances)?,
        mqtt,
        data_dir: file.data_dir,
    })
}

fn journal(file: &File, shards: u16) -> Result<journal::Config, String> {
    let journal = journal::Config {
        dir: file.data_dir.join("journal"),
        shards,
        segment_bytes: file.journal.segment_bytes.as_u64(),
    };
    journal.check().map_err(|error| error.to_string())?;
    Ok(journal)
}

fn broker(
    delivery: &file::Delivery,
    limits: delivery::embedded::Limits,
    access_keys: Vec<delivery::embedded::AccessKey>,
    instances: Vec<delivery::embedded::Instance>,
) -> Result<delivery::embedded::Config, String> {
    Ok(delivery::embedded::Config {
        listen: delivery.embedded.listen,
        connections_max: between(
            "delivery.embedded.connections_max",
            delivery.embedded.connections_max,
            1,
            wire::CONNECTIONS_MAX,
        )?,
        access_keys,
        instances,
        limits,
    })
}

fn device_limits(file: &File) -> Result<delivery::embedded::Limits, String> {
    let defaults = delivery::embedded::Limits::default();
    let device_qps = file.limits.device_qps.unwrap_or(defaults.device_qps.get());
    let most = admission::TOKENS_MAX;
    Ok(delivery::embedded::Limits {
        device_qps: NonZeroU32::new(device_qps)
            .filter(|qps| qps.get() <= most)
            .ok_or_else(|| format!("limits.device_qps is {device_qps}; it is 1 to {most}"))?,
        retained_messages_max: between(
            "delivery.embedded.retained_max",
            file.delivery.embedded.retained_max,
            0,
            delivery::embedded::RETAINED_MESSAGES_MAX,
        )?,
        ..defaults
    })
}

fn reconnect_grace(delivery: &file::Delivery) -> Result<Duration, String> {
    match delivery.reconnect_grace {
        // An external broker keeps what it takes, whoever is connected to it.
        None if delivery.mqtt.is_some() => Ok(Duration::ZERO),
        given => within(
            "delivery.reconnect_grace",
            given.unwrap_or(RECONNECT_GRACE),
            Duration::ZERO,
            RECONNECT_GRACE_MAX,
        ),
    }
}

fn ledger(file: &File) -> Result<ledger::Config, String> {
    let (least, most) = (ledger::MINUTES_KEPT_MIN, ledger::MINUTES_KEPT_MAX);
    let minutes_kept = within("ledger.minutes_kept", file.ledger.minutes_kept, least, most)?;
    Ok(ledger::Config { minutes_kept })
}

fn wire(file: &File) -> Result<wire::Config, String> {
    let http = &file.http;
    let (least, most) = wire::DEADLINE_BOUNDS;
    let deadline = |key: &str, given| within(key, given, least, most);
    Ok(wire::Config {
        connections_max: between(
            "http.connections_max",
            http.connections_max,
            1,
            wire::CONNECTIONS_MAX,
        )?,
        deadlines: wire::Deadlines {
            first_byte: deadline("http.first_byte_timeout", http.first_byte_timeout)?,
            header: deadline("http.header_timeout", http.header_timeout)?,
            body: deadline("http.body_timeout", http.body_timeout)?,
            idle: deadline("http.idle_timeout", http.idle_timeout)?,
            write: deadline("http.write_timeout", http.write_timeout)?,
        },
        drain: deadline("http.drain_timeout", http.drain_timeout)?,
        throttle_status: match file.limits.throttle_status {
            429 => wire::ThrottleStatus::TooManyRequests,
            400 => wire::ThrottleStatus::BadRequest,
            other => return Err(format!("limits.throttle_status is {other}; it is 429 or 400")),
        },
    })
}

/// Keys of a later weir, named so that nobody believes that they do something.
fn refuse_unsupported(file: &File) -> Result<(), String> {
    let users = file.accounts.iter().any(|account| account.users.is_some());
    if users {
        return Err("accounts.users is not supported yet: remove it".into());
    }
    Ok(())
}

fn drain_notice(given: Duration) -> Result<Duration, String> {
    within("http.drain_notice", given, Duration::ZERO, DRAIN_NOTICE_MAX)
}

fn replicas(given: u32) -> Result<NonZeroU32, String> {
    let given = between("limits.replicas", given, 1, admission::REPLICAS_MAX)?;
    Ok(NonZeroU32::new(given).unwrap_or(NonZeroU32::MIN))
}

/// Zero means one a core.
fn shards(configured: u16) -> Result<u16, String> {
    if configured > 0 {
        return Ok(configured);
    }
    let cores = std::thread::available_parallelism().map_err(|error| {
        format!("shard.count is 0 and the cores cannot be counted ({error}): set it")
    })?;
    Ok(u16::try_from(cores.get()).unwrap_or(u16::MAX))
}

fn between<T: Copy + PartialOrd + std::fmt::Display>(
    key: &str,
    given: T,
    least: T,
    most: T,
) -> Result<T, String> {
    if given < least || given > most {
        return Err(format!("{key} is {given}; it is {least} to {most}"));
    }
    Ok(given)
}

fn at_least(key: &str, given: u64, least: u64) -> Result<u64, String> {
    between(key, given, least, u64::MAX)
}

fn within(key: &str, given: Duration, least: Duration, most: Duration) -> Result<Duration, String> {
    if given < least || given > most {
        return Err(format!("{key} is {given:?}; it is {least:?} to {most:?}"));
    }
    Ok(given)
}

#[cfg(test)]
mod tests;
