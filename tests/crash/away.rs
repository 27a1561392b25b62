//! A device that is away while weir is killed.

use std::collections::HashSet;

use crate::load::{Client, Outcome};
use crate::subscriber::{Session, Subscriber};
use crate::weir::{TOPIC, Weir, command, configure};
use crate::{Dice, eventually, number};

const MESSAGES: u32 = 60;

/// Sends until the number is reached or weir dies in the middle; the payloads acknowledged.
fn send(weir: &Weir, numbers: impl Iterator<Item = u32>) -> Vec<String> {
    let mut client = Client::connect(weir.at.http).expect("it listens");
    numbers
        .map(|number| {
            let payload = format!("{number:04}");
            let outcome = client.call(&format!("{TOPIC}/away"), payload.as_bytes());
            assert!(matches!(outcome, Outcome::Ok(_)), "{payload}: {outcome:?}");
            payload
        })
        .collect()
}

#[test]
fn sixty_messages_to_an_offline_device_with_a_kill_9_in_between_all_arrive_in_order() {
    let seed = number("WEIR_CRASH_SEED").unwrap_or_else(|| u64::from(std::process::id()));
    println!("WEIR_CRASH_SEED={seed}");
    let mut dice = Dice(seed);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = configure(folder.path(), &folder.path().join("data"), 2, "");
    let start = || {
        Weir::start(command(&config, ""))
            .unwrap_or_else(|(status, log)| panic!("WEIR_CRASH_SEED={seed}: {status}\n{log}"))
    };
    let weir = start();
    Subscriber::start(weir.at.devices, Session::Stored).finish();
    let killed_at = 1 + u32::try_from(dice.below(u64::from(MESSAGES) - 1)).expect("it is small");
    let mut sent = send(&weir, 0..killed_at);
    // At once, and later when the cursors may have been saved.
    std::thread::sleep(std::time::Duration::from_millis(dice.below(3) * 700));
    weir.kill();
    let weir = start();
    sent.extend(send(&weir, killed_at..MESSAGES));
    weir.kill();
    let weir = start();
    // It does not subscribe again: what it is given it was subscribed to before.
    let keeper = Subscriber::come_back(weir.at.devices);
    eventually("every message", || sent.iter().all(|payload| keeper.has(payload)).then_some(()));
    let mut first = HashSet::new();
    let given = keeper.finish();
    let order: Vec<&String> =
        given.iter().map(|(_, payload)| payload).filter(|payload| first.insert(*payload)).collect();
    assert_eq!(order, sent.iter().collect::<Vec<_>>(), "WEIR_CRASH_SEED={seed}");
}

#[test]
fn a_p2p_message_reaches_its_stored_session_after_a_kill_9() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let config = configure(folder.path(), &folder.path().join("data"), 1, "");
    let start = || {
        Weir::start(command(&config, "")).unwrap_or_else(|(status, log)| panic!("{status}\n{log}"))
    };
    let weir = start();
    Subscriber::start(weir.at.devices, Session::Stored).finish();
    weir.kill();
    let weir = start();
    let mut client = Client::connect(weir.at.http).expect("it listens");
    let topic = format!("{TOPIC}/p2p/crash-keeper");
    let outcome = client.call(&topic, b"for you");
    assert!(matches!(outcome, Outcome::Ok(_)), "{outcome:?}");
    weir.kill();
    let weir = start();
    let keeper = Subscriber::come_back(weir.at.devices);
    eventually("the message", || keeper.has("for you").then_some(()));
    assert_eq!(keeper.finish()[0].0, topic);
}
