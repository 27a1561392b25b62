//! The data port as OpenAPI 3.1: codes, statuses and messages are those of the table of answers,
//! bounds are the constants that hold them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::long_target::LINE_BYTES_MAX;
use super::request::BODY_BYTES_MAX;
use super::response::{Code, rows};
use crate::admission::{ACTION, PARAMETERS_MAX, VERSION, WINDOW};
use crate::message::{
    CLIENT_ID_CHARS_MAX, INSTANCE_ID_BYTES_MAX, PAYLOAD_BYTES_MAX, TOPIC_CHARS_MAX, TOPIC_CHARS_MIN,
};

const MESSAGE_ID: &str = "^[0-9A-F]{32}$";
const REQUEST_ID: &str = "^[0-9A-F]{8}-[0-9A-F]{4}-5[0-9A-F]{3}-[89AB][0-9A-F]{3}-[0-9A-F]{12}$";
const QUOTA_POLICY: &str = "^\"instance\";q=[0-9]+;w=1$";
const QUOTA: &str = "^\"instance\";r=[0-9]+;t=[0-9]+$";
const GATEWAY_QUOTA: &str = "^Limit:[0-9]+,Remain:0,TimeLeft:[0-9]+,Reset:[0-9]+$";

const ABOUT: &str = "\
A 200 means that the message and its bill are on disk under one completed sync: it is billed \
exactly once and reaches the broker at least once. A refused call is not billed. Parameters stand \
in the query, in a form body, or (V3 only) in a JSON body; a name given twice is refused. Signed \
either as V3 (`Authorization` and the `x-acs-*` headers) or as V1 (`Signature` and the other \
common parameters). What is not HTTP at all is answered by the HTTP library: an empty 400 or 431.";

/// The path of the data port, by method.
#[must_use]
pub fn paths() -> Value {
    let operation = |id: &str, body: Option<Value>| {
        let mut operation = json!({
            "operationId": id,
            "summary": "Send a message to the devices of an instance",
            "description": ABOUT,
            "tags": ["data port"],
            "security": [{ "acs3": [] }, { "rpc": [] }],
            "parameters": references("parameters", &parameters()),
            "responses": references_by_status(),
        });
        if let Some(body) = body {
            operation["requestBody"] = body;
        }
        operation
    };
    json!({ "/": {
        "get": operation("SendMessageByGet", None),
        "post": operation("SendMessage", Some(request_body())),
    } })
}

/// What the paths refer to.
#[must_use]
pub fn components() -> Value {
    json!({
        "schemas": {
            "Message": {
                "type": "object",
                "description": "What is sent, if it stands in the body.",
                "properties": message_parameters().into_iter().collect::<Map<_, _>>(),
                "additionalProperties": { "type": "string" },
            },
            "Sent": {
                "type": "object",
                "description": "The message is stored and billed.",
                "required": ["MsgId", "RequestId"],
                "properties": {
                    "MsgId": {
                        "type": "string", "pattern": MESSAGE_ID,
                        "description": "The id devices, ledger and journal know the message by.",
                    },
                    "RequestId": request_id_schema(),
                },
                "additionalProperties": false,
                "xml": { "name": "SendMessageResponse" },
            },
            "Error": {
                "type": "object",
                "description": "The call was not stored, or its text says that this is unknown.",
                "required": ["RequestId", "HostId", "Code", "Message", "Recommend"],
                "properties": {
                    "RequestId": request_id_schema(),
                    "HostId": { "type": "string", "description": "The Host of the request." },
                    "Code": { "type": "string" },
                    "Message": { "type": "string" },
                    "Recommend": { "type": "string", "format": "uri" },
                },
                "additionalProperties": false,
                "xml": { "name": "Error" },
            },
        },
        "parameters": parameters(),
        "responses": responses(),
        "securitySchemes": {
            "acs3": {
                "type": "apiKey", "in": "header", "name": "Authorization",
                "description": "V3: `ACS3-HMAC-SHA256` or `ACS3-HMAC-SM3`, then `Credential=…,\
                    SignedHeaders=…,Signature=…`. Every `x-acs-*` header and `host` is signed.",
            },
            "rpc": {
                "type": "apiKey", "in": "query", "name": "Signature",
                "description": "V1: Base64 of HMAC-SHA1 over method and parameters. It may stand \
                    in a form body too.",
            },
        },
    })
}

fn request_id_schema() -> Value {
    json!({ "type": "string", "pattern": REQUEST_ID, "description": "Names the call in the log." })
}

/// The three parameters of the action.
fn message_parameters() -> [(String, Value); 3] {
    let parameter = |name: &str, schema| (name.to_owned(), schema);
    [
        parameter(
            "InstanceId",
            json!({
                "type": "string",
                "pattern": format!("^[A-Za-z0-9-]{{1,{INSTANCE_ID_BYTES_MAX}}}$"),
                "description": "The instance; it is the caller's account's.",
                "examples": ["post-cn-demo0000001"],
            }),
        ),
        parameter(
            "MqttTopic",
            json!({
                "type": "string",
                "minLength": TOPIC_CHARS_MIN,
                "description": format!(
                    "The topic: {TOPIC_CHARS_MIN} to {TOPIC_CHARS_MAX} characters, no wildcard, no \
                     NUL, whose first level is a topic of the instance. \
                     `{{parent}}/p2p/{{client id}}` goes to one device, and its client id has \
                     {CLIENT_ID_CHARS_MAX} characters of its own."
                ),
                "examples": ["TopicA", "TopicA/p2p/GID_demo@@@device1"],
            }),
        ),
        parameter(
            "Payload",
            json!({
                "type": "string",
                "description": format!(
                    "The payload as Base64, at most {PAYLOAD_BYTES_MAX} bytes when decoded; as it \
                     is, for an instance with `payload = \"verbatim\"`."
                ),
                "examples": ["aGVsbG8="],
            }),
        ),
    ]
}

/// The parameters of the query and the headers, by name.
fn parameters() -> Map<String, Value> {
    let minutes = WINDOW.as_secs() / 60;
    let utc =
        format!("YYYY-MM-DDThh:mm:ssZ in UTC, at most {minutes} minutes from the server's time.");
    let nonce = "Any text, used once by an access key.";
    let common = [
        ("query", "Action", json!({ "type": "string", "const": ACTION }), "V1."),
        ("query", "Version", json!({ "type": "string", "const": VERSION }), "V1."),
        ("query", "Format", json!({ "enum": ["JSON", "XML"], "default": "XML" }), "V1."),
        ("query", "AccessKeyId", text(), "V1."),
        ("query", "SignatureMethod", json!({ "type": "string", "const": "HMAC-SHA1" }), "V1."),
        ("query", "SignatureVersion", json!({ "type": "string", "const": "1.0" }), "V1."),
        ("query", "SignatureNonce", text(), nonce),
        ("query", "Timestamp", text(), &utc),
        ("header", "x-acs-action", json!({ "type": "string", "const": ACTION }), "V3."),
        ("header", "x-acs-version", json!({ "type": "string", "const": VERSION }), "V3."),
        ("header", "x-acs-date", text(), &utc),
        ("header", "x-acs-signature-nonce", text(), nonce),
        ("header", "x-acs-content-sha256", text(), "V3: the hash of the body, in lower hex."),
    ];
    let whole = format!(
        "In query and body together a call has at most {PARAMETERS_MAX} parameters; a request line \
         at most {LINE_BYTES_MAX} bytes."
    );
    let described = |place: &str, name: &str, schema: Value, description: &str| {
        let parameter =
            json!({ "in": place, "name": name, "schema": schema, "description": description });
        (name.to_owned(), parameter)
    };
    let message = message_parameters().map(|(name, it)| described("query", &name, it, &whole));
    let common = common.map(|(place, name, it, about)| described(place, name, it, about));
    message.into_iter().chain(common).collect()
}

fn text() -> Value {
    json!({ "type": "string" })
}

fn request_body() -> Value {
    let message = json!({ "schema": reference("schemas", "Message") });
    json!({
        "description": format!(
            "The parameters that do not stand in the query; at most {BODY_BYTES_MAX} bytes."
        ),
        "content": { "application/x-www-form-urlencoded": message, "application/json": message },
    })
}

/// Answers by name; one has all codes that come with its status.
fn responses() -> Value {
    let described = by_status().into_iter().map(|(status, codes)| {
        let sent = codes.iter().any(|(code, ..)| *code == Code::Ok);
        (named(status), if sent { success() } else { refusal(status, &codes) })
    });
    Value::Object(described.collect())
}

type Said = (Code, &'static str, &'static str);

fn by_status() -> BTreeMap<u16, Vec<Said>> {
    let mut by_status: BTreeMap<u16, Vec<Said>> = BTreeMap::new();
    for (code, status, text, message) in rows() {
        by_status.entry(status).or_default().push((code, text, message));
        if code == Code::Throttled {
            by_status.entry(400).or_default().push((code, text, message));
        }
    }
    by_status
}

fn named(status: u16) -> String {
    format!("Answer{status}")
}

fn reference(kind: &str, name: &str) -> Value {
    json!({ "$ref": format!("#/components/{kind}/{name}") })
}

fn references(kind: &str, named: &Map<String, Value>) -> Vec<Value> {
    named.keys().map(|name| reference(kind, name)).collect()
}

fn references_by_status() -> Value {
    let statuses = by_status().into_keys();
    let referred = statuses.map(|at| (at.to_string(), reference("responses", &named(at))));
    Value::Object(referred.collect())
}

fn success() -> Value {
    json!({
        "description": "The message is on disk with its bill, and on its way.",
        "headers": headers(&[]),
        "content": content(&reference("schemas", "Sent"), None),
    })
}

fn refusal(status: u16, codes: &[Said]) -> Value {
    let said = codes.iter().map(|(code, text, _)| format!("- `{text}`: {}", when(*code)));
    let (patterns, names): (Vec<&str>, Vec<&str>) =
        codes.iter().map(|(_, text, _)| *text).partition(|text| text.contains("{Name}"));
    let mut spelled = vec![json!({ "enum": names })];
    spelled.extend(patterns.iter().map(|text| {
        let pattern = format!("^{}$", text.replace("{Name}", "[A-Z][A-Za-z0-9]*"));
        json!({ "type": "string", "pattern": pattern })
    }));
    let schema = json!({
        "allOf": [reference("schemas", "Error")],
        "properties": { "Code": { "anyOf": spelled } },
    });
    let examples = codes.iter().map(|(_, text, message)| {
        let fill = |text: &str| text.replace("{Name}", "Action");
        let value = json!({
            "RequestId": "7F75E7B4-4636-53B4-A8DE-5FC4A9E1F876",
            "HostId": "127.0.0.1:8080",
            "Code": fill(text),
            "Message": fill(message),
            "Recommend": format!(
                "https://api.aliyun.com/troubleshoot?q={}&product=OnsMqtt&\
                 requestId=7F75E7B4-4636-53B4-A8DE-5FC4A9E1F876",
                fill(text)
            ),
        });
        ((*text).replace("{Name}", ""), json!({ "value": value }))
    });
    let more: Vec<_> = codes.iter().flat_map(|(code, ..)| headers_of(*code, status)).collect();
    json!({
        "description": said.collect::<Vec<_>>().join("\n"),
        "headers": headers(&more),
        "content": content(&schema, Some(examples.collect())),
    })
}

/// JSON for V3, for V1 with `Format=JSON`, and for what cannot be read as a call; else XML.
fn content(schema: &Value, examples: Option<Map<String, Value>>) -> Value {
    let mut json = json!({ "schema": schema });
    if let Some(examples) = examples {
        json["examples"] = Value::Object(examples);
    }
    json!({ "application/json": json, "text/xml": { "schema": schema } })
}

type Header = (&'static str, Value);

fn header(pattern: &str, required: bool, description: &str) -> Value {
    let schema = json!({ "type": "string", "pattern": pattern });
    json!({ "required": required, "schema": schema, "description": description })
}

fn headers(more: &[Header]) -> Value {
    let quota = "On every answer whose instance is the caller's (draft-ietf-httpapi-ratelimit-\
        headers-10).";
    let every = [
        ("x-acs-request-id", header(REQUEST_ID, true, "The RequestId of the body.")),
        ("RateLimit-Policy", header(QUOTA_POLICY, false, quota)),
        ("RateLimit", header(QUOTA, false, quota)),
    ];
    let named = every.iter().chain(more).map(|(name, header)| ((*name).to_owned(), header.clone()));
    Value::Object(named.collect())
}

/// The headers a code comes with, besides those of every answer.
fn headers_of(code: Code, status: u16) -> Vec<Header> {
    let digits = "^[0-9]+$";
    match code {
        Code::Throttled => {
            // Strict ApsaraMQ behaviour shares its status with codes that have no such headers.
            let required = status != 400;
            let gateway = header(GATEWAY_QUOTA, required, "In milliseconds.");
            vec![
                ("Retry-After", header(digits, required, "Seconds until a token is there.")),
                ("x-acs-retry-after", header(digits, required, "The same in milliseconds.")),
                ("x-ratelimit-user-api", gateway.clone()),
                ("x-ratelimit-user", gateway),
            ]
        }
        Code::SystemOverFlow => {
            vec![("Retry-After", header(digits, false, "Seconds, with SystemOverFlow."))]
        }
        Code::UnsupportedMethod => vec![("Allow", header("^GET, POST$", true, "What there is."))],
        _ => vec![],
    }
}

/// When a code is answered.
const fn when(code: Code) -> &'static str {
    match code {
        Code::Ok => "the message is stored.",
        Code::CheckAccountInfoFailed => "the call carries a security token; weir takes none yet.",
        Code::InstancePermissionCheckFailed => "the instance is not the caller's account's.",
        Code::ParameterCheckFailed => {
            "a parameter is missing, malformed or given twice, or the body cannot be read."
        }
        Code::PermissionCheckFailed => "the parent topic is not one of the instance's.",
        Code::InvalidPayload => "Payload is not Base64, or larger than 64 KiB.",
        Code::InternalError => "a bug, logged with the RequestId; nothing was stored.",
        Code::SendMessageFailed => {
            "the journal could not store it: a full disk (not billed), or a failed sync (the text \
             says that the outcome is unknown)."
        }
        Code::SystemOverFlow => {
            "weir's own overload, or a drain: a queue, the backlog, the nonces of the access key \
             or the memory for bodies are full. Never charged; come again."
        }
        Code::ApiNotSupport => "another action or version.",
        Code::AccessKeyNotFound => "no account has the access key.",
        Code::SignatureDoesNotMatch => "the signature is another; the text says what was signed.",
        Code::IncompleteSignature => "Authorization is malformed, or does not sign every header.",
        Code::TimestampFormat => "the time is not YYYY-MM-DDThh:mm:ssZ.",
        Code::TimestampExpired => {
            "the time is more than 15 minutes off; the text gives the server's time and the skew."
        }
        Code::NonceUsed => "the nonce was used by this access key within its time.",
        Code::InvalidSignatureMethod => "an algorithm or a kind of credential weir does not take.",
        Code::InvalidFormat => "Format is neither JSON nor XML.",
        Code::MissingSecurityToken => "a temporary key came without its token.",
        Code::Missing => "that common parameter, or the header that carries it, is missing.",
        Code::Invalid => "that common parameter's value is none of those allowed.",
        Code::Throttled => {
            "the instance's token bucket is empty: 429, or 400 with limits.throttle_status = 400."
        }
        Code::PathNotFound => "another path than /.",
        Code::UnsupportedMethod => "another method than GET and POST.",
        Code::RequestTimeout => "the body did not arrive within http.body_timeout.",
        Code::BodyTooLarge => "the body is larger than 307,200 bytes.",
        Code::TargetTooLong => "the request line is longer than 307,200 bytes.",
    }
}
