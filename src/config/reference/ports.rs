//! The two HTTP ports, and what is written down of calls.

use super::{ADDRESS, DURATION, FILE, INTEGER, Key, NUMBER, SIZE, SWITCH, TEXT, TEXTS, key};

const DEADLINE: (&str, &str) = ("\"100ms\"", "\"1h\"");

pub(super) const HTTP: &[Key] = &[
    key("listen", ADDRESS, "Where calls come in; port 0 takes a free one.")
        .or("\"127.0.0.1:8080\"")
        .such_as("\"0.0.0.0:8080\""),
    key("drain_notice", DURATION, "How long weir serves on after SIGTERM, with /readyz at 503.")
        .or("\"3s\"")
        .within("\"0s\"", "\"60s\""),
    key("drain_timeout", DURATION, "How long open calls have after the notice.")
        .or("\"30s\"")
        .within(DEADLINE.0, DEADLINE.1),
    key(
        "host_aliases",
        TEXTS,
        "Hosts that a signature may name in place of the Host that arrived: \
         those a proxy has replaced.",
    )
    .or("[]")
    .such_as("[\"mqtt.example.com\"]"),
    key(
        "trusted_proxies",
        TEXTS,
        "Addresses and networks of proxies whose X-Forwarded-For is believed.",
    )
    .or("[]")
    .such_as("[\"10.0.0.0/8\"]"),
    key(
        "proxy_protocol",
        SWITCH,
        "Whether every connection of a trusted proxy begins with a PROXY header, version 1 or 2.",
    )
    .or("false")
    .such_as("true"),
    key(
        "connections_max",
        INTEGER,
        "Open connections; more wait in the kernel's backlog. Each \
         takes a file descriptor.",
    )
    .or("10000")
    .within("1", "1000000"),
    key("first_byte_timeout", DURATION, "From an accepted connection to its first bytes.")
        .or("\"10s\"")
        .within(DEADLINE.0, DEADLINE.1),
    key(
        "header_timeout",
        DURATION,
        "From the first byte of a head to its end; and for an HTTP/2 \
         ping to be answered.",
    )
    .or("\"10s\"")
    .within(DEADLINE.0, DEADLINE.1),
    key("body_timeout", DURATION, "From a head to the end of its body; then RequestTimeout.")
        .or("\"30s\"")
        .within(DEADLINE.0, DEADLINE.1),
    key(
        "idle_timeout",
        DURATION,
        "Between two requests of a connection, and between two HTTP/2 \
         pings. Longer than the proxy's in front.",
    )
    .or("\"75s\"")
    .within(DEADLINE.0, DEADLINE.1),
    key("write_timeout", DURATION, "For the client to take any byte of an answer.")
        .or("\"30s\"")
        .within(DEADLINE.0, DEADLINE.1),
];

pub(super) const TLS: &[Key] = &[
    key("cert", FILE, "The certificate in PEM, its chain behind it."),
    key("key", FILE, "Its private key in PEM."),
    key(
        "client_ca",
        FILE,
        "Certificates in PEM that a client's has to come from; without it no \
         client is asked for one.",
    ),
    key(
        "client_cert",
        "\"required\" or \"optional\"",
        "Whether a client without a certificate \
         is turned away; needs client_ca.",
    )
    .or("\"required\"")
    .such_as("\"optional\""),
];

pub(super) const OPS: &[Key] = &[
    key(
        "listen",
        ADDRESS,
        "Where /metrics, /healthz, /readyz, /usage and /openapi.json are; on \
         another address than this machine's a token is required.",
    )
    .or("\"127.0.0.1:8081\"")
    .such_as("\"127.0.0.1:9081\""),
    key(
        "token",
        TEXT,
        "What callers show as Authorization: Bearer, but for /healthz and \
         /readyz: visible ASCII. At most one of token, token_env and token_file.",
    )
    .such_as("\"0123456789abcdef\""),
    key("token_env", TEXT, "The environment variable that holds it."),
    key("token_file", FILE, "The file that holds it; a line's end at its end is no part of it."),
];

pub(super) const LOG: &[Key] = &[
    key(
        "access",
        "\"off\", \"stdout\" or a file",
        "Where a JSON object a line is written for each \
         call: RequestId, instance, code, bytes, milliseconds and peer; never a payload, a key or \
         a signature.",
    )
    .or("\"off\"")
    .such_as("\"stdout\""),
    key(
        "access_sample",
        NUMBER,
        "The share of calls answered 200 that is written; every refusal \
         is.",
    )
    .or("1.0")
    .within("0.0", "1.0"),
    key(
        "access_bytes_max",
        SIZE,
        "At this size a file is renamed to {file}.1, at least 1 MiB; \
         two files are kept.",
    )
    .or("\"256 MiB\"")
    .such_as("\"1 GiB\""),
];
