//! Delivery to brokers people run: mosquitto, NATS, RabbitMQ and rmqtt, and what happens to it when
//! they go away.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "an outage by hand is measured")]

#[path = "brokers/listener.rs"]
mod listener;
#[path = "brokers/proxy.rs"]
mod proxy;
#[path = "brokers/servers.rs"]
mod servers;
#[expect(dead_code, unused_imports, reason = "a shared harness: other tests use the rest")]
mod support;
#[path = "brokers/traffic.rs"]
mod traffic;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use listener::Listener;
use proxy::Proxy;
use servers::Server;
use support::caller::Caller;
use support::{INSTANCE, TOPIC, Weir, eventually, now};
use traffic::send_during;

/// How long a broker may take to start, or to hand on what it has kept: RabbitMQ needs 10 s on a
/// quiet machine.
const BROKER_PATIENCE: Duration = Duration::from_secs(120);
/// How long messages flow before a broker is killed, and after it is back.
const FLOW: Duration = Duration::from_secs(2);

/// As [`eventually`], with the patience a broker needs.
fn within<T>(awaited: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = now() + BROKER_PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(now() < deadline, "not within {BROKER_PATIENCE:?}: {awaited}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn weir_to(broker: SocketAddr, settings: &str) -> Weir {
    Weir::start_with(&format!(
        "limits = {{ instance_qps = 100000, burst = 100000 }}\n\
         delivery = {{ kind = \"mqtt\", mqtt = {{ url = \"mqtt://{broker}\", {settings} }} }}"
    ))
}

fn nothing_waits(weir: &Weir) {
    eventually("an empty backlog", || {
        (weir.metric("weir_delivery_backlog_messages") < 0.5).then_some(())
    });
}

/// A number a by-hand run may set: `make soak` has a longer outage.
fn setting(variable: &str, normal: u32) -> u32 {
    std::env::var(variable).map_or(normal, |text| text.parse().expect("a number"))
}

/// Messages flow, the broker is killed and comes back: no caller is told, everything arrives.
fn survives_an_outage(mut broker: Server, version: &str) {
    let rate = setting("WEIR_OUTAGE_RATE", 400);
    let outage = Duration::from_secs(setting("WEIR_OUTAGE_SECONDS", 3).into());
    let listener = Listener::start(broker.address());
    let mut weir = weir_to(broker.address(), "keep_alive = \"5s\"");
    let waiting = |weir: &Weir| weir.metric("weir_delivery_backlog_messages");
    let sent = send_during(&weir, rate, || {
        std::thread::sleep(FLOW);
        broker.kill();
        let before = weir.resident_kib();
        std::thread::sleep(outage);
        let (backlog, after) = (waiting(&weir), weir.resident_kib());
        assert!(backlog > 1.0);
        println!("outage of {outage:?} at {rate}/s: {backlog} wait, {before} -> {after} KiB");
        broker.restart();
        let began = now();
        within("what waits to be taken", || (waiting(&weir) < 200.0).then_some(()));
        let took = began.elapsed().as_secs_f64();
        let drained = backlog / took + f64::from(rate);
        println!("drained in {took:.1} s, {drained:.0}/s; {} KiB", weir.resident_kib());
        std::thread::sleep(FLOW);
    });
    listener.has_all_in_order(&sent);
    nothing_waits(&weir);
    let log = weir.log();
    assert!(log.contains(&format!("\"version\":\"{version}\"")), "{log}");
    assert!(weir.metric("weir_delivery_broker_disconnects_total") > 0.5);
    let messages: usize = sent.values().map(Vec::len).sum();
    counted(&weir, "weir_delivered_total", messages);
    counted(&weir, "weir_dead_letters_total", 0);
    assert!((weir.billed() - count(messages)).abs() < 0.5);
    let again = weir.metric("weir_delivery_duplicates_possible_total");
    println!("{messages} messages, {} arrived, {again} sent again", listener.received().len());
    assert_eq!(weir.terminate(), Some(0), "{}", weir.log());
}

fn count(messages: usize) -> f64 {
    f64::from(u32::try_from(messages).expect("few"))
}

#[track_caller]
fn counted(weir: &Weir, series: &str, messages: usize) {
    let shown = weir.metric(series);
    assert!((shown - count(messages)).abs() < 0.5, "{series} is {shown}, not {messages}");
}

/// What was sent, by its topic at the broker.
fn by_topic(sent: &[(String, String)]) -> HashMap<String, Vec<String>> {
    let mut topics: HashMap<String, Vec<String>> = HashMap::new();
    for (topic, payload) in sent {
        topics.entry(format!("{INSTANCE}/{topic}")).or_default().push(payload.clone());
    }
    topics
}

#[test]
fn everything_arrives_through_a_killed_mosquitto() {
    survives_an_outage(servers::mosquitto("max_inflight_messages 0"), "V5");
}

#[test]
fn everything_arrives_through_a_killed_nats_server() {
    survives_an_outage(servers::nats(), "V3");
}

#[test]
fn everything_arrives_through_a_killed_rabbitmq() {
    survives_an_outage(servers::rabbitmq(), "V3");
}

#[test]
fn everything_arrives_at_rmqtt_through_a_connection_that_dies_without_a_word() {
    let broker = servers::rmqtt();
    let listener = Listener::start(broker);
    let proxy = Proxy::start(broker);
    let weir = weir_to(proxy.address(), "keep_alive = \"2s\", connections = 2");
    eventually("both connections", || {
        (weir.metric("weir_delivery_broker_connections") > 1.5).then_some(())
    });
    let sent = send_during(&weir, 400, || {
        std::thread::sleep(FLOW);
        proxy.swallow();
        let began = now();
        eventually("both losses to be noticed", || {
            (weir.metric("weir_delivery_broker_disconnects_total") > 1.5).then_some(())
        });
        println!("noticed after {:?}, keep-alive 2 s", began.elapsed());
        std::thread::sleep(FLOW);
    });
    listener.has_all_in_order(&sent);
    nothing_waits(&weir);
    assert!(weir.log().contains("nothing was heard for 3s"), "{}", weir.log());
    assert!(weir.log().contains("\"version\":\"V5\""), "{}", weir.log());
    counted(&weir, "weir_delivered_total", sent.values().map(Vec::len).sum());
}

#[test]
fn a_topic_nats_hangs_up_on_becomes_a_dead_letter_and_holds_nothing_up() {
    let broker = servers::nats();
    let listener = Listener::start(broker.address());
    let weir = weir_to(broker.address(), "");
    let mut caller = Caller::connect(weir.http());
    let mut sent = vec![];
    for number in 0..30 {
        // NATS knows dots as its own separators, and closes the connection on one in a topic.
        let topic = if number == 7 { "a.b" } else { ["x", "y", "z"][number % 3] };
        let (topic, payload) = (format!("{TOPIC}/{topic}"), number.to_string());
        assert_eq!(caller.send(&topic, payload.as_bytes()).status, 200);
        if number != 7 {
            sent.push((topic, payload));
        }
    }
    listener.has_all_in_order(&by_topic(&sent));
    nothing_waits(&weir);
    counted(&weir, "weir_dead_letters_total", 1);
    let log = weir.log();
    assert!(log.contains("closed the connection on it 5 times in a row"), "{log}");
}

#[test]
fn mosquitto_asks_for_a_certificate_and_a_password_and_gets_both() {
    let broker = servers::mosquitto_with_tls();
    let files = broker.folder.display();
    let port = broker.server.address().port();
    let settings = |password: &str| {
        format!(
            "delivery = {{ kind = \"mqtt\", mqtt = {{ url = \"mqtts://localhost:{port}\", \
             user = \"weir\", {password}, ca_file = \"{files}/ca.pem\", \
             cert_file = \"{files}/client.pem\", key_file = \"{files}/client.key\" }} }}"
        )
    };
    let wrong = Weir::start_with(&settings("password = \"wrong\""));
    eventually("the refusal", || wrong.log().contains("NotAuthorized").then_some(()));
    drop(wrong);
    let weir = Weir::start_with(&settings(&format!("password_file = \"{files}/password\"")));
    let mut caller = Caller::connect(weir.http());
    // 64 KiB: far beyond what rumqttc's own client sends by default.
    assert_eq!(caller.send(TOPIC, &[b'x'; 64 * 1024]).status, 200);
    eventually("the PUBACK", || (weir.metric("weir_delivered_total") > 0.5).then_some(()));
    assert!(weir.log().contains("\"version\":\"V5\""), "{}", weir.log());
}

#[test]
fn a_backlog_at_its_cap_is_an_overflow_that_costs_nothing_and_passes() {
    let mut broker = servers::mosquitto("max_inflight_messages 0\nmax_queued_messages 0");
    let listener = Listener::start(broker.address());
    broker.kill();
    let at = broker.address();
    let weir = Weir::start_with(&format!(
        "journal = {{ segment_bytes = \"8 MiB\" }}\nlimits = {{ instance_qps = 100000, burst = \
         100000 }}\ndelivery = {{ kind = \"mqtt\", backlog_max = \"64 MiB\", mqtt = {{ url = \
         \"mqtt://{at}\" }} }}"
    ));
    let mut caller = Caller::connect(weir.http());
    let mut sent = vec![];
    let overflow = loop {
        let payload = format!("{:060000}", sent.len());
        let answer = caller.send(TOPIC, payload.as_bytes());
        if answer.status != 200 {
            break answer;
        }
        sent.push((TOPIC.to_owned(), payload));
        assert!(sent.len() < 3_000, "no overflow");
    };
    assert_eq!(overflow.body["Code"], "SystemOverFlow", "{overflow:?}");
    assert!(weir.is_ready());
    assert!((weir.billed() - count(sent.len())).abs() < 0.5, "{} billed", weir.billed());
    broker.restart();
    eventually("room", || {
        let payload = format!("{:060000}", sent.len());
        let taken = caller.send(TOPIC, payload.as_bytes()).status == 200;
        taken.then(|| sent.push((TOPIC.to_owned(), payload)))
    });
    listener.has_all_in_order(&by_topic(&sent));
    nothing_waits(&weir);
    assert!((weir.billed() - count(sent.len())).abs() < 0.5, "{} billed", weir.billed());
}
