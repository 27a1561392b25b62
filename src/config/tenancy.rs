//! Accounts, their access keys, and their instances.

use std::collections::HashSet;
use std::num::NonZeroU32;
use std::path::PathBuf;

use crate::admission::{AccessKeyConfig, InstanceConfig, PayloadCoding, Rate, TOKENS_MAX};
use crate::delivery::embedded::{AccessKey, Device, Instance, Secret};
use crate::message::{InstanceId, TOPIC_CHARS_MAX, TOPIC_CHARS_MIN};

use super::file::{self, File, Payload};

/// What the front and the embedded broker are told of the same tenants.
pub(super) struct Tenancy {
    pub(super) access_keys: Vec<AccessKeyConfig>,
    pub(super) instances: Vec<InstanceConfig>,
    pub(super) device_keys: Vec<AccessKey>,
    pub(super) device_instances: Vec<Instance>,
}

pub(super) fn check(file: &File) -> Result<Tenancy, String> {
    let mut tenancy = Tenancy {
        access_keys: vec![],
        instances: vec![],
        device_keys: vec![],
        device_instances: vec![],
    };
    let mut accounts = HashSet::new();
    for account in &file.accounts {
        if account.id.is_empty() {
            return Err("accounts.id is empty: give the account an id".into());
        }
        if !accounts.insert(account.id.as_str()) {
            return Err(format!("accounts.id {} is given twice: merge the two", account.id));
        }
        for key in &account.access_keys {
            access_key(&mut tenancy, &account.id, key)?;
        }
    }
    for configured in &file.instances {
        if !accounts.contains(configured.account.as_str()) {
            return Err(format!(
                "instances.account of {} is {}, which no [[accounts]] has: add it",
                configured.id, configured.account
            ));
        }
        instance(&mut tenancy, file, configured)?;
    }
    if tenancy.instances.is_empty() {
        return Err("there is no [[instances]]: nobody could send anything".into());
    }
    Ok(tenancy)
}

fn access_key(tenancy: &mut Tenancy, account: &str, key: &file::AccessKey) -> Result<(), String> {
    let printable = key.id.bytes().all(|byte| byte.is_ascii_graphic());
    if key.id.is_empty() || !printable || key.id.contains(['|', ',', '=']) {
        return Err(format!(
            "accounts.access_keys.id \"{}\" is not visible ASCII without '|', ',' and '='",
            key.id.escape_debug()
        ));
    }
    if tenancy.access_keys.iter().any(|known| known.id == key.id) {
        return Err(format!("accounts.access_keys.id {} is given twice", key.id));
    }
    let secret = Source {
        key: format!("accounts.access_keys of {}", key.id),
        name: "secret",
        plain: key.secret.as_ref(),
        env: key.secret_env.as_ref(),
        file: key.secret_file.as_ref(),
    }
    .read()?;
    tenancy.device_keys.push(AccessKey {
        id: key.id.clone(),
        secret: Secret::new(secret.clone()),
        account: account.to_owned(),
    });
    let key = AccessKeyConfig { id: key.id.clone(), secret, account: account.to_owned() };
    tenancy.access_keys.push(key);
    Ok(())
}

fn instance(tenancy: &mut Tenancy, file: &File, configured: &file::Instance) -> Result<(), String> {
    let id = InstanceId::parse(&configured.id)
        .map_err(|error| format!("instances.id \"{}\": {error}", configured.id.escape_debug()))?;
    if tenancy.instances.iter().any(|known| known.id == id) {
        return Err(format!("instances.id {id} is given twice"));
    }
    if configured.topics.is_empty() {
        return Err(format!("instances.topics of {id} is empty: name its parent topics"));
    }
    for topic in &configured.topics {
        parent_topic(topic).map_err(|why| format!("instances.topics of {id}: {why}"))?;
    }
    let tokens = |key: &str, given: u32| {
        NonZeroU32::new(given)
            .filter(|tokens| tokens.get() <= TOKENS_MAX)
            .ok_or_else(|| format!("{key} for {id} is {given}; it is 1 to {TOKENS_MAX}"))
    };
    let rate = Rate {
        qps: tokens(
            "limits.instance_qps or qps",
            configured.qps.unwrap_or(file.limits.instance_qps),
        )?,
        burst: tokens("limits.burst or burst", configured.burst.unwrap_or(file.limits.burst))?,
    };
    let mut devices = vec![];
    for device in &configured.devices {
        devices.push(self::device(&id, device, &devices)?);
    }
    tenancy.device_instances.push(Instance {
        id: id.clone(),
        account: configured.account.clone(),
        topics: configured.topics.clone(),
        devices,
    });
    tenancy.instances.push(InstanceConfig {
        id,
        account: configured.account.clone(),
        topics: configured.topics.clone(),
        rate,
        payload: match configured.payload {
            Payload::Base64 => PayloadCoding::Base64,
            Payload::Verbatim => PayloadCoding::Verbatim,
        },
    });
    Ok(())
}

/// Parent topics are `[0-9A-Za-z_-]` (ApsaraMQ for MQTT, "Limits").
fn parent_topic(topic: &str) -> Result<(), String> {
    let fits = (TOPIC_CHARS_MIN..=TOPIC_CHARS_MAX).contains(&topic.len());
    let plain = topic.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte));
    if fits && plain {
        return Ok(());
    }
    Err(format!(
        "\"{}\" is not {TOPIC_CHARS_MIN} to {TOPIC_CHARS_MAX} letters, digits, '-' and '_'; \
         subtopics need no entry",
        topic.escape_debug()
    ))
}

fn device(id: &InstanceId, device: &file::Device, known: &[Device]) -> Result<Device, String> {
    if device.name.is_empty() || device.name.contains('|') {
        return Err(format!(
            "instances.devices.name \"{}\" of {id} is empty or holds '|'",
            device.name.escape_debug()
        ));
    }
    if known.iter().any(|other| other.name == device.name) {
        return Err(format!("instances.devices.name {} of {id} is given twice", device.name));
    }
    let password = Source {
        key: format!("instances.devices {} of {id}", device.name),
        name: "password",
        plain: device.password.as_ref(),
        env: device.password_env.as_ref(),
        file: device.password_file.as_ref(),
    }
    .read()?;
    Ok(Device { name: device.name.clone(), password: Secret::new(password) })
}

/// Where a secret comes from: written out, from the environment, or from a file.
pub(super) struct Source<'f> {
    pub(super) key: String,
    pub(super) name: &'static str,
    pub(super) plain: Option<&'f String>,
    pub(super) env: Option<&'f String>,
    pub(super) file: Option<&'f PathBuf>,
}

impl Source<'_> {
    pub(super) const fn is_given(&self) -> bool {
        self.plain.is_some() || self.env.is_some() || self.file.is_some()
    }

    pub(super) fn read(&self) -> Result<String, String> {
        let Self { key, name, .. } = self;
        let secret = match (self.plain, self.env, self.file) {
            (Some(text), None, None) => text.clone(),
            (None, Some(variable), None) => std::env::var(variable)
                .map_err(|error| format!("{key}: {name}_env {variable}: {error}"))?,
            (None, None, Some(path)) => std::fs::read_to_string(path)
                .map(|text| text.trim_end_matches(['\r', '\n']).to_owned())
                .map_err(|error| format!("{key}: {name}_file {}: {error}", path.display()))?,
            _ => {
                return Err(format!("{key}: give one of {name}, {name}_env and {name}_file"));
            }
        };
        if secret.is_empty() {
            return Err(format!("{key}: the {name} is empty"));
        }
        Ok(secret)
    }
}
