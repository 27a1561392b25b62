//! The way to devices.

use super::ports::TLS;
use super::{ADDRESS, DURATION, INTEGER, Key, SIZE, key};

pub(super) const DELIVERY: &[Key] = &[
    key("kind", "\"embedded\"", "The broker: weir's own.").or("\"embedded\""),
    key(
        "retention",
        DURATION,
        "How long a message may wait for the broker; then it is a dead \
         letter.",
    )
    .or("\"72h\"")
    .within("\"1s\"", "\"366d\""),
    key(
        "reconnect_grace",
        DURATION,
        "How long what a former process left undelivered waits for \
         devices to come back.",
    )
    .or("\"5s\"")
    .within("\"0s\"", "\"60s\""),
    key("dead_letters_kept", DURATION, "How long a dead letter is kept.")
        .or("\"30d\"")
        .within("\"1d\"", "\"3653d\""),
    key(
        "backlog_max",
        SIZE,
        "Journal that may wait for the broker, at least 64 MiB; then \
         SystemOverFlow.",
    )
    .or("\"16 GiB\"")
    .such_as("\"64 GiB\""),
];

pub(super) const EMBEDDED: &[Key] = &[
    key("listen", ADDRESS, "Where devices connect over MQTT 3.1.1 and 5; port 0 takes a free one.")
        .or("\"127.0.0.1:1883\"")
        .such_as("\"0.0.0.0:1883\""),
    key(
        "connections_max",
        INTEGER,
        "Connected devices; more are turned away. Each takes a file \
         descriptor.",
    )
    .or("5000")
    .within("1", "1000000"),
    key(
        "retained_max",
        INTEGER,
        "Retained messages of an instance; together they take 16 MiB at most.",
    )
    .or("10000")
    .within("0", "16384"),
    key("websocket_listen", ADDRESS, "MQTT over WebSocket, subprotocol mqtt; without it none.")
        .such_as("\"127.0.0.1:8083\""),
];

pub(super) const DEVICE_TLS: &[Key] = &[
    key("listen", ADDRESS, "MQTT over TLS; this or websocket_listen has to be given.")
        .such_as("\"0.0.0.0:8883\""),
    key("websocket_listen", ADDRESS, "MQTT over WebSocket over TLS.").such_as("\"0.0.0.0:8084\""),
    TLS[0],
    TLS[1],
    TLS[2],
    TLS[3],
];
