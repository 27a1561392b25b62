//! Dead letters through the real binary: listed, requeued beside a running weir and without one,
//! and through a kill -9.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, reason = "a shared harness: other tests use the rest")]
mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::{Command, Output};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use support::{Device, INSTANCE, Subscriber, TOPIC, Weir, eventually};

const OTHER: &str = "post-cn-elsewhere1";
/// 2026-11-21T00:00:00Z.
const DAY_MS: u64 = 1_795_219_200_000;

fn folder(weir: &Weir) -> PathBuf {
    weir.config_file().parent().expect("a folder").join("data/dead-letters")
}

fn id(number: usize) -> String {
    format!("{number:032X}")
}

/// Lays letters `numbers` down as a weir of that day would have.
fn lay(weir: &Weir, instance: &str, numbers: std::ops::Range<usize>) {
    let mut text = String::new();
    for number in numbers {
        let letter = json!({
            "msg_id": id(number), "instance_id": instance, "topic": TOPIC,
            "admitted_at_ms": 5, "given_up_at_ms": DAY_MS + number as u64,
            "reason": "reason code 0x87", "payload_base64": STANDARD.encode(number.to_string()),
        });
        writeln!(text, "{letter}").expect("a String takes it");
    }
    let path = folder(weir).join("2026-11-21.ndjson");
    let before = std::fs::read_to_string(&path).unwrap_or_default();
    std::fs::write(&path, before + &text).expect("the letters are written");
}

fn run(weir: &Weir, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_weir"));
    command.arg("--config").arg(weir.config_file()).args(["journal", "dead-letters"]);
    command.args(arguments).output().expect("weir runs")
}

fn out(weir: &Weir, arguments: &[&str]) -> String {
    let ran = run(weir, arguments);
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    String::from_utf8(ran.stdout).expect("text")
}

fn listed(weir: &Weir, arguments: &[&str]) -> Vec<String> {
    let printed = out(weir, &[&["--format", "json"], arguments].concat());
    let letters: Vec<Value> = serde_json::from_str(&printed).expect("an array");
    letters.iter().map(|it| it["msg_id"].as_str().expect("an id").to_owned()).collect()
}

fn ids(numbers: impl IntoIterator<Item = usize>) -> Vec<String> {
    numbers.into_iter().map(id).collect()
}

fn settled(weir: &Weir, outcome: &str) -> f64 {
    weir.metric(&format!("weir_dead_letters_requeued_total{{outcome=\"{outcome}\"}}"))
}

#[test]
fn letters_are_listed_by_instance_time_and_reason() {
    let weir = Weir::start();
    lay(&weir, INSTANCE, 1..4);
    lay(&weir, OTHER, 4..6);
    assert_eq!(listed(&weir, &[]), ids(1..6));
    assert_eq!(listed(&weir, &["--instance", OTHER]), ids(4..6));
    assert_eq!(listed(&weir, &["--day", "2026-11-21", "--reason", "0x87"]), ids(1..6));
    for nothing in [["--day", "2026-11-22"], ["--reason", "waited"], ["--until", "2026-11-21"]] {
        assert_eq!(listed(&weir, &nothing), ids([]), "{nothing:?}");
    }
    let since = ["--since", "2026-11-21T00:00:00.003Z", "--until", "2026-11-21T00:00:00.005Z"];
    assert_eq!(listed(&weir, &since), ids(3..5));
    let table = out(&weir, &[]);
    assert!(table.contains(&id(5)) && table.ends_with("5 dead letters\n"), "{table}");
    assert!(!table.contains(&STANDARD.encode("5")), "a payload is shown when it is asked for");
    let letters = out(&weir, &["--format", "json", "--payload", "--instance", OTHER]);
    assert!(letters.contains(&STANDARD.encode("5")), "{letters}");
    let refused = run(&weir, &["--day", "yesterday"]);
    assert_eq!(refused.status.code(), Some(2));
}

#[test]
fn a_requeued_letter_reaches_its_device_in_order_and_is_not_billed() {
    let weir = Weir::start();
    let device = Subscriber::start(&weir, &Device::new("receiver", "TopicA/#"));
    lay(&weir, INSTANCE, 1..40);
    lay(&weir, OTHER, 40..42);
    let unknown = run(&weir, &["requeue", "--msg-id", &id(3), &id(77)]);
    assert_eq!(unknown.status.code(), Some(1));
    let said = String::from_utf8_lossy(&unknown.stderr).into_owned();
    assert!(said.contains(&id(77)) && said.contains("nothing is requeued"), "{said}");
    let said = out(&weir, &["requeue", "--msg-id", &id(9), &id(7)]);
    assert!(said.starts_with("2 letters are requeued"), "{said}");
    let payloads = |count| -> Vec<String> {
        let text = |it: support::device::Received| String::from_utf8(it.payload).expect("text");
        device.received(count).into_iter().map(text).collect()
    };
    assert_eq!(payloads(2), ["7", "9"], "in the order in which they died");
    out(&weir, &["requeue", "--all", "--instance", INSTANCE]);
    let rest = (1..40).filter(|number| ![7, 9].contains(number));
    let expected = [7, 9].into_iter().chain(rest).map(|number: usize| number.to_string());
    assert_eq!(payloads(39), expected.collect::<Vec<_>>());
    assert!(weir.billed() < 0.5, "{}", weir.billed());
    assert_eq!(listed(&weir, &[]), ids(40..42));
    out(&weir, &["requeue", "--all"]);
    eventually("letters of an unknown instance to die again", || {
        (settled(&weir, "dead") > 1.5).then_some(())
    });
    assert_eq!(listed(&weir, &["--reason", "not configured"]), ids(40..42));
    assert!((settled(&weir, "delivered") - 39.0).abs() < 0.5);
}

#[test]
fn what_is_requeued_while_weir_is_stopped_is_delivered_after_its_start() {
    let mut weir = Weir::start();
    lay(&weir, INSTANCE, 1..4);
    assert_eq!(weir.terminate(), Some(0), "{}", weir.log());
    out(&weir, &["requeue", "--all"]);
    let table = out(&weir, &[]);
    assert!(table.ends_with("0 dead letters; 3 requeued and not delivered yet\n"), "{table}");
    weir.restart();
    // Devices have delivery.reconnect_grace to come back.
    let device = Subscriber::start(&weir, &Device::new("receiver", "TopicA/#"));
    assert_eq!(device.received(3).len(), 3);
}

/// MsgIds that are noted as settled.
fn noted(weir: &Weir) -> BTreeSet<String> {
    let notes = std::fs::read_to_string(folder(weir).join("2026-11-21.requeued"));
    let notes = notes.unwrap_or_default();
    let ids = notes.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    ids.map(|note| note["msg_id"].as_str().expect("an id").to_owned()).collect()
}

#[test]
fn a_kill_in_the_middle_of_it_loses_no_letter() {
    const LETTERS: usize = 3_000;
    let mut weir = Weir::start_with("delivery = { reconnect_grace = \"3s\" }");
    let first = Subscriber::start(&weir, &Device::new("receiver", "TopicA/#"));
    lay(&weir, INSTANCE, 1..LETTERS + 1);
    out(&weir, &["requeue", "--all"]);
    first.received(20);
    weir.kill();
    let noted = noted(&weir);
    assert!(noted.len() < LETTERS, "killed too late to show anything");
    let table = out(&weir, &[]);
    let left = LETTERS - noted.len();
    assert!(table.starts_with("given up") && table.contains("0 dead letters; "), "{table}");
    weir.restart();
    let second = Subscriber::start(&weir, &Device::new("receiver", "TopicA/#"));
    let received = second.received(left);
    let numbers: Vec<usize> = received
        .iter()
        .map(|it| String::from_utf8_lossy(&it.payload).parse().expect("a number"))
        .collect();
    let expected: Vec<usize> =
        (1..=LETTERS).filter(|number| !noted.contains(&id(*number))).collect();
    assert_eq!(numbers, expected, "what was not noted goes, once and in order");
    eventually("everything to be settled", || {
        out(&weir, &[]).ends_with("\n0 dead letters\n").then_some(())
    });
}

/// What a command prints that root runs: whoever runs the tests, or by a sudo that asks nothing.
fn as_root(program: &str, arguments: &[&str]) -> String {
    let is_root = rustix::process::geteuid().is_root();
    let mut command = Command::new(if is_root { program } else { "sudo" });
    if !is_root {
        command.args(["-n", program]);
    }
    let ran = command.args(arguments).output().expect("it runs: install sudo, or be root");
    let why = String::from_utf8_lossy(&ran.stderr);
    assert!(ran.status.success(), "{program} {arguments:?} as root, or by `sudo -n`: {why}");
    String::from_utf8(ran.stdout).expect("text")
}

#[test]
fn what_root_requeues_belongs_to_weirs_user_behind_a_folder_that_is_closed_to_it() {
    let mut weir = Weir::start();
    lay(&weir, INSTANCE, 1..4);
    assert_eq!(weir.terminate(), Some(0), "{}", weir.log());
    let data = folder(&weir).parent().expect("the data directory").display().to_string();
    let config = weir.config_file().display().to_string();
    as_root("chown", &["-R", "4711:4712", &data]);
    let requeue = ["--config", &config, "journal", "dead-letters", "requeue", "--all"];
    let said = as_root(env!("CARGO_BIN_EXE_weir"), &requeue);
    assert!(said.starts_with("3 letters are requeued"), "{said}");
    let strange = ["!", "(", "-uid", "4711", "-gid", "4712", ")"];
    assert_eq!(as_root("find", &[&[data.as_str()], &strange[..]].concat()), "");
    // From here on it is the tests' again.
    let user = rustix::process::geteuid().as_raw().to_string();
    as_root("chown", &["-R", &user, &data]);
    let table = out(&weir, &[]);
    assert!(table.ends_with("0 dead letters; 3 requeued and not delivered yet\n"), "{table}");
}
