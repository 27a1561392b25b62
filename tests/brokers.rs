//! Delivery to brokers people run: mosquitto, NATS, RabbitMQ and rmqtt, and what happens to it when
//! they go away.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[path = "brokers/listener.rs"]
mod listener;
#[path = "brokers/servers.rs"]
mod servers;
#[expect(dead_code, unused_imports, reason = "a shared harness: other tests use the rest")]
mod support;
#[path = "brokers/traffic.rs"]
mod traffic;

use std::net::SocketAddr;
use std::time::Duration;

use listener::Listener;
use servers::Server;
use support::{Weir, eventually, now};
use traffic::send_during;

/// How long a broker may take to start, or to hand on what it has kept: RabbitMQ needs 10 s on a
/// quiet machine.
const BROKER_PATIENCE: Duration = Duration::from_secs(120);
const RATE: u32 = 400;
/// How long messages flow before a broker is killed, and after it is back.
const FLOW: Duration = Duration::from_secs(2);
/// How long a broker is away.
const OUTAGE: Duration = Duration::from_secs(3);

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
        "delivery = {{ kind = \"mqtt\", mqtt = {{ url = \"mqtt://{broker}\", {settings} }} }}"
    ))
}

fn nothing_waits(weir: &Weir) {
    eventually("an empty backlog", || {
        (weir.metric("weir_delivery_backlog_messages") < 0.5).then_some(())
    });
}

/// Messages flow, the broker is killed and comes back: nobody who sends is told, everything arrives.
fn survives_an_outage(mut broker: Server, version: &str) {
    let listener = Listener::start(broker.address());
    let mut weir = weir_to(broker.address(), "keep_alive = \"5s\"");
    let sent = send_during(&weir, RATE, || {
        std::thread::sleep(FLOW);
        broker.kill();
        std::thread::sleep(OUTAGE);
        assert!(weir.metric("weir_delivery_backlog_messages") > 1.0);
        broker.restart();
        std::thread::sleep(FLOW);
    });
    listener.has_all_in_order(&sent);
    nothing_waits(&weir);
    let log = weir.log();
    assert!(log.contains(&format!("\"version\":\"{version}\"")), "{log}");
    assert!(weir.metric("weir_delivery_broker_disconnects_total") > 0.5);
    let delivered: usize = sent.values().map(Vec::len).sum();
    assert!((weir.metric("weir_delivered_total") - delivered as f64).abs() < 0.5);
    assert!((weir.billed() - delivered as f64).abs() < 0.5);
    assert!(weir.metric("weir_dead_letters_total") < 0.5);
    assert_eq!(weir.terminate(), Some(0), "{}", weir.log());
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
