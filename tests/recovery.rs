//! What a killed weir still knows when it is started again.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "a shared harness: other tests use the rest")]
mod support;

use std::net::TcpListener;

use support::caller::Caller;
use support::{Device, Subscriber, TOPIC, Weir, eventually};

#[test]
fn a_signed_request_is_good_once_across_a_crash() {
    let mut weir = Weir::start();
    let mut caller = Caller::connect(weir.http());
    let signed = caller.sign(TOPIC, b"once");
    assert_eq!(caller.try_send_signed(&signed).expect("an answer").status, 200);
    weir.kill();
    weir.restart();
    let mut caller = Caller::connect(weir.http());
    let replayed = caller.try_send_signed(&signed).expect("an answer");
    assert_eq!(replayed.body["Code"], "SignatureNonceUsed", "{replayed:?}");
    assert!((weir.billed() - 1.0).abs() < 0.5, "{}", weir.billed());
}

#[test]
fn a_throttled_request_may_be_sent_again_as_it_is() {
    let weir = Weir::start_with("limits = { instance_qps = 1, burst = 1 }");
    let mut caller = Caller::connect(weir.http());
    let signed = eventually("a refusal", || {
        let signed = caller.sign(TOPIC, b"again");
        let answer = caller.try_send_signed(&signed).expect("an answer");
        (answer.status == 429).then_some(signed)
    });
    let admitted = eventually("a token to come back", || {
        let answer = caller.try_send_signed(&signed).expect("an answer");
        (answer.status == 200).then_some(answer)
    });
    assert!(admitted.body["MsgId"].is_string(), "{admitted:?}");
}

#[test]
fn a_changed_shard_count_keeps_every_message_and_its_bill() {
    let mut weir = Weir::start_with("shard = { count = 3 }");
    let mut caller = Caller::connect(weir.http());
    for number in 0..50 {
        assert_eq!(caller.send(&format!("{TOPIC}/{number}"), b"x").status, 200);
    }
    weir.kill();
    let file = std::fs::read_to_string(weir.config_file()).expect("the file");
    assert!(file.contains("count = 3"), "{file}");
    std::fs::write(weir.config_file(), file.replace("count = 3", "count = 2")).expect("written");
    weir.restart();
    assert!((weir.billed() - 50.0).abs() < 0.5, "{}", weir.billed());
    let device = Device::new("recovery", &format!("{TOPIC}/#"));
    let subscriber = Subscriber::start(&weir, &device);
    let mut caller = Caller::connect(weir.http());
    assert_eq!(caller.send(&format!("{TOPIC}/new"), b"new").status, 200);
    // What the killed one left waits for devices to come back, and goes before what is new.
    let last = eventually("the new message", || {
        subscriber.received(1).pop().filter(|message| message.payload == b"new")
    });
    assert_eq!(last.topic, format!("{TOPIC}/new"));
    eventually("an empty backlog", || {
        (weir.metric("weir_delivery_backlog_messages") < 0.5).then_some(())
    });
    assert_eq!(weir.terminate(), Some(0), "{}", weir.log());
    weir.restart();
    assert!((weir.billed() - 51.0).abs() < 0.5, "{}", weir.billed());
}

#[test]
fn the_first_look_at_a_restarted_weir_shows_what_waits() {
    // Nobody accepts on it: what is admitted waits.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let url = format!("mqtt://{}", silent.local_addr().expect("its address"));
    let kind = format!("delivery = {{ kind = \"mqtt\", mqtt = {{ url = \"{url}\" }} }}");
    let mut weir = Weir::start_with(&kind);
    let mut caller = Caller::connect(weir.http());
    for _ in 0..7 {
        assert_eq!(caller.send(TOPIC, b"waits").status, 200);
    }
    weir.kill();
    weir.restart();
    let backlog = weir.metric("weir_delivery_backlog_messages");
    assert!((backlog - 7.0).abs() < 0.5, "{backlog}");
}
