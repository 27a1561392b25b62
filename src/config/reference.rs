//! Every key of the file, as weir.toml(5) and docs/configuration.md explain it. The tests below ask
//! the parser which keys there are, and hold each default and bound against it.

mod delivery;
mod ports;

use delivery::{DELIVERY, DEVICE_TLS, EMBEDDED, MQTT};
use ports::{HTTP, LOG, OPS, TLS};

/// A table of the file.
#[derive(Clone, Copy, Debug)]
pub struct Section {
    /// Its path; `[]` marks an array of tables. The file itself has none.
    pub path: &'static str,
    /// What it is about.
    pub text: &'static str,
    /// Its keys.
    pub keys: &'static [Key],
}

/// A key of the file.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name within its table.
    pub name: &'static str,
    /// What is written: a duration, a size, an address.
    pub kind: &'static str,
    /// Its default, as TOML; without one it is required, or its absence has a meaning of its own.
    pub default: Option<&'static str>,
    /// The least and the most it may be, as TOML.
    pub bounds: Option<(&'static str, &'static str)>,
    /// A value of use, as TOML; other than the default.
    pub example: Option<&'static str>,
    /// What it does, and its unit.
    pub text: &'static str,
}

const DURATION: &str = "duration";
const SIZE: &str = "size";
const INTEGER: &str = "integer";
const NUMBER: &str = "number";
const SWITCH: &str = "true or false";
const ADDRESS: &str = "address";
const TEXT: &str = "text";
const TEXTS: &str = "list of texts";
const FILE: &str = "path of a file";

const fn key(name: &'static str, kind: &'static str, text: &'static str) -> Key {
    Key { name, kind, default: None, bounds: None, example: None, text }
}

impl Key {
    const fn or(self, default: &'static str) -> Self {
        Self { default: Some(default), ..self }
    }

    const fn within(self, least: &'static str, most: &'static str) -> Self {
        Self { bounds: Some((least, most)), ..self }
    }

    const fn such_as(self, example: &'static str) -> Self {
        Self { example: Some(example), ..self }
    }
}

const fn section(path: &'static str, text: &'static str, keys: &'static [Key]) -> Section {
    Section { path, text, keys }
}

/// Every table, in the order of the file.
pub const REFERENCE: &[Section] = &[
    section("", "At the top of the file.", FILE_KEYS),
    section("http", "The data port, where calls come in.", HTTP),
    section(
        "http.tls",
        "TLS 1.2 and 1.3 on the data port, with HTTP/2 by ALPN. The files are read again when they \
         change; open connections keep what they have.",
        TLS,
    ),
    section("ops", "The port for health, metrics and usage; keep it off the internet.", OPS),
    section("ops.tls", "TLS on the ops port, with the keys of http.tls.", TLS),
    section("log", "The access log; weir's own log goes to standard error.", LOG),
    section("limits", "How fast an instance may send.", LIMITS),
    section("queue", "The rings between the front and the shards.", QUEUE),
    section("shard", "The threads that write the journal.", SHARD),
    section("journal", "The segment logs.", JOURNAL),
    section("delivery", "From the journal to the broker.", DELIVERY),
    section("delivery.embedded", "The embedded broker, where devices connect.", EMBEDDED),
    section("delivery.embedded.tls", "TLS 1.2 and 1.3 for devices; see http.tls.", DEVICE_TLS),
    section(
        "delivery.mqtt",
        "A broker elsewhere, with kind \"mqtt\"; then there is no delivery.embedded and no device \
         of an instance.",
        MQTT,
    ),
    section("ledger", "What was billed.", LEDGER),
    section("accounts[]", "An account: it owns instances and access keys.", ACCOUNTS),
    section(
        "accounts[].access_keys[]",
        "A key of the account. Give exactly one of secret, secret_env and secret_file.",
        ACCESS_KEYS,
    ),
    section("instances[]", "An instance; there is at least one.", INSTANCES),
    section(
        "instances[].devices[]",
        "A device that signs in as Device|{name}|{instance}, beside those that sign in with an \
         access key. Give exactly one of password, password_env and password_file.",
        DEVICES,
    ),
];

const FILE_KEYS: &[Key] = &[key(
    "data_dir",
    "path of a folder",
    "Where journal, ledger, cursors and dead letters are kept. Made if it is missing. One process \
     at a time.",
)
.or("\"weir-data\"")
.such_as("\"/var/lib/weir\"")];

const LIMITS: &[Key] = &[
    key("instance_qps", INTEGER, "Tokens an instance gets, a second; instances.qps overrides it.")
        .or("1000")
        .within("1", "1000000"),
    key(
        "burst",
        INTEGER,
        "Tokens a full bucket holds; instances.burst overrides it. An instance \
         idle so far may send burst + qps in its first second.",
    )
    .or("100")
    .within("1", "1000000"),
    key(
        "throttle_status",
        "429 or 400",
        "The HTTP status of a throttled call; 400 is what \
         ApsaraMQ answers.",
    )
    .or("429")
    .such_as("400"),
    key(
        "replicas",
        INTEGER,
        "Weirs behind one balancer: each admits its share of every rate and \
         burst, one token at least.",
    )
    .or("1")
    .within("1", "1000"),
    key(
        "device_qps",
        INTEGER,
        "Messages a second that each device may publish itself, its will included.",
    )
    .or("50")
    .within("1", "1000000"),
    key(
        "nonces_max",
        INTEGER,
        "Signature nonces remembered for an access key, for up to 30 \
         minutes each; then SystemOverFlow. About 30 bytes of memory each.",
    )
    .or("4000000")
    .within("1", "1073741824"),
];

const QUEUE: &[Key] = &[key(
    "slots",
    INTEGER,
    "Messages that may wait for one shard; then \
     SystemOverFlow.",
)
.or("8192")
.within("1", "1048576")];

const SHARD: &[Key] = &[
    key(
        "count",
        INTEGER,
        "Shards, each a thread and a stream of the journal; 0: one a core. It \
         may change between starts.",
    )
    .or("0")
    .within("0", "256"),
    key("batch_max", INTEGER, "Messages under one sync.").or("1024").within("1", "65536"),
    key("batch_bytes_max", SIZE, "Payload bytes under one sync.")
        .or("\"4 MiB\"")
        .within("\"1 B\"", "\"4 MiB\""),
];

const JOURNAL: &[Key] = &[key(
    "segment_bytes",
    SIZE,
    "Size of one segment file; two or more of \
     them a shard are on disk.",
)
.or("\"64 MiB\"")
.within("\"8 MiB\"", "\"1 GiB\"")];

const LEDGER: &[Key] = &[key(
    "minutes_kept",
    DURATION,
    "How long usage is kept by the minute. \
     Closed hours and their chain stay for good.",
)
.or("\"395d\"")
.within("\"1d\"", "\"3653d\"")];

const ACCOUNTS: &[Key] = &[key("id", TEXT, "Its id, given once.").such_as("\"1000000000000001\"")];

const ACCESS_KEYS: &[Key] = &[
    key("id", TEXT, "The AccessKeyId: visible ASCII without '|', ',' and '='.")
        .such_as("\"LTAI5tExample\""),
    key("secret", TEXT, "The AccessKeySecret, written out."),
    key("secret_env", TEXT, "The environment variable that holds it."),
    key("secret_file", FILE, "The file that holds it; a line's end at its end is no part of it."),
];

const INSTANCES: &[Key] = &[
    key("id", TEXT, "Its id: 1 to 64 letters, digits and '-'.").such_as("\"post-cn-example01\""),
    key("account", TEXT, "The account that owns it."),
    key(
        "topics",
        TEXTS,
        "Its parent topics: 3 to 64 letters, digits, '-' and '_'. Subtopics need \
         no entry.",
    )
    .such_as("[\"TopicA\", \"TopicB\"]"),
    key("qps", INTEGER, "Tokens a second; limits.instance_qps without it.")
        .within("1", "1000000")
        .such_as("200"),
    key("burst", INTEGER, "Tokens a full bucket holds; limits.burst without it.")
        .within("1", "1000000")
        .such_as("20"),
    key(
        "payload",
        "\"base64\" or \"verbatim\"",
        "Whether Payload is decoded, or delivered as it \
         was sent.",
    )
    .or("\"base64\"")
    .such_as("\"verbatim\""),
];

const DEVICES: &[Key] = &[
    key("name", TEXT, "Its name: any text without '|'.").such_as("\"lamp\""),
    key("password", TEXT, "Its password, written out."),
    key("password_env", TEXT, "The environment variable that holds it."),
    key("password_file", FILE, "The file that holds it; a line's end at its end is no part of it."),
];

#[cfg(test)]
mod tests;
