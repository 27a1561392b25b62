use std::time::Duration;

use super::super::{Config, ConfigError};
use crate::delivery::mqtt::{Address, Login, Protocol, Template};

const BASE: &str = r#"
[[accounts]]
id = "1"
[[accounts.access_keys]]
id = "LTAI1"
secret = "s"
[[instances]]
id = "post-cn-1"
account = "1"
topics = ["TopicA"]
"#;

const FULL: &str = r#"
[delivery]
kind = "mqtt"
[delivery.mqtt]
url = "mqtt://broker:2883"
protocol = "3.1.1"
user = "weir"
password = "hush-hush"
client_id = "weir-1"
topic = "site/{topic}"
keep_alive = "7s"
connections = 3
in_flight_max = 55
"#;

fn parse(delivery: &str) -> Result<Config, ConfigError> {
    Config::parse("weir.toml", &format!("{delivery}\n{BASE}"))
}

fn refused(delivery: &str) -> String {
    let error = parse(delivery).unwrap_err().to_string();
    assert!(!error.contains('\n'), "one line: {error}");
    error
}

#[test]
fn every_key_reaches_the_connections() {
    let config = parse(FULL).unwrap();
    assert_eq!(config.reconnect_grace, Duration::ZERO);
    assert!(!format!("{config:?}").contains("hush-hush"));
    let mqtt = config.mqtt.unwrap();
    assert_eq!(mqtt.address, Address { host: "broker".into(), port: 2883 });
    assert_eq!(mqtt.protocol, Protocol::V3);
    let login = Login { user: "weir".into(), password: Some("hush-hush".into()) };
    assert_eq!(mqtt.login, Some(login));
    assert_eq!(mqtt.client_id.as_deref(), Some("weir-1"));
    assert_eq!(mqtt.topic, Template::parse("site/{topic}").unwrap());
    assert_eq!(mqtt.keep_alive, Duration::from_secs(7));
    assert_eq!((mqtt.connections, mqtt.in_flight_messages_max), (3, 55));
    assert!(mqtt.tls.is_none());
}

#[test]
fn a_url_is_all_it_needs() {
    let mqtt = parse("delivery = { kind = \"mqtt\", mqtt = { url = \"mqtts://broker\" } }");
    let mqtt = mqtt.unwrap().mqtt.unwrap();
    assert_eq!((mqtt.address.port, mqtt.protocol), (8883, Protocol::Auto));
    assert_eq!(mqtt.topic, Template::default());
    assert!(mqtt.tls.is_some() && mqtt.login.is_none() && mqtt.client_id.is_none());
}

#[test]
fn a_bad_key_is_refused_by_name_with_the_fix() {
    let cases = [
        ("mqtt://broker:2883", "http://broker", "delivery.mqtt.url"),
        ("mqtt://broker:2883", "mqtt://me:hush@broker", "use the keys user and password"),
        ("url = \"mqtt://broker:2883\"", "", "delivery.mqtt.url is missing"),
        ("\"3.1.1\"", "\"4\"", "it is \"auto\", \"5\" or \"3.1.1\""),
        ("user = \"weir\"", "", "needs delivery.mqtt.user"),
        ("\"hush-hush\"", "\"\"", "the password is empty"),
        ("password =", "password_env = \"NO_SUCH_VARIABLE_1\"\npassword =", "give one of password"),
        ("password = \"hush-hush\"", "password_env = \"NO_SUCH_1\"", "NO_SUCH_1"),
        ("\"weir-1\"", "\"\"", "delivery.mqtt.client_id"),
        ("site/{topic}", "site/#", "delivery.mqtt.topic holds"),
        ("site/{topic}", "site/{instance}", "delivery.mqtt.topic lacks {topic}"),
        ("7s", "0s", "delivery.mqtt.keep_alive is 0ns; it is 1s to 65535s"),
        ("7s", "1500ms", "whole seconds"),
        ("connections = 3", "connections = 17", "delivery.mqtt.connections is 17; it is 1 to 16"),
        ("= 55", "= 0", "delivery.mqtt.in_flight_max is 0; it is 1 to 32767"),
        ("connections = 3", "conections = 3", "unknown field `conections`"),
        ("connections = 3", "ca_file = \"ca.pem\"", "write mqtts://"),
        ("mqtt://broker:2883\"", "mqtts://b\"\nca_file = \"no-such.pem\"", "ca_file no-such.pem"),
        ("mqtt://broker:2883\"", "mqtts://b\"\nkey_file = \"k.pem\"", "needs its cert_file"),
        ("kind = \"mqtt\"", "kind = \"kafka\"", "it is \"embedded\" or \"mqtt\""),
        ("kind = \"mqtt\"", "kind = \"embedded\"", "delivery.mqtt is set"),
    ];
    for (good, bad, said) in cases {
        assert!(FULL.contains(good), "{good}");
        let error = refused(&FULL.replacen(good, bad, 1));
        assert!(error.contains(said) && !error.contains("hush"), "{bad}: {error}");
    }
}

#[test]
fn a_key_that_would_do_nothing_is_refused() {
    let cases = [
        ("kind = \"mqtt\"", "kind = \"mqtt\"\nreconnect_grace = \"1s\"", "reconnect_grace"),
        ("[delivery.mqtt]", "[delivery.embedded]\n[delivery.mqtt]", "delivery.embedded"),
        ("[delivery.mqtt]", "[limits]\ndevice_qps = 9\n[delivery.mqtt]", "limits.device_qps"),
    ];
    for (at, with, key) in cases {
        let error = refused(&FULL.replacen(at, with, 1));
        assert!(error.contains(key) && error.contains("does nothing"), "{error}");
    }
    let device = format!("{FULL}\n{BASE}\n[[instances.devices]]\nname = \"a\"\npassword = \"p\"");
    let error = Config::parse("weir.toml", &device).unwrap_err().to_string();
    assert!(error.contains("instances.devices of post-cn-1"), "{error}");
    let none = refused("delivery = { kind = \"mqtt\" }");
    assert!(none.contains("delivery.mqtt.url is missing"), "{none}");
}

#[test]
fn listeners_may_share_what_no_device_listens_on() {
    let taken = "http = { listen = \"127.0.0.1:1883\" }";
    assert!(refused(taken).contains("delivery.embedded.listen"));
    assert!(parse(&format!("{taken}\n{FULL}")).is_ok());
}
