use super::*;

const GOOD: &str = r#"
data_dir = "somewhere"
[http]
listen = "127.0.0.1:0"
drain_notice = "0s"
host_aliases = ["mqtt.example.com"]
trusted_proxies = ["10.0.0.0/8", "fd00::7"]
proxy_protocol = true
[ops]
listen = "0.0.0.0:8081"
token = "ops-secret"
[log]
access = "./access.log"
access_sample = 0.25
access_bytes_max = "2 MiB"
[limits]
replicas = 3
instance_qps = 500
burst = 50
device_qps = 20
throttle_status = 400
[queue]
slots = 16
[shard]
count = 3
batch_max = 7
batch_bytes_max = "1 MiB"
[journal]
segment_bytes = "8 MiB"
[delivery]
retention = "1h"
dead_letters_kept = "2d"
backlog_max = "1 GiB"
[delivery.embedded]
retained_max = 30
[ledger]
minutes_kept = "31d"
[[accounts]]
id = "1"
[[accounts.access_keys]]
id = "LTAI1"
secret = "s"
[[instances]]
id = "post-cn-1"
account = "1"
topics = ["TopicA", "TopicB"]
qps = 10
payload = "verbatim"
[[instances.devices]]
name = "lamp"
password = "p"
"#;

fn refused(text: &str) -> String {
    let error = Config::parse("weir.toml", text).unwrap_err().to_string();
    assert!(!error.contains('\n'), "one line: {error}");
    error
}

#[test]
fn every_key_reaches_its_stage() {
    let config = Config::parse("weir.toml", GOOD).unwrap();
    assert_eq!(config.data_dir, Path::new("somewhere"));
    assert_eq!(config.drain_notice, Duration::ZERO);
    assert_eq!(config.retention, Duration::from_secs(3_600));
    assert_eq!(config.dead_letters_kept, Duration::from_secs(2 * 86_400));
    assert_eq!(config.ledger.minutes_kept, Duration::from_secs(31 * 86_400));
    assert_eq!(config.backlog_bytes_max, 1 << 30);
    assert_eq!(config.wire.throttle_status, wire::ThrottleStatus::BadRequest);
    assert_eq!(config.admission.host_aliases, ["mqtt.example.com"]);
    assert_eq!((config.queue.slots, config.queue.shards), (16, 3));
    assert_eq!((config.shard.batch_max, config.shard.batch_bytes_max), (7, 1 << 20));
    assert_eq!((config.journal.shards, config.journal.segment_bytes), (3, 8 << 20));
    assert_eq!(config.admission.replicas.get(), 3);
    let ports = &config.ports;
    assert!(ports.proxies.protocol && ports.proxies.trusted.len() == 2);
    let token = ports.ops_token.as_ref().unwrap();
    assert_eq!(token.authorization(), "Bearer ops-secret");
    let access = ports.access.as_ref().unwrap();
    assert_eq!(access.to, wire::Destination::File("./access.log".into()));
    assert_eq!((access.sample, access.file_bytes_max), (0.25, 2 << 20));
    let instance = &config.admission.instances[0];
    assert_eq!((instance.rate.qps.get(), instance.rate.burst.get()), (10, 50));
    assert_eq!(instance.payload, admission::PayloadCoding::Verbatim);
    assert_eq!(instance.topics, ["TopicA", "TopicB"]);
    assert_eq!(config.broker.instances[0].devices[0].name, "lamp");
    assert_eq!(config.broker.instances[0].topics, ["TopicA", "TopicB"]);
    let limits = config.broker.limits;
    assert_eq!((limits.device_qps.get(), limits.retained_messages_max), (20, 30));
}

#[test]
fn a_bad_key_is_refused_by_name_with_the_fix() {
    let cases = [
        ("count = 3", "count = 300", "shard.count is 300"),
        ("device_qps = 20", "device_qps = 0", "limits.device_qps is 0; it is 1 to 1000000"),
        ("retained_max = 30", "retained_max = 16385", "delivery.embedded.retained_max is 16385"),
        ("slots = 16", "slots = 0", "queue.slots is 0; it is 1 to 1048576"),
        ("throttle_status = 400", "throttle_status = 503", "limits.throttle_status is 503"),
        ("drain_notice = \"0s\"", "drain_notice = \"2m\"", "http.drain_notice is 120s"),
        ("drain_notice = \"0s\"", "drain_notice = \"soon\"", "write a duration like"),
        ("batch_bytes_max = \"1 MiB\"", "batch_bytes_max = \"1 GiB\"", "shard.batch_bytes_max"),
        ("segment_bytes = \"8 MiB\"", "segment_bytes = \"1 MiB\"", "1048576"),
        ("\"31d\"", "\"1h\"", "ledger.minutes_kept is 3600s"),
        ("\"2d\"", "\"20y\"", "delivery.dead_letters_kept is"),
        ("qps = 10", "qps = 0", "qps for post-cn-1 is 0; it is 1 to 1000000"),
        ("account = \"1\"\ntopics", "account = \"2\"\ntopics", "which no [[accounts]] has"),
        ("id = \"post-cn-1\"", "id = \"post/cn\"", "instances.id \"post/cn\""),
        ("\"TopicB\"", "\"a/b\"", "subtopics need no entry"),
        ("secret = \"s\"", "secret = \"\"", "the secret is empty"),
        ("secret = \"s\"", "secret_env = \"WEIR_NO_SUCH_VARIABLE\"", "WEIR_NO_SUCH_VARIABLE"),
        ("secret = \"s\"", "", "give one of secret, secret_env and secret_file"),
        ("slots = 16", "slot = 16", "unknown field `slot`"),
        ("\"somewhere\"", "\"\"", "data_dir is empty"),
        ("127.0.0.1:0", "0.0.0.0:8081", "http.listen and ops.listen are both 0.0.0.0:8081"),
        ("127.0.0.1:0", "127.0.0.1:8081", "http.listen 127.0.0.1:8081 and ops.listen 0.0.0.0:8081"),
    ];
    for (good, bad, said) in cases {
        assert!(GOOD.contains(good), "{good}");
        let error = refused(&GOOD.replacen(good, bad, 1));
        assert!(error.contains(said) && error.starts_with("weir.toml"), "{bad}: {error}");
    }
}

#[test]
fn a_syntax_error_names_its_line() {
    assert!(refused("data_dir = \n").starts_with("weir.toml line 1"));
}

#[test]
fn what_stands_around_the_ports_is_refused_by_name_with_the_fix() {
    let cases = [
        ("token = \"ops-secret\"", "", "ops.token is missing, and ops.listen 0.0.0.0:8081"),
        ("token = \"ops-secret\"", "token = \"a b\"", "ops.token: a token is visible ASCII"),
        ("token = \"ops-secret\"", "token_env = \"NOT_SET_1\"", "ops: token_env NOT_SET_1"),
        ("\"ops-secret\"", "\"t\"\ntoken_env = \"X\"", "give one of token, token_env"),
        ("replicas = 3", "replicas = 0", "limits.replicas is 0; it is 1 to 1000"),
        ("fd00::7", "proxy.local", "http.trusted_proxies \"proxy.local\": it is no address"),
        ("trusted_proxies = [\"10.0.0.0/8\", \"fd00::7\"]", "", "http.proxy_protocol needs"),
        ("\"./access.log\"", "\"access.log\"", "log.access is \"access.log\"; it is \"off\""),
        ("\"./access.log\"", "\"/nowhere/x.log\"", "there is no folder /nowhere: make it"),
        ("\"./access.log\"", "\"off\"", "log.access is off, so its other keys"),
        ("\"./access.log\"", "\"stdout\"", "log.access_bytes_max is for a file"),
        ("= 0.25", "= 1.5", "log.access_sample is 1.5; it is 0 to 1"),
        ("\"2 MiB\"", "\"2 KiB\"", "log.access_bytes_max is 2048"),
        ("proxy_protocol = true", "tls = { cert = \"c\" }", "missing field `key`"),
        (
            "proxy_protocol = true",
            "tls = { cert = \"/no/c.pem\", key = \"k\" }",
            "http.tls.cert /no/c.pem: No such file",
        ),
        (
            "proxy_protocol = true",
            "tls = { cert = \"c\", key = \"k\", client_cert = \"optional\" }",
            "http.tls.client_cert needs http.tls.client_ca",
        ),
    ];
    for (from, to, expected) in cases {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD, "{from}");
        let error = refused(&text);
        assert!(error.contains(expected), "{error}\nhas not: {expected}");
    }
}

#[test]
fn what_is_not_supported_yet_is_refused_and_not_ignored() {
    let cases =
        [("[[instances]]", "[[accounts.users]]\nname = \"u\"\n[[instances]]", "accounts.users")];
    for (at, with, key) in cases {
        let error = refused(&GOOD.replacen(at, with, 1));
        assert!(error.contains(key) && error.contains("not supported yet"), "{error}");
    }
}

#[test]
fn no_secret_shows_in_the_debug_form() {
    let text = GOOD.replace("\"s\"", "\"hush-hush\"").replace("\"p\"", "\"hush-hush\"");
    let text = text.replace("ops-secret", "hush-hush");
    let config = Config::parse("weir.toml", &text).unwrap();
    assert!(!format!("{config:?}").contains("hush-hush"));
}

#[test]
fn the_other_listeners_of_devices_are_checked_before_anything_is_bound() {
    const TABLE: &str = "[delivery.embedded]\n";
    let embedded = |keys: &str| GOOD.replace(TABLE, &format!("{TABLE}{keys}\n"));
    let config = Config::parse("weir.toml", &embedded("websocket_listen = \"127.0.0.1:0\""));
    let links = config.unwrap().device_links;
    assert!(links.is_any() && links.websocket_listen.is_some() && links.tls.is_none());
    assert!(!Config::parse("weir.toml", GOOD).unwrap().device_links.is_any());
    let same = "listen = \"127.0.0.1:7\"\nwebsocket_listen = \"127.0.0.1:7\"";
    let said = refused(&embedded(same));
    assert!(said.contains("delivery.embedded.websocket_listen") && said.contains("both"), "{said}");
    let files = "cert = \"no/such.pem\", key = \"no/such.pem\"";
    let said = refused(&embedded(&format!("tls = {{ {files} }}")));
    assert!(said.contains("delivery.embedded.tls listens nowhere: add"), "{said}");
    let said = refused(&embedded(&format!("tls = {{ listen = \"127.0.0.1:0\", {files} }}")));
    assert!(said.contains("delivery.embedded.tls.cert no/such.pem: "), "{said}");
    let said = refused(&embedded("tls = { listen = \"127.0.0.1:0\" }"));
    assert!(said.contains("delivery.embedded.tls: missing field `cert`"), "{said}");
}
