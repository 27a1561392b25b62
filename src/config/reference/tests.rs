use std::collections::BTreeSet;
use std::sync::LazyLock;

use tempfile::TempDir;
use toml::{Table, Value};

use super::*;
use crate::config::Config;

/// Everything that is required, and nothing else; every array of tables has its one entry.
const LEAST: &str = r#"
[[accounts]]
id = "1"
access_keys = [{ id = "LTAI1", secret = "s" }]
[[instances]]
id = "post-cn-1"
account = "1"
topics = ["TopicA"]
devices = [{ name = "d", password = "p" }]
"#;
/// What a key needs besides itself: the key, and another with its value.
const NEEDS: [(&str, &str, &str); 3] = [
    ("http.proxy_protocol", "http.trusted_proxies", "[\"10.0.0.0/8\"]"),
    ("log.access_sample", "log.access", "\"stdout\""),
    ("log.access_bytes_max", "log.access", "\"./access.log\""),
];
/// Tables with a certificate, and what else is required in them.
const CERTIFIED: [(&str, &str); 3] = [
    ("http.tls", ""),
    ("ops.tls", ""),
    ("delivery.embedded.tls", "websocket_listen = \"127.0.0.1:0\"\n"),
];
const UNKNOWN: &str = "no_such_key";

/// The least file with what a key needs besides itself.
fn around(path: &str) -> Table {
    let mut file: Table = LEAST.parse().unwrap();
    let table = path.rsplit_once('.').map_or("", |(table, _)| table);
    if let Some((_, more)) = CERTIFIED.iter().find(|(certified, _)| *certified == table) {
        put(&mut file, table, Value::Table((certified() + more).parse().unwrap()));
    }
    if table == "delivery.mqtt" {
        put(&mut file, "delivery.kind", toml_value("\"mqtt\""));
        put(&mut file, "delivery.mqtt.url", toml_value("\"mqtt://broker\""));
        put(&mut file, "instances[].devices", toml_value("[]"));
    }
    for (_, other, value) in NEEDS.iter().filter(|(needy, ..)| *needy == path) {
        put(&mut file, other, toml_value(value));
    }
    file
}

/// The same with the key, at a path such as `accounts[].access_keys[].id`.
fn with(path: &str, value: &str) -> String {
    let mut file = around(path);
    put(&mut file, path, toml_value(value));
    file.to_string()
}

fn toml_value(text: &str) -> Value {
    let table: Table = format!("value = {text}").parse().unwrap();
    table["value"].clone()
}

/// A certificate, and a CA so that clients can be asked for one.
fn certified() -> String {
    static FOLDER: LazyLock<TempDir> = LazyLock::new(|| {
        let made = rcgen::generate_simple_self_signed(["weir.test".to_owned()]).unwrap();
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("cert.pem"), made.cert.pem()).unwrap();
        std::fs::write(folder.path().join("key.pem"), made.signing_key.serialize_pem()).unwrap();
        folder
    });
    let folder = FOLDER.path().display();
    format!(
        "cert = \"{folder}/cert.pem\"\nkey = \"{folder}/key.pem\"\n\
         client_ca = \"{folder}/cert.pem\"\n"
    )
}

fn put(file: &mut Table, path: &str, value: Value) {
    let (tables, name) = path.rsplit_once('.').unwrap_or(("", path));
    let mut at = file;
    for table in tables.split('.').filter(|table| !table.is_empty()) {
        let entry = at.entry(table.trim_end_matches("[]").to_owned());
        let entry = entry.or_insert_with(|| Value::Table(Table::new()));
        at = match entry {
            Value::Array(entries) => entries[0].as_table_mut().unwrap(),
            entry => entry.as_table_mut().unwrap(),
        };
    }
    at.insert(name.to_owned(), value);
}

fn joined(table: &str, name: &str) -> String {
    if table.is_empty() { name.to_owned() } else { format!("{table}.{name}") }
}

fn parse(text: &str) -> Result<String, String> {
    Config::parse("weir.toml", text)
        .map(|config| format!("{config:?}"))
        .map_err(|error| error.to_string())
}

/// The keys the parser itself names when it meets one that it does not know in this table.
fn keys_of(table: &str) -> Option<Vec<String>> {
    let error = parse(&with(&joined(table, UNKNOWN), "1")).unwrap_err();
    let (_, known) = error.split_once(&format!("unknown field `{UNKNOWN}`, expected "))?;
    Some(known.split('`').skip(1).step_by(2).map(str::to_owned).collect())
}

/// Every key the parser takes, found by asking it table by table.
fn taken(table: &str, found: &mut BTreeSet<String>) {
    for name in keys_of(table).unwrap() {
        let path = joined(table, &name);
        let unknown = format!("unknown field `{UNKNOWN}`");
        let is =
            |value: &str| parse(&with(&path, value)).is_err_and(|said| said.contains(&unknown));
        if is(&format!("{{ {UNKNOWN} = 1 }}")) {
            taken(&path, found);
        } else if is(&format!("[{{ {UNKNOWN} = 1 }}]")) {
            taken(&format!("{path}[]"), found);
        } else {
            found.insert(path);
        }
    }
}

/// A key that is kept for a later weir, and refused by name.
fn is_refused(path: &str) -> bool {
    parse(&with(path, "{}")).is_err_and(|error| error.contains("is not supported yet"))
}

fn documented() -> impl Iterator<Item = (String, &'static Key)> {
    let of = |section: &'static Section| {
        section.keys.iter().map(|key| (joined(section.path, key.name), key))
    };
    REFERENCE.iter().flat_map(of)
}

#[test]
fn every_key_the_parser_takes_is_in_the_reference_and_no_other() {
    let mut found = BTreeSet::new();
    taken("", &mut found);
    found.retain(|path| !is_refused(path));
    let documented: BTreeSet<String> = documented().map(|(path, _)| path).collect();
    let only = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        one.difference(other).cloned().collect::<Vec<_>>()
    };
    assert_eq!(only(&found, &documented), [""; 0], "the parser takes them, nothing explains them");
    assert_eq!(only(&documented, &found), [""; 0], "explained, and the parser does not take them");
}

#[test]
fn a_documented_default_is_what_a_file_without_the_key_means() {
    for (path, key) in documented() {
        let Some(default) = key.default else { continue };
        let without = parse(&around(&path).to_string());
        let without = without.unwrap_or_else(|error| panic!("{path}: {error}"));
        assert_eq!(parse(&with(&path, default)), Ok(without), "{path} = {default}");
    }
}

#[test]
fn a_documented_bound_is_taken_and_what_lies_beyond_it_is_refused() {
    let mut looked_at = 0;
    for (path, key) in documented() {
        let Some((least, most)) = key.bounds else { continue };
        for good in [least, most] {
            parse(&with(&path, good)).unwrap_or_else(|error| panic!("{path} = {good}: {error}"));
        }
        for beyond in [below(key.kind, least), above(key.kind, most)].into_iter().flatten() {
            assert!(parse(&with(&path, &beyond)).is_err(), "{path} = {beyond} is taken");
            looked_at += 1;
        }
    }
    assert!(looked_at > 20, "bounds are looked at: {looked_at}");
}

/// A value a step further; what cannot be written, such as a negative duration, is none.
fn below(kind: &str, bound: &str) -> Option<String> {
    match kind {
        INTEGER => Some((bound.parse::<i64>().unwrap() - 1).to_string()),
        NUMBER => Some((bound.parse::<f64>().unwrap() - 0.001).to_string()),
        DURATION => match humantime::parse_duration(bound.trim_matches('"')).unwrap() {
            zero if zero.is_zero() => None,
            other => Some(format!("\"{}ms\"", other.as_millis() - 1)),
        },
        _ => Some(format!("\"{} B\"", size(bound) - 1)),
    }
}

fn above(kind: &str, bound: &str) -> Option<String> {
    Some(match kind {
        INTEGER => (bound.parse::<i64>().unwrap() + 1).to_string(),
        NUMBER => (bound.parse::<f64>().unwrap() + 0.001).to_string(),
        DURATION => {
            let bound = humantime::parse_duration(bound.trim_matches('"')).unwrap();
            format!("\"{}ms\"", bound.as_millis() + 1)
        }
        _ => format!("\"{} B\"", size(bound) + 1),
    })
}

fn size(text: &str) -> u64 {
    text.trim_matches('"').parse::<bytesize::ByteSize>().unwrap().as_u64()
}

/// A key that does nothing is worse than one that is refused.
#[test]
fn every_key_changes_what_weir_is_told() {
    for (path, key) in documented() {
        let other = key.example.or(key
            .bounds
            .map(|(least, most)| if key.default == Some(least) { most } else { least }));
        let Some(other) = other else { continue };
        let mut text = with(&path, other);
        if path == "accounts[].id" {
            // Its instance follows it.
            text = text.replace("account = \"1\"", &format!("account = {other}"));
        }
        let told = parse(&text).unwrap_or_else(|error| panic!("{path} = {other}: {error}"));
        let without = parse(&around(&path).to_string());
        assert!(Ok(told) != without, "{path} = {other} changes nothing");
    }
}
