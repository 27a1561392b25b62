//! Real MQTT clients: mosquitto_sub and paho-mqtt.

use std::net::SocketAddr;
use std::process::{Child, Command};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde::Deserialize;
use serde_json::{Value, json};
use sha1::Sha1;

use super::{INSTANCE, KEY_ID, Lines, Owned, SECRET, Weir, sdk_file, start_tool};

/// How a device signs in, and what it subscribes to.
pub(crate) struct Device {
    pub(crate) client_id: String,
    pub(crate) filter: String,
    /// Ask for a session that outlives the connection.
    pub(crate) persistent: bool,
}

/// A message as a device saw it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(crate) struct Received {
    pub(crate) topic: String,
    pub(crate) payload: Vec<u8>,
}

impl Device {
    /// A device with a clean session.
    pub(crate) fn new(name: &str, filter: &str) -> Self {
        let client_id = format!("GID_test@@@{name}");
        Self { client_id, filter: filter.to_owned(), persistent: false }
    }

    fn user(&self) -> String {
        format!("Signature|{KEY_ID}|{INSTANCE}")
    }

    /// Base64(HMAC-SHA1(client id, secret)), as ApsaraMQ devices make it.
    fn password(&self) -> String {
        let mut mac = Hmac::<Sha1>::new_from_slice(SECRET.as_bytes()).expect("any length fits");
        mac.update(self.client_id.as_bytes());
        STANDARD.encode(mac.finalize().into_bytes())
    }
}

/// mosquitto_sub, subscribed.
pub(crate) struct Subscriber {
    _process: Owned,
    output: Lines,
    errors: Lines,
}

/// What a line of ours begins with; others are the client's own.
const MESSAGE: &str = "message ";

impl Subscriber {
    /// Connects, and returns once the broker has acknowledged the subscription.
    pub(crate) fn start(weir: &Weir, device: &Device) -> Self {
        Self::start_with(weir, device, &[])
    }

    /// The same with more of its arguments; a port among them is the one that counts.
    pub(crate) fn start_with(weir: &Weir, device: &Device, more: &[String]) -> Self {
        let SocketAddr::V4(at) = weir.devices() else { panic!("the listener is IPv4") };
        // Its own output is buffered while it says that it has subscribed.
        let mut command = Command::new("stdbuf");
        command.args(["-oL", "mosquitto_sub", "-d", "-q", "1", "-F"]);
        command.arg(format!("{MESSAGE}%x %t")).args(["-h", &at.ip().to_string()]);
        command.args(["-p", &at.port().to_string()]).args(more).args(["-i", &device.client_id]);
        command.args(["-u", &device.user(), "-P", &device.password(), "-t", &device.filter]);
        if device.persistent {
            command.arg("-c");
        }
        let (process, output, errors) = watch("mosquitto_sub", start_tool(&mut command));
        let subscriber = Self { _process: process, output, errors };
        let granted =
            subscriber.output.wait_for("the SUBACK (`make tools` installs it)", |lines| {
                lines
                    .iter()
                    .find_map(|line| Some(line.strip_prefix("Subscribed (mid: 1): ")?.to_owned()))
            });
        let granted = granted.unwrap_or_else(|why| panic!("{why}{}", subscriber.errors.text()));
        assert_eq!(granted, "1", "the broker grants QoS 1 for {}", device.filter);
        subscriber
    }

    /// Waits for this many messages; returns all there are, in the order in which they came.
    pub(crate) fn received(&self, count: usize) -> Vec<Received> {
        received(&self.output, count, |line| {
            let (payload, topic) = line.strip_prefix(MESSAGE)?.split_once(' ')?;
            Some((topic.to_owned(), payload.to_owned()))
        })
    }
}

/// A paho-mqtt client in a process of its own, subscribed.
pub(crate) struct Paho {
    _process: Owned,
    output: Lines,
}

impl Paho {
    /// Connects, and returns once the broker has acknowledged the subscription.
    pub(crate) fn start(weir: &Weir, device: &Device) -> Self {
        Self::start_with(weir.devices(), device, &json!({}))
    }

    /// The same, there, with more of what device.py takes.
    pub(crate) fn start_with(at: SocketAddr, device: &Device, more: &Value) -> Self {
        let (process, output, errors) =
            watch("paho", start_tool(&mut Self::command(at, device, more)));
        let subscribed = output.wait_for("the SUBACK", |lines| {
            lines.iter().any(|line| line.contains("subscribed")).then_some(())
        });
        subscribed.unwrap_or_else(|why| panic!("{why}{}", errors.text()));
        Self { _process: process, output }
    }

    /// Connects in vain; returns what paho says.
    pub(crate) fn refused(at: SocketAddr, device: &Device, more: &Value) -> String {
        let output = Self::command(at, device, more).output().expect("it runs");
        assert!(!output.status.success(), "the broker let the device in");
        String::from_utf8_lossy(&output.stderr).into_owned()
    }

    fn command(at: SocketAddr, device: &Device, more: &Value) -> Command {
        let mut argument = json!({
            "host": at.ip().to_string(),
            "port": at.port(),
            "client_id": device.client_id,
            "user": device.user(),
            "password": device.password(),
            "filter": device.filter,
        });
        let all = argument.as_object_mut().expect("it is an object");
        all.extend(more.as_object().cloned().unwrap_or_default());
        let mut command = Command::new(sdk_file(".venv/mqtt/bin/python"));
        command.arg(sdk_file("device.py")).arg(argument.to_string());
        command
    }

    /// Waits for the first message, and returns all that device.py says of it.
    pub(crate) fn line(&self) -> Value {
        let line = self.output.wait_for("a message", |lines| {
            lines.iter().find(|line| line.contains("payload")).cloned()
        });
        serde_json::from_str(&line.unwrap_or_else(|why| panic!("{why}"))).expect("JSON")
    }

    /// Waits for this many messages; returns all there are, in the order in which they came.
    pub(crate) fn received(&self, count: usize) -> Vec<Received> {
        #[derive(Deserialize)]
        struct Line {
            topic: String,
            payload: String,
        }
        received(&self.output, count, |line| {
            let line: Line = serde_json::from_str(line).ok()?;
            Some((line.topic, line.payload))
        })
    }
}

fn watch(name: &'static str, mut child: Child) -> (Owned, Lines, Lines) {
    let output = Lines::of(name, child.stdout.take().expect("it is piped"));
    let errors = Lines::of(name, child.stderr.take().expect("it is piped"));
    (Owned(child), output, errors)
}

fn received(
    output: &Lines,
    count: usize,
    parse: impl Fn(&str) -> Option<(String, String)>,
) -> Vec<Received> {
    let parse = |line: &String| {
        let (topic, payload) = parse(line)?;
        let payload = hex::decode(payload).expect("clients print hexadecimal");
        Some(Received { topic, payload })
    };
    let all = output.wait_for(&format!("{count} messages"), |lines| {
        let received: Vec<_> = lines.iter().filter_map(parse).collect();
        (received.len() >= count).then_some(received)
    });
    all.unwrap_or_else(|why| panic!("{why}"))
}

impl std::fmt::Debug for Received {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let start = &self.payload[..self.payload.len().min(16)];
        write!(f, "{} {} bytes: {}", self.topic, self.payload.len(), hex::encode(start))
    }
}
