//! The way to devices.

use super::ports::TLS;
use super::{ADDRESS, DURATION, FILE, INTEGER, Key, SIZE, TEXT, key};

pub(super) const DELIVERY: &[Key] = &[
    key("kind", "\"embedded\" or \"mqtt\"", "The broker: weir's own, or the one of delivery.mqtt.")
        .or("\"embedded\""),
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
         devices to come back; not with kind \"mqtt\".",
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
        "Devices over TLS and WebSocket; more are turned away. Over plain TCP it bounds those that \
         wait for their sign-in; weir's file descriptors bound the others.",
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

pub(super) const MQTT: &[Key] = &[
    key("url", TEXT, "mqtt://host:port or mqtts://host:port; without a port 1883 or 8883.")
        .such_as("\"mqtt://broker.example.com:1883\""),
    key(
        "protocol",
        "\"auto\", \"5\" or \"3.1.1\"",
        "The version of MQTT; auto is 5, and 3.1.1 with a broker that does not know it.",
    )
    .or("\"auto\"")
    .such_as("\"5\""),
    key("user", TEXT, "Who weir is to the broker; without it, nobody.").such_as("\"weir\""),
    key("password", TEXT, "The user's password; at most one of the three."),
    key("password_env", TEXT, "The environment variable that holds it."),
    key("password_file", FILE, "The file that holds it; a line break at its end is no part of it."),
    key(
        "client_id",
        TEXT,
        "1 to 256 bytes; without it one made at the first start and kept in data_dir. Several \
         connections add x1, x2 and so on.",
    )
    .such_as("\"weir-1\""),
    key("topic", TEXT, "The topic at the broker, from {instance} and {topic}.")
        .or("\"{instance}/{topic}\"")
        .such_as("\"site/{topic}\""),
    key(
        "keep_alive",
        DURATION,
        "Whole seconds; a broker that is silent for half as long again is given up.",
    )
    .or("\"20s\"")
    .within("\"1s\"", "\"65535s\""),
    key("connections", INTEGER, "Connections; a topic keeps to one of them.")
        .or("1")
        .within("1", "16"),
    key("in_flight_max", INTEGER, "Messages of a connection without a PUBACK.")
        .or("1000")
        .within("1", "32767"),
    key(
        "ca_file",
        FILE,
        "With mqtts: PEM of who signs the broker's certificate; without it whom \
                          the system trusts.",
    ),
    key("cert_file", FILE, "With mqtts: PEM of a client certificate and its chain."),
    key("key_file", FILE, "With mqtts: PEM of the client certificate's key."),
];
