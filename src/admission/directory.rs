use std::collections::{HashMap, HashSet};
use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;

use prometheus::IntCounter;

use crate::clock::Clock;
use crate::message::InstanceId;
use crate::metering::AdmissionMetrics;

use super::bucket::{Bucket, Rate};
use super::replay::{FingerprintKey, Nonces};
use super::signature::SigningKey;

/// An access key of an account.
#[derive(Clone)]
pub struct AccessKeyConfig {
    /// Its id, as callers send it.
    pub id: String,
    /// Its secret.
    pub secret: String,
    /// The account it belongs to.
    pub account: String,
}

impl fmt::Debug for AccessKeyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKeyConfig")
            .field("id", &self.id)
            .field("account", &self.account)
            .finish_non_exhaustive()
    }
}

/// How the `Payload` parameter becomes the bytes a device receives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PayloadCoding {
    /// Base64, decoded here. The default.
    #[default]
    Base64,
    /// The parameter as sent, in UTF-8.
    Verbatim,
}

/// An instance of an account.
#[derive(Clone, Debug)]
pub struct InstanceConfig {
    /// Its id.
    pub id: InstanceId,
    /// The account that owns it.
    pub account: String,
    /// Its parent topics; every subtopic of them may be sent to.
    pub topics: Vec<String>,
    /// Its token bucket.
    pub rate: Rate,
    /// How its payloads come.
    pub payload: PayloadCoding,
}

/// An access key, ready to check signatures, with the nonces it has used.
pub(super) struct AccessKey {
    pub(super) account: String,
    pub(super) signing: SigningKey,
    pub(super) nonces: Nonces,
    /// The keyed fingerprint of its id.
    pub(super) tag: u64,
}

impl fmt::Debug for AccessKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessKey").field("account", &self.account).finish_non_exhaustive()
    }
}

/// An instance with its bucket.
pub(super) struct Instance {
    pub(super) id: InstanceId,
    pub(super) account: String,
    pub(super) topics: HashSet<String>,
    pub(super) payload: PayloadCoding,
    pub(super) bucket: Bucket,
    pub(super) throttled: Option<IntCounter>,
}

/// Everyone and everything admission knows of. Nothing a caller sends adds to it.
pub(super) struct Directory {
    keys: HashMap<String, Arc<AccessKey>>,
    keys_by_tag: HashMap<u64, Arc<AccessKey>>,
    instances: HashMap<String, Arc<Instance>>,
}

impl Directory {
    pub(super) fn new(
        keys: &[AccessKeyConfig],
        instances: Vec<InstanceConfig>,
        replicas: NonZeroU32,
        nonces_max: usize,
        fingerprints: &FingerprintKey,
        clock: &Arc<dyn Clock>,
        metrics: &AdmissionMetrics,
    ) -> Self {
        let key = |config: &AccessKeyConfig| {
            let key = AccessKey {
                account: config.account.clone(),
                signing: SigningKey::new(&config.secret),
                nonces: Nonces::new(nonces_max, metrics.nonces.clone()),
                tag: fingerprints.of(&config.id),
            };
            (config.id.clone(), Arc::new(key))
        };
        let instance = |config: InstanceConfig| {
            let name = config.id.as_str().to_owned();
            let share = f64::from(config.rate.qps.get()) / f64::from(replicas.get());
            metrics.quota(&config.id, share);
            let instance = Instance {
                throttled: metrics.throttled(&config.id),
                id: config.id,
                account: config.account,
                topics: config.topics.into_iter().collect(),
                payload: config.payload,
                bucket: Bucket::new(config.rate, replicas, Arc::clone(clock)),
            };
            (name, Arc::new(instance))
        };
        let keys: HashMap<_, _> = keys.iter().map(key).collect();
        let keys_by_tag = keys.values().map(|key| (key.tag, Arc::clone(key))).collect();
        Self { keys, keys_by_tag, instances: instances.into_iter().map(instance).collect() }
    }

    pub(super) fn key(&self, id: &str) -> Option<&Arc<AccessKey>> {
        self.keys.get(id)
    }

    pub(super) fn key_by_tag(&self, tag: u64) -> Option<&Arc<AccessKey>> {
        self.keys_by_tag.get(&tag)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &Arc<AccessKey>> {
        self.keys.values()
    }

    pub(super) fn instance(&self, id: &str) -> Option<&Arc<Instance>> {
        self.instances.get(id)
    }
}
