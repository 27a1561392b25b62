use std::fs::OpenOptions;
use std::io::Write;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use serde::Deserialize;

use crate::admission::{Parameter, Verb, format_timestamp, sign_v1};
use crate::clock::{Clock, SystemClock};
use crate::config::{Config, Places};
use crate::delivery::embedded::{Secret, device_password};
use crate::pipeline::Addresses;

use super::{Failure, client};

/// Where the demo keeps its configuration, its key and its data.
const FOLDER: &str = "weir-data";
const FILE: &str = "weir-data/demo.toml";
const INSTANCE: &str = "post-cn-demo0000001";
const TOPIC: &str = "TopicA";
const CLIENT_ID: &str = "GID_demo@@@device1";

const ALPHANUMERIC: &[u8; 62] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
/// Random characters after the `LTAI5t` that access key ids begin with.
const KEY_ID_CHARS: usize = 18;
const SECRET_CHARS: usize = 30;

/// The demo's account, as its file has it.
pub(super) struct Demo {
    pub(super) access_key_id: String,
    pub(super) secret: String,
    pub(super) instance: String,
    pub(super) topic: String,
}

/// The demo's file, made with a random key if this is the first start.
pub(super) fn open_or_create() -> Result<(Config, Demo), Failure> {
    let path = Path::new(FILE);
    if !path.exists() {
        create(path).map_err(|error| Failure::because(FILE, error))?;
    }
    Ok((Config::load(path)?, open()?))
}

/// The demo's configuration, if there has been a first start.
pub(super) fn config_if_any() -> Result<Option<Config>, Failure> {
    let path = Path::new(FILE);
    path.exists().then(|| Config::load(path)).transpose().map_err(Failure::from)
}

/// Where the demo keeps its data, if it ever ran here.
pub(super) fn data_dir() -> Result<PathBuf, Failure> {
    let path = Path::new(FILE);
    if !path.exists() {
        return Err(Failure::because(FILE, "there is none; give --config, or run where weir runs"));
    }
    Ok(Config::data_dir(path)?)
}

/// Where the demo is, if it ever ran here.
pub(super) fn places() -> Result<Places, Failure> {
    data_dir()?;
    Ok(Config::places(Path::new(FILE))?)
}

/// The demo's configuration, for a command that only looks: nothing is made.
pub(super) fn open_config() -> Result<Config, Failure> {
    open()?;
    Ok(Config::load(Path::new(FILE))?)
}

/// The demo's account, for a command beside a running demo.
pub(super) fn open() -> Result<Demo, Failure> {
    #[derive(Deserialize)]
    struct File {
        accounts: Vec<Account>,
        instances: Vec<Instance>,
    }
    #[derive(Deserialize)]
    struct Account {
        access_keys: Vec<Key>,
    }
    #[derive(Deserialize)]
    struct Key {
        id: String,
        secret: String,
    }
    #[derive(Deserialize)]
    struct Instance {
        id: String,
        topics: Vec<String>,
    }
    let unusable = |what: &str| Failure::because(FILE, what);
    let text = std::fs::read_to_string(FILE).map_err(|error| Failure::because(FILE, error))?;
    let file: File =
        toml::from_str(&text).map_err(|error| unusable(&error.message().replace('\n', " ")))?;
    let key = file.accounts.into_iter().flat_map(|account| account.access_keys).next();
    let key = key.ok_or_else(|| unusable("has no access key; remove the file"))?;
    let instance = file.instances.into_iter().next();
    let Instance { id, topics } = instance.ok_or_else(|| unusable("has no instance"))?;
    let topic = topics.into_iter().next().ok_or_else(|| unusable("has no topic"))?;
    Ok(Demo { access_key_id: key.id, secret: key.secret, instance: id, topic })
}

fn create(path: &Path) -> Result<(), std::io::Error> {
    let text = format!(
        "# The demo of weir, made at its first start. Copy it to begin one of your own.\n\
         data_dir = \"{FOLDER}\"\n\n\
         [[accounts]]\nid = \"1000000000000001\"\n\
         [[accounts.access_keys]]\nid = \"LTAI5t{}\"\nsecret = \"{}\"\n\n\
         [[instances]]\nid = \"{INSTANCE}\"\naccount = \"1000000000000001\"\n\
         topics = [\"{TOPIC}\"]\n",
        random_text(KEY_ID_CHARS)?,
        random_text(SECRET_CHARS)?,
    );
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(FOLDER)?;
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn random_text(chars: usize) -> Result<String, std::io::Error> {
    let mut text = String::with_capacity(chars);
    while text.len() < chars {
        let mut byte = [0];
        getrandom::fill(&mut byte).map_err(std::io::Error::other)?;
        // Values from 248 on would make the first letters likelier.
        if let Some(letter) = (byte[0] < 248).then(|| ALPHANUMERIC[usize::from(byte[0]) % 62]) {
            text.push(char::from(letter));
        }
    }
    Ok(text)
}

impl Demo {
    /// What a newcomer pastes: ways to subscribe, and ways to send.
    pub(super) fn greeting(&self, at: Addresses) -> Result<String, Failure> {
        let Addresses { http, devices, ops, .. } = at;
        let devices = devices.map(|devices| self.device_lines(devices));
        let (devices, subscribe) = devices.unwrap_or_else(|| {
            let said = "at the broker of delivery.mqtt.url".to_owned();
            (said, "Subscribe there, in a second terminal.".to_owned())
        });
        let url = self.signed_url(at)?;
        let Self { access_key_id, secret, instance, topic } = self;
        let program = std::env::args().next().unwrap_or_else(|| "weir".to_owned());
        Ok(format!(
            "\nweir demo is ready.\n\n  \
             endpoint     http://{http}\n  \
             access key   {access_key_id}\n  \
             secret       {secret}\n  \
             instance     {instance}\n  \
             topic        {topic}\n  \
             devices      {devices}\n  \
             metrics      http://{ops}/metrics\n\n\
             {subscribe}\n\n\
             Send, in a third:\n\n  \
             {program} send 'hello'\n\n\
             or without weir's own sender (signed for one use within 15 minutes):\n\n  \
             curl '{url}'\n\n\
             The key is kept in {FILE}. Stop with ctrl-C.\n\n"
        ))
    }

    /// Where devices connect, and how one subscribes.
    fn device_lines(&self, devices: SocketAddr) -> (String, String) {
        let password = device_password(CLIENT_ID, &Secret::new(self.secret.clone()));
        let Self { access_key_id, instance, topic, .. } = self;
        let subscribe = format!(
            "Subscribe, in a second terminal:\n\n  \
             mosquitto_sub -h {} -p {} -i '{CLIENT_ID}' -u 'Signature|{access_key_id}|{instance}' \
             -P '{password}' -q 1 -v -t '{topic}/#'",
            devices.ip(),
            devices.port(),
        );
        (format!("mqtt://{devices}"), subscribe)
    }

    fn signed_url(&self, at: Addresses) -> Result<String, Failure> {
        let nonce = client::nonce().map_err(|error| Failure::because("random source", error))?;
        let timestamp = format_timestamp(SystemClock.unix());
        let mut query: Vec<Parameter<'_>> = vec![
            ("Action".into(), crate::admission::ACTION.into()),
            ("Version".into(), crate::admission::VERSION.into()),
            ("Format".into(), "JSON".into()),
            ("AccessKeyId".into(), self.access_key_id.as_str().into()),
            ("SignatureMethod".into(), "HMAC-SHA1".into()),
            ("SignatureVersion".into(), "1.0".into()),
            ("SignatureNonce".into(), nonce.into()),
            ("Timestamp".into(), timestamp.into()),
            ("InstanceId".into(), self.instance.as_str().into()),
            ("MqttTopic".into(), self.topic.as_str().into()),
            ("Payload".into(), "aGVsbG8gZnJvbSBjdXJs".into()),
        ];
        let signature = sign_v1(&self.secret, Verb::Get, &query);
        query.push(("Signature".into(), signature.into()));
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(query).finish();
        Ok(format!("http://{}/?{query}", at.http))
    }
}
