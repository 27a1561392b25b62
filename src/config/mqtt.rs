//! `[delivery.mqtt]`: a broker elsewhere.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::delivery::mqtt::{
    Address, CLIENT_ID_BYTES_MAX, CONNECTIONS_MAX, Config, IN_FLIGHT_MESSAGES_MAX,
    KEEP_ALIVE_BOUNDS, Login, Protocol, Template, Tls, TlsFiles,
};

use super::file::{self, duration};
use super::tenancy::Source;
use super::{between, within};

/// The section as it is written.
#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Mqtt {
    pub(super) url: String,
    pub(super) protocol: String,
    pub(super) user: Option<String>,
    pub(super) password: Option<String>,
    pub(super) password_env: Option<String>,
    pub(super) password_file: Option<PathBuf>,
    pub(super) client_id: Option<String>,
    pub(super) topic: String,
    #[serde(deserialize_with = "duration")]
    pub(super) keep_alive: Duration,
    pub(super) connections: usize,
    pub(super) in_flight_max: usize,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) cert_file: Option<PathBuf>,
    pub(super) key_file: Option<PathBuf>,
}

impl Default for Mqtt {
    fn default() -> Self {
        Self {
            url: String::new(),
            protocol: "auto".to_owned(),
            user: None,
            password: None,
            password_env: None,
            password_file: None,
            client_id: None,
            topic: "{instance}/{topic}".to_owned(),
            keep_alive: Duration::from_secs(20),
            connections: 1,
            in_flight_max: 1_000,
            ca_file: None,
            cert_file: None,
            key_file: None,
        }
    }
}

/// The broker elsewhere, if there is one; keys that would then do nothing are refused.
pub(super) fn check(file: &file::File) -> Result<Option<Config>, String> {
    let delivery = &file.delivery;
    match (delivery.kind.as_str(), &delivery.mqtt) {
        ("embedded", None) => Ok(None),
        ("embedded", Some(_)) => {
            Err("delivery.mqtt is set, and delivery.kind is \"embedded\": set it to \"mqtt\", or \
                 remove the section"
                .into())
        }
        ("mqtt", None) => Err("delivery.mqtt.url is missing: name the broker".into()),
        ("mqtt", Some(mqtt)) => {
            refuse_embedded(file)?;
            broker(mqtt).map(Some)
        }
        (other, _) => Err(format!("delivery.kind is \"{other}\"; it is \"embedded\" or \"mqtt\"")),
    }
}

/// What only the embedded broker would look at.
fn refuse_embedded(file: &file::File) -> Result<(), String> {
    let idle = |key: &str| {
        Err(format!("{key} is set, and does nothing while delivery.kind is \"mqtt\": remove it"))
    };
    if file.delivery.embedded.is_given() {
        return idle("delivery.embedded");
    }
    if file.delivery.reconnect_grace.is_some() {
        return idle("delivery.reconnect_grace");
    }
    if file.limits.device_qps.is_some() {
        return idle("limits.device_qps");
    }
    match file.instances.iter().find(|instance| !instance.devices.is_empty()) {
        Some(instance) => idle(&format!("instances.devices of {}", instance.id)),
        None => Ok(()),
    }
}

fn broker(mqtt: &Mqtt) -> Result<Config, String> {
    let named = |key: &'static str| move |why: String| format!("delivery.mqtt.{key} {why}");
    if mqtt.url.is_empty() {
        return Err("delivery.mqtt.url is missing: name the broker".into());
    }
    let (address, wants_tls) = Address::parse(&mqtt.url).map_err(named("url"))?;
    let files = TlsFiles {
        ca: mqtt.ca_file.as_deref(),
        cert: mqtt.cert_file.as_deref(),
        key: mqtt.key_file.as_deref(),
    };
    let tls = if wants_tls {
        let tls = Tls::load(&address.host, files);
        Some(tls.map_err(|why| format!("delivery.mqtt.{why}"))?)
    } else {
        let given = [("ca_file", files.ca), ("cert_file", files.cert), ("key_file", files.key)];
        if let Some((key, _)) = given.into_iter().find(|(_, path)| path.is_some()) {
            return Err(format!(
                "delivery.mqtt.{key} is set, and the url does not ask for TLS: write mqtts://"
            ));
        }
        None
    };
    let (least, most) = KEEP_ALIVE_BOUNDS;
    let keep_alive = within("delivery.mqtt.keep_alive", mqtt.keep_alive, least, most)?;
    if keep_alive.subsec_nanos() > 0 {
        return Err(format!(
            "delivery.mqtt.keep_alive is {keep_alive:?}; MQTT counts in whole seconds"
        ));
    }
    Ok(Config {
        address,
        tls,
        protocol: protocol(&mqtt.protocol)?,
        login: login(mqtt)?,
        client_id: mqtt.client_id.as_deref().map(client_id).transpose()?,
        topic: Template::parse(&mqtt.topic).map_err(named("topic"))?,
        keep_alive,
        connections: between("delivery.mqtt.connections", mqtt.connections, 1, CONNECTIONS_MAX)?,
        in_flight_messages_max: between(
            "delivery.mqtt.in_flight_max",
            mqtt.in_flight_max,
            1,
            IN_FLIGHT_MESSAGES_MAX,
        )?,
    })
}

fn protocol(name: &str) -> Result<Protocol, String> {
    match name {
        "auto" => Ok(Protocol::Auto),
        "5" => Ok(Protocol::V5),
        "3.1.1" => Ok(Protocol::V3),
        other => Err(format!(
            "delivery.mqtt.protocol is \"{}\"; it is \"auto\", \"5\" or \"3.1.1\"",
            other.escape_debug()
        )),
    }
}

fn login(mqtt: &Mqtt) -> Result<Option<Login>, String> {
    let source = Source {
        key: "delivery.mqtt".to_owned(),
        name: "password",
        plain: mqtt.password.as_ref(),
        env: mqtt.password_env.as_ref(),
        file: mqtt.password_file.as_ref(),
    };
    let password = source.is_given().then(|| source.read()).transpose()?;
    match (&mqtt.user, password) {
        (None, None) => Ok(None),
        (None, Some(_)) => Err("delivery.mqtt.password needs delivery.mqtt.user: add it".into()),
        (Some(user), _) if user.is_empty() => {
            Err("delivery.mqtt.user is empty: name one, or remove the key".into())
        }
        (Some(user), password) => Ok(Some(Login { user: user.clone(), password })),
    }
}

fn client_id(id: &str) -> Result<String, String> {
    if id.is_empty() || id.len() > CLIENT_ID_BYTES_MAX || id.chars().any(char::is_control) {
        return Err(format!(
            "delivery.mqtt.client_id \"{}\" is not 1 to {CLIENT_ID_BYTES_MAX} bytes without \
             control characters",
            id.escape_debug()
        ));
    }
    Ok(id.to_owned())
}

#[cfg(test)]
mod tests;
