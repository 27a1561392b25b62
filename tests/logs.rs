//! What weir logs when it is asked to log everything.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "a shared harness: other tests use the rest")]
mod support;

use support::caller::Caller;
use support::device::Paho;
use support::{Device, KEY_ID, SECRET, Subscriber, TOPIC, Weir, eventually};

const PAYLOAD: &str = "a-payload-nobody-else-may-read";

#[test]
fn no_payload_secret_or_signature_is_logged_at_any_level() {
    let mut weir = Weir::start_with_env(
        "delivery = { embedded = { websocket_listen = \"127.0.0.1:0\" } }",
        &[("RUST_LOG", "trace,rmqtt::v3=trace,hyper=trace,h2=trace,tungstenite=trace")],
    );
    let device = Device::new("logs", TOPIC);
    let subscriber = Subscriber::start(&weir, &device);
    let framed = Device::new("framed", TOPIC);
    let transport = serde_json::json!({ "transport": "websockets" });
    let browser = Paho::start_with(weir.websocket(), &framed, &transport);
    let mut caller = Caller::connect(weir.http());
    assert_eq!(caller.send(TOPIC, PAYLOAD.as_bytes()).status, 200);
    assert_eq!(caller.send("Unknown", PAYLOAD.as_bytes()).status, 400);
    subscriber.received(1);
    browser.received(1);
    eventually("a log line of the delivery", || weir.log().contains("delivered").then_some(()));
    assert_eq!(weir.terminate(), Some(0));
    let log = weir.log();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, PAYLOAD);
    let [password, framed] = [&device, &framed].map(|device| {
        let secret = weir::delivery::embedded::Secret::new(SECRET.into());
        weir::delivery::embedded::device_password(&device.client_id, &secret)
    });
    for hidden in [PAYLOAD, &encoded, SECRET, "Signature=", &password, &framed] {
        for form in [hidden.to_owned(), hex::encode(hidden), hex::encode_upper(hidden)] {
            let line = log.lines().find(|line| line.contains(&form));
            assert_eq!(line, None, "{hidden} is logged as {form}; {KEY_ID} may be");
        }
    }
}
