//! Who a device is, from its CONNECT. Two forms:
//!
//! - as ApsaraMQ devices do it ("Signature-based authentication"): client id `GID_x@@@device`, user
//!   name `Signature|{AccessKeyId}|{InstanceId}`, password Base64(HMAC-SHA1(client id, secret));
//! - with a name and password from the instance's device list: user name
//!   `Device|{name}|{InstanceId}`. The instance stands in the name because two instances may name
//!   a device alike; an instance id holds no `|`, so the last one ends the name.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use subtle::ConstantTimeEq;

use super::config::{Config, Secret};
use crate::message::CLIENT_ID_CHARS_MAX;

/// A user name in one of the two forms. Not yet believed: see [`Directory::check`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UserName<'a> {
    Signature { access_key: &'a str, instance: &'a str },
    Device { name: &'a str, instance: &'a str },
}

impl<'a> UserName<'a> {
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let (form, rest) = text.split_once('|')?;
        let (who, instance) = rest.rsplit_once('|')?;
        match form {
            "Signature" => Some(Self::Signature { access_key: who, instance }),
            "Device" => Some(Self::Device { name: who, instance }),
            _ => None,
        }
    }

    pub(super) const fn instance(self) -> &'a str {
        match self {
            Self::Signature { instance, .. } | Self::Device { instance, .. } => instance,
        }
    }
}

/// Why a device is not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// MQTT 3.1.1 return code 4, MQTT 5 reason code 0x86.
    BadUserNameOrPassword,
    /// MQTT 3.1.1 return code 5, MQTT 5 reason code 0x87.
    NotAuthorized,
}

/// Every credential a device may sign in with.
#[derive(Debug)]
pub(super) struct Directory {
    access_keys: HashMap<String, (Secret, String)>,
    instances: HashMap<String, Listed>,
}

#[derive(Debug)]
struct Listed {
    account: String,
    devices: HashMap<String, Secret>,
}

impl Directory {
    pub(super) fn new(config: &Config) -> Self {
        let access_keys = config.access_keys.iter();
        let instances = config.instances.iter().map(|instance| {
            let devices = instance.devices.iter();
            let devices = devices.map(|device| (device.name.clone(), device.password.clone()));
            let account = instance.account.clone();
            (instance.id.to_string(), Listed { account, devices: devices.collect() })
        });
        Self {
            access_keys: access_keys
                .map(|key| (key.id.clone(), (key.secret.clone(), key.account.clone())))
                .collect(),
            instances: instances.collect(),
        }
    }

    /// Lets a device in or says why not. Which instance exists is told only to who has a key.
    pub(super) fn check(
        &self,
        client_id: &str,
        user_name: &str,
        password: &[u8],
    ) -> Result<(), Refused> {
        if !(1..=CLIENT_ID_CHARS_MAX).contains(&client_id.chars().count()) {
            return Err(Refused::NotAuthorized);
        }
        match UserName::parse(user_name).ok_or(Refused::BadUserNameOrPassword)? {
            UserName::Signature { access_key, instance } => {
                let (secret, account) =
                    self.access_keys.get(access_key).ok_or(Refused::BadUserNameOrPassword)?;
                if !same(device_password(client_id, secret).as_bytes(), password) {
                    return Err(Refused::BadUserNameOrPassword);
                }
                let listed = self.instances.get(instance).ok_or(Refused::NotAuthorized)?;
                let allowed = listed.account == *account && is_device_of_group(client_id);
                allowed.then_some(()).ok_or(Refused::NotAuthorized)
            }
            UserName::Device { name, instance } => {
                let listed = self.instances.get(instance);
                let expected = listed.and_then(|listed| listed.devices.get(name));
                if !expected.is_some_and(|expected| same(expected.bytes(), password)) {
                    return Err(Refused::BadUserNameOrPassword);
                }
                // Ids of that form are signed for, so nobody else may take such a session over.
                let signed_for = is_device_of_group(client_id);
                (!signed_for).then_some(()).ok_or(Refused::NotAuthorized)
            }
        }
    }
}

/// The password of a device that signs in with an access key.
#[must_use]
pub fn device_password(client_id: &str, secret: &Secret) -> String {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha1>::new_from_slice(secret.bytes()).expect("any length is a key");
    mac.update(client_id.as_bytes());
    STANDARD.encode(mac.finalize().into_bytes())
}

fn same(expected: &[u8], given: &[u8]) -> bool {
    expected.ct_eq(given).into()
}

/// `{group}@@@{device}`, where the group starts with `GID_` or `GID-`.
fn is_device_of_group(client_id: &str) -> bool {
    client_id.split_once("@@@").is_some_and(|(group, device)| {
        let name = group.strip_prefix("GID_").or_else(|| group.strip_prefix("GID-"));
        name.is_some_and(|name| !name.is_empty()) && !device.is_empty()
    })
}

#[cfg(test)]
mod tests {
    use super::super::config::{AccessKey, Device, Instance, Limits};
    use super::*;
    use crate::message::InstanceId;

    fn directory() -> Directory {
        let secret = |text: &str| Secret::new(text.into());
        let key = |id: &str, text: &str, account: &str| AccessKey {
            id: id.into(),
            secret: secret(text),
            account: account.into(),
        };
        let instance = |id: &str, account: &str| Instance {
            id: InstanceId::parse(id).unwrap(),
            account: account.into(),
            topics: vec!["TopicA".into()],
            devices: vec![Device { name: "lamp|1".into(), password: secret("lamp-password") }],
        };
        Directory::new(&Config {
            listen: ([127, 0, 0, 1], 0).into(),
            connections_max: 10,
            access_keys: vec![key("LTAI1", "secret-1", "1"), key("LTAI2", "secret-2", "2")],
            instances: vec![instance("post-cn-a", "1"), instance("post-cn-b", "2")],
            limits: Limits::default(),
        })
    }

    const CLIENT: &str = "GID_Test@@@0001";

    fn signed(user_name: &str, client_id: &str, secret: &str) -> Result<(), Refused> {
        let password = device_password(client_id, &Secret::new(secret.into()));
        directory().check(client_id, user_name, password.as_bytes())
    }

    #[test]
    fn a_signature_is_the_base64_of_an_hmac_sha1_of_the_client_id() {
        // RFC 2202, test case 2.
        let secret = Secret::new("Jefe".into());
        let expected =
            STANDARD.encode(hex::decode("effcdf6ae5eb2fa2d27416d5f184df9c259a7c79").unwrap());
        assert_eq!(device_password("what do ya want for nothing?", &secret), expected);
    }

    #[test]
    fn a_device_of_the_owners_key_is_let_in() {
        assert_eq!(signed("Signature|LTAI1|post-cn-a", CLIENT, "secret-1"), Ok(()));
    }

    #[test]
    fn a_wrong_secret_and_an_unknown_key_look_the_same() {
        for user_name in ["Signature|LTAI1|post-cn-a", "Signature|LTAI9|post-cn-a"] {
            let outcome = signed(user_name, CLIENT, "secret-9");
            assert_eq!(outcome, Err(Refused::BadUserNameOrPassword), "{user_name}");
        }
    }

    #[test]
    fn a_key_opens_no_instance_of_another_account() {
        for instance in ["post-cn-b", "post-cn-none", ""] {
            let outcome = signed(&format!("Signature|LTAI1|{instance}"), CLIENT, "secret-1");
            assert_eq!(outcome, Err(Refused::NotAuthorized), "{instance}");
        }
    }

    #[test]
    fn a_signed_client_id_without_group_and_device_is_refused() {
        let long = format!("GID_x@@@{}", "d".repeat(57));
        for client_id in ["lamp", "GID_@@@d", "GID_x@@@", "GID_x@@d", "x@@@d", "", &long] {
            let outcome = signed("Signature|LTAI1|post-cn-a", client_id, "secret-1");
            assert_eq!(outcome, Err(Refused::NotAuthorized), "{client_id}");
        }
    }

    #[test]
    fn a_listed_device_signs_in_to_its_own_instance_under_an_id_nobody_signs_for() {
        let check =
            |user_name, password: &str| directory().check("lamp", user_name, password.as_bytes());
        assert_eq!(check("Device|lamp|1|post-cn-a", "lamp-password"), Ok(()));
        let posing = directory().check("GID_x@@@lamp", "Device|lamp|1|post-cn-a", b"lamp-password");
        assert_eq!(posing, Err(Refused::NotAuthorized));
        for (user_name, password) in [
            ("Device|lamp|1|post-cn-a", "lamp-passwore"),
            ("Device|lamp|1|post-cn-a", ""),
            ("Device|lamp|post-cn-a", "lamp-password"),
            ("Device|lamp|1|post-cn-none", "lamp-password"),
            ("lamp|1", "lamp-password"),
            ("", ""),
            ("Token|LTAI1|post-cn-a", ""),
        ] {
            let outcome = check(user_name, password);
            assert_eq!(outcome, Err(Refused::BadUserNameOrPassword), "{user_name}");
        }
    }

    #[test]
    fn no_secret_shows_in_the_debug_form_of_the_directory() {
        let text = format!("{:?}", directory());
        assert!(!text.contains("secret-1") && !text.contains("lamp-password"), "{text}");
    }
}
