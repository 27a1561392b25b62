//! Callers at a rate, and somebody who asks `/readyz` meanwhile.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use super::support::caller::Caller;
use super::support::{INSTANCE, TOPIC, Weir, now};

const CALLERS: u32 = 4;
const TOPICS_A_CALLER: u32 = 5;

/// What was sent and acknowledged while `meanwhile` ran: topic at the broker -> payloads in order.
///
/// Every call is answered with 200, and `/readyz` always says 200.
pub(crate) fn send_during(
    weir: &Weir,
    per_second: u32,
    meanwhile: impl FnOnce(),
) -> HashMap<String, Vec<String>> {
    let ended = AtomicBool::new(false);
    let asked = AtomicU64::new(0);
    let sent = std::thread::scope(|scope| {
        let callers: Vec<_> = (0..CALLERS)
            .map(|caller| {
                let ended = &ended;
                scope.spawn(move || call(weir, caller, per_second / CALLERS, ended))
            })
            .collect();
        scope.spawn(|| {
            while !ended.load(Ordering::Relaxed) {
                assert!(weir.is_ready(), "/readyz is off\n{}", weir.log());
                asked.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
        });
        meanwhile();
        ended.store(true, Ordering::Relaxed);
        callers.into_iter().flat_map(|caller| caller.join().expect("a caller")).collect()
    });
    assert!(asked.load(Ordering::Relaxed) > 0);
    sent
}

fn call(
    weir: &Weir,
    caller: u32,
    per_second: u32,
    ended: &AtomicBool,
) -> HashMap<String, Vec<String>> {
    let began = now();
    let mut connection = Caller::connect(weir.http());
    let mut sent: HashMap<String, Vec<String>> = HashMap::new();
    let mut number: u32 = 0;
    while !ended.load(Ordering::Relaxed) {
        let topic = format!("{TOPIC}/{caller}-{}", number % TOPICS_A_CALLER);
        let payload = format!("{caller}-{number}");
        let answer = connection.send(&topic, payload.as_bytes());
        assert_eq!(answer.status, 200, "{answer:?}\n{}", weir.log());
        sent.entry(format!("{INSTANCE}/{topic}")).or_default().push(payload);
        number += 1;
        let due = began + Duration::from_secs(1) * number / per_second;
        std::thread::sleep(due.saturating_duration_since(now()));
    }
    sent
}
