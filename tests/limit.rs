//! The limit as many callers meet it at once, and what it costs a refused one: nothing.

#![expect(clippy::expect_used, reason = "a test fails by panicking")]

#[expect(dead_code, unused_imports, reason = "a shared harness: other tests use the rest")]
mod support;

use support::caller::{Answer, Caller};
use support::{TOPIC, Weir};

const THREADS: usize = 16;
const SENDS: usize = 2_600;
const QPS: f64 = 1_000.0;
const BURST: f64 = 100.0;
/// Of what the bucket holds and refills, at least this share is given out. On a quiet machine it is
/// over 0.97; callers that are kept off the processors for longer than a burst ask too late for the
/// rest. That the bucket itself gives out every token is tested on a manual clock.
const USED_MIN: f64 = 0.75;

#[test]
fn callers_together_get_the_burst_and_the_rate_and_are_billed_for_that() {
    let mut weir = Weir::start();
    let began = support::now();
    let answers: Vec<Answer> = std::thread::scope(|scope| {
        let send = |_| {
            scope.spawn(|| {
                let mut caller = Caller::connect(weir.http());
                (0..SENDS.div_ceil(THREADS)).map(|_| caller.send(TOPIC, b"x")).collect::<Vec<_>>()
            })
        };
        let threads: Vec<_> = (0..THREADS).map(send).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("a caller")).collect()
    });
    let allowed = BURST + QPS * began.elapsed().as_secs_f64();
    let (admitted, refused): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|answer| answer.status == 200);
    let count = f64::from(u32::try_from(admitted.len()).expect("few"));
    assert!(count <= allowed, "{count} admitted, {allowed} allowed");
    let offered = f64::from(u32::try_from(admitted.len() + refused.len()).expect("few"));
    let used = count / allowed.min(offered);
    assert!(used >= USED_MIN, "{count} admitted of {allowed} allowed and {offered} offered");
    admitted.iter().for_each(tells_the_quota);
    refused.iter().for_each(tells_when_to_come_back);
    assert!((weir.billed() - count).abs() < 0.5, "{} billed, {count} admitted", weir.billed());
    let throttled = weir.metric("weir_requests_total{code=\"Throttling.User\"}");
    assert!((throttled - (offered - count)).abs() < 0.5, "every refusal is counted");
    assert_eq!(weir.terminate(), Some(0), "{}", weir.log());
    weir.restart();
    assert!((weir.billed() - count).abs() < 0.5, "the counter is unchanged by a restart");
}

fn tells_the_quota(answer: &Answer) {
    assert_eq!(answer.headers["ratelimit-policy"], "\"instance\";q=1000;w=1", "{answer:?}");
    assert!(answer.headers["ratelimit"].starts_with("\"instance\";r="), "{answer:?}");
}

fn tells_when_to_come_back(answer: &Answer) {
    assert_eq!(answer.status, 429, "{answer:?}");
    assert_eq!(answer.body["Code"], "Throttling.User", "{answer:?}");
    let number = |name: &str| answer.headers[name].parse::<u64>().expect("a number");
    assert!(number("retry-after") >= 1 && number("x-acs-retry-after") >= 1, "{answer:?}");
    for header in ["x-ratelimit-user-api", "x-ratelimit-user"] {
        let elements: Vec<_> = answer.headers[header].split(',').collect();
        assert_eq!(elements[..2], ["Limit:1000", "Remain:0"], "{answer:?}");
        assert!(elements[2].starts_with("TimeLeft:") && elements[3].starts_with("Reset:"));
    }
}
