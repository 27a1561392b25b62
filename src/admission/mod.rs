//! Who may send, and how fast: `SendMessage` -> `Admitted` | `Refusal`.
//!
//! Each step is cheaper or more trusted than the next: known action and version, access key known,
//! signature, timestamp, nonce not seen, instance owned, topic and payload valid; then, with a
//! queue slot in hand, nonce inserted and token taken. What a refused call took is given back.
//!
//! Never: store, label or charge anything keyed by a caller that is not authenticated.

mod admitted;
mod bucket;
mod call;
mod canonical;
mod directory;
mod identify;
mod refusal;
mod replay;
mod signature;
mod timestamp;

use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use admitted::{Admitted, NonceMark};
pub use bucket::{Quota, REPLICAS_MAX, Rate, TOKENS_MAX};
pub use call::{PARAMETERS_MAX, Parameter, Parameters, ParametersError, Scheme, SendMessage, Verb};
pub use directory::{AccessKeyConfig, InstanceConfig, PayloadCoding};
pub use identify::{ACTION, VERSION};
pub use refusal::{Incomplete, Refusal, Refused, ServerText};
pub use replay::{FingerprintKey, NONCES_MAX};
pub use signature::{Algorithm, sign_v1, sign_v3};
pub use timestamp::{WINDOW, format as format_timestamp};

use crate::clock::{Clock, UnixMillis};
use crate::message::{InstanceId, Message, MessageId, Payload, Topic};
use crate::metering::AdmissionMetrics;

use admitted::NonceClaim;
use directory::{AccessKey, Directory, Instance};
use identify::Identity;
use replay::Unclaimed;

/// Whom admission knows, and how much it remembers.
#[derive(Clone, Debug)]
pub struct Config {
    /// The access keys of all accounts.
    pub access_keys: Vec<AccessKeyConfig>,
    /// The instances of all accounts.
    pub instances: Vec<InstanceConfig>,
    /// How many weirs share each instance's limit, 1 to [`REPLICAS_MAX`]; this one admits its share
    /// ([`Rate`]). Default 1.
    pub replicas: NonZeroU32,
    /// Nonces remembered for an access key, at most. Default [`NONCES_MAX`].
    pub nonces_max: usize,
    /// Names a proxy may have replaced in `Host`; a V3 signature over one of them is good too.
    pub host_aliases: Vec<String>,
}

/// What admission takes from outside: time and randomness.
pub struct Sources {
    /// The clock.
    pub clock: Arc<dyn Clock>,
    /// The key of all nonce fingerprints, from the data directory.
    pub fingerprints: FingerprintKey,
    /// Random bits of this process; 40 of them are part of every MsgId.
    pub process: u128,
}

/// The gate.
pub struct Admission {
    directory: Directory,
    host_aliases: Vec<String>,
    fingerprints: FingerprintKey,
    clock: Arc<dyn Clock>,
    process: u128,
    admitted: AtomicU64,
}

/// A call that is signed, current and valid, and has taken nothing yet.
#[derive(Debug)]
pub struct Examined {
    key: Arc<AccessKey>,
    instance: Arc<Instance>,
    nonce: NonceMark,
    topic: Topic,
    payload: Payload,
}

impl Examined {
    /// The instance it is for.
    #[must_use]
    pub fn instance(&self) -> &InstanceId {
        &self.instance.id
    }

    /// The topic it is for.
    #[must_use]
    pub const fn topic(&self) -> &Topic {
        &self.topic
    }

    /// What is left of the instance's quota.
    #[must_use]
    pub fn quota(&self) -> Quota {
        self.instance.bucket.quota()
    }
}

impl Instance {
    fn refused(&self, refusal: Refusal) -> Refused {
        let (instance, quota) = (Some(self.id.clone()), Some(self.bucket.quota()));
        Refused { refusal, instance, quota }
    }
}

impl std::fmt::Debug for Instance {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Instance({})", self.id)
    }
}

impl Admission {
    /// Opens the gate for whom the configuration knows.
    #[must_use]
    pub fn new(config: Config, sources: Sources, metrics: &AdmissionMetrics) -> Self {
        let directory = Directory::new(
            &config.access_keys,
            config.instances,
            config.replicas,
            config.nonces_max,
            &sources.fingerprints,
            &sources.clock,
            metrics,
        );
        Self {
            directory,
            host_aliases: config.host_aliases,
            fingerprints: sources.fingerprints,
            clock: sources.clock,
            process: sources.process,
            admitted: AtomicU64::new(0),
        }
    }

    /// Everything that can be said of a call without taking anything.
    ///
    /// # Errors
    /// [`Refused`], with the instance's quota once it is known to be the caller's.
    pub fn examine(&self, call: &SendMessage<'_>) -> Result<Examined, Refused> {
        let identity = identify::identify(call)?;
        let key = self.directory.key(identity.access_key_id).ok_or(Refusal::AccessKeyNotFound)?;
        self.verify(key, call, &identity)?;
        let nonce = self.examine_nonce(key, &identity)?;
        let instance = self.owned_instance(key, call)?;
        let parse = || {
            let topic = identify::topic(call, instance)?;
            Ok((topic, identify::payload(call, instance.payload)?))
        };
        let (topic, payload) = parse().map_err(|refusal| instance.refused(refusal))?;
        Ok(Examined { key: Arc::clone(key), instance: Arc::clone(instance), nonce, topic, payload })
    }

    /// Inserts the nonce and takes a token; the caller holds a queue slot already.
    ///
    /// # Errors
    /// [`Refused`] if another call won the nonce, no more nonces may be remembered, or the bucket
    /// is empty; then nothing was taken.
    pub fn charge(&self, examined: Examined) -> Result<(Admitted, Quota), Refused> {
        let Examined { key, instance, nonce, topic, payload } = examined;
        let refused = |refusal| instance.refused(refusal);
        let now = self.clock.unix();
        key.nonces.claim(nonce.fingerprint, nonce.expires_at, now).map_err(|unclaimed| {
            refused(match unclaimed {
                Unclaimed::Used => Refusal::NonceUsed,
                Unclaimed::Full => Refusal::NoncesFull,
            })
        })?;
        let claim = NonceClaim::new(nonce, key);
        if let Err(retry_after) = instance.bucket.take() {
            if let Some(throttled) = &instance.throttled {
                throttled.inc();
            }
            let mut refused = refused(Refusal::Throttled { retry_after });
            // A token may have come since; this call found none.
            if let Some(quota) = &mut refused.quota {
                quota.remaining = 0;
            }
            return Err(refused);
        }
        let message = Message {
            id: self.next_id(now),
            instance: instance.id.clone(),
            topic,
            payload,
            admitted_at: now,
        };
        Ok((Admitted::new(message, claim), instance.bucket.quota()))
    }

    /// Remembers a nonce that a record of a former process holds.
    pub fn restore(&self, nonce: NonceMark) {
        let now = self.clock.unix();
        if nonce.expires_at < now {
            return;
        }
        if let Some(key) = self.directory.key_by_tag(nonce.access_key) {
            // Used or full: it is remembered, or was within the bound of the former process.
            let _ = key.nonces.claim(nonce.fingerprint, nonce.expires_at, now);
        }
    }

    /// Forgets nonces whose window has passed. To be called about once a minute.
    pub fn sweep(&self) {
        let now = self.clock.unix();
        self.directory.keys().for_each(|key| key.nonces.sweep(now));
    }

    fn verify(
        &self,
        key: &AccessKey,
        call: &SendMessage<'_>,
        identity: &Identity<'_>,
    ) -> Result<(), Refusal> {
        let Some(authorization) = identity.authorization else {
            return signature::verify_v1(&key.signing, call);
        };
        signature::verify_v3(&key.signing, call, authorization, &self.host_aliases)
    }

    fn examine_nonce(
        &self,
        key: &AccessKey,
        identity: &Identity<'_>,
    ) -> Result<NonceMark, Refusal> {
        let request = timestamp::parse(identity.timestamp).ok_or(Refusal::TimestampMalformed)?;
        let now = self.clock.unix();
        if !timestamp::is_current(request, now) {
            return Err(Refusal::TimestampExpired { request, server: now });
        }
        let fingerprint = self.fingerprints.of(identity.nonce);
        if key.nonces.contains(fingerprint, now) {
            return Err(Refusal::NonceUsed);
        }
        Ok(NonceMark { access_key: key.tag, fingerprint, expires_at: request.plus(WINDOW) })
    }

    fn owned_instance(
        &self,
        key: &AccessKey,
        call: &SendMessage<'_>,
    ) -> Result<&Arc<Instance>, Refusal> {
        let id = identify::required(call, "InstanceId")?;
        match self.directory.instance(id) {
            Some(instance) if instance.account == key.account => Ok(instance),
            None if InstanceId::parse(id).is_err() => Err(Refusal::InstanceMalformed),
            _ => Err(Refusal::InstanceNotOwned),
        }
    }

    /// 48 bits of time, 40 of this process, 40 of a count: unique, and in order of admission.
    fn next_id(&self, now: UnixMillis) -> MessageId {
        const LOW_40: u128 = (1 << 40) - 1;
        let count = self.admitted.fetch_add(1, Ordering::Relaxed);
        let (time, count) = (u128::from(now.0), u128::from(count));
        MessageId::from_u128(time << 80 | (self.process & LOW_40) << 40 | count & LOW_40)
    }
}

#[cfg(test)]
mod tests;
