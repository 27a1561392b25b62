//! The official SDKs, as their users run them, against a running weir and real devices.
//!
//! A test that lacks an SDK fails and says so: `make tools` installs them.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "a shared harness: other tests use the rest")]
mod support;

use std::collections::{HashMap, HashSet};
use std::io::Write;
use std::process::{ChildStdin, Command};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use serde_json::json;

use support::{
    Device, INSTANCE, KEY_ID, Lines, Owned, SECRET, SLOW, SLOW_SETTINGS, Subscriber, TOPIC, Weir,
    device, sdk_file, start_tool,
};

/// Largest payload: 64 KiB after decoding.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// What SDKs encode differently, all allowed in a topic: some of it bare, some escaped, some `+`.
const AWKWARD_TOPIC: &str = "TopicA/ü 世 *'()!~&=%2B;:@";

/// One generation of an SDK, sending in one shape.
struct Sdk {
    /// Its environment below `tests/sdk/.venv`; without one it is Node's.
    python: Option<&'static str>,
    script: &'static str,
    shape: &'static str,
    /// What it raises at a refusal; `*` stands for the code.
    refused: &'static str,
    /// What it raises when it is throttled.
    throttled: &'static str,
    /// The code it shows for a wrong secret.
    wrong_secret: &'static str,
    /// What else it shows of an error.
    shows: Shows,
}

#[derive(PartialEq)]
enum Shows {
    Status,
    StatusAndRetryAfter,
}

const TEA: Sdk = Sdk {
    python: Some("tea"),
    script: "tea.py",
    shape: "v3",
    refused: "ClientException",
    throttled: "ThrottlingException",
    wrong_secret: "SignatureDoesNotMatch",
    shows: Shows::StatusAndRetryAfter,
};
/// It compares the server's string to sign with its own, and says whose fault a mismatch is.
const OLD: Sdk = Sdk {
    python: Some("old"),
    script: "old.py",
    shape: "product",
    refused: "ServerException",
    throttled: "ServerException",
    wrong_secret: "InvalidAccessKeySecret",
    shows: Shows::Status,
};
/// Its CommonRequest forgets what it signed, so it passes the mismatch on.
const OLD_COMMON: Sdk = Sdk { shape: "common-body", wrong_secret: "SignatureDoesNotMatch", ..OLD };
const OPENAPI: Sdk = Sdk {
    python: None,
    script: "openapi.js",
    shape: "query",
    refused: "Error",
    throttled: "Error",
    wrong_secret: "SignatureDoesNotMatch",
    shows: Shows::Status,
};
const POP: Sdk = Sdk {
    python: None,
    script: "pop.js",
    shape: "get",
    refused: "*Error",
    throttled: "*Error",
    wrong_secret: "SignatureDoesNotMatch",
    shows: Shows::Status,
};

macro_rules! sdks {
    ($($name:ident: $sdk:expr;)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn a_device_receives_the_bytes_it_sent_and_each_is_billed() {
                delivers(&$sdk);
            }

            #[test]
            fn it_raises_its_own_exception_with_the_code_of_the_refusal() {
                raises(&$sdk);
            }
        }
    )*};
}

sdks! {
    python_v3: TEA;
    python_v3_async: Sdk { shape: "v3-async", ..TEA };
    python_v3_sm3: Sdk { shape: "sm3", ..TEA };
    python_v3_form: Sdk { shape: "form", ..TEA };
    python_v3_json: Sdk { shape: "json", ..TEA };
    python_v2: Sdk { shape: "v2", ..TEA };
    python_first_release: Sdk { python: Some("first"), shape: "default", ..TEA };
    python_old: OLD;
    python_old_body: OLD_COMMON;
    node_v3: OPENAPI;
    node_v3_chunked_form: Sdk { shape: "form", ..OPENAPI };
    node_v3_sm3: Sdk { shape: "sm3", ..OPENAPI };
    node_v2: Sdk { shape: "v2", ..OPENAPI };
    node_pop_get: POP;
    node_pop_post: Sdk { shape: "post", ..POP };
}

fn delivers(sdk: &Sdk) {
    let weir = Weir::start();
    let device = Subscriber::start(&weir, &Device::new("receiver", "TopicA/#"));
    let mut client = Client::start(sdk);
    let mut sent: HashMap<&str, Vec<Vec<u8>>> = HashMap::new();
    let mut ids = HashSet::new();
    for (topic, payload) in messages() {
        let answer = client.send(&Call { topic, ..Call::to(&weir, &payload) });
        let (msg_id, request_id) = answer.accepted();
        assert_hex_id(&msg_id);
        assert_request_id(&request_id);
        assert!(ids.insert(msg_id), "each message has an id of its own");
        sent.entry(topic).or_default().push(payload);
    }
    // Order holds within a topic only.
    let mut received: HashMap<String, Vec<Vec<u8>>> = HashMap::new();
    for message in device.received(ids.len()) {
        received.entry(message.topic).or_default().push(message.payload);
    }
    for (topic, payloads) in &sent {
        assert!(received.get(*topic) == Some(payloads), "{topic} has what was sent, in order");
    }
    assert_eq!(weir.billed(), ids.len() as f64);
    assert_eq!(weir.metric("weir_requests_total{code=\"OK\"}"), ids.len() as f64);
}

/// Every byte, text, one byte, and 64 KiB whose Base64 is all `/`: in a query these are 262 KB,
/// and what follows may come over the same connection.
fn messages() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        (TOPIC, (0..=255).collect()),
        (TOPIC, vec![0xff; PAYLOAD_BYTES_MAX]),
        (TOPIC, "grüße, 世界 🌊\n\"{}\"".into()),
        (TOPIC, vec![0]),
        (AWKWARD_TOPIC, b"an awkward topic".to_vec()),
        (TOPIC, vec![0xff; PAYLOAD_BYTES_MAX]),
    ]
}

fn raises(sdk: &Sdk) {
    let weir = Weir::start_with(SLOW_SETTINGS);
    let mut client = Client::start(sdk);
    let call = Call::to(&weir, b"refused");
    let too_large = vec![0xff; PAYLOAD_BYTES_MAX + 1];
    for (call, code, status) in [
        (Call { secret: "not the secret", ..call }, sdk.wrong_secret, 400),
        (Call { key: "LTAI5tNobody", ..call }, "InvalidAccessKeyId.NotFound", 404),
        (Call { instance: "post-cn-else", ..call }, "InstancePermissionCheckFailed", 400),
        (Call { topic: "TopicB", ..call }, "PermissionCheckFailed", 400),
        (Call { topic: "TopicA/#", ..call }, "ParameterCheckFailed", 400),
        (Call { payload: &too_large, ..call }, "InvalidParameter.Payload", 400),
    ] {
        let raised = client.send(&call).raised();
        raised.is(sdk.refused, code, status);
        assert_eq!(raised.retry_after, None, "{raised:?}");
    }
    assert_eq!(weir.billed(), 0.0, "a refusal is not billed");
    is_throttled(sdk, &weir, &mut client);
}

/// Two messages within a second; a machine that is too slow for that gets more chances.
fn is_throttled(sdk: &Sdk, weir: &Weir, client: &mut Client) {
    const CHANCES: u32 = 20;
    let call = Call { instance: SLOW, ..Call::to(weir, b"throttled") };
    let mut accepted = 0.0;
    let raised = (0..CHANCES).find_map(|_| match client.send(&call) {
        Answer::Accepted { .. } => {
            accepted += 1.0;
            None
        }
        Answer::Raised(raised) => Some(raised),
    });
    let raised = raised.expect("an instance at 1/s is throttled");
    raised.is(sdk.throttled, "Throttling.User", 429);
    if sdk.shows == Shows::StatusAndRetryAfter {
        let wait_ms = raised.retry_after.expect("a throttled call says when to come again");
        assert!((1..=1_000).contains(&wait_ms), "a token is back within a second: {wait_ms}");
    }
    let series = format!("weir_billable_messages_total{{instance_id=\"{SLOW}\"}}");
    assert_eq!(weir.metric(&series), accepted, "only a 200 is billed");
}

#[test]
fn paho_receives_the_bytes_an_sdk_sent() {
    let weir = Weir::start();
    let device = device::Paho::start(&weir, &Device::new("paho", "TopicA/#"));
    let mut client = Client::start(&TEA);
    let sent: Vec<_> = messages().into_iter().filter(|(topic, _)| *topic == TOPIC).collect();
    for (_, payload) in &sent {
        client.send(&Call::to(&weir, payload)).accepted();
    }
    let received = device.received(sent.len()).into_iter().map(|message| message.payload);
    assert!(received.eq(sent.into_iter().map(|(_, payload)| payload)), "all of it, in order");
}

#[test]
fn a_p2p_message_reaches_its_client_without_a_subscription_and_nobody_else() {
    let weir = Weir::start();
    let target = Device::new("target", "TopicA/unused");
    let device = Subscriber::start(&weir, &target);
    let bystander = Subscriber::start(&weir, &Device::new("bystander", "TopicA/#"));
    let mut client = Client::start(&TEA);
    let topic = format!("TopicA/p2p/{}", target.client_id);
    client.send(&Call { topic: &topic, ..Call::to(&weir, b"for one") }).accepted();
    client.send(&Call { topic: "TopicA/unused", ..Call::to(&weir, b"for all") }).accepted();
    let all: HashSet<_> = device.received(2).into_iter().map(|it| (it.topic, it.payload)).collect();
    assert!(all.contains(&(topic, b"for one".to_vec())), "{all:?}");
    let seen = bystander.received(1);
    assert!(seen.iter().all(|message| message.payload == b"for all"), "{seen:?}");
}

/// An SDK's process.
struct Client {
    _process: Owned,
    calls: ChildStdin,
    answers: Lines,
    errors: Lines,
    answered: usize,
}

/// One call, as a script of `tests/sdk/` takes it.
#[derive(Clone, Copy)]
struct Call<'c> {
    weir: &'c Weir,
    key: &'c str,
    secret: &'c str,
    instance: &'c str,
    topic: &'c str,
    payload: &'c [u8],
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Accepted { msg_id: String, request_id: String },
    Raised(Raised),
}

#[derive(Debug, Deserialize)]
struct Raised {
    raised: String,
    code: Option<String>,
    message: String,
    status: Option<u16>,
    request_id: Option<String>,
    retry_after: Option<u64>,
}

impl Client {
    fn start(sdk: &Sdk) -> Self {
        let program = match sdk.python {
            Some(environment) => sdk_file(".venv").join(environment).join("bin/python"),
            None => "node".into(),
        };
        let mut command = Command::new(program);
        let mut child = start_tool(command.arg(sdk_file(sdk.script)).arg(sdk.shape));
        let calls = child.stdin.take().expect("it is piped");
        let answers = Lines::of("the SDK", child.stdout.take().expect("it is piped"));
        let errors = Lines::of("the SDK", child.stderr.take().expect("it is piped"));
        Self { _process: Owned(child), calls, answers, errors, answered: 0 }
    }

    fn send(&mut self, call: &Call<'_>) -> Answer {
        let line = json!({
            "endpoint": call.weir.http().to_string(),
            "key": call.key,
            "secret": call.secret,
            "instance": call.instance,
            "topic": call.topic,
            "payload": STANDARD.encode(call.payload),
        });
        // One that has ended shows why below.
        let _ = writeln!(self.calls, "{line}");
        let answer = self
            .answers
            .wait_for("its answer", |lines| lines.get(self.answered).cloned())
            .unwrap_or_else(|why| {
                let log = call.weir.log();
                panic!("{why}{}weir's log:\n{log}`make tools` installs SDKs", self.errors.text())
            });
        self.answered += 1;
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("{answer}: {error}"))
    }
}

impl<'c> Call<'c> {
    fn to(weir: &'c Weir, payload: &'c [u8]) -> Self {
        Self { weir, key: KEY_ID, secret: SECRET, instance: INSTANCE, topic: TOPIC, payload }
    }
}

impl Answer {
    fn accepted(self) -> (String, String) {
        match self {
            Self::Accepted { msg_id, request_id } => (msg_id, request_id),
            Self::Raised(raised) => panic!("refused: {raised:?}"),
        }
    }

    fn raised(self) -> Raised {
        match self {
            Self::Raised(raised) => raised,
            Self::Accepted { msg_id, .. } => panic!("accepted as {msg_id}"),
        }
    }
}

impl Raised {
    fn is(&self, class: &str, code: &str, status: u16) {
        assert_eq!(self.raised, class.replace('*', code), "{self:?}");
        assert_eq!(self.code.as_deref(), Some(code), "{self:?}");
        assert_eq!(self.status, Some(status), "{self:?}");
        assert!(!self.message.is_empty(), "{self:?}");
        assert_request_id(self.request_id.as_deref().unwrap_or_default());
    }
}

fn assert_hex_id(id: &str) {
    let upper_hex = |byte: u8| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte);
    assert!(id.len() == 32 && id.bytes().all(upper_hex), "{id} is 32 upper-case hex digits");
}

fn assert_request_id(id: &str) {
    let groups: Vec<_> = id.split('-').map(str::len).collect();
    assert_eq!(groups, [8, 4, 4, 4, 12], "{id} is a UUID");
    let upper_hex =
        |char: char| char == '-' || char.is_ascii_digit() || ('A'..='F').contains(&char);
    assert!(id.chars().all(upper_hex), "{id} is upper case");
}
