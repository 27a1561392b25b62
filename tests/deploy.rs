//! What `deploy/` ships, as it stands: real haproxy and nginx before real replicas, and files that
//! name only what there is.
//!
//! A test that lacks a balancer fails and says so: `make tools` brings them.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, unused_imports, reason = "a shared harness: other tests use the rest")]
mod support;

#[path = "deploy/balancer.rs"]
mod balancer;
#[path = "deploy/files.rs"]
mod files;
#[path = "deploy/replica.rs"]
mod replica;
#[path = "deploy/traffic.rs"]
mod traffic;

use std::io::Write;
use std::net::SocketAddr;
use std::process::Command;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use balancer::Balancer;
use replica::{Replica, turn};
use support::caller::Caller;
use support::{INSTANCE, KEY_ID, Lines, SECRET, TOPIC, eventually, sdk_file, start_tool};
use traffic::{CALLERS, Keep, Traffic};

/// Largest payload: 64 KiB after decoding. All ones is all `/` in Base64, `%2F` in a query.
const PAYLOAD_BYTES_MAX: usize = 64 * 1024;
/// Calls that are replayed, each to the replica its nonce leads to.
const REPLAYS: usize = 24;
/// Calls that come back between two events of a test.
const CALM: usize = 200;

#[test]
fn the_official_sdks_largest_payload_passes_through_haproxy() {
    let _turn = turn();
    let replicas = Replica::start_all();
    passes_the_largest_payload(&Balancer::haproxy(&replicas), &replicas);
}

#[test]
fn the_official_sdks_largest_payload_passes_through_nginx() {
    let _turn = turn();
    let replicas = Replica::start_all();
    passes_the_largest_payload(&Balancer::nginx(&replicas), &replicas);
}

#[test]
fn haproxy_loses_no_call_by_a_drain_and_only_those_in_flight_by_a_kill() {
    let _turn = turn();
    let mut replicas = Replica::start_all();
    let haproxy = Balancer::haproxy(&replicas);
    let traffic = Traffic::start(haproxy.address(), Keep::Open);
    traffic.answered(CALM);
    for replica in &mut replicas {
        assert_eq!(replica.weir.terminate(), Some(0), "{}", replica.weir.log());
        traffic.answered(CALM);
        replica.weir.restart();
        haproxy.wait_until_up(3);
    }
    let failed = traffic.failures();
    assert!(failed.is_empty(), "lost by drains: {failed:?}\n{}", haproxy.log());
    replicas[0].weir.kill();
    traffic.answered(CALM);
    replicas[0].weir.restart();
    haproxy.wait_until_up(3);
    is_billed(&replicas, &traffic.stop());
}

#[test]
fn nginx_loses_no_call_by_a_drain() {
    let _turn = turn();
    let mut replicas = Replica::start_all();
    let nginx = Balancer::nginx(&replicas);
    let traffic = Traffic::start(nginx.address(), Keep::No);
    traffic.answered(CALM);
    assert_eq!(replicas[0].weir.terminate(), Some(0), "{}", replicas[0].weir.log());
    traffic.answered(CALM);
    replicas[0].weir.restart();
    nginx.wait_until_up(3);
    let sent = traffic.stop();
    assert!(sent.failures.is_empty(), "{:?}\n{}", sent.failures, nginx.log());
    is_billed(&replicas, &sent);
}

/// Every acknowledged call is billed, by one replica; and nothing else but what has failed may be.
fn is_billed(replicas: &[Replica], sent: &traffic::Sent) {
    let (ok, failed) = (sent.accepted, sent.failures.len());
    assert!(failed <= CALLERS, "more than were in flight: {:?}", sent.failures);
    let billed: f64 = replicas.iter().map(|replica| replica.weir.billed()).sum();
    let most = f64::from(u32::try_from(ok + failed).expect("few"));
    let least = f64::from(u32::try_from(ok).expect("few"));
    assert!((least..=most).contains(&billed), "{billed} billed, {ok} accepted, {failed} failed");
}

#[test]
fn a_replayed_call_is_refused_behind_haproxy() {
    let _turn = turn();
    let replicas = Replica::start_all();
    let haproxy = Balancer::haproxy(&replicas);
    refuses_replays(&haproxy, &replicas, traffic::v3);
    refuses_replays(&haproxy, &replicas, traffic::v1_query);
    refuses_replays(&haproxy, &replicas, traffic::v1_form);
}

#[test]
fn a_replayed_call_is_refused_behind_nginx() {
    let _turn = turn();
    let replicas = Replica::start_all();
    let nginx = Balancer::nginx(&replicas);
    refuses_replays(&nginx, &replicas, traffic::v3);
    refuses_replays(&nginx, &replicas, traffic::v1_query);
}

#[test]
fn without_a_replica_haproxy_answers_in_a_form_sdks_can_read() {
    let _turn = turn();
    let mut replicas = Replica::start_all();
    let haproxy = Balancer::haproxy(&replicas);
    fails_legibly(&haproxy, &mut replicas);
}

#[test]
fn without_a_replica_nginx_answers_in_a_form_sdks_can_read() {
    let _turn = turn();
    let mut replicas = Replica::start_all();
    let nginx = Balancer::nginx(&replicas);
    fails_legibly(&nginx, &mut replicas);
}

fn passes_the_largest_payload(balancer: &Balancer, replicas: &[Replica]) {
    let mut command = Command::new(sdk_file(".venv/tea/bin/python"));
    let mut sdk = start_tool(command.arg(sdk_file("tea.py")).arg("v3"));
    let mut calls = sdk.stdin.take().expect("it is piped");
    let answers = Lines::of("the SDK", sdk.stdout.take().expect("it is piped"));
    let errors = Lines::of("the SDK", sdk.stderr.take().expect("it is piped"));
    let _sdk = support::Owned(sdk);
    let sizes = [1, PAYLOAD_BYTES_MAX, 100, PAYLOAD_BYTES_MAX];
    for (index, bytes) in sizes.into_iter().enumerate() {
        let call = json!({
            "endpoint": balancer.address().to_string(),
            "key": KEY_ID,
            "secret": SECRET,
            "instance": INSTANCE,
            "topic": TOPIC,
            "payload": STANDARD.encode(vec![0xff; bytes]),
        });
        // One that has ended shows why below.
        let _ = writeln!(calls, "{call}");
        let answer = answers
            .wait_for("its answer", |lines| lines.get(index).cloned())
            .unwrap_or_else(|why| panic!("{why}{}`make tools` installs SDKs", errors.text()));
        let answer: Value = serde_json::from_str(&answer).expect("a line of JSON");
        let id = answer["msg_id"].as_str().unwrap_or_default();
        assert_eq!(id.len(), 32, "{bytes} bytes: {answer}\n{}", balancer.log());
    }
    let billed: f64 = replicas.iter().map(|replica| replica.weir.billed()).sum();
    assert!((billed - 4.0).abs() < 0.5, "{billed} billed");
}

fn refuses_replays(
    balancer: &Balancer,
    replicas: &[Replica],
    sign: impl Fn(SocketAddr) -> Vec<u8>,
) {
    let mut caller = Caller::connect(balancer.address());
    let before: Vec<f64> = replicas.iter().map(|replica| replica.weir.billed()).collect();
    for _ in 0..REPLAYS {
        let request = sign(balancer.address());
        let first = caller.try_send_signed(&request).expect("an answer");
        assert_eq!(first.status, 200, "{first:?}\n{}", balancer.log());
        let second = caller.try_send_signed(&request).expect("an answer");
        assert_eq!(second.body["Code"], "SignatureNonceUsed", "{second:?}");
    }
    for (replica, before) in replicas.iter().zip(before) {
        assert!(replica.weir.billed() > before, "one replica had no call of {REPLAYS}");
    }
}

fn fails_legibly(balancer: &Balancer, replicas: &mut [Replica]) {
    replicas.iter_mut().for_each(|replica| replica.weir.kill());
    let answer = eventually("an answer that no replica is there", || {
        let mut caller = Caller::connect(balancer.address());
        let answer = caller.try_send(TOPIC, b"lost").expect("JSON, as weir itself answers");
        (answer.body["Code"] == "ServiceUnavailable").then_some(answer)
    });
    assert!(answer.headers.contains_key("retry-after"), "{answer:?}");
    assert!(!answer.body["RequestId"].as_str().unwrap_or_default().is_empty(), "{answer:?}");
}
